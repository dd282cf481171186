"""A headless Jupyter server that offers kernels and nothing else, as a process of its own."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from jupyter_acp.exceptions import ExecutorError
from jupyter_acp.kernel_exec.kernel_executor import KernelExecutor
from jupyter_acp.kernel_exec.kernel_link import KernelServer

TOKEN = "0123456789abcdef"
_EXTENSIONS = ("jupyter_acp", "jupyter_lsp", "jupyter_server_terminals", "jupyterlab", "notebook_shim")


class KernelServerProcess:
    """The process, and the address to reach it by."""

    def __init__(
        self,
        folder: Path,
        *,
        unix: bool = False,
        gateway: bool = False,
        environ: Mapping[str, str] = {},
        **settings: Any,
    ) -> None:
        self.folder = folder
        self.root = folder / "project"
        self.root.mkdir(parents=True)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        sock = str(folder / "s") if unix else None
        address = {"sock": sock} if unix else {"ip": "127.0.0.1", "port": port, "port_retries": 0}
        self.address = KernelServer(url=f"http://127.0.0.1:{port}", token=folder / "token", sock=sock)
        self._environ = environ
        self.kernel_id: str | None = None  # a kernel for all who leave it as it was
        self._program = "kernel_gateway" if gateway else "jupyter_server"
        (folder / "config").mkdir()
        config = {
            "ServerApp": {
                "root_dir": str(self.root),
                "open_browser": False,
                "allow_root": True,
                "terminals_enabled": False,
                "jpserver_extensions": dict.fromkeys(_EXTENSIONS, False),
                **address,
            },
            "KernelGatewayApp": {"ip": "127.0.0.1", "port": port, "auth_token": TOKEN},
            **settings,
        }
        for name in ("jupyter_server_config.json", "jupyter_kernel_gateway_config.json"):
            (folder / "config" / name).write_text(json.dumps(config))
        (folder / "token").write_text(TOKEN)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it; returns once it answers."""
        environment = {
            **os.environ,
            "JUPYTER_TOKEN_FILE": str(self.folder / "token"),
            "JUPYTER_CONFIG_DIR": str(self.folder / "config"),
            "JUPYTER_DATA_DIR": str(self.folder / "data"),
            "JUPYTER_RUNTIME_DIR": str(self.folder / "runtime"),
            **self._environ,
        }
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", self._program],
                env=environment,
                cwd=self.root,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        asyncio.run(self._answers())
        self.kernel_id = asyncio.run(self.address.call("POST", "api/kernels", {}))["id"]

    def executor(self, **options: Any) -> KernelExecutor:
        """An executor in the kernel that is there."""
        return KernelExecutor(self.address, kernel_id=self.kernel_id, root=str(self.root), **options)

    def stop(self) -> None:
        """End it and its kernels."""
        assert self._process is not None
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:  # jupyter_server stays where one of its kernels has gone at this moment
            self.kill()

    def kill(self) -> None:
        """SIGKILL, to the server alone."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def log(self) -> str:
        """What it wrote."""
        return (self.folder / "log").read_text(errors="replace")

    async def _answers(self) -> None:
        assert self._process is not None
        async with asyncio.timeout(50):
            while True:
                try:
                    await self.address.call("GET", "api/kernelspecs")
                    return
                except ExecutorError as exc:
                    if self._process.poll() is not None:
                        raise AssertionError(self.log()) from exc
                    # a process has no event to tell that it listens
                    await asyncio.sleep(0.05)


class Proxy:
    """A way to a server that can be cut."""

    def __init__(self, server: KernelServer) -> None:
        self._target = urlsplit(server.url)
        self._server = server
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._down = False

    async def __aenter__(self) -> Proxy:
        self._listener = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = self._listener.sockets[0].getsockname()[1]
        self.address = replace(self._server, url=f"http://127.0.0.1:{port}")
        return self

    async def __aexit__(self, *_: object) -> None:
        self._listener.close()
        self.cut(stay_down=True)
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._listener.wait_closed()

    def cut(self, *, stay_down: bool = False) -> None:
        """Break every connection."""
        self._down = stay_down
        for writer in self._writers:
            writer.transport.abort()

    def up(self) -> None:
        """Let new connections through again."""
        self._down = False

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._down:
            writer.close()
            return
        there, back = await asyncio.open_connection(self._target.hostname, self._target.port)
        for source, sink in ((reader, back), (there, writer)):
            self._writers.add(sink)
            task = asyncio.create_task(self._pump(source, sink))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await source.read(1 << 16):
                sink.write(data)
                await sink.drain()
        sink.close()
        self._writers.discard(sink)
