"""The network between the processes: TCP as a program meets it, with ports, attempts to connect, and connections.

Strategy: a connection is two `Pipe`s with a `SimTransport` at each end. The kernel outlives its process: a process that is killed has its
connections closed for it, one that is stopped (SIGSTOP) still receives into its buffers. A machine without power is just silent, and
answers with resets when it is back. What a broken link loses is news of the end: a reset that meets it is gone, and the other side does not
know (a half-open connection).
"""

from __future__ import annotations

from typing import Any

from twisted.internet import error
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from twisted_im.sim.agenda import Runner
from twisted_im.sim.links import Links
from twisted_im.sim.pipe import Pipe
from twisted_im.sim.transport import SimTransport

#: Seconds between attempts to connect: doubled each time (RFC 6298).
SYN = 1.0


class Listener:
    """A port that a process listens on (`IListeningPort`)."""

    def __init__(self, network: Network, reactor: Runner, port: int, factory: Any, backlog: int) -> None:
        self._network = network
        self.reactor = reactor
        self.port = port
        self.factory = factory
        self.backlog = backlog
        self._closing = False
        self._waiting: dict[SimTransport, None] = {}  #: connections that the kernel has, and the process has not taken yet
        factory.doStart()

    def __repr__(self) -> str:
        return f"<{self.reactor.name} listens at {self.port}, {len(self._waiting)} wait>"

    @property
    def full(self) -> bool:
        """The kernel takes no more connections for now."""
        return len(self._waiting) >= self.backlog

    def meet(self, end: SimTransport) -> None:
        """The kernel has a new connection."""
        self._waiting[end] = None
        self.reactor.soon(self._accept, end)

    def _accept(self, end: SimTransport) -> None:
        if end in self._waiting and not self._closing:
            del self._waiting[end]
            end.accepted(self.factory)

    def getHost(self) -> IPv4Address:
        return IPv4Address("TCP", self.reactor.host, self.port)

    def startListening(self) -> None:
        """It does already."""

    def stopListening(self) -> Deferred[None]:
        if self._closing:
            return succeed(None)
        self._closing = True
        return deferLater(self.reactor, 0, self._close)  # type: ignore[arg-type]  # it has what is asked for

    def _close(self) -> None:
        del self._network.listeners[self.reactor.host, self.port]
        waiting, self._waiting = self._waiting, {}
        for end in waiting:
            if not end.gone:
                end.reset()
        self.factory.doStop()


