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
import socket
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from tornado.httpclient import HTTPClientError, HTTPRequest
from tornado.netutil import Resolver
from tornado.simple_httpclient import SimpleAsyncHTTPClient
from tornado.websocket import WebSocketClientConnection, WebSocketClosedError, websocket_connect

from jupyter_acp.events import JsonObject
from jupyter_acp.exceptions import ExecutorError, PathOutside
from jupyter_acp.kernel_exec.base import Exit, FileMissing, OnBytes, OnExit, OnOutput, Run, finish_all
from jupyter_acp.kernel_exec.output import Output
from jupyter_acp.kernel_exec.sandbox import Sandbox

ROUTE = "api/acp/project-side"
REASONS: dict[str, type[ExecutorError]] = {
    "file_missing": FileMissing,
    "path_outside": PathOutside,
    "failed": ExecutorError,
}
"""What went wrong over there, by the name that it has on the way; the most exact first."""

WINDOW = 2 << 20  # bytes of a command's output that may be on their way
_MORE = WINDOW // 4
_PIECE = 64 << 10  # bytes that are typed at once
_CONNECT = 5.0  # seconds
_CALL = 60.0
_POLL = 5.0
_KILL_WITHIN = 5.0
_PING = 60.0  # a connection that is gone without a word is given up after twice that
_RETRY = 0.05
_MAX_BODY = 64 << 20
_MAX_FRAME = 4 << 20
_MAX_WORDS = 2000


