"""Access that is enforced on this machine: bubblewrap around an agent, or a command, and all that it starts.

Inside, the machine is there to be read, with these exceptions: the home, `/tmp`, `/run` and what belongs to this server
are empty, the project can be read, the workspace written where the access says so, and so can the agent's own folders.
Other processes are not there. Linux only; https://github.com/containers/bubblewrap
"""

from __future__ import annotations

import asyncio
import inspect
import os
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from jupyter_acp.kernel_exec import inside
from jupyter_acp.kernel_exec.paths import Root

PROBE_SECONDS = 10.0
_COVERED = (Path("/tmp"), Path("/run"))
#: what finds the addresses of hosts, where that is below /run
_NAMES_OF_HOSTS = ("/run/systemd/resolve", "/run/resolvconf", "/run/NetworkManager/resolv.conf")
_EVERYWHERE = ("--dev", "/dev", "--proc", "/proc", "--tmpfs", "/tmp", "--tmpfs", "/run")
# by its text: what runs beside a kernel is in an archive
_INSIDE = (os.path.realpath(sys.executable), "-I", "-S", "-E", "-X", "utf8", "-c", inspect.getsource(inside))


@dataclass(frozen=True, slots=True, kw_only=True)
class Sandbox:
    """What one agent, or one command, may reach.

    Attributes
    ----------
    project
        Can be read.
    workspace
        Below it, or equal; can be written. None: nothing of the project can.
    kept
        The agent's own folders, outside the project, that it reads and writes.
    hidden
        Folders of the server that are empty inside, beside the home.
    network
        Whether it has the machine's network.
    """

    project: Path
    workspace: Path | None
    kept: tuple[Path, ...] = ()
    hidden: tuple[Path, ...] = ()
    network: bool = True

    def wrap(self, argv: Sequence[str], *, cwd: str, env: Mapping[str, str], reports: bool = False) -> list[str]:
        """The argv that runs `argv` inside, in `cwd`, with the environment that it is started with.

        What `PATH` of `env` names, and where the program itself is, can be read also where that is in the home.
        `reports`: its wait status is written to the descriptor that `inside.STATUS` names, it leads a session of its
        own, and what is its terminal must not be that of another session.
        Blocking. ExecutorError where the workspace is not a folder of the project.
        """
        program = shutil.which(argv[0], path=env.get("PATH")) or argv[0]
        home = Path(env.get("HOME") or Path.home()).resolve()
        hidden = [folder for folder in _outermost([home, *(path.resolve() for path in self.hidden)]) if folder.is_dir()]
        words = ["bwrap", "--unshare-pid", "--unshare-ipc", "--die-with-parent", "--cap-drop", "ALL"]
        if not self.network:
            words.append("--unshare-net")
        words += ["--ro-bind", "/", "/", *_EVERYWHERE]
        for name in _NAMES_OF_HOSTS:
            words += ["--ro-bind-try", name, name]
        for folder in hidden:
            words += ["--tmpfs", str(folder)]
        for place in _programs(program, home, env, covered=(*hidden, *_COVERED)):
            words += ["--ro-bind-try", str(place), str(place)]
        for place in self.kept:
            if not place.suffix:
                place.mkdir(parents=True, exist_ok=True)  # one that is made inside would be gone with the sandbox
            words += ["--bind-try", str(place), str(place)]
        words += ["--ro-bind", str(self.project), str(self.project)]
        check = ["-"]
        if self.workspace is not None:
            words += ["--bind", str(self.workspace), str(self.workspace)]
            check = ["check", _identity(self.project, self.workspace), str(self.workspace)]
        for folder in self.hidden:
            if folder.resolve().is_relative_to(self.project) and folder.is_dir():
                words += ["--tmpfs", str(folder.resolve())]
        first: list[str] = []
        if reports:
            words.append("--as-pid-1")
        if reports or self.workspace is not None:
            first = [*_INSIDE, *check, "run" if reports else "exec"]
        return [*words, "--chdir", cwd, "--", *first, *argv]


