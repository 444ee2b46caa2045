"""Logins that do not come to their end: refused for any reason, or left by their client in the middle.

Strategy: real sockets, and an authenticator, a store and a router that wait where the test wants them to. What is left behind is not asked
of the server's tables alone: no pump of a connection that has ended may be alive anywhere in the process.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred

from tests.running import Hand, Served, refusal, until
from twisted_im.errors import Disconnect, ImError, Status
from twisted_im.pump import FARTHEST, Pump
from twisted_im.routing.single import SingleRouter
from twisted_im.server.interfaces import Credentials
from twisted_im.storage.memory import MemoryStore
from twisted_im.wire.schema import Command


class Slow:
    """What is asked first waits; what is asked later is answered at once.

    Args:
        cancelled: what the one that waits does when nobody wants its answer any more.

    Attributes:
        asked: those that wait.
    """

    def __init__(self, cancelled: Callable[[Deferred[Any]], object] | None) -> None:
        self._cancelled = cancelled
        self.asked: list[Deferred[Any]] = []

    def first(self, answer: Any) -> Any:
        if self.asked:
            return answer
        self.asked.append(Deferred(self._cancelled))
        return self.asked[0]


class SlowStore(MemoryStore):
    """Lets the first session in late."""

    def __init__(self, slow: Slow) -> None:
        super().__init__()
        self._slow = slow

    def open_session(self, user: bytes, device: bytes, label: bytes, node: str) -> Any:
        opened = super().open_session(user, device, label, node)
        waiting = self._slow.first(None)
        return opened if waiting is None else waiting.addCallback(lambda _: opened)


class SlowRouter(SingleRouter):
    """Knows of the first session late."""

    def __init__(self, slow: Slow) -> None:
        super().__init__()
        self._slow = slow

    def attach(self, session: Any) -> Any:
        return self._slow.first(None)


def alive(node: object) -> list[Pump]:
    """A server's ends of connections that something in this process still holds."""
    gc.collect()
    return [each for each in gc.get_objects() if isinstance(each, Pump) and each.owner is node]


class Logins(Served):
    """What becomes of them."""

    async def test_a_client_that_goes_while_its_login_is_under_way(self) -> None:
        """If this fails, a crowd that gave up waiting for a slow check of passwords fills the memory, the log, or the places of others; or
        a user seems to be online who is not."""
        cancelled: dict[str, Callable[[Deferred[Any]], object] | None] = {
            "nothing is done about it": None,
            "it says so in its own words": lambda waiting: waiting.errback(ConnectionAbortedError("the request was cancelled")),
            "the answer comes nevertheless": lambda waiting: waiting.callback(True),
        }
        for how, canceller in cancelled.items():
            for where in ("authenticator", "coroutine", "store", "router"):
                slow = Slow(canceller)

                async def coroutine(credentials: Credentials, slow: Slow = slow) -> bool:
                    answer = slow.first(True)
                    return bool(await answer if isinstance(answer, Deferred) else answer)

                parts: dict[str, dict[str, Any]] = {
                    "authenticator": {"authenticator": lambda credentials, slow=slow: slow.first(True)},
                    "coroutine": {"authenticator": coroutine},
                    "store": {"store": SlowStore(slow)},
                    "router": {"router": SlowRouter(slow)},
                }
                hand = Hand()
                server = await self.serve(hand=hand, **parts[where])
                node, counters = server.node, server.counters
                raw = await self.greeted()
                raw.login("alice", device=bytes(16)).addErrback(lambda _: None)
                await until(lambda slow=slow: slow.asked, "it to wait")
                await raw.close()
                hand.advance(10.5)  # nothing is read from it meanwhile, so its end is met at the deadline of a login
                await until(lambda node=node: not node.pumps, "the end")
                assert slow.asked[0].called, "it is told that nobody waits any more"
                if canceller is None:
                    slow.asked[0].callback(True)  # too late
                hand.advance(FARTHEST)  # until then the list of deadlines may hold it
                await until(lambda node=node: not alive(node), f"{where}, {how}: all of it to be gone")
                assert (list(node.sessions), node.newcomers, counters.connections, counters.sessions) == ([], {}, 0, 0), (where, how)
                assert (counters.logins, counters.refused, counters.errors) == (0, 0, 0), (where, how)
                assert self.flushLoggedErrors() == [], (where, how)
                again = await self.user("alice", device=bytes(16))
                await again.send("alice", b"here again")
                assert (counters.logins, counters.sessions, len(node.sessions)) == (1, 1, 1), (where, how)
                await again.close()
                await server.stopService()

    async def test_every_refused_login_is_counted(self) -> None:
        """If this fails, an operator looks for clients that cannot log in, and the figure says that there are none."""

        def authenticate(credentials: Credentials) -> bool:
            if credentials.secret == b"busy":
                raise ImError(Status.BUSY, retry_after=1)
            if credentials.secret == b"fault":
                raise ZeroDivisionError
            return credentials.secret == b"right"

        store = MemoryStore()
        server = await self.serve(authenticator=authenticate, store=store)
        raw = await self.greeted()
        for count, (how, code) in enumerate(
            (
                ({"uid": ""}, Status.BAD_VALUE),
                ({"uid": b"\xff"}, Status.BAD_VALUE),
                ({"uid": "a", "tenant": b"x" * 65}, Status.BAD_VALUE),
                ({"uid": "a", "label": b"x" * 65}, Status.BAD_VALUE),
                ({"uid": "a", "secret": b"x" * 769}, Status.BAD_VALUE),
                ({"uid": "a", "method": 9}, Status.UNSUPPORTED),
                ({"uid": "a", "secret": b"wrong"}, Status.NOT_AUTHENTICATED),
                ({"uid": "a", "secret": b"busy"}, Status.BUSY),
            ),
            1,
        ):
            assert (await refusal(raw.login(**how))).code is code, how  # type: ignore[arg-type]
            assert server.counters.refused == count, how
        assert (await refusal(raw.ask_body(Command.LOGIN, b"no login"))).code is Status.BAD_BODY
        assert server.counters.refused == 9
        assert server.counters.errors == 9, "each was answered"
        raw.login("a", secret=b"fault").addErrback(lambda _: None)
        assert await raw.disconnected() is Disconnect.INTERNAL
        assert len(self.flushLoggedErrors(ZeroDivisionError)) == 1
        assert server.counters.refused == 10

        def away(*_: object) -> Any:
            raise ImError(Status.UNAVAILABLE)

        store.open_session = away  # type: ignore[method-assign]
        raw = await self.greeted()
        assert (await refusal(raw.login("a", secret=b"right"))).code is Status.UNAVAILABLE
        assert (server.counters.refused, server.counters.logins) == (11, 0)
