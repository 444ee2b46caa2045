"""Bad input on real sockets: whatever comes, the answer is the one that the specification names, and nobody else notices.

Strategy: tables of input and answer, played one after the other against one server; then chance, with a seed. Two bystanders talk to each
other after every case, and the log is looked at: what a stranger sends never causes a traceback.
"""

from __future__ import annotations

import random
import socket
from typing import Any

from twisted.internet.defer import gatherResults
from twisted.internet.error import ConnectionDone

from tests.running import PLAIN, Hand, Raw, Served, new_id, refusal, tls, until
from twisted_im.core.connection import Limits
from twisted_im.errors import Disconnect, Status
from twisted_im.server.interfaces import Credentials
from twisted_im.wire.codec import CODECS, HEADER, frame, notify, request, tag
from twisted_im.wire.schema import DEFAULT_MAX_BODY, FRAMES, HEADER_SIZE, STRANGER_MAX_BODY, Command, Kind

#: Any valid values of every request that a client may send, so that a test can spoil one thing at a time.
VALUES: dict[Command, dict[str, Any]] = {
    Command.HELLO: {"min_version": 1, "max_version": 1, "features": 0, "max_body": 0, "heartbeat": 0, "window": 0, "agent": b"x"},
    Command.LOGIN: {"method": 1, "device": bytes(16), "tenant": b"", "uid": b"mallory", "label": b"", "secret": b"right"},
    Command.LOGOUT: {},
    Command.PING: {},
    Command.KICK: {"device": bytes(16)},
    Command.DEVICES: {"action": 1, "device": bytes(16)},
    Command.MESSAGE: {"client_id": bytes(16), "conversation": 0, "content_type": 1, "life": 0, "target": b"carol", "content": b"hello"},
    Command.RECEIPT: {"conversation": 1, "seq": 1, "type": 1},
    Command.SYNC: {"since": 0, "after": 0, "limit": 0, "scope": 0},
    Command.HISTORY: {"conversation": 1, "first": 1, "last": 1, "limit": 0, "direction": 0},
    Command.SIGNAL: {"conversation": 0, "type": 1, "lifetime": 1000, "target": b"carol", "content": b""},
}


def header(length: int, *, version: int = 1, kind: int = 0, command: int = Command.HELLO) -> bytes:
    """A header, whatever it says."""
    return HEADER.pack(length, version << 24 | kind << 16 | command, 1, 0)


def test_there_is_bad_input_for_every_request() -> None:
    """If this fails, a new command has come, and nobody has tried what it does with garbage. (Links have tests of their own.)"""
    asked = {command for (kind, command), (_, who, _) in FRAMES.items() if kind is Kind.REQUEST and who in ("client", "both")}
    assert set(VALUES) == asked


class Disturbed(Served):
    """A server, with two people who talk to each other whatever a third one does."""

    async def begin(self, **arguments: Any) -> None:
        await self.serve(**{"authenticator": self.authenticate, **arguments})
        self.carol, self.dave = await self.user("carol"), await self.user("dave")
        self.said = 0

    @staticmethod
    def authenticate(credentials: Credentials) -> bool:
        return credentials.uid in ("carol", "dave") or credentials.secret == b"right"

    async def mallory(self, **how: Any) -> Raw:
        """Somebody who has logged in, and means no good."""
        raw = await self.greeted(**how)
        await raw.login("mallory", secret=b"right")
        return raw

    async def undisturbed(self, what: object) -> None:
        """The bystanders talk, and the log has no traceback."""
        self.said += 1
        answer = await self.carol.send("dave", b"%d" % self.said)
        row = await self.dave.told(Command.MESSAGE)
        assert (row.seq, row.content) == (self.said, b"%d" % self.said) == (answer.seq, row.content), what
        self.dave.acknowledge()
        assert (self.carol.lost, self.dave.lost) == (None, None), what
        assert self.flushLoggedErrors() == [], what


