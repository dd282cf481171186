"""What a restart finds of a turn in the log, and what of it the chat lacks. Reads only."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field

from .answer import Answer
from .chatfile import ChatFile
from .events import JsonObject, Kind
from .records import TurnRow
from .store import Store

#: of each session are looked for in its chat
NEWEST_TURNS = 3


@dataclass(slots=True)
class Logged:
    """What the log has of one turn: the agent's text, its tool calls by id, and the data and time of its end."""

    answer: Answer = field(default_factory=Answer)
    tool_calls: dict[str, JsonObject] = field(default_factory=dict)
    ended: JsonObject | None = None
    ended_at: float = 0.0


def unanswered(turns: Iterable[TurnRow], chat: ChatFile) -> list[TurnRow]:
    """Those that have ended and whose answer the chat lacks: only the log has it."""
    return [turn for turn in turns if turn.stop_reason is not None and not chat.has(f"{turn.id}-agent")]


async def logged(store: Store, session_id: str, turn_id: str) -> Logged:
    """Read a turn's events."""
    found = Logged()
    after = 0
    while events := await store.turn_events(session_id, turn_id, after):
        for event in map(json.loads, events):
            after, kind, data = event["seq"], event["kind"], event["data"]
            if kind == Kind.MESSAGE_DELTA and data.get("role") == "agent":
                found.answer.append(data.get("text", ""))
            elif kind == Kind.TOOL_CALL:
                found.tool_calls[data["toolCallId"]] = data
            elif kind == Kind.TURN_ENDED:
                found.ended, found.ended_at = data, event["time"]
    return found
