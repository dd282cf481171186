"""The conversation as a file, through the whole stack."""

import json
import shutil
from typing import Any

import pytest


def document(drive: Any, path: str = "a.chat") -> dict[str, Any]:
    """The .chat file as it is on disk."""
    found: dict[str, Any] = json.loads((drive.root / path).read_text("utf-8"))
    return found


async def saved(drive: Any, chat: Any) -> Any:
    """The session's object, once all that it has to write is on disk."""
    session = await drive.coordinator.get(chat.id)
    await session.conversation.close()
    return session


async def test_a_turn_is_two_messages_in_the_file_and_in_the_page(drive: Any) -> None:
    chat = await drive.open("sub/a.chat")
    await chat.run("/text Hello\n/tool Look\n/thought hidden")
    await saved(drive, chat)
    messages = document(drive, "sub/a.chat")["messages"]
    assert [message["body"] for message in messages] == ["/text Hello\n/tool Look\n/thought hidden", "Hello"]
    assert "hidden" not in json.dumps(messages[1])
    page = await chat.call("GET", "messages")
    assert [message["role"] for message in page["messages"]] == ["user", "agent"]
    assert page["messages"][1]["metadata"]["acp"]["stop_reason"] == "end_turn"


async def test_a_turn_costs_at_most_six_writes_of_the_file(drive: Any) -> None:
    chat = await drive.open()
    await chat.run("/text warm up")
    session = await saved(drive, chat)
    before = session.chat.writes
    await chat.run("/chunks 3000 20 delay=0.0002\n/tool a\n/tool b\n/text done")
    await saved(drive, chat)
    assert 1 <= session.chat.writes - before <= 6


async def test_the_newest_page_comes_first_and_earlier_ones_on_request(drive: Any) -> None:
    chat = await drive.open()
    for n in range(3):
        await chat.run(f"/text {n}")
    newest = await chat.call("GET", "messages", limit=2)
    assert [m["body"] for m in newest["messages"]] == ["/text 2", "2"] and newest["has_more"]
    earlier = await chat.call("GET", "messages", limit=50, before=newest["messages"][0]["id"])
    assert [m["body"] for m in earlier["messages"]] == ["/text 0", "0", "/text 1", "1"] and not earlier["has_more"]


async def test_people_edit_and_delete_their_own_messages_and_never_an_agents(drive: Any) -> None:
    chat = await drive.open()
    await chat.run("/text mine")
    await chat.call("PATCH", "messages", "t1-user", body={"text": "better"})
    for method in ("PATCH", "DELETE"):
        body = {"text": "forged"} if method == "PATCH" else None
        assert (await chat.refused(method, "messages", "t1-agent", body=body))[0] == 403
    await chat.call("PUT", "messages", "t1-agent", "reactions", "thumbsup")
    page = await chat.call("GET", "messages")
    assert page["messages"][0]["body"] == "better" and page["messages"][0]["edited"]
    assert list(page["messages"][1]["metadata"]["acp"]["reactions"]) == ["thumbsup"]
    await chat.call("DELETE", "messages", "t1-user")
    assert (await chat.call("GET", "messages"))["messages"][0]["deleted"]
    await chat.until_kind("message_changed", deleted=True)


async def test_what_another_program_adds_to_the_file_is_kept(drive: Any) -> None:
    chat = await drive.open()
    await chat.run("/text one")
    await saved(drive, chat)
    changed = document(drive)
    foreign = {"id": "x", "body": "from outside", "time": changed["messages"][-1]["time"] + 0.001, "sender": "eve"}
    changed["messages"].append(foreign)
    (drive.root / "a.chat").write_text(json.dumps(changed))
    assert "from outside" in json.dumps(await chat.call("GET", "messages"))
    await chat.run("/text two")
    await saved(drive, chat)
    assert [m["body"] for m in document(drive)["messages"]][2:] == ["from outside", "/text two", "two"]


@pytest.mark.parametrize("content", ['{"messages": [', "[1, 2]", "\x00\x01", '{"messages": 7}'])
async def test_a_damaged_file_is_read_only_and_never_overwritten(drive: Any, content: str) -> None:
    (drive.root / "a.chat").write_text(content)
    chat = await drive.open("a.chat")
    assert (await chat.summary())["read_only"]
    status, reason = await chat.refused("POST", "turns", body={"id": "t", "prompt": "/text x"})
    assert (status, reason) == (409, "chat_read_only")
    await saved(drive, chat)
    assert (drive.root / "a.chat").read_text() == content


async def test_a_file_of_a_newer_version_is_read_only_with_the_reason(drive: Any) -> None:
    chat = await drive.open("a.chat")
    await chat.run("/text hi")
    await saved(drive, chat)
    newer = document(drive)
    newer["metadata"]["acp"]["schema_version"] = 99
    newer["metadata"]["id"] = "another"
    (drive.root / "b.chat").write_text(json.dumps(newer))
    other = await drive.open("b.chat")
    assert "newer" in (await other.summary())["read_only"]


