"""The server is killed, the agent writes 100 MB meanwhile, and the next server takes them over."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from .common import Figure, Server, memory, peak, scratch

MEGABYTES = 100
SHORT = 200_000
#: what the agent writes while no server is there, by what it is
SCRIPTS = {
    "output of a command": f"/shell yes 0123456789012345678901234567890123456789012345678 | head -c {MEGABYTES}000000",
    "answer, pieces of 1 kB": f"/chunks {MEGABYTES}000 1000",
    f"answer, {SHORT:,} pieces of 20 bytes": f"/chunks {SHORT} 20",
}


async def run() -> list[Figure]:
    figures = []
    for what, script in SCRIPTS.items():
        with scratch() as folder:
            async with Server(folder, extensions=("jupyter_acp", "benchmarks.lag")) as server:
                figures += await _measure(server, what, script)
    return figures


async def _measure(server: Server, what: str, script: str) -> list[Figure]:
    session = await server.session("reattach.chat")
    turn = await session.submit(
        f"/text begun\n/shell until [ -e go ]; do sleep 0.01; done\n{script}\n/file written.txt yes"
    )
    seq, begun = 0, False
    while not begun:
        for event in await session.receive():
            seq, begun = event["seq"], begun or event["kind"] == "message_delta"
    server.kill()
    (server.root / "go").touch()
    await _appears(server.root / "written.txt")
    started = time.monotonic()
    server.spawn()
    await server.answers()
    idle = memory(server.process.pid)
    up = time.monotonic()
    await session.follow(seq)
    events = await session.until_end(turn)
    done = time.monotonic()
    lag = await server.fetch("GET", "/benchmarks/lag")
    assert [event["seq"] for event in events] == list(range(seq + 1, seq + 1 + len(events)))
    name = f"reattach: {what}"
    limit = 5.0 if str(MEGABYTES) in script else None
    return [
        Figure(
            name=f"{name}: seconds until taken over",
            value=done - up,
            unit="s",
            limit=limit,
            note=f"{done - started:.1f} s from the start of the server's process",
        ),
        Figure(name=f"{name}: memory", value=(peak(server.process.pid) - idle) / 1e6, unit="MB"),
        Figure(name=f"{name}: event loop blocked at most", value=1e3 * lag, unit="ms", limit=50.0),
    ]


async def _appears(file: Path) -> None:
    """An agent without a server has no other way to tell."""
    while not file.exists():
        await asyncio.sleep(0.05)
