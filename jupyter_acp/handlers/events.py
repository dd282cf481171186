"""The log, read once or followed. Replay and live are the same read."""

from __future__ import annotations

import asyncio
from typing import Any

from tornado import web
from tornado.websocket import WebSocketClosedError

from ..editortexts import EditorTexts
from ..exceptions import AcpError, RequestError
from ..projects.base import Role
from .base import AcpHandler, AcpSocket, ProjectAccess, route, username


class EventsHandler(AcpHandler):
    """GET …/events"""

    @route
    async def get(self, project_id: str, session_id: str) -> None:
        coordinator = await self.coordinator(project_id)
        await coordinator.get(session_id)
        after, limit = self.number("after", 0), self.number("limit", 1000, 1, 5000)
        self.finish_events(await coordinator.store.read(session_id, after, limit))


class SubscribeHandler(AcpSocket):
    """WS …/events/subscribe: JSON arrays of events, the backlog first."""

    def initialize(self, access: ProjectAccess) -> None:
        self.access = access
        self._sending: asyncio.Task[None] | None = None
        self._texts: EditorTexts | None = None

    async def get(self, project_id: str, session_id: str) -> None:
        await self.check("read")
        self._project_id = project_id
        try:
            await self.access.ready()
            name = username(self.current_user, self.settings)
            _, self._role = self.access.project(project_id, name, Role.VIEWER)
            self._coordinator = await self.access.serving(project_id, name, Role.VIEWER)
            session = await self._coordinator.get(session_id)
        except RequestError as exc:
            raise web.HTTPError(exc.status, exc.message) from exc
        except AcpError as exc:
            raise web.HTTPError(503, str(exc)) from exc
        after = self.get_query_argument("after", "0")
        if not (after.isascii() and after.isdigit() and len(after) < 16):
            raise web.HTTPError(400, "after must be a number")
        self._after = int(after)
        if client := self.get_query_argument("client", ""):
            self._client, self._texts = (name, client), session.editor_texts
        self._session_id = session_id
        await super().get(project_id, session_id)

    async def open(self, *args: Any, **kwargs: Any) -> None:
        if self._texts is not None:
            self._texts.connected(self._client)
        await super().open(*args, **kwargs)
        self.access.hub.watchers.add(self._check_membership)
        self._check_membership()
        self._sending = asyncio.create_task(self._send(), name="acp-subscriber")

    async def _send(self) -> None:
        try:
            async for events in self._coordinator.store.follow(self._session_id, self._after):
                # Awaited: a slow reader is served from the database, not from our memory.
                await self.write_message("[" + ",".join(events) + "]")
        except WebSocketClosedError:
            pass
        except AcpError as exc:
            self.close(1011, str(exc)[:100])

    def _check_membership(self) -> None:
        """Close where the person may not read here any more, or may do more or less than when it was opened."""
        try:
            _, role = self.access.project(self._project_id, username(self.current_user, self.settings), Role.VIEWER)
        except RequestError:
            self.close(4403, "you are not a member of this project any more")
        except Exception as exc:  # a directory of others: who may read is not known, so nobody does
            self.log_exception(type(exc), exc, exc.__traceback__)
            self.close(1011, "whether you are a member of this project cannot be told")
        else:
            if role is not self._role:
                self.close(4409, "your role in this project has changed: connect again")

    def on_message(self, message: str | bytes) -> None:
        """Nothing comes up this socket: commands go by REST."""

    def on_close(self) -> None:
        self.access.hub.watchers.discard(self._check_membership)
        if self._sending is not None:
            self._sending.cancel()
        if self._texts is not None:
            self._texts.disconnected(self._client)
        super().on_close()
