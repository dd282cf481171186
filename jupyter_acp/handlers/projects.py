"""Who am I, which projects are there, which agents do they have."""

from __future__ import annotations

from .. import __version__
from ..projects.base import Role
from .base import AcpHandler, route

FEATURES = ["queue", "permissions", "elicitation", "config_options", "fork", "export", "reactions"]


class RootHandler(AcpHandler):
    """GET /"""

    @route
    async def get(self) -> None:
        directory = self.access.directory
        seen = [(p, directory.role(p, self.username)) for p in directory.projects()]
        self.finish_json(
            {
                "version": __version__,
                "user": self.user,
                "projects": [{"id": p.id, "name": p.name, "state": "running", "role": r} for p, r in seen if r],
                "features": FEATURES,
            }
        )


class ProjectsHandler(AcpHandler):
    """GET /projects"""

    @route
    async def get(self) -> None:
        directory = self.access.directory
        seen = [(p, directory.role(p, self.username)) for p in directory.projects()]
        self.finish_json([{"id": p.id, "name": p.name, "state": "running", "role": r} for p, r in seen if r])


class ProjectHandler(AcpHandler):
    """GET /projects/{pid}"""

    @route
    async def get(self, project_id: str) -> None:
        role = self.access.directory.role
        project, coordinator, _ = self.access.project(project_id, self.username, Role.VIEWER)
        self.finish_json(
            {
                "id": project.id,
                "name": project.name,
                "state": "running",
                "role": role(project, self.username),
                "access": coordinator.access,
            }
        )


class AgentsHandler(AcpHandler):
    """GET /projects/{pid}/agents"""

    @route
    async def get(self, project_id: str) -> None:
        self.finish_json(await self.coordinator(project_id).catalogue.describe())
