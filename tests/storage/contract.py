"""What every store must do: one suite, run on each back end.

Strategy: a back end's test module mixes `StoreContract` into a `TestCase` and says how a store is made; nothing here knows which one it is,
or whether it answers at once, and time passes only when the test says so. First come the promises of `IStore`, one by one, each with the
smallest story that shows it (those of a store that several processes may use are in `SharedStoreContract`). Then a machine drives a store
at random beside `Model`, which is a list of rows and a few dictionaries, and wants the same answers from both. The machine runs in a
thread, since hypothesis calls its rules one after another and a store may need the reactor to answer.

    class TestDiskStore(StoreContract, TestCase):
        def make_store(self):
            return DiskStore(self.mktemp(), clock=self.clock)
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import chain, count
from queue import Empty, SimpleQueue
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test
from twisted.internet import reactor
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.threads import deferToThread
from twisted.python.failure import Failure
from zope.interface.verify import verifyObject

from twisted_im.errors import Disconnect, ImError, Status
from twisted_im.server.interfaces import AHEAD, Append, Cursor, Ended, IStore, Row, Stored, StoreError
from twisted_im.wire.schema import MAX_U64, ContentType, ConversationKind, ReceiptType, RowType

ALICE, BOB, CAROL, STRANGER = b"\0alice", b"\0bob", b"\0carol", b"\0nobody"
LAPTOP, PHONE = b"laptop----------", b"phone-----------"
DELIVERED, READ = int(ReceiptType.DELIVERED), int(ReceiptType.READ)
TEXT = int(ContentType.TEXT)

_numbers = count(1)


def message(
    sender: bytes, to: bytes | int, content: bytes = b"hello", *, client_id: bytes = b"", device: bytes = LAPTOP, life: int = 0
) -> Append:
    """A message to a user or a conversation, with a client id of its own unless one is given."""
    conversation, peer = (to, b"") if isinstance(to, int) else (0, to)
    return sender, device, client_id or next(_numbers).to_bytes(16, "big"), conversation, peer, TEXT, life, content


def told(answer: Any) -> Any:
    """An answer without what a test cannot know: an error's status, or the answer itself."""
    return answer.code if isinstance(answer, ImError) else answer


class Clock:
    """Seconds since 1970, moved by hand."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


class StoreCase:
    """A store and three users, for a `TestCase`; and short words for what tests do with them."""

    timeout = 180

    def make_store(self) -> Any:
        """A new, empty store whose clock is `self.clock`; or a Deferred of one."""
        raise NotImplementedError

    async def setUp(self) -> None:
        self.clock = Clock()
        self.store = await self._opened()
        await self.store.accounts([ALICE, BOB, CAROL], True)

    async def _opened(self) -> Any:
        store = await maybeDeferred(self.make_store)
        self.addCleanup(store.close)
        store.open()
        return store

    async def append(self, *messages: Append) -> list[Any]:
        """Appends messages in one batch; errors are given as their status."""
        stored, _ = await self.store.append(messages, ())
        return [told(answer) for answer in stored]

    async def receipts(self, *cursors: Cursor) -> list[Any]:
        """Keeps receipts in one batch; errors are given as their status, the others as (moved, mark)."""
        _, moved = await self.store.append((), cursors)
        return [told(answer) if isinstance(answer, ImError) else answer[:2] for answer in moved]

    async def talk(self, rows: int = 1, to: bytes | int = BOB) -> int:
        """So many messages from Alice, each in a batch of its own; gives the conversation."""
        conversation = 0
        for number in range(rows):
            conversation = (await self.append(message(ALICE, to, b"%d" % (number + 1))))[0][0]
        return conversation

    async def range(
        self, user: bytes, conversation: int, first: int = 1, last: int = MAX_U64, *, limit: int = 1000, backward: bool = False
    ) -> Any:
        """A range; its rows are given as their seqs."""
        found = await self.store.read(user, conversation, first, last, limit, backward)
        return (found.first, found.last, found.head, found.floor, [row.seq for row in found.rows])

    async def overviews(self, user: bytes, device: bytes = LAPTOP, **asked: Any) -> dict[int, Any]:
        """A device's conversations, by id."""
        wanted = {"since": 0, "after": 0, "limit": 1000, "behind": False, **asked}
        found = await self.store.summary(user, device, **wanted)
        return {overview.conversation: overview for overview in found.conversations}

    async def refused(self, asked: Deferred[Any]) -> Any:
        """The status that a verb fails with."""
        return (await self.assertFailure(asked, ImError)).code


