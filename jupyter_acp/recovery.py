"""What a restart finds of a turn in the log, and what of it the chat lacks. Reads only."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from .events import JsonObject, Kind
from .store import Store


@dataclass(slots=True)
class Logged:
    """What the log has of one turn: the agent's text, its tool calls by id, and the data and time of its end."""

    text: list[str] = field(default_factory=list)
    tool_calls: dict[str, JsonObject] = field(default_factory=dict)
    ended: JsonObject | None = None
    ended_at: float = 0.0


async def logged(store: Store, session_id: str, turn_id: str) -> Logged:
    """Read a turn's events."""
    found = Logged()
    after = 0
    while events := await store.turn_events(session_id, turn_id, after):
        for event in map(json.loads, events):
            after, kind, data = event["seq"], event["kind"], event["data"]
            if kind == Kind.MESSAGE_DELTA and data.get("role") == "agent":
                found.text.append(data.get("text", ""))
            elif kind == Kind.TOOL_CALL:
                found.tool_calls[data["toolCallId"]] = data
            elif kind == Kind.TURN_ENDED:
                found.ended, found.ended_at = data, event["time"]
    return found
