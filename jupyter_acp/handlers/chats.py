"""The conversation as people read it: pages of messages, their own edits, reactions, and the export."""

from __future__ import annotations

import json
from typing import Any

from ..exceptions import BadRequest, Unavailable
from ..projects.base import Role
from .base import AcpHandler, route


class MessagesHandler(AcpHandler):
    """GET …/messages"""

    @route
    async def get(self, project_id: str, session_id: str) -> None:
        session = await self.session(project_id, session_id)
        before = self.get_query_argument("before", None)
        try:
            # jupyterlab-chat or an editor may have written it meanwhile
            await session.chat.reload_if_changed()
        except OSError as exc:
            raise Unavailable(f"the chat cannot be read: {exc}", "chat_unreadable") from exc
        page = session.chat.page(before=before, limit=self.number("limit", 50, 1, 500))
        self.finish_json({"messages": page.messages, "has_more": page.has_more, "users": page.users})


class MessageHandler(AcpHandler):
    """PATCH, DELETE …/messages/{mid}"""

    @route
    async def patch(self, project_id: str, session_id: str, message_id: str) -> None:
        session = await self.session(project_id, session_id, Role.COLLABORATOR)
        text = self.body("text").get("text")
        if not isinstance(text, str) or not text.strip():
            raise BadRequest("text is missing")
        session.edit_message(message_id, text, self.username)
        self.set_status(204)
        self.finish()

    @route
    async def delete(self, project_id: str, session_id: str, message_id: str) -> None:
        session = await self.session(project_id, session_id, Role.COLLABORATOR)
        session.delete_message(message_id, self.username)
        self.set_status(204)
        self.finish()


class ReactionHandler(AcpHandler):
    """PUT, DELETE …/messages/{mid}/reactions/{name}"""

    @route
    async def put(self, project_id: str, session_id: str, message_id: str, name: str) -> None:
        self.body()
        await self._react(project_id, session_id, message_id, name, True)

    @route
    async def delete(self, project_id: str, session_id: str, message_id: str, name: str) -> None:
        await self._react(project_id, session_id, message_id, name, False)

    async def _react(self, project_id: str, session_id: str, message_id: str, name: str, on: bool) -> None:
        session = await self.session(project_id, session_id, Role.COLLABORATOR)
        session.react(message_id, name, self.username, on)
        self.set_status(204)
        self.finish()


class ExportHandler(AcpHandler):
    """GET …/export"""

    @route
    async def get(self, project_id: str, session_id: str) -> None:
        from ..export import to_markdown  # seldom wanted

        coordinator = await self.coordinator(project_id)
        session = await coordinator.get(session_id)
        detail = self.get_query_argument("detail", "compact")
        if self.get_query_argument("format", "markdown") != "markdown" or detail not in ("compact", "full"):
            raise BadRequest("format is markdown, detail compact or full")
        thinking = self.get_query_argument("thinking", "0") == "1"
        events: list[dict[str, Any]] = []
        after = 0
        while (detail == "full" or thinking) and (batch := await coordinator.store.read(session_id, after)):
            events += map(json.loads, batch)
            after = events[-1]["seq"]
        text = to_markdown(session, events, detail=detail, thinking=thinking)
        name = session.row.path.rsplit("/", 1)[-1].removesuffix(".chat")
        self.set_header("Content-Type", "text/markdown; charset=utf-8")
        self.set_header("Content-Disposition", f"attachment; filename*=UTF-8''{_quoted(name)}.md")
        self.finish(text)


def _quoted(name: str) -> str:
    from urllib.parse import quote

    return quote(name, safe="")
