"""Two projects and two people at once, agents of every placement: all that they do is in the right project."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Conversation

from .conftest import OWNER, ProjectsFile
from .containers import Podman
from .host import AGENTS, Host, output, run, write

PEOPLE = {"alpha": "ann", "alpha-b": "bob"}


@pytest.fixture
def host(folder: Path, projects: ProjectsFile, jp_asyncio_loop: Any) -> Iterator[Host]:
    """alpha is ann's, alpha-b is bob's; both have files of the same names."""
    for project, person in PEOPLE.items():
        root = projects.add(project, members={person: "owner"}, network="none")
        write(root, "name.txt", project)
    (folder / "s").mkdir()
    host = Host(folder / "s", projects)
    jp_asyncio_loop.run_until_complete(host.start())
    yield host
    jp_asyncio_loop.run_until_complete(host.end())


async def both(host: Host, agent: str, prompt: str, **body: Any) -> dict[str, tuple[Conversation, str]]:
    """The same chat in both projects at once, the same prompt: conversation and turn by project."""

    async def one(project: str, person: str) -> tuple[Conversation, str]:
        chat = await host.person(person, project).open(f"{agent}.chat", agent=agent, **body)
        ended = await chat.run(prompt, f"{agent}-1")
        assert ended["stop_reason"] == "end_turn", (ended, chat.of("agent_exited"))
        return chat, f"{agent}-1"

    done = await asyncio.gather(*(one(project, person) for project, person in PEOPLE.items()))
    return dict(zip(PEOPLE, done, strict=True))


async def test_each_command_and_file_is_of_the_project_that_asked_for_it(host: Host, podman: Podman) -> None:
    for agent in AGENTS:
        chats = await both(host, agent, run(agent, f"hostname; pwd; id -u; cat name.txt; hostname > by-{agent}"))
        for project, (chat, turn) in chats.items():
            assert output(chat, turn).split() == [project, "/project", str(OWNER), project]
            assert (await chat.summary())["cwd"] == "/project"
            [placement] = {call["placement"] for call in chat.of("tool_call")}
            assert placement == AGENTS[agent]["placement"]
            [changed] = (await chat.call("GET", "turns", turn, "diff"))["files"]
            assert (changed["path"], changed["change"]) == (f"by-{agent}", "added")
    for project in PEOPLE:
        root = Path(host.projects.declared[project]["folder"])
        for agent in AGENTS:
            made = root / f"by-{agent}"
            assert (made.read_text().strip(), made.stat().st_uid) == (project, OWNER)
    assert projects_of(podman) == ["alpha", "alpha-b"]
    await host.person("ann", "alpha").ok("POST", "projects", "alpha", "stop", body={})
    assert projects_of(podman) == ["alpha-b"]
    await both_see(host, alpha="stopped", b="running")


def projects_of(podman: Podman) -> list[str]:
    """The projects that have a container."""
    return sorted(container["Config"]["Labels"]["jupyter-acp.of"] for container in podman.containers())


async def both_see(host: Host, *, alpha: str, b: str) -> None:
    """Each person is told how their own project is, and of no other."""
    for name, id, state in (("ann", "alpha", alpha), ("bob", "alpha-b", b)):
        [seen] = await host.person(name, id).ok("GET", "projects")
        assert (seen["id"], seen["state"]) == (id, state)
