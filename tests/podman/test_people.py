"""People and declarations that change while agents are at work in containers; the command line for projects."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Drive

from jupyter_acp import cli

from .conftest import ProjectsFile
from .containers import Podman
from .host import Host, output


@pytest.fixture
def host(folder: Path, projects: ProjectsFile, jp_asyncio_loop: Any) -> Iterator[Host]:
    """ann works in alpha, where vic looks on; beta is bob's."""
    projects.add("alpha", members={"ann": "owner", "vic": "viewer"}, network="none")
    projects.add("beta", members={"bob": "owner"}, network="none")
    (folder / "s").mkdir()
    host = Host(folder / "s", projects)
    jp_asyncio_loop.run_until_complete(host.start())
    yield host
    jp_asyncio_loop.run_until_complete(host.end())


async def closed(socket: Any) -> int:
    """The code with which the server closes a socket: within a second, on a machine that is not busy."""
    async with asyncio.timeout(20):
        while await socket.read_message() is not None:
            pass
    socket.close()
    return int(socket.close_code)


async def until(person: Drive, wanted: Callable[[tuple[int, Any]], bool]) -> None:
    """Return once somebody is told so of alpha, which may have to wait for the end of what was before."""
    async with asyncio.timeout(20):
        while True:
            if wanted(await person.request("GET", "projects", "alpha")):
                return
            await asyncio.sleep(0.05)  # a declaration is no event of a log


async def test_a_project_whose_entry_is_bad_for_a_while_loses_nothing_and_keeps_others_from_nothing(
    host: Host, projects: ProjectsFile
) -> None:
    ann, bob = host.person("ann", "alpha"), host.person("bob", "beta")
    chat = await ann.open("a.chat", agent="inside")
    await chat.submit("/shell echo begun; until [ -e go ]; do sleep 0.1; done; echo done")
    await chat.until_kind("terminal_output")
    watching = await host.person("vic", "alpha").subscribe(chat.id)
    projects.declared["alpha"]["network"] = "host"
    projects.write()
    # the person first, or the project's log: both are the end of it
    assert await closed(watching) in (4403, 1011)
    assert (await ann.request("GET", "projects", "alpha", "sessions", chat.id))[0] == 404
    other = await bob.open("a.chat", agent="inside")
    await other.run("/shell hostname", "b1")
    assert output(other, "b1").split() == ["beta"]
    projects.declared["alpha"]["network"] = "none"
    projects.write()
    (Path(projects.declared["alpha"]["folder"]) / "go").touch()
    await until(ann, lambda answer: answer[0] == 200)
    await chat.hang_up()
    assert (await chat.until_kind("turn_ended"))["data"]["stop_reason"] == "end_turn"
    assert output(chat, "t1").split() == ["begun", "done"]


async def test_a_project_that_is_taken_out_ends_with_its_container_and_comes_back_with_its_conversation(
    host: Host, projects: ProjectsFile, podman: Podman
) -> None:
    ann = host.person("ann", "alpha")
    chat = await ann.open("a.chat", agent="inside")
    await chat.submit("/shell echo begun; sleep 600")
    await chat.until_kind("terminal_output")
    alpha = projects.declared.pop("alpha")
    projects.write()
    await until(ann, lambda answer: answer[0] == 404)
    projects.declared["alpha"] = alpha
    projects.write()
    # it is back once it has ended
    await until(ann, lambda answer: answer[0] == 200)
    assert podman.containers() == []
    await chat.hang_up()
    assert (await chat.until_kind("turn_ended"))["data"]["stop_reason"] == "cancelled"
    await chat.run("/shell hostname", "t2")
    assert output(chat, "t2").split() == ["alpha"]


async def test_who_is_taken_out_is_out_while_the_turn_goes_on(host: Host, projects: ProjectsFile) -> None:
    chat = await host.person("ann", "alpha").open("a.chat", agent="inside")
    await chat.submit("/shell echo begun; until [ -e go ]; do sleep 0.1; done; echo done")
    await chat.until_kind("terminal_output")
    vic = host.person("vic", "alpha")
    watching = await vic.subscribe(chat.id)
    projects.declared["alpha"]["members"] = {"ann": "owner"}
    projects.write()
    assert await closed(watching) == 4403
    assert await vic.ok("GET", "projects") == []
    (Path(projects.declared["alpha"]["folder"]) / "go").touch()
    await chat.until_kind("turn_ended")
    assert output(chat, "t1").split() == ["begun", "done"]


async def test_projects_are_started_looked_into_and_stopped_from_the_command_line(
    host: Host, podman: Podman, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (token := folder / "token-of-ann").write_text("token-of-ann")

    async def run(*words: str) -> tuple[int, str]:
        options = ["--url", f"http://127.0.0.1:{host.port}/", "--token-file", str(token)]
        status = await asyncio.to_thread(cli.main, ["projects", *words, *options])
        said = capsys.readouterr()
        return status, said.out + said.err

    assert (await run("list"))[1].split()[:4] == ["alpha", "stopped", "container", "owner"]
    status, said = await run("start", "alpha")
    assert (status, said.splitlines()[0]) == (0, "alpha is running")
    # whoever declared limits is told where there are none
    assert ("limits are not supported" in said) == podman.is_without_limits
    [container] = podman.containers()
    assert container["State"]["Running"] and (await run("list"))[1].split()[1] == "running"
    assert "Jupyter Server" in (await run("logs", "alpha"))[1]
    assert await run("stop", "alpha") == (0, "alpha is stopped\n")
    assert podman.containers() == []
    assert await run("start", "beta") == (1, "there is no project beta\n")


async def test_a_project_whose_image_is_not_there_says_so(
    host: Host, projects: ProjectsFile, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    projects.declared["alpha"]["image"] = "localhost/not-there:at-all"
    projects.write()
    ann = host.person("ann", "alpha")
    await until(ann, lambda answer: answer[1]["image"] == "localhost/not-there:at-all")
    (token := folder / "token-of-ann").write_text("token-of-ann")
    options = ["--url", f"http://127.0.0.1:{host.port}/", "--token-file", str(token)]
    assert await asyncio.to_thread(cli.main, ["projects", "start", "alpha", *options]) == 1
    assert "there is no image localhost/not-there:at-all here" in capsys.readouterr().err
    assert (await ann.ok("GET", "projects", "alpha"))["state"] == "failed"
