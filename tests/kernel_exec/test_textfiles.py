"""Text of a file keeps its encoding, its mark and its line ends, whoever reads and writes it."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest

from jupyter_acp.exceptions import ExecutorError
from jupyter_acp.kernel_exec.base import Executor
from jupyter_acp.kernel_exec.local import LocalExecutor

from .conftest import Place

MARKED = {
    "utf-8": b"\xef\xbb\xbf",
    "utf-16-le": b"\xff\xfe",
    "utf-16-be": b"\xfe\xff",
    "utf-32-le": b"\xff\xfe\0\0",
    "utf-32-be": b"\0\0\xfe\xff",
}
TEXT = "é 1\r\n\u2028😀2\n\n\ufeff3\r4\x0b\x855"
marked = pytest.mark.parametrize("encoding", MARKED)


@marked
def test_a_file_with_a_mark_is_read_without_it(place: Place, encoding: str) -> None:
    (place.root / "a").write_bytes(MARKED[encoding] + TEXT.encode(encoding))

    async def test(here: Executor) -> None:
        assert await here.read_text_file("a") == TEXT
        assert await here.read_text_file("a", limit=1) == "é 1\r\n"
        assert await here.read_text_file("a", line=2, limit=1) == "\u2028😀2\n"
        assert await here.read_text_file("a", line=3) == "\n\ufeff3\r4\x0b\x855"
        assert await here.read_text_file("a", line=5) == ""

    place.run(test)


@marked
def test_a_file_with_a_mark_is_written_back_as_it_was(place: Place, encoding: str) -> None:
    (place.root / "a").write_bytes(MARKED[encoding] + "old".encode(encoding))

    async def test(here: Executor) -> None:
        for given in (TEXT, "\ufeff" + TEXT):
            await here.write_text_file("a", given)
            assert (place.root / "a").read_bytes() == MARKED[encoding] + TEXT.encode(encoding)
        await here.write_text_file("a", "")
        assert (place.root / "a").read_bytes() == MARKED[encoding]
        assert await here.read_text_file("a") == ""
        with pytest.raises(ExecutorError, match="surrogates"):
            await here.write_text_file("a", "\ud800")

    place.run(test)


def test_a_file_without_a_mark_is_utf8_to_the_byte(place: Place) -> None:
    (place.root / "latin").write_bytes(b"caf\xe9")

    async def test(here: Executor) -> None:
        for name in ("new", "latin", "new"):
            await here.write_text_file(name, TEXT)
            assert (place.root / name).read_bytes() == TEXT.encode()
            assert await here.read_text_file(name) == TEXT
        await here.write_text_file("other", "\ufeffx")
        assert (place.root / "other").read_bytes() == b"\xef\xbb\xbfx", "whoever writes a mark means it"

    place.run(test)


@pytest.mark.parametrize(
    "data",
    [
        b"caf\xe9",
        b"a\0b",
        "a".encode("utf-16-le"),
        b"\xff\xfea",
        b"\xff\xfe\0\xd8",
        b"\xff\xfe\0\0\0\0\x11\0",
        b"\xff\xfea\0\0\0",
        b"\xef\xbb\xbf\xff",
    ],
    ids=["latin-1", "nul", "no mark", "half a character", "lone surrogate", "beyond Unicode", "nul in UTF-16", "bad"],
)
def test_what_is_no_text_is_an_error_whatever_its_mark_says(place: Place, data: bytes) -> None:
    (place.root / "a").write_bytes(data)

    async def test(here: Executor) -> None:
        for line in (None, 1):
            with pytest.raises(ExecutorError, match=r"^a: not .*text"):
                await here.read_text_file("a", line)

    place.run(test)


def test_lines_that_are_skipped_take_no_memory_however_long_they_are(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * (64 << 20) + b"\nend")

    async def test(here: Executor) -> None:
        tracemalloc.start(1)
        assert await here.read_text_file("a", line=2) == "end"
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
        tracemalloc.stop()

    Place(tmp_path, lambda: LocalExecutor(tmp_path, file_limit=1 << 20)).run(test)
