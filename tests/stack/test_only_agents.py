"""The authorizer of the guide for several people: what it keeps from whom."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from people import Folders, Named, People
from tornado.httpclient import HTTPClientError

GUIDE = Path(__file__).parents[2] / "docs" / "how-to" / "several-people.md"


@pytest.fixture
def jp_server_config(jp_server_config: dict[str, Any]) -> dict[str, Any]:
    code = next(c for c in re.findall(r"```python\n(.*?)```", GUIDE.read_text("utf-8"), re.S) if "OnlyAgents" in c)
    exec(code, {"c": SimpleNamespace(ServerApp=SimpleNamespace())}, names := {})
    jp_server_config["ServerApp"]["jpserver_extensions"]["jupyter_server_terminals"] = True
    jp_server_config["ServerApp"]["authorizer_class"] = names["OnlyAgents"]
    jp_server_config["ServerApp"]["identity_provider_class"] = Named
    jp_server_config["AcpExtension"]["projects_class"] = Folders
    return jp_server_config


async def test_members_have_agents_and_nothing_else_of_the_machine(drive: Any, jp_fetch: Any, jp_ws_fetch: Any) -> None:
    drive.hub.directory.add("alpha", ann="owner")
    people = People(drive, jp_fetch, jp_ws_fetch)
    chat = await people("ann").open()
    await chat.run("/text hello")
    assert chat.text("t1") == "hello"

    async def status(name: str, method: str, path: str, body: str | None = None) -> int:
        headers = {"Authorization": f"token token-of-{name}"}
        options = {"body": body, "allow_nonstandard_methods": True, "raise_error": False}
        return int((await jp_fetch(*path.split("/"), method=method, headers=headers, **options)).code)

    refused = [
        ("POST", "api/terminals", "{}"),
        ("POST", "api/kernels", "{}"),
        ("POST", "api/sessions", "{}"),
        ("PUT", "api/contents/x.txt", '{"type": "file", "format": "text", "content": ""}'),
        ("DELETE", "api/contents/alpha", None),
        ("POST", "api/shutdown", "{}"),
    ]
    for call in refused:
        assert await status("ann", *call) == 403, call
    assert await status("ann", "GET", "api/contents") == 200
    assert await status("root", "POST", "api/terminals", "{}") == 200
    for path in ("terminals/websocket/1", "api/events/subscribe"):
        with pytest.raises(HTTPClientError, match="403"):
            await jp_ws_fetch(path, headers={"Authorization": "token token-of-ann"})
    assert await status("root", "DELETE", "api/terminals/1") == 204
