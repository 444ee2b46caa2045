"""The pump and the cork on real sockets, whose buffers are as small as the kernel allows, so that nothing is ever taken whole.

Strategy: first the cork alone, between two protocols that write and read by the dice; then the server, with readers that stop, writers that
never read, and connections that end in the middle of everything. Where a promise is about memory, the test adds up what the process
holds for a connection, in every reactor turn.
"""

from __future__ import annotations

import contextlib
import errno
import random
import socket
from collections import Counter
from collections.abc import Callable
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol, wrapClientTLS
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IPushProducer
from twisted.internet.protocol import Factory, Protocol
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase
from zope.interface import implementer

from tests.running import PLAIN, Hand, Raw, Served, client_tls, refusal, tls, until
from twisted_im.core.connection import Limits, State
from twisted_im.cork import ACCEPTS_AT_ONCE, ENDS_AT_ONCE, NEWCOMERS_AT_ONCE, Readable, corked
from twisted_im.edge.tls import endpoint_from
from twisted_im.errors import Disconnect, ImError, Status
from twisted_im.pump import FRAMES_AT_ONCE, NEWCOMER_FRAMES_AT_ONCE, Pump
from twisted_im.server.features import FEATURES
from twisted_im.server.sessions import Session
from twisted_im.wire.codec import frame, request
from twisted_im.wire.framing import Frame
from twisted_im.wire.schema import Command, Kind

_DONE = Failure(ConnectionDone())


def narrow(transport: Any) -> None:
    """Makes a connection's buffers in the kernel small: a few thousand bytes each way."""
    handle = below(transport).getHandle()
    handle.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    handle.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)


@implementer(IPushProducer)
class Talker(Protocol):
    """Writes its text in pieces of any size, some of them while it is asked to wait, and then closes."""

    def __init__(self, text: bytes, dice: random.Random) -> None:
        self.rest = text
        self.dice = dice
        self.paused = False
        self.pauses = 0
        self.booked = False
        self.lost: Failure | None = None

    def connectionMade(self) -> None:
        narrow(self.transport)
        self.transport.registerProducer(self, True)
        self.go_on()

    def go_on(self) -> None:
        """A few pieces, and perhaps more of them in a later turn."""
        self.booked = False
        for _ in range(self.dice.randrange(1, 4)):
            if not self.rest:
                break
            size = int(self.dice.choice([1, 16, 300, 2000, 2000, 9000, 9000, 60_000]) * (1 + self.dice.random()))
            piece, self.rest = self.rest[:size], self.rest[size:]
            if self.dice.random() < 0.2:
                self.transport.writeSequence([piece[:7], piece[7:]])
            else:
                self.transport.write(piece)
        if not self.rest:
            self.transport.unregisterProducer()
            self.transport.loseConnection()
        elif not self.paused or self.dice.random() < 0.1:
            self.book()

    def book(self) -> None:
        if not self.booked:
            self.booked = True
            reactor.callLater(0, self.go_on)

    def pauseProducing(self) -> None:
        self.paused = True
        self.pauses += 1

    def resumeProducing(self) -> None:
        self.paused = False
        if self.rest and not self.booked:
            if self.dice.random() < 0.5:
                self.booked = True
                self.go_on()  # from within the call that the transport makes
            else:
                self.book()

    def stopProducing(self) -> None:
        self.rest = b""

    def connectionLost(self, reason: Failure = _DONE) -> None:
        self.lost = reason


class Listener(Protocol):
    """Reads everything, and stops reading for a moment now and then."""

    def __init__(self, dice: random.Random) -> None:
        self.dice = dice
        self.heard = bytearray()
        self.lost: Failure | None = None

    def connectionMade(self) -> None:
        narrow(self.transport)

    def dataReceived(self, data: bytes) -> None:
        self.heard += data
        if self.dice.random() < 0.4:
            self.transport.pauseProducing()
            reactor.callLater(self.dice.choice([0, 0, 0.001]), self.transport.resumeProducing)

    def connectionLost(self, reason: Failure = _DONE) -> None:
        self.lost = reason


class Patient(Listener):
    """Reads everything at once, until it is told not to."""

    def __init__(self) -> None:
        super().__init__(random.Random(0))

    def dataReceived(self, data: bytes) -> None:
        self.heard += data


class Sending:
    """A socket whose `send` is another."""

    def __init__(self, real: Any, send: Callable[[bytes], int]) -> None:
        self._real = real
        self.send = send

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


def call_later(call: Callable[[], object]) -> None:
    """Calls in a moment."""
    reactor.callLater(0.01, call)


