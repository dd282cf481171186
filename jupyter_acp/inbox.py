"""What an agent says, as it becomes the session's log. Called in the order of its lines, never awaits.

Not here: what becomes of its requests (agentrequests.py).
https://agentclientprotocol.com/protocol/prompt-turn
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from . import options
from .answer import Answer
from .events import JsonObject, Kind
from .exceptions import AgentError
from .journal import Journal
from .jsonrpc import RequestId
from .permissions import ELICITATION, PERMISSION
from .store import Store
from .terminaltail import Piece, TerminalTails
from .updates import ToolCalls, translate

log = logging.getLogger(__name__)

_DELTAS = {"agent_message_chunk": Kind.MESSAGE_DELTA, "agent_thought_chunk": Kind.THOUGHT_DELTA}
_BAD_LINES_SHOWN = 20
_PIECE = 64 << 10


@dataclass(slots=True, kw_only=True)
class Callbacks:
    """What the inbox cannot decide itself."""

    ask: Callable[[RequestId, str, JsonObject], None]
    delegate: Callable[[RequestId, str, JsonObject], None]
    withdrawn: Callable[[RequestId], None]
    elicitation_done: Callable[[str], object]
    shown: Callable[[str, object], None]
    called: Callable[[JsonObject], None]
    titled: Callable[[str], None]
    closed: Callable[[AgentError], None]


class Inbox:
    """The connection's handler (see `jsonrpc.Handler`).

    `turn` is the id of the active turn or None; `session_id` the agent's own id, None until the agent has given it:
    updates that come before are kept. While `replaying`, the history that `session/load` repeats is not logged again.
    `delegated` tells whether a terminal is one that the agent had us make.
    """

    def __init__(self, journal: Journal, store: Store, callbacks: Callbacks, *, placement: str) -> None:
        self._journal = journal
        self._store = store
        self._call = callbacks
        self._placement = placement
        self.turn: str | None = None
        self.session_id: str | None = None
        self.replaying = False
        self.options: list[JsonObject] = []
        self.delegated: Callable[[str], bool] = lambda terminal_id: False
        self.tool_calls = self._no_calls()
        self.answer = Answer()
        self._early: list[JsonObject] = []
        self._tails = TerminalTails()
        self._commands: JsonObject | None = None
        self._message: object = None
        self._break = False
        self._thoughts = 0
        self._thinking = False
        self._bad_lines = 0

    def begin(self, turn: str) -> None:
        """A turn starts: its messages are new."""
        self.turn = turn
        self.answer = Answer()
        self._message = None
        self._break = False
        self._thoughts = 0
        self._thinking = False
        self._bad_lines = 0

    def opened(self, session_id: str) -> None:
        """The agent has given its session id: what came before is applied now."""
        self.session_id = session_id
        early, self._early = self._early, []
        for params in early:
            self._session_update(params)

    def restarted(self) -> None:
        """A new process of the agent: nothing of the old one is open."""
        self.tool_calls = self._no_calls()
        self._early = []
        self.session_id = None

    def _no_calls(self) -> ToolCalls:
        return ToolCalls(lambda terminal_id: self.delegated(terminal_id), placement=self._placement)

    def asked(self, tool_call: JsonObject) -> None:
        """Log what a question tells of a tool call that the call itself has not."""
        self._log_call(self.tool_calls.asked(tool_call))

    def carried_out(self, method: str, params: JsonObject) -> str | None:
        """Log that a tool call is carried out by us: its id, or None where nobody knows for which a request is made."""
        known = self.session_id is not None and params.get("sessionId") == self.session_id
        call_id = self.tool_calls.named_by(method, params) if known else None
        if call_id is not None:
            self._log_call(self.tool_calls.delegated(call_id))
        return call_id

    def show_terminal(self, call_id: str, terminal_id: str) -> None:
        """Log that a tool call's command runs in a terminal of ours."""
        self._log_call(self.tool_calls.delegated(call_id, terminal_id))

    def end_terminals(self) -> None:
        """Log what is held back of commands of which no end was told."""
        for terminal_id, piece in self._tails.ended_all():
            self._output(terminal_id, piece)

    def close_tool_calls(self, status: str) -> None:
        """Give every tool call that the agent left open an end."""
        self.end_terminals()
        for call in self.tool_calls.close_open(status):
            self._log_call(call)

    # --- jsonrpc.Handler ---------------------------------------------------------------------------------------------

    def notification(self, method: str, params: JsonObject) -> None:
        if method == "session/update":
            self._session_update(params)
        elif method == "$/cancel_request":
            request_id = params.get("requestId")
            if isinstance(request_id, str | int):
                self._call.withdrawn(request_id)
        elif method == "elicitation/complete":
            self._call.elicitation_done(str(params.get("elicitationId")))
        else:
            # Five such methods are in the wild (_auth/status_update ...); none asks anything of us.
            log.debug("the agent sent the notification %s", method)

    def request(self, id: RequestId, method: str, params: JsonObject) -> None:
        if method in (PERMISSION, ELICITATION):
            self._call.ask(id, method, params)
        else:
            self._call.delegate(id, method, params)

    def bad_line(self, reason: str, excerpt: str) -> None:
        log.warning("the agent wrote a line that is no message (%s): %r", reason, excerpt[:200])
        self._bad_lines += 1
        if self._bad_lines <= _BAD_LINES_SHOWN:
            data = {"severity": "warning", "title": f"The agent wrote a line that is no message: {reason}"}
            self._journal.append(Kind.NOTICE, data, turn=self.turn)

    async def drain(self) -> None:
        await self._journal.settled()
        await self._store.room()

    def closed(self, error: AgentError) -> None:
        self._call.closed(error)

    # --- updates -----------------------------------------------------------------------------------------------------

    def _session_update(self, params: JsonObject) -> None:
        update = params.get("update")
        if not isinstance(update, dict):
            self.bad_line("session/update without an update", repr(params)[:200])
            return
        session_id = params.get("sessionId")
        if session_id != self.session_id:
            if self.session_id is None:
                if len(self._early) < 10_000:
                    self._early.append(params)
                return
            self._journal.append(Kind.UNKNOWN_UPDATE, {"update": update, "session_id": session_id}, turn=self.turn)
            return
        name = update.get("sessionUpdate")
        kind = _DELTAS.get(name) if type(name) is str else None
        if kind is not None and not self.replaying:
            content = update.get("content")
            if type(content) is dict and type(text := content.get("text")) is str and content.get("type") == "text":
                self._text(kind, text, update.get("messageId"))
                return
        self._other(name, update)

    def _text(self, kind: Kind, text: str, message_id: object) -> None:
        owner = self.turn or "between"
        if kind is Kind.THOUGHT_DELTA:
            if not self._thinking:
                self._thinking = True
                self._thoughts += 1
            self._journal.delta(kind, f"{owner}-thought-{self._thoughts}", text, turn=self.turn)
            return
        self._thinking = False
        if message_id != self._message or self._break:
            if self.answer and text and (self._break or self._message is not None):
                text = "\n\n" + text
            self._message = message_id
            self._break = False
        self.answer.append(text)
        self._journal.delta(kind, f"{owner}-agent", text, turn=self.turn)

    def _other(self, name: object, update: JsonObject) -> None:
        if name in ("config_option_update", "current_mode_update"):
            told = options.apply_update(self.options, update)
            if told != self.options:
                self.options = told
                self._call.shown("config_options", told)
        elif name == "session_info_update":
            if isinstance(title := update.get("title"), str) and title:
                self._call.titled(title)
        elif name in ("available_commands_update", "usage_update"):
            for kind, data in translate(update):
                if kind is Kind.COMMANDS:
                    if data == self._commands:
                        continue  # pydantic-acp says them again after every setting
                    self._commands = data
                if kind is not Kind.UNKNOWN_UPDATE:
                    self._call.shown(kind, data)
                self._journal.append(kind, data, turn=self.turn)
        elif self.replaying or name == "user_message_chunk":
            # The history is in our log, and an echo of the prompt (vibe) is no second message.
            return
        elif name in ("tool_call", "tool_call_update"):
            self._break = bool(self.answer)
            self._thinking = False
            self._tool_call(update)
        else:
            self._thinking = False
            for kind, data in translate(update):
                if kind in (Kind.MESSAGE_DELTA, Kind.THOUGHT_DELTA):
                    data = {"message_id": f"{self.turn or 'between'}-agent", **data}
                self._journal.append(kind, data, turn=self.turn)

    def _log_call(self, call: JsonObject | None) -> None:
        if call is not None:
            self._journal.merge(Kind.TOOL_CALL, "toolCallId", call, turn=self.turn)
            self._call.called(call)

    def _output(self, terminal_id: str, piece: Piece | None) -> None:
        if piece is None:
            return
        text, gap = piece
        if not gap and len(text) <= _PIECE:
            self._journal.delta(Kind.TERMINAL_OUTPUT, terminal_id, text, turn=self.turn)
            return
        for at in range(0, len(text), _PIECE):
            event: JsonObject = {"terminal_id": terminal_id, "data": text[at : at + _PIECE]}
            if gap and not at:
                event["truncated"] = True
            self._journal.append(Kind.TERMINAL_OUTPUT, event, turn=self.turn)

    def _tool_call(self, update: JsonObject) -> None:
        for kind, data in self.tool_calls.apply(update):
            if kind is Kind.TOOL_CALL:
                self._log_call(data)
            elif kind is Kind.TERMINAL_OUTPUT:
                now = time.monotonic()
                self._output(data["terminal_id"], self._tails.output(data["terminal_id"], data["data"], now))
            elif kind is Kind.TERMINAL_EXITED:
                self._output(data["terminal_id"], self._tails.ended(data["terminal_id"]))
                self._journal.append(kind, data, turn=self.turn)
            else:
                self._journal.append(kind, data, turn=self.turn)
