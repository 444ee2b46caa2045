"""A run: a real server, clients in processes of their own, faults at random moments, and the oracle's word at the end.

Strategy: the story is one coroutine, `Run.play`, and reads as such: start, load, harm, heal, settle, judge. Which fault comes when is drawn
from the seed; what it meets there is up to the machine. Nothing is waited for by sleeping: processes say how they stand, and the run goes
on when that is so, or fails when it is not so in time. Whatever ends the run, `close` ends every process; those that outlive even that,
because this process was killed, are ended by the kernel (`leash`).

What settles is counted, not timed: with d devices for each user, every accepted message is to be shown on 2d − 1 of them. One device
of each user comes only when all is healed, so it must find everything in the log: what the store has lost cannot hide behind devices that
had seen it before.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from signal import SIGCONT, SIGKILL, SIGSTOP, SIGTERM
from typing import Any

from msgspec.json import decode, encode
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from twisted_im.faults.devices import Orders, Tally
from twisted_im.faults.network import Network
from twisted_im.leash import leashed_twistd
from twisted_im.oracle import Event, Fault, Healed, Quiet

#: kind → what it does, for the help
KINDS = {
    "kill": "SIGKILL the server, and start it again (not with a store in memory, which loses everything then)",
    "stop": "stop the server for some seconds (SIGSTOP, SIGCONT)",
    "clients": "kill a process full of clients and start it again, or stop it for some seconds",
    "network": "cut, delay and reset connections, or let them swallow everything (a pulled cable)",
}

#: Devices that each user has from the beginning; one more comes at the end.
NAMES = ("phone", "desk")
LATE = "late"

#: Processes for the clients, if there are users enough.
PROCESSES = 3

#: Seconds for processes to start and log in; for anything to move after the last fault (the oracle's minute); for processes to end.
START, SETTLE, END = 60.0, 60.0, 15.0

#: Seconds that a killed server is away, at most: whoever supervises it starts it again at once.
DOWN = 2.0

#: The late devices show so many messages of each conversation, and read the rest from the log: both ways are taken.
LATE_CATCH_UP = 100


class RunError(Exception):
    """A run did not come to its end; the text is for people."""


class Child(ProcessProtocol):
    """A process of the run, with a log of its own.

    Attributes:
        name: for messages, and of the log.
        ended: why, once it has ended.
        wanted: it is not to end by itself.
    """

    transport: Any

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.ended: Failure | None = None
        self.wanted = True
        self._rest = b""
        self._last = b"it wrote nothing"
        self._log = (folder / f"{name}.log").open("ab", buffering=0)
        self._waiting: list[Deferred[None]] = []

    # ---- what it says

    def outReceived(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self.heard(line)

    def heard(self, line: bytes) -> None:
        """One line of its output."""

    def errReceived(self, data: bytes) -> None:
        self.keep(data)

    def keep(self, data: bytes) -> None:
        """Puts text into its log."""
        self._last = data.strip().rpartition(b"\n")[2] or self._last
        self._log.write(data)

    def processEnded(self, reason: Failure) -> None:
        self.ended = reason
        self._log.close()
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            each.callback(None)

    # ---- what is done to it

    def signal(self, number: int) -> None:
        if self.ended is None:
            os.kill(self.transport.pid, number)

    def end(self) -> Deferred[None]:
        """Fires when it has ended; that is wanted now."""
        self.wanted = False
        wanted: Deferred[None] = Deferred()
        if self.ended is None:
            self._waiting.append(wanted)
        else:
            wanted.callback(None)
        return wanted

    def check(self) -> None:
        """Raises a `RunError` if it has ended by itself."""
        if self.ended is not None and self.wanted:
            raise RunError(f"{self.name} has ended by itself: {self._last.decode('utf-8', 'replace')}")


class Server(Child):
    """twistd with a node; its log is JSON.

    Attributes:
        port: where it listens; 0 before it does.
        faults: lines in its log that tell of a fault of its own.
    """

    port = faults = 0

    def heard(self, line: bytes) -> None:
        self.keep(line + b"\n")
        try:
            said = json.loads(line)
        except ValueError:
            return
        if said.get("event") == "listening":
            self.port = int(str(said["address"]).rpartition(":")[2])
        self.faults += said.get("level") in ("error", "critical")


class Clients(Child):
    """A process full of devices.

    Attributes:
        tally, told: what it has said last, and when.
    """

    tally: Tally | None = None
    told = 0.0

    def heard(self, line: bytes) -> None:
        self.tally, self.told = decode(line, type=Tally), time.monotonic()

    def say(self, line: bytes) -> None:
        if self.ended is None:
            self.transport.write(line + b"\n")

    def stands(self, word: str, since: float) -> bool:
        """Whether all its devices are online that are not away, as it said after it had heard a word, and after a moment."""
        tally = self.tally
        return tally is not None and tally.word == word and self.told > since and tally.online == tally.devices


@dataclass
class Outcome:
    """What a run tells besides what the oracle says.

    Attributes:
        recoveries: seconds until all clients were logged in after a process had been started or went on, if no other fault came between.
        server_faults: lines in the server's log that tell of a fault of its own.
        unsettled: what had not settled in time; empty if all had.
    """

    recoveries: list[float] = field(default_factory=list)
    server_faults: int = 0
    unsettled: str = ""


class Run:
    """One run.

    Args:
        folder: for all logs; empty.
        kinds: of `KINDS`.
        seconds: of load and faults, before it settles.
        users: how many.
        every: seconds from fault to fault, on average.
        rate: messages a second and device.
        store: for twistd's --store.
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
        kinds: Sequence[str],
        seconds: float,
        users: int,
        every: float,
        rate: float,
        store: str,
        seed: int,
        plant: str,
        say: Callable[[str], object],
        patience: float = SETTLE,
    ) -> None:
        self._reactor = reactor
        self._folder = folder
        self._kinds = kinds
        self._seconds = seconds
        self._users = [f"user{number}" for number in range(1, users + 1)]
        self._every = every
        self._rate = rate
        self._store = store
        self._seed = seed
        self._plant = plant
        self._say = say
        self._patience = patience
        self._chance = Random(seed)
        self._network = Network(reactor, Random(f"{seed}/network"))
        self._server: Server | None = None
        self._clients: dict[str, Clients] = {}
        self._crews: dict[str, list[tuple[str, str]]] = {}
        self._children: list[Child] = []  # all there ever were
        self._word = "wait"
        self._mended: float | None = None
        self._began = time.monotonic()
        self._events = (folder / "run.jsonl").open("ab", buffering=0)
        self.outcome = Outcome()

    # ---- the story

    async def play(self) -> None:
        """The run, up to its quiet end.

        Raises:
            RunError: a process did not start, or ended by itself.
        """
        await self._start_server()
        processes = min(PROCESSES, len(self._users))
        crew: dict[int, list[tuple[str, str]]] = {}
        for u, user in enumerate(self._users):
            for n, name in enumerate(NAMES):  # a user's devices live in different processes
                crew.setdefault((u + n) % processes, []).append((user, name))
        for process, devices in sorted(crew.items()):
            self._start_clients(f"clients-{process + 1}", devices)
        await self._until(lambda: self._online(0.0), START, "clients to log in")
        self._tell("go")
        self._say(f"{len(self._users)} users with {len(NAMES)} devices each have logged in, in {processes} processes.")
        end = time.monotonic() + self._seconds
        while (pause := self._chance.expovariate(1 / self._every)) < end - time.monotonic():
            await self._pause(pause)
            await self._fault()
        await self._pause(end - time.monotonic())
        await self._settle()
        await self._stop_all()

    async def _fault(self) -> None:
        faults = {"kill": self._kill_server, "stop": self._stop_server, "clients": self._harm_clients, "network": self._harm_network}
        self._mended = None
        kind = self._chance.choice(self._kinds)
        await faults[kind]()
        if kind != "network":  # there is no moment from which on that is well again
            self._mended = time.monotonic()

    async def _kill_server(self) -> None:
        assert self._server is not None
        seconds = self._chance.uniform(0, min(DOWN, self._every / 2))
        self._broke("server killed", f"back after {seconds:.1f} s")
        self._server.signal(SIGKILL)
        await self._server.end()
        await self._pause(seconds)
        await self._start_server()

    async def _stop_server(self) -> None:
        assert self._server is not None
        seconds = self._chance.uniform(0.1, 1.2) * self._every
        self._broke("server stopped", f"for {seconds:.1f} s")
        await self._still(self._server, seconds)

    async def _harm_clients(self) -> None:
        """A phone that is put to sleep, or whose battery goes flat."""
        name = self._chance.choice(sorted(self._clients))
        seconds = self._chance.uniform(0, 0.5) * self._every
        process, devices = self._clients[name], self._crews[name]
        if self._chance.random() < 0.5:
            self._broke("clients stopped", f"{name} for {seconds:.1f} s")
            await self._still(process, seconds)
            return
        self._broke("clients killed", f"{name}, back after {seconds:.1f} s")
        process.signal(SIGKILL)
        await process.end()
        await self._pause(seconds)
        self._start_clients(name, devices)

    async def _harm_network(self) -> None:
        seconds = self._chance.uniform(0.1, 0.5) * self._every
        way, count = self._network.harm(seconds)
        self._broke(f"connections {way}", f"{count} of {len(self._network.lanes)}")

    async def _still(self, process: Child, seconds: float) -> None:
        """Has a process do nothing for a while."""
        process.signal(SIGSTOP)
        try:
            await self._pause(seconds)
        finally:
            process.signal(SIGCONT)

    async def _settle(self) -> None:
        """Everything is whole again, nobody sends any more, and all devices come to show what they have not shown yet."""
        self._network.heal()
        self._write(Healed)
        self._tell("settle")
        self._start_clients("clients-late", [(user, LATE) for user in self._users], catch_up=LATE_CATCH_UP)
        self._say(f"{self._clock()}  all is healed; the rest is to arrive now, also on a third device of each user.")
        healed = time.monotonic()
        try:
            await self._until(lambda: self._settled(healed), self._patience, "everything to arrive", self._progress)
        except TimeoutError:
            counts = self.counts()
            lacking = [] if self._online(healed) else ["not all clients are online"]
            lacking += [f"{counts['unanswered']} messages have no answer", f"{counts['covered']:,} of {self._due(counts):,} showings came"]
            gone = [why for process in self._clients.values() if process.tally is not None for why in process.tally.ended]
            self.outcome.unsettled = "; ".join([*lacking, *gone])
        self._write(Quiet)

    def _settled(self, since: float) -> bool:
        counts = self.counts()
        return self._online(since) and not counts["unanswered"] and counts["covered"] >= self._due(counts)

    def _due(self, counts: Counter[str]) -> int:
        """Showings, when each accepted message has come to both users' devices, but for the one that sent it."""
        return counts["accepted"] * (2 * (len(NAMES) + 1) - 1)

    def _progress(self) -> object:
        counts = self.counts()
        return counts["covered"], counts["unanswered"]

    async def _stop_all(self) -> None:
        """Ends every process in good order."""
        clients, servers = [[child for child in self._children if child.ended is None and isinstance(child, k)] for k in (Clients, Server)]
        for children in (clients, servers):
            gone = DeferredList([child.end() for child in children])
            for child in children:
                child.signal(SIGTERM)
            await self._until(lambda gone=gone: gone.called, END, "processes to end")  # type: ignore[misc]

    # ---- processes

    async def _start_server(self) -> None:
        words = [*leashed_twistd(os.getpid()), "-n", "--pidfile=", "im"]
        words += ["--listen=tcp:0:interface=127.0.0.1", "--auth=anonymous", f"--store={self._store}"]
        self._server = server = Server("server", self._folder)
        self._spawn(server, words)
        await self._until(lambda: server.port, START, "the server to listen")
        self._network.target = server.port

    def _start_clients(self, name: str, devices: list[tuple[str, str]], *, catch_up: int = 1000) -> None:
        before = self._clients.get(name)
        self._clients[name] = process = Clients(name, self._folder)
        process.tally = before.tally if before is not None else None  # counts go on; `told` says that it is not news
        self._crews[name] = devices
        self._spawn(process, [sys.executable, "-m", "twisted_im.faults.devices"])
        orders = Orders(
            folder=str(self._folder),
            endpoint=f"127.0.0.1:{self._network.port}",
            devices=devices,
            users=self._users,
            rate=self._rate,
            seed=f"{self._seed}/{name}/{len(self._children)}",
            catch_up=catch_up,
            plant=self._plant,
            word=self._word,
        )
        process.say(encode(orders))

    def _spawn(self, child: Child, words: list[str]) -> None:
        self._children.append(child)
        root = str(Path(__file__).parents[2])
        older = os.environ.get("PYTHONPATH")
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(dict.fromkeys([root, *([older] if older else [])]))}
        self._reactor.spawnProcess(child, words[0], words, env=environment, path=str(self._folder))

    def close(self) -> Deferred[Any]:
        """Ends whatever is left, at once; fires when it has ended."""
        self._network.close()
        alive = [child for child in self._children if child.ended is None]
        gone = [child.end() for child in alive]
        for child in alive:
            child.signal(SIGKILL)
        return DeferredList(gone)

    # ---- how it stands

    def counts(self) -> Counter[str]:
        """What all clients have told: `Tally`'s numbers, added up."""
        total: Counter[str] = Counter()
        for process in self._clients.values():
            if process.tally is not None:
                for name in ("sent", "accepted", "unanswered", "shown", "covered"):
                    total[name] += getattr(process.tally, name)
        return total

    def _online(self, since: float) -> bool:
        return all(process.stands(self._word, since) for process in self._clients.values())

    def _tell(self, word: str) -> None:
        self._word = word
        for process in self._clients.values():
            process.say(word.encode())

    def _look(self) -> None:
        """What is to be seen to all the time."""
        for child in self._children:
            child.check()
        self.outcome.server_faults = sum(child.faults for child in self._children if isinstance(child, Server))
        if self._mended is not None and self._online(self._mended):
            self.outcome.recoveries.append(time.monotonic() - self._mended)
            self._mended = None

    async def _until(self, holds: Callable[[], object], seconds: float, what: str, progress: Callable[[], object] = lambda: None) -> None:
        """Waits for something; the seconds begin again whenever there is progress.

        Raises:
            TimeoutError: it did not come.
        """
        end, before = time.monotonic() + seconds, progress()
        while not holds():
            if (now := progress()) != before:
                end, before = time.monotonic() + seconds, now
            if time.monotonic() > end:
                raise TimeoutError(f"waited {seconds:.0f} s for {what}")
            await self._pause(0.02)

    async def _pause(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            await deferLater(self._reactor, min(left, 0.1), lambda: None)
            self._look()

    def _broke(self, kind: str, how: str) -> None:
        self._write(Fault, kind=kind)
        counts = self.counts()
        self._say(f"{self._clock()}  {f'{kind}, {how}':<60}  accepted {counts['accepted']:>7,}  shown {counts['shown']:>8,}")

    def _write(self, event: Callable[..., Event], /, **values: Any) -> None:
        self._events.write(encode(event(time=time.monotonic(), **values)) + b"\n")

    def _clock(self) -> str:
        return f"{time.monotonic() - self._began:7.1f} s"
