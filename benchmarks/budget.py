"""`python -m benchmarks budget`: what this server may cost, beside what it does cost.

Strategy: the budget is a list of rows, each with a target and a stretch (what would be better still), as a ratio to something measured in
the same run wherever that can be, since a machine that others use too changes its speed from one minute to the next. What the rows need is
measured by the other commands (`SOURCES`), each once for all its rows.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.driving import Figures
from benchmarks.pages import page_with, put, table
from benchmarks.parts import objects, run_part
from benchmarks.terminal import TEMPORARY, folder, machine, make_folder, print_table, say

EXAMPLES = """
examples:
  python -m benchmarks budget
      every row, in ten minutes
  python -m benchmarks budget --out figures
      and what was measured for it, in figures/*.jsonl; an interrupted run goes on from there
  python -m benchmarks budget --out figures --page
      and write its tables, and those of one node's load, into docs/performance.md, between their marks

Rows are met, or missed; a row that is missed says what holds it back, and one that cannot be measured says why.
"""

#: The rows of each source, as its JSON has them.
Measured = Mapping[str, Sequence[Figures]]

HEADS = ["", "target", "stretch", "measured", "÷ target", "verdict"]
PAGE = "docs/performance.md"
BLOCKS = ("budget", "budget: load", "budget: half")  #: of the page, which --page writes

FEW, MANY = 2, 8  #: nodes between which costs are compared
#: What is measured: name → words for `python -m benchmarks`, and what --quick adds.
SOURCES: dict[str, tuple[list[str], list[str]]] = {
    "load": (["load", "--store=memory,sqlite", "--window=1,8", "--seconds=3"], ["--quick"]),
    "tls": (["load", "--tls=both", "--window=1", "--no-limit", "--seconds=3"], ["--quick"]),
    "half": (["load", "--store=memory,sqlite", "--window=1", "--half", "--no-limit", "--seconds=3"], ["--quick"]),
    "connections": (["connections", "--store=memory", "--method=anonymous,resume,token"], ["--count=60"]),
    "connections-tls": (["connections", "--store=memory", "--method=anonymous", "--tls"], ["--count=60"]),
    "group": (["group"], ["--quick"]),
    "nodes": (
        ["load", "--strategy=routed,broadcast", f"--nodes={FEW},{MANY}", "--users=100", "--per-node", "--window=8", "--seconds=3"],
        ["--quick"],
    ),
}
IN_QUICK = {"nodes": f"--nodes={FEW},3"}  #: what stands for more nodes there


@dataclass(frozen=True)
class Line:
    """One row of the budget.

    Attributes:
        what: is bounded; "{nodes}" stands for the numbers of nodes that were measured.
        target, stretch: bounds.
        unit: "{}" is where the number stands.
        source: in `SOURCES`; empty for none.
        value: the number, from the rows of the source; None if they lack it.
        least: the number must be at least so much, not at most.
        note: what a reader must know.
        missed: what was tried where the target is missed, and what holds it back.
    """

    what: str
    target: float
    stretch: float | None
    unit: str
    source: str
    value: Callable[[Sequence[Figures]], float | None] = lambda rows: None
    least: bool = False
    note: str = ""
    missed: str = ""

    def judge(self, measured: Measured) -> Figures:
        """What came out, under the names of the output."""
        rows = measured.get(self.source, ())
        value = self.value(rows) if rows else None
        verdict = "not measured"
        ratio = None
        if value is not None:
            ratio = round(value / self.target, 3)
            verdict = "stretch" if self._meets(value, self.stretch) else "met" if self._meets(value, self.target) else "missed"
        why = "" if value is not None else f"Its source, {self.source}, failed, was left out, or was too short to tell."
        values = {"target": self.target, "stretch": self.stretch, "measured": None if value is None else round(value, 3)}
        bounds = {"at_least": self.least, "unit": self.unit.replace("{}", "").strip()}
        note = " ".join(told for told in (self.note, self.missed if verdict == "missed" else "") if told)
        nodes = [int(row["nodes"]) for row in rows if row.get("nodes")] or [FEW, MANY]
        what = self.what.replace("{nodes}", f"{min(nodes)} → {max(nodes)}")
        return {"row": what, **values, "ratio": ratio, "verdict": verdict, "why": why, "note": note, **bounds}

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


def _us(store: str, window: int) -> Callable[[Sequence[Figures]], float | None]:
    return lambda rows: _one(rows, "cpu_us_per_message", store=store, window=window)


def _tls(rows: Sequence[Figures]) -> float | None:
    plain, sealed = (_one(rows, "cpu_us_per_message", tls=tls) for tls in (False, True))
    return sealed / plain if plain and sealed else None


def _half(rows: Sequence[Figures]) -> float | None:
    return _one([row for row in rows if row["rate"]], "p99_ms", store="sqlite")


def _idle(rows: Sequence[Figures]) -> float | None:
    return _one(rows, "rss_kib_per_connection", method="anonymous")


def _logins(method: str) -> Callable[[Sequence[Figures]], float | None]:
    """A core's worth: by the CPU, since the crowd may be what is slow."""

    def per_core(rows: Sequence[Figures]) -> float | None:
        us = _one(rows, "cpu_us_per_login", method=method)
        return 1e6 / us if us else None

    return per_core


def _deliveries(rows: Sequence[Figures]) -> float | None:
    us = _one(rows, "cpu_us_per_delivery")
    return 1e6 / us if us else None


def _growth(strategy: str) -> Callable[[Sequence[Figures]], float | None]:
    """The cost on most nodes by that on fewest."""

    def grown(rows: Sequence[Figures]) -> float | None:
        costs = {int(row["nodes"]): float(row["cpu_us_per_message"]) for row in rows if row["strategy"] == strategy}
        return costs[max(costs)] / costs[min(costs)] if len(costs) > 1 and costs[min(costs)] else None

    return grown


BY_CPU = "A core's worth: a second divided by the CPU of a login."
KERNEL = (
    "About half of it is the kernel's, two reads and two writes of TCP for each message, as in the limit. Writes and reads of a turn are "
    "gathered (the cork, one loop over all readable sockets); what else was tried stands in docs/performance.md."
)
INTERPRETER = (
    "Here it is the interpreter, and objects that have left the cache since their connection's last turn. Sizes of batches and of reads "
    "were varied without gain (docs/performance.md), and a Python without profile-guided optimisation takes about a tenth more."
)
WRITER = "The writer's thread shares the node's core and has to get Python's lock back after each statement: rows go in many a statement."
SHARED_CORE = (
    "The processes share the cores of this machine and empty each other's caches; and what a node sends in a turn is spread over more "
    "peers, so a frame between two of them carries fewer messages. Both are in the ratio."
)
IDLE = (
    "A connection and its session are objects with slots, without timers or loggers of their own. Where there are few of them, what a "
    "process makes once weighs more."
)
OPENSSL = "It is OpenSSL's: its state of each connection, and its buffers."
LOGIN = "A login is the kernel's accept, two requests, and a session with its entries."

#: The budget.
BUDGET = (
    Line("six packets, memory, window 1", 2.2, 1.6, "{} × limit", "load", _to_limit("memory", 1), missed=KERNEL),
    Line("six packets, memory, window 8", 5, 3, "{} × limit", "load", _to_limit("memory", 8), missed=INTERPRETER),
    Line("six packets, on disk first (SQLite), window 1", 4, 2.5, "{} × limit", "load", _to_limit("sqlite", 1), missed=WRITER),
    Line("six packets, on disk first (SQLite), window 8", 16, 10, "{} µs", "load", _us("sqlite", 8), missed=WRITER),
    Line(
        "the first row under TLS",
        2,
        1.6,
        "{} × plain",
        "tls",
        _tls,
        note="Both are driven by the load in Python.",
        missed="It is OpenSSL's work: the cork stands beneath TLS, so that a turn makes one record for each connection.",
    ),
    Line("p99 at half load, on disk first", 10, 5, "{} ms", "half", _half, missed="It is a sync of the disk and the core's other users."),
    Line("idle connection", 4, 2.5, "{} KiB", "connections", _idle, missed=IDLE),
    Line("idle connection, TLS", 40, 30, "{} KiB", "connections-tls", _idle, missed=OPENSSL),
    Line(
        "logins with resume tokens, on a core", 5000, 10000, "{}/s", "connections", _logins("resume"), least=True, note=BY_CPU, missed=LOGIN
    ),
    Line(
        "logins with signed tokens, on a core",
        5000,
        10000,
        "{}/s",
        "connections",
        _logins("token"),
        least=True,
        note=BY_CPU,
        missed="Half of it is to check an ES256 signature. Whoever comes back has a resume token, for which none is checked.",
    ),
    Line(
        "group of 500 on one node, deliveries on a core",
        300_000,
        500_000,
        "{}/s",
        "group",
        _deliveries,
        least=True,
        note="A core's worth: a second divided by the CPU of a delivery. Every message is on disk first.",
        missed="It is the kernel's: each member has a write of its own for what comes to it in a turn.",
    ),
    Line(
        "routed, {nodes} nodes, cost of a message",
        1.1,
        None,
        "{} ×",
        "nodes",
        _growth("routed"),
        note="The budget is for 2 → 64 nodes: more than can be run here.",
        missed=SHARED_CORE,
    ),
    Line(
        "broadcast, {nodes} nodes, cost of a message",
        1.1,
        None,
        "{} ×",
        "nodes",
        _growth("broadcast"),
        least=True,
        note="No target: the budget asks that the growth be shown, so above 1.1 it is. The line is drawn in docs/schemes.md.",
    ),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of this command."""
    add = parser.add_argument
    add("--data", type=folder, default=TEMPORARY, metavar="DIR", help=f"where stores have their files for a while [default: {TEMPORARY}]")
    add("--out", type=Path, metavar="DIR", help="keep what is measured there, and use what is there already [default: nowhere]")
    add("--quick", action="store_true", help="does it work? half a minute, verdicts of no weight")
    add("--page", type=page_with(*BLOCKS), nargs="?", const=PAGE, metavar="FILE", help=f"write the tables into this page [{PAGE}]")
    add("--json", action="store_true", help="one JSON object instead of a table")


def run(options: argparse.Namespace) -> int:
    """Measures and judges; gives the exit status: 1 if something could not be measured that can be."""
    if options.out is None:
        with tempfile.TemporaryDirectory(prefix="twisted_im-benchmarks-") as name:
            return _run(options, Path(name))
    make_folder(options.out, options.parser)
    return _run(options, options.out)


def _run(options: argparse.Namespace, out: Path) -> int:
    failed: list[str] = []
    try:
        for name in SOURCES:
            _take(name, options, out, failed)
    except KeyboardInterrupt:
        options.page = None  # it keeps what it has, rather than half of this
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


def kept_in(out: Path, name: str, *, quick: bool) -> Path:
    """Where a source's rows are kept; those of a quick run apart, for nobody shall take them for others."""
    return out / f"{name}{'.quick' if quick else ''}.jsonl"


def _take(name: str, options: argparse.Namespace, out: Path, failed: list[str]) -> None:
    kept = kept_in(out, name, quick=options.quick)
    if objects(kept):
        say(f"{name}: taken from {kept}, of {_when(kept)}; delete it to have it measured anew")
        return
    fresh = kept.with_suffix(".new")
    try:
        if run_part(command(name, options), fresh) or not objects(fresh):
            failed.append(name)
        else:
            fresh.replace(kept)
    finally:
        fresh.unlink(missing_ok=True)


def _when(path: Path) -> str:
    """When a file was written."""
    return datetime.fromtimestamp(path.stat().st_mtime, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _report(options: argparse.Namespace, out: Path) -> None:
    files = {name: kept_in(out, name, quick=options.quick) for name in SOURCES}
    measured = {name: objects(kept) for name, kept in files.items()}
    judged = [line.judge(measured) for line in BUDGET]
    about = {
        "python": ", ".join(sorted({row["python"] for rows in measured.values() for row in rows if "python" in row})) or None,
        "machine": machine(),
        "measured": {name: _when(kept) for name, kept in files.items() if measured[name]},
        "quick": options.quick,
        "rows": judged,
    }
    if options.out is not None:
        (out / "budget.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    if options.page is not None:
        made = (_markdown(judged, about), load_table(measured["load"]), half_table(measured["half"]))
        put(options.page, dict(zip(BLOCKS, made, strict=True)))
        say(f"the tables stand in {options.page}")
    if options.json:
        print(json.dumps(about))
        return
    cells, notes = lines_of(judged)
    print_table(HEADS, cells)
    for note in notes:
        print(note)
    print(_foot(about))


def lines_of(judged: Sequence[Figures]) -> tuple[list[list[str]], list[str]]:
    """The cells of the table, and the notes below it, each of them once."""
    cells, notes = [], list[str]()
    for line, row in zip(BUDGET, judged, strict=True):
        sign = "≥" if line.least else "≤"
        told = " ".join(each for each in (row["why"], row["note"]) if each)
        if told and told not in notes:
            notes.append(told)
        cells.append(
            [
                row["row"] + (f" ({notes.index(told) + 1})" if told else ""),
                f"{sign} {line.told(line.target)}",
                f"{sign} {line.told(line.stretch)}" if line.stretch is not None else "–",
                line.told(row["measured"]),
                "–" if row["ratio"] is None else f"{row['ratio']:.2f}",
                row["verdict"],
            ]
        )
    return cells, [f"({number}) {note}" for number, note in enumerate(notes, 1)]


def _foot(about: Figures) -> str:
    dates = sorted(about["measured"].values())
    when = f"measured {dates[0]} to {dates[-1]}" if dates else "nothing was measured"
    return f"{'QUICK, of no weight; ' if about['quick'] else ''}Python {about['python'] or '–'}; {about['machine']}; {when}."


def load_table(rows: Sequence[Figures]) -> str:
    """What a message costs a node under full load, beside the limit, for a page."""
    lines, seen = [], set()
    for row in sorted(rows, key=lambda row: row["window"]):
        if row["window"] not in seen and row["limit_cpu_us_per_message"]:
            seen.add(row["window"])
            limit = f"{row['limit_delivered_per_s']:,.0f}", f"{row['limit_cpu_us_per_message']:.3g} µs"
            lines.append(["limit (C, no store)", row["window"], *limit, "1", "–", "–"])
        ratio = "–" if row["ratio_to_limit"] is None else f"**{row['ratio_to_limit']:.2f}**"
        waits = (f"{row[name]:.3g} ms" for name in ("p50_ms", "p99_ms"))
        name = f"{row['strategy']}, {row['store']}"
        lines.append([name, row["window"], f"{row['delivered_per_s']:,.0f}", f"{row['cpu_us_per_message']:.3g} µs", ratio, *waits])
    return _with_caption(["", "window", "delivered/s", "CPU a message", "× limit", "p50", "p99"], lines, rows)


def half_table(rows: Sequence[Figures]) -> str:
    """What a message waits at half load, for a page."""
    lines = [
        [
            f"{row['strategy']}, {row['store']}",
            f"{row['rate']:,.0f}/s",
            f"{row['cpu_us_per_message']:.3g} µs",
            *(f"{row[name]:.2g} ms" for name in ("p50_ms", "p99_ms")),
        ]
        for row in rows
        if row["rate"]
    ]
    return _with_caption(["half load", "rate", "CPU a message", "p50", "p99"], lines, rows)


def _with_caption(heads: Sequence[str], lines: Sequence[Sequence[object]], rows: Sequence[Figures]) -> str:
    if not lines:
        return "Not measured."
    row = rows[0]
    disk = next((f"; stores on {each['file_system']}" for each in rows if each["file_system"]), "")
    caption = (
        f"{row['users']:,} users, {row['payload']} bytes, medians of {row['repeat']} × {row['seconds']:g} s; load in "
        f"{'C' if row['driver'] == 'c' else 'Python'}; Python {row['python']}; {row['machine']}{disk}; {row['date'][:10]}."
    )
    return table(heads, lines, left=1) + "\n\n" + caption


def _markdown(judged: Sequence[Figures], about: Figures) -> str:
    cells, notes = lines_of(judged)
    return "\n\n".join([table(HEADS, cells, left=1), *notes, _foot(about)])
