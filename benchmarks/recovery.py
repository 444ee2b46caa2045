"""What users notice when a process of a cluster is killed: how long messages are late, how many of them, and that none is lost.

Strategy: a steady load of the real client library (`benchmarks.steady`), a SIGKILL in its midst, and a new start some seconds later, as a
supervisor would do it. A message is late if it was shown more than `LATE` after it was due. Recovery is the time from the kill until the
last of those had been shown that were late because of it: the disturbance ends with the first second in which none was due that came late.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.clusters import Cluster, Scheme, even, running
from benchmarks.driving import Figures, RunError
from benchmarks.servers import Cores, environment, on_core

LATE = 0.25  #: seconds from when a message was due until it is shown, above which it is late
CALM = 1.0  #: seconds in which nothing that was due came late, after which a disturbance is over
PATIENCE = 45.0  #: seconds in which the last message must have been shown
NODES = 3
KILL_USERS, KILL_RATE = 24, 200  #: in all, and messages a second of all


@dataclass(frozen=True)
class Kill:
    """What is killed, in which scheme: one of `benchmarks.clusters.PARTS`."""

    scheme: Scheme
    part: str

    @property
    def nodes(self) -> int:
        """How many there are."""
        return 1 if self.scheme.strategy == "single" else NODES

    def __str__(self) -> str:
        what = {"node": "the server" if self.scheme.alone else "a node", "route_server": "the route server", "redis": "Redis"}
        return f"{self.scheme}: {what[self.part]}"


@dataclass(frozen=True)
class Times:
    """Of one run, in seconds: how long before the kill, until the new start, and from then on."""

    before: float
    down: float
    after: float


def kills(schemes: Sequence[Scheme]) -> list[Kill]:
    """All that can be killed in these schemes. What befalls one of the parallel servers is what befalls a single one."""
    found = []
    for scheme in schemes:
        if scheme.strategy == "parallel":
            continue
        found.append(Kill(scheme, "node"))
        if scheme.routed_by_server:
            found.append(Kill(scheme, "route_server"))
        if scheme.table == "redis":
            found.append(Kill(scheme, "redis"))
    return found


def recover(kill: Kill, cores: Cores, folder: Path, times: Times, *, users: int = KILL_USERS, rate: int = KILL_RATE) -> Figures:
    """Kills one process under load.

    Args:
        users: about how many, of all nodes.
        rate: messages a second of all.

    Returns:
        `recovery_s`: from the kill until everything that was late had been shown
        `late`: messages that came later than `LATE`; `latest_ms`: how late the last of them was
        `sent`, `lost`: messages, and those of them that were never shown
        `before_p99_ms`: what was usual before the kill
        `points`: (seconds from the kill to when it was due, milliseconds until it was shown), of each message
        `faults`: what is wrong, one line each

    Raises:
        RunError: the load did not come to its end.
        ServerError: a process did not start.
    """
    with running(kill.scheme, kill.nodes, "sqlite", cores, folder) as cluster:
        return _recover(kill, cluster, cores, times, even(users, kill.nodes), rate)


def _recover(kill: Kill, cluster: Cluster, cores: Cores, times: Times, users: int, rate: int) -> Figures:
    at = ",".join(f"127.0.0.1:{node.port}" for node in cluster.nodes)
    command = [sys.executable, "-m", "benchmarks.steady", f"--nodes={at}", f"--users={users}", f"--rate={rate}", f"--patience={PATIENCE}"]
    with on_core(cores.load):
        load = subprocess.Popen(command, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert load.stdin is not None
    assert load.stdout is not None
    try:
        if not load.stdout.readline():
            raise RunError(f"the load did not begin\nThe end of the log:\n{cluster.told()}")
        time.sleep(times.before)
        cluster.kill(kill.part)
        killed = time.monotonic()
        time.sleep(times.down)
        cluster.again(kill.part)
        time.sleep(max(0.0, killed + times.down + times.after - time.monotonic()))
        try:
            told, _ = load.communicate("stop\n", timeout=2 * PATIENCE)
        except subprocess.TimeoutExpired:
            raise RunError("the load does not come to its end") from None
    finally:
        load.kill()
        load.wait()
    if not told:
        raise RunError(f"the load ended with status {load.returncode}")
    return judged(json.loads(told), killed)


def judged(told: Figures, killed: float) -> Figures:
    """What the load tells, as `recover` gives it; `killed` is when that was, by the monotonic clock."""
    messages = told["messages"]
    points = [(due - killed, shown - due) for due, shown in messages if shown is not None]
    before = sorted(wait for due, wait in points if due + wait < 0)
    late: list[float] = []
    ends = 0.0
    for due, wait in points:
        if wait > LATE and due + wait > 0:
            if late and due > ends + CALM:
                break  # something else
            late.append(wait)
            ends = max(ends, due) if late else due
    recovery = max((due + wait for due, wait in points if wait > LATE and due + wait > 0 and due <= ends), default=0.0)
    lost = len(messages) - len(points)
    faults = [f"{lost} of {len(messages)} messages were never shown"] if lost else []
    faults += [f"{len(messages) - told['accepted']} messages were never accepted"] if told["accepted"] != len(messages) else []
    faults += [f"{told['twice']} messages were shown twice"] if told["twice"] else []
    faults += [f"{told['strange']} messages were shown to somebody else"] if told["strange"] else []
    return {
        "recovery_s": round(recovery, 2),
        "late": len(late),
        "latest_ms": round(1000 * max(late, default=0.0), 1),
        "sent": len(messages),
        "lost": lost,
        "before_p99_ms": round(1000 * before[int(0.99 * (len(before) - 1))], 2) if before else 0.0,
        "points": [(round(due, 3), round(1000 * wait, 2)) for due, wait in points],
        "faults": faults,
    }
