"""`python -m twisted_im certificate`: a private authority and what it signs, for trying out and for closed groups; and what is in a file.

Strategy: one folder holds everything, and nothing in it is replaced unasked:

    authority.pem            to be given to clients
    authority.key            signs; stays where it is
    servers/NAME.pem         key and certificate of a server, as `--listen=tls:` takes them
    clients/NAME.pem         the same of a client
    nodes/NAME.pem           the same of a node of a cluster, for its links to the others

Keys are of the curve P-256, which every client takes. Certificates follow RFC 5280, and what browsers ask of servers (CA/Browser Forum:
397 days).
"""

from __future__ import annotations

import argparse
import ipaddress
import os
import re
import shlex
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import idna
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from twisted.internet.endpoints import quoteStringArgument

from twisted_im.edge.certificates import sources
from twisted_im.pem import CertificateError, as_pem, names_of, read_certificates, read_key, read_pair, said

EXAMPLES = """Examples:
  python -m twisted_im certificate authority pki
  python -m twisted_im certificate server pki localhost 127.0.0.1
  python -m twisted_im certificate server pki im.example.org '*.im.example.org'
  python -m twisted_im certificate client pki alice
  python -m twisted_im certificate node pki im-1
  python -m twisted_im certificate show pki/servers/localhost.pem
Each prints the commands that use what it has made."""

AUTHORITY_LIFE = timedelta(days=3650)
LEAF_LIFE = timedelta(days=397)
#: Clocks differ: a new certificate has been good for this long already.
LENIENCE = timedelta(minutes=5)
#: The longest common name (RFC 5280, ub-common-name).
MAX_COMMON_NAME = 64

PORT = 7778


def add_arguments(parser: argparse.ArgumentParser) -> None:
    kinds = parser.add_subparsers(dest="kind", metavar="authority|server|client|node|show", required=True)
    folder = argparse.ArgumentParser(add_help=False)
    folder.add_argument("folder", metavar="DIR", type=Path, help="the authority's folder")
    folder.add_argument("--force", action="store_true", help="replace what is there")
    kinds.add_parser("authority", parents=[folder], help="make an authority: it signs the others").set_defaults(make=authority)
    server = kinds.add_parser("server", parents=[folder], help="make a server's key and certificate")
    server.add_argument(
        "names", metavar="NAME", nargs="+", help="the host names and addresses by which clients reach it; *.NAME for all below"
    )
    server.set_defaults(make=server_pair)
    client = kinds.add_parser("client", parents=[folder], help="make a client's key and certificate, for servers that ask for one")
    client.add_argument("name", metavar="NAME", help="the client's name: letters, digits, dots and dashes, or a mail address")
    client.set_defaults(make=client_pair)
    node = kinds.add_parser("node", parents=[folder], help="make a node's key and certificate, for its links to other nodes")
    node.add_argument("name", metavar="NAME", help="the node's name, as its --name has it: letters, digits, dots and dashes")
    node.set_defaults(make=node_pair)
    show = kinds.add_parser("show", help="say who the certificates of a file or a folder are for, and until when")
    show.add_argument("path", metavar="FILE", type=Path)
    show.set_defaults(make=show_path)


def run(arguments: argparse.Namespace) -> int:
    try:
        print("\n".join(arguments.make(arguments)))
    except (OSError, ValueError) as error:
        print(f"certificate: {said(error)}", file=sys.stderr)
        return 1
    return 0


# ---- the commands: each gives the lines to print


def authority(arguments: argparse.Namespace) -> list[str]:
    """Makes an authority."""
    folder: Path = arguments.folder
    public, secret = folder / "authority.pem", folder / "authority.key"
    _none_there(arguments.force, public, secret)
    certificate, key = make_authority()
    _write(secret, as_pem(key))
    _write(public, as_pem(certificate))
    return [
        f"made {public}, until {certificate.not_valid_after_utc:%Y-%m-%d}: what clients trust",
        f"made {secret}: what signs; whoever has it can pose as any of your servers",
        f"next: python -m twisted_im certificate server {shlex.quote(str(folder))} localhost 127.0.0.1",
    ]


def server_pair(arguments: argparse.Namespace) -> list[str]:
    """Makes a server's certificate."""
    folder: Path = arguments.folder
    names = [server_name(name) for name in arguments.names]
    path = folder / "servers" / f"{_file_name(names[0].value)}.pem"
    pair = _made(path, folder, str(names[0].value), names, [ExtendedKeyUsageOID.SERVER_AUTH], arguments.force)
    local = all(_is_local(name.value) for name in names)
    first = next((str(name.value) for name in names if not str(name.value).startswith("*")), f"im{str(names[0].value)[1:]}")
    return [
        _made_line(path, pair),
        f"start: {_start(path, local=local)}",
        f"talk:  {_chat('alice', first, folder, local=local)}",
        "A server that has this file already takes the new one over on SIGHUP.",
    ]


