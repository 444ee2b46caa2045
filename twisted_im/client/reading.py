"""The receiver's half on a live client: sync, pulls, the queue to the application, cursors and receipts — packets 3 to 6.

Strategy: the rules are the `Inbox`'s (`twisted_im.core.delivery`); this file gives them a network and an application. A login attaches
first and reads then, so nothing falls between: what is pushed meanwhile waits in the inbox for what the sync finds.

    notifies ──┐
    pulls   ───┼── Inbox ── steps ── queue ── application ── cursors ── state saved ── receipts
    sync    ───┘

A message counts as shown when the application has taken it (an `on_message` that gives a Deferred or coroutine: when that has ended).
Only then does the cursor move, only when that is saved does the receipt leave, and receipts add up: one for each conversation, however
many messages it stands for. What a lost connection takes with it — a receipt, a notify, packet 6 — is in the numbers that the next sync
brings.

When the queue is full, nothing more is pulled and nothing acknowledged (see `twisted_im.client.session`), until the application has
caught up.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.logger import Logger
from twisted.python.failure import Failure

from twisted_im.client.session import Ask, Session
from twisted_im.client.state import Kept, State
from twisted_im.client.values import LeftOut, Message, Receipt
from twisted_im.core.delivery import Inbox, LogWentBack, Pull, Step
from twisted_im.errors import Disconnect, ImError, RemoteProtocolError, Status
from twisted_im.wire.schema import Command, ConversationKind, Direction, ReceiptType, SyncScope

log = Logger()

#: Pulls under way at once: enough to hide the way there and back, and few enough to leave room for sends.
PULLS = 4

#: Seconds until a state that could not be saved is tried again.
SAVE_AGAIN = 1.0


class Listener:
    """What the reader tells; the client fills it in. `show` may give a Deferred: the message counts as shown when it fires. `caught_up` is
    told once in each login, when everything from before it has been met, and gets the conversations of which that is not certain."""

    show: Callable[[Message], Deferred[Any] | None] | None = None
    receipt: Callable[[Receipt], object]
    reset: Callable[[str], object]
    left_out: Callable[[LeftOut], object]
    mine: Callable[[Any], object]
    caught_up: Callable[[set[int]], object]


class Reader:
    """Shows what is to be shown, once and in order, and says so.

    Args:
        kept: the device's memory; changed in place.
        state: saves it.
        listener: who is told.
        book: has `step` called soon.
        uid: this user, whose reads on other devices come as receipts too.
        catch_up: see `Inbox`.
        bound: messages that wait for the application; beyond it nothing more is asked for.
    """

    def __init__(
        self,
        kept: Kept,
        state: State,
        listener: Listener,
        *,
        book: Callable[[], object],
        clock: Callable[[], float],
        uid: str,
        catch_up: int | None,
        bound: int,
    ) -> None:
        self._kept = kept
        self._state = state
        self._tell = listener
        self._book = book
        self._clock = clock
        self._uid = uid
        self._catch_up = catch_up
        self._bound = bound
        self._session: Session | None = None
        self._queue: deque[tuple[int, Step]] = deque()  # with the era in which it came
        self._takers: deque[Deferred[Message]] = deque()
        self._closed: Failure | None = None
        self._caught_up = False
        self._showing = False
        self._syncing = False
        self._sync_wanted = False
        self._dirty = False
        self._saved_at = -1e9
        self._save_failed = False
        self._era = 0
        self._begin()

    def _begin(self) -> None:
        """From what is kept; everything else about the log is unknown."""
        self.inbox = Inbox(self._kept.device, self._kept.cursors, catch_up=self._catch_up, page=200)
        self._position = self._kept.position
        self._heads: dict[int, int] = {}  # what the sync under way has listed so far: conversation → newest seq
        self._adopt: tuple[int, dict[int, int]] | None = None
        self._skipped: set[int] = set()  # conversations of which some rows were not seen, in this login or since what waits first left
        self._fresh: dict[int, int] = {}  # shown, and not yet saved: conversation → seq of its last visible row
        self._recalled = dict(self._kept.cursors)  # of the run before, which may have ended before it could confirm them
        self._due: dict[tuple[int, int], int] = {}  # receipts to be sent: (conversation, type) → seq
        self._told: dict[tuple[int, int], int] = {}  # receipts under way
        self._read: dict[int, int] = {}  # the furthest that the application has read, perhaps before it counts as shown
        self._read_waits: dict[int, None] = {}  # conversations in which that is not yet due
        self._marks: dict[tuple[int, str, int], int] = {}  # (conversation, user, type) → seq: receipts never go back

    # ---- the life of a login

    def connected(self, session: Session, epoch: bytes, *, unsure: bool) -> None:
        """A login was granted: read after the cursors.

        Args:
            unsure: messages of this device wait that may be in the log already, perhaps where an earlier login has passed over it.
        """
        self._session = session
        self._closed = None
        self._caught_up = False
        if not unsure:
            self._skipped.clear()
        if self._kept.epoch and self._kept.epoch != epoch:
            self._start_afresh("the server's store is another one now")
        if self._kept.epoch != epoch:
            self._kept.epoch = epoch
            self._dirty = True
        self.inbox.connected()
        self._syncing, self._sync_wanted = False, True
        self._book()

    def keep_token(self, token: bytes) -> None:
        """Has the resume token saved with the rest; an empty one forgets the last."""
        if token != self._kept.resume:
            self._kept.resume = token
            self._dirty = True
            self._book()

    def disconnected(self) -> None:
        """It is gone, and with it whatever was under way."""
        self._session = None
        for key, seq in self._told.items():
            self._due[key] = max(seq, self._due.get(key, 0))
        self._told.clear()

    def _start_afresh(self, why: str) -> None:
        """Nothing kept means anything any more. What waits for the application is shown still; it was sent, after all."""
        self._era += 1
        self._kept.cursors.clear()
        self._kept.position = 0
        self._dirty = True
        self._begin()
        self._tell.reset(why)

    # ---- what comes

    def message(self, row: Any) -> None:
        """Packet 3."""
        if row.device == self._kept.device:
            self._tell.mine(row)
        self._queued(self.inbox.received(row))

    def accepted(self, conversation: int, seq: int) -> None:
        """A message of this device has its place."""
        self._queued(self.inbox.accepted(conversation, seq))

    def receipted(self, values: Any) -> None:
        """Packet 6."""
        try:
            kind = ReceiptType(values.type)
        except ValueError:
            return  # of a later version
        self._mark(values.conversation, values.user.decode("utf-8", "replace"), kind, values.seq)

    def behind(self) -> None:
        """The server has left notifies out."""
        self._sync_wanted = True

    def _mark(self, conversation: int, user: str, kind: ReceiptType, seq: int) -> None:
        """A receipt, by a notify or in a sync's numbers: told if it is news."""
        key = conversation, user, int(kind)
        if seq > self._marks.get(key, 0):
            self._marks[key] = seq
            self._tell.receipt(Receipt(conversation, seq, kind, user))

    def _queued(self, steps: list[Step]) -> None:
        self._skipped.update(step.conversation for step in steps if step.left_out)
        self._queue.extend((self._era, step) for step in steps)

    # ---- sync

    def _sync(self, after: int = 0, position: int = 0) -> None:
        """Asks for one page; the first page's position counts for all."""
        assert self._session is not None
        self._syncing = True
        if not after:
            self._heads = {}
            self._sync_wanted = False  # a later page says nothing of the conversations before it: what came meanwhile needs a new sync
        values = {"since": self._position, "after": after, "limit": 0, "scope": SyncScope.CHANGED}
        self._session.ask(Command.SYNC, values, partial(self._synced, self._session, position))

    def _synced(self, session: Session, position: int, page: Any) -> None:
        if session is not self._session:
            return
        if isinstance(page, ImError):
            session.give_up(page)
            return
        try:
            for row in page.conversations:
                self._heads[row.conversation] = row.head
                cursor = self._kept.cursors.setdefault(row.conversation, min(row.cursor, row.head))
                recalled = self._recalled.pop(row.conversation, 0)
                key = row.conversation, ReceiptType.DELIVERED
                if row.cursor < recalled <= row.head and recalled > max(self._due.get(key, 0), self._told.get(key, 0)):
                    self._due[key] = recalled
                if row.floor > max(cursor, self.inbox.shown(row.conversation)):
                    self._skipped.add(row.conversation)
                self._queued(self.inbox.listed(row.conversation, head=row.head, floor=row.floor, cursor=row.cursor))
                self._marks_of(row)
            if page.position < self._position:
                raise LogWentBack(f"its position is {page.position}, and was {self._position}")
        except LogWentBack as error:
            log.warn("the server's log went back: {error}", error=str(error))
            self._start_afresh("the server's store was restored to an earlier time")
            self.inbox.connected()
            self._sync()
            return
        position = position or page.position
        if page.more and page.conversations:
            self._sync(page.conversations[-1].conversation, position)
            return
        self._syncing = False
        self._position = position
        waiting = self._adopt[1] if self._adopt is not None else {}  # listed by earlier syncs, which later ones do not repeat
        self._adopt = position, {**waiting, **self._heads}
        self._queued(self.inbox.sync_ended())
        self._dirty = True
        self._book()

    def _marks_of(self, row: Any) -> None:
        """Receipts are state: here are those whose notify was lost."""
        self._mark(row.conversation, self._uid, ReceiptType.READ, row.read)
        if row.kind == ConversationKind.DIRECT:
            peer = row.peer.decode("utf-8", "replace")
            if peer != self._uid:
                self._mark(row.conversation, peer, ReceiptType.DELIVERED, row.peer_delivered)
                self._mark(row.conversation, peer, ReceiptType.READ, row.peer_read)

    # ---- pulls

    def next_pull(self) -> Ask | None:
        """The next range to ask for."""
        if self._session is None or self.full or self.inbox.pulling >= PULLS:
            return None
        for pull in self.inbox.pulls(1):
            values = {
                "conversation": pull.conversation, "first": pull.first, "last": pull.last, "limit": 0, "direction": Direction.FORWARD,
            }  # fmt: skip
            return Command.HISTORY, values, partial(self._pulled, self._session, self._era, pull)
        if self.inbox.synced and not self.inbox.pulling and not self._syncing and not self._caught_up:
            self._caught_up = True
            self._tell.caught_up(self._skipped)
        return None

    def _pulled(self, session: Session, era: int, pull: Pull, values: Any) -> None:
        if session is not self._session or era != self._era:
            return
        if isinstance(values, ImError):
            if values.temporary:
                session.give_up(values)
            else:
                log.warn("conversation {conversation} cannot be read: {reason}", conversation=pull.conversation, reason=str(values))
                self._skipped.add(pull.conversation)
                gone = values.code is Status.NO_SUCH
                if gone:
                    self._forget(pull.conversation)
                self.inbox.unanswered(pull.conversation, gone=gone)
            return
        for row in values.messages:
            if row.conversation != pull.conversation:
                raise RemoteProtocolError(Disconnect.MALFORMED, "rows of another conversation in a history answer")
            if row.device == self._kept.device:
                self._tell.mine(row)
        self._queued(
            self.inbox.answered(
                pull.conversation, first=values.first, last=values.last, head=values.head, floor=values.floor, rows=values.messages
            )
        )
        if values.floor >= pull.first or self.inbox.shown(pull.conversation) < pull.first:
            self._skipped.add(pull.conversation)

    def _forget(self, conversation: int) -> None:
        """It may not be read any more: no position waits until it has been shown. Whoever comes back into it is told of it anew."""
        self._heads.pop(conversation, None)
        if self._adopt is not None and self._adopt[1].pop(conversation, None) is not None:
            self._dirty = True  # the position may be kept now
            self._book()

    # ---- to the application

    @property
    def full(self) -> bool:
        """So much waits for the application that nothing more is asked for."""
        return len(self._queue) >= self._bound

    @property
    def shows(self) -> bool:
        """Messages go to a callback, and nobody can take them."""
        return self._tell.show is not None

    def take(self) -> Deferred[Message]:
        """The next message, which counts as shown with this; a failure if none can come."""
        if self._closed is not None and self._over:
            return fail(self._closed)
        taker: Deferred[Message] = Deferred(self._takers.remove)
        self._takers.append(taker)
        self._book()
        return taker

    def open(self) -> None:
        """Messages can be waited for, again."""
        self._closed = None

    def close(self, error: Failure) -> None:
        """Nothing more will come, to those who wait for a message now and to those who ask later. What has come already can still be taken,
        but not after a stop (`CancelledError`): the cursors have been saved and nothing is confirmed any more, so it comes again."""
        self._closed = error
        if self._over:
            self._end_takers()
        else:
            self._book()

    @property
    def _over(self) -> bool:
        """There is nothing left to be taken."""
        return self._closed is not None and (not self._queue or self._closed.check(CancelledError) is not None)

    def _end_takers(self) -> None:
        if self._closed is not None and self._over:
            error, takers, self._takers = self._closed, self._takers, deque()
            for taker in takers:
                taker.errback(error)

    def _show(self) -> None:
        """Gives the application what it takes."""
        while self._queue and not self._showing:
            era, step = self._queue[0]
            if step.row is not None and self._tell.show is None and not self._takers:
                return
            self._queue.popleft()
            if step.left_out:
                self._tell.left_out(LeftOut(step.conversation, step.seq - step.left_out + 1, step.seq))
            if step.row is None:
                self._taken(era, step)
                continue
            message = Message.of(step.row)
            if self._tell.show is None:
                self._taken(era, step)
                self._takers.popleft().callback(message)
                continue
            self._showing = True
            result = self._tell.show(message)
            if result is None:
                self._showing = False
                self._taken(era, step)
            else:
                result.addBoth(partial(self._shown, era, step))

    def _shown(self, era: int, step: Step, _: object) -> None:
        """The application has ended with a message; how it ended is told elsewhere."""
        self._showing = False
        self._taken(era, step)
        self._book()

    def _taken(self, era: int, step: Step) -> None:
        if era == self._era and step.seq > self._kept.cursors.get(step.conversation, -1):
            self._kept.cursors[step.conversation] = step.seq
            self._dirty = True
            if step.row is not None:
                self._fresh[step.conversation] = step.seq

    # ---- cursors and receipts

    def mark_read(self, conversation: int, seq: int) -> None:
        """The person has seen everything up to there; told to the server as soon as it also counts as shown."""
        if seq > self._read.get(conversation, 0):
            self._read[conversation] = seq
            self._read_waits[conversation] = None
            self._book()

    def _save(self) -> None:
        """Keeps the cursors; receipts wait for this."""
        now = self._clock()
        if not self._dirty or now < self._save_at(now):
            return
        self._saved_at = now
        try:
            self._adopt_position()
            self._state.save(self._kept)
        except OSError as error:
            self._save_failed = True
            log.error("the state cannot be saved, and is tried again: {error}", error=str(error))
            return
        self._dirty = self._save_failed = False
        for conversation, seq in self._fresh.items():
            self._due[conversation, ReceiptType.DELIVERED] = seq
        self._fresh.clear()

    def _save_at(self, now: float) -> float:
        """From when on the state may be saved again."""
        return self._saved_at + (SAVE_AGAIN if self._save_failed else self._state.interval)

    def _adopt_position(self) -> None:
        """A sync's position may be kept when all that was listed up to it, by this sync and those since the position that is kept, has been
        shown and confirmed: the next run will not hear of it again."""
        if self._adopt is None or self._fresh or self._due or self._told:
            return
        position, heads = self._adopt
        cursors = self._kept.cursors
        if all(cursors.get(conversation, 0) >= head for conversation, head in heads.items()):
            self._kept.position, self._adopt = position, None

    def next_receipt(self) -> Ask | None:
        """Packet 4 of one conversation."""
        if self._session is None:
            return None
        for conversation in list(self._read_waits):
            seq = self._read[conversation]
            if seq <= self._kept.cursors.get(conversation, 0) and not self._dirty:
                del self._read_waits[conversation]
                self._due[conversation, ReceiptType.READ] = seq
        for (conversation, kind), seq in self._due.items():
            if (conversation, kind) in self._told:
                continue
            del self._due[conversation, kind]
            read = self._due.get((conversation, ReceiptType.READ), 0)
            if kind == ReceiptType.DELIVERED and read >= seq:
                return self.next_receipt()  # the other one says both
            self._told[conversation, kind] = seq
            values = {"conversation": conversation, "seq": seq, "type": kind}
            return Command.RECEIPT, values, partial(self._received, self._session, (conversation, kind), seq)
        return None

    def _received(self, session: Session, key: tuple[int, int], seq: int, values: Any) -> None:
        """Packet 5."""
        if session is not self._session:
            return
        if isinstance(values, ImError) and values.temporary:
            session.give_up(values)
            return
        self._told.pop(key, None)
        if isinstance(values, ImError):
            log.warn("a receipt for conversation {conversation} was refused: {reason}", conversation=key[0], reason=str(values))
        if self._adopt is not None and not (self._fresh or self._due or self._told):
            self._dirty = True  # the position may be kept now

    # ---- the end of a turn

    def step(self) -> None:
        """Shows, saves, and asks for what is missing."""
        self._show()
        self._end_takers()
        self._save()
        if self._session is not None and self._session.open and self._sync_wanted and not self._syncing and not self.full:
            self._session.acknowledge_all()
            self._sync()

    def finish(self) -> None:
        """Saves what is left to save, now."""
        self._saved_at = -1e9
        self._save()

    def deadline(self) -> float | None:
        """When `step` next has something to do; None for never."""
        return self._save_at(self._clock()) if self._dirty else None
