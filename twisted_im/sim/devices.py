"""The devices of a run: the client library with an application that writes down what it sends and shows.

Strategy: the application is the one of the runs with real processes (`twisted_im.faults.recorder`), with a journal in memory. The journal
is the device's disk: it outlives the process. What the client library has saved may be lost with the process, as a file is that was not
forced to the disk: the application's own log then knows more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from random import Random
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred

from twisted_im.client.state import Kept
from twisted_im.client.values import Life, Message, Standing
from twisted_im.faults.recorder import Recorder
from twisted_im.oracle import Accepted, Event, Refused, Sent, Shown
from twisted_im.sim.world import PORT, Process, World


class SimState:
    """What the client library has saved; of the last saves, a crash may lose some."""

    interval = 0.05

    def __init__(self) -> None:
        self._saved: list[Kept] = []

    def load(self) -> Kept | None:
        return _copy(self._saved[-1]) if self._saved else None

    def save(self, kept: Kept) -> None:
        self._saved = [*self._saved[-3:], _copy(kept)]

    def crash(self, chance: Random) -> None:
        """The power is gone: what was saved last may not be there."""
        if self._saved and chance.random() < 0.3:
            self._saved = self._saved[: chance.randint(1, len(self._saved))]


def _copy(kept: Kept) -> Kept:
    """Its own from now on; `copy.deepcopy` takes ten times as long, and this is done for every receipt."""
    return replace(kept, cursors=dict(kept.cursors))


class MemoryJournal:
    """A `Journal` that lasts as long as the run.

    Args:
        told: gets each event.
    """

    def __init__(self, told: Callable[[Event], object]) -> None:
        self.state = SimState()
        self._events: list[Event] = []
        self._told = told

    def past(self) -> Iterable[Event]:
        return list(self._events)

    def append(self, event: Event) -> None:
        self._events.append(event)
        self._told(event)

    def close(self) -> None:
        """It is kept."""


class _Application(Recorder):
    """A recorder that takes its time.

    Args:
        taking: seconds for each message, on average.
        reactor, random: see `Client`.
    """

    def __init__(self, *arguments: Any, taking: float, reactor: Any, random: Random, **named: Any) -> None:
        self._taking = taking
        self._reactor = reactor
        self._random = random
        self._busy: Any = None
        super().__init__(*arguments, reactor=reactor, random=random, **named)

    def leave(self) -> None:
        """Ends with what there is at once, since the process is going to end."""
        self._taking = 0.0
        if self._busy is not None and self._busy.active():
            self._busy.reset(0)

    def _show(self, message: Message) -> Deferred[None] | None:  # type: ignore[override]  # it is `on_message`, which may wait
        if not self._taking:
            super()._show(message)
            return None
        shown: Deferred[None] = Deferred()
        shown.addCallback(lambda _: super(_Application, self)._show(message))
        self._busy = self._reactor.callLater(self._random.expovariate(1 / self._taking), shown.callback, None)
        return shown


class Device(Service):
    """One device of a run, as the service of its process.

    Args:
        name: "user/device".
        at: the servers' names.
        journal: outlives the process.
        back: seconds after which the application comes back by itself, when the server has told it not to: another process had logged in as
            the same device.
        taking: seconds that the application takes for a message, on average.
        options: for `Client`.
    """

    def __init__(
        self,
        process: Process,
        name: str,
        at: tuple[str, ...],
        journal: MemoryJournal,
        *,
        back: float | None,
        taking: float = 0.0,
        **options: Any,
    ) -> None:
        self._process = process
        self._back = back
        user, _, device = name.partition("/")
        self.recorder = _Application(
            journal,
            user,
            device,
            ",".join(f"{each}:{PORT}" for each in at),
            now=lambda: process.world.now,
            random=process.world.chance(f"{process.name} {process.runs}"),
            moved=self._moved,
            reactor=process.reactor,
            clock=process.clock,
            wall=process.wall,
            taking=taking,
            **options,
        )

    def startService(self) -> None:
        super().startService()
        self.recorder.come()

    def stopService(self) -> Any:
        super().stopService()
        self.recorder.leave()
        return self.recorder.client.stopService()

    def _moved(self, standing: Standing) -> None:
        process = self._process
        process.world.note("life", process.name, text=standing.life.value)
        if standing.life is Life.ENDED:
            process.again = self._back
            process.stop()


def noted(world: World, process: str, event: Event) -> None:
    """Puts an event of a journal into the trace."""
    if isinstance(event, Sent):
        world.note("sent", process, text=f"{event.client_id[-6:]} to {event.target}")
    elif isinstance(event, Accepted):
        world.note("accepted", process, text=f"{event.client_id[-6:]} is {event.conversation}:{event.seq}")
    elif isinstance(event, Refused):
        world.note("refused", process, text=f"{event.client_id[-6:]}: {event.code}")
    elif isinstance(event, Shown):
        world.note("shown", process, text=f"{event.client_id[-6:]}, {event.conversation}:{event.seq} from {event.sender}")
