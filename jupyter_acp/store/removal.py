"""What is done to make a database smaller, in steps of a few milliseconds between two commits.

What is removed is always the beginning of a session's log, so that `seq` stays without gap from the first event that is
kept. How much goes, and when, is decided in retention.py.
"""

from __future__ import annotations

from .writer import Writer

ENDLESS = (1 << 63) - 1
# The first and the newest event of a log, and where the turn that runs begins.
_BOUNDS = f"""SELECT (SELECT min(seq) FROM events WHERE session_id = :session),
    (SELECT max(seq) FROM events WHERE session_id = :session),
    coalesce((SELECT started_seq FROM turns
        WHERE session_id = :session AND state IN ('running', 'requires_action', 'cancelling')), {ENDLESS})"""
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


def remove(writer: Writer, session_id: str, through: int, limit: int) -> bool:
    """See `Store.remove`; whether something is left to remove."""
    # Not synced: what a power cut brings back is removed by the next round.
    with writer.atomic(durable=False) as db:
        first, newest, running = db.execute(_BOUNDS, {"session": session_id}).fetchone()
        if first is None:
            return False
        end = min(through, newest - 1, running - 1)
        values = {"session": session_id, "last": min(end, first + limit - 1)}
        for sql in _REMOVALS:
            db.execute(sql, values)
    return bool(values["last"] < end)


def vacuum(writer: Writer, pages: int) -> bool:
    """Give up to `pages` free pages back to the file system; whether there are more."""
    db = writer.connection(durable=False)
    if db.execute("PRAGMA auto_vacuum").fetchone()[0] != _INCREMENTAL:
        return False
    # a script: `execute` would stop after the first page
    db.executescript(f"PRAGMA incremental_vacuum({pages:d})")
    return bool(db.execute("PRAGMA freelist_count").fetchone()[0])