async def test_a_copied_chat_is_another_conversation(drive: Any) -> None:
    chat = await drive.open("a.chat")
    await chat.run("/text hi")
    await saved(drive, chat)
    shutil.copy(drive.root / "a.chat", drive.root / "copy.chat")
    shutil.copy(drive.root / ".a.chat.acp.json", drive.root / ".copy.chat.acp.json")
    copy = await drive.open("copy.chat")
    await copy.run("/text in the copy", turn="c1")
    first, second = await chat.summary(), await copy.summary()
    assert first["id"] != second["id"]
    assert first["agent_session_id"] != second["agent_session_id"]
    await saved(drive, copy)
    assert document(drive)["metadata"]["id"] != document(drive, "copy.chat")["metadata"]["id"]


async def test_a_chat_that_is_renamed_through_jupyter_keeps_its_session(drive: Any, jp_fetch: Any) -> None:
    chat = await drive.open("a.chat")
    await chat.run("/text hi")
    await saved(drive, chat)
    await jp_fetch("api", "contents", "a.chat", method="PATCH", body=json.dumps({"path": "b.chat"}))
    await chat.until_kind("session_changed", path="b.chat")
    again = await drive.open("b.chat")
    assert again.id == chat.id
    await chat.run("/text after the move")
    await saved(drive, chat)
    assert (drive.root / ".b.chat.acp.json").exists() and not (drive.root / "a.chat").exists()
    assert document(drive, "b.chat")["messages"][-1]["body"] == "after the move"


async def test_a_chat_that_is_deleted_through_jupyter_ends_its_session(drive: Any, jp_fetch: Any) -> None:
    chat = await drive.open("a.chat")
    await chat.run("/text hi")
    await saved(drive, chat)
    await jp_fetch("api", "contents", "a.chat", method="DELETE")
    await chat.until_kind("session_closed")
    assert not (drive.root / "a.chat").exists()


async def test_a_fork_has_the_conversation_so_far_and_leaves_the_old_one_alone(drive: Any) -> None:
    chat = await drive.open("a.chat")
    await chat.run("/text the number is seven")
    summary = await chat.call("POST", "fork", body={"path": "fork.chat"})
    fork = await drive.open("fork.chat")
    assert (fork.id, summary["parent"]) == (summary["id"], chat.id)
    await fork.run("/echo", turn="f1")
    assert "the number is seven" in fork.text("f1")
    assert len((await chat.call("GET", "messages"))["messages"]) == 2
    assert (await chat.refused("POST", "fork", body={"path": "fork.chat"})) == (409, "chat_exists")


async def test_the_export_is_readable_markdown(drive: Any, jp_fetch: Any) -> None:
    chat = await drive.open("a.chat")
    await chat.run("/thought pondering\n/text The **answer**.")
    plain = await chat.call("GET", "export")
    full = await chat.call("GET", "export", detail="full", thinking=1)
    assert "The **answer**." in plain.split("Demo agent")[1] and plain.count("pondering") == 1
    assert full.count("pondering") == 2
    assert (await chat.refused("GET", "export", format="pdf"))[0] == 400


async def test_the_session_comes_back_from_the_files_when_the_database_is_lost(drive: Any) -> None:
    chat = await drive.open("a.chat")
    await chat.run("/text hi")
    await saved(drive, chat)
    before = await chat.summary()
    await chat.call("DELETE")
    assert chat.id not in [summary["id"] for summary in drive.coordinator.summaries()]
    again = await drive.open("a.chat")
    summary = await again.summary()
    assert summary["agent_session_id"] == before["agent_session_id"]


@pytest.mark.parametrize("path", ["a.txt", "", "../a.chat", "x/../../a.chat", 7, None])
async def test_a_path_that_is_no_chat_of_the_project_is_refused(drive: Any, path: object) -> None:
    status, _ = await drive.request("POST", "projects", "local", "sessions", body={"path": path})
    assert status in (400, 403, 404)
    assert not (drive.root.parent / "a.chat").exists()


async def test_an_answer_that_no_file_should_hold_is_whole_in_the_log_and_shortened_in_the_chat(drive: Any) -> None:
    chat = await drive.open("a.chat")
    await chat.run("/chunks 5000 1000")
    await saved(drive, chat)
    body = (await chat.call("GET", "messages"))["messages"][-1]["body"]
    said = chat.text("t1")
    head, _, rest = body.partition("\n\n*[")
    note, _, tail = rest.partition("]*\n\n")
    assert len(said) == 5_000_000 and len(body) < 4_500_000
    assert said.startswith(head) and said.endswith(tail) and "characters are left out here" in note