class Connector:
    """An attempt to connect, and its connection (`IConnector`)."""

    def __init__(self, network: Network, reactor: Runner, host: str, port: int, factory: Any, timeout: float | None) -> None:
        self._network = network
        self._reactor = reactor
        self._to = host, port
        self.factory = factory
        self._timeout = timeout
        self._timer: Any = None
        self._transport: SimTransport | None = None
        self._started = False
        self.state = "disconnected"
        self.connect()

    def __repr__(self) -> str:
        return f"<{self._reactor.name} to {self._network.links.name_of(self._to[0])}:{self._to[1]}, {self.state}>"

    def connect(self) -> None:
        if self.state != "disconnected":
            raise RuntimeError("can't connect in this state")
        self.state = "connecting"
        if not self._started:
            self._started = True
            self.factory.doStart()
        if self._timeout is not None:
            self._timer = self._reactor.callLater(self._timeout, self._failed, error.TimeoutError())
        self.factory.startedConnecting(self)
        if self.state == "connecting":
            self._network.trace.note(self._reactor.agenda.now, "connect", self._reactor.name, self._network.links.name_of(self._to[0]))
            self._attempt(SYN)

    def _attempt(self, pause: float) -> None:
        """The first packet; it is sent again and again if nothing answers."""
        network, mine = self._network, self._reactor.host
        if self.state == "connecting" and self._reactor.alive:
            network.agenda.at(network.agenda.now + network.links.latency(mine, self._to[0]), None, self._met, pause)

    def _met(self, pause: float) -> None:
        """It would be there by now, and answered."""
        network, links, agenda = self._network, self._network.links, self._network.agenda
        mine, (host, port) = self._reactor.host, self._to
        if self.state != "connecting" or not self._reactor.alive:
            return
        back = links.latency(host, mine)
        listener = network.listeners.get((host, port))
        full = listener is not None and listener.full
        if full or not links.carries(mine, host) or not links.carries(host, mine):
            agenda.at(agenda.now + pause, None, self._attempt, pause * 2)
        elif listener is None or host in links.refusing:
            network.trace.note(agenda.now, "refuse", links.name_of(host), self._reactor.name)
            self._reactor.soon(self._failed, error.ConnectionRefusedError(), after=back)
        else:
            ours, theirs = network.pair(self._reactor, listener)
            self._reactor.soon(self._connected, ours, after=back)
            listener.meet(theirs)

    def _connected(self, transport: SimTransport) -> None:
        if self.state != "connecting":
            transport.reset()
            return
        self._cancel_timer()
        self.state = "connected"
        self._transport = transport
        transport.connected_by(self)

    def _cancel_timer(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()

    def _failed(self, why: Exception) -> None:
        if self.state == "connecting":
            self._cancel_timer()
            self.state = "disconnected"
            self.factory.clientConnectionFailed(self, Failure(why))
            self._over()

    def _over(self) -> None:
        if self.state == "disconnected":  # nor has the factory called `connect`
            self._started = False
            self.factory.doStop()

    def stopConnecting(self) -> None:
        if self.state != "connecting":
            raise error.NotConnectingError("we're not trying to connect")
        self._failed(error.UserError())

    def disconnect(self) -> None:
        if self.state == "connecting":
            self.stopConnecting()
        elif self._transport is not None:
            self._transport.loseConnection()

    def connection_lost(self, reason: Failure) -> None:
        """The connection is gone."""
        self.state = "disconnected"
        self.factory.clientConnectionLost(self, reason)
        self._over()

    def getDestination(self) -> IPv4Address:
        return IPv4Address("TCP", *self._to)


class Network:
    """All ports and connections of a world.

    Attributes:
        listeners: (host, port) → who listens there.
    """

    def __init__(self, links: Links) -> None:
        self.links = links
        self.agenda = links.agenda
        self.trace = links.trace
        self.listeners: dict[tuple[str, int], Listener] = {}
        self._connections: dict[SimTransport, None] = {}
        self._ports = 40_000

    def listen(self, reactor: Runner, port: int, factory: Any, backlog: int) -> Listener:
        """A port of a process; any free one for 0."""
        if port == 0:
            self._ports += 1
            port = self._ports
        place = reactor.host, port
        if place in self.listeners:
            raise error.CannotListenError("", port, OSError("address already in use"))
        listener = self.listeners[place] = Listener(self, reactor, port, factory, backlog)
        return listener

    def connect(self, reactor: Runner, host: str, port: int, factory: Any, timeout: float | None) -> Connector:
        """An attempt to connect."""
        return Connector(self, reactor, host, port, factory, timeout)

    def pair(self, client: Runner, listener: Listener) -> tuple[SimTransport, SimTransport]:
        """The two ends of a new connection."""
        there, back = Pipe(self.links), Pipe(self.links)
        self._ports += 1
        near, far = IPv4Address("TCP", client.host, self._ports), listener.getHost()
        mine = SimTransport(self.links, self.over, client, there, back, near, far)
        theirs = SimTransport(self.links, self.over, listener.reactor, back, there, far, near)
        there.sender = back.receiver = mine
        there.receiver = back.sender = theirs
        self._connections[mine] = self._connections[theirs] = None
        return mine, theirs

    def over(self, transport: SimTransport) -> None:
        """One end of a connection is closed."""
        self._connections.pop(transport, None)

    def connections(self, one: str, other: str) -> list[SimTransport]:
        """The ends on one host of its connections with another."""
        return [end for end in self._connections if end.host == one and end.peer_host == other]

    def close_all(self, reactor: Runner, *, silently: bool) -> None:
        """What the kernel does with the ports and connections of a process that is no more; silently if the kernel is no more either."""
        for place in [place for place, listener in self.listeners.items() if listener.reactor is reactor]:
            del self.listeners[place]
        for end in [end for end in self._connections if end.reactor is reactor]:
            end.orphaned(silently)
