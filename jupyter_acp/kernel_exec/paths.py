"""A project's root, and nothing that is not beneath it. Blocking; call it off the event loop.

The one rule: a path is never compared and then used. It is opened step by step from the root's descriptor, and what
was opened is what is used. On Linux `openat2(RESOLVE_BENEATH)` does this in one call; elsewhere, and for the links
that it refuses though they stay inside (absolute ones), we walk by hand with O_NOFOLLOW.
"""

from __future__ import annotations

import copy
import ctypes
import errno
import os
import secrets
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from jupyter_acp.exceptions import AcpError, ExecutorError, PathOutside
from jupyter_acp.kernel_exec.base import FileMissing

_O_PATH: int = getattr(os, "O_PATH", os.O_RDONLY)
_MAX_LINKS = 40
# what openat2 says when it is not there, may not be used, met a race, or an absolute link: the walk decides
_WALK_INSTEAD = frozenset({errno.ENOSYS, errno.EPERM, errno.EAGAIN, errno.EXDEV})


class Root:
    """The directory that a project may see.

    Parameters
    ----------
    path
        The directory. Absolute paths are understood in this spelling and with its symlinks resolved.
    openat2
        Use the system call where there is one.
    """

    def __init__(self, path: str | os.PathLike[str], *, openat2: bool = sys.platform == "linux") -> None:
        self.path = Path(os.path.realpath(path))
        self._spellings = [_parts(os.path.abspath(path)), _parts(str(self.path))]
        self._use_openat2 = openat2
        with _told(str(path)):
            self._fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def beneath(self, path: str) -> Root:
        """A directory of it as a root of its own, which is the caller's to close."""
        inner = copy.copy(self)
        with _told(path):
            inner._fd = self._open(path, os.O_RDONLY | os.O_DIRECTORY)
            inner.path = self.path.joinpath(*self._beneath(path))
        inner._spellings = [_parts(str(inner.path))]
        return inner

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def open_read(self, path: str) -> BinaryIO:
        """A regular file for reading; never waits for a FIFO or a device."""
        with _told(path):
            fd = self._open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
            try:
                if not stat.S_ISREG(os.fstat(fd).st_mode):
                    raise ExecutorError(f"{path}: not a regular file")
                return os.fdopen(fd, "rb")
            except BaseException:
                os.close(fd)
                raise

    @contextmanager
    def open_write(self, path: str) -> Iterator[BinaryIO]:
        """A file that takes the place of `path`, whole, when the block ends well; else nothing changes.

        Folders above it are created, its mode is kept, a link that stays inside is written through. Outside names
        of the same file (hard links) keep the old content.
        """
        with _told(path), self._locate(path, create=True) as (folder, name):
            mode, owner = _replaceable(folder, name)
            temporary = f".{secrets.token_hex(8)}.acp-tmp"
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            fd = os.open(temporary, flags, 0o666, dir_fd=folder)
            try:
                with os.fdopen(fd, "wb") as file:
                    if mode is not None:
                        os.fchmod(fd, mode)
                    _give(fd, owner)
                    yield file
                    file.flush()
                    os.fsync(fd)
                os.replace(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
            except BaseException:
                with suppress(FileNotFoundError):
                    os.unlink(temporary, dir_fd=folder)
                raise

    def set_executable(self, path: str, executable: bool) -> None:
        """Let those who may read a file run it, or nobody."""
        with self.open_read(path) as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            wanted = mode | (mode & 0o444) >> 2 if executable else mode & ~0o111
            if wanted != mode:
                os.fchmod(file.fileno(), wanted)

    def remove(self, path: str) -> None:
        """Remove a file, and the folders above it that are empty then; the root stays."""
        parts = self._beneath(path)
        with _told(path), self._locate(path) as (folder, name):
            os.unlink(name, dir_fd=folder)
        for depth in range(len(parts) - 1, 0, -1):
            with self._locate("/".join(parts[:depth])) as (folder, name):
                try:
                    os.rmdir(name, dir_fd=folder)
                except OSError:
                    return

    def stat(self, path: str) -> os.stat_result:
        """What is there, links followed."""
        with _told(path), self._locate(path) as (folder, name):
            return os.stat(name, dir_fd=folder, follow_symlinks=False)

    def link(self, path: str) -> str | None:
        """Where a symbolic link leads, as it says; None for anything else, and for nothing."""
        parts = self._beneath(path)
        if not parts or ".." in parts:
            return None
        with _told(path):
            try:
                folder = self._open("/".join(parts[:-1]) or ".", _O_PATH | os.O_DIRECTORY)
            except FileNotFoundError:
                return None
            try:
                return _link_target(folder, parts[-1])
            finally:
                os.close(folder)

    def open_directory(self, path: str | None = None) -> int:
        """The descriptor of a directory (the root by default), for a command to start in. The caller closes it."""
        with _told(path or "."):
            return self._open(path or ".", _O_PATH | os.O_DIRECTORY)

    def _open(self, path: str, flags: int) -> int:
        parts = self._beneath(path)
        if self._use_openat2:
            try:
                return _openat2(self._fd, "/".join(parts) or ".", flags | os.O_CLOEXEC)
            except OSError as exc:
                if exc.errno not in _WALK_INSTEAD:
                    raise
        with self._locate(path) as (folder, name):
            return os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)

    @contextmanager
    def _locate(self, path: str, *, create: bool = False) -> Iterator[tuple[int, str]]:
        """The opened folder and the name in it that `path` comes to, with every link on the way resolved by hand."""
        todo = self._beneath(path)[::-1]
        opened: list[int] = []  # the folders below the root that we stand in; `..` goes back along it, never up
        links = 0
        try:
            while todo:
                name = todo.pop()
                here = opened[-1] if opened else self._fd
                if name == "..":
                    if not opened:
                        raise PathOutside(f"{path}: outside of the project")
                    os.close(opened.pop())
                elif (target := _link_target(here, name)) is not None:
                    links += 1
                    if links > _MAX_LINKS:
                        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
                    if target.startswith("/"):
                        while opened:
                            os.close(opened.pop())
                    todo += self._beneath(target)[::-1]
                elif todo:
                    opened.append(_enter(here, name, create=create))
                else:
                    yield here, name
                    return
            yield (opened[-1] if opened else self._fd), "."
        finally:
            for fd in opened:
                os.close(fd)

    def _beneath(self, path: str) -> list[str]:
        """The steps from the root. `..` stays in: only an opened folder knows where it leads."""
        try:
            if b"\0" in os.fsencode(path):
                raise ExecutorError("a path cannot hold a NUL character")
        except UnicodeEncodeError as exc:
            raise ExecutorError("the path is not text") from exc
        parts = _parts(path)
        if not path.startswith("/"):
            return parts
        for spelling in self._spellings:
            if parts[: len(spelling)] == spelling:
                return parts[len(spelling) :]
        raise PathOutside(f"{path}: outside of the project")


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part not in ("", ".")]


