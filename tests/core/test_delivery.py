"""The two halves of the six packets, rule by rule.

Strategy: each rule has the smallest story that shows it: what is asked for, and when nothing may be asked. What becomes of them when
everything happens at once is tried where they are driven: `tests/client/test_sending.py` and `tests/client/test_reading.py` hold each half
against a small server that loses, repeats and reorders.
"""

from __future__ import annotations

from itertools import pairwise
from random import Random
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twisted_im.core.delivery import ClientIds, Inbox, LogWentBack, Outbox, Pull, Step
from twisted_im.errors import LocalProtocolError, Status

MINE, OTHER = b"m" * 16, b"o" * 16


class Row(NamedTuple):
    """One row of a log."""

    conversation: int
    seq: int
    device: bytes = OTHER
    client_id: bytes = b""
    row_type: int = 0


def rows(steps: list[Step]) -> list[int]:
    """The seqs that steps show."""
    return [step.seq for step in steps if step.row is not None]


# ---- client ids


@given(st.lists(st.integers(0, 2**41), min_size=2, max_size=200), st.integers())
def test_ids_grow(offsets: list[int], seed: int) -> None:
    """If this fails, two messages share an id and the second vanishes, or the server's index of ids grows cold."""
    ids, moment, made = ClientIds(Random(seed).getrandbits), 0, []
    for offset in offsets:
        moment += offset % 3  # often the same millisecond
        made.append(ids.make(moment))
    assert all(a < b for a, b in pairwise(made))
    assert all(len(i) == 16 and i[6] >> 4 == 7 and i[8] >> 6 == 0b10 for i in made)


def test_ids_carry_the_servers_time() -> None:
    """If this fails, a server takes a fresh message for a stale one and refuses it."""
    ids = ClientIds(Random(1).getrandbits)
    assert int.from_bytes(ids.make(1_700_000_000_123)[:6], "big") == 1_700_000_000_123
    assert int.from_bytes(ids.make(1_699_999_999_000)[:6], "big") == 1_700_000_000_123  # a small step back: still growing
    assert int.from_bytes(ids.make(1_600_000_000_000)[:6], "big") == 1_600_000_000_000  # another server, whose clock is right


def test_ids_spill_into_the_next_millisecond() -> None:
    """If this fails, a burst of sends within a millisecond makes an id that is smaller than the one before."""
    ids = ClientIds(lambda bits: (1 << bits) - 1)
    made = [ids.make(5) for _ in range(3)]
    for _ in range(2):
        ids._rest = (1 << 74) - 2
        made.append(ids.make(5))
    assert made == sorted(set(made))
    assert int.from_bytes(made[-1][:6], "big") > 5


# ---- the outbox


def outbox(*, window: int = 4, **options: float) -> Outbox[str]:
    ids = ClientIds(Random(7).getrandbits)
    made: Outbox[str] = Outbox(lambda: ids.make(1), **options)  # type: ignore[arg-type]
    made.connected(window)
    return made


def taken(box: Outbox[str]) -> list[str]:
    found = []
    while (entry := box.take()) is not None:
        found.append(entry.item)
    return found


def test_outbox_resends_in_order_with_the_same_ids() -> None:
    """If this fails, a lost connection makes messages arrive twice, or in another order than they were written."""
    box = outbox(window=2)
    entries = [box.add(item, 0.0) for item in "abcd"]
    assert taken(box) == ["a", "b"]
    first_ids = [entry.client_id for entry in entries]
    assert all(first_ids[:2])
    assert not any(first_ids[2:])
    box.accepted(entries[1].client_id)
    assert taken(box) == ["c"]
    box.disconnected()
    assert taken(box) == []
    box.connected(8)
    assert taken(box) == ["a", "c", "d"]
    assert entries[0].client_id == first_ids[0]


