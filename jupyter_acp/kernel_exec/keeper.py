"""The process that the commands of one executor are started by, so that none of what they start gets away.

Standard library only, without the package around it (as `runner`); `spawner` is the other end. For each command it
forks a *keeper*, the parent of the command and of every process that the command leaves behind (a double fork below
a keeper stays below it, whatever became of its session and its environment). Where the server is gone, so is all of it.
To fork takes as long as the rest together, so the keeper of the next command is there before it is asked for, and takes
the request itself.

A request on stdin, a unix socket, is HEADER (size), with three descriptors beside it: the command's folder, its
terminal or the pipe of its output, and where its keeper reports; and JSON `{argv, env, reports}`. The report: one JSON
line `{pid, keeper}` or `{error}`, one `{status}`, and the end of the file once nothing of the command is left.
`reports`: the argv is that of a sandbox, in which `inside` starts the command and says how that ended.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import signal
import socket
import struct

from jupyter_acp.kernel_exec.inside import STATUS
from jupyter_acp.runner_processes import adopt_orphans, end_with_parent, kill_all, tree

START = """import sys, types
for name in ("jupyter_acp", "jupyter_acp.kernel_exec"):
    package = sys.modules[name] = types.ModuleType(name)
    package.__path__ = [sys.argv[1] + name[len("jupyter_acp"):].replace(".", "/")]
from jupyter_acp.kernel_exec.keeper import main
main()"""
"""What `python -I -S -E -c` runs, with the folder of the package."""

HEADER = struct.Struct(">I")
_TAKEN, _GONE = b"+", b"-"
_START = 0.02  # seconds until the next keeper is made all the same: to fork takes a core from a command that starts
_DEFAULT = (signal.SIGPIPE, signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main() -> None:
    """Serve requests until the server is gone."""
    adopt_orphans()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # keepers are reaped by the kernel
    connection = socket.socket(fileno=0)
    while _serve_one(connection):
        pass
    kill_all(lambda: set(tree(os.getpid(), None)), timeout=10.0)


def _serve_one(connection: socket.socket) -> bool:
    """Have a keeper take the next request, and return once it has; False where the server is gone."""
    taken, took = os.pipe()
    us = os.getpid()
    try:
        if os.fork() == 0:
            _wait(connection, us, took)
    except OSError as exc:  # too many processes: the request has to be heard all the same
        os.close(took)
        os.close(taken)
        return _refuse_one(connection, exc)
    os.close(took)
    said = os.read(taken, 1)
    select.select([taken], [], [], _START)
    os.close(taken)
    return said != _GONE  # nothing is said by one that was killed


def _wait(connection: socket.socket, parent: int, took: int) -> None:
    """In a keeper: wait for a request, then be its command's keeper."""
    try:
        end_with_parent(signal.SIGKILL)  # the server must notice that nobody takes its requests any more
        if os.getppid() != parent:
            return
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        adopt_orphans()
        request = _request(connection)
        if request is None:
            os.write(took, _GONE)
            return
        end_with_parent(0)
        os.dup2(os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC), connection.detach())
        os.write(took, _TAKEN)
        spec, (folder, output, report) = request
        _keep(spec, folder, output, report, took)
    finally:
        os._exit(0)


def _refuse_one(connection: socket.socket, why: OSError) -> bool:
    """As `_serve_one`, without a keeper."""
    request = _request(connection)
    if request is None:
        return False
    _, descriptors = request
    with contextlib.suppress(BrokenPipeError):
        os.write(descriptors[2], json.dumps({"error": os.strerror(why.errno or 0)}).encode() + b"\n")
    for descriptor in descriptors:
        os.close(descriptor)
    return True


def _request(connection: socket.socket) -> tuple[dict[str, object], list[int]] | None:
    try:
        head, descriptors, _flags, _address = socket.recv_fds(connection, HEADER.size, 3)
        if len(head) < HEADER.size:
            return None
        left = HEADER.unpack(head)[0]
        data = bytearray()
        while left > len(data):
            if not (piece := connection.recv(left - len(data))):
                return None
            data += piece
    except OSError:
        return None
    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)  # as it is not of itself, where it was received
    return json.loads(data), descriptors


