"""Follows the files of one project through its turns, and keeps what each turn has changed.

Theory of operation. The index (index.py) is what was there at the last look. A look takes place where a turn begins or
ends: what differs from the index is what changed since, and is credited (credit.py). A look takes some 20 ms and comes
a little late, when the agent works already: what has changed after the moment at which the turn began, by the time that
the file system gives it, is left for the next one. Where many turns begin or end at once, one look does for all that
asked for it before it began. At the end of a turn its files, before and after, become a record of git's.

What a turn has changed so far is written down at each look, so that it is still known after a crash.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import os
import sys
import time
from collections.abc import Collection, Coroutine, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from jupyter_acp.events import JsonObject, clean, encode
from jupyter_acp.exceptions import NotFound

from .credit import Changes, Moment, Touch, Turn, credit
from .index import LARGE, Index, size_of
from .report import FileChange, changes, shown
from .revert import check, put_back, with_both_names
from .shadow import Entry, GitFailed, Shadow

log = logging.getLogger(__name__)

UNKNOWN = "the server was stopped before it had looked at the files"
#: a moment that everything is before
EVER = 1 << 63
#: files of a turn whose changes are remembered as its agent tells them, should no look see them
REPORTED = 100
#: after a look that failed (git is missing, a folder is too large) the next is tried
AGAIN_SECONDS = 300.0

# The clock that file systems stamp files with, at the earliest. On Linux it is CLOCK_REALTIME_COARSE, which is some
# milliseconds behind; Python has no name for it.
_STAMPS = 5 if sys.platform == "linux" else time.CLOCK_REALTIME

Result = TypeVar("Result")


class ChangeTracker:
    """The changes of one project.

    Parameters
    ----------
    shadow
        Where contents are kept; its folder also holds what is written down here.
    max_files
        In a folder with more files than this nothing is compared.
    max_size
        Bytes of a file up to which its contents are kept; of a larger one only that it changed.
    missing
        Why nothing is compared, where that is not wanted.
    place
        The project's folder as its agents name it; by default as it is named here.
    """

    def __init__(
        self,
        shadow: Shadow,
        *,
        max_files: int = 20_000,
        max_size: int = 2 << 20,
        missing: str | None = None,
        place: str | None = None,
    ) -> None:
        self.shadow = shadow
        self._known_as = str(shadow.root) if place is None else place
        self._max_size = max_size
        self._one = asyncio.Lock()
        self._index = Index(shadow, max_files=max_files, max_size=max_size)
        self._looked: set[str] = set()
        # what the newest look has found and left to the next one
        self._later: set[str] = set()
        self._turns: dict[str, Turn] = {}
        self._saved: set[str] = set()
        #: why nothing can be compared; None where it can
        self.missing = missing
        self._again = 0.0 if missing is None else math.inf
        self._uncleaned = False

    # --- the life of a turn ------------------------------------------------------------------------------------------

    async def prepare(self, scope: str) -> None:
        """Look at a folder for the first time, which costs as much as it holds. Returns at once when that was done."""
        if not self.looked(scope):
            await self._alone(self._look(Moment(EVER, _now().clock), [scope]))

    def begin(self, name: str, scope: str) -> None:
        """A turn begins to work, now, in a folder of the project (relative to its root); `settle` follows soon."""
        self._turns[name] = Turn(scope, began=_now())

    async def settle(self) -> None:
        """Look at what was there when turns began. What is overwritten before that was not seen."""
        await self._alone(self._settle())

    def resume(self, name: str, scope: str) -> None:
        """A turn goes on that an earlier process has begun."""
        turn = self._turns[name] = Turn(scope)
        try:
            saved = json.loads(self._place(name).read_bytes())
            turn.delegated, turn.unsure = set(saved["delegated"]), set(saved["unsure"])
            turn.touched = {path: Touch.from_json(data) for path, data in saved["touched"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            turn.incomplete = UNKNOWN

    def call(self, name: str, data: JsonObject) -> None:
        """A tool call of a turn, as the log has it."""
        if turn := self._turns.get(name):
            # what an agent names no whole path of is in the folder that it works in
            named = [self.relative(os.path.join(turn.scope, path)) for path in _named(data)]
            turn.call(data, [path for path in named if path is not None])
            for path, before, after in _reported(data):
                name = self.relative(os.path.join(turn.scope, path)) or path
                is_small = len(before or "") + len(after) <= self._max_size
                if is_small and (name in turn.reported or len(turn.reported) < REPORTED):
                    turn.reports(name, before, after)

    async def writes(self, name: str, path: str) -> None:
        """A turn is about to have us write a file: what is there is kept, also where git would ignore it."""
        relative, turn = self.relative(path), self._turns.get(name)
        if turn is None or relative is None or self.missing is not None:
            return
        turn.wrote(relative)
        if self._index.is_known and relative not in self._index:
            await self._alone(self._index.keep(relative))

    def looked(self, scope: str) -> bool:
        """Whether a folder was looked at, or cannot be."""
        return scope in self._looked or self.missing is not None

    def saved(self, path: str) -> None:
        """A person has saved this file."""
        self._saved.add(path)

    async def end(self, name: str) -> list[FileChange]:
        """A turn has ended, at this moment; what it has changed, which is kept as the record `name`.

        Carried out to its end also where the caller has no time for it.
        """
        turn = self._turns.get(name)
        if turn is None:
            return []

        now = _now()

        async def end() -> list[FileChange]:
            try:
                await self._look_at_all(now, turn.delegated)
            finally:
                self._turns.pop(name, None)
            if turn.incomplete == UNKNOWN and await self.shadow.note(name) is not None:
                # a crash came between this record and that of the turn's end
                found = await changes(self.shadow, name)
            else:
                found = await self._record(name, turn)
            self._place(name).unlink(missing_ok=True)
            return found

        return await self._alone(end())

    def relative(self, path: str) -> str | None:
        """A path as it is named here; None for one outside."""
        inside = os.path.relpath(os.path.join(self._known_as, path), self._known_as)
        return None if inside == ".." or inside.startswith("../") else inside

    async def diff(self, name: str) -> JsonObject:
        """What a turn has changed, of one that runs up to now; see `report.shown`."""
        await self._alone(self._record_so_far(name, _now()))
        # not under the lock: notebooks take long, and turns that end would wait
        told = await shown(self.shadow, name)
        return told if self.shadow.is_made() else {**told, "incomplete": self.missing}

    async def _record_so_far(self, name: str, now: Moment) -> None:
        if (turn := self._turns.get(name)) is not None:
            await self._look_at_all(now, turn.delegated)
            await self._record(name, turn)

    async def revert(self, name: str, paths: Collection[str] | None = None) -> list[str]:
        """Bring files of a record back to what they were before the turn: all of them, or those named; which they were.

        All or nothing: Conflict, with the paths and why, where one was changed since, was shared with others (unless
        it is named), or was too large to be kept. NotFound for a record or a path that there is not.
        """
        return await self._alone(self._revert(name, paths, _now()))

    async def _revert(self, name: str, paths: Collection[str] | None, now: Moment) -> list[str]:
        note = await self.shadow.note(name)
        if note is None:
            raise NotFound("nothing is kept of what this turn has changed", "not_kept")
        before, after = await self.shadow.states(name)
        wanted = with_both_names(await changes(self.shadow, name), paths)
        states = {path: (before.get(path), after.get(path)) for path in wanted}
        shared = [path for path in note["shared"] if path in wanted and path not in (paths or ())]
        await self._look_at_all(now)  # what running turns have done is theirs, this is not
        contents = await check(self.shadow, states, shared=shared, large=note["large"])
        await asyncio.to_thread(put_back, self.shadow.root, contents)
        await self._index.take(sorted(wanted))
        return sorted(wanted)

    async def forget(self, session: str) -> None:
        """Remove the records of a session's turns that have ended; their contents go as soon as no turn runs."""
        with self._told("changes were not removed"):
            await self._alone(self._forget(prefix=f"{session}/"))

    async def keep_limits(self, *, days: float, size: int) -> None:
        """Remove records older than `days`, and the older half while all take more than `size` bytes; 0: no limit."""
        oldest = time.time() - days * 86400 if days > 0 else 0.0
        with self._told("old changes were not removed"):
            await self._alone(self._forget(until=oldest))
            while 0 < size < await asyncio.to_thread(_used, self.shadow.folder):
                made = sorted((await self.shadow.records()).values())
                if not made or self._turns:
                    break
                await self._alone(self._forget(until=made[len(made) // 2]))
            if not self._turns:
                await self._alone(self.shadow.pack())

    async def _forget(self, *, prefix: str = "", until: float = math.inf) -> None:
        records = await self.shadow.records(prefix)
        names = [name for name, made in records.items() if made <= until and name not in self._turns]
        if names or self._uncleaned:
            await self.shadow.forget(names, clean=not self._turns)
            self._uncleaned = bool(self._turns)

    @contextmanager
    def _told(self, what: str) -> Iterator[None]:
        try:
            yield
        except GitFailed as exc:
            log.warning("%s: %s: %s", self.shadow.root, what, exc)

    async def close(self) -> None:
        """Return once nothing is at work here."""
        async with self._one:
            pass

    # --- looks -------------------------------------------------------------------------------------------------------

    async def _settle(self) -> None:
        for name, turn in list(self._turns.items()):
            if (began := turn.began) is not None:
                # the first look holds the prompt back, so all that it finds was there before
                first = turn.scope not in self._looked
                await self._look(Moment(EVER, began.clock) if first else began, [turn.scope])
                turn.unsure = {path for path in self._later if turn.within(path)}
                turn.began = None
                turn.incomplete = self.missing
                self._write_down(name)

    async def _look_at_all(self, now: Moment, named: Iterable[str] = ()) -> None:
        """Credit all changes up to now, also of files that are `named` but ignored."""
        await self._settle()
        await self._look(Moment(EVER, now.clock), [], named)

    async def _look(self, until: Moment, scopes: Iterable[str], named: Iterable[str] = ()) -> None:
        """Credit what has changed before a moment, beneath these scopes and those of all turns."""
        if self.missing is not None and time.monotonic() < self._again:
            return
        everywhere = sorted({*scopes, *(turn.scope for turn in self._turns.values())})
        if not named and self._index.is_clean(everywhere, until.clock):
            # others have looked since, and credited all there was
            everywhere, self._later = [], set()
            differing: Changes = {}
        else:
            try:
                differing, self._later = await self._index.differing(until.stamp, everywhere, named)
            except (GitFailed, OSError) as exc:
                self._fail(str(exc))
                return
        self.missing = None
        self._looked.update(everywhere)
        credit([turn for turn in self._turns.values() if turn.began is None], differing, self._saved)
        self._saved.clear()
        for name, turn in self._turns.items():
            if turn.touched:
                self._write_down(name)
        if differing:
            self._index.credited()

    def _fail(self, reason: str) -> None:
        if self.missing != reason:
            log.warning("%s: changes of files are not followed: %s", self.shadow.root, reason)
        self.missing, self._again = reason, time.monotonic() + AGAIN_SECONDS
        self._index.forget()
        for turn in self._turns.values():
            turn.incomplete = reason

    # --- records -----------------------------------------------------------------------------------------------------

    async def _record(self, name: str, turn: Turn) -> list[FileChange]:
        touched = {path: touch for path, touch in turn.touched.items() if touch.before != touch.after}
        unseen = [path for path in turn.reported if self._is_unseen(path, turn)]
        if not self.shadow.is_made() or not (touched or unseen or turn.incomplete):
            return []
        note: JsonObject = {
            "shared": [path for path, touch in touched.items() if touch.shared],
            "delegated": sorted(turn.delegated),
            "large": {},
            "reported": {},
            "incomplete": turn.incomplete,
        }
        before: dict[str, Entry | None] = {}
        after: dict[str, Entry | None] = {}
        for path, touch in touched.items():
            if LARGE in (touch.before and touch.before.mode, touch.after and touch.after.mode):
                note["large"][path] = [touch.before and touch.before.blob, touch.after and touch.after.blob]
            else:
                before[path], after[path] = touch.before, touch.after
        try:
            for number, path in enumerate(unseen):
                place = f".acp/reported/{number}"  # where no file of the project is ever recorded
                note["reported"][place] = path
                before[place], after[place] = [
                    None if text is None else Entry("100644", await self.shadow.keep(clean(text).encode()))
                    for text in turn.reported[path]
                ]
            await self.shadow.record(name, before, after, note)
            return await changes(self.shadow, name)
        except GitFailed as exc:
            log.warning("turn %s: what it changed could not be kept: %s", name, exc)
            return []

    def _is_unseen(self, path: str, turn: Turn) -> bool:
        """Whether no look sees a file: it is outside of the project or of the turn's folder, or ignored."""
        before, after = turn.reported[path]
        if before == after or path in turn.touched:
            return False
        return path.startswith("/") or not turn.within(path) or path not in self._index

    def _write_down(self, name: str) -> None:
        if not self.shadow.is_made():
            return
        turn = self._turns[name]
        touched = {path: touch.to_json() for path, touch in turn.touched.items()}
        place = self._place(name)
        with suppress(OSError):  # needed only after a crash
            place.parent.mkdir(parents=True, exist_ok=True)
            temporary = place.with_suffix(".new")
            temporary.write_text(encode({"touched": touched, "delegated": [*turn.delegated], "unsure": [*turn.unsure]}))
            temporary.replace(place)

    def _place(self, name: str) -> Path:
        return self.shadow.folder / "turns" / f"{name.replace('/', '~')}.json"

    async def _alone(self, work: Coroutine[Any, Any, Result]) -> Result:
        """One thing at a time, and each to its end: half a look would leave our index unlike git's."""

        async def locked() -> Result:
            async with self._one:
                return await work

        return await asyncio.shield(asyncio.ensure_future(locked()))


def _now() -> Moment:
    return Moment(time.clock_gettime_ns(_STAMPS), time.monotonic_ns())


def _used(folder: Path) -> int:
    return sum(size_of(Path(where) / name) for where, _, names in os.walk(folder) for name in names)


def _reported(call: JsonObject) -> Iterator[tuple[str, str | None, str]]:
    """The diffs that a tool call shows, once it has ended well: path, old text (None: a new file), new text."""
    for item in call.get("content") or []:
        if call.get("status") == "completed" and isinstance(item, dict) and item.get("type") == "diff":
            path, before, after = item.get("path"), item.get("oldText"), item.get("newText")
            if isinstance(path, str) and isinstance(before, str | None) and isinstance(after, str):
                yield path, before, after


def _named(call: JsonObject) -> Iterator[str]:
    """The paths that a tool call names as its places, or shows a diff of."""
    for field in ("locations", "content"):
        for item in call.get(field) or []:
            if isinstance(item, dict) and isinstance(item.get("path"), str):
                yield item["path"]
