"""Projects in containers: where their agents run by placement, and what carries out what agents have us do.

`project`: agent and runner in the container; the runner's socket is in a folder that both sides see.
`host-delegated`: the agent beside the coordinator, its files and commands in the container by our executor.
`host-remote`: the agent beside the coordinator, with commands and files in the container by its own means (`remote`).

Full access is the project's own container. A session with less has a container to itself, in which the project can be
read, and its workspace written where the access says so.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from ..access import FULL_ACCESS, WORKSPACE_WRITE, kinds
from ..agentspec import AgentSpec, environment, keys, own_folders, provider_environment
from ..egress.link import EgressLink
from ..events import JsonObject, encode
from ..exceptions import AgentError, ExecutorError
from ..kernel_exec.base import Executor
from ..kernel_exec.container_recipe import EGRESS_PORT, WHOLE, Key
from ..kernel_exec.containers import Container, Containers, Use
from ..kernel_exec.sandbox import Sandbox, only
from ..kernel_exec.sandbox import missing as sandbox_missing
from ..projects.base import Project
from ..records import SessionRow
from ..runner_link import RunnerLink, RunnerLost
from . import remote
from .base import Launch, Launcher, Looking, State
from .executor import SessionExecutor
from .local import LocalRunners, Machine

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class ContainerSite:
    """See `Site`.

    Parameters
    ----------
    folder
        Where agents beside the coordinator keep what they remember of this project.
    egress
        The way of agents in the container to model providers.
    """

    def __init__(
        self,
        project: Project,
        machine: Machine,
        containers: Containers,
        *,
        folder: Path,
        egress: EgressLink,
    ) -> None:
        self.project = project
        self.egress = egress
        self.machine = machine
        self.containers = containers
        self.folder = folder
        self.access: list[JsonObject] = kinds(None)
        self.error: str | None = None
        #: whether agents beside the coordinator can be kept from the rest of this machine
        self.confined = False
        self._starting = 0

    @property
    def state(self) -> State:
        """See `Site`."""
        if self.containers.is_running():
            return "running"
        if self._starting:
            return "starting"
        return "stopped" if self.error is None else "failed"

    @property
    def warning(self) -> str | None:
        """See `Site`."""
        return self.containers.warning

    @property
    def looking(self) -> Looking:
        """See `Site.looking`."""
        if not self.confined:
            return Looking(missing="changes of files in containers are compared where bubblewrap is installed")
        return Looking(lambda files, own: lambda argv: only(argv, read=files, write=own))

    async def open(self) -> None:
        """See `Site.open`."""
        self.confined = await sandbox_missing() is None

    async def recovered(self) -> None:
        """See `Site.recovered`."""
        if self.containers.folders():
            with suppress(ExecutorError):  # podman is gone: what it ran is too, or is found when it is back
                await self.containers.reap()
        else:
            await self.egress.stop()

    def launcher(self, spec: AgentSpec, row: Callable[[], SessionRow]) -> Launcher:
        """See `Site.launcher`."""
        if spec.placement == "project":
            return InsideLauncher(self, spec, row)
        return BesideLauncher(self, spec, row)

    def executor(self, row: Callable[[], SessionRow]) -> Executor:
        """See `Site.executor`."""
        return SessionExecutor(
            self.project.id,
            use=lambda: self.use(self.key(row())),
            is_running=lambda: self.containers.is_running(self.key(row()).name),
        )

    async def left(self) -> list[str]:
        """See `Site.left`."""
        beside = await LocalRunners(self.machine.runtime_dir).left("")
        return beside + await asyncio.to_thread(self.runners, "")

    async def start(self) -> None:
        """See `Site.start`."""
        (await self.use(Key(WHOLE, ""))).release()

    async def stop(self) -> None:
        """See `Site.stop`."""
        await self.containers.stop()
        self.error = None

    async def log(self) -> str:
        """See `Site.log`."""
        return await self.containers.logs()

    async def programs(self, names: Sequence[str]) -> set[str] | None:
        """See `Site.programs`."""
        use = await self.containers.find(WHOLE) if self.containers.is_running() else None
        if use is None:
            return None
        try:
            look = ["sh", "-c", 'for name; do command -v -- "$name" >/dev/null && echo "$name"; done', "sh", *names]
            command = await use.container.executor.spawn(look, run="pipe")
            await command.wait()
            found = set(command.output()[0].split("\n"))
            await command.close()
        except ExecutorError:
            return None
        finally:
            use.release()
        return found.intersection(names)

    async def changed(self, project: Project) -> None:
        """See `Site.changed`."""
        self.project = project
        self.egress.set_limit(project.token_limit)
        self.containers.changed(project)

    async def close(self) -> None:
        """See `Site.close`."""
        await self.containers.close()

    def usage(self) -> JsonObject | None:
        """See `Site.usage`."""
        return self.egress.usage() if self._has_way_out else None

    def providers(self, spec: AgentSpec) -> dict[str, str]:
        """The variables by which an agent in the container calls its model."""
        return provider_environment(spec, self.egress.providers, EGRESS_PORT) if self._has_way_out else {}

    @property
    def _has_way_out(self) -> bool:
        return self.project.container is not None and self.project.container.network == "providers"

    async def use(self, key: Key) -> Use:
        """Use a container, which is started where it must be. ExecutorError, also told by `error`."""
        self._starting += 1
        try:
            use = await self.containers.use(key)
        except ExecutorError as exc:
            self.error = str(exc)
            raise
        finally:
            self._starting -= 1
        self.error = None
        return use

    def key(self, row: SessionRow) -> Key:
        """The container of a session."""
        if row.access == FULL_ACCESS:
            return Key(WHOLE, "")
        if row.access != WORKSPACE_WRITE:
            return Key(f"{row.id[:12]}-ro", None)
        writable = self.project.found(row.cwd)
        return Key(f"{row.id[:12]}-rw", "" if writable == "." else writable)

    def runners(self, prefix: str) -> list[str]:
        """The runners in this project's containers whose names begin so. Blocking; follows no link."""
        return [
            f"{key}/{name}"
            for key, run in self.containers.folders().items()
            for name in _listed(run, "runners")
            if name.startswith(prefix)
        ]