class ServerExecutor:
    """Files and commands of the project that a Jupyter server serves.

    Parameters
    ----------
    url
        The server's base URL.
    token
        Its token, or the file that it is in, which is read for each call.
    socket
        The unix socket that it listens on; `url` then only gives the base path.
    output_limit
        Bytes of a command's tail, unless the caller says otherwise.
    max_output_limit
        The most that a caller may ask for.
    start_timeout
        Seconds that `start` waits for the server.
    sandbox
        What confines writes and commands at the time of a call, by its workspace and network; the rest is that
        side's. None: nothing but the project's root.
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
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.netloc or "@" in parts.netloc:
            raise ValueError("the URL of a project's server is http(s)://host/..., without a password")
        if parts.query or parts.fragment:
            raise ValueError("the URL of a project's server has no query: the token is given apart")
        self._url, self._socket = url.rstrip("/"), socket
        self._secure = "s" if parts.scheme == "https" else ""
        # a unix socket has no host, and Jupyter Server takes requests for unknown names to be attacks
        self._base = f"://{'localhost' if socket else parts.netloc}{parts.path.rstrip('/')}/{ROUTE}"
        self._token = token
        self._output_limit = output_limit
        self._max_output_limit = max_output_limit
        self._start_timeout = start_timeout
        self._sandbox = sandbox
        self._client: SimpleAsyncHTTPClient | None = None
        self._commands: set[ServerCommand] = set()
        self._closing: set[asyncio.Future[Any]] = set()
        self._stopped = False

    async def start(self) -> None:
        """See `Executor.start`. Waits for a server that does not answer yet; one that refuses is not asked again."""
        reason: Exception = self._unreachable(TimeoutError("it does not answer"))
        try:
            async with asyncio.timeout(self._start_timeout):
                while True:
                    try:
                        return await self._greet()
                    except Unreachable as exc:
                        reason = exc
                    await asyncio.sleep(_RETRY)
        except TimeoutError as exc:
            raise ExecutorError(f"{reason} (waited {self._start_timeout:g} s)") from exc

    async def poll(self) -> int | None:
        """See `Executor.poll`."""
        if self._stopped:
            return 0
        try:
            await self._greet(_POLL)
        except ExecutorError:
            return 1
        return None

    def get_state(self) -> JsonObject:
        """See `Executor.get_state`. Commands end with their sockets, so nothing is left to be found again."""
        return {"url": self._url, "socket": self._socket}

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
        data = await self._fetch("GET", "/files", query)
        try:
            return data.decode()
        except UnicodeDecodeError as exc:
            raise ExecutorError(f"{path}: the project's server sent what is not text") from exc

    async def write_text_file(self, path: str, text: str) -> None:
        """See `Executor.write_text_file`."""
        query = {"path": _encoded(path), "sandbox": json.dumps(self._confinement()).encode()}
        # with lone surrogates, so that it is that side which says that they cannot be written
        await self._fetch("PUT", "/files", query, text.encode("utf-8", "surrogatepass"))

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
            await started.start(await self._connect(), asked)
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
            if self._closing:
                await asyncio.wait(self._closing, timeout=_CONNECT)
            if self._client is not None:
                self._client.close()
                self._client = None

    def _check_running(self) -> None:
        if self._stopped:
            raise ExecutorError("the executor has been stopped")

    def _confinement(self) -> JsonObject | None:
        sandbox = self._sandbox()
        if sandbox is None:
            return None
        workspace = None if sandbox.workspace is None else str(sandbox.workspace)
        return {"workspace": workspace, "network": sandbox.network}

    async def _greet(self, timeout: float | None = None) -> None:
        """Return where a project can be asked for things."""
        body = await self._fetch("GET", "", {}, timeout=timeout)
        try:
            _object(body)["version"]
        except (KeyError, ValueError) as exc:
            raise ExecutorError(f"{self._place}: that is no project's server") from exc

    async def _fetch(
        self,
        method: str,
        path: str,
        query: Mapping[str, bytes],
        body: bytes | None = None,
        timeout: float | None = None,
    ) -> bytes:
        self._check_running()
        request = self._request("http", path + ("?" + urlencode(query, quote_via=quote) if query else ""))
        request.method, request.request_timeout = method, timeout or _CALL
        request.body = body  # type: ignore[assignment]  # a property, which takes None as well
        if self._client is None:
            self._client = SimpleAsyncHTTPClient(
                force_instance=True, max_clients=100, max_body_size=_MAX_BODY, max_buffer_size=_MAX_BODY, **self._way
            )
        answering = self._client.fetch(request, raise_error=False)
        try:
            response = await asyncio.shield(answering)
        except asyncio.CancelledError:
            answering.add_done_callback(_hear)  # tornado would log as an error that nobody waits for it
            raise
        except (HTTPClientError, OSError, ValueError) as exc:
            raise self._unreachable(exc) from exc
        if response.code >= 300:
            raise self._refused(response.code, response.body)
        return response.body

    async def _connect(self) -> WebSocketClientConnection:
        """A WebSocket for a command."""
        connecting = asyncio.ensure_future(
            websocket_connect(
                self._request("ws", "/commands"),
                # the end of a unix socket is always told
                ping_interval=None if self._socket else _PING,
                ping_timeout=None if self._socket else _PING,
                max_message_size=_MAX_FRAME,
                **self._way,
            )
        )
        try:
            return await asyncio.shield(connecting)
        except asyncio.CancelledError:
            self._closing.add(connecting)
            connecting.add_done_callback(self._closing.discard)
            connecting.add_done_callback(_hang_up_later)
            raise
        except HTTPClientError as exc:
            raise (self._unreachable(exc) if exc.code == 599 else self._refused(exc.code, b"")) from exc
        except (OSError, ValueError, WebSocketClosedError) as exc:
            raise self._unreachable(exc) from exc

    def _request(self, scheme: str, path: str) -> HTTPRequest:
        return HTTPRequest(
            f"{scheme}{self._secure}{self._base}{path}",
            headers={"Authorization": f"token {self._read_token()}"},
            connect_timeout=_CONNECT,
            request_timeout=_CALL,
            follow_redirects=False,  # the token is for nobody else
            decompress_response=False,
        )

    def _read_token(self) -> str:
        try:
            token = self._token if isinstance(self._token, str) else self._token.read_text("ascii").strip()
        except (OSError, ValueError) as exc:
            raise ExecutorError(f"{self._place}: its token cannot be read: {exc}") from exc
        if not token.isascii() or not token.isprintable():
            raise ExecutorError(f"{self._place}: its token has characters that no token has")
        return token

    @property
    def _way(self) -> dict[str, Any]:
        return {"resolver": UnixResolver(self._socket)} if self._socket else {}

    @property
    def _place(self) -> str:
        return self._socket or self._url

    def _unreachable(self, exc: Exception) -> ExecutorError:
        return Unreachable(f"{self._place}: the project's server cannot be reached: {exc}")

    def _refused(self, status: int, body: bytes) -> ExecutorError:
        with suppress(ValueError):
            told = _object(body)
            if str(told.get("reason")) in REASONS:
                return error_from(told)
        if status in (401, 403):
            return ExecutorError(f"{self._place}: the project's server refuses our token")
        if status == 404:
            return ExecutorError(f"{self._place}: this server serves no project (AcpExtension.serve_project)")
        if status in (502, 503, 504):
            return Unreachable(f"{self._place}: the project's server cannot be reached: status {status}")
        return ExecutorError(f"{self._place}: the project's server answered with status {status}")


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
        async with _within(_CALL, "the project's server does not answer"):
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
        async with _within(_CALL, "the project's server does not answer"):
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
                self._told(_object(message))
            except (KeyError, TypeError, ValueError) as exc:
                self._lose(f"the project's server makes no sense: {exc!r}"[:_MAX_WORDS])

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
            _hang_up(self._socket)

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
            self._socket.write_message(json.dumps(told)).add_done_callback(_hear)

    def _check_terminal(self) -> None:
        if self._run != "terminal":
            raise ExecutorError(f"command {self.id} has no terminal")

    def _check_running(self) -> None:
        self._check_terminal()
        if self._exited.done():
            raise ExecutorError(f"command {self.id} has ended")


class Unreachable(ExecutorError):
    """The project's server does not answer, or not any more."""


