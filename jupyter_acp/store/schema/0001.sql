-- The coordinator's database. One writer thread (writer.py); the version is PRAGMA user_version, the number of the last file.

CREATE TABLE sessions (
    id               TEXT PRIMARY KEY,          -- uuid4 hex, ours
    root             TEXT NOT NULL,             -- real path of the project's root: several servers share one database
    project          TEXT NOT NULL,             -- id of the project in the URL
    path             TEXT NOT NULL,             -- of the .chat, relative to the root
    chat_id          TEXT NOT NULL,             -- metadata.id of the .chat, to tell a copy from a rename
    agent            TEXT NOT NULL,             -- id in the catalogue
    agent_session_id TEXT,                      -- as the agent gave it; NULL until it has
    cwd              TEXT NOT NULL,             -- in the agent's view
    title            TEXT NOT NULL,
    parent           TEXT,                      -- session that this one was forked from
    created          REAL NOT NULL,             -- seconds since the epoch
    closed           INTEGER NOT NULL,          -- 1 after DELETE; a new session may then take the path
    access           TEXT NOT NULL,             -- requested: full-access | workspace-write | read-only
    config           TEXT NOT NULL,             -- JSON object: option id -> value that a person asked for
    preface          INTEGER NOT NULL,          -- 1: the next prompt carries the conversation so far (start over)
    shown            TEXT NOT NULL,             -- JSON: last known config_options, commands, usage
    runner           TEXT,                      -- name of the runner's directory below runtime_dir, NULL when none
    position         INTEGER NOT NULL,          -- offset in the agent's output of the last line in the log
    number           INTEGER NOT NULL           -- highest number used for a message to that runner
);

CREATE UNIQUE INDEX one_open_session_per_chat ON sessions (root, path) WHERE closed = 0;

CREATE TABLE events (
    session_id TEXT NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    seq        INTEGER NOT NULL,                -- from 1, without gap: a second writer of a session fails on this key
    time       REAL NOT NULL,                   -- seconds since the epoch, for display
    turn       TEXT,                            -- turns.id
    kind       TEXT NOT NULL,                   -- events.Kind
    data       TEXT NOT NULL,                   -- JSON object
    PRIMARY KEY (session_id, seq)
) WITHOUT ROWID;

CREATE INDEX events_of_a_turn ON events (session_id, turn, seq);

CREATE TABLE turns (
    session_id  TEXT NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    id          TEXT NOT NULL,                  -- chosen by the caller: a resend is harmless
    position    INTEGER NOT NULL,               -- order in the queue
    state       TEXT NOT NULL,                  -- turn.TurnState
    prompt      TEXT NOT NULL,                  -- JSON array of ACP content blocks
    text        TEXT NOT NULL,                  -- its text, for people
    user        TEXT NOT NULL,                  -- JSON: who asked
    started     REAL,                           -- seconds since the epoch
    started_seq INTEGER,                        -- seq of its turn_started
    request_id  TEXT,                           -- JSON-RPC id of its session/prompt
    number      INTEGER,                        -- of the message that carries the prompt; NULL: not sent to this runner
    stop_reason TEXT,                           -- turn.StopReason when ended
    PRIMARY KEY (session_id, id)
) WITHOUT ROWID;

CREATE UNIQUE INDEX one_active_turn_per_session ON turns (session_id)
    WHERE state IN ('running', 'requires_action', 'cancelling');
CREATE INDEX turns_in_order ON turns (session_id, position);

CREATE TABLE permissions (
    id         TEXT PRIMARY KEY,                -- uuid4 hex, ours
    session_id TEXT NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    turn       TEXT,                            -- turns.id
    request_id TEXT NOT NULL,                   -- JSON: id of the agent's request, string or number
    request    TEXT NOT NULL,                   -- JSON: data of permission_requested
    asked      REAL NOT NULL,                   -- seconds since the epoch
    answer     TEXT,                            -- JSON: what the agent is told; NULL while pending
    number     INTEGER                          -- of the message that carries the answer
) WITHOUT ROWID;

CREATE INDEX permissions_of_a_session ON permissions (session_id);

CREATE TABLE delegated (
    session_id TEXT NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    request_id TEXT NOT NULL,                   -- JSON: id of the agent's fs/* or terminal/* request that waits for us
    PRIMARY KEY (session_id, request_id)
) WITHOUT ROWID;
