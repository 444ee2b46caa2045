"""The picture of `python -m benchmarks capacity`, as PNG and SVG.

Strategy: a column for each locality. Above, what a message costs; below, how many messages there can be, or, at a given rate, how busy the
busiest process is. Lines are the model, filled marks are real clusters. Colours and marks are those of the pictures of the schemes.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, NullFormatter

from benchmarks.capacity import ask
from benchmarks.curves import from_nodes
from benchmarks.driving import Figures
from benchmarks.model import Answer, Case, Costs, crossing
from benchmarks.plots import DOTS, LOOKS, STYLE, TYPES

#: Numbers of nodes between which lines are drawn, besides those that are asked for: twelve for each doubling.
DENSE = 12
TICKS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000)


def draw(
    out: Path, options: argparse.Namespace, names: Sequence[str], costs: Costs, results: Figures, kinds: Sequence[str] = TYPES
) -> list[Path]:
    """Draws it.

    Args:
        out: the folder for it.
        options: of the command.
        names: of the schemes.
        costs: of the steps.
        results: what the command has found.
        kinds: of the files.

    Returns:
        the files.
    """
    localities = list(dict.fromkeys(options.locality))
    counts = _dense(options.nodes)
    with mpl.rc_context(STYLE):  # type: ignore[arg-type]  # its keys are literals
        figure = Figure(figsize=(max(9.0, 4.7 * len(localities) + 1), 9.0), layout=ConstrainedLayoutEngine(rect=(0, 0.03, 1, 0.97)))
        grid = figure.subplots(2, len(localities), squeeze=False, sharex=True, sharey="row")
        for column, locality in enumerate(localities):
            curves = {name: [ask(options, name, nodes, locality, costs) for nodes in counts] for name in names}
            _cost(grid[0][column], curves, locality, results)
            _capacity(grid[1][column], curves, rate=bool(options.rate))
        grid[0][0].set_ylabel("CPU of a message and its receipt, µs\n(all nodes, route server and Redis)")
        grid[1][0].set_ylabel("how busy the busiest process is, of its core" if options.rate else "messages/s, all nodes together")
        grid[0][0].legend(loc="upper left")
        figure.align_ylabels(grid[:, 0])
        load = _load(options)
        figure.suptitle(f"What does a cluster carry, and what does it cost?  ({load})", x=0.01, ha="left", fontsize=13.5, fontweight="bold")
        stored = results["costs"]
        figure.text(
            0.01,
            0.006,
            f"Lines: model, a core for each process. Its costs, and real clusters: {stored['machine']} · Python {stored['python']} · "
            f"{stored['store']} on {stored['file_system']} · {stored['payload']} bytes · {stored['date']}",
            fontsize=7.5,
            color="#666666",
        )
        written = []
        for kind in kinds:
            path = out / f"capacity.{kind}"
            figure.savefig(path, dpi=DOTS, metadata={"Date": None} if kind == "svg" else None)
            written.append(path)
    return written


def _load(options: argparse.Namespace) -> str:
    users = f"{options.users:,} users" if options.users else "100 users a node"
    if options.rate:
        return f"{users}, each {options.rate:g} messages/s"
    full = "" if options.full == 1 else f", at most {options.full:.0%} of a core busy"
    return f"{users}, window {options.window}{full}"


def _dense(nodes: Sequence[int]) -> list[int]:
    low, high = min(nodes), max(nodes)
    found, here = {low, high, *nodes}, float(low)
    while here < high:
        found.add(round(here))
        here *= 2 ** (1 / DENSE)
    return sorted(found)


def _cost(axes: Axes, curves: dict[str, list[tuple[Case, Answer]]], locality: float, results: Figures) -> None:
    """CPU of a message against nodes, with what was measured, and where broadcast becomes dearer."""
    lines: dict[str, dict[int, float]] = {}
    for answers in curves.values():
        scheme = str(answers[0][0].scheme)
        colour, mark = LOOKS[scheme]
        lines[scheme] = {case.nodes: answer.us for case, answer in answers}
        axes.plot(list(lines[scheme]), list(lines[scheme].values()), color=colour, lw=1.9, label=scheme)
        points = [row for row in results["check"] if row["scheme"] == scheme and (row["nodes"] == 1 or row["locality"] == locality)]
        if points:
            axes.plot(
                [row["nodes"] for row in points],
                [row["measured_us"] for row in points],
                mark,
                color=colour,
                ms=8,
                mec="white",
                mew=0.7,
            )
    if any(row["locality"] == locality for row in results["check"]):
        axes.plot([], [], "o", color="#555555", ms=7, label="real clusters, measured")
    told, circled = [], ""
    several = {scheme: {nodes: us for nodes, us in line.items() if nodes > 1} for scheme, line in lines.items()}
    for scheme, line in several.items():
        at = crossing(several.get("broadcast", {}), line)
        if scheme == "broadcast" or at is None:
            continue
        if at > min(line):
            near = min(line, key=lambda nodes: abs(nodes - at))
            axes.plot([at], [line[near]], "o", ms=13, mfc="none", mec="black", mew=1.3, zorder=5)
            circled = " (circles)"
        told.append(f"{scheme}: {from_nodes(at, min(line))}")
    if told:
        text = f"broadcast costs more{circled} than\n" + "\n".join(told)
        axes.set_ylim(bottom=min(us for line in lines.values() for us in line.values()) / 5)  # room for it
        axes.text(0.985, 0.02, text, transform=axes.transAxes, ha="right", va="bottom", fontsize=9)
    title = "every message goes to another node" if not locality else f"{locality:.0%} of the messages stay on their node"
    axes.set_title(title, fontsize=11, fontweight="normal")
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:,.0f}"))
    _nodes(axes, [case.nodes for answers in curves.values() for case, _ in answers])


def _capacity(axes: Axes, curves: dict[str, list[tuple[Case, Answer]]], *, rate: bool) -> None:
    """What they can do against nodes, and from where the route server is what is full."""
    marked = False
    for answers in curves.values():
        scheme = str(answers[0][0].scheme)
        colour, _ = LOOKS[scheme]
        counts = [case.nodes for case, _ in answers]
        values = [answer.load if rate else case.rate for case, answer in answers]
        axes.plot(counts, values, color=colour, lw=1.9)
        for count, value, (_, answer) in zip(counts, values, answers, strict=True):
            middle = max(answer.route_server_load, answer.redis_load)
            if middle >= answer.load and middle >= 0.999 * min(answer.load, 1.0) and (not rate or middle >= 1):
                axes.plot([count], [value], "X", color=colour, ms=12, mec="black", mew=0.8, zorder=5)
                below = scheme == "broadcast"
                axes.annotate(f"{count:,}", (count, value), (0, -19 if below else 10), textcoords="offset points", ha="center", fontsize=9)
                marked = True
                break
    if marked:
        label = "route server, or Redis, is full (with so many nodes)"
        axes.plot([], [], "X", color="#bbbbbb", ms=10, mec="black", mew=0.8, label=label)
    axes.set_yscale("log")
    if rate:
        axes.axhline(1, color="black", lw=1.2)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:.0%}" if y >= 0.01 else f"{y:.2%}"))
    else:
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:,.0f}"))
    if marked and axes.get_subplotspec().is_first_col():  # type: ignore[union-attr]  # it stands in a grid
        axes.legend(loc="upper left")
    axes.set_xlabel("nodes")
    _nodes(axes, [case.nodes for answers in curves.values() for case, _ in answers])


def _nodes(axes: Axes, counts: Sequence[int]) -> None:
    low, high = min(counts), max(counts)
    if low < high:
        axes.set_xscale("log", base=2)
    wanted = [tick for tick in TICKS if low <= tick <= high]
    axes.set_xticks(wanted or [low], [f"{tick:,}" for tick in wanted or [low]], fontsize=8.5)
    axes.xaxis.set_minor_formatter(NullFormatter())
