"""Ports and attempts to connect in the simulation are what Twisted's are."""

from __future__ import annotations

from twisted.trial.unittest import TestCase

from tests.sim.contract import ConnectContract, OnTwisted, Simulated


class TestOnTwisted(OnTwisted, ConnectContract, TestCase):
    """The contract as Twisted keeps it, on real sockets."""

    timeout = 60


class TestSimulated(Simulated, ConnectContract, TestCase):
    """The contract as the simulation keeps it."""
