"""The nouns of the log: kinds, the event, and its JSON. Imports nothing of ours but exceptions.

`data` stays a plain JSON object: what an agent sends travels end to end, unknown fields included (DESIGN 2.5).
docs/reference/events.md describes the data of every kind.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeAlias

JsonObject: TypeAlias = dict[str, Any]
"""A JSON object as it came off the wire. The one place where Any is meant: its keys are somebody else's."""


class Kind(StrEnum):
    """Every kind of event. Readers ignore kinds that they do not know."""

    SESSION_CREATED = "session_created"
    SESSION_CHANGED = "session_changed"
    SESSION_CLOSED = "session_closed"
    TURN_QUEUED = "turn_queued"
    TURN_EDITED = "turn_edited"
    TURN_STARTED = "turn_started"
    TURN_ENDED = "turn_ended"
    MESSAGE = "message"
    MESSAGE_DELTA = "message_delta"
    MESSAGE_CHANGED = "message_changed"
    THOUGHT_DELTA = "thought_delta"
    TOOL_CALL = "tool_call"
    TERMINAL_OUTPUT = "terminal_output"
    TERMINAL_EXITED = "terminal_exited"
    PLAN = "plan"
    PERMISSION_REQUESTED = "permission_requested"
    PERMISSION_RESOLVED = "permission_resolved"
    FILE_CHANGED = "file_changed"
    AGENT_STARTED = "agent_started"
    AGENT_EXITED = "agent_exited"
    USAGE = "usage"
    COMMANDS = "commands"
    NOTICE = "notice"
    UNKNOWN_UPDATE = "unknown_update"


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One entry of a session's log.

    `seq` rises by one within a session, from 1. `time` is seconds since the epoch, for display only: order comes
    from `seq`. `turn` is the id of the turn it belongs to, or None.
    """

    seq: int
    time: float
    turn: str | None
    kind: Kind
    data: JsonObject

    def to_json(self) -> str:
        """The wire form, on one line."""
        return encode({"seq": self.seq, "time": self.time, "turn": self.turn, "kind": self.kind, "data": self.data})

    @classmethod
    def from_json(cls, text: str) -> Event:
        """The inverse of `to_json`. ValueError for a kind that this version does not know."""
        raw = json.loads(text)
        return cls(seq=raw["seq"], time=raw["time"], turn=raw["turn"], kind=Kind(raw["kind"]), data=raw["data"])


_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode


def encode(value: object) -> str:
    """Compact JSON that is valid UTF-8: a lone surrogate (agents slice strings) becomes U+FFFD, NaN becomes null."""
    try:
        text = _encode(value)
        text.encode()
    except UnicodeEncodeError:
        return clean(text)
    except ValueError:
        return encode(_finite(value))
    return text


def clean(text: str) -> str:
    """`text` with every lone surrogate replaced by U+FFFD, so that it can be stored and sent."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _finite(value: object) -> object:
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
