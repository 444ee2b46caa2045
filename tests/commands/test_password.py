"""`python -m twisted_im password`, as an operator types it."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from twisted_im.__main__ import main
from twisted_im.server.authenticators import HASHER, read_passwords


def test_sets_and_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A user cannot be made, or gets another password than was typed."""
    path = tmp_path / "passwords"
    for password, said in (("first\n", "can log in now"), ("second\n", "has a new password")):
        monkeypatch.setattr("sys.stdin", io.StringIO(password))
        assert main(["password", str(path), "alice", "--stdin"]) == 0
        assert said in capsys.readouterr().out
    assert HASHER.verify(read_passwords(path)["alice"], "second")


def test_asks_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A slip of the fingers becomes a password that nobody knows."""
    typed = iter(["secret", "secrte"])
    monkeypatch.setattr("getpass.getpass", lambda prompt: next(typed))
    assert main(["password", str(tmp_path / "passwords"), "alice"]) == 1
    assert "nothing was changed" in capsys.readouterr().err
    assert not (tmp_path / "passwords").exists()


@pytest.mark.parametrize(
    ("words", "password", "said"),
    [
        (["", "--stdin"], "x\n", "empty uid"),
        (["a\nb", "--stdin"], "x\n", "control characters"),
        (["u" * 65, "--stdin"], "x\n", "64 are the most"),
        (["alice", "--stdin"], "\n", "1 to 768 bytes"),
        (["alice", "--tenant", "t" * 65, "--stdin"], "x\n", "tenant"),
    ],
)
def test_mistakes(
    words: list[str], password: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A mistake is answered by a traceback, or makes a user who can never log in."""
    monkeypatch.setattr("sys.stdin", io.StringIO(password))
    assert main(["password", str(tmp_path / "passwords"), *words]) == 1
    line = capsys.readouterr().err
    assert said in line
    assert line.count("\n") == 1
    assert not (tmp_path / "passwords").exists()


def test_unreadable_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A file that is something else is overwritten."""
    path = tmp_path / "notes"
    path.write_text("buy milk\n")
    monkeypatch.setattr("sys.stdin", io.StringIO("x\n"))
    assert main(["password", str(path), "alice", "--stdin"]) == 1
    assert "line 1" in capsys.readouterr().err
    assert path.read_text() == "buy milk\n"