class StoreContract(StoreCase):
    """The promises of `IStore`. Mix it in, and give it a `make_store`."""

    #: How often and how long the machine runs; a back end with a disk may do less.
    machine_settings = {"max_examples": 150, "stateful_step_count": 40}

    # ---- the log

    def test_interface(self) -> None:
        """If this fails, a node that starts with this store meets a verb that is not there."""
        verifyObject(IStore, self.store)
        assert self.store.batch > 0
        assert self.store.horizon > 0

    async def test_one_order_without_gaps(self) -> None:
        """If this fails, members see a conversation in different orders, or wait for a message that will never come."""
        group = await self.store.create_group(b"all", [ALICE, BOB, CAROL])
        first = await self.append(
            message(ALICE, BOB, b"1"),
            message(BOB, group, b"a"),
            message(CAROL, BOB, b"x"),
            message(BOB, ALICE, b"2"),
            message(ALICE, group, b"b"),
        )
        direct, other = first[0][0], first[2][0]
        assert len({direct, other, group}) == 3
        second = await self.append(message(CAROL, group, b"c"), message(ALICE, direct, b"3"), message(ALICE, BOB, b"4"))
        places = [(answer[0], answer[1]) for answer in first + second]
        assert places == [(direct, 1), (group, 1), (other, 1), (direct, 2), (group, 2), (group, 3), (direct, 3), (direct, 4)]
        for user in (ALICE, BOB):
            found = await self.store.read(user, direct, 1, 4, 100, False)
            assert [(row.sender, row.content) for row in found.rows] == [(ALICE, b"1"), (BOB, b"2"), (ALICE, b"3"), (ALICE, b"4")]
            assert [row.seq for row in found.rows] == [1, 2, 3, 4]

    async def test_a_row_is_what_was_appended(self) -> None:
        """If this fails, a message is changed on its way: its bytes, who sent it, or when it was accepted."""
        contents = [b"", bytes(range(256)), b"\0" * 3, "größe\u2028".encode(), b"x" * 65_280]
        entries = [
            (ALICE, PHONE, bytes([i]) * 16, 0, BOB, kind, 0, content)
            for i, (kind, content) in enumerate(zip([1, 3, 4, 2, 3], contents, strict=True))
        ]
        stored = await self.append(*entries)
        found = await self.store.read(BOB, stored[0][0], 1, MAX_U64, 100, False)
        for row, entry, answer in zip(found.rows, entries, stored, strict=True):
            assert answer[4] is False
            assert (row.conversation, row.seq, row.time) == answer[:3]
            assert (row.sender, row.device, row.client_id, row.content_type, row.content) == (*entry[:3], entry[5], entry[7])
            assert row.row_type == RowType.MESSAGE
            assert row.time == int(self.clock() * 1000)

    async def test_a_pair_has_one_conversation(self) -> None:
        """If this fails, two users' messages are in two logs, or notes to oneself are lost."""
        there, back, self_one, self_two = await self.append(
            message(ALICE, BOB), message(BOB, ALICE), message(ALICE, ALICE), message(ALICE, ALICE, device=PHONE)
        )
        assert (back[0], back[1]) == (there[0], 2)
        assert self_one[0] != there[0]
        assert (self_two[0], self_two[1]) == (self_one[0], 2)
        members = await self.store.members([there[0], self_one[0]])
        assert set(members[there[0]].users) == {ALICE, BOB}
        assert members[self_one[0]].users == (ALICE,)
        assert (await self.overviews(ALICE))[there[0]].peer == BOB
        assert (await self.overviews(ALICE))[self_one[0]].peer == ALICE

    async def test_a_repeat_gets_the_first_answer(self) -> None:
        """If this fails, a message that was sent again after a lost connection is stored twice, or its sender is told of another place."""
        entry = message(ALICE, BOB, client_id=b"i" * 16)
        first, again, other, *conflicts = await self.append(
            entry,
            entry,
            message(ALICE, BOB),
            message(ALICE, CAROL, client_id=b"i" * 16),
            message(ALICE, BOB, b"another", client_id=b"i" * 16),
            (*entry[:5], TEXT + 1, *entry[6:]),
        )
        assert again == (*first[:4], True)
        assert other[:2] == (first[0], 2)
        assert conflicts == [Status.CONFLICT] * 3
        self.clock.now += 5
        by_conversation = message(ALICE, first[0], client_id=b"i" * 16)
        other_device = message(ALICE, BOB, client_id=b"i" * 16, device=PHONE)
        assert await self.append(entry, by_conversation, other_device) == [again, Status.CONFLICT, again]
        assert (await self.append(message(BOB, ALICE, client_id=b"i" * 16)))[0][:2] == (first[0], 3), "ids are each sender's own"
        assert await self.range(BOB, first[0]) == (1, 3, 3, 0, [1, 2, 3])

    async def test_a_repeat_is_known_whatever_has_changed(self) -> None:
        """If this fails, somebody whose answer was lost and who was then removed is told that the message was never sent."""
        group = await self.store.create_group(b"g", [ALICE, BOB])
        entry = message(BOB, group)
        first = (await self.append(entry))[0]
        await self.store.change_members(group, [], [BOB])
        assert (await self.append(entry))[0][:2] == first[:2]

    async def test_an_id_is_known_until_the_horizon(self) -> None:
        """If this fails, a message that is sent again within the promised time is stored twice."""
        entries = [message(ALICE, BOB) for _ in range(4)]
        firsts: list[Any] = []
        for entry in entries:
            firsts += await self.append(entry)
            self.clock.now += (self.store.horizon + AHEAD) / 4
        for entry, first in zip(entries[1:], firsts[1:], strict=True):
            assert (await self.append(entry))[0] == (*first[:4], True)

    async def test_what_is_refused_leaves_nothing(self) -> None:
        """If this fails, a refused message takes a seq, blocks its client id, or keeps the good ones of its batch out."""
        theirs = (await self.append(message(BOB, CAROL)))[0][0]
        to_nobody = message(ALICE, STRANGER)
        answers = await self.append(
            to_nobody, message(STRANGER, ALICE), message(ALICE, theirs), message(ALICE, 999), message(ALICE, MAX_U64), message(ALICE, BOB)
        )
        assert answers[:5] == [Status.NO_SUCH] * 5
        assert answers[5][1] == 1
        assert await self.range(BOB, theirs) == (1, 1, 1, 0, [1])
        assert set(await self.overviews(ALICE)) == {answers[5][0]}
        await self.store.accounts([STRANGER], True)
        assert (await self.append(to_nobody))[0][1:5:3] == (1, False), "a new first message, now that there is such a user"

    async def test_calls_that_overlap_are_all_kept(self) -> None:
        """If this fails, two things done at the same moment cost one of them, or give two messages one seq."""
        entry = message(CAROL, ALICE)
        batches = [[message(ALICE, BOB, b"%d" % n), entry] for n in range(8)]
        pending = [self.store.append(batch, ()) for batch in batches]
        opening = [self.store.open_session(ALICE, LAPTOP, b"", "n") for _ in range(4)]
        answers = [(await each)[0] for each in pending]
        assert sorted(answer[0][1] for answer in answers) == list(range(1, 9))
        assert [answer[1][4] for answer in answers].count(False) == 1
        assert {answer[1][1] for answer in answers} == {1}
        numbers = {(await each).number for each in opening}
        assert len(numbers) == 4
        rows = (await self.store.read(BOB, answers[0][0][0], 1, MAX_U64, 100, False)).rows
        assert [row.content for row in rows] == [batch[0][7] for _, batch in sorted(zip((a[0][1] for a in answers), batches, strict=True))]

    # ---- receipts

    async def test_marks_only_advance(self) -> None:
        """If this fails, a message that was read turns unread, or a sender is told less than before."""
        conversation = await self.talk(5)
        number = (await self.store.open_session(BOB, PHONE, b"", "n")).number

        def receipt(seq: int, kind: int) -> Cursor:
            return (BOB, PHONE, number, conversation, seq, kind)

        for seq, kind in ((3, DELIVERED), (2, READ)):
            answers = await self.receipts(receipt(seq, kind), receipt(seq - 1, kind), receipt(seq, kind))
            assert answers == [(True, seq), (False, seq), (False, seq)]
        assert await self.receipts(receipt(5, READ), receipt(5, DELIVERED)) == [(True, 5), (False, 5)]
        mine = (await self.overviews(BOB, PHONE))[conversation]
        assert (mine.cursor, mine.delivered, mine.read) == (5, 5, 5)
        theirs = (await self.overviews(ALICE))[conversation]
        assert (theirs.delivered, theirs.read, theirs.peer_delivered, theirs.peer_read) == (0, 0, 5, 5)

    async def test_a_read_counts_as_delivered(self) -> None:
        """If this fails, a sender sees that a message was read and not that it has arrived."""
        conversation = await self.talk(3)
        number = (await self.store.open_session(BOB, PHONE, b"", "n")).number
        assert await self.receipts((BOB, PHONE, number, conversation, 2, READ)) == [(True, 2)]
        mine = (await self.overviews(BOB, PHONE))[conversation]
        assert (mine.cursor, mine.delivered, mine.read) == (2, 2, 2)
        assert await self.receipts((BOB, PHONE, number, conversation, 2, DELIVERED)) == [(False, 2)]

    async def test_marks_are_the_furthest_of_all_devices(self) -> None:
        """If this fails, reading on the phone does not count because the laptop is behind; or the laptop skips what it lacks."""
        conversation = await self.talk(5)
        laptop = (await self.store.open_session(BOB, LAPTOP, b"", "n")).number
        phone = (await self.store.open_session(BOB, PHONE, b"", "n")).number
        answers = await self.receipts((BOB, PHONE, phone, conversation, 4, READ), (BOB, LAPTOP, laptop, conversation, 2, DELIVERED))
        assert answers == [(True, 4), (False, 4)]
        seen = [(await self.overviews(BOB, device))[conversation] for device in (LAPTOP, PHONE)]
        assert [(o.cursor, o.delivered, o.read) for o in seen] == [(2, 4, 4), (4, 4, 4)]

    async def test_receipts_that_cannot_be(self) -> None:
        """If this fails, a client can mark what does not exist, or what it may not see, or a session that was taken over still counts."""
        conversation = await self.talk(2)
        old = (await self.store.open_session(BOB, PHONE, b"", "n")).number
        new = (await self.store.open_session(BOB, PHONE, b"", "n")).number
        carol = (await self.store.open_session(CAROL, PHONE, b"", "n")).number
        assert await self.receipts(
            (CAROL, PHONE, carol, conversation, 1, READ),
            (BOB, PHONE, new, 999, 1, READ),
            (BOB, PHONE, new, MAX_U64, 1, READ),
            (BOB, PHONE, new, conversation, 3, READ),
            (BOB, PHONE, new, conversation, MAX_U64, READ),
            (BOB, PHONE, new, conversation, 0, READ),
            (BOB, PHONE, old, conversation, 1, READ),
            (BOB, PHONE, new + 1, conversation, 1, READ),
            (BOB, LAPTOP, new, conversation, 1, READ),
            (BOB, PHONE, new, conversation, 1, READ),
        ) == [Status.NO_SUCH] * 3 + [Status.BAD_VALUE] * 3 + [Status.CONFLICT] * 3 + [(True, 1)]  # fmt: skip
        await self.store.remove_device(BOB, PHONE)
        assert await self.receipts((BOB, PHONE, new, conversation, 2, READ)) == [Status.CONFLICT]

    async def test_a_receipt_may_come_with_its_message(self) -> None:
        """If this fails, a receipt that shares a commit with the message that it is for is refused."""
        conversation = await self.talk(1)
        number = (await self.store.open_session(BOB, PHONE, b"", "n")).number
        stored, moved = await self.store.append([message(ALICE, conversation)], [(BOB, PHONE, number, conversation, 2, DELIVERED)])
        assert moved == [(True, 2, stored[0][3])]

    # ---- reading

    async def test_ranges(self) -> None:
        """If this fails, history has holes, repeats rows, or says that it is complete where it is not."""
        conversation = await self.talk(10)
        for asked, wanted in {
            (1, 10): (1, 10, 10, 0, list(range(1, 11))),
            (0, MAX_U64): (1, 10, 10, 0, list(range(1, 11))),
            (4, 4): (4, 4, 10, 0, [4]),
            (8, 99): (8, 10, 10, 0, [8, 9, 10]),
        }.items():
            for backward in (False, True):
                assert await self.range(BOB, conversation, *asked, backward=backward) == wanted
        assert await self.range(BOB, conversation, 3, 9, limit=3) == (3, 5, 10, 0, [3, 4, 5])
        assert await self.range(BOB, conversation, 3, 9, limit=3, backward=True) == (7, 9, 10, 0, [7, 8, 9])
        assert await self.range(BOB, conversation, 1, MAX_U64, limit=1, backward=True) == (10, 10, 10, 0, [10])
        for beyond in ((11, 20), (MAX_U64, MAX_U64)):
            first, last, *rest = await self.range(BOB, conversation, *beyond)
            assert last < first
            assert rest == [10, 0, []]

    async def test_strangers_read_nothing(self) -> None:
        """If this fails, anybody can read a conversation by guessing its number."""
        conversation = await self.talk(1)
        for user, number in ((CAROL, conversation), (STRANGER, conversation), (BOB, 999), (BOB, 0), (BOB, MAX_U64)):
            assert await self.refused(self.store.read(user, number, 1, 1, 1, False)) is Status.NO_SUCH

    async def test_refusals_leave_nothing_behind(self) -> None:
        """If this fails, a client that asks again and again for what it may not see makes the server grow without bound."""
        conversation = await self.talk(1)
        lengths = []
        for _ in range(20):
            try:
                await self.store.read(CAROL, conversation, 1, 1, 1, False)
            except ImError as error:
                lengths.append(len(traceback.extract_tb(error.__traceback__)))
        assert lengths == [lengths[0]] * 20

    async def test_read_since_skips_nothing(self) -> None:
        """If this fails, a node that reads what it may have missed misses some of it, or gets half of a commit."""
        group = await self.store.create_group(b"g", [ALICE, BOB, CAROL])
        start, rows = await self.store.read_since(0, 100)
        assert rows == []
        batches = [
            [message(ALICE, BOB, b"0"), message(BOB, group, b"1"), message(BOB, ALICE, b"2")],
            [message(CAROL, group, b"3")],
            [message(ALICE, group, b"4"), message(ALICE, BOB, b"5")],
            [message(ALICE, CAROL, b"%d" % n) for n in range(6, 12)],
            [message(CAROL, ALICE, b"12")],
        ]
        commits = [[answer[:2] for answer in await self.append(*batch)] for batch in batches]
        end, rows = await self.store.read_since(start, 100)
        assert [(row.conversation, row.seq) for row in rows] == list(chain.from_iterable(sorted(commit) for commit in commits))
        assert [row.position for row in rows] == sorted(row.position for row in rows)
        assert await self.store.read_since(end, 100) == (end, [])
        for limit in (1, 2, 3, 4, 5, 100):
            position, pages = start, []
            while position < end:
                before, (position, page) = position, await self.store.read_since(position, limit)
                assert position > before, "it stands still"
                sizes = [len({(row.conversation, row.seq) for row in page} & set(commit)) for commit in commits]
                whole = [len(commit) for commit in commits]
                assert all(size in (0, most) for size, most in zip(sizes, whole, strict=True)), "half a commit"
                assert len(page) <= limit or sum(size > 0 for size in sizes) == 1
                assert position == page[-1].position
                pages += page
            assert pages == rows
            assert position == end

    async def test_a_position_parts_before_from_after(self) -> None:
        """If this fails, a node that begins to read where the store stood misses what came next, or gets all that was there before."""
        empty = await self.store.position()
        assert await self.store.read_since(empty, 100) == (empty, [])
        conversation = await self.talk(3)
        group = await self.store.create_group(b"g", [ALICE, BOB])
        middle = await self.store.position()
        assert middle > empty
        assert await self.store.read_since(middle, 100) == (middle, [])
        assert await self.overviews(ALICE, since=middle) == {}
        await self.talk(1)
        await self.store.change_members(group, [CAROL], [])
        assert set(await self.overviews(ALICE, since=middle)) == {conversation, group}
        end, rows = await self.store.read_since(middle, 100)
        assert [(row.conversation, row.seq) for row in rows] == [(conversation, 4)]
        assert await self.store.position() == end
        assert len((await self.store.read_since(empty, 100))[1]) == 4

    # ---- what a device asks for when it comes

    async def test_summary_tells_what_has_changed(self) -> None:
        """If this fails, a device that comes back does not learn of a message, a receipt or a group."""
        quiet = await self.talk(2, BOB)
        await self.talk(1, CAROL)
        group = await self.store.create_group(b"friends", [ALICE, BOB])
        number = (await self.store.open_session(ALICE, PHONE, b"", "n")).number
        bobs = (await self.store.open_session(BOB, PHONE, b"", "n")).number
        since = (await self.store.summary(ALICE, PHONE, 0, 0, 100, False)).position
        assert await self.overviews(ALICE, PHONE, since=since) == {}

        await self.append(message(BOB, group))
        assert set(await self.overviews(ALICE, PHONE, since=since)) == {group}
        await self.receipts((BOB, PHONE, bobs, quiet, 1, DELIVERED))
        assert set(await self.overviews(ALICE, PHONE, since=since)) == {group, quiet}
        later = (await self.store.summary(ALICE, PHONE, since, 0, 100, False)).position
        await self.store.change_members(group, [CAROL], [])
        for user in (ALICE, CAROL):
            assert set(await self.overviews(user, PHONE, since=later)) == {group}
        assert (await self.overviews(CAROL))[group].peer == b"friends"

        behind = await self.overviews(ALICE, PHONE, behind=True)
        assert quiet in behind
        await self.receipts((ALICE, PHONE, number, quiet, 2, DELIVERED))
        assert set(await self.overviews(ALICE, PHONE, behind=True)) == set(behind) - {quiet}
        assert set(await self.overviews(ALICE, LAPTOP, behind=True)) == set(behind), "each device has cursors of its own"
        assert await self.overviews(STRANGER) == {}

    async def test_summary_says_how_things_stand(self) -> None:
        """If this fails, a device starts from wrong numbers: it fetches too little, or shows what was read as unread."""
        conversation = await self.talk(4)
        number = (await self.store.open_session(BOB, PHONE, b"", "n")).number
        alices = (await self.store.open_session(ALICE, PHONE, b"", "n")).number
        await self.receipts(
            (BOB, PHONE, number, conversation, 3, DELIVERED),
            (BOB, PHONE, number, conversation, 2, READ),
            (ALICE, PHONE, alices, conversation, 1, READ),
        )
        bobs = (await self.overviews(BOB, PHONE))[conversation]
        assert tuple(bobs) == (conversation, ConversationKind.DIRECT, 4, 0, 3, 3, 2, 1, 1, ALICE)
        alices_laptop = (await self.overviews(ALICE, LAPTOP))[conversation]
        assert tuple(alices_laptop) == (conversation, ConversationKind.DIRECT, 4, 0, 0, 1, 1, 3, 2, BOB)
        group = await self.store.create_group(b"g", [ALICE, BOB])
        await self.append(message(ALICE, group))
        await self.receipts((BOB, PHONE, number, group, 1, READ))
        assert tuple((await self.overviews(ALICE, PHONE))[group]) == (group, ConversationKind.GROUP, 1, 0, 0, 0, 0, 0, 0, b"g")

    async def test_summary_comes_in_pages(self) -> None:
        """If this fails, a user with many conversations misses some of them, or asks for ever."""
        users = [b"\0user%d" % n for n in range(7)]
        await self.store.accounts(users, True)
        await self.append(*[message(ALICE, user) for user in users])
        whole = await self.store.summary(ALICE, LAPTOP, 0, 0, 100, False)
        assert (len(whole.conversations), whole.more) == (7, False)
        assert [o.conversation for o in whole.conversations] == sorted(o.conversation for o in whole.conversations)
        for limit in (1, 3, 7):
            found: list[Any] = []
            more = True
            while more:
                after = found[-1].conversation if found else 0
                _, more, page = await self.store.summary(ALICE, LAPTOP, 0, after, limit, False)
                assert len(page) == limit or not more
                assert page[0].conversation > after
                found += page
            assert found == list(whole.conversations)
        assert await self.overviews(ALICE, after=MAX_U64) == {}

    # ---- groups

    async def test_members_have_a_version(self) -> None:
        """If this fails, a node sends messages to who has left a group, since it cannot see that its list is old."""
        group = await self.store.create_group(b"g", [ALICE, BOB, BOB])
        first = (await self.store.members([group, 999, 0, MAX_U64]))[group]
        assert await self.store.members([999, 0, MAX_U64]) == {}
        assert (first.kind, sorted(first.users)) == (ConversationKind.GROUP, [ALICE, BOB])
        assert (await self.append(message(ALICE, group)))[0][3] == first.version
        second = await self.store.change_members(group, [CAROL, ALICE], [BOB])
        assert second.version > first.version
        assert sorted(second.users) == [ALICE, CAROL]
        assert (await self.store.members([group]))[group] == second
        assert (await self.append(message(ALICE, group)))[0][3] == second.version
        third = await self.store.change_members(group, [BOB], [BOB, CAROL])
        assert third.users == (ALICE,)
        assert third.version > second.version

    async def test_who_is_removed_is_out(self) -> None:
        """If this fails, somebody who was removed from a group still writes to it, reads it, or sees it in the list."""
        group = await self.store.create_group(b"g", [ALICE, BOB])
        number = (await self.store.open_session(BOB, PHONE, b"", "n")).number
        await self.append(message(BOB, group))
        await self.store.change_members(group, [], [BOB])
        assert await self.append(message(BOB, group)) == [Status.NO_SUCH]
        assert await self.refused(self.store.read(BOB, group, 1, 1, 1, False)) is Status.NO_SUCH
        assert await self.receipts((BOB, PHONE, number, group, 1, READ)) == [Status.NO_SUCH]
        assert await self.overviews(BOB) == {}
        assert await self.range(ALICE, group) == (1, 1, 1, 0, [1])

    async def test_who_is_added_is_in(self) -> None:
        """If this fails, a new member of a group cannot write to it, or misses what comes next."""
        group = await self.store.create_group(b"g", [ALICE])
        await self.append(message(ALICE, group))
        await self.store.change_members(group, [CAROL], [])
        assert (await self.append(message(CAROL, group)))[0][1] == 2
        assert await self.range(CAROL, group) == (1, 2, 2, 0, [1, 2])
        assert set(await self.overviews(CAROL)) == {group}

    async def test_members_are_of_one_tenant(self) -> None:
        """If this fails, a program's slip shows one customer's messages to another's users."""
        stranger = b"other\0eve"
        assert await self.refused(self.store.create_group(b"g", [ALICE, stranger])) is Status.BAD_VALUE
        group = await self.store.create_group(b"g", [ALICE])
        assert await self.refused(self.store.change_members(group, [stranger], [])) is Status.BAD_VALUE
        assert (await self.store.members([group]))[group].users == (ALICE,)
        apart = await self.store.create_group(b"g", [stranger])
        assert (await self.store.members([apart]))[apart].users == (stranger,)

    async def test_only_groups_change(self) -> None:
        """If this fails, a third person can be put into a conversation of two."""
        direct = await self.talk(1)
        for number in (direct, 999, 0, MAX_U64):
            assert await self.refused(self.store.change_members(number, [CAROL], [])) is Status.NO_SUCH
        assert await self.append(message(CAROL, direct)) == [Status.NO_SUCH]

    # ---- what ends

    async def test_a_life_that_is_over_leaves_a_tombstone(self) -> None:
        """If this fails, a message that was to vanish can still be read, or its place is missing and clients wait for it for ever."""
        passing = message(ALICE, BOB, b"soon gone", life=60)
        (conversation, *_), _ = await self.append(passing, message(ALICE, BOB, b"stays"))
        self.clock.now += 59
        found = await self.store.read(BOB, conversation, 1, 2, 10, False)
        assert [(row.row_type, row.life, row.content) for row in found.rows] == [(0, 60, b"soon gone"), (0, 0, b"stays")]
        self.clock.now += 1
        found = await self.store.read(BOB, conversation, 1, 2, 10, False)
        _, rows = await self.store.read_since(0, 10)
        for row, kept in (found.rows, rows):
            assert (row.seq, row.row_type, row.content) == (1, RowType.TOMBSTONE, b"")
            assert (kept.seq, kept.row_type, kept.content) == (2, RowType.MESSAGE, b"stays")
        repeat, _ = await self.append(passing, message(ALICE, BOB))
        assert repeat[:2] == (conversation, 1)
        assert repeat[4] is True

    # ---- sessions and accounts

    async def test_session_numbers_rise(self) -> None:
        """If this fails, an old session of a device can overrule the one that has replaced it."""
        opened = [await self.store.open_session(ALICE, device, b"", "n") for device in (PHONE, LAPTOP, PHONE, LAPTOP, PHONE)]
        assert opened[0].number < opened[2].number < opened[4].number
        assert opened[1].number < opened[3].number
        assert {(each.epoch, each.horizon) for each in opened} == {(opened[0].epoch, self.store.horizon)}
        assert len(opened[0].epoch) == 16
        assert await self.store.remove_device(ALICE, PHONE)
        assert (await self.store.open_session(ALICE, PHONE, b"", "n")).number > opened[4].number

    async def test_another_store_has_another_epoch(self) -> None:
        """If this fails, clients take what they remember of one server for true on another, and show the wrong messages."""
        epochs = [(await store.open_session(ALICE, PHONE, b"", "n")).epoch for store in (self.store, await self._opened())]
        assert epochs[0] != epochs[1]

    async def test_devices(self) -> None:
        """If this fails, a user's list of devices is wrong, or a device that was removed is still there."""
        assert await self.store.devices(ALICE) == []
        number = (await self.store.open_session(ALICE, PHONE, b"my phone", "n")).number
        self.clock.now += 10
        at = int(self.clock.now * 1000)
        other = (await self.store.open_session(ALICE, LAPTOP, b"", "n")).number
        await self.store.open_session(BOB, PHONE, b"bob's", "n")
        assert list(await self.store.devices(ALICE)) == [(LAPTOP, other, at, b""), (PHONE, number, at - 10_000, b"my phone")]
        renamed = (await self.store.open_session(ALICE, PHONE, b"old phone", "n")).number
        assert list(await self.store.devices(ALICE))[1] == (PHONE, renamed, at, b"old phone")
        assert [await self.store.remove_device(ALICE, PHONE) for _ in range(2)] == [True, False]
        assert [device.device for device in await self.store.devices(ALICE)] == [LAPTOP]
        assert [device.device for device in await self.store.devices(BOB)] == [PHONE]

    async def test_a_removed_device_starts_afresh(self) -> None:
        """If this fails, a device that was removed comes back without the messages that it does not have, or its user's marks go back."""
        conversation = await self.talk(3)
        number = (await self.store.open_session(BOB, PHONE, b"", "n")).number
        await self.receipts((BOB, PHONE, number, conversation, 3, READ))
        await self.store.remove_device(BOB, PHONE)
        await self.store.open_session(BOB, PHONE, b"", "n")
        mine = (await self.overviews(BOB, PHONE))[conversation]
        assert (mine.cursor, mine.delivered, mine.read) == (0, 3, 3)
        assert set(await self.overviews(BOB, PHONE, behind=True)) == {conversation}

    async def test_accounts(self) -> None:
        """If this fails, messages to users who have not logged in yet are refused, or strangers count as users."""
        assert await self.store.accounts([ALICE, STRANGER], False) == {ALICE}
        assert await self.store.accounts([STRANGER], False) == set()
        assert await self.store.accounts([ALICE, STRANGER], True) == {ALICE}
        assert await self.store.accounts([ALICE, STRANGER], False) == {ALICE, STRANGER}
        assert await self.store.accounts([], True) == set()
        newcomer = b"acme\0alice"
        await self.store.open_session(newcomer, PHONE, b"", "n")
        assert await self.store.accounts([newcomer], False) == {newcomer}, "a login makes the account"

    async def test_what_an_account_holds(self) -> None:
        """If this fails, a password that was set is not asked for, or somebody who was shut out still gets in."""
        assert await self.store.account(STRANGER) is None
        assert await self.store.set_account(STRANGER, "a hash", None)
        at = int(self.clock.now * 1000)
        self.clock.now += 5
        assert await self.store.account(STRANGER) == (STRANGER, "a hash", False, at)
        assert not await self.store.set_account(STRANGER, None, True)
        assert await self.store.account(STRANGER) == (STRANGER, "a hash", True, at)
        assert await self.refused(self.store.open_session(STRANGER, PHONE, b"", "n")) is Status.NOT_AUTHENTICATED
        assert await self.store.devices(STRANGER) == []
        await self.store.set_account(STRANGER, "another", False)
        assert await self.store.account(STRANGER) == (STRANGER, "another", False, at)
        await self.store.open_session(STRANGER, PHONE, b"", "n")
        assert (await self.store.account(ALICE))[1:3] == ("", False)

    async def test_who_may_not_go_on(self) -> None:
        """If this fails, somebody who was shut out, or whose device was removed, goes on as long as the connection lasts; or is cut off
        when he has come back since."""
        mark, _ = await self.store.ended_since(0)
        laptop = (await self.store.open_session(BOB, LAPTOP, b"", "n")).number
        phone = (await self.store.open_session(BOB, PHONE, b"", "n")).number
        assert await self.store.ended_since(mark) == (mark, [])
        await self.store.remove_device(BOB, PHONE)
        await self.store.set_account(BOB, None, False)
        mark, ended = await self.store.ended_since(mark)
        assert [(*each[:2], each.code) for each in ended] == [(BOB, PHONE, Disconnect.KICKED)]
        assert phone <= ended[0].number
        again = (await self.store.open_session(BOB, PHONE, b"", "n")).number
        assert again > ended[0].number
        await self.store.set_account(BOB, "a hash", None)
        await self.store.set_account(ALICE, None, True)
        mark, ended = await self.store.ended_since(mark)
        assert [(*each[:2], each.code) for each in ended] == [(BOB, b"", Disconnect.KICKED), (ALICE, b"", Disconnect.KICKED)]
        assert max(laptop, again) <= ended[0].number
        assert await self.store.ended_since(mark) == (mark, [])

    async def test_a_device_that_goes_to_another_node(self) -> None:
        """If this fails, a device that has come back on another node has two sessions for as long as the old connection lasts, or the
        user of the old one is told that somebody has thrown him out."""
        mark, _ = await self.store.ended_since(0)
        first = (await self.store.open_session(BOB, PHONE, b"", "one")).number
        second = (await self.store.open_session(BOB, PHONE, b"", "one")).number
        await self.store.open_session(BOB, LAPTOP, b"", "two")
        await self.store.open_session(ALICE, PHONE, b"", "two")
        assert await self.store.ended_since(mark) == (mark, []), "a node knows of its own"
        third = (await self.store.open_session(BOB, PHONE, b"", "two")).number
        fourth = (await self.store.open_session(BOB, PHONE, b"", "one")).number
        assert first < second < third < fourth
        mark, ended = await self.store.ended_since(mark)
        assert ended == [Ended(BOB, PHONE, second, Disconnect.TAKEN_OVER), Ended(BOB, PHONE, third, Disconnect.TAKEN_OVER)]
        await self.store.remove_device(BOB, PHONE)
        await self.store.open_session(BOB, PHONE, b"", "two")
        assert [tuple(each[1:]) for each in (await self.store.ended_since(mark))[1]] == [(PHONE, fourth, Disconnect.KICKED)]

    async def test_a_list_of_accounts(self) -> None:
        """If this fails, whoever looks after the users misses some of them, or sees some twice."""
        known = sorted([ALICE, BOB, CAROL, b"acme\0alice"])
        await self.store.accounts([b"acme\0alice"], True)
        assert [account.user for account in await self.store.list_accounts(b"", 10)] == known
        found: list[bytes] = []
        while page := await self.store.list_accounts(found[-1] if found else b"", 3):
            found += [account.user for account in page]
        assert found == known

    async def test_resume_tokens(self) -> None:
        """If this fails, a device whose answer was lost must type its password again, or a token that was replaced still opens the door."""
        one, two, three, other = (bytes([n]) * 32 for n in range(4))
        began = int(self.clock.now * 1000) - 1

        async def use(token: bytes, user: bytes = BOB, device: bytes = PHONE, oldest: int = began) -> bool:
            return bool(await self.store.use_token(user, device, token, oldest))

        assert not await use(one), "no such device"
        await self.store.open_session(BOB, PHONE, b"", "n", one)
        await self.store.open_session(BOB, LAPTOP, b"", "n")
        assert [await use(token) for token in (one, one, two, b"")] == [True, True, False, False]
        assert not await use(one, user=ALICE)
        assert not await use(one, device=LAPTOP)
        self.clock.now += 1
        await self.store.open_session(BOB, PHONE, b"", "n", two)
        assert await use(one), "the answer with the second may have been lost"
        self.clock.now += 1
        await self.store.open_session(BOB, PHONE, b"", "n", three)
        assert [await use(token) for token in (two, one, three, one)] == [False, True, True, False]
        assert not await use(three, oldest=int(self.clock.now * 1000)), "too old"
        await self.store.revoke_tokens(BOB, LAPTOP)
        assert await use(three), "of another device"
        await self.store.revoke_tokens(BOB, PHONE)
        assert not await use(three)
        await self.store.open_session(BOB, PHONE, b"", "n", three)
        await self.store.revoke_tokens(BOB)
        assert not await use(three)
        for change in (("a hash", None), (None, False)):
            await self.store.open_session(BOB, PHONE, b"", "n", other)
            assert await use(other)
            await self.store.set_account(BOB, *change)
            assert not await use(other)
        await self.store.open_session(BOB, PHONE, b"", "n", other)
        await self.store.remove_device(BOB, PHONE)
        assert not await use(other)
        await self.store.open_session(BOB, PHONE, b"", "n")
        assert not await use(other)

    # ---- nodes

    async def test_leases(self) -> None:
        """If this fails, two processes take themselves for the same node, or a dead node counts as alive."""
        assert [lease[:3] for lease in await self.store.lease("b", b"boot-b", "b:1", 6)] == [("b", b"boot-b", "b:1")]
        assert [lease.node for lease in await self.store.lease("a", b"boot-a", "a:1", 60)] == ["a", "b"]
        assert await self.refused(self.store.lease("b", b"another", "b:2", 6)) is Status.NO_SUCH
        self.clock.now += 3.0
        first, second = await self.store.lease("b", b"boot-b", "b:9", 6, 17, "c:1 tls:c:2")
        assert (first.load, second.load) == (0, 17)
        assert (first.clients, second.clients) == ("", "c:1 tls:c:2")
        assert second.address == "b:9"
        assert second.expires < first.expires
        self.clock.now += 3.5
        assert await self.refused(self.store.lease("b", b"another", "b:2", 6)) is Status.NO_SUCH, "it was renewed"
        self.clock.now += 3.0
        assert [lease.node for lease in await self.store.lease("a", b"boot-a", "a:1", 60)] == ["a"]
        assert [lease.boot for lease in await self.store.lease("b", b"another", "b:2", 6)] == [b"boot-a", b"another"]
        assert [lease.node for lease in await self.store.leases()] == ["a", "b"]
        assert [lease.node for lease in await self.store.lease("b", b"another", "b:2", 0)] == ["a"], "given back"
        assert [lease.boot for lease in await self.store.lease("b", b"a third", "b:3", 6)] == [b"boot-a", b"a third"]

    # ---- everything at once

    async def test_no_difference_from_the_obvious(self) -> None:
        """If this fails, there is a sequence of calls after which the store says something else than a list of rows would."""

        def run() -> None:
            plan = settings(**self.machine_settings, deadline=None, suppress_health_check=list(HealthCheck))  # type: ignore[arg-type]
            run_state_machine_as_test(lambda: Machine(self), settings=plan)

        await deferToThread(run)

    test_no_difference_from_the_obvious.timeout = 400  # type: ignore[attr-defined]  # hypothesis may make a failure smaller for 300 s


