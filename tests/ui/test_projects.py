"""Several projects in one JupyterLab: which is which, what can be done in each, and what becomes of one that goes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, Route, expect

from .conftest import Chat, Lab

Shot = Callable[[str], None]
ALL = {"local": "owner", "alpha": "owner", "beta": "collaborator"}


class Projects(Lab):
    """A server with several projects."""

    def declare(self, roles: dict[str, str]) -> None:
        """Which there are, and what role everybody has in each."""
        changed = self.home / "projects.json.new"
        changed.write_text(json.dumps(roles))
        changed.rename(self.home / "projects.json")


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Projects]:
    traits = {"AcpExtension": {"projects_class": "ui.projects.FolderProjects"}}
    many = Projects(tmp_path_factory.mktemp("projects"), traits=traits)
    for name in ("alpha", "beta"):
        (many.home / name).mkdir()
        (many.home / name / "same.txt").write_text(f"of {name}\n")
    many.declare(ALL)
    many.start()
    (many.root / "same.txt").write_text("of Jupyter\n")
    yield many
    many.declare(ALL)
    many.close_sessions()
    many.stop()


@pytest.fixture
def lab(many: Projects) -> Projects:
    """The server of these tests."""
    many.declare(ALL)
    return many


class Desk:
    """What a person sees who has several projects."""

    def __init__(self, page: Page) -> None:
        self.page = page
        page.get_by_role("tab", name="ACP chats").click()
        self.side = page.locator(".jp-acp-side")
        self.picker = self.side.get_by_role("combobox", name="Project")
        self.state = self.side.locator(".jp-acp-project-state")
        self.chats = self.side.locator(".jp-acp-list-item")

    def choose(self, project: str) -> None:
        self.picker.select_option(project)
        expect(self.state).to_have_attribute("data-project-id", project)

    def new_chat(self) -> Chat:
        self.side.get_by_role("button", name="New chat").click()
        return self.chat()

    def chat(self) -> Chat:
        """The chat in the tab that is in front."""
        chat = Chat(self.page, "")
        chat.view = self.page.locator(".jp-acp-chat:visible")
        chat.input = chat.view.get_by_label("Message to the agent")
        chat.ended = chat.view.locator('.jp-acp-turn[data-state="ended"]')
        expect(chat.view).to_have_attribute("data-connection", "connected")
        return chat


@pytest.fixture
def desk(lab: Projects, open_page: Callable[[str], Page]) -> Desk:
    """JupyterLab with the list of chats at its side."""
    return Desk(open_page(""))


def run(chat: Chat, text: str) -> Locator:
    """Send, and wait for the end; the turn."""
    count = chat.ended.count()
    chat.send(text)
    turn = chat.ended.nth(count)
    expect(turn).to_be_visible()
    return turn


def test_two_projects_have_a_chat_each_and_neither_reaches_the_other(desk: Desk, lab: Projects, shot: Shot) -> None:
    page = desk.page
    expect(desk.picker).to_have_value("local")
    desk.choose("alpha")
    expect(desk.chats).to_have_count(0)
    alpha = desk.new_chat()
    expect(alpha.view.locator(".jp-acp-project")).to_have_text("Project Alpha")
    turn = run(alpha, "/shell pwd; cat same.txt\n/file same.txt changed\n/text See [it](same.txt)")
    expect(page.locator(".lm-TabBar-tab", has_text="Alpha ·")).to_be_visible()
    assert (lab.home / "alpha" / "same.txt").read_text() == "changed"
    # a path, and no link to the file of that name in Jupyter's own folder
    turn.locator(".jp-acp-show-changes").click()
    named = turn.locator('.jp-acp-diff[data-path="same.txt"] .jp-acp-file-name')
    expect(named).to_have_text("same.txt:1")
    expect(turn.locator(".jp-acp-file-link, [data-acp-file]")).to_have_count(0)
    shot("alpha")
    desk.choose("beta")
    expect(desk.chats).to_have_count(0)
    beta = desk.new_chat()
    expect(beta.view.locator(".jp-acp-project")).to_have_text("Project Beta")
    run(beta, "/shell cat same.txt > seen.txt")
    assert (lab.home / "beta" / "seen.txt").read_text() == "of beta\n"
    assert (lab.root / "same.txt").read_text() == "of Jupyter\n"
    expect(desk.chats).to_have_count(1)
    desk.choose("alpha")
    expect(desk.chats).to_have_count(1)
    shot("both")
    page.reload()
    # both tabs and the chosen project are as they were
    expect(page.locator(".lm-TabBar-tab", has_text="Alpha ·")).to_be_visible()
    expect(page.locator(".lm-TabBar-tab", has_text="Beta ·")).to_be_visible()
    expect(desk.picker).to_have_value("alpha")
    page.locator(".lm-TabBar-tab", has_text="Alpha ·").click()
    expect(desk.chat().view).to_contain_text("same.txt")
    desk.chats.click()
    expect(page.locator(".lm-TabBar-tab", has_text="Alpha ·")).to_have_count(1)
    shot("reloaded")
    # whoever uses the server may read its workspaces: of a project nothing is in there
    kept = [path.read_text() for path in (lab.home / "workspaces").iterdir()]
    assert any("jupyter-acp-projects" in text for text in kept)
    assert not [text for text in kept if re.search("alpha|beta|chat-20", text, re.IGNORECASE)]


def test_a_chat_of_jupyters_own_folder_is_a_document_there_with_links_as_ever(desk: Desk, lab: Projects) -> None:
    desk.choose("local")
    (lab.root / "own.chat").write_text("")
    desk.page.evaluate("window.jupyterapp.commands.execute('docmanager:open', {path: 'own.chat'})")
    chat = desk.chat()
    expect(chat.view.locator(".jp-acp-project")).to_have_text("Project project")
    turn = run(chat, "/file own.txt text")
    turn.locator(".jp-acp-show-changes").click()
    turn.locator('.jp-acp-diff[data-path="own.txt"] .jp-acp-file-link').click()
    expect(desk.page.locator(".jp-FileEditor:visible .cm-content")).to_have_text("text")


def test_who_may_only_read_sees_a_chat_and_can_change_nothing(desk: Desk, lab: Projects, shot: Shot) -> None:
    session = lab.ask("POST", "api/acp/projects/beta/sessions", {"path": "read.chat"})
    turns = f"api/acp/projects/beta/sessions/{session['id']}/turns"
    lab.ask("POST", turns, {"id": "t1", "prompt": "/text There it is"})
    lab.declare({**ALL, "beta": "viewer"})
    desk.choose("beta")
    expect(desk.state).to_contain_text("You can read this project")
    expect(desk.side.get_by_role("button", name="New chat")).to_be_disabled()
    desk.chats.filter(has_text="read.chat").click()
    chat = desk.chat()
    expect(chat.view).to_contain_text("There it is")
    expect(chat.input).to_be_disabled()
    expect(chat.input).to_have_attribute("placeholder", "You can read this project")
    shot("viewer")
    # what one may do is what one sees, also where it changes under one's eyes
    lab.declare(ALL)
    expect(chat.input).to_be_enabled()
    run(chat, "/text And it goes on")
    lab.declare({**ALL, "beta": "viewer"})
    expect(chat.input).to_be_disabled()
    expect(chat.view).to_have_attribute("data-connection", "connected")
    expect(chat.view).to_contain_text("And it goes on")


def test_who_is_taken_out_of_a_project_is_told_in_its_chat_and_in_the_list(
    desk: Desk, lab: Projects, shot: Shot
) -> None:
    desk.choose("beta")
    chat = desk.new_chat()
    run(chat, "/text on")
    lab.declare({name: role for name, role in ALL.items() if name != "beta"})
    told = "The project Beta is gone, or you are not a member of it any more."
    expect(chat.view.locator(".jp-acp-project-gone")).to_have_text(told)
    expect(chat.input).to_be_disabled()
    expect(desk.side.get_by_role("alert")).to_have_text(told)
    expect(desk.picker).to_have_value("local")
    shot("gone")
    desk.page.reload()
    expect(desk.page.locator(".jp-acp-failure")).to_contain_text("The project beta is gone")
    lab.declare(ALL)
    expect(desk.chat().view).to_contain_text("on")


def test_a_project_is_started_and_stopped_and_says_why_it_failed(desk: Desk, lab: Projects, shot: Shot) -> None:
    """The states of a container, as a server tells them that has one: this one has projects of this machine only."""
    alpha: dict[str, Any] = {"id": "alpha", "name": "Alpha", "kind": "container", "role": "owner", "state": "stopped"}
    asked: list[str] = []

    def projects(route: Route) -> None:
        others = [one for one in lab.ask("GET", "api/acp/projects") if one["id"] != "alpha"]
        route.fulfill(json=[alpha, *others])

    def project(route: Route) -> None:
        route.fulfill(json={**alpha, "usage": {"tokens_today": 1200, "token_limit": 50000}})

    def act(route: Route) -> None:
        verb = re.split(r"[/?]", route.request.url.split("/alpha/")[1])[0]
        asked.append(verb)
        alpha["state"] = {"start": "starting", "stop": "stopped"}[verb]
        route.fulfill(status=202, json=alpha)

    page = desk.page
    page.route(re.compile(r"/api/acp/projects(\?|$)"), projects)
    page.route(re.compile(r"/api/acp/projects/alpha(\?|$)"), project)
    page.route(re.compile(r"/api/acp/projects/alpha/(start|stop)"), act)
    page.route(re.compile(r"/api/acp/projects/alpha/logs"), lambda route: route.fulfill(json={"text": "no <b>image"}))
    session = lab.ask("POST", "api/acp/projects/alpha/sessions", {"path": "busy.chat"})
    turns = f"api/acp/projects/alpha/sessions/{session['id']}/turns"
    desk.choose("alpha")
    expect(desk.state).to_have_attribute("data-state", "stopped")
    expect(desk.side).to_contain_text("1,200 of 50,000 tokens used today")
    shot("stopped")
    desk.side.get_by_role("button", name="Start").click()
    expect(desk.state).to_contain_text("starting…")
    shot("starting")
    alpha.update(state="failed", error="there is no image localhost/none on this machine")
    expect(desk.side.get_by_role("alert")).to_contain_text("there is no image")
    shot("failed")
    desk.side.get_by_role("button", name="Log").click()
    expect(page.locator(".jp-Dialog .jp-acp-project-log")).to_have_text("no <b>image")
    page.locator(".jp-Dialog").get_by_role("button", name="Close").click()
    desk.side.get_by_role("button", name="Start").click()
    expect(desk.side.get_by_role("alert")).to_have_count(0)
    alpha.update(state="running", error=None)
    expect(desk.state).to_contain_text("running")
    lab.ask("POST", turns, {"id": "t1", "prompt": "/sleep 600"})
    expect(desk.chats.filter(has_text="busy.chat")).to_have_attribute("data-state", "running")
    stop = desk.side.get_by_role("button", name="Stop")
    stop.click()
    question = page.locator(".jp-Dialog", has_text="The agent of 1 chat is at work; its turn ends.")
    shot("stopping")
    question.get_by_role("button", name="Cancel").click()
    assert asked == ["start", "start"]
    stop.click()
    question.get_by_role("button", name="Stop").click()
    expect(desk.state).to_have_attribute("data-state", "stopped")
    assert asked == ["start", "start", "stop"]


def test_with_one_project_that_jupyter_serves_nothing_is_said_of_projects(
    lab: Projects, open_page: Callable[[str], Page], shot: Shot
) -> None:
    lab.ask("POST", "api/acp/projects/local/sessions", {"path": "single.chat"})
    lab.declare({"local": "owner"})
    desk = Desk(open_page(""))
    expect(desk.chats.filter(has_text="single.chat")).to_be_visible()
    expect(desk.picker).to_have_count(0)
    desk.chats.filter(has_text="single.chat").click()
    expect(desk.chat().view.locator(".jp-acp-project")).to_have_count(0)
    shot("single")
