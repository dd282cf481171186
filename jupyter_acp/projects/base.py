"""What the coordinator knows of a project: its name, its folder, and what a person may do in it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol


class Role(StrEnum):
    """What a member may do. Each includes the one before it."""

    VIEWER = "viewer"
    COLLABORATOR = "collaborator"
    OWNER = "owner"

    def includes(self, other: Role) -> bool:
        """This role may do what `other` may."""
        order = list(Role)
        return order.index(self) >= order.index(other)


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """One project. `root` is its real folder on the coordinator's machine."""

    id: str
    name: str
    root: Path


class ProjectDirectory(Protocol):
    """Where projects come from."""

    def projects(self) -> list[Project]:
        """Every project there is."""
        ...

    def role(self, project: Project, username: str) -> Role | None:
        """What a person may do in a project; None: not a member, and must not learn that it exists."""
        ...
