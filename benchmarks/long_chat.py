"""The same turn in an empty chat and in one of 10,000 messages."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from statistics import median

from .common import Figure, Server, cpu, scratch

MESSAGES, ROUNDS, PROMPT = 10_000, 7, "/chunks 2000 20"


async def run() -> list[Figure]:
    used: dict[str, list[float]] = {"empty.chat": [], "long.chat": []}
    sent: dict[str, list[int]] = {"empty.chat": [], "long.chat": []}
    with scratch() as folder:
        async with Server(folder) as server:
            write_chat(server.root / "long.chat", MESSAGES)
            sessions = {name: await server.session(name) for name in used}
            pids = [server.process.pid, *server.runners()]
            for turn in range(ROUNDS + 1):
                for name, session in sessions.items():
                    before, received = cpu(pids), session.received
                    await session.run(PROMPT)
                    # The chat file is written after the end of the turn.
                    await asyncio.sleep(0.3)
                    if turn:
                        used[name].append(cpu(pids) - before)
                        sent[name].append(session.received - received)
            begun = time.monotonic()
            path = sessions["long.chat"].path
            page = await server.fetch("GET", path + "/messages?limit=50")
            opened = len(json.dumps(page)) + len(json.dumps(await server.fetch("GET", path)))
            elapsed = time.monotonic() - begun
            assert len(page["messages"]) == 50 and page["has_more"]
    empty, long = median(used["empty.chat"]), median(used["long.chat"])
    return [
        Figure(
            name="long_chat: CPU of a turn, empty chat = 1",
            value=long / empty,
            unit="x",
            limit=1.2,
            note=f"{long * 1e3:.1f} against {empty * 1e3:.1f} ms",
        ),
        Figure(
            name="long_chat: bytes sent, empty chat = 1",
            value=median(sent["long.chat"]) / median(sent["empty.chat"]),
            unit="x",
            limit=1.2,
        ),
        Figure(
            name="long_chat: bytes to open it",
            value=opened / 1000,
            unit="kB",
            note=f"50 of {MESSAGES:,} messages, in {elapsed * 1e3:.0f} ms",
        ),
    ]


def write_chat(path: Path, messages: int) -> None:
    """A chat of jupyterlab-chat's format."""
    users = {"a": {"username": "a", "name": "A", "display_name": "A"}}
    listed = [
        {
            "id": f"m{n}",
            "type": "msg",
            "body": f"message {n} " + "x" * 100,
            "time": 1.7e9 + n,
            "sender": "a",
            "raw_time": False,
        }
        for n in range(messages)
    ]
    path.write_text(json.dumps({"messages": listed, "users": users, "attachments": {}, "metadata": {}}, indent=4))
