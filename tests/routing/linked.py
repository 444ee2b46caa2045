"""What tests of links are made of: sides that write down what they are told, on real sockets or in a simulated world."""

from __future__ import annotations

import hmac
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint, TCP4ClientEndpoint, TCP4ServerEndpoint, connectProtocol
from twisted.logger import eventAsText, globalLogPublisher
from twisted.trial.unittest import TestCase

from tests.running import Raw
from twisted_im.cork import corked
from twisted_im.edge.peers import certificates_of, link_port, peer_endpoint
from twisted_im.pump import Turn
from twisted_im.routing.handshake import Peer
from twisted_im.routing.link import Attachment, Link, Reached
from twisted_im.routing.linking import Linker, Links
from twisted_im.server.interfaces import Envelope
from twisted_im.sim.world import Process, World
from twisted_im.wire.codec import CODECS, notify
from twisted_im.wire.schema import Command, Kind, Role

SECRET = b"known to all of this cluster"
PORT = 7900


def signal(number: int, size: int = 0) -> bytes:
    """A notify that clients could be sent, with a number in it."""
    values = {"conversation": number, "head": 0, "expires": 0, "type": 1, "device": bytes(16), "sender": b"a", "content": bytes(size)}
    return notify(Command.SIGNAL, **values)


def session(number: int, user: str = "bob") -> Attachment:
    return Attachment(b"\0" + user.encode(), number.to_bytes(16, "big"), number)


class Side:
    """One process's links, and all that it was told.

    Attributes:
        told: (what, name of the other side, ...), in order.
    """

    def __init__(self, turn: Turn, name: str, *, role: Role = Role.PEER, boot: bytes = b"", secret: bytes = SECRET, **more: Any) -> None:
        self.told: list[tuple[Any, ...]] = []
        self.turn = turn
        self.on_up: Callable[[Link], object] = lambda link: None
        self.links = Links(Peer(role, name, boot or name.encode().ljust(16, b".")), self, turn, secret=secret, **more)

    def link_up(self, link: Link) -> None:
        self.told.append(("up", link.peer.name))
        self.on_up(link)

    def link_down(self, link: Link) -> None:
        self.told.append(("down", link.peer.name))
        assert self.links.get(*link.peer[:2]) is not link

    def attached(self, link: Link, rows: Sequence[Attachment], whole: bool) -> None:
        self.told.append(("attached", link.peer.name, list(rows), whole))

    def detached(self, link: Link, rows: Sequence[Attachment]) -> None:
        self.told.append(("detached", link.peer.name, list(rows)))

    def forwarded(self, link: Link, envelopes: Sequence[Envelope]) -> None:
        self.told.append(("forwarded", link.peer.name, list(envelopes)))

    def nodes(self, link: Link, rows: Sequence[Reached]) -> None:
        self.told.append(("nodes", link.peer.name, list(rows)))

    def of(self, what: str) -> list[tuple[Any, ...]]:
        """What it was told of one kind."""
        return [each[1:] for each in self.told if each[0] == what]

    def to(self, name: str, role: Role = Role.PEER) -> Link:
        """The link to another side."""
        link = self.links.get(role, name)
        assert link is not None, (name, self.told)
        return link


@contextmanager
def logged() -> Iterator[list[str]]:
    """The lines that links log meanwhile."""
    lines: list[str] = []

    def observe(event: Any) -> None:
        if event.get("log_namespace", "").startswith("twisted_im") and event["log_level"].name in ("warn", "error", "critical"):
            lines.append(eventAsText(event, includeTimestamp=False, includeSystem=False))

    globalLogPublisher.addObserver(observe)
    try:
        yield lines
    finally:
        globalLogPublisher.removeObserver(observe)


