"""The directed route table over a mesh: each node knows who is where, and sends straight to the node that needs it.

Strategy: nodes find each other by their leases, and each two have one link, made by the one whose name is lower. On it each tells the other
of its sessions, and is *heard* once that is acknowledged: from then on the other sends it what is for it. So a message leaves its node only
for nodes that hold one of its audience, in one copy for each; who is left out is nobody's guess, since a node that is not heard is read for
(`twisted_im.server.doubt`).

    lease of the other ──► link up ──► my sessions, whole ──► acknowledged: heard
                                       ◄── its sessions: the table
    attach, detach     ──► told to all whose links are up; a login waits for their acknowledgements, a second at most
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import Deferred, DeferredList, inlineCallbacks
from zope.interface import implementer

from twisted_im.routing.incoming import Incoming
from twisted_im.routing.link import Attachment, Link, Peer, Reached
from twisted_im.routing.linking import Ends, Linker, Links
from twisted_im.routing.table_memory import MemoryTable
from twisted_im.server.interfaces import Envelope, IRouter, Look
from twisted_im.wire.schema import Role


def attachment(session: Any) -> Attachment:
    """A session as other nodes know it."""
    return Attachment(session.user, session.device, session.number)


@implementer(IRouter)
class MeshRouter:
    """The routed strategy with links between the nodes.

    Args:
        ends: where other nodes' links are taken, and where those to them lead.
        links: see `Links`: `limits`, `random`, `chance`.
    """

    strategy = "routed"
    links = True

    def __init__(self, ends: Ends, **links: Any) -> None:
        self._ends = ends
        self._options = links
        self._up: Any = None
        self._links: Any = None
        self._incoming: Any = None
        self._table = MemoryTable()
        self._heard: dict[str, Link] = {}
        self._linkers: dict[tuple[str, bytes, str], Linker] = {}

    @inlineCallbacks
    def start(self, up: Any) -> Any:
        self._up = up
        self._incoming = Incoming(up)
        ends = self._ends
        if ends.port is None:
            raise ValueError("every node of a mesh takes links, and this one has no port for them")
        self._links = Links(Peer(Role.PEER, up.name, up.boot), self, up.turn, secret=ends.secret, **self._options)
        address = yield self._links.listen(ends.port, ends.scheme)
        up.announce(address)
        up.watch(self._look)

    def stop(self) -> Deferred[None] | None:
        if self._links is None:
            return None
        self._incoming.stop()
        links, self._links = self._links, None
        self._linkers.clear()
        stopped: Deferred[None] = links.stop()
        return stopped

    @property
    def known(self) -> int:
        """Sessions elsewhere that it knows of."""
        return self._table.entries

    # ---- who is there

    def _look(self, look: Look) -> None:
        """Keeps links to those who live and are to be connected to from here."""
        if self._links is None:
            return
        wanted = {(lease.node, lease.boot, lease.address): None for lease in look.leases if lease.address and lease.node > self._up.name}
        for key in [key for key in self._linkers if key not in wanted]:
            self._linkers.pop(key).stop()
        for key in wanted:
            if key not in self._linkers:
                node, boot, address = key
                try:
                    endpoint = self._ends.reach(address)
                except ValueError as error:
                    self._links.say(address, f"no link to node {node}: {error}")
                    continue
                self._linkers[key] = self._links.connect(endpoint, address, Peer(Role.PEER, node, boot))

    def link_up(self, link: Link) -> None:
        rows = [attachment(session) for session in self._up.sessions]
        link.attach(rows, whole=True).addCallback(self._acknowledged, link)

    def _acknowledged(self, done: bool, link: Link) -> None:
        if done and link.up:
            self._heard[link.peer.name] = link
            self._up.heard(link.peer.name)

    def link_down(self, link: Link) -> None:
        name = link.peer.name
        self._table.forget(name)
        if self._heard.get(name) is link:
            del self._heard[name]
            self._up.doubt(name, link.heard)

    def attached(self, link: Link, rows: Sequence[Attachment], whole: bool) -> None:
        self._table.put(link.peer.name, rows, whole=whole)

    def detached(self, link: Link, rows: Sequence[Attachment]) -> None:
        self._table.remove(link.peer.name, rows)

    def nodes(self, link: Link, rows: Sequence[Reached]) -> None:
        """Route servers have no place in a mesh."""

    def forwarded(self, link: Link, envelopes: Sequence[Envelope]) -> None:
        self._incoming.came(envelopes)

    # ---- sessions and envelopes

    def attach(self, session: Any) -> Deferred[Any] | None:
        self._incoming.attach(session.user)
        told = [link.attach([attachment(session)]) for link in self._links]
        return DeferredList(told, consumeErrors=True) if told else None  # who does not wait any more leaves them alone

    def detach(self, session: Any) -> None:
        self._incoming.detach(session.user)
        if self._links is not None:
            for link in self._links:
                link.detach([attachment(session)])

    def route(self, envelopes: Sequence[Envelope]) -> int:
        reached: int = self._incoming.own(envelopes)
        batches: dict[str, list[Envelope]] = {}
        for frame, audience, origin in envelopes:
            for node, users in self._table.nodes_of(audience).items():
                batches.setdefault(node, []).append((frame, tuple(users), origin))
        for node, batch in batches.items():
            link = self._links.get(Role.PEER, node)
            if link is not None:
                link.forward(batch)
                self._up.counters.copies_sent += len(batch)
        return reached
