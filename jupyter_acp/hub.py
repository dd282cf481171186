"""Every project that there is, each with a coordinator of its own, kept in step with the project directory.

Whoever may do what is not known here: that is asked of the directory, by handlers.base.ProjectAccess.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from .coordinator import Coordinator
from .exceptions import AcpError, Unavailable
from .projects.base import Project, ProjectDirectory

log = logging.getLogger(__name__)

#: between two looks at the directory: whoever is removed from a project is out of it within a second
LOOK_SECONDS = 0.5


class ProjectHub:
    """Makes the coordinator of a project when it is first wanted, and lets it go when the project is gone.

    Parameters
    ----------
    directory
        Which projects there are. Only this object calls its `refresh`.
    make
        Gives the coordinator of a project; it must not do anything yet.
    has_work
        Whether a project is to be served from the start on, because of what an earlier server left there.
    remove_left
        Removes what an earlier server left running of projects that are gone, which its argument says.
    """

    def __init__(
        self,
        directory: ProjectDirectory,
        make: Callable[[Project], Coordinator],
        has_work: Callable[[Project], bool] = lambda project: True,
        remove_left: Callable[[Callable[[str], bool]], Awaitable[None]] | None = None,
    ) -> None:
        self.directory = directory
        self._make = make
        self._has_work = has_work
        self._remove_left = remove_left
        self._coordinators: dict[str, Coordinator] = {}
        self._leaving: dict[str, asyncio.Task[None]] = {}
        #: called after each look at the directory; they raise nothing
        self.watchers: set[Callable[[], None]] = set()
        self._looked = asyncio.Event()
        self._looking: asyncio.Task[None] | None = None
        self._error = ""
        self._stopping = False

    async def ready(self) -> None:
        """Return once the directory has been looked at; it is followed from now on.

        Called by each request too: one may come before the server says that it runs.
        """
        if self._looking is None:
            self._looking = asyncio.create_task(self._look(), name="acp-projects")
        await self._looked.wait()

    async def start(self) -> None:
        """Go on with what an earlier server left, project by project."""
        await self.ready()
        await asyncio.gather(*(self._resume(p) for p in self.directory.projects() if self._has_work(p)))
        if self._remove_left is not None:
            try:
                await self._remove_left(self.directory.gone)
            except AcpError as exc:
                log.warning("what an earlier server left of projects that are gone was not removed: %s", exc)

    async def stop(self) -> None:
        """Let every project go, all at once: one that fails to does not keep the others."""
        self._stopping = True
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
        for project_id in list(self._coordinators):
            self._let_go(project_id)
        await asyncio.gather(*self._leaving.values())
        await self.directory.close()

    def known(self) -> list[Coordinator]:
        """The coordinators that there are so far."""
        return list(self._coordinators.values())

    def coordinator(self, project: Project) -> Coordinator:
        """The coordinator of a project, to be asked what it is and how it is; see `serving` for its sessions."""
        found = self._coordinators.get(project.id)
        if found is not None and found.project.root != project.root:
            # declared anew since the last look: who may see that folder may not see what was in the other
            self._let_go(project.id)
            found = None
        if found is None:
            found = self._coordinators[project.id] = self._make(project)
        return found

    async def serving(self, project: Project) -> Coordinator:
        """The coordinator of a project once it serves its sessions; raises as `Coordinator.ready` does."""
        if self._stopping:
            raise Unavailable("the server is ending", "stopping")
        coordinator = self.coordinator(project)
        if leaving := self._leaving.get(project.id):
            # its database has one writer
            await asyncio.shield(leaving)
        await coordinator.ready()
        return coordinator

    async def refresh(self) -> None:
        """Look at the directory once, and make what is here the same. Raises nothing."""
        try:
            await self.directory.refresh()
            projects = {project.id: project for project in self.directory.projects()}
            for project_id, coordinator in list(self._coordinators.items()):
                await self._follow(coordinator, projects.get(project_id))
            self._error = ""
        except Exception as exc:  # a directory of others, mostly: what is known stays, and it is said once
            if repr(exc) != self._error:
                self._error = repr(exc)
                log.exception("the projects cannot be followed")
        for watcher in list(self.watchers):
            watcher()

    async def _follow(self, coordinator: Coordinator, project: Project | None) -> None:
        """Make a coordinator what its project is now declared to be; None: not declared any more."""
        before = coordinator.project
        if project is None or project.root != before.root:
            log.info("project=%s %s", before.id, "is gone" if project is None else "has another folder")
            self._let_go(before.id, end=before.container is not None and self.directory.gone(before.id))
        elif project != before:
            log.info("project=%s its declaration has changed", project.id)
            await coordinator.changed(project)

    async def _look(self) -> None:
        """For ever: follow the directory."""
        while True:
            await self.refresh()
            self._looked.set()
            await asyncio.sleep(LOOK_SECONDS)

    async def _resume(self, project: Project) -> None:
        try:
            await self.serving(project)
        except AcpError as exc:
            # the first request tries again
            log.warning("project=%s was not made ready: %s", project.id, exc)

    def _let_go(self, project_id: str, *, end: bool = False) -> None:
        """With `end` its turns end before, and what it runs in."""
        coordinator, before = self._coordinators.pop(project_id), self._leaving.get(project_id)

        async def leave() -> None:
            if before is not None:
                await before
            try:
                try:
                    if end:
                        await coordinator.stop_project()
                finally:
                    await coordinator.stop()
            except Exception:  # it must not keep the project from coming back, or the server from ending
                log.exception("project=%s was not let go in order", project_id)
            finally:
                if self._leaving.get(project_id) is task:
                    del self._leaving[project_id]

        self._leaving[project_id] = task = asyncio.create_task(leave(), name=f"acp-leave-{project_id}")
