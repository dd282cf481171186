"""Where the contract of executors is tried: on this machine, and behind real Jupyter servers."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from jupyter_core.paths import jupyter_config_path
from jupyter_server.extension.config import ExtensionConfigManager
from stack.process import ServerProcess

from jupyter_acp.kernel_exec.base import Executor
from jupyter_acp.kernel_exec.local import LocalExecutor
from jupyter_acp.kernel_exec.server import WINDOW, ServerExecutor

from .kernel_server import KernelServerProcess

PLANTED = {"MARK_API_KEY": "planted", "JUPYTER_MARK": "planted"}
"""What the environment of a project's side has and its commands must not see."""

Test = Callable[[Executor], Awaitable[None]]


class Place:
    """A project, and the executors for it that `make` makes.

    `ahead`: bytes that a command can print, by pipe, before a listener that is stuck holds it back; not all are taken.
    """

    def __init__(self, root: Path, make: Callable[..., Executor], *, ahead: int = 1_000_000) -> None:
        self.root = root
        self.make = make
        self.ahead = ahead

    @classmethod
    def behind(cls, server: ProjectServer | KernelServerProcess) -> Place:
        """The project of a server, emptied."""
        for entry in server.root.iterdir():
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
        if isinstance(server, KernelServerProcess):
            return cls(server.root, server.executor)  # beside the kernel it is as on this machine
        return cls(server.root, server.executor, ahead=WINDOW + 500_000)

    def run(self, test: Test, *, start: bool = True, **options: Any) -> None:
        """Run `test` with an executor, which is stopped at the end; nothing may stay open."""

        async def limited() -> None:
            here = self.make(**options)
            try:
                if start:
                    await here.start()
                await asyncio.wait_for(test(here), 30)
            finally:
                await here.stop()

        before = len(os.listdir("/dev/fd"))
        asyncio.run(limited())
        # fewer: what an earlier test has left to the garbage collector
        assert len(os.listdir("/dev/fd")) <= before, "a descriptor was left open"


class ProjectServer(ServerProcess):
    """A headless server of a project of its own, by TCP or by a unix socket."""

    def __init__(self, folder: Path, *, unix: bool, **config: Any) -> None:
        self.sock = str(folder / "sock") if unix else None
        installed = ExtensionConfigManager(read_config_path=jupyter_config_path()).get_jpserver_extensions()
        super().__init__(
            folder,
            {"serve_project": True, **config},
            environ=PLANTED,
            sock=self.sock,
            extensions=dict.fromkeys(installed, False),
        )

    def executor(self, **options: Any) -> ServerExecutor:
        """An executor for its project."""
        options.setdefault("token", self.folder / "token")
        return ServerExecutor(f"http://127.0.0.1:{self.port}/", socket=self.sock, **options)

    def ready(self) -> None:
        """Return once it answers."""

        async def wait() -> None:
            executor = self.executor()
            await executor.start()
            await executor.stop()

        self.spawn()
        asyncio.run(wait())

    def close(self) -> None:
        """End it."""
        assert self.process is not None
        self.process.terminate()
        self.process.wait(30)


def _served(*, unix: bool) -> Iterator[ProjectServer]:
    # the path of a socket must be short
    with (
        tempfile.TemporaryDirectory(prefix="acp-") as folder,
        closing(ProjectServer(Path(folder), unix=unix)) as server,
    ):
        server.ready()
        yield server


@pytest.fixture(scope="session")
def tcp_server() -> Iterator[ProjectServer]:
    yield from _served(unix=False)


@pytest.fixture(scope="session")
def unix_server() -> Iterator[ProjectServer]:
    yield from _served(unix=True)


@pytest.fixture(scope="session")
def kernel_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KernelServerProcess]:
    """A server that has kernels and nothing else."""
    server = KernelServerProcess(tmp_path_factory.mktemp("kernels") / "s", environ=PLANTED)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """A project of this machine."""
    root = tmp_path / "project"
    root.mkdir()
    for name, value in PLANTED.items():
        monkeypatch.setenv(name, value)
    return Place(root, lambda **options: LocalExecutor(root, **options))


@pytest.fixture(params=["local", "tcp", "unix", "kernel"])
def place(request: pytest.FixtureRequest) -> Place:
    """Each place in turn, its project empty."""
    if request.param == "local":
        found: Place = request.getfixturevalue("local")
        return found
    return Place.behind(request.getfixturevalue(f"{request.param}_server"))
