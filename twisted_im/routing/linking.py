"""All links of one process: the port that takes them, those that it keeps up itself, and who may link at all.

Strategy: `Links` sees to it that there is one link to each other end. A newer one takes the place of an older: the older may be a
connection whose end has not been noticed, or a run that is over. A run that has been replaced does not come back. What is refused is said
once on either side, though it is tried again each second, until somebody has mended it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from twisted.application.internet import ClientService
from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IStreamClientEndpoint, IStreamServerEndpoint
from twisted.logger import Logger, LogPublisher
from twisted.python.failure import Failure
from zope.interface import implementer

from twisted_im.core.connection import Limits
from twisted_im.errors import Disconnect, ImError
from twisted_im.pump import Pump, Turn
from twisted_im.routing.handshake import Peer
from twisted_im.routing.link import Link, LinkOwner, link_limits, words
from twisted_im.wire.schema import Role

log = Logger()

#: Seconds between two attempts to link, at most.
RETRY = 1.0
#: Connections to the port that have not linked yet; the oldest goes.
STRANGERS = 100
#: Bytes of a shared secret, at least: a proof can be tried against guesses by whoever has seen it.
SHORTEST_SECRET = 16
#: Names and boots of which something is remembered.
_REMEMBERED = 1000


class Ends(Protocol):
    """Where one process's links begin and end: see `twisted_im.edge.peers.LinkEnds`. It may be asked for all of this from the start on."""

    @property
    def port(self) -> IStreamServerEndpoint | None:
        """Where links are taken; None where none are."""

    @property
    def scheme(self) -> str:
        """What others write before the port's address: see `Links.listen`."""

    @property
    def secret(self) -> bytes:
        """What all of the cluster know, for links without TLS; empty for none."""

    def reach(self, address: str) -> IStreamClientEndpoint:
        """Where a link leads. Raises a ValueError: it is no address that may be linked to."""


class _Quiet(ClientService):
    """It tells of each attempt, many times a minute; a linker says what stands in the way once."""

    _log = Logger(observer=LogPublisher())  # which tells nobody


class Linker:
    """Keeps a link to one address up, until it is told to stop.

    Attributes:
        where: the address, for people.
        expected: who should be there; a name or boot that is empty may be any.
    """

    def __init__(self, links: Links, endpoint: IStreamClientEndpoint, where: str, expected: Peer, chance: Callable[[], float]) -> None:
        self._links = links
        self._endpoint = endpoint
        self.where = where
        self.expected = expected
        self._last: Link | None = None
        self._over = False
        self._service = _Quiet(
            _Attempts(self), _Factory(self.build), retryPolicy=lambda _: RETRY * (0.25 + 0.75 * chance()), clock=links.turn.reactor
        )
        self._service.startService()

    def connect(self, factory: Any) -> Deferred[IProtocol]:
        """One attempt."""
        attempt: Deferred[IProtocol] = self._endpoint.connect(factory)
        return attempt.addErrback(self._failed)

    def _failed(self, failure: Failure) -> Failure:
        if not self._over:  # else it was told to stop
            self._links.say(self.where, f"no link to {self.whom}: {words(failure)}")
        return failure

    @property
    def whom(self) -> str:
        """Who is looked for, for people."""
        return f"{self.expected} at {self.where}" if self.expected.name else self.where

    def build(self) -> Pump:
        """The pump of a new connection."""
        self._last = Link(self._links, self.where, self.expected)
        return self._last.build()

    @property
    def link(self) -> Link | None:
        """The link, while it is up."""
        return self._last if self._last is not None and self._last.up else None

    def stop(self) -> Deferred[None]:
        """Ends the link, and tries no more; fires when nothing of it is left."""
        self._over = True
        self._links.linkers.pop(self, None)
        if self._last is not None and self._service.running:
            self._last.leave()
        stopped: Deferred[None] = maybeDeferred(self._service.stopService)
        return stopped


