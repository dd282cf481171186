"""Sessions by id: opens them, finds them again after a restart, lets them go. The one coordinator of a server."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from .agentchoice import AgentChoice
from .agentspec import Catalogue
from .chatfile import ChatFile
from .events import JsonObject
from .exceptions import (
    BadRequest,
    Conflict,
    ExecutorError,
    NotFound,
    NotOwner,
    RequestError,
    StoreError,
    Unavailable,
)
from .kernel_exec.base import Run
from .kernel_exec.terminals import Started
from .ownership import LOOK_SECONDS, Ownership, is_taken
from .projects.base import Project
from .records import SessionRow
from .register import SessionRegister
from .runner_link import TakenOver
from .session import Limits, Session
from .sessionfactory import SessionFactory
from .sessionfile import saved_chats
from .sites.base import Site
from .store import Store
from .tasks import Tasks
from .upkeep import Upkeep
from .uploads import Uploads

if TYPE_CHECKING:
    from .diffs.tracker import ChangeTracker

log = logging.getLogger(__name__)

REOPEN_SECONDS = 2.0
#: that the end of a server waits for a start that is under way
_STOP_SECONDS = 10.0
_TAKEN = "another Jupyter server, started later, has taken over the agents of this folder; use that one, or stop it"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the configuration says."""

    snapshots: Path
    limits: Limits
    end_turns_on_stop: bool = False
    follow_changes: bool = True
    upload_limit: int = 50 << 20
    upload_keep: float = 7 * 86400.0
    log_days: float = 90.0
    log_bytes: int = 1 << 30
    delegated_commands: Run = "terminal"
    agent_idle_timeout: float = 4 * 3600.0


