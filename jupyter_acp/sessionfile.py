"""The session file beside a chat: `.notes.chat.acp.json` beside `notes.chat`. Blocking; call it off the event loop.

It is enough to resume a conversation when the coordinator's database is lost or the project has moved. It names the
chat by id, so that one that was copied along with another chat is recognised.
"""

from __future__ import annotations

import json
import logging
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .events import JsonObject, encode
from .exceptions import Unsupported
from .kernel_exec.base import FileMissing
from .kernel_exec.paths import Root

log = logging.getLogger(__name__)

SCHEMA_VERSION = 1
_TEXT_OR_NONE = {"agent_session_id", "parent"}


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionFile:
    """What is needed to go on. `created` is seconds since the epoch."""

    session: str
    chat_id: str
    agent: str
    agent_session_id: str | None = None
    access: str = "full-access"
    config: JsonObject = field(default_factory=dict)
    cwd: str = ""
    parent: str | None = None
    created: float = 0.0

    def save(self, root: Root, chat: str) -> None:
        """Write it, whole or not at all. ExecutorError where that fails."""
        with root.open_write(name_beside(chat)) as file:
            file.write(encode({"schema_version": SCHEMA_VERSION, **asdict(self)}).encode() + b"\n")

    @classmethod
    def load(cls, root: Root, chat: str) -> SessionFile | None:
        """The file beside `chat`, None without one. Unsupported for a newer schema.

        A damaged one is kept aside, as `….damaged`, and said in the server's log.
        """
        name = name_beside(chat)
        try:
            with root.open_read(name) as file:
                data = file.read()
        except FileMissing:
            return None
        try:
            return cls.parse(data)
        except ValueError as exc:
            log.warning("%s is damaged (%s); kept as %s.damaged", name, exc, name)
            move(root, name, f"{name}.damaged")
            return None

    @classmethod
    def parse(cls, data: bytes) -> SessionFile:
        """ValueError for what is none, Unsupported for a newer schema. Unknown fields are ignored."""
        try:
            content: Any = json.loads(data)
        except RecursionError as exc:
            raise ValueError("nested too deeply") from exc
        if not isinstance(content, dict):
            raise ValueError("no JSON object")
        version = content.get("schema_version")
        if not isinstance(version, int) or version < 1:
            raise ValueError(f"schema_version is {version!r}")
        if version > SCHEMA_VERSION:
            raise Unsupported(
                f"its session file was written by a newer version (schema {version}, this one knows {SCHEMA_VERSION})",
                "newer_schema",
            )
        values = {name: content[name] for name in cls.__dataclass_fields__ if name in content}
        for name in cls.__dataclass_fields__:
            if not _fits(name, values.get(name)) and (name in values or name in ("session", "chat_id", "agent")):
                raise ValueError(f"{name} is missing or wrong")
        return cls(**values)


def name_beside(chat: str) -> str:
    """The path of the session file of a chat."""
    folder, name = os.path.split(chat)
    return os.path.join(folder, f".{name}.acp.json")


def saved_chats(root: Path) -> list[str]:
    """The chats beneath `root` that have a session file, as paths relative to it; none of hidden folders."""
    found = []
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        names = set(files)
        for name in sorted(names):
            if name.endswith(".chat") and name_beside(name) in names:
                found.append(os.path.relpath(os.path.join(folder, name), root))
    return found


def move(root: Root, source: str, target: str) -> None:
    """Rename a file within the root; nothing where it is missing."""
    (old_folder, old), (new_folder, new) = os.path.split(source), os.path.split(target)
    try:
        source_fd = root.open_directory(old_folder)
    except FileMissing:
        return
    try:
        target_fd = root.open_directory(new_folder)
        try:
            os.rename(old, new, src_dir_fd=source_fd, dst_dir_fd=target_fd)
        except FileNotFoundError:
            return
        finally:
            os.close(target_fd)
    finally:
        os.close(source_fd)


def _fits(name: str, value: object) -> bool:
    if name == "config":
        return isinstance(value, dict)
    if name == "created":
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, str) or (value is None and name in _TEXT_OR_NONE)
