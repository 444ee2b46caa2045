"""A reactor for each process of a world.

Strategy: a `SimReactor` is one run of one process. It sees time by its own clock, which may start anywhere and run fast or slow; when its
process is killed nothing of it is ever called again, and while it is stopped (SIGSTOP) what falls due waits, as it does for a real one.

Threads do not exist here: a `SimPool` makes its calls in the one thread that there is, one after another, and answers a while later. So
there is a moment between a call's effect and its answer, and a process can die in it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Any

from twisted.internet import error
from twisted.internet.abstract import isIPAddress
from twisted.internet.address import IPv4Address
from twisted.internet.interfaces import (
    IDelayedCall,
    IHostnameResolver,
    IHostResolution,
    IReactorCore,
    IReactorFromThreads,
    IReactorPluggableNameResolver,
    IReactorTCP,
    IReactorTime,
)
from twisted.python.failure import Failure
from zope.interface import implementer

from twisted_im.sim.agenda import Agenda, Entry
from twisted_im.sim.net import Network


@implementer(IDelayedCall)
class SimCall:
    """A timer of one process, by that process's clock."""

    __slots__ = ("_call", "_cancelled", "_entry", "_reactor", "_time")

    def __init__(self, reactor: SimReactor, time: float, call: Callable[[], object]) -> None:
        self._reactor = reactor
        self._call = call
        self._cancelled = False
        self._time = time
        self._entry = reactor.enter(time, self._fire)

    def __repr__(self) -> str:
        call = self._call.func if isinstance(self._call, partial) else self._call
        name = getattr(call, "__qualname__", type(call).__qualname__)
        if not self.active():
            return f"<{name}, {'cancelled' if self._cancelled else 'called'}>"
        return f"<{name} in {self._time - self._reactor.seconds():.3f} s>"

    def _fire(self) -> None:
        self._reactor.timers.pop(self, None)
        self._call()

    def active(self) -> bool:
        return self._entry.waits

    def getTime(self) -> float:
        return self._time

    def _still(self) -> None:
        """It can be changed."""
        if not self._entry.waits:
            raise error.AlreadyCancelled if self._cancelled else error.AlreadyCalled

    def cancel(self) -> None:
        self._still()
        self._cancelled, self._entry.waits = True, False
        self._reactor.timers.pop(self, None)

    def delay(self, seconds: float) -> None:
        self._move(self._time + seconds)

    def reset(self, seconds: float) -> None:
        self._move(self._reactor.seconds() + seconds)

    def _move(self, time: float) -> None:
        self._still()
        self._entry.waits = False
        self._time = time
        self._entry = self._reactor.enter(time, self._fire)


@implementer(IHostResolution)
class _Resolution:
    """A name that is looked up."""

    def __init__(self, name: str) -> None:
        self.name = name

    def cancel(self) -> None:
        """The answer comes at once."""


@implementer(IHostnameResolver)
class _Names:
    """Knows every process of the world by its name."""

    def __init__(self, reactor: SimReactor) -> None:
        self._reactor = reactor

    def resolveHostName(
        self,
        resolutionReceiver: Any,
        hostName: str,
        portNumber: int = 0,
        addressTypes: object = None,
        transportSemantics: str = "TCP",
    ) -> Any:
        resolution = _Resolution(hostName)
        resolutionReceiver.resolutionBegan(resolution)
        host = hostName if isIPAddress(hostName) else self._reactor.network.links.address_of(hostName)

        def answer() -> None:
            if host:
                resolutionReceiver.addressResolved(IPv4Address("TCP", host, portNumber))
            resolutionReceiver.resolutionComplete()

        self._reactor.soon(answer)
        return resolution


