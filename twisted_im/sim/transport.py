"""One end of a connection, as its kernel has it and as Twisted shows it to a protocol.

Strategy: `SimTransport` does what Twisted's own TCP transport does with a socket, down to when a producer is told what; `SimSocket` is what
`getHandle` gives, for whoever writes to the socket itself (`twisted_im.cork`). Both stand on the same two `Pipe`s. All that a protocol is
told comes from its own process's reactor, so it is told nothing while that process is stopped.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable
from typing import Any

from twisted.internet import error, main
from twisted.internet.address import IPv4Address
from twisted.internet.interfaces import ITCPTransport
from twisted.internet.protocol import Protocol
from twisted.python.failure import Failure
from zope.interface import implementer

from twisted_im.sim.agenda import Runner
from twisted_im.sim.links import Links
from twisted_im.sim.names import Names
from twisted_im.sim.pipe import Pipe

#: Bytes that Twisted reads at once, and that it holds before it tells a push producer to wait.
READ = 64 * 1024
HELD = 64 * 1024


class SimSocket:
    """What a program sees of a socket that does not block."""

    family = socket.AF_INET

    def __init__(self, transport: SimTransport) -> None:
        self._transport = transport

    def send(self, data: bytes) -> int:
        """Gives the kernel what it has room for.

        Raises:
            BlockingIOError: it has none.
            OSError: the connection is gone.
        """
        return self._transport.send(data)

    def fileno(self) -> int:
        """Of no use to anybody: there is no descriptor."""
        return -1

    def getsockopt(self, level: int, option: int, size: int = 0) -> bytes:
        """TCP_INFO, as far as the bytes that the other side has acknowledged."""
        if (level, option) != (socket.IPPROTO_TCP, socket.TCP_INFO):
            raise OSError(f"socket option {level}, {option} is not simulated")
        return bytes(120) + self._transport.pipe_out.taken.to_bytes(8, sys.byteorder)


@implementer(ITCPTransport)
class SimTransport:
    """One end of a connection.

    Attributes:
        gone: this end's process has closed it, or is no more.
    """

    def __init__(
        self,
        links: Links,
        over: Callable[[SimTransport], None],
        reactor: Runner,
        pipe_out: Pipe,
        pipe_in: Pipe,
        near: IPv4Address,
        far: IPv4Address,
    ) -> None:
        self._links = links
        self._over = over
        self.reactor = reactor
        self.pipe_out = pipe_out
        self._pipe_in = pipe_in
        self._near, self._far = near, far
        self.host, self.peer_host = near.host, far.host
        self.name = reactor.name
        self.gone = False
        self.disconnecting = self.disconnected = False
        self.connected = True
        self.protocol: Any = None
        self.producer: Any = None
        self.streamingProducer = False
        self._producer_paused = False
        self._connector: Any = None
        self._socket = SimSocket(self)
        self._names_in, self._names_out = Names(), Names()
        self._tail = bytearray()
        self._reading = False
        self._was_reset = False
        self._read_booked = self._write_booked = self._aborting = False

    def _note(self, kind: str, text: str = "", more: Callable[[], str] | None = None) -> None:
        self._links.trace.note(self._links.agenda.now, kind, self.name, self._links.name_of(self.peer_host), text, more)

    # ---- how it begins

    def accepted(self, factory: Any) -> None:
        """The process takes the connection from its kernel."""
        if self.gone:
            return
        try:
            protocol = factory.buildProtocol(self._far)
        except Exception:
            self._close()
            raise
        self._note("accept")
        if protocol is None:
            self._close()
        else:
            self._begin(protocol)

    def connected_by(self, connector: Any) -> None:
        """The other side has answered."""
        self._connector = connector
        protocol = connector.factory.buildProtocol(self._far)
        self._begin(Protocol() if protocol is None else protocol)
        if protocol is None:
            self.loseConnection()

    def _begin(self, protocol: Any) -> None:
        self.protocol = protocol
        self._reading = True
        self.readable()
        protocol.makeConnection(self)

    # ---- what the kernel tells

    @property
    def closed(self) -> bool:
        """Its kernel knows of no such connection any more, and answers whatever comes with a reset."""
        return self.gone or self._was_reset

    def readable(self) -> None:
        """There is something to be read, or the stream has ended."""
        if self._reading and not self._read_booked and not self.gone:
            self._read_booked = True
            pause, _ = self._links.slow.get(self.host, (0.0, 0))
            self.reactor.soon(self._read, after=pause)

    def writable(self) -> None:
        """There is room for bytes again."""
        if (self._tail or self.disconnecting) and not self.gone:
            self._book_write()

    def was_reset(self) -> None:
        """The other side has broken the connection: who reads or writes next meets it."""
        self.pipe_out.die()
        if not self.gone and not self._was_reset:
            self._was_reset = True
            if self._links.chance.random() < 0.5:
                self._pipe_in.inbox.clear()  # what was there to be read is thrown away with the connection, or is read first
            self.readable()
            self.writable()

    # ---- reading

    def _read(self) -> None:
        self._read_booked = False
        if self.gone or not self._reading:
            return
        pipe = self._pipe_in
        _, most = self._links.slow.get(self.host, (0.0, READ))
        if pipe.inbox:
            self._deliver(pipe.read(most))
            if pipe.inbox or pipe.ended or self._was_reset:
                self.readable()
        elif self._was_reset:
            self._lost(Failure(main.CONNECTION_LOST))
        elif pipe.ended:
            self._lost(Failure(main.CONNECTION_DONE))

    def _deliver(self, data: bytes) -> None:
        self._note("arrive", f"{len(data)} bytes", lambda: self._names_in.of(data))
        try:
            self.protocol.dataReceived(data)
        except Exception as problem:
            self._lost(Failure(problem))
            raise

    def pauseProducing(self) -> None:
        self._reading = False

    def resumeProducing(self) -> None:
        if self.connected and not self.disconnecting and not self._aborting:
            self._reading = True
            self.readable()

    def stopProducing(self) -> None:
        self.loseConnection()

    # ---- writing

    def send(self, data: bytes) -> int:
        """What the socket takes at once; see `SimSocket.send`."""
        if self.gone or self._was_reset:
            raise BrokenPipeError("the connection is gone")
        sent = self.pipe_out.write(data)
        if not sent and data:
            raise BlockingIOError("no room")
        self._note("send", f"{sent} bytes", lambda: self._names_out.of(data[:sent]))
        return sent

    def write(self, data: bytes) -> None:
        if not isinstance(data, bytes | bytearray | memoryview):
            raise TypeError("Data must be bytes-like")
        if not self.connected or not data:
            return
        self._tail += data
        if self.producer is not None and self.streamingProducer and len(self._tail) > HELD:
            self._producer_paused = True
            self.producer.pauseProducing()
        self._book_write()

    def writeSequence(self, data: Any) -> None:
        self.write(b"".join(data))

    def _book_write(self) -> None:
        if not self._write_booked:
            self._write_booked = True
            self.reactor.soon(self._do_write)

    def _do_write(self) -> None:
        self._write_booked = False
        if self.gone or self._aborting:
            return
        if self._was_reset:
            self._lost(Failure(main.CONNECTION_LOST))
            return
        if self._tail:
            try:
                del self._tail[: self.send(bytes(self._tail))]
            except BlockingIOError:
                return
            if self._tail:
                return  # `writable` is told when there is room
        if self.producer is not None and (not self.streamingProducer or self._producer_paused):
            self._producer_paused = False
            self.producer.resumeProducing()
        elif self.disconnecting:
            self._lost(Failure(main.CONNECTION_DONE))

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        if self.producer is not None:
            raise RuntimeError(f"Cannot register producer {producer} because producer {self.producer} was never unregistered.")
        if self.disconnected:
            producer.stopProducing()
            return
        self.producer = producer
        self.streamingProducer = streaming
        if not streaming:
            producer.resumeProducing()

    def unregisterProducer(self) -> None:
        self.producer = None
        if self.connected and self.disconnecting:
            self._book_write()

    # ---- how it ends

    def loseConnection(self, reason: object = None) -> None:
        if self.connected and not self.disconnecting:
            self._reading = False
            self.disconnecting = True
            self._book_write()

    def loseWriteConnection(self) -> None:
        raise NotImplementedError("half-closed connections are not simulated")

    def abortConnection(self) -> None:
        if not self.disconnected and not self._aborting:
            self._aborting = True
            self._reading = False
            self.reactor.soon(self._aborted)

    def _aborted(self) -> None:
        if not self.disconnected:
            self.reset()
            self._lost(Failure(error.ConnectionAborted()))

    def reset(self) -> None:
        """Breaks the connection (RST)."""
        self._note("reset")
        self.pipe_out.die()
        self._pipe_in.inbox.clear()
        self._links.reset(self, self._peer)
        self._leave()

    @property
    def _peer(self) -> Any:
        return self.pipe_out.receiver

    def _close(self) -> None:
        """Closes the socket. Bytes that nobody has read make that a reset, as they do in Linux."""
        if self.gone:
            return
        if self._pipe_in.inbox and not self._was_reset:
            self.reset()
        else:
            self._note("close")
            self.pipe_out.end()
            self._leave()

    def _leave(self) -> None:
        self.gone = True
        self._over(self)

    def _lost(self, reason: Failure) -> None:
        """What Twisted does when a connection has ended."""
        if self.disconnected:
            return
        self.disconnected = True
        self.connected = self._reading = False
        producer, self.producer = self.producer, None
        if producer is not None:
            producer.stopProducing()
        self._close()
        protocol, self.protocol = self.protocol, None
        if protocol is not None:
            protocol.connectionLost(reason)
        if self._connector is not None:
            self._connector.connection_lost(reason)

    def __repr__(self) -> str:
        state = "gone" if self.gone else "reset" if self._was_reset else "closing" if self.disconnecting else "open"
        return f"<{self.name} to {self._links.name_of(self.peer_host)}:{self._far.port}, {state}, {len(self._tail)} bytes wait>"

    def orphaned(self, silently: bool) -> None:
        """The process is no more; silently if its machine is not either, and nobody says so to the other side."""
        if self.gone:
            return
        if silently:
            self.pipe_out.die()
            self._pipe_in.inbox.clear()
            self._leave()
        elif self.protocol is None:
            self.reset()  # it has never been more than its kernel's
        else:
            self._close()

    # ---- what it is

    def getPeer(self) -> IPv4Address:
        return self._far

    def getHost(self) -> IPv4Address:
        return self._near

    def getHandle(self) -> SimSocket:
        return self._socket

    def setTcpNoDelay(self, enabled: bool) -> None:
        """Nothing is ever delayed to be sent with more."""

    def getTcpNoDelay(self) -> bool:
        return True

    def setTcpKeepAlive(self, enabled: bool) -> None:
        """Programs here have heartbeats of their own."""

    def getTcpKeepAlive(self) -> bool:
        return False
