"""The capacity model: its formulas against brute force, its copies against those of real clusters, and the command as its users run it.

Strategy: what is exact is compared with counting on small numbers; what is an approximation, with a simulation of just that part. What
steps cost differs from machine to machine, so no cost decides a test.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.__main__ import main
from benchmarks.capacity import ASKED, BLOCKS, NODES, PAGE, STORED, add_arguments, ask, crossings, page_blocks, rows
from benchmarks.capacity import CLUSTERS as CLUSTER_NAMES
from benchmarks.costs import Run, least_squares, read_costs
from benchmarks.model import MOST_READ, STEPS, Case, Costs, batch, copies, crossing, links, occupied, predict
from benchmarks.pages import filled
from benchmarks.schemes import SCHEMES
from benchmarks.servers import environment
from tests.pages import ROOT

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="the benchmark reads CPU and memory from /proc: Linux only")

CLUSTERS = [SCHEMES[name] for name in ("broadcast", "star", "mesh", "redis")]


def asked(*words: str) -> argparse.Namespace:
    """The options of the command."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(list(words))


@given(st.integers(1, 4), st.integers(0, 5))
def test_frames_of_a_batch_are_counted(peers: int, pushes: int) -> None:
    """If this fails, the model believes in too many or too few frames between nodes for a batch: the mean over all ways to spread it."""
    ways = list(itertools.product(range(peers), repeat=pushes))
    assert occupied(peers, pushes) == pytest.approx(sum(len(set(way)) for way in ways) / len(ways))


@given(st.integers(2, 12), st.integers(0, 10), st.sampled_from(["broadcast", "star", "mesh", "redis"]))
def test_copies_are_counted(nodes: int, tenths: int, name: str) -> None:
    """If this fails, a scheme is said to make other copies than it makes: of ten pushes so many stay at home, and each copy is listed."""
    taken = wasted = 0
    for push in range(10):
        origin, receiver = 0, 0 if push < tenths else 1
        sent_to = [node for node in range(nodes) if node != origin and (name == "broadcast" or node == receiver)]
        taken += len(sent_to)
        wasted += sum(node != receiver for node in sent_to)
    assert copies(SCHEMES[name], nodes, tenths / 10) == pytest.approx((taken / 10, wasted / 10))


@given(st.integers(2, 9))
def test_links_are_counted(nodes: int) -> None:
    """If this fails, nobody knows how many connections a mesh of that size needs."""
    pairs = len(list(itertools.combinations(range(nodes), 2)))
    assert [links(scheme, nodes) for scheme in CLUSTERS] == [nodes, nodes, pairs, pairs + nodes]


@pytest.mark.parametrize(("fixed", "each"), [(1.0, 0.0), (3.0, 0.1), (0.2, 0.5), (0.5, 0.8), (0.01, 0.1), (20.0, 0.3)])
def test_batches_are_those_of_a_queue(fixed: float, each: float) -> None:
    """If this fails, the model has a busy node work in batches that such a queue does not have (Poisson arrivals, simulated)."""
    chance = random.Random(1)
    done = batches = waiting = 0
    while done < 40_000:
        taken = waiting or 1  # it waits for one
        done, batches, waiting = done + taken, batches + 1, 0
        left = fixed + each * taken
        while (left := left - chance.expovariate(1.0)) > 0:
            waiting += 1
    assert batch(1.0, fixed, each) == pytest.approx(done / batches, rel=0.12)


@given(st.floats(0, 1e5), st.floats(0, 1), st.floats(0, 1e-2))
def test_batches_grow_with_the_load(arrivals: float, fixed: float, each: float) -> None:
    """If this fails, more load makes a node's batches smaller, or there are batches of less than one."""
    here = batch(arrivals, fixed, each, MOST_READ)
    assert 1.0 <= here <= MOST_READ
    assert batch(2 * arrivals, fixed, each, MOST_READ) >= here - 1e-6


