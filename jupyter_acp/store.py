"""The coordinator's database: `append`, `read`, `follow`. The only module that talks to sqlite3.

Theory of operation: one writer thread takes whatever batches are waiting and commits them together (group commit).
A batch is events of one session plus the changes of rows that go with them: both or neither. A reader gets events
only after their commit, from a small in-memory tail while it keeps up and from the database where it does not, so a
slow reader costs no memory. A durable batch is synced to disk (WAL, synchronous=FULL) before its future resolves;
others are synced by the next durable one, at the latest a second later.

What is removed is always the beginning of a session's log, in steps of a few milliseconds between two commits, so that
`seq` stays without gap from the first event that is kept. How much goes, and when, is decided in retention.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import queue
import sqlite3
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TypeAlias, TypeVar

from .events import Event, encode
from .exceptions import NotOwner, StoreError
from .records import Change, PermissionRow, SessionRow, TurnRow

log = logging.getLogger(__name__)

#: file n brings a database of version n - 1 to version n; 0001.sql makes an empty one
_SCHEMA = sorted(file.name for file in (files(__package__) / "schema").iterdir() if file.name.endswith(".sql"))
SCHEMA_VERSION = len(_SCHEMA)
TAIL_EVENTS = 512
TAIL_BYTES = 1 << 20
READ_BYTES = 256 << 10
SYNC_SECONDS = 1.0
SIZED_ROWS = 2000

_ENDLESS = (1 << 63) - 1
_SESSIONS = """SELECT sessions.*, coalesce(position, 0) AS position, coalesce(number, 0) AS number
    FROM sessions LEFT JOIN progress ON session_id = id"""
# The first and the newest event of a log, and where the turn that runs begins.
_BOUNDS = f"""SELECT (SELECT min(seq) FROM events WHERE session_id = :session),
    (SELECT max(seq) FROM events WHERE session_id = :session),
    coalesce((SELECT started_seq FROM turns
        WHERE session_id = :session AND state IN ('running', 'requires_action', 'cancelling')), {_ENDLESS})"""
# The prompt of a turn and the question of the agent are in the log and in a row. Once the turn has ended and the
# question is answered nobody reads them in the row any more, and they may be big (pictures, whole files; after "start
# over" the conversation so far): they go with their events, lest discarded activity still be there. What stays is what
# keeps a turn from running twice (its id) and lets the chat be completed (its text, its user).
_REMOVALS = (
    """UPDATE turns SET prompt = '[]' WHERE session_id = :session AND state = 'ended' AND id IN (
        SELECT turn FROM events WHERE session_id = :session AND seq <= :last AND kind = 'turn_ended')""",
    """UPDATE permissions SET request = '{}' WHERE session_id = :session AND answer IS NOT NULL AND id IN (
        SELECT json_extract(data, '$.id') FROM events
        WHERE session_id = :session AND seq <= :last AND kind = 'permission_resolved')""",
    "DELETE FROM events WHERE session_id = :session AND seq <= :last",
)
_INCREMENTAL = 2

T = TypeVar("T")
_Row: TypeAlias = tuple[str, int, float, "str | None", str, str]


@dataclass(slots=True)
class _Batch:
    session_id: str
    rows: list[_Row]
    changes: Sequence[Change]
    durable: bool
    future: asyncio.Future[None]


@dataclass(slots=True)
class _Chore:
    """Housekeeping of the writer's thread, between two commits."""

    run: Callable[[], bool]
    future: Future[Step]


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A small piece of housekeeping: how long it kept the writer, and whether something is left to do."""

    seconds: float
    more: bool


class _Tail:
    """The newest committed events of one session, as wire text, and whoever waits for more."""

    def __init__(self) -> None:
        self.events: deque[tuple[int, str]] = deque()
        self.size = 0
        self.changed = asyncio.Event()
        self.followers = 0
        self.ended: StoreError | None = None

    def end(self, reason: StoreError) -> None:
        """Nothing follows for now: who has read all that is here is told why."""
        self.ended = reason
        self.changed.set()

    def push(self, rows: Iterable[_Row]) -> None:
        for _, seq, when, turn, kind, data in rows:
            text = _wire(seq, when, turn, kind, data)
            self.events.append((seq, text))
            self.size += len(text)
        while self.events and (len(self.events) > TAIL_EVENTS or self.size > TAIL_BYTES):
            self.size -= len(self.events.popleft()[1])
        self.changed.set()
        self.changed = asyncio.Event()

    def forget(self, through: int) -> None:
        """Let go of events that were removed."""
        while self.events and self.events[0][0] <= through:
            self.size -= len(self.events.popleft()[1])

    def since(self, after: int) -> list[str] | None:
        """Events after `after`, or None where the tail no longer reaches back so far."""
        if not self.events or self.events[0][0] > after + 1:
            return None
        first = self.events[0][0]
        chosen: list[str] = []
        size = 0
        for index in range(after + 1 - first, len(self.events)):
            text = self.events[index][1]
            chosen.append(text)
            size += len(text)
            if size > READ_BYTES:
                break
        return chosen


class Store:
    """Sessions, turns, permissions and the log, in one SQLite file.

    Parameters
    ----------
    path
        The database file; its folder is made, 0700, where it is missing.

    Raises
    ------
    StoreError
        From every awaited call, where the database cannot be read or written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        #: where a damaged database went that `open` found, None where it found none
        self.set_aside: Path | None = None
        self._queue: queue.SimpleQueue[_Batch | _Chore | None] = queue.SimpleQueue()
        self._tails: dict[str, _Tail] = {}
        self._reader = ThreadPoolExecutor(1, "acp-store-read")
        self._thread = threading.Thread(target=self._write, name="acp-store-write", daemon=True)
        self._is_synced: bool | None = None
        self._claim: tuple[str, str] | None = None
        self._ended: StoreError | None = None
        self._unshown: list[_Batch] = []
        self._waiting = 0
        self._room = asyncio.Event()
        self._room.set()
        self._loop: asyncio.AbstractEventLoop | None = None

    async def open(self) -> None:
        """Open or create the database and start the writer. StoreError where that is impossible.

        A damaged database is kept under another name (`set_aside`) and an empty one takes its place.
        """
        loop = asyncio.get_running_loop()
        try:
            self._db, self.set_aside = await loop.run_in_executor(None, _connect_sound, self.path)
            self._read_db = await loop.run_in_executor(self._reader, _connect, self.path)
        except (sqlite3.Error, OSError) as exc:
            raise StoreError(f"the database {self.path} cannot be opened: {exc}") from exc
        self._loop = loop
        self._thread.start()

    async def close(self, reason: StoreError | None = None) -> None:
        """Commit what waits, then close. Followers end with `reason`."""
        if self._loop is None:
            return
        self._ended = reason or StoreError("the database was closed")
        for tail in self._tails.values():
            tail.end(self._ended)
        self._queue.put(None)
        await self._loop.run_in_executor(None, self._thread.join)
        await self._loop.run_in_executor(self._reader, self._read_db.close)
        self._reader.shutdown()
        self._db.close()

    def append(
        self, session_id: str, events: Sequence[Event], changes: Sequence[Change] = (), *, durable: bool = False
    ) -> asyncio.Future[None]:
        """Queue events and changes of rows as one transaction, in the order of the calls.

        The returned future resolves once they are committed (and on disk, where `durable`), or has StoreError.
        """
        assert self._loop is not None, "open() first"
        rows = [(session_id, e.seq, e.time, e.turn, str(e.kind), encode(e.data)) for e in events]
        future: asyncio.Future[None] = self._loop.create_future()
        if self._ended is not None:
            future.set_exception(self._ended)
            future.exception()
            return future
        size = sum(len(row[5]) for row in rows)
        self._waiting += size
        if self._waiting > 8 << 20:
            self._room.clear()
        future.add_done_callback(lambda _: self._done(size))
        self._queue.put(_Batch(session_id, rows, changes, durable, future))
        return future

    async def claim(self, root: str, token: str) -> None:
        """Make `token` the owner of a project; from now on this store writes only while that is so (NotOwner)."""
        sql = "INSERT INTO owners VALUES (?, ?) ON CONFLICT (root) DO UPDATE SET token = excluded.token"
        await self.append("", [], [(sql, (root, token))], durable=True)
        self._claim = (root, token)

    async def owner(self, root: str) -> str | None:
        """The token of the claim that holds, or None."""
        sql = "SELECT token FROM owners WHERE root = ?"

        def find() -> str | None:
            row = self._read_db.execute(sql, (root,)).fetchone()
            return row and str(row[0])

        return await self._call(find)

    async def release(self, root: str, token: str) -> None:
        """Remove a claim, where it still holds."""
        await self.append("", [], [("DELETE FROM owners WHERE root = ? AND token = ?", (root, token))], durable=True)

    async def room(self) -> None:
        """Return once less than 8 MiB wait for the disk: the back-pressure on a fast agent."""
        await self._room.wait()

    async def read(self, session_id: str, after: int = 0, limit: int = 1000) -> list[str]:
        """Up to `limit` events after seq `after`, as wire text, about 256 KiB at most (one event at least)."""
        return await self._call(self._select, session_id, after, limit)

    async def turn_events(self, session_id: str, turn: str, after: int = 0, limit: int = 5000) -> list[str]:
        """Events of one turn after seq `after`, from its start to its end, as wire text."""
        which = "FROM turns WHERE session_id = :session AND id = :turn"
        sql = f"""SELECT seq, time, turn, kind, data FROM events WHERE session_id = :session AND turn = :turn
            AND seq BETWEEN max(:after + 1, (SELECT started_seq {which}))
            AND (SELECT coalesce(ended_seq, {_ENDLESS}) {which}) ORDER BY seq LIMIT :limit"""
        values = {"session": session_id, "turn": turn, "after": after, "limit": limit}
        return await self._call(lambda: [_wire(*row) for row in self._read_db.execute(sql, values)])

    async def follow(self, session_id: str, after: int = 0) -> AsyncIterator[list[str]]:
        """Every event after seq `after`, in order, without gap or repeat: what is there, then what comes, for ever.

        Where the log begins later than that, it is what is kept of it.
        """
        tail = self._tails.setdefault(session_id, _Tail())
        tail.followers += 1
        try:
            while True:
                changed = tail.changed
                found = tail.since(after)
                if found is None:
                    found = await self.read(session_id, after)
                if found:
                    after = _seq(found[-1])
                    yield found
                elif tail.ended is not None:
                    raise tail.ended
                else:
                    await changed.wait()
        finally:
            tail.followers -= 1
            if not tail.followers and self._tails.get(session_id) is tail:
                del self._tails[session_id]

    def end_followers(self, session_id: str, reason: StoreError) -> None:
        """Let those who follow a session now end with `reason`, once they have all that is committed."""
        if (tail := self._tails.pop(session_id, None)) is not None:
            tail.end(reason)

    async def last_seq(self, session_id: str) -> int:
        """The newest seq of a session, 0 where it has no events."""
        sql = "SELECT coalesce(max(seq), 0) FROM events WHERE session_id = ?"
        return await self._call(lambda: int(self._read_db.execute(sql, (session_id,)).fetchone()[0]))

    async def first_seq(self, session_id: str) -> int:
        """The oldest seq still kept, 0 where there is none."""
        sql = "SELECT coalesce(min(seq), 0) FROM events WHERE session_id = ?"
        return await self._call(lambda: int(self._read_db.execute(sql, (session_id,)).fetchone()[0]))

    async def logs(self, root: str) -> list[str]:
        """The ids of all sessions of one project folder, closed ones included."""
        sql = "SELECT id FROM sessions WHERE root = ? ORDER BY created"
        return await self._call(lambda: [row[0] for row in self._read_db.execute(sql, (root,))])

    async def ends(self, session_id: str) -> list[tuple[int, float]]:
        """Seq and time of each end of a turn that is still in the log, oldest first."""
        sql = """SELECT seq, time FROM turns JOIN events ON events.session_id = turns.session_id AND seq = ended_seq
            WHERE turns.session_id = ? AND state = 'ended' ORDER BY seq"""
        return await self._call(lambda: [tuple(row) for row in self._read_db.execute(sql, (session_id,))])

    async def size(self, session_id: str, after: int = 0, through: int = _ENDLESS) -> int:
        """Bytes of the data of a part of a log, read in steps that hold up no other reader."""
        # 1 GiB in 1.6 million events: 1.3 s in all, 2 ms the longest step. An estimate that each append would have to
        # keep up to date is not worth it.
        sql = f"""SELECT max(seq), sum(length) FROM (SELECT seq, length(CAST(data AS BLOB)) AS length FROM events
            WHERE session_id = ? AND seq > ? AND seq <= ? ORDER BY seq LIMIT {SIZED_ROWS})"""
        total = 0
        while True:
            values = (session_id, after, through)
            row = await self._call(lambda values=values: self._read_db.execute(sql, values).fetchone())
            if row[0] is None:
                return total
            after = row[0]
            total += row[1]

    async def used(self) -> int:
        """Bytes of the pages that hold something, whatever it is and whosever."""
        pragmas = ("page_count", "freelist_count", "page_size")

        def read() -> int:
            pages, free, size = (self._read_db.execute(f"PRAGMA {name}").fetchone()[0] for name in pragmas)
            return int((pages - free) * size)

        return await self._call(read)

    async def remove(self, session_id: str, through: int, limit: int) -> Step:
        """Remove up to `limit` events from the beginning of a log, none after seq `through`.

        Never removed are the newest event, so that `last_seq` stays, and those of a turn that has not ended, which a
        restart goes on with. (A turn that waits is in its row: its `turn_queued` may go.) What rows repeat of the
        removed events goes with them; the rows stay.
        """
        step = await self._chore(lambda: self._remove(session_id, through, limit))
        if tail := self._tails.get(session_id):
            tail.forget(await self.first_seq(session_id) - 1)
        return step

    async def vacuum(self, pages: int) -> Step:
        """Give up to `pages` free pages back to the file system."""
        return await self._chore(lambda: self._vacuum(pages))

    async def checkpoint(self) -> None:
        """Carry the write-ahead log over into the database, in a thread of its own: no commit has to do it then."""

        def run() -> None:
            with contextlib.closing(sqlite3.connect(self.path, timeout=10)) as db:
                db.execute("PRAGMA wal_checkpoint(PASSIVE)")

        try:
            await asyncio.to_thread(run)
        except sqlite3.Error as exc:
            raise StoreError(f"the database could not be written: {exc}") from exc

    async def sessions(self, root: str) -> list[SessionRow]:
        """The open sessions of one project folder, oldest first."""
        sql = f"{_SESSIONS} WHERE root = ? AND closed = 0 ORDER BY created"
        return await self._call(lambda: [SessionRow.load(row) for row in self._read_db.execute(sql, (root,))])

    async def session(self, session_id: str) -> SessionRow | None:
        """One session of whatever project, closed or not, or None."""

        def find() -> SessionRow | None:
            row = self._read_db.execute(f"{_SESSIONS} WHERE id = ?", (session_id,)).fetchone()
            return row and SessionRow.load(row)

        return await self._call(find)

    async def turns(self, session_id: str, *, unfinished: bool = False) -> list[TurnRow]:
        """The turns of a session in queue order; only those not ended where `unfinished`."""
        sql = "SELECT * FROM turns WHERE session_id = ?" + (" AND state != 'ended'" if unfinished else "")
        sql += " ORDER BY position"
        return await self._call(lambda: [TurnRow.load(row) for row in self._read_db.execute(sql, (session_id,))])

    async def newest_turns(self, session_id: str, limit: int) -> list[TurnRow]:
        """The last turns that were started, oldest of them first."""
        sql = "SELECT * FROM turns WHERE session_id = ? AND started IS NOT NULL ORDER BY started DESC LIMIT ?"
        return await self._call(
            lambda: [TurnRow.load(row) for row in self._read_db.execute(sql, (session_id, limit))][::-1]
        )

    async def turn(self, session_id: str, turn_id: str) -> TurnRow | None:
        """One turn, or None."""
        sql = "SELECT * FROM turns WHERE session_id = ? AND id = ?"

        def find() -> TurnRow | None:
            row = self._read_db.execute(sql, (session_id, turn_id)).fetchone()
            return row and TurnRow.load(row)

        return await self._call(find)

    async def turn_ids(self, session_id: str) -> set[str]:
        """The ids of all turns of a session."""
        sql = "SELECT id FROM turns WHERE session_id = ?"
        return await self._call(lambda: {row[0] for row in self._read_db.execute(sql, (session_id,))})

    async def last_turn_position(self, session_id: str) -> int:
        """The highest queue position ever given in a session."""
        sql = "SELECT coalesce(max(position), 0) FROM turns WHERE session_id = ?"
        return await self._call(lambda: int(self._read_db.execute(sql, (session_id,)).fetchone()[0]))

    async def permission(self, permission_id: str) -> PermissionRow | None:
        """One question of an agent, answered or not, or None."""

        def find() -> PermissionRow | None:
            row = self._read_db.execute("SELECT * FROM permissions WHERE id = ?", (permission_id,)).fetchone()
            return row and PermissionRow.load(row)

        return await self._call(find)

    async def permissions(self, session_id: str, *, number_above: int | None = None) -> list[PermissionRow]:
        """The pending questions of a session; with `number_above` those answered by a later message instead."""
        values: tuple[object, ...] = (session_id,) if number_above is None else (session_id, number_above)
        which = "answer IS NULL" if number_above is None else "number > ?"
        sql = f"SELECT * FROM permissions WHERE session_id = ? AND {which} ORDER BY asked"
        return await self._call(lambda: [PermissionRow.load(row) for row in self._read_db.execute(sql, values)])

    async def delegated(self, session_id: str) -> list[str | int]:
        """Ids of the agent's requests that wait for our answer, apart from questions to people."""
        sql = "SELECT request_id FROM delegated WHERE session_id = ?"
        return await self._call(lambda: [json.loads(row[0]) for row in self._read_db.execute(sql, (session_id,))])

    def _done(self, size: int) -> None:
        self._waiting -= size
        if self._waiting <= 8 << 20:
            self._room.set()

    async def _call(self, function: Callable[..., T], *args: object) -> T:
        """Run a read in the reader's thread."""
        if self._ended is not None:
            raise self._ended
        assert self._loop is not None, "open() first"
        try:
            return await self._loop.run_in_executor(self._reader, function, *args)
        except sqlite3.Error as exc:
            raise StoreError(f"the database could not be read: {exc}") from exc

    async def _chore(self, run: Callable[[], bool]) -> Step:
        """Run a piece of work in the writer's thread; it says whether something is left to do."""
        chore = _Chore(run, Future())
        self._queue.put(chore)
        try:
            return await asyncio.wrap_future(chore.future)
        except sqlite3.Error as exc:
            raise StoreError(f"the database could not be written: {exc}") from exc

    def _select(self, session_id: str, after: int, limit: int) -> list[str]:
        sql = "SELECT seq, time, turn, kind, data FROM events WHERE session_id=? AND seq>? ORDER BY seq LIMIT ?"
        found: list[str] = []
        size = 0
        with contextlib.closing(self._read_db.execute(sql, (session_id, after, limit))) as cursor:
            for row in cursor:
                found.append(_wire(*row))
                size += len(found[-1])
                if size > READ_BYTES:
                    break
        return found

    def _write(self) -> None:
        """The writer thread: group commit until None arrives."""
        unsynced_since: float | None = None
        while True:
            batches: list[_Batch] = []
            chore: _Chore | None = None
            last = False
            try:
                timeout = None if unsynced_since is None else max(0.0, unsynced_since + SYNC_SECONDS - time.monotonic())
                item = self._queue.get(timeout=timeout)
                while True:
                    if item is None:
                        last = True
                        break
                    if isinstance(item, _Chore):
                        chore = item
                        break
                    batches.append(item)
                    if len(batches) >= 256:
                        break
                    item = self._queue.get_nowait()
            except queue.Empty:
                pass
            # What need not be synced does not wait for what must.
            first = next((i for i, batch in enumerate(batches) if batch.durable), 0)
            if first:
                self._commit(batches[:first], False)
                del batches[:first]
                unsynced_since = unsynced_since or time.monotonic()
            overdue = unsynced_since is not None and time.monotonic() >= unsynced_since + SYNC_SECONDS
            durable = last or overdue or any(batch.durable for batch in batches)
            if batches or (durable and unsynced_since is not None):
                self._commit(batches, durable)
                unsynced_since = None if durable else (unsynced_since or time.monotonic())
            if chore is not None:
                self._do(chore)
            if last:
                return

    def _do(self, chore: _Chore) -> None:
        if not chore.future.set_running_or_notify_cancel():
            return
        begun = time.monotonic()
        try:
            more = chore.run()
        except Exception as exc:  # the one who waits for it is told; the writer goes on
            chore.future.set_exception(exc)
        else:
            chore.future.set_result(Step(seconds=time.monotonic() - begun, more=more))

    def _commit(self, batches: list[_Batch], durable: bool) -> None:
        try:
            self._transaction(batches, durable)
        except NotOwner as exc:
            self._finish(batches, exc)
        except sqlite3.Error as exc:
            if len(batches) < 2:
                self._finish(batches, exc)
                return
            # One bad batch must not fail its neighbours: each once more, alone.
            for batch in batches:
                self._commit([batch], durable)
        else:
            self._finish(batches, None)

    def _transaction(self, batches: list[_Batch], durable: bool) -> None:
        with self._atomic(durable) as db:
            for batch in batches:
                for sql, values in batch.changes:
                    db.execute(sql, values)
                db.executemany("INSERT INTO events VALUES (?, ?, ?, ?, ?, ?)", batch.rows)
            if not batches:
                # An empty commit writes no frame and so syncs nothing.
                db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    @contextlib.contextmanager
    def _atomic(self, durable: bool) -> Iterator[sqlite3.Connection]:
        db = self._db
        self._sync(durable)
        db.execute("BEGIN IMMEDIATE")
        try:
            if self._claim is not None:
                self._check_claim(*self._claim)
            yield db
            db.execute("COMMIT")
        except (sqlite3.Error, NotOwner):
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise

    def _check_claim(self, root: str, token: str) -> None:
        row = self._db.execute("SELECT token FROM owners WHERE root = ?", (root,)).fetchone()
        if row is None or row[0] != token:
            raise NotOwner("another Jupyter server has taken over the agents of this folder")

    def _sync(self, durable: bool) -> None:
        if durable is not self._is_synced:
            self._db.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            self._is_synced = durable

    def _remove(self, session_id: str, through: int, limit: int) -> bool:
        # Not synced: what a power cut brings back is removed by the next round.
        with self._atomic(False) as db:
            first, newest, running = db.execute(_BOUNDS, {"session": session_id}).fetchone()
            if first is None:
                return False
            end = min(through, newest - 1, running - 1)
            values = {"session": session_id, "last": min(end, first + limit - 1)}
            for sql in _REMOVALS:
                db.execute(sql, values)
        return bool(values["last"] < end)

    def _vacuum(self, pages: int) -> bool:
        db = self._db
        if db.execute("PRAGMA auto_vacuum").fetchone()[0] != _INCREMENTAL:
            return False
        self._sync(False)
        # a script: `execute` would stop after the first page
        db.executescript(f"PRAGMA incremental_vacuum({pages:d})")
        return bool(db.execute("PRAGMA freelist_count").fetchone()[0])

    def _finish(self, batches: list[_Batch], error: Exception | None) -> None:
        assert self._loop is not None
        # A loop that is already closed has nobody left to tell.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._tell, batches, error)

    def _tell(self, batches: list[_Batch], error: Exception | None) -> None:
        for batch in batches:
            if batch.future.done():
                continue
            if error is None:
                batch.future.set_result(None)
            else:
                failure = error
                if not isinstance(error, StoreError):
                    failure = StoreError(f"the database could not be written: {error}")
                    failure.__cause__ = error
                batch.future.set_exception(failure)
                batch.future.exception()  # the owner may look later: no "never retrieved" at the end
        if error is not None:
            return
        assert self._loop is not None
        self._unshown += batches
        if any(batch.durable for batch in batches):
            # Somebody waits for the record to act on it, and does before people see it: the agent works on its prompt
            # while the browsers are told. Who waits behind a shield is woken a round later.
            self._loop.call_soon(self._loop.call_soon, self._show)
        else:
            self._show()

    def _show(self) -> None:
        batches, self._unshown = self._unshown, []
        for batch in batches:
            if batch.rows and (tail := self._tails.get(batch.session_id)):
                tail.push(batch.rows)


