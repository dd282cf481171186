"""What every executor promises, with real files and real commands: on this machine, and behind a Jupyter server.

The servers are on this machine too, so that a test can look at their files and processes.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
import time
import tracemalloc
from contextlib import suppress
from pathlib import Path

import pytest
from stack.process import TOKEN

from jupyter_acp.exceptions import ExecutorError, PathOutside
from jupyter_acp.kernel_exec.base import Executor, Exit, FileMissing, Run
from jupyter_acp.kernel_exec.sandbox import Sandbox

from . import alive, until
from .conftest import Place

PYTHON = sys.executable


class Listener:
    """What a command said, piece by piece."""

    def __init__(self) -> None:
        self.pieces: list[tuple[str, bool]] = []
        self.exits: list[Exit] = []
        self._condition = asyncio.Condition()

    async def output(self, text: str, truncated: bool) -> None:
        self.pieces.append((text, truncated))
        async with self._condition:
            self._condition.notify_all()

    def exit(self, exit: Exit) -> None:
        self.exits.append(exit)

    @property
    def text(self) -> str:
        return "".join(text for text, _ in self.pieces)

    async def number(self) -> int:
        await self.says("\n")
        return int(self.text)

    async def says(self, wanted: str) -> None:
        async with self._condition:
            await asyncio.wait_for(self._condition.wait_for(lambda: wanted in self.text), 10)


def test_lines_are_read_from_a_line_on_and_line_ends_stay(place: Place) -> None:
    (place.root / "a").write_bytes(b"1\r\n2\n3\r4\n5")

    async def test(here: Executor) -> None:
        assert await here.read_text_file("a") == "1\r\n2\n3\r4\n5"
        assert await here.read_text_file("a", line=2) == "2\n3\r4\n5"
        assert await here.read_text_file("a", line=2, limit=1) == "2\n"
        assert await here.read_text_file("a", limit=1) == "1\r\n"
        assert await here.read_text_file("a", limit=0) == ""
        assert await here.read_text_file("a", line=99, limit=5) == ""

    place.run(test)


def test_what_is_not_text_or_not_there_or_outside_is_an_error_each(place: Place) -> None:
    (place.root / "latin").write_bytes(b"\xe9t\xe9")
    (place.root / "nul").write_bytes(b"a\0b")

    async def test(here: Executor) -> None:
        for path in ("latin", "nul"):
            with pytest.raises(ExecutorError, match="text"):
                await here.read_text_file(path)
        with pytest.raises(FileMissing):
            await here.read_text_file("nothing")
        with pytest.raises(PathOutside):
            await here.read_text_file("../x")
        with pytest.raises(PathOutside):
            await here.write_text_file("/etc/x", "")
        with pytest.raises(ExecutorError, match="surrogates"):
            await here.write_text_file("a", "\ud800")

    place.run(test)


def test_a_file_above_the_limit_is_read_only_in_part(place: Place) -> None:
    (place.root / "big").write_bytes(b"x" * 999 + b"\n" + b"y" * (51 << 20))

    async def test(here: Executor) -> None:
        for line, limit in ((None, None), (2, None), (2, 1)):
            with pytest.raises(ExecutorError, match="more than 50 MiB"):
                await here.read_text_file("big", line, limit)
        assert len(await here.read_text_file("big", limit=1)) == 1000

    place.run(test)


def test_what_was_written_is_read_back(place: Place) -> None:
    async def test(here: Executor) -> None:
        await here.write_text_file("new/dir/f", "é\r\n")
        assert await here.read_text_file(str(place.root / "new/dir/f")) == "é\r\n"
        assert (place.root / "new/dir/f").read_bytes() == "é\r\n".encode()

    place.run(test)


def test_a_command_gives_its_output_and_then_its_exit(place: Place) -> None:
    async def test(here: Executor) -> None:
        said = Listener()
        command = await here.spawn("printf 'é\\n2\\n'; exit 7", on_output=said.output, on_exit=said.exit)
        assert await command.wait() == Exit(code=7, signal=None) == command.exit
        assert said.exits == [Exit(code=7, signal=None)]
        assert said.text == "é\n2\n"
        assert command.output() == ("é\n2\n", False)

    place.run(test)


def test_an_argv_is_not_read_by_a_shell_and_has_a_terminal_of_its_own(place: Place) -> None:
    async def test(here: Executor) -> None:
        code = "import os, sys; print(sys.argv[1], os.isatty(0), os.isatty(1), os.getsid(0) == os.getpid(), end='')"
        command = await here.spawn([PYTHON, "-c", code, "$HOME; x"])
        await command.wait()
        assert command.output()[0] == "$HOME; x True True True"
        assert (await (await here.spawn("test -w /dev/tty && : >/dev/tty")).wait()).code == 0

    place.run(test)


@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM", "SIGSEGV"])
def test_the_signal_that_ended_a_command_is_named(place: Place, name: str) -> None:
    async def test(here: Executor) -> None:
        code = f"import os, signal; os.kill(os.getpid(), signal.{name})"
        assert await (await here.spawn([PYTHON, "-c", code])).wait() == Exit(code=None, signal=name)

    place.run(test)


def test_a_command_that_cannot_start_says_so(place: Place) -> None:
    (place.root / "data").write_text("no program")

    async def test(here: Executor) -> None:
        for argv in (
            ["no-such-program"],
            ["./data"],
            ["./nothing"],
            [],
            ["echo", "a\0b"],
            ["echo", "x" * 9_000_000],
        ):
            with pytest.raises(ExecutorError):
                await here.spawn(argv)
        with pytest.raises(ExecutorError):
            await here.spawn("true", env={"a=b": "c"})

    place.run(test)


def test_a_command_starts_in_its_cwd_and_never_outside(place: Place) -> None:
    (place.root / "sub").mkdir()
    (place.root / "out").symlink_to(place.root.parent)

    async def test(here: Executor) -> None:
        for cwd, where in ((None, "."), ("sub", "sub"), (str(place.root / "sub"), "sub")):
            command = await here.spawn('pwd; printf "$PWD"', cwd=cwd)
            await command.wait()
            assert command.output()[0] == f"{place.root / where}\n{place.root / where}"
        for outside in ("..", "out", "/", f"{place.root.parent}"):
            with pytest.raises(PathOutside):
                await here.spawn("true", cwd=outside)
        with pytest.raises(FileMissing):
            await here.spawn("true", cwd="nowhere")

    place.run(test)


def test_a_command_sees_the_allow_list_and_what_it_was_given(place: Place) -> None:
    async def test(here: Executor) -> None:
        command = await here.spawn("env", env={"GIVEN": "yes"})
        await command.wait()
        text = command.output()[0]
        assert "planted" not in text
        assert "GIVEN=yes" in text and "PATH=" in text

    place.run(test)


def test_the_first_output_comes_at_once_and_the_rest_merged(place: Place) -> None:
    code = "import time\nprint('first', flush=True)\nend=time.time()+.5\nwhile time.time()<end: print('x', flush=True)"

    async def test(here: Executor) -> None:
        said = Listener()
        began = time.monotonic()
        command = await here.spawn([PYTHON, "-c", code], on_output=said.output)
        await command.wait()
        elapsed = time.monotonic() - began
        assert said.pieces[0][0].startswith("first")
        assert said.text == command.output()[0]
        # one every 50 ms, at other distances where we are late to listen; the first and the last wait for none
        assert 1 < len(said.pieces) <= elapsed / 0.05 + 2

    place.run(test)


def test_characters_cut_by_the_terminal_stay_whole(place: Place) -> None:
    code = "import sys; sys.stdout.buffer.write('é€😀'.encode() * 20_000)"

    async def test(here: Executor) -> None:
        said = Listener()
        command = await here.spawn([PYTHON, "-c", code], on_output=said.output)
        await command.wait()
        assert said.text == "é€😀" * 20_000

    place.run(test)


def test_a_flood_leaves_its_tail_in_bounded_memory_and_never_blocks_the_loop(place: Place) -> None:
    code = "import sys\nfor i in range(50): sys.stdout.write(f'{i:02}' + 'é' * 524_287)\nprint('end', end='')"

    async def test(here: Executor) -> None:
        said = Listener()
        worst = 0.0

        async def heartbeat() -> None:
            nonlocal worst
            while True:
                began = time.thread_time()  # not the wall's: other processes may hold the machine
                await asyncio.sleep(0.002)
                worst = max(worst, time.thread_time() - began)

        heart = asyncio.create_task(heartbeat())
        tracemalloc.start(1)
        began = time.monotonic()
        command = await here.spawn([PYTHON, "-c", code], output_limit=1000, on_output=said.output)
        await command.wait()
        elapsed = time.monotonic() - began
        said_size = sum(len(text.encode()) for text, _ in said.pieces)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        heart.cancel()
        assert peak < said_size + (10 << 20)
        assert worst < 0.05
        assert said_size < (2 << 20) * elapsed + (3 << 20)
        text, truncated = command.output()
        assert truncated and text == "é" * 498 + "end"
        assert said.pieces[-1][0].endswith("end")
        assert any(truncated for _, truncated in said.pieces)

    place.run(test)


def test_a_listener_that_does_not_keep_up_holds_the_command_back(place: Place) -> None:
    code = "at = open('at', 'w', 1)\nfor i in range(6000): print('x' * 999); print(i, file=at)"

    async def test(here: Executor) -> None:
        begun, go_on = asyncio.Event(), asyncio.Event()
        lost: list[bool] = []

        async def slow(text: str, truncated: bool) -> None:
            lost.append(truncated)
            begun.set()
            await go_on.wait()

        command = await here.spawn([PYTHON, "-u", "-c", code], on_output=slow)
        await begun.wait()
        await asyncio.wait([asyncio.ensure_future(command.wait())], timeout=0.5)
        assert command.exit is None, "it was not held back"
        assert len((place.root / "at").read_text().split()) < 4000
        go_on.set()
        assert (await command.wait()).code == 0
        assert len((place.root / "at").read_text().split()) == 6000

    place.run(test, output_limit=20_000)


def test_output_is_whole_however_long_after_the_exit_it_is_taken(place: Place) -> None:
    async def test(here: Executor) -> None:
        begun, go_on = asyncio.Event(), asyncio.Event()

        async def slow(text: str, truncated: bool) -> None:
            begun.set()
            await go_on.wait()

        line = f"head -c {place.ahead} /dev/zero; echo end; touch done"
        command = await here.spawn(line, run="pipe", on_output=slow)
        await begun.wait()
        await until(lambda: (place.root / "done").exists())
        await asyncio.wait([asyncio.ensure_future(command.wait())], timeout=0.5)
        assert command.exit is None
        go_on.set()
        assert (await command.wait()).code == 0
        assert command.output()[0].endswith("\0end\n")

    place.run(test, output_limit=20_000)


@pytest.mark.parametrize("how", ["terminal", "pipe"])
def test_a_background_child_that_prints_on_does_not_hold_the_exit(place: Place, how: Run) -> None:
    async def test(here: Executor) -> None:
        command = await here.spawn("trap '' HUP; cat /dev/zero & exit 4", run=how)
        async with asyncio.timeout(10):
            assert (await command.wait()).code == 4

    place.run(test)


def test_a_listener_that_fails_does_not_lose_the_exit(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    async def test(here: Executor) -> None:

        def fail(text: str, truncated: bool) -> None:
            raise RuntimeError("mistake")

        assert (await (await here.spawn("echo x; exit 3", on_output=fail)).wait()).code == 3

    place.run(test)
    assert "mistake" in caplog.text


def test_a_background_child_that_holds_the_terminal_does_not_hold_the_exit(place: Place) -> None:
    async def test(here: Executor) -> None:
        command = await here.spawn("trap '' HUP; sleep 60 & echo $!; exit 4")
        async with asyncio.timeout(10):
            assert (await command.wait()).code == 4
        child = int(command.output()[0].split()[0])
        assert alive(child)
        await command.kill()
        assert not alive(child)

    place.run(test)


def test_a_command_that_lets_its_terminal_go_is_still_followed(place: Place) -> None:
    async def test(here: Executor) -> None:
        command = await here.spawn("echo a; exec <&- >&- 2>&-; sleep 0.2; echo b >/dev/tty; exit 5")
        assert (await command.wait()).code == 5
        assert command.output()[0] == "a\nb\n"

    place.run(test)


def test_killing_takes_the_whole_tree_whatever_it_did_to_hide(place: Place) -> None:
    code = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN); signal.signal(signal.SIGHUP, signal.SIG_IGN)
def sleeper(**how):
    return subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'], **how).pid
pids = [os.getpid(), sleeper(), sleeper(start_new_session=True), sleeper(env={})]
pids.append(sleeper(env={}, start_new_session=True))
r, w = os.pipe()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.write(w, str(os.getpid()).encode()); os.close(w); time.sleep(60)
    os._exit(0)
pids.append(int(os.read(r, 20)))
print(*pids, 'ready', flush=True)
time.sleep(60)
"""

    async def test(here: Executor) -> None:
        said = Listener()
        command = await here.spawn([PYTHON, "-c", code], on_output=said.output, on_exit=said.exit)
        await said.says("ready")
        pids = [int(word) for word in said.text.split()[:-1]]
        assert len(pids) == 6 and all(alive(pid) for pid in pids)
        await command.kill(grace=0.1)
        assert not [pid for pid in pids if alive(pid)]
        assert said.exits == [Exit(code=None, signal="SIGKILL")]
        await command.kill()

    place.run(test)


