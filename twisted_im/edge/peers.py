"""Where links between nodes are taken, and where they lead: endpoint strings and addresses, and what each may be used for.

Strategy: a link is trusted by its certificate, or, on one machine, by a shared secret. Which of the two is said by the endpoint alone, so a
secret never travels on a network: a port with a secret is on loopback or a Unix socket, or it is refused before anything is opened, and an
address is held to the same. Certificates for links serve both ends: a node shows the same one to who connects and to whom it connects to.

    tcp:7900                                      on loopback, with a secret
    unix:/run/im/links                            on this machine, with a secret
    tls:im-1.pem:port=7900:authority=nodes.pem    anywhere; the certificate is for the node's name
"""

from __future__ import annotations

import ipaddress
import os
import re
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

from twisted.internet.defer import maybeDeferred
from twisted.internet.endpoints import HostnameEndpoint, UNIXClientEndpoint, wrapClientTLS
from twisted.internet.interfaces import IStreamClientEndpoint, IStreamServerEndpoint
from twisted.python.failure import Failure
from zope.interface import implementer

from twisted_im.cork import corked
from twisted_im.edge.certificates import Certificates
from twisted_im.edge.endpoints import explained, local_unless_said, parts_of
from twisted_im.edge.tls import TlsEndpoint, endpoint_from
from twisted_im.pem import CertificateError
from twisted_im.routing.linking import SHORTEST_SECRET

#: Where a route server takes links, unless it is told better.
DEFAULT_PORT = "tcp:7900:interface=127.0.0.1"

#: Seconds for a connection: after a partition a new attempt is soon on its way, while the kernel would wait longer and longer.
TIMEOUT = 3.0

_ADDRESS = re.compile(r"(?:(?P<scheme>tcp|tls):)?(?:\[(?P<six>[0-9a-fA-F:.%\w]+)\]|(?P<host>[^\s:/\[\]\\]+)):(?P<port>\d{1,5})\Z")


def link_port(reactor: Any, description: str, *, secret: bytes | str | os.PathLike[str] = b"") -> tuple[IStreamServerEndpoint, str]:
    """The endpoint of a port for links.

    Args:
        description: an endpoint string, as above; one that names no interface is on loopback.
        secret: what links without TLS are trusted by, or the path of a file that will hold it.

    Returns:
        the endpoint, and what peers write before its address: "tls", "tcp" or "unix". A `TlsEndpoint` has the certificates that
        `peer_endpoint` takes.

    Raises:
        ValueError: links cannot be taken there; one line that says what can be done. (A `CertificateError` is one.)
        OSError: a file cannot be read.
    """
    kind = description.partition(":")[0].lower()
    local = local_unless_said(description)
    if kind == "tls":
        if not parts_of(local).get("authority"):
            raise ValueError(f"{description}: a port for links wants an authority, whose certificates nodes show: add authority=nodes.pem")
        return endpoint_from(corked(reactor), local, links=True), kind
    if kind not in ("tcp", "unix"):
        raise ValueError(f"{description}: links are taken at tls:, or on this machine at tcp: or unix:")
    if not secret:
        raise ValueError(f"{description}: links without TLS want a secret that all nodes know; or use tls:")
    if kind == "tcp" and not _is_here(parts_of(local)["interface"].replace("\\", "")):
        raise ValueError(f"{description}: a secret is for links on one machine, and others could reach that port: use tls:, or 127.0.0.1")
    return endpoint_from(corked(reactor), local), kind


def peer_endpoint(reactor: Any, address: str, *, certificates: Certificates | None = None) -> IStreamClientEndpoint:
    """Where a link leads.

    Args:
        address: "tls:host:port", "tcp:host:port" (or without "tcp:") or "unix:path".
        certificates: what a TLS peer is shown, and by whom its own must be signed: made with `links`.

    Raises:
        ValueError: it is no address, or none that may be linked to; one line that says what can be done.
    """
    reactor = corked(reactor)
    if address.startswith("unix:/"):
        return UNIXClientEndpoint(reactor, address.removeprefix("unix:"), timeout=TIMEOUT)
    found = _ADDRESS.match(address)
    if found is None or not 0 < int(found["port"]) < 65536:
        raise ValueError(f"{address!r} is no address of a node: write tls:host:port, or on this machine tcp:127.0.0.1:port or unix:/path")
    host = found["six"] or found["host"]
    endpoint = HostnameEndpoint(reactor, host, int(found["port"]), timeout=TIMEOUT)
    if found["scheme"] == "tls":
        if certificates is None:
            raise ValueError(f"{address}: to link there, this node needs a certificate and an authority of its own")
        wrapped: IStreamClientEndpoint = wrapClientTLS(certificates, endpoint)
        return wrapped
    if not _is_here(host):
        raise ValueError(f"{address}: a link to another machine wants TLS: write tls:{host}:{found['port']}")
    return endpoint


