"""Editors that are open beside a chat: what becomes of them when files change, and what of them an agent is offered."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

from .conftest import Chat, Lab
from .test_changes import dialog, file, look, open_changes

Shot = Callable[[str], None]


@pytest.fixture
def offering(lab: Lab, open_page: Callable[[str], Page]) -> Iterator[Chat]:
    """A chat with an agent that delegates, of a person who offers it unsaved text."""
    setting = lab.home / "settings" / "jupyter-acp" / "plugin.jupyterlab-settings"
    setting.parent.mkdir(parents=True, exist_ok=True)
    setting.write_text(json.dumps({"offerUnsavedText": True}))
    lab.ask("POST", "api/acp/projects/local/sessions", {"path": "offering.chat", "agent": "delegating"})
    chat = Chat(open_page("tree/offering.chat"), "offering.chat")
    chat.wait("idle")
    yield chat
    setting.unlink()


def open_beside(chat: Chat, path: str) -> Locator:
    """Open a text file beside the chat; its editor."""
    options: Any = {"path": path, "factory": "Editor", "options": {"mode": "split-right"}}
    chat.page.evaluate("args => window.jupyterapp.commands.execute('docmanager:open', args)", options)
    editor = chat.page.locator(".jp-FileEditor:visible .cm-content")
    expect(editor).to_be_visible()
    return editor


def write(editor: Locator, text: str) -> None:
    """Add text to the end, without saving."""
    editor.click()
    editor.press("ControlOrMeta+End")
    editor.page.keyboard.type(text)
    expect(editor).to_contain_text(text)


def test_an_open_editor_follows_what_turns_and_reverts_do_to_its_file(chat: Chat, lab: Lab, shot: Shot) -> None:
    (lab.root / "beside.txt").write_text("before\n")
    editor = open_beside(chat, "beside.txt")
    expect(editor).to_contain_text("before")
    look(chat)
    turn = chat.run("/shell echo by the agent > beside.txt")
    expect(editor).to_have_text("by the agent")
    changes = open_changes(turn)
    changes.get_by_role("button", name="Revert beside.txt").click()
    dialog(chat, "beside.txt is as before", "Revert")
    expect(editor).to_have_text("before")
    shot("reverted")


def test_what_is_not_saved_stays_and_the_person_is_told(chat: Chat, lab: Lab, shot: Shot) -> None:
    (lab.root / "dirty.txt").write_text("before\n")
    editor = open_beside(chat, "dirty.txt")
    look(chat)
    write(editor, "mine")
    turn = chat.run("/shell echo by the agent > dirty.txt")
    told = chat.page.locator(".jp-toastContainer", has_text="dirty.txt was changed on disk")
    expect(told).to_be_visible()
    shot("told")
    expect(editor).to_contain_text("mine")
    expect(file(open_changes(turn), "dirty.txt")).to_be_visible()
    assert (lab.root / "dirty.txt").read_text() == "by the agent\n"


def test_an_agent_that_delegates_reads_what_is_not_saved_where_the_person_offers_it(
    offering: Chat, lab: Lab, shot: Shot
) -> None:
    (lab.root / "offered.txt").write_text("on disk\n")
    editor = open_beside(offering, "offered.txt")
    write(editor, "not saved")
    expect(offering.run("/read offered.txt")).to_contain_text("not saved")
    assert (lab.root / "offered.txt").read_text() == "on disk\n"
    # what is typed while the turn runs is offered too
    (lab.root / "wait.sh").write_text("until test -e go-on; do sleep 0.05; done\n")
    offering.send("/terminal sh wait.sh\n/read offered.txt")
    expect(offering.active.locator(".jp-acp-tool")).to_contain_text("running")
    with offering.page.expect_response(lambda answer: "saved meanwhile" in (answer.request.post_data or "")):
        write(editor, " meanwhile")
    (lab.root / "go-on").touch()
    offering.wait("idle")
    expect(offering.ended.last).to_contain_text("not saved meanwhile")
    shot("read")


def test_nothing_is_offered_unless_the_person_says_so(lab: Lab, open_page: Callable[[str], Page]) -> None:
    lab.ask("POST", "api/acp/projects/local/sessions", {"path": "not-offering.chat", "agent": "delegating"})
    chat = Chat(open_page("tree/not-offering.chat"), "not-offering.chat")
    chat.wait("idle")
    (lab.root / "kept.txt").write_text("on disk\n")
    write(open_beside(chat, "kept.txt"), "not saved")
    turn = chat.run("/read kept.txt")
    expect(turn).to_contain_text("on disk")
    expect(turn).not_to_contain_text("not saved")
