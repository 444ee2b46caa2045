"""The cork's lower half: a transport that writes to the socket at once, and reads from all sockets in one loop.

Strategy: `DirectTransport` stands between TCP and whatever is above it (a pump, or TLS and then a pump), because a `send` above TLS would
not reach the socket. What the socket does not take becomes Twisted's to send (the *tail*), and until Twisted's buffer is empty
nothing may overtake it: every later write is handed to Twisted as well. A pull producer tells when that is: Twisted asks it for
more as soon as its buffer is empty. `corked(reactor)` puts a `DirectTransport` under everything that listens or connects.

Reading is done in the same spirit: `Readable` reads from all sockets that have something in one loop, which saves the reactor's
bookkeeping for each of them. Nothing here knows of frames or connections.
"""

from __future__ import annotations

import fcntl
import select
import socket
import struct
import sys
import termios
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from OpenSSL import SSL
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IProtocol, IPullProducer, IReactorFDSet, IReadDescriptor, ITransport
from twisted.internet.tcp import Port
from twisted.logger import Logger
from twisted.protocols.tls import TLSMemoryBIOFactory, TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from zope.interface import directlyProvides, implementer, providedBy

log = Logger()

#: Sockets read in one turn. More would leave the cache; fewer would join fewer frames into one write.
AT_ONCE = 256
#: The same of those that have not logged in, whose frames cost far more: a crowd that comes in must not hold up those who are in. Also how
#: many are taken in and, when the other side has gone, let go in one turn.
NEWCOMERS_AT_ONCE = 32
ENDS_AT_ONCE = 64
ACCEPTS_AT_ONCE = 64

#: What a TLS record begins with (RFC 8446, 5.1): its type, a version that means nothing any more, and its length.
_RECORD = struct.Struct(">B2xH")
_APPLICATION_DATA = 23


@implementer(IPullProducer)
class _Tail:
    """Learns from Twisted when the bytes that the socket did not take have left."""

    __slots__ = ("_direct", "_first")

    def __init__(self, direct: DirectTransport) -> None:
        self._direct = direct
        self._first = True

    def resumeProducing(self) -> None:
        if self._first:  # the call that registering itself makes
            self._first = False
        else:
            self._direct.tail_sent()

    def stopProducing(self) -> None:
        self._first = True


@implementer(IReadDescriptor)
class Readable:
    """Reads from every socket that has something, in one loop for the whole reactor turn.

    To the reactor it is one descriptor: an epoll of its own, which is readable while any of its sockets is. That saves the reactor's
    bookkeeping for each read, and bounds a turn: what is read in one turn is still in the processor's cache when it is answered.

    The kernel hands sockets out in the order in which they became readable, so whoever is dear makes all behind it wait. Therefore those
    whose other side has ended only leave the row here, a few microseconds each, and are buried by Twisted a few at a time; and who has not
    logged in stands in a row of its own.

    Args:
        at_once: sockets read in one turn.
        beyond: where those go on who are admitted (`DirectTransport.admit`).
    """

    #: Bytes taken from a socket at once, as Twisted does.
    SIZE = 64 * 1024

    def __init__(self, reactor: Any, at_once: int, beyond: Readable | None = None) -> None:
        self.beyond = beyond
        self._reactor = reactor
        self._at_once = at_once
        self._epoll: Any = None
        self._of: list[DirectTransport | None] = []  #: by descriptor: a list takes fewer looks at cold memory than a dictionary
        self._count = 0
        self._ended: deque[DirectTransport] = deque()

    def add(self, fd: int, direct: DirectTransport) -> None:
        """Begins to read from a socket."""
        if not self._count:
            self._epoll = select.epoll()
            self._reactor.addReader(self)
        if fd >= len(self._of):
            self._of += [None] * (fd + 1 - len(self._of))
        if self._of[fd] is None:
            self._epoll.register(fd, select.EPOLLIN | select.EPOLLRDHUP)
            self._of[fd] = direct
            self._count += 1

    def remove(self, fd: int, direct: DirectTransport) -> bool:
        """Reads no more from it; it may be closed already. Whether it was read from."""
        if fd >= len(self._of) or self._of[fd] is not direct:
            return False
        self._of[fd] = None
        self._count -= 1
        with suppress(OSError):  # a closed descriptor has left the epoll by itself
            self._epoll.unregister(fd)
        if not self._count:
            self._reactor.removeReader(self)
            self._epoll.close()
        return True

    def fileno(self) -> int:
        return -1 if self._epoll.closed else int(self._epoll.fileno())

    def logPrefix(self) -> str:
        return "twisted_im"

    def connectionLost(self, reason: Failure) -> None:
        """The reactor is going down, and knows of these transports only through this."""
        for direct in [*filter(None, self._of), *self._ended]:
            direct.reactor_stopped(reason)

    def doRead(self) -> None:
        of, size, only_data = self._of, self.SIZE, select.EPOLLIN
        left = self._at_once
        while left:
            events = [] if self._epoll.closed else self._epoll.poll(0, left)
            ended = 0
            for fd, what in events:
                direct = of[fd]
                if direct is None:
                    continue  # it went away earlier in this loop
                if what != only_data:
                    ended += 1
                    self._bury(direct)
                    continue
                try:
                    data = direct.socket.recv(size)
                    if data:
                        direct.above.dataReceived(data)
                    else:
                        self._bury(direct)
                except (BlockingIOError, InterruptedError):
                    continue
                except OSError:
                    direct.abortConnection()
                except Exception:
                    log.failure("a protocol failed on what it received")
                    direct.abortConnection()
            left = ended if len(events) == left else 0  # the places of those that have only left the row

    def _bury(self, direct: DirectTransport) -> None:
        """The other side has ended its stream, or the connection is broken: Twisted reads what is left, and meets the end."""
        direct.leave_reading()
        if not self._ended:
            self._reactor.callLater(0, self._burials)
        self._ended.append(direct)

    def _burials(self) -> None:
        left = ENDS_AT_ONCE
        while left and self._ended:
            left -= self._ended.popleft().meet_the_end()
        if self._ended:
            self._reactor.callLater(0, self._burials)


