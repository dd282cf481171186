"""Projects as somebody has written them down: what an entry may say, and what is wrong with it. Only looks.

Whoever may write the file, or a folder above a project's, owns this machine: what is mounted into a container is
decided there. So both must be in the hands of root or of the account that the server runs as.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, get_args

from ..agentspec import PLACEMENTS
from ..events import JsonObject
from .base import ContainerSpec, Network, Project, Role

LOCAL: Final = "local"
PLACE: Final = "/project"

_ID = re.compile(r"[a-z0-9][a-z0-9._-]{0,40}")
_MEMORY = re.compile(r"[1-9][0-9]*[bkmg]?")
# what podman's --volume and --mount take for the end of a path
_PATH = re.compile(r"/[^:,\"\x00-\x1f]*")
_OURS = (PLACE, "/run/acp", "/run/acp-egress", "/etc/acp", "/home/agent")
_ANYWHERE = frozenset({"name", "members", "agents", "permissions"})
_CONTAINER = frozenset(
    {"image", "folder", "network", "memory", "cpus", "pids", "mounts", "idle_timeout", "tokens_per_day"}
)
FIELDS: Final = _ANYWHERE | _CONTAINER
_DECIDERS = ("anyone", "requester")
_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Declared:
    """A project and its people."""

    project: Project
    members: Mapping[str, Role]


class Wrong(ValueError):
    """What is wrong, in a sentence."""


def read(path: Path) -> JsonObject:
    """The entries of a file of projects by their ids, not looked at. Wrong where it cannot be used at all."""
    try:
        with path.open("rb") as file:
            facts = os.fstat(file.fileno())
            if not stat.S_ISREG(facts.st_mode):
                raise Wrong(f"{path} is no file")
            _check_hands(path, facts)
            _check_hands(path.parent, path.parent.stat())
            data = file.read(_BYTES + 1)
    except OSError as exc:
        raise Wrong(f"{path} cannot be read: {exc.strerror}") from exc
    if len(data) > _BYTES:
        raise Wrong(f"{path} is longer than {_BYTES} bytes")
    try:
        entries = json.loads(data, object_pairs_hook=_once)
    except ValueError as exc:
        raise Wrong(f"{path}: {exc}") from exc
    if not isinstance(entries, dict):
        raise Wrong(f"{path} must be an object of projects by their ids")
    return entries


def declared(
    entries: Mapping[str, object], *, local: Project | None = None, private: tuple[Path, ...] = ()
) -> tuple[dict[str, Declared], list[str]]:
    """The projects of these entries by id, and a sentence for each entry that is left out.

    `local` is this server's own folder where that is a project too. No project may have one of `private` in its folder,
    or another project; of two that clash the first one stays.
    """
    found: dict[str, Declared] = {}
    problems = []
    ground = _Ground(private)
    if local is not None and LOCAL not in entries:
        found[LOCAL] = Declared(project=local, members={})
        ground.take(local)
    for id, entry in sorted(entries.items(), key=lambda item: item[0] != LOCAL):
        try:
            one = _declared(id, entry, local)
            ground.take(one.project)
        except Wrong as exc:
            problems.append(f"the project {id!r} is left out: {exc}")
        else:
            found[id] = one
    return found, problems


class _Ground:
    """Which folders are somebody's."""

    def __init__(self, private: tuple[Path, ...]) -> None:
        self._taken: dict[Path, str] = {}
        self._above: dict[Path, str] = {}
        self._private = {above: own for own in private for above in (own.resolve(), *own.resolve().parents)}

    def take(self, project: Project) -> None:
        """Wrong where the folder, one above it, or one in it, is another's."""
        folder = project.root
        clash = next((self._taken[above] for above in (folder, *folder.parents) if above in self._taken), None)
        if (other := clash or self._above.get(folder)) is not None:
            raise Wrong(f"its folder {folder} and that of {other} are in one another")
        if folder in self._private and project.container is not None:
            raise Wrong(f"the server's own {self._private[folder]} is in its folder {folder}")
        self._taken[folder] = project.id
        self._above |= dict.fromkeys(folder.parents, project.id)


