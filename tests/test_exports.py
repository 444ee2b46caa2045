"""The public names, and what loading them costs."""

from __future__ import annotations

import subprocess
import sys

import twisted_im

PUBLIC = [
    "Anybody",
    "BroadcastRouter",
    "Client",
    "ContentType",
    "Counters",
    "Credentials",
    "Disconnect",
    "Guesses",
    "IAuthenticator",
    "IPasswords",
    "IRouter",
    "IStore",
    "ImError",
    "ImServer",
    "Limits",
    "LinkEnds",
    "LocalProtocolError",
    "LoginMethod",
    "MemoryStore",
    "MeshRouter",
    "Methods",
    "PasswordChecks",
    "PasswordFile",
    "RemoteProtocolError",
    "RouteServer",
    "SignedTokens",
    "SingleRouter",
    "SqliteStore",
    "StarRouter",
    "Status",
    "StoreAccounts",
    "StoreError",
]


def test_public_names() -> None:
    """A name that a program imports has vanished, or one appeared that nobody has promised."""
    assert sorted(twisted_im.__all__) == sorted(PUBLIC)
    for name in PUBLIC:
        assert getattr(twisted_im, name).__name__ == name


def test_unknown_name() -> None:
    """A mistyped import says what is missing instead of something about modules."""
    try:
        twisted_im.Sever  # type: ignore[attr-defined]  # noqa: B018  # that is the mistake
    except AttributeError as error:
        assert "Sever" in str(error)
    else:
        raise AssertionError("it was found")


def test_client_without_server() -> None:
    """A program that only wants the client, or the wire, loads a server with it."""
    script = """if True:
        import sys
        import twisted_im.wire.codec
        assert not any(name.partition(".")[0] == "twisted" for name in sys.modules), "the wire loads Twisted"
        from twisted_im import Client
        apart = ("twisted_im.server", "twisted_im.storage", "twisted_im.routing", "argon2")
        loaded = [name for name in sys.modules if name.startswith(apart)]
        assert not loaded, loaded
    """
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)
