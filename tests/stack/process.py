"""A Jupyter Server in a process of its own, that can be killed and started again on the same folders."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from conftest import Drive
from tornado.httpclient import AsyncHTTPClient, HTTPRequest
from tornado.httputil import url_concat
from tornado.websocket import websocket_connect

TOKEN = "0123456789abcdef"


class ServerProcess:
    """The server, its folders, and a `Drive` for it."""

    def __init__(
        self,
        folder: Path,
        config: dict[str, Any],
        *,
        name: str = "config",
        under: Sequence[str] = (),
        sock: str | None = None,
        extensions: Mapping[str, bool] = MappingProxyType({}),
        environ: Mapping[str, str] = MappingProxyType({}),
        traits: Mapping[str, dict[str, Any]] = MappingProxyType({}),
    ) -> None:
        self.folder = folder
        self.root = folder / "project"
        self.root.mkdir(exist_ok=True)
        self.root_dir = str(self.root)
        self.chat = ""
        self._config = config
        self._name = name
        self._under = under
        self._environ = environ
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        (folder / name).mkdir()
        listening = {"ip": "127.0.0.1", "port": self.port, "port_retries": 0}
        settings = {
            "ServerApp": {
                "root_dir": str(self.root),
                "open_browser": False,
                "allow_root": True,
                "jpserver_extensions": {**extensions, "jupyter_acp": True},
                **(listening if sock is None else {"sock": sock}),
            },
            "AcpExtension": {"default_agent": "demo", "cancel_grace": 1.0, "kill_grace": 1.0, **config},
        }
        for owner, values in traits.items():
            settings.setdefault(owner, {}).update(values)
        (folder / name / "jupyter_server_config.json").write_text(json.dumps(settings))
        (folder / "token").write_text(TOKEN)
        self.process: subprocess.Popen[bytes] | None = None
        self.drive = Drive(self._fetch, self._ws_fetch, self)

    def another(self) -> ServerProcess:
        """A second server of the same folders, as somebody starts who has forgotten the first."""
        return ServerProcess(self.folder, self._config, name=self._name + "-another")

    def spawn(self) -> None:
        """Start it where it does not run; it does not answer yet."""
        if self.process is not None and self.process.poll() is None:
            return
        environment = {
            **os.environ,
            **self._environ,
            "JUPYTER_TOKEN_FILE": str(self.folder / "token"),
            "JUPYTER_CONFIG_DIR": str(self.folder / self._name),
            "JUPYTER_DATA_DIR": str(self.folder / "data"),
            "JUPYTER_RUNTIME_DIR": str(self.folder / "runtime"),
            "XDG_STATE_HOME": str(self.folder / "state"),
        }
        with (self.folder / f"{self._name}.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*self._under, sys.executable, "-m", "jupyter_server"],
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    async def start(self) -> None:
        """As `spawn`, and return once it answers."""
        self.spawn()
        assert self.process is not None
        async with asyncio.timeout(50):
            while True:
                try:
                    await self._fetch("api", "acp")
                    return
                except OSError as exc:
                    if self.process.poll() is not None:
                        raise AssertionError(self.log()) from exc
                    # a process has no event to tell that it listens
                    await asyncio.sleep(0.05)

    async def appears(self, name: str) -> None:
        """Return once a file of the project is there: an agent without a server tells nothing else."""
        async with asyncio.timeout(20):
            while not (self.root / name).exists():  # noqa: ASYNC110  # a file has no event either
                await asyncio.sleep(0.02)

    def serve(self, root: Path) -> None:
        """Let the next start be of another project folder, with the same database."""
        file = self.folder / self._name / "jupyter_server_config.json"
        settings = json.loads(file.read_text())
        settings["ServerApp"]["root_dir"] = str(root)
        file.write_text(json.dumps(settings))
        self.root, self.root_dir = root, str(root)

    def kill(self) -> None:
        """SIGKILL, to the server alone."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    async def stop(self) -> None:
        """As `jupyter server stop` does it."""
        assert self.process is not None
        self.process.terminate()
        await asyncio.to_thread(self.process.wait, 30)

    async def end(self) -> None:
        """End every session and the server."""
        await self.start()
        for summary in await self.drive.ok("GET", "projects", "local", "sessions"):
            await self.drive.ok("DELETE", "projects", "local", "sessions", summary["id"])
        await self.stop()

    def log(self) -> str:
        """What the server wrote."""
        return (self.folder / f"{self._name}.log").read_text(errors="replace")

    async def _fetch(self, *parts: str, **options: Any) -> Any:
        options.pop("raise_error", None)
        url = url_concat(f"http://127.0.0.1:{self.port}/" + "/".join(parts), options.pop("params", {}))
        options.setdefault("headers", {"Authorization": f"token {TOKEN}"})
        request = HTTPRequest(url, request_timeout=50, **options)
        return await AsyncHTTPClient().fetch(request, raise_error=False)

    async def _ws_fetch(self, *parts: str, params: dict[str, str], headers: Mapping[str, str] | None = None) -> Any:
        url = url_concat(f"ws://127.0.0.1:{self.port}/" + "/".join(parts), params)
        return await websocket_connect(HTTPRequest(url, headers=headers or {"Authorization": f"token {TOKEN}"}))
