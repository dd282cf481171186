"""One ACP session: what people do to it, and how its parts work together. The only writer of its events.

Theory of operation. Commands (submit, interrupt, answer …) change rows and log in one commit and return. The turns
themselves are run by turnloop.py; supervisor.py sees to the agent, and recovery.py goes on after a crash.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .agentrequests import AgentRequests
from .agentspec import AgentSpec
from .chatfile import ChatFile
from .conversation import Conversation
from .delegation import Delegation
from .editortexts import EditorTexts
from .events import JsonObject, Kind
from .exceptions import AgentError, Conflict, NotAllowed, NotFound, StoreError
from .host import AgentHost
from .inbox import Callbacks, Inbox
from .journal import Journal
from .prompts import prompt_blocks
from .questions import Questions
from .records import SessionRow, TurnRow
from .recovery import Recovery
from .runner_link import TakenOver
from .sessionrecord import SessionRecord
from .store import Store
from .supervisor import AgentSupervisor
from .tasks import Tasks
from .turn import StopReason, TurnEvent, TurnState
from .turnloop import TurnLoop
from .turnqueue import TurnQueue

if TYPE_CHECKING:  # loaded with the first session: a server's start does not wait for it
    from .turnchanges import TurnChanges

log = logging.getLogger(__name__)

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of one session; times in seconds (DESIGN 8)."""

    queue: int = 100
    permission_timeout: float = 8 * 3600.0
    cancel_grace: float = 5.0
    kill_grace: float = 5.0


