"""Files with messages in them, and a process that has a store open and writes: `python -m tests.storage.writer FILE USER`.

Strategy: in that process Alice and Bob talk in a conversation of theirs, a message at a time, each after the one before is on the disk.
The user that is named sends, and keeps a receipt of it. Each line of the output is the seq of a message. It ends with its input.
"""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from threading import Timer
from typing import Any

from twisted.internet.defer import ensureDeferred
from twisted.internet.task import deferLater, react
from twisted.internet.threads import deferToThread

from twisted_im.server.interfaces import Append
from twisted_im.storage.sqlite import SqliteStore
from twisted_im.storage.sqlite_file import Database
from twisted_im.storage.sqlite_log import Log
from twisted_im.wire.schema import ContentType, ReceiptType

ALICE, BOB, LAPTOP = b"\0alice", b"\0bob", b"laptop----------"
ROOT = Path(__file__).parent.parent.parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)}
DEADLINE = 60


def filled(path: Path, messages: int = 3, content: bytes = b"hello", *, schema: Path | None = None) -> Path:
    """A new file, with messages from Alice to Bob, a device of his, and its cursor at the newest."""
    database = Database(path, schema=schema)
    with closing(database.connect()) as connection:
        log = Log(connection)
        log.begin()
        connection.executemany("INSERT INTO users (name, account) VALUES (?, 1)", [(ALICE,), (BOB,)])
        log.sessions += 1
        connection.execute(
            "INSERT INTO devices (id, user, device, session, label, last_login, token, token_time, next_token, next_token_time)"
            " VALUES (1, 2, ?, 1, x'', 0, x'', 0, x'', 0)",
            (LAPTOP,),
        )
        for _ in range(messages):
            log.append([(ALICE, LAPTOP, os.urandom(16), 0, BOB, int(ContentType.TEXT), 0, content)], [], 1_800_000_000_000)
        if messages:
            log.append([], [(BOB, LAPTOP, 1, 1, messages, int(ReceiptType.READ))], 1_800_000_000_000)
        log.end()
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    database.close()
    return path


def run(path: Path, script: str) -> None:
    """Changes a file by SQL."""
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(script)


def asked(path: Path, question: str) -> list[Any]:
    """What a file answers, by a connection of SQLite's own."""
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(question).fetchall()


@contextmanager
def child(*words: str, folder: Path | None = None) -> Iterator[subprocess.Popen[str]]:
    """A Python process with pipes at both ends, gone at the end."""
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen([sys.executable, *words], cwd=folder, env=ENVIRONMENT, text=True, **pipes) as process:
        watch = Timer(DEADLINE, process.kill)  # so that whoever waits for a line that never comes meets the end of the output
        watch.start()
        try:
            yield process
        finally:
            watch.cancel()
            process.kill()


@contextmanager
def writing(path: Path, user: str = "alice") -> Iterator[subprocess.Popen[str]]:
    """Another process that has begun to write; ended in good order by `finish`."""
    with child("-m", "tests.storage.writer", str(path), user) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().strip(), process.stderr.read()
        yield process


def finish(process: subprocess.Popen[str]) -> list[str]:
    """Ends the input of a process, and gives the lines that it has not yet been heard to say."""
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdin.close()
    lines = process.stdout.read().splitlines()  # `communicate` would forget what was read beyond the last line
    assert (process.wait(), process.stderr.read()) == (0, "")
    return lines


async def write(reactor: Any, path: str, user: bytes) -> None:
    """Writes until standard input ends."""
    await deferLater(reactor, 0)  # before it runs, a store has no threads
    other = BOB if user == ALICE else ALICE
    store = SqliteStore(path)
    store.open()
    await store.accounts([ALICE, BOB], True)
    session = (await store.open_session(user, LAPTOP, b"", "n")).number
    ended: list[Any] = []
    deferToThread(sys.stdin.read).addBoth(ended.append)
    while not ended:
        entry: Append = (user, LAPTOP, os.urandom(16), 0, other, int(ContentType.TEXT), 0, b"hello")
        stored, _ = await store.append([entry], ())
        conversation, seq = stored[0][:2]
        await store.append((), [(user, LAPTOP, session, conversation, seq, int(ReceiptType.READ))])
        sys.stdout.write(f"{seq}\n")
        sys.stdout.flush()
    await store.close()


if __name__ == "__main__":
    react(lambda reactor: ensureDeferred(write(reactor, sys.argv[1], b"\0" + sys.argv[2].encode())))
