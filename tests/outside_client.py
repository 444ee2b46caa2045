"""A client that was written from docs/protocol.md alone, as somebody in another language would write one.

It exists to keep the specification honest. It imports the standard library and nothing of twisted_im, and its numbers and shapes are
copied from the page by hand. If the server and the page part ways, the server's own client parts with the server and notices nothing;
this one fails. So do not mend it by looking at the server's source: mend the page, and then this file after the page.

Strategy: one blocking socket. `request` writes, `_read` takes whatever has come and sorts it: answers by their request id, notifies into a
queue. A WINDOW notify follows every read that brought notifies. What must outlive a connection is in `Kept`. Nothing waits without a
deadline, and no test lives as long as a heartbeat, so nothing pings by itself.
"""

from __future__ import annotations

import secrets
import socket
import ssl
import struct
import time
from collections import deque
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

HEADER = struct.Struct(">IBBHIHH")  # length, version, kind, command, request id, flags, status
REQUEST, RESPONSE, NOTIFY = 0, 1, 2
HELLO, LOGIN, LOGOUT, PING, WINDOW, REDIRECT, KICK, DEVICES, DISCONNECT = range(0x0101, 0x010A)
MESSAGE, RECEIPT, SYNC, HISTORY, SIGNAL = range(0x0401, 0x0406)
BAD_BODY, BAD_VALUE, UNKNOWN_COMMAND, NOT_AUTHENTICATED, NO_SUCH, CONFLICT, STALE_ID, TOO_LARGE, UNSUPPORTED = range(1, 10)
NORMAL, MALFORMED, VERSION, BODY_TOO_LARGE, UNEXPECTED, WINDOW_EXCEEDED, ACK_ABOVE_SENT = range(1, 8)
TAKEN_OVER, KICKED, FULL, SHUTTING_DOWN = range(14, 18)
PASSWORD, TOKEN, ANONYMOUS = 1, 2, 3
DELIVERED, READ = 1, 2
LIST, REMOVE = 1, 2
HIGHEST = 2**64 - 1

#: What a server may send before the connection is open.
EARLY = {
    "start": {(RESPONSE, HELLO), (NOTIFY, REDIRECT), (NOTIFY, DISCONNECT)},
    "greeted": {(REQUEST, PING), (RESPONSE, PING), (NOTIFY, REDIRECT), (NOTIFY, DISCONNECT)},
    "login": {(RESPONSE, LOGIN), (RESPONSE, PING), (NOTIFY, REDIRECT), (NOTIFY, DISCONNECT)},
}
#: The state after an answer: (command, whether it is no error) → state.
AGREED = {(HELLO, True): "greeted", (LOGIN, True): "open", (LOGIN, False): "greeted"}


class Misshapen(ValueError):
    """A body is not of the shape that its command declares."""


class Refused(Exception):
    """A response with an error."""

    def __init__(self, status: int, temporary: int, retry_after: int, reason: bytes) -> None:
        super().__init__(f"status {status}: {reason.decode()}")
        self.status, self.temporary, self.retry_after = status, bool(temporary), retry_after


class Disconnected(ConnectionError):
    """The connection has ended; `code` is 0 if nobody said why, and `address` is set by a redirect."""

    def __init__(self, code: int = 0, come_back: int = 1, retry_after: int = 0, reason: bytes = b"", address: str | None = None) -> None:
        super().__init__(f"disconnect code {code}: {reason.decode()}")
        self.code, self.come_back, self.retry_after, self.address = code, bool(come_back), retry_after, address


