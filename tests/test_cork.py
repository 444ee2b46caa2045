"""TLS that is read by whole records: whatever the network makes of a stream, the same bytes come out as with Twisted's own TLS.

Strategy: real TLS on both sides, in memory, so that the bytes on the way can be cut and joined at will; Hypothesis decides where. What ends
a connection — a farewell, a broken record — is read the same way.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from OpenSSL import SSL
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.ssl import PrivateCertificate, optionsForClientTLS
from twisted.internet.testing import StringTransport
from twisted.protocols.tls import TLSMemoryBIOFactory, TLSMemoryBIOProtocol
from twisted.python.failure import Failure

from tests.running import Authority
from twisted_im.cork import RecordTLS, over_tls

LOOKS_RIGHT = re.compile(b"(?=\x17....)", re.DOTALL)  #: as far as the type goes


class Reader(Protocol):
    """What stands above TLS: it keeps what comes, and how it ended."""

    def __init__(self) -> None:
        self.got = b""
        self.ended: Failure | None = None

    def dataReceived(self, data: bytes) -> None:
        self.got += data

    def connectionLost(self, reason: Any = None) -> None:
        self.ended = reason


class Pair:
    """A client and a server of one TLS connection, through the handshake, with what each has written and the other has not read."""

    def __init__(self, contexts: tuple[Any, Any]) -> None:
        server, client = contexts
        sender = TLSMemoryBIOFactory(client, True, _factory())
        sender.protocol = TLSMemoryBIOProtocol  # as `over_tls` has it: what is written leaves at once
        self.server: Any = self._end(over_tls(server, _factory()))
        self.client: Any = self._end(sender)
        assert isinstance(self.server, RecordTLS)
        self.reader: Reader = self.server.wrappedProtocol
        self.answered: Reader = self.client.wrappedProtocol
        ends = (self.client, self.server), (self.server, self.client)
        while any(self.pass_on(*each) for each in ends):
            pass

    @staticmethod
    def _end(factory: TLSMemoryBIOFactory) -> Any:
        made = factory.buildProtocol(None)
        made.makeConnection(StringTransport())
        return made

    def pass_on(self, sender: Any, receiver: Any) -> bool:
        """Gives one what the other has written; whether there was anything."""
        sealed = self.take(sender)
        if sealed:
            receiver.dataReceived(sealed)
        return bool(sealed)

    def take(self, end: Any) -> bytes:
        """What it has written, which is then gone."""
        written: bytes = end.transport.value()
        end.transport.clear()
        return written


def _factory() -> Factory:
    made = Factory.forProtocol(Reader)
    made.noisy = False
    return made


@pytest.fixture(scope="module")
def contexts() -> Iterator[tuple[Any, Any]]:
    """For a server, and for a client that trusts it."""
    with tempfile.TemporaryDirectory() as name:
        authority = Authority(Path(name))
        pem = authority.pair(Path(name) / "server.pem", "localhost")
        yield PrivateCertificate.loadPEM(pem.read_bytes()).options(), optionsForClientTLS("localhost", trustRoot=authority.roots)


@given(parts=st.lists(st.binary(min_size=1, max_size=40_000), max_size=6), cuts=st.lists(st.integers(0, 250_000), max_size=8))
def test_a_stream_comes_out_as_it_went_in(contexts: tuple[Any, Any], parts: list[bytes], cuts: list[int]) -> None:
    """If this fails, bytes are lost, doubled or held back under TLS, when reads end within a record or hold several of them."""
    pair = Pair(contexts)
    for part in parts:
        pair.client.write(part)
    sealed = pair.take(pair.client)
    places = [0, *sorted(cut for cut in cuts if cut < len(sealed)), len(sealed)]
    for begin, end in pairwise(places):
        if end > begin:
            pair.server.dataReceived(sealed[begin:end])
    assert pair.reader.got == b"".join(parts)


def test_one_record_a_read(contexts: tuple[Any, Any]) -> None:
    """If this fails, the reads that are most of all reads take the long way, or lose something on the short one."""
    pair = Pair(contexts)
    for number in range(20):
        pair.client.write(b"%d" % number * 700)
        pair.pass_on(pair.client, pair.server)
        assert pair.reader.got.endswith(b"%d" % number * 700)
        pair.server.write(b"answer")
        pair.pass_on(pair.server, pair.client)
    assert pair.answered.got == b"answer" * 20


def test_a_farewell_is_heard(contexts: tuple[Any, Any]) -> None:
    """If this fails, a client that says goodbye under TLS is waited for until its connection has been silent for long."""
    pair = Pair(contexts)
    pair.client.write(b"last words")
    pair.pass_on(pair.client, pair.server)
    pair.client.loseConnection()  # a record as any other, as far as can be seen
    pair.pass_on(pair.client, pair.server)
    assert pair.server.transport.disconnecting
    pair.server.connectionLost(Failure(ConnectionDone()))
    assert pair.reader.got == b"last words"
    assert pair.reader.ended is not None
    assert pair.reader.ended.check(ConnectionDone)


def test_a_broken_record_ends_it(contexts: tuple[Any, Any]) -> None:
    """If this fails, bytes that somebody has changed on the way are taken for good ones, or the connection stays open and deaf."""
    pair = Pair(contexts)
    pair.client.write(b"first")
    pair.pass_on(pair.client, pair.server)
    pair.client.write(b"second")
    sealed = pair.take(pair.client)
    pair.server.dataReceived(sealed[:-1] + bytes([sealed[-1] ^ 1]))
    assert pair.server.transport.disconnecting
    pair.server.connectionLost(Failure(ConnectionLost()))
    assert pair.reader.got == b"first"
    assert pair.reader.ended is not None
    assert pair.reader.ended.check(SSL.Error), "nobody is told that it was broken, and not lost"


def test_a_read_that_only_looks_like_a_record(contexts: tuple[Any, Any]) -> None:
    """If this fails, somebody's messages come late, and ever later, from the one read on that begins with what might be a header."""
    pair = Pair(contexts)
    for _ in range(30_000):  # one in a thousand has such a place
        pair.client.write(bytes(16_000))
        sealed = pair.take(pair.client)
        cuts = [found.start() for found in LOOKS_RIGHT.finditer(sealed, 1)]
        cut = next((cut for cut in cuts if int.from_bytes(sealed[cut + 3 : cut + 5], "big") == len(sealed) - cut - 5), 0)
        if cut:
            break
        pair.server.dataReceived(sealed)
        pair.reader.got = b""
    else:
        pytest.fail("there was no such place")
    pair.server.dataReceived(sealed[:cut])
    pair.server.dataReceived(sealed[cut:])
    pair.client.write(b"ping")
    pair.pass_on(pair.client, pair.server)
    assert pair.reader.got == bytes(16_000) + b"ping"
