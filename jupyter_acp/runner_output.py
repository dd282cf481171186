"""The part of an agent's stdout that nobody has acknowledged yet: in memory, above a limit on disk.

No process, no socket. Its one rule: what is not acknowledged can be read again, byte for byte.
"""

from __future__ import annotations

import bisect
import os

CHUNK = 256 << 10
_SMALL = 64 << 10
_SEGMENT = 16 << 20


class _Segment:
    """A part of the spool; its file has no name, so it ends with the process."""

    def __init__(self) -> None:
        name = f"spool-{os.urandom(4).hex()}"
        self.fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        os.unlink(name)
        self.size = 0
        self.pieces = 0


class _Piece:
    """Contiguous bytes from `start`: in memory, or `size` bytes at `offset` of a segment."""

    __slots__ = ("data", "offset", "segment", "size", "start")

    def __init__(self, start: int, data: bytearray | None, segment: _Segment | None = None, offset: int = 0) -> None:
        self.start = start
        self.data = data
        self.segment = segment
        self.offset = offset
        self.size = len(data) if data is not None else 0


class Output:
    """The bytes [start, end) of a stream. Memory up to a limit, above it the disk up to a limit, then `full`."""

    def __init__(self, memory_limit: int, spool_limit: int) -> None:
        self.start = 0
        self.end = 0
        self._memory_limit = memory_limit
        self._limit = memory_limit + spool_limit
        self._in_memory = 0
        self._no_disk = spool_limit <= 0
        self._pieces: list[_Piece] = []
        self._segment: _Segment | None = None

    @property
    def full(self) -> bool:
        """No more should be appended until some is acknowledged."""
        return self._in_memory >= self._memory_limit if self._no_disk else self.end - self.start >= self._limit

    def append(self, data: bytes) -> None:
        if self._in_memory + len(data) <= self._memory_limit or not self._spooled(data):
            last = self._pieces[-1] if self._pieces else None
            if last is not None and last.data is not None and last.size < _SMALL:
                last.data += data
                last.size += len(data)
            else:
                self._pieces.append(_Piece(self.end, bytearray(data)))
            self._in_memory += len(data)
        self.end += len(data)

    def read(self, position: int, limit: int) -> bytes:
        """Up to `limit` bytes from `position` on; empty at the end."""
        parts: list[bytes] = []
        index = bisect.bisect_right(self._pieces, position, key=lambda piece: piece.start) - 1
        while limit > 0 and position < self.end:
            piece = self._pieces[index]
            at = position - piece.start
            size = min(limit, piece.size - at)
            if piece.data is not None:
                part = bytes(memoryview(piece.data)[at : at + size])
            else:
                assert piece.segment is not None
                part = os.pread(piece.segment.fd, size, piece.offset + at)
            parts.append(part)
            position += len(part)
            limit -= len(part)
            index += 1 if len(part) == piece.size - at else 0
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def ack(self, position: int) -> None:
        """Forget what is before `position`."""
        self.start = max(self.start, min(position, self.end))
        gone = 0
        for piece in self._pieces:
            if piece.start + piece.size > self.start:
                break
            gone += 1
            if piece.data is not None:
                self._in_memory -= piece.size
            elif (segment := piece.segment) is not None:
                segment.pieces -= 1
                if not segment.pieces:
                    os.close(segment.fd)
                    if segment is self._segment:
                        self._segment = None
        del self._pieces[:gone]

    def _spooled(self, data: bytes) -> bool:
        if self._limit <= self._memory_limit:
            return False
        last = self._pieces[-1] if self._pieces else None
        try:
            segment = self._segment
            if segment is None or segment.size >= _SEGMENT:
                segment = self._segment = _Segment()
                last = None
            done = 0
            while done < len(data):
                done += os.pwrite(segment.fd, data[done:], segment.size + done)
        except OSError:  # a full disk is a full spool: the agent waits, and each acknowledgement tries again
            if self._segment is not None and not self._segment.pieces:
                os.close(self._segment.fd)
                self._segment = None
            self._no_disk = True
            return False
        self._no_disk = False
        if last is None or last.segment is not segment or last.size >= CHUNK:
            last = _Piece(self.end, None, segment, segment.size)
            segment.pieces += 1
            self._pieces.append(last)
        last.size += len(data)
        segment.size += len(data)
        return True
