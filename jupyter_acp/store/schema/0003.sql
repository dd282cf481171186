CREATE TABLE owners (
    root  TEXT PRIMARY KEY,                     -- real path of a project's root, as in sessions
    token TEXT NOT NULL                         -- of the coordinator that claimed it last: the only one that may write
) WITHOUT ROWID;
