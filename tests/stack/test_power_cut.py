"""What a power cut leaves: what a person asked for is on disk before anybody acts on it, and so is what was said since.

The kernel's own record of the server (strace) tells what was written, synced and sent, and in which order. That a
synced commit survives is SQLite's promise, not ours.
"""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from .process import ServerProcess

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.skipif(sys.platform != "linux", reason="strace is of Linux"),
]

#: a call, its whole line; several threads take turns, so one may be told in two halves
CALL = re.compile(r"^\d+ +(?P<time>[\d.]+) (?P<text>(?P<name>\w+)\(.*)$")
RESUMED = re.compile(r"^\d+ +(?P<time>[\d.]+) <\.\.\. (?P<name>\w+) resumed>")


@dataclass(frozen=True, slots=True)
class Call:
    """At the moment at which it has been done, for what writes; at which it begins, for what sends."""

    time: float
    name: str
    text: str

    @property
    def is_written(self) -> bool:
        return self.name == "pwrite64" and "coordinator.db-wal" in self.text

    @property
    def is_synced(self) -> bool:
        return self.name in ("fdatasync", "fsync") and "coordinator.db-wal" in self.text


@pytest.fixture
def server(tmp_path: Path, jp_asyncio_loop: Any) -> Iterator[ServerProcess]:
    strace = ["strace", "-D", "-f", "-ttt", "-y", "-s", "200", "-o", str(tmp_path / "trace")]
    calls = "trace=pwrite64,fdatasync,fsync,sendto,sendmsg,write,recvfrom"
    server = ServerProcess(tmp_path, {}, under=[*strace, "-e", calls, "-e", "signal=none"])
    jp_asyncio_loop.run_until_complete(server.start())
    yield server
    jp_asyncio_loop.run_until_complete(server.drive.hang_up())
    jp_asyncio_loop.run_until_complete(server.end())


def trace(server: ServerProcess) -> list[Call]:
    """What the server has done so far."""
    calls: list[Call] = []
    begun: dict[str, str] = {}
    for line in (server.folder / "trace").read_text(errors="replace").splitlines():
        thread = line.split(" ", 1)[0]
        if found := RESUMED.match(line):
            calls.append(Call(float(found["time"]), found["name"], begun.pop(thread, "")))
        elif (found := CALL.match(line)) and found["text"].endswith("<unfinished ...>"):
            if found["name"] in ("pwrite64", "fdatasync", "fsync"):
                begun[thread] = found["text"]
            else:
                calls.append(Call(float(found["time"]), found["name"], found["text"]))
        elif found:
            calls.append(Call(float(found["time"]), found["name"], found["text"]))
    return calls


def recorded_before(calls: list[Call], asked: str, acted: str) -> None:
    """Between a request and what the agent hears of it something was written, and all that was written is synced."""
    act = next(
        i for i, call in enumerate(calls) if call.name == "sendto" and '"I\\0' in call.text and acted in call.text
    )
    request = max(i for i, call in enumerate(calls[:act]) if call.name == "recvfrom" and asked in call.text)
    done = [call for call in calls[request:act] if call.is_written or call.is_synced]
    assert [call for call in done if call.is_written], acted
    assert done[-1].is_synced, (acted, done[-3:])


async def test_prompts_interrupts_and_answers_are_synced_to_disk_before_the_agent_hears_of_them(
    server: ServerProcess,
) -> None:
    chat = await server.drive.open()
    await chat.run("/text warm", turn="warm")
    turn = await chat.submit("/permission Write\n/sleep 600", turn="asked")
    question = (await chat.until_kind("permission_requested"))["data"]
    option = question["options"][0]["optionId"]
    await chat.call("POST", "permissions", question["id"], body={"option_id": option})
    await chat.until_kind("message_delta")
    await chat.call("POST", "interrupt", body={"turn": turn})
    ended = await chat.until_kind("turn_ended", id=turn)
    assert ended["data"]["stop_reason"] == "cancelled"
    calls = trace(server)
    recorded_before(calls, "/turns", "turn-asked")
    recorded_before(calls, "/permissions/", "outcome")
    recorded_before(calls, "/interrupt", "session/cancel")


async def test_the_end_of_a_turn_is_synced_before_people_see_it_and_what_is_said_within_a_second(
    server: ServerProcess,
) -> None:
    chat = await server.drive.open()
    await chat.run("/text warm", turn="warm")
    await chat.submit("/count delay=0.05 60\n/sleep 1.5", turn="long")
    await chat.until_kind("turn_ended", id="long")
    # the last of it is on its way to the trace
    async with asyncio.timeout(10):
        while not _first(calls := trace(server), "turn_ended", '\\"long\\"'):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    shown = _first(calls, "turn_ended", '\\"long\\"')
    before = [call for call in calls[:shown] if call.is_written or call.is_synced]
    assert before[-1].is_synced
    waiting: float | None = None
    longest = 0.0
    for call in before:
        if call.is_written:
            waiting = waiting or call.time
        elif waiting is not None:
            longest, waiting = max(longest, call.time - waiting), None
    # the second, and what a busy machine adds to it; the turn takes several
    assert longest < 2.5


def _first(calls: list[Call], *texts: str) -> int:
    """Where a call has all of these; 0 where none has."""
    return next((i for i, call in enumerate(calls) if all(text in call.text for text in texts)), 0)
