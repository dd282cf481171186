"""Unix sockets, also at paths longer than the kernel takes (107 bytes, on macOS 103). Standard library only."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_SHORT = 100


async def connect(path: Path) -> socket.socket:
    """A connected socket that does not block. OSError."""
    sock = socket.socket(socket.AF_UNIX)
    sock.setblocking(False)
    try:
        with _short(path) as address:
            await asyncio.get_running_loop().sock_connect(sock, address)
    except BaseException:
        sock.close()
        raise
    return sock


def listen(path: Path, *, mode: int, backlog: int = 100) -> socket.socket:
    """A listening socket that does not block, put at `path` in one step and whole: one that is there is replaced."""
    beside = path.with_name(f".{secrets.token_hex(4)}")
    sock = socket.socket(socket.AF_UNIX)
    try:
        with _short(beside) as address:
            sock.bind(address)
        beside.chmod(mode)
        sock.listen(backlog)
        sock.setblocking(False)
        os.replace(beside, path)
    except BaseException:
        sock.close()
        beside.unlink(missing_ok=True)
        raise
    return sock


@contextmanager
def _short(path: Path) -> Iterator[str]:
    if len(os.fsencode(path)) < _SHORT:
        yield str(path)
        return
    with tempfile.TemporaryDirectory(prefix="acp", dir="/tmp") as folder:
        os.symlink(path.parent.absolute(), f"{folder}/d")
        yield f"{folder}/d/{path.name}"
