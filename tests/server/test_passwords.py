"""Checks of passwords: in threads of their own, bounded, whatever those who wait for them do."""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from argon2 import PasswordHasher
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, inlineCallbacks
from twisted.trial.unittest import TestCase

from tests.running import until
from twisted_im.errors import ImError, Status
from twisted_im.server.passwords import PasswordChecks

#: Argon2id that costs next to nothing.
FAST = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)


class Held(PasswordHasher):
    """A check that takes until the test lets it go on; notes in which threads checks ran."""

    def __init__(self) -> None:
        super().__init__(time_cost=1, memory_cost=8, parallelism=1)
        self.go_on = threading.Event()
        self.threads: list[str] = []

    def verify(self, hash: str | bytes, password: str | bytes) -> Any:  # argon2's name
        self.threads.append(threading.current_thread().name)
        assert self.go_on.wait(30)
        return super().verify(hash, password)


class Noted(ThreadPoolExecutor):
    """Threads that count what is asked of them."""

    submitted = 0

    def submit(self, *args: Any, **kwargs: Any) -> Future[Any]:
        self.submitted += 1
        return super().submit(*args, **kwargs)


class TestPasswordChecks(TestCase):
    timeout = 180

    @inlineCallbacks
    def test_right_wrong_and_nobody(self) -> Any:
        """If this fails, a wrong password opens a door, or a user without one can be logged in as."""
        checks = PasswordChecks(reactor, hasher=FAST)
        self.addCleanup(checks.close)
        hashed = FAST.hash("right")
        for known, secret, welcome in (
            (hashed, b"right", True),
            (hashed, b"wrong", False),
            (hashed, b"", False),
            (hashed, b"\xff" * 768, False),
            (None, b"right", False),
            ("", b"", False),
            ("$argon2id$broken", b"right", False),
        ):
            self.assertIs((yield checks.check(known, secret)), welcome, (known, secret))

    async def test_no_hash_is_nobody(self) -> None:
        """If this fails, a user without a password can be logged in as, whatever the hasher makes of it."""

        class Yes(PasswordHasher):
            def verify(self, hash: str | bytes, password: str | bytes) -> Any:
                return True

        checks = PasswordChecks(reactor, hasher=Yes(time_cost=1, memory_cost=8, parallelism=1))
        self.addCleanup(checks.close)
        self.assertEqual([await checks.check(hashed, b"x") for hashed in ("a hash", "", None)], [True, False, False])

    async def test_a_crowd_is_bounded(self) -> None:
        """If this fails, a crowd of logins fills the memory of a server or takes all of its threads; or those who wait are forgotten."""
        held = Held()
        checks = PasswordChecks(reactor, at_once=2, waiting=3, hasher=held)
        self.addCleanup(checks.close)
        self.addCleanup(held.go_on.set)
        hashed = held.hash("right")
        asked = [checks.check(hashed, b"right") for _ in range(5)]
        for _ in range(3):
            with self.assertRaises(ImError) as caught:
                checks.check(hashed, b"right")
            self.assertIs(caught.exception.code, Status.BUSY)
            self.assertGreater(caught.exception.retry_after, 0)
        await until(lambda: len(held.threads) == 2, "two checks to run")
        held.go_on.set()
        self.assertEqual([await each for each in asked], [True] * 5)
        self.assertEqual(len({*held.threads}), 2)
        self.assertTrue(all(name.startswith("passwords") for name in held.threads), "the reactor's own threads are for others")

    async def test_those_who_come_and_go(self) -> None:
        """If this fails, somebody who connects, tries and hangs up, again and again, piles up work that nobody waits for."""
        held, threads = Held(), Noted(1)
        checks = PasswordChecks(reactor, at_once=1, waiting=3, hasher=held, executor=threads)
        self.addCleanup(checks.close)
        self.addCleanup(held.go_on.set)
        hashed = held.hash("right")
        for _ in range(1000):
            gone = checks.check(hashed, b"wrong")
            gone.cancel()
            self.failureResultOf(gone, CancelledError)  # type: ignore[arg-type]  # trial means any Deferred
        self.assertEqual(threads.submitted, 1, "one runs, the others are forgotten")
        last = checks.check(hashed, b"right")
        held.go_on.set()
        self.assertTrue(await last)
        self.assertEqual(threads.submitted, 2)

    async def test_the_end(self) -> None:
        """If this fails, a server that was stopped leaves threads behind, or waits for passwords that nobody asks for any more."""
        held = Held()
        checks = PasswordChecks(reactor, at_once=1, waiting=10, hasher=held)
        asked = [checks.check(None, b"x") for _ in range(5)]
        await until(lambda: held.threads, "a check to run")
        name = held.threads[0]
        held.go_on.set()
        checks.close()
        self.assertNotIn(name, [thread.name for thread in threading.enumerate()])
        for each in asked[1:]:
            self.failureResultOf(each, CancelledError)  # type: ignore[arg-type]
        self.assertFalse(await asked[0])
        self.assertEqual(len(held.threads), 1)

    async def test_a_fault_is_no_wrong_password(self) -> None:
        """If this fails, a machine without memory tells its users that their passwords are wrong, or keeps them waiting for ever."""

        class Broken(PasswordHasher):
            def verify(self, hash: str | bytes, password: str | bytes) -> Any:
                raise MemoryError

        checks = PasswordChecks(reactor, at_once=1, hasher=Broken(time_cost=1, memory_cost=8, parallelism=1))
        self.addCleanup(checks.close)
        for _ in range(2):
            with self.assertRaises(MemoryError):
                await checks.check(None, b"x")
