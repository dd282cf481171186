"""A process is killed at a random moment of a turn; afterwards the log says what the agent wrote, once and in order.

`FAULT_SEEDS=200` (as `make test-faults` sets it) runs that many seeds instead of the few of the ordinary tests;
`FAULT_FIRST=17` begins at that one. Each seed is printed as the test's name and decides what is killed, and when.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections.abc import Iterator
from typing import Any

import psutil
import pytest
from stack.process import ServerProcess

FIRST = int(os.environ.get("FAULT_FIRST", "1"))
SEEDS = range(FIRST, FIRST + int(os.environ.get("FAULT_SEEDS", "4")))
NUMBERS = 60

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


def script(dice: random.Random) -> str:
    """A turn whose every part can be told apart afterwards."""
    parts = [f"/count delay={dice.choice(['0.002', '0.01'])} {NUMBERS}", "/tool id=look Look", "/thought Hm."]
    if dice.random() < 0.5:
        parts.insert(dice.randrange(3), "/permission id=ask Write")
    return "\n".join([*parts, "/text .end"])


@pytest.mark.parametrize("seed", SEEDS)
async def test_a_kill_at_a_random_moment_loses_doubles_and_reorders_nothing(server: ServerProcess, seed: int) -> None:
    dice = random.Random(seed)
    target = dice.choice(["server", "server", "agent", "runner", "server and runner"])
    chat = await server.drive.open(f"seed-{seed}.chat")
    await chat.run("/pid", turn="first")
    agent = psutil.Process(int(chat.text("first")))
    runner = agent.parent()
    assert runner is not None
    turn = await chat.submit(script(dice), turn="killed")
    following = await chat.submit("/text following", turn="following")
    answering = asyncio.create_task(answer(chat, following))
    moment = dice.uniform(0.0, 0.7)
    # the moment itself is what is varied: there is nothing to wait for
    await asyncio.wait({answering}, timeout=moment)
    answering.cancel()
    await asyncio.gather(answering, return_exceptions=True)
    if "server" in target:
        server.kill()
    if "runner" in target:
        runner.kill()
    if target == "agent" and agent.is_running():
        agent.kill()
    await chat.hang_up()
    await server.start()
    async with asyncio.timeout(60):
        await answer(chat, following)

    log = chat.events
    assert [event["seq"] for event in log] == list(range(1, len(log) + 1))
    for name in (turn, following):
        assert len([e for e in log if e["kind"] == "turn_started" and e["turn"] == name]) == 1
        assert len(chat.of("turn_ended", name)) == 1
    said = chat.text(turn).replace("permission: yes", "").replace("permission: allow", "")
    numbers = [int(word) for word in said.split() if word.isdigit()]
    assert numbers == list(range(1, len(numbers) + 1)), (target, moment, said)
    ended = chat.of("turn_ended", turn)[0]
    if target == "server":
        assert (ended["stop_reason"], numbers[-1]) == ("end_turn", NUMBERS), (target, moment, ended)
        assert said.rstrip().endswith(".end")
    else:
        assert ended["stop_reason"] in ("end_turn", "error")
    assert chat.text(following) == "following", (target, moment)
    assert len(chat.of("permission_requested")) == len(chat.of("permission_resolved"))
    stored: list[dict[str, Any]] = []
    while batch := await chat.call("GET", "events", after=len(stored)):
        stored += batch
    assert stored[: len(log)] == log
    bodies = [m["body"] for m in (await chat.call("GET", "messages", limit=100))["messages"]]
    assert len(bodies) == 6, json.dumps(bodies)
    await chat.call("DELETE")


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
