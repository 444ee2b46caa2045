"""Streams: TCP, TLS and Unix sockets, as endpoint strings describe them.

TLS is an endpoint string, and all that the rest of the server knows of it is that certificates can be read again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import DeferredList, inlineCallbacks, maybeDeferred
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from twisted_im.cork import corked
from twisted_im.edge.certificates import Certificates
from twisted_im.edge.endpoints import POSITIONS, parts_of
from twisted_im.edge.tls import TlsEndpoint, endpoint_from
from twisted_im.pump import Pump
from twisted_im.server.node import Node

log = Logger()

#: Connections that the kernel holds for us. Twisted's 50 are soon too few when a server's clients come back at once, and each that finds
#: no room waits a second before it tries again.
BACKLOG = 1024

#: Seconds between two looks at how long the certificates are good for.
DAY = 86400.0

def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class _PumpFactory:
    """Makes a pump for each connection that comes in."""

    noisy = False

    def __init__(self, node: Node) -> None:
        self._node = node

    def buildProtocol(self, address: object) -> Pump:
        return self._node.accept()

    def doStart(self) -> None:
        """Twisted calls this when a port opens."""

    def doStop(self) -> None:
        """Twisted calls this when a port closes."""


class Ports:
    """The ports of one node.

    Args:
        descriptions: endpoint strings, such as "tcp:7777:interface=127.0.0.1".
        reactor: listens.
        shared: other processes may listen at the same TCP ports.

    Attributes:
        addresses: where it listens, as "host:port" or a path, once open; where it did, once closed again.
        doors: the same with the kind of each before it: "tcp", "tls", or "" for one that clients do not come to by an address.
    """

    def __init__(self, node: Node, descriptions: Sequence[str], reactor: Any, *, shared: bool = False) -> None:
        self._node = node
        self._descriptions = descriptions
        self._reactor = reactor
        self._shared = shared
        self._ports: list[Any] = []
        self._certificates: list[Certificates] = []
        self._watch = LoopingCall(self._look_at_certificates)
        self._watch.clock = reactor
        self.addresses: list[str] = []
        self.doors: list[tuple[str, str]] = []

    @inlineCallbacks
    def open(self) -> Any:
        """Listens everywhere; if one port cannot be had, those before it are closed again and the reason is the failure."""
        reactor = corked(self._reactor, shared=self._shared)
        try:
            for description in self._descriptions:
                endpoint = endpoint_from(reactor, _with_room(description))
                port = yield endpoint.listen(_PumpFactory(self._node))
                self._ports.append(port)
                if isinstance(endpoint, TlsEndpoint):
                    self._certificates.append(endpoint.certificates)
                    for fault in endpoint.certificates.faults:
                        log.warn("not used: {why}", why=fault)
                host = port.getHost()
                name = host.name.decode() if hasattr(host, "name") else _address(host.host, host.port)
                self.addresses.append(name)
                behind = description.lower().startswith("haproxy:") or hasattr(host, "name")
                self.doors.append(("" if behind else "tls" if isinstance(endpoint, TlsEndpoint) else "tcp", name))
                strategy = self._node.router.strategy
                log.info("listening on {address}", event="listening", address=name, node=self._node.name, strategy=strategy)
        except Exception:
            yield self.close()
            self.addresses.clear()
            self.doors.clear()
            raise
        if self._certificates:
            self._watch.start(DAY)

    def reload(self) -> list[str]:
        """Reads the certificates of all TLS ports again, for connections that come from now on; gives a line for each that cannot be used,
        and whose predecessor stays."""
        if not self._certificates:
            log.info("no port has certificates to read again", event="reloaded")
        return [fault for each in self._certificates for fault in each.reload()]

    def _look_at_certificates(self) -> None:
        for each in self._certificates:
            each.watch()

    def close(self) -> Any:
        """Stops listening."""
        ports, self._ports, self._certificates = self._ports, [], []
        if self._watch.running:
            self._watch.stop()
        return DeferredList([maybeDeferred(port.stopListening) for port in ports], consumeErrors=True)


def _with_room(description: str) -> str:
    """An endpoint string with our backlog, if it says none and takes one."""
    kind, _, rest = description.partition(":")
    if kind.lower() == "haproxy":
        return f"{kind}:{_with_room(rest)}"
    return f"{description}:backlog={BACKLOG}" if kind.lower() in POSITIONS and "backlog" not in parts_of(description) else description
