"""Backoff and deadlines, with time and chance as numbers."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from twisted_im.core.pacing import Buckets, Deadlines, full_jitter

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


@given(
    burst=st.integers(1, 5),
    every=st.integers(1, 8),
    steps=st.lists(st.tuples(st.integers(0, 20), st.sampled_from("ab"), st.booleans()), max_size=60),
)
def test_buckets_are_as_plain_ones(burst: int, every: int, steps: list[tuple[int, str, bool]]) -> None:
    """If this fails, somebody is slowed down who did little, or somebody who tries without end is not."""
    buckets: Buckets[str] = Buckets(burst=burst, every=every)
    plain = dict.fromkeys("ab", float(burst))
    now = 1000
    for passed, key, returned in steps:
        now += passed
        plain = {name: min(tokens + passed / every, burst) for name, tokens in plain.items()}
        wait = buckets.wait(key, now)
        assert abs(wait - max((1 - plain[key]) * every, 0)) < 1e-6
        if wait < 1e-6:
            buckets.take(key, now)
            plain[key] -= 1
            if returned:
                buckets.give_back(key)
                plain[key] += 1


def test_a_table_of_buckets_does_not_grow() -> None:
    """If this fails, whoever comes from many addresses fills the memory of a server; or one that is used is forgotten for new ones."""
    buckets: Buckets[int] = Buckets(burst=1, every=60.0, most=10)
    for key in range(1000):
        buckets.take(key, key / 1000)
        buckets.take(-1, key / 1000)
    assert len(buckets) == 10
    assert buckets.wait(-1, 1.0) > 50_000
    assert buckets.wait(0, 1.0) == 0
    buckets.give_back(0)
    assert len(buckets) == 10
