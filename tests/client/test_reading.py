"""The receiver's half against a server whose pushes are dropped, doubled and late, and an application that is slow, and crashes.

Strategy: one state machine. Hypothesis plays the other users, the network, the server's bad days, the disk and the application. The
server is a list of rows for each conversation. It drops a push only as the real one does: the device is then behind, is told so once,
and gets no push until it syncs. What the application sees is judged at once where that is possible (order, repeats, receipts beyond
what was shown and saved) and at the end for what is missing, when all that is under way has come, without a new login if the
connection lives.
"""

from __future__ import annotations

from copy import deepcopy
from types import SimpleNamespace
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from twisted_im.client.reading import Listener, Reader
from twisted_im.client.state import Kept
from twisted_im.client.values import LeftOut, Message, Receipt
from twisted_im.errors import ImError, LocalProtocolError, RemoteProtocolError, Status
from twisted_im.wire.schema import Command, ConversationKind, ReceiptType, RowType

MINE, OTHER = b"m" * 16, b"o" * 16
ME, PEER = "me", "peer"
DELIVERED, READ = ReceiptType.DELIVERED, ReceiptType.READ
NUMBERS = (1, 2, 3, 4)  #: of the conversations
PLACES = st.sampled_from(NUMBERS)
FATES = st.sampled_from(["comes", "comes", "overtakes", "overtakes", "doubles", "drops", "expires"])  #: what becomes of a row's push


class Log:
    """One conversation of the server."""

    def __init__(self) -> None:
        self.rows: dict[int, Any] = {}
        self.head = self.floor = 0
        self.member = True
        self.changed = 0
        self.marks = {(user, kind): 0 for user in (ME, PEER) for kind in (DELIVERED, READ)}
        self.cursor = 0  # of the device under test


class Line:
    """One connection, as a session shows it. Answers keep their order; a push may come at any time after it was sent."""

    def __init__(self, heads: dict[int, int]) -> None:
        self.open = True
        self.full = False
        self.behind = True  # until the first sync, as after every login
        self.heads = heads
        self.asked: list[Any] = []
        self.up: list[Any] = []
        self.down: list[Any] = []
        self.pushed: list[tuple[str, Any]] = []

    def ask(self, *ask: Any) -> None:
        self.asked.append(ask)

    def acknowledge_all(self) -> None:
        """Nothing is counted here."""

    def give_up(self, error: ImError) -> None:
        self.open = False


class Disk:
    """The device's memory: what was saved last. It may be full."""

    def __init__(self, interval: float) -> None:
        self.interval = interval
        self.saved: Kept | None = None
        self.full = False

    def load(self) -> Kept | None:
        return deepcopy(self.saved)

    def save(self, kept: Kept) -> None:
        if self.full:
            raise OSError("no space left")
        self.saved = deepcopy(kept)


