"""A project in a real container, as a person sees it in JupyterLab."""

from __future__ import annotations

import getpass
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect
from podman.conftest import ProjectsFile, folder, image, podman, podman_environ, projects, short_folder
from podman.host import write

from .conftest import Lab
from .test_projects import Desk, Shot, run

__all__ = ["folder", "image", "podman", "podman_environ", "projects", "short_folder"]  # fixtures

pytestmark = [pytest.mark.podman, pytest.mark.timeout(180)]

#: the first container of an image that was just built takes its time
STARTED = 60_000


@pytest.fixture
def lab(folder: Path, projects: ProjectsFile, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    """JupyterLab with one project, which is in a container that does not run yet."""
    root = projects.add("weather", name="Weather", members={getpass.getuser(): "owner"}, network="none")
    write(root, "same.txt", "in the container\n")
    # of the person who runs the tests: images are there where podman is not run by root
    monkeypatch.setenv("XDG_DATA_HOME", os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share"))
    (folder / "lab").mkdir()
    lab = Lab(
        folder / "lab",
        traits={
            "AcpExtension": {"projects_class": "jupyter_acp.projects.podman.PodmanProjects"},
            "PodmanProjects": {"file": str(projects.path)},
        },
    )
    lab.start()
    (lab.root / "same.txt").write_text("of Jupyter\n")
    yield lab
    lab.close_sessions()
    lab.ask("POST", "api/acp/projects/weather/stop", {})
    lab.stop()


def test_a_project_in_a_container_is_started_talked_to_and_stopped(
    lab: Lab, open_page: Callable[[str], Page], shot: Shot
) -> None:
    desk = Desk(open_page(""))
    expect(desk.picker).to_have_value("weather")
    expect(desk.state).to_have_attribute("data-state", "stopped")
    desk.side.get_by_role("button", name="Start").click()
    expect(desk.state).to_have_attribute("data-state", "running", timeout=STARTED)
    # wherever a chat is asked for, it is one of the project: Jupyter's own folder is none
    desk.page.locator(".jp-LauncherCard", has_text="ACP chat").click()
    chat = desk.chat()
    expect(chat.view.locator(".jp-acp-project")).to_have_text("Project Weather")
    turn = run(chat, "/shell hostname; pwd; cat same.txt\n/file made.txt text\n/text [it](same.txt)")
    turn.get_by_role("button", name="Show activity").click()
    expect(turn.locator(".jp-acp-terminal-output").first).to_have_text(
        re.compile(r"^weather\s+/project\s+in the container\s*$")
    )
    expect(turn.locator(".jp-acp-file-name").first).to_be_visible()
    expect(turn.locator(".jp-acp-file-link, [data-acp-file]")).to_have_count(0)
    expect(turn.get_by_role("button", name="Open in terminal")).to_have_count(0)
    shot("ran")
    assert not (lab.root / "made.txt").exists()
    chat.send("/sleep 600")
    expect(desk.chats.first).to_have_attribute("data-state", "running")
    desk.side.get_by_role("button", name="Stop").click()
    desk.page.locator(".jp-Dialog", has_text="its turn ends").get_by_role("button", name="Stop").click()
    expect(desk.state).to_have_attribute("data-state", "stopped", timeout=STARTED)
    expect(chat.view).to_have_attribute("data-state", "idle")
    shot("stopped")
    # a reload has the tab again, and the next request starts the project
    desk.page.reload()
    chat = desk.chat()
    expect(chat.view).to_contain_text("/sleep 600")
    chat.send("/shell hostname > again.txt\n/text Again")
    expect(chat.ended.last).to_contain_text("Again", timeout=STARTED)
    shot("again")
