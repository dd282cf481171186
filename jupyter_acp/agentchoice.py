"""Which agents the people of a project choose from, and how each is used there."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from .agentspec import AgentSpec, Catalogue
from .events import JsonObject
from .exceptions import NotFound
from .projects.base import Project
from .sites.base import Site


class AgentChoice:
    """The part of the catalogue that a project allows. `project` is as it is declared now."""

    def __init__(self, catalogue: Catalogue, project: Project, site: Site) -> None:
        self.project = project
        self._catalogue = catalogue
        self._site = site

    @property
    def default(self) -> str:
        """The agent of a new chat."""
        allowed, configured = self.project.agents, self._catalogue.configured
        if allowed is not None:
            return configured if configured and configured in allowed else next(iter(allowed), "demo")
        # what is installed on this machine says nothing of a container
        return self._catalogue.default if self.project.container is None else configured or "demo"

    def get(self, id: str) -> AgentSpec:
        """An agent as it is used in this project. NotFound."""
        spec, allowed = self._catalogue.get(id), self.project.agents
        if allowed is None:
            return spec
        if id not in allowed:
            raise NotFound(f"agent {id!r} is not one of this project", "agent_not_found")
        return replace(spec, placement=allowed[id] or spec.placement)

    async def described(self) -> list[JsonObject]:
        """What people are told of each, the default one first."""
        allowed = self._catalogue.specs if self.project.agents is None else self.project.agents
        specs = [self.get(id) for id in allowed if id in self._catalogue.specs]
        described = await self._catalogue.describe(specs, self.default)
        inside = {spec.id: spec for spec in specs if spec.placement == "project"}
        if self.project.container is None or not inside:
            return described
        there = await self._site.programs([spec.argv("python3")[0] for spec in inside.values()])
        return [
            {**agent, **_inside(inside[agent["id"]], there)} if agent["id"] in inside else agent for agent in described
        ]


def _inside(spec: AgentSpec, there: Collection[str] | None) -> JsonObject:
    """What people are told of an agent in a container that has these programs; None where it does not run."""
    command = spec.argv("python3")
    told: JsonObject = {"command": command, "version": None, "available": True, "hint": None}
    if there is None:
        return {**told, "hint": "Whether it is installed is known once the project runs"}
    if command[0] in there:
        return told
    return {**told, "available": False, "hint": f"Not installed in the project's image: {spec.install or command[0]}"}
