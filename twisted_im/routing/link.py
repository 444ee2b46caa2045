"""Links: one connection to one other node or route server of a cluster, and what passes on it.

Strategy: a link is the machine that a client's connection is (`twisted_im.core.connection`, in another role), driven by the same pump, so
framing, windows, deadlines and the cork are shared. What comes in goes to a `LinkOwner`, which is a router or a route server; nothing here
knows where anything should go. Who opens links, and which of two is the right one, stands in `twisted_im.routing.linking`; how two sides
know each other, in `twisted_im.routing.handshake`.

A link carries hints, and says when they may be missing. It never drops anything silently: whoever finds its window or budget full cuts the
link, and the other side, which then does not hear this one, reads the store. So all that a link owes is `link_down`, at once, and
`heard`: a time at which the other side was certainly there.

    connects                                     accepts
    HELLO request     ------------------------>
                      <------------------------  HELLO response
    LINK request      ------------------------>                   who I am, and a nonce
                      <------------------------  LINK response    so am I, and this proves that I know the secret
    PROOF request     ------------------------>                   so do I
                      <------------------------  PROOF response   up
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

from OpenSSL import SSL
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ConnectError, ConnectionDone, ConnectionLost
from twisted.python.failure import Failure

from twisted_im.core.connection import Event, Limits, LinkConnection
from twisted_im.errors import Disconnect, ImError, RemoteProtocolError
from twisted_im.pump import Handler, Pump, Turn
from twisted_im.routing.handshake import Handshake, Peer
from twisted_im.server.interfaces import Envelope
from twisted_im.wire.codec import CODECS, HEADER, frame, notify, request, response, tag
from twisted_im.wire.framing import Frame
from twisted_im.wire.schema import (
    DEFAULT_MAX_BODY,
    HEADER_SIZE,
    VERSION,
    Command,
    Kind,
    Role,
)

REQUEST, RESPONSE, NOTIFY = Kind.REQUEST, Kind.RESPONSE, Kind.NOTIFY

#: Seconds between two pings. A link is dead after three of them in silence (`twisted_im.core.connection`).
LINK_BEAT = 1
#: Notifies unacknowledged: each is all that one turn has for the other side, so this is some seconds' worth.
LINK_WINDOW = 1024
#: Bytes that wait for a reader: a frozen process costs its peers so much each, and a healthy one may be given so much in one turn, as when
#: a store that was slow has kept thousands of messages in one commit.
LINK_BUDGET = 2**24
#: Seconds for the other side to acknowledge what it was told. No login waits for longer.
ANSWER = 1.0

#: Bytes of a FORWARD, unless a client's largest frame needs more.
_FORWARD_BODY = 256 * 1024
#: What a frame with some of its audience needs beyond its own bytes.
_AUDIENCE_ROOM = 64 * 1024
_HELLO = CODECS[REQUEST, Command.HELLO]
_WELCOME = CODECS[RESPONSE, Command.HELLO]
_WINDOW = CODECS[NOTIFY, Command.WINDOW]
_FAREWELL = CODECS[NOTIFY, Command.DISCONNECT]
_ATTACH = CODECS[REQUEST, Command.ATTACH]
_DETACH = CODECS[NOTIFY, Command.DETACH]
_FORWARD = CODECS[NOTIFY, Command.FORWARD]
_NODES = CODECS[REQUEST, Command.NODES]


class Attachment(NamedTuple):
    """A session, as other nodes know it."""

    user: bytes
    device: bytes
    session: int


class Reached(NamedTuple):
    """A node that a route server reaches."""

    name: str
    boot: bytes
    heard: bool  #: what it sends comes here by that route server: it has acknowledged that it can


class LinkOwner(Protocol):
    """Who is told what happens on links: a router, or a route server. All of it comes one after another, never from within a call to a
    link, but for `link_down`, which may."""

    def link_up(self, link: Link) -> None:
        """There is a link, and it takes things at once."""

    def link_down(self, link: Link) -> None:
        """There is no more: what was given to it since `link.heard` may be lost, in both directions."""

    def attached(self, link: Link, rows: Sequence[Attachment], whole: bool) -> None:
        """Sessions of the other side. When this returns, the other side is told that what is for them is sent there from now on. With
        `whole`, they take the place of all that was said before; the rest of a long list comes without."""

    def detached(self, link: Link, rows: Sequence[Attachment]) -> None:
        """They have gone. Only these: the device may have a newer session, which stays."""

    def forwarded(self, link: Link, envelopes: Sequence[Envelope]) -> None:
        """Frames that the other side sends here; their origin is None."""

    def nodes(self, link: Link, rows: Sequence[Reached]) -> None:
        """All whom a route server reaches, but for this node. When this returns, it is told so."""


def link_limits(max_body: int = DEFAULT_MAX_BODY) -> Limits:
    """What a link asks for.

    Args:
        max_body: the largest body that a client may send. All nodes of a cluster must have the same.
    """
    largest = max(_FORWARD_BODY, max_body + HEADER_SIZE + _AUDIENCE_ROOM)
    return Limits(
        handshake=3.0,
        login=5.0,
        unacknowledged=2.0,  # with `ping`, what a reader has that takes nothing at all: as long as silence
        ping=1.0,
        close=1.0,
        heartbeat=LINK_BEAT,
        min_heartbeat=LINK_BEAT,
        max_heartbeat=LINK_BEAT,
        window=LINK_WINDOW,
        max_body=largest,
        write_budget=max(LINK_BUDGET, 4 * largest),
    )


class Keeper(Protocol):
    """What a link asks of whoever has all links of a process: see `twisted_im.routing.linking.Links`."""

    me: Peer
    owner: LinkOwner
    turn: Turn
    secret: bytes
    limits: Limits
    random: Callable[[int], bytes]

    def has_come(self, link: Link) -> None:
        """A connection has come in."""

    def has_gone(self, link: Link) -> None:
        """A connection is no more."""

    def judge(self, link: Link, peer: Peer) -> None:
        """Raises an `ImError` if somebody may not link, as far as the other links go."""

    def is_up(self, link: Link) -> None:
        """It may be used."""

    def is_down(self, link: Link, why: str, *, was_up: bool, quiet: bool) -> None:
        """It is over; or it has come to nothing."""

    def to_pack(self, link: Link) -> None:
        """It has something to send at the end of this turn."""


class _LinkPump(Pump):
    """A pump whose owner is told of the end before the last bytes have left, and that forgives nothing."""

    __slots__ = ()

    connection: LinkConnection

    def disconnect(self, error: ImError, *, last: bytes | None = None, after_you: bool = False) -> None:
        self.owner.ends(error)  # type: ignore[attr-defined]  # it is a Link
        super().disconnect(error, last=last, after_you=after_you)

    def write(self, data: bytes) -> None:
        self.counters.link_bytes += len(data)
        super().write(data)

    def refuse(self, frame: Frame, error: ImError) -> None:
        """Between nodes there are no mistakes to be mended by a person: each ends the link."""
        self.disconnect(error if isinstance(error.code, Disconnect) else RemoteProtocolError(Disconnect.MALFORMED, error.reason))


class Link:
    """One connection to one other node or route server.

    Attributes:
        where: its address, for people.
        up: between `link_up` and `link_down`.
        made_here: the connection was made from this side.
    """

    def __init__(self, links: Keeper, where: str = "", expected: Peer | None = None) -> None:
        self._links = links
        self.made_here = expected is not None
        self._handshake = Handshake(links.me, expected, secret=links.secret, wall=links.turn.wall, random=links.random)
        self.where = where
        self.up = False
        self._told = False  # the end has been told to whom it concerns
        self._asked_at = 0.0
        self._last_id = 0
        self._flying: dict[int, tuple[Command, float, list[Deferred[bool]]]] = {}
        self._queue: deque[tuple[int | None, bytes, Deferred[bool] | None]] = deque()
        self._rows: list[bytes] = []
        self._timer: Any = None

    def __repr__(self) -> str:
        return f"<link with {self.peer} at {self.where}, {'up' if self.up else 'not up'}>"

    def build(self) -> Pump:
        """The pump of the connection."""
        links = self._links
        self._pump = _LinkPump(self, links.turn, links.limits, accepting=not self.made_here, connection=LinkConnection)
        return self._pump

    @property
    def peer(self) -> Peer:
        """Who is there, or, until that is known, who should be."""
        return self._handshake.peer

    @property
    def heard(self) -> float:
        """A time (by the turn's clock) at which the other side was certainly there, and had this link: when a question left that it has
        answered, at most a heartbeat and a round trip ago while the link is up. What it has pushed since may be lost with the link.
        It may push a while after the store has committed; whoever reads from here on goes back by that."""
        return self._pump.connection.confirmed

    # ---- what routers ask

    def forward(self, envelopes: Iterable[Envelope]) -> None:
        """Sends frames to the other side, at the end of this turn and in one FORWARD as far as they fit. Their audiences are those users
        whom the other side is to look for. If there is no room for them, the link is cut."""
        if not self.up:
            return
        most = self._pump.connection.max_body - 4 - _FORWARD.rows.fixed.size  # type: ignore[union-attr]  # it has rows
        counters = self._links.turn.counters
        for data, audience, _ in envelopes:
            named = [len(user).to_bytes(2, "big") + user for user in audience]
            for piece, users in _bundles(named, most - len(data), 0xFFFF):
                row = _row(_FORWARD, users=users, envelope=piece + data)
                counters.copies_sent += 1
                counters.copy_bytes += len(row)
                self._rows.append(row)
        self._links.to_pack(self)

    def attach(self, rows: Iterable[Attachment], *, whole: bool = False) -> Deferred[bool]:
        """Tells the other side of sessions here; those of one round trip travel together.

        Args:
            whole: they take the place of all that was said before. The first call on a link has it.

        Returns:
            True when the other side has acknowledged them (all, if there are many, in parts). False as soon as the link is down, as it
            is when a part is not acknowledged within a second.
        """
        if not self.up:
            return succeed(False)
        pieces = [piece for piece, _ in _bundles(self._attachments(rows), self._pump.connection.max_body - _ATTACH.fixed.size)]
        if not pieces and not whole:
            return succeed(True)
        done: Deferred[bool] = Deferred()
        *first, last = pieces or [b""]
        for piece in first:
            self._queue.append((int(whole), piece, None))
            whole = False
        self._queue.append((int(whole), last, done))
        self._announce()
        return done

    def detach(self, rows: Iterable[Attachment]) -> None:
        """Tells it of sessions that have gone; never before it was told that they came."""
        if self.up:
            self._queue.extend((None, piece, None) for piece, _ in _bundles(self._attachments(rows), self._pump.connection.max_body))
            self._announce()

    def nodes(self, rows: Iterable[Reached]) -> Deferred[bool]:
        """Tells a node whom this route server reaches; as for `attach`, True when it has acknowledged that."""
        if not self.up:
            return succeed(False)
        told = [
            {"boot": row.boot, "heard": int(row.heard), "name": row.name.encode("utf-8")} for row in rows
        ]
        done: Deferred[bool] = Deferred()
        self._ask(Command.NODES, _NODES.write(nodes=told), [done])
        return done

    def abort(self, why: str) -> None:
        """Cuts the link: the other side does not hear this one any more. `link_down` comes before this returns."""
        self._down(why)
        self._pump.abort()

    def leave(self) -> None:
        """Ends the link in good order: this process goes down."""
        self._pump.disconnect(ImError(Disconnect.SHUTTING_DOWN))

    def turn_away(self) -> None:
        """There are too many who have not linked."""
        self._pump.disconnect(ImError(Disconnect.FULL))

    def replaced(self, why: str) -> None:
        """Another link has taken this one's place."""
        self._pump.disconnect(ImError(Disconnect.LINK_REFUSED, why))

    # ---- the pump's owner

    def pump_made(self, pump: Pump) -> None:
        self.where = self.where or pump.peer
        self._handshake.transport = pump.transport
        if not self.made_here:
            self._expect({(REQUEST, Command.HELLO): self._hello})
            self._links.has_come(self)
        else:
            self._expect({(RESPONSE, Command.HELLO): self._greeted})
            wishes = {"max_body": pump.connection.max_body, "heartbeat": LINK_BEAT, "window": LINK_WINDOW}
            pump.write(request(Command.HELLO, 1, min_version=VERSION, max_version=VERSION, features=0, agent=b"link", **wishes))

    def pump_lost(self, pump: Pump, reason: Failure) -> None:
        fault = pump.connection.fault
        silent = pump.connection.heard == pump.connection.born and reason.check(ConnectionDone, ConnectionLost)
        if not self.up and not self._told and silent and not self.made_here:
            self._told = True  # somebody has looked whether the port is open
        self._down(fault.reason if fault is not None else words(reason))
        self._links.has_gone(self)

    def strange_frame(self, pump: Pump, frame: Frame) -> None:
        if self._told:
            return
        raise RemoteProtocolError(Disconnect.UNEXPECTED, f"command 0x{frame[0] & 0xFFFF:04x} may not come on a link now")

    def ends(self, error: ImError) -> None:
        """This side ends the connection."""
        self._down(str(error) if error.code is not Disconnect.LINK_REFUSED else error.reason, quiet=error.code is Disconnect.SHUTTING_DOWN)

    def _expect(self, handlers: dict[tuple[Kind, Command], Callable[[Frame], None]]) -> None:
        """Has the pump take these frames from now on, and goodbyes; others end the connection."""

        def taken(handler: Callable[[Frame], None]) -> Handler:
            return lambda _, frame: handler(frame)

        handlers = {**handlers, (NOTIFY, Command.DISCONNECT): self._farewell}
        self._pump.commands = {tag(kind, command): taken(handler) for (kind, command), handler in handlers.items()}

    def _farewell(self, frame: Frame) -> None:
        values = _FAREWELL.read(frame[3])
        reason = values.reason.decode("utf-8", "replace")
        known = values.code in list(Disconnect)
        hint = "; is that a port for links?" if values.code == Disconnect.UNEXPECTED and not self.up else ""
        code = f"{Disconnect(values.code).name}: " if known and values.code != Disconnect.LINK_REFUSED else ""
        self._down(f"the other side says: {code}{reason}{hint}", quiet=values.code == Disconnect.SHUTTING_DOWN)
        self._pump.hang_up()

    def _down(self, why: str, *, quiet: bool = False) -> None:
        """The link is over, or will never be."""
        if self._told:
            return
        self._told = True
        was_up, self.up = self.up, False
        self._rows.clear()
        self._pump.commands = {}  # what came in the same read as the end, or was held back, is not heard
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        waiting = [done for _, _, dones in self._flying.values() for done in dones] + [done for *_, done in self._queue if done is not None]
        self._flying.clear()
        self._queue.clear()
        self._links.is_down(self, why, was_up=was_up, quiet=quiet)
        for done in waiting:
            done.callback(False)

    # ---- the handshake

    def _hello(self, frame: Frame) -> None:
        connection, turn = self._pump.connection, self._pump.turn
        agreed = connection.greet(_HELLO.read(frame[3]), turn.now())
        self._expect({(REQUEST, Command.LINK): self._link, (REQUEST, Command.LOGIN): self._client})
        me = self._links.me.name.encode("utf-8")
        self._pump.write(response(Command.HELLO, frame[1], **agreed, time=int(turn.wall() * 1000), node=me))

    def _client(self, frame: Frame) -> None:
        raise RemoteProtocolError(Disconnect.UNEXPECTED, "this is a port for links between nodes; clients log in at another")

    def _greeted(self, frame: Frame) -> None:
        connection, turn = self._pump.connection, self._pump.turn
        _granted(frame)
        connection.greeted(_WELCOME.read(frame[3]), turn.now())
        connection.advance(Event.LOGIN, turn.now())
        self._expect({(RESPONSE, Command.LINK): self._linked})
        self._send(Command.LINK, self._handshake.request())

    def _link(self, frame: Frame) -> None:
        """Accepting: the other side has said who it is."""
        answer = self._handshake.answer(frame[3])
        self._judge()
        self._asked_at = self._pump.turn.now()
        self._pump.connection.advance(Event.LOGIN, self._asked_at)
        self._expect({(REQUEST, Command.PROOF): self._proved})
        self._pump.write(response(Command.LINK, frame[1], **answer))

    def _linked(self, frame: Frame) -> None:
        """Connecting: so has the side that was connected to."""
        _granted(frame)
        proof = self._handshake.prove(frame[3])
        self._judge()
        self._asked_at = self._pump.turn.now()
        self._expect({(RESPONSE, Command.PROOF): self._welcomed})
        self._send(Command.PROOF, proof)

    def _proved(self, frame: Frame) -> None:
        """Accepting: the other side has proved it."""
        self._handshake.believe(frame[3])
        self._judge()  # again: somebody may have come meanwhile
        self._pump.write(response(Command.PROOF, frame[1]))
        self._begin()

    def _welcomed(self, frame: Frame) -> None:
        """Connecting: the other side has taken the link as up."""
        _granted(frame)
        CODECS[RESPONSE, Command.PROOF].read(frame[3])
        self._judge()
        self._begin()

    def _judge(self) -> None:
        self._links.judge(self, self.peer)
        self._pump.connection.role = Role.ROUTE if Role.ROUTE in (self.peer.role, self._links.me.role) else Role.PEER

    def _begin(self) -> None:
        self._pump.welcome()
        self._pump.connection.confirmed = self._asked_at
        self._expect(
            {
                (REQUEST, Command.PING): self._ping,
                (RESPONSE, Command.PING): self._pong,
                (NOTIFY, Command.WINDOW): self._window,
                (REQUEST, Command.ATTACH): self._attach_came,
                (RESPONSE, Command.ATTACH): self._answered,
                (NOTIFY, Command.DETACH): self._detach_came,
                (NOTIFY, Command.FORWARD): self._forward_came,
                **({(REQUEST, Command.NODES): self._nodes_came} if self.peer.role is Role.ROUTE else {}),
                **({(RESPONSE, Command.NODES): self._answered} if self._links.me.role is Role.ROUTE else {}),
            }
        )
        self.up = True
        self._pump.book()
        self._links.is_up(self)

    # ---- what comes in

    def _ping(self, frame: Frame) -> None:
        self._pump.answer_ping(frame)
        self._acknowledge(all=True)

    def _pong(self, frame: Frame) -> None:
        CODECS[RESPONSE, Command.PING].read(frame[3])
        self._pump.connection.ponged()
        self._pump.book()

    def _window(self, frame: Frame) -> None:
        self._pump.connection.acknowledge(_WINDOW.read(frame[3]).count, self._pump.turn.now())

    def _acknowledge(self, *, all: bool = False) -> None:
        count = self._pump.connection.acknowledgement(all=all)
        if count is not None:
            self._pump.write(notify(Command.WINDOW, count=count))

    def _attach_came(self, frame: Frame) -> None:
        values = _ATTACH.read(frame[3])
        self._links.owner.attached(self, [Attachment(row.user, row.device, row.session) for row in values.sessions], bool(values.whole))
        self._pump.write(response(Command.ATTACH, frame[1]))

    def _detach_came(self, frame: Frame) -> None:
        self._pump.connection.taken += 1
        rows = _DETACH.read(frame[3]).sessions
        self._links.owner.detached(self, [Attachment(row.user, row.device, row.session) for row in rows])
        self._acknowledge()

    def _forward_came(self, frame: Frame) -> None:
        self._pump.connection.taken += 1
        self._links.owner.forwarded(self, [_envelope(row.users, row.envelope) for row in _FORWARD.read(frame[3]).envelopes])
        self._acknowledge()

    def _nodes_came(self, frame: Frame) -> None:
        rows = [Reached(row.name.decode("utf-8", "replace"), row.boot, bool(row.heard)) for row in _NODES.read(frame[3]).nodes]
        self._links.owner.nodes(self, rows)
        self._pump.write(response(Command.NODES, frame[1]))

    # ---- what goes out

    def pack(self) -> None:
        """Sends what `forward` has collected."""
        rows, self._rows = self._rows, []
        for piece, _ in _bundles(rows, self._pump.connection.max_body):
            self._tell(Command.FORWARD, piece)

    def _attachments(self, rows: Iterable[Attachment]) -> list[bytes]:
        return [_row(_ATTACH, user=row.user, device=row.device, session=row.session) for row in rows]

    def _announce(self) -> None:
        """Sends what is to be said of sessions, in its order, with one question unanswered at a time: so those that come in a crowd share
        their questions, and a long list is never in the way of a link's budget."""
        queue = self._queue
        while queue and self.up and not any(command is Command.ATTACH for command, _, _ in self._flying.values()):
            whole, rows, done = queue.popleft()
            if whole is None:
                self._tell(Command.DETACH, rows)
                continue
            pieces, dones, room = [rows], [done], self._pump.connection.max_body - _ATTACH.fixed.size - len(rows)
            while queue and queue[0][0] == 0 and len(queue[0][1]) <= room:
                _, rows, done = queue.popleft()
                pieces.append(rows)
                dones.append(done)
                room -= len(rows)
            self._ask(Command.ATTACH, _ATTACH.fixed.pack(whole) + b"".join(pieces), [done for done in dones if done is not None])

    def _tell(self, command: Command, body: bytes) -> None:
        """Sends a notify, or cuts the link if there is no room for it."""
        if not self.up:
            return
        pump, connection = self._pump, self._pump.connection
        data = frame(NOTIFY, command, body)
        if connection.credit <= 0:
            self.abort(f"{connection.window} notifies are unacknowledged")
        elif pump.room < len(data):
            self.abort(f"{pump.budget} bytes wait to be taken")
        else:
            connection.credit -= 1
            pump.room -= len(data)
            pump.write(data)

    def _send(self, command: Command, body: bytes) -> int:
        self._last_id = self._last_id + 1 & 0xFFFFFFFF
        self._pump.write(frame(REQUEST, command, body, self._last_id))
        return self._last_id

    def _ask(self, command: Command, body: bytes, dones: list[Deferred[bool]]) -> None:
        self._flying[self._send(command, body)] = command, self._pump.turn.now(), dones
        self._watch()

    def _watch(self) -> None:
        """Sets the timer to when the oldest question should have been answered."""
        if self._timer is None and self._flying:
            _, asked, _ = next(iter(self._flying.values()))
            turn = self._pump.turn
            self._timer = turn.reactor.callLater(max(asked + ANSWER - turn.now(), 0.001), self._look)

    def _look(self) -> None:
        self._timer = None
        now = self._pump.turn.now()
        late = [command for command, asked, _ in self._flying.values() if now >= asked + ANSWER]
        if late:
            self.abort(f"{late[0].name} was not acknowledged within {ANSWER:g} s")
        else:
            self._watch()

    def _answered(self, frame: Frame) -> None:
        _granted(frame)
        asked, _, dones = self._flying.pop(frame[1], (None, 0.0, []))
        if asked != frame[0] & 0xFFFF:
            raise RemoteProtocolError(Disconnect.UNEXPECTED, "a response to nothing")
        self._announce()
        for done in dones:
            done.callback(True)
        if not self._flying and self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _bundles(parts: Sequence[bytes], most: int, count: int = 2**62) -> Iterator[tuple[bytes, int]]:
    """Byte strings joined to as few as it takes, each of at most so many bytes and parts; with how many parts each has."""
    begin = size = 0
    for at, part in enumerate(parts):
        if at > begin and (size + len(part) > most or at - begin >= count):
            yield b"".join(parts[begin:at]), at - begin
            begin, size = at, 0
        size += len(part)
    if begin < len(parts):
        yield b"".join(parts[begin:]), len(parts) - begin


def _row(codec: Any, **values: Any) -> bytes:
    """A row, behind its size."""
    data: bytes = codec.rows.write(**values)
    return len(data).to_bytes(4, "big") + data


def _envelope(users: int, data: bytes) -> Envelope:
    """What a FORWARD row holds: an audience, and one notify that clients can be sent as it is.

    Raises:
        RemoteProtocolError: MALFORMED.
    """
    audience, at = [], 0
    for _ in range(users):
        begin = at + 2
        at = begin + int.from_bytes(data[at:begin], "big")
        if at > len(data) - HEADER_SIZE:
            raise RemoteProtocolError(Disconnect.MALFORMED, "a FORWARD whose audience runs over its end")
        audience.append(data[begin:at])
    if len({user.partition(b"\0")[0] for user in audience}) > 1:
        raise RemoteProtocolError(Disconnect.MALFORMED, "a FORWARD for users of more than one tenant")
    inner = data[at:]
    length, word, _, _ = HEADER.unpack_from(inner) if len(inner) >= HEADER_SIZE else (0, 0, 0, 0)
    if length != len(inner) - HEADER_SIZE or word >> 16 != tag(NOTIFY, 0) >> 16:
        raise RemoteProtocolError(Disconnect.MALFORMED, "a FORWARD with something that is no notify")
    return inner, tuple(audience), None


def _granted(frame: Frame) -> None:
    """A response that is none of an error.

    Raises:
        RemoteProtocolError: UNEXPECTED: nodes refuse by ending the link.
    """
    if frame[2] & 0xFFFF:
        raise RemoteProtocolError(Disconnect.UNEXPECTED, f"command 0x{frame[0] & 0xFFFF:04x} was answered with error {frame[2] & 0xFFFF}")


def words(failure: Failure) -> str:
    """Why a connection could not be made, or went."""
    error = failure.value
    if isinstance(error, SSL.Error):
        said = ", ".join(word for *_, word in error.args[0]) if error.args and error.args[0] else ""
        return f"TLS: {said or 'it failed'}"
    if isinstance(error, ConnectionDone | ConnectionLost):
        return "the connection was lost"
    if isinstance(error, ConnectError) and isinstance(error.osError, int):
        return os.strerror(error.osError)
    return str(error).rstrip(".") or type(error).__name__
