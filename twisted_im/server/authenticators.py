"""Who may log in: anybody (if the operator says so), the users of a password file, those of the store, or several of these by method.

Strategy: passwords are checked by `twisted_im.server.passwords`; an unknown user costs the same as a wrong password, and gets the same
answer, and so does a disabled one. Tokens of an issuer of one's own are in `twisted_im.server.tokens`. A team's own check is a plain
callable and needs nothing from here. How often one may try is decided for all of them in `twisted_im.server.guesses`.

The file has one user a line, `uid:hash`, or `tenant/uid:hash`, split at the first slash; lines that begin with # are for people. It is read
again when it has changed, and is written by `python -m twisted_im password`, which changes one user's line and keeps all others.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, inlineCallbacks, maybeDeferred
from zope.interface import implementer

from twisted_im.errors import ImError, Status
from twisted_im.server.files import WatchedFile
from twisted_im.server.interfaces import Credentials, IAuthenticator, IPasswords
from twisted_im.server.names import answer, as_authenticator, user_key
from twisted_im.server.passwords import HASHER, PasswordChecks
from twisted_im.wire.schema import LoginMethod


@implementer(IAuthenticator)
class Anybody:
    """Lets everyone in under any name: for trying out, and behind something else that has checked already."""

    def authenticate(self, credentials: Credentials) -> bool:
        return True

    def knows(self, tenant: str, uid: str) -> bool:
        return False


@implementer(IPasswords)
class PasswordFile:
    """Lets the users of a file in, by password.

    Args:
        path: the file; one that does not exist holds nobody.
        checks: where passwords are checked; closed with this.
    """

    def __init__(self, path: str | os.PathLike[str], checks: PasswordChecks) -> None:
        self._file: WatchedFile[dict[str, str]] = WatchedFile(path, read_passwords, {}, what="users")
        self._checks = checks

    def authenticate(self, credentials: Credentials) -> Deferred[bool]:
        _passwords_only(credentials)
        return self._checks.check(self._hash(credentials.tenant, credentials.uid), credentials.secret)

    def knows(self, tenant: str, uid: str) -> bool:
        return self._hash(tenant, uid) is not None

    def seal(self, tenant: str, uid: str) -> bytes:
        return (self._hash(tenant, uid) or "").encode()

    def close(self) -> None:
        self._checks.close()

    def _hash(self, tenant: str, uid: str) -> str | None:
        return None if "/" in tenant else self._file.held().get(_name(tenant, uid))


@implementer(IPasswords)
class StoreAccounts:
    """Lets the users in that have an account with a password in the store.

    Args:
        store: an `IStore`: the node's.
        checks: where passwords are checked; closed with this.
    """

    def __init__(self, store: Any, checks: PasswordChecks) -> None:
        self._store = store
        self._checks = checks

    @inlineCallbacks
    def authenticate(self, credentials: Credentials) -> Any:
        _passwords_only(credentials)
        account = yield self._account(credentials.tenant, credentials.uid)
        usable = account is not None and not account.disabled
        return (yield self._checks.check(account.password if usable else None, credentials.secret))

    def knows(self, tenant: str, uid: str) -> Deferred[bool]:
        return self._account(tenant, uid).addCallback(lambda account: account is not None)

    def seal(self, tenant: str, uid: str) -> Deferred[bytes]:
        return self._account(tenant, uid).addCallback(lambda account: b"" if account is None else account.password.encode())

    def close(self) -> None:
        self._checks.close()

    def _account(self, tenant: str, uid: str) -> Deferred[Any]:
        found: Deferred[Any] = self._store.account(user_key(tenant.encode(), uid.encode()))
        return found


@implementer(IPasswords)
class Methods:
    """Several authenticators side by side; a login's method chooses.

    Args:
        methods: for each method an `IAuthenticator` or a callable, such as {LoginMethod.PASSWORD: …, LoginMethod.TOKEN: …}; all others are
            refused as unsupported.
    """

    def __init__(self, methods: Mapping[LoginMethod, Any]) -> None:
        self._methods = {int(method): as_authenticator(authenticator) for method, authenticator in methods.items()}
        self._with_passwords = [each for each in dict.fromkeys(self._methods.values()) if IPasswords.providedBy(each)]
        self._offered = " and ".join(f"{method.name.lower()}s" for method in methods)

    def authenticate(self, credentials: Credentials) -> Deferred[bool]:
        chosen = self._methods.get(credentials.method)
        if chosen is None:
            raise ImError(Status.UNSUPPORTED, f"this server takes {self._offered}")
        return answer(chosen.authenticate, credentials)

    @inlineCallbacks
    def knows(self, tenant: str, uid: str) -> Any:
        for each in self._methods.values():
            if (yield answer(each.knows, tenant, uid)):
                return True
        return False

    @inlineCallbacks
    def seal(self, tenant: str, uid: str) -> Any:
        seals = []
        for each in self._with_passwords:
            seals.append((yield answer(each.seal, tenant, uid)))
        return b"\0".join(seals)

    @inlineCallbacks
    def close(self) -> Any:
        for each in self._with_passwords:
            yield maybeDeferred(each.close)


def _passwords_only(credentials: Credentials) -> None:
    if credentials.method != LoginMethod.PASSWORD:
        raise ImError(Status.UNSUPPORTED, "this server takes passwords")


def _name(tenant: str, uid: str) -> str:
    """The user in a line of the file: `uid`, or `tenant/uid`, with an empty tenant where the uid alone could be misread."""
    return f"{tenant}/{uid}" if tenant or "/" in uid or uid.startswith("#") else uid


def read_passwords(path: Path) -> dict[str, str]:
    """A password file's users and hashes.

    Raises:
        ValueError: a line is not `user:hash`; says which.
        OSError: the file cannot be read.
    """
    return {user: line.rpartition(":")[2] for user, line in _lines(path) if user is not None}


def _lines(path: Path) -> list[tuple[str | None, str]]:
    """A password file's lines, each with the user whose it is; comments and empty lines are nobody's."""
    lines = path.read_text(encoding="utf-8").split("\n")
    return [(_user_in(line, number), line) for number, line in enumerate(lines if lines[-1] else lines[:-1], 1)]


def _user_in(line: str, number: int) -> str | None:
    if not line.strip() or line.startswith("#"):
        return None
    name, colon, hashed = line.rpartition(":")
    if not colon or not name or not hashed.startswith("$argon2"):
        raise ValueError(f"line {number} is not user:hash")
    return name


def write_password(path: Path, tenant: str, uid: str, password: str) -> bool:
    """Sets one user's password; True if the user is new. The file is replaced whole, with all other lines as they were, and only its owner
    may read it.

    Raises:
        ValueError: the file is no password file, or the tenant has a slash.
        OSError: it cannot be read or written.
    """
    if "/" in tenant or tenant.startswith("#"):
        raise ValueError("a tenant in a password file has no slash, and does not begin with #")
    lines = _lines(path) if path.exists() else []
    name = _name(tenant, uid)
    new = name not in (user for user, _ in lines)
    if new:
        lines.append((name, ""))
    own = f"{name}:{HASHER.hash(password)}"
    draft = path.with_name(path.name + ".new")
    with open(draft, "w", encoding="utf-8", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        file.writelines(f"{own if user == name else line}\n" for user, line in lines)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    return new
