"""Which bytes were read where: sends and arrivals of a trace, brought together.

Strategy: the steps name processes, not connections, so the trace is read as TCP would have it. Bytes keep their order: an arrival takes the
oldest that are under way from one process to the other. What a process has not read when it ends, or breaks the connection, it never will.
Bytes of a connection before this one may still come; they are kept apart, and an arrival takes them only if it looks like them.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from twisted_im.sim.timeline import size
from twisted_im.sim.trace import Step

#: Segments that follow one another within so many seconds, and share their fate, are one flight.
FOLD = 0.05


class Flight(NamedTuple):
    """Sends that follow one another and share their fate, and the runs of arrivals that read them: indices of steps."""

    sends: list[int]
    ends: list[list[int]]
    lost: bool
    late: bool

    def steps(self) -> Iterator[int]:
        """All steps of it."""
        yield from self.sends
        for end in self.ends:
            yield from end

    def edges(self) -> Iterator[int]:
        """The steps that say where and when it begins and ends: the first send, the first and the last arrival of each run."""
        yield self.sends[0]
        for end in self.ends:
            yield from (end[0], end[-1])


class Wire:
    """All flights of a trace.

    Attributes:
        flights: in the order of their first sends.
        part: the steps that are in them; not in them are arrivals that nobody sent, and what is of no bytes.
        answers: a connect's index → the index of what accepted or refused it.
    """

    def __init__(self, steps: Sequence[Step]) -> None:
        self.answers: dict[int, int] = {}
        self._steps = steps
        #: a send → its bytes that nobody has read; the arrivals that read the others
        self._left: dict[int, int] = {}
        self._arrivals: dict[int, list[int]] = defaultdict(list)
        self._late: set[int] = set()
        # Under way from one process to another: by the connection there is, and by those before it, whose last bytes may still come.
        self._live: dict[tuple[str, str], deque[int]] = defaultdict(deque)
        self._old: dict[tuple[str, str], deque[int]] = defaultdict(deque)
        self._knocks: dict[tuple[str, str], list[int]] = defaultdict(list)
        self._held: dict[tuple[str, str], float] = {}
        for index, step in enumerate(steps):
            self._follow(index, step)
        self.flights = self._fold()
        self.part = {index for flight in self.flights for index in flight.steps()}

    def _follow(self, index: int, step: Step) -> None:
        if not step.where:
            return
        out, back = (step.where, step.to), (step.to, step.where)
        if step.kind == "send":
            if not size(step.text):
                return
            self._left[index] = size(step.text)
            self._live[out].append(index)
            if self._held.get(out) == step.time:
                self._late.add(index)
        elif step.kind == "arrive":
            self._read(index, step, back)
        elif step.kind == "delay":
            self._held[out] = step.time
            under_way = self._live[out]
            self._late.update([i for i in under_way if self._steps[i].time == step.time] or under_way)
        elif step.kind == "connect":
            self._knocks[out].append(index)
            self._retire(out)
        elif step.kind in ("accept", "refuse"):
            if self._knocks[back]:
                # The newest: an older one without an answer was given up.
                self.answers[self._knocks[back].pop()] = index
            self._retire(out)
        elif step.kind == "reset":
            self._live[back].clear()
            self._old[back].clear()
        elif step.kind in ("start", "stop", "kill"):
            for way in list(self._live):
                if way[1] == step.where:
                    self._live[way].clear()
                    self._old[way].clear()
                elif way[0] == step.where:
                    self._retire(way)

    def _retire(self, way: tuple[str, str]) -> None:
        self._old[way].extend(self._live[way])
        self._live[way].clear()

    def _read(self, index: int, step: Step, way: tuple[str, str]) -> None:
        def looks_like(queue: deque[int]) -> bool:
            return bool(queue) and self._steps[queue[0]].text == step.text

        old, live = self._old[way], self._live[way]
        queue = old if not live or (looks_like(old) and not looks_like(live)) else live
        wanted = size(step.text)
        while wanted and queue:
            send = queue[0]
            taken = min(wanted, self._left[send])
            wanted -= taken
            self._left[send] -= taken
            self._arrivals[send].append(index)
            if not self._left[send]:
                queue.popleft()

    def _fold(self) -> list[Flight]:
        """Joins what follows one another at both sides, and has the same fate; each send is in one flight."""
        turns = _turns(self._steps)
        flights: list[Flight] = []
        newest: dict[tuple[str, str], Flight] = {}
        for index, left in self._left.items():
            ends: list[list[int]] = []
            for arrival in self._arrivals[index]:
                if ends and turns[ends[-1][-1]] == turns[arrival]:
                    ends[-1].append(arrival)
                else:
                    ends.append([arrival])
            flight = Flight([index], ends, left > 0, index in self._late)
            way = self._steps[index][2:4]
            before = newest.get(way)
            if before and _alike(before, flight, turns):
                before.sends.append(index)
                for known, more in zip(before.ends, ends, strict=True):
                    known.extend(arrival for arrival in more if arrival != known[-1])
            else:
                newest[way] = flight
                flights.append(flight)
        return flights


def _alike(before: Flight, after: Flight, turns: Sequence[int]) -> bool:
    """Whether two flights may be one."""
    if turns[before.sends[-1]] != turns[after.sends[0]] or before[2:] != after[2:] or not len(before.ends) == len(after.ends) < 2:
        return False
    return not after.ends or turns[before.ends[0][-1]] == turns[after.ends[0][0]]


def _turns(steps: Sequence[Step]) -> list[int]:
    """A number for each step, the same for those that follow one another at their process, alike and without a pause."""
    turns: list[int] = []
    newest: dict[str, int] = {}
    for index, step in enumerate(steps):
        before = newest.get(step.where)
        alike = before is not None and steps[before][1:4] == step[1:4] and step.time - steps[before].time <= FOLD
        turns.append(turns[before] if alike and before is not None else index)
        newest[step.where] = index
    return turns
