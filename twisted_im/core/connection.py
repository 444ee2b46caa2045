"""The life of one byte stream, without any I/O: states, agreed limits, heartbeat, deadlines, windows.

Strategy: both ends run the same machine, since the states belong to the conversation and not to a side. What passes on the stream
moves it, by one table; the documentation's diagram is drawn from that table. The clock is an argument; the machine says when it wants
to be looked at again (`deadline`), and then what is due (`check`). It never writes: the driver does (`twisted_im.pump`).

The story: a connection starts with a hello, which agrees on the version, the limits and the heartbeat. It is then *greeted* and
may log in; a refused login may be tried again. Once *open*, everything flows, until one side says why it ends (or the bytes
stop). A *closing* connection only waits for its last bytes to leave.

Two windows bound what is in flight. Requests: the client may have so many unanswered. Notifies: the server may have so many
unacknowledged; both ends count them, and the client sends its count now and then. Nothing of this is stored: what a window loses,
the log gives again.

A link between two nodes is the same machine in another role: LINK and PROOF stand where a client has LOGIN, and only there. Both sides
push, so both count; and both ping with every heartbeat, whatever else they send, since only an answer says that the other side was
there after the question. Silence for three heartbeats is the end.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

from twisted_im.errors import Disconnect, RemoteProtocolError
from twisted_im.wire.codec import tag
from twisted_im.wire.framing import Frame, FrameReader
from twisted_im.wire.schema import DEFAULT_MAX_BODY, STRANGER_MAX_BODY, VERSION, Command, Kind, Role


class State(Enum):
    """Where a connection is in its life."""

    START = "start"
    GREETED = "greeted"
    LOGIN = "login"
    OPEN = "open"
    CLOSING = "closing"
    CLOSED = "closed"


class Event(Enum):
    """What moves it: something that has passed on the stream, in either direction."""

    HELLO = "hello agreed"
    LOGIN = "login asked"
    WELCOME = "login granted"
    REFUSED = "login refused"
    END = "logout, redirect or disconnect"
    LOST = "bytes ended"


TRANSITIONS: dict[tuple[State, Event], State] = {
    (State.START, Event.HELLO): State.GREETED,
    (State.GREETED, Event.LOGIN): State.LOGIN,
    (State.LOGIN, Event.WELCOME): State.OPEN,
    (State.LOGIN, Event.REFUSED): State.GREETED,
    (State.START, Event.END): State.CLOSING,
    (State.GREETED, Event.END): State.CLOSING,
    (State.LOGIN, Event.END): State.CLOSING,
    (State.OPEN, Event.END): State.CLOSING,
    (State.START, Event.LOST): State.CLOSED,
    (State.GREETED, Event.LOST): State.CLOSED,
    (State.LOGIN, Event.LOST): State.CLOSED,
    (State.OPEN, Event.LOST): State.CLOSED,
    (State.CLOSING, Event.LOST): State.CLOSED,
}

#: What may come before a client's connection is open, whoever sends it; anything else there ends the connection.
BEFORE_OPEN: dict[State, frozenset[int]] = {
    State.START: frozenset(
        {
            tag(Kind.REQUEST, Command.HELLO),
            tag(Kind.RESPONSE, Command.HELLO),
            tag(Kind.NOTIFY, Command.REDIRECT),
            tag(Kind.NOTIFY, Command.DISCONNECT),
        }
    ),
    State.GREETED: frozenset(
        {
            tag(Kind.REQUEST, Command.LOGIN),
            tag(Kind.REQUEST, Command.PING),
            tag(Kind.RESPONSE, Command.PING),
            tag(Kind.NOTIFY, Command.REDIRECT),
            tag(Kind.NOTIFY, Command.DISCONNECT),
        }
    ),
    State.LOGIN: frozenset(
        {
            tag(Kind.RESPONSE, Command.LOGIN),
            tag(Kind.RESPONSE, Command.PING),
            tag(Kind.NOTIFY, Command.REDIRECT),
            tag(Kind.NOTIFY, Command.DISCONNECT),
        }
    ),
}

#: The same for a link.
LINK_BEFORE_OPEN: dict[State, frozenset[int]] = {
    State.START: BEFORE_OPEN[State.START] - {tag(Kind.NOTIFY, Command.REDIRECT)},
    State.GREETED: frozenset({tag(Kind.REQUEST, Command.LINK), tag(Kind.NOTIFY, Command.DISCONNECT)}),
    State.LOGIN: frozenset(
        {
            tag(Kind.RESPONSE, Command.LINK),
            tag(Kind.REQUEST, Command.PROOF),
            tag(Kind.RESPONSE, Command.PROOF),
            tag(Kind.NOTIFY, Command.DISCONNECT),
        }
    ),
}

#: Heartbeats without a byte after which a link is dead.
LINK_SILENCE = 3


class Due(Enum):
    """What a look at an overdue connection asks for, when it is not a disconnect."""

    PING = "ping"
    ABORT = "abort"


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one side asks of its connections. Times are in seconds, sizes in bytes."""

    handshake: float = 5.0  #: from the first byte possible to a hello
    login: float = 10.0  #: from the start to a successful login
    frame: float = 15.0  #: from the first byte of a frame to its last
    unacknowledged: float = 10.0  #: notifies out for so long without an acknowledgement: ping
    ping: float = 5.0  #: a ping unanswered for so long: the connection is dead
    close: float = 5.0  #: for the last bytes to leave
    heartbeat: int = 300  #: carriers cut idle connections after 5 to 30 minutes; each beat wakes a phone's radio
    min_heartbeat: int = 5
    max_heartbeat: int = 1800
    window: int = 64  #: notifies unacknowledged
    requests: int = 64  #: requests unanswered
    max_body: int = DEFAULT_MAX_BODY
    stranger_max_body: int = STRANGER_MAX_BODY
    write_budget: int = 256 * 1024  #: bytes of notifies that wait for a slow reader; beyond it the reader is behind


