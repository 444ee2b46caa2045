"""Virtual time: everything that is going to happen in a world, in the order in which it will.

Strategy: a heap of (time, chance, number). What falls on one moment comes in an order drawn from the seed, so code that relies on more than
it was promised is found out.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from random import Random
from typing import Any, Protocol

from twisted.logger import Logger

log = Logger()


class Runner(Protocol):
    """One run of one process: who makes a call.

    Attributes:
        name: the process's.
        host: its address.
        alive: it has neither ended nor been killed.
        agenda: the world's.
    """

    agenda: Agenda
    name: str
    host: str
    alive: bool

    def may_run(self, entry: Entry) -> bool:
        """Whether the process can make a call now; if it is only stopped, it makes it later."""

    def soon(self, call: Callable[..., object], *arguments: Any, after: float = 0.0) -> Entry:
        """Has something called by this process, so many of the world's seconds from now."""

    def seconds(self) -> float:
        """The process's own clock."""

    def callLater(self, delay: float, callable: Callable[..., Any], *args: object, **kwargs: object) -> Any:
        """Has something called by this process, by its own clock."""


class Entry:
    """One call on the agenda.

    Attributes:
        owner: the reactor that makes it; None for what no process does, such as the network.
        waits: it is still to be made.
    """

    __slots__ = ("arguments", "call", "owner", "time", "waits")

    def __init__(self, time: float, owner: Runner | None, call: Callable[..., object], arguments: tuple[Any, ...]) -> None:
        self.time = time
        self.owner = owner
        self.call = call
        self.arguments = arguments
        self.waits = True


class Agenda:
    """Everything that is going to happen, in the order in which it will.

    Attributes:
        now: seconds since the world began.
        done: calls that were made.
        turn: who makes, or has made, the last of them; None for no process.
    """

    def __init__(self, chance: Random) -> None:
        self.now = 0.0
        self.done = 0
        self.turn: Runner | None = None
        self._heap: list[tuple[float, float, int, Entry]] = []
        self._chance = chance.random
        self._number = 0

    def at(self, time: float, owner: Runner | None, call: Callable[..., object], *arguments: Any) -> Entry:
        """Has a call made at a time; never before now."""
        entry = Entry(max(time, self.now), owner, call, arguments)
        self.put(entry)
        return entry

    def put(self, entry: Entry) -> None:
        """Has an entry's call made at its time."""
        self._number += 1
        heapq.heappush(self._heap, (entry.time, self._chance(), self._number, entry))

    def step(self, until: float) -> bool:
        """Makes the next call, if it falls before a time; False, at that time, if none does."""
        heap = self._heap
        while heap and heap[0][0] <= until:
            entry = heapq.heappop(heap)[3]
            if not entry.waits:
                continue
            self.now = entry.time
            self.turn = owner = entry.owner
            if owner is None:
                entry.waits = False
                entry.call(*entry.arguments)
            elif not owner.may_run(entry):
                continue
            else:
                entry.waits = False
                try:
                    entry.call(*entry.arguments)
                except Exception:
                    log.failure("a call that {name}'s reactor made failed", name=owner.name)
            self.done += 1
            return True
        self.now = max(self.now, until)
        return False
