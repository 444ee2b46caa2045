"""A run: real servers, clients in processes of their own, faults at random moments, and the oracle's word at the end.

Strategy: the story is one coroutine, `Run.play`, and reads as such: start, load, harm, heal, settle. Faults come in rounds: each that was
asked for once, in an order drawn from the seed, and again; what they meet is up to the machine. `stage` has the processes, `harm` what
is done to them.

What settles is counted, not timed: with d devices for each user, every accepted message is to be shown on 2d − 1 of them. One device
of each user comes only when all is healed, so it must find everything in the log: what the store has lost cannot hide behind devices that
had seen it before.

What is measured are the times until all is well after a fault: until every client is logged in, and until no node doubts another. They
count if no other fault came before.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from msgspec.json import encode
from twisted.internet.defer import Deferred

from twisted_im.faults.children import Server
from twisted_im.faults.devices import COUNTED, Orders
from twisted_im.faults.harm import KINDS, Harm
from twisted_im.faults.stage import START, Stage, Topology
from twisted_im.faults.timing import Window
from twisted_im.oracle import Event, Fault, Healed, Quiet

#: Devices that each user has from the beginning; one more comes at the end.
NAMES = ("phone", "desk")
LATE = "late"

#: Processes for the clients, if there are users enough.
PROCESSES = 3

#: Seconds for anything to move after the last fault (the oracle's minute).
SETTLE = 60.0

#: The late devices show so many messages of each conversation, and read the rest from the log: both ways are taken.
LATE_CATCH_UP = 100

#: What is measured → seconds that are promised.
PROMISED = {
    "kill: clients back": 10.0,
    "route: nodes sure again": 5.0,
    "redis: nodes sure again": 15.0,
    "route: messages shown": 10.0,
    "redis: messages shown": 10.0,
    "of two sessions of a device one is left": 2.5,  # the store is looked at every 2 s, and that takes a moment
    "a node is drained": 60.0,
}


@dataclass
class Outcome:
    """What a run tells besides what the oracle says.

    Attributes:
        took: what was measured → seconds, each time.
        windows: when there was a fault that nobody should notice, and all was well before it.
        wrong: what was not as it should be, in words.
        server_faults: lines in the servers' logs that tell of faults of their own.
        unsettled: what had not settled in time; empty if all had.
    """

    took: dict[str, list[float]] = field(default_factory=dict)
    windows: list[Window] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    server_faults: int = 0
    unsettled: str = ""

    def add(self, name: str, seconds: float) -> None:
        """Something was measured."""
        self.took.setdefault(name, []).append(seconds)

    @property
    def late(self) -> list[str]:
        """What took longer than is promised."""
        return [name for name, seconds in self.took.items() if max(seconds) > PROMISED.get(name, max(seconds))]

    @property
    def good(self) -> bool:
        """Nothing was found."""
        return not (self.wrong or self.late or self.unsettled or self.server_faults)


class Run:
    """One run.

    Args:
        folder: for all logs; empty.
        topology: which servers there are.
        kinds: of `KINDS`.
        seconds: of load and faults, before it settles; longer if not every fault has come by then.
        users: how many.
        every: seconds from fault to fault, on average.
        rate: messages a second and device.
        guests: how many log in at once, in a crowd.
        seed: of which fault comes when.
        plant: see `recorder.PLANTED`.
        say: prints a line.
        patience: seconds without any progress after the last fault, until what is missing counts as lost.

    Attributes:
        outcome: what is known so far.
    """

    def __init__(
        self,
        reactor: Any,
        folder: Path,
        *,
        topology: Topology,
        kinds: Sequence[str],
        seconds: float,
        users: int,
        every: float,
        rate: float,
        seed: int,
        plant: str,
        say: Callable[[str], object],
        guests: int = 0,
        patience: float = SETTLE,
    ) -> None:
        self._kinds = kinds
        self._seconds = seconds
        self._users = [f"user{number}" for number in range(1, users + 1)]
        self._every = every
        self._say = say
        self._patience = patience
        self._chance = Random(seed)
        orders = Orders(
            folder="", endpoints=[], devices=[], guests=0, users=self._users, rate=rate, seed=str(seed), catch_up=0, plant=plant, word=""
        )
        self._stage = Stage(reactor, folder, topology, Random(f"{seed}/network"), orders, self._look)
        self.outcome = Outcome()
        self._harm = Harm(
            self._stage, self._chance, every=every, guests=guests, word=lambda: self._word, broke=self._broke, took=self.outcome.add,
            wrong=self.outcome.wrong.append,
        )  # fmt: skip
        self._word = "wait"
        self._mended: dict[str, tuple[str, float]] = {}  # what is to be well again → after which kind of fault, and since when
        self._began = time.monotonic()
        self._events = (folder / "run.jsonl").open("ab", buffering=0)

    # ---- the story

    async def play(self) -> None:
        """The run, up to its quiet end.

        Raises:
            RunError: a process did not start, or ended by itself.
            TimeoutError: one did not do what it should.
        """
        await self._stage.start()
        processes = min(PROCESSES, len(self._users))
        crew: dict[int, list[tuple[str, str]]] = {}
        for u, user in enumerate(self._users):
            for n, name in enumerate(NAMES):  # a user's devices live in different processes
                crew.setdefault((u + n) % processes, []).append((user, name))
        for process, devices in sorted(crew.items()):
            self._stage.start_clients(f"clients-{process + 1}", devices, self._word)
        await self._stage.until(lambda: self._online(0.0), START, "clients to log in")
        self._tell("go")
        self._say(f"{len(self._users)} users with {len(NAMES)} devices each have logged in, in {processes} processes.")
        end = time.monotonic() + self._seconds
        faults, left = self._rounds(), sum(len(KINDS[kind].faults) for kind in self._kinds)
        while (pause := self._chance.expovariate(1 / self._every)) < end - time.monotonic() or left > 0:
            await self._stage.pause(pause)
            await self._fault(*next(faults))
            left -= 1
        await self._stage.pause(end - time.monotonic())
        await self._settle()
        await self._stage.stop_all()

    def _rounds(self) -> Iterator[tuple[str, Callable[[Harm], Any]]]:
        every = [(kind, fault) for kind in self._kinds for fault in KINDS[kind].faults]
        while True:
            yield from self._chance.sample(every, len(every))

    async def _fault(self, kind: str, fault: Callable[[Harm], Any]) -> None:
        begin = time.monotonic()
        windows = self.outcome.windows
        well = not self._mended and self._online(0.0) and not any(lane.broken for node in self._stage.nodes for lane in node.network.lanes)
        if not KINDS[kind].quiet and windows:
            windows[-1] = windows[-1]._replace(until=min(windows[-1].until, begin))
        self._mended.clear()
        await fault(self._harm)
        end = time.monotonic()
        if KINDS[kind].quiet and well:
            windows.append(Window(kind, begin, end, float("inf")))
        if kind != "network":  # there is no moment from which on that is well again
            self._mended = {"clients back": (kind, end), "nodes sure again": (kind, end)}

    async def _settle(self) -> None:
        """Everything is whole again, nobody sends any more, and all devices come to show what they have not shown yet."""
        for node in self._stage.nodes:
            node.network.heal()
        self._write(Healed)
        self._tell("settle")
        self._stage.start_clients("clients-late", [(user, LATE) for user in self._users], self._word, catch_up=LATE_CATCH_UP)
        self._say(f"{self._clock()}  all is healed; the rest is to arrive now, also on a third device of each user.")
        healed = time.monotonic()
        try:
            await self._stage.until(lambda: self._settled(healed), self._patience, "everything to arrive", self._progress)
        except TimeoutError:
            counts = self.counts()
            lacking = [] if self._online(healed) else ["not all clients are online"]
            lacking += [] if self._stage.certain() else ["not all nodes hear each other"]
            lacking += [f"{counts['unanswered']} messages have no answer", f"{counts['covered']:,} of {self._due(counts):,} showings came"]
            gone = [why for process in self._stage.clients.values() if process.tally is not None for why in process.tally.ended]
            self.outcome.unsettled = "; ".join([*lacking, *gone])
        errors = self.counts()["errors"]
        if errors and all(KINDS[kind].quiet for kind in self._kinds):
            self.outcome.wrong.append(f"applications were told of {errors} errors, and nothing was done that they should notice")
        self._write(Quiet)

    def _settled(self, since: float) -> bool:
        counts = self.counts()
        return self._online(since) and self._stage.certain() and not counts["unanswered"] and counts["covered"] >= self._due(counts)

    def _due(self, counts: Counter[str]) -> int:
        """Showings, when each accepted message has come to both users' devices, but for the one that sent it."""
        return counts["accepted"] * (2 * (len(NAMES) + 1) - 1)

    def _progress(self) -> object:
        counts = self.counts()
        return counts["covered"], counts["unanswered"]

    def close(self) -> Deferred[Any]:
        """Ends whatever is left, at once; fires when it has ended."""
        return self._stage.close()

    # ---- how it stands

    def counts(self) -> Counter[str]:
        """What all clients have told: `Tally`'s numbers, added up."""
        total: Counter[str] = Counter()
        for process in self._stage.clients.values():
            if process.tally is not None:
                for name in COUNTED:
                    total[name] += getattr(process.tally, name)
        return total

    def _online(self, since: float) -> bool:
        return self._stage.online(self._word, since)

    def _tell(self, word: str) -> None:
        self._word = word
        for process in self._stage.clients.values():
            process.say(word.encode())

    def _look(self) -> None:
        """What is to be seen to all the time."""
        self.outcome.server_faults = sum(child.faults for child in self._stage.children if isinstance(child, Server))
        for what, (kind, since) in list(self._mended.items()):
            if self._online(since) if what == "clients back" else self._stage.certain():
                self.outcome.add(f"{kind}: {what}", time.monotonic() - since)
                del self._mended[what]

    def _broke(self, kind: str, how: str) -> None:
        self._write(Fault, kind=kind)
        counts = self.counts()
        self._say(f"{self._clock()}  {f'{kind}, {how}':<60}  accepted {counts['accepted']:>7,}  shown {counts['shown']:>8,}")

    def _write(self, event: Callable[..., Event], /, **values: Any) -> None:
        self._events.write(encode(event(time=time.monotonic(), **values)) + b"\n")

    def _clock(self) -> str:
        return f"{time.monotonic() - self._began:7.1f} s"
