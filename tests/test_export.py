"""A conversation as Markdown."""

from __future__ import annotations

from typing import Any

from jupyter_acp.export import fenced, render

USERS = {"ada": {"display_name": "Ada"}, "acp-demo": {"display_name": "Demo", "bot": True}}


def message(role: str, body: str, **more: Any) -> dict[str, Any]:
    sender = "ada" if role == "user" else "acp-demo"
    shared = {"id": role, "time": 0.0, "metadata": {"acp": {"turn": "t1"}}}
    return {**shared, "role": role, "sender": sender, "body": body, **more}


def event(seq: int, kind: str, /, **data: Any) -> dict[str, Any]:
    return {"seq": seq, "time": 0.0, "turn": "t1", "kind": kind, "data": data}


TALK = [message("user", "Do it"), message("agent", "Done.")]
EVENTS = [
    event(0, "turn_started", id="t1"),
    event(1, "thought_delta", message_id="x", text="Let me "),
    event(2, "thought_delta", message_id="x", text="think\nhard"),
    event(3, "tool_call", toolCallId="c", title="run `ls`", status="in_progress"),
    event(4, "terminal_output", terminal_id="p", data="a\n```\n"),
    event(5, "file_changed", path="a.py"),
    event(
        6,
        "tool_call",
        toolCallId="c",
        title="run `ls`",
        kind="execute",
        status="completed",
        content=[{"type": "terminal", "terminalId": "p"}, {"type": "diff", "path": "a.py", "newText": "x = 1"}],
    ),
]


def test_compact_has_what_was_said_and_nothing_else() -> None:
    text = render("Notes", TALK, USERS, EVENTS)
    assert text == ("# Notes\n\n## Ada · 1970-01-01 00:00 UTC\n\nDo it\n\n## Demo · 1970-01-01 00:00 UTC\n\nDone.\n")


def test_full_has_the_tool_call_as_it_ended_where_it_began_before_the_answer() -> None:
    text = render("Notes", TALK, USERS, EVENTS, detail="full")
    assert text.count("Tool call") == 1
    assert "``run `ls` ``" in text or "`` run `ls` ``" in text
    assert "````\na\n```\n````" in text
    assert text.index("Tool call") < text.index("Changed `a.py`") < text.index("Done.")
    assert "Let me" not in text


def test_each_file_of_a_turn_is_named_once_with_what_came_of_it_where_it_was_written() -> None:
    came = [
        event(7, "file_changed", path="a.py", change="modified", added=10, removed=2),
        event(8, "file_changed", path="new", old_path="old", change="renamed", added=0, removed=0),
        event(9, "turn_ended", id="t1"),
        event(10, "file_changed", path="a.py", change="reverted", by="ada"),
    ]
    text = render("Notes", TALK, USERS, [*EVENTS, *came], detail="full")
    files = [line for line in text.splitlines() if line.startswith("- ")]
    assert files == ["- Changed `a.py` (+10 −2)", "- Renamed `old` to `new`", "- Reverted `a.py` by ada"]


def test_details_that_are_not_kept_are_said_to_be_gone_where_they_were_asked_for() -> None:
    gone = "*The details of this turn are not kept any more.*"
    for wanted in ({"detail": "full"}, {"thinking": True}):
        text = render("Notes", TALK, USERS, [event(9, "session_changed")], **wanted)  # type: ignore[arg-type]
        assert text.count(gone) == 1 and text.index("Demo") < text.index(gone) < text.index("Done.")
    assert gone not in render("Notes", TALK, USERS, [])
    assert gone not in render("Notes", TALK, USERS, EVENTS, detail="full", thinking=True)
    assert gone not in render("Notes", [message("user", "Hi", metadata={})], USERS, detail="full")


def test_of_a_turn_whose_beginning_is_gone_the_rest_is_there_and_the_loss_is_said() -> None:
    text = render("Notes", TALK, USERS, EVENTS[3:], detail="full")
    assert "not kept any more" in text and "Tool call" in text


def test_thinking_is_quoted_whole() -> None:
    assert "> *Thinking.* Let me think\n> hard\n" in render("Notes", TALK, USERS, EVENTS, thinking=True)


def test_a_turn_without_an_answer_keeps_its_work() -> None:
    assert "Tool call" in render("Notes", TALK[:1], USERS, EVENTS, detail="full")
    assert "Tool call" in render("Notes", [], USERS, EVENTS, detail="full")


def test_a_fence_is_longer_than_any_inside() -> None:
    assert fenced("a\n`````\nb", "text") == "``````text\na\n`````\nb\n``````"


def test_a_code_block_that_a_message_leaves_open_does_not_swallow_the_next() -> None:
    text = render("N", [message("user", "```py\nx = 1"), message("agent", "ok")], USERS)
    assert "x = 1\n```\n\n## Demo" in text
    assert render("N", [message("user", "```inline``` code")], USERS).count("```") == 2


def test_a_deleted_message_is_only_said_to_be_deleted_and_an_edited_one_is_marked() -> None:
    text = render("N", [message("user", "", deleted=True), message("agent", "x", edited=True)], USERS)
    assert "*deleted*" in text and "(edited)" in text


def test_odd_data_does_not_break_it() -> None:
    odd = [
        event(1, "tool_call", toolCallId="c", content=[None, {"type": "new"}], rawOutput={"a": 1}),
        event(2, "tool_call", toolCallId="d", rawOutput={"a": 1}),
        event(3, "plan", entries=[{"content": "one", "status": "completed"}]),
        event(4, "later_kind"),
    ]
    text = render("N\nM", [message("user", "\ud800", time=1e30)], {}, odd, detail="full")
    assert "# N M\n" in text and "- [x] one" in text and '"a": 1' in text
    text.encode()
