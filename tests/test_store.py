import asyncio
import contextlib
import json
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from jupyter_acp.events import Event, Kind
from jupyter_acp.exceptions import StoreError
from jupyter_acp.records import PermissionRow, SessionRow, TurnRow, delivered
from jupyter_acp.store import SCHEMA_VERSION, TAIL_EVENTS, Chain, Store
from jupyter_acp.turn import TurnState

GOLDEN = Path(__file__).parent / "golden" / "schema"
ROW = SessionRow(
    id="s",
    root="/project",
    project="local",
    path="a.chat",
    chat_id="c",
    agent="demo",
    cwd="/project",
    title="a",
    created=1.0,
)


def event(seq: int, text: str = "x", turn: str | None = None) -> Event:
    return Event(seq=seq, time=1.5, turn=turn, kind=Kind.MESSAGE_DELTA, data={"message_id": "m", "text": text})


def turn(id: str, state: TurnState = TurnState.RUNNING, **fields: Any) -> TurnRow:
    return TurnRow(session_id="s", id=id, position=1, state=state, prompt=[], text="", user={}, **fields)


@asynccontextmanager
async def opened(path: Path) -> AsyncIterator[Store]:
    store = Store(path / "data" / "acp.db")
    await store.open()
    try:
        yield store
    finally:
        await store.close()


def with_store(path: Path, test: Callable[[Store], Awaitable[None]]) -> None:
    async def main() -> None:
        async with opened(path) as store:
            await store.append("s", [], [ROW.save()])
            await test(store)

    asyncio.run(main())


async def take(store: Store, count: int, after: int = 0) -> list[int]:
    seen: list[int] = []
    async for events in store.follow("s", after):
        seen += [json.loads(text)["seq"] for text in events]
        if len(seen) >= count:
            break
    return seen


def test_what_was_appended_is_read_back_in_order(tmp_path: Path) -> None:
    async def test(store: Store) -> None:
        await store.append("s", [event(1, "Z\u00fcrich"), event(2, turn="t")], [turn("t", started_seq=2).save()])
        first, second = await store.read("s")
        assert json.loads(first) == json.loads(event(1, "Z\u00fcrich").to_json())
        assert json.loads(second)["turn"] == "t"
        assert await store.read("s", after=1) == [second]
        assert await store.turn_events("s", "t") == [second]
        assert (await store.first_seq("s"), await store.last_seq("s")) == (1, 2)

    with_store(tmp_path, test)


def test_a_follower_gets_the_backlog_and_then_what_comes_without_gap_or_repeat(tmp_path: Path) -> None:
    async def test(store: Store) -> None:
        total = TAIL_EVENTS * 3
        for seq in range(1, TAIL_EVENTS):
            store.append("s", [event(seq)])
        readers = [asyncio.create_task(take(store, total - after, after)) for after in (0, 0, 7)]
        for seq in range(TAIL_EVENTS, total + 1):
            await store.append("s", [event(seq)])
        for reader, after in zip(readers, (0, 0, 7), strict=True):
            assert await reader == list(range(after + 1, total + 1))

    with_store(tmp_path, test)


def test_a_reader_that_falls_behind_is_served_from_the_database(tmp_path: Path) -> None:
    async def test(store: Store) -> None:
        await store.append("s", [event(1)])
        follower = store.follow("s")
        assert len(await anext(follower)) == 1
        for start in range(2, TAIL_EVENTS * 4, 100):
            await store.append("s", [event(seq, "y" * 1000) for seq in range(start, start + 100)])
        last = await store.last_seq("s")
        seen = 1
        while seen < last:
            batch = await anext(follower)
            assert json.loads(batch[0])["seq"] == seen + 1
            seen += len(batch)
        await follower.aclose()  # type: ignore[attr-defined]  # an async generator in fact

    with_store(tmp_path, test)


