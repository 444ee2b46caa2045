"""`python -m benchmarks budget`: what this server may cost, beside what it does cost.

Strategy: the budget is a list of rows, each with a target and a stretch (what would be better still), as a ratio to something measured in
the same run wherever that can be, since a machine that others use too changes its speed from one minute to the next. What the rows need is
measured by the other commands (`SOURCES`), each once for all its rows.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.driving import Figures
from benchmarks.parts import objects, run_part
from benchmarks.terminal import TEMPORARY, folder, machine, print_table, say

EXAMPLES = """
examples:
  python -m benchmarks budget
      every row, in ten minutes
  python -m benchmarks budget --out figures
      and what was measured for it, in figures/*.jsonl; an interrupted run goes on from there

Rows are met, or missed; a row that cannot be measured says why.
"""

#: The rows of each source, as its JSON has them.
Measured = Mapping[str, Sequence[Figures]]

FEW, MANY = 2, 8  #: nodes between which costs are compared
#: What is measured: name → words for `python -m benchmarks`, and what --quick adds.
SOURCES: dict[str, tuple[list[str], list[str]]] = {
    "load": (["load", "--store=memory,sqlite", "--window=1,8", "--seconds=3"], ["--quick"]),
    "tls": (["load", "--tls=both", "--window=1", "--no-limit", "--seconds=3"], ["--quick"]),
    "half": (["load", "--store=sqlite", "--window=1", "--half", "--no-limit", "--seconds=3"], ["--quick"]),
    "connections": (["connections", "--store=memory", "--method=anonymous,resume,token"], ["--count=60"]),
    "connections-tls": (["connections", "--store=memory", "--method=anonymous", "--tls"], ["--count=60"]),
    "nodes": (["load", "--strategy=routed,broadcast", f"--nodes={FEW},{MANY}", "--window=8", "--seconds=3"], ["--quick"]),
}
IN_QUICK = {"nodes": f"--nodes={FEW},3"}  #: what stands for more nodes there


@dataclass(frozen=True)
class Line:
    """One row of the budget.

    Attributes:
        what: is bounded.
        target, stretch: bounds.
        unit: "{}" is where the number stands.
        source: in `SOURCES`; empty for none.
        value: the number, from the rows of the source; None if they lack it.
        least: the number must be at least so much, not at most.
        why: it cannot be measured.
        note: what a reader must know.
    """

    what: str
    target: float
    stretch: float | None
    unit: str
    source: str
    value: Callable[[Sequence[Figures]], float | None] = lambda rows: None
    least: bool = False
    why: str = ""
    note: str = ""

    def judge(self, measured: Measured) -> Figures:
        """What came out, under the names of the output."""
        rows = measured.get(self.source, ())
        value = self.value(rows) if rows else None
        verdict = "not measured"
        ratio = None
        if value is not None:
            ratio = round(value / self.target, 3)
            verdict = "stretch" if self._meets(value, self.stretch) else "met" if self._meets(value, self.target) else "missed"
        why = self.why or ("" if value is not None else f"{self.source}: it failed, or was left out")
        values = {"target": self.target, "stretch": self.stretch, "measured": None if value is None else round(value, 3)}
        bounds = {"at_least": self.least, "unit": self.unit.replace("{}", "").strip()}
        return {"row": self.what, **values, "ratio": ratio, "verdict": verdict, "why": why, "note": self.note, **bounds}

    def _meets(self, value: float, bound: float | None) -> bool:
        return bound is not None and (value >= bound if self.least else value <= bound)

    def told(self, value: float | None) -> str:
        """A number of this row, for people."""
        return "–" if value is None else self.unit.format(f"{value:,.0f}" if value >= 1000 else f"{value:.3g}")


def _one(rows: Sequence[Figures], name: str, **wanted: Any) -> float | None:
    """A figure of the row that has these values."""
    for row in rows:
        if all(row.get(key) == value for key, value in wanted.items()) and row.get(name) is not None:
            return float(row[name])
    return None


def _to_limit(store: str, window: int) -> Callable[[Sequence[Figures]], float | None]:
    return lambda rows: _one(rows, "ratio_to_limit", store=store, window=window)


def _tls(rows: Sequence[Figures]) -> float | None:
    plain, sealed = (_one(rows, "cpu_us_per_message", tls=tls) for tls in (False, True))
    return sealed / plain if plain and sealed else None


def _half(rows: Sequence[Figures]) -> float | None:
    return next((float(row["p99_ms"]) for row in rows if row["rate"]), None)


def _logins(method: str) -> Callable[[Sequence[Figures]], float | None]:
    """A core's worth: by the CPU, since the crowd may be what is slow."""

    def per_core(rows: Sequence[Figures]) -> float | None:
        us = _one(rows, "cpu_us_per_login", method=method)
        return 1e6 / us if us else None

    return per_core


def _growth(strategy: str) -> Callable[[Sequence[Figures]], float | None]:
    """The cost on most nodes by that on fewest."""

    def grown(rows: Sequence[Figures]) -> float | None:
        costs = {int(row["nodes"]): float(row["cpu_us_per_message"]) for row in rows if row["strategy"] == strategy}
        return costs[max(costs)] / costs[min(costs)] if len(costs) > 1 and costs[min(costs)] else None

    return grown


#: The budget.
BUDGET = (
    Line("six packets, memory, window 1", 2.2, 1.6, "{} × limit", "load", _to_limit("memory", 1)),
    Line("six packets, memory, window 8", 5, 3, "{} × limit", "load", _to_limit("memory", 8)),
    Line("six packets, on disk first (SQLite), window 1", 4, 2.5, "{} × limit", "load", _to_limit("sqlite", 1)),
    Line("six packets, on disk first (SQLite), window 8", 9, 5.6, "{} × limit", "load", _to_limit("sqlite", 8)),
    Line("the first row under TLS", 2, 1.6, "{} × plain", "tls", _tls, note="both driven by the load in Python"),
    Line("p99 at half load, on disk first", 10, 5, "{} ms", "half", _half),
    Line("idle connection", 4, 2.5, "{} KiB", "connections", lambda rows: _one(rows, "rss_kib_per_connection", method="anonymous")),
    Line("idle connection, TLS", 40, 30, "{} KiB", "connections-tls", lambda rows: _one(rows, "rss_kib_per_connection")),
    Line("logins with resume tokens, on a core", 5000, 10000, "{}/s", "connections", _logins("resume"), least=True, note="by their CPU"),
    Line("logins with signed tokens, on a core", 5000, 10000, "{}/s", "connections", _logins("token"), least=True, note="by their CPU"),
    Line("group of 500 on one node, deliveries", 300_000, 500_000, "{}/s", "", least=True, why="there are no groups yet"),
    Line(
        f"routed, {FEW} → {MANY} nodes, cost of a message",
        1.1,
        None,
        "{} ×",
        "nodes",
        _growth("routed"),
        note="the budget says 64 nodes; they share the cores of this machine, and smaller batches are in this",
    ),
    Line(
        f"broadcast, {FEW} → {MANY} nodes, cost of a message",
        1.1,
        None,
        "{} ×",
        "nodes",
        _growth("broadcast"),
        least=True,
        note="it must be seen to grow: python -m benchmarks capacity draws the line",
    ),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of this command."""
    add = parser.add_argument
    add("--data", type=folder, default=TEMPORARY, metavar="DIR", help=f"where stores have their files for a while [default: {TEMPORARY}]")
    add("--out", type=Path, metavar="DIR", help="keep what is measured there, and use what is there already [default: nowhere]")
    add("--quick", action="store_true", help="does it work? half a minute, verdicts of no weight")
    add("--json", action="store_true", help="one JSON object instead of a table")


def run(options: argparse.Namespace) -> int:
    """Measures and judges; gives the exit status: 1 if something could not be measured that can be."""
    if options.out is None:
        with tempfile.TemporaryDirectory(prefix="twisted_im-benchmarks-") as name:
            return _run(options, Path(name))
    try:
        options.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        options.parser.error(f"--out: {error}")
    return _run(options, options.out)


def _run(options: argparse.Namespace, out: Path) -> int:
    failed: list[str] = []
    try:
        for name in SOURCES:
            _take(name, options, out, failed)
    except KeyboardInterrupt:
        _report(options, out)
        raise
    _report(options, out)
    for name in failed:
        say(f"{name}: failed; its rows are left out")
    return 1 if failed else 0


def command(name: str, options: argparse.Namespace) -> list[str]:
    """The words that measure a source."""
    words, quick = SOURCES[name]
    words = [*words, f"--data={options.data}", "--json"]
    if options.quick:
        words = [word for word in words if not word.startswith("--seconds")] + quick
        words = [IN_QUICK[name] if name in IN_QUICK and word.startswith("--nodes") else word for word in words]
    return words


def _take(name: str, options: argparse.Namespace, out: Path, failed: list[str]) -> None:
    kept = out / f"{name}.jsonl"
    if objects(kept):
        say(f"{name}: taken from {kept}")
        return
    fresh = kept.with_suffix(".new")
    try:
        if run_part(command(name, options), fresh) or not objects(fresh):
            failed.append(name)
        else:
            fresh.replace(kept)
    finally:
        fresh.unlink(missing_ok=True)


def _report(options: argparse.Namespace, out: Path) -> None:
    measured = {name: objects(out / f"{name}.jsonl") for name in SOURCES}
    judged = [line.judge(measured) for line in BUDGET]
    about = {
        "python": platform.python_version(),
        "machine": machine(),
        "date": datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        "quick": options.quick,
        "rows": judged,
    }
    if options.out is not None:
        (out / "budget.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    if options.json:
        print(json.dumps(about))
        return
    show(judged)
    print(f"{'QUICK, of no weight; ' if options.quick else ''}Python {about['python']}; {about['machine']}; {about['date']}")


def show(judged: Sequence[Figures]) -> None:
    """Prints it for people."""
    cells, notes = [], []
    for line, row in zip(BUDGET, judged, strict=True):
        sign = "≥" if line.least else "≤"
        told = row["why"] or row["note"]
        if told:
            notes.append(told)
        cells.append(
            [
                line.what + (f" ({len(notes)})" if told else ""),
                f"{sign} {line.told(line.target)}",
                f"{sign} {line.told(line.stretch)}" if line.stretch is not None else "–",
                line.told(row["measured"]),
                "–" if row["ratio"] is None else f"{row['ratio']:.2f}",
                row["verdict"],
            ]
        )
    print_table(["", "target", "stretch", "measured", "÷ target", ""], cells)
    for number, note in enumerate(notes, 1):
        print(f"({number}) {note}")
