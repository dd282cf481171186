"""The `.chat` document in memory: read, change, merge, serialise. No disk, no clock.

The layout is jupyterlab-chat's (which refuses unknown keys in a message or user), so everything of ours lives under
`metadata.acp`, of the document and of each message. A message is serialised once and keeps its bytes until it
changes: writing a long chat costs a join.
"""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from .events import JsonObject, clean
from .exceptions import AcpError

SCHEMA_VERSION = 1
"""Of what we keep under `metadata.acp`."""

_HEAD, _BETWEEN, _TAIL = b'{\n  "messages": [\n', b"\n    },\n    {\n", b"\n    }\n  ],\n"
_PARTS: dict[str, type] = {"messages": list, "users": dict, "attachments": dict, "metadata": dict}


class Damaged(AcpError):
    """The bytes are no chat; says why. They must not be overwritten."""


class Newer(AcpError):
    """Written by a newer version of this package."""


@dataclass(slots=True, eq=False)
class Entry:
    """A message and, until it changes, its bytes in the file."""

    message: JsonObject
    data: bytes | None = None


@dataclass(slots=True)
class Pending:
    """What was changed here since the document and the file last agreed."""

    messages: dict[str, set[str]] = field(default_factory=dict)
    users: set[str] = field(default_factory=set)
    metadata: bool = False

    def __bool__(self) -> bool:
        return bool(self.messages or self.users or self.metadata)

    def update(self, other: Pending) -> None:
        """Add what another one holds."""
        for message_id, fields in other.messages.items():
            self.messages.setdefault(message_id, set()).update(fields)
        self.users |= other.users
        self.metadata |= other.metadata


class ChatDocument:
    """A chat. `pending` says what of it the file does not have yet."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.users: dict[str, JsonObject] = {}
        self.attachments: JsonObject = {}
        self.metadata: JsonObject = {}
        self.pending = Pending()
        self._by_id: dict[str, Entry] = {}
        self._places: dict[str, int] = {}

    @property
    def id(self) -> str:
        """The stable id of the chat."""
        return str(self.metadata["id"])

    @classmethod
    def parse(cls, data: bytes) -> ChatDocument:
        """The document in a file; an empty file is a new chat. Damaged, or Newer for a newer schema."""
        if not data.strip():
            return cls._of({}, [])
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError as exc:
            raise Damaged(f"it is not UTF-8 text (byte {exc.start})") from exc
        if split := _split(data):
            return cls._of(*split)
        try:
            content = json.loads(text)
        except RecursionError as exc:
            raise Damaged("it is nested too deeply") from exc
        except ValueError as exc:
            raise Damaged(f"it is not valid JSON ({exc})") from exc
        return cls.of(content)

    @classmethod
    def of(cls, content: object) -> ChatDocument:
        """The document of the file's JSON. Takes `content` over."""
        if not isinstance(content, dict):
            raise Damaged("it holds no JSON object")
        messages = content.get("messages", [])
        if not isinstance(messages, list):
            raise Damaged("its messages are no list")
        return cls._of(content, [Entry(message) for message in messages])

    @classmethod
    def _of(cls, content: JsonObject, entries: list[Entry]) -> ChatDocument:
        for name, kind in _PARTS.items():
            if not isinstance(content.get(name, kind()), kind):
                raise Damaged(f"its {name} have the wrong type")
        for entry in entries:
            _check_message(entry.message)
        for name, user in content.get("users", {}).items():
            if not isinstance(user, dict):
                raise Damaged(f"the user {name} has the wrong type")
        document = cls()
        document.entries = entries
        document.users = content.get("users", {})
        document.attachments = content.get("attachments", {})
        document.metadata = content.get("metadata", {})
        document._index()
        document._upgrade()
        return document

    def serialise_messages(self) -> None:
        """Make the bytes of every message that has none."""
        for entry in self.entries:
            if entry.data is None:
                entry.data = _message_bytes(entry.message)

    def chunks(self) -> list[bytes]:
        """The file, in pieces to write one after the other."""
        self.serialise_messages()
        messages = b",\n".join([entry.data for entry in self.entries if entry.data is not None])
        rest = {"users": self.users, "attachments": self.attachments, "metadata": self.metadata}
        tail = _encode(rest)[1:]
        if not messages:
            return [b'{\n  "messages": [],', tail, b"\n"]
        return [_HEAD, messages, b"\n  ],", tail, b"\n"]

    def take_pending(self) -> Pending:
        """What has changed; from here on it counts as written."""
        taken, self.pending = self.pending, Pending()
        return taken

    def get(self, message_id: str) -> JsonObject | None:
        """The message itself; change it through `put` and `change` only."""
        entry = self._by_id.get(message_id)
        return entry.message if entry else None

    def place(self, message_id: str) -> int | None:
        """Where a message stands in `entries`."""
        return self._places.get(message_id)

    def put(self, message: JsonObject) -> None:
        """Add a message where its time belongs, or replace the one of that id."""
        message_id = message["id"]
        self.pending.messages.setdefault(message_id, set()).update(message)
        if entry := self._by_id.get(message_id):
            entry.message, entry.data = message, None
        else:
            self._insert(Entry(message))

    def change(self, message_id: str, **fields: object) -> None:
        """Set fields of a message."""
        entry = self._by_id[message_id]
        entry.message, entry.data = {**entry.message, **fields}, None
        self.pending.messages.setdefault(message_id, set()).update(fields)

    def set_user(self, user: JsonObject) -> None:
        """Add or replace a user."""
        if self.users.get(user["username"]) != user:
            self.users[user["username"]] = user
            self.pending.users.add(user["username"])

    def set_acp(self, values: JsonObject) -> None:
        """Set values under the document's `metadata.acp`."""
        self.metadata["acp"] = {**acp_of(self.metadata), **values}
        self.pending.metadata = True

    def new_identity(self) -> None:
        """Become another chat."""
        self.metadata["id"] = uuid.uuid4().hex
        self.pending.metadata = True

    def merge(self, theirs: ChatDocument, pending: Pending) -> None:
        """Become what somebody else wrote plus what was changed here meanwhile. No message of either is lost."""
        ours, mine = self._by_id, self.metadata
        self.entries = theirs.entries
        self._index()
        for message_id, entry in ours.items():
            there = self._by_id.get(message_id)
            if there is None:
                self._insert(entry)
            elif fields := pending.messages.get(message_id):
                there.message, there.data = _merged(there.message, entry.message, fields), None
        for name, user in self.users.items():
            if name in pending.users or name not in theirs.users:
                theirs.users[name] = user
        self.users = theirs.users
        self.attachments = {**self.attachments, **theirs.attachments}
        self.metadata = {**mine, **theirs.metadata, "id": mine["id"]}
        self.metadata["acp"] = {**acp_of(theirs.metadata), **acp_of(mine)}

    def _insert(self, entry: Entry) -> None:
        place = len(self.entries)
        while place and self.entries[place - 1].message["time"] > entry.message["time"]:
            place -= 1
        self.entries.insert(place, entry)
        if place == len(self.entries) - 1:
            self._by_id[entry.message["id"]] = entry
            self._places[entry.message["id"]] = place
        else:
            self._index()

    def _index(self) -> None:
        self._by_id = {entry.message["id"]: entry for entry in self.entries}
        self._places = {entry.message["id"]: place for place, entry in enumerate(self.entries)}

    def _upgrade(self) -> None:
        version = acp_of(self.metadata).get("schema_version", 0)
        # an integer that went through Yjs comes back as a float
        if isinstance(version, bool) or not isinstance(version, int | float) or version < 0 or version % 1 != 0:
            raise Damaged(f"its schema_version is {version!r}")
        if version > SCHEMA_VERSION:
            raise Newer(f"it was written by a newer version (schema {int(version)}, this one knows {SCHEMA_VERSION})")
        for step in _UPGRADES[int(version) :]:
            step(self)


