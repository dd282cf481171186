"""Keys in files: read at each use, and only where nobody else can read them. Blocking; the files are small."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

from .exceptions import KeyUnusable

LONGEST: Final = 16 << 10  # bytes


def read_key(path: Path, purpose: str, project: Path) -> str:
    """The key in a file of this account that nobody else can read, outside of the project.

    KeyUnusable, which never quotes the key; `purpose` says what it is for.
    """
    path = path.expanduser()
    try:
        with path.open("rb") as file:
            facts = os.fstat(file.fileno())
            data = file.read(LONGEST + 1)
        if not stat.S_ISREG(facts.st_mode) or facts.st_uid != os.getuid() or facts.st_mode & 0o077:
            raise KeyUnusable(f"{path}: a key is in a file of this account that nobody else can read (chmod 0400)")
        if path.resolve().is_relative_to(project.resolve()):
            raise KeyUnusable(f"{path}: a key has no place in the project")
        key = data.decode().strip()
    except OSError as exc:
        raise KeyUnusable(f"{path}: the key for {purpose} cannot be read: {exc.strerror}") from exc
    except ValueError:  # its text would quote the key
        raise KeyUnusable(f"{path}: the key for {purpose} is no text") from None
    if not key or len(data) > LONGEST or not key.isprintable():
        raise KeyUnusable(f"{path}: the key for {purpose} is empty, too long, or more than one line")
    return key
