"""The log of one session as its owner writes it: numbers events, merges deltas, commits them with their rows.

The one rule: `seq` is given here and nowhere else. Deltas of one message are merged up to one event per 30 ms; the
first after a pause goes out at once. Everything that waits is committed in one transaction with the position in the
agent's output that it came from, so that after a crash each line is processed exactly once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from .events import Event, JsonObject, Kind
from .records import Change
from .store import Chain, Store

MERGE_SECONDS = 0.03

_DELTA_FIELDS = {
    Kind.MESSAGE_DELTA: ("message_id", "text"),
    Kind.THOUGHT_DELTA: ("message_id", "text"),
    Kind.TERMINAL_OUTPUT: ("terminal_id", "data"),
}


class Journal:
    """Appends to one session's log.

    Parameters
    ----------
    store, session_id, last_seq
        Where to write, and the newest seq there.
    progress
        Called at each commit for the row changes that say how far the agent was read, and for what to do once they
        are committed.
    failed
        Called once for each commit that the disk refused.
    """

    def __init__(
        self,
        store: Store,
        session_id: str,
        last_seq: int,
        *,
        progress: Callable[[], tuple[Sequence[Change], Callable[[], None]]],
        failed: Callable[[BaseException], None],
    ) -> None:
        self._store = store
        self._session_id = session_id
        self.last_seq = last_seq
        self._chain = Chain()
        self._progress = progress
        self._failed = failed
        self._events: list[Event] = []
        self._changes: list[Change] = []
        self._delta: tuple[Kind, str | None, str] | None = None
        self._pieces: list[str] = []
        self._timer: asyncio.Handle | None = None
        self._first: asyncio.Future[None] | None = None
        self._last_flush = 0.0
        self._loop = asyncio.get_running_loop()
        self._appended = self._loop.time()

    @property
    def quiet(self) -> float:
        """Seconds since the last event."""
        return self._loop.time() - self._appended

    def append(self, kind: Kind, data: JsonObject, *, turn: str | None, changes: Sequence[Change] = ()) -> Event:
        """Add an event; it is committed within MERGE_SECONDS, at once after a pause, or by `commit`."""
        self._end_delta()
        self._appended = self._loop.time()
        self.last_seq += 1
        event = Event(seq=self.last_seq, time=round(time.time(), 3), turn=turn, kind=kind, data=data)
        self._events.append(event)
        self._changes += changes
        self._soon()
        return event

    def delta(self, kind: Kind, message_id: str, text: str, *, turn: str | None) -> None:
        """Add a piece of text to message (or terminal) `message_id`, merged with the pieces that wait."""
        key = (kind, turn, message_id)
        if self._delta == key:
            self._pieces.append(text)
            return
        id_field, text_field = _DELTA_FIELDS[kind]
        data: JsonObject = {id_field: message_id, text_field: text}
        if kind is Kind.MESSAGE_DELTA:
            data["role"] = "agent"
        self.append(kind, data, turn=turn)
        self._delta = key
        self._pieces = [text]

    def merge(self, kind: Kind, key: str, data: JsonObject, *, turn: str | None) -> None:
        """Add an event whose newer state replaces the one that still waits for the same `data[key]`."""
        for index in range(len(self._events) - 1, max(-1, len(self._events) - 64), -1):
            waiting = self._events[index]
            if waiting.kind is kind and waiting.turn == turn and waiting.data.get(key) == data.get(key):
                self._events[index] = replace(waiting, data=data)
                return
            # Only past tool output of other calls: never past a question or the end of a turn.
            if waiting.kind not in (Kind.TOOL_CALL, Kind.TERMINAL_OUTPUT):
                break
        self.append(kind, data, turn=turn)

    def change(self, change: Change) -> None:
        """Change a row with the next commit, at the latest in MERGE_SECONDS."""
        self._changes.append(change)
        self._soon()

    def commit(self, changes: Sequence[Change] = (), *, durable: bool = False) -> asyncio.Future[None]:
        """Commit all that waits, and `changes`, now. Await the result to act on it."""
        self._end_delta()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        events, self._events = self._events, []
        waiting, self._changes = self._changes, []
        progress, committed = self._progress()
        rows = [*waiting, *changes, *progress]
        future = self._store.append(self._session_id, events, rows, durable=durable, chain=self._chain)

        def check(done: asyncio.Future[None]) -> None:
            if done.cancelled():
                return
            if (error := done.exception()) is not None:
                self._failed(error)
            else:
                committed()

        future.add_done_callback(check)
        if (first := self._first) is not None and not first.done():
            future.add_done_callback(lambda _: None if first.done() else first.set_result(None))
        return future

    async def settled(self) -> None:
        """Return once what ended a pause is committed, at once where nothing did.

        Who reads on before would keep the interpreter from the writer, and the person from the first word.
        """
        if self._first is not None and not self._first.done():
            await asyncio.wait([self._first])

    def _end_delta(self) -> None:
        if self._delta is not None and len(self._pieces) > 1:
            last = self._events[-1]
            self._events[-1] = replace(last, data={**last.data, _DELTA_FIELDS[last.kind][1]: "".join(self._pieces)})
        self._delta = None

    def _soon(self) -> None:
        if self._timer is None:
            wait = self._last_flush + MERGE_SECONDS - self._loop.time()
            # call_soon, not now: the lines of the same chunk come along, and a line is never committed half processed.
            if wait > 0:
                self._timer = self._loop.call_later(wait, self._flush)
            else:
                self._timer = self._loop.call_soon(self._flush)
                self._first = self._loop.create_future()

    def _flush(self) -> None:
        self._timer = None
        # Only these count: a commit that somebody asked for, such as that of the prompt, holds no first delta back.
        self._last_flush = self._loop.time()
        if self._events or self._changes:
            self.commit()
