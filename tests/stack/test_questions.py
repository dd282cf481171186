"""What an agent asks a person, through the whole stack."""

import asyncio
from typing import Any

import pytest


async def asked(chat: Any, prompt: str = "/permission Write") -> dict[str, Any]:
    """The question of a turn that asks one."""
    await chat.submit(prompt)
    question: dict[str, Any] = (await chat.until_kind("permission_requested"))["data"]
    return question


@pytest.mark.parametrize(
    ("kind", "said"),
    [("allow_once", "allow"), ("allow_always", "allow"), ("reject_once", "reject"), ("reject_always", "reject")],
)
async def test_the_answer_of_a_person_reaches_the_agent_and_no_is_one_of_its_own_options(
    drive: Any, kind: str, said: str
) -> None:
    chat = await drive.open()
    question = await asked(chat, "/permission kinds=allow_once,allow_always,reject_once,reject_always Write")
    assert (await chat.summary())["state"] == "requires_action"
    option = next(o["optionId"] for o in question["options"] if o["kind"] == kind)
    await chat.call("POST", "permissions", question["id"], body={"option_id": option})
    await chat.until_kind("turn_ended")
    assert said in chat.text("t1") and "cancelled" not in chat.text("t1")
    resolved = chat.of("permission_resolved")
    assert [(r["outcome"], r["option_id"]) for r in resolved] == [("selected", option)]
    assert not (await chat.summary())["permissions"]


async def test_a_second_answer_an_unknown_option_and_an_unknown_question_are_refused(drive: Any) -> None:
    chat = await drive.open()
    question = await asked(chat)
    path = ("permissions", question["id"])
    assert await chat.refused("POST", *path, body={"option_id": "nonsense"}) == (400, "unknown_option")
    assert (await chat.refused("POST", *path, body={}))[0] == 400
    await chat.call("POST", *path, body={"option_id": question["options"][0]["optionId"]})
    assert await chat.refused("POST", *path, body={"option_id": question["options"][0]["optionId"]}) == (
        409,
        "permission_resolved",
    )
    assert await chat.refused("POST", "permissions", "nobody", body={"option_id": "x"}) == (404, "unknown_permission")


@pytest.mark.parametrize("wait", ["0", "1"])
async def test_stop_answers_every_open_question_cancelled(drive: Any, wait: str) -> None:
    chat = await drive.open()
    await asked(chat, f"/permission wait={wait} Write")
    await chat.call("POST", "interrupt", body={})
    ended = await chat.until_kind("turn_ended")
    assert ended["data"]["stop_reason"] == "cancelled"
    assert [r["outcome"] for r in chat.of("permission_resolved")] == ["cancelled"]
    assert not (await chat.summary())["permissions"]


async def test_a_question_that_the_agent_takes_back_is_closed(drive: Any) -> None:
    chat = await drive.open()
    await chat.run("/permission withdraw=0.1 Write\n/text on")
    assert [r["outcome"] for r in chat.of("permission_resolved")] == ["cancelled"]


async def test_a_form_is_shown_and_its_values_reach_the_agent(drive: Any) -> None:
    chat = await drive.open()
    question = await asked(chat, "/elicit form")
    assert question["kind"] == "elicitation"
    fields = question["elicitation"]["requestedSchema"]["properties"]
    content = {name: "x" for name, field in fields.items() if field["type"] == "string"}
    await chat.call("POST", "permissions", question["id"], body={"option_id": "accept", "content": content})
    await chat.until_kind("turn_ended")
    assert "accept" in chat.text("t1") and '"x"' in chat.text("t1")


async def test_a_url_is_shown_whole_and_can_be_declined(drive: Any) -> None:
    chat = await drive.open()
    question = await asked(chat, "/elicit url")
    assert question["elicitation"]["url"].startswith("https://")
    await chat.call("POST", "permissions", question["id"], body={"option_id": "decline"})
    await chat.until_kind("turn_ended")
    assert "decline" in chat.text("t1")


async def test_two_requests_with_one_id_do_not_hang_the_turn(drive: Any) -> None:
    chat = await drive.open()
    await asked(chat, "/duplicate\n/text on")
    async with asyncio.timeout(20):
        await chat.call("POST", "interrupt", body={})
        await chat.until_kind("turn_ended")
    assert len(chat.of("permission_requested")) == len(chat.of("permission_resolved"))
    assert (await chat.run("/text again"))["stop_reason"] == "end_turn"


async def test_a_question_of_a_kind_that_nobody_advertised_is_refused_and_the_turn_goes_on(drive: Any) -> None:
    chat = await drive.open()
    await chat.run("/request craft/drainMidTurnQueue {}\n/text on")
    assert "-32601" in chat.text("t1") and chat.text("t1").endswith("on")


async def test_an_agent_that_does_not_delegate_gets_no_files_and_no_terminals(drive: Any) -> None:
    chat = await drive.open()
    (drive.root / "secret.txt").write_text("secret")
    await chat.run('/request fs/read_text_file {"path": "secret.txt"}')
    assert "-32601" in chat.text("t1") and "secret" not in chat.text("t1").replace("secret.txt", "")
