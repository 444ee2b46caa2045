"""The file that a store keeps its messages in, at its edges: what it is, who else uses it, and what the disk does.

Strategy: the disk's faults are real: a file that may have no more pages, a limit on the size of files, other processes that hold locks.
What must be done as somebody who may not do everything runs in a process that gives up being root. Time is moved by hand.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from statistics import mean
from typing import Any

import pytest
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from tests.storage.contract import ALICE, BOB, Clock, StoreCase, message
from tests.storage.writer import DEADLINE, asked, child, filled, finish, run, writing
from twisted_im.errors import Disconnect, ImError, Status
from twisted_im.server.interfaces import AHEAD, StoreError
from twisted_im.storage import sqlite, sqlite_file
from twisted_im.storage.sqlite import SqliteStore
from twisted_im.storage.sqlite_check import findings
from twisted_im.storage.sqlite_file import SCHEMA, Database, look
from twisted_im.storage.sqlite_lock import Locks


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that another user can reach."""
    with tempfile.TemporaryDirectory(prefix="twisted_im-") as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


#: The layout that the package makes.
NEWEST = max(int(step.stem) for step in SCHEMA.glob("*.sql"))


def refused(path: Path, **how: Any) -> str:
    """Why a file cannot be opened, in one line."""
    with pytest.raises(StoreError) as caught:
        Database(path, **how)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def opened_by_nobody(path: Path) -> str:
    """What a user without rights is told who opens a file."""
    script = """if True:
        import os, sys
        from twisted_im.server.interfaces import StoreError
        from twisted_im.storage.sqlite_file import Database
        if os.geteuid() == 0:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
        try:
            Database(sys.argv[1]).close()
            print("opened")
        except StoreError as error:
            print(error)
    """
    with child("-c", script, str(path)) as process:
        out, err = process.communicate(timeout=DEADLINE)
    assert err == ""
    return out.strip()


def well(path: Path) -> bool:
    """Whether a file passes every check."""
    connection = look(path)
    try:
        return findings(connection, lambda what: None) == []
    finally:
        connection.close()


def steps(folder: Path, *more: str) -> Path:
    """A folder of layouts: the package's own, and these."""
    schema = folder / "schema"
    shutil.copytree(SCHEMA, schema)
    for number, script in enumerate(more, NEWEST + 1):
        (schema / f"{number:04}.sql").write_text(script, encoding="utf-8")
    return schema


# ---- what it is


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (
            lambda path: run(path, "CREATE TABLE notes (text); PRAGMA user_version = 3"),
            "a database of another program; choose another file",
        ),
        (lambda path: run(path, "PRAGMA application_id = 7"), "a database of another program; choose another file"),
        (lambda path: path.write_text("buy milk\n" * 100), "is not a database; choose another file"),
        (lambda path: os.truncate(filled(path, 100, bytes(1000)), 50_000), "is damaged"),
        (lambda path: os.truncate(filled(path, 100, bytes(1000)), 4096), "is damaged"),
        (lambda path: os.truncate(filled(path), 60), "is"),
        (
            lambda path: run(filled(path), "PRAGMA user_version = 999"),
            "has layout 999, made by a newer version; this one knows layouts up to",
        ),
        (lambda path: path.mkdir(), "is a directory"),
    ],
    ids=["foreign", "foreign-and-empty", "text", "cut", "cut-to-a-page", "cut-to-nothing", "newer", "directory"],
)
def test_other_files_are_left_alone(made: Any, said: str, tmp_path: Path) -> None:
    """If this fails, a mistyped name destroys another program's data, or a damaged file is written on."""
    path = tmp_path / "messages.db"
    made(path)
    before = path.read_bytes() if path.is_file() else None
    assert said in refused(path)
    assert str(path) in refused(path)
    assert (path.read_bytes() if path.is_file() else None) == before


def test_no_folder(tmp_path: Path) -> None:
    """If this fails, a mistyped folder ends in a traceback, or messages are kept where nobody looks for them."""
    assert refused(tmp_path / "nowhere" / "messages.db") == f"{tmp_path / 'nowhere'} is not a directory; make it first"


