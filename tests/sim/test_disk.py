"""The simulator's plainest store: the contract of all stores that several processes may use.

Strategy: the world that it lives in goes on with the test's reactor, a hundredth of a second in each turn. Time is the test's.
"""

from __future__ import annotations

from typing import Any

from twisted.application.service import Service
from twisted.internet.task import LoopingCall
from twisted.trial.unittest import TestCase

from tests.storage.contract import SharedStoreContract
from twisted_im.sim.disk import SimDisk
from twisted_im.sim.world import World
from twisted_im.storage.memory import MemoryStore


class TestModelStore(SharedStoreContract, TestCase):
    """What every store must do."""

    machine_settings = {"max_examples": 10, "stateful_step_count": 40}

    def make_store(self) -> Any:
        self.world = World("contract")
        self.disk = SimDisk(self.world, self.world.chance("disk"))
        self.disk.image = MemoryStore(clock=self.clock)
        self.addCleanup(self.disk.close)
        passing = LoopingCall(self.world.run_for, 0.01)
        passing.start(0)
        self.addCleanup(passing.stop)
        return self.make_other()

    def make_other(self) -> Any:
        return self.disk.model(self.world.process(f"process {len(self.world.processes)}", lambda process: Service()))
