"""Many connections that log in and then do nothing: one epoll loop, one member for each.

Strategy: as bare as the load (`benchmarks.load_loop`), so that ten thousand cost less here than on the server. A login is a hello, its
answer, a login, its answer, as in the client library. Whoever is turned away comes back when a client would: after the server's hint, or
else by the library's own full jitter. Only the first attempt of a storm is everybody's at once. Whose resume token is
refused proves itself as at first.
"""

from __future__ import annotations

import heapq
import random
import select
import socket
import ssl
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address

from benchmarks.load_loop import Tls
from twisted_im.core.pacing import full_jitter
from twisted_im.wire.codec import ERROR, codec, request, response, tag
from twisted_im.wire.framing import Frame, FrameReader
from twisted_im.wire.schema import DEFAULT_MAX_BODY, VERSION, Command, Kind, LoginMethod

READ_SIZE = 64 * 1024
PATIENCE = 90.0  #: seconds without a login after which the rest are given up: above the longest wait of the jitter
HELLO_ID, LOGIN_ID = 1, 3

#: Connections from one address of 127.0.0.0/8: few, as those of users are, for a server counts what comes from an address; and the kernel
#: has only some 28,000 ports for each.
FROM_ONE_ADDRESS = 16
FIRST_ADDRESS = int(IPv4Address("127.1.0.0"))
_BIND_ADDRESS_NO_PORT = 24  #: ip(7): the port is chosen at connect(), by the whole pair of addresses

HELLO = request(
    Command.HELLO, HELLO_ID, min_version=VERSION, max_version=VERSION, features=0, max_body=0, heartbeat=0, window=0, agent=b"crowd"
)

_HELLO_RESPONSE = tag(Kind.RESPONSE, Command.HELLO)
_LOGIN_RESPONSE = tag(Kind.RESPONSE, Command.LOGIN)
_PING_REQUEST = tag(Kind.REQUEST, Command.PING)
_DISCONNECT = tag(Kind.NOTIFY, Command.DISCONNECT)


class CrowdError(Exception):
    """Somebody cannot get in; the text is one line for people."""


@dataclass(frozen=True)
class Who:
    """One user, and what it logs in with."""

    uid: bytes
    method: int
    secret: bytes

    def login(self, device: int) -> bytes:
        """The login request of one of its devices."""
        return request(
            Command.LOGIN,
            LOGIN_ID,
            method=self.method,
            device=struct.pack(">QQ", 1, device),
            tenant=b"",
            uid=self.uid,
            label=b"",
            secret=self.secret,
        )


