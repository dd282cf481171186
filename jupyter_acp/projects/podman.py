"""Projects in containers, declared in a file and by labels of podman's containers. Both are looked at all the time."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from jupyter_core.paths import jupyter_config_path
from traitlets import Bool, Unicode

from ..events import JsonObject
from ..exceptions import ExecutorError
from ..kernel_exec.podman import Podman
from .base import Project, ProjectDirectory, Role
from .declarations import PLACE, Declared, Wrong, declared, read
from .local import local_project

LABEL: Final = "jupyter-acp.project"
LABEL_SECONDS: Final = 5.0
FILE: Final = "acp_projects.json"


class PodmanProjects(ProjectDirectory):
    """Projects that a file declares, each in a container of its own.

    A file that cannot be used leaves the projects as they were; of one that can, a bad entry is left out. Each problem
    is logged once.
    """

    file: Any = Unicode(help=f"A JSON file of projects by id; empty: {FILE} in Jupyter's config folder.").tag(
        config=True
    )
    local: Any = Bool(
        False, help="Whether this server's own folder is a project too; its members are those of the entry `local`."
    ).tag(config=True)
    find_by_label: Any = Bool(
        False, help=f"Whether containers are projects too that have the label {LABEL}: an entry as JSON, with its id."
    ).tag(config=True)

    def __init__(self, root: Path, private: tuple[Path, ...] = (), **options: Any) -> None:
        super().__init__(root, private, **options)
        self.path = Path(self.file).expanduser() if self.file else default_file()
        self._entries: JsonObject = {}
        self._declared: dict[str, Declared] = {}
        self._seen: object = ()
        self._unusable: list[str] = []
        self._looked_at: object = ()
        self._found: dict[str, Declared] = {}
        self._wrong: list[str] = []
        self._problems: list[str] = []
        self.labels = Labels(Podman()) if self.find_by_label else None

    def projects(self) -> list[Project]:
        """As of the last look at file and labels."""
        return [one.project for one in self._declared.values()]

    def role(self, project: Project, username: str) -> Role | None:
        """As of the last look at file and labels."""
        one = self._declared.get(project.id)
        return one.members.get(username) if one is not None else None

    def gone(self, project_id: str) -> bool:
        """As of the last look at file and labels, both of which were understood."""
        if self._unusable or (self.labels is not None and not self.labels.are_known):
            return False
        labelled = self.labels.entries if self.labels is not None else {}
        return project_id not in self._entries and project_id not in labelled

    async def refresh(self) -> None:
        """Look at the file, and now and then at podman's containers, which nobody waits for."""
        if self.labels is not None:
            self.labels.look()
        # in a thread: the folders may be on a disk that is slow
        self._declared, problems = await asyncio.to_thread(self._look)
        for problem in problems:
            if problem not in self._problems:
                self.log.warning("projects: %s", problem)
        self._problems = problems

    async def close(self) -> None:
        """Stop asking podman."""
        if self.labels is not None:
            await self.labels.close()

    def _look(self) -> tuple[dict[str, Declared], list[str]]:
        if (seen := _identity(self.path, follow=True)) != self._seen or self._unusable:
            self._seen = seen
            try:
                self._entries, self._unusable = read(self.path), []
            except Wrong as exc:
                self._unusable = [f"{exc}; they stay as they were"]
        entries, twice = dict(self._entries), []
        labelled = self.labels.entries if self.labels is not None else {}
        for id, entry in labelled.items():
            if id in entries:
                twice.append(f"the project {id!r} of a container's label is left out: the file has one of that name")
            else:
                entries[id] = entry
        # The same as before, with the same folders, is what it was; what was wrong may have been put right elsewhere.
        folders = [_identity(entry["folder"]) for entry in entries.values() if _has_folder(entry)]
        if self._wrong or (entries, folders) != self._looked_at:
            self._looked_at = entries, folders
            local = local_project(self.root) if self.local else None
            self._found, self._wrong = declared(entries, local=local, private=(*self.private, self.path))
        asked = self.labels.problems if self.labels is not None else []
        return self._found, [*self._unusable, *twice, *asked, *self._wrong]


class Labels:
    """The entries on podman's containers, asked for every few seconds in a task of its own."""

    def __init__(self, podman: Podman) -> None:
        self._podman = podman
        #: by project id; image and folder are those of the container where its label does not say
        self.entries: Mapping[str, object] = {}
        self.problems: list[str] = []
        self._known: frozenset[str] = frozenset()
        self._asked = False
        self._next = 0.0
        self._task: asyncio.Task[None] | None = None

    @property
    def are_known(self) -> bool:
        """podman has been asked, and each label was understood."""
        return self._asked and not self.problems

    def look(self) -> None:
        """Have podman asked where that is due."""
        if time.monotonic() >= self._next and (self._task is None or self._task.done()):
            self._next = time.monotonic() + LABEL_SECONDS
            self._task = asyncio.create_task(self.ask(), name="acp-labels")

    async def close(self) -> None:
        """End a question that is under way."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def ask(self) -> None:
        """Ask podman now. `problems` says what is wrong; `entries` stay where it cannot be asked."""
        try:
            ids = (await self._podman.call("ps", "-aq", "--no-trunc", "--filter", f"label={LABEL}")).split()
            self._asked = self._asked or not ids
            if frozenset(ids) == self._known:
                return  # a container's labels never change
            containers = json.loads(await self._podman.call("container", "inspect", *ids)) if ids else []
            images = sorted({container["Image"] for container in containers})
            inspected = json.loads(await self._podman.call("image", "inspect", *images)) if images else []
        except (ExecutorError, ValueError) as exc:  # a container may have gone between two calls: asked again
            self.problems = [f"podman cannot be asked for containers with the label {LABEL}: {exc}"]
            return
        labelled = {image["Id"] for image in inspected if LABEL in (image.get("Labels") or {})}
        entries: dict[str, object] = {}
        problems = []
        for container in containers:
            name = container["Name"]
            try:
                if container["Image"] in labelled:
                    # whoever made an image must not declare what of this machine is mounted, and for whom
                    raise ValueError("the label is its image's")
                entry = json.loads(container["Config"]["Labels"][LABEL])
                id = str(entry.pop("id"))
            except (ValueError, KeyError, AttributeError, TypeError) as exc:
                problems.append(f"the label {LABEL} of the container {name} is no entry with an id: {exc}")
                continue
            if id in entries:
                problems.append(f"the container {name} is left out: another one has the project {id!r} too")
                continue
            mounts = {mount["Destination"]: mount["Source"] for mount in container["Mounts"]}
            defaults = {"image": container["ImageName"], "folder": mounts.get(PLACE)}
            entries[id] = {**defaults, **entry}
        self.entries, self.problems, self._known, self._asked = entries, problems, frozenset(ids), True


def default_file() -> Path:
    """Where the projects are declared if nobody says otherwise."""
    return Path(jupyter_config_path()[0]) / FILE


def _has_folder(entry: object) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("folder"), str)


def _identity(path: Path | str, *, follow: bool = False) -> object:
    """Another where something else has its place, or it was changed."""
    try:
        facts = os.stat(path, follow_symlinks=follow)
    except (OSError, ValueError) as exc:
        return repr(exc)
    entries_change = stat.S_ISDIR(facts.st_mode)
    newest = () if entries_change else (facts.st_mtime_ns, facts.st_ctime_ns, facts.st_size)
    return facts.st_dev, facts.st_ino, facts.st_mode, facts.st_uid, *newest
