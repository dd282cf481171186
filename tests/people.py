"""Several people and several projects on one server: who they are, and a directory that a test can change."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from conftest import Drive
from jupyter_server.auth.identity import IdentityProvider, User

from jupyter_acp.projects.base import Project, ProjectDirectory, Role


class Named(IdentityProvider):
    """Whoever sends the token `token of NAME` is NAME."""

    def get_user(self, handler: Any) -> User | None:
        """The person of the request's token."""
        name = (self.get_token(handler) or "").removeprefix("token-of-")
        handler._token_authenticated = bool(name)
        return User(username=name) if name else None


class Folders(ProjectDirectory):
    """Every folder of the server's root is a project of this machine; a test says who is a member of what."""

    def __init__(self, root: Path, private: tuple[Path, ...] = (), **options: Any) -> None:
        super().__init__(root, private, **options)
        self.members: dict[str, dict[str, Role]] = {}
        self.found: list[Project] = []

    def add(self, name: str, **members: str) -> Path:
        """One more project; it is there after the next look."""
        folder = self.root / name
        folder.mkdir(exist_ok=True)
        self.members[name] = {person: Role(role) for person, role in members.items()}
        self.found.append(Project(id=name, name=name, root=folder, place=str(folder)))
        return folder

    def change(self, id: str, **fields: Any) -> None:
        """Another declaration of a project."""
        self.found = [replace(project, **fields) if project.id == id else project for project in self.found]

    def remove(self, id: str) -> None:
        """A project less."""
        self.found = [project for project in self.found if project.id != id]

    def projects(self) -> list[Project]:
        """As a test has them."""
        return self.found

    def role(self, project: Project, username: str) -> Role | None:
        """As a test has it."""
        return self.members[project.id].get(username)


@dataclass
class People:
    """Makes the same server be used by somebody."""

    drive: Drive
    fetch: Any
    ws_fetch: Any

    def __call__(self, name: str, project: str = "alpha") -> Drive:
        """What a person does in a project."""
        headers = {"Authorization": f"token token-of-{name}"}
        drive = Drive(partial(self.fetch, headers=headers), partial(self.ws_fetch, headers=headers), self.drive.server)
        drive.project = project
        # closed with the test
        drive.conversations = self.drive.conversations
        return drive
