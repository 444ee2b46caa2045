"""The comparison of schemes: that one command measures, kills, draws and writes down, and that an interrupt loses nothing.

Strategy: the program is run as its users run it, in its short form, on real processes.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

from benchmarks.__main__ import main
from benchmarks.schemes import RESULTS
from benchmarks.servers import environment

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="the benchmark reads CPU and memory from /proc: Linux only")

SHORT = ["--quick", "--users=6", "--schemes=broadcast,mesh", "--nodes=2"]
FIGURES = {
    *("delivered_per_s", "p50_ms", "p99_ms", "p999_ms", "node_cpu_us_per_message", "route_server_cpu_us_per_message"),
    *("redis_cpu_us_per_message", "copies_per_message", "wasted_copies_per_message", "hops_per_message", "bytes_per_message", "settings"),
}


def bench(*words: str) -> subprocess.Popen[str]:
    """Starts `python -m benchmarks schemes`."""
    command = [sys.executable, "-m", "benchmarks", "schemes", *words]
    return subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_short_run(tmp_path: Path) -> None:
    """If this fails, whoever wants to choose a scheme gets no figures, no pictures, or a message lost when a node is killed."""
    data = tmp_path / "data"
    data.mkdir()
    run = bench(*SHORT, "--json", f"--out={tmp_path}", f"--data={data}")
    told, progress = run.communicate(timeout=300)
    assert run.returncode == 0, progress
    found = json.loads(told)
    assert found == json.loads((tmp_path / RESULTS).read_text())
    assert [(row["scheme"], row["nodes"], row["faults"]) for row in found["rows"]] == [("broadcast", 2, []), ("routed mesh", 2, [])]
    for row in found["rows"]:
        assert all(row[name] is not None for name in FIGURES)
        assert row["histogram_ms"]
        assert row["copies_per_message"] == pytest.approx(1, abs=0.1)
    assert found["rows"][0]["settings"] > found["rows"][1]["settings"]
    assert [(kill["name"], kill["lost"], kill["faults"]) for kill in found["kills"]] == [("routed mesh: a node is killed", 0, [])]
    assert found["kills"][0]["late"]
    assert found["kills"][0]["recovery_s"] > 0
    assert list(data.iterdir()) == []
    drawn = {path.name for path in tmp_path.iterdir() if path.stat().st_size > 5000}
    if find_spec("matplotlib") is None:
        assert "pip install matplotlib" in progress
    else:
        assert drawn > {f"{name}.{kind}" for name in ("copies", "cost", "latency", "recovery") for kind in ("png", "svg")}


def test_an_interrupt_keeps_what_was_measured(tmp_path: Path) -> None:
    """If this fails, who stops a long run has waited for nothing, processes go on without him, or he must begin anew."""
    data = tmp_path / "data"
    data.mkdir()
    run = bench(*SHORT, "--no-kills", f"--out={tmp_path}", f"--data={data}", "--nodes=1,2,3,4")
    deadline = time.monotonic() + 60
    while not (measured(tmp_path) and list(data.iterdir())):  # the next one is under way
        assert run.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    run.send_signal(signal.SIGINT)
    _, told = run.communicate(timeout=120)
    assert run.returncode == 130
    assert "interrupted" in told
    assert "Traceback" not in told
    before = measured(tmp_path)
    assert before
    assert list(data.iterdir()) == []
    other = bench(*SHORT, "--no-kills", f"--out={tmp_path}", f"--data={data}", "--resume", "--payload=7")
    _, told = other.communicate(timeout=60)
    assert (other.returncode, len(told.splitlines())) == (2, 1)
    assert "of a run with payload 100, not 7" in told
    run = bench(*SHORT, "--no-kills", f"--out={tmp_path}", f"--data={data}", "--nodes=1,2", "--resume")
    _, told = run.communicate(timeout=120)
    assert run.returncode == 0, told
    found = measured(tmp_path)
    assert all(row in found for row in before), "what was measured is measured again, or gone"
    assert {2} <= {row["nodes"] for row in found}


def measured(folder: Path) -> list[dict[str, object]]:
    """The rows that are written down."""
    results = folder / RESULTS
    text = results.read_text() if results.exists() else ""
    found: list[dict[str, object]] = json.loads(text)["rows"] if text else []
    return found


@pytest.mark.parametrize(
    ("words", "advice"),
    [
        (["--users", "3"], "even number"),
        (["--schemes", "ring"], "takes broadcast, mesh, parallel, redis, single, star"),
        (["--nodes", "0"], "from 1 to 64"),
        (["--draw", "/"], "is no result of this command"),
        (["--out", "/proc/nowhere"], "--out"),
    ],
)
def test_wrong_option_is_one_line(words: list[str], advice: str, capsys: pytest.CaptureFixture[str]) -> None:
    """If this fails, who mistypes an option gets a page of usage or a traceback instead of a line that says what to do."""
    with pytest.raises(SystemExit) as ended:
        main(["schemes", "--quick", *words])
    told = capsys.readouterr().err
    assert ended.value.code == 2
    assert len(told.splitlines()) == 1
    assert advice in told
