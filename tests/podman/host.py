"""A coordinator of projects in containers, in a process of its own, used by several people."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
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

    def run_folder(self, project: str, key: str = "project") -> Path:
        """What a container shares with the server: /run/acp in there."""
        return self.folder / "runtime" / "acp" / "projects" / project / "c" / key / "run"

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


async def all_agents(drive: Drive, name: str, **body: Any) -> dict[str, Conversation]:
    """A chat with an agent of each placement, each of which has answered once."""

    async def one(agent: str) -> Conversation:
        chat = await drive.open(f"{name}-{agent}.chat", agent=agent, **body)
        ended = await chat.run("/text ready", "ready")
        assert ended["stop_reason"] == "end_turn", ended
        return chat

    return dict(zip(AGENTS, await asyncio.gather(*map(one, AGENTS)), strict=True))


async def at_once(chats: dict[str, Conversation], prompt: Callable[[str], str], turn: str) -> dict[str, dict[str, Any]]:
    """The same with each agent: how the turns ended, none of them later than in 30 s."""
    async with asyncio.timeout(30):
        ended = await asyncio.gather(*(chat.run(prompt(agent), turn) for agent, chat in chats.items()))
    return dict(zip(chats, ended, strict=True))


async def until(holds: Callable[[], bool], seconds: float = 30) -> None:
    """Return once it holds: of containers, files and processes nobody is told."""
    async with asyncio.timeout(seconds):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.1)


def files(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """All that is in a folder, also while it changes: what goes in the meantime may be missing."""
    for parent, folders, names in os.walk(folder):  # unlike rglob it passes over a folder that has just gone
        for name in (*folders, *names):
            with suppress(FileNotFoundError):
                yield (path := Path(parent, name)), path.lstat()


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
    own(path, folder)
    return path


def own(path: Path, like: Path) -> None:
    """Give a file to whom another belongs."""
    if os.getuid() == 0:
        owner = like.stat()
        os.chown(path, owner.st_uid, owner.st_gid)


def told(answer: Any) -> str:
    """Anything, for a search."""
    return json.dumps(answer)
