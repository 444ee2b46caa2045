"""The strategy of a server that is alone: the contract of all strategies, and nothing more."""

from __future__ import annotations

from twisted.trial.unittest import TestCase

from tests.routing.contract import RouterContract
from twisted_im.routing.single import SingleRouter


class TestSingleRouter(RouterContract, TestCase):
    """One node."""

    def make_routers(self, count: int) -> list[SingleRouter]:
        return [SingleRouter() for _ in range(count)]

    def test_login_does_not_wait(self) -> None:
        """If this fails, every login waits a reactor turn for peers that a single server does not have."""
        assert self.routers[0].start(self.ups[0]) is None
        assert self.routers[0].attach(object()) is None
