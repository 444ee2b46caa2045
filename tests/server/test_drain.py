"""Nodes come and go, and their users do not notice: each is stopped and started again while everybody sends, and the oracle judges.

Strategy: three nodes of a mesh on one disk, in a simulated world, many times over, from seeds. Every device knows one node only, and so has
to be sent to the others. What an application asks for meanwhile is asked without a care, and no answer may be an error.
"""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import Any

import pytest
from twisted.application.service import Service
from twisted.python.failure import Failure

from twisted_im.client.values import Life, Standing
from twisted_im.faults.recorder import Recorder
from twisted_im.oracle import Event, Healed, Oracle, Quiet, Refused
from twisted_im.sim.cluster import mesh, star
from twisted_im.sim.devices import MemoryJournal
from twisted_im.sim.disk import SimDisk
from twisted_im.sim.world import PORT, Process, World

NAMES = ("first", "second", "third")
#: Seconds that a node may take to stop (R20), and that a client may take to be back.
LONGEST, SOON = 60.0, 2.0


class Device(Service):
    """A device whose application sends to the others, and asks for this and that, several times a second.

    Attributes:
        recorder: the application.
        errors: what it was told that is no good news.
        away: the longest time that it was without a session, in seconds.
    """

    def __init__(self, process: Process, name: str, others: list[str], journal: MemoryJournal) -> None:
        self._process = process
        self._others = others
        self._lost = 0.0
        self.errors: list[str] = []
        self.away = 0.0
        self.busy = False
        user, _, device = name.partition("/")
        at = f"{NAMES[process.random.randrange(len(NAMES))]}:{PORT}"
        self.recorder = Recorder(journal, user, device, at, now=lambda: process.world.now, moved=self._moved, **process.client_options())

    def startService(self) -> None:
        super().startService()
        self.recorder.come()

    def stopService(self) -> Any:
        super().stopService()
        return self.recorder.client.stopService()

    def _moved(self, standing: Standing) -> None:
        now = self._process.world.now
        if standing.life is Life.ONLINE:
            self.away, self._lost = max(self.away, now - self._lost) if self._lost else 0.0, 0.0
        elif not self._lost:
            self._lost = now
        if standing.error is not None or standing.life is Life.ENDED:
            self.errors.append(f"{standing.life.value}: {standing.reason}")

    def act(self) -> None:
        """Does something, and again."""
        chance, client = self._process.random, self.recorder.client
        if self.busy:
            self.recorder.send(chance.choice(self._others))
            asked = client.conversations() if chance.random() < 0.5 else client.devices()
            asked.addErrback(self._failed)
        self._process.reactor.callLater(chance.uniform(0.05, 0.4), self.act)

    def _failed(self, failure: Failure) -> None:
        self.errors.append(f"asked in vain: {failure.getErrorMessage()}")


class Cluster:
    """Nodes, and devices in processes of their own.

    Attributes:
        devices: all that are there.
    """

    def __init__(self, seed: int | str, *, store: str = "model", users: int = 3, router: Any = None, **options: Any) -> None:
        self.world = World(seed)
        self.disk = SimDisk(self.world, self.world.chance("disk"))
        self.events: list[Event] = []
        make = self.disk.sqlite if store == "sqlite" else self.disk.model
        self.nodes = {name: self.world.server(name, store=make, machine="rack", router=router or mesh(), **options) for name in NAMES}
        self.world.run_until(lambda: all(self.knows_all(name) for name in NAMES))
        people = [f"user{number}" for number in range(users)]
        self.devices: list[Device] = []
        for user in people:
            for name in (f"{user}/phone", f"{user}/laptop"):
                journal = MemoryJournal(self.events.append)
                others = [other for other in people if other != user]
                made = self.world.process(name, partial(Device, name=name, others=others, journal=journal))
                self.devices.append(made.service)
        self.world.run_until(lambda: all(device.recorder.online for device in self.devices))

    def knows_all(self, name: str) -> bool:
        """Whether a node sees where it can send its clients."""
        service = self.nodes[name].service
        return service is not None and len(service.node.elsewhere) == len(NAMES) - 1 and not service.node.doubts.open

    def load(self) -> None:
        """Everybody does something from now on."""
        for device in self.devices:
            device.busy = True
            device._process.reactor.soon(device.act)

    def restart(self, name: str) -> float:
        """Stops a node and starts it again; gives the seconds until it had stopped."""
        began = self.world.now
        node = self.nodes[name]
        node.stop()
        self.world.run_until(lambda: not node.alive, limit=LONGEST)
        took = self.world.now - began
        self.world.run_for(1.0)
        node.start()
        self.world.run_until(lambda: all(self.knows_all(each) for each in NAMES), limit=30.0)
        return took

    def rest(self) -> None:
        """Nobody does anything more, and everything arrives."""
        for device in self.devices:
            device.busy = False
        self.events.append(Healed(time=self.world.now))
        self.world.run_until(lambda: all(device.recorder.online and not device.recorder.unanswered for device in self.devices))
        self.world.run_for(5.0)
        self.events.append(Quiet(time=self.world.now))

    def faults(self) -> list[str]:
        """What users have noticed, and what was left behind."""
        oracle = Oracle()
        for number, event in enumerate(self.events):
            oracle.add(event, number)
        found = [f"{violation.law}: {violation.text}" for violation in oracle.judge().violations]
        found += [f"refused: {event}" for event in self.events if isinstance(event, Refused)]
        return found + self.world.errors + self.world.leaks + [error for device in self.devices for error in device.errors]

    def close(self) -> None:
        self.world.close()
        self.disk.close()


