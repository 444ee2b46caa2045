"""The pictures of `python -m benchmarks schemes`, each as PNG and SVG.

Strategy: one question for each picture, which its title asks; a scheme has the same colour and mark in all of them. Points are measured,
dashed lines are theory or a straight line through the points (least squares), and the legend says which. What, where and when stands
at the foot of each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, ScalarFormatter

from benchmarks.curves import ROUTED, cpu_of, crossing, curve, line_through, localities_of
from benchmarks.driving import Figures
from benchmarks.recovery import KILL_RATE, KILL_USERS, LATE, NODES

#: scheme → colour, mark. The colours are told apart by those who see red and green alike (Okabe and Ito).
LOOKS = {
    "single": ("#000000", "D"),
    "parallel": ("#777777", "v"),
    "broadcast": ("#D55E00", "s"),
    "routed star": ("#0072B2", "^"),
    "routed mesh": ("#009E73", "o"),
    "routed mesh Redis": ("#CC79A7", "P"),
}
SIZE, DOTS = (9.0, 5.4), 140
LINES = ("-", "--", ":", "-.")  #: of localities
TYPES = ("png", "svg")
BIN = 0.1  #: seconds; of all messages due in such a time the one that waited longest is drawn
STYLE = {
    "font.size": 10.5,
    "axes.titlesize": 13.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 9.5,
    "svg.hashsalt": "twisted_im",
}


def draw(results: Figures, out: Path) -> list[Path]:
    """Draws what the results are enough for.

    Args:
        results: what `benchmarks.schemes` has written.
        out: the folder for the pictures.

    Returns:
        the files, PNG and SVG of each picture.
    """
    rows = [row for row in results["rows"] if not row.get("failed")]
    kills = [kill for kill in results["kills"] if not kill.get("failed")]
    pictures: list[tuple[str, Callable[[], Figure | None]]] = [
        ("copies", lambda: _copies(rows)),
        ("cost", lambda: _cost(rows)),
        ("crossing", lambda: _crossing(rows)),
        ("latency", lambda: _latency(rows, results)),
        ("route-server", lambda: _route_server(rows)),
        ("recovery", lambda: _recovery(kills)),
    ]
    written = []
    with mpl.rc_context(STYLE):  # type: ignore[arg-type]  # its keys are literals
        for name, make in pictures:
            figure = make()
            if figure is None:
                continue
            load = f"{results['users']} users a node, window {results['window']}, {results['payload']} bytes"
            if name == "recovery":
                load = f"{NODES} nodes (single: 1), {KILL_USERS} users, {KILL_RATE} messages/s; late: more than {1000 * LATE:g} ms"
            figure.text(0.01, 0.008, _foot(results, load), fontsize=7.5, color="#666666")
            for kind in TYPES:
                path = out / f"{name}.{kind}"
                figure.savefig(path, dpi=DOTS, metadata={"Date": None} if kind == "svg" else None)
                written.append(path)
    return written


def _foot(results: Figures, load: str) -> str:
    cores = f"{results['server_cores']} core{'s' if results['server_cores'] > 1 else ''} for all servers"
    return (
        f"{results['machine']}, {cores} · Python {results['python']} · {results['store']} on {results['file_system']} · "
        f"{load} · {results['date']}"
    )


def _figure(columns: int = 1, rows: int = 1, size: tuple[float, float] = SIZE, **options: Any) -> tuple[Figure, Any]:
    figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(rect=(0, 0.035, 1, 0.965)))  # room for the foot
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def _nodes_axis(axes: Axes, nodes: Iterable[int], *, log: bool = True) -> None:
    if log:
        axes.set_xscale("log", base=2)
    axes.set_xticks(sorted(set(nodes)))
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("nodes")


def _percent(locality: float) -> str:
    if not locality:
        return "every message goes to another node"
    return f"{locality:.0%} of the messages stay on their node"


def _copies(rows: Sequence[Figures]) -> Figure | None:
    """Copies of a message against nodes."""
    localities = localities_of(rows)
    if not localities:
        return None
    figure, grid = _figure()
    axes, locality = grid[0][0], localities[0]
    nodes = sorted({row["nodes"] for row in rows})
    most = max(nodes)
    theory = [1 + step * (most - 1) / 60 for step in range(61)]
    axes.plot(theory, [n - 1 for n in theory], "--", color=LOOKS["broadcast"][0], lw=1.4, label="theory: N − 1")
    axes.plot(
        theory, [(1 - locality) * min(n - 1, 1) for n in theory], "--", color=LOOKS["routed mesh"][0], lw=1.4, label=_routed(locality)
    )
    for scheme in ("broadcast", *ROUTED, "parallel"):
        xs, ys = curve(rows, scheme, locality, lambda row: row["copies_per_message"])
        if xs:
            colour, mark = LOOKS[scheme]
            size = {"routed star": 11, "routed mesh": 8, "routed mesh Redis": 5}.get(scheme, 8)  # they lie on each other
            axes.plot(xs, ys, mark, color=colour, ms=size, label=f"{scheme}, measured", mec="white", mew=0.6, clip_on=False)
    xs, ys = curve(rows, "broadcast", locality, lambda row: row["wasted_copies_per_message"])
    if xs:
        axes.fill_between(xs, ys, color=LOOKS["broadcast"][0], alpha=0.12, lw=0, label="broadcast: copies that nobody there needed")
    axes.set_title("How many copies does a message make?")
    axes.set_ylabel(f"copies that reach another node, for each message\n({_percent(locality)})")
    axes.set_ylim(bottom=0)
    _nodes_axis(axes, nodes, log=False)
    axes.legend(loc="upper left")
    return figure


def _routed(locality: float) -> str:
    return f"theory: {1 - locality:g}, to the node that has the receiver"


def _cost(rows: Sequence[Figures]) -> Figure | None:
    """CPU of a message against nodes, at each locality."""
    localities = localities_of(rows)
    if not localities:
        return None
    figure, grid = _figure(columns=len(localities), size=(max(SIZE[0], 4.6 * len(localities)), 5.6), sharey=True)
    nodes = sorted({row["nodes"] for row in rows})
    for axes, locality in zip(grid[0], localities, strict=True):
        for scheme, (colour, mark) in LOOKS.items():
            xs, ys = curve(rows, scheme, locality, cpu_of)
            if not xs:
                continue
            if scheme == "single":
                axes.axhline(ys[0], color=colour, lw=1, ls=":", label="single server")
                continue
            axes.plot(xs, ys, mark, color=colour, ms=8, mec="white", mew=0.6, label=scheme)
            fitted = [(x, y) for x, y in zip(xs, ys, strict=True) if x > 1 or scheme == "parallel"]
            if scheme == "broadcast" and len(fitted) > 1:
                begin, slope = line_through([x for x, _ in fitted], [y for _, y in fitted])
                ends = [fitted[0][0], fitted[-1][0]]
                axes.plot(
                    ends, [begin + slope * x for x in ends], "--", color=colour, lw=1.3, label="theory of broadcast: a line, by N − 1"
                )
            elif fitted:
                mean = sum(y for _, y in fitted) / len(fitted)
                axes.plot([fitted[0][0], fitted[-1][0]], [mean, mean], "--", color=colour, lw=1.3)
        axes.plot([], [], "--", color="#555555", lw=1.3, label="theory of all others: flat")
        axes.set_title(_percent(locality), fontsize=11, fontweight="normal")
        _nodes_axis(axes, nodes, log=False)
    grid[0][0].set_ylim(bottom=0)  # last: the panels share it, and what is set is not widened any more
    grid[0][0].set_ylabel("CPU of a message and its receipt, µs\n(all nodes, route server and Redis)")
    figure.legend(*grid[0][0].get_legend_handles_labels(), loc="outside right upper")
    figure.suptitle("What does a message cost?", x=0.01, ha="left", fontsize=13.5, fontweight="bold")
    return figure


def _crossing(rows: Sequence[Figures]) -> Figure | None:
    """Where broadcast is no longer worth it."""
    several = [row for row in rows if row["nodes"] > 1]
    localities = [each for each in localities_of(rows) if len(curve(several, "broadcast", each, cpu_of)[0]) > 1]
    if not localities:
        return None
    others = [other for other in ROUTED if curve(several, other, localities[0], cpu_of)[0]]
    if not others:
        return None
    figure, grid = _figure(columns=len(others), size=(max(SIZE[0], 4.6 * len(others)), 5.2), sharey=True)
    furthest = max(row["nodes"] for row in several) * 2
    for axes, other in zip(grid[0], others, strict=True):
        colour, mark = LOOKS[other]
        for index, (locality, style) in enumerate(zip(localities, LINES, strict=False)):
            xs, ys = curve(several, "broadcast", locality, cpu_of)
            nodes, costs = curve(several, other, locality, cpu_of)
            if not costs:
                continue
            begin, slope = line_through(xs, ys)
            mean = sum(costs) / len(costs)
            at = crossing(rows, other, locality)
            told = "never" if at is None else f"from {at:.1f} nodes on" if at > 2 else "already with 2 nodes"
            shade = 1.0 - 0.55 * index / max(len(localities) - 1, 1)
            ends = [2, furthest]
            axes.plot(ends, [(begin + slope * x) / mean for x in ends], style, color=colour, lw=1.5, alpha=shade)
            both = [(n, b / c) for n, b in zip(xs, ys, strict=True) for m, c in zip(nodes, costs, strict=True) if n == m]
            label = f"{locality:.0%} local: {told}"
            axes.plot(
                [n for n, _ in both], [y for _, y in both], mark, ls=style, lw=0, color=colour, ms=8, mec="white", alpha=shade, label=label
            )
            if at is not None and at > 2:
                axes.plot([at], [1], "o", ms=13, mfc="none", mec="black", mew=1.4)
        axes.axhline(1, color="black", lw=1.2)
        axes.axhspan(0, 1, color="#eeeeee", lw=0, zorder=0)
        axes.set_title(f"against {other}", fontsize=11)
        axes.legend(loc="upper left", title="broadcast costs more", alignment="left")
        _nodes_axis(axes, [2, *(row["nodes"] for row in several), furthest], log=False)
        axes.set_xlim(left=1.5)
    grid[0][0].set_ylim(0, 1.35 * grid[0][0].get_ylim()[1])  # room for the legends
    grid[0][-1].text(furthest, 0.5, "here broadcast is cheaper", ha="right", va="center", fontsize=9.5)
    grid[0][0].yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g} ×"))
    grid[0][0].set_ylabel("CPU of broadcast ÷ CPU of the other, for a message\n(lines: broadcast's straight line ÷ the other's mean)")
    figure.suptitle("From how many nodes on is broadcast not worth it?", x=0.01, ha="left", fontsize=13.5, fontweight="bold")
    return figure


def _latency(rows: Sequence[Figures], results: Figures) -> Figure | None:
    """What a message waits, as a distribution with its rare cases shown."""
    localities = localities_of(rows)
    if not localities:
        return None
    most = max(row["nodes"] for row in rows)
    wanted = [
        row
        for row in rows
        if row["nodes"] == (1 if row["scheme"] == "single" else most)
        and (row["locality"] == localities[0] or row["scheme"] in ("single", "parallel"))
    ]
    figure, grid = _figure()
    axes = grid[0][0]
    for row in wanted:
        total = sum(count for _, count in row["histogram_ms"])
        xs, ys, over = [], [], total
        for wait, count in row["histogram_ms"]:
            xs.append(wait)
            ys.append(over / total)
            over -= count
        name = row["scheme"] if row["scheme"] != "single" else "single (1 node)"
        axes.plot(
            xs,
            ys,
            color=LOOKS[row["scheme"]][0],
            lw=1.8,
            drawstyle="steps-post",
            label=f"{name}: median {row['p50_ms']:.1f} ms, p99 {row['p99_ms']:.1f} ms",
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_ylim(1e-3, 1.0)
    axes.set_yticks([1, 0.5, 0.1, 0.01, 0.001], ["all", "half", "1 of 10", "1 of 100", "1 of 1,000"])
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("milliseconds from when it was due until it is there")
    axes.set_ylabel("share of the messages that wait longer")
    axes.set_title(f"How long is a message on its way?  ({most} nodes, {results['rate']:,} messages/s in all)")
    axes.legend(loc="lower left")
    return figure


def _route_server(rows: Sequence[Figures]) -> Figure | None:
    """How many messages a second one core of a route server carries."""
    localities = localities_of(rows)
    if not localities:
        return None
    figure, grid = _figure()
    axes, nodes = grid[0][0], set()
    styles = dict(zip(localities, LINES, strict=False))
    for scheme in ("broadcast", "routed star"):
        for locality, style in styles.items():
            several = [row for row in rows if row["nodes"] > 1 and row["route_server_cpu_us_per_message"]]
            xs, ys = curve(several, scheme, locality, lambda row: 1e6 / row["route_server_cpu_us_per_message"])
            if xs:
                colour, mark = LOOKS[scheme]
                axes.plot(xs, ys, style, marker=mark, color=colour, ms=8, mec="white", label=f"{scheme}, {locality:.0%} local")
                nodes.update(xs)
    if not nodes:
        return None
    axes.set_title("Where does one route server saturate?")
    axes.set_ylabel("messages/s at which it fills one core\n(1 s ÷ its CPU for a message and its receipt)")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:,.0f}"))
    axes.set_ylim(bottom=0)
    _nodes_axis(axes, nodes)
    axes.legend()
    return figure


def _recovery(kills: Sequence[Figures]) -> Figure | None:
    """What each message waited that was due around a kill."""
    if not kills:
        return None
    columns = min(len(kills), 3)
    lines = -(-len(kills) // columns)
    figure, grid = _figure(columns, lines, (max(SIZE[0], 4.3 * columns), max(4.6, 2.6 * lines + 0.8)), sharex=True, sharey=True)
    panels = [axes for line in grid for axes in line]
    for axes in panels[len(kills) :]:
        axes.set_visible(False)
    for axes, kill in zip(panels, kills, strict=False):
        longest: dict[int, float] = {}
        for due, wait in kill["points"]:
            longest[int(due // BIN)] = max(longest.get(int(due // BIN), 0.0), wait)
        colour = LOOKS[kill["scheme"]][0]
        bins = sorted(longest)
        axes.axvspan(0, kill["down_s"], color="#eeeeee", lw=0)
        axes.bar([each * BIN for each in bins], [longest[each] for each in bins], BIN, align="edge", color=colour, lw=0)
        axes.axvline(0, color="black", lw=1.2)
        axes.set_title(kill["name"], fontsize=10.5)
        told = f"all well after {kill['recovery_s']:.1f} s" if kill["late"] else "nobody waits"
        axes.text(
            0.98,
            0.98,
            f"{told}\n{kill['late']} of {kill['sent']:,} late, {kill['lost']} lost",
            transform=axes.transAxes,
            ha="right",
            va="top",
            fontsize=9,
        )
    for axes in panels:
        axes.set_yscale("log")
        axes.set_ylim(1, 600_000)  # room for what is said
        axes.set_yticks([1, 10, 100, 1000, 10_000], ["1 ms", "10 ms", "0.1 s", "1 s", "10 s"])
        axes.yaxis.set_minor_formatter(NullFormatter())
    for axes in panels[max(len(kills) - columns, 0) : len(kills)]:  # the lowest of each column
        axes.xaxis.set_tick_params(labelbottom=True)
        axes.set_xlabel("seconds from the kill to when it was due")
    for line in grid:
        line[0].set_ylabel(f"longest wait of each {BIN:g} s")
    figure.suptitle(
        "What do users notice of a kill?  (grey: until it is started again)", x=0.01, ha="left", fontsize=13.5, fontweight="bold"
    )
    return figure
