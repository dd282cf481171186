"""Durable appends while 400 MB of old activity are removed and their space given back, beside the same without."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from pathlib import Path
from statistics import median

from jupyter_acp.events import Event, Kind
from jupyter_acp.records import SessionRow, TurnRow
from jupyter_acp.retention import Retention
from jupyter_acp.store import Store
from jupyter_acp.turn import TurnState

from .common import Figure, quantile, scratch

MEGABYTES, IDLE_SECONDS = 400, 20
SESSIONS, EVENTS, EVERY = 20, 250, 0.02
ROOT = "/project"


async def run() -> list[Figure]:
    with scratch() as folder:
        store = Store(folder / "acp.db")
        await store.open()
        try:
            await _fill(store)
            begun = time.monotonic()
            for session in await store.logs(ROOT):
                await store.size(session)
            sized = time.monotonic() - begun
            size = _size(folder)
            retention = Retention(store, ROOT, days=1, size=0, spare=_all, removed=lambda *_: None)
            begun = time.monotonic()
            busy = await _waits(store, "busy", retention.round())
            elapsed = time.monotonic() - begun
            idle = await _waits(store, "idle", asyncio.sleep(IDLE_SECONDS))
            left = _size(folder)
        finally:
            await store.close()
    what = f"{max(busy) * 1e3:.1f} against {max(idle) * 1e3:.1f} ms, of {len(busy):,} and {len(idle):,}"
    p99 = quantile(busy, 0.99), quantile(idle, 0.99)
    return [
        Figure(name="retention: longest durable append", value=max(busy) * 1e3, unit="ms", limit=50.0),
        Figure(name="retention: the same, without removal = 1", value=max(busy) / max(idle), unit="x", note=what),
        Figure(
            name="retention: durable append, median, without removal = 1",
            value=median(busy) / median(idle),
            unit="x",
            note=f"{median(busy) * 1e3:.2f} against {median(idle) * 1e3:.2f} ms; p99 {p99[0] * 1e3:.1f} against "
            f"{p99[1] * 1e3:.1f} ms",
        ),
        Figure(
            name=f"retention: seconds to remove {MEGABYTES} MB",
            value=elapsed,
            unit="s",
            note=f"file {size / 1e6:,.0f} -> {left / 1e6:,.0f} MB",
        ),
        Figure(name=f"retention: seconds to learn the size of {MEGABYTES} MB", value=sized, unit="s"),
    ]


async def _waits(store: Store, session: str, work: Awaitable[None]) -> list[float]:
    """Seconds that each durable append took which a turn made meanwhile, as often as an agent that streams."""
    await store.append(session, [], [_session(session).save()])
    task = asyncio.ensure_future(work)
    waits: list[float] = []
    while not task.done():
        begun = time.monotonic()
        await store.append(session, [_event(len(waits) + 1, "t", 200)], durable=True)
        waits.append(time.monotonic() - begun)
        await asyncio.sleep(EVERY)
    await task
    return waits


async def _fill(store: Store) -> None:
    """Activity that is years old: pieces of text and, one in fifty, a tool call of 20 kB, sessions interleaved."""
    size = seq = 0
    for n in range(SESSIONS):
        await store.append(f"s{n}", [], [_session(f"s{n}").save()])
    while size < MEGABYTES * 1_000_000:
        turn = f"t{seq}"
        for n in range(SESSIONS):
            events = [_event(seq + place, turn, 20_000 if place % 50 == 0 else 250) for place in range(1, EVENTS)]
            events.append(Event(seq=seq + EVENTS, time=1.0, turn=turn, kind=Kind.TURN_ENDED, data={"id": turn}))
            row = TurnRow(
                session_id=f"s{n}",
                id=turn,
                position=seq,
                state=TurnState.ENDED,
                prompt=[],
                text="",
                user={},
                started_seq=seq + 1,
                ended_seq=seq + EVENTS,
            )
            size += sum(len(event.data.get("text", "")) + 50 for event in events)
            await store.append(f"s{n}", events, [row.save()])
        seq += EVENTS


def _session(name: str) -> SessionRow:
    return SessionRow(
        id=name, root=ROOT, project="p", path=f"{name}.chat", chat_id=name, agent="d", cwd=ROOT, title="", created=1.0
    )


def _event(seq: int, turn: str, size: int) -> Event:
    data = {"message_id": "m", "role": "agent", "text": "x" * size}
    return Event(seq=seq, time=1.0, turn=turn, kind=Kind.MESSAGE_DELTA, data=data)


async def _all(session_id: str, through: int) -> int:
    return through


def _size(folder: Path) -> int:
    return (folder / "acp.db").stat().st_size
