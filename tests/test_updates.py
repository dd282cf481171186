"""What an agent's update becomes in the log."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jupyter_acp.events import Kind, encode
from jupyter_acp.updates import META_LIMIT, ToolCalls, content_text, translate, trim

TEXT = {"type": "text", "text": "hi"}


def call(id: str = "c", **fields: object) -> dict[str, Any]:
    return {"sessionUpdate": "tool_call", "toolCallId": id, "title": "Read", **fields}


def change(id: str = "c", **fields: object) -> dict[str, Any]:
    return {"sessionUpdate": "tool_call_update", "toolCallId": id, **fields}


@pytest.mark.parametrize(
    ("update", "kind", "data"),
    [
        ({"sessionUpdate": "agent_message_chunk", "content": TEXT}, "message_delta", {"text": "hi", "role": "agent"}),
        ({"sessionUpdate": "user_message_chunk", "content": TEXT}, "message_delta", {"text": "hi", "role": "user"}),
        ({"sessionUpdate": "agent_thought_chunk", "content": TEXT}, "thought_delta", {"text": "hi"}),
        (
            {"sessionUpdate": "agent_message_chunk", "content": TEXT, "messageId": "m"},
            "message_delta",
            {"text": "hi", "role": "agent", "message_id": "m"},
        ),
        ({"sessionUpdate": "plan", "entries": [{"content": "x"}]}, "plan", {"entries": [{"content": "x"}]}),
        (
            {"sessionUpdate": "available_commands_update", "availableCommands": [{"name": "a", "input": None}, 3]},
            "commands",
            {"commands": [{"name": "a", "input": None}]},
        ),
        (
            {"sessionUpdate": "usage_update", "used": 1, "size": 2, "cost": {"amount": 1, "currency": "EUR"}},
            "usage",
            {"used": 1, "size": 2, "cost": {"amount": 1, "currency": "EUR"}},
        ),
        ({"sessionUpdate": "usage_update", "used": 1, "size": 2, "cost": None}, "usage", {"used": 1, "size": 2}),
        (
            {"sessionUpdate": "notice", "severity": "warning", "title": "Careful", "description": None},
            "notice",
            {"severity": "warning", "title": "Careful"},
        ),
        ({"sessionUpdate": "session_info_update", "title": None}, "session_changed", {"title": None}),
    ],
)
def test_each_known_update_becomes_its_event(update: dict[str, Any], kind: str, data: dict[str, Any]) -> None:
    assert translate(update) == [(Kind(kind), data)]


def test_session_info_without_a_title_changes_nothing() -> None:
    assert translate({"sessionUpdate": "session_info_update", "updatedAt": "now"}) == []


@pytest.mark.parametrize(
    "update",
    [
        {"sessionUpdate": "from_next_year", "x": 1},
        {"sessionUpdate": None},
        {"sessionUpdate": ["agent_message_chunk"]},
        {},
        {"sessionUpdate": "plan"},
        {"sessionUpdate": "plan", "entries": "all"},
        {"sessionUpdate": "agent_message_chunk", "content": "hi"},
        {"sessionUpdate": "agent_message_chunk", "content": {}},
        {"sessionUpdate": "usage_update", "used": 3},
        {"sessionUpdate": "notice", "severity": "info"},
        {"sessionUpdate": "available_commands_update", "availableCommands": None},
    ],
)
def test_what_nobody_knows_is_kept_whole_as_unknown(update: dict[str, Any]) -> None:
    assert translate(update) == [(Kind.UNKNOWN_UPDATE, {"update": update})]


def test_content_that_is_no_text_is_passed_on_beside_what_can_be_said_of_it() -> None:
    link = {"type": "resource_link", "uri": "file:///a.py", "name": "a.py"}
    image = {"type": "image", "data": "AAAA", "mimeType": "image/png"}
    assert content_text(link) == "[a.py](file:///a.py)"
    for content in (link, image):
        [(kind, data)] = translate({"sessionUpdate": "agent_message_chunk", "content": content})
        assert (kind, data["content"]) == (Kind.MESSAGE_DELTA, content)


def test_half_a_megabyte_of_meta_is_not_kept() -> None:
    big = {"_meta": {"x": "y" * META_LIMIT}}
    assert trim({"a": 1, **big}) == {"a": 1}
    assert trim({"a": 1, "_meta": {"x": 1}}) == {"a": 1, "_meta": {"x": 1}}
    [(_, shown)] = ToolCalls().apply(call(**big))
    assert "_meta" not in shown


# --- tool calls ------------------------------------------------------------------------------------------------------


def test_a_call_is_told_whole_each_time_it_changes() -> None:
    calls = ToolCalls()
    calls.apply(call(kind="read", rawInput={"path": "a"}))
    [(kind, state)] = calls.apply(change(status="completed", content=[{"type": "content", "content": TEXT}]))
    assert kind is Kind.TOOL_CALL
    assert state == {
        "toolCallId": "c",
        "title": "Read",
        "kind": "read",
        "status": "completed",
        "content": [{"type": "content", "content": TEXT}],
        "locations": [],
        "rawInput": {"path": "a"},
        "rawOutput": None,
        "route": "agent",
        "placement": "project",
    }


def test_an_update_without_a_call_before_it_is_a_call() -> None:
    [(_, state)] = ToolCalls().apply(change("new", status="in_progress", name="exec_command"))
    assert (state["title"], state["status"], state["kind"]) == ("exec_command", "in_progress", "other")


def test_lists_replace_wholesale_and_null_leaves_a_field_as_it_was() -> None:
    calls = ToolCalls()
    calls.apply(call(locations=[{"path": "a"}, {"path": "b"}], content=[{"type": "diff"}]))
    [(_, state)] = calls.apply(change(locations=[{"path": "c"}], content=None, title=None, status="in_progress"))
    assert (state["locations"], state["content"], state["title"]) == ([{"path": "c"}], [{"type": "diff"}], "Read")


def test_an_update_that_changes_nothing_is_not_told() -> None:
    calls = ToolCalls()
    calls.apply(call())
    assert calls.apply(change(title="Read")) == []


def test_fields_that_nobody_knows_stay_on_the_call() -> None:
    calls = ToolCalls()
    calls.apply(call(mood="good", _meta={"vendor": {"x": 1}}))
    [(_, state)] = calls.apply(change(status="completed"))
    assert (state["mood"], state["_meta"]) == ("good", {"vendor": {"x": 1}})


def test_an_id_that_is_used_again_after_its_end_begins_a_new_call() -> None:
    calls = ToolCalls()
    calls.apply(call(rawInput={"n": 1}))
    calls.apply(change(status="completed", rawOutput="one"))
    [(_, state)] = calls.apply(call(rawInput={"n": 2}))
    assert (state["status"], state["rawInput"], state["rawOutput"]) == ("pending", {"n": 2}, None)


@pytest.mark.parametrize("id", [None, 7, [], {}])
def test_a_call_without_an_id_is_unknown(id: object) -> None:
    update = {"sessionUpdate": "tool_call", "toolCallId": id, "title": "x"}
    assert ToolCalls().apply(update) == [(Kind.UNKNOWN_UPDATE, {"update": update})]


def test_fields_of_a_wrong_type_become_ones_that_readers_can_use() -> None:
    [(_, state)] = ToolCalls().apply(call(status=3, content={"type": "diff"}, locations="here", kind=["edit"]))
    assert (state["status"], state["kind"]) == ("3", '["edit"]')
    assert (state["content"], state["locations"]) == ([{"type": "diff"}], ["here"])


def test_the_agents_own_terminal_becomes_output_and_an_end() -> None:
    calls = ToolCalls()
    info = {"terminal_info": {"terminal_id": "t", "cwd": "/p"}}
    [(_, state)] = calls.apply(call(_meta=info))
    assert state["content"] == [{"type": "terminal", "terminalId": "t"}]
    assert "_meta" not in state
    for key in ("terminal_output", "terminal_output_delta"):
        assert calls.apply(change(_meta={key: {"terminal_id": "t", "data": "hi\n"}})) == [
            (Kind.TERMINAL_OUTPUT, {"terminal_id": "t", "data": "hi\n"})
        ]
    ended = calls.apply(
        change(status="completed", _meta={"terminal_exit": {"terminal_id": "t", "exit_code": 3, "signal": None}})
    )
    assert ended[1] == (Kind.TERMINAL_EXITED, {"terminal_id": "t", "exit_code": 3, "signal": None})


def test_a_terminal_stays_on_its_card_when_later_contents_leave_it_out() -> None:
    calls = ToolCalls()
    calls.apply(call(_meta={"terminal_info": {"terminal_id": "t"}}))
    [(_, state)] = calls.apply(change(content=[{"type": "content", "content": TEXT}]))
    assert [c["type"] for c in state["content"]] == ["content", "terminal"]


def test_a_terminal_without_an_id_has_that_of_its_call() -> None:
    [_, (kind, data)] = ToolCalls().apply(call("x", _meta={"terminal_output": {"data": "a"}}))
    assert (kind, data["terminal_id"]) == (Kind.TERMINAL_OUTPUT, "x")


def test_the_route_tells_who_carried_a_call_out() -> None:
    calls = ToolCalls(ours=lambda terminal_id: terminal_id.startswith("term_"))
    [(_, delegated)] = calls.apply(call("a", content=[{"type": "terminal", "terminalId": "term_1"}]))
    [(_, agents)] = calls.apply(call("b", content=[{"type": "terminal", "terminalId": "call_1"}]))
    [(_, mcp)] = calls.apply(call("c", name="mcp__jup.run_cell"))
    assert [state["route"] for state in (delegated, agents, mcp)] == ["delegated", "agent", "mcp"]
    [(_, later)] = calls.apply(change("a", content=[], status="completed"))
    assert later["route"] == "delegated"


def test_an_agent_cannot_name_route_and_placement_itself() -> None:
    calls = ToolCalls(placement="host-remote")
    for update in (call(route="delegated", placement="moon"), change(route="mcp", placement="x", status="completed")):
        [(_, state)] = calls.apply(update)
        assert (state["route"], state["placement"]) == ("agent", "host-remote")


READ, WRITE, CREATE = "fs/read_text_file", "fs/write_text_file", "terminal/create"


@pytest.mark.parametrize("method", [READ, WRITE])
@pytest.mark.parametrize(
    "fields",
    [
        {"locations": [{"path": "/p/a"}]},
        {"rawInput": {"path": "/p/a", "content_length": 3}},
        {"rawInput": {"file_path": "/p/./b/../a"}},
        {"content": [{"type": "diff", "path": "/p/a", "oldText": None, "newText": "x"}]},
    ],
)
def test_a_request_for_a_file_belongs_to_the_open_call_that_names_it(method: str, fields: dict[str, Any]) -> None:
    calls = ToolCalls()
    calls.apply(call("other", locations=[{"path": "/p/b"}]))
    calls.apply(call("c", **fields))
    assert calls.named_by(method, {"path": "/p/a"}) == "c"


@pytest.mark.parametrize(
    ("given", "command", "args"),
    [
        ({"command": "ls -l"}, "ls -l", None),
        ({"command": "ls -l 'a b'"}, "ls", ["-l", "a b"]),
        ({"command": " ls | wc "}, "/bin/sh", ["-lc", "ls | wc"]),
        ({"command": "ls | wc"}, "bash", ["-c", "ls | wc"]),
        ({"command": "ls", "args": ["-l"]}, "ls", ["-l"]),
    ],
)
def test_a_command_belongs_to_the_open_call_that_names_it(given: object, command: str, args: object) -> None:
    calls = ToolCalls()
    calls.apply(call("other", rawInput={"command": "ls"}))
    calls.apply(call("c", rawInput=given))
    assert calls.named_by(CREATE, {"command": command, "args": args}) == "c"


@pytest.mark.parametrize(
    ("method", "params", "fields"),
    [
        (READ, {"path": "/p/a"}, {"rawInput": {"path": "a"}}),
        (READ, {"path": "/p/a"}, {"rawInput": {"pattern": "/p/a"}}),
        (READ, {"path": "/p/a"}, {"title": "/p/a", "rawInput": "/p/a", "locations": ["/p/a"]}),
        (READ, {"path": "/p/a"}, {"locations": [{"path": "/p/a"}], "status": "completed"}),
        (READ, {"path": "/p/a"}, {"locations": [{"path": "/p/a"}], "name": "mcp__files.read"}),
        (READ, {"path": 3}, {"rawInput": {"path": "3"}}),
        (READ, {}, {"rawInput": {"path": None}}),
        ("fs/delete_file", {"path": "/p/a"}, {"locations": [{"path": "/p/a"}]}),
        (CREATE, {"command": "grep", "args": ["x", "ls"]}, {"rawInput": {"command": "ls"}}),
        (CREATE, {"command": "ls", "args": 3}, {"rawInput": {"command": "ls", "args": [3]}}),
        (CREATE, {"command": "it's", "args": ["x"]}, {"rawInput": {"command": "it's x"}}),
        (CREATE, {"command": "ls"}, {"rawInput": {"command": ["ls"]}}),
        (CREATE, {}, {"title": "None"}),
    ],
)
def test_a_request_that_no_call_names_is_of_no_call(method: str, params: Any, fields: dict[str, Any]) -> None:
    calls = ToolCalls()
    calls.apply(call(**fields))
    assert calls.named_by(method, params) is None


def test_of_two_calls_that_name_the_same_neither_is_claimed() -> None:
    calls = ToolCalls()
    for id in ("a", "b"):
        calls.apply(call(id, rawInput={"path": "/p/a", "command": "ls"}))
    assert calls.named_by(WRITE, {"path": "/p/a"}) is None
    assert calls.named_by(CREATE, {"command": "ls"}) is None


def test_a_call_that_we_carry_out_says_so_once_and_shows_its_terminal_whatever_the_agent_says() -> None:
    calls = ToolCalls(ours=lambda terminal_id: terminal_id == "term_1")
    calls.apply(call(rawInput={"command": "ls"}))
    assert (calls.delegated("c") or {})["route"] == "delegated"
    assert calls.delegated("c") is None
    assert (calls.delegated("c", "term_1") or {})["content"] == [{"type": "terminal", "terminalId": "term_1"}]
    [(_, state)] = calls.apply(change(status="completed", content=[{"type": "content", "content": TEXT}]))
    assert [part["type"] for part in state["content"]] == ["content", "terminal"]
    assert state["route"] == "delegated"
    assert calls.delegated("nobody") is None


def test_an_id_that_is_used_again_does_not_show_the_terminal_of_the_call_before() -> None:
    calls = ToolCalls()
    calls.apply(call())
    calls.delegated("c", "term_1")
    calls.apply(change(status="completed"))
    [(_, state)] = calls.apply(call())
    assert (state["content"], state["route"]) == ([], "agent")


def test_a_question_tells_the_arguments_that_its_call_has_not() -> None:
    calls = ToolCalls()
    calls.apply(call("c"))
    told = {"toolCallId": "c", "title": "May I?", "status": "failed", "rawInput": {"path": "/p/a"}}
    state = calls.asked(told) or {}
    assert (state["title"], state["status"], state["rawInput"]) == ("Read", "pending", {"path": "/p/a"})
    assert calls.asked({**told, "rawInput": {"path": "/p/b"}}) is None
    assert calls.asked({"toolCallId": "nobody", "rawInput": {"path": "/p/b"}}) is None
    assert calls.asked({"rawInput": {"path": "/p/b"}}) is None
    assert calls.named_by(READ, {"path": "/p/a"}) == "c"


def test_what_is_open_is_closed_once_and_what_has_ended_stays() -> None:
    calls = ToolCalls()
    calls.apply(call("open"))
    calls.apply(call("runs", status="in_progress"))
    calls.apply(call("done", status="completed"))
    assert [(c["toolCallId"], c["status"]) for c in calls.close_open("cancelled")] == [
        ("open", "cancelled"),
        ("runs", "cancelled"),
    ]
    assert calls.close_open("cancelled") == []
    assert (calls.get("done") or {})["status"] == "completed"


def test_a_call_that_was_restored_from_the_log_goes_on() -> None:
    before = ToolCalls()
    [(_, logged)] = before.apply(call(kind="execute", _meta={"terminal_info": {"terminal_id": "t"}}))
    after = ToolCalls()
    after.restore(json.loads(encode(logged)))
    [(_, state)] = after.apply(change(status="completed"))
    assert state == {**logged, "status": "completed"}


def test_no_more_than_a_thousand_calls_are_kept_and_open_ones_the_longest() -> None:
    calls = ToolCalls()
    calls.apply(call("open"))
    for n in range(1100):
        calls.apply(call(str(n), status="completed"))
    assert calls.get("open") and calls.get("1099") and not calls.get("0")


def test_what_is_told_does_not_change_later() -> None:
    calls = ToolCalls()
    [(_, first)] = calls.apply(call(_meta={"terminal_info": {"terminal_id": "a"}}))
    told = encode(first)
    calls.apply(change(_meta={"terminal_info": {"terminal_id": "b"}}))
    assert encode(first) == told


NAMES = ["tool_call", "tool_call_update", "plan", "agent_message_chunk", "usage_update", "notice", "x"]
KEYS = ["toolCallId", "title", "status", "content", "locations", "_meta", "entries", "used", "size", "name", "route"]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.sampled_from(["c", "pending", "completed"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["type", "text", "terminalId", "terminal_info", "terminal_output", "terminal_exit", "data"]
            ),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=6), max_size=6), st.sampled_from(NAMES))
def test_no_update_raises_and_all_that_comes_of_it_can_be_written(updates: list[dict[str, Any]], name: str) -> None:
    calls = ToolCalls()
    for update in updates:
        update = {"sessionUpdate": name, **update}
        for kind, data in translate(update) + calls.apply(update):
            assert kind in Kind
            encode(data)
    calls.close_open("cancelled")