def test_an_empty_file_is_a_new_store(tmp_path: Path) -> None:
    """If this fails, a file made beforehand, as by `install -m 600`, cannot be used; or others may read a new one."""
    (tmp_path / "made").touch()
    Database(tmp_path / "made").close()
    Database(tmp_path / "new ? #%").close()
    assert [well(tmp_path / name) for name in ("made", "new ? #%")] == [True, True]
    assert (tmp_path / "new ? #%").stat().st_mode & 0o077 == 0


def test_without_rights(open_folder: Path) -> None:
    """If this fails, a server that may not write is told so by a traceback, or hours later."""
    path = filled(open_folder / "messages.db")
    path.chmod(0o444)
    for side in open_folder.iterdir():
        if side != path:
            side.chmod(0o666)
    why = "Permission denied; the file and its directory must be writable"
    assert opened_by_nobody(path) == f"{path}: {why}"
    path.chmod(0o600)
    if os.geteuid() == 0:
        os.chown(path, 65534, 65534)
    (open_folder / "messages.db.open").unlink()
    os.chmod(open_folder, 0o555)
    assert opened_by_nobody(path) == f"{path}.open: {why}"
    os.chmod(open_folder, 0o755)


def test_what_root_makes_belongs_to_the_file_s_owner(open_folder: Path) -> None:
    """If this fails, a server cannot start after its administrator has run one command as root."""
    path = filled(open_folder / "messages.db")
    for side in open_folder.iterdir():
        if side != path:
            side.unlink()
    if os.geteuid() == 0:
        os.chown(open_folder, 65534, 65534)
        os.chown(path, 65534, 65534)
    Database(path).close()
    assert len({each.stat().st_uid for each in open_folder.iterdir()}) == 1
    assert opened_by_nobody(path) == "opened"


# ---- its layout


def test_upgrade(tmp_path: Path) -> None:
    """If this fails, a new version loses what an older one has kept, or leaves no way back."""
    path = filled(tmp_path / "messages.db", 5)
    before = asked(path, "SELECT * FROM messages")
    schema = steps(tmp_path, "ALTER TABLE messages ADD COLUMN edited INTEGER NOT NULL DEFAULT 7;", "CREATE TABLE notes (text);")
    Database(path, schema=schema).close()
    assert asked(path, "PRAGMA user_version") == [(NEWEST + 2,)]
    assert asked(path, "SELECT * FROM messages") == [(*row, 7) for row in before]
    backup = tmp_path / f"messages.db.layout{NEWEST}.backup"
    assert asked(backup, "SELECT * FROM messages") == before
    assert backup.stat().st_mode & 0o077 == 0
    assert well(backup)
    assert "made by a newer version" in refused(path)
    backup.unlink()
    Database(path, schema=schema).close()
    assert not backup.exists(), "copied without need"


def test_upgrade_from_the_first_layout(tmp_path: Path) -> None:
    """If this fails, a server of version 1 cannot be brought up to date, ends everybody's sessions when it is, or leaves no way back."""
    first = tmp_path / "first"
    first.mkdir()
    shutil.copy(SCHEMA / "0001.sql", first)
    path = filled(tmp_path / "messages.db", 5, schema=first)
    run(path, "INSERT INTO ended (user, device, session) VALUES (x'00', x'', 1); INSERT INTO leases VALUES ('n', x'00', 'a:1', 5.5)")
    before = asked(path, "SELECT * FROM messages")
    devices = asked(path, "SELECT * FROM devices")
    Database(path).close()
    assert asked(path, "PRAGMA user_version") == [(NEWEST,)]
    assert asked(path, "SELECT * FROM messages") == before
    assert asked(path, "SELECT * FROM devices") == [(*row, "") for row in devices]
    assert asked(path, "SELECT * FROM ended") == [(1, b"\0", b"", 1, Disconnect.KICKED)]
    assert asked(path, "SELECT * FROM leases") == [("n", b"\0", "a:1", 5.5, 0, "")]
    assert well(path)
    backup = tmp_path / "messages.db.layout1.backup"
    assert asked(backup, "SELECT * FROM devices") == devices
    assert asked(backup, "PRAGMA user_version") == [(1,)]


