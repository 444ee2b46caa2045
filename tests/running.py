"""A server on real sockets inside a test, and what talks to it: bare frames, the client library, and a network that can be cut.

Strategy: server, clients and test share the test's reactor, so a test can look at either side between two frames. Nothing sleeps: a test
waits for a frame or for a condition, and where time matters it brings a clock that is moved by hand. `Raw` stands on Twisted's own
transport, not on the cork, so that what is tested is not also what tests. Everything that is opened here is closed when the test ends,
and trial then looks whether the reactor is clean.
"""

from __future__ import annotations

import ipaddress
import os
import random
import tempfile
import time
from collections import deque
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID
from twisted.internet import reactor
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol, wrapClientTLS
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.ssl import Certificate, optionsForClientTLS, trustRootFromCertificates
from twisted.internet.task import Clock, deferLater
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase
from zope.interface import directlyProvides, providedBy

from twisted_im.client.client import Client
from twisted_im.commands.certificate import LEAF_LIFE, make_authority, make_leaf, server_name
from twisted_im.core.connection import Limits
from twisted_im.core.delivery import ClientIds
from twisted_im.errors import Disconnect, ImError, RemoteProtocolError, Status
from twisted_im.pem import as_pem
from twisted_im.routing.single import SingleRouter
from twisted_im.server.authenticators import Anybody
from twisted_im.server.sessions import Session
from twisted_im.service import ImServer
from twisted_im.storage.memory import MemoryStore
from twisted_im.wire.codec import CODECS, ERROR, HEADER, frame, notify, request
from twisted_im.wire.framing import Frame, FrameReader
from twisted_im.wire.schema import VERSION, Command, ContentType, Direction, Kind, LoginMethod, ReceiptType, SyncScope

#: Seconds for a condition to come true. A machine that is shared may stop for a while; a fault waits for ever.
PATIENCE = 60.0

_DONE = Failure(ConnectionDone())
_folder = tempfile.TemporaryDirectory(prefix="twisted_im-tests-")


@cache
def certificate() -> str:
    """The path of a PEM file with a key and its certificate, for 127.0.0.1 and localhost; it goes with the process."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    names = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = Path(_folder.name) / "localhost.pem"
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + made.public_bytes(serialization.Encoding.PEM)
    )
    return str(path)


class Authority:
    """Signs certificates into files, as `python -m twisted_im certificate` does.

    Args:
        folder: where its own certificate goes.

    Attributes:
        pem: the path of that.
    """

    def __init__(self, folder: Path) -> None:
        self._signer = make_authority()
        self.pem = folder / "authority.pem"
        self.pem.write_bytes(as_pem(self._signer[0]))

    @property
    def roots(self) -> Any:
        """What a client of Twisted trusts."""
        return trustRootFromCertificates([Certificate.loadPEM(self.pem.read_bytes())])

    def pair(self, path: Path, *names: str, client: bool = False, node: bool = False, life: timedelta = LEAF_LIFE) -> Path:
        """Puts a key and a certificate for these names into a file, which changes from one moment to the next."""
        uses = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        purposes = uses if node else uses[1:] if client else uses[:1]
        made, key = make_leaf(self._signer, names[0], [server_name(name) for name in names], purposes, life=life)
        path.with_suffix(".new").write_bytes(as_pem(key) + as_pem(made))
        return path.with_suffix(".new").rename(path)


def client_tls() -> Any:
    """What a TLS client needs to trust that certificate."""
    pem = Path(certificate()).read_bytes()
    own = Certificate.loadPEM(pem[pem.index(b"-----BEGIN CERT") :])
    return optionsForClientTLS("127.0.0.1", trustRoot=trustRootFromCertificates([own]))


PLAIN = "tcp:0:interface=127.0.0.1"


def tls() -> str:
    """The endpoint string of a TLS port."""
    return f"ssl:0:interface=127.0.0.1:privateKey={certificate()}:certKey={certificate()}"


class Hand:
    """The test's reactor, but for its time, which is moved by hand: what is to come later comes when `advance` says so."""

    def __init__(self) -> None:
        self._clock = Clock()
        self._clock.advance(1000)
        directlyProvides(self, providedBy(reactor))

    def seconds(self) -> float:
        return float(self._clock.seconds())

    def callLater(self, delay: float, call: Callable[..., object], *args: Any, **kwargs: Any) -> Any:
        """At the end of the turn, or when its time has been made to come."""
        return (self._clock if delay > 0 else reactor).callLater(delay, call, *args, **kwargs)

    def advance(self, seconds: float) -> None:
        self._clock.advance(seconds)

    def __getattr__(self, name: str) -> Any:
        return getattr(reactor, name)


