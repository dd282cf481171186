"""Activity goes, the conversation stays: through the whole stack."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jupyter_acp.projects.base import Role

from .process import ServerProcess

GONE = {"kind": "removed", "turn": None, "data": {}}


@pytest.fixture
def jp_server_config(jp_server_config: dict[str, Any]) -> dict[str, Any]:
    """A server whose projects may have next to no activity: a round takes all that it may."""
    jp_server_config["AcpExtension"]["log_bytes"] = 1
    return jp_server_config


@pytest.fixture
def server(tmp_path: Path, jp_asyncio_loop: Any) -> Iterator[ServerProcess]:
    process = ServerProcess(tmp_path, {})
    jp_asyncio_loop.run_until_complete(process.start())
    yield process
    jp_asyncio_loop.run_until_complete(process.drive.hang_up())
    jp_asyncio_loop.run_until_complete(process.end())


def coordinator(drive: Any) -> Any:
    return drive.coordinator


async def log(chat: Any) -> list[dict[str, Any]]:
    """All of a session's log that is kept, which has no gap."""
    events: list[dict[str, Any]] = []
    while page := await chat.call("GET", "events", after=events[-1]["seq"] if events else 0):
        events += page
    assert [event["seq"] for event in events] == list(range(events[0]["seq"], events[-1]["seq"] + 1))
    return events


@pytest.mark.timeout(120)
async def test_discarded_activity_is_gone_for_good_and_conversation_running_turn_and_restart_know_nothing_of_it(
    server: ServerProcess,
) -> None:
    chat = await server.drive.open("a.chat")
    await chat.run("/thought hidden\n/tool Look\n/text one")
    await chat.run("/text two")
    running = await chat.submit("/text so far\n/sleep 1000")
    await chat.until_kind("message_delta", text="so far")
    old = 3
    await chat.hang_up()
    # what a server writes at its end is written, and the agent goes on
    await server.stop()
    file = (server.root / "a.chat").read_bytes()
    await server.start()
    messages, activity = await chat.call("GET", "messages"), await chat.call("GET", "turns", running, "activity")
    assert activity and await chat.call("GET", "turns", "t1", "activity")

    await chat.call("DELETE", "activity")

    assert (server.root / "a.chat").read_bytes() == file
    assert await chat.call("GET", "messages") == messages
    assert await chat.call("GET", "turns", running, "activity") == activity
    for turn in ("t1", "t2"):
        assert await chat.call("GET", "turns", turn, "activity") == []
    events, summary = await log(chat), await chat.summary()
    assert (events[0]["seq"], events[-1]["seq"]) == (summary["first_seq"], summary["last_seq"])
    assert events[-1]["kind"] == "session_changed" and events[-1]["data"]["first_seq"] == summary["first_seq"] > old
    assert "hidden" not in json.dumps(events)
    export = await chat.call("GET", "export", detail="full", thinking=1)
    assert export.count("not kept any more") == 2 and "one" in export
    # a client that was away meanwhile
    socket = await server.drive.subscribe(chat.id, old)
    async with asyncio.timeout(20):
        seen = json.loads(await socket.read_message())
    socket.close()
    assert seen == events[: len(seen)]

    server.kill()
    await server.start()
    assert (await chat.summary())["first_seq"] == summary["first_seq"]
    assert (server.root / "a.chat").read_bytes() == file
    chat.events = [GONE] * (summary["first_seq"] - 1)
    await chat.call("POST", "interrupt", body={})
    await chat.until_kind("turn_ended", id=running)
    assert chat.text(running) == "so far"
    again = await chat.call("POST", "turns", body={"id": "t1", "prompt": "/text twice"})
    assert again["state"] == "ended"
    assert (await chat.run("/text on"))["stop_reason"] == "end_turn"
    assert [data["id"] for data in chat.of("turn_started")] == [running, "t4"]


async def test_a_round_takes_the_activity_of_too_much_from_every_session_and_no_conversation(drive: Any) -> None:
    chats = [await drive.open(name) for name in ("a.chat", "b.chat", "closed.chat")]
    for chat in chats:
        await chat.run("/tool Look\n/text said")
        await (await coordinator(drive).get(chat.id)).conversation.close()
    await chats[2].call("DELETE")
    before = [await chat.call("GET", "messages") for chat in chats[:2]]
    await coordinator(drive).enforce_limits()
    for chat, messages in zip(chats[:2], before, strict=True):
        assert await chat.call("GET", "turns", "t1", "activity") == []
        assert await chat.call("GET", "messages") == messages
        assert (await chat.summary())["first_seq"] == (await log(chat))[0]["seq"] > 1
        assert (await chat.run("/text on"))["stop_reason"] == "end_turn"
        assert len(await chat.call("GET", "turns", "t2", "activity")) > 1
    assert await coordinator(drive).store.turn_events(chats[2].id, "t1") == []


async def test_an_answer_that_only_the_log_has_is_kept_and_discarding_it_refused(drive: Any) -> None:
    chat = await drive.open("a.chat")
    for text in ("/text one", "/text two"):
        await chat.run(text)
    await (await coordinator(drive).get(chat.id)).conversation.close()
    file = drive.root / "a.chat"
    document = json.loads(file.read_text())
    document["messages"] = [message for message in document["messages"] if message["id"] != "t2-agent"]
    whole = file.read_bytes()
    file.write_text(json.dumps(document))
    assert await chat.refused("DELETE", "activity") == (409, "chat_not_saved")
    await coordinator(drive).enforce_limits()
    assert await chat.call("GET", "turns", "t1", "activity") == []
    assert await chat.call("GET", "turns", "t2", "activity")
    file.write_text("{damaged")
    assert (await chat.refused("DELETE", "activity"))[0] == 409
    file.write_bytes(whole)
    await chat.call("DELETE", "activity")
    assert await chat.call("GET", "turns", "t2", "activity") == []


async def test_only_an_owner_discards_activity(drive: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    chat = await drive.open("a.chat")
    await chat.run("/text one")
    monkeypatch.setattr(drive.hub.directory, "role", lambda project, username: Role.COLLABORATOR)
    assert await chat.refused("DELETE", "activity") == (403, "role_too_low")
    assert await chat.call("GET", "turns", "t1", "activity")
    monkeypatch.undo()
    await chat.call("DELETE", "activity")
    await chat.call("DELETE", "activity")
    assert await chat.call("GET", "turns", "t1", "activity") == []
