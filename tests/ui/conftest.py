"""JupyterLab as `jupyter acp demo` starts it, and Chromium: one of each; every test has a chat of its own in it."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Locator, Page, expect, sync_playwright

from jupyter_acp import cli

ROOT = Path(__file__).parents[2]
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
]
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
# the machine may be busy with the rest of the suite
PATIENCE = 20_000


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = str(Path(__file__).parent)
    for item in items:
        if str(item.path).startswith(here):
            item.add_marker(pytest.mark.browser)
            item.add_marker(pytest.mark.timeout(120))


@pytest.fixture(autouse=True)
def jp_asyncio_loop() -> None:
    """In place of pytest-jupyter's: its loop and playwright's cannot run in one thread."""


@pytest.fixture(autouse=True)
def jp_server_cleanup() -> None:
    """As above."""


class Lab:
    """The server, which may be stopped and started again where it was."""

    def __init__(self, home: Path, *, name: str = "config", traits: Mapping[str, Any] = MappingProxyType({})) -> None:
        self.home = home
        self.root = home / "project"
        self._name = name
        self.token = secrets.token_hex(16)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/"
        # the build of this tree, before whatever an earlier install left in the environment
        extensions = home / "share" / "labextensions"
        if not extensions.exists():
            extensions.mkdir(parents=True)
            (extensions / "jupyter-acp").symlink_to(ROOT / "jupyter_acp" / "labextension")
        config = home / name
        (config / "labconfig").mkdir(parents=True)
        (config / "jupyter_server_config.json").write_text(
            json.dumps(
                {
                    "LabApp": {"expose_app_in_browser": True},
                    **traits,
                    "AcpExtension": {
                        **traits.get("AcpExtension", {}),
                        "database": str(home / "coordinator.db"),
                        "runtime_dir": str(home / "run"),
                        "cancel_grace": 1.0,
                        "kill_grace": 1.0,
                        "agents": {
                            "other": {"name": "Other agent", "command": [sys.executable, "-m", "jupyter_acp.testing"]},
                            "delegating": {
                                "name": "Delegating agent",
                                "command": [sys.executable, "-m", "jupyter_acp.testing"],
                                "placement": "host-delegated",
                            },
                            "absent": {"name": "Absent agent", "command": ["there-is-no-such-agent"]},
                        },
                    },
                }
            )
        )
        self._environ = {name: value for name, value in os.environ.items() if not name.startswith("JUPYTER")} | {
            "JUPYTER_CONFIG_PATH": cli.lab_environ()["JUPYTER_CONFIG_PATH"],
            "HOME": str(home),
            "XDG_STATE_HOME": str(home / "state"),
            "JUPYTER_TOKEN": self.token,
            "JUPYTER_PATH": str(home / "share"),
            "JUPYTER_DATA_DIR": str(home / "data"),
            "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
            "JUPYTER_CONFIG_DIR": str(config),
            "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"),
            "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
            "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}",
        }
        self._process: subprocess.Popen[bytes] | None = None

    def another(self, name: str) -> Lab:
        """A second server of the same folders, as somebody starts who has forgotten the first."""
        return Lab(self.home, name=name)

    def prefer_panel(self, preferred: bool) -> None:
        """Whether pages that are opened from now on prefer the panel to jupyterlab-chat, as the demo does."""
        page = self.home / self._name / "labconfig" / "page_config.json"
        # said either way: the server keeps what it once read from here
        page.write_text(json.dumps({"acpOpensChats": "true" if preferred else "false"}))

    def start(self) -> None:
        """Start it where it does not run, and wait until it answers."""
        if self._process is not None:
            return
        cli.make_project(self.root)
        logged = self.home / f"{self._name}.log"
        with logged.open("ab") as log:
            self._process = subprocess.Popen(
                [*cli.lab_command(self.root, self.port, browser=False), "--ServerApp.port_retries=0"],
                cwd=self.home,
                env=self._environ,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        for _ in range(600):
            try:
                self.ask("GET", "api/acp")
                return
            except OSError:  # URLError, or a connection that breaks off later
                assert self._process.poll() is None, logged.read_text()
                time.sleep(0.1)
        raise TimeoutError(logged.read_text())

    def stop(self) -> None:
        """End it; agents that run stay."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(timeout=20)
            finally:
                if self._process.poll() is None:
                    os.killpg(self._process.pid, signal.SIGKILL)
                    self._process.wait()
            self._process = None

    def kill(self) -> None:
        """SIGKILL, to the server alone."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        self._process = None

    def ask(self, method: str, path: str, body: object = None) -> Any:
        """A request to the server, its JSON."""
        headers = {"Authorization": f"token {self.token}", "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        with urllib.request.urlopen(urllib.request.Request(self.url + path, data, headers, method=method)) as response:
            return json.loads(response.read() or "null")

    def close_sessions(self) -> None:
        """An agent outlives its server: it ends with its session."""
        for project in self.ask("GET", "api/acp/projects"):
            sessions = f"api/acp/projects/{project['id']}/sessions"
            for session in self.ask("GET", sessions):
                self.ask("DELETE", f"{sessions}/{session['id']}")


class Chat:
    """The panel of one chat, as a person finds their way in it."""

    def __init__(self, page: Page, path: str) -> None:
        self.page = page
        self.path = path
        self.view = page.locator(".jp-acp-chat")
        self.input = self.view.get_by_label("Message to the agent")
        self.active = self.view.locator(".jp-acp-active")
        self.ended = self.view.locator('.jp-acp-turn[data-state="ended"]')
        self.queued = self.view.locator(".jp-acp-queued")
        self.permission = self.view.locator(".jp-acp-permission")
        self.unsent = self.view.locator(".jp-acp-unsent")
        # of a server that is gone JupyterLab tells too, in a dialog that is in the way
        lost = page.locator(".jp-Dialog", has_text="Server Connection Error")
        page.add_locator_handler(lost, lambda: lost.get_by_role("button", name="Close").click())

    def send(self, text: str) -> None:
        """Type and press Enter; lines are parted by Shift+Enter."""
        self.input.fill(text)
        self.input.press("Enter")

    def wait(self, state: str, *, timeout: float = PATIENCE) -> None:
        """Until the running turn is in this state, `idle` where there is none."""
        wanted = f'.jp-acp-chat[data-state="{state}"][data-connection="connected"]'
        self.page.locator(wanted).wait_for(timeout=timeout)

    def is_cut_off(self) -> None:
        """Wait until the panel has noticed that its server does not answer."""
        expect(self.view).to_have_attribute("data-connection", "waiting")

    def run(self, text: str) -> Locator:
        """Send, and wait for the end; the turn."""
        count = self.ended.count()
        self.send(text)
        turn = self.ended.nth(count)
        turn.wait_for()
        self.wait("idle")
        return turn


@pytest.fixture(scope="package")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    lab = Lab(tmp_path_factory.mktemp("lab"))
    try:
        lab.start()
        yield lab
        lab.close_sessions()
    finally:
        lab.stop()


# not longer than this folder: playwright keeps a running loop in the thread, in which no other can start
@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    program = next(found for name in BROWSERS if (found := shutil.which(name)))
    expect.set_options(timeout=PATIENCE)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    context = browser.new_context(viewport={"width": 1280, "height": 860}, reduced_motion="reduce")
    context.set_default_timeout(PATIENCE)
    yield context
    context.close()


@pytest.fixture
def screenshots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where pictures of the pages are kept, to be looked at."""
    kept = os.environ.get("JUPYTER_ACP_SCREENSHOTS")
    return Path(kept) if kept else tmp_path_factory.getbasetemp() / "screenshots"