class SharedStoreContract(StoreContract):
    """The same, for a store that several processes may use: each node writes under its lease, and no longer. Mix it in as well."""

    def make_other(self) -> Any:
        """What another process has of the store that `make_store` has made last; or a Deferred of it."""
        raise NotImplementedError

    async def other(self) -> Any:
        """Another process on `store`."""
        store = await maybeDeferred(self.make_other)
        self.addCleanup(store.close)
        store.open()
        return store

    def writes(self, store: Any) -> list[Deferred[Any]]:
        """One call of every verb that writes, but for `lease`."""
        return [
            store.append([message(ALICE, BOB)], ()),
            store.append((), [(BOB, PHONE, 1, 1, 1, READ)]),
            store.create_group(b"g", [ALICE]),
            store.change_members(1, [ALICE], []),
            store.open_session(ALICE, PHONE, b"", "a"),
            store.use_token(ALICE, PHONE, b"t" * 32, 0),
            store.revoke_tokens(ALICE),
            store.remove_device(ALICE, PHONE),
            store.accounts([STRANGER], True),
            store.set_account(ALICE, "a hash", None),
        ]

    async def test_two_processes_see_one_store(self) -> None:
        """If this fails, the nodes of a cluster give one place twice, or do not see what the others have accepted."""
        other = await self.other()
        conversation = await self.talk(2)
        stored, _ = await other.append([message(BOB, ALICE)], ())
        assert stored[0][:2] == (conversation, 3)
        assert await self.store.position() == await other.position()
        assert await self.range(ALICE, conversation) == (1, 3, 3, 0, [1, 2, 3])

    async def test_nothing_is_written_after_the_lease(self) -> None:
        """If this fails, a node that was stopped for a while, and comes back, accepts messages that the others no longer look for."""
        other = await self.other()
        await other.lease("b", b"boot-b", "", 60)
        await self.store.lease("a", b"boot-a", "", 6)
        await self.talk(1)
        self.clock.now += 6
        before = await self.store.position()
        for write in self.writes(self.store):
            error = await self.assertFailure(write, ImError)
            assert (error.code, error.temporary) == (Status.UNAVAILABLE, True)
        assert await self.store.position() == before
        assert await self.store.account(STRANGER) is None, "it reads all the same"
        assert (await other.append([message(BOB, ALICE)], ()))[0][0][1] == 2, "others go on"
        assert [lease.node for lease in await self.store.lease("a", b"boot-a", "", 6)] == ["a", "b"]
        assert (await self.append(message(ALICE, BOB)))[0][1] == 3
        self.clock.now += 6
        renewed, kept = self.store.lease("a", b"boot-a", "", 6), self.store.append([message(ALICE, BOB)], ())
        await renewed
        assert (await kept)[0][0][1] == 4, "what comes after a renewal need not wait for its answer"
        await self.store.lease("a", b"boot-a", "", 0)
        assert (await self.append(message(ALICE, BOB)))[0][1] == 5, "a program that is no node needs no lease"

    async def test_a_lease_that_somebody_has_ended(self) -> None:
        """If this fails, a process that was taken for dead by mistake goes on writing while another is about to take its place."""
        other = await self.other()
        await self.store.lease("a", b"boot-a", "", 60)
        await self.talk(1)
        await other.lease("a", b"boot-a", "", 0)
        assert await self.refused(self.store.append([message(ALICE, BOB)], ())) is Status.UNAVAILABLE

    async def test_a_name_that_has_gone_to_another(self) -> None:
        """If this fails, two processes write as one node."""
        other = await self.other()
        await self.store.lease("a", b"boot-a", "", 6)
        conversation = await self.talk(1)
        self.clock.now += 6
        await other.lease("a", b"another", "", 6)
        for write in self.writes(self.store):
            await self.assertFailure(write, StoreError)
        stored, _ = await other.append([message(BOB, ALICE)], ())
        assert stored[0][:2] == (conversation, 2)


