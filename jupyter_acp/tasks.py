"""Tasks of one owner: each is named, what fails is said in the server's log, and all of them end together."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

log = logging.getLogger(__name__)


class Tasks:
    """See the module.

    Parameters
    ----------
    owner
        What the line of a failure begins with, as in `session=…`.
    told
        Failures that are said elsewhere.
    """

    def __init__(self, owner: str, told: tuple[type[BaseException], ...] = ()) -> None:
        self._owner = owner
        self._told = told
        self._tasks: set[asyncio.Task[None]] = set()

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Begin `work`."""
        task = asyncio.create_task(work, name=f"acp-{name}")
        self._tasks.add(task)
        task.add_done_callback(self._reaped)
        return task

    async def end(self) -> None:
        """Cancel every task but the present one; returns when they have ended."""
        tasks = [task for task in self._tasks if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _reaped(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (exc := task.exception()) is not None and not isinstance(exc, self._told):
            log.error("%s %s failed", self._owner, task.get_name(), exc_info=exc)
