"""One server process: its sessions, its commands, and what routers and features ask of it.

Strategy: every part is passed in, the reactor and the clock too, so that a simulation runs the same code. Features register their
commands here; the node never names one, nor opens a port (`twisted_im.edge`). It answers what no command takes, lends itself
to the router (`deliver_local`), and knows how to drain.
"""

from __future__ import annotations

import os
import time
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
from twisted_im.server.guesses import Guesses
from twisted_im.server.interfaces import Envelope, IPasswords, IRouterUp, Look
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
        most: connections taken at once; those beyond are told to come back later.
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
        known: users known to exist: one that was found once is not looked up again.
        pumps, sessions: who is here; newcomers are the pumps that have not logged in. All are oldest first.
        tenure: this node's name and lease, and who else lives.
        doubts: the peers that are not heard.
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
        self.on_renewed: list[Callable[[Look], Any]] = [self.doubts.look]
        self.known: set[bytes] = set()
        self._drained: Deferred[None] | None = None
        self._stopped = False
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

    def redirect(self, address: str, *, delay: float = 0.0) -> None:
        """Sends every client to another node: each is told, and its connection closed.

        Args:
            address: "host:port".
            delay: seconds that they are to wait first.
        """
        last = notify(Command.REDIRECT, delay=int(delay * 1000), address=address.encode("ascii"))
        for pump in list(self.pumps):
            pump.disconnect(ImError(Disconnect.SHUTTING_DOWN), last=last if pump.connection.state is State.OPEN else None)

    def _renewed(self, look: Look) -> None:
        for call in self.on_renewed:
            maybeDeferred(call, look).addErrback(lambda failure: log.warn("after a renewal: {why}", why=failure.getErrorMessage()))

    def _store_failed(self, failure: Failure) -> None:
        if self._store_broken:
            return  # whoever wrote has said so already
        self._store_broken = True
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
        if len(self.pumps) > self._most:
            self._turn_away(pump)
        elif len(self.newcomers) > max(self._most // 10, 16):
            oldest = next(iter(self.newcomers))
            patient = self.turn.now() - oldest.connection.born < 1.0  # a crowd that logs in, and not one that sits on places
            self._turn_away(pump if patient else oldest)

    def _turn_away(self, pump: Pump) -> None:
        self.newcomers.pop(pump, None)
        self._turned_away += 1  # each a little later than the one before, so that they do not come back all at once
        pump.disconnect(ImError(Disconnect.FULL, retry_after=2000 + self._turned_away * 617 % 4000))

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

    def doubt(self, peer: str, since: float) -> None:
        """What this peer has pushed since then may be lost."""
        self.doubts.doubt(peer, since)

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
        self.known.add(user)
        return True
