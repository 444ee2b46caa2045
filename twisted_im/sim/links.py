"""The links between the hosts of a world: how long a packet takes, and whether it gets there at all.

Strategy: each direction of each link has a latency of its own, drawn once, and can be broken or made slow by whoever runs the world; what
breaks a link gives back what mends it. Nothing here knows of connections.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from twisted_im.sim.agenda import Agenda
from twisted_im.sim.trace import Trace

#: Bytes that a sender's kernel takes before it has to wait, and that a receiver's holds for a reader, unless somebody says otherwise:
#: Linux begins with 16 KiB and 128 KiB; less here, so that full buffers are met often.
SEND_BUFFER = 32 * 1024
RECEIVE_BUFFER = 64 * 1024


class Links:
    """The hosts of a world, and what is between them.

    Args:
        chance: for latencies and the sizes of segments.
        trace: is told of everything.

    Attributes:
        latencies: (lowest, highest) base latency of a link, in seconds; each direction of each link draws its own from it.
        buffers: bytes of a sender's and of a receiver's kernel; see `SEND_BUFFER`.
        refusing: hosts that refuse new connections.
        dark: hosts without power.
        slow: host → seconds that it lets pass between two reads, and bytes that it reads at a time.
    """

    def __init__(self, agenda: Agenda, chance: Random, trace: Trace) -> None:
        self.agenda = agenda
        self.chance = chance
        self.trace = trace
        self.latencies = 0.0002, 0.01
        self.buffers = SEND_BUFFER, RECEIVE_BUFFER
        self.refusing: dict[str, int] = {}
        self.dark: dict[str, None] = {}
        self.slow: dict[str, tuple[float, int]] = {}
        self._bases: dict[tuple[str, str], float] = {}
        self._broken: dict[tuple[str, str], int] = {}
        self._clogged: dict[tuple[str, str], float] = {}
        self._names: dict[str, str] = {}

    # ---- who is there

    def join(self, name: str) -> str:
        """A new host; gives its address."""
        number = len(self._names) + 1
        host = f"10.0.{number >> 8}.{number & 0xFF}"
        self._names[host] = name
        return host

    def name_of(self, host: str) -> str:
        """The process of an address; the address itself if there is none."""
        return self._names.get(host, host)

    def address_of(self, name: str) -> str:
        """The address of a process; empty if there is none."""
        return next((host for host, known in self._names.items() if known == name), "")

    # ---- packets

    def latency(self, source: str, target: str) -> float:
        """Seconds that one segment takes, this time."""
        link = source, target
        base = self._bases.get(link)
        if base is None:
            low, high = self.latencies
            base = self._bases[link] = low * (high / low) ** self.chance.random()
        base *= self._clogged.get(link, 1.0)
        return base * (1.0 + self.chance.random() * (0.2 if self.chance.random() < 0.95 else 10.0))

    def carries(self, source: str, target: str) -> bool:
        """Whether a packet gets there."""
        return (source, target) not in self._broken and source not in self.dark and target not in self.dark

    def partition(self, source: str, target: str) -> Callable[[], None]:
        """Breaks one direction of a link; call what is given to mend it. Breaks nest."""
        link = source, target
        self._broken[link] = self._broken.get(link, 0) + 1

        def mend() -> None:
            self._broken[link] -= 1
            if not self._broken[link]:
                del self._broken[link]

        return mend

    def clog(self, source: str, target: str, factor: float) -> Callable[[], None]:
        """Makes one direction of a link slow; call what is given to mend it."""
        link = source, target
        self._clogged[link] = self._clogged.get(link, 1.0) * factor

        def mend() -> None:
            self._clogged[link] /= factor

        return mend

    def reset(self, source: Any, target: Any) -> None:
        """Tells an end that the other side knows nothing of this connection (RST). One packet, and nobody sends it again."""
        if self.carries(source.host, target.host):
            self.agenda.at(self.agenda.now + self.latency(source.host, target.host), None, target.was_reset)