def _link_target(folder: int, name: str) -> str | None:
    """Where a symlink leads; None for anything else, and for nothing."""
    try:
        return os.readlink(name, dir_fd=folder)
    except OSError as exc:
        if exc.errno in (errno.EINVAL, errno.ENOENT):
            return None
        raise


def _enter(folder: int, name: str, *, create: bool) -> int:
    made = False
    if create:
        with suppress(FileExistsError):
            os.mkdir(name, dir_fd=folder)
            made = True
    # a link put here since we looked is refused by O_NOFOLLOW
    flags = os.O_RDONLY if made and os.geteuid() == 0 else _O_PATH
    opened = os.open(name, flags | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    if made:
        _give(opened, _owner(os.fstat(folder)))
    return opened


def _owner(found: os.stat_result) -> tuple[int, int]:
    return found.st_uid, found.st_gid


def _give(fd: int, owner: tuple[int, int]) -> None:
    """Have what root makes in somebody's project belong to them, who could not change it else."""
    if os.geteuid() == 0 and owner != (0, 0):
        os.fchown(fd, *owner)


def _replaceable(folder: int, name: str) -> tuple[int | None, tuple[int, int]]:
    """Mode and owner of the regular file that is there; if there is nothing, None and the folder's owner."""
    try:
        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None, _owner(os.fstat(folder))
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(found.st_mode):
        raise ExecutorError("not a regular file")
    # replacing needs only the folder's permission; a file that is marked read-only is meant so
    if not os.access(name, os.W_OK, dir_fd=folder):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    return stat.S_IMODE(found.st_mode) & 0o777, _owner(found)


@contextmanager
def _told(path: str) -> Iterator[None]:
    """The system's errors in our words."""
    try:
        yield
    except AcpError:
        raise
    except FileNotFoundError as exc:
        raise FileMissing(f"{path}: no such file") from exc
    except OSError as exc:
        raise ExecutorError(f"{path}: {exc.strerror}") from exc


# openat2(2), Linux 5.6; the number is the same on every architecture that Python runs on
_SYS_OPENAT2 = 437
_RESOLVE_NO_MAGICLINKS = 0x02
_RESOLVE_BENEATH = 0x08


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def _openat2(folder: int, path: str, flags: int) -> int:
    how = _OpenHow(flags, 0, _RESOLVE_BENEATH | _RESOLVE_NO_MAGICLINKS)
    fd: int = _libc.syscall(
        ctypes.c_long(_SYS_OPENAT2),
        ctypes.c_int(folder),
        ctypes.c_char_p(os.fsencode(path)),
        ctypes.byref(how),
        ctypes.c_size_t(ctypes.sizeof(how)),
    )
    if fd < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return fd


_libc = ctypes.CDLL(None, use_errno=True)