class Linked(TestCase):
    """A test with sides on real sockets."""

    timeout = 180

    def side(self, name: str, *, ahead: float = 0.0, **more: Any) -> Side:
        """A side whose wall clock is so much ahead."""
        turn = Turn(reactor, grain=0.05, wall=lambda: time.time() + ahead)
        side = Side(turn, name, chance=lambda: 0.0, **more)

        async def stop() -> None:
            await side.links.stop()
            turn.stop()

        self.addCleanup(lambda: Deferred.fromCoroutine(stop()))
        return side

    async def listening(self, side: Side, description: str = "tcp:0") -> str:
        """Where it takes links now."""
        endpoint, scheme = link_port(reactor, description, secret=SECRET)
        self.certificates = certificates_of(endpoint) or getattr(self, "certificates", None)
        where: str = await side.links.listen(endpoint, scheme)
        return where

    def leads(self, side: Side, where: str, expected: Peer, certificates: Any = None) -> Linker:
        """Has a side keep up a link."""
        return side.links.connect(peer_endpoint(reactor, where, certificates=certificates), where, expected)

    async def raw(self, where: str) -> Stranger:
        """Somebody at a port for links who has said hello."""
        raw: Stranger = await connectProtocol(TCP4ClientEndpoint(reactor, "127.0.0.1", int(where.rpartition(":")[2])), Stranger())
        self.addCleanup(raw.close)
        return raw


class Stranger(Raw):
    """Frames by hand on a port for links, by what the specification says."""

    def who(self, name: str, /, **other: Any) -> dict[str, Any]:
        plain = {"version": 1, "role": 1, "boot": name.encode().ljust(16, b"."), "time": int(time.time() * 1000), "nonce": os.urandom(16)}
        return {**plain, "name": name.encode(), **other}

    async def linked(self, name: str, /, *, secret: bytes = SECRET, **other: Any) -> Any:
        """Links, as far as it is let."""
        await self.hello(heartbeat=1, window=1024, max_body=0)
        mine = CODECS[Kind.REQUEST, Command.LINK].write(**self.who(name, **other))
        theirs = await self.ask_body(Command.LINK, mine)
        answered = CODECS[Kind.RESPONSE, Command.LINK].write(**{**theirs._asdict(), "proof": b""})
        if secret == SECRET:
            assert theirs.proof == hmac.digest(secret, b"\1" + mine + answered, "sha256")
        await self.ask(Command.PROOF, proof=hmac.digest(secret, b"\0" + mine + answered, "sha256"))
        return theirs


class Program:
    """A process of a simulated world with links: it takes some, and keeps up others."""

    def __init__(self, process: Process, name: str, to: Sequence[str], **more: Any) -> None:
        self._process = process
        self._to = to
        chance = process.world.chance(f"{name} {process.runs}")
        turn = Turn(process.reactor, clock=process.clock, wall=process.wall)
        self.side = Side(turn, name, boot=chance.randbytes(16), random=chance.randbytes, chance=chance.random, **more)

    def startService(self) -> None:
        reactor = corked(self._process.reactor)
        self.side.links.listen(TCP4ServerEndpoint(reactor, PORT))
        for name in self._to:
            endpoint = HostnameEndpoint(reactor, name, PORT, timeout=3.0)
            self.side.links.connect(endpoint, f"{name}:{PORT}", Peer(Role.PEER, name))

    def stopService(self) -> Deferred[None]:
        return self.side.links.stop().addCallback(lambda _: self.side.turn.stop())


class Cluster:
    """Nodes of a simulated world; each connects to those before it.

    Attributes:
        world: where they are.
    """

    def __init__(self, seed: int, *names: str, **more: Any) -> None:
        self.world = World(seed)
        for at, name in enumerate(names):

            def program(process: Process, name: str = name, to: Sequence[str] = names[:at]) -> Program:
                return Program(process, name, to, **more)

            self.world.process(name, program)
        self.world.run_until(lambda: all(len(list(self[name].links)) == len(names) - 1 for name in names), limit=10)

    def __getitem__(self, name: str) -> Side:
        side: Side = self.world.processes[name].service.side
        return side

    def now(self, name: str) -> float:
        """A node's own clock."""
        return self.world.processes[name].clock()
