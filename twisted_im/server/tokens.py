"""Tokens of an issuer of one's own: JSON Web Tokens (RFC 7519), signed, for a user, an audience and a time.

Strategy: after RFC 8725. The operator says which algorithms count, each key is for one of them, and what the token says of itself only
picks among these: so no token chooses how it is judged. PyJWT checks the signature, the audience and the issuer; the times are checked
here, by a clock that can be given. Whatever is wrong is refused alike, and one log line says why, without the token.

    claim     must be
    exp       there, and to come
    nbf, iat  not to come, if they are there
    aud       there, and name this server
    iss       the issuer, if one is named
    sub       there, and the uid
    tenant    the tenant; without it the default one
    device    the device's id in hex, if it is there
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jwt
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from twisted.logger import Logger
from zope.interface import implementer

from twisted_im.errors import ImError, Status
from twisted_im.server.files import WatchedFile
from twisted_im.server.interfaces import Credentials, IAuthenticator
from twisted_im.wire.schema import LoginMethod

log = Logger()

SECRET_ALGORITHM = "HS256"
PUBLIC_ALGORITHMS = ("RS256", "ES256", "EdDSA")
ALGORITHMS = (SECRET_ALGORITHM, *PUBLIC_ALGORITHMS)

#: RFC 7518: 3.2, a secret is at least as long as the hash; 3.3, an RSA key has 2048 bits or more.
MIN_SECRET, MIN_RSA = 32, 2048

#: Seconds by which the issuer's clock and this one may differ.
LEEWAY = 10.0


class TokenKey(NamedTuple):
    """A key, and the one algorithm that it is for."""

    id: str  #: empty if it has none, and may then be any token's
    algorithm: str
    key: Any


class _RefusedError(Exception):
    """Why a token does not count, in words without anything from the token."""


@implementer(IAuthenticator)
class SignedTokens:
    """Lets users in whose tokens an issuer has signed.

    Args:
        path: the keys: see `read_keys`. The file is read again when it has changed.
        algorithms: those that count.
        audience: what `aud` must name.
        issuer: what `iss` must be; empty for any.
        leeway: seconds by which the issuer's clock may differ.
        clock: seconds since 1970.

    Raises:
        ValueError: the file does not hold such keys.
        OSError: it cannot be read.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        algorithms: Sequence[str],
        audience: str,
        issuer: str = "",
        leeway: float = LEEWAY,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if not audience:
            raise ValueError("tokens need an audience: the name of this server, as their issuer writes it into `aud`")
        read_keys(Path(path), algorithms)
        self._file: WatchedFile[list[TokenKey]] = WatchedFile(path, lambda path: read_keys(path, algorithms), [], what="keys")
        self._audience = audience
        self._issuer = issuer or None
        self._leeway = leeway
        self._clock = clock

    def authenticate(self, credentials: Credentials) -> bool:
        if credentials.method != LoginMethod.TOKEN:
            raise ImError(Status.UNSUPPORTED, "this server takes tokens")
        try:
            self._judge(self._claims(credentials.secret), credentials)
        except (_RefusedError, jwt.PyJWTError, ValueError, RecursionError) as error:
            # PyJWT's words may have a piece of the token in them, so they count only where they are known to have none.
            why = str(error) if isinstance(error, _RefusedError) else _WORDS.get(type(error), "it is no token")
            log.info("a token for {uid} from {address} is refused: {why}", uid=credentials.uid, address=credentials.address, why=why)
            return False
        return True

    def knows(self, tenant: str, uid: str) -> bool:
        return False

    def _claims(self, token: bytes) -> dict[str, Any]:
        """What the token says, if its signature, audience and issuer are right."""
        header = jwt.get_unverified_header(token)
        keys = [key for key in self._file.held() if key.algorithm == header.get("alg")]
        if not keys:
            raise _RefusedError("no key is for its algorithm")
        if "kid" in header:
            keys = [key for key in keys if key.id in ("", header["kid"])]
            if not keys:
                raise _RefusedError("no key has its key id")
        options: Any = {"require": ["exp", "aud", "sub"], "verify_exp": False, "verify_nbf": False, "verify_iat": False}
        for key in keys:
            try:
                return jwt.decode(
                    token, key.key, algorithms=[key.algorithm], audience=self._audience, issuer=self._issuer, options=options
                )
            except jwt.InvalidSignatureError:
                pass
        raise jwt.InvalidSignatureError

    def _judge(self, claims: dict[str, Any], credentials: Credentials) -> None:
        now = self._clock()
        times = {name: claims[name] for name in ("exp", "nbf", "iat") if name in claims}
        if not all(type(when) in (int, float) for when in times.values()):
            raise _RefusedError("a time in it is no number")
        if not times["exp"] > now - self._leeway:
            raise _RefusedError("it has expired")
        if not all(times.get(name, now) <= now + self._leeway for name in ("nbf", "iat")):
            raise _RefusedError("it is not valid yet")
        if claims["sub"] != credentials.uid:
            raise _RefusedError("it is another user's")
        if claims.get("tenant", "") != credentials.tenant:
            raise _RefusedError("it is for another tenant")
        device = claims.get("device", credentials.device.hex())
        if not isinstance(device, str) or device.lower() != credentials.device.hex():
            raise _RefusedError("it is for another device")


