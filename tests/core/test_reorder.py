"""Order among the pushes of several nodes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from twisted_im.core.reorder import PATIENCE, Reorder


@given(st.permutations(range(1, 12)), st.sets(st.integers(2, 11)), st.lists(st.floats(0.0, 0.04), min_size=11, max_size=11))
def test_order_is_restored_and_nothing_is_kept(arrivals: list[int], lost: set[int], pauses: list[float]) -> None:
    """If this fails, a push stays on the server for ever, or devices get the messages of two nodes crossed though both were in time."""
    reorder: Reorder[int] = Reorder()
    now = 0.0
    gone = reorder.put(7, 0, 0, now)
    at: dict[int, float] = {}
    for seq, pause in zip(arrivals, pauses, strict=True):
        now += pause
        gone += reorder.due(now)
        if seq not in lost:
            at[seq] = now
            gone += reorder.put(7, seq, seq, now)
        deadline = reorder.deadline()
        assert (deadline is None) == (len(reorder) == 0)
        assert deadline is None or now < deadline <= now + PATIENCE
    gone += reorder.due(now + PATIENCE)
    assert len(reorder) == 0
    assert sorted(gone) == [0, *sorted(at)]
    first, last = min(at.values(), default=0.0), max(at.values(), default=0.0)
    if not lost and last - first < PATIENCE:
        assert gone == list(range(12))


def test_conversations_do_not_wait_for_each_other() -> None:
    """If this fails, a gap in one conversation holds up all others."""
    reorder: Reorder[str] = Reorder()
    assert reorder.put(1, 5, "a5", 0.0) == ["a5"]
    assert reorder.put(1, 7, "a7", 0.0) == []
    assert reorder.put(2, 3, "b3", 0.0) == ["b3"]
    assert reorder.put(2, 4, "b4", 0.0) == ["b4"]
    assert reorder.put(1, 5, "a5 again", 0.01) == ["a5 again"]
    assert reorder.put(1, 6, "a6", 0.01) == ["a6", "a7"]
    assert reorder.deadline() is None


def test_what_is_quiet_is_forgotten() -> None:
    """If this fails, a server remembers every conversation that there ever was."""
    reorder: Reorder[int] = Reorder(remembered=3)
    for conversation in range(10):
        reorder.put(conversation, 1, conversation, 0.0)
    assert reorder.put(9, 3, 93, 0.0) == []
    assert reorder.put(0, 3, 3, 0.0) == [3]
