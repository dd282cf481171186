"""64 sessions at once, 20 updates a second each; and readers that fall behind."""

from __future__ import annotations

import asyncio
import time

from .common import Figure, Server, Session, peak, quantile, scratch, text_of

SESSIONS, UPDATES, INTERVAL_MS = 64, 120, 50


async def run() -> list[Figure]:
    with scratch() as folder:
        async with Server(folder) as server:
            sessions = [await server.session(f"crowd{n}.chat") for n in range(SESSIONS)]
            found = await asyncio.gather(*(_stream(session) for session in sessions))
            for session in sessions:
                session.socket.close()
                await server.fetch("DELETE", session.path)
            delays = [delay for one in found for delay in one]
            lost = SESSIONS * UPDATES - len(delays)
            memory = await _behind(server)
    p95 = quantile(delays, 0.95)
    note = f"median {quantile(delays, 0.5):.1f}, highest {max(delays):.0f} ms"
    return [
        Figure(name=f"crowd: delay of {SESSIONS} sessions, p95", value=p95, unit="ms", limit=50.0, note=note),
        Figure(name="crowd: updates lost", value=lost, unit="", limit=0.0),
        *memory,
    ]


async def _stream(session: Session) -> list[float]:
    """The delay in milliseconds of each update of a turn."""
    turn = await session.submit(f"/stamp {UPDATES} {INTERVAL_MS}")
    delays = []
    while True:
        events = await session.receive()
        now = time.monotonic_ns()
        delays += [(now - int(stamp)) / 1e6 for stamp in text_of(events).split()]
        if any(event["kind"] == "turn_ended" and event["turn"] == turn for event in events):
            return delays


async def _behind(server: Server) -> list[Figure]:
    """What 8 MB of text, 60 MB on the wire, add to the server's memory while they stream, for three kinds of reader."""
    pid = server.process.pid
    figures = []
    for name, limit in (("prompt", None), ("absent", 20.0), ("stuck", 20.0)):
        session = await server.session(f"{name}.chat")
        await session.run("/chunks 20000 20")
        if name == "absent":
            session.socket.close()
        first = (await server.fetch("GET", session.path))["last_seq"]
        before = peak(pid, reset=True)
        # The turn goes on for a while after its text, so that what its end costs can be told apart.
        turn = await session.submit("/chunks 400000 20\n/sleep 3")
        reading = asyncio.create_task(session.until_end(turn)) if name == "prompt" else None
        seen = [-1, first]
        while seen[-1] < first + 20 or seen[-1] != seen[-2]:
            await asyncio.sleep(0.5)
            seen.append((await server.fetch("GET", session.path))["last_seq"])
        streamed = (peak(pid) - before) / 1e6
        while (await server.fetch("GET", session.path))["turns"]:
            await asyncio.sleep(0.1)
        note = f"{(peak(pid) - before) / 1e6:.1f} MB when the answer goes to the chat file"
        figures.append(
            Figure(name=f"crowd: memory while a reader is {name}", value=streamed, unit="MB", limit=limit, note=note)
        )
        if reading is not None:
            await reading
        if name == "stuck" and len(text_of(await session.until_end(turn))) != 8_000_000:
            raise RuntimeError("the reader that fell behind lost something")
    return figures