def test_a_command_may_end_politely(place: Place) -> None:
    async def test(here: Executor) -> None:
        said = Listener()
        line = "trap 'echo bye; exit 9' TERM; echo ready; while :; do sleep 0.05; done"
        command = await here.spawn(line, on_output=said.output)
        await said.says("ready")
        await command.kill()
        assert command.exit == Exit(code=9, signal=None)
        assert "bye" in command.output()[0]

    place.run(test)


def test_killing_one_command_leaves_the_others(place: Place) -> None:
    async def test(here: Executor) -> None:
        said = [Listener(), Listener()]
        first, second = [await here.spawn("echo $$; exec sleep 60", on_output=one.output) for one in said]
        pids = [await one.number() for one in said]
        await first.kill()
        assert first.exit is not None and second.exit is None
        assert [alive(pid) for pid in pids] == [False, True]

    place.run(test)


def test_stopping_the_executor_leaves_no_process_and_no_waiter(place: Place) -> None:
    async def test(here: Executor) -> None:
        said = Listener()
        commands = [
            await here.spawn("echo $$; exec sleep 60", on_output=said.output),
            await here.spawn("trap '' HUP; sleep 60 & echo $!"),
            await here.spawn("true"),
        ]
        waiters = [asyncio.ensure_future(command.wait()) for command in commands]
        await commands[1].wait()
        pids = [await said.number(), int(commands[1].output()[0])]
        assert all(alive(pid) for pid in pids)
        await here.stop()
        await here.stop()
        assert (await waiters[0]).signal == "SIGKILL"
        assert not any(alive(pid) for pid in pids)

    place.run(test)


