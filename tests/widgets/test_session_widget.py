"""The widget in a browser, against a server that says what no well-behaved agent would."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from contract_server import TOKEN, Contract, serving
from playwright.sync_api import Browser, Page, expect, sync_playwright

from jupyter_acp.widgets.session import SessionWidget

pytestmark = pytest.mark.browser

STATIC = Path(__file__).parents[2] / "jupyter_acp" / "widgets" / "static"
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage"]
PAGE = """<!doctype html><meta charset="utf-8"><link rel="stylesheet" href="session.css">
<script id="jupyter-config-data" type="application/json">CONFIG</script><div id="w"></div>
<script type="module">
import widget from './session.js';
const traits = {project: 'local', session: 's1', turn: 't1', after: 0, chat: 'a.chat'};
window.dispose = widget.render({model: {get: name => traits[name]}, el: document.getElementById('w')});
</script>"""


@pytest.fixture(autouse=True)
def jp_asyncio_loop() -> None:
    """In place of pytest-jupyter's: its loop and playwright's cannot run in one thread."""


@pytest.fixture(autouse=True)
def jp_server_cleanup() -> None:
    """As above."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def contract() -> Iterator[Contract]:
    with serving(Contract()) as contract:
        config = json.dumps({"baseUrl": "/base/", "token": TOKEN})
        contract.pages = {
            "page": ("text/html", PAGE.replace("CONFIG", config)),
            "session.js": ("text/javascript", (STATIC / "session.js").read_text("utf-8")),
            "session.css": ("text/css", (STATIC / "session.css").read_text("utf-8")),
        }
        contract.turns["t1"] = "hello"
        yield contract


@pytest.fixture
def page(browser: Browser, contract: Contract) -> Iterator[Page]:
    context = browser.new_context()
    context.set_default_timeout(8000)
    page = context.new_page()
    errors: list[Any] = []
    page.on("pageerror", lambda error: errors.append(error))  # playwright sets an attribute on it
    page.on("dialog", lambda dialog: (errors.append(dialog.message), dialog.dismiss()))
    page.goto(f"{contract.url}page")
    yield page
    context.close()
    assert errors == []


def start(contract: Contract) -> None:
    contract.say("t1", "turn_started", id="t1", text="hello", user="u", message_id="u1")


def say(contract: Contract, text: str) -> None:
    contract.say("t1", "message_delta", message_id="m", role="agent", text=text)


def test_an_answer_streams_in_and_is_set_as_markdown_when_it_is_whole(contract: Contract, page: Page) -> None:
    start(contract)
    say(contract, "Some **bold")
    expect(page.locator(".jp-AcpSession-streaming")).to_have_text("Some **bold")
    expect(page.get_by_role("status")).to_have_text("Working …")
    say(contract, "** words\n\n```\nx = 1\n```\n- one\n- two [there](https://d.example)")
    contract.end("t1")
    expect(page.locator("strong", has_text="bold")).to_be_visible()
    expect(page.locator("pre code")).to_have_text("x = 1\n")
    expect(page.locator("li")).to_have_count(2)
    expect(page.get_by_role("link")).to_have_attribute("href", "https://d.example/")
    expect(page.get_by_role("status")).to_have_text("Done in 1.2 s")
    expect(page.get_by_role("button", name="Stop")).to_be_hidden()


def test_the_end_counts_the_files_that_were_changed(contract: Contract, page: Page) -> None:
    start(contract)
    contract.end("t1", changes={"files": 1, "added": 10, "removed": 2})
    expect(page.get_by_role("status")).to_have_text("Done in 1.2 s · 1 file changed +10 −2")


def test_nothing_that_an_agent_writes_becomes_part_of_the_page(contract: Contract, page: Page) -> None:
    attack = "<img src=x onerror=alert(1)><script>alert(2)</script>[x](javascript:alert(3))"
    start(contract)
    contract.say("t1", "thought_delta", message_id="th", text=attack)
    say(contract, attack)
    diff = {"type": "diff", "path": attack, "oldText": attack, "newText": attack}
    call = {"toolCallId": "c", "title": attack, "status": attack, "rawInput": {attack: attack}, "content": [diff]}
    contract.say("t1", "tool_call", **call)
    contract.say("t1", "plan", entries=[{"content": attack, "status": "pending"}])
    contract.say("t1", "notice", title=attack)
    contract.say("t1", "unknown_update", update={"x": attack})
    contract.permission("t1", elicitation={"message": attack, "mode": "url", "url": "javascript:alert(4)"})
    contract.end("t1", "error", error={"message": attack, "reason": "x"})
    expect(page.get_by_role("alert")).to_have_text(attack)
    assert page.locator("#w img, #w script, #w a").count() == 0