class Shape:
    """The layout of a body: `name:type` for each field, where a type is a letter of `struct`, `16` bytes, `sized`, or the `rest`."""

    def __init__(self, fields: str = "", rows: tuple[str, Shape] | None = None) -> None:
        self.fields = dict(one.split(":") for one in fields.split())
        self.rows = rows
        self.fixed = [name for name, kind in self.fields.items() if kind != "rest"]
        letters = {"sized": "B", "16": "16s"}
        self._struct = struct.Struct(">" + "".join(letters.get(self.fields[name], self.fields[name]) for name in self.fixed))

    def read(self, body: bytes) -> SimpleNamespace:
        if len(body) < self._struct.size:
            raise Misshapen("it ends in its fixed fields")
        values: dict[str, Any] = dict(zip(self.fixed, self._struct.unpack_from(body), strict=True))
        at = self._struct.size
        for name, kind in self.fields.items():  # a rest is the last field of all
            if kind in ("sized", "rest"):
                size = values[name] if kind == "sized" else len(body) - at
                if at + size > len(body):
                    raise Misshapen(f"it ends in its {name}")
                values[name] = body[at : (at := at + size)]
        if self.rows:
            name, shape = self.rows
            values[name] = []
            while at < len(body):
                if len(body) < at + 4 or len(body) < at + 4 + (size := int.from_bytes(body[at : at + 4])):
                    raise Misshapen("it ends in a row")
                values[name].append(shape.read(body[at + 4 : (at := at + 4 + size)]))
        if at < len(body):
            raise Misshapen("it has bytes left over")
        return SimpleNamespace(**values)

    def write(self, **values: Any) -> bytes:
        data = {name: value.encode() if isinstance(value, str) else value for name, value in values.items()}
        fixed = [len(data[name]) if self.fields[name] == "sized" else data[name] for name in self.fixed]
        behind = [data[name] for name, kind in self.fields.items() if kind in ("sized", "rest")]
        if self.rows:
            for row in (self.rows[1].write(**vars(row)) for row in data[self.rows[0]]):
                behind += [len(row).to_bytes(4), row]
        return self._struct.pack(*fixed) + b"".join(behind)


EMPTY = Shape()
ERROR = Shape("temporary:B retry_after:I reason:rest")
ROW = Shape("conversation:Q seq:Q time:Q device:16 client_id:16 row_type:B content_type:B life:I sender:sized content:rest")
CONVERSATION = Shape("conversation:Q kind:B head:Q floor:Q cursor:Q delivered:Q read:Q peer_delivered:Q peer_read:Q peer:rest")
DEVICE = Shape("device:16 session:Q online:B last_login:Q label:rest")
BODIES = {
    (REQUEST, HELLO): Shape("min_version:B max_version:B features:I max_body:I heartbeat:H window:H agent:rest"),
    (RESPONSE, HELLO): Shape("version:B features:I max_body:I heartbeat:H window:H requests:H time:Q node:rest"),
    (REQUEST, LOGIN): Shape("method:B device:16 tenant:sized uid:sized label:sized secret:rest"),
    (RESPONSE, LOGIN): Shape("session:Q epoch:16 horizon:I resume:rest"),
    (REQUEST, LOGOUT): EMPTY,
    (RESPONSE, LOGOUT): EMPTY,
    (REQUEST, PING): EMPTY,
    (RESPONSE, PING): Shape("time:Q"),
    (NOTIFY, WINDOW): Shape("count:Q"),
    (NOTIFY, REDIRECT): Shape("delay:I address:rest"),
    (REQUEST, KICK): Shape("device:16"),
    (RESPONSE, KICK): EMPTY,
    (REQUEST, DEVICES): Shape("action:B device:16"),
    (RESPONSE, DEVICES): Shape(rows=("devices", DEVICE)),
    (NOTIFY, DISCONNECT): Shape("code:H come_back:B retry_after:I reason:rest"),
    (REQUEST, MESSAGE): Shape("client_id:16 conversation:Q content_type:B life:I target:sized content:rest"),
    (RESPONSE, MESSAGE): Shape("conversation:Q seq:Q time:Q"),
    (NOTIFY, MESSAGE): ROW,
    (REQUEST, RECEIPT): Shape("conversation:Q seq:Q type:B"),
    (RESPONSE, RECEIPT): EMPTY,
    (NOTIFY, RECEIPT): Shape("conversation:Q seq:Q type:B user:rest"),
    (REQUEST, SYNC): Shape("since:Q after:Q limit:H scope:B"),
    (RESPONSE, SYNC): Shape("position:Q more:B", rows=("conversations", CONVERSATION)),
    (NOTIFY, SYNC): EMPTY,
    (REQUEST, HISTORY): Shape("conversation:Q first:Q last:Q limit:H direction:B"),
    (RESPONSE, HISTORY): Shape("first:Q last:Q head:Q floor:Q", rows=("messages", ROW)),
    (REQUEST, SIGNAL): Shape("conversation:Q type:B lifetime:I target:sized content:rest"),
    (RESPONSE, SIGNAL): EMPTY,
    (NOTIFY, SIGNAL): Shape("conversation:Q head:Q expires:Q type:B device:16 sender:sized content:rest"),
}


