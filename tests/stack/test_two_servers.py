"""Two Jupyter Servers on one folder: the one that started last has its agents, and nothing is written or run twice."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stack.process import ServerProcess

NUMBERS = 300
SESSIONS = ("projects", "local", "sessions")

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def servers(tmp_path: Path, jp_asyncio_loop: Any) -> Iterator[tuple[ServerProcess, ServerProcess]]:
    older = ServerProcess(tmp_path, {})
    newer = older.another()
    jp_asyncio_loop.run_until_complete(older.start())
    yield older, newer
    for server in (older, newer):
        jp_asyncio_loop.run_until_complete(server.drive.hang_up())
    if older.process is not None and older.process.poll() is None:
        jp_asyncio_loop.run_until_complete(older.stop())
    jp_asyncio_loop.run_until_complete(newer.end())


async def test_the_newer_server_goes_on_with_the_turn_and_the_older_lets_go_within_5_s_and_says_so(
    servers: tuple[ServerProcess, ServerProcess],
) -> None:
    older, newer = servers
    chat = await older.drive.open()
    turn = await chat.submit(f"/count delay=0.01 {NUMBERS}")
    following = await chat.submit("/text following")
    await chat.until_kind("message_delta")
    await newer.start()
    claimed = time.monotonic()
    # the socket of the older one ends: nothing that it shows is true any more
    async with asyncio.timeout(5):
        await chat.closed()
    status, body = await older.drive.request("GET", *SESSIONS)
    assert (status, body["reason"]) == (503, "taken_over")
    assert time.monotonic() - claimed < 5
    assert "has taken over the agents of this folder" in body["message"]
    assert "has taken over the agents of this folder" in older.log()

    taken = await newer.drive.open()
    assert taken.id == chat.id
    await ended(taken, following)
    assert [event["seq"] for event in taken.events] == list(range(1, len(taken.events) + 1))
    assert taken.text(turn).split() == [str(number) for number in range(1, NUMBERS + 1)]
    for name in (turn, following):
        assert len(taken.of("turn_started", name)) == len(taken.of("turn_ended", name)) == 1
    roles = [message["role"] for message in (await taken.call("GET", "messages"))["messages"]]
    assert roles == ["user", "agent", "user", "agent"]
    assert "is damaged" not in older.log() + newer.log()


async def test_what_the_older_server_is_asked_meanwhile_is_refused_and_not_run(
    servers: tuple[ServerProcess, ServerProcess],
) -> None:
    older, newer = servers
    chat = await older.drive.open()
    await chat.run("/text first")
    await newer.start()
    taken = await newer.drive.open()  # it answers before it has taken the project
    # at once, before the older one has noticed: the database refuses what it writes
    status, body = await older.drive.request(
        "POST", *SESSIONS, chat.id, "turns", body={"id": "late", "prompt": "/text no"}
    )
    assert (status, body["reason"]) == (503, "taken_over")
    await taken.run("/text second", turn="second")
    assert not [event for event in taken.events if event["turn"] == "late"]
    assert "no" not in (newer.root / "a.chat").read_text().split()


@pytest.mark.parametrize("how", ["stopped", "killed"])
async def test_the_older_server_has_its_project_again_once_the_newer_has_ended(
    servers: tuple[ServerProcess, ServerProcess], how: str
) -> None:
    older, newer = servers
    chat = await older.drive.open()
    await chat.until_kind("session_created")
    await newer.start()
    await chat.closed()
    taken = await newer.drive.open()
    turn = await taken.submit(f"/count delay=0.01 {NUMBERS}")
    await taken.until_kind("message_delta")
    if how == "stopped":
        await newer.stop()
    else:
        newer.kill()
    await taken.hang_up()
    again = await older.drive.open()
    await ended(again, turn)
    assert again.text(turn).split() == [str(number) for number in range(1, NUMBERS + 1)]
    await again.run("/text mine again", turn="again")


async def test_two_servers_that_start_at_once_agree_on_one_of_them(
    servers: tuple[ServerProcess, ServerProcess],
) -> None:
    older, newer = servers
    chat = await older.drive.open()
    turn = await chat.submit(f"/count delay=0.01 {NUMBERS}")
    await chat.until_kind("message_delta")
    older.kill()
    await chat.hang_up()
    await asyncio.gather(older.start(), newer.start())
    owner = await the_owner(older, newer)
    again = await owner.drive.open()
    await ended(again, turn)
    assert again.text(turn).split() == [str(number) for number in range(1, NUMBERS + 1)]
    assert [event["seq"] for event in again.events] == list(range(1, len(again.events) + 1))
    if owner is older:
        await older.stop()


async def ended(chat: Any, turn: str) -> None:
    await chat.until(lambda event: event["kind"] == "turn_ended" and event["turn"] == turn)


async def the_owner(*servers: ServerProcess) -> ServerProcess:
    """The one server that answers, once there is exactly one."""
    async with asyncio.timeout(10):
        while True:
            answers = [(await server.drive.request("GET", *SESSIONS))[0] for server in servers]
            if sorted(answers) == [200, 503]:
                return servers[answers.index(200)]
            # nothing tells from outside that a server has noticed
            await asyncio.sleep(0.1)


async def test_what_was_changed_while_another_server_had_the_folder_is_of_no_turn_of_the_older(
    servers: tuple[ServerProcess, ServerProcess],
) -> None:
    older, newer = servers
    chat = await older.drive.open()
    await chat.run("/file first.txt one", turn="first")
    await chat.hang_up()
    await newer.start()
    taken = await newer.drive.open()
    await taken.run("/file second.txt two", turn="second")
    await taken.hang_up()
    await newer.stop()
    # the older server has never seen that file
    back = await older.drive.open()
    await back.run("/file second.txt three", turn="third")
    [file] = (await back.call("GET", "turns", "third", "diff"))["files"]
    assert (file["path"], file["change"]) == ("second.txt", "modified")
    assert "-two" in file["diff"] and "+three" in file["diff"]
    [file] = (await back.call("GET", "turns", "second", "diff"))["files"]
    assert (file["path"], file["change"]) == ("second.txt", "added")
