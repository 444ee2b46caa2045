"""The load in Python: the loop of `benchmarks/limit/load.c`, for TLS, for several nodes, and for machines without a C compiler.

Strategy: as in C — one thread, epoll, one recv and one send for each readiness event, everything done on the connection on which it
came — over the readers and packers of `twisted_im.wire`. Options and output are those of the C program, so that whoever starts
them need not care which one it is. TLS runs over memory BIOs, so that it too makes one recv and one send for an event.

With a rate, messages leave by a timetable, user after user, and one that has to wait, for its user's window or for this program, counts
as sent when it was due: otherwise a server that stalls would be asked less just then ("coordinated omission", G. Tene).

With several ports the users are spread over as many nodes, and each writes to somebody at home and to somebody abroad by turns, as the
locality says. All that a user has in flight shares one window, so no node is asked for more than its share because it answers sooner.

    python -m benchmarks.load_loop --port 7777 --pid 4242 --users 1000 --window 8 --payload 100 --seconds 5
"""

from __future__ import annotations

import argparse
import gc
import json
import select
import socket
import ssl
import struct
import sys
import time
from collections.abc import Callable
from typing import NoReturn

from benchmarks.servers import cpu_seconds, rss_kib
from twisted_im.errors import Status
from twisted_im.wire.codec import ERROR, codec, flat, notify, request, response, tag
from twisted_im.wire.framing import Frame, FrameReader
from twisted_im.wire.schema import DEFAULT_MAX_BODY, VERSION, Command, ContentType, Kind, LoginMethod, ReceiptType

READ_SIZE = 64 * 1024
SETTLE = 0.2  #: seconds between the last login and the look at the idle memory
SECOND = 1_000_000_000
GOLDEN = 0.618034  #: spreads the users' turns evenly, however many there are

# Request ids: sessions and receipts are odd, messages even (twice their number).
HELLO_ID, LOGIN_ID, LOGOUT_ID, FIRST_RECEIPT_ID = 1, 3, 5, 7

# RFC 9562: the version's and the variant's bits of a UUIDv7.
VERSION_7, VARIANT = 7 << 12, 2 << 62

_MESSAGE_NOTIFY = tag(Kind.NOTIFY, Command.MESSAGE)
_MESSAGE_RESPONSE = tag(Kind.RESPONSE, Command.MESSAGE)
_MESSAGE_REQUEST = tag(Kind.REQUEST, Command.MESSAGE)
_RECEIPT_NOTIFY = tag(Kind.NOTIFY, Command.RECEIPT)
_RECEIPT_RESPONSE = tag(Kind.RESPONSE, Command.RECEIPT)
_RECEIPT_REQUEST = tag(Kind.REQUEST, Command.RECEIPT)

_pack_message, _message_size = flat(Kind.REQUEST, Command.MESSAGE)
_pack_receipt, _receipt_size = flat(Kind.REQUEST, Command.RECEIPT)
_read_accepted = codec(Kind.RESPONSE, Command.MESSAGE).fixed.unpack_from
_read_message = codec(Kind.NOTIFY, Command.MESSAGE).fixed.unpack_from
_read_receipt = codec(Kind.NOTIFY, Command.RECEIPT).fixed.unpack_from
_message_notify_size = codec(Kind.NOTIFY, Command.MESSAGE).fixed.size
_client_id = struct.Struct(">QQ")


class LoadError(Exception):
    """The load could not be brought to its end; the text is one line for people."""


class UnfitError(LoadError):
    """The server's own bounds rule this load out."""


class Flight:
    """A message in flight: its conversation, and its seq (0 until the server has answered)."""

    __slots__ = ("seq", "talk")

    def __init__(self, talk: Talk | None) -> None:
        self.seq = 0
        self.talk = talk


class Talk:
    """One side of a conversation of two."""

    __slots__ = (
        "accepted_seq",
        "conversation",
        "expected",
        "expected_tail",
        "index",
        "partner",
        "receipted_seq",
        "received_seq",
        "sent",
        "sent_at",
        "user",
    )

    partner: Talk

    def __init__(self, index: int, user: User, window: int) -> None:
        self.index = index
        self.user = user
        self.sent = 0  #: number of the newest message sent
        self.sent_at = [0] * window  #: when message n left (ns), at n % window
        self.expected = 1  #: the number that the partner's next message must have
        self.expected_tail = b""  #: what stands after the fixed fields of the partner's messages
        self.conversation = 0  #: 0 until the first answer
        self.accepted_seq = 0  #: of one's own newest accepted message
        self.received_seq = 0  #: of the partner's newest message
        self.receipted_seq = 0  #: up to where the partner has receipted


