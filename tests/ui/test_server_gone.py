"""The server ends, dies or loses the agents to another while the panel is open: what is seen, kept and found again."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import BrowserContext, Route, expect

from .conftest import PATIENCE, Chat, Lab

Shot = Callable[[str], None]

NUMBERS = 300
# the panel asks again after 15 seconds at the latest, and the server looks every other second
RECOVERY = 20_000 + PATIENCE
TAKEN = "another Jupyter server, started later, has taken over the agents of this folder"


@pytest.fixture(autouse=True)
def lab_afterwards(lab: Lab) -> Iterator[None]:
    """The server runs again when the test is over, however it went."""
    yield
    lab.start()


@pytest.fixture
def newer(lab: Lab, request: pytest.FixtureRequest) -> Iterator[Lab]:
    """A second server on the folders of the first, not started."""
    newer = lab.another(f"newer-{request.node.name[:40]}")
    yield newer
    newer.stop()


def test_a_request_that_did_not_arrive_is_kept_and_sent_again_on_demand(chat: Chat, lab: Lab, shot: Shot) -> None:
    chat.run("/text before")
    lab.stop()
    chat.is_cut_off()
    chat.send("/text after")
    expect(chat.unsent).to_have_attribute("data-state", "failed")
    expect(chat.unsent).to_contain_text("Not sent: the Jupyter server does not answer")
    shot("away")
    lab.start()
    chat.wait("idle", timeout=RECOVERY)
    expect(chat.unsent).to_have_count(1)
    chat.unsent.get_by_role("button", name="Send again").click()
    expect(chat.unsent).to_have_count(0)
    expect(chat.ended.last.locator(".jp-acp-text")).to_have_text("after")


def test_a_request_whose_confirmation_was_lost_is_not_taken_for_one_that_did_not_arrive(chat: Chat) -> None:
    def lose(route: Route) -> None:
        route.fetch()
        route.abort()

    chat.page.route(re.compile(r"/turns\b"), lose)
    chat.run("/text arrived")
    expect(chat.unsent).to_have_count(0)
    chat.page.reload()
    chat.wait("idle")
    expect(chat.view.locator(".jp-acp-said")).to_have_text(["/text arrived"])
    expect(chat.unsent).to_have_count(0)


def test_an_answer_during_which_the_server_is_killed_is_there_whole_and_once(chat: Chat, lab: Lab, shot: Shot) -> None:
    chat.send(f"/count {NUMBERS} delay=0.01")
    chat.active.locator(".jp-acp-text").wait_for()
    lab.kill()
    chat.is_cut_off()
    expect(chat.active).to_have_count(1)
    expect(chat.view.locator(".jp-acp-connection")).to_contain_text("No connection")
    chat.send("/text asked meanwhile")
    expect(chat.unsent).to_have_attribute("data-state", "failed")
    expect(chat.unsent).to_contain_text("Not sent: the Jupyter server does not answer")
    shot("away")
    lab.start()
    chat.wait("idle", timeout=RECOVERY)
    whole = " ".join(str(number) for number in range(1, NUMBERS + 1))
    expect(chat.ended.locator(".jp-acp-text")).to_have_text(whole, use_inner_text=True)
    expect(chat.view.locator(".jp-acp-connection")).to_have_text("")
    expect(chat.unsent).to_have_count(1)
    chat.unsent.get_by_role("button", name="Send again").click()
    expect(chat.unsent).to_have_count(0)
    expect(chat.ended).to_have_count(2)
    expect(chat.ended.last.locator(".jp-acp-text")).to_have_text("asked meanwhile")


def test_a_question_that_was_open_when_the_server_was_killed_is_answered_when_it_is_back(
    chat: Chat, lab: Lab, shot: Shot
) -> None:
    chat.send("/permission Do it\n/text and on")
    chat.wait("requires_action")
    expect(chat.permission).to_have_count(1)
    lab.kill()
    chat.is_cut_off()
    allow = chat.permission.get_by_role("button", name="Allow once")
    allow.click()
    expect(chat.view.locator(".jp-acp-refusal")).to_contain_text("the Jupyter server does not answer")
    shot("away")
    lab.start()
    chat.wait("requires_action", timeout=RECOVERY)
    expect(chat.permission).to_have_count(1)
    allow.click()
    chat.wait("idle")
    expect(chat.permission).to_have_count(0)
    expect(chat.view.locator(".jp-acp-refusal")).to_have_count(0)
    expect(chat.ended).to_have_count(1)
    expect(chat.ended).to_contain_text("permission: allow_once")
    expect(chat.ended).to_contain_text("and on")


def test_a_server_that_lost_the_agents_to_another_says_so_and_recovers_when_that_has_ended(
    chat: Chat, lab: Lab, newer: Lab, context: BrowserContext, shot: Shot
) -> None:
    parts = [re.compile(r"^1\s+2\s+3\s*$"), re.compile(r"^permission: allow_once\s*4\s+5\s+6\s*$")]
    chat.send("/count 3\n/permission Do it\n/count from=4 3")
    chat.wait("requires_action")
    newer.start()
    expect(chat.view.locator(".jp-acp-connection")).to_contain_text(TAKEN)
    expect(chat.view.locator(".jp-acp-connection")).to_be_in_viewport(ratio=1)
    chat.send("/text asked meanwhile")
    expect(chat.unsent).to_contain_text(f"Not sent: {TAKEN}")
    shot("taken")
    # a page that is opened only now
    late = Chat(context.new_page(), chat.path)
    late.page.goto(chat.page.url)
    failure = late.page.locator(".jp-acp-failure")
    expect(failure).to_contain_text(TAKEN)
    there = Chat(context.new_page(), chat.path)
    there.page.goto(f"{newer.url}lab/workspaces/there/tree/{chat.path}?token={newer.token}")
    there.wait("requires_action")
    there.permission.get_by_role("button", name="Allow once").click()
    there.wait("idle")
    there.page.close()
    newer.stop()
    chat.wait("idle", timeout=RECOVERY)
    expect(chat.permission).to_have_count(0)
    expect(chat.ended.locator(".jp-acp-text")).to_have_text(parts)
    chat.unsent.get_by_role("button", name="Send again").click()
    expect(chat.unsent).to_have_count(0)
    expect(chat.ended).to_have_count(2)
    expect(chat.ended.last.locator(".jp-acp-text")).to_have_text("asked meanwhile")
    shot("recovered")
    # it tries again by itself too
    late.wait("idle", timeout=RECOVERY)
    expect(late.view.locator(".jp-acp-said")).to_have_count(2)
    expect(late.unsent).to_have_count(0)
