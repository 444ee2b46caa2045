"""`python -m twisted_im faults`: mistakes on its command line. What it does when there is none is told in tests/faults/test_run.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from twisted_im.__main__ import main


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--kind=kill", "--store=memory"], "--kind kill needs a store that outlives the server: --store sqlite"),
        (["--out=full"], "--out=full is not empty"),
        (["--out=full/file"], "full/file: File exists"),
    ],
)
def test_mistakes(words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """If this fails, a mistake is a traceback, or starts a run that can only end badly."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    assert main(["faults", *words]) == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert said in told.err
    assert told.err.count("\n") == 1


@pytest.mark.parametrize("words", [["--minutes=0"], ["--users=1"], ["--every=nan"], ["--rate=much"], ["--kind=plague"], ["--seed=x"]])
def test_values(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """If this fails, a value that makes no sense starts a run."""
    with pytest.raises(SystemExit) as end:
        main(["faults", *words])
    assert end.value.code == 2
    assert words[0].partition("=")[0] in capsys.readouterr().err.splitlines()[-1]
