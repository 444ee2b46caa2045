"""Runs under faults, in short: real processes, real signals, and an oracle that is neither blind nor quarrelsome.

Strategy: each run is the command as a user types it, with a seed under which the faults in question come early. A run that must be found
wrong has a fault planted in it, or is one that the command refuses: a server that is killed with its store in memory.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.running import PATIENCE
from twisted_im.leash import leashed

ROOT = Path(__file__).parent.parent.parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)}
FAULTS = [sys.executable, "-m", "twisted_im", "faults"]
SHORT = ["--minutes=0.08", "--every=0.8", "--users=3", "--rate=5"]
#: One that is still going on, whenever it is broken off.
LONG = ["--minutes=10", "--every=30", "--users=3", "--rate=5"]

#: kind → what is written down of it
DONE = {
    "kill": ["server killed"],
    "replace": ["server replaced", "a replaced node ends"],
    "route": ["route server killed", "route server stopped"],
    "redis": ["redis killed", "redis stopped", "redis slow", "redis flushed", "redis refuses", "redis lost its last"],
    "drain": ["server drained", "a node is drained"],
    "name": ["name taken twice"],
    "twins": ["one device on two nodes", "of two sessions of a device one is left"],
    "repeat": ["one id many times"],
    "crowd": ["a crowd logs in", "a crowd is in"],
}

#: The same without the command's refusal.
FORGETFUL = """
import sys
from pathlib import Path
from twisted_im.commands.faults import Topology, _play, judge
folder = Path("logs").resolve()
folder.mkdir()
how = {"kinds": ["kill"], "seconds": 3, "users": 2, "every": 0.6, "rate": 10, "topology": Topology(), "seed": 1, "plant": "", "patience": 2}
print(_play(folder, **how)[1])
print(judge(sorted(folder.glob("*.jsonl")))[1])
"""

#: Two nodes, each fault once.
FEW = ["--nodes=2", "--minutes=0.05", "--every=0.6", "--users=2", "--rate=5", "--guests=60", "--seed=7"]
#: strategy → its options, and faults; together they are all there are, but for those of clients and their network
CLUSTERS = {
    "broadcast": ["--strategy=broadcast", "--kind=route", "--kind=crowd", "--kind=drain", "--kind=name"],
    "star": ["--strategy=routed", "--via=route-server", "--kind=replace", "--kind=kill", "--kind=repeat"],
    "redis": ["--strategy=routed", "--table=redis", "--kind=redis", "--kind=twins"],
}

#: name → what is run in a folder of its own, all at once, since they mostly wait
RUNS = {
    "sound": [*FAULTS, "--kind=kill", "--kind=stop", "--kind=network", "--seed=7", "--out=logs", *SHORT],
    "forgetful client": [*FAULTS, "--kind=clients", "--seed=2", "--plant=repeat", "--out=logs", *SHORT],
    "forgetful server": [sys.executable, "-c", FORGETFUL],
    **{name: [*FAULTS, *words, *FEW, "--out=logs"] for name, words in CLUSTERS.items()},
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, tuple[Path, subprocess.Popen[str]]]]:
    """The runs, under way."""
    started = {}
    try:
        for name, words in RUNS.items():
            folder = tmp_path_factory.mktemp("run")
            pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
            started[name] = folder, subprocess.Popen(leashed(os.getpid(), words), cwd=folder, env=ENVIRONMENT, text=True, **pipes)
        yield started
    finally:
        for _, process in started.values():
            process.kill()
            process.communicate()


def told(runs: dict[str, tuple[Path, subprocess.Popen[str]]], name: str) -> tuple[int, str]:
    """The status of a run, and what it printed."""
    _, process = runs[name]
    said, _ = process.communicate(timeout=300)
    assert "Traceback" not in said, said
    return process.returncode, said


def kept(status: int, said: str) -> None:
    """Nothing was wrong with a run, but that the machine may have been slow."""
    assert "Everything holds." in said, said
    assert re.search(r"sent (\d+), accepted \1, refused 0, unanswered 0, shown [1-9]", said), said
    assert not re.search(r"^(Wrong|Not settled|The servers' logs)", said, re.MULTILINE), said
    assert status == 0 or "SO IT IS LATE" in said, said


def test_a_server_under_faults_keeps_its_promises(runs: Any) -> None:
    """If this fails, a server that is killed or stopped, or a broken connection, costs somebody a message, or shows one twice."""
    status, said = told(runs, "sound")
    kept(status, said)
    assert re.search(r"faults: connections .*server killed \d, server stopped \d", said), said
    assert "nodes sure again" in said
    logs = sorted((runs["sound"][0] / "logs").glob("*.jsonl"))
    assert len(logs) == 1 + 3 * 3
    again = subprocess.run([sys.executable, "-m", "twisted_im", "oracle", *logs], env=ENVIRONMENT, capture_output=True, text=True)
    assert again.returncode == 0
    assert again.stdout.strip() in said


@pytest.mark.parametrize("name", [*CLUSTERS])
def test_a_cluster_under_faults_keeps_its_promises(runs: Any, name: str) -> None:
    """If this fails, a node, a route server or a Redis that is killed, stopped, replaced or restarted costs somebody a message, shows one
    twice, or leaves a device with two sessions; or a node that was taken for dead goes on when it wakes."""
    status, said = told(runs, name)
    kept(status, said)
    for kind in (word.removeprefix("--kind=") for word in CLUSTERS[name] if word.startswith("--kind=")):
        assert all(f"{what} " in said for what in DONE[kind]), (kind, said)


def test_a_client_that_forgets_is_found(runs: Any) -> None:
    """If this fails, the oracle passes a client that shows messages again after a kill, and so proves nothing."""
    status, said = told(runs, "forgetful client")
    assert status == 1, said
    assert "clients killed" in said
    assert re.search(r"^D0 .* \d+ times broken$", said, re.MULTILINE), said
    assert said.count(" holds\n") == 4, said
    assert re.search(r"^D0  user\d/\w+ shows \w+ again\n    user\d-\w+.jsonl:\d+  .*\n    user\d-\w+.jsonl:\d+  ", said, re.MULTILINE), said


def test_a_server_that_forgets_is_found(runs: Any) -> None:
    """If this fails, a server can lose everything that it has accepted when it is killed, and the run is called good."""
    _, said = told(runs, "forgetful server")
    assert "server killed" in said, said
    # and A0, if the machine was fast enough for something to be accepted both before and after a kill
    assert re.search(r"^L0 .* \d+ times broken$", said, re.MULTILINE), said


def wait_for(condition: Callable[[], bool], what: str) -> None:
    """Lets other processes run until this holds."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"waited in vain for {what}"
        os.sched_yield()


