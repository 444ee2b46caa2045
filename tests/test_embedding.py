"""The examples of docs/embedding.md, run.

Strategy: the code blocks are taken from the page as they are, so a page that has fallen behind fails here.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from twisted.application.service import IServiceCollection
from twisted.internet import reactor
from twisted.internet.defer import Deferred, ensureDeferred, inlineCallbacks
from twisted.internet.endpoints import clientFromString, connectProtocol
from twisted.internet.protocol import ProcessProtocol, Protocol
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from tests.pages import blocks, environment
from twisted_im import Client, ImServer, LoginMethod, MemoryStore, SingleRouter
from twisted_im.server.authenticators import Anybody
from twisted_im.server.passwords import HASHER
from twisted_im.wire.codec import frame, request
from twisted_im.wire.framing import FrameReader
from twisted_im.wire.schema import Command, Kind

PAGE = "embedding.md"


def examples() -> list[dict[str, Any]]:
    """What each code block of the page leaves defined: a server, one with tokens, a client, a command, a test."""
    found = []
    for code in blocks(PAGE):
        names: dict[str, Any] = {}
        exec(compile(code, PAGE, "exec"), names)
        found.append(names)
    return found


class Asking(Protocol):
    """Sends frames and gathers what comes back."""

    def __init__(self) -> None:
        self.reader = FrameReader(65536)
        self.frames: list[Any] = []
        self.waiting: Any = None

    def dataReceived(self, data: bytes) -> None:
        self.frames += self.reader.feed(data)
        if self.waiting is not None and self.frames:
            waiting, self.waiting = self.waiting, None
            waiting.callback(self.frames.pop(0))

    def ask(self, data: bytes) -> Any:
        self.transport.write(data)
        self.waiting = Deferred()
        return self.waiting


class Running(ProcessProtocol):
    """A program that says where it listens.

    Attributes:
        address: fires with it.
        ended: fires with the status, when the process has ended.
    """

    def __init__(self) -> None:
        self.said = b""
        self.address: Deferred[str] = Deferred()
        self.ended: Deferred[int] = Deferred()

    def outReceived(self, data: bytes) -> None:  # Twisted's name
        self.said += data
        found = re.search(rb"listening on (127\.0\.0\.1:\d+)\s", self.said)
        if found and not self.address.called:
            self.address.callback(found[1].decode())

    errReceived = outReceived

    def processEnded(self, reason: Failure) -> None:
        if not self.address.called:
            self.address.errback(AssertionError(self.said.decode()))
        self.ended.callback(reason.value.exitCode)  # type: ignore[union-attr]


class EmbeddingPage(TestCase):
    timeout = 180

    @inlineCallbacks
    def test_server_and_client(self) -> Any:
        """A team that copies the page gets a server with its own accounts, and two clients that talk over it."""
        before, folder = os.getcwd(), tempfile.mkdtemp(prefix="twisted_im-")
        self.addCleanup(shutil.rmtree, folder)
        self.addCleanup(os.chdir, before)
        os.chdir(folder)  # the page keeps its messages where it is run
        server_page, _, client_page, *_ = examples()
        server: ImServer = server_page["server"]
        self.assertEqual(list(IServiceCollection(server_page["application"])), [server])
        server.startService()
        try:
            yield server.started
            heard = yield ensureDeferred(client_page["talk"](server.addresses[0]))
            self.assertEqual(heard, "Can we fix it?")
            self.assertEqual((server.counters.accepted, server.counters.refused), (1, 0))
        finally:
            yield server.stopService()

    async def test_tokens_and_passwords(self) -> None:
        """A team with an issuer of its own copies the page, and its users cannot log in."""
        _, tokens_page, *_ = examples()
        folder = Path(self.mktemp())
        folder.mkdir()
        key = ec.generate_private_key(ec.SECP256R1())
        public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        (folder / "keys.pem").write_bytes(public)
        server: ImServer = tokens_page["server_with_both"](reactor, str(folder / "keys.pem"), str(folder / "im.db"))
        server.startService()
        try:
            await server.started
            await server.node.store.set_account(b"\0bob", HASHER.hash("builder"), None)
            claims = {"sub": "alice", "aud": "im.example.org", "iss": "https://login.example.org", "exp": time.time() + 60}
            for uid, secret, method in (
                ("alice", jwt.encode(claims, key, "ES256"), LoginMethod.TOKEN),
                ("bob", "builder", LoginMethod.PASSWORD),
            ):
                client = Client(server.addresses[0], uid=uid, secret=secret, method=method)
                client.startService()
                await client.when_online()
                await client.stopService()
        finally:
            await server.stopService()

    @inlineCallbacks
    def test_own_command(self) -> Any:
        """A command that an application has added is answered like one of the server's."""
        _, _, _, command_page, *_ = examples()
        self.assertLess(max(Command), 0x8000, "the page says that these are free")
        server = ImServer(
            store=MemoryStore(),
            router=SingleRouter(),
            authenticator=Anybody(),
            listen=["tcp:0:interface=127.0.0.1"],
            features=command_page["with_dice"],
        )
        server.startService()
        try:
            yield server.started
            client = yield connectProtocol(clientFromString(reactor, f"tcp:{server.addresses[0]}"), Asking())
            hello = {"min_version": 1, "max_version": 1, "features": 0, "max_body": 0, "heartbeat": 0, "window": 0, "agent": b""}
            yield client.ask(request(Command.HELLO, 1, **hello))
            login = {"method": 3, "device": bytes(16), "tenant": b"", "uid": b"alice", "label": b"", "secret": b""}
            yield client.ask(request(Command.LOGIN, 2, **login))
            thrown = yield client.ask(frame(Kind.REQUEST, command_page["ROLL"], request_id=3))
            self.assertEqual(thrown[1:], (3, 0, b"\x04"))
        finally:
            yield server.stopService()

    async def test_a_cluster(self) -> None:
        """Two servers that are made as the page makes them are no cluster, as a mesh or with a route server."""
        before, folder = os.getcwd(), tempfile.mkdtemp(prefix="twisted_im-")
        self.addCleanup(shutil.rmtree, folder)
        self.addCleanup(os.chdir, before)
        os.chdir(folder)
        page = examples()[4]
        route = page["route_server"]()
        route.startService()
        self.addCleanup(route.stopService)
        where = await route.started
        for make in (page["node_of_a_mesh"], lambda name, anybody: page["node_of_a_star"](name, where, anybody)):
            nodes = [make(name, lambda credentials: True) for name in ("chat-1", "chat-2")]
            heard: Deferred[str] = Deferred()
            for node in nodes:
                node.startService()
                await node.started
            alice = Client(nodes[0].addresses[0], uid="alice")
            bob = Client(nodes[1].addresses[0], uid="bob", on_message=lambda message, heard=heard: heard.callback(message.text))
            for client in (alice, bob):
                client.startService()
                await client.when_online()
            while not all(node.counters.doubt_seconds or list(node.node.router._links) for node in nodes):
                await deferLater(reactor, 0.01)  # type: ignore[arg-type]  # the global reactor has no static type
            await alice.send("bob", "over there").accepted
            self.assertEqual(await heard, "over there")
            for service in (alice, bob, *nodes):
                await service.stopService()

    async def test_the_program_as_a_whole(self) -> None:
        """The page's server, saved as chat.tac, does not run under `twistd -ny`, or no client can talk over it."""
        server_code, *_ = blocks(PAGE)
        folder = Path(self.mktemp())
        folder.mkdir()
        (folder / "chat.tac").write_text(server_code, encoding="utf-8")
        running = Running()
        words = [sys.executable, "-c", "from twisted.scripts.twistd import run; run()", "--pidfile=", "-ny", "chat.tac"]
        process = reactor.spawnProcess(running, sys.executable, words, env=environment(), path=str(folder))  # type: ignore[attr-defined]
        try:
            address = await running.address
            self.assertEqual(await ensureDeferred(examples()[2]["talk"](address)), "Can we fix it?")
        finally:
            if process.pid is not None:
                process.signalProcess("TERM")
            await running.ended
        self.assertIn(b"stopped", running.said)
        self.assertNotIn(b"Traceback", running.said)

    def test_the_test(self) -> None:
        """A team's first test, copied from the page, fails."""
        folder = Path(self.mktemp())
        folder.mkdir()
        (folder / "test_notes.py").write_text(blocks(PAGE)[-1], encoding="utf-8")
        words = [sys.executable, "-m", "twisted.trial", "test_notes"]
        done = subprocess.run(words, cwd=folder, env=environment(), capture_output=True, text=True, timeout=120, check=False)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertIn("PASSED (successes=1)", done.stdout)
