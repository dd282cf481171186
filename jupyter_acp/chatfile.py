"""One `.chat` file: the conversation in memory, and its writes. Not here: the layout (chatdocument) and events.

The one rule: never lose what somebody wrote. A damaged or newer file is not overwritten; a file that somebody else
changed is merged; a chat that jupyterlab-chat has open is written by jupyterlab-chat.
"""

from __future__ import annotations

import asyncio
import logging
import os
import uuid
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from . import chatmanager
from .chatdocument import ChatDocument, Damaged, Newer, acp_of
from .events import JsonObject
from .exceptions import Conflict, ExecutorError, NotAllowed, NotFound, PathOutside, Unsupported
from .kernel_exec.base import FileMissing
from .kernel_exec.paths import Root
from .sessionfile import SessionFile, move, name_beside

log = logging.getLogger(__name__)

_USER_FIELDS = ("username", "name", "display_name", "initials", "avatar_url", "color", "bot")
_ATTEMPTS = 5

Identity: TypeAlias = tuple[int, int, int]
"""Modification time, size and inode: another one means that somebody else has written."""


class ReadOnlyChat(OSError):
    """The chat must not be written; says why."""


class _ChangedMeanwhile(Exception):
    """Somebody wrote between our reading and our writing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatMessage:
    """A new message. `time` is seconds since the epoch; ours in `metadata` goes under `acp`."""

    id: str
    body: str
    time: float
    sender: str
    metadata: JsonObject = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Some messages in time order, whether there are earlier ones, and who wrote them."""

    messages: list[JsonObject]
    has_more: bool
    users: JsonObject