def client_pair(arguments: argparse.Namespace) -> list[str]:
    """Makes a client's certificate."""
    folder: Path = arguments.folder
    name = client_name(arguments.name)
    path = folder / "clients" / f"{_file_name(name.value)}.pem"
    pair = _made(path, folder, name.value, [name], [ExtendedKeyUsageOID.CLIENT_AUTH], arguments.force)
    servers = sources(folder / "servers") if (folder / "servers").is_dir() else []
    if not servers:
        return [_made_line(path, pair), f"next: python -m twisted_im certificate server {shlex.quote(str(folder))} localhost 127.0.0.1"]
    server = servers[0][0]
    names = names_of(read_pair(server).chain[0])
    local = all(map(_is_local, names))
    host = next((each for each in names if not each.startswith("*")), "HOST")
    return [
        _made_line(path, pair),
        f"start: {_start(server, authority=folder / 'authority.pem', local=local)}",
        f"talk:  {_chat(name.value, host, folder, certificate=path, local=local)}",
    ]


def node_pair(arguments: argparse.Namespace) -> list[str]:
    """Makes a node's certificate: it is for both ends of a link."""
    folder: Path = arguments.folder
    name = server_name(arguments.name)
    if not isinstance(name, x509.DNSName) or "*" in name.value:
        raise ValueError(f"{arguments.name!r} cannot be a node's name: it takes letters, digits, dots and dashes")
    path = folder / "nodes" / f"{_file_name(name.value)}.pem"
    purposes = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    pair = _made(path, folder, name.value, [name], purposes, arguments.force)
    return [_made_line(path, pair), "Only nodes should have certificates of the authority by which nodes know each other."]


def show_path(arguments: argparse.Namespace) -> list[str]:
    """Says what is in a file, or in a folder as a server reads it."""
    path: Path = arguments.path
    if not path.is_dir():
        return _shown(path, path)
    found = sources(path)
    if not found:
        raise CertificateError(f"{path}: there is no certificate in it")
    return [line for certificates, key in found for line in _shown(certificates, key)]


def _shown(path: Path, key: Path) -> list[str]:
    now = datetime.now(UTC)
    lines = []
    for certificate in read_certificates(path):
        left = (certificate.not_valid_after_utc - now).days
        time = f"{left} days left" if now < certificate.not_valid_after_utc else f"EXPIRED {-left} days ago"
        lines += [
            f"{path}: {certificate.subject.rfc4514_string() or 'without a subject'}",
            f"  names:       {', '.join(names_of(certificate)) or 'none'}",
            f"  until:       {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC, {time}",
            f"  from:        {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC",
            f"  signed by:   {'itself' if certificate.issuer == certificate.subject else certificate.issuer.rfc4514_string()}",
            f"  fingerprint: SHA-256 {certificate.fingerprint(hashes.SHA256()).hex(':')}",
        ]
    try:
        read_key(key)
    except (CertificateError, OSError) as error:
        return [*lines, f"  key:         {said(error)}"]
    read_pair(path, key)
    return [*lines, "  key:         it is the certificate's"]


# ---- what is made


