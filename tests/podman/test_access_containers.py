"""Access of sessions in containers, by real commands and files, and what is tried against it."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from conftest import Conversation

from jupyter_acp.exceptions import ExecutorError
from jupyter_acp.kernel_exec.container_recipe import Key
from jupyter_acp.kernel_exec.containers import Containers
from jupyter_acp.kernel_exec.podman import Created
from jupyter_acp.kernel_exec.podman import Podman as OurPodman
from jupyter_acp.projects.base import ContainerSpec, Project

from .conftest import ProjectsFile
from .containers import Podman
from .host import AGENTS, Host, all_agents, at_once, output, own, run, write

PLACES = ("name.txt", "ws/a.txt", "ws/../b.txt", "/project/c.txt", "/tmp/d.txt")
WRITABLE = {
    "full-access": set(PLACES),
    "workspace-write": {"ws/a.txt", "/tmp/d.txt"},
    "read-only": {"/tmp/d.txt"},
}
#: what a file of an agent's own, or one that it has us write, can be in
FILES = {"inside": "/file", "delegating": "/write"}


@pytest.fixture
def alpha(host: Host) -> Path:
    """The folder of alpha, with a workspace in it."""
    root = Path(host.projects.declared["alpha"]["folder"])
    write(root, "name.txt", "alpha")
    if not (ws := root / "ws").exists():
        ws.mkdir()
        own(ws, root)
    for path in [*ws.iterdir(), root / "b.txt", root / "c.txt"]:
        path.unlink(missing_ok=True)
    return root


async def tried(chats: dict[str, Conversation], turn: str) -> dict[str, set[str]]:
    """Which of the places each agent can write to."""
    command = "; ".join(f"(echo by-$$ > {place}) 2>/dev/null && echo wrote {place}" for place in PLACES)
    ended = await at_once(chats, lambda agent: run(agent, f"cd /project; {command}; true"), turn)
    assert {one["stop_reason"] for one in ended.values()} == {"end_turn"}, ended
    return {agent: set(output(chat, turn).split()) - {"wrote"} for agent, chat in chats.items()}


@pytest.mark.parametrize("access", ["workspace-write", "read-only"])
async def test_commands_and_files_of_every_placement_obey_the_access(host: Host, alpha: Path, access: str) -> None:
    cwd = "ws" if access == "workspace-write" else "."
    chats = await all_agents(host.person("ann", "alpha"), access, access=access, cwd=cwd)
    assert await tried(chats, "commands") == dict.fromkeys(AGENTS, WRITABLE[access])
    assert (alpha / "name.txt").read_text() == "alpha"
    assert not (alpha / "b.txt").exists() and not (alpha / "c.txt").exists()
    for agent, directive in FILES.items():
        for number, (place, text) in enumerate((("/project/name.txt", "evil"), ("/project/ws/f.txt", agent))):
            await chats[agent].run(f"{directive} {place} {text}", f"file-{number}")
        assert (alpha / "name.txt").read_text() == "alpha"
        made = alpha / "ws" / "f.txt"
        assert (made.exists() and made.read_text() == agent) == (access == "workspace-write"), agent
        if agent == "delegating":
            assert "error" in chats[agent].text("file-0")
            assert ("error" in chats[agent].text("file-1")) == (access == "read-only")
    for chat in chats.values():
        assert (await chat.summary())["access"]["effective"] == access


async def test_access_that_is_changed_between_two_turns_is_in_force_at_the_next(host: Host, alpha: Path) -> None:
    chats = await all_agents(host.person("ann", "alpha"), "change")
    assert await tried(chats, "full") == dict.fromkeys(AGENTS, WRITABLE["full-access"])
    for access in ("read-only", "full-access"):
        for chat in chats.values():
            await chat.call("PATCH", body={"access": access})
        assert await tried(chats, access) == dict.fromkeys(AGENTS, WRITABLE[access])


ATTACKS = r"""
cd /project/ws
try() { ("$@") >/dev/null 2>&1 && echo "DID $*"; }
ln -sfn ../name.txt up; try sh -c 'echo evil > up'
ln -sfn /project/name.txt whole; try sh -c 'echo evil > whole'
try ln ../name.txt hard
try sh -c 'cd /proc/self/root && echo evil > project/name.txt'
try sh -c 'cd /proc/1/root && echo evil > project/name.txt'
try sh -c 'echo evil > /proc/1/cwd/../../project/name.txt'
try mv /project/ws /project/ws2
try rm -f /project/name.txt
try mount -o remount,rw /project
try unshare -rm sh -c 'mount -o remount,bind,rw /project && echo evil > /project/name.txt'
try sh -c 'echo evil > /etc/acp/token'
try ls BETA
try cat TOKEN
for pid in PIDS; do try kill -9 $pid; try cat /proc/$pid/environ; done
echo "tokens $(find / -name token -not -path '/proc/*' 2>/dev/null | tr '\n' ' ')"
echo "users $(cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\0' ' ' | grep -c '[a]-process-of-another')"
echo over
"""


async def test_nothing_that_is_tried_in_a_sandbox_reaches_beyond_it(host: Host, alpha: Path, podman: Podman) -> None:
    bob = await host.person("bob", "beta").open("other.chat", agent="inside")
    await bob.submit("/shell exec bash -c 'exec -a a-process-of-another sleep 1000'", "sleep")
    full = await host.person("ann", "alpha").open("full.chat", agent="inside")
    await full.submit("/text on\n/shell exec sleep 1000", "sleep")
    await bob.until_kind("tool_call")
    await full.until_kind("tool_call")
    chats = await all_agents(host.person("ann", "alpha"), "attack", access="workspace-write", cwd="ws")
    beta = podman.of("beta")["project"]
    pids = [beta["State"]["Pid"], podman.of("alpha")["project"]["State"]["Pid"]]
    script = ATTACKS.replace("PIDS", " ".join(map(str, pids))).replace("BETA", host.projects.declared["beta"]["folder"])
    script = script.replace("TOKEN", str(host.run_folder("beta").parent / "etc" / "token"))
    write(alpha / "ws", "attacks.sh", script)
    await at_once(chats, lambda agent: run(agent, "sh /project/ws/attacks.sh"), "attack")
    for agent, chat in chats.items():
        # its own token, which says nothing of others
        assert output(chat, "attack").splitlines() == ["tokens /etc/acp/token ", "users 0", "over"], agent
    assert (alpha / "name.txt").read_text() == "alpha"
    tokens = [path.read_text() for path in host.run_folder("alpha").parents[1].glob("*/etc/token")]
    assert len(set(tokens)) == len(tokens) > len(chats)
    for chat in (bob, full):
        assert (await chat.summary())["state"] == "running"
        await chat.call("POST", "interrupt", body={})
        await chat.until_kind("turn_ended", id="sleep")


class Swapping(OurPodman):
    """Somebody exchanges the workspace at the moment that podman is called."""

    def __init__(self, swap: Any) -> None:
        super().__init__()
        self._swap = swap
        self.started = 0

    async def create(self, *options: str, image: str, command: tuple[str, ...]) -> Created:
        """As ever, later."""
        self._swap()
        return await super().create(*options, image=image, command=command)

    async def start(self, id: str) -> None:
        """As ever."""
        self.started += 1
        await super().start(id)


@pytest.fixture
def contested(projects: ProjectsFile) -> Iterator[tuple[Path, Path]]:
    """A project's folder with a workspace, and a folder outside that belongs to the same account."""
    root = projects.add("contested")
    other = root.parent / "other"
    for path in (root / "ws", other):
        path.mkdir()
        own(path, root)
    # what Jupyter would read where it is started
    write(root, "jupyter_server_config.py", "open('/project/ws/stolen', 'w').write('x')\nraise SystemExit(1)\n")
    yield root, other
    assert list(other.iterdir()) == []