class ChatFile:
    """A chat of a project. Changes are in memory at once; `save` writes them. Made by `open`."""

    def __init__(self, root: Path, path: str, manager: Any) -> None:
        self.path = path
        self.read_only: str | None = None
        self.writes = 0
        self._root = root
        self._manager = manager
        self._document = ChatDocument()
        self._identity: Identity | None = None
        self._session: SessionFile | None = None
        self._unread = False  # the file was damaged when it was opened: what is in memory is not what it holds
        self._newer_session = False
        self._saving = asyncio.Lock()

    @classmethod
    async def open(cls, root: Path, path: str, *, create: bool, manager: object | None = None) -> ChatFile:
        """Read a chat; with `create`, make it where it is missing. A new or foreign chat is given its id on disk.

        Damaged files open, empty and `read_only`. NotFound where it is missing, NotAllowed where the path leads out
        of the project. `manager` is jupyterlab-chat's, where that is loaded.
        """
        chat = cls(root, path, manager)
        try:
            await chat._find(create)
            if chat.read_only is None:
                await chat._adopt()
        except ExecutorError as exc:
            raise _refused(exc) from exc
        return chat

    @classmethod
    async def look(cls, root: Path, path: str) -> ChatFile:
        """A chat as it is on disk, where nothing is written. Damaged, missing and refused as with `open`."""
        chat = cls(root, path, None)
        try:
            await chat._find(create=False)
        except ExecutorError as exc:
            raise _refused(exc) from exc
        return chat

    @property
    def id(self) -> str:
        """The identity of the chat, which stays when it is moved."""
        return self._document.id

    @property
    def metadata(self) -> JsonObject:
        """Ours, of the whole chat."""
        return acp_of(self._document.metadata)

    # --- the conversation --------------------------------------------------------------------------------------------

    def page(self, before: str | None = None, limit: int = 50) -> Page:
        """The newest messages, or those just before one. NotFound for a `before` that is not there."""
        entries = self._document.entries
        end = len(entries)
        if before is not None:
            place = self._document.place(before)
            if place is None:
                raise NotFound(f"there is no message {before}", "unknown_message")
            end = place
        start = max(0, end - limit)
        messages = [self._shown(entry.message) for entry in entries[start:end]]
        users = {message["sender"]: self._document.users.get(message["sender"], {}) for message in messages}
        return Page(messages=messages, has_more=start > 0, users=users)

    def has(self, message_id: str) -> bool:
        """There is such a message, deleted ones included."""
        return self._document.place(message_id) is not None

    def add(self, message: ChatMessage) -> None:
        """Add a message; one of the same id is replaced, so that adding twice is harmless."""
        new: JsonObject = {
            "type": "msg",
            "id": message.id,
            "body": message.body,
            "time": message.time,
            "sender": message.sender,
            "raw_time": False,
            "mentions": [],
        }
        if message.metadata:
            new["metadata"] = message.metadata
        self._document.put(new)

    def update(
        self,
        message_id: str,
        *,
        body: str | None = None,
        deleted: bool | None = None,
        edited: bool | None = None,
        metadata: JsonObject | None = None,
    ) -> None:
        """Change what is given; `metadata` is merged into ours of that message. Checks nobody's right to do so."""
        message = self._message(message_id)
        fields: JsonObject = {"body": body, "deleted": deleted, "edited": edited}
        if metadata is not None:
            old = message.get("metadata")
            fields["metadata"] = {
                **(old if isinstance(old, dict) else {}),
                "acp": {**acp_of(old), **metadata},
            }
        self._document.change(message_id, **{name: value for name, value in fields.items() if value is not None})

    def edit(self, message_id: str, body: str, by: str) -> None:
        """A person changes their own message. NotAllowed for anybody else's, Conflict for a deleted one."""
        if self._own(message_id, by).get("deleted"):
            raise Conflict("the message was deleted", "message_deleted")
        self.update(message_id, body=body, edited=True)

    def delete(self, message_id: str, by: str) -> None:
        """A person deletes their own message: it stays, empty and marked. NotAllowed for anybody else's."""
        self._own(message_id, by)
        self.update(message_id, body="", deleted=True)

    def react(self, message_id: str, name: str, user: str, on: bool) -> dict[str, list[str]]:
        """Add or take back a reaction to any message; all reactions to it, by name."""
        found = acp_of(self._message(message_id).get("metadata")).get("reactions")
        reactions: dict[str, list[str]] = dict(found) if isinstance(found, dict) else {}
        people = [person for person in reactions.get(name, []) if person != user] + ([user] if on else [])
        reactions[name] = people
        reactions = {name: people for name, people in reactions.items() if people}
        self.update(message_id, metadata={"reactions": reactions})
        return reactions

    def set_user(self, user: JsonObject) -> None:
        """Add or update somebody who writes here. Whoever is a bot stays one."""
        known = {name: user[name] for name in _USER_FIELDS if user.get(name) is not None}
        old = self._document.users.get(known["username"], {})
        if old.get("bot"):
            known["bot"] = True
        self._document.set_user({**old, **known})

    # --- the file ----------------------------------------------------------------------------------------------------

    async def save(self) -> None:
        """Write what has changed, after merging what somebody else wrote. OSError where that fails.

        Nothing is lost by a failure: the changes go with the next call.
        """
        async with self._saving:
            if self.read_only is not None:
                await self._reload()
            if self.read_only is not None:
                raise ReadOnlyChat(self.read_only)
            if not self._document.pending and self._identity is not None:
                return
            for _ in range(_ATTEMPTS):
                if await self._write():
                    return
        raise OSError(f"{self.path} changes faster than it can be merged")

    async def reload_if_changed(self) -> bool:
        """Take in what somebody else wrote since; whether there was something."""
        async with self._saving:
            return await self._reload()

    async def close(self) -> None:
        """Write what is not written."""
        if self._document.pending and self.read_only is None:
            await self.save()

    def renamed(self, path: str) -> None:
        """The file has another path now; the session file follows it."""
        old, self.path = self.path, path
        try:
            with closing(Root(self._root)) as root:
                move(root, name_beside(old), name_beside(path))
        except (ExecutorError, OSError) as exc:
            # it is written again with the next change of the session
            log.warning("the session file of %s did not follow it to %s: %s", old, path, exc)

    async def new_identity(self) -> None:
        """Become another chat than the one this was copied from."""
        self._document.new_identity()
        self._session = None
        if self.read_only is None:
            await self.save()

    async def copy_to(self, path: str) -> None:
        """Write the conversation, with an identity of its own, to a new file. Conflict where there is one."""

        def write() -> None:
            with closing(Root(self._root)) as root:
                try:
                    root.stat(path)
                except FileMissing:
                    _write_whole(root, path, copy.chunks(), None)
                else:
                    raise Conflict(f"{path} exists already", "chat_exists")

        copy = ChatDocument.parse(b"".join(self._document.chunks()))
        copy.metadata = {**copy.metadata, "id": uuid.uuid4().hex}
        try:
            await asyncio.to_thread(write)
        except ExecutorError as exc:
            raise _refused(exc) from exc

    async def load_session(self) -> SessionFile | None:
        """The session file that was beside the chat when it was opened."""
        return self._session

    async def save_session(self, session: SessionFile) -> None:
        """Write the session file beside the chat. OSError where that fails."""
        if self.read_only is not None:
            raise ReadOnlyChat(self.read_only)

        def write() -> None:
            with closing(Root(self._root)) as root:
                session.save(root, self.path)

        await _in_thread(write)
        self._session = session

    # --- inside ------------------------------------------------------------------------------------------------------

    async def _find(self, create: bool) -> None:
        if not await asyncio.to_thread(self._load) and not create:
            raise NotFound(f"there is no chat {self.path}", "unknown_chat")

    def _load(self) -> bool:
        """Read both files; whether there is a chat."""
        with closing(Root(self._root)) as root:
            try:
                data, identity = _read_whole(root, self.path)
            except FileMissing:
                data, identity = b"", None
            self._identity = identity
            try:
                self._document = _parse(data)
                self._session = SessionFile.load(root, self.path)
            except (Damaged, Newer) as exc:
                self._refuse(exc)
                self._document, self._unread = _parse(b""), True
            except Unsupported as exc:
                self._refuse(exc)
                self._newer_session = True
        return identity is not None

    async def _adopt(self) -> None:
        """Give a chat that has no identity on disk one, unless jupyterlab-chat has given it one in memory."""
        if not self._document.pending and self._identity is not None:
            return
        model = chatmanager.find(self._manager, self.id, self.path)
        if model is not None:
            self._document.metadata["id"] = model.get_id()
        try:
            await self.save()
        except ReadOnlyChat:
            return
        except OSError as exc:
            if self._identity is None:
                raise NotAllowed(f"{self.path} cannot be written: {exc}", "not_writable") from exc
            self.read_only = f"it cannot be written ({exc})"

    def _refuse(self, error: Exception) -> None:
        self.read_only = str(error)
        log.warning("the chat %s is opened read-only: %s", self.path, error)

    async def _write(self) -> bool:
        """Write once; False where somebody else's changes had to be merged and it is to be tried again."""
        if (model := chatmanager.find(self._manager, self.id, self.path)) is not None:
            await self._write_through(model)
            self._identity = await asyncio.to_thread(self._look)
            return True
        pending, chunks, before = self._document.take_pending(), self._document.chunks(), self._identity

        def write() -> Identity:
            with closing(Root(self._root)) as root:
                return _write_whole(root, self.path, chunks, before)

        try:
            self._identity = await _in_thread(write)
        except BaseException as exc:
            pending.update(self._document.pending)
            self._document.pending = pending
            if not isinstance(exc, _ChangedMeanwhile):
                raise
            await self._reload()
            if self.read_only is not None:
                raise ReadOnlyChat(self.read_only) from exc
            return False
        self.writes += 1
        if (model := chatmanager.find(self._manager, self.id, self.path)) is not None:
            # opened while we wrote: it may have read the file as it was
            self._document.pending.update(pending)
            await self._write_through(model)
            self._identity = await asyncio.to_thread(self._look)
        return True

    async def _write_through(self, model: Any) -> None:
        # the collaborative document stamps a new message in the loop's next round, and loses it (jupyterlab-chat
        # 0.25, `_set_timestamp`) where another one was added meanwhile
        await asyncio.sleep(0)
        theirs = self._read_through(model)
        pending = self._document.take_pending()
        try:
            # merging takes `theirs` over, and the writing compares with what they had
            self._document.merge(self._read_through(model), pending)
            chatmanager.write(model, self._document, theirs, pending)
            # it may have put a message elsewhere than we did, and its order is the one on screen
            self._document.merge(self._read_through(model), self._document.pending)
        except BaseException:
            self._document.pending.update(pending)
            raise
        self.writes += 1

    def _read_through(self, model: Any) -> ChatDocument:
        try:
            return chatmanager.read(model)
        except (Damaged, Newer) as exc:
            raise ReadOnlyChat(f"what jupyterlab-chat has of {self.path} cannot be used: {exc}") from exc

    async def _reload(self) -> bool:
        if (model := chatmanager.find(self._manager, self.id, self.path)) is not None and self.read_only is None:
            self._document.merge(self._read_through(model), self._document.pending)
            return True

        def read() -> tuple[bytes, Identity] | None:
            with closing(Root(self._root)) as root:
                try:
                    return None if _identity(root, self.path) == known else _read_whole(root, self.path)
                except FileMissing:
                    return None

        known = self._identity
        found = await _in_thread(read)
        if found is None:
            return False
        try:
            theirs = await asyncio.to_thread(_parse, found[0])
        except (Damaged, Newer) as exc:
            self._refuse(exc)
            return True
        if self._unread:
            self._document.metadata["id"] = theirs.id
        self._document.merge(theirs, self._document.pending)
        self._identity, self._unread = found[1], False
        if not self._newer_session:
            self.read_only = None
        return True

    def _look(self) -> Identity | None:
        with closing(Root(self._root)) as root:
            try:
                return _identity(root, self.path)
            except FileMissing:
                return None

    def _message(self, message_id: str) -> JsonObject:
        message = self._document.get(message_id)
        if message is None:
            raise NotFound(f"there is no message {message_id}", "unknown_message")
        return message

    def _own(self, message_id: str, by: str) -> JsonObject:
        message = self._message(message_id)
        if self._role(message) == "agent":
            raise NotAllowed("what an agent said is not changed", "agents_message")
        if message["sender"] != by:
            raise NotAllowed("people change their own messages only", "not_your_message")
        return message

    def _role(self, message: JsonObject) -> str:
        by_agent = "stop_reason" in acp_of(message.get("metadata"))
        return "agent" if by_agent or self._document.users.get(message["sender"], {}).get("bot") else "user"

    def _shown(self, message: JsonObject) -> JsonObject:
        shown = {name: message[name] for name in ("id", "body", "time", "sender")}
        shown["role"] = self._role(message)
        for name in ("deleted", "edited"):
            if message.get(name):
                shown[name] = True
        shown["metadata"] = {"acp": acp_of(message.get("metadata"))}
        return shown


