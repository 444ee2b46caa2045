"""What is said of a kill, from what the load has seen."""

from __future__ import annotations

from benchmarks.clusters import Scheme
from benchmarks.recovery import judged, kills

KILLED = 100.0


def told(*messages: tuple[float, float | None], accepted: int | None = None, twice: int = 0) -> dict[str, object]:
    """As the load tells it: (when it was due, when it was shown), in seconds from the kill."""
    rows = [(KILLED + due, None if shown is None else KILLED + shown) for due, shown in messages]
    return {"messages": rows, "accepted": len(rows) if accepted is None else accepted, "twice": twice, "strange": 0}


def test_recovery_ends_with_what_the_kill_has_delayed() -> None:
    """If this fails, a hiccup long after a kill counts as its consequence, or a message that was long under way does not."""
    late = [(0.1 * step, 2.0) for step in range(-2, 15)]
    calm = [(0.1 * step, 0.1 * step + 0.01) for step in range(15, 60)]
    hiccup = [(6.0, 6.9)]
    found = judged(told((-1.0, -0.99), *late, *calm, *hiccup), KILLED)
    assert found["recovery_s"] == 2.0
    assert found["late"] == len(late)
    assert found["latest_ms"] == 2200
    assert found["before_p99_ms"] == 10
    assert (found["lost"], found["faults"]) == (0, [])


def test_nobody_notices() -> None:
    """If this fails, a kill that delayed nothing looks like one that did."""
    found = judged(told((-1.0, -0.9), (0.0, 0.1), (1.0, 1.2)), KILLED)
    assert (found["recovery_s"], found["late"]) == (0.0, 0)


def test_what_is_lost_is_a_fault() -> None:
    """If this fails, a scheme that loses messages when something is killed gets good figures."""
    found = judged(told((0.0, None), (1.0, 1.1), accepted=1, twice=3), KILLED)
    assert found["lost"] == 1
    assert found["faults"] == [
        "1 of 2 messages were never shown",
        "1 messages were never accepted",
        "3 messages were shown twice",
    ]


def test_all_that_can_be_killed() -> None:
    """If this fails, the comparison says nothing of the route server or of Redis, on which others depend."""
    star, mesh = Scheme("routed", "route-server"), Scheme("routed", "mesh", "redis")
    found = [str(kill) for kill in kills([Scheme("single"), Scheme("parallel"), star, mesh])]
    assert found == [
        "single: the server",
        "routed star: a node",
        "routed star: the route server",
        "routed mesh Redis: a node",
        "routed mesh Redis: Redis",
    ]
