"""MQTT 3.1.1 as the load speaks it: a topic for each user, QoS 0 or 1 (OASIS, "MQTT Version 3.1.1").

Strategy: packets are cut at their length field and no further; a PUBLISH is then one `struct`, since topics and contents are of one size.
With QoS 1 the session is a persistent one (clean session 0), for that is what a server needs to keep messages for those who are away.
"""

from __future__ import annotations

import struct

from benchmarks.peers.talk import TalkError, letters, user_name

# Section 2.2.1: packet types, in the upper half of the first byte; section 2.2.2: SUBSCRIBE has a flag that must be set.
CONNECT, CONNACK, PUBLISH, PUBACK, SUBSCRIBE, SUBACK, PINGRESP, DISCONNECT = 0x10, 0x20, 0x30, 0x40, 0x82, 0x90, 0xD0, 0xE0
QOS_1 = 1 << 1

MAX_LENGTH = 268_435_455  #: section 2.2.3: the largest remaining length that four bytes can say

_PACKET_IDS = 65_535


def packet(first: int, body: bytes) -> bytes:
    """A packet: its first byte, the length of what remains in 7 bits a byte, and what remains."""
    length, coded = len(body), bytearray()
    while True:
        length, low = divmod(length, 128)
        coded.append(low | 128 if length else low)
        if not length:
            return bytes((first, *coded)) + body


def text(value: str) -> bytes:
    """Section 1.5.3: a string with its length in front."""
    coded = value.encode()
    return struct.pack(">H", len(coded)) + coded


class PacketReader:
    """Cuts a stream of bytes into packets."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """Takes bytes; gives (first byte, what remains) of each packet that is complete.

        Raises:
            TalkError: a length of more than four bytes.
        """
        if self._rest:
            data = self._rest + data
        at, end, found = 0, len(data), []
        while at + 2 <= end:
            length, start = data[at + 1], at + 2
            if length > 127:
                length &= 127
                for shift in (7, 14, 21):
                    if start == end:
                        length = MAX_LENGTH
                        break
                    more = data[start]
                    start += 1
                    length |= (more & 127) << shift
                    if more < 128:
                        break
                else:
                    raise TalkError("a packet's length takes more than four bytes")
            if start + length > end:
                break
            found.append((data[at], data[start : start + length]))
            at = start + length
        self._rest = data[at:]
        return found


class MqttTalk:
    """One user; see `Talk`.

    Args:
        index: its number; its partner has the same but for the last bit.
        payload: bytes of content in a message.
        qos: 0 or 1.
    """

    __slots__ = ("_content", "_head", "_name", "_own", "_pack", "_qos", "_reader", "_unpack", "acked", "live")

    def __init__(self, index: int, payload: int, qos: int) -> None:
        self.live = False
        self.acked = 0
        self._qos = qos
        self._name = user_name(index)
        self._own = text(self._name)
        self._reader = PacketReader()
        self._content = letters(payload - 4)
        topic = text(user_name(index ^ 1))
        body = struct.Struct(f">{len(topic)}s{'H' if qos else ''}I{payload - 4}s")
        head = packet(PUBLISH | (QOS_1 if qos else 0), bytes(body.size))[: -body.size] + topic
        self._head = head
        self._pack = struct.Struct(f">{len(head)}s{'H' if qos else ''}I{payload - 4}s").pack
        self._unpack = body.unpack

    def opening(self) -> bytes:
        """CONNECT, with nobody's keepalive (section 3.1)."""
        clean = 0 if self._qos else 2
        return packet(CONNECT, text("MQTT") + bytes((4, clean, 0, 0)) + self._own)

    def feed(self, data: bytes, out: list[bytes]) -> list[int]:
        """See `Talk.feed`."""
        numbers: list[int] = []
        for first, body in self._reader.feed(data):
            kind = first & 0xF0
            if kind == PUBLISH:
                self._take(body, numbers, out)
            elif kind == PUBACK:
                self.acked += 1
            else:
                self._take_rare(kind, body, out)
        return numbers

    def _take(self, body: bytes, numbers: list[int], out: list[bytes]) -> None:
        try:
            topic, *packet_id, number, content = self._unpack(body)
        except struct.error:
            raise TalkError(f"a message of {len(body)} bytes, which is not what was sent") from None
        if topic != self._own or content != self._content:
            raise TalkError(f"a message with another topic or content than was sent: {body!r}")
        numbers.append(number)
        if packet_id:
            out.append(b"\x40\x02" + body[len(topic) : len(topic) + 2])

    def _take_rare(self, kind: int, body: bytes, out: list[bytes]) -> None:
        if kind == CONNACK:
            if body[1]:
                raise TalkError(f"the server refuses the connection, return code {body[1]}")
            out.append(packet(SUBSCRIBE, b"\x00\x01" + self._own + bytes((self._qos,))))
        elif kind == SUBACK & 0xF0:
            if body[2] != self._qos:
                raise TalkError(f"the server grants a subscription of {body[2]:#x} instead of QoS {self._qos}")
            self.live = True
        elif kind != PINGRESP:
            raise TalkError(f"a packet of type {kind >> 4}, which nobody has asked for")

    def messages(self, first: int, count: int) -> bytes:
        """See `Talk.messages`."""
        head, content, pack, numbers = self._head, self._content, self._pack, range(first, first + count)
        if self._qos:
            return b"".join([pack(head, (number - 1) % _PACKET_IDS + 1, number, content) for number in numbers])
        self.acked += count
        return b"".join([pack(head, number, content) for number in numbers])
