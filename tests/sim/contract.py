"""What every reactor must do for the code that is shipped: one suite, run on Twisted's own and on the simulation's.

Strategy: whatever a server or a client is told by Twisted, it must be told by the simulation, in the same order and with the same words;
else a fault that only the simulation has costs somebody a day, and one that it does not have reaches users. A test is a story of two sides,
`near` and `far`, and knows only `until`, `wait` and `rest`. On Twisted's reactor they wait, on real sockets; in a world they let it run.
In a world each story is told several times, by seeds, since there the order of things is drawn.

Where kernels may do either of two things, the story allows both.
"""

from __future__ import annotations

import functools
import socket
from collections.abc import Awaitable, Callable
from typing import Any

from twisted.application.internet import ClientService
from twisted.application.service import Service
from twisted.internet import reactor
from twisted.internet.defer import Deferred, TimeoutError, maybeDeferred
from twisted.internet.endpoints import HostnameEndpoint, TCP4ClientEndpoint, TCP4ServerEndpoint, connectProtocol
from twisted.internet.error import (
    AlreadyCalled,
    AlreadyCancelled,
    CannotListenError,
    ConnectionAborted,
    ConnectionDone,
    ConnectionLost,
    ConnectionRefusedError,
    NotConnectingError,
    UserError,
)
from twisted.internet.error import TimeoutError as ConnectTimeoutError
from twisted.internet.interfaces import IPullProducer, IPushProducer
from twisted.internet.protocol import ClientFactory, Factory, Protocol
from twisted.internet.task import LoopingCall, deferLater
from twisted.internet.threads import deferToThread, deferToThreadPool
from twisted.python.failure import Failure
from zope.interface import implementer

from tests.running import until
from twisted_im.cork import corked
from twisted_im.sim.world import World

_DONE = Failure(ConnectionDone())


# ---- the two places


class OnTwisted:
    """Runs a contract on Twisted's own reactor, and on real sockets."""

    near: Any = reactor
    far: Any = reactor
    much = 20_480_000
    address = "127.0.0.1"

    async def until(self, condition: Callable[[], Any], what: str) -> Any:
        """Waits for a condition."""
        return await until(condition, what)

    async def wait(self, asked: Deferred[Any]) -> Any:
        """The result of a Deferred."""
        return await asked

    async def rest(self) -> None:
        """Gives what should not happen the time to happen. Nothing fails if that was too short."""
        await deferLater(reactor, 0.02)  # type: ignore[arg-type]  # it is one

    def silence(self) -> tuple[str, int]:
        """A place that does not answer: a socket whose backlog is full."""
        listening = socket.create_server(("127.0.0.1", 0), backlog=0)
        self.addCleanup(listening.close)
        waiting = socket.create_connection(listening.getsockname())
        self.addCleanup(waiting.close)
        return listening.getsockname()


class Simulated:
    """Runs a contract in worlds."""

    seeds = 6
    much = 1_024_000
    near: Any
    far: Any
    address: str
    world: World

    def __init_subclass__(cls) -> None:
        for name in dir(cls):
            if name.startswith("test_"):
                setattr(cls, name, _for_each_seed(getattr(cls, name)))

    def begin(self, seed: int) -> None:
        """A new world, with a process on each side."""
        self.undo: list[Callable[[], Any]] = []
        self.world = World(seed)
        self.near = self.world.process("near", lambda process: Service()).reactor
        self.far = self.world.process("far", lambda process: Service()).reactor
        self.address = self.far.host

    async def end(self) -> None:
        """Puts away what the story has left."""
        while self.undo:
            await maybeDeferred(self.undo.pop())

    def addCleanup(self, undo: Callable[..., Any], *arguments: Any) -> None:
        """Each world is cleaned up while it lasts."""
        self.undo.append(functools.partial(undo, *arguments))

    async def until(self, condition: Callable[[], Any], what: str) -> Any:
        """Runs the world until something is so."""
        self.world.run_until(condition)
        return condition()

    async def wait(self, asked: Deferred[Any]) -> Any:
        """Runs the world until there is a result."""
        found: list[Any] = []
        asked.addBoth(found.append)
        self.world.run_until(lambda: found)
        if isinstance(found[0], Failure):
            found[0].raiseException()
        return found[0]

    async def rest(self) -> None:
        """Gives what should not happen the time to happen."""
        self.world.run_for(10)

    def silence(self) -> tuple[str, int]:
        """A place that does not answer: a machine without power."""
        dark = self.world.process("dark", lambda process: Service())
        self.world.power_off("dark")
        return dark.host, 7777