def test_an_upgrade_that_fails_changes_nothing(tmp_path: Path) -> None:
    """If this fails, a faulty upgrade leaves a file that neither version can use."""
    path = filled(tmp_path / "messages.db", 5)
    before = asked(path, "SELECT * FROM messages")
    schema = steps(tmp_path, "CREATE TABLE notes (text);\nDELETE FROM messages;", "CREATE TABLE more (text);\nDELETE FROM nowhere;")
    assert "no such table: nowhere" in refused(path, schema=schema)
    assert asked(path, "SELECT * FROM messages") == before
    assert asked(path, "SELECT count(*) FROM sqlite_schema WHERE name IN ('notes', 'more')") == [(0,)]
    Database(path).close()
    assert well(path)


def test_no_upgrade_under_a_running_server(tmp_path: Path) -> None:
    """If this fails, starting a new version beside an old one pulls the tables away from under it."""
    path = tmp_path / "messages.db"
    schema = steps(tmp_path, "DROP TABLE messages;")
    with writing(path) as process:
        assert "in use by another process; stop that server first" in refused(path, schema=schema)
        assert not (tmp_path / f"messages.db.layout{NEWEST}.backup").exists()
        finish(process)
    assert well(path)
    Database(path, schema=schema).close()


# ---- who else uses it


def test_who_holds_the_file_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If this fails, a server does not start, and does not say why, while another one is frozen in the middle of a commit."""
    path = tmp_path / "messages.db"
    Database(path).close()
    monkeypatch.setattr("twisted_im.storage.sqlite_file.OPENING", 0.1)
    other = Locks(path)
    with closing(other), other.turn():
        assert "messages.db has been held by another process for" in refused(path)
    Database(path).close()


HOLDER = """if True:
    import sqlite3, sys
    connection = sqlite3.connect(sys.argv[1], isolation_level=None)
    for statement in sys.argv[2:]:
        connection.execute(statement).fetchall()
    print("held", flush=True)
    sys.stdin.read()
    connection.close()
"""


def test_a_file_held_by_another_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If this fails, a server that cannot have its file hangs at the start, or ends in a traceback."""
    monkeypatch.setattr(sqlite_file, "PATIENCE", 0.1)
    path = filled(tmp_path / "messages.db")
    with child("-c", HOLDER, str(path), "PRAGMA locking_mode = EXCLUSIVE", "BEGIN IMMEDIATE") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        assert refused(path) == f"{path}: the database is locked by another program"
        finish(process)
    Database(path).close()


def test_a_second_look_takes_no_locks_away(tmp_path: Path) -> None:
    """If this fails, a program that opens its file twice loses what it accepts afterwards: another process that ends takes the log for
    its own, and removes it."""
    path = filled(tmp_path / "messages.db")
    first = Database(path)
    connection = first.connect()
    connection.execute("SELECT * FROM store").fetchall()
    Database(path).close()
    with child("-c", HOLDER, str(path), "SELECT * FROM store") as process:
        assert finish(process) == ["held"]
    assert Path(f"{path}-wal").exists()
    connection.execute("UPDATE store SET position = 999")
    assert asked(path, "SELECT position FROM store") == [(999,)]
    connection.close()
    first.close()


