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
import hashlib
import json
import logging
import os
import secrets
import shutil
import socket
import struct
from collections.abc import Awaitable, Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tornado.websocket import WebSocketClientConnection

from jupyter_acp import __version__
from jupyter_acp.exceptions import ExecutorError
from jupyter_acp.kernel_exec.paths import Root
from jupyter_acp.kernel_exec.podman import LABEL, Podman
from jupyter_acp.kernel_exec.server import ServerExecutor
from jupyter_acp.kernel_exec.server_link import Unreachable, hang_up
from jupyter_acp.projects.base import Project

log = logging.getLogger(__name__)

PLACE = "/project"
HOME = "/home/agent"
RUN = "/run/acp"
EGRESS_FOLDER = "/run/acp-egress"
EGRESS_PORT = 4141
_CONFIG = "/etc/acp"
_DIGEST = f"{LABEL}.digest"
_PROJECT = f"{LABEL}.of"
WHOLE = "project"
"""The key of the container in which everything of the project can be written."""

_FOLDER = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC

GRACE = 30.0  # seconds that a container of one session is kept unused
_START = 30.0
_LOOK = 2.0
_SOCKET_PATH = 100  # bytes; the system's limit is 107 (104 on macOS)


@dataclass(frozen=True, slots=True)
class Key:
    """Which container of a project.

    Attributes
    ----------
    name
        Unique in the project: letters, digits and `-`.
    writable
        The folder that can be written, relative to the project's root, "" for all of it; None: nothing.
    """

    name: str
    writable: str | None


class WayOut(Protocol):
    """The way from a project's containers to model providers."""

    folder: Path
    """Which they are given, with `egress.sock` in it."""

    async def start(self) -> None:
        """Listen there. Idempotent."""