@pytest.fixture
def page(context: BrowserContext, screenshots: Path, request: pytest.FixtureRequest) -> Iterator[Page]:
    """A page that must end without an error of a script, and without a dialog that a hostile text opened."""
    errors: list[str] = []
    page = context.new_page()
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("dialog", lambda dialog: (errors.append(dialog.message), dialog.dismiss()))
    yield page
    page.screenshot(path=screenshots / f"{request.node.name}-last.png")
    assert errors == []


@pytest.fixture
def open_page(lab: Lab, page: Page, request: pytest.FixtureRequest) -> Callable[[str], Page]:
    """Go to JupyterLab, in a workspace of this test; `tree/{path}` opens a file."""
    workspace = re.sub(r"\W+", "-", request.node.name)

    def go(path: str = "") -> Page:
        page.goto(f"{lab.url}lab/workspaces/{workspace}/{path}?token={lab.token}")
        return page

    return go


@pytest.fixture
def chat(lab: Lab, open_page: Callable[[str], Page]) -> Chat:
    """A new, empty chat of this test, open."""
    path = f"chat-{len(list(lab.root.glob('chat-*.chat'))) + 1}.chat"
    (lab.root / path).write_text("")
    chat = Chat(open_page(f"tree/{path}"), path)
    chat.wait("idle")
    return chat


@pytest.fixture
def shot(page: Page, screenshots: Path, request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Take a picture of the page."""

    def take(name: str) -> None:
        page.screenshot(path=screenshots / f"{request.node.name}-{name}.png")

    return take
