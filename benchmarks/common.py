"""What the measurements share: a real server in a process of its own, a client, and what the kernel counted of them."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from jupyter_core.paths import jupyter_config_path
from jupyter_server.extension.config import ExtensionConfigManager
from tornado.httpclient import AsyncHTTPClient, HTTPRequest
from tornado.httputil import HTTPHeaders
from tornado.websocket import WebSocketClientConnection, websocket_connect

AGENT = [sys.executable, "-m", "jupyter_acp.testing"]
REPOSITORY = str(Path(__file__).parents[1])


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One measured number. `limit` is its upper bound; None where it is only told for comparison."""

    name: str
    value: float
    unit: str
    limit: float | None = None
    note: str = ""

    @property
    def reached(self) -> bool | None:
        """Whether the value is within its limit."""
        return None if self.limit is None else self.value <= self.limit


def cpu(pids: Iterable[int]) -> float:
    """Seconds of CPU of these processes so far, all threads, from the scheduler's nanosecond counters."""
    total = 0
    for pid in pids:
        for task in Path(f"/proc/{pid}/task").glob("*/schedstat"):
            total += int(task.read_text().split()[0])
    return total / 1e9


def memory(pid: int) -> int:
    """Resident bytes of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def own_memory(pid: int) -> int:
    """Bytes of a process that are its own alone, or its share of what others have too."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return 1024 * int(rollup.split("\nPss:")[1].split()[0])