class Container:
    """One that runs. `executor` is for its files and commands.

    Attributes
    ----------
    gone
        Whether it was found to have ended, or to be of no use; those of `on_gone` are called when that is found.
    """

    def __init__(self, id: str, name: str, key: str, folder: Path) -> None:
        self.id = id
        self.name = name
        self.key = key
        self.folder = folder
        self.gone = False
        self.on_gone: set[Callable[[], None]] = set()
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

        Its users can put another socket, or a link to one, in the place of their server's.
        """
        pid, _uid, _gid = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        try:
            cgroup = Path(f"/proc/{pid}/cgroup").read_text()
        except OSError as exc:
            raise Unreachable(f"what listens in place of {self.name} has ended") from exc
        if self.id not in cgroup:
            raise ExecutorError(
                f"what listens in place of {self.name} is not in that container; nothing was sent to it"
            )

    def lost(self) -> None:
        """It has ended, or another is made in its place."""
        self.gone = True
        for tell in list(self.on_gone):
            tell()

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


class Containers:
    """The containers of one project.

    Parameters
    ----------
    project
        As it is declared; `changed` tells of another declaration.
    instance
        Names the coordinator: it sees only containers of its own.
    folder
        Where sockets, tokens and configurations of its containers are made, each in a folder of its own; a short path.
    home
        The home of its agents, outside the project; kept.
    way_out
        The way to model providers, for projects that have one.
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
        self._project = project
        self._podman = podman
        self._instance = instance
        self._folder = folder
        self._home = home
        self._way_out = way_out
        self._grace = grace
        self._slots: dict[str, _Slot] = {}
        self._closing = False

    def changed(self, project: Project) -> None:
        """The next container is made as this says."""
        self._project = project

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

    async def reap(self) -> None:
        """Remove the containers that nobody uses, earlier coordinators' too. The project's own has its time."""
        for name in await self._names():
            slot = self._slots.setdefault(name, _Slot())
            async with slot.one:
                if slot.users == 0 and (name != WHOLE or not await self._kept(slot)):
                    await self._remove(name)

    async def close(self) -> None:
        """Let go: containers that are used go on, the others are removed."""
        self._closing = True
        for name, slot in list(self._slots.items()):
            if slot.leaving is not None:
                slot.leaving.cancel()
            if slot.users == 0:
                with suppress(ExecutorError):
                    await self._remove(name)
            else:
                await self._let_go(slot)

    def folders(self) -> dict[str, Path]:
        """Of each container that there may be, by key: the folder that it shares with us."""
        if not self._folder.is_dir():
            return {}
        return {place.name: place / "run" for place in self._folder.iterdir() if (place / "etc").is_dir()}

    async def logs(self) -> str:
        """The end of what the project's own container has printed. ExecutorError where there is none."""
        return await self._podman.logs(self._container_name(WHOLE))

    # --- counting ----------------------------------------------------------------------------------------------------

    async def _using(self, slot: _Slot, get: Callable[[], Awaitable[Container | None]]) -> Use:
        slot.users += 1
        try:
            async with slot.one:
                if slot.leaving is not None:
                    slot.leaving.cancel()
                    slot.leaving = None
                if self._closing:
                    raise ExecutorError("the server ends")
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
        spec = self._project.container
        await asyncio.sleep(spec.idle_timeout if name == WHOLE and spec is not None else self._grace)
        async with slot.one:
            slot.leaving = None
            if slot.users == 0:
                try:
                    await self._remove(name)
                except ExecutorError as exc:
                    log.warning("project=%s container %s was not removed: %s", self._project.id, name, exc)

    # --- the container -----------------------------------------------------------------------------------------------

    async def _ready(self, slot: _Slot, key: Key) -> Container:
        # one that others use stays as it is
        digest = None if slot.users > 1 else await self._digest()
        if slot.container is not None and await self._is_made_of(slot.container, digest) and await self._answers(slot):
            return slot.container
        if (found := await self._adopt(slot, key.name, digest)) is not None:
            return found
        return await self._make(slot, key)

    async def _is_made_of(self, container: Container, digest: str | None) -> bool:
        if digest is None:
            return True
        found = await self._podman.inspect(container.id)
        return found is not None and found.labels.get(_DIGEST) == digest

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
        before = slot.container
        await self._let_go(slot)
        container = await self._adopted(slot, key, digest)
        if before is not None:
            if container is not None and container.id == before.id:
                container.on_gone = before.on_gone
            else:
                before.lost()
        return container

    async def _adopted(self, slot: _Slot, key: str, digest: str | None) -> Container | None:
        found = await self._podman.inspect(self._container_name(key))
        if found is None or not found.running or digest not in (None, found.labels.get(_DIGEST)):
            return None
        await self._open_way_out()
        container = Container(found.id, found.name, key, self._folder / key)
        try:
            await container.executor.link.wait(5.0)
            await self._hold(slot, container)
        except ExecutorError as exc:
            log.warning("project=%s container %s runs and does not answer: %s", self._project.id, key, exc)
            await container.close()
            return None
        return container

    async def _make(self, slot: _Slot, key: Key) -> Container:
        spec, name, folder = self._project.container, self._container_name(key.name), self._folder / key.name
        assert spec is not None
        await self._podman.remove(name)
        await self._open_way_out()
        expected = await asyncio.to_thread(self._prepare, folder, key)
        options = await self._options(key)
        container: Container | None = None
        try:
            id, pid = await self._podman.create(*options, image=spec.image, command=("jupyter-server",))
            container = Container(id, name, key.name, folder)
            # folders are mounted by path, which the project's users can change meanwhile: seen before anything runs
            for inside, identity in expected.items():
                if await asyncio.to_thread(_mounted, pid, inside) != identity:
                    raise ExecutorError(f"{inside} was replaced while its container was made")
            await self._podman.start(id)
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
        log.info("project=%s container %s runs (%s)", self._project.id, key.name, id[:12])
        return container

    async def _open_way_out(self) -> None:
        if self._way_out is not None and self._has_way_out:
            await self._way_out.start()

    async def _remove(self, key: str) -> None:
        slot = self._slots.get(key)
        if slot is not None:
            await self._let_go(slot)
        await self._podman.remove(self._container_name(key))
        await asyncio.to_thread(shutil.rmtree, self._folder / key, ignore_errors=True)

    async def _kept(self, slot: _Slot) -> bool:
        """Keep the project's own container for its time, if it runs as it is to be."""
        if await self._adopt(slot, WHOLE, await self._digest()) is None:
            return False
        slot.users += 1
        self._released(slot)
        return True

    async def _hold(self, slot: _Slot, container: Container) -> None:
        """Take a container into its slot; it is out of it again when it is gone."""
        line = await container.executor.link.connect("/commands")
        slot.container = container
        slot.life = asyncio.create_task(self._watch(slot, container, line), name=f"acp-container-{container.key}")

    async def _watch(self, slot: _Slot, container: Container, line: WebSocketClientConnection) -> None:
        try:
            while await line.read_message() is not None:
                pass
            log.warning("project=%s container %s is gone", self._project.id, container.key)
            if slot.container is container:
                slot.container = slot.life = None
            container.lost()
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

    # --- what it is made of ------------------------------------------------------------------------------------------

    def _container_name(self, key: str) -> str:
        return f"acp-{self._instance}-{self._project.id}-{key}"

    async def _names(self) -> list[str]:
        """The keys of all containers of this project that there are."""
        # not by their names alone: those of a project `a-b` begin like those of `a`
        names = await self._podman.named(f"{LABEL}={self._instance}", f"{_PROJECT}={self._project.id}")
        return [name.removeprefix(self._container_name("")) for name in names]

    async def _digest(self) -> str:
        """What a container is made of, in short: one that differs is of another image or declaration."""
        spec = self._project.container
        assert spec is not None
        made_of = [await self._podman.image(spec.image), str(self._project.root), __version__, *self._limits()]
        return hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:32]

    def _limits(self) -> list[str]:
        spec = self._project.container
        assert spec is not None
        words = ["--memory", spec.memory, "--cpus", str(spec.cpus), "--pids-limit", str(spec.pids)]
        if spec.network != "full":  # that is podman's own
            words += ["--network", "none"]
        for inside, outside in sorted(spec.mounts.items()):
            words += ["--volume", f"{outside}:{inside}:ro"]
        return words

    async def _options(self, key: Key) -> list[str]:
        user, folder = self._user(), self._folder / key.name
        root = self._project.root
        words = ["--name", self._container_name(key.name), "--init", "--user", user]
        for label, value in (
            (LABEL, self._instance),
            (_PROJECT, self._project.id),
            (f"{LABEL}.key", key.name),
            (_DIGEST, await self._digest()),
        ):
            words += ["--label", f"{label}={value}"]
        words += ["--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--hostname", self._project.id[:60]]
        if os.geteuid() != 0:
            words += ["--userns", "keep-id"]
        if key.writable != "":
            words.append("--read-only")
        words += self._limits()
        words += ["--volume", f"{root}:{PLACE}:{'rw' if key.writable == '' else 'ro'}"]
        if key.writable:
            words += ["--volume", f"{root / key.writable}:{PLACE}/{key.writable}:rw"]
        words += ["--volume", f"{folder / 'run'}:{RUN}", "--volume", f"{folder / 'etc'}:{_CONFIG}:ro"]
        words += ["--volume", f"{self._home}:{HOME}"]
        if self._has_way_out and self._way_out is not None:
            words += ["--volume", f"{self._way_out.folder}:{EGRESS_FOLDER}:ro"]
        # the file's name, not the token
        for name, value in (
            ("HOME", HOME),
            ("JUPYTER_TOKEN_FILE", f"{_CONFIG}/token"),
            ("JUPYTER_CONFIG_DIR", _CONFIG),
            ("JUPYTER_RUNTIME_DIR", f"{RUN}/jupyter"),
            ("JUPYTER_DATA_DIR", f"{HOME}/.local/share/jupyter"),
            # modules in its users' home are not the server's
            ("PYTHONNOUSERSITE", "1"),
        ):
            words += ["--env", f"{name}={value}"]
        # Jupyter reads a configuration in the folder that it is started in
        return [*words, "--workdir", _CONFIG]

    @property
    def _has_way_out(self) -> bool:
        spec = self._project.container
        return self._way_out is not None and spec is not None and spec.network == "providers"

    def _user(self) -> str:
        """Who it runs as: the owner of the project's folder, who must not be root."""
        owner = self._project.root.stat()
        if owner.st_uid == 0:
            raise ExecutorError(
                f"{self._project.root} belongs to root; a project's container runs as the owner of its folder: "
                "give it to an account of its own (chown)"
            )
        if os.geteuid() not in (0, owner.st_uid):
            raise ExecutorError(f"{self._project.root} belongs to another account (uid {owner.st_uid})")
        return f"{owner.st_uid}:{owner.st_gid}"

    def _prepare(self, folder: Path, key: Key) -> dict[str, tuple[int, int]]:
        """Make the folders of a container; what must be found mounted in it: device and inode, by place. Blocking."""
        if len(os.fsencode(folder / "run" / "server.sock")) > _SOCKET_PATH:
            raise ExecutorError(f"{folder}: too long a path for a unix socket; choose another runtime_dir")
        uid, gid = (int(word) for word in self._user().split(":"))
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
        for place in (folder, folder / "run", folder / "etc"):
            place.mkdir(mode=0o700)
        self._home.mkdir(mode=0o700, parents=True, exist_ok=True)
        token = os.open(folder / "etc" / "token", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400)
        with os.fdopen(token, "w") as file:
            file.write(secrets.token_hex(32))  # without a newline: Jupyter would take that for a part of it
        (folder / "etc" / "jupyter_server_config.json").write_text(json.dumps(self._config()))
        if os.geteuid() == 0:
            for place in (folder / "run", folder / "etc", *(folder / "etc").iterdir(), self._home):
                os.chown(place, uid, gid, follow_symlinks=False)
        with closing(Root(self._project.root)) as root:
            expected = {PLACE: _identity(root, None)}
            if key.writable:
                expected[f"{PLACE}/{key.writable}"] = _identity(root, key.writable)
        return expected

    def _config(self) -> dict[str, object]:
        ours: dict[str, object] = {"serve_project": True, "runtime_dir": f"{RUN}/runners"}
        if self._has_way_out:
            ours |= {"egress_socket": f"{EGRESS_FOLDER}/egress.sock", "egress_port": EGRESS_PORT}
        return {
            "ServerApp": {
                "sock": f"{RUN}/server.sock",
                "sock_mode": "0600",
                "root_dir": PLACE,
                "open_browser": False,
                "quit_button": False,
                "terminals_enabled": False,
                "jpserver_extensions": {"jupyter_acp": True},
            },
            "AcpExtension": ours,
        }


