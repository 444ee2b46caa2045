"""Copies of a database file: made while a server writes, and put back.

Strategy: a copy is what one read snapshot sees (`VACUUM INTO`), written under another name, synced, and only then given its own: whoever
finds a copy finds a whole one. Putting one back is the same the other way round. What was there before is kept under another name, and
at no moment is there nothing under the file's own, where a server that starts just then would begin an empty one.
"""

from __future__ import annotations

import errno
import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from twisted_im.server.interfaces import StoreError
from twisted_im.storage.sqlite_lock import PATIENCE, Locks, like_the_file

#: What SQLite keeps beside a file, and would apply to another one that takes its place.
_SIDES = ("-wal", "-shm", "-journal")


class Contents(NamedTuple):
    """What a database holds."""

    messages: int
    conversations: int
    newest: int | None  #: the time of the newest message, in milliseconds since 1970


def contents(connection: sqlite3.Connection) -> Contents:
    """What a database holds."""
    (messages,) = connection.execute("SELECT count(*) FROM messages").fetchone()
    (conversations,) = connection.execute("SELECT count(*) FROM conversations").fetchone()
    newest = connection.execute("SELECT time FROM messages ORDER BY id DESC LIMIT 1").fetchone()
    return Contents(messages, conversations, newest[0] if newest else None)


def size(connection: sqlite3.Connection) -> int:
    """About how many bytes a copy will have."""
    pages, free, bytes_each = (connection.execute(f"PRAGMA {what}").fetchone()[0] for what in ("page_count", "freelist_count", "page_size"))
    return int((pages - free) * bytes_each)


def draft_of(target: Path) -> Path:
    """Where a copy is written before it is whole."""
    return target.with_name(target.name + ".new")


def fresh_of(path: Path) -> Path:
    """Where a file is made ready that is to take another's place."""
    return path.with_name(path.name + ".restored")


def copy_to(connection: sqlite3.Connection, target: Path) -> None:
    """A copy of what is committed, whole or not at all, while others go on writing. `connection.interrupt()` from another thread stops it.

    Raises:
        sqlite3.Error, OSError: it cannot be written.
        StoreError: another process is writing the same copy.
    """
    if Path(f"{target}-wal").exists():
        raise StoreError(f"{target} is in use as a database; choose another name")
    draft = draft_of(target)
    journal = Path(f"{draft}-journal")
    with _alone(draft) as descriptor:
        journal.unlink(missing_ok=True)
        try:
            connection.execute("VACUUM INTO ?", (str(draft),))
            os.fsync(descriptor)
        except BaseException as error:
            draft.unlink(missing_ok=True)
            journal.unlink(missing_ok=True)  # SQLite leaves it there when the disk is full
            if isinstance(error, sqlite3.Error) and error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_FULL:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target)) from None
            raise
        draft.replace(target)
    _sync_directory(target)


@contextmanager
def _alone(draft: Path) -> Iterator[int]:
    """An empty file, for its owner only, that no other process writes at the same time."""
    descriptor = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.path.samestat(os.fstat(descriptor), draft.stat()):  # the other one has just finished, and this is its copy
                raise FileNotFoundError
        except (BlockingIOError, FileNotFoundError):
            raise StoreError(f"{draft} is being written by another process; wait for it") from None
        os.fchmod(descriptor, 0o600)
        os.ftruncate(descriptor, 0)
        yield descriptor
    finally:
        os.close(descriptor)


def restore(connection: sqlite3.Connection, path: Path) -> Path | None:
    """Puts a copy of what a connection sees in a file's place. It has a new epoch: what clients have kept means nothing there, and they
    are to know it.

    Returns:
        where the file is that was there before; None if there was none.

    Raises:
        StoreError: a process has that file open.
        sqlite3.Error, OSError: it cannot be written; then nothing has changed.
    """
    fresh = fresh_of(path)
    fresh = fresh_of(path)
    locks = Locks(path)
    try:
        with locks.turn(PATIENCE):
            locks.claim()
        copy_to(connection, fresh)
        with closing(sqlite3.connect(fresh, isolation_level=None)) as restored:
            restored.execute("UPDATE store SET epoch = randomblob(16)")
        descriptor = os.open(fresh, os.O_RDWR)
        try:
            like_the_file(descriptor, path)
        finally:
            os.close(descriptor)
        kept = _set_aside(path)
        fresh.replace(path)
        _sync_directory(path)
    finally:
        fresh.unlink(missing_ok=True)
        locks.close()
    return kept


def _set_aside(path: Path) -> Path | None:
    """Gives a file a second name, and takes away from the first what SQLite keeps beside it."""
    kept = path.with_name(f"{path.name}.before-restore-{datetime.now(UTC):%Y%m%d-%H%M%S}")
    there = path.exists()
    if there:
        with suppress(sqlite3.Error), closing(sqlite3.connect(path)) as old:  # a damaged file's log stays beside it
            old.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        os.link(path, kept)
    for side in _SIDES:
        beside = Path(f"{path}{side}")
        if beside.exists():
            beside.rename(f"{kept}{side}")
    return kept if there else None


def _sync_directory(path: Path) -> None:
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