def peak(pid: int, *, reset: bool = False) -> int:
    """The most bytes that a process has had resident since the last reset."""
    if reset:
        Path(f"/proc/{pid}/clear_refs").write_text("5")
    status = Path(f"/proc/{pid}/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


def written(pids: Iterable[int]) -> int:
    """Bytes that these processes passed to the disk's page cache or to the disk so far."""
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/io").read_text().splitlines():
            if line.startswith("write_bytes"):
                total += int(line.split()[1])
    return total


def quantile(values: list[float], share: float) -> float:
    """The value below which `share` of the values lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def free_port() -> int:
    """A TCP port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process that we started, with its session."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


class Server:
    """A Jupyter Server with the extension, on loopback."""

    def __init__(
        self,
        folder: Path,
        *,
        extensions: tuple[str, ...] = ("jupyter_acp",),
        settings: Mapping[str, object] = MappingProxyType({}),
        traits: Mapping[str, object] = MappingProxyType({}),
    ) -> None:
        self.folder = folder
        # Nothing that the environment enables besides: jupyter_lsp alone starts an npm of its own for a while.
        installed = ExtensionConfigManager(read_config_path=jupyter_config_path()).get_jpserver_extensions()
        names = dict.fromkeys(installed, False) | dict.fromkeys(extensions, True)
        agents = {
            "witness": {
                "name": "Witness",
                "command": [sys.executable, "-m", "benchmarks.witness"],
                "env": {"PYTHONPATH": REPOSITORY},
            },
            "delegating": {"name": "Delegating", "command": AGENT, "placement": "host-delegated"},
        }
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config").mkdir(exist_ok=True)
        (folder / "config" / "jupyter_server_config.json").write_text(
            json.dumps(
                {
                    "ServerApp": {"jpserver_extensions": names},
                    "AcpExtension": {"default_agent": "demo", "agents": agents, **settings},
                    **traits,
                }
            )
        )
        self.port = free_port()
        self.token = secrets.token_hex(8)
        self.root = folder / "project"
        self.root.mkdir(parents=True, exist_ok=True)
        (folder / "token").write_text(self.token)
        self._environment = {
            **os.environ,
            "PYTHONPATH": REPOSITORY,
            "JUPYTER_TOKEN_FILE": str(folder / "token"),
            "JUPYTER_DATA_DIR": str(folder / "data"),
            "JUPYTER_RUNTIME_DIR": str(folder / "runtime"),
            "JUPYTER_CONFIG_DIR": str(folder / "config"),
            "JUPYTER_PREFER_ENV_PATH": "0",
            "XDG_STATE_HOME": str(folder / "state"),
        }
        self._log = (folder / "server.log").open("wb")
        self.spawn()

    def spawn(self) -> None:
        """Start it, also again after `kill`."""
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "jupyter_server", "--allow-root", "--no-browser", "--ip=127.0.0.1"),
                *(f"--port={self.port}", "--ServerApp.port_retries=0", f"--ServerApp.root_dir={self.root}"),
            ],
            env=self._environment,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
        )

    def kill(self) -> None:
        """SIGKILL; its runners go on."""
        self.process.kill()
        self.process.wait()

    async def __aenter__(self) -> Server:
        self.http = AsyncHTTPClient(force_instance=True, max_clients=200)
        await self.answers()
        return self

    async def answers(self) -> None:
        """Return once it does."""
        deadline = time.monotonic() + 60
        while True:
            try:
                await self.fetch("GET", "/api/status")
                return
            except OSError:
                if time.monotonic() > deadline or self.process.poll() is not None:
                    raise RuntimeError((self.folder / "server.log").read_text()[-3000:]) from None
                await asyncio.sleep(0.05)

    async def __aexit__(self, *exc: object) -> None:
        self.http.close()
        end(self.process)
        self._log.close()
        # Runners outlive their server by design: not the benchmark.
        for file in (self.folder / "runtime" / "acp").glob("*/runner.pid"):
            with suppress(ProcessLookupError):
                os.kill(int(file.read_text()), signal.SIGTERM)

    async def fetch(self, method: str, path: str, body: object = None) -> Any:
        """A request that must succeed; its JSON."""
        response = await self.http.fetch(
            HTTPRequest(
                f"http://127.0.0.1:{self.port}{path}",
                method=method,
                headers={"Authorization": f"token {self.token}"},
                body=None if body is None else json.dumps(body),
                allow_nonstandard_methods=True,
                request_timeout=300,
            )
        )
        return json.loads(response.body) if response.body else None

    async def session(self, name: str, agent: str = "demo", project: str = "local") -> Session:
        """The session of a chat whose agent is ready."""
        path = f"/api/acp/projects/{project}/sessions"
        summary = await self.fetch("POST", path, {"path": name, "agent": agent})
        session = Session(self, summary["id"], project)
        await session.follow(0)
        while not any(event["kind"] == "agent_started" for event in await session.receive()):
            pass
        return session

    def runners(self) -> list[int]:
        """Processes of this server's runners."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                argv = (folder / "cmdline").read_bytes()
                if b"runner.py" in argv or b"jupyter_acp.runner" in argv:
                    environment = (folder / "environ").read_bytes()
                    if str(self.folder).encode() in argv + environment or _cwd(folder).startswith(str(self.folder)):
                        found.append(int(folder.name))
            except OSError:
                continue
        return found


def _cwd(folder: Path) -> str:
    return os.readlink(folder / "cwd")


class Session:
    """One session and one client of its event stream."""

    def __init__(self, server: Server, session_id: str, project: str = "local") -> None:
        self.server = server
        self.id = session_id
        self.path = f"/api/acp/projects/{project}/sessions/{session_id}"
        self.socket: WebSocketClientConnection
        self.received = 0
        self._turns = 0

    async def follow(self, after: int) -> None:
        """Open the socket."""
        self.socket = await websocket_connect(
            HTTPRequest(
                f"ws://127.0.0.1:{self.server.port}{self.path}/events/subscribe?after={after}",
                headers={"Authorization": f"token {self.server.token}"},
            ),
            max_message_size=1 << 30,
        )

    async def receive(self) -> list[dict[str, Any]]:
        """The next events; counts their bytes."""
        text = await self.socket.read_message()
        if text is None:
            raise RuntimeError("the socket was closed")
        self.received += len(text.encode() if isinstance(text, str) else text)
        events: list[dict[str, Any]] = json.loads(text)
        return events

    async def submit(self, prompt: str) -> str:
        """Queue a prompt; its turn."""
        self._turns += 1
        turn = f"b{self._turns}-{secrets.token_hex(3)}"
        await self.server.fetch("POST", self.path + "/turns", {"id": turn, "prompt": prompt})
        return turn

    async def run(self, prompt: str) -> list[dict[str, Any]]:
        """One turn from its submission to its end: its events."""
        return await self.until_end(await self.submit(prompt))

    async def until_end(self, turn: str) -> list[dict[str, Any]]:
        """What is received up to the end of a turn."""
        seen: list[dict[str, Any]] = []
        while True:
            for event in await self.receive():
                seen.append(event)
                if event["kind"] == "turn_ended" and event["turn"] == turn:
                    return seen


class Line:
    """One kept-alive connection to the server, logged in as a browser is, without a client library's own delays."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._cookie = ""

    async def __aenter__(self) -> Line:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._server.port)
        # The token buys a cookie once, and is not weighed again with each request.
        self.ask("GET", "/api/me")
        await self.answer()
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._writer.close()

    def ask(self, method: str, path: str, body: object = None) -> None:
        """Write a request."""
        data = b"" if body is None else json.dumps(body).encode()
        head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{self._server.port}\r\nContent-Length: {len(data)}\r\n"
        head += f"Authorization: token {self._server.token}\r\n{self._cookie}\r\n"
        self._writer.write(head.encode() + data)

    async def answer(self) -> bytes:
        """The body of the next answer, which must be a success."""
        start, _, head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").partition("\r\n")
        if not start.startswith("HTTP/1.1 2"):
            raise RuntimeError(start)
        headers = HTTPHeaders.parse(head)
        if cookies := headers.get_list("Set-Cookie"):
            self._cookie = f"Cookie: {'; '.join(cookie.split(';')[0] for cookie in cookies)}\r\n"
        return await self._reader.readexactly(int(headers.get("Content-Length", "0")))


class RelayProcess:
    """The bare relay with its agent, and one client of it."""

    async def __aenter__(self) -> RelayProcess:
        self.port = free_port()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.relay", str(self.port), *AGENT],
            env={**os.environ, "PYTHONPATH": REPOSITORY},
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert self.process.stdout is not None
        await asyncio.to_thread(self.process.stdout.readline)
        self.socket = await websocket_connect(f"ws://127.0.0.1:{self.port}/ws")
        self.received = 0
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.socket.close()
        end(self.process)

    async def submit(self, prompt: str) -> None:
        """Send a prompt."""
        await self.socket.write_message(prompt)

    async def receive(self) -> dict[str, Any]:
        """The next message."""
        text = await self.socket.read_message()
        assert isinstance(text, str)
        self.received += len(text)
        message: dict[str, Any] = json.loads(text)
        return message

    async def run(self, prompt: str) -> list[dict[str, Any]]:
        """One turn: its messages."""
        await self.submit(prompt)
        seen = [await self.receive()]
        while seen[-1].get("id") != 2:
            seen.append(await self.receive())
        return seen


def text_of(events: list[dict[str, Any]]) -> str:
    """The answer that these events make."""
    return "".join(event["data"]["text"] for event in events if event["kind"] == "message_delta")


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder of its own, with a short path: sockets go below it."""
    with tempfile.TemporaryDirectory(prefix="acp-bench-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)
