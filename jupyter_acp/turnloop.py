"""Runs the turns of one session in order, one at a time, from their record to their end, and stops them.

Theory of operation. A turn is recorded as started before the agent hears its prompt. So is the number of the message
that carries the prompt (in the same commit where the agent is at hand), so that after a crash the runner can be asked
whether the agent has it. Whatever happens in between, `_end` logs exactly one end. Not here: how an agent is started,
and what it says.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from .agent import Agent
from .conversation import Conversation
from .events import JsonObject, Kind
from .exceptions import AgentError, AgentExited, RequestError, SessionLost, StoreError
from .host import AgentHost
from .inbox import Inbox
from .journal import Journal
from .jsonrpc import Connection
from .questions import Questions
from .records import Change, TurnRow
from .turn import StopReason, TurnEvent, TurnState, stop_reason
from .turnqueue import TurnQueue

if TYPE_CHECKING:  # loaded with the first session: a server's start does not wait for it
    from .turnchanges import TurnChanges

log = logging.getLogger(__name__)

_STDERR_SHOWN = 4000
_FILES_LOGGED = 200  # all of them are in the turn's diff


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """An agent that is ready for a turn: its session, the turn as it is sent, and rows that change with it."""

    agent: Agent
    session_id: str
    turn: TurnRow
    changes: list[Change]


class Commands(Protocol):
    """Commands that an agent has us run (delegation.py)."""

    async def kill(self) -> None: ...


class TurnLoop:
    """See the module.

    Parameters
    ----------
    at_hand
        The agent, where nothing has to be done to make it ready for a turn.
    prepare
        Makes the agent ready for a turn; raises AgentError or RequestError where that fails.
    lost
        Told where the agent cannot bring the conversation back.
    cancel_grace, kill_grace
        Seconds from Stop until the turn's commands are killed, and from then until the agent is (DESIGN 8).
    """

    def __init__(
        self,
        session_id: str,
        *,
        turns: TurnQueue,
        journal: Journal,
        host: AgentHost,
        inbox: Inbox,
        questions: Questions,
        commands: Commands | None,
        changes: TurnChanges,
        conversation: Conversation,
        at_hand: Callable[[TurnRow], Prepared | None],
        prepare: Callable[[TurnRow], Awaitable[Prepared]],
        lost: Callable[[JsonObject], None],
        cancel_grace: float,
        kill_grace: float,
    ) -> None:
        self._session_id = session_id
        self._turns = turns
        self._journal = journal
        self._host = host
        self._inbox = inbox
        self._questions = questions
        self._commands = commands
        self._changes = changes
        self._conversation = conversation
        self._at_hand = at_hand
        self._prepare = prepare
        self._lost = lost
        self._cancel_grace = cancel_grace
        self._kill_grace = kill_grace
        self._recorded: asyncio.Future[None] | None = None
        self._prompting: asyncio.Task[JsonObject] | None = None
        self._sent_at: float | None = None
        self._killed = False
        self._answered = False
        self._over = asyncio.Event()
        self._wake = asyncio.Event()
        self._worker: asyncio.Task[None] | None = None
        self._ladders: set[asyncio.Task[None]] = set()
        self.closing = False
        self._let_go = False

    @property
    def prompted(self) -> bool:
        """A turn runs and the agent has its prompt."""
        return self._turns.active is not None and self._sent_at is not None

    def start(self) -> None:
        """Begin to work; `stop` ends it."""
        self._worker = asyncio.create_task(self._work(), name=f"acp-turns-{self._session_id}")

    async def stop(self) -> None:
        """Let go of the turn that runs; nothing of it is ended."""
        self.closing = self._let_go = True
        tasks = [task for task in (self._worker, *self._ladders, self._prompting) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def finish(self) -> None:
        """Stop the running turn and begin no other; returns when it has ended."""
        self.closing = True
        await self.halt()

    async def halt(self) -> None:
        """Stop the running turn; returns when it has ended."""
        if self._turns.active is not None:
            await self.interrupt()
            await self._over.wait()

    async def added(self) -> None:
        """A turn was queued: begin it where none runs. Returns once that, and that it was queued, is on disk."""
        try:
            if self._begin_next():
                # Both facts in one commit: a prompt to an idle agent costs one sync to disk.
                assert self._recorded is not None
                # The prompt's own task first: it is told of the commit first, and the agent before the person.
                await asyncio.sleep(0)
                await asyncio.shield(self._recorded)
            else:
                self._turns.announce()
                await self._journal.commit(durable=True)
        finally:
            self._wake.set()

    async def interrupt(self, turn_id: str | None = None) -> None:
        """Cancel the running turn, or only turn `turn_id`. Returns once that is on disk. Idempotent."""
        active = self._turns.active
        if active is None or active.state is TurnState.CANCELLING or (turn_id and turn_id != active.id):
            return
        self._turns.move(TurnEvent.INTERRUPT)
        try:
            await self._journal.commit(durable=True)
        finally:
            # Recorded first, since a server that dies in between carries it out when it is back; and carried out even
            # where the disk refuses it.
            self._climb(active.id)

    def resume(self, answer: Coroutine[Any, Any, JsonObject]) -> None:
        """Go on with the active turn of an earlier coordinator, whose prompt the agent has: `answer` is its result."""
        turn = self._turns.active
        assert turn is not None
        self._prompting = asyncio.create_task(answer, name=f"acp-turn-{turn.id}")
        self._sent_at = asyncio.get_running_loop().time() - max(0.0, time.time() - (turn.started or 0.0))
        if turn.state is TurnState.CANCELLING:
            self._climb(turn.id)

    async def abandon(self, message: str) -> None:
        """End the active turn: its agent did not survive."""
        if self._turns.cancelling:
            await self._end(StopReason.INTERRUPTED, None)
        else:
            await self._end(StopReason.ERROR, {"message": message, "reason": "agent_lost"})

    # --- from the record to the end ----------------------------------------------------------------------------------

    async def _work(self) -> None:
        while True:
            if self._turns.active is None and not self._begin_next():
                self._wake.clear()
                await self._wake.wait()
            else:
                await self._run()

    def _begin_next(self) -> bool:
        """Start the first queued turn; `_recorded` is when that is on disk. False where nothing waits."""
        if self.closing or (turn := self._turns.begin()) is None:
            return False
        self._over.clear()
        self._sent_at = None
        self._killed = False
        self._answered = False
        self._inbox.begin(turn.id)
        self._changes.begin(turn.id)
        ready = self._at_hand(turn)
        if ready is not None:
            turn = self._number(ready)
        message = self._conversation.add_prompt(turn)
        data = {"id": turn.id, "text": turn.text, "user": turn.user, "message_id": message["message_id"]}
        self._journal.append(Kind.TURN_STARTED, data, turn=turn.id, changes=[turn.save()])
        self._journal.append(Kind.MESSAGE, message, turn=turn.id)
        self._turns.announce()
        self._recorded = self._journal.commit(durable=True)
        if ready is None:
            self._conversation.save_later()
        else:
            self._prompting = asyncio.create_task(
                self._send(ready, turn, self._host.connection, self._recorded), name="acp-turn"
            )
        # While the disk works: a handler of the log may take as long as all of the above.
        log.info("session=%s turn=%s queued -> running", self._session_id, turn.id)
        return True

    async def _run(self) -> None:
        if self._recorded is not None:
            # A disk that refuses this has made the session's owner drop us.
            await asyncio.shield(self._recorded)
        if self._turns.cancelling and self._prompting is None and self._sent_at is None:
            # Stopped before its prompt was on the way.
            await self._end(StopReason.CANCELLED, None)
        else:
            await self._end(*await self._outcome())

    async def _outcome(self) -> tuple[StopReason, JsonObject | None]:
        """How the active turn ended, and why where it failed."""
        prompting = self._prompting = self._prompting or asyncio.create_task(self._prompt(), name="acp-turn")
        try:
            await asyncio.wait({prompting})
        finally:
            self._prompting = None
            self._answered = True
            if not prompting.done():
                prompting.cancel()
        if prompting.cancelled():
            return (StopReason.INTERRUPTED if self._killed else StopReason.CANCELLED), None
        exc = prompting.exception()
        if exc is None:
            self._host.failures = 0
            return stop_reason(prompting.result().get("stopReason")), None
        if isinstance(exc, StoreError):
            raise exc
        if isinstance(exc, AgentExited):
            self._host.failures += 1
        if isinstance(exc, AgentError) and self._turns.cancelling:
            return StopReason.INTERRUPTED, None
        error = _described(exc)
        if isinstance(exc, SessionLost):
            self._lost(error)
        elif error["reason"] == "internal":
            log.error("session=%s a turn failed", self._session_id, exc_info=exc)
        return StopReason.ERROR, error

    async def _prompt(self) -> JsonObject:
        turn = self._turns.active
        assert turn is not None
        ready = await self._prepare(turn)
        turn = self._number(ready)
        # Not synced: it matters only to a killed server, and a power cut ends the runner too.
        recorded = self._journal.commit([turn.save(), *ready.changes])
        return await self._send(ready, turn, self._host.connection, recorded)

    def _number(self, ready: Prepared) -> TurnRow:
        """Give the active turn's prompt the number that it is sent with."""
        # Whatever happened to the turn meanwhile stays: only what is sent is new.
        turn, connection = self._turns.active, self._host.connection
        assert turn is not None and connection is not None
        number = connection.reserve()
        return self._turns.update(replace(turn, prompt=ready.turn.prompt, request_id=f"turn-{turn.id}", number=number))

    async def _send(
        self, ready: Prepared, turn: TurnRow, connection: Connection | None, recorded: asyncio.Future[None]
    ) -> JsonObject:
        """Send the prompt once its number is recorded; the agent's answer."""
        assert connection is not None and turn.request_id is not None and turn.number is not None
        try:
            await asyncio.shield(recorded)
            await self._changes.ready()
        except BaseException:
            with contextlib.suppress(AgentError):
                await connection.skip(turn.number)
            raise
        self._sent_at = asyncio.get_running_loop().time()
        self._conversation.save_later()
        return await ready.agent.prompt(ready.session_id, turn.prompt, id=turn.request_id, number=turn.number)

    async def _end(self, reason: StopReason, error: JsonObject | None) -> None:
        turn = self._turns.active
        assert turn is not None
        stopped = turn.state is TurnState.CANCELLING
        await self._questions.cancel_all()
        if stopped:
            # Codex and fast-agent leave a cancelled command running.
            await self._kill_commands()
        self._inbox.end_terminals()
        if stopped or error is not None:
            self._inbox.close_tool_calls("cancelled")
        files = await self._changes.end(turn.id)
        for file in files[:_FILES_LOGGED]:
            self._journal.append(Kind.FILE_CHANGED, file.to_json(), turn=turn.id)
        turn = self._turns.active
        assert turn is not None
        changes = self._changes.totals(files)
        self._conversation.add_answer(turn, str(self._inbox.answer), reason, error, changes)
        self._turns.finish(turn, reason, error, changes)
        if self._host.connection is not None:
            self._host.connection.go_on()  # the answer counts as read with the commit that has the end
        self._inbox.turn = None
        self._over.set()
        await self._journal.commit(durable=True)

    # --- Stop --------------------------------------------------------------------------------------------------------

    def _climb(self, turn_id: str) -> None:
        if self._let_go:
            # Whoever takes over sees that it was stopped; here its questions would be answered without a cancel.
            return
        task = asyncio.create_task(self._ladder(turn_id), name=f"acp-stop-{turn_id}")
        self._ladders.add(task)
        task.add_done_callback(self._climbed)

    def _climbed(self, task: asyncio.Task[None]) -> None:
        self._ladders.discard(task)
        if not task.cancelled() and (exc := task.exception()) is not None and not isinstance(exc, StoreError):
            log.error("session=%s %s failed", self._session_id, task.get_name(), exc_info=exc)

    async def _ladder(self, turn_id: str) -> None:
        """Cancel, kill the turn's commands, kill the agent: one of them ends the turn (DESIGN 8)."""
        if self._answered or self._turns.active is None or self._turns.active.id != turn_id:
            return  # it ends, or has ended, while Stop was recorded: a cancel would hit the next one
        if self._sent_at is None:
            if self._prompting is not None:
                self._prompting.cancel()
            await self._questions.cancel_all()
            return
        if self._host.agent is not None and self._inbox.session_id is not None:
            with contextlib.suppress(AgentError, TimeoutError):
                async with asyncio.timeout(self._cancel_grace):
                    await self._host.agent.cancel(self._inbox.session_id)
        # After the cancel: an agent that heard the answers first might go on and end its turn as if not stopped.
        await self._questions.cancel_all()
        if await self._is_over(turn_id, self._cancel_grace):
            return
        log.warning("session=%s turn=%s ignores cancel: killing its commands", self._session_id, turn_id)
        await self._kill_commands()
        if await self._is_over(turn_id, self._kill_grace) or self._answered:
            return  # also where the end takes its time, to look at the turn's changes: the agent has done its part
        log.warning("session=%s turn=%s ignores cancel: killing the agent", self._session_id, turn_id)
        self._killed = True
        await self._host.stop(grace=0)
        if self._prompting is not None:
            self._prompting.cancel()

    async def _kill_commands(self) -> None:
        if self._commands is not None:
            await self._commands.kill()
        if self._sent_at is not None:
            # What is older than the prompt is a part of the agent. The kernel counts the start of a process in ticks
            # of 10 ms, rounded down.
            age = asyncio.get_running_loop().time() - self._sent_at + 0.05
            with contextlib.suppress(AgentError):
                await self._host.kill_leftovers(age)

    async def _is_over(self, turn_id: str, seconds: float) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._over.wait()
        return self._turns.active is None or self._turns.active.id != turn_id


def _described(exc: BaseException) -> JsonObject:
    """What people are told of a turn that failed."""
    if isinstance(exc, AgentExited):
        return {"message": str(exc), "reason": "agent_exited", "stderr_tail": exc.stderr_tail[-_STDERR_SHOWN:]}
    if isinstance(exc, RequestError):
        return {"message": exc.message, "reason": exc.reason}
    if isinstance(exc, SessionLost):
        return {"message": str(exc), "reason": "session_lost"}
    if isinstance(exc, AgentError):
        return {"message": str(exc), "reason": "agent_error"}
    return {"message": f"internal error: {type(exc).__name__}", "reason": "internal"}