def below(transport: Any) -> Any:
    """The cork beneath TLS, or the transport itself."""
    while hasattr(transport, "transport"):
        transport = transport.transport
    return transport


def sip(raw: Raw, size: int) -> None:
    """Has a client that has stopped reading take so many bytes from its socket, as far as there are any."""
    with contextlib.suppress(BlockingIOError):
        data = below(raw.transport).getHandle().recv(size)
        (raw if below(raw.transport) is raw.transport else raw.transport).dataReceived(data)


def unsent(transport: Any) -> int:
    """Bytes of a connection that this process holds, since the socket has not taken them."""
    tcp = below(transport)._tcp
    return len(tcp.dataBuffer) - tcp.offset + tcp._tempDataLen


def readables() -> list[Any]:
    """What of the cork the reactor watches."""
    return [reader for reader in reactor.getReaders() if isinstance(reader, Readable)]


class Cork(TestCase):
    """Two protocols with a corked reactor under them, and no pump."""

    timeout = 180

    async def talk(self, talker: Protocol, listener: Protocol, *, secure: bool = False) -> None:
        """Connects the two: the talker is the one that was connected to."""
        both = corked(reactor)
        factory = Factory.forProtocol(lambda: talker)
        factory.noisy = False
        port = await endpoint_from(both, tls() if secure else PLAIN).listen(factory)
        self.addCleanup(port.stopListening)
        endpoint: Any = TCP4ClientEndpoint(both, "127.0.0.1", port.getHost().port)
        if secure:
            endpoint = wrapClientTLS(client_tls(), endpoint)
        await connectProtocol(endpoint, listener)

    async def test_bytes_arrive_whole_and_in_order(self) -> None:
        """If this fails, frames are mixed up, doubled or cut when somebody's network is slow."""
        for seed in range(12):
            dice = random.Random(seed)
            text = dice.randbytes(1_000_000)
            talker, listener = Talker(text, dice), Listener(random.Random(seed + 1000))
            await self.talk(talker, listener, secure=seed % 3 == 2)
            reason = await until(lambda listener=listener: listener.lost, "the end")
            assert bytes(listener.heard) == text, seed
            assert reason.check(ConnectionDone), "it ended in an orderly way"
            assert talker.pauses > 3, "nothing was ever too much"
            await until(lambda talker=talker: talker.lost, "the other side's end")
            assert readables() == []

    async def test_a_socket_that_fails_for_a_moment(self) -> None:
        """If this fails, a server that is short of memory sends a connection's bytes in another order."""
        talker, listener = Patient(), Patient()
        await self.talk(talker, listener)
        direct: Any = talker.transport
        send, answers = direct.socket.send, iter([errno.ENOBUFS, 0, errno.EAGAIN, 0, errno.EINTR, 0])

        def failing(data: bytes) -> int:
            code = next(answers, 0)
            if code:
                raise OSError(code, "no room")
            return int(send(data))

        direct.socket = Sending(direct.socket, failing)
        for number in range(6):
            direct.write(b"%d" % number)
            direct.write(b".")
            await until(lambda number=number: listener.heard.count(b".") > number, "the bytes")
        assert listener.heard == b"0.1.2.3.4.5."
        assert next(answers, None) is None
        direct.loseConnection()
        await until(lambda: listener.lost, "the end")

    async def test_ends_of_all_kinds_leave_nothing(self) -> None:
        """If this fails, a node that has run for a month has no descriptors left, or reads from connections that are gone."""

        ends: list[tuple[str, Callable[[Any, Any], object], bytes]] = [
            ("the other side closes", lambda here, there: there.loseConnection(), b""),
            ("it closes behind a last word", lambda here, there: (there.write(b"bye"), there.loseConnection()), b"bye"),
            ("it cuts", lambda here, there: there.abortConnection(), b""),
            ("this side closes", lambda here, there: here.loseConnection(), b""),
            ("this side cuts", lambda here, there: here.abortConnection(), b""),
            ("both close", lambda here, there: (here.loseConnection(), there.loseConnection()), b""),
            (
                "it closes while this side does not read",
                lambda here, there: (here.pauseProducing(), there.write(b"bye"), there.loseConnection(), call_later(here.resumeProducing)),
                b"bye",
            ),
            (
                "this side cuts while it does not read",
                lambda here, there: (here.pauseProducing(), there.write(b"bye"), call_later(here.abortConnection)),
                b"",
            ),
        ]
        for what, end, last in ends:
            for listening in (True, False):
                one, other = Patient(), Patient()
                await self.talk(one, other)
                here, there = (one, other) if listening else (other, one)
                there.transport.write(b"hello")
                await until(lambda here=here: here.heard, "a word")
                for _ in range(2):  # to ask twice is no fault
                    here.transport.pauseProducing()
                there.transport.write(b" there")
                await until(lambda there=there: unsent(there.transport) == 0, "the rest to reach the kernel")
                assert here.heard == b"hello", "it is not read"
                for _ in range(2):
                    here.transport.resumeProducing()
                await until(lambda here=here: here.heard == b"hello there", "the rest")
                end(here.transport, there.transport)
                await until(lambda here=here, there=there: here.lost and there.lost, what)
                assert here.heard == b"hello there" + last, what
                assert readables() == [], what

    async def test_a_protocol_that_fails_is_cut_off_alone(self) -> None:
        """If this fails, one broken connection stops the reading of all others."""

        class Failing(Protocol):
            """Cannot take what comes."""

            def dataReceived(self, data: bytes) -> None:
                raise RuntimeError("cannot take it")

        failing, talker = Failing(), Patient()
        await self.talk(failing, talker)
        good, other = Patient(), Patient()
        await self.talk(good, other)
        talker.transport.write(b"anything")
        other.transport.write(b"hello")
        await until(lambda: talker.lost and good.heard == b"hello", "one to end and the other to go on")
        assert len(self.flushLoggedErrors(RuntimeError)) == 1
        other.transport.loseConnection()
        await until(lambda: good.lost and other.lost, "the end")


