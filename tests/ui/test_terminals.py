"""A command that an agent has us run, opened as a terminal tab of JupyterLab."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from .conftest import Chat, Lab

Shot = Callable[[str], None]

# xterm draws on a canvas, so its text is asked for
SHOWS = """wanted => {
  const buffer = window.jupyterapp.shell.currentWidget?.content?._term?.buffer.active;
  const lines = Array.from({ length: buffer?.length ?? 0 }, (_, row) => buffer.getLine(row).translateToString(true));
  return lines.join("\\n").includes(wanted);
}"""


@pytest.fixture
def delegating(lab: Lab, open_page: Callable[[str], Page]) -> Chat:
    """An empty chat with an agent that delegates."""
    path = "delegating.chat"
    lab.ask("POST", "api/acp/projects/local/sessions", {"path": path, "agent": "delegating"})
    chat = Chat(open_page(f"tree/{path}"), path)
    chat.wait("idle")
    return chat


def test_a_running_command_is_opened_in_a_tab_typed_into_and_says_its_end(
    delegating: Chat, lab: Lab, shot: Shot
) -> None:
    chat, page = delegating, delegating.page
    chat.send('/terminal echo ready; read answer; echo "you said $answer"; read x; exit 3')
    card = chat.active.locator(".jp-acp-terminal")
    expect(card).to_contain_text("ready")
    opens = card.get_by_role("button", name="Open in terminal")
    expect(opens).to_be_visible()
    shot("running")
    opens.click()
    page.wait_for_function(SHOWS, arg="ready\n")
    page.get_by_role("textbox", name="Terminal input").focus()
    page.keyboard.type("hello")
    page.keyboard.press("Enter")
    page.wait_for_function(SHOWS, arg="ready\nhello\nyou said hello\n")
    shot("typed")
    page.keyboard.press("Enter")
    page.wait_for_function(SHOWS, arg="[exit status 3]")
    # JupyterLab looks what still runs, which would close the tab of a shell
    page.evaluate("window.jupyterapp.serviceManager.terminals.refreshRunning()")
    page.wait_for_function(SHOWS, arg="[exit status 3]")
    shot("ended")
    assert lab.ask("GET", "api/terminals") == []
    page.get_by_role("tab", name="delegating.chat").click()
    chat.wait("idle")
    turn = chat.ended.last
    turn.get_by_role("button", name="Show activity").click()
    ended = turn.locator(".jp-acp-terminal")
    expect(ended).to_contain_text("you said hello")
    expect(ended).to_contain_text("exit status 3")
    expect(ended.get_by_role("button", name="Open in terminal")).to_have_count(0)
    shot("card")
