"""The session file beside a chat."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from jupyter_acp.chatfile import ChatFile
from jupyter_acp.exceptions import Unsupported
from jupyter_acp.kernel_exec.paths import Root
from jupyter_acp.sessionfile import SessionFile, name_beside

GOLDEN = Path(__file__).parent / "golden" / "chat" / "session.json"
SAVED = SessionFile(
    session="s1",
    chat_id="c1",
    agent="demo",
    agent_session_id="a1",
    access="full-access",
    config={"model": "large"},
    cwd="work",
    parent=None,
    created=1.5,
)


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Root]:
    (tmp_path / "sub").mkdir()
    opened = Root(tmp_path)
    yield opened
    opened.close()


def test_it_is_hidden_beside_its_chat() -> None:
    assert (name_beside("notes.chat"), name_beside("a/n.chat")) == (".notes.chat.acp.json", "a/.n.chat.acp.json")


def test_what_is_saved_is_loaded(root: Root) -> None:
    assert SessionFile.load(root, "sub/n.chat") is None
    SAVED.save(root, "sub/n.chat")
    assert SessionFile.load(root, "sub/n.chat") == SAVED
    written = (root.path / "sub" / ".n.chat.acp.json").read_text("utf-8")
    assert json.loads(written) == json.loads(GOLDEN.read_text("utf-8"))


def test_fields_that_this_version_does_not_know_are_ignored() -> None:
    raw = {**json.loads(GOLDEN.read_text("utf-8")), "more": 1}
    assert SessionFile.parse(json.dumps(raw).encode()) == SAVED


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"\xff",
        b"{}",
        b'{"schema_version": 1}',
        b'{"schema_version": 1, "session": 3, "chat_id": "c", "agent": "a"}',
        b"[" * 100_000,
    ],
    ids=lambda data: repr(data[:40]),
)
def test_a_damaged_one_is_kept_aside_and_said(root: Root, data: bytes, caplog: pytest.LogCaptureFixture) -> None:
    (root.path / ".n.chat.acp.json").write_bytes(data)
    assert SessionFile.load(root, "n.chat") is None
    assert (root.path / ".n.chat.acp.json.damaged").read_bytes() == data
    assert not (root.path / ".n.chat.acp.json").exists()
    assert "damaged" in caplog.text


def test_a_newer_one_is_an_error_and_makes_its_chat_read_only(tmp_path: Path) -> None:
    async def main() -> None:
        await ChatFile.open(tmp_path, "n.chat", create=True)
        newer = json.dumps({**json.loads(GOLDEN.read_text("utf-8")), "schema_version": 2})
        (tmp_path / ".n.chat.acp.json").write_text(newer)
        with pytest.raises(Unsupported, match="newer"):
            SessionFile.parse(newer.encode())
        chat = await ChatFile.open(tmp_path, "n.chat", create=True)
        assert "newer" in str(chat.read_only)
        with pytest.raises(OSError, match="newer"):
            await chat.save_session(SAVED)
        assert (tmp_path / ".n.chat.acp.json").read_text() == newer

    asyncio.run(main())
