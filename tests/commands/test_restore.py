"""`restore`: a backup in the place of a file, and nothing lost on the way."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest

from tests.storage.writer import DEADLINE, asked, child, filled, finish, run, writing
from twisted_im.__main__ import main


def command(*words: Any) -> int:
    return main([str(word) for word in words])


def test_restore(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """If this fails, a backup cannot be put back; or clients do not notice it, and hide new messages that have old numbers; or what was
    there is gone."""
    path, copy = filled(tmp_path / "messages.db", 3), tmp_path / "copy.db"
    assert command("backup", path, copy) == 0
    epoch = asked(path, "SELECT epoch FROM store")
    with writing(path) as process:
        finish(process)
    later = asked(path, "SELECT * FROM messages")
    before = copy.read_bytes()
    capsys.readouterr()
    assert command("restore", copy, path) == 0
    out = capsys.readouterr().out
    kept = Path(re.search(r"What was there before is in (.*)", out)[1])  # type: ignore[index]  # else this fails as well
    assert out.startswith(f"{path}: 3 messages in 1 conversation")
    assert asked(kept, "SELECT * FROM messages") == later
    assert asked(kept, "SELECT epoch FROM store") == epoch
    assert asked(path, "SELECT seq FROM messages") == [(1,), (2,), (3,)]
    assert asked(path, "SELECT epoch FROM store") != epoch
    assert path.stat().st_mode & 0o077 == 0
    assert copy.read_bytes() == before
    assert command("check", path) == 0
    with writing(path) as process:
        finish(process)
    assert command("check", path) == 0
    names = {"messages.db", "messages.db.lock", "messages.db.open", "copy.db", kept.name}
    assert {each.name for each in tmp_path.iterdir()} == names


def test_into_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """If this fails, a machine that has lost its file cannot have the backup; or a log that was left alone is written into it."""
    copy, path = filled(tmp_path / "copy.db"), tmp_path / "messages.db"
    Path(f"{path}-wal").write_bytes(b"of another file")
    assert command("restore", copy, path) == 0
    assert not Path(f"{path}-wal").exists()
    assert command("check", path) == 0
    assert "before" not in capsys.readouterr().out


def test_after_a_crash(tmp_path: Path) -> None:
    """If this fails, what a server that was killed had accepted is not in what is kept of its file, or gets into the restored one."""
    copy, path = filled(tmp_path / "copy.db"), tmp_path / "messages.db"
    with writing(path) as process:
        assert process.stdout is not None
        accepted = [int(process.stdout.readline()) for _ in range(50)]
        process.kill()
        process.wait()
        assert Path(f"{path}-wal").stat().st_size
        assert command("restore", copy, path) == 0
    (kept,) = tmp_path.glob("*before-restore*")
    assert asked(kept, "SELECT count(*) FROM messages")[0][0] >= accepted[-1]
    assert asked(path, "SELECT seq FROM messages") == [(1,), (2,), (3,)]
    assert command("check", path) == 0


def test_a_damaged_file_is_kept_too(tmp_path: Path) -> None:
    """If this fails, a file that is damaged can be replaced by nothing; or what might be saved of it is gone."""
    copy, path = filled(tmp_path / "copy.db"), filled(tmp_path / "messages.db", 100, bytes(1000))
    os.truncate(path, 50_000)
    Path(f"{path}-wal").write_bytes(b"its log")
    damaged = path.read_bytes()
    assert command("restore", copy, path) == 0
    (kept,) = tmp_path.glob("*before-restore*[0-9]")
    assert kept.read_bytes() == damaged
    assert command("check", path) == 0


def test_not_under_a_running_server(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """If this fails, a server goes on with a file that has no name any more, and all that it accepts is lost."""
    copy, path = filled(tmp_path / "copy.db"), tmp_path / "messages.db"
    with writing(path) as process:
        epoch = asked(path, "SELECT epoch FROM store")
        assert command("restore", copy, path) == 1
        finish(process)
    assert capsys.readouterr().err == f"restore: {path} is in use by another process; stop that server first\n"
    assert not list(tmp_path.glob("*before-restore*")) + list(tmp_path.glob("*.restored*"))
    assert asked(path, "SELECT epoch FROM store") == epoch
    assert command("check", path) == 0
    assert command("restore", copy, path) == 0


def damaged(path: Path) -> None:
    filled(path, 200, bytes(3000))
    with open(path, "r+b") as file:
        file.seek(path.stat().st_size // 4096 // 2 * 4096)
        file.write(b"\xff" * 4096)


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda copy: None, "copy.db does not exist"),
        (lambda copy: copy.write_text("buy milk\n" * 100), "copy.db is not a database"),
        (lambda copy: copy.touch(), "copy.db is empty; choose another backup"),
        (damaged, "copy.db is damaged"),
        (lambda copy: os.truncate(filled(copy, 100, bytes(1000)), 50_000), "copy.db is damaged"),
        (lambda copy: run(copy, "CREATE TABLE notes (text)"), "copy.db is a database of another program"),
        (lambda copy: run(filled(copy), "PRAGMA user_version = 999"), "copy.db has layout 999, made by a newer version"),
        (lambda copy: copy.symlink_to("messages.db"), "are the same file"),
    ],
    ids=["absent", "text", "empty", "damaged", "cut", "foreign", "newer", "itself"],
)
def test_bad_backups(made: Any, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """If this fails, a file in use is replaced by one that no server can use, or a mistake is answered by a traceback."""
    path, copy = filled(tmp_path / "messages.db"), tmp_path / "copy.db"
    made(copy)
    before = path.read_bytes()
    assert command("restore", copy, path) == 1
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1
    assert path.read_bytes() == before
    assert not list(tmp_path.glob("*restore*"))


@pytest.mark.parametrize(("name", "said"), [("nowhere/messages.db", "nowhere is not a directory; make it first"), ("", "is not a file")])
def test_bad_targets(name: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """If this fails, a mistyped place is answered by a traceback."""
    copy = filled(tmp_path / "copy.db")
    assert command("restore", copy, tmp_path / name) == 1
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1


def test_a_disk_that_fails(tmp_path: Path) -> None:
    """If this fails, a restore that cannot write the new file takes the old one away all the same."""
    path, copy = filled(tmp_path / "messages.db"), filled(tmp_path / "copy.db", 20, bytes(10_000))
    before = path.read_bytes()
    script = """if True:
        import resource, sys
        from twisted_im.__main__ import main
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
        sys.stdout.write(str(main(["restore", *sys.argv[1:]])))
    """
    with child("-c", script, str(copy), str(path)) as process:
        out, err = process.communicate(timeout=DEADLINE)
    assert out == "1"
    assert "the disk failed" in err
    assert err.count("\n") == 1
    assert path.read_bytes() == before
    assert not list(tmp_path.glob("*restore*"))
