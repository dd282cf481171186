"""Many sessions at once under random faults, for as long as `SOAK_MINUTES` says (`make soak`: 30).

Each person sends turn after turn and checks each as the fault harness does. In the first half agents, runners and the
server are killed; in the second the server lives, so that its memory and descriptors can be compared.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import psutil
import pytest
from stack.process import ServerProcess
from tornado.httpclient import HTTPClientError
from tornado.websocket import WebSocketClosedError

MINUTES = float(os.environ.get("SOAK_MINUTES", "0.5"))
SESSIONS = 16
#: turns of one chat, which a server has in memory while it is open; then the next is begun
TURNS = 100
#: seconds, about
FAULT_EVERY, SERVER_EVERY, SAMPLE_EVERY = 4.0, 60.0, 10.0
#: memory that may be added in the second half: what the newest turns keep, and what Python does not give back
MEMORY_MB, DESCRIPTORS = 20.0, 16

pytestmark = [pytest.mark.faults, pytest.mark.timeout(MINUTES * 60 + 300)]

_T = TypeVar("_T")


class Refused(Exception):
    """The server is there and cannot do it now."""


class Person:
    """One chat, through every fault: what was asked is asked again, what was seen is not seen again."""

    def __init__(self, server: ServerProcess, name: str, up: asyncio.Event, seed: int) -> None:
        self.server = server
        self.name = name
        self.dice = random.Random(seed)
        self.turns = 0
        self.endings: dict[str, int] = {}
        self._up = up
        self._seq = 0
        self._socket: Any = None
        self._ahead: list[dict[str, Any]] = []
        self.id = ""

    async def live(self, until: float) -> None:
        """Turn after turn."""
        while time.monotonic() < until:
            if self.turns % TURNS == 0:
                await self._begin_chat()
            self.turns += 1
            await self._turn(f"{self.name}-{self.turns}")
        await self._hang_up()

    async def _begin_chat(self) -> None:
        await self._hang_up()
        if self.id:
            await self._insist(lambda: self._ask("DELETE", self.id, gone=True))
        body = {"path": f"{self.name}-{self.turns}.chat", "agent": "demo"}
        self.id = (await self._insist(lambda: self._ask("POST", body=body)))["id"]
        self._seq = 0

    async def _turn(self, name: str) -> None:
        count, stop = self.dice.randrange(5, 60), self.dice.random() < 0.1
        parts = [
            f"/count delay=0.01 record=said-{name} {count}",
            f"/shell echo ran >> ran-{name}; echo printed",
            "/tool Look",
            "/thought Hm.",
            "/permission Write",
        ]
        self.dice.shuffle(parts)
        script = "\n".join(parts[: self.dice.randrange(1, 6)])
        events = await self._run(name, script, stop)
        self._check(name, script, count, events)

    async def _run(self, name: str, script: str, stop: bool) -> list[dict[str, Any]]:
        body = {"id": name, "prompt": script}
        await self._insist(lambda: self._ask("POST", self.id, "turns", body=body))
        if stop:
            await self._insist(lambda: self._ask("POST", self.id, "interrupt", body={"turn": name}))
        events: list[dict[str, Any]] = []
        while not events or (events[-1]["kind"], events[-1]["turn"]) != ("turn_ended", name):
            event = await self._insist(self._next)
            events.append(event)
            if event["kind"] == "permission_requested":
                await self._insist(partial(self._allow, event["data"]))
        return events

    async def _allow(self, question: dict[str, Any]) -> None:
        option = {"option_id": question["options"][0]["optionId"]}
        path = ("projects", "local", "sessions", self.id, "permissions", question["id"])
        status, answer = await self.server.drive.request("POST", *path, body=option)
        if status >= 500:
            raise Refused(answer)

    def _check(self, name: str, script: str, count: int, events: list[dict[str, Any]]) -> None:
        mine = [event for event in events if event["turn"] == name]
        story = json.dumps([script, *((event["seq"], event["kind"], event["data"]) for event in mine)])
        assert len([event for event in mine if event["kind"] == "turn_started"]) == 1, story
        text = "".join(event["data"]["text"] for event in mine if event["kind"] == "message_delta")
        numbers = [int(word) for word in text.split() if word.isdigit()]
        assert numbers == list(range(1, len(numbers) + 1)), story
        # a runner that is killed takes along what was in its memory
        assert len(numbers) <= len(self._lines(f"said-{name}")) + 1, story
        ran = len(self._lines(f"ran-{name}"))
        shown = "".join(event["data"]["data"] for event in mine if event["kind"] == "terminal_output")
        assert shown.count("printed") <= ran <= 1, story
        reason = mine[-1]["data"]["stop_reason"]
        self.endings[reason] = self.endings.get(reason, 0) + 1
        if reason == "end_turn":
            assert len(numbers) == (count if "/count" in script else 0), story
            assert ran == ("/shell" in script), story

    def _lines(self, name: str) -> list[str]:
        file = self.server.root / name
        return file.read_text().splitlines() if file.exists() else []

    async def _next(self) -> dict[str, Any]:
        while not self._ahead:
            if self._socket is None:
                self._socket = await self.server.drive.subscribe(self.id, self._seq)
            text = await self._socket.read_message()
            if text is None:
                self._socket.close()
                self._socket = None
                raise WebSocketClosedError
            self._ahead = json.loads(text)
        event = self._ahead.pop(0)
        assert event["seq"] == self._seq + 1
        self._seq += 1
        return event

    async def _hang_up(self) -> None:
        # what had come but was not looked at is sent again
        self._ahead = []
        if self._socket is not None:
            socket, self._socket = self._socket, None
            socket.close()
            while await socket.read_message() is not None:
                pass

    async def _ask(self, method: str, *path: str, body: object = None, gone: bool = False) -> Any:
        status, answer = await self.server.drive.request(method, "projects", "local", "sessions", *path, body=body)
        if status >= 500:
            raise Refused(answer)
        assert status < 400 or (gone and status == 404), (status, answer)
        return answer

    async def _insist(self, ask: Callable[[], Awaitable[_T]]) -> _T:
        """Until the server does it, as a browser that has lost it."""
        while True:
            await self._up.wait()
            try:
                return await ask()
            except (OSError, HTTPClientError, WebSocketClosedError, Refused):
                await self._hang_up()
                # a refused request has no event to wait for
                await asyncio.sleep(0.2)


class Soak:
    """The faults, and what is measured."""

    def __init__(self, server: ServerProcess, up: asyncio.Event) -> None:
        self.server = server
        self.kills = {"agent": 0, "runner": 0, "server": 0}
        self.samples: list[tuple[float, float, int, int]] = []
        self._up = up
        self._dice = random.Random(1)

    async def faults(self, calm: float) -> None:
        """For ever; the server is spared from `calm` on."""
        server_at = time.monotonic() + SERVER_EVERY * MINUTES / 30
        while True:
            await asyncio.sleep(self._dice.uniform(0.5, 1.5) * FAULT_EVERY)
            if server_at < time.monotonic() < calm:
                server_at = time.monotonic() + self._dice.uniform(0.5, 1.5) * SERVER_EVERY
                self.kills["server"] += 1
                self._up.clear()
                self.server.kill()
                await self.server.start()
                self._up.set()
            elif folders := [*self._runtime.iterdir()]:
                name = self._dice.choice(["agent", "runner"])
                if (pid := _pid(self._dice.choice(folders) / f"{name}.pid")) is not None:
                    psutil.Process(pid).kill()
                    self.kills[name] += 1

    async def measure(self, begin: float) -> None:
        """For ever, from `begin` on."""
        await asyncio.sleep(max(0.0, begin - time.monotonic()))
        while True:
            assert self.server.process is not None
            server = psutil.Process(self.server.process.pid)
            runners = [pid for folder in self._runtime.iterdir() if (pid := _pid(folder / "runner.pid"))]
            memory = server.memory_info().rss / 1e6
            sample = (time.monotonic() - begin, memory, server.num_fds(), len(runners))
            self.samples.append(sample)
            print("{:7.0f} s: server {:.1f} MB, {} descriptors, {} runners".format(*sample), flush=True)
            await asyncio.sleep(min(SAMPLE_EVERY, MINUTES))

    @property
    def _runtime(self) -> Path:
        return self.server.folder / "runtime" / "acp"


def _pid(file: Path) -> int | None:
    """Of a process that still runs."""
    try:
        pid = int(file.read_text())
    except (OSError, ValueError):
        return None
    return pid if psutil.pid_exists(pid) else None


async def test_many_sessions_outlive_random_faults_and_the_server_neither_grows_nor_leaks(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path, {})
    await server.start()
    up = asyncio.Event()
    up.set()
    begin = time.monotonic()
    middle, end = begin + MINUTES * 30, begin + MINUTES * 60
    people = [Person(server, f"person-{n}", up, n) for n in range(SESSIONS)]
    soak = Soak(server, up)
    # a tenth more until caches and the newest server are warm
    tasks = [asyncio.create_task(soak.faults(middle)), asyncio.create_task(soak.measure(middle + MINUTES * 6))]
    try:
        await asyncio.gather(*(person.live(end) for person in people))
        for task in tasks:
            assert not task.done(), task.exception()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        up.set()
        await server.end()
    endings: dict[str, int] = {}
    for person in people:
        for reason, times in person.endings.items():
            endings[reason] = endings.get(reason, 0) + times
    third = len(soak.samples) // 3
    first, last = soak.samples[:third], soak.samples[-third:]
    grown = median(s[1] for s in last) - median(s[1] for s in first)
    opened = median(s[2] for s in last) - median(s[2] for s in first)
    print(f"{sum(person.turns for person in people)} turns {endings}, kills {soak.kills}")
    print(f"memory {grown:+.1f} MB, descriptors {opened:+.0f}, between the first and the last third of the second half")
    assert endings["end_turn"] > SESSIONS
    assert sum(soak.kills.values()) > 0
    # one that ends is still there for a moment while the next is begun
    assert max(s[3] for s in soak.samples) <= 2 * SESSIONS
    assert grown <= MEMORY_MB and opened <= DESCRIPTORS
    left = [*(server.folder / "runtime" / "acp").iterdir()]
    assert left == []
