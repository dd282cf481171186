"""The real fast-agent, which has us run its commands and write its files, with a stand-in for the model's service only.

Its provider here is Anthropic. It asks before each use of a tool.
"""

from __future__ import annotations

import os
from typing import Any

import psutil
import pytest

from .model_api import ModelApi
from .watching import alive, answer, running, tree

pytestmark = [pytest.mark.agents, pytest.mark.timeout(120)]

PLANTED = "sk-planted-in-the-environment-of-the-server"


@pytest.fixture(autouse=True)
def planted_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MARKER_API_KEY", PLANTED)


# Every prompt begins with a word: what begins with a slash may be a command of fast-agent's own.
@pytest.fixture
def chat(drive: Any, jp_asyncio_loop: Any) -> Any:
    return jp_asyncio_loop.run_until_complete(drive.open(agent="fast-agent"))


async def run(chat: Any, prompt: str, tools: int = 1) -> str:
    """A turn that allows its `tools`, to its end; its id."""
    turn: str = await chat.submit(f"Please:\n{prompt}")
    for _ in range(tools):
        await answer(chat, "allow_once")
    await chat.until_kind("turn_ended", id=turn)
    return turn


def last_call(chat: Any, turn: str) -> dict[str, Any]:
    call: dict[str, Any] = chat.of("tool_call", turn)[-1]
    return call


def told(api: ModelApi) -> str:
    """What the model was told last of a tool that it had called."""
    return str(api.requests[-1]["messages"][-1]["content"])


async def test_a_command_is_run_by_us_with_its_output_live_and_its_exit_status(chat: Any, drive: Any) -> None:
    pid_file, go = drive.root / "pid", drive.root / "go"
    waits = f"echo $$ > {pid_file}; echo first; while ! test -e {go}; do sleep 0.02; done"
    turn = await chat.submit(f"Please:\n/run {waits}; echo second; env; exit 3\n/say It ran")
    await answer(chat, "allow_once")
    call = (await chat.until(lambda e: e["kind"] == "tool_call" and bool(e["data"]["content"])))["data"]
    [terminal] = [part["terminalId"] for part in call["content"]]
    assert (call["status"], call["route"], call["placement"]) == ("in_progress", "delegated", "host-delegated")
    await chat.until_kind("terminal_output", terminal_id=terminal)
    [command, *_] = await running(pid_file)
    [started] = chat.of("agent_started")
    assert started["version"] == "0.9.30"
    above = [process.pid for process in command.parents()]
    assert os.getpid() in above and started["pid"] not in above
    go.touch()
    await chat.until_kind("turn_ended", id=turn)
    assert chat.text(turn) == "It ran"
    assert [(e["terminal_id"], e["exit_code"]) for e in chat.of("terminal_exited")] == [(terminal, 3)]
    output = "".join(part["data"] for part in chat.of("terminal_output"))
    assert output.startswith("first\nsecond\n")
    names = {line.partition("=")[0] for line in output.splitlines()}
    assert "PATH" in names and not names & {"MARKER_API_KEY", "ANTHROPIC_API_KEY", "FAST_AGENT_MODEL"}
    assert PLANTED not in output and PLANTED not in psutil.Process(started["pid"]).environ().values()
    call = last_call(chat, turn)
    assert (call["status"], call["route"]) == ("failed", "delegated")
    assert {"type": "terminal", "terminalId": terminal} in call["content"]


async def test_a_simple_command_is_of_its_call_too(chat: Any) -> None:
    turn = await run(chat, "/run printf '%s' one word\n/say over")
    assert last_call(chat, turn)["route"] == "delegated"
    assert "".join(part["data"] for part in chat.of("terminal_output")) == "oneword"


