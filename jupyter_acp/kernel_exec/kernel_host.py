"""The process beside a kernel that has the kernel's project: a `LocalExecutor`, asked for and answering on pipes.

Standard library only, sent by `kernel_executor` together with what it imports and started by `kernel_relay`. Each
request has one answer; a command's output is asked for piece by piece, which is how a slow reader holds the command
back. Where the kernel is gone, so is all that this has started.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import struct
import sys
import time
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from contextvars import ContextVar
from pathlib import Path
from typing import TypeAlias

from jupyter_acp.events import JsonObject
from jupyter_acp.exceptions import AcpError, ExecutorError
from jupyter_acp.kernel_exec.base import Exit, Tail, finish_all
from jupyter_acp.kernel_exec.kernel_relay import FRAME
from jupyter_acp.kernel_exec.local import LocalCommand, LocalExecutor
from jupyter_acp.kernel_exec.sandbox import Sandbox
from jupyter_acp.runner_processes import end_with_parent

BOOT = """import os, sys
data = b""
while len(data) < int(sys.argv[1]):
    data += os.read(0, int(sys.argv[1]) - len(data)) or sys.exit()
if hasattr(os, "memfd_create"):  # leaves nothing, however this ends
    file = os.memfd_create("jupyter_acp")
    path = f"/proc/{os.getpid()}/fd/{file}"
else:
    import tempfile
    file, path = tempfile.mkstemp()
os.write(file, data)
sys.path.insert(0, path)
from jupyter_acp.kernel_exec.kernel_host import main
try:
    main()
finally:
    if not hasattr(os, "memfd_create"):
        os.unlink(path)"""
"""What `python -I -S -E -c` runs, with the size of the archive that comes first on stdin."""

_Answer: TypeAlias = tuple[JsonObject, bytes]
_sandbox: ContextVar[Sandbox | None] = ContextVar("what confines this request", default=None)
_SIZE = struct.Struct(">I")


def pack(told: JsonObject, data: bytes = b"") -> bytes:
    """A request or an answer: JSON, and bytes beside it."""
    head = json.dumps(told).encode()
    return _SIZE.pack(len(head)) + head + data


def unpack(packed: bytes) -> tuple[JsonObject, bytes]:
    """What was packed."""
    end = _SIZE.size + _SIZE.unpack_from(packed)[0]
    return json.loads(packed[_SIZE.size : end]), packed[end:]


def main() -> None:
    """Serve until stdin ends."""
    end_with_parent(signal.SIGTERM)  # a fork of the kernel may hold the pipe open when that is gone
    asyncio.run(_serve())


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    loop.add_signal_handler(signal.SIGTERM, reader.feed_eof)
    out = os.fdopen(os.dup(1), "wb")
    host = Host()
    parts: dict[bytes, bytearray] = {}
    tasks: set[asyncio.Task[None]] = set()

    async def answer(identity: bytes, work: Awaitable[_Answer]) -> None:
        packed = pack(*await _told(work))
        # blocking, for the relay reads whatever comes, and answers must not be mixed
        out.write(FRAME.pack(identity, True, len(packed)) + packed)
        out.flush()

    guard = asyncio.create_task(host.guard())
    try:
        with suppress(asyncio.IncompleteReadError):
            while True:
                identity, last, size = FRAME.unpack(await reader.readexactly(FRAME.size))
                parts.setdefault(identity, bytearray()).extend(await reader.readexactly(size))
                if last:
                    task = asyncio.create_task(answer(identity, host.answer(*unpack(bytes(parts.pop(identity))))))
                    tasks.add(task)
                    task.add_done_callback(tasks.discard)
    finally:
        guard.cancel()
        await host.stop()


async def _told(work: Awaitable[_Answer]) -> _Answer:
    """Errors by their name; those that are nobody's are told too, for nobody reads what is written here."""
    try:
        return await work
    except AcpError as exc:
        return {"error": type(exc).__name__, "message": str(exc)}, b""
    except Exception as exc:
        return {"error": "", "message": f"{type(exc).__name__}: {exc}"}, b""


