"""The directed route table over a mesh: each node knows who is where, and sends straight to the node that needs it.

Strategy: nodes find each other by their leases, and each two have one link, made by the one whose name is lower. On it each tells the other
of its sessions, and is *heard* once that is acknowledged: from then on the other sends it what is for it. So a message leaves its node only
for nodes that hold one of its audience, in one copy for each; who is left out is nobody's guess, since a node that is not heard is read for
(`twisted_im.server.doubt`).

    lease of the other ──► link up ──► my sessions, whole ──► acknowledged: heard
                                       ◄── its sessions: the table
    attach, detach     ──► told to all whose links are up; a login waits for their acknowledgements, a second at most

With a table elsewhere (`twisted_im.routing.table_redis`) the links are the same, and the table is told instead of the peers: what each
acknowledges is then that it is linked, and keeps its sessions in the same place. One that keeps them elsewhere is never heard. Frames
wait for the table's answers in one queue, so none overtakes another.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import Deferred, DeferredList, inlineCallbacks, maybeDeferred
from zope.interface import implementer

from twisted_im.routing.handshake import Peer
from twisted_im.routing.incoming import Incoming
from twisted_im.routing.link import Attachment, Link, Reached
from twisted_im.routing.linking import Ends, Linker, Links
from twisted_im.routing.table_memory import MemoryTable
from twisted_im.server.interfaces import EVERYWHERE, Envelope, IRouter, Look
from twisted_im.wire.schema import Role


def attachment(session: Any) -> Attachment:
    """A session as other nodes know it."""
    return Attachment(session.user, session.device, session.number)


@implementer(IRouter)
class MeshRouter:
    """The routed strategy with links between the nodes.

    Args:
        ends: where other nodes' links are taken, and where those to them lead.
        table: an `IRouteTable`; by default one in memory.
        links: see `Links`: `limits`, `random`, `chance`.

    Attributes:
        waiting: frames whose nodes are being looked for, in order: [envelope, nodes or None].
    """

    strategy = "routed"
    links = True

    def __init__(self, ends: Ends, *, table: Any = None, **links: Any) -> None:
        self._ends = ends
        self._options = links
        self._up: Any = None
        self._links: Any = None
        self._incoming: Any = None
        self._table: Any = MemoryTable() if table is None else table
        self._heard: dict[str, Link] = {}
        self._acknowledged: dict[Link, None] = {}
        self._same_place: dict[Link, None] = {}  # both sides keep their sessions there
        self.waiting: deque[list[Any]] = deque()
        self._linkers: dict[tuple[str, bytes, str], Linker] = {}

    @inlineCallbacks
    def start(self, up: Any) -> Any:
        self._up = up
        self._incoming = Incoming(up, hops=1)
        ends = self._ends
        if ends.port is None:
            raise ValueError("every node of a mesh takes links, and this one has no port for them")
        self._links = Links(Peer(Role.PEER, up.name, up.boot), self, up.turn, secret=ends.secret, **self._options)
        address = yield self._links.listen(ends.port, ends.scheme)
        yield self._table.start(up)
        if self._links is None:
            return  # stopped meanwhile
        up.announce(address)
        up.watch(self._look)

    def stop(self) -> Deferred[Any] | None:
        if self._links is None:
            return None
        self._incoming.stop()
        links, self._links = self._links, None
        self._linkers.clear()
        return DeferredList([maybeDeferred(self._table.stop), links.stop()], consumeErrors=True)

    @property
    def elsewhere(self) -> int:
        """Sessions elsewhere that a table in memory knows of."""
        count: int = self._table.entries
        return count

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
        rows = [attachment(session) for session in self._up.sessions] if self._table.told else []
        if self._table.place:
            rows.append(Attachment(b"", self._table.place.ljust(16, b"\0"), 0))  # no user has an empty name
        link.attach(rows, whole=True).addCallback(self._whole_acknowledged, link)

    def _whole_acknowledged(self, done: bool, link: Link) -> None:
        if done and link.up:
            self._acknowledged[link] = None
            self._judge(link)

    def _judge(self, link: Link) -> None:
        """Hears the other side, if that is so now."""
        if link in self._acknowledged and link in self._same_place and self._heard.get(link.peer.name) is not link:
            self._heard[link.peer.name] = link
            self._up.heard(link.peer.name)

    def link_down(self, link: Link) -> None:
        name = link.peer.name
        self._table.forget(name)
        self._acknowledged.pop(link, None)
        self._same_place.pop(link, None)
        if self._heard.get(name) is link:
            del self._heard[name]
            self._up.doubt(name, link.heard)

    def attached(self, link: Link, rows: Sequence[Attachment], whole: bool) -> None:
        places = [row.device.rstrip(b"\0") for row in rows if not row.user]
        if whole:
            if (places or [b""]) == [self._table.place]:
                self._same_place[link] = None
                self._judge(link)
            else:
                self._links.say(f"table of {link.peer}", f"{link.peer} has another route table: give all nodes the same --table")
        if self._table.told:
            self._table.put(link.peer.name, [row for row in rows if row.user], whole=whole)

    def detached(self, link: Link, rows: Sequence[Attachment]) -> None:
        if self._table.told:
            self._table.remove(link.peer.name, rows)

    def nodes(self, link: Link, rows: Sequence[Reached]) -> None:
        """Route servers have no place in a mesh."""

    def forwarded(self, link: Link, envelopes: Sequence[Envelope]) -> None:
        self._incoming.came(envelopes)
        if not self._table.told:
            strays = self._incoming.strays(envelopes)
            if strays:
                self._table.stray(strays)

    # ---- sessions and envelopes

    def attach(self, session: Any) -> Deferred[Any] | None:
        self._incoming.attach(session.user)
        if not self._table.told:
            known: Deferred[Any] | None = self._table.put(self._up.name, [attachment(session)])
            return known
        told = [link.attach([attachment(session)]) for link in self._links]
        return DeferredList(told, consumeErrors=True) if told else None  # who does not wait any more leaves them alone

    def detach(self, session: Any) -> None:
        self._incoming.detach(session.user)
        if self._links is None:
            return
        if not self._table.told:
            self._table.remove(self._up.name, [attachment(session)])
            return
        for link in self._links:
            link.detach([attachment(session)])

    def route(self, envelopes: Sequence[Envelope]) -> int:
        reached: int = self._incoming.own(envelopes)
        for envelope in envelopes:
            found = self._table.nodes_of(envelope[1])
            if isinstance(found, Deferred):
                waiting = [envelope, None]
                self.waiting.append(waiting)
                found.addCallback(self._found, waiting)
            else:
                self._send(envelope, found)
        return reached

    def _found(self, nodes: dict[str, list[bytes]], waiting: list[Any]) -> None:
        waiting[1] = nodes
        while self.waiting and self.waiting[0][1] is not None:
            self._send(*self.waiting.popleft())

    def _send(self, envelope: Envelope, nodes: dict[str, list[bytes]]) -> None:
        if not nodes or self._links is None:
            return
        frame, _, origin = envelope
        anywhere = nodes.pop(EVERYWHERE, [])
        if anywhere:
            for link in self._links:
                nodes.setdefault(link.peer.name, []).extend(anywhere)
        for node, users in nodes.items():
            link = self._links.get(Role.PEER, node)
            if link is not None:
                link.forward([(frame, tuple(users), origin)])