def test_what_is_asked_of_an_executor_that_was_stopped_is_refused(place: Place) -> None:
    async def test(here: Executor) -> None:
        assert await here.poll() is None
        await here.start()
        await here.stop()
        assert await here.poll() == 0
        for ask in (
            lambda: here.start(),
            lambda: here.spawn("true"),
            lambda: here.read_text_file("a"),
            lambda: here.write_text_file("a", ""),
        ):
            with pytest.raises(ExecutorError, match="stopped"):
                await ask()

    place.run(test)


def test_a_state_is_that_of_one_project_has_no_secret_and_is_json(place: Place) -> None:
    async def test(here: Executor) -> None:
        state = json.loads(json.dumps(here.get_state()))
        assert TOKEN not in json.dumps(state)
        here.load_state(state)
        for other in ({}, dict.fromkeys(state, "/elsewhere"), {"root": "/"}):
            with pytest.raises(ValueError, match="another project"):
                here.load_state(other)

    place.run(test)


def test_a_command_that_starts_while_the_executor_stops_does_not_stay(place: Place) -> None:
    async def test(here: Executor) -> None:
        starting = asyncio.ensure_future(here.spawn("echo $$ > pid; exec sleep 60"))
        await asyncio.sleep(0)  # it is starting now
        await here.stop()
        with pytest.raises(ExecutorError, match="stopped"):
            await starting
        await until(lambda: not sleeping(place.root))

    place.run(test)


