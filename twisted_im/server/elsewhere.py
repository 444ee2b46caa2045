"""The other nodes, as places where this one's clients may go.

Strategy: each node's lease says where clients reach it, and how many it has; one that is about to stop says nothing there, so nobody
sends clients to it. A client goes to the place with the fewest, and counts there at once, until the next look at the leases knows better:
so a crowd spreads. It stays with its kind of connection, TLS or not, and who comes from the network is not sent to an address that only
this machine has.

    addresses in a lease    "im-1.example.org:7777 tls:im-1.example.org:7778"
                             └ without a kind: for every client
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from twisted_im.server.interfaces import Look

_LOCAL = re.compile(r"127\.|\[::1\]|::1:|\[?::ffff:127\.|localhost:")


def _is_local(address: str) -> bool:
    """Whether an address with a port, or a peer, is on this machine."""
    return _LOCAL.match(address) is not None


@dataclass(slots=True)
class _Place:
    """One node: its clients, and its addresses, each as (kind or "", "host:port", whether only its own machine reaches that)."""

    load: int
    addresses: tuple[tuple[str, str, bool], ...]

    def address(self, kind: str, local: bool) -> str:
        """The first that such a client can use."""
        return next((where for takes, where, here in self.addresses if takes in ("", kind) and (local or not here)), "")


class Elsewhere:
    """Where the clients of one node may go.

    Args:
        name: the node's.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._places: dict[str, _Place] = {}

    def look(self, look: Look) -> None:
        """The leases were looked at."""
        self._places = {
            lease.node: _Place(lease.load, tuple(map(_read, lease.clients.split())))
            for lease in look.leases
            if lease.node != self._name and lease.clients
        }

    def __len__(self) -> int:
        """How many other nodes take clients."""
        return len(self._places)

    def shares(self, clients: str) -> bool:
        """Whether another node is reached at one of these addresses too: as processes are that share a port."""
        own = {_read(each)[1] for each in clients.split()}
        return any(where in own for place in self._places.values() for _, where, _ in place.addresses)

    def place(self, peer: str, *, secure: bool, below: float = math.inf) -> str:
        """Where one client is to go, and counts from now on.

        Args:
            peer: where it comes from; see `Pump.peer`.
            secure: over TLS.
            below: only to nodes that have fewer clients.

        Returns:
            "host:port"; empty if there is no such place for it.
        """
        if peer == "unix":
            return ""
        kind, local = "tls" if secure else "tcp", _is_local(peer)
        able = [(place.load, name) for name, place in self._places.items() if place.load < below and place.address(kind, local)]
        if not able:
            return ""
        place = self._places[min(able)[1]]
        place.load += 1
        return place.address(kind, local)


def _read(address: str) -> tuple[str, str, bool]:
    kind, where = (address[:3], address[4:]) if address.startswith(("tcp:", "tls:")) else ("", address)
    return kind, where, _is_local(where)


def reachable(addresses: Sequence[tuple[str, str]]) -> str:
    """What a lease says of these ports: those that a client could reach.

    Args:
        addresses: of each port the kind, "tcp" or "tls", or "" for any that clients cannot come to by an address; and "host:port".
    """
    return " ".join(f"{kind}:{where}" for kind, where in addresses if kind and not where.startswith(("0.0.0.0:", "[::]:")))