def make_authority() -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """A certificate that signs others, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = _common_name(f"twisted_im authority {os.urandom(4).hex()}")  # two authorities must not have one name
    usage = {"key_cert_sign": True, "crl_sign": True}
    builder = (
        _begun(name, name, key, AUTHORITY_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(**usage), critical=True)
    )
    return builder.sign(key, hashes.SHA256()), key


def make_leaf(
    signer: tuple[x509.Certificate, ec.EllipticCurvePrivateKey],
    subject: str,
    names: list[Any],
    purposes: Sequence[x509.ObjectIdentifier],
    *,
    life: timedelta = LEAF_LIFE,
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """A server's, a client's or a node's certificate, and its key.

    Args:
        signer: the authority (see `make_authority`).
        names: `x509.GeneralName`s.
        purposes: of `ExtendedKeyUsageOID`: a server, a client; both for a node, whose links have it at either end.
        life: from five minutes ago; it does not outlive the authority.
    """
    above, signing = signer
    key = ec.generate_private_key(ec.SECP256R1())
    identifier = above.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    builder = (
        _begun(_common_name(subject), above.subject, key, min(life, above.not_valid_after_utc - datetime.now(UTC) + LENIENCE))
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
    )
    return builder.sign(signing, hashes.SHA256()), key


def server_name(text: str) -> x509.DNSName | x509.IPAddress:
    """An address, a host name, or "*." and a host name; a name outside ASCII becomes what DNS knows it by.

    Raises:
        ValueError: it is none of these.
    """
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        pass
    star, rest = ("*.", text[2:]) if text.startswith("*.") else ("", text)
    try:
        name = star + (rest.lower() if rest.isascii() else idna.encode(rest, uts46=True).decode("ascii"))
    except idna.IDNAError:
        name = ""
    label = r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"
    if len(name) > 253 or not re.fullmatch(rf"(\*\.)?{label}(\.{label})*", name) or re.fullmatch(r"[\d.]+", name):
        raise ValueError(f"{text!r} is neither a host name nor an address, such as im.example.org or 192.0.2.7")
    return x509.DNSName(name)


def client_name(text: str) -> x509.DNSName | x509.RFC822Name:
    """A client's name, as a host name or as a mail address.

    Raises:
        ValueError: it is neither.
    """
    try:
        if re.fullmatch(r"[!-?A-~]+@[!-?A-~]+", text):
            return x509.RFC822Name(text)
        name = server_name(text)
    except ValueError:
        name = None
    if not isinstance(name, x509.DNSName) or "*" in name.value:
        raise ValueError(f"{text!r} cannot be a client's name: it takes letters, digits, dots and dashes, or a mail address")
    return name


def _begun(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, life: timedelta) -> x509.CertificateBuilder:
    """What every certificate has."""
    begin = datetime.now(UTC) - LENIENCE
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(begin + life)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _common_name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name if len(name) <= MAX_COMMON_NAME else "twisted_im")])


def _usage(**said: bool) -> x509.KeyUsage:
    all_of_them = (
        *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "key_cert_sign", "crl_sign"),
        *("encipher_only", "decipher_only"),
    )
    return x509.KeyUsage(**{name: said.get(name, False) for name in all_of_them})


# ---- files


def _made(
    path: Path, folder: Path, subject: str, names: list[Any], purposes: list[x509.ObjectIdentifier], force: bool
) -> x509.Certificate:
    """Makes a pair and writes it."""
    if not (folder / "authority.key").exists():
        raise ValueError(f"there is no authority in {folder}: python -m twisted_im certificate authority {shlex.quote(str(folder))}")
    above = read_pair(folder / "authority.pem", folder / "authority.key")
    if above.until <= datetime.now(UTC):
        raise ValueError(f"{above.path} has expired: make another authority, with --force")
    _none_there(force, path)
    certificate, key = make_leaf((above.chain[0], above.key), subject, names, purposes)
    _write(path, as_pem(key) + as_pem(certificate))
    return certificate


def _none_there(force: bool, *paths: Path) -> None:
    for path in paths:
        if path.exists() and not force:
            raise ValueError(f"{path} is there already; --force replaces it")


def _write(path: Path, data: bytes) -> None:
    """Writes a file for its owner alone, whole or not at all: a server may read it at any time."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)
    new.replace(path)


def _file_name(name: Any) -> str:
    """A name of a file for this name: it must not be a pattern, nor hold a colon, which an endpoint string would take for its own."""
    return str(name).replace("*", "any").replace(":", "-").replace("/", "-")


# ---- what to do next


def _made_line(path: Path, certificate: x509.Certificate) -> str:
    return f"made {path}, for {', '.join(names_of(certificate))}, until {certificate.not_valid_after_utc:%Y-%m-%d}"


def _is_local(name: Any) -> bool:
    try:
        return ipaddress.ip_address(str(name)).is_loopback
    except ValueError:
        return str(name) == "localhost"


def _start(path: Path, *, authority: Path | None = None, local: bool) -> str:
    asks = "" if authority is None else f":authority={quoteStringArgument(str(authority))}"
    where = "" if local else ":interface=0.0.0.0"
    endpoint = shlex.quote(f"--listen=tls:{quoteStringArgument(str(path))}:port={PORT}{asks}{where}")
    return f"twistd -n im {'--auth=anonymous ' if local else ''}{endpoint}"


def _chat(who: str, host: str, folder: Path, *, certificate: Path | None = None, local: bool) -> str:
    words = [f"{who}@{f'[{host}]' if ':' in host else host}:{PORT}", "--ca", str(folder / "authority.pem")]
    words += ["--certificate", str(certificate)] if certificate else []
    words += ["--anonymous"] if local else []
    return f"python -m twisted_im chat {shlex.join(words)}"