@implementer(IReactorTime, IReactorTCP, IReactorFromThreads, IReactorCore, IReactorPluggableNameResolver)
class SimReactor:
    """The reactor of one run of one process.

    Args:
        agenda: the world's.
        network: the world's.
        name: the process's.
        host: its address.
        offset: what its monotonic clock shows when the world begins, in seconds.
        rate: how fast that clock runs; 1.0 is right.
        ended: called when the process ends by its own will, with 0, or 1 if something has gone wrong.

    Attributes:
        alive: it has neither ended nor been killed.
        timers: its timers that are still to fire.
        running: always; a process of this world begins with its reactor.
    """

    running = True

    def __init__(
        self,
        agenda: Agenda,
        network: Network,
        name: str,
        host: str,
        *,
        offset: float = 0.0,
        rate: float = 1.0,
        ended: Callable[[], object] = lambda: None,
    ) -> None:
        self.agenda = agenda
        self.network = network
        self.name = name
        self.host = host
        self.alive = True
        self.timers: dict[SimCall, None] = {}
        self.nameResolver = _Names(self)
        self._offset = offset
        self._rate = rate
        self._ended = ended
        self._missed: list[Entry] | None = None
        self._threads: SimPool | None = None
        self._from_threads: deque[Callable[[], object]] = deque()

    def __repr__(self) -> str:
        state = "ended" if not self.alive else "frozen" if self.frozen else "runs"
        return f"<reactor of {self.name}, {state}, {len(self.timers)} timers>"

    # ---- its life

    def may_run(self, entry: Entry) -> bool:
        """Whether the process can do anything now; if it is stopped, the call is made when it goes on."""
        if not self.alive:
            entry.waits = False
            return False
        if self._missed is not None:
            self._missed.append(entry)
            return False
        return True

    @property
    def frozen(self) -> bool:
        """It is stopped (SIGSTOP)."""
        return self._missed is not None

    def freeze(self) -> None:
        """Stops it."""
        if self._missed is None:
            self._missed = []

    def thaw(self) -> None:
        """Lets it go on: what it has missed comes now, the oldest first."""
        missed, self._missed = self._missed or [], None
        for number, entry in enumerate(missed):
            entry.time = self.agenda.now + number * 1e-6
            if entry.waits:
                self.agenda.put(entry)

    def kill(self) -> None:
        """Nothing of it is called any more."""
        self.alive = False
        self.timers.clear()

    def enter(self, time: float, call: Callable[..., object], *arguments: Any) -> Entry:
        """Has something called when this process's clock shows a time."""
        return self.agenda.at((time - self._offset) / self._rate, self, call, *arguments)

    def soon(self, call: Callable[..., object], *arguments: Any, after: float = 0.0) -> Entry:
        """Has something called by this process, so many of the world's seconds from now."""
        return self.agenda.at(self.agenda.now + after, self, call, *arguments)

    # ---- IReactorTime

    def seconds(self) -> float:
        """Its monotonic clock."""
        return self.agenda.now * self._rate + self._offset

    def callLater(self, delay: float, callable: Callable[..., Any], *args: object, **kwargs: object) -> Any:
        assert delay >= 0, f"{delay} is not greater than or equal to 0 seconds"
        call = partial(callable, *args, **kwargs) if args or kwargs else callable
        timer = SimCall(self, self.seconds() + delay, call)
        self.timers[timer] = None
        return timer

    def getDelayedCalls(self) -> Sequence[Any]:
        return list(self.timers)

    # ---- IReactorTCP

    def listenTCP(self, port: int, factory: Any, backlog: int = 50, interface: str = "") -> Any:
        return self.network.listen(self, port, factory, backlog)

    def connectTCP(self, host: str, port: int, factory: Any, timeout: float | None = 30, bindAddress: object = None) -> Any:
        return self.network.connect(self, self.network.links.address_of(host) or host, port, factory, timeout)

    # ---- threads

    def callFromThread(self, callable: Callable[..., Any], *args: object, **kwargs: object) -> None:
        self._from_threads.append(partial(callable, *args, **kwargs))
        self.soon(lambda: self._from_threads.popleft()())  # one after another, in the order in which they were asked for

    def getThreadPool(self) -> SimPool:
        """The pool of `deferToThread`."""
        if self._threads is None:
            self._threads = SimPool(self, Random(f"{self.name} threads"))
        return self._threads

    # ---- IReactorCore, as far as services ask for it

    def callWhenRunning(self, callable: Callable[..., Any], *args: object, **kwargs: object) -> None:
        callable(*args, **kwargs)

    def addSystemEventTrigger(self, phase: str, eventType: str, callable: Callable[..., Any], *args: object, **kwargs: object) -> Any:
        """Nothing triggers it: a process of this world is told to stop by whoever runs it."""
        return phase, eventType, callable

    def removeSystemEventTrigger(self, trigger: object) -> None:
        """There is nothing to be removed."""

    def stop(self) -> None:
        """Ends the process."""
        if not self.alive:
            raise error.ReactorNotRunning
        self.soon(self._ended)

    def run(self) -> None:
        raise RuntimeError("the world runs it: see World.run_for")

    crash = stop

    def iterate(self, delay: float = 0) -> None:
        raise RuntimeError("the world runs it: see World.run_for")

    def fireSystemEvent(self, event: str) -> None:
        """Nobody listens."""

    def resolve(self, name: str, timeout: object = ()) -> Any:
        raise NotImplementedError("names are looked up through nameResolver")

    def installNameResolver(self, resolver: Any) -> Any:
        older, self.nameResolver = self.nameResolver, resolver
        return older

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            raise AttributeError(f"{name} is not simulated: processes of a world have TCP, timers and deferToThreadPool")


