"""Who is where, as other nodes have said: a route table in memory.

Strategy: each node keeps what each of its peers has attached, and forgets it with the link: what is here is no older than the link that it
came by, so an entry can only be stale for as long as a detach is on its way. A table of a route server is of the same kind.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from zope.interface import implementer

from twisted_im.routing.link import Attachment
from twisted_im.server.interfaces import IRouteTable


@implementer(IRouteTable)
class MemoryTable:
    """User → the nodes that have sessions of theirs, as these have said.

    Attributes:
        entries: sessions that are known.
    """

    told = True
    place = b""

    def __init__(self) -> None:
        self._nodes: dict[bytes, dict[str, int]] = {}  # user → node → how many devices
        self._sessions: dict[str, dict[tuple[bytes, bytes], int]] = {}  # node → (user, device) → session
        self.entries = 0

    def start(self, up: Any) -> None:
        """There is nothing to be begun."""

    def stop(self) -> None:
        """Nor ended."""

    def put(self, node: str, rows: Iterable[Attachment], *, whole: bool = False) -> None:
        """Sessions of a node have come; with `whole` it has no others."""
        if whole:
            self.forget(node)
        sessions = self._sessions.setdefault(node, {})
        for user, device, session in rows:
            if (user, device) not in sessions:
                nodes = self._nodes.setdefault(user, {})
                nodes[node] = nodes.get(node, 0) + 1
                self.entries += 1
            sessions[user, device] = max(session, sessions.get((user, device), 0))

    def remove(self, node: str, rows: Iterable[Attachment]) -> None:
        """Sessions of a node have gone: exactly these, and not a newer one of the device."""
        sessions = self._sessions.get(node, {})
        for user, device, session in rows:
            if sessions.get((user, device)) == session:
                del sessions[user, device]
                self._take_off(user, node)

    def forget(self, node: str) -> None:
        """Nothing is known of a node any more."""
        for user, _ in self._sessions.pop(node, {}):
            self._take_off(user, node)

    def _take_off(self, user: bytes, node: str) -> None:
        nodes = self._nodes[user]
        nodes[node] -= 1
        self.entries -= 1
        if not nodes[node]:
            del nodes[node]
            if not nodes:
                del self._nodes[user]

    def stray(self, users: Sequence[bytes]) -> None:
        """Nothing is to be mended: word that they have gone is on its way."""

    def nodes_of(self, audience: Sequence[bytes]) -> dict[str, list[bytes]]:
        """Node → those of an audience who have sessions there."""
        found: dict[str, list[bytes]] = {}
        for user in audience:
            for node in self._nodes.get(user, ()):
                found.setdefault(node, []).append(user)
        return found
