"""Every route asks who it is, and what they may."""

import re
from typing import Any

import pytest
from jupyter_server.auth.authorizer import Authorizer
from tornado.httpclient import HTTPClientError

from jupyter_acp.handlers import ROUTES, project_side_routes

METHODS = ("get", "post", "patch", "put", "delete")
CALLS = [
    (re.sub(r"\(\?P<\w+>[^)]+\)", "local", pattern.replace("/?", "")), method.upper())
    for pattern, handler in ROUTES + project_side_routes()
    for method in METHODS
    if method in vars(handler)
]


@pytest.fixture
def jp_server_config(jp_server_config: dict[str, Any], request: pytest.FixtureRequest) -> dict[str, Any]:
    """A server that has the route which a test is about."""
    path = getattr(request.node, "callspec", None) and request.node.callspec.params["path"]
    jp_server_config["AcpExtension"]["serve_project"] = "project-side" in (path or "")
    return jp_server_config


class Nobody(Authorizer):
    """Lets nobody do anything with agents."""

    asked: list[tuple[str, str]]

    def is_authorized(self, handler: Any, user: Any, action: str, resource: str) -> bool:
        self.asked.append((action, resource))
        return resource != "acp"


@pytest.fixture
def nobody(jp_serverapp: Any) -> Any:
    before = jp_serverapp.web_app.settings["authorizer"]
    authorizer = Nobody(parent=jp_serverapp)
    authorizer.asked = []
    jp_serverapp.web_app.settings["authorizer"] = authorizer
    yield authorizer
    jp_serverapp.web_app.settings["authorizer"] = before


@pytest.mark.parametrize(("path", "method"), CALLS)
async def test_a_route_without_a_token_is_forbidden(
    drive: Any, http_server_client: Any, path: str, method: str
) -> None:
    response = await http_server_client.fetch(
        drive.server.base_url + "api/acp" + path, method=method, allow_nonstandard_methods=True, raise_error=False
    )
    assert response.code == 403


@pytest.mark.parametrize(("path", "method"), CALLS)
async def test_a_route_that_the_authorizer_refuses_is_forbidden(
    drive: Any, nobody: Any, path: str, method: str
) -> None:
    status, _ = await drive.request(method, *path.strip("/").split("/"), body=None if method == "GET" else {})
    assert status == 403
    assert {resource for _, resource in nobody.asked} == {"acp"}
    action = "execute" if path == "/project-side/commands" else "read" if method == "GET" else "write"
    assert {asked for asked, _ in nobody.asked} == {action}


@pytest.mark.parametrize("path", ["projects/local/sessions/x/events/subscribe", "project-side/commands"])
async def test_a_socket_is_refused_by_token_and_by_authorizer(
    drive: Any, nobody: Any, jp_ws_fetch: Any, path: str
) -> None:
    with pytest.raises(HTTPClientError) as refused:
        await jp_ws_fetch("api/acp", path)
    assert refused.value.code == 403
    with pytest.raises(HTTPClientError) as anonymous:
        await jp_ws_fetch("api/acp", path, headers={"Authorization": "token wrong"})
    assert anonymous.value.code == 403


async def test_an_unknown_project_and_an_unknown_session_are_not_found(drive: Any) -> None:
    for path in (("projects", "other"), ("projects", "local", "sessions", "x"), ("projects", "other", "sessions")):
        status, answer = await drive.request("GET", *path)
        assert (status, set(answer)) == (404, {"message", "reason"})


async def test_an_error_never_shows_a_traceback_or_a_path_of_the_server(drive: Any) -> None:
    status, answer = await drive.request("POST", "projects", "local", "sessions", body={"path": "../../etc/x.chat"})
    assert status in (400, 403, 404)
    assert "Traceback" not in str(answer) and str(drive.root) not in str(answer)


async def test_the_root_tells_version_user_projects_and_features(drive: Any) -> None:
    root = await drive.ok("GET")
    assert set(root) == {"version", "user", "projects", "features"}
    assert root["user"]["username"]
    assert [project["id"] for project in root["projects"]] == ["local"]


async def test_the_catalogue_tells_what_is_installed_and_how_to_get_the_rest(drive: Any) -> None:
    agents = {agent["id"]: agent for agent in await drive.ok("GET", "projects", "local", "agents")}
    assert agents["demo"]["available"] is True
    assert agents["missing"]["available"] is False and agents["missing"]["hint"]