class UnixResolver(Resolver):
    """Leads every name to one unix socket."""

    def initialize(self, path: str) -> None:
        self._path = path

    async def resolve(self, host: str, port: int, family: int = socket.AF_UNSPEC) -> list[tuple[int, Any]]:
        """The one address that there is."""
        return [(socket.AF_UNIX, self._path)]


def error_to(exc: ExecutorError) -> JsonObject:
    """An error as it goes over the wire."""
    reason = next(name for name, kind in REASONS.items() if isinstance(exc, kind))
    return {"message": str(exc), "reason": reason}


def error_from(told: object) -> ExecutorError:
    """The error that came over the wire; a TypeError where that is none."""
    if not isinstance(told, dict):
        raise TypeError("an error is an object")
    return REASONS.get(str(told.get("reason")), ExecutorError)(str(told.get("message"))[:_MAX_WORDS])


def _exit(told: JsonObject) -> Exit:
    code, name = told["code"], told["signal"]
    if not ((type(code) is int and name is None) or (code is None and type(name) is str)):
        raise ValueError("an exit is a code or a signal")
    return Exit(code=code, signal=name)


def _object(text: str | bytes) -> JsonObject:
    """A JSON object; ValueError for anything else."""
    try:
        told = json.loads(text)
    except RecursionError as exc:
        raise ValueError("nested too deeply") from exc
    if not isinstance(told, dict):
        raise ValueError("not an object")
    return told


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


def _hear(sent: asyncio.Future[Any]) -> None:
    """Take note of an error, which somebody else is told."""
    if not sent.cancelled():
        sent.exception()


def _hang_up(connected: WebSocketClientConnection) -> None:
    protocol = connected.protocol
    connected.close()
    # tornado would keep the descriptor until the other side closes its end
    if protocol is not None and protocol.stream is not None:
        protocol.stream.close()


def _hang_up_later(connecting: asyncio.Future[WebSocketClientConnection]) -> None:
    if not connecting.cancelled() and connecting.exception() is None:
        _hang_up(connecting.result())