def _declared(id: str, entry: object, local: Project | None) -> Declared:
    if not _ID.fullmatch(id):
        raise Wrong("an id is up to 41 of a-z, 0-9, '.', '_' and '-', a letter or digit first")
    if not isinstance(entry, dict):
        raise Wrong("an entry is an object")
    allowed = _ANYWHERE if id == LOCAL else FIELDS
    if unknown := sorted(set(entry) - allowed):
        raise Wrong(f"it cannot have {', '.join(unknown)}")
    members = entry.get("members", {})
    if not isinstance(members, dict) or not all(members):
        raise Wrong("members is an object of roles by user name")
    for name, role in members.items():
        if role not in list(Role):
            raise Wrong(f"the role of {name} is {role!r}; it can be {', '.join(Role)}")
    if id == LOCAL:
        if local is None:
            raise Wrong("this server's own folder is no project unless PodmanProjects.local says so")
        project = local
    else:
        root = _folder(entry)
        project = Project(
            id=id,
            name=id,
            root=root,
            place=PLACE,
            container=_container(entry),
            token_limit=_whole("tokens_per_day", entry.get("tokens_per_day", 0)),
        )
    project = replace(
        project,
        name=_text("name", entry.get("name", project.name)),
        agents=_agents(entry.get("agents")),
        requester_decides=_choice("permissions", entry.get("permissions", "anyone"), _DECIDERS) == "requester",
    )
    return Declared(project=project, members={name: Role(role) for name, role in members.items()})


def _container(entry: JsonObject) -> ContainerSpec:
    image = _text("image", entry.get("image", ""))
    if not image or image.startswith("-") or " " in image:
        raise Wrong("image must be the name of a local image")
    return ContainerSpec(
        image=image, **{name: check(name, entry[name]) for name, check in _CHECKS.items() if name in entry}
    )


def _folder(entry: JsonObject) -> Path:
    text = entry.get("folder")
    if not isinstance(text, str) or not _PATH.fullmatch(text):
        raise Wrong("folder must be an absolute path, without ':', ',' or '\"'")
    folder = Path(os.path.normpath(text))
    if not folder.name:
        raise Wrong("its folder would be the whole machine")
    try:
        if not stat.S_ISDIR(folder.lstat().st_mode) or folder.resolve(strict=True) != folder:
            raise Wrong(f"{folder} is no directory by its real path")
        for above in folder.parents:
            _check_hands(above, above.stat())
    except OSError as exc:
        raise Wrong(f"{folder}: {exc.strerror}") from exc
    return folder


def _check_hands(path: Path, facts: os.stat_result) -> None:
    """Wrong where somebody else could change it. In a folder like /tmp nobody can replace what is another's."""
    sticky = stat.S_ISDIR(facts.st_mode) and facts.st_mode & stat.S_ISVTX
    if facts.st_uid not in (0, os.geteuid()) or (facts.st_mode & 0o022 and not sticky):
        raise Wrong(f"{path} can be changed by others than root and this server's account")


def _mounts(name: str, value: object) -> dict[str, str]:
    if not isinstance(value, dict):
        raise Wrong(f"{name} is an object: folders of this machine by where they are in the container")
    for place, source in value.items():
        if not isinstance(source, str) or not _PATH.fullmatch(place) or not _PATH.fullmatch(source):
            raise Wrong(f"both sides of {name} must be absolute paths, without ':', ',' or '\"'")
        inside = Path(os.path.normpath(place))
        if any(Path(own).is_relative_to(inside) or inside.is_relative_to(own) for own in _OURS):
            raise Wrong(f"nothing can be mounted at {place}: that place is ours")
        if not os.path.isdir(source):
            raise Wrong(f"{source} is no directory")
    return {os.path.normpath(place): os.path.realpath(source) for place, source in value.items()}


def _agents(value: object) -> dict[str, str | None] | None:
    if value is None:
        return None
    if isinstance(value, list) and all(isinstance(id, str) for id in value):
        return dict.fromkeys(value)
    if isinstance(value, dict) and all(placement in (None, *PLACEMENTS) for placement in value.values()):
        return value
    raise Wrong(f"agents is a list of ids, or an object of null, {', '.join(PLACEMENTS)} by id")


def _text(name: str, value: object) -> str:
    if not isinstance(value, str) or not value.isprintable():
        raise Wrong(f"{name} must be text")
    return value


def _memory(name: str, value: object) -> str:
    if not isinstance(value, str) or not _MEMORY.fullmatch(value):
        raise Wrong(f"{name} is {value!r}; it is like 512m or 2g")
    return value


def _choice(name: str, value: object, choices: tuple[str, ...]) -> str:
    if value not in choices:
        raise Wrong(f"{name} is {value!r}; it can be {', '.join(choices)}")
    return str(value)


def _network(name: str, value: object) -> str:
    return _choice(name, value, get_args(Network))


def _whole(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 53:
        raise Wrong(f"{name} must be a whole number, not below 0")
    return value


def _positive(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e12:
        raise Wrong(f"{name} must be a number above 0")
    return float(value)


_CHECKS: Final[dict[str, Callable[[str, object], Any]]] = {
    "network": _network,
    "memory": _memory,
    "cpus": _positive,
    "pids": _whole,
    "mounts": _mounts,
    "idle_timeout": _positive,
}


def _once(pairs: list[tuple[str, object]]) -> JsonObject:
    """Json takes the last of two members of one name, and a person would see the first."""
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} is there twice")
    return found
