"""Turns through the whole stack: REST and WebSocket of a real server, the scripted agent as a real process."""

import asyncio
import json
from typing import Any

import pytest

from jupyter_acp.testing import chunk_text

from . import alive


async def test_a_prompt_is_answered_and_the_log_tells_it_in_order(drive: Any) -> None:
    chat = await drive.open("a.chat")
    ended = await chat.run("/text Hello there.")
    assert ended["stop_reason"] == "end_turn"
    assert chat.text("t1") == "Hello there."
    told = ("turn_queued", "turn_started", "message", "message_delta", "turn_ended")
    kinds = [event["kind"] for event in chat.events if event["turn"] == "t1" and event["kind"] in told]
    assert kinds == list(told)
    assert (await chat.summary())["state"] == "idle"


async def test_a_long_stream_arrives_exactly_and_in_few_events(drive: Any) -> None:
    chat = await drive.open()
    await chat.run("/chunks 5000 20")
    assert chat.text("t1") == "".join(chunk_text(n, 20) for n in range(5000))
    assert len(chat.of("message_delta", "t1")) < 500


async def test_a_reader_that_comes_late_sees_the_same_log_as_one_that_was_there(drive: Any) -> None:
    chat = await drive.open()
    await chat.run("/thought Hm.\n/plan Look | Write\n/tool Look\n/text Done.")
    read = (await chat.call("GET", "events"))[: len(chat.events)]
    assert read == chat.events
    late = await drive.open()
    await late.until_kind("turn_ended")
    assert late.events == chat.events


async def test_a_reader_that_reconnects_gets_each_event_once(drive: Any) -> None:
    chat = await drive.open()
    turn = await chat.submit("/count 60 delay=0.01")
    ended = False
    while not ended:
        # On a busy machine all may come in one delta: then it is hung up on only once.
        event = await chat.until(lambda event: event["kind"] in ("message_delta", "turn_ended"))
        ended = event["kind"] == "turn_ended"
        await chat.hang_up()
    assert chat.text(turn).split() == [str(n) for n in range(1, 61)]


async def test_thoughts_plan_tools_usage_and_commands_each_become_their_event(drive: Any) -> None:
    chat = await drive.open()
    await chat.run(
        "/thought Let me see.\n/plan done=1 Look | Write\n/tool kind=read path=a.py line=3 Read\n"
        "/usage 10 100 cost=0.5\n/commands compact init\n/title A good name\n/notice severity=warning Careful\n"
        "/unknown\n/text ok"
    )
    assert "".join(t["text"] for t in chat.of("thought_delta")) == "Let me see."
    assert [entry["status"] for entry in chat.of("plan")[-1]["entries"]] == ["completed", "in_progress"]
    call = chat.of("tool_call")[-1]
    assert (call["kind"], call["status"], call["locations"][0]["line"], call["route"]) == (
        "read",
        "completed",
        3,
        "agent",
    )
    assert chat.of("notice")[-1]["title"] == "Careful"
    assert chat.of("unknown_update")
    summary = await chat.summary()
    assert (summary["usage"]["used"], summary["title"]) == (10, "A good name")
    assert {command["name"] for command in summary["commands"]} >= {"compact", "init"}


async def test_what_an_agent_says_again_is_logged_once_and_nonsense_takes_nothing_away(drive: Any) -> None:
    chat = await drive.open()
    await chat.run("/commands compact init\n/usage 10 100\n/mode auto")
    told = [len(chat.of(kind)) for kind in ("commands", "session_changed")]
    await chat.run(
        "/commands compact init\n/mode auto\n"
        '/update {"sessionUpdate": "available_commands_update", "availableCommands": null}\n'
        '/update {"sessionUpdate": "usage_update", "used": 3}'
    )
    assert len(chat.of("commands")) == told[0]
    assert not [data for data in chat.of("session_changed")[told[1] :] if "config_options" in data]
    assert len(chat.of("unknown_update")) == 2
    summary = await chat.summary()
    assert {c["name"] for c in summary["commands"]} >= {"compact", "init"}
    assert summary["usage"] == {"used": 10, "size": 100}


