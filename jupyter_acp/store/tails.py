"""Who follows the log of a session, and its newest committed events, in memory, for those who keep up.

Theory of operation. A tail is there for as long as somebody follows, and has what fits into it. Who falls behind reads
from the database until the tail reaches back far enough again: a slow reader costs no memory.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import TypeAlias

from ..events import encode
from ..exceptions import StoreError

TAIL_EVENTS = 512
TAIL_BYTES = 1 << 20
READ_BYTES = 256 << 10

EventRow: TypeAlias = tuple[str, int, float, "str | None", str, str]
"""A row of `events`: session, seq, time, turn, kind, data as JSON."""


class Tails:
    """The tails of one database, by session."""

    def __init__(self) -> None:
        self._tails: dict[str, _Tail] = {}

    def push(self, session_id: str, rows: Iterable[EventRow]) -> None:
        """These were committed: who follows gets them."""
        if tail := self._tails.get(session_id):
            tail.push(rows)

    def has(self, session_id: str) -> bool:
        """Somebody follows the session."""
        return session_id in self._tails

    def forget(self, session_id: str, through: int) -> None:
        """Let go of events that were removed."""
        if tail := self._tails.get(session_id):
            tail.forget(through)

    async def follow(
        self, session_id: str, after: int, read: Callable[[str, int], Awaitable[list[str]]]
    ) -> AsyncIterator[list[str]]:
        """See `Store.follow`; `read` gives committed events of a session after a seq."""
        tail = self._tails.setdefault(session_id, _Tail())
        tail.followers += 1
        try:
            while True:
                changed = tail.changed
                found = tail.since(after)
                if found is None:
                    found = await read(session_id, after)
                if found:
                    after = _seq(found[-1])
                    yield found
                elif tail.ended is not None:
                    raise tail.ended
                else:
                    await changed.wait()
        finally:
            tail.followers -= 1
            if not tail.followers and self._tails.get(session_id) is tail:
                del self._tails[session_id]

    def end(self, session_id: str, reason: StoreError) -> None:
        """Let those who follow a session now end with `reason`; who comes later follows anew."""
        if (tail := self._tails.pop(session_id, None)) is not None:
            tail.end(reason)

    def end_all(self, reason: StoreError) -> None:
        """Nobody follows anything any more."""
        for tail in self._tails.values():
            tail.end(reason)


class _Tail:
    """The newest committed events of one session, as wire text, and whoever waits for more."""

    def __init__(self) -> None:
        self.events: deque[tuple[int, str]] = deque()
        self.size = 0
        self.changed = asyncio.Event()
        self.followers = 0
        self.ended: StoreError | None = None

    def end(self, reason: StoreError) -> None:
        """Nothing follows for now: who has read all that is here is told why."""
        self.ended = reason
        self.changed.set()

    def push(self, rows: Iterable[EventRow]) -> None:
        for _, seq, when, turn, kind, data in rows:
            text = wire(seq, when, turn, kind, data)
            self.events.append((seq, text))
            self.size += len(text)
        while self.events and (len(self.events) > TAIL_EVENTS or self.size > TAIL_BYTES):
            self.size -= len(self.events.popleft()[1])
        self.changed.set()
        self.changed = asyncio.Event()

    def forget(self, through: int) -> None:
        while self.events and self.events[0][0] <= through:
            self.size -= len(self.events.popleft()[1])

    def since(self, after: int) -> list[str] | None:
        """Events after `after`, or None where the tail no longer reaches back so far."""
        if not self.events or self.events[0][0] > after + 1:
            return None
        first = self.events[0][0]
        chosen: list[str] = []
        size = 0
        for index in range(after + 1 - first, len(self.events)):
            text = self.events[index][1]
            chosen.append(text)
            size += len(text)
            if size > READ_BYTES:
                break
        return chosen


def wire(seq: int, when: float, turn: str | None, kind: str, data: str) -> str:
    """The wire form of an event whose data is JSON already."""
    return f'{{"seq":{seq},"time":{when!r},"turn":{encode(turn)},"kind":"{kind}","data":{data}}}'


def _seq(text: str) -> int:
    """The seq of an event in our own wire form."""
    return int(text[len('{"seq":') : text.index(",")])
