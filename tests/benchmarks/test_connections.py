"""The benchmark of connections: that its figures are all there, that its crowd comes back, and that its probe sees a server stall.

Strategy: the program is run as its users run it, with few connections; the probe is tried on a server that is held up on purpose.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from benchmarks.connections import METHODS
from benchmarks.crowd import Crowd, CrowdError, Who
from benchmarks.probe import INTERVAL, waits
from benchmarks.servers import Server, choose_cores, environment, node_command, running
from twisted_im.wire.schema import LoginMethod

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="the benchmark reads CPU and memory from /proc: Linux only")

NUMBERS = {"logins_per_s", "cpu_us_per_login", "load_core_share", "restart_s"} | {
    f"{storm}_{figure}" for storm in ("cut", "restart") for figure in ("back_s", "ping_p50_ms", "ping_p99_ms", "ping_max_ms")
}


def bench(*words: str) -> subprocess.CompletedProcess[str]:
    """Runs `python -m benchmarks connections`."""
    command = [sys.executable, "-m", "benchmarks", "connections", *words]
    return subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=300, check=False)


def test_every_way_in_gives_every_figure() -> None:
    """If this fails, a way to log in cannot be measured, or somebody who was cut off does not come back."""
    outcome = bench("--count", "30", "--json")
    assert outcome.returncode == 0, outcome.stderr
    found = [json.loads(line) for line in outcome.stdout.splitlines()]
    assert [(row["method"], row["store"]) for row in found] == [(method, store) for method in METHODS for store in ("memory", "sqlite")]
    for row in found:
        assert all(isinstance(row[name], float) and row[name] >= 0 for name in NUMBERS), row
        assert (row["file_system"] is None) == (row["store"] == "memory")
        assert (row["rss_kib_per_connection"] is None) == (row["method"] in ("password", "resume"))
        assert row["connections"] == 30


@pytest.mark.parametrize("method", list(METHODS))
def test_a_way_in_is_the_one_that_is_named(method: str, tmp_path: Path) -> None:
    """If this fails, the row of one way to log in has the figures of another."""
    how = METHODS[method]
    auth, secrets = how.prepare(tmp_path, ["u0"])
    with running("node", node_command("single", "memory", None, [], auth=auth), choose_cores().server, tmp_path) as server:
        crowd = Crowd(server.port, [Who(b"u0", how.code, secrets[0])], None, resumes=how.resumes)
        for _ in range(3):
            crowd.gather(1)
            crowd.cut()
        crowd.close()
        server.process.terminate()
        server.process.wait(20)
    stopped = next(line for line in reversed(server.tail) if '"event":"stopped"' in line.replace(": ", ":"))
    counted = json.loads(stopped.lstrip("\x1e"))
    assert counted["logins"] == 3
    assert counted["resumed"] == (2 if how.resumes else 0)


def test_under_tls_and_for_people() -> None:
    """If this fails, idle connections under TLS cannot be measured, or the table cannot be read."""
    outcome = bench("--count", "20", "--tls", "--store", "memory", "--method", "anonymous")
    assert outcome.returncode == 0, outcome.stderr
    assert "single, memory, TLS, anonymous" in outcome.stdout
    assert "ping p50/p99/max" in outcome.stdout


@pytest.mark.parametrize(
    ("words", "advice"),
    [
        (["--count", "0"], "at least 1, not '0'"),
        (["--count", "2000000000"], "ulimit -n"),
        (["--method", "guess"], "takes anonymous, password, resume, token"),
        (["--node-args=--colour=red"], "--colour"),
    ],
)
def test_wrong_option_is_told(words: list[str], advice: str) -> None:
    """If this fails, who mistypes an option gets a traceback instead of a line that says what to do."""
    outcome = bench(*words)
    assert outcome.returncode in (1, 2)
    assert advice in outcome.stderr
    assert "Traceback" not in outcome.stderr


def goes_on(server: Server, count: int) -> None:
    """Has a server that was stopped go on, as soon as so many stand at its door: those are what a port has in its queue (proc(5))."""
    door = f":{server.port:04X}"

    def waiting() -> int:
        lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        return next(int(line[4].partition(":")[2], 16) for line in lines if line[1].endswith(door) and line[3] == "0A")

    deadline = time.monotonic() + 60
    while waiting() < count and time.monotonic() < deadline:
        time.sleep(0.01)
    server.process.send_signal(signal.SIGCONT)


def test_turned_away_and_back(tmp_path: Path) -> None:
    """If this fails, a member of the crowd that a full server has turned away never comes back, and a storm's figures mean nothing."""
    users = [Who(b"u%d" % index, LoginMethod.ANONYMOUS, b"") for index in range(24)]
    command = ["sh", "-c", 'ulimit -n 200; exec "$@"', "sh", *node_command("single", "memory", None, [])]  # room for 16 newcomers
    with running("node", command, choose_cores().server, tmp_path) as server:
        crowd = Crowd(server.port, users, None)
        try:
            crowd.gather(8)
            assert (crowd.live, crowd.turned_away) == (24, 0)
            crowd.cut()
            assert crowd.live == 0
            server.process.send_signal(signal.SIGSTOP)  # so that all are at the door before the first is let in
            threading.Thread(target=goes_on, args=(server, 24)).start()
            crowd.gather(24)
            assert crowd.live == 24
            assert crowd.turned_away > 0
            server.process.terminate()
            crowd.stay(lambda: server.process.poll() is not None and crowd.live == 0)
        finally:
            crowd.close()


def test_refused_for_good(tmp_path: Path) -> None:
    """If this fails, a crowd with the wrong password knocks for ever instead of saying so."""
    auth, _ = METHODS["password"].prepare(tmp_path, ["u0"])
    with running("node", node_command("single", "memory", None, [], auth=auth), choose_cores().server, tmp_path) as server:
        crowd = Crowd(server.port, [Who(b"u0", LoginMethod.PASSWORD, b"wrong")], None)
        with pytest.raises(CrowdError, match="is refused"):
            crowd.gather(1)
        crowd.close()


def test_probe_sees_a_stall(tmp_path: Path) -> None:
    """If this fails, a server may stand still during a storm, and the benchmark says that nobody had to wait."""
    with running("node", node_command("single", "memory", None, []), choose_cores().server, tmp_path) as server:
        command = [sys.executable, "-m", "benchmarks.probe", f"--port={server.port}"]
        with subprocess.Popen(command, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as probe:
            assert probe.stdout is not None
            assert probe.stdout.readline() == "ready\n"
            server.process.send_signal(signal.SIGSTOP)
            time.sleep(0.5)  # what is measured
            server.process.send_signal(signal.SIGCONT)
            told, _ = probe.communicate(timeout=120)
    found = json.loads(told)
    assert found["max_ms"] > 400
    share = "p50_ms" if found["pings"] < 100 else "p99_ms"  # however long it went on before and after
    assert found[share] > 100  # it was one ping, but two hundred and fifty would have waited


def test_a_wait_counts_for_those_behind_it() -> None:
    """If this fails, the percentiles of pings are those of a client that asks less while it has to wait."""
    assert waits(10.0, 10.0 + INTERVAL / 2) == [pytest.approx(INTERVAL / 2)]
    assert waits(10.0, 10.0 + 3.5 * INTERVAL) == [pytest.approx(count * INTERVAL) for count in (3.5, 2.5, 1.5, 0.5)]
