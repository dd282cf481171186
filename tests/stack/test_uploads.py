"""Files that are added to a prompt."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from tornado.httpclient import HTTPClientError

from jupyter_acp.uploads import FOLDER, Uploads


async def upload(jp_fetch: Any, chat: Any, body: bytes, kind: str = "application/octet-stream", **query: str) -> Any:
    reply = await jp_fetch(
        *("api", "acp", "projects", "local", "sessions", chat.id, "uploads"),
        method="POST",
        body=body,
        params=query,
        headers={"Content-Type": kind},
    )
    assert reply.code == 201
    return json.loads(reply.body)


async def test_a_picture_is_kept_in_the_project_and_the_agent_is_sent_its_address(drive: Any, jp_fetch: Any) -> None:
    chat = await drive.open("a.chat")
    found = await upload(jp_fetch, chat, b"\x89PNG\r\n", "image/png", name="../../my plot.png")
    assert found["mime_type"] == "image/png" and found["size"] == 6
    file = Path(found["uri"].removeprefix("file://"))
    assert file.read_bytes() == b"\x89PNG\r\n"
    assert file.parent == Path(drive.server.root_dir).resolve() / FOLDER and file.name.endswith("-my-plot.png")
    assert (file.parents[1] / ".gitignore").read_text() == "*\n"
    link = {"type": "resource_link", "uri": found["uri"], "name": file.name, "mimeType": "image/png"}
    assert (await chat.run([{"type": "text", "text": "/text seen"}, link]))["stop_reason"] == "end_turn"
    [queued] = chat.of("turn_queued")
    assert queued["prompt"][1] == link


async def test_the_kind_is_told_by_the_name_where_the_request_does_not(drive: Any, jp_fetch: Any) -> None:
    chat = await drive.open("a.chat")
    assert (await upload(jp_fetch, chat, b"a,b\n", name="data.csv"))["mime_type"] == "text/csv"
    nameless = await upload(jp_fetch, chat, b"?")
    assert nameless["mime_type"] == "application/octet-stream"


async def test_an_empty_upload_and_one_of_an_unknown_session_are_refused(drive: Any, jp_fetch: Any) -> None:
    chat = await drive.open("a.chat")
    with pytest.raises(HTTPClientError) as refused:
        await upload(jp_fetch, chat, b"")
    assert refused.value.code == 400
    await chat.call("DELETE")
    with pytest.raises(HTTPClientError) as refused:
        await upload(jp_fetch, chat, b"x")
    assert refused.value.code == 404


async def test_an_upload_above_the_limit_is_refused(drive: Any, jp_fetch: Any) -> None:
    chat = await drive.open("a.chat")
    with pytest.raises(HTTPClientError) as refused:
        await upload(jp_fetch, chat, b"\0" * ((50 << 20) + 1))
    assert refused.value.code == 413
    assert not (Path(drive.server.root_dir) / FOLDER).exists()


async def test_uploads_are_removed_after_their_time_and_nothing_else(tmp_path: Path) -> None:
    uploads = Uploads(tmp_path, limit=100, keep=3600)
    old, new = [Path((await uploads.add(b"x", name=name))["uri"].removeprefix("file://")) for name in ("old", "new")]
    os.utime(old, (1, 1))
    await uploads.clean()
    assert not old.exists() and new.exists()


async def test_a_link_that_a_project_puts_in_the_way_leads_no_upload_out(tmp_path: Path) -> None:
    outside, project = tmp_path / "outside", tmp_path / "project"
    outside.mkdir()
    project.mkdir()
    (project / ".acp").symlink_to(outside)
    with pytest.raises(Exception, match="outside of the project"):
        await Uploads(project, limit=100, keep=3600).add(b"x")
    assert list(outside.iterdir()) == []
