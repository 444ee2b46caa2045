"""What every router must do: one suite, run on each strategy.

Strategy: a router is asked for nothing but its interface, and what it calls is `Up`, which holds sessions as a node does and writes down
what each has got. A strategy's test module mixes `RouterContract` into a `TestCase` and says how a node's router is made; one that links
nodes makes several, and the same stories are then told across them: `make_routers` gives a router for each of so many nodes, and
`settle` waits until all that was sent has arrived.

    class TestRoutedRouter(RouterContract, TestCase):
        nodes = 3

        def make_routers(self, count):
            ...
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import maybeDeferred
from zope.interface import implementer
from zope.interface.verify import verifyObject

from twisted_im.config import STRATEGIES
from twisted_im.pump import Turn
from twisted_im.server.interfaces import Envelope, IRouter, IRouterUp, Lease, Look
from twisted_im.wire.codec import notify
from twisted_im.wire.schema import Command

ALICE, BOB, CAROL, NOBODY = b"\0alice", b"\0bob", b"\0carol", b"\0nobody"


def push(number: int) -> bytes:
    """A notify with a number in it."""
    values = {"conversation": number, "head": 0, "expires": 0, "type": 1, "device": bytes(16), "sender": b"a", "content": b""}
    return notify(Command.SIGNAL, **values)


class Device:
    """A session, as far as a router looks at it.

    Attributes:
        got: the frames that it took, in order.
    """

    def __init__(self, user: bytes, device: bytes, number: int) -> None:
        self.user = user
        self.device = device.ljust(16, b".")
        self.number = number
        self.got: list[bytes] = []


@implementer(IRouterUp)
class Up:
    """A node, as far as a router looks at it. What it announces is known to the others at once.

    Args:
        others: the ups of all nodes, this one too when it is made.

    Attributes:
        address: what the router has announced.
        hears: the peers that are heard now.
        doubts: the peers that were heard before, and since when they surely were not.
    """

    def __init__(self, others: list[Up]) -> None:
        self.name = f"node{len(others)}"
        self.boot = len(others).to_bytes(16, "big")
        self.sessions: list[Device] = []
        self.address = ""
        self.hears: dict[str, None] = {}
        self.doubts: list[tuple[str, float]] = []
        self.turn = Turn(reactor)
        self.counters = self.turn.counters
        self._watchers: list[Callable[[Look], object]] = []
        self._others = others

    def announce(self, address: str) -> None:
        self.address = address
        for up in self._others:
            up.look()

    def watch(self, call: Callable[[Look], object]) -> None:
        self._watchers.append(call)
        call(self._seen())

    def look(self) -> None:
        """The leases are looked at."""
        for call in self._watchers:
            call(self._seen())

    def _seen(self) -> Look:
        return Look(time.monotonic(), [Lease(up.name, up.boot, up.address, math.inf, len(up.sessions)) for up in self._others])

    def deliver_local(self, envelopes: Sequence[Envelope]) -> int:
        reached = 0
        for frame, audience, origin in envelopes:
            for session in self.sessions:
                if session.user in audience and session is not origin:
                    session.got.append(frame)
                    reached += 1
        return reached

    def doubt(self, peer: str, since: float, *, leased: bool = True) -> None:
        self.hears.pop(peer, None)
        self.doubts.append((peer, since))

    def heard(self, peer: str) -> None:
        self.hears[peer] = None


class RouterContract:
    """The promises of `IRouter`. Mix it in, and give it a `make_routers`."""

    timeout = 180
    #: Nodes that take part; devices are spread over them in turn.
    nodes = 1

    def make_routers(self, count: int) -> Any:
        """Routers that have not been started, one for each node, linked to each other; or a Deferred of them."""
        raise NotImplementedError

    def ready(self) -> Any:
        """Lets every node hear the others; may return a Deferred."""

    def settle(self) -> Any:
        """Lets everything arrive that was sent; may return a Deferred."""

    async def setUp(self) -> None:
        self.routers: list[Any] = await maybeDeferred(self.make_routers, self.nodes)
        self.ups: list[Up] = []
        for _ in self.routers:
            self.ups.append(Up(self.ups))
        self._numbers = 0
        for router, up in zip(self.routers, self.ups, strict=True):
            self.addCleanup(up.turn.stop)
            await maybeDeferred(router.start, up)
            self.addCleanup(router.stop)
        await maybeDeferred(self.ready)

    async def comes(self, user: bytes, device: bytes = b"phone", *, node: int | None = None) -> Device:
        """A device that has logged in, as `Access` does it: first into the node's table, then attached."""
        self._numbers += 1
        session = Device(user, device, self._numbers)
        session.node = (self._numbers - 1) % self.nodes if node is None else node  # type: ignore[attr-defined]  # for the test alone
        self.ups[session.node].sessions.append(session)  # type: ignore[attr-defined]
        await maybeDeferred(self.routers[session.node].attach, session)  # type: ignore[attr-defined]
        return session

    def goes(self, session: Any) -> None:
        """A device that has gone: first out of the table, then detached."""
        self.ups[session.node].sessions.remove(session)
        self.routers[session.node].detach(session)

    async def route(self, *envelopes: Envelope, node: int = 0) -> int:
        """Sends from one node, and waits until all has arrived; gives how many sessions of that node took one."""
        reached: int = self.routers[node].route(envelopes)
        await maybeDeferred(self.settle)
        return reached

    def test_interfaces(self) -> None:
        """If this fails, a node that starts with this strategy meets a method that is not there."""
        verifyObject(IRouterUp, self.ups[0])
        for router in self.routers:
            verifyObject(IRouter, router)

    def test_it_can_be_chosen(self) -> None:
        """If this fails, `--strategy` does not know this strategy by the name that its logs and figures carry."""
        assert self.routers[0].strategy in STRATEGIES

    async def test_everybody_but_the_origin(self) -> None:
        """If this fails, a device misses a message, gets its own back, or gets somebody else's."""
        phone, laptop = await self.comes(ALICE), await self.comes(ALICE, b"laptop")
        bob, carol = await self.comes(BOB), await self.comes(CAROL)
        await self.route((push(1), (ALICE, BOB), phone), node=phone.node)  # type: ignore[attr-defined]
        assert [each.got for each in (phone, laptop, bob, carol)] == [[], [push(1)], [push(1)], []]
        await self.route((push(2), (ALICE, BOB, CAROL), None))
        assert [each.got for each in (phone, laptop, bob, carol)] == [[push(2)], [push(1), push(2)], [push(1), push(2)], [push(2)]]

    async def test_it_counts_whom_it_reaches_here(self) -> None:
        """If this fails, the figures of what was delivered are wrong."""
        sessions = [await self.comes(ALICE, b"phone", node=0), await self.comes(ALICE, b"laptop", node=0), await self.comes(BOB, node=0)]
        assert await self.route((push(1), (ALICE, BOB), sessions[0])) == 2
        assert await self.route((push(2), (ALICE,), None), (push(3), (ALICE, BOB), None), (push(4), (NOBODY,), None)) == 5
        assert await self.route((push(5), (), None)) == 0
        assert await self.route() == 0

    async def test_order_is_kept(self) -> None:
        """If this fails, the messages of a conversation overtake each other whenever two leave in one moment."""
        alice, bob = await self.comes(ALICE), await self.comes(BOB)
        frames = [push(number) for number in range(50)]
        await self.route(*[(frame, (ALICE, BOB), None) for frame in frames[:20]])
        for frame in frames[20:]:
            await self.route((frame, (ALICE, BOB), None))
        assert alice.got == bob.got == frames

    async def test_who_has_gone_is_not_missed(self) -> None:
        """If this fails, a device that logs out takes its user's other devices with it, or its place is never given free."""
        phone, laptop = await self.comes(ALICE), await self.comes(ALICE, b"laptop")
        self.goes(phone)
        await self.route((push(1), (ALICE,), None))
        assert (phone.got, laptop.got) == ([], [push(1)])
        self.goes(laptop)
        await self.route((push(2), (ALICE,), None))
        again = await self.comes(ALICE)
        await self.route((push(3), (ALICE,), None))
        assert (laptop.got, again.got) == ([push(1)], [push(3)])

    async def test_a_device_that_comes_again_keeps_its_place(self) -> None:
        """If this fails, the late end of an old connection cuts a device off that has long come back."""
        old = await self.comes(ALICE, node=0)
        self.ups[0].sessions.remove(old)
        new = await self.comes(ALICE, node=self.nodes - 1)
        self.routers[0].detach(old)
        await maybeDeferred(self.settle)
        await self.route((push(1), (ALICE,), None))
        assert (old.got, new.got) == ([], [push(1)])

    async def test_many_are_reached(self) -> None:
        """If this fails, somebody in a large group is left out."""
        users = [b"\0user%d" % number for number in range(100)]
        sessions = [await self.comes(user) for user in users]
        await self.route((push(1), tuple(users), sessions[7]), node=sessions[7].node)  # type: ignore[attr-defined]
        assert [len(session.got) for session in sessions] == [1] * 7 + [0] + [1] * 92

    async def test_tenants_are_apart(self) -> None:
        """If this fails, somebody gets what is for a user of the same name at another tenant."""
        ours, theirs = await self.comes(BOB, node=self.nodes - 1), await self.comes(b"acme" + BOB, node=self.nodes - 1)
        await self.route((push(1), (b"acme" + BOB,), None))
        assert (ours.got, theirs.got) == ([], [push(1)])

    async def test_no_doubt_without_trouble(self) -> None:
        """If this fails, a healthy cluster reads its store all the time."""
        await self.comes(ALICE)
        await self.route((push(1), (ALICE, NOBODY), None))
        assert [up.doubts for up in self.ups] == [[] for _ in self.ups]

    async def test_it_can_be_stopped_before_it_has_started(self) -> None:
        """If this fails, a node that could not start cannot be stopped either."""
        for router in await maybeDeferred(self.make_routers, self.nodes):
            await maybeDeferred(router.stop)


__all__ = ["ALICE", "BOB", "CAROL", "NOBODY", "Device", "RouterContract", "Up", "push"]
