"""What a record of a turn says, as people read it. Reads git's output; writes nothing."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeAlias

from jupyter_acp.events import JsonObject

from .shadow import Entries, Entry, Shadow

Change: TypeAlias = Literal["added", "modified", "deleted", "renamed"]

_NAMES: dict[str, Change] = {"A": "added", "D": "deleted", "R": "renamed"}
#: characters of unified diff of one file, and of all, that are shown
_FILE_LIMIT = 400_000
_LIMIT = 4_000_000


class FileChange(NamedTuple):
    """One file that a turn has changed.

    Attributes
    ----------
    path, old_path
        From the project's root; `old_path` where it was renamed.
    added, removed
        Lines. 0 for a file that is binary or too large.
    binary, large
        No text; too large to be kept. Neither has a diff, and what is `large` cannot be reverted.
    shared
        Somebody else may have changed it too, in between or at the same time.
    delegated
        The agent had us write it.
    reported
        Not seen: the agent says so, of a file that is ignored or outside, or of a part of it. Cannot be reverted.
    """

    path: str
    change: Change
    old_path: str | None = None
    added: int = 0
    removed: int = 0
    binary: bool = False
    large: bool = False
    shared: bool = False
    delegated: bool = False
    reported: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """Its paths, before and after."""
        return (self.path,) if self.old_path is None else (self.old_path, self.path)

    def to_json(self) -> JsonObject:
        """The data of `file_changed`: what is false is left out."""
        data: JsonObject = {"path": self.path, "change": self.change, "added": self.added, "removed": self.removed}
        if self.old_path is not None:
            data["old_path"] = self.old_path
        data |= {name: True for name in ("binary", "large", "shared", "reported") if getattr(self, name)}
        return {**data, "route": "delegated" if self.delegated else "agent"}


async def changes(shadow: Shadow, name: str) -> list[FileChange]:
    """The files of a record, by path."""
    note = await shadow.note(name)
    return [] if note is None else _marked(note, await _differing(shadow, name))


async def _differing(shadow: Shadow, name: str) -> list[FileChange]:
    """As git tells them, in its order."""
    return _parsed(await shadow.difference(name, "-z", "--raw", "--numstat"))


def _marked(note: JsonObject, differing: Sequence[FileChange]) -> list[FileChange]:
    """What git tells and the note adds, by path."""
    found = list(differing)
    for path, (before, after) in note["large"].items():
        change: Change = "added" if before is None else "deleted" if after is None else "modified"
        found.append(FileChange(path=path, change=change, large=True))
    shared, delegated, reported = set(note["shared"]), set(note["delegated"]), note["reported"]
    marked = [
        file._replace(
            path=reported.get(file.path, file.path),
            reported=file.path in reported,
            shared=file.path in shared or file.old_path in shared,
            delegated=file.path in delegated or file.old_path in delegated,
        )
        for file in found
    ]
    return sorted(marked, key=lambda file: file.path)


async def shown(shadow: Shadow, name: str) -> JsonObject:
    """A record as the interface gives it: `{files, added, removed, incomplete}`.

    A file is what `FileChange.to_json` says and `diff`, the unified diff, empty where there is none to show, with
    `truncated` where its end is left out; a notebook has also `cells` (notebooks.py). Its `state` is `applied` where
    it is as the turn left it, `reverted` where it is as before the turn, else `changed`.
    """
    note = await shadow.note(name)
    if note is None:
        return {"files": [], "added": 0, "removed": 0, "incomplete": None}
    differing = await _differing(shadow, name)
    files = _marked(note, differing)
    texts = await _texts(shadow, name, note, differing)
    before, after = await shadow.states(name)
    now = await shadow.now({path for file in files if not (file.large or file.reported) for path in file.names})
    told: dict[str, JsonObject] = {}
    for file in files:
        text, truncated = texts.get(file.path, ("", False))
        state = "applied" if file.large or file.reported else _state(file, before, after, now)
        cut = {"truncated": True} if truncated else {}
        told[file.path] = {**file.to_json(), "diff": text, **cut, "state": state}
    books = [file for file in files if file.path.endswith(".ipynb") and not (file.large or file.reported)]
    if books:
        from .notebooks import cells  # seldom wanted

        pairs = [
            (await _text(shadow, before.get(file.old_path or file.path)), await _text(shadow, after.get(file.path)))
            for file in books
        ]
        for file, found in zip(books, await cells(pairs), strict=True):
            if found is not None:
                told[file.path]["cells"] = found
    return {
        "files": list(told.values()),
        "added": sum(file.added for file in files),
        "removed": sum(file.removed for file in files),
        "incomplete": note["incomplete"],
    }


def _state(file: FileChange, before: Entries, after: Entries, now: Entries) -> str:
    """What has become of a file since."""
    if all(now[path] == after.get(path) for path in file.names):
        return "applied"
    return "reverted" if all(now[path] == before.get(path) for path in file.names) else "changed"


async def _text(shadow: Shadow, entry: Entry | None) -> str | None:
    return None if entry is None else (await shadow.contents(entry.blob)).decode(errors="replace")


async def _texts(
    shadow: Shadow, name: str, note: JsonObject, differing: Sequence[FileChange]
) -> dict[str, tuple[str, bool]]:
    """The unified diff of each file by its (new) path, and whether its end was cut off."""
    reported = note["reported"]
    patches = _split(await shadow.difference(name, "--patch"))
    found: dict[str, tuple[str, bool]] = {}
    left = _LIMIT
    for file, patch in zip(differing, patches, strict=True):
        text = patch.decode(errors="replace")
        if file.path in reported:
            text = text.replace(file.path, reported[file.path].lstrip("/"))
        limit = min(_FILE_LIMIT, left)
        shown = text if len(text) <= limit else text[: text.rfind("\n", 0, limit) + 1]
        found[reported.get(file.path, file.path)] = shown, len(shown) < len(text)
        left -= len(shown)
    return found


def _parsed(output: bytes) -> list[FileChange]:
    """From `--raw --numstat -z`: first the kinds of change in order, then the counts in the same order."""
    fields = [os.fsdecode(field) for field in output.split(b"\0")]
    files: list[FileChange] = []
    at = 0
    while at < len(fields) and fields[at].startswith(":"):
        status = fields[at].split(" ")[4][0]
        if status == "R":
            files.append(FileChange(path=fields[at + 2], old_path=fields[at + 1], change="renamed"))
        else:
            files.append(FileChange(path=fields[at + 1], change=_NAMES.get(status, "modified")))
        at += 3 if status == "R" else 2
    for place, file in enumerate(files):
        added, removed, path = fields[at].split("\t", 2)
        at += 1 if path else 3  # of a renamed file both names follow
        if added == "-":
            files[place] = file._replace(binary=True)
        else:
            files[place] = file._replace(added=int(added), removed=int(removed))
    return files


def _split(patch: bytes) -> list[bytes]:
    """One patch per file: every other line of a patch begins with another character.

    A file that became a link, or the reverse, is told as removed and as new, which stay together.
    """
    found: list[bytes] = []
    for part in (b"\n" + patch).split(b"\ndiff --git ")[1:]:
        whole = b"diff --git " + part.removesuffix(b"\n") + b"\n"
        if found and found[-1].split(b"\n", 1)[0] == whole.split(b"\n", 1)[0]:
            found[-1] += whole
        else:
            found.append(whole)
    return found


def totals(files: Sequence[FileChange]) -> JsonObject | None:
    """`{files, added, removed}`, None where nothing was changed."""
    if not files:
        return None
    added, removed = (sum(getattr(file, name) for file in files) for name in ("added", "removed"))
    return {"files": len(files), "added": added, "removed": removed}
