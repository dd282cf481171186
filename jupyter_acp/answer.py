"""What a chat file has of an agent's answer: all of it, or beginning and end of one that no file should hold. No I/O.

The log has the rest, as long as it is kept.
"""

from __future__ import annotations

from collections import deque

#: characters of one answer, about; half of them are its beginning
LIMIT = 4 << 20
_PIECES = 1000


class Answer:
    """Takes an answer piece by piece; `str` of it is what the chat file gets."""

    def __init__(self) -> None:
        self._head: list[str] = []
        self._room = LIMIT // 2
        self._tail: deque[str] = deque()
        self._tail_size = 0
        self._left_out = 0
        # a string of a few characters takes 70 bytes: a long answer is kept in long pieces
        self._pieces: list[str] = []

    def append(self, text: str) -> None:
        """The next piece."""
        self._pieces.append(text)
        if len(self._pieces) >= _PIECES or len(text) >= _PIECES:
            self._join()

    def __bool__(self) -> bool:
        return bool(self._head or self._pieces)

    def __str__(self) -> str:
        self._join()
        note = f"\n\n*[{self._left_out:,} characters are left out here; the details of this turn have them]*\n\n"
        return "".join([*self._head, note if self._left_out else "", *self._tail])

    def _join(self) -> None:
        text, self._pieces = "".join(self._pieces), []
        if self._room and text:
            self._head.append(text[: self._room])
            text, self._room = text[self._room :], max(0, self._room - len(text))
        if text:
            self._tail.append(text)
            self._tail_size += len(text)
            while self._tail_size - len(self._tail[0]) >= LIMIT // 2:
                self._left_out += len(self._tail[0])
                self._tail_size -= len(self._tail.popleft())