def test_two_processes_take_turns(tmp_path: Path) -> None:
    """If this fails, two nodes on one file give the same seq twice, leave one out, or one of them waits for ever."""
    path = tmp_path / "messages.db"
    words = ["-m", "tests.storage.writer", str(path)]
    with child(*words, "alice") as alice, child(*words, "bob") as bob:  # both make the file
        both: list[list[int]] = [[], []]
        for process, seqs in zip((alice, bob), both, strict=True):
            assert process.stdout is not None
            seqs.append(int(process.stdout.readline() or "0"))
        for _ in range(200):  # a line from each, however much the other has written meanwhile
            for process, seqs in zip((alice, bob), both, strict=True):
                seqs.append(int(process.stdout.readline() or "0"))  # type: ignore[union-attr]
        for process, seqs in zip((alice, bob), both, strict=True):
            seqs += map(int, finish(process))
    assert sorted(both[0] + both[1]) == list(range(1, len(both[0]) + len(both[1]) + 1))
    assert both == [sorted(both[0]), sorted(both[1])]
    assert all(len(seqs) > 200 for seqs in both), "one was refused"
    together = range(max(both[0][0], both[1][0]), min(both[0][-1], both[1][-1]))
    for seqs in both:
        gaps = sorted(later - seq for seq, later in pairwise(seq for seq in seqs if seq in together))
        assert mean(gaps[:-3]) < 6, gaps  # a machine that is busy may stop a process now and then, and the other goes on
    assert well(path)


# ---- time and the disk


class FileCase(StoreCase):
    """A store on a file of its own, with a clock that is moved by hand."""

    timeout = 180
    retention = 0.0

    def make_store(self) -> Any:
        self.patch(sqlite_file, "PATIENCE", 0.1)
        directory = tempfile.TemporaryDirectory(prefix="twisted_im-")
        self.addCleanup(directory.cleanup)
        self.path = Path(directory.name) / "messages.db"
        return SqliteStore(self.path, horizon=60, retention=self.retention, clock=self.clock)


class TestFile(FileCase, TestCase):
    """A store that keeps everything."""

    async def unavailable(self, *messages: Any) -> str:
        """Why a batch fails, of which nothing is kept, and which may be tried again."""
        error = await self.assertFailure(self.store.append(messages, ()), ImError)
        assert (error.code, error.temporary) == (Status.UNAVAILABLE, True)
        return str(error.reason)

    async def test_a_full_disk(self) -> None:
        """If this fails, a message is accepted and lost when the disk is full; or a server has to be started again when there is room."""
        conversation = await self.talk(3)
        writer = self.store._writer
        (pages,) = writer.execute("PRAGMA page_count").fetchone()
        writer.execute(f"PRAGMA max_page_count = {pages}").fetchall()
        large = message(ALICE, BOB, bytes(60_000))
        for _ in range(2):
            assert await self.unavailable(message(ALICE, BOB), large) == "the disk is full"
            assert (await self.range(BOB, conversation))[4] == [1, 2, 3]
        writer.execute("PRAGMA max_page_count = 1000000").fetchall()
        assert [answer[1::3] for answer in await self.append(large, message(BOB, ALICE))] == [(4, False), (5, False)]
        assert (await self.range(BOB, conversation))[4] == [1, 2, 3, 4, 5]
        assert await deferToThread(well, self.path)

    async def test_locked_meanwhile(self) -> None:
        """If this fails, a program that holds the file for a while costs messages, or the store."""
        await self.talk(3)
        with child("-c", HOLDER, str(self.path), "BEGIN EXCLUSIVE") as process:
            assert process.stdout is not None
            assert await deferToThread(process.stdout.readline) == "held\n"
            entry = message(ALICE, BOB)
            assert await self.unavailable(entry) == "the database is locked by another program"
            await deferToThread(finish, process)
        assert [answer[1::3] for answer in await self.append(entry)] == [(4, False)]

    async def test_a_clock_set_back(self) -> None:
        """If this fails, setting the clock back gives a seq twice, hides messages from a sync, or stores a repeated one again."""
        entry = message(ALICE, BOB)
        first = (await self.append(entry))[0]
        conversation = first[0]
        position, rows = await self.store.read_since(0, 100)
        self.clock.now -= 3600
        assert [answer[1::3] for answer in await self.append(message(ALICE, BOB), entry)] == [(2, False), (1, True)]
        later, more = await self.store.read_since(position, 100)
        assert (later > position, [row.seq for row in more]) == (True, [2])
        assert more[0].position > rows[0].position
        assert more[0].time == rows[0].time - 3_600_000
        assert list(await self.overviews(BOB, since=position)) == [conversation]
        session = (await self.store.open_session(BOB, bytes(16), b"", "n")).number
        self.clock.now -= 3600
        assert (await self.store.open_session(BOB, bytes(16), b"", "n")).number > session
        assert await deferToThread(well, self.path)

    async def test_without_a_retention_everything_stays(self) -> None:
        """If this fails, a server loses old messages that nobody has told it to forget."""
        conversation = await self.talk(2)
        self.clock.now += 10 * 365 * 86400
        assert not await self.store.keep_house()
        assert (await self.range(BOB, conversation))[3:] == (0, [1, 2])


