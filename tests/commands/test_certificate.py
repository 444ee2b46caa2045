"""The certificate command, as a person types it; and whether what it makes is believed by those who judge strictly.

Strategy: real processes and files. The judge is the verifier of `cryptography`, which follows what browsers ask of certificates; and the
lines that the command prints are typed as they stand, but for the port.
"""

from __future__ import annotations

import os
import re
import shlex
import stat
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509 import verification

from tests.twistd import DEADLINE, ENVIRONMENT, TWISTD, address_in, started
from twisted_im.commands.certificate import client_name, server_name
from twisted_im.pem import read_certificates, read_pair


def certificate(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Runs the command."""
    command = [sys.executable, "-m", "twisted_im", "certificate", *words]
    return subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=DEADLINE, check=False)


def made(folder: Path, *words: str) -> str:
    """Runs the command, which must do as it is told; gives what it says."""
    done = certificate(folder, *words)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


def test_strict_judges_believe_it(tmp_path: Path) -> None:
    """If this fails, some clients take what the command makes, and others say only that it is invalid."""
    made(tmp_path, "authority", "pki")
    made(tmp_path, "server", "pki", "im.example.org", "*.im.example.org", "192.0.2.7", "::1", "bücher.example")
    made(tmp_path, "client", "pki", "alice")
    made(tmp_path, "client", "pki", "bob@example.org")
    made(tmp_path, "node", "pki", "im-1")
    made(tmp_path, "authority", "other")
    (root,) = read_certificates(tmp_path / "pki" / "authority.pem")
    (other,) = read_certificates(tmp_path / "other" / "authority.pem")
    assert root.subject != other.subject
    server = read_pair(tmp_path / "pki" / "servers" / "im.example.org.pem").chain[0]
    asked = verification.PolicyBuilder().store(verification.Store([root]))
    for name in ("im.example.org", "a.im.example.org", "xn--bcher-kva.example"):
        asked.build_server_verifier(x509.DNSName(name)).verify(server, [])
    for address in ("192.0.2.7", "::1"):
        asked.build_server_verifier(x509.IPAddress(ip_address(address))).verify(server, [])
    with pytest.raises(verification.VerificationError):
        asked.build_server_verifier(x509.DNSName("example.org")).verify(server, [])
    strange = verification.PolicyBuilder().store(verification.Store([other]))
    with pytest.raises(verification.VerificationError):
        strange.build_server_verifier(x509.DNSName("im.example.org")).verify(server, [])
    for name in ("alice", "bob@example.org"):
        client = read_pair(tmp_path / "pki" / "clients" / f"{name}.pem").chain[0]
        asked.build_client_verifier().verify(client, [])
        with pytest.raises(verification.VerificationError):
            asked.build_server_verifier(x509.DNSName("alice")).verify(client, [])
    with pytest.raises(verification.VerificationError):
        asked.build_client_verifier().verify(server, [])
    node = read_pair(tmp_path / "pki" / "nodes" / "im-1.pem").chain[0]
    asked.build_client_verifier().verify(node, [])
    asked.build_server_verifier(x509.DNSName("im-1")).verify(node, [])
    for name in ("127.0.0.1", "*.example.org", "a node"):
        refused = certificate(tmp_path, "node", "pki", name)
        assert (refused.returncode, refused.stderr.count("\n")) == (1, 1), refused.stderr
    now, day = datetime.now(UTC), timedelta(days=1)
    assert now - day < server.not_valid_before_utc < now
    assert server.not_valid_after_utc - server.not_valid_before_utc == 397 * day
    assert root.not_valid_after_utc > now + 3640 * day


def test_what_it_prints_can_be_typed(tmp_path: Path) -> None:
    """If this fails, somebody who follows the command's own lines does not get to talk."""
    folder = tmp_path / "my pki: new"  # with all that a shell and an endpoint string trip over
    assert "certificate server" in made(tmp_path, "authority", folder.name)
    first = made(tmp_path, "server", folder.name, "localhost", "127.0.0.1")
    second = made(tmp_path, "client", folder.name, "alice")
    for said in (first, second):
        start, talk = (re.search(rf"^{what}: +(.*)$", said, re.MULTILINE) for what in ("start", "talk"))
        assert start is not None
        assert talk is not None
        name, *options = shlex.split(start[1].replace("port=7778", "port=0"))
        assert name == "twistd"
        with started([*TWISTD, "--pidfile=", *options], tmp_path) as process:
            assert process.stdout is not None
            port = address_in(process.stdout).partition(":")[2]
            name, *words = shlex.split(talk[1].replace("localhost:7778", f"localhost:{port}"))
            assert name == "python"
            around = {**ENVIRONMENT, "XDG_STATE_HOME": str(tmp_path / "state"), "PYTHONIOENCODING": "utf-8"}
            chat = [sys.executable, *words, "--to", "alice"]
            done = subprocess.run(
                chat, cwd=tmp_path, env=around, input="to myself\n", capture_output=True, text=True, timeout=DEADLINE, check=False
            )
            assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
            assert re.search(r"^  ✓ \d$", done.stdout, re.MULTILINE), "it was accepted"


def test_keys_are_kept_from_others_and_from_accidents(tmp_path: Path) -> None:
    """If this fails, others on the machine can read a key, or a second run replaces what servers and clients rely on."""
    before = os.umask(0)
    try:
        made(tmp_path, "authority", "pki")
        made(tmp_path, "server", "pki", "localhost")
        made(tmp_path, "client", "pki", "alice")
    finally:
        os.umask(before)
    pki = tmp_path / "pki"
    found = {path.relative_to(pki).as_posix(): stat.S_IMODE(path.stat().st_mode) for path in (pki, *pki.rglob("*"))}
    files = ("authority.key", "authority.pem", "servers/localhost.pem", "clients/alice.pem")
    assert found == {".": 0o700, "servers": 0o700, "clients": 0o700} | dict.fromkeys(files, 0o600)
    before_all = {name: (pki / name).read_bytes() for name in files}
    for words in (("authority", "pki"), ("server", "pki", "localhost", "other"), ("client", "pki", "alice")):
        done = certificate(tmp_path, *words)
        assert done.returncode == 1
        assert re.fullmatch(r"certificate: pki/\S+ is there already; --force replaces it\n", done.stderr)
    assert {name: (pki / name).read_bytes() for name in files} == before_all
    made(tmp_path, "server", "pki", "localhost", "--force")
    assert (pki / "servers" / "localhost.pem").read_bytes() != before_all["servers/localhost.pem"]


def test_show(tmp_path: Path) -> None:
    """If this fails, nobody can tell from a file whom it is for, and until when, without knowing openssl by heart."""
    made(tmp_path, "authority", "pki")
    made(tmp_path, "server", "pki", "localhost", "127.0.0.1")
    made(tmp_path, "server", "pki", "im.example.org")
    said = made(tmp_path, "show", "pki/servers/localhost.pem")
    for part in ("localhost.pem: CN=localhost", "localhost, 127.0.0.1", "396 days left", "CN=twisted_im authority", "the certificate's"):
        assert part in said
    assert "signed by:   itself" in made(tmp_path, "show", "pki/authority.pem")
    assert made(tmp_path, "show", "pki/servers").count("fingerprint") == 2


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    """If this fails, a slip ends in a traceback, or in a certificate that nobody can use."""
    made(tmp_path, "authority", "pki")
    for words, why in (
        (("server", "pki", "a b"), "'a b' is neither a host name nor an address"),
        (("server", "pki", "localhost", "https://x"), "'https://x' is neither a host name nor an address"),
        (("server", "pki", "1.2.3.400"), "'1.2.3.400' is neither"),
        (("server", "nowhere", "localhost"), "there is no authority in nowhere: python -m twisted_im certificate authority nowhere"),
        (("client", "pki", "Al Ice"), "'Al Ice' cannot be a client's name"),
        (("client", "pki", "*.x"), "'*.x' cannot be a client's name"),
        (("show", "nothing.pem"), "nothing.pem: No such file or directory"),
        (("show", "pki/authority.key"), "pki/authority.key: there is no certificate in it (PEM)"),
        (("authority", "pki/authority.pem/x"), "pki/authority.pem/x: Not a directory"),
    ):
        done = certificate(tmp_path, *words)
        assert (done.returncode, done.stdout) == (1, ""), words
        assert done.stderr.startswith("certificate: "), done.stderr
        assert why in done.stderr
        assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("name", ["a" * 64, "-a", "a..b", ".a", "a.", "*", "a.*.b", "*a.b", "", "../x", "a/b", "a\n", "1.2.3", "ä" * 64])
def test_what_is_no_host_name(name: str) -> None:
    """If this fails, a certificate is made for a name that no client can ask for, or a file lands where it should not."""
    for read in (server_name, client_name):
        with pytest.raises(ValueError, match=r"is neither a host name|cannot be a client's name"):
            read(name)
