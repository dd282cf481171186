"""Two projects and two people at once: nothing of the one reaches the other, and nothing of either this machine."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import Conversation
from tornado.httpclient import HTTPClientError

from .containers import Podman, namespace
from .host import AGENTS, Host, files, output, run, until, write

PEOPLE = {"alpha": "ann", "beta": "bob"}
SECRETS = {"alpha": "the-secret-of-ann", "beta": "the-secret-of-bob"}
OTHER = {"alpha": "beta", "beta": "alpha"}


async def everybody(host: Host, name: str) -> dict[tuple[str, str], Conversation]:
    """A chat of the same name with an agent of each placement, in both projects."""

    async def one(project: str, agent: str) -> Conversation:
        write(Path(host.projects.declared[project]["folder"]), "secret.txt", SECRETS[project])
        chat = await host.person(PEOPLE[project], project).open(f"{name}-{agent}.chat", agent=agent)
        await chat.run("/text ready", "ready")
        return chat

    keys = [(project, agent) for project in PEOPLE for agent in AGENTS]
    return dict(zip(keys, await asyncio.gather(*(one(*key) for key in keys)), strict=True))


async def test_what_a_person_follows_is_of_their_project_alone_while_all_work_at_once(host: Host) -> None:
    chats = await everybody(host, "same")
    command = "for i in 1 2 3 4 5; do cat secret.txt; echo; sleep 0.1; done; cat /project/secret.txt >> all-$(hostname)"
    await asyncio.gather(*(chat.run(run(agent, command), "work") for (_, agent), chat in chats.items()))
    for (project, agent), chat in chats.items():
        assert output(chat, "work").split() == [SECRETS[project]] * 5, (project, agent)
        assert SECRETS[OTHER[project]] not in json.dumps(chat.events)
        told = await chat.call("GET", "messages"), await chat.call("GET", "events"), await chat.summary()
        assert SECRETS[OTHER[project]] not in json.dumps(told)
    for project in PEOPLE:
        root = Path(host.projects.declared[project]["folder"])
        assert (root / f"all-{project}").read_text() == SECRETS[project] * len(AGENTS)
        assert not (root / f"all-{OTHER[project]}").exists()
        assert OTHER[project] not in [
            one["id"] for one in (await host.person(PEOPLE[project], project).ok("GET", "projects"))
        ]


async def test_whoever_is_not_a_member_finds_no_session_by_its_id_in_any_project(host: Host) -> None:
    chat = await host.person("ann", "alpha").open("own.chat", agent="inside")
    await chat.run("/text private", "private")
    for project in PEOPLE:
        bob = host.person("bob", "beta")
        bob.project = project
        there = Conversation(bob, chat.id)
        for method, path, body in (
            ("GET", (), None),
            ("PATCH", (), {"title": "mine"}),
            ("DELETE", (), None),
            ("GET", ("events",), None),
            ("GET", ("messages",), None),
            ("GET", ("export",), None),
            ("POST", ("turns",), {"id": "x", "prompt": "/text x"}),
            ("POST", ("interrupt",), {}),
            ("GET", ("turns", "private", "activity"), None),
        ):
            status, _ = await there.refused(method, *path, body=body)
            assert status == 404, (project, method, path)
        with pytest.raises(HTTPClientError) as refused:
            await bob.subscribe(chat.id)
        assert refused.value.code == 404
    assert (await chat.run("/text still", "still"))["stop_reason"] == "end_turn"


async def test_a_project_that_is_stopped_leaves_the_turns_of_another_running_to_their_end(host: Host) -> None:
    chats = await everybody(host, "stop")
    for (_, agent), chat in chats.items():
        command = "echo begun; until [ -e go ]; do sleep 0.1; done; for i in 1 2 3; do echo $i; done; echo done"
        await chat.submit(run(agent, command), "long")
    for chat in chats.values():
        await chat.until_kind("terminal_output")
    await host.person("ann", "alpha").ok("POST", "projects", "alpha", "stop", body={})
    for project in PEOPLE:
        write(Path(host.projects.declared[project]["folder"]), "go", "")
    for (project, agent), chat in chats.items():
        ended = (await chat.until_kind("turn_ended", id="long"))["data"]
        if project == "alpha":
            assert ended["stop_reason"] == "cancelled", agent
            assert "done" not in output(chat, "long")
        else:
            assert ended["stop_reason"] == "end_turn", agent
            assert output(chat, "long").split() == ["begun", "1", "2", "3", "done"], agent


def of_host(host: Host) -> dict[str, Any]:
    """The files around the projects, with what would tell of a change, but those that it is the server's to change."""
    ours = [host.folder / "data" / "acp", host.folder / "runtime", host.folder / "state", *host.folder.glob("*.log")]
    without = [*ours, *(Path(entry["folder"]) for entry in host.projects.declared.values())]
    found = {
        str(path): (facts.st_mode, facts.st_uid, facts.st_size, facts.st_mtime_ns, facts.st_ino)
        for path, facts in files(host.projects.path.parent)
        if not any(path.is_relative_to(one) for one in without)
    }
    # a folder that something was made in and removed from has another time
    return {path: facts for path, facts in found.items() if path != str(host.folder / "data")}


