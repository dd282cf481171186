"""What was there at the last look at a project's files, and what differs from it now.

Theory of operation. The index is git's, of a shadow repository, and a copy of it in memory, which has also what git
does not keep for us: files that are too large, cannot be read, or are pipes or devices. What was taken into it and is
not credited yet is written down, so that it is still known after a crash.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import stat
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from jupyter_acp.events import encode

from .credit import Changes
from .shadow import Entry, GitFailed, Shadow

log = logging.getLogger(__name__)

#: stands for the mode of a file that is too large to be kept, cannot be read, or is a pipe or a device; its `blob` is
#: what tells one version from another
LARGE = "large"


class Index:
    """See the module. One call at a time, and each to its end: half of one would leave our copy unlike git's.

    `max_files` and `max_size` are those of `ChangeTracker`.
    """

    def __init__(self, shadow: Shadow, *, max_files: int, max_size: int) -> None:
        self._shadow = shadow
        self._max_files = max_files
        self._max_size = max_size
        self._entries: dict[str, Entry] | None = None
        # since when nothing was changed in a folder, by the monotonic clock in nanoseconds
        self._clean: dict[str, int] = {}

    def __contains__(self, path: str) -> bool:
        return self._entries is not None and path in self._entries

    @property
    def is_known(self) -> bool:
        """There was a look, and none has failed since."""
        return self._entries is not None

    def is_clean(self, scopes: Iterable[str], clock: int) -> bool:
        """Nothing was changed in these folders up to a moment of the monotonic clock."""
        return all(self._clean.get(scope, 0) > clock for scope in scopes)

    def forget(self) -> None:
        """A look has failed: what git has is read anew by the next one."""
        self._entries = None

    def credited(self) -> None:
        """What the newest look has found is known elsewhere."""
        self._taking.unlink(missing_ok=True)

    async def differing(self, before: int, scopes: list[str], named: Iterable[str]) -> tuple[Changes, set[str]]:
        """Take in what has changed before a moment beneath these scopes, or is `named`; and which paths changed later.

        What is given is written down until it is `credited`. GitFailed, OSError.
        """
        opened = await self._open()
        try:
            differing, later = await self._differing_now(before, scopes, named)
        except GitFailed:
            # something may have changed under its hands: once more, from what git has by now
            self.forget()
            opened |= await self._open()
            differing, later = await self._differing_now(before, scopes, named)
        return {**opened, **differing}, later

    async def _open(self) -> Changes:
        """Know the index; what was taken into it and not credited, before a crash or a failure."""
        if self._entries is not None:
            return {}
        self._entries = await self._shadow.open()
        with suppress(OSError, ValueError):
            large = json.loads(self._large.read_bytes())
            self._entries |= {path: Entry(LARGE, version) for path, version in large.items()}
        with suppress(OSError, ValueError, TypeError):
            taken = json.loads(self._taking.read_bytes())
            befores = {path: entry and Entry(*entry) for path, entry in taken.items()}
            return {
                p: (before, self._entries.get(p)) for p, before in befores.items() if self._entries.get(p) != before
            }
        return {}

    async def _differing_now(self, before: int, scopes: list[str], named: Iterable[str]) -> tuple[Changes, set[str]]:
        assert self._entries is not None
        clock = time.monotonic_ns()
        found = {*await self._shadow.changed(scopes), *(path for path in named if path in self._entries)}
        if len(found) + len(self._entries) > self._max_files:
            raise GitFailed(f"there are more than {self._max_files:,} files")
        sorted_out = await asyncio.to_thread(self._sort, found, before)
        paths = [path for path, entry in sorted_out.items() if entry is None]
        if paths:
            # should a crash come before these are credited
            befores = {path: (known := self._entries.get(path)) and [known.mode, known.blob] for path in paths}
            await asyncio.to_thread(self._taking.write_text, encode(befores))
        differing = await self.take(paths)
        for path, entry in sorted_out.items():
            if entry is not None and self._entries.get(path) != entry:
                differing[path] = (self._entries.get(path), entry)
                self._entries[path] = entry
        if any(LARGE in (entry and entry.mode for entry in pair) for pair in differing.values()):
            versions = {path: entry.blob for path, entry in self._entries.items() if entry.mode == LARGE}
            await asyncio.to_thread(self._large.write_text, encode(versions))
        later = found - sorted_out.keys()
        if not later:
            self._clean.update(dict.fromkeys(scopes, clock))
        return differing, later

    def _sort(self, paths: Iterable[str], at: int) -> dict[str, Entry | None]:
        """The paths that changed before `at`; with an entry for those that git cannot keep for us."""
        found: dict[str, Entry | None] = {}
        for path in paths:
            place = self._shadow.root / path
            if _changed(place) >= at:
                continue
            try:
                facts = place.lstat()
            except OSError:
                found[path] = None
                continue
            if stat.S_ISLNK(facts.st_mode):
                can_be_kept = True
            else:
                readable = stat.S_ISREG(facts.st_mode) and os.access(place, os.R_OK)
                can_be_kept = readable and facts.st_size <= self._max_size
            version = f"{facts.st_size}-{facts.st_mtime_ns}-{facts.st_ino}"
            found[path] = None if can_be_kept else Entry(LARGE, version)
        return found

    async def keep(self, path: str) -> None:
        """Take in a file also where git would ignore it."""
        if size_of(self._shadow.root / path) <= self._max_size:
            try:
                await self.take([path])
            except GitFailed as exc:
                log.warning("%s: %s", path, exc)

    async def take(self, paths: Sequence[str]) -> Changes:
        """Bring git's index and ours up to what is there; what differed."""
        if not paths or self._entries is None:
            return {}
        await self._shadow.take(paths)
        now = await self._shadow.entries(paths)
        differing: Changes = {}
        for path in paths:
            before, after = self._entries.pop(path, None), now.get(path)
            if after is not None:
                self._entries[path] = after
            if before != after:
                differing[path] = (before, after)
        return differing

    @property
    def _taking(self) -> Path:
        return self._shadow.folder / "taking.json"

    @property
    def _large(self) -> Path:
        return self._shadow.folder / "large.json"


def _changed(path: Path) -> int:
    """When what is at a path was changed, or for what has gone when that was at the latest, in nanoseconds."""
    while True:
        try:
            return path.lstat().st_ctime_ns
        except (FileNotFoundError, NotADirectoryError):
            if path == path.parent:
                return 0
            path = path.parent


def size_of(path: Path) -> int:
    """Bytes of a file; 0 where there is none."""
    try:
        return path.lstat().st_size
    except OSError:
        return 0
