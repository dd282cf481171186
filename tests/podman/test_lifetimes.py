"""Containers are there while somebody uses them, and a while longer; in the end nothing is left of them."""

from __future__ import annotations

import asyncio
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import Any

from conftest import Conversation, Drive

from jupyter_acp.kernel_exec.container_recipe import WHOLE, Key
from jupyter_acp.kernel_exec.containers import Containers
from jupyter_acp.kernel_exec.podman import Podman as OurPodman
from jupyter_acp.projects.base import ContainerSpec, Project

from .conftest import ProjectsFile
from .containers import Podman
from .host import AGENTS, Host, files, run, until, write

RESTRICTED = 10
SHARING = 40
AT_ONCE = 5


def left(host: Host) -> list[str]:
    """Sockets, and folders of runners and containers, that the server has made and that are still there."""
    runtime = host.folder / "runtime" / "acp"
    found = [str(path) for path, facts in files(host.folder) if stat.S_ISSOCK(facts.st_mode)]
    found += [str(path) for path in runtime.glob("*") if path.name != "projects"]
    return found + [str(path) for path in runtime.glob("projects/*/c/*")]


async def has_project(drive: Drive, wanted: bool = True) -> None:
    """Return once the project is known, or is not any more."""

    async with asyncio.timeout(10):
        while ((await drive.request("GET", "projects", drive.project))[0] != 404) != wanted:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def test_fifty_sessions_leave_nothing_behind(host: Host, podman: Podman) -> None:
    ann = host.person("ann", "alpha")
    before = {process.pid for process in podman.processes()}
    most = 0

    async def one(number: int) -> None:
        nonlocal most
        agent = list(AGENTS)[number % len(AGENTS)]
        access = "read-only" if number < RESTRICTED else "full-access"
        chat = await ann.open(f"fifty-{number}.chat", agent=agent, access=access)
        ended = await chat.run(run(agent, f"cat name.txt; echo; echo {number}"), "t")
        assert ended["stop_reason"] == "end_turn", (agent, access, ended)
        assert "".join(d["data"] for d in chat.of("terminal_output")).split() == ["alpha", str(number)]
        most = max(most, len(podman.of("alpha")) if access == "read-only" else 0)
        await ann.ok("DELETE", "projects", "alpha", "sessions", chat.id)

    numbers = iter(range(RESTRICTED + SHARING))

    async def some() -> None:
        for number in numbers:
            await one(number)

    await asyncio.gather(*(some() for _ in range(AT_ONCE)))
    assert most > 1
    # each went by itself a while after its session, and what they shared stays for its time
    await until(lambda: set(podman.of("alpha")) == {"project"})
    await ann.ok("POST", "projects", "alpha", "stop", body={})
    assert podman.of("alpha") == {}
    await until(lambda: left(host) == [])
    await until(lambda: {process.pid for process in podman.processes()} <= before)
    assert podman.mounts() == []
    assert host.process is not None
    open_files = []
    for link in Path(f"/proc/{host.process.pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed since
            open_files.append(os.readlink(link))
    assert not [name for name in open_files if "/project" in name and "deleted" in name]


async def test_a_container_that_is_used_again_in_time_stays_and_otherwise_goes(
    projects: ProjectsFile, podman: Podman
) -> None:
    root = projects.add("counted")
    spec = ContainerSpec(image=projects.image, network="none", idle_timeout=1.0)
    containers = Containers(
        Project(id="counted", name="counted", root=root, place="/project", container=spec),
        podman=OurPodman(),
        instance=f"count{os.getpid()}",
        folder=root.parent / "c",
        home=root.parent / "home",
        grace=1.0,
    )
    key = Key("a-ro", None)
    uses = await asyncio.gather(containers.use(key), containers.use(key))
    [id] = {use.container.id for use in uses}
    for use in uses:
        use.release()
        use.release()
    again = await containers.use(key)
    await asyncio.sleep(1.5)  # longer than it would have had
    assert (again.container.id, podman.of("counted")["a-ro"]["State"]["Status"]) == (id, "running")
    again.release()
    await until(lambda: podman.of("counted") == {})
    # the project's own has the time that its declaration says
    whole = await containers.use(Key(WHOLE, ""))
    assert containers.is_running()
    whole.release()
    await until(lambda: podman.of("counted") == {})
    assert not containers.is_running()
    await until(lambda: list((root.parent / "c").iterdir()) == [])
    await containers.close()


async def test_who_waits_for_the_end_of_a_container_is_told_also_where_somebody_else_finds_it_gone_first(
    projects: ProjectsFile, podman: Podman
) -> None:
    root = projects.add("found")
    containers = Containers(
        Project(
            id="found",
            name="found",
            root=root,
            place="/project",
            container=ContainerSpec(image=projects.image, network="none"),
        ),
        podman=OurPodman(),
        instance=f"found{os.getpid()}",
        folder=root.parent / "c",
        home=root.parent / "home",
    )
    use = await containers.use(Key(WHOLE, ""))
    gone = asyncio.Event()
    containers.when_gone(use.container, gone.set)
    podman("pause", use.container.id)  # its connections stand
    assert await containers.find(WHOLE) is None
    assert gone.is_set()
    use.release()
    await containers.stop()
    await containers.close()


async def test_a_project_that_is_stopped_has_no_container_at_once(host: Host, podman: Podman) -> None:
    ann = host.person("ann", "alpha")
    chats = [
        await ann.open(f"stopped-{access}.chat", agent="inside", access=access)
        for access in ("full-access", "read-only")
    ]
    for chat in chats:
        await chat.submit("/text on\n/sleep 1000", "long")
        await chat.until_kind("message_delta")
    assert len(podman.of("alpha")) == 2
    await ann.ok("POST", "projects", "alpha", "stop", body={})
    assert podman.of("alpha") == {}
    for chat in chats:
        assert (await chat.until_kind("turn_ended", id="long"))["data"]["stop_reason"] == "cancelled"
    assert (await chats[0].run("/shell hostname"))["stop_reason"] == "end_turn"


async def test_what_a_server_that_was_killed_left_unused_is_found_by_its_label_and_removed(
    host: Host, podman: Podman
) -> None:
    ann = host.person("ann", "alpha")
    kept = await ann.open("kept.chat", agent="inside", access="read-only")
    closed = await ann.open("closed.chat", agent="inside", access="read-only")
    for chat in (kept, closed):
        await chat.run("/text ready")
    keys = [f"{chat.id[:12]}-ro" for chat in (kept, closed)]
    before = podman.of("alpha")
    await ann.ok("DELETE", "projects", "alpha", "sessions", closed.id)
    host.kill()  # before its time was over
    assert set(keys) <= set(podman.of("alpha"))
    await host.hang_up()
    await host.start()
    await until(lambda: keys[1] not in podman.of("alpha"))
    assert podman.of("alpha")[keys[0]]["Id"] == before[keys[0]]["Id"]
    kept.drive = host.person("ann", "alpha")
    assert (await kept.run("/shell hostname"))["stop_reason"] == "end_turn"
    assert kept.of("agent_exited") == []


async def declared(host: Host, name: str) -> tuple[Drive, Conversation]:
    """One more project, with a turn that runs in it."""
    write(host.projects.add(name, members={"ann": "owner"}, network="none"), "name.txt", name)
    ann = host.person("ann", name)
    await has_project(ann)
    chat = await ann.open(agent="inside")
    await chat.submit("/text on\n/sleep 1000", "long")
    await chat.until_kind("message_delta")
    return ann, chat


def undeclared(host: Host, name: str) -> dict[str, Any]:
    """Take a project out of the file."""
    entry = host.projects.declared.pop(name)
    host.projects.write()
    return entry


async def test_a_project_that_is_taken_out_ends_with_all_that_runs_in_it_and_no_other_does(
    host: Host, podman: Podman
) -> None:
    other = await host.person("bob", "beta").open("other.chat", agent="inside")
    await other.submit("/text on\n/sleep 1000", "long")
    await other.until_kind("message_delta")
    ann, chat = await declared(host, "delta")
    entry = undeclared(host, "delta")
    await until(lambda: podman.of("delta") == {})
    assert "project" in podman.of("beta")
    assert (await other.summary())["state"] == "running"
    await other.call("POST", "interrupt", body={})
    # it comes back, and nothing of what was said in it is lost
    await chat.hang_up()
    host.projects.declared["delta"] = entry
    host.projects.write()
    await has_project(ann)
    assert (await chat.until_kind("turn_ended", id="long"))["data"]["stop_reason"] == "cancelled"
    assert (await chat.run("/shell cat name.txt"))["stop_reason"] == "end_turn"


async def test_an_entry_that_became_unusable_ends_nothing(host: Host, podman: Podman) -> None:
    ann, chat = await declared(host, "epsilon")
    entry = host.projects.declared["epsilon"]
    host.projects.declared["epsilon"] = {**entry, "memory": "much"}
    host.projects.write()
    await has_project(ann, False)
    before = podman.of("epsilon")["project"]["Id"]
    host.kill()
    await host.hang_up()
    await host.start()
    host.projects.declared["epsilon"] = entry
    host.projects.write()
    chat.drive = ann = host.person("ann", "epsilon")
    await has_project(ann)
    assert (await chat.summary())["state"] == "running"
    assert podman.of("epsilon")["project"]["Id"] == before
    await ann.ok("POST", "projects", "epsilon", "stop", body={})
    assert (await chat.until_kind("turn_ended", id="long"))["data"]["stop_reason"] == "cancelled"


async def test_containers_of_a_project_that_went_while_no_server_ran_are_removed_at_the_start(
    host: Host, podman: Podman
) -> None:
    await declared(host, "zeta")
    await host.person("bob", "beta").open("another.chat", agent="inside")
    host.kill()
    undeclared(host, "zeta")
    beta = podman.of("beta")
    assert set(podman.of("zeta")) == {"project"}
    await host.hang_up()
    await host.start()
    await until(lambda: podman.of("zeta") == {})
    assert podman.of("beta").keys() == beta.keys()
