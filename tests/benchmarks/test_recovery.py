"""What is said of a kill, from what the load has seen; and that all of this comes out of the load."""

from __future__ import annotations

import fcntl
import json
import subprocess
import sys
import termios
import time
from pathlib import Path

from benchmarks.clusters import Scheme
from benchmarks.recovery import judged, kills
from benchmarks.servers import choose_cores, environment, node_command, running

KILLED = 100.0


def told(*messages: tuple[float, float | None], accepted: int | None = None, twice: int = 0) -> dict[str, object]:
    """As the load tells it: (when it was due, when it was shown), in seconds from the kill."""
    rows = [(KILLED + due, None if shown is None else KILLED + shown) for due, shown in messages]
    return {"messages": rows, "accepted": len(rows) if accepted is None else accepted, "twice": twice, "strange": 0}


def test_recovery_ends_with_what_the_kill_has_delayed() -> None:
    """If this fails, a hiccup long after a kill counts as its consequence, or a message that was long under way does not."""
    late = [(0.1 * step, 2.0) for step in range(-2, 15)]
    calm = [(0.1 * step, 0.1 * step + 0.01) for step in range(15, 60)]
    hiccup = [(6.0, 6.9)]
    found = judged(told((-1.0, -0.99), *late, *calm, *hiccup), KILLED)
    assert found["recovery_s"] == 2.0
    assert found["late"] == len(late)
    assert found["latest_ms"] == 2200
    assert found["before_p99_ms"] == 10
    assert (found["lost"], found["faults"]) == (0, [])


def test_nobody_notices() -> None:
    """If this fails, a kill that delayed nothing looks like one that did."""
    found = judged(told((-1.0, -0.9), (0.0, 0.1), (1.0, 1.2)), KILLED)
    assert (found["recovery_s"], found["late"]) == (0.0, 0)


def test_what_is_lost_is_a_fault() -> None:
    """If this fails, a scheme that loses messages when something is killed gets good figures."""
    found = judged(told((0.0, None), (1.0, 1.1), accepted=1, twice=3), KILLED)
    assert found["lost"] == 1
    assert found["faults"] == [
        "1 of 2 messages were never shown",
        "1 messages were never accepted",
        "3 messages were shown twice",
    ]


def test_all_that_can_be_killed() -> None:
    """If this fails, the comparison says nothing of the route server or of Redis, on which others depend."""
    star, mesh = Scheme("routed", "route-server"), Scheme("routed", "mesh", "redis")
    found = [str(kill) for kill in kills([Scheme("single"), Scheme("parallel"), star, mesh])]
    assert found == [
        "single: the server",
        "routed star: a node",
        "routed star: the route server",
        "routed mesh Redis: a node",
        "routed mesh Redis: Redis",
    ]


def test_a_long_tale_is_told_whole(tmp_path: Path) -> None:
    """If this fails, a kill cannot be measured when the load has more to tell than a pipe takes, and its reader is busy just then."""
    with running("node", node_command("single", "memory", None, []), choose_cores().server, tmp_path) as server:
        command = [sys.executable, "-m", "benchmarks.steady", f"--nodes=127.0.0.1:{server.port}", "--users=4", "--rate=3000"]
        with subprocess.Popen(command, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE) as load:
            assert load.stdin is not None
            assert load.stdout is not None
            began = json.loads(load.stdout.readline())["began"]
            fcntl.fcntl(load.stdout, fcntl.F_SETPIPE_SZ, 4096)
            while time.monotonic() < began + 0.5:
                time.sleep(0.01)
            load.stdin.write(b"stop\n")
            load.stdin.close()
            while int.from_bytes(fcntl.ioctl(load.stdout, termios.FIONREAD, bytes(4)), sys.byteorder) < 4096:
                assert load.poll() is None
                time.sleep(0.01)
            told = json.loads(load.stdout.read())
        assert load.returncode == 0
    assert len(told["messages"]) >= 1000
    assert told["accepted"] == len(told["messages"])
