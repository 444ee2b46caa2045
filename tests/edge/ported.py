"""TLS ports for tests: an authority, files, and clients that look at what they are shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from OpenSSL import SSL
from twisted.internet import reactor
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol, wrapClientTLS
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from zope.interface import implementer

from tests.running import Authority, Raw, Served
from twisted_im.pem import names_of


@implementer(IOpenSSLClientConnectionCreator)
class Visitor:
    """A client that believes anything, and can be told what to offer.

    Args:
        name: what it asks for; empty to say no name.
    """

    def __init__(self, name: str = "", *, ciphers: bytes = b"", version: int | None = None) -> None:
        self._name = name
        self._context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        if version is not None:
            self._context.set_max_proto_version(version)
        if ciphers:
            self._context.set_cipher_list(ciphers)

    def clientConnectionForTLS(self, protocol: object) -> SSL.Connection:
        connection = SSL.Connection(self._context, None)
        if self._name:
            connection.set_tlsext_host_name(self._name.encode())
        return connection


class Ported(Served):
    """A test with an authority, and clients that look at certificates.

    Attributes:
        folder: for files.
        servers: a folder in it for certificates.
    """

    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.folder.mkdir()
        self.authority = Authority(self.folder)
        self.servers = self.folder / "servers"
        self.servers.mkdir()

    async def enter(self, creator: Any, *, index: int = 0) -> Raw:
        """A connection that is up to whatever it finds."""
        endpoint = wrapClientTLS(creator, TCP4ClientEndpoint(reactor, "127.0.0.1", self.port(index)))
        raw: Raw = await connectProtocol(endpoint, Raw())
        self.addCleanup(raw.close)
        return raw

    async def shown(self, creator: Any, *, index: int = 0) -> str:
        """The first name of the certificate that a client is shown, once it has been greeted by the server itself."""
        raw = await self.enter(creator, index=index)
        await raw.hello()
        return names_of(raw.transport.getPeerCertificate().to_cryptography())[0]

    async def refused(self, creator: Any, *, index: int = 0) -> str:
        """Why a client does not get in, as TLS says it."""
        raw = await self.enter(creator, index=index)
        assert await raw.ended() is None
        assert raw.lost is not None
        return str(raw.lost.value)