def test_outbox_holds_everything_back_after_a_temporary_failure() -> None:
    """If this fails, the message after a refused one overtakes it."""
    box = outbox()
    entries = [box.add(item, 0.0) for item in "abc"]
    assert taken(box) == ["a", "b", "c"]
    assert box.refused(entries[0].client_id, temporary=True) is None
    box.add("d", 0.0)
    assert taken(box) == []
    box.disconnected()
    box.connected(4)
    assert taken(box) == ["a", "b", "c", "d"]


def test_outbox_ends_an_entry_once() -> None:
    """If this fails, an application is told twice of one message, or of one that it dropped."""
    box = outbox()
    a, b, c = (box.add(item, 0.0) for item in "abc")
    assert box.drop(c)
    assert taken(box) == ["a", "b"]
    assert not box.drop(b), "it has left: nobody can be certain"
    assert box.accepted(a.client_id) is a
    assert box.accepted(a.client_id) is None
    assert box.accepted(b.client_id) is None
    assert len(box) == 0
    box.disconnected()
    box.connected(4)
    assert taken(box) == []


def test_outbox_reports_patience_once_and_keeps_the_entry() -> None:
    """If this fails, a person is never told that a message has not left, or is told so again and again."""
    box = outbox()
    early = box.add("early", 0.0)
    box.add("late", 100.0)
    assert taken(box) == ["early", "late"]
    assert box.deadline() == 120.0
    assert box.unsent(119.0) == []
    assert box.unsent(120.0) == [early]
    assert box.unsent(121.0) == []
    assert box.deadline() == 220.0
    assert len(box) == 2


def test_outbox_has_bounds() -> None:
    """If this fails, an application that sends without a connection eats all memory, or two of its messages share one id."""
    box = outbox(bound=2)
    box.add("a", 0.0, client_id=b"i" * 16)
    with pytest.raises(LocalProtocolError) as error:
        box.add("b", 0.0, client_id=b"i" * 16)
    assert error.value.code is Status.CONFLICT
    box.add("b", 0.0)
    with pytest.raises(LocalProtocolError) as error:
        box.add("c", 0.0)
    assert error.value.code is Status.BUSY


# ---- the inbox


def inbox(kept: dict[int, int] | None = None, *, synced: bool = True, **options: int) -> Inbox:
    made = Inbox(MINE, kept or {}, **options)  # type: ignore[arg-type]
    made.connected()
    if synced:
        made.sync_ended()
    return made


def test_inbox_shows_in_order_and_pulls_a_gap_once() -> None:
    """If this fails, messages are shown out of order, or the same range is asked for again and again."""
    box = inbox({1: 3})
    assert rows(box.received(Row(1, 6))) == []
    assert box.pulls(9) == [Pull(1, 4, 5)]
    assert box.pulls(9) == []
    assert rows(box.received(Row(1, 8))) == []
    assert rows(box.answered(1, first=4, last=5, head=8, floor=0, rows=[Row(1, 4), Row(1, 5)])) == [4, 5, 6]
    assert box.pulls(9) == [Pull(1, 7, 7)]
    assert rows(box.received(Row(1, 7))) == [7, 8], "it came by itself after all"
    assert rows(box.answered(1, first=7, last=7, head=8, floor=0, rows=[Row(1, 7)])) == []
    assert box.pulls(9) == []


def test_inbox_drops_repeats() -> None:
    """If this fails, a message is shown twice."""
    box = inbox({1: 0})
    assert rows(box.received(Row(1, 1))) == [1]
    assert box.received(Row(1, 1)) == []
    box.received(Row(1, 3))
    assert box.received(Row(1, 3)) == []
    assert box.duplicates == 2


def test_inbox_passes_over_what_is_not_for_showing() -> None:
    """If this fails, a recalled message or one's own stops a conversation for ever, or is shown."""
    box = inbox({1: 0})
    assert box.received(Row(1, 1, row_type=1)) == [Step(1, 1)]
    assert box.accepted(1, 3) == [], "an own message does not skip what came before it"
    assert box.pulls(1) == [Pull(1, 2, 2)]
    assert rows(box.answered(1, first=2, last=2, head=3, floor=0, rows=[Row(1, 2)])) == [2]
    assert box.shown(1) == 3
    assert box.accepted(1, 3) == []