def containers_of(root: Path, projects: ProjectsFile, podman: OurPodman) -> Containers:
    project = Project(
        id="contested",
        name="c",
        root=root,
        place="/project",
        container=ContainerSpec(image=projects.image, network="none"),
    )
    folder = projects.path.parent
    return Containers(project, podman=podman, instance=f"race{os.getpid()}", folder=folder / "c", home=folder / "home")


async def test_a_workspace_that_is_exchanged_as_the_container_is_made_is_refused_before_anything_runs(
    contested: tuple[Path, Path], projects: ProjectsFile, podman: Podman
) -> None:
    root, other = contested

    def swap() -> None:
        (root / "ws").rename(root / "aside")
        (root / "ws").symlink_to(other)

    swapping = Swapping(swap)
    containers = containers_of(root, projects, swapping)
    with pytest.raises(ExecutorError, match=r"was replaced while|is not in its container"):
        await containers.use(Key("s-rw", "ws"))
    assert swapping.started == 0
    assert podman.of("contested") == {}
    with pytest.raises(
        ExecutorError, match="outside of the project"
    ):  # nor does a link that was there before lead anywhere
        await containers.use(Key("s-rw", "ws"))
    (root / "ws").unlink()
    (root / "aside").rename(root / "ws")
    swapping._swap = lambda: None
    use = await containers.use(Key("s-rw", "ws"))
    await use.container.executor.write_text_file("/project/ws/mine", "x")
    assert (root / "ws" / "mine").exists() and not (root / "ws" / "stolen").exists()
    with pytest.raises(ExecutorError):
        await use.container.executor.write_text_file("/project/mine", "x")
    use.release()
    await containers.stop()
    await containers.close()


async def test_a_workspace_that_is_exchanged_all_the_time_makes_no_other_folder_writable(
    contested: tuple[Path, Path], projects: ProjectsFile
) -> None:
    root, other = contested
    (root / "link").symlink_to(other)
    over = threading.Event()

    def exchange() -> None:
        while not over.is_set():
            for there, here in (("ws", "aside"), ("link", "ws"), ("ws", "link"), ("aside", "ws")):
                (root / there).rename(root / here)

    containers = containers_of(root, projects, OurPodman())
    thread = threading.Thread(target=exchange)
    thread.start()
    made = refused = 0
    try:
        async with asyncio.timeout(60):
            for number in range(12):
                try:
                    use = await containers.use(Key(f"s{number}-rw", "ws"))
                except ExecutorError:
                    refused += 1
                    continue
                made += 1
                with suppress(ExecutorError):  # it is refused where the name leads elsewhere now
                    await use.container.executor.write_text_file("/project/ws/mine", "x")
                use.release()
    finally:
        over.set()
        thread.join()
        await containers.stop()
        await containers.close()
    assert made + refused == 12
    assert refused > 0
