"""A key that an agent is given is found in its own environment, and nowhere else."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jupyter_acp.testing import command

from .process import TOKEN, ServerProcess

KEY = "sk-marker-0f3a7c61"

pytestmark = [pytest.mark.timeout(120), pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")]


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    key = tmp_path_factory.mktemp("keys") / "marker"
    key.write_text(f"{KEY}\n")
    key.chmod(0o400)
    agents = {
        "keyed": {"command": command(), "key_files": {"MARKER_API_KEY": str(key)}},
        "delegating": {"command": command(), "env": {"MARKER_API_KEY": KEY}, "placement": "host-delegated"},
    }
    process = ServerProcess(tmp_path_factory.mktemp("secrets"), {"agents": agents})
    process.spawn()
    yield process
    asyncio.run(process.end())


@pytest.fixture
def server(process: ServerProcess, jp_asyncio_loop: Any) -> Iterator[ServerProcess]:
    jp_asyncio_loop.run_until_complete(process.start())
    yield process
    jp_asyncio_loop.run_until_complete(process.drive.hang_up())


def processes(name: str, text: str) -> set[int]:
    """Those whose argv or environment (`name`: cmdline or environ) holds a text."""
    found = set()
    for file in Path("/proc").glob(f"[0-9]*/{name}"):
        try:
            if text.encode() in file.read_bytes():
                found.add(int(file.parent.name))
        except OSError:
            continue  # gone, or somebody else's
    return found


def files(folder: Path, text: str) -> list[str]:
    """Those below a folder that hold a text; what configures it is not meant."""
    config = ("jupyter_server_config.json", "token")
    found = [file for file in folder.rglob("*") if file.is_file() and file.name not in config]
    return [str(file) for file in found if text.encode() in file.read_bytes()]


@pytest.mark.parametrize("access", ["full-access", "read-only"])
@pytest.mark.parametrize("agent", ["keyed", "delegating"])
async def test_a_key_is_in_no_argv_no_file_no_log_no_database_and_no_answer(
    server: ServerProcess, agent: str, access: str
) -> None:
    chat = await server.drive.open(f"{agent}-{access}.chat", agent=agent, access=access)
    directive = "/terminal" if agent == "delegating" else "/shell"
    await chat.run("/env", turn="env")
    assert "MARKER_API_KEY" in chat.text("env").split()
    turn = await chat.submit(f"{directive} echo running; sleep 600", turn="busy")
    await chat.until_kind("terminal_output")
    assert processes("environ", KEY)
    assert not processes("cmdline", KEY)
    assert not processes("cmdline", TOKEN)
    if agent == "delegating":
        commands = processes("cmdline", "sleep\x00600") & processes("environ", "JUPYTER_ACP_RUN")
        assert commands and not commands & processes("environ", KEY)
    await chat.call("POST", "interrupt", body={"turn": turn})
    await chat.until_kind("turn_ended", id=turn)
    await chat.call("POST", "restart-agent", body={})
    await chat.run("/crash", turn="crash")
    export = await chat.call("GET", "export", detail="full", thinking=1)
    answers = [export, await server.drive.ok("GET", "projects", "local", "agents"), await chat.summary(), chat.events]
    assert KEY not in repr(answers)
    assert files(server.folder, KEY) == []
    assert files(server.folder / "data" / "acp", TOKEN) == [] and files(server.root, TOKEN) == []
