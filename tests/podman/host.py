"""A coordinator of projects in containers, in a process of its own, used by several people."""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conftest import TESTS, Conversation, Drive
from stack.process import ServerProcess

if TYPE_CHECKING:
    from .conftest import ProjectsFile

#: one scripted agent for each placement; the program at the other end of the last is a shell
AGENTS: dict[str, Any] = {
    "inside": {"command": ["{python}", "-m", "jupyter_acp.testing"], "placement": "project"},
    "delegating": {"command": ["{python}", "-m", "jupyter_acp.testing"], "placement": "host-delegated"},
    "remote": {
        "command": ["{python}", "-m", "jupyter_acp.testing"],
        "placement": "host-remote",
        "exec_server": ["sh"],
    },
}
#: how each of them is told to run a command
RUN = {"inside": "/shell", "delegating": "/terminal", "remote": "/remote"}


class Host(ServerProcess):
    """The server. `person` gives what somebody does in a project of it."""

    def __init__(self, folder: Path, projects: ProjectsFile, **config: Any) -> None:
        super().__init__(
            folder,
            {"projects_class": "jupyter_acp.projects.podman.PodmanProjects", "agents": AGENTS, **config},
            environ={"PYTHONPATH": str(TESTS)},
            traits={
                "ServerApp": {"identity_provider_class": "people.Named"},
                "PodmanProjects": {"file": str(projects.path)},
            },
        )
        self.projects = projects
        self._drives: list[Drive] = []

    def container(self, project: str, key: str = "project") -> str:
        """The name of a container of a project, which its owner can find too: that of the key."""
        [name] = [name for name in self._names() if name.endswith(f"-{project}-{key}")]
        return name

    def person(self, name: str, project: str) -> Drive:
        """What a person does in a project."""
        headers = {"Authorization": f"token token-of-{name}"}
        drive = Drive(partial(self._fetch, headers=headers), partial(self._ws_fetch, headers=headers), self)
        drive.project = project
        drive.root = Path(self.projects.declared[project]["folder"])
        self._drives.append(drive)
        return drive

    async def hang_up(self) -> None:
        """Close every socket of every person."""
        for drive in self._drives:
            await drive.hang_up()
        self._drives.clear()

    async def end(self) -> None:
        """End every project, and the server."""
        await self.hang_up()
        await self.start()
        for id, entry in list(self.projects.declared.items()):
            owner = next(name for name, role in entry["members"].items() if role == "owner")
            await self.person(owner, id).ok("POST", "projects", id, "stop", body={})
        await self.stop()


def run(agent: str, command: str) -> str:
    """The directive that has an agent run a command, where its placement has it run."""
    return f"{RUN[agent]} {command}"


def output(chat: Conversation, turn: str) -> str:
    """What the commands of a turn have printed, as the log has it."""
    return "".join(data["data"] for data in chat.of("terminal_output", turn))


def write(folder: Path, name: str, text: str) -> Path:
    """A file of the project's owner."""
    path = folder / name
    path.write_text(text)
    if os.getuid() == 0:
        owner = folder.stat()
        os.chown(path, owner.st_uid, owner.st_gid)
    return path


def told(answer: Any) -> str:
    """Anything, for a search."""
    return json.dumps(answer)