class _Gone:
    """The socket of a connection that has ended, and what is above it."""

    def send(self, data: bytes) -> int:
        return len(data)

    def dataReceived(self, data: bytes) -> None:
        pass


_GONE = _Gone()


@implementer(IProtocol, ITransport)
class DirectTransport:
    """A transport whose `write` is a `send` on the socket; Twisted gets only what the socket does not take.

    It is the protocol of a TCP connection, and the transport of what stands above it. The connection's life stays Twisted's: its
    end is met there, and so are errors.

    Attributes:
        above: the protocol.
        socket: what is read from and written to.
    """

    __slots__ = ("_ending", "_fd", "_producer", "_readable", "_tail", "_tcp", "above", "socket")

    def __init__(self, above: Any, readable: Readable | None) -> None:
        self.above = above
        self.socket: Any = _GONE
        self._readable = readable
        self._fd = -1
        self._ending = False
        self._producer: Any = None
        self._tail = False
        self._tcp: Any = None

    # ---- as the protocol of a TCP connection

    def makeConnection(self, transport: Any) -> None:
        self._tcp = transport
        self.socket = transport.getHandle()
        if self._readable is not None:
            transport.pauseProducing()
            self._fd = self.socket.fileno()
            self._readable.add(self._fd, self)
        if hasattr(transport, "setTcpNoDelay"):
            transport.setTcpNoDelay(True)  # every write is a whole turn's worth; waiting for more helps nobody
        self.connectionMade()

    def connectionMade(self) -> None:
        self.above.makeConnection(self)

    def dataReceived(self, data: bytes) -> None:
        self.above.dataReceived(data)

    def connectionLost(self, reason: Failure) -> None:
        if self._readable is not None:
            self._readable.remove(self._fd, self)
            self._readable = None
        self._ending = False
        above, self.above = self.above, _GONE  # else they would hold each other for the collector
        self.socket, self._producer = _GONE, None
        above.connectionLost(reason)

    def reactor_stopped(self, reason: Failure) -> None:
        """Nothing will be read any more."""
        self._tcp.connectionLost(reason)

    def leave_reading(self) -> None:
        """The other side has ended its stream: from here on it is Twisted that reads, as soon as `meet_the_end` says so."""
        if self._readable is not None:
            self._readable.remove(self._fd, self)
            self._readable = None
            self._ending = True

    def meet_the_end(self) -> bool:
        """Twisted meets the end too, and does what is to be done. Whether there was anything to do still."""
        ending, self._ending = self._ending, False
        if ending:
            self._tcp.resumeProducing()
        return ending

    def admit(self) -> None:
        """The other side has shown who it is: it is read from among the others who have."""
        row = self._readable
        if row is not None and row.beyond is not None:
            self._readable = row.beyond
            if row.remove(self._fd, self):
                self._readable.add(self._fd, self)

    # ---- as the transport of what is above

    def write(self, data: bytes) -> None:
        if self._tail:
            self._tcp.write(data)
            if self._producer is not None:
                self._producer.pauseProducing()  # TLS may have told it to go on
            return
        try:
            sent = self.socket.send(data)
        except OSError:  # no room now; or an error that Twisted meets too, and ends the connection in its own time
            sent = 0
        if sent < len(data):
            self._tail = True
            self._tcp.write(data[sent:])
            if self._producer is not None:
                self._producer.pauseProducing()
            self._tcp.registerProducer(_Tail(self), False)

    def writeSequence(self, data: Iterable[bytes]) -> None:
        self.write(b"".join(data))

    def tail_sent(self) -> None:
        """Twisted's buffer is empty: writes may go to the socket again."""
        self._tail = False
        self._tcp.unregisterProducer()
        if self._producer is not None:
            self._producer.resumeProducing()

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        if not streaming:
            raise ValueError("only push producers: whatever stands above keeps its own queue")
        self._producer = producer
        if self._tail:
            producer.pauseProducing()

    def unregisterProducer(self) -> None:
        self._producer = None

    def taken(self) -> int:
        """A figure that changes when the other side takes bytes. Over TCP it is how many it has acknowledged in all: how many it has not
        yet may be the same whenever somebody looks, since the kernel is given new ones as soon as it has room. Else that must do."""
        if self.socket.family != socket.AF_UNIX:
            info = self.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 128)
            if len(info) == 128:
                return int.from_bytes(info[120:], sys.byteorder)  # tcpi_bytes_acked, since Linux 4.1
        return int.from_bytes(fcntl.ioctl(self.socket.fileno(), termios.TIOCOUTQ, bytes(4)), sys.byteorder)

    def pauseProducing(self) -> None:
        if self._readable is not None:
            self._readable.remove(self._fd, self)
        else:
            self._ending = False
            self._tcp.pauseProducing()

    def resumeProducing(self) -> None:
        if self._readable is None:
            self._tcp.resumeProducing()
        elif not self._tcp.disconnecting:
            self._readable.add(self._fd, self)

    def loseConnection(self, *reason: Any) -> None:
        if self._readable is not None:
            self._readable.remove(self._fd, self)
        self._tcp.loseConnection(*reason)

    def abortConnection(self) -> None:
        if self._readable is not None:
            self._readable.remove(self._fd, self)
        self._tcp.abortConnection()

    # No __getattr__ for the rest: the interpreter is slower on every attribute of a class that has one.

    def getPeer(self) -> Any:
        return self._tcp.getPeer()

    def getHost(self) -> Any:
        return self._tcp.getHost()

    def getHandle(self) -> Any:
        return self._tcp.getHandle()


