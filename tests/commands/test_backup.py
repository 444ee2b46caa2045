"""`backup`: a copy that is whole, whatever happens meanwhile."""

from __future__ import annotations

import io
import os
import signal
import sqlite3
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.storage.writer import asked, filled, finish, run, writing
from twisted_im.__main__ import main
from twisted_im.commands import backup, keeping
from twisted_im.storage.sqlite_copy import draft_of
from twisted_im.storage.sqlite_file import look


def test_while_a_server_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """If this fails, a copy of a running server's file lacks what was accepted before it, or stops the server."""
    path = tmp_path / "messages.db"
    with writing(path) as process:
        for number in range(3):
            assert process.stdout is not None
            accepted = int(process.stdout.readline())
            assert main(["backup", str(path), str(tmp_path / f"{number}.db")]) == 0
            assert accepted <= asked(tmp_path / f"{number}.db", "SELECT max(seq) FROM messages")[0][0]
            assert main(["check", str(tmp_path / f"{number}.db")]) == 0
        finish(process)
    out, err = capsys.readouterr()
    assert "0.db: " in out
    assert " in 1 conversation, the newest of 20" in out
    assert err == ""
    assert not list(tmp_path.glob("*.new"))


def test_targets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """If this fails, a cron job's copies overwrite each other, or a slip of the hand overwrites the file itself."""
    path = filled(tmp_path / "messages.db")
    (tmp_path / "backups").mkdir()
    assert main(["backup", str(path), str(tmp_path / "backups")]) == 0
    (made,) = (tmp_path / "backups").iterdir()
    assert made.match("messages-20[0-9][0-9][0-9][0-9][0-9][0-9]-[0-9][0-9][0-9][0-9][0-9][0-9].db")
    assert made.stat().st_mode & 0o077 == 0
    assert capsys.readouterr().out.startswith(f"{made}: 3 messages in 1 conversation, the newest of 2027-01-15 08:00:00 UTC; ")
    old = made.read_bytes()
    run(path, "UPDATE users SET disabled = 1")
    assert main(["backup", str(path), str(made)]) == 1
    assert made.read_bytes() == old
    assert main(["backup", str(path), str(made), "--force"]) == 0
    assert asked(made, "SELECT DISTINCT disabled FROM users") == [(1,)]
    assert main(["backup", str(path), str(path), "--force"]) == 1
    err = capsys.readouterr().err.splitlines()
    assert [line.partition(": ")[2] for line in err] == [
        f"{made} exists; name another target, or replace it with --force",
        f"{path} is the file itself; name another target",
    ]


@pytest.mark.parametrize(
    ("made", "target", "said"),
    [
        (lambda path: None, "copy.db", "does not exist"),
        (lambda path: path.write_text("buy milk\n" * 100), "copy.db", "is not a database"),
        (lambda path: path.touch(), "copy.db", "is empty; there is nothing to copy"),
        (lambda path: path.mkdir(), "copy.db", "is not a file"),
        (lambda path: run(path, "CREATE TABLE notes (text)"), "copy.db", "of another program"),
        (lambda path: run(filled(path), "PRAGMA user_version = 999"), "copy.db", "made by a newer version"),
        (filled, "nowhere/copy.db", "No such file or directory"),
    ],
    ids=["absent", "text", "empty", "folder", "foreign", "newer", "target"],
)
def test_mistakes(made: Any, target: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """If this fails, a mistake is answered by a traceback, or by a copy of nothing."""
    made(tmp_path / "messages.db")
    assert main(["backup", str(tmp_path / "messages.db"), str(tmp_path / target)]) == 1
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1
    assert not (tmp_path / "copy.db").exists()


def slow(action: Any) -> Any:
    """Opens a file for a copy that takes its time, and does something once that has begun."""
    end = time.monotonic() + 20

    def opened(path: Path) -> sqlite3.Connection:
        connection = look(path)
        done: list[Any] = []

        def step() -> int:
            time.sleep(0.001 if time.monotonic() < end else 0)
            if not done and list(path.parent.glob("*.new")):
                done.append(action())
            return 0

        connection.set_progress_handler(step, 1)
        return connection

    return opened


def test_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """If this fails, Ctrl-C leaves half a copy behind, is not heard, or ends in a traceback; or the next backup stumbles over the rest."""
    path, target = filled(tmp_path / "messages.db", 5000), tmp_path / "copy.db"
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a reactor in another test has had its own
    try:
        with monkeypatch.context() as patched:
            patched.setattr(backup, "look", slow(lambda: os.kill(os.getpid(), signal.SIGINT)))
            assert main(["backup", str(path), str(target)]) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["messages.db", "messages.db.lock", "messages.db.open"]
    assert capsys.readouterr() == ("", "")
    draft_of(target).write_text("what a power cut has left")
    (tmp_path / "copy.db.new-journal").write_text("this too")
    assert main(["backup", str(path), str(target)]) == 0
    assert not list(tmp_path.glob("*.new*"))
    assert main(["check", str(target)]) == 0


def test_two_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """If this fails, two cron jobs that meet write one copy between them, and neither is whole."""
    path, target = filled(tmp_path / "messages.db", 20), tmp_path / "copy.db"
    statuses = []
    with monkeypatch.context() as patched:

        def second() -> None:
            patched.setattr(backup, "look", look)
            statuses.append(main(["backup", str(path), str(target)]))

        patched.setattr(backup, "look", slow(second))
        assert main(["backup", str(path), str(target)]) == 0
    assert statuses == [1]
    assert capsys.readouterr().err == f"backup: {target}.new is being written by another process; wait for it\n"
    assert main(["check", str(target)]) == 0


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If this fails, whoever copies a large file does not know whether anything happens."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(keeping, "GLANCE", 0.001)
    monkeypatch.setattr(backup, "look", slow(lambda: None))
    assert main(["backup", str(filled(tmp_path / "messages.db", 30, bytes(10_000))), str(tmp_path / "copy.db")]) == 0
    assert " of about 0.4 MB\x1b[K\r" in terminal.getvalue()
    assert terminal.getvalue().endswith("\r\x1b[K")
