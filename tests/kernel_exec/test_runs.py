"""How a command runs: in a terminal that a person can watch, type in and resize, or with its output in a pipe."""

from __future__ import annotations

import asyncio
import shutil
import sys
import time
import tracemalloc
from collections.abc import Callable

import pytest

from jupyter_acp.exceptions import ExecutorError, PathOutside
from jupyter_acp.kernel_exec.base import Executor, Exit, FileMissing, Run
from jupyter_acp.kernel_exec.sandbox import Sandbox

from . import alive
from .conftest import Place

PYTHON = sys.executable
RUNS: tuple[Run, ...] = ("terminal", "pipe")
either = pytest.mark.parametrize("how", RUNS)
boxed = pytest.mark.skipif(sys.platform != "linux" or shutil.which("bwrap") is None, reason="needs bubblewrap")


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


def test_what_runs_by_pipe_has_no_terminal_no_input_and_a_session_of_its_own(place: Place) -> None:
    code = (
        "import os, sys; print(os.isatty(1), os.isatty(2), repr(sys.stdin.read()), os.getsid(0) == os.getpid(),"
        " os.path.sameopenfile(1, 2), flush=True); open('/dev/tty')"
    )

    async def test(here: Executor) -> None:
        command = await here.spawn([PYTHON, "-c", code], run="pipe")
        assert await command.wait() == Exit(code=1, signal=None)
        first, *_, last = command.output()[0].splitlines()
        assert first == "False False '' True True"
        assert last == "OSError: [Errno 6] No such device or address: '/dev/tty'"

    place.run(test)


@either
def test_output_exit_and_signal_are_exact(place: Place, how: Run) -> None:
    async def test(here: Executor) -> None:
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

    place.run(test)


@boxed
@either
@pytest.mark.parametrize("writes", [False, True])
def test_in_a_sandbox_too_exit_and_signal_are_exact(place: Place, how: Run, writes: bool) -> None:
    (place.root / "work").mkdir()
    endings = {
        "exit 7": Exit(code=7, signal=None),
        "exit 143": Exit(code=143, signal=None),
        "kill -TERM $$": Exit(code=None, signal="SIGTERM"),
        "kill -SEGV $$": Exit(code=None, signal="SIGSEGV"),
        "kill -KILL $$": Exit(code=None, signal="SIGKILL"),
        # nothing inside can keep it from being told, nor end it before
        "kill -KILL -1; kill -KILL 1; exit 3": Exit(code=3, signal=None),
        "sleep 60 & exit 4": Exit(code=4, signal=None),
        "for fd in /proc/1/fd/*; do echo forged; echo -9; done > $fd; exit 5": Exit(code=5, signal=None),
    }

    async def test(here: Executor) -> None:
        for script, ending in endings.items():
            command = await here.spawn(script, run=how)
            assert await command.wait() == ending, (script, command.output())
        killed = await here.spawn("sleep 60", run=how)
        await killed.kill(grace=0)
        assert killed.exit == Exit(code=None, signal="SIGKILL"), killed.output()  # bubblewrap's complaint, if it is one

    place.run(test, sandbox=lambda: Sandbox(project=place.root, workspace=place.root / "work" if writes else None))


@boxed
@either
def test_a_command_in_a_sandbox_is_given_nothing_beside_its_output(place: Place, how: Run) -> None:
    code = (
        "import os; print(os.getsid(0) == os.getpid(), sorted(os.listdir('/dev/fd'))[:-1], 'JUPYTER_ACP_STATUS' in"
        " os.environ, how := os.isatty(0), os.tcgetpgrp(0) == os.getpid() if how else '')"
    )

    async def test(here: Executor) -> None:
        command = await here.spawn([PYTHON, "-c", code], run=how)
        assert await command.wait() == Exit(code=0, signal=None), command.output()
        seen = "True True" if how == "terminal" else "False "
        assert command.output()[0] == f"True ['0', '1', '2'] False {seen}\n"

    place.run(test, sandbox=lambda: Sandbox(project=place.root, workspace=None))


@boxed
def test_a_key_and_sigterm_reach_the_command_in_a_sandbox_and_not_the_sandbox(place: Place) -> None:
    async def test(here: Executor) -> None:
        # what it has started is ended too, and may be so before it hears of it itself
        script = "trap 'echo heard; exit 9' INT TERM; echo ready; while true; do sleep 0.1; done"
        for end in (lambda command: command.write(b"\x03"), lambda command: command.kill(grace=20)):
            command, shown = await here.spawn(script), Watcher()
            command.watch(shown)
            await shown.sees(b"ready")
            await end(command)
            assert await command.wait() == Exit(code=9, signal=None)
            await shown.sees(b"heard")

    place.run(test, sandbox=lambda: Sandbox(project=place.root, workspace=None))


def test_a_watcher_sees_the_tail_then_what_follows_then_the_end(place: Place) -> None:
    async def test(here: Executor) -> None:
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

    place.run(test)