def _for_each_seed(test: Callable[..., Awaitable[None]]) -> Callable[[Any], Awaitable[None]]:
    @functools.wraps(test)
    async def told(self: Any) -> None:
        for seed in range(self.seeds):
            self.begin(seed)
            try:
                await test(self)
                await self.end()
            except Exception as error:
                error.add_note(f"in the world of seed {seed}")
                raise

    return told


# ---- the two sides


class End(Protocol):
    """Writes down what it is told, in its factory's notes.

    Attributes:
        got: all bytes.
        lost: why the connection ended, each time that it was told so.
    """

    def __init__(self, notes: list[str]) -> None:
        self.notes = notes
        self.got = bytearray()
        self.lost: list[type[Exception]] = []

    def connectionMade(self) -> None:
        self.notes.append("connectionMade")

    def dataReceived(self, data: bytes) -> None:
        self.got += data

    def connectionLost(self, reason: Failure = _DONE) -> None:
        assert reason.type is not None
        self.lost.append(reason.type)
        self.notes.append(f"connectionLost {reason.type.__name__}")


class Noting:
    """What both factories write down.

    Attributes:
        notes: what they were told, in order.
        ends: the protocols that they have built.
    """

    noisy = False

    def __init__(self, make: Callable[[list[str]], Any] = End) -> None:
        self.notes: list[str] = []
        self.ends: list[Any] = []
        self._make = make

    def startFactory(self) -> None:
        self.notes.append("startFactory")

    def stopFactory(self) -> None:
        self.notes.append("stopFactory")

    def buildProtocol(self, address: Any) -> Any:
        self.notes.append("buildProtocol")
        end = self._make(self.notes)
        self.ends.append(end)
        return end


class Listening(Noting, Factory):
    """The factory of the far side."""


class Connecting(Noting, ClientFactory):
    """The factory of the near side.

    Attributes:
        again: connect again, so many times.
        stop: give up as soon as it has begun.
    """

    again = 0
    stop = False

    def startedConnecting(self, connector: Any) -> None:
        self.notes.append("startedConnecting")
        if self.stop:
            connector.stopConnecting()

    def clientConnectionFailed(self, connector: Any, reason: Failure) -> None:
        self._note("clientConnectionFailed", connector, reason)

    def clientConnectionLost(self, connector: Any, reason: Failure) -> None:
        self._note("clientConnectionLost", connector, reason)

    def _note(self, what: str, connector: Any, reason: Failure) -> None:
        assert reason.type is not None
        self.notes.append(f"{what} {reason.type.__name__}")
        if self.again:
            self.again -= 1
            connector.connect()


@implementer(IPushProducer, IPullProducer)
class Source:
    """Writes pieces while it is asked to.

    Args:
        pieces: how many, in all.
        push: as many as fit, and not only one for each time that it is asked.

    Attributes:
        notes: what it was told.
        given: bytes that it has written.
    """

    def __init__(self, transport: Any, pieces: int, size: int, *, push: bool) -> None:
        self.notes: list[str] = []
        self.given = bytearray()
        self._transport = transport
        self._left = pieces
        self._size = size
        self._push = push
        self._paused = False

    def resumeProducing(self) -> None:
        self.notes.append("resume")
        self._paused = False
        while self._left and not self._paused:
            self._left -= 1
            piece = bytes([self._left % 256]) * self._size
            self.given += piece
            self._transport.write(piece)
            if not self._push:
                return
        if not self._left:
            self._transport.unregisterProducer()

    def pauseProducing(self) -> None:
        self.notes.append("pause")
        self._paused = True

    def stopProducing(self) -> None:
        self.notes.append("stop")
        self._paused = True


class _Case:
    """Short words for the stories."""

    near: Any
    far: Any
    address: str
    much: int  #: bytes that kernels and transports do not hold
    until: Any
    wait: Any
    rest: Any
    silence: Any

    def listen(self, factory: Any = None, *, on: Any = None, port: int = 0) -> Any:
        """The far side listens; gives its factory, with `port` and `listening` on it."""
        factory = factory if factory is not None else Listening()
        factory.listening = (on or self.far).listenTCP(port, factory, interface=self.address)
        factory.port = factory.listening.getHost().port
        self.addCleanup(self._stopped, factory.listening)
        return factory

    async def _stopped(self, listening: Any) -> None:
        await self.wait(maybeDeferred(listening.stopListening))

    def connect(self, port: int, factory: Any = None, *, on: Any = None, address: str = "", timeout: float = 30) -> Any:
        """The near side connects; gives its factory, with `connector` on it."""
        factory = factory if factory is not None else Connecting()
        factory.connector = (on or self.near).connectTCP(address or self.address, port, factory, timeout=timeout)
        return factory

    async def pair(
        self, *, near: Any = None, far: Any = None, near_end: Callable[[list[str]], Any] = End, far_end: Callable[[list[str]], Any] = End
    ) -> tuple[Any, Any]:
        """A connection: its near end and its far one."""
        there = self.listen(Listening(far_end), on=far)
        here = self.connect(there.port, Connecting(near_end), on=near)
        await self.until(lambda: _connected(here) and _connected(there), "a connection")
        self.addCleanup(self._gone, here.ends[0], there.ends[0])
        return here.ends[0], there.ends[0]

    async def _gone(self, *ends: Any) -> None:
        for end in ends:
            end.transport.abortConnection()
        await self.until(lambda: all(end.lost for end in ends), "both ends to be told that the connection has ended")


