"""The real agents, each with a home of its own and a stand-in for its model's service."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .anthropic_api import messages
from .model_api import ModelApi
from .openai_api import responses

MODULES = Path(__file__).with_name("node_modules")
FAST_AGENT = Path(__file__).with_name(".venv")
# Codex refuses to work with helper programs below a temporary directory, and this folder is ignored by git.
HOMES = MODULES / ".cache"

CONFIG = """
model = "{model}"
model_provider = "stand-in"
check_for_update_on_startup = false
[analytics]
enabled = false
[feedback]
enabled = false
[model_providers.stand-in]
name = "A stand-in"
base_url = "http://127.0.0.1:{port}/v1"
wire_api = "responses"
env_key = "STAND_IN_KEY"
request_max_retries = 1
stream_max_retries = 1
supports_websockets = false
"""


@pytest.fixture
def model_api(jp_asyncio_loop: Any) -> Iterator[ModelApi]:
    async def start() -> ModelApi:
        return ModelApi({"/v1/responses": responses, "/v1/messages": messages})

    api = jp_asyncio_loop.run_until_complete(start())
    yield api
    jp_asyncio_loop.run_until_complete(api.close())


@pytest.fixture
def home() -> Iterator[Path]:
    """Where an agent keeps what it remembers."""
    HOMES.mkdir(parents=True, exist_ok=True)
    home = Path(tempfile.mkdtemp(dir=HOMES))
    yield home
    shutil.rmtree(home)


@pytest.fixture
def model() -> str:
    """One that Codex knows, as people use; for another it offers other tools."""
    return "gpt-5.5"


@pytest.fixture
def agent_config(model_api: ModelApi, home: Path, model: str) -> dict[str, Any]:
    (home / "config.toml").write_text(CONFIG.format(model=model, port=model_api.port))
    # all the rest, the access mapping too, is as the bundled catalogue has it
    return {
        "codex": {
            "command": [str(MODULES / ".bin" / "codex-acp")],
            "env": {"CODEX_HOME": str(home), "STAND_IN_KEY": "none"},
        },
        "claude": {
            # it needs a newer Node than we do
            "command": [
                str(MODULES / ".bin" / "node"),
                str(MODULES / "@agentclientprotocol" / "claude-agent-acp" / "dist" / "index.js"),
            ],
            "env": {
                "HOME": str(home),
                "CLAUDE_CONFIG_DIR": str(home),
                "ANTHROPIC_BASE_URL": f"http://127.0.0.1:{model_api.port}",
                "ANTHROPIC_API_KEY": "none",
                "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
                "IS_SANDBOX": "1",
            },
        },
        # one that runs its own tools, also where it is offered ours
        "codex-offered": {
            "command": [str(MODULES / ".bin" / "codex-acp")],
            "env": {"CODEX_HOME": str(home), "STAND_IN_KEY": "none"},
            "placement": "host-delegated",
        },
        "fast-agent": {
            "command": [str(FAST_AGENT / "bin" / "fast-agent"), "acp", "--shell"],
            "env": {
                "FAST_AGENT_HOME": str(home),
                "FAST_AGENT_MODEL": "claude-sonnet-4-5",
                "ANTHROPIC_API_KEY": "none",
                "ANTHROPIC__BASE_URL": f"http://127.0.0.1:{model_api.port}",
            },
        },
    }