class Crowd(TestCase):
    """Many at once, and one who is in already: who has to wait for whom."""

    timeout = 180
    MANY = 400

    def setUp(self) -> None:
        self.turns = 0
        self.seen: list[tuple[int, Protocol]] = []  #: who was read from or ended, in which turn
        self.made: list[tuple[int, Any]] = []  #: who came in, in which turn
        self._count()

    def _count(self) -> None:
        self.turns += 1
        self._call = reactor.callLater(0, self._count)

    def tearDown(self) -> Any:
        self._call.cancel()
        for _, one in self.made:
            one.transport.abortConnection()
        return until(lambda: not readables(), "all to be gone")

    async def crowd(self) -> tuple[list[socket.socket], Any]:
        """Lets many in, of whom the last is admitted. Their sockets, and the server's end of the last."""
        case = self

        class Counted(Protocol):
            """Notes when it is made, read from and gone."""

            def connectionMade(self) -> None:
                case.made.append((case.turns, self))

            def dataReceived(self, data: bytes) -> None:
                case.seen.append((case.turns, self))

            def connectionLost(self, reason: Failure = _DONE) -> None:
                case.seen.append((case.turns, self))

        factory = Factory.forProtocol(Counted)
        factory.noisy = False
        port = corked(reactor).listenTCP(0, factory, backlog=2 * self.MANY, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        sockets = [socket.create_connection(("127.0.0.1", port.getHost().port)) for _ in range(self.MANY)]
        for each in sockets:
            self.addCleanup(each.close)
        await until(lambda: len(self.made) == self.MANY, "all to be in")
        member: Any = self.made[-1][1]
        member.transport.admit()
        return sockets, member

    def at_once(self, act: Callable[[], None]) -> None:
        """Has the server meet all of what they do in the same moment."""
        for _, one in self.made:
            one.transport.pauseProducing()
        act()
        for _, one in self.made:
            one.transport.resumeProducing()

    async def test_a_crowd_is_let_in_by_and_by(self) -> None:
        """If this fails, those who come back from a lost network are let in in one long turn, and all others wait for its end."""
        await self.crowd()
        turns = Counter(turn for turn, _ in self.made)
        assert max(list(turns.values())[1:]) <= 2 * ACCEPTS_AT_ONCE, turns

    async def test_who_is_in_does_not_wait_for_newcomers(self) -> None:
        """If this fails, a message waits for the logins of ten thousand others."""
        sockets, member = await self.crowd()
        self.at_once(lambda: [each.send(b"let me in") for each in sockets] and None)
        await until(lambda: len(self.seen) == self.MANY, "all to be read")
        order = [one for _, one in self.seen]
        assert order.index(member) <= NEWCOMERS_AT_ONCE
        assert max(Counter(turn for turn, one in self.seen if one is not member).values()) <= NEWCOMERS_AT_ONCE

    async def test_who_is_in_does_not_wait_for_those_who_have_gone(self) -> None:
        """If this fails, a message waits while the server clears up after ten thousand lost connections."""
        sockets, member = await self.crowd()
        for _, one in self.made:
            one.transport.admit()
        self.at_once(lambda: [each.close() for each in sockets[:-1]] and sockets[-1].send(b"hello") and None)
        await until(lambda: len(self.seen) == self.MANY, "all to be gone but one")
        order = [one for _, one in self.seen]
        assert order.index(member) <= 2 * ENDS_AT_ONCE
        assert max(Counter(turn for turn, _ in self.seen).values()) <= 2 * ENDS_AT_ONCE


def held(pump: Pump) -> int:
    """All bytes that a server holds for one connection."""
    return 0 if pump.transport is None else sum(map(len, pump.out)) + unsent(pump.transport)


class Watch:
    """Adds up, in every reactor turn, what a pump holds; `most` is the highest."""

    def __init__(self, case: TestCase, pump: Pump) -> None:
        self.most = 0
        self._pump = pump
        self._call: Any = None
        self._look()
        case.addCleanup(self.stop)

    def _look(self) -> None:
        self.most = max(self.most, held(self._pump))
        self._call = reactor.callLater(0, self._look)

    def stop(self) -> None:
        if self._call.active():
            self._call.cancel()


BUDGET = 64 * 1024
#: A window that does not matter, so that the budget does.
WIDE = Limits(window=60_000, write_budget=BUDGET)
#: A budget that is more than the kernel takes, so that something is certain to wait.
ROOMY = Limits(window=60_000, write_budget=1 << 20)


class Writing(Served):
    """What leaves a server, and when."""

    def pump(self, raw: Raw) -> Pump:
        """The server's end of a connection, with small buffers in the kernel."""
        pump = self.session(raw).pump
        narrow(pump.transport)
        return pump

    async def both(self, index: int) -> tuple[Raw, Raw]:
        """Alice and Bob, on a plain connection (0) or on TLS (1)."""
        alice, bob = [await self.user(uid, index=index, tls=bool(index)) for uid in ("alice", "bob")]
        return alice, bob

    async def stuff(self, alice: Raw, raw: Raw, much: int = 1 << 19) -> int:
        """Has a device stop reading, and sends to it until much waits; gives how many messages that took."""
        pump, sent = self.pump(raw), 0
        raw.transport.pauseProducing()
        while held(pump) < much:
            await alice.send(raw.uid, b"%20000d" % sent)
            sent += 1
        assert unsent(pump.transport) > 0, "there is something that the socket has not taken"
        return sent

    async def test_one_write_for_each_connection_and_turn(self) -> None:
        """If this fails, a server does many times the work that it should."""
        await self.serve(listen=(PLAIN, tls()))
        for index in (0, 1):
            alice, bob = await self.both(index)
            await gatherResults([alice.settle(), bob.settle()])
            sends: dict[str, list[int]] = {}
            for raw in (alice, bob):
                direct = below(self.session(raw).pump.transport)
                noted = sends[raw.uid] = []

                def send(data: bytes, real: Callable[[bytes], int] = direct.socket.send, noted: list[int] = noted) -> int:
                    noted.append(len(data))
                    return real(data)

                direct.socket = Sending(direct.socket, send)
            writes, frames = self.server.counters.writes, self.server.counters.frames_out
            requests = [alice.request(Command.MESSAGE, **alice.message_values("bob", b"hello")) for _ in range(30)]
            requests.append(alice.request(Command.PING))
            alice.write(b"".join(data for _, data in requests))
            await gatherResults([alice.answer(request_id) for request_id, _ in requests])
            assert [len(noted) for noted in sends.values()] == [1, 1]
            assert self.server.counters.writes == writes + 2
            assert self.server.counters.frames_out == frames + 61
            await bob.settle()
            assert len(bob.messages()) == 30
            await gatherResults([alice.close(), bob.close()])

    async def test_a_slow_reader_costs_its_budget_and_nobody_else(self) -> None:
        """If this fails, one phone in a tunnel fills the server's memory, holds up other people, or loses what was sent meanwhile."""
        await self.serve(listen=(PLAIN, tls()), limits=WIDE)
        for index in (0, 1):
            alice, bob = await self.both(index)
            watch, pump = await self.user("bob"), self.pump(bob)
            counters, before, seen = self.server.counters, self.server.counters.behind, Watch(self, pump)
            bob.transport.pauseProducing()
            conversation = 0
            sent = 0
            after = 20
            while after:  # until it is behind, and on
                answer = await alice.send("bob", b"%4096d" % sent)
                sent, conversation = sent + 1, answer.conversation
                assert (await watch.told(Command.MESSAGE)).seq == answer.seq, "who reads gets it at once"
                after -= counters.behind > before
            assert counters.behind == before + 1
            assert seen.most > BUDGET // 2, "not much was held"
            assert seen.most < BUDGET + 1024, "with what the socket did not take, and the word that it is behind"
            held_now = held(pump)
            for _ in range(20):
                await alice.send("bob", b"%4096d" % sent)
                sent += 1
            assert held(pump) <= held_now, "it gets nothing more"

            bob.transport.resumeProducing()
            await bob.settle()
            told = [got.command for got in bob.got]
            assert told.count(Command.SYNC) == 1
            assert told == [Command.MESSAGE] * (len(told) - 1) + [Command.SYNC], "nothing is pushed to who is behind"
            assert [row.seq for row in bob.messages()] == list(range(1, len(told)))
            bob.got.clear()
            bob.acknowledge()
            (row,) = (await bob.sync()).conversations
            assert row.head == sent
            rows = await bob.everything(conversation, len(told))
            assert [int(row.content) for row in rows] == list(range(len(told) - 1, sent))
            await alice.send("bob", b"live again")
            assert (await bob.told(Command.MESSAGE)).content == b"live again"
            await gatherResults([raw.close() for raw in (alice, bob, watch)])
            await until(lambda: not self.server.node.sessions, "the sessions to end")
            await self.serve(listen=(PLAIN, tls()), limits=WIDE)

    async def test_who_asks_and_does_not_read(self) -> None:
        """If this fails, a client fills the server's memory with answers that it does not take."""
        long, size = 0x7F02, 10_000

        def echo(session: Session, received: Frame) -> None:
            session.pump.write(frame(Kind.RESPONSE, long, bytes(size), received[1]))

        features = (*FEATURES, lambda node: node.register(Kind.REQUEST, long, echo))
        await self.serve(listen=(PLAIN, tls()), limits=WIDE, features=features)
        ping, question = request(Command.PING, 1)[:8], frame(Kind.REQUEST, long)[:8]
        for index, header, count in ((0, ping, 20_000), (1, ping, 20_000), (0, question, 120), (1, question, 120)):
            alice, bob = await self.both(index)
            pump = self.pump(bob)
            seen, counters = Watch(self, pump), self.server.counters
            bob.transport.pauseProducing()
            before = counters.frames_in
            asked = [header + request_id.to_bytes(4, "big") + bytes(4) for request_id in range(100, 100 + count)]
            settled = 0
            while asked and header is question:  # one in each read
                bob.write(asked.pop(0))
                await alice.settle()
                settled += 1
            bob.write(b"".join(asked))
            await until(lambda pump=pump: pump.clogged, "much to be asked")
            for _ in range(100):
                await alice.settle()
                settled += 1
            taken = counters.frames_in - before - settled
            assert taken < count, "not all is taken from who does not read"
            assert seen.most < 5 * BUDGET, "what came in one read may be answered still"
            bob.transport.resumeProducing()
            await until(lambda bob=bob, count=count: len(bob.got) == count, "all answers")
            assert [got.request_id for got in bob.got] == list(range(100, 100 + count)), "in order, once it reads"
            seen.stop()
            await gatherResults([alice.close(), bob.close()])
            await until(lambda: not self.server.node.pumps, "the connections to end")

    async def test_a_long_row_of_large_answers(self) -> None:
        """If this fails, a small packet with many questions makes the server hold megabytes, and stops it for everybody else."""
        await self.serve(limits=WIDE)
        alice, bob = await self.both(0)
        for number in range(12):
            await alice.send("bob", bytes([number]) * 60_000)
        await bob.settle()
        bob.got.clear()
        seen = Watch(self, self.pump(bob))
        asked = [bob.request(Command.HISTORY, conversation=1, first=n % 12 + 1, last=99, limit=1, direction=0) for n in range(300)]
        bob.write(b"".join(data for _, data in asked))
        pings = 0
        answered = gatherResults([bob.answer(request_id) for request_id, _ in asked])
        while not answered.called:
            await alice.settle()
            pings += 1
        assert [answer.messages[0].seq for answer in await answered] == [n % 12 + 1 for n in range(300)]
        assert seen.most < 2 * BUDGET, "one answer at a time"
        assert pings > 100, "others are served in between"

    async def test_a_burst_of_small_frames(self) -> None:
        """If this fails, whoever sends thousands of small packets at once makes all others wait until the last is done; a stranger too. Or
        some are lost, or answered in another order."""
        await self.serve()
        alice, bob, stranger = await self.user("alice"), await self.user("bob"), await self.greeted()
        sync = {"since": 0, "after": 0, "limit": 0, "scope": 0}
        mixed = [request(Command.SYNC, n, **sync) if n % 1000 == 999 else request(Command.PING, n) for n in range(100, 8100)]
        pings = [request(Command.PING, n) for n in range(100, 1100)]
        for raw, burst, share in ((bob, mixed, FRAMES_AT_ONCE), (stranger, pings, NEWCOMER_FRAMES_AT_ONCE)):
            counters, most = self.server.counters, 0
            raw.write(b"".join(burst))
            while len(raw.got) < len(burst):
                before = counters.frames_out
                await alice.settle()
                most = max(most, counters.frames_out - before)
            assert [got.request_id for got in raw.got] == list(range(100, 100 + len(burst)))
            assert all(got.status == 0 for got in raw.got)
            assert most <= 8 * share, "others have their turn after a few of its own"

    async def test_who_stops_reading_and_who_reads_slowly(self) -> None:
        """If this fails, a phone whose network is gone keeps its place and its megabyte for as long as it likes; or one on a slow network
        is thrown out again and again, and never gets its messages."""
        hand = Hand()
        await self.serve(listen=(PLAIN, tls()), limits=ROOMY, hand=hand)
        for index in (0, 1):
            alice, slow = await self.both(index)
            deaf = await self.user("deaf", index=index, tls=bool(index))
            below(slow.transport).getHandle().setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32768)
            await self.stuff(alice, deaf)
            sent = await self.stuff(alice, slow, 900_000)
            stopped, going = self.pump(deaf), self.pump(slow)
            lasted = seconds = 0
            for seconds in range(5, 41, 5):
                before = held(going)

                def read(going: Pump = going, before: int = before, slow: Raw = slow) -> bool:
                    """The kernel has new bytes for those that leave, so it holds about the same whenever the server looks."""
                    sip(slow, 1000)
                    return held(going) < before - 50_000

                await until(read, "bytes to move")
                for _ in range(20):
                    hand.advance(0.25)
                await alice.settle()
                lasted = seconds if stopped in self.server.node.pumps else lasted
            assert going.clogged, "it was slow all the time"
            assert going in self.server.node.pumps, index
            assert stopped not in self.server.node.pumps, index
            assert 15 <= lasted <= 30, "it had its time"
            slow.transport.resumeProducing()
            await slow.settle()
            assert [int(row.content) for row in slow.messages()] == list(range(sent))
            deaf.transport.resumeProducing()
            await deaf.ended()
            assert not any(got.is_(Kind.NOTIFY, Command.DISCONNECT) for got in deaf.got), "there is no way to tell it"
            await gatherResults([alice.close(), slow.close()])
            await until(lambda: not self.server.node.pumps, "the connections to end")

    async def test_everything_arrives_before_the_end(self) -> None:
        """If this fails, the last messages before a kick or a shutdown, or the reason for it, are lost."""
        await self.serve(listen=(PLAIN, tls()), limits=ROOMY)
        for index in (0, 1):
            alice, bob = await self.both(index)
            tablet = await self.user("bob")
            sent = await self.stuff(alice, bob)
            bob.write(b"".join(bob.request(Command.PING)[1] for _ in range(3)))  # what still comes is not answered any more
            await tablet.ask(Command.KICK, device=bob.device)
            await alice.send("bob", b"too late")
            bob.transport.resumeProducing()
            assert await bob.disconnected() is Disconnect.KICKED
            assert [int(row.content) for row in bob.messages()] == list(range(sent))
            assert [got.command for got in bob.got if got.command != Command.PING] == [Command.DISCONNECT]
            assert bob.lost is not None
            await gatherResults([alice.close(), tablet.close()])
            await until(lambda: not self.server.node.pumps, "the connections to end")
            await self.serve(listen=(PLAIN, tls()), limits=ROOMY)

    async def test_a_server_that_stops(self) -> None:
        """If this fails, a restart loses messages that were taken, or leaves clients without an answer, or never ends."""
        hand = Hand()
        await self.serve(listen=(PLAIN, tls()), limits=ROOMY, hand=hand)
        alice, bob = await self.both(0)
        deaf, stranger, early = await self.user("deaf", index=1, tls=True), await self.greeted(index=1, tls=True), await self.connect()
        await self.stuff(alice, deaf)
        requests = [alice.request(Command.MESSAGE, **alice.message_values("bob", b"%d" % n)) for n in range(50)]
        taken = self.server.counters.frames_in
        alice.write(b"".join(data for _, data in requests))
        answers = [alice.answer(request_id) for request_id, _ in requests]
        await until(lambda: self.server.counters.frames_in == taken + 50, "them to be read")
        stopped = self.server.stopService()
        assert [answer.seq for answer in await gatherResults(answers)] == list(range(1, 51))
        for raw in (alice, bob, stranger, early):
            assert await raw.disconnected() is Disconnect.SHUTTING_DOWN
            assert (raw.got[-1].values.come_back, raw.got[-1].values.retry_after) == (1, 1000)
        assert [row.seq for row in bob.messages()] == list(range(1, 51))
        assert not stopped.called, "one has not heard yet"
        hand.advance(5.5)
        await stopped
        assert not self.server.node.pumps

    async def test_a_cut_with_bytes_on_their_way(self) -> None:
        """If this fails, connections that had to be cut stay for ever, with all that waits for them."""
        await self.serve(listen=(PLAIN, tls()), limits=ROOMY)
        for index in (0, 1):
            alice, bob = await self.both(index)
            pump = self.pump(bob)
            await self.stuff(alice, bob)
            pump.abort()
            pump.abort()
            await alice.send("bob", bytes(4096))
            await until(lambda: len(self.server.node.pumps) == 1, "the connection to end")
            assert len(self.server.node.sessions) == 1
            bob.transport.resumeProducing()
            await bob.ended()
            assert not any(got.is_(Kind.NOTIFY, Command.DISCONNECT) for got in bob.got)
            await alice.send("bob", b"still there?")
            await alice.close()
            await until(lambda: not self.server.node.pumps, "the connections to end")
            await self.serve(listen=(PLAIN, tls()), limits=ROOMY)

    async def test_who_does_not_take_the_goodbye(self) -> None:
        """If this fails, a client that never reads, or goes on sending after the end, keeps its connection or fills the memory."""
        hand = Hand()
        await self.serve(listen=(PLAIN, tls()), limits=ROOMY, hand=hand)
        for index in (0, 1):
            alice, bob = await self.both(index)
            pump = self.pump(bob)
            await self.stuff(alice, bob)
            bob.write(frame(Kind.NOTIFY, Command.WINDOW, (2**63).to_bytes(8, "big")))
            await until(lambda pump=pump: pump.connection.state is State.CLOSING, "the end to begin")
            for _ in range(30):
                bob.write(b"".join(bob.request(Command.PING)[1] for _ in range(4000)))
                await alice.settle()
            assert not pump._held, "what comes after the end is not kept"
            assert pump in self.server.node.pumps, index
            hand.advance(4.5)
            await alice.settle()
            assert pump in self.server.node.pumps, index
            hand.advance(1)
            await until(lambda pump=pump: pump not in self.server.node.pumps, "it to be cut")
            await gatherResults([alice.close(), bob.close()])


