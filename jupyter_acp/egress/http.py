"""HTTP/1.1 messages on asyncio streams, as strictly as two programs must read them to agree where one ends.

What is ambiguous, too long or unprintable is refused (`MessageError`), not guessed at: RFC 9112, and its section 11.
Bodies are handed on in the pieces that they come in.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Iterable
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

LARGEST_HEAD: Final = 64 << 10  # bytes; streams are to be opened with it as their limit
PIECE: Final = 64 << 10  # bytes of a body that are read at once

Header: TypeAlias = tuple[str, str]
Framing: TypeAlias = int | Literal["chunked", "close"]
"""How the end of a body is known: by its length, by its last chunk, or by the end of the connection."""

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_TARGET = re.compile(r"/[!-~]*")
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,8})[\t ]*(;[\t\x20-\x7e]*)?\r\n")
_OF_CONNECTION: Final = frozenset(
    ("connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "content-length", "expect")
)


class MessageError(Exception):
    """The message cannot be read, or is not to be. `status` is what says so to a client."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """The beginning of a message: the three words of its first line, and its headers."""

    start: tuple[str, str, str]
    headers: tuple[Header, ...]

    def all(self, name: str) -> list[str]:
        """The values of a header; `name` in lower case."""
        return [value for key, value in self.headers if key.lower() == name]

    def passed_on(self) -> list[Header]:
        """The headers that are meant for the other end, not for this connection."""
        named = {name.strip().lower() for value in self.all("connection") for name in value.split(",")}
        return [(name, value) for name, value in self.headers if name.lower() not in _OF_CONNECTION | named]


async def read_request(reader: asyncio.StreamReader) -> Head | None:
    """The head of a request; None where there is none, for the client is gone."""
    lines = await _read_head(reader)
    if lines is None:
        return None
    words = lines[0].split(" ")
    if len(words) != 3 or not _NAME.fullmatch(words[0]):
        raise MessageError("The first line of a request is `METHOD /path HTTP/1.1`.")
    method, target, version = words
    if version != "HTTP/1.1":
        raise MessageError("Only HTTP/1.1 is understood here.", 505)
    if not _TARGET.fullmatch(target):
        raise MessageError("What is asked for is given by its path here, from the slash on, and in ASCII.")
    return Head(start=(method, target, version), headers=_headers(lines[1:]))


async def read_response(reader: asyncio.StreamReader) -> Head:
    """The head of the final response; what comes before it (100 Continue) is left out."""
    while True:
        try:
            lines = await _read_head(reader)
        except asyncio.IncompleteReadError:
            lines = None
        if lines is None:
            raise MessageError("it closed the connection without an answer")
        version, _, rest = lines[0].partition(" ")
        status, _, reason = rest.partition(" ")
        if version not in ("HTTP/1.1", "HTTP/1.0") or not re.fullmatch("[1-5][0-9][0-9]", status):
            raise MessageError("its answer is not HTTP/1.1")
        if status == "101":
            raise MessageError("it switched protocols, unasked")
        if status[0] != "1":
            return Head(start=(version, status, reason), headers=_headers(lines[1:]))


def request_framing(head: Head) -> Framing:
    """Where the body of a request ends; 0 without one."""
    codings, lengths = head.all("transfer-encoding"), head.all("content-length")
    if codings:
        if lengths or [coding.lower() for coding in codings] != ["chunked"]:
            raise MessageError("The body of a request has one Content-Length, or is chunked and nothing else.")
        return "chunked"
    return _length(lengths) or 0


def response_framing(head: Head, method: str) -> Framing:
    """Where the body of a response ends."""
    status = head.start[1]
    if method == "HEAD" or status in ("204", "304"):
        return 0
    codings = head.all("transfer-encoding")
    if codings:
        if [coding.lower() for coding in codings] != ["chunked"]:
            raise MessageError("its answer has an encoding that nobody asked for")
        return "chunked"
    length = _length(head.all("content-length"))
    return "close" if length is None else length


async def read_body(reader: asyncio.StreamReader, framing: Framing) -> AsyncGenerator[bytes, None]:
    """The pieces of a body as they come. asyncio.IncompleteReadError where it breaks off."""
    if framing == "chunked":
        while size := await _chunk_size(reader):
            async for piece in _read_exactly(reader, size):
                yield piece
            if await reader.readexactly(2) != b"\r\n":
                raise MessageError("A chunk is longer than it says.")
        await _skip_trailers(reader)
    elif framing == "close":
        while piece := await reader.read(PIECE):
            yield piece
    else:
        async for piece in _read_exactly(reader, framing):
            yield piece


def chunk(piece: bytes) -> bytes:
    """A piece of a chunked body; the empty one is its end."""
    return b"%x\r\n%b\r\n" % (len(piece), piece)


def head_bytes(start: str, headers: Iterable[Header]) -> bytes:
    """A head as it is sent."""
    lines = [start, *(f"{name}: {value}" for name, value in headers)]
    return "".join(f"{line}\r\n" for line in [*lines, ""]).encode("latin-1")


async def _read_head(reader: asyncio.StreamReader) -> list[str] | None:
    try:
        data = await reader.readuntil(b"\r\n\r\n")
    except asyncio.LimitOverrunError as exc:
        raise MessageError(f"The headers are longer than {LARGEST_HEAD} bytes.", 431) from exc
    except asyncio.IncompleteReadError as exc:
        if exc.partial:
            raise
        return None
    return data[:-4].decode("latin-1").split("\r\n")


def _headers(lines: list[str]) -> tuple[Header, ...]:
    headers = []
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
            raise MessageError("A header cannot be read.")
        headers.append((name, value.strip(" \t")))
    return tuple(headers)


def _length(values: list[str]) -> int | None:
    if not values:
        return None
    if len(values) != 1 or not re.fullmatch("[0-9]{1,15}", values[0]):
        raise MessageError("The Content-Length is one number.")
    return int(values[0])


async def _read_exactly(reader: asyncio.StreamReader, size: int) -> AsyncGenerator[bytes, None]:
    left = size
    while left:
        piece = await reader.read(min(left, PIECE))
        if not piece:
            raise asyncio.IncompleteReadError(b"", left)
        left -= len(piece)
        yield piece


async def _chunk_size(reader: asyncio.StreamReader) -> int:
    found = _CHUNK.fullmatch(await _line(reader))
    if not found:
        raise MessageError("A chunk begins with its size.")
    return int(found[1], 16)


async def _skip_trailers(reader: asyncio.StreamReader) -> None:
    left = LARGEST_HEAD
    while (line := await _line(reader)) != b"\r\n":
        left -= len(line)
        if left < 0 or not line.endswith(b"\r\n"):
            raise MessageError("What follows the last chunk cannot be read.")


async def _line(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readuntil(b"\n")
    except asyncio.LimitOverrunError as exc:
        raise MessageError("A line of a chunked body is too long.") from exc
