"""What the rows of `benchmarks.schemes` say when they are put in order: curves over the nodes, and where two of them meet.

Strategy: a straight line is put through the points (least squares), since single points are noisy on a machine that others use too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

from benchmarks.driving import Figures

ROUTED = ("routed star", "routed mesh", "routed mesh Redis")
SCHEMES = ("single", "parallel", "broadcast", *ROUTED)  #: in the order in which they are told of
BIN = 0.1  #: seconds; of all messages due in such a time the one that waited longest is told


def curve(rows: Iterable[Figures], scheme: str, locality: float, value: Callable[[Figures], float]) -> tuple[list[int], list[float]]:
    """A scheme's points over the nodes. One node is local whatever the locality; a parallel server always is."""
    own = [row for row in rows if row["scheme"] == scheme and (row["locality"] == locality or row["nodes"] == 1 or scheme == "parallel")]
    points = sorted((row["nodes"], value(row)) for row in own)
    return [nodes for nodes, _ in points], [each for _, each in points]


def localities_of(rows: Sequence[Figures]) -> list[float]:
    """Those of which there are rows on several nodes that link, the least local first."""
    return sorted({row["locality"] for row in rows if row["nodes"] > 1 and row["scheme"] in ("broadcast", *ROUTED)})


def cpu_of(row: Figures) -> float:
    return float(row["node_cpu_us_per_message"] + row["route_server_cpu_us_per_message"] + row["redis_cpu_us_per_message"])


def line_through(xs: Sequence[float], ys: Sequence[float]) -> tuple[float, float]:
    """Beginning and slope of the straight line through the points (least squares)."""
    mean_x, mean_y = sum(xs) / len(xs), sum(ys) / len(ys)
    spread = sum((x - mean_x) ** 2 for x in xs)
    slope = sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True)) / spread if spread else 0.0
    return mean_y - slope * mean_x, slope


def fitted(rows: Iterable[Figures], scheme: str, locality: float) -> tuple[float, float] | None:
    """Beginning and slope of a scheme's CPU over the nodes, from two on; flat if there is one point, None if none."""
    xs, ys = curve([row for row in rows if row["nodes"] > 1], scheme, locality, cpu_of)
    return line_through(xs, ys) if xs else None


def crossing(rows: Sequence[Figures], other: str, locality: float) -> float | None:
    """The number of nodes from which on broadcast costs more CPU than another scheme: where the straight lines through their points meet.
    None if they never meet, or too little was measured of broadcast."""
    xs, _ = curve([row for row in rows if row["nodes"] > 1], "broadcast", locality, cpu_of)
    dear, cheap = fitted(rows, "broadcast", locality), fitted(rows, other, locality)
    if len(xs) < 2 or dear is None or cheap is None or dear[1] <= cheap[1]:
        return None
    return max(1.0, (cheap[0] - dear[0]) / (dear[1] - cheap[1]))


def from_nodes(at: float | None, least: int = 2) -> str:
    """A crossing for people: the first whole number of nodes with which broadcast costs more; `least` are the fewest that there are."""
    if at is None:
        return "no crossing in this run"
    return f"from {math.floor(at) + 1} nodes on" if at > least else f"already with {least} nodes"


def timed(rows: Sequence[Figures]) -> list[Figures]:
    """Those whose latencies are compared: the most nodes, the least local; a single server, and the parallel ones, as they are."""
    localities = localities_of(rows)
    most = max((row["nodes"] for row in rows), default=0)
    return [
        row
        for row in rows
        if row["nodes"] == (1 if row["scheme"] == "single" else most)
        and (row["scheme"] in SCHEMES[:2] or (localities and row["locality"] == localities[0]))
    ]


def longest(points: Iterable[Sequence[float]]) -> dict[int, float]:
    """Of (when it was due, what it waited): the longest wait of each `BIN`, by its number."""
    found: dict[int, float] = {}
    for due, wait in points:
        number = math.floor(due / BIN + 1e-9)
        found[number] = max(found.get(number, 0.0), wait)
    return found
