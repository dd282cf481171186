"""Real agents of every placement in a project's container, with a stand-in for their model's service only."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import psutil
import pytest
from agents_real.conftest import CONFIG, FAST_AGENT, MODULES, home, model_api
from agents_real.model_api import ModelApi
from agents_real.watching import alive, answer

from .conftest import ProjectsFile
from .containers import Podman
from .host import Host, output, write

__all__ = ["home", "model_api"]  # fixtures

pytestmark = [pytest.mark.agents, pytest.mark.timeout(180)]

Start: TypeAlias = Callable[..., Awaitable[Host]]
KEY = "sk-planted-0123456789"
#: where the containers have the agents' programs; Node asks for the name of the last folder
PLACE = "/opt/agents/node_modules"
CODEX_INSIDE = [f"{PLACE}/.bin/node", f"{PLACE}/@agentclientprotocol/codex-acp/dist/index.js"]
CLAUDE_INSIDE = [f"{PLACE}/.bin/node", f"{PLACE}/@agentclientprotocol/claude-agent-acp/dist/index.js"]
EXEC_SERVER = f"{PLACE}/@openai/codex-linux-x64/vendor/x86_64-unknown-linux-musl/bin/codex"
LOOK = f"""
import os
key = {KEY[:8]!r} + {KEY[8:]!r}
paths = [f"/proc/{{pid}}/{{name}}" for pid in os.listdir("/proc") if pid.isdigit() for name in ("environ", "cmdline")]
for folder, folders, files in os.walk("/"):
    folders[:] = [name for name in folders if os.path.join(folder, name) not in ("/sys", "/proc", "/usr", "/dev")]
    paths += [path for name in files if os.path.isfile(path := os.path.join(folder, name))]
found, read = [], 0
for path in paths:
    if path.startswith({PLACE!r}):
        continue
    try:
        found += [path] if key.encode() in open(path, "rb").read() else []
        read += 1
    except OSError:
        pass
