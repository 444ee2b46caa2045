"""A whole server as a service: it comes up, tells why it could not, and goes down without losing what it has read.

Strategy: real sockets, and parts of a server that write down what is asked of them, or answer only when the test says so.
"""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from collections.abc import Callable
from typing import Any

from twisted.application.service import MultiService
from twisted.internet import reactor
from twisted.internet.defer import Deferred, succeed
from twisted.internet.endpoints import UNIXClientEndpoint, connectProtocol
from twisted.internet.error import CannotListenError, ConnectError
from twisted.logger import LogEvent, globalLogPublisher
from twisted.python.failure import Failure

from tests.running import PLAIN, Raw, Served, refusal, until
from twisted_im.errors import Disconnect, ImError, Status
from twisted_im.routing.single import SingleRouter
from twisted_im.server.authenticators import Anybody
from twisted_im.service import ImServer
from twisted_im.storage.memory import MemoryStore


class NotedStore(MemoryStore):
    """A store that writes down what is asked of it, and may be slow, or fail.

    Attributes:
        slow: commits wait for `go_on`.
        error: what commits fail with.
    """

    def __init__(self, notes: list[str]) -> None:
        super().__init__()
        self.notes = notes
        self.slow = False
        self.error: Exception | None = None
        self._waiting: list[Callable[[], None]] = []

    def append(self, messages: Any, cursors: Any) -> Any:
        self.notes.append("commit")
        if self.error is not None:
            raise self.error
        if not self.slow:
            return super().append(messages, cursors)
        done: Deferred[Any] = Deferred()
        self._waiting.append(lambda: super(NotedStore, self).append(messages, cursors).chainDeferred(done))
        return done

    def go_on(self) -> None:
        self.slow = False
        for waiting in self._waiting:
            waiting()

    def close(self) -> Any:
        self.notes.append("store closed")
        return super().close()


class NotedRouter(SingleRouter):
    """A router that writes down its life.

    Attributes:
        ready: what `start` gives.
    """

    def __init__(self, notes: list[str]) -> None:
        super().__init__()
        self.notes = notes
        self.ready: Deferred[None] | None = None

    def start(self, up: Any) -> Any:
        super().start(up)
        self.notes.append("router started")
        return self.ready

    def stop(self) -> None:
        self.notes.append("router stopped")