async def until(condition: Callable[[], Any], what: str) -> Any:
    """Waits for a condition, and gives its value.

    Raises:
        AssertionError: it has not come true in `PATIENCE`.
    """
    end = time.monotonic() + PATIENCE
    while not (value := condition()):
        if time.monotonic() > end:
            raise AssertionError(f"waited in vain for {what}")
        await deferLater(reactor, 0.001)
    return value


async def refusal(asked: Awaitable[Any]) -> ImError:
    """The error that something is refused with."""
    try:
        got = await asked
    except ImError as error:
        return error
    raise AssertionError(f"not refused: {got}")


_ids = ClientIds(random.SystemRandom().getrandbits)


def new_id(*, seconds: float = 0.0) -> bytes:
    """A client id, made so many seconds from now."""
    if seconds:
        return ClientIds(random.SystemRandom().getrandbits).make(int((time.time() + seconds) * 1000))
    return _ids.make(int(time.time() * 1000))


class Got(NamedTuple):
    """A frame that has come."""

    kind: Kind
    command: int
    request_id: int
    status: int
    body: bytes

    @property
    def values(self) -> Any:
        """What its body says; the body itself if its command is not the project's."""
        codec = ERROR if self.status else CODECS.get((self.kind, self.command))
        return self.body if codec is None else codec.read(self.body)

    def is_(self, kind: Kind, command: int) -> bool:
        return (self.kind, self.command) == (kind, command)

    def __repr__(self) -> str:
        return f"<{self.kind.name} 0x{self.command:04x} #{self.request_id} {Status(self.status).name} {self.values!r}>"


