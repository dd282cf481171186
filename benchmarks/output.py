"""A command of the agent that prints 50 MB."""

from __future__ import annotations

import time

from .common import Figure, Server, peak, scratch

MEGABYTES = 50


async def run() -> list[Figure]:
    with scratch() as folder:
        async with Server(folder, extensions=("jupyter_acp", "benchmarks.lag")) as server:
            session = await server.session("output.chat")
            await session.run(_print(1))
            await server.fetch("GET", "/benchmarks/lag")
            before, received, begun = peak(server.process.pid, reset=True), session.received, time.monotonic()
            await session.run(_print(MEGABYTES))
            grown, elapsed = peak(server.process.pid) - before, time.monotonic() - begun
            lag = await server.fetch("GET", "/benchmarks/lag")
            sent = (session.received - received) / 1e6
    return [
        Figure(name="output: memory for 50 MB", value=grown / 1e6, unit="MB", limit=10.0),
        Figure(name="output: event loop blocked at most", value=1e3 * lag, unit="ms", limit=50.0),
        Figure(name="output: seconds of the turn", value=elapsed, unit="s", note=f"{sent:.1f} MB sent"),
    ]


def _print(megabytes: int) -> str:
    return f"/shell yes 0123456789012345678901234567890123456789012345678 | head -c {megabytes}000000"
