"""The real Codex through the whole stack, by codex-acp, with a stand-in for the model's service only."""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = [pytest.mark.agents, pytest.mark.timeout(120)]


async def test_a_prompt_is_answered_as_it_is_spoken(drive: Any) -> None:
    chat = await drive.open(agent="codex")
    ended = await chat.run("/think a while\n/say Hello from Codex")
    assert ended["stop_reason"] == "end_turn"
    assert chat.text("t1") == "Hello from Codex"
    assert "".join(thought["text"] for thought in chat.of("thought_delta", "t1")).strip() == "a while"
