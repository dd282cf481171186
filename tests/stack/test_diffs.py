"""What a turn changes, from the agent's command to the diff, and back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .process import ServerProcess


async def diff(chat: Any, turn: str) -> Any:
    return await chat.call("GET", "turns", turn, "diff")


async def test_a_turn_says_what_its_commands_and_edits_have_changed(drive: Any) -> None:
    (drive.root / "old.txt").write_text("one\ntwo\n")
    (drive.root / "gone.txt").write_text("x\n")
    chat = await drive.open()
    await chat.run("/shell rm gone.txt; printf 'one\\n2\\n' > old.txt\n/file new.txt text", turn="work")
    files = chat.of("file_changed", "work")
    assert [(file["path"], file["change"], file["added"], file["removed"], file["route"]) for file in files] == [
        ("gone.txt", "deleted", 0, 1, "agent"),
        ("new.txt", "added", 1, 0, "agent"),
        ("old.txt", "modified", 1, 1, "agent"),
    ]
    told = await diff(chat, "work")
    assert (told["turn"], told["added"], told["removed"], told["incomplete"]) == ("work", 2, 2, None)
    assert chat.of("turn_ended", "work")[-1]["changes"] == {"files": 3, "added": 2, "removed": 2}
    (answer,) = [m for m in (await chat.call("GET", "messages"))["messages"] if m["id"] == "work-agent"]
    assert answer["metadata"]["acp"]["changes"] == {"files": 3, "added": 2, "removed": 2}
    assert told["files"][2]["diff"].endswith("@@ -1,2 +1,2 @@\n one\n-two\n+2\n")


async def test_a_turn_without_changes_and_the_conversation_itself_are_no_changes(drive: Any) -> None:
    chat = await drive.open()
    await chat.run("/text hello", turn="talk")
    assert chat.of("file_changed", "talk") == []
    assert (await diff(chat, "talk"))["files"] == []


async def test_what_the_running_turn_has_changed_so_far_can_be_seen(drive: Any) -> None:
    chat = await drive.open()
    await chat.submit("/file new.txt text\n/text written\n/sleep 600", "slow")
    await chat.until_kind("message_delta")
    assert [file["path"] for file in (await diff(chat, "slow"))["files"]] == ["new.txt"]
    assert await chat.refused("POST", "turns", "slow", "revert") == (409, "turn_running")
    await chat.call("POST", "interrupt")
    await chat.until_kind("turn_ended", id="slow")
    assert [file["path"] for file in chat.of("file_changed", "slow")] == ["new.txt"]


async def test_a_turn_is_reverted_and_refused_where_a_person_has_changed_the_file_since(drive: Any) -> None:
    (drive.root / "mine.txt").write_text("before\n")
    chat = await drive.open()
    await chat.run("/file mine.txt agent\n/file other.txt agent", turn="work")
    (drive.root / "mine.txt").write_text("after\n")
    assert await chat.refused("POST", "turns", "work", "revert") == (409, "changed_since")
    assert (drive.root / "other.txt").exists()
    told = await chat.call("POST", "turns", "work", "revert", body={"paths": ["other.txt"]})
    assert told == {"reverted": ["other.txt"]}
    assert not (drive.root / "other.txt").exists()
    await chat.until_kind("file_changed", path="other.txt", change="reverted")
    states = [(file["path"], file["state"]) for file in (await diff(chat, "work"))["files"]]
    assert states == [("mine.txt", "changed"), ("other.txt", "reverted")]
    assert await chat.refused("POST", "turns", "work", "revert", body={"paths": ["../outside"]}) == (
        404,
        "unknown_path",
    )
    assert await chat.refused("POST", "turns", "work", "revert", body={"paths": "other.txt"}) == (400, "bad_request")
    assert await chat.refused("GET", "turns", "never", "diff") == (404, "unknown_turn")


async def test_a_notebook_is_compared_by_cell(drive: Any) -> None:
    book = {"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    cell = {"cell_type": "code", "id": "c1", "metadata": {}, "execution_count": None, "outputs": [], "source": "x = 1"}
    (drive.root / "b.ipynb").write_text(json.dumps({**book, "cells": [cell]}))
    chat = await drive.open()
    (drive.root / "next.json").write_text(json.dumps({**book, "cells": [{**cell, "source": "x = 2"}]}))
    await chat.run("/shell mv next.json b.ipynb", turn="work")
    (file,) = [file for file in (await diff(chat, "work"))["files"] if file["path"] == "b.ipynb"]
    assert [(cell["change"], cell["source"]) for cell in file["cells"]] == [
        ("modified", "@@ -1 +1 @@\n-x = 1\n+x = 2\n")
    ]


async def test_what_a_person_saves_in_jupyter_meanwhile_is_not_the_turns(drive: Any, jp_fetch: Any) -> None:
    chat = await drive.open()
    await chat.submit("/file agents.txt text\n/text on\n/sleep 600", "slow")
    await chat.until_kind("message_delta")
    body = json.dumps({"type": "file", "format": "text", "content": "mine"})
    await jp_fetch("api", "contents", "mine.txt", method="PUT", body=body)
    await chat.call("POST", "interrupt")
    await chat.until_kind("turn_ended", id="slow")
    assert [file["path"] for file in chat.of("file_changed", "slow")] == ["agents.txt"]


async def test_two_sessions_in_one_folder_have_each_their_own_changes(drive: Any) -> None:
    one, two = await drive.open(), await drive.open("b.chat")
    await one.submit("/text on\n/sleep 600", "long")
    await one.until_kind("message_delta")
    await two.submit("/permission go on\n/file two.txt text", "short")
    asked = await two.until_kind("permission_requested")
    await diff(two, "short")  # the project was looked at by now
    await two.call(
        "POST", "permissions", asked["data"]["id"], body={"option_id": asked["data"]["options"][0]["optionId"]}
    )
    await two.until_kind("turn_ended", id="short")
    await one.call("POST", "interrupt")
    await one.until_kind("turn_ended", id="long")
    assert [(file["path"], file.get("shared")) for file in two.of("file_changed", "short")] == [("two.txt", None)]
    assert one.of("file_changed", "long") == []


async def test_discarded_activity_takes_its_diffs_along(drive: Any) -> None:
    chat = await drive.open()
    await chat.run("/file new.txt text", turn="work")
    await chat.call("DELETE", "activity")
    assert await chat.refused("GET", "turns", "work", "diff") == (404, "not_kept")
    assert await chat.refused("POST", "turns", "work", "revert") == (404, "not_kept")


async def test_a_server_that_is_killed_in_mid_turn_still_tells_all_that_the_turn_changed(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path, {})
    await server.start()
    try:
        chat = await server.drive.open()
        await chat.submit("/file early.txt text\n/text on\n/sleep 2\n/file late.txt text", "work")
        await chat.until_kind("message_delta")
        server.kill()
        await server.start()
        chat = await server.drive.open()
        await chat.until_kind("turn_ended", id="work")
        assert [file["path"] for file in chat.of("file_changed", "work")] == ["early.txt", "late.txt"]
    finally:
        await server.drive.hang_up()
        await server.end()
