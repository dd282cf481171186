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
        container = project.container
        self.finish_json(
            {
                **_summary(project, role, coordinator),
                "error": coordinator.site.error,
                "warning": coordinator.site.warning,
                "access": coordinator.site.access,
                "network": container and container.network,
                "image": container and container.image,
                "usage": coordinator.site.usage(),
            }
        )


class StartProjectHandler(AcpHandler):
    """POST /projects/{pid}/start"""

    @route
    async def post(self, project_id: str) -> None:
        coordinator = await self.coordinator(project_id, Role.COLLABORATOR)
        self.body()
        await coordinator.start_project()
        self._finish(project_id, coordinator)

    def _finish(self, project_id: str, coordinator: Coordinator) -> None:
        project, role = self.access.project(project_id, self.username, Role.VIEWER)
        self.finish_json(_summary(project, role, coordinator), 202)


class StopProjectHandler(StartProjectHandler):
    """POST /projects/{pid}/stop"""

    @route
    async def post(self, project_id: str) -> None:
        coordinator = await self.coordinator(project_id, Role.OWNER)
        self.body()
        await coordinator.stop_project()
        self._finish(project_id, coordinator)


class ProjectLogHandler(AcpHandler):
    """GET /projects/{pid}/logs"""

    @route
    async def get(self, project_id: str) -> None:
        self.finish_json({"text": await (await self.coordinator(project_id, Role.OWNER)).site.log()})


class AgentsHandler(AcpHandler):
    """GET /projects/{pid}/agents"""

    @route
    async def get(self, project_id: str) -> None:
        self.finish_json(await (await self.coordinator(project_id)).agents.described())


def _projects(handler: AcpHandler) -> list[JsonObject]:
    hub = handler.access.hub
    return [_summary(p, role, hub.coordinator(p)) for p, role in handler.access.projects(handler.username)]


def _summary(project: Project, role: Role, coordinator: Coordinator) -> JsonObject:
    return {
        "id": project.id,
        "name": project.name,
        "state": coordinator.site.state,
        "role": role,
        "kind": "local" if project.container is None else "container",
    }
