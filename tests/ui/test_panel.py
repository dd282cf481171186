"""What a person does in the panel, from the first request to the reload of the page."""

from __future__ import annotations

from collections.abc import Callable

from playwright.sync_api import expect

from .conftest import Chat, Lab


def test_a_turn_shows_thinking_plan_live_output_a_question_a_file_and_the_answer(
    chat: Chat, lab: Lab, shot: Callable[[str], None]
) -> None:
    (lab.root / "hello.py").unlink(missing_ok=True)
    chat.send("Have a look around")
    expect(chat.active.locator(".jp-acp-said")).to_have_text("Have a look around")
    expect(chat.active.locator(".jp-acp-thought")).to_be_visible()
    expect(chat.active.locator(".jp-acp-plan li")).to_have_count(3)
    terminal = chat.active.locator('.jp-acp-terminal[data-state="running"]')
    expect(terminal).to_contain_text("entries in")
    shot("command")
    chat.wait("requires_action")
    expect(chat.active.locator('.jp-acp-tool[data-kind="execute"]')).to_have_attribute("data-state", "completed")
    expect(chat.permission).to_contain_text("Write hello.py")
    shot("question")
    assert not (lab.root / "hello.py").exists()
    chat.permission.get_by_role("button", name="Allow once").click()
    expect(chat.permission).to_have_count(0)
    chat.wait("idle")
    turn = chat.ended.last
    expect(turn).to_contain_text("That was a whole turn. I wrote hello.py")
    expect(turn.locator(".jp-acp-worked")).to_contain_text("Worked for")
    shot("answer")
    turn.get_by_role("button", name="Show activity").click()
    expect(turn.locator(".jp-acp-diff")).to_contain_text("def hello")
    shot("activity")
    assert (lab.root / "hello.py").exists()
