"""Files and commands that an agent asks us for, in the local project."""

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def chat(drive: Any, jp_asyncio_loop: Any) -> Any:
    return jp_asyncio_loop.run_until_complete(drive.open("a.chat", agent="delegating"))


async def test_a_command_runs_in_the_project_with_live_output_and_its_exit_status(chat: Any, drive: Any) -> None:
    await chat.run("/terminal pwd; exit 3")
    assert str(drive.root.resolve()) in "".join(data["data"] for data in chat.of("terminal_output"))
    [exited] = chat.of("terminal_exited")
    assert (exited["exit_code"], exited["signal"]) == (3, None)
    assert {call["route"] for call in chat.of("tool_call")} == {"delegated"}


async def test_a_file_is_read_and_written_in_the_project(chat: Any, drive: Any) -> None:
    (drive.root / "in.txt").write_text("one\ntwo\nthree\n")
    await chat.run("/read line=2 limit=1 in.txt\n/write sub/out.txt Hello")
    assert "two" in chat.text("t1") and "three" not in chat.text("t1")
    assert (drive.root / "sub" / "out.txt").read_text() == "Hello"
    assert chat.of("file_changed")[-1]["route"] == "delegated"


async def test_a_tool_call_whose_file_we_write_says_so_and_another_does_not(chat: Any, drive: Any) -> None:
    await chat.run(
        "/tool write id=mine path=out.txt status=in_progress\n/tool look id=other path=in.txt status=in_progress\n"
        "/write out.txt Hello\n/tool-update mine status=completed\n/tool-update other status=completed"
    )
    routes = {call["toolCallId"]: (call["route"], call["placement"]) for call in chat.of("tool_call")}
    assert routes == {"mine": ("delegated", "host-delegated"), "other": ("agent", "host-delegated")}


async def test_a_tool_call_whose_command_we_run_shows_its_terminal_while_it_runs(chat: Any, drive: Any) -> None:
    script = drive.root / "wait.sh"
    script.write_text("#!/bin/sh\nwhile ! test -e go; do sleep 0.02; done\n")
    script.chmod(0o755)
    turn = await chat.submit(
        '/tool run id=mine status=in_progress input=\'{"command":"./wait.sh"}\'\n'
        "/terminal ./wait.sh\n/tool-update mine text=done"
    )
    call = (await chat.until(lambda e: e["kind"] == "tool_call" and bool(e["data"]["content"])))["data"]
    assert (call["toolCallId"], call["route"]) == ("mine", "delegated")
    (drive.root / "go").touch()
    await chat.until_kind("turn_ended", id=turn)
    [exited] = chat.of("terminal_exited")
    terminal = {"type": "terminal", "terminalId": exited["terminal_id"]}
    assert call["content"] == [terminal]
    [last] = [call for call in chat.of("tool_call") if call["toolCallId"] == "mine"][-1:]
    assert last["content"][1:] == [terminal]


async def test_a_terminal_of_the_agents_own_is_shown_and_never_looked_up_among_ours(chat: Any) -> None:
    own = {"terminal_info": {"terminal_id": "own"}, "terminal_output": {"terminal_id": "own", "data": "hi"}}
    shown = [{"type": "terminal", "terminalId": "own"}]
    update = {"sessionUpdate": "tool_call", "toolCallId": "c", "title": "ls", "content": shown, "_meta": own}
    asked = [f'/request terminal/{verb} {{"terminalId": "own"}}' for verb in ("output", "wait_for_exit", "kill")]
    await chat.run("\n".join([f"/update {json.dumps(update)}", *asked]))
    [call] = chat.of("tool_call")
    assert (call["content"], call["route"]) == (shown, "agent")
    assert [data["data"] for data in chat.of("terminal_output")] == ["hi"]
    assert chat.text("t1").count("no terminal 'own'") == 3


async def test_what_has_no_whole_path_is_in_the_folder_that_the_session_works_in(drive: Any) -> None:
    (drive.root / "work").mkdir()
    chat = await drive.open("a.chat", agent="delegating", cwd="work")
    await chat.submit('/request terminal/create {"command": "echo made > by-command"}')
    await chat.until_kind("terminal_exited")
    await chat.run(
        '/request fs/write_text_file {"path": "by-file", "content": "text"}\n'
        '/request fs/read_text_file {"path": "by-file"}\n'
        '/request fs/read_text_file {"path": 3}'
    )
    assert {path.name for path in (drive.root / "work").iterdir()} == {"by-command", "by-file"}
    assert [data["path"] for data in chat.of("file_changed") if "change" not in data] == ["work/by-file"]
    assert '{"content": "text"}' in chat.text("t2") and "-32602" in chat.text("t2")


@pytest.mark.parametrize("path", ["../secret.txt", "/etc/passwd", "link/secret.txt", "../proj2/secret.txt"])
async def test_a_path_that_leaves_the_project_is_refused(chat: Any, drive: Any, tmp_path: Path, path: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.txt").write_text("TOP SECRET")
    (drive.root / "link").symlink_to(outside)
    await chat.run(f"/read {path}\n/write {path} hacked\n/text on")
    assert "SECRET" not in chat.text("t1") and "root:" not in chat.text("t1")
    assert (outside / "secret.txt").read_text() == "TOP SECRET"
    assert not chat.of("file_changed")


async def test_stop_kills_a_delegated_command_with_its_whole_tree(chat: Any) -> None:
    import psutil

    naps = [f"{10**6 + os.getpid()}.{number}" for number in (4, 5)]  # of this run alone
    turn = await chat.submit(f"/terminal sleep {naps[0]} & (setsid sleep {naps[1]} &) ; echo ready; wait")
    await chat.until_kind("terminal_output")
    await chat.call("POST", "interrupt", body={})
    await chat.until_kind("turn_ended", id=turn)
    left = [process.info["cmdline"] for process in psutil.process_iter(["cmdline"])]
    assert ["sleep", naps[0]] not in left and ["sleep", naps[1]] not in left


async def test_a_command_gets_no_key_and_nothing_of_jupyter(chat: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MARKER_API_KEY", "sk-marker")
    await chat.run("/terminal env")
    output = "".join(data["data"] for data in chat.of("terminal_output"))
    assert "PATH=" in output
    assert "sk-marker" not in output
    # Ours marks the command's processes, so that all of them can be ended.
    assert "JUPYTER_" not in output.replace("JUPYTER_ACP_RUN", "")


async def test_fifty_megabytes_of_output_leave_a_tail_and_the_server_answers_meanwhile(chat: Any, drive: Any) -> None:
    turn = await chat.submit("/terminal limit=1000 head -c 50000000 /dev/zero | tr '\\0' x; echo; echo END")
    slowest = 0.0
    loop = asyncio.get_running_loop()
    waiting = asyncio.create_task(chat.until_kind("turn_ended", id=turn))
    while not waiting.done():
        start = loop.time()
        await drive.ok("GET")
        slowest = max(slowest, loop.time() - start)
    assert "END" in chat.text(turn)
    assert slowest < 2.0
