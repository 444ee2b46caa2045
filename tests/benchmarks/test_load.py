"""The load benchmark: that its figures are all there, and that it would notice a server that loses or doubles messages.

Strategy: the program is run as its users run it, in its short form. What it must notice is planted in the relay at compile time, and
both loads, the C one and the Python one, must find it.
"""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks.build import build, compiler
from benchmarks.load import judge
from benchmarks.servers import choose_cores, cpu_seconds, environment, running
from benchmarks.terminal import IN_MEMORY, file_system

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="the benchmark reads CPU and memory from /proc: Linux only")
needs_compiler = pytest.mark.skipif(compiler() is None, reason="no C compiler, so neither the limit nor the C load can be built")

NEVER_NULL = {
    *("strategy", "store", "tls", "users", "window", "payload", "delivered_per_s", "cpu_us_per_message", "p50_ms", "p99_ms", "p999_ms"),
    *("rss_kib_per_connection", "logins_per_s", "driver", "seconds", "repeat", "python", "machine", "date"),
}
OF_THE_LIMIT = {"ratio_to_limit", "limit_cpu_us_per_message", "limit_delivered_per_s", "limit_core_share"}


def bench(*words: str) -> subprocess.CompletedProcess[str]:
    """Runs `python -m benchmarks load`."""
    command = [sys.executable, "-m", "benchmarks", "load", *words]
    return subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=300, check=False)


def rows(outcome: subprocess.CompletedProcess[str]) -> list[dict[str, object]]:
    """The JSON objects that it printed, after a look at its status."""
    assert outcome.returncode == 0, outcome.stderr
    return [json.loads(line) for line in outcome.stdout.splitlines()]


def test_short_run_gives_every_figure() -> None:
    """If this fails, `--json` lacks figures that the budget is judged by, or a node loses messages under load."""
    found = rows(bench("--quick", "--json", "--window", "1,8", "--store", "memory,sqlite"))
    assert [(row["store"], row["window"]) for row in found] == [("memory", 1), ("memory", 8), ("sqlite", 1), ("sqlite", 8)]
    for row in found:
        assert (row["file_system"] is None) == (row["store"] == "memory")
        assert row["rate"] is None
        assert all(row[name] is not None for name in NEVER_NULL)
        assert all((row[name] is None) == (compiler() is None) for name in OF_THE_LIMIT)
        assert row["faults"] == []
        assert row["receipts_per_message"] == 1
        assert all(isinstance(row[name], float) and row[name] for name in ("delivered_per_s", "cpu_us_per_message", "p50_ms"))


def test_short_run_under_tls() -> None:
    """If this fails, the cost of TLS cannot be measured, or messages are lost under TLS."""
    (row,) = rows(bench("--quick", "--json", "--tls", "--window", "8", "--no-limit"))
    assert row["tls"] is True
    assert row["driver"] == "python"
    assert row["faults"] == []


def test_half_load_is_a_row_of_its_own(tmp_path: Path) -> None:
    """If this fails, nobody can say how long a message is on its way on a server that is not saturated."""
    full, half = rows(bench("--quick", "--json", "--window", "8", "--store", "sqlite", "--half", "--no-limit", "--data", str(tmp_path)))
    assert full["rate"] is None
    assert half["rate"] == int(full["delivered_per_s"] / 2)  # type: ignore[operator]
    assert half["faults"] == []
    assert list(tmp_path.iterdir()) == []


def test_memory_is_not_taken_for_a_disk() -> None:
    """If this fails, figures of a durable store on tmpfs look like those of a disk."""
    assert file_system(Path("/dev/shm")) in IN_MEMORY
    assert file_system(Path("/proc/self")) == "proc"
    outcome = bench("--quick", "--window", "1", "--store", "sqlite", "--rate", "100", "--no-limit", "--data", "/dev/shm")
    assert outcome.returncode == 0, outcome.stderr
    assert "IS MEMORY" in outcome.stderr


def stalled(driver: str, folder: Path, seconds: float, *words: str) -> dict[str, Any]:
    """What a load finds on a relay that stands still for a while, as soon as it is under load."""
    load = [str(build("load"))] if driver == "c" else [sys.executable, "-m", "benchmarks.load_loop"]
    with running("relay", [str(build("relay"))], choose_cores().server, folder) as server:
        command = [*load, f"--port={server.port}", f"--pid={server.pid}", "--users=10", "--window=1", *words]
        with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True) as process:
            while cpu_seconds(server.pid) < 0.02 and process.poll() is None:  # by then it is under load
                time.sleep(0.01)
            server.process.send_signal(signal.SIGSTOP)
            threading.Timer(seconds, server.process.send_signal, [signal.SIGCONT]).start()
            told, _ = process.communicate(timeout=60)
    found: dict[str, Any] = json.loads(told)
    assert judge(found) == []
    return found


