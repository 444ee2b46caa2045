"""The broadcast strategy."""

from __future__ import annotations

from twisted.trial.unittest import TestCase

from tests.routing.clustered import StarContract, ends
from twisted_im.routing.broadcast import BroadcastRouter


class TestBroadcastRouter(StarContract, TestCase):
    """Three nodes on real sockets."""

    def make_routers(self, count: int) -> list[BroadcastRouter]:
        return [BroadcastRouter(ends()) for _ in range(count)]

    def costs(self) -> tuple[int, int]:
        return 4, 3
