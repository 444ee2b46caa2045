"""Schemes with a route server in the middle: broadcast, and the directed route table in its star form.

Strategy: a node has a link to each route server, and none to other nodes. A route server says whom it reaches, and who of these has
acknowledged this node: those are *heard*, since what they send by it comes here. A node that a route server lists can be sent to by it,
so an origin takes the first route server that reaches all whom any reaches, or as many as it takes; a message that comes twice is
dropped by the clients, by its seq. Who is covered by none reads the store (`twisted_im.server.doubt`).

With several route servers there is a moment to be careful about. Whoever loses one does not know who else relies on it still: an origin may
send by it for as long as it has not noticed. So a node that has lost a route server, or is told that one has lost a peer, hears
nobody of those by the others either until that must have been noticed.

The two schemes differ in one thing. With `broadcast` nobody tells where a session is: a route server copies everything to every other node,
and each looks for the audience among its sessions. With the star the nodes tell the route servers, which send one copy to each node that
needs it.

Route servers are found in the leases of the nodes that have one of their own, or are named.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from twisted.internet.defer import Deferred, DeferredList, inlineCallbacks
from zope.interface import implementer

from twisted_im.pump import Turn
from twisted_im.routing.handshake import Peer
from twisted_im.routing.incoming import Incoming
from twisted_im.routing.link import LINK_BEAT, Attachment, Link, Reached
from twisted_im.routing.linking import Ends, Linker, Links
from twisted_im.routing.mesh import attachment
from twisted_im.routing.route_server import RouteServer
from twisted_im.server.interfaces import Envelope, IRouter, Look
from twisted_im.wire.schema import Role

#: Seconds in which a route server notices, and has told, that it does not hear a node any more: three beats of silence, and as much again.
NOTICED = 6.0 * LINK_BEAT

#: Sessions that surely travel in one frame. Until it has come a route server sends everything, so nothing is missed; of a longer list it
#: may have a part only.
ONE_FRAME = 1000


class _Server:
    """A route server, as a node sees it.

    Attributes:
        knows: it sends all that is for this node: it has acknowledged the node's sessions, or knows none of them.
        reaches: names of the nodes that can be sent to by it.
        heard: (name, boot) of those whose pushes come by it.
    """

    def __init__(self) -> None:
        self.knows = False
        self.reaches: dict[str, None] = {}
        self.heard: dict[tuple[str, bytes], None] = {}


@implementer(IRouter)
class StarRouter:
    """The routed strategy by way of route servers.

    Args:
        ends: where links lead, and where those to a route server of this node's own are taken.
        route_servers: addresses of those that are named. If none is, each node that takes links runs one of its own, and all are found
            in the leases.
        links: see `Links`: `limits`, `random`, `chance`.

    Attributes:
        own: the route server that this node runs itself, once started; None for none.
    """

    strategy = "routed"
    links = True
    attaches = True

    def __init__(self, ends: Ends, route_servers: Sequence[str] = (), **links: Any) -> None:
        self._ends = ends
        self._named = tuple(route_servers)
        self._options = links
        self.own: RouteServer | None = None
        self._up: Any = None
        self._links: Any = None
        self._incoming: Any = None
        self._linkers: dict[str, Linker] = {}
        self._servers: dict[Link, _Server] = {}
        self._heard: dict[tuple[str, bytes], None] = {}
        self._others: dict[str, bytes] = {}  # live nodes but for this one → the boot of the run that lives
        self._chosen: list[Link] | None = None
        self._careful: dict[str, float] = {}  # those who are not heard before a time
        self._timer: Any = None

    @inlineCallbacks
    def start(self, up: Any) -> Any:
        self._up = up
        self._incoming = Incoming(up, hops=2)
        self._links = Links(Peer(Role.PEER, up.name, up.boot), self, up.turn, secret=self._ends.secret, **self._options)
        if not self._named and self._ends.port is not None:
            turn = Turn(up.turn.reactor, clock=up.turn.now, wall=up.turn.wall)
            self.own = RouteServer(self._ends, name=up.name, boot=up.boot, turn=turn, **self._options)
            up.announce((yield self.own.start()))
        up.watch(self._look)

    def stop(self) -> Deferred[Any] | None:
        if self._links is None:
            return None
        self._incoming.stop()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        links, self._links = self._links, None
        self._linkers.clear()
        parts = [links.stop()]
        if self.own is not None:
            parts.append(self.own.stop())
        return DeferredList(parts, consumeErrors=True)

    # ---- who is there

    def _look(self, look: Look) -> None:
        if self._links is None:
            return
        self._others = {lease.node: lease.boot for lease in look.leases if lease.node != self._up.name}
        self._judge(self._up.turn.now() - NOTICED)
        wanted = dict.fromkeys(self._named or [lease.address for lease in look.leases if lease.address])
        for address in [address for address in self._linkers if address not in wanted]:
            self._linkers.pop(address).stop()
        for address in wanted:
            if address not in self._linkers:
                try:
                    endpoint = self._ends.reach(address)
                except ValueError as error:
                    self._links.say(address, f"no link to a route server: {error}")
                    continue
                self._linkers[address] = self._links.connect(endpoint, address, Peer(Role.ROUTE, ""))

    def link_up(self, link: Link) -> None:
        server = self._servers[link] = _Server()
        if self.attaches:
            rows = [attachment(session) for session in self._up.sessions]
            server.knows = len(rows) <= ONE_FRAME
            link.attach(rows, whole=True).addCallback(self._acknowledged, server)
            self._judge(self._up.turn.now())
        else:
            server.knows = True

    def _acknowledged(self, done: bool, server: _Server) -> None:
        server.knows = done
        self._judge(self._up.turn.now())

    def link_down(self, link: Link) -> None:
        self._servers.pop(link, None)
        if self._servers:
            self._be_careful(self._others)
        self._judge(link.heard - NOTICED)

    def nodes(self, link: Link, rows: Sequence[Reached]) -> None:
        server = self._servers[link]
        before, server.reaches = server.reaches, {row.name: None for row in rows}
        if len(self._servers) > 1:
            self._be_careful([name for name in before if name not in server.reaches])
        server.heard = {(row.name, row.boot): None for row in rows if row.heard}
        self._judge(self._up.turn.now() - NOTICED)

    def _be_careful(self, names: Iterable[str]) -> None:
        """A route server that these may rely on has gone, or has lost them."""
        until = self._up.turn.now() + NOTICED
        for name in names:
            self._careful[name] = until
        if self._careful and self._timer is None and self._links is not None:
            self._timer = self._up.turn.reactor.callLater(NOTICED, self._calm)

    def _calm(self) -> None:
        self._timer = None
        now = self._up.turn.now()
        self._careful = {name: until for name, until in self._careful.items() if until > now}
        if self._careful:
            self._timer = self._up.turn.reactor.callLater(max(self._careful.values()) - now, self._calm)
        self._judge(now)

    def _judge(self, since: float) -> None:
        """Tells the node who is heard now, and who is no longer; `since` is when the latter surely were. Only the run that lives is heard:
        a route server may not have noticed yet that an older one has gone."""
        self._chosen = None
        servers = list(self._servers.values())
        come = {key for server in servers for key in server.heard} if all(server.knows for server in servers) else ()
        heard = {(name, boot): None for name, boot in self._others.items() if (name, boot) in come and name not in self._careful}
        before, self._heard = self._heard, heard
        for key in before:
            if key not in self._heard:
                self._up.doubt(key[0], since)
        for key in self._heard:
            if key not in before:
                self._up.heard(key[0])

    def attached(self, link: Link, rows: Sequence[Attachment], whole: bool) -> None:
        """Route servers tell of no sessions."""

    def detached(self, link: Link, rows: Sequence[Attachment]) -> None:
        """Route servers tell of no sessions."""

    def forwarded(self, link: Link, envelopes: Sequence[Envelope]) -> None:
        self._incoming.came(envelopes)

    # ---- sessions and envelopes

    def attach(self, session: Any) -> Deferred[Any] | None:
        self._incoming.attach(session.user)
        if not self.attaches or not self._servers:
            return None
        return DeferredList([link.attach([attachment(session)]) for link in list(self._servers)], consumeErrors=True)

    def detach(self, session: Any) -> None:
        self._incoming.detach(session.user)
        if self.attaches:
            for link in list(self._servers):  # one that has no room for it is cut, and leaves them
                link.detach([attachment(session)])

    def route(self, envelopes: Sequence[Envelope]) -> int:
        reached: int = self._incoming.own(envelopes)
        if self._chosen is None:
            self._chosen = self._choose()
        wanted = [envelope for envelope in envelopes if envelope[1]] if self._chosen else ()
        if wanted:
            for link in self._chosen:
                link.forward(wanted)
        return reached

    def _choose(self) -> list[Link]:
        """The first route server, by name, that reaches all whom any reaches, since they rely on that; or several, each of which adds some.
        Who lives is not asked: this node may see another later than that one hears it."""
        servers = sorted(self._servers.items(), key=lambda item: item[0].peer.name)
        left = {name: None for _, server in servers for name in server.reaches}
        for link, server in servers:
            if left and all(name in server.reaches for name in left):
                return [link]
        chosen = []
        for link, server in servers:
            found = [name for name in left if name in server.reaches]
            if found:
                chosen.append(link)
                for name in found:
                    del left[name]
        return chosen
