"""An executor for a server that offers kernels and nothing else: commands and files through a Python kernel.

The kernel must be ipykernel, with Python 3.11 or newer. `kernel_relay` is put into it, which starts `kernel_host`
beside it; what the kernel's person runs there meanwhile neither waits for commands nor is waited for.
"""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import io
import json
import re
import secrets
import zipfile
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from jupyter_acp.events import JsonObject
from jupyter_acp.exceptions import ExecutorError, PathOutside
from jupyter_acp.kernel_exec import kernel_relay
from jupyter_acp.kernel_exec.base import FileMissing, OnExit, OnOutput, Run, finish_all
from jupyter_acp.kernel_exec.kernel_command import ANSWER, KernelCommand
from jupyter_acp.kernel_exec.kernel_host import BOOT, pack, unpack
from jupyter_acp.kernel_exec.kernel_link import KernelGone, KernelServer, Message
from jupyter_acp.kernel_exec.kernels import Kernel
from jupyter_acp.kernel_exec.sandbox import Sandbox

_PART = 4 << 20  # bytes of a message: a Jupyter server takes no more than 10 MiB
_LEAVE = 10.0
_MODULES = [
    *("exceptions.py", "events.py", "runner_processes.py"),
    *(
        f"kernel_exec/{name}.py"
        for name in (
            *("__init__", "base", "inside", "keeper", "kernel_host", "kernel_relay", "local", "output", "paths"),
            *("sandbox", "spawner", "textfiles"),
        )
    ),
]
_ERRORS = {error.__name__: error for error in (FileMissing, PathOutside, ExecutorError)}