@given(
    st.sampled_from(CLUSTERS), st.integers(1, 1000), st.integers(1, 10**6), st.floats(0, 1), st.floats(0.1, 1e6), st.sampled_from([0, 1, 8])
)
def test_every_question_has_an_answer(scheme: object, nodes: int, users: int, locality: float, rate: float, window: int) -> None:
    """If this fails, some cluster has no answer, or one that cannot be: steps below zero, more frames than copies, no cost."""
    costs, _ = read_costs(STORED)
    case = Case(scheme, nodes, users, locality, rate, window)  # type: ignore[arg-type]
    answer = predict(case, costs)
    assert all(count >= 0 for steps in answer.work.values() for count in steps.values())
    assert answer.us > 0
    assert answer.wasted <= answer.copies
    assert answer.work["node"]["commit"] <= 2.0 + 1e-9
    assert answer.work["route_server"]["write"] <= answer.work["route_server"].get("give", 0.0) + 1e-6


def test_broadcast_grows_and_the_others_do_not() -> None:
    """If this fails, the picture does not show what it is there for: broadcast costs in proportion to its nodes, the others hardly more."""
    costs, _ = read_costs(STORED)
    found = rows(asked("--nodes=2,64,256", "--locality=0"), ["broadcast", "star"], costs)
    cost = {(row["scheme"], row["nodes"]): row["cpu_us_per_message"] for row in found}
    assert cost["broadcast", 256] / cost["broadcast", 64] == pytest.approx(255 / 63, rel=0.25)
    assert cost["routed star", 256] < 3 * cost["routed star", 2]
    told = crossings(found)
    assert [each["full_from"] for each in told if each.get("full") == "broadcast"]
    assert all(row["fits"] for row in found)


def test_a_rate_is_answered_by_loads() -> None:
    """If this fails, `--rate` does not say how busy everything is, or twice the users do not make it busier."""
    costs, _ = read_costs(STORED)
    options = asked("--rate=0.05", "--users=20000")
    case, answer = ask(options, "mesh", 4, 0.5, costs)
    _, more = ask(asked("--rate=0.05", "--users=40000"), "mesh", 4, 0.5, costs)
    assert case.rate == 1000
    assert 0 < answer.node_load < more.node_load < 2 * answer.node_load  # what is busier has larger batches
    full_case, full = ask(asked("--max"), "mesh", 4, 0.5, costs)
    assert full.load == pytest.approx(1, abs=1e-3)
    assert predict(replace(full_case, rate=2 * full_case.rate), costs).load > 1


def test_costs_are_found_again() -> None:
    """If this fails, `--measure` gives costs that do not explain its own runs: these runs cost exactly what their steps cost."""
    steps = {"message": 10.0, "turn": 80.0, "write": 0.0}
    made = [{"message": 1.0, "turn": turns, "write": writes} for turns, writes in ((0.1, 1), (0.5, 2), (2, 2), (1, 4), (3, 3))]
    values = [sum(count * steps[step] for step, count in row.items()) for row in made]
    assert least_squares(made, values, [*steps, "never"]) == pytest.approx({**steps, "never": 0.0}, abs=0.01)
    values[3] -= 200  # as if a write gave CPU back
    assert min(least_squares(made, [max(value, 1) for value in values], list(steps)).values()) >= 0


def test_crossing() -> None:
    """If this fails, the point from which broadcast is dearer is drawn in the wrong place."""
    assert crossing({2: 10, 8: 40}, {2: 20, 8: 20}) == pytest.approx(4)
    assert crossing({2: 30, 8: 40}, {2: 20, 8: 20}) == 2
    assert crossing({2: 1, 8: 2}, {2: 20, 8: 20}) is None


def bench(*words: str) -> subprocess.CompletedProcess[str]:
    """Runs `python -m benchmarks capacity`."""
    command = [sys.executable, "-m", "benchmarks", "capacity", *words]
    return subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=300, check=False)


