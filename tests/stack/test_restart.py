"""The server dies in the middle of things and comes back."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from turns_server import Server

from jupyter_acp.runner_link import LaunchSpec, RunnerLink, launch
from jupyter_acp.testing import command

from . import alive, until
from .process import ServerProcess

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server process with the scripted agent, delegating and not."""
    config = {"agents": {"delegating": {"command": command(), "placement": "host-delegated"}}}
    process = ServerProcess(tmp_path_factory.mktemp("server"), config)
    process.spawn()
    yield process
    asyncio.run(process.end())


@pytest.fixture
def server(process: ServerProcess, jp_asyncio_loop: Any, request: pytest.FixtureRequest) -> Iterator[ServerProcess]:
    """The server, running, and a name for the chat of this test."""
    jp_asyncio_loop.run_until_complete(process.start())
    process.chat = f"{request.node.name[:60]}.chat"
    yield process
    jp_asyncio_loop.run_until_complete(process.drive.hang_up())


@pytest.fixture
def own_server(tmp_path: Path, jp_asyncio_loop: Any) -> Iterator[ServerProcess]:
    """A server for one test that does things to its folders."""
    process = ServerProcess(tmp_path, {})
    process.chat = "a.chat"
    jp_asyncio_loop.run_until_complete(process.start())
    yield process
    jp_asyncio_loop.run_until_complete(process.drive.hang_up())
    jp_asyncio_loop.run_until_complete(process.end())


async def test_a_turn_goes_on_while_the_server_is_dead_and_nothing_of_it_is_lost_or_doubled(
    server: ServerProcess,
) -> None:
    chat = await server.drive.open(server.chat)
    turn = await chat.submit("/count 150 delay=0.01")
    await chat.until_kind("message_delta")
    server.kill()
    await chat.hang_up()
    await server.start()
    await chat.until_kind("turn_ended", id=turn)
    assert chat.text(turn).split() == [str(n) for n in range(1, 151)]
    assert chat.of("turn_ended", turn)[0]["stop_reason"] == "end_turn"
    page = await chat.call("GET", "messages")
    assert [message["role"] for message in page["messages"]] == ["user", "agent"]
    assert page["messages"][1]["body"].split() == [str(n) for n in range(1, 151)]


async def test_a_turn_that_ended_while_the_server_was_dead_is_told_when_it_is_back(server: ServerProcess) -> None:
    chat = await server.drive.open(server.chat)
    await chat.run("/pid")
    agent = int(chat.text("t1"))
    turn = await chat.submit("/text before\n/sleep 0.5\n/text after\n/file done.txt yes")
    await chat.until_kind("message_delta", text="before")
    server.kill()
    await chat.hang_up()
    await server.appears("done.txt")
    await server.start()
    await chat.until_kind("turn_ended", id=turn)
    assert chat.text(turn) == "beforeafter"
    assert alive(agent)
    assert (await chat.run("/pid"))["stop_reason"] == "end_turn"
    assert int(chat.text("t3")) == agent


async def test_an_answer_that_came_before_the_crash_and_was_not_dealt_with_is_read_again(
    tmp_path: Path,
) -> None:
    # a git that stops while a file is there: the end of a turn waits for what it says of the turn's changes
    stopped = tmp_path / "stopped"
    (tools := tmp_path / "tools").mkdir()
    wait = f"while test -e {stopped}; do touch {tmp_path}/waits; sleep 0.02; done"
    (tools / "git").write_text(f'#!/bin/sh\n{wait}\nexec {shutil.which("git")} "$@"\n')
    (tools / "git").chmod(0o755)
    server = ServerProcess(tmp_path, {}, environ={"PATH": f"{tools}:{os.environ['PATH']}"})
    await server.start()
    try:
        chat = await server.drive.open()
        await chat.run("/file a.txt text")
        turn = await chat.submit(f"/file a.txt other\n/shell touch {stopped}\n/text the last words")
        await chat.until_kind("message_delta", text="the last words")
        await server.appears("../waits")
        # this is recorded, and with it how far the agent was read
        following = await chat.submit("/text next")
        server.kill()
        await chat.hang_up()
        stopped.unlink()
        await server.start()
        assert (await chat.until_kind("turn_ended", id=turn))["data"]["stop_reason"] == "end_turn"
        assert (await chat.until_kind("turn_ended", id=following))["data"]["stop_reason"] == "end_turn"
        assert chat.text(turn) == "the last words"
        assert len(chat.of("turn_ended", turn)) == 1
        assert chat.of("notice") == []
        # and nothing of it once more after that
        server.kill()
        await chat.hang_up()
        await server.start()
        assert (await chat.run("/text on"))["stop_reason"] == "end_turn"
        assert chat.of("notice") == []
    finally:
        stopped.unlink(missing_ok=True)
        await server.drive.hang_up()
        await server.end()


