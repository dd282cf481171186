"""The life of one session's agent: launched in a runner, attached, resumed, stopped. Not here: turns, people, the log.

An agent that is wanted is started; one that fails is started again after 1 s, 2 s, 4 s … 60 s, and after five failures
in a row only when a person says so (DESIGN 8).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeAlias

from . import options
from .access import FULL_ACCESS
from .agent import Agent
from .events import JsonObject
from .exceptions import AgentError, AgentRequestError, ExecutorError, SessionLost, Unavailable
from .inbox import Inbox
from .jsonrpc import Connection
from .runner_link import RunnerLink, RunnerLost
from .sites.base import Launch, Launcher

log = logging.getLogger(__name__)

Opened: TypeAlias = Callable[[Agent, JsonObject, str], Awaitable[None]]
"""Told of a session that an agent has opened: the agent, its reply (with `sessionId`), and new | resume | load."""

GIVE_UP_AFTER = 5
BACK_OFF_MAX = 60.0
START_TIMEOUT = 120.0


class AgentHost:
    """Owns the link to one runner and the connection over it.

    `agent` is None while none is connected. `opened` is awaited with the agent and how it was opened, before `ready`
    returns; `numbered` tells the highest message number that a new connection must go beyond.
    """

    def __init__(self, session_id: str, inbox: Inbox, launcher: Launcher) -> None:
        self._prefix = f"{session_id[:12]}-"
        self._inbox = inbox
        self._launcher = launcher
        self._reader: asyncio.Task[None] | None = None
        self._starting = asyncio.Lock()
        self.failures = 0
        self.runner: str | None = None
        self.link: RunnerLink | None = None
        self.connection: Connection | None = None
        self.agent: Agent | None = None
        #: of the agent that is connected
        self.access = FULL_ACCESS

    @property
    def connected(self) -> bool:
        """An agent is there and was initialised."""
        return self.agent is not None

    @property
    def stale(self) -> bool:
        """The agent that is connected can do nothing any more: what it works in has gone."""
        return self.agent is not None and self._launcher.stale

    async def ready(self, agent_session_id: str | None, opened: Opened) -> Agent:
        """The initialised agent with its session open; started first where none is there.

        Raises SessionLost where the agent cannot bring `agent_session_id` back, Unavailable after too many failures,
        AgentError otherwise.
        """
        async with self._starting:
            if self.agent is not None:
                return self.agent
            if self.failures >= GIVE_UP_AFTER:
                raise Unavailable(
                    f"the agent failed {self.failures} times in a row and waits to be restarted", "agent_gave_up"
                )
            if self.failures:
                await asyncio.sleep(min(BACK_OFF_MAX, 2.0 ** (self.failures - 1)))
            try:
                async with asyncio.timeout(START_TIMEOUT):
                    agent = await self._start(agent_session_id, opened)
            except BaseException as exc:
                if not isinstance(exc, asyncio.CancelledError | SessionLost):
                    self.failures += 1
                await _to_the_end(self.stop(grace=0.5))
                if isinstance(exc, TimeoutError):
                    raise AgentError(f"the agent did not get ready within {START_TIMEOUT:.0f} s") from exc
                raise
            self.agent = agent
            return agent

    async def attach(self, runner: str, position: int, number: int) -> RunnerLink:
        """Take over a runner that an earlier coordinator left. RunnerLost where it is gone."""
        link = await self._launcher.attach(runner, after=position)
        self.runner = runner
        self.link = link
        self.connection = Connection(link, self._inbox, next_number=max(number, link.last_input) + 1)
        return link

    async def sweep(self, keep: str | None) -> None:
        """End runners of this session that nobody recorded, or no more: the server died while it started them, or the
        database was lost."""
        for runner in await self._launcher.left(self._prefix):
            if runner != keep:
                await self.end(runner)

    async def end(self, runner: str) -> None:
        """End a runner with which there is no connection, or remove what it left behind where it was killed."""
        with contextlib.suppress(AgentError):
            try:
                link = await self._launcher.attach(runner, after=None)
            except RunnerLost:
                # it may have died while it was asked; what is left is removed by who finds nobody there
                link = await self._launcher.attach(runner, after=None)
            try:
                await link.stop(grace=0)
            finally:
                await link.close()

    def resume(self, known: JsonObject, access: str) -> Agent:
        """Go on reading an attached runner; `known` is what the agent said of itself when it was initialised."""
        assert self.connection is not None
        self.access = access
        self.agent = Agent(self.connection)
        self.agent.recall(known)
        self._read()
        return self.agent

    async def kill_leftovers(self, younger_than: float) -> int:
        """End what the agent started in the last `younger_than` seconds; the agent itself stays. How many that were."""
        beside = await self._launcher.kill_leftovers(younger_than)
        return beside + (await self.link.kill_descendants(younger_than=younger_than) if self.link is not None else 0)

    async def stop(self, grace: float = 2.0) -> None:
        """End the agent and all that it started."""
        runner, link, self.link = self.runner, self.link, None
        if link is not None:
            await self._stop(runner, link, grace)
        await self._forget(link)

    def retire(self, grace: float = 2.0) -> Awaitable[None]:
        """Let an agent go that nobody waits for: at once nothing of it is heard any more, and a new one may be started.

        Await the result for its end.
        """
        runner, link, self.link = self.runner, self.link, None
        reader, self._reader = self._reader, None
        self.lost()
        if reader is not None:
            reader.cancel()
        return asyncio.ensure_future(self._retired(runner, link, reader, grace))

    async def _retired(
        self, runner: str | None, link: RunnerLink | None, reader: asyncio.Task[None] | None, grace: float
    ) -> None:
        if reader is not None:
            await asyncio.gather(reader, return_exceptions=True)
        if link is not None:
            try:
                await self._stop(runner, link, grace)
            finally:
                await link.close()

    async def _stop(self, runner: str | None, link: RunnerLink, grace: float) -> None:
        try:
            await link.stop(grace)
        except RunnerLost:
            pass
        except AgentError as exc:
            log.warning("runner=%s could not be stopped: %s", runner, exc)
            return
        if link.exit is None and runner is not None:
            await self.end(runner)  # it was killed

    async def pause(self) -> None:
        """Read no more, so that what was read can be recorded with its position before `detach`."""
        reader, self._reader = self._reader, None
        if reader is not None and reader is not asyncio.current_task():
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)

    async def detach(self) -> None:
        """Let go; the agent goes on in its runner."""
        link, self.link = self.link, None
        await self._forget(link)

    def lost(self) -> None:
        """The connection has closed by itself."""
        self.agent = None
        self.connection = None
        self.runner = None
        self._launcher.release()

    async def _forget(self, link: RunnerLink | None) -> None:
        self.lost()
        if link is not None:
            await link.close()
        await self.pause()

    async def _start(self, agent_session_id: str | None, opened: Opened) -> Agent:
        await self._forget(self.link)
        try:
            how_to = await self._launcher.prepare()
        except ExecutorError as exc:
            raise AgentError(f"the agent cannot be started: {exc}") from exc
        self._inbox.restarted()
        await _to_the_end(self._link_to(self._prefix + secrets.token_hex(4), how_to))
        assert self.link is not None
        self.access = how_to.access
        self.connection = Connection(self.link, self._inbox)
        self._read()
        agent = Agent(self.connection)
        await agent.initialize(delegated=how_to.delegated)
        reply, how = await self._open(agent, agent_session_id, how_to.cwd)
        await opened(agent, reply, how)
        return agent

    async def _link_to(self, name: str, how_to: Launch) -> None:
        self.runner = await self._launcher.launch(name, how_to)
        try:
            self.link = await self._launcher.attach(self.runner)
        except AgentError:
            await self.end(self.runner)
            raise

    async def _open(self, agent: Agent, session_id: str | None, cwd: str) -> tuple[JsonObject, str]:
        """New, else resume, else load. The reply always has `sessionId`."""
        if session_id is None:
            reply = await agent.new_session(cwd)
            # Options first: an update that came before the reply is newer.
            self._inbox.options = options.from_reply(reply)
            self._inbox.opened(str(reply["sessionId"]))
            return reply, "new"
        if not (agent.can_resume or agent.can_load):
            raise SessionLost("the agent can neither resume nor load a conversation")
        failure: AgentRequestError | None = None
        ways = (("resume", agent.can_resume, agent.resume_session), ("load", agent.can_load, agent.load_session))
        for how, offered, bring_back in ways:
            if not offered:
                continue
            # A resume repeats nothing, says the protocol; pydantic-acp does all the same.
            self._inbox.replaying = True
            self._inbox.opened(session_id)
            try:
                reply = await bring_back(session_id, cwd)
            except AgentRequestError as exc:
                # It may advertise resume and answer -32601: load is still worth a try.
                failure = exc
            else:
                # A reply without any leaves what is known: several agents tell their options in session/new only.
                self._inbox.options = options.from_reply(reply) or self._inbox.options
                return {**reply, "sessionId": session_id}, how
            finally:
                self._inbox.replaying = False
        raise SessionLost(f"the agent cannot bring the conversation back: {failure}") from failure

    def _read(self) -> None:
        assert self.connection is not None
        self._reader = asyncio.create_task(self.connection.run(), name="acp-agent-reader")


async def _to_the_end(work: Coroutine[Any, Any, None]) -> None:
    """Await it; to cancel that, were it more than once, takes effect at its end: half of it would leave an agent that
    nobody knows of."""
    task, cancelled = asyncio.ensure_future(work), None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as exc:
            cancelled = exc
    if cancelled is not None:
        if not task.cancelled():
            task.exception()  # looked at, since nobody is left to be told
        raise cancelled
    task.result()