class Connection(FrameReader):
    """One end of one byte stream.

    Args:
        limits: what this side asks for.
        now: seconds on the clock that all later `now` arguments come from.
        accepting: True for the end that was connected to.

    Attributes:
        state: see `State`; moved by `advance` only.
        max_body, heartbeat, window, requests: as agreed by the hello; this side's wishes before that.
        acknowledged: notifies sent that the other side has counted.
        credit: notifies that may be sent; whoever sends one takes one off.
        taken, told: notifies received, and how many of them the other side has been told of.
        heard, sent: when bytes last came, and last left.
    """

    __slots__ = (
        "_limits", "_partial_since", "_pinged", "_pings", "accepting", "acknowledged", "born", "closing_since", "credit", "heard",
        "heartbeat", "max_body", "requests", "sent", "state", "taken", "told", "unacknowledged_since", "window",
    )  # fmt: skip

    _before_open = BEFORE_OPEN

    def __init__(self, limits: Limits, now: float, *, accepting: bool) -> None:
        super().__init__(limits.stranger_max_body if accepting else limits.max_body)
        self._limits = limits
        self.accepting = accepting
        self.state = State.START
        self.max_body = limits.max_body
        self.heartbeat: float = limits.heartbeat
        self.window = limits.window
        self.requests = limits.requests
        self.born = self.heard = self.sent = now
        self.acknowledged = self.taken = self.told = 0
        self.credit = limits.window
        self.unacknowledged_since = 0.0
        self.closing_since = 0.0
        self._partial_since = 0.0
        self._pinged = 0.0
        self._pings = 0

    # ---- the life

    def advance(self, event: Event, now: float) -> None:
        """Moves the machine; what the table does not have is left as it is, once the connection is closing."""
        if self.state in (State.CLOSING, State.CLOSED) and event is not Event.LOST:
            return
        self.state = TRANSITIONS[self.state, event] if self.state is not State.CLOSED else State.CLOSED
        if self.state is State.OPEN:
            self.cap = self.max_body
            self.heard = now
        elif self.state is State.CLOSING:
            self.closing_since = now

    def may_come(self, received: int) -> bool:
        """Whether a frame with this tag may come now. Once open, anything may; what is unknown gets an error and not an end."""
        allowed = self._before_open.get(self.state)
        return allowed is None or received in allowed

    # ---- bytes

    def receive(self, data: bytes, now: float) -> list[Frame]:
        """The frames that these bytes complete; `fault` tells whether something that is no frame came after them."""
        self.heard = now
        frames = self.feed(data)
        if self.kept:
            if frames or not self._partial_since:
                self._partial_since = now
        elif self._partial_since:
            self._partial_since = 0.0
        return frames

    @property
    def partial(self) -> bool:
        """Whether a frame has begun and not ended."""
        return self._partial_since != 0.0

    # ---- hello

    def greet(self, hello: Any, now: float) -> dict[str, int]:
        """Takes the client's hello and moves on.

        Returns:
            the numbers of the hello response, by field name.

        Raises:
            RemoteProtocolError: VERSION if there is none in common; TOO_LARGE if the client cannot take this server's largest body,
                which any message for it may need.
        """
        if not hello.min_version <= VERSION <= hello.max_version:
            theirs = f"versions {hello.min_version} to {hello.max_version}"
            raise RemoteProtocolError(Disconnect.VERSION, f"{theirs}; this server speaks {VERSION}")
        limits = self._limits
        if hello.max_body and hello.max_body < limits.max_body:
            theirs = f"the client takes {hello.max_body} bytes"
            raise RemoteProtocolError(Disconnect.TOO_LARGE, f"{theirs}; bodies here have up to {limits.max_body}")
        self.heartbeat = min(max(hello.heartbeat or limits.heartbeat, limits.min_heartbeat), limits.max_heartbeat)
        self.window = self.credit = max(min(limits.window, hello.window or limits.window), 1)
        self.advance(Event.HELLO, now)
        return {
            "version": VERSION,
            "features": 0,
            "max_body": self.max_body,
            "heartbeat": int(self.heartbeat),
            "window": self.window,
            "requests": self.requests,
        }

    def greeted(self, hello: Any, now: float) -> None:
        """Takes the server's hello and moves on.

        Raises:
            RemoteProtocolError: VERSION if the server chose one that was not offered; MALFORMED for windows of nothing; TOO_LARGE for
                bodies above what this side takes.
        """
        if hello.version != VERSION:
            raise RemoteProtocolError(Disconnect.VERSION, f"the server chose version {hello.version}")
        if not (hello.heartbeat and hello.window and hello.requests):
            raise RemoteProtocolError(Disconnect.MALFORMED, "a hello with a heartbeat or window of 0")
        if hello.max_body > self._limits.max_body:
            raise RemoteProtocolError(
                Disconnect.TOO_LARGE, f"bodies there have up to {hello.max_body} bytes; this side takes {self._limits.max_body}"
            )
        self.max_body, self.heartbeat, self.requests = hello.max_body, hello.heartbeat, hello.requests
        self.window = self.credit = hello.window
        self.advance(Event.HELLO, now)

    # ---- windows

    @property
    def pushed(self) -> int:
        """Notifies sent. What the hot path counts is the credit, since it stays small: the interpreter has such numbers at hand."""
        return self.acknowledged + self.window - self.credit

    def acknowledge(self, count: int, now: float) -> None:
        """Takes the other side's count of notifies.

        Raises:
            RemoteProtocolError: ACK_ABOVE_SENT.
        """
        if count > self.pushed:
            raise RemoteProtocolError(Disconnect.ACK_ABOVE_SENT, f"{count} notifies acknowledged, {self.pushed} sent")
        if count > self.acknowledged:
            self.credit += count - self.acknowledged
            self.acknowledged = count
            self.unacknowledged_since = now if self.credit < self.window else 0.0
            self._pinged = 0.0

    def acknowledgement(self, *, all: bool = False) -> int | None:
        """The count to tell the other side: when half the window has been taken, or, with `all`, whenever there is anything."""
        if self.taken - self.told < (1 if all else max(self.window // 2, 1)):
            return None
        self.told = self.taken
        return self.told

    # ---- deadlines

    def ponged(self) -> None:
        """The other side answered a ping.

        Raises:
            RemoteProtocolError: UNEXPECTED if no ping is unanswered.
        """
        if not self._pings:
            raise RemoteProtocolError(Disconnect.UNEXPECTED, "a response to nothing")
        self._pings -= 1
        self._pinged = 0.0
        if self.unacknowledged_since:
            self.unacknowledged_since = self.heard

    def waited(self, now: float) -> None:
        """Nothing was read until now, by this side's choice: what the other side owes has its whole time from here."""
        self.heard = now
        if self._partial_since:
            self._partial_since = now
        if self._pinged:
            self._pinged = now

    def deadline(self) -> float:
        """When to look at this connection again, at the latest."""
        limits = self._limits
        if self.state is State.START:
            return self.born + limits.handshake
        if self.state in (State.GREETED, State.LOGIN):
            return self.born + limits.login
        if self.state is not State.OPEN:
            return self.closing_since + limits.close
        when = self._next_beat()
        if self._partial_since:
            when = min(when, self._partial_since + limits.frame)
        return when

    def _next_beat(self) -> float:
        """When an open connection is to be pinged, or has been silent for too long."""
        limits = self._limits
        if self._pinged:
            return self._pinged + limits.ping
        when = self.heard + self.heartbeat * 1.5 if self.accepting else self.sent + self.heartbeat
        if self.unacknowledged_since:
            when = min(when, self.unacknowledged_since + limits.unacknowledged)
        return when

    def check(self, now: float) -> Disconnect | Due | None:
        """What is due now: an end and why, a ping to be sent, or nothing yet."""
        if now < self.deadline():
            return None
        limits = self._limits
        if self.state is State.START:
            return Disconnect.HANDSHAKE_TIMEOUT
        if self.state in (State.GREETED, State.LOGIN):
            return Disconnect.LOGIN_TIMEOUT
        if self.state is not State.OPEN:
            return Due.ABORT
        if self._partial_since and now >= self._partial_since + limits.frame:
            return Disconnect.FRAME_TIMEOUT
        dead = self._dead(now)
        if dead is None:
            self._pinged = now
            self._pings += 1
        return dead or Due.PING

    def _dead(self, now: float) -> Disconnect | None:
        """Why an open connection whose beat is due has ended; None if it is to be pinged."""
        if self._pinged:
            return Disconnect.UNRESPONSIVE if self.accepting else Disconnect.HEARTBEAT_TIMEOUT
        if self.accepting and now >= self.heard + self.heartbeat * 1.5:
            return Disconnect.HEARTBEAT_TIMEOUT
        return None


class LinkConnection(Connection):
    """One end of a link: what only links have takes no room in a client's connection.

    Attributes:
        role: PEER, until the other side has said that it is a route server, or this one is.
        confirmed: a time at which the other side was certainly there: when that was asked which it has answered last. (Bytes that have come
            say less: they may have been written long before, by somebody who has given this link up since.)
    """

    __slots__ = ("_asked", "confirmed", "role")

    _before_open = LINK_BEFORE_OPEN

    def __init__(self, limits: Limits, now: float, *, accepting: bool) -> None:
        super().__init__(limits, now, accepting=accepting)
        self.role = Role.PEER
        self.confirmed = now
        self._asked: tuple[float, ...] = ()

    def ponged(self) -> None:
        super().ponged()
        self.confirmed, *asked = self._asked  # a stream keeps the order of the answers
        self._asked = tuple(asked)

    def _next_beat(self) -> float:
        pinged = self._asked[-1] if self._asked else self.confirmed
        return min(pinged + self.heartbeat, self.heard + self.heartbeat * LINK_SILENCE)

    def _dead(self, now: float) -> Disconnect | None:
        if now >= self.heard + self.heartbeat * LINK_SILENCE:
            return Disconnect.HEARTBEAT_TIMEOUT
        self._asked += (now,)
        return None