def _refused(error: ExecutorError) -> NotAllowed:
    return NotAllowed(str(error), "path_outside" if isinstance(error, PathOutside) else "not_a_file")


async def _in_thread(work: Any) -> Any:
    """Disk work off the event loop, its failures as OSError."""
    try:
        return await asyncio.to_thread(work)
    except ExecutorError as exc:
        raise OSError(str(exc)) from exc


def _parse(data: bytes) -> ChatDocument:
    document = ChatDocument.parse(data)
    document.serialise_messages()
    return document


def _read_whole(root: Root, path: str) -> tuple[bytes, Identity]:
    with root.open_read(path) as file:
        found = os.fstat(file.fileno())
        return file.read(), (found.st_mtime_ns, found.st_size, found.st_ino)


def _write_whole(root: Root, path: str, chunks: list[bytes], before: Identity | None) -> Identity:
    """Replace the file, if it is still the one of `before`."""
    with root.open_write(path) as file:
        file.writelines(chunks)
        file.flush()
        os.fsync(file.fileno())
        written = os.fstat(file.fileno())
        # where it was deleted behind us, what is in memory is all there is, and is written again
        with suppress(FileMissing):
            if _identity(root, path) != before:
                raise _ChangedMeanwhile
    return written.st_mtime_ns, written.st_size, written.st_ino


def _identity(root: Root, path: str) -> Identity:
    found = root.stat(path)
    return found.st_mtime_ns, found.st_size, found.st_ino
