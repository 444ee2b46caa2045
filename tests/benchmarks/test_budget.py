"""The budget and the run of all parts: that rows are judged rightly, and that nothing that was measured is lost.

Strategy: the sources of the budget are other commands, which have tests of their own; here their figures are given.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks.__main__ import COMMANDS, PARTS, Parser, main
from benchmarks.budget import BUDGET, SOURCES, command
from benchmarks.parts import objects
from benchmarks.servers import environment

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="the benchmark reads CPU and memory from /proc: Linux only")

GIVEN: dict[str, list[dict[str, Any]]] = {
    "load": [
        {"store": "memory", "window": 1, "ratio_to_limit": 1.5},
        {"store": "memory", "window": 8, "ratio_to_limit": 5.0},
        {"store": "sqlite", "window": 1, "ratio_to_limit": 4.1},
        {"store": "sqlite", "window": 8, "ratio_to_limit": None},
    ],
    "tls": [{"tls": False, "cpu_us_per_message": 20.0}, {"tls": True, "cpu_us_per_message": 36.0}],
    "half": [{"rate": None, "p99_ms": 50.0}, {"rate": 900, "p99_ms": 4.0}],
    "connections": [
        {"method": "anonymous", "rss_kib_per_connection": 3.0, "cpu_us_per_login": 150.0},
        {"method": "resume", "rss_kib_per_connection": None, "cpu_us_per_login": 90.0},
        {"method": "token", "rss_kib_per_connection": 3.0, "cpu_us_per_login": 320.0},
    ],
    "connections-tls": [{"method": "anonymous", "rss_kib_per_connection": 26.0, "cpu_us_per_login": 600.0}],
    "nodes": [
        {"strategy": "routed", "nodes": 2, "cpu_us_per_message": 40.0},
        {"strategy": "routed", "nodes": 8, "cpu_us_per_message": 50.0},
        {"strategy": "broadcast", "nodes": 2, "cpu_us_per_message": 50.0},
        {"strategy": "broadcast", "nodes": 8, "cpu_us_per_message": 150.0},
    ],
}


def write(folder: Path) -> None:
    """Has the sources measured, as it were."""
    for name, found in GIVEN.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in found))


def test_rows_are_judged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """If this fails, a row is said to be met that is missed, or has another row's figure; or what there was is measured again."""
    write(tmp_path)
    assert main(["budget", f"--out={tmp_path}", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert json.loads((tmp_path / "budget.json").read_text()) == told
    assert [(row["measured"], row["verdict"]) for row in told["rows"]] == [
        (1.5, "stretch"),
        (5.0, "met"),
        (4.1, "missed"),
        (None, "not measured"),
        (1.8, "met"),
        (4.0, "stretch"),
        (3.0, "met"),
        (26.0, "stretch"),
        (pytest.approx(11111.1, rel=1e-4), "stretch"),
        (3125.0, "missed"),
        (None, "not measured"),
        (1.25, "missed"),
        (3.0, "met"),
    ]
    assert told["rows"][2]["ratio"] == 1.025
    assert all(bool(row["why"]) == (row["verdict"] == "not measured") for row in told["rows"])
    assert main(["budget", f"--out={tmp_path}"]) == 0
    shown = capsys.readouterr().out
    assert "11,111/s" in shown
    assert "there are no groups yet" in shown


def test_sources_are_commands(tmp_path: Path) -> None:
    """If this fails, a row can never be measured: its source is no command line that there is."""
    assert {line.source for line in BUDGET} == {*SOURCES, ""}
    outcome = subprocess.run(
        [sys.executable, "-c", "from benchmarks import load, connections; print('both')"],
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert outcome.stdout == "both\n"
    from benchmarks import budget, connections, load

    for quick in (True, False):
        parser = Parser()
        budget.add_arguments(parser)
        options = parser.parse_args([f"--data={tmp_path}", *(["--quick"] if quick else [])])
        for name in SOURCES:
            verb, *words = command(name, options)
            reader = Parser()
            {"load": load, "connections": connections}[verb].add_arguments(reader)
            assert reader.parse_args(words).json is True


def test_one_source_is_measured(tmp_path: Path) -> None:
    """If this fails, the budget does not measure what it lacks, with the command that is meant, or does not keep it."""
    write(tmp_path)
    (tmp_path / "tls.jsonl").unlink()
    words = [sys.executable, "-m", "benchmarks", "budget", "--quick", "--json", f"--out={tmp_path}", f"--data={tmp_path}"]
    outcome = subprocess.run(words, env=environment(), capture_output=True, text=True, timeout=120, check=False)
    assert outcome.returncode == 0, outcome.stderr
    rows = {row["row"]: row for row in json.loads(outcome.stdout)["rows"]}
    assert rows["the first row under TLS"]["measured"] > 0
    assert [row["tls"] for row in objects(tmp_path / "tls.jsonl")] == [False, True]


def test_parts_are_commands(tmp_path: Path) -> None:
    """If this fails, `all` runs something that is no command, or leaves one out. Load and connections are parts of the budget."""
    measured = {words[0] for words, *_ in PARTS.values()} | {words[0] for words, _ in SOURCES.values()}
    assert measured | {"all"} == set(COMMANDS)


def test_an_interrupt_keeps_what_there_is(tmp_path: Path) -> None:
    """If this fails, whoever stops `all` in its second part has lost the first, or has processes left running."""
    out = tmp_path / "out"
    out.mkdir()
    code = (
        "import sys; from benchmarks import __main__ as m; "
        "m.PARTS = {'capacity': (['capacity', '--nodes=2', '--json'], [], []), "
        "'load': (['load', '--quick', '--store=sqlite', '--seconds=30'], [], []), 'never': (['capacity'], [], [])}; "
        "sys.exit(m.main(['all', '--out', sys.argv[1]]))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(out)], env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    deadline = time.monotonic() + 60
    while "files of stores" not in process.stderr.readline():  # the load says where, before it begins
        assert time.monotonic() < deadline
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    shown, _ = process.communicate(timeout=120)
    assert process.returncode == 130
    assert json.loads((out / "capacity.txt").read_text())["rows"]
    assert [part["status"] for part in json.loads((out / "all.json").read_text())["parts"]] == [0, 130]
    assert "interrupted" in shown
