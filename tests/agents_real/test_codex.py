"""The real Codex through the whole stack, by codex-acp, with a stand-in for the model's service only."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from .model_api import ModelApi
from .watching import alive, mode, running, tree

pytestmark = [pytest.mark.agents, pytest.mark.timeout(120)]

FULL_ACCESS = "agent-full-access"


async def open_codex(drive: Any) -> Any:
    return await drive.open(agent="codex")


async def test_a_prompt_is_answered_as_it_is_spoken(drive: Any) -> None:
    chat = await open_codex(drive)
    ended = await chat.run("/think a while\n/say Hello from Codex")
    assert ended["stop_reason"] == "end_turn"
    assert chat.text("t1") == "Hello from Codex"
    assert "".join(thought["text"] for thought in chat.of("thought_delta", "t1")).strip() == "a while"


async def test_the_mode_of_full_access_is_set_by_config_option_and_read_back(drive: Any) -> None:
    chat = await open_codex(drive)
    await chat.run("/say hi")
    summary = await chat.summary()
    [option] = [option for option in summary["config_options"] if option["id"] == "mode"]
    assert (option["_source"], mode(summary)) == ("config", FULL_ACCESS)
    assert (await chat.refused("PATCH", body={"config": {"mode": "warp"}}))[0] == 422
    assert mode(await chat.summary()) == FULL_ACCESS
    # the person's own choice stands before that of the access
    assert mode(await chat.call("PATCH", body={"config": {"mode": "read-only"}})) == "read-only"
    await chat.run("/say hi")
    assert mode(await chat.summary()) == "read-only"


@pytest.mark.parametrize("model", ["gpt-5.5", "a-model-that-nobody-knows"])
async def test_a_command_runs_in_the_project_and_shows_its_output(drive: Any, model: str) -> None:
    chat = await open_codex(drive)
    await chat.run("/run echo to stdout; echo to stderr >&2; pwd; exit 3\n/say It ran")
    assert chat.text("t1") == "It ran"
    calls = [call for call in chat.of("tool_call") if call["kind"] == "execute"]
    terminal = next(part["terminalId"] for call in calls for part in call["content"] if part["type"] == "terminal")
    output = "".join(part["data"] for part in chat.of("terminal_output") if part["terminal_id"] == terminal)
    assert {(call["route"], call["placement"]) for call in calls} == {("agent", "project")}
    # two pipes: which is read first is chance
    assert sorted(output.splitlines()) == sorted(["to stdout", "to stderr", str(drive.root)])
    assert [(e["terminal_id"], e["exit_code"]) for e in chat.of("terminal_exited")] == [(terminal, 3)]
    assert calls[-1]["status"] in ("completed", "failed")


async def test_the_output_of_a_command_comes_while_it_runs(drive: Any) -> None:
    chat = await open_codex(drive)
    one, two = drive.root / "one", drive.root / "two"
    wait = "while ! test -e {}; do sleep 0.02; done; echo {}"
    # Codex 0.166 streams nothing of what a command says in its first moment.
    turn = await chat.submit(f"/run {wait.format(one, 'first')}; {wait.format(two, 'second')}\n/say over")
    await chat.until_kind("tool_call", status="in_progress")
    one.touch()
    await chat.until_kind("terminal_output", data="first\n")
    two.touch()
    await chat.until_kind("terminal_output", data="second\n")
    await chat.until_kind("turn_ended", id=turn)


async def test_its_terminals_are_its_own_also_where_it_is_offered_ours(drive: Any) -> None:
    chat = await drive.open(agent="codex-offered", config={"mode": FULL_ACCESS})
    await chat.run("/run echo from Codex\n/write notes.txt written by Codex\n/say over")
    assert (drive.root / "notes.txt").read_text() == "written by Codex\n"
    calls = chat.of("tool_call")
    assert {(call["kind"], call["route"], call["placement"]) for call in calls} == {
        ("execute", "agent", "host-delegated"),
        ("edit", "agent", "host-delegated"),
    }
    [terminal] = {part["terminalId"] for call in calls for part in call["content"] if part["type"] == "terminal"}
    # its own id of the call, of `_meta.terminal_info`
    assert terminal in {call["toolCallId"] for call in calls if call["kind"] == "execute"}
    assert [(e["terminal_id"], e["exit_code"]) for e in chat.of("terminal_exited")] == [(terminal, 0)]
    assert {e["terminal_id"] for e in chat.of("terminal_output")} == {terminal}


@pytest.mark.parametrize("model", ["gpt-5.5", "a-model-that-nobody-knows"])
async def test_a_change_of_a_file_is_done_and_shown(drive: Any, model: str) -> None:
    chat = await open_codex(drive)
    await chat.run("/write notes.txt written by Codex\n/say Written")
    assert (drive.root / "notes.txt").read_text() == "written by Codex\n"
    calls = [call for call in chat.of("tool_call") if call["kind"] == "edit"]
    assert calls[-1]["status"] == "completed"
    [diff] = [part for part in calls[-1]["content"] if part["type"] == "diff"]
    assert (Path(diff["path"]).name, diff["newText"]) == ("notes.txt", "written by Codex\n")


async def test_stop_in_the_middle_of_a_command_ends_the_command_and_codex_goes_on(drive: Any) -> None:
    chat = await open_codex(drive)
    pid_file = drive.root / "pid"
    turn = await chat.submit(f"/run echo $$ > {pid_file}; sleep 1000; echo survived\n/say never")
    await chat.until_kind("tool_call", status="in_progress")
    command = await running(pid_file)
    queued = await chat.submit("/say after the stop")
    await chat.call("POST", "interrupt", body={"turn": turn})
    ended = (await chat.until_kind("turn_ended", id=turn))["data"]
    assert ended["stop_reason"] == "cancelled"
    assert len(command) == 2 and not [process for process in command if alive(process.pid)]
    # failed: Codex was quick to say so of the command that we had killed
    assert chat.of("tool_call", turn)[-1]["status"] in ("cancelled", "failed")
    await chat.until_kind("turn_ended", id=queued)
    assert chat.text(queued) == "after the stop"
    [started] = chat.of("agent_started")
    assert alive(started["pid"])


async def test_stop_while_the_model_is_silent_drops_the_request_to_the_model(drive: Any, model_api: ModelApi) -> None:
    chat = await open_codex(drive)
    turn = await chat.submit("/say so far\n/hang")
    await model_api.hanging.wait()
    await chat.call("POST", "interrupt", body={"turn": turn})
    assert (await chat.until_kind("turn_ended", id=turn))["data"]["stop_reason"] == "cancelled"
    async with asyncio.timeout(10):
        await model_api.hung_up.wait()
    assert (await chat.run("/say next"))["stop_reason"] == "end_turn"


async def test_a_conversation_resumes_after_the_whole_tree_of_codex_was_killed(drive: Any) -> None:
    chat = await open_codex(drive)
    await chat.run("/say remembered")
    [started] = chat.of("agent_started")
    tree_before = tree(started["pid"])
    for process in tree_before:
        process.kill()
    await chat.until_kind("agent_exited")
    ended = await chat.run("/recall")
    assert ended["stop_reason"] == "end_turn", ended
    assert chat.text("t2") == "/say remembered"
    back = chat.of("agent_started")[-1]
    assert (back["how"], back["agent_session_id"]) == ("resume", started["agent_session_id"])
    assert mode(await chat.summary()) == FULL_ACCESS
    assert not [process for process in tree_before if alive(process.pid)]


async def test_codex_killed_in_the_middle_of_a_command_leaves_nothing_and_resumes(drive: Any) -> None:
    chat = await open_codex(drive)
    pid_file = drive.root / "pid"
    turn = await chat.submit(f"/run echo $$ > {pid_file}; sleep 1000\n/say never")
    await chat.until_kind("tool_call", status="in_progress")
    command = await running(pid_file)
    [started] = chat.of("agent_started")
    everything = tree(started["pid"])
    os.kill(started["pid"], signal.SIGKILL)
    ended = (await chat.until_kind("turn_ended", id=turn))["data"]
    assert ended["error"]["reason"] == "agent_exited"
    await chat.run("/recall")
    assert "/say never" in chat.text("t2")
    assert not [process for process in (*everything, *command) if alive(process.pid)]


async def test_two_conversations_with_codex_run_at_the_same_time_unmixed(drive: Any) -> None:
    one, two = await drive.open("one.chat", agent="codex"), await drive.open("two.chat", agent="codex")
    await asyncio.gather(one.run("/run echo 1 > one.txt\n/say one"), two.run("/run echo 2 > two.txt\n/say two"))
    assert (one.text("t1"), two.text("t1")) == ("one", "two")
    assert (drive.root / "one.txt").exists() and (drive.root / "two.txt").exists()


async def test_with_restricted_access_it_writes_no_more_than_that_and_resumes_as_before(drive: Any) -> None:
    (drive.root / "work").mkdir()
    chat = await drive.open(agent="codex", cwd="work", access="read-only")
    script = f"/run cat ../known; echo x > {{}}; echo x > {drive.root}/beside; echo tried\n/say over"
    (drive.root / "known").write_text("can be read")
    await chat.run(script.format("kept-out"))
    assert chat.text("t1") == "over"
    said = "".join(data["data"] for data in chat.of("terminal_output", "t1"))
    assert "can be read" in said and "tried" in said and said.count("Read-only") == 2
    await chat.call("PATCH", body={"access": "workspace-write"})
    await chat.run(script.format("let-in") + "\n/write by-patch.txt text")
    assert sorted(path.name for path in (drive.root / "work").iterdir()) == ["by-patch.txt", "let-in"]
    assert not (drive.root / "beside").exists()
    assert [data["how"] for data in chat.of("agent_started")] == ["new", "resume"]
    assert (await chat.summary())["access"]["effective"] == "workspace-write"
