"""This machine: agents beside the server, in a sandbox where their access is restricted."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..access import FULL_ACCESS, WORKSPACE_WRITE, kinds
from ..agentspec import AgentSpec, environment, keys, own_folders, search_path
from ..events import JsonObject
from ..exceptions import ExecutorError
from ..kernel_exec.base import Executor
from ..kernel_exec.local import LocalExecutor
from ..kernel_exec.sandbox import Sandbox
from ..kernel_exec.sandbox import missing as sandbox_missing
from ..projects.base import Project
from ..records import SessionRow
from ..runner_link import LaunchSpec, RunnerLink, launch
from .base import Launch, Looking, State


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What the configuration says of agents on this machine.

    `environment` is the server's, of which an agent gets what its entry names; `hidden` are folders of this server that
    nobody with restricted access may see.
    """

    runtime_dir: Path
    environment: Mapping[str, str]
    hidden: tuple[Path, ...] = ()
    sandbox_network: bool = True
    runner_idle_timeout: float = 86400.0


class LocalSite:
    """See `Site`."""

    def __init__(self, project: Project, machine: Machine) -> None:
        self._project = project
        self._machine = machine
        self._runners = LocalRunners(machine.runtime_dir)
        self.access: list[JsonObject] = kinds("the server has not looked yet")
        self.state: State = "running"
        self.error: str | None = None
        self.warning: str | None = None

    @property
    def looking(self) -> Looking:
        """See `Site.looking`. Who can put links there can read where they lead."""
        return Looking()

    async def open(self) -> None:
        """See `Site.open`."""
        self.access = kinds(await sandbox_missing())

    async def recovered(self) -> None:
        """See `Site.recovered`."""

    def launcher(self, spec: AgentSpec, row: Callable[[], SessionRow]) -> LocalLauncher:
        """See `Site.launcher`."""

        def prepare() -> Launch:
            now, env = row(), {**environment(spec, self._machine.environment), **keys(spec, self._project.root)}
            sandbox = self._sandbox(now, own_folders(spec, env))
            argv = spec.argv()
            return Launch(
                argv=tuple(argv if sandbox is None else sandbox.wrap(argv, cwd=now.cwd, env=env)),
                env=env,
                cwd=now.cwd,
                folder=now.cwd,
                delegated=spec.delegates,
                idle_timeout=self._machine.runner_idle_timeout,
                access=now.access,
            )

        return LocalLauncher(self._runners, prepare)

    def executor(self, row: Callable[[], SessionRow]) -> Executor:
        """See `Site.executor`."""
        return LocalExecutor(self._project.root, sandbox=lambda: self._sandbox(row()))

    async def left(self) -> list[str]:
        """See `Site.left`."""
        return await self._runners.left("")

    async def start(self) -> None:
        """See `Site.start`."""

    async def stop(self) -> None:
        """See `Site.stop`."""
        raise ExecutorError("this machine's own project runs as long as the server does")

    async def log(self) -> str:
        """See `Site.log`. It is the server's own."""
        return ""

    async def programs(self, names: Sequence[str]) -> set[str]:
        """See `Site.programs`."""
        path = search_path(self._machine.environment)
        return {name for name in names if shutil.which(name, path=path)}

    async def changed(self, project: Project) -> None:
        """See `Site.changed`."""
        self._project = project

    def usage(self) -> None:
        """See `Site.usage`."""

    async def close(self) -> None:
        """See `Site.close`."""

    def _sandbox(self, row: SessionRow, kept: Sequence[Path] = ()) -> Sandbox | None:
        """What confines a session; None where it has full access."""
        if row.access == FULL_ACCESS:
            return None
        return Sandbox(
            project=self._project.root,
            workspace=Path(row.cwd) if row.access == WORKSPACE_WRITE else None,
            kept=tuple(kept),
            hidden=self._machine.hidden,
            network=self._machine.sandbox_network,
        )


class LocalRunners:
    """Runners of this machine, each in a folder of its own in `directory`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    async def launch(self, name: str, spec: LaunchSpec) -> str:
        """See `Launcher.launch`."""
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        await launch(self._directory / name, spec)
        return name

    async def attach(self, runner: str, *, after: int | None = 0) -> RunnerLink:
        """See `Launcher.attach`."""
        return await RunnerLink.attach(self._directory / runner, after=after)

    async def left(self, prefix: str) -> list[str]:
        """See `Launcher.left`."""
        return [folder.name for folder in self._directory.glob(prefix + "*")]


class LocalLauncher:
    """Starts what `prepare` says, which may block. See `Launcher`."""

    def __init__(self, runners: LocalRunners, prepare: Callable[[], Launch]) -> None:
        self._runners = runners
        self._prepare = prepare

    async def prepare(self) -> Launch:
        """See `Launcher.prepare`."""
        return await asyncio.to_thread(self._prepare)

    async def launch(self, name: str, how: Launch) -> str:
        """See `Launcher.launch`."""
        return await self._runners.launch(name, how.spec)

    async def attach(self, runner: str, *, after: int | None = 0) -> RunnerLink:
        """See `Launcher.attach`."""
        return await self._runners.attach(runner, after=after)

    async def left(self, prefix: str) -> list[str]:
        """See `Launcher.left`."""
        return await self._runners.left(prefix)

    async def kill_leftovers(self, younger_than: float) -> int:
        """See `Launcher.kill_leftovers`. The runner sees all of it."""
        return 0

    def release(self) -> None:
        """See `Launcher.release`."""
