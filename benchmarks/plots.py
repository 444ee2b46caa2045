"""The pictures of `python -m benchmarks schemes`, each as PNG and SVG.

Strategy: one question for each picture, which its title asks; a scheme has the same colour and mark in all of them. Points are measured,
dashed lines are theory or a straight line through the points (least squares), and the legend says which. Points of several schemes with
the same number of nodes stand a little beside each other. What, where and when stands at the foot of each. Letters stay letters in the
SVG, so that it is small and can be searched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator, ScalarFormatter

from benchmarks.curves import BIN, ROUTED, cpu_of, crossing, curve, fitted, from_nodes, localities_of, longest, timed
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
ASIDE = 0.07  #: nodes; from one scheme's point to the next one's
LINES = ("-", "--", ":", "-.")  #: of localities
TYPES = ("png", "svg")
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
    "legend.facecolor": "white",  # no line of the grid goes through its words
    "legend.edgecolor": "white",
    "legend.fontsize": 9.5,
    "svg.hashsalt": "twisted_im",
    "svg.fonttype": "none",
}


def draw(results: Figures, out: Path, types: Sequence[str] = TYPES) -> list[Path]:
    """Draws what the results are enough for.

    Args:
        results: what `benchmarks.schemes` has written.
        out: the folder for the pictures.
        types: of the files.

    Returns:
        the files, one of each type for each picture.
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
            for kind in types:
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


def _beside(scheme: str, nodes: Iterable[float]) -> list[float]:
    """Where a scheme's points stand, so that one does not hide another's."""
    aside = ASIDE * (list(LOOKS).index(scheme) - (len(LOOKS) - 1) / 2)
    return [count + aside for count in nodes]


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
    axes.plot(theory, [n - 1 for n in theory], "--", color=LOOKS["broadcast"][0], lw=1.4, label="theory of broadcast: N − 1")
    axes.plot(
        theory, [(1 - locality) * min(n - 1, 1) for n in theory], "--", color=LOOKS["routed mesh"][0], lw=1.4, label=_routed(locality)
    )
    for scheme in ("broadcast", *ROUTED, "parallel"):
        xs, ys = curve(rows, scheme, locality, lambda row: row["copies_per_message"])
        if xs:
            colour, mark = LOOKS[scheme]
            # they lie on each other
            size = {"broadcast": 13, "routed star": 10, "routed mesh": 7.5, "routed mesh Redis": 5.5}.get(scheme, 8)
            told = "parallel (reach nobody on another node)" if scheme == "parallel" else scheme
            axes.plot(xs, ys, mark, color=colour, ms=size, label=f"{told}, measured", mec="white", mew=0.3, clip_on=False)
    xs, ys = curve(rows, "broadcast", locality, lambda row: row["wasted_copies_per_message"])
    if xs:
        label = "those of broadcast that nobody there needed, measured"
        axes.fill_between(xs, ys, color=LOOKS["broadcast"][0], alpha=0.12, lw=0, label=label)
    axes.set_title("How many copies does a message make?")
    axes.set_ylabel(f"copies that reach another node, for each message\n({_percent(locality)})")
    axes.set_ylim(bottom=0)
    _nodes_axis(axes, nodes, log=False)
    axes.legend(loc="upper left")
    return figure


def _routed(locality: float) -> str:
    return f"theory of the routed schemes: {1 - locality:g}, to the node that has the receiver"