@pytest.mark.parametrize("steps", [*range(8), 50, 200])
def test_a_start_that_is_cancelled_at_any_moment_leaves_no_process(place: Place, steps: int) -> None:
    async def test(here: Executor) -> None:
        await (await here.spawn("true")).wait()
        starting = asyncio.ensure_future(here.spawn("echo $$ > pid; exec sleep 61"))
        for _ in range(steps):
            await asyncio.sleep(0)
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        if not starting.cancelled():
            await starting.result().close()
        # another one's answer comes after all that the first may still do
        await (await here.spawn("true")).wait()
        await until(lambda: not sleeping(place.root))

    place.run(test)


def sleeping(folder: Path) -> bool:
    """Whether a command that has written its number into `folder` still runs."""
    file = folder / "pid"
    return file.exists() and (text := file.read_text()) != "" and alive(int(text))


def test_a_command_has_no_descriptor_of_ours(place: Place) -> None:
    async def test(here: Executor) -> None:
        listener = Listener()
        await (await here.spawn(["ls", "/proc/self/fd"], on_output=listener.output)).wait()
        # the last is the folder that ls reads
        assert listener.text.split() == ["0", "1", "2", "3"]

    place.run(test)


def test_a_listener_that_is_stuck_does_not_save_the_command(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("local", "server", "kernel_command"):
        monkeypatch.setattr(f"jupyter_acp.kernel_exec.{module}._KILL_WITHIN", 0.5)

    async def test(here: Executor) -> None:
        stuck = asyncio.Event()

        async def listen(text: str, truncated: bool) -> None:
            stuck.set()
            await asyncio.Event().wait()

        command = await here.spawn("echo $$ > pid; echo x; exec sleep 60", on_output=listen)
        await stuck.wait()
        assert sleeping(place.root)
        await command.kill(grace=0.1)
        assert not sleeping(place.root)

    place.run(test)


@pytest.mark.skipif(sys.platform != "linux" or shutil.which("bwrap") is None, reason="needs bubblewrap")
def test_access_confines_commands_and_writes(place: Place) -> None:
    (place.root / "work").mkdir()
    access: list[Sandbox | None] = []

    async def test(here: Executor) -> None:
        async def tried() -> tuple[str, list[str]]:
            """What a command could write, and what a delegated write could."""
            command = await here.spawn("echo x > by_command; echo x > work/by_command", cwd=".", run="pipe")
            await command.wait()
            for path in ("by_call", "work/by_call"):
                with suppress(ExecutorError):
                    await here.write_text_file(path, "x")
            found = sorted(str(path.relative_to(place.root)) for path in place.root.rglob("by_*"))
            for path in place.root.rglob("by_*"):
                path.unlink()
            return command.output()[0], found

        def box(workspace: Path | None) -> Sandbox:
            return Sandbox(project=place.root, workspace=workspace)

        everything = ["by_call", "by_command", "work/by_call", "work/by_command"]
        access.append(None)
        assert await tried() == ("", everything)
        access.append(box(place.root / "work"))
        said, found = await tried()
        assert "Read-only" in said and found == ["work/by_call", "work/by_command"]
        access.append(box(None))
        assert (await tried())[1] == []
        with pytest.raises(ExecutorError, match="read-only access"):
            await here.write_text_file("a", "x")
        access.append(box(place.root.parent))
        for ask in (lambda: here.spawn("true"), lambda: here.write_text_file("a", "x")):
            with pytest.raises(PathOutside):
                await ask()
        access.append(None)
        assert await tried() == ("", everything)

    place.run(test, sandbox=lambda: access[-1])
