"""One server process: its sessions, its commands, and what routers and features ask of it.

Strategy: every part is passed in, the reactor and the clock too, so that a simulation runs the same code. Features register their
commands here; the node never names one, nor opens a port (`twisted_im.edge`). It answers what no command takes, lends itself
to the router (`deliver_local`), and knows how to drain.
"""

from __future__ import annotations

import math
import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred, inlineCallbacks, maybeDeferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from twisted_im.core.connection import Limits, State
from twisted_im.counters import Counters
from twisted_im.errors import Disconnect, ImError, RemoteProtocolError, Status
from twisted_im.pump import Handler, Pump, Turn
from twisted_im.server.doubt import Doubts
from twisted_im.server.elsewhere import Elsewhere
from twisted_im.server.guesses import Guesses
from twisted_im.server.interfaces import Envelope, IPasswords, IRouterUp, Look, StoreError
from twisted_im.server.ledger import Ledger
from twisted_im.server.names import answer, as_authenticator, uid_of
from twisted_im.server.sessions import Session, Sessions
from twisted_im.server.tenure import Tenure, is_gone
from twisted_im.wire.codec import notify, tag
from twisted_im.wire.framing import Frame
from twisted_im.wire.schema import Command, Kind

log = Logger()

#: Seconds for which a resume token is good: a month without a password, for a device that is used at all.
RESUME_LIFE = 30 * 86400.0

#: How a node is emptied: clients sent elsewhere in a second, as long as that takes no longer than it may; seconds between two lots of them;
#: seconds that a request under way may take after that.
DRAIN_RATE = 500
DRAIN_STEP = 0.1
DRAIN_GRACE = 5.0


