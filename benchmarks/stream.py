"""20,000 chunks of 20 bytes at full speed, and ten times as many."""

from __future__ import annotations

import asyncio
import time
from statistics import median

from jupyter_acp.testing import chunk_text

from .common import Figure, RelayProcess, Server, Session, cpu, scratch, text_of, written

CHUNKS, SIZE, ROUNDS = 20_000, 20, 5


async def run() -> list[Figure]:
    with scratch() as folder:
        async with Server(folder) as server, RelayProcess() as relay:
            session = await server.session("stream.chat")
            pids = [server.process.pid, *server.runners()]
            await session.run("/chunks 2000 20")
            await relay.run("/chunks 2000 20")
            ours, theirs, seconds, relay_seconds = [], [], [], []
            relay_received = relay.received
            received, disk = session.received, written(pids)
            on_disk = 0.0
            for turn in range(ROUNDS):
                before, begun = cpu([relay.process.pid]), time.monotonic()
                await relay.run(f"/chunks {CHUNKS} {SIZE}")
                theirs.append(cpu([relay.process.pid]) - before)
                relay_seconds.append(time.monotonic() - begun)
                begun = time.monotonic()
                ours.append(await _turn(session, pids, CHUNKS))
                seconds.append(time.monotonic() - begun)
                if not turn:
                    # What is written late (the log's sync, the chat file) belongs to it. Only the first turn: the
                    # chat file is written whole, so later turns pay for the text of the earlier ones.
                    await asyncio.sleep(1.5)
                    on_disk = (written(pids) - disk) / (CHUNKS * SIZE)
            text = ROUNDS * CHUNKS * SIZE
            sent, later = (session.received - received) / text, (written(pids) - disk) / text
            relay_sent = (relay.received - relay_received) / text
            long = [await _turn(session, pids, 10 * CHUNKS) for _ in range(3)]
    each = 1e6 / CHUNKS
    return [
        Figure(
            name="stream: CPU of server and runner, relay = 1",
            value=median(ours) / median(theirs),
            unit="x",
            limit=0.4,
            note=f"{median(ours) * each:.1f} against {median(theirs) * each:.1f} µs per update",
        ),
        Figure(
            name="stream: bytes sent per byte of text", value=sent, unit="x", limit=2.0, note=f"relay {relay_sent:.1f}"
        ),
        Figure(
            name="stream: bytes written per byte of text",
            value=on_disk,
            unit="x",
            limit=5.0,
            note=f"mean of {ROUNDS} such turns in one chat {later:.1f}",
        ),
        Figure(
            name="stream: CPU of 200,000 chunks, 20,000 = 1",
            value=median(long) / median(ours),
            unit="x",
            limit=12.0,
            note=f"{median(long) / CHUNKS * 1e5:.1f} µs per update",
        ),
        Figure(
            name="stream: seconds of a turn",
            value=median(seconds),
            unit="s",
            note=f"relay {median(relay_seconds):.2f} s",
        ),
    ]


async def _turn(session: Session, pids: list[int], chunks: int) -> float:
    """CPU of one turn, whose text must be exact."""
    before = cpu(pids)
    events = await session.run(f"/chunks {chunks} {SIZE}")
    used = cpu(pids) - before
    if text_of(events) != "".join(chunk_text(number, SIZE) for number in range(chunks)):
        raise RuntimeError("the text is not what the agent wrote")
    return used