class Links:
    """All links of one process: a node's, or a route server's.

    Args:
        me: who this is; each run has a boot of its own.
        owner: is told of everything.
        turn: in which frames are collected; a node's own, if it is one's.
        secret: what all of the cluster know, for links without TLS; at least 16 bytes. Where such links may be is the business of whoever
            makes the endpoints (`twisted_im.edge.peers`).
        limits: see `link_limits`; the same in the whole cluster.
        random: gives so many random bytes.
        chance: gives a number in [0, 1), for the pauses between attempts.

    Raises:
        ValueError: the secret is too short.

    Attributes:
        linkers: those that keep links up.
    """

    def __init__(
        self,
        me: Peer,
        owner: LinkOwner,
        turn: Turn,
        *,
        secret: bytes = b"",
        limits: Limits | None = None,
        random: Callable[[int], bytes] = os.urandom,
        chance: Callable[[], float] | None = None,
    ) -> None:
        if 0 < len(secret) < SHORTEST_SECRET:
            raise ValueError(f"a secret for links has at least {SHORTEST_SECRET} bytes; this one has {len(secret)}")
        self.me = me
        self.owner = owner
        self.turn = turn
        self.secret = secret
        self.limits = limits or link_limits()
        self.random = random
        self.linkers: dict[Linker, None] = {}
        self._chance = chance or (lambda: int.from_bytes(random(4), "big") / 2**32)
        self._ports: list[Any] = []
        self._here: dict[Link, None] = {}  # of those that have come in, all that are not gone
        self._up: dict[tuple[Role, str], Link] = {}
        self._replaced: dict[bytes, None] = {}
        self._said: dict[str, str] = {}
        self._to_pack: dict[Link, None] = {}
        self._emptied: Deferred[None] | None = None
        turn.steps.append(self._pack)

    # ---- what routers ask

    def get(self, role: Role, name: str) -> Link | None:
        """The link to one other, if it is up."""
        return self._up.get((role, name))

    def __iter__(self) -> Iterator[Link]:
        """All that are up, oldest first."""
        return iter(list(self._up.values()))

    def listen(self, endpoint: IStreamServerEndpoint, scheme: str = "tcp") -> Deferred[str]:
        """Takes links there.

        Args:
            scheme: what peers write before the address: "tcp" or "tls"; of no matter for a Unix socket.

        Returns:
            the address, as `twisted_im.edge.peers.peer_endpoint` takes it. Fails as the endpoint does.
        """

        def listening(port: Any) -> str:
            self._ports.append(port)
            host = port.getHost()
            if hasattr(host, "name"):
                where = f"unix:{os.fsdecode(host.name)}"
            else:
                where = f"{scheme}:[{host.host}]:{host.port}" if ":" in host.host else f"{scheme}:{host.host}:{host.port}"
            log.info("{me} takes links at {where}", event="links", me=str(self.me), where=where)
            return where

        opened: Deferred[Any] = endpoint.listen(_Factory(self._build))
        return opened.addCallback(listening)

    def connect(self, endpoint: IStreamClientEndpoint, where: str, expected: Peer) -> Linker:
        """Keeps a link up from here.

        Args:
            where: the address, for people.
            expected: who should be there; see `Linker`.
        """
        linker = Linker(self, endpoint, where, expected, self._chance)
        self.linkers[linker] = None
        return linker

    def stop(self) -> Deferred[None]:
        """Closes the port, ends all links, and tries no more; fires when nothing is left of them. `link_down` comes for each."""
        if self._pack in self.turn.steps:
            self._pack()
            self.turn.steps.remove(self._pack)
        ports, self._ports = self._ports, []
        parts: list[Deferred[Any]] = [maybeDeferred(port.stopListening) for port in ports]
        parts += [linker.stop() for linker in list(self.linkers)]
        for link in list(self._here):
            link.leave()
        if self._here:
            self._emptied = Deferred()
            parts.append(self._emptied)
        return DeferredList(parts, consumeErrors=True).addCallback(lambda _: None)

    # ---- what links ask

    def _build(self) -> Pump:
        return Link(self).build()

    def has_come(self, link: Link) -> None:
        """A connection has come in."""
        self._here[link] = None
        strangers = [each for each in self._here if not each.up]
        if len(strangers) > STRANGERS:
            strangers[0].turn_away()

    def has_gone(self, link: Link) -> None:
        """A connection is no more."""
        self._here.pop(link, None)
        if self._emptied is not None and not self._here:
            emptied, self._emptied = self._emptied, None
            emptied.callback(None)

    def judge(self, link: Link, peer: Peer) -> None:
        """Whether somebody may link, as far as the others go.

        Raises:
            ImError: LINK_REFUSED.
        """
        if peer[:2] == self.me[:2]:
            why = f"{peer} cannot link to itself" if peer.boot == self.me.boot else f"two have the same name: {peer}; give one another"
            raise ImError(Disconnect.LINK_REFUSED, why)
        if peer.boot in self._replaced:
            raise ImError(Disconnect.LINK_REFUSED, f"a newer run of {peer} has linked to {self.me}")
        older = self._up.get(peer[:2])
        if older is not None and older.peer.boot == peer.boot and link.made_here:  # if that one is dead, this is tried again
            raise ImError(Disconnect.LINK_REFUSED, f"{self.me} has a link with {peer} already, at {older.where}")

    def is_up(self, link: Link) -> None:
        """It may be used."""
        peer = link.peer
        older = self._up.get(peer[:2])
        if older is not None:
            if older.peer.boot != peer.boot:
                _remember(self._replaced, older.peer.boot, None)
            older.replaced(f"a newer {'link' if older.peer.boot == peer.boot else 'run'} of {peer} takes its place")
        self._up[peer[:2]] = link
        for key in (link.where, _host(link.where), str(peer)):
            self._said.pop(key, None)
        log.info("link with {peer} is up, {where}", event="link up", peer=str(peer), where=link.where)
        self.owner.link_up(link)

    def is_down(self, link: Link, why: str, *, was_up: bool, quiet: bool) -> None:
        """It is over; or it has come to nothing."""
        self._to_pack.pop(link, None)
        if not was_up:
            if not quiet:
                who = str(link.peer) if link.peer.name else _host(link.where)
                whom = f"with {who}, {link.where}" if link.peer.name else f"with {link.where}"
                self.say(link.where if link.made_here else who, f"no link {whom}: {why}")
            return
        if self._up.get(link.peer[:2]) is link:
            del self._up[link.peer[:2]]
        (log.info if quiet else log.warn)("link with {peer} is down: {why}", event="link down", peer=str(link.peer), why=why)
        self.owner.link_down(link)

    def say(self, key: str, text: str) -> None:
        """Logs something that may happen again each second: once, until there is a link or something else to say. Another port or
        another number of seconds is nothing else."""
        plain = re.sub(r":\d+\b|\b\d+ s\b", "", text)
        if self._said.get(key) != plain:
            _remember(self._said, key, plain)
            log.warn("{text}", event="no link", text=text)

    def to_pack(self, link: Link) -> None:
        """It has something to send at the end of this turn."""
        if link not in self._to_pack:
            self._to_pack[link] = None
            self.turn.book()

    def _pack(self) -> None:
        while self._to_pack:
            links, self._to_pack = self._to_pack, {}
            for link in links:
                link.pack()


@implementer(IStreamClientEndpoint)
class _Attempts:
    """A linker's endpoint, as `ClientService` sees it."""

    def __init__(self, linker: Linker) -> None:
        self._linker = linker

    def connect(self, protocolFactory: Any) -> Deferred[IProtocol]:  # noqa: N803  # the interface's name
        return self._linker.connect(protocolFactory)


@implementer(IProtocolFactory)
class _Factory:
    """Makes a pump for each connection."""

    noisy = False

    def __init__(self, build: Callable[[], Pump]) -> None:
        self._build = build

    def buildProtocol(self, address: object) -> Pump:
        return self._build()

    def doStart(self) -> None:
        """Twisted calls this when it begins."""

    def doStop(self) -> None:
        """Twisted calls this when it has ended."""


def _host(where: str) -> str:
    """An address without its port, which differs from one connection to the next."""
    return where.rpartition(":")[0] or where


def _remember(table: dict[Any, Any], key: Any, value: Any) -> None:
    """Puts something into a table that does not grow beyond its bound; what was put there first goes first."""
    table.pop(key, None)
    table[key] = value
    if len(table) > _REMEMBERED:
        del table[next(iter(table))]
