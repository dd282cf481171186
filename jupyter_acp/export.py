"""A conversation as Markdown. Pure: messages and events in, text out."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from .events import JsonObject, Kind, clean

if TYPE_CHECKING:
    from .session import Session

_FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})([^\n]*)$", re.MULTILINE)
_RUN = re.compile(r"`+")
_NOT_KEPT = "*The details of this turn are not kept any more.*"


def to_markdown(session: Session, events: Iterable[JsonObject], *, detail: str, thinking: bool) -> str:
    """The whole conversation of a session."""
    page = session.chat.page(limit=1 << 60)
    return render(session.row.title, page.messages, page.users, events, detail=detail, thinking=thinking)


def render(
    title: str,
    messages: Sequence[JsonObject],
    users: Mapping[str, JsonObject],
    events: Iterable[JsonObject] = (),
    *,
    detail: str = "compact",
    thinking: bool = False,
) -> str:
    """Messages under a heading each.

    `detail` is "compact" (what was said) or "full" (also tool calls with their output, plans, permissions and
    changed files, in the order they came, before the answer of their turn); `thinking` adds the agent's thoughts.
    Where either is asked for and the log does not have the turn from its start, the export says so.
    """
    events = list(events)
    work = _work(events, full=detail == "full", thinking=thinking)
    kept = {event["turn"] for event in events if event["kind"] == Kind.TURN_STARTED}
    kept.add(None)  # a message of no turn has no details
    answered = {_turn(message) for message in messages if message["role"] == "agent"}
    parts = [f"# {_line(title)}"]
    for message in messages:
        turn = _turn(message)
        is_last = message["role"] == "agent" or turn not in answered
        doing = work.pop(turn, []) if is_last else []
        if is_last and turn not in kept and (detail == "full" or thinking):
            doing = [_NOT_KEPT, *doing]
        said = "*deleted*" if message.get("deleted") else _closed(message["body"].strip())
        heading = f"## {_heading(message, users)}"
        parts += [heading, *doing, said] if message["role"] == "agent" else [heading, said, *doing]
    for left in work.values():
        parts += left
    return clean("\n\n".join(part for part in parts if part) + "\n")


def fenced(text: str, language: str = "") -> str:
    """A code block whose fence is longer than any inside."""
    fence = "`" * max(3, max((len(run) for run in _RUN.findall(text)), default=0) + 1)
    return f"{fence}{language}\n{text.rstrip(chr(10))}\n{fence}"


def _work(events: Iterable[JsonObject], *, full: bool, thinking: bool) -> dict[str | None, list[str]]:
    """What an agent did besides talking, by turn. A tool call stands where it began, as it ended."""
    turns: dict[str | None, dict[str, str]] = {}
    thoughts: dict[str, str] = {}
    output: dict[str, str] = {}
    calls: list[tuple[dict[str, str], str, JsonObject]] = []
    for event in events:
        kind, data, turn = event["kind"], event["data"], event["turn"]
        if kind == Kind.THOUGHT_DELTA and thinking:
            key = f"thought {data.get('message_id')}"
            thoughts[key] = thoughts.get(key, "") + str(data.get("text", ""))
            turns.setdefault(turn, {})[key] = f"> *Thinking.* {_quoted(thoughts[key])}"
        elif not full:
            continue
        elif kind == Kind.TERMINAL_OUTPUT:
            terminal = str(data.get("terminal_id"))
            output[terminal] = output.get(terminal, "") + str(data.get("data", ""))
        elif kind == Kind.TOOL_CALL:
            parts, key = turns.setdefault(turn, {}), f"call {data.get('toolCallId')}"
            parts.setdefault(key, "")
            calls.append((parts, key, data))
        elif text := _simple(kind, data):
            turns.setdefault(turn, {})[_key(event)] = text
    for parts, key, data in calls:
        parts[key] = _tool_call(data, output)
    return {turn: list(parts.values()) for turn, parts in turns.items()}


def _key(event: JsonObject) -> str:
    """The same for events of which the later one takes the place of the earlier."""
    kind, data = event["kind"], event["data"]
    if kind == Kind.PLAN:
        return str(Kind.PLAN)
    if kind == Kind.FILE_CHANGED and data.get("change") != "reverted":
        return f"file {data.get('path')}"  # first that it was written, then what came of it
    return f"event {event['seq']}"


def _simple(kind: str, data: JsonObject) -> str:
    if kind == Kind.PLAN:
        marks = {"completed": "x", "in_progress": "-"}
        entries = data.get("entries", [])
        return "\n".join(f"- [{marks.get(e.get('status'), ' ')}] {_line(e.get('content'))}" for e in entries)
    if kind == Kind.PERMISSION_RESOLVED:
        choice = f": {_code(data['option_id'])}" if data.get("option_id") else ""
        by = f" by {_line(data['by'])}" if data.get("by") else ""
        return f"- Permission {_line(data.get('outcome'))}{choice}{by}"
    if kind == Kind.FILE_CHANGED:
        return _file_changed(data)
    if kind == Kind.NOTICE:
        return f"- {_line(data.get('title'))}"
    return ""


def _file_changed(data: JsonObject) -> str:
    words = {"added": "Created", "deleted": "Deleted", "renamed": "Renamed", "reverted": "Reverted"}
    word = words.get(str(data.get("change")), "Changed")
    before = f"{_code(data['old_path'])} to " if data.get("old_path") else ""
    added, removed = (data.get(name) or 0 for name in ("added", "removed"))
    counts = f" (+{added} −{removed})" if added or removed else ""
    by = f" by {_line(data['by'])}" if data.get("by") else ""
    return f"- {word} {before}{_code(data.get('path'))}{counts}{by}"


def _tool_call(data: JsonObject, output: Mapping[str, str]) -> str:
    about = ", ".join(_line(data[name]) for name in ("kind", "status") if data.get(name))
    parts = [f"**Tool call** {_code(data.get('title') or data.get('toolCallId'))}" + (f" ({about})" if about else "")]
    for item in data.get("content") or []:
        if not isinstance(item, dict):
            continue
        content = item.get("content")
        if item.get("type") == "diff":
            parts += [f"Changes of {_code(item.get('path'))}, before and after:"]
            parts += [fenced(str(item[side])) for side in ("oldText", "newText") if item.get(side)]
        elif item.get("type") == "terminal":
            if text := output.get(str(item.get("terminalId"))):
                parts.append(fenced(text))
        elif isinstance(content, dict) and isinstance(content.get("text"), str):
            parts.append(fenced(content["text"]))
        else:
            parts.append(fenced(_json(item), "json"))
    if not data.get("content") and data.get("rawOutput") is not None:
        raw = data["rawOutput"]
        parts.append(fenced(raw) if isinstance(raw, str) else fenced(_json(raw), "json"))
    return "\n\n".join(parts)


def _turn(message: JsonObject) -> str | None:
    turn = message.get("metadata", {}).get("acp", {}).get("turn")
    return turn if isinstance(turn, str) else None


def _heading(message: JsonObject, users: Mapping[str, JsonObject]) -> str:
    user = users.get(message["sender"], {})
    name = user.get("display_name") or user.get("name") or message["sender"] or "?"
    try:
        time = datetime.fromtimestamp(message["time"], UTC).strftime("%Y-%m-%d %H:%M UTC")
    except (OverflowError, ValueError, OSError):
        time = "?"
    return f"{_line(name)} · {time}" + (" (edited)" if message.get("edited") else "")


def _closed(body: str) -> str:
    """`body` with a code block that it leaves open closed, lest it swallow what follows."""
    fence = ""
    for run, rest in _FENCE.findall(body):
        if not fence:
            # a line that opens and closes inline code is no fence
            fence = "" if run[0] == "`" and "`" in rest else run
        elif run[0] == fence[0] and len(run) >= len(fence) and not rest.strip():
            fence = ""
    return f"{body}\n{fence}" if fence else body


def _line(text: Any) -> str:
    return " ".join(str(text).split())


def _code(text: Any) -> str:
    """`text` as inline code, whatever backticks it holds."""
    line = _line(text)
    marks = "`" * (max((len(run) for run in _RUN.findall(line)), default=0) + 1)
    space = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{marks}{space}{line}{space}{marks}"


def _quoted(text: str) -> str:
    return "\n> ".join(text.strip().splitlines())


def _json(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)