def test_events_and_rows_are_committed_together_or_not_at_all(tmp_path: Path) -> None:
    async def test(store: Store) -> None:
        await store.append("s", [event(1)])
        with pytest.raises(StoreError):
            await store.append("s", [event(1)], [SessionRow.save(_titled("changed"))])
        [row] = await store.sessions("/project")
        assert row.title == "a"

    with_store(tmp_path, test)


def test_a_second_writer_of_a_session_is_refused_and_its_neighbours_are_not(tmp_path: Path) -> None:
    async def test(store: Store) -> None:
        good, bad, other = (store.append("s", [event(seq)]) for seq in (1, 1, 2))
        await good
        with pytest.raises(StoreError):
            await bad
        await other
        assert await store.last_seq("s") == 2

    with_store(tmp_path, test)


def test_after_a_refused_commit_no_later_one_of_the_same_chain_is_taken_and_others_are(tmp_path: Path) -> None:
    async def test(store: Store) -> None:
        chain = Chain()
        await store.append("s", [event(1)], chain=chain)
        nowhere = [("INSERT INTO nowhere VALUES (1)", ())]
        # queued before the first is known to have failed, and after
        bad, following = store.append("s", [event(2)], nowhere, chain=chain), store.append("s", [event(3)], chain=chain)
        other = store.append("s", [], [SessionRow.save(_titled("other"))], chain=Chain())
        with pytest.raises(StoreError, match="nowhere"):
            await bad
        with pytest.raises(StoreError, match="nowhere"):
            await following
        with pytest.raises(StoreError, match="nowhere"):
            await store.append("s", [], [SessionRow.save(_titled("changed"))], chain=chain)
        await other
        assert await store.last_seq("s") == 1
        assert [row.title for row in await store.sessions("/project")] == ["other"]
        # whoever begins anew from what is there
        await store.append("s", [event(2)], chain=Chain())
        assert await store.last_seq("s") == 2

    with_store(tmp_path, test)


def test_the_schema_allows_one_active_turn_per_session(tmp_path: Path) -> None:
    async def test(store: Store) -> None:
        await store.append("s", [], [turn("a", TurnState.RUNNING).save(), turn("b", TurnState.QUEUED).save()])
        with pytest.raises(StoreError, match="UNIQUE"):
            await store.append("s", [], [turn("b", TurnState.CANCELLING).save()])
        await store.append("s", [], [turn("a", TurnState.ENDED).save(), turn("b", TurnState.RUNNING).save()])
        assert [row.id for row in await store.turns("s", unfinished=True)] == ["b"]

    with_store(tmp_path, test)


def test_a_question_keeps_the_type_of_the_agents_request_id(tmp_path: Path) -> None:
    async def test(store: Store) -> None:
        rows = [
            PermissionRow(id=name, session_id="s", turn=None, request_id=rid, request={"id": name}, asked=1.0)
            for name, rid in (("p", 7), ("q", "7"))
        ]
        await store.append("s", [], [row.save() for row in rows])
        assert await store.permissions("s") == rows

    with_store(tmp_path, test)


