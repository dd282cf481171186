"""Which session a chat belongs to: the open sessions of a project by id, path and chat.

Theory of operation. A chat says who it is (its id), and the session file beside it which session it had. From both, and
from what the database has, it follows whether the chat was moved or copied, with its project or alone, or lost its
database.
"""

from __future__ import annotations

import contextlib
import time
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

from .access import READ_ONLY, WORKSPACE_WRITE
from .agentchoice import AgentChoice
from .agentspec import AgentSpec
from .chatfile import ChatFile
from .exceptions import BadRequest, ExecutorError
from .kernel_exec.paths import Root
from .projects.base import Project
from .records import SessionRow
from .sessionfile import SessionFile
from .store import Store


class SessionRegister:
    """The rows of one project's open sessions. `project` is as it is declared now."""

    def __init__(self, store: Store, project: Project, agents: AgentChoice) -> None:
        self.project = project
        self._store = store
        self._agents = agents
        self._rows: dict[str, SessionRow] = {}

    async def load(self) -> None:
        """Read what the database has."""
        for row in await self._store.sessions(str(self.project.root)):
            self._rows[row.id] = row

    def rows(self) -> list[SessionRow]:
        """All of them."""
        return list(self._rows.values())

    def get(self, session_id: str) -> SessionRow | None:
        """The session of this id."""
        return self._rows.get(session_id)

    def at(self, path: str) -> SessionRow | None:
        """The session whose chat is at `path`."""
        return next((row for row in self._rows.values() if row.path == path), None)

    def put(self, row: SessionRow) -> None:
        """Add a session, or what has changed of it."""
        self._rows[row.id] = row

    def drop(self, session_id: str) -> None:
        """The session has ended."""
        self._rows.pop(session_id, None)

    def folder(self, cwd: str) -> str:
        """A folder of the project that somebody names, whole."""
        with contextlib.closing(Root(self.project.root)) as root:
            try:
                inner = root.beneath(self.project.found(cwd))
            except ExecutorError as exc:
                raise BadRequest(f"cwd is not a folder of the project: {exc}", "bad_cwd") from exc
            inner.close()
            return self.project.named(inner.path)

    async def find(
        self,
        chat: ChatFile,
        path: str,
        *,
        agent: str | None = None,
        parent: str | None = None,
        preface: bool = False,
    ) -> tuple[SessionRow, bool]:
        """The session that an unknown chat belongs to, and whether it is new here.

        It is one whose chat or project was moved, one rebuilt from its file, or a new one with `agent`; a copy of a
        chat gets a new one too. NotFound for an unknown agent.
        """
        same = next((row for row in self._rows.values() if row.chat_id == chat.id), None)
        if same is not None and not (self.project.root / same.path).exists():
            return same, False
        access: str | None = None
        saved = await chat.load_session()
        elsewhere = await self._store.session(saved.session) if saved is not None else None
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
            await self._store.append(row.id, [], [row.save()], durable=True)
            return row, False
        if saved is not None and agent not in (None, saved.agent) and not chat.page(limit=1).messages:
            # nothing was said yet, so another agent may have the chat
            saved = None
        if saved is not None and saved.session not in self._rows:
            spec = self._agents.get(saved.agent)
            row = self._row(chat, path, spec, saved)
        else:
            spec = self._agents.get(agent or self._agents.default)
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

    def _kept(self, saved: SessionFile) -> dict[str, Any]:
        """Folder and access of a session that is rebuilt."""
        try:
            return {"cwd": self.folder(saved.cwd), "access": saved.access}
        except BadRequest:
            # The project was moved, or the folder is gone: nothing may become writable that was not.
            return {"access": READ_ONLY if saved.access == WORKSPACE_WRITE else saved.access}