class KernelExecutor:
    """Files and commands of the machine that a kernel runs on.

    Parameters
    ----------
    server
        Where the kernel is, or is to be started.
    kernel
        The kernelspec to start one of, which `stop` shuts down; the server's default if None.
    kernel_id
        A running kernel to use instead, which `stop` leaves.
    root
        The project's directory there; the directory in which the kernel is if None.
    output_limit, max_output_limit, file_limit, sandbox
        As of `LocalExecutor`.
    patience
        Seconds without a word from us after which that side ends our commands. (Code in the kernel that never lets
        its interpreter go holds our words up, too.)
    check
        As of `Kernel`.
    """

    def __init__(
        self,
        server: KernelServer,
        *,
        kernel: str | None = None,
        kernel_id: str | None = None,
        root: str | None = None,
        output_limit: int = 1 << 20,
        max_output_limit: int = 8 << 20,
        file_limit: int = 50 << 20,
        sandbox: Callable[[], Sandbox | None] = lambda: None,
        patience: float = 300.0,
        check: float = 5.0,
    ) -> None:
        self._kernel = Kernel(server, name=kernel, id=kernel_id, check=check)
        self._ours = kernel_id is None
        self._root = root
        self._output_limit = output_limit
        self._max_output_limit = max_output_limit
        self._file_limit = file_limit
        self._sandbox = sandbox
        self._patience = patience
        self._beat: asyncio.Task[None] | None = None
        self._room = secrets.token_hex(8)
        self._open = False
        self._gone: KernelGone | None = None
        self._opening = asyncio.Lock()
        self._commands: set[KernelCommand] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._stopped = False

    async def start(self) -> None:
        """See `Executor.start`. Waits for code that runs in a kernel which this was never in."""
        async with self._opening:
            if self._stopped:
                raise ExecutorError("the executor has been stopped")
            if self._open:
                return
            new = self._kernel.id is None
            try:
                await self._kernel.start()
                await self._enter()
            except BaseException:
                with suppress(ExecutorError):
                    await (self._kernel.shutdown() if new else self._kernel.close())
                raise
            self._open, self._gone = True, None
            if self._beat is None:
                self._beat = asyncio.create_task(self._tell_alive(), name=f"kernel {self._kernel.id} hears of us")

    async def poll(self) -> int | None:
        """See `Executor.poll`."""
        if self._stopped:
            return 0
        return None if self._open and await self._kernel.alive() else 1

    def get_state(self) -> JsonObject:
        """See `Executor.get_state`. What still ran for the former coordinator ends when another goes on."""
        return {"kernel": self._kernel.id, "ours": self._ours, "room": self._room, "root": self._root}

    def load_state(self, state: JsonObject) -> None:
        """See `Executor.load_state`."""
        kernel, ours, room, root = (state.get(name) for name in ("kernel", "ours", "room", "root"))
        match kernel, ours, room, root:
            case str(), bool(), str(), str() if self._root in (None, root):
                self._kernel.id, self._ours, self._room, self._root = kernel, ours, room, root
            case _:
                raise ValueError(f"this is the state of another project: {root}")

    async def read_text_file(self, path: str, line: int | None = None, limit: int | None = None) -> str:
        """See `Executor.read_text_file`."""
        _, data = await self.ask("read", path=path, line=line, limit=limit)
        return data.decode("utf-8", "surrogatepass")

    async def write_text_file(self, path: str, text: str) -> None:
        """See `Executor.write_text_file`."""
        data = text.encode("utf-8", "surrogatepass")
        await self.ask("write", data, path=path, sandbox=self._confinement())

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
    ) -> KernelCommand:
        """See `Executor.spawn`. The allow-list is applied to the environment of the kernel."""
        limit = self._output_limit if output_limit is None else min(max(output_limit, 0), self._max_output_limit)
        how = {
            "command": command if isinstance(command, str) else list(command),
            **{"run": run, "cwd": cwd, "env": dict(env or {}), "output_limit": limit},
        }
        starting = self._keep(self.ask("spawn", json.dumps(how).encode(), sandbox=self._confinement()))
        try:
            told, _ = await asyncio.shield(starting)
        except asyncio.CancelledError:
            starting.add_done_callback(self._let_go)  # nobody will ever know of it
            raise
        started = KernelCommand(
            told["id"],
            told["pid"],
            self.ask,
            terminal=run == "terminal",
            limit=limit,
            on_output=on_output,
            on_exit=on_exit,
            on_close=self._commands.discard,
        )
        self._commands.add(started)
        if self._stopped:  # while it started
            await started.close()
            raise ExecutorError("the executor has been stopped")
        return started

    async def stop(self) -> None:
        """Close every command; end the kernel if it was started here. Idempotent."""
        if self._stopped and not self._commands and not self._open:
            return
        self._stopped = True
        try:
            await asyncio.gather(*self._tasks, return_exceptions=True)  # what starts is closed
            await finish_all(command.close() for command in list(self._commands))
        finally:
            async with self._opening:
                await self._leave()

    async def ask(
        self, do: str, data: bytes = b"", *, timeout: float | None = ANSWER, **request: Any
    ) -> tuple[JsonObject, bytes]:
        """One request to the host, also for the commands. KernelGone where the host is gone, and with it all of it."""
        if self._gone is not None:
            raise self._gone
        if not self._open:
            raise ExecutorError("the executor has been stopped" if self._stopped else "the executor is not started")
        return await self._ask(pack({"do": do, **request}, data), timeout)

    def _confinement(self) -> JsonObject | None:
        if (sandbox := self._sandbox()) is None:
            return None
        workspace = None if sandbox.workspace is None else str(sandbox.workspace)
        return {"workspace": workspace, "network": sandbox.network}

    async def _ask(self, packed: bytes, timeout: float | None) -> tuple[JsonObject, bytes]:
        identity = secrets.token_hex(16)
        parts = [packed[at : at + _PART] for at in range(0, len(packed), _PART)]
        try:
            async with asyncio.timeout(timeout):
                for part in parts[:-1]:
                    content = {"room": self._room, "id": identity, "last": False}
                    await self._kernel.send("control", _name("part"), content, [part])
                reply = await self._relay("part", {"id": identity, "last": True}, parts[-1])
        except TimeoutError as exc:
            raise ExecutorError(f"kernel {self._kernel.id} does not answer") from exc
        except KernelGone as exc:
            self._open, self._gone = False, exc
            raise
        told, data = unpack(b"".join(reply.buffers))
        if (error := told.get("error")) is not None:
            raise _ERRORS.get(error, ExecutorError)(told["message"])
        return told, data

    async def _relay(self, what: str, content: JsonObject, data: bytes | None = None) -> Message:
        buffers = [] if data is None else [data]
        reply = await self._kernel.request("control", _name(what), {"room": self._room, **content}, buffers)
        if (error := reply.content.get("error")) is not None:
            raise ExecutorError(f"nothing can be started beside kernel {self._kernel.id}: {error}")
        if reply.content.get("gone"):
            raise KernelGone(f"what ran the commands beside kernel {self._kernel.id} is gone")
        return reply

    async def _enter(self) -> None:
        """Have a host; the one of the state if it is there."""
        language = (await self._kernel.info()).get("language_info", {})
        if language.get("name") != "python" or not _new_enough(str(language.get("version"))):
            found = f"{language.get('name')} {language.get('version')}"
            raise ExecutorError(f"commands need a kernel of Python 3.11 or newer (ipykernel); this is {found}")
        if self._room in await self._rooms():
            told, _ = await self._ask(pack({"do": "reset"}), ANSWER)
        else:
            self._room = secrets.token_hex(8)
            await self._relay("open", {"boot": BOOT}, _program())
            limits = {name: getattr(self, "_" + name) for name in ("output_limit", "max_output_limit", "file_limit")}
            request = {"do": "open", "root": self._root, "patience": self._patience, **limits}
            told, _ = await self._ask(pack(request), ANSWER)
        self._root = self._root or told["root"]

    async def _rooms(self) -> list[str]:
        """The rooms that the kernel's relay has; it is installed where it is not."""
        hello = asyncio.ensure_future(self._relay("hello", {}))
        try:
            for _ in range(2):  # control answers in order, and the second is surely asked after the hello
                await self._kernel.info()
            if not hello.done():
                await self._install()
                return []
            rooms: list[str] = hello.result().content["rooms"]
            return rooms
        finally:
            hello.cancel()
            await asyncio.gather(hello, return_exceptions=True)

    async def _install(self) -> None:
        # no name of the person's is used but one that their own imports need
        code = f"__import__('builtins').exec({_RELAY + _INSTALL!r}, {{'__name__': {_NAME!r}}})"
        content = {"code": code, "silent": True, "store_history": False, "allow_stdin": False}
        try:
            async with asyncio.timeout(ANSWER):
                reply = await self._kernel.request("shell", "execute_request", content)
        except TimeoutError as exc:
            raise ExecutorError(f"kernel {self._kernel.id} is busy with other code") from exc
        if reply.content.get("status") != "ok":
            why = f"{reply.content.get('ename')}: {reply.content.get('evalue')}"
            raise ExecutorError(f"kernel {self._kernel.id} cannot run commands: {why}")

    async def _leave(self) -> None:
        if self._beat is not None:
            self._beat.cancel()
            await asyncio.gather(self._beat, return_exceptions=True)
        if self._open:
            self._open = False
            with suppress(ExecutorError, TimeoutError):  # its commands have ended already, or are beyond reach
                async with asyncio.timeout(_LEAVE):
                    await self._relay("close", {})
        if self._ours:
            await self._kernel.shutdown()
        else:
            await self._kernel.close()

    async def _tell_alive(self) -> None:
        while True:
            await asyncio.sleep(self._patience / 4)
            with suppress(ExecutorError):
                await self.ask("alive")

    def _keep(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _let_go(self, starting: asyncio.Task[tuple[JsonObject, bytes]]) -> None:
        if not starting.cancelled() and starting.exception() is None:
            self._keep(self._close_unknown(starting.result()[0]["id"]))

    async def _close_unknown(self, identity: str) -> None:
        with suppress(ExecutorError):
            await self.ask("close", id=identity)


_RELAY = inspect.getsource(kernel_relay)
_NAME = "jupyter_acp_" + hashlib.sha256(_RELAY.encode()).hexdigest()[:12]  # relays of other versions are no rivals
_INSTALL = f"\ninstall({_NAME!r})\n"


def _new_enough(version: str) -> bool:
    found = re.match(r"(\d+)\.(\d+)", version)
    return found is not None and (int(found[1]), int(found[2])) >= (3, 11)


def _name(what: str) -> str:
    return f"{_NAME}_{what}"


@cache
def _program() -> bytes:
    """The host with all that it imports, as a zip archive."""
    package = Path(__file__).parents[1]
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as zip_:
        zip_.writestr("jupyter_acp/__init__.py", "")
        for name in _MODULES:
            zip_.write(package / name, f"jupyter_acp/{name}")
    return archive.getvalue()
