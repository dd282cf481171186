"""What the store keeps beside the log: sessions, turns, permissions as frozen rows. No I/O."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass, field
from functools import cache
from typing import TypeAlias

from .events import JsonObject, clean, encode
from .turn import ACTIVE, StopReason, TurnState

Change: TypeAlias = tuple[str, tuple[object, ...]]
"""One statement of a transaction and its values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionRow:
    """A row of `sessions`, with its `progress`; schema/ explains each field."""

    id: str
    root: str
    project: str
    path: str
    chat_id: str
    agent: str
    cwd: str
    title: str
    created: float
    agent_session_id: str | None = None
    parent: str | None = None
    closed: bool = False
    access: str = "full-access"
    config: JsonObject = field(default_factory=dict)
    preface: bool = False
    shown: JsonObject = field(default_factory=dict)
    runner: str | None = None
    position: int = 0
    number: int = 0

    def save(self) -> Change:
        """Insert or replace the row, `position` and `number` apart (by upsert: REPLACE would delete the events too)."""
        return _upsert(
            "sessions",
            ("id",),
            {
                "id": self.id,
                "root": self.root,
                "project": self.project,
                "path": self.path,
                "chat_id": self.chat_id,
                "agent": self.agent,
                "agent_session_id": self.agent_session_id,
                "cwd": self.cwd,
                "title": self.title,
                "parent": self.parent,
                "created": self.created,
                "closed": int(self.closed),
                "access": self.access,
                "config": encode(self.config),
                "preface": int(self.preface),
                "shown": encode(self.shown),
                "runner": self.runner,
            },
        )

    @classmethod
    def load(cls, row: sqlite3.Row) -> SessionRow:
        """The row of a `SELECT *` from sessions and progress."""
        values = dict(row)
        for name in ("config", "shown"):
            values[name] = json.loads(values[name])
        for name in ("closed", "preface"):
            values[name] = bool(values[name])
        return cls(**values)


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnRow:
    """A row of `turns`."""

    session_id: str
    id: str
    position: int
    state: TurnState
    prompt: list[JsonObject]
    text: str
    user: JsonObject
    started: float | None = None
    started_seq: int | None = None
    ended_seq: int | None = None
    request_id: str | None = None
    number: int | None = None
    stop_reason: StopReason | None = None

    @property
    def active(self) -> bool:
        """Between its start and its end."""
        return self.state in ACTIVE

    def save(self) -> Change:
        """Insert or replace the whole row."""
        return _upsert(
            "turns",
            ("session_id", "id"),
            {
                "session_id": self.session_id,
                "id": self.id,
                "position": self.position,
                "state": str(self.state),
                "prompt": encode(self.prompt),
                "text": clean(self.text),
                "user": encode(self.user),
                "started": self.started,
                "started_seq": self.started_seq,
                "ended_seq": self.ended_seq,
                "request_id": self.request_id,
                "number": self.number,
                "stop_reason": self.stop_reason and str(self.stop_reason),
            },
        )

    @classmethod
    def load(cls, row: sqlite3.Row) -> TurnRow:
        """The row of a `SELECT *`."""
        values = dict(row)
        values["state"] = TurnState(values["state"])
        values["prompt"] = json.loads(values["prompt"])
        values["user"] = json.loads(values["user"])
        values["stop_reason"] = values["stop_reason"] and StopReason(values["stop_reason"])
        return cls(**values)


@dataclass(frozen=True, slots=True, kw_only=True)
class PermissionRow:
    """A row of `permissions`: a question of the agent, a person's permission or an elicitation."""

    id: str
    session_id: str
    turn: str | None
    request_id: str | int
    request: JsonObject
    asked: float
    answer: JsonObject | None = None
    number: int | None = None

    def save(self) -> Change:
        """Insert or replace the whole row."""
        return _upsert(
            "permissions",
            ("id",),
            {
                "id": self.id,
                "session_id": self.session_id,
                "turn": self.turn,
                "request_id": encode(self.request_id),
                "request": encode(self.request),
                "asked": self.asked,
                "answer": None if self.answer is None else encode(self.answer),
                "number": self.number,
            },
        )

    @classmethod
    def load(cls, row: sqlite3.Row) -> PermissionRow:
        """The row of a `SELECT *`."""
        values = dict(row)
        for name in ("request_id", "request"):
            values[name] = json.loads(values[name])
        values["answer"] = None if values["answer"] is None else json.loads(values["answer"])
        return cls(**values)


def delivered(session_id: str, position: int, number: int) -> Change:
    """How far a session's agent was read, and the highest number sent to it: part of most commits."""
    values: dict[str, object] = {"session_id": session_id, "position": position, "number": number}
    return _upsert("progress", ("session_id",), values)


def delegated_started(session_id: str, request_id: str | int) -> Change:
    """The agent waits for our answer to this call."""
    return ("INSERT OR IGNORE INTO delegated VALUES (?, ?)", (session_id, encode(request_id)))


def delegated_ended(session_id: str, request_id: str | int) -> Change:
    """The call was answered."""
    return ("DELETE FROM delegated WHERE session_id = ? AND request_id = ?", (session_id, encode(request_id)))


def delegated_forgotten(session_id: str) -> Change:
    """A new agent process: nobody waits for the answers to the old one's calls."""
    return ("DELETE FROM delegated WHERE session_id = ?", (session_id,))


def answers_forgotten(session_id: str) -> Change:
    """A new agent process: it heard none of the answers so far, and none of them is for it."""
    return ("UPDATE permissions SET number = NULL WHERE session_id = ? AND number IS NOT NULL", (session_id,))


def _upsert(table: str, key: tuple[str, ...], values: dict[str, object]) -> Change:
    return _upsert_sql(table, key, tuple(values)), tuple(values.values())


@cache
def _upsert_sql(table: str, key: tuple[str, ...], names: tuple[str, ...]) -> str:
    marks = ", ".join("?" * len(names))
    sets = ", ".join(f"{name} = excluded.{name}" for name in names if name not in key)
    columns, keys = ", ".join(names), ", ".join(key)
    return f"INSERT INTO {table} ({columns}) VALUES ({marks}) ON CONFLICT ({keys}) DO UPDATE SET {sets}"
