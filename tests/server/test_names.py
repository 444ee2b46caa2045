"""Names of users, and whatever applications bring as a function."""

from __future__ import annotations

import asyncio
import types
from collections.abc import Callable, Generator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.trial.unittest import SynchronousTestCase

from twisted_im.errors import RemoteProtocolError, Status
from twisted_im.server.names import answer, checked_name, uid_of, user_key

NAMES = st.binary(max_size=64).filter(lambda name: 0 not in name)


@given(NAMES, NAMES, NAMES, NAMES)
def test_no_tenant_can_name_anothers_user(tenant: bytes, uid: bytes, other_tenant: bytes, other_uid: bytes) -> None:
    """If this fails, a user of one tenant gets the messages of another tenant's user."""
    assert (user_key(tenant, uid) == user_key(other_tenant, other_uid)) == ((tenant, uid) == (other_tenant, other_uid))
    assert uid_of(user_key(tenant, uid)) == uid


@pytest.mark.parametrize("name", ["alice", "größe", "アリス", "👩‍👩‍👧", "a b", "a/b:c#d%", "x" * 64, "é" * 32])
def test_names_of_people(name: str) -> None:
    """If this fails, somebody cannot have the name that they write."""
    assert checked_name(name.encode(), "uid", most=64) == name


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (b"", "empty"),
        (b"x" * 65, "65 bytes, where 64 are the most"),
        ("é".encode() * 33, "66 bytes"),
        (b"\xff", "not UTF-8"),
        (b"a\xc0\xaf", "not UTF-8"),
        (b"\xed\xa0\x80", "not UTF-8"),
        (b"al\0ice", "control"),
        (b"alice\n", "control"),
        ("alice\x85".encode(), "control"),
        (b"\x7f", "control"),
        ("e\N{COMBINING ACUTE ACCENT}".encode(), "NFC"),
        ("\N{ANGSTROM SIGN}".encode(), "NFC"),
    ],
)
def test_names_that_cannot_be(name: bytes, reason: str) -> None:
    """If this fails, two names look alike and are two users, or a name breaks a log line or another tenant's border."""
    with pytest.raises(RemoteProtocolError, match=reason) as caught:
        checked_name(name, "uid", most=64)
    assert caught.value.code is Status.BAD_VALUE
    assert "a uid" in caught.value.reason or "an empty uid" in caught.value.reason


def test_the_default_tenant_has_no_name() -> None:
    """If this fails, whoever needs no tenants must invent one."""
    assert checked_name(b"", "tenant", most=64, empty=True) == ""


@given(st.binary(max_size=80))
def test_what_is_let_through_is_a_name(name: bytes) -> None:
    """If this fails, there are bytes that pass as a name and come out as others."""
    try:
        text = checked_name(name, "uid", most=64)
    except RemoteProtocolError:
        return
    assert text.encode() == name
    assert 0 < len(name) <= 64
    assert text.isprintable() or not any(character < " " for character in text)


class Query:
    """What a library may give: it can be awaited, and is neither a coroutine nor a Deferred."""

    def __init__(self, later: Deferred[bool]) -> None:
        self._later = later

    def __await__(self) -> Generator[Any, Any, bool]:
        return (yield from self._later.__await__())


@types.coroutine
def old_coroutine(name: str, number: int) -> Generator[Any, Any, bool]:
    """A generator that can be awaited."""
    return (yield from succeed((name, number) != ("alice", 2)).__await__())


class TestAnswer(SynchronousTestCase):
    """One way to call what may answer in several ways."""

    def asked(self, call: Callable[..., Any]) -> Any:
        return self.successResultOf(answer(call, "alice", 2))

    def test_all_kinds_of_functions(self) -> None:
        """If this fails, an authenticator that is a coroutine function, or gives a Deferred, lets everybody in: what it gives is true."""

        async def coroutine(name: str, number: int) -> bool:
            return await succeed((name, number) != ("alice", 2))

        for call in (
            lambda name, number: (name, number) != ("alice", 2),
            lambda name, number: succeed((name, number) != ("alice", 2)),
            coroutine,
            lambda name, number: Query(succeed((name, number) != ("alice", 2))),
            old_coroutine,
        ):
            assert self.asked(call) is False

    def test_all_kinds_of_failures(self) -> None:
        """If this fails, a fault in an application's function ends the server instead of one request."""

        async def coroutine(*_: object) -> bool:
            raise ZeroDivisionError

        for call in (lambda *_: 1 / 0, lambda *_: fail(ZeroDivisionError()), coroutine, lambda *_: Query(fail(ZeroDivisionError()))):
            self.failureResultOf(answer(call), ZeroDivisionError)

    def test_it_waits(self) -> None:
        """If this fails, a login is granted before the application has decided."""

        async def coroutine(later: Deferred[bool]) -> bool:
            return await later

        for call in (coroutine, Query):
            later: Deferred[bool] = Deferred()
            asked = answer(call, later)
            self.assertNoResult(asked)
            later.callback(True)
            assert self.successResultOf(asked) is True

    def test_nobody_waits_any_more(self) -> None:
        """If this fails, a query goes on for a client that has gone."""
        later: Deferred[bool] = Deferred()
        asked = answer(lambda: Query(later))
        asked.cancel()
        self.failureResultOf(asked, CancelledError)
        assert later.called


def test_a_future_without_its_loop_is_an_error() -> None:
    """If this fails, an authenticator of asyncio's, run without its reactor, keeps logins waiting for ever and says nothing."""
    loop = asyncio.new_event_loop()
    failures: list[Any] = []
    try:
        asked = answer(lambda: loop.create_future())
        asked.addErrback(failures.append)
    finally:
        loop.close()
    assert len(failures) == 1
