"""What a restart finds of a session, and what it makes of it.

Theory of operation. The runner is asked which message the agent got last, and what it did not get is sent again: the
prompt of the turn that runs, answers to questions. The chat gets what a crash kept from it, which the log has.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from .access import FULL_ACCESS
from .answer import Answer
from .chatfile import ChatFile
from .conversation import Conversation
from .delegation import Delegation
from .events import JsonObject, Kind
from .exceptions import AgentError, NotFound, RequestError
from .host import AgentHost
from .inbox import Inbox
from .journal import Journal
from .questions import Questions
from .records import TurnRow
from .sessionrecord import SessionRecord
from .store import Store
from .turnloop import TurnLoop
from .turnqueue import TurnQueue

if TYPE_CHECKING:  # loaded with the first session: a server's start does not wait for it
    from .turnchanges import TurnChanges

log = logging.getLogger(__name__)

#: of each session are looked for in its chat
NEWEST_TURNS = 3


@dataclass(slots=True)
class Logged:
    """What the log has of one turn: the agent's text, its tool calls by id, and the data and time of its end."""

    answer: Answer = field(default_factory=Answer)
    tool_calls: dict[str, JsonObject] = field(default_factory=dict)
    ended: JsonObject | None = None
    ended_at: float = 0.0


def unanswered(turns: Iterable[TurnRow], chat: ChatFile) -> list[TurnRow]:
    """Those that have ended and whose answer the chat lacks: only the log has it."""
    return [turn for turn in turns if turn.stop_reason is not None and not chat.has(f"{turn.id}-agent")]


async def logged(store: Store, session_id: str, turn_id: str) -> Logged:
    """Read a turn's events."""
    found = Logged()
    after = 0
    while events := await store.turn_events(session_id, turn_id, after):
        for event in map(json.loads, events):
            after, kind, data = event["seq"], event["kind"], event["data"]
            if kind == Kind.MESSAGE_DELTA and data.get("role") == "agent":
                found.answer.append(data.get("text", ""))
            elif kind == Kind.TOOL_CALL:
                found.tool_calls[data["toolCallId"]] = data
            elif kind == Kind.TURN_ENDED:
                found.ended, found.ended_at = data, event["time"]
    return found


async def spare(store: Store, root: Path, session_id: str, through: int) -> int:
    """How much of a log up to `through` is not needed: a restart completes the chat file from the newest turns."""
    newest = await store.newest_turns(session_id, NEWEST_TURNS)
    row = await store.session(session_id)
    if row is None or not newest or through < (newest[0].started_seq or 0):
        return through
    try:
        # the file, not what a session has in memory
        chat = await ChatFile.look(root, row.path)
    except NotFound:
        return through  # a person has deleted the conversation
    except (RequestError, OSError) as exc:
        log.warning("session=%s the newest activity is kept, the chat cannot be read: %s", session_id, exc)
        return min(through, (newest[0].started_seq or 0) - 1)
    if chat.read_only is None and chat.id != row.chat_id:
        return through  # another conversation has taken its place
    return min([through, *((turn.started_seq or 0) - 1 for turn in unanswered(newest, chat))])


class Recovery:
    """One session goes on where an earlier coordinator stopped."""

    def __init__(
        self,
        record: SessionRecord,
        *,
        store: Store,
        journal: Journal,
        turns: TurnQueue,
        inbox: Inbox,
        host: AgentHost,
        questions: Questions,
        loop: TurnLoop,
        delegation: Delegation | None,
        conversation: Conversation,
        changes: TurnChanges,
    ) -> None:
        self._record = record
        self._store = store
        self._journal = journal
        self._turns = turns
        self._inbox = inbox
        self._host = host
        self._questions = questions
        self._loop = loop
        self._delegation = delegation
        self._conversation = conversation
        self._changes = changes

    async def run(self, turns: list[TurnRow]) -> None:
        """Restore everything; `turns` are those not ended. The turn loop is not started."""
        self._turns.restore(turns)
        if self._turns.active is not None:
            await self._restore_turn(self._turns.active.id)
        await self._complete_chat()
        self._questions.restore(await self._store.permissions(self._record.row.id))
        await self._host.sweep(keep=self._record.row.runner)
        if self._record.row.runner is not None:
            await self._attach(self._record.row.runner)
        elif self._turns.active is not None and self._turns.active.number is not None:
            await self._loop.abandon("the server stopped during this turn and its agent is gone")

    async def _attach(self, runner: str) -> None:
        """Take the agent over from an earlier coordinator, and send again what the crash kept from it."""
        row = self._record.row
        known = row.shown.get("agent")
        turn = self._turns.active
        answered = await self._store.permissions(row.id, number_above=0)
        numbers = [row.number, *(p.number for p in answered if p.number), (turn and turn.number) or 0]
        try:
            link = await self._host.attach(runner, row.position, max(numbers))
        except AgentError as exc:
            self._record.save(runner=None)
            self._journal.append(
                Kind.AGENT_EXITED,
                {"code": None, "signal": None, "stderr_tail": "", "message": str(exc)},
                turn=turn.id if turn else None,
            )
            if turn is not None and turn.number is not None:
                await self._loop.abandon("the agent ended while the server was away")
            return
        assert row.agent_session_id is not None and self._host.connection is not None
        self._inbox.session_id = row.agent_session_id
        agent = self._host.resume(known or {}, row.shown.get("access", FULL_ACCESS))
        connection = self._host.connection
        log.info("session=%s attached to runner %s", row.id, runner)
        unsent = [p for p in answered if p.number is not None and p.number > link.last_input]
        if turn is not None and turn.number is not None and turn.request_id is not None:
            if turn.number > link.last_input:
                sent = agent.prompt(row.agent_session_id, turn.prompt, id=turn.request_id, number=turn.number)
                self._loop.resume(sent)
            else:
                self._loop.resume(agent.answered(turn.request_id))
        if self._delegation is not None:
            await self._delegation.answer_lost(await self._store.delegated(row.id))
        for row_ in sorted(unsent, key=lambda p: p.number or 0):
            assert row_.answer is not None
            await connection.respond(row_.request_id, row_.answer, number=row_.number)

    async def _restore_turn(self, turn_id: str) -> None:
        """What the agent has said and done so far in a turn that goes on."""
        found = await logged(self._store, self._record.row.id, turn_id)
        self._changes.resume(turn_id)
        self._inbox.begin(turn_id)
        self._inbox.answer = found.answer
        for call in found.tool_calls.values():
            self._inbox.tool_calls.restore(call)
            self._changes.call(turn_id, call)

    async def _complete_chat(self) -> None:
        """Give the chat the newest messages where a crash came between the log and the file."""
        chat = self._conversation.chat
        if chat.read_only or chat.id != self._record.row.chat_id:
            return
        newest = await self._store.newest_turns(self._record.row.id, NEWEST_TURNS)
        lacking = unanswered(newest, chat)
        for turn in newest:
            if not chat.has(f"{turn.id}-user"):
                self._conversation.add_prompt(turn)
                self._conversation.save()
            if turn in lacking:
                assert turn.stop_reason is not None
                found = await logged(self._store, self._record.row.id, turn.id)
                ended = found.ended or {}
                self._conversation.add_answer(
                    turn,
                    str(found.answer),
                    turn.stop_reason,
                    ended.get("error"),
                    ended.get("changes"),
                    at=found.ended_at or None,
                )