async def test_a_question_is_still_open_after_the_restart_and_its_answer_reaches_the_agent(
    server: ServerProcess,
) -> None:
    chat = await server.drive.open(server.chat)
    turn = await chat.submit("/permission Write")
    question = (await chat.until_kind("permission_requested"))["data"]
    server.kill()
    await chat.hang_up()
    await server.start()
    summary = await chat.summary()
    assert [q["id"] for q in summary["permissions"]] == [question["id"]]
    assert summary["state"] == "requires_action"
    await chat.call("POST", "permissions", question["id"], body={"option_id": question["options"][0]["optionId"]})
    await chat.until_kind("turn_ended", id=turn)
    assert "allow" in chat.text(turn)


async def test_an_answer_that_an_earlier_agent_was_given_does_not_answer_a_later_one_after_the_restart(
    server: ServerProcess,
) -> None:
    chat = await server.drive.open(server.chat)
    first = await chat.submit("/permission Write\n/text done")
    question = (await chat.until_kind("permission_requested"))["data"]
    await chat.call("POST", "permissions", question["id"], body={"option_id": question["options"][0]["optionId"]})
    await chat.until_kind("turn_ended", id=first)
    await chat.call("POST", "restart-agent", body={})
    await chat.submit("/permission Delete\n/text done")
    asked = await chat.until(lambda e: e["kind"] == "permission_requested" and e["turn"] != first)
    server.kill()
    await chat.hang_up()
    await server.start()
    second = await chat.submit("/text queued behind it")
    summary = await chat.summary()
    assert [pending["id"] for pending in summary["permissions"]] == [asked["data"]["id"]]
    await chat.call("POST", "permissions", asked["data"]["id"], body={"option_id": "reject_once"})
    await chat.until_kind("turn_ended", id=second)
    assert "reject_once" in chat.text(asked["turn"])


async def test_queued_prompts_are_run_after_the_restart_once_each_and_in_order(server: ServerProcess) -> None:
    chat = await server.drive.open(server.chat)
    turns = [await chat.submit(text) for text in ("/sleep 0.3\n/text a", "/text b", "/text c")]
    server.kill()
    await chat.hang_up()
    await server.start()
    await chat.until_kind("turn_ended", id=turns[-1])
    assert [data["id"] for data in chat.of("turn_started")] == turns
    assert [chat.text(turn) for turn in turns] == ["a", "b", "c"]


async def test_stop_that_was_pressed_before_the_crash_is_carried_out_after_it(server: ServerProcess) -> None:
    chat = await server.drive.open(server.chat)
    turn = await chat.submit("/text on\n/stubborn\n/sleep 1000")
    await chat.until_kind("message_delta")
    await chat.call("POST", "interrupt", body={})
    server.kill()
    await chat.hang_up()
    await server.start()
    ended = await chat.until_kind("turn_ended", id=turn)
    assert ended["data"]["stop_reason"] in ("cancelled", "interrupted")
    assert (await chat.run("/text next"))["stop_reason"] == "end_turn"


def test_stop_that_was_pressed_as_the_server_ends_stops_the_turn_and_answers_no_question_first(tmp_path: Path) -> None:
    after = 0

    def until(kind: str) -> dict[str, Any]:
        nonlocal after
        while True:
            for event in (server.ask(("follow", after)) or [])[0][1]:
                after = event["seq"]
                if event["kind"] == kind:
                    return dict(event["data"])

    with Server(tmp_path) as server:
        assert server.start()
        for n in range(8):  # each a little different in time
            assert server.ask(("submit", f"t{n}", "/permission Write\n/text on", None)) == [("ok", None)]
            until("permission_requested")
            setting = ("submit", f"set{n}", "/text set", ("low", "high")[n % 2])
            assert server.ask(("interrupt", None), setting, ("stop",)) is not None
            assert server.gone() == 0
            assert server.start()
            # the latter of an agent that did not say in its time that it has heard
            assert until("turn_ended")["stop_reason"] in ("cancelled", "interrupted")
            while (server.ask(("summary",)) or [])[0][1]["turns"]:
                until("turn_ended")
        assert server.ask(("close",)) == server.ask(("stop",)) == [("ok", None)]


