"""What the rows of `benchmarks.schemes` say when they are put in order: curves over the nodes, and where two of them meet.

Strategy: what theory has as a straight line is drawn as one through the points (least squares), what it has as flat is their mean: single
points are noisy on a machine that others use too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from benchmarks.driving import Figures

ROUTED = ("routed star", "routed mesh", "routed mesh Redis")


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


def crossing(rows: Sequence[Figures], other: str, locality: float) -> float | None:
    """The number of nodes from which on broadcast costs more CPU than another scheme: where the line through broadcast's points meets the
    other's mean. None if they never meet, or too little was measured."""
    xs, ys = curve([row for row in rows if row["nodes"] > 1], "broadcast", locality, cpu_of)
    _, others = curve([row for row in rows if row["nodes"] > 1], other, locality, cpu_of)
    if len(xs) < 2 or not others:
        return None
    begin, slope = line_through(xs, ys)
    return max(1.0, (sum(others) / len(others) - begin) / slope) if slope > 0 else None
