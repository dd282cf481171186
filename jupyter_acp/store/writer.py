"""The one thread that writes: whatever batches wait are committed together (group commit), chores between two commits.

A batch is events of one session plus the changes of rows that go with them: both or neither. A durable batch is synced
to disk (WAL, synchronous=FULL) before its future resolves; others are synced by the next durable one, at the latest a
second later.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from ..exceptions import NotOwner, StoreError
from ..records import Change
from .database import SCHEMA_VERSION
from .tails import EventRow

SYNC_SECONDS = 1.0
_ROOM = 8 << 20


@dataclass(slots=True)
class Chain:
    """Batches that build upon each other: once one was refused, so is every later one, also where the disk has room
    again. Otherwise a log would lack what came before, and the agent count as read beyond it."""

    refused: Exception | None = None


@dataclass(slots=True)
class _Batch:
    session_id: str
    rows: Sequence[EventRow]
    changes: Sequence[Change]
    durable: bool
    future: asyncio.Future[None]
    chain: Chain


@dataclass(slots=True)
class _Chore:
    """Housekeeping of the writer's thread, between two commits."""

    run: Callable[[Writer], bool]
    future: Future[Step]


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A small piece of housekeeping: how long it kept the writer, and whether something is left to do."""

    seconds: float
    more: bool


class Writer:
    """Commits batches in the order of the calls.

    `committed` is called in the event loop with a session and its new events, once whoever waits for their commit has
    been told.
    """

    def __init__(self, committed: Callable[[str, Sequence[EventRow]], None]) -> None:
        self._committed = committed
        #: a project and the token of its owner: nothing is written while another is
        self.claim: tuple[str, str] | None = None
        self._queue: queue.SimpleQueue[_Batch | _Chore | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._write, name="acp-store-write", daemon=True)
        self._db: sqlite3.Connection | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_synced: bool | None = None
        self._unshown: list[_Batch] = []
        self._waiting = 0
        self._room = asyncio.Event()
        self._room.set()

    def start(self, db: sqlite3.Connection) -> None:
        """Write to `db`, which nobody else uses until `stop` returns."""
        self._db = db
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    async def stop(self) -> None:
        """Commit what waits, and end."""
        self._queue.put(None)
        await asyncio.get_running_loop().run_in_executor(None, self._thread.join)

    def put(
        self, session_id: str, rows: Sequence[EventRow], changes: Sequence[Change], *, durable: bool, chain: Chain
    ) -> asyncio.Future[None]:
        """Queue one batch; see `Store.append`."""
        assert self._loop is not None
        future: asyncio.Future[None] = self._loop.create_future()
        size = sum(len(row[5]) for row in rows)
        self._waiting += size
        if self._waiting > _ROOM:
            self._room.clear()
        future.add_done_callback(lambda _: self._done(size))
        self._queue.put(_Batch(session_id, rows, changes, durable, future, chain))
        return future

    async def room(self) -> None:
        """Return once less than 8 MiB wait for the disk."""
        await self._room.wait()

    async def chore(self, run: Callable[[Writer], bool]) -> Step:
        """Run a piece of work in the writer's thread; it says whether something is left to do."""
        chore = _Chore(run, Future())
        self._queue.put(chore)
        try:
            return await asyncio.wrap_future(chore.future)
        except sqlite3.Error as exc:
            raise StoreError(f"the database could not be written: {exc}") from exc

    def _done(self, size: int) -> None:
        self._waiting -= size
        if self._waiting <= _ROOM:
            self._room.set()

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
            more = chore.run(self)
        except Exception as exc:  # the one who waits for it is told; the writer goes on
            chore.future.set_exception(exc)
        else:
            chore.future.set_result(Step(seconds=time.monotonic() - begun, more=more))

    def _commit(self, batches: list[_Batch], durable: bool) -> None:
        for batch in batches:
            if batch.chain.refused is not None:
                self._finish([batch], batch.chain.refused)
        taken = [batch for batch in batches if batch.chain.refused is None]
        if batches and not taken:
            return
        batches = taken
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
        with self.atomic(durable=durable) as db:
            for batch in batches:
                for sql, values in batch.changes:
                    db.execute(sql, values)
                db.executemany("INSERT INTO events VALUES (?, ?, ?, ?, ?, ?)", batch.rows)
            if not batches:
                # An empty commit writes no frame and so syncs nothing.
                db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    @contextlib.contextmanager
    def atomic(self, *, durable: bool) -> Iterator[sqlite3.Connection]:
        """One transaction, for a chore too. NotOwner where the claim does not hold any more."""
        db = self.connection(durable=durable)
        db.execute("BEGIN IMMEDIATE")
        try:
            if self.claim is not None:
                self._check_claim(db, *self.claim)
            yield db
            db.execute("COMMIT")
        except (sqlite3.Error, NotOwner):
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise

    def _check_claim(self, db: sqlite3.Connection, root: str, token: str) -> None:
        row = db.execute("SELECT token FROM owners WHERE root = ?", (root,)).fetchone()
        if row is None or row[0] != token:
            raise NotOwner("another Jupyter server has taken over the agents of this folder")

    def connection(self, *, durable: bool) -> sqlite3.Connection:
        """The connection, for a chore too; with `durable` what it commits next is synced to disk."""
        assert self._db is not None
        if durable is not self._is_synced:
            self._db.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            self._is_synced = durable
        return self._db

    def _finish(self, batches: list[_Batch], error: Exception | None) -> None:
        assert self._loop is not None
        if error is not None:
            for batch in batches:
                batch.chain.refused = error
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
            if batch.rows:
                self._committed(batch.session_id, batch.rows)
