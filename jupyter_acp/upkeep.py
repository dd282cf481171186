"""What is done now and then for the sessions of a project: old activity goes, agents that nobody needs are ended."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from .exceptions import StoreError
from .recovery import spare
from .retention import Retention
from .session import Session
from .store import Store
from .tasks import Tasks

if TYPE_CHECKING:
    from .diffs.tracker import ChangeTracker

log = logging.getLogger(__name__)

#: after the start, when people wait for their first page; then as often as that
FIRST_ROUND_SECONDS = 60.0
ROUND_SECONDS = 3600.0


class Upkeep:
    """See the module.

    Parameters
    ----------
    root
        The project's folder.
    days, size
        See `Retention`; for what is kept of changed files too.
    idle
        Seconds without a request after which an agent is ended; 0: never.
    sessions
        Those that are open, as they come and go.
    tracker
        Gives what follows the changes of the project's files.
    tasks
        What is done in the background ends with these.
    """

    def __init__(
        self,
        store: Store,
        root: Path,
        *,
        days: float,
        size: int,
        idle: float,
        sessions: Mapping[str, Session],
        tracker: Callable[[], ChangeTracker],
        tasks: Tasks,
    ) -> None:
        self._days = days
        self._size = size
        self._idle = idle
        self._sessions = sessions
        self._tracker = tracker
        self._tasks = tasks
        self._retention = Retention(
            store,
            str(root),
            days=days,
            size=size,
            spare=lambda session_id, through: spare(store, root, session_id, through),
            removed=self._log_begins,
        )

    def start(self) -> None:
        """Begin to work, in the background."""
        self._tasks.spawn(self._keep_limits(), "retention")
        if self._idle > 0:
            self._tasks.spawn(self._rest(self._idle), "rest")

    async def enforce_limits(self) -> None:
        """One round of what DESIGN 8 says of the log: activity that is too old or too much goes."""
        await self._retention.round()
        await self._tracker().keep_limits(days=self._days, size=self._size)

    async def discard(self, session: Session) -> None:
        """Remove what turns that have ended left in the log of a session; the conversation stays.

        Returns once it is gone. Conflict where the chat file cannot be written: only the log has the newest answers.
        """
        await session.conversation.close()  # writes what waits; it goes on afterwards
        await self._retention.discard(session.row.id)
        await self._tracker().forget(session.row.id)
        await session.activity_discarded()
        self._tasks.spawn(self._retention.vacuum(), "vacuum")

    async def _keep_limits(self) -> None:
        """For ever: a round now and then."""
        await asyncio.sleep(FIRST_ROUND_SECONDS)
        while True:
            try:
                await self.enforce_limits()
            except StoreError as exc:
                log.warning("old activity was not removed: %s", exc)
            await asyncio.sleep(ROUND_SECONDS)

    async def _rest(self, idle: float) -> None:
        """For ever: end the agents that nobody needs now."""
        while True:
            await asyncio.sleep(min(ROUND_SECONDS, idle) / 60)
            for session in list(self._sessions.values()):
                try:
                    if await session.rest(idle):
                        log.info("session=%s its agent was ended after %.0f s without a request", session.row.id, idle)
                except StoreError as exc:
                    log.warning("session=%s its idle agent was not ended: %s", session.row.id, exc)

    def _log_begins(self, session_id: str, first_seq: int) -> None:
        if session := self._sessions.get(session_id):
            session.first_seq = first_seq
