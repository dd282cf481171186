"""Scripted agents of every behaviour, by the id that a test asks for."""

from __future__ import annotations

from typing import Any

import pytest

from jupyter_acp.testing import command

SWITCHES = {
    "slow-start": ["--slow-start", "1.5"],
    "no-resume": ["--no-resume"],
    "no-load": ["--no-resume", "--no-load"],
    "fail-load": ["--fail-load"],
    "wrong-mode": ["--wrong-mode"],
    "deaf": ["--deaf"],
    "modes": ["--options", "modes"],
    "models": ["--options", "models"],
    "early": ["--update-before-new"],
    "auth": ["--auth-required"],
    "broken": ["--exit-at-start", "7"],
    "echo-user": ["--echo-user"],
    "ignore-eof": ["--ignore-eof"],
}


@pytest.fixture
def agent_config() -> dict[str, Any]:
    agents: dict[str, Any] = {name: {"command": command(*switches)} for name, switches in SWITCHES.items()}
    agents["missing"] = {"command": ["/no/such/program"]}
    return agents
