"""Agents that others wrote, through the whole stack; all that is sent to them is checked against the protocol's schema.

Each agent runs behind tests/agents/record.py. What the client sent is checked when a test has ended.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schema

from jupyter_acp.testing import command

AGENTS = Path(__file__).parents[1] / "agents"
PEERS = Path(__file__).parents[1] / "peers"
EXAMPLES = PEERS / "node_modules" / "@agentclientprotocol" / "sdk" / "dist" / "examples"
NODE = shutil.which("node")

needs_node = pytest.mark.skipif(NODE is None, reason="node is missing: the TypeScript SDK's agents run on it")
needs_peers = pytest.mark.skipif(
    not schema.SCHEMA.exists(), reason="tests/peers is not installed: `make setup` does it with npm"
)
pytestmark = needs_peers


@pytest.fixture
def agent_config(tmp_path: Path) -> dict[str, Any]:
    sdk = [sys.executable, str(AGENTS / "sdk_agent.py"), str(tmp_path / "sdk")]
    pydantic = [sys.executable, str(AGENTS / "pydantic_agent.py"), str(tmp_path / "pydantic")]
    state = {"XDG_STATE_HOME": str(tmp_path / "state")}
    agents: dict[str, Any] = {
        "typescript": {"command": [str(NODE), str(EXAMPLES / "agent.js")]},
        "dual-version": {"command": [str(NODE), str(EXAMPLES / "dual-version-agent.js")]},
        "sdk": {"command": sdk},
        "sdk-delegating": {"command": sdk, "placement": "host-delegated"},
        "pydantic": {"command": pydantic},
        "pydantic-unstable": {"command": [*pydantic, "unstable"]},
        "scripted": {"command": command(), "env": state, "placement": "host-delegated"},
        "scripted-modes": {"command": command("--options", "modes", "--no-resume"), "env": state},
    }
    for name, agent in agents.items():
        agent["command"] = [
            sys.executable,
            str(AGENTS / "record.py"),
            str(tmp_path / "wire" / name),
            "--",
            *agent["command"],
        ]
    return agents


class Wire:
    """What was sent to the agents of a test, by their ids."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def sent(self, agent: str) -> list[list[str]]:
        """The methods that each process of an agent got, all checked; see `schema.check`."""
        return list(schema.recorded(self._folder / agent))


@pytest.fixture
def wire(tmp_path: Path) -> Wire:
    return Wire(tmp_path / "wire")


@pytest.fixture(autouse=True)
def everything_sent_is_valid(tmp_path: Path, wire: Wire) -> Iterator[None]:
    yield
    for folder in (tmp_path / "wire").glob("*"):
        for methods in wire.sent(folder.name):
            assert methods[0] == "initialize"


async def answer(chat: Any, kind: str, **body: object) -> dict[str, Any]:
    """Answer the agent's next question with its option of this kind; the question."""
    asked = await chat.until(lambda event: event["kind"] in ("permission_requested", "turn_ended"))
    assert asked["kind"] == "permission_requested", asked
    question: dict[str, Any] = asked["data"]
    option = next(o["optionId"] for o in question["options"] if o["kind"] == kind)
    await chat.call("POST", "permissions", question["id"], body={"option_id": option, **body})
    return question


async def kill(chat: Any) -> None:
    """Kill the session's agent, and wait until that is known."""
    before = len(chat.of("agent_exited"))
    os.kill(chat.of("agent_started")[-1]["pid"], signal.SIGKILL)
    while len(chat.of("agent_exited")) == before:
        await chat.until_kind("agent_exited")


def values(summary: dict[str, Any]) -> dict[str, object]:
    """The options of a session as it shows them."""
    return {option["id"]: option["currentValue"] for option in summary["config_options"]}


# --- npm @agentclientprotocol/sdk ------------------------------------------------------------------------------------