class InsideLauncher:
    """Agents in the container, and gone with it. See `Launcher`."""

    def __init__(self, site: ContainerSite, spec: AgentSpec, row: Callable[[], SessionRow]) -> None:
        self._site = site
        self._spec = spec
        self._row = row
        self._use: Use | None = None

    async def prepare(self) -> Launch:
        """See `Launcher.prepare`."""
        row, site, spec = self._row(), self._site, self._spec
        self._take(await site.use(site.key(row)))
        way_out = site.providers(spec)
        # what the proxy adds on the way is not read into the container
        needed = {name: file for name, file in spec.key_files.items() if name not in way_out}
        given = await asyncio.to_thread(keys, replace(spec, key_files=needed), site.project.root)
        return Launch(
            argv=spec.command,
            # nothing of our own environment: an agent's keys stay outside, unless its entry says otherwise
            env={**spec.env, **given, **way_out},
            cwd=row.cwd,
            folder=row.cwd,
            delegated=False,
            idle_timeout=site.machine.runner_idle_timeout,
            access=row.access,
        )

    async def launch(self, name: str, how: Launch) -> str:
        """See `Launcher.launch`."""
        assert self._use is not None
        container = self._use.container
        asked = {
            "name": name,
            "argv": list(how.argv),
            "env": dict(how.env),
            "cwd": how.folder,
            "idle_timeout": how.idle_timeout,
        }
        try:
            await container.executor.link.fetch("POST", "/runners", body=encode(asked).encode())
        except ExecutorError as exc:
            raise AgentError(str(exc)) from exc
        return f"{container.key}/{name}"

    async def attach(self, runner: str, *, after: int | None = 0) -> RunnerLink:
        """See `Launcher.attach`."""
        key, _, name = runner.rpartition("/")
        try:
            container = await self._container(key, stay=after is not None)
            return await RunnerLink.attach(
                container.folder / "run" / "runners" / name,
                after=after,
                peer=container.check,
                clear=lambda: _clear(container, name),
            )
        except ExecutorError as exc:
            raise AgentError(str(exc)) from exc

    async def left(self, prefix: str) -> list[str]:
        """See `Launcher.left`."""
        return await asyncio.to_thread(self._site.runners, prefix)

    async def kill_leftovers(self, younger_than: float) -> int:
        """See `Launcher.kill_leftovers`. The runner sees all of it."""
        return 0

    def release(self) -> None:
        """See `Launcher.release`."""
        self._take(None)

    async def _container(self, key: str, *, stay: bool) -> Container:
        """The one that a runner is in, which is never started for that."""
        if self._use is not None and self._use.container.key == key:
            return self._use.container
        use = await self._site.containers.find(key) if key else None
        if use is None:
            raise RunnerLost("the project's container is gone")
        if stay:
            self._take(use)
        else:
            use.release()  # it stays for longer than it takes to end a runner
        return use.container

    def _take(self, use: Use | None) -> None:
        before, self._use = self._use, use
        if before is not None:
            before.release()


