"""Certificates that change under a running server, and those that are about to end.

Strategy: real files and real handshakes; SIGHUP itself is sent in `tests/test_tap.py`.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from twisted.internet.ssl import optionsForClientTLS
from twisted.logger import LogLevel, globalLogPublisher

from tests.edge.ported import Ported, Visitor
from tests.running import Authority
from twisted_im.edge.certificates import Certificates
from twisted_im.pem import CertificateError, read_pair


class TestCertificates(Ported):
    """A server whose files change."""

    def setUp(self) -> None:
        super().setUp()
        self.logged: list[dict[str, Any]] = []
        globalLogPublisher.addObserver(self.logged.append)
        self.addCleanup(globalLogPublisher.removeObserver, self.logged.append)

    def told(self, event: str) -> list[dict[str, Any]]:
        """What the log has said under this name since it was last asked."""
        found = [each for each in self.logged if each.get("event") == event]
        self.logged.clear()
        return found

    async def serial(self, name: str = "localhost") -> int:
        """The number of the certificate that a newcomer is shown."""
        raw = await self.enter(Visitor(name))
        await raw.hello()
        return int(raw.transport.getPeerCertificate().to_cryptography().serial_number)

    async def test_a_renewed_certificate(self) -> None:
        """If this fails, a renewal throws people out, is not noticed, or a slip in it stops the server from serving."""
        pem, key = self.folder / "im.pem", self.folder / "im.key"
        first = self.authority.pair(pem, "localhost").read_bytes()
        await self.serve(listen=(f"tls:{pem}:port=0:interface=127.0.0.1",))
        alice = await self.enter(optionsForClientTLS("localhost", trustRoot=self.authority.roots))
        await alice.hello()
        await alice.login("alice")
        before = await self.serial()
        assert self.server.reload() == []
        assert await self.serial() == before, "the same file is the same certificate"

        self.authority.pair(pem, "localhost", "new.example")
        assert await self.serial() == before, "not before it is told"
        self.told("reloaded")
        assert self.server.reload() == []
        assert [each["names"] for each in self.told("reloaded")] == ["localhost, new.example"]
        after = await self.serial()
        assert after != before
        second = pem.read_bytes()

        border = b"-----BEGIN CERT"
        own, other = second.partition(border), first.partition(border)
        for bad, why in (
            (own[0] + other[1] + other[2], "the key does not match the certificate"),
            (own[0], "there is no certificate in it"),
            (own[1] + own[2], "there is no private key in it"),
            (b"", "there is no certificate in it"),
            (second[:90] + second[120:], "the key cannot be read"),
            (second[:-90] + second[-40:], "a certificate in it cannot be read"),
            (None, "No such file or directory"),
        ):
            if bad is None:
                pem.unlink()
            else:
                key.write_bytes(bad)
                key.rename(pem)
            (fault,) = self.server.reload()
            assert fault.startswith(f"{pem}: "), fault
            assert why in fault, fault
            assert "\n" not in fault
            (line,) = self.told("not_reloaded")
            assert (line["log_level"], line["why"]) == (LogLevel.error, fault)
            assert await self.serial() == after, why
        pem.write_bytes(first)
        assert self.server.reload() == []
        assert await self.serial() == before
        await alice.settle()
        assert alice.lost is None, "nobody was thrown out"

    async def test_one_bad_file_among_good_ones(self) -> None:
        """If this fails, one name's slip keeps the others' renewals away, or a name that is new is not served."""
        for name in ("one", "two"):
            self.authority.pair(self.servers / f"{name}.pem", f"{name}.example")
        (self.servers / "junk.pem").write_text("junk")
        await self.serve(listen=(f"tls:{self.servers}:port=0:interface=127.0.0.1",))
        assert [each["why"] for each in self.logged if "not used" in each.get("log_format", "")] == [
            f"{self.servers}/junk.pem: there is no certificate in it (PEM)"
        ]
        one, two = await self.serial("one.example"), await self.serial("two.example")
        (self.servers / "one.pem").write_text("spoilt")
        self.authority.pair(self.servers / "two.pem", "two.example")
        self.authority.pair(self.servers / "three.pem", "three.example")
        assert len(self.server.reload()) == 2
        assert await self.serial("one.example") == one
        assert await self.serial("two.example") != two
        assert await self.serial("three.example") not in (one, two)
        (self.servers / "one.pem").unlink()
        assert len(self.server.reload()) == 1
        assert await self.serial("one.example") != one, "what was taken away is gone"
        for path in self.servers.iterdir():
            path.unlink()
        (fault,) = self.server.reload()
        assert "no certificate in it can be used" in fault
        assert await self.serial("three.example"), "an empty folder is a slip as well"

    async def test_two_files_and_a_separate_key(self) -> None:
        """If this fails, what other tools write, key and certificate apart, cannot be served; or a renewal of one without the other is."""
        both = self.authority.pair(self.folder / "both.pem", "localhost").read_bytes()
        border = both.index(b"-----BEGIN CERT")
        (self.folder / "tls.key").write_bytes(both[:border])
        (self.folder / "tls.crt").write_bytes(self.authority.pem.read_bytes() + both[border:])
        await self.serve(listen=(f"tls:{self.folder}/tls.crt:key={self.folder}/tls.key:port=0:interface=127.0.0.1",))
        before = await self.serial()
        assert before == read_pair(self.folder / "both.pem").chain[0].serial_number, "the key says which one is its own"
        (self.folder / "tls.crt").write_bytes(self.authority.pair(self.folder / "both.pem", "localhost").read_bytes())
        assert self.server.reload() == [f"{self.folder}/tls.key: the key does not match the certificate in {self.folder}/tls.crt"]
        assert await self.serial() == before

    async def test_the_end_is_announced(self) -> None:
        """If this fails, people learn from their clients that a certificate has expired."""
        self.authority.pair(self.servers / "fine.pem", "fine.example")
        self.authority.pair(self.servers / "late.pem", "late.example", life=timedelta(minutes=1))
        self.authority.pair(self.servers / "soon.pem", "soon.example", life=timedelta(minutes=6))
        await self.serve(listen=(f"tls:{self.servers}:port=0:interface=127.0.0.1",))
        lines = {each["names"]: each for each in self.told("expiring")}
        assert set(lines) == {"late.example", "soon.example"}
        assert all(each["log_level"] is LogLevel.warn for each in lines.values())
        assert (lines["late.example"]["days"], lines["soon.example"]["days"]) == (-1, 0)
        assert lines["late.example"]["complaint"].startswith("expired on ")
        assert await self.serial("late.example"), "it is only a warning"
        assert self.server.reload() == []

        pair = read_pair(self.servers / "fine.pem")
        day = timedelta(days=1)
        for left, said in ((15 * day, ""), (13.5 * day, "expires in 13 days"), (0.5 * day, "expires in 0 days")):
            assert pair.complaint(pair.until - left) == said
        assert pair.complaint(pair.until).startswith("expired on ")
        assert pair.complaint(pair.until - 400 * day).startswith("is not valid before ")

    async def test_an_authority_that_is_none(self) -> None:
        """If this fails, a slip in the authority's file lets everybody in, or is noticed by the first client."""
        pem = self.authority.pair(self.folder / "im.pem", "localhost")
        for name, content in (("junk", b"junk"), ("none", None)):
            path = self.folder / name
            if content is not None:
                path.write_bytes(content)
            with self.assertRaises((CertificateError, OSError)):
                Certificates(pem, authority=path)
        root = self.folder / "root.pem"
        root.write_bytes(self.authority.pem.read_bytes())
        await self.serve(listen=(f"tls:{pem}:authority={root}:port=0:interface=127.0.0.1",))
        other = self.folder / "other"
        other.mkdir()
        root.write_bytes(Authority(other).pem.read_bytes())
        assert self.server.reload() == []
        root.write_text("junk")
        assert self.server.reload() == [f"{root}: there is no certificate in it (PEM)"]


def test_pass_phrases_are_not_asked_for(tmp_path: Path) -> None:
    """If this fails, a server with a protected key waits at a terminal that nobody looks at."""
    pem = Authority(tmp_path).pair(tmp_path / "im.pem", "localhost")
    form = serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"secret")
    pem.write_bytes(read_pair(pem).key.private_bytes(serialization.Encoding.PEM, *form) + pem.read_bytes())
    try:
        Certificates(pem)
    except CertificateError as error:
        assert f"{pem}: the key has a pass phrase; openssl pkey" in str(error)
    else:
        raise AssertionError("it was read")
