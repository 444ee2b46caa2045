"""The routed strategy by way of a route server."""

from __future__ import annotations

from twisted.trial.unittest import TestCase

from tests.routing.clustered import SECRET, ClusteredContract, reach, route_server
from twisted_im.routing.star import StarRouter


class TestStarRouter(ClusteredContract, TestCase):
    """Three nodes on real sockets."""

    def make_routers(self, count: int) -> list[StarRouter]:
        self.route_servers = [route_server(f"route{number}") for number in range(count)]
        return [StarRouter((), reach, own=server, secret=SECRET) for server in self.route_servers]

    def costs(self) -> tuple[int, int]:
        return 1, 0
