"""A project directory for browser tests: projects of this machine, with the role that everybody has in each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jupyter_acp.projects.base import Project, ProjectDirectory, Role
from jupyter_acp.projects.local import local_project


class FolderProjects(ProjectDirectory):
    """Jupyter's own folder and those beside it that `projects.json` there names; the file may change at any time."""

    def __init__(self, root: Path, *args: Any, **options: Any) -> None:
        super().__init__(root, *args, **options)
        self._local = local_project(root)
        self._declared = self._local.root.parent / "projects.json"
        self._roles: dict[str, Role] = {}

    async def refresh(self) -> None:
        """Read who may do what."""
        self._roles = {name: Role(role) for name, role in json.loads(self._declared.read_text()).items()}

    def projects(self) -> list[Project]:
        """Jupyter's own comes last, as any order is good."""
        folders = {name: self._declared.parent / name for name in self._roles if name != "local"}
        others = [Project(id=id, name=id.title(), root=root, place=str(root)) for id, root in folders.items()]
        return [*others, *([self._local] if "local" in self._roles else [])]

    def role(self, project: Project, username: str) -> Role | None:
        """The same for everybody."""
        return self._roles.get(project.id)
