"""What a `session/update` says, as data of the log. Pure. Tool calls have a state of their own: `ToolCalls`.

What nobody here knows becomes `unknown_update` and is shown as a card; nothing is dropped (DESIGN 2.5).
https://agentclientprotocol.com/protocol/prompt-turn#the-prompt-turn-lifecycle
"""

from __future__ import annotations

import os.path
import shlex
from collections.abc import Callable, Iterable
from typing import TypeAlias

from .events import JsonObject, Kind, encode

Entry: TypeAlias = tuple[Kind, JsonObject]

META_LIMIT = 16 << 10
_CALLS_KEPT = 1000
_OPEN = ("pending", "in_progress")
_TERMINAL_KEYS = ("terminal_info", "terminal_output", "terminal_output_delta", "terminal_exit")
# what is ours to tell, not the agent's
_OURS = ("route", "placement")
#: of a tool's arguments
_PATH_KEYS = ("path", "file_path", "filePath")


def translate(update: JsonObject) -> list[Entry]:
    """The log entries of one update. Those that change a state (tool calls, options) yield none here."""
    name = update.get("sessionUpdate")
    translator = _TRANSLATORS.get(name) if isinstance(name, str) else None
    try:
        found = translator(update) if translator else None
    except (KeyError, TypeError, AttributeError):
        # a known name with other contents than the protocol's is as good as an unknown one
        found = None
    return [(Kind.UNKNOWN_UPDATE, {"update": trim(update)})] if found is None else found


def trim(value: JsonObject) -> JsonObject:
    """`value` without a `_meta` that is too big to keep (qwen sends half a megabyte)."""
    meta = value.get("_meta")
    return {k: v for k, v in value.items() if k != "_meta"} if meta and not _small(meta) else value


def content_text(content: JsonObject) -> str:
    """A content block as text, empty for one that has none."""
    kind = content.get("type")
    if kind == "text" and isinstance(content.get("text"), str):
        return str(content["text"])
    if kind == "resource_link" and isinstance(content.get("uri"), str):
        return f"[{content.get('name') or content['uri']}]({content['uri']})"
    return ""


