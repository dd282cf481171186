"""How a command runs: in a terminal that a person can watch, type in and resize, or with its output in a pipe."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from jupyter_acp.exceptions import ExecutorError
from jupyter_acp.kernel_exec.base import Executor, Exit, Run
from jupyter_acp.kernel_exec.local import LocalExecutor

PYTHON = sys.executable
RUNS: tuple[Run, ...] = ("terminal", "pipe")
either = pytest.mark.parametrize("how", RUNS)


@asynccontextmanager
async def executor(root: Path) -> AsyncIterator[Executor]:
    made = LocalExecutor(root)
    try:
        yield made
    finally:
        await made.stop()


class Watcher:
    """What a terminal showed, and whether it said its end."""

    def __init__(self) -> None:
        self.data = b""
        self.ended = False
        self._changed = asyncio.Event()

    def __call__(self, data: bytes) -> None:
        assert not self.ended
        self.data += data
        self.ended = not data
        self._changed.set()

    async def sees(self, wanted: bytes) -> None:
        await self._until(lambda: wanted in self.data)

    async def end(self) -> None:
        await self._until(lambda: self.ended)

    async def _until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not holds():
                self._changed.clear()
                await self._changed.wait()


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        await asyncio.wait_for(test(), 30)

    before = len(os.listdir("/dev/fd"))
    asyncio.run(limited())
    assert len(os.listdir("/dev/fd")) == before, "a descriptor was left open"


def test_what_runs_by_pipe_has_no_terminal_no_input_and_a_session_of_its_own(tmp_path: Path) -> None:
    code = (
        "import os, sys; print(os.isatty(1), os.isatty(2), repr(sys.stdin.read()), os.getsid(0) == os.getpid(),"
        " os.path.sameopenfile(1, 2), flush=True); open('/dev/tty')"
    )

    async def test() -> None:
        async with executor(tmp_path) as here:
            command = await here.spawn([PYTHON, "-c", code], run="pipe")
            assert await command.wait() == Exit(code=1, signal=None)
            first, *_, last = command.output()[0].splitlines()
            assert first == "False False '' True True"
            assert last == "OSError: [Errno 6] No such device or address: '/dev/tty'"

    run(test)


@either
def test_output_exit_and_signal_are_exact(tmp_path: Path, how: Run) -> None:
    async def test() -> None:
        async with executor(tmp_path) as here:
            said: list[tuple[str, bool]] = []
            exits: list[Exit] = []
            command = await here.spawn(
                "printf 'é\\r\\n'; printf '2\\n' >&2; exit 7",
                run=how,
                on_output=lambda text, lost: said.append((text, lost)),
                on_exit=exits.append,
            )
            assert await command.wait() == Exit(code=7, signal=None)
            assert exits == [Exit(code=7, signal=None)]
            assert "".join(text for text, _ in said) == "é\r\n2\n" == command.output()[0]
            assert await (await here.spawn("kill -SEGV $$", run=how)).wait() == Exit(code=None, signal="SIGSEGV")

    run(test)


def test_a_watcher_sees_the_tail_then_what_follows_then_the_end(tmp_path: Path) -> None:
    async def test() -> None:
        async with executor(tmp_path) as here:
            command = await here.spawn("echo one; read x; echo two; read x; echo three; exit 3")
            first, second, late = Watcher(), Watcher(), Watcher()
            command.watch(first)
            await first.sees(b"one\n")
            stop = command.watch(second)
            await second.sees(b"one\n")
            await command.write(b"\n")
            await second.sees(b"two\n")
            stop()
            stop()
            await command.write(b"\n")
            await first.end()
            assert command.exit == Exit(code=3, signal=None)
            assert first.data == b"one\n\ntwo\n\nthree\n", "the terminal echoes what is typed"
            assert not second.ended and b"three" not in second.data
            command.watch(late)
            await late.end()
            assert late.data == first.data

    run(test)


def test_a_watcher_begins_at_a_character_of_the_tail(tmp_path: Path) -> None:
    async def test() -> None:
        async with executor(tmp_path) as here:
            command = await here.spawn("printf '€€€x'", output_limit=5)
            await command.wait()
            watcher = Watcher()
            command.watch(watcher)
            await watcher.end()
            assert watcher.data == "€x".encode()

    run(test)


def test_a_watcher_that_fails_harms_neither_the_command_nor_the_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        async with executor(tmp_path) as here:

            def fail(data: bytes) -> None:
                raise RuntimeError("mistake")

            watcher = Watcher()
            command = await here.spawn("read x; echo $x")
            command.watch(fail)
            command.watch(watcher)
            await command.write(b"hello\n")
            assert (await command.wait()).code == 0
            await watcher.end()
            assert watcher.data == b"hello\nhello\n"

    run(test)
    assert "mistake" in caplog.text


def test_a_key_reaches_the_command_as_in_any_terminal(tmp_path: Path) -> None:
    async def test() -> None:
        async with executor(tmp_path) as here:
            watcher = Watcher()
            command = await here.spawn([PYTHON, "-c", "print('ready', flush=True); import time; time.sleep(60)"])
            command.watch(watcher)
            await watcher.sees(b"ready")
            await command.write(b"\x03")
            assert await command.wait() == Exit(code=None, signal="SIGINT")

    run(test)


def test_a_terminal_has_the_size_that_it_is_given(tmp_path: Path) -> None:
    code = (
        "import os, signal\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGWINCH})\n"
        "print('ready', *os.get_terminal_size(), flush=True)\n"
        "signal.sigwait({signal.SIGWINCH})\n"
        "print(*os.get_terminal_size())"
    )

    async def test() -> None:
        async with executor(tmp_path) as here:
            watcher = Watcher()
            command = await here.spawn([PYTHON, "-c", code])
            command.watch(watcher)
            await watcher.sees(b"ready 120 40\n")
            for rows, columns in ((0, 80), (24, -1), (24, 1 << 16)):
                with pytest.raises(ExecutorError, match="rows"):
                    await command.resize(rows, columns)
            await command.resize(33, 77)
            await command.wait()
            assert watcher.data.endswith(b"77 33\n")

    run(test)


def test_what_is_typed_arrives_whole_and_waits_for_who_does_not_read(tmp_path: Path) -> None:
    code = (
        "import os, tty, time\n"
        "tty.setraw(0); print('ready', flush=True)\n"
        "while not os.path.exists('go'): time.sleep(0.01)\n"
        "n = 0\n"
        "while n < 2_000_000: n += len(os.read(0, 65536))\n"
        "print('got', n)\n"
    )

    async def test() -> None:
        async with executor(tmp_path) as here:
            watcher = Watcher()
            command = await here.spawn([PYTHON, "-c", code])
            command.watch(watcher)
            await watcher.sees(b"ready")
            typing = [asyncio.ensure_future(command.write(b"x" * 1_000_000)) for _ in range(2)]
            await asyncio.wait(typing, timeout=0.2)
            assert not any(typed.done() for typed in typing), "nobody has read it"
            (tmp_path / "go").touch()
            await asyncio.gather(*typing)
            await command.wait()
            assert watcher.data.endswith(b"got 2000000\n")

    run(test)


def test_who_types_into_what_ends_meanwhile_or_has_ended_is_told(tmp_path: Path) -> None:
    async def test() -> None:
        async with executor(tmp_path) as here:
            watcher = Watcher()
            command = await here.spawn(
                [PYTHON, "-c", "import tty, time; tty.setraw(0); print(1, flush=1); time.sleep(9)"]
            )
            command.watch(watcher)
            await watcher.sees(b"1")
            typing = asyncio.ensure_future(command.write(b"x" * 1_000_000))
            await asyncio.wait([typing], timeout=0.1)
            await command.kill()
            with pytest.raises(ExecutorError, match="has ended"):
                await typing
            for late in (command.write(b"x"), command.resize(24, 80)):
                with pytest.raises(ExecutorError, match="has ended"):
                    await late

    run(test)


def test_what_runs_by_pipe_can_be_neither_watched_nor_typed_into(tmp_path: Path) -> None:
    async def test() -> None:
        async with executor(tmp_path) as here:
            command = await here.spawn("sleep 60", run="pipe")
            with pytest.raises(ExecutorError, match="no terminal"):
                command.watch(Watcher())
            for wrong in (command.write(b"x"), command.resize(24, 80)):
                with pytest.raises(ExecutorError, match="no terminal"):
                    await wrong

    run(test)
