"""What is missing on this machine for projects in containers, each as a line with what to do. Changes nothing."""

from __future__ import annotations

import asyncio
import json
import os
import resource
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from jupyter_core.application import JupyterApp
from jupyter_core.paths import jupyter_config_path, jupyter_runtime_dir

from . import __version__
from .agentspec import Catalogue, keys
from .egress.providers import Providers
from .exceptions import AgentError, ExecutorError
from .kernel_exec.podman import Podman
from .projects.base import Project
from .projects.declarations import Wrong, declared, read
from .projects.podman import default_file

_SOCKET_PATH = 100  # bytes: a unix socket's name is 107 at most, 103 on macOS
_NUMBERS = 65536  # of accounts in a container, of which images use the last: nobody
Check = tuple[bool, str]


async def examine(only: str | None, file: Path | None, tell: Callable[[str], None]) -> int:
    """Tell of each thing whether it is there, else what to do; 1 where something is missing."""
    missing = 0
    async for is_there, text in _checks(only, file):
        tell(f"{'ok' if is_there else 'missing'}: {text}")
        missing += not is_there
    return 1 if missing else 0


async def _checks(only: str | None, file: Path | None) -> AsyncIterator[Check]:
    config = _config()
    path = file or Path(config.PodmanProjects.get("file") or default_file()).expanduser()
    projects: list[Project] = []
    try:
        found, problems = declared(read(path), private=(path,))
    except Wrong as exc:
        yield False, f"{exc}. Projects are declared there, see docs/reference/projects-file.md"
    else:
        projects = [one.project for one in found.values() if only in (None, one.project.id)]
        for problem in problems:
            if only is None or repr(only) in problem:
                yield False, problem
        if only is not None and not projects:
            yield False, f"{path} declares no project {only}"
        else:
            yield True, f"{path} declares {', '.join(project.id for project in projects) or 'no project'}"
    podman = Podman()
    is_there = False
    async for check in _podman(podman):
        is_there = check[0] or is_there
        yield check
    runtime = Path(config.AcpExtension.get("runtime_dir") or Path(jupyter_runtime_dir()) / "acp")
    catalogue = Catalogue.load(
        directories=[Path(folder) / "acp_agents.d" for folder in jupyter_config_path()],
        configured=dict(config.AcpExtension.get("agents") or {}),
    )
    providers = Providers.load(dict(config.AcpExtension.get("model_providers") or {}))
    for problem in [*catalogue.problems, *providers.problems]:
        yield False, problem
    for project in projects:
        async for check in _project(project, runtime):
            yield check
        for check in _keys(project, catalogue, providers):
            yield check
    for image in sorted({p.container.image for p in projects if p.container is not None}) if is_there else ():
        async for check in _image(podman, image):
            yield check


async def _podman(podman: Podman) -> AsyncIterator[Check]:
    try:
        told = json.loads(await podman.call("info", "--format", "json"))
        host, driver, version = told["host"], told["store"]["graphDriverName"], told["version"]["Version"]
        runtime, rootless, cgroups = host["ociRuntime"]["name"], host["security"]["rootless"], host["cgroupVersion"]
        ordinary = list(_ordinary(host)) if rootless else []
    except (ExecutorError, ValueError, LookupError, TypeError) as exc:
        yield False, f"podman (Debian: apt install podman runc): {exc}"
        return
    yield True, f"podman {version} with {runtime}, {'rootless' if rootless else 'as root'}, cgroups {cgroups}"
    if driver == "vfs":
        yield (
            False,
            'another way to store containers: with vfs each is a copy of its whole image. driver = "overlay" below '
            "[storage] in ~/.config/containers/storage.conf, then podman system reset (all that it has is gone), and "
            "build the image anew",
        )
    for check in ordinary:
        yield check


