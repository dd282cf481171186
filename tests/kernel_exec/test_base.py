"""Tails, text cut anywhere, exits, and the environment of a command."""

from __future__ import annotations

import asyncio

import pytest

from jupyter_acp.kernel_exec.base import Exit, Tail, TextStream, command_environment, finish_all


def test_a_tail_begins_at_a_character() -> None:
    tail = Tail(10)
    for byte in "x€€€€€".encode():
        tail.append(bytes([byte]))
    assert tail.text(final=True) == ("€€€", True)


def test_a_character_that_is_not_complete_waits_until_the_end() -> None:
    tail = Tail(10)
    tail.append(b"a" + "€".encode()[:2])
    assert tail.text(final=False) == ("a", False)
    assert tail.text(final=True) == ("a\ufffd", False)


@pytest.mark.parametrize("limit", range(14))
def test_the_text_never_encodes_to_more_than_the_limit(limit: int) -> None:
    tail = Tail(limit)
    tail.append(b"\xff\xfe" * 3 + "€".encode())
    text, _ = tail.text(final=True)
    assert len(text.encode()) <= limit


def test_a_limit_of_nothing_keeps_nothing_and_says_so() -> None:
    tail = Tail(0)
    assert tail.text(final=True) == ("", False)
    tail.append(b"x")
    assert tail.text(final=True) == ("", True)


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_text_is_exact_wherever_it_is_cut(size: int) -> None:
    data = "aé€😀\n".encode() * 3
    stream = TextStream()
    pieces = [stream.decode(data[i : i + size]) for i in range(0, len(data), size)]
    assert "".join(pieces) == data.decode()


def test_after_a_gap_text_goes_on_with_the_next_character() -> None:
    stream = TextStream()
    assert stream.decode("a€".encode()[:2]) == "a"
    assert stream.decode("😀b".encode()[2:], after_gap=True) == "b"


def test_an_exit_is_a_code_or_a_signal() -> None:
    assert Exit.of(3) == Exit(code=3, signal=None)
    assert Exit.of(-9) == Exit(code=None, signal="SIGKILL")
    assert Exit.of(-40) == Exit(code=None, signal="SIG40")


def test_a_command_sees_neither_keys_nor_jupyter() -> None:
    environ = {
        "PATH": "/p", "LC_ALL": "C", "https_proxy": "p", "OPENAI_API_KEY": "k", "JUPYTER_TOKEN": "t", "PYTHONPATH": "x"
    }  # fmt: skip
    got = command_environment(environ)
    assert (got["PATH"], got["LC_ALL"], got["https_proxy"]) == ("/p", "C", "p")
    assert not {"OPENAI_API_KEY", "JUPYTER_TOKEN", "PYTHONPATH"} & set(got)


def test_one_ending_that_fails_does_not_spare_the_others() -> None:
    ended: list[str] = []

    async def end(name: str) -> None:
        await asyncio.sleep(0)
        if name == "bad":
            raise RuntimeError(name)
        ended.append(name)

    with pytest.raises(RuntimeError, match="bad"):
        asyncio.run(finish_all(end(name) for name in ("bad", "a", "b")))
    assert ended == ["a", "b"]
