"""Disks: what a crash leaves of a store, and what a disk does to one before; the same for the real store and for its model.

Strategy: a process of a world holds a store, and the test asks it. Whatever was answered is a promise that the next process must find
kept. The model keeps the contract of all stores too; the reactor runs its world while the test waits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from twisted.application.service import Service
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from tests.storage.contract import ALICE, BOB, PHONE, SharedStoreContract, message
from twisted_im.errors import ImError, Status
from twisted_im.server.interfaces import StoreError
from twisted_im.sim.disk import SimDisk
from twisted_im.sim.world import Process, World
from twisted_im.storage.memory import MemoryStore

KINDS = pytest.mark.parametrize("kind", ["sqlite", "model"])


class Bench:
    """A disk in a world, and processes with a store on it."""

    def __init__(self, kind: str, seed: int = 0) -> None:
        self.world = World(seed, keep_trace=True)
        self.disk = SimDisk(self.world, self.world.chance("disk"))
        self._make: Callable[[Process], Any] = getattr(self.disk, kind)
        self.stores: dict[str, Any] = {}
        self.process("one")
        assert self.wait(self.store.accounts([ALICE, BOB], True)) == set()

    @property
    def store(self) -> Any:
        """Of the process `one`."""
        return self.stores["one"]

    def process(self, name: str) -> Process:
        """A process with a store, which opens it each time that it begins."""

        def program(process: Process) -> Service:
            store = self.stores[name] = self._make(process)
            store.open()
            service = Service()
            service.stopService = store.close  # type: ignore[method-assign]  # for the test alone
            return service

        return self.world.process(name, program, machine="rack")

    def wait(self, asked: Deferred[Any]) -> Any:
        """What becomes of it: a value, or an error."""
        found: list[Any] = []
        asked.addBoth(found.append)
        self.world.run_until(lambda: found)
        return found[0].value if isinstance(found[0], Failure) else found[0]

    def append(self, content: bytes, *, store: Any = None) -> Any:
        """A message from Alice to Bob; what it was answered."""
        answer = self.wait((store or self.store).append([message(ALICE, BOB, content)], []))
        return answer if isinstance(answer, Exception) else answer[0][0]

    def contents(self) -> list[bytes]:
        """What Bob reads."""
        _, rows = self.wait(self.store.read_since(0, 1000))
        return [row.content for row in rows]

    def close(self) -> None:
        """Ends everything."""
        for process in self.world.processes.values():
            process.kill()
        self.disk.close()


@pytest.fixture
def bench(kind: str) -> Iterator[Bench]:
    """One of each kind."""
    made = Bench(kind)
    yield made
    made.close()


class TestModel(SharedStoreContract, TestCase):
    """The model keeps what every store must: else a run on it says nothing of the others."""

    machine_settings = {"max_examples": 8, "stateful_step_count": 25}

    def make_store(self) -> Any:
        self.made = getattr(self, "made", 0) + 1
        world = World(self.made)
        disk = SimDisk(world, world.chance("disk"))
        disk.image = MemoryStore(horizon=3600, clock=self.clock, random=world.chance("image").randbytes)
        loop = LoopingCall(world.run_for, 0.02)
        loop.clock = reactor
        loop.start(0.001)  # a loop without a pause would keep the interpreter from the thread that asks
        self.addCleanup(loop.stop)
        self.make_other = lambda: disk.model(world.process(f"node{len(world.processes)}", lambda process: Service()))
        return self.make_other()


@KINDS
def test_a_crash_leaves_what_was_accepted(kind: str) -> None:
    """If this fails, a run finds messages lost that the real store keeps; or a crash leaves a file that no disk ever held."""
    left, torn = set(), 0
    for seed in range(30):
        bench = Bench(kind, seed)
        try:
            accepted = [b"%d" % number for number in range(3)]
            for content in accepted:
                assert bench.append(content)[1] == int(content) + 1
            answers: list[Any] = []
            under_way = [message(ALICE, BOB, b"under way %d " % number + bytes(3000)) for number in range(10)]
            bench.store.append(under_way, []).addBoth(answers.append)
            bench.world.run_for(bench.world.chance("when").random() * 0.002)
            assert not answers
            bench.world.kill("one")
            bench.world.run_for(1)
            torn += any("in part" in step.text for step in bench.world.trace.steps)
            bench.world.processes["one"].start()
            found = bench.contents()
            assert found[:3] == accepted
            assert found[3:] in ([], [entry[7] for entry in under_way]), "all of a commit, or nothing"
            left.add(len(found))
            assert not answers, "nobody is there to be answered"
            assert bench.disk.findings() == []
            assert len(bench.disk.placed()) == len(found)
            assert bench.append(b"goes on")[1] == len(found) + 1
        finally:
            bench.close()
    assert left == {3, 13}
    assert torn or kind == "model"


@KINDS
def test_a_full_disk_keeps_nothing_and_works_again(bench: Bench) -> None:
    """If this fails, what a full disk does to clients is not what a run says."""
    bench.disk.trouble = "full"
    refused = bench.append(b"too much")
    assert isinstance(refused, ImError)
    assert refused.code is Status.UNAVAILABLE
    assert refused.retry_after
    assert bench.contents() == []
    bench.disk.trouble = ""
    assert bench.append(b"fits")[1] == 1
    assert bench.contents() == [b"fits"]


@pytest.mark.parametrize(("trouble", "kept"), [("error", []), ("lost", [b"doubtful"])])
@KINDS
def test_a_failing_disk_ends_the_store(bench: Bench, trouble: str, kept: list[bytes]) -> None:
    """If this fails, a node goes on with a disk that has failed, or a run does not know what that disk holds."""
    assert bench.append(b"before")[1] == 1
    bench.disk.trouble = trouble
    assert isinstance(bench.append(b"doubtful"), StoreError)
    bench.disk.trouble = ""
    assert isinstance(bench.append(b"after"), StoreError), "never again"
    bench.world.kill("one")
    bench.world.processes["one"].start()
    assert bench.contents() == [b"before", *kept]
    assert bench.disk.findings() == []


@KINDS
def test_a_slow_disk_takes_its_time(bench: Bench) -> None:
    """If this fails, a fault that a scenario names does nothing."""
    begun = bench.world.now
    bench.append(b"fast")
    fast = bench.world.now - begun
    bench.disk.trouble = "slow"
    begun = bench.world.now
    assert bench.append(b"slow")[1] == 2
    assert fast < 0.1 < 0.4 < bench.world.now - begun


@KINDS
def test_a_name_that_was_taken_is_a_fence(bench: Bench) -> None:
    """If this fails, a node that was taken for dead goes on writing beside its successor, and no run finds it."""
    world = bench.world
    other = bench.process("two")
    assert [lease.boot for lease in bench.wait(bench.store.lease("node", b"first", "a:1", 5))] == [b"first"]
    assert bench.append(b"mine")[1] == 1
    refused = bench.wait(bench.stores["two"].lease("node", b"second", "b:1", 5))
    assert refused.code is Status.NO_SUCH
    world.processes["one"].freeze()
    world.run_for(10)
    assert [lease.boot for lease in bench.wait(bench.stores["two"].lease("node", b"second", "b:1", 5))] == [b"second"]
    assert bench.append(b"theirs", store=bench.stores["two"])[1] == 2
    world.processes["one"].thaw()
    assert isinstance(bench.append(b"too late"), StoreError)
    opened = bench.wait(bench.store.open_session(BOB, PHONE, b"", "node"))
    assert isinstance(opened, StoreError)
    _, rows = bench.wait(bench.stores["two"].read_since(0, 100))
    assert [row.content for row in rows] == [b"mine", b"theirs"]
    assert other.alive


@KINDS
def test_a_store_that_is_closed_has_written_everything(bench: Bench) -> None:
    """If this fails, a server that ends in good order loses what it was about to answer."""
    answers: list[Any] = []
    for number in range(5):
        bench.store.append([message(ALICE, BOB, b"%d" % number)], []).addBoth(answers.append)
    bench.world.processes["one"].stop()
    bench.world.run_until(lambda: not bench.world.processes["one"].alive)
    assert [answer[0][0][1] for answer in answers] == [1, 2, 3, 4, 5]
    bench.world.processes["one"].start()
    assert bench.contents() == [b"0", b"1", b"2", b"3", b"4"]
    assert bench.disk.findings() == []


def test_equal_seeds_leave_equal_files() -> None:
    """If this fails, a crash that was found cannot be found again."""

    def crashed(seed: int) -> tuple[list[bytes], str]:
        bench = Bench("sqlite", seed)
        try:
            bench.append(b"before")
            bench.store.append([message(ALICE, BOB, bytes(30_000), client_id=b"i" * 16)], [])
            bench.world.run_for(0.0005)
            bench.world.kill("one")
            bench.world.processes["one"].start()
            return bench.contents(), bench.world.trace.digest
        finally:
            bench.close()

    assert [crashed(seed) for seed in range(5)] == [crashed(seed) for seed in range(5)]


def test_equal_seeds_say_the_same() -> None:
    """If this fails, the digests of two equal runs differ as soon as a server speaks of its file, and nobody trusts them any more."""

    def failed() -> tuple[list[str], str]:
        world = World(5)
        disk = SimDisk(world, world.chance("disk"))
        disk.trouble = "error"
        server = world.server(store=disk.sqlite)
        world.run_until(lambda: not server.alive)
        disk.close()
        return world.errors, world.trace.digest

    (errors, digest), again = failed(), failed()
    assert (errors, digest) == again
    assert "disk/messages.db" in errors[-1]


def test_a_disk_leaves_nothing_behind() -> None:
    """If this fails, each run fills the machine that it runs on a little more."""
    bench = Bench("sqlite")
    folder = bench.disk.path.parent
    assert folder.is_dir()
    bench.close()
    assert not folder.exists()
