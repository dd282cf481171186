-- Fewer pages for each commit: no index of events by turn (a turn is a range of them), none of turns by position (few
-- are ever read in order), and how far the agent was read in a row of its own, apart from all that a session shows.

-- seq of its turn_ended: its events lie between started_seq and this
ALTER TABLE turns ADD COLUMN ended_seq INTEGER;

UPDATE turns SET ended_seq = (
    SELECT max(seq) FROM events WHERE events.session_id = turns.session_id AND events.turn = turns.id
) WHERE state = 'ended';

DROP INDEX events_of_a_turn;
DROP INDEX turns_in_order;

CREATE TABLE progress (
    session_id TEXT PRIMARY KEY REFERENCES sessions (id) ON DELETE CASCADE,
    position   INTEGER NOT NULL,                -- offset in the agent's output of the last line in the log
    number     INTEGER NOT NULL                 -- highest number used for a message to that runner
) WITHOUT ROWID;

INSERT INTO progress SELECT id, position, number FROM sessions;
-- without position and number; database.py leaves foreign keys off while it upgrades
CREATE TABLE sessions_2 (
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
    runner           TEXT                       -- name of the runner's directory below runtime_dir, NULL when none
);

INSERT INTO sessions_2 SELECT
    id, root, project, path, chat_id, agent, agent_session_id, cwd, title,
    parent, created, closed, access, config, preface, shown, runner
FROM sessions;
DROP TABLE sessions;
ALTER TABLE sessions_2 RENAME TO sessions;
CREATE UNIQUE INDEX one_open_session_per_chat ON sessions (root, path) WHERE closed = 0;
