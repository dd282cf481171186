"""Turns: queue, edit, withdraw, stop, and the answers to what an agent asks."""

from __future__ import annotations

import re

from ..exceptions import BadRequest
from ..projects.base import Role
from .base import AcpHandler, route

_TURN_ID = re.compile(r"[A-Za-z0-9_.-]{1,100}")


class TurnsHandler(AcpHandler):
    """POST …/turns"""

    @route
    async def post(self, project_id: str, session_id: str) -> None:
        session = await self.session(project_id, session_id, Role.COLLABORATOR)
        body = self.body("id", "prompt", "access", "config")
        turn_id, config, access = body.get("id"), body.get("config"), body.get("access")
        if not isinstance(turn_id, str) or not _TURN_ID.fullmatch(turn_id):
            raise BadRequest("id must be 1 to 100 letters, digits, '_', '.' or '-'")
        if config is not None and not isinstance(config, dict):
            raise BadRequest("config must be an object")
        if access is not None:
            await session.supervisor.set_access(access)
        turn = await session.submit(turn_id, body.get("prompt"), self.user, config)
        place = session.turns.place(turn.id)
        self.finish_json({"id": turn.id, "state": turn.state, "position": place}, 202)


class TurnHandler(AcpHandler):
    """PATCH, DELETE …/turns/{tid}"""

    @route
    async def patch(self, project_id: str, session_id: str, turn_id: str) -> None:
        session = await self.session(project_id, session_id, Role.COLLABORATOR)
        turn = await session.edit(turn_id, self.body("prompt").get("prompt"))
        self.finish_json({"id": turn.id, "state": turn.state, "position": session.turns.place(turn.id)})

    @route
    async def delete(self, project_id: str, session_id: str, turn_id: str) -> None:
        session = await self.session(project_id, session_id, Role.COLLABORATOR)
        await session.withdraw(turn_id)
        self.set_status(204)
        self.finish()


class SendNowHandler(AcpHandler):
    """POST …/turns/{tid}/send-now"""

    @route
    async def post(self, project_id: str, session_id: str, turn_id: str) -> None:
        session = await self.session(project_id, session_id, Role.COLLABORATOR)
        self.body()
        await session.send_now(turn_id)
        self.finish_json({"id": turn_id}, 202)


class ActivityHandler(AcpHandler):
    """GET …/turns/{tid}/activity"""

    @route
    async def get(self, project_id: str, session_id: str, turn_id: str) -> None:
        coordinator = await self.coordinator(project_id)
        await coordinator.get(session_id)
        after, limit = self.number("after", 0), self.number("limit", 5000, 1, 5000)
        self.finish_events(await coordinator.store.turn_events(session_id, turn_id, after, limit))


class DiffHandler(AcpHandler):
    """GET …/turns/{tid}/diff"""

    @route
    async def get(self, project_id: str, session_id: str, turn_id: str) -> None:
        session = await self.session(project_id, session_id)
        self.finish_json(await session.diff(turn_id))


class RevertHandler(AcpHandler):
    """POST …/turns/{tid}/revert"""

    @route
    async def post(self, project_id: str, session_id: str, turn_id: str) -> None:
        session = await self.session(project_id, session_id, Role.COLLABORATOR)
        paths = self.body("paths").get("paths")
        if paths is not None and not (isinstance(paths, list) and all(isinstance(path, str) for path in paths)):
            raise BadRequest("paths must be a list of paths")
        self.finish_json({"reverted": await session.revert(turn_id, paths, self.username)})


class InterruptHandler(AcpHandler):
    """POST …/interrupt"""

    @route
    async def post(self, project_id: str, session_id: str) -> None:
        session = await self.session(project_id, session_id, Role.COLLABORATOR)
        turn = self.body("turn").get("turn")
        if turn is not None and not isinstance(turn, str):
            raise BadRequest("turn must be the id of a turn")
        await session.interrupt(turn)
        self.finish_json({}, 202)


class PermissionHandler(AcpHandler):
    """POST …/permissions/{rid}"""

    @route
    async def post(self, project_id: str, session_id: str, question_id: str) -> None:
        coordinator = await self.coordinator(project_id, Role.COLLABORATOR)
        session = await coordinator.get(session_id)
        body = self.body("option_id", "content")
        option = body.get("option_id")
        if not isinstance(option, str):
            raise BadRequest("option_id is missing")
        decides = coordinator.project.requester_decides
        await session.answer(question_id, option, body.get("content"), self.username, requester_decides=decides)
        self.set_status(204)
        self.finish()


class UploadsHandler(AcpHandler):
    """POST …/uploads"""

    @route
    async def post(self, project_id: str, session_id: str) -> None:
        coordinator = await self.coordinator(project_id, Role.COLLABORATOR)
        await coordinator.get(session_id)
        name = self.get_query_argument("name", "")
        kind = self.request.headers.get("Content-Type", "")
        self.finish_json(await coordinator.uploads.add(self.request.body, name=name, mime_type=kind), 201)