def test_a_watcher_begins_at_a_character_of_the_tail(place: Place) -> None:
    async def test(here: Executor) -> None:
        command = await here.spawn("printf '€€€x'", output_limit=5)
        await command.wait()
        watcher = Watcher()
        command.watch(watcher)
        await watcher.end()
        assert watcher.data == "€x".encode()

    place.run(test)


def test_a_watcher_that_fails_harms_neither_the_command_nor_the_others(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    async def test(here: Executor) -> None:

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

    place.run(test)
    assert "mistake" in caplog.text


def test_a_key_reaches_the_command_as_in_any_terminal(place: Place) -> None:
    async def test(here: Executor) -> None:
        watcher = Watcher()
        command = await here.spawn([PYTHON, "-c", "print('ready', flush=True); import time; time.sleep(60)"])
        command.watch(watcher)
        await watcher.sees(b"ready")
        await command.write(b"\x03")
        assert await command.wait() == Exit(code=None, signal="SIGINT")

    place.run(test)


def test_a_terminal_has_the_size_that_it_is_given(place: Place) -> None:
    code = (
        "import os, signal\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGWINCH})\n"
        "print('ready', *os.get_terminal_size(), flush=True)\n"
        "signal.sigwait({signal.SIGWINCH})\n"
        "print(*os.get_terminal_size())"
    )

    async def test(here: Executor) -> None:
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

    place.run(test)


def test_what_is_typed_arrives_whole_and_waits_for_who_does_not_read(place: Place) -> None:
    code = (
        "import os, tty, time\n"
        "tty.setraw(0); print('ready', flush=True)\n"
        "while not os.path.exists('go'): time.sleep(0.01)\n"
        "got = b''\n"
        "while len(got) < 2_000_000: got += os.read(0, 65536)\n"
        "print('got', len(got), got.find(b'y'), got.rfind(b'x'))\n"
    )

    async def test(here: Executor) -> None:
        watcher = Watcher()
        command = await here.spawn([PYTHON, "-c", code])
        command.watch(watcher)
        await watcher.sees(b"ready")
        typing = [asyncio.ensure_future(command.write(key * 1_000_000)) for key in (b"x", b"y")]
        await asyncio.wait(typing, timeout=0.2)
        assert not any(typed.done() for typed in typing), "nobody has read it"
        (place.root / "go").touch()
        await asyncio.gather(*typing)
        await command.wait()
        assert watcher.data.endswith(b"got 2000000 1000000 999999\n")

    place.run(test)


@pytest.mark.parametrize("left_behind", ["", "trap '' HUP; sleep 60 & "], ids=["nothing", "a child at the terminal"])
def test_who_types_into_what_ends_meanwhile_or_has_ended_is_told(place: Place, left_behind: str) -> None:
    line = f"{left_behind}stty raw -echo; echo ready; while ! test -e go; do sleep 0.02; done"

    async def test(here: Executor) -> None:
        watcher = Watcher()
        command = await here.spawn(line)
        command.watch(watcher)
        await watcher.sees(b"ready")
        typing = asyncio.ensure_future(command.write(b"x" * 1_000_000))
        await asyncio.wait([typing], timeout=0.1)
        (place.root / "go").touch()
        await asyncio.wait([typing], timeout=10)
        assert typing.done()
        with pytest.raises(ExecutorError, match="has ended"):
            await typing
        for late in (command.write(b"x"), command.resize(24, 80)):
            with pytest.raises(ExecutorError, match="has ended"):
                await late

    place.run(test)


def test_what_runs_by_pipe_can_be_neither_watched_nor_typed_into(place: Place) -> None:
    async def test(here: Executor) -> None:
        command = await here.spawn("sleep 60", run="pipe")
        with pytest.raises(ExecutorError, match="no terminal"):
            command.watch(Watcher())
        for wrong in (command.write(b""), command.write(b"x"), command.resize(24, 80)):
            with pytest.raises(ExecutorError, match="no terminal"):
                await wrong

    place.run(test)


@either
def test_what_cannot_start_says_why_and_leaves_nothing(place: Place, how: Run) -> None:
    (place.root / "data").write_text("no program")
    (place.root / "script").write_text("#!/no/such/interpreter\n")
    (place.root / "script").chmod(0o755)
    told: list[object] = []

    async def test(here: Executor) -> None:
        for argv, why in (
            (["no-such-program"], "not found"),
            (["./data"], "not executable"),
            (["./script"], "No such file"),
            ([], "not found"),
            (["echo", "a\0b"], "NUL"),
            (["echo", "x" * 9_000_000], "too long"),
        ):
            with pytest.raises(ExecutorError, match=why):
                await here.spawn(argv, run=how, on_output=lambda *said: told.append(said), on_exit=told.append)

    place.run(test)
    assert told == []


@either
def test_nothing_starts_outside(place: Place, how: Run) -> None:
    (place.root / "sub").mkdir()
    (place.root / "out").symlink_to(place.root.parent)

    async def test(here: Executor) -> None:
        for outside in ("..", "out", "sub/../..", "/", str(place.root.parent)):
            with pytest.raises(PathOutside):
                await here.spawn("touch here", run=how, cwd=outside)
        with pytest.raises(FileMissing):
            await here.spawn("touch here", run=how, cwd="nowhere")

    place.run(test)
    assert not list(place.root.parent.rglob("here"))


@either
def test_output_that_is_no_text_is_shown_as_far_as_it_is(place: Place, how: Run) -> None:
    async def test(here: Executor) -> None:
        said: list[str] = []
        command = await here.spawn(
            r"printf '\377\376caf\351\0 \303\251\303'", run=how, on_output=lambda text, _: said.append(text)
        )
        await command.wait()
        assert command.output() == ("\ufffd\ufffdcaf\ufffd\0 é\ufffd", False)
        assert "".join(said) == command.output()[0]

    place.run(test)


# a terminal gives 4 KiB at a time. Ten gigabytes: `python -m benchmarks delegated`
@pytest.mark.parametrize(("how", "size"), [("pipe", 300_000_000), ("terminal", 50_000_000)])
def test_a_flood_without_a_line_end_leaves_its_tail_in_bounded_memory(place: Place, how: Run, size: int) -> None:
    async def test(here: Executor) -> None:
        said = 0
        last = False, ""

        def listen(text: str, lost: bool) -> None:
            nonlocal said, last
            said += len(text)
            last = last[0] or lost, text

        tracemalloc.start(1)
        command = await here.spawn(
            f"head -c {size} /dev/zero; printf end", run=how, output_limit=1000, on_output=listen
        )
        assert await command.wait() == Exit(code=0, signal=None)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 10 << 20
        assert command.output() == ("\0" * 997 + "end", True)
        assert last[0] and last[1].endswith("\0end")
        assert said < size / 2

    place.run(test)


@either
def test_a_million_short_lines_are_a_few_pieces_and_an_exact_tail(place: Place, how: Run) -> None:
    async def test(here: Executor) -> None:
        pieces: list[tuple[str, bool]] = []
        command = await here.spawn("seq 1 1000000", run=how, on_output=lambda text, lost: pieces.append((text, lost)))
        await command.wait()
        numbers = "".join(f"{number}\n" for number in range(900_000, 1_000_001))
        tail, truncated = command.output()
        assert truncated and len(tail) == 1 << 20 and tail.endswith(numbers)
        assert len(pieces) < 500
        whole = "".join(text for text, _ in pieces)
        assert whole.startswith("1\n2\n") and whole.endswith(numbers[-1000:])
        assert any(lost for _, lost in pieces) == (len(whole) < 6_888_896)

    place.run(test)


@either
def test_a_process_that_ignores_sigterm_is_killed(place: Place, how: Run) -> None:
    async def test(here: Executor) -> None:
        ready = asyncio.Event()
        line = "trap '' TERM HUP INT; echo $$; while :; do sleep 0.1; done"
        command = await here.spawn(line, run=how, on_output=lambda *_: ready.set())
        await ready.wait()
        pid = int(command.output()[0])
        began = time.monotonic()
        await command.kill(grace=0.2)
        assert 0.2 <= time.monotonic() - began < 5
        assert command.exit == Exit(code=None, signal="SIGKILL")
        assert not alive(pid)

    place.run(test)


@either
def test_a_command_that_closes_its_output_is_followed_to_its_exit(place: Place, how: Run) -> None:
    async def test(here: Executor) -> None:
        command = await here.spawn("echo a; exec <&- >&- 2>&-; sleep 0.3; exit 5", run=how)
        assert await command.wait() == Exit(code=5, signal=None)
        assert command.output() == ("a\n", False)

    place.run(test)


@either
def test_a_background_child_that_holds_the_output_does_not_hold_the_exit(place: Place, how: Run) -> None:
    async def test(here: Executor) -> None:
        command = await here.spawn("trap '' HUP; sleep 60 & echo $!; exit 4", run=how)
        async with asyncio.timeout(10):
            assert (await command.wait()).code == 4
        child = int(command.output()[0])
        assert alive(child)
        await command.kill()
        assert not alive(child)

    place.run(test)


@either
def test_a_slow_listener_holds_the_command_back(place: Place, how: Run) -> None:
    async def test(here: Executor) -> None:
        begun, go_on = asyncio.Event(), asyncio.Event()

        async def slow(text: str, truncated: bool) -> None:
            begun.set()
            await go_on.wait()

        command = await here.spawn("head -c 20000000 /dev/zero; touch done", run=how, on_output=slow)
        await begun.wait()
        await asyncio.wait([asyncio.ensure_future(command.wait())], timeout=1)
        assert not (place.root / "done").exists(), "it was not held back"
        go_on.set()
        assert (await command.wait()).code == 0

    place.run(test)
