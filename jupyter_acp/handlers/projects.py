"""Who am I, which projects are there and how are they, which agents do they have."""

from __future__ import annotations

from .. import __version__
from ..coordinator import Coordinator
from ..events import JsonObject
from ..projects.base import Project, Role
from .base import AcpHandler, route

FEATURES = ["queue", "permissions", "elicitation", "config_options", "fork", "export", "reactions"]


class RootHandler(AcpHandler):
    """GET /"""

    @route
    async def get(self) -> None:
        self.finish_json({"version": __version__, "user": self.user, "projects": _projects(self), "features": FEATURES})


class ProjectsHandler(AcpHandler):
    """GET /projects"""

    @route
    async def get(self) -> None:
        self.finish_json(_projects(self))


class ProjectHandler(AcpHandler):
    """GET /projects/{pid}"""

    @route
    async def get(self, project_id: str) -> None:
        coordinator = await self.coordinator(project_id)
        project, role = self.access.project(project_id, self.username, Role.VIEWER)
        self.finish_json({**_summary(project, role, coordinator), "access": coordinator.access})


class AgentsHandler(AcpHandler):
    """GET /projects/{pid}/agents"""

    @route
    async def get(self, project_id: str) -> None:
        self.finish_json(await (await self.coordinator(project_id)).catalogue.describe())


def _projects(handler: AcpHandler) -> list[JsonObject]:
    hub = handler.access.hub
    return [_summary(p, role, hub.coordinator(p)) for p, role in handler.access.projects(handler.username)]


def _summary(project: Project, role: Role, coordinator: Coordinator) -> JsonObject:
    return {
        "id": project.id,
        "name": project.name,
        "state": coordinator.state,
        "role": role,
        "kind": "local" if project.container is None else "container",
    }