class Member:
    """One connection: where it is, and how it came to be there."""

    __slots__ = ("address", "blocked", "failures", "hint", "index", "live", "login", "reader", "sock", "tail", "tls", "who")

    sock: socket.socket

    def __init__(self, index: int, who: Who) -> None:
        self.index = index
        self.who = who
        self.address = str(IPv4Address(FIRST_ADDRESS + index // FROM_ONE_ADDRESS))
        self.login = who.login(index + 1)
        self.blocked = self.live = False
        self.failures = 0  #: attempts since the last login
        self.hint = 0.0  #: seconds that the server asked to wait
        self.tail = b""  #: what the socket did not take
        self.tls: Tls | None = None
        self.reader = FrameReader(DEFAULT_MAX_BODY)


class Crowd:
    """All connections to one server.

    Args:
        users: who they are, one connection for each.
        context: for TLS.
        resumes: everybody's next login is by the resume token that the last one gave.

    Attributes:
        port: where the server is.
        live: how many are logged in.
        turned_away: attempts that did not end in a login.
    """

    def __init__(self, port: int, users: Sequence[Who], context: ssl.SSLContext | None, *, resumes: bool = False) -> None:
        self.port = port
        self.live = 0
        self.turned_away = 0
        self._context = context
        self._resumes = resumes
        self._members = [Member(index, who) for index, who in enumerate(users)]
        self._at: dict[int, Member] = {}
        self._waiting: list[tuple[float, int]] = []  # when to come, and who: a heap
        self._poll = select.epoll()
        self._jitter = full_jitter(random.random)
        self._offset = time.time() - time.monotonic()

    def gather(self, at_once: int) -> float:
        """Brings in all who are out; gives the seconds until the last one is logged in.

        Args:
            at_once: attempts under way together.

        Raises:
            CrowdError: somebody is refused for good, or nobody gets in any more.
        """
        self._waiting = [(0.0, member.index) for member in self._members if not member.live]
        began = progress = time.monotonic()
        before, now = self.live, began
        while self.live < len(self._members):
            while self._waiting and len(self._at) - self.live < at_once and self._waiting[0][0] <= now:
                self._connect(self._members[heapq.heappop(self._waiting)[1]])
            self._turn(self._waiting[0][0] - now if self._waiting and len(self._at) - self.live < at_once else 1.0)
            now = time.monotonic()
            if self.live != before:
                before, progress = self.live, now
            if now > progress + PATIENCE:
                raise CrowdError(f"{self.live} of {len(self._members)} are logged in, and nobody more for {PATIENCE:g} s")
        return now - began

    def stay(self, until: Callable[[], bool]) -> None:
        """Answers what the server asks until a condition holds, which is looked at now and then."""
        while not until():
            self._turn(0.02)

    def stay_for(self, seconds: float) -> None:
        """The same for a while."""
        end = time.monotonic() + seconds
        self.stay(lambda: time.monotonic() >= end)

    def cut(self) -> None:
        """Ends all connections without a word."""
        for member in list(self._at.values()):
            self._close(member)

    def close(self) -> None:
        """Ends all connections, and this."""
        self.cut()
        self._poll.close()

    def _connect(self, member: Member) -> None:
        member.sock = sock = socket.socket()
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.IPPROTO_IP, _BIND_ADDRESS_NO_PORT, 1)
        sock.bind((member.address, 0))
        member.reader, member.hint = FrameReader(DEFAULT_MAX_BODY), 0.0
        member.tls = None if self._context is None else Tls(self._context)
        member.blocked = True
        member.tail = HELLO if member.tls is None else member.tls.sealed(HELLO)  # leaves when the connection is there
        self._at[sock.fileno()] = member
        try:
            sock.connect(("127.0.0.1", self.port))
        except BlockingIOError:
            pass
        except OSError as error:
            raise CrowdError(f"{member.index} of the crowd cannot connect: {error.strerror}") from error
        self._poll.register(sock, select.EPOLLIN | select.EPOLLOUT)

    def _turn(self, wait: float) -> None:
        at = self._at
        for number, events in self._poll.poll(max(wait, 0.0), max(len(at), 1)):
            member = at.get(number)
            if member is None:
                continue
            if events & select.EPOLLOUT:
                self._send(member, b"")
            if events & ~select.EPOLLOUT and number in at:
                self._on_readable(member)

    def _on_readable(self, member: Member) -> None:
        try:
            data = member.sock.recv(READ_SIZE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        ended = not data
        out: list[bytes] = []
        if data:
            try:
                if member.tls is not None:
                    data = member.tls.received(data)
            except ssl.SSLError:
                data, ended = b"", True
            for frame in member.reader.feed(data):
                ended |= self._take(member, frame, out)
        if ended or member.reader.fault is not None:
            self._lost(member)
        elif out or member.tls is not None:
            self._send(member, b"".join(out))

    def _send(self, member: Member, data: bytes) -> None:
        if member.tls is not None:
            data = member.tls.sealed(data)
        data = member.tail + data
        if data:
            try:
                data = data[member.sock.send(data) :]
            except BlockingIOError:
                pass
            except OSError:
                self._lost(member)
                return
        member.tail = data
        if bool(data) != member.blocked:
            member.blocked = bool(data)
            self._poll.modify(member.sock, select.EPOLLIN | (select.EPOLLOUT if member.blocked else 0))

    def _take(self, member: Member, frame: Frame, out: list[bytes]) -> bool:
        """Does what a frame asks for; True if it was the last one."""
        tag_, request_id, word, body = frame
        if word & 0xFFFF:
            refused, first = ERROR.read(body), member.who.login(member.index + 1)
            again = bool(refused.temporary) or member.login != first  # a token that means nothing to a store that began afresh, say
            if not refused.temporary:
                member.login = first
            self._sent_away(member, again, refused.retry_after, refused.reason)
            return True
        if tag_ == _HELLO_RESPONSE:
            out.append(member.login)
        elif tag_ == _LOGIN_RESPONSE:
            member.live, member.failures = True, 0
            self.live += 1
            if self._resumes:
                token = codec(Kind.RESPONSE, Command.LOGIN).read(body).resume
                member.login = Who(member.who.uid, LoginMethod.RESUME, token).login(member.index + 1)
        elif tag_ == _PING_REQUEST:
            out.append(response(Command.PING, request_id, time=int((time.monotonic() + self._offset) * 1000)))
        elif tag_ == _DISCONNECT:
            why = codec(Kind.NOTIFY, Command.DISCONNECT).read(body)
            self._sent_away(member, bool(why.come_back), why.retry_after, why.reason)
            return True
        return False

    def _sent_away(self, member: Member, come_back: bool, retry_after: int, reason: bytes) -> None:
        if not come_back:
            raise CrowdError(f"{member.index} of the crowd is refused: {reason.decode('utf-8', 'replace')}")
        member.hint = retry_after / 1000

    def _lost(self, member: Member) -> None:
        """Its connection is gone: it comes back when a client would."""
        self.turned_away += not member.live
        self._close(member)
        wait = max(self._jitter(member.failures), member.hint)
        member.failures += 1
        heapq.heappush(self._waiting, (time.monotonic() + wait, member.index))

    def _close(self, member: Member) -> None:
        if member.live:
            member.live = False
            self.live -= 1
        del self._at[member.sock.fileno()]
        member.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset: no port stays taken
        member.sock.close()
