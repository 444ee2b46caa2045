"""What must hold in a database file, asked of the file itself.

Strategy: each promise is one question to the database whose answer is empty when it holds; a row of the answer is one finding. All are
asked within one read snapshot, so a server may go on writing. SQLite is asked first whether its own structures are whole: the questions
trust its indexes.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from itertools import islice

from twisted_im.storage.sqlite_log import COMMIT_BITS
from twisted_im.wire.schema import ConversationKind

#: Findings of one kind that are told one by one.
MOST = 20

#: what is looked at → a question, and how a row of its answer is said
QUESTIONS: dict[str, tuple[str, str]] = {
    "the store's own row": (
        "SELECT count(*) FROM store HAVING count(*) != 1 OR max(length(epoch)) != 16 OR min(position) < 0 OR min(sessions) < 0",
        "the table store has {} rows where one should be, or values that cannot be",
    ),
    "logs": (
        "SELECT c.id, c.head, c.floor, count(m.seq), coalesce(min(m.seq), 0), coalesce(max(m.seq), 0)"
        " FROM conversations c LEFT JOIN messages m ON m.conversation = c.id GROUP BY c.id"
        " HAVING c.floor NOT BETWEEN 0 AND c.head OR count(m.seq) != c.head - c.floor"
        " OR (count(m.seq) AND (min(m.seq) != c.floor + 1 OR max(m.seq) != c.head))",
        "conversation {}: its head is {} and its floor {}, but it has {} rows, from {} to {}",
    ),
    "gaps": (
        "SELECT conversation, before + 1, seq - 1 FROM (SELECT conversation, seq,"
        " lag(seq) OVER (PARTITION BY conversation ORDER BY seq) AS before FROM messages) WHERE seq != before + 1",
        "conversation {}: rows {} to {} are missing",
    ),
    "order": (
        "SELECT conversation, seq FROM (SELECT conversation, seq, id,"
        " lag(id) OVER (PARTITION BY conversation ORDER BY seq) AS before FROM messages) WHERE id <= before",
        "conversation {}: row {} was committed before the row below it",
    ),
    "positions": (
        f"SELECT conversation, seq, messages.id >> {COMMIT_BITS}, position FROM store JOIN messages"
        f" ON messages.id >= position + 1 << {COMMIT_BITS}",
        "conversation {}: row {} has the position {}, above the store's {}",
    ),
    "changes": (
        "SELECT conversations.id, changed, position FROM conversations JOIN store WHERE changed > position",
        "conversation {}: it changed at the position {}, above the store's {}",
    ),
    "messages without a conversation": (
        "SELECT conversation, count(*) FROM messages WHERE conversation NOT IN (SELECT id FROM conversations) GROUP BY conversation",
        "conversation {}: it does not exist, but {} rows belong to it",
    ),
    "messages without a sender": (
        "SELECT conversation, seq, sender FROM messages WHERE sender NOT IN (SELECT id FROM users)",
        "conversation {}: row {} is from the user {}, who does not exist",
    ),
    "members": (
        "SELECT conversation, user FROM members"
        " WHERE conversation NOT IN (SELECT id FROM conversations) OR user NOT IN (SELECT id FROM users)",
        "conversation {}: it or its member {} does not exist",
    ),
    "marks": (
        "SELECT m.conversation, m.user, m.delivered, m.read, c.head FROM members m JOIN conversations c ON c.id = m.conversation"
        " WHERE NOT 0 <= m.read OR m.read > m.delivered OR m.delivered > c.head",
        "conversation {}: the marks of the user {} are delivered {} and read {}, where the head is {}",
    ),
    "direct conversations": (
        "SELECT low, high, conversation FROM directs WHERE low > high"
        " OR (SELECT kind FROM conversations WHERE id = conversation) IS NOT :direct"
        " OR (SELECT count(*) FROM members m WHERE m.conversation = directs.conversation AND user IN (low, high)) != 1 + (low != high)"
        " OR (SELECT count(*) FROM members m WHERE m.conversation = directs.conversation) != 1 + (low != high)",
        "the users {} and {}: their conversation {} does not exist, is a group, or has other members",
    ),
    "direct conversations of nobody": (
        "SELECT id, count(conversation) FROM conversations LEFT JOIN directs ON conversation = id WHERE kind = :direct"
        " GROUP BY id HAVING count(conversation) != 1",
        "conversation {}: it belongs to {} pairs of users where one should be",
    ),
    "devices": (
        "SELECT devices.id, user, session, sessions FROM devices JOIN store WHERE user NOT IN (SELECT id FROM users) OR session > sessions",
        "device {}: its user {} does not exist, or its session {} is above the store's {}",
    ),
    "sessions": (
        "SELECT session, count(*) FROM devices GROUP BY session HAVING count(*) > 1",
        "session {}: {} devices have it",
    ),
    "cursors": (
        "SELECT device, conversation, seq, head FROM cursors LEFT JOIN conversations ON id = conversation"
        " WHERE device NOT IN (SELECT id FROM devices) OR head IS NULL OR seq NOT BETWEEN 1 AND head",
        "device {}: its cursor in the conversation {} is {}, where the head is {}; or one of them does not exist",
    ),
}


def integrity(connection: sqlite3.Connection) -> list[str]:
    """What SQLite itself finds wrong: pages, indexes, values. Reads the whole file."""
    try:
        return [line.replace("\n", " ") for (line,) in connection.execute(f"PRAGMA integrity_check({MOST})") if line != "ok"]
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_CORRUPT:
            raise
        return [str(error)]


def findings(connection: sqlite3.Connection, tell: Callable[[str], object]) -> list[str]:
    """What is wrong in a file of the newest layout, one line each; empty if all is well.

    Args:
        tell: called with the name of what is looked at next.
    """
    connection.execute("BEGIN")
    try:
        tell("the file's structure")
        found = integrity(connection)
        if found:
            return found
        for what, (question, sentence) in QUESTIONS.items():
            tell(what)
            rows = connection.execute(question, {"direct": int(ConversationKind.DIRECT)})
            found += [sentence.format(*row) for row in islice(rows, MOST)]
            if rows.fetchone() is not None:
                found.append(f"{what}: more of the same")
        return found
    finally:
        connection.execute("ROLLBACK")
