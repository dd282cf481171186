"""Lines of JSON-RPC in and out. One lock for output; answers find the thread that waits for them. Knows no method."""

from __future__ import annotations

import itertools
import json
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

JsonObject = dict[str, Any]

AUTH_REQUIRED = -32000
NOT_FOUND = -32002
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603

_BLOCK = 64 << 10


class RpcError(Exception):
    """A JSON-RPC error, ours to send or the client's answer."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"{message} ({code})")
        self.code = code
        self.message = message


class Wire:
    """The two ends of the pipe to the client."""

    def __init__(self, stdin: int = 0, stdout: int = 1) -> None:
        self._stdin = stdin
        self._stdout = stdout
        self._lock = threading.Lock()
        self._ids = itertools.count(1)
        self._waiting: dict[str, Callable[[JsonObject], None]] = {}

    def lines(self) -> Iterator[bytes]:
        """Every line of the client, until it closes the pipe."""
        with os.fdopen(self._stdin, "rb", closefd=False) as stream:
            yield from stream

    def write(self, data: bytes) -> None:
        """Write `data`, which ends with a newline, in one piece."""
        view = memoryview(data)
        with self._lock:
            while view:
                view = view[os.write(self._stdout, view) :]

    def write_all(self, lines: Iterable[bytes], before_each_block: Callable[[], None]) -> None:
        """Write many encoded lines at full speed, in blocks; `before_each_block` may raise to end it."""
        block: list[bytes] = []
        size = 0
        for line in lines:
            block.append(line)
            size += len(line)
            if size >= _BLOCK:
                before_each_block()
                self.write(b"".join(block))
                block, size = [], 0
        before_each_block()
        self.write(b"".join(block))

    def send(self, message: JsonObject) -> None:
        """Send one message."""
        self.write(json.dumps({"jsonrpc": "2.0", **message}, separators=(",", ":")).encode() + b"\n")

    def notify(self, method: str, params: JsonObject) -> None:
        """Send a notification."""
        self.send({"method": method, "params": params})

    def ask(self, method: str, params: JsonObject, answered: Callable[[JsonObject], None]) -> str:
        """Send a request; its answer is passed to `answered` on the reader's thread. Returns the request's id."""
        id = f"agent-{next(self._ids)}"
        self._waiting[id] = answered
        self.send({"id": id, "method": method, "params": params})
        return id

    def answered(self, message: JsonObject) -> None:
        """Hand an answer to who waits for it; one that nobody waits for is dropped."""
        waiting = self._waiting.pop(str(message.get("id")), None)
        if waiting is not None:
            waiting(message)

    def close_stdout(self) -> None:
        """Close the agent's output although it lives on."""
        with self._lock:
            os.close(self._stdout)


def chunk_text(number: int, size: int) -> str:
    """The text of chunk `number` (from 0) of `/chunks N SIZE`: exactly `size` characters, no two alike in a row."""
    return f"{number} ".rjust(size, ".")[-size:]


def chunk_lines(session: str, count: int, size: int) -> Iterator[bytes]:
    """The encoded lines of `/chunks`, cheap enough not to be what a benchmark measures."""
    head, tail = text_frame(session)
    for number in range(count):
        yield b"%b%b%b" % (head, f"{number} ".rjust(size, ".")[-size:].encode(), tail)


def text_frame(session: str) -> tuple[bytes, bytes]:
    """What stands before and after the text in the line of an `agent_message_chunk`."""
    line = json.dumps(
        {
            "jsonrpc": "2.0",
            "method": "session/update",
            "params": {
                "sessionId": session,
                "update": {"sessionUpdate": "agent_message_chunk", "content": {"type": "text", "text": "\0"}},
            },
        },
        separators=(",", ":"),
    )
    head, tail = line.encode().split(b"\\u0000")
    return head, tail + b"\n"
