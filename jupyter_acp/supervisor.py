"""Sees that a session's agent is what its record asks for: there when it is wanted, with that access and those options.

One that has another access is ended before the next turn; whatever starts, ends or is lost is recorded and logged. Not
here: processes and connections (host.py), turns (turnloop.py).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from . import agentoptions, options
from .agent import Agent
from .agentspec import AgentSpec
from .conversation import Conversation
from .delegation import Delegation
from .events import JsonObject, Kind
from .exceptions import (
    AgentError,
    AgentExited,
    AgentProtocolError,
    BadRequest,
    Conflict,
    RequestError,
    SessionLost,
    Unsupported,
)
from .host import AgentHost
from .inbox import Inbox
from .journal import Journal
from .prompts import preface
from .questions import Questions
from .records import Change, SessionRow, TurnRow, answers_forgotten, delegated_forgotten, delivered
from .runner_link import RunnerLost
from .sessionfile import SessionFile
from .sessionrecord import SessionRecord
from .tasks import Tasks
from .turnloop import Prepared
from .turnqueue import TurnQueue

if TYPE_CHECKING:  # loaded with the first session: a server's start does not wait for it
    from .turnchanges import TurnChanges

log = logging.getLogger(__name__)


class AgentSupervisor:
    """See the module.

    Parameters
    ----------
    available
        Every kind of access, with why some cannot be had here.
    prompted
        Whether a turn runs and the agent has its prompt.
    """

    def __init__(
        self,
        record: SessionRecord,
        *,
        spec: AgentSpec,
        journal: Journal,
        turns: TurnQueue,
        inbox: Inbox,
        host: AgentHost,
        questions: Questions,
        delegation: Delegation | None,
        conversation: Conversation,
        changes: TurnChanges,
        tasks: Tasks,
        available: list[JsonObject],
        prompted: Callable[[], bool],
    ) -> None:
        #: why the agent cannot be had, as people are told
        self.error: JsonObject | None = None
        self._record = record
        self._spec = spec
        self._journal = journal
        self._turns = turns
        self._inbox = inbox
        self._host = host
        self._questions = questions
        self._delegation = delegation
        self._conversation = conversation
        self._changes = changes
        self._tasks = tasks
        self._available = available
        self._prompted = prompted
        self._applying = asyncio.Lock()
        # what ends agents whose connection is gone
        self._ending: set[asyncio.Task[None]] = set()

    @property
    def _row(self) -> SessionRow:
        return self._record.row

    # --- there when it is wanted -------------------------------------------------------------------------------------

    def warm_up(self) -> None:
        """Start the agent before the first prompt; a failure is shown, not raised."""
        self._changes.prepare()
        self._spawn(self._warm_up(), "warm-up")

    async def restart(self) -> None:
        """A new process for the same conversation. Conflict while a turn runs."""
        self._check_idle()
        self._host.failures = 0
        self.set_error(None)
        await self.retire("restarted on request")
        self.warm_up()

    async def start_over(self) -> None:
        """A new agent session whose first prompt carries the conversation so far."""
        self._check_idle()
        self._host.failures = 0
        self._record.save(agent_session_id=None, preface=True)
        self.set_error(None)
        self._turns.announce(agent_session_id=None)
        await self.retire("restarted without its own memory of the conversation, on request")
        self.warm_up()

    def at_hand(self, turn: TurnRow) -> Prepared | None:
        """As `prepare`, where the agent runs with the options that were asked for and there is nothing to add."""
        agent, session_id = self._host.agent, self._row.agent_session_id
        effective = options.effective(self._inbox.options)
        wanted = {**self._defaults(), **self._row.config}
        if agent is None or session_id is None or self._host.link is None or self._row.preface:
            return None
        if self._host.access != self._row.access:
            return None
        if any(id not in effective or effective[id] != value for id, value in wanted.items()):
            return None
        return Prepared(agent=agent, session_id=session_id, turn=turn, changes=[])

    async def prepare(self, turn: TurnRow) -> Prepared:
        """The agent, started where it must be, with the options that were asked for."""
        await self._change_access()
        agent = await self._host.ready(self._row.agent_session_id, self._opened)
        await self._apply(agent, {**self._defaults(), **self._row.config})
        session_id = self._row.agent_session_id
        assert session_id is not None
        changes: list[Change] = []
        if self._row.preface:
            turn = replace(turn, prompt=[preface(self._conversation.chat, before=f"{turn.id}-user"), *turn.prompt])
            changes.append(self._record.changed(preface=False))
        return Prepared(agent=agent, session_id=session_id, turn=turn, changes=changes)

    async def retire(self, why: str) -> None:
        """End the agent between two turns."""
        ended = self._host.retire()
        self._record.save(runner=None)
        data = {"code": None, "signal": None, "stderr_tail": "", "message": why}
        self._journal.append(Kind.AGENT_EXITED, data, turn=None)
        await self._journal.commit(durable=True)
        await self._questions.cancel_all()
        if self._delegation is not None:
            await self._delegation.abandon()
        await ended
        await self.ended()

    def lost(self, error: AgentError) -> None:
        """The connection is gone by itself; called by its reader."""
        link = self._host.link
        data: JsonObject = {"code": None, "signal": None, "stderr_tail": "", "message": str(error)}
        if isinstance(error, AgentExited):
            data |= {"code": error.code, "signal": error.signal, "stderr_tail": error.stderr_tail[-16_000:]}
        log.warning("session=%s %s", self._row.id, error)
        self._journal.append(Kind.AGENT_EXITED, data, turn=self._inbox.turn)
        self._record.save(runner=None)
        runner = self._host.runner
        self._host.lost()
        if isinstance(error, RunnerLost) and runner is not None:
            self._reap(self._host.end(runner))
        elif link is not None:
            self._reap(self._host.stop(grace=0 if isinstance(error, AgentProtocolError) else 2.0))
        self._spawn(self._questions.cancel_all(), "questions")
        if self._delegation is not None:
            self._spawn(self._delegation.abandon(), "delegation")

    async def ended(self) -> None:
        """Return once nothing is left of agents whose connection is gone."""
        await asyncio.gather(*self._ending, return_exceptions=True)

    def set_error(self, error: JsonObject | None) -> None:
        """Tell people why the agent cannot be had; None: it can."""
        self.error = error
        self._turns.announce(error=error)

    def progress(self) -> tuple[list[Change], Callable[[], None]]:
        """What is to be recorded of how far the agent was read, and what to do once that is committed."""
        connection, link = self._host.connection, self._host.link
        if connection is None or link is None or self._row.runner is None:
            return [], lambda: None
        position = connection.position
        changes = self._record.progress(position, connection.number)
        return changes, (lambda: link.ack(position)) if changes else lambda: None

    async def _warm_up(self) -> None:
        try:
            agent = await self._host.ready(self._row.agent_session_id, self._opened)
            await self._apply(agent, {**self._defaults(), **self._row.config})
        except (AgentError, RequestError) as exc:
            log.warning("session=%s the agent did not start: %s", self._row.id, exc)
            reason = "session_lost" if isinstance(exc, SessionLost) else "agent_error"
            self.set_error({"message": str(exc), "reason": reason})
            self._journal.commit()

    async def _opened(self, agent: Agent, reply: JsonObject, how: str) -> None:
        """The agent has a session for us: recorded before anything is said in it."""
        agent_session_id = str(reply["sessionId"])
        connection, link = self._host.connection, self._host.link
        assert connection is not None and link is not None
        access = self._host.access
        shown = {**self._row.shown, "config_options": self._inbox.options, "agent": agent.known(), "access": access}
        self._record.save(
            agent_session_id=agent_session_id, runner=self._host.runner, position=0, number=0, shown=shown
        )
        self._journal.change(delivered(self._row.id, 0, 0))
        self._journal.change(delegated_forgotten(self._row.id))
        self._journal.change(answers_forgotten(self._row.id))
        info = agent.agent_info or {}
        self._journal.append(
            Kind.AGENT_STARTED,
            {
                "agent": self._row.agent,
                "name": info.get("title") or info.get("name") or self._spec.name,
                "version": info.get("version"),
                "pid": link.agent_pid,
                "agent_session_id": agent_session_id,
                "how": how,
                "access": access,
            },
            turn=self._inbox.turn,
        )
        self.error = None
        self._turns.announce(
            agent_session_id=agent_session_id,
            config_options=self._inbox.options,
            access={"requested": self._row.access, "effective": access, "available": self._available},
            error=None,
        )
        await self._journal.commit(durable=True)
        self._save_session_file()

    # --- its access --------------------------------------------------------------------------------------------------

    async def set_access(self, access: str) -> None:
        """Ask for a kind of access: an agent that has another is ended, before the next turn where one runs.

        Unsupported where it cannot be enforced here, with what is missing.
        """
        self.check_access(access)
        if access == self._row.access:
            return
        self._record.save(access=access)
        self._turns.announce(access=self.access())
        await self._journal.commit(durable=True)
        self._save_session_file()
        if self._turns.active is None and self._host.connected:
            await self._change_access()
            self.warm_up()

    def check_access(self, access: str) -> None:
        """BadRequest or Unsupported where an agent cannot have that access here."""
        kind = next((kind for kind in self._available if kind["id"] == access), None)
        if kind is None:
            raise BadRequest(f"{access!r} is no kind of access", "unknown_access")
        if not kind["available"]:
            raise Unsupported(f"{access} cannot be enforced here: {kind['reason']}", "access_unsupported")

    def access(self) -> JsonObject:
        """What is asked for, what is in force, and every kind that there is."""
        effective = self._host.access if self._host.connected else self._row.access
        return {"requested": self._row.access, "effective": effective, "available": self._available}

    async def _change_access(self) -> None:
        """End an agent whose access is not what was asked for."""
        if self._host.connected and self._host.access != self._row.access:
            await self.retire(f"its access was {self._host.access} and is to be {self._row.access}")

    # --- its options -------------------------------------------------------------------------------------------------

    async def configure(self, config: JsonObject) -> None:
        """Ask for values of the agent's options, its mode and model included.

        Applied at once where the agent runs, and again before every turn. Unsupported where the agent refuses.
        """
        wanted = {**self._row.config, **config}
        agent = self._host.agent
        if agent is not None and self._row.agent_session_id is not None:
            try:
                await self._apply(agent, {**self._defaults(), **wanted})
            except AgentError as exc:
                raise Unsupported(f"the agent did not take the setting: {exc}", "option_refused") from exc
        elif self._inbox.options:
            known = {option["id"] for option in self._inbox.options}
            if unknown := set(config) - known:
                raise Unsupported(f"the agent has no option {', '.join(sorted(unknown))}", "unknown_option")
        self._record.save(config=wanted)
        await self._journal.commit(durable=True)
        self._save_session_file()

    def told(self, name: str, value: object) -> None:
        """The agent says something of itself that people are shown."""
        self._record.show(name, value)
        if name == "config_options":
            if self._prompted():
                # What the agent changes in its turn (leaving plan mode, say) was agreed to there: we do not undo it.
                now = options.effective(self._inbox.options)
                self._record.save(config={id: now.get(id, asked) for id, asked in self._row.config.items()})
            self._journal.append(Kind.SESSION_CHANGED, {"config_options": value}, turn=None)

    def _defaults(self) -> dict[str, object]:
        """The agent's own settings that go with the access in force."""
        known = {option["id"] for option in self._inbox.options}
        return {id: value for id, value in (self._spec.access.get(self._row.access) or {}).items() if id in known}

    async def _apply(self, agent: Agent, wanted: Mapping[str, object]) -> None:
        """Options as asked for, read back; AgentError where they are not."""
        assert self._row.agent_session_id is not None
        # One at a time: the warm-up and the first turn would set the same twice.
        async with self._applying:
            if await agentoptions.apply(agent, self._row.agent_session_id, self._inbox, wanted):
                self.told("config_options", self._inbox.options)

    def _check_idle(self) -> None:
        if self._turns.active is not None:
            raise Conflict("a turn runs: stop it first", "turn_running")

    def _save_session_file(self) -> None:
        row = self._row
        self._conversation.save_session(
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

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        return self._tasks.spawn(work, f"{name}-{self._row.id}")

    def _reap(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._spawn(work, "reap")
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)
