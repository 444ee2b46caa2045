"""What every router must do, whatever its strategy.

Strategy: one suite for all. A strategy's own module makes the router and says how its nodes meet; here stand the promises of `IRouter`
that a user would notice: whoever is to get a frame gets it, once, and who sent it does not get it back.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import inlineCallbacks, maybeDeferred
from zope.interface import implementer
from zope.interface.verify import verifyObject

from twisted_im.server.interfaces import Envelope, IRouter, IRouterUp


class Here:
    """A session, as far as a router sees one."""

    def __init__(self, user: bytes, device: bytes) -> None:
        self.user = user
        self.device = device
        self.number = 1
        self.frames: list[bytes] = []


@implementer(IRouterUp)
class Up:
    """A node, as far as a router sees one: it has sessions, and pushes to them."""

    def __init__(self) -> None:
        self.sessions: list[Here] = []
        self.doubted: list[tuple[str, float]] = []

    def deliver_local(self, envelopes: Sequence[Envelope]) -> int:
        reached = 0
        for frame, audience, origin in envelopes:
            for session in self.sessions:
                if session.user in audience and session is not origin:
                    session.frames.append(frame)
                    reached += 1
        return reached

    def doubt(self, peer: str, since: float) -> None:
        self.doubted.append((peer, since))


class RouterContract:
    """Mixed into a TestCase, which makes the router."""

    def make_router(self) -> Any:
        """A router that has not started."""
        raise AssertionError("the strategy's own tests make it")

    @inlineCallbacks
    def started(self) -> Any:
        """A started router and its node, with alice on two devices and bob on one."""
        router, up = self.make_router(), Up()
        yield maybeDeferred(router.start, up)
        for user, device in ((b"\0alice", b"phone"), (b"\0alice", b"desk"), (b"\0bob", b"phone")):
            session = Here(user, device)
            up.sessions.append(session)
            yield maybeDeferred(router.attach, session)
        return router, up

    def test_interface(self) -> None:
        """A strategy lacks something that the node will ask it for."""
        router: Any = self.make_router()
        assert verifyObject(IRouter, router)
        assert router.strategy

    @inlineCallbacks
    def test_everybody_but_the_origin(self) -> Any:
        """A device misses a message, gets it twice, or gets back what it has sent."""
        router, up = yield self.started()
        phone, desk, bob = up.sessions
        assert router.route([(b"one", (b"\0alice", b"\0bob"), phone)]) == 2
        assert router.route([(b"two", (b"\0bob",), None), (b"three", (b"\0alice",), desk)]) == 2
        assert (phone.frames, desk.frames, bob.frames) == ([b"three"], [b"one"], [b"one", b"two"])
        yield maybeDeferred(router.stop)

    @inlineCallbacks
    def test_order(self) -> Any:
        """A person reads answers before questions."""
        router, up = yield self.started()
        frames = [bytes([n]) for n in range(100)]
        for start in range(0, 100, 7):
            router.route([(frame, (b"\0bob",), None) for frame in frames[start : start + 7]])
        assert up.sessions[2].frames == frames
        yield maybeDeferred(router.stop)

    @inlineCallbacks
    def test_nobody_there(self) -> Any:
        """A message for somebody who is away breaks the server, or goes to somebody else."""
        router, up = yield self.started()
        assert router.route([(b"hello?", (b"\0carol",), None)]) == 0
        assert router.route([]) == 0
        gone = up.sessions.pop()
        router.detach(gone)
        assert router.route([(b"bob?", (b"\0bob",), None)]) == 0
        assert not gone.frames
        yield maybeDeferred(router.stop)

    @inlineCallbacks
    def test_stop_before_start(self) -> Any:
        """A server that could not start cannot be stopped either."""
        yield maybeDeferred(self.make_router().stop)
