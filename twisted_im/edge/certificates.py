"""The certificates of a TLS port: read from files, chosen by the name that a client asks for, and read again while the server runs.

Strategy: a `Certificates` is what a TLS port asks for each new connection. It holds one OpenSSL context for each certificate, all of
them made in one go (a *generation*); reading again makes a new generation, or, if something is wrong, leaves the one in use.
Connections keep the context that they began with. What every port keeps to, versions and ciphers, is said in `_context` alone.

A source of certificates is one PEM file, or a folder: of PEM files, of folders as certbot makes them, or one such folder.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path

from OpenSSL import SSL
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator, IOpenSSLServerConnectionCreator
from twisted.logger import Logger
from zope.interface import implementer

from twisted_im.pem import CertificateError, Pair, read_certificates, read_pair, said

log = Logger()

#: The ciphers of TLS 1.2, by Mozilla's "intermediate" recommendation (Server Side TLS 5.7): forward secrecy and AEAD, nothing else. Those
#: of TLS 1.3 are all fit.
CIPHERS = (
    b"ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384:"
    b"ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305"
)

#: What certbot calls the certificate with its chain, and the key.
CERTBOT = "fullchain.pem", "privkey.pem"


def _context(pair: Pair, authority: Path | None, links: bool, pick: Callable[[SSL.Connection], None]) -> SSL.Context:
    """What a connection is made of: TLS 1.2 or 1.3 (1.3 for links, in either direction), no compression, no renegotiation, and resumption
    by tickets alone."""
    context = SSL.Context(SSL.TLS_METHOD if links else SSL.TLS_SERVER_METHOD)
    context.set_min_proto_version(SSL.TLS1_3_VERSION if links else SSL.TLS1_2_VERSION)
    context.set_options(SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION)
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)  # an idle connection gives its buffers back
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_session_id(b"twisted_im")  # without one, OpenSSL refuses to resume where client certificates are asked for
    context.set_cipher_list(CIPHERS)
    context.use_certificate(pair.chain[0])
    for each in pair.chain[1:]:
        context.add_extra_chain_cert(each)
    context.use_privatekey(pair.key)
    if authority is not None:
        context.load_verify_locations(os.fspath(authority))
        context.load_client_ca(os.fsencode(authority))
        context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT)
    context.set_tlsext_servername_callback(pick)
    return context


def _generation(pairs: Iterable[Pair], authority: Path | None, links: bool) -> SSL.Context:
    """The context that connections begin with: it goes over to that of the name which the client asks for.

    Every context of a generation has the same callback, which holds them all. So a connection keeps alive what OpenSSL may still call for
    it, after a newer generation has taken over.

    Raises:
        CertificateError: OpenSSL refuses one of them.
    """
    by_name: dict[str, SSL.Context] = {}

    def pick(connection: SSL.Connection) -> None:
        name = (connection.get_servername() or b"").decode("ascii", "replace").lower()
        found = by_name.get(name) or by_name.get(f"*.{name.partition('.')[2]}")
        if found is not None:
            connection.set_context(found)

    def made(pair: Pair) -> SSL.Context:
        try:
            return _context(pair, authority, links, pick)
        except SSL.Error as error:
            words = ", ".join(word for *_, word in error.args[0]) if error.args else "no reason is given"
            raise CertificateError(f"{pair.path}: OpenSSL does not take it: {words}") from error

    contexts = {pair: made(pair) for pair in sorted(pairs, key=lambda pair: pair.path)}
    for pair in sorted(contexts, key=lambda pair: pair.until):  # of two for one name, that which is good for longer
        by_name.update(dict.fromkeys(pair.names, contexts[pair]))
    default = next((pair for pair in contexts if _title(pair.path) == "default"), next(iter(contexts)))
    return contexts[default]


def _title(path: Path) -> str:
    """What a certificate's file is called, or its folder where the file's name says nothing."""
    return path.parent.name if path.name == CERTBOT[0] else path.stem


@implementer(IOpenSSLServerConnectionCreator, IOpenSSLClientConnectionCreator)
class Certificates:
    """What a TLS port shows to its clients, and asks of them.

    Args:
        path: a PEM file with certificates and key, or a folder (see `sources`).
        key: a PEM file with the key, if it is not in that of the certificates.
        extra: a PEM file with more certificates of the chain.
        authority: a PEM file with certificates; clients must then show one that is signed by one of these.
        links: for links between nodes: TLS 1.3 alone, and for both directions. A node connects with the certificate that it shows on
            its port, and to nobody whose own is not signed by the authority.

    Raises:
        CertificateError: there is nothing that can be used.
        OSError: a file cannot be read.

    Attributes:
        faults: a line for each file of a folder that could not be used at first.
        keys: the files with the private keys in use.
    """

    def __init__(
        self, path: Path, *, key: Path | None = None, extra: Path | None = None, authority: Path | None = None, links: bool = False
    ) -> None:
        self.path = path
        self._links = links
        self._key, self._extra, self._authority = key, extra, authority
        self._pairs: dict[Path, Pair] = {}
        self.keys: list[Path] = []
        self.faults = self._read()

    def serverConnectionForTLS(self, protocol: object) -> SSL.Connection:
        return SSL.Connection(self._begin, None)

    def clientConnectionForTLS(self, protocol: object) -> SSL.Connection:
        return SSL.Connection(self._begin, None)

    def reload(self) -> list[str]:
        """Reads everything again, for connections that come from now on. What cannot be used leaves in place what there was.

        Returns:
            One line for each file that could not be used. The log has them too.
        """
        try:
            faults = self._read()
        except (CertificateError, OSError) as error:
            faults = [said(error)]
        else:
            names = ", ".join(dict.fromkeys(name for pair in self._pairs.values() for name in pair.names))
            log.info("{path}: read again, for {names}", event="reloaded", path=str(self.path), names=names)
        for fault in faults:
            log.error("not reloaded, the old certificate stays: {why}", event="not_reloaded", why=fault)
        return faults

    def watch(self) -> None:
        """Warns of certificates whose time is over, or almost."""
        now = datetime.now(UTC)
        for pair in self._pairs.values():
            if complaint := pair.complaint(now):
                names, days = ", ".join(pair.names), (pair.until - now).days
                text = "{path}: the certificate for {names} {complaint}"
                log.warn(text, event="expiring", path=str(pair.path), names=names, complaint=complaint, days=days)

    def _read(self) -> list[str]:
        """Makes a new generation; gives a line for each file of a folder that is not in it, or not as it is now."""
        pairs: dict[Path, Pair] = {}
        keys: dict[Path, Path] = {}
        faults: list[str] = []
        if self._authority is not None:
            read_certificates(self._authority)
        if self.path.is_dir() and self._key is not None:
            raise CertificateError(f"{self.path}: it is a folder, and a key by itself goes with one file")
        if not self.path.is_dir():
            pairs[self.path] = read_pair(self.path, self._key, self._extra)
            keys[self.path] = self._key or self.path
        else:
            for path, key in sources(self.path):
                keys[path] = key
                try:
                    pairs[path] = read_pair(path, key)
                except (CertificateError, OSError) as error:
                    faults.append(said(error))
                    if path in self._pairs:
                        pairs[path] = self._pairs[path]
        if not pairs:
            why = faults[0] if faults else f"it wants *.pem files, or folders with {' and '.join(CERTBOT)}"
            raise CertificateError(f"{self.path}: no certificate in it can be used ({why})")
        self._begin = _generation(pairs.values(), self._authority, self._links)
        self._pairs, self.keys = pairs, [keys[path] for path in pairs]
        return faults


def sources(folder: Path) -> list[tuple[Path, Path]]:
    """Where a folder's certificates and their keys are: in `fullchain.pem` and `privkey.pem`, as certbot names them, or in `*.pem` with
    both in one file, and in such folders one level below.

    Raises:
        OSError: it cannot be read.
    """
    chain, key = CERTBOT
    if (folder / chain).exists():
        return [(folder / chain, folder / key)]
    found: list[tuple[Path, Path]] = []
    for each in sorted(folder.iterdir()):
        if each.suffix == ".pem" and not each.name.startswith("."):
            found.append((each, each))
        elif (each / chain).exists():
            found.append((each / chain, each / key))
    return found