def _cost(rows: Sequence[Figures]) -> Figure | None:
    """CPU of a message against nodes, at each locality."""
    localities = localities_of(rows)
    if not localities:
        return None
    figure, grid = _figure(columns=len(localities), size=(max(SIZE[0], 3.8 * len(localities)), 5.8), sharey=True)
    nodes = sorted({row["nodes"] for row in rows})
    for axes, locality in zip(grid[0], localities, strict=True):
        for scheme, (colour, mark) in LOOKS.items():
            xs, ys = curve(rows, scheme, locality, cpu_of)
            if not xs:
                continue
            if scheme == "single":
                axes.axhline(ys[0], color=colour, lw=1, ls=":", label="single server, measured")
                continue
            axes.plot(_beside(scheme, xs), ys, mark, color=colour, ms=7.5, mec="white", mew=0.6, label=f"{scheme}, measured")
            several = [(x, y) for x, y in zip(xs, ys, strict=True) if x > 1 or scheme == "parallel"]
            if scheme == "broadcast" and len(several) > 1:
                _straight(axes, fitted(rows, scheme, locality), several[0][0], several[-1][0], colour)
            elif several:
                mean = sum(y for _, y in several) / len(several)
                axes.plot([several[0][0], several[-1][0]], [mean, mean], "--", color=colour, lw=1.3)
        axes.plot([], [], "--", color=LOOKS["broadcast"][0], lw=1.3, label="theory: grows with N − 1 copies (line through the points)")
        axes.plot([], [], "--", color="#555555", lw=1.3, label="theory: flat, 1 copy or none (mean of the points)")
        axes.set_title(_percent(locality), fontsize=10.5, fontweight="normal")
        _nodes_axis(axes, nodes, log=False)
    grid[0][0].set_ylim(bottom=0)  # last: the panels share it, and what is set is not widened any more
    grid[0][0].set_ylabel("CPU of a message and its receipt, µs\n(all nodes, route server and Redis)")
    figure.legend(*grid[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=3, borderaxespad=2)
    figure.suptitle("What does a message cost?", x=0.01, ha="left", fontsize=13.5, fontweight="bold")
    return figure


def _straight(axes: Axes, line: tuple[float, float] | None, begin: float, end: float, colour: str) -> None:
    if line is not None:
        axes.plot([begin, end], [line[0] + line[1] * x for x in (begin, end)], "--", color=colour, lw=1.3)


def _crossing(rows: Sequence[Figures]) -> Figure | None:
    """Where broadcast is no longer worth it."""
    several = [row for row in rows if row["nodes"] > 1]
    localities = [each for each in localities_of(rows) if len(curve(several, "broadcast", each, cpu_of)[0]) > 1]
    if not localities:
        return None
    if not any(curve(several, other, localities[0], cpu_of)[0] for other in ROUTED):
        return None
    figure, grid = _figure(columns=len(localities), size=(max(SIZE[0], 3.8 * len(localities)), 5.8), sharey=True)
    nodes = sorted({row["nodes"] for row in several})
    for axes, locality in zip(grid[0], localities, strict=True):
        for other in ROUTED:
            ours, theirs = fitted(rows, "broadcast", locality), fitted(rows, other, locality)
            if ours is None or theirs is None:
                continue
            colour, mark = LOOKS[other]
            costs = dict(zip(*curve(several, other, locality, cpu_of), strict=True))
            both = [(n, cost / costs[n]) for n, cost in zip(*curve(several, "broadcast", locality, cpu_of), strict=True) if n in costs]
            at = crossing(rows, other, locality)
            where = f" ({at:.1f})" if at is not None and at > 2 else ""
            label = f"{other}: {from_nodes(at)}{where}"
            axes.plot(
                _beside(other, [n for n, _ in both]), [y for _, y in both], mark, color=colour, ms=8, mec="white", mew=0.6, label=label
            )
            steps = [nodes[0] + (nodes[-1] - nodes[0]) * step / 60 for step in range(61)]
            axes.plot(steps, [(ours[0] + ours[1] * x) / (theirs[0] + theirs[1] * x) for x in steps], "--", color=colour, lw=1.3)
            if at is not None and nodes[0] <= at <= nodes[-1]:
                axes.plot([at], [1], "o", ms=12, mfc="none", mec=colour, mew=1.6)
        axes.axhline(1, color="black", lw=1.2)
        axes.axhspan(0, 1, color="#eeeeee", lw=0, zorder=0)
        axes.text(nodes[-1], 0.5, "here broadcast is cheaper", ha="right", va="center", fontsize=9.5)
        axes.set_title(_percent(locality), fontsize=10.5, fontweight="normal")
        _nodes_axis(axes, nodes, log=False)
        # below, for the points have the room above
        axes.legend(
            loc="upper left", bbox_to_anchor=(-0.02, -0.13), title="broadcast costs more CPU (circles) than", alignment="left", fontsize=9.5
        )
    grid[0][0].set_ylim(bottom=0)
    grid[0][0].yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g} ×"))
    grid[0][0].set_ylabel("CPU of broadcast ÷ CPU of the other, for a message\n(dashed: of the straight lines through their points)")
    figure.suptitle("From how many nodes on is broadcast no longer worth it?", x=0.01, ha="left", fontsize=13.5, fontweight="bold")
    return figure