async def test_a_file_is_written_and_read_by_us(chat: Any, drive: Any, model_api: ModelApi) -> None:
    path = drive.root / "sub" / "notes.txt"
    turn = await run(chat, f"/write {path} by fast-agent\n/say Written")
    assert path.read_text() == "by fast-agent"
    written, changed = chat.of("file_changed", turn)
    assert written == {"path": "sub/notes.txt", "route": "delegated"}
    assert (changed["path"], changed["change"], changed["added"]) == ("sub/notes.txt", "added", 1)
    call = last_call(chat, turn)
    assert (call["kind"], call["status"], call["route"]) == ("edit", "completed", "delegated")
    [diff] = [part for part in call["content"] if part["type"] == "diff"]
    assert (diff["path"], diff["newText"]) == (str(path), "by fast-agent")
    turn = await run(chat, f"/read {path}\n/say Read")
    call = last_call(chat, turn)
    assert (call["kind"], call["status"], call["route"]) == ("read", "completed", "delegated")
    assert call["rawInput"] == {"path": str(path)}
    assert "by fast-agent" in told(model_api)


async def test_what_has_no_whole_path_is_in_the_folder_that_the_session_works_in(drive: Any) -> None:
    (drive.root / "work").mkdir()
    chat = await drive.open(agent="fast-agent", cwd="work")
    await run(chat, "/write by-file text\n/run touch by-command\n/say over", tools=2)
    assert {path.name for path in (drive.root / "work").iterdir()} == {"by-file", "by-command"}
    assert {call["route"] for call in chat.of("tool_call") if call["status"] == "completed"} == {"delegated"}


async def test_a_file_outside_of_the_project_is_not_written_and_the_model_is_told(
    chat: Any, drive: Any, model_api: ModelApi
) -> None:
    path = drive.root.parent / "outside.txt"
    turn = await run(chat, f"/write {path} text\n/say Not written")
    assert not path.exists() and not chat.of("file_changed")
    call = last_call(chat, turn)
    assert (call["status"], call["route"]) == ("failed", "delegated")
    assert f"{path}: outside of the project" in told(model_api)
    assert chat.text(turn) == "Not written"


async def test_stop_in_the_middle_of_a_command_ends_it_with_all_that_it_started(chat: Any, drive: Any) -> None:
    pid_file = drive.root / "pid"
    turn = await chat.submit(
        f"Please:\n/run (setsid sleep 1000 &) ; echo $$ > {pid_file}; sleep 1000; true\n/say never"
    )
    await answer(chat, "allow_once")
    [shell, *_] = await running(pid_file)
    [keeper] = [process for process in psutil.Process().children(recursive=True) if process.pid == shell.ppid()]
    command = tree(keeper.pid)[1:]
    assert len(command) == 3  # the shell, and both that it started
    queued = await chat.submit("Please:\n/say after the stop")
    await chat.call("POST", "interrupt", body={"turn": turn})
    ended = (await chat.until_kind("turn_ended", id=turn))["data"]
    assert ended["stop_reason"] == "cancelled"
    assert not [process for process in command if alive(process.pid)]
    assert [e["signal"] for e in chat.of("terminal_exited", turn)] == ["SIGTERM"]
    call = last_call(chat, turn)
    assert (call["status"], call["route"]) == ("cancelled", "delegated")
    await chat.until_kind("turn_ended", id=queued)
    assert "after the stop" in chat.text(queued)
    [started] = chat.of("agent_started")
    assert alive(started["pid"])


async def test_with_read_only_access_we_refuse_what_it_would_write_and_say_why(drive: Any, model_api: ModelApi) -> None:
    chat = await drive.open(agent="fast-agent", access="read-only")
    path = drive.root / "kept-out"
    turn = await run(chat, f"/write {path} text\n/say over")
    assert last_call(chat, turn)["status"] == "failed"
    assert f"{path}: cannot be written, this session has read-only access" in told(model_api)
    turn = await run(chat, f"/run echo text > {path}\n/say over")
    assert "Read-only file system" in "".join(part["data"] for part in chat.of("terminal_output", turn))
    assert not path.exists() and not chat.of("file_changed")
    assert {call["route"] for call in chat.of("tool_call") if call["status"] == "failed"} == {"delegated"}


async def test_a_conversation_resumes_after_fast_agent_was_killed(chat: Any) -> None:
    await chat.run("Please:\n/say remembered")
    [started] = chat.of("agent_started")
    psutil.Process(started["pid"]).kill()
    await chat.until_kind("agent_exited")
    await chat.run("Please:\n/recall")
    assert chat.text("t2") == "/say remembered"
    assert chat.of("agent_started")[-1]["agent_session_id"] == started["agent_session_id"]