class ToolCalls:
    """The tool calls of one session, each merged from all that the agent said of it.

    Parameters
    ----------
    ours
        Whether a terminal id is one that this client made; a call that shows such a terminal was delegated to us.
    placement
        Where the agent's process runs.
    """

    def __init__(self, ours: Callable[[str], bool] = lambda terminal_id: False, *, placement: str = "project") -> None:
        self._ours = ours
        self._placement = placement
        self._calls: dict[str, JsonObject] = {}
        self._terminals: dict[str, list[str]] = {}

    def apply(self, update: JsonObject) -> list[Entry]:
        """Merge a `tool_call` or `tool_call_update`: the call's whole state if it changed, then terminal entries.

        An update may come without a call before it. Fields that are null or absent stay; lists replace wholesale.
        """
        id = update.get("toolCallId")
        if not isinstance(id, str):
            return [(Kind.UNKNOWN_UPDATE, {"update": trim(update)})]
        meta = update.get("_meta")
        meta = dict(meta) if isinstance(meta, dict) else {}
        terminal = {key: meta.pop(key) for key in _TERMINAL_KEYS if key in meta}
        fields = {k: v for k, v in update.items() if v is not None and k not in ("sessionUpdate", "_meta", *_OURS)}
        if meta and _small(meta):
            fields["_meta"] = meta
        before = self._calls.get(id)
        if before is not None and update.get("sessionUpdate") == "tool_call" and before["status"] not in _OPEN:
            before = None  # some agents use an id again
            self._terminals.pop(id, None)
        call = _typed({**(before or _new(id, fields, self._placement)), **fields})
        self._note_terminal(id, terminal)
        self._complete(id, call)
        entries: list[Entry] = [] if call == before else [(Kind.TOOL_CALL, dict(call))]
        self._keep(id, call)
        return entries + list(_terminal_entries(id, terminal))

    def get(self, id: str) -> JsonObject | None:
        """The state of one call."""
        call = self._calls.get(id)
        return dict(call) if call is not None else None

    def restore(self, data: JsonObject) -> None:
        """Know a call again from its newest event in the log."""
        if isinstance(data.get("toolCallId"), str):
            self._keep(data["toolCallId"], {**_new(data["toolCallId"], data, self._placement), **data})

    def asked(self, told: JsonObject) -> JsonObject | None:
        """What a question tells of an open call that had no arguments or places yet: its state if it changed.

        fast-agent says nowhere else which file it wants to read.
        """
        before = self._calls.get(str(told.get("toolCallId")))
        if before is None or before["status"] not in _OPEN:
            return None
        news = {key: told[key] for key in ("rawInput", "locations") if told.get(key) and not before[key]}
        call = _typed({**before, **news})
        self._keep(call["toolCallId"], call)
        return dict(call) if call != before else None

    def named_by(self, method: str, params: JsonObject) -> str | None:
        """The open call that a request of the agent to us is made for.

        No protocol says which that is. It is the one that names the same file or command, letter by letter; None where
        none does, or more than one.
        """
        names = _NAMED.get(method, _names_nothing)
        candidates = (call for call in self._calls.values() if call["status"] in _OPEN and call["route"] != "mcp")
        found = [str(call["toolCallId"]) for call in candidates if names(call, params)]
        return found[0] if len(found) == 1 else None

    def delegated(self, id: str, terminal_id: str | None = None) -> JsonObject | None:
        """We carry a call out, in that terminal of ours, which its contents may not name: its state if it changed."""
        before = self._calls.get(id)
        if before is None:
            return None
        call = {**before, "route": "delegated"}
        if terminal_id is not None:
            self._note_terminal(id, {"terminal_info": {"terminal_id": terminal_id}})
            self._complete(id, call)
        self._keep(id, call)
        return dict(call) if call != before else None

    def close_open(self, status: str) -> list[JsonObject]:
        """Give every call that has no end yet this status; returns their states."""
        closed = [{**call, "status": status} for call in self._calls.values() if call["status"] in _OPEN]
        for call in closed:
            self._calls[call["toolCallId"]] = call
        return [dict(call) for call in closed]

    def _note_terminal(self, id: str, terminal: JsonObject) -> None:
        info = terminal.get("terminal_info")
        if isinstance(info, dict):
            known = self._terminals.setdefault(id, [])
            if (terminal_id := _terminal_id(info, id)) not in known:
                known.append(terminal_id)

    def _complete(self, id: str, call: JsonObject) -> None:
        """Add what the call's own contents do not say: the agent's terminals, and the route."""
        shown = [
            c["terminalId"] for c in call["content"] if isinstance(c, dict) and isinstance(c.get("terminalId"), str)
        ]
        missing = [t for t in self._terminals.get(id, ()) if t not in shown]
        if missing:
            # its output stays on screen, even if later contents leave the terminal out
            call["content"] = call["content"] + [{"type": "terminal", "terminalId": t} for t in missing]
        name = call.get("name")
        if any(map(self._ours, shown)):
            call["route"] = "delegated"
        elif isinstance(name, str) and name.startswith("mcp__"):
            call["route"] = "mcp"

    def _keep(self, id: str, call: JsonObject) -> None:
        self._calls[id] = call
        if len(self._calls) > _CALLS_KEPT:
            oldest = next((i for i, c in self._calls.items() if c["status"] not in _OPEN), next(iter(self._calls)))
            del self._calls[oldest]
            self._terminals.pop(oldest, None)


def _new(id: str, fields: JsonObject, placement: str) -> JsonObject:
    return {
        "toolCallId": id,
        "title": fields.get("name") or id,
        "kind": "other",
        "status": "pending",
        "content": [],
        "locations": [],
        "rawInput": None,
        "rawOutput": None,
        "route": "agent",
        "placement": placement,
    }


def _typed(call: JsonObject) -> JsonObject:
    """`call` with lists where readers iterate, and texts where they compare, whatever the agent sent."""
    for key in ("content", "locations"):
        if not isinstance(call[key], list):
            call[key] = [call[key]]
    for key in ("title", "kind", "status"):
        if not isinstance(call[key], str):
            call[key] = encode(call[key])
    return call


def _names_file(call: JsonObject, params: JsonObject) -> bool:
    """Whether an open call says that it works on the file of a `fs/*` request."""
    given = call["rawInput"] if isinstance(call["rawInput"], dict) else {}
    named = [given.get(key) for key in _PATH_KEYS]
    named += [item.get("path") for item in (*call["locations"], *call["content"]) if isinstance(item, dict)]
    paths = [os.path.normpath(path) for path in (params.get("path"), *named) if isinstance(path, str)]
    return isinstance(params.get("path"), str) and paths[0] in paths[1:]