# ---- the model


@dataclass
class Log:
    """A conversation, as plainly as it can be kept."""

    kind: int
    name: bytes
    members: list[bytes]
    version: int = 1
    rows: list[tuple[Any, ...]] = field(default_factory=list)  #: (sender, device, client id, content type, content)
    delivered: dict[bytes, int] = field(default_factory=dict)
    read: dict[bytes, int] = field(default_factory=dict)
    changed: int = 0  #: the step at which something that every store must tell of happened
    touched: int = 0  #: the step at which anything happened


@dataclass
class Model:
    """A store, as plainly as it can be written. A step is one call that changes something."""

    step: int = 0
    logs: dict[int, Log] = field(default_factory=dict)
    accounts: set[bytes] = field(default_factory=set)
    sessions: dict[tuple[bytes, bytes], int] = field(default_factory=dict)
    nodes: dict[tuple[bytes, bytes], str] = field(default_factory=dict)  #: where a device's newest session was opened
    ended: list[Ended] = field(default_factory=list)
    cursors: dict[tuple[bytes, bytes, int], int] = field(default_factory=dict)
    ids: dict[tuple[bytes, bytes], tuple[Any, int, int]] = field(default_factory=dict)  #: (sender, client id) → what it said, and the place
    commits: list[list[tuple[int, int]]] = field(default_factory=list)

    def append(self, entry: Append, found: Any) -> Any:
        """What should become of a message. `found` is the store's answer, from which the model learns a new conversation's id.

        Returns:
            a status, or (conversation, seq, version or None for a repeat, whether it is a repeat).
        """
        sender, device, client_id, conversation, peer, kind, _, content = entry
        said = entry[3:]
        if (sender, client_id) in self.ids:
            known, *place = self.ids[sender, client_id]
            return (*place, None, True) if known == said else Status.CONFLICT
        if conversation:
            log = self.logs.get(conversation)
            if log is None or sender not in log.members:
                return Status.NO_SUCH
        elif not {sender, peer} <= self.accounts:
            return Status.NO_SUCH
        else:
            pair = sorted({sender, peer})
            there = [number for number, log in self.logs.items() if log.kind == ConversationKind.DIRECT and sorted(log.members) == pair]
            conversation = there[0] if there else found[0]
            if not there:
                assert conversation not in self.logs, "a new conversation has the id of another"
            log = self.logs.setdefault(conversation, Log(ConversationKind.DIRECT, b"", pair))
        log.rows.append((sender, device, client_id, kind, content))
        log.changed = log.touched = self.step
        place = [conversation, len(log.rows)]
        self.ids[sender, client_id] = (said, *place)  # type: ignore[assignment]  # there are two in it
        self.commits[-1].append(tuple(place))  # type: ignore[arg-type]  # the same
        return (*place, log.version, False)

    def receipt(self, cursor: Cursor) -> Any:
        """What should become of a receipt: a status, or the answer."""
        user, device, session, conversation, seq, kind = cursor
        log = self.logs.get(conversation)
        if log is None or user not in log.members:
            return Status.NO_SUCH
        if not 1 <= seq <= len(log.rows):
            return Status.BAD_VALUE
        if self.sessions.get((user, device)) != session:
            return Status.CONFLICT
        key = user, device, conversation
        self.cursors[key] = max(seq, self.cursors.get(key, 0))
        before = log.delivered.get(user, 0), log.read.get(user, 0)
        log.delivered[user] = max(before[0], seq)
        log.read[user] = max(before[1], seq if kind == READ else 0)
        log.touched = self.step
        if before != (log.delivered[user], log.read[user]):
            log.changed = self.step
        mark, old = (log.read[user], before[1]) if kind == READ else (log.delivered[user], before[0])
        return (mark > old, mark, log.version)

    def overview(self, user: bytes, device: bytes, conversation: int) -> tuple[Any, ...]:
        """One conversation as a device sees it."""
        log = self.logs[conversation]
        direct = log.kind == ConversationKind.DIRECT
        other = next((member for member in log.members if member != user), user)
        marks = (log.delivered.get(other, 0), log.read.get(other, 0)) if direct else (0, 0)
        cursor = self.cursors.get((user, device, conversation), 0)
        own = (log.delivered.get(user, 0), log.read.get(user, 0))
        return (conversation, log.kind, len(log.rows), 0, cursor, *own, *marks, other if direct else log.name)


