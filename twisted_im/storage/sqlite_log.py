"""Appending to the log in SQLite: the durable half of the hot path. Runs in the store's writer thread.

Strategy: what a batch needs to know — heads, members, marks, sessions — is kept in memory from one transaction to the next, as long as no
other process has committed (`PRAGMA data_version` says so). Rows then go in with statements of many rows each: a statement is a
step, and each step gives Python's lock away and has to get it back from a busy reactor.

A message that is not new is rare, so nobody looks for it: the unique key (client id, sender) refuses the whole statement, the batch is
undone, and done again with a look-up for each message. So is one that would be refused.

Measured in docs/performance.md.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import chain
from typing import Any

from twisted_im.errors import ImError, Status
from twisted_im.server.interfaces import Append, Cursor, Moved, Stored, StoreError
from twisted_im.wire.schema import ConversationKind, ReceiptType

#: A row's id is its commit's position above its number in that commit.
COMMIT_BITS = 20
#: Added to the content type of a message that was addressed to a user.
ADDRESSED = 256
#: Rows in one statement.
ROWS = 128
#: Integers in SQLite have a sign.
HIGHEST = 2**63 - 1
_READ = int(ReceiptType.READ)
#: Parameters that are byte strings: for `bytes`, `sqlite3` looks for an adapter each time, in Python 3.11 by an exception that it catches.
_blob = bytearray


class _LookFirst(Exception):
    """A batch has something in it that may not be new."""


class Conversation:
    """What the writer knows of one conversation.

    Attributes:
        members: user → the user's id.
        marks: user → [delivered, read].
    """

    __slots__ = ("head", "id", "marks", "members", "version")

    def __init__(self, id: int, version: int, head: int) -> None:
        self.id = id
        self.version = version
        self.head = head
        self.members: dict[bytes, int] = {}
        self.marks: dict[bytes, list[int]] = {}


class Device:
    """What the writer knows of one device."""

    __slots__ = ("cursors", "id", "session")

    def __init__(self, id: int, session: int) -> None:
        self.id = id
        self.session = session
        self.cursors: dict[int, int] = {}


class Log:
    """The writer's side of a database, between `begin` and `end`.

    Args:
        connection: the writer's own.
        kept: conversations and devices that are known at a time; beyond it everything is learnt again.
    """

    def __init__(self, connection: sqlite3.Connection, *, kept: int = 100_000) -> None:
        self._db = connection
        self._kept = kept
        self._data_version = -1
        self.position = self.sessions = 0
        self._saved = (0, 0)
        self.tenant: tuple[str, bytes] | None = None  #: whose lease, and of which boot, must be in the file, or nothing is written
        self.lease_ends = 0.0  #: seconds by the store's clock
        self._users: dict[bytes, int | None] = {}
        self._directs: dict[tuple[bytes, bytes], Conversation] = {}
        self._conversations: dict[int, Conversation | None] = {}
        self._devices: dict[tuple[bytes, bytes], Device | None] = {}
        self._changed: set[Conversation] = set()
        self._moved_cursors: dict[tuple[int, int], int] = {}
        self._moved_marks: dict[tuple[int, int], list[int]] = {}

    # ---- a transaction

    def begin(self) -> None:
        """Begins a transaction, and forgets what another process has made untrue."""
        self._db.execute("BEGIN IMMEDIATE")
        (version,) = self._db.execute("PRAGMA data_version").fetchone()
        if version != self._data_version or len(self._conversations) + len(self._devices) > self._kept:
            self.forget()
            self._data_version = version
            self._saved = self._db.execute("SELECT position, sessions FROM store").fetchone()
            self.position, self.sessions = self._saved
            if self.tenant is not None:
                held = self._db.execute("SELECT boot, expires FROM leases WHERE node = ?", self.tenant[:1]).fetchone()
                if held is None or held[0] != self.tenant[1]:
                    raise StoreError(f"another process has become the node {self.tenant[0]!r}")
                self.lease_ends = held[1]

    def may_write(self, now: float) -> None:
        """Refuses what is to be written after the lease has ended that was taken here, if one was."""
        if self.tenant is not None and self.lease_ends <= now:
            raise ImError(Status.UNAVAILABLE, "this node's lease has ended, and is to be renewed first", retry_after=1000)

    def end(self) -> None:
        """Commits."""
        self._write_changes()
        if self._saved != (self.position, self.sessions):
            self._db.execute("UPDATE store SET position = ?, sessions = ?", (self.position, self.sessions))
        self._db.execute("COMMIT")
        self._saved = self.position, self.sessions

    def undo(self) -> None:
        """Takes the transaction back, if there is one."""
        self.forget()
        self._data_version = -1
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")

    def forget(self) -> None:
        """Learns everything anew when it is asked for."""
        for known in (self._users, self._directs, self._conversations, self._devices):
            known.clear()
        self._changed.clear()
        self._moved_cursors.clear()
        self._moved_marks.clear()

    def forget_device(self, user: bytes, device: bytes) -> None:
        self._devices.pop((user, device), None)

    def forget_conversation(self, number: int) -> None:
        """Learns a conversation anew, since its members change."""
        self._write_changes()
        self._conversations.pop(number, None)

    # ---- messages and receipts

    def append(self, messages: Sequence[Append], cursors: Sequence[Cursor], moment: int) -> tuple[list[Any], list[Any]]:
        """One batch of messages and receipts, as `IStore.append` has it.

        Args:
            moment: now, in milliseconds.
        """
        self._write_changes()  # what an earlier batch of this transaction has changed outlives this one's undoing
        self.position += 1
        stored: list[Any] = []
        if messages:
            self._db.execute("SAVEPOINT messages")
            try:
                stored = self._append_messages(messages, moment, known={})
                self._db.execute("RELEASE messages")
            except (sqlite3.IntegrityError, _LookFirst):
                self._db.execute("ROLLBACK TO messages")
                self._db.execute("RELEASE messages")
                self.forget()
                stored = self._append_messages(messages, moment, known=self._known(messages))
        return stored, self._keep_receipts(cursors) if cursors else []

    def _append_messages(
        self, messages: Sequence[Append], moment: int, *, known: dict[tuple[bytes, bytes], tuple[Any, ...]]
    ) -> list[Stored | ImError]:
        """Appends those that are not known, by sender and client id; `known` gets what is appended if it is not empty."""
        results: list[Stored | ImError] = []
        rows: list[tuple[Any, ...]] = []
        first = self.position << COMMIT_BITS
        conversations, directs, changed, blob = self._conversations, self._directs, self._changed, _blob
        for entry in messages:
            sender, device, client_id, number, peer, content_type, life, content = entry
            if known:
                earlier = known.get((sender, client_id))
                if earlier is not None:
                    results.append(self._repeated(entry, earlier, moment))
                    continue
            if number:
                conversation = conversations.get(number) or self._conversation(number)
            else:
                conversation = directs.get((sender, peer)) or self._direct(sender, peer)
                content_type += ADDRESSED
            if conversation is None or sender not in conversation.members:
                if not known:
                    raise _LookFirst  # it may be a repeat of what was sent as a member
                results.append(ImError(Status.NO_SUCH, "no such conversation, or none of yours"))
                continue
            conversation.head = seq = conversation.head + 1
            changed.add(conversation)
            number = conversation.id
            user = conversation.members[sender]
            rows.append((first, number, seq, moment, user, blob(device), blob(client_id), content_type, life, blob(content)))
            first += 1
            if known:
                known[sender, client_id] = (number, seq, moment, content_type, life, content)
            results.append((number, seq, moment, conversation.version, False))
        _insert(self._db, "INSERT INTO messages VALUES", 10, rows)
        return results

    def _known(self, messages: Sequence[Append]) -> dict[tuple[bytes, bytes], tuple[Any, ...]]:
        """Which of these are in the log already: (sender, client id) → (conversation, seq, time, content type, life, content)."""
        find = (
            "SELECT conversation, seq, time, content_type, life, content FROM messages"
            " WHERE client_id = ? AND sender = (SELECT id FROM users WHERE name = ?)"
        )
        found = {(b"", b""): ()}  # never empty: what comes twice in one batch is found in it too
        for sender, _, client_id, *_ in messages:
            row = self._db.execute(find, (client_id, sender)).fetchone()
            if row is not None:
                found[sender, client_id] = row
        return found

    def _repeated(self, entry: Append, earlier: tuple[Any, ...], now: int) -> Stored | ImError:
        sender, _, _, number, peer, content_type, life, content = entry
        conversation, seq, moment, kept_type, kept_life, kept_content = earlier
        if kept_life and moment + kept_life * 1000 <= now:
            content = kept_content  # it may be gone
        known = self._conversation(conversation)
        said = content_type + (0 if number else ADDRESSED)
        if (said, life, content) != (kept_type, kept_life, kept_content) or known is None:
            return ImError(Status.CONFLICT)
        if number != conversation if number else {sender, peer} != self._pair(conversation):
            return ImError(Status.CONFLICT)
        return conversation, seq, moment, known.version, True

    def _pair(self, conversation: int) -> set[bytes]:
        """The two, or one, whose direct conversation this is."""
        find = "SELECT name FROM directs JOIN users ON users.id IN (low, high) WHERE conversation = ?"
        return {name for (name,) in self._db.execute(find, (conversation,))}

    def _keep_receipts(self, receipts: Sequence[Cursor]) -> list[Moved | ImError]:
        results: list[Moved | ImError] = []
        conversations, devices, changed = self._conversations, self._devices, self._changed
        for user, device_id, session, number, seq, kind in receipts:
            conversation = conversations.get(number) or self._conversation(number)
            if conversation is None or user not in conversation.members:
                results.append(ImError(Status.NO_SUCH, "no such conversation, or none of yours"))
                continue
            if not 0 < seq <= conversation.head:
                results.append(ImError(Status.BAD_VALUE, f"a receipt for {seq}, where the newest is {conversation.head}"))
                continue
            device = devices.get((user, device_id)) or self._device(user, device_id)
            if device is None or device.session != session:
                results.append(ImError(Status.CONFLICT, "the device has a newer session, or was removed"))
                continue
            cursors = device.cursors
            if number not in cursors:
                cursors[number] = self._cursor(device.id, number)
            if seq > cursors[number]:
                cursors[number] = self._moved_cursors[device.id, number] = seq
            marks = conversation.marks[user]
            moved = seq > marks[kind == _READ]
            if moved:
                if kind == _READ:
                    marks[1] = seq
                if seq > marks[0]:
                    marks[0] = seq
                self._moved_marks[number, conversation.members[user]] = marks
                changed.add(conversation)
            results.append((moved, marks[kind == _READ], conversation.version))
        return results

    def _write_changes(self) -> None:
        """Writes what has changed in memory only so far."""
        if self._changed:
            rows = sorted((conversation.id, conversation.head) for conversation in self._changed)
            for start in range(0, len(rows), ROWS):
                part = rows[start : start + ROWS]
                values = ", ".join(["(?, ?)"] * len(part))
                self._db.execute(
                    f"WITH new(id, head) AS (VALUES {values})"  # question marks only
                    " UPDATE conversations SET head = new.head, changed = ? FROM new WHERE conversations.id = new.id",
                    (*chain.from_iterable(part), self.position),
                )
            self._changed.clear()
        if self._moved_cursors:
            rows_of_cursors = [(*key, seq) for key, seq in self._moved_cursors.items()]
            tail = " ON CONFLICT DO UPDATE SET seq = excluded.seq"
            _insert(self._db, "INSERT INTO cursors VALUES", 3, rows_of_cursors, tail)
            self._moved_cursors.clear()
        if self._moved_marks:
            rows_of_marks = [(*key, 1, *marks) for key, marks in self._moved_marks.items()]
            tail = " ON CONFLICT DO UPDATE SET delivered = excluded.delivered, read = excluded.read"
            _insert(self._db, "INSERT INTO members VALUES", 5, rows_of_marks, tail)
            self._moved_marks.clear()

    # ---- what is known

    def user(self, name: bytes) -> int | None:
        """The id of a user who has an account."""
        known = self._users.get(name)
        if known is None:
            row = self._db.execute("SELECT id FROM users WHERE name = ? AND account", (name,)).fetchone()
            if row is None:
                return None
            known = self._users[name] = row[0]
        return known

    def _conversation(self, number: int) -> Conversation | None:
        """A conversation by its id, learnt if it is not known."""
        known = self._conversations.get(number)
        if known is None and 0 < number <= HIGHEST:
            row = self._db.execute("SELECT id, version, head FROM conversations WHERE id = ?", (number,)).fetchone()
            if row is None:
                return None
            known = self._conversations[number] = Conversation(*row)
            find = (
                "SELECT users.name, users.id, delivered, read FROM members JOIN users ON users.id = members.user"
                " WHERE conversation = ? AND present"
            )
            for name, user, delivered, read in self._db.execute(find, (number,)):
                known.members[name] = user
                known.marks[name] = [delivered, read]
        return known

    def _direct(self, sender: bytes, peer: bytes) -> Conversation | None:
        """The conversation of two users, begun if there is none; None if one of them has no account."""
        one, other = self.user(sender), self.user(peer)
        if one is None or other is None:
            return None
        low, high = min(one, other), max(one, other)
        row = self._db.execute("SELECT conversation FROM directs WHERE low = ? AND high = ?", (low, high)).fetchone()
        if row is None:
            number = self.open(ConversationKind.DIRECT, b"", (one, other))
            self._db.execute("INSERT INTO directs VALUES (?, ?, ?)", (low, high, number))
        else:
            number = row[0]
        found = self._directs[sender, peer] = self._conversation(number)  # type: ignore[assignment]  # it is there
        return found

    def open(self, kind: int, name: bytes, users: Iterable[int]) -> int:
        """Makes a conversation of users, by their ids; gives its own."""
        made = self._db.execute(
            "INSERT INTO conversations (kind, name, version, head, floor, changed) VALUES (?, ?, 1, 0, 0, ?)", (kind, name, self.position)
        ).lastrowid
        assert made is not None
        _insert(self._db, "INSERT INTO members VALUES", 5, [(made, user, 1, 0, 0) for user in dict.fromkeys(users)])
        return made

    def _device(self, user: bytes, device: bytes) -> Device | None:
        find = "SELECT devices.id, session FROM devices JOIN users ON users.id = user WHERE name = ? AND device = ?"
        row = self._db.execute(find, (user, device)).fetchone()
        if row is None:
            return None
        known = self._devices[user, device] = Device(*row)
        return known

    def _cursor(self, device: int, conversation: int) -> int:
        row = self._db.execute("SELECT seq FROM cursors WHERE device = ? AND conversation = ?", (device, conversation)).fetchone()
        return int(row[0]) if row else 0


@lru_cache(maxsize=512)
def _values(head: str, width: int, rows: int, tail: str) -> str:
    row = f"({', '.join('?' * width)})"
    return f"{head} {', '.join([row] * rows)}{tail}"


def _insert(connection: sqlite3.Connection, head: str, width: int, rows: Sequence[tuple[Any, ...]], tail: str = "") -> None:
    """Inserts rows of this width, with as few statements as may be."""
    for start in range(0, len(rows), ROWS):
        part = rows[start : start + ROWS]
        connection.execute(_values(head, width, len(part), tail), tuple(chain.from_iterable(part)))
