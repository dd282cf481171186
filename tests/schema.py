"""Checks messages against the JSON schema of ACP v1 that the protocol's own TypeScript SDK carries."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

SCHEMA = Path(__file__).parent / "peers" / "node_modules" / "sdk-schema" / "schema" / "v1" / "schema.json"

NOT_IN_IT = frozenset({"session/set_model", "_session/steering"})
"""What is spoken in the wild and in no schema: sent only to agents that offer it (facts of ACP, 1.1)."""


class Invalid(AssertionError):
    """A message that the schema does not allow."""


@cache
def _definitions() -> dict[str, Any]:
    """The schema's definitions; messages and capabilities with no room for keys that it does not name."""
    definitions: dict[str, Any] = json.loads(SCHEMA.read_text("utf-8"))["$defs"]
    for name, definition in definitions.items():
        if "x-method" in definition or name.endswith("Capabilities"):
            definition["unevaluatedProperties"] = False
    return definitions


@cache
def _validator(method: str, suffixes: tuple[str, ...]) -> Draft202012Validator | None:
    for name, definition in _definitions().items():
        if definition.get("x-method") == method and name.endswith(suffixes):
            return Draft202012Validator({"$ref": f"#/$defs/{name}", "$defs": _definitions()})
    return None


@cache
def _error_validator() -> Draft202012Validator:
    return Draft202012Validator({"$ref": "#/$defs/Error", "$defs": _definitions()})


def check(sent: Iterable[dict[str, Any]], said: Iterable[dict[str, Any]]) -> list[str]:
    """The methods of all that one side `sent`, in order; an answer is `method!`, a refusal `method?`.

    `said` is what the other side of the same connection said: it tells which method an answer belongs to. Raises
    Invalid for the first message that the schema does not allow.
    """
    asked = {message["id"]: message["method"] for message in said if "id" in message and "method" in message}
    return [_checked(message, asked) for message in sent]


def _checked(message: dict[str, Any], asked: dict[str | int, str]) -> str:
    if message.get("jsonrpc") != "2.0":
        raise Invalid(f"no JSON-RPC 2.0: {message}")
    if "method" in message:
        method = message["method"]
        if extra := set(message) - {"jsonrpc", "id", "method", "params"}:
            raise Invalid(f"{method} with {extra}")
        if method not in NOT_IN_IT:
            _validate(
                _validator(method, ("Request",) if "id" in message else ("Notification",)), message["params"], method
            )
        return str(method)
    if message["id"] not in asked or set(message) not in ({"jsonrpc", "id", "result"}, {"jsonrpc", "id", "error"}):
        raise Invalid(f"an answer to nothing, or no answer: {message}")
    method = asked[message["id"]]
    if "error" in message:
        _validate(_error_validator(), message["error"], method)
        return f"{method}?"
    _validate(_validator(method, ("Response",)), message["result"], method)
    return f"{method}!"


def _validate(validator: Draft202012Validator | None, value: object, method: str) -> None:
    if validator is None:
        raise Invalid(f"the schema has no {method}")
    errors = [f"{error.json_path}: {error.message}" for error in validator.iter_errors(value)]
    if errors:
        raise Invalid(f"{method}: {'; '.join(errors)}")


def recorded(folder: Path) -> Iterator[list[str]]:
    """`check` every run that agents/record.py wrote down in `folder`: what the client sent each time, oldest first."""
    for file in sorted(folder.glob("*.sent"), key=lambda path: path.stat().st_mtime_ns):
        yield check(_lines(file), _lines(file.with_suffix(".said")))


def _lines(file: Path) -> list[dict[str, Any]]:
    # a killed agent's last line has no end; one that it wrote for mischief is no message
    found = [_json(line) for line in file.read_bytes().split(b"\n")[:-1]]
    return [message for message in found if isinstance(message, dict)]


def _json(line: bytes) -> object:
    try:
        return json.loads(line)
    except ValueError:
        return None
