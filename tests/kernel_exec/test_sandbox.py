"""What restricted access lets through, tried by real commands in real sandboxes."""

from __future__ import annotations

import os
import random
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from jupyter_acp.exceptions import PathOutside
from jupyter_acp.kernel_exec.base import FileMissing
from jupyter_acp.kernel_exec.sandbox import Sandbox, only

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="bubblewrap is of Linux only")

SECRET = "known to nobody inside"


class World:
    """A machine's worth of folders: a home, a server's own, a project with a workspace and its neighbour."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "home"
        self.server = self.home / "jupyter"
        self.project = self.home / "project"
        self.workspace = self.project / "workspace"
        self.neighbour = self.project / "workspace2"
        self.state = self.home / ".agent"
        for place in (self.server, self.workspace, self.neighbour):
            place.mkdir(parents=True)
            (place / "file").write_text(SECRET)
        (self.project / "file").write_text("of the project")
        (self.home / "key").write_text(SECRET)

    def sandbox(self, workspace: Path | None, *, network: bool = True) -> Sandbox:
        return Sandbox(
            project=self.project, workspace=workspace, kept=(self.state,), hidden=(self.server,), network=network
        )

    def run(self, script: str, workspace: Path | None = None, *, network: bool = True) -> str:
        """What a script of the shell says inside, errors included."""
        env = {"PATH": os.environ["PATH"], "HOME": str(self.home)}
        argv = self.sandbox(workspace, network=network).wrap(["sh", "-c", script], cwd=str(self.project), env=env)
        done = subprocess.run(argv, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=30, check=False)
        return done.stdout.decode()


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def test_read_only_reads_the_project_and_writes_nothing_of_it(world: World) -> None:
    assert "of the project" in world.run("cat file")
    for target in (
        "file",
        "new",
        "workspace/file",
        str(world.project / "x"),
        "workspace/../y",
        "/proc/self/root$PWD/z",
    ):
        assert "Read-only" in world.run(f'echo changed > "{target}"')
    assert (world.project / "file").read_text() == "of the project"
    assert sorted(path.name for path in world.project.iterdir()) == ["file", "workspace", "workspace2"]


def test_workspace_write_writes_the_workspace_and_nothing_beside_it(world: World) -> None:
    assert world.run("echo changed > workspace/file; echo new > workspace/new", world.workspace) == ""
    assert (world.workspace / "file").read_text() == "changed\n"
    assert (world.workspace / "new").read_text() == "new\n"
    for target in ("file", "workspace2/file", "workspace/../file", "workspace/../workspace2/new"):
        assert "Read-only" in world.run(f"echo changed > {target}", world.workspace)
    assert (world.neighbour / "file").read_text() == SECRET


def test_a_link_in_the_workspace_writes_nothing_outside_of_it(world: World) -> None:
    made = world.run(
        f"ln -s {world.project}/file workspace/soft; ln -s {world.home}/key workspace/key", world.workspace
    )
    assert made == ""
    assert "Read-only" in world.run("echo changed > workspace/soft", world.workspace)
    world.run("echo changed > workspace/key; ln file workspace/hard; echo changed >> workspace/hard", world.workspace)
    assert (world.home / "key").read_text() == SECRET
    assert (world.project / "file").read_text() == "of the project"


def test_home_server_and_temporary_files_are_not_there(world: World) -> None:
    script = f"cat {world.home}/key {world.server}/file; cat /proc/1/root{world.home}/key; ls -A {world.home}"
    said = world.run(script, world.workspace)
    assert SECRET not in said
    assert said.splitlines()[-2:] == [".agent", "project"]
    assert len([line for line in said.splitlines() if "cat:" not in line]) == 2
    marker, made = (Path("/tmp") / f"acp-test-{os.getpid()}-{name}" for name in ("marker", "made"))
    marker.write_text(SECRET)
    try:
        assert world.run(f"cat {marker}; echo x > {made}; cat {made}").splitlines()[-1] == "x"
        assert SECRET not in world.run(f"cat {marker}")
    finally:
        marker.unlink()
    assert not made.exists()


def test_a_project_that_is_the_home_still_hides_what_is_the_servers(world: World) -> None:
    env = {"PATH": os.environ["PATH"], "HOME": str(world.home)}
    box = Sandbox(project=world.home, workspace=world.home, hidden=(world.server,))
    argv = box.wrap(["sh", "-c", "cat jupyter/file; echo x > jupyter/y; cat key"], cwd=str(world.home), env=env)
    done = subprocess.run(argv, env=env, capture_output=True, timeout=30, check=False)
    assert done.stdout.decode() == SECRET  # the key is a file of the project here
    assert sorted(path.name for path in world.server.iterdir()) == ["file"]


def test_programs_that_are_installed_in_the_home_still_run(world: World) -> None:
    for folder in (world.home / ".local" / "bin", world.home / "tools" / "1.0" / "bin"):
        folder.mkdir(parents=True)
        (folder / "tool").write_text("#!/bin/sh\ncat $(dirname $0)/../lib/text")
        (folder / "tool").chmod(0o755)
        (folder.parent / "lib").mkdir()
        (folder.parent / "lib" / "text").write_text("it runs")
        (folder.parent / "share").mkdir()
        (folder.parent / "share" / "data").write_text(SECRET)
        env = {"PATH": f"{folder}{os.pathsep}/usr/bin{os.pathsep}/bin", "HOME": str(world.home)}
        script = f"tool; cat {world.home}/.local/share/data"
        argv = world.sandbox(None).wrap(["sh", "-c", script], cwd=str(world.project), env=env)
        done = subprocess.run(argv, env=env, capture_output=True, timeout=30, check=False)
        assert done.stdout.decode() == "it runs"


def test_a_program_that_npm_has_installed_in_the_home_finds_the_packages_beside_its_own(world: World) -> None:
    packages = world.home / "agents" / "node_modules"
    (inside := packages / "@somebody" / "agent" / "dist").mkdir(parents=True)
    (inside / "main").write_text("#!/bin/sh\ncat $(dirname $(readlink -f $0))/../../../needed/text")
    (inside / "main").chmod(0o755)
    (packages / "needed").mkdir()
    (packages / "needed" / "text").write_text("it runs")
    (packages / ".bin").mkdir()
    (packages / ".bin" / "agent").symlink_to("../@somebody/agent/dist/main")
    (packages.parent / "key").write_text(SECRET)
    env = {"PATH": "/usr/bin:/bin", "HOME": str(world.home)}
    argv = world.sandbox(None).wrap([str(packages / ".bin" / "agent")], cwd=str(world.project), env=env)
    done = subprocess.run(argv, env=env, capture_output=True, timeout=30, check=False)
    assert done.stdout.decode() == "it runs", done.stderr
    look = ["cat", str(packages.parent / "key"), str(packages / ".bin" / "agent")]
    argv = world.sandbox(None).wrap(look, cwd=str(world.project), env={**env, "PATH": f"{packages}/.bin:/usr/bin:/bin"})
    done = subprocess.run(argv, env=env, capture_output=True, timeout=30, check=False)
    assert SECRET not in done.stdout.decode() and "#!/bin/sh" in done.stdout.decode()


def test_the_agents_own_folder_is_kept(world: World) -> None:
    assert world.run(f"echo remembered > {world.state}/session") == ""
    assert (world.state / "session").read_text() == "remembered\n"
    assert world.run(f"cat {world.state}/session") == "remembered\n"


def test_other_processes_are_neither_seen_nor_reached(world: World) -> None:
    said = world.run(
        f"ls /proc; kill -0 {os.getpid()}; cat /proc/{os.getpid()}/environ; cat /proc/{os.getppid()}/cmdline"
    )
    numbers = [int(word) for word in said.split() if word.isdigit()]
    assert max(numbers) < 20
    assert "No such process" in said and "No such file" in said
    assert "CapEff:\t0000000000000000" in world.run("grep CapEff /proc/self/status")


def test_shared_memory_and_mounts_are_its_own(world: World) -> None:
    name = f"acp-test-{os.getpid()}"
    world.run(f"echo x > /dev/shm/{name}; mount -o remount,rw {world.project}; umount {world.home}; umount /tmp")
    assert not (Path("/dev/shm") / name).exists()
    assert "Read-only" in world.run(f"mount -o remount,bind,rw {world.project}; echo x > file")


def test_the_network_is_there_or_not_as_is_said(world: World, listening: socket.socket) -> None:
    connect = f"python3 -c 'import socket; socket.create_connection((\"127.0.0.1\", {listening.getsockname()[1]}))'"
    assert world.run(f"{connect} && echo connected") == "connected\n"
    assert "connected" not in world.run(f"{connect} && echo connected", network=False)


def test_a_workspace_that_leads_out_of_the_project_is_refused(world: World) -> None:
    (world.project / "link").symlink_to(world.server)
    env = {"PATH": os.environ["PATH"], "HOME": str(world.home)}
    for place in (world.project / "link", world.project / "..", world.server):
        with pytest.raises(PathOutside):
            world.sandbox(place).wrap(["true"], cwd=str(world.project), env=env)


def test_a_workspace_that_is_swapped_for_a_link_in_a_race_never_lets_a_write_out(world: World) -> None:
    target, aside = world.project / "swapped", world.project / "aside"
    target.mkdir()
    stop = threading.Event()

    def swap() -> None:
        dice = random.Random(1)
        while not stop.wait(dice.uniform(0, 0.01)):
            target.rename(aside)
            target.symlink_to(world.server)
            stop.wait(dice.uniform(0, 0.005))
            target.unlink()
            aside.rename(target)

    swapper = threading.Thread(target=swap)
    swapper.start()
    outcomes = {"written": 0, "replaced": 0, "outside": 0}
    try:
        for number in range(1000):
            try:
                said = world.run(f"echo x > swapped/{number} && echo written", target)
            except (PathOutside, FileMissing):
                said = "outside"
            for outcome in outcomes:
                outcomes[outcome] += outcome in said
    finally:
        stop.set()
        swapper.join()
    assert sorted(path.name for path in world.server.iterdir()) == ["file"]
    assert (world.server / "file").read_text() == SECRET
    print(outcomes)
    assert all(outcomes.values())


def test_a_program_of_ours_that_looks_at_a_project_finds_nothing_behind_its_links(tmp_path: Path) -> None:
    project, own, secret = tmp_path / "project", tmp_path / "own", tmp_path / "secret"
    for folder in (project, own):
        folder.mkdir()
    secret.write_text("secret")
    (project / "file").write_text("text")
    (project / "link").symlink_to(secret)
    (project / "passwords").symlink_to("/etc/passwd")
    script = "cat file link passwords; echo x > file; echo y > ../own/made; ls /proc /home /root"
    done = subprocess.run(
        only(["/bin/sh", "-c", script], read=project, write=own), cwd=project, capture_output=True, text=True
    )
    assert done.stdout == "text"
    assert (project / "file").read_text() == "text" and (own / "made").read_text() == "y\n"