@needs_node
async def test_the_typescript_example_agent_hears_yes_and_no_and_stop(drive: Any, wire: Wire) -> None:
    chats = [await drive.open(f"{name}.chat", agent="typescript") for name in ("yes", "no", "stopped", "asking")]
    for chat in chats:
        await chat.submit("change the configuration")
    yes, no, stopped, asking = chats

    async def allow() -> None:
        question = await answer(yes, "allow_once")
        assert question["tool_call"]["title"] == "Modifying critical configuration file"
        assert (await yes.until_kind("turn_ended"))["data"]["stop_reason"] == "end_turn"
        assert yes.text("t1").endswith("The changes have been applied.")
        calls = {call["toolCallId"]: call for call in yes.of("tool_call")}
        assert [(c["kind"], c["status"]) for c in calls.values()] == [("read", "completed"), ("edit", "completed")]

    async def refuse() -> None:
        await answer(no, "reject_once")
        await no.until_kind("turn_ended")
        assert no.text("t1").endswith("I'll skip the configuration update.")

    async def stop_while_it_works() -> None:
        await stopped.until_kind("tool_call")
        await stopped.call("POST", "interrupt", body={})
        assert (await stopped.until_kind("turn_ended"))["data"]["stop_reason"] == "cancelled"
        assert stopped.of("tool_call")[-1]["status"] == "cancelled"

    async def stop_while_it_asks() -> None:
        await asking.until_kind("permission_requested")
        await asking.call("POST", "interrupt", body={})
        await asking.until_kind("turn_ended")
        assert [r["outcome"] for r in asking.of("permission_resolved")] == ["cancelled"]

    await asyncio.gather(allow(), refuse(), stop_while_it_works(), stop_while_it_asks())
    assert sorted(methods[3:] for methods in wire.sent("typescript")) == [
        ["session/cancel"],
        ["session/cancel", "session/request_permission!"],
        ["session/request_permission!"],
        ["session/request_permission!"],
    ]


@needs_node
async def test_an_agent_of_both_protocol_versions_is_spoken_to_in_the_first_and_starts_over_after_a_kill(
    drive: Any, wire: Wire
) -> None:
    chat = await drive.open(agent="dual-version")
    assert (await chat.run("remember me"))["stop_reason"] == "end_turn"
    assert chat.text("t1") == "Hello from the v1 implementation."
    assert wire.sent("dual-version") == [["initialize", "session/new", "session/prompt"]]
    await kill(chat)
    # it can neither resume nor load
    assert (await chat.run("again"))["error"]["reason"] == "session_lost"
    await chat.call("POST", "start-over", body={})
    assert (await chat.run("again"))["stop_reason"] == "end_turn"
    assert [started["how"] for started in chat.of("agent_started")] == ["new", "new"]


# --- the Python SDK's agent side -------------------------------------------------------------------------------------


async def test_the_python_sdk_reads_every_kind_of_block_that_we_send(drive: Any) -> None:
    chat = await drive.open(agent="sdk")
    blocks = [
        {"type": "text", "text": "plan "},
        {"type": "resource_link", "uri": "file:///a.py", "name": "a.py"},
        {"type": "resource", "resource": {"uri": "file:///b.py", "text": "b", "mimeType": "text/x-python"}},
        {"type": "image", "data": "AAAA", "mimeType": "image/png"},
    ]
    ended = await chat.run(blocks)
    assert ended["stop_reason"] == "end_turn"
    assert chat.text("t1").startswith("plan [a.py](file:///a.py)") and chat.text("t1").endswith("prompt 1")
    echoed = [data["content"]["type"] for data in chat.of("message_delta") if "content" in data]
    assert echoed == ["resource_link", "resource", "image"]
    assert [t["text"] for t in chat.of("thought_delta")] == ["An echo."]
    assert [e["status"] for e in chat.of("plan")[-1]["entries"]] == ["completed", "pending"]
    summary = await chat.summary()
    assert (summary["title"], summary["usage"]["used"]) == ("An echo", 5)
    assert [c["name"] for c in summary["commands"]] == ["help"]  # said before the answer to session/new


async def test_the_python_sdk_hears_what_a_person_chose_and_wrote(drive: Any) -> None:
    chat = await drive.open(agent="sdk")
    for kind, said, status in (("allow_once", "yes", "completed"), ("reject_once", "no", "failed")):
        turn = await chat.submit("ask")
        question = await answer(chat, kind)
        assert (question["tool_call"]["title"], question["tool_call"]["rawInput"]) == ("Write a file", {"path": "a.py"})
        await chat.until_kind("turn_ended", id=turn)
        assert f"said {said}" in chat.text(turn)
        assert chat.of("tool_call", turn)[-1]["status"] == status
    turn = await chat.submit("form")
    question = await answer(chat, "allow_once", content={"name": "Ada"})
    assert question["elicitation"]["requestedSchema"]["required"] == ["name"]
    await chat.until_kind("turn_ended", id=turn)
    assert 'accept {"name": "Ada"}' in chat.text(turn)
    turn = await chat.submit("form")
    await answer(chat, "reject_once")
    await chat.until_kind("turn_ended", id=turn)
    assert "decline" in chat.text(turn)


