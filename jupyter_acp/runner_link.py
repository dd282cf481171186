"""The coordinator's end of a runner: start one, attach to one, read and write. Not here: JSON-RPC, sessions, restarts.

Its one rule: the runner sends no more output than was asked for (a window beyond what `read` has returned), so a slow
reader costs no memory, and words about the agent never queue behind output.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

from . import daemons, unixsockets
from . import runner as wire
from .exceptions import AgentError
from .runner_output import CHUNK
from .runner_processes import sweep

_T = TypeVar("_T")

WINDOW = 1 << 20
UNWRITTEN_LIMIT = 1 << 20
ACK_BYTES = 32 << 10
ATTACH_TIMEOUT = 10.0
CLOSE_TIMEOUT = 5.0


class RunnerLost(AgentError):
    """No runner is there any more; its agent is gone as well."""


class TakenOver(AgentError):
    """Another controller has attached to this agent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchSpec:
    """How an agent is run. `env` is its whole environment (JUPYTER_ACP_RUN is added)."""

    argv: Sequence[str]
    env: Mapping[str, str]
    cwd: str
    memory_limit: int = 8 << 20
    spool_limit: int = 1 << 30
    ahead_limit: int = 1 << 20
    idle_timeout: float = 86400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentExit:
    """How the agent ended: exit status or signal number, and the end of its stderr."""

    code: int | None
    signal: int | None
    stderr_tail: str


async def launch(directory: Path, spec: LaunchSpec) -> int:
    """Start a runner with its agent in `directory`, which is made if need be. Returns the runner's pid.

    Raises AgentError with a sentence for the person where the agent's program cannot be started.
    """
    starting = asyncio.ensure_future(_launch(directory, spec))
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        # The daemon is there in a moment, or already, and nobody else would know of it.
        with contextlib.suppress(AgentError):
            await starting
            link = await RunnerLink.attach(directory)
            await link.stop(0)
            await link.close()
        raise


async def _launch(directory: Path, spec: LaunchSpec) -> int:
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    directory.chmod(0o700)
    try:
        report = await daemons.launch(
            "jupyter_acp.runner", str(directory.absolute()), specification=asdict(spec), env={}
        )
    except daemons.NotStarted as exc:
        with contextlib.suppress(OSError):
            directory.rmdir()
        raise AgentError(str(exc)) from exc
    return int(report["pid"])


