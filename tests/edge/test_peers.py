"""Where links may be taken and lead to, and who gets in by which certificate."""

from __future__ import annotations

from pathlib import Path

import pytest
from OpenSSL import SSL
from twisted.internet import reactor
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol, wrapClientTLS

from tests.edge.ported import Visitor
from tests.routing.linked import SECRET, Linked, Side, logged
from tests.running import Authority, Raw, until
from twisted_im.edge.peers import link_certificates, link_port, peer_endpoint
from twisted_im.routing.handshake import Peer
from twisted_im.wire.schema import Role


@pytest.mark.parametrize(
    ("description", "secret", "words"),
    [
        ("tcp:0:interface=0.0.0.0", SECRET, "others could reach that port: use tls:, or 127.0.0.1"),
        ("tcp:0:interface=192.0.2.1", SECRET, "others could reach that port"),
        ("tcp:0:interface=", SECRET, "an empty interface is every one"),
        ("tcp:0", b"", "want a secret that all nodes know; or use tls:"),
        ("unix:/nowhere", b"", "want a secret"),
        ("tls:im.pem:port=0", b"", "wants an authority"),
        ("ssl:0:privateKey=im.pem", SECRET, "links are taken at tls:"),
        ("haproxy:tcp:0", SECRET, "links are taken at tls:"),
    ],
)
def test_a_port_that_would_not_be_safe_is_refused(description: str, secret: bytes, words: str) -> None:
    """If this fails, the secret of a cluster is asked for on a network, where others can try to guess it and read everything."""
    with pytest.raises(ValueError, match=words):
        link_port(reactor, description, secret=secret)


def test_a_port_on_this_machine_is_taken() -> None:
    """If this fails, nodes on one machine need certificates."""
    for description in ("tcp:0", "tcp:0:interface=127.0.0.2", r"tcp:0:interface=\:\:1", "unix:/nowhere"):
        assert link_port(reactor, description, secret=SECRET)[1] == description[:4].rstrip(":")


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("tcp:im-1.example.org:7900", "wants TLS: write tls:im-1.example.org:7900"),
        ("192.0.2.1:7900", "wants TLS"),
        ("tls:192.0.2.1:7900", "needs a certificate and an authority"),
        ("tls:192.0.2.1", "is no address of a node"),
        ("127.0.0.1:0", "is no address of a node"),
        ("unix:relative", "is no address of a node"),
        ("", "is no address of a node"),
    ],
)
def test_an_address_that_may_not_be_linked_to(address: str, words: str) -> None:
    """If this fails, a node proves itself by its secret to another machine, in the clear; or a typing error is not told."""
    with pytest.raises(ValueError, match=words):
        peer_endpoint(reactor, address)


def test_an_address_on_this_machine() -> None:
    """If this fails, nodes on one machine cannot be told where the others are."""
    for address in ("tcp:127.0.0.1:7900", "localhost:7900", "[::1]:7900", "unix:/run/im"):
        peer_endpoint(reactor, address)


