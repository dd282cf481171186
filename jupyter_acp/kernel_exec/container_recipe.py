"""What a project's containers are made of: the options of podman, the folders that they share with us, their server.

Nothing here runs anything; `containers` makes them and counts who uses them. A table is in
docs/explanation/containers.md.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from jupyter_acp import __version__
from jupyter_acp.exceptions import ExecutorError
from jupyter_acp.kernel_exec.paths import Root
from jupyter_acp.kernel_exec.podman import LABEL, Podman
from jupyter_acp.projects.base import Project

PLACE = "/project"
HOME = "/home/agent"
RUN = "/run/acp"
EGRESS_FOLDER = "/run/acp-egress"
EGRESS_PORT = 4141
_CONFIG = "/etc/acp"
DIGEST = f"{LABEL}.digest"
PROJECT = f"{LABEL}.of"
SERVER = (
    "python3",
    "-c",
    # a grammar of addresses that nothing here is checked by: to load it takes longer than all the rest of the start
    "import sys; sys.modules['rfc3987_syntax'] = None; sys.argv = ['jupyter-server']; "
    "from jupyter_server.serverapp import main; sys.exit(main())",
)
WHOLE = "project"
"""The key of the container in which everything of the project can be written."""

_FOLDER = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC
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
        """Listen there. Idempotent. ExecutorError."""

    async def stop(self) -> None:
        """Listen no more, and end what is under way. Idempotent."""

    async def let_go(self) -> None:
        """It goes on, for containers that do, until the next coordinator starts it. Idempotent."""


class Recipe:
    """How the containers of one project are made.

    Parameters
    ----------
    project
        As it is declared; may be set to another declaration.
    podman
        Knows the image.
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
        self, project: Project, *, podman: Podman, instance: str, folder: Path, home: Path, way_out: WayOut | None
    ) -> None:
        self.project = project
        self._podman = podman
        self._instance = instance
        self._folder = folder
        self._home = home
        self._way_out = way_out

    def name(self, key: str) -> str:
        """The name of a container, by its key; of none, what all names begin with."""
        return f"acp-{self._instance}-{self.project.id}-{key}"

    def folder(self, key: str) -> Path:
        """The folder of what a container shares with us."""
        return self._folder / key

    def folders(self) -> dict[str, Path]:
        """Of each container that there may be, by key: where its server and its runners put their sockets."""
        if not self._folder.is_dir():
            return {}
        return {place.name: place / "run" for place in self._folder.iterdir() if (place / "etc").is_dir()}

    async def digest(self) -> str:
        """What a container is made of, in short: one that differs is of another image or declaration."""
        spec = self.project.container
        assert spec is not None
        made_of = [await self._podman.image(spec.image), str(self.project.root), __version__, *self._limits()]
        return hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:32]

    def _limits(self) -> list[str]:
        spec = self.project.container
        assert spec is not None
        words = ["--memory", spec.memory, "--cpus", str(spec.cpus), "--pids-limit", str(spec.pids)]
        if spec.network != "full":  # that is podman's own
            words += ["--network", "none"]
        for inside, outside in sorted(spec.mounts.items()):
            words += ["--volume", f"{outside}:{inside}:ro"]
        return words

    async def options(self, key: Key) -> list[str]:
        """The options of podman that make it."""
        user, folder = self._user(), self.folder(key.name)
        root = self.project.root
        words = ["--name", self.name(key.name), "--init", "--user", user]
        for label, value in (
            (LABEL, self._instance),
            (PROJECT, self.project.id),
            (f"{LABEL}.key", key.name),
            (DIGEST, await self.digest()),
        ):
            words += ["--label", f"{label}={value}"]
        # whatever containers.conf says: by it a process of the container is known
        words += ["--pid", "private"]
        words += ["--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--hostname", self.project.id[:60]]
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
        if self.has_way_out and self._way_out is not None:
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
    def has_way_out(self) -> bool:
        """Whether its containers are given the way to model providers."""
        spec = self.project.container
        return self._way_out is not None and spec is not None and spec.network == "providers"

    def _user(self) -> str:
        """Who it runs as: the owner of the project's folder, who must not be root."""
        owner = self.project.root.stat()
        if owner.st_uid == 0:
            raise ExecutorError(
                f"{self.project.root} belongs to root; a project's container runs as the owner of its folder: "
                "give it to an account of its own (chown)"
            )
        if os.geteuid() not in (0, owner.st_uid):
            raise ExecutorError(f"{self.project.root} belongs to another account (uid {owner.st_uid})")
        return f"{owner.st_uid}:{owner.st_gid}"

    def prepare(self, key: Key) -> dict[str, tuple[int, int]]:
        """Make the folders of a container; what must be found mounted in it: device and inode, by place. Blocking."""
        folder = self.folder(key.name)
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
        with closing(Root(self.project.root)) as root:
            expected = {PLACE: identity(root, None)}
            if key.writable:
                expected[f"{PLACE}/{key.writable}"] = identity(root, key.writable)
        return expected

    def _config(self) -> dict[str, object]:
        ours: dict[str, object] = {"serve_project": True, "runtime_dir": f"{RUN}/runners"}
        if self.has_way_out:
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


def mounted(pid: int, inside: str) -> tuple[int, int]:
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


def identity(root: Root, path: str | None) -> tuple[int, int]:
    """Device and inode of a folder of the project, found without leaving it."""
    folder = root.open_directory(path)
    try:
        found = os.fstat(folder)
    finally:
        os.close(folder)
    return found.st_dev, found.st_ino