def _identity(project: Path, workspace: Path) -> str:
    """Device and inode of the workspace, found without leaving the project."""
    with closing(Root(project)) as root:
        folder = root.open_directory(str(workspace))
        try:
            status = os.fstat(folder)
        finally:
            os.close(folder)
    return f"{status.st_dev}:{status.st_ino}"


def only(argv: Sequence[str], *, read: Path, write: Path) -> list[str]:
    """The argv that runs a program of ours with no more of this machine than two folders and what programs need.

    For what looks at files that somebody else can replace by links at any moment: in there they lead nowhere. `read`
    cannot be written. There is no network.
    """
    words = ["bwrap", "--unshare-pid", "--unshare-ipc", "--unshare-net", "--die-with-parent", "--new-session"]
    words += ["--cap-drop", "ALL"]
    if os.geteuid() == 0:
        words += ["--cap-add", "CAP_DAC_OVERRIDE"]  # the files are somebody else's
    for name in ("/usr", "/bin", "/lib", "/lib32", "/lib64", "/sbin", "/etc/ld.so.cache"):
        if os.path.islink(name):
            words += ["--symlink", os.readlink(name), name]
        else:
            words += ["--ro-bind-try", name, name]
    program = Path(shutil.which(argv[0]) or argv[0]).resolve()
    if not program.is_relative_to("/usr"):
        words += ["--ro-bind", str(program.parent.parent), str(program.parent.parent)]
    words += ["--dev", "/dev", "--ro-bind", str(read), str(read), "--bind", str(write), str(write)]
    return [*words, "--", *argv]


async def missing() -> str | None:
    """Why no sandbox can be had on this machine, for a person; None where it can."""
    if sys.platform != "linux":
        return "it takes bubblewrap, which is of Linux only"
    program = shutil.which("bwrap")
    if program is None:
        return "it takes bubblewrap, which is not installed"
    try:
        process = await asyncio.create_subprocess_exec(
            *(program, "--unshare-pid", "--unshare-ipc", "--cap-drop", "ALL", "--ro-bind", "/", "/", *_EVERYWHERE),
            *("--die-with-parent", "true"),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
    except OSError as exc:
        return f"bubblewrap cannot be started: {exc}"
    try:
        async with asyncio.timeout(PROBE_SECONDS):
            _, error = await process.communicate()
    except TimeoutError:
        with suppress(ProcessLookupError):
            process.kill()
        await process.communicate()
        return "bubblewrap does not answer"
    if process.returncode:
        return f"bubblewrap does not work here: {error.decode(errors='replace').strip()[-300:]}"
    return None


def _programs(program: str, home: Path, env: Mapping[str, str], covered: Sequence[Path]) -> list[Path]:
    """What must stay to be read for programs to run, where it is in one of the folders that are `covered`."""
    # ours too, wherever it is installed from: the demo agent is a part of it
    found = [Path(__file__).parents[1]]
    for folder in (*env.get("PATH", os.defpath).split(os.pathsep), os.path.dirname(program)):
        if os.path.isabs(folder):
            found += _installation(Path(folder), home)
    for name in (program, sys.executable, os.path.join(sys.base_prefix, "bin", "python")):
        found += _installation(Path(os.path.realpath(name)).parent, home)
    hidden = (path for path in found if any(path.is_relative_to(folder) for folder in covered))
    return _outermost(path for path in hidden if path.is_dir())


def _installation(folder: Path, home: Path) -> list[Path]:
    """Of a folder of programs: what they need beside them. Not the whole of `~` or `~/.local`, where data are too."""
    if "node_modules" in folder.parts:  # beside a package are those that it needs
        return [Path(*folder.parts[: folder.parts.index("node_modules") + 1])]
    if folder.name != "bin":
        return [folder]
    if folder.parent in (home, home / ".local", Path.home(), Path.home() / ".local"):
        return [folder, *(folder.parent / name for name in ("lib", "lib64", "libexec"))]
    return [folder.parent]


def _outermost(folders: Iterable[Path]) -> list[Path]:
    """Without those that are inside another."""
    chosen: list[Path] = []
    for folder in sorted(set(folders)):
        if not any(folder.is_relative_to(other) for other in chosen):
            chosen.append(folder)
    return chosen
