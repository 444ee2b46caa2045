"""Many seeds, in as many processes as there are cores.

Strategy: the processes are workers (`twisted_im.sim.worker`), each with a PYTHONHASHSEED of its own; this one gives out seeds and adds up.
One seed in a hundred, beginning with the first, is run once more by another worker, and has to give the same digest: what depends on
anything but its seed is found out. A worker that does not answer is ended, and that is a violation like any other.

Nothing is printed here: whoever runs a campaign is told whenever its figures have changed.
"""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from twisted_im.sim.scenario import draw
from twisted_im.sim.worker import WORKER

#: One run in so many is done twice.
TWICE = 100
#: Seconds until a run that has not ended never will.
PATIENCE = 300.0
#: Seconds between two looks at the clock while nobody answers.
TICK = 0.5


@dataclass
class Figures:
    """What a campaign has come to so far.

    Attributes:
        seeds: runs, each of another seed.
        first, last: the lowest and the highest seed.
        skipped: seeds that the filters left out.
        twice: of the runs, those that were done again and compared.
        simulated: seconds of the worlds, all runs together; those done again count once.
        events: calls that were made in them.
        wall: seconds that it took.
        faults: kind → how many were begun.
        counts: of the oracle; see `twisted_im.oracle.COUNTS`.
        violations: seed → one line for each promise that was broken.
        broken_off: somebody has ended it.
    """

    seeds: int = 0
    first: int | None = None
    last: int | None = None
    skipped: int = 0
    twice: int = 0
    simulated: float = 0.0
    events: int = 0
    wall: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)
    violations: dict[int, list[str]] = field(default_factory=dict)
    broken_off: bool = False

    def add(self, result: dict[str, Any]) -> None:
        """One more run."""
        seed = result["seed"]
        self.seeds += 1
        self.first = seed if self.first is None else min(self.first, seed)
        self.last = seed if self.last is None else max(self.last, seed)
        self.simulated += result["simulated"]
        self.events += result["events"]
        self.faults.update(result["faults"])
        self.counts.update(result["counts"])
        self.blame(seed, result["violations"])

    def blame(self, seed: int, violations: list[str]) -> None:
        """Violations of a seed."""
        if violations:
            self.violations.setdefault(seed, []).extend(violations)

    def plain(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "seeds": self.seeds,
            "first": self.first,
            "last": self.last,
            "skipped": self.skipped,
            "twice": self.twice,
            "simulated_seconds": round(self.simulated, 3),
            "simulated_hours": round(self.simulated / 3600, 4),
            "events": self.events,
            "seconds": round(self.wall, 3),
            "events_per_second": round(self.events / self.wall) if self.wall else 0,
            "times_real_time": round(self.simulated / self.wall, 1) if self.wall else 0.0,
            "faults": dict(sorted(self.faults.items())),
            "counts": dict(self.counts),
            "violations": {str(seed): lines for seed, lines in sorted(self.violations.items())},
            "broken_off": self.broken_off,
        }


class _Worker:
    """A process, and the seed that it has; `ready` when it has said so."""

    def __init__(self, hash_seed: int) -> None:
        self.hash_seed = hash_seed
        self._complaints = tempfile.TemporaryFile()  # noqa: SIM115  # it is closed with the process; a pipe would have to be read
        self.process = subprocess.Popen(
            WORKER,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._complaints,
            env={**os.environ, "PYTHONHASHSEED": str(hash_seed)},
            bufsize=0,
        )
        assert self.process.stdout is not None
        os.set_blocking(self.process.stdout.fileno(), False)
        self._said = bytearray()
        self.ready = False
        self.seed: int | None = None
        self.again = False
        self.since = 0.0

    def give(self, seed: int, length: float | None, *, again: bool) -> None:
        """Has it run a seed."""
        self.seed, self.again, self.since = seed, again, time.monotonic()
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # that it has ended is noticed where it is listened to
            self.process.stdin.write(json.dumps([seed, length]).encode() + b"\n")

    def read(self) -> dict[str, Any] | None:
        """Its answer; None if that is not whole yet.

        Raises:
            EOFError: it has ended.
        """
        assert self.process.stdout is not None
        data = self.process.stdout.read()
        if data == b"":
            raise EOFError
        self._said += data or b""
        line, newline, rest = self._said.partition(b"\n")
        if not newline:
            return None
        self._said = rest
        found: dict[str, Any] = json.loads(line)
        return found

    def end(self) -> str:
        """Ends it; gives the last line of what it has complained of."""
        self.process.kill()
        self.process.communicate()
        with self._complaints as file:
            file.seek(0)
            lines = file.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else ""


