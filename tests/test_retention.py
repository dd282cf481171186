"""Which activity is removed, in what order, and what stays."""

import asyncio
import json
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest

from jupyter_acp.events import Event, Kind
from jupyter_acp.exceptions import Conflict
from jupyter_acp.records import PermissionRow, SessionRow, TurnRow
from jupyter_acp.retention import Retention
from jupyter_acp.store import TAIL_EVENTS, Store
from jupyter_acp.turn import TurnState

ROOT = "/project"
NOW = time.time()
DAY = 86400.0


@asynccontextmanager
async def opened(path: Path, *sessions: str) -> AsyncIterator[Store]:
    store = Store(path / "acp.db")
    await store.open()
    try:
        for name in sessions:
            row = SessionRow(
                id=name,
                root=ROOT,
                project="p",
                path=f"{name}.chat",
                chat_id=name,
                agent="demo",
                cwd=ROOT,
                title="",
                created=1,
            )
            await store.append(name, [], [row.save()])
        yield store
    finally:
        await store.close()


def retention(store: Store, **options: Any) -> Retention:
    async def all_of_it(session_id: str, through: int) -> int:
        return through

    defaults = {"days": 0.0, "size": 0, "spare": all_of_it, "removed": lambda *_: None}
    return Retention(store, ROOT, **{**defaults, **options})


async def add_turn(
    store: Store, session: str, name: str, *, text: str = "x", count: int = 5, ended: float | None = NOW, **row: Any
) -> None:
    """A turn of `count` events and one more of none; it runs where `ended` is None."""
    first = await store.last_seq(session) + 1
    kinds = [Kind.TURN_STARTED, *[Kind.MESSAGE_DELTA] * (count - 2), Kind.TURN_ENDED]
    if ended is None:
        kinds[-1] = Kind.MESSAGE_DELTA
    events = [
        Event(seq=first + place, time=ended or NOW, turn=name, kind=kind, data={"text": text})
        for place, kind in enumerate(kinds)
    ]
    events.append(Event(seq=first + count, time=NOW, turn=None, kind=Kind.SESSION_CHANGED, data={}))
    turn = TurnRow(
        session_id=session,
        id=name,
        position=first,
        state=TurnState.RUNNING if ended is None else TurnState.ENDED,
        prompt=[{"type": "text", "text": "much"}],
        text="asked",
        user={},
        started=NOW,
        started_seq=first,
        ended_seq=None if ended is None else first + count - 1,
        **row,
    )
    await store.append(session, events, [turn.save()])


async def seqs(store: Store, session: str) -> list[int]:
    """The log, read to its end, which must be without a gap."""
    found: list[int] = []
    while batch := await store.read(session, found[-1] if found else 0):
        found += [json.loads(text)["seq"] for text in batch]
    assert found == list(range(found[0], found[0] + len(found)))
    return found


async def test_only_the_beginning_of_a_log_goes_and_its_newest_event_stays(tmp_path: Path) -> None:
    async with opened(tmp_path, "s") as store:
        await add_turn(store, "s", "t1")
        await add_turn(store, "s", "t2")
        assert (await store.remove("s", 5, 3)).more
        assert await seqs(store, "s") == list(range(4, 13))
        assert not (await store.remove("s", 5, 3)).more
        assert await seqs(store, "s") == list(range(6, 13))
        assert not (await store.remove("s", 1000, 1000)).more
        assert (await seqs(store, "s"), await store.last_seq("s")) == ([12], 12)
        assert not (await store.remove("s", 1000, 1000)).more
        assert not (await store.remove("unknown", 1000, 1000)).more


