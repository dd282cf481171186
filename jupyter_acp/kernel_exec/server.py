"""The executor of a project that a headless Jupyter server serves, on this machine or another.

Our own extension is there too and does the work with a `LocalExecutor` (`handlers.project_side`). Files go by HTTP. A
command has a WebSocket to itself, which is its life line: where the socket is lost, that side ends the command with all
that it started.

Up the socket, in JSON: first `{command, run, cwd, env, sandbox, more}`; then `{more: n}`, so many bytes of output may
be sent beyond those before; and `{call: id, kill|resize|write: ...}`. Down it: output as binary frames, and in JSON
`{started}` or `{error}`, `{answer: id, error?}`, and `{exited}` after the last output. The socket is always read, so
that no answer waits behind output: it is the want of `more` that holds a command back.

Whoever uses a project could put something else in its server's place: what comes from there is checked and bounded.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import secrets
import signal
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from tornado.websocket import WebSocketClientConnection, WebSocketClosedError

from jupyter_acp.events import JsonObject
from jupyter_acp.exceptions import ExecutorError
from jupyter_acp.kernel_exec.base import Exit, OnBytes, OnExit, OnOutput, Run, finish_all
from jupyter_acp.kernel_exec.output import Output
from jupyter_acp.kernel_exec.sandbox import Sandbox
from jupyter_acp.kernel_exec.server_link import (
    CALL,
    MAX_WORDS,
    Peer,
    ServerLink,
    Unreachable,
    error_from,
    hang_up,
    hear,
    json_object,
)

WINDOW = 2 << 20  # bytes of a command's output that may be on their way
_MORE = WINDOW // 4
_PIECE = 64 << 10  # bytes that are typed at once
_POLL = 5.0
_KILL_WITHIN = 5.0


class ServerExecutor:
    """Files and commands of the project that a Jupyter server serves.

    Parameters
    ----------
    url, token, socket
        See `ServerLink`, where the last is `unix_socket`.
    output_limit
        Bytes of a command's tail, unless the caller says otherwise.
    max_output_limit
        The most that a caller may ask for.
    start_timeout
        Seconds that `start` waits for the server.
    sandbox
        What confines writes and commands at the time of a call, by its workspace and network; the rest is that
        side's. None: nothing but the project's root.
    peer, version
        See `ServerLink`.
    """

    def __init__(
        self,
        url: str,
        token: str | Path,
        *,
        socket: str | None = None,
        output_limit: int = 1 << 20,
        max_output_limit: int = 8 << 20,
        start_timeout: float = 30.0,
        sandbox: Callable[[], Sandbox | None] = lambda: None,
        peer: Peer = lambda sock: None,
        version: str | None = None,
    ) -> None:
        self.link = ServerLink(url, token, unix_socket=socket, peer=peer, version=version)
        self._output_limit = output_limit
        self._max_output_limit = max_output_limit
        self._start_timeout = start_timeout
        self._sandbox = sandbox
        self._commands: set[ServerCommand] = set()
        self._stopped = False

    async def start(self) -> None:
        """See `Executor.start`. Waits for a server that does not answer yet; one that refuses is not asked again."""
        self._check_running()
        await self.link.wait(self._start_timeout)

    async def poll(self) -> int | None:
        """See `Executor.poll`."""
        if self._stopped:
            return 0
        try:
            await self.link.greet(_POLL)
        except ExecutorError:
            return 1
        return None

    def get_state(self) -> JsonObject:
        """See `Executor.get_state`. Commands end with their sockets, so nothing is left to be found again."""
        return {"url": self.link.url, "socket": self.link.unix_socket}

    def load_state(self, state: JsonObject) -> None:
        """See `Executor.load_state`. Never sends the token anywhere else."""
        if state != self.get_state():
            raise ValueError(f"this is the state of another project: {state}")

    async def read_text_file(self, path: str, line: int | None = None, limit: int | None = None) -> str:
        """See `Executor.read_text_file`."""
        query = {"path": _encoded(path)}
        for name, value in (("line", line), ("limit", limit)):
            if value is not None:
                query[name] = b"%d" % value
        self._check_running()
        data = await self.link.fetch("GET", "/files", query)
        try:
            return data.decode()
        except UnicodeDecodeError as exc:
            raise ExecutorError(f"{path}: the project's server sent what is not text") from exc

    async def write_text_file(self, path: str, text: str) -> None:
        """See `Executor.write_text_file`."""
        query = {"path": _encoded(path), "sandbox": json.dumps(self._confinement()).encode()}
        # with lone surrogates, so that it is that side which says that they cannot be written
        self._check_running()
        await self.link.fetch("PUT", "/files", query, text.encode("utf-8", "surrogatepass"))

    async def spawn(
        self,
        command: Sequence[str] | str,
        *,
        run: Run = "terminal",
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        output_limit: int | None = None,
        on_output: OnOutput | None = None,
        on_exit: OnExit | None = None,
    ) -> ServerCommand:
        """See `Executor.spawn`. `output_limit` is cut to `max_output_limit`. The allow-list is of that side."""
        self._check_running()
        limit = self._output_limit if output_limit is None else min(max(output_limit, 0), self._max_output_limit)
        started = ServerCommand(
            run,
            limit=limit,
            pending=self._output_limit,
            on_output=on_output,
            on_exit=on_exit,
            on_close=self._commands.discard,
        )
        asked = {
            "command": command if isinstance(command, str) else list(command),
            "run": run,
            "cwd": cwd,
            "env": dict(env or {}),
            "sandbox": self._confinement(),
        }
        try:
            await started.start(await self.link.connect("/commands"), asked)
            self._check_running()
        except BaseException:
            started.let_go()
            raise
        self._commands.add(started)
        return started

    async def stop(self) -> None:
        """Close every command. The server goes on. Idempotent."""
        self._stopped = True
        try:
            await finish_all(command.close() for command in list(self._commands))
        finally:
            await self.link.close()

    def _check_running(self) -> None:
        if self._stopped:
            raise ExecutorError("the executor has been stopped")

    def _confinement(self) -> JsonObject | None:
        sandbox = self._sandbox()
        if sandbox is None:
            return None
        workspace = None if sandbox.workspace is None else str(sandbox.workspace)
        return {"workspace": workspace, "network": sandbox.network}


class ServerCommand:
    """A command in a project that a server serves. See `base.Command`; `ServerExecutor.spawn` makes them.

    Where the connection is lost it has ended by SIGKILL, which is what that side does to it, and `wait` says so.
    """

    def __init__(
        self,
        run: Run,
        *,
        limit: int,
        pending: int,
        on_output: OnOutput | None,
        on_exit: OnExit | None,
        on_close: Callable[[ServerCommand], None],
    ) -> None:
        self.id = secrets.token_hex(8)
        self._run = run
        self._on_close = on_close
        loop = asyncio.get_running_loop()
        self._output = Output(
            self.id, limit=limit, pending=pending, on_output=on_output, on_exit=on_exit, on_room=self._grant
        )
        self._started: asyncio.Future[None] = loop.create_future()
        self._exited: asyncio.Future[Exit] = loop.create_future()
        self._calls: dict[int, asyncio.Future[None]] = {}
        self._called = 0
        self._owed = 0
        self._typing = asyncio.Lock()
        self._socket: WebSocketClientConnection | None = None
        self._reading: asyncio.Task[None] | None = None
        self._gone: str | None = None  # why nothing more comes
        self._ended_by_that = False
        self._task: asyncio.Task[None] | None = None

    @property
    def exit(self) -> Exit | None:
        """See `Command.exit`."""
        return self._output.exit

    async def start(self, socket: WebSocketClientConnection, asked: JsonObject) -> None:
        """Have it started over `socket`, which is its own from here on. ExecutorError with that side's reason."""
        self._socket = socket
        self._reading = asyncio.create_task(self._read(socket), name=f"output of command {self.id}")
        self._send({**asked, "more": WINDOW})
        async with _within(CALL, "the project's server does not answer"):
            await self._started
        self._task = asyncio.create_task(self._follow(), name=f"command {self.id}")

    def output(self) -> tuple[str, bool]:
        """See `Command.output`."""
        return self._output.text()

    def watch(self, listener: OnBytes) -> Callable[[], None]:
        """See `Command.watch`."""
        self._check_terminal()
        return self._output.watch(listener)

    async def write(self, data: bytes) -> None:
        """See `Command.write`. Waits while the terminal takes no more, until the command reads or ends."""
        async with self._typing:
            self._check_running()
            for start in range(0, len(data), _PIECE):
                await self._call("write", base64.b64encode(data[start : start + _PIECE]).decode())

    async def resize(self, rows: int, columns: int) -> None:
        """See `Command.resize`."""
        self._check_running()
        async with _within(CALL, "the project's server does not answer"):
            await self._call("resize", [rows, columns])

    async def wait(self) -> Exit:
        """See `Command.wait`."""
        assert self._task is not None
        await asyncio.wait([self._task])
        if self._ended_by_that:
            raise ExecutorError(f"command {self.id} was ended: {self._gone}")
        if self.exit is None:
            raise ExecutorError(f"command {self.id} was let go before it ended")
        return self.exit

    async def kill(self, grace: float = 0.5) -> None:
        """See `Command.kill`. Where the connection is lost, that side ends it by itself."""
        assert self._task is not None
        async with _within(grace + 3 * _KILL_WITHIN, f"command {self.id} does not end"):
            with suppress(Unreachable):
                await self._call("kill", grace)
        # its last output and exit are delivered too, unless whoever listens is stuck: that is no fault of the command
        await asyncio.wait([self._task], timeout=_KILL_WITHIN)

    async def close(self) -> None:
        """See `Command.close`."""
        assert self._task is not None and self._reading is not None
        try:
            await self.kill(grace=0)
        finally:
            self.let_go()
            await asyncio.gather(self._task, self._reading, return_exceptions=True)

    def let_go(self) -> None:
        """Hang up, whereupon that side ends the command."""
        self._on_close(self)
        for task in (self._task, self._reading):
            if task is not None:
                task.cancel()
        self._lose("it was let go")
        self._output.end_watching()

    async def _read(self, socket: WebSocketClientConnection) -> None:
        while self._gone is None:
            self._received(await socket.read_message())
            await asyncio.sleep(0)  # who listens has a turn before more is taken, which might push this out

    def _received(self, message: str | bytes | None) -> None:
        """Take the next frame, or None for the end of the connection."""
        if message is None:
            self._lose("the connection to the project's server was lost")
        elif isinstance(message, bytes):
            self._output.take(message)
            self._owed += len(message)
            self._grant()
        else:
            try:
                self._told(json_object(message))
            except (KeyError, TypeError, ValueError) as exc:
                self._lose(f"the project's server makes no sense: {exc!r}"[:MAX_WORDS])

    async def _follow(self) -> None:
        await self._output.deliver(until=self._exited)
        await self._output.finish(self._exited.result())

    def _told(self, told: JsonObject) -> None:
        error = error_from(told["error"]) if told.get("error") is not None else None
        if "answer" in told:
            if call := self._calls.get(told["answer"]):
                _settle(call, error)
        elif error is not None or "started" in told:
            _settle(self._started, error)
        elif not self._exited.done():
            self._exited.set_result(_exit(told["exited"]))

    def _grant(self) -> None:
        if self._owed >= _MORE and not self._output.full:
            owed, self._owed = self._owed, 0
            self._send({"more": owed})

    def _lose(self, reason: str) -> None:
        """Nothing more will come."""
        if self._gone is not None:
            return
        self._gone = reason
        for waiting in (self._started, *self._calls.values()):
            _settle(waiting, Unreachable(reason))
        if not self._exited.done():
            self._ended_by_that = True
            self._exited.set_result(Exit.of(-signal.SIGKILL))
        if self._socket is not None:
            hang_up(self._socket)

    async def _call(self, name: str, value: object) -> None:
        """Have that side do something, and return when it is done."""
        if self._gone is not None:
            raise Unreachable(self._gone)
        self._called += 1
        number = self._called
        self._calls[number] = asyncio.get_running_loop().create_future()
        try:
            self._send({"call": number, name: value})
            await self._calls[number]
        finally:
            del self._calls[number]

    def _send(self, told: JsonObject) -> None:
        assert self._socket is not None
        with suppress(WebSocketClosedError):  # which `_read` is told
            self._socket.write_message(json.dumps(told)).add_done_callback(hear)

    def _check_terminal(self) -> None:
        if self._run != "terminal":
            raise ExecutorError(f"command {self.id} has no terminal")

    def _check_running(self) -> None:
        self._check_terminal()
        if self._exited.done():
            raise ExecutorError(f"command {self.id} has ended")


def _exit(told: JsonObject) -> Exit:
    code, name = told["code"], told["signal"]
    if not ((type(code) is int and name is None) or (code is None and type(name) is str)):
        raise ValueError("an exit is a code or a signal")
    return Exit(code=code, signal=name)


def _encoded(path: str) -> bytes:
    """A path's own bytes: a name need not be UTF-8."""
    try:
        return os.fsencode(path)
    except UnicodeEncodeError as exc:
        raise ExecutorError(f"{path!r}: no path has lone surrogates") from exc


@asynccontextmanager
async def _within(seconds: float, otherwise: str) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as exc:
        raise ExecutorError(otherwise) from exc


def _settle(future: asyncio.Future[None], error: Exception | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)
        future.exception()  # nobody may wait for it