async def test_stop_ends_a_turn_of_the_python_sdk_and_the_queue_goes_on(drive: Any) -> None:
    chat = await drive.open(agent="sdk")
    waits = await chat.submit("wait")
    asks = await chat.submit("ask")
    await chat.until_kind("tool_call", toolCallId="wait")
    await chat.call("POST", "interrupt", body={})
    assert (await chat.until_kind("turn_ended", id=waits))["data"]["stop_reason"] == "cancelled"
    assert chat.of("tool_call", waits)[-1]["status"] == "cancelled"
    await chat.until_kind("permission_requested")
    await chat.call("POST", "interrupt", body={})
    assert (await chat.until_kind("turn_ended", id=asks))["data"]["stop_reason"] == "cancelled"
    assert (await chat.run("hello"))["stop_reason"] == "end_turn"


async def test_options_of_the_python_sdk_are_set_by_either_side_and_survive_a_kill(drive: Any, wire: Wire) -> None:
    chat = await drive.open(agent="sdk")
    await chat.run("mind")
    assert values(await chat.summary()) == {"model": "large", "fast": False}
    assert values(await chat.call("PATCH", body={"config": {"fast": True, "model": "small"}})) == {
        "model": "small",
        "fast": True,
    }
    await kill(chat)
    await chat.run("hello")
    assert chat.text("t2").endswith("prompt 2"), "it is the same conversation"
    assert chat.of("agent_started")[-1]["how"] == "resume"
    assert values(await chat.summary()) == {"model": "small", "fast": True}
    assert wire.sent("sdk")[-1] == ["initialize", "session/resume", "session/prompt"]


async def test_the_python_sdk_runs_commands_and_saves_files_through_us(drive: Any, wire: Wire) -> None:
    chat = await drive.open(agent="sdk-delegating")
    await chat.run("run save")
    assert "from the shell (3)" in chat.text("t1")
    assert (drive.root / "saved.txt").read_text() == "one\ntwo\nthree\n"
    calls = {call["toolCallId"]: call for call in chat.of("tool_call")}
    assert calls["run"]["route"] == "delegated"
    assert calls["save"]["content"][0]["content"]["text"].strip() == "two"
    answers = [method for method in wire.sent("sdk-delegating")[0] if method.endswith("!")]
    assert answers == [
        *("terminal/create!", "terminal/wait_for_exit!", "terminal/output!", "terminal/kill!", "terminal/release!"),
        *("fs/write_text_file!", "fs/read_text_file!"),
    ]


async def test_the_python_sdk_is_refused_files_and_commands_that_it_was_not_offered(drive: Any, wire: Wire) -> None:
    chat = await drive.open(agent="sdk")
    assert (await chat.run("save"))["stop_reason"] == "error"
    assert not (drive.root / "saved.txt").exists()
    assert wire.sent("sdk")[0][-1] == "fs/write_text_file?"


# --- pydantic-acp ----------------------------------------------------------------------------------------------------


async def test_pydantic_acp_asks_before_it_removes_and_is_stopped_in_a_tool(drive: Any) -> None:
    cleaning, stuck = [await drive.open(f"{name}.chat", agent="pydantic") for name in ("cleaning", "stuck")]
    await cleaning.submit("clean up")
    await stuck.submit("wait", config={"model": "stuck"})

    async def allow() -> None:
        await answer(cleaning, "allow_once")
        assert (await cleaning.until_kind("turn_ended"))["data"]["stop_reason"] == "end_turn"
        assert cleaning.text("t1") == "Called look, remove."
        calls = {call["title"]: call["status"] for call in cleaning.of("tool_call")}
        assert calls == {"look": "completed", "remove": "completed"}
        assert cleaning.of("commands"), "said before the answer to session/new"

    async def stop() -> None:
        await stuck.until(lambda event: event["kind"] in ("tool_call", "turn_ended"))
        await stuck.call("POST", "interrupt", body={})
        assert (await stuck.until_kind("turn_ended"))["data"]["stop_reason"] == "cancelled"
        assert stuck.of("tool_call")[-1]["status"] in ("cancelled", "failed")
        assert (await stuck.run("look", config={"model": "quick"}))["stop_reason"] == "end_turn"

    await asyncio.gather(allow(), stop())