def _ordinary(host: Any) -> Iterator[Check]:
    """What podman lacks where it is not root's."""
    numbers = host["idMappings"]
    if any(sum(part["size"] for part in numbers[kind]) < _NUMBERS for kind in ("uidmap", "gidmap")):
        yield (
            False,
            "numbers for the accounts in containers, in /etc/subuid and /etc/subgid: as root usermod --add-subuids "
            "100000-165535 --add-subgids 100000-165535 and this account's name, then podman system migrate",
        )
    lacking = sorted({"cpu", "memory", "pids"}.difference(host["cgroupControllers"] or ()))
    if host["cgroupVersion"] == "v1":
        yield False, "limits of memory, processors and processes: rootless podman has them with cgroups v2 only"
    elif lacking:
        yield False, f"limits of {', '.join(lacking)}: systemd has to delegate them to this account (Delegate=)"


async def _project(project: Project, runtime: Path) -> AsyncIterator[Check]:
    owner = (await asyncio.to_thread(project.root.stat)).st_uid
    if owner == 0:
        yield False, f"{project.id}: an owner for {project.root} who is not root: chown it to whom its agents run as"
    elif os.geteuid() not in (0, owner):
        yield False, f"{project.id}: {project.root} must belong to this account, since podman is not root's"
    else:
        yield True, f"{project.id}: its agents run as the owner of {project.root}, uid {owner}"
    # the longest there is: the container of a session
    sockets = runtime / "projects" / project.id / "c" / f"{'0' * 12}-rw" / "run" / "server.sock"
    if (length := len(os.fsencode(sockets))) > _SOCKET_PATH:
        yield (
            False,
            f"{project.id}: a shorter AcpExtension.runtime_dir: {length} bytes for a socket, {_SOCKET_PATH} can be",
        )


def _keys(project: Project, catalogue: Catalogue, providers: Providers) -> Iterator[Check]:
    """Keys that its agents are given, and those that are added on the way to model providers."""
    wanted: list[tuple[str, Callable[[], object]]] = [
        (spec.name, partial(keys, spec, project.root))
        for spec in catalogue.specs.values()
        if spec.key_files and (project.agents is None or spec.id in project.agents)
    ]
    if project.container is not None and project.container.network == "providers":
        wanted += [(f"the provider {one.id}", partial(one.credential, project.root)) for one in providers.values()]
        if not providers:
            yield False, f"{project.id}: a model provider (AcpExtension.model_providers), or another network for it"
    for name, read_keys in wanted:
        try:
            read_keys()
        except AgentError as exc:
            yield False, f"{project.id}: the key of {name}: {exc}"
        else:
            yield True, f"{project.id}: the key of {name} can be read"


async def _image(podman: Podman, image: str) -> AsyncIterator[Check]:
    try:
        await podman.image(image)
    except ExecutorError as exc:
        yield False, str(exc)
        return
    # by the way it shows whether containers run here at all
    options = ("--rm", "--pull=never", "--network=none", "--cap-drop=ALL", "--user=1000:1000", "--entrypoint=")
    try:
        version = (await podman.call("run", *options, image, "jupyter-acp", "--version")).strip()
    except ExecutorError as exc:
        said = str(exc)
        if "rlimit" in said or "hybrid" in said:
            yield False, _settings()
        elif "not found" in said:
            yield False, f"jupyter_acp in the image {image}: build it with containers/build.sh"
        else:
            yield False, f"containers of {image}: {said}"
        return
    if version == __version__:
        yield True, f"{image} runs, with jupyter_acp {version}"
    else:
        yield False, f"jupyter_acp {__version__} in the image {image}, which has {version}: build it anew"


def _settings() -> str:
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    processes = resource.getrlimit(resource.RLIMIT_NPROC)[1]
    if processes == resource.RLIM_INFINITY:
        processes = int(Path("/proc/sys/kernel/pid_max").read_text())
    return f"""settings of podman that fit this machine. Name a file with this in CONTAINERS_CONF, for the server too:
        [engine]
        runtime = "runc"
        [containers]
        default_ulimits = ["nofile={files}:{files}", "nproc={processes}:{processes}"]
    (crun does not run on hybrid cgroups, and without CAP_SYS_RESOURCE no limit can be raised)"""


def _config() -> Any:
    """Of the Jupyter servers of this account."""
    app = JupyterApp(config_file_name="jupyter_server_config")
    app.load_config_file(suppress_errors=False)
    return app.config
