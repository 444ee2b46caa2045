"""A route server: what stands in the middle of the broadcast scheme, and of the route table in its star form.

Strategy: it has no store and remembers nothing: nodes link to it and say what it must know. It serves both schemes at once, by what a node
does: one that has told its sessions gets what is for them, one that has not gets everything.

Each node is told whom else it can send to by this route server, and acknowledges that. Only then are the others told that they hear it: so
nobody relies on being sent something by a node that does not know of this way yet.

    A ── link ──►  R  ◄── link ── B        R tells A: [B], and B: [A]
    A ── "so noted" ─► R                    R tells B: [A, heard]: from now on what A sends comes by here
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, inlineCallbacks, maybeDeferred
from twisted.logger import Logger

from twisted_im.pump import Turn
from twisted_im.routing.handshake import Peer
from twisted_im.routing.link import Attachment, Link, Reached
from twisted_im.routing.linking import Ends, Links
from twisted_im.routing.table_memory import MemoryTable
from twisted_im.server.interfaces import Envelope
from twisted_im.server.tenure import new_boot
from twisted_im.wire.schema import Role

log = Logger()


class _Node:
    """A node, as a route server sees it.

    Attributes:
        sends_to: links of the nodes that it has acknowledged. (Not nodes: whoever was gone for a moment has to be acknowledged again.)
        attaches: it has told its sessions, and gets only what is for them.
    """

    def __init__(self) -> None:
        self.sends_to: dict[Link, None] = {}
        self.attaches = False


class RouteServer(Service):
    """One route server: a service of its own, or a part of a node, which calls `start` and `stop`.

    Args:
        ends: where nodes' links are taken.
        name: unique among the route servers.
        boot: 16 bytes of this run's own; by default `new_boot()` at its start.
        turn: its own; by default one of the global reactor.
        links: see `Links`: `limits`, `random`, `chance`.

    Attributes:
        counters: what it has done.
        started: fires with the address that nodes are given when links are taken, or fails with the reason why they are not; for one that
            was started as a service.
    """

    def __init__(self, ends: Ends, *, name: str = "route", boot: bytes = b"", turn: Turn | None = None, **links: Any) -> None:
        if turn is None:
            from twisted.internet import reactor  # installs it: not before somebody wants a server

            turn = Turn(reactor)
        self.started: Deferred[str] = Deferred()
        self.counters = turn.counters
        self._turn = turn
        self._ends = ends
        self._options = links
        self._name, self._boot = name, boot
        self._links: Links | None = None
        self._nodes: dict[Link, _Node] = {}
        self._table = MemoryTable()
        self._changed = False
        turn.steps.insert(0, self._tell)

    @inlineCallbacks
    def start(self) -> Any:
        """Takes links; fires with the address."""
        if self._ends.port is None:
            raise ValueError("a route server takes links, and this one has no port for them")
        me = Peer(Role.ROUTE, self._name, self._boot or new_boot())
        self._links = Links(me, self, self._turn, secret=self._ends.secret, **self._options)
        return (yield self._links.listen(self._ends.port, self._ends.scheme))

    @inlineCallbacks
    def stop(self) -> Any:
        """Ends all links."""
        links, self._links = self._links, None
        if links is not None:
            yield links.stop()
        self._turn.stop()

    def startService(self) -> None:
        super().startService()
        self.start().addBoth(self.started.callback)

    @inlineCallbacks
    def stopService(self) -> Any:
        """Ends all links; nodes have others, or read the store."""
        yield maybeDeferred(super().stopService)
        yield self.stop()
        log.info("stopped", event="stopped", node=self._name, **self.counters.snapshot())

    def tell_counters(self) -> None:
        """Logs what it has done so far."""
        log.info("so far", event="counters", node=self._name, **self.counters.snapshot())

    # ---- who is there

    def link_up(self, link: Link) -> None:
        if link.peer.role is Role.PEER:
            self._nodes[link] = _Node()
            self._change()

    def link_down(self, link: Link) -> None:
        if self._nodes.pop(link, None) is not None:
            self._table.forget(link.peer.name)
            self._change()

    def _change(self) -> None:
        self._changed = True
        self._turn.book()

    def _tell(self) -> None:
        """Tells every node who else is there, and whom of them it hears."""
        if not self._changed:
            return
        self._changed = False
        for link in list(self._nodes):
            others = [(other, node) for other, node in self._nodes.items() if other is not link]
            rows = [Reached(other.peer.name, other.peer.boot, link in node.sends_to) for other, node in others]
            link.nodes(rows).addCallback(self._noted, link, {other: None for other, _ in others})

    def _noted(self, done: bool, link: Link, others: dict[Link, None]) -> None:
        node = self._nodes.get(link)
        if done and node is not None and node.sends_to != others:
            node.sends_to = others
            self._change()

    def nodes(self, link: Link, rows: Sequence[Reached]) -> None:
        """Nodes do not tell of others."""

    def attached(self, link: Link, rows: Sequence[Attachment], whole: bool) -> None:
        node = self._nodes.get(link)
        if node is not None:
            node.attaches = True
            self._table.put(link.peer.name, rows, whole=whole)

    def detached(self, link: Link, rows: Sequence[Attachment]) -> None:
        self._table.remove(link.peer.name, rows)

    # ---- envelopes

    def forwarded(self, link: Link, envelopes: Sequence[Envelope]) -> None:
        self.counters.copies_taken += len(envelopes)
        batches: dict[str, list[Envelope]] = {}
        for frame, audience, origin in envelopes:
            for name, users in self._table.nodes_of(audience).items():
                batches.setdefault(name, []).append((frame, tuple(users), origin))
        for other, node in list(self._nodes.items()):
            batch = batches.get(other.peer.name, []) if node.attaches else envelopes
            if other is not link and batch:
                other.forward(batch)