@pytest.mark.parametrize(("agent", "how"), [("pydantic", "load"), ("pydantic-unstable", "resume")])
async def test_pydantic_acp_is_brought_back_after_a_kill_with_its_options_and_without_a_word_twice(
    drive: Any, agent: str, how: str
) -> None:
    chat = await drive.open(agent=agent)
    await chat.run("look", config={"model": "quick", "mode": "auto"})
    await kill(chat)
    assert (await chat.run("look"))["stop_reason"] == "end_turn"
    assert chat.of("agent_started")[-1]["how"] == how
    assert values(await chat.summary()).items() >= {"model": "quick", "mode": "auto"}.items()
    assert [chat.text(turn) for turn in ("t1", "t2")] == ["Called look."] * 2
    # the model calls a tool once in a conversation: it remembers
    assert {call["title"] for call in chat.of("tool_call", "t1")} == {"look"}
    assert not chat.of("tool_call", "t2")
    assert not [event for event in chat.events if event["kind"] == "message_delta" and event["turn"] is None]


# --- the scripted agent ----------------------------------------------------------------------------------------------

BROAD = """/text Hello
/permission Write
/elicit form
/terminal echo hi
/read in.txt
/read missing.txt
/write out.txt text
/request craft/unknown {}
/permission withdraw=0.05 Never mind
/text done"""


async def test_everything_that_a_broad_turn_makes_us_send_is_valid(drive: Any, wire: Wire) -> None:
    (drive.root / "in.txt").write_text("in")
    chat = await drive.open(agent="scripted")
    await chat.submit(BROAD, config={"mode": "auto"})
    await answer(chat, "allow_once")
    await answer(chat, "allow_once", content={})
    assert (await chat.until_kind("turn_ended"))["data"]["stop_reason"] == "end_turn"
    await chat.submit("/permission wait=1 Write")
    await chat.until_kind("permission_requested")
    await chat.call("POST", "interrupt", body={})
    await chat.until_kind("turn_ended", id="t2")
    await kill(chat)
    await chat.run("/text back")
    first, second = wire.sent("scripted")
    assert {
        *("initialize", "session/new", "session/set_config_option", "session/prompt", "session/cancel"),
        *("session/request_permission!", "elicitation/create!", "terminal/create!", "terminal/wait_for_exit!"),
        *("terminal/output!", "terminal/release!", "fs/read_text_file!", "fs/read_text_file?"),
        *("fs/write_text_file!", "craft/unknown?"),
    } <= set(first)
    assert second[:2] == ["initialize", "session/resume"]


async def test_the_older_generation_of_modes_and_a_load_are_sent_validly(drive: Any, wire: Wire) -> None:
    chat = await drive.open(agent="scripted-modes")
    await chat.run("/text hi", config={"mode": "auto"})
    await kill(chat)
    await chat.run("/text back")
    first, second = wire.sent("scripted-modes")
    assert "session/set_mode" in first
    assert second[:2] == ["initialize", "session/load"]


def test_the_check_itself_finds_what_is_wrong() -> None:
    prompt = {"jsonrpc": "2.0", "id": "a", "method": "session/prompt", "params": {"sessionId": "s", "prompt": []}}
    assert schema.check([prompt], []) == ["session/prompt"]
    wrong: list[dict[str, Any]] = [
        {**prompt, "params": {"sessionId": "s"}},
        {**prompt, "params": {**prompt["params"], "extra": 1}},  # type: ignore[dict-item]  # one of mixed values
        {**prompt, "params": {"sessionId": "s", "prompt": [{"type": "text"}]}},
        {**prompt, "method": "session/fork"},
        {"jsonrpc": "2.0", "id": 9, "result": {}},
    ]
    for message in wrong:
        with pytest.raises(schema.Invalid):
            schema.check([message], [])