def processes(folder: Path) -> set[int]:
    """The processes that work in a folder."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if Path(os.readlink(process / "cwd")) == folder:
                found.add(int(process.name))
        except OSError:
            continue  # it has ended, or is another user's
    return found


def test_no_process_is_left(tmp_path: Path) -> None:
    """If this fails, somebody who breaks a run off, or kills it, has servers and clients running until they log out."""
    redis = ["--strategy=routed", "--table=redis", "--nodes=2"]
    ends = {signal.SIGINT: (130, []), signal.SIGTERM: (130, []), signal.SIGKILL: (-signal.SIGKILL, redis)}
    started = []
    try:
        for number, (status, more) in ends.items():
            folder = (tmp_path / number.name).resolve()
            pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
            words = leashed(os.getpid(), [*FAULTS, "--out", str(folder), *LONG, *more])
            run = subprocess.Popen(words, env=ENVIRONMENT, text=True, **pipes)
            started.append((run, folder, number, status, 6 if more else 4))
        for run, folder, number, status, count in started:
            assert any("have logged in" in line for line in run.stdout or ())
            wait_for(lambda folder=folder, count=count: len(processes(folder)) == count, "servers and clients")  # type: ignore[misc]
            run.send_signal(number)
            said = run.communicate(timeout=120)[1]
            assert run.returncode == status
            assert "Traceback" not in said
            wait_for(lambda folder=folder: not processes(folder), "its processes to end")  # type: ignore[misc]
    finally:
        for run, *_ in started:
            run.kill()
            run.communicate()
