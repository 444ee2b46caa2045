"""The demonstration: it runs, and its judge can say no."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from twisted_im.client.values import Accepted, Message
from twisted_im.commands.demo import Demo

ROOT = Path(__file__).parent.parent.parent


def test_the_demo_holds() -> None:
    """If this fails, the first thing that a newcomer starts does not work."""
    done = subprocess.run(
        [sys.executable, "-m", "twisted_im", "demo", "--quick"], cwd=ROOT, capture_output=True, text=True, encoding="utf-8", timeout=120
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    packets = ["1 message request", "2 message response", "3 message notify", "4 receipt request", "5 receipt response", "6 receipt notify"]
    for packet in packets:
        assert re.search(rf"^ +\d+\.\d\d +{packet} .*→", done.stdout, re.MULTILINE), packet
    assert len(re.findall(r"^  (?:alice|bob)'s \w+ +\d+ +\d+ +(\d+) +\1 +0 +yes$", done.stdout, re.MULTILINE)) == 4, done.stdout
    assert "Everything holds: sent = accepted = shown on each device, none twice, in order." in done.stdout


def sending(number: int, *, accepted: bool = True) -> Any:
    return SimpleNamespace(client_id=bytes([number]), outcome=Accepted(1, number, 0) if accepted else None)


def message(number: int) -> Message:
    return Message(1, number, 0, "alice", b"", bytes([number]), 1, b"")


@pytest.mark.parametrize(
    ("shown", "accepted", "good"),
    [
        ([1, 2, 3], True, True),
        ([1, 3], True, False),
        ([1, 2, 2, 3], True, False),
        ([1, 3, 2], True, False),
        ([1, 2, 3, 9], True, False),
        ([1, 2], False, False),
    ],
)
def test_the_judge_sees_what_is_wrong(shown: list[int], accepted: bool, good: bool, capsys: pytest.CaptureFixture[str]) -> None:
    """If this fails, the demonstration claims what it has not checked."""
    demo = Demo(None, Path(), messages=0)
    client = SimpleNamespace(duplicates=0)
    sendings = [sending(1), sending(2), sending(3, accepted=accepted)]
    demo.actors = [  # type: ignore[assignment]  # stand-ins
        SimpleNamespace(name="sender", sendings=sendings, shown=[], client=client),
        SimpleNamespace(name="receiver", sendings=[], shown=[message(n) for n in shown], client=client),
    ]
    node: Any = SimpleNamespace(counters=SimpleNamespace(accepted=3, commits=1, duplicates=0))
    assert demo._judge(node, None) == (0 if good else 1)
    assert ("IT DOES NOT HOLD" in capsys.readouterr().out) is not good
    assert demo._judge(node, "something") == 1
