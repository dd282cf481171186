"""A disk that is full: what cannot be recorded is refused with the reason, the rest is served, and room mends it."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stack.process import ServerProcess

NUMBERS = 400
SESSIONS = ("projects", "local", "sessions")

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", disk], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip(f"nothing can be mounted here: {mounted.stderr.decode().strip()}")
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)


def start(folder: Path, loop: Any) -> ServerProcess:
    process = ServerProcess(folder, {})
    loop.run_until_complete(process.start())
    return process


def end(process: ServerProcess, loop: Any) -> None:
    loop.run_until_complete(process.drive.hang_up())
    loop.run_until_complete(process.end())


@pytest.fixture
def record_on_small_disk(tmp_path: Path, small_disk: Path, jp_asyncio_loop: Any) -> Iterator[ServerProcess]:
    """A server whose database, and nothing else, is on that disk."""
    (tmp_path / "data").symlink_to(small_disk)
    process = start(tmp_path, jp_asyncio_loop)
    yield process
    end(process, jp_asyncio_loop)


@pytest.fixture
def project_on_small_disk(tmp_path: Path, small_disk: Path, jp_asyncio_loop: Any) -> Iterator[ServerProcess]:
    """A server whose project, and nothing else, is on that disk."""
    (tmp_path / "project").symlink_to(small_disk)
    process = start(tmp_path, jp_asyncio_loop)
    yield process
    end(process, jp_asyncio_loop)


def fill(disk: Path) -> Path:
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                continue
    return ballast


async def test_a_full_disk_refuses_what_it_cannot_record_and_the_turn_goes_on_once_there_is_room(
    record_on_small_disk: ServerProcess, small_disk: Path
) -> None:
    server = record_on_small_disk
    chat = await server.drive.open()
    turn = await chat.submit(f"/count delay=0.01 {NUMBERS}")
    await chat.until_kind("message_delta")
    ballast = fill(small_disk)
    # the socket ends with the reason: what it shows is not true any more
    await chat.closed()
    status, reason = await chat.refused("POST", "turns", body={"id": "refused", "prompt": "/text no"})
    assert (status, reason) == (503, "not_recorded")
    status, body = await server.drive.request("GET", *SESSIONS, chat.id)
    assert status == 503 and "full" in body["message"], body
    # everything else of the server is there
    assert await server.drive.ok("GET", "projects", "local", "agents")
    answer = await server._fetch("api", "contents")
    assert answer.code == 200
    ballast.unlink()
    room = time.monotonic()
    async with asyncio.timeout(30):
        # nothing tells when the server tries again
        while (await server.drive.request("GET", *SESSIONS, chat.id))[0] == 503:  # noqa: ASYNC110
            await asyncio.sleep(0.2)
    print(f"served again {time.monotonic() - room:.1f} s after there was room")
    await chat.until(lambda event: event["kind"] == "turn_ended" and event["turn"] == turn)
    assert chat.text(turn).split() == [str(number) for number in range(1, NUMBERS + 1)]
    assert [event["seq"] for event in chat.events] == list(range(1, len(chat.events) + 1))
    assert not [event for event in chat.events if event["turn"] == "refused"]
    await chat.run("/text again", turn="again")


async def test_a_chat_that_the_disk_has_no_room_for_is_said_once_and_written_once_there_is_room(
    project_on_small_disk: ServerProcess, small_disk: Path
) -> None:
    server = project_on_small_disk
    chat = await server.drive.open()
    await chat.run("/text first")
    ballast = fill(small_disk)
    await chat.run("/text second")
    if not chat.of("notice"):  # the prompt is written too, while the turn runs
        await chat.until_kind("notice")
    notice = chat.of("notice")[0]
    assert "chat file" in notice["title"] and "No space left" in notice["description"]
    assert "second" not in (small_disk / "a.chat").read_text()
    ballast.unlink()
    async with asyncio.timeout(30):
        while "second" not in (small_disk / "a.chat").read_text():  # noqa: ASYNC110  # a file has no event
            await asyncio.sleep(0.1)
    assert len(chat.of("notice")) == 1
