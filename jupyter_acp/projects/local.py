"""The one project `local`: the folder that this Jupyter Server serves, owned by whoever may use the server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .base import Project, ProjectDirectory, Role


def local_project(root: Path) -> Project:
    """The project of this server's own folder."""
    resolved = root.resolve()
    return Project(id="local", name=resolved.name or "/", root=resolved, place=str(resolved))


class LocalProjects(ProjectDirectory):
    """A project directory with one project, `local`."""

    def __init__(self, root: Path, private: tuple[Path, ...] = (), **options: Any) -> None:
        super().__init__(root, private, **options)
        self._project = local_project(root)

    def projects(self) -> list[Project]:
        """The one project."""
        return [self._project]

    def role(self, project: Project, username: str) -> Role | None:
        """Everybody who may use this server owns its folder already."""
        return Role.OWNER