class RunnerLink:
    """One controller's connection to a runner.

    Attributes
    ----------
    runner_pid, agent_pid
        Process numbers, as the runner sees them.
    last_input
        Number of the last message that the runner accepted for the agent.
    position
        Offset in the agent's stdout of the end of what `read` has returned.
    exit
        How the agent ended, once it has.
    """

    def __init__(self, protocol: _Protocol, position: int, hello: Mapping[str, int]) -> None:
        self.runner_pid = hello["runner_pid"]
        self.agent_pid = hello["agent_pid"]
        self.last_input = hello["last_input"]
        self.position = position
        self._protocol = protocol
        self._window = position
        self._acknowledged = self._ack_sent = position
        self._stopped = False
        self._send_turn = asyncio.Lock()
        self._widen()

    @classmethod
    async def attach(
        cls,
        directory: Path,
        *,
        after: int | None = 0,
        peer: Callable[[socket.socket], None] = lambda sock: None,
        clear: Callable[[], Awaitable[str]] | None = None,
    ) -> RunnerLink:
        """Become the controller of the runner in `directory`; an earlier one is told that it was taken over.

        `after` None skips all output so far: for who only wants to end it. `peer` raises where the connected socket
        leads to somebody else's process; nothing is sent before. `clear` ends and removes what a dead runner has left,
        and returns its last words; by default it does so here.

        Raises RunnerLost where no runner is there any more, AgentError where it no longer holds the output after
        `after`.
        """
        protocol = _Protocol()
        try:
            async with asyncio.timeout(ATTACH_TIMEOUT):
                sock = await unixsockets.connect(directory / "runner.sock")
                try:
                    peer(sock)
                except BaseException:
                    sock.close()
                    raise
                await asyncio.get_running_loop().create_unix_connection(lambda: protocol, sock=sock)
                protocol.write(wire.ATTACH, wire.EVERYTHING if after is None else after, wire.MAGIC)
                position, payload = await protocol.hello
        except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError) as exc:
            if clear is not None:
                words = await clear()
            else:
                words = await asyncio.to_thread(last_words, directory)
                await asyncio.to_thread(sweep, str(directory))
            raise RunnerLost("no runner is there" + (f"; its last words: {words}" if words else "")) from exc
        except BaseException as exc:
            protocol.close()
            if isinstance(exc, TimeoutError):
                raise RunnerLost("the runner does not answer") from exc
            if isinstance(exc, OSError):
                raise AgentError(f"the runner cannot be reached: {exc}") from exc
            raise
        return cls(protocol, position, json.loads(payload))

    @property
    def exit(self) -> AgentExit | None:
        return self._protocol.exit

    async def read(self) -> bytes | None:
        """The next stretch of the agent's stdout, at most 256 KiB; None once it has exited and all was read.

        Raises RunnerLost or TakenOver. Cancelling it loses nothing.
        """
        protocol = self._protocol
        while not protocol.chunks or isinstance(protocol.error, TakenOver):
            if protocol.exit is not None and self.position == protocol.end:
                return None
            protocol.check()
            await protocol.changed()
        chunks = protocol.chunks
        data = chunks.popleft()
        if chunks and len(data) + len(chunks[0]) <= CHUNK:
            parts, size = [data], len(data)
            while chunks and size + len(chunks[0]) <= CHUNK:
                parts.append(chunks.popleft())
                size += len(parts[-1])
            data = b"".join(parts)
        self.position += len(data)
        self._widen()
        return data

    async def send(self, number: int, data: bytes) -> None:
        """Give message `number` to the agent; one that the runner already has is ignored by it.

        Returns when it is on its way to the runner and less than a MiB waits for the agent to read it.
        """
        protocol = self._protocol
        async with self._send_turn:
            protocol.check()
            protocol.write(wire.INPUT, number, data)
            protocol.unwritten.append((number, len(data)))
            self.last_input = max(self.last_input, number)
            while sum(size for _, size in protocol.unwritten) > UNWRITTEN_LIMIT and protocol.exit is None:
                protocol.check()
                await protocol.changed()

    def ack(self, position: int) -> None:
        """Allow the runner to forget the output before `position`. Small steps are told together: each wakes it up."""
        self._acknowledged = max(self._acknowledged, position)
        if self._acknowledged - self._ack_sent >= ACK_BYTES:
            self._send_ack()
        if self.exit is not None and self._acknowledged >= self._protocol.end:
            self._protocol.write(wire.DONE, 0)

    async def stderr_tail(self) -> str:
        """The last 64 KiB of the agent's stderr."""
        if self.exit is not None:
            return self.exit.stderr_tail
        _, payload = await self._ask(wire.TAIL, 0)
        return payload.decode(errors="replace")

    async def kill_descendants(self, *, younger_than: float | None = None) -> int:
        """End what the agent has started, not the agent itself. Returns how many processes were killed.

        `younger_than`, in seconds, spares what is older, such as a part of the agent that it started with itself.
        """
        age = wire.EVERYTHING if younger_than is None else max(0, round(younger_than * 1000))
        count, _ = await self._ask(wire.KILL, age)
        return count

    async def stop(self, grace: float = 2.0) -> None:
        """End the agent: its stdin is closed, after `grace` SIGTERM, after `grace` more SIGKILL for its whole tree.

        Returns when all of it is gone; what it wrote can still be read. Raises TakenOver, or AgentError where the
        runner does not manage.
        """
        self._stopped = True
        protocol = self._protocol
        if protocol.exit is None:
            protocol.write(wire.STOP, round(grace * 1000))
        try:
            async with asyncio.timeout(2 * grace + 10):
                while protocol.exit is None and not isinstance(protocol.error, RunnerLost):
                    protocol.check()
                    await protocol.changed()
        except TimeoutError as exc:
            raise AgentError("the runner could not end the agent") from exc

    def lose(self, why: str) -> None:
        """Take the agent for lost, as if its runner were gone: whoever uses it is told `why` by RunnerLost."""
        self._protocol.lose(why)

    async def close(self) -> None:
        """Detach; the agent keeps running. After `stop`, or an exit of which all is acknowledged, the runner goes too.

        Idempotent.
        """
        protocol = self._protocol
        self._send_ack()
        if protocol.exit is not None and (self._stopped or self._acknowledged >= protocol.end):
            protocol.write(wire.DONE, 0)
        protocol.close()
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await asyncio.shield(protocol.closed)
        except TimeoutError:
            protocol.abort()

    def _send_ack(self) -> None:
        self._ack_sent = self._acknowledged
        self._protocol.write(wire.ACK, self._ack_sent)

    def _widen(self) -> None:
        """Ask for more when a quarter of the window has been read: few words, and the pipe never runs dry."""
        if self.position + WINDOW - self._window >= WINDOW // 4:
            self._window = self.position + WINDOW
            self._protocol.write(wire.WINDOW, self._window)

    async def _ask(self, kind: bytes, number: int) -> tuple[int, bytes]:
        self._protocol.check()
        answer: asyncio.Future[tuple[int, bytes]] = asyncio.get_running_loop().create_future()
        self._protocol.asked[kind].append(answer)
        self._protocol.write(kind, number)
        return await answer