class SimPool:
    """What `deferToThreadPool` needs of a thread pool of one thread.

    Args:
        reactor: the process's.
        chance: for how long calls take.
        slow: gives seconds that a call takes, on average, at this moment.
        instead: asked before each call; gives a Failure that it ends with, or None. With `True` as the second of a pair the call is made
            all the same, and its answer lost.
    """

    def __init__(
        self,
        reactor: SimReactor,
        chance: Random,
        *,
        slow: Callable[[], float] = lambda: 0.002,
        instead: Callable[[], tuple[Failure, bool] | None] = lambda: None,
    ) -> None:
        self._reactor = reactor
        self._chance = chance
        self._slow = slow
        self._instead = instead
        self._queue: deque[tuple[Callable[..., object], Callable[..., object], tuple[Any, ...], dict[str, Any]]] = deque()
        self._busy = False
        #: a call was made, and its answer is still to come; or is about to be made
        self.under_way: Callable[[], object] | None = None

    def start(self) -> None:
        """It always runs."""

    def stop(self) -> None:
        """What was asked for is still done."""

    def callInThread(self, call: Callable[..., object], *args: Any, **kw: Any) -> None:
        self.callInThreadWithCallback(lambda *_: None, call, *args, **kw)

    def callInThreadWithCallback(
        self, on_result: Callable[[bool, Any], object] | None, call: Callable[..., object], *args: Any, **kw: Any
    ) -> None:
        self._queue.append((on_result or (lambda *_: None), call, args, kw))
        if not self._busy:
            self._next()

    def _takes(self) -> float:
        """Most calls are fast, a few are not."""
        mean = self._slow()
        return mean * (0.5 + self._chance.random()) if self._chance.random() < 0.95 else mean * 20 * self._chance.random()

    def _next(self) -> None:
        self._busy = bool(self._queue)
        if self._busy:
            on_result, call, args, kw = self._queue.popleft()
            self.under_way = lambda: call(*args, **kw)
            self._reactor.soon(self._make, on_result, self.under_way, after=self._takes())

    def _make(self, on_result: Callable[[bool, Any], object], call: Callable[[], object]) -> None:
        self.under_way = None
        instead = self._instead()
        success, answer = True, None
        if instead is None or instead[1]:
            try:
                answer = call()
            except Exception:
                success, answer = False, Failure()
        if instead is not None:
            success, answer = False, instead[0]
        self._reactor.soon(self._answer, on_result, success, answer, after=self._takes() * 0.1)

    def _answer(self, on_result: Callable[[bool, Any], object], success: bool, answer: Any) -> None:
        try:
            on_result(success, answer)
        finally:
            self._next()