class TestRetention(FileCase, TestCase):
    """A store that is told to let go of its messages after a second, and may not before their client ids are too old."""

    retention = 1.0

    async def test_old_messages_go(self) -> None:
        """If this fails, messages are kept for longer than a law or a disk allows, or are gone too early; clients wait for rows that are
        gone; or a message that is sent again is stored twice."""
        self.patch(sqlite, "SHARE", 3)
        entry = message(ALICE, BOB)
        conversation = (await self.append(entry))[0][0]
        await self.talk(3)
        group = await self.store.create_group(b"all", [ALICE, BOB])
        await self.talk(1, group)
        self.clock.now += 60 + AHEAD
        assert not await self.store.keep_house()
        assert (await self.range(BOB, conversation))[3] == 0, "gone before the horizon"
        assert (await self.append(entry))[0][4], "a repeat is not known"
        await self.talk(2)
        self.clock.now += 1
        assert [await self.store.keep_house() for _ in range(3)] == [True, False, False]
        assert await self.range(BOB, conversation) == (1, 6, 6, 4, [5, 6])
        assert await self.range(BOB, group) == (1, 1, 1, 1, [])
        assert {number: seen.floor for number, seen in (await self.overviews(BOB)).items()} == {conversation: 4, group: 1}
        assert [row.seq for row in (await self.store.read_since(0, 100))[1]] == [5, 6]
        assert [answer[1] for answer in await self.append(message(ALICE, BOB), message(ALICE, group))] == [7, 2]
        self.clock.now -= 7200
        assert not await self.store.keep_house()
        assert await deferToThread(well, self.path)
        reader = SqliteStore(self.path, clock=Clock())
        reader.open()
        assert (await reader.read(BOB, conversation, 1, 9, 9, False)).floor == 4
        await reader.close()


FAILING = """if True:
    import resource, sys
    from pathlib import Path
    from twisted.internet.defer import ensureDeferred
    from twisted.internet.task import react
    from tests.storage.contract import ALICE, BOB, message
    from twisted_im.storage.sqlite import SqliteStore

    async def main(reactor):
        path = Path(sys.argv[1])
        store = SqliteStore(path)
        store.open()
        await store.accounts([ALICE, BOB], True)
        for _ in range(3):
            await store.append([message(ALICE, BOB)], ())
        size = Path(f"{path}-wal").stat().st_size
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, limits[1]))
        calls = [lambda: store.append([message(ALICE, BOB, bytes(60_000))], ()) for _ in range(2)]
        for call in [*calls, lambda: store.read(BOB, 1, 1, 9, 9, False), store.close]:
            try:
                print(await call())
            except Exception as error:
                print(type(error).__name__, error)
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    react(lambda reactor: ensureDeferred(main(reactor)))
"""


def test_a_disk_that_fails(tmp_path: Path) -> None:
    """If this fails, a server goes on after its disk has failed, and accepts what may not be there after the next start."""
    path = tmp_path / "messages.db"
    with child("-c", FAILING, str(path)) as process:
        out, err = process.communicate(timeout=DEADLINE)
    said = f"StoreError {path}: the disk failed (disk I/O error); check the disk, then start again\n"
    assert (out, err) == (said * 3 + "None\n", "")
    Database(path).close()
    assert asked(path, "SELECT seq FROM messages") == [(1,), (2,), (3,)]
    assert well(path)
