"""Real runners, real agents (small Python and shell programs), real kills."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import shutil
import signal
import socket
import stat
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from jupyter_acp.exceptions import AgentError
from jupyter_acp.runner import HEADER, INPUT
from jupyter_acp.runner_link import LaunchSpec, RunnerLink, RunnerLost, TakenOver, launch
from jupyter_acp.runner_output import Output
from jupyter_acp.runner_processes import _from_ps, tree

pytestmark = pytest.mark.skipif(not sys.platform.startswith(("linux", "darwin")), reason="needs unix sockets and fork")
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

ECHO = "import sys\nfor line in sys.stdin.buffer:\n    sys.stdout.buffer.write(line)\n    sys.stdout.flush()\n"
DEAF = "import time\nprint('up', flush=True)\ntime.sleep(600)\n"


class Runners:
    """Launches runners in one folder, and ends them all."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.started: list[tuple[int, Path]] = []
        self.links: list[RunnerLink] = []

    async def launch(self, code: str, *args: str, argv: list[str] | None = None, **limits: Any) -> Path:
        directory = self.folder / f"r{len(self.started)}"
        env = {"PATH": os.environ["PATH"], **limits.pop("env", {})}
        spec = LaunchSpec(
            argv=argv or [sys.executable, "-I", "-S", "-c", code, *args],
            env=env,
            cwd=limits.pop("cwd", str(self.folder)),
            **limits,
        )
        pid = await launch(directory, spec)
        self.started.append((pid, directory))
        return directory

    async def attach(self, directory: Path, *, after: int = 0) -> RunnerLink:
        self.links.append(link := await RunnerLink.attach(directory, after=after))
        return link

    async def attached(self, code: str, *args: str, **limits: Any) -> RunnerLink:
        return await self.attach(await self.launch(code, *args, **limits))

    async def end(self) -> None:
        """Every link is closed; a runner goes with the last one that was attached to it."""
        for link in self.links:
            with contextlib.suppress(AgentError):
                await link.stop(0)
            await link.close()


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[[Callable[[Runners], Coroutine[Any, Any, None]]], None]]:
    """Run an async test body with a Runners; whatever it leaves is ended."""

    async def with_runners(body: Callable[[Runners], Coroutine[Any, Any, None]]) -> None:
        runners = Runners(tmp_path)
        try:
            async with asyncio.timeout(30):
                await body(runners)
        finally:
            await runners.end()

    yield lambda body: asyncio.run(with_runners(body))


async def read_until(link: RunnerLink, ends: Callable[[bytes], bool]) -> bytes:
    data = b""
    while not ends(data):
        chunk = await link.read()
        assert chunk is not None, f"the agent ended after {data!r}: {link.exit}"
        data += chunk
    return data


async def read_all(link: RunnerLink) -> bytes:
    chunks = []
    while (chunk := await link.read()) is not None:
        chunks.append(chunk)
    return b"".join(chunks)


