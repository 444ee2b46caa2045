"""One connection of a client, from its first byte to its last: hello, login, requests in flight, acknowledgements, and why it ended.

Strategy: all frames in come through `strange_frame` — the connection machine has judged by then whether they may come — and all frames out
leave through `_write`. Requests are asked for by *sources*, which are polled in turn whenever the server's window has room, so that none
of them starves the others and none needs to know of the window. A session is never used again: the next connection gets a new one.

A login begins with the resume token of the last one, if there is one; the secret is asked for only when that is refused.

Notifies are acknowledged when half the window has come, or a second after the first of them; but not while the application is full. A
server whose window is used up sends no more, says once that this device is behind, and keeps the rest in the log. Pings are
answered all the while, so a busy application is never taken for a dead one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from twisted.internet.defer import CancelledError, Deferred, ensureDeferred, maybeDeferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from twisted_im.core.connection import Event, State
from twisted_im.errors import Disconnect, ImError, LocalProtocolError, RemoteProtocolError, Status
from twisted_im.pump import Pump
from twisted_im.wire.codec import CODECS, ERROR, HEADER, notify, request
from twisted_im.wire.framing import Frame
from twisted_im.wire.schema import HEADER_SIZE, MAX_SECRET, VERSION, Command, Kind, LoginMethod

log = Logger()

_NOTIFIES = {int(command): codec for (kind, command), codec in CODECS.items() if kind is Kind.NOTIFY}

#: What became of a request: the values of its response, or why there are none.
Answered = Callable[[Any], None]

#: A request that wants to leave: the command, its values, and who takes the answer.
Ask = tuple[Command, dict[str, Any], Answered]

#: Gives the next request of one kind, or None.
Source = Callable[[], Ask | None]

#: Sees every frame: "in" or "out", and the frame.
Trace = Callable[[str, Frame], object]

#: Seconds from a notify to its acknowledgement, at most.
ACKNOWLEDGE_IN = 1.0

#: Gives a secret, or a Deferred or an awaitable of one.
AskSecret = Callable[[], Any]


class Lost(LocalProtocolError):
    """The connection has ended before the answer came."""

    def __init__(self) -> None:
        super().__init__(Status.UNAVAILABLE, "the connection was lost before the answer came")


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who logs in, on which device, and how they prove it.

    Attributes:
        secret: for `method`; or what gives it when it is needed.
        resume: the resume token of the last login; empty if there is none.
    """

    method: int
    tenant: bytes
    uid: bytes
    device: bytes
    label: bytes
    secret: bytes | AskSecret
    resume: bytes = b""


class SessionOwner(Protocol):
    """Who is told of a session's life."""

    def session_open(self, session: Session, login: Any) -> None:
        """The login was granted; `login` has the response's values."""

    def session_notified(self, session: Session, command: int, values: Any) -> None:
        """A notify has come that is about messages."""

    def session_lost(self, session: Session, reason: Failure) -> None:
        """The connection is gone."""


