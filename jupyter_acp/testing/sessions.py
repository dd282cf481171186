"""The scripted agent's sessions and their files, so that another process can load or resume them. Speaks to nobody."""

from __future__ import annotations

import json
import os
import threading
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .wire import INVALID_PARAMS, NOT_FOUND, JsonObject, RpcError

Choice = tuple[str, str, str | None]

MODES: list[Choice] = [
    ("ask", "Ask", "Asks before it changes a file"),
    ("auto", "Auto", "Changes files without asking"),
    ("plan", "Plan", "Changes nothing, only says what it would do"),
]
MODELS: list[Choice] = [
    ("demo-small", "Demo small", "Knows its directives"),
    ("demo-large", "Demo large", "Knows the same"),
]
EFFORTS: list[Choice] = [("low", "Low", None), ("medium", "Medium", None), ("high", "High", None)]
_CHOICES = {"mode": MODES, "model": MODELS, "effort": EFFORTS}
DEFAULTS: JsonObject = {"mode": "ask", "model": "demo-small", "effort": "medium", "fast": False}
GENERATIONS = ("config", "modes", "models", "none")


@dataclass(frozen=True, slots=True)
class Settings:
    """How options are told: which generation, and whether this client takes those of type boolean."""

    generation: str
    booleans: bool


def default_directory() -> Path:
    """Where sessions are kept when nobody says otherwise."""
    named = os.environ.get("JUPYTER_ACP_TEST_STATE")
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "jupyter-acp-demo"


class Session:
    """One conversation: its options, its history on disk, and the turn that runs."""

    def __init__(self, id: str, cwd: str, file: Path) -> None:
        self.id = id
        self.cwd = cwd
        self.file = file
        self.values = dict(DEFAULTS)
        self.history: list[JsonObject] = []
        self.used = 0
        self.cancelled: threading.Event | None = None

    def record(self, *entries: JsonObject) -> None:
        """Append to the file, in one write."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with self.file.open("a", encoding="utf-8", errors="surrogatepass") as stream:
            stream.write("".join(json.dumps(entry) + "\n" for entry in entries))

    def add(self, updates: list[JsonObject]) -> None:
        """Add to the history that a load replays."""
        self.history.extend(updates)
        self.record(*({"update": update} for update in updates))

    def set(self, option: str, value: Any) -> None:
        """Change an option and remember it."""
        if value not in _values(option):
            raise RpcError(INVALID_PARAMS, f"{option} cannot be {value!r}")
        self.values[option] = value
        self.record({"values": self.values})


class Sessions:
    """All sessions of a state folder."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._open: dict[str, Session] = {}

    def new(self, cwd: str) -> Session:
        """A new session in `cwd`."""
        id = uuid.uuid4().hex
        session = self._open[id] = Session(id, cwd, self._directory / f"{id}.jsonl")
        session.record({"cwd": cwd, "values": session.values})
        return session

    def get(self, id: str) -> Session:
        """An open session."""
        if id not in self._open:
            raise RpcError(NOT_FOUND, f"no session {id!r}")
        return self._open[id]

    def recall(self, id: str, cwd: str) -> Session:
        """A session of the state folder, opened again."""
        file = self._directory / f"{id}.jsonl"
        if not id.isalnum() or not file.exists():
            raise RpcError(NOT_FOUND, f"no session {id!r}")
        session = self._open[id] = Session(id, cwd, file)
        for line in file.read_bytes().splitlines():
            try:
                entry = json.loads(line)
            except ValueError:  # half a line: the process was killed while it wrote
                continue
            session.values.update(entry.get("values", {}))
            if "update" in entry:
                session.history.append(entry["update"])
        return session

    def list(self) -> list[JsonObject]:
        """What `session/list` shows."""
        found = []
        for file in sorted(self._directory.glob("*.jsonl")):
            with file.open("rb") as stream:
                found.append({"sessionId": file.stem, "cwd": json.loads(stream.readline())["cwd"]})
        return found

    def close(self, id: str) -> None:
        """Forget an open session; its file stays."""
        self._open.pop(id, None)


def _values(option: str) -> tuple[Any, ...]:
    if option in _CHOICES:
        return tuple(value for value, _, _ in _CHOICES[option])
    if option == "fast":
        return (True, False)
    raise RpcError(INVALID_PARAMS, f"no option {option!r}")


def options(session: Session, generation: str, *, booleans: bool) -> JsonObject:
    """The part of a reply that tells modes, models and options, in one of the three generations that are in use."""
    values = session.values
    if generation == "config":
        return {"configOptions": config_options(session, booleans=booleans)}
    if generation == "none":
        return {}
    modes = [_named("id", *mode) for mode in MODES]
    reply: JsonObject = {"modes": {"currentModeId": values["mode"], "availableModes": modes}}
    if generation == "models":
        models = [_named("modelId", *model) for model in MODELS]
        reply["models"] = {"currentModelId": values["model"], "availableModels": models}
    return reply


def config_options(session: Session, *, booleans: bool) -> list[JsonObject]:
    """The whole list, as every reply and update carries it."""
    selects = [
        ("mode", "Mode", "mode", MODES),
        ("model", "Model", "model", MODELS),
        ("effort", "Effort", "thought_level", EFFORTS),
    ]
    found: list[JsonObject] = [
        {
            "id": id,
            "name": name,
            "category": category,
            "type": "select",
            "currentValue": session.values[id],
            "options": [_named("value", *choice) for choice in choices],
        }
        for id, name, category, choices in selects
    ]
    if booleans:
        found.append(
            {
                "id": "fast",
                "name": "Fast",
                "category": "model_config",
                "type": "boolean",
                "currentValue": session.values["fast"],
            }
        )
    return found


def _named(key: str, id: str, name: str, description: str | None) -> JsonObject:
    named: JsonObject = {key: id, "name": name}
    if description:
        named["description"] = description
    return named