class Session:
    """See the module. Build with the collaborators, then `recover` or `open`, at last `detach` or `close`.

    `broken` is called at most once, when this object can no longer write its session (another coordinator took over,
    or the disk refused a commit): the owner drops it and may open the session again from the database.
    """

    def __init__(
        self,
        row: SessionRow,
        *,
        store: Store,
        chat: ChatFile,
        spec: AgentSpec,
        first_seq: int,
        last_seq: int,
        position: int,
        turn_ids: set[str],
        host: Callable[[Inbox], AgentHost],
        delegation: Callable[[Session], Delegation] | None,
        changes: TurnChanges,
        limits: Limits,
        access: list[JsonObject],
        broken: Callable[[Session, BaseException], None],
    ) -> None:
        self.chat = chat
        self.conversation = Conversation(chat, spec, self._chat_failed)
        self.spec = spec
        #: the oldest event that is kept; whoever removes some says so here
        self.first_seq = first_seq
        self.changes = changes
        self._store = store
        self._broken = broken
        # of all turns ever: a new one, which is nearly every one, is not looked for in the database
        self._turn_ids = turn_ids
        self._tasks = Tasks(f"session={row.id}", told=(StoreError,))
        self._gone = False
        self.journal = Journal(store, row.id, last_seq, progress=lambda: self.supervisor.progress(), failed=self._fail)
        self.record = SessionRecord(row, self.journal)
        self.turns = TurnQueue(row.id, self.journal, position=position, limit=limits.queue)
        self.inbox = Inbox(
            self.journal,
            store,
            Callbacks(
                ask=lambda *request: self._requests.ask(*request),
                delegate=lambda *request: self._requests.delegate(*request),
                withdrawn=lambda request_id: self._requests.withdrawn(request_id),
                elicitation_done=lambda id: self.questions.finished(id),
                shown=lambda name, value: self.supervisor.told(name, value),
                called=lambda call: changes.call(self.inbox.turn, call),
                titled=self._titled,
                closed=self._closed,
            ),
            placement=spec.placement,
        )
        self.inbox.options = list(row.shown.get("config_options") or [])
        self.host = host(self.inbox)
        self.questions = Questions(
            row.id,
            self.journal,
            store,
            responder=lambda: self.host.connection,
            changed=self._questions_changed,
            timeout=limits.permission_timeout,
        )
        self._delegation = delegation(self) if delegation else None
        self._requests = AgentRequests(
            row.id,
            turns=self.turns,
            inbox=self.inbox,
            questions=self.questions,
            delegation=self._delegation,
            connection=lambda: self.host.connection,
            tasks=self._tasks,
        )
        self.supervisor = AgentSupervisor(
            self.record,
            spec=spec,
            journal=self.journal,
            turns=self.turns,
            inbox=self.inbox,
            host=self.host,
            questions=self.questions,
            delegation=self._delegation,
            conversation=self.conversation,
            changes=changes,
            tasks=self._tasks,
            available=access,
            prompted=lambda: self._loop.prompted,
        )
        self._loop = TurnLoop(
            row.id,
            turns=self.turns,
            journal=self.journal,
            host=self.host,
            inbox=self.inbox,
            questions=self.questions,
            commands=self._delegation,
            changes=changes,
            conversation=self.conversation,
            at_hand=self.supervisor.at_hand,
            prepare=self.supervisor.prepare,
            lost=self.supervisor.set_error,
            cancel_grace=limits.cancel_grace,
            kill_grace=limits.kill_grace,
        )

    @property
    def row(self) -> SessionRow:
        """What the database has of this session, or will have with the next commit."""
        return self.record.row

    @property
    def error(self) -> JsonObject | None:
        """Why the agent cannot be had, as people are told."""
        return self.supervisor.error

    # --- life --------------------------------------------------------------------------------------------------------

    def created(self) -> None:
        """Log that this session is new."""
        row = self.row
        data = {"path": row.path, "agent": row.agent, "cwd": row.cwd, "title": row.title, "parent": row.parent}
        self.journal.append(Kind.SESSION_CREATED, data, turn=None, changes=[row.save()])

    def notice(self, title: str, description: str) -> None:
        """Tell people something about this session."""
        data = {"severity": "warning", "title": title, "description": description}
        self.journal.append(Kind.NOTICE, data, turn=None)

    async def activity_discarded(self) -> None:
        """Tell clients that the log begins later now."""
        self.turns.announce(first_seq=self.first_seq)
        await self.journal.commit(durable=True)

    def open(self) -> None:
        """Start working."""
        self._loop.start()

    async def recover(self, turns: list[TurnRow]) -> None:
        """Go on where an earlier coordinator stopped: `turns` are those not ended. Then as `open`."""
        await Recovery(
            self.record,
            store=self._store,
            journal=self.journal,
            turns=self.turns,
            inbox=self.inbox,
            host=self.host,
            questions=self.questions,
            loop=self._loop,
            delegation=self._delegation,
            conversation=self.conversation,
            changes=self.changes,
        ).run(turns)
        self.open()

    async def finish(self) -> None:
        """Stop the running turn and begin no other; returns when it has ended."""
        await self._loop.finish()

    async def halt(self) -> None:
        """Take the prompts that wait back, stop the running turn and end the agent."""
        for turn in self.turns.waiting:
            self.turns.withdraw(turn.id)
        await self._loop.halt()
        if self.host.connected:
            await self.supervisor.retire("the project was stopped")

    async def leave(self) -> None:
        """As `finish`, and end the agent too where it can bring the conversation back."""
        await self.finish()
        if (agent := self.host.agent) is not None and (agent.can_resume or agent.can_load):
            await self.supervisor.retire("the server was stopped")

    async def detach(self, *, write: bool = True) -> None:
        """Let go without ending anything: the agent goes on in its runner, to be taken over later.

        Without `write` the chat file is left as it is: it is somebody else's now.
        """
        self._gone = True
        await self._stop_tasks()
        if self._delegation is not None:
            await self._delegation.close()
        # First no line is read any more, then the position of the last is recorded: none is processed twice.
        await self.host.pause()
        with contextlib.suppress(StoreError):
            await self.journal.commit(durable=True)
        await self.host.detach()
        await self.conversation.close(write=write)

    async def close(self) -> None:
        """End the session for good: the agent, its commands, the running turn. The chat file stays."""
        await self.finish()
        self._gone = True
        await self.supervisor.ended()
        await self._stop_tasks()
        await self.questions.cancel_all()
        if self._delegation is not None:
            await self._delegation.close()
        await self.host.stop()
        for turn in self.turns.waiting:
            self.turns.finish(turn, StopReason.CANCELLED, None)
        self.record.save(closed=True, runner=None)
        self.journal.append(Kind.SESSION_CLOSED, {}, turn=None)
        try:
            await self.journal.commit(durable=True)
        except StoreError as exc:
            self._broken(self, exc)  # the database has it open: whoever tries again opens it from there
            raise
        await self.conversation.close()

    async def _stop_tasks(self) -> None:
        await self._loop.stop()
        await self._tasks.end()
        await self.changes.close()
        await self.questions.close()

    # --- commands ----------------------------------------------------------------------------------------------------

    async def submit(self, turn_id: str, prompt: object, user: JsonObject, config: JsonObject | None = None) -> TurnRow:
        """Queue a prompt. Returns once it is on disk. The same `turn_id` again changes nothing.

        BadRequest for a prompt that is neither text nor content blocks, Conflict where the queue is full or the chat
        is read-only.
        """
        blocks = prompt_blocks(prompt)
        if known := await self._known(turn_id):
            return known
        self._check_writable()
        self.supervisor.check_access(self.row.access)
        if self.chat.has(f"{turn_id}-user"):
            # the database was lost since: nothing is run twice
            raise Conflict(f"turn {turn_id} is in the chat already", "turn_ended")
        if config:
            await self.supervisor.configure(config)
            # another client may have sent the same meanwhile
            if known := await self._known(turn_id):
                return known
        turn = self.turns.add(turn_id, blocks, user)
        self._turn_ids.add(turn_id)
        await self._loop.added()
        return self.turns.get(turn_id) or turn

    async def _known(self, turn_id: str) -> TurnRow | None:
        row = await self._store.turn(self.row.id, turn_id) if turn_id in self._turn_ids else None
        # looked for last: nothing is awaited between this and the turn's place in the queue
        return self.turns.get(turn_id) or row

    async def edit(self, turn_id: str, prompt: object) -> TurnRow:
        """Replace the prompt of a queued turn. Conflict once it runs."""
        turn = self.turns.edit(turn_id, prompt_blocks(prompt))
        await self.journal.commit(durable=True)
        return turn

    async def withdraw(self, turn_id: str) -> None:
        """Take a queued turn back. Conflict once it runs."""
        self.turns.withdraw(turn_id)
        await self.journal.commit(durable=True)

    async def send_now(self, turn_id: str) -> None:
        """Run a queued turn next, and end the one that runs now."""
        running = self.turns.active
        self.turns.put_first(turn_id)
        await self.journal.commit(durable=True)
        if running is not None:
            # only that one: it may have ended meanwhile, and then this turn runs already
            await self.interrupt(running.id)

    async def interrupt(self, turn_id: str | None = None) -> None:
        """Cancel the running turn. Returns once that is on disk, not once the agent stops; follow the log for that.

        Idempotent. With `turn_id` only that turn: a second press must not hit the next one.
        """
        await self._loop.interrupt(turn_id)

    async def answer(
        self, question_id: str, option_id: str, content: JsonObject | None, by: str, *, requester_decides: bool = False
    ) -> None:
        """A person's answer to the agent's question; see `Questions.answer`.

        NotAllowed where only the person whose turn it is in may answer, and that is somebody else. Who wants to end it
        all the same can interrupt the turn.
        """
        question = self.questions.pending.get(question_id)
        turn = self.turns.get(question.turn) if requester_decides and question and question.turn else None
        if turn is not None and turn.user.get("username") != by:
            raise NotAllowed("only the person who asked the agent may answer it here", "not_requester")
        await self.questions.answer(question_id, option_id, content, by)

    async def diff(self, turn_id: str) -> JsonObject:
        """What a turn has changed, of the running one up to now. NotFound where no turn, or nothing of it, is kept."""
        turn = await self._known(turn_id)
        if turn is None:
            raise NotFound(f"there is no turn {turn_id}", "unknown_turn")
        if turn.ended_seq is not None and turn.ended_seq < self.first_seq:
            raise NotFound("the details of this turn are not kept any more", "not_kept")
        return {"turn": turn_id, **await self.changes.diff(turn_id)}

    async def revert(self, turn_id: str, paths: Collection[str] | None, by: str) -> list[str]:
        """Bring files back to what they were before a turn; which they were. See `ChangeTracker.revert`."""
        if self.turns.get(turn_id):
            raise Conflict(f"turn {turn_id} has not ended", "turn_running")
        reverted = await self.changes.revert(turn_id, paths)
        for path in reverted:
            self.journal.append(Kind.FILE_CHANGED, {"path": path, "change": "reverted", "by": by}, turn=turn_id)
        await self.journal.commit(durable=True)
        return reverted

    async def rename(self, title: str) -> None:
        """Set the title that people see."""
        self.record.show("renamed", True)
        self.record.set_title(title)
        await self.journal.commit(durable=True)

    async def rest(self, idle: float) -> bool:
        """End the agent where nothing has happened for `idle` seconds; whether that was so. The next turn starts it.

        One that cannot bring the conversation back is kept.
        """
        agent = self.host.agent
        busy = self.turns.active or self.turns.waiting or self.questions.pending
        if agent is None or busy or self._gone or self.journal.quiet < idle:
            return False
        if not (agent.can_resume or agent.can_load):
            return False
        await self.supervisor.retire("nothing was asked of it for long; the next request starts it again")
        return True

    async def moved(self, path: str) -> None:
        """The chat was renamed or moved through Jupyter."""
        self.chat.renamed(path)
        title = _stem(path) if self.row.title == _stem(self.row.path) else self.row.title
        self.record.save(path=path, title=title)
        self.turns.announce(path=path, title=title)
        await self.journal.commit(durable=True)

    def edit_message(self, message_id: str, text: str, by: str) -> None:
        """Change a person's own message in the conversation. NotAllowed for somebody else's or an agent's."""
        self._check_writable()
        self.chat.edit(message_id, text, by)
        self._message_changed({"message_id": message_id, "text": text, "edited": True})

    def delete_message(self, message_id: str, by: str) -> None:
        """Delete a person's own message. NotAllowed for somebody else's or an agent's."""
        self._check_writable()
        self.chat.delete(message_id, by)
        self._message_changed({"message_id": message_id, "deleted": True})

    def react(self, message_id: str, name: str, by: str, on: bool) -> None:
        """Add or take back a person's reaction to any message."""
        self._check_writable()
        reactions = self.chat.react(message_id, name, by, on)
        self._message_changed({"message_id": message_id, "reactions": reactions})

    def summary(self) -> JsonObject:
        """The session as the interface shows it (DESIGN 5)."""
        row = self.row
        return {
            "id": row.id,
            "project": row.project,
            "path": row.path,
            "title": row.title,
            "agent": row.agent,
            "agent_session_id": row.agent_session_id,
            "placement": self.spec.placement,
            "cwd": row.cwd,
            "state": self.turns.state,
            "access": self.supervisor.access(),
            "config_options": self.inbox.options,
            "commands": (row.shown.get("commands") or {}).get("commands", []),
            "usage": row.shown.get("usage"),
            "turns": self.turns.summary(),
            "permissions": [question.request for question in self.questions.pending.values()],
            "parent": row.parent,
            "created": row.created,
            "first_seq": self.first_seq,
            "last_seq": self.journal.last_seq,
            "read_only": self.chat.read_only,
            "error": self.error,
            "schema_version": SCHEMA_VERSION,
        }

    @property
    def editor_texts(self) -> EditorTexts | None:
        """Unsaved texts that people offer to the agent; None where it reads the project's files itself."""
        return self._delegation.texts if self._delegation else None

    # --- state -------------------------------------------------------------------------------------------------------

    def _questions_changed(self) -> None:
        active = self.turns.active
        waiting = any(q.turn == (active and active.id) for q in self.questions.pending.values())
        if active is not None and active.state is TurnState.RUNNING and waiting:
            self.turns.move(TurnEvent.ASK)
        elif active is not None and active.state is TurnState.REQUIRES_ACTION and not waiting:
            self.turns.move(TurnEvent.ANSWER)
        else:
            self.turns.announce()

    def _message_changed(self, data: JsonObject) -> None:
        self.journal.append(Kind.MESSAGE_CHANGED, data, turn=None)
        self.conversation.save()

    def _titled(self, title: str) -> None:
        """The agent's name for the conversation; a person's own stays."""
        if not self.row.shown.get("renamed") and title[:200] != self.row.title:
            self.record.set_title(title)

    def _closed(self, error: AgentError) -> None:
        """The connection is gone; called by the reader."""
        if isinstance(error, TakenOver):
            self._fail(error)
        elif not self._gone:
            self.supervisor.lost(error)

    def _fail(self, error: BaseException) -> None:
        if not self._gone:
            self._gone = True
            log.error("session=%s cannot be written: %s", self.row.id, error)
            self._broken(self, error)

    def _check_writable(self) -> None:
        if self.chat.read_only:
            raise Conflict(f"this chat is read-only: {self.chat.read_only}", "chat_read_only")
        if self._gone or self._loop.closing:
            raise Conflict("this session is closed", "session_closed")

    def _chat_failed(self, error: OSError) -> None:
        data = {"severity": "error", "title": "The chat file cannot be written", "description": str(error)}
        self.journal.append(Kind.NOTICE, data, turn=self.inbox.turn)


def _stem(path: str) -> str:
    return path.rsplit("/", 1)[-1].removesuffix(".chat")
