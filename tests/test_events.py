import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jupyter_acp.events import Event, Kind, clean, encode

GOLDEN = Path(__file__).parent / "golden" / "events"


def test_every_kind_has_a_golden_file_and_every_golden_file_a_kind() -> None:
    assert {path.stem for path in GOLDEN.glob("*.json")} == {str(kind) for kind in Kind}


@pytest.mark.parametrize("kind", list(Kind))
def test_an_event_survives_its_wire_form(kind: Kind, golden: Callable[[str], Any]) -> None:
    raw = golden(kind)
    event = Event.from_json(json.dumps(raw))
    assert event.kind is kind
    assert json.loads(event.to_json()) == raw


def test_a_lone_surrogate_becomes_a_replacement_character_and_a_pair_stays() -> None:
    assert encode({"a": "\ud83d", "b": "\U0001f600"}).encode() == '{"a":"\ufffd","b":"\U0001f600"}'.encode()
    assert clean("x\udc80") == "x\ufffd"


def test_numbers_that_json_lacks_become_null() -> None:
    assert encode({"a": [float("nan"), float("inf"), 1.5]}) == '{"a":[null,null,1.5]}'
