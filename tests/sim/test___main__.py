"""`python -m twisted_im.sim`, as somebody types it."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.running import PATIENCE
from twisted_im.oracle import LAWS
from twisted_im.sim.run import INVARIANTS
from twisted_im.sim.scenario import FAULTS, TOPOLOGIES, draw

ROOT = Path(__file__).parent.parent.parent
COMMAND = [sys.executable, "-m", "twisted_im.sim"]

#: The same command, with devices that have forgotten what they showed last when their application starts again.
PLANTED = [
    sys.executable,
    "-c",
    "import sys; from twisted_im.faults.recorder import Recorder;"
    "Recorder.__init__.__kwdefaults__['plant'] = 'repeat';"
    "from twisted_im.sim.__main__ import main; sys.exit(main(sys.argv[1:]))",
]


def call(words: list[str], *, command: list[str] = COMMAND, hash_seed: str = "0", **options: Any) -> subprocess.CompletedProcess[str]:
    """Runs the command in a checkout."""
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)}
    return subprocess.run([*command, *words], capture_output=True, text=True, env=environment, timeout=300, check=False, **options)


def digest(text: str) -> str:
    """What was printed as the run's."""
    found = re.search(r"^digest ([0-9a-f]{16});", text, re.MULTILINE)
    assert found, text
    return found[1]


def test_seeds(tmp_path: Path) -> None:
    """If this fails, nobody can tell how much was tried, or trusts a status that says nothing."""
    file = tmp_path / "figures.json"
    done = call(["--seeds", "0..3", "--length", "2", "--jobs", "2", "--json", str(file)])
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    for words in ("seeds", "0 to 3", "run twice and compared", "hours", "times real time", "events a second", "sent, accepted, shown"):
        assert words in done.stdout
    assert re.search(r"^seeds with violations +0$", done.stdout, re.MULTILINE)
    figures = json.loads(file.read_text())
    assert figures["seeds"] == 4
    assert figures["twice"] == 1
    assert figures["violations"] == {}
    assert figures["simulated_seconds"] > 8
    assert figures["times_real_time"] > 0
    assert sum(figures["faults"].values()) == sum(len(draw(seed, seconds=2.0).faults) for seed in range(4))


def test_a_violation_is_made_small_and_replayed() -> None:
    """If this fails, a violation cannot be understood, or what was understood was another run."""
    seeds = [seed for seed in range(200) if any(fault.kind == "app" for fault in draw(seed, seconds=8.0).faults)]
    wholes = ((seed, call(["--seed", str(seed), "--length", "8.0", "--whole"], command=PLANTED)) for seed in seeds[:20])
    seed, whole = next((seed, done) for seed, done in wholes if done.returncode == 1)
    assert f"replay: python -m twisted_im.sim --seed {seed} --length 8.0\n" in whole.stdout

    found = call(["--seed", str(seed), "--length", "8.0"], command=PLANTED)
    assert found.returncode == 1, found.stdout + found.stderr
    assert "D0: " in found.stdout
    assert "; it fails still:" in found.stdout
    story, _, _ = found.stdout.partition("digest")
    faults = [line for line in story.splitlines()[1:] if " messages, from " not in line]
    assert 1 <= len(faults) <= 2, story
    assert len(re.findall(r"\d messages", story)) <= 3

    command = next(line.partition("replay: ")[2] for line in found.stdout.splitlines() if "replay: " in line)
    words = shlex.split(command)
    assert words[:3] == ["python", "-m", "twisted_im.sim"]
    again = call(words[3:], command=PLANTED, hash_seed="7")
    assert again.returncode == 1
    assert digest(again.stdout) == digest(found.stdout)
    assert "D0: " in again.stdout
    sound = call(words[3:])
    assert sound.returncode == 0, sound.stdout
    assert "every promise was kept" in sound.stdout


