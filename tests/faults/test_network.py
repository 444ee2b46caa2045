"""The network that breaks: what the two ends of a connection see of each way in which it is harmed, on real sockets."""

from __future__ import annotations

from random import Random
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import maybeDeferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.protocol import Factory, Protocol
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from tests.running import until
from twisted_im.faults.network import Lane, Network

TEXT = bytes(range(256)) * 40


class Peer(Protocol):
    """One end: what came, and why it ended."""

    def __init__(self) -> None:
        self.got = b""
        self.lost: Failure | None = None

    def dataReceived(self, data: bytes) -> None:
        self.got += data

    def connectionLost(self, reason: Failure = Failure(ConnectionDone())) -> None:  # noqa: B008
        self.lost = reason


class Harm(TestCase):
    """Two ends, and a network between them."""

    timeout = 180

    async def pair(self) -> tuple[Peer, Peer, Lane]:
        """A client, its server's side, and the lane; a byte has gone each way."""
        peers: list[Peer] = []

        class Listening(Factory):
            noisy = False

            def buildProtocol(self, address: object) -> Peer:
                peers.append(Peer())
                return peers[-1]

        listening = reactor.listenTCP(0, Listening(), interface="127.0.0.1")
        self.addCleanup(lambda: maybeDeferred(listening.stopListening))
        self.network = Network(reactor, Random(5))
        self.network.target = listening.getHost().port
        near: Any = await connectProtocol(TCP4ClientEndpoint(reactor, "127.0.0.1", self.network.port), Peer())
        near.transport.write(b"a")  # before the network has reached the server
        await until(lambda: peers and peers[0].got == b"a", "the first byte")
        peers[0].transport.write(b"b")
        await until(lambda: near.got == b"b", "the second byte")
        self.addCleanup(self._all_end, near, peers[0])
        return near, peers[0], self.network.lanes[0]

    async def _all_end(self, *peers: Peer) -> None:
        self.network.close()
        for peer in peers:
            if peer.lost is None:
                peer.transport.abortConnection()
        await until(lambda: not self.network.lanes and all(peer.lost for peer in peers), "everything to end")

    async def test_drop(self) -> None:
        """If this fails, no run ever sees a connection that ends in the middle of a frame."""
        near, far, lane = await self.pair()
        lane.drop()
        near.transport.write(TEXT)
        await until(lambda: near.lost and far.lost, "both ends")
        assert far.lost is not None
        assert far.lost.check(ConnectionDone)
        assert (b"a" + TEXT).startswith(far.got)
        assert len(far.got) < 1 + len(TEXT)

    async def test_reset(self) -> None:
        """If this fails, no run ever sees a connection that is reset."""
        near, far, lane = await self.pair()
        lane.reset()
        await until(lambda: near.lost and far.lost, "both ends")
        for peer in (near, far):
            assert peer.lost is not None
            assert peer.lost.check(ConnectionLost)

    async def test_delay(self) -> None:
        """If this fails, a delay loses bytes or changes their order, and the server is blamed for it."""
        near, far, lane = await self.pair()
        lane.delay(0.2)
        for at in range(0, len(TEXT), 1000):
            near.transport.write(TEXT[at : at + 1000])
            far.transport.write(TEXT[at : at + 1000])
        await until(lambda: lane.near.waiting and b"".join(lane.near.waiting) == TEXT, "the network to hold everything")
        assert (near.got, far.got) == (b"b", b"a")
        await until(lambda: (near.got, far.got) == (b"b" + TEXT, b"a" + TEXT), "everything to arrive")
        near.transport.loseConnection()
        await until(lambda: far.lost, "the end to arrive as well")

    async def test_half_open(self) -> None:
        """If this fails, no run ever sees a pulled cable: nothing arrives, and nobody is told."""
        near, far, lane = await self.pair()
        lane.half_open(up=True, down=False)
        near.transport.write(b"lost")
        far.transport.write(b"seen")
        await until(lambda: near.got == b"bseen", "what goes the other way")
        far.transport.loseConnection()
        await until(lambda: far.lost, "one end")
        assert (near.lost, far.got) == (None, b"a")
        self.network.heal()
        await until(lambda: near.lost, "the other end, when all is healed")

    async def test_nobody_there(self) -> None:
        """If this fails, a client that comes while the server is down waits for ever, or leaves a connection behind."""
        await self.pair()
        self.network.target = 1  # nobody listens there
        late: Any = await connectProtocol(TCP4ClientEndpoint(reactor, "127.0.0.1", self.network.port), Peer())
        await until(lambda: late.lost, "the end")
        await until(lambda: len(self.network.lanes) == 1, "the lane to be forgotten")
