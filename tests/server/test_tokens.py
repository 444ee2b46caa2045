"""Tokens of an issuer of one's own: which open the door, and every way that one can be wrong.

Strategy: keys and tokens are made by the libraries that issuers use (cryptography, PyJWT), but for the forged ones, which these refuse to
make: their signatures are written here. The clock stands still unless a test moves it.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given
from hypothesis import strategies as st
from twisted.logger import globalLogPublisher
from zope.interface.verify import verifyObject

from tests.running import certificate
from twisted_im.errors import ImError, Status
from twisted_im.server.interfaces import Credentials, IAuthenticator
from twisted_im.server.tokens import LEEWAY, SignedTokens, read_keys
from twisted_im.wire.schema import MAX_SECRET, LoginMethod

NOW = 1_800_000_000.0
DEVICE = bytes.fromhex("a1" * 15 + "0f")
CLAIMS = {"sub": "alice", "aud": "im.example.org", "exp": NOW + 60}
NAMES = ["sub", "aud", "exp", "nbf", "iat", "iss", "tenant", "device", "jti"]
SECRET = b"0123456789abcdef0123456789abcdef"


def key(algorithm: str, number: int = 0) -> Any:
    """A private key, always the same for a number."""
    return _key(algorithm, number)


@cache
def _key(algorithm: str, number: int) -> Any:
    if algorithm == "RS256":
        return rsa.generate_private_key(65537, 2048)
    return ed25519.Ed25519PrivateKey.generate() if algorithm == "EdDSA" else ec.generate_private_key(ec.SECP256R1())


def pem(private: Any) -> bytes:
    """Its public half."""
    data: bytes = private.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return data


def jwk(algorithm: str, name: str | None, number: int = 0, **more: Any) -> dict[str, Any]:
    """Its public half, as a JSON Web Key Set has it."""
    algorithms = jwt.get_algorithm_by_name(algorithm)
    found: dict[str, Any] = json.loads(algorithms.to_jwk(key(algorithm, number).public_key()))
    return found | ({} if name is None else {"kid": name}) | more


def token(signed_by: Any = SECRET, algorithm: str = "HS256", headers: dict[str, Any] | None = None, **claims: Any) -> bytes:
    """A token; a claim of None is left out."""
    said = {name: value for name, value in (CLAIMS | claims).items() if value is not None}
    return jwt.encode(said, signed_by, algorithm, headers=headers).encode()


def by_hand(header: dict[str, Any], claims: dict[str, Any], secret: bytes | None) -> bytes:
    """A token that no library makes, signed by HMAC, or not at all."""
    parts = [urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in (header, claims)]
    signature = b"" if secret is None else hmac.new(secret, b".".join(parts), hashlib.sha256).digest()
    return b".".join([*parts, urlsafe_b64encode(signature).rstrip(b"=")])


def who(secret: bytes, *, uid: str = "alice", tenant: str = "", device: bytes = DEVICE, method: int = LoginMethod.TOKEN) -> Credentials:
    return Credentials(method, tenant, uid, secret, device, "192.0.2.7:4711")


@pytest.fixture
def told() -> Iterator[list[str]]:
    """What the log has said, each line with all its parts."""
    found: list[str] = []

    def note(event: Any) -> None:
        found.append(f"{event['log_format'].format(**event)} {event}")

    globalLogPublisher.addObserver(note)
    yield found
    globalLogPublisher.removeObserver(note)


def signed(path: Path, data: bytes, *algorithms: str, **options: Any) -> SignedTokens:
    """The authenticator of these keys."""
    path.write_bytes(data)
    return SignedTokens(path, **{"algorithms": algorithms, "audience": "im.example.org", "clock": lambda: NOW, **options})


def test_a_secret(tmp_path: Path) -> None:
    """If this fails, users of a team with an issuer of its own cannot log in."""
    authenticator = signed(tmp_path / "secret", SECRET + b"\n", "HS256")
    assert verifyObject(IAuthenticator, authenticator)
    assert authenticator.authenticate(who(token()))
    assert authenticator.authenticate(who(token(aud=["other", "im.example.org"])))
    assert authenticator.authenticate(who(token(tenant="acme"), tenant="acme"))
    assert authenticator.authenticate(who(token(device=DEVICE.hex().upper())))
    assert authenticator.authenticate(who(token(nbf=NOW, iat=NOW - 1)))
    assert authenticator.authenticate(who(token(headers={"kid": "whatever"}))), "a key without an id may be any token's"
    assert not authenticator.authenticate(who(token(), tenant="acme")), "without a tenant it is for the default one"
    assert not authenticator.knows("", "alice")
    with pytest.raises(ImError) as caught:
        authenticator.authenticate(who(b"password", method=LoginMethod.PASSWORD))
    assert caught.value.code is Status.UNSUPPORTED


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
def test_public_keys(tmp_path: Path, algorithm: str) -> None:
    """If this fails, the tokens of most issuers are refused; or a key that is not in the file opens the door."""
    mine, other = token(key(algorithm), algorithm), token(key(algorithm, 1), algorithm)
    assert len(mine) < MAX_SECRET
    for data in (pem(key(algorithm)), json.dumps({"keys": [jwk(algorithm, "k1")]}).encode()):
        authenticator = signed(tmp_path / "keys", data, algorithm)
        assert authenticator.authenticate(who(mine))
        assert not authenticator.authenticate(who(other))
    both = signed(tmp_path / "keys", b"first\n" + pem(key(algorithm)) + b"second\n" + pem(key(algorithm, 1)), "RS256", "ES256", "EdDSA")
    assert both.authenticate(who(mine))
    assert both.authenticate(who(other))


def test_a_certificate(tmp_path: Path) -> None:
    """If this fails, an issuer that gives a certificate instead of a bare key cannot be used."""
    private, _, rest = Path(certificate()).read_bytes().partition(b"-----BEGIN CERT")
    mine = token(serialization.load_pem_private_key(private, None), "ES256")
    assert signed(tmp_path / "cert.pem", b"-----BEGIN CERT" + rest, "ES256").authenticate(who(mine))


WRONG: dict[str, tuple[Any, str]] = {
    "expired": (lambda: token(exp=NOW - LEEWAY), "expired"),
    "never expires": (lambda: token(exp=None), "missing"),
    "not yet valid": (lambda: token(nbf=NOW + LEEWAY + 1), "not valid yet"),
    "made in the future": (lambda: token(iat=NOW + LEEWAY + 1), "not valid yet"),
    "a time in words": (lambda: by_hand({"alg": "HS256"}, CLAIMS | {"exp": "9999999999"}, SECRET), "no number"),
    "a time that is true": (lambda: by_hand({"alg": "HS256"}, CLAIMS | {"exp": NOW + 9, "nbf": True}, SECRET), "no number"),
    "a time that is none": (lambda: by_hand({"alg": "HS256"}, CLAIMS | {"exp": float("nan")}, SECRET), "expired"),
    "another audience": (lambda: token(aud="mail.example.org"), "another audience"),
    "no audience": (lambda: token(aud=None), "missing"),
    "another issuer": (lambda: token(iss="mallory"), "another issuer"),
    "no issuer": (lambda: token(iss=None), "missing"),
    "another user": (lambda: token(sub="bob"), "another user"),
    "no user": (lambda: token(sub=None), "missing"),
    "a user that is no name": (lambda: by_hand({"alg": "HS256"}, CLAIMS | {"iss": "us", "sub": ["alice"]}, SECRET), ""),
    "another tenant": (lambda: token(tenant="acme"), "tenant"),
    "another device": (lambda: token(device="00" * 16), "another device"),
    "a device that is no name": (lambda: token(device=7), "another device"),
    "another secret": (lambda: token(b"x" * 32), "signature"),
    "a changed claim": (lambda: token(sub="alicf").replace(token(sub="alicf").split(b".")[1], token().split(b".")[1]), "signature"),
    "no signature": (lambda: token().rpartition(b".")[0] + b".", "signature"),
    "none": (lambda: by_hand({"alg": "none"}, CLAIMS, None), "algorithm"),
    "None": (lambda: by_hand({"alg": "None"}, CLAIMS, None), "algorithm"),
    "no algorithm": (lambda: by_hand({}, CLAIMS, SECRET), "algorithm"),
    "an algorithm that is no name": (lambda: by_hand({"alg": ["HS256"]}, CLAIMS, SECRET), "algorithm"),
    "another algorithm, right key": (lambda: token(algorithm="HS512", signed_by=SECRET * 2), "algorithm"),
    "something critical": (lambda: by_hand({"alg": "HS256", "crit": ["x"], "x": 1}, CLAIMS | {"iss": "us"}, SECRET), ""),
    "a detached payload": (lambda: by_hand({"alg": "HS256", "crit": ["b64"], "b64": False}, CLAIMS | {"iss": "us"}, SECRET), ""),
    "a password": (lambda: b"correct horse", "no token"),
    "nothing": (lambda: b"", "no token"),
    "dots": (lambda: b"..", "no token"),
    "bytes": (lambda: b"\xff\xfe." * 3, "no token"),
    "depth": (lambda: urlsafe_b64encode(b"[" * 500).rstrip(b"=") + b".e30.e30", "no token"),
}


@pytest.mark.parametrize("case", WRONG)
def test_whatever_is_wrong_is_refused(tmp_path: Path, told: list[str], case: str) -> None:
    """If this fails, a token that should not count opens the door; or an operator cannot find out why one does not; or the log gives it
    away."""
    make, why = WRONG[case]
    bad = make()
    authenticator = signed(tmp_path / "secret", SECRET, "HS256", issuer="us" if "issuer" in case else "")
    assert authenticator.authenticate(who(token(iss="us")))
    assert authenticator.authenticate(who(bad)) is False
    (line,) = told
    assert why in line
    assert "alice from 192.0.2.7:4711 is refused" in line
    for piece in bad.decode("latin-1").split("."):
        assert len(piece) < 8 or piece not in line, "the log has the token"


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
def test_a_public_key_is_no_secret(tmp_path: Path, told: list[str], algorithm: str) -> None:
    """If this fails, everybody who has the public key, which is everybody, can log in as anybody."""
    data = pem(key(algorithm))
    authenticator = signed(tmp_path / "key.pem", data, algorithm)
    for secret in (data, data.strip(), data + b"\n"):
        assert authenticator.authenticate(who(by_hand({"alg": "HS256", "typ": "JWT"}, CLAIMS, secret))) is False
        forged = by_hand({"alg": algorithm, "typ": "JWT"}, CLAIMS, secret)
        assert authenticator.authenticate(who(forged)) is False
    assert "no key is for its algorithm" in told[0]
    with pytest.raises(ValueError, match="HS256 is the wrong algorithm"):
        signed(tmp_path / "key.pem", data, "HS256")
    with pytest.raises(ValueError, match="stands alone"):
        signed(tmp_path / "key.pem", data, "HS256", algorithm)


def test_the_key_id(tmp_path: Path) -> None:
    """If this fails, an issuer cannot change its keys, or a key that it has withdrawn still counts."""
    path = tmp_path / "keys.json"
    old, new, foreign = jwk("ES256", "old"), jwk("ES256", "new", 1), {"kty": "quantum", "kid": "q"}
    for_encryption = jwk("ES256", "enc", 2, use="enc")
    authenticator = signed(path, json.dumps({"keys": [foreign, old, new, for_encryption]}).encode(), "ES256")

    def welcome(name: str | None, number: int) -> bool:
        return authenticator.authenticate(who(token(key("ES256", number), "ES256", headers={"kid": name} if name else None)))

    assert [welcome(*case) for case in (("old", 0), ("new", 1), (None, 0), (None, 1))] == [True] * 4
    assert [welcome(*case) for case in (("old", 1), ("new", 0), ("other", 0), ("enc", 2), (None, 2))] == [False] * 5
    path.write_text(json.dumps({"keys": [new]}))
    assert [welcome("old", 0), welcome(None, 0), welcome("new", 1)] == [False, False, True]
    path.write_text("{}")
    assert welcome("new", 1), "a file that cannot be read leaves what was there"
    path.unlink()
    assert not welcome("new", 1)


def test_the_clock(tmp_path: Path) -> None:
    """If this fails, tokens live for longer than their issuer says, or clocks that differ by a second shut users out."""
    now = NOW
    authenticator = signed(tmp_path / "secret", SECRET, "HS256", clock=lambda: now, leeway=5.0)
    mine = token(nbf=NOW, exp=NOW + 60)
    for moment, welcome in ((-6, False), (-5, True), (0, True), (64.9, True), (65, False), (1e9, False)):
        now = NOW + moment
        assert authenticator.authenticate(who(mine)) is welcome, moment


@pytest.mark.parametrize(
    ("data", "algorithms", "said"),
    [
        (b"short", ("HS256",), "at least 32 bytes, this one has 5"),
        (b"x" * 40, ("RS256",), "no public key for RS256"),
        (b"", ("ES256", "EdDSA"), "no public key for ES256 or EdDSA"),
        (b"{}", ("RS256",), "no JSON Web Key Set"),
        (b'{"keys": 7}', ("RS256",), "no JSON Web Key Set"),
        (b'{"keys": [7]}', ("RS256",), "no JSON Web Key Set"),
        (b'{"keys": []}', ("RS256",), "no public key for RS256"),
        (b'{"keys": [{"kty": "oct", "k": "AAAA"}]}', ("RS256",), "a private key or a secret"),
        (b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", ("RS256",), "cannot be read"),
        (SECRET, ("none",), "are HS256, RS256, ES256, EdDSA, not none"),
        (SECRET, (), "not none"),
        (pem(key("ES256")), ("RS256",), "no public key for RS256"),
        (
            key("ES256").private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            ),
            ("ES256",),
            "a private key",
        ),
        (pem(rsa.generate_private_key(65537, 1024)), ("RS256",), "at least 2048 bits"),
    ],
)  # fmt: skip
def test_files_that_hold_no_keys(tmp_path: Path, data: bytes, algorithms: tuple[str, ...], said: str) -> None:
    """If this fails, a wrong key file is found out by users who cannot log in, or worse, by those who can."""
    path = tmp_path / "keys"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=said):
        read_keys(path, algorithms)
    with pytest.raises(ValueError, match=said):
        SignedTokens(path, algorithms=algorithms, audience="x")


def test_an_audience_must_be_named(tmp_path: Path) -> None:
    """If this fails, a token for another service of the same issuer opens this one's door."""
    with pytest.raises(ValueError, match="audience"):
        signed(tmp_path / "secret", SECRET, "HS256", audience="")


@pytest.fixture(scope="module")
def sturdy(tmp_path_factory: pytest.TempPathFactory) -> SignedTokens:
    """One for all examples."""
    return signed(tmp_path_factory.mktemp("tokens") / "secret", SECRET, "HS256", issuer="us")


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


@given(
    st.binary(max_size=MAX_SECRET)
    | st.builds(
        by_hand,
        st.fixed_dictionaries({"alg": st.just("HS256") | anything}, optional=dict.fromkeys(["kid", "crit", "b64", "typ"], anything)),
        st.builds(lambda said: CLAIMS | {"iss": "us", "sub": "bob"} | said, st.dictionaries(st.sampled_from(NAMES), anything)),
        st.just(SECRET) | st.none(),
    )
)
def test_rubbish_is_refused(sturdy: SignedTokens, rubbish: bytes) -> None:
    """If this fails, some bytes in place of a token, or odd claims in one that is signed, end in a traceback instead of a no."""
    assert sturdy.authenticate(who(rubbish)) is False