class Raw(Protocol):
    """A client that is nothing but frames.

    Attributes:
        got: frames that have come and were not taken.
        notifies: notifies that have come, as a WINDOW counts them.
        all: everything that has come, as bytes.
        lost: why the connection ended; None while it lives.
    """

    uid = ""

    def __init__(self) -> None:
        self.got: deque[Got] = deque()
        self.notifies = 0
        self.all = bytearray()
        self.lost: Failure | None = None
        self.device = os.urandom(16)
        self.login_values: Any = None
        self._reader = FrameReader(2**32 - 1)
        self._last_id = 0
        self._looking: list[Callable[[], None]] = []

    # ---- Twisted's side

    def dataReceived(self, data: bytes) -> None:
        self.all += data
        for word, request_id, rest, body in self._reader.feed(data):
            found = Got(Kind(word >> 16 & 0xFF), word & 0xFFFF, request_id, rest & 0xFFFF, body)
            self.notifies += found.kind is Kind.NOTIFY and found.command not in (Command.DISCONNECT, Command.REDIRECT)
            self.got.append(found)
        self._look()

    def connectionLost(self, reason: Failure = _DONE) -> None:
        self.lost = reason
        self._look()

    def _look(self) -> None:
        for look in list(self._looking):
            look()

    # ---- in

    def _when(self, take: Callable[[], Any], what: str) -> Deferred[Any]:
        """Fires with what `take` gives, when it gives something; fails when the connection ends before that."""
        wanted: Deferred[Any] = Deferred(lambda _: self._looking.remove(look))

        def look() -> None:
            found = take()
            if found is None and self.lost is None:
                return
            self._looking.remove(look)
            if found is None:
                who = self.uid or "somebody"
                wanted.errback(Failure(AssertionError(f"{who} waited for {what}, and the connection ended: {list(self.got)}")))
            else:
                wanted.callback(found)

        self._looking.append(look)
        look()
        return wanted

    def next(self) -> Deferred[Got]:
        """The next frame."""
        return self._when(lambda: self.got.popleft() if self.got else None, "a frame")

    def first(self, match: Callable[[Got], bool], what: str) -> Deferred[Got]:
        """The first frame that matches; what came before it and does not match stays."""

        def take() -> Got | None:
            for found in self.got:
                if match(found):
                    self.got.remove(found)
                    return found
            return None

        return self._when(take, what)

    def told(self, command: Command) -> Deferred[Any]:
        """The values of the next notify of a command."""
        return self.first(lambda got: got.is_(Kind.NOTIFY, command), f"a {command.name} notify").addCallback(lambda got: got.values)

    def ended(self) -> Deferred[Got | None]:
        """The last frame, when the connection has ended; None if there was none left."""

        def take() -> tuple[Got | None] | None:
            return (self.got[-1] if self.got else None,) if self.lost is not None else None

        return self._when(take, "its end").addCallback(lambda found: found[0])

    async def disconnected(self) -> Disconnect:
        """The code of the disconnect notify that must be the last frame before the end."""
        last = await self.ended()
        assert last is not None, "it ended without a word"
        assert last.is_(Kind.NOTIFY, Command.DISCONNECT), last
        assert sum(got.is_(Kind.NOTIFY, Command.DISCONNECT) for got in self.got) == 1
        return Disconnect(last.values.code)

    def messages(self) -> list[Any]:
        """Takes all message notifies that have come."""
        return self._taken(Command.MESSAGE)

    def receipts(self) -> list[tuple[int, int, int, bytes]]:
        """Takes all receipt notifies that have come."""
        return [tuple(values) for values in self._taken(Command.RECEIPT)]

    def _taken(self, command: Command) -> list[Any]:
        found = [got for got in self.got if got.is_(Kind.NOTIFY, command)]
        for got in found:
            self.got.remove(got)
        return [got.values for got in found]

    # ---- out

    def write(self, data: bytes) -> None:
        self.transport.write(data)

    def request(self, command: int, **values: Any) -> tuple[int, bytes]:
        """A request with a new id, not sent yet."""
        self._last_id += 1
        return self._last_id, request(Command(command), self._last_id, **values)

    def tell(self, command: Command, **values: Any) -> None:
        """Sends a notify."""
        self.write(notify(command, **values))

    def answer(self, request_id: int) -> Deferred[Any]:
        """The values of a response; fails with an `ImError` if it is an error."""

        def read(got: Got) -> Any:
            if got.status:
                values = got.values
                error = RemoteProtocolError(Status(got.status), values.reason.decode(), values.retry_after)
                assert error.temporary == bool(values.temporary)
                raise error
            return got.values

        response = self.first(lambda got: got.kind is Kind.RESPONSE and got.request_id == request_id, f"the answer to {request_id}")
        return response.addCallback(read)

    def ask(self, command: int, **values: Any) -> Deferred[Any]:
        """Sends a request; gives its response's values."""
        request_id, data = self.request(command, **values)
        self.write(data)
        return self.answer(request_id)

    def ask_body(self, command: int, body: bytes) -> Deferred[Any]:
        """The same with a body that need not be one."""
        self._last_id += 1
        self.write(frame(Kind.REQUEST, command, body, self._last_id))
        return self.answer(self._last_id)

    # ---- what clients do

    def hello(self, **wishes: Any) -> Deferred[Any]:
        plain = {"min_version": VERSION, "max_version": VERSION, "features": 0, "max_body": 0, "heartbeat": 0, "window": 0, "agent": b"raw"}
        return self.ask(Command.HELLO, **{**plain, **wishes})

    def login(
        self,
        uid: str | bytes,
        *,
        device: bytes | None = None,
        tenant: bytes = b"",
        label: bytes = b"",
        secret: bytes = b"",
        method: int = LoginMethod.PASSWORD,
    ) -> Deferred[Any]:
        self.device = device or self.device
        name = uid if isinstance(uid, bytes) else uid.encode()
        self.uid = name.decode("utf-8", "replace")

        def granted(values: Any) -> Any:
            self.login_values = values
            return values

        asked = self.ask(Command.LOGIN, method=method, device=self.device, tenant=tenant, uid=name, label=label, secret=secret)
        return asked.addCallback(granted)

    @staticmethod
    def message_values(to: str | int, content: bytes, client_id: bytes = b"", content_type: int = ContentType.TEXT) -> dict[str, Any]:
        """What packet 1 says."""
        target, conversation = (to.encode(), 0) if isinstance(to, str) else (b"", to)
        return {
            "client_id": client_id or new_id(),
            "conversation": conversation,
            "content_type": content_type,
            "life": 0,
            "target": target,
            "content": content,
        }

    def send(self, to: str | int, content: bytes, client_id: bytes = b"") -> Deferred[Any]:
        """Packet 1; gives packet 2."""
        return self.ask(Command.MESSAGE, **self.message_values(to, content, client_id))

    def delivered(self, conversation: int, seq: int) -> Deferred[Any]:
        return self.ask(Command.RECEIPT, conversation=conversation, seq=seq, type=ReceiptType.DELIVERED)

    def read(self, conversation: int, seq: int) -> Deferred[Any]:
        return self.ask(Command.RECEIPT, conversation=conversation, seq=seq, type=ReceiptType.READ)

    def sync(self, *, since: int = 0, after: int = 0, limit: int = 0, scope: int = SyncScope.CHANGED) -> Deferred[Any]:
        return self.ask(Command.SYNC, since=since, after=after, limit=limit, scope=scope)

    def history(self, conversation: int, first: int, last: int, *, limit: int = 0, direction: int = Direction.FORWARD) -> Deferred[Any]:
        return self.ask(Command.HISTORY, conversation=conversation, first=first, last=last, limit=limit, direction=direction)

    async def everything(self, conversation: int, first: int = 1) -> list[Any]:
        """All rows of a conversation from a seq on, by as many ranges as it takes."""
        rows: list[Any] = []
        head = first
        while first <= head:
            answer = await self.history(conversation, first, 2**64 - 1)
            assert answer.first == first <= answer.last + 1
            rows += answer.messages
            first, head = answer.last + 1, answer.head
        return rows

    def acknowledge(self) -> None:
        """Tells how many notifies have come."""
        self.tell(Command.WINDOW, count=self.notifies)

    def settle(self) -> Deferred[Any]:
        """When this fires, whatever the server has written to this connection until now is here."""
        return self.ask(Command.PING)

    def close(self) -> Deferred[Any]:
        """Cuts the connection, if it lives; fires when it has ended."""
        if self.lost is None:
            self.transport.abortConnection()
        return self._when(lambda: True if self.lost is not None else None, "its end")