def _connect_sound(path: Path) -> tuple[sqlite3.Connection, Path | None]:
    """A connection, and where a damaged database went that was there."""
    # left behind by a kill or a power cut only: the time to look at every page
    wal = path.with_name(path.name + "-wal")
    is_unclean = wal.exists() and wal.stat().st_size > 0
    try:
        db = _connect(path)
        try:
            problem = db.execute("PRAGMA quick_check(1)").fetchone()[0] if is_unclean else "ok"
            db.execute("SELECT count(*) FROM sessions")
        except sqlite3.Error:
            db.close()
            raise
        if problem == "ok":
            return db, None
        db.close()
    except sqlite3.DatabaseError as exc:
        if exc.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            raise
        problem = str(exc)
    aside = path.with_name(f"{path.name}.damaged-{time.strftime('%Y%m%d-%H%M%S')}")
    for suffix in ("-wal", "-shm", ""):
        with contextlib.suppress(FileNotFoundError):
            path.with_name(path.name + suffix).rename(aside.with_name(aside.name + suffix))
    log.error("the database %s is damaged (%s); it is kept as %s and an empty one is begun", path, problem, aside)
    return _connect(path), aside


def _connect(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    db = sqlite3.connect(path, timeout=10, isolation_level=None, check_same_thread=False)
    db.row_factory = sqlite3.Row
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version > SCHEMA_VERSION:
        db.close()
        raise StoreError(
            f"{path} was written by a newer jupyter_acp (schema {version}); this one knows {SCHEMA_VERSION}"
        )
    if not version:
        # Before anything is written: later it would take a VACUUM. A database that was begun without it is left so: a
        # VACUUM copies the file, twice its room on the disk and some 20 s per GiB in which nobody could append, for
        # space that is not lost, since new events go into the free pages. Who wants it back at once runs it while no
        # server does (docs/reference/configuration.md).
        db.execute("PRAGMA auto_vacuum = INCREMENTAL")
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA wal_autocheckpoint = 1000")
    if version < SCHEMA_VERSION:
        _upgrade(db, path)
        # this one would keep what that has taken, a quarter of a MB, for as long as the project is there
        db.close()
        return _connect(path)
    db.execute("PRAGMA foreign_keys = ON")
    path.chmod(0o600)
    return db


def _upgrade(db: sqlite3.Connection, path: Path) -> None:
    """Bring the schema up to date, all of it or nothing."""
    db.execute("BEGIN IMMEDIATE")
    # Another process may have been faster.
    version = db.execute("PRAGMA user_version").fetchone()[0]
    for name in _SCHEMA[version:]:
        for statement in (files(__package__) / "schema" / name).read_text("utf-8").split(";\n"):
            if statement.strip():
                db.execute(statement)
    db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    db.execute("COMMIT")
    if 0 < version < SCHEMA_VERSION:
        log.info("the database %s was brought from schema %d to %d", path, version, SCHEMA_VERSION)


def _wire(seq: int, when: float, turn: str | None, kind: str, data: str) -> str:
    """The wire form of an event whose data is JSON already."""
    return f'{{"seq":{seq},"time":{when!r},"turn":{encode(turn)},"kind":"{kind}","data":{data}}}'


def _seq(text: str) -> int:
    """The seq of an event in our own wire form."""
    return int(text[len('{"seq":') : text.index(",")])
