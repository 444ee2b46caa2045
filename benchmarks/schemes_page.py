"""What the documentation says of the schemes: the tables of docs/schemes.md, its pictures, and the run that they are made from.

Strategy: the page is written by hand, and what was measured stands between marks, a block for each table. `condensed` keeps of a run what
the tables and the pictures need, rounded, so that it can lie in the repository: whoever changes a table or a picture makes the page
anew without measuring, and a test sees that page, pictures and run belong together. To condense what is condensed changes nothing.
"""

from __future__ import annotations

import json
import math
import re
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.curves import BIN, ROUTED, SCHEMES, cpu_of, crossing, curve, fitted, from_nodes, localities_of, longest, timed
from benchmarks.driving import Figures
from benchmarks.pages import PageError, filled, read, table
from benchmarks.recovery import KILL_RATE, LATE, NODES

RESULTS = "results.json"
PAGE = Path("docs/schemes.md")
STORED = Path("docs/schemes")  #: where the run and its pictures lie

#: How single, queue and layered are judged where they are described: more marks are more effort, a longer time, better scaling, …
JUDGED = {
    "development effort": ("+", "++", "+++"),
    "processing time": ("+", "++++", "++"),
    "scalability": ("+", "++", "+++"),
    "coupling": ("++++", "+++", "++"),
    "recovery time": ("++++", "+++", "++"),
}
NOT_BUILT = "not built yet"
NONE = "–"

#: Kept of each row, with the decimals that are kept.
ROUNDED = {
    "delivered_per_s": 0,
    "node_cpu_us_per_message": 1,
    "route_server_cpu_us_per_message": 1,
    "redis_cpu_us_per_message": 1,
    "copies_per_message": 2,
    "wasted_copies_per_message": 2,
    "hops_per_message": 2,
    "look_ups_per_message": 2,
    "bytes_per_message": 0,
    "p50_ms": 1,
    "p99_ms": 1,
    "p999_ms": 1,
}
KEPT_OF_ROW = ("name", "scheme", "nodes", "locality", "by_server", "by_redis", "settings", "doubts", "faults", "failed")
KEPT_OF_KILL = ("name", "scheme", "part", "nodes", "down_s", "recovery_s", "late", "latest_ms", "sent", "lost", "faults", "failed")
ALIKE = 1.1  #: × the least cost, up to which a scheme is told beside the cheapest
BUSY = 1.0  #: a load average before the run above which others used the machine
STEP = 1.05  #: from one bar of a distribution of waits to the next
PARTS = {"node": "a node", "route_server": "the route server", "redis": "Redis"}


def condensed(results: Figures) -> Figures:
    """What is kept of a run: figures rounded, distributions of the rows that are drawn, of each kill the longest wait of every `BIN`."""
    drawn = [row["name"] for row in timed([row for row in results["rows"] if not row.get("failed")])]
    rows = []
    for row in results["rows"]:
        kept = {name: row[name] for name in KEPT_OF_ROW if name in row}
        kept |= {name: round(row[name], digits) if digits else round(row[name]) for name, digits in ROUNDED.items() if name in row}
        if row["name"] in drawn:
            kept["histogram_ms"] = _coarse(row["histogram_ms"])
        rows.append(kept)
    kills = []
    for kill in results["kills"]:
        kept = {name: kill[name] for name in KEPT_OF_KILL if name in kill}
        if "points" in kill:
            waits = longest(kill["points"])
            kept["points"] = [[round((each + 0.5) * BIN, 3), round(waits[each], 1)] for each in sorted(waits)]
        kills.append(kept)
    return {**results, "rows": rows, "kills": kills}


def _coarse(histogram: Sequence[Sequence[float]]) -> list[list[float]]:
    counts: dict[int, int] = {}
    for wait, count in histogram:
        bar = round(math.log(max(wait, 0.001)) / math.log(STEP))
        counts[bar] = counts.get(bar, 0) + int(count)
    return [[float(f"{STEP**bar:.3g}"), counts[bar]] for bar in sorted(counts)]


