"""One ACP session: what people do to it, what its agent asks, what a restart finds. The only writer of its events.

Theory of operation. Commands (submit, interrupt, answer …) change rows and log in one commit and return; the turns
themselves are run by turnloop.py. After a crash `recover` asks the runner which message the agent got last, and sends
again what it did not get.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from . import agentoptions, options
from .access import FULL_ACCESS
from .agent import Agent
from .agentspec import AgentSpec
from .chatfile import ChatFile
from .conversation import Conversation
from .delegation import METHOD_NOT_FOUND, Delegation
from .editortexts import EditorTexts
from .events import JsonObject, Kind
from .exceptions import (
    AgentError,
    AgentExited,
    AgentProtocolError,
    BadRequest,
    Conflict,
    NotAllowed,
    NotFound,
    RequestError,
    SessionLost,
    StoreError,
    Unsupported,
)
from .host import AgentHost
from .inbox import Callbacks, Inbox
from .journal import Journal
from .jsonrpc import RequestId
from .permissions import tool_call_id
from .prompts import preface, prompt_blocks
from .questions import Questions
from .records import Change, SessionRow, TurnRow, answers_forgotten, delegated_forgotten, delivered
from .recovery import NEWEST_TURNS, logged, unanswered
from .runner_link import RunnerLost, TakenOver
from .sessionfile import SessionFile
from .store import Store
from .turn import StopReason, TurnEvent, TurnState
from .turnloop import Prepared, TurnLoop
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
        self.row = row
        self.chat = chat
        self.conversation = Conversation(chat, spec, self._chat_failed)
        self.spec = spec
        self.error: JsonObject | None = None
        #: the oldest event that is kept; whoever removes some says so here
        self.first_seq = first_seq
        self.changes = changes
        self._store = store
        self._limits = limits
        self._access = access
        self._broken = broken
        # of all turns ever: a new one, which is nearly every one, is not looked for in the database
        self._turn_ids = turn_ids
        self._tasks: set[asyncio.Task[None]] = set()
        # what ends agents whose connection is gone
        self._ending: set[asyncio.Task[None]] = set()
        self._gone = False
        self._applying = asyncio.Lock()
        self.journal = Journal(store, row.id, last_seq, progress=self._progress, failed=self._fail)
        self.turns = TurnQueue(row.id, self.journal, position=position, limit=limits.queue)
        self.inbox = Inbox(
            self.journal,
            store,
            Callbacks(
                ask=self._ask,
                delegate=self._delegate,
                withdrawn=self._request_withdrawn,
                elicitation_done=lambda id: self.questions.finished(id),
                shown=self._show,
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
            at_hand=self._at_hand,
            prepare=self._prepare,
            lost=self._set_error,
            cancel_grace=limits.cancel_grace,
            kill_grace=limits.kill_grace,
        )

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

    def warm_up(self) -> None:
        """Start the agent before the first prompt; a failure is shown, not raised."""
        self.changes.prepare()
        self._spawn(self._warm_up(), "warm-up")

    async def recover(self, turns: list[TurnRow]) -> None:
        """Go on where an earlier coordinator stopped: `turns` are those not ended. Then as `open`."""
        self.turns.restore(turns)
        if self.turns.active is not None:
            await self._restore_turn(self.turns.active.id)
        await self._complete_chat()
        self.questions.restore(await self._store.permissions(self.row.id))
        await self.host.sweep(keep=self.row.runner)
        if self.row.runner is not None:
            await self._attach(self.row.runner)
        elif self.turns.active is not None and self.turns.active.number is not None:
            await self._loop.abandon("the server stopped during this turn and its agent is gone")
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
            await self._retire("the project was stopped")

    async def leave(self) -> None:
        """As `finish`, and end the agent too where it can bring the conversation back."""
        await self.finish()
        if (agent := self.host.agent) is not None and (agent.can_resume or agent.can_load):
            await self._retire("the server was stopped")

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
        await self._ended()
        await self._stop_tasks()
        await self.questions.cancel_all()
        if self._delegation is not None:
            await self._delegation.close()
        await self.host.stop()
        for turn in self.turns.waiting:
            self.turns.finish(turn, StopReason.CANCELLED, None)
        self._save_row(closed=True, runner=None)
        self.journal.append(Kind.SESSION_CLOSED, {}, turn=None)
        await self.journal.commit(durable=True)
        await self.conversation.close()

    async def _stop_tasks(self) -> None:
        await self._loop.stop()
        tasks = [task for task in self._tasks if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
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
        self._check_access(self.row.access)
        if self.chat.has(f"{turn_id}-user"):
            # the database was lost since: nothing is run twice
            raise Conflict(f"turn {turn_id} is in the chat already", "turn_ended")
        if config:
            await self.configure(config)
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
        self._show("renamed", True)
        self._set_title(title)
        await self.journal.commit(durable=True)

    async def configure(self, config: JsonObject) -> None:
        """Ask for values of the agent's options, its mode and model included.

        Applied at once where the agent runs, and again before every turn. Unsupported where the agent refuses.
        """
        wanted = {**self.row.config, **config}
        agent = self.host.agent
        if agent is not None and self.row.agent_session_id is not None:
            try:
                await self._apply(agent, {**self._defaults(), **wanted})
            except AgentError as exc:
                raise Unsupported(f"the agent did not take the setting: {exc}", "option_refused") from exc
        elif self.inbox.options:
            known = {option["id"] for option in self.inbox.options}
            if unknown := set(config) - known:
                raise Unsupported(f"the agent has no option {', '.join(sorted(unknown))}", "unknown_option")
        self._save_row(config=wanted)
        await self.journal.commit(durable=True)
        self._save_session_file()

    async def set_access(self, access: str) -> None:
        """Ask for a kind of access: an agent that has another is ended, before the next turn where one runs.

        Unsupported where it cannot be enforced here, with what is missing.
        """
        self._check_access(access)
        if access == self.row.access:
            return
        self._save_row(access=access)
        self.turns.announce(access=self._access_now())
        await self.journal.commit(durable=True)
        self._save_session_file()
        if self.turns.active is None and self.host.connected:
            await self._change_access()
            self.warm_up()

    def _check_access(self, access: str) -> None:
        kind = next((kind for kind in self._access if kind["id"] == access), None)
        if kind is None:
            raise BadRequest(f"{access!r} is no kind of access", "unknown_access")
        if not kind["available"]:
            raise Unsupported(f"{access} cannot be enforced here: {kind['reason']}", "access_unsupported")

    async def _change_access(self) -> None:
        """End an agent whose access is not what was asked for."""
        if self.host.connected and self.host.access != self.row.access:
            await self._retire(f"its access was {self.host.access} and is to be {self.row.access}")

    def _access_now(self) -> JsonObject:
        effective = self.host.access if self.host.connected else self.row.access
        return {"requested": self.row.access, "effective": effective, "available": self._access}

    async def restart_agent(self) -> None:
        """A new process for the same conversation. Conflict while a turn runs."""
        self._check_idle()
        self.host.failures = 0
        self._set_error(None)
        await self._retire("restarted on request")
        self.warm_up()

    async def start_over(self) -> None:
        """A new agent session whose first prompt carries the conversation so far."""
        self._check_idle()
        self.host.failures = 0
        self._save_row(agent_session_id=None, preface=True)
        self._set_error(None)
        self.turns.announce(agent_session_id=None)
        await self._retire("restarted without its own memory of the conversation, on request")
        self.warm_up()

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
        await self._retire("nothing was asked of it for long; the next request starts it again")
        return True

    async def moved(self, path: str) -> None:
        """The chat was renamed or moved through Jupyter."""
        self.chat.renamed(path)
        title = _stem(path) if self.row.title == _stem(self.row.path) else self.row.title
        self._save_row(path=path, title=title)
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
            "access": self._access_now(),
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

    # --- the agent ---------------------------------------------------------------------------------------------------

    async def _warm_up(self) -> None:
        try:
            agent = await self.host.ready(self.row.agent_session_id, self._opened)
            await self._apply(agent, {**self._defaults(), **self.row.config})
        except (AgentError, RequestError) as exc:
            log.warning("session=%s the agent did not start: %s", self.row.id, exc)
            reason = "session_lost" if isinstance(exc, SessionLost) else "agent_error"
            self._set_error({"message": str(exc), "reason": reason})
            self.journal.commit()

    async def _opened(self, agent: Agent, reply: JsonObject, how: str) -> None:
        """The agent has a session for us: recorded before anything is said in it."""
        agent_session_id = str(reply["sessionId"])
        connection, link = self.host.connection, self.host.link
        assert connection is not None and link is not None
        access = self.host.access
        shown = {**self.row.shown, "config_options": self.inbox.options, "agent": agent.known(), "access": access}
        self._save_row(agent_session_id=agent_session_id, runner=self.host.runner, position=0, number=0, shown=shown)
        self.journal.change(delivered(self.row.id, 0, 0))
        self.journal.change(delegated_forgotten(self.row.id))
        self.journal.change(answers_forgotten(self.row.id))
        info = agent.agent_info or {}
        self.journal.append(
            Kind.AGENT_STARTED,
            {
                "agent": self.row.agent,
                "name": info.get("title") or info.get("name") or self.spec.name,
                "version": info.get("version"),
                "pid": link.agent_pid,
                "agent_session_id": agent_session_id,
                "how": how,
                "access": access,
            },
            turn=self.inbox.turn,
        )
        self.error = None
        self.turns.announce(
            agent_session_id=agent_session_id,
            config_options=self.inbox.options,
            access={"requested": self.row.access, "effective": access, "available": self._access},
            error=None,
        )
        await self.journal.commit(durable=True)
        self._save_session_file()

    async def _retire(self, why: str) -> None:
        """End the agent between two turns."""
        ended = self.host.retire()
        self._save_row(runner=None)
        data = {"code": None, "signal": None, "stderr_tail": "", "message": why}
        self.journal.append(Kind.AGENT_EXITED, data, turn=None)
        await self.journal.commit(durable=True)
        await self.questions.cancel_all()
        if self._delegation is not None:
            await self._delegation.abandon()
        await ended
        await self._ended()

    def _defaults(self) -> dict[str, object]:
        """The agent's own settings that go with the access in force."""
        known = {option["id"] for option in self.inbox.options}
        return {id: value for id, value in (self.spec.access.get(self.row.access) or {}).items() if id in known}

    async def _apply(self, agent: Agent, wanted: Mapping[str, object]) -> None:
        """Options as asked for, read back; AgentError where they are not."""
        assert self.row.agent_session_id is not None
        # One at a time: the warm-up and the first turn would set the same twice.
        async with self._applying:
            if await agentoptions.apply(agent, self.row.agent_session_id, self.inbox, wanted):
                self._show("config_options", self.inbox.options)

    def _at_hand(self, turn: TurnRow) -> Prepared | None:
        """As `_prepare`, where the agent runs with the options that were asked for and there is nothing to add."""
        agent, session_id = self.host.agent, self.row.agent_session_id
        effective = options.effective(self.inbox.options)
        wanted = {**self._defaults(), **self.row.config}
        if agent is None or session_id is None or self.host.link is None or self.row.preface:
            return None
        if self.host.access != self.row.access or self.host.stale:
            return None
        if any(id not in effective or effective[id] != value for id, value in wanted.items()):
            return None
        return Prepared(agent=agent, session_id=session_id, turn=turn, changes=[])

    async def _prepare(self, turn: TurnRow) -> Prepared:
        """The agent, started where it must be, with the options that were asked for."""
        await self._change_access()
        if self.host.stale:
            await self._retire("what its commands ran in is gone")
        agent = await self.host.ready(self.row.agent_session_id, self._opened)
        await self._apply(agent, {**self._defaults(), **self.row.config})
        session_id = self.row.agent_session_id
        assert session_id is not None
        changes: list[Change] = []
        if self.row.preface:
            turn = replace(turn, prompt=[preface(self.chat, before=f"{turn.id}-user"), *turn.prompt])
            self.row = replace(self.row, preface=False)
            changes.append(self.row.save())
        return Prepared(agent=agent, session_id=session_id, turn=turn, changes=changes)

    def _closed(self, error: AgentError) -> None:
        """The connection is gone; called by the reader."""
        if self._gone:
            return
        if isinstance(error, TakenOver):
            self._fail(error)
            return
        link = self.host.link
        data: JsonObject = {"code": None, "signal": None, "stderr_tail": "", "message": str(error)}
        if isinstance(error, AgentExited):
            data |= {"code": error.code, "signal": error.signal, "stderr_tail": error.stderr_tail[-16_000:]}
        log.warning("session=%s %s", self.row.id, error)
        self.journal.append(Kind.AGENT_EXITED, data, turn=self.inbox.turn)
        self._save_row(runner=None)
        runner = self.host.runner
        self.host.lost()
        if isinstance(error, RunnerLost) and runner is not None:
            self._ending.add(self._spawn(self.host.end(runner), "reap"))
        elif link is not None:
            self._ending.add(
                self._spawn(self.host.stop(grace=0 if isinstance(error, AgentProtocolError) else 2.0), "reap")
            )
        self._spawn(self.questions.cancel_all(), "questions")
        if self._delegation is not None:
            self._spawn(self._delegation.abandon(), "delegation")

    async def _attach(self, runner: str) -> None:
        """Take the agent over from an earlier coordinator, and send again what the crash kept from it."""
        row = self.row
        known = row.shown.get("agent")
        turn = self.turns.active
        answered = await self._store.permissions(row.id, number_above=0)
        numbers = [row.number, *(p.number for p in answered if p.number), (turn and turn.number) or 0]
        try:
            link = await self.host.attach(runner, row.position, max(numbers))
        except AgentError as exc:
            self._save_row(runner=None)
            self.journal.append(
                Kind.AGENT_EXITED,
                {"code": None, "signal": None, "stderr_tail": "", "message": str(exc)},
                turn=turn.id if turn else None,
            )
            if turn is not None and turn.number is not None:
                await self._loop.abandon("the agent ended while the server was away")
            return
        assert row.agent_session_id is not None and self.host.connection is not None
        self.inbox.session_id = row.agent_session_id
        agent = self.host.resume(known or {}, row.shown.get("access", FULL_ACCESS))
        connection = self.host.connection
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
        found = await logged(self._store, self.row.id, turn_id)
        self.changes.resume(turn_id)
        self.inbox.begin(turn_id)
        self.inbox.answer = found.answer
        for call in found.tool_calls.values():
            self.inbox.tool_calls.restore(call)
            self.changes.call(turn_id, call)

    async def _complete_chat(self) -> None:
        """Give the chat the newest messages where a crash came between the log and the file."""
        if self.chat.read_only or self.chat.id != self.row.chat_id:
            return
        newest = await self._store.newest_turns(self.row.id, NEWEST_TURNS)
        lacking = unanswered(newest, self.chat)
        for turn in newest:
            if not self.chat.has(f"{turn.id}-user"):
                self.conversation.add_prompt(turn)
                self.conversation.save()
            if turn in lacking:
                assert turn.stop_reason is not None
                found = await logged(self._store, self.row.id, turn.id)
                ended = found.ended or {}
                self.conversation.add_answer(
                    turn,
                    str(found.answer),
                    turn.stop_reason,
                    ended.get("error"),
                    ended.get("changes"),
                    at=found.ended_at or None,
                )

    # --- what the agent asks -----------------------------------------------------------------------------------------

    def _ask(self, request_id: RequestId, method: str, params: JsonObject) -> None:
        active = self.turns.active
        call_id = tool_call_id(params)
        if isinstance(told := params.get("toolCall"), dict):
            self.inbox.asked(told)
        call = self.inbox.tool_calls.get(call_id) if call_id else None
        try:
            row = self.questions.ask(request_id, method, params, call, active.id if active else None)
        except BadRequest as exc:
            self._reply_error(request_id, -32602, exc.message)
            return
        if active is not None and active.state is TurnState.CANCELLING:
            self._spawn(self.questions.cancel_all(), "questions")
        log.info("session=%s turn=%s requires_action (%s %s)", self.row.id, active and active.id, method, row.id)

    def _delegate(self, request_id: RequestId, method: str, params: JsonObject) -> None:
        if self._delegation is None:
            self._reply_error(request_id, METHOD_NOT_FOUND, f"{method} is not supported by this client")
        else:
            self._delegation.start(request_id, method, params)

    def _request_withdrawn(self, request_id: RequestId) -> None:
        if not self.questions.withdrawn(request_id) and self._delegation is not None:
            self._delegation.cancel(request_id)

    def _reply_error(self, request_id: RequestId, code: int, message: str) -> None:
        async def send() -> None:
            if self.host.connection is not None:
                with contextlib.suppress(AgentError):
                    await self.host.connection.respond_error(request_id, code, message)

        self._spawn(send(), "refusal")

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

    def _show(self, name: str, value: object) -> None:
        self._save_row(shown={**self.row.shown, name: value})
        if name == "config_options" and self._loop.prompted:
            # What the agent changes in its turn (leaving plan mode, say) was agreed to there and is not undone by us.
            now = options.effective(self.inbox.options)
            self._save_row(config={id: now.get(id, asked) for id, asked in self.row.config.items()})
        if name == "config_options":
            self.journal.append(Kind.SESSION_CHANGED, {"config_options": value}, turn=None)

    def _message_changed(self, data: JsonObject) -> None:
        self.journal.append(Kind.MESSAGE_CHANGED, data, turn=None)
        self.conversation.save()

    def _titled(self, title: str) -> None:
        """The agent's name for the conversation; a person's own stays."""
        if not self.row.shown.get("renamed") and title[:200] != self.row.title:
            self._set_title(title)

    def _set_title(self, title: str) -> None:
        self._save_row(title=title[:200])
        self.journal.append(Kind.SESSION_CHANGED, {"title": self.row.title}, turn=None)

    def _set_error(self, error: JsonObject | None) -> None:
        self.error = error
        self.turns.announce(error=error)

    def _save_row(self, **fields: object) -> None:
        self.row = replace(self.row, **fields)  # type: ignore[arg-type]  # names of SessionRow's own fields
        self.journal.change(self.row.save())

    def _progress(self) -> tuple[list[Change], Callable[[], None]]:
        connection, link = self.host.connection, self.host.link
        if connection is None or link is None or self.row.runner is None:
            return [], lambda: None
        position, number = connection.position, connection.number
        if (position, number) == (self.row.position, self.row.number):
            return [], lambda: None
        self.row = replace(self.row, position=position, number=number)
        return [delivered(self.row.id, position, number)], lambda: link.ack(position)

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

    def _check_idle(self) -> None:
        if self.turns.active is not None:
            raise Conflict("a turn runs: stop it first", "turn_running")

    def _save_session_file(self) -> None:
        row = self.row
        self.conversation.save_session(
            SessionFile(
                session=row.id,
                chat_id=row.chat_id,
                agent=row.agent,
                agent_session_id=row.agent_session_id,
                access=row.access,
                config=row.config,
                cwd=row.cwd,
                parent=row.parent,
                created=row.created,
            )
        )

    def _chat_failed(self, error: OSError) -> None:
        data = {"severity": "error", "title": "The chat file cannot be written", "description": str(error)}
        self.journal.append(Kind.NOTICE, data, turn=self.inbox.turn)

    async def _ended(self) -> None:
        """Return once nothing is left of agents whose connection is gone."""
        await asyncio.gather(*self._ending, return_exceptions=True)

    def _spawn(self, work: object, name: str) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.create_task(work, name=f"acp-{name}-{self.row.id}")  # type: ignore[arg-type]
        self._tasks.add(task)
        task.add_done_callback(self._reaped)
        return task

    def _reaped(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._ending.discard(task)
        if not task.cancelled() and (exc := task.exception()) is not None and not isinstance(exc, StoreError):
            log.error("session=%s %s failed", self.row.id, task.get_name(), exc_info=exc)


def _stem(path: str) -> str:
    return path.rsplit("/", 1)[-1].removesuffix(".chat")
