"""What an agent asks a person, and what it is told. Pure: no I/O, no clock.

Two questions have one shape here: `session/request_permission` and `elicitation/create`. A person answers with one of
the options. "No" is one of the agent's own `reject_*` options; `cancelled` is said only because the turn was cancelled
or nobody answered in time, since agents take it as the end of the turn.
https://agentclientprotocol.com/protocol/tool-calls#requesting-permission
"""

from __future__ import annotations

from .events import JsonObject
from .exceptions import BadRequest

PERMISSION = "session/request_permission"
ELICITATION = "elicitation/create"

_ELICITATION_OPTIONS = [
    {"optionId": "accept", "name": "Accept", "kind": "allow_once"},
    {"optionId": "decline", "name": "Decline", "kind": "reject_once"},
]


def question(id: str, method: str, params: JsonObject, known_call: JsonObject | None) -> JsonObject:
    """The data of `permission_requested`.

    `known_call` is the merged state of the tool call that it is about: some agents send its id only.
    BadRequest where the agent's request offers nothing to answer with.
    """
    if method == ELICITATION:
        return {
            "id": id,
            "kind": "elicitation",
            "tool_call": known_call,
            "options": _ELICITATION_OPTIONS,
            "elicitation": {key: value for key, value in params.items() if key not in ("sessionId", "_meta")},
        }
    options = params.get("options")
    if not isinstance(options, list):
        raise BadRequest("a permission request needs a list of options")
    kept = [o for o in options if isinstance(o, dict) and isinstance(o.get("optionId"), str)]
    if not kept:
        raise BadRequest("a permission request needs at least one option with an optionId")
    call = params.get("toolCall")
    own = {k: v for k, v in call.items() if k != "_meta" and v is not None} if isinstance(call, dict) else {}
    return {"id": id, "kind": "permission", "tool_call": {**(known_call or {}), **own}, "options": kept}


def tool_call_id(params: JsonObject) -> str | None:
    """The tool call that a question is about, where it says one."""
    call = params.get("toolCall")
    found = call.get("toolCallId") if isinstance(call, dict) else params.get("toolCallId")
    return found if isinstance(found, str) else None


def answer(request: JsonObject, option_id: str, content: JsonObject | None) -> JsonObject:
    """The JSON-RPC result for a person's choice. BadRequest where it is not among the options."""
    if option_id not in {option["optionId"] for option in request["options"]}:
        raise BadRequest(f"{option_id!r} is not one of the options", "unknown_option")
    if request["kind"] == "elicitation":
        if option_id == "decline":
            return {"action": "decline"}
        form = request["elicitation"].get("mode") != "url"
        return {"action": "accept", "content": content or {}} if form else {"action": "accept"}
    return {"outcome": {"outcome": "selected", "optionId": option_id}}


def cancelled(request: JsonObject) -> JsonObject:
    """The JSON-RPC result where the turn was cancelled or nobody answered."""
    return {"action": "cancel"} if request["kind"] == "elicitation" else {"outcome": {"outcome": "cancelled"}}