async def test_a_delegated_call_that_the_crash_cut_off_is_answered_so_that_the_agent_does_not_hang(
    server: ServerProcess,
) -> None:
    chat = await server.drive.open(server.chat, agent="delegating")
    turn = await chat.submit("/terminal echo started; sleep 1000\n/text on")
    await chat.until_kind("terminal_output")
    server.kill()
    await chat.hang_up()
    await server.start()
    ended = await chat.until_kind("turn_ended", id=turn)
    assert ended["data"]["stop_reason"] in ("end_turn", "error")


async def test_the_commands_that_the_server_ran_for_an_agent_end_with_it_however_they_left(
    server: ServerProcess,
) -> None:
    chat = await server.drive.open(server.chat, agent="delegating")
    await chat.submit("/terminal env -i setsid sh -c 'sleep 600 >/dev/null 2>&1 & echo $!'; sleep 600")
    await chat.until_kind("terminal_output")
    pid = int("".join(data["data"] for data in chat.of("terminal_output")))
    assert alive(pid)
    server.kill()
    await chat.hang_up()
    await until(lambda: not alive(pid))
    await server.start()


async def test_an_agent_and_its_runner_that_died_with_the_server_end_the_turn_and_the_queue_goes_on(
    server: ServerProcess,
) -> None:
    import psutil

    chat = await server.drive.open(server.chat)
    await chat.run("/pid")
    agent = psutil.Process(int(chat.text("t1")))
    turn = await chat.submit("/text so far\n/sleep 1000")
    await chat.until_kind("message_delta", text="so far")
    following = await chat.submit("/text next")
    runner = agent.parent()
    assert runner is not None
    server.kill()
    runner.kill()
    await chat.hang_up()
    await server.start()
    ended = await chat.until_kind("turn_ended", id=turn)
    assert (ended["data"]["stop_reason"], ended["data"]["error"]["reason"]) == ("error", "agent_lost")
    await chat.until_kind("turn_ended", id=following)
    assert (chat.text(turn), chat.text(following)) == ("so far", "next")
    psutil.wait_procs([agent], timeout=10)
    assert not alive(agent.pid)


async def test_a_runner_that_is_killed_takes_its_agent_along_and_the_session_resumes(server: ServerProcess) -> None:
    import psutil

    chat = await server.drive.open(server.chat)
    await chat.run("/pid")
    agent = psutil.Process(int(chat.text("t1")))
    turn = await chat.submit("/text so far\n/sleep 1000")
    await chat.until_kind("message_delta", text="so far")
    runner = agent.parent()
    assert runner is not None
    [folder] = (server.folder / "runtime" / "acp").glob(f"{chat.id[:12]}-*")
    os.kill(runner.pid, signal.SIGKILL)
    ended = await chat.until_kind("turn_ended", id=turn)
    assert ended["data"]["stop_reason"] == "error"
    assert (await chat.run("/text back"))["stop_reason"] == "end_turn"
    psutil.wait_procs([agent], timeout=10)
    assert not alive(agent.pid)
    await until(lambda: not folder.exists())  # which is done beside the next turn


async def test_a_runner_that_the_server_died_too_early_to_record_is_ended(server: ServerProcess) -> None:
    chat = await server.drive.open(server.chat)
    await chat.submit("/sleep 0.1")
    folder = server.folder / "runtime" / "acp" / f"{chat.id[:12]}-orphan"
    argv = [sys.executable, "-c", "import time; time.sleep(1000)"]
    await launch(folder, LaunchSpec(argv=argv, env={}, cwd=str(server.root)))
    link = await RunnerLink.attach(folder)
    agent = link.agent_pid
    # a word to it, as an early death of the server would leave it
    await link.send(1, b"hello\n")
    await link.close()
    assert alive(agent)
    server.kill()
    await chat.hang_up()
    await server.start()
    await chat.summary()
    assert not alive(agent)
    await until(lambda: not folder.exists())


async def test_a_clean_stop_leaves_the_turn_running_and_the_next_server_goes_on_with_it(server: ServerProcess) -> None:
    chat = await server.drive.open(server.chat)
    turn = await chat.submit("/count 200 delay=0.01")
    await chat.until_kind("message_delta")
    await chat.hang_up()
    await server.stop()
    await server.start()
    await chat.until_kind("turn_ended", id=turn)
    assert chat.text(turn).split() == [str(n) for n in range(1, 201)]


