"""What each step of a message costs (`benchmarks.model`), measured on real processes; and whether the model foretells what others cost.

Strategy: processes count their own steps, so a run gives an equation: so many turns, commits, writes and copies have taken so much CPU.
Single servers and clusters of two, loaded weakly and strongly, with all messages local and with none, give more equations than there are
steps, and their least squares, relative to each, with no step below zero, are the costs. What a process does for nobody is measured on
clusters that are left alone.

The check runs clusters that took no part in this, of one to eight nodes, and foretells the CPU of a message twice: from the steps that the
model has copies of and the batches that were counted, which tries the costs; and wholly, which tries the batches too. The second
supposes that nobody else uses the cores and the disk meanwhile.
"""

from __future__ import annotations

import json
import math
import platform
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.clusters import PARTS, Scheme, even, measure, running
from benchmarks.driving import Figures, medians
from benchmarks.model import PACKETS, PUSHES, STEPS, Case, Costs, Work, answer, predict, shared
from benchmarks.schemes import SCHEMES
from benchmarks.servers import Cores, cpu_seconds
from benchmarks.terminal import file_system, machine
from twisted_im import __version__

STORE = "sqlite"
PAYLOAD = 100  #: bytes of content in a message
IDLE_NODES = 5
COMMITS = 30
#: What is counted instead of foretold, when only the costs are tried.
BATCHED = {"node": ("turn", "commit", "write"), "route_server": ("turn", "write")}
COUNTED = tuple(f"{part}_{step}s_per_message" for part, steps in BATCHED.items() for step in steps)


@dataclass(frozen=True)
class Run:
    """One load on one cluster.

    Attributes:
        name: of the scheme, in `benchmarks.schemes.SCHEMES`.
        rate: messages a second of all; 0 as fast as the window lets them go.
        users: of each node.
    """

    name: str
    nodes: int
    locality: float
    rate: int
    window: int = 8
    users: int = 100
    seconds: float = 2.0
    warmup: float = 0.5

    @property
    def scheme(self) -> Scheme:
        return SCHEMES[self.name]

    def __str__(self) -> str:
        load = f"{self.rate:,}/s" if self.rate else f"window {self.window}"
        return f"{self.scheme}, {self.nodes} node{'s' if self.nodes > 1 else ''}, {self.locality:.0%} local, {load}"


def plan(names: Sequence[str], *, quick: bool) -> list[Run]:
    """The runs that costs are made from."""
    if quick:
        found = [Run("single", 1, 1.0, rate) for rate in (200, 0)]
        found += [Run(name, 2, local, rate) for name in names for local, rate in ((0.0, 300), (1.0, 300), (0.0, 0))]
        return [replace(run, users=12, seconds=0.3, warmup=0.1) for run in found]
    found = [Run("single", 1, 1.0, rate) for rate in (500, 2000)]
    found += [Run("single", 1, 1.0, 0, window=window, users=users) for users, window in ((20, 1), (100, 1), (400, 1), (100, 4), (100, 8))]
    loads = ((0.0, 500, 8), (1.0, 500, 8), (0.0, 2000, 8), (0.0, 0, 8), (1.0, 0, 8), (0.0, 0, 1))
    return found + [Run(name, 2, local, rate, window) for name in names for local, rate, window in loads]


class Taker:
    """Takes runs.

    Strategy: processes count from their start to their end, logins included, and a login is told to every other node. So each kind of
    cluster is run once more with next to no message, and what it counts then is left out.

    Args:
        cores: where processes run.
        data: where stores have their files for a while.
    """

    def __init__(self, cores: Cores, data: Path) -> None:
        self.cores = cores
        self.data = data
        self._before: dict[tuple[str, int, int], dict[str, float]] = {}

    def take(self, run: Run) -> Figures:
        """Runs it once.

        Raises:
            RunError, UnfitError, ServerError: as `benchmarks.clusters.measure`.
        """
        figures = self._take(run)
        key = run.name, run.nodes, run.users
        if key not in self._before:
            few = self._take(replace(run, rate=1, seconds=0.05, warmup=0.05))
            self._before[key] = {name: few[name] * few["accepted"] for name in COUNTED}
        for name, count in self._before[key].items():
            figures[name] = max(figures[name] - count / max(figures["accepted"], 1), 0.0)
        return figures

    def _take(self, run: Run) -> Figures:
        values: dict[str, Any] = {"users": even(run.users * run.nodes, run.nodes), "window": run.window, "payload": PAYLOAD}
        values |= {"seconds": run.seconds, "warmup": run.warmup, "locality": run.locality}
        values |= {"rate": run.rate} if run.rate else {}
        with (
            tempfile.TemporaryDirectory(prefix="twisted_im-benchmarks-", dir=self.data) as folder,
            running(run.scheme, run.nodes, STORE, self.cores, Path(folder)) as cluster,
        ):
            return measure(cluster, self.cores.load, **values)


