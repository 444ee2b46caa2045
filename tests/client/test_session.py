"""One connection of a client under a clock that the test turns: windows, acknowledgements, and answers that do not come."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from twisted_im.client.session import Ask, Credentials, Session
from twisted_im.core.connection import Limits, State
from twisted_im.errors import Disconnect, ImError, RemoteProtocolError, Status
from twisted_im.pump import Pump, Turn
from twisted_im.wire.codec import CODECS, notify, refusal, request, response
from twisted_im.wire.framing import FrameReader
from twisted_im.wire.schema import Command, Kind


class Server:
    """The other end, played by the test; and the owner of the session under test."""

    def __init__(self, *, requests: int = 2, window: int = 4) -> None:
        self.clock = Clock()
        self.turn = Turn(self.clock, clock=self.clock.seconds)
        self.waiting: list[Ask] = []
        self.answers: list[Any] = []
        self.heard: list[tuple[int, Any]] = []
        self.lost: list[Failure] = []
        self.session = Session(
            self,
            Credentials(1, b"", b"alice", b"d" * 16, b"phone", b"secret"),
            [lambda: self.waiting.pop(0) if self.waiting else None],
            agent=b"test",
            answer=30.0,
            trace=None,
        )
        self.turn.steps += [self.session.look, self.session.fill, self.session.acknowledge]
        self.pump = Pump(self.session, self.turn, Limits(), accepting=False)
        self.transport = StringTransport()
        self.reader = FrameReader(1 << 20)
        self.numbers = {"max_body": 65536, "heartbeat": 300, "window": window, "requests": requests}
        self.pump.makeConnection(self.transport)

    def session_open(self, session: Session, login: Any) -> None:
        """Nothing to do."""

    def session_notified(self, session: Session, command: int, values: Any) -> None:
        self.heard.append((command, values))

    def session_lost(self, session: Session, reason: Failure) -> None:
        self.lost.append(reason)

    def says(self, data: bytes) -> None:
        """Bytes to the client, and a turn."""
        self.pump.dataReceived(data)
        self.clock.advance(0)

    def hears(self) -> list[tuple[Kind, int, int, Any]]:
        """What the client has sent since the last look: kind, command, request id, values."""
        self.turn.book()
        self.clock.advance(0)
        data = self.transport.value()
        self.transport.clear()
        found = []
        for tag, request_id, _, body in self.reader.feed(data):
            kind, command = Kind(tag >> 16 & 0xFF), Command(tag & 0xFFFF)
            found.append((kind, command, request_id, CODECS[kind, command].read(body)))
        return found

    def hello(self) -> None:
        ((_, _, number, _),) = self.hears()
        self.says(response(Command.HELLO, number, version=1, features=0, time=1_000_000, node=b"n", **self.numbers))

    def login(self) -> None:
        self.hello()
        ((_, _, number, _),) = self.hears()
        self.says(response(Command.LOGIN, number, session=1, epoch=b"e" * 16, horizon=3600, resume=b""))

    def ask(self) -> None:
        """A request that wants to leave."""
        self.waiting.append((Command.LOGOUT, {}, self.answers.append))


@pytest.fixture
def server() -> Server:
    """A client that has logged in."""
    made = Server()
    made.login()
    return made


def test_hello_and_login() -> None:
    """If this fails, no server lets the client in."""
    server = Server()
    ((kind, command, number, hello),) = server.hears()
    assert (kind, command, hello.min_version, hello.max_version, hello.agent) == (Kind.REQUEST, Command.HELLO, 1, 1, b"test")
    server.says(response(Command.HELLO, number, version=1, features=0, time=1_000_000, node=b"n", **server.numbers))
    assert server.session.server_ahead == 1000.0
    ((kind, command, _, login),) = server.hears()
    assert (kind, command) == (Kind.REQUEST, Command.LOGIN)
    assert (login.uid, login.device, login.label, login.secret) == (b"alice", b"d" * 16, b"phone", b"secret")
    assert not server.session.open


def test_never_more_requests_than_the_window(server: Server) -> None:
    """If this fails, the server ends the connection for a flood, whenever an application is quick."""
    for _ in range(5):
        server.ask()
    server.session.ask(Command.PING, {}, server.answers.append)
    first = server.hears()
    assert len(first) == 2
    assert {command for _, command, _, _ in first} == {Command.PING, Command.LOGOUT}, "no source waits for another to be empty"
    assert server.hears() == []
    server.says(response(Command.LOGOUT, next(number for _, command, number, _ in first if command is Command.LOGOUT)))
    assert len(server.answers) == 1
    assert len(server.hears()) == 1


def test_acknowledgements(server: Server) -> None:
    """If this fails, the server stops sending because it hears of nothing, or hears of each notify by itself."""
    behind = notify(Command.SYNC)
    server.says(behind)
    assert server.hears() == []
    server.clock.advance(0.9)
    assert server.hears() == []
    server.clock.advance(0.1)
    assert [(command, values.count) for _, command, _, values in server.hears()] == [(Command.WINDOW, 1)]
    server.says(behind * 2)
    assert [(command, values.count) for _, command, _, values in server.hears()] == [(Command.WINDOW, 3)], "half the window, at once"
    server.session.full = True
    server.says(behind * 2)
    server.clock.advance(5)
    assert server.hears() == [], "not while the application is full"
    assert server.session.deadline() is None
    server.session.full = False
    assert [values.count for _, _, _, values in server.hears()] == [5]


def test_an_answer_that_does_not_come_ends_the_connection(server: Server) -> None:
    """If this fails, a hanging server holds everything up for ever."""
    server.ask()
    server.hears()
    assert server.session.deadline() == 30.0
    server.clock.advance(29)
    assert server.hears() == []
    server.clock.advance(1)
    ((kind, command, _, values),) = server.hears()
    assert (kind, command, values.code) == (Kind.NOTIFY, Command.DISCONNECT, Disconnect.UNRESPONSIVE)
    server.clock.advance(0)
    assert server.transport.disconnecting
    assert server.session.come_back
    server.pump.connectionLost(Failure(ConnectionError()))
    assert [error.code for error in server.answers] == [Status.UNAVAILABLE]
    assert len(server.lost) == 1


def test_pings_are_answered(server: Server) -> None:
    """If this fails, the server takes a quiet client for a dead one."""
    server.session.full = True
    server.says(request(Command.PING, 9))
    ((kind, command, number, _),) = server.hears()
    assert (kind, command, number) == (Kind.RESPONSE, Command.PING, 9)
    server.says(request(Command.LOGIN, 10, method=1, device=bytes(16), tenant=b"", uid=b"x", label=b"", secret=b""))
    data = server.transport.value()
    assert data[12:16] == bytes([0, 0, 0, Status.UNKNOWN_COMMAND])


def test_what_the_server_says_at_the_end(server: Server) -> None:
    """If this fails, a client returns where it was thrown out, or does not return where it should."""
    server.says(notify(Command.DISCONNECT, code=Disconnect.TAKEN_OVER, come_back=0, retry_after=0, reason=b"elsewhere"))
    assert server.session.end is not None
    assert (server.session.end.code, server.session.end.reason, server.session.come_back) == (Disconnect.TAKEN_OVER, "elsewhere", False)
    other = Server()
    other.login()
    other.says(notify(Command.DISCONNECT, code=999, come_back=1, retry_after=1500, reason=b"of a later version"))
    assert (other.session.come_back, other.session.retry_after) == (True, 1.5)
    third = Server()
    third.login()
    third.says(notify(Command.REDIRECT, delay=250, address=b"host:1"))
    assert (third.session.redirect, third.session.retry_after, third.session.come_back) == ("host:1", 0.25, True)


def test_a_refused_login(server: Server) -> None:
    """If this fails, a wrong password is tried for ever, or a busy server is given up."""
    for code, come_back in ((Status.NOT_AUTHENTICATED, False), (Status.BUSY, True)):
        refused = Server()
        refused.hello()
        ((_, _, number, _),) = refused.hears()
        refused.says(refusal(Command.LOGIN, number, ImError(code, retry_after=700)))
        assert refused.session.end is not None
        assert (refused.session.end.code, refused.session.come_back, refused.session.retry_after) == (code, come_back, 0.7)


def test_a_server_that_breaks_the_protocol(server: Server) -> None:
    """If this fails, a faulty server makes a client raise where nobody catches."""
    server.ask()
    ((_, _, number, _),) = server.hears()
    server.says(response(Command.PING, 77, time=0))  # to nothing that was asked: let pass
    server.says(response(Command.LOGOUT, 12345))
    assert server.session.open
    server.says(response(Command.KICK, number))
    assert isinstance(server.session.fault, RemoteProtocolError)
    assert server.pump.connection.state is State.CLOSING
    other = Server()
    other.says(notify(Command.SYNC))
    assert other.pump.connection.state is State.CLOSING
