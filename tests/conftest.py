"""What every test may use: a real Jupyter Server with the extension, and `drive` to talk to it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

pytest_plugins = ["pytest_jupyter.jupyter_server"]

TESTS = Path(__file__).parent


@pytest.fixture(scope="session", autouse=True)
def nothing_is_left_running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Processes that have to do with a folder of these tests are gone in the end, whoever has started them."""
    yield
    folder = str(tmp_path_factory.getbasetemp())

    def is_ours(process: psutil.Process) -> bool:
        with contextlib.suppress(psutil.Error, OSError):
            sockets = [connection.laddr for connection in process.net_connections("unix")]
            return folder in " ".join([process.cwd(), *process.cmdline(), *sockets])
        return False

    _, left = psutil.wait_procs([process for process in psutil.process_iter() if is_ours(process)], timeout=20)
    told = [f"{process.pid}: {' '.join(process.cmdline())}" for process in left if is_ours(process)]
    assert not told, told


@pytest.fixture
def golden() -> Callable[[str], Any]:
    """Read a golden event by its kind."""
    return lambda kind: json.loads((TESTS / "golden" / "events" / f"{kind}.json").read_text("utf-8"))


@pytest.fixture
def agent_config() -> dict[str, Any]:
    """More agents for the server of a test; override it in a module."""
    return {}


@pytest.fixture
def jp_server_config(tmp_path: Path, agent_config: dict[str, Any]) -> dict[str, Any]:
    os.environ["XDG_STATE_HOME"] = str(tmp_path / "state")
    return {
        "ServerApp": {"jpserver_extensions": {"jupyter_acp": True}},
        "AcpExtension": {
            "database": str(tmp_path / "coordinator.db"),
            "runtime_dir": str(tmp_path / "run"),
            "default_agent": "demo",
            "cancel_grace": 1.0,
            "kill_grace": 1.0,
            "agents": {
                "delegating": {
                    "command": [sys.executable, "-m", "jupyter_acp.testing"],
                    "env": {"XDG_STATE_HOME": str(tmp_path / "state")},
                    "placement": "host-delegated",
                },
                **agent_config,
            },
        },
    }


class Drive:
    """The public interface of one server, as a client uses it."""

    def __init__(self, fetch: Any, ws_fetch: Any, server: Any) -> None:
        self._fetch = fetch
        self._ws_fetch = ws_fetch
        self.server = server
        self.root = Path(server.root_dir)
        self.project = "local"
        self.conversations: list[Conversation] = []
        self._turns = 0

    async def request(self, method: str, *path: str, body: object = None, **query: object) -> tuple[int, Any]:
        """Status and JSON of `api/acp/{path}`."""
        response = await self._fetch(
            "api",
            "acp",
            *path,
            method=method,
            params={key: str(value) for key, value in query.items()},
            body=None if body is None else json.dumps(body),
            allow_nonstandard_methods=True,
            raise_error=False,
        )
        text = response.body.decode()
        return response.code, json.loads(text) if text and text[0] in "[{" else text

    async def ok(self, method: str, *path: str, body: object = None, **query: object) -> Any:
        """As `request`, and it must succeed."""
        status, answer = await self.request(method, *path, body=body, **query)
        assert status < 400, (status, answer)
        return answer

    @property
    def hub(self) -> Any:
        """The server's projects, from within."""
        [extension] = self.server.extension_manager.extension_apps["jupyter_acp"]
        return extension.hub

    @property
    def coordinator(self) -> Any:
        """The coordinator of the one project, from within."""
        [coordinator] = self.hub.known()
        return coordinator

    async def open(self, path: str = "a.chat", **body: object) -> Conversation:
        """The session of a chat."""
        summary = await self.ok("POST", "projects", self.project, "sessions", body={"path": path, **body})
        self.conversations.append(conversation := Conversation(self, summary["id"]))
        return conversation

    async def hang_up(self) -> None:
        """Close every socket."""
        for conversation in self.conversations:
            await conversation.hang_up()
        self.conversations.clear()

    async def subscribe(self, session_id: str, after: int = 0) -> Any:
        """A WebSocket on the events of a session."""
        return await self._ws_fetch(
            "api",
            "acp",
            "projects",
            self.project,
            "sessions",
            session_id,
            "events",
            "subscribe",
            params={"after": str(after)},
        )