class _Protocol(asyncio.Protocol):
    """Splits frames; keeps what they say until the link takes it."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.hello: asyncio.Future[tuple[int, bytes]] = loop.create_future()
        self.closed: asyncio.Future[None] = loop.create_future()
        self.chunks: deque[bytes] = deque()
        self.unwritten: deque[tuple[int, int]] = deque()
        self.asked: dict[bytes, deque[asyncio.Future[tuple[int, bytes]]]] = {wire.TAIL: deque(), wire.KILL: deque()}
        self.exit: AgentExit | None = None
        self.end = -1
        self.error: AgentError | None = None
        self._waiters: list[asyncio.Future[None]] = []
        self._transport: asyncio.Transport | None = None
        self._inbound = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        inbound, at, header = self._inbound, 0, wire.HEADER
        inbound += data
        while len(inbound) - at >= header.size:
            kind, number, size = header.unpack_from(inbound, at)
            if len(inbound) - at < header.size + size:
                break
            at += header.size + size
            self._handle(kind, number, bytes(memoryview(inbound)[at - size : at]))
        del inbound[:at]
        self._wake()

    def _handle(self, kind: bytes, number: int, payload: bytes) -> None:
        if kind == wire.DATA:
            self.chunks.append(payload)
        elif kind == wire.WRITTEN:
            while self.unwritten and self.unwritten[0][0] <= number:
                self.unwritten.popleft()
        elif kind == wire.EXIT:
            how = json.loads(payload)
            self.end = number
            self.exit = AgentExit(code=how["code"], signal=how["signal"], stderr_tail=how["stderr"])
        elif kind == wire.HELLO:
            _settle(self.hello, (number, payload))
        elif kind == wire.KILLED:
            _settle(self.asked[wire.KILL].popleft(), (number, payload))
        elif kind == wire.STDERR:
            _settle(self.asked[wire.TAIL].popleft(), (number, payload))
        elif kind == wire.TAKEN:
            self._fail(TakenOver("another coordinator has taken this agent over"))
            self.close()
        elif kind == wire.REFUSED:
            self._fail(AgentError(f"the runner refused: {payload.decode(errors='replace')}"))
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(RunnerLost("the connection to the runner is gone"))
        _settle(self.closed, None)

    def _fail(self, error: AgentError) -> None:
        self.error = self.error or error
        for future in (self.hello, *self.asked[wire.TAIL], *self.asked[wire.KILL]):
            if not future.done():
                future.set_exception(self.error)
                future.exception()  # whoever awaited it may have been cancelled; then nobody is to be told
        self._wake()

    def lose(self, why: str) -> None:
        """End the connection."""
        self._fail(RunnerLost(why))
        self.close()

    def check(self) -> None:
        """Raise what ended the connection."""
        if self.error is not None:
            raise self.error

    async def changed(self) -> None:
        """Wait until something has come in, or the connection has ended."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        await waiter

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            _settle(waiter, None)

    def write(self, kind: bytes, number: int, payload: bytes = b"") -> None:
        """Never waits: the runner always reads. Nothing where the connection has ended."""
        if self.error is None and self._transport is not None and not self._transport.is_closing():
            self._transport.write(wire.HEADER.pack(kind, number, len(payload)) + payload)

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def close(self) -> None:
        if self._transport is None:
            _settle(self.closed, None)
        else:
            self._transport.close()


def _settle(future: asyncio.Future[_T], value: _T) -> None:
    if not future.done():
        future.set_result(value)


def last_words(directory: Path) -> str:
    """The end of what a runner has written to its log; empty where it has nothing to say. Blocking."""
    try:
        return (directory / "runner.log").read_text(errors="replace").strip()[-1000:]
    except OSError:
        return ""
