"""What an agent asks for: a person's answer, or a call that is carried out in the project. Each request is answered.

https://agentclientprotocol.com/protocol/tool-calls#requesting-permission
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable

from .delegation import METHOD_NOT_FOUND, Delegation
from .events import JsonObject
from .exceptions import AgentError, BadRequest
from .inbox import Inbox
from .jsonrpc import Connection, RequestId
from .permissions import tool_call_id
from .questions import Questions
from .tasks import Tasks
from .turn import TurnState
from .turnqueue import TurnQueue

log = logging.getLogger(__name__)


class AgentRequests:
    """The requests of one session's agent, in the order of its lines.

    `delegation` is None where the agent carries out its calls itself; `connection` gives the present one.
    """

    def __init__(
        self,
        session_id: str,
        *,
        turns: TurnQueue,
        inbox: Inbox,
        questions: Questions,
        delegation: Delegation | None,
        connection: Callable[[], Connection | None],
        tasks: Tasks,
    ) -> None:
        self._session_id = session_id
        self._turns = turns
        self._inbox = inbox
        self._questions = questions
        self._delegation = delegation
        self._connection = connection
        self._tasks = tasks

    def ask(self, request_id: RequestId, method: str, params: JsonObject) -> None:
        """Put a question to people."""
        active = self._turns.active
        call_id = tool_call_id(params)
        if isinstance(told := params.get("toolCall"), dict):
            self._inbox.asked(told)
        call = self._inbox.tool_calls.get(call_id) if call_id else None
        try:
            row = self._questions.ask(request_id, method, params, call, active.id if active else None)
        except BadRequest as exc:
            self._refuse(request_id, -32602, exc.message)
            return
        if active is not None and active.state is TurnState.CANCELLING:
            self._tasks.spawn(self._questions.cancel_all(), f"questions-{self._session_id}")
        log.info("session=%s turn=%s requires_action (%s %s)", self._session_id, active and active.id, method, row.id)

    def delegate(self, request_id: RequestId, method: str, params: JsonObject) -> None:
        """Carry out a call, or say that it cannot be had."""
        if self._delegation is None:
            self._refuse(request_id, METHOD_NOT_FOUND, f"{method} is not supported by this client")
        else:
            self._delegation.start(request_id, method, params)

    def withdrawn(self, request_id: RequestId) -> None:
        """The agent no longer wants an answer."""
        if not self._questions.withdrawn(request_id) and self._delegation is not None:
            self._delegation.cancel(request_id)

    def _refuse(self, request_id: RequestId, code: int, message: str) -> None:
        async def send() -> None:
            if (connection := self._connection()) is not None:
                with contextlib.suppress(AgentError):
                    await connection.respond_error(request_id, code, message)

        self._tasks.spawn(send(), f"refusal-{self._session_id}")