def test_inbox_takes_a_short_answer_as_it_is() -> None:
    """If this fails, rows that have expired leave a gap for ever, or an answer that covers less than was asked for loses the rest."""
    box = inbox({1: 0})
    box.received(Row(1, 9))
    assert box.pulls(1) == [Pull(1, 1, 8)]
    steps = box.answered(1, first=3, last=6, head=9, floor=2, rows=[Row(1, 3), Row(1, 5), Row(1, 6)])
    assert steps[0] == Step(1, 2)
    assert rows(steps) == [3, 5, 6]
    assert box.pulls(1) == [Pull(1, 7, 8)]
    assert rows(box.answered(1, first=7, last=6, head=9, floor=8, rows=[])) == [9]


def test_inbox_does_not_ask_in_circles() -> None:
    """If this fails, a server that answers with nothing is asked without a pause."""
    box = inbox({1: 0})
    box.received(Row(1, 5))
    assert box.pulls(1) == [Pull(1, 1, 4)]
    box.answered(1, first=1, last=0, head=5, floor=0, rows=[])
    assert box.pulls(1) == []
    box.received(Row(1, 6))
    assert box.pulls(1) == [Pull(1, 1, 4)]
    box.unanswered(1, gone=True)
    assert box.pulls(1) == []
    box.connected()
    assert box.pulls(1) == []


def test_inbox_waits_for_the_sync_where_it_does_not_know() -> None:
    """If this fails, a device that logs in pulls whole conversations that it has read long ago, and shows them again."""
    box = inbox(synced=False)
    assert box.received(Row(1, 7)) == []
    assert box.received(Row(2, 2)) == []
    assert box.pulls(9) == []
    assert rows(box.listed(1, head=7, floor=0, cursor=6)) == [7], "the server knows where this device stands"
    assert box.pulls(9) == []
    assert box.sync_ended() == []
    assert box.pulls(9) == [Pull(2, 1, 1)], "a conversation that the sync does not know began after it"


def test_inbox_begins_at_the_end_of_what_is_too_long() -> None:
    """If this fails, a device that was away for a year is busy for an hour before it shows today's messages, or is not told what it left
    out."""
    box = inbox({1: 10}, synced=False, catch_up=5)
    assert box.listed(1, head=100, floor=40, cursor=0) == [Step(1, 95, None, 55)]
    assert box.pulls(9) == [Pull(1, 96, 100)]
    assert box.listed(2, head=5, floor=0, cursor=0) == []
    box.sync_ended()
    assert box.received(Row(3, 50)) == [Step(3, 45, None, 45)], "invited to a group that talks since long ago"


def test_inbox_sees_that_a_log_went_back() -> None:
    """If this fails, a device never shows what is written after a backup was restored, since it takes the seqs for repeats."""
    box = inbox({1: 10}, synced=False)
    with pytest.raises(LogWentBack):
        box.listed(1, head=9, floor=0, cursor=0)
    box = inbox({1: 10}, synced=False)
    box.received(Row(1, 11))
    assert box.listed(1, head=10, floor=0, cursor=0) == [], "the list was made before the push"


def test_inbox_holds_only_so_much() -> None:
    """If this fails, a flood behind a gap grows a client without bound; or what was let go is lost."""
    box = inbox({1: 0}, hold=3)
    for seq in range(2, 9):
        box.received(Row(1, seq))
    assert box.pulls(1) == [Pull(1, 1, 1)]
    assert rows(box.answered(1, first=1, last=1, head=8, floor=0, rows=[Row(1, 1)])) == [1, 2, 3, 4]
    assert box.pulls(1) == [Pull(1, 5, 8)]