class TestTls(Linked):
    """A node with a port for links over TLS."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.folder.mkdir()
        self.authority = Authority(self.folder)

    def pair(self, file: str, *names: str, authority: Authority | None = None, **kind: bool) -> Path:
        return (authority or self.authority).pair(self.folder / f"{file}.pem", *names, **kind)

    async def _served(self) -> tuple[Side, str]:
        one = self.side("im-1", secret=b"")
        own = self.pair("im-1", "im-1", node=True)
        return one, await self.listening(one, f"tls:{own}:port=0:authority={self.authority.pem}")

    async def test_only_nodes_get_in_and_only_under_their_own_name(self) -> None:
        """If this fails, a client with a certificate becomes a node, a node becomes another, or a stranger gets in."""
        one, where = await self._served()
        (elsewhere := self.folder / "elsewhere").mkdir()
        stranger = Authority(elsewhere)
        for path, trusted, words in (
            (self.pair("im-3", "im-3", node=True), self.authority, "the certificate shown is not for im-2"),
            (self.pair("client", "im-2", client=True), self.authority, "it is not for both ends of a link"),
            (self.pair("server", "im-2"), self.authority, "TLS: "),
            (self.pair("strange", "im-2", node=True, authority=stranger), self.authority, "TLS: "),
            (self.pair("trusting", "im-2", node=True), stranger, "im-1, tls:127.0.0.1:"),
            (self.pair("im-2", "im-2", node=True), self.authority, ""),
        ):
            two = self.side("im-2", secret=b"")
            with logged() as lines:
                self.leads(two, where, Peer(Role.PEER, "im-1"), link_certificates(path, trusted.pem))
                mine = "with node im-1, tls:127.0.0.1:"
                await until(lambda: any(mine in line for line in lines) or list(two.links), words)  # noqa: B023  # it is waited for here
                if words:
                    assert any(words in line for line in lines), (words, lines)
                else:
                    assert not any(mine in line for line in lines), lines
                await two.links.stop()
        await until(lambda: one.of("down"), "the news")
        assert one.told == [("up", "im-2"), ("down", "im-2")]
        assert self.flushLoggedErrors() == []

    async def test_a_port_that_shows_anothers_certificate(self) -> None:
        """If this fails, a node gives its messages to whoever has taken a peer's address."""
        one, two = self.side("im-1", secret=b""), self.side("im-2", secret=b"")
        shown, own = self.pair("im-3", "im-3", node=True), self.pair("im-2", "im-2", node=True)
        where = await self.listening(one, f"tls:{shown}:port=0:authority={self.authority.pem}")
        with logged() as lines:
            self.leads(two, where, Peer(Role.PEER, "im-1"), link_certificates(own, self.authority.pem))
            await until(lambda: len(lines) == 2, "both to say so")
        assert all("the certificate shown is not for im-1" in line for line in lines), lines
        assert one.told == two.told == []

    async def test_older_tls_and_none_at_all(self) -> None:
        """If this fails, what passes between nodes can be read by whoever can break an older TLS; or rubbish on the port is told nobody."""
        _, where = await self._served()
        there = TCP4ClientEndpoint(reactor, "127.0.0.1", int(where.rpartition(":")[2]))
        for endpoint, words in (
            (wrapClientTLS(Visitor(version=SSL.TLS1_2_VERSION), there), "protocol"),
            (wrapClientTLS(Visitor(), there), "certificate"),
            (there, "TLS: "),
        ):
            with logged() as lines:
                raw: Raw = await connectProtocol(endpoint, Raw())
                self.addCleanup(raw.close)
                raw.write(b"GET / HTTP/1.1\r\n\r\n" * 4)
                await raw.ended()
                await until(lambda: lines, "the line")
            assert len(lines) == 1, lines
            assert words in lines[0], lines

    async def test_a_certificate_is_renewed_while_the_links_are_up(self) -> None:
        """If this fails, nodes must be restarted whenever a certificate is renewed."""
        one, where = await self._served()
        assert self.certificates is not None
        own = self.pair("im-2", "im-2", node=True)
        certificates = link_certificates(own, self.authority.pem)
        two = self.side("im-2", secret=b"")
        self.leads(two, where, Peer(Role.PEER, "im-1"), certificates)
        await until(lambda: list(two.links), "the link")
        self.pair("im-1", "im-1", node=True)
        self.pair("im-2", "im-2", node=True)
        serial = one.to("im-2")._pump.transport.getPeerCertificate().get_serial_number()
        assert (self.certificates.reload(), certificates.reload()) == ([], [])
        one.to("im-2").abort("for a test")
        await until(lambda: len(two.of("up")) == 2, "the link again")
        assert one.to("im-2")._pump.transport.getPeerCertificate().get_serial_number() != serial