class Strangers(Disturbed):
    """Before a login."""

    async def test_what_ends_a_connection(self) -> None:
        """If this fails, a stranger gets in, is listened to for longer than he should be, or is not told why he is not."""
        await self.begin()
        hello = request(Command.HELLO, 1, **VALUES[Command.HELLO])
        cases: list[tuple[bytes, Disconnect]] = [
            (b"GET / HTTP/1.1\r\nHost: im.example.org\r\n\r\n", Disconnect.MALFORMED),
            (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(512), Disconnect.VERSION),  # how a TLS handshake begins
            (b"SSH-2.0-OpenSSH_9.6\r\n", Disconnect.MALFORMED),
            (bytes(64), Disconnect.VERSION),
            (b"\xff" * 64, Disconnect.MALFORMED),
            (header(2**32 - 1), Disconnect.TOO_LARGE),
            (header(STRANGER_MAX_BODY + 1), Disconnect.TOO_LARGE),
            (header(0, version=2), Disconnect.VERSION),
            (header(0, version=0), Disconnect.VERSION),
            (header(0, kind=3), Disconnect.MALFORMED),
            (header(0, kind=255, version=255), Disconnect.MALFORMED),
            (header(0, command=0xBEEF), Disconnect.UNEXPECTED),
            (header(0, command=0xBEEF, kind=Kind.NOTIFY), Disconnect.UNEXPECTED),
            (frame(Kind.RESPONSE, Command.HELLO, b"", 1), Disconnect.UNEXPECTED),
            (notify(Command.WINDOW, count=0), Disconnect.UNEXPECTED),
            *((request(c, 1, **VALUES[c]), Disconnect.UNEXPECTED) for c in VALUES if c is not Command.HELLO),
            *(
                (hello + request(c, 1, **VALUES[c]), Disconnect.UNEXPECTED)
                for c in VALUES
                if c not in (Command.LOGIN, Command.PING, Command.DISCONNECT)
            ),
            (hello + notify(Command.WINDOW, count=0), Disconnect.UNEXPECTED),
            (hello + frame(Kind.RESPONSE, Command.PING, bytes(8), 1), Disconnect.UNEXPECTED),
            (hello + header(STRANGER_MAX_BODY + 1, command=Command.LOGIN), Disconnect.TOO_LARGE),
            (hello + frame(Kind.NOTIFY, Command.DISCONNECT, b"!"), Disconnect.MALFORMED),
            (request(Command.HELLO, 1, **{**VALUES[Command.HELLO], "min_version": 2, "max_version": 9}), Disconnect.VERSION),
            (request(Command.HELLO, 1, **{**VALUES[Command.HELLO], "min_version": 0, "max_version": 0}), Disconnect.VERSION),
            (request(Command.HELLO, 1, **{**VALUES[Command.HELLO], "max_body": DEFAULT_MAX_BODY - 1}), Disconnect.TOO_LARGE),
            (request(Command.HELLO, 1, **{**VALUES[Command.HELLO], "agent": bytes(65)}), Disconnect.MALFORMED),
        ]
        for data, code in cases:
            raw = await self.connect()
            raw.write(data)
            assert await raw.disconnected() is code, data
            assert raw.got[-1].values.come_back == 0, "it would do the same again"
            assert raw.got[-1].values.reason.decode().isprintable()
            assert len(raw.got) == 1 + data.startswith(hello), "nothing but the answer to a good hello came before"
            await self.undisturbed(data)
        assert self.server.counters.disconnects == len(cases)

    async def test_what_does_not(self) -> None:
        """If this fails, a client with a small fault, or somebody who mistypes a password, is thrown out; or learns who has an account."""
        await self.begin()
        raw = await self.connect()
        for body in (b"", b"\x01\x01", bytes(13)):
            assert (await refusal(raw.ask_body(Command.HELLO, body))).code is Status.BAD_BODY
        assert (await raw.hello(heartbeat=1, window=65535, max_body=2**32 - 1))[:5] == (1, 0, DEFAULT_MAX_BODY, 5, 64)
        assert (await raw.ask(Command.PING)).time > 0
        assert (await refusal(raw.ask_body(Command.PING, b"!"))).code is Status.BAD_BODY
        login = VALUES[Command.LOGIN]
        for change, code in (
            ({"uid": b""}, Status.BAD_VALUE),
            ({"uid": b"x" * 65}, Status.BAD_VALUE),
            ({"uid": b"\xff\xfe"}, Status.BAD_VALUE),
            ({"uid": b"\xed\xa0\x80"}, Status.BAD_VALUE),  # half of a surrogate pair
            ({"uid": "é".encode()[:1]}, Status.BAD_VALUE),
            ({"uid": "e\u0301".encode()}, Status.BAD_VALUE),  # é in two parts: not NFC
            ({"uid": b"a\0b"}, Status.BAD_VALUE),
            ({"uid": b"a\nb"}, Status.BAD_VALUE),
            ({"uid": "a\u0085b".encode()}, Status.BAD_VALUE),  # a control character that is not ASCII
            ({"tenant": b"a\0b"}, Status.BAD_VALUE),
            ({"tenant": b"x" * 65}, Status.BAD_VALUE),
            ({"tenant": b"\xff"}, Status.BAD_VALUE),
            ({"label": b"x" * 65}, Status.BAD_VALUE),
            ({"secret": b"x" * 769}, Status.BAD_VALUE),
            ({"method": 0}, Status.UNSUPPORTED),
            ({"method": 255}, Status.UNSUPPORTED),
        ):
            assert (await refusal(raw.ask(Command.LOGIN, **{**login, **change}))).code is code, change
        for body in (b"", bytes(19), b"\x01" + bytes(16) + b"\x09\x09\x09" + b"short"):
            assert (await refusal(raw.ask_body(Command.LOGIN, body))).code is Status.BAD_BODY, body
        wrong, nobody = [await refusal(raw.login(uid, secret=b"wrong")) for uid in ("mallory", "nobody")]
        assert (wrong.code, wrong.reason, wrong.temporary) == (Status.NOT_AUTHENTICATED, nobody.reason, False)
        for _ in range(2):
            assert (await refusal(raw.login("mallory", secret=b"wrong"))).code is Status.NOT_AUTHENTICATED
        await raw.login("mallory", secret=b"right")
        await raw.settle()
        await self.undisturbed("small faults")

        raw = await self.greeted()
        for _ in range(4):
            assert (await refusal(raw.login("mallory", secret=b"wrong"))).code is Status.NOT_AUTHENTICATED
        raw.login("mallory", secret=b"wrong").addErrback(lambda _: None)
        raw.write(raw.request(Command.LOGIN, **login)[1])  # the sixth, and right
        assert await raw.disconnected() is Disconnect.LOGIN_FAILED
        assert len(raw.got) == 1
        assert self.server.counters.logins == 3
        raw = await self.greeted()
        assert raw.lost is None, "somebody else may try"
        await self.undisturbed("wrong passwords")

    async def test_a_goodbye_instead_of_a_hello(self) -> None:
        """If this fails, a client that says why it goes is answered as if it had done something wrong."""
        await self.begin()
        farewell = notify(Command.DISCONNECT, code=1, come_back=0, retry_after=0, reason=b"")
        for raw in (await self.connect(), await self.greeted(), await self.mallory()):
            raw.write(farewell)
            assert await raw.ended() is None
            assert raw.lost is not None
            assert raw.lost.check(ConnectionDone)
        assert self.server.counters.disconnects == 0
        await self.undisturbed("a goodbye")

    async def test_silence_and_half_words(self) -> None:
        """If this fails, strangers who connect and say nothing, or a byte a second, use up the server's connections."""
        hand = Hand()
        await self.begin(hand=hand, listen=(PLAIN, tls()))
        hello, half = request(Command.HELLO, 1, **VALUES[Command.HELLO]), request(Command.LOGIN, 2, **VALUES[Command.LOGIN])
        silent = [await self.connect() for _ in range(30)]
        dripping = [await self.connect() for _ in range(30)]
        without_handshake = await self.connect(index=1)
        greeted = [await self.greeted() for _ in range(3)]
        greeted[1].write(half[:40])
        mallory = await self.mallory()
        node = self.server.node
        assert len(node.pumps) == 67

        async def after(seconds: float, drip: bytes) -> None:
            for raw in (*dripping, *greeted[2:], mallory):
                if raw.lost is None:
                    raw.write(drip)
            await gatherResults([self.carol.settle(), self.dave.settle()])
            hand.advance(seconds)
            await gatherResults([self.carol.settle(), self.dave.settle()])

        for second in range(5):
            assert all(raw.lost is None for raw in (*silent, *dripping)), second
            await after(1, hello[second : second + 1])
        await after(0.3, b"")
        for raw in (*silent, *dripping):
            assert await raw.disconnected() is Disconnect.HANDSHAKE_TIMEOUT
            assert raw.got[-1].values.come_back
        await self.undisturbed("silence")
        honest = await self.mallory(index=1, tls=True)
        for _ in range(4):
            await after(1, b"\0")
            assert (await refusal(greeted[0].login("x", secret=b"wrong"))).code is Status.NOT_AUTHENTICATED
            assert all(raw.lost is None for raw in greeted)
        await after(1.5, b"")
        for raw in greeted:  # one that failed to log in, one that stopped in the middle of it, and one that goes on for ever
            assert await raw.disconnected() is Disconnect.LOGIN_TIMEOUT
        assert await without_handshake.ended() is None, "nothing can be said where there is no TLS"
        for _ in range(4):
            assert mallory.lost is None
            await after(1, b"\0")
        await after(1, b"")
        assert await mallory.disconnected() is Disconnect.FRAME_TIMEOUT
        await honest.settle()
        assert len(node.pumps) == 3
        await self.undisturbed("half words")

    async def test_a_frame_that_never_ends(self) -> None:
        """If this fails, somebody who has logged in holds a buffer of the server's for ever, by sending a byte now and then."""
        hand = Hand()
        await self.begin(hand=hand)
        mallory = await self.mallory()
        long = request(Command.MESSAGE, 1, **{**VALUES[Command.MESSAGE], "content": bytes(60_000)})
        mallory.write(long[:20])
        for second in range(15):
            await until(lambda second=second: self.session(mallory).connection.kept == long[: 20 + second], "it")
            hand.advance(1 - 0.01)
            mallory.write(long[20 + second : 21 + second])
            await self.carol.settle()
            assert mallory.lost is None, second
        hand.advance(0.5)
        assert await mallory.disconnected() is Disconnect.FRAME_TIMEOUT
        await self.undisturbed("a frame that never ends")

    async def test_a_crowd_at_the_door(self) -> None:
        """If this fails, clients that come back to a restarted server all at once wait a second or more, for nothing."""
        await self.begin()
        crowd = []
        for _ in range(300):  # the server's reactor does not run meanwhile: the kernel has to hold them all
            crowd.append(socket.create_connection(("127.0.0.1", self.port()), timeout=0.5))
        await until(lambda: len(self.server.node.pumps) == 302, "all to be let in")
        for each in crowd:
            each.close()
        await until(lambda: len(self.server.node.pumps) == 2, "all to be gone")
        await self.undisturbed("a crowd")

    async def test_tls_and_plain_mixed_up(self) -> None:
        """If this fails, a wrong port in a client's settings fills the log, or hangs."""
        await self.begin(listen=(PLAIN, tls()))
        wrong = await self.connect(index=0, tls=True)
        await wrong.ended()
        assert not wrong.all
        hello = request(Command.HELLO, 1, **VALUES[Command.HELLO])
        for data in (hello, b"GET / HTTP/1.1\r\n\r\n", bytes(1000), b"\x16\x03\x01\xff\xff" + bytes(9)):
            wrong = await self.connect(index=1)
            wrong.write(data)
            if data[:1] != b"\x16":
                await wrong.ended()
                assert len(wrong.all) < HEADER_SIZE, "at most an alert of TLS"
        await self.undisturbed("TLS and plain")
        raw = await self.mallory(index=1, tls=True)
        raw.write(header(2**32 - 1))
        assert await raw.disconnected() is Disconnect.TOO_LARGE
        await self.undisturbed("bad input under TLS")


