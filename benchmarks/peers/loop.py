"""The load for somebody else's server: pairs of users who answer each message with a message, over one of the protocols here.

Strategy: as `benchmarks.load_loop`, with which ours is driven — one thread, epoll, one recv and one send for each readiness event,
everything done on the connection on which it came. Each user begins with a window of messages to its partner, and each message that comes
lets one leave; so in a pair twice the window is under way. Where the server acknowledges messages, no user has more than a window of them
that are not acknowledged. Each receiver expects the partner's numbers one by one.

The histogram is linear: a list is the cheapest that Python has, and the fastest server leaves two microseconds for a message.

    python -m benchmarks.peers.loop --protocol nats --port 4222 --pid 4242 --users 1000 --window 8 --payload 100 --seconds 5
"""

from __future__ import annotations

import argparse
import gc
import json
import select
import socket
import sys
import time
from collections.abc import Callable

from benchmarks.peers.mqtt import MqttTalk
from benchmarks.peers.nats import NatsTalk
from benchmarks.peers.process import tree_cpu_seconds, tree_rss_kib
from benchmarks.peers.talk import Talk, TalkError
from benchmarks.peers.wamp import WampTalk
from benchmarks.peers.xmpp import XmppTalk

#: name → a user's talk, from the user's index and the bytes of content
PROTOCOLS: dict[str, Callable[[int, int], Talk]] = {
    "mqtt-qos0": lambda index, payload: MqttTalk(index, payload, 0),
    "mqtt-qos1": lambda index, payload: MqttTalk(index, payload, 1),
    "nats": NatsTalk,
    "wamp": WampTalk,
    "xmpp": XmppTalk,
}

READ_SIZE = 64 * 1024
SETTLE = 0.2  #: seconds between the last login and the look at the idle memory
SECOND = 1_000_000_000

ROUNDS = 3  #: so often the window of each user must come round in a measurement
LONGEST = 20.0  #: seconds by which it may then take longer

STEP = 20_000  #: ns; the width of a bucket
BUCKETS = 3_000_000  #: a minute in all; the last holds what took longer


class LoadError(Exception):
    """The load could not be brought to its end; the text is one line for people."""


class User:
    """One user: its connection, and the counters that say where it is."""

    __slots__ = ("blocked", "index", "partner", "received", "sent", "sent_at", "sock", "tail", "talk")

    partner: User
    sock: socket.socket

    def __init__(self, index: int, talk: Talk, window: int) -> None:
        self.index = index
        self.talk = talk
        self.tail = b""  #: what the socket did not take
        self.blocked = False
        self.sent = self.received = 0  #: messages
        self.sent_at = [0] * (2 * window)  #: ns; of message n at n % (2 × window), more of one user are never under way