class DirectFactory:
    """Puts a `DirectTransport` under every protocol of another factory.

    Attributes:
        port: where it listens, if it does, and if it is Twisted's.
    """

    def __init__(self, above: Any, readable: Readable | None) -> None:
        self.port: Port | None = None
        self._above = above
        self._readable = readable

    def buildProtocol(self, address: Any) -> Any:
        if self.port is not None:  # Twisted takes 20 more in each turn in which all came that it would take
            self.port.numberAccepts = min(self.port.numberAccepts, ACCEPTS_AT_ONCE)
        protocol = self._above.buildProtocol(address)
        return None if protocol is None else DirectTransport(protocol, self._readable)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._above, name)


class CorkedReactor:
    """A reactor whose TCP and Unix connections have a `DirectTransport` at the bottom, TLS or not. See `corked`."""

    def __init__(self, reactor: Any, shared: bool) -> None:
        self._reactor = reactor
        self._shared = shared
        able = hasattr(select, "epoll") and IReactorFDSet.providedBy(reactor)
        self._readable = Readable(reactor, AT_ONCE) if able else None
        self._newcomers = Readable(reactor, NEWCOMERS_AT_ONCE, self._readable) if able else None
        directlyProvides(self, providedBy(reactor))

    def listenTCP(self, port: int, factory: Any, *args: Any, **kwargs: Any) -> Any:
        return self._listen(self._share if self._shared else self._reactor.listenTCP, port, factory, *args, **kwargs)

    def _share(self, port: int, factory: Any, backlog: int = 50, interface: str = "") -> Any:
        """A port that others may listen at too (SO_REUSEPORT); Twisted has no word for that."""
        family = socket.AF_INET6 if ":" in interface else socket.AF_INET
        with socket.socket(family) as shared:
            try:
                shared.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                shared.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                shared.bind((interface, port))
                shared.listen(backlog)
                shared.setblocking(False)
            except OSError as error:
                raise CannotListenError(interface, port, error) from None
            return self._reactor.adoptStreamPort(shared.fileno(), family, factory)

    def listenUNIX(self, address: str, factory: Any, *args: Any, **kwargs: Any) -> Any:
        return self._listen(self._reactor.listenUNIX, address, factory, *args, **kwargs)

    def _listen(self, listen: Any, where: Any, factory: Any, *args: Any, **kwargs: Any) -> Any:
        direct = DirectFactory(factory, self._newcomers)
        port = listen(where, direct, *args, **kwargs)
        if isinstance(port, Port):
            direct.port = port
        return port

    def connectTCP(self, host: str, port: int, factory: Any, *args: Any, **kwargs: Any) -> Any:
        return self._reactor.connectTCP(host, port, DirectFactory(factory, self._readable), *args, **kwargs)

    def connectUNIX(self, address: str, factory: Any, *args: Any, **kwargs: Any) -> Any:
        return self._reactor.connectUNIX(address, DirectFactory(factory, self._readable), *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._reactor, name)


