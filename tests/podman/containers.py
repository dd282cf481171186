"""podman as the tests call it, and what they may have left behind on this machine."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import psutil


def namespace(process: psutil.Process) -> int:
    """That of its process numbers: a container has one of its own."""
    return os.stat(f"/proc/{process.pid}/ns/pid").st_ino


class Podman:
    """The `podman` of this machine.

    Whatever names `folder` is the tests': a mount of it in a container, say. Others may have containers of their own.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = str(folder)

    def __call__(self, *arguments: str, stdin: str = "", check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run podman to its end; it must succeed, unless `check` is false."""
        done = subprocess.run(["podman", *arguments], input=stdin, capture_output=True, text=True, timeout=100)
        assert done.returncode == 0 or not check, (arguments, done.stderr)
        return done

    def run(self, image: str, *command: str, options: Sequence[str] = (), stdin: str = "") -> str:
        """What a program prints in a container of its own, which can do as little as a project's."""
        confined = ("--network=none", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--read-only")
        ours = ("--rm", "--interactive", "--pull=never", f"--label=jupyter-acp-test={self._folder}")
        return self("run", *ours, *confined, *options, image, *command, stdin=stdin).stdout

    def containers(self) -> list[dict[str, Any]]:
        """The containers of the tests, running or not, as `podman inspect` has them."""
        found: list[dict[str, Any]] = []
        for name in self("ps", "--all", "--quiet", "--no-trunc").stdout.split():
            done = self("container", "inspect", name, check=False)
            # another's container may have gone since
            if done.returncode == 0 and self._is_ours(done.stdout):
                found += json.loads(done.stdout)
        return found

    @cached_property
    def is_without_limits(self) -> bool:
        """Whether it has no cgroups for containers: an ordinary user's where cgroups are v1."""
        host = json.loads(self("info", "--format=json").stdout)["host"]
        return bool(host["security"]["rootless"]) and host["cgroupVersion"] == "v1"

    def of(self, project: str) -> dict[str, dict[str, Any]]:
        """Those of a project, by their keys."""
        mine = [one for one in self.containers() if one["Config"]["Labels"].get("jupyter-acp.of") == project]
        return {one["Config"]["Labels"]["jupyter-acp.key"]: one for one in mine}

    def mounts(self) -> list[str]:
        """Lines of /proc/self/mountinfo about folders of the tests."""
        return [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if self._is_ours(line)]

    def processes(self) -> Iterator[psutil.Process]:
        """What the tests have started and still runs: podman, its conmon, servers, runners; also what left its parent.

        Not what runs inside containers.
        """
        for process in psutil.process_iter():
            try:
                ours = process.pid != os.getpid() and self._is_ours("\n".join(process.environ().values()))
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
            if ours:
                yield process

    def _is_ours(self, text: str) -> bool:
        return self._folder in text