class Load:
    """The whole load, on one server.

    Args:
        options: what `parser()` reads.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.window: int = options.window
        make = PROTOCOLS[options.protocol]
        self.users = [User(index, make(index, options.payload), self.window) for index in range(options.users)]
        for user in self.users:
            user.partner = self.users[user.index ^ 1]
        self.poll = select.epoll()
        self.at: dict[int, User] = {}
        self.now = self.last_read_at = time.monotonic_ns()
        self.connected = self.live = 0
        self.sending = self.measuring = False
        self.delivered = self.duplicates = self.faults = 0
        self.first_fault = ""
        self.histogram = [0] * BUCKETS

    def run(self) -> dict[str, object]:
        """Logs all in, loads, measures, and lets all that is under way come in.

        Returns:
            What was measured, under the names of `benchmarks.load_loop`. "accepted" counts acknowledged messages, and "receipted" the same,
            since these protocols tell nobody that a message was delivered.

        Raises:
            LoadError: the server refused something, closed a connection, or fell silent.
        """
        options = self.options
        rss_before, login_began = self._of_server(tree_rss_kib), time.monotonic_ns()
        if not self._turn_until(lambda: self.live == len(self.users), self._connect_some):
            raise LoadError(f"{self.live} of {len(self.users)} users are logged in, and nothing has come for {options.patience:g} s")
        login_seconds = (self.now - login_began) / SECOND
        self._run_for(SETTLE)
        rss_after = self._of_server(tree_rss_kib)

        self.sending = True
        self.now = time.monotonic_ns()
        for user in self.users:
            self._fill(user, [])
        self._run_rounds(options.warmup, 1)
        self.measuring = True
        delivered_before = self.delivered
        cpu_before, own_before, began = self._of_server(tree_cpu_seconds), time.process_time(), time.monotonic_ns()
        self._run_rounds(options.seconds, ROUNDS)
        delivered, ended, own = self.delivered - delivered_before, time.monotonic_ns(), time.process_time() - own_before
        cpu, measured = self._of_server(tree_cpu_seconds) - cpu_before, (ended - began) / SECOND
        self.measuring = self.sending = False
        self._turn_until(self._drained)

        per_message = 1e6 / delivered if delivered else 0.0
        acked = sum(user.talk.acked for user in self.users)
        return {
            "driver": "python",
            "users": len(self.users),
            "window": self.window,
            "payload": options.payload,
            "seconds": round(measured, 3),
            "delivered_per_s": round(delivered / measured, 1),
            "cpu_us_per_message": round(cpu * per_message, 3),
            "load_cpu_us_per_message": round(own * per_message, 3),
            "server_core_share": round(cpu / measured, 3),
            "load_core_share": round(own / measured, 3),
            "p50_ms": round(self._percentile_ms(0.5), 4),
            "p99_ms": round(self._percentile_ms(0.99), 4),
            "rss_kib_per_connection": round((rss_after - rss_before) / len(self.users), 3),
            "logins_per_s": round(len(self.users) / login_seconds, 1),
            "sent": sum(user.sent for user in self.users),
            "accepted": acked,
            "delivered": self.delivered,
            "receipted": acked,
            "duplicates": self.duplicates,
            "errors": self.faults,
            "first_error": self.first_fault,
        }

    def close(self) -> None:
        """Closes all connections."""
        for user in self.at.values():
            user.sock.close()
        self.poll.close()

    def _connect_some(self) -> None:
        while self.connected < len(self.users) and self.connected - self.live < self.options.logins:
            self._connect(self.users[self.connected])
            self.connected += 1

    def _connect(self, user: User) -> None:
        user.sock = sock = socket.socket()
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.at[sock.fileno()] = user
        try:
            sock.connect(("127.0.0.1", self.options.port))
        except BlockingIOError:
            pass
        except OSError as error:
            raise LoadError(f"user {user.index} cannot connect: {error.strerror}") from error
        user.tail, user.blocked = user.talk.opening(), True  # leaves when the connection is there
        self.poll.register(sock, select.EPOLLIN | select.EPOLLOUT)

    def _turn(self, until: int) -> None:
        """One turn, at most until the given moment."""
        at = self.at
        for number, events in self.poll.poll(max(0, until - time.monotonic_ns()) / SECOND, max(len(at), 1)):
            user = at[number]
            if events & select.EPOLLOUT:
                self._send(user, b"")
            if events & ~select.EPOLLOUT:
                self._on_readable(user)
        self.now = time.monotonic_ns()

    def _run_for(self, seconds: float) -> None:
        until = time.monotonic_ns() + int(seconds * SECOND)
        while time.monotonic_ns() < until:
            self._turn(until)

    def _run_rounds(self, seconds: float, rounds: int) -> None:
        """Runs so long, and longer until everybody's window has come round so often: a slow server works it off in waves."""
        wanted = self.delivered + rounds * self.window * len(self.users)
        self._run_for(seconds)
        longest = time.monotonic_ns() + int(LONGEST * SECOND)
        while self.delivered < wanted and time.monotonic_ns() < longest:
            self._turn(longest)

    def _turn_until(self, condition: Callable[[], bool], step: Callable[[], None] = lambda: None) -> bool:
        """Turns until a condition holds, as long as something comes; False if nothing comes any more."""
        patience = int(self.options.patience * SECOND)
        self.now = self.last_read_at = time.monotonic_ns()
        while True:
            step()
            if condition():
                return True
            if self.now > self.last_read_at + patience:
                return False
            self._turn(self.last_read_at + patience)

    def _drained(self) -> bool:
        return all(user.received >= user.partner.sent and user.talk.acked >= user.sent for user in self.users)

    def _on_readable(self, user: User) -> None:
        try:
            data = user.sock.recv(READ_SIZE)
        except BlockingIOError:
            return
        except OSError as error:
            raise LoadError(f"user {user.index}: the connection broke: {error.strerror}") from error
        if not data:
            raise LoadError(f"user {user.index}: the server has closed the connection")
        self.now = self.last_read_at = time.monotonic_ns()
        talk, out = user.talk, list[bytes]()
        was_live = talk.live
        try:
            numbers = talk.feed(data, out)
        except TalkError as error:
            raise LoadError(f"user {user.index}: {error}") from error
        if numbers:
            self.take(user, numbers)
        if talk.live is not was_live:
            self.live += 1
        self._fill(user, out)

    def take(self, user: User, numbers: list[int]) -> None:
        """Counts the messages that have come to a user, and looks whether they are the next ones."""
        received, at, ring, now = user.received, user.partner.sent_at, 2 * self.window, self.now
        for number in numbers:
            if number == received + 1:
                received = number
                if self.measuring:
                    took = (now - at[number % ring]) // STEP
                    self.histogram[took if took < BUCKETS else -1] += 1
                self.delivered += 1
            elif number <= received:
                self.duplicates += 1
            else:
                self.faults += 1
                self.first_fault = self.first_fault or f"user {user.index}: message {number}, where {received + 1} was expected"
                received = number
                self.delivered += 1
        user.received = received

    def _fill(self, user: User, out: list[bytes]) -> None:
        """Sends what is given, and as many messages as may leave."""
        if self.sending:
            sent, window = user.sent, self.window
            count = min(window + user.received, window + user.talk.acked) - sent
            if count > 0:
                user.sent = sent + count
                at, ring = user.sent_at, 2 * window
                for number in range(sent + 1, sent + count + 1):
                    at[number % ring] = self.now
                out.append(user.talk.messages(sent + 1, count))
        if out:
            self._send(user, b"".join(out))

    def _send(self, user: User, data: bytes) -> None:
        """Sends; what the socket does not take waits for it."""
        if user.tail:
            data = user.tail + data
        try:
            taken = user.sock.send(data)
        except BlockingIOError:
            taken = 0
        except OSError as error:
            raise LoadError(f"user {user.index}: the connection broke: {error.strerror}") from error
        user.tail = data[taken:]
        if bool(user.tail) != user.blocked:
            user.blocked = bool(user.tail)
            self.poll.modify(user.sock, select.EPOLLIN | (select.EPOLLOUT if user.blocked else 0))

    def _percentile_ms(self, share: float) -> float:
        """The middle of the bucket in which it lies."""
        total, below = sum(self.histogram), 0
        for bucket, count in enumerate(self.histogram):
            below += count
            if total and below >= share * total:
                return (bucket + 0.5) * STEP / 1e6
        return 0.0

    def _of_server(self, figure: Callable[[int], float]) -> float:
        try:
            return figure(self.options.pid)
        except OSError as error:
            raise LoadError(f"the server (process {self.options.pid}) is gone") from error


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = argparse.ArgumentParser(prog="python -m benchmarks.peers.loop", description="Loads one server with pairs of users.")
    made.add_argument("--protocol", choices=PROTOCOLS, required=True, help="what the server speaks")
    made.add_argument("--port", type=int, required=True, help="the server's port on 127.0.0.1")
    made.add_argument("--pid", type=int, required=True, help="the server's process, whose CPU and memory are read, with all below it")
    made.add_argument("--users", type=int, default=1000, help="an even number")
    made.add_argument("--window", type=int, default=1, help="messages of each user under way")
    made.add_argument("--payload", type=int, default=100, help="bytes of content in a message")
    made.add_argument("--seconds", type=float, default=1.0, help="how long is measured, at least")
    made.add_argument("--warmup", type=float, default=1.0, help="seconds of load before that")
    made.add_argument("--logins", type=int, default=64, help="logins under way at once")
    made.add_argument("--patience", type=float, default=30.0, help="seconds without a byte after which the server counts as silent")
    return made


def main() -> int:
    """Runs the load; the figures go to stdout as one JSON object."""
    options = parser().parse_args()
    load = Load(options)
    gc.disable()  # nothing here makes cycles, and a collection would stand in the latencies
    try:
        print(json.dumps(load.run()))
    except LoadError as error:
        print(f"load: {error}", file=sys.stderr)
        return 1
    finally:
        load.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