class Conversation:
    """One session, seen by a client that follows its log."""

    def __init__(self, drive: Drive, session_id: str) -> None:
        self.drive = drive
        self.id = session_id
        self.events: list[dict[str, Any]] = []
        self._socket: Any = None
        self._turns = 0

    async def call(self, method: str, *path: str, body: object = None, **query: object) -> Any:
        """A route below this session; it must succeed."""
        return await self.drive.ok(
            method, "projects", self.drive.project, "sessions", self.id, *path, body=body, **query
        )

    async def refused(self, method: str, *path: str, body: object = None, **query: object) -> tuple[int, str]:
        """A route below this session that must not succeed: its status and reason."""
        status, answer = await self.drive.request(
            method, "projects", self.drive.project, "sessions", self.id, *path, body=body, **query
        )
        assert status >= 400, (status, answer)
        assert isinstance(answer["message"], str)
        return status, answer["reason"]

    async def summary(self) -> dict[str, Any]:
        result: dict[str, Any] = await self.call("GET")
        return result

    async def submit(self, prompt: object, turn: str | None = None, **body: object) -> str:
        """Queue a prompt; the id of its turn."""
        self._turns += 1
        turn = turn or f"t{self._turns}"
        await self.call("POST", "turns", body={"id": turn, "prompt": prompt, **body})
        return turn

    async def until(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Read on until an event is as wanted; every event read is in `events`, each once and in order."""
        if self._socket is None:
            self._socket = await self.drive.subscribe(self.id, len(self.events))
            self._ahead: list[dict[str, Any]] = []
        while True:
            while self._ahead:
                event = self._ahead.pop(0)
                assert event["seq"] == len(self.events) + 1
                self.events.append(event)
                if wanted(event):
                    return event
            async with asyncio.timeout(50):
                # below pytest's own limit, whose end would leave agents behind
                text = await self._socket.read_message()
            assert text is not None, "the socket was closed"
            self._ahead = json.loads(text)

    async def until_kind(self, kind: str, **data: object) -> dict[str, Any]:
        """Read on until an event of this kind with these data."""
        return await self.until(
            lambda event: event["kind"] == kind and all(event["data"].get(k) == v for k, v in data.items())
        )

    async def run(self, prompt: object, turn: str | None = None, **body: object) -> dict[str, Any]:
        """Submit and wait for the end: the data of `turn_ended`."""
        turn = await self.submit(prompt, turn, **body)
        ended: dict[str, Any] = (await self.until_kind("turn_ended", id=turn))["data"]
        return ended

    def of(self, kind: str, turn: str | None = None) -> list[dict[str, Any]]:
        """The data of the events of a kind read so far."""
        return [e["data"] for e in self.events if e["kind"] == kind and turn in (None, e["turn"])]

    def text(self, turn: str) -> str:
        """What the agent said in a turn."""
        return "".join(data["text"] for data in self.of("message_delta", turn))

    async def closed(self) -> None:
        """Return once the server has closed the socket."""
        if self._socket is None:
            self._socket = await self.drive.subscribe(self.id, len(self.events))
        while await self._socket.read_message() is not None:
            pass
        self._socket.close()
        self._socket, self._ahead = None, []

    async def hang_up(self) -> None:
        """Close the socket; `until` opens another that goes on after the last event."""
        if self._socket is not None:
            socket, self._socket = self._socket, None
            socket.close()
            while await socket.read_message() is not None:
                pass
            # What had come but was not looked at is sent again.
            self._ahead = []


@pytest.fixture
def drive(jp_asyncio_loop: Any, jp_serverapp: Any, jp_fetch: Any, jp_ws_fetch: Any) -> Iterator[Drive]:
    """A server with the extension; its agents end with the test."""
    yield (driver := Drive(jp_fetch, jp_ws_fetch, jp_serverapp))
    if jp_serverapp.extension_manager.extension_apps["jupyter_acp"].copy().pop().side is not None:
        return  # it has no coordinator

    async def end() -> None:
        await driver.hang_up()
        for coordinator in driver.hub.known():
            for summary in coordinator.summaries():
                await coordinator.close(summary["id"])

    jp_asyncio_loop.run_until_complete(end())