def commit_seconds(data: Path) -> float:
    """How long a transaction takes that holds nearly nothing: the median of some, on the disk of the stores."""
    with tempfile.TemporaryDirectory(prefix="twisted_im-benchmarks-", dir=data) as folder:
        store = sqlite3.connect(Path(folder) / "probe.db", isolation_level=None)
        try:
            store.execute("PRAGMA journal_mode=WAL")
            store.execute("PRAGMA synchronous=FULL")
            store.execute("CREATE TABLE rows (number INTEGER PRIMARY KEY, content BLOB)")
            took = []
            for _ in range(COMMITS):
                began = time.perf_counter()
                store.execute("INSERT INTO rows (content) VALUES (randomblob(100))")
                took.append(time.perf_counter() - began)
        finally:
            store.close()
    return statistics.median(took)


def _cpu(pid: int) -> float:
    """As `cpu_seconds`, and where the kernel tells, to the nanosecond: a process that idles uses less than a tick in a second."""
    try:
        return sum(int(task.read_text().split()[0]) for task in Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1e9
    except (OSError, ValueError, IndexError):
        return cpu_seconds(pid)


def idle_us(name: str, nodes: int, cores: Cores, data: Path, seconds: float) -> dict[str, float]:
    """µs of CPU in a second of each part of a cluster that nobody uses; of all nodes together."""
    with (
        tempfile.TemporaryDirectory(prefix="twisted_im-benchmarks-", dir=data) as folder,
        running(SCHEMES[name], nodes, STORE, cores, Path(folder)) as cluster,
    ):
        time.sleep(min(seconds, 1.0))  # what a start leaves to do
        before = [_cpu(server.pid) for _, server in cluster.processes]
        began = time.monotonic()
        time.sleep(seconds)
        took = time.monotonic() - began
        found = dict.fromkeys(PARTS, 0.0)
        for (part, server), then in zip(cluster.processes, before, strict=True):
            found[part] += 1e6 * (_cpu(server.pid) - then) / took
    return found


def idle_costs(names: Sequence[str], cores: Cores, data: Path, *, quick: bool) -> dict[str, dict[str, float]]:
    """The costs of being there: of a node, a link, a route server, a Redis, each for a second."""
    nodes, seconds = (2, 0.3) if quick else (IDLE_NODES, 4.0)
    alone = idle_us("single", 1, cores, data, seconds)["node"]
    found: dict[str, dict[str, float]] = {"node": {"idle": alone, "link": 0.0}, "route_server": {}, "redis": {}}
    if "mesh" in names or "redis" in names:
        together = idle_us("mesh", nodes, cores, data, seconds)["node"]
        found["node"]["link"] = max(together - nodes * alone, 0.0) / (nodes * (nodes - 1))
    if "star" in names or "broadcast" in names:
        star = idle_us("star", nodes, cores, data, seconds)
        few = idle_us("star", 1, cores, data, seconds)
        link = max(star["route_server"] - few["route_server"], 0.0) / (nodes - 1)
        found["route_server"] = {"idle": max(few["route_server"] - link, 0.0), "link": link}
        found["node"]["link"] = found["node"]["link"] or max(star["node"] - nodes * alone, 0.0) / nodes
    if "redis" in names:
        found["redis"]["idle"] = idle_us("redis", nodes, cores, data, seconds)["redis"] / nodes
    return found


def counted(run: Run, figures: Figures) -> Work:
    """The steps of a message as the processes have counted them; copies that no counter tells of, as the theory has them."""
    work = shared(case_of(run, figures))
    taken, wasted = PUSHES * figures["copies_per_message"], PUSHES * figures["wasted_copies_per_message"]
    work["node"] |= {"take": taken - wasted, "waste": wasted}
    if not run.scheme.routed_by_server:
        work["node"]["send"] = taken
    return with_batches(work, figures)


def with_batches(work: Work, figures: Figures) -> Work:
    """These steps, with the batches that were counted."""
    told = {part: {step: figures[f"{part}_{step}s_per_message"] for step in steps} for part, steps in BATCHED.items()}
    if work["redis"]["ask"]:
        asked = PUSHES * figures["look_ups_per_message"]
        told["node"]["ask"] = asked
        told["redis"] = {"ask": asked, "batch": told["node"]["commit"]}
        told["bytes"] = {"ask": asked}
    return {part: {**steps, **told.get(part, {})} for part, steps in work.items()}


def case_of(run: Run, figures: Figures, sharing: float = 0.0) -> Case:
    """What the model is asked, to foretell a run."""
    window = 0 if run.rate else run.window
    return Case(run.scheme, run.nodes, run.users * run.nodes, run.locality, max(figures["delivered_per_s"], 1.0), window, sharing)


def least_squares(rows: Sequence[dict[str, float]], values: Sequence[float], steps: Sequence[str]) -> dict[str, float]:
    """The cost of each step by which the rows come nearest to the values, by the ratio; none below zero."""
    import numpy as np

    left = [step for step in steps if any(row.get(step) for row in rows)]
    found = dict.fromkeys(steps, 0.0)
    while left:
        weights = 1 / np.maximum(np.array(values), 1e-9)
        matrix = np.array([[row.get(step, 0.0) for step in left] for row in rows]) * weights[:, None]
        solved = np.linalg.lstsq(matrix, np.array(values) * weights, rcond=None)[0]
        worst = int(solved.argmin())
        if solved[worst] >= 0:
            return found | {step: round(float(cost), 4) for step, cost in zip(left, solved, strict=True)}
        left.pop(worst)
    return found


def fit(runs: Sequence[tuple[Run, Figures]], idle: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """The costs of all steps, from runs and from what it costs to be there."""
    found: dict[str, dict[str, float]] = {}
    works = [counted(run, figures) for run, figures in runs]
    for part, steps in STEPS.items():
        standing = idle.get(part, {})
        rows, values = [], []
        for work, (_, figures) in zip(works, runs, strict=True):
            measured = figures["bytes_per_message" if part == "bytes" else f"{part}_cpu_us_per_message"]
            value = measured - sum(standing.get(step, 0.0) * count for step, count in work[part].items())
            if value > 0:
                rows.append(work[part])
                values.append(value)
        wanted = [step for step in steps if step not in standing]
        found[part] = {**least_squares(rows, values, wanted), **{step: round(cost, 2) for step, cost in standing.items()}}
    return found


def busy(runs: Sequence[tuple[Run, Figures]]) -> tuple[float, float]:
    """Of runs as fast as they go, all local: turns for each commit; and packets of a user that come together, by its window."""
    rounds, clumps = [], []
    for run, figures in runs:
        if not run.rate and run.locality == 1:
            commits = max(figures["node_commits_per_message"], 1e-6)
            rounds.append(figures["node_turns_per_message"] / commits)
            written = min(figures["node_writes_per_message"] / commits, run.users - 1.0)  # connections, of those that there are
            clumps.append(PACKETS / commits / (run.users * -math.log1p(-written / run.users)) / run.window if written else 1.0)
    return round(statistics.median(rounds), 3), round(statistics.median(clumps), 3)


def measure_costs(names: Sequence[str], cores: Cores, data: Path, told: Callable[[str], None], *, repeat: int, quick: bool) -> Figures:
    """Measures everything; gives what is stored.

    Args:
        names: of the schemes, in `benchmarks.schemes.SCHEMES`.
        told: gets a line for each run.
        repeat: how often each is run, in turn; medians count.
    """
    began = time.monotonic()
    waits = [commit_seconds(data)]
    taker = Taker(cores, data)
    runs: dict[Run, list[Figures]] = {run: [] for run in plan(names, quick=quick)}
    for turn in range(1, repeat + 1):
        for run, taken in runs.items():
            figures = taker.take(run)
            taken.append(figures)
            told(f"{turn}/{repeat} {run}: {figures['delivered_per_s']:,.0f}/s, {figures['cpu_us_per_message']:.1f} µs")
        waits.append(commit_seconds(data))
    told("clusters that nobody uses")
    idle = idle_costs(names, cores, data, quick=quick)
    middle = [(run, medians(taken)) for run, taken in runs.items()]
    us = fit(middle, idle)
    faults = [f"{run}: {fault}" for run, taken in runs.items() for figures in taken for fault in figures["faults"]]
    rounds, clump = busy(middle)
    costs = Costs(us, statistics.median(waits), rounds, clump)
    off = [abs(answer(case_of(run, each), counted(run, each), costs).us / each["cpu_us_per_message"] - 1) for run, each in middle]
    return {
        "us": us,
        "commit_s": round(costs.commit_s, 6),
        "rounds": rounds,
        "clump": clump,
        "fit": {"runs": len(middle), "repeat": repeat, "off_median": round(statistics.median(off), 4), "off_worst": round(max(off), 4)},
        "seconds": round(time.monotonic() - began),
        "faults": faults,
        **about(data, cores),
    }


def about(data: Path, cores: Cores) -> Figures:
    """Where and when."""
    return {
        "version": __version__,
        "python": platform.python_version(),
        "machine": machine(),
        "server_cores": len(cores.servers),
        "store": STORE,
        "file_system": file_system(data),
        "payload": PAYLOAD,
        "date": datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
    }


def read_costs(path: Path) -> tuple[Costs, Figures]:
    """Costs from a file, and all that stands in it.

    Raises:
        ValueError: it is none; the text says what to do.
    """
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        us = {part: {step: float(stored["us"][part].get(step, 0.0)) for step in steps} for part, steps in STEPS.items()}
        return Costs(us, *(float(stored[name]) for name in ("commit_s", "rounds", "clump"))), stored
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} holds no costs ({error}): measure them with --measure") from None


def check(runs: Sequence[Run], costs: Costs, taker: Taker, told: Callable[[str], None], *, repeat: int) -> Iterator[Figures]:
    """Runs these on real processes, in turn, and compares. Each comes with the medians when its last turn is over.

    A machine that others use too has another pace each hour. So a single server is measured in turn with them, and what is foretold is
    multiplied by its cost, as a ratio to what was foretold of that.

    Yields:
        `name`, `scheme`, `nodes`, `locality`, `rate`; `pace`, that ratio; `measured_us`, `by_steps_us` (batches as counted), `foretold_us`
        (all foretold), each of the two with its deviation from the measured as `…_off`; `copies`, `copies_counted`, `wasted`,
        `wasted_counted`; `faults`
    """
    found: dict[Run, list[Figures]] = {run: [] for run in runs}
    for turn in range(1, repeat + 1):
        paces: list[float] = []
        nodes = 0
        for run, compared in found.items():
            if run.nodes != nodes:
                nodes = run.nodes
                beside = replace(run, name="single", nodes=1, locality=1.0)
                figures = taker.take(beside)
                case = case_of(beside, figures)
                paces.append(figures["cpu_us_per_message"] / answer(case, with_batches(shared(case), figures), costs).us)
            pace = statistics.median(paces)
            wait = commit_seconds(taker.data)
            figures = taker.take(run)
            case = case_of(run, figures, sharing=len(taker.cores.servers))
            whole = predict(case, replace(costs, commit_s=wait))
            steps = answer(case, with_batches(shared(case), figures), costs)
            compared.append(
                {
                    "delivered_per_s": figures["delivered_per_s"],
                    "measured_us": figures["cpu_us_per_message"],
                    "pace": pace,
                    "by_steps_us": pace * steps.us,
                    "foretold_us": pace * whole.us,
                    "copies": whole.copies,
                    "copies_counted": figures["copies_per_message"],
                    "wasted": whole.wasted,
                    "wasted_counted": figures["wasted_copies_per_message"],
                    "commits_foretold": whole.work["node"]["commit"],
                    "commits_counted": figures["node_commits_per_message"],
                    "faults": figures["faults"],
                }
            )
            measured = figures["cpu_us_per_message"]
            told(f"check {turn}/{repeat} {run}: {measured:.0f} µs, from its steps {pace * steps.us:.0f}, foretold {pace * whole.us:.0f}")
            if turn == repeat:
                row = medians(compared)
                yield {
                    "name": str(run),
                    "scheme": str(run.scheme),
                    "nodes": run.nodes,
                    "locality": run.locality,
                    "rate": run.rate or None,
                    **row,
                    "by_steps_off": round(row["by_steps_us"] / row["measured_us"] - 1, 4),
                    "foretold_off": round(row["foretold_us"] / row["measured_us"] - 1, 4),
                    "faults": [fault for each in compared for fault in each["faults"]],
                }
