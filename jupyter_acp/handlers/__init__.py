"""The URL table of the public interface, version 1 (DESIGN 5)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .base import ProjectAccess
from .chats import ExportHandler, MessageHandler, MessagesHandler, ReactionHandler
from .events import EventsHandler, SubscribeHandler
from .projects import (
    AgentsHandler,
    ProjectHandler,
    ProjectLogHandler,
    ProjectsHandler,
    RootHandler,
    StartProjectHandler,
    StopProjectHandler,
)
from .sessions import (
    EditorTextsHandler,
    ForkHandler,
    RestartAgentHandler,
    SessionActivityHandler,
    SessionHandler,
    SessionsHandler,
    StartOverHandler,
)
from .turns import (
    ActivityHandler,
    DiffHandler,
    InterruptHandler,
    PermissionHandler,
    RevertHandler,
    SendNowHandler,
    TurnHandler,
    TurnsHandler,
    UploadsHandler,
)

if TYPE_CHECKING:
    from .project_side import ProjectSide

PROJECT = r"/projects/(?P<project_id>[^/]+)"
SESSION = PROJECT + r"/sessions/(?P<session_id>[^/]+)"
TURN = SESSION + r"/turns/(?P<turn_id>[^/]+)"
MESSAGE = SESSION + r"/messages/(?P<message_id>[^/]+)"

ROUTES: list[tuple[str, type[Any]]] = [
    (r"/?", RootHandler),
    (r"/projects", ProjectsHandler),
    (PROJECT, ProjectHandler),
    (PROJECT + r"/start", StartProjectHandler),
    (PROJECT + r"/stop", StopProjectHandler),
    (PROJECT + r"/logs", ProjectLogHandler),
    (PROJECT + r"/agents", AgentsHandler),
    (PROJECT + r"/sessions", SessionsHandler),
    (SESSION, SessionHandler),
    (SESSION + r"/turns", TurnsHandler),
    (TURN, TurnHandler),
    (TURN + r"/send-now", SendNowHandler),
    (TURN + r"/activity", ActivityHandler),
    (TURN + r"/diff", DiffHandler),
    (TURN + r"/revert", RevertHandler),
    (SESSION + r"/interrupt", InterruptHandler),
    (SESSION + r"/permissions/(?P<question_id>[^/]+)", PermissionHandler),
    (SESSION + r"/fork", ForkHandler),
    (SESSION + r"/restart-agent", RestartAgentHandler),
    (SESSION + r"/start-over", StartOverHandler),
    (SESSION + r"/activity", SessionActivityHandler),
    (SESSION + r"/editor-texts", EditorTextsHandler),
    (SESSION + r"/events", EventsHandler),
    (SESSION + r"/events/subscribe", SubscribeHandler),
    (SESSION + r"/messages", MessagesHandler),
    (MESSAGE, MessageHandler),
    (MESSAGE + r"/reactions/(?P<name>[^/]+)", ReactionHandler),
    (SESSION + r"/export", ExportHandler),
    (SESSION + r"/uploads", UploadsHandler),
]


def project_side_routes() -> list[tuple[str, type[Any]]]:
    """The routes of a server that serves its project to a coordinator elsewhere. Loaded only there."""
    from .project_side import (
        CommandSocket,
        FilesHandler,
        LeftoversHandler,
        ProjectSideHandler,
        RunnerHandler,
        RunnersHandler,
    )

    return [
        (r"/project-side", ProjectSideHandler),
        (r"/project-side/files", FilesHandler),
        (r"/project-side/commands", CommandSocket),
        (r"/project-side/runners", RunnersHandler),
        (r"/project-side/runners/(?P<name>[^/]+)", RunnerHandler),
        (r"/project-side/leftovers", LeftoversHandler),
    ]


def handlers(access: ProjectAccess) -> list[tuple[str, type[Any], dict[str, Any]]]:
    """The table for tornado, below the server's base URL."""
    return [("/api/acp" + pattern, handler, {"access": access}) for pattern, handler in ROUTES]


def project_side_handlers(side: ProjectSide) -> list[tuple[str, type[Any], dict[str, Any]]]:
    """The table of a server that has no coordinator and serves its project to one elsewhere."""
    return [("/api/acp" + pattern, handler, {"side": side}) for pattern, handler in project_side_routes()]
