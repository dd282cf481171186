"""The access on screen is the access in force, and what cannot be enforced is refused."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from .process import ServerProcess

PROJECT = ("projects", "local")

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="bubblewrap is of Linux only")


async def output(chat: Any, command: str, turn: str) -> str:
    """What a command says that the agent runs itself."""
    await chat.run(f"/shell {command}", turn=turn)
    return "".join(data["data"] for data in chat.of("terminal_output", turn))


async def access(chat: Any) -> tuple[str, str]:
    """What was asked for, and what is in force."""
    told = (await chat.summary())["access"]
    return told["requested"], told["effective"]


async def test_a_project_says_which_kinds_of_access_it_can_enforce(drive: Any) -> None:
    kinds = (await drive.ok("GET", *PROJECT))["access"]
    assert [(kind["id"], kind["available"]) for kind in kinds] == [
        ("full-access", True),
        ("workspace-write", True),
        ("read-only", True),
    ]


async def test_read_only_is_in_force_for_the_agent_and_what_it_starts_from_the_first_turn_on(drive: Any) -> None:
    (drive.root / "file").write_text("of the project")
    chat = await drive.open(access="read-only")
    assert await access(chat) == ("read-only", "read-only")
    said = await output(chat, "cat file; echo x > new; echo x > ~/new; ls -A ~", "look")
    assert "of the project" in said and said.count("Read-only") == 1
    assert not (drive.root / "new").exists() and not (Path.home() / "new").exists()
    assert chat.of("agent_started")[-1]["access"] == "read-only"
    # the agent itself, not only its commands
    await chat.run("/file own.txt text", turn="own")
    assert not (drive.root / "own.txt").exists()


async def test_a_change_of_access_restarts_an_idle_agent_at_once_and_keeps_the_conversation(drive: Any) -> None:
    chat = await drive.open()
    await chat.run("/file first.txt text")
    before = (await chat.summary())["agent_session_id"]
    summary = await chat.call("PATCH", body={"access": "read-only"})
    assert summary["access"]["requested"] == "read-only"
    await chat.until_kind("agent_started", access="read-only", how="resume")
    assert await access(chat) == ("read-only", "read-only")
    assert "Read-only" in await output(chat, "echo x > second.txt", "second")
    await chat.call("PATCH", body={"access": "full-access"})
    assert await output(chat, "echo x > third.txt; cat third.txt", "third") == "x\n"
    assert (await chat.summary())["agent_session_id"] == before
    saved = json.loads((drive.root / ".a.chat.acp.json").read_text())
    assert saved["access"] == "full-access"


async def test_a_change_in_the_middle_of_a_turn_is_in_force_from_the_next_and_the_screen_says_so(drive: Any) -> None:
    chat = await drive.open()
    turn = await chat.submit("/text on\n/sleep 600")
    await chat.until_kind("message_delta")
    queued = await chat.submit("/shell echo x > late.txt")
    await chat.call("PATCH", body={"access": "read-only"})
    assert await access(chat) == ("read-only", "full-access")
    await chat.call("POST", "interrupt", body={"turn": turn})
    await chat.until_kind("turn_ended", id=queued)
    assert await access(chat) == ("read-only", "read-only")
    assert "Read-only" in "".join(data["data"] for data in chat.of("terminal_output", queued))
    assert not (drive.root / "late.txt").exists()


async def test_workspace_write_lets_the_folder_be_written_that_the_session_works_in_and_nothing_else(
    drive: Any,
) -> None:
    (drive.root / "work").mkdir()
    (drive.root / "work2").mkdir()
    chat = await drive.open(cwd="work", access="workspace-write")
    assert (await chat.summary())["cwd"] == str(drive.root / "work")
    said = await output(chat, "pwd; echo x > new; echo x > ../beside; echo x > ../work2/new", "look")
    assert said.startswith(str(drive.root / "work")) and said.count("Read-only") == 2
    assert (drive.root / "work" / "new").read_text() == "x\n"
    other = await drive.request("POST", *PROJECT, "sessions", body={"path": "a.chat", "cwd": "work2"})
    assert (other[0], other[1]["reason"]) == (409, "other_folder")
    fork = await chat.call("POST", "fork", body={"path": "fork.chat"})
    assert (fork["cwd"], fork["access"]["requested"]) == (str(drive.root / "work"), "workspace-write")


@pytest.mark.parametrize("cwd", ["..", "/etc", "nowhere", "link", "a.chat/x", "\0"])
async def test_a_folder_that_is_not_of_the_project_is_refused(drive: Any, cwd: str) -> None:
    (drive.root / "link").symlink_to("/etc")
    status, answer = await drive.request("POST", *PROJECT, "sessions", body={"path": "a.chat", "cwd": cwd})
    assert (status, answer["reason"]) == (400, "bad_cwd")


@pytest.mark.parametrize(("kind", "written"), [("read-only", []), ("workspace-write", ["inside"])])
async def test_calls_that_the_agent_delegates_obey_the_same_access(drive: Any, kind: str, written: list[str]) -> None:
    (drive.root / "work").mkdir()
    (drive.root / "work" / "link").symlink_to(drive.root / "beside")
    chat = await drive.open(agent="delegating", cwd="work", access=kind)
    script = [f"/write {drive.root}/{name} text" for name in ("work/inside", "beside", "work/../up", "work/link")]
    await chat.run("\n".join([*script, f"/terminal cd {drive.root}; echo x > by-command; echo x > work/by-command"]))
    assert [name for name in ("inside", "by-command") if (drive.root / "work" / name).exists()] == (
        [*written, "by-command"] if written else []
    )
    assert not [name for name in ("beside", "up", "by-command") if (drive.root / name).exists()]
    said = "".join(data["data"] for data in chat.of("terminal_output"))
    assert said.count("Read-only") == (1 if written else 2)
    assert [data["path"] for data in chat.of("file_changed") if "change" not in data] == [f"work/{n}" for n in written]


async def test_access_is_still_in_force_after_a_restart_of_the_server(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path, {})
    await server.start()
    chat = await server.drive.open(access="read-only")
    turn = await chat.submit("/text on\n/sleep 1\n/shell echo x > late.txt")
    await chat.until_kind("message_delta")
    server.kill()
    await chat.hang_up()
    await server.start()
    await chat.until_kind("turn_ended", id=turn)
    assert await access(chat) == ("read-only", "read-only")
    assert "Read-only" in "".join(data["data"] for data in chat.of("terminal_output", turn))
    await chat.call("POST", "restart-agent", body={})
    assert "Read-only" in await output(chat, "echo x > again.txt", "again")
    assert not list(server.root.glob("*.txt"))
    await chat.hang_up()
    await server.end()


class TestWithoutBubblewrap:
    """On a machine that has none."""

    @pytest.fixture(autouse=True)
    def path(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "bin").mkdir()
        for name in ("sh", "sleep"):
            (tmp_path / "bin" / name).symlink_to(str(shutil.which(name)))
        monkeypatch.setenv("PATH", str(tmp_path / "bin"))

    async def test_access_that_cannot_be_enforced_is_refused_with_what_is_missing(self, drive: Any) -> None:
        chat = await drive.open()
        for kind in ("workspace-write", "read-only"):
            body = {"id": "x", "prompt": "hi", "access": kind}
            status, answer = await drive.request("POST", *PROJECT, "sessions", chat.id, "turns", body=body)
            assert (status, answer["reason"]) == (422, "access_unsupported")
            assert "bubblewrap, which is not installed" in answer["message"]
            assert (await chat.refused("PATCH", body={"access": kind}))[0] == 422
        assert await chat.refused("PATCH", body={"access": "root"}) == (400, "unknown_access")
        reasons = [kind.get("reason") for kind in (await drive.ok("GET", *PROJECT))["access"]]
        assert reasons[0] is None and "bubblewrap" in reasons[1] and reasons[1] == reasons[2]
        assert (await chat.run("/text full access is still there"))["stop_reason"] == "end_turn"

    async def test_a_session_that_had_it_elsewhere_is_never_run_with_more(self, drive: Any) -> None:
        chat = await drive.open()
        await chat.run("/text hi")
        async with asyncio.timeout(10):
            while not (file := drive.root / ".a.chat.acp.json").exists():  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        await chat.call("DELETE")
        saved = json.loads(file.read_text())
        file.write_text(json.dumps({**saved, "access": "read-only"}))
        again = await drive.open()
        assert await access(again) == ("read-only", "read-only")
        assert (await again.refused("POST", "turns", body={"id": "x", "prompt": "hi"}))[0] == 422
