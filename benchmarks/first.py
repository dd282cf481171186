"""The first chunk of a turn: from the agent's write, and from the submission, to the client."""

from __future__ import annotations

import asyncio
import secrets
import time
from statistics import median

from .common import Figure, Line, RelayProcess, Server, Session, quantile, scratch

ROUNDS = 120


async def run() -> list[Figure]:
    written: dict[str, list[float]] = {"ours": [], "relay": []}
    submitted: dict[str, list[float]] = {"ours": [], "relay": []}
    with scratch() as folder:
        async with Server(folder) as server, RelayProcess() as relay, Line(server) as line:
            session = await server.session("first.chat")
            for turn in range(ROUNDS + 10):
                for name, one in (("relay", _relay(relay)), ("ours", _ours(session, line))):
                    stamp, begun, seen = await one
                    if turn >= 10:
                        written[name].append((seen - stamp) / 1e6)
                        submitted[name].append((seen - begun) / 1e6)
                    await asyncio.sleep(0.05)
    figures = []
    for what, found in (("write", written), ("submit", submitted)):
        ours, relayed = median(found["ours"]), median(found["relay"])
        note = f"{ours:.2f} against {relayed:.2f} ms; p95 {quantile(found['ours'], 0.95):.2f} against "
        note += f"{quantile(found['relay'], 0.95):.2f} ms"
        name = f"first: {what} to first chunk, median, relay = 1"
        figures.append(Figure(name=name, value=ours / relayed, unit="x", limit=3.0, note=note))
    p95 = quantile(written["ours"], 0.95)
    figures.insert(1, Figure(name="first: write to first chunk, p95", value=p95, unit="ms", limit=10.0))
    return figures


async def _relay(relay: RelayProcess) -> tuple[int, int, int]:
    begun = time.monotonic_ns()
    await relay.submit("/stamp 1 0")
    while True:
        message = await relay.receive()
        update = message.get("params", {}).get("update", {})
        if update.get("sessionUpdate") == "agent_message_chunk":
            seen, stamp = time.monotonic_ns(), int(update["content"]["text"])
        if message.get("id") == 2:
            return stamp, begun, seen


async def _ours(session: Session, line: Line) -> tuple[int, int, int]:
    turn = f"f-{secrets.token_hex(4)}"
    begun = time.monotonic_ns()
    line.ask("POST", session.path + "/turns", {"id": turn, "prompt": "/stamp 1 0"})
    ended = False
    while not ended:
        for event in await session.receive():
            if event["kind"] == "message_delta":
                seen, stamp = time.monotonic_ns(), int(event["data"]["text"])
            ended = ended or (event["kind"] == "turn_ended" and event["turn"] == turn)
    await line.answer()
    return stamp, begun, seen
