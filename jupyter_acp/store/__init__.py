"""The coordinator's database: `append`, `read`, `follow`. The only package that talks to sqlite3.

Theory of operation: one thread writes (`writer`), another reads, each with a connection of its own (`database`). Who
follows a log gets events only after their commit, from memory while it keeps up (`tails`) and from the database where
it does not. Old activity goes in steps between two commits (`removal`).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from ..events import Event, encode
from ..exceptions import StoreError
from ..records import Change, PermissionRow, SessionRow, TurnRow
from . import removal
from .database import SCHEMA_VERSION, connect, connect_sound
from .removal import ENDLESS
from .tails import READ_BYTES, TAIL_EVENTS, Tails, wire
from .writer import Chain, Step, Writer

__all__ = ["SCHEMA_VERSION", "TAIL_EVENTS", "Chain", "Step", "Store"]

SIZED_ROWS = 2000

_SESSIONS = """SELECT sessions.*, coalesce(position, 0) AS position, coalesce(number, 0) AS number
    FROM sessions LEFT JOIN progress ON session_id = id"""
T = TypeVar("T")


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
        self._tails = Tails()
        self._writer = Writer(self._tails.push)
        self._reader = ThreadPoolExecutor(1, "acp-store-read")
        self._ended: StoreError | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def open(self) -> None:
        """Open or create the database and start the writer. StoreError where that is impossible.

        A damaged database is kept under another name (`set_aside`) and an empty one takes its place.
        """
        loop = asyncio.get_running_loop()
        try:
            self._db, self.set_aside = await loop.run_in_executor(None, connect_sound, self.path)
            self._read_db = await loop.run_in_executor(self._reader, connect, self.path)
        except (sqlite3.Error, OSError) as exc:
            raise StoreError(f"the database {self.path} cannot be opened: {exc}") from exc
        self._loop = loop
        self._writer.start(self._db)

    async def close(self, reason: StoreError | None = None) -> None:
        """Commit what waits, then close. Followers end with `reason`."""
        if self._loop is None:
            return
        self._ended = reason or StoreError("the database was closed")
        self._tails.end_all(self._ended)
        await self._writer.stop()
        await self._loop.run_in_executor(self._reader, self._read_db.close)
        self._reader.shutdown()
        self._db.close()

    def append(
        self,
        session_id: str,
        events: Sequence[Event],
        changes: Sequence[Change] = (),
        *,
        durable: bool = False,
        chain: Chain | None = None,
    ) -> asyncio.Future[None]:
        """Queue events and changes of rows as one transaction, in the order of the calls.

        The returned future resolves once they are committed (and on disk, where `durable`), or has StoreError. After
        one of a `chain` was refused every later one of it is too.
        """
        assert self._loop is not None, "open() first"
        rows = [(session_id, e.seq, e.time, e.turn, str(e.kind), encode(e.data)) for e in events]
        if self._ended is not None:
            future: asyncio.Future[None] = self._loop.create_future()
            future.set_exception(self._ended)
            future.exception()
            return future
        return self._writer.put(session_id, rows, changes, durable=durable, chain=chain or Chain())

    async def claim(self, root: str, token: str) -> None:
        """Make `token` the owner of a project; from now on this store writes only while that is so (NotOwner)."""
        sql = "INSERT INTO owners VALUES (?, ?) ON CONFLICT (root) DO UPDATE SET token = excluded.token"
        await self.append("", [], [(sql, (root, token))], durable=True)
        self._writer.claim = (root, token)

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
        await self._writer.room()

    async def read(self, session_id: str, after: int = 0, limit: int = 1000) -> list[str]:
        """Up to `limit` events after seq `after`, as wire text, about 256 KiB at most (one event at least)."""
        return await self._call(self._select, session_id, after, limit)

    async def turn_events(self, session_id: str, turn: str, after: int = 0, limit: int = 5000) -> list[str]:
        """Events of one turn after seq `after`, from its start to its end, as wire text."""
        which = "FROM turns WHERE session_id = :session AND id = :turn"
        sql = f"""SELECT seq, time, turn, kind, data FROM events WHERE session_id = :session AND turn = :turn
            AND seq BETWEEN max(:after + 1, (SELECT started_seq {which}))
            AND (SELECT coalesce(ended_seq, {ENDLESS}) {which}) ORDER BY seq LIMIT :limit"""
        values = {"session": session_id, "turn": turn, "after": after, "limit": limit}
        return await self._call(lambda: [wire(*row) for row in self._read_db.execute(sql, values)])

    def follow(self, session_id: str, after: int = 0) -> AsyncIterator[list[str]]:
        """Every event after seq `after`, in order, without gap or repeat: what is there, then what comes, for ever.

        Where the log begins later than that, it is what is kept of it.
        """
        return self._tails.follow(session_id, after, self.read)

    def end_followers(self, session_id: str, reason: StoreError) -> None:
        """Let those who follow a session now end with `reason`, once they have all that is committed."""
        self._tails.end(session_id, reason)

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

    async def size(self, session_id: str, after: int = 0, through: int = ENDLESS) -> int:
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
        step = await self._writer.chore(lambda writer: removal.remove(writer, session_id, through, limit))
        if self._tails.has(session_id):
            self._tails.forget(session_id, await self.first_seq(session_id) - 1)
        return step

    async def vacuum(self, pages: int) -> Step:
        """Give up to `pages` free pages back to the file system."""
        return await self._writer.chore(lambda writer: removal.vacuum(writer, pages))

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

    async def _call(self, function: Callable[..., T], *args: object) -> T:
        """Run a read in the reader's thread."""
        if self._ended is not None:
            raise self._ended
        assert self._loop is not None, "open() first"
        try:
            return await self._loop.run_in_executor(self._reader, function, *args)
        except sqlite3.Error as exc:
            raise StoreError(f"the database could not be read: {exc}") from exc

    def _select(self, session_id: str, after: int, limit: int) -> list[str]:
        sql = "SELECT seq, time, turn, kind, data FROM events WHERE session_id=? AND seq>? ORDER BY seq LIMIT ?"
        found: list[str] = []
        size = 0
        with contextlib.closing(self._read_db.execute(sql, (session_id, after, limit))) as cursor:
            for row in cursor:
                found.append(wire(*row))
                size += len(found[-1])
                if size > READ_BYTES:
                    break
        return found