async def test_a_turn_that_runs_is_kept_whole_and_of_one_that_ended_its_row_without_what_the_log_said(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path, "s") as store:
        questions = [
            PermissionRow(
                id=f"q{n}",
                session_id="s",
                turn="t1",
                request_id=n,
                request={"much": 1},
                asked=1.0,
                answer={} if n == 1 else None,
            )
            for n in (1, 2)
        ]
        resolved = Event(seq=1, time=NOW, turn="t1", kind=Kind.PERMISSION_RESOLVED, data={"id": "q1"})
        await store.append("s", [resolved], [row.save() for row in questions])
        await add_turn(store, "s", "t1")
        await add_turn(store, "s", "t2", ended=None)
        before = await store.turn_events("s", "t2")
        await retention(store, days=1e-9).round()
        assert not (await store.remove("s", 1000, 1000)).more
        assert await store.turn_events("s", "t1") == []
        assert await store.turn_events("s", "t2") == before and len(before) == 5
        ended, running = await store.turns("s")
        assert (ended.id, ended.text, ended.prompt) == ("t1", "asked", [])
        assert running.prompt == [{"type": "text", "text": "much"}]
        answered, pending = await store.permission("q1"), await store.permission("q2")
        assert answered is not None and (answered.answer, answered.request) == ({}, {})
        assert pending is not None and pending.request == {"much": 1}


@pytest.mark.parametrize("after", [0, 3, 40])
async def test_a_follower_with_an_old_after_gets_what_is_kept_each_once_and_then_what_comes(
    tmp_path: Path, after: int
) -> None:
    async with opened(tmp_path, "s") as store:
        await add_turn(store, "s", "t1", count=50)
        await add_turn(store, "s", "t2", count=TAIL_EVENTS * 2, text="y" * 1000)
        await store.remove("s", 50, 1000)
        last = await store.last_seq("s")
        seen: list[int] = []
        follower = store.follow("s", after)
        while not seen or seen[-1] < last:
            seen += [json.loads(text)["seq"] for text in await anext(follower)]
        await store.append("s", [Event(seq=last + 1, time=NOW, turn=None, kind=Kind.NOTICE, data={})])
        seen += [json.loads(text)["seq"] for text in await anext(follower)]
        await follower.aclose()  # type: ignore[attr-defined]  # an async generator in fact
        assert seen == list(range(51, last + 2))


async def test_what_was_removed_is_not_in_memory_either(tmp_path: Path) -> None:
    async with opened(tmp_path, "s") as store:
        first = store.follow("s")
        await add_turn(store, "s", "t1")
        assert len(await anext(first)) == 6
        await store.remove("s", 5, 1000)
        second = store.follow("s")
        assert [json.loads(text)["seq"] for text in await anext(second)] == [6]
        for follower in (first, second):
            await follower.aclose()  # type: ignore[attr-defined]  # an async generator in fact


async def test_what_ended_longer_ago_than_the_days_goes_and_nothing_else(tmp_path: Path) -> None:
    told: dict[str, int] = {}
    async with opened(tmp_path, "a", "b") as store:
        await add_turn(store, "a", "t1", ended=NOW - 3 * DAY)
        await add_turn(store, "a", "t2", ended=NOW - DAY)
        await add_turn(store, "b", "t1", ended=NOW - DAY)
        await retention(store, days=2.0, removed=told.__setitem__).round()
        assert (await seqs(store, "a"))[0] == 6 and (await seqs(store, "b"))[0] == 1
        assert told == {"a": 6}


async def test_of_too_much_the_oldest_turns_of_all_sessions_go_until_the_rest_fits(tmp_path: Path) -> None:
    async with opened(tmp_path, "a", "b") as store:
        for session, name, age in (("a", "t1", 5), ("b", "t1", 4), ("a", "t2", 3), ("b", "t2", 2)):
            await add_turn(store, session, name, ended=NOW - age * DAY, text="x" * 20_000)
        kept = await store.size("a", 5) + await store.size("b", 5)
        await retention(store, size=kept).round()
        assert [(await seqs(store, name))[0] for name in "ab"] == [6, 6]
        await retention(store, size=kept - 1).round()
        assert [(await seqs(store, name))[0] for name in "ab"] == [12, 6]


