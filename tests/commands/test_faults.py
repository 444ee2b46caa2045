"""`python -m twisted_im faults`: mistakes on its command line. What it does when there is none is told in tests/faults/test_run.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from twisted_im.__main__ import main


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--kind=kill", "--store=memory"], "--kind kill needs a store that outlives the server: --store sqlite"),
        (["--strategy=broadcast", "--store=memory"], "--store: the nodes of a cluster share one store"),
        (["--kind=drain"], "--kind drain needs several nodes: --strategy=broadcast or routed"),
        (["--strategy=routed", "--kind=route"], "--kind route needs a route server: --strategy=broadcast, or routed"),
        (["--strategy=routed", "--kind=redis"], "--kind redis needs a table there: --strategy=routed --table=redis"),
        (["--strategy=broadcast", "--via=mesh"], "--via and --table are for --strategy=routed, not for broadcast"),
        (["--strategy=routed", "--via=route-server", "--table=redis"], "--table=redis is for a mesh: leave out --via=route-server"),
        (["--nodes=2"], "--nodes: a single server is one: say --strategy=broadcast or routed"),
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


def test_no_redis(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """If this fails, who has no Redis gets a traceback, or a run that waits for one."""
    monkeypatch.setattr("twisted_im.commands.faults.redis_program", str)
    assert main(["faults", "--strategy=routed", "--table=redis"]) == 1
    assert "no redis-server here: install Redis" in capsys.readouterr().err


@pytest.mark.parametrize(
    "word", ["--minutes=0", "--users=1", "--every=nan", "--rate=much", "--kind=plague", "--seed=x", "--nodes=1", "--guests=0"]
)
def test_values(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    """If this fails, a value that makes no sense starts a run."""
    with pytest.raises(SystemExit) as end:
        main(["faults", word])
    assert end.value.code == 2
    assert word.partition("=")[0] in capsys.readouterr().err.splitlines()[-1]
