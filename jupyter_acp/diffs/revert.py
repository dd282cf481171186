"""Brings files back to what they were before a turn, all or none."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from jupyter_acp.exceptions import Conflict, NotFound
from jupyter_acp.kernel_exec.paths import Root

from .report import FileChange
from .shadow import Entry, Shadow

_LINK = "120000"


class Contents(NamedTuple):
    """What a file is to be."""

    data: bytes
    executable: bool


def with_both_names(files: Iterable[FileChange], paths: Collection[str] | None) -> set[str]:
    """The paths to bring back, of a renamed file its old name too. NotFound for one that is not there."""
    known = [file for file in files if not file.reported]
    chosen = [file for file in known if paths is None or file.path in paths or file.old_path in paths]
    found = {path for file in chosen for path in file.names}
    if missing := sorted(set(paths or ()) - found):
        raise NotFound(f"this turn has not changed {', '.join(missing)}", "unknown_path")
    return found


async def check(
    shadow: Shadow,
    states: Mapping[str, tuple[Entry | None, Entry | None]],
    *,
    shared: Collection[str],
    large: Collection[str],
) -> dict[str, Contents | None]:
    """What each file is to be, None for those to remove. Conflict where it cannot be."""
    now = await shadow.now(states)
    refused: dict[str, str] = {}
    for path, (before, after) in states.items():
        if path in large:
            refused[path] = "too large, its contents were not kept"
        elif _LINK in (before and before.mode, after and after.mode):
            refused[path] = "a symbolic link"
        elif now[path] != after:
            refused[path] = "changed since"
        elif path in shared:
            refused[path] = "others may have changed it at the same time; name it to revert it all the same"
    if refused:
        reasons = "; ".join(f"{path}: {reason}" for path, reason in sorted(refused.items()))
        raise Conflict(f"nothing was reverted. {reasons}", "changed_since")
    return {
        path: None if before is None else Contents(await shadow.contents(before.blob), before.mode == "100755")
        for path, (before, _) in states.items()
    }


def put_back(root: Path, contents: Mapping[str, Contents | None]) -> None:
    """Write and remove files beneath the root. Blocking."""
    with closing(Root(root)) as opened:
        for path, content in contents.items():
            if content is not None:
                with opened.open_write(path) as file:
                    file.write(content.data)
                opened.set_executable(path, content.executable)
        for path, content in contents.items():
            if content is None:
                opened.remove(path)
