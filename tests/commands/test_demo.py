"""The demonstration: it runs, and its judge can say no."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from twisted_im.client.values import Accepted, Message
from twisted_im.commands.demo import Demo

ROOT = Path(__file__).parent.parent.parent


DEMO = [sys.executable, "-m", "twisted_im", "demo", "--quick"]


@pytest.mark.parametrize("store", ["sqlite", "memory"])
def test_the_demo_holds(store: str) -> None:
    """If this fails, the first thing that a newcomer starts does not work; with SQLite, perhaps since a killed server loses messages."""
    done = subprocess.run([*DEMO, f"--store={store}"], cwd=ROOT, capture_output=True, text=True, encoding="utf-8", timeout=120)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    packets = ["1 message request", "2 message response", "3 message notify", "4 receipt request", "5 receipt response", "6 receipt notify"]
    for packet in packets:
        assert re.search(rf"^ +\d+\.\d\d +{packet} .*→", done.stdout, re.MULTILINE), packet
    assert len(re.findall(r"^  (?:alice|bob)'s \w+ +\d+ +\d+ +(\d+) +\1 +0 +yes$", done.stdout, re.MULTILINE)) == 4, done.stdout
    assert ("kill -9: the node is gone" in done.stdout) is (store == "sqlite")
    sent = sum(int(count) for count in re.findall(r"^  (?:alice|bob)'s \w+ +(\d+)", done.stdout, re.MULTILINE))
    assert f"The store has {sent} messages, read back from the first: each that was sent, once." in done.stdout
    assert "Everything holds: sent = accepted = kept = shown on each device, none twice, in order." in done.stdout


def test_an_early_end_leaves_nothing_running() -> None:
    """If this fails, whoever stops the demonstration by Ctrl-C has a server left in the background."""
    with subprocess.Popen(DEMO, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8") as demo:
        assert demo.stdout is not None
        assert any(line.startswith("Two users") for line in demo.stdout)
        nodes = [Path("/proc", pid) for pid in Path(f"/proc/{demo.pid}/task/{demo.pid}/children").read_text().split()]
        assert len(nodes) == 1
        assert nodes[0].exists()
        demo.send_signal(signal.SIGINT)
        _, told = demo.communicate(timeout=60)
    assert not nodes[0].exists()
    assert demo.returncode != 0
    assert "Traceback" not in told


def sending(number: int, *, accepted: bool = True) -> Any:
    return SimpleNamespace(client_id=bytes([number]), outcome=Accepted(1, number, 0) if accepted else None)


def message(number: int) -> Message:
    return Message(1, number, 0, "alice", b"", bytes([number]), 1, b"")


@pytest.mark.parametrize(
    ("shown", "accepted", "kept", "good"),
    [
        ([1, 2, 3], True, [1, 2, 3], True),
        ([1, 3], True, [1, 2, 3], False),
        ([1, 2, 2, 3], True, [1, 2, 3], False),
        ([1, 3, 2], True, [1, 2, 3], False),
        ([1, 2, 3, 9], True, [1, 2, 3], False),
        ([1, 2], False, [1, 2], False),
        ([1, 2, 3], True, [1, 2], False),
        ([1, 2, 3], True, [1, 2, 3, 3], False),
    ],
)
def test_the_judge_sees_what_is_wrong(
    shown: list[int], accepted: bool, kept: list[int], good: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """If this fails, the demonstration claims what it has not checked."""
    demo = Demo(None, Path(), store="memory", messages=0)
    client = SimpleNamespace(duplicates=0)
    sendings = [sending(1), sending(2), sending(3, accepted=accepted)]
    demo.actors = [  # type: ignore[assignment]  # stand-ins
        SimpleNamespace(name="sender", sendings=sendings, shown=[], client=client),
        SimpleNamespace(name="receiver", sendings=[], shown=[message(n) for n in shown], client=client),
    ]
    found = Counter(bytes([number]) for number in kept)
    assert demo._judge(found, None) == (0 if good else 1)
    assert ("IT DOES NOT HOLD" in capsys.readouterr().out) is not good
    assert demo._judge(found, "something") == 1