async def test_prompts_are_run_in_order_and_one_at_a_time(drive: Any) -> None:
    chat = await drive.open()
    turns = [await chat.submit(f"/sleep 0.05\n/text {n}") for n in range(4)]
    await chat.until_kind("turn_ended", id=turns[-1])
    order = [(e["kind"], e["turn"]) for e in chat.events if e["kind"] in ("turn_started", "turn_ended")]
    assert order == [(kind, turn) for turn in turns for kind in ("turn_started", "turn_ended")]


async def test_the_same_turn_id_again_changes_nothing(drive: Any) -> None:
    chat = await drive.open()
    await asyncio.gather(*(chat.submit("/text once", turn="same") for _ in range(3)))
    await chat.until_kind("turn_ended", id="same")
    status = await chat.call("POST", "turns", body={"id": "same", "prompt": "other"})
    assert status["state"] == "ended"
    assert len(chat.of("turn_queued")) == len(chat.of("turn_started")) == 1


async def test_a_queued_prompt_can_be_edited_and_withdrawn_and_a_running_one_cannot(drive: Any) -> None:
    chat = await drive.open()
    running = await chat.submit("/sleep 60")
    edited, withdrawn = await chat.submit("/text one"), await chat.submit("/text two")
    await chat.until_kind("turn_started", id=running)
    await chat.call("PATCH", "turns", edited, body={"prompt": "/text edited"})
    await chat.call("DELETE", "turns", withdrawn)
    assert [turn["id"] for turn in (await chat.summary())["turns"]] == [running, edited]
    assert await chat.refused("PATCH", "turns", running, body={"prompt": "x"}) == (409, "turn_running")
    assert await chat.refused("DELETE", "turns", withdrawn) == (409, "turn_ended")
    await chat.call("POST", "interrupt", body={})
    await chat.until_kind("turn_ended", id=edited)
    assert chat.text(edited) == "edited"
    assert not [e for e in chat.events if e["kind"] == "turn_started" and e["turn"] == withdrawn]


async def test_send_now_ends_the_running_turn_and_runs_that_one_next(drive: Any) -> None:
    chat = await drive.open()
    running, second, third = [await chat.submit(text) for text in ("/sleep 60", "/text b", "/text c")]
    await chat.until_kind("turn_started", id=running)
    await chat.call("POST", "turns", third, "send-now", body={})
    await chat.until_kind("turn_ended", id=second)
    started = [data["id"] for data in chat.of("turn_started")]
    assert started == [running, third, second]
    assert chat.of("turn_ended", running)[0]["stop_reason"] == "cancelled"


async def test_stop_ends_a_turn_and_the_next_one_runs(drive: Any) -> None:
    chat = await drive.open()
    first = await chat.submit("/flood")
    await chat.until_kind("message_delta")
    second = await chat.submit("/text next")
    for _ in range(3):
        await chat.call("POST", "interrupt", body={"turn": first})
    ended = await chat.until_kind("turn_ended", id=first)
    assert ended["data"]["stop_reason"] == "cancelled"
    await chat.until_kind("turn_ended", id=second)
    assert chat.of("turn_ended", second)[0]["stop_reason"] == "end_turn"


@pytest.mark.parametrize("prompt", ["/stubborn\n/sleep 60", "/never\n/text hi", "/freeze 30"])
async def test_stop_ends_a_turn_whatever_the_agent_does(drive: Any, prompt: str) -> None:
    chat = await drive.open()
    turn = await chat.submit(prompt)
    await chat.until_kind("turn_started", id=turn)
    await drive_sent(chat, turn)
    async with asyncio.timeout(15):
        await chat.call("POST", "interrupt", body={})
        ended = await chat.until_kind("turn_ended", id=turn)
        assert ended["data"]["stop_reason"] in ("cancelled", "interrupted")
    assert (await chat.run("/text again"))["stop_reason"] == "end_turn"


