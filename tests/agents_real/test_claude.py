"""The real Claude Code through the whole stack, by claude-agent-acp, with a stand-in for the model's service only."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from .model_api import ModelApi
from .watching import alive, answer, mode, running, tree

pytestmark = [pytest.mark.agents, pytest.mark.timeout(120)]


# Every prompt begins with a word: what begins with a slash may be a command of Claude's own, as /run is.
async def open_claude(drive: Any) -> Any:
    return await drive.open(agent="claude")


async def test_a_prompt_is_answered_as_it_is_spoken(drive: Any) -> None:
    chat = await open_claude(drive)
    ended = await chat.run("Please:\n/think a while\n/say Hello from Claude")
    assert ended["stop_reason"] == "end_turn"
    assert chat.text("t1") == "Hello from Claude"
    assert "".join(thought["text"] for thought in chat.of("thought_delta", "t1")).strip() == "a while"
    assert [started["version"] for started in chat.of("agent_started")] == ["0.100.0"]


async def test_a_command_runs_when_a_person_allows_it_and_shows_its_output(drive: Any) -> None:
    chat = await open_claude(drive)
    turn = await chat.submit("Please:\n/run touch made; echo made it\n/say It ran")
    question = await answer(chat, "allow_once")
    assert question["tool_call"]["rawInput"]["command"] == "touch made; echo made it"
    await chat.until_kind("turn_ended", id=turn)
    assert (drive.root / "made").exists()
    assert chat.text(turn) == "It ran"
    [call] = {call["toolCallId"]: call for call in chat.of("tool_call", turn)}.values()
    assert (call["kind"], call["status"]) == ("execute", "completed")
    [terminal] = [part["terminalId"] for part in call["content"] if part["type"] == "terminal"]
    assert [(part["terminal_id"], part["data"].strip()) for part in chat.of("terminal_output")] == [
        (terminal, "made it")
    ]
    assert [(e["terminal_id"], e["exit_code"]) for e in chat.of("terminal_exited")] == [(terminal, 0)]


async def test_a_command_that_a_person_rejects_does_not_run(drive: Any) -> None:
    chat = await open_claude(drive)
    turn = await chat.submit("Please:\n/run touch made\n/say It did not run")
    await answer(chat, "reject_once")
    await chat.until_kind("turn_ended", id=turn)
    assert not (drive.root / "made").exists()
    assert chat.of("tool_call", turn)[-1]["status"] in ("failed", "cancelled")


async def test_a_change_of_a_file_is_shown_before_it_is_allowed(drive: Any) -> None:
    chat = await open_claude(drive)
    path = drive.root / "notes.txt"
    turn = await chat.submit(f"Please:\n/write {path} written by Claude\n/say Written")
    question = await answer(chat, "allow_once")
    [diff] = [part for part in question["tool_call"]["content"] if part["type"] == "diff"]
    assert (diff["path"], diff["newText"]) == (str(path), "written by Claude")
    await chat.until_kind("turn_ended", id=turn)
    assert path.read_text() == "written by Claude"
    assert chat.of("tool_call", turn)[-1]["status"] == "completed"


async def test_a_mode_is_set_by_config_option_and_read_back(drive: Any) -> None:
    chat = await open_claude(drive)
    await chat.run("Please:\n/say hi")
    assert mode(await chat.summary()) == "default"
    assert mode(await chat.call("PATCH", body={"config": {"mode": "acceptEdits"}})) == "acceptEdits"
    path = drive.root / "notes.txt"
    await chat.run(f"Please:\n/write {path} unasked\n/say Written")
    assert path.read_text() == "unasked" and not chat.of("permission_requested")
    assert mode(await chat.summary()) == "acceptEdits"


async def test_stop_in_the_middle_of_a_command_ends_the_command_and_claude_goes_on(drive: Any) -> None:
    chat = await open_claude(drive)
    pid_file = drive.root / "pid"
    turn = await chat.submit(f"Please:\n/run echo $$ > {pid_file}; sleep 1000; echo survived\n/say never")
    await answer(chat, "allow_once")
    command = await running(pid_file)
    queued = await chat.submit("Please:\n/say after the stop")
    await chat.call("POST", "interrupt", body={"turn": turn})
    ended = (await chat.until_kind("turn_ended", id=turn))["data"]
    assert ended["stop_reason"] == "cancelled"
    assert not [process for process in command if alive(process.pid)]
    assert chat.of("tool_call", turn)[-1]["status"] in ("failed", "cancelled")
    await chat.until_kind("turn_ended", id=queued)
    assert "after the stop" in chat.text(queued)
    [started] = chat.of("agent_started")
    assert alive(started["pid"])


async def test_stop_while_a_question_is_open_ends_the_turn_and_the_command_never_runs(drive: Any) -> None:
    chat = await open_claude(drive)
    turn = await chat.submit("Please:\n/run touch made\n/say never")
    question = (await chat.until_kind("permission_requested"))["data"]
    await chat.call("POST", "interrupt", body={"turn": turn})
    assert (await chat.until_kind("turn_ended", id=turn))["data"]["stop_reason"] == "cancelled"
    assert [(e["id"], e["outcome"]) for e in chat.of("permission_resolved")] == [(question["id"], "cancelled")]
    assert not (drive.root / "made").exists()


async def test_stop_while_the_model_is_silent_drops_the_request_to_the_model(drive: Any, model_api: ModelApi) -> None:
    chat = await open_claude(drive)
    turn = await chat.submit("Please:\n/say so far\n/hang")
    await model_api.hanging.wait()
    await chat.call("POST", "interrupt", body={"turn": turn})
    assert (await chat.until_kind("turn_ended", id=turn))["data"]["stop_reason"] == "cancelled"
    async with asyncio.timeout(10):
        await model_api.hung_up.wait()


async def test_a_conversation_resumes_after_the_whole_tree_of_claude_was_killed(drive: Any) -> None:
    chat = await open_claude(drive)
    await chat.run("Please:\n/say remembered")
    [started] = chat.of("agent_started")
    tree_before = tree(started["pid"])
    assert len(tree_before) > 1  # the adapter and the program itself
    for process in tree_before:
        process.kill()
    await chat.until_kind("agent_exited")
    await chat.run("Please:\n/recall")
    assert chat.text("t2") == "/say remembered"
    back = chat.of("agent_started")[-1]
    assert (back["how"], back["agent_session_id"]) == ("resume", started["agent_session_id"])


async def test_what_claude_started_goes_with_it(drive: Any) -> None:
    chat = await open_claude(drive)
    pid_file = drive.root / "pid"
    turn = await chat.submit(f"Please:\n/run echo $$ > {pid_file}; sleep 1000\n/say never")
    await answer(chat, "allow_once")
    command = await running(pid_file)
    [started] = chat.of("agent_started")
    everything = [*tree(started["pid"]), *command]
    everything[0].kill()
    ended = (await chat.until_kind("turn_ended", id=turn))["data"]
    assert ended["error"]["reason"] == "agent_exited"
    await chat.run("Please:\n/recall")
    assert not [process for process in everything if alive(process.pid)]