def test_what_was_committed_is_there_for_the_next_process(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(tmp_path) as store:
            await store.append("s", [event(1)], [ROW.save()])
        async with opened(tmp_path) as store:
            assert await store.sessions("/project") == [ROW]
            assert await store.last_seq("s") == 1

    asyncio.run(main())


@pytest.mark.parametrize("version", range(1, SCHEMA_VERSION))
def test_a_database_of_an_earlier_version_is_brought_up_to_date_with_all_that_is_in_it(
    tmp_path: Path, version: int
) -> None:
    """`golden/schema/N.sql` is the dump of a database that version N wrote."""
    path = tmp_path / "data" / "acp.db"
    path.parent.mkdir()
    old = sqlite3.connect(path)
    old.executescript((GOLDEN / f"{version}.sql").read_text("utf-8"))
    old.close()

    async def main() -> None:
        async with opened(tmp_path) as store:
            row = await store.session("s")
            assert row is not None and (row.position, row.number, row.runner) == (4711, 9, "s-token")
            assert [turn.id for turn in await store.turns("s")] == ["t1", "t2", "t3"]
            assert [json.loads(text)["seq"] for text in await store.read("s")] == list(range(1, 11))
            assert [json.loads(text)["seq"] for text in await store.turn_events("s", "t1")] == [3, 4, 5]
            assert [json.loads(text)["seq"] for text in await store.turn_events("s", "t2", 7)] == [9, 10]
            assert await store.turn_events("s", "t3") == []
            assert [question.request_id for question in await store.permissions("s")] == [7]
            assert await store.delegated("s") == ["d1"]
            await store.append("s", [], [delivered("s", 5000, 10)])
            assert (await store.sessions("/home/u/project"))[0].position == 5000
        async with opened(tmp_path) as store:
            # the same columns as a new one has
            assert _columns(path) == _columns(tmp_path / "new" / "data" / "acp.db")

    asyncio.run(new_one(tmp_path / "new"))
    asyncio.run(main())


async def new_one(path: Path) -> None:
    async with opened(path):
        pass


def _columns(path: Path) -> set[tuple[str, str]]:
    db = sqlite3.connect(path)
    with contextlib.closing(db):
        sql = "SELECT m.name, p.name FROM sqlite_master m JOIN pragma_table_info(m.name) p"
        return set(db.execute(sql)) | {(name, "") for (name,) in db.execute("SELECT name FROM sqlite_master")}


def test_a_crash_in_mid_upgrade_leaves_the_earlier_version(tmp_path: Path) -> None:
    path = tmp_path / "data" / "acp.db"
    path.parent.mkdir()
    old = sqlite3.connect(path)
    # its last statement will fail: there is such a table already
    old.executescript((GOLDEN / "1.sql").read_text("utf-8") + "CREATE TABLE progress (x);")
    old.close()
    with pytest.raises(StoreError, match="progress already exists"):
        asyncio.run(new_one(tmp_path))
    db = sqlite3.connect(path)
    with contextlib.closing(db):
        assert db.execute("PRAGMA user_version").fetchone() == (1,)
        assert db.execute("SELECT position FROM sessions").fetchone() == (4711,)


def test_a_path_that_cannot_be_a_database_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("in the way")

    async def main() -> None:
        with pytest.raises(StoreError, match="cannot be opened"):
            await Store(tmp_path / "data" / "acp.db").open()

    asyncio.run(main())


def _titled(title: str) -> SessionRow:
    from dataclasses import replace

    return replace(ROW, title=title)


@pytest.mark.parametrize("damage", ["garbage", "half", "a page"])
def test_a_damaged_database_is_kept_aside_and_an_empty_one_is_begun(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "data" / "acp.db"

    async def fill(store: Store) -> None:
        for seq in range(1, 400):
            await store.append("s", [event(seq, "x" * 500)])

    with_store(tmp_path, fill)
    whole = path.read_bytes()
    if damage == "garbage":
        path.write_bytes(b"no database at all" * 300)
    elif damage == "half":
        path.write_bytes(whole[: len(whole) // 2])
    else:
        middle = len(whole) // 2 // 4096 * 4096
        path.write_bytes(whole[:middle] + b"\xff" * 4096 + whole[middle + 4096 :])
        # as a kill leaves it
        path.with_name(path.name + "-wal").write_bytes(b"\0" * 64)
    damaged = path.read_bytes()

    async def again() -> None:
        async with opened(tmp_path) as store:
            assert store.set_aside is not None and store.set_aside.read_bytes() == damaged
            assert await store.sessions("/project") == []
            await store.append("s", [], [ROW.save()])
        async with opened(tmp_path) as store:
            assert store.set_aside is None and len(await store.sessions("/project")) == 1

    asyncio.run(again())


def test_a_database_of_a_newer_version_is_left_alone_with_a_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "data" / "acp.db"
    path.parent.mkdir()
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 99")
    before = path.read_bytes()

    async def main() -> None:
        with pytest.raises(StoreError, match="newer jupyter_acp"):
            await Store(path).open()

    asyncio.run(main())
    assert path.read_bytes() == before and not list(path.parent.glob("*damaged*"))