class Tls:
    """The TLS of one connection, between two memory BIOs."""

    __slots__ = ("_incoming", "_object", "_outgoing", "_waiting", "shaken")

    def __init__(self, context: ssl.SSLContext) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._object = context.wrap_bio(self._incoming, self._outgoing, server_hostname="localhost")
        self._waiting = b""
        self.shaken = False

    def received(self, data: bytes) -> bytes:
        """Takes bytes from the socket; gives the plain ones."""
        self._incoming.write(data)
        if not self.shaken:
            try:
                self._object.do_handshake()
            except ssl.SSLWantReadError:
                return b""
            self.shaken = True
            self._object.write(self._waiting)
        parts = []
        try:
            while part := self._object.read(READ_SIZE):
                parts.append(part)
        except ssl.SSLWantReadError:
            pass
        return b"".join(parts)

    def sealed(self, data: bytes) -> bytes:
        """Takes plain bytes; gives all that is now to be sent, the handshake's own bytes included."""
        if self.shaken:
            if data:
                self._object.write(data)
        else:
            self._waiting += data
            try:
                self._object.do_handshake()
            except ssl.SSLWantReadError:
                pass
        return self._outgoing.read()


class User:
    """One user: its connection, and the counters that say where it is."""

    __slots__ = (
        "abroad",
        "acked",
        "blocked",
        "done",
        "ended",
        "flights",
        "from_partner",
        "half_window",
        "home",
        "index",
        "live",
        "named",
        "next",
        "node",
        "notifies",
        "reader",
        "receipt_id",
        "sent",
        "sock",
        "tail",
        "tls",
        "uid",
    )

    next: Talk
    sock: socket.socket

    def __init__(self, index: int, node: int, window: int) -> None:
        self.index = index
        self.node = node  #: the number of its node, from 0
        self.home: Talk | None = None  #: with somebody on the same node
        self.abroad: Talk | None = None  #: with somebody on another one
        self.from_partner: dict[int, Talk] = {}  #: by the number of the partner's side
        self.named: dict[int, Talk] = {}  #: by the number of the conversation
        self.uid = b"u%d" % index
        self.tls: Tls | None = None
        self.reader = FrameReader(DEFAULT_MAX_BODY)
        self.tail = b""  #: what the socket did not take
        self.blocked = self.live = self.ended = False
        self.sent = self.done = 0  #: numbers of the newest message sent, and of the newest that is no longer in flight
        self.notifies = self.acked = 0
        self.receipt_id = FIRST_RECEIPT_ID
        self.half_window = 1
        self.flights = [Flight(None)] * window  #: of message n at n % window

    def turn(self, locality: float) -> None:
        """Decides whom the next message is for: of any row of messages, just the share that the locality says stays at home."""
        if self.home is None or self.abroad is None:
            self.next = self.home or self.abroad  # type: ignore[assignment]  # everybody has one of the two
            return
        begin = self.sent + self.index * GOLDEN  # so that not all are at home at once
        self.next = self.home if int((begin + 1) * locality) > int(begin * locality) else self.abroad