def test_trace_and_picture(tmp_path: Path) -> None:
    """If this fails, somebody who wants to see what happens in a run sees nothing, or gets an error when closing the pager."""
    picture = tmp_path / "run.svg"
    words = ["--seed", "4", "--length", "2", "--trace"]
    done = call([*words, "--svg", str(picture), "--from", "0", "--to", "1"])
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert re.search(r"^ +0\.000000 .* start", done.stdout)
    assert picture.read_text().count("<title>") > 20

    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([*COMMAND, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as run:
        assert run.stdout is not None
        assert run.stderr is not None
        run.stdout.readline()
        run.stdout.close()
        assert run.stderr.read() == ""
    assert run.returncode == 128 + signal.SIGPIPE


@pytest.mark.skipif(sys.platform != "linux", reason="children are looked up in /proc")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_workers_end_with_it(how: signal.Signals) -> None:
    """If this fails, a campaign that was broken off tells nothing of what it had, or goes on in the background."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    words = ["--seeds", "0..", "--minutes", "10", "--jobs", "2"]
    with subprocess.Popen([*COMMAND, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as run:
        children = Path(f"/proc/{run.pid}/task/{run.pid}/children")
        wait(lambda: sum(has_begun(child) for child in children.read_text().split()) == 2)
        workers = children.read_text().split()
        run.send_signal(how)
        told, complaints = run.communicate(timeout=PATIENCE)
        wait(lambda: not any(has_begun(child) for child in workers))
    if how == signal.SIGKILL:
        return
    assert run.returncode == 130
    assert "seeds with violations" in told
    assert complaints == "broken off: these are the figures until then\n"


def has_begun(pid: str) -> bool:
    """Whether a worker is there, and has taken a session of its own."""
    try:
        state, _, _, session = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:4]
    except FileNotFoundError:
        return False
    return session == pid and state != "Z"


def wait(condition: Callable[[], bool]) -> None:
    """Until something is so."""
    until = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--seeds", "9..3"], "--seeds: takes seeds such as 0..999"),
        (["--seeds", "many"], "--seeds: takes seeds such as 0..999"),
        (["--seed", "-1"], "--seed: "),
        (["--seed", "3", "--jobs", "2"], "--jobs does not go with --seed"),
        (["--trace"], "--trace needs --seed N"),
        (["--seconds", "3"], "--seconds needs --seed N"),
        (["--seed", "3", "--from", "2"], "--svg FILE"),
        (["--seed", "3", "--svg", "nowhere/run.svg"], "--svg: takes a file that can be written"),
        (["--json", "."], "--json: takes a file that can be written"),
        (["--store", "redis"], "--store: invalid choice"),
        (["--minutes", "nan"], "--minutes: takes a number"),
        (["--jobs", "0"], "--jobs: takes a whole number"),
        (["--seed", "3", "--faults", "900"], "--faults: takes numbers below"),
        (["--seed", "3", "--faults", "0:soon"], "--faults: takes seconds after the colon"),
        (["--seed", "3", "--sendings", "a"], "--sendings: takes numbers such as"),
        (["--seed", "3", "--devices", "eve/phone"], "--devices: takes some of user0/phone"),
    ],
)
def test_mistakes(words: list[str], said: str, tmp_path: Path) -> None:
    """If this fails, a mistake is a traceback, or starts a run of something else."""
    done = call(words, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert said in done.stderr


def test_nothing_to_run() -> None:
    """If this fails, a campaign that has tried nothing looks like one that found nothing."""
    seed = next(seed for seed in range(100) if draw(seed).topology == "one")
    done = call(["--seeds", str(seed), "--topology", "standby"])
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "no seed was run" in done.stderr


def test_the_page_has_every_fault_and_every_law() -> None:
    """If this fails, a reader of docs/simulator.md meets a word in a trace, or letters before a violation, that it does not explain."""
    page = (ROOT / "docs" / "simulator.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `([\w-]+)` \| (.+?) \|", page, re.MULTILINE))
    assert {**TOPOLOGIES, **{kind: what for kind, (what, _, _) in FAULTS.items()}} == rows
    laws = set(re.findall(r"^\| \*\*([A-Z]\d)\*\* \|", page, re.MULTILINE))
    assert laws == {*LAWS, *INVARIANTS, "D1"}