print(read > 20, found)
"""


@pytest.fixture
def host(
    folder: Path, projects: ProjectsFile, home: Path, model_api: ModelApi, jp_asyncio_loop: Any
) -> Iterator[Start]:
    """Start a server with agents, for the project alpha of ann, where each has a placement. Its containers reach
    providers only, and its data is where Codex likes to be."""
    key_file = folder / "key"
    key_file.touch(0o600)
    key_file.write_text(KEY)
    root = projects.add("alpha", members={"ann": "owner"}, network="providers", mounts={PLACE: str(MODULES)})
    write(root, "name.txt", "alpha\n")
    (folder / "s").mkdir()
    hosts: list[Host] = []

    async def start(**agents: Any) -> Host:
        url = f"http://127.0.0.1:{model_api.port}"
        hosts.append(
            host := Host(
                folder / "s",
                projects,
                agents=agents,
                database=str(home / "data" / "coordinator.db"),
                model_providers={
                    "openai": {"url": f"{url}/v1", "key_file": str(key_file)},
                    "anthropic": {"url": url, "key_file": str(key_file)},
                },
            )
        )
        await host.start()
        return host

    yield start
    for host in hosts:
        jp_asyncio_loop.run_until_complete(host.end())


@pytest.fixture
def codex_inside(host: Start, jp_asyncio_loop: Any) -> Host:
    entry = {"command": CODEX_INSIDE, "env": {"CODEX_CONFIG": '{"model": "gpt-5.5"}'}, "pass_env": []}
    started: Host = jp_asyncio_loop.run_until_complete(host(codex=entry))
    return started


@pytest.fixture
def codex_beside(host: Start, home: Path, model_api: ModelApi, jp_asyncio_loop: Any) -> Host:
    """Its key and its settings are beside the coordinator, and so is all that it remembers."""
    (account := home / "account").mkdir()
    (account / "config.toml").write_text(CONFIG.format(model="gpt-5.5", port=model_api.port))
    entry = {
        "command": [str(MODULES / ".bin" / "codex-acp")],
        "env": {"CODEX_HOME": str(account), "STAND_IN_KEY": KEY},
        "pass_env": [],
        "placement": "host-remote",
        "exec_server": [EXEC_SERVER, "exec-server", "--listen", "stdio"],
    }
    started: Host = jp_asyncio_loop.run_until_complete(host(codex=entry))
    return started


async def test_codex_in_a_container_without_network_and_key_runs_a_command_and_changes_a_file(
    codex_inside: Host, model_api: ModelApi, podman: Podman, home: Path
) -> None:
    host = codex_inside
    ann = host.person("ann", "alpha")
    chat = await ann.open(agent="codex")
    look = "hostname; pwd; id -u; cat name.txt; ls /sys/class/net"
    ended = await chat.run(f"/run {look}\n/write notes.txt written by Codex\n/say Hello from Codex")
    assert ended["stop_reason"] == "end_turn", ended
    assert chat.text("t1") == "Hello from Codex"
    assert output(chat, "t1").split() == ["alpha", "/project", "1000", "alpha", "lo"]
    made = ann.root / "notes.txt"
    assert (made.read_text(), made.stat().st_uid) == ("written by Codex\n", 1000)
    assert {(call["route"], call["placement"]) for call in chat.of("tool_call")} == {("agent", "project")}

    # the model's service got the key, and nothing else has it
    assert set(model_api.keys) == {f"Bearer {KEY}"}
    [container] = podman.containers()
    assert podman("exec", container["Id"], "python3", "-c", LOOK).stdout == "True []\n"
    assert KEY not in json.dumps(container) + podman("image", "inspect", container["Image"]).stdout
    assert KEY not in podman("logs", container["Id"]).stdout
    assert having_the_key(home, ann.root, host.folder) == []
    assert processes_with_the_key() == []


async def test_stop_ends_what_codex_runs_in_the_container_and_codex_goes_on(codex_inside: Host) -> None:
    ann = codex_inside.person("ann", "alpha")
    chat = await ann.open(agent="codex")
    await stopped_in_the_middle_of_a_command(chat, ann.root)


async def test_a_conversation_with_codex_goes_on_after_its_container_was_removed(
    codex_inside: Host, podman: Podman
) -> None:
    chat = await codex_inside.person("ann", "alpha").open(agent="codex")
    await chat.run("/say remembered")
    [started] = chat.of("agent_started")
    [container] = podman.containers()
    podman("rm", "--force", "--time=0", container["Id"])
    await chat.until_kind("agent_exited")
    ended = await chat.run("/recall")
    assert ended["stop_reason"] == "end_turn", ended
    assert chat.text("t2") == "/say remembered"
    back = chat.of("agent_started")[-1]
    assert (back["how"], back["agent_session_id"]) == ("resume", started["agent_session_id"])


async def test_what_codex_asks_of_its_model_goes_on_while_the_coordinator_is_killed_and_comes_back(
    codex_inside: Host, model_api: ModelApi
) -> None:
    host = codex_inside
    chat = await host.person("ann", "alpha").open(agent="codex")
    await chat.submit("/say one two\n/hang\n/say three four", "t1")
    async with asyncio.timeout(60):
        await model_api.hanging.wait()
    host.kill()
    await host.hang_up()
    await host.start()
    model_api.go_on()
    chat.drive = host.person("ann", "alpha")
    assert (await chat.until_kind("turn_ended", id="t1"))["data"]["stop_reason"] == "end_turn"
    assert chat.text("t1").split() == ["one", "two", "three", "four"]
    assert chat.of("agent_exited") == []
    await chat.hang_up()
    assert not model_api.hung_up.is_set()
    asked = [request for request in model_api.requests if request.get("tools") and "/hang" in json.dumps(request)]
    assert len(asked) == 1  # the others are about a title


async def test_codex_beside_the_coordinator_runs_commands_and_changes_files_in_the_container_only(
    codex_beside: Host, podman: Podman, folder: Path
) -> None:
    ann = codex_beside.person("ann", "alpha")
    chat = await ann.open(agent="codex")
    look = "hostname; pwd; id -u; cat name.txt; ls /sys/class/net; echo made > /tmp/acp-made"
    ended = await chat.run(f"/run {look}\n/write notes.txt written by Codex\n/say Hello from Codex")
    assert ended["stop_reason"] == "end_turn", ended
    assert chat.text("t1") == "Hello from Codex"
    assert output(chat, "t1").split() == ["alpha", "/project", "1000", "alpha", "lo"]
    made = ann.root / "notes.txt"
    assert (made.read_text(), made.stat().st_uid) == ("written by Codex\n", 1000)
    assert {(call["route"], call["placement"]) for call in chat.of("tool_call")} == {("agent", "host-remote")}
    assert not Path("/tmp/acp-made").exists() and not Path("/project").exists()
    [container] = podman.containers()
    assert podman("exec", container["Id"], "cat", "/tmp/acp-made").stdout == "made\n"
    assert podman("exec", container["Id"], "python3", "-c", LOOK).stdout == "True []\n"
    assert KEY not in json.dumps(container)


async def test_stop_ends_what_codex_runs_from_beside_the_coordinator(codex_beside: Host) -> None:
    ann = codex_beside.person("ann", "alpha")
    chat = await ann.open(agent="codex")
    await stopped_in_the_middle_of_a_command(chat, ann.root)


async def test_codex_beside_the_coordinator_says_that_its_container_is_gone_and_has_another_for_the_next_turn(
    codex_beside: Host, podman: Podman
) -> None:
    ann = codex_beside.person("ann", "alpha")
    chat = await ann.open(agent="codex")
    turn = await chat.submit("/run echo $$ > /project/pid; sleep 1000\n/say over")
    await chat.until_kind("tool_call", status="in_progress")
    await appears(ann.root / "pid")
    [container] = podman.containers()
    podman("rm", "--force", "--time=0", container["Id"])
    ended = (await chat.until_kind("turn_ended", id=turn))["data"]
    assert ended["error"] == {"message": "the project's container is gone", "reason": "agent_error"}
    assert chat.of("tool_call", turn)[-1]["status"] == "cancelled"
    ended = await chat.run("/run hostname; cat name.txt\n/recall")
    assert ended["stop_reason"] == "end_turn", ended
    assert output(chat, "t2").split() == ["alpha", "alpha"]
    assert "/say over" in chat.text("t2")
    assert [started["how"] for started in chat.of("agent_started")] == ["new", "resume"]


@pytest.mark.parametrize("access", ["workspace-write", "read-only"])
async def test_codex_beside_the_coordinator_writes_no_more_than_its_access_allows(
    codex_beside: Host, access: str
) -> None:
    ann = codex_beside.person("ann", "alpha")
    work = ann.root / "work"
    work.mkdir()
    os.chown(work, 1000, 1000)
    chat = await ann.open(agent="codex", access=access, cwd="work")
    tries = "touch by-command; touch ../outside; touch /project/outside; cat ../name.txt; pwd"
    await chat.run(f"/run {tries}\n/write by-patch text\n/write ../outside-by-patch text\n/say over")
    assert output(chat, "t1").split()[-2:] == ["alpha", "/project/work"]
    assert sorted(path.name for path in work.iterdir()) == (
        ["by-command", "by-patch"] if access == "workspace-write" else []
    )
    assert sorted(path.name for path in ann.root.iterdir() if not path.name.startswith(".")) == [
        "a.chat",
        "name.txt",
        "work",
    ]


async def test_fast_agent_beside_the_coordinator_has_commands_and_files_in_the_container_only(
    host: Start, home: Path, model_api: ModelApi
) -> None:
    (account := home / "account").mkdir()
    elsewhere = "anthropic:\n  base_url: http://127.0.0.1:1\n"
    (account / "fastagent.config.yaml").write_text(elsewhere.replace(":1\n", f":{model_api.port}\n"))
    entry = {
        "command": [str(FAST_AGENT / "bin" / "fast-agent"), "acp", "--shell"],
        "env": {
            "FAST_AGENT_HOME": str(account),
            "FAST_AGENT_MODEL": "claude-sonnet-4-5",
            "ANTHROPIC_API_KEY": KEY,
        },
        "pass_env": [],
    }
    ann = (await host(**{"fast-agent": entry})).person("ann", "alpha")
    # a project's own settings are not read
    (ann.root / "work" / ".fast-agent").mkdir(parents=True)
    for place in (".", "work", "work/.fast-agent"):
        write(ann.root / place, "fastagent.config.yaml", elsewhere)
    os.chown(ann.root / "work", 1000, 1000)
    chat = await ann.open(agent="fast-agent", cwd="work")
    look = "hostname; pwd; id -u; cat ../name.txt; ls /sys/class/net"
    turn = await chat.submit(f"Please:\n/run {look}\n/write notes.txt by fast-agent\n/say over")
    for _ in range(2):
        await answer(chat, "allow_once")
    await chat.until_kind("turn_ended", id=turn)
    assert chat.text(turn) == "over"
    assert output(chat, turn).split() == ["alpha", "/project/work", "1000", "alpha", "lo"]
    made = ann.root / "work" / "notes.txt"
    assert (made.read_text(), made.stat().st_uid) == ("by fast-agent", 1000)
    changed = {(data["path"], data.get("change"), data["route"]) for data in chat.of("file_changed", turn)}
    assert changed == {("work/notes.txt", change, "delegated") for change in (None, "added")}
    calls = {(call["route"], call["placement"]) for call in chat.of("tool_call") if call["status"] == "completed"}
    assert calls == {("delegated", "host-delegated")}
    assert not Path("/project").exists()


async def test_claude_in_a_container_without_network_and_key_runs_a_command(
    host: Start, model_api: ModelApi, podman: Podman
) -> None:
    ann = (await host(claude={"command": CLAUDE_INSIDE, "pass_env": []})).person("ann", "alpha")
    chat = await ann.open(agent="claude")
    turn = await chat.submit("Please:\n/run hostname; pwd; cat name.txt; ls /sys/class/net\n/say Hello from Claude")
    await answer(chat, "allow_once")
    await chat.until_kind("turn_ended", id=turn)
    assert chat.text(turn) == "Hello from Claude"
    assert output(chat, turn).split() == ["alpha", "/project", "alpha", "lo"]
    assert set(model_api.keys) == {KEY}
    [container] = podman.containers()
    assert podman("exec", container["Id"], "python3", "-c", LOOK).stdout == "True []\n"


async def stopped_in_the_middle_of_a_command(chat: Any, root: Path) -> None:
    """Stop ends the command in the container, and the agent that ran it goes on."""
    turn = await chat.submit("/run echo $$ > /project/pid; sleep 123456; echo survived\n/say never")
    await chat.until_kind("tool_call", status="in_progress")
    await appears(root / "pid")
    async with asyncio.timeout(30):
        while not (found := sleeping()):  # noqa: ASYNC110  # its number is written before it sleeps
            await asyncio.sleep(0.02)
    [command] = found
    queued = await chat.submit("/run hostname\n/say after the stop")
    await chat.call("POST", "interrupt", body={"turn": turn})
    ended = (await chat.until_kind("turn_ended", id=turn))["data"]
    assert ended["stop_reason"] == "cancelled"
    assert not alive(command.pid)
    assert chat.of("tool_call", turn)[-1]["status"] in ("failed", "cancelled")
    await chat.until_kind("turn_ended", id=queued)
    assert (output(chat, queued), chat.text(queued)) == ("alpha\n", "after the stop")
    assert len(chat.of("agent_started")) == 1


def sleeping() -> list[psutil.Process]:
    """What the command to be stopped waits for."""
    return [process for process in psutil.process_iter(["cmdline"]) if "123456" in (process.info["cmdline"] or ())]


async def appears(path: Path) -> None:
    """Return once a command has written a line there."""
    async with asyncio.timeout(30):
        while not path.exists() or not path.read_text().endswith("\n"):  # noqa: ASYNC110  # only a file says it
            await asyncio.sleep(0.02)


def having_the_key(*folders: Path) -> list[Path]:
    """Files beneath these folders: database, chats, logs, what agents remember."""
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    assert len(files) > 10
    return [path for path in files if KEY.encode() in path.read_bytes()]


def processes_with_the_key() -> list[int]:
    """Those of this machine, which sees into containers, that have it in environment or words."""
    found = []
    for process in psutil.process_iter():
        try:
            told = [*process.cmdline(), *process.environ().values()]
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        found += [process.pid] if any(KEY in text for text in told) else []
    return found
