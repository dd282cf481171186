"""What is done to a container while agents work in it: an error that says so, or all goes on; nothing runs outside."""

from __future__ import annotations

import asyncio
import socket
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from conftest import Conversation

from .conftest import OWNER
from .containers import Podman
from .host import Host, all_agents, at_once, output, run, write


class Listener:
    """A socket of the host that records what is sent to it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.came = 0
        self.received = b""
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(path))
        path.chmod(0o777)
        self._socket.listen()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self.came += 1
            with connection:
                connection.settimeout(5)
                try:
                    while data := connection.recv(1 << 16):
                        self.received += data
                except OSError:
                    pass

    def close(self) -> None:
        """Listen no more."""
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


@pytest.fixture
def listener(folder: Path) -> Iterator[Listener]:
    yield (listener := Listener(folder / "runner.sock"))
    listener.close()


@pytest.fixture
def mark(folder: Path) -> Iterator[str]:
    """A file that every command makes: in the container's /tmp, and at the end not in this machine's."""
    yield (mark := f"/tmp/{folder.name}-was-here")
    assert not Path(mark).exists()


def whoami(mark: str) -> str:
    """A command that tells where it runs."""
    return f"touch {mark}; hostname; pwd; cat name.txt; echo; id -u"


async def goes_on(chats: dict[str, Conversation], mark: str, turn: str) -> None:
    """A turn with each agent, each with the conversation that it had, in alpha's container."""
    before = {agent: (await chat.summary())["agent_session_id"] for agent, chat in chats.items()}
    ended = await at_once(chats, lambda agent: run(agent, whoami(mark)), turn)
    for agent, chat in chats.items():
        assert ended[agent]["stop_reason"] == "end_turn", (agent, ended, chat.of("agent_exited"))
        assert output(chat, turn).split() == ["alpha", "/project", "alpha", str(OWNER)], (agent, chat.events[-20:])
        assert before[agent] in (None, (await chat.summary())["agent_session_id"])  # None: it is a new one


async def exited(chat: Conversation) -> None:
    """Return once an agent has been ended whose remote end is gone; until then it is asked as if nothing were."""
    if not chat.of("agent_exited"):
        await chat.until_kind("agent_exited")


def end_server(podman: Podman, container: dict[str, object]) -> None:
    """kill -9 of the jupyter-server inside."""
    init = psutil.Process(container["State"]["Pid"])  # type: ignore[index]
    [server] = [child for child in init.children() if "jupyter-server" in " ".join(child.cmdline())]
    server.kill()


