"""Whose change it was. Pure: no files, no clock.

Theory of operation. Time is cut into intervals, at each beginning and end of a turn in the project. What changed in an
interval is credited to the turns that ran in it: to the one that did run; of several to the only one that could have
done it by what its tool calls say; else to all, marked shared. What changed while none ran is a person's.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from jupyter_acp.events import JsonObject

from .shadow import Entry

#: calls of these kinds change nothing
_HARMLESS = frozenset({"read", "search", "think", "fetch", "switch_mode"})
#: and these change the files that they name
_NAMING = frozenset({"edit", "delete", "move"})


Changes: TypeAlias = dict[str, tuple[Entry | None, Entry | None]]
"""By path what was there and what is."""


class Touch(NamedTuple):
    """A file that a turn has changed. `shared`: others may have changed it too, in between or at the same time."""

    before: Entry | None
    after: Entry | None
    shared: bool = False

    def to_json(self) -> JsonObject:
        """As it is written down."""
        states = {
            name: entry and [entry.mode, entry.blob] for name, entry in (("before", self.before), ("after", self.after))
        }
        return {**states, "shared": self.shared}

    @classmethod
    def from_json(cls, data: JsonObject) -> Touch:
        """The inverse. KeyError, TypeError for anything else."""
        before, after = (data[name] and Entry(*data[name]) for name in ("before", "after"))
        return cls(before, after, bool(data["shared"]))


class Moment(NamedTuple):
    """By the clock that file systems stamp files with, and by the monotonic one; both in nanoseconds."""

    stamp: int
    clock: int


@dataclass(slots=True)
class Turn:
    """A running turn: where it may write, relative to the root, what it has changed so far, and what it does.

    `unsure` are files that were changed between its beginning and the look at it: what a person did to them just before
    is not known. `incomplete` is why not all that it changed is known; `began` is the moment from
    which on changes are credited, None once what was before it is sorted out.
    """

    scope: str
    touched: dict[str, Touch] = field(default_factory=dict)
    delegated: set[str] = field(default_factory=set)
    reported: dict[str, tuple[str | None, str]] = field(default_factory=dict)
    unsure: set[str] = field(default_factory=set)
    incomplete: str | None = None
    began: Moment | None = None
    _open: dict[str, frozenset[str] | None] = field(default_factory=dict)
    _named: set[str] = field(default_factory=set)
    _anything: bool = False

    def within(self, path: str) -> bool:
        """Whether a path is beneath the scope."""
        return self.scope == "." or path == self.scope or path.startswith(self.scope + "/")

    def call(self, data: JsonObject, paths: Iterable[str]) -> None:
        """A tool call, with the paths that it names: what it may be changing until it has ended."""
        kind, id = data.get("kind"), str(data.get("toolCallId"))
        if kind in _HARMLESS:
            self._open.pop(id, None)
            return
        named = frozenset(paths)
        claim = named if kind in _NAMING and named else None
        if data.get("status") in ("pending", "in_progress"):
            self._open[id] = claim
        else:
            self._open.pop(id, None)
        self._note(claim)

    def reports(self, path: str, before: str | None, after: str) -> None:
        """The agent says that it has changed this file, or a part of it; used where no look can see it."""
        first = self.reported.get(path, (before, after))[0]
        self.reported[path] = first, after

    def wrote(self, path: str) -> None:
        """It had us write this file."""
        self.delegated.add(path)
        self._named.add(path)

    def named(self, path: str) -> bool:
        """Whether its calls since the last `cut` say that they change this file."""
        return path in self._named

    def may_have(self, path: str) -> bool:
        """Whether its calls since the last `cut` can have changed this file."""
        return self._anything or path in self._named

    def cut(self) -> None:
        """An interval ends; calls that are still open go on in the next."""
        self._named.clear()
        self._anything = False
        for claim in self._open.values():
            self._note(claim)

    def _note(self, claim: frozenset[str] | None) -> None:
        if claim is None:
            self._anything = True
        else:
            self._named |= claim

    def _touch(self, path: str, before: Entry | None, after: Entry | None, shared: bool) -> None:
        shared = shared or path in self.unsure
        known = self.touched.get(path)
        if known is None:
            self.touched[path] = Touch(before, after, shared)
        else:
            self.touched[path] = known._replace(after=after, shared=known.shared or shared or known.after != before)


def credit(
    turns: Iterable[Turn],
    changes: Changes,
    saved: Collection[str] = (),
) -> None:
    """Give the changes of one interval to the turns that ran in it, and begin the next.

    What a person has `saved` meanwhile is theirs, and shared with the turns whose calls name it too.
    """
    running = list(turns)
    for path, (before, after) in changes.items():
        within = [turn for turn in running if turn.within(path)]
        if path in saved:
            able = [turn for turn in within if turn.named(path)]
        else:
            able = [turn for turn in within if turn.may_have(path)] or within
        for turn in able:
            turn._touch(path, before, after, len(able) > 1 or path in saved)
    for turn in running:
        turn.cut()
