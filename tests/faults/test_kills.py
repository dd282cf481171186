"""A process is killed at a random moment of a turn; afterwards the log says what the agent wrote, once and in order.

`FAULT_SEEDS=200` (as `make test-faults` sets it) runs that many seeds instead of the 25 of the ordinary tests;
`FAULT_FIRST=17` begins at that one. Each seed is printed as the test's name and decides what is killed, and when.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
from collections.abc import Iterator
from typing import Any

import psutil
import pytest
from stack.process import ServerProcess

FIRST = int(os.environ.get("FAULT_FIRST", "1"))
SEEDS = range(FIRST, FIRST + int(os.environ.get("FAULT_SEEDS", "25")))
NUMBERS = 60
#: those without the server, which takes longest to be back, are as frequent
TARGETS = ["server", "server", "server and agent", "server and runner", "agent", "runner", "agent and runner"]

pytestmark = [pytest.mark.faults, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    process = ServerProcess(tmp_path_factory.mktemp("faults"), {})
    process.spawn()
    yield process
    asyncio.run(process.end())


@pytest.fixture
def server(process: ServerProcess, jp_asyncio_loop: Any) -> Iterator[ServerProcess]:
    jp_asyncio_loop.run_until_complete(process.start())
    yield process
    jp_asyncio_loop.run_until_complete(process.drive.hang_up())


def script(dice: random.Random, seed: int) -> str:
    """A turn whose every part can be told apart afterwards, and that leaves a trace of each thing it did."""
    parts = [
        f"/count delay={dice.choice(['0.002', '0.01'])} record=said-{seed} {NUMBERS}",
        "/tool id=look Look",
        "/thought Hm.",
        f"/shell echo ran >> ran-{seed}; echo printed",
        f"/file file-{seed}.txt written",
    ]
    dice.shuffle(parts)
    if dice.random() < 0.5:
        parts.insert(dice.randrange(len(parts)), "/permission id=ask Write")
    return "\n".join([*parts, "/text .end"])


@pytest.mark.parametrize("seed", SEEDS)
async def test_a_kill_at_a_random_moment_loses_doubles_and_reorders_nothing(server: ServerProcess, seed: int) -> None:
    dice = random.Random(seed)
    target = dice.choice(TARGETS)
    chat = await server.drive.open(f"seed-{seed}.chat")
    # else the agent is only being started
    if is_warm := dice.random() < 0.7:
        await chat.run("/text warm", turn="first")
    turn = await chat.submit(script(dice, seed), turn="killed")
    following = await chat.submit("/text following", turn="following")
    answering = asyncio.create_task(answer(chat, following))
    moment, stop = dice.uniform(0.0, 0.9 if is_warm else 0.5), dice.random() < 0.2
    # the moment itself is what is varied: there is nothing to wait for
    await asyncio.wait({answering}, timeout=moment)
    answering.cancel()
    await asyncio.gather(answering, return_exceptions=True)
    if stop:
        await chat.call("POST", "interrupt", body={"turn": turn})
    if "server" in target:
        server.kill()
    for name in ("runner", "agent"):
        if name in target:
            kill(server, chat.id, name)
    await chat.hang_up()
    await server.start()
    async with asyncio.timeout(60):
        await answer(chat, following)

    log = chat.events
    story = (target, moment, stop, is_warm, [(e["kind"], e["data"]) for e in log if e["turn"] == turn])
    assert [event["seq"] for event in log] == list(range(1, len(log) + 1))
    for name in (turn, following):
        assert len([e for e in log if e["kind"] == "turn_started" and e["turn"] == name]) == 1
        assert len(chat.of("turn_ended", name)) == 1
    if chat.text(following) != "following":
        # it was the one that was hit: the first had ended already
        endings = [chat.of("turn_ended", name)[0]["stop_reason"] for name in (turn, following)]
        assert target != "server" and endings[0] != "error" and endings[1] == "error", (endings, story)
    assert len(chat.of("permission_requested")) == len(chat.of("permission_resolved"))

    said = chat.text(turn)
    numbers = [int(word) for word in said.split() if word.isdigit()]
    assert numbers == list(range(1, len(numbers) + 1)), story
    wrote = len(lines(server, f"said-{seed}"))
    # it may be killed between the word and its own record of it; what a runner has in memory goes with it
    assert len(numbers) in ((wrote, wrote + 1) if "runner" not in target else range(wrote + 2)), story
    # nothing is run twice, and the log tells it once
    ran = len(lines(server, f"ran-{seed}"))
    printed = "".join(data["data"] for data in chat.of("terminal_output", turn)).count("printed")
    assert printed <= ran <= 1, story
    ended = chat.of("turn_ended", turn)[0]["stop_reason"]
    if stop:
        # where it had ended before, Stop changed nothing
        assert ended in ("cancelled", "interrupted", "end_turn", "error"), story
        assert chat.of("turn_ended", turn)[0].get("error") is None or "server" not in target, story
    elif target == "server":
        assert (ended, len(numbers), ran, printed) == ("end_turn", NUMBERS, 1, 1), story
        assert said.rstrip().endswith(".end")
        assert (server.root / f"file-{seed}.txt").read_text() == "written"
        calls = {data["toolCallId"]: data["status"] for data in chat.of("tool_call", turn)}
        assert set(calls.values()) == {"completed"}, story
        assert chat.of("thought_delta", turn)[0]["text"] == "Hm."
    else:
        assert ended in ("end_turn", "error"), story

    stored: list[dict[str, Any]] = []
    while batch := await chat.call("GET", "events", after=len(stored)):
        stored += batch
    assert stored[: len(log)] == log
    messages = (await chat.call("GET", "messages", limit=100))["messages"]
    assert len(messages) == (6 if is_warm else 4), json.dumps(messages)
    assert len({message["id"] for message in messages}) == len(messages)
    await chat.call("DELETE")


def kill(server: ServerProcess, session_id: str, name: str) -> None:
    """SIGKILL to the runner or the agent of a session, where it is there yet."""
    for file in (server.folder / "runtime" / "acp").glob(f"{session_id[:12]}-*/{name}.pid"):
        with contextlib.suppress(psutil.NoSuchProcess, ValueError):
            psutil.Process(int(file.read_text())).kill()


def lines(server: ServerProcess, name: str) -> list[str]:
    """Of a file in the project that the agent may not have come to write."""
    file = server.root / name
    return file.read_text().splitlines() if file.exists() else []


async def answer(chat: Any, last: str) -> None:
    """Read on, allowing what is asked, until turn `last` has ended."""
    for question in (await chat.summary())["permissions"]:
        await allow(chat, question)
    while not chat.of("turn_ended", last):
        event = await chat.until(lambda event: event["kind"] in ("permission_requested", "turn_ended"))
        if event["kind"] == "permission_requested":
            await allow(chat, event["data"])


async def allow(chat: Any, question: dict[str, Any]) -> None:
    """Answer, where it is still open."""
    option = question["options"][0]["optionId"]
    await chat.drive.request(
        "POST",
        *("projects", "local", "sessions", chat.id, "permissions", question["id"]),
        body={"option_id": option},
    )