class Session:
    """One connection of a client.

    Attributes:
        open: logged in, and not on the way out.
        full: the application has enough for now: nothing is acknowledged.
        end: why the other side, or a refused login, has ended it.
        come_back: whether to connect again after `end`.
        retry_after: seconds that the server asked to wait before that.
        redirect: where the server wants this client to go; empty for the same address; None if it has not said so.
        greeted, welcomed: the server has said hello; it has granted the login.
        server_ahead: seconds by which the server's clock, since 1970, is ahead of this side's.
        fault: how the other side broke the protocol.
        resume_refused: the server does not take the resume token any more.
    """

    def __init__(
        self, owner: SessionOwner, credentials: Credentials, sources: Sequence[Source], *, agent: bytes, answer: float, trace: Trace | None
    ) -> None:
        self._owner = owner
        self._credentials = credentials
        self._asked: deque[Ask] = deque()
        self._sources: deque[Source] = deque([self._next_asked, *sources])
        self._agent = agent
        self._answer = answer
        self._trace = trace
        self._flying: dict[int, tuple[Command, Answered, float]] = {}  # in the order of sending
        self._last_id = 0
        self._acknowledge_by: float | None = None
        self._pump: Pump | None = None
        self._proving: Deferred[None] | None = None
        self._resuming = False
        self.open = False
        self.full = False
        self.end: ImError | None = None
        self.come_back = True
        self.retry_after = 0.0
        self.redirect: str | None = None
        self.greeted = False
        self.welcomed = False
        self.server_ahead = 0.0
        self.fault: ImError | None = None
        self.resume_refused = False

    # ---- the pump's owner

    def pump_made(self, pump: Pump) -> None:
        self._pump = pump
        self._send(
            Command.HELLO,
            {
                "min_version": VERSION,
                "max_version": VERSION,
                "features": 0,
                "max_body": pump.connection.max_body,
                "heartbeat": int(pump.connection.heartbeat),
                "window": pump.connection.window,
                "agent": self._agent,
            },
            self._greeted,
        )

    def pump_lost(self, pump: Pump, reason: Failure) -> None:
        self.open = False
        if self._proving is not None:
            self._proving.cancel()
        if self.fault is None:
            self.fault = pump.connection.fault
        flying, self._flying = self._flying, {}
        self._owner.session_lost(self, reason)
        for answered in [*(answered for _, answered, _ in flying.values()), *(answered for _, _, answered in self._asked)]:
            answered(Lost())

    def strange_frame(self, pump: Pump, frame: Frame) -> None:
        if self._trace is not None:
            self._trace("in", frame)
        kind, command = frame[0] >> 16 & 0xFF, frame[0] & 0xFFFF
        try:
            if kind == Kind.RESPONSE:
                self._answered(command, frame)
            elif kind == Kind.NOTIFY:
                self._notified(command, frame[3])
            elif command == Command.PING:
                pump.answer_ping(frame)
            else:
                raise RemoteProtocolError(Status.UNKNOWN_COMMAND)
        except ImError as error:
            if kind != Kind.REQUEST:
                self.fault = error
            raise

    # ---- login

    def _greeted(self, values: Any) -> None:
        if isinstance(values, ImError):
            self._refused(values)
            return
        connection = self._connection
        connection.greeted(values, self._now)
        self.greeted = True
        self.server_ahead = values.time / 1000 - self._now
        if self._credentials.resume:
            self._resuming = True
            self._login(LoginMethod.RESUME, self._credentials.resume)
        else:
            self._prove()

    def _prove(self) -> None:
        """Logs in by the secret. To get it may take its time: a person, or a service that issues tokens."""
        who = self._credentials
        if isinstance(who.secret, bytes):
            self._login(who.method, who.secret)
            return

        def asked(ask: AskSecret) -> Any:
            given = ask()
            return ensureDeferred(given) if hasattr(given, "__await__") and not isinstance(given, Deferred) else given

        def got(secret: bytes | str) -> None:
            data = secret.encode("utf-8") if isinstance(secret, str) else secret
            if len(data) > MAX_SECRET:
                raise LocalProtocolError(Status.BAD_VALUE, f"a secret has at most {MAX_SECRET} bytes; this one has {len(data)}")
            if self._connection.state is State.GREETED:
                self._login(who.method, data)

        def failed(failure: Failure) -> None:
            if failure.check(CancelledError) and self._connection.state is State.CLOSED:
                return
            if not isinstance(failure.value, ImError):
                log.failure("the application gave no secret", failure)
            self._refused(failure.value if isinstance(failure.value, ImError) else ImError(Status.UNAVAILABLE, "there is no secret now"))

        self._proving = maybeDeferred(asked, who.secret).addCallback(got).addErrback(failed)

    def _login(self, method: int, secret: bytes) -> None:
        who = self._credentials
        self._send(
            Command.LOGIN,
            {"method": method, "device": who.device, "tenant": who.tenant, "uid": who.uid, "label": who.label, "secret": secret},
            self._welcomed,
        )
        self._connection.advance(Event.LOGIN, self._now)

    def _welcomed(self, values: Any) -> None:
        if isinstance(values, ImError):
            self._connection.advance(Event.REFUSED, self._now)
            if self._resuming and not values.temporary:
                self._resuming, self.resume_refused = False, True
                self._prove()
            else:
                self._refused(values)
            return
        self._connection.advance(Event.WELCOME, self._now)
        self.open = self.welcomed = True
        self._owner.session_open(self, values)

    def _refused(self, error: ImError) -> None:
        self.end = error
        self.come_back = error.temporary
        self.retry_after = error.retry_after / 1000
        self.leave()

    # ---- requests

    def ask(self, command: Command, values: dict[str, Any], answered: Answered) -> None:
        """Sends a request as soon as the window has room; `answered` gets the response's values, or an `ImError`."""
        self._asked.append((command, values, answered))
        self._pump_now.turn.book()

    def fill(self) -> None:
        """Sends what the sources have, one request of each in turn, as far as the server's window goes."""
        sources, empty = self._sources, 0
        while self.open and len(self._flying) < self._connection.requests and empty < len(sources):
            wanted = sources[0]()
            sources.rotate(-1)
            if wanted is None:
                empty += 1
            else:
                empty = 0
                self._send(*wanted)

    def _next_asked(self) -> Ask | None:
        return self._asked.popleft() if self._asked else None

    def _send(self, command: Command, values: dict[str, Any], answered: Answered) -> None:
        self._last_id = self._last_id + 1 & 0xFFFFFFFF
        try:
            frame = request(command, self._last_id, **values)
            if len(frame) - HEADER_SIZE > self._connection.max_body:
                raise LocalProtocolError(Status.TOO_LARGE)
        except LocalProtocolError as error:
            answered(error)
            return
        self._flying[self._last_id] = command, answered, self._now
        self._write(frame)

    def _answered(self, command: int, frame: Frame) -> None:
        if command == Command.PING:
            self._connection.ponged()
            return
        asked, answered, _ = self._flying.get(frame[1], (None, None, 0.0))
        if asked is None or answered is None:
            return
        if asked != command:
            raise RemoteProtocolError(Status.BAD_BODY, f"a response to 0x{command:04x} for a request of 0x{asked:04x}")
        del self._flying[frame[1]]
        status = frame[2] & 0xFFFF
        answered(CODECS[Kind.RESPONSE, asked].read(frame[3]) if not status else _refusal(status, frame[3]))

    # ---- notifies

    def _notified(self, command: int, body: bytes) -> None:
        if command == Command.DISCONNECT:
            self._told_to_go(CODECS[Kind.NOTIFY, Command.DISCONNECT].read(body))
            return
        if command == Command.REDIRECT:
            values = CODECS[Kind.NOTIFY, Command.REDIRECT].read(body)
            self.redirect = values.address.decode("ascii", "replace")
            self.retry_after = values.delay / 1000
            self.end = ImError(Disconnect.SHUTTING_DOWN, "the server sends its clients elsewhere", values.delay)
            self._hang_up()
            return
        self._connection.taken += 1
        if self._acknowledge_by is None:
            self._acknowledge_by = self._now + ACKNOWLEDGE_IN
        codec = _NOTIFIES.get(command)
        if codec is not None:
            self._owner.session_notified(self, command, codec.read(body))

    def _told_to_go(self, values: Any) -> None:
        self.come_back = bool(values.come_back)
        self.retry_after = values.retry_after / 1000
        reason = values.reason.decode("utf-8", "replace")
        try:
            self.end = RemoteProtocolError(Disconnect(values.code), reason, values.retry_after)
        except ValueError:  # a code of a later version
            self.end = RemoteProtocolError(Disconnect.INTERNAL, reason, values.retry_after)
        self._hang_up()

    def acknowledge(self) -> None:
        """Tells the server how many notifies have come, if it is time to."""
        if self._acknowledge_by is None or self.full or not self.open:
            return
        count = self._connection.acknowledgement(all=self._now >= self._acknowledge_by)
        if count is not None:
            self._acknowledge_by = None
            self._write(notify(Command.WINDOW, count=count))

    def acknowledge_all(self) -> None:
        """Tells the server at once: it is about to be asked for more."""
        if self._acknowledge_by is not None:
            self._acknowledge_by = self._now
            self.acknowledge()

    # ---- time, and the end

    def deadline(self) -> float | None:
        """When `look` or `acknowledge` next have something to do; None for never."""
        times = [sent + self._answer for _, _, sent in list(self._flying.values())[:1] if self.open]
        if self._acknowledge_by is not None and not self.full and self.open:
            times.append(self._acknowledge_by)
        return min(times, default=None)

    def look(self) -> None:
        """Ends the session if a request has waited for its answer for too long."""
        oldest = next(iter(self._flying.values()), None)
        if self.open and oldest is not None and self._now >= oldest[2] + self._answer:
            self.give_up(ImError(Disconnect.UNRESPONSIVE, f"no answer for {self._answer:g} s"))

    def give_up(self, error: ImError) -> None:
        """Ends the connection so that a new one can do better.

        Args:
            error: why; its `retry_after` is kept to.
        """
        if self.end is None:
            self.end = error
            self.retry_after = error.retry_after / 1000
        self.open = False
        self._pump_now.disconnect(ImError(Disconnect.UNRESPONSIVE, error.reason))

    def leave(self) -> None:
        """Says goodbye; nothing more is sent or taken."""
        self.open = False
        if self._pump is not None:
            self._pump.disconnect(ImError(Disconnect.NORMAL))

    def logged_out(self) -> None:
        """The server has confirmed a logout, and closes."""
        self.end, self.come_back = ImError(Disconnect.NORMAL, "logged out"), False
        self._hang_up()

    def abort(self) -> None:
        """Cuts the connection without a word, as a lost network does; for tests and demonstrations."""
        if self._pump is not None:
            self._pump.abort()

    def _hang_up(self) -> None:
        self.open = False
        self._pump_now.hang_up()

    @property
    def _pump_now(self) -> Pump:
        assert self._pump is not None, "the connection is there before anything else happens"
        return self._pump

    @property
    def _connection(self) -> Any:
        return self._pump_now.connection

    @property
    def _now(self) -> float:
        return self._pump_now.turn.now()

    @property
    def max_body(self) -> int:
        """The largest body that may be sent."""
        size: int = self._connection.max_body
        return size

    @property
    def requests(self) -> int:
        """Requests that may be unanswered."""
        most: int = self._connection.requests
        return most

    def _write(self, frame: bytes) -> None:
        if self._trace is not None:
            _, word, request_id, rest = HEADER.unpack_from(frame)
            self._trace("out", (word, request_id, rest, frame[HEADER_SIZE:]))
        self._pump_now.write(frame)


def _refusal(status: int, body: bytes) -> ImError:
    """A response's error."""
    values = ERROR.read(body)
    reason = values.reason.decode("utf-8", "replace")
    try:
        return RemoteProtocolError(Status(status), reason, values.retry_after)
    except ValueError:  # a status of a later version: the body says what can be done
        return RemoteProtocolError(Status.UNAVAILABLE if values.temporary else Status.BAD_VALUE, reason, values.retry_after)

