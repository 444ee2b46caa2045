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
import re
from pathlib import Path
from typing import Any

from twisted.internet.endpoints import HostnameEndpoint, UNIXClientEndpoint, wrapClientTLS
from twisted.internet.interfaces import IStreamClientEndpoint, IStreamServerEndpoint

from twisted_im.cork import corked
from twisted_im.edge.certificates import Certificates
from twisted_im.edge.endpoints import local_unless_said, parts_of
from twisted_im.edge.tls import TlsEndpoint, endpoint_from

#: Seconds for a connection: after a partition a new attempt is soon on its way, while the kernel would wait longer and longer.
TIMEOUT = 3.0

_ADDRESS = re.compile(r"(?:(?P<scheme>tcp|tls):)?(?:\[(?P<six>[0-9a-fA-F:.%\w]+)\]|(?P<host>[^\s:/\[\]\\]+)):(?P<port>\d{1,5})\Z")


def link_port(reactor: Any, description: str, *, secret: bytes = b"") -> tuple[IStreamServerEndpoint, str]:
    """The endpoint of a port for links.

    Args:
        description: an endpoint string, as above; one that names no interface is on loopback.
        secret: what links without TLS are trusted by.

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
