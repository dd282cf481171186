"""The database file: opened, brought to the newest schema, set aside where it is damaged."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import time
from importlib.resources import files
from pathlib import Path

from ..exceptions import StoreError

log = logging.getLogger(__name__)

#: file n brings a database of version n - 1 to version n; 0001.sql makes an empty one
_SCHEMA = sorted(file.name for file in (files(__package__) / "schema").iterdir() if file.name.endswith(".sql"))
SCHEMA_VERSION = len(_SCHEMA)


def connect_sound(path: Path) -> tuple[sqlite3.Connection, Path | None]:
    """A connection, and where a damaged database went that was there."""
    # left behind by a kill or a power cut only: the time to look at every page
    wal = path.with_name(path.name + "-wal")
    is_unclean = wal.exists() and wal.stat().st_size > 0
    try:
        db = connect(path)
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
    return connect(path), aside


def connect(path: Path) -> sqlite3.Connection:
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
        return connect(path)
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
