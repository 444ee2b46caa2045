"""Where a client connects to: an address in words, made an endpoint; and what went wrong there, in words again.

Strategy: a `Destination` is itself an endpoint, so that `ClientService` need not know that there are several addresses, or that a
server may send its clients elsewhere. An attempt tries all addresses, and has failed when the last one has. An address that takes the
connection and gives no login is the last one next time: it may be a server that has hung, with another in its place. After a redirect it
leads to the new address, by the same kind of connection and the same trust; a failure there leads home again.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cryptography import x509
from OpenSSL import SSL, crypto
from service_identity import VerificationError
from twisted.internet import error as net
from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.internet.endpoints import HostnameEndpoint, TCP4ClientEndpoint, TCP6ClientEndpoint, clientFromString, wrapClientTLS
from twisted.internet.interfaces import IProtocol, IStreamClientEndpoint
from twisted.internet.ssl import Certificate, PrivateCertificate, optionsForClientTLS, trustRootFromCertificates
from twisted.python.failure import Failure
from zope.interface import implementer

from twisted_im.cork import corked
from twisted_im.pem import Pair, as_pem, read_certificates, read_pair

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


def tls_options(host: str, trust: list[x509.Certificate] | None, own: Pair | None) -> Any:
    """How a client speaks TLS: the server's certificate must be for this host, and signed by somebody whom the client trusts.

    Args:
        trust: whom; None for the system's authorities.
        own: what a server that asks for a certificate is shown.
    """
    roots = None if trust is None else trustRootFromCertificates([Certificate.loadPEM(as_pem(each)) for each in trust])
    if own is None:
        return optionsForClientTLS(host, trustRoot=roots)
    shown = PrivateCertificate.loadPEM(as_pem(own.key) + as_pem(own.chain[0]))
    above = [crypto.X509.from_cryptography(each) for each in own.chain[1:]]
    return optionsForClientTLS(host, trustRoot=roots, clientCertificate=shown, extraCertificateOptions={"extraCertChain": above})


@implementer(IStreamClientEndpoint)
class Destination:
    """The endpoint of a client.

    Args:
        target: an address (see `split_address`), several with commas between them, any other client endpoint string of Twisted, or
            an endpoint.
        trust: a PEM file with the certificates to trust; by default those of the system's authorities.
        certificate: a PEM file with a key and its certificate, to be shown to a server that asks for one.
        connecting: called when an attempt begins.
        failed: called with the failure of an attempt.

    Raises:
        ValueError: the target cannot be understood, a file does not hold what it should, or the target is none of ours that speaks TLS, and
            would leave the files unused.
        OSError: a file cannot be read.
    """

    def __init__(
        self,
        target: str | IStreamClientEndpoint,
        reactor: Any,
        *,
        trust: str | os.PathLike[str] | None,
        certificate: str | os.PathLike[str] | None = None,
        connecting: Callable[[], object],
        failed: Callable[[Failure], object],
    ) -> None:
        self._reactor = corked(reactor)
        self._trust = None if trust is None else read_certificates(Path(trust))
        self._own = None if certificate is None else read_pair(Path(certificate))
        self._scheme = ""
        self._name = str(target)
        self._connecting = connecting
        self._failed = failed
        self._homes: list[IStreamClientEndpoint] = []
        if not isinstance(target, str):
            self._homes.append(target)
        elif re.match(r"(?!tcp:|tls:)\w+:.*\D", target) and not _ADDRESS.match(target.partition(",")[0]):
            self._homes.append(clientFromString(self._reactor, target))
        else:
            addresses = target.split(",")
            said = dict.fromkeys(address[:3] for address in addresses if address.startswith(("tcp:", "tls:")))
            if len(said) > 1:
                raise ValueError(f"{target!r} mixes tcp: and tls:; all its addresses are of one kind")
            self._scheme = next(iter(said), "tcp")
            self._homes += [self._endpoint(*split_address(address)[1:]) for address in addresses]
        if self._scheme != "tls" and (trust is not None or certificate is not None):
            raise ValueError(f"{self._name} says nothing of TLS, and what to trust would be of no use: write tls:host:port")
        self._away: IStreamClientEndpoint | None = None

    def connect(self, factory: Any) -> Deferred[IProtocol]:
        self._connecting()
        if self._away is None:
            return self._try(factory, len(self._homes))
        attempt: Deferred[IProtocol] = self._away.connect(factory)
        return attempt.addErrback(self._lost, factory, 0)

    def _try(self, factory: Any, left: int) -> Deferred[IProtocol]:
        """Tries the first address, and so many in all."""
        attempt: Deferred[IProtocol] = self._homes[0].connect(factory)
        return attempt.addErrback(self._lost, factory, left - 1)

    def _lost(self, failure: Failure, factory: Any, left: int) -> Deferred[IProtocol]:
        self.go_on()
        if left and not failure.check(CancelledError, net.ConnectingCancelledError):
            return self._try(factory, left)
        self._failed(failure)
        return fail(failure)

    def go_on(self) -> None:
        """This address was of no use: the next attempt begins with another one that the application gave."""
        if self._away is None:
            self._homes.append(self._homes.pop(0))
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

    def _endpoint(self, host: str, port: int) -> IStreamClientEndpoint:
        endpoint: IStreamClientEndpoint
        if isIPAddress(host):
            endpoint = TCP4ClientEndpoint(self._reactor, host, port, timeout=TIMEOUT)
        elif isIPv6Address(host):
            endpoint = TCP6ClientEndpoint(self._reactor, host, port, timeout=TIMEOUT)
        else:
            endpoint = HostnameEndpoint(self._reactor, host, port, timeout=TIMEOUT)
        if self._scheme == "tls":
            endpoint = wrapClientTLS(tls_options(host, self._trust, self._own), endpoint)
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
        if "certificate required" in words:
            return "the server wants a certificate of this client"
        if re.search("alert (unknown ca|.*certificate)", words):
            return "the server does not take this client's certificate"
        if "alert protocol version" in words or "unsupported protocol" in words:
            return "the server takes other versions of TLS"
        if "wrong version number" in words or "packet length too long" in words or "record layer failure" in words:
            return "the server does not speak TLS there"
        return "TLS failed" + (f": {words}" if words and words != "[]" else "")
    if isinstance(error, (net.ConnectionDone, net.ConnectionLost)):
        return "the connection was lost"
    return str(error) or type(error).__name__
