"""Real agents that have no key: they call the stand-in for their model's service through forwarder and egress proxy."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jupyter_acp.agentspec import Catalogue, provider_environment
from jupyter_acp.egress.forwarder import Forwarder
from jupyter_acp.egress.providers import Providers
from jupyter_acp.egress.proxy import EgressProxy

from .conftest import MODULES
from .model_api import ModelApi
from .watching import answer

pytestmark = [pytest.mark.agents, pytest.mark.timeout(120)]

KEY = "sk-planted-0123456789"


@pytest.fixture
def egress(jp_asyncio_loop: Any, model_api: ModelApi, tmp_path: Path) -> Iterator[tuple[EgressProxy, Forwarder]]:
    """Both ends of the way to the model's service."""
    key_file = tmp_path / "key"
    key_file.touch(0o600)
    key_file.write_text(KEY)
    url = f"http://127.0.0.1:{model_api.port}"
    providers = Providers.load(
        {
            "openai": {"url": f"{url}/v1", "key_file": str(key_file)},
            "anthropic": {"url": url, "key_file": str(key_file)},
        }
    )
    socket = tmp_path / "egress" / "egress.sock"
    proxy = EgressProxy(socket, providers, tmp_path / "usage.json", project="p1", root=tmp_path / "project")
    forwarder = Forwarder(0, socket)
    jp_asyncio_loop.run_until_complete(proxy.start())
    jp_asyncio_loop.run_until_complete(forwarder.start())
    yield proxy, forwarder
    jp_asyncio_loop.run_until_complete(forwarder.stop())
    jp_asyncio_loop.run_until_complete(proxy.stop())


@pytest.fixture
def agent_config(egress: tuple[EgressProxy, Forwarder], home: Path) -> dict[str, Any]:
    proxy, forwarder = egress
    catalogue = Catalogue.load(configured={"codex": {"env": {"CODEX_CONFIG": '{"model": "gpt-5.5"}'}}})

    def env(id: str) -> dict[str, str]:
        return provider_environment(catalogue.get(id), proxy.providers, forwarder.port)

    claude = MODULES / "@agentclientprotocol" / "claude-agent-acp" / "dist" / "index.js"
    return {
        "codex": {
            "command": [str(MODULES / ".bin" / "codex-acp")],
            "env": {"CODEX_HOME": str(home), **env("codex")},
            "pass_env": [],
        },
        "claude": {
            "command": [str(MODULES / ".bin" / "node"), str(claude)],
            "env": {"HOME": str(home), "CLAUDE_CONFIG_DIR": str(home), "IS_SANDBOX": "1", **env("claude")},
        },
    }


async def test_codex_answers_runs_a_command_and_changes_a_file_without_a_key(
    drive: Any, egress: tuple[EgressProxy, Forwarder], model_api: ModelApi, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    chat = await drive.open(agent="codex")
    ended = await chat.run("/run echo hello > made; cat made\n/write notes.txt written by Codex\n/say Hello from Codex")
    assert ended["stop_reason"] == "end_turn", ended
    assert chat.text("t1") == "Hello from Codex"
    assert (drive.root / "made").read_text() == "hello\n"
    assert (drive.root / "notes.txt").read_text() == "written by Codex\n"
    assert egress[0].usage()["tokens_today"] >= 15  # of three requests at least
    # nothing else was tried first, a WebSocket for example
    lines = [record.getMessage() for record in caplog.records if record.name == "jupyter_acp.egress.proxy"]
    assert {line.split(" sent=")[0] for line in lines} <= {
        "project=p1 POST /openai/responses 200",
        "project=p1 GET /openai/models 404",  # of the stand-in
    }, lines


async def test_stop_drops_what_codex_asks_of_the_model_also_through_the_proxy(drive: Any, model_api: ModelApi) -> None:
    chat = await drive.open(agent="codex")
    turn = await chat.submit("/say so far\n/hang")
    await model_api.hanging.wait()
    await chat.call("POST", "interrupt", body={"turn": turn})
    assert (await chat.until_kind("turn_ended", id=turn))["data"]["stop_reason"] == "cancelled"
    async with asyncio.timeout(10):
        await model_api.hung_up.wait()
    assert (await chat.run("/say next"))["stop_reason"] == "end_turn"


async def test_codex_ends_its_turn_at_once_where_the_project_has_used_up_its_tokens(
    drive: Any, egress: tuple[EgressProxy, Forwarder], model_api: ModelApi
) -> None:
    egress[0].used.add(10)
    egress[0].limit = 10
    chat = await drive.open(agent="codex")
    await chat.run("/say never")
    assert "429 Too Many Requests" in chat.text("t1")  # Codex keeps the reason to itself
    assert not model_api.requests


async def test_claude_answers_and_runs_a_command_without_a_key(
    drive: Any, egress: tuple[EgressProxy, Forwarder]
) -> None:
    chat = await drive.open(agent="claude")
    turn = await chat.submit("Please:\n/run touch made\n/say Hello from Claude")
    await answer(chat, "allow_once")
    await chat.until_kind("turn_ended", id=turn)
    assert chat.text(turn) == "Hello from Claude"
    assert (drive.root / "made").exists()
    assert egress[0].usage()["tokens_today"] > 0
