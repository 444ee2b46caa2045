"""Who is at the other end of a link, and how each side proves it.

Strategy: nothing is sent from here. `twisted_im.routing.link` passes the bodies of LINK and PROOF in the order in which they come, and this
says what stands in the next one, or why the other side may not link: it is somebody else, its clock is wrong, its certificate is not its
own, or it does not know the secret.

The proofs are over the bodies of both LINK frames: names, roles, boots, clocks and nonces of both sides (and a side's own byte, so that
none can be sent back). Over TLS the secret is empty, and the certificates say who is who.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from hashlib import sha256
from typing import Any, NamedTuple

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from twisted_im.errors import Disconnect, ImError, RemoteProtocolError
from twisted_im.pem import names_of
from twisted_im.wire.codec import CODECS
from twisted_im.wire.schema import LINK_VERSION, MAX_NODE, Command, Kind, Role

#: Seconds by which two clocks may differ: client ids and signals carry times, and operators compare logs.
CLOCKS_APART = 30.0

_LINK = CODECS[Kind.REQUEST, Command.LINK]
_LINKED = CODECS[Kind.RESPONSE, Command.LINK]
_PROOF = CODECS[Kind.REQUEST, Command.PROOF]
#: The byte of a side in its proof.
_CONNECTED, _ACCEPTED = 0, 1


class Peer(NamedTuple):
    """Who is at one end of a link."""

    role: Role
    name: str
    boot: bytes = b""  #: 16 bytes of this run; empty where any will do

    def __str__(self) -> str:
        return f"{'route server' if self.role is Role.ROUTE else 'node'} {self.name}"


class Handshake:
    """One side's part of it.

    Args:
        me: who this is.
        expected: who should be there; a name or boot that is empty may be any. None for the side that was connected to.
        secret: what all of the cluster know.
        wall: seconds since 1970.
        random: gives so many random bytes.

    Attributes:
        peer: who is there, or, until that is known, who should be.
        transport: of the connection; it is to be set before anything comes.
    """

    def __init__(
        self, me: Peer, expected: Peer | None, *, secret: bytes, wall: Callable[[], float], random: Callable[[int], bytes]
    ) -> None:
        self._me = me
        self._expected = expected
        self._secret = secret
        self._wall = wall
        self._random = random
        self.peer = expected or Peer(Role.PEER, "")
        self.transport: Any = None
        self._request = b""
        self._response: dict[str, Any] = {}

    # ---- in their order; each raises an `ImError` if the other side may not link

    def request(self) -> bytes:
        """Connecting: the body of the LINK request."""
        self._request = _LINK.write(**self._who())
        return self._request

    def answer(self, body: bytes) -> dict[str, Any]:
        """Accepting: takes that, and gives the fields of the response."""
        self._know(body, _LINK)
        self._request, self._response = body, self._who()
        return {**self._response, "proof": self._proof(_ACCEPTED)}

    def prove(self, body: bytes) -> bytes:
        """Connecting: takes that, and gives the body of the PROOF request."""
        values = self._know(body, _LINKED)
        self._response = values._asdict()
        self._check(self._response.pop("proof"), _ACCEPTED)
        return _PROOF.write(proof=self._proof(_CONNECTED))

    def believe(self, body: bytes) -> None:
        """Accepting: takes that."""
        self._check(_PROOF.read(body).proof, _CONNECTED)

    # ---- what they are made of

    def _who(self) -> dict[str, Any]:
        """What this side says of itself."""
        me, time, nonce = self._me, int(self._wall() * 1000), self._random(16)
        return {"version": LINK_VERSION, "role": me.role, "boot": me.boot, "time": time, "nonce": nonce, "name": me.name.encode("utf-8")}

    def _know(self, body: bytes, codec: Any) -> Any:
        """Takes in who is there, if that one may link."""
        version = int.from_bytes(body[:2], "big")
        if len(body) > 2 and version != LINK_VERSION:  # whatever else it has for a body
            raise ImError(Disconnect.LINK_REFUSED, f"version {version} of the cluster protocol does not go with version {LINK_VERSION}")
        values = codec.read(body)
        name = values.name.decode("utf-8", "replace")
        if values.role not in (Role.PEER, Role.ROUTE):
            raise RemoteProtocolError(Disconnect.MALFORMED, f"role {values.role} is none of a node or a route server")
        if not 0 < len(values.name) <= MAX_NODE or not name.isprintable():
            raise RemoteProtocolError(Disconnect.MALFORMED, f"a node's name has 1 to {MAX_NODE} bytes, all to be seen")
        self.peer = Peer(Role(values.role), name, values.boot)
        self._check_expected()
        ahead = values.time / 1000 - self._wall()
        if abs(ahead) > CLOCKS_APART:
            how = f"{abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'}"
            raise ImError(Disconnect.LINK_REFUSED, f"the clock of {self.peer} is {how} that of {self._me}: set it right")
        self._check_certificate()
        return values

    def _check_expected(self) -> None:
        """Whether it is the one that was looked for."""
        peer, expected = self.peer, self._expected
        if expected is None:
            return
        if peer.role is not expected.role or (expected.name and peer.name != expected.name):
            wanted = str(expected) if expected.name else "a route server" if expected.role is Role.ROUTE else "a node"
            raise ImError(Disconnect.LINK_REFUSED, f"there is {peer}, where {wanted} was looked for")
        if expected.boot and peer.boot != expected.boot:
            raise ImError(Disconnect.LINK_REFUSED, f"there is another run of {peer} than the one that was looked for")

    @property
    def _tls(self) -> bool:
        return hasattr(self.transport, "getPeerCertificate")

    def _check_certificate(self) -> None:
        """Over TLS: whether the certificate is that node's. OpenSSL has looked at who signed it."""
        peer = self.peer
        if not self._tls:
            if not self._secret:
                raise ImError(Disconnect.LINK_REFUSED, "a link without TLS needs a secret that both sides know")
            return
        shown = self.transport.getPeerCertificate()
        certificate = None if shown is None else shown.to_cryptography()
        if certificate is None or peer.name.lower() not in names_of(certificate):
            raise ImError(Disconnect.LINK_REFUSED, f"the certificate shown is not for {peer.name}")
        if not _for_both_ends(certificate):
            raise ImError(Disconnect.LINK_REFUSED, f"the certificate of {peer.name} is not for a node: it is not for both ends of a link")

    def _proof(self, side: int) -> bytes:
        said = bytes([side]) + self._request + _LINKED.write(**self._response, proof=b"")
        return hmac.digest(b"" if self._tls else self._secret, said, sha256)

    def _check(self, proof: bytes, side: int) -> None:
        if not hmac.compare_digest(proof, self._proof(side)):
            raise ImError(Disconnect.LINK_REFUSED, f"{self.peer} does not know the secret of {self._me}")


def _for_both_ends(certificate: x509.Certificate) -> bool:
    """Whether somebody may connect with it, and be connected to: what a node needs, and no client has."""
    try:
        uses = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except (x509.ExtensionNotFound, ValueError):
        return False
    return {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH} <= set(uses)
