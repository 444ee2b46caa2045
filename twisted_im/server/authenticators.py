"""Who may log in: anybody (if the operator says so), or the users of a password file.

Strategy: passwords are argon2id (RFC 9106), checked off the reactor's thread, a bounded number at a time; an unknown user costs the same
as a wrong password, and gets the same answer. A team's own check is a plain callable and needs nothing from here.

The file has one user a line, `uid:hash`, or `tenant/uid:hash`, split at the first slash; lines that begin with # are for people. It is read
again when it has changed, and is written by `python -m twisted_im password`, which changes one user's line and keeps all others.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from twisted.internet.defer import Deferred, DeferredSemaphore, maybeDeferred
from twisted.logger import Logger
from zope.interface import implementer

from twisted_im.errors import ImError, Status
from twisted_im.server.interfaces import Credentials, IAuthenticator
from twisted_im.wire.schema import LoginMethod

log = Logger()

#: argon2-cffi's default profile is RFC 9106's second choice; this one is OWASP's: 19 MiB, two passes, one lane; 21 ms a check.
HASHER = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)


@implementer(IAuthenticator)
class Anybody:
    """Lets everyone in under any name: for trying out, and behind something else that has checked already."""

    def authenticate(self, credentials: Credentials) -> bool:
        return True

    def knows(self, tenant: str, uid: str) -> bool:
        return False


@implementer(IAuthenticator)
class PasswordFile:
    """Lets the users of a file in, by password.

    Args:
        path: the file; one that does not exist holds nobody.
        in_thread: runs a function with arguments elsewhere and gives a Deferred of its result, as `deferToThread` does.
        at_once: checks that run at the same time.
        waiting: logins that wait for a check; more get BUSY.
    """

    def __init__(
        self, path: str | os.PathLike[str], in_thread: Callable[..., Deferred[Any]], *, at_once: int = 2, waiting: int = 1000
    ) -> None:
        self._path = Path(path)
        self._in_thread = in_thread
        self._slots = DeferredSemaphore(at_once)
        self._waiting = waiting
        self._stamp: tuple[int, ...] | None = None
        self._hashes: dict[str, str] = {}
        self._stranger = HASHER.hash(os.urandom(16))

    def authenticate(self, credentials: Credentials) -> bool | Deferred[bool]:
        if credentials.method != LoginMethod.PASSWORD:
            raise ImError(Status.UNSUPPORTED, "this server takes passwords")
        if len(self._slots.waiting) >= self._waiting:
            raise ImError(Status.BUSY, "too many logins at once", retry_after=1000)
        self._refresh()
        name = _name(credentials.tenant, credentials.uid)
        known = self._hashes.get(name) if "/" not in credentials.tenant else None
        turn: Deferred[Any] = self._slots.acquire()
        return turn.addCallback(lambda _: self._check(known or self._stranger, credentials.secret, known is not None))

    def _check(self, *args: object) -> Deferred[bool]:
        """Whoever waits for the answer may go; its thread works on, and until that is done nobody else gets its place."""
        answer: Deferred[bool] = Deferred()
        checked = maybeDeferred(self._in_thread, _verify, *args)
        checked.addBoth(self._free).chainDeferred(answer)
        return answer

    def _free(self, result: Any) -> Any:
        self._slots.release()
        return result

    def knows(self, tenant: str, uid: str) -> bool:
        self._refresh()
        return "/" not in tenant and _name(tenant, uid) in self._hashes

    def _refresh(self) -> None:
        try:
            stat = self._path.stat()
            stamp = stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size, stat.st_ino  # a copy may bring its old time along, a chmod leaves it
            if self._stamp != stamp:
                self._stamp = stamp  # first, so that a bad file is told once
                self._hashes = read_passwords(self._path)
        except FileNotFoundError:
            self._stamp, self._hashes = None, {}
        except (OSError, ValueError) as error:
            what = "{path} cannot be read, and the users that it held before still count: {error}"
            log.error(what, path=str(self._path), error=str(error))


def _name(tenant: str, uid: str) -> str:
    """The user in a line of the file: `uid`, or `tenant/uid`, with an empty tenant where the uid alone could be misread."""
    return f"{tenant}/{uid}" if tenant or "/" in uid or uid.startswith("#") else uid


def _verify(hashed: str, secret: bytes, known: bool) -> bool:
    try:
        return HASHER.verify(hashed, secret) and known
    except (VerificationError, InvalidHashError):
        return False


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
