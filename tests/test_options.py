"""Three generations of options on the wire become one list."""

from typing import Any

import pytest

from jupyter_acp.options import apply_set, apply_update, effective, from_reply, request, values


def select(id: str, current: object, *offered: str, **more: object) -> dict[str, Any]:
    """A config option as agents send it."""
    choices = [{"value": value, "name": value.upper()} for value in offered]
    return {"id": id, "name": id, "type": "select", "currentValue": current, "options": choices, **more}


MODES = {"currentModeId": "ask", "availableModes": [{"id": "ask", "name": "Ask"}, {"id": "auto", "name": "Auto"}]}
MODELS = {"currentModelId": "big", "availableModels": [{"modelId": "big", "name": "Big"}, {"modelId": "small"}]}
MODEL = select("model", "big", "big", "small", category="model")


def test_config_options_win_over_modes_and_models() -> None:
    options = from_reply({"configOptions": [MODEL], "modes": MODES, "models": MODELS})
    assert [(o["id"], o["_source"]) for o in options] == [("model", "config")]


@pytest.mark.parametrize("none", [{}, {"configOptions": None}, {"configOptions": []}])
def test_without_config_options_modes_and_models_become_two_selects(none: dict[str, Any]) -> None:
    options = from_reply({**none, "modes": MODES, "models": MODELS})
    assert [(o["id"], o["category"], o["type"], o["_source"]) for o in options] == [
        ("mode", "mode", "select", "mode"),
        ("model", "model", "select", "model"),
    ]
    assert effective(options) == {"mode": "ask", "model": "big"}
    assert [values(o) for o in options] == [["ask", "auto"], ["big", "small"]]


def test_models_are_added_to_config_options_that_have_no_model() -> None:
    options = from_reply({"configOptions": [select("thinking", "low", "low", "high")], "models": MODELS})
    assert [o["id"] for o in options] == ["thinking", "model"]


def test_an_option_keeps_what_else_the_agent_says_of_it() -> None:
    [option] = from_reply({"configOptions": [{**MODEL, "description": "Which", "_meta": {"new": 1}}]})
    assert (option["description"], option["_meta"]) == ("Which", {"new": 1})


def test_an_option_of_an_unknown_type_is_ignored_and_one_without_a_type_is_a_select() -> None:
    slider = {"id": "heat", "name": "Heat", "type": "slider", "currentValue": 3}
    bare = {"id": "x", "currentValue": "a", "options": [{"value": "a", "name": "A"}]}
    [option] = from_reply({"configOptions": [slider, bare]})
    assert (option["id"], option["type"], option["name"], option["category"]) == ("x", "select", "x", None)


@pytest.mark.parametrize(
    "reply",
    [
        {"configOptions": "all"},
        {"configOptions": [None, 7, {}, {"id": 3}, {"id": "a", "type": "select", "options": 9}]},
        {"modes": []},
        {"modes": {"availableModes": None}},
        {"modes": {"availableModes": [{"id": None}, 4]}},
        {"models": {"availableModels": {}}},
    ],
)
def test_what_is_no_option_is_left_out(reply: dict[str, Any]) -> None:
    assert from_reply(reply) == []


def test_the_values_of_a_grouped_select_are_found_in_their_groups() -> None:
    groups = [
        {"group": "a", "name": "A", "options": [{"value": "x", "name": "X"}]},
        {"group": "b", "name": "B", "options": [{"value": "y", "name": "Y"}, {"value": "z", "name": "Z"}]},
    ]
    [option] = from_reply({"configOptions": [select("model", "x") | {"options": groups}]})
    assert values(option) == ["x", "y", "z"]


@pytest.mark.parametrize("members", [None, 7, "xy", [3, None]])
def test_a_group_without_proper_members_offers_nothing_and_harms_nobody(members: object) -> None:
    broken = {"group": "a", "name": "A", "options": members}
    [option] = from_reply({"configOptions": [select("mode", "x", "x") | {"options": [broken]}]})
    assert values(option) == []
    assert effective(apply_update([option], {"currentModeId": "x"})) == {"mode": "x"}


def test_each_generation_is_set_by_its_own_method() -> None:
    boolean = {"id": "fast", "name": "Fast", "type": "boolean", "currentValue": False}
    options = from_reply({"configOptions": [select("effort", "low", "low"), boolean], "models": MODELS})
    options += from_reply({"modes": MODES})
    assert request(options, "effort", "low") == ("session/set_config_option", {"configId": "effort", "value": "low"})
    assert request(options, "fast", True)[1] == {"configId": "fast", "value": True, "type": "boolean"}
    assert request(options, "mode", "auto") == ("session/set_mode", {"modeId": "auto"})
    assert request(options, "model", "small") == ("session/set_model", {"modelId": "small"})
    with pytest.raises(KeyError):
        request(options, "warp", 9)


def test_the_list_in_a_reply_replaces_all_options() -> None:
    options = from_reply({"configOptions": [MODEL, select("fast", "off", "off", "on")]})
    reply = {"configOptions": [select("model", "small", "big", "small", category="model")]}
    assert effective(apply_set(options, "model", "small", reply)) == {"model": "small"}


def test_a_reply_that_says_something_else_than_asked_is_believed() -> None:
    options = from_reply({"configOptions": [MODEL]})
    assert effective(apply_set(options, "model", "small", {"configOptions": [MODEL]})) == {"model": "big"}


def test_a_reply_without_a_list_means_what_was_asked() -> None:
    options = from_reply({"modes": MODES, "models": MODELS})
    assert effective(apply_set(options, "mode", "auto", {})) == {"mode": "auto", "model": "big"}


def test_an_update_replaces_config_options_and_keeps_the_models_that_it_does_not_cover() -> None:
    options = from_reply({"configOptions": [select("effort", "low", "low", "high")], "models": MODELS})
    updated = apply_update(options, {"configOptions": [select("effort", "high", "low", "high")]})
    assert effective(updated) == {"effort": "high", "model": "big"}
    covered = apply_update(updated, {"configOptions": [MODEL]})
    assert [(o["id"], o["_source"]) for o in covered] == [("model", "config")]


def test_a_current_mode_sets_the_mode_of_either_generation() -> None:
    mode = select("permission", "ask", "ask", "auto", category="mode")
    for reply in ({"modes": MODES}, {"configOptions": [mode, MODEL]}):
        updated = apply_update(from_reply(reply), {"sessionUpdate": "current_mode_update", "currentModeId": "auto"})
        assert updated[0]["currentValue"] == "auto"


@pytest.mark.parametrize("update", [{}, {"currentModeId": None}, {"currentModeId": []}, {"configOptions": "no"}])
def test_an_update_that_says_nothing_changes_nothing(update: dict[str, Any]) -> None:
    options = from_reply({"modes": MODES})
    assert apply_update(options, update) == options


def test_a_mode_that_a_config_option_does_not_offer_leaves_it_alone() -> None:
    options = from_reply({"configOptions": [select("mode", "ask", "ask", "auto", category="mode")]})
    assert apply_update(options, {"currentModeId": "plan"}) == options


def test_nothing_changes_a_list_in_place() -> None:
    options = from_reply({"modes": MODES})
    apply_set(options, "mode", "auto", {})
    apply_update(options, {"currentModeId": "auto"})
    assert effective(options) == {"mode": "ask"}
