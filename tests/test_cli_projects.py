"""`jupyter acp projects`: what it does to a running server, and what the doctor finds."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest
from people import Folders, Named

from jupyter_acp import __version__, cli, cli_projects, doctor


class Members:
    """The command line of one person, against the server of the test."""

    def __init__(self, drive: Any, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.url = f"{drive.server.connection_url}"
        self._folder = folder
        self._capsys = capsys

    async def __call__(self, name: str, *words: str) -> tuple[int, str, str]:
        """Exit status, and what was printed."""
        (token := self._folder / f"token-{name}").write_text(f"token-of-{name}\n")
        status = await asyncio.to_thread(cli.main, ["projects", *words, "--url", self.url, "--token-file", str(token)])
        return status, *self._capsys.readouterr()


@pytest.fixture
def several_people(jp_server_config: dict[str, Any]) -> None:
    jp_server_config["ServerApp"]["identity_provider_class"] = Named
    jp_server_config["AcpExtension"]["projects_class"] = Folders


@pytest.fixture
def members(several_people: None, drive: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Members:
    directory: Folders = drive.hub.directory
    directory.add("alpha", ann="owner", ben="viewer")
    directory.add("beta", bob="owner")
    return Members(drive, tmp_path, capsys)


async def test_a_person_lists_their_projects(members: Members) -> None:
    status, out, _ = await members("ann", "list")
    assert (status, [line.split() for line in out.splitlines()]) == (
        0,
        [["alpha", "running", "local", "owner", "alpha"]],
    )


async def test_a_project_is_started_and_its_log_is_shown(members: Members) -> None:
    assert await members("ann", "start", "alpha") == (0, "alpha is running\n", "")
    assert await members("ann", "logs", "alpha") == (0, "\n", "")


async def test_what_the_server_refuses_is_said_in_its_words(members: Members) -> None:
    status, out, err = await members("ann", "stop", "alpha")
    assert (status, out) == (1, "") and "runs as long as the server does" in err
    assert (await members("ann", "start", "beta"))[::2] == (1, "there is no project beta\n")
    assert (await members("ben", "start", "alpha"))[::2] == (
        1,
        "this needs the role collaborator, yours is viewer\n",
    )
    assert (await members("ann", "start", "../alpha"))[::2] == (1, "there is no project ../alpha\n")


async def test_a_token_that_is_none_and_a_server_that_is_none_are_told(members: Members, tmp_path: Path) -> None:
    assert (await members("", "list"))[0] == 1
    members.url = "http://127.0.0.1:1/"
    status, _, err = await members("ann", "list")
    assert status == 1 and "http://127.0.0.1:1/ does not answer" in err


async def test_the_running_server_of_this_account_is_found(drive: Any, capsys: pytest.CaptureFixture[str]) -> None:
    drive.server.write_server_info_file()
    assert await asyncio.to_thread(cli.main, ["projects", "list"]) == 0
    assert capsys.readouterr().out.split()[:4] == ["local", "running", "local", "owner"]


def test_nothing_that_a_container_prints_commands_the_terminal() -> None:
    assert cli_projects.visible("a\x1b[2Jb\u202e\r\n\t") == "a\ufffd[2Jb\ufffd\ufffd\n\t"


def test_where_no_server_runs_that_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path))
    assert cli.main(["projects", "list"]) == 1
    assert "--url and --token-file" in capsys.readouterr().err


# the doctor

PODMAN = """#!/bin/sh
case "$*" in
info*) echo '{"host": {"ociRuntime": {"name": "runc"}, "cgroupVersion": "%(cgroups)s",
    "cgroupControllers": %(controllers)s, "security": {"rootless": %(rootless)s}, "idMappings": {
        "uidmap": [{"size": 1}, {"size": %(numbers)s}], "gidmap": [{"size": 1}, {"size": %(numbers)s}]}},
    "store": {"graphDriverName": "%(driver)s"}, "version": {"Version": "4.3.1"}}' ;;
"image exists good"*|"image exists old"*|"image exists tight"*|"image exists bare"*) ;;
"image exists"*) exit 1 ;;
"image inspect"*) echo sha ;;
run*good*) echo %(version)s ;;
run*old*) echo 0.0.1 ;;
run*tight*) echo 'runc: error setting rlimit type 7: operation not permitted: OCI permission denied' >&2; exit 126 ;;
run*bare*) echo 'exec: "jupyter-acp": executable file not found in $PATH' >&2; exit 127 ;;
esac
"""


class Machine:
    """A machine with a podman that says what a test needs, and a file of projects."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self._folder = folder
        self._capsys = capsys
        self.projects: dict[str, Any] = {}
        self.podman()

    def podman(self, **told: Any) -> None:
        """Another podman."""
        limits = ["cpuset", "cpu", "memory", "pids"]
        usual = {"cgroups": "v2", "controllers": limits, "rootless": False, "numbers": 65536, "driver": "overlay"}
        file = self._folder / "bin" / "podman"
        file.parent.mkdir(exist_ok=True)
        told = {name: v if isinstance(v, str) else json.dumps(v) for name, v in {**usual, **told}.items()}
        file.write_text(PODMAN % {**told, "version": __version__})
        file.chmod(0o755)

    def add(self, id: str, image: str, owner: int = 1000) -> Path:
        """One more project."""
        (folder := self._folder / id).mkdir()
        if os.geteuid() == 0:
            os.chown(folder, owner, owner)
        self.projects[id] = {"image": image, "folder": str(folder), "network": "none"}
        return folder

    def configure(self, line: str) -> None:
        """A line of the server's configuration."""
        (file := self._folder / "config" / "jupyter_server_config.py").parent.mkdir(exist_ok=True)
        file.write_text(line)

    def examine(self, *words: str) -> tuple[int, list[str], list[str]]:
        """Exit status, what is there, what is missing."""
        (file := self._folder / "config" / "acp_projects.json").parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(self.projects))
        status = cli.main(["projects", "doctor", *words])
        lines = self._capsys.readouterr().out.splitlines()
        found = [[line.removeprefix(mark) for line in lines if line.startswith(mark)] for mark in ("ok: ", "missing: ")]
        return status, found[0], found[1]