class RecordTLS(TLSMemoryBIOProtocol):
    """TLS that knows a whole record when it sees one.

    Twisted asks OpenSSL for more until it hears that there is nothing, and then whether there is something to send: two exceptions for each
    read. A read that is one record of application data, after a read that ended with a record, leaves nothing to be asked for, so one
    question is enough. Everything else is Twisted's.
    """

    _established = False
    _missing = 0  #: bytes of the last record that are still to come
    _piece = b""  #: the beginning of a record's header, if that was cut

    def dataReceived(self, data: bytes) -> None:
        size = len(data)
        begins = self._established and not self._missing and not self._piece
        if not begins or size <= _RECORD.size or _RECORD.unpack_from(data) != (_APPLICATION_DATA, size - _RECORD.size):
            self._follow(data)
            super().dataReceived(data)
            self._established = self._established or self.getHandle().get_peer_finished() is not None
            return
        tls = self.getHandle()
        tls.bio_write(data)
        try:
            received = tls.recv(size)
        except (SSL.WantReadError, SSL.ZeroReturnError):  # no data inside, or a farewell: Twisted asks again, and hears the same
            self._flushReceiveBIO()
        except SSL.Error:  # as Twisted has it; to ask again would give another answer
            if not self._lostTLSConnection:
                self._tlsShutdownFinished(Failure())
        else:
            self.wrappedProtocol.dataReceived(received)

    def _follow(self, data: bytes) -> None:
        """Where this read ends: with a record, or within one."""
        data = self._piece + data
        at, end = self._missing, len(data)
        while at + _RECORD.size <= end:
            at += _RECORD.size + _RECORD.unpack_from(data, at)[1]
        self._missing, self._piece = max(at - end, 0), data[at:]


def over_tls(creator: Any, factory: Any) -> TLSMemoryBIOFactory:
    """Puts TLS beneath every protocol of a factory that listens.

    Args:
        creator: makes OpenSSL's side of each connection (`IOpenSSLServerConnectionCreator`).
    """
    tls = TLSMemoryBIOFactory(creator, False, factory)
    tls.protocol = RecordTLS  # the default one waits another turn to gather small writes; ours are gathered
    return tls


def corked(reactor: Any, *, shared: bool = False) -> Any:
    """The same reactor, for use by endpoints: `serverFromString(corked(reactor), "tcp:7777")`.

    Args:
        shared: processes of one user may listen at one TCP port, and the kernel spreads connections over them.
    """
    return CorkedReactor(reactor, shared)
