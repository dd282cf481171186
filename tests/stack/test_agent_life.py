"""Agents that die, come back, forget, or were never there."""

import asyncio
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from turns_server import Server

from . import alive


async def pid_of(chat: Any) -> int:
    """The process id of a session's agent."""
    turn = await chat.submit("/pid")
    await chat.until_kind("turn_ended", id=turn)
    return int(chat.text(turn))


async def test_the_agent_session_id_is_in_the_database_and_beside_the_chat_before_the_first_word(drive: Any) -> None:
    chat = await drive.open("notes.chat")
    await chat.run("/text hi")
    summary = await chat.summary()
    saved = json.loads((drive.root / ".notes.chat.acp.json").read_text())
    assert summary["agent_session_id"] == saved["agent_session_id"] is not None
    assert (saved["session"], saved["agent"]) == (chat.id, "demo")


async def test_a_killed_agent_ends_the_turn_and_the_next_prompt_resumes_the_conversation(
    drive: Any, tmp_path: Path
) -> None:
    chat = await drive.open()
    pid = await pid_of(chat)
    before = (await chat.summary())["agent_session_id"]
    turn = await chat.submit("/text so far\n/sleep 100")
    await chat.until_kind("message_delta", text="so far")
    os.kill(pid, signal.SIGKILL)
    ended = await chat.until_kind("turn_ended", id=turn)
    assert ended["data"]["stop_reason"] == "error"
    assert ended["data"]["error"]["reason"] == "agent_exited"
    assert (await chat.run("/text back"))["stop_reason"] == "end_turn"
    assert chat.of("agent_exited")[-1]["signal"] == signal.SIGKILL
    [_] = (tmp_path / "run").iterdir()
    assert chat.of("agent_started")[-1]["how"] == "resume"
    assert (await chat.summary())["agent_session_id"] == before


async def test_an_agent_that_crashes_in_a_turn_leaves_its_last_words_and_the_queue_goes_on(drive: Any) -> None:
    chat = await drive.open()
    first = await chat.submit("/text last words\n/exit 3")
    second = await chat.submit("/text next")
    ended = await chat.until_kind("turn_ended", id=first)
    assert "going" in ended["data"]["error"]["stderr_tail"]
    await chat.until_kind("turn_ended", id=second)
    assert chat.text(second) == "next"
    assert chat.of("agent_exited")[0]["code"] == 3


async def test_an_agent_without_resume_is_loaded_and_its_replay_is_not_logged_again(drive: Any) -> None:
    chat = await drive.open("a.chat", agent="no-resume")
    await chat.run("/text first answer")
    await chat.run("/crash")
    await chat.run("/text second answer")
    assert chat.of("agent_started")[-1]["how"] == "load"
    everything = "".join(data["text"] for data in chat.of("message_delta"))
    assert everything.count("first answer") == 1


@pytest.mark.parametrize("agent", ["no-load", "fail-load"])
async def test_a_conversation_that_cannot_be_brought_back_is_said_and_never_silently_new(
    drive: Any, agent: str
) -> None:
    chat = await drive.open("a.chat", agent=agent)
    await chat.run("/text remember the number seven")
    await chat.run("/crash")
    ended = await chat.run("/text hi")
    assert ended["stop_reason"] == "error"
    assert ended["error"]["reason"] == "session_lost"
    assert (await chat.summary())["error"]["reason"] == "session_lost"
    assert len([d for d in chat.of("agent_started") if d["how"] == "new"]) == 1
    await chat.call("POST", "start-over", body={})
    await chat.run("/echo")
    assert "remember the number seven" in chat.text("t4")
    assert (await chat.summary())["error"] is None


async def test_a_command_that_does_not_exist_is_said_at_once(drive: Any) -> None:
    chat = await drive.open("a.chat", agent="missing")
    ended = await chat.run("hi")
    assert ended["stop_reason"] == "error"
    assert "/no/such/program" in ended["error"]["message"]


async def test_an_agent_that_exits_at_its_start_is_tried_with_back_off_and_then_waits_for_a_person(drive: Any) -> None:
    chat = await drive.open("a.chat", agent="broken")
    session = await drive_session(drive, chat)
    session.host.failures = 5
    ended = await chat.run("hi")
    assert ended["error"]["reason"] == "agent_gave_up"


async def test_an_agent_that_wants_a_login_says_so(drive: Any) -> None:
    chat = await drive.open("a.chat", agent="auth")
    ended = await chat.run("hi")
    assert ended["stop_reason"] == "error"
    assert "uthentication" in ended["error"]["message"]


async def test_restart_agent_gives_a_new_process_for_the_same_conversation(drive: Any) -> None:
    chat = await drive.open()
    old = await pid_of(chat)
    before = (await chat.summary())["agent_session_id"]
    await chat.call("POST", "restart-agent", body={})
    new = await pid_of(chat)
    assert new != old and not alive(old)
    assert (await chat.summary())["agent_session_id"] == before


