"""Keys and certificates in PEM files: read once, judged once, for servers and clients alike.

Strategy: `cryptography` reads them, since OpenSSL would ask the terminal for a pass phrase and says in its own words what it dislikes.
Every fault is a `CertificateError` with one line that names the file.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

#: A certificate is *about to expire* when less than this is left, or a third of its life if that is shorter. Certbot renews a month before.
SOON = timedelta(days=14)

_KEY = re.compile(rb"-----BEGIN ((?:[A-Z]+ )*PRIVATE KEY)-----.+?-----END \1-----", re.DOTALL)
_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


class CertificateError(ValueError):
    """Files that cannot serve a TLS port; the message is one line, and names the file."""


@dataclass(frozen=True, eq=False)
class Pair:
    """A certificate with its key.

    Attributes:
        path: the file that it came from.
        chain: the certificate, and then the intermediate ones.
        key: its private key.
    """

    path: Path
    chain: tuple[x509.Certificate, ...]
    key: Any

    @property
    def names(self) -> list[str]:
        """The host names and addresses that it is for; a name may begin with "*."."""
        return names_of(self.chain[0])

    @property
    def until(self) -> datetime:
        return self.chain[0].not_valid_after_utc

    def complaint(self, now: datetime) -> str:
        """What is wrong with its time, in words; empty if nothing is."""
        begin, end = self.chain[0].not_valid_before_utc, self.until
        if now < begin:
            return f"is not valid before {begin:%Y-%m-%d %H:%M} UTC"
        if now >= end:
            return f"expired on {end:%Y-%m-%d %H:%M} UTC"
        return f"expires in {(end - now).days} days" if end - now < min(SOON, (end - begin) / 3) else ""


def names_of(certificate: x509.Certificate) -> list[str]:
    """The host names, addresses and mail addresses that a certificate is for."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return []
    known = (x509.DNSName, x509.IPAddress, x509.RFC822Name)
    return [str(name.value).lower() for name in names if isinstance(name, known)]


def read_certificates(path: Path) -> list[x509.Certificate]:
    """All certificates of a PEM file.

    Raises:
        CertificateError: there is none, or one cannot be read.
        OSError: the file cannot be read.
    """
    blocks = _CERTIFICATE.findall(path.read_bytes())
    if not blocks:
        raise CertificateError(f"{path}: there is no certificate in it (PEM)")
    try:
        return [x509.load_pem_x509_certificate(block) for block in blocks]
    except ValueError as error:
        raise CertificateError(f"{path}: a certificate in it cannot be read") from error


def read_key(path: Path) -> Any:
    """The private key of a PEM file.

    Raises:
        CertificateError: there is none, or it cannot be read.
        OSError: the file cannot be read.
    """
    found = _KEY.search(path.read_bytes())
    if found is None:
        raise CertificateError(f"{path}: there is no private key in it (PEM)")
    try:
        return serialization.load_pem_private_key(found[0], None)
    except TypeError:
        raise CertificateError(f"{path}: the key has a pass phrase; openssl pkey -in {path} -out plain.pem takes it off") from None
    except (ValueError, UnsupportedAlgorithm) as error:
        raise CertificateError(f"{path}: the key cannot be read") from error


def read_pair(path: Path, key: Path | None = None, extra: Path | None = None) -> Pair:
    """A key, its certificate and the chain above that; the certificate need not be the first one in its file.

    Args:
        path: a PEM file with the certificates, and with the key if no other file has it.
        key: a PEM file with the key.
        extra: a PEM file with more certificates of the chain.

    Raises:
        CertificateError: a file lacks something, or the key is not the certificate's.
        OSError: a file cannot be read.
    """
    certificates = read_certificates(path)
    private = read_key(key or path)
    public = _public(private.public_key())
    try:
        own = next((each for each in certificates if _public(each.public_key()) == public), None)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise CertificateError(f"{path}: a certificate in it has a key that cannot be read") from error
    if own is None:
        where = f" in {path}" if key not in (None, path) else ""
        raise CertificateError(f"{key or path}: the key does not match the certificate{where}")
    chain = [own, *(each for each in certificates if each is not own), *(read_certificates(extra) if extra else ())]
    return Pair(path, tuple(chain), private)


def as_pem(thing: Any) -> bytes:
    """A certificate, or a key without a pass phrase, as text."""
    if isinstance(thing, x509.Certificate):
        return thing.public_bytes(serialization.Encoding.PEM)
    key: bytes = thing.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return key


def _public(key: Any) -> bytes:
    found: bytes = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return found


def said(error: Exception) -> str:
    """An error with a file, in one line."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{os.fsdecode(error.filename)}: {error.strerror}"
    return str(error)
