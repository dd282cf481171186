"""How many tokens a request has cost, read out of the answer as it goes by. No I/O, nothing of the answer is kept.

Wherever a provider says it (the end of a JSON answer, one event of many in a stream), it is an object `usage`, Gemini's
`usageMetadata`. In a text of the model its quotes are escaped, so that nothing else looks like it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Final

_USAGE = re.compile(rb'"usage(?:Metadata)?"[ \r\n\t]{0,32}:[ \r\n\t]{0,32}(?=\{)')
_LONGEST_NAME: Final = 96  # bytes up to the object
_LONGEST: Final = 16 << 10  # bytes of the object

_TOTAL = ("total_tokens", "totalTokenCount")
_PARTS = (
    # OpenAI's responses, and Anthropic, which counts what it has in its cache beside the input
    ("input_tokens", "output_tokens", "cache_creation_input_tokens", "cache_read_input_tokens"),
    # chat completions
    ("prompt_tokens", "completion_tokens"),
    # Gemini
    ("promptTokenCount", "candidatesTokenCount", "thoughtsTokenCount", "toolUsePromptTokenCount"),
)
_MOST: Final = 1 << 40  # tokens: beyond that it is no count

MOST_ESTIMATED: Final = 200_000  # tokens: what a request has to say at most, pictures are long and cost little


class TokenReader:
    """Give it all pieces of an answer. `tokens` is what it has said so far, None for nothing."""

    def __init__(self) -> None:
        self._window = b""
        self._known: dict[str, int] = {}
        self._events = 0

    @property
    def tokens(self) -> int | None:
        """What was said: in all, or else the sum of its parts."""
        if not self._known:
            return None
        total = max(self._known.get(name, 0) for name in _TOTAL)
        return total or max(sum(self._known.get(name, 0) for name in parts) for parts in _PARTS)

    def estimate(self, sent: int) -> int:
        """About what a request of `sent` bytes costs whose answer does not say it: four bytes of it are a token, and
        every event of the answer is one."""
        return min(sent // 4, MOST_ESTIMATED) + self._events

    def feed(self, piece: bytes) -> None:
        """Look at the next piece."""
        self._events += piece.count(b"data:")
        window = self._window + piece
        end = 0
        for found in _USAGE.finditer(window):
            end = found.end()
            if not self._take(window[end : end + _LONGEST]) and len(window) - end < _LONGEST:
                self._window = window[found.start() :]  # it goes on in the next piece
                return
        self._window = window[max(end, len(window) - _LONGEST_NAME) :]

    def _take(self, data: bytes) -> bool:
        """Take the object that `data` begins with; False where its end is missing."""
        try:
            usage, _ = json.JSONDecoder().raw_decode(data.decode("latin-1"))
        except (ValueError, RecursionError):
            return False
        assert isinstance(usage, Mapping)
        for name, value in usage.items():
            if type(value) is int and 0 < value < _MOST:
                # in a stream it is said again and again, and each time for all until then
                self._known[name] = max(value, self._known.get(name, 0))
        return True