def _latency(rows: Sequence[Figures], results: Figures) -> Figure | None:
    """What a message waits, as a distribution with its rare cases shown."""
    wanted = timed(rows)
    if not localities_of(rows):
        return None
    most = max(row["nodes"] for row in rows)
    figure, grid = _figure(size=(SIZE[0], 6.0))
    axes = grid[0][0]
    for row in sorted(wanted, key=lambda row: list(LOOKS).index(row["scheme"])):
        total = sum(count for _, count in row["histogram_ms"])
        xs, ys, over = [], [], total
        for wait, count in row["histogram_ms"]:
            xs.append(wait)
            ys.append(over / total)
            over -= count
        name = {"single": "single (1 node)", "parallel": "parallel (only local messages)"}.get(row["scheme"], row["scheme"])
        label = f"{name}: median {row['p50_ms']:.1f} ms, p99 {row['p99_ms']:.1f} ms"
        axes.plot(xs, ys, color=LOOKS[row["scheme"]][0], lw=1.8, drawstyle="steps-post", label=label)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_ylim(1e-3, 1.0)
    axes.set_yticks([1, 0.5, 0.1, 0.01, 0.001], ["all", "half", "1 of 10", "1 of 100", "1 of 1,000"])
    axes.yaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("milliseconds from when it was due until it is there")
    axes.set_ylabel(f"share of the messages that wait longer\n({_percent(localities_of(rows)[0])})")
    axes.set_title(f"How long is a message on its way?  ({most} nodes, {results['rate']:,} messages/s in all)")
    figure.legend(loc="outside lower center", ncols=2, borderaxespad=2)
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
    axes.set_title("How many messages a second saturate one route server?")
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
        waits = longest(kill["points"])
        edges = range(min(waits), max(waits) + 2)
        axes.axvspan(0, kill["down_s"], color="#e4e4e4", lw=0)
        heights = [waits.get(each, 0.0) for each in edges[:-1]]
        axes.stairs(heights, [round(each * BIN, 3) for each in edges], fill=True, baseline=1, color=LOOKS[kill["scheme"]][0], lw=0)
        axes.axhline(1000 * LATE, color="black", lw=0.8, ls=":")
        axes.axvline(0, color="black", lw=1.2)
        if kill["late"]:
            axes.axvline(kill["recovery_s"], color="black", lw=1.2, ls="--")
        axes.set_title(kill["name"], fontsize=10.5)
        told = f"all well after {kill['recovery_s']:.1f} s" if kill["late"] else "nobody waits"
        axes.text(
            0.98,
            0.98,
            f"{told}\n{kill['late']:,} of {kill['sent']:,} late, {kill['lost']} lost",
            transform=axes.transAxes,
            ha="right",
            va="top",
            fontsize=9,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.5},
        )
    for axes in panels:
        axes.set_yscale("log")
        axes.set_ylim(1, 600_000)  # room for what is said
        axes.set_yticks([1, 10, 100, 1000, 10_000], ["1 ms", "10 ms", "0.1 s", "1 s", "10 s"])
        axes.yaxis.set_minor_locator(NullLocator())
    for axes in panels[max(len(kills) - columns, 0) : len(kills)]:  # the lowest of each column
        axes.xaxis.set_tick_params(labelbottom=True)
        axes.set_xlabel("seconds after the kill at which it was due")
    for line in grid:
        line[0].set_ylabel(f"longest wait of each {BIN:g} s")
    title = "What do users notice of a kill?  (grey: until it is started again; above the dots: late; dashes: all is well)"
    figure.suptitle(title, x=0.01, ha="left", fontsize=13.5, fontweight="bold")
    return figure
