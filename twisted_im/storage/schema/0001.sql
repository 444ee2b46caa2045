-- The first layout. One file is one step; a file that has been released is never changed again.
--
-- A message's id is its place in the commit order: position << 20 | number within the commit. Rows are then appended in the order of the
-- primary key, and reading in commit order needs no index of its own. The unique key begins with the client id, which grows with time, so
-- that inserting touches the end of that index only.

CREATE TABLE store (
    epoch BLOB NOT NULL,         -- 16 random bytes: another one, and clients start afresh
    position INTEGER NOT NULL,   -- of the newest commit
    sessions INTEGER NOT NULL    -- the number of the newest session
);
INSERT INTO store VALUES (randomblob(16), 0, 0);

CREATE TABLE users (
    id INTEGER PRIMARY KEY,
    name BLOB NOT NULL UNIQUE,            -- tenant, a zero byte, uid
    account INTEGER NOT NULL DEFAULT 0,   -- 0 for somebody who is only a member of a group
    password TEXT NOT NULL DEFAULT '',
    disabled INTEGER NOT NULL DEFAULT 0,
    created INTEGER NOT NULL DEFAULT 0    -- milliseconds since 1970, as all times here
);

CREATE TABLE conversations (
    id INTEGER PRIMARY KEY,
    kind INTEGER NOT NULL,
    name BLOB NOT NULL,
    version INTEGER NOT NULL,    -- of the members
    head INTEGER NOT NULL,       -- the newest seq
    floor INTEGER NOT NULL,      -- rows up to this seq are gone
    changed INTEGER NOT NULL     -- the position at which a row, a mark or a member has changed last
);

CREATE TABLE directs (           -- who talks to whom: the lower user's id first
    low INTEGER NOT NULL,
    high INTEGER NOT NULL,
    conversation INTEGER NOT NULL,
    PRIMARY KEY (low, high)
) WITHOUT ROWID;

CREATE TABLE members (
    conversation INTEGER NOT NULL,
    user INTEGER NOT NULL,
    present INTEGER NOT NULL,    -- 0 for one who was removed: the marks stay
    delivered INTEGER NOT NULL,
    read INTEGER NOT NULL,
    PRIMARY KEY (conversation, user)
) WITHOUT ROWID;
CREATE INDEX members_by_user ON members (user, conversation);

CREATE TABLE messages (
    id INTEGER PRIMARY KEY,
    conversation INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    time INTEGER NOT NULL,
    sender INTEGER NOT NULL,
    device BLOB NOT NULL,
    client_id BLOB NOT NULL,
    content_type INTEGER NOT NULL,   -- 256 added if it was addressed to a user, and not to a conversation
    life INTEGER NOT NULL,           -- seconds after its time for which it may be seen; 0 for ever
    content BLOB NOT NULL,           -- emptied when that is over
    UNIQUE (conversation, seq),
    UNIQUE (client_id, sender)
);
CREATE INDEX messages_with_an_end ON messages (time + life * 1000) WHERE life > 0 AND content != x'';

CREATE TABLE devices (
    id INTEGER PRIMARY KEY,
    user INTEGER NOT NULL,
    device BLOB NOT NULL,
    session INTEGER NOT NULL,
    label BLOB NOT NULL,
    last_login INTEGER NOT NULL,
    token BLOB NOT NULL,             -- hash of the resume token used last, or empty
    token_time INTEGER NOT NULL,
    next_token BLOB NOT NULL,        -- hash of the one given last
    next_token_time INTEGER NOT NULL,
    UNIQUE (user, device)
);

CREATE TABLE ended (                 -- sessions that may not go on, for nodes to notice
    id INTEGER PRIMARY KEY,
    user BLOB NOT NULL,
    device BLOB NOT NULL,            -- empty for all of the user's
    session INTEGER NOT NULL         -- up to this number
);

CREATE TABLE cursors (
    device INTEGER NOT NULL,
    conversation INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    PRIMARY KEY (device, conversation)
) WITHOUT ROWID;

CREATE TABLE leases (
    node TEXT PRIMARY KEY,
    boot BLOB NOT NULL,
    address TEXT NOT NULL,
    expires REAL NOT NULL            -- seconds
) WITHOUT ROWID;