FAULTS = {
    "removed": lambda podman, container: podman("rm", "--force", "--time=0", container["Id"]),
    "stopped": lambda podman, container: podman("stop", "--time=1", container["Id"]),
    "server-killed": end_server,
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_container_that_ends_in_mid_turn_ends_the_turn_and_the_next_one_goes_on(
    host: Host, podman: Podman, mark: str, fault: str
) -> None:
    chats = await all_agents(host.person("ann", "alpha"), fault)
    for agent, chat in chats.items():
        await chat.submit(run(agent, f"touch {mark}; echo begun; sleep 1000"), "cut")
    for chat in chats.values():
        await chat.until_kind("terminal_output")
    container = podman.of("alpha")["project"]
    await asyncio.to_thread(FAULTS[fault], podman, container)
    async with asyncio.timeout(30):
        for agent, chat in chats.items():
            ended = (await chat.until_kind("turn_ended", id="cut"))["data"]
            if agent != "inside" and ended["stop_reason"] != "error":
                # it was told that its command has failed; with a remote end that may be known before the rest
                assert ended["stop_reason"] == "end_turn"
                assert chat.of("tool_call", "cut")[-1]["status"] == "failed"
                if agent == "remote":
                    await exited(chat)
            else:
                assert ended["error"]["reason"] == "agent_error"
                why = {"inside": "runner is gone", "remote": "container is gone"}[agent]
                assert why in chat.of("agent_exited")[-1]["message"]
    await goes_on(chats, mark, "next")
    assert podman.of("alpha")["project"]["Id"] != container["Id"]


@pytest.mark.parametrize("how", ["kill", "pause"])
async def test_a_container_that_ended_or_froze_between_two_turns_is_found_out_at_the_next(
    host: Host, podman: Podman, mark: str, how: str
) -> None:
    if how == "pause" and podman.is_without_limits:
        pytest.skip("podman pauses no container of an ordinary user where cgroups are v1")
    ann = host.person("ann", "alpha")
    chats = await all_agents(ann, how)
    container = podman.of("alpha")["project"]["Id"]
    await asyncio.to_thread(podman, how, container)
    if how == "pause":
        # who does not answer is not taken for running, though its connections stand
        chats = {"delegating": await ann.open("another.chat", agent="delegating")}
    else:
        await exited(chats["remote"])
    await goes_on(chats, mark, "next")
    assert podman.of("alpha")["project"]["Id"] != container


async def test_an_image_that_is_replaced_is_used_once_nobody_uses_a_container_of_the_old_one(
    host: Host, podman: Podman, image: str
) -> None:
    tag = f"localhost/acp-test-{uuid.uuid4().hex}:t"
    podman("tag", image, tag)
    try:
        write(host.projects.add("gamma", members={"ann": "owner"}, network="none", image=tag), "name.txt", "gamma")
        ann = host.person("ann", "gamma")
        async with asyncio.timeout(10):
            while (await ann.request("GET", "projects", "gamma"))[0] == 404:  # noqa: ASYNC110  # a file is looked at
                await asyncio.sleep(0.05)
        chat = await ann.open(agent="inside")
        assert (await chat.run("/shell hostname"))["stop_reason"] == "end_turn"
        before = podman.of("gamma")["project"]
        podman("build", "--tag", tag, "--network=none", "-", stdin=f"FROM {image}\nLABEL of-the-test=1\n")
        other = await ann.open("b.chat", agent="delegating")
        assert (await other.run("/terminal hostname"))["stop_reason"] == "end_turn"
        assert podman.of("gamma")["project"]["Id"] == before["Id"]  # the first one's agent is in it
        for one in (chat, other):
            await ann.ok("DELETE", "projects", "gamma", "sessions", one.id)
        chat = await ann.open("c.chat", agent="inside")
        assert (await chat.run("/shell hostname"))["stop_reason"] == "end_turn"
        after = podman.of("gamma")["project"]
        assert after["Id"] != before["Id"]
        assert after["Config"]["Labels"]["of-the-test"] == "1"
        await ann.ok("POST", "projects", "gamma", "stop", body={})
    finally:
        podman("untag", tag)


@pytest.mark.parametrize("whose", ["host", "beta"])
async def test_a_server_socket_that_leads_elsewhere_is_not_told_the_token(
    host: Host, podman: Podman, mark: str, listener: Listener, whose: str
) -> None:
    beta = await host.person("bob", "beta").open(agent="delegating")
    assert (await beta.run("/terminal hostname", f"before-{whose}"))["stop_reason"] == "end_turn"
    there = podman.of("beta")["project"]["Id"]
    chats = await all_agents(host.person("ann", "alpha"), f"socket-{whose}")
    target = listener.path if whose == "host" else host.run_folder("beta") / "server.sock"
    heard = podman("logs", there, check=False)
    swapped = await chats["inside"].run(f"/shell ln -sfn {target} /run/acp/server.sock; ls -l /run/acp", "swap")
    assert str(target) in output(chats["inside"], "swap"), swapped
    # commands of those who have none open yet
    await at_once(chats, lambda agent: run(agent, whoami(mark)), "try")
    await goes_on(chats, mark, "next")
    assert listener.received == b""
    assert whose == "beta" or listener.came > 0
    again = podman("logs", there, check=False)
    assert (again.stdout, again.stderr) == (heard.stdout, heard.stderr)
    assert (await beta.run("/terminal hostname", f"after-{whose}"))["stop_reason"] == "end_turn"
    assert podman.of("beta")["project"]["Id"] == there


@pytest.mark.parametrize("what", ["socket", "folder", "runners", "another-project"])
async def test_a_runner_that_leads_elsewhere_is_told_nothing(
    host: Host, podman: Podman, mark: str, listener: Listener, what: str
) -> None:
    bob = host.person("bob", "beta")
    other = await bob.open(agent="delegating")
    await other.run("/pid", f"before-{what}")
    [beside] = (host.folder / "runtime" / "acp").glob(f"{other.id[:12]}-*")
    chat = await host.person("ann", "alpha").open(f"runner-{what[:7]}.chat", agent="inside")
    await chat.run("/text ready", "ready")
    await chat.submit("/text so far\n/sleep 1000", "cut")
    await chat.until_kind("message_delta", text="so far")
    [runner] = (host.run_folder("alpha") / "runners").glob(f"{chat.id[:12]}-*")
    target = beside if what.startswith("another") else listener.path.parent
    # as a user of the container does it
    inside = Path("/run/acp/runners")
    swap = {
        "socket": f"ln -sfn {target}/runner.sock {inside / runner.name}/runner.sock",
        "folder": f"mv {inside / runner.name} /tmp/x; ln -sfn {target} {inside / runner.name}",
        "runners": f"mv {inside} /run/acp/x; ln -sfn {target.parent} {inside}",
    }.get(what, f"mv {inside / runner.name} /run/acp/y; ln -sfn {target} {inside / runner.name}")
    host.kill()
    podman("exec", podman.of("alpha")["project"]["Id"], "sh", "-c", swap)
    await host.hang_up()
    await host.start()
    chat.drive = host.person("ann", "alpha")
    ended = (await chat.until_kind("turn_ended", id="cut"))["data"]
    assert (ended["stop_reason"], ended["error"]["reason"]) == ("error", "agent_lost")
    await goes_on({"inside": chat}, mark, "next")
    assert listener.received == b""
    other.drive = host.person("bob", "beta")
    before = other.text(f"before-{what}")
    assert (await other.run("/pid", f"after-{what}"))["stop_reason"] == "end_turn"
    assert other.text(f"after-{what}") == before  # its agent was left alone