def usable_port(description: str) -> None:
    """Looks whether links can be taken there, but for whether the port is free.

    Raises:
        ValueError: they cannot; says why, and what can be.
    """
    from twisted.internet import reactor

    try:
        link_port(reactor, description, secret="a file")
    except (OSError, CertificateError) as error:
        raise ValueError(explained(error)) from None
    except Exception as error:  # endpoint parsers raise whatever their parts raise
        if str(error).startswith(f"{description}: "):
            raise ValueError(str(error).removeprefix(f"{description}: ")) from None
        raise ValueError(f"not an endpoint that can be used ({explained(error)}); for example {DEFAULT_PORT}") from None


def usable_address(address: str) -> None:
    """Looks whether something is the address of a node or of a route server.

    Raises:
        ValueError: it is not; says why, and what is.
    """
    from twisted.internet import reactor

    peer_endpoint(reactor, address, certificates=_ANY)


#: Stands for certificates where only an address is looked at.
_ANY: Any = object()


class LinkFault(Exception):
    """No links can be taken: the message says why, and what to do."""


class LinkEnds:
    """Where the links of one process are taken, and where they lead to.

    Args:
        listen: an endpoint string, as above, for its port; None for a process that takes no links.
        secret: what links without TLS are trusted by, in bytes; or the path of a file that holds it, which is made, for its owner only,
            if it is missing.
        certificate: a PEM file, or a folder, for links over TLS of a process whose port has none.
        authority: a PEM file with the certificates that the others' must be signed by; goes with `certificate`.
        reactor: by default the global one.

    Raises:
        ValueError: links cannot be taken there; one line that says what can be done.
        OSError: a certificate cannot be read.
    """

    def __init__(
        self,
        listen: str | None = "tcp:0",
        *,
        secret: bytes | str | os.PathLike[str] = b"",
        certificate: str | os.PathLike[str] | None = None,
        authority: str | os.PathLike[str] | None = None,
        reactor: Any = None,
    ) -> None:
        if reactor is None:
            from twisted.internet import reactor  # installs it: not before somebody wants links
        self._reactor = reactor
        self._secret = secret
        self.scheme = "tcp"
        self.port: IStreamServerEndpoint | None = None
        self.certificates: Certificates | None = None
        if listen is not None:
            endpoint, self.scheme = link_port(reactor, listen, secret=secret)
            self.certificates = certificates_of(endpoint)
            self.port = _Port(endpoint)
        elif certificate is not None and authority is not None:
            self.certificates = link_certificates(Path(certificate), Path(authority))

    @cached_property
    def secret(self) -> bytes:
        """What links without TLS are trusted by; read, or made, when it is first asked for."""
        return self._secret if isinstance(self._secret, bytes) else secret_in(Path(self._secret))

    def reach(self, address: str) -> IStreamClientEndpoint:
        """Where a link leads; see `peer_endpoint`."""
        return peer_endpoint(self._reactor, address, certificates=self.certificates)

    def reload(self) -> list[str]:
        """Reads the certificates again, if there are any; see `Certificates.reload`."""
        return [] if self.certificates is None else self.certificates.reload()


@implementer(IStreamServerEndpoint)
class _Port:
    """A port for links that says in words why it cannot be had."""

    def __init__(self, endpoint: IStreamServerEndpoint) -> None:
        self._endpoint = endpoint

    def listen(self, protocolFactory: Any) -> Any:  # noqa: N803  # the interface's name
        return maybeDeferred(self._endpoint.listen, protocolFactory).addErrback(self._failed)

    def _failed(self, failure: Failure) -> None:
        raise LinkFault(explained(failure.value)) from None


def secret_in(path: Path) -> bytes:
    """The secret that a file holds. If there is no file, it is made: 32 random bytes, in hexadecimal, for its owner only.

    Several processes that do so at once find one secret.

    Raises:
        LinkFault: it cannot be read or made, or holds too little.
    """
    try:
        if not path.exists():
            new = path.with_name(f"{path.name}.{os.getpid()}.new")
            try:
                with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="ascii") as file:
                    file.write(f"{os.urandom(32).hex()}\n")
                with suppress(FileExistsError):
                    os.link(new, path)  # whole, or not at all
            finally:
                new.unlink(missing_ok=True)
        secret = path.read_bytes().strip()
    except OSError as error:
        raise LinkFault(f"the cluster's secret: {explained(error)}") from None
    if len(secret) < SHORTEST_SECRET:
        raise LinkFault(f"{path}: a cluster's secret has at least {SHORTEST_SECRET} bytes; this one has {len(secret)}")
    return secret


def link_certificates(path: Path, authority: Path) -> Certificates:
    """The certificates of a node that links to others over TLS, and takes no links itself.

    Raises:
        CertificateError: they cannot be used.
        OSError: a file cannot be read.
    """
    return Certificates(path, authority=authority, links=True)


def certificates_of(endpoint: IStreamServerEndpoint) -> Certificates | None:
    """Those of a port for links, for the links that lead away from its node."""
    return endpoint.certificates if isinstance(endpoint, TlsEndpoint) else None


def _is_here(host: str) -> bool:
    """Whether what is sent there stays on this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"  # RFC 6761
