"""Who may do what with a database file just now: two side files, and `flock` on them.

Strategy: SQLite's own locks are not fair to processes that share a file, and do not say whether a process that writes nothing at the moment
still has it open. So whoever writes holds FILE.lock meanwhile, and whoever has the file open shares FILE.open for as long. To put another
file in its place, or to change its layout, one must have FILE.open alone. The kernel lets go of both when a process ends, however it does.

The database file itself is never opened here: closing any descriptor of a file takes away all of SQLite's locks on it in this process
(https://sqlite.org/howtocorrupt.html, section 2.2).
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from twisted_im.server.interfaces import StoreError

#: Seconds that somebody who opens or replaces a file waits for who writes, and between his questions.
PATIENCE = 30.0
ASK = 0.02


class Locks:
    """The side files of one database.

    Args:
        path: the database file; it need not exist.
        clock: seconds, monotonic.

    Raises:
        OSError: the side files can be neither made nor opened.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._turn = self._open = -1
        try:
            self._turn = _side_file(path, ".lock")
            self._open = _side_file(path, ".open")
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        """Lets go of everything. Again: nothing."""
        for descriptor in (self._turn, self._open):
            if descriptor >= 0:
                os.close(descriptor)
        self._turn = self._open = -1

    @contextmanager
    def turn(self, patience: float | None = None) -> Iterator[None]:
        """While this lasts, no other process writes. It waits for whoever has the turn.

        Args:
            patience: seconds to wait at most. Without them it waits in the kernel's own row, which is fair: that is for those who write all
                the time.

        Raises:
            StoreError: another process did not let go for so long.
        """
        if patience is None:
            fcntl.flock(self._turn, fcntl.LOCK_EX)
        else:
            self._turn_within(patience)
        try:
            yield
        finally:
            fcntl.flock(self._turn, fcntl.LOCK_UN)

    def _turn_within(self, patience: float) -> None:
        end = self._clock() + patience
        while True:
            try:
                fcntl.flock(self._turn, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if self._clock() > end:
                    raise StoreError(
                        f"{self._path} has been held by another process for {patience:.0f} s; see who has {self._path.name}.lock open, and "
                        f"whether it is stopped"
                    ) from None
                time.sleep(ASK)

    def share(self) -> None:
        """Says that this process has the file open, until `close`.

        Raises:
            StoreError: another one is replacing it.
        """
        try:
            fcntl.flock(self._open, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StoreError(f"{self._path} is being restored or upgraded by another process; start again when that is done") from None

    def claim(self) -> None:
        """Sees to it that no other process has the file open, until `share` or `close`.

        Raises:
            StoreError: one has, and what was shared is let go.
        """
        try:
            fcntl.flock(self._open, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StoreError(f"{self._path} is in use by another process; stop that server first") from None


def _side_file(path: Path, suffix: str) -> int:
    descriptor = os.open(f"{path}{suffix}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        like_the_file(descriptor, path)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def like_the_file(descriptor: int, path: Path) -> None:
    """When root looks after a server's file, what is made beside it belongs to the server's user: else the server could not open it."""
    if os.geteuid() == 0:
        owner = (path if path.exists() else path.parent).stat()
        os.fchown(descriptor, owner.st_uid, owner.st_gid)
