"""What people's editors show and have not saved, offered to an agent that delegates."""

from typing import Any

import pytest

from jupyter_acp.editortexts import FILE_BYTES, FILES

READ = '/request fs/read_text_file {"path": "%s"}'


class Page:
    """A client that follows a session, and offers."""

    def __init__(self, drive: Any, chat: Any, name: str = "page") -> None:
        self._drive = drive
        self._chat = chat
        self._name = name
        self._socket: Any = None

    async def follow(self) -> "Page":
        path = f"api/acp/projects/local/sessions/{self._chat.id}/events/subscribe"
        self._socket = await self._drive._ws_fetch(*path.split("/"), params={"client": self._name})
        return self

    async def leave(self) -> None:
        """Return once the server has noticed."""
        self._socket.close()
        while await self._socket.read_message() is not None:
            pass

    def body(self, texts: object) -> dict[str, object]:
        return {"client": self._name, "texts": texts}

    async def offer(self, **texts: str) -> None:
        await self._chat.call("PUT", "editor-texts", body=self.body(texts))

    async def refused(self, texts: object) -> tuple[int, str]:
        refused: tuple[int, str] = await self._chat.refused("PUT", "editor-texts", body=self.body(texts))
        return refused


@pytest.fixture
def chat(drive: Any, jp_asyncio_loop: Any) -> Any:
    (drive.root / "notes").write_text("saved\n")
    return jp_asyncio_loop.run_until_complete(drive.open("a.chat", agent="delegating"))


async def read(chat: Any, path: str = "notes") -> str:
    await chat.run(READ % path)
    return str(chat.text(f"t{chat._turns}"))


async def test_what_is_offered_is_read_in_place_of_the_file_and_not_written(chat: Any, drive: Any) -> None:
    page = await Page(drive, chat).follow()
    assert "saved" in await read(chat)
    await page.offer(notes="one\ntwo\nthree\n", new="not there")
    for name in ("notes", "./sub/../notes", str(drive.root / "notes")):
        assert "two" in await read(chat, name)
    assert "not there" in await read(chat, "new")
    await chat.run("/read line=2 limit=1 notes")
    assert "two" in chat.text(f"t{chat._turns}") and "three" not in chat.text(f"t{chat._turns}")
    assert sorted(path.name for path in drive.root.iterdir() if path.name[0] not in "a.") == ["notes"]
    assert (drive.root / "notes").read_text() == "saved\n"
    await page.offer()
    assert "saved" in await read(chat)
    await page.leave()


async def test_an_offer_goes_with_its_last_socket_and_with_what_the_agent_writes(chat: Any, drive: Any) -> None:
    page, again = await Page(drive, chat).follow(), await Page(drive, chat).follow()
    await page.offer(notes="unsaved")
    await page.leave()
    assert "unsaved" in await read(chat)
    await again.leave()
    assert "unsaved" not in await read(chat)
    assert await page.refused({"notes": "unsaved"}) == (409, "no_socket")
    await page.follow()
    await page.offer(notes="unsaved")
    await chat.run("/write notes by the agent")
    assert (drive.root / "notes").read_text() == "by the agent"
    assert "by the agent" in await read(chat)
    await page.leave()


async def test_of_two_who_offer_the_same_file_the_later_is_read(chat: Any, drive: Any) -> None:
    one, other = await Page(drive, chat, "one").follow(), await Page(drive, chat, "other").follow()
    await one.offer(notes="of one")
    await other.offer(notes="of the other")
    assert "of the other" in await read(chat)
    await one.offer(notes="of one, later")
    assert "of one, later" in await read(chat)
    await one.leave()
    assert "of the other" in await read(chat)
    await other.leave()


async def test_what_is_too_much_or_no_text_of_the_project_is_refused_and_changes_nothing(chat: Any, drive: Any) -> None:
    page = await Page(drive, chat).follow()
    await page.offer(notes="unsaved")
    for texts, status in (
        ({"../secret": "x"}, 400),
        ({"/etc/passwd": "x"}, 400),
        ({".": "x"}, 400),
        ({"notes": 3}, 400),
        ({"notes": "\ud800"}, 400),
        (["notes"], 400),
        ({"notes": "é" * (FILE_BYTES // 2 + 1)}, 413),
        ({str(number): "" for number in range(FILES + 1)}, 413),
    ):
        assert (await page.refused(texts))[0] == status, str(texts)[:40]
    assert (await chat.refused("PUT", "editor-texts", body={"texts": {}}))[0] == 400
    assert "unsaved" in await read(chat)
    await page.leave()


async def test_an_agent_that_reads_files_itself_is_offered_nothing(drive: Any) -> None:
    chat = await drive.open("b.chat")
    page = await Page(drive, chat).follow()
    assert await page.refused({"notes": "x"}) == (422, "not_delegated")
    await page.leave()
