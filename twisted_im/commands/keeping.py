"""What the commands for a file of messages share: long work that can be watched and stopped, and mistakes said in one line.

Strategy: SQLite does the work in a thread, so that the main one can show how far it is and hear Ctrl-C, which then interrupts SQLite
itself.
"""

from __future__ import annotations

import argparse
import sqlite3
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from datetime import UTC, datetime
from functools import wraps
from pathlib import Path
from typing import TypeVar

from twisted_im.errors import ImError
from twisted_im.server.interfaces import StoreError
from twisted_im.storage.sqlite_copy import Contents
from twisted_im.storage.sqlite_file import in_words

T = TypeVar("T")

#: Seconds between two looks at how far the work is.
GLANCE = 0.2


def one_line(run: Callable[[argparse.Namespace], int]) -> Callable[[argparse.Namespace], int]:
    """Has a command say what went wrong in one line, with a status of 1."""

    @wraps(run)
    def ran(arguments: argparse.Namespace) -> int:
        try:
            return run(arguments)
        except (StoreError, ImError, OSError, sqlite3.Error) as error:
            print(f"{arguments.command}: {in_words(error, arguments.file)}", file=sys.stderr)
            return 1

    return ran


def watched(work: Callable[[], T], connection: sqlite3.Connection, how_far: Callable[[], str]) -> T:
    """Does long work on a connection, in a thread; a terminal shows how far it is. Ctrl-C stops it, and what it has begun is undone.

    Raises:
        KeyboardInterrupt: it was stopped.
    """
    terminal = sys.stderr.isatty()
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(work)
        try:
            while not wait([future], GLANCE).done:
                if terminal:
                    print(f"\r{how_far()}\x1b[K", end="", file=sys.stderr, flush=True)
        except KeyboardInterrupt:
            while not future.done():
                with suppress(KeyboardInterrupt):  # an impatient second one changes nothing
                    connection.interrupt()
                    wait([future], GLANCE)
            raise
        finally:
            if terminal:
                print("\r\x1b[K", end="", file=sys.stderr, flush=True)
        return future.result()


def megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"


def described(held: Contents) -> str:
    """What a file holds, in words."""
    words = f"{_counted(held.messages, 'message')} in {_counted(held.conversations, 'conversation')}"
    if held.newest is None:
        return words
    return f"{words}, the newest of {datetime.fromtimestamp(held.newest / 1000, UTC):%Y-%m-%d %H:%M:%S} UTC"


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def written(path: Path) -> int:
    """Bytes of a file so far."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
