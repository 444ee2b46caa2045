"""Bytes around any `Connection`: the Twisted protocol, and the cork that makes it cheap.

Strategy: one write to the socket for each connection and reactor turn. `transport.write` would register with epoll, wait for
the next turn, send, and unregister; measured, that is half the cost of a relayed message (docs/performance.md). Instead:

    during a turn        frames are collected        Pump.out, a list of byte strings
    at the turn's end    the ledger commits          Turn.steps, in order
                         each touched pump is joined Turn.flush  →  transport.write, once
    beneath TLS, or      the bytes go straight to    DirectTransport.write  →  socket.send
    beneath the pump     the socket

The lower half, which reaches the socket, is `twisted_im.cork`.

Backpressure: while there is a tail the pump is *clogged* and keeps its frames. Whoever pushes counts the bytes (`room`), so
that a slow reader costs no more than its budget.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IProtocol, IPushProducer, ITransport
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from twisted_im.core.connection import Connection, Due, Event, Limits, State
from twisted_im.core.pacing import Deadlines
from twisted_im.cork import DirectTransport
from twisted_im.counters import Counters
from twisted_im.errors import Disconnect, ImError, RemoteProtocolError
from twisted_im.wire.codec import CODECS, notify, reason_bytes, refusal, request, response
from twisted_im.wire.framing import Frame
from twisted_im.wire.schema import Command, Kind

log = Logger()

#: A command: it gets the pump's context (the session, once there is one) and the frame. It may return a Deferred, and then the
#: pump takes nothing more from this connection until that has fired.
Handler = Callable[[Any, Frame], Deferred[Any] | None]


class Owner(Protocol):
    """Who is told of a pump's life: a node, a client, or a link."""

    def pump_made(self, pump: Pump) -> None:
        """The connection is there; sets `commands` and `context`."""

    def pump_lost(self, pump: Pump, reason: Failure) -> None:
        """It is gone; nothing more comes from it, and writes go nowhere."""

    def strange_frame(self, pump: Pump, frame: Frame) -> None:
        """A frame that no command takes. May raise an `ImError`."""


class _Nowhere(list[bytes]):
    """What a pump collects frames in once it has said its last: it keeps nothing, and looks as if it were queued already, so the
    hot path needs no check."""

    def append(self, frame: bytes) -> None:
        pass

    def __bool__(self) -> bool:
        return True


_NOWHERE = _Nowhere()


#: Seconds until a connection is looked at again, at the most: what has gone, or has asked for an earlier look, is not kept for longer.
FARTHEST = 30.0
#: Frames done for one connection before the others have their turn; for one that has not logged in. Windows are far below.
FRAMES_AT_ONCE = 256
NEWCOMER_FRAMES_AT_ONCE = 8


