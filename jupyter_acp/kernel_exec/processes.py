"""Everything that a command has started, and its end.

Found by an inherited variable, so that setsid and double forks do not hide a process; on Linux through /proc,
elsewhere only the command's own process group.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import NamedTuple

MARKER = "JUPYTER_ACP_EXEC"


class _Process(NamedTuple):
    pid: int
    parent: int
    session: int


def kill_tree(identity: str, leader: int | None, number: signal.Signals) -> int:
    """Send a signal to all processes of the command; how many there were.

    `leader` is the command's own process, or None once it was waited for. Blocking (reads /proc): call it off the
    loop, and again until it says 0: a process may have been started meanwhile.
    """
    if sys.platform == "linux":
        pids = _tree(f"{MARKER}={identity}".encode(), leader)
        return sum(_send(os.kill, pid, number) for pid in pids)
    else:
        return 0 if leader is None else _send(os.killpg, leader, number)


def _send(kill: Callable[[int, int], None], target: int, number: int) -> int:
    try:
        kill(target, number)
    except (ProcessLookupError, PermissionError):  # gone meanwhile; become another user's
        return 0
    return 1


def _tree(marker: bytes, leader: int | None) -> set[int]:
    processes = list(_living())
    tree = {p.pid for p in processes if p.session == leader or _is_marked(p.pid, marker)}
    size = -1
    while size != len(tree):  # children that cleared their environment
        size = len(tree)
        tree |= {p.pid for p in processes if p.parent in tree}
    return tree - {os.getpid()}


def _living() -> Iterator[_Process]:
    for name in os.listdir("/proc"):
        if name.isdigit():
            with suppress(OSError):  # gone meanwhile
                with open(f"/proc/{name}/stat", "rb") as file:
                    # the name in parentheses may hold anything, so count from the last one
                    state, parent, _group, session = file.read().rpartition(b")")[2].split()[:4]
                if state not in (b"Z", b"X"):
                    yield _Process(int(name), int(parent), int(session))


def _is_marked(pid: int, marker: bytes) -> bool:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return marker in file.read().split(b"\0")
    except OSError:  # gone meanwhile, or another user's
        return False
