"""Sessions of a project: list, open, change, close, and what is done to their agents."""

from __future__ import annotations

from ..exceptions import BadRequest, Unsupported
from ..projects.base import Role
from .base import AcpHandler, route


def _text(body: dict[str, object], name: str) -> str | None:
    value = body.get(name)
    if value is not None and not isinstance(value, str):
        raise BadRequest(f"{name} must be text")
    return value


def _object(body: dict[str, object], name: str) -> dict[str, object] | None:
    value = body.get(name)
    if value is not None and not isinstance(value, dict):
        raise BadRequest(f"{name} must be an object")
    return value


class SessionsHandler(AcpHandler):
    """GET, POST /projects/{pid}/sessions"""

    @route
    async def get(self, project_id: str) -> None:
        self.finish_json((await self.coordinator(project_id)).summaries())

    @route
    async def post(self, project_id: str) -> None:
        coordinator = await self.coordinator(project_id, Role.COLLABORATOR)
        body = self.body("path", "agent", "cwd", "access", "config")
        path = _text(body, "path")
        if not path:
            raise BadRequest("path is missing: the .chat file, relative to the project")
        session, is_new = await coordinator.open(
            path,
            agent=_text(body, "agent"),
            cwd=_text(body, "cwd"),
            config=_object(body, "config"),
            access=_text(body, "access"),
        )
        self.finish_json(session.summary(), 201 if is_new else 200)


class SessionHandler(AcpHandler):
    """GET, PATCH, DELETE /projects/{pid}/sessions/{sid}"""

    @route
    async def get(self, project_id: str, session_id: str) -> None:
        session = await self.session(project_id, session_id)
        self.finish_json(session.summary())

    @route
    async def patch(self, project_id: str, session_id: str) -> None:
        session = await self.session(project_id, session_id, Role.COLLABORATOR)
        body = self.body("access", "config", "title")
        title, access, config = _text(body, "title"), _text(body, "access"), _object(body, "config")
        if access is not None:
            await session.supervisor.set_access(access)
        if config is not None:
            await session.supervisor.configure(config)
        if title:
            await session.rename(title)
        self.finish_json(session.summary())

    @route
    async def delete(self, project_id: str, session_id: str) -> None:
        await (await self.coordinator(project_id, Role.COLLABORATOR)).close(session_id)
        self.set_status(204)
        self.finish()


class EditorTextsHandler(AcpHandler):
    """PUT …/editor-texts"""

    @route
    async def put(self, project_id: str, session_id: str) -> None:
        session = await self.session(project_id, session_id, Role.COLLABORATOR)
        body = self.body("client", "texts")
        client, texts = _text(body, "client"), _object(body, "texts")
        if not client or texts is None:
            raise BadRequest("client and texts are needed")
        if session.editor_texts is None:
            raise Unsupported("this agent reads the project's files itself", "not_delegated")
        session.editor_texts.offer((self.username, client), texts)
        self.set_status(204)
        self.finish()


class ForkHandler(AcpHandler):
    """POST …/fork"""

    @route
    async def post(self, project_id: str, session_id: str) -> None:
        coordinator = await self.coordinator(project_id, Role.COLLABORATOR)
        path = _text(self.body("path"), "path")
        if not path:
            raise BadRequest("path is missing: the new .chat file")
        self.finish_json((await coordinator.fork(session_id, path)).summary(), 201)


class RestartAgentHandler(AcpHandler):
    """POST …/restart-agent"""

    @route
    async def post(self, project_id: str, session_id: str) -> None:
        session = await self.session(project_id, session_id, Role.COLLABORATOR)
        self.body()
        await session.supervisor.restart()
        self.finish_json(session.summary(), 202)


class StartOverHandler(AcpHandler):
    """POST …/start-over"""

    @route
    async def post(self, project_id: str, session_id: str) -> None:
        session = await self.session(project_id, session_id, Role.COLLABORATOR)
        self.body()
        await session.supervisor.start_over()
        self.finish_json(session.summary(), 202)


class SessionActivityHandler(AcpHandler):
    """DELETE …/activity"""

    @route
    async def delete(self, project_id: str, session_id: str) -> None:
        # An owner's: a collaborator could remove the record of what the agent did for them, and of everybody else's
        # turns. All other routes add to the log, or leave it and the chat alone when they end a session.
        await (await self.coordinator(project_id, Role.OWNER)).discard_activity(session_id)
        self.set_status(204)
        self.finish()