class Served(TestCase):
    """A test with a server.

    Attributes:
        server: the one that `serve` has started last.
    """

    timeout = 180
    server: ImServer

    def make_store(self) -> Any:
        """What the server keeps its messages in."""
        return MemoryStore()

    async def serve(
        self, *, limits: Limits | None = None, listen: tuple[str, ...] = (PLAIN,), hand: Hand | None = None, **arguments: Any
    ) -> ImServer:
        """Starts a server where anybody may log in, unless the arguments say otherwise.

        Args:
            hand: moves the server's time.
        """
        plain = {"store": self.make_store(), "router": SingleRouter(), "authenticator": Anybody()}
        if hand is not None:
            plain["clock"] = hand.seconds
        self.server = ImServer(reactor=hand or reactor, listen=listen, limits=limits, **{**plain, **arguments})
        self.server.startService()
        self.addCleanup(lambda server=self.server: server.stopService() if server.running else None)
        await self.server.started
        return self.server

    def port(self, index: int = 0) -> int:
        """A port of the server's."""
        return int(self.server.addresses[index].rpartition(":")[2])

    async def connect(self, *, index: int = 0, tls: bool = False, port: int = 0) -> Raw:
        """A connection that has not said anything."""
        endpoint: Any = TCP4ClientEndpoint(reactor, "127.0.0.1", port or self.port(index))
        if tls:
            endpoint = wrapClientTLS(client_tls(), endpoint)
        raw: Raw = await connectProtocol(endpoint, Raw())
        self.addCleanup(raw.close)
        return raw

    async def greeted(self, **how: Any) -> Raw:
        """A connection after its hello."""
        raw = await self.connect(**how)
        await raw.hello()
        return raw

    async def user(self, uid: str, *, device: bytes | None = None, tenant: bytes = b"", label: bytes = b"", **how: Any) -> Raw:
        """A device, logged in."""
        raw = await self.greeted(**how)
        await raw.login(uid, device=device, tenant=tenant, label=label)
        return raw

    def client(self, uid: str, *, port: int = 0, **arguments: Any) -> Client:
        """The client library, not started; it comes back at once after a lost connection."""
        client = Client(f"127.0.0.1:{port or self.port()}", uid=uid, reactor=reactor, random=Eager(), **arguments)
        self.addCleanup(lambda: maybeDeferred(client.stopService) if client.running else None)
        return client

    def session(self, raw: Raw) -> Session:
        """The server's side of a logged-in connection."""
        found = [session for session in self.server.node.sessions if session.device == raw.device and session.uid.decode() == raw.uid]
        assert len(found) == 1
        return found[0]


class Eager(random.Random):
    """Random numbers for a client that never waits before it connects again."""

    def random(self) -> float:
        return 0.0