async def test_stop_before_the_agent_is_ready_ends_the_turn(drive: Any) -> None:
    chat = await drive.open("slow.chat", agent="slow-start")
    turn = await chat.submit("/text hi")
    await chat.call("POST", "interrupt", body={"turn": turn})
    ended = await chat.until_kind("turn_ended", id=turn)
    assert ended["data"]["stop_reason"] == "cancelled"


async def test_stop_closes_open_tool_calls_and_kills_what_the_agent_left_running(drive: Any) -> None:
    chat = await drive.open()
    turn = await chat.submit("/shell leave=1 echo pid $$; sleep 1000")
    output = await chat.until_kind("terminal_output")
    pid = int(output["data"]["data"].split()[1])
    await chat.call("POST", "interrupt", body={})
    await chat.until_kind("turn_ended", id=turn)
    assert chat.of("tool_call")[-1]["status"] == "cancelled"
    assert not alive(pid)


async def test_an_interrupt_without_a_turn_is_harmless(drive: Any) -> None:
    chat = await drive.open()
    await chat.call("POST", "interrupt", body={})
    assert (await chat.run("/text hi"))["stop_reason"] == "end_turn"


async def test_the_stop_reason_of_the_agent_is_told(drive: Any) -> None:
    chat = await drive.open()
    for reason in ("max_tokens", "refusal", "max_turn_requests"):
        assert (await chat.run(f"/stop {reason}"))["stop_reason"] == reason


async def test_an_error_of_the_agent_ends_the_turn_with_its_message(drive: Any) -> None:
    chat = await drive.open()
    ended = await chat.run("/error -32603 model is away")
    assert ended["stop_reason"] == "error"
    assert "model is away" in ended["error"]["message"]
    assert (await chat.run("/text hi"))["stop_reason"] == "end_turn"


async def test_updates_after_the_end_of_a_turn_are_kept(drive: Any) -> None:
    chat = await drive.open()
    await chat.run("/text a\n/late 2 delay=0.01")
    late = await chat.until(lambda e: e["kind"] == "message_delta" and e["turn"] is None)
    assert late["data"]["text"]


async def test_an_echo_of_the_prompt_is_not_shown_twice(drive: Any) -> None:
    chat = await drive.open()
    await chat.run("/user my own words\n/text ok")
    assert chat.text("t1") == "ok"


@pytest.mark.parametrize("kind", ["null", "number", "array", "string", "text", "utf8", "nomethod"])
async def test_a_line_that_is_no_message_is_survived_and_said(drive: Any, kind: str) -> None:
    chat = await drive.open()
    ended = await chat.run(f"/garbage {kind}\n/text still here")
    assert (ended["stop_reason"], chat.text("t1")) == ("end_turn", "still here")


async def test_a_flood_of_stderr_does_not_hold_the_agent_up(drive: Any) -> None:
    chat = await drive.open()
    assert (await chat.run("/stderr 4096\n/text ok"))["stop_reason"] == "end_turn"


async def test_a_line_of_eight_mebibytes_arrives_whole(drive: Any) -> None:
    chat = await drive.open()
    await chat.run("/huge 8")
    assert len(chat.text("t1")) == 8 << 20


async def test_a_line_above_the_limit_ends_the_turn_and_the_agent_is_started_again(drive: Any) -> None:
    chat = await drive.open()
    await chat.run("/text before")
    ended = await chat.run("/huge 65")
    assert ended["stop_reason"] == "error"
    assert "line of more than" in ended["error"]["message"]
    assert (await chat.run("/text after"))["stop_reason"] == "end_turn"
    assert chat.of("agent_started")[-1]["how"] == "resume"