class Turn:
    """What is done once at the end of each reactor turn, and the one timer of all deadlines.

    Args:
        reactor: an `IReactorTime`.
        clock: seconds, monotonic: the reactor's own clock moves with the system's.
        grain: seconds between looks at the deadlines.
    """

    def __init__(
        self,
        reactor: Any,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        counters: Counters | None = None,
        grain: float = 0.25,
    ) -> None:
        self.reactor = reactor
        self.now = clock
        self.wall = wall
        self.openings: list[Callable[[], None]] = []
        self.began = 0.0  #: when the present turn was booked: what all that is read in it counts as its time
        self.counters = counters if counters is not None else Counters()
        self.steps: list[Callable[[], None]] = []
        self.dirty: list[Pump] = []
        self.booked = False
        self.ending = False  #: while `end` runs: what is written or booked for the steps now is done before it is over
        self._again = False
        self.deadlines: Deadlines[tuple[Pump, float]] = Deadlines(grain)
        self._sweep: Any = None
        self._sweep_at = 0.0

    def book(self) -> None:
        """Has `end` run when the present reactor turn ends."""
        if self.ending:
            self._again = True
        elif not self.booked:
            self.booked = True
            self.began = self.now()
            self.reactor.callLater(0, self.end)
            for opening in self.openings:
                opening()

    def end(self) -> None:
        """Commits, and writes what was collected. A step or pump that fails is logged and does not stop the others."""
        began = self.now()
        opened = self.began if self.booked else began
        self.booked = self.ending = True
        for step in self.steps:
            try:
                step()
            except Exception:
                log.failure("a step at the end of a turn failed")
        touched, self.dirty = self.dirty, []
        self.flush(touched, began)
        self.booked = self.ending = False
        if self.dirty or self._again:
            self._again = False
            self.book()
        spent = self.now() - opened
        counters = self.counters
        counters.turns += 1
        counters.turn_seconds += spent
        if spent > counters.longest_turn:
            counters.longest_turn = spent

    def flush(self, pumps: Iterable[Pump], now: float) -> None:
        """Sends what these have collected, in one write for each."""
        frames = size = writes = 0
        for pump in pumps:
            out = pump.out
            if pump.clogged or not out or out is _NOWHERE:
                continue
            frames += len(out)
            data = out[0] if len(out) == 1 else b"".join(out)
            out.clear()
            size += len(data)
            writes += 1
            try:
                connection = pump.connection
                connection.sent = now
                if connection.credit != connection.window and not connection.unacknowledged_since:
                    connection.unacknowledged_since = now
                    pump.book()
                pump.transport.write(data)
                pump.room = pump.budget - len(data) if pump.clogged else pump.budget
            except Exception:
                log.failure("writing to a connection failed")
                pump.abort()
        counters = self.counters
        counters.frames_out += frames
        counters.bytes_out += size
        counters.writes += writes

    def look_at(self, pump: Pump, when: float) -> None:
        """Has the pump's deadline checked at about this time."""
        self.deadlines.put((pump, when), when)
        if self._sweep is None or when < self._sweep_at:
            self._wait()

    def _wait(self) -> None:
        """Sets the one timer to the first deadline there is."""
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        when = self.deadlines.next()
        if when is not None:
            self._sweep_at = when
            self._sweep = self.reactor.callLater(max(when - self.now(), 0.0), self._look)

    def _look(self) -> None:
        self._sweep = None
        for pump, when in self.deadlines.due(self.now()):
            if pump.look_due != when:
                continue  # it has asked for an earlier look since
            try:
                pump.overdue()
            except Exception:
                log.failure("looking at a deadline failed")
                pump.abort()
        if self._sweep is None:
            self._wait()

    def stop(self) -> None:
        """Writes what is there and forgets the deadlines; no timer is left."""
        self.end()
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None