def as_text(results: Figures) -> str:
    """The file of a condensed run: a line for each row, so that a difference can be read."""
    parts = []
    for name, value in results.items():
        if isinstance(value, list):
            lines = ",\n".join("  " + json.dumps(each, ensure_ascii=False) for each in value)
            parts.append(f' "{name}": [\n{lines}\n ]' if value else f' "{name}": []')
        else:
            parts.append(f' "{name}": {json.dumps(value, ensure_ascii=False)}')
    return "{\n" + ",\n".join(parts) + "\n}\n"


def write(results: Figures, root: Path) -> list[Path]:
    """Writes the run, its pictures, and the blocks of the page; gives what was written.

    Args:
        results: a run, condensed or not.
        root: of the checkout.

    Raises:
        PageError: there is no such page there, or the run has too little for it; nothing was written then.
    """
    from benchmarks.plots import draw  # needs matplotlib

    kept = condensed(results)
    page, folder = root / PAGE, root / STORED
    text = filled(read(page), blocks(kept))
    with tempfile.TemporaryDirectory(prefix="twisted_im-benchmarks-") as drawn:
        pictures = draw(kept, Path(drawn), ["svg"])
        if missing := set(re.findall(rf"\({STORED.name}/(.+\.svg)\)", text)) - {picture.name for picture in pictures}:
            raise PageError(f"a run that is enough for {', '.join(sorted(missing))}: broadcast, a routed scheme and kills")
        folder.mkdir(exist_ok=True)
        written = [Path(shutil.copy(picture, folder)) for picture in pictures]
    stored = folder / RESULTS
    stored.write_text(as_text(kept), encoding="utf-8")
    page.write_text(text, encoding="utf-8")
    return [stored, *written, page]


def blocks(results: Figures) -> dict[str, str]:
    """The blocks of the page, by their names."""
    made = _Blocks(results)
    return {
        "schemes: run": made.run(),
        "schemes: beside": made.beside(),
        "schemes: cost": made.cost(),
        "schemes: locality": made.locality(),
        "schemes: crossing": made.crossing(),
        "schemes: route-server": made.route_server(),
        "schemes: latency": made.latency(),
        "schemes: kills": made.kills(),
        "schemes: cheapest": made.cheapest(),
    }


