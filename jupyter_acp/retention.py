"""How long the activity of a project is kept: by age, by size, or until a person discards it. No SQL.

Theory of operation. Activity is the events of turns that have ended. Only whole turns go, and always the beginning of
a log: what is decided is a seq per session, up to which everything goes. It goes in small steps, each a transaction
between two commits of running turns, with a pause as long as the step; then the free pages are given back to the file
system in the same manner. A crash in between leaves a log that begins in mid turn, and the next round goes on.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from .exceptions import Conflict
from .store import Step, Store

log = logging.getLogger(__name__)

#: aimed at: who appends waits for one step at most, and for the disk
STEP_SECONDS = 0.005
_FIRST_STEP = 50
_LARGEST_STEP = 5000


class Retention:
    """The limits of one project.

    Parameters
    ----------
    root
        The project's folder, as the sessions name it.
    days, size
        How long activity is kept after the end of its turn, and how many bytes of it there may be (the data of the
        events, what can never be removed included). 0: without limit.
    spare
        Given a session and a seq: up to where its log may go, that seq or less. The conversation is never removed, so
        the log stays where the chat file lacks an answer.
    removed
        Told of each session whose log begins later now, and with which seq.
    """

    def __init__(
        self,
        store: Store,
        root: str,
        *,
        days: float,
        size: int,
        spare: Callable[[str, int], Awaitable[int]],
        removed: Callable[[str, int], None],
    ) -> None:
        self._store = store
        self._root = root
        self._days = days
        self._size = size
        self._spare = spare
        self._removed = removed

    async def round(self) -> None:
        """Remove what is too old, then the oldest of what is too much. StoreError where the database refuses."""
        if self._days > 0:
            for session_id, through in (await self._too_old(time.time() - self._days * 86400)).items():
                await self._remove(session_id, through)
        # The pages of the whole database are an upper bound of the project's events, and cost nothing to count.
        if 0 < self._size < await self._store.used():
            for session_id, through in (await self._too_much()).items():
                await self._remove(session_id, through)
        await self.vacuum()

    async def discard(self, session_id: str) -> None:
        """Remove the activity of every ended turn of a session. Conflict where the chat file lacks an answer."""
        if ends := await self._store.ends(session_id):
            through = ends[-1][0]
            if await self._spare(session_id, through) < through:
                raise Conflict("the chat file does not have the newest answers yet: try again", "chat_not_saved")
            await self._remove(session_id, through)

    async def vacuum(self) -> None:
        """Give the space of what was removed back to the file system."""
        await self._in_steps(self._store.vacuum)

    async def _too_old(self, oldest: float) -> dict[str, int]:
        cuts: dict[str, int] = {}
        for session_id in await self._store.logs(self._root):
            for seq, ended in await self._store.ends(session_id):
                if ended >= oldest:
                    break
                cuts[session_id] = seq
        return cuts

    async def _too_much(self) -> dict[str, int]:
        """Where each log has to begin, whole turns of all sessions taken away oldest first, for the rest to fit."""
        spans: list[tuple[float, str, int, int]] = []
        total = 0
        for session_id in await self._store.logs(self._root):
            after, latest = 0, 0.0
            for seq, ended in await self._store.ends(session_id):
                size = await self._store.size(session_id, after, seq)
                # order within a session is that of seq, whatever the clock did
                after, latest = seq, max(latest, ended)
                spans.append((latest, session_id, seq, size))
                total += size
            total += await self._store.size(session_id, after)
        cuts: dict[str, int] = {}
        for _, session_id, seq, size in sorted(spans, key=lambda span: span[0]):
            if total <= self._size:
                break
            cuts[session_id] = seq
            total -= size
        return cuts

    async def _remove(self, session_id: str, through: int) -> None:
        through = await self._spare(session_id, through)
        before = await self._store.first_seq(session_id)
        try:
            await self._in_steps(lambda events: self._store.remove(session_id, through, events))
        finally:
            # Where a step failed, too: a client that is not told would ask for what is gone again and again.
            first = await self._store.first_seq(session_id)
            if first != before:
                log.info("session=%s %d events removed", session_id, first - before)
                self._removed(session_id, first)

    async def _in_steps(self, step: Callable[[int], Awaitable[Step]]) -> None:
        """Repeat `step`, of a size that takes STEP_SECONDS, until it has left nothing to do."""
        size = _FIRST_STEP
        while (done := await step(size)).more:
            factor = min(2.0, STEP_SECONDS / max(done.seconds, 1e-6))
            size = min(_LARGEST_STEP, max(1, int(size * factor)))
            # Else a commit does it once 1000 pages wait, with two syncs: appends then waited up to 60 ms, now 12.
            await self._store.checkpoint()
            # the writer is theirs who append for as long as it was ours
            await asyncio.sleep(done.seconds)
