"""The broadcast strategy."""

from __future__ import annotations

from twisted.trial.unittest import TestCase

from tests.routing.clustered import SECRET, ClusteredContract, reach, route_server
from twisted_im.routing.broadcast import BroadcastRouter


class TestBroadcastRouter(ClusteredContract, TestCase):
    """Three nodes on real sockets."""

    def make_routers(self, count: int) -> list[BroadcastRouter]:
        self.route_servers = [route_server(f"route{number}") for number in range(count)]
        return [BroadcastRouter((), reach, own=server, secret=SECRET) for server in self.route_servers]

    def costs(self) -> tuple[int, int]:
        return 4, 3
