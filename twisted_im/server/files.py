"""A file that an operator may change while the server runs."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from twisted.logger import Logger

log = Logger()
T = TypeVar("T")


class WatchedFile(Generic[T]):
    """What a file holds, read again when it has changed.

    Args:
        path: the file.
        read: reads it; raises a `ValueError` that says what is wrong with it, or an `OSError`.
        absent: what counts where there is no file.
        what: what the file holds, for the log line that says that it still counts as it was before.
    """

    def __init__(self, path: str | os.PathLike[str], read: Callable[[Path], T], absent: T, *, what: str) -> None:
        self._path = Path(path)
        self._read = read
        self._absent = self._held = absent
        self._what = what
        self._stamp: tuple[int, ...] | None = None

    def held(self) -> T:
        """What it holds now; or held last, if it cannot be read."""
        try:
            stat = self._path.stat()
            stamp = stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size, stat.st_ino  # a copy may bring its old time along, a chmod leaves it
            if self._stamp != stamp:
                self._stamp = stamp  # first, so that a bad file is told once
                self._held = self._read(self._path)
        except FileNotFoundError:
            self._stamp, self._held = None, self._absent
        except (OSError, ValueError) as error:
            told = "{path} cannot be read, and the {what} that it held before still count: {error}"
            log.error(told, path=str(self._path), what=self._what, error=str(error))
        return self._held