async def test_a_server_that_is_told_to_end_its_turns_leaves_no_turn_and_no_agent_when_it_stops(
    tmp_path: Path,
) -> None:
    server = ServerProcess(tmp_path, {"end_turns_on_stop": True})
    await server.start()
    chat = await server.drive.open()
    turn = await chat.submit("/pid\n/sleep 600")
    following = await chat.submit("/text following")
    await chat.until_kind("message_delta")
    agent = int(chat.text(turn))
    await chat.hang_up()
    await server.stop()
    assert not alive(agent)
    await until(lambda: [*(server.folder / "runtime" / "acp").iterdir()] == [])
    await server.start()
    await chat.until_kind("turn_ended", id=following)
    assert chat.of("turn_ended", turn)[0]["stop_reason"] == "cancelled"
    assert (chat.text(following), chat.of("agent_started")[-1]["how"]) == ("following", "resume")
    await server.drive.hang_up()
    await server.end()


async def test_sessions_are_rebuilt_from_the_files_beside_the_chats_where_the_database_is_damaged(
    own_server: ServerProcess,
) -> None:
    server = own_server
    chat = await server.drive.open(server.chat)
    await chat.run("/text noted")
    before = await chat.summary()
    [runner] = (server.folder / "runtime" / "acp").iterdir()
    await server.stop()  # after a kill the write-ahead log would repair it
    await chat.hang_up()
    [database] = server.folder.rglob("coordinator.db")
    database.write_bytes(b"no database at all" * 300)
    await server.start()
    assert [summary["id"] for summary in await server.drive.ok("GET", "projects", "local", "sessions")] == [chat.id]
    again = await server.drive.open(server.chat)
    assert (await again.summary())["agent_session_id"] == before["agent_session_id"]
    notice = (await again.until_kind("notice"))["data"]
    [aside] = database.parent.glob("coordinator.db.damaged-*")
    assert aside.name in notice["description"] and aside.read_bytes().startswith(b"no database")
    assert "is damaged" in server.log()
    await until(lambda: not runner.exists())
    assert (await again.refused("POST", "turns", body={"id": "t1", "prompt": "/text twice"}))[0] == 409
    assert (await again.run("/text on", "t2"))["stop_reason"] == "end_turn"
    messages = (await again.call("GET", "messages"))["messages"]
    assert [message["body"] for message in messages][-3:] == ["noted", "/text on", "on"]


async def test_a_project_that_leads_elsewhere_keeps_the_server_neither_from_starting_nor_within_its_folder(
    own_server: ServerProcess,
) -> None:
    server = own_server
    chat = await server.drive.open(server.chat)
    await chat.run("/text noted")
    await server.stop()
    await chat.hang_up()
    [database] = server.folder.rglob("coordinator.db")
    database.write_bytes(b"no database at all" * 300)
    outside = server.folder / "outside"
    outside.mkdir()
    secret = outside / "secret.chat"
    secret.write_text((server.root / server.chat).read_text())
    old = outside / "old upload"
    old.write_text("of somebody else")
    os.utime(old, (0, 0))
    for name, target in (("out.chat", secret), ("loop.chat", server.root / "loop.chat"), ("folder.chat", outside)):
        (server.root / name).symlink_to(target)
        shutil.copy(server.root / f".{server.chat}.acp.json", server.root / f".{name}.acp.json")
    (server.root / ".none.chat.acp.json").write_text("[]")
    (server.root / "away").symlink_to(outside)
    shutil.rmtree(server.root / ".acp", ignore_errors=True)
    (server.root / ".acp").mkdir()
    (server.root / ".acp" / "uploads").symlink_to(outside)
    before = secret.read_text()
    await server.start()
    assert [summary["path"] for summary in await server.drive.ok("GET", "projects", "local", "sessions")] == [
        server.chat
    ]
    again = await server.drive.open(server.chat)
    assert (await again.run("/text on", "t2"))["stop_reason"] == "end_turn"
    assert secret.read_text() == before and old.read_text() == "of somebody else"
    assert "was not rebuilt" in server.log()


async def test_a_project_that_was_copied_has_sessions_of_its_own_and_one_that_was_moved_keeps_them(
    own_server: ServerProcess,
) -> None:
    server = own_server
    original = server.root
    chat = await server.drive.open(server.chat)
    await chat.run("/text hi")
    await server.stop()
    await chat.hang_up()
    copied, moved = server.folder / "copied", server.folder / "moved"
    shutil.copytree(original, copied)
    server.serve(copied)
    await server.start()
    assert (await server.drive.open(server.chat)).id != chat.id
    await server.stop()
    original.rename(moved)
    server.serve(moved)
    await server.start()
    again = await server.drive.open(server.chat)
    assert again.id == chat.id
    assert (await again.run("/text on"))["stop_reason"] == "end_turn"