def test_it_measures_and_checks(tmp_path: Path) -> None:
    """If this fails, costs cannot be measured on another machine, or the copies that are foretold are not those that nodes count."""
    costs = tmp_path / "costs.json"
    words = ["--measure", "--check", "--quick", "--strategy=broadcast", "--nodes=2,100", "--locality=0.5", "--json"]
    outcome = bench(*words, f"--costs={costs}", f"--out={tmp_path}", f"--data={tmp_path}")
    assert outcome.returncode == 0, outcome.stderr
    found = json.loads(outcome.stdout)
    assert json.loads((tmp_path / "capacity.json").read_text()) == found
    measured, stored = read_costs(costs)
    assert isinstance(measured, Costs)
    assert stored["check"] == found["check"]
    assert all(found["costs"][name] is not None for name in ("machine", "python", "version", "date", "commit_s", "rounds", "clump", "fit"))
    assert all(set(steps) <= set(STEPS[part]) for part, steps in found["costs"]["us"].items())
    assert [row["nodes"] for row in found["rows"]] == [2, 100]
    assert [row["nodes"] for row in found["check"]] == [2]
    for row in found["check"]:
        assert row["faults"] == []
        assert row["copies_counted"] == pytest.approx(row["copies"], abs=0.05)
        assert row["wasted_counted"] == pytest.approx(row["wasted"], abs=0.05)
        assert min(row["measured_us"], row["by_steps_us"], row["foretold_us"]) > 0
    pictures = sorted(path.name for path in tmp_path.iterdir() if path.stem == "capacity")
    assert pictures == ["capacity.json", *(["capacity.png", "capacity.svg"] if find_spec("matplotlib") else [])]


def test_the_stored_costs_answer_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    """If this fails, who has measured nothing has no answer, or one that does not say whose costs it has."""
    assert main(["capacity"]) == 0
    told = capsys.readouterr().out
    assert len([line for line in told.splitlines() if "broadcast" in line and "│" in line]) in (0, 3 * len(NODES))
    assert read_costs(STORED)[1]["machine"] in told.replace("\n", " ")
    assert {str(Run(name, 2, 0.0, 0).scheme) for name in ASKED} == {str(scheme) for scheme in ASKED.values()}


def test_page_is_of_the_stored_costs(tmp_path: Path) -> None:
    """If this fails, the page or its picture tells of other costs than lie beside the code: python -m benchmarks capacity --page."""
    text = (ROOT / PAGE).read_text(encoding="utf-8")
    costs, stored = read_costs(STORED)
    told = rows(asked(), list(CLUSTER_NAMES), costs)
    made = page_blocks({"costs": stored, "check": stored["check"], "crossings": crossings(told)})
    assert filled(text, made) == text
    assert stored["date"] in (ROOT / PAGE).with_suffix(".svg").read_text(encoding="utf-8")
    page = tmp_path / PAGE.name
    page.write_text(filled(text, dict.fromkeys(BLOCKS, "old")))
    assert bench("--page", str(page)).returncode == 0
    assert page.read_text(encoding="utf-8") == text
    assert page.with_suffix(".svg").exists() == (find_spec("matplotlib") is not None)


@pytest.mark.parametrize(
    ("words", "advice"),
    [
        (["--page", "/nowhere.md"], "takes a page that exists"),
        (["--bogus"], "see: python -m benchmarks capacity --help"),
        (["--nodes", "0"], "from 1 to 100000, not '0'"),
        (["--strategy", "ring"], "takes broadcast, mesh, parallel, redis, star"),
        (["--rate", "0"], "above 0, not '0'"),
        (["--full", "0"], "a share of a core above 0"),
        (["--costs", "/nowhere/costs.json"], "measure them with --measure"),
        (["--measure", "--quick"], "say with --costs where to keep them"),
        (["--rate", "1", "--max"], "not allowed with argument"),
    ],
)
def test_wrong_option_is_one_line(words: list[str], advice: str, capsys: pytest.CaptureFixture[str]) -> None:
    """If this fails, who mistypes an option gets a page of usage or a traceback instead of a line that says what to do."""
    with pytest.raises(SystemExit) as ended:
        main(["capacity", *words])
    told = capsys.readouterr().err
    assert ended.value.code == 2
    assert len(told.splitlines()) == 1
    assert advice in told
