"""What people's editors show and have not saved, where they offer it to the agent of a session. Never on disk.

An offer is a client's (a page that is open somewhere) and lasts no longer than its socket.
"""

from __future__ import annotations

import io
import os.path
from collections import Counter
from collections.abc import Mapping
from typing import Final, TypeAlias

from .exceptions import BadRequest, Conflict, ExecutorError, TooLarge
from .kernel_exec import textfiles

FILES: Final = 20
FILE_BYTES: Final = 2 << 20

Client: TypeAlias = tuple[str, str]
"""A person's login, and the name that their page has given itself."""


class EditorTexts:
    """Offers by client, the newest last. Paths are those of the project at `place`, relative to it."""

    def __init__(self, place: str) -> None:
        self._place = place
        self._sockets: Counter[Client] = Counter()
        self._offers: dict[Client, dict[str, str]] = {}

    def connected(self, client: Client) -> None:
        """A socket of the client was opened: what it offers is kept while it has one."""
        self._sockets[client] += 1

    def disconnected(self, client: Client) -> None:
        """One was closed."""
        self._sockets[client] -= 1
        if not +self._sockets[client]:
            del self._sockets[client]
            self._offers.pop(client, None)

    def offer(self, client: Client, texts: Mapping[str, object]) -> None:
        """In place of all that the client offered before. BadRequest, TooLarge; Conflict where it has no socket."""
        if client not in self._sockets:
            raise Conflict("a client offers texts while it follows the events of the session", "no_socket")
        if len(texts) > FILES:
            raise TooLarge(f"the texts of {FILES} files can be offered at once")
        offered: dict[str, str] = {}
        for path, text in texts.items():
            name = self._name(path)
            if name is None or not isinstance(text, str):
                raise BadRequest(f"{path}: not a text of a file in the project")
            try:
                size = len(text.encode())
            except UnicodeEncodeError as exc:
                raise BadRequest(f"{path}: the text has lone surrogates") from exc
            if size > FILE_BYTES:
                raise TooLarge(f"{path}: more than {FILE_BYTES >> 20} MiB")
            offered[name] = text
        self._offers.pop(client, None)
        self._offers[client] = offered

    def read(self, path: str, line: int | None, limit: int | None) -> str | None:
        """As `Executor.read_text_file`, of what was offered last; None where nobody offers this file."""
        name = self._name(path)
        for offered in reversed(self._offers.values()):
            if name is not None and (text := offered.get(name)) is not None:
                try:
                    return textfiles.read(io.BytesIO(text.encode()), line, limit, most=FILE_BYTES)
                except ValueError as exc:
                    raise ExecutorError(f"{path}: {exc}") from exc
        return None

    def written(self, path: str) -> None:
        """The agent has written the file: what an editor had before that is no longer what it should read."""
        name = self._name(path)
        for offered in self._offers.values():
            offered.pop(name or "", None)

    def _name(self, path: str) -> str | None:
        """A path relative to the project; None where it is not in it."""
        whole = os.path.normpath(os.path.join(self._place, path))
        name = os.path.relpath(whole, self._place)
        return None if name == "." or name.split(os.sep, 1)[0] == ".." or "\0" in name else name
