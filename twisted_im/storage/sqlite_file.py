"""A database file: opened, checked, brought up to date, and what its errors mean.

Strategy: everything that is about the file and not about messages. A file says whose it is (`application_id`) and how old its layout is
(`user_version`, the number of the last file of `schema/` that was applied), so that a foreign or a newer one is refused in one line. Each
connection runs in WAL mode with `synchronous=FULL`: in WAL mode anything less may roll back commits after a power cut.

Several processes may use one file, and take turns (`sqlite_lock`). The file is upgraded only while nobody else has it open.
"""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, suppress
from pathlib import Path

from twisted_im.errors import ImError, Status
from twisted_im.server.interfaces import StoreError
from twisted_im.storage.sqlite_copy import copy_to
from twisted_im.storage.sqlite_lock import PATIENCE as OPENING
from twisted_im.storage.sqlite_lock import Locks

#: What SQLite's header says of a file of ours: "tim1".
APPLICATION_ID = int.from_bytes(b"tim1", "big")
SCHEMA = Path(__file__).with_name("schema")
#: Seconds that another program may hold the file before a call fails.
PATIENCE = 5.0

_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
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


def in_words(error: BaseException, path: os.PathLike[str] | str) -> str:
    """One line for whoever wanted to use a file."""
    if isinstance(error, OSError):
        return f"{error.filename2 or error.filename or path}: {error.strerror}"
    why = explained(error, path) if isinstance(error, sqlite3.Error) else error
    return f"{path}: {why.reason}" if isinstance(why, ImError) else str(why)


class Layouts:
    """The steps that make a file's layout what this program knows.

    Args:
        directory: numbered `.sql` files; the package's own if None.
    """

    def __init__(self, directory: Path | None = None) -> None:
        self._steps = {int(step.stem): step for step in sorted((directory or SCHEMA).glob("*.sql"))}

    @property
    def newest(self) -> int:
        """The layout that this program makes."""
        return max(self._steps)

    def of(self, connection: sqlite3.Connection, path: Path) -> int:
        """The layout that a file has; 0 for an empty one.

        Raises:
            StoreError: it is another program's, or newer than this one.
        """
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        if application != APPLICATION_ID and (application or version or tables):
            raise StoreError(f"{path} is a database of another program; choose another file")
        if version > self.newest:
            raise StoreError(
                f"{path} has layout {version}, made by a newer version; this one knows layouts up to {self.newest}: "
                "upgrade the program, or restore an older backup"
            )
        return int(version)

    def after(self, version: int) -> list[Path]:
        """The steps that are still to be taken."""
        return [self._steps[number] for number in sorted(self._steps) if number > version]

    def backup_of(self, path: Path, version: int) -> Path:
        """Where a file is copied to before it is upgraded."""
        return path.with_name(f"{path.name}.layout{version}.backup")


class Database:
    """One file on one machine, for as long as a process uses it.

    Args:
        path: the file; made if it does not exist, in a directory that does.
        schema: the directory of numbered `.sql` files; the package's own if None.

    Raises:
        StoreError: the file is foreign, newer than this program, damaged, locked, being restored, or cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str], *, schema: Path | None = None) -> None:
        self.path = Path(path)
        self.layouts = Layouts(schema)
        self._locks: Locks | None = None
        if not self.path.parent.is_dir():
            raise StoreError(f"{self.path.parent} is not a directory; make it first")
        try:
            self._make()
            self._locks = Locks(self.path)
            with self._locks.turn(OPENING):
                self._locks.share()
                self._prepare(self._locks)
        except BaseException as error:
            self.close()
            if isinstance(error, OSError):
                hint = "; the file and its directory must be writable" if error.errno in _FORBIDDEN else ""
                raise StoreError(in_words(error, self.path) + hint) from error
            if isinstance(error, sqlite3.Error):
                raise StoreError(in_words(error, self.path)) from error
            raise

    def close(self) -> None:
        """Says that this process does not use the file any more. Again: nothing."""
        if self._locks is not None:
            self._locks.close()

    def connect(self) -> sqlite3.Connection:
        """A connection of its own, for any one thread at a time; transactions are begun and ended by hand."""
        connection = sqlite3.connect(self.path, timeout=PATIENCE, isolation_level=None, check_same_thread=False, cached_statements=512)
        for pragma in (
            "journal_mode=WAL",
            "synchronous=FULL",
            "wal_autocheckpoint=0",  # not within a commit: the store's reader does it
            "foreign_keys=OFF",
            "trusted_schema=OFF",
            "cell_size_check=ON",
            "cache_size=-65536",
            "temp_store=MEMORY",
        ):
            connection.execute(f"PRAGMA {pragma}").fetchall()
        return connection

    def alone(self) -> AbstractContextManager[None]:
        """While this lasts, no other process writes."""
        assert self._locks is not None
        return self._locks.turn()

    def _make(self) -> None:
        """Makes the file, for its owner only, if there is none."""
        if self.path.is_dir():
            raise StoreError(f"{self.path} is a directory; name a file in it")
        if not self.path.exists():
            with suppress(FileExistsError):  # another process was faster
                os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        elif not os.access(self.path, os.R_OK | os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self.path))

    def _prepare(self, locks: Locks) -> None:
        """Sees whose file it is, and brings it up to date."""
        with closing(sqlite3.connect(self.path, timeout=PATIENCE)) as connection:
            version = self.layouts.of(connection, self.path)
        with closing(self.connect()) as connection:
            # what a crash has left behind is in the file before anything is accepted
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            if self.layouts.after(version):
                locks.claim()
                if version:
                    copy_to(connection, self.layouts.backup_of(self.path, version))
                self._upgrade(connection, version)
                locks.share()

    def _upgrade(self, connection: sqlite3.Connection, version: int) -> None:
        """Takes all steps, or none."""
        connection.execute("BEGIN IMMEDIATE")
        try:
            for step in self.layouts.after(version):
                for statement in _statements(step.read_text(encoding="utf-8")):
                    connection.execute(statement)
            connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version={self.layouts.newest}")
            connection.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
            raise


def look(path: Path) -> sqlite3.Connection:
    """A connection for reading and copying, for any one thread at a time: to a file that a server uses, to one that nobody may write, and
    to one whose layout is not to be changed.

    Raises:
        StoreError: there is no such file, it cannot be read, or is no database.
    """
    if not path.is_file():
        raise StoreError(f"{path} is not a file" if path.exists() else f"{path} does not exist")
    if not os.access(path, os.R_OK):
        raise StoreError(f"{path}: {os.strerror(errno.EACCES)}")
    if os.access(path, os.W_OK) and os.access(path.parent, os.W_OK):
        ways = ["mode=rw"]
    else:  # where no log can be made beside it, and none is, nobody writes it
        log = Path(f"{path}-wal")
        ways = ["mode=ro"] if log.exists() and log.stat().st_size else ["mode=ro", "immutable=1"]
    why = ""
    for how in ways:
        uri = f"{path.absolute().as_uri()}?{how}"
        connection = sqlite3.connect(uri, uri=True, timeout=PATIENCE, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("SELECT 1 FROM sqlite_schema").fetchall()
        except sqlite3.Error as error:
            connection.close()
            why = in_words(error, path)
        else:
            return connection
    raise StoreError(why)


def _statements(script: str) -> Iterator[str]:
    """A script's statements, one by one: `executescript` would end the transaction."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