class Users(Disturbed):
    """After a login."""

    async def test_what_ends_a_session(self) -> None:
        """If this fails, a broken client goes on with a connection on which the two sides no longer agree."""
        await self.begin()
        cases: list[tuple[bytes, Disconnect]] = [
            (notify(Command.WINDOW, count=1), Disconnect.ACK_ABOVE_SENT),
            (notify(Command.WINDOW, count=2**64 - 1), Disconnect.ACK_ABOVE_SENT),
            (frame(Kind.NOTIFY, Command.WINDOW, bytes(7)), Disconnect.MALFORMED),
            (frame(Kind.NOTIFY, Command.DISCONNECT, b""), Disconnect.MALFORMED),
            (frame(Kind.RESPONSE, Command.MESSAGE, bytes(24), 1), Disconnect.UNEXPECTED),
            (frame(Kind.RESPONSE, 0xBEEF, b"", 1), Disconnect.UNEXPECTED),
            (header(DEFAULT_MAX_BODY + 1, command=Command.MESSAGE), Disconnect.TOO_LARGE),
            (header(2**32 - 1, kind=Kind.NOTIFY), Disconnect.TOO_LARGE),
            (header(0, version=2), Disconnect.VERSION),
            (header(0, kind=3), Disconnect.MALFORMED),
            (b"\r\n" * 64, Disconnect.MALFORMED),
            (header(DEFAULT_MAX_BODY + 1, command=Command.MESSAGE) + bytes(1_000_000), Disconnect.TOO_LARGE),  # more than is ever read
        ]
        for data, code in cases:
            raw = await self.mallory()
            # a good request in front is answered still, and one behind is not
            raw.write(request(Command.PING, 8) + data + request(Command.PING, 9))
            assert await raw.disconnected() is code, data[:32]
            assert [got.request_id for got in raw.got] == [8, 0], data[:32]
            await self.undisturbed(data[:32])
        assert len(self.server.node.sessions) == 2

    async def test_what_is_refused(self) -> None:
        """If this fails, a request that cannot be done is done halfway, or costs its client the connection."""
        await self.begin()
        raw = await self.mallory()
        await raw.send("mallory", b"a conversation of one's own")
        assert (await raw.history(1, 1, 1)).head == 1
        await self.undisturbed("the second conversation")
        largest = DEFAULT_MAX_BODY - 256
        ask: list[tuple[Command, dict[str, Any], Status]] = [
            (Command.MESSAGE, {"target": b"nobody"}, Status.NO_SUCH),
            (Command.MESSAGE, {"target": b""}, Status.BAD_VALUE),
            (Command.MESSAGE, {"target": b"\xff"}, Status.BAD_VALUE),
            (Command.MESSAGE, {"target": b"a\0carol"}, Status.BAD_VALUE),
            (Command.MESSAGE, {"target": b"x" * 65}, Status.BAD_VALUE),
            (Command.MESSAGE, {"target": b"carol", "conversation": 1}, Status.BAD_VALUE),
            (Command.MESSAGE, {"target": b"", "conversation": 2}, Status.NO_SUCH),  # that of the bystanders
            (Command.MESSAGE, {"target": b"", "conversation": 3}, Status.NO_SUCH),
            (Command.MESSAGE, {"target": b"", "conversation": 2**64 - 1}, Status.NO_SUCH),
            (Command.MESSAGE, {"content_type": 0}, Status.UNSUPPORTED),
            (Command.MESSAGE, {"content_type": 5}, Status.UNSUPPORTED),
            (Command.MESSAGE, {"content": bytes(largest + 1)}, Status.TOO_LARGE),
            (Command.MESSAGE, {"client_id": bytes(16)}, Status.STALE_ID),
            (Command.MESSAGE, {"client_id": b"\xff" * 16}, Status.STALE_ID),
            (Command.MESSAGE, {"client_id": new_id(seconds=-3610)}, Status.STALE_ID),
            (Command.MESSAGE, {"client_id": new_id(seconds=3610)}, Status.STALE_ID),
            (Command.RECEIPT, {"seq": 0}, Status.BAD_VALUE),
            (Command.RECEIPT, {"seq": 2}, Status.BAD_VALUE),
            (Command.RECEIPT, {"seq": 2**64 - 1, "type": 2}, Status.BAD_VALUE),
            (Command.RECEIPT, {"type": 0}, Status.BAD_VALUE),
            (Command.RECEIPT, {"type": 3}, Status.BAD_VALUE),
            (Command.RECEIPT, {"conversation": 0}, Status.NO_SUCH),
            (Command.RECEIPT, {"conversation": 2}, Status.NO_SUCH),
            (Command.RECEIPT, {"conversation": 2**64 - 1}, Status.NO_SUCH),
            (Command.HISTORY, {"conversation": 2}, Status.NO_SUCH),
            (Command.HISTORY, {"conversation": 0}, Status.NO_SUCH),
            (Command.HISTORY, {"first": 0}, Status.BAD_VALUE),
            (Command.HISTORY, {"first": 2}, Status.BAD_VALUE),
            (Command.HISTORY, {"direction": 2}, Status.BAD_VALUE),
            (Command.SYNC, {"scope": 2}, Status.BAD_VALUE),
            (Command.SIGNAL, {"conversation": 2, "target": b""}, Status.NO_SUCH),
            (Command.SIGNAL, {"target": b"nobody"}, Status.NO_SUCH),
            (Command.SIGNAL, {"target": b"\xff"}, Status.BAD_VALUE),
            (Command.SIGNAL, {"type": 0}, Status.BAD_VALUE),
            (Command.DEVICES, {"action": 0}, Status.BAD_VALUE),
            (Command.DEVICES, {"action": 2}, Status.NO_SUCH),
            (Command.HELLO, {}, Status.UNKNOWN_COMMAND),
            (Command.LOGIN, {}, Status.UNKNOWN_COMMAND),
        ]
        for command, change, status in ask:
            values = {**VALUES[command], **({"client_id": new_id()} if command is Command.MESSAGE else {}), **change}
            assert (await refusal(raw.ask(command, **values))).code is status, (command, change)
        for command, values in VALUES.items():
            body = CODECS[Kind.REQUEST, command].write(**values)
            codec = CODECS[Kind.REQUEST, command]
            spoilt = [body[:size] for size in range(codec.fixed.size)] + ([body + b"!"] if codec.rest is None else [])
            if command in (Command.HELLO, Command.LOGIN):
                continue  # they may not come any more, whatever they hold
            for wrong in spoilt:
                assert (await refusal(raw.ask_body(command, wrong))).code is Status.BAD_BODY, (command, wrong)
        assert (await refusal(raw.ask_body(0x0FFF, b"anything"))).code is Status.UNKNOWN_COMMAND
        raw.write(frame(Kind.NOTIFY, 0x0FFF, b"anything") + notify(Command.WINDOW, count=0) + frame(Kind.NOTIFY, Command.MESSAGE, b"!"))
        raw.write(HEADER.pack(0, tag(Kind.REQUEST, Command.PING), 2**32 - 1, 0xFFFFFFFF))  # flags and status mean nothing here
        assert (await raw.answer(2**32 - 1)).time > 0
        assert (await raw.sync(since=2**64 - 1, after=2**64 - 1, limit=65535)).conversations == ()
        assert (await raw.send("mallory", bytes(largest))).seq == 2
        assert [len(row.content) for row in (await raw.history(1, 2, 2)).messages] == [largest]
        (row,) = (await raw.sync()).conversations
        assert (row.head, row.cursor, row.delivered, row.read) == (2, 0, 0, 0), "nothing was done halfway"
        assert raw.lost is None
        assert not raw.got
        assert not self.carol.got
        await self.undisturbed("refused requests")

    async def test_too_many_at_once(self) -> None:
        """If this fails, a client without patience fills the server, or loses messages when it is stopped."""
        await self.begin(limits=Limits(window=1000))
        raw = await self.mallory()
        values = [raw.message_values("dave", b"%d" % n) for n in range(65)]
        requests = [raw.request(Command.MESSAGE, **each) for each in values]
        raw.write(b"".join(data for _, data in requests[:64]))
        await gatherResults([raw.answer(request_id) for request_id, _ in requests[:64]])
        raw.write(b"".join(request(Command.MESSAGE, 1000 + n, **each) for n, each in enumerate(values)))
        assert await raw.disconnected() is Disconnect.WINDOW_EXCEEDED
        raw = await self.mallory()
        answers = [await raw.ask(Command.MESSAGE, **each) for each in values]
        assert [answer.seq for answer in answers] == list(range(1, 66))
        receipts = [raw.request(Command.RECEIPT, conversation=answers[0].conversation, seq=1, type=1)[1] for _ in range(65)]
        raw.write(b"".join(receipts))
        assert await raw.disconnected() is Disconnect.WINDOW_EXCEEDED
        await self.dave.settle()
        assert [row.seq for row in self.dave.messages()] == list(range(1, 66)), "each is told once"
        await self.undisturbed("too many at once")

    async def test_one_id_for_two_messages(self) -> None:
        """If this fails, a message silently replaces another one, or is answered as if it were there."""
        await self.begin()
        raw, client_id = await self.mallory(), new_id()
        first, second = [raw.request(Command.MESSAGE, **raw.message_values("dave", text, client_id)) for text in (b"one", b"two")]
        raw.write(first[1] + second[1])  # in one read, and so in one commit
        assert (await raw.answer(first[0])).seq == 1
        assert (await refusal(raw.answer(second[0]))).code is Status.CONFLICT
        assert (await self.dave.told(Command.MESSAGE)).content == b"one"
        await self.dave.settle()
        assert not self.dave.got
        await self.undisturbed("one id for two messages")

    async def test_byte_by_byte(self) -> None:
        """If this fails, what a slow or odd network cuts into small pieces is understood differently."""
        await self.begin()
        raw = await self.connect()
        raw.transport.setTcpNoDelay(True)
        parts = [
            request(Command.HELLO, 1, **VALUES[Command.HELLO]),
            request(Command.LOGIN, 2, **VALUES[Command.LOGIN]),
            request(Command.MESSAGE, 3, **raw.message_values("dave", b"byte by byte")),
            notify(Command.WINDOW, count=0) + request(Command.PING, 4),
        ]
        for request_id, data in enumerate(parts, 1):
            for at in range(len(data)):
                reads = self.server.counters.bytes_in
                raw.write(data[at : at + 1])
                await until(lambda reads=reads: self.server.counters.bytes_in > reads, "the byte")
            await raw.answer(request_id)
        assert (await self.dave.told(Command.MESSAGE)).content == b"byte by byte"
        await self.undisturbed("byte by byte")