@pytest.fixture
def machine(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Machine:
    monkeypatch.setenv("PATH", f"{tmp_path}/bin{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("JUPYTER_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "0")
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", "/run/jupyter")
    monkeypatch.delenv("JUPYTER_CONFIG_PATH", raising=False)
    return Machine(tmp_path, capsys)


def test_a_machine_that_has_all_is_told_so(machine: Machine) -> None:
    machine.add("one", "good")
    status, there, missing = machine.examine()
    assert (status, missing) == (0, [])
    assert any("podman 4.3.1 with runc" in line for line in there)
    assert f"good runs, with jupyter_acp {__version__}" in there


@pytest.mark.parametrize(
    ("image", "said"),
    [
        ("absent", "there is no image absent here"),
        ("old", f"jupyter_acp {__version__} in the image old, which has 0.0.1"),
        ("tight", "settings of podman that fit this machine"),
        ("bare", "jupyter_acp in the image bare: build it with"),
    ],
)
def test_an_image_that_does_not_do_is_told_with_what_to_do(machine: Machine, image: str, said: str) -> None:
    machine.add("one", image)
    status, _, missing = machine.examine()
    assert status == 1
    assert [line for line in missing if said in line], missing


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives folders away")
def test_a_folder_of_root_is_told(machine: Machine) -> None:
    machine.add("one", "good", owner=0)
    status, _, [missing] = machine.examine()
    assert status == 1 and "who is not root" in missing


def test_entries_that_are_left_out_and_other_projects_are_told_apart(machine: Machine) -> None:
    machine.add("one", "good")
    machine.projects["two"] = {}
    status, _, [missing] = machine.examine()
    assert status == 1 and "'two' is left out" in missing
    assert machine.examine("one")[0] == 0
    assert machine.examine("two")[0] == 1
    assert any("no project three" in line for line in machine.examine("three")[2])


@pytest.mark.parametrize(
    ("podman", "words"),
    [
        ({"cgroups": "v1", "controllers": []}, "with cgroups v2 only"),
        ({"controllers": ["memory", "pids"]}, "limits of cpu: systemd has to delegate"),
        ({"numbers": 0}, "usermod --add-subuids"),
        ({"driver": "vfs"}, 'driver = "overlay"'),
    ],
)
def test_what_the_podman_of_an_ordinary_user_lacks_is_told(machine: Machine, podman: Any, words: str) -> None:
    machine.podman(rootless=True)
    before = machine.examine()[2]
    machine.podman(rootless=True, **podman)
    [lacking] = [line for line in machine.examine()[2] if line not in before]
    assert words in lacking


def test_keys_that_cannot_be_used_are_told_without_quoting_them(machine: Machine, tmp_path: Path) -> None:
    machine.add("one", "good")
    del machine.projects["one"]["network"]
    assert any("a model provider (AcpExtension.model_providers)" in line for line in machine.examine()[2])
    (key := tmp_path / "key").write_text("secret")
    machine.configure(f"c.AcpExtension.model_providers = {{'openai': {{'key_file': '{key}'}}}}")
    key.chmod(0o644)
    _, _, [missing] = machine.examine()
    assert "the key of the provider openai" in missing and "chmod 0400" in missing and "secret" not in missing
    key.chmod(0o400)
    status, there, missing = machine.examine()
    assert (status, missing) == (0, []) and "one: the key of the provider openai can be read" in there


def test_a_path_that_is_too_long_for_a_socket_is_told(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", "/run/" + "long" * 20)
    machine.add("one", "good")
    assert any("a shorter AcpExtension.runtime_dir" in line for line in machine.examine()[2])


def test_a_machine_without_podman_or_file_is_told(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    said = []
    assert asyncio.run(doctor.examine(None, tmp_path / "none.json", said.append)) == 1
    assert any(line.startswith("missing: podman") for line in said)
    assert any("none.json cannot be read" in line for line in said)


def test_the_file_that_the_server_is_configured_with_is_the_one_examined(machine: Machine, tmp_path: Path) -> None:
    machine.configure(f"c.PodmanProjects.file = '{tmp_path}/mine.json'")
    (tmp_path / "mine.json").write_text("{}")
    machine.add("one", "good")
    assert any("mine.json declares no project" in line for line in machine.examine()[1])