class Coordinator:
    """Owns the sessions of one project folder.

    Parameters
    ----------
    store
        Opened by `ready`, closed by `stop`.
    site
        Where the project runs.
    chat_manager
        Gives jupyterlab-chat's manager where that is loaded: it then writes the chats that it has open.
    started
        Told of each delegated command that runs in a terminal.
    """

    def __init__(
        self,
        *,
        store: Store,
        project: Project,
        site: Site,
        catalogue: Catalogue,
        settings: Settings,
        chat_manager: Callable[[], object | None] = lambda: None,
        started: Started = lambda identity, command: None,
    ) -> None:
        self.project = project
        self.site = site
        self._settings = settings
        self.agents = AgentChoice(catalogue, project, site)
        self.uploads = Uploads(
            project.root, limit=settings.upload_limit, keep=settings.upload_keep, place=project.place
        )
        self._chat_manager = chat_manager
        self._started = started
        self._sessions: dict[str, Session] = {}
        # why a session cannot be written now, and so is not served
        self._failed: dict[str, Unavailable] = {}
        self._opening = asyncio.Lock()
        self._tasks = Tasks(f"project={project.id}")
        self._starting: asyncio.Future[None] | None = None
        self._ownership: Ownership | None = None
        self._letting_go: asyncio.Task[None] | None = None
        self._was_owner = False
        self._stopping = False
        self._use(store)

    def _use(self, store: Store) -> None:
        """Make what goes with a database."""
        self.store = store
        self._register = SessionRegister(store, self.project, self.agents)
        self._factory = SessionFactory(
            store,
            self.site,
            place=lambda: self.project.place,
            limits=self._settings.limits,
            tracker=lambda: self.tracker,
            run=self._settings.delegated_commands,
            started=self._started,
            broken=self._broken,
        )
        self._upkeep = Upkeep(
            store,
            self.project.root,
            days=self._settings.log_days,
            size=self._settings.log_bytes,
            idle=self._settings.agent_idle_timeout,
            sessions=self._sessions,
            tracker=lambda: self.tracker,
            tasks=self._tasks,
        )

    @cached_property
    def tracker(self) -> ChangeTracker:
        """The changes of the project's files; made, and loaded, with the first session."""
        from .diffs.shadow import Shadow
        from .diffs.tracker import ChangeTracker

        name = hashlib.sha256(os.fsencode(self.project.root)).hexdigest()[:24]
        looking, folder = self.site.looking, self._settings.snapshots / name
        off = None if self._settings.follow_changes else "changes of files are not followed here (follow_changes)"
        shadow = Shadow(folder, self.project.root)
        if looking.confine is not None:
            shadow = Shadow(folder, self.project.root, confine=looking.confine(self.project.root, folder))
        return ChangeTracker(shadow, missing=off or looking.missing, place=self.project.place)

    # --- the project itself ------------------------------------------------------------------------------------------

    async def start_project(self) -> None:
        """Make the project ready for agents and commands; returns at once, `state` tells what comes of it."""
        if self.site.state not in ("running", "starting"):
            self._tasks.spawn(self._start_site(), "start-project")

    async def _start_site(self) -> None:
        try:
            await self.site.start()
        except ExecutorError as exc:
            log.warning("project=%s cannot be started: %s", self.project.id, exc)

    async def stop_project(self) -> None:
        """End the turns that run, the agents, and where the project runs. Conflict where that cannot be stopped."""
        if self.project.container is None:
            raise Conflict("this machine's own project runs as long as the server does", "not_stoppable")
        await asyncio.gather(*(session.halt() for session in self._sessions.values()))
        try:
            await self.site.stop()
        except ExecutorError as exc:
            raise Unavailable(str(exc), "not_stopped") from exc

    async def changed(self, project: Project) -> None:
        """The project is declared otherwise now, in the same folder. What runs goes on as it was begun."""
        self.project = self.agents.project = self._register.project = project
        await self.site.changed(project)

    # --- sessions ----------------------------------------------------------------------------------------------------

    def saved(self, path: str) -> None:
        """A person has saved a file through Jupyter."""
        if self._sessions:
            self.tracker.saved(path)

    async def ready(self) -> None:
        """Return once the database is open and every session that was left at work goes on.

        StoreError where the database cannot be opened. Unavailable while another server has the project: the one that
        started last has it, and an earlier one gets it back, when it is asked for something, once that has ended.
        """
        if self._letting_go is not None:
            await asyncio.shield(self._letting_go)
        if self._stopping:
            raise Unavailable("the project is let go of just now", "stopping")
        if self._starting is None:
            self._starting = asyncio.ensure_future(self._start())
        await asyncio.shield(self._starting)

    async def _start(self) -> None:
        try:
            await self._resume()
        except (Unavailable, StoreError) as exc:
            log.warning("project=%s cannot be served: %s", self.project.id, exc)
            await self._tasks.end()
            await self._detach(write=False)
            await self._close_store(None)
            # tried again by the next request
            self._starting = None
            raise

    async def _resume(self) -> None:
        """Open the database and go on with every session that an earlier coordinator left at work."""
        root = str(self.project.root)
        await self.site.open()
        await self.store.open()
        if self._was_owner and await is_taken(self.store, root):
            raise Unavailable(_TAKEN, "taken_over")
        ownership = Ownership(self.store, root)
        await ownership.take()
        self._ownership, self._was_owner = ownership, True
        self._tasks.spawn(self._look(ownership), "owner")
        await self.uploads.clean()
        await self._register.load()
        if self.store.set_aside is not None:
            await self._rebuild(self.store.set_aside)
        runners = [name.rpartition("/")[2] for name in await self.site.left()]
        for row in self._register.rows():
            left = any(name.startswith(row.id[:12]) for name in runners)
            if left or row.runner is not None or await self.store.turns(row.id, unfinished=True):
                try:
                    await self.get(row.id)
                except (NotFound, Unavailable) as exc:
                    log.warning("session=%s was not recovered: %s", row.id, exc)
        await self.site.recovered()
        self._upkeep.start()

    async def _look(self, ownership: Ownership) -> None:
        """Notice that another coordinator has claimed the project, though nothing is written here."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                if await ownership.is_lost():
                    self._let_go()
            except StoreError as exc:
                log.warning("project=%s the owner cannot be read: %s", self.project.id, exc)

    def _let_go(self) -> None:
        """Another coordinator has the project."""
        if self._letting_go is None and not self._stopping:
            log.warning("project=%s %s", self.project.id, _TAKEN)
            self._letting_go = asyncio.create_task(self._lose(), name="acp-let-go")

    async def _lose(self) -> None:
        try:
            await self._tasks.end()
            await self._detach(write=False)
            await self._close_store(NotOwner(_TAKEN))
        finally:
            self._starting = self._letting_go = None

    async def _detach(self, *, write: bool) -> None:
        sessions = list(self._sessions.values())
        await asyncio.gather(*(session.detach(write=write) for session in sessions), return_exceptions=True)
        self._sessions.clear()
        self._failed.clear()
        # made anew when the project is had again: another server may have written there meanwhile
        if (tracker := vars(self).pop("tracker", None)) is not None:
            await tracker.close()

    async def _close_store(self, reason: StoreError | None) -> None:
        if self._ownership is not None:
            await self._ownership.release()
            self._ownership = None
        await self.store.close(reason)
        self._use(Store(self.store.path))

    async def _rebuild(self, damaged: Path) -> None:
        """Sessions from the files beside the chats: all that is left where the database was damaged."""
        for path in await asyncio.to_thread(saved_chats, self.project.root):
            try:
                chat = await ChatFile.open(self.project.root, path, create=False, manager=self._chat_manager())
                row, _ = await self._register.find(chat, path)
                session = await self._take(row, chat, recover=True)
            except RequestError as exc:
                # whatever a project has put there must not keep the others from their sessions
                log.warning("the session of %s was not rebuilt: %s", path, exc)
                continue
            session.notice(
                "The record of earlier turns is gone",
                f"The server's database was damaged and is kept as {damaged.name}. The conversation is whole; the "
                "details of its earlier turns and requests that waited are not here any more.",
            )
            await session.journal.commit()

    async def stop(self) -> None:
        """Let every session go; running turns go on in their runners, unless the settings say that they end."""
        self._stopping = True
        under_way = self._letting_go or self._starting
        if under_way is not None and not under_way.done():
            # what it opens is closed below
            await asyncio.wait([under_way], timeout=_STOP_SECONDS)
        await self._tasks.end()
        if self._settings.end_turns_on_stop:
            await asyncio.gather(*(session.leave() for session in self._sessions.values()), return_exceptions=True)
        await self.site.close()
        await self._detach(write=True)
        await self._close_store(None)

    def summaries(self) -> list[JsonObject]:
        """Every open session of the project, newest first."""
        rows = sorted(self._register.rows(), key=lambda row: -row.created)
        return [self._sessions[row.id].summary() if row.id in self._sessions else _at_rest(row) for row in rows]

    async def get(self, session_id: str) -> Session:
        """The session, read from the database where it is not in memory. NotFound, or Unavailable without its agent."""
        if session := self._sessions.get(session_id):
            return session
        if failed := self._failed.get(session_id):
            raise failed
        async with self._opening:
            if session := self._sessions.get(session_id):
                return session
            row = self._register.get(session_id)
            if row is None or self._stopping:
                raise NotFound(f"there is no session {session_id}", "unknown_session")
            chat = await ChatFile.open(self.project.root, row.path, create=True, manager=self._chat_manager())
            return await self._take(row, chat, recover=True)

    async def open(
        self,
        path: str,
        *,
        agent: str | None = None,
        cwd: str | None = None,
        access: str | None = None,
        config: JsonObject | None = None,
        parent: str | None = None,
        preface: bool = False,
    ) -> tuple[Session, bool]:
        """The session of a chat and whether it is new; chat and session are made where they are missing.

        `path` is relative to the project, and so is `cwd`, the folder that the agent works in and may write with
        workspace-write; the project's own by default. BadRequest for a path that is no chat or a folder that is not of
        the project, NotFound for an unknown agent, Conflict where the chat has a session with another agent that has
        spoken already, or in another folder.
        """
        path = path.strip("/")
        if not path.endswith(".chat"):
            raise BadRequest("the path of a chat ends in .chat", "not_a_chat")
        folder = None if cwd is None else await asyncio.to_thread(self._register.folder, cwd)
        async with self._opening:
            row = self._register.at(path)
            if row is not None and row.id in self._sessions:
                found, is_new = self._sessions[row.id], False
            else:
                chat = await ChatFile.open(self.project.root, path, create=True, manager=self._chat_manager())
                if row is None:
                    row, is_new = await self._register.find(chat, path, agent=agent, parent=parent, preface=preface)
                    if is_new and folder is not None:
                        row = replace(row, cwd=folder)
                else:
                    is_new = False
                found = self._sessions.get(row.id) or await self._take(row, chat, recover=not is_new)
                if found.row.path != path:
                    await found.moved(path)
        if agent is not None and agent != found.row.agent:
            raise Conflict(f"this chat talks with {found.row.agent}; use a new chat for {agent}", "other_agent")
        if folder is not None and folder != found.row.cwd:
            raise Conflict(f"this chat works in {found.row.cwd}; use a new chat for {folder}", "other_folder")
        if access:
            await found.supervisor.set_access(access)
        if is_new and not found.chat.read_only:
            found.supervisor.warm_up()
        if config:
            await found.supervisor.configure(config)
        self._register.put(found.row)
        return found, is_new

    async def close(self, session_id: str) -> None:
        """End a session for good; the chat file stays."""
        session = await self.get(session_id)
        await session.close()
        self._sessions.pop(session_id, None)
        self._register.drop(session_id)

    async def discard_activity(self, session_id: str) -> None:
        """See `Upkeep.discard`."""
        await self._upkeep.discard(await self.get(session_id))

    async def enforce_limits(self) -> None:
        """See `Upkeep.enforce_limits`."""
        await self._upkeep.enforce_limits()

    async def fork(self, session_id: str, path: str) -> Session:
        """A new session with the conversation so far in a new chat; the old one is untouched."""
        old = await self.get(session_id)
        if self._register.at(path.strip("/")) is not None or (self.project.root / path).exists():
            raise Conflict(f"{path} exists already", "chat_exists")
        await old.chat.save()
        await old.chat.copy_to(path)
        session, _ = await self.open(
            path, agent=old.row.agent, cwd=old.row.cwd, access=old.row.access, parent=old.row.id, preface=True
        )
        return session

    async def moved(self, source: str, target: str) -> None:
        """A file or folder was renamed through Jupyter: the chats in it keep their sessions."""
        for session_id, path in self._below(source):
            session = await self.get(session_id)
            await session.moved(target + path[len(source) :])
            self._register.put(session.row)

    async def deleted(self, path: str) -> None:
        """A file or folder was deleted through Jupyter: the sessions of its chats end."""
        for session_id, _ in self._below(path):
            await self.close(session_id)

    def _below(self, path: str) -> list[tuple[str, str]]:
        rows = [self._sessions[row.id].row if row.id in self._sessions else row for row in self._register.rows()]
        return [(row.id, row.path) for row in rows if row.path == path or row.path.startswith(path + "/")]

    async def _take(self, row: SessionRow, chat: ChatFile, *, recover: bool) -> Session:
        session = await self._factory.make(row, chat, self.agents.get(row.agent))
        self._sessions[row.id] = session
        self._register.put(row)
        if session.journal.last_seq == 0:
            session.created()
            await session.journal.commit(durable=True)
        if recover:
            await session.recover(await self.store.turns(row.id, unfinished=True))
        else:
            session.open()
        return session

    def _broken(self, session: Session, error: BaseException) -> None:
        """Drop a session that cannot be written, and open it again from what the disk has."""
        if isinstance(error, NotOwner):
            self._let_go()
            return
        self._sessions.pop(session.row.id, None)
        reason = "taken_over" if isinstance(error, TakenOver) else "not_recorded"
        self._failed[session.row.id] = Unavailable(f"{error}. It goes on by itself once that is mended.", reason)
        self._tasks.spawn(self._reopen(session, error), f"reopen-{session.row.id}")

    async def _reopen(self, session: Session, error: BaseException) -> None:
        id = session.row.id
        if isinstance(error, TakenOver) and await self._is_lost():
            self._sessions[id] = session
            self._let_go()
            return
        self.store.end_followers(id, StoreError(str(error)))
        await session.detach(write=False)
        while not self._stopping:
            await asyncio.sleep(REOPEN_SECONDS)
            try:
                if await self._is_lost():
                    self._let_go()
                    return
                row = await self.store.session(id)
                if row is not None and not row.closed:
                    # The agent is taken over only once what it says can be recorded.
                    await self.store.append(id, [], [row.save()], durable=True)
                    self._register.put(row)
                    del self._failed[id]
                    await self.get(id)
                return
            except Exception as exc:  # whatever keeps the disk from answering: said, and tried again
                log.warning("session=%s cannot be opened again yet: %s", id, exc)
                self._failed.setdefault(id, Unavailable(str(exc), "not_recorded"))

    async def _is_lost(self) -> bool:
        return self._ownership is None or await self._ownership.is_lost()


def _at_rest(row: SessionRow) -> JsonObject:
    """The part of a summary that needs nothing opened."""
    return {
        "id": row.id,
        "project": row.project,
        "path": row.path,
        "title": row.title,
        "agent": row.agent,
        "agent_session_id": row.agent_session_id,
        "state": "idle",
        "turns": [],
        "permissions": [],
        "created": row.created,
        "parent": row.parent,
    }
