"""`python -m twisted_im oracle`, as somebody types it who has the logs of a run."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from twisted_im.__main__ import main

CLIENT = """\
{"event":"started","time":1,"user":"bob","device":"phone"}
{"event":"shown","time":3,"user":"bob","device":"phone","conversation":1,"seq":1,"client_id":"id1","sender":"ann"}
"""
OTHER = """\
{"event":"sent","time":2,"user":"ann","device":"phone","client_id":"id1","target":"bob"}
{"event":"accepted","time":2.5,"client_id":"id1","conversation":1,"seq":1}
{"event":"fault","time":2.6,"kind":"server killed"}
{"event":"healed","time":2.7}
{"event":"quiet","time":4}
"""


def written(folder: Path, **logs: str) -> list[str]:
    for name, text in logs.items():
        (folder / f"{name}.jsonl").write_text(text)
    return [str(folder / f"{name}.jsonl") for name in logs]


def test_a_good_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """If this fails, good logs are called bad, or the status does not say so."""
    assert main(["oracle", *written(tmp_path, bob=CLIENT, ann=OTHER)]) == 0
    said = capsys.readouterr().out
    assert "sent 1, accepted 1, refused 0, unanswered 0, shown 1" in said
    assert "server killed 1" in said
    assert said.endswith("Everything holds.\n")


def test_a_bad_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """If this fails, a message shown twice leaves no trace that can be followed to its lines in the logs."""
    twice = CLIENT + CLIENT.splitlines()[1] + "\n"
    assert main(["oracle", *written(tmp_path, ann=OTHER, bob=twice)]) == 1
    lines = capsys.readouterr().out.splitlines()
    at = lines.index("D0  bob/phone shows id1 again")
    assert lines[at + 1 : at + 3] == [f"    bob.jsonl:{place}  {CLIENT.splitlines()[1]}" for place in (2, 3)]
    assert lines[-1] == "IT DOES NOT HOLD."


@pytest.mark.parametrize(
    ("logs", "said"),
    [
        ({"a": CLIENT + "rubbish\n"}, "a.jsonl:3: not a JSON object"),
        ({"a": CLIENT[:-20]}, "a.jsonl:2: not a JSON object"),
        ({"a": CLIENT, "b": OTHER.replace('"seq":1', '"seq":"one"')}, "b.jsonl:2: not an event: "),
        ({"a": CLIENT, "b": CLIENT}, "b.jsonl:2: bob/phone shows messages in "),
        ({}, "missing.jsonl: No such file or directory"),
    ],
)
def test_rubbish_is_one_line(logs: dict[str, str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """If this fails, a damaged log is judged as if it were whole, or ends in a traceback."""
    assert main(["oracle", *(written(tmp_path, **logs) or [str(tmp_path / "missing.jsonl")])]) == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert said in told.err
    assert told.err.count("\n") == 1


@pytest.mark.parametrize("command", ["oracle", "faults"])
def test_without_the_extra(command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """If this fails, somebody who installed the server alone gets a traceback instead of the name of what is missing."""
    for name in [name for name in sys.modules if name.startswith(("twisted_im.oracle", "twisted_im.faults", "twisted_im.commands"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "msgspec", None)
    assert main([command, "--help"]) == 1
    assert capsys.readouterr().err == f"{command}: the package msgspec is not installed: pip install msgspec\n"
