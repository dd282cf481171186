"""One turn as it comes out of the log, and what of it stays in the notebook. Pure: events in, text out."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..events import Event, JsonObject, Kind
from .text import entities, markdown, printable

_MARKS = {"completed": "✓", "failed": "✗", "cancelled": "⊘"}


@dataclass(slots=True)
class Transcript:
    """What is known of `turn` after the event `seq`.

    `answer` is the agent's text, `tool_calls` are the merged states by id, `stop_reason` is None while it runs,
    `changes` counts what it changed in files, None where that is nothing.
    """

    turn: str
    seq: int
    started: bool = False
    stop_reason: str | None = None
    error: str | None = None
    changes: JsonObject | None = None
    tool_calls: dict[str, JsonObject] = field(default_factory=dict)
    _texts: dict[str, list[str]] = field(default_factory=dict)

    @property
    def answer(self) -> str:
        """The agent's text so far, its messages parted by an empty line."""
        return "\n\n".join(text for parts in self._texts.values() if (text := "".join(parts).strip("\n")))

    def apply(self, event: Event) -> bool:
        """Take in one event; False if it is of another turn or was seen before."""
        if event.seq <= self.seq:
            return False
        self.seq = event.seq
        if event.turn != self.turn and event.data.get("id") != self.turn:
            return False
        data = event.data
        match event.kind:
            case Kind.TURN_STARTED:
                self.started = True
            case Kind.MESSAGE_DELTA if data["role"] == "agent":
                self._texts.setdefault(data["message_id"], []).append(data["text"])
            case Kind.MESSAGE if data["role"] == "agent":
                self._texts[data["message_id"]] = [data["text"]]
            case Kind.TOOL_CALL:
                self.tool_calls[data["toolCallId"]] = data
            case Kind.TURN_ENDED:
                self.stop_reason = data["stop_reason"]
                self.error = (data.get("error") or {}).get("message")
                self.changes = data.get("changes")
        return True

    def to_markdown(self) -> str:
        """The turn for a reader of the saved notebook: its tool calls folded, then the answer. It cannot act."""
        parts = []
        if self.tool_calls:
            count = len(self.tool_calls)
            lines = "".join(f"<li>{entities(_line(call))}</li>\n" for call in self.tool_calls.values())
            summary = f"<summary>{count} tool call{'s' if count > 1 else ''}</summary>"
            parts.append(f"<details>{summary}\n<ul>\n{lines}</ul>\n</details>")
        return "\n\n".join([*parts, *filter(None, [markdown(self.answer)]), *map(_emphasis, self._endings())])

    def to_text(self) -> str:
        """The answer as plain text."""
        return "\n\n".join([*filter(None, [printable(self.answer)]), *(f"[{ending}]" for ending in self._endings())])

    def _endings(self) -> list[str]:
        changed = [] if self.changes is None else [_counted(self.changes)]
        if self.error is not None:
            return [*changed, f"ended with an error: {self.error}"]
        return changed if self.stop_reason in (None, "end_turn") else [*changed, f"ended: {self.stop_reason}"]


def _counted(changes: JsonObject) -> str:
    files, added, removed = (changes.get(name, 0) for name in ("files", "added", "removed"))
    return f"{files} file{'s' if files != 1 else ''} changed +{added} −{removed}"


def _line(call: JsonObject) -> str:
    title = " ".join(printable(str(call.get("title") or call["toolCallId"])).split())
    return f"{_MARKS.get(str(call.get('status')), '·')} {title}"


def _emphasis(text: str) -> str:
    return f"*{entities(' '.join(printable(text).split()))}*"
