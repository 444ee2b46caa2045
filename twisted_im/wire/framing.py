"""Bytes in, whole frames out; every header is judged before anything of its body is kept.

Strategy: one function over one buffer. The common case — a read that holds only whole frames — copies nothing but the bodies. An
unfinished frame is kept as the bytes that have come, and only after its length has passed the cap, so no peer can make a
receiver reserve more than cap + 16 bytes (and the eighth that a growing buffer has to spare). It is not looked at again before it is
whole, so what a frame costs does not depend on how many reads it takes. A fault does not hide the good frames before it.
"""

from __future__ import annotations

from twisted_im.errors import Disconnect, RemoteProtocolError
from twisted_im.wire.codec import HEADER
from twisted_im.wire.codec import tag as codec_tag
from twisted_im.wire.schema import HEADER_SIZE, VERSION, Kind

#: A received frame: (tag, request id, flags << 16 | status, body). A plain tuple: there is one for each frame on the hot path.
Frame = tuple[int, int, int, bytes]

#: The tags of this version's three kinds differ from the lowest in no bit above these, whatever the command.
_LOWEST = codec_tag(min(Kind), 0)
_BELOW = codec_tag(max(Kind), 0xFFFF) ^ _LOWEST
_UNPACK = HEADER.unpack_from


class FrameReader:
    """The receiving side of one byte stream.

    Args:
        cap: the largest body taken, in bytes; it may be changed between reads.

    Attributes:
        kept: what has come of a frame that is not whole.
        fault: why nothing more is read.
    """

    __slots__ = ("_whole", "cap", "fault", "kept")

    def __init__(self, cap: int) -> None:
        self.cap = cap
        self.kept: bytes | bytearray = b""
        self._whole = 0  #: bytes that `kept` must reach to be worth a look: a header's, or a whole frame's
        self.fault: RemoteProtocolError | None = None

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that are now whole. After a fault (`fault` is set) it gives nothing more."""
        frames: list[Frame] = []
        if self.fault is not None:
            return frames
        kept = self.kept
        if kept:
            if len(kept) + len(data) < self._whole:
                if isinstance(kept, bytes):
                    kept = self.kept = bytearray(kept)
                kept += data
                return frames
            data = b"".join((kept, data))
        at, end, cap, add = 0, len(data), self.cap, frames.append
        last_header = end - HEADER_SIZE
        while at <= last_header:
            length, tag, request_id, word = _UNPACK(data, at)
            if length > cap or tag ^ _LOWEST > _BELOW:
                self.fault = self._judge(length, tag)
                self.kept = b""
                return frames
            start = at + HEADER_SIZE
            stop = start + length
            if stop > end:
                break
            add((tag, request_id, word, data[start:stop]))
            at = stop
        if at < end:
            self.kept = data[at:]
            self._whole = HEADER_SIZE + length if at <= last_header else HEADER_SIZE
        else:
            self.kept = b""
        return frames

    def _judge(self, length: int, tag: int) -> RemoteProtocolError:
        version, kind = tag >> 24, tag >> 16 & 0xFF
        if kind > max(Kind):
            return RemoteProtocolError(Disconnect.MALFORMED, f"not a frame of this protocol: kind {kind}")
        if version != VERSION:
            return RemoteProtocolError(Disconnect.VERSION, f"version {version}; this side speaks {VERSION}")
        return RemoteProtocolError(Disconnect.TOO_LARGE, f"a body of {length} bytes, where {self.cap} are the cap")
