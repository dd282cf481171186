"""Stop while the agent floods, and everything else that the server is asked meanwhile."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from typing import Any

from .common import REPOSITORY, Figure, Line, Server, Session, quantile, scratch

ROUNDS = 6


async def run() -> list[Figure]:
    heard, seen, ended = [], [], []
    with scratch() as folder:
        async with Server(folder, extensions=("jupyter_acp", "benchmarks.lag")) as server, Line(server) as line:
            session = await server.session("stop.chat", agent="witness")
            probe = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.probe", str(server.port), server.token],
                cwd=REPOSITORY,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            assert probe.stdout is not None
            await asyncio.to_thread(probe.stdout.readline)
            await server.fetch("GET", "/benchmarks/lag")
            for _ in range(ROUNDS):
                stamp, cancelling, over = await _stop(session, line)
                heard.append((int((server.root / "cancelled.ns").read_text()) - stamp) / 1e6)
                seen.append((cancelling - stamp) / 1e6)
                ended.append((over - stamp) / 1e6)
            lag = await server.fetch("GET", "/benchmarks/lag")
            out, _ = await asyncio.to_thread(probe.communicate, b"end")
            delays = [1e3 * delay for delay in json.loads(out)]
    p95 = quantile(delays, 0.95)
    return [
        Figure(name="stop: until the agent has the cancel", value=max(heard), unit="ms", limit=100.0, note=_of(heard)),
        Figure(
            name="stop: until the client sees `cancelling`", value=max(seen), unit="ms", limit=150.0, note=_of(seen)
        ),
        Figure(name="stop: until the turn has ended", value=max(ended), unit="ms", note=_of(ended)),
        Figure(
            name="stop: other requests during the flood, p95",
            value=p95,
            unit="ms",
            limit=50.0,
            note=f"of {len(delays)}: median {quantile(delays, 0.5):.1f} ms",
        ),
        Figure(name="stop: other requests during the flood, slowest", value=max(delays), unit="ms", limit=50.0),
        Figure(name="stop: event loop blocked at most", value=1e3 * lag, unit="ms"),
    ]


async def _stop(session: Session, line: Line) -> tuple[int, int, int]:
    """Let the agent flood for a second, then stop it: when that was asked, seen and over."""
    turn = await session.submit("/flood")
    stamp = cancelling = 0
    due = time.monotonic() + 1.0
    while True:
        events = await session.receive()
        now = time.monotonic_ns()
        if not stamp and time.monotonic() > due:
            stamp = time.monotonic_ns()
            line.ask("POST", session.path + "/interrupt", {"turn": turn})
        for event in events:
            if not cancelling and _cancelling(event):
                cancelling = now
            if event["kind"] == "turn_ended" and event["turn"] == turn:
                await line.answer()
                return stamp, cancelling or now, now


def _cancelling(event: dict[str, Any]) -> bool:
    return event["kind"] == "session_changed" and any(
        t["state"] == "cancelling" for t in event["data"].get("turns", ())
    )


def _of(values: list[float]) -> str:
    return f"highest of {len(values)}; median {quantile(values, 0.5):.1f} ms"