class Chance(Disturbed):
    """Frames and bytes by the dice. A seed that finds something is worth a case of its own above."""

    async def test_before_a_login(self) -> None:
        """If this fails, there is a stranger somewhere who can stop the server with a few bytes."""
        await self.begin()
        dice = random.Random(17)
        ended = 0
        for number in range(250):
            raw = await self.connect()
            pieces = [self.spoilt(dice, tuple(VALUES)) for _ in range(20)]
            if number % 2:
                pieces[0] = request(Command.HELLO, 1, **VALUES[Command.HELLO])
            ended += not await self.survives(raw, b"".join(pieces), dice)
            if number % 25 == 0:
                await self.undisturbed(number)
        assert ended > 200
        await until(lambda: len(self.server.node.pumps) == 2, "the connections to end")
        await self.undisturbed("chance before a login")

    async def test_after_a_login(self) -> None:
        """If this fails, there is a user somewhere who can stop the server with a few bytes."""
        await self.begin(limits=Limits(window=60_000, requests=60_000))
        dice = random.Random(18)
        lived = 0
        commands = tuple(command for command in VALUES if command not in (Command.HELLO, Command.LOGIN, Command.LOGOUT))
        for number in range(100):
            raw = await self.greeted()
            await raw.login("mallory", secret=b"right", device=b"one device of it")
            await raw.send("carol", b"a conversation to speak of")
            pieces = [self.spoilt(dice, commands, gentle=number % 2 == 0) for _ in range(60)]
            lived += await self.survives(raw, b"".join(pieces), dice)
            self.carol.got.clear()
            await self.undisturbed(number)
        assert lived >= 50, "what is wrong with a body only never ends a connection"
        await until(lambda: len(self.server.node.pumps) == 2, "the connections to end")
        assert len(self.server.node.sessions) == 2
        await self.undisturbed("chance after a login")

    def spoilt(self, dice: random.Random, commands: tuple[Command, ...], *, gentle: bool = False) -> bytes:
        """A frame with something wrong in it; a gentle one keeps its header whole, so that the connection has a chance to live."""
        command = dice.choice(commands)
        body = bytearray(CODECS[Kind.REQUEST, command].write(**VALUES[command]))
        if command is Command.MESSAGE and dice.random() < 0.7:
            body[:16] = new_id()
        for _ in range(dice.choice([0, 1, 1, 2, 5])):
            how = dice.randrange(5)
            at = dice.randrange(len(body) + 1)
            if how == 0:
                del body[at:]
            elif how == 1:
                body[at:at] = dice.randbytes(dice.choice([1, 8, 100, 700]))
            elif how == 2 and body:
                body[at % len(body)] = dice.choice([0, 1, 2, 0x7F, 0x80, 0xFF])
            elif how == 3 and body:
                body[at % len(body)] ^= 1 << dice.randrange(8)
            else:
                body = bytearray(dice.randbytes(dice.randrange(80)))
        whole = bytearray(frame(Kind.REQUEST, command, bytes(body), dice.getrandbits(32)))
        if gentle:
            if dice.random() < 0.1:
                whole[6:8] = dice.randbytes(2)
            return bytes(whole)
        how = dice.randrange(4)
        if how == 0:
            return dice.randbytes(dice.randrange(64))
        if how == 1:
            whole[dice.randrange(HEADER_SIZE)] = dice.getrandbits(8)
        elif how == 2:
            del whole[dice.randrange(len(whole)) :]
        return bytes(whole)

    async def survives(self, raw: Raw, data: bytes, dice: random.Random) -> bool:
        """Writes this, cut anywhere, and tells whether the connection lives after it; if it does not, its last word must say why."""
        data += request(Command.PING, 2**31)
        while data:
            size = dice.choice([1, 3, 16, 50, 500, 5000])
            raw.write(data[:size])
            data = data[size:]
        end = self.server.counters.bytes_in

        def settled() -> bool:
            """Answered or ended; or the server waits for the rest of a frame that was cut short, and has swallowed the ping."""
            nonlocal end
            last, end = end, self.server.counters.bytes_in
            waits = any(pump.connection.partial for pump in self.server.node.pumps)
            return raw.lost is not None or any(got.request_id == 2**31 for got in raw.got) or (waits and last == end)

        await until(settled, "an answer, or an end")
        assert all(got.values.code != Disconnect.INTERNAL for got in raw.got if got.is_(Kind.NOTIFY, Command.DISCONNECT))
        if raw.lost is not None and raw.got:
            await raw.disconnected()
        lives = raw.lost is None
        await raw.close()
        return lives
