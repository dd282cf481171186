"""The executor of this machine: the project's files, and commands in a pseudo terminal or with a pipe each.

Files are read and written off the event loop. A command's output is read on it, in small steps; what is past the tail
is thrown away undecoded, so memory stays flat whatever a command prints.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import secrets
import shutil
import signal
import sys
import termios
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from jupyter_acp.events import JsonObject
from jupyter_acp.exceptions import ExecutorError
from jupyter_acp.kernel_exec import textfiles
from jupyter_acp.kernel_exec.base import (
    Exit,
    OnBytes,
    OnExit,
    OnOutput,
    Run,
    command_environment,
    finish_all,
)
from jupyter_acp.kernel_exec.output import Output
from jupyter_acp.kernel_exec.paths import Root
from jupyter_acp.kernel_exec.sandbox import Sandbox
from jupyter_acp.kernel_exec.spawner import Child, Spawner

_PIPE = 1 << 20  # bytes that a pipe holds, if the system lets it
# bytes read before the loop does something else: a terminal gives 4 KiB at a time, a pipe all that it holds
_READ: dict[Run, int] = {"terminal": 64 << 10, "pipe": _PIPE}
_DRAIN = 0.25  # seconds for the last output after the exit, when something else holds the terminal
_KILL_WITHIN = 5.0
_WINDOW = (40, 120)
_MAX_SIDE = 1 << 16


class LocalExecutor:
    """Files and commands beneath one directory of this machine.

    Parameters
    ----------
    root
        The project's directory.
    environ
        What commands get is picked from this by an allow-list; the server's own by default.
    output_limit
        Bytes of a command's tail, unless the caller says otherwise.
    max_output_limit
        The most that a caller may ask for.
    file_limit
        Bytes of text that one read may return.
    sandbox
        What confines writes and commands at the time of a call; None: nothing but the root.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        environ: Mapping[str, str] | None = None,
        output_limit: int = 1 << 20,
        max_output_limit: int = 8 << 20,
        file_limit: int = 50 << 20,
        sandbox: Callable[[], Sandbox | None] = lambda: None,
    ) -> None:
        self._root = Root(root)
        self._environ = os.environ if environ is None else environ
        self._output_limit = output_limit
        self._max_output_limit = max_output_limit
        self._file_limit = file_limit
        self._sandbox = sandbox
        self._commands: set[LocalCommand] = set()
        self._spawner = Spawner()
        self._stopped = False

    @property
    def root(self) -> Path:
        return self._root.path

    async def start(self) -> None:
        """See `Executor.start`. The root was opened when this was made."""
        self._check_running()

    async def poll(self) -> int | None:
        """See `Executor.poll`."""
        return 0 if self._stopped else None

    def get_state(self) -> JsonObject:
        """See `Executor.get_state`. Commands end with the server, so nothing is left to be found again."""
        return {"root": str(self._root.path)}

    def load_state(self, state: JsonObject) -> None:
        """See `Executor.load_state`."""
        if state.get("root") != str(self._root.path):
            raise ValueError(f"this is the state of another project: {state.get('root')}")

    async def read_text_file(self, path: str, line: int | None = None, limit: int | None = None) -> str:
        """See `Executor.read_text_file`."""
        self._check_running()
        return await asyncio.to_thread(self._read, path, line, limit)

    async def write_text_file(self, path: str, text: str) -> None:
        """See `Executor.write_text_file`."""
        self._check_running()
        await asyncio.to_thread(self._write, path, text)

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
        on_bytes: OnBytes | None = None,
    ) -> LocalCommand:
        """See `Executor.spawn`. `output_limit` is cut to `max_output_limit`. `on_bytes` gets all output as it is."""
        self._check_running()
        limit = self._output_limit if output_limit is None else min(max(output_limit, 0), self._max_output_limit)
        identity = secrets.token_hex(8)
        environment = {**command_environment(self._environ), **(env or {})}
        argv = [_shell(), "-c", command] if isinstance(command, str) else list(command)
        folder = self._root.open_directory(cwd)
        try:
            process, ours, theirs = await self._start(argv, run, folder, environment, identity)
        finally:
            os.close(folder)
        started = LocalCommand(
            identity,
            process,
            run,
            ours,
            theirs,
            limit=limit,
            pending=self._output_limit,
            on_output=on_output,
            on_exit=on_exit,
            on_bytes=on_bytes,
            on_close=self._commands.discard,
        )
        if self._stopped:  # while it started
            await started.close()
        self._check_running()
        self._commands.add(started)
        return started

    async def stop(self) -> None:
        """Close every command and the root. Idempotent."""
        self._stopped = True
        try:
            await finish_all(command.close() for command in list(self._commands))
        finally:
            await self._spawner.close()
            self._root.close()

    def _check_running(self) -> None:
        if self._stopped:
            raise ExecutorError("the executor has been stopped")

    async def _start(
        self, argv: list[str], run: Run, folder: int, environment: dict[str, str], identity: str
    ) -> tuple[Child, int, int]:
        """The process, leader of its own session, and our end and its end of its terminal or pipe."""
        place = _place(folder)
        if not argv or not _can_start(argv[0], place, environment):
            raise ExecutorError(f"{argv[0] if argv else 'the command'}: not found, or not executable")
        for text in (*argv, *environment, *environment.values()):
            if "\0" in text:
                raise ExecutorError(f"{argv[0]}: cannot start: a NUL in an argument or a variable")
        if any("=" in name for name in environment):
            raise ExecutorError(f"{argv[0]}: cannot start: a `=` in the name of a variable")
        with ExitStack() as undo:
            ours, theirs = _open_terminal() if run == "terminal" else _open_pipe()
            undo.callback(os.close, ours)
            undo.callback(os.close, theirs)
            os.set_blocking(ours, False)
            environment = {**environment, "PWD": place}
            if (sandbox := self._sandbox()) is not None:
                argv = await asyncio.to_thread(sandbox.wrap, argv, cwd=place, env=environment, reports=True)
            child = await self._spawner.start(
                argv, environment, run=identity, folder=folder, output=theirs, reports=sandbox is not None
            )
            undo.pop_all()
        return child, ours, theirs

    def _read(self, path: str, line: int | None, limit: int | None) -> str:
        with self._root.open_read(path) as file:
            try:
                return textfiles.read(file, line, limit, most=self._file_limit)
            except OverflowError as exc:
                most = self._file_limit >> 20
                raise ExecutorError(f"{path}: more than {most} MiB; ask for some of its lines") from exc
            except ValueError as exc:
                raise ExecutorError(f"{path}: {exc}") from exc

    def _write(self, path: str, text: str) -> None:
        with ExitStack() as stack:
            root = self._root
            if (sandbox := self._sandbox()) is not None:
                if sandbox.workspace is None:
                    raise ExecutorError(f"{path}: cannot be written, this session has read-only access")
                path = os.path.join(root.path, path)  # relative to the project, not to the workspace
                root = root.beneath(str(sandbox.workspace))
                stack.callback(root.close)
            before = None
            with suppress(ExecutorError):  # a new file; what cannot be read may still be replaced
                before = stack.enter_context(root.open_read(path))
            try:
                data = textfiles.encode(text, before)
            except ValueError as exc:
                raise ExecutorError(f"{path}: {exc}") from exc
            file = stack.enter_context(root.open_write(path))
            file.write(data)