class BesideLauncher:
    """Agents beside the coordinator that have their files and commands in the container. See `Launcher`."""

    def __init__(self, site: ContainerSite, spec: AgentSpec, row: Callable[[], SessionRow]) -> None:
        self._site = site
        self._spec = spec
        self._row = row
        self._runners = LocalRunners(site.machine.runtime_dir)
        self._use: Use | None = None
        self._link: RunnerLink | None = None

    async def prepare(self) -> Launch:
        """See `Launcher.prepare`."""
        row, site = self._row(), self._site
        self._take(await site.use(site.key(row)))
        return await asyncio.to_thread(self._prepare, row)

    def _prepare(self, row: SessionRow) -> Launch:
        site, spec = self._site, self._spec
        home, nowhere = site.folder / "beside", site.folder / "nowhere"
        for folder in (home, nowhere):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # what it remembers is of this project alone, and so is where it looks for it
        base = {k: v for k, v in site.machine.environment.items() if not k.startswith("XDG_")}
        env = {**environment(spec, {**base, "HOME": str(home)}), **keys(spec, site.project.root)}
        argv = spec.argv()
        if spec.placement == "host-remote":
            assert self._use is not None
            env |= remote.environment(
                spec, env, site.machine.environment, home / row.id, self._use.container.id, row.id, row.cwd
            )
        elif site.confined:
            # it is known to run nothing itself, and could not here
            sandbox = Sandbox(
                project=nowhere, workspace=None, kept=(home, *own_folders(spec, env)), hidden=site.machine.hidden
            )
            argv = sandbox.wrap(argv, cwd=str(nowhere), env=env)
        return Launch(
            argv=tuple(argv),
            env=env,
            cwd=row.cwd,
            folder=str(nowhere),
            delegated=spec.delegates,
            idle_timeout=site.machine.runner_idle_timeout,
            access=row.access,
        )

    async def launch(self, name: str, how: Launch) -> str:
        """See `Launcher.launch`."""
        return await self._runners.launch(name, how.spec)

    async def attach(self, runner: str, *, after: int | None = 0) -> RunnerLink:
        """See `Launcher.attach`."""
        link = await self._runners.attach(runner, after=after)
        if self._use is None and after is not None:
            # an earlier coordinator's agent: it goes on, also where its container does not
            try:
                self._take(await self._site.containers.find(self._site.key(self._row()).name))
            except ExecutorError as exc:
                await link.close()
                raise AgentError(str(exc)) from exc
        # who only ends it needs the link as it is, whatever became of the container
        if after is not None and self._spec.placement == "host-remote":
            self._link = link
            if self._use is None:
                self._lose()
            else:
                self._site.containers.when_gone(self._use.container, self._lose)
        return link

    def _lose(self) -> None:
        """The container is gone, and to its remote end the agent never gets another one: a new agent does."""
        if self._link is not None:
            self._link.lose("the project's container is gone")

    async def left(self, prefix: str) -> list[str]:
        """See `Launcher.left`."""
        return await self._runners.left(prefix)

    async def kill_leftovers(self, younger_than: float) -> int:
        """See `Launcher.kill_leftovers`. What a remote end in the container has started."""
        if self._use is None or self._spec.placement != "host-remote":
            return 0
        asked = {"run": self._row().id, "younger_than": younger_than}
        with suppress(ExecutorError, ValueError, KeyError):
            body = await self._use.container.executor.link.fetch("POST", "/leftovers", body=encode(asked).encode())
            return int(json.loads(body)["killed"])
        return 0

    def release(self) -> None:
        """See `Launcher.release`."""
        self._take(None)

    def _take(self, use: Use | None) -> None:
        before, self._use, self._link = self._use, use, None
        if before is not None:
            self._site.containers.forget(before.container, self._lose)
            before.release()


async def _clear(container: Container, name: str) -> str:
    """End and remove what a dead runner has left in its container; its last words."""
    with suppress(ExecutorError, ValueError, KeyError):
        return str(json.loads(await container.executor.link.fetch("DELETE", f"/runners/{name}"))["last_words"])
    return ""


def _listed(folder: Path, name: str) -> list[str]:
    """The names in a folder of a folder that somebody else writes: a link in its place is not followed."""
    try:
        outer = os.open(folder, _FOLDER)
        try:
            inner = os.open(name, _FOLDER, dir_fd=outer)
        finally:
            os.close(outer)
    except OSError:
        return []
    try:
        return os.listdir(inner)
    finally:
        os.close(inner)
