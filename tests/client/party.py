"""A real server and real clients on real sockets, for tests: made in one line, and taken down whatever happens."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from random import Random
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from twisted_im.client.client import Client
from twisted_im.client.values import Message, Standing
from twisted_im.core.connection import Limits
from twisted_im.routing.single import SingleRouter
from twisted_im.service import ImServer
from twisted_im.storage.memory import MemoryStore


class Hurry(Random):
    """Chance that always waits only a little, so that a test need not."""

    def random(self) -> float:
        return 0.02


class Party(TestCase):
    """A test with a server and clients.

    Attributes:
        server: once `serve` has been called.
        shown: client → the messages that it has shown, where it was made with the default `on_message`.
        told: client → what its other callbacks were told, by name.
    """

    timeout = 180

    def setUp(self) -> None:
        self.shown: dict[Client, list[Message]] = {}
        self.told: dict[Client, dict[str, list[Any]]] = {}
        self._clients: list[Client] = []

    async def serve(self, *, store: Any = None, limits: Limits | None = None, authenticator: Any = None, listen: str = "") -> ImServer:
        """A server with a port of its own; `listen` for a certain endpoint."""
        self.server = ImServer(
            store=store or MemoryStore(),
            router=SingleRouter(),
            authenticator=authenticator or (lambda credentials: True),
            listen=[listen or "tcp:0:interface=127.0.0.1"],
            limits=limits,
        )
        self.server.startService()
        self.addCleanup(self.stop_server, self.server)
        await self.server.started
        return self.server

    def stop_server(self, server: ImServer) -> Any:
        """Stops a server that may have stopped already."""
        return server.stopService() if server.running else None

    def client(self, uid: str, *, shows: bool = True, at: str = "", **options: Any) -> Client:
        """A client that is started and logs in by itself."""
        told: dict[str, list[Any]] = defaultdict(list)
        shown: list[Message] = []
        for name in ("on_receipt", "on_signal", "on_state", "on_unsent", "on_reset", "on_left_out"):
            options.setdefault(name, told[name[3:]].append)
        if shows:
            options.setdefault("on_message", shown.append)
        client = Client(at or self.server.addresses[0], uid=uid, random=Hurry(), **options)
        self.shown[client], self.told[client] = shown, told
        self.addCleanup(self.stop_client, client)
        client.startService()
        return client

    def stop_client(self, client: Client) -> Any:
        """Stops a client that may have stopped already."""
        return client.stopService() if client.running else None

    async def online(self, *uids: str, **options: Any) -> list[Client]:
        """Clients that have logged in."""
        clients = [self.client(uid, **options) for uid in uids]
        for client in clients:
            await client.when_online()
        return clients

    def push(self, frame: bytes, uid: str) -> None:
        """Has the server push a frame to a user's devices."""
        self.server.node.deliver_local([(frame, (b"\0" + uid.encode(),), None)])

    async def until(self, holds: Callable[[], object]) -> None:
        """Lets the reactor run until this holds; the test's own limit ends the wait."""
        while not holds():
            await self.turn()

    def turn(self, seconds: float = 0.002) -> Deferred[None]:
        """Lets the reactor run for a moment."""
        return deferLater(reactor, seconds, lambda: None)  # type: ignore[arg-type]  # the global reactor has no static type

    def texts(self, client: Client) -> list[str]:
        """What a client has shown."""
        return [message.text for message in self.shown[client]]

    def lives(self, client: Client) -> list[str]:
        """The stations of a client's life, as it told them."""
        standings: list[Standing] = self.told[client]["state"]
        return [standing.life.value for standing in standings]