class LocalCommand:
    """A command of this machine. See `base.Command`; `LocalExecutor.spawn` makes them.

    After the exit, what a background child still prints is read, so that it does not block, and dropped.
    """

    def __init__(
        self,
        identity: str,
        process: Child,
        run: Run,
        ours: int,
        theirs: int,
        *,
        limit: int,
        pending: int,
        on_output: OnOutput | None,
        on_exit: OnExit | None,
        on_bytes: OnBytes | None,
        on_close: Callable[[LocalCommand], None],
    ) -> None:
        self.id = identity
        self.pid = process.pid
        self._process = process
        self._run = run
        self._ours = ours
        self._theirs = theirs
        if run == "pipe":
            self._let_theirs_go()
        # a terminal's is held till the exit: a command that lets it go would else be hung up, and may open it again
        self._output = Output(
            identity, limit=limit, pending=pending, on_output=on_output, on_exit=on_exit, on_room=self._resume
        )
        if on_bytes is not None:
            self._output.watch(on_bytes)
        self._on_close = on_close
        self._loop = asyncio.get_running_loop()
        self._reading = False
        self._free = asyncio.Event()
        self._free.set()
        self._holds = 0
        self._taken = 0  # bytes
        self._end_of_output = asyncio.Event()
        self._typing = asyncio.Lock()
        self._writable = asyncio.Event()
        self._resume()
        self._task = asyncio.create_task(self._follow(), name=f"command {identity}")

    @property
    def exit(self) -> Exit | None:
        """See `Command.exit`."""
        return self._output.exit

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
            left = memoryview(data)
            while left:
                try:
                    left = left[os.write(self._ours, left) :]
                except BlockingIOError:
                    self._writable.clear()
                    self._loop.add_writer(self._ours, self._writable.set)
                    try:
                        await self._writable.wait()
                    finally:
                        if self._ours >= 0:
                            self._loop.remove_writer(self._ours)
                    self._check_running()
                except OSError as exc:
                    raise ExecutorError(f"command {self.id}: {exc.strerror}") from exc

    async def resize(self, rows: int, columns: int) -> None:
        """See `Command.resize`."""
        self._check_running()
        if not (0 < rows < _MAX_SIDE and 0 < columns < _MAX_SIDE):
            raise ExecutorError(f"a terminal cannot have {rows} rows and {columns} columns")
        termios.tcsetwinsize(self._ours, (rows, columns))

    def hold(self, held: bool) -> None:
        """Read nothing while `held`: what it prints waits in its terminal or pipe, and then it waits itself."""
        if held:
            self._holds += 1
            self._free.clear()
            self._pause()
        else:
            self._free.set()
            self._resume()

    async def wait(self) -> Exit:
        """See `Command.wait`."""
        await asyncio.wait([self._task])
        if self.exit is None:
            raise ExecutorError(f"command {self.id} was let go before it ended") from self._failure()
        return self.exit

    async def kill(self, grace: float = 0.5) -> None:
        """See `Command.kill`. ExecutorError if something is still there after 5 s (it waits for the kernel)."""
        if self._process.returncode is None and grace > 0:
            await asyncio.to_thread(self._process.signal, signal.SIGTERM)
            await asyncio.wait([self._task], timeout=grace)
        try:
            async with asyncio.timeout(_KILL_WITHIN):
                # until none is left: one of them may have forked between the look and the blow
                # (a look at intervals, for the kernel tells nobody but a parent)
                while await asyncio.to_thread(self._process.signal, signal.SIGKILL):  # noqa: ASYNC110
                    await asyncio.sleep(0.005)
                await self._process.wait()
        except TimeoutError as exc:
            raise ExecutorError(f"command {self.id} (pid {self.pid}) does not end") from exc
        # its last output and exit are delivered too, unless whoever listens is stuck: that is no fault of the command
        await asyncio.wait([self._task], timeout=_KILL_WITHIN)

    async def close(self) -> None:
        """See `Command.close`."""
        try:
            await self.kill(grace=0)
        finally:
            self._on_close(self)
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._let_theirs_go()
            self._finish_reading()
            self._output.end_watching()

    def _check_terminal(self) -> None:
        if self._run != "terminal":
            raise ExecutorError(f"command {self.id} has no terminal")

    def _check_running(self) -> None:
        self._check_terminal()
        if self._process.returncode is not None or self._ours < 0:
            raise ExecutorError(f"command {self.id} has ended")

    def _failure(self) -> BaseException | None:
        return None if self._task.cancelled() else self._task.exception()

    async def _follow(self) -> None:
        """Deliver what comes, then the exit."""
        exited = asyncio.create_task(self._ended())
        try:
            await self._output.deliver(until=exited)
            self._writable.set()  # who still types learns that it is too late
            self._let_theirs_go()
            await self._drain()
            await self._output.finish(exited.result())
        finally:
            exited.cancel()

    async def _ended(self) -> Exit:
        return Exit.of(await self._process.wait())

    async def _drain(self) -> None:
        """Read what was printed before the exit. Something else may hold the output: then for a moment only."""
        holds, most = -1, self._taken + _PIPE
        # what was held back meanwhile is waited for, but no more than can have been there
        while holds != self._holds and self._taken < most and not self._end_of_output.is_set():
            await self._free.wait()
            holds = self._holds
            with suppress(TimeoutError):
                async with asyncio.timeout(_DRAIN):
                    await self._end_of_output.wait()

    def _readable(self) -> None:
        left = _READ[self._run]
        while left > 0:
            try:
                data = os.read(self._ours, left)
            except BlockingIOError:
                break
            except OSError:  # EIO: the last process that held the terminal has gone (Linux)
                data = b""
            if not data:
                self._finish_reading()
                break
            left -= len(data)
            self._taken += len(data)
            self._output.take(data)
        if self._output.full:
            self._pause()

    def _pause(self) -> None:
        if self._reading:
            self._loop.remove_reader(self._ours)
            self._reading = False

    def _resume(self) -> None:
        if not self._reading and self._free.is_set() and self._ours >= 0:
            self._loop.add_reader(self._ours, self._readable)
            self._reading = True

    def _finish_reading(self) -> None:
        self._pause()
        if self._ours >= 0:
            self._loop.remove_writer(self._ours)
            os.close(self._ours)
            self._ours = -1
        self._writable.set()
        self._end_of_output.set()

    def _let_theirs_go(self) -> None:
        if self._theirs >= 0:
            os.close(self._theirs)
            self._theirs = -1


