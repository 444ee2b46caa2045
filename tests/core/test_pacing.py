"""Backoff and deadlines, with time and chance as numbers."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from twisted_im.core.pacing import Deadlines, full_jitter

seconds = st.floats(0, 1e6)


@given(failures=st.integers(0, 10**6), chance=st.floats(0, 1, exclude_max=True), base=st.floats(0.01, 10), cap=st.floats(1, 600))
def test_jitter_fills_the_interval_and_respects_the_cap(failures: int, chance: float, base: float, cap: float) -> None:
    """If this fails, ten thousand clients come back at the same moment, or one of them after hours, or never."""
    wait = full_jitter(lambda: chance, base=base, cap=cap)(failures)
    widest = min(cap, base * 2.0 ** min(failures, 32))
    assert 0 <= wait == chance * widest < cap
    assert failures > 3 or wait < base * 2**failures


@given(grain=st.sampled_from([0.25, 1.0, 3.0]), asked=st.lists(seconds, max_size=20), looks=st.lists(seconds, max_size=20))
def test_deadlines_are_neither_early_nor_late(grain: float, asked: list[float], looks: list[float]) -> None:
    """If this fails, a connection is cut before its time, or is never looked at again."""
    deadlines: Deadlines[int] = Deadlines(grain)
    for item, when in enumerate(asked):
        deadlines.put(item, when)
    left = set(range(len(asked)))
    for now in sorted(looks):
        due = deadlines.due(now)
        assert len(due) == len(set(due))
        assert set(due) <= left
        left -= set(due)
        assert all(asked[item] < now for item in due)
        assert all(asked[item] + grain > now for item in left)
        slots = [int(asked[item] / grain) for item in due]
        assert slots == sorted(slots)
        upcoming = deadlines.next()
        assert (upcoming is None) == (not left)
        if upcoming is not None:
            first = min(asked[item] for item in left)
            assert first < upcoming <= first + grain * 1.001  # the product of a slot and its grain is rounded