def _keep(spec: dict[str, object], folder: int, output: int, report: int, took: int) -> None:
    """Start the command and wait for it and all that it leaves behind. `took` is closed once it has started."""
    with open(report, "w", buffering=1) as out:
        inside, told = os.pipe()
        for descriptor in (inside, told):
            os.set_blocking(descriptor, False)
        pid, error = _start(spec, folder, output, told)
        for descriptor in (folder, output, told):
            os.close(descriptor)
        if error:
            out.write(json.dumps({"error": error}) + "\n")
            return
        try:
            out.write(json.dumps({"pid": pid, "keeper": os.getpid()}) + "\n")
        except BrokenPipeError:  # who asked for it is gone, and nobody else will ever know of it
            kill_all(lambda: set(tree(os.getpid(), None)), timeout=10.0)
        os.close(took)
        with contextlib.suppress(ChildProcessError):
            while True:
                ended, status = os.wait()
                if ended == pid:
                    code = _code(status, inside if spec["reports"] else None)
                    with contextlib.suppress(BrokenPipeError):  # let go of
                        out.write(json.dumps({"status": code}) + "\n")


def _code(status: int, inside: int | None) -> int:
    """Exit status or negated signal; of a sandbox what `inside` has told, for bubblewrap makes 128+n of a signal."""
    code = os.waitstatus_to_exitcode(status)
    if inside is None:
        return code
    try:
        told = int(os.read(inside, 1 << 16).split()[-1])
    except (BlockingIOError, IndexError, ValueError):
        told = 1 << 16
    if -signal.NSIG < told < 256:
        return told
    # it did not come to tell: it did not begin, or was killed
    return 128 - code if code > 128 else code


def _start(spec: dict[str, object], folder: int, output: int, told: int) -> tuple[int, str]:
    """Start it. The pid and no error, or an error for the person. `told` is where a sandbox reports."""
    argv, env = spec["argv"], spec["env"]
    assert isinstance(argv, list) and isinstance(env, dict)
    if not spec["reports"] and not os.isatty(output):
        return _spawn(argv, env, folder, output)
    failed, failure = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            boxed = spec["reports"]
            for number in _DEFAULT:
                # bubblewrap would end all at once by what the command has a use for
                signal.signal(number, signal.SIG_IGN if boxed else signal.SIG_DFL)
            os.fchdir(folder)
            if os.isatty(output) and not boxed:
                os.login_tty(output)  # a session of its own, with the terminal as its stdin, stdout and stderr
            else:
                os.setsid()
                if os.isatty(output):
                    os.dup2(output, 0)  # else it stays /dev/null
                os.dup2(output, 1)
                os.dup2(output, 2)
            if boxed:
                os.set_inheritable(told, True)
                env[STATUS] = str(told)
            os.execvpe(argv[0], argv, env)
        except OSError as exc:
            os.write(failure, str(exc.errno or 0).encode())
        except BaseException:
            os.write(failure, str(errno.EINVAL).encode())
        finally:
            os._exit(127)
    os.close(failure)
    reason = os.read(failed, 64)
    os.close(failed)
    if reason:
        os.waitpid(pid, 0)
        return pid, os.strerror(int(reason))
    return pid, ""


def _spawn(argv: list[str], env: dict[str, str], folder: int, output: int) -> tuple[int, str]:
    """As `_start`, of a command without terminal or sandbox: without a copy of this process, in half of the time."""
    os.fchdir(folder)  # of ours, who need none
    paths = argv[:1] if os.path.dirname(argv[0]) else [f"{place}/{argv[0]}" for place in os.get_exec_path(env)]
    error = errno.ENOENT
    for path in paths:
        if not os.path.exists(path):
            continue
        try:
            pid = os.posix_spawn(
                path,
                argv,
                env,
                file_actions=[(os.POSIX_SPAWN_DUP2, output, 1), (os.POSIX_SPAWN_DUP2, output, 2)],
                setsid=True,
                setsigdef=_DEFAULT,
            )
        except OSError as exc:
            error = exc.errno or errno.EINVAL
        else:
            os.chdir("/")
            return pid, ""
    return 0, os.strerror(error)
