"""Whatever an agent has started ends with it, and an agent that nobody needs ends too."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from . import alive

#: ways to leave one's parents, each printing the id of what is left; the last keeps no variable and no session either
DEPARTURES = {
    "setsid": "setsid sleep 600 >/dev/null 2>&1 & echo $!",
    "nohup": "nohup sleep 600 >/dev/null 2>&1 & echo $!",
    "a double fork without its environment": "env -i setsid sh -c 'sleep 600 >/dev/null 2>&1 & echo $!'",
}

departures = pytest.mark.parametrize("departure", DEPARTURES.values(), ids=DEPARTURES.keys())
#: whose the command is; one that ends takes its own along where it is ours
directives = pytest.mark.parametrize(
    ("agent", "directive"),
    [("demo", "/shell {}"), ("delegating", "/terminal {}; sleep 600")],
    ids=["its own", "delegated"],
)


async def departed(chat: Any, turn: str) -> int:
    """The process that a command of this turn has left behind, once it is there."""
    while not (text := "".join(data["data"] for data in chat.of("terminal_output", turn))).strip().isdigit():
        await chat.until_kind("terminal_output")
    pid = int(text)
    assert alive(pid)
    return pid


@departures
@directives
async def test_stop_ends_what_the_turn_has_started_however_it_left(
    drive: Any, agent: str, directive: str, departure: str
) -> None:
    chat = await drive.open(agent=agent)
    turn = await chat.submit(f"{directive.format(departure)}\n/sleep 600")
    pid = await departed(chat, turn)
    await chat.call("POST", "interrupt", body={})
    await chat.until_kind("turn_ended", id=turn)
    assert not alive(pid)


@departures
@directives
async def test_nothing_is_left_of_a_session_that_was_closed(
    drive: Any, agent: str, directive: str, departure: str, tmp_path: Path
) -> None:
    chat = await drive.open(agent=agent)
    turn = await chat.submit(f"/pid\n{directive.format(departure)}\n/sleep 600")
    pid = await departed(chat, turn)
    own = int(chat.text(turn))
    [runner] = (tmp_path / "run").iterdir()
    runner_pid = int((runner / "runner.pid").read_text())
    await chat.call("DELETE")
    assert not alive(pid) and not alive(own)
    await gone(runner_pid)
    assert not runner.exists()


@departures
async def test_an_agent_that_is_killed_takes_along_what_it_had_started(drive: Any, departure: str) -> None:
    chat = await drive.open()
    turn = await chat.submit(f"/shell {departure}\n/pid\n/sleep 600")
    pid = await departed(chat, turn)
    await chat.until_kind("message_delta")
    os.kill(int(chat.text(turn)), signal.SIGKILL)
    await chat.until_kind("turn_ended", id=turn)
    assert not alive(pid)


@departures
async def test_restart_agent_ends_what_the_old_one_had_started(drive: Any, departure: str) -> None:
    chat = await drive.open()
    turn = await chat.submit(f"/shell {departure}")
    pid = await departed(chat, turn)
    await chat.until_kind("turn_ended", id=turn)
    # it may be a server that the person wants: the end of a turn is no reason to end it
    assert alive(pid)
    await chat.call("POST", "restart-agent", body={})
    assert not alive(pid)


@pytest.mark.parametrize("way", ["DELETE", "restart-agent"])
async def test_nothing_is_left_of_a_runner_that_is_killed_as_its_session_ends(
    drive: Any, tmp_path: Path, way: str
) -> None:
    chat = await drive.open()
    await chat.run("/text hi")
    [folder] = (tmp_path / "run").iterdir()
    os.kill(int((folder / "runner.pid").read_text()), signal.SIGKILL)
    # at once: nobody has noticed yet
    await (chat.call("DELETE") if way == "DELETE" else chat.call("POST", way, body={}))
    assert not folder.exists()


class TestAtRest:
    """With a timeout of moments instead of hours."""

    @pytest.fixture
    def jp_server_config(self, jp_server_config: dict[str, Any]) -> dict[str, Any]:
        jp_server_config["AcpExtension"]["agent_idle_timeout"] = 0.3
        return jp_server_config

    async def test_no_agent_and_no_runner_is_left_after_the_idle_timeout_and_the_next_request_resumes(
        self, drive: Any, tmp_path: Path
    ) -> None:
        chats = [await drive.open(f"{name}.chat", agent=name) for name in ("demo", "no-resume", "modes")]
        pids = []
        for chat in chats:
            await chat.run("/pid")
            pids.append(int(chat.text("t1")))
        for chat in chats:
            exited = (await chat.until_kind("agent_exited"))["data"]
            assert (exited["code"], exited["signal"]) == (None, None)
            assert "nothing was asked" in exited["message"]
        async with asyncio.timeout(10):
            # the folder of a runner is the last of it
            while list((tmp_path / "run").iterdir()):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert not any(alive(pid) for pid in pids)
        for chat, how in zip(chats, ("resume", "load", "resume"), strict=True):
            assert (await chat.run("/text back", turn="back"))["stop_reason"] == "end_turn"
            assert chat.of("agent_started")[-1]["how"] == how
            assert (await chat.summary())["error"] is None

    async def test_an_agent_that_works_or_waits_for_a_person_or_could_not_come_back_is_kept(self, drive: Any) -> None:
        working = await drive.open("working.chat")
        asking = await drive.open("asking.chat")
        forgetful = await drive.open("forgetful.chat", agent="no-load")
        idle = await drive.open("idle.chat")
        await working.submit("/sleep 600")
        await asking.submit("/permission Write")
        await forgetful.run("/text remember me")
        await idle.run("/text hi")
        await asking.until_kind("permission_requested")
        # its turn comes after theirs
        await idle.run("/text hi", turn="again")
        await idle.until_kind("agent_exited")
        await idle.run("/text hi", turn="third")
        await idle.until_kind("agent_exited")
        for chat in (working, asking, forgetful):
            stored = await chat.call("GET", "events", after=0)
            assert "agent_exited" not in [event["kind"] for event in stored]


async def gone(pid: int) -> None:
    """Return once a process is, which tells nobody."""
    async with asyncio.timeout(10):
        while alive(pid):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
