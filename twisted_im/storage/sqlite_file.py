"""A database file: opened, checked, brought up to date, and what its errors mean.

Strategy: everything that is about the file and not about messages. A file says whose it is (`application_id`) and how old its layout is
(`user_version`, the number of the last file of `schema/` that was applied), so that a foreign or a newer one is refused in one line. Each
connection runs in WAL mode with `synchronous=FULL`: in WAL mode anything less may roll back commits after a power cut.

Several processes may use one file. SQLite's own locks are not fair to them, so whoever writes holds `flock` on a side file meanwhile.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from twisted_im.errors import ImError, Status
from twisted_im.server.interfaces import StoreError

#: What SQLite's header says of a file of ours: "tim1".
APPLICATION_ID = int.from_bytes(b"tim1", "big")
SCHEMA = Path(__file__).with_name("schema")
#: Seconds that another program may hold the file before a call fails.
PATIENCE = 5.0

_TEMPORARY = {
    sqlite3.SQLITE_BUSY: "the database is locked by another program",
    sqlite3.SQLITE_LOCKED: "the database is locked",
    sqlite3.SQLITE_FULL: "the disk is full",
    sqlite3.SQLITE_NOMEM: "out of memory",
    sqlite3.SQLITE_INTERRUPT: "interrupted",
}


def explained(error: sqlite3.Error, path: os.PathLike[str] | str) -> Exception:
    """What an error of SQLite's means: an `ImError` UNAVAILABLE if the same call may succeed later and nothing was kept; else a
    `StoreError`, after which nothing can be trusted any more."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in _TEMPORARY:
        return ImError(Status.UNAVAILABLE, _TEMPORARY[code], retry_after=1000)
    if code == sqlite3.SQLITE_NOTADB:
        return StoreError(f"{path} is not a database; choose another file, or restore a backup")
    if code == sqlite3.SQLITE_CORRUPT:
        return StoreError(f"{path} is damaged ({error}); restore a backup")
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
        return StoreError(f"{path} cannot be written ({error}); its directory must be writable too")
    if code == sqlite3.SQLITE_IOERR:
        return StoreError(f"{path}: the disk failed ({error}); check the disk, then start again")
    return StoreError(f"{path}: {error}")


class Database:
    """One file on one machine.

    Args:
        path: the file; made if it does not exist, in a directory that does.
        schema: the directory of numbered `.sql` files.

    Raises:
        StoreError: the file is foreign, newer than this program, damaged, locked, or cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str], *, schema: Path = SCHEMA) -> None:
        self.path = Path(path)
        self._steps = {int(step.stem): step for step in sorted(schema.glob("*.sql"))}
        self._lock = -1
        if not self.path.parent.is_dir():
            raise StoreError(f"{self.path.parent} is not a directory; make it first")
        try:
            self._lock = os.open(f"{self.path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            with self.alone():
                self._prepare()
        except OSError as error:
            self.close()
            raise StoreError(f"{error.filename or self.path}: {error.strerror}; the file and its directory must be writable") from None
        except sqlite3.Error as error:
            self.close()
            why = explained(error, self.path)
            raise StoreError(f"{self.path}: {why.reason}" if isinstance(why, ImError) else str(why)) from error
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Lets the side file go."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def connect(self) -> sqlite3.Connection:
        """A connection of its own, for any one thread at a time; transactions are begun and ended by hand."""
        connection = sqlite3.connect(self.path, timeout=PATIENCE, isolation_level=None, check_same_thread=False, cached_statements=512)
        for pragma in (
            "journal_mode=WAL",
            "synchronous=FULL",
            "wal_autocheckpoint=0",  # not within a commit: see `checkpoint`
            "foreign_keys=OFF",
            "trusted_schema=OFF",
            "cell_size_check=ON",
            "cache_size=-65536",
            "temp_store=MEMORY",
        ):
            connection.execute(f"PRAGMA {pragma}").fetchall()
        return connection

    @contextmanager
    def alone(self) -> Iterator[None]:
        """While this lasts, no other process writes; they take turns in the order in which they came."""
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._lock, fcntl.LOCK_UN)

    @property
    def newest(self) -> int:
        """The layout that this program makes."""
        return max(self._steps)

    def _prepare(self) -> None:
        """Sees whose file it is, and brings it up to date."""
        kept = self.path.stat().st_size
        connection = sqlite3.connect(self.path, timeout=PATIENCE, isolation_level=None)
        try:
            version = self._version(connection)
            self._look_for_truncation(connection, kept)
            connection.close()
            connection = self.connect()
            # what a crash has left behind is in the file before anything is accepted
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            if version < self.newest:
                if version:
                    self._back_up(connection, version)
                self._upgrade(connection, version)
        finally:
            connection.close()

    def _version(self, connection: sqlite3.Connection) -> int:
        """The layout that the file has; 0 for an empty one."""
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        if application != APPLICATION_ID and (application or version or tables):
            raise StoreError(f"{self.path} is a database of another program; choose another file")
        if version > self.newest:
            raise StoreError(
                f"{self.path} has layout {version}, made by a newer version; this one knows layouts up to {self.newest}: "
                "upgrade the program, or restore an older backup"
            )
        return int(version)

    def _look_for_truncation(self, connection: sqlite3.Connection, size: int) -> None:
        """Compares the file with the number of pages in its header, unless newer pages are in the log."""
        log = Path(f"{self.path}-wal")
        if size < 100 or (log.exists() and log.stat().st_size):
            return
        with open(self.path, "rb") as file:
            pages = int.from_bytes(file.read(32)[28:], "big")
        (page_size,) = connection.execute("PRAGMA page_size").fetchone()
        if pages * page_size > size:
            raise StoreError(f"{self.path} is cut short: {size} bytes, where {pages * page_size} should be; restore a backup")

    def pending(self) -> list[int]:
        """The steps that an upgrade would take; nothing is changed."""
        connection = sqlite3.connect(f"file:{self.path}?mode=ro", uri=True)
        try:
            version = self._version(connection)
        finally:
            connection.close()
        return [number for number in self._steps if number > version]

    def _back_up(self, connection: sqlite3.Connection, version: int) -> None:
        copy_to(connection, Path(f"{self.path}.layout{version}.backup"))

    def _upgrade(self, connection: sqlite3.Connection, version: int) -> None:
        for number in sorted(self._steps):
            if number > version:
                connection.execute("BEGIN IMMEDIATE")
                try:
                    for statement in _statements(self._steps[number].read_text(encoding="utf-8")):
                        connection.execute(statement)
                    connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
                    connection.execute(f"PRAGMA user_version={number}")
                    connection.execute("COMMIT")
                except BaseException:
                    with suppress(sqlite3.Error):
                        connection.execute("ROLLBACK")
                    raise


def copy_to(connection: sqlite3.Connection, target: Path) -> None:
    """A copy of what is committed, whole or not at all, while others go on writing.

    Raises:
        sqlite3.Error, OSError: it cannot be written.
    """
    draft = target.with_name(target.name + ".new")
    draft.unlink(missing_ok=True)
    try:
        connection.execute("VACUUM INTO ?", (str(draft),))
        descriptor = os.open(draft, os.O_RDWR)
        try:
            os.fchmod(descriptor, 0o600)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        draft.replace(target)
        directory = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    finally:
        draft.unlink(missing_ok=True)


def _statements(script: str) -> Iterator[str]:
    """A script's statements, one by one: `executescript` would end the transaction."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
