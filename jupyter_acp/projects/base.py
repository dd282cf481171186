"""What the coordinator knows of a project: its name, its folder, where it runs, and what a person may do in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import Any, Literal, TypeAlias

from traitlets.config import LoggingConfigurable


class Role(StrEnum):
    """What a member may do. Each includes the one before it."""

    VIEWER = "viewer"
    COLLABORATOR = "collaborator"
    OWNER = "owner"

    def includes(self, other: Role) -> bool:
        """This role may do what `other` may."""
        order = list(Role)
        return order.index(self) >= order.index(other)


Network: TypeAlias = Literal["none", "providers", "full"]
"""What a container reaches: nothing, the configured model providers through our proxy, or everything."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerSpec:
    """The container that a project runs in.

    Attributes
    ----------
    image
        A local image; none is ever pulled.
    network
        See `Network`.
    memory
        As podman's `--memory` takes it, for example `2g`.
    cpus
        How many, fractions too.
    pids
        Processes and threads at once, at most.
    mounts
        Folders of this machine, by where they are to be read in the container: programs of agents, say.
    idle_timeout
        Seconds without an agent or a command until the container is stopped.
    """

    image: str
    network: Network = "providers"
    memory: str = "2g"
    cpus: float = 2.0
    pids: int = 512
    mounts: Mapping[str, str] = field(default_factory=dict)
    idle_timeout: float = 1800.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """One project.

    Attributes
    ----------
    root
        Its real folder on the coordinator's machine.
    place
        The same folder as its agents and commands name it.
    container
        Where it runs; None: on this machine.
    agents
        The agents that may be used here, with the placement of each, None for that of the catalogue; None: all.
    requester_decides
        Whether only the person whose turn it is may answer what the agent asks in it.
    token_limit
        Tokens of model providers that it may use in a day; 0: no limit.
    """

    id: str
    name: str
    root: Path
    place: str
    container: ContainerSpec | None = None
    agents: Mapping[str, str | None] | None = None
    requester_decides: bool = False
    token_limit: int = 0

    def named(self, path: Path) -> str:
        """A file or folder of this machine beneath `root`, as the project names it."""
        return str(PurePosixPath(self.place, path.relative_to(self.root)))

    def found(self, path: str) -> str:
        """A path that the project names, relative to `root` if it is beneath `place`; others as they are."""
        pure = PurePosixPath(path)
        return str(pure.relative_to(self.place)) if pure.is_relative_to(self.place) else path


class ProjectDirectory(LoggingConfigurable):
    """Where projects come from. Name a subclass of yours in `AcpExtension.projects_class`.

    Parameters
    ----------
    root
        The folder that this Jupyter Server serves, resolved.
    private
        The server's own folders: no project may have one of them in its folder.
    """

    def __init__(self, root: Path, private: tuple[Path, ...] = (), **options: Any) -> None:
        super().__init__(**options)
        self.root = root.resolve()
        self.private = private

    def projects(self) -> list[Project]:
        """Every project there is, as of the last `refresh`. Must not block."""
        raise NotImplementedError

    def role(self, project: Project, username: str) -> Role | None:
        """What a person may do in a project; None: not a member, and must not learn that it exists. Must not block."""
        raise NotImplementedError

    def gone(self, project_id: str) -> bool:
        """Whether it is certain that a project is no more, so that its turns are ended and its containers removed.

        As of the last `refresh`. What cannot be read now, or is declared badly, is not gone. Must not block.
        """
        return all(project.id != project_id for project in self.projects())

    async def refresh(self) -> None:
        """Look again at where they come from, where they can change. Called twice a second, never twice at once; no
        error of its source may leave it."""

    async def close(self) -> None:
        """Let go of what `refresh` began."""