class Kept:
    """What a device keeps between its connections."""

    def __init__(self, device: bytes = b"") -> None:
        self.device = device or secrets.token_bytes(16)
        self.epoch = b""
        self.since = 0
        self.rows: list[SimpleNamespace] = []  # in the order in which a person saw them
        self.shown: dict[int, int] = {}  # conversation → the seq up to which that is everything
        self.held: dict[int, dict[int, SimpleNamespace]] = {}  # conversation → rows whose turn has not come, by seq
        self.marks: dict[tuple[int, bytes, int], int] = {}  # (conversation, user, receipt type) → seq

    def take(self, conversation: int, rows: list[SimpleNamespace], covered: int = 0) -> None:
        """Shows rows in order, each once, and holds back those behind a gap; up to `covered` nothing else will come."""
        shown = self.shown.get(conversation, 0)
        held = self.held.setdefault(conversation, {})
        held.update((row.seq, row) for row in rows if row.seq > shown)
        for seq in sorted(held):
            if seq > max(covered, shown) + 1:
                break
            self.rows.append(held.pop(seq))
            shown = seq
        self.shown[conversation] = max(covered, shown)

    def mark(self, conversation: int, user: bytes, kind: int, seq: int) -> None:
        for mark in range(DELIVERED, kind + 1):  # read includes delivered
            self.marks[conversation, user, mark] = max(seq, self.marks.get((conversation, user, mark), 0))


def connect(host: str, port: int, tls: ssl.SSLContext | None = None, timeout: float = 60.0) -> socket.socket:
    stream = socket.create_connection((host, port), timeout)
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return tls.wrap_socket(stream, server_hostname=host) if tls else stream


def frame(kind: int, command: int, request_id: int, body: bytes, status: int = 0) -> bytes:
    return HEADER.pack(len(body), 1, kind, command, request_id, 0, status) + body


def new_id(ms: int) -> bytes:
    """A UUIDv7."""
    return (ms << 80 | 7 << 76 | secrets.randbits(12) << 64 | 2 << 62 | secrets.randbits(62)).to_bytes(16)


def place(to: str | int) -> dict[str, Any]:
    """The fields that address a user or a conversation."""
    return {"conversation": 0, "target": to} if isinstance(to, str) else {"conversation": to, "target": ""}


