"""TLS ports as clients meet them: which certificate they are shown, what is refused, and how.

Strategy: real handshakes. Where a client must be worse than OpenSSL lets it be, its first bytes are written by hand.
"""

from __future__ import annotations

import os
import struct
from typing import Any

from OpenSSL import SSL
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.internet.ssl import PrivateCertificate, optionsForClientTLS
from zope.interface import implementer

from tests.edge.ported import Ported, Visitor
from tests.running import Authority, until
from twisted_im.edge.certificates import CIPHERS


def hello_of_tls_1_1() -> bytes:
    """The first bytes of a client that knows nothing newer (RFC 4346, 7.4.1.2, with the curves of RFC 4492)."""
    curves, points = struct.pack(">HHHH", 10, 4, 2, 23), struct.pack(">HHBB", 11, 2, 1, 0)
    ciphers = struct.pack(">5H", 0xC009, 0xC013, 0xC014, 0x002F, 0x00FF)
    body = b"\x03\x02" + os.urandom(32) + b"\0" + struct.pack(">H", len(ciphers)) + ciphers + b"\x01\0"
    body += struct.pack(">H", len(curves + points)) + curves + points
    message = b"\x01" + len(body).to_bytes(3, "big") + body
    return b"\x16\x03\x01" + struct.pack(">H", len(message)) + message


class TestTls(Ported):
    """A server with TLS ports."""

    async def test_the_name_picks_the_certificate(self) -> None:
        """If this fails, one server cannot serve two names: a client is shown another's certificate, and leaves."""
        for path, *names in (
            ("b.pem", "im.example.org", "chat.example.org"),
            ("c.pem", "*.example.org"),
            ("a.pem", "one.other.example"),
        ):
            self.authority.pair(self.servers / path, *names)
        certbot = self.servers / "bot.example"
        certbot.mkdir()
        both = self.authority.pair(certbot / "both", "bot.example").read_bytes()
        end = both.index(b"-----BEGIN CERT")
        (certbot / "privkey.pem").write_bytes(both[:end])
        (certbot / "fullchain.pem").write_bytes(both[end:])
        (self.servers / "README").write_text("no certificate")
        await self.serve(listen=(f"tls:{self.servers}:port=0:interface=127.0.0.1",))
        for asked, first in (
            ("im.example.org", "im.example.org"),
            ("CHAT.example.org", "im.example.org"),
            ("any.example.org", "*.example.org"),
            ("one.other.example", "one.other.example"),
            ("bot.example", "bot.example"),
        ):
            checked = optionsForClientTLS(asked.lower(), trustRoot=self.authority.roots)  # checks the name itself, too
            assert await self.shown(checked) == first, asked
            assert await self.shown(Visitor(asked)) == first, asked
        for stranger in ("a.b.example.org", "example.org", "unknown", "", "x" * 255):
            assert await self.shown(Visitor(stranger)) == "one.other.example", f"the first is for all the rest: {stranger!r}"
        self.authority.pair(self.servers / "default.pem", "none.example")
        assert self.server.reload() == []
        for stranger in ("unknown", ""):
            assert await self.shown(Visitor(stranger)) == "none.example", "unless one is called default"
        assert await self.shown(Visitor("im.example.org")) == "im.example.org"

    async def test_old_versions_and_ciphers_are_refused(self) -> None:
        """If this fails, a client can be talked into a connection that others can read; or an old one waits for ever."""
        pem = self.authority.pair(self.servers / "im.pem", "localhost")
        await self.serve(
            listen=(f"tls:{pem}:port=0:interface=127.0.0.1", f"ssl:0:privateKey={pem}:certKey={pem}:interface=127.0.0.1"),
        )
        for index in (0, 1):
            raw = await self.connect(index=index)
            raw.write(hello_of_tls_1_1())
            await until(lambda raw=raw: raw.lost, "the end")
            assert (raw.all[0], bytes(raw.all[-2:])) == (21, b"\x02\x46"), "a fatal alert: protocol version (70)"

            new, old = await self.enter(Visitor(), index=index), await self.enter(Visitor(version=SSL.TLS1_2_VERSION), index=index)
            for client, version in ((new, "TLSv1.3"), (old, "TLSv1.2")):
                await client.hello()
                handle = client.transport.getHandle()
                assert handle.get_protocol_version_name() == version
            assert old.transport.getHandle().get_cipher_name() in CIPHERS.decode()
            for weak in (b"ECDHE-ECDSA-AES128-SHA", b"ECDHE-ECDSA-AES256-SHA384"):
                said = await self.refused(Visitor(version=SSL.TLS1_2_VERSION, ciphers=weak), index=index)
                assert "handshake failure" in said, said
        await until(lambda: self.server.counters.connections == 4, "the refused to be forgotten")

    async def test_clients_must_show_who_they_are(self) -> None:
        """If this fails, a port for those who have a certificate lets others in, or those not."""
        pem = self.authority.pair(self.servers / "im.pem", "localhost")
        self.authority.pair(self.servers / "other.pem", "other.example")
        await self.serve(listen=(f"tls:{self.servers}:port=0:interface=127.0.0.1:authority={self.authority.pem}",))
        stranger = self.folder / "stranger"
        stranger.mkdir()
        good = self.authority.pair(self.folder / "alice.pem", "alice", client=True)
        for path, why in (
            (None, "certificate required"),
            (Authority(stranger).pair(stranger / "alice.pem", "alice", client=True), "unknown ca"),
            (pem, "unsupported certificate"),  # it is a server's
            (good, ""),
        ):
            own = None if path is None else PrivateCertificate.loadPEM(path.read_bytes())
            for name in ("localhost", "other.example"):
                creator = optionsForClientTLS(name, trustRoot=self.authority.roots, clientCertificate=own)
                if why:
                    assert why in await self.refused(creator)
                else:
                    assert await self.shown(creator) == name
        again = optionsForClientTLS("localhost", trustRoot=self.authority.roots, clientCertificate=own)
        first = await self.enter(again)
        await first.hello()
        session = first.transport.getHandle().get_session()

        @implementer(IOpenSSLClientConnectionCreator)
        class Resuming:
            def clientConnectionForTLS(self, protocol: Any) -> SSL.Connection:
                connection = again.clientConnectionForTLS(protocol)
                connection.set_session(session)
                return connection

        assert await self.shown(Resuming()) == "localhost", "who has a ticket from before comes back with it"

    async def test_behind_a_balancer(self) -> None:
        """If this fails, a server behind a balancer that passes TLS through takes the balancer for everybody, or nobody gets in."""
        pem = self.authority.pair(self.servers / "im.pem", "localhost")
        seen: list[Any] = []

        def authenticate(credentials: Any) -> bool:
            seen.append(credentials.address)
            return True

        await self.serve(listen=(f"haproxy:tls:{pem}:port=0:interface=127.0.0.1",), authenticator=authenticate)

        raw = await self.connect()
        raw.write(b"PROXY TCP4 192.0.2.9 192.0.2.1 40000 7778\r\n")  # what the balancer sends first, in the clear
        raw.transport.startTLS(optionsForClientTLS("localhost", trustRoot=self.authority.roots))
        await raw.hello()
        await raw.login("alice")
        assert "192.0.2.9" in str(seen[0])