_WORDS: dict[type[BaseException], str] = {
    jwt.InvalidSignatureError: "its signature is wrong",
    jwt.MissingRequiredClaimError: "exp, aud or sub is missing, or iss where an issuer is named",
    jwt.InvalidAudienceError: "it is for another audience",
    jwt.InvalidIssuerError: "it has another issuer",
}


def read_keys(path: Path, algorithms: Sequence[str]) -> list[TokenKey]:
    """The keys of a file: the whole file is the secret for HS256; for the others it is a JSON Web Key Set (RFC 7517), or holds public keys
    or certificates in PEM.

    Raises:
        ValueError: it holds no key for these algorithms, or one that should not be there; says which.
        OSError: it cannot be read.
    """
    unknown = [name for name in algorithms if name not in ALGORITHMS]
    if unknown or not algorithms:
        raise ValueError(f"algorithms of tokens are {', '.join(ALGORITHMS)}, not {', '.join(unknown) or 'none'}")
    data = path.read_bytes().strip()
    if SECRET_ALGORITHM in algorithms:
        if len(algorithms) > 1:
            raise ValueError(f"{SECRET_ALGORITHM} stands alone: a secret and public keys do not share a file")
        return [_secret(data)]
    keys = _from_set(data) if data.startswith(b"{") else _from_pem(data)
    found = [key for key in keys if key.algorithm in algorithms]
    if not found:
        raise ValueError(f"it holds no public key for {' or '.join(algorithms)}")
    return found


def _secret(data: bytes) -> TokenKey:
    if b"-----BEGIN" in data or data.startswith(b"{"):
        raise ValueError(f"it holds keys, and no secret: {SECRET_ALGORITHM} is the wrong algorithm for it")
    if len(data) < MIN_SECRET:
        raise ValueError(f"a secret has at least {MIN_SECRET} bytes, this one has {len(data)}")
    return TokenKey("", SECRET_ALGORITHM, data)


def _from_pem(data: bytes) -> list[TokenKey]:
    found = []
    for block, what in re.findall(rb"(-----BEGIN ([A-Z0-9 ]+)-----.+?-----END \2-----)", data, re.DOTALL):
        if b"PRIVATE" in what:
            raise ValueError("it holds a private key; give the public one only, and keep the other with the issuer")
        try:
            certificate = what.endswith(b"CERTIFICATE")
            key = x509.load_pem_x509_certificate(block).public_key() if certificate else load_pem_public_key(block)
        except ValueError:
            raise ValueError("a key in it cannot be read") from None
        found.append(TokenKey("", _algorithm_of(key), key))
    return found


def _from_set(data: bytes) -> list[TokenKey]:
    """Keys of kinds that are not known are passed over, as RFC 7517 (5) has it."""
    found = []
    try:
        given = [each for each in json.loads(data)["keys"] if each.get("use", "sig") == "sig"]
        ids = [str(each.get("kid", "")) for each in given]
    except (ValueError, LookupError, TypeError, AttributeError):
        raise ValueError("it is no JSON Web Key Set") from None
    for each, name in zip(given, ids, strict=True):
        if "d" in each or "k" in each:
            raise ValueError("it holds a private key or a secret; give public keys only")
        try:
            key = jwt.PyJWK(each).key
        except (jwt.PyJWTError, ValueError, LookupError, TypeError):
            continue
        algorithm = _algorithm_of(key)
        if each.get("alg", algorithm) == algorithm:
            found.append(TokenKey(name, algorithm, key))
    return found


def _algorithm_of(key: Any) -> str:
    """The one algorithm that a public key is used for here; empty if there is none."""
    if isinstance(key, rsa.RSAPublicKey):
        if key.key_size < MIN_RSA:
            raise ValueError(f"an RSA key has at least {MIN_RSA} bits, this one has {key.key_size}")
        return "RS256"
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1):
        return "ES256"
    return "EdDSA" if isinstance(key, ed25519.Ed25519PublicKey) else ""