# Few of everything, and mostly what works, so that what happens, happens to the same ones again.
USERS = st.sampled_from([ALICE, BOB, ALICE, BOB, ALICE, BOB, CAROL, STRANGER])
DEVICES = st.sampled_from([LAPTOP, LAPTOP, PHONE])
NODES = st.sampled_from(["one", "one", "two"])
PLACES = st.sampled_from([0, 0, 0, 1, 2, 3])
SEQS = st.sampled_from([1, 2, 3, 4, 5, 0, MAX_U64])
MOSTLY = st.sampled_from([True, True, True, False])
CLIENT_IDS = st.integers(0, 15).map(lambda n: bytes([n]) * 16)
MESSAGES = st.tuples(USERS, DEVICES, CLIENT_IDS, st.one_of(USERS, PLACES), st.integers(1, 4), st.binary(max_size=3))
RECEIPTS = st.tuples(USERS, DEVICES, MOSTLY, PLACES, SEQS, st.sampled_from([DELIVERED, READ]))


class Machine(RuleBasedStateMachine):
    """Does the same to a store and to a `Model`, and compares all that can be seen."""

    def __init__(self, case: StoreContract) -> None:
        super().__init__()
        self.store = self.call(case.make_store)
        self.call(self.store.open)
        self.model = Model()
        self.position = 0
        self.marks: list[tuple[int, int]] = [(0, 0)]  #: marks of `ended_since`, and how many the model had ended by then
        self.news: list[tuple[int, int, int]] = [(0, 0, 0)]  #: (position, step, commits) at moments that were looked at

    def teardown(self) -> None:
        """At the end everything is looked at once more."""
        for user in (ALICE, BOB, CAROL, STRANGER):
            for device in (LAPTOP, PHONE):
                self.summary(user, device, 0, 1000, False)
            for number in range(len(self.model.logs)):
                self.read(user, number, 1, MAX_U64, 1000, False)
        self.read_since(0, 1000)
        self.ended_since(0)
        self.call(self.store.close)

    def call(self, verb: Callable[..., Any], *arguments: Any) -> Any:
        """What a verb gives, called where the reactor runs, or the status that it fails with."""
        answers: SimpleQueue[Any] = SimpleQueue()
        reactor.callFromThread(lambda: maybeDeferred(verb, *arguments).addBoth(answers.put))  # type: ignore[attr-defined]
        try:
            answer = answers.get(timeout=120)
        except Empty:
            raise SystemExit("no answer: the store is stuck, or the test was ended and the reactor stands still") from None
        if not isinstance(answer, Failure):
            return answer
        if isinstance(answer.value, ImError):
            return answer.value.code
        return answer.raiseException()

    def place(self, number: int) -> int:
        """The id of a conversation."""
        known = sorted(self.model.logs)
        return known[number] if number < len(known) else 1000 + number

    def changing(self) -> Model:
        """The model, one step on."""
        self.model.step += 1
        self.model.commits.append([])
        return self.model

    @initialize()
    def begin(self) -> None:
        """Two users who have talked, so that something can be read and marked from the first step on."""
        self.model.accounts |= {ALICE, BOB}
        assert self.call(self.store.accounts, [ALICE, BOB], True) == set()
        self.device(ALICE, LAPTOP, "one", True)
        self.device(BOB, LAPTOP, "one", True)
        self.append([(ALICE, LAPTOP, bytes([number]) * 16, BOB, TEXT, b"") for number in range(3)], [])

    @rule(users=st.lists(USERS, max_size=3), create=st.booleans())
    def accounts(self, users: list[bytes], create: bool) -> None:
        assert self.call(self.store.accounts, users, create and STRANGER not in users) == set(users) & self.model.accounts
        if create and STRANGER not in users:
            self.model.accounts |= set(users)

    @rule(user=USERS.filter(lambda user: user != STRANGER), device=DEVICES, node=NODES, stays=MOSTLY)
    def device(self, user: bytes, device: bytes, node: str, stays: bool) -> None:
        """A device comes, perhaps to another node, or is removed."""
        before = self.model.sessions.pop((user, device), 0)
        was_at = self.model.nodes.pop((user, device), node)
        if stays:
            opened = self.call(self.store.open_session, user, device, b"", node)
            assert opened.number > before
            if was_at != node:
                self.model.ended.append(Ended(user, device, before, Disconnect.TAKEN_OVER))
            self.model.sessions[user, device] = opened.number
            self.model.nodes[user, device] = node
            self.model.accounts.add(user)
            return
        if before:
            self.model.ended.append(Ended(user, device, max(self.model.sessions.values(), default=before), Disconnect.KICKED))
        assert self.call(self.store.remove_device, user, device) == bool(before)
        for key in [key for key in self.model.cursors if key[:2] == (user, device)]:
            del self.model.cursors[key]

    @rule(messages=st.lists(MESSAGES, max_size=6), receipts=st.lists(RECEIPTS, max_size=6))
    def append(self, messages: list[Any], receipts: list[Any]) -> None:
        entries: list[Append] = []
        for sender, device, client_id, to, kind, content in messages:
            conversation, peer = (self.place(to), b"") if isinstance(to, int) else (0, to)
            entries.append((sender, device, client_id, conversation, peer, kind, 0, content))
        cursors = [
            (user, device, self.model.sessions.get((user, device), 1) + (0 if newest else 1), self.place(number), seq, kind)
            for user, device, newest, number, seq, kind in receipts
        ]
        stored, moved = self.call(self.store.append, entries, cursors)
        model = self.changing()
        for entry, answer in zip(entries, stored, strict=True):
            wanted = model.append(entry, answer)
            assert self.compared(answer) == wanted or (wanted[2] is None and self.compared(answer, repeat=True) == wanted)
        assert [told(answer) for answer in moved] == [model.receipt(cursor) for cursor in cursors]

    @rule(receipts=st.lists(RECEIPTS, min_size=1, max_size=6))
    def receive(self, receipts: list[Any]) -> None:
        self.append([], receipts)

    @staticmethod
    def compared(answer: Stored | ImError, *, repeat: bool = False) -> Any:
        """A message's answer, in the model's form."""
        return told(answer) if isinstance(answer, ImError) else (answer[0], answer[1], None if repeat else answer[3], answer[4])

    @precondition(lambda self: len(self.model.logs) < 4)
    @rule(users=st.lists(USERS.filter(lambda user: user != STRANGER), max_size=3))
    def create_group(self, users: list[bytes]) -> None:
        model = self.changing()
        made = self.call(self.store.create_group, b"group", users)
        assert made not in model.logs
        version = self.call(self.store.members, [made])[made].version
        model.logs[made] = Log(ConversationKind.GROUP, b"group", sorted(set(users)), version, changed=model.step, touched=model.step)

    @rule(number=PLACES, add=st.lists(USERS, max_size=2), remove=st.lists(USERS, max_size=2))
    def change_members(self, number: int, add: list[bytes], remove: list[bytes]) -> None:
        conversation = self.place(number)
        answer = self.call(self.store.change_members, conversation, add, remove)
        log = self.model.logs.get(conversation)
        if log is None or log.kind != ConversationKind.GROUP:
            assert answer is Status.NO_SUCH
            return
        model = self.changing()
        wanted = sorted((set(log.members) | set(add)) - set(remove))
        assert sorted(answer.users) == wanted
        assert answer.version > log.version or (answer.version == log.version and wanted == log.members)
        log.touched = model.step
        if wanted != log.members:
            log.changed = model.step
        log.members, log.version = wanted, answer.version

    @rule(user=USERS, number=PLACES, first=SEQS, last=SEQS, limit=st.integers(1, 5), backward=st.booleans())
    def read(self, user: bytes, number: int, first: int, last: int, limit: int, backward: bool) -> None:
        conversation = self.place(number)
        answer = self.call(self.store.read, user, conversation, first, last, limit, backward)
        log = self.model.logs.get(conversation)
        if log is None or user not in log.members:
            assert answer is Status.NO_SUCH
            return
        head = len(log.rows)
        seqs = [seq for seq in range(1, head + 1) if first <= seq <= last]
        kept = seqs[-limit:] if backward else seqs[:limit]
        assert [(row.seq, *self.said(row)) for row in answer.rows] == [(seq, *log.rows[seq - 1]) for seq in kept]
        assert (answer.head, answer.floor) == (head, 0)
        if kept:
            assert (answer.first, answer.last) == (kept[0], kept[-1])
        else:
            assert answer.last < answer.first

    @staticmethod
    def said(row: Row) -> tuple[Any, ...]:
        """What a row holds of its message."""
        return (row.sender, row.device, row.client_id, row.content_type, row.content)

    @rule(user=USERS, device=DEVICES, moment=st.integers(0, 10), limit=st.integers(1, 4), behind=st.booleans())
    def summary(self, user: bytes, device: bytes, moment: int, limit: int, behind: bool) -> None:
        since, step, _ = self.news[min(moment, len(self.news) - 1)]
        found: list[Any] = []
        more, position = True, 0
        while more:
            after = found[-1].conversation if found else 0
            now, more, page = self.call(self.store.summary, user, device, since, after, limit, behind)
            assert all(overview.conversation > after for overview in page)
            position = position or now
            assert len(page) == limit or not more
            found += page
        ids = [overview.conversation for overview in found]
        assert ids == sorted(ids)
        model = self.model

        def those(changed: Callable[[Log], int]) -> set[int]:
            mine = {each for each, log in model.logs.items() if user in log.members and changed(log) > step}
            return {each for each in mine if not behind or len(model.logs[each].rows) > model.cursors.get((user, device, each), 0)}

        if step:
            assert those(lambda log: log.changed) <= set(ids) <= those(lambda log: log.touched)
        else:
            assert set(ids) == those(lambda log: 1)
        assert [tuple(overview) for overview in found] == [model.overview(user, device, each) for each in ids]
        self.news.append((position, model.step, len(model.commits)))

    @rule(moment=st.integers(0, 10), limit=st.integers(1, 6))
    def read_since(self, moment: int, limit: int) -> None:
        position, _, commits = self.news[min(moment, len(self.news) - 1)]
        wanted = [sorted(commit) for commit in self.model.commits[commits:] if commit]
        while True:
            before, (position, page) = position, self.call(self.store.read_since, position, limit)
            if not page:
                break
            assert position > before, "it stands still"
            places = [(row.conversation, row.seq) for row in page]
            whole: list[tuple[int, int]] = []
            taken = 0
            while len(whole) < len(places):
                whole += wanted.pop(0)
                taken += 1
            assert places == whole
            assert len(places) <= limit or taken == 1
            for row in page:
                assert self.said(row) == self.model.logs[row.conversation].rows[row.seq - 1]
        assert not wanted
        self.news.append((position, self.model.step, len(self.model.commits)))

    @rule()
    def position(self) -> None:
        """From here on, whoever reads since then gets what comes after."""
        self.news.append((self.call(self.store.position), self.model.step, len(self.model.commits)))

    @rule(part=st.integers(0, 3))
    def ended_since(self, part: int) -> None:
        mark, before = self.marks[min(part, len(self.marks) - 1)]
        now, ended = self.call(self.store.ended_since, mark)
        wanted = self.model.ended[before:]
        assert [(each.user, each.device, each.code) for each in ended] == [(each.user, each.device, each.code) for each in wanted]
        for each, known in zip(ended, wanted, strict=True):
            assert each.number >= known.number if each.code is Disconnect.KICKED else each.number == known.number
        self.marks.append((now, len(self.model.ended)))

    @invariant()
    def members(self) -> None:
        ids = sorted(self.model.logs)
        found = self.call(self.store.members, [*ids, 999])
        assert {each: (said.version, said.kind, sorted(said.users)) for each, said in found.items()} == {
            each: (log.version, log.kind, log.members) for each, log in self.model.logs.items()
        }


__all__ = ["ALICE", "BOB", "CAROL", "LAPTOP", "PHONE", "Clock", "SharedStoreContract", "StoreContract", "message", "told"]
