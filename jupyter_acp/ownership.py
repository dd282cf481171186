"""Which of several coordinators a project belongs to: the one that claimed it last, until it lets go or dies.

Theory of operation. A claim is a random token in the database; the store compares it in each transaction, so an earlier
owner writes nothing more from the moment of a newer claim on, whether it has noticed or not. It notices by its first
refused commit, or by looking, every LOOK_SECONDS. An owner keeps a lock on a file that is named after its token: the
kernel releases it however the process ends, and that is how others know that a project is free again.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
from pathlib import Path

from .exceptions import StoreError
from .store import Store

LOOK_SECONDS = 2.0


class Ownership:
    """The claim of one coordinator on one project folder.

    Parameters
    ----------
    store
        Open while any of the methods runs.
    root
        Real path of the project's root.
    """

    def __init__(self, store: Store, root: str) -> None:
        self._store = store
        self._root = root
        self._token = secrets.token_hex(16)
        self._lock = -1

    async def take(self) -> None:
        """Claim the project. Whoever has it loses it at once."""
        path = _lock_file(self._store, self._token)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        self._lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        # Locked before anybody can know the token: nobody takes us for dead.
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        await self._store.claim(self._root, self._token)

    async def is_lost(self) -> bool:
        """Another coordinator has claimed the project since."""
        return await self._store.owner(self._root) != self._token

    async def release(self) -> None:
        """Let go: the project is free, unless another has claimed it."""
        with contextlib.suppress(StoreError):
            await self._store.release(self._root, self._token)
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1
        _lock_file(self._store, self._token).unlink(missing_ok=True)


async def is_taken(store: Store, root: str) -> bool:
    """A coordinator that is alive owns the project."""
    token = await store.owner(root)
    if token is None:
        return False
    path = _lock_file(store, token)
    try:
        lock = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        path.unlink(missing_ok=True)
        return False
    finally:
        os.close(lock)


def _lock_file(store: Store, token: str) -> Path:
    return store.path.parent / "owners" / f"{token}.lock"
