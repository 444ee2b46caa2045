"""A stretch of network between clients and a server, on TCP, that can be broken while it is in use.

Strategy: a proxy in the reactor of whoever breaks it. It knows no frames, only bytes, so what it does can happen at any byte. Each
connection is a `Lane` with two ends. A lane is harmed once, in one of these ways, and never gets well again unless it was only delayed,
as TCP never loses bytes of a connection that lives:

    drop       the next bytes are cut somewhere in the middle, and both ends are closed in good order
    reset      both ends are told at once that the connection is gone (RST)
    delay      nothing passes for a while, and then everything
    half-open  from now on everything is swallowed, in one direction or both, and nobody is told: a pulled cable
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Factory, Protocol
from twisted.python.failure import Failure

_DONE = Failure(ConnectionDone())


class _End(Protocol):
    """One end of a lane.

    Attributes:
        other: the other one; None until the server has been reached.
        waiting: what cannot go on yet; None when everything goes on at once.
        swallows: what comes in here goes nowhere.
    """

    transport: Any

    def __init__(self, lane: Lane) -> None:
        self._lane = lane
        self.other: _End | None = None
        self.waiting: list[bytes] | None = []
        self.swallows = False
        self.lives = True

    def connectionMade(self) -> None:
        self.transport.setTcpNoDelay(True)
        self._lane.made(self)

    def dataReceived(self, data: bytes) -> None:
        if self.swallows:
            return
        if self._lane.cutting:
            data = data[: self._lane.chance.randrange(len(data))]
        if self.waiting is not None:
            self.waiting.append(data)
        elif self.other is not None:
            self.other.transport.write(data)
        if self._lane.cutting:
            self._lane.close()

    def flow(self) -> None:
        """What waits goes on, and so does what comes."""
        waiting, self.waiting = self.waiting, None
        if self.other is not None and waiting:
            self.other.transport.write(b"".join(waiting))

    def connectionLost(self, reason: Failure = _DONE) -> None:
        self.lives = False
        self._lane.lost(self)


class Lane:
    """One client's connection.

    Attributes:
        cutting: the next bytes are the last, and not all of them pass.
        broken: it was harmed for good.
    """

    def __init__(self, network: Network) -> None:
        self._network = network
        self.chance = network.chance
        self.near = _End(self)
        self.far: _End | None = None
        self.cutting = self.broken = False
        self._delayed = False

    def made(self, end: _End) -> None:
        if end is self.near:
            self._network.lanes.append(self)
            far = _End(self)
            reached = connectProtocol(TCP4ClientEndpoint(self._network.reactor, "127.0.0.1", self._network.target), far)
            reached.addErrback(lambda _: self.near.transport.abortConnection())
            return
        if not self.near.lives:
            end.transport.abortConnection()
            return
        self.far = end
        end.other, self.near.other = self.near, end
        self._go_on()

    def _go_on(self) -> None:
        if self.far is not None and not self._delayed:
            self.near.flow()
            self.far.flow()

    def lost(self, end: _End) -> None:
        """An end is gone: the other one hears of it, unless a cable was pulled."""
        other = end.other
        if other is not None and other.lives and not (end.swallows or other.swallows):
            other.transport.loseConnection()
        if not self.near.lives and (self.far is None or not self.far.lives) and self in self._network.lanes:
            self._network.lanes.remove(self)

    def _ends(self) -> list[_End]:
        return [end for end in (self.near, self.far) if end is not None and end.lives]

    def close(self) -> None:
        for end in self._ends():
            end.transport.loseConnection()

    # ---- harm

    def drop(self) -> None:
        self.cutting = self.broken = True

    def reset(self) -> None:
        self.broken = True
        for end in self._ends():
            end.transport.abortConnection()

    def half_open(self, *, up: bool, down: bool) -> None:
        self.broken = True
        self.near.swallows = up
        if self.far is not None:
            self.far.swallows = down

    def delay(self, seconds: float) -> None:
        self._delayed = True
        for end in self._ends():
            end.waiting = end.waiting or []
        self._network.reactor.callLater(seconds, self._resume)

    def _resume(self) -> None:
        self._delayed = False
        self._go_on()


class Network:
    """Connections to a server that can be harmed.

    Args:
        chance: for which lanes are harmed, and where they are cut.

    Attributes:
        port: where clients connect, on 127.0.0.1.
        target: the server's port; may change with each restart of the server.
        lanes: the connections there are.
    """

    def __init__(self, reactor: Any, chance: Random) -> None:
        self.reactor = reactor
        self.chance = chance
        self.target = 0
        self.lanes: list[Lane] = []
        factory = Factory.forProtocol(lambda: Lane(self).near)
        factory.noisy = False
        self._listening = reactor.listenTCP(0, factory, interface="127.0.0.1")
        self.port: int = self._listening.getHost().port

    def harm(self, seconds: float) -> tuple[str, int]:
        """Breaks some of the connections in one of the ways above; gives which, and how many. `seconds` are for a delay."""
        ways: dict[str, Callable[[Lane], None]] = {
            "dropped": Lane.drop,
            "reset": Lane.reset,
            "delayed": lambda lane: lane.delay(seconds),
            "half-open": lambda lane: lane.half_open(up=True, down=True),
            "half-open one way": lambda lane: lane.half_open(up=(up := self.chance.random() < 0.5), down=not up),
        }
        way = self.chance.choice(list(ways))
        healthy = [lane for lane in self.lanes if not lane.broken]
        harmed = self.chance.sample(healthy, self.chance.randint(min(1, len(healthy)), len(healthy)))
        for lane in harmed:
            ways[way](lane)
        return way, len(harmed)

    def heal(self) -> None:
        """What is broken ends; what was delayed is under way again within its time. New connections are whole in any case."""
        for lane in [lane for lane in self.lanes if lane.broken]:
            lane.reset()

    def close(self) -> None:
        """Ends everything."""
        self._listening.stopListening()
        for lane in list(self.lanes):
            lane.reset()