class Proxy:
    """A stretch of network between clients and a server, which passes frames on until it is told to lose one.

    Attributes:
        passed: every frame that went through, as ("up" or "down", kind, command, body).
        lost: the frame that was cut, and None before.
        losses: how many were cut.
        gate: while it is closed, new connections get no answer.
    """

    def __init__(self, case: Served) -> None:
        self.passed: list[tuple[str, Kind, int, bytes]] = []
        self.lost: tuple[str, Kind, int, bytes] | None = None
        self.gate = True
        self._case = case
        self.losses = 0
        self._cut: Callable[[str, Kind, int, bytes], bool] = lambda *_: False
        self._again = False
        self._ends: list[_End] = []
        self._waiting: list[_End] = []
        factory = Factory.forProtocol(lambda: _End(self, "up"))
        factory.noisy = False
        self._listening = reactor.listenTCP(0, factory, interface="127.0.0.1")
        self.port: int = self._listening.getHost().port
        case.addCleanup(self._stop)

    def lose(self, direction: str, kind: Kind, command: Command, match: Callable[[Any], bool] = lambda values: True) -> None:
        """The next such frame is not passed on, and its connection ends in both directions; what went before it still arrives. New
        connections wait until `open`."""
        self.lost = None
        self._cut = lambda *seen: seen[:3] == (direction, kind, command) and match(CODECS[kind, command].read(seen[3]))

    def weather(self, chance: random.Random, share: float) -> None:
        """From now on, any frame is lost with this probability, and new connections get through at once."""
        self.lost, self._again = None, True
        self._cut = lambda *seen: chance.random() < share

    def open(self) -> None:
        """New connections get through."""
        self.gate = True
        waiting, self._waiting = self._waiting, []
        for end in waiting:
            end.go_on()

    def count(self, direction: str, kind: Kind, command: Command) -> int:
        """Frames of one kind that have passed."""
        return sum(seen[:3] == (direction, kind, command) for seen in self.passed)

    def values(self, direction: str, kind: Kind, command: Command, *, since: int = 0) -> list[Any]:
        """What they said, from the frame of this number on."""
        return [CODECS[kind, command].read(seen[3]) for seen in self.passed[since:] if seen[:3] == (direction, kind, command)]

    def come(self, end: _End) -> None:
        self._ends.append(end)
        if end.direction == "up" and not self.gate:
            self._waiting.append(end)
        elif end.direction == "up":
            end.go_on()

    def connect(self, end: _End) -> None:
        """Leads a client's connection to the server."""
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", self._case.port())
        connectProtocol(endpoint, _End(self, "down", end)).addErrback(lambda _: end.transport.abortConnection())

    def carry(self, end: _End, frames: list[Frame]) -> None:
        """Passes frames on, up to the one that is to be lost."""
        for word, request_id, rest, body in frames:
            seen = end.direction, Kind(word >> 16 & 0xFF), word & 0xFFFF, body
            if self.lost is None and self._cut(*seen):
                self.losses += 1
                if not self._again:
                    self.lost, self.gate = seen, False
                end.transport.abortConnection()
                if end.other is not None:
                    end.other.transport.loseConnection()
                return
            self.passed.append(seen)
            assert end.other is not None
            end.other.transport.write(HEADER.pack(len(body), word, request_id, rest) + body)

    def gone(self, end: _End) -> None:
        self._ends.remove(end)
        if end in self._waiting:
            self._waiting.remove(end)

    async def _stop(self) -> None:
        await maybeDeferred(self._listening.stopListening)
        for end in list(self._ends):
            end.transport.abortConnection()
        await until(lambda: not self._ends, "the proxy's connections to end")


class _End(Protocol):
    """One side of a connection through the proxy; "up" is what the client's side reads."""

    def __init__(self, proxy: Proxy, direction: str, other: _End | None = None) -> None:
        self.proxy = proxy
        self.direction = direction
        self.other = other
        self._reader = FrameReader(2**32 - 1)
        self._early = b""

    def connectionMade(self) -> None:
        self.transport.setTcpNoDelay(True)
        if self.other is not None:
            self.other.other = self
        self.proxy.come(self)
        if self.other is not None:
            self.other.dataReceived(b"")

    def go_on(self) -> None:
        self.proxy.connect(self)

    def dataReceived(self, data: bytes) -> None:
        if self.other is None:
            self._early += data
            return
        data, self._early = self._early + data, b""
        self.proxy.carry(self, self._reader.feed(data))

    def connectionLost(self, reason: Failure = _DONE) -> None:
        self.proxy.gone(self)
        if self.other is not None:
            self.other.transport.loseConnection()
