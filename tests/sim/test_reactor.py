"""Timers and threads in the simulation are what Twisted's are."""

from __future__ import annotations

from twisted.trial.unittest import TestCase

from tests.sim.contract import OnTwisted, Simulated, TimeContract


class TestOnTwisted(OnTwisted, TimeContract, TestCase):
    """The contract as Twisted keeps it."""

    timeout = 180


class TestSimulated(Simulated, TimeContract, TestCase):
    """The contract as the simulation keeps it."""