def acp_of(metadata: object) -> JsonObject:
    """What is ours in some metadata; empty where there is none or it is not what we wrote."""
    acp = metadata.get("acp") if isinstance(metadata, dict) else None
    return acp if isinstance(acp, dict) else {}


def _adopt(document: ChatDocument) -> None:
    """0 -> 1: a chat that was never ours (or a new one) gets an identity that stays."""
    if not isinstance(document.metadata.get("id"), str) or not document.metadata["id"]:
        document.metadata["id"] = uuid.uuid4().hex
    document.set_acp({"schema_version": 1})


_UPGRADES: tuple[Callable[[ChatDocument], None], ...] = (_adopt,)


def _check_message(message: object) -> None:
    if not isinstance(message, dict):
        raise Damaged("a message has the wrong type")
    for name in ("id", "body", "sender"):
        if not isinstance(message.get(name), str):
            raise Damaged(f"a message has no {name}")
    time = message.get("time")
    if isinstance(time, bool) or not isinstance(time, int | float) or not math.isfinite(time):
        raise Damaged("a message has no time")


def _merged(theirs: JsonObject, ours: JsonObject, fields: Iterable[str]) -> JsonObject:
    """Their message with the fields that we changed; of the metadata only what is ours."""
    changed = {name: ours[name] for name in fields if name != "metadata"}
    if "metadata" in fields:
        old = theirs.get("metadata")
        changed["metadata"] = {**(old if isinstance(old, dict) else {}), "acp": acp_of(ours.get("metadata"))}
    return {**theirs, **changed}


def _encode(value: object) -> bytes:
    text = json.dumps(value, indent=2, ensure_ascii=False)
    try:
        return text.encode()
    except UnicodeEncodeError:
        return clean(text).encode()


def _message_bytes(message: JsonObject) -> bytes:
    # line breaks inside strings are escaped, so each one here is the layout's
    return b"    " + _encode(message).replace(b"\n", b"\n    ")


def _split(data: bytes) -> tuple[JsonObject, list[Entry]] | None:
    """The document and each message with its bytes, where the file is laid out as we and jupyterlab-chat do."""
    start, end = len(_HEAD), data.find(_TAIL)
    if end < 0 or not data.startswith(_HEAD + b"    {\n"):
        return None
    body = data[start + len(b"    {\n") : end]
    entries = []
    try:
        for piece in body.split(_BETWEEN):
            whole = b"    {\n" + piece + b"\n    }"
            entries.append(Entry(json.loads(whole), whole))
        content = json.loads(b"{" + data[end + len(_TAIL) :])
    except (ValueError, RecursionError):
        return None
    return None if "messages" in content else (content, entries)
