"""A command that the agent has us run and that prints much, beside `cmd | cat > file`, which runs in alternation."""

from __future__ import annotations

import asyncio
import statistics
import time
from pathlib import Path

from .common import Figure, Server, Session, peak, scratch

COMMAND = "seq 1 20000000"
MEGABYTES = 169
ROUNDS = 5
GIGABYTES = 10


async def run() -> list[Figure]:
    with scratch() as folder:
        by_pipe = await _measure(folder / "pipe", "pipe", gigabytes=GIGABYTES)
        by_terminal = await _measure(folder / "terminal", "terminal", gigabytes=1)
    return by_pipe + by_terminal


async def _measure(folder: Path, how: str, *, gigabytes: int) -> list[Figure]:
    async with Server(
        folder, extensions=("jupyter_acp", "benchmarks.lag"), settings={"delegated_commands": how}
    ) as server:
        session = await server.session("delegated.chat", agent="delegating")
        await session.run("/terminal limit=1000 seq 1 1000000")
        await server.fetch("GET", "/benchmarks/lag")
        times, references = [], []
        for _ in range(ROUNDS):
            references.append(await _reference(folder))
            times.append(await _turn(session, COMMAND))
        before, begun = peak(server.process.pid, reset=True), time.monotonic()
        await _turn(session, f"yes 0123456789012345678901234567890123456789 | head -c {gigabytes}000000000")
        elapsed, grown = time.monotonic() - begun, peak(server.process.pid) - before
        lag = await server.fetch("GET", "/benchmarks/lag")
    ours, reference = statistics.median(times), statistics.median(references)
    return [
        Figure(
            name=f"delegated: {MEGABYTES} MB by {how}, `cmd \\| cat > file` = 1",
            value=ours / reference,
            unit="x",
            limit=2.0 if how == "pipe" else None,
            note=f"{MEGABYTES / ours:.0f} against {MEGABYTES / reference:.0f} MB/s",
        ),
        Figure(
            name=f"delegated: memory for {gigabytes} GB by {how}",
            value=grown / 1e6,
            unit="MB",
            limit=20.0,  # flat, by the line that the others draw
            note=f"{elapsed:.0f} s",
        ),
        Figure(name=f"delegated: event loop blocked at most, by {how}", value=1e3 * lag, unit="ms", limit=50.0),
    ]


async def _turn(session: Session, command: str) -> float:
    """Seconds from the request of a person to the end of the turn in which the agent has us run it."""
    begun = time.monotonic()
    events = await session.run(f"/terminal limit=1000 {command}")
    elapsed = time.monotonic() - begun
    [exited] = [event["data"] for event in events if event["kind"] == "terminal_exited"]
    if exited["exit_code"] != 0:
        raise RuntimeError(f"{command}: {exited}")
    return elapsed


async def _reference(folder: Path) -> float:
    """Seconds of the same command in a shell, its output through a pipe into a file."""
    file = folder / "reference"
    begun = time.monotonic()
    process = await asyncio.create_subprocess_shell(f"{COMMAND} | cat > {file}")
    await process.wait()
    elapsed = time.monotonic() - begun
    file.unlink()
    return elapsed
