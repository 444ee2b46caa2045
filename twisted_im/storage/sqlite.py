"""Everything in one SQLite file: the store of a server that must not lose anything, without anything to be installed.

Strategy: two threads of the store's own, each with its own connection. One writes: all that has come while it was busy becomes one
transaction, whatever it is — messages, logins, new accounts — so that the disk is waited for once. The other reads, from snapshots
that no writer disturbs, and keeps house when nothing is asked: it moves the write-ahead log into the file, outside any commit, and lets
old messages go.

A failure says what may be trusted: an `ImError` UNAVAILABLE means that nothing was kept (a full disk, a locked file) and that it may be
tried again; a `StoreError` that the disk itself failed, after which the node stops. A failed fsync is never tried again: nobody can
say what is on the disk after it.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, fail, gatherResults, maybeDeferred, succeed
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool
from zope.interface import implementer

from twisted_im.errors import Disconnect, ImError, Status
from twisted_im.server.interfaces import (
    AHEAD,
    Account,
    Append,
    Cursor,
    Device,
    Ended,
    IStore,
    Lease,
    Members,
    Moved,
    Opened,
    Overview,
    Range,
    Row,
    Stored,
    StoreError,
    Summary,
)
from twisted_im.server.names import one_tenant
from twisted_im.storage.sqlite_file import Database, explained, in_words
from twisted_im.storage.sqlite_log import ADDRESSED, COMMIT_BITS, HIGHEST, Log
from twisted_im.wire.schema import ConversationKind, RowType

log = Logger()

#: Messages that are worth a commit before the turn's end. The fsync is the same for one and for a thousand.
BATCH = 512
#: Bytes of the write-ahead log above which it is moved into the file.
LONG_LOG = 4 * 1024 * 1024
#: Seconds between looks at the log's length and at old messages.
HOUSEKEEPING = 5.0
#: Ended sessions that are remembered, at least, for a node to notice.
ENDED = 10_000
#: Old messages let go in one transaction: others wait for it.
SHARE = 2000


def _one_thread(name: str) -> ThreadPool:
    return ThreadPool(1, 1, name)


class _Write:
    """One call that waits for the writer."""

    __slots__ = ("arguments", "call", "done")

    def __init__(self, call: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        self.call = call
        self.arguments = arguments
        self.done: Deferred[Any] = Deferred()


@implementer(IStore)
class SqliteStore:
    """An `IStore` in one file.

    Args:
        path: the file; made if it does not exist, in a directory that does.
        horizon: seconds for which a repeated client id is recognised.
        retention: seconds for which messages are kept, at least; 0 for ever. Never less than the horizon.
        clock: seconds since 1970.
        reactor: gets results from the threads, and waits between housekeeping; the installed one if None.
        threads: makes a pool of one thread from its name. What is used of it is `start()`, `stop()`, which waits for what runs, and
            `callInThreadWithCallback(on_result, call, *args)`, all as `twisted.python.threadpool.ThreadPool` has them; `on_result` hands
            the result on with `reactor.callFromThread`.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        horizon: int = 7 * 24 * 3600,
        retention: float = 0,
        clock: Callable[[], float] = time.time,
        reactor: Any = None,
        threads: Callable[[str], Any] = _one_thread,
    ) -> None:
        if reactor is None:
            from twisted.internet import reactor  # installs it: not before somebody wants a store
        self.horizon = horizon
        self.batch = BATCH
        self._retention = max(retention, horizon + AHEAD) if retention else 0
        self._clock = clock
        self._reactor = reactor
        self._path = Path(path)
        self.epoch = b""
        self._database: Any = None
        self._log: Any = None
        self._writer: Any = None
        self._reader: Any = None
        self._threads = {name: threads(f"{self._path.name} {name}") for name in ("writer", "reader")}
        self._pending: list[_Write] = []
        self._busy = False
        self._broken: Exception | None = None
        self._closing: Deferred[None] | None = None
        self._reads: dict[Deferred[Any], None] = {}
        self._house: Any = None
        self._threaded = False

    def open(self) -> None:
        """Opens the file; the threads start when the reactor does. (Neither may be carried from one process to another, as by a server that
        goes into the background.)

        Raises:
            StoreError: the file cannot be used; says why, and what to do.
        """
        database = Database(self._path)
        try:
            self._writer, self._reader = database.connect(), database.connect()
            # SQLite drew it when the file was made: a name for the file, which is compared and nothing else.
            (self.epoch,) = self._reader.execute("SELECT epoch FROM store").fetchone()
        except sqlite3.Error as error:
            database.close()
            raise StoreError(in_words(error, self._path)) from error
        self._database = database
        self._log = Log(self._writer)
        self._reactor.callWhenRunning(self._start_threads)

    def _start_threads(self) -> None:
        """Until the reactor runs, calls are made at once, where they are asked for: a server that cannot start says so while somebody
        waits for that at the terminal."""
        if self._closing is None:
            self._threaded = True
            for pool in self._threads.values():
                pool.start()
            self._again(HOUSEKEEPING)

    def _in_thread(self, name: str, call: Callable[..., Any], *arguments: Any) -> Deferred[Any]:
        if self._threaded:
            return deferToThreadPool(self._reactor, self._threads[name], call, *arguments)
        return maybeDeferred(call, *arguments)

    # ---- the two threads

    def _write(self, call: Callable[..., Any], *arguments: Any) -> Deferred[Any]:
        """Has a call made within the next transaction; fires when that is on the disk."""
        if self._broken is not None or self._closing is not None:
            return fail(self._broken or ImError(Status.UNAVAILABLE, "the store is closed"))
        write = _Write(call, arguments)
        self._pending.append(write)
        if not self._busy:
            self._commit()
        return write.done

    def _commit(self) -> None:
        self._busy = True
        batch, self._pending = self._pending, []
        done = self._in_thread("writer", self._transaction, batch)
        done.addCallbacks(self._committed, self._failed, (batch,), {}, (batch,))
        done.addBoth(self._next)

    def _transaction(self, batch: Sequence[_Write]) -> list[Any]:
        """In the writer's thread: all calls in one transaction. A call that refuses has changed nothing, and the others stand."""
        answers: list[Any] = []
        with self._database.alone():
            try:
                self._log.begin()
                for write in batch:
                    try:
                        if write.call != self._lease:
                            self._log.may_write(self._clock())
                        answers.append(write.call(*write.arguments))
                    except ImError as refusal:
                        answers.append(refusal)
                self._log.end()
            except BaseException as error:
                self._undo(error)
                raise
        return answers

    def _undo(self, error: BaseException) -> None:
        try:
            self._log.undo()
        except sqlite3.Error as worse:
            raise worse from error

    def _committed(self, answers: list[Any], batch: Sequence[_Write]) -> None:
        for write, answer in zip(batch, answers, strict=True):
            if isinstance(answer, ImError):
                write.done.errback(answer)
            else:
                write.done.callback(answer)

    def _failed(self, failure: Failure, batch: Sequence[_Write]) -> None:
        error = self._meaning(failure.value)
        for write in batch:
            write.done.errback(error)

    def _meaning(self, error: BaseException | None) -> BaseException:
        """What an error from a thread means; one that is not temporary is the last."""
        if isinstance(error, sqlite3.Error):
            error = explained(error, self._path)
        if not isinstance(error, ImError) and self._broken is None:
            self._broken = error if isinstance(error, Exception) else StoreError(str(error))
        return error or StoreError("unknown")

    def _next(self, result: Any) -> Any:
        self._busy = False
        if self._pending and self._broken is None:
            self._commit()
        else:
            for write in self._pending:
                write.done.errback(self._broken or StoreError("unknown"))
            self._pending = []
            if self._closing is not None:
                self._closing.callback(None)
        return result

    def _read(self, call: Callable[..., Any], *arguments: Any) -> Deferred[Any]:
        """Has a call made in the reader's thread, within a snapshot."""
        if self._broken is not None or self._closing is not None:
            return fail(self._broken or ImError(Status.UNAVAILABLE, "the store is closed"))

        def snapshot() -> Any:
            self._reader.execute("BEGIN")
            try:
                return call(*arguments)
            finally:
                self._reader.execute("ROLLBACK")

        return self._in_reader(snapshot)

    def _in_reader(self, call: Callable[[], Any]) -> Deferred[Any]:
        done = self._in_thread("reader", call)
        self._reads[done] = None

        def over(result: Any) -> Any:
            self._reads.pop(done, None)
            return result

        return done.addBoth(over).addErrback(lambda failure: Failure(self._meaning(failure.value)))

    def close(self) -> Deferred[None]:
        """Finishes what is under way, moves the write-ahead log into the file, and lets go. Again: nothing."""
        if self._closing is not None:
            return succeed(None)
        self._closing = Deferred()
        if self._database is None:
            return succeed(None)
        if self._house is not None and self._house.active():
            self._house.cancel()
        closed: Deferred[Any] = self._closing if self._busy else succeed(None)
        closed.addCallback(lambda _: gatherResults(list(self._reads), consumeErrors=True))
        closed.addErrback(lambda _: None)  # whoever asked has been told
        return closed.addCallback(self._closed)

    def _closed(self, _: object) -> None:
        for pool in self._threads.values():
            pool.stop()
        try:
            if self._broken is None:
                self._reader.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        except sqlite3.Error as error:
            log.warn("closing {path}: {error}; nothing is lost", path=str(self._path), error=str(error))
        finally:
            self._reader.close()
            self._writer.close()
            self._database.close()

    def abandon(self) -> None:
        """Lets go of the file as a killed process does, with nothing finished: for simulations. SQLite tidies up all the same if nobody
        else has the file open, so whoever wants what a crash leaves looks at the file before."""
        self._closing = Deferred()
        for connection in (self._reader, self._writer):
            if connection is not None:
                connection.close()
        if self._database is not None:
            self._database.close()

    # ---- the house

    def keep_house(self) -> Deferred[bool]:
        """Moves a long log into the file, and lets go a share of what may no longer be seen, as a timer does; True if there is more."""
        if self._broken is not None or self._closing is not None:
            return succeed(False)
        done: Deferred[Any] = succeed(None)
        path = Path(f"{self._path}-wal")
        if path.exists() and path.stat().st_size > LONG_LOG:
            done = self._in_reader(lambda: self._reader.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall())
        return done.addCallback(lambda _: self._write(self._clear_out))

    def _keep_house(self) -> None:
        done = self.keep_house().addErrback(lambda failure: log.warn("housekeeping: {why}", why=failure.getErrorMessage()))
        done.addCallback(lambda more: self._again(0.1 if more else HOUSEKEEPING))

    def _clear_out(self) -> bool:
        self._writer.execute("DELETE FROM ended WHERE id <= (SELECT max(id) FROM ended) - ?", (ENDED,))
        buried = self._bury(self._now())
        gone = self._let_go(int((self._clock() - self._retention) * 1000)) if self._retention else 0
        return SHARE in (buried, gone)

    def _again(self, seconds: float) -> None:
        if self._broken is None and self._closing is None:
            self._house = self._reactor.callLater(seconds, self._keep_house)

    def _bury(self, now: int) -> int:
        """Empties messages whose life is over, a share at a time; gives how many."""
        over = "SELECT id FROM messages WHERE life > 0 AND content != x'' AND time + life * 1000 <= ? LIMIT ?"
        return int(self._writer.execute(f"UPDATE messages SET content = x'' WHERE id IN ({over})", (now, SHARE)).rowcount)

    def _let_go(self, before: int) -> int:
        """Removes messages older than this, oldest first, a share at a time; gives how many."""
        rows = self._writer.execute("SELECT id, conversation, seq, time FROM messages ORDER BY id LIMIT ?", (SHARE,)).fetchall()
        floors: dict[int, int] = {}
        last = gone = 0
        for row, conversation, seq, moment in rows:
            if moment >= before:
                break
            floors[conversation], last, gone = seq, row, gone + 1
        if gone:
            self._writer.executemany("UPDATE conversations SET floor = ? WHERE id = ?", [(seq, number) for number, seq in floors.items()])
            self._writer.execute("DELETE FROM messages WHERE id <= ?", (last,))
        return gone

    # ---- the log

    def append(
        self, messages: Sequence[Append], cursors: Sequence[Cursor]
    ) -> Deferred[tuple[list[Stored | ImError], list[Moved | ImError]]]:
        return self._write(self._log.append, messages, cursors, int(self._clock() * 1000))

    def read(self, user: bytes, conversation: int, first: int, last: int, limit: int, backward: bool) -> Deferred[Range]:
        return self._read(self._range, user, conversation, first, last, limit, backward)

    def _range(self, user: bytes, conversation: int, first: int, last: int, limit: int, backward: bool) -> Range:
        found = self._reader.execute(
            "SELECT head, floor FROM conversations c JOIN members m ON m.conversation = c.id AND present"
            " WHERE c.id = ? AND m.user = (SELECT id FROM users WHERE name = ?)",
            (min(conversation, HIGHEST), user),
        ).fetchone()
        if found is None:
            raise ImError(Status.NO_SUCH, "no such conversation, or none of yours")
        head, floor = found
        low, high = max(first, 1), min(last, head)
        lowest = max(low, floor + 1)  # what is gone takes no room in the answer
        if high - lowest + 1 > limit:
            low, high = (high - limit + 1, high) if backward else (low, lowest + limit - 1)
        rows = self._rows("WHERE conversation = ? AND seq BETWEEN ? AND ? ORDER BY seq", conversation, min(low, HIGHEST), high)
        return Range(low, high, head, floor, rows)

    def _rows(self, where: str, *arguments: int) -> list[Row]:
        found = self._reader.execute(
            "SELECT conversation, seq, time, users.name, device, client_id, content_type, life, content, messages.id"
            " FROM messages JOIN users ON users.id = sender " + where,
            arguments,
        )
        now = self._now()
        rows = []
        for conversation, seq, moment, sender, device, client_id, kind, life, content, place in found:
            kind &= ADDRESSED - 1
            row_type = RowType.MESSAGE
            if life and moment + life * 1000 <= now:
                row_type, content = RowType.TOMBSTONE, b""
            rows.append(Row(conversation, seq, moment, sender, device, client_id, row_type, kind, life, content, place >> COMMIT_BITS))
        return rows

    def read_since(self, position: int, limit: int) -> Deferred[tuple[int, Sequence[Row]]]:
        return self._read(self._since, min(position, (HIGHEST >> COMMIT_BITS) - 1), limit)

    def _since(self, position: int, limit: int) -> tuple[int, list[Row]]:
        newest = self._position()
        begin = position + 1 << COMMIT_BITS
        rows = self._rows("WHERE messages.id >= ? ORDER BY messages.id LIMIT ?", begin, limit + 1)
        if len(rows) > limit:  # whole commits only: without the one that the limit cuts, unless it is the first, which must then come whole
            newest = rows[limit].position - 1
            if rows[0].position > newest:
                newest = rows[0].position
            rows = self._rows("WHERE messages.id >= ? AND messages.id < ? ORDER BY messages.id", begin, newest + 1 << COMMIT_BITS)
        rows.sort(key=lambda row: (row.position, row.conversation, row.seq))
        return newest, rows

    def position(self) -> Deferred[int]:
        return self._read(self._position)

    def _position(self) -> int:
        (position,) = self._reader.execute("SELECT position FROM store").fetchone()
        return int(position)

    def summary(self, user: bytes, device: bytes, since: int, after: int, limit: int, behind: bool) -> Deferred[Summary]:
        return self._read(self._summary, user, device, min(since, HIGHEST), min(after, HIGHEST), limit, behind)

    def _summary(self, user: bytes, device: bytes, since: int, after: int, limit: int, behind: bool) -> Summary:
        position = self._position()
        rows = self._reader.execute(
            """
            SELECT c.id, c.kind, c.head, c.floor, coalesce(cursors.seq, 0) AS cursor, me.delivered, me.read,
                   coalesce(them.delivered, 0), coalesce(them.read, 0), CASE c.kind WHEN :direct THEN other.name ELSE c.name END
            FROM users u
            JOIN members me ON me.user = u.id AND me.present AND me.conversation > :after
            JOIN conversations c ON c.id = me.conversation
            LEFT JOIN devices d ON d.user = u.id AND d.device = :device
            LEFT JOIN cursors ON cursors.device = d.id AND cursors.conversation = c.id
            LEFT JOIN members them ON c.kind = :direct AND them.conversation = c.id AND (them.user != u.id OR NOT EXISTS
                (SELECT 1 FROM members others WHERE others.conversation = c.id AND others.user != u.id))
            LEFT JOIN users other ON other.id = them.user
            WHERE u.name = :user AND (c.changed > :since OR :since = 0) AND NOT (:behind AND c.head <= coalesce(cursors.seq, 0))
            ORDER BY c.id LIMIT :limit
            """,
            {"user": user, "device": device, "since": since, "after": after, "limit": limit + 1, "behind": behind,
             "direct": int(ConversationKind.DIRECT)},
        ).fetchall()  # fmt: skip
        return Summary(position, len(rows) > limit, [Overview(*row) for row in rows[:limit]])

    # ---- members

    def members(self, conversations: Sequence[int]) -> Deferred[dict[int, Members]]:
        return self._read(self._members, self._reader, conversations)

    def _members(self, connection: sqlite3.Connection, conversations: Sequence[int]) -> dict[int, Members]:
        found = {}
        for number in conversations:
            known = connection.execute("SELECT version, kind FROM conversations WHERE id = ?", (min(number, HIGHEST),)).fetchone()
            if known is not None:
                names = connection.execute(
                    "SELECT name FROM members JOIN users ON users.id = user WHERE conversation = ? AND present ORDER BY name", (number,)
                )
                version, kind = known
                found[number] = Members(version, kind, tuple(name for (name,) in names))
        return found

    def create_group(self, name: bytes, users: Sequence[bytes]) -> Deferred[int]:
        return self._write(self._create_group, name, users)

    def _create_group(self, name: bytes, users: Sequence[bytes]) -> int:
        one_tenant(users)
        self._log.position += 1
        made: int = self._log.open(ConversationKind.GROUP, name, self._ids(users))
        return made

    def _ids(self, users: Sequence[bytes]) -> list[int]:
        """The users' ids; strangers get one too."""
        self._writer.executemany("INSERT INTO users (name) VALUES (?) ON CONFLICT DO NOTHING", [(user,) for user in users])
        return [self._writer.execute("SELECT id FROM users WHERE name = ?", (user,)).fetchone()[0] for user in users]

    def change_members(self, conversation: int, add: Sequence[bytes], remove: Sequence[bytes]) -> Deferred[Members]:
        return self._write(self._change_members, conversation, add, remove)

    def _change_members(self, conversation: int, add: Sequence[bytes], remove: Sequence[bytes]) -> Members:
        known = self._writer.execute("SELECT kind FROM conversations WHERE id = ?", (min(conversation, HIGHEST),)).fetchone()
        if known != (ConversationKind.GROUP,):
            raise ImError(Status.NO_SUCH, "no such conversation, or none of yours")
        one_tenant((*add, *self._members(self._writer, [conversation])[conversation].users))
        self._log.forget_conversation(conversation)
        self._log.position += 1
        gone = dict.fromkeys(remove)
        come = self._ids([user for user in add if user not in gone])
        self._writer.executemany(
            "INSERT INTO members VALUES (?, ?, 1, 0, 0) ON CONFLICT DO UPDATE SET present = 1", [(conversation, user) for user in come]
        )
        self._writer.executemany(
            "UPDATE members SET present = 0 WHERE conversation = ? AND user = (SELECT id FROM users WHERE name = ?)",
            [(conversation, user) for user in gone],
        )
        self._writer.execute(
            "UPDATE conversations SET version = version + 1, changed = ? WHERE id = ?", (self._log.position, conversation)
        )
        return self._members(self._writer, [conversation])[conversation]

    # ---- sessions and accounts

    def open_session(self, user: bytes, device: bytes, label: bytes, node: str, token: bytes = b"") -> Deferred[Opened]:
        return self._write(self._open_session, user, device, label, node, token)

    def _open_session(self, user: bytes, device: bytes, label: bytes, node: str, token: bytes) -> Opened:
        known = self._writer.execute("SELECT id, disabled FROM users WHERE name = ? AND account", (user,)).fetchone()
        if known is None:
            self._make_accounts([user])
            known = self._log.user(user), False
        owner, disabled = known
        if disabled:
            raise ImError(Status.NOT_AUTHENTICATED)
        elsewhere = self._writer.execute(
            "SELECT session FROM devices WHERE user = ? AND device = ? AND node NOT IN ('', ?)", (owner, device, node)
        ).fetchone()
        if elsewhere is not None:
            self._end(Ended(user, device, elsewhere[0], Disconnect.TAKEN_OVER))
        self._log.forget_device(user, device)
        self._log.sessions += 1
        now = self._now()
        self._writer.execute(
            """
            INSERT INTO devices (user, device, session, node, label, last_login, token, token_time, next_token, next_token_time)
            VALUES (:user, :device, :session, :node, :label, :now, :token, :time, :token, :time)
            ON CONFLICT DO UPDATE SET session = :session, node = :node, label = :label, last_login = :now,
                token = iif(:token = x'' OR next_token != x'', token, :token),
                token_time = iif(:token = x'' OR next_token != x'', token_time, :time),
                next_token = iif(:token = x'', next_token, :token), next_token_time = iif(:token = x'', next_token_time, :time)
            """,
            {"user": owner, "device": device, "session": self._log.sessions, "node": node, "label": label, "now": now, "token": token,
             "time": now if token else 0},
        )  # fmt: skip
        return Opened(self._log.sessions, self.epoch, self.horizon)

    def _now(self) -> int:
        return int(self._clock() * 1000)

    def use_token(self, user: bytes, device: bytes, token: bytes, oldest: int) -> Deferred[bool]:
        return self._write(self._use_token, user, device, token, oldest)

    def _use_token(self, user: bytes, device: bytes, token: bytes, oldest: int) -> bool:
        found = self._writer.execute(
            "SELECT devices.id, next_token = ?, (next_token = ? AND next_token_time > ?) OR (token = ? AND token_time > ?)"
            " FROM devices JOIN users ON users.id = user WHERE name = ? AND device = ? AND NOT disabled",
            (token, token, oldest, token, oldest, user, device),
        ).fetchone()
        if not token or found is None or not found[2]:
            return False
        if found[1]:
            self._writer.execute("UPDATE devices SET token = next_token, token_time = next_token_time WHERE id = ?", found[:1])
        return True

    def revoke_tokens(self, user: bytes, device: bytes = b"") -> Deferred[None]:
        return self._write(self._revoke_tokens, user, device)

    def _revoke_tokens(self, user: bytes, device: bytes = b"") -> None:
        self._writer.execute(
            "UPDATE devices SET token = x'', token_time = 0, next_token = x'', next_token_time = 0"
            " WHERE user = (SELECT id FROM users WHERE name = ?) AND ? IN (x'', device)",
            (user, device),
        )

    def devices(self, user: bytes) -> Deferred[Sequence[Device]]:
        return self._read(self._devices, user)

    def _devices(self, user: bytes) -> list[Device]:
        found = self._reader.execute(
            "SELECT device, session, last_login, label FROM devices JOIN users ON users.id = user WHERE name = ? ORDER BY device", (user,)
        )
        return [Device(*row) for row in found]

    def remove_device(self, user: bytes, device: bytes) -> Deferred[bool]:
        return self._write(self._remove_device, user, device)

    def _remove_device(self, user: bytes, device: bytes) -> bool:
        find = "SELECT devices.id FROM devices JOIN users ON users.id = user WHERE name = ? AND device = ?"
        found = self._writer.execute(find, (user, device)).fetchone()
        if found is None:
            return False
        self._log.forget_device(user, device)
        self._writer.execute("DELETE FROM cursors WHERE device = ?", found)
        self._writer.execute("DELETE FROM devices WHERE id = ?", found)
        self._end(Ended(user, device, self._log.sessions, Disconnect.KICKED))
        return True

    def _end(self, ended: Ended) -> None:
        self._writer.execute("INSERT INTO ended (user, device, session, code) VALUES (?, ?, ?, ?)", ended)

    def ended_since(self, mark: int) -> Deferred[tuple[int, Sequence[Ended]]]:
        return self._read(self._ended_since, mark)

    def _ended_since(self, mark: int) -> tuple[int, list[Ended]]:
        found = self._reader.execute("SELECT id, user, device, session, code FROM ended WHERE id > ? ORDER BY id", (mark,)).fetchall()
        ended = [Ended(user, device, number, Disconnect(code)) for _, user, device, number, code in found]
        return (found[-1][0] if found else mark), ended

    def accounts(self, users: Sequence[bytes], create: bool) -> Deferred[set[bytes]]:
        return self._write(self._make_accounts, users) if create else self._read(self._existing, self._reader, users)

    def _existing(self, connection: sqlite3.Connection, users: Sequence[bytes]) -> set[bytes]:
        find = "SELECT 1 FROM users WHERE name = ? AND account"
        return {user for user in users if connection.execute(find, (user,)).fetchone()}

    def _make_accounts(self, users: Sequence[bytes]) -> set[bytes]:
        existing = self._existing(self._writer, users)
        now = self._now()
        self._writer.executemany(
            "INSERT INTO users (name, account, created) VALUES (?, 1, ?) ON CONFLICT DO UPDATE SET account = 1, created = excluded.created",
            [(user, now) for user in users if user not in existing],
        )
        return existing

    def account(self, user: bytes) -> Deferred[Account | None]:
        return self._read(self._account, user)

    def _account(self, user: bytes) -> Account | None:
        find = "SELECT name, password, disabled, created FROM users WHERE name = ? AND account"
        row = self._reader.execute(find, (user,)).fetchone()
        return Account(row[0], row[1], bool(row[2]), row[3]) if row else None

    def set_account(self, user: bytes, password: str | None, disabled: bool | None) -> Deferred[bool]:
        return self._write(self._set_account, user, password, disabled)

    def _set_account(self, user: bytes, password: str | None, disabled: bool | None) -> bool:
        new = not self._make_accounts([user])
        self._writer.execute(
            "UPDATE users SET password = coalesce(?, password), disabled = coalesce(?, disabled) WHERE name = ?", (password, disabled, user)
        )
        self._revoke_tokens(user)
        if password is not None or disabled:
            self._end(Ended(user, b"", self._log.sessions, Disconnect.KICKED))
        return new

    def list_accounts(self, after: bytes, limit: int) -> Deferred[Sequence[Account]]:
        return self._read(self._list_accounts, after, limit)

    def _list_accounts(self, after: bytes, limit: int) -> list[Account]:
        find = "SELECT name, password, disabled, created FROM users WHERE name > ? AND account ORDER BY name LIMIT ?"
        found = self._reader.execute(find, (after, limit))
        return [Account(name, password, bool(disabled), created) for name, password, disabled, created in found]

    # ---- nodes

    def lease(
        self, node: str, boot: bytes, address: str, seconds: float, load: int = 0, clients: str = ""
    ) -> Deferred[Sequence[Lease]]:
        return self._write(self._lease, node, boot, address, seconds, load, clients)

    def _lease(self, node: str, boot: bytes, address: str, seconds: float, load: int, clients: str) -> list[Lease]:
        now = self._clock()
        held = self._writer.execute("SELECT boot, expires FROM leases WHERE node = ?", (node,)).fetchone()
        if held is not None and held[0] != boot and held[1] > now:
            raise ImError(Status.NO_SUCH, f"another process is the node {node}")
        self._writer.execute(
            "INSERT OR REPLACE INTO leases (node, boot, address, expires, load, clients) VALUES (?, ?, ?, ?, ?, ?)",
            (node, boot, address, now + seconds, load, clients),
        )
        if seconds:
            self._log.tenant, self._log.lease_ends = (node, boot), now + seconds
        elif self._log.tenant == (node, boot):
            self._log.tenant = None
        return self._leases(self._writer)

    def leases(self) -> Deferred[Sequence[Lease]]:
        return self._read(self._leases, self._reader)

    def _leases(self, connection: sqlite3.Connection) -> list[Lease]:
        find = "SELECT node, boot, address, expires, load, clients FROM leases WHERE expires > ? ORDER BY node"
        found = connection.execute(find, (self._clock(),))
        return [Lease(*row) for row in found]
