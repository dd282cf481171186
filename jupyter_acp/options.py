"""An agent's config options, modes and models as one list, shaped like ACP v2's config options. Pure.

Three generations are in use on the wire: `configOptions`, else `modes`, else `models`. Each option is
`{id, name, category, type, currentValue, options}` with whatever else the agent says of it, and `_source` tells by
which method it is set. The whole list is replaced by each reply: setting one option may change another.
https://agentclientprotocol.com/protocol/session-config-options
"""

from __future__ import annotations

from .events import JsonObject

CONFIG, MODE, MODEL = "config", "mode", "model"


def from_reply(reply: JsonObject) -> list[JsonObject]:
    """The options that the reply to `session/new`, `load` or `resume` brings."""
    found = _config(reply.get("configOptions"))
    if not found:
        found = _legacy(reply.get("modes"), MODE, "currentModeId", "availableModes", "id")
    if not any(_is(option, MODEL) for option in found):
        found += _legacy(reply.get("models"), MODEL, "currentModelId", "availableModels", "modelId")
    return found


def apply_update(options: list[JsonObject], update: JsonObject) -> list[JsonObject]:
    """The options after `current_mode_update` or `config_option_update`. Also takes the reply to a set request."""
    if isinstance(update.get("configOptions"), list):
        return _replaced(options, _config(update["configOptions"]))
    mode = update.get("currentModeId")
    if not isinstance(mode, str):
        return options
    # claude sends this besides a config option of the same meaning
    return [_with(o, mode) if o["_source"] == MODE or (_is(o, MODE) and mode in values(o)) else o for o in options]


def request(options: list[JsonObject], id: str, value: object) -> tuple[str, JsonObject]:
    """Method and params (without `sessionId`) that set an option. KeyError where there is none of that id."""
    option = next((o for o in options if o["id"] == id), None)
    if option is None:
        raise KeyError(id)
    if option["_source"] == MODE:
        return "session/set_mode", {"modeId": value}
    if option["_source"] == MODEL:
        return "session/set_model", {"modelId": value}
    params: JsonObject = {"configId": id, "value": value}
    return "session/set_config_option", {**params, "type": "boolean"} if option["type"] == "boolean" else params


def apply_set(options: list[JsonObject], id: str, value: object, reply: JsonObject) -> list[JsonObject]:
    """The options after the agent has agreed to set one: the reply's list, or what was asked for if it has none."""
    if isinstance(reply.get("configOptions"), list):
        return apply_update(options, reply)
    return [_with(o, value) if o["id"] == id else o for o in options]


def effective(options: list[JsonObject]) -> dict[str, object]:
    """Each option's value, as the agent last said it."""
    return {option["id"]: option["currentValue"] for option in options}


def values(option: JsonObject) -> list[str]:
    """The values that a select offers, in groups or not."""
    found: list[str] = []
    for entry in option["options"]:
        members = entry.get("options", [entry])
        if isinstance(members, list):
            found += [e["value"] for e in members if isinstance(e, dict) and "value" in e]
    return found


def _config(raw: object) -> list[JsonObject]:
    # An option of a type that we do not know is to be ignored, says the protocol.
    return [
        {
            **option,
            "name": option.get("name") or option["id"],
            "category": option.get("category"),
            "type": option.get("type") or "select",
            "currentValue": option.get("currentValue"),
            "options": [o for o in option.get("options") or [] if isinstance(o, dict)],
            "_source": CONFIG,
        }
        for option in (raw if isinstance(raw, list) else [])
        if isinstance(option, dict)
        and isinstance(option.get("id"), str)
        and option.get("type") in ("select", "boolean", None)
        and isinstance(option.get("options") or [], list)
    ]


def _legacy(raw: object, source: str, current: str, available: str, key: str) -> list[JsonObject]:
    offered = raw.get(available) if isinstance(raw, dict) else None
    if not isinstance(raw, dict) or not isinstance(offered, list):
        return []
    choices = [
        {
            "value": o[key],
            "name": o.get("name") or o[key],
            **({"description": d} if (d := o.get("description")) else {}),
        }
        for o in offered
        if isinstance(o, dict) and isinstance(o.get(key), str)
    ]
    option = {
        "id": source,
        "name": source.capitalize(),
        "category": source,
        "type": "select",
        "currentValue": raw.get(current),
        "options": choices,
        "_source": source,
    }
    return [option] if choices else []


def _replaced(options: list[JsonObject], config: list[JsonObject]) -> list[JsonObject]:
    """`config`, and of the older generations what it does not cover."""
    kept = [o for o in options if o["_source"] == MODE and not config]
    if not any(_is(o, MODEL) for o in config):
        kept += [o for o in options if o["_source"] == MODEL]
    return config + kept


def _is(option: JsonObject, category: str) -> bool:
    return category in (option["category"], option["id"])


def _with(option: JsonObject, value: object) -> JsonObject:
    return {**option, "currentValue": value}