@needs_compiler
@pytest.mark.parametrize("driver", ["c", "python"])
def test_paced_load_counts_what_a_stall_keeps_waiting(driver: str, tmp_path: Path) -> None:
    """If this fails, a server that stalls for half a second gets good percentiles, since it is asked less just then."""
    assert stalled(driver, tmp_path, 0.5, "--rate=2000", "--seconds=3", "--warmup=0.05")["p99_ms"] > 200


@needs_compiler
@pytest.mark.parametrize("driver", ["c", "python"])
def test_a_short_measurement_waits_for_a_stall_to_end(driver: str, tmp_path: Path) -> None:
    """If this fails, a short run on a machine that stands still for a moment ends with a fault: nothing came while it was measured."""
    assert stalled(driver, tmp_path, 2.0, "--seconds=0.1", "--warmup=1")["delivered_per_s"] > 0


@pytest.mark.parametrize(
    ("words", "advice"),
    [
        (["--bogus"], "see: python -m benchmarks load --help"),
        (["--profile", "/nowhere/node.svg"], "a file in a folder that exists"),
        (["--node-args", "'--window"], "quoted as for a shell"),
        (["--rate", "5", "--half"], "not allowed with"),
        (["--data", "/nowhere"], "a folder that exists, not '/nowhere'"),
        (["--users", "3"], "even number"),
        (["--window", "8,none"], "at least 1, not 'none'"),
        (["--store", "cellar"], "takes memory"),
        (["--users", "2000000000"], "ulimit -n"),
    ],
)
def test_wrong_option_is_one_line(words: list[str], advice: str) -> None:
    """If this fails, who mistypes an option gets a page of usage or a traceback instead of a line that says what to do."""
    outcome = bench("--quick", *words)
    assert outcome.returncode == 2
    assert len(outcome.stderr.splitlines()) == 1
    assert advice in outcome.stderr


@pytest.mark.parametrize("words", [["--window=1"], ["--window=1", "--strategy=broadcast", "--nodes=1"]])
def test_an_interrupt_keeps_what_was_measured(words: list[str], tmp_path: Path) -> None:
    """If this fails, whoever stops a run of many repeats has waited for nothing."""
    command = [sys.executable, "-m", "benchmarks", "load", "--quick", "--no-limit", "--repeat=100", "--json", f"--data={tmp_path}", *words]
    run = subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert run.stderr is not None
    while not (line := run.stderr.readline()).startswith("2/100 "):  # the first is kept by then
        assert line, "it has ended"
    run.send_signal(signal.SIGINT)
    told, progress = run.communicate(timeout=60)
    assert run.returncode == 130, progress
    assert [json.loads(row)["delivered_per_s"] > 0 for row in told.splitlines()] == [True]
    assert list(tmp_path.iterdir()) == []


@needs_compiler
@pytest.mark.parametrize("driver", ["c", "python"])
@pytest.mark.parametrize(("planted", "fault"), [("PLANT_LOSS=50", "messages were lost"), ("PLANT_DOUBLE=50", "came twice")])
def test_load_notices_what_a_server_does_wrong(driver: str, planted: str, fault: str, tmp_path: Path) -> None:
    """If this fails, a server that loses or doubles messages gets good figures."""
    load = [str(build("load"))] if driver == "c" else [sys.executable, "-m", "benchmarks.load_loop"]
    words = ["--users=10", "--window=8", "--seconds=0.2", "--warmup=0.1", "--patience=5"]
    with running("relay", [str(build("relay", planted))], choose_cores().server, tmp_path) as server:
        command = [*load, f"--port={server.port}", f"--pid={server.pid}", *words]
        outcome = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=120, check=False)
    assert outcome.returncode == 0, outcome.stderr
    assert any(fault in line for line in judge(json.loads(outcome.stdout)))


@needs_compiler
def test_limit_outlives_garbage(tmp_path: Path) -> None:
    """If this fails, one broken frame ends the relay, and with it a whole run of the benchmark."""
    garbage = [b"\xff" * 64, b"GET / HTTP/1.1\r\n\r\n", bytes(16), b"\x00\x00\x00\x02\x01\x00\x01\x02" + bytes(10)]
    hello = b"\x00\x00\x00\x0e\x01\x00\x01\x01" + bytes(8) + b"\x01\x01" + bytes(12)
    with running("relay", [str(build("relay"))], choose_cores().server, tmp_path) as server:
        address = ("127.0.0.1", server.port)
        with socket.create_connection(address, timeout=60) as innocent:
            for data in garbage:
                with socket.create_connection(address, timeout=60) as stranger:
                    stranger.sendall(data)
                    assert stranger.recv(1) == b""
            innocent.sendall(hello)
            assert innocent.recv(8)[4:] == b"\x01\x01\x01\x01"
        assert server.process.poll() is None
