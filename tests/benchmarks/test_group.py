"""The benchmark of a group: that its figures are all there, and that it would see a message that is missing.

Strategy: the program is run as its users run it, with few members; what a member must notice is shown to one by hand.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.crowd import Who
from benchmarks.group import MOST_IN_FLIGHT, Group
from benchmarks.servers import environment
from twisted_im.wire.codec import notify
from twisted_im.wire.schema import HEADER_SIZE, Command, ContentType, LoginMethod

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="the benchmark reads CPU from /proc: Linux only")

NUMBERS = {"deliveries_per_s", "messages_per_s", "cpu_us_per_delivery", "server_core_share", "load_core_share", "p50_ms", "p99_ms"}


def bench(*words: str) -> subprocess.CompletedProcess[str]:
    """Runs `python -m benchmarks group`."""
    command = [sys.executable, "-m", "benchmarks", "group", *words]
    return subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=300, check=False)


def test_a_group_is_measured(tmp_path: Path) -> None:
    """If this fails, the benchmark of groups lacks figures, or a member of a group misses messages."""
    outcome = bench("--quick", "--json", f"--data={tmp_path}")
    assert outcome.returncode == 0, outcome.stderr
    row = json.loads(outcome.stdout)
    assert all(isinstance(row[name], float) and row[name] >= 0 for name in NUMBERS), row
    assert row["faults"] == []
    assert row["members"] == 12
    assert row["delivered"] == row["accepted"] * 11 > 0
    assert not list(tmp_path.iterdir())


def test_a_message_that_comes_twice_is_noticed() -> None:
    """If this fails, a node that repeats messages to a group, or turns them round, gets good figures."""
    group = Group(1, [Who(b"u0", LoginMethod.ANONYMOUS, b"")] * 2, 1, 1, MOST_IN_FLIGHT, b"")
    values = {"conversation": 1, "time": 0, "client_id": bytes(16), "device": bytes(16), "row_type": 0, "life": 0, "sender": b"u1"}
    for seq in (1, 3, 3, 2):
        body = notify(Command.MESSAGE, **values, seq=seq, content_type=ContentType.BINARY, content=b"")[HEADER_SIZE:]
        group._on_message(group._members[0], body, [])
    group.close()
    assert group.faults == ["member 0 got message 3 after 3", "member 0 got message 2 after 3"]


@pytest.mark.parametrize(
    ("words", "advice"),
    [
        (["--members", "1"], "2"),
        (["--members", "4", "--senders", "5"], "choose fewer, or more --members"),
        (["--in-flight", "33"], "from 1 to 32, not '33'"),
    ],
)
def test_a_mistake_is_one_line(words: list[str], advice: str) -> None:
    """If this fails, who mistypes an option gets a page of usage, or waits for a run that cannot be."""
    outcome = bench(*words)
    assert outcome.returncode == 2
    assert len(outcome.stderr.splitlines()) == 1
    assert advice in outcome.stderr