class Campaign:
    """Runs seeds until there are none left, or the time is over.

    Args:
        seeds: which; they may be without end.
        jobs: how many at a time.
        seconds: after so many no further seed is begun; those that were are run to their end.
        length: seconds of load and faults in each run; by default each seed draws its own.
        topology, store: leave out all other seeds.
        told: called with the figures when they have changed, and every `TICK` at least.
    """

    def __init__(
        self,
        seeds: Iterable[int],
        *,
        jobs: int,
        seconds: float = float("inf"),
        length: float | None = None,
        topology: str = "",
        store: str = "",
        told: Callable[[Figures], object] = lambda figures: None,
    ) -> None:
        self.figures = Figures()
        self._jobs = jobs
        self._seconds = seconds
        self._length = length
        self._seeds = self._wanted(seeds, topology, store)
        self._told = told
        self._workers: list[_Worker] = []
        self._selector = selectors.DefaultSelector()
        self._given = 0
        #: runs to be done again: seed → the worker that has done it, and its digest
        self._first: dict[int, tuple[_Worker, str]] = {}
        self._again: deque[int] = deque()
        self._compared: set[int] = set()

    def _wanted(self, seeds: Iterable[int], topology: str, store: str) -> Iterator[int]:
        for seed in seeds:
            if topology or store:
                scenario = draw(seed, seconds=0.0)
                if (topology and scenario.topology != topology) or (store and scenario.store != store):
                    self.figures.skipped += 1
                    continue
            yield seed

    def run(self) -> Figures:
        """Everything; no worker is left, however it ends. A KeyboardInterrupt breaks it off, and what there is by then is given."""
        begin = time.monotonic()
        try:
            # Two workers at least, since whatever is done twice is done by two; never more than `jobs` of them at work.
            for number in range(max(self._jobs, 2)):
                self._start(_Worker(number + 1))
            while self._give(time.monotonic() - begin < self._seconds):
                for key, _ in self._selector.select(TICK):
                    self._hear(key.data)
                self._lose_patience()
                self.figures.wall = time.monotonic() - begin
                self._told(self.figures)
        except KeyboardInterrupt:
            self.figures.broken_off = True
        finally:
            for worker in self._workers:
                worker.end()
            self._selector.close()
        self.figures.wall = time.monotonic() - begin
        return self.figures

    def _start(self, worker: _Worker) -> None:
        self._workers.append(worker)
        self._selector.register(worker.process.stdout, selectors.EVENT_READ, worker)  # type: ignore[arg-type]

    def _give(self, more: bool) -> bool:
        """Gives out what there is to do; False if all is done."""
        busy = sum(worker.seed is not None for worker in self._workers)
        for worker in self._workers:
            if not worker.ready or worker.seed is not None or busy >= self._jobs:
                continue
            mine = next((seed for seed in self._again if self._first[seed][0] is not worker), None)
            if mine is not None:
                self._again.remove(mine)
                worker.give(mine, self._length, again=True)
            elif more and (seed := next(self._seeds, None)) is not None:
                if self._given % TWICE == 0:
                    self._compared.add(seed)
                self._given += 1
                worker.give(seed, self._length, again=False)
            else:
                continue
            busy += 1
        return busy > 0 or not all(worker.ready for worker in self._workers)

    def _hear(self, worker: _Worker) -> None:
        try:
            result = worker.read()
        except EOFError:
            self._lost(worker, "the process that ran it has ended")
            return
        if not result:
            worker.ready = worker.ready or result is not None
            return
        seed, worker.seed = result["seed"], None
        if worker.again:
            self.figures.twice += 1
            digest = self._first.pop(seed)[1]
            if result["digest"] != digest:
                self.figures.blame(seed, [f"D1: a second run had the digest {result['digest']}, not {digest}"])
            return
        self.figures.add(result)
        if seed in self._compared:
            self._compared.remove(seed)
            self._first[seed] = worker, result["digest"]
            self._again.append(seed)

    def _lose_patience(self) -> None:
        for worker in list(self._workers):
            if worker.seed is not None and time.monotonic() - worker.since > PATIENCE:
                self._lost(worker, f"it has not ended within {PATIENCE:.0f} s")

    def _lost(self, worker: _Worker, why: str) -> None:
        """A worker is gone, or as good as that; another takes its place.

        Raises:
            ChildProcessError: it has gone without having had a seed, so another would as well.
        """
        self._workers.remove(worker)
        self._selector.unregister(worker.process.stdout)  # type: ignore[arg-type]
        complaint = worker.end()
        if worker.seed is None:  # whatever runs a seed is ready
            raise ChildProcessError(complaint or "it has said nothing")
        if worker.again:
            del self._first[worker.seed]
        else:
            self.figures.seeds += 1
        self.figures.blame(worker.seed, [f"X0: {why}" + (f": {complaint}" if complaint else "")])
        self._start(_Worker(worker.hash_seed))


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
