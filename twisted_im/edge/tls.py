"""TLS ports: the endpoint strings `tls:` and `ssl:`, and TLS over any other endpoint.

Strategy: both strings end in one implementation, so that what is promised of TLS (versions, ciphers, reading certificates again) holds for
each. Twisted reads these strings too, but its `ssl:` reads its files once and takes older ciphers, and its `tls:`, where it has one,
does not see a renewed certificate and reads a whole folder again whenever a client asks for an unknown name. TLS stands above the
cork and, where a balancer tells the clients' addresses, above the PROXY protocol, whose header comes in the clear.

    tls:PATH:port=7778[:key=FILE][:authority=FILE][:interface=ADDRESS]
    ssl:7778:privateKey=FILE:certKey=FILE[:extraCertChain=FILE][:interface=ADDRESS]
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from twisted.internet.endpoints import TCP4ServerEndpoint, serverFromString
from twisted.internet.interfaces import IStreamServerEndpoint
from twisted.protocols.haproxy import proxyEndpoint
from zope.interface import implementer

from twisted_im.cork import over_tls
from twisted_im.edge.certificates import Certificates

#: what each string takes; values without a name come in this order
_TAKES = {
    "tls": ("path", "port", "interface", "backlog", "key", "authority"),
    "ssl": ("port", "privateKey", "certKey", "interface", "backlog", "extraCertChain"),
}


@implementer(IStreamServerEndpoint)
class TlsEndpoint:
    """TLS over another endpoint.

    Args:
        beneath: listens.
        certificates: what clients are shown.
    """

    def __init__(self, beneath: Any, certificates: Certificates) -> None:
        self._beneath = beneath
        self.certificates = certificates

    def listen(self, protocolFactory: Any) -> Any:  # noqa: N803  # the interface's name
        return self._beneath.listen(over_tls(self.certificates, protocolFactory))


def endpoint_from(reactor: Any, description: str, *, links: bool = False) -> Any:
    """A listening endpoint: a `TlsEndpoint` for `tls:` and `ssl:`, also behind `haproxy:`; for all else, what Twisted makes of it.

    Args:
        links: for links between nodes; see `Certificates`.

    Raises:
        CertificateError: the certificates cannot be used.
        OSError: a file cannot be read.
        ValueError: the string cannot be understood. Twisted's own parsers raise other exceptions as well.
    """
    kind, _, rest = description.removeprefix("haproxy:").partition(":")
    if kind not in _TAKES:
        return serverFromString(reactor, description)
    values = _values(kind, rest)
    file = {name: Path(values[name]) for name in ("path", "key", "authority", "privateKey", "certKey", "extraCertChain") if name in values}
    if kind == "tls":
        certificates = Certificates(file["path"], key=file.get("key"), authority=file.get("authority"), links=links)
    else:
        key = file.get("privateKey", Path("server.pem"))  # Twisted's default
        certificates = Certificates(file.get("certKey", key), key=key, extra=file.get("extraCertChain"))
    beneath = TCP4ServerEndpoint(reactor, int(values["port"]), int(values.get("backlog", 50)), values.get("interface", ""))
    return TlsEndpoint(proxyEndpoint(beneath) if description.startswith("haproxy:") else beneath, certificates)


def _values(kind: str, rest: str) -> dict[str, str]:
    """The values of an endpoint string by their names. A colon, an equals sign or a backslash within a value has a backslash before it."""
    takes = _TAKES[kind]
    words: list[str] = []
    values: dict[str, str] = {}
    for part in re.findall(r"(?s)((?:[^\\:]|\\.)*):", f"{rest}:"):
        name, value = re.fullmatch(r"(?s)(?:(\w+)=)?(.*)", part).groups()  # type: ignore[union-attr]  # it matches anything
        value = re.sub(r"(?s)\\(.)", r"\1", value)
        if name is None:
            words.append(value)
        else:
            values[name] = value
    values |= dict(zip(takes, words, strict=False))
    unknown = [*(name for name in values if name not in takes), *words[len(takes) :]]
    if unknown:
        raise ValueError(f"{kind}: does not take {unknown[0]!r}, but {', '.join(takes)}")
    for name in takes[:2] if kind == "tls" else takes[:1]:
        if not values.get(name):
            raise ValueError(f"{kind}: wants a {name}")
    return values
