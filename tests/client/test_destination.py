"""Addresses, trust, and the words for what goes wrong on the way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from twisted.internet.error import ConnectionRefusedError
from twisted.internet.protocol import Factory
from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure

from tests.client.party import Party
from tests.running import Authority
from twisted_im.client.destination import Destination, split_address
from twisted_im.client.values import Life
from twisted_im.commands.demo_single import throwaway_certificate


@pytest.mark.parametrize(
    ("address", "found"),
    [
        ("im.example.org:7777", ("tcp", "im.example.org", 7777)),
        ("tcp:127.0.0.1:1", ("tcp", "127.0.0.1", 1)),
        ("tls:im.example.org:65535", ("tls", "im.example.org", 65535)),
        ("[::1]:7777", ("tcp", "::1", 7777)),
        ("tls:[fe80::1%eth0]:7777", ("tls", "fe80::1%eth0", 7777)),
    ],
)
def test_addresses(address: str, found: tuple[str, str, int]) -> None:
    """If this fails, a person cannot name their server in a usual way."""
    assert split_address(address) == found


@pytest.mark.parametrize(
    "address", ["", "host", "host:", "host:0", "host:65536", "host:x", "::1:7777", "http://host:1", "a b:1", "tls:host"]
)
def test_what_is_no_address(address: str) -> None:
    """If this fails, a slip in an address shows up as a connection that never comes."""
    with pytest.raises(ValueError, match="is no address: write host:port"):
        split_address(address)


def test_a_redirect_keeps_to_the_same_kind() -> None:
    """If this fails, a server can send its clients from TLS to plain text."""
    reactor = MemoryReactorClock()
    tried: list[str] = []
    destination = Destination(
        "tcp:127.0.0.1:1", reactor, trust=None, connecting=lambda: tried.append("try"), failed=lambda _: tried.append("failed")
    )
    assert not destination.redirect("nonsense")
    assert not destination.redirect("")
    assert destination.redirect("127.0.0.1:2")
    destination.connect(None)
    assert [client[:2] for client in reactor.tcpClients] == [("127.0.0.1", 2)]
    destination.go_on()
    destination.connect(None)
    assert [client[:2] for client in reactor.tcpClients] == [("127.0.0.1", 2), ("127.0.0.1", 1)]
    assert tried == ["try", "try"]


def test_several_addresses() -> None:
    """If this fails, clients of a server that was replaced by its standby go on knocking at the old door, or forget the first one."""
    reactor = MemoryReactorClock()
    destination = Destination("tcp:127.0.0.1:1,127.0.0.1:2", reactor, trust=None, connecting=lambda: None, failed=lambda _: None)

    def tried(fails: int) -> list[Any]:
        """The ports of one attempt of which so many addresses fail."""
        before = len(reactor.tcpClients)
        destination.connect(Factory()).addErrback(lambda _: None)
        for _ in range(fails):
            reactor.tcpClients[-1][2].clientConnectionFailed(None, Failure(ConnectionRefusedError()))
        return [port for _, port, *_ in reactor.tcpClients[before:]]

    assert [tried(0), tried(1), tried(0), tried(2), tried(0)] == [[1], [1, 2], [2], [2, 1], [2]]
    destination.go_on()  # it took the connection, and gave no login
    assert tried(0) == [1]
    with pytest.raises(ValueError, match="all its addresses are of one kind"):
        Destination("tcp:127.0.0.1:1,tls:127.0.0.1:2", reactor, trust=None, connecting=lambda: None, failed=lambda _: None)


class TestTls(Party):
    """Real handshakes."""

    async def asks(self, at: str, **options: object) -> str:
        """Why a client does not get in."""
        client = self.client("alice", at=at, **options)
        await self.until(lambda: client.standing.life is Life.WAITING)
        await client.stopService()
        return next(standing.reason for standing in self.told[client]["state"] if standing.life is Life.WAITING)

    async def test_trust(self) -> None:
        """If this fails, a client talks to whoever answers, or refuses its own server; or does not say why."""
        folder = Path(self.mktemp())
        folder.mkdir()
        pem = throwaway_certificate(folder)
        other = folder / "other"
        other.mkdir()
        await self.serve(listen=f"ssl:0:privateKey={pem}:certKey={pem}:interface=127.0.0.1")
        address = self.server.addresses[0]
        port = address.rpartition(":")[2]
        (alice,) = await self.online("alice", at=f"tls:{address}", trust=pem)
        (bob,) = await self.online("bob", at=f"tls:localhost:{port}", trust=pem)
        await alice.send("bob", "hello").accepted
        await self.until(lambda: self.shown[bob])

        self.assertEqual(await self.asks(f"tls:{address}"), "the server's certificate is not trusted")
        self.assertEqual(await self.asks(f"tls:{address}", trust=throwaway_certificate(other)), "the server's certificate is not trusted")
        self.assertIn("does it speak this protocol, and is TLS right?", await self.asks(address))
        plain = (await self.serve()).addresses[0]
        self.assertEqual(await self.asks(f"tls:{plain}", trust=pem), "the server does not speak TLS there")

    async def test_a_server_that_wants_a_certificate(self) -> None:
        """If this fails, a client with a certificate does not get in, or one without does not learn what is missing."""
        folder = Path(self.mktemp())
        folder.mkdir()
        authority = Authority(folder)
        pem = authority.pair(folder / "im.pem", "127.0.0.1")
        await self.serve(listen=f"tls:{pem}:authority={authority.pem}:port=0:interface=127.0.0.1")
        address = f"tls:{self.server.addresses[0]}"
        self.assertEqual(await self.asks(address, trust=authority.pem), "the server wants a certificate of this client")
        wrong = await self.asks(address, trust=authority.pem, certificate=pem)
        self.assertEqual(wrong, "the server does not take this client's certificate")
        own = authority.pair(folder / "alice.pem", "alice", client=True)
        await self.online("alice", at=address, trust=authority.pem, certificate=own)

    async def test_a_certificate_for_another_name(self) -> None:
        """If this fails, anybody with a certificate of their own can stand between a client and its server."""
        folder = Path(self.mktemp())
        folder.mkdir()
        pem = throwaway_certificate(folder)
        await self.serve(listen=f"ssl:0:privateKey={pem}:certKey={pem}:interface=127.0.0.2")
        self.assertEqual(await self.asks(f"tls:{self.server.addresses[0]}", trust=pem), "the server's certificate is for another name")
