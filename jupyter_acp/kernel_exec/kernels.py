"""Kernels of a Jupyter server or a kernel gateway: code in them, interrupts, and any other request.

It knows no language: what is asked of a kernel besides code is its caller's.
Its one rule: nothing waits for a kernel that is gone. Whatever may end one is heard, or found by asking.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import secrets
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeAlias
from urllib.parse import quote

from nbformat.v4 import output_from_msg
from tornado.httpclient import HTTPClientError
from tornado.websocket import WebSocketClientConnection, WebSocketClosedError

from jupyter_acp.events import JsonObject
from jupyter_acp.exceptions import ExecutorError
from jupyter_acp.kernel_exec.kernel_link import (
    START,
    Channel,
    ConnectionLost,
    KernelGone,
    KernelServer,
    Message,
    acknowledge,
    hang_up,
    header,
    pack,
    unpack,
)

_log = logging.getLogger(__name__)

OnCellOutput: TypeAlias = Callable[[JsonObject], Awaitable[None] | None]
"""Called with the next output in nbformat's shape; `display_data` that may be updated has its `transient` too. Besides,
`update_display_data` (`data`, `metadata`, `transient`) and `clear_output` (`wait`) come in the same shape. An awaitable
result holds back all that is read from this kernel; the server keeps it meanwhile."""

_ATTEMPTS = 6  # to get a lost socket again, with waits of 0.1 s doubling
_PATIENCE = 10.0  # seconds for a kernel that is there to say so; doubled each time


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """How code ended.

    Attributes
    ----------
    error
        `ename`, `evalue` and `traceback` where the status is not ``ok``.
    incomplete
        The server dropped output, because there was more in a second than it lets pass (`iopub_data_rate_limit`,
        `iopub_msg_rate_limit`). It says so in the outputs too.
    """

    status: str
    execution_count: int | None
    error: JsonObject | None = None
    incomplete: bool = False


class Kernel:
    """One connection to one kernel.

    Parameters
    ----------
    server
        Where it runs.
    name
        The kernelspec to start one of; the server's default if None.
    id
        Connect to this running kernel instead.
    check
        Seconds between two looks whether the kernel is still there while something waits for it.
    """

    def __init__(
        self, server: KernelServer, *, name: str | None = None, id: str | None = None, check: float = 5.0
    ) -> None:
        self.server = server
        self.id = id
        self._name = name
        self._check = check
        self._session = secrets.token_hex(16)
        self._kernel_session = ""  # changes with the kernel's process
        self._waiting: dict[str, _Request] = {}
        self._one = asyncio.Lock()
        self._socket: WebSocketClientConnection | None = None
        self._connected = asyncio.Event()
        self._stale = False
        self._knowing = asyncio.Lock()
        self._lost_for_good: KernelGone | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._finding: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start the kernel if it has no id yet, and connect. ExecutorError with the reason; idempotent."""
        if self._lost_for_good is not None:
            await self.close()
        if self._tasks:
            return
        new = self.id is None
        if new:
            started = await self.server.call("POST", "api/kernels", {"name": self._name} if self._name else {})
            self.id = str(started["id"])
        try:
            await self.server.call("GET", self._path())
            await self._connect()
            self._run(self._read())
            self._run(self._look())
            await self._know()
        except BaseException:
            with suppress(ExecutorError):
                await (self.shutdown() if new else self.close())
            raise

    async def info(self) -> JsonObject:
        """The kernel's `kernel_info_reply`, also while it runs code."""
        await self._know()
        return await self._info()

    async def run_code(self, code: str, on_output: OnCellOutput | None = None, *, silent: bool = False) -> Execution:
        """Run it after all that was asked for before. KernelGone where the kernel ends first.

        Nobody can be asked for input: code that does fails with an error. Cancelling this interrupts the code.
        """
        async with self._one:
            content = {
                "code": code,
                "silent": silent,
                "store_history": not silent,
                "user_expressions": {},
                "allow_stdin": False,
                "stop_on_error": False,
            }
            execution = self._execution(on_output)
            try:
                reply = await self._ask("shell", "execute_request", content, (), execution)
            except asyncio.CancelledError:
                if execution.kernel_session:  # it was sent
                    with suppress(ExecutorError):
                        await asyncio.shield(self.interrupt())
                raise
        return execution.result(reply)

    async def interrupt(self) -> None:
        """As the notebook's Stop: what runs gets a KeyboardInterrupt, or what its kernel makes of that."""
        await self.server.call("POST", f"{self._path()}/interrupt")

    async def shutdown(self) -> None:
        """End the kernel, whoever started it, and the connection. Idempotent."""
        await self.close()
        if self.id is not None:
            with suppress(KernelGone):
                await self.server.call("DELETE", self._path())
            self.id = None

    async def close(self) -> None:
        """End the connection; the kernel stays. Idempotent."""
        tasks, self._tasks = self._tasks, set()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._fail(ExecutorError("the connection to the kernel was closed"))
        self._lost_for_good = None
        if self._socket is not None:
            hang_up(self._socket)
            self._socket = None
        self._connected.set()  # who waits to send learns that it is too late

    async def alive(self) -> bool:
        """Whether the server has it and says that it is not dead."""
        try:
            model = await self.server.call("GET", self._path())
        except ExecutorError:
            return False
        return bool(model.get("execution_state") != "dead")

    async def request(
        self, channel: Channel, type: str, content: JsonObject | None = None, buffers: Sequence[bytes] = ()
    ) -> Message:
        """Send any message and return its reply.

        KernelGone where there will be none; ConnectionLost where nobody knows: it may have been done.
        """
        return await self._ask(channel, type, content or {}, buffers, _Request())

    async def send(self, channel: Channel, type: str, content: JsonObject, buffers: Sequence[bytes] = ()) -> None:
        """Send a message that needs no reply."""
        await self._know()
        await self._send(secrets.token_hex(16), channel, type, content, buffers, None)

    async def _ask(
        self,
        channel: Channel,
        type: str,
        content: JsonObject,
        buffers: Sequence[bytes],
        request: _Request,
        *,
        known: bool = True,
    ) -> Message:
        identity = secrets.token_hex(16)
        if known:
            await self._know()
        try:
            await self._send(identity, channel, type, content, buffers, request)
            return await request.done
        finally:
            self._waiting.pop(identity, None)

    async def _send(
        self,
        identity: str,
        channel: Channel,
        type: str,
        content: JsonObject,
        buffers: Sequence[bytes],
        request: _Request | None,
    ) -> None:
        if not self._tasks:
            raise ExecutorError("not connected to the kernel")
        await self._connected.wait()
        if self._lost_for_good is not None:
            raise self._lost_for_good
        if self._socket is None:
            raise ExecutorError("the connection to the kernel was closed")
        if request is not None:
            request.kernel_session = self._kernel_session
            self._waiting[identity] = request  # not before: what was not sent is not lost with its connection
        packed = pack(self._socket, channel, header(identity, type, self._session), content, buffers)
        try:
            await self._socket.write_message(packed, binary=True)
        except WebSocketClosedError as exc:
            raise ConnectionLost(f"the connection to kernel {self.id} broke off") from exc

    async def _know(self) -> None:
        """Know which process it is that the next request goes to, so that it is noticed where that has gone."""
        async with self._knowing:
            if self._stale and self._lost_for_good is None:
                self._renew()
                self._kernel_session = ""
            if not self._kernel_session:
                await self._info()

    async def _info(self) -> JsonObject:
        try:
            async with asyncio.timeout(START):
                return (await self._ask("control", "kernel_info_request", {}, (), _Request(), known=False)).content
        except TimeoutError as exc:
            raise ExecutorError(f"the kernel does not answer within {START:.0f} s") from exc

    def _path(self) -> str:
        return f"api/kernels/{quote(self.id or '', safe='')}"

    async def _connect(self, timeout: float = START) -> None:
        try:
            async with asyncio.timeout(timeout):
                self._socket = await self.server.connect(f"{self._path()}/channels?session_id={self._session}")
        except HTTPClientError as exc:
            if exc.code == 404:
                raise KernelGone(f"kernel {self.id} is gone") from exc
            raise ExecutorError(f"{self.server.url} refuses a connection to kernel {self.id}: {exc}") from exc
        except (OSError, TimeoutError) as exc:
            raise ExecutorError(f"{self.server.url} cannot be reached: {exc}") from exc
        self._connected.set()

    def _run(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=f"kernel {self.id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _read(self) -> None:
        """Take what comes, from one socket after the other, until there is none."""
        try:
            while True:
                assert self._socket is not None
                while (raw := await self._socket.read_message()) is not None:
                    acknowledge(self._socket)
                    await self._take(unpack(self._socket, raw))
                self._renew()
                _log.info("kernel=%s the connection broke off", self.id)
                await self._reconnect()
                before = dict(self._waiting)
                for request in before.values():
                    if not isinstance(request, _Execution):
                        request.fail(ConnectionLost(f"the connection to kernel {self.id} broke off"))
                self._run(self._find_lost(before))
        except ExecutorError as exc:
            self._give_up(str(exc))
        except Exception as exc:
            _log.exception("kernel=%s says what is no kernel's message", self.id)
            self._give_up(f"{type(exc).__name__} in what it says")

    def _give_up(self, why: str) -> None:
        self._lost_for_good = KernelGone(f"kernel {self.id} is lost: {why}")
        self._lost(self._lost_for_good)
        self._connected.set()

    async def _find_lost(self, before: dict[str, _Request]) -> None:
        """Fail the code whose reply went by, or that never reached its kernel.

        The server keeps what is said while there is no socket for the next one of this session, unless the kernel has
        another client; and what is sent at the last moment, or to a kernel that is just restarting, may not arrive. The
        shell answers in order, so what has no reply when this one comes will have none.
        """
        code = [request for request in before.values() if isinstance(request, _Execution)]
        if not code:
            return
        with suppress(ExecutorError):
            # and iopub as well: its `idle` comes after theirs
            await self._ask("shell", "kernel_info_request", {}, (), self._execution(None))
            for request in code:
                request.fail(ConnectionLost(f"what was asked of kernel {self.id}, or its result, was lost on its way"))

    def _renew(self) -> None:
        """Have `_read` make another connection."""
        self._stale = False
        self._connected.clear()
        if self._socket is not None:
            hang_up(self._socket)

    async def _reconnect(self) -> None:
        for attempt in range(_ATTEMPTS):
            try:
                # a server that connects to a kernel just while that restarts may wait for the old one, for a minute
                return await self._connect(_PATIENCE)
            except KernelGone:
                raise
            except ExecutorError:
                if attempt == _ATTEMPTS - 1:
                    raise
            await asyncio.sleep(0.1 * 2**attempt)

    async def _take(self, message: Message) -> None:
        state = message.content.get("execution_state") if message.type == "status" else None
        if state in ("restarting", "dead"):  # the server's words
            self._lost(KernelGone(f"kernel {self.id} has died" + " and was restarted" * (state == "restarting")))
        elif message.type == "shutdown_reply":
            self._lost(KernelGone(f"kernel {self.id} was restarted or shut down"), message.session)
        elif state == "starting" and self._kernel_session not in ("", message.session):
            self._lost(KernelGone(f"kernel {self.id} was restarted"), self._kernel_session)
        elif message.channel in ("shell", "control"):
            self._heard_from(message.session)
        if (request := self._waiting.get(message.parent)) is not None:
            await request.take(message)

    async def _look(self) -> None:
        """Find that a kernel is gone of which nothing was heard."""
        patience = _PATIENCE
        while True:
            await asyncio.sleep(self._check)
            if not self._waiting or not self._connected.is_set():
                continue
            if self._finding is None or self._finding.done():
                self._finding = self._run(self._find_lost(dict(self._waiting)))
            try:
                await self.server.call("GET", self._path())
                await asyncio.wait_for(self._info(), patience)
                patience = _PATIENCE
            except KernelGone as exc:
                self._lost(exc)
            except TimeoutError:
                # it holds its breath, or the server still talks to the ports that it had before a restart
                self._renew()
                patience *= 2
            except ExecutorError:
                pass  # a server that is away shows on the socket

    def _heard_from(self, session: str) -> None:
        """A kernel that was restarted speaks as somebody else."""
        if self._kernel_session not in ("", session):
            self._lost(KernelGone(f"kernel {self.id} was restarted"), self._kernel_session)
        self._kernel_session = session

    def _lost(self, error: KernelGone, session: str | None = None) -> None:
        """Fail what waits for a kernel process that has gone; for any, if None."""
        _log.info("kernel=%s %s", self.id, error)
        self._kernel_session = ""
        self._stale = True  # the server may talk to the ports of the old one
        for request in self._waiting.values():
            if session is None or request.kernel_session in ("", session):
                request.fail(error)

    def _fail(self, error: ExecutorError) -> None:
        for request in self._waiting.values():
            request.fail(error)

    def _execution(self, on_output: OnCellOutput | None) -> _Execution:
        return _Execution(on_output, server_session=self._session, refuse_input=self._interrupt_soon)

    async def _interrupt_soon(self) -> None:
        with suppress(ExecutorError):
            await self.interrupt()


class _Request:
    """What waits for one reply."""

    def __init__(self) -> None:
        self.kernel_session = ""  # of the process that it was sent to
        self.done: asyncio.Future[Message] = asyncio.get_running_loop().create_future()

    async def take(self, message: Message) -> None:
        if message.channel in ("shell", "control") and not self.done.done():
            self.done.set_result(message)

    def fail(self, error: ExecutorError) -> None:
        if not self.done.done():
            self.done.set_exception(error)
            self.done.exception()  # whoever waited may have been cancelled


class _Execution(_Request):
    """It has ended when its reply and its `idle` have come, in whatever order."""

    def __init__(
        self, on_output: OnCellOutput | None, *, server_session: str, refuse_input: Callable[[], Awaitable[None]]
    ) -> None:
        super().__init__()
        self._on_output = on_output
        self._server_session = server_session
        self._refuse_input = refuse_input
        self._reply: Message | None = None
        self._idle = False
        self._incomplete = False

    async def take(self, message: Message) -> None:
        if message.channel == "shell":
            self._reply = message
        elif message.channel == "stdin":
            await self._emit(_stderr("The code asks for input, which nobody can give here: it is interrupted.\n"))
            await self._refuse_input()
        elif message.type == "status":
            self._idle |= message.content.get("execution_state") == "idle"
        elif (output := _output(message)) is not None:
            self._incomplete |= _tells_of_limit(message, self._server_session)
            await self._emit(output)
        if self._reply is not None and self._idle and not self.done.done():
            self.done.set_result(self._reply)

    def result(self, reply: Message) -> Execution:
        content = reply.content
        status = str(content.get("status"))
        return Execution(
            status=status,
            execution_count=content.get("execution_count"),
            error=None if status == "ok" else {key: content.get(key) for key in ("ename", "evalue", "traceback")},
            incomplete=self._incomplete,
        )

    async def _emit(self, output: JsonObject) -> None:
        """A listener's mistake must not keep the code from being followed to its end."""
        if self._on_output is None:
            return
        try:
            result = self._on_output(output)
            if inspect.isawaitable(result):
                await result
        except Exception:
            _log.exception("a listener of a kernel's output failed")


def _output(message: Message) -> JsonObject | None:
    content = message.content
    if message.type == "clear_output":
        return {"output_type": "clear_output", "wait": bool(content.get("wait"))}
    if message.type == "update_display_data":
        return {"output_type": "update_display_data", **{k: content[k] for k in ("data", "metadata", "transient")}}
    try:
        output = dict(output_from_msg({"header": {"msg_type": message.type}, "content": content}))  # type: ignore[no-untyped-call]  # nbformat
    except ValueError:
        return None  # no output: execute_input, comm_*, what else there may be
    if message.type == "display_data" and content.get("transient"):
        output["transient"] = content["transient"]
    return output


def _stderr(text: str) -> JsonObject:
    return {"output_type": "stream", "name": "stderr", "text": text}


def _tells_of_limit(message: Message, server_session: str) -> bool:
    """Only the server, never the code, writes in the session of its client."""
    return (
        message.type == "stream"
        and message.session == server_session
        and str(message.content.get("text")).startswith(("IOPub message rate exceeded", "IOPub data rate exceeded"))
    )