def seats(users: int, nodes: int) -> list[int]:
    """The node of each user. Users 2n and 2n + 1 are pairs across nodes; each two nodes share as many pairs, as near as it goes."""
    found = []
    for pair in range(users // 2):
        first = pair % nodes
        step = 1 + pair // nodes % (nodes - 1) if nodes > 1 else 0
        found += [first, (first + step) % nodes]
    return found


class Load:
    """The whole load, on one server or on several nodes.

    Args:
        options: what `parser()` reads.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.window: int = options.window
        self.interval = SECOND / options.rate if options.rate else 0.0  #: ns between two messages of all; 0 as fast as it goes
        self.slot = 0  #: the next place in the timetable
        self.pace_began = 0
        self.content = bytes(b"abcdefghijklmnopqrstuvwxyz"[i % 26] for i in range(options.payload))
        self.context = ssl.create_default_context(cafile=options.ca) if options.ca else None
        self.poll = select.epoll()
        self.locality: float = options.locality if len(options.port) > 1 else 1.0
        self.users = [User(index, node, self.window) for index, node in enumerate(seats(options.users, len(options.port)))]
        self.talks = 0
        if self.locality < 1:
            for one, two in zip(self.users[::2], self.users[1::2], strict=True):
                one.abroad, two.abroad = self._introduce(one, two)
        if self.locality > 0:
            for node in range(len(options.port)):
                here = [user for user in self.users if user.node == node]
                for one, two in zip(here[::2], here[1::2], strict=True):
                    one.home, two.home = self._introduce(one, two)
        for user in self.users:
            user.turn(self.locality)
        self.at: dict[int, User] = {}
        self.now = self.last_frame_at = time.monotonic_ns()
        self.clock_offset_ms = (time.time_ns() - self.now) // 1_000_000
        self.connected = self.live = self.ended = 0
        self.sending = self.ending = self.measuring = False
        self.sent = self.accepted = self.delivered = self.receipted = 0
        self.receipts = self.receipts_told = self.duplicates = self.faults = 0
        self.first_fault = ""
        self.histogram = [0] * (64 * 64)

    def _introduce(self, one: User, two: User) -> tuple[Talk, Talk]:
        """A conversation of two users."""
        talk, other = Talk(self.talks, one, self.window), Talk(self.talks + 1, two, self.window)
        self.talks += 2
        talk.partner, other.partner = other, talk
        for side in (talk, other):
            side.expected_tail = side.partner.user.uid + self.content
            side.user.from_partner[side.partner.index] = side
        return talk, other

    def run(self) -> dict[str, object]:
        """Logs all in, loads, measures, lets all that is in flight come in, and logs all out.

        Returns:
            What was measured, under the names that stand in the output.

        Raises:
            LoadError: the server refused something, closed a connection, or fell silent.
        """
        options, patience = self.options, self.options.patience
        rss_before, login_began = self._server_rss_kib(), time.monotonic_ns()
        if not self._turn_until(lambda: self.live == len(self.users), self._connect_some):
            raise LoadError(f"{self.live} of {len(self.users)} users are logged in, and nothing has come for {patience:g} s")
        login_seconds = (self.now - login_began) / SECOND
        self._run_for(SETTLE)
        rss_after = self._server_rss_kib()

        self.sending = True
        self.now = self.pace_began = time.monotonic_ns()
        for user in self.users:
            out: list[bytes] = []
            self._fill_window(user, out)
            self._flush(user, out)
        self._run_for(options.warmup)
        self.measuring = True
        began, delivered_before = time.monotonic_ns(), self.delivered
        cpu_before, own_before = self._server_cpu(), time.process_time()
        self._run_for(options.seconds)
        self._turn_until(lambda: self.delivered > delivered_before)  # a machine that stood still has more time: no figures come of nothing
        delivered = self.delivered - delivered_before
        cpus = [after - before for after, before in zip(self._server_cpu(), cpu_before, strict=True)]
        cpu, own = sum(cpus), time.process_time() - own_before
        measured = (time.monotonic_ns() - began) / SECOND
        self.measuring = self.sending = False

        if self._turn_until(self._drained):
            self.ending = True
            for user in self.users:
                self._flush(user, [request(Command.LOGOUT, LOGOUT_ID)])
            if not self._turn_until(lambda: self.ended == len(self.users)):
                raise LoadError(f"{self.ended} of {len(self.users)} users are logged out, and nothing has come for {patience:g} s")
        per_message = 1e6 / delivered if delivered else 0.0
        return {
            "driver": "python",
            "users": len(self.users),
            "window": self.window,
            "payload": options.payload,
            "seconds": round(measured, 3),
            "delivered_per_s": round(delivered / measured, 1),
            "cpu_us_per_message": round(cpu * per_message, 3),
            "cpu_us_of_each": [round(each * per_message, 3) for each in cpus],
            "load_cpu_us_per_message": round(own * per_message, 3),
            "server_core_share": round(cpu / measured, 3),
            "load_core_share": round(own / measured, 3),
            "p50_ms": round(self._percentile_ms(0.5), 4),
            "p99_ms": round(self._percentile_ms(0.99), 4),
            "p999_ms": round(self._percentile_ms(0.999), 4),
            "rss_kib_per_connection": round((rss_after - rss_before) / len(self.users), 3),
            "logins_per_s": round(len(self.users) / login_seconds, 1),
            "sent": self.sent,
            "accepted": self.accepted,
            "delivered": self.delivered,
            "receipted": self.receipted,
            "receipts_told": self.receipts_told,
            "duplicates": self.duplicates,
            "errors": self.faults,
            "first_error": self.first_fault,
            "histogram_ms": [[round(_bucket_ms(bucket), 4), count] for bucket, count in enumerate(self.histogram) if count],
        }

    def _connect_some(self) -> None:
        while self.connected < len(self.users) and self.connected - self.live < self.options.logins:
            self._connect(self.users[self.connected])
            self.connected += 1

    def _connect(self, user: User) -> None:
        user.sock = sock = socket.socket()
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            sock.connect(("127.0.0.1", self.options.port[user.node]))
        except BlockingIOError:
            pass
        except OSError as error:
            raise LoadError(f"u{user.index} cannot connect: {error.strerror}") from error
        hello = request(
            Command.HELLO,
            HELLO_ID,
            min_version=VERSION,
            max_version=VERSION,
            features=0,
            max_body=0,
            heartbeat=0,
            window=0,
            agent=b"load",
        )
        if self.context is not None:
            user.tls = Tls(self.context)
            hello = user.tls.sealed(hello)
        user.tail, user.blocked = hello, True  # leaves when the connection is there
        self.at[sock.fileno()] = user
        self.poll.register(sock, select.EPOLLIN | select.EPOLLOUT)

    def _turn(self, until: int) -> None:
        """One turn, at most until the given moment."""
        if self.sending and self.interval:
            self._pace()
            until = min(until, int(self.pace_began + self.slot * self.interval))
            select.select([self.poll], [], [], max(0, until - time.monotonic_ns()) / SECOND)  # epoll counts in milliseconds
            until = 0
        wait = max(0, until - time.monotonic_ns()) / SECOND
        at = self.at
        for number, events in self.poll.poll(wait, max(len(at), 1)):
            user = at[number]
            if events & select.EPOLLOUT:
                self._flush(user, [])
            if events & ~select.EPOLLOUT:
                self._on_readable(user)
        self.now = time.monotonic_ns()

    def _pace(self) -> None:
        """Whatever is due leaves, if its user's window has room."""
        self.now = time.monotonic_ns()
        due = int((self.now - self.pace_began) / self.interval) + 1
        for slot in range(self.slot, due):
            user, out = self.users[slot % len(self.users)], list[bytes]()
            self._fill_window(user, out)
            if out:
                self._flush(user, out)
        self.slot = due

    def _run_for(self, seconds: float) -> None:
        until = time.monotonic_ns() + int(seconds * SECOND)
        while time.monotonic_ns() < until:
            self._turn(until)

    def _turn_until(self, condition: Callable[[], bool], step: Callable[[], None] = lambda: None) -> bool:
        """Turns until a condition holds, as long as frames come; False if they have stopped coming."""
        patience = int(self.options.patience * SECOND)
        self.now = self.last_frame_at = time.monotonic_ns()
        while True:
            step()
            if condition():
                return True
            if self.now > self.last_frame_at + patience:
                return False
            self._turn(self.last_frame_at + patience)

    def _drained(self) -> bool:
        return self.receipts == 0 and all(user.done == user.sent for user in self.users)

    def _on_readable(self, user: User) -> None:
        try:
            data = user.sock.recv(READ_SIZE)
        except BlockingIOError:
            return
        except OSError as error:
            raise LoadError(f"u{user.index}: the connection broke: {error.strerror}") from error
        if not data:
            if not user.ended:
                raise LoadError(f"u{user.index}: the server has closed the connection")
            del self.at[user.sock.fileno()]
            user.sock.close()
            return
        self.now = self.last_frame_at = time.monotonic_ns()
        if user.tls is not None:
            try:
                data = user.tls.received(data)
            except ssl.SSLError as error:
                if user.ended:  # the server's farewell
                    return
                raise LoadError(f"u{user.index}: {error}") from error
        out: list[bytes] = []
        take = self._take
        for received in user.reader.feed(data):
            take(user, received, out)
        if user.reader.fault is not None:
            raise LoadError(f"u{user.index}: {user.reader.fault}")
        if user.notifies - user.acked >= user.half_window and user.live and not self.ending:
            out.append(notify(Command.WINDOW, count=user.notifies))
            user.acked = user.notifies
        if out or user.tls is not None:
            self._flush(user, out)

    def _flush(self, user: User, out: list[bytes]) -> None:
        """Sends what was collected; what the socket does not take waits for it."""
        data = b"".join(out)
        if user.tls is not None and user.sock.fileno() >= 0:
            data = user.tls.sealed(data)
        if user.tail:
            data = user.tail + data
        if data:
            try:
                taken = user.sock.send(data)
            except BlockingIOError:
                taken = 0
            except OSError as error:
                raise LoadError(f"u{user.index}: the connection broke: {error.strerror}") from error
            user.tail = data[taken:]
        if bool(user.tail) != user.blocked:
            user.blocked = bool(user.tail)
            self.poll.modify(user.sock, select.EPOLLIN | (select.EPOLLOUT if user.blocked else 0))

    def _take(self, user: User, received: Frame, out: list[bytes]) -> None:
        tag_, request_id, word, body = received
        if word & 0xFFFF:
            self._refused(user, tag_, word & 0xFFFF, body)
        if tag_ == _MESSAGE_NOTIFY:
            user.notifies += 1
            self._on_message(user, body, out)
        elif tag_ == _MESSAGE_RESPONSE:
            self._on_accepted(user, request_id, body, out)
        elif tag_ == _RECEIPT_NOTIFY:
            user.notifies += 1
            self._on_receipt(user, body, out)
        elif tag_ == _RECEIPT_RESPONSE:
            self.receipts -= 1
        else:
            self._take_rare(user, tag_, request_id, body, out)

    def _on_message(self, user: User, body: bytes, out: list[bytes]) -> None:
        conversation, seq, _, _, client_id, *_ = _read_message(body)
        _, half = _client_id.unpack(client_id)
        number, origin = half & 0xFFFFFFFF, half >> 32 & 0x3FFFFFFF
        talk = user.from_partner.get(origin) or user.next
        if body[_message_notify_size:] != talk.expected_tail or origin != talk.partner.index:
            self._fault(user, "sender of a message, or its content", origin, talk.partner.index)
        if talk.conversation and conversation != talk.conversation:
            self._fault(user, "conversation of a message", conversation, talk.conversation)
        if number == talk.expected:
            if seq <= talk.received_seq:
                self._fault(user, "seq of a message", seq, talk.received_seq + 1)
            talk.received_seq = seq
            talk.expected += 1
            self.delivered += 1
            if self.measuring:
                self.histogram[_bucket_of(self.now - talk.partner.sent_at[number % self.window])] += 1
        elif number > talk.expected:
            self._fault(user, "number of a message (some are missing)", number, talk.expected)
            talk.expected = number + 1
            self.delivered += 1
        else:
            self.duplicates += 1
        out.append(_pack_receipt(_receipt_size, _RECEIPT_REQUEST, user.receipt_id, conversation, seq, ReceiptType.DELIVERED))
        user.receipt_id += 2
        self.receipts += 1

    def _on_accepted(self, user: User, request_id: int, body: bytes, out: list[bytes]) -> None:
        conversation, seq, _ = _read_accepted(body)
        number = request_id >> 1
        flight = user.flights[number % self.window]
        talk = flight.talk
        if request_id & 1 or not user.done < number <= user.sent or flight.seq or talk is None:
            raise LoadError(f"u{user.index}: an answer to request {request_id}, which is not waiting for one")
        if talk.conversation and conversation != talk.conversation:
            self._fault(user, "conversation of an answer", conversation, talk.conversation)
        if seq <= talk.accepted_seq:
            self._fault(user, "seq of an answer", seq, talk.accepted_seq + 1)
        if not talk.conversation:
            talk.conversation = conversation
            user.named[conversation] = talk
        talk.accepted_seq = flight.seq = seq
        self.accepted += 1
        self._end_flights(user, out)

    def _on_receipt(self, user: User, body: bytes, out: list[bytes]) -> None:
        conversation, seq, _ = _read_receipt(body)
        talk = user.named.get(conversation)
        if talk is None:  # it has come before the answer to the first message, which is then the only one in flight
            talk = user.flights[user.sent % self.window].talk or user.next
            if talk.conversation:
                self._fault(user, "conversation of a receipt", conversation, talk.conversation)
        if seq <= talk.receipted_seq:
            self._fault(user, "seq of a receipt", seq, talk.receipted_seq + 1)
        else:
            talk.receipted_seq = seq
        self.receipts_told += 1
        self._end_flights(user, out)

    def _end_flights(self, user: User, out: list[bytes]) -> None:
        """Takes out of flight what is accepted and receipted, oldest first, and sends as many."""
        window = self.window
        while user.done != user.sent:
            flight = user.flights[(user.done + 1) % window]
            if not flight.seq or flight.seq > flight.talk.receipted_seq:  # type: ignore[union-attr]  # it is in flight
                break
            user.done += 1
            self.receipted += 1
        self._fill_window(user, out)

    def _fill_window(self, user: User, out: list[bytes]) -> None:
        """As many messages as the window lets go, and the timetable if there is one; a single one until the conversation has a name."""
        while self.sending and user.sent - user.done < self.window:
            talk = user.next
            if not talk.conversation and user.sent != user.done:
                break
            due = int(self.pace_began + (user.sent * len(self.users) + user.index) * self.interval) if self.interval else self.now
            if due > self.now:
                break
            user.sent += 1
            talk.sent += 1
            target = b"" if talk.conversation else talk.partner.user.uid
            client_id = _client_id.pack(
                (self.now // 1_000_000 + self.clock_offset_ms) << 16 | VERSION_7, VARIANT | talk.index << 32 | talk.sent
            )
            length = _message_size + len(target) + len(self.content)
            head = _pack_message(length, _MESSAGE_REQUEST, user.sent << 1, client_id, talk.conversation, ContentType.BINARY, 0, len(target))
            out += (head, target, self.content)
            user.flights[user.sent % self.window] = Flight(talk)
            talk.sent_at[talk.sent % self.window] = due
            self.sent += 1
            user.turn(self.locality)

    def _take_rare(self, user: User, tag_: int, request_id: int, body: bytes, out: list[bytes]) -> None:
        kind, command = tag_ >> 16 & 0xFF, tag_ & 0xFFFF
        if kind == Kind.NOTIFY:
            user.notifies += 1
        if tag_ == tag(Kind.RESPONSE, Command.HELLO):
            self._on_hello(user, body, out)
        elif tag_ == tag(Kind.RESPONSE, Command.LOGIN):
            user.live = True
            self.live += 1
        elif tag_ == tag(Kind.RESPONSE, Command.LOGOUT):
            user.ended = True
            self.ended += 1
        elif tag_ == tag(Kind.REQUEST, Command.PING):
            out.append(response(Command.PING, request_id, time=self.now // 1_000_000 + self.clock_offset_ms))
        elif tag_ == tag(Kind.NOTIFY, Command.SYNC):
            raise LoadError(
                f'u{user.index}: the server has left notifies out ("behind"): this machine is too slow for the load, choose fewer users'
            )
        elif tag_ == tag(Kind.NOTIFY, Command.DISCONNECT):
            if not user.ended:
                why = codec(Kind.NOTIFY, Command.DISCONNECT).read(body)
                raise LoadError(f"u{user.index}: the server ends the connection, code {why.code}: {why.reason.decode()}")
        elif kind != Kind.NOTIFY:
            raise LoadError(f"u{user.index}: an unexpected frame, kind {kind}, command {command:#06x}")

    def _on_hello(self, user: User, body: bytes, out: list[bytes]) -> None:
        agreed = codec(Kind.RESPONSE, Command.HELLO).read(body)
        most = min(agreed.requests // 2, agreed.window // 4)
        if self.window > most:
            raise UnfitError(
                f"the server takes {agreed.requests} requests and sends {agreed.window} notifies unanswered: "
                f"choose a window of at most {most}"
            )
        user.half_window = agreed.window // 2
        out.append(
            request(
                Command.LOGIN,
                LOGIN_ID,
                method=LoginMethod.ANONYMOUS,
                device=_client_id.pack(1, user.index + 1),
                tenant=b"",
                uid=user.uid,
                label=b"",
                secret=b"",
            )
        )

    def _refused(self, user: User, tag_: int, status: int, body: bytes) -> NoReturn:
        name = Status(status).name if status in list(Status) else str(status)
        reason = ERROR.read(body).reason.decode()
        raise LoadError(f"u{user.index}: the server answers a request of command {tag_ & 0xFFFF:#06x} with status {name}: {reason}")

    def _fault(self, user: User, what: str, got: int, wanted: int) -> None:
        """Something that must not be, but does not end the run."""
        self.faults += 1
        self.first_fault = self.first_fault or f"u{user.index}: {what}: {got}, where {wanted} was expected"

    def _percentile_ms(self, share: float) -> float:
        total, below = sum(self.histogram), 0
        for bucket, count in enumerate(self.histogram):
            below += count
            if total and below >= share * total:
                return _bucket_ms(bucket)
        return 0.0

    def _server_cpu(self) -> list[float]:
        """The CPU of each server so far, user and system, all threads, in seconds."""
        return self._of_servers(cpu_seconds)

    def _server_rss_kib(self) -> float:
        return sum(self._of_servers(rss_kib))

    def _of_servers(self, figure: Callable[[int], float]) -> list[float]:
        found = []
        for pid in self.options.pid:
            try:
                found.append(figure(pid))
            except OSError as error:
                raise LoadError(f"the server (process {pid}) is gone") from error
        return found


def _bucket_of(nanoseconds: int) -> int:
    """64 buckets for each power of two, so each is 1.6% wide."""
    if nanoseconds < 64:
        return nanoseconds
    shift = nanoseconds.bit_length() - 7
    return (shift + 1) * 64 + (nanoseconds >> shift & 63)


def _bucket_ms(bucket: int) -> float:
    """The middle of a bucket, in milliseconds."""
    if bucket < 64:
        return bucket / 1e6
    return (64 + bucket % 64 + 0.5) * 2.0 ** (bucket // 64 - 1) / 1e6


def parser() -> argparse.ArgumentParser:
    """The options: those of the C program, --ca, and what is for several nodes."""

    def numbers(text: str) -> list[int]:
        return [int(part) for part in text.split(",")]

    summary = "Loads a server, or several nodes, with pairs of users."
    made = argparse.ArgumentParser(prog="python -m benchmarks.load_loop", description=summary)
    made.add_argument("--port", type=numbers, required=True, help="the server's port on 127.0.0.1; of each node, with commas between")
    made.add_argument("--pid", type=numbers, required=True, help="the processes whose CPU and memory are read")
    made.add_argument("--users", type=int, default=1000, help="an even number; with several nodes, a multiple of twice theirs")
    made.add_argument("--locality", type=float, default=0.0, help="share of the messages whose receiver is on the sender's node")
    made.add_argument("--window", type=int, default=1, help="messages of each user in flight")
    made.add_argument("--payload", type=int, default=100, help="bytes of content in a message")
    made.add_argument("--seconds", type=float, default=1.0, help="how long is measured")
    made.add_argument("--warmup", type=float, default=1.0, help="seconds of load before that")
    made.add_argument("--rate", type=float, default=0.0, help="messages a second of all users; 0 for as fast as the window lets them go")
    made.add_argument("--logins", type=int, default=64, help="logins under way at once")
    made.add_argument("--patience", type=float, default=30.0, help="seconds without a frame after which the server counts as silent")
    made.add_argument("--ca", help="use TLS; the file with the certificate to trust, which must name localhost")
    return made


def main() -> int:
    """Runs the load; the figures go to stdout as one JSON object."""
    options = parser().parse_args()
    gc.disable()  # nothing here makes cycles, and a collection would stand in the latencies
    try:
        print(json.dumps(Load(options).run()))
    except LoadError as error:
        print(f"load: {error}", file=sys.stderr)
        return 2 if isinstance(error, UnfitError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
