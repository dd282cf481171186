"""The image of a project: what it can, what it must not have in it, and when it is built anew."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jupyter_acp

from .conftest import CONTAINERS
from .containers import Podman

PACKAGE = Path(jupyter_acp.__file__).parent
DIGESTS = """
import hashlib, json, pathlib, jupyter_acp
root = pathlib.Path(jupyter_acp.__file__).parent
files = [path for path in root.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
print(json.dumps({str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}))
"""


def test_an_account_without_any_right_runs_jupyter_server_without_a_network(podman: Podman, image: str) -> None:
    said = podman.run(image, "sh", "-c", "id -u && pwd && jupyter-server --version")
    uid, folder, version = said.split()
    assert (uid, folder) == ("1000", "/project")
    assert version.startswith("2.")


def test_any_other_account_can_run_it_too(podman: Podman, image: str) -> None:
    said = podman.run(
        image, "sh", "-c", "id -u && jupyter-server --version", options=["--user=4321:4321", "--env=HOME=/tmp"]
    )
    assert said.split()[0] == "4321"


def test_our_server_extension_is_loaded_without_further_ado(podman: Podman, image: str) -> None:
    said = podman.run(image, "sh", "-c", "jupyter server extension list 2>&1", options=["--env=HOME=/tmp"])
    assert f"jupyter_acp {jupyter_acp.__version__}" in said
    assert "jupyter_acp \x1b[32menabled" in said


def test_the_package_in_it_is_that_of_this_tree(podman: Podman, image: str) -> None:
    here = {
        str(path.relative_to(PACKAGE)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in PACKAGE.rglob("*")
        if path.is_file() and not {"__pycache__", "labextension"} & set(path.parts)
    }
    assert json.loads(podman.run(image, "python", "-c", DIGESTS)) == here


def test_what_is_installed_in_it_fits_together(podman: Podman, image: str) -> None:
    assert "No broken requirements" in podman.run(image, "pip", "check")


def test_the_demo_agent_answers_in_it(podman: Podman, image: str) -> None:
    request = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {"protocolVersion": 1}}
    said = podman.run(
        image, "python", "-m", "jupyter_acp.testing", options=["--tmpfs=/tmp"], stdin=json.dumps(request) + "\n"
    )
    assert json.loads(said.splitlines()[0])["result"]["protocolVersion"] == 1


def test_agents_find_git_and_ps_and_bash(podman: Podman, image: str) -> None:
    assert podman.run(image, "bash", "-c", "git --version && ps -o comm=").startswith("git version")


def test_nothing_of_this_machine_and_no_cache_is_in_it(podman: Podman, image: str) -> None:
    options = ["--user=0", "--cap-add=DAC_OVERRIDE", "--read-only-tmpfs=false"]  # a tmpfs would hide what is in /tmp
    files = podman.run(image, "find", "/", "-xdev", "-type", "f", options=options).splitlines()
    assert "/etc/passwd" in files
    skeleton = {".bashrc", ".profile", ".bash_logout"}
    homes = [path for path in files if re.match("/(root|home)/", path) and Path(path).name not in skeleton]
    assert homes == []
    assert [path for path in files if path.startswith(("/tmp/", "/var/cache/", "/var/log/", "/etc/ssh/"))] == []
    assert [path for path in files if path.startswith("/etc/") and "shadow" in path] == []
    assert [path for path in files if path.endswith(".whl") and not path.startswith("/usr/")] == []


def test_what_podman_says_of_it_names_no_variable_and_no_folder_of_this_machine(podman: Podman, image: str) -> None:
    [inspected] = json.loads(podman("image", "inspect", image).stdout)
    assert [variable.split("=")[0] for variable in inspected["Config"]["Env"]] == ["PATH"]
    told = json.dumps(inspected) + podman("history", "--no-trunc", image).stdout
    assert str(CONTAINERS.parent) not in told
    assert os.path.dirname(sys.executable) not in told


def test_what_is_built_is_not_built_again(image: str) -> None:
    again = subprocess.run([CONTAINERS / "build.sh"], capture_output=True, text=True, check=True)
    # it says what it does, and does nothing
    assert (again.stdout, again.stderr) == (f"{image}\n", "")