def _place(folder: int) -> str:
    """Where an opened directory is now."""
    if sys.platform == "linux":
        return os.readlink(f"/proc/self/fd/{folder}")
    else:  # macOS
        name: bytes = fcntl.fcntl(folder, fcntl.F_GETPATH, b"\0" * 1024)
        return os.fsdecode(name.rstrip(b"\0"))


def _can_start(program: str, place: str, environment: Mapping[str, str]) -> bool:
    name = os.path.join(place, program) if "/" in program else program
    return shutil.which(name, path=environment.get("PATH")) is not None


def _open_terminal() -> tuple[int, int]:
    master, slave = os.openpty()
    settings = termios.tcgetattr(slave)
    settings[1] &= ~termios.OPOST  # "\n" stays "\n": the output is text for an agent first
    termios.tcsetattr(slave, termios.TCSANOW, settings)
    termios.tcsetwinsize(slave, _WINDOW)
    return master, slave


def _open_pipe() -> tuple[int, int]:
    ours, theirs = os.pipe()
    if sys.platform == "linux":
        with suppress(OSError):  # the pipes of a person may have only so much room in all
            fcntl.fcntl(theirs, fcntl.F_SETPIPE_SZ, _PIPE)
    return ours, theirs


def _shell() -> str:
    return shutil.which("bash", path="/bin:/usr/bin:/usr/local/bin") or "/bin/sh"
