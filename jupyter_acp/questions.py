"""The questions of one session's agent that wait for a person. An answer is on disk before the agent hears it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Protocol

from . import permissions
from .events import JsonObject, Kind
from .exceptions import AgentError, BadRequest, Conflict, NotFound
from .journal import Journal
from .jsonrpc import RequestId
from .records import PermissionRow
from .store import Store

log = logging.getLogger(__name__)


class Responder(Protocol):
    """The part of a connection that answers."""

    def reserve(self) -> int: ...

    async def respond(self, id: RequestId, result: object, *, number: int | None = None) -> None: ...


class Questions:
    """Pending permission requests and elicitations.

    Parameters
    ----------
    responder
        Gives the present connection, or None where no agent is connected.
    changed
        Called after the set of pending questions has changed, before the commit.
    timeout
        Seconds until a question that nobody answers is answered `cancelled`.
    """

    def __init__(
        self,
        session_id: str,
        journal: Journal,
        store: Store,
        *,
        responder: Callable[[], Responder | None],
        changed: Callable[[], None],
        timeout: float,
    ) -> None:
        self._session_id = session_id
        self._journal = journal
        self._store = store
        self._responder = responder
        self._changed = changed
        self._timeout = timeout
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.pending: dict[str, PermissionRow] = {}

    def restore(self, rows: list[PermissionRow]) -> None:
        """Take over what an earlier coordinator left unanswered."""
        for row in rows:
            self.pending[row.id] = row
            self._arm(row)

    def ask(
        self, request_id: RequestId, method: str, params: JsonObject, call: JsonObject | None, turn: str | None
    ) -> PermissionRow:
        """Log a new question. BadRequest where the agent's request cannot be answered."""
        question_id = uuid.uuid4().hex
        row = PermissionRow(
            id=question_id,
            session_id=self._session_id,
            turn=turn,
            request_id=request_id,
            request=permissions.question(question_id, method, params, call),
            asked=time.time(),
        )
        self.pending[row.id] = row
        self._arm(row)
        self._journal.append(Kind.PERMISSION_REQUESTED, row.request, turn=turn, changes=[row.save()])
        self._changed()
        return row

    async def answer(self, question_id: str, option_id: str, content: JsonObject | None, by: str) -> None:
        """Record a person's choice, then tell the agent.

        NotFound for an unknown question, Conflict for one already resolved, BadRequest for a choice not offered.
        """
        row = self.pending.get(question_id)
        if row is None:
            known = await self._store.permission(question_id)
            if known is None or known.session_id != self._session_id:
                raise NotFound(f"there is no question {question_id}", "unknown_permission")
            raise Conflict("this question is resolved already", "permission_resolved")
        if not isinstance(content, dict | None):
            raise BadRequest("content must be an object")
        result = permissions.answer(row.request, option_id, content)
        await self._resolve(row, result, {"outcome": "selected", "option_id": option_id, "by": by})

    async def cancel_all(self, outcome: str = "cancelled") -> None:
        """Answer every pending question `cancelled`: the turn is cancelled, or the agent gone."""
        for row in list(self.pending.values()):
            await self._cancel(row, outcome)

    def withdrawn(self, request_id: RequestId) -> bool:
        """The agent no longer wants an answer; one is due all the same. False where no question has this id."""
        return self._cancel_where(lambda row: row.request_id == request_id)

    def finished(self, elicitation_id: str) -> bool:
        """A URL elicitation was completed elsewhere."""
        return self._cancel_where(lambda row: row.request.get("elicitation", {}).get("elicitationId") == elicitation_id)

    async def close(self) -> None:
        """Stop the clocks; the questions stay pending."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _cancel_where(self, chosen: Callable[[PermissionRow], bool]) -> bool:
        found = [row for row in self.pending.values() if chosen(row)]
        for row in found:
            self._start(self._cancel(row, "cancelled"))
        return bool(found)

    async def _cancel(self, row: PermissionRow, outcome: str) -> None:
        if row.id in self.pending:
            await self._resolve(row, permissions.cancelled(row.request), {"outcome": outcome})

    async def _resolve(self, row: PermissionRow, result: JsonObject, outcome: JsonObject) -> None:
        del self.pending[row.id]
        if timer := self._timers.pop(row.id, None):
            timer.cancel()
        responder = self._responder()
        number = responder.reserve() if responder else None
        done = replace(row, answer=result, number=number)
        self._journal.append(Kind.PERMISSION_RESOLVED, {"id": row.id, **outcome}, turn=row.turn, changes=[done.save()])
        self._changed()
        try:
            await self._journal.commit(durable=True)
        finally:
            # Even where the disk is full: the agent must not wait for ever, and the number is taken.
            if responder is not None:
                with contextlib.suppress(AgentError):
                    await responder.respond(row.request_id, result, number=number)

    def _arm(self, row: PermissionRow) -> None:
        left = max(0.0, row.asked + self._timeout - time.time())
        loop = asyncio.get_running_loop()
        self._timers[row.id] = loop.call_later(left, lambda: self._start(self._cancel(row, "expired")))

    def _start(self, work: Awaitable[None]) -> None:
        async def run() -> None:
            await work

        task = asyncio.create_task(run(), name="acp-question")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
