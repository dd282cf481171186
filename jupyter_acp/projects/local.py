"""The one project `local`: the folder that this Jupyter Server serves, owned by whoever may use the server."""

from __future__ import annotations

from pathlib import Path

from .base import Project, Role


class LocalProjects:
    """A project directory with one project, `local`."""

    def __init__(self, root: Path) -> None:
        resolved = root.resolve()
        self._project = Project(id="local", name=resolved.name or "/", root=resolved)

    def projects(self) -> list[Project]:
        """The one project."""
        return [self._project]

    def role(self, project: Project, username: str) -> Role | None:
        """Everybody who may use this server owns its folder already."""
        return Role.OWNER
