"""The routers of simulated nodes, and route servers as processes: what `tap` puts together for real ones.

Strategy: each node takes links on a port of its own, and others reach it by the process's name, which its lease carries as an address. The
secret is known to all: who may link at all is tried elsewhere, on real sockets and with certificates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint

from twisted_im.cork import corked
from twisted_im.pump import Turn
from twisted_im.routing.broadcast import BroadcastRouter
from twisted_im.routing.link import LINK_WINDOW, link_limits
from twisted_im.routing.mesh import MeshRouter
from twisted_im.routing.route_server import RouteServer
from twisted_im.routing.star import StarRouter
from twisted_im.routing.table_redis import RedisServer, RedisTable
from twisted_im.sim.redis import PORT as REDIS_PORT
from twisted_im.sim.redis import SimRedis
from twisted_im.sim.world import Process, World

#: Where links are taken.
LINK_PORT = 7900
_SECRET = b"known to all of this world"


class _Ends:
    """Where the links of one process begin and end; see `twisted_im.routing.linking.Ends`."""

    scheme = "tcp"
    secret = _SECRET

    def __init__(self, process: Process, *, listens: bool = True) -> None:
        self._reactor = corked(process.reactor)
        self.port = TCP4ServerEndpoint(self._reactor, LINK_PORT) if listens else None

    def reach(self, address: str) -> TCP4ClientEndpoint:
        _, host, port = address.split(":")
        return TCP4ClientEndpoint(self._reactor, host, int(port), timeout=3)


def _options(process: Process, window: int) -> dict[str, Any]:
    limits = replace(link_limits(), window=window)
    return {"random": process.random.randbytes, "chance": process.random.random, "limits": limits}


def mesh(redises: Sequence[str] = (), *, window: int = LINK_WINDOW) -> Callable[[Process], MeshRouter]:
    """What makes the routers of nodes, for `World.server`.

    Args:
        redises: names of processes that have the route table; without any each node has one itself.
        window: of links; see `Limits`.
    """

    def make(process: Process) -> MeshRouter:
        reactor, links = corked(process.reactor), process.world.links
        servers = [
            RedisServer(name, TCP4ClientEndpoint(reactor, links.address_of(name), REDIS_PORT, timeout=3)) for name in redises
        ]
        table = RedisTable(servers, random=process.random.randbytes) if servers else None
        return MeshRouter(_Ends(process), table=table, **_options(process, window))

    return make


def star(route_servers: Sequence[str] = (), *, broadcast: bool = False, window: int = LINK_WINDOW) -> Callable[[Process], StarRouter]:
    """What makes the routers of nodes.

    Args:
        route_servers: names of processes; without any each node runs one itself.
        broadcast: everything is copied to everybody.
        window: of links; see `Limits`.
    """
    kind = BroadcastRouter if broadcast else StarRouter

    def make(process: Process) -> StarRouter:
        addresses = [f"tcp:{process.world.links.address_of(name)}:{LINK_PORT}" for name in route_servers]
        return kind(_Ends(process, listens=not addresses), addresses, **_options(process, window))

    return make


def route_server(world: World, name: str, *, again: float | None = None, window: int = LINK_WINDOW) -> Process:
    """A process that is a route server."""

    def make(process: Process) -> RouteServer:
        turn = Turn(process.reactor, clock=process.clock, wall=process.wall)
        return RouteServer(_Ends(process), name=process.name, boot=process.random.randbytes(16), turn=turn, **_options(process, window))

    return world.process(name, make, again=again)


def redis(world: World, name: str, *, again: float | None = None) -> Process:
    """A process that is a Redis; it comes back empty."""
    return world.process(name, SimRedis, again=again)
