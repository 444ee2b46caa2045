"""NATS as the load speaks it: a subject for each user, at most once (docs.nats.io, "Client Protocol").

Strategy: a NATS server takes so little for a message that the load must take less: where a read holds whole messages to this user and
nothing else, which is the rule, one `struct` is run over all of it.
"""

from __future__ import annotations

import struct

from benchmarks.peers.talk import TalkError, letters, user_name

#: Section CONNECT: no +OK for each line, no checks of subjects; the rest as the documents' example has it.
CONNECT = b'CONNECT {"verbose":false,"pedantic":false,"tls_required":false,"lang":"python","version":"1","protocol":1}\r\n'

_SUBSCRIPTION = "1"


class OperationReader:
    """Cuts a stream of bytes into the operations of a server."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = b""

    @property
    def waiting(self) -> bool:
        """Whether the beginning of an operation is kept."""
        return bool(self._rest)

    def feed(self, data: bytes) -> list[tuple[bytes, bytes]]:
        """Takes bytes; gives each complete operation as (its line without the end, the payload of a MSG or else nothing).

        Raises:
            TalkError: a MSG without a size, or a payload that does not end where it should.
        """
        if self._rest:
            data = self._rest + data
        at, found = 0, []
        while (end := data.find(b"\r\n", at)) >= 0:
            line, after, payload = data[at:end], end + 2, b""
            if line[:4].upper() == b"MSG ":
                size = line.rpartition(b" ")[2]
                if not size.isdigit():
                    raise TalkError(f"a message without a size: {line!r}")
                start, after = after, after + int(size) + 2
                if after > len(data):
                    break
                payload = data[start : after - 2]
                if data[after - 2 : after] != b"\r\n":
                    raise TalkError(f"a message that is not as long as it says: {line!r}")
            found.append((line, payload))
            at = after
        self._rest = data[at:]
        return found


class NatsTalk:
    """One user; see `Talk`.

    Args:
        index: its number; its partner has the same but for the last bit.
        payload: bytes of content in a message.
    """

    __slots__ = ("_content", "_head", "_incoming", "_line", "_name", "_pack", "_reader", "_tail", "acked", "live")

    def __init__(self, index: int, payload: int) -> None:
        self.live = False
        self.acked = 0
        self._name = user_name(index)
        self._reader = OperationReader()
        self._content = letters(payload - 4)
        self._tail = self._content + b"\r\n"
        self._head = f"PUB {user_name(index ^ 1)} {payload}\r\n".encode()
        self._pack = struct.Struct(f">{len(self._head)}sI{len(self._tail)}s").pack
        self._line = f"MSG {self._name} {_SUBSCRIPTION} {payload}".encode()
        self._incoming = struct.Struct(f">{len(self._line) + 2}sI{len(self._tail)}s")

    def opening(self) -> bytes:
        """CONNECT, the subscription, and a PING whose PONG says that both are done."""
        return CONNECT + f"SUB {self._name} {_SUBSCRIPTION}\r\nPING\r\n".encode()

    def feed(self, data: bytes, out: list[bytes]) -> list[int]:
        """See `Talk.feed`."""
        if not self._reader.waiting and not len(data) % self._incoming.size:
            head, tail = self._line + b"\r\n", self._tail
            numbers = [number for line, number, content in self._incoming.iter_unpack(data) if line == head and content == tail]
            if len(numbers) * self._incoming.size == len(data):
                return numbers
        numbers = []
        for line, payload in self._reader.feed(data):
            if line == self._line:
                if payload[4:] != self._content:
                    raise TalkError(f"a message with another content than was sent: {payload!r}")
                numbers.append(int.from_bytes(payload[:4]))
            elif line == b"PING":
                out.append(b"PONG\r\n")
            elif line == b"PONG":
                self.live = True
            elif not line.startswith((b"INFO ", b"+OK")):
                raise TalkError(f"the server says {line.decode(errors='replace')}")
        return numbers

    def messages(self, first: int, count: int) -> bytes:
        """See `Talk.messages`."""
        head, tail, pack = self._head, self._tail, self._pack
        self.acked += count
        return b"".join([pack(head, number, tail) for number in range(first, first + count)])
