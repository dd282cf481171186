"""The scripted agent as a process: that it does what its directives say, so that other tests can build on it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from jupyter_acp.testing import chunk_text, command
from jupyter_acp.testing.__main__ import parser
from jupyter_acp.testing.agent import REGISTRY

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "scripted-agent.md"


class Client:
    """A plain client: sends, and reads lines until an answer."""

    def __init__(self, folder: Path, *switches: str) -> None:
        self.process = subprocess.Popen(
            command("--state", str(folder / "state"), *switches),
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self.folder = folder
        self.updates: list[dict[str, Any]] = []
        self.raw: list[bytes] = []
        self.requests: list[dict[str, Any]] = []
        self.answer: Callable[[dict[str, Any]], dict[str, Any] | None] = lambda request: {
            "error": {"code": -32601, "message": "Method not found"}
        }
        self.session = ""
        self._number = 0

    def send(self, **message: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")
        self.process.stdin.flush()

    def start(self, method: str, params: dict[str, Any]) -> int:
        self._number += 1
        self.send(id=self._number, method=method, params=params)
        return self._number

    def read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the agent has ended"
        try:
            message = json.loads(line)
            update = message["params"]["update"]
            assert isinstance(update, dict)
        except (ValueError, TypeError, KeyError, AssertionError):
            if not line.startswith(b'{"jsonrpc":"2.0","id":'):
                self.raw.append(line)
                return {}
            message = json.loads(line)
            if "method" in message:
                self.requests.append(message)
                answer = self.answer(message)
                if answer is not None:
                    self.send(id=message["id"], **answer)
            return message
        self.updates.append(update)
        return message

    def finish(self, number: int) -> dict[str, Any]:
        while True:
            message = self.read()
            if message.get("id") == number and "method" not in message:
                return message

    def call(self, method: str, **params: Any) -> Any:
        answer = self.finish(self.start(method, params))
        assert "error" not in answer, answer
        return answer["result"]

    def open(self, **capabilities: Any) -> Client:
        self.call("initialize", protocolVersion=1, clientCapabilities=capabilities)
        self.session = self.call("session/new", cwd=str(self.folder), mcpServers=[])["sessionId"]
        self.until("available_commands_update")
        self.updates.clear()
        return self

    def prompt(self, *lines: str) -> int:
        blocks = [{"type": "text", "text": "\n".join(lines)}]
        return self.start("session/prompt", {"sessionId": self.session, "prompt": blocks})

    def run(self, *lines: str) -> dict[str, Any]:
        return self.finish(self.prompt(*lines))

    def cancel(self) -> None:
        self.send(method="session/cancel", params={"sessionId": self.session})

    def until(self, kind: str) -> dict[str, Any]:
        while True:
            update = self.read().get("params", {}).get("update", {})
            if update.get("sessionUpdate") == kind:
                return dict(update)

    def kinds(self) -> list[str]:
        return [update["sessionUpdate"] for update in self.updates]

    def text(self, kind: str = "agent_message_chunk") -> str:
        return "".join(u["content"]["text"] for u in self.updates if u["sessionUpdate"] == kind)

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            if pipe is not None:
                # what was not sent yet cannot be: nobody reads it
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()


Start = Callable[..., Client]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    clients: list[Client] = []

    def begin(*switches: str) -> Client:
        clients.append(Client(tmp_path, *switches))
        return clients[-1]

    yield begin
    for client in clients:
        client.end()


def chosen(option: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda request: {"result": {"outcome": {"outcome": "selected", "optionId": option}}}


def test_every_directive_and_every_switch_is_on_the_reference_page() -> None:
    page = PAGE.read_text("utf-8").replace("\\|", "|")
    for directive in REGISTRY.directives.values():
        assert f"| `{directive.usage}` | {directive.help} |" in page, directive.name
    for action in parser()._actions:
        assert action.dest == "help" or f"`{action.option_strings[0]}" in page
    written = set(re.findall(r"^\| `/([\w-]+)", page, re.M))
    assert written == set(REGISTRY.directives)


def test_it_imports_only_the_standard_library() -> None:
    code = (
        "import sys, jupyter_acp.testing.__main__;"
        "print([m for m in {n.split('.')[0] for n in sys.modules} - set(sys.stdlib_module_names)"
        " if m not in ('jupyter_acp', '__main__')])"
    )
    # -I -S would hide the package; what site itself imports for editable installs is not ours
    known = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not re.search("tornado|traitlets|jupyter_core|jupyter_server|IPython", known)


def test_chunks_at_full_speed_are_complete_and_in_order(start: Start) -> None:
    client = start().open()
    assert client.run("/chunks 5000 20")["result"] == {"stopReason": "end_turn"}
    assert client.text() == "".join(chunk_text(number, 20) for number in range(5000))
    assert {len(update["content"]["text"]) for update in client.updates} == {20}


def test_stamps_are_the_moments_of_writing(start: Start) -> None:
    client = start().open()
    before = time.monotonic_ns()
    client.run("/stamp 5 10")
    stamps = [int(word) for word in client.text().split()]
    assert len(stamps) == 5 and before < stamps[0] and stamps == sorted(stamps) and stamps[-1] < time.monotonic_ns()
    assert stamps[-1] - stamps[0] >= 39e6


def test_a_tool_call_carries_diff_location_and_raw_input(start: Start) -> None:
    client = start().open()
    client.run("/tool Change it path=a.py line=3 old=x new=y kind=edit input='{\"a\": 1}' output=2 name=edit")
    call, ended = client.updates
    path = str(client.folder / "a.py")
    assert (call["title"], call["kind"], call["name"], call["rawInput"]) == ("Change it", "edit", "edit", {"a": 1})
    assert call["locations"] == [{"path": path, "line": 3}]
    assert call["content"] == [{"type": "diff", "path": path, "oldText": "x", "newText": "y"}]
    assert ended["toolCallId"] == call["toolCallId"] and ended["status"] == "completed" and ended["rawOutput"] == 2


def test_its_own_command_shows_live_output_and_its_exit_in_meta(start: Start) -> None:
    client = start().open()
    client.run("/shell echo out; exit 3")
    call, output, ended = client.updates
    terminal = call["content"][0]["terminalId"]
    assert call["_meta"]["terminal_info"] == {"terminal_id": terminal, "cwd": str(client.folder)}
    assert output["_meta"]["terminal_output"] == {"terminal_id": terminal, "data": "out\n"}
    assert ended["status"] == "failed"
    assert ended["_meta"]["terminal_exit"] == {"terminal_id": terminal, "exit_code": 3, "signal": None}


@pytest.mark.parametrize("leave", [False, True])
def test_a_cancelled_command_is_killed_unless_it_is_to_be_left(start: Start, leave: bool) -> None:
    client = start().open()
    number = client.prompt(f"/shell {'leave=1 ' if leave else ''}echo $$; exec sleep 300")
    client.until("tool_call")
    pid = int(client.until("tool_call_update")["_meta"]["terminal_output"]["data"])
    client.cancel()
    assert client.finish(number)["result"] == {"stopReason": "cancelled"}
    if leave:
        os.kill(pid, signal.SIGKILL)
    else:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


@pytest.mark.parametrize("script", ["/flood", "/sleep 300", "/count 10000 delay=0.01", "/permission Ask"])
def test_cancel_ends_a_turn_at_once(start: Start, script: str) -> None:
    client = start().open()
    client.answer = lambda request: None
    number = client.prompt("/thought on it", script)
    client.until("agent_thought_chunk")
    began = time.monotonic()
    client.cancel()
    assert client.finish(number)["result"] == {"stopReason": "cancelled"}
    assert time.monotonic() - began < 20  # each of them goes on for longer, or for ever


def test_a_stubborn_turn_ignores_cancel(start: Start) -> None:
    client = start().open()
    number = client.prompt("/stubborn", "/text one", "/sleep 0.2", "/text two")
    client.until("agent_message_chunk")
    client.cancel()
    assert client.finish(number)["result"] == {"stopReason": "end_turn"}
    assert client.text() == "onetwo"


def test_permission_options_are_those_that_were_asked_for_and_the_answer_is_told(start: Start) -> None:
    client = start().open()
    client.answer = chosen("reject_once")
    client.run("/permission kinds=allow_once,reject_once Delete all")
    params = client.requests[0]["params"]
    assert [option["kind"] for option in params["options"]] == ["allow_once", "reject_once"]
    assert params["toolCall"]["title"] == "Delete all"
    assert client.text() == "permission: reject_once\n"


def test_a_patient_permission_waits_for_the_answer_of_the_cancelled_turn(start: Start) -> None:
    client = start().open()
    client.answer = lambda request: None
    number = client.prompt("/permission wait=1 Ask")
    client.until("tool_call")
    while not client.requests:
        client.read()
    client.cancel()
    client.send(id=client.requests[0]["id"], result={"outcome": {"outcome": "cancelled"}})
    assert client.finish(number)["result"] == {"stopReason": "cancelled"}


def test_a_withdrawn_permission_sends_cancel_request(start: Start) -> None:
    client = start().open()
    client.answer = lambda request: None
    number = client.prompt("/permission withdraw=0.05 Ask")
    while not any(b"$/cancel_request" in line for line in client.raw):
        client.read()
    client.send(id=client.requests[0]["id"], error={"code": -32800, "message": "cancelled"})
    assert client.finish(number)["error"]["code"] == -32800


def test_what_the_client_refuses_is_told_as_text(start: Start) -> None:
    client = start().open()
    client.run("/read a.txt", "/write a.txt hello", "/terminal ls", "/elicit url", "/request craft/drain {}")
    asked = [request["method"] for request in client.requests]
    assert asked == ["fs/read_text_file", "fs/write_text_file", "terminal/create", "elicitation/create", "craft/drain"]
    assert client.text().count("error -32601") == 5


def test_its_own_file_is_written_and_shown_with_its_diff(start: Start) -> None:
    client = start().open()
    client.run("/file notes/a.txt one\\ntwo")
    assert (client.folder / "notes" / "a.txt").read_text() == "one\ntwo"
    assert client.updates[0]["content"][0]["newText"] == "one\ntwo"
    assert client.updates[0]["content"][0]["oldText"] is None


def test_garbage_comes_between_good_messages(start: Start) -> None:
    client = start().open()
    assert client.run("/text before", "/garbage", "/text after")["result"]["stopReason"] == "end_turn"
    assert b"null\n" in client.raw and b"123\n" in client.raw and b"[]\n" in client.raw
    assert client.text().startswith("before") and client.text().endswith("after")
    assert "cut \ud83d here" in client.text()


def test_a_huge_line_is_one_line(start: Start) -> None:
    client = start().open()
    client.run("/huge 2")
    assert [len(update["content"]["text"]) for update in client.updates] == [2 << 20]


def test_late_updates_come_after_the_answer(start: Start) -> None:
    client = start().open()
    assert client.run("/text on time", "/late 2")["result"]["stopReason"] == "end_turn"
    assert client.text() == "on time"
    client.until("agent_message_chunk")
    assert client.until("agent_message_chunk")["content"]["text"] == "late 2\n"


def test_a_crash_is_a_kill_and_an_exit_has_its_code_and_stderr(start: Start) -> None:
    crashed, exited = start().open(), start().open()
    crashed.prompt("/crash")
    assert crashed.process.wait(10) == -signal.SIGKILL
    exited.prompt("/exit 7")
    assert exited.process.wait(10) == 7
    assert exited.process.stderr is not None and exited.process.stderr.read() == b"going\n"


def test_errors_are_answers(start: Start) -> None:
    client = start().open()
    assert client.run("/error -32603 No luck today")["error"] == {"code": -32603, "message": "No luck today"}
    assert client.run("/auth")["error"]["code"] == -32000
    assert client.run("/stop refusal")["result"] == {"stopReason": "refusal"}
    unknown = client.run("/no-such-thing")["error"]
    assert unknown["code"] == -32602 and "/no-such-thing" in unknown["message"]


def test_a_second_prompt_while_one_runs_is_refused(start: Start) -> None:
    client = start().open()
    first = client.prompt("/thought first", "/sleep 300")
    client.until("agent_thought_chunk")
    assert client.run("/text second")["error"]["message"] == "A turn is already running"
    client.cancel()
    assert client.finish(first)["result"]["stopReason"] == "cancelled"


def test_another_process_loads_a_session_with_its_history_and_options(start: Start) -> None:
    first = start().open()
    first.run("/text the answer", "/tool Look")
    first.call("session/set_config_option", sessionId=first.session, configId="mode", value="auto")
    first.end()
    second = start()
    second.call("initialize", protocolVersion=1)
    loaded = second.call("session/load", sessionId=first.session, cwd=str(second.folder), mcpServers=[])
    assert second.kinds() == ["user_message_chunk", "agent_message_chunk", "tool_call", "tool_call_update"]
    assert second.text() == "the answer"
    assert loaded["configOptions"][0]["currentValue"] == "auto"


def test_resume_replays_nothing_and_goes_on(start: Start) -> None:
    first = start().open()
    first.run("/text the answer")
    first.end()
    second = start()
    second.call("initialize", protocolVersion=1)
    second.call("session/resume", sessionId=first.session, cwd=str(second.folder))
    assert second.updates == []
    second.session = first.session
    assert second.run("/text on")["result"]["stopReason"] == "end_turn"


@pytest.mark.parametrize(
    ("switch", "method"),
    [("--no-load", "session/load"), ("--no-resume", "session/resume"), ("--fail-load", "session/load")],
)
def test_switches_take_load_and_resume_away(start: Start, switch: str, method: str) -> None:
    client = start(switch).open()
    with pytest.raises(AssertionError, match="'error'"):
        client.call(method, sessionId=client.session, cwd=str(client.folder))


def test_a_wrong_mode_after_load_and_a_deaf_agent(start: Start) -> None:
    client = start("--wrong-mode", "--deaf").open()
    answer = client.call("session/set_config_option", sessionId=client.session, configId="mode", value="auto")
    assert answer["configOptions"][0]["currentValue"] == "ask"
    loaded = client.call("session/resume", sessionId=client.session, cwd=str(client.folder))
    assert loaded["configOptions"][0]["currentValue"] == "plan"


@pytest.mark.parametrize(
    ("generation", "keys"),
    [("config", {"configOptions"}), ("modes", {"modes"}), ("models", {"modes", "models"}), ("none", set())],
)
def test_each_generation_of_options_is_told_in_its_own_way(start: Start, generation: str, keys: set[str]) -> None:
    client = start("--options", generation)
    client.call("initialize", protocolVersion=1)
    reply = client.call("session/new", cwd=str(client.folder), mcpServers=[])
    assert set(reply) - {"sessionId"} == keys
    if generation != "none":
        client.call("session/set_mode", sessionId=reply["sessionId"], modeId="plan")


def test_options_of_type_boolean_only_go_to_a_client_that_takes_them(start: Start) -> None:
    client = start()
    client.call("initialize", protocolVersion=1, clientCapabilities={"session": {"configOptions": {"boolean": {}}}})
    reply = client.call("session/new", cwd=str(client.folder), mcpServers=[])
    assert [option["id"] for option in reply["configOptions"]] == ["mode", "model", "effort", "fast"]


def test_a_session_needs_a_login_where_that_is_asked_for(start: Start) -> None:
    client = start("--auth-required", "--update-before-new")
    client.call("initialize", protocolVersion=1)
    new = {"cwd": str(client.folder), "mcpServers": []}
    assert client.finish(client.start("session/new", new))["error"]["code"] == -32000
    client.call("authenticate", methodId="demo-login")
    assert client.updates == []
    client.call("session/new", **new)
    assert client.kinds() == ["usage_update"]


def test_plain_words_get_a_whole_turn_that_writes_a_file_when_allowed(start: Start) -> None:
    client = start().open()
    client.answer = chosen("allow_once")
    assert client.run("Please help me with my data")["result"] == {"stopReason": "end_turn"}
    assert {"agent_thought_chunk", "plan", "tool_call", "tool_call_update", "usage_update"} <= set(client.kinds())
    assert "Hello" in (client.folder / "hello.py").read_text()
    assert "`/help` lists them all" in client.text()


def test_help_lists_every_directive(start: Start) -> None:
    client = start().open()
    client.run("/help")
    for name in REGISTRY.directives:
        assert f"`/{name}" in client.text()


def test_plain_words_write_nothing_when_the_person_says_no(start: Start) -> None:
    client = start().open()
    client.answer = chosen("reject_once")
    client.run("Please help me with my data")
    assert not (client.folder / "hello.py").exists()
    assert "was not written" in client.text()


def test_a_background_process_outlives_its_turn(start: Start) -> None:
    client = start().open()
    client.run("/background 300")
    pid = int(client.text())
    assert os.getsid(pid) == pid
    os.kill(pid, signal.SIGKILL)


def test_it_ends_when_the_client_closes_the_pipe_even_in_a_flood(start: Start) -> None:
    client = start().open()
    client.prompt("/flood")
    client.until("agent_message_chunk")
    assert client.process.stdin is not None and client.process.stdout is not None
    client.process.stdin.close()
    client.process.stdout.close()
    assert client.process.wait(10) == 0


def test_env_tells_names_and_never_values(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_SECRET", "do-not-tell")
    client = start().open()
    client.run("/env")
    assert "A_SECRET" in client.text().split() and "do-not-tell" not in client.text()


def test_a_recorded_session_is_given_again_with_the_ids_of_the_new_client(start: Start, tmp_path: Path) -> None:
    recording = tmp_path / "recording"
    update = b'{"jsonrpc":"2.0","method":"session/update","params":{"sessionId":"s","update":%b}}'
    recording.write_bytes(
        b"\n".join(
            [
                b'{"jsonrpc":"2.0","id":0,"result":{"protocolVersion":1}}',
                b'{"jsonrpc":"2.0","id":1,"result":{"sessionId":"s"}}',
                update % b'{"sessionUpdate":"agent_message_chunk","content":{"type":"text","text":"again"}}',
                b"\xff no json",
                b'{"jsonrpc":"2.0","id":2,"result":{"stopReason":"end_turn"}}',
            ]
        )
        + b"\n"
    )
    client = start("--replay", str(recording))
    client._number = 40
    client.call("initialize", protocolVersion=1)
    client.session = client.call("session/new", cwd="/", mcpServers=[])["sessionId"]
    assert client.run("anything")["result"] == {"stopReason": "end_turn"}
    assert client.text() == "again" and client.raw == [b"\xff no json\n"]
