"""The limits on guessing, with time as a number: who is held back, for how long, and what is counted as one address."""

from __future__ import annotations

import pytest

from twisted_im.errors import ImError, Status
from twisted_im.server.guesses import Guesses, network_of


def held_back(guesses: Guesses, user: bytes, peer: str, now: float) -> int:
    """Milliseconds that somebody is told to wait; 0 if the secret is judged (and wrong)."""
    try:
        guesses.begin(user, peer, now)
    except ImError as error:
        assert error.code is Status.BUSY
        assert error.temporary
        return error.retry_after
    return 0


@pytest.mark.parametrize(
    ("peer", "network"),
    [
        ("192.0.2.7:4711", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6:4711", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::1:4711", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::1:4711", "2001:db8:1:3::/64"),
        ("::ffff:192.0.2.7:4711", "192.0.2.7"),
        ("fe80::1%eth0:4711", "fe80::/64"),
        ("::1:4711", "::/64"),
        ("unix", ""),
    ],
)
def test_what_counts_as_one_address(peer: str, network: str) -> None:
    """If this fails, whoever has an IPv6 network has 2⁶⁴ addresses to guess from; or users of other networks are held back for it."""
    assert network_of(peer) == network


def test_an_address_has_fewer_than_an_account() -> None:
    """If this fails, one address that tries a user's name shuts that user out everywhere."""
    guesses = Guesses()
    tried = sum(not held_back(guesses, b"\0alice", f"192.0.2.7:{port}", 0.0) for port in range(1000))
    assert 10 < tried < 100
    assert held_back(guesses, b"\0bob", "192.0.2.7:1", 0.0), "whomever it tries"
    for minute in range(1440):
        now = minute * 60.0
        while not held_back(guesses, b"\0alice", "192.0.2.7:1", now):
            tried += 1
        assert not held_back(guesses, b"\0alice", "198.51.100.1:1", now), "alice herself, who mistypes once a minute"
    assert tried < 6000


def test_an_account_has_a_limit_too() -> None:
    """If this fails, a thousand machines have a thousand times as many guesses."""
    guesses = Guesses()
    wrong = sum(not held_back(guesses, b"\0alice", f"10.0.{host // 250}.{host % 250}:1", 0.0) for host in range(1000))
    assert wrong == 100
    wait = held_back(guesses, b"\0alice", "198.51.100.1:1", 0.0)
    assert 0 < wait <= 10_000
    assert held_back(guesses, b"\0alice", "198.51.100.1:1", wait / 1000 - 0.01)
    assert not held_back(guesses, b"\0alice", "198.51.100.1:1", wait / 1000)


def test_what_was_right_counts_for_nothing() -> None:
    """If this fails, an office behind one address is shut out by its own logins; or a right password wipes out the wrong ones before it."""
    guesses = Guesses(per_address=3, address_every=60.0)
    for _ in range(100):
        assert not held_back(guesses, b"\0alice", "192.0.2.7:1", 0.0)
        guesses.was_none(b"\0alice", "192.0.2.7:1")
    assert not held_back(guesses, b"\0bob", "192.0.2.7:1", 0.0)
    assert not held_back(guesses, b"\0bob", "192.0.2.7:1", 0.0)
    assert not held_back(guesses, b"\0mallory", "192.0.2.7:1", 0.0)
    guesses.was_none(b"\0mallory", "192.0.2.7:1")
    assert not held_back(guesses, b"\0bob", "192.0.2.7:1", 0.0)
    assert held_back(guesses, b"\0bob", "192.0.2.7:1", 0.0)


def test_memory_is_bounded_and_limits_can_be_off() -> None:
    """If this fails, guesses from many addresses at many names fill the memory of a server; or a limit cannot be lifted."""
    guesses = Guesses(most=50)
    for n in range(2000):
        held_back(guesses, b"\0%d" % n, f"10.{n >> 8}.{n & 255}.1:1", 0.0)
    assert guesses._accounts is not None
    assert guesses._addresses is not None
    assert (len(guesses._accounts), len(guesses._addresses)) == (50, 50)
    free = Guesses(per_account=0, per_address=0)
    assert not any(held_back(free, b"\0alice", "192.0.2.7:1", 0.0) for _ in range(1000))
    assert not any(held_back(Guesses(per_account=0), b"\0alice", "unix", 0.0) for _ in range(1000)), "no address, no limit on it"
