"""The containers of one project, counted by who uses them.

A container is made when it is first used, by who asks first; a while after the last use it is removed, and a new use in
between keeps it. Each runs a project's server (`handlers.project_side`), which is reached by a unix socket in a folder
of ours. The project's users can do what they like in there: the peer of each connection is looked at before the token
is sent, and nothing that is found in such a folder is read or followed.

Theory of operation. Nothing is believed of a container because it was so before. While it is used a connection is kept
open to its server (the life line), whose end says that it is gone; whoever begins to use it looks first.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import socket
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import psutil
from tornado.websocket import WebSocketClientConnection

from jupyter_acp import __version__
from jupyter_acp.exceptions import ExecutorError
from jupyter_acp.kernel_exec.container_recipe import DIGEST, PROJECT, SERVER, WHOLE, Key, Recipe, WayOut, mounted
from jupyter_acp.kernel_exec.podman import LABEL, Podman
from jupyter_acp.kernel_exec.server import ServerExecutor
from jupyter_acp.kernel_exec.server_link import Unreachable, hang_up
from jupyter_acp.projects.base import Project

log = logging.getLogger(__name__)

GRACE = 30.0  # seconds that a container of one session is kept unused
_START = 30.0
_LOOK = 2.0


class Container:
    """One that runs. `executor` is for its files and commands.

    Parameters
    ----------
    id, name, key
        Podman's, and which of the project's it is.
    folder
        What it shares with us.
    pid
        Its first process. ExecutorError where that has ended.
    """

    def __init__(self, id: str, name: str, key: str, folder: Path, pid: int) -> None:
        try:
            self._first = psutil.Process(pid)
        except psutil.NoSuchProcess as exc:
            raise Unreachable(f"{name} has ended") from exc
        self.id = id
        self.name = name
        self.key = key
        self.folder = folder
        self.executor = ServerExecutor(
            "http://localhost/",
            folder / "etc" / "token",
            socket=str(folder / "run" / "server.sock"),
            start_timeout=_START,
            peer=self.check,
            version=__version__,
        )

    def check(self, sock: socket.socket) -> None:
        """Raise ExecutorError where a connected unix socket does not lead into this container.

        Its users can put another socket, or a link to one, in the place of their server's. Whose process it is is told
        by its PID namespace: containers of an ordinary user have no cgroup of their own where cgroups are v1.
        """
        pid, _uid, _gid = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        try:
            is_inside = os.path.samestat(_namespace(self._first.pid), _namespace(pid))
        except PermissionError:
            is_inside = False  # of what runs in a container of ours we may see that
        except OSError as exc:
            raise Unreachable(f"what listens in place of {self.name} has ended") from exc
        # the number of a process, and of a namespace, that has ended is another's sooner or later
        if not self._first.is_running():
            raise Unreachable(f"{self.name} has ended")
        if not is_inside:
            raise ExecutorError(
                f"what listens in place of {self.name} is not in that container; nothing was sent to it"
            )

    async def close(self) -> None:
        """Let go of it; it goes on."""
        await self.executor.stop()


class Use:
    """Somebody's use of a container, until `release`."""

    def __init__(self, container: Container, released: Callable[[], None]) -> None:
        self.container = container
        self._released: Callable[[], None] | None = released

    def release(self) -> None:
        """Idempotent."""
        released, self._released = self._released, None
        if released is not None:
            released()


class _Slot:
    """One container of the project, there or not."""

    def __init__(self) -> None:
        self.users = 0
        self.container: Container | None = None
        self.one = asyncio.Lock()
        self.leaving: asyncio.Task[None] | None = None
        self.life: asyncio.Task[None] | None = None
        #: whom to tell that a container is gone, by its id
        self.waiting: dict[str, set[Callable[[], None]]] = {}

    def tell(self, but: Container | None = None) -> None:
        """That every container which there was in here is gone, but this one."""
        for id in [id for id in self.waiting if but is None or id != but.id]:
            for tell in self.waiting.pop(id):
                tell()