@implementer(IRouterUp)
class Node:
    """An instant-messaging server, but for the ports that it listens on.

    Args:
        store: an `IStore`; the node closes it when it stops.
        router: an `IRouter`.
        authenticator: an `IAuthenticator`, or a callable that takes `Credentials` and gives a bool, a Deferred or an awaitable of one.
        features: callables that take the node and register their commands.
        reactor: an `IReactorTime`.
        name: this node's name, unique in its cluster.
        limits: deadlines, windows and sizes.
        most: connections taken at once; those beyond are sent to a node that has fewer, or told to come back later.
        clock: seconds, monotonic.
        wall: seconds since 1970.
        guesses: how often wrong secrets may be tried.
        resume_life: seconds for which a resume token that is not used stays good; 0 for no such tokens.
        random: gives so many random bytes, for resume tokens.
        broken: called with a failure, once, when the store can no longer be trusted, or another process has become this node.
        standby: wait while another process of this name uses the store.
        boot: 16 bytes of this run's own; by default `new_boot()` at its start.
        gone: whether the process of a boot id has certainly ended.

    Attributes:
        commands: what an open session may ask for, by tag; features fill it through `register`.
        strangers: the same for connections that have not logged in, by state.
        on_lost: called with each pump that is gone.
        on_renewed: called every other second or so, when this node's lease was renewed, with the `Look`; may give a Deferred.
        known: users known to exist, since one that was found once is not looked up again: key → the same key (see `one_key`).
        pumps, sessions: who is here; newcomers are the pumps that have not logged in. All are oldest first.
        tenure: this node's name and lease, and who else lives.
        doubts: the peers that are not heard.
        elsewhere: where clients may go that cannot stay.
        counters: what it has done.
    """

    def __init__(
        self,
        *,
        store: Any,
        router: Any,
        authenticator: Any,
        features: Sequence[Callable[[Node], object]],
        reactor: Any,
        name: str = "node",
        limits: Limits | None = None,
        most: int = 1_000_000,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        guesses: Guesses | None = None,
        resume_life: float = RESUME_LIFE,
        random: Callable[[int], bytes] = os.urandom,
        broken: Callable[[Failure], object] = lambda failure: None,
        standby: bool = False,
        boot: bytes = b"",
        gone: Callable[[bytes], bool] = is_gone,
    ) -> None:
        self.name = name
        self.store = store
        self.router = router
        self.authenticator = as_authenticator(authenticator)
        self.guesses = guesses or Guesses()
        self.resume_life = resume_life
        self.random = random
        self.limits = limits or Limits()
        self._most = most
        self.counters = Counters()
        self.turn = Turn(reactor, clock=clock, wall=wall, counters=self.counters)
        self._broken = broken
        self.ledger = Ledger(store, self.counters, broken=self._store_failed, unsure=self._unsure)
        self.turn.steps.append(self.ledger.commit)
        self.sessions = Sessions()
        self.pumps: dict[Pump, None] = {}
        self.newcomers: dict[Pump, None] = {}
        self.commands: dict[int, Handler] = {}
        self.strangers: dict[State, dict[int, Handler]] = {}
        self.on_lost: list[Callable[[Pump], object]] = []
        self.doubts = Doubts(store, self.turn, self.counters, name=name, links=router.links, fall_behind=self._fall_behind)
        self.elsewhere = Elsewhere(name)
        self.on_renewed: list[Callable[[Look], Any]] = [self.elsewhere.look, self.doubts.look]
        self.known: dict[bytes, bytes] = {}
        self._drained: Deferred[None] | None = None
        self._leaving = self._stopped = False
        self._turned_away = 0
        self.tenure = Tenure(
            store,
            reactor,
            name,
            boot=boot,
            standby=standby,
            lost=self._store_failed,
            renewed=self._renewed,
            gone=gone,
            load=lambda: len(self.pumps),
            clock=clock,
        )
        self._store_broken = False
        for feature in features:
            feature(self)

    @property
    def boot(self) -> bytes:
        """16 bytes of this run's own, from its start on."""
        return self.tenure.boot

    def register(self, kind: Kind, command: int, handler: Handler) -> None:
        """Has frames of open sessions taken by a handler.

        Raises:
            ValueError: somebody has registered for it already.
        """
        if self.commands.setdefault(tag(kind, command), handler) != handler:
            raise ValueError(f"two handlers for {kind.name} 0x{command:04x}")

    # ---- its life

    def start(self) -> Deferred[Any]:
        """Opens the store, takes this node's name there, and starts the router; connections may come when this has fired."""
        opened = maybeDeferred(self.store.open).addCallback(lambda _: self.tenure.take())
        opened.addCallback(lambda _: self.doubts.start(self.tenure.look) if not self._stopped else None)
        return opened.addCallback(lambda _: self.router.start(self) if not self._stopped else None)

    @inlineCallbacks
    def stop(self) -> Any:
        """Commits what was read, tells every client to come back later, and closes the authenticator and the store. Nobody may connect any
        more. A second call does nothing."""
        if self._stopped:
            return
        self._stopped = True
        self.doubts.stop()
        for pump in self.pumps:
            if pump.connection.state is State.OPEN:
                pump.suspend()
        yield self.ledger.answered()
        self.turn.end()
        for pump in list(self.pumps):
            pump.disconnect(ImError(Disconnect.SHUTTING_DOWN, retry_after=1000))
        if self.pumps:
            self._drained = Deferred()
            yield self._drained
        yield maybeDeferred(self.router.stop)
        if IPasswords.providedBy(self.authenticator):
            yield answer(self.authenticator.close)
        try:
            yield self.tenure.release()
            yield maybeDeferred(self.store.close)
        except Exception:
            if not self._store_broken:  # else it was said already that it can do nothing more
                raise
        finally:
            self.turn.stop()

    @inlineCallbacks
    def withdraw(self) -> Any:
        """Has no other node send clients here any more; those who come all the same are sent elsewhere. Comes before `drain`."""
        if self._stopped or self._leaving:
            return
        self._leaving = True
        yield self.tenure.withdraw()
        self.elsewhere.look(self.tenure.look)

    @inlineCallbacks
    def drain(self, seconds: float) -> Any:
        """Sends the clients to other nodes, as far as there are any for them: a few at once, many over so many seconds at most. What was
        read of each is answered first, so an unanswered request of theirs was not taken."""
        turn = self.turn
        waiting = deque(self.pumps)
        if not waiting or not self.elsewhere:
            return
        log.info("sending {count} clients to {nodes} other nodes", event="draining", count=len(waiting), nodes=len(self.elsewhere))
        lots = max(min(seconds, len(waiting) / DRAIN_RATE) / DRAIN_STEP, 1.0)
        lot = math.ceil(len(waiting) / lots)
        last = turn.now() + seconds + DRAIN_GRACE
        while waiting and self.elsewhere and not self._store_broken:
            late = turn.now() > last
            going: dict[Pump, str] = {}
            for pump in [waiting.popleft() for _ in range(len(waiting) if late else min(lot, len(waiting)))]:
                state = pump.connection.state
                if not late and (state is State.LOGIN or (state is State.OPEN and pump.busy)):
                    waiting.append(pump)  # it has an answer to get first
                elif state not in (State.CLOSING, State.CLOSED) and (address := self._place(pump)):
                    going[pump] = address
                    pump.suspend()
            yield self.ledger.answered()
            turn.end()
            for pump, address in going.items():
                if pump in self.pumps:
                    self._send_away(pump, address)
            if waiting:
                pause: Deferred[None] = Deferred()
                turn.reactor.callLater(DRAIN_STEP, pause.callback, None)
                yield pause

    def _place(self, pump: Pump, below: float = math.inf) -> str:
        return self.elsewhere.place(pump.peer, secure=pump.secure, below=below)

    def _send_away(self, pump: Pump, address: str) -> None:
        self.counters.redirected += 1
        last = notify(Command.REDIRECT, delay=0, address=address.encode("ascii"))
        pump.disconnect(ImError(Disconnect.SHUTTING_DOWN), last=last, after_you=True)

    def _renewed(self, look: Look) -> None:
        for call in self.on_renewed:
            maybeDeferred(call, look).addErrback(lambda failure: log.warn("after a renewal: {why}", why=failure.getErrorMessage()))

    def _store_failed(self, failure: Failure) -> None:
        if self._store_broken:
            return
        self._store_broken = True
        if isinstance(failure.value, StoreError):
            log.critical("nothing more is accepted: {why}", why=str(failure.value))
        else:
            why = f"{type(failure.value).__name__}: {failure.getErrorMessage()}"
            log.failure("the store is broken; nothing more is accepted: {why}", failure, why=why)
        for pump in list(self.pumps):
            pump.disconnect(ImError(Disconnect.STORE_FAILED))
        self._broken(failure)

    def _unsure(self, sessions: set[Session]) -> None:
        """What these sessions have sent is kept, and nobody was told: they come back and ask again, and all others read the log."""
        for session in self.sessions:
            if session not in sessions:
                session.fall_behind()
        for session in sorted(sessions, key=lambda session: session.number):
            session.pump.disconnect(ImError(Disconnect.INTERNAL))

    # ---- pumps

    def accept(self) -> Pump:
        """A pump for a connection that has come in."""
        return Pump(self, self.turn, self.limits, accepting=True)

    def pump_made(self, pump: Pump) -> None:
        self.pumps[pump] = None
        self.newcomers[pump] = None
        pump.commands = self.strangers[State.START]
        if self._leaving:
            self._turn_away(pump, ImError(Disconnect.SHUTTING_DOWN, retry_after=1000))
        elif len(self.pumps) > self._most:
            self._turn_away(pump, self._full(), below=len(self.pumps))
        elif len(self.newcomers) > max(self._most // 10, 16):
            oldest = next(iter(self.newcomers))
            patient = self.turn.now() - oldest.connection.born < 1.0  # a crowd that logs in, and not one that sits on places
            self._turn_away(pump if patient else oldest, self._full(), below=len(self.pumps))

    def _full(self) -> ImError:
        self._turned_away += 1  # each a little later than the one before, so that they do not come back all at once
        return ImError(Disconnect.FULL, retry_after=2000 + self._turned_away * 617 % 4000)

    def _turn_away(self, pump: Pump, error: ImError, *, below: float = math.inf) -> None:
        """Sends somebody to a node with fewer clients than so many, or says why it cannot stay."""
        self.newcomers.pop(pump, None)
        address = self._place(pump, below)
        if address:
            self._send_away(pump, address)
        else:
            pump.disconnect(error)

    def pump_lost(self, pump: Pump, reason: Failure) -> None:
        self.pumps.pop(pump, None)
        self.newcomers.pop(pump, None)
        for lost in self.on_lost:
            lost(pump)
        if self._drained is not None and not self.pumps:
            drained, self._drained = self._drained, None
            drained.callback(None)

    def strange_frame(self, pump: Pump, frame: Frame) -> None:
        """A request that nobody registered for gets an error; a notify is passed over, and a response to nothing ends the connection, as
        whatever has no command before login does."""
        kind = frame[0] >> 16 & 0xFF
        if pump.connection.state is not State.OPEN:
            raise RemoteProtocolError(Disconnect.UNEXPECTED, f"command 0x{frame[0] & 0xFFFF:04x} may not come before login")
        if kind == Kind.REQUEST:
            raise RemoteProtocolError(Status.UNKNOWN_COMMAND, f"command 0x{frame[0] & 0xFFFF:04x} is not known")
        if kind == Kind.RESPONSE:
            raise RemoteProtocolError(Disconnect.UNEXPECTED, "a response to nothing")

    # ---- what routers and features ask

    def deliver_local(self, envelopes: Sequence[Envelope]) -> int:
        """Pushes each frame to the sessions here of its audience, but for the one that it came from."""
        if not self.turn.ending:
            self.turn.book()
        return self.sessions.push(envelopes, self.turn.dirty)

    def announce(self, address: str) -> None:
        """Says where other nodes reach this one."""
        self.tenure.announce(address)

    def watch(self, call: Callable[[Look], object]) -> None:
        """Tells who lives: now, and whenever that was looked at."""
        self.on_renewed.append(call)
        call(self.tenure.look)

    def doubt(self, peer: str, since: float, *, leased: bool = True) -> None:
        """What this peer has pushed since then may be lost."""
        self.doubts.doubt(peer, since, leased=leased)

    def heard(self, peer: str) -> None:
        """What this peer pushes arrives from now on."""
        self.doubts.heard(peer)

    def _fall_behind(self) -> None:
        """Has every session here read for itself."""
        for session in self.sessions:
            session.fall_behind()

    @inlineCallbacks
    def exists(self, user: bytes) -> Any:
        """Whether there is such a user, by the store or by the authenticator."""
        if user in self.known:
            return True
        found = yield self.store.accounts([user], False)
        if not found:
            tenant = user.partition(b"\0")[0]
            if not (yield answer(self.authenticator.knows, tenant.decode(), uid_of(user).decode())):
                return False
            yield self.store.accounts([user], True)
        self.known.setdefault(user, user)
        return True

    def one_key(self, user: bytes) -> bytes:
        """This user's key as everybody here has it, if anybody has: a dictionary does not look at the bytes of what is the same object."""
        return self.known.get(user, user)
