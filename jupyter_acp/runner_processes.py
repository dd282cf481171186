"""Starting an agent's process, finding everything that came of it, and ending that. Standard library only.

Its one rule: whatever an agent starts is found again, by parent, by session and by a variable that all of it inherits.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import signal
import sys
import time
from collections.abc import Callable

MARK = "JUPYTER_ACP_RUN"

_Process = tuple[int, int, float]
"""Parent, session (macOS: group), age in seconds."""


def _from_proc(mark: bytes | None) -> tuple[dict[int, _Process], set[int]]:
    table, marked = {}, set()
    now = time.clock_gettime(time.CLOCK_BOOTTIME)
    tick = os.sysconf("SC_CLK_TCK")
    uid = os.getuid()
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        # a process may end, or belong to someone else, at every step
        with contextlib.suppress(OSError):
            with open(f"/proc/{name}/stat", "rb", buffering=0) as file:
                fields = file.read().rpartition(b")")[2].split()
            if fields[0] in b"ZX":
                continue
            pid = int(name)
            table[pid] = (int(fields[1]), int(fields[3]), now - int(fields[19]) / tick)
            if mark is not None and uid in (0, os.stat(f"/proc/{name}").st_uid):
                with open(f"/proc/{name}/environ", "rb", buffering=0) as file:
                    if mark in b"\0" + file.read():
                        marked.add(pid)
    return table, marked


def _from_ps(mark: bytes | None) -> tuple[dict[int, _Process], set[int]]:
    table, marked = {}, set()
    show_env = "-E" if sys.platform == "darwin" else ""
    with os.popen(f"ps -A -ww {show_env} -o pid=,ppid=,pgid=,stat=,etime=,command=") as pipe:
        for line in pipe:
            pid, parent, group, state, elapsed, *command = line.split(None, 5)
            if state.startswith("Z"):
                continue
            age = 0
            days, _, clock = elapsed.rpartition("-")
            for part in clock.split(":"):
                age = age * 60 + int(part)
            table[int(pid)] = (int(parent), int(group), float(age + 86400 * int(days or 0)))
            if mark is not None and command and mark.strip(b"\0").decode() in command[0]:
                marked.add(int(pid))
    return table, marked


def tree(root: int | None, run: str | None, session: int | None = None) -> dict[int, float]:
    """Living processes of a run and their ages: below `root`, in `session`, marked with `run`, and all below those."""
    mark = None if run is None else f"\0{MARK}={run}\0".encode()
    table, found = _from_proc(mark) if os.path.isdir("/proc/self") else _from_ps(mark)
    found |= {pid for pid, (_, sid, _) in table.items() if session is not None and sid == session}
    if root is not None:
        found.add(root)
    children: dict[int, list[int]] = {}
    for pid, (parent, _, _) in table.items():
        children.setdefault(parent, []).append(pid)
    todo = list(found)
    while todo:
        for child in children.get(todo.pop(), ()):
            if child not in found:
                found.add(child)
                todo.append(child)
    found -= {os.getpid(), root or 0, 0, 1}
    return {pid: table[pid][2] for pid in found if pid in table}


def kill_all(find: Callable[[], set[int]], timeout: float = 2.0) -> int:
    """SIGKILL what `find` yields until it yields nothing more; how many processes that were."""
    killed: set[int] = set()
    untouchable: set[int] = set()
    give_up = time.monotonic() + timeout
    while (pids := find() - untouchable) and time.monotonic() < give_up:
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
                killed.add(pid)
            except ProcessLookupError:
                continue
            except PermissionError:
                untouchable.add(pid)
        time.sleep(0.002)  # the kernel takes them down on its own time; there is nothing to wait on for a non-child
    return len(killed)


def sweep(directory: str) -> None:
    """End what a runner left behind that died without its watcher, and remove its directory."""
    with contextlib.suppress(FileNotFoundError), open(os.path.join(directory, "run")) as file:
        run = file.read()
        kill_all(lambda: set(tree(None, run)))
    remove(directory)


def remove(directory: str) -> None:
    """Remove the files of a runner, and the directory where nothing else is in it."""
    for name in ("runner.sock", "runner.pid", "agent.pid", "runner.log", "run"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(directory, name))
    with contextlib.suppress(OSError):
        os.rmdir(directory)


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def adopt_orphans() -> None:
    _prctl(36, 1)  # PR_SET_CHILD_SUBREAPER: a double fork below us stays below us


def end_with_parent(number: int) -> None:
    """Have a signal sent to us when the thread that started us ends (Linux)."""
    _prctl(1, number)  # PR_SET_PDEATHSIG


class CannotStart(Exception):
    """The agent's program cannot be run; the text is for the person."""


def start_agent(spec: dict[str, object], run: str, umask: int) -> tuple[int, int, int, int]:
    """Fork and exec. Returns pid, stdin, stdout and stderr, or raises CannotStart."""
    argv, env, cwd = spec["argv"], spec["env"], spec["cwd"]
    assert isinstance(argv, list) and isinstance(env, dict) and isinstance(cwd, str)
    pipes = [os.pipe() for _ in range(4)]
    (in_r, in_w), (out_r, out_w), (err_r, err_w), (fail_r, fail_w) = pipes
    with contextlib.suppress(OSError, AttributeError):
        fcntl.fcntl(out_r, fcntl.F_SETPIPE_SZ, 1 << 20)
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        stage = "cwd"
        try:
            os.setsid()
            _prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: a runner that is killed takes the agent along
            if os.getppid() != parent:
                os._exit(1)
            for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGPIPE, signal.SIGCHLD):
                signal.signal(number, signal.SIG_DFL)
            os.umask(umask)
            os.chdir(cwd)
            for target, fd in enumerate((in_r, out_w, err_w)):
                os.dup2(fd, target)
            stage = "argv"
            os.execvpe(argv[0], argv, {**env, MARK: run})
        except OSError as exc:
            os.write(fail_w, json.dumps([stage, exc.errno]).encode())
        finally:
            os._exit(127)
    for fd in (in_r, out_w, err_w, fail_w):
        os.close(fd)
    failure = os.read(fail_r, 4096)
    os.close(fail_r)
    if failure:
        os.waitpid(pid, 0)
        stage, number = json.loads(failure)
        if stage == "cwd":
            raise CannotStart(f"the agent's folder {cwd} cannot be entered: {os.strerror(number)}")
        if number == errno.ENOENT:
            raise CannotStart(f"the agent's program was not found: {argv[0]}")
        raise CannotStart(f"the agent's program {argv[0]} cannot be run: {os.strerror(number)}")
    return pid, in_w, out_r, err_r
