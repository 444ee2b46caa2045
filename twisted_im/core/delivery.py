"""The two halves of the six packets, as a client keeps them: what must be accepted, and what has been shown.

Strategy: nothing here knows of a network. The `Outbox` is the sender's half (packets 1 and 2): entries leave in order, at most a window
of them unanswered, and what was in flight when the connection went comes back in its old order under its old ids, so that the server can
tell a repeat. The `Inbox` is the receiver's half (packet 3): for each conversation one number, the last seq shown. A lower seq is a
repeat and is dropped, the next one is shown, a higher one is held, and the gap before it is pulled. Whoever drives them brings the time
and the network, and does what they say.

What an `Inbox` gives are *steps*, each of which moves one conversation on by one seq or more; most of them show a row. A row that is not
for showing — a tombstone, a message that this very device sent, a seq below the log's floor — makes a step as well, so the number never
stands still and no gap lasts.

    seq      1  2  3  4  5  6  7  8  9          shown = 3: steps up to 3 were given
             ─────────  ─  ────  ─              held = {6, 7, 9}: came early
               shown   gap held gap             pulls: 4..5 first; 8 afterwards, when 7 has been shown
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from twisted_im.errors import LocalProtocolError, Status
from twisted_im.wire.schema import RowType

T = TypeVar("T")

#: A server's clock may be set back so far, in milliseconds, and client ids still grow; beyond it a new time counts as the right one.
_SET_BACK = 60_000


class ClientIds:
    """Makes client ids: UUIDv7 (RFC 9562, 5.7) that grow even within a millisecond, by the RFC's second method (monotonic random).

    Args:
        bits: gives that many random bits, as `random.Random.getrandbits` does.
    """

    def __init__(self, bits: Callable[[int], int]) -> None:
        self._bits = bits
        self._moment = -1
        self._rest = 0

    def make(self, moment: int) -> bytes:
        """The next id.

        Args:
            moment: milliseconds since 1970 by the server's clock, since it is the server that judges an id's age.
        """
        if moment > self._moment or moment < self._moment - _SET_BACK:
            self._moment, self._rest = moment, self._bits(73)  # of 74 bits, so that there is room to grow
        else:
            self._rest += 1 + self._bits(32)
            if self._rest >> 74:
                self._moment, self._rest = self._moment + 1, self._bits(73)
        high, low = divmod(self._rest, 1 << 62)
        return (self._moment << 80 | 0x7 << 76 | high << 64 | 0b10 << 62 | low).to_bytes(16, "big")


# ---- the sender's half


class Entry(Generic[T]):
    """One message that is to be accepted.

    Attributes:
        item: what the application gave.
        client_id: empty until it first leaves, so that it carries a time that the server takes however long the device was away before.
        queued: when it was added, in seconds.
        over: it was accepted, refused for good, or dropped.
    """

    __slots__ = ("client_id", "item", "over", "queued")

    def __init__(self, item: T, client_id: bytes, queued: float) -> None:
        self.item = item
        self.client_id = client_id
        self.queued = queued
        self.over = False


class Outbox(Generic[T]):
    """The queue of a sender that waits for *accepted*.

    Args:
        make_id: gives a client id for an entry that leaves for the first time.
        patience: seconds; an entry older than this is reported once as not sent yet.
        bound: entries that may wait.
    """

    def __init__(self, make_id: Callable[[], bytes], *, patience: float = 120.0, bound: int = 10_000) -> None:
        self._make_id = make_id
        self._patience = patience
        self._bound = bound
        self._window = 0
        self._waiting: deque[Entry[T]] = deque()
        self._flying: dict[bytes, Entry[T]] = {}  # in the order of sending
        self._known: dict[bytes, Entry[T]] = {}
        self._untold: deque[Entry[T]] = deque()
        self._length = 0

    def add(self, item: T, now: float, *, client_id: bytes = b"") -> Entry[T]:
        """Queues one message.

        Args:
            client_id: for a message that has left before, in an earlier run of the application.

        Raises:
            LocalProtocolError: BUSY if the queue is full; CONFLICT if a message with this id is in it.
        """
        if self._length >= self._bound:
            raise LocalProtocolError(Status.BUSY, f"{self._length} messages wait to be sent already")
        if client_id in self._known:
            raise LocalProtocolError(Status.CONFLICT)
        entry = Entry(item, client_id, now)
        if client_id:
            self._known[client_id] = entry
        self._waiting.append(entry)
        self._untold.append(entry)
        self._length += 1
        return entry

    def connected(self, window: int) -> None:
        """A session is live and takes so many sends unanswered."""
        self._window = window

    def disconnected(self) -> None:
        """The session is gone: everything unanswered is to be sent again, before what has never left."""
        self._window = 0
        self._waiting.extendleft(reversed(self._flying.values()))
        self._flying.clear()

    def take(self) -> Entry[T] | None:
        """The next entry that is to leave now; None if there is none, or no room."""
        if len(self._flying) >= self._window:
            return None
        while self._waiting:
            entry = self._waiting.popleft()
            if entry.over:
                continue
            if not entry.client_id:
                entry.client_id = self._make_id()
                self._known[entry.client_id] = entry
            self._flying[entry.client_id] = entry
            return entry
        return None

    def accepted(self, client_id: bytes) -> Entry[T] | None:
        """The store has this message: by a response, or because it was met in the log. None if it is not, or no longer, waited for."""
        return self._end(client_id)

    def refused(self, client_id: bytes, *, temporary: bool) -> Entry[T] | None:
        """The server did not take this message.

        A temporary refusal leaves it queued and closes this half until the next connection: what came later must not overtake it.
        The driver is to disconnect then.

        Returns:
            the entry, if that was its end.
        """
        if temporary:
            self._window = 0
            return None
        return self._end(client_id)

    def drop(self, entry: Entry[T]) -> bool:
        """Gives an entry up.

        Returns:
            whether it is certain that it was not sent.
        """
        if not entry.over:
            self._forget(entry)
        return not entry.client_id

    def unsent(self, now: float) -> list[Entry[T]]:
        """The entries that have become older than `patience`; each is given once, and stays queued."""
        found = []
        while self._untold and (self._untold[0].over or self._untold[0].queued + self._patience <= now):
            entry = self._untold.popleft()
            if not entry.over:
                found.append(entry)
        return found

    def deadline(self) -> float | None:
        """When `unsent` next has something to say; None for never."""
        while self._untold and self._untold[0].over:
            self._untold.popleft()
        return self._untold[0].queued + self._patience if self._untold else None

    def __iter__(self) -> Iterator[Entry[T]]:
        """All entries, in order."""
        return iter([*self._flying.values(), *(entry for entry in self._waiting if not entry.over)])

    def __len__(self) -> int:
        return self._length

    def _end(self, client_id: bytes) -> Entry[T] | None:
        entry = self._known.get(client_id)
        if entry is not None:
            self._forget(entry)
        return entry

    def _forget(self, entry: Entry[T]) -> None:
        entry.over = True
        self._length -= 1
        self._known.pop(entry.client_id, None)
        self._flying.pop(entry.client_id, None)


# ---- the receiver's half


class Row(Protocol):
    """One row of a log, as notifies and history answers bring it."""

    @property
    def conversation(self) -> int: ...
    @property
    def seq(self) -> int: ...
    @property
    def device(self) -> bytes: ...
    @property
    def row_type(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Step:
    """One conversation moves on.

    Attributes:
        seq: everything up to this one has been shown, or is not for showing.
        row: what is to be shown; None if there is nothing to see.
        left_out: rows just before that are passed over for being too many; they can be had by asking for a range.
    """

    conversation: int
    seq: int
    row: Row | None = None
    left_out: int = 0


@dataclass(frozen=True, slots=True)
class Pull:
    """A range that is to be asked for: all rows from `first` to `last`."""

    conversation: int
    first: int
    last: int


class LogWentBack(Exception):
    """A log ends before what was shown of it: the store was restored from a backup, and nothing kept from before means anything."""


class _Place:
    """How far one conversation is.

    `shown` is None while nobody has said where this device stands. `before` is what was shown when the present login began.
    """

    __slots__ = ("before", "head", "held", "pulling", "shown", "stuck")

    def __init__(self, shown: int | None) -> None:
        self.shown = shown
        self.before: int | None = None
        self.head = shown or 0
        self.held: dict[int, Row | None] = {}
        self.pulling: Pull | None = None
        self.stuck = False


class Inbox:
    """What one device has shown, and what it needs to go on.

    Args:
        device: this device's id: its own messages are not shown to it again.
        kept: conversation → last seq shown, from earlier runs.
        catch_up: a conversation that is further behind than so many rows goes on at its newest ones; None for no bound.
        page: rows asked for in one pull.
        hold: rows kept that came early; what comes beyond it is pulled later instead.

    Attributes:
        synced: this login's list of conversations has been read to its end.
        pulling: pulls under way.
        duplicates: rows that came although they had been shown, or were held already.
    """

    def __init__(
        self, device: bytes, kept: Mapping[int, int], *, catch_up: int | None = 1000, page: int = 500, hold: int = 2000
    ) -> None:
        self._device = device
        self._catch_up = catch_up
        self._page = page
        self._hold = hold
        self._places = {conversation: _Place(shown) for conversation, shown in kept.items()}
        self._behind: OrderedDict[int, None] = OrderedDict()  # to be looked at for a gap: put in by news, taken out by `pulls`
        self._held = 0
        self.pulling = 0
        self.synced = False
        self.duplicates = 0

    # ---- the life of a login

    def connected(self) -> None:
        """A login has begun; what the last connection was asked for will not come."""
        self.synced = False
        self.pulling = 0
        for conversation, place in self._places.items():
            place.before = place.shown
            place.pulling = None
            place.stuck = False
            self._rise(conversation, place, 0)

    def listed(self, conversation: int, *, head: int, floor: int, cursor: int) -> list[Step]:
        """The server's view of one conversation, from a sync.

        Args:
            head: the newest seq.
            floor: rows up to this seq are gone.
            cursor: up to where this device has acknowledged delivery; it counts if nothing is known here.

        Raises:
            LogWentBack: the head is below what was shown before this login.
        """
        place = self._place(conversation)
        if place.before is not None and head < place.before:
            raise LogWentBack(f"conversation {conversation} ends at {head}, and {place.before} was shown")
        if place.shown is None:
            self._begin(place, min(cursor, head))
        place.stuck = False
        self._rise(conversation, place, head)
        return self._pass_over(conversation, place, floor) + self._advance(conversation, place)

    def sync_ended(self) -> list[Step]:
        """The list has been read to its end: whatever was not in it is new to this device."""
        self.synced = True
        steps: list[Step] = []
        for conversation, place in self._places.items():
            if place.shown is None:
                self._begin(place, 0)
                self._rise(conversation, place, 0)
                steps += self._pass_over(conversation, place, 0) + self._advance(conversation, place)
        return steps

    # ---- rows

    def received(self, row: Row) -> list[Step]:
        """A row was pushed."""
        return self._take(row.conversation, row.seq, row)

    def accepted(self, conversation: int, seq: int) -> list[Step]:
        """A message of this device was given this seq. It counts as shown, but does not skip lower ones."""
        return self._take(conversation, seq, None)

    def answered(self, conversation: int, *, first: int, last: int, head: int, floor: int, rows: Iterable[Row]) -> list[Step]:
        """The answer to a pull: it covers the seqs from `first` to `last`; what it has no row for there will never come."""
        place = self._places[conversation]
        pull, place.pulling = place.pulling, None
        if pull is None or place.shown is None:
            return []
        self.pulling -= 1
        self._rise(conversation, place, head)
        steps = self._pass_over(conversation, place, floor)
        found = {row.seq: row for row in rows}
        for seq in range(max(first, pull.first, place.shown + 1), min(last, pull.last) + 1):
            if seq not in place.held:
                place.held[seq] = found.get(seq)
                self._held += 1
        steps += self._advance(conversation, place)
        place.stuck = place.shown < pull.first  # an answer without the seq asked for: wait for news, do not ask in circles
        return steps

    def unanswered(self, conversation: int, *, gone: bool) -> None:
        """A pull was refused.

        Args:
            gone: the conversation may not be read any more; what is missing of it is given up.
        """
        place = self._places[conversation]
        if place.pulling is not None:
            place.pulling = None
            self.pulling -= 1
        place.stuck = True
        if gone and place.shown is not None:
            place.head = place.shown
            self._held -= len(place.held)
            place.held.clear()

    def pulls(self, most: int) -> list[Pull]:
        """Up to so many ranges to be asked for now; from here on they count as being under way."""
        wanted: list[Pull] = []
        while self._behind and len(wanted) < most:
            conversation, _ = self._behind.popitem(last=False)
            place = self._places[conversation]
            if place.shown is None or place.shown >= place.head or place.pulling is not None or place.stuck:
                continue  # what is waited for there puts it in again
            first = place.shown + 1
            last = min(min(place.held, default=place.head + 1) - 1, first + self._page - 1)
            place.pulling = Pull(conversation, first, last)
            wanted.append(place.pulling)
            self.pulling += 1
        return wanted

    # ---- looking

    def shown(self, conversation: int) -> int:
        """The last seq shown; 0 if nothing was."""
        place = self._places.get(conversation)
        return 0 if place is None else place.shown or 0

    def head(self, conversation: int) -> int:
        """The newest seq known."""
        place = self._places.get(conversation)
        return 0 if place is None else place.head

    # ---- within

    def _place(self, conversation: int) -> _Place:
        place = self._places.get(conversation)
        if place is None:
            place = self._places[conversation] = _Place(None)
        return place

    def _rise(self, conversation: int, place: _Place, head: int) -> None:
        """The log is at least so long."""
        place.head = max(place.head, head)
        if place.head > (place.shown or 0):
            self._behind[conversation] = None

    def _begin(self, place: _Place, shown: int) -> None:
        """Now it is known where this device stands; what it has already is let go."""
        place.shown = shown
        for seq in [seq for seq in place.held if seq <= shown]:
            del place.held[seq]
            self._held -= 1

    def _take(self, conversation: int, seq: int, row: Row | None) -> list[Step]:
        place = self._place(conversation)
        place.stuck = False
        steps: list[Step] = []
        if place.shown is None and self.synced:
            self._begin(place, 0)
            place.head = max(place.head, seq)
            steps = self._pass_over(conversation, place, 0)
        if seq in place.held or (place.shown is not None and seq <= place.shown):
            self.duplicates += row is not None
            return steps
        self._rise(conversation, place, seq)
        if seq == (place.shown or 0) + 1 or self._held < self._hold:
            place.held[seq] = row
            self._held += 1
        return steps + self._advance(conversation, place)

    def _pass_over(self, conversation: int, place: _Place, floor: int) -> list[Step]:
        """Jumps over what is gone, and over what is too much."""
        assert place.shown is not None
        to, left_out = max(place.shown, floor), 0
        if self._catch_up is not None and place.head - to > self._catch_up:
            left_out = place.head - self._catch_up - to
            to += left_out
        if to == place.shown:
            return []
        self._begin(place, to)
        return [Step(conversation, to, None, left_out)]

    def _advance(self, conversation: int, place: _Place) -> list[Step]:
        """Shows what is next, as far as it is held."""
        steps: list[Step] = []
        if place.shown is not None:
            while (seq := place.shown + 1) in place.held:
                row = place.held.pop(seq)
                self._held -= 1
                place.shown = seq
                visible = row is not None and row.row_type == RowType.MESSAGE and row.device != self._device
                steps.append(Step(conversation, seq, row if visible else None))
            if place.shown >= place.head:
                self._behind.pop(conversation, None)
        return steps