async def test_an_old_clock_in_mid_session_takes_no_younger_turn_along(tmp_path: Path) -> None:
    async with opened(tmp_path, "a") as store:
        await add_turn(store, "a", "t1", ended=NOW)
        await add_turn(store, "a", "t2", ended=1.0)
        await retention(store, days=2.0).round()
        assert (await seqs(store, "a"))[0] == 1


async def test_zero_is_without_limit_and_a_project_within_its_limits_is_left_alone(tmp_path: Path) -> None:
    async with opened(tmp_path, "s") as store:
        await add_turn(store, "s", "t1", ended=1.0)
        await retention(store).round()
        await retention(store, days=1e6, size=1 << 30).round()
        assert len(await seqs(store, "s")) == 6


async def test_a_removal_that_was_cut_off_is_finished_by_the_next_round(tmp_path: Path) -> None:
    async with opened(tmp_path, "s") as store:
        await add_turn(store, "s", "t1", ended=1.0)
        await store.remove("s", 5, 2)
    async with opened(tmp_path) as store:
        kinds = [json.loads(text)["kind"] for text in await store.turn_events("s", "t1")]
        assert "turn_started" not in kinds and "turn_ended" in kinds
        await retention(store, days=1.0).round()
        assert await seqs(store, "s") == [6]


async def test_what_is_not_spared_stays_and_is_not_discarded(tmp_path: Path) -> None:
    async def not_the_second(session_id: str, through: int) -> int:
        return min(through, 6)

    async with opened(tmp_path, "s") as store:
        await add_turn(store, "s", "t1", ended=1.0)
        await add_turn(store, "s", "t2", ended=1.0)
        careful = retention(store, days=1.0, spare=not_the_second)
        with pytest.raises(Conflict):
            await careful.discard("s")
        assert len(await seqs(store, "s")) == 12
        await careful.round()
        assert (await seqs(store, "s"))[0] == 7
        await retention(store).discard("s")
        assert await seqs(store, "s") == [12]


async def test_the_file_shrinks_as_activity_goes_and_what_is_appended_meanwhile_is_all_there(tmp_path: Path) -> None:
    file = tmp_path / "acp.db"
    async with opened(tmp_path, "s", "busy") as store:
        for n in range(20):
            await add_turn(store, "s", f"t{n}", ended=1.0, count=200, text="x" * 2000)
        await store.checkpoint()
        before = file.stat().st_size
        work = asyncio.create_task(retention(store, days=1.0).round())
        appended = 0
        while not work.done():
            appended += 1
            event = Event(seq=appended, time=NOW, turn=None, kind=Kind.NOTICE, data={})
            await store.append("busy", [event], durable=True)
        await work
        await store.checkpoint()
        assert before > 8_000_000 and file.stat().st_size < before / 10
        assert await seqs(store, "busy") == list(range(1, appended + 1)) and appended > 10
    with closing(sqlite3.connect(file)) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert db.execute("PRAGMA freelist_count").fetchone() == (0,)


async def test_a_database_that_was_begun_without_it_keeps_its_size_and_a_round_ends(tmp_path: Path) -> None:
    golden = Path(__file__).parent / "golden" / "schema" / "1.sql"
    with closing(sqlite3.connect(tmp_path / "acp.db")) as old:
        old.executescript(golden.read_text("utf-8"))
    async with opened(tmp_path, "new") as store:
        await add_turn(store, "new", "t1", ended=1.0, count=200, text="x" * 2000)
        await store.checkpoint()
        before = (tmp_path / "acp.db").stat().st_size
        await retention(store, days=1.0).round()
        await store.checkpoint()
        assert (tmp_path / "acp.db").stat().st_size == before
        assert await store.used() < before / 2


async def test_the_size_of_a_log_counts_bytes_of_data(tmp_path: Path) -> None:
    async with opened(tmp_path, "s") as store:
        event = Event(seq=1, time=NOW, turn=None, kind=Kind.NOTICE, data={"title": "Zürich"})
        await store.append("s", [event])
        assert await store.size("s") == len('{"title":"Zürich"}'.encode())
        assert await store.size("s", 1) == 0 and await store.size("nobody") == 0
