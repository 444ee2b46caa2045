"""A connection in the simulation is told what one of Twisted's is."""

from __future__ import annotations

from twisted.trial.unittest import TestCase

from tests.sim.contract import OnTwisted, Simulated, TransportContract


class TestOnTwisted(OnTwisted, TransportContract, TestCase):
    """The contract as Twisted keeps it, on real sockets."""

    timeout = 180


class TestSimulated(Simulated, TransportContract, TestCase):
    """The contract as the simulation keeps it."""