class Host:
    """What may be asked for."""

    def __init__(self) -> None:
        self._executor: LocalExecutor | None = None
        self._commands: dict[str, _Command] = {}
        self._heard = time.monotonic()
        self._patience = 0.0

    async def answer(self, request: JsonObject, data: bytes) -> _Answer:
        """Do what is asked, once `open` was. Each request in a task of its own, which is what its sandbox holds for."""
        self._heard = time.monotonic()
        if self._executor is not None and (sandbox := request.get("sandbox")) is not None:
            workspace = None if sandbox["workspace"] is None else Path(sandbox["workspace"])
            _sandbox.set(Sandbox(project=self._executor.root, workspace=workspace, network=sandbox["network"]))
        match request["do"], self._executor:
            case "open", _:
                return self._open(request)
            case _, None:
                raise ExecutorError("the project has not been opened")
            case "read", executor:
                text = await executor.read_text_file(request["path"], request["line"], request["limit"])
                return {}, text.encode("utf-8", "surrogatepass")
            case "write", executor:
                await executor.write_text_file(request["path"], data.decode("utf-8", "surrogatepass"))
            case "spawn", executor:
                return await self._spawn(executor, json.loads(data))
            case "alive", _:
                pass
            case "reset", executor:
                await self._end_commands()
                return {"root": str(executor.root)}, b""
            case "kill" | "close", _ if request["id"] not in self._commands:
                pass  # nothing is left of it
            case _:
                return await self._found(request).answer(request, data)
        return {}, b""

    async def guard(self) -> None:
        """End every command once nothing was heard for too long: whoever asked for them is gone."""
        while True:
            await asyncio.sleep(self._patience / 4 or 1)
            if self._patience and time.monotonic() - self._heard > self._patience:
                await self._end_commands()

    async def stop(self) -> None:
        """End every command."""
        if self._executor is not None:
            await self._executor.stop()

    async def _end_commands(self) -> None:
        commands = list(self._commands.values())
        self._commands.clear()
        await finish_all(command.end() for command in commands)

    def _open(self, request: JsonObject) -> _Answer:
        self._patience = request["patience"]
        self._executor = LocalExecutor(
            request["root"] or os.getcwd(),  # the kernel's
            sandbox=_sandbox.get,
            **{name: request[name] for name in ("output_limit", "max_output_limit", "file_limit")},
        )
        return {"root": str(self._executor.root)}, b""

    async def _spawn(self, executor: LocalExecutor, how: JsonObject) -> _Answer:
        command = _Command()
        command.local = await executor.spawn(**how, on_output=command.output, on_exit=command.exited)
        self._commands[command.local.id] = command
        return {"id": command.local.id, "pid": command.local.pid}, b""

    def _found(self, request: JsonObject) -> _Command:
        command = self._commands.get(request["id"])
        if command is None:
            raise ExecutorError(f"command {request['id']} has been closed")
        if request["do"] == "close":
            del self._commands[request["id"]]
        return command


class _Command:
    """A command, and the pieces of its output that its reader has not confirmed: one, until it is killed."""

    local: LocalCommand

    def __init__(self) -> None:
        self._pieces: deque[tuple[int, str, bool]] = deque()
        self._number = 0  # of the last piece
        self._confirmed = 0
        self._held = True
        self._gaps = False
        self._exit: Exit | None = None
        self._changed = asyncio.Condition()
        self._watchers: dict[str, _Watcher] = {}

    async def output(self, text: str, truncated: bool) -> None:
        """Return once its reader has confirmed this piece, which holds the command back."""
        self._number += 1
        self._gaps |= truncated
        self._pieces.append((self._number, text, truncated))
        async with self._changed:
            self._changed.notify_all()
            await self._changed.wait_for(lambda: self._confirmed >= self._number or not self._held)

    async def exited(self, exit: Exit) -> None:
        """After the last output."""
        self._exit = exit
        async with self._changed:
            self._changed.notify_all()

    async def answer(self, request: JsonObject, data: bytes) -> _Answer:
        """Do what is asked of a command."""
        match request["do"]:
            case "next":
                return await self._next(request["after"])
            case "kill":
                await self._let_go()
                await self.local.kill(request["grace"])
            case "close":
                await self.end()
            case "type":
                await self.local.write(data)
            case "resize":
                await self.local.resize(request["rows"], request["columns"])
            case "watch":
                watcher = self._watchers[request["key"]] = _Watcher()
                watcher.stop = self.local.watch(watcher.show)
            case "watched":
                return await self._watchers[request["key"]].next()
            case "unwatch":
                self._watchers.pop(request["key"]).stop()
            case other:
                raise ExecutorError(f"unknown request {other}")
        return {}, b""

    async def end(self) -> None:
        """Kill it, whoever reads its output."""
        await self._let_go()
        await self.local.close()

    async def _let_go(self) -> None:
        """A reader that is stuck must not keep the command from its end."""
        self._held = False
        async with self._changed:
            self._changed.notify_all()

    async def _next(self, after: int) -> _Answer:
        """The piece after that number, which is thereby confirmed; or the end. Asking again is harmless."""
        async with self._changed:
            self._confirmed = max(self._confirmed, after)
            self._changed.notify_all()
            await self._changed.wait_for(lambda: self._number > after or self._exit is not None)
        while self._pieces and self._pieces[0][0] <= after:
            self._pieces.popleft()
        if self._pieces or self._exit is None:
            number, text, truncated = self._pieces[0]
            return {"piece": number, "truncated": truncated}, text.encode()
        text, truncated = self.local.output()
        ended: JsonObject = {"exit": {"code": self._exit.code, "signal": self._exit.signal}, "truncated": truncated}
        return {**ended, "gaps": self._gaps}, text.encode() if self._gaps else b""


class _Watcher:
    """The bytes of a terminal that somebody has not fetched yet; who is slow misses some."""

    stop: Callable[[], None]

    def __init__(self) -> None:
        self._tail = Tail(1 << 20)
        self._ended = False
        self._news = asyncio.Event()

    def show(self, data: bytes) -> None:
        """See `base.OnBytes`."""
        self._tail.append(data)
        self._ended |= not data
        self._news.set()

    async def next(self) -> _Answer:
        """What has come since."""
        await self._news.wait()
        self._news.clear()
        if self._ended:
            self._news.set()
        data, _ = self._tail.take()
        return {"ended": self._ended}, data