def _connected(factory: Any) -> bool:
    return any(end.transport is not None for end in factory.ends)


def _bytes(size: int, step: int = 1) -> bytes:
    """So many bytes that are not all the same."""
    some = bytes(range(0, 251, step))
    return (some * (size // len(some) + 1))[:size]


# ---- time and threads


class TimeContract(_Case):
    """The promises of timers and threads. Mix it in with a place."""

    async def test_timers_come_in_the_order_of_their_times(self) -> None:
        """If this fails, a timeout comes before what it waits for, or never."""
        told: list[int] = []
        for delay in (0.03, 0.0, 0.02, 0.01):
            self.near.callLater(delay, told.append, int(delay * 100))
        timer = self.near.callLater(0.04, lambda *given, **named: told.append((given, named)), 1, two=2)
        assert timer in self.near.getDelayedCalls()
        await self.until(lambda: len(told) == 5, "all timers")
        assert told == [0, 1, 2, 3, ((1,), {"two": 2})]
        assert timer not in self.near.getDelayedCalls()

    async def test_timers_can_be_moved(self) -> None:
        """If this fails, a heartbeat that was put off comes all the same, and cuts a healthy connection."""
        told: list[str] = []
        sooner = self.near.callLater(1000, told.append, "sooner")
        later = self.near.callLater(0.01, told.append, "later")
        never = self.near.callLater(0.02, told.append, "never")
        first = self.near.callLater(0.03, told.append, "first")
        at = later.getTime()
        later.delay(0.05)
        assert abs(later.getTime() - at - 0.05) < 1e-6
        sooner.reset(0.04)
        assert abs(sooner.getTime() - self.near.seconds() - 0.04) < 0.02
        first.delay(-0.02)
        never.cancel()
        assert [timer.active() for timer in (sooner, later, never, first)] == [True, True, False, True]
        await self.until(lambda: len(told) == 3, "three timers")
        await self.rest()
        assert told == ["first", "sooner", "later"]

    async def test_a_timer_that_is_over_says_so(self) -> None:
        """If this fails, code that guards against a timer's end with the wrong error passes in the simulation, and breaks outside."""
        told: list[bool] = []
        called = self.near.callLater(0, lambda: told.append(called.active()))
        cancelled = self.near.callLater(0, told.append, True)
        cancelled.cancel()
        await self.until(lambda: told, "the timer")
        assert told == [False], "while it is called, it is not active"
        for timer, error in ((called, AlreadyCalled), (cancelled, AlreadyCancelled)):
            for change in (timer.cancel, lambda timer=timer: timer.reset(1), lambda timer=timer: timer.delay(1)):
                try:
                    change()
                except (AlreadyCalled, AlreadyCancelled) as raised:
                    assert type(raised) is error
                else:
                    raise AssertionError("it was changed")

    async def test_no_timer_goes_back(self) -> None:
        """If this fails, a computed delay below nothing is found by users and not by the simulation."""
        try:
            self.near.callLater(-0.001, lambda: None)
        except AssertionError:
            return
        raise AssertionError("it was taken")

    async def test_a_call_that_fails_stops_no_other(self) -> None:
        """If this fails, one error in a timer stops a whole process."""
        told: list[str] = []
        self.near.callLater(0, lambda: 1 / 0)
        self.near.callLater(0.001, told.append, "next")
        await self.until(lambda: told, "the next timer")
        assert len(self.flushLoggedErrors(ZeroDivisionError)) == 1

    async def test_calls_from_threads_keep_their_order(self) -> None:
        """If this fails, two answers of one thread overtake each other."""
        told: list[int] = []
        for number in range(20):
            self.near.callFromThread(told.append, number)
        assert not told
        await self.until(lambda: len(told) == 20, "all calls")
        assert told == list(range(20))

    async def test_threads_answer(self) -> None:
        """If this fails, a password is never checked, or an error in a thread is taken for an answer."""
        pool = self.near.getThreadPool()
        assert await self.wait(deferToThreadPool(self.near, pool, divmod, 7, 2)) == (3, 1)
        asked = deferToThreadPool(self.near, pool, divmod, 7, 0)
        assert not asked.called
        try:
            await self.wait(asked)
        except ZeroDivisionError:
            pass
        else:
            raise AssertionError("no error")
        told: list[Any] = []
        pool.callInThreadWithCallback(lambda success, result: told.append((success, result)), int, "7")
        await self.until(lambda: told, "the answer")
        assert told == [(True, 7)]

    async def test_threads_answer_on_whatever_reactor_there_is(self) -> None:
        """If this fails, an authenticator of one's own that uses threads works on one of the two only."""
        if self.near is reactor:
            assert await self.wait(deferToThread(divmod, 7, 2)) == (3, 1)
        assert await self.wait(deferToThreadPool(self.near, self.near.getThreadPool(), int, "7")) == 7

    async def test_what_stands_on_timers(self) -> None:
        """If this fails, something of Twisted's that counts on a reactor's clock does not go on, or does not end."""
        told: list[float] = []
        loop = LoopingCall(lambda: told.append(self.near.seconds()))
        loop.clock = self.near
        ended = loop.start(0.01)
        assert len(told) == 1, "the first at once"
        await self.until(lambda: len(told) >= 4, "the loop")
        loop.stop()
        assert await self.wait(ended) is loop
        assert told == sorted(told)
        assert await self.wait(deferLater(self.near, 0.01, int, "7")) == 7
        never: Deferred[None] = Deferred()
        never.addTimeout(0.01, self.near)
        try:
            await self.wait(never)
        except TimeoutError:
            pass
        else:
            raise AssertionError("no timeout")
        gone = deferLater(self.near, 1000, int, "7")
        gone.addErrback(lambda failure: failure.type.__name__)
        gone.cancel()
        assert await self.wait(gone) == "CancelledError"


# ---- ports, and attempts to connect


class ConnectContract(_Case):
    """The promises of ports and of attempts to connect. Mix it in with a place."""

    async def test_a_connection_from_beginning_to_end(self) -> None:
        """If this fails, what a program prepares for a connection is not there when it needs it, or is never put away."""
        there = self.listen()
        here = self.connect(there.port)
        assert here.notes == ["startFactory", "startedConnecting"]
        assert here.connector.state == "connecting"
        await self.until(lambda: _connected(here) and _connected(there), "a connection")
        assert here.connector.state == "connected"
        near, far = here.ends[0].transport, there.ends[0].transport
        assert (near.getPeer().type, near.getPeer().host, near.getPeer().port) == ("TCP", self.address, there.port)
        assert near.getPeer() == far.getHost() == here.connector.getDestination()
        assert near.getHost() == far.getPeer()
        assert (near.connected, near.disconnected) == (True, False)
        near.loseConnection()
        assert not here.ends[0].lost, "never at once"
        await self.until(lambda: "stopFactory" in here.notes and there.ends[0].lost, "the end")
        assert here.notes == [
            "startFactory", "startedConnecting", "buildProtocol", "connectionMade", "connectionLost ConnectionDone",
            "clientConnectionLost ConnectionDone", "stopFactory",
        ]  # fmt: skip
        assert here.connector.state == "disconnected"
        assert (near.connected, near.disconnected) == (False, True)
        await self.wait(there.listening.stopListening())
        await self.rest()
        assert there.notes == ["startFactory", "buildProtocol", "connectionMade", "connectionLost ConnectionDone", "stopFactory"]

    async def test_nobody_listens(self) -> None:
        """If this fails, a client waits for a server that has gone until its time is over, or never tries again."""
        there = self.listen()
        await self.wait(there.listening.stopListening())
        here = self.connect(there.port)
        await self.until(lambda: len(here.notes) == 4, "the refusal")
        assert here.notes == ["startFactory", "startedConnecting", "clientConnectionFailed ConnectionRefusedError", "stopFactory"]
        assert here.connector.state == "disconnected"

    async def test_nobody_answers(self) -> None:
        """If this fails, a client waits for ever for a server whose machine has no power."""
        address, port = self.silence()
        here = self.connect(port, address=address, timeout=0.05)
        await self.until(lambda: len(here.notes) == 4, "the end of its patience")
        assert here.notes == ["startFactory", "startedConnecting", f"clientConnectionFailed {ConnectTimeoutError.__name__}", "stopFactory"]

    async def test_an_attempt_can_be_given_up(self) -> None:
        """If this fails, a client that is stopped while it connects leaves something behind."""
        address, port = self.silence()
        here = self.connect(port, address=address, timeout=10_000)
        here.connector.disconnect()
        early = Connecting()
        early.stop = True
        self.connect(port, early, address=address, timeout=10_000)
        for factory in (here, early):
            assert factory.notes == ["startFactory", "startedConnecting", f"clientConnectionFailed {UserError.__name__}", "stopFactory"]
        try:
            here.connector.stopConnecting()
        except NotConnectingError:
            pass
        else:
            raise AssertionError("nothing is under way")
        await self.rest()
        assert len(here.notes) == len(early.notes) == 4
        assert not [timer for timer in self.near.getDelayedCalls() if timer.getTime() > self.near.seconds() + 5000]

    async def test_who_connects_again_is_started_once(self) -> None:
        """If this fails, a factory that comes back again and again is never stopped, or is stopped while it works."""
        there = self.listen()
        here = Connecting()
        here.again = 1
        self.connect(there.port, here)
        await self.until(lambda: _connected(here), "the first connection")
        try:
            here.connector.connect()
        except RuntimeError:
            pass
        else:
            raise AssertionError("it is connected already")
        here.ends[0].transport.loseConnection()
        await self.until(lambda: len(here.ends) == 2 and here.ends[1].transport is not None, "the second connection")
        here.ends[1].transport.loseConnection()
        await self.until(lambda: "stopFactory" in here.notes, "the end")
        ended = ["connectionLost ConnectionDone", "clientConnectionLost ConnectionDone"]
        once = ["startedConnecting", "buildProtocol", "connectionMade", *ended]
        assert here.notes == ["startFactory", *once, *once, "stopFactory"]
        await self.until(lambda: all(end.lost for end in there.ends), "the far ends")

    async def test_who_is_not_wanted_is_turned_away(self) -> None:
        """If this fails, whom a server turns away is left with a connection that nobody serves."""
        for near, far in ((End, lambda notes: None), (lambda notes: None, End)):
            there = self.listen(Listening(far))
            here = self.connect(there.port, Connecting(near))
            await self.until(lambda here=here: "stopFactory" in here.notes, "the end")
            assert here.notes[-2].startswith("clientConnectionLost ")
            if far is End:
                await self.until(lambda there=there: there.ends and there.ends[0].lost, "the far end")

    async def test_one_port_for_one(self) -> None:
        """If this fails, two servers are started at one place, and one of them is never met."""
        there, other = self.listen(), self.listen()
        assert there.port != other.port
        try:
            self.listen(port=there.port)
        except CannotListenError as error:
            assert error.port == there.port
        else:
            raise AssertionError("both listen")
        await self.wait(there.listening.stopListening())
        self.listen(port=there.port)

    async def test_who_stops_listening_keeps_what_it_has(self) -> None:
        """If this fails, a server that drains cuts those whom it serves, or takes new ones."""
        there = self.listen()
        here = self.connect(there.port)
        await self.until(lambda: _connected(here) and _connected(there), "a connection")
        stopping = there.listening.stopListening()
        assert "stopFactory" not in there.notes, "never at once"
        await self.wait(stopping)
        assert there.notes.count("stopFactory") == 1
        late = self.connect(there.port)
        await self.until(lambda: "stopFactory" in late.notes, "the refusal")
        assert f"clientConnectionFailed {ConnectionRefusedError.__name__}" in late.notes
        here.ends[0].transport.write(b"up")
        there.ends[0].transport.write(b"down")
        await self.until(lambda: here.ends[0].got + there.ends[0].got == b"downup", "both ways")
        here.ends[0].transport.loseConnection()
        await self.until(lambda: here.ends[0].lost and there.ends[0].lost, "the end")
        await self.rest()
        assert there.notes.count("stopFactory") == 1

    async def test_endpoints(self) -> None:
        """If this fails, what `serverFromString` and its kin stand on works on one of the two only."""
        there = Listening()
        listening = await self.wait(TCP4ServerEndpoint(self.far, 0, interface=self.address).listen(there))
        self.addCleanup(self._stopped, listening)
        port = listening.getHost().port
        for endpoint in (TCP4ClientEndpoint(self.near, self.address, port), HostnameEndpoint(self.near, self.address, port)):
            end = await self.wait(connectProtocol(endpoint, End([])))
            end.transport.write(b"hello")
            await self.until(lambda: there.ends and there.ends[-1].got == b"hello", "a greeting")
            end.transport.loseConnection()
            await self.until(lambda end=end: end.lost and there.ends[-1].lost, "the end")
        await self.wait(listening.stopListening())
        for endpoint in (TCP4ClientEndpoint(self.near, self.address, port), HostnameEndpoint(self.near, self.address, port)):
            try:
                await self.wait(connectProtocol(endpoint, End([])))
            except ConnectionRefusedError:
                continue
            raise AssertionError("somebody has answered")
        given_up = TCP4ClientEndpoint(self.near, *self.silence()).connect(Factory.forProtocol(Protocol))
        given_up.addErrback(lambda failure: failure.type.__name__)
        given_up.cancel()
        assert await self.wait(given_up) == "ConnectingCancelledError"

    async def test_a_client_that_comes_back(self) -> None:
        """If this fails, a client does not come back after a lost connection, or comes back after it was stopped."""
        there = self.listen()
        here = Noting()
        factory = Factory()
        factory.noisy = False
        factory.buildProtocol = here.buildProtocol  # type: ignore[method-assign,assignment]  # for the test alone
        endpoint = TCP4ClientEndpoint(self.near, self.address, there.port)
        service = ClientService(endpoint, factory, retryPolicy=lambda attempts: 0.01, clock=self.near)
        service.startService()
        await self.wait(service.whenConnected())
        await self.until(lambda: _connected(there), "the far end")
        there.ends[0].transport.abortConnection()
        await self.until(lambda: len(here.ends) == len(there.ends) == 2 and _connected(there), "the second connection")
        await self.wait(service.stopService())
        await self.until(lambda: all(end.lost for end in there.ends + here.ends), "the end")
        await self.rest()
        assert (len(here.ends), len(there.ends)) == (2, 2)


# ---- connections


class TransportContract(_Case):
    """The promises of a connection. Mix it in with a place."""

    async def test_bytes_come_in_order(self) -> None:
        """If this fails, bytes are lost, doubled or change places between two processes."""
        near, far = await self.pair()
        sizes = [1, 2, 0, 1459, 1460, 1461, 16_383, 70_000, 3, 300_000, 1]
        up = [_bytes(size) for size in sizes]
        down = [_bytes(size, 3) for size in reversed(sizes)]
        for one, other in zip(up, down, strict=True):
            near.transport.write(one)
            far.transport.writeSequence([other[:7], other[7:]])
        await self.until(lambda: len(far.got) == len(near.got) == sum(sizes), "all bytes")
        assert far.got == b"".join(up)
        assert near.got == b"".join(down)

    async def test_what_was_written_leaves_before_the_end(self) -> None:
        """If this fails, a client that is told why it must go does not learn it."""
        near, far = await self.pair()
        data = _bytes(1_000_000)
        near.transport.write(data)
        near.transport.loseConnection()
        near.transport.loseConnection()
        assert near.transport.disconnecting
        assert not near.lost
        await self.until(lambda: near.lost and far.lost, "the end")
        assert far.got == data
        assert (near.lost, far.lost) == ([ConnectionDone], [ConnectionDone])

    async def test_after_the_end_nothing_happens(self) -> None:
        """If this fails, whoever writes to a connection that has just ended breaks his own process."""
        near, far = await self.pair()
        transport = near.transport
        transport.write(b"before")
        transport.loseConnection()
        transport.write(b" after")
        await self.until(lambda: near.lost and far.lost, "the end")
        assert far.got in (b"before", b"before after")
        for end in (near, far):
            end.transport.write(b"late")
            end.transport.writeSequence([b"late"])
            end.transport.loseConnection()
            end.transport.abortConnection()
            end.transport.pauseProducing()
        await self.rest()
        assert (near.lost, far.lost) == ([ConnectionDone], [ConnectionDone])

    async def test_an_abort_throws_away(self) -> None:
        """If this fails, a client that takes nothing holds a server's memory until it goes by itself."""
        near, far = await self.pair()
        far.transport.pauseProducing()
        near.transport.write(bytes(self.much))
        near.transport.loseConnection()
        await self.rest()
        assert not near.lost, "there is something to be written"
        near.transport.abortConnection()
        near.transport.abortConnection()
        assert not near.lost, "never at once"
        await self.until(lambda: near.lost, "the near end")
        far.transport.resumeProducing()
        await self.until(lambda: far.lost, "the far end")
        await self.rest()
        assert (near.lost, far.lost) == ([ConnectionAborted], [ConnectionLost])
        assert len(far.got) < self.much

    async def test_an_abort_is_told(self) -> None:
        """If this fails, who cuts a connection is told another reason than he is today, and may come back when he should not."""
        near, far = await self.pair()
        near.transport.abortConnection()
        near.transport.write(b"late")
        near.transport.resumeProducing()
        far.transport.write(b"for nobody")
        await self.until(lambda: near.lost and far.lost, "the end")
        await self.rest()
        assert (near.lost, far.lost) == ([ConnectionAborted], [ConnectionLost])
        assert not near.got

    async def test_bytes_that_nobody_has_read(self) -> None:
        """If this fails, a process that ends without reading what was sent to it leaves the other side in a state that does not exist."""
        near, far = await self.pair()
        far.transport.pauseProducing()
        near.transport.write(b"for nobody")
        await self.rest()
        far.transport.loseConnection()
        await self.until(lambda: near.lost and far.lost, "the end")
        assert far.lost == [ConnectionDone]
        assert near.lost in ([ConnectionDone], [ConnectionLost])  # as its kernel sees first: the end, or the reset after it

    async def test_bytes_for_somebody_who_has_gone(self) -> None:
        """If this fails, a server writes for ever to a client that has gone."""
        near, far = await self.pair()
        near.transport.pauseProducing()
        far.transport.loseConnection()
        await self.until(lambda: far.lost, "the far end")
        await self.rest()
        assert not near.lost, "who does not read does not meet the end"
        for _ in range(2):
            near.transport.write(b"for nobody")
            await self.rest()
        near.transport.write(b"again")
        await self.until(lambda: near.lost, "the near end")
        assert near.lost == [ConnectionLost]

    async def test_who_does_not_read_meets_no_end(self) -> None:
        """If this fails, a server takes more from a client than it can do, or forgets what came just before the end."""

        class Slow(End):
            def connectionMade(self) -> None:
                super().connectionMade()
                self.transport.pauseProducing()  # type: ignore[union-attr]  # there is one

        near, far = await self.pair(far_end=Slow)
        near.transport.write(b"last words")
        near.transport.loseConnection()
        await self.until(lambda: near.lost, "the near end")
        await self.rest()
        assert (far.got, far.lost) == (b"", [])
        far.transport.resumeProducing()
        await self.until(lambda: far.lost, "the far end")
        assert (far.got, far.lost) == (b"last words", [ConnectionDone])

    async def test_who_does_not_read_meets_no_reset(self) -> None:
        """If this fails, a client that has gone while its commands wait is noticed in the simulation, and not outside."""
        near, far = await self.pair()
        far.transport.pauseProducing()
        near.transport.abortConnection()
        await self.until(lambda: near.lost, "the near end")
        await self.rest()
        assert not far.lost
        far.transport.resumeProducing()
        await self.until(lambda: far.lost, "the far end")
        assert far.lost == [ConnectionLost]

    async def test_reading_can_be_stopped_at_any_byte(self) -> None:
        """If this fails, a server that has taken enough for a turn is given more."""

        class Sips(End):
            times = 0

            def dataReceived(self, data: bytes) -> None:
                super().dataReceived(data)
                self.times += 1
                self.transport.pauseProducing()  # type: ignore[union-attr]  # there is one

        near, far = await self.pair(far_end=Sips)
        data = _bytes(1_000_000)
        near.transport.write(data)
        while len(far.got) < len(data):
            taken = far.times
            await self.until(lambda taken=taken: far.times > taken, "the next piece")
            assert far.times == taken + 1
            far.transport.resumeProducing()
        assert far.got == data

    async def test_an_error_ends_one_connection(self) -> None:
        """If this fails, one client's frame that a program cannot take stops others, or is taken again and again."""

        class Breaks(End):
            def dataReceived(self, data: bytes) -> None:
                raise ZeroDivisionError

        near, far = await self.pair(far_end=Breaks)
        near.transport.write(b"poison")
        await self.until(lambda: near.lost and far.lost, "the end")
        await self.rest()
        assert far.lost == [ZeroDivisionError]
        assert near.lost in ([ConnectionDone], [ConnectionLost])
        assert len(self.flushLoggedErrors(ZeroDivisionError)) == 1

    async def test_a_producer_waits_for_its_reader(self) -> None:
        """If this fails, a server holds in memory what a slow client does not take, without end."""
        near, far = await self.pair()
        far.transport.pauseProducing()
        source = Source(near.transport, 80, self.much // 80, push=True)
        near.transport.registerProducer(source, True)
        try:
            near.transport.registerProducer(source, True)
        except RuntimeError:
            pass
        else:
            raise AssertionError("there are two")
        source.resumeProducing()
        await self.until(lambda: source.notes[-1] == "pause", "a full buffer")
        await self.rest()
        await self.until(lambda: source.notes[-1] == "pause", "a full buffer, for good")
        written = len(source.given)
        assert written < self.much
        far.transport.resumeProducing()
        await self.until(lambda: len(far.got) == self.much, "all bytes")
        assert far.got == source.given
        assert source.notes.count("resume") > 1
        near.transport.loseConnection()
        await self.until(lambda: near.lost and far.lost, "the end")
        assert "stop" not in source.notes, "it has taken its leave before"

    async def test_a_producer_is_asked_for_one_after_another(self) -> None:
        """If this fails, what is sent piece by piece stops in the middle, or is all made at once."""
        near, far = await self.pair()
        source = Source(near.transport, 5, 200_000, push=False)
        near.transport.registerProducer(source, False)
        assert (source.notes, len(source.given)) == (["resume"], 200_000)
        near.transport.loseConnection()  # waits for the producer
        await self.until(lambda: near.lost and far.lost, "the end")
        assert far.got == source.given
        assert len(far.got) == 1_000_000
        assert source.notes == ["resume"] * 6, "once for each piece, and once to hear that there are no more"

    async def test_a_producer_is_told_of_the_end(self) -> None:
        """If this fails, something goes on to work for a connection that has ended."""
        near, far = await self.pair()
        source = Source(near.transport, 5, 1, push=True)
        near.transport.registerProducer(source, True)
        far.transport.loseConnection()
        await self.until(lambda: near.lost, "the near end")
        assert source.notes == ["stop"]
        late = Source(near.transport, 5, 1, push=True)
        near.transport.registerProducer(late, True)
        assert late.notes == ["stop"]

    async def test_direct_writes(self) -> None:
        """If this fails, the server's own way to the socket loses bytes at full buffers, or takes a slow client for a dead one."""
        near, far = await self.pair(near=corked(self.near), far=corked(self.far))
        far.transport.pauseProducing()
        source = Source(near.transport, 80, self.much // 80, push=True)
        near.transport.registerProducer(source, True)
        source.resumeProducing()
        await self.until(lambda: source.notes[-1] == "pause", "a full buffer")
        figures = [near.transport.taken()]
        while len(figures) < 10 or figures[-10] != figures[-1]:  # until the kernels have no more room
            await self.rest()
            figures.append(near.transport.taken())
        assert figures[0] <= figures[-1] < self.much
        assert source.notes[-1] == "pause"
        far.transport.resumeProducing()
        await self.until(lambda: near.transport.taken() != figures[-1], "the other side to take something")
        await self.until(lambda: len(far.got) == self.much, "all bytes")
        assert far.got == source.given
        far.transport.write(b"thank you")
        await self.until(lambda: near.got == b"thank you", "an answer")
        near.transport.write(b"bye")
        near.transport.loseConnection()
        await self.until(lambda: near.lost and far.lost, "the end")
        assert far.got.endswith(b"bye")
        near.transport.write(b"late")
        await self.rest()
        assert (near.lost, far.lost) == ([ConnectionDone], [ConnectionDone])

    async def test_direct_ends(self) -> None:
        """If this fails, the server's own way to the socket leaves a connection half dead."""
        near, far = await self.pair(near=corked(self.near), far=corked(self.far))
        far.transport.pauseProducing()
        near.transport.write(bytes(self.much))
        near.transport.abortConnection()
        await self.until(lambda: near.lost, "the near end")
        assert near.lost == [ConnectionAborted]
        far.transport.resumeProducing()
        await self.until(lambda: far.lost, "the far end")
        assert far.lost in ([ConnectionLost], [ConnectionAborted])  # who reads by itself ends it by itself


class Talk:
    """A connection in a world of its own, for what only a world can do.

    Attributes:
        near, far: the processes.
        a, b: the ends of the connection in them.
        there: the factory of the far side.
    """

    def __init__(self, seed: int = 0, *, backlog: int = 50) -> None:
        self.world = World(seed, keep_trace=True)
        self.near = self.world.process("near", lambda process: Service())
        self.far = self.world.process("far", lambda process: Service())
        self.there = Listening()
        self.listening = self.far.reactor.listenTCP(7777, self.there, backlog=backlog)
        self.a = self.connect().ends[0]
        self.b = self.there.ends[0]

    def connect(self, *, seconds: float = 5.0) -> Connecting:
        """Another attempt to connect, and what has become of it after so many seconds."""
        here = Connecting()
        self.near.reactor.connectTCP(self.far.host, 7777, here)
        self.world.run_for(seconds)
        return here


__all__ = ["ConnectContract", "Connecting", "End", "Listening", "OnTwisted", "Simulated", "Talk", "TimeContract", "TransportContract"]
