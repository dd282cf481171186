"""The first process of a sandbox: checks the workspace, then starts the command, and reports what became of it.

A program of its own (`sandbox` builds its argv), standard library only and little of that, for every command waits for
it. Bubblewrap makes 128+n of a signal, so the wait status goes another way: by the descriptor that the variable STATUS
names, which the command does not get. Whatever else were written there is no more than what a command says by ending.
Where it reports it is process 1: nothing inside can end it, and all that is inside ends with it.

Arguments: `check DEVICE:INODE FOLDER` or `-`, then `run` (start and report) or `exec` (become it), then the command.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # what `signal` is made of, which takes 4 ms to import
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:  # as `typing` has it, which takes its time
    from typing import NoReturn

STATUS = "JUPYTER_ACP_STATUS"
_CANNOT_RUN = 126


def main(argv: list[str]) -> NoReturn:
    """Check, start, report."""
    if argv[0] == "check":
        _, identity, folder, *argv = argv
        # a folder on the way could be replaced by a link while bubblewrap is at work; once it is mounted, nobody can
        try:
            now = os.stat(folder)
        except OSError as exc:
            _fail(f"the workspace is gone: {exc.strerror}")
        if f"{now.st_dev}:{now.st_ino}" != identity:
            _fail("the workspace was replaced while the sandbox was made")
    else:
        argv = argv[1:]
    how, *command = argv
    if how == "exec":
        _become(command)
    report = int(os.environ.pop(STATUS))
    os.set_inheritable(report, False)
    pid = os.fork()
    if pid == 0:
        # bubblewrap's processes are in a session without a terminal: the command leads its own, as without a sandbox
        if os.isatty(0):
            os.login_tty(0)
        else:
            os.setsid()
        _become(command)
    while (ended := os.wait())[0] != pid:
        pass  # what was left behind by something that ended
    code = os.waitstatus_to_exitcode(ended[1])
    try:  # noqa: SIM105  # contextlib would take its time
        os.write(report, b"%d\n" % code)
    except OSError:
        pass  # bubblewrap's own word has to do
    os._exit(code if code >= 0 else 128 - code)


def _become(argv: list[str]) -> NoReturn:
    for number in (_signal.SIGHUP, _signal.SIGINT, _signal.SIGTERM, _signal.SIGPIPE, _signal.SIGXFSZ):
        _signal.signal(number, _signal.SIG_DFL)
    try:
        os.execvp(argv[0], argv)
    except OSError as exc:
        _fail(f"{argv[0]}: {exc.strerror}")


def _fail(message: str) -> NoReturn:
    os.write(2, f"{message}\n".encode(errors="surrogateescape"))
    os._exit(_CANNOT_RUN)


if __name__ == "__main__":
    main(sys.argv[1:])
