"""Messages and receipts: the six packets, as a node sees them.

    sender                     node                        receiver's devices, and the sender's others
      | 1 message request       |                            |
      |------------------------>|  ledger → store            |
      | 2 message response      |                            |
      |<------------------------|  3 message notify          |
      |                         |--------------------------->|
      |                         |  4 receipt request         |
      |                         |<---------------------------|
      |                         |  ledger → store            |
      |  6 receipt notify       |  5 receipt response        |
      |<------------------------|--------------------------->|

Strategy: this is the hot path. A handler checks, puts one tuple into the ledger, and returns; when the commit is done, one
loop answers and fans out for the whole batch. Responses and notifies are packed by one `struct` call each, with the content sliced
from the request and never decoded. What is rare — an unknown user, members that have changed — leaves the loop.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from twisted.internet.defer import Deferred, fail, succeed
from twisted.python.failure import Failure

from twisted_im.core.connection import State
from twisted_im.errors import Disconnect, ImError, RemoteProtocolError, Status
from twisted_im.server.interfaces import AHEAD, Append, Cursor, Envelope, Members, Moved, Row, Stored
from twisted_im.server.ledger import Origin
from twisted_im.server.names import checked_name, uid_of
from twisted_im.server.node import Node
from twisted_im.server.sessions import Session
from twisted_im.wire.codec import CODECS, flat, notify, refusal, tag
from twisted_im.wire.framing import Frame
from twisted_im.wire.schema import CONTENT_ROOM, MAX_UID, Command, ContentType, ConversationKind, Kind, ReceiptType

_MESSAGE = CODECS[Kind.REQUEST, Command.MESSAGE].fixed
_MESSAGE_SIZE = _MESSAGE.size
_RECEIPT = CODECS[Kind.REQUEST, Command.RECEIPT].fixed
_CONTENT_TYPES = frozenset(map(int, ContentType))
_pack_accepted, _ACCEPTED_SIZE = flat(Kind.RESPONSE, Command.MESSAGE)
_pack_notify, _NOTIFY_SIZE = flat(Kind.NOTIFY, Command.MESSAGE)
_pack_received, _ = flat(Kind.RESPONSE, Command.RECEIPT)
_pack_receipt, _RECEIPT_SIZE = flat(Kind.NOTIFY, Command.RECEIPT)
_READ = int(ReceiptType.READ)
_RECEIPT_TYPES = frozenset(map(int, ReceiptType))
_ACCEPTED = tag(Kind.RESPONSE, Command.MESSAGE)
_NOTIFY = tag(Kind.NOTIFY, Command.MESSAGE)
_RECEIVED = tag(Kind.RESPONSE, Command.RECEIPT)
_RECEIPT_NOTIFY = tag(Kind.NOTIFY, Command.RECEIPT)


class Audience:
    """A conversation's members, prepared for fan-out.

    Attributes:
        users: who gets a message.
        fixed: they never change.
        first: the first member of a direct conversation.
        told_by_first, told_by_second: who gets the delivered receipt of one of the two: the other.
    """

    __slots__ = ("first", "fixed", "told_by_first", "told_by_second", "users", "version")

    def __init__(self, version: int, kind: int, users: tuple[bytes, ...]) -> None:
        self.version = version
        self.users = users
        self.first = users[0] if users else b""
        self.told_by_first: tuple[bytes, ...] = ()
        self.told_by_second: tuple[bytes, ...] = ()
        self.fixed = kind == ConversationKind.DIRECT
        if self.fixed:
            self.told_by_first, self.told_by_second = users[-1:], users[:1]

    def told(self, user: bytes, kind: int) -> tuple[bytes, ...]:
        """Who gets a receipt of this user: of a read the user's own devices as well."""
        others = self.told_by_first if user == self.first else self.told_by_second
        return (*others, user) if kind == _READ and user not in others else others