def rolling(seed: int | str, **options: Any) -> Counter[str]:
    """A rolling restart, from its beginning to its judgement."""
    cluster = Cluster(seed, **options)
    try:
        cluster.load()
        cluster.world.run_for(2.0)
        took = [cluster.restart(name) for name in cluster.world.chance("turns").sample(NAMES, len(NAMES))]
        cluster.world.run_for(1.0)
        cluster.rest()
        assert cluster.faults() == [], f"seed {seed}"
        assert max(took) < LONGEST
        assert max(device.away for device in cluster.devices) < SOON, f"seed {seed}"
        return Counter(type(event).__name__ for event in cluster.events)
    finally:
        cluster.close()


ROUTERS = {"mesh": mesh(), "star": star(), "broadcast": star(broadcast=True)}


@pytest.mark.parametrize("router", [*ROUTERS])
@pytest.mark.parametrize("store", ["model", "sqlite"])
@pytest.mark.parametrize("seed", range(3))
def test_a_rolling_restart(seed: int, store: str, router: str) -> None:
    """If this fails, an upgrade of a cluster shows errors to people, or costs them messages."""
    counts = rolling(seed, store=store, router=ROUTERS[router])
    assert counts["Accepted"] > 100, "it was no test"


def test_a_crowd_is_spread(monkeypatch: pytest.MonkeyPatch) -> None:
    """If this fails, a node with many clients throws them all at once at one other."""
    monkeypatch.setattr("twisted_im.server.node.DRAIN_RATE", 5)
    cluster = Cluster("crowd", users=20)
    try:
        stopped = cluster.nodes["second"].service.node
        most = sum(len(process.service.node.sessions) for process in cluster.nodes.values())
        count, began = len(stopped.sessions), cluster.world.now
        assert count > 5
        rest = {name: len(cluster.nodes[name].service.node.sessions) for name in ("first", "third")}
        cluster.nodes["second"].stop()
        cluster.world.run_until(lambda: len(stopped.sessions) <= count / 2)
        assert cluster.world.now - began > 0.4, "not at once"
        late = cluster.world.client("late", at="second")
        cluster.world.run_until(lambda: late.standing.life is Life.ONLINE, limit=SOON)
        assert late.uid.encode() not in [session.uid for session in stopped.sessions], "nobody is let in any more"
        cluster.world.run_until(lambda: not cluster.nodes["second"].alive, limit=10.0)
        assert stopped.counters.redirected == count + 1
        cluster.world.run_until(lambda: sum(len(cluster.nodes[name].service.node.sessions) for name in rest) == most + 1, limit=SOON)
        loads = {name: len(cluster.nodes[name].service.node.sessions) for name in rest}
        assert max(loads.values()) - min(loads.values()) <= max(2, abs(rest["first"] - rest["third"]))
        assert cluster.faults() == []
    finally:
        cluster.close()


def test_a_full_node_sends_people_on() -> None:
    """If this fails, people are told to come back later while another node of the cluster has room."""
    cluster = Cluster("full", users=1, most=3)
    try:
        came = [cluster.world.client(f"guest{number}", at="first") for number in range(6)]
        cluster.world.run_until(lambda: all(guest.standing.life is Life.ONLINE for guest in came), limit=20.0)
        assert max(len(process.service.node.sessions) for process in cluster.nodes.values()) == 3
    finally:
        cluster.close()


def test_the_last_one_closes_the_door() -> None:
    """If this fails, a node without others keeps its clients waiting when it is stopped, or a cluster that is stopped does not end."""
    cluster = Cluster("last", users=1)
    try:
        for name in NAMES:
            cluster.nodes[name].stop()
        cluster.world.run_until(lambda: not any(process.alive for process in cluster.nodes.values()), limit=10.0)
        assert cluster.world.errors == []
        assert cluster.world.leaks == []
        for name in NAMES:
            cluster.nodes[name].start()
        cluster.world.run_until(lambda: all(device.recorder.online for device in cluster.devices))
    finally:
        cluster.close()