class _NotThere(Exception):
    """A container that was looked for does not run."""


async def remove_left(podman: Podman, instance: str, is_gone: Callable[[str], bool]) -> None:
    """Remove what earlier coordinators of this instance left running of projects that are gone. ExecutorError."""
    for name in await podman.named(f"{LABEL}={instance}"):
        found = await podman.inspect(name)
        if found is not None and is_gone(found.labels.get(_PROJECT, "")):
            log.info("container %s is removed: its project is gone", name)
            await podman.remove(found.id)


def _mounted(pid: int, inside: str) -> tuple[int, int]:
    """Device and inode of a folder in the container of a process, no link followed. Blocking."""
    opened = [os.open(f"/proc/{pid}/root", _FOLDER)]
    try:
        for name in inside.strip("/").split("/"):
            opened.append(os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=opened[-1]))
        found = os.fstat(opened[-1])
    except OSError as exc:
        raise ExecutorError(f"{inside} is not in its container: {exc.strerror}") from exc
    finally:
        for descriptor in opened:
            os.close(descriptor)
    return found.st_dev, found.st_ino


def _identity(root: Root, path: str | None) -> tuple[int, int]:
    """Device and inode of a folder of the project, found without leaving it."""
    folder = root.open_directory(path)
    try:
        found = os.fstat(folder)
    finally:
        os.close(folder)
    return found.st_dev, found.st_ino
