"""Starts commands in a process beside the server and follows them to their end; `keeper` is the other end."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from jupyter_acp.exceptions import ExecutorError
from jupyter_acp.kernel_exec.keeper import HEADER, START
from jupyter_acp.runner_processes import MARK, kill_all, tree

_PACKAGE = str(Path(__file__).parents[1])


class Spawner:
    """Starts its process with the first command, and again where that was killed."""

    def __init__(self) -> None:
        self._process: asyncio.subprocess.Process | None = None
        self._socket: socket.socket | None = None
        self._one = asyncio.Lock()
        self._closed = False

    async def start(
        self, argv: Sequence[str], env: Mapping[str, str], *, run: str, folder: int, output: int, reports: bool = False
    ) -> Child:
        """Start a command with `env` and nothing else, in `folder`, as the leader of a session.

        `output` is its terminal, or a pipe for what it prints. Both are descriptors and stay the caller's. `run` marks
        the command's processes. `reports`: `argv` is that of a sandbox which reports. ExecutorError with a reason.
        """
        request = json.dumps({"argv": list(argv), "env": {**env, MARK: run}, "reports": reports}).encode()
        ours, theirs = os.pipe()
        report = os.fdopen(ours, "rb", buffering=0)
        # to its end also where we are cancelled: half a request would spoil the next, and descriptors are not ours
        sending = asyncio.ensure_future(self._hand_over(request, [folder, output, theirs]))
        try:
            await asyncio.wait([sending])
            sending.result()
        except BaseException as exc:
            report.close()  # a keeper that cannot report ends its command
            await asyncio.gather(sending, return_exceptions=True)
            if isinstance(exc, OSError):
                raise ExecutorError(f"{argv[0]}: cannot start: {exc}") from exc
            raise
        finally:
            os.close(theirs)
        _, child = await asyncio.get_running_loop().connect_read_pipe(lambda: Child(run), report)
        try:
            await asyncio.shield(child.started)
        except ExecutorError as exc:
            raise ExecutorError(f"{argv[0]}: cannot start: {exc}") from exc
        except asyncio.CancelledError:
            child.started.add_done_callback(lambda _: child.end())
            raise
        return child

    async def close(self) -> None:
        """End the process and every command that is left. Idempotent."""
        self._closed = True
        async with self._one:
            await self._end()

    async def _hand_over(self, request: bytes, descriptors: list[int]) -> None:
        async with self._one:
            try:
                await self._send(request, descriptors)
            except (BrokenPipeError, ConnectionResetError):
                await self._end()  # it was killed
                await self._send(request, descriptors)

    async def _end(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._process is not None:
            process, self._process = self._process, None
            await process.wait()

    async def _send(self, request: bytes, descriptors: list[int]) -> None:
        if self._closed:
            raise ExecutorError("the executor has been stopped")
        if self._socket is None:
            self._socket, theirs = socket.socketpair()
            with theirs:
                self._socket.setblocking(False)
                self._process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-I", "-S", "-E", "-X", "utf8", "-c", START, _PACKAGE),
                    stdin=theirs.fileno(),
                    stdout=asyncio.subprocess.DEVNULL,
                    env={k: os.environ[k] for k in ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH") if k in os.environ},
                    start_new_session=True,
                )
        loop = asyncio.get_running_loop()
        while True:
            try:
                socket.send_fds(self._socket, [HEADER.pack(len(request))], descriptors)
                break
            except BlockingIOError:
                # the requests before this one are still on their way: sendmsg has no event, and this is no long wait
                await asyncio.sleep(0.001)
        await loop.sock_sendall(self._socket, request)


class Child(asyncio.Protocol):
    """A command, as its keeper reports it.

    Attributes
    ----------
    pid
        The command's own process, 0 until `started`.
    returncode
        Exit status, or the signal's number negated; None while it runs.
    """

    def __init__(self, run: str) -> None:
        loop = asyncio.get_running_loop()
        self.pid = 0
        self.returncode: int | None = None
        self.started: asyncio.Future[None] = loop.create_future()
        self._run = run
        self._keeper: int | None = None
        self._ended = asyncio.Event()
        self._data = b""

    async def wait(self) -> int:
        """Return once the command itself has ended, with its return code."""
        await self._ended.wait()
        assert self.returncode is not None
        return self.returncode

    def signal(self, number: signal.Signals) -> int:
        """Send a signal to all processes of the command; how many there were.

        Blocking (reads /proc): call it off the loop, and again until it says 0: one may have forked meanwhile.
        """
        sent = 0
        # a number belongs to somebody else as soon as its process was waited for
        found = tree(self._keeper, self._run, self.pid if self.returncode is None else None)
        # the oldest first: a shell whose child is killed before itself goes on meanwhile, or prints that it was killed
        for pid in sorted(found, key=lambda pid: (-found[pid], pid)):
            with suppress(ProcessLookupError, PermissionError):  # gone meanwhile; become another user's
                os.kill(pid, number)
                sent += 1
        return sent

    def end(self) -> None:
        """Kill the command at once, for who has no time to wait for it."""
        kill_all(lambda: set(tree(self._keeper, self._run, self.pid or None)), timeout=1.0)

    def data_received(self, data: bytes) -> None:
        """asyncio.Protocol."""
        *lines, self._data = (self._data + data).split(b"\n")
        for line in lines:
            told = json.loads(line)
            if "error" in told:
                _settle(self.started, ExecutorError(told["error"]))
            elif "pid" in told:
                self.pid, self._keeper = told["pid"], told["keeper"]
                _settle(self.started, None)
            else:
                self._end(told["status"])

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio.Protocol. Nothing of the command is left, or its keeper was killed."""
        self._keeper = None
        _settle(self.started, ExecutorError("its keeper was killed"))
        self._end(-signal.SIGKILL)

    def _end(self, code: int) -> None:
        if self.returncode is None:
            self.returncode = code
            self._ended.set()


def _settle(future: asyncio.Future[None], error: Exception | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)
        future.exception()  # whoever waited may have been cancelled
