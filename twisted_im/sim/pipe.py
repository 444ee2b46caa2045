"""One direction of a TCP connection, as two kernels see it.

Strategy: bytes wait in the sender's buffer, fly in segments of random sizes, and lie in the receiver's buffer until they are read. Both
buffers are bounded, so a reader that stops makes its writer wait. TCP neither loses nor reorders bytes within a connection, so a broken
link only holds them back: the first segment is sent again, with growing pauses, and the others stay behind it.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from twisted_im.sim.links import Links

#: Bytes in a segment, at most (Ethernet).
SEGMENT = 1460
#: Seconds until a segment is sent again for the first time, and the longest pause (RFC 6298; Linux has 200 ms and 120 s).
RESEND, LONGEST_RESEND = 0.2, 30.0


class Pipe:
    """One direction of a connection.

    Attributes:
        taken: bytes that the receiver's kernel has acknowledged, in all, as far as the sender's has heard of it.
        inbox: bytes that are there to be read.
        ended: the sender has ended its stream, and everything before that is in `inbox` or was read.
    """

    __slots__ = (
        "_arrived", "_chance", "_due", "_end", "_ended_at_source", "_flight", "_flying", "_links", "_resend", "_waiting",
        "dead", "ended", "inbox", "receiver", "sender", "taken",
    )  # fmt: skip

    def __init__(self, links: Links) -> None:
        self._links = links
        self._chance = links.chance
        self.sender: Any = None
        self.receiver: Any = None
        self._waiting = bytearray()
        self._flight: deque[tuple[float, bytes]] = deque()
        self._flying = 0
        self._due = 0.0
        self._end = self._ended_at_source = False
        self._resend = RESEND
        self.inbox = bytearray()
        self._arrived = self.taken = 0
        self.ended = False
        self.dead = False

    @property
    def room(self) -> int:
        """Bytes that the sender's kernel takes now: it keeps a copy of each until it is acknowledged."""
        return self._links.buffers[0] - len(self._waiting) - self._flying - (self._arrived - self.taken)

    def write(self, data: bytes) -> int:
        """Takes what there is room for, and gives how much that was."""
        taken = min(len(data), self.room)
        if taken > 0 and not self.dead:
            self._waiting += data[:taken]
            self.fly()
            return taken
        return 0

    def end(self) -> None:
        """The sender ends its stream: the other side learns it after the last byte."""
        self._end = True
        self.fly()

    def fly(self) -> None:
        """Sends as much as the receiver has room for."""
        waiting = self._waiting
        while waiting and not self.dead and self._flying + len(self.inbox) < self._links.buffers[1]:
            size = SEGMENT if self._chance.random() < 0.8 else self._chance.randint(1, SEGMENT)
            segment = bytes(waiting[:size])
            del waiting[:size]
            self._send(segment)
        if self._end and not waiting and not self._ended_at_source and not self.dead:
            self._ended_at_source = True
            self._send(b"")

    def _send(self, segment: bytes) -> None:
        links = self._links
        self._due = max(self._due, links.agenda.now + links.latency(self.sender.host, self.receiver.host))
        self._flying += len(segment)
        self._flight.append((self._due, segment))
        if len(self._flight) == 1:
            links.agenda.at(self._due, None, self._arrive)

    def _arrive(self) -> None:
        """The first segment on its way reaches the other machine, if the link carries it."""
        if self.dead or not self._flight:
            return
        links, sender, receiver = self._links, self.sender, self.receiver
        now = links.agenda.now
        carries = links.carries(sender.host, receiver.host)
        if not carries or receiver.closed:
            if carries:
                links.reset(receiver, sender)  # which may be lost
            elif self._resend == RESEND:
                links.trace.note(now, "delay", sender.name, receiver.name, f"{self._flying} bytes")
            links.agenda.at(now + self._resend, None, self._arrive)
            self._resend = min(self._resend * 2, LONGEST_RESEND)
            return
        self._resend = RESEND
        _, segment = self._flight.popleft()
        self._flying -= len(segment)
        if segment:
            self.inbox += segment
            self._arrived += len(segment)
        else:
            self.ended = True
        receiver.readable()
        self._acknowledge()
        if self._flight:
            links.agenda.at(self._flight[0][0], None, self._arrive)

    def _acknowledge(self) -> None:
        """The receiver's kernel says how much it has taken, and that it has room."""
        links = self._links
        links.agenda.at(links.agenda.now + links.latency(self.receiver.host, self.sender.host), None, self._heard, self._arrived)

    def _heard(self, arrived: int) -> None:
        """The sender learns that bytes have been taken, or were read."""
        if self.dead:
            return
        if not self._links.carries(self.receiver.host, self.sender.host):
            if arrived == self._arrived:  # else a later one says it too
                self._links.agenda.at(self._links.agenda.now + 0.5, None, self._heard, arrived)
            return
        self.taken = max(self.taken, arrived)
        self.fly()
        if not self.sender.gone:
            self.sender.writable()

    def read(self, most: int) -> bytes:
        """Takes bytes out of the receiver's buffer."""
        full = self._flying + len(self.inbox) >= self._links.buffers[1]
        data = bytes(self.inbox[:most])
        del self.inbox[:most]
        if full and data:
            self._acknowledge()
        return data

    def die(self) -> None:
        """Nothing of it arrives any more, and what has is gone."""
        self.dead = True
        self._waiting.clear()
        self._flight.clear()
        self.inbox.clear()
        self._flying = 0
