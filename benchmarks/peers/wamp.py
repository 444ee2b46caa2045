"""WAMP as the load speaks it: publish and subscribe over RawSocket, in JSON (wamp-proto.org, "The Web Application Messaging Protocol").

Strategy: RawSocket cuts the stream by length; what is inside goes through the standard library's JSON, which is written in C.
"""

from __future__ import annotations

import json
from typing import Any

from benchmarks.peers.talk import NUMBER_DIGITS, TalkError, letters, user_name

REALM = "load"

# Section "Message Codes and Direction".
HELLO, WELCOME, PUBLISH, SUBSCRIBE, SUBSCRIBED, EVENT = 1, 2, 16, 32, 33, 36

#: RawSocket's handshake: the magic byte; the largest length, 2 ** (9 + 15) bytes, and JSON; two reserved bytes.
HANDSHAKE = bytes((0x7F, 15 << 4 | 1, 0, 0))

_HEAD = 4
_MESSAGE, _PING, _PONG = 0, 1, 2


def frame(body: bytes, kind: int = _MESSAGE) -> bytes:
    """A frame of RawSocket: its kind, its length in three bytes, and the body."""
    return bytes((kind,)) + len(body).to_bytes(3) + body


def coded(*message: object) -> bytes:
    """A message of WAMP in its frame."""
    return frame(json.dumps(message).encode())


class FrameReader:
    """Cuts a stream of bytes into frames, after the server's handshake."""

    __slots__ = ("_rest", "_shaken")

    def __init__(self) -> None:
        self._rest = b""
        self._shaken = False

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """Takes bytes; gives (kind, body) of each frame that is complete.

        Raises:
            TalkError: the server refuses the handshake.
        """
        if self._rest:
            data = self._rest + data
        at, end, found = 0, len(data), []
        if not self._shaken and end >= _HEAD:
            if data[0] != HANDSHAKE[0] or data[1] & 15 != 1:
                raise TalkError(f"the server answers the handshake with {data[:_HEAD].hex()}")
            self._shaken, at = True, _HEAD
        while self._shaken and at + _HEAD <= end:
            after = at + _HEAD + int.from_bytes(data[at + 1 : at + _HEAD])
            if after > end:
                break
            found.append((data[at], data[at + _HEAD : after]))
            at = after
        self._rest = data[at:]
        return found


class WampTalk:
    """One user; see `Talk`.

    Args:
        index: its number; its partner has the same but for the last bit.
        payload: bytes of content in a message.
    """

    __slots__ = ("_content", "_name", "_publish", "_reader", "acked", "live")

    def __init__(self, index: int, payload: int) -> None:
        self.live = False
        self.acked = 0
        self._name = user_name(index)
        self._reader = FrameReader()
        self._content = letters(payload - NUMBER_DIGITS).decode()
        self._publish = f'[{PUBLISH},%d,{{}},"{REALM}.{user_name(index ^ 1)}",["%0{NUMBER_DIGITS}d{self._content}"]]'.encode()

    def opening(self) -> bytes:
        """The handshake, and what would follow its answer."""
        return HANDSHAKE + coded(HELLO, REALM, {"roles": {"publisher": {}, "subscriber": {}}})

    def feed(self, data: bytes, out: list[bytes]) -> list[int]:
        """See `Talk.feed`."""
        numbers: list[int] = []
        for kind, body in self._reader.feed(data):
            if kind == _MESSAGE:
                message = json.loads(body)
                if message[0] == EVENT:
                    (content,) = message[4]
                    if content[NUMBER_DIGITS:] != self._content:
                        raise TalkError(f"a message with another content than was sent: {content!r}")
                    numbers.append(int(content[:NUMBER_DIGITS]))
                else:
                    self._take_rare(message, out)
            elif kind == _PING:
                out.append(frame(body, _PONG))
        return numbers

    def _take_rare(self, message: list[Any], out: list[bytes]) -> None:
        if message[0] == WELCOME:
            out.append(coded(SUBSCRIBE, 1, {}, f"{REALM}.{self._name}"))
        elif message[0] == SUBSCRIBED:
            self.live = True
        else:
            raise TalkError(f"the server says {message}")

    def messages(self, first: int, count: int) -> bytes:
        """See `Talk.messages`."""
        publish = self._publish
        self.acked += count
        return b"".join([frame(publish % (number, number)) for number in range(first, first + count)])