async def gone(*pids: int) -> None:
    """Wait until each of these processes has ended (Linux)."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(5):
        for pid in pids:
            try:
                fd = os.pidfd_open(pid)
            except ProcessLookupError:
                continue
            ended = asyncio.Event()
            loop.add_reader(fd, ended.set)
            try:
                await ended.wait()
            finally:
                loop.remove_reader(fd)
                os.close(fd)


@linux
def test_lines_go_to_the_agent_and_come_back_and_the_directory_is_removed_at_the_end(run: Any) -> None:
    async def body(runners: Runners) -> None:
        directory = await runners.launch(ECHO)
        link = await runners.attach(directory)
        await link.send(1, b"hello\n")
        assert await read_until(link, lambda data: data.endswith(b"\n")) == b"hello\n"
        assert link.position == 6
        await link.stop(2.0)
        assert await link.read() is None
        assert link.exit is not None and (link.exit.code, link.exit.signal) == (0, None)
        await link.close()
        await gone(runners.started[0][0])
        assert not directory.exists()

    run(body)


def test_the_runner_is_no_child_of_ours_and_survives_hang_up(run: Any) -> None:
    async def body(runners: Runners) -> None:
        link = await runners.attached(ECHO)
        assert os.getsid(link.runner_pid) != os.getsid(0)
        assert os.getsid(link.agent_pid) == link.agent_pid
        parents = {pid: parent for pid, (parent, _, _) in _from_ps(b"")[0].items()}
        assert os.getpid() not in (parents[link.runner_pid], parents[parents[link.runner_pid]])
        os.kill(link.runner_pid, signal.SIGHUP)
        os.kill(link.runner_pid, signal.SIGINT)
        await link.send(1, b"still here\n")
        assert await link.read() == b"still here\n"

    run(body)


def test_after_a_lost_connection_reading_goes_on_at_the_stored_byte(run: Any) -> None:
    async def body(runners: Runners) -> None:
        lines = "".join(f"line {n} {'x' * 100}\\n" for n in range(3))
        directory = await runners.launch(f"import sys\nfor n in range(20000): sys.stdout.write('%d {lines}' % n)\n")
        link = await runners.attach(directory)
        first = await read_until(link, lambda data: len(data) > 3_000_000)
        link._protocol.abort()  # what a killed controller looks like: no acknowledgement, no farewell
        link = await runners.attach(directory, after=len(first))
        rest = await read_all(link)
        link = await runners.attach(directory)
        assert hashlib.sha256(await read_all(link)).digest() == hashlib.sha256(first + rest).digest()

    run(body)


def test_what_was_acknowledged_cannot_be_read_again_and_the_refusal_says_so(run: Any) -> None:
    async def body(runners: Runners) -> None:
        directory = await runners.launch(ECHO)
        link = await runners.attach(directory)
        await link.send(1, b"0123456789\n")
        await link.read()
        link.ack(5)
        await link.close()  # small steps are told at the latest here
        with pytest.raises(AgentError, match="held from 5 to 11, not from 0"):
            await runners.attach(directory)
        again = await runners.attach(directory, after=5)
        assert await again.read() == b"56789\n"

    run(body)


def test_a_message_that_is_sent_again_reaches_the_agent_once(run: Any) -> None:
    async def body(runners: Runners) -> None:
        directory = await runners.launch(ECHO)
        link = await runners.attach(directory)
        await link.send(1, b"one\n")
        await link.send(4, b"four\n")
        assert await read_until(link, lambda data: data.count(b"\n") == 2) == b"one\nfour\n"
        link = await runners.attach(directory, after=link.position)
        assert link.last_input == 4
        for number, text in ((1, b"one\n"), (4, b"four\n"), (5, b"five\n")):
            await link.send(number, text)
        assert await link.read() == b"five\n"

    run(body)


def test_a_newer_controller_takes_over_and_the_older_one_is_told(run: Any) -> None:
    async def body(runners: Runners) -> None:
        directory = await runners.launch(ECHO)
        old = await runners.attach(directory)
        reading = asyncio.create_task(old.read())
        new = await runners.attach(directory)
        with pytest.raises(TakenOver):
            await reading
        with pytest.raises(TakenOver):
            await old.send(1, b"from the old one\n")
        await new.send(1, b"from the new one\n")
        assert await new.read() == b"from the new one\n"
        await old.close()

    run(body)


def test_an_agent_that_never_reads_holds_up_neither_its_output_nor_stop(run: Any) -> None:
    async def body(runners: Runners) -> None:
        link = await runners.attached(DEAF)
        sending = asyncio.create_task(link.send(1, b"x" * (4 << 20)))
        assert await link.read() == b"up\n"
        assert await link.stderr_tail() == ""
        assert not sending.done()  # back-pressure
        await link.stop(0.1)
        await sending
        assert link.exit is not None and link.exit.signal == signal.SIGTERM

    run(body)


def test_an_agent_that_ignores_everything_is_killed_within_the_grace(run: Any) -> None:
    async def body(runners: Runners) -> None:
        link = await runners.attached("import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + DEAF)
        await link.read()
        before = time.monotonic()
        await link.stop(0.2)
        assert 0.4 <= time.monotonic() - before < 20  # it would run for minutes
        assert await link.read() is None
        assert link.exit is not None and (link.exit.code, link.exit.signal) == (None, signal.SIGKILL)

    run(body)


@linux
def test_the_exit_is_told_though_a_grandchild_holds_stdout(run: Any) -> None:
    async def body(runners: Runners) -> None:
        link = await runners.attached("", argv=["/bin/sh", "-c", "sleep 600 & echo $!; echo oh >&2; exit 7"])
        pid = int(await read_all(link))
        assert link.exit is not None and (link.exit.code, link.exit.stderr_tail) == (7, "oh\n")
        await gone(pid)

    run(body)


ESCAPES = """
import os, signal, subprocess, sys, time
clean = {"PATH": os.environ["PATH"]}
plain = subprocess.Popen(["sleep", "600"])
session = subprocess.Popen(["sleep", "600"], start_new_session=True, env=clean)
nohup = subprocess.Popen(["nohup", "sleep", "600"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
r, w = os.pipe()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.write(w, str(os.getpid()).encode())
        os.execvpe("sleep", ["sleep", "600"], clean)
    os._exit(0)
print(plain.pid, session.pid, nohup.pid, int(os.read(r, 20)), flush=True)
for line in sys.stdin: print("alive", flush=True)
time.sleep(600)
"""


@linux
def test_setsid_nohup_and_double_forked_grandchildren_are_gone_after_stop(run: Any) -> None:
    async def body(runners: Runners) -> None:
        link = await runners.attached(ESCAPES)
        pids = [int(pid) for pid in (await read_until(link, lambda data: b"\n" in data)).split()]
        await link.stop(0.1)
        await gone(*pids)

    run(body)


@linux
def test_commands_left_running_are_killed_and_the_agent_goes_on(run: Any) -> None:
    async def body(runners: Runners) -> None:
        link = await runners.attached(ESCAPES)
        pids = [int(pid) for pid in (await read_until(link, lambda data: b"\n" in data)).split()]
        assert await link.kill_descendants(younger_than=0) == 0
        assert await link.kill_descendants() == len(pids)
        await gone(*pids)
        await link.send(1, b"\n")
        assert await link.read() == b"alive\n"
        assert await link.kill_descendants() == 0

    run(body)


@linux
def test_a_killed_runner_takes_the_agent_and_its_whole_tree_along(run: Any) -> None:
    async def body(runners: Runners) -> None:
        link = await runners.attached(ESCAPES)
        pids = [int(pid) for pid in (await read_until(link, lambda data: b"\n" in data)).split()]
        os.kill(link.runner_pid, signal.SIGKILL)
        with pytest.raises(RunnerLost):
            await link.read()
        await gone(link.agent_pid, *pids)

    run(body)


@linux
def test_what_a_runner_and_its_watcher_left_is_ended_by_the_next_attach(run: Any) -> None:
    async def body(runners: Runners) -> None:
        directory = await runners.launch("import subprocess\nprint(subprocess.Popen(['sleep', '600']).pid)\n" + DEAF)
        link = await runners.attach(directory)
        pid = int((await read_until(link, lambda data: data.endswith(b"up\n"))).split()[0])
        watcher = int(Path(f"/proc/{link.runner_pid}/stat").read_text().rpartition(")")[2].split()[1])
        os.kill(watcher, signal.SIGKILL)
        os.kill(link.runner_pid, signal.SIGKILL)
        await gone(link.runner_pid)
        with pytest.raises(RunnerLost):
            await runners.attach(directory)
        await gone(pid, link.agent_pid)
        assert not directory.exists()

    run(body)


@linux
def test_output_above_the_memory_limit_is_spooled_to_disk_and_comes_back_whole(run: Any) -> None:
    async def body(runners: Runners) -> None:
        code = "import sys,hashlib\nd=__import__('os').urandom(20 << 20)\nsys.stdout.buffer.write(d)\n"
        code += "sys.stderr.write(hashlib.sha256(d).hexdigest())\n"
        directory = await runners.launch(code, memory_limit=1 << 20, ahead_limit=1 << 40)
        link = await runners.attach(directory)
        while link.exit is None:  # read nothing: the window is all that comes
            await link._protocol.changed()
        assert sum(map(len, link._protocol.chunks)) <= 1 << 20
        spooled = sum(path.stat().st_size for path in Path(f"/proc/{link.runner_pid}/fd").iterdir() if _spool(path))
        assert spooled > 18 << 20
        resident = int(Path(f"/proc/{link.runner_pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        assert resident < 32 << 20
        data = await read_all(link)
        assert hashlib.sha256(data).hexdigest() == link.exit.stderr_tail

    run(body)


def _spool(path: Path) -> bool:
    try:
        return "spool-" in os.readlink(path)
    except OSError:
        return False


HELD_BACK = """
import os, select, sys
os.set_blocking(1, False)
todo = 8_000_000
while todo:
    if not select.select([], [1], [], 0.3)[1]:
        print("held back at", 8_000_000 - todo, file=sys.stderr, flush=True)
        select.select([], [1], [])
    todo -= os.write(1, b"x" * min(todo, 65536))
"""


def test_a_full_spool_holds_the_agent_back_until_output_is_acknowledged(run: Any) -> None:
    async def body(runners: Runners) -> None:
        link = await runners.attached(HELD_BACK, memory_limit=1 << 20, spool_limit=1 << 20)
        while not (said := await link.stderr_tail()):
            pass
        # both limits, what one read may add, and the pipe
        assert 2 << 20 <= int(said.split()[-1]) <= (3 << 20) + (256 << 10)
        total = 0
        while (chunk := await link.read()) is not None:
            total += len(chunk)
            link.ack(total)
        assert total == 8_000_000

    run(body)


def test_a_flood_on_stderr_is_drained_and_its_end_is_kept(run: Any) -> None:
    async def body(runners: Runners) -> None:
        link = await runners.attached(
            "import sys\nsys.stderr.write('x' * (10 << 20))\nsys.stderr.write('the end')\nsys.exit(3)\n"
        )
        assert await read_all(link) == b""
        assert link.exit is not None and link.exit.code == 3
        assert len(link.exit.stderr_tail) == 64 << 10
        assert link.exit.stderr_tail.endswith("the end")

    run(body)


@pytest.mark.parametrize(
    ("argv", "cwd", "message"),
    [
        (["no-such-agent", "--acp"], None, "the agent's program was not found: no-such-agent"),
        (["/etc/passwd"], None, "the agent's program /etc/passwd cannot be run: Permission denied"),
        (["/bin/sh"], "/no/such/folder", "the agent's folder /no/such/folder cannot be entered"),
    ],
)
def test_launch_says_clearly_why_an_agent_cannot_start(
    run: Any, argv: list[str], cwd: str | None, message: str
) -> None:
    async def body(runners: Runners) -> None:
        with pytest.raises(AgentError, match=message):
            await runners.launch("", argv=argv, cwd=cwd or str(runners.folder))
        assert not list(runners.folder.iterdir())

    run(body)


def test_a_stranger_who_sends_garbage_is_dropped_and_the_controller_is_not_disturbed(run: Any) -> None:
    async def body(runners: Runners) -> None:
        directory = await runners.launch(ECHO)
        link = await runners.attach(directory)
        for garbage in (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", os.urandom(4096), HEADER.pack(INPUT, 9, 5) + b"evil\n"):
            reader, writer = await asyncio.open_unix_connection(str(directory / "runner.sock"))
            writer.write(garbage)
            with contextlib.suppress(ConnectionError):  # closed with bytes unread: dropped as well
                assert await reader.read() == b""
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
        with contextlib.ExitStack() as silent:
            for _ in range(40):
                silent.enter_context(socket.socket(socket.AF_UNIX)).connect(str(directory / "runner.sock"))
            await link.send(1, b"fine\n")
            assert await link.read() == b"fine\n"

    run(body)


def test_only_the_owner_can_reach_the_runner(run: Any) -> None:
    async def body(runners: Runners) -> None:
        directory = await runners.launch(ECHO)
        await runners.attach(directory)
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        assert {stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()} == {0o600}

    run(body)


@linux
def test_the_agent_gets_the_given_environment_only_and_no_command_line_shows_it(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERVER_SECRET", "s3rver")

    async def body(runners: Runners) -> None:
        code = "import os,sys\nprint(sorted(k for k in os.environ if k != 'LC_CTYPE'), oct(os.umask(0)), os.getcwd())\n"
        old = os.umask(0o027)
        try:
            link = await runners.attached(code + DEAF, env={"API_KEY": "agent-k3y"})
        finally:
            os.umask(old)
        said = await read_until(link, lambda data: data.endswith(b"up\n"))
        assert said.splitlines()[0].decode() == f"['API_KEY', 'JUPYTER_ACP_RUN', 'PATH'] 0o27 {runners.folder}"
        for file in ("cmdline", "environ"):
            seen = Path(f"/proc/{link.runner_pid}/{file}").read_bytes()
            assert b"k3y" not in seen and b"s3rver" not in seen

    run(body)


def test_a_path_too_long_for_a_socket_is_no_obstacle(run: Any) -> None:
    async def body(runners: Runners) -> None:
        runners.folder = runners.folder / ("long" * 30)
        runners.folder.mkdir()
        link = await runners.attached(ECHO)
        await link.send(1, b"hi\n")
        assert await link.read() == b"hi\n"

    run(body)


@linux
def test_a_farewell_is_heard_though_output_was_still_on_its_way(run: Any) -> None:
    async def body(runners: Runners) -> None:
        directory = await runners.launch("print('x' * 5_000_000)", ahead_limit=1 << 40)
        link = await runners.attach(directory)
        while link.exit is None:
            await link._protocol.changed()
        for _ in range(3):
            link = await runners.attach(directory)
            await link.stderr_tail()
            await link.close()
        link = await runners.attach(directory)
        await link.stop()
        await link.close()
        await gone(link.runner_pid)

    run(body)


@linux
def test_exit_and_unread_output_wait_for_a_controller(run: Any) -> None:
    async def body(runners: Runners) -> None:
        directory = await runners.launch("print('last words')")
        link = await runners.attach(directory)
        assert await read_all(link) == b"last words\n"
        await link.close()  # nothing was acknowledged
        link = await runners.attach(directory)
        assert await read_all(link) == b"last words\n"
        link.ack(link.position)
        await link.close()
        await gone(link.runner_pid)
        with pytest.raises(RunnerLost):
            await runners.attach(directory)

    run(body)


@linux
def test_an_agent_without_a_controller_is_ended_after_the_idle_timeout(run: Any) -> None:
    async def body(runners: Runners) -> None:
        directory = await runners.launch(ECHO, idle_timeout=0.1)
        await gone(runners.started[0][0])
        assert not directory.exists()

    run(body)


@linux
def test_a_runner_that_nobody_can_find_any_more_ends_with_its_agent(run: Any) -> None:
    async def body(runners: Runners) -> None:
        directory = await runners.launch(DEAF)
        link = await runners.attach(directory)
        shutil.rmtree(directory)
        await link.close()
        await gone(link.runner_pid, link.agent_pid)

    run(body)


@linux
def test_a_launch_that_is_given_up_leaves_nothing_running(run: Any, tmp_path: Path) -> None:
    async def body(runners: Runners) -> None:
        launching = asyncio.create_task(runners.launch(DEAF))
        await asyncio.sleep(0)
        launching.cancel()
        with pytest.raises(asyncio.CancelledError):
            await launching
        await gone(*(pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if _works_in(pid, tmp_path)))
        assert not (tmp_path / "r0").exists()

    run(body)


def _works_in(pid: int, folder: Path) -> bool:
    with contextlib.suppress(OSError):
        return pid != os.getpid() and os.readlink(f"/proc/{pid}/cwd").startswith(str(folder))
    return False


@linux
def test_a_terminated_runner_ends_its_agent_first(run: Any) -> None:
    async def body(runners: Runners) -> None:
        link = await runners.attached(DEAF)
        os.kill(link.runner_pid, signal.SIGTERM)
        assert await read_all(link) in (b"", b"up\n")
        await gone(link.runner_pid, link.agent_pid)

    run(body)


def test_a_full_disk_makes_the_output_full_and_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    output = Output(100, 10_000)
    output.append(b"a" * 100)

    def no_space(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", no_space)
        output.append(b"b" * 60)
    assert output.full
    assert output.read(0, 1000) == b"a" * 100 + b"b" * 60
    output.ack(160)
    assert not output.full
    output.append(b"c" * 50)
    output.append(b"d" * 80)
    assert output.read(160, 1000) == b"c" * 50 + b"d" * 80
    output.ack(output.end)


def test_ps_finds_the_same_processes_where_there_is_no_proc() -> None:
    table, _ = _from_ps(b"\0NO_SUCH_MARK=1\0")
    assert table[os.getpid()][0] == os.getppid()
    assert table[os.getpid()][2] >= 0
    assert os.getpid() not in tree(None, "no such run")