class _Blocks:
    """The tables of one run. What was not measured is a dash, so a run of some schemes makes a page too."""

    def __init__(self, results: Figures) -> None:
        self._results = results
        self._rows = [row for row in results["rows"] if not row.get("failed")]
        self._kills = [kill for kill in results["kills"] if not kill.get("failed")]
        self._nodes = sorted({row["nodes"] for row in self._rows})
        self._several = [nodes for nodes in self._nodes if nodes > 1]
        self._most = max(self._nodes, default=1)
        self._localities = localities_of(self._rows)
        self._least = self._localities[0] if self._localities else 0.0

    def _of(self, scheme: str, nodes: int, locality: float | None = None) -> Figures | None:
        """A row, with the least local messages if not said otherwise; a single server is what it is, whatever the nodes."""
        wanted = [row for row in self._rows if row["scheme"] == scheme]
        if scheme == "single":
            return next(iter(wanted), None)
        locality = self._least if locality is None else locality
        fits = [row for row in wanted if row["nodes"] == nodes and (scheme == "parallel" or nodes == 1 or row["locality"] == locality)]
        return next(iter(fits), None)

    def _cell(self, scheme: str, nodes: int, shown: Callable[[Figures], str]) -> str:
        row = self._of(scheme, nodes)
        return shown(row) if row is not None else NONE

    def run(self) -> str:
        told = self._results
        others = "Whether others used the machine was not recorded. "
        if "load_average_before" in told:
            others = f"Others used the machine: its load average before the run was {told['load_average_before']:.1f}. "
        if told.get("load_average_before", BUSY) < BUSY:
            others = ""
        cores = f"{told['server_cores']} core{'s' if told['server_cores'] > 1 else ''}"
        return (
            f"Measured {told['date'][:10]}: {told['machine']}, of which {cores} for all servers together; Python {told['python']}; "
            f"{told['store']} on {told['file_system']}; {told['users']} users a node, window {told['window']}, {told['payload']} bytes, "
            f"{told['seconds']:g} s for each figure; latencies at {told['rate']:,} messages/s in all. "
            f"{others}[The figures of the run](schemes/{RESULTS})."
        )

    def beside(self) -> str:
        first, last = (self._several[0], self._most) if self._several else (1, 1)
        middle = self._several[len(self._several) // 2] if self._several else 1
        measured: dict[str, tuple[str, Callable[[str], str]]] = {
            "development effort": (
                f"settings an operator gives, {middle} nodes",
                lambda scheme: self._cell(scheme, middle, lambda row: str(row["settings"])),
            ),
            "processing time": (
                f"CPU of a message; median time on its way; {middle} nodes",
                lambda scheme: self._cell(scheme, middle, lambda row: f"{cpu_of(row):.0f} µs; {row['p50_ms']:.1f} ms"),
            ),
            "scalability": (f"CPU with {last} nodes ÷ with {first}", lambda scheme: self._growth(scheme, first, last)),
            "coupling": (
                f"links that a message crosses, {middle} nodes",
                lambda scheme: self._cell(scheme, middle, lambda row: f"{row['hops_per_message']:.0f}"),
            ),
            "recovery time": ("all well after a kill", self._recoveries),
        }
        lines = []
        for name, (single, queue, layered) in JUDGED.items():
            what, of = measured[name]
            lines.append([f"**{name}**, as judged", single, *[NONE] * (len(SCHEMES) - 1), queue, layered])
            lines.append([f"as measured: {what}", *(of(scheme) for scheme in SCHEMES), NOT_BUILT, NOT_BUILT])
        return table(["", *SCHEMES, "queue", "layered"], lines)

    def _growth(self, scheme: str, first: int, last: int) -> str:
        few, many = self._of(scheme, first), self._of(scheme, last)
        if scheme == "single" or few is None or many is None or not cpu_of(few):
            return "one node" if scheme == "single" else NONE
        return f"{cpu_of(many) / cpu_of(few):.1f} ×"

    def _recoveries(self, scheme: str) -> str:
        told = [
            f"{'the server' if scheme == 'single' else PARTS[kill['part']]}: {kill['recovery_s']:.1f} s"
            for kill in self._kills
            if kill["scheme"] == scheme
        ]
        return "; ".join(told) or ("as single" if scheme == "parallel" else NONE)

    def cost(self) -> str:
        lines = []
        for scheme in SCHEMES:
            if self._of(scheme, self._most) is None:
                continue
            counts = [1] if scheme == "single" else self._nodes
            between = [nodes for nodes in counts if nodes > 1] or [1]

            def over(shown: Callable[[Figures], str], scheme: str = scheme, counts: Sequence[int] = tuple(counts)) -> str:
                told = [self._cell(scheme, nodes, shown) for nodes in counts]
                return " · ".join(told) if len(set(told)) > 1 else told[0]

            row = self._of(scheme, self._most) or {}
            middle = NONE
            if row["by_server"] or row["by_redis"]:
                middle = over(lambda row: f"{row['route_server_cpu_us_per_message'] + row['redis_cpu_us_per_message']:.0f}")
            lines.append(
                [
                    f"**{scheme}**",
                    over(lambda row: f"{cpu_of(row):.0f}"),
                    middle,
                    over(lambda row: f"{row['copies_per_message']:.0f}"),
                    over(lambda row: f"{row['wasted_copies_per_message']:.0f}"),
                    self._cell(scheme, between[-1], lambda row: f"{row['hops_per_message']:.0f}"),
                    over(lambda row: f"{row['bytes_per_message']:,.0f}"),
                    over(lambda row: str(row["settings"])),
                ]
            )
        counted = " · ".join(str(nodes) for nodes in self._nodes)
        told = (
            f"Of {counted} nodes (single: one); {_where(self._least)}, but for the parallel servers, which carry "
            "local ones only: of N such servers, a user reaches those of his own, one in N of all."
        )
        heads = ["", "CPU a message, µs", "of which route server or Redis", "copies", "wasted", "links crossed", "bytes between processes"]
        return told + "\n\n" + table([*heads, "settings"], lines)

    def locality(self) -> str:
        lines = []
        for scheme in ("broadcast", *ROUTED):
            cells: list[str] = []
            for locality in self._localities:
                row = self._of(scheme, self._most, locality)
                told = (
                    NONE
                    if row is None
                    else f"{cpu_of(row):.0f} µs, {row['copies_per_message']:.1f} copies, {row['bytes_per_message']:,.0f} bytes"
                )
                cells.append(told)
            lines.append([f"**{scheme}**", *cells])
        return table([f"{self._most} nodes", *(f"{locality:.0%} local" for locality in self._localities)], lines)

    def crossing(self) -> str:
        lines = []
        for locality in self._localities:
            cells = []
            for other in ROUTED:
                at = crossing(self._rows, other, locality)
                points, _ = curve([row for row in self._rows if row["nodes"] > 1], "broadcast", locality, cpu_of)
                if len(points) < 2 or fitted(self._rows, other, locality) is None:
                    cells.append(NONE)
                    continue
                cells.append(from_nodes(at) + (f" (the lines cross at {at:.1f})" if at is not None and at > 2 else ""))
            lines.append([f"{locality:.0%} local", *cells])
        return table(["broadcast costs more CPU than", *(f"a {other}" for other in ROUTED)], lines)

    def route_server(self) -> str:
        lines = []
        for scheme in ("broadcast", "routed star"):
            for locality in self._localities:
                several = [row for row in self._rows if row["nodes"] > 1 and row["route_server_cpu_us_per_message"]]
                found = dict(zip(*curve(several, scheme, locality, lambda row: 1e6 / row["route_server_cpu_us_per_message"]), strict=True))
                cells = [f"{round(found[nodes], -3):,.0f}" if nodes in found else NONE for nodes in self._several]
                lines.append([f"**{scheme}**, {locality:.0%} local", *cells])
        return table(["messages/s that fill one core", *(f"{nodes} nodes" for nodes in self._several)], lines)

    def latency(self) -> str:
        lines = []
        for scheme in SCHEMES:
            few, many = (self._of(scheme, nodes) for nodes in ((self._several or [1])[0], self._most))
            if few is None or many is None:
                continue
            pair = [_waits(few), _waits(many)] if scheme != "single" else [_waits(few), NONE]
            lines.append([f"**{scheme}**", *pair])
        heads = [f"{nodes} nodes: p50 · p99 · p99.9" for nodes in ((self._several or [1])[0], self._most)]
        messages = round(self._results["rate"] * self._results["seconds"])
        told = (
            f"{self._results['rate']:,} messages a second in all; {_where(self._least)}, but for the parallel servers. Each row is of "
            f"about {messages:,} messages, so p99 leaves out the {max(messages // 100, 1)} that waited longest, and p99.9 the "
            f"{max(messages // 1000, 1)}."
        )
        return told + "\n\n" + table(["ms", heads[0] + " (single: 1)", heads[1]], lines)

    def cheapest(self) -> str:
        lines = []
        for nodes in self._several:
            cells = []
            for locality in self._localities:
                costs = {scheme: cpu_of(row) for scheme in ("broadcast", *ROUTED) if (row := self._of(scheme, nodes, locality)) is not None}
                least = min(costs.values(), default=0.0)
                near = sorted((scheme for scheme in costs if costs[scheme] <= ALIKE * least), key=lambda scheme: costs[scheme])
                cells.append(", ".join(f"{scheme} {costs[scheme]:.0f} µs" for scheme in near) or NONE)
            lines.append([f"{nodes} nodes", *cells])
        return table(["", *(f"{locality:.0%} local" for locality in self._localities)], lines)

    def kills(self) -> str:
        lines = [
            [
                kill["name"].replace(" is killed", ""),
                f"{kill['recovery_s']:.1f} s",
                f"{kill['late']:,} of {kill['sent']:,}",
                f"{kill['latest_ms'] / 1000:.1f} s",
                f"{kill['lost']}",
            ]
            for kill in self._kills
        ]
        down = next((kill["down_s"] for kill in self._kills), 0.0)
        told = f"Killed under {KILL_RATE} messages a second on {NODES} nodes (single: one), and started again after {down:g} s:"
        heads = ["", "all well after", f"shown more than {1000 * LATE:g} ms late", "the latest", "lost"]
        return told + "\n\n" + table(heads, lines)


def _waits(row: Figures) -> str:
    return " · ".join(f"{row[name]:.1f}" for name in ("p50_ms", "p99_ms", "p999_ms"))


def _where(locality: float) -> str:
    return f"{locality:.0%} of the messages stay on their node" if locality else "every message goes to another node"
