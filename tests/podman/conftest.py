"""Real containers: the machine's podman, the image of this tree, a short folder for each test, and nothing left behind.

Where podman runs no containers, every test here is skipped, with the reason.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from .containers import Podman
from .host import Host, write

HERE = Path(__file__).parent
CONTAINERS = HERE.parents[1] / "containers"
OWNER = os.getuid() or 1000
"""Whose the folders of projects are, and so whom their containers run as."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is in this folder, before `-m podman` selects; the first test may have to wait for the image."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.podman)
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(180))


@pytest.fixture(scope="package")
def short_folder() -> Iterator[Path]:
    """A folder whose sockets have names short enough for the kernel: at most 107 bytes."""
    folder = Path(tempfile.mkdtemp(prefix="acp-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="package", autouse=True)
def podman_environ(short_folder: Path) -> Iterator[None]:
    """An environment in which podman works, of this process and so of what it starts."""
    done = subprocess.run([CONTAINERS / "podman_conf.sh", short_folder], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(done.stderr.strip())
    with pytest.MonkeyPatch.context() as patch:
        if done.stdout.strip():
            patch.setenv("CONTAINERS_CONF", done.stdout.strip())
        # By this the processes of these tests are known. podman hands little more than the PATH to its conmon.
        patch.setenv("PATH", f"{os.environ['PATH']}{os.pathsep}{short_folder}")
        yield


@pytest.fixture(scope="package", autouse=True)
def podman(podman_environ: None, short_folder: Path) -> Iterator[Podman]:
    """podman; when all tests of this folder have run, nothing may be left of what they have started."""
    yield (podman := Podman(short_folder))
    containers = podman.containers()
    for container in containers:
        podman("rm", "--force", "--time=0", container["Id"])
    left: list[Any] = [(container["Name"], container["State"]["Status"]) for container in containers]
    # the last to go are those that clean up after the others
    left += [process.cmdline() for process in psutil.wait_procs(podman.processes(), timeout=10)[1]]
    left += podman.mounts()
    assert left == []


@pytest.fixture(scope="package")
def image(podman_environ: None) -> str:
    """The name of the image with this tree's package, which `make image` has built, mostly."""
    done = subprocess.run(
        [CONTAINERS / "build.sh"], capture_output=True, text=True, env={**os.environ, "PYTHON": sys.executable}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def folder(short_folder: Path) -> Path:
    """An empty folder for one test, with a short name."""
    return Path(tempfile.mkdtemp(dir=short_folder, prefix=""))


@dataclass
class ProjectsFile:
    """Declared projects: a file for `PodmanProjects`, and their folders beside it.

    Attributes
    ----------
    path
        The file.
    declared
        What is in it, by the ids of the projects.
    """

    path: Path
    image: str
    declared: dict[str, dict[str, Any]] = field(default_factory=dict)

    def add(self, project_id: str, **declaration: Any) -> Path:
        """Declare a project in this tree's image, with an empty folder of `OWNER`'s, which is returned."""
        folder = self.path.parent / project_id
        folder.mkdir()
        if os.getuid() == 0:
            os.chown(folder, OWNER, OWNER)
        self.declared[project_id] = {"image": self.image, "folder": str(folder), "members": {}, **declaration}
        self.write()
        return folder

    def write(self) -> None:
        """Put `declared` into the file, all at once."""
        new = self.path.with_suffix(".new")
        new.write_text(json.dumps(self.declared))
        new.replace(self.path)


@pytest.fixture(scope="module")
def shared(short_folder: Path, image: str) -> Iterator[Host]:
    """A server that the tests of a module share: alpha is ann's, beta is bob's, with files of the same names."""
    folder = Path(tempfile.mkdtemp(dir=short_folder, prefix=""))
    projects = ProjectsFile(folder / "projects.json", image)
    for project, person in {"alpha": "ann", "beta": "bob"}.items():
        write(projects.add(project, members={person: "owner"}, network="none"), "name.txt", project)
    (folder / "s").mkdir()
    host = Host(folder / "s", projects, container_grace=2.0)
    host.spawn()
    yield host
    asyncio.run(host.end())


@pytest.fixture
def host(shared: Host, jp_asyncio_loop: Any) -> Iterator[Host]:
    """That server, running; the connections of a test end with it."""
    jp_asyncio_loop.run_until_complete(shared.start())
    yield shared
    jp_asyncio_loop.run_until_complete(shared.hang_up())


@pytest.fixture
def projects(folder: Path, image: str) -> ProjectsFile:
    """No project yet: `add` some."""
    (file := ProjectsFile(folder / "projects.json", image)).write()
    return file
