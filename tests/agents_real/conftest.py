"""The real agents, each with a home of its own and a stand-in for its model's service."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .model_api import ModelApi

MODULES = Path(__file__).with_name("node_modules")
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
        return ModelApi()

    api = jp_asyncio_loop.run_until_complete(start())
    yield api
    jp_asyncio_loop.run_until_complete(api.close())


@pytest.fixture
def codex_home() -> Iterator[Path]:
    HOMES.mkdir(parents=True, exist_ok=True)
    home = Path(tempfile.mkdtemp(prefix="codex-", dir=HOMES))
    yield home
    shutil.rmtree(home)


@pytest.fixture
def model() -> str:
    """One that Codex knows, as people use; for another it offers other tools."""
    return "gpt-5.5"


@pytest.fixture
def agent_config(model_api: ModelApi, codex_home: Path, model: str) -> dict[str, Any]:
    (codex_home / "config.toml").write_text(CONFIG.format(model=model, port=model_api.port))
    # all the rest, the access mapping too, is as the bundled catalogue has it
    return {
        "codex": {
            "command": [str(MODULES / ".bin" / "codex-acp")],
            "env": {"CODEX_HOME": str(codex_home), "STAND_IN_KEY": "none"},
        }
    }