def test_a_permission_shows_the_whole_command_and_is_answered_without_the_kernel(
    contract: Contract, page: Page
) -> None:
    start(contract)
    call = {"toolCallId": "c", "title": "Run", "rawInput": {"command": "rm \u202etxt.exe\u200b", "cwd": "/project"}}
    contract.permission("t1", tool_call=call)
    card = page.get_by_role("group", name="The agent asks")
    expect(card).to_contain_text("rm ⟨U+202E⟩txt.exe⟨U+200B⟩")
    expect(card).to_contain_text("/project")
    expect(card.get_by_role("button", name="Always allow (lasting)")).to_be_visible()
    card.get_by_role("button", name="Allow", exact=True).click()
    expect(card).to_contain_text("Allow (ada)")
    expect(card.get_by_role("button")).to_have_count(0)
    assert contract.requests[-1][2] == {"option_id": "yes"}


def test_a_form_is_filled_in_and_sent_as_typed_values(contract: Contract, page: Page) -> None:
    start(contract)
    schema = {
        "properties": {
            "name": {"type": "string", "title": "Your name"},
            "count": {"type": "integer"},
            "sure": {"type": "boolean"},
            "colour": {"type": "string", "enum": ["red", "blue"]},
        },
        "required": ["name"],
    }
    options = [
        {"optionId": "accept", "name": "Send", "kind": "allow_once"},
        {"optionId": "decline", "name": "Decline", "kind": "reject_once"},
    ]
    elicitation = {"message": "Who are you?", "mode": "form", "requestedSchema": schema}
    contract.permission("t1", kind="elicitation", tool_call=None, elicitation=elicitation, options=options)
    page.get_by_label("count").fill("3")
    page.get_by_role("button", name="Send").click()
    assert not [path for method, path, _ in contract.requests if method == "POST"]
    page.get_by_label("Your name").fill("Ada")
    page.get_by_label("sure").check()
    page.get_by_label("colour").select_option("blue")
    page.get_by_role("button", name="Send").click()
    expect(page.get_by_role("status")).to_have_text("Done in 1.2 s")
    content = {"name": "Ada", "count": 3, "sure": True, "colour": "blue"}
    assert contract.requests[-1][2] == {"option_id": "accept", "content": content}


def test_stop_interrupts_the_turn(contract: Contract, page: Page) -> None:
    start(contract)
    expect(page.get_by_role("status")).to_have_text("Working …")
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_role("status")).to_have_text("Stopped in 1.2 s")
    assert contract.requests[-1] == ("POST", contract.requests[-1][1], {"turn": "t1"})


def test_a_command_shows_the_tail_of_its_output_and_all_of_it_on_demand(contract: Contract, page: Page) -> None:
    start(contract)
    call = {
        "toolCallId": "c",
        "title": "make",
        "status": "in_progress",
        "content": [{"type": "terminal", "terminalId": "x"}],
    }
    contract.say("t1", "tool_call", **call)
    contract.say("t1", "terminal_output", terminal_id="x", data="first\r\n" + "\x1b[31mline\x1b[0m\r\n" * 1000)
    contract.say("t1", "terminal_exited", terminal_id="x", exit_code=2, signal=None)
    output = page.get_by_label("Output of the command")
    expect(output).to_contain_text("line\nline")
    expect(output).not_to_contain_text("first")
    page.get_by_role("button", name="Show all").click()
    expect(output).to_contain_text("first")
    expect(page.get_by_text("exit status 2")).to_be_visible()


def test_a_lost_connection_is_taken_up_without_gap_or_repeat(contract: Contract, page: Page) -> None:
    start(contract)
    say(contract, "one ")
    expect(page.locator(".jp-AcpSession-streaming")).to_have_text("one ")
    contract.hang_up()
    say(contract, "two ")
    expect(page.locator(".jp-AcpSession-streaming")).to_have_text("one two ")


def test_text_after_a_tool_call_is_shown_below_it_and_other_turns_are_not_shown(contract: Contract, page: Page) -> None:
    start(contract)
    contract.say("t0", "message_delta", message_id="m0", role="agent", text="other")
    say(contract, "before")
    contract.say("t1", "tool_call", toolCallId="c", title="Read", status="completed")
    say(contract, "after")
    expect(page.get_by_role("log").locator(":scope > *")).to_have_text(["before", "Read — completed", "after"])


def test_nothing_is_held_open_once_the_view_is_gone(contract: Contract, page: Page) -> None:
    start(contract)
    expect(page.get_by_role("status")).to_have_text("Working …")
    page.evaluate("window.dispose()")
    page.wait_for_function("() => true")
    for _ in range(100):
        if not contract.sockets:
            break
        page.wait_for_timeout(20)
    assert not contract.sockets


def test_the_widget_tells_its_browser_side_where_to_look() -> None:
    widget = SessionWidget(project="local", session="s1", turn="t1", after=7, chat="a.chat")
    sent = {name: value for name, value in widget.get_state().items() if not name.startswith("_")}
    assert {"project": "local", "session": "s1", "turn": "t1", "after": 7, "chat": "a.chat"}.items() <= sent.items()
    widget.close()