def _names_command(call: JsonObject, params: JsonObject) -> bool:
    """Whether an open call says that it runs the command of a `terminal/create`: as it is, or as a line for a shell."""
    given = call["rawInput"] if isinstance(call["rawInput"], dict) else {}
    line, args = given.get("command"), given.get("args")
    asked = [params.get("command"), *_list(params.get("args"))]
    if not isinstance(line, str):
        return False
    if args:
        return asked == [line, *_list(args)]
    line = line.strip()
    return asked == [line] or (len(asked) == 3 and asked[1:] in (["-c", line], ["-lc", line])) or asked == _split(line)


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _split(line: str) -> list[str] | None:
    try:
        return shlex.split(line)
    except ValueError:
        return None


def _names_nothing(call: JsonObject, params: JsonObject) -> bool:
    return False


_NAMED: dict[str, Callable[[JsonObject, JsonObject], bool]] = {
    "fs/read_text_file": _names_file,
    "fs/write_text_file": _names_file,
    "terminal/create": _names_command,
}


def _terminal_entries(id: str, terminal: JsonObject) -> Iterable[Entry]:
    for key in ("terminal_output", "terminal_output_delta"):
        output = terminal.get(key)
        if isinstance(output, dict) and isinstance(output.get("data"), str) and output["data"]:
            yield Kind.TERMINAL_OUTPUT, {"terminal_id": _terminal_id(output, id), "data": output["data"]}
    ended = terminal.get("terminal_exit")
    if isinstance(ended, dict):
        data = {"exit_code": ended.get("exit_code"), "signal": ended.get("signal")}
        yield Kind.TERMINAL_EXITED, {"terminal_id": _terminal_id(ended, id), **data}


def _terminal_id(meta: JsonObject, call_id: str) -> str:
    found = meta.get("terminal_id")
    return found if isinstance(found, str) else call_id


def _small(meta: object) -> bool:
    return len(encode(meta)) <= META_LIMIT


def _chunk(kind: Kind, role: str | None) -> Callable[[JsonObject], list[Entry]]:
    def translator(update: JsonObject) -> list[Entry]:
        content = update["content"]
        data: JsonObject = {"text": content_text(content)}
        if role is not None:
            data["role"] = role
        if isinstance(update.get("messageId"), str):
            data["message_id"] = update["messageId"]
        if content["type"] != "text":
            data["content"] = trim(content)
        return [(kind, data)]

    return translator


def _plan(update: JsonObject) -> list[Entry] | None:
    entries = update["entries"]
    return [(Kind.PLAN, {"entries": entries})] if isinstance(entries, list) else None


def _commands(update: JsonObject) -> list[Entry]:
    commands = [trim(c) for c in update["availableCommands"] if isinstance(c, dict)]
    return [(Kind.COMMANDS, {"commands": commands})]


def _usage(update: JsonObject) -> list[Entry]:
    cost = {"cost": update["cost"]} if update.get("cost") is not None else {}
    return [(Kind.USAGE, {"used": update["used"], "size": update["size"], **cost})]


def _notice(update: JsonObject) -> list[Entry] | None:
    if not isinstance(update["title"], str):
        return None
    more = {"description": update["description"]} if update.get("description") is not None else {}
    return [(Kind.NOTICE, {"severity": update.get("severity", "info"), "title": update["title"], **more})]


def _info(update: JsonObject) -> list[Entry]:
    # three states: absent is unchanged, null is cleared
    return [(Kind.SESSION_CHANGED, {"title": update["title"]})] if "title" in update else []


def _state(update: JsonObject) -> list[Entry]:
    return []


_TRANSLATORS: dict[str, Callable[[JsonObject], list[Entry] | None]] = {
    "agent_message_chunk": _chunk(Kind.MESSAGE_DELTA, "agent"),
    "user_message_chunk": _chunk(Kind.MESSAGE_DELTA, "user"),
    "agent_thought_chunk": _chunk(Kind.THOUGHT_DELTA, None),
    "plan": _plan,
    "available_commands_update": _commands,
    "usage_update": _usage,
    "notice": _notice,
    "session_info_update": _info,
    "tool_call": _state,
    "tool_call_update": _state,
    "current_mode_update": _state,
    "config_option_update": _state,
}
