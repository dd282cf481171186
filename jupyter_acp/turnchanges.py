"""The files that the turns of one session change, for those who run the turns. The tracker is the project's."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection

from .diffs.report import FileChange, totals
from .diffs.tracker import ChangeTracker
from .events import JsonObject

log = logging.getLogger(__name__)

#: the first look at a folder holds the first prompt back, for so long; no later one does
FIRST_LOOK_SECONDS = 2.0
#: the machine is the prompt's own first; a look is right however late it comes
LATER_SECONDS = 0.05
#: how long the end of a turn waits for what it has changed; it is kept all the same
LAST_LOOK_SECONDS = 5.0


class TurnChanges:
    """What the turns of session `session_id` change beneath the folder `cwd`."""

    def __init__(self, tracker: ChangeTracker, session_id: str, cwd: str) -> None:
        self._tracker = tracker
        self._session_id = session_id
        self._scope = tracker.relative(cwd) or "."
        self._tasks: set[asyncio.Future[None]] = set()

    def name(self, turn_id: str) -> str:
        """The name of a turn's record."""
        return f"{self._session_id}/{turn_id}"

    def prepare(self) -> None:
        """Look at the folder for the first time, in the background."""
        self._spawn(asyncio.ensure_future(self._tracker.prepare(self._scope)))

    def begin(self, turn_id: str) -> None:
        """A turn begins now."""
        self._tracker.begin(self.name(turn_id), self._scope)
        self._spawn(asyncio.ensure_future(self._settle()))

    async def _settle(self) -> None:
        if self._tracker.looked(self._scope):
            await asyncio.sleep(LATER_SECONDS)
        await self._tracker.settle()

    def resume(self, turn_id: str) -> None:
        """A turn goes on that an earlier coordinator has begun."""
        self._tracker.resume(self.name(turn_id), self._scope)

    async def ready(self) -> None:
        """Return once the folder was looked at, or soon: what an agent changes before that has no before."""
        if self._tasks and not self._tracker.looked(self._scope):
            await asyncio.wait(set(self._tasks), timeout=FIRST_LOOK_SECONDS)

    def call(self, turn_id: str | None, data: JsonObject) -> None:
        """A tool call of a turn, as the log has it."""
        if turn_id is not None:
            self._tracker.call(self.name(turn_id), data)

    async def writes(self, turn_id: str | None, path: str) -> str:
        """The agent has us write a file, next; its path as the log has it."""
        if turn_id is not None:
            await self._tracker.writes(self.name(turn_id), path)
        return self._tracker.relative(path) or path

    async def end(self, turn_id: str) -> list[FileChange]:
        """What a turn has changed that ends now."""
        try:
            async with asyncio.timeout(LAST_LOOK_SECONDS):
                return await self._tracker.end(self.name(turn_id))
        except TimeoutError:
            log.warning("session=%s turn=%s its changes are not known yet", self._session_id, turn_id)
        except Exception:  # no mistake in here may keep a turn from its end
            log.exception("session=%s turn=%s its changes are not known", self._session_id, turn_id)
        return []

    def totals(self, files: list[FileChange]) -> JsonObject | None:
        """See `report.totals`."""
        return totals(files)

    async def diff(self, turn_id: str) -> JsonObject:
        """See `ChangeTracker.diff`."""
        return await self._tracker.diff(self.name(turn_id))

    async def revert(self, turn_id: str, paths: Collection[str] | None) -> list[str]:
        """See `ChangeTracker.revert`."""
        return await self._tracker.revert(self.name(turn_id), paths)

    async def close(self) -> None:
        """Begin no look any more. Idempotent."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _spawn(self, work: asyncio.Future[None]) -> None:
        self._tasks.add(work)
        work.add_done_callback(self._done)

    def _done(self, work: asyncio.Future[None]) -> None:
        self._tasks.discard(work)
        if not work.cancelled() and (exc := work.exception()) is not None:
            log.error("session=%s its changes cannot be followed", self._session_id, exc_info=exc)