class Waiting(Served):
    """Commands that take their time, and clocks that go on meanwhile."""

    SLOW = 0x7F01

    async def asked(self, **arguments: Any) -> list[Deferred[Any]]:
        """A server with a command that waits until the test lets it go on; gives those that wait."""
        waiting: list[Deferred[Any]] = []

        def slow(session: Session, received: Frame) -> Deferred[Any]:
            waiting.append(Deferred())
            return waiting[-1].addCallback(lambda _: session.pump.write(frame(Kind.RESPONSE, self.SLOW, b"", received[1])))

        await self.serve(features=(*FEATURES, lambda node: node.register(Kind.REQUEST, self.SLOW, slow)), **arguments)
        return waiting

    def slow(self, request_id: int) -> bytes:
        """A request of that command."""
        return frame(Kind.REQUEST, self.SLOW, b"", request_id)

    async def test_order_is_kept(self) -> None:
        """If this fails, what somebody sends behind a slow request overtakes it, or is lost."""
        waiting = await self.asked()
        alice, bob = await self.user("alice"), await self.user("bob")
        ids = [n * 10 for n in range(1, 7)]
        values = [alice.message_values("bob", b"%d" % n) for n in range(3)]
        parts = [
            self.slow(ids[0]),
            request(Command.MESSAGE, ids[1], **values[0]),
            self.slow(ids[2]) + request(Command.MESSAGE, ids[3], **values[1]),
            request(Command.SYNC, ids[4], since=0, after=0, limit=0, scope=0)[:20],
            request(Command.SYNC, ids[4], since=0, after=0, limit=0, scope=0)[20:] + request(Command.MESSAGE, ids[5], **values[2]),
        ]
        for part in parts:  # in several reads, the first of which waits already
            alice.write(part)
            await bob.settle()
        assert len(waiting) == 1
        assert not alice.got
        assert not bob.got
        waiting[0].callback(None)
        await until(lambda: len(waiting) == 2, "the second one to begin")
        await until(lambda: len(alice.got) == 2, "the answers up to there")
        assert (await bob.told(Command.MESSAGE)).content == b"0"
        await bob.settle()
        assert not bob.got
        waiting[1].callback(None)
        await alice.settle()
        assert [got.request_id for got in alice.got][:3] == ids[:3]
        assert sorted(got.request_id for got in alice.got) == ids, "a sync is answered at once, a message when the store has it"
        assert [got.status for got in alice.got] == [0] * 6
        assert [(await bob.told(Command.MESSAGE)).content for _ in range(2)] == [b"1", b"2"]

    async def test_failures_of_slow_commands(self) -> None:
        """If this fails, a command that fails late leaves its client waiting for ever, or takes others with it."""
        waiting = await self.asked()
        alice, bob, carol = [await self.user(uid) for uid in ("alice", "bob", "carol")]
        for number, raw in enumerate((alice, bob, carol), 1):
            raw.write(self.slow(77))
            await until(lambda number=number: len(waiting) == number, "it to wait")
        for raw in (bob, carol):
            raw.write(raw.request(Command.PING)[1])
        carol.close()
        waiting[0].errback(ImError(Status.BUSY, "later", 50))
        error = await refusal(alice.answer(77))
        assert (error.code, error.reason, error.retry_after, error.temporary) == (Status.BUSY, "later", 50, True)
        await alice.settle()
        waiting[1].errback(RuntimeError("a secret of the server's"))
        assert await bob.disconnected() is Disconnect.INTERNAL
        assert bob.got[-1].values.come_back
        assert b"secret" not in bob.got[-1].values.reason, "what it was stays in the log"
        assert len(bob.got) == 1, "nothing behind it was answered"
        assert len(self.flushLoggedErrors(RuntimeError)) == 1
        waiting[2].callback(None)  # for a connection that is gone
        await alice.settle()

    async def test_the_time_in_which_nothing_is_read_does_not_count(self) -> None:
        """If this fails, a store that was away for a while costs everybody their connections when it is back."""
        hand = Hand()
        waiting = await self.asked(hand=hand)
        alice, bob = await self.user("alice"), await self.user("bob")
        await bob.send("alice", b"hello")  # alice does not acknowledge it
        await alice.settle()
        alice.write(alice.request(Command.PING)[1][:7])  # a frame that has begun
        await until(lambda: self.session(alice).connection.partial, "the beginning to arrive")
        hand.advance(10.1)
        asked = await alice.first(lambda got: got.is_(Kind.REQUEST, Command.PING), "a ping, since nothing was acknowledged")
        pong = frame(Kind.RESPONSE, Command.PING, bytes(8), asked.request_id)
        alice.write(alice.request(Command.PING)[1][7:] + self.slow(99) + pong[:9])
        await until(lambda: waiting, "it to wait")
        for _ in range(40):
            hand.advance(10)
        waiting[0].callback(None)
        await alice.answer(99)
        hand.advance(1)  # a look at the deadlines, before the answer to the ping has come
        await bob.settle()
        assert alice.lost is None
        alice.write(pong[9:])
        alice.acknowledge()
        await alice.settle()
        hand.advance(14)
        await alice.settle()
        assert self.server.counters.disconnects == 0

    async def test_a_pulled_cable(self) -> None:
        """If this fails, messages go to a phone that is gone for as long as a heartbeat takes, and its user seems to be online."""
        hand = Hand()
        await self.serve(hand=hand)
        alice, gone, slow, quiet = [await self.user(uid) for uid in ("alice", "bob", "bob", "carol")]
        await alice.send("bob", b"hello")
        await gatherResults([raw.settle() for raw in (gone, slow)])
        hand.advance(10.1)
        for raw in (gone, slow):
            await raw.first(lambda got: got.is_(Kind.REQUEST, Command.PING), "a ping, since nothing was acknowledged")
        slow.write(frame(Kind.RESPONSE, Command.PING, bytes(8), 1))
        await slow.settle()
        hand.advance(5.5)
        assert await gone.disconnected() is Disconnect.UNRESPONSIVE
        assert gone.got[-1].values.come_back
        await slow.settle()
        assert (slow.lost, quiet.lost) == (None, None)
        hand.advance(451)
        assert await quiet.disconnected() is Disconnect.HEARTBEAT_TIMEOUT
