BEGIN TRANSACTION;
CREATE TABLE delegated (
    session_id TEXT NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    request_id TEXT NOT NULL,                   -- JSON: id of the agent's fs/* or terminal/* request that waits for us
    PRIMARY KEY (session_id, request_id)
) WITHOUT ROWID;
INSERT INTO "delegated" VALUES('s','"d1"');
CREATE TABLE events (
    session_id TEXT NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    seq        INTEGER NOT NULL,                -- from 1, without gap: a second writer of a session fails on this key
    time       REAL NOT NULL,                   -- seconds since the epoch, for display
    turn       TEXT,                            -- turns.id
    kind       TEXT NOT NULL,                   -- events.Kind
    data       TEXT NOT NULL,                   -- JSON object
    PRIMARY KEY (session_id, seq)
) WITHOUT ROWID;
INSERT INTO "events" VALUES('s',1,1700000001.0,NULL,'session_created','{}');
INSERT INTO "events" VALUES('s',2,1700000002.0,'t1','turn_queued','{}');
INSERT INTO "events" VALUES('s',3,1700000003.0,'t1','turn_started','{}');
INSERT INTO "events" VALUES('s',4,1700000004.0,'t1','message_delta','{"message_id":"m","text":"Hi","role":"agent"}');
INSERT INTO "events" VALUES('s',5,1700000005.0,'t1','turn_ended','{}');
INSERT INTO "events" VALUES('s',6,1700000006.0,'t2','turn_queued','{}');
INSERT INTO "events" VALUES('s',7,1700000007.0,'t2','turn_started','{}');
INSERT INTO "events" VALUES('s',8,1700000008.0,'t3','turn_queued','{}');
INSERT INTO "events" VALUES('s',9,1700000009.0,'t2','message_delta','{"message_id":"n","text":"Hm","role":"agent"}');
INSERT INTO "events" VALUES('s',10,1700000010.0,'t2','permission_requested','{}');
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
INSERT INTO "permissions" VALUES('p','s','t2','7','{"options":[]}',1700000009.0,NULL,NULL);
CREATE TABLE progress (
    session_id TEXT PRIMARY KEY REFERENCES sessions (id) ON DELETE CASCADE,
    position   INTEGER NOT NULL,                -- offset in the agent's output of the last line in the log
    number     INTEGER NOT NULL                 -- highest number used for a message to that runner
) WITHOUT ROWID;
INSERT INTO "progress" VALUES('s',4711,9);
CREATE TABLE "sessions" (
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
INSERT INTO "sessions" VALUES('s','/home/u/project','local','talk.chat','c','demo','a-1','/home/u/project','Talk',NULL,1700000000.0,0,'full-access','{"mode":"plan"}',0,'{"usage":{"used":10}}','s-token');
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
    stop_reason TEXT, ended_seq INTEGER,                           -- turn.StopReason when ended
    PRIMARY KEY (session_id, id)
) WITHOUT ROWID;
INSERT INTO "turns" VALUES('s','t1',1,'ended','[{"type":"text","text":"hello"}]','hello','{"username":"ada"}',1700000003.0,3,'turn-t1',5,'end_turn',5);
INSERT INTO "turns" VALUES('s','t2',2,'running','[{"type":"text","text":"again"}]','again','{"username":"ada"}',1700000007.0,7,'turn-t2',9,NULL,NULL);
INSERT INTO "turns" VALUES('s','t3',3,'queued','[{"type":"text","text":"later"}]','later','{"username":"ada"}',NULL,NULL,NULL,NULL,NULL,NULL);
CREATE UNIQUE INDEX one_active_turn_per_session ON turns (session_id)
    WHERE state IN ('running', 'requires_action', 'cancelling');
CREATE INDEX permissions_of_a_session ON permissions (session_id);
CREATE UNIQUE INDEX one_open_session_per_chat ON sessions (root, path) WHERE closed = 0;
COMMIT;
PRAGMA user_version = 2;
