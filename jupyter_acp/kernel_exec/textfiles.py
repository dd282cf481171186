"""A file's bytes as text and back. A byte order mark says the encoding and is kept; without one it is UTF-8.

Line ends stay as they are. What is not text is a ValueError that says why, and never read in part.
"""

from __future__ import annotations

import codecs
import io
from typing import BinaryIO

_PIECE = 1 << 20

# the longer first: UTF-32 begins as UTF-16 does
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


def read(file: BinaryIO, line: int | None, limit: int | None, *, most: int) -> str:
    """`limit` lines from the 1-based `line` on, all by default, without the mark; OverflowError above `most` bytes."""
    mark, encoding = _encoding(file)
    file.seek(len(mark))
    try:
        if line is None and limit is None:
            data = file.read(most + 1)
            if len(data) > most:
                raise OverflowError
            text = data.decode(encoding)
        else:
            text = _lines(file, encoding, max(line or 1, 1), limit, most)
    except UnicodeDecodeError as exc:
        raise ValueError(f"not {encoding.upper()} text") from exc
    if "\0" in text:
        raise ValueError("not a text file")
    return text


def encode(text: str, instead_of: BinaryIO | None) -> bytes:
    """The text in the encoding, and with the mark, of the file that it replaces."""
    mark, encoding = (b"", "utf-8") if instead_of is None else _encoding(instead_of)
    try:
        return mark + (text.removeprefix("\ufeff") if mark else text).encode(encoding)
    except UnicodeEncodeError as exc:
        raise ValueError(f"the text has lone surrogates and cannot be written as {encoding.upper()}") from exc


def _encoding(file: BinaryIO) -> tuple[bytes, str]:
    start = file.read(4)
    return next(((mark, name) for mark, name in _MARKS if start.startswith(mark)), (b"", "utf-8"))


def _lines(file: BinaryIO, encoding: str, line: int, limit: int | None, most: int) -> str:
    reader = io.TextIOWrapper(file, encoding, newline="\n")
    taken: list[str] = []
    size = 0
    number = 1
    try:
        # in pieces: a line may be longer than memory
        while (limit is None or number < line + limit) and (piece := reader.readline(_PIECE)):
            if number >= line:
                taken.append(piece)
                size += len(piece.encode())
                if size > most:
                    raise OverflowError
            number += piece.endswith("\n")
    finally:
        reader.detach()  # the file is closed by who opened it
    return "".join(taken)
