"""What is read out of the rows of a comparison."""

from __future__ import annotations

import pytest

from benchmarks.curves import crossing, from_nodes


def row(scheme: str, nodes: int, cpu: float) -> dict[str, object]:
    """A row of the results, as far as its CPU goes."""
    parts = {"node_cpu_us_per_message": cpu - 5, "route_server_cpu_us_per_message": 5.0, "redis_cpu_us_per_message": 0.0}
    return {"scheme": scheme, "nodes": nodes, "locality": 0.0, **parts}


def test_crossing_point() -> None:
    """If this fails, an architect is told the wrong number of nodes from which on broadcast costs more."""
    broadcast = [row("broadcast", nodes, 40 + 10 * (nodes - 1)) for nodes in (2, 4, 8)]
    mesh = [row("routed mesh", nodes, 75) for nodes in (1, 2, 4, 8)]
    assert crossing([*broadcast, *mesh], "routed mesh", 0.0) == pytest.approx(4.5)
    assert crossing(broadcast, "routed mesh", 0.0) is None
    assert crossing([row("broadcast", 1, 40), row("broadcast", 2, 50), *mesh], "routed mesh", 0.0) is None
    assert [from_nodes(at) for at in (1.0, 2.0, 2.1, None)] == [
        "already with 2 nodes",
        "already with 2 nodes",
        "from 3 nodes on",
        "no crossing in this run",
    ]
