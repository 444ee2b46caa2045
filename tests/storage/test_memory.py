"""The store in memory: the contract of all stores, and what is its own — forgetting in time.

Strategy: the clock and the number of rows kept are the test's, so that a day passes at once and a log is full after a few rows.
"""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import TestCase

from tests.storage.contract import ALICE, BOB, PHONE, READ, Clock, StoreCase, StoreContract, message
from twisted_im.server.interfaces import AHEAD
from twisted_im.storage.memory import MemoryStore
from twisted_im.wire.schema import MAX_U64

KEEP = 4


class TestMemoryStore(StoreContract, TestCase):
    """What every store must do."""

    def make_store(self) -> MemoryStore:
        return MemoryStore(clock=self.clock)


class TestForgetting(StoreCase, TestCase):
    """A store that keeps little."""

    def make_store(self) -> MemoryStore:
        return MemoryStore(keep=KEEP, horizon=60, clock=self.clock)

    async def test_a_full_log_loses_its_oldest_rows_and_says_so(self) -> None:
        """If this fails, a server grows with every message ever sent; or a client waits for rows that are gone."""
        conversation = await self.talk(2 * KEEP - 1)
        assert await self.range(BOB, conversation) == (1, 7, 7, 0, [1, 2, 3, 4, 5, 6, 7])
        await self.talk(1)
        assert await self.range(BOB, conversation) == (1, 8, 8, 4, [5, 6, 7, 8])
        assert (await self.overviews(BOB))[conversation].floor == 4
        assert await self.range(BOB, conversation, 2, 3) == (2, 3, 8, 4, [])
        assert await self.range(BOB, conversation, 6, 7) == (6, 7, 8, 4, [6, 7])
        await self.talk(3 * KEEP)
        assert await self.range(BOB, conversation) == (1, 20, 20, 16, [17, 18, 19, 20])

    async def test_what_is_gone_takes_no_room(self) -> None:
        """If this fails, a device that was long away asks for thousands of ranges in which there is nothing."""
        conversation = await self.talk(3 * KEEP)
        assert await self.range(BOB, conversation, limit=2) == (1, 10, 12, 8, [9, 10])
        assert await self.range(BOB, conversation, limit=2, backward=True) == (11, 12, 12, 8, [11, 12])
        assert await self.range(BOB, conversation, 1, 9, limit=2, backward=True) == (1, 9, 12, 8, [9])

    async def test_marks_and_numbers_outlive_rows(self) -> None:
        """If this fails, forgetting old messages also forgets what was read, or gives a seq twice."""
        conversation = await self.talk(KEEP)
        number = (await self.store.open_session(BOB, PHONE, b"", "n")).number
        assert await self.receipts((BOB, PHONE, number, conversation, 2, READ)) == [(True, 2)]
        await self.talk(2 * KEEP)
        mine = (await self.overviews(BOB, PHONE))[conversation]
        assert (mine.head, mine.floor, mine.cursor, mine.read) == (12, 8, 2, 2)
        assert await self.receipts((BOB, PHONE, number, conversation, 3, READ)) == [(True, 3)], "what is gone can have been read"

    async def test_reading_in_commit_order_goes_on_after_a_loss(self) -> None:
        """If this fails, a reader that was away for longer than rows are kept stops, or gets rows twice."""
        await self.talk(3)
        position, _ = await self.store.read_since(0, 100)
        await self.talk(9)
        last, rows = await self.store.read_since(position, 100)
        assert [row.seq for row in rows] == [9, 10, 11, 12]
        assert await self.store.read_since(last, 100) == (last, [])
        assert [row.seq for row in (await self.store.read_since(rows[1].position, 1))[1]] == [11]

    async def test_client_ids_are_forgotten_in_time(self) -> None:
        """If this fails, a server grows with every message ever sent, whatever it keeps of them."""
        entry = message(ALICE, BOB)
        first = (await self.append(entry))[0]
        for _ in range(3):
            self.clock.now += 61 + AHEAD
            await self.append(message(ALICE, BOB))
        again = (await self.append(entry))[0]
        assert (first[1], again[1], again[4]) == (1, 5, False)
        assert sum(len(ids) for kept in (self.store._ids, self.store._older_ids) for ids in kept.values()) <= 3

    async def test_a_repeat_is_known_for_the_horizon_wherever_it_falls(self) -> None:
        """If this fails, a message sent again in time is stored twice, if it came just before the store forgot older ones."""
        life = 60 + AHEAD
        for age in (0, 1, life - 1, life):
            store = MemoryStore(horizon=60, clock=(clock := Clock()))
            await store.accounts([ALICE, BOB], True)
            await store.append([message(ALICE, BOB)], ())
            clock.now += age
            entry = message(ALICE, BOB)
            await store.append([entry], ())
            for _ in range(6):
                clock.now += life / 6
                stored, _ = await store.append([message(BOB, ALICE), entry], ())
                assert stored[1][4], f"made {age} s after the store, known for less than its horizon"


@given(
    keep=st.integers(1, 5),
    rows=st.integers(0, 25),
    first=st.integers(0, 30),
    last=st.one_of(st.integers(0, 30), st.just(MAX_U64)),
    limit=st.integers(1, 8),
    backward=st.booleans(),
)
def test_ranges_of_what_is_kept(keep: int, rows: int, first: int, last: int, limit: int, backward: bool) -> None:
    """If this fails, there is a range of a shortened log whose answer leaves out a row that exists, or covers one that it does not have."""
    store = MemoryStore(keep=keep)
    found: list[Any] = []
    store.accounts([ALICE, BOB], True)
    store.append([message(ALICE, BOB)] + [message(ALICE, BOB) for _ in range(rows)], ())
    store.read(BOB, 1, first, last, limit, backward).addCallback(found.append)
    low, high, head, floor, given_rows = found[0]
    assert head == rows + 1
    assert head - floor <= 2 * keep
    wanted = [seq for seq in range(floor + 1, head + 1) if first <= seq <= last]
    kept = wanted[-limit:] if backward else wanted[:limit]
    assert [row.seq for row in given_rows] == kept
    assert [seq for seq in range(floor + 1, head + 1) if low <= seq <= high] == kept
    if len(kept) == len(wanted) and first <= min(last, head):
        assert (low, high) == (max(first, 1), min(last, head))