async def test_restart_agent_is_refused_while_a_turn_runs(drive: Any) -> None:
    chat = await drive.open()
    await chat.submit("/sleep 60")
    assert await chat.refused("POST", "restart-agent", body={}) == (409, "turn_running")


async def test_updates_before_the_answer_to_session_new_are_not_lost(drive: Any) -> None:
    chat = await drive.open("a.chat", agent="early")
    await chat.run("/text hi")
    assert chat.of("message_delta")[0]["text"] != "hi" or chat.of("commands") or chat.of("usage") or chat.of("notice")


@pytest.mark.parametrize("agent", ["demo", "modes", "models"])
async def test_modes_models_and_options_of_every_generation_are_set_and_read_back(drive: Any, agent: str) -> None:
    chat = await drive.open("a.chat", agent=agent)
    await chat.run("/text hi")
    options = {option["id"]: option for option in (await chat.summary())["config_options"]}
    assert options
    for option in options.values():
        if option["type"] != "select":
            continue
        other = next(v["value"] for v in option["options"] if v["value"] != option["currentValue"])
        summary = await chat.call("PATCH", body={"config": {option["id"]: other}})
        assert {o["id"]: o["currentValue"] for o in summary["config_options"]}[option["id"]] == other


async def test_what_was_chosen_is_applied_again_after_the_agent_came_back_with_something_else(drive: Any) -> None:
    chat = await drive.open("a.chat", agent="wrong-mode")
    await chat.run("/text hi")
    await chat.call("PATCH", body={"config": {"mode": "auto"}})
    await chat.run("/crash")
    await chat.run("/text back")
    assert {o["id"]: o["currentValue"] for o in (await chat.summary())["config_options"]}["mode"] == "auto"


async def test_a_mode_that_the_agent_changes_in_its_turn_stays_changed(drive: Any) -> None:
    chat = await drive.open()
    await chat.run("/text hi")
    await chat.call("PATCH", body={"config": {"mode": "plan"}})
    await chat.run("/mode auto")
    await chat.run("/text next")
    assert {o["id"]: o["currentValue"] for o in (await chat.summary())["config_options"]}["mode"] == "auto"


async def test_an_agent_that_only_says_yes_to_a_setting_stops_the_turn_and_the_screen_shows_the_truth(
    drive: Any,
) -> None:
    chat = await drive.open("a.chat", agent="deaf")
    await chat.run("/text hi")
    assert (await chat.refused("PATCH", body={"config": {"mode": "auto"}}))[0] == 422
    assert {o["id"]: o["currentValue"] for o in (await chat.summary())["config_options"]}["mode"] == "ask"


async def test_the_title_that_a_person_gave_is_not_replaced_by_the_agents(drive: Any) -> None:
    chat = await drive.open()
    await chat.run("/title The agent's")
    assert (await chat.summary())["title"] == "The agent's"
    await chat.call("PATCH", body={"title": "Mine"})
    await chat.run("/title The agent's again")
    assert (await chat.summary())["title"] == "Mine"


async def test_an_unknown_option_is_refused(drive: Any) -> None:
    chat = await drive.open()
    await chat.run("/text hi")
    assert (await chat.refused("PATCH", body={"config": {"warp": 9}}))[0] == 422


async def test_no_agent_is_a_child_of_the_server(drive: Any) -> None:
    import psutil

    chat = await drive.open()
    pid = await pid_of(chat)
    assert os.getpid() not in [process.pid for process in psutil.Process(pid).parents()]


async def test_the_agent_gets_nothing_of_the_servers_own_environment(
    drive: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat = await drive.open()
    await chat.run("/env")
    names = set(chat.text("t1").split())
    assert {"PATH", "HOME"} <= names
    assert not [name for name in names if name.startswith(("JUPYTER_TOKEN", "JPY", "JUPYTERHUB")) or "KEY" in name]


async def test_every_process_is_gone_soon_after_its_session_was_closed(drive: Any) -> None:
    chat = await drive.open("a.chat", agent="ignore-eof")
    pid = await pid_of(chat)
    await chat.call("DELETE")
    assert not alive(pid)


def test_a_server_that_ends_while_a_stopped_turn_still_starts_its_agent_leaves_none_behind(tmp_path: Path) -> None:
    with Server(tmp_path) as server:
        for n in range(6):  # each a little different in time
            assert server.start()
            for command in ("submit", f"t{n}", "/text hi", None), ("interrupt", None), ("stop",):
                assert server.ask(command) == [("ok", None)]
            assert server.gone() == 0
        assert not server.left(10)
    assert "unclosed" not in (tmp_path / "server.log").read_text()


async def drive_session(drive: Any, chat: Any) -> Any:
    """The session object behind a conversation: to set a counter that would take a minute to reach."""
    session = await drive.coordinator.get(chat.id)
    async with asyncio.timeout(20):
        while session.error is None:
            await chat.until_kind("session_changed")
    return session
