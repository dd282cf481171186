"""What an agent writes is shown and does nothing."""

from __future__ import annotations

import json
from collections.abc import Callable

from playwright.sync_api import expect

from .conftest import Chat

ATTACK = "<img src=x onerror=alert(1)><script>alert(2)</script><svg onload=alert(3)>"


def test_html_in_every_place_an_agent_can_write_to_stays_text(chat: Chat, shot: Callable[[str], None]) -> None:
    update = {
        "sessionUpdate": "tool_call",
        "toolCallId": ATTACK,
        "title": ATTACK,
        "kind": ATTACK,
        "status": ATTACK,
        "rawInput": {ATTACK: ATTACK},
        "locations": [{"path": ATTACK}],
        "content": [
            {"type": "diff", "path": ATTACK, "oldText": ATTACK, "newText": f"{ATTACK}2"},
            {"type": "content", "content": {"type": "text", "text": ATTACK}},
        ],
    }
    turn = chat.run(
        "\n".join(
            [
                f"/title {ATTACK}",
                f"/text {ATTACK}",
                f"/thought {ATTACK}",
                f"/plan {ATTACK}",
                f"/notice {ATTACK}",
                f"/update {json.dumps(update)}",
                f"/update {json.dumps({'sessionUpdate': ATTACK, 'x': ATTACK})}",
                f"/commands {ATTACK}",
            ]
        )
    )
    turn.get_by_role("button", name="Show activity").click()
    turn.locator(".jp-acp-thought button").click()
    expect(turn.locator(".jp-acp-plan")).to_contain_text("<img src=x")
    expect(turn.locator(".jp-acp-tool-title")).to_contain_text("<script>")
    shot("inert")
    assert chat.view.locator("img, script, svg[onload], iframe").count() == 0
    assert chat.view.evaluate("node => [...node.querySelectorAll('*')].some(e => e.getAttribute('onerror'))") is False


def test_links_lead_to_the_web_or_the_project_and_pictures_are_not_loaded(chat: Chat) -> None:
    asked: list[str] = []
    chat.page.on("request", lambda request: asked.append(request.url))
    turn = chat.run(
        "/text [a](javascript:alert(1)) [b](https://example.org/b) [c](data.csv) "
        "![d](https://example.org/d.png) [e](data:text/html,x)"
    )
    text = turn.locator(".jp-acp-markdown").last
    expect(text.get_by_role("link", name="b", exact=True)).to_have_attribute("rel", "noopener noreferrer")
    assert text.locator("a[href]").evaluate_all("all => all.map(a => a.getAttribute('href'))") == [
        "https://example.org/b",
        "https://example.org/d.png",
    ]
    assert not [url for url in asked if "example.org" in url]
    text.get_by_role("link", name="c", exact=True).click()
    expect(chat.page.locator(".jp-CSVViewer")).to_be_visible()


def test_what_a_person_decides_on_shows_characters_that_hide_or_reorder(
    chat: Chat, shot: Callable[[str], None]
) -> None:
    chat.send(
        '/permission kind=execute input=\'{"command":"rm\u00a0-rf\u202e/tmp\u200b","cwd":"/srv/\u2066x"}\' '
        "Delete\u202e <img>"
    )
    chat.wait("requires_action")
    expect(chat.permission.locator(".jp-acp-command")).to_have_text("rmU+00A0-rfU+202E/tmpU+200B")
    expect(chat.permission).to_contain_text("/srv/U+2066x")
    expect(chat.permission).to_contain_text("DeleteU+202E <img")
    shot("revealed")
    chat.permission.get_by_role("button", name="No").click()
    chat.wait("idle")