class TestService(Served):
    """From its start to its end."""

    def setUp(self) -> None:
        self.notes: list[str] = []
        self.store = NotedStore(self.notes)
        self.router = NotedRouter(self.notes)

    def parts(self, **arguments: Any) -> dict[str, Any]:
        return {"store": self.store, "router": self.router, "authenticator": Anybody(), **arguments}

    async def test_it_listens_at_every_door(self) -> None:
        """If this fails, a second port or a Unix socket is not open, or the program does not learn which port was free."""
        folder = tempfile.mkdtemp()  # trial's own folders have names too long for a socket
        self.addCleanup(shutil.rmtree, folder)
        path = os.path.join(folder, "im.sock")
        await self.serve(listen=(PLAIN, PLAIN, f"unix:{path}:mode=600"))
        first, second, third = self.server.addresses
        assert first.startswith("127.0.0.1:")
        assert second.startswith("127.0.0.1:")
        assert first != second
        assert third == path
        assert os.stat(path).st_mode & 0o777 == 0o600
        for index in (0, 1):
            await (await self.user("alice", index=index)).settle()
        raw: Raw = await connectProtocol(UNIXClientEndpoint(reactor, path), Raw())
        self.addCleanup(raw.close)
        await raw.hello()
        await raw.login("bob")
        await self.server.stopService()
        assert not os.path.exists(path)

    async def test_a_door_that_cannot_be_opened(self) -> None:
        """If this fails, a program whose port is taken is never told, or listens at half of its doors."""
        opened: list[str] = []

        def listening(event: LogEvent) -> None:
            if event.get("event") == "listening":
                opened.append(event["address"])

        globalLogPublisher.addObserver(listening)
        self.addCleanup(globalLogPublisher.removeObserver, listening)
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            server = ImServer(listen=(PLAIN, f"tcp:{port}:interface=127.0.0.1"), **self.parts())
            server.startService()
            failure = await self.assertFailure(server.started, CannotListenError)
            assert failure.port == port
            assert len(opened) == 1
            with self.assertRaises(ConnectError):
                await self.connect(port=int(opened[0].rpartition(":")[2]))
            assert server.addresses == [], "it listens nowhere, and says so"
            await server.stopService()
        assert self.notes == ["router started", "router stopped", "store closed"]

    async def test_nobody_may_come_before_it_is_ready(self) -> None:
        """If this fails, the first clients of a cluster's node log in before it has its routes."""
        self.router.ready = Deferred()
        server = ImServer(listen=(PLAIN,), **self.parts())
        server.startService()
        assert server.addresses == []
        self.router.ready.callback(None)
        await server.started
        assert len(server.addresses) == 1
        await server.stopService()

    async def test_it_can_be_stopped_while_it_starts(self) -> None:
        """If this fails, a server that was stopped early opens its port after its end."""
        self.router.ready = Deferred()
        server = ImServer(listen=(PLAIN,), **self.parts())
        server.startService()
        await server.stopService()
        self.router.ready.callback(None)
        assert server.addresses == []
        assert self.notes == ["router started", "router stopped", "store closed"]

    async def test_it_is_a_service_like_any_other(self) -> None:
        """If this fails, a server cannot be a part of an application that has other services."""
        whole = MultiService()
        server = ImServer(listen=(PLAIN,), **self.parts())
        server.setServiceParent(whole)
        assert server.addresses == []
        whole.startService()
        await server.started
        assert (whole.services, server.running) == ([server], 1)
        await whole.stopService()
        assert (server.running, self.notes[-1]) == (0, "store closed")

    async def test_what_was_read_is_answered_before_the_end(self) -> None:
        """If this fails, a server that is restarted keeps messages without saying so, or drops what it has read."""
        await self.serve(**self.parts())
        alice, bob = await self.user("alice"), await self.user("bob")
        self.store.slow = True
        answer = alice.send("bob", b"just in time")
        await until(lambda: "commit" in self.notes, "the commit")
        later = alice.send("bob", b"and this")
        await alice.settle()
        stopped = self.server.stopService()
        await until(lambda: not self.server.node.turn.dirty, "the end of the turn")
        assert (bob.lost, self.notes[-1]) == (None, "commit")
        self.store.go_on()
        await stopped
        assert [(await each).seq for each in (answer, later)] == [1, 2]
        assert [message.content for message in bob.messages()] == [b"just in time", b"and this"]
        for raw in (alice, bob):
            assert await raw.disconnected() is Disconnect.SHUTTING_DOWN
            last = raw.got[-1].values
            assert (last.come_back, last.retry_after) == (1, 1000)
        assert self.notes == ["router started", "commit", "commit", "router stopped", "store closed"]

    async def test_nobody_comes_during_the_end(self) -> None:
        """If this fails, a server that is asked to stop never does, since clients come back to it."""
        await self.serve(**self.parts())
        alice = await self.user("alice")
        self.store.slow = True
        sent = alice.send("alice", b"x")
        await until(lambda: "commit" in self.notes, "the commit")
        stopped = self.server.stopService()
        with self.assertRaises(ConnectError):
            await self.connect()
        self.store.go_on()
        await stopped
        await sent

    async def test_a_broken_store_is_told_to_the_program(self) -> None:
        """If this fails, a server whose disk has failed goes on, or its clients take what they sent for kept."""
        broken: list[Failure] = []
        await self.serve(**self.parts(broken=broken.append))
        alice, bob = await self.user("alice"), await self.user("bob")
        self.store.error = OSError(5, "input/output error")
        answers: list[Any] = []
        alice.send("bob", b"x").addBoth(answers.append)
        for raw in (alice, bob):
            assert await raw.disconnected() is Disconnect.STORE_FAILED
            assert raw.got[-1].values.come_back == 1
        assert [failure.value for failure in broken] == [self.store.error]
        assert [type(answer.value) for answer in answers] == [AssertionError], "neither accepted nor refused: the connection has ended"
        assert len(self.flushLoggedErrors(OSError)) == 1

    async def test_time_and_chance_can_be_given(self) -> None:
        """If this fails, a run of a server under simulated time cannot be repeated, and the fault that it has found is lost."""
        drawn: list[int] = []

        def random(size: int) -> bytes:
            drawn.append(size)
            return bytes([len(drawn)]) * size

        store = MemoryStore(clock=lambda: 1e9, random=random)
        await store.lease("node", b"an earlier boot.", "", 60.0)
        gone: list[bytes] = []
        await self.serve(store=store, wall=lambda: 1e9, random=random, boot=b"this very boot..", gone=lambda boot: not gone.append(boot))
        assert gone == [b"an earlier boot."]
        assert [lease.boot for lease in await store.leases()] == [b"this very boot.."]
        raw = await self.connect()
        assert (await raw.hello()).time == 10**12
        login = await raw.login("alice")
        assert (login.epoch, login.resume, drawn) == (b"\1" * 16, b"\2" * 32, [16, 32])

    async def test_authenticators_of_every_kind(self) -> None:
        """If this fails, a team's own check of passwords is called wrongly, lets everybody in, or takes the server down when it fails."""

        async def coroutine(credentials: Any) -> bool:
            return bool(await succeed(credentials.secret == b"yes"))

        for authenticator in (
            lambda credentials: credentials.secret == b"yes",
            lambda credentials: succeed(credentials.secret == b"yes"),
            coroutine,
        ):
            server = await self.serve(authenticator=authenticator)
            raw = await self.greeted()
            assert (await refusal(raw.login("alice", secret=b"no"))).code is Status.NOT_AUTHENTICATED
            await raw.login("alice", secret=b"yes")
            assert (server.counters.logins, server.counters.refused) == (1, 1)

    async def test_an_authenticator_that_refuses_in_its_own_words(self) -> None:
        """If this fails, a program cannot say that an account is locked, or a fault in its check leaves the client waiting."""

        def authenticate(credentials: Any) -> bool:
            if credentials.uid == "carol":
                raise ImError(Status.BUSY, "your account is being moved", retry_after=60_000)
            raise ZeroDivisionError("no such table")

        await self.serve(authenticator=authenticate)
        error = await refusal((await self.greeted()).login("carol"))
        assert (error.code, error.reason, error.retry_after) == (Status.BUSY, "your account is being moved", 60_000)
        raw = await self.greeted()
        raw.login("alice").addErrback(lambda _: None)
        assert await raw.disconnected() is Disconnect.INTERNAL
        assert b"table" not in bytes(raw.all), "what went wrong is the log's, and nobody else's"
        assert len(self.flushLoggedErrors(ZeroDivisionError)) == 1