@implementer(IProtocol, IPushProducer)
class Pump:
    """The driver of one connection: reads bytes, dispatches frames, collects what is written.

    Attributes:
        commands: tag → handler, for the present state; the owner changes it.
        context: what handlers get first: the pump itself, and the session after login.
        out: frames that leave at the turn's end.
        room: bytes that may still be pushed before the reader counts as slow.
    """

    __slots__ = (
        "_held", "_patience", "_taken", "_taken_since", "_waiting", "budget", "clogged", "commands", "connection", "context",
        "counters", "look_due", "out", "owner", "room", "transport", "turn",
    )  # fmt: skip

    def __init__(self, owner: Owner, turn: Turn, limits: Limits, *, accepting: bool, connection: type[Connection] = Connection) -> None:
        self.owner = owner
        self.turn = turn
        self.counters = turn.counters
        self.connection = connection(limits, turn.now(), accepting=accepting)
        self.commands: dict[int, Handler] = {}
        self.context: Any = self
        self.out: list[bytes] = []
        self.room = self.budget = limits.write_budget
        self.clogged = False
        self._patience = limits.unacknowledged + limits.ping
        self._taken, self._taken_since = -1, 0.0
        self.transport: Any = None
        self._held: list[Frame] | None = None
        self._waiting = 0
        self.look_due = 0.0  #: when the turn looks at this connection; 0 for never

    # ---- Twisted's side

    def makeConnection(self, transport: ITransport) -> None:
        self.transport = transport
        transport.registerProducer(self, True)  # type: ignore[attr-defined]  # every stream transport has it
        self.connectionMade()

    def connectionMade(self) -> None:
        self.counters.connections += 1
        self.owner.pump_made(self)
        self.book()

    def dataReceived(self, data: bytes) -> None:
        """One read: on the hot path."""
        turn = self.turn
        if not turn.booked:
            turn.book()
        connection = self.connection
        frames = connection.receive(data, turn.began)
        counters = self.counters
        counters.bytes_in += len(data)
        counters.frames_in += len(frames)
        if self._held is None:
            if len(frames) > NEWCOMER_FRAMES_AT_ONCE and (len(frames) > FRAMES_AT_ONCE or connection.state is not State.OPEN):
                self._dispatch_some(frames)
            else:
                self._dispatch(frames)
            if self.clogged:
                self._spare()
        elif connection.state is not State.CLOSING:
            self._held.extend(frames)
        if connection.kept:
            self.book()
        elif connection.fault is not None and self._held is None:
            self.disconnect(connection.fault)

    def connectionLost(self, reason: Failure) -> None:
        self.connection.advance(Event.LOST, self.turn.now())
        self.counters.connections -= 1
        self._held = []
        self.out = _NOWHERE
        self.connection.kept = b""
        self.look_due = 0.0
        self.owner.pump_lost(self, reason)
        self.commands, self.context = {}, None

    def pauseProducing(self) -> None:
        """The socket did not take everything."""
        self.clogged = True
        self._taken = -1
        self.book()

    def resumeProducing(self) -> None:
        """The socket has taken everything."""
        self.clogged = False
        self.room = self.budget
        if self.out:
            self.turn.flush((self,), self.turn.now())
        if self._waiting == 0 and self._held is not None:
            self._release()

    def stopProducing(self) -> None:
        """The transport is gone; `connectionLost` follows."""
        self.out = _NOWHERE

    # ---- frames in

    def _dispatch_some(self, frames: list[Frame]) -> None:
        """Many frames at once: the others come first when these have had their share."""
        share = FRAMES_AT_ONCE if self.connection.state is State.OPEN or not self.connection.accepting else NEWCOMER_FRAMES_AT_ONCE
        self._dispatch(frames[:share])
        rest = frames[share:]
        if not rest:
            return
        if self._held is None:
            self.suspend()
            self.turn.reactor.callLater(0, self.resume)
        if self._held is not None and self.connection.state not in (State.CLOSING, State.CLOSED):
            self._held.extend(rest)

    def _dispatch(self, frames: Iterable[Frame]) -> None:
        """The loop of the hot path: one dictionary look-up and one call for each frame."""
        rest = iter(frames)
        for frame in rest:
            try:
                handler = self.commands[frame[0]]
            except KeyError:
                handler = self._strange
            try:
                result = handler(self.context, frame)
                if result is not None:
                    self._wait_for(result, frame)
            except ImError as error:
                self.refuse(frame, error)
            except Exception:
                self._fail(frame)
            if self._held is not None:
                self._held.extend(rest)

    def _spare(self) -> None:
        """Takes nothing more from a client that asks for more than it reads, until it has read. (A client itself always reads, or two that
        wait for each other would wait for ever.)"""
        if self.connection.accepting and self._held is None and sum(map(len, self.out)) > self.budget:
            self._held = []
            self.transport.pauseProducing()

    def _strange(self, _: Any, frame: Frame) -> None:
        if self.connection.state in (State.CLOSING, State.CLOSED):
            return
        if not self.connection.may_come(frame[0]):
            raise RemoteProtocolError(
                Disconnect.UNEXPECTED, f"command 0x{frame[0] & 0xFFFF:04x} may not come in state {self.connection.state.value}"
            )
        self.owner.strange_frame(self, frame)

    def refuse(self, frame: Frame, error: ImError) -> None:
        """Answers a request with an error, or ends the connection if the error is of that kind."""
        if isinstance(error.code, Disconnect):
            self.disconnect(error)
        elif frame[0] >> 16 & 0xFF == Kind.REQUEST:
            self.counters.errors += 1
            self.write(refusal(frame[0] & 0xFFFF, frame[1], error))
        else:
            self.disconnect(RemoteProtocolError(Disconnect.MALFORMED, error.reason))

    def _fail(self, frame: Frame) -> None:
        log.failure("command 0x{command:04x} failed", command=frame[0] & 0xFFFF)
        self.disconnect(ImError(Disconnect.INTERNAL))

    def suspend(self) -> None:
        """Takes nothing more from this connection until `resume`; calls nest."""
        self._waiting += 1
        if self._held is None:
            self._held = []
            self.transport.pauseProducing()

    def resume(self) -> None:
        """Ends one `suspend`. A clogged connection goes on later, when its reader has caught up."""
        self._waiting -= 1
        if self._waiting == 0 and self._held is not None and not self.clogged:
            self._release()

    def _release(self) -> None:
        if self.connection.state in (State.CLOSING, State.CLOSED):
            return
        self.turn.book()
        held, self._held = self._held or [], None
        self.connection.waited(self.turn.now())
        self._dispatch_some(held)
        if self._held is None and self.connection.state not in (State.CLOSING, State.CLOSED):
            if self.connection.fault is not None:
                self.disconnect(self.connection.fault)
            else:
                self.transport.resumeProducing()

    def _wait_for(self, result: Deferred[Any], frame: Frame) -> None:
        self.suspend()

        def failed(failure: Failure) -> None:
            error = failure.check(ImError)
            if error is not None:
                self.refuse(frame, failure.value)  # type: ignore[arg-type]  # checked in the line above
            elif not (failure.check(CancelledError) and self.connection.state is State.CLOSED):
                log.failure("command 0x{command:04x} failed", failure, command=frame[0] & 0xFFFF)
                self.disconnect(ImError(Disconnect.INTERNAL))

        def ended(_: object) -> None:
            if at_once:  # the rest in another turn: a long row of such commands must not hold up everybody, nor pile up its answers
                self.turn.reactor.callLater(0, self.resume)
            else:
                self.resume()

        at_once = True
        result.addErrback(failed)
        result.addBoth(ended)
        at_once = False

    # ---- frames out

    def write(self, data: bytes) -> None:
        """Has one frame leave at the end of this turn."""
        out = self.out
        if not out:
            turn = self.turn
            turn.dirty.append(self)
            if not turn.booked:
                turn.book()
        out.append(data)

    # ---- time

    def book(self, not_before: float = 0.0) -> None:
        """Has the turn look at this connection at its deadline, unless it will do so before that anyway."""
        farthest = self.turn.now() + (self._patience / 3 if self.clogged else FARTHEST)
        when = min(max(self.connection.deadline(), not_before), farthest)
        if not self.look_due or when < self.look_due:
            self.look_due = when
            self.turn.look_at(self, when)

    def overdue(self) -> None:
        """A deadline may have come."""
        connection = self.connection
        if connection.state is State.CLOSED:
            return
        self.look_due = 0.0
        now = self.turn.now()
        due: Disconnect | Due | None
        if connection.state is State.OPEN and (self._held is not None or self.clogged):
            due = self._stalled(now)
        else:
            due = connection.check(now)
        silent = due is Disconnect.HANDSHAKE_TIMEOUT and connection.heard == connection.born
        if due is Due.ABORT or (silent and not isinstance(self.transport, DirectTransport)):
            self.abort()  # under TLS a stranger who has sent nothing may not even have shaken hands: there is no way to say goodbye
            return
        if due is Due.PING:
            self.write(request(Command.PING, 1))
        elif isinstance(due, Disconnect):
            self.disconnect(ImError(due))
        self.book(not_before=now)

    def _stalled(self, now: float) -> Due | None:
        """While one side does not read, neither silence nor an unanswered ping says anything: only whether bytes still leave tells a slow
        reader from a pulled cable."""
        bottom = self._bottom()
        taken = bottom.taken() if self.clogged and isinstance(bottom, DirectTransport) else -1
        if taken == -1 or taken != self._taken:
            self._taken, self._taken_since = taken, now
        return Due.ABORT if now - self._taken_since >= self._patience else None

    def _bottom(self) -> Any:
        """The transport beneath TLS, or the transport."""
        bottom = self.transport
        while hasattr(bottom, "transport"):
            bottom = bottom.transport
        return bottom

    # ---- the beginning and the end

    def welcome(self) -> None:
        """The other side has shown who it is, and is one of many from now on."""
        self.connection.advance(Event.WELCOME, self.turn.now())
        bottom = self._bottom()
        if isinstance(bottom, DirectTransport):
            bottom.admit()

    def disconnect(self, error: ImError, *, last: bytes | None = None, after_you: bool = False) -> None:
        """Says why, sends what is there, and closes. A peer that does not take it is cut off after a while.

        Args:
            error: with a `Disconnect` code.
            last: a frame to be sent instead of the disconnect notify.
            after_you: have the other side close, which it does when it has read this: what it still sends to a closed socket is answered
                with a reset, and a reset takes away what was not read yet.
        """
        connection = self.connection
        if connection.state in (State.CLOSING, State.CLOSED):
            return
        if last is None:
            self.counters.disconnects += 1
            last = notify(
                Command.DISCONNECT,
                code=error.code,
                come_back=int(error.temporary),
                retry_after=error.retry_after,
                reason=reason_bytes(error),
            )
        self.write(last)
        self.hang_up(after_you=after_you)

    def _close(self) -> None:
        if self.connection.state is not State.CLOSED:
            self.transport.unregisterProducer()
            self.transport.loseConnection()

    def hang_up(self, *, after_you: bool = False) -> None:
        """Closes without a word, since the other side has said why; `after_you`: see `disconnect`."""
        if self.connection.state not in (State.CLOSING, State.CLOSED):
            self.connection.advance(Event.END, self.turn.now())
            if self._held is not None:
                self.transport.resumeProducing()  # the other side's goodbye is read, also when nothing else was
            self._held = []
            self.counters.frames_out += len(self.out)
            last, self.out = b"".join(self.out), _NOWHERE
            self.book()
            if last:  # at once: whoever has this connection may close it before the next turn
                self.counters.bytes_out += len(last)
                self.counters.writes += 1
                self.transport.write(last)
            if not after_you:
                self.turn.reactor.callLater(0, self._close)  # not from within a call that the transport has made

    def abort(self) -> None:
        """Cuts the connection without another byte."""
        if self.connection.state is not State.CLOSED:
            self.transport.abortConnection()

    # ---- what every owner answers alike, or asks

    def answer_ping(self, frame: Frame) -> None:
        CODECS[Kind.REQUEST, Command.PING].read(frame[3])
        self.write(response(Command.PING, frame[1], time=int(self.turn.wall() * 1000)))

    @property
    def busy(self) -> bool:
        """Whether a command that it has taken is still being worked on."""
        return self._waiting > 0

    @property
    def secure(self) -> bool:
        """Over TLS."""
        return hasattr(self.transport, "getPeerCertificate")

    @property
    def peer(self) -> str:
        """Where the other side is, for logs and limits."""
        address = self.transport.getPeer()
        host = getattr(address, "host", None)
        return f"{host}:{address.port}" if host is not None else "unix"
