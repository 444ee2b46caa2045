"""What is in the bytes of a stream: the names of frames, for people who look at a trace."""

from __future__ import annotations

from collections import Counter

from twisted_im.wire.codec import HEADER
from twisted_im.wire.schema import Command, Kind

#: Bytes of a body beyond which these are not frames of ours.
LARGEST = 16 * 2**20

_KINDS = {kind.value: kind.name.lower() for kind in Kind}
_COMMANDS = {command.value: command.name for command in Command}


class Names:
    """Follows one direction of one connection."""

    def __init__(self) -> None:
        self._head = b""
        self._left = 0
        self._foreign = False

    def of(self, data: bytes) -> str:
        """The frames that begin in these bytes, such as "request MESSAGE, 2 notify RECEIPT"; nothing if none does, or they are not ours."""
        found: Counter[str] = Counter()
        at = 0
        while at < len(data) and not self._foreign:
            if self._left:
                step = min(self._left, len(data) - at)
                self._left -= step
                at += step
                continue
            step = min(HEADER.size - len(self._head), len(data) - at)
            self._head += data[at : at + step]
            at += step
            if len(self._head) == HEADER.size:
                self._left, tag, _, status = HEADER.unpack(self._head)
                self._head = b""
                kind, command = _KINDS.get(tag >> 16 & 0xFF), tag & 0xFFFF
                self._foreign = kind is None or self._left > LARGEST
                refused = " refused" if status & 0xFFFF else ""
                found[f"{kind} {_COMMANDS.get(command, f'0x{command:04x}')}{refused}"] += 1
        if self._foreign:
            return ""
        return ", ".join(f"{count} {name}" if count > 1 else name for name, count in found.items())