#: what the server has beside its containers; podman itself comes and goes
BESIDE = ("conmon", "jupyter_server", "jupyter_acp", "podman exec --interactive", "catatonit", "bwrap")


def places(processes: Iterable[psutil.Process]) -> list[tuple[int, list[str]]]:
    """The namespaces that processes are in, and their command lines."""
    found = []
    for process in processes:
        with suppress(psutil.NoSuchProcess, OSError):
            found.append((namespace(process), process.cmdline()))
    return found


def strangers(podman: Podman) -> list[str]:
    """The command lines of what the tests have started that is in no container and has no business outside."""
    ours = namespace(psutil.Process())
    lines = [" ".join(words) for place, words in places(podman.processes()) if place == ours]
    return [line for line in lines if "sleep" in line.split() or not any(word in line for word in BESIDE)]


async def test_no_tool_call_changes_a_file_or_has_a_process_outside_of_the_containers(
    host: Host, podman: Podman
) -> None:
    chats = await everybody(host, "host")
    before = of_host(host)
    targets = [host.projects.path.parent / "evil", host.folder / "config" / "evil", host.folder / "data" / "evil"]
    targets.append(Path(host.projects.declared["alpha"]["folder"]) / "evil")
    targets.append(Path(host.projects.declared["beta"]["folder"]) / "evil")
    tries = "; ".join(f"mkdir -p {path.parent}; echo evil > {path}" for path in targets)
    nap = ["sleep", f"{10**6 + os.getpid()}.5"]  # of this run alone
    for (_, agent), chat in chats.items():
        await chat.submit(run(agent, f"{tries}; echo tried; {' '.join(nap)}"), "try")
    for chat in chats.values():
        while "tried" not in output(chat, "try"):
            await chat.until_kind("terminal_output")

    def sleeping() -> list[int]:
        return [place for place, words in places(psutil.process_iter()) if words == nap]

    # that they have tried is said before they sleep
    await until(lambda: len(sleeping()) >= 2 * len(AGENTS))
    first = [psutil.Process(podman.of(project)["project"]["State"]["Pid"]) for project in PEOPLE]
    where = sleeping()
    assert [where.count(namespace(process)) for process in first] == [len(AGENTS)] * 2
    assert len(where) == 2 * len(AGENTS)
    await until(lambda: not strangers(podman))
    for chat in chats.values():
        await chat.call("POST", "interrupt", body={})
        await chat.until_kind("turn_ended", id="try")
    assert not sleeping()
    for (project, agent), chat in chats.items():
        if agent == "delegating":  # files that it has us write
            for number, path in enumerate(targets):
                await chat.run(f"/write {path} evil\n/write ../{path.parent.name}/{path.name} evil", f"write-{number}")
                assert chat.text(f"write-{number}").count("error") == 2, (project, chat.text(f"write-{number}"))
    assert not any(path.exists() for path in targets)
    assert of_host(host) == before
