"""The routed strategy by way of a route server."""

from __future__ import annotations

from twisted.trial.unittest import TestCase

from tests.routing.clustered import StarContract, ends
from twisted_im.routing.star import StarRouter


class TestStarRouter(StarContract, TestCase):
    """Three nodes on real sockets."""

    def make_routers(self, count: int) -> list[StarRouter]:
        return [StarRouter(ends()) for _ in range(count)]

    def costs(self) -> tuple[int, int]:
        return 1, 0