async def test_many_sessions_run_at_once_and_unmixed(drive: Any) -> None:
    chats = [await drive.open(f"{n}.chat") for n in range(4)]
    await asyncio.gather(*(chat.run(f"/chunks 300 20 delay=0.001\n/text I am {n}") for n, chat in enumerate(chats)))
    for n, chat in enumerate(chats):
        assert chat.text("t1").endswith(f"I am {n}")
        assert len(chat.text("t1")) == 300 * 20 + len(f"I am {n}")


async def test_closing_a_session_ends_its_agent_with_its_whole_tree_and_keeps_the_chat(drive: Any) -> None:
    chat = await drive.open()
    await chat.run("/background 1000\n/pid")
    pids = [int(word) for word in chat.text("t1").replace("\n", " ").split() if word.isdigit()]
    assert len(pids) >= 2 and all(alive(pid) for pid in pids)
    await chat.call("DELETE")
    assert not [pid for pid in pids if alive(pid)]
    assert (drive.root / "a.chat").exists()
    assert (await drive.request("GET", "projects", "local", "sessions", chat.id))[0] == 404


async def test_bad_prompts_are_refused_with_the_reason(drive: Any) -> None:
    chat = await drive.open()
    for prompt in ("", "   ", [], {}, None, 7, [{"type": "film"}], [{"type": "text"}], ["text"], [{"type": ["text"]}]):
        status, _ = await chat.refused("POST", "turns", body={"id": "x", "prompt": prompt})
        assert status == 400
    for turn in ("", "a/b", "x" * 101, 7, None):
        status, _ = await chat.refused("POST", "turns", body={"id": turn, "prompt": "hi"})
        assert status == 400
    assert not (await chat.summary())["turns"]


async def test_a_body_that_names_a_project_or_a_user_is_refused(drive: Any) -> None:
    chat = await drive.open()
    body = {"id": "x", "prompt": "hi", "user": "eve"}
    assert await chat.refused("POST", "turns", body=body) == (400, "unknown_field")


async def test_content_blocks_reach_the_agent_as_they_were_sent(drive: Any) -> None:
    chat = await drive.open()
    blocks = [
        {"type": "text", "text": "/echo"},
        {"type": "resource_link", "uri": "file:///a.py", "name": "a.py", "_meta": {"x": 1}},
    ]
    await chat.run(blocks)
    assert json.loads(chat.text("t1")) == blocks


async def drive_sent(chat: Any, turn: str) -> None:
    """Return when the agent is at work on the turn: it was started before."""
    if not chat.of("agent_started"):
        await chat.until_kind("agent_started")


async def test_the_same_turn_sent_by_two_clients_at_once_with_settings_is_queued_once(drive: Any) -> None:
    chat = await drive.open()
    await chat.until_kind("agent_started")
    body = {"id": "same", "prompt": "/text once", "config": {"effort": "high"}}
    await asyncio.gather(*(chat.call("POST", "turns", body=body) for _ in range(3)))
    await chat.until_kind("turn_ended", id="same")
    await chat.run("/text after", turn="after")
    assert len(chat.of("turn_queued", "same")) == len(chat.of("turn_started", "same")) == 1


async def test_a_turn_that_was_withdrawn_is_not_queued_again_by_a_client_that_repeats_itself(drive: Any) -> None:
    chat = await drive.open()
    running, withdrawn = await chat.submit("/sleep 60"), await chat.submit("/text no", turn="withdrawn")
    await chat.until_kind("turn_started", id=running)
    await chat.call("DELETE", "turns", withdrawn)
    status = await chat.call("POST", "turns", body={"id": withdrawn, "prompt": "/text no"})
    assert status["state"] == "ended"
    await chat.call("POST", "interrupt", body={})
    await chat.run("/text after", turn="after")
    assert len(chat.of("turn_queued", withdrawn)) == len(chat.of("turn_ended", withdrawn)) == 1
    assert not chat.of("turn_started", withdrawn)
