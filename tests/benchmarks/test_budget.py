"""The budget and the run of all parts: that rows are judged rightly, and that nothing that was measured is lost.

Strategy: the sources of the budget are other commands, which have tests of their own; here their figures are given.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest

from benchmarks.__main__ import COMMANDS, PARTS, Parser, main
from benchmarks.budget import BLOCKS, BUDGET, SOURCES, command, kept_in
from benchmarks.pages import BEGIN, END
from benchmarks.parts import objects, run_part
from benchmarks.servers import environment, running

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="the benchmark reads CPU and memory from /proc: Linux only")

GIVEN: dict[str, list[dict[str, Any]]] = {
    "load": [
        {"store": "memory", "window": 1, "ratio_to_limit": 1.5},
        {"store": "memory", "window": 8, "ratio_to_limit": 5.0},
        {"store": "sqlite", "window": 1, "ratio_to_limit": 4.1},
        {"store": "sqlite", "window": 8, "ratio_to_limit": None},
    ],
    "tls": [{"tls": False, "cpu_us_per_message": 20.0}],
    "half": [{"store": "sqlite", "rate": None, "p99_ms": 50.0}]
    + [
        {"store": store, "rate": 900, "cpu_us_per_message": 50.0, "p50_ms": 1.0, "p99_ms": p99}
        for store, p99 in (("memory", 2.0), ("sqlite", 4.0))
    ],
    "connections": [
        {"method": "anonymous", "rss_kib_per_connection": 3.0, "cpu_us_per_login": 150.0},
        {"method": "resume", "rss_kib_per_connection": None, "cpu_us_per_login": 90.0},
        {"method": "token", "rss_kib_per_connection": 3.0, "cpu_us_per_login": 320.0},
    ],
    "connections-tls": [{"method": "anonymous", "rss_kib_per_connection": 26.0, "cpu_us_per_login": 600.0}],
    "group": [{"cpu_us_per_delivery": 2.5}],
    "nodes": [
        {"strategy": "routed", "nodes": 2, "cpu_us_per_message": 40.0},
        {"strategy": "routed", "nodes": 8, "cpu_us_per_message": 50.0},
        {"strategy": "broadcast", "nodes": 2, "cpu_us_per_message": 50.0},
        {"strategy": "broadcast", "nodes": 8, "cpu_us_per_message": 150.0},
    ],
}


#: What every row of the load has.
COMMON = {
    "strategy": "single",
    "tls": False,
    "users": 1000,
    "payload": 100,
    "repeat": 3,
    "seconds": 3.0,
    "driver": "c",
    "file_system": "ext4",
    "python": "3.99.1",
    "machine": "an abacus",
    "date": "2001-02-03T04:05:06Z",
    "limit_cpu_us_per_message": 10.0,
    "limit_delivered_per_s": 90000.0,
    "delivered_per_s": 40000.0,
    "cpu_us_per_message": 15.0,
    "p50_ms": 11.0,
    "p99_ms": 19.0,
}


def write(folder: Path, *, quick: bool = False) -> None:
    """Has the sources measured, as it were."""
    for name, found in GIVEN.items():
        kept_in(folder, name, quick=quick).write_text("".join(json.dumps({**COMMON, **row}) + "\n" for row in found))


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
        (15.0, "met"),
        (None, "not measured"),
        (4.0, "stretch"),
        (3.0, "met"),
        (26.0, "stretch"),
        (pytest.approx(11111.1, rel=1e-4), "stretch"),
        (3125.0, "missed"),
        (400_000.0, "met"),
        (1.25, "missed"),
        (3.0, "met"),
    ]
    assert told["rows"][2]["ratio"] == 1.025
    assert all(bool(row["why"]) == (row["verdict"] == "not measured") for row in told["rows"])
    assert all(row["note"] for row in told["rows"] if row["verdict"] == "missed"), "nobody is told what holds it back"
    assert told["python"] == "3.99.1", "figures are said to be of another Python than they are"
    assert main(["budget", f"--out={tmp_path}"]) == 0
    shown = capsys.readouterr().out
    assert "11,111/s" in shown
    assert "Its source, tls, failed" in shown
    assert "routed, 2 → 8 nodes" in shown


def test_a_row_says_how_many_nodes_ran(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """If this fails, a quick run on three nodes is read as one on eight, or the next full run takes its figures for its own."""
    write(tmp_path, quick=True)
    few = [{**row, "nodes": min(row["nodes"], 3)} for row in GIVEN["nodes"]]
    kept_in(tmp_path, "nodes", quick=True).write_text("".join(json.dumps({**COMMON, **row}) + "\n" for row in few))
    assert main(["budget", f"--out={tmp_path}", "--quick", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [row["row"] for row in told["rows"] if "nodes" in row["row"]] == [
        "routed, 2 → 3 nodes, cost of a message",
        "broadcast, 2 → 3 nodes, cost of a message",
    ]
    assert not any(objects(kept_in(tmp_path, name, quick=False)) for name in SOURCES)


def test_page_has_the_tables(tmp_path: Path) -> None:
    """If this fails, the documentation keeps the budget of an older run, or other figures of the load beside it."""
    page = tmp_path / "page.md"
    page.write_text("before\n" + "".join(f"{BEGIN.format(name)}\nold\n{END.format(name)}\n" for name in BLOCKS) + "after\n")
    write(tmp_path)
    assert main(["budget", f"--out={tmp_path}", f"--page={page}"]) == 0
    text = page.read_text()
    assert "old" not in text
    assert (text.startswith("before\n"), text.endswith("after\n")) == (True, True)
    assert "| six packets, on disk first (SQLite), window 1 (1) | ≤ 4 × limit | ≤ 2.5 × limit | 4.1 × limit | 1.02 | missed |" in text
    assert "| limit (C, no store) | 1 | 90,000 | 10 µs | 1 | – | – |" in text
    assert "| single, memory | 1 | 40,000 | 15 µs | **1.50** | 11 ms | 19 ms |" in text
    assert "| single, sqlite | 900/s | 50 µs | 1 ms | 4 ms |" in text


def test_sources_are_commands(tmp_path: Path) -> None:
    """If this fails, a row can never be measured: its source is no command line that there is."""
    assert {line.source for line in BUDGET} == {*SOURCES}
    outcome = subprocess.run(
        [sys.executable, "-c", "from benchmarks import load, connections, group; print('all')"],
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert outcome.stdout == "all\n"
    from benchmarks import budget, connections, group, load

    for quick in (True, False):
        parser = Parser()
        budget.add_arguments(parser)
        options = parser.parse_args([f"--data={tmp_path}", *(["--quick"] if quick else [])])
        for name in SOURCES:
            verb, *words = command(name, options)
            reader = Parser()
            {"load": load, "connections": connections, "group": group}[verb].add_arguments(reader)
            assert reader.parse_args(words).json is True


def test_one_source_is_measured(tmp_path: Path) -> None:
    """If this fails, the budget does not measure what it lacks, with the command that is meant, or does not keep it."""
    write(tmp_path)
    for name in SOURCES:
        kept_in(tmp_path, name, quick=False).rename(kept_in(tmp_path, name, quick=True))
    kept_in(tmp_path, "tls", quick=True).unlink()
    words = [sys.executable, "-m", "benchmarks", "budget", "--quick", "--json", f"--out={tmp_path}", f"--data={tmp_path}"]
    outcome = subprocess.run(words, env=environment(), capture_output=True, text=True, timeout=120, check=False)
    assert outcome.returncode == 0, outcome.stderr
    rows = {row["row"]: row for row in json.loads(outcome.stdout)["rows"]}
    assert rows["the first row under TLS"]["measured"] > 0
    assert [row["tls"] for row in objects(kept_in(tmp_path, "tls", quick=True))] == [False, True]


def test_parts_are_commands(tmp_path: Path) -> None:
    """If this fails, `all` runs something that is no command, or leaves one out. Load and connections are parts of the budget."""
    measured = {words[0] for words, *_ in PARTS.values()} | {words[0] for words, _ in SOURCES.values()}
    assert measured | {"all"} == set(COMMANDS)


class Interrupted(subprocess.Popen[Any]):
    """A child, in the midst of whose start somebody presses Ctrl-C: it runs, and who starts it does not know it yet."""

    pids: ClassVar[list[int]] = []

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.pids.append(self.pid)
        signal.raise_signal(signal.SIGINT)


def start_part(folder: Path) -> None:
    """Runs a command as a part."""
    run_part(["load", "--quick", "--seconds=30"], folder / "part.txt")


def start_server(folder: Path) -> None:
    """Runs something that is no server, and never listens."""
    with running("sleeper", [sys.executable, "-c", "import time; time.sleep(60)"], min(os.sched_getaffinity(0)), folder):
        pass


@pytest.mark.parametrize("start", [start_part, start_server])
def test_an_interrupt_while_something_starts(start: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If this fails, Ctrl-C at the wrong instant leaves a load or a server running, which disturbs whatever is measured next."""
    monkeypatch.setattr(subprocess, "Popen", Interrupted)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        start(tmp_path)
    assert not Path(f"/proc/{Interrupted.pids[-1]}").exists()
    assert signal.getsignal(signal.SIGINT) is before


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