class Containers:
    """The containers of one project.

    Parameters
    ----------
    project, podman, instance, folder, home, way_out
        See `Recipe`.
    grace
        Seconds that a container of one session is kept unused.
    """

    def __init__(
        self,
        project: Project,
        *,
        podman: Podman,
        instance: str,
        folder: Path,
        home: Path,
        way_out: WayOut | None = None,
        grace: float = GRACE,
    ) -> None:
        self._recipe = Recipe(project, podman=podman, instance=instance, folder=folder, home=home, way_out=way_out)
        self._podman = podman
        self._instance = instance
        self._way_out = way_out
        self._grace = grace
        #: what podman could not do of what the project declares, as of the last container that was made
        self.warning: str | None = None
        self._slots: dict[str, _Slot] = {}
        self._closing = False
        self._passing = asyncio.Lock()

    def changed(self, project: Project) -> None:
        """The next container is made as this says."""
        self._recipe.project = project

    def when_gone(self, container: Container, tell: Callable[[], None]) -> None:
        """Call `tell` once this container is gone, also where another is made in its place; at once if it is."""
        slot = self._slots[container.key]
        if slot.container is None or slot.container.id != container.id:
            tell()
        else:
            slot.waiting.setdefault(container.id, set()).add(tell)

    def forget(self, container: Container, tell: Callable[[], None]) -> None:
        """Do not call it any more. Idempotent."""
        self._slots[container.key].waiting.get(container.id, set()).discard(tell)

    def is_running(self, key: str = WHOLE) -> bool:
        """Whether a container is known to run."""
        slot = self._slots.get(key)
        return slot is not None and slot.container is not None

    async def use(self, key: Key) -> Use:
        """Use a container; it is made, or made anew, where it must be. ExecutorError."""
        slot = self._slots.setdefault(key.name, _Slot())
        return await self._using(slot, lambda: self._ready(slot, key))

    async def find(self, name: str) -> Use | None:
        """Use the container of this key where it runs; None where it does not."""
        slot = self._slots.setdefault(name, _Slot())

        async def look() -> Container | None:
            return slot.container if await self._answers(slot) else await self._adopt(slot, name, None)

        try:
            return await self._using(slot, look)
        except _NotThere:
            return None

    async def stop(self) -> None:
        """Remove every container of this project, used or not, and what they left."""
        errors = []
        for name in await self._names():
            async with self._slots.setdefault(name, _Slot()).one:
                try:
                    await self._remove(name)
                except ExecutorError as exc:
                    errors.append(exc)
        if errors:
            raise errors[0]
        await self._close_way_out()

    async def reap(self) -> None:
        """Remove the containers that nobody uses, earlier coordinators' too. The project's own has its time."""
        for name in await self._names():
            slot = self._slots.setdefault(name, _Slot())
            async with slot.one:
                if slot.users == 0 and (name != WHOLE or not await self._kept(slot)):
                    await self._remove(name)
        await self._close_way_out()

    async def close(self) -> None:
        """Let go: containers that are used go on, the others are removed."""
        self._closing = True
        goes_on = False
        for name, slot in list(self._slots.items()):
            if slot.leaving is not None:
                slot.leaving.cancel()
                await asyncio.gather(slot.leaving, return_exceptions=True)
            if slot.users == 0:
                with suppress(ExecutorError):
                    await self._remove(name)
            else:
                goes_on = goes_on or slot.container is not None
                await self._let_go(slot)
        if self._way_out is not None:
            await (self._way_out.let_go() if goes_on else self._way_out.stop())

    def folders(self) -> dict[str, Path]:
        """See `Recipe.folders`."""
        return self._recipe.folders()

    async def logs(self) -> str:
        """The end of what the project's own container has printed. ExecutorError where there is none."""
        return await self._podman.logs(self._recipe.name(WHOLE))

    # --- counting ----------------------------------------------------------------------------------------------------

    async def _using(self, slot: _Slot, get: Callable[[], Awaitable[Container | None]]) -> Use:
        slot.users += 1
        try:
            async with slot.one:
                if slot.leaving is not None:
                    slot.leaving.cancel()
                    slot.leaving = None
                self._check_open()
                if (container := await get()) is None:
                    raise _NotThere
        except BaseException:
            self._released(slot)
            raise
        return Use(container, lambda: self._released(slot))

    def _released(self, slot: _Slot) -> None:
        slot.users -= 1
        if slot.users == 0 and not self._closing and slot.leaving is None:
            slot.leaving = asyncio.create_task(self._leave(slot), name="acp-container-leave")

    async def _leave(self, slot: _Slot) -> None:
        """Remove a container once nobody has used it for its time."""
        name = next(name for name, found in self._slots.items() if found is slot)
        spec = self._recipe.project.container
        await asyncio.sleep(spec.idle_timeout if name == WHOLE and spec is not None else self._grace)
        async with slot.one:
            slot.leaving = None
            if slot.users == 0:
                try:
                    await self._remove(name)
                except ExecutorError as exc:
                    log.warning("project=%s container %s was not removed: %s", self._recipe.project.id, name, exc)
        await self._close_way_out()

    # --- the container -----------------------------------------------------------------------------------------------

    async def _ready(self, slot: _Slot, key: Key) -> Container:
        # one that others use stays as it is
        digest = None if slot.users > 1 else await self._recipe.digest()
        if slot.container is not None and await self._is_made_of(slot.container, digest) and await self._answers(slot):
            return slot.container
        if (found := await self._adopt(slot, key.name, digest)) is not None:
            return found
        return await self._make(slot, key)

    async def _is_made_of(self, container: Container, digest: str | None) -> bool:
        if digest is None:
            return True
        found = await self._podman.inspect(container.id)
        return found is not None and found.labels.get(DIGEST) == digest

    async def _answers(self, slot: _Slot) -> bool:
        if slot.container is None:
            return False
        try:
            await slot.container.executor.link.greet(_LOOK)
        except ExecutorError:
            return False
        return True

    async def _adopt(self, slot: _Slot, key: str, digest: str | None) -> Container | None:
        """The container that is there, maybe an earlier coordinator's; None where there is none that will do."""
        await self._let_go(slot)
        found = await self._podman.inspect(self._recipe.name(key))
        if found is None or not found.running or digest not in (None, found.labels.get(DIGEST)):
            slot.tell()  # nobody watches any more the one that there was
            return None
        await self._open_way_out()
        try:
            container = Container(found.id, found.name, key, self._recipe.folder(key), found.pid)
        except Unreachable:
            slot.tell()
            return None
        try:
            await container.executor.link.wait(5.0)
            await self._hold(slot, container)
        except ExecutorError as exc:
            log.warning("project=%s container %s runs and does not answer: %s", self._recipe.project.id, key, exc)
            await container.close()
            slot.tell()
            return None
        return container

    async def _make(self, slot: _Slot, key: Key) -> Container:
        spec, name, folder = self._recipe.project.container, self._recipe.name(key.name), self._recipe.folder(key.name)
        assert spec is not None
        self._check_open()
        await self._podman.remove(name)
        await self._open_way_out()
        expected = await asyncio.to_thread(self._recipe.prepare, key)
        options = await self._recipe.options(key)
        container: Container | None = None
        try:
            made = await self._podman.create(*options, image=spec.image, command=SERVER)
            container = Container(made.id, name, key.name, folder, made.pid)
            # folders are mounted by path, which the project's users can change meanwhile: seen before anything runs
            for inside, identity in expected.items():
                if await asyncio.to_thread(mounted, made.pid, inside) != identity:
                    raise ExecutorError(f"{inside} was replaced while its container was made")
            await self._podman.start(made.id)
            await container.executor.link.wait(_START)
            await self._hold(slot, container)
        except BaseException as exc:
            if container is not None:
                await container.close()
            words = ""
            with suppress(ExecutorError):
                words = (await self._podman.logs(name, 20)).strip()[-1000:]
            with suppress(ExecutorError):
                await self._podman.remove(name)
            if isinstance(exc, Unreachable):
                raise ExecutorError(f"the project's server did not start: {words or exc}") from exc
            raise
        log.info("project=%s container %s runs (%s)", self._recipe.project.id, key.name, made.id[:12])
        self.warning = made.warning or None
        if self.warning is not None:
            log.warning("project=%s container %s: %s", self._recipe.project.id, key.name, self.warning)
        return container

    async def _open_way_out(self) -> None:
        if self._way_out is not None and self._recipe.has_way_out:
            async with self._passing:
                await self._way_out.start()

    async def _close_way_out(self) -> None:
        """Where there is no container that it leads out of."""
        if self._way_out is not None:
            async with self._passing:  # or one that is opened meanwhile would be closed
                if not self._leads_out_of_one():
                    await self._way_out.stop()

    def _leads_out_of_one(self) -> bool:
        """Whether there is a container, or one is made."""
        return any(slot.container or slot.one.locked() for slot in self._slots.values())

    async def _remove(self, key: str) -> None:
        slot = self._slots.get(key)
        if slot is not None:
            await self._let_go(slot)
            slot.tell()
        await self._podman.remove(self._recipe.name(key))
        await asyncio.to_thread(shutil.rmtree, self._recipe.folder(key), ignore_errors=True)

    async def _kept(self, slot: _Slot) -> bool:
        """Keep the project's own container for its time, if it runs as it is to be."""
        if await self._adopt(slot, WHOLE, await self._recipe.digest()) is None:
            return False
        slot.users += 1
        self._released(slot)
        return True

    async def _hold(self, slot: _Slot, container: Container) -> None:
        """Take a container into its slot; it is out of it again when it is gone."""
        line = await container.executor.link.connect("/commands")
        if self._closing:  # meanwhile: nobody would let go of it any more
            hang_up(line)
        self._check_open()
        slot.container = container
        slot.tell(but=container)
        slot.life = asyncio.create_task(self._watch(slot, container, line), name=f"acp-container-{container.key}")

    async def _watch(self, slot: _Slot, container: Container, line: WebSocketClientConnection) -> None:
        try:
            while await line.read_message() is not None:
                pass
            log.warning("project=%s container %s is gone", self._recipe.project.id, container.key)
            if slot.container is container:
                slot.container = slot.life = None
            slot.tell(but=slot.container)
            await container.close()
        finally:
            hang_up(line)

    async def _let_go(self, slot: _Slot) -> None:
        container, life = slot.container, slot.life
        slot.container = slot.life = None
        if life is not None:
            life.cancel()
            await asyncio.gather(life, return_exceptions=True)
        if container is not None:
            await container.close()

    def _check_open(self) -> None:
        if self._closing:
            raise ExecutorError("the server ends")

    async def _names(self) -> list[str]:
        """The keys of all containers of this project that there are."""
        # not by their names alone: those of a project `a-b` begin like those of `a`
        names = await self._podman.named(f"{LABEL}={self._instance}", f"{PROJECT}={self._recipe.project.id}")
        return [name.removeprefix(self._recipe.name("")) for name in names]


def _namespace(pid: int) -> os.stat_result:
    return os.stat(f"/proc/{pid}/ns/pid")


class _NotThere(Exception):
    """A container that was looked for does not run."""


async def remove_left(podman: Podman, instance: str, is_gone: Callable[[str], bool]) -> None:
    """Remove what earlier coordinators of this instance left running of projects that are gone. ExecutorError."""
    for name in await podman.named(f"{LABEL}={instance}"):
        found = await podman.inspect(name)
        if found is not None and is_gone(found.labels.get(PROJECT, "")):
            log.info("container %s is removed: its project is gone", name)
            await podman.remove(found.id)
