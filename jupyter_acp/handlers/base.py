"""What every route shares: who asks, which project, may they, and how errors look. Checked here, before dispatch."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Any, cast

from jupyter_server.auth.decorator import authorized
from jupyter_server.base.handlers import APIHandler, JupyterHandler
from jupyter_server.base.websocket import WebSocketMixin
from tornado import web
from tornado.websocket import WebSocketHandler

from ..coordinator import Coordinator
from ..events import JsonObject, encode
from ..exceptions import AcpError, BadRequest, NotAllowed, NotFound, NotOwner, RequestError
from ..hub import ProjectHub
from ..projects.base import Project, Role
from ..session import Session

AUTH_RESOURCE = "acp"


class ProjectAccess:
    """Project and role of a request, from the URL and the login only. Shared by routes and the socket."""

    def __init__(self, hub: ProjectHub) -> None:
        self.hub = hub

    async def ready(self) -> None:
        """Return once it is known which projects there are."""
        await self.hub.ready()

    def projects(self, username: str) -> list[tuple[Project, Role]]:
        """The projects that a person is a member of."""
        role = self.hub.directory.role
        # Each is looked at, whichever is asked for: how long it takes tells nothing.
        found = [(project, role(project, username)) for project in self.hub.directory.projects()]
        return [(project, role) for project, role in found if role is not None]

    def project(self, project_id: str, username: str, needed: Role) -> tuple[Project, Role]:
        """NotFound where the person is no member (or there is no such project), NotAllowed for a role too low."""
        for project, role in self.projects(username):
            if project.id == project_id:
                if not role.includes(needed):
                    raise NotAllowed(f"this needs the role {needed}, yours is {role}", "role_too_low")
                return project, role
        raise NotFound(f"there is no project {project_id}", "unknown_project")

    async def serving(self, project_id: str, username: str, needed: Role) -> Coordinator:
        """The coordinator of a project, once it serves sessions; see `project`. Unavailable or StoreError before."""
        project, _ = self.project(project_id, username, needed)
        return await self.hub.serving(project)


class AcpHandler(APIHandler):
    """Base of the REST routes."""

    auth_resource = AUTH_RESOURCE

    def initialize(self, access: ProjectAccess) -> None:
        self.access = access

    async def prepare(self, **kwargs: Any) -> None:
        """After Jupyter's own checks."""
        await super().prepare(**kwargs)
        if not self._finished:
            await self.ready()

    async def ready(self) -> None:
        """Return once the request can be answered."""
        await self.access.ready()

    @property
    def username(self) -> str:
        """Who asks, by Jupyter's login."""
        return username(self.current_user, self.settings)

    @property
    def user(self) -> JsonObject:
        """Who asks, as the chat shows it."""
        return user_json(self.current_user, self.settings)

    async def coordinator(self, project_id: str, needed: Role = Role.VIEWER) -> Coordinator:
        """The coordinator of the project in the URL, after the check."""
        return await self.access.serving(project_id, self.username, needed)

    async def session(self, project_id: str, session_id: str, needed: Role = Role.VIEWER) -> Session:
        """The session in the URL, after the check."""
        return await (await self.coordinator(project_id, needed)).get(session_id)

    def body(self, *allowed: str) -> JsonObject:
        """The JSON object of the request. BadRequest for anything else, and for fields that the route does not know:
        a body that names a project or a user is refused, not ignored."""
        try:
            body = json.loads(self.request.body or b"{}")
        except ValueError as exc:
            raise BadRequest(f"the body is no JSON: {exc}") from exc
        if not isinstance(body, dict):
            raise BadRequest("the body must be a JSON object")
        if unknown := sorted(set(body) - set(allowed)):
            raise BadRequest(f"unknown fields: {', '.join(unknown)}", "unknown_field")
        return body

    def number(self, name: str, default: int, lowest: int = 0, highest: int = 1 << 53) -> int:
        """A query argument as a number within bounds, BadRequest for anything else."""
        text = self.get_query_argument(name, str(default))
        if not text.isascii() or not text.isdigit() or not lowest <= int(text) <= highest:
            raise BadRequest(f"{name} must be a number from {lowest} to {highest}")
        return int(text)

    def finish_json(self, value: object, status: int = 200) -> None:
        """Answer with JSON, given as a value or (a list of) encoded texts."""
        self.set_status(status)
        self.finish(encode(value))

    def finish_events(self, events: list[str]) -> None:
        """Answer with events that are encoded already."""
        self.finish("[" + ",".join(events) + "]")

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Errors are `{message, reason}`; never a traceback."""
        exc = kwargs.get("exc_info", (None, None, None))[1]
        if isinstance(exc, RequestError):
            self.set_status(exc.status)
            body = {"message": exc.message, "reason": exc.reason}
        elif isinstance(exc, web.HTTPError):
            body = {"message": exc.log_message or self._reason, "reason": f"http_{status_code}"}
        elif isinstance(exc, AcpError):
            self.set_status(503)
            body = {"message": str(exc), "reason": "taken_over" if isinstance(exc, NotOwner) else "unavailable"}
        else:
            body = {"message": "internal error", "reason": "internal"}
        self.set_header("Content-Type", "application/json")
        self.finish(encode(body))

    def log_exception(self, *args: Any) -> None:
        """A caller's mistake is no news for the log."""
        if not isinstance(args[1], RequestError):
            super().log_exception(*args)


class AcpSocket(WebSocketMixin, WebSocketHandler, JupyterHandler):
    """Base of the WebSockets."""

    auth_resource = AUTH_RESOURCE

    async def check(self, action: str) -> None:
        """Authenticate and authorize, as every socket must before it is opened."""
        if self.current_user is None:
            raise web.HTTPError(403)
        if not await _ensure(self.authorizer.is_authorized(self, self.current_user, action, self.auth_resource)):
            raise web.HTTPError(403)

    async def open(self, *args: Any, **kwargs: Any) -> None:
        super().open(*args, **kwargs)
        # Else the kernel holds a small frame back until the client has acknowledged the one before, up to 40 ms.
        self.set_nodelay(True)


def route(method: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    """Authenticate and authorize, as every route must."""

    @wraps(method)
    async def wrapped(self: AcpHandler, *args: Any, **kwargs: Any) -> None:
        await method(self, *args, **kwargs)

    return cast(Callable[..., Awaitable[None]], web.authenticated(authorized(wrapped)))


def username(user: Any, settings: dict[str, Any]) -> str:
    """The login name. Jupyter's own token login invents a new name each time: then it is the account of the server."""
    return str(user_json(user, settings)["username"])


def user_json(user: Any, settings: dict[str, Any]) -> JsonObject:
    """The person as `.chat` files and events name them."""
    own: JsonObject | None = settings.get("acp_account")
    if own is not None:
        return own
    fields = ("username", "name", "display_name", "initials", "avatar_url", "color")
    found = {field: getattr(user, field, None) for field in fields}
    return {field: value for field, value in found.items() if value}


async def _ensure(value: Any) -> bool:
    return bool(await value) if asyncio.iscoroutine(value) or asyncio.isfuture(value) else bool(value)