class World(RuleBasedStateMachine):
    """A server with some conversations, others who write there, and one device that reads."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 100.0
        self.era = 1
        self.position = 0
        self.logs = {number: Log() for number in NUMBERS}
        self.line: Line | None = None
        self.stuck = False  # the server has answered with nothing: only news, or a login, moves a client on
        self.known: set[tuple[int, int, int]] = set()  # rows of this device that its sender has heard of
        self.shown: dict[tuple[int, int], list[int]] = {}  # (era, conversation) → what the screen has, from the last cursor on
        self.begun: dict[tuple[int, int], int] = {}  # and that cursor
        self.left_out: dict[tuple[int, int], set[int]] = {}
        self.heard: dict[tuple[int, int, str, int], int] = {}  # receipts that the application was told, whichever run of it
        self.refused: set[tuple[int, int]] = set()  # (era, conversation) of receipts that the server did not take
        self.caught_up = True
        self.showing: Deferred[None] | None = None
        self.slow = False
        self.reader: Reader | None = None

    @initialize(shows=st.booleans(), catch_up=st.sampled_from([None, 4]), bound=st.sampled_from([2, 100]), interval=st.sampled_from([0, 1]))
    def begin(self, shows: bool, catch_up: int | None, bound: int, interval: float) -> None:
        self.disk = Disk(interval)
        self.shows, self.catch_up, self.bound = shows, catch_up, bound
        self.start()
        self.connect()

    # the application

    def start(self) -> None:
        """A run of the application begins, with what is on the disk."""
        self.kept = self.disk.load() or Kept(MINE, ME)
        self.booked = False
        self.showing = None
        self.old_news = 0
        self.receipts: dict[tuple[int, str, int], int] = {}
        self.told: dict[tuple[int, int], int] = {}  # receipts that have left: (conversation, type) → seq
        listener = Listener()
        listener.show = self.show if self.shows else None
        listener.receipt = self.receipt
        listener.reset = self.reset
        listener.left_out = self.leave_out
        listener.mine = lambda row: self.known.add(self.place(row))
        listener.caught_up = self.catches_up
        self.reader = Reader(
            self.kept, self.disk, listener, book=self.book, clock=lambda: self.now, uid=ME, catch_up=self.catch_up, bound=self.bound
        )
        self.make_small()
        self.nothing_waits()  # it went with the earlier run
        for era, conversation in {*self.shown, *self.left_out}:
            self.forget(era, conversation, self.kept.cursors.get(conversation, 0) if self.kept.epoch == self.epoch(era) else 0)

    def nothing_waits(self) -> None:
        """The sender has nothing that it would have to find in the log."""
        rows = [row for log in self.logs.values() for row in log.rows.values()]
        self.known |= {self.place(row) for row in rows if row.device == MINE}

    def forget(self, era: int, conversation: int, cursor: int) -> None:
        """What was shown after the cursor may be shown again; nothing else."""
        key = era, conversation
        self.shown[key] = [seq for seq in self.shown.get(key, []) if seq <= cursor]
        self.left_out[key] = {seq for seq in self.left_out.get(key, set()) if seq <= cursor}

    def make_small(self) -> None:
        """So that few rows are many."""
        assert self.reader is not None
        self.reader.inbox._hold, self.reader.inbox._page = 2, 3

    def book(self) -> None:
        self.booked = True

    @staticmethod
    def epoch(era: int) -> bytes:
        return bytes([era]) * 16

    @staticmethod
    def place(row: Any) -> tuple[int, int, int]:
        era, conversation, seq = map(int, row.content.split())
        assert (row.conversation, row.seq) == (conversation, seq)
        return era, conversation, seq

    def show(self, message: Message) -> Deferred[None] | None:
        assert self.showing is None, "the last one has not ended"
        self.see(message)
        if not self.slow:
            return None
        self.showing = Deferred()
        return self.showing

    def see(self, message: Message) -> None:
        era, conversation, seq = self.place(message)
        assert message.device == OTHER
        assert not message.withdrawn
        shown = self.shown.setdefault((era, conversation), [])
        assert not shown or seq > shown[-1], "once, and in order"
        assert seq not in self.left_out.get((era, conversation), ())
        shown.append(seq)

    def leave_out(self, range: LeftOut) -> None:
        assert self.catch_up is not None
        if self.old_news:
            self.old_news -= 1  # it waited for the application since before the store was another one
            return
        key = self.era, range.conversation
        seqs, known = set(range_of(range.first, range.last)), self.left_out.setdefault(key, set())
        assert seqs
        assert range.last <= self.logs[range.conversation].head - self.catch_up, "only what is too much"
        assert range.first > max([*self.shown.get(key, []), *known], default=0)
        known |= seqs

    def receipt(self, receipt: Receipt) -> None:
        key = receipt.conversation, receipt.user, int(receipt.type)
        assert receipt.seq > self.receipts.get(key, 0), "receipts never go back"
        self.receipts[key] = receipt.seq
        self.heard[self.era, *key] = max(receipt.seq, self.heard.get((self.era, *key), 0))
        if self.kept.epoch == self.epoch(self.era):
            assert receipt.seq <= self.logs[receipt.conversation].marks[receipt.user, receipt.type]

    def reset(self, why: str) -> None:
        assert self.reader is not None
        self.make_small()
        self.old_news = sum(step.left_out > 0 for _, step in self.reader._queue)
        self.receipts.clear()
        self.told.clear()

    def catches_up(self, skipped: set[int]) -> None:
        assert self.line is not None
        assert not self.caught_up, "it is told once in each login"
        self.caught_up = True
        for conversation, head in self.line.heads.items():
            rows = self.logs[conversation].rows
            mine = {(self.era, conversation, seq) for seq, row in rows.items() if seq <= head and row.device == MINE}
            assert conversation in skipped or mine <= self.known, "whatever waits may be sent again now, under new ids"

    @precondition(lambda self: not self.shows)
    @rule(gives_up=st.sampled_from([False, False, False, True]))
    def take(self, gives_up: bool) -> None:
        assert self.reader is not None
        taken = self.reader.take().addCallback(self.see)
        taken.addErrback(lambda failure: failure.trap(CancelledError))
        if gives_up:
            taken.cancel()
        self.turn_if_booked()

    @rule(slow=st.booleans())
    def application_ends(self, slow: bool) -> None:
        """With a message, if it has one; and how it is from now on."""
        self.slow = slow
        showing, self.showing = self.showing, None
        if showing is not None:
            showing.callback(None)
        self.turn_if_booked()

    @rule(conversation=PLACES, ahead=st.integers(-2, 2))
    def mark_read(self, conversation: int, ahead: int) -> None:
        """Perhaps more than was shown: it has to wait then."""
        assert self.reader is not None
        seq = min(max((self.shown.get((self.era, conversation)) or [0])[-1] + ahead, 0), self.logs[conversation].head)
        if seq and self.kept.epoch == self.epoch(self.era):
            self.reader.mark_read(conversation, seq)
        self.turn_if_booked()

    def restart(self, how: str) -> None:
        assert self.reader is not None
        if self.line is not None:
            self.lose()
        if how == "stops" and not self.disk.full:
            self.reader.finish()
            self.reader.close(Failure(CancelledError()))
            saved = self.disk.saved or self.kept
            if self.showing is None:
                for (era, conversation), seqs in self.shown.items():
                    assert saved.epoch != self.epoch(era) or saved.cursors.get(conversation, 0) >= max(seqs, default=0)
        if how == "loses its state":
            self.disk.saved = None
        self.start()
        if how == "loses its state":  # then it is the server that knows
            for conversation, log in self.logs.items():
                self.forget(self.era, conversation, log.cursor)
                known = [seq for seq in self.shown[self.era, conversation] if seq <= log.cursor]
                self.shown[self.era, conversation] = known
                self.begun[self.era, conversation] = max(self.begun.get((self.era, conversation), 0), log.cursor)

    # the client's turn

    def turn_if_booked(self) -> None:
        if self.booked:
            self.turn()

    def turn(self) -> None:
        """What a client does at the end of each turn of the reactor."""
        assert self.reader is not None
        line, self.booked = self.line, False
        if line is not None:
            line.full = self.reader.full
        self.reader.step()
        if line is not None and line.open:
            while line.open and len(line.up) + len(line.down) < 6:
                ask = line.asked.pop(0) if line.asked else self.reader.next_receipt() or self.reader.next_pull()
                if ask is None:
                    break
                if ask[0] is Command.RECEIPT:
                    self.receipt_leaves(ask[1])
                line.up.append(ask)
        if self.booked:
            self.turn()

    def receipt_leaves(self, values: dict[str, Any]) -> None:
        conversation, seq, kind = values["conversation"], values["seq"], values["type"]
        assert self.disk.saved is not None
        safe = max(self.disk.saved.cursors.get(conversation, 0), self.logs[conversation].cursor)
        assert seq <= safe, "a crash now would lose what was confirmed"
        assert self.line is not None
        flying = [(ask[1]["conversation"], ask[1]["type"]) for ask in self.line.up if ask[0] is Command.RECEIPT]
        assert (conversation, kind) not in flying, "one at a time"
        assert seq >= self.told.get((conversation, kind), 0), "receipts never go back"
        self.told[conversation, kind] = seq

    # the others, and the server

    def write(self, conversation: int, device: bytes, *, hole: bool = False) -> Any:
        log = self.logs[conversation]
        log.head += 1
        self.touch(log)
        row = SimpleNamespace(
            conversation=conversation, seq=log.head, time=0, device=device, client_id=b"", row_type=RowType.MESSAGE, content_type=1,
            content=b"%d %d %d" % (self.era, conversation, log.head), life=0, sender=PEER.encode(),
        )  # fmt: skip
        if not hole:
            log.rows[log.head] = row
        return row

    def touch(self, log: Log) -> None:
        self.position += 1
        log.changed = self.position

    def push(self, what: str, value: Any, *, drop: bool, twice: bool = False) -> None:
        """To the device, if it is there and not behind."""
        if self.line is None or self.line.behind:
            return
        if drop:
            self.line.behind = True
            self.line.pushed.append(("behind", None))
        else:
            self.line.pushed += [(what, value)] * (1 + twice)

    @rule(conversation=PLACES, count=st.sampled_from([1, 1, 2, 7]),
          fate=FATES)
    def other_writes(self, conversation: int, count: int, fate: str) -> None:
        for _ in range(count):
            row = self.write(conversation, OTHER, hole=fate == "expires")
            if self.logs[conversation].member:
                self.push("message", row, drop=fate in ("drops", "expires"), twice=fate == "doubles")
            if fate == "overtakes" and self.line is not None and self.line.open and self.line.pushed:
                self.comes(self.line.pushed.pop())

    @rule(writes=st.lists(st.tuples(PLACES, FATES), min_size=2, max_size=6), ends=st.booleans())
    def talk(self, writes: list[tuple[int, str]], ends: bool) -> None:
        for conversation, fate in writes:
            self.other_writes(conversation, 1, fate)
        if ends:
            self.all_is_well(8, 3)

    @precondition(lambda self: self.line is not None)
    @rule(conversation=PLACES)
    def own_message_is_accepted(self, conversation: int) -> None:
        assert self.line is not None
        row = self.write(conversation, MINE)
        self.line.down.append((row, None, None))

    @rule(conversation=PLACES, data=st.data())
    def row_goes(self, conversation: int, data: st.DataObject) -> None:
        """It is withdrawn, or what is old goes."""
        log = self.logs[conversation]
        seq = data.draw(st.integers(0, log.head))
        if data.draw(st.booleans()):
            log.floor = max(log.floor, seq)
            log.rows = {number: row for number, row in log.rows.items() if number > log.floor}
        elif seq in log.rows:
            log.rows[seq] = SimpleNamespace(**{**vars(log.rows[seq]), "row_type": RowType.TOMBSTONE})

    @rule(conversation=PLACES, kind=st.sampled_from([DELIVERED, READ]), ahead=st.integers(1, 3), drop=st.booleans())
    def peer_confirms(self, conversation: int, kind: ReceiptType, ahead: int, drop: bool) -> None:
        log = self.logs[conversation]
        seq = min(log.marks[PEER, kind] + ahead, log.head)
        if seq > log.marks[PEER, kind]:
            log.marks[PEER, kind] = seq
            self.touch(log)
            values = SimpleNamespace(conversation=conversation, seq=seq, type=int(kind), user=PEER.encode())
            if log.member:
                self.push("receipt", values, drop=drop)

    def come_and_go(self, conversation: int) -> None:
        """The user is taken out of a conversation, or back in; the device is told of neither, but has to log in again."""
        log = self.logs[conversation]
        log.member = not log.member
        self.touch(log)
        if self.line is not None:
            self.lose()

    def another_store(self) -> None:
        """The server begins afresh."""
        if self.line is not None:
            self.lose()
        self.era += 1
        self.position = 0
        self.logs = {number: Log() for number in NUMBERS}

    @rule(
        what=st.sampled_from(["nothing"] * 10 + ["line", "line", "member", "store", "stops", "crashes", "crashes", "loses its state"]),
        conversation=PLACES,
        back=st.sampled_from([True, True, False]),
    )
    def break_something(self, what: str, conversation: int, back: bool = False) -> None:
        """One rule for all that is rare, so that there is life between two of them."""
        if what == "nothing":
            self.all_is_well(6, 4)
        elif what == "line":
            if self.line is not None:
                self.lose()
        elif what == "member":
            self.come_and_go(conversation)
        elif what == "store":
            self.another_store()
        else:
            self.restart(what)
        if back and self.line is None:
            self.connect()

    @precondition(lambda self: self.line is not None and self.line.up)
    @rule(mood=st.sampled_from(["well"] * 6 + ["busy", "refuses", "gives nothing"]), size=st.integers(1, 4))
    def server_reads(self, mood: str, size: int) -> None:
        assert self.line is not None
        command, values, answered = self.line.up.pop(0)
        self.line.down.append((command, answered, self.served(command, SimpleNamespace(**values), mood, size)))

    def served(self, command: Command, wanted: Any, mood: str, size: int) -> Any:
        assert self.line is not None
        if mood == "busy":
            return RemoteProtocolError(Status.BUSY)
        if command is Command.SYNC:
            self.line.behind = False
            listed = [(n, log) for n, log in self.logs.items() if n > wanted.after and log.member and log.changed > wanted.since]
            page = [
                SimpleNamespace(
                    conversation=number, kind=ConversationKind.DIRECT, head=log.head, floor=log.floor, cursor=log.cursor,
                    delivered=log.marks[ME, DELIVERED], read=log.marks[ME, READ], peer_delivered=log.marks[PEER, DELIVERED],
                    peer_read=log.marks[PEER, READ], peer=PEER.encode(),
                )
                for number, log in listed[:size]
            ]  # fmt: skip
            return SimpleNamespace(position=self.position, more=int(len(listed) > size), conversations=page)
        log = self.logs[wanted.conversation]
        if not log.member:
            if command is Command.RECEIPT:
                self.refused.add((self.era, wanted.conversation))
            return RemoteProtocolError(Status.NO_SUCH)
        if command is Command.RECEIPT:
            assert 1 <= wanted.seq <= log.head
            if mood == "refuses":
                self.refused.add((self.era, wanted.conversation))
                return RemoteProtocolError(Status.CONFLICT)
            log.cursor = max(log.cursor, wanted.seq)
            for kind in (DELIVERED, wanted.type):
                if wanted.seq > log.marks[ME, kind]:
                    log.marks[ME, kind] = wanted.seq
                    self.touch(log)
            return SimpleNamespace()
        assert 1 <= wanted.first <= wanted.last
        first = max(wanted.first, log.floor + 1) if size % 2 else wanted.first  # both say the same: nothing is there
        last = min(wanted.last, log.head, max(wanted.first, log.floor + 1) + size - 1)
        if mood == "gives nothing":
            self.stuck, last = True, first - 1
        rows = [row for seq, row in sorted(log.rows.items()) if first <= seq <= last]
        return SimpleNamespace(first=first, last=last, head=log.head, floor=log.floor, messages=rows)

    # the network

    @precondition(lambda self: self.line is not None and self.line.open and self.line.down)
    @rule()
    def answer_comes(self) -> None:
        assert self.line is not None
        assert self.reader is not None
        what, answered, values = self.line.down.pop(0)
        if answered is None:
            self.known.add(self.place(what))
            self.reader.accepted(what.conversation, what.seq)
        else:
            answered(values)
        self.turn()

    @precondition(lambda self: self.line is not None and self.line.open and self.line.pushed)
    @rule(data=st.data())
    def push_comes(self, data: st.DataObject) -> None:
        assert self.line is not None
        self.comes(self.line.pushed.pop(data.draw(st.integers(0, len(self.line.pushed) - 1))))

    def comes(self, push: tuple[str, Any]) -> None:
        assert self.reader is not None
        what, value = push
        if what == "message":
            self.reader.message(value)
        elif what == "receipt":
            self.reader.receipted(value)
        else:
            self.reader.behind()
        self.turn()

    @rule(steps=st.integers(1, 10), size=st.integers(1, 4))
    def all_is_well(self, steps: int, size: int) -> None:
        for _ in range(steps):
            if self.line is not None and not self.line.open:
                self.lose()
            if self.line is None:
                self.connect()
            elif self.line.pushed:
                self.comes(self.line.pushed.pop(0))
            elif self.line.up:
                self.server_reads("well", size)
            elif self.line.down:
                self.answer_comes()

    def lose(self) -> None:
        """And with it all that was under way; what had an answer coming is told so, as a session does."""
        assert self.reader is not None
        assert self.line is not None
        line, self.line = self.line, None
        self.reader.disconnected()
        for _, _, answered in [*line.up, *line.asked]:
            answered(LocalProtocolError(Status.UNAVAILABLE))
        self.turn()

    @precondition(lambda self: self.line is None)
    @rule(unsure=st.booleans())
    def connect(self, unsure: bool = True) -> None:
        assert self.reader is not None
        if not unsure:
            self.nothing_waits()
        self.stuck = self.caught_up = False
        self.line = Line({number: log.head for number, log in self.logs.items() if log.member})
        self.reader.connected(self.line, self.epoch(self.era), unsure=unsure)  # type: ignore[arg-type]  # it needs no more of a session
        self.turn()

    # the clock, and the disk

    @rule(seconds=st.sampled_from([0.5, 2.0]), full=st.sampled_from([False, False, False, True]))
    def wait(self, seconds: float, full: bool) -> None:
        self.now += seconds
        self.disk.full = full
        self.turn_if_due()
        if self.line is None:
            self.connect()

    def turn_if_due(self) -> None:
        assert self.reader is not None
        deadline = self.reader.deadline()
        if deadline is not None and deadline <= self.now:
            self.turn()

    # what always holds

    @invariant()
    def nothing_grows(self) -> None:
        assert self.reader is not None
        assert 0 <= self.reader.inbox._held <= 2 + 3 * 4
        assert 0 <= self.reader.inbox.pulling <= 4
        held = sum(len(place.held) for place in self.reader.inbox._places.values())
        assert held == self.reader.inbox._held

    # the end

    def teardown(self) -> None:
        """The network goes quiet: all that is under way arrives, and the application takes what comes. No login unless there must be."""
        if self.reader is None:
            return
        self.disk.full = False
        for log in self.logs.values():
            if not log.member:
                self.come_and_go(next(number for number, other in self.logs.items() if other is log))
        if self.stuck and self.line is not None:
            self.lose()
        self.application_ends(False)
        for _ in range(5_000):
            if self.line is not None and not self.line.open:
                self.lose()
            if self.line is None:
                self.connect()
            elif self.line.pushed:
                self.comes(self.line.pushed.pop(0))
            elif self.line.up:
                self.server_reads("well", 2)
            elif self.line.down:
                self.answer_comes()
            elif not self.shows and any(step.row is not None for _, step in self.reader._queue):
                self.take(False)
            elif self.reader.deadline() is not None:
                self.now += 2
                self.turn_if_due()
            else:
                break
        else:
            raise AssertionError("the world does not come to rest")
        assert self.caught_up
        for conversation, log in self.logs.items():
            self.judge(conversation, log)

    def judge(self, conversation: int, log: Log) -> None:
        assert self.reader is not None
        key = self.era, conversation
        shown, cursor = self.shown.get(key, []), self.kept.cursors.get(conversation, 0)
        assert cursor == self.reader.inbox.shown(conversation) == log.head, "no gap stays"
        assert self.disk.saved == self.kept
        visible = {seq for seq, row in log.rows.items() if row.device == OTHER and row.row_type == RowType.MESSAGE}
        last = max((seq for seq in shown if seq > self.begun.get(key, 0)), default=0)
        assert log.cursor >= last or key in self.refused, "what was shown was confirmed"
        missed = visible - set(shown) - self.left_out.get(key, set())
        assert not {seq for seq in missed if seq > self.begun.get(key, 0)}, "everything that can be seen was shown, once"
        for user, kind in ((PEER, DELIVERED), (PEER, READ)):
            assert self.heard.get((*key, user, int(kind)), 0) == log.marks[user, kind], "and every receipt was told"


def range_of(first: int, last: int) -> range:
    """All from the first to the last."""
    return range(first, last + 1)


TestWorld = World.TestCase
TestWorld.settings = settings(max_examples=120, stateful_step_count=60)
TestWorld.__doc__ = "If this fails, a message is not shown, is shown twice or out of order, or is confirmed before it cannot be lost."


# ---- what the machine has found, or would need very long to find, step by step


def world(*, shows: bool = True, catch_up: int | None = None) -> World:
    made = World()
    made.begin(shows, catch_up, 100, 0)
    return made


def test_a_push_dropped_between_two_pages_of_a_sync() -> None:
    """If this fails, a user of many conversations does not see the last message of one until the next one comes."""
    it = world()
    it.own_message_is_accepted(1)
    it.own_message_is_accepted(2)
    it.server_reads("well", 1)
    it.other_writes(1, 1, "drops")
    it.teardown()


def test_a_receipt_of_the_run_before_does_not_replace_a_newer_one() -> None:
    """If this fails, a message that came during a login is never told to its sender as delivered."""
    it = world()
    it.all_is_well(2, 4)
    it.other_writes(1, 1, "overtakes")
    it.break_something("crashes", 1)
    it.connect()
    it.server_reads("well", 4)
    it.other_writes(1, 1, "overtakes")
    it.teardown()
    assert it.logs[1].cursor == 2


def test_two_logins_while_the_application_is_busy() -> None:
    """If this fails, what waits for a slow application while the line breaks twice is not shown by its next run, until more is written."""
    it = world(shows=False)
    it.all_is_well(2, 4)
    it.other_writes(1, 1, "comes")
    it.all_is_well(1, 4)
    for _ in range(2):
        it.break_something("line", 1, back=True)
        it.all_is_well(2, 4)
    it.break_something("stops", 1, back=True)
    it.teardown()


def test_an_older_message_is_read_again() -> None:
    """If this fails, scrolling back sends a receipt for each message on the way."""
    it = world()
    it.all_is_well(2, 4)
    it.other_writes(1, 1, "overtakes")
    it.other_writes(1, 1, "overtakes")
    it.all_is_well(9, 4)
    it.mark_read(1, 0)
    it.all_is_well(9, 4)
    it.mark_read(1, -1)
    it.teardown()
    assert it.told[1, READ] == 2


def test_what_a_broken_login_passed_over_is_not_forgotten() -> None:
    """If this fails, a message that is in the log already is sent once more after a long time away."""
    it = world(catch_up=4)
    it.own_message_is_accepted(1)
    it.other_writes(1, 7, "drops")
    it.break_something("line", 1)
    it.connect()
    it.server_reads("well", 4)
    it.answer_comes()
    assert it.left_out[1, 1] == {1, 2, 3, 4}
    it.break_something("line", 1)
    it.connect()
    it.teardown()
    it.restart("stops")
    it.connect(unsure=False)
    it.teardown()
    assert it.reader is not None
    assert not it.reader._skipped, "nothing waits that could be there"


def test_a_crash_before_the_application_has_seen_what_a_sync_listed() -> None:
    """If this fails, messages that waited for a slow application when it crashed are not shown before the next one comes."""
    it = world()
    it.all_is_well(2, 4)
    it.application_ends(True)
    it.other_writes(1, 2, "drops")
    it.all_is_well(6, 4)
    assert it.shown[1, 1] == [1], "and it has not ended with it"
    it.break_something("crashes", 1)
    it.connect()
    it.teardown()
