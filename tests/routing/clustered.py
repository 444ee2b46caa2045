"""The contract of routers for those that link nodes: three of them, on real sockets of this machine."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from tests.routing.contract import ALICE, BOB, NOBODY, RouterContract, push
from twisted_im.edge.peers import LinkEnds
from twisted_im.routing import star
from twisted_im.server.interfaces import Lease, Look

SECRET = b"known to all of this cluster"


def ends() -> LinkEnds:
    """Links of this machine, and a free port for them."""
    return LinkEnds("tcp:0", secret=SECRET)


async def until(holds: Callable[[], object]) -> None:
    """Lets the reactor run until this holds; the test's own limit ends the wait."""
    while not holds():
        await deferLater(reactor, 0.002)  # type: ignore[arg-type]  # the global reactor has no static type


class ClusteredContract(RouterContract):
    """What is promised between nodes, beside the contract."""

    nodes = 3
    #: Links between two nodes.
    hops = 1
    #: Users who are looked for elsewhere, where two messages to two each are sent.
    look_ups = 0

    def ready(self) -> Deferred[None]:
        return Deferred.fromCoroutine(until(lambda: all(len(up.hears) == self.nodes - 1 for up in self.ups)))

    def settle(self) -> Deferred[None]:
        own = [router.own for router in self.routers if getattr(router, "own", None) is not None]
        counters = [each.counters for each in (*self.ups, *own)]

        def arrived() -> bool:
            return sum(each.copies_sent for each in counters) == sum(each.copies_taken for each in counters)

        return Deferred.fromCoroutine(until(arrived))

    async def test_what_is_for_nobody_elsewhere(self) -> None:
        """If this fails, copies are made that nobody needs, or the figures say that there are fewer than there are."""
        await self.comes(ALICE, node=0)
        await self.comes(BOB, node=1)
        await self.route((push(1), (ALICE, NOBODY), None), node=0)
        await self.route((push(2), (ALICE, BOB), None), node=0)
        copies = sum(up.counters.copies_taken for up in self.ups)
        wasted = sum(up.counters.copies_wasted for up in self.ups)
        assert (copies, wasted) == self.costs()
        assert sum(up.counters.hops for up in self.ups) == (copies - wasted) * self.hops
        own = [router.own for router in self.routers if getattr(router, "own", None) is not None]
        assert sum(each.counters.link_bytes for each in (*self.ups, *own)) > copies * (len(push(1)) + len(ALICE))
        first = self.ups[0].counters
        assert first.link_bytes > first.copy_bytes > first.copies_sent * len(push(1)) > 0
        assert [up.counters.copy_bytes for up in self.ups[1:]] == [0, 0]
        assert first.look_ups == self.look_ups
        assert [(up.counters.stale_routes, up.counters.doubt_seconds) for up in self.ups] == [(0, 0.0)] * 3

    def costs(self) -> tuple[int, int]:
        """Copies that reach nodes, and those of them that are for nobody there, in the test above."""
        raise NotImplementedError

    async def test_a_node_that_goes_is_doubted(self) -> None:
        """If this fails, what a node that is cut off accepts is shown by nobody until they log in again."""
        gone = self.routers.pop()
        up = self.ups.pop()
        before = [other.turn.now() for other in self.ups]
        await gone.stop()
        await until(lambda: all(up.name not in other.hears for other in self.ups))
        for other, moment in zip(self.ups, before, strict=True):
            times = [since for name, since in other.doubts if name == up.name]
            assert times
            assert min(times) <= moment + 1.5
        self.nodes = 2
        await self.comes(ALICE, node=0)
        (bob,) = [await self.comes(BOB, node=1)]
        await self.route((push(1), (ALICE, BOB), None), node=0)
        assert bob.got == [push(1)]


class StarContract(ClusteredContract):
    """What is promised where route servers stand between the nodes."""

    hops = 2

    def ready(self) -> Deferred[None]:
        """Each hears the others by one route server before it is linked to all of them."""
        return Deferred.fromCoroutine(until(lambda: all(map(self._whole, self.routers, self.ups))))

    def _whole(self, router: Any, up: Any) -> bool:
        """Whether a node is linked to all route servers, has told them of its sessions, and hears everybody."""
        links = router._servers
        return len(up.hears) == self.nodes - 1 and len(links) == self.nodes and not any(link._flying or link._queue for link in links)

    async def test_a_node_that_came_after_the_last_look(self) -> None:
        """If this fails, a node that has just come misses what others send before they have looked at the leases again."""
        bob = await self.comes(BOB, node=1)
        self.routers[0]._look(Look(time.monotonic(), [Lease("node0", self.ups[0].boot, self.ups[0].address, math.inf, 0)]))
        await self.route((push(1), (BOB,), None), node=0)
        assert bob.got == [push(1)]

    async def test_somebody_goes_while_the_ways_are_full(self) -> None:
        """If this fails, the end of a session is an error in the log while a route server stands still, and the others never learn of it:
        they send what is for that user to a node that has not got them."""
        alice = await self.comes(ALICE, node=0)
        full = list(self.routers[0]._servers)
        for link in full:
            link._pump.connection.credit = 0
        self.goes(alice)
        assert all(link.up != self.routers[0].attaches for link in full), "whoever could not be told is cut off"

    async def test_one_way_of_several_is_lost(self) -> None:
        """If this fails, what another node still sends by a route server that has lost this one is shown by nobody until they log in again,
        since a second route server reaches both; or the store is read for ever after."""
        router, up = self.routers[0], self.ups[0]
        with patch.object(star, "NOTICED", 0.3):
            (lost,) = [link for link in router._servers if link.peer.name == "node1"]
            lost.abort("for a test")
            assert sorted(name for name, _ in up.doubts) == ["node1", "node2"]
            assert not up.hears
            await until(lambda: self._whole(router, up))
            gone = self.routers[1].own
            assert gone is not None
            up.doubts.clear()
            await gone.stop()
            await until(lambda: len(router._servers) == len(up.hears) == 2 and up.doubts)
            assert sorted(name for name, _ in up.doubts) == ["node1", "node2"]
