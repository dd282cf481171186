"""Sessions by id: opens them, finds them again after a restart, lets them go. The one coordinator of a server."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import time
import uuid
from collections.abc import Callable, Collection, Coroutine
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .access import READ_ONLY, WORKSPACE_WRITE
from .agentspec import AgentSpec, Catalogue
from .chatfile import ChatFile
from .delegation import Delegation
from .editortexts import EditorTexts
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
from .host import AgentHost
from .kernel_exec.base import Run
from .kernel_exec.paths import Root
from .kernel_exec.terminals import Started
from .ownership import LOOK_SECONDS, Ownership, is_taken
from .projects.base import Project
from .records import SessionRow
from .recovery import NEWEST_TURNS, unanswered
from .retention import Retention
from .runner_link import TakenOver
from .session import Limits, Session
from .sessionfile import SessionFile, saved_chats
from .sites.base import Site, State
from .store import Store
from .uploads import Uploads

if TYPE_CHECKING:
    from .diffs.tracker import ChangeTracker

log = logging.getLogger(__name__)

REOPEN_SECONDS = 2.0
#: that the end of a server waits for a start that is under way
_STOP_SECONDS = 10.0
_TAKEN = "another Jupyter server, started later, has taken over the agents of this folder; use that one, or stop it"
#: after the start, when people wait for their first page; then as often as that
FIRST_ROUND_SECONDS = 60.0
ROUND_SECONDS = 3600.0


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
        self.store = store
        self.project = project
        self.site = site
        self.catalogue = catalogue
        self._settings = settings
        self.uploads = Uploads(
            project.root, limit=settings.upload_limit, keep=settings.upload_keep, place=project.place
        )
        self._chat_manager = chat_manager
        self._started = started
        self._retention = self._limits_of(store)
        self._sessions: dict[str, Session] = {}
        # why a session cannot be written now, and so is not served
        self._failed: dict[str, Unavailable] = {}
        self._rows: dict[str, SessionRow] = {}
        self._opening = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._starting: asyncio.Future[None] | None = None
        self._ownership: Ownership | None = None
        self._letting_go: asyncio.Task[None] | None = None
        self._was_owner = False
        self._stopping = False

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

    @property
    def access(self) -> list[JsonObject]:
        """Every kind of access, with why some cannot be had here."""
        return self.site.access

    @property
    def state(self) -> State:
        """Whether the project's commands and agents can be started at once."""
        return self.site.state

    @property
    def error(self) -> str | None:
        """Why the project could not be started the last time."""
        return self.site.error

    @property
    def warning(self) -> str | None:
        """See `Site.warning`."""
        return self.site.warning

    @property
    def default_agent(self) -> str:
        """The agent of a new chat."""
        allowed, configured = self.project.agents, self.catalogue.configured
        if allowed is not None:
            return configured if configured and configured in allowed else next(iter(allowed), "demo")
        # what is installed on this machine says nothing of a container
        return self.catalogue.default if self.project.container is None else configured or "demo"

    def agent(self, id: str) -> AgentSpec:
        """An agent as it is used in this project. NotFound."""
        spec, allowed = self.catalogue.get(id), self.project.agents
        if allowed is None:
            return spec
        if id not in allowed:
            raise NotFound(f"agent {id!r} is not one of this project", "agent_not_found")
        return replace(spec, placement=allowed[id] or spec.placement)

    async def agents(self) -> list[JsonObject]:
        """What people of this project choose from, the default one first."""
        allowed = self.catalogue.specs if self.project.agents is None else self.project.agents
        specs = [self.agent(id) for id in allowed if id in self.catalogue.specs]
        described = await self.catalogue.describe(specs, self.default_agent)
        inside = {spec.id: spec for spec in specs if spec.placement == "project"}
        if self.project.container is None or not inside:
            return described
        there = await self.site.programs([spec.argv("python3")[0] for spec in inside.values()])
        return [
            {**agent, **_inside(inside[agent["id"]], there)} if agent["id"] in inside else agent for agent in described
        ]

    async def start_project(self) -> None:
        """Make the project ready for agents and commands; returns at once, `state` tells what comes of it."""
        if self.site.state not in ("running", "starting"):
            self._spawn(self._start_site(), "start-project")

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

    async def project_log(self) -> str:
        """The end of what the project's own server has written."""
        return await self.site.log()

    async def changed(self, project: Project) -> None:
        """The project is declared otherwise now, in the same folder. What runs goes on as it was begun."""
        self.project = project
        await self.site.changed(project)

    def usage(self) -> JsonObject | None:
        """What it has used of the model providers; None where that is not counted."""
        return self.site.usage()

    # --- sessions ----------------------------------------------------------------------------------------------------

    def saved(self, path: str) -> None:
        """A person has saved a file through Jupyter."""
        if self._sessions:
            self.tracker.saved(path)

    def _limits_of(self, store: Store) -> Retention:
        return Retention(
            store,
            str(self.project.root),
            days=self._settings.log_days,
            size=self._settings.log_bytes,
            spare=self._spare,
            removed=self._log_begins,
        )

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
            await self._end_tasks()
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
        self._spawn(self._look(ownership), "owner")
        await self.uploads.clean()
        for row in await self.store.sessions(root):
            self._rows[row.id] = row
        if self.store.set_aside is not None:
            await self._rebuild(self.store.set_aside)
        runners = [name.rpartition("/")[2] for name in await self.site.left()]
        for row in list(self._rows.values()):
            left = any(name.startswith(row.id[:12]) for name in runners)
            if left or row.runner is not None or await self.store.turns(row.id, unfinished=True):
                try:
                    await self.get(row.id)
                except (NotFound, Unavailable) as exc:
                    log.warning("session=%s was not recovered: %s", row.id, exc)
        await self.site.recovered()
        self._spawn(self._keep_limits(), "retention")
        if self._settings.agent_idle_timeout > 0:
            self._spawn(self._rest(self._settings.agent_idle_timeout), "rest")

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
            await self._end_tasks()
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
        self._rows.clear()
        self.store = Store(self.store.path)
        self._retention = self._limits_of(self.store)

    async def _end_tasks(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _rebuild(self, damaged: Path) -> None:
        """Sessions from the files beside the chats: all that is left where the database was damaged."""
        for path in await asyncio.to_thread(saved_chats, self.project.root):
            try:
                chat = await ChatFile.open(self.project.root, path, create=False, manager=self._chat_manager())
                row, _ = await self._find(chat, path, None, None, False)
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
        await self._end_tasks()
        if self._settings.end_turns_on_stop:
            await asyncio.gather(*(session.leave() for session in self._sessions.values()), return_exceptions=True)
        await self.site.close()
        await self._detach(write=True)
        await self._close_store(None)

    def summaries(self) -> list[JsonObject]:
        """Every open session of the project, newest first."""
        rows = sorted(self._rows.values(), key=lambda row: -row.created)
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
            row = self._rows.get(session_id)
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
        folder = None if cwd is None else await asyncio.to_thread(self._folder, cwd)
        async with self._opening:
            row = next((r for r in self._rows.values() if r.path == path), None)
            if row is not None and row.id in self._sessions:
                found, is_new = self._sessions[row.id], False
            else:
                chat = await ChatFile.open(self.project.root, path, create=True, manager=self._chat_manager())
                if row is None:
                    row, is_new = await self._find(chat, path, agent, parent, preface)
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
            await found.set_access(access)
        if is_new and not found.chat.read_only:
            found.warm_up()
        if config:
            await found.configure(config)
        self._rows[found.row.id] = found.row
        return found, is_new

    def _kept(self, saved: SessionFile) -> dict[str, Any]:
        """Folder and access of a session that is rebuilt."""
        try:
            return {"cwd": self._folder(saved.cwd), "access": saved.access}
        except BadRequest:
            # The project was moved, or the folder is gone: nothing may become writable that was not.
            return {"access": READ_ONLY if saved.access == WORKSPACE_WRITE else saved.access}

    def _folder(self, cwd: str) -> str:
        """A folder of the project that somebody names, whole."""
        with contextlib.closing(Root(self.project.root)) as root:
            try:
                inner = root.beneath(self.project.found(cwd))
            except ExecutorError as exc:
                raise BadRequest(f"cwd is not a folder of the project: {exc}", "bad_cwd") from exc
            inner.close()
            return self.project.named(inner.path)

    async def close(self, session_id: str) -> None:
        """End a session for good; the chat file stays."""
        session = await self.get(session_id)
        await session.close()
        self._sessions.pop(session_id, None)
        self._rows.pop(session_id, None)

    async def discard_activity(self, session_id: str) -> None:
        """Remove what turns that have ended left in the log of a session; the conversation stays.

        Returns once it is gone. Conflict where the chat file cannot be written: only the log has the newest answers.
        """
        session = await self.get(session_id)
        await session.conversation.close()  # writes what waits; it goes on afterwards
        await self._retention.discard(session_id)
        await self.tracker.forget(session_id)
        await session.activity_discarded()
        self._spawn(self._retention.vacuum(), "vacuum")

    async def enforce_limits(self) -> None:
        """One round of what DESIGN 8 says of the log: activity that is too old or too much goes."""
        await self._retention.round()
        await self.tracker.keep_limits(days=self._settings.log_days, size=self._settings.log_bytes)

    async def fork(self, session_id: str, path: str) -> Session:
        """A new session with the conversation so far in a new chat; the old one is untouched."""
        old = await self.get(session_id)
        if any(row.path == path.strip("/") for row in self._rows.values()) or (self.project.root / path).exists():
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
            self._rows[session_id] = session.row

    async def deleted(self, path: str) -> None:
        """A file or folder was deleted through Jupyter: the sessions of its chats end."""
        for session_id, _ in self._below(path):
            await self.close(session_id)

    def _below(self, path: str) -> list[tuple[str, str]]:
        rows = [self._sessions[id].row if id in self._sessions else row for id, row in self._rows.items()]
        return [(row.id, row.path) for row in rows if row.path == path or row.path.startswith(path + "/")]

    async def _find(
        self, chat: ChatFile, path: str, agent: str | None, parent: str | None, preface: bool
    ) -> tuple[SessionRow, bool]:
        """The session that an unknown chat belongs to: a moved one, one rebuilt from its file, or a new one."""
        same = next((row for row in self._rows.values() if row.chat_id == chat.id), None)
        if same is not None and not (self.project.root / same.path).exists():
            return same, False
        access: str | None = None
        saved = await chat.load_session()
        elsewhere = await self.store.session(saved.session) if saved is not None else None
        is_copy = (
            same is not None
            or (saved is not None and saved.chat_id != chat.id)
            # the whole project was copied: that session goes on over there
            or (elsewhere is not None and self._is_elsewhere(elsewhere))
        )
        if is_copy:
            # A copy: it is another conversation from here on.
            await chat.new_identity()
            access = saved.access if saved is not None else None
            saved = elsewhere = None
        if elsewhere is not None and not elsewhere.closed and elsewhere.root != str(self.project.root):
            # the project was moved as a whole: its log and maybe a running agent go with it
            root = self.project.root
            cwd = Path(elsewhere.cwd)
            if cwd.is_relative_to(elsewhere.root):
                cwd = root / cwd.relative_to(elsewhere.root)
            row = replace(elsewhere, root=str(root), project=self.project.id, path=path, cwd=str(cwd))
            await self.store.append(row.id, [], [row.save()], durable=True)
            return row, False
        if saved is not None and agent not in (None, saved.agent) and not chat.page(limit=1).messages:
            # nothing was said yet, so another agent may have the chat
            saved = None
        if saved is not None and saved.session not in self._rows:
            spec = self.agent(saved.agent)
            row = self._row(chat, path, spec, saved)
        else:
            spec = self.agent(agent or self.default_agent)
            row = self._row(chat, path, spec, None)
        if access is not None:
            # a copy must not be able to do more
            row = replace(row, access=access)
        if parent is not None or preface:
            row = replace(row, parent=parent, preface=preface)
        return row, True

    def _is_elsewhere(self, row: SessionRow) -> bool:
        return row.root != str(self.project.root) and (Path(row.root) / row.path).exists()

    def _row(self, chat: ChatFile, path: str, spec: AgentSpec, saved: SessionFile | None) -> SessionRow:
        row = SessionRow(
            id=uuid.uuid4().hex,
            root=str(self.project.root),
            project=self.project.id,
            path=path,
            chat_id=chat.id,
            agent=spec.id,
            cwd=self.project.place,
            title=path.rsplit("/", 1)[-1].removesuffix(".chat"),
            created=time.time(),
        )
        if saved is None:
            return row
        return replace(
            row,
            id=saved.session,
            agent_session_id=saved.agent_session_id,
            **self._kept(saved),
            config=dict(saved.config),
            parent=saved.parent,
            created=saved.created,
        )

    async def _take(self, row: SessionRow, chat: ChatFile, *, recover: bool) -> Session:
        from .turnchanges import TurnChanges

        spec = self.agent(row.agent)
        session = Session(
            row,
            store=self.store,
            chat=chat,
            spec=spec,
            first_seq=await self.store.first_seq(row.id) or 1,
            last_seq=await self.store.last_seq(row.id),
            position=await self.store.last_turn_position(row.id),
            turn_ids=await self.store.turn_ids(row.id),
            host=lambda inbox: AgentHost(row.id, inbox, self.site.launcher(spec, lambda: self._sessions[row.id].row)),
            delegation=self._delegation if spec.delegates else None,
            changes=TurnChanges(self.tracker, row.id, row.cwd),
            limits=self._settings.limits,
            access=self.site.access,
            broken=self._broken,
        )
        self._sessions[row.id] = session
        self._rows[row.id] = row
        if session.journal.last_seq == 0:
            session.created()
            await session.journal.commit(durable=True)
        if recover:
            await session.recover(await self.store.turns(row.id, unfinished=True))
        else:
            session.open()
        return session

    def _delegation(self, session: Session) -> Delegation:
        return Delegation.for_session(
            session.row.id,
            self.site.executor(lambda: session.row),
            self.store,
            session.journal,
            session.inbox,
            session.changes,
            lambda: session.host.connection,
            run=self._settings.delegated_commands,
            started=self._started,
            texts=EditorTexts(self.project.place),
            cwd=session.row.cwd,
        )

    async def _rest(self, idle: float) -> None:
        """For ever: end the agents that nobody needs now."""
        while True:
            await asyncio.sleep(min(ROUND_SECONDS, idle) / 60)
            for session in list(self._sessions.values()):
                try:
                    if await session.rest(idle):
                        log.info("session=%s its agent was ended after %.0f s without a request", session.row.id, idle)
                except StoreError as exc:
                    log.warning("session=%s its idle agent was not ended: %s", session.row.id, exc)

    async def _keep_limits(self) -> None:
        """For ever: a round now and then."""
        await asyncio.sleep(FIRST_ROUND_SECONDS)
        while True:
            try:
                await self.enforce_limits()
            except StoreError as exc:
                log.warning("old activity was not removed: %s", exc)
            await asyncio.sleep(ROUND_SECONDS)

    async def _spare(self, session_id: str, through: int) -> int:
        """How much of a log up to `through` is not needed: a restart completes the chat file from the newest turns."""
        newest = await self.store.newest_turns(session_id, NEWEST_TURNS)
        row = await self.store.session(session_id)
        if row is None or not newest or through < (newest[0].started_seq or 0):
            return through
        try:
            # the file, not what a session has in memory
            chat = await ChatFile.look(self.project.root, row.path)
        except NotFound:
            return through  # a person has deleted the conversation
        except (RequestError, OSError) as exc:
            log.warning("session=%s the newest activity is kept, the chat cannot be read: %s", session_id, exc)
            return min(through, (newest[0].started_seq or 0) - 1)
        if chat.read_only is None and chat.id != row.chat_id:
            return through  # another conversation has taken its place
        return min([through, *((turn.started_seq or 0) - 1 for turn in unanswered(newest, chat))])

    def _log_begins(self, session_id: str, first_seq: int) -> None:
        if session := self._sessions.get(session_id):
            session.first_seq = first_seq

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.create_task(work, name=f"acp-{name}")
        self._tasks.add(task)
        task.add_done_callback(self._reaped)

    def _reaped(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (exc := task.exception()) is not None:
            log.error("%s failed", task.get_name(), exc_info=exc)

    def _broken(self, session: Session, error: BaseException) -> None:
        """Drop a session that cannot be written, and open it again from what the disk has."""
        if isinstance(error, NotOwner):
            self._let_go()
            return
        self._sessions.pop(session.row.id, None)
        reason = "taken_over" if isinstance(error, TakenOver) else "not_recorded"
        self._failed[session.row.id] = Unavailable(f"{error}. It goes on by itself once that is mended.", reason)
        self._spawn(self._reopen(session, error), f"reopen-{session.row.id}")

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
                    self._rows[id] = row
                    del self._failed[id]
                    await self.get(id)
                return
            except Exception as exc:  # whatever keeps the disk from answering: said, and tried again
                log.warning("session=%s cannot be opened again yet: %s", id, exc)
                self._failed.setdefault(id, Unavailable(str(exc), "not_recorded"))

    async def _is_lost(self) -> bool:
        return self._ownership is None or await self._ownership.is_lost()


def _inside(spec: AgentSpec, there: Collection[str] | None) -> JsonObject:
    """What people are told of an agent in a container that has these programs; None where it does not run."""
    command = spec.argv("python3")
    told: JsonObject = {"command": command, "version": None, "available": True, "hint": None}
    if there is None:
        return {**told, "hint": "Whether it is installed is known once the project runs"}
    if command[0] in there:
        return told
    return {**told, "available": False, "hint": f"Not installed in the project's image: {spec.install or command[0]}"}


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
