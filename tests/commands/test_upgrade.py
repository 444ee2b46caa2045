"""`upgrade`: what it says beforehand, and that it does so. The upgrade itself is tried in tests/storage/test_sqlite_file.py."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.storage.writer import asked, filled, finish, run, writing
from twisted_im.__main__ import main
from twisted_im.storage import sqlite_file


def test_upgrade(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """If this fails, an administrator cannot see what an upgrade will do, or it does something else."""
    path = filled(tmp_path / "messages.db")
    assert main(["upgrade", str(path)]) == 0
    assert capsys.readouterr().out == f"{path} has layout 3, the newest; there is nothing to do\n"
    with writing(path) as process:
        schema = shutil.copytree(sqlite_file.SCHEMA, tmp_path / "schema")
        (schema / "0004.sql").write_text("CREATE TABLE notes (text);", encoding="utf-8")
        monkeypatch.setattr(sqlite_file, "SCHEMA", schema)
        assert main(["upgrade", str(path), "--dry-run"]) == 0
        backup = f"{path}.layout3.backup"
        assert capsys.readouterr().out == (
            f"{path} has layout 3; the steps to 4 would be: 0004.sql\nIt would be copied to {backup} first\n"
        )
        assert main(["upgrade", str(path)]) == 1
        assert capsys.readouterr().err == f"upgrade: {path} is in use by another process; stop that server first\n"
        finish(process)
    assert not Path(backup).exists()
    assert main(["check", str(path)]) == 1
    assert capsys.readouterr().err == f"check: {path} has layout 3; upgrade it to 4 first (python -m twisted_im upgrade)\n"
    assert main(["upgrade", str(path)]) == 0
    assert capsys.readouterr().out == f"{path} has layout 4 now; what it was before is in {backup}\n"
    assert [asked(Path(each), "PRAGMA user_version") for each in (path, backup)] == [[(4,)], [(3,)]]
    assert main(["check", str(path)]) == 0


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda path: None, "does not exist"),
        (lambda path: path.write_text("buy milk\n" * 100), "is not a database"),
        (lambda path: run(filled(path), "PRAGMA user_version = 999"), "has layout 999, made by a newer version"),
    ],
    ids=["absent", "text", "newer"],
)
def test_mistakes(made: object, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """If this fails, a mistake is answered by a traceback, or by a new file where none was."""
    path = tmp_path / "messages.db"
    made(path)  # type: ignore[operator]  # each is a function
    before = path.read_bytes() if path.exists() else None
    assert main(["upgrade", str(path)]) == 1
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1
    assert (path.read_bytes() if path.exists() else None) == before