class OutsideClient:
    """One connection."""

    def __init__(self, stream: socket.socket, timeout: float = 60.0) -> None:
        self.stream, self.timeout, self.state = stream, timeout, "start"
        self.end: Disconnected | None = None
        self.notifies: deque[tuple[int, Any]] = deque()  # (command, values)
        self.count = self.acknowledged = 0
        self.max_body, self.requests, self.ahead, self.kept, self.uid = 65536, 1, 0.0, Kept(), b""
        self._data = bytearray()
        self._asked: dict[int, int] = {}  # request id → command
        self._answers: dict[int, tuple[int, int, bytes]] = {}  # request id → command, status, body
        self._last_id = self._last_ms = 0

    # ---- frames

    def write(self, data: bytes) -> None:
        if self.end:
            raise self.end
        self.stream.settimeout(self.timeout)
        try:
            self.stream.sendall(data)
        except ConnectionError:
            pass  # whoever reads next learns why

    def tell(self, command: int, **values: Any) -> None:
        self.write(frame(NOTIFY, command, 0, BODIES[NOTIFY, command].write(**values)))

    def request(self, command: int, body: bytes | None = None, **values: Any) -> int:
        """Sends a request without waiting for its answer; `body` stands for one that need not be in order."""
        self._until(lambda: len(self._asked) < self.requests)
        self._last_id += 1
        self.expect(self._last_id, command)
        self.write(frame(REQUEST, command, self._last_id, BODIES[REQUEST, command].write(**values) if body is None else body))
        return self._last_id

    def expect(self, request_id: int, command: int) -> None:
        """Notes that a request is out."""
        self._asked[request_id] = command
        if command == LOGIN:
            self.state = "login"

    def answer(self, request_id: int) -> Any:
        self._until(lambda: request_id in self._answers)
        command, status, body = self._answers.pop(request_id)
        if status:
            raise Refused(status, **vars(self._shaped(ERROR, body)))
        return self._shaped(BODIES.get((RESPONSE, command), EMPTY), body)

    def ask(self, command: int, body: bytes | None = None, **values: Any) -> Any:
        return self.answer(self.request(command, body, **values))

    def _until(self, condition: Callable[[], Any], timeout: float = 0.0) -> None:
        deadline = time.monotonic() + (timeout or self.timeout)
        while not condition():
            if self.end:
                raise self.end
            self.stream.settimeout(max(0.001, deadline - time.monotonic()))
            self._read()

    def _read(self) -> None:
        """Takes what has come, or the first that comes."""
        try:
            data = self.stream.recv(65536)
        except ConnectionError:
            data = b""
        self._data += data
        if not data:
            self.end = Disconnected()
        while not self.end and len(self._data) >= HEADER.size:
            size, version, kind, command, request_id, _, status = HEADER.unpack_from(self._data)
            if fault := MALFORMED if kind > NOTIFY else VERSION if version != 1 else BODY_TOO_LARGE if size > self.max_body else 0:
                self.leave(fault)
            if self.end or len(self._data) < HEADER.size + size:
                break
            body = bytes(self._data[HEADER.size : HEADER.size + size])
            del self._data[: HEADER.size + size]
            self._sort(kind, command, request_id, status, body)
        if self.count > self.acknowledged and not self.end:
            self.tell(WINDOW, count=self.count)
            self.acknowledged = self.count

    def _sort(self, kind: int, command: int, request_id: int, status: int, body: bytes) -> None:
        if self.state in EARLY and (kind, command) not in EARLY[self.state]:
            self.leave(UNEXPECTED)
        elif kind == RESPONSE:
            if self._asked.pop(request_id, None) != command:
                self.leave(UNEXPECTED)
            self._answers[request_id] = command, status, body
            self.state = AGREED.get((command, status == 0), self.state)
        elif kind == REQUEST and command == PING and not body:
            self.write(frame(RESPONSE, PING, request_id, BODIES[RESPONSE, PING].write(time=int(time.time() * 1000))))
        elif kind == REQUEST:
            error = ERROR.write(temporary=0, retry_after=0, reason="")
            self.write(frame(RESPONSE, command, request_id, error, BAD_BODY if command == PING else UNKNOWN_COMMAND))
        elif command == DISCONNECT:
            self.end = Disconnected(**vars(self._shaped(BODIES[kind, command], body)))
        elif command == REDIRECT:
            values = self._shaped(BODIES[kind, command], body)
            self.end = Disconnected(0, 1, values.delay, b"redirected", values.address.decode())
        else:
            self.count += 1
            if shape := BODIES.get((kind, command)):
                self.notifies.append((command, self._shaped(shape, body)))

    def _shaped(self, shape: Shape, body: bytes) -> SimpleNamespace:
        try:
            return shape.read(body)
        except Misshapen:
            self.leave(MALFORMED)
            raise

    def leave(self, code: int = NORMAL) -> None:
        """Says why, and closes."""
        self.tell(DISCONNECT, code=code, come_back=0, retry_after=0, reason="")
        self.end = Disconnected(code, 0, 0, b"we left")
        self.close()

    def close(self) -> None:
        """Closes without a word."""
        self.end = self.end or Disconnected()
        self.stream.close()

    # ---- the life of a connection

    def hello(self, heartbeat: int = 0, window: int = 0, agent: str = "outside 1.0") -> Any:
        before = time.time()
        wishes = {"features": 0, "max_body": 0, "heartbeat": heartbeat, "window": window}
        terms = self.ask(HELLO, min_version=1, max_version=1, **wishes, agent=agent)
        self.max_body, self.requests = terms.max_body, terms.requests
        self.ahead = terms.time / 1000 - (before + time.time()) / 2
        return terms

    def login(self, uid: str, kept: Kept, secret: str = "", method: int = ANONYMOUS, tenant: str = "", label: str = "") -> Any:
        granted = self.ask(LOGIN, method=method, device=kept.device, tenant=tenant, uid=uid, label=label, secret=secret)
        if kept.epoch not in (b"", granted.epoch):  # the store began anew
            vars(kept).update(vars(Kept(kept.device)))
        self.kept, self.uid, kept.epoch = kept, uid.encode(), granted.epoch
        return granted

    def logout(self) -> None:
        self.ask(LOGOUT)
        self.ended()

    def ended(self) -> Disconnected:
        """Waits for the end, and says what it was."""
        try:
            self._until(lambda: False)
        except Disconnected as end:
            self.close()
            return end
        raise AssertionError

    def ping(self) -> int:
        """The server's time."""
        return self.ask(PING).time

    def devices(self) -> list[Any]:
        return self.ask(DEVICES, action=LIST, device=bytes(16)).devices

    def remove(self, device: bytes) -> None:
        self.ask(DEVICES, action=REMOVE, device=device)

    def kick(self, device: bytes) -> None:
        self.ask(KICK, device=device)

    # ---- messages

    def next_id(self) -> bytes:
        """A client id by the server's clock; each has a millisecond of its own, so that they rise."""
        self._last_ms = max(self._last_ms + 1, int((time.time() + self.ahead) * 1000))
        return new_id(self._last_ms)

    def send(self, to: str | int, content: bytes, client_id: bytes = b"", content_type: int = 1) -> Any:
        """Packets 1 and 2: gives the conversation, the seq and the time."""
        own = {"client_id": client_id or self.next_id(), "content_type": content_type, "life": 0, "content": content}
        accepted = self.ask(MESSAGE, **own, **place(to))
        row = SimpleNamespace(**vars(accepted), **own, device=self.kept.device, row_type=0, sender=self.uid)
        self.kept.take(accepted.conversation, [row])
        return accepted

    def signal(self, to: str | int, kind: int = 1, lifetime: int = 5000, content: bytes = b"") -> None:
        self.ask(SIGNAL, type=kind, lifetime=lifetime, content=content, **place(to))

    def receipt(self, conversation: int, seq: int, kind: int = DELIVERED) -> None:
        """Packets 4 and 5."""
        self.ask(RECEIPT, conversation=conversation, seq=seq, type=kind)

    def receive(self, wanted: int = 0, timeout: float = 0.0) -> Any:
        """The next notify, or the next of a command. What they say is kept on the way, and what is missing is read."""
        while True:
            self._until(lambda: self.notifies, timeout)
            command, values = self.notifies.popleft()
            if command == MESSAGE:
                self.kept.take(values.conversation, [values])
                if self.kept.shown[values.conversation] < values.seq:
                    self.fill(values.conversation, values.seq - 1)
            elif command == RECEIPT:
                self.kept.mark(values.conversation, values.user, values.type, values.seq)
            elif command == SYNC:
                self.catch_up()
            if wanted in (0, command):
                return values

    def history(self, conversation: int, first: int, last: int = HIGHEST, limit: int = 0, direction: int = 0) -> Any:
        return self.ask(HISTORY, conversation=conversation, first=first, last=last, limit=limit, direction=direction)

    def fill(self, conversation: int, last: int, limit: int = 0) -> None:
        """Reads the rows between those that are shown and `last`, by as many answers as it takes."""
        while (shown := self.kept.shown.get(conversation, 0)) < last:
            answer = self.history(conversation, shown + 1, last, limit)
            covered = max(answer.last, min(answer.floor, last))
            if covered <= shown:
                break  # there is nothing there yet
            self.kept.take(conversation, answer.messages, covered)

    def sync(self, since: int = 0, after: int = 0, limit: int = 0, scope: int = 0) -> Any:
        return self.ask(SYNC, since=since, after=after, limit=limit, scope=scope)

    def catch_up(self, limit: int = 0) -> list[Any]:
        """Sync, page by page, and the histories that it calls for; gives the conversations that have changed."""
        page = self.sync(self.kept.since, 0, limit)
        position, changed = page.position, page.conversations
        while page.more:
            page = self.sync(self.kept.since, page.conversations[-1].conversation, limit)
            changed = changed + page.conversations
        for row in changed:
            if row.kind == 1:
                self.kept.mark(row.conversation, row.peer, DELIVERED, row.peer_delivered)
                self.kept.mark(row.conversation, row.peer, READ, row.peer_read)
            self.kept.take(row.conversation, [], row.floor)
            self.fill(row.conversation, row.head, limit)
        self.kept.since = position
        return changed
