"""The examples of docs/embedding.md, run.

Strategy: the code blocks are taken from the page as they are, so a page that has fallen behind fails here.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from twisted.application.service import IServiceCollection
from twisted.internet import reactor
from twisted.internet.defer import ensureDeferred, inlineCallbacks
from twisted.internet.endpoints import clientFromString, connectProtocol
from twisted.internet.protocol import Protocol
from twisted.trial.unittest import TestCase

from twisted_im import ImServer, MemoryStore, SingleRouter
from twisted_im.server.authenticators import Anybody
from twisted_im.wire.codec import frame, request
from twisted_im.wire.framing import FrameReader
from twisted_im.wire.schema import Command, Kind

PAGE = Path(__file__).parent.parent / "docs" / "embedding.md"


def examples() -> list[dict[str, Any]]:
    """What each code block of the page leaves defined."""
    found = []
    for code in re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL):
        names: dict[str, Any] = {}
        exec(compile(code, str(PAGE), "exec"), names)
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
        from twisted.internet.defer import Deferred

        self.transport.write(data)
        self.waiting = Deferred()
        return self.waiting


class EmbeddingPage(TestCase):
    timeout = 20

    @inlineCallbacks
    def test_server_and_client(self) -> Any:
        """A team that copies the page gets a server with its own accounts, and two clients that talk over it."""
        server_page, client_page, _ = examples()
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

    @inlineCallbacks
    def test_own_command(self) -> Any:
        """A command that an application has added is answered like one of the server's."""
        _, _, command_page = examples()
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
