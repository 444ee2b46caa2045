"""Names of users, and calls into what an application has brought.

Inside the server a user is one byte string: the tenant, a zero byte, the uid. No uid holds a zero byte, so no tenant can name
another's user.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Awaitable, Iterable
from inspect import isawaitable
from typing import Any

from twisted.internet.defer import Deferred, ensureDeferred, maybeDeferred
from zope.interface import implementer

from twisted_im.errors import ImError, RemoteProtocolError, Status
from twisted_im.server.interfaces import Authenticate, IAuthenticator


def user_key(tenant: bytes, uid: bytes) -> bytes:
    """The user's name inside the server."""
    return tenant + b"\0" + uid


def uid_of(user: bytes) -> bytes:
    """The uid of a user key."""
    return user.partition(b"\0")[2]


def one_tenant(users: Iterable[bytes]) -> None:
    """Sees to it that users may be members of one conversation.

    Raises:
        ImError: BAD_VALUE unless all are of one tenant.
    """
    tenants = sorted({user.partition(b"\0")[0] for user in users})
    if len(tenants) > 1:
        raise ImError(Status.BAD_VALUE, f"members of the tenants {tenants[0]!r} and {tenants[1]!r}: a conversation has those of one")


def checked_name(name: bytes, what: str, *, most: int, empty: bool = False) -> str:
    """A tenant or uid, as text.

    Raises:
        RemoteProtocolError: BAD_VALUE unless it is UTF-8 in NFC, of 1 (or 0, with `empty`) to `most` bytes, without control characters.
    """
    if not name and not empty:
        raise RemoteProtocolError(Status.BAD_VALUE, f"an empty {what}")
    if len(name) > most:
        raise RemoteProtocolError(Status.BAD_VALUE, f"a {what} of {len(name)} bytes, where {most} are the most")
    try:
        text = name.decode("utf-8")
    except UnicodeDecodeError:
        raise RemoteProtocolError(Status.BAD_VALUE, f"a {what} that is not UTF-8") from None
    if not unicodedata.is_normalized("NFC", text) or any(unicodedata.category(c) == "Cc" for c in text):
        raise RemoteProtocolError(Status.BAD_VALUE, f"a {what} that is not in NFC, or has control characters")
    return text


def answer(call: Any, *args: Any) -> Deferred[Any]:
    """A Deferred of what a plain function, a coroutine function or one with awaitables gives: applications may bring any of them."""

    async def awaited(result: Awaitable[Any]) -> Any:
        return await result

    def called() -> Any:
        result = call(*args)
        return ensureDeferred(awaited(result)) if isawaitable(result) and not isinstance(result, Deferred) else result

    return maybeDeferred(called)


@implementer(IAuthenticator)
class _Called:
    """An authenticator made of a plain callable; it knows nobody who has not logged in."""

    def __init__(self, authenticate: Authenticate) -> None:
        self.authenticate = authenticate

    def knows(self, tenant: str, uid: str) -> bool:
        return False


def as_authenticator(given: Any) -> Any:
    """An `IAuthenticator`, of one or of a plain callable."""
    return given if IAuthenticator.providedBy(given) else _Called(given)
