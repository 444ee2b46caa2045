"""Where a client connects to: an address in words, made an endpoint; and what went wrong there, in words again.

Strategy: a `Destination` is itself an endpoint, so that `ClientService` need not know that a server may send its clients elsewhere. After a
redirect it leads to the new address, by the same kind of connection and the same trust; a failure there leads home again.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Any

from OpenSSL import SSL
from service_identity import VerificationError
from twisted.internet import error as net
from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint, TCP4ClientEndpoint, TCP6ClientEndpoint, clientFromString, wrapClientTLS
from twisted.internet.interfaces import IProtocol, IStreamClientEndpoint
from twisted.internet.ssl import Certificate, optionsForClientTLS, trustRootFromCertificates
from twisted.python.failure import Failure
from zope.interface import implementer

from twisted_im.cork import corked

#: Seconds for a TCP connection: three of the first packets may be lost (1 + 2 + 4 s, RFC 6298), and the fourth is on its way.
TIMEOUT = 10

_ADDRESS = re.compile(r"(?:(?P<scheme>tcp|tls):)?(?:\[(?P<six>[0-9a-fA-F:.%\w]+)\]|(?P<host>[^\s:/\[\]\\]+)):(?P<port>\d{1,5})\Z")


def split_address(address: str) -> tuple[str, str, int]:
    """Reads "host:port", "tcp:host:port" or "tls:host:port"; an IPv6 address stands in brackets.

    Returns:
        (scheme, host, port); the scheme is "tcp" if none is said.

    Raises:
        ValueError: it is something else; the message says what an address looks like.
    """
    found = _ADDRESS.match(address)
    if found is None or not 0 < int(found["port"]) < 65536:
        raise ValueError(f"{address!r} is no address: write host:port, such as im.example.org:7777 or [::1]:7777")
    return found["scheme"] or "tcp", found["six"] or found["host"], int(found["port"])


def trusted(path: str | os.PathLike[str]) -> Any:
    """The certificates of a PEM file, as what a client trusts instead of the system's authorities.

    Raises:
        ValueError: there is no certificate in it.
        OSError: it cannot be read.
    """
    with open(path, encoding="ascii", errors="replace") as file:
        blocks = re.findall(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", file.read(), re.DOTALL)
    if not blocks:
        raise ValueError(f"{os.fspath(path)} holds no certificate in PEM form")
    try:
        return trustRootFromCertificates([Certificate.loadPEM(block) for block in blocks])
    except SSL.Error as error:
        raise ValueError(f"{os.fspath(path)} holds a certificate that cannot be read") from error


@implementer(IStreamClientEndpoint)
class Destination:
    """The endpoint of a client.

    Args:
        target: an address (see `split_address`), any other client endpoint string of Twisted, or an endpoint.
        trust: a PEM file with the certificates to trust; by default those of the system's authorities.
        connecting: called when an attempt begins.
        failed: called with the failure of an attempt.

    Raises:
        ValueError: the target cannot be understood, or the file holds no certificate.
        OSError: the file cannot be read.
    """

    def __init__(
        self,
        target: str | IStreamClientEndpoint,
        reactor: Any,
        *,
        trust: str | os.PathLike[str] | None,
        connecting: Callable[[], object],
        failed: Callable[[Failure], object],
    ) -> None:
        self._reactor = corked(reactor)
        self._trust = None if trust is None else trusted(trust)
        self._scheme = ""
        self._name = str(target)
        self._connecting = connecting
        self._failed = failed
        if not isinstance(target, str):
            self._home = target
        elif re.match(r"(?!tcp:|tls:)\w+:.*\D", target) and not _ADDRESS.match(target):
            self._home = clientFromString(self._reactor, target)
        else:
            self._scheme, host, port = split_address(target)
            self._home = self._endpoint(host, port)
        self._away: IStreamClientEndpoint | None = None

    def connect(self, factory: Any) -> Deferred[IProtocol]:
        self._connecting()
        attempt: Deferred[IProtocol] = (self._away or self._home).connect(factory)
        return attempt.addErrback(self._lost)

    def go_home(self) -> None:
        """The next attempt goes to the address that the application gave."""
        self._away = None

    def redirect(self, address: str) -> bool:
        """Goes there from now on, if that can be understood and the target was an address; False if not."""
        try:
            _, host, port = split_address(address)
        except ValueError:
            return False
        if self._scheme:
            self._away = self._endpoint(host, port)
        return bool(self._scheme)

    def __repr__(self) -> str:
        return self._name if self._away is None else f"{self._name} (sent elsewhere)"

    def _lost(self, failure: Failure) -> Failure:
        self.go_home()
        self._failed(failure)
        return failure

    def _endpoint(self, host: str, port: int) -> IStreamClientEndpoint:
        endpoint: IStreamClientEndpoint
        if isIPAddress(host):
            endpoint = TCP4ClientEndpoint(self._reactor, host, port, timeout=TIMEOUT)
        elif isIPv6Address(host):
            endpoint = TCP6ClientEndpoint(self._reactor, host, port, timeout=TIMEOUT)
        else:
            endpoint = HostnameEndpoint(self._reactor, host, port, timeout=TIMEOUT)
        if self._scheme == "tls":
            endpoint = wrapClientTLS(optionsForClientTLS(host, trustRoot=self._trust), endpoint)
        return endpoint


def explain(failure: Failure) -> str:
    """Why a connection could not be made, or went, in words that say what can be done."""
    error = failure.value
    if isinstance(error, net.ConnectionRefusedError):
        return "nobody listens there"
    if isinstance(error, net.DNSLookupError):
        return "there is no host of that name"
    if isinstance(error, (net.TimeoutError, net.TCPTimedOutError)):
        return "no answer from there"
    if isinstance(error, VerificationError):
        return "the server's certificate is for another name"
    if isinstance(error, SSL.Error):
        words = str(error.args[0] if error.args else "")
        if "certificate verify failed" in words:
            return "the server's certificate is not trusted"
        if "wrong version number" in words or "packet length too long" in words or "record layer failure" in words:
            return "the server does not speak TLS there"
        return "TLS failed" + (f": {words}" if words and words != "[]" else "")
    if isinstance(error, (net.ConnectionDone, net.ConnectionLost)):
        return "the connection was lost"
    return str(error) or type(error).__name__