class Messages:
    """Packets 1 to 6, on behalf of one node."""

    #: Conversations whose members are kept at hand; beyond this the cache starts afresh.
    CACHED = 200_000

    def __init__(self, node: Node) -> None:
        self._node = node
        self._ledger = node.ledger
        self._known = node.known
        self._counters = node.counters
        self._audiences: dict[int, Audience] = {}
        self._max_content = node.limits.max_body - CONTENT_ROOM
        self._lowest_id = self._highest_id = b""
        self._ids_until = 0.0
        node.turn.openings.append(self._renew_bounds)
        node.ledger.on_messages = self.committed
        node.ledger.on_cursors = self.cursors_committed
        self._doubts = node.doubts
        self._own: set[tuple[int, int]] = set()  # places of what was accepted here while a peer is doubted: it has been pushed
        node.doubts.push = self.push
        node.register(Kind.REQUEST, Command.MESSAGE, self.message)
        node.register(Kind.REQUEST, Command.RECEIPT, self.receipt)

    # ---- packet 1

    def message(self, session: Session, frame: Frame) -> Deferred[None] | None:
        body = frame[3]
        try:
            client_id, conversation, content_type, life, target_size = _MESSAGE.unpack_from(body)
        except struct.error:
            raise RemoteProtocolError(Status.BAD_BODY, "a message that ends before its content") from None
        start = _MESSAGE_SIZE + target_size
        if start > len(body):
            raise RemoteProtocolError(Status.BAD_BODY, "a message whose target runs over the end")
        if session.unanswered >= session.requests:
            raise RemoteProtocolError(Disconnect.WINDOW_EXCEEDED)
        if conversation:
            if target_size:
                raise RemoteProtocolError(Status.BAD_VALUE, "a message to a conversation and a user at once")
            peer = b""
        else:
            named = session.prefix + body[_MESSAGE_SIZE:start]
            known = self._known.get(named)
            if known is None:
                return self._first(session, frame, named)
            peer = known
        if content_type not in _CONTENT_TYPES:
            raise RemoteProtocolError(Status.UNSUPPORTED, f"content type {content_type} is not known")
        if len(body) - start > self._max_content:
            raise RemoteProtocolError(Status.TOO_LARGE, f"a content of {len(body) - start} bytes, where {self._max_content} are the most")
        if not self._lowest_id < client_id < self._highest_id:
            raise RemoteProtocolError(Status.STALE_ID)
        session.unanswered += 1
        ledger = self._ledger
        waiting = ledger.messages
        waiting.append((session.user, session.device, client_id, conversation, peer, content_type, life, body[start:]))
        ledger.message_origins.append((session, frame[1]))
        if len(waiting) >= ledger.batch:
            ledger.crowded(session.pump)
        return None

    def _first(self, session: Session, frame: Frame, peer: bytes) -> Deferred[None]:
        """Somebody whom this node has not met: ask whether there is such a user, and take the message then. The connection waits, so that
        order holds."""
        checked_name(peer[len(session.prefix) :], "uid", most=MAX_UID)

        def found(exists: bool) -> Deferred[None] | None:
            if not exists:
                raise ImError(Status.NO_SUCH, "no such user")
            if session.connection.state is not State.OPEN:
                return None  # what came before it may have been refused, and then this must not be kept either
            return self.message(session, frame)

        def failed(failure: Failure) -> Deferred[None]:
            error = failure.value
            if not isinstance(error, ImError) or not error.temporary or isinstance(error.code, Disconnect):
                return fail(failure)
            # as after a commit that failed: what comes behind this one must not be kept before it
            session.pump.write(refusal(Command.MESSAGE, frame[1], error))
            session.pump.disconnect(ImError(Disconnect.STORE_FAILED, retry_after=error.retry_after))
            return succeed(None)

        asked: Deferred[bool] = self._node.exists(peer)
        done: Deferred[None] = asked.addCallback(found)
        return done.addErrback(failed)

    def _renew_bounds(self) -> None:
        """Client ids carry their time, and repeats are known only for so long. The bounds are made anew each second at most."""
        now = self._node.turn.wall()
        if not self._ids_until - 2 < now < self._ids_until:
            self._ids_until = now + 1
            self._lowest_id = max(int((now - self._node.store.horizon) * 1000), 0).to_bytes(6, "big") + bytes(10)
            self._highest_id = int((now + AHEAD) * 1000).to_bytes(6, "big") + bytes(10)

    # ---- packets 2 and 3

    def committed(self, origins: Sequence[Origin], entries: Sequence[Append], results: Sequence[Stored | ImError]) -> Deferred[None] | None:
        """Answers every sender, and gets the messages to their audiences. Those whose members are not at hand follow when they are."""
        audiences = self._audiences
        envelopes: list[Envelope] = []
        late: list[tuple[int, bytes, Session]] = []
        duplicates = refused = 0
        for (session, request_id), entry, result in zip(origins, entries, results, strict=True):
            session.unanswered -= 1
            pump = session.pump
            if type(result) is not tuple:
                refused += 1
                pump.write(refusal(Command.MESSAGE, request_id, result))  # type: ignore[arg-type]  # an ImError, then
                continue
            conversation, seq, moment, version, repeated = result
            out = pump.out  # what follows is Pump.write, without the call
            if not out:
                pump.turn.dirty.append(pump)
            out.append(_pack_accepted(_ACCEPTED_SIZE, _ACCEPTED, request_id, conversation, seq, moment))
            if repeated:
                duplicates += 1
                continue
            _, device, client_id, _, _, content_type, life, content = entry
            uid = session.uid
            size = len(uid)
            length = _NOTIFY_SIZE + size + len(content)
            frame = (
                _pack_notify(length, _NOTIFY, 0, conversation, seq, moment, device, client_id, 0, content_type, life, size)
                + uid
                + content
            )
            audience = audiences.get(conversation)
            if audience is not None and audience.version == version:
                envelopes.append((frame, audience.users, session))
            else:
                late.append((conversation, frame, session))
        counters = self._counters
        counters.accepted += len(envelopes) + len(late)
        counters.duplicates += duplicates
        counters.errors += refused
        if self._doubts.open:
            self._own.update(result[:2] for result in results if type(result) is tuple and not result[4])
        elif self._own:
            self._own.clear()
        if not self._node.turn.ending:
            self._node.turn.book()
        counters.delivered += self._node.router.route(envelopes)
        if not late:
            return None
        return self._learn({conversation for conversation, _, _ in late}).addCallback(lambda _: self._follow(late))

    def _follow(self, late: list[tuple[int, bytes, Session]]) -> None:
        envelopes = [(frame, self._audiences[conversation].users, session) for conversation, frame, session in late]
        self._counters.delivered += self._node.router.route(envelopes)

    def _learn(self, conversations: set[int]) -> Deferred[None]:
        """Reads the members of these conversations."""
        if len(self._audiences) > self.CACHED:
            self._audiences.clear()

        def learnt(found: dict[int, Members]) -> None:
            for conversation, members in found.items():
                users = tuple(map(self._node.one_key, members.users))
                self._audiences[conversation] = Audience(members.version, members.kind, users)

        asked: Deferred[dict[int, Members]] = self._node.store.members(sorted(conversations))
        return asked.addCallback(learnt)

    def push(self, rows: Sequence[Row]) -> Deferred[None]:
        """Packet 3 for rows of the log that another node has accepted, and that may not have come from it. Groups' members are read anew:
        this node may not have been told that they have changed."""
        places = [(row.conversation, row.seq) for row in rows]
        rows = [row for row, place in zip(rows, places, strict=True) if place not in self._own]
        self._own.difference_update(places)
        if len(self._own) > self.CACHED:
            self._own.clear()
        conversations = dict.fromkeys(row.conversation for row in rows)
        audiences = {number: known for number in conversations if (known := self._audiences.get(number)) is not None and known.fixed}

        def learnt(_: object) -> None:
            audiences.update((number, self._audiences[number]) for number in conversations if number in self._audiences)
            here = self._node.sessions.by_user
            reached = {number for number, audience in audiences.items() if any(user in here for user in audience.users)}
            self._counters.delivered += self._node.deliver_local(
                [(_pushed(row), audiences[row.conversation].users, None) for row in rows if row.conversation in reached]
            )

        unknown = set(conversations) - set(audiences)
        return (self._learn(unknown) if unknown else succeed(None)).addCallback(learnt)

    # ---- packet 4

    def receipt(self, session: Session, frame: Frame) -> None:
        try:
            conversation, seq, kind = _RECEIPT.unpack(frame[3])
        except struct.error:
            raise RemoteProtocolError(Status.BAD_BODY, "a receipt of another size") from None
        if kind not in _RECEIPT_TYPES:
            raise RemoteProtocolError(Status.BAD_VALUE, f"receipt type {kind} is not known")
        if session.unanswered >= session.requests:
            raise RemoteProtocolError(Disconnect.WINDOW_EXCEEDED)
        session.unanswered += 1
        ledger = self._ledger
        ledger.cursors.append((session.user, session.device, session.number, conversation, seq, kind))
        ledger.cursor_origins.append((session, frame[1]))

    # ---- packets 5 and 6

    def cursors_committed(
        self, origins: Sequence[Origin], entries: Sequence[Cursor], results: Sequence[Moved | ImError]
    ) -> Deferred[None] | None:
        """Answers every receiver, and tells the senders whose messages have moved on."""
        audiences = self._audiences
        envelopes: list[Envelope] = []
        late: list[tuple[int, int, int, Session]] = []
        refused = 0
        for (session, request_id), (user, _, _, conversation, _, kind), result in zip(origins, entries, results, strict=True):
            session.unanswered -= 1
            pump = session.pump
            if type(result) is not tuple:
                refused += 1
                pump.write(refusal(Command.RECEIPT, request_id, result))  # type: ignore[arg-type]  # an ImError, then
                continue
            out = pump.out  # what follows is Pump.write, without the call
            if not out:
                pump.turn.dirty.append(pump)
            out.append(_pack_received(0, _RECEIVED, request_id))
            moved, seq, version = result
            if not moved:
                continue
            audience = audiences.get(conversation)
            if audience is None or audience.version != version:
                late.append((conversation, seq, kind, session))
                continue
            if kind == _READ:
                told = audience.told(user, kind)
            else:
                told = audience.told_by_first if user == audience.first else audience.told_by_second
            if told:
                uid = session.uid
                size = _RECEIPT_SIZE + len(uid)
                envelopes.append((_pack_receipt(size, _RECEIPT_NOTIFY, 0, conversation, seq, kind) + uid, told, session))
        counters = self._counters
        counters.receipts += len(envelopes)
        counters.errors += refused
        if not self._node.turn.ending:
            self._node.turn.book()
        self._node.router.route(envelopes)
        if not late:
            return None
        return self._learn({conversation for conversation, _, _, _ in late}).addCallback(lambda _: self._follow_receipts(late))

    def _follow_receipts(self, late: list[tuple[int, int, int, Session]]) -> None:
        self._counters.receipts += len(late)
        self._node.router.route(
            [
                (
                    notify(Command.RECEIPT, conversation=conversation, seq=seq, type=kind, user=session.uid),
                    self._audiences[conversation].told(session.user, kind),
                    session,
                )
                for conversation, seq, kind, session in late
            ]
        )


def _pushed(row: Row) -> bytes:
    """The notify of a row, as `Messages.committed` packs it without the call."""
    uid = uid_of(row.sender)
    size = len(uid)
    fields = (
        0, row.conversation, row.seq, row.time, row.device, row.client_id, row.row_type, row.content_type, row.life, size,
    )  # fmt: skip
    return _pack_notify(_NOTIFY_SIZE + size + len(row.content), _NOTIFY, *fields) + uid + row.content
