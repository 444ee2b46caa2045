"""Passwords, checked off the reactor's thread: so many at once, so many in the queue.

Strategy: argon2id (RFC 9106) is meant to be slow, so it has threads of its own, and a crowd that logs in holds up nothing else. A check
keeps its thread until it has ended, even if nobody waits for its answer any more: who comes and goes again and again only fills the queue,
which is bounded, and never the threads' own, which is not. No hash to compare with (no such user, a disabled one) costs as much as one.
"""

from __future__ import annotations

import os
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from twisted_im.errors import ImError, Status

#: argon2-cffi's default profile is RFC 9106's second choice; this one is OWASP's: 19 MiB, two passes, one lane; 21 ms a check.
HASHER = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)


class PasswordChecks:
    """A bounded queue of checks before a fixed number of threads, which start with the first check.

    Args:
        reactor: brings results back to its thread (`IReactorFromThreads`).
        at_once: checks that run at the same time, each in a thread.
        waiting: checks that wait for a thread; more are refused.
        hasher: what hashes are compared by, and what it costs when there is none.
        executor: runs the checks; by default threads of their own.
    """

    def __init__(
        self, reactor: Any, *, at_once: int = 2, waiting: int = 1000, hasher: PasswordHasher = HASHER, executor: Executor | None = None
    ) -> None:
        self._reactor = reactor
        self._at_once = at_once
        self._most = waiting
        self._hasher = hasher
        self._stranger = hasher.hash(os.urandom(16))
        self._executor = executor or ThreadPoolExecutor(at_once, thread_name_prefix="passwords")
        self._queue: dict[Deferred[bool], tuple[str, bytes, bool]] = {}
        self._busy = 0

    def check(self, hashed: str | None, secret: bytes) -> Deferred[bool]:
        """Whether a password is the one that was hashed; never, if there is no hash.

        Raises:
            ImError: BUSY, if the queue is full.
        """
        if len(self._queue) >= self._most:
            raise ImError(Status.BUSY, "too many logins at once", retry_after=1000)
        wanted: Deferred[bool] = Deferred(self._forget)
        self._queue[wanted] = hashed or self._stranger, secret, bool(hashed)
        self._next()
        return wanted

    def _forget(self, unwanted: Deferred[bool]) -> None:
        self._queue.pop(unwanted, None)

    def _next(self) -> None:
        while self._queue and self._busy < self._at_once:
            wanted = next(iter(self._queue))
            self._busy += 1
            self._executor.submit(self._run, wanted, *self._queue.pop(wanted))

    def _run(self, wanted: Deferred[bool], hashed: str, secret: bytes, known: bool) -> None:
        """In a thread."""
        result: bool | Failure
        try:
            result = self._hasher.verify(hashed, secret) and known
        except (VerificationError, InvalidHashError):
            result = False
        except Exception:
            result = Failure()
        self._reactor.callFromThread(self._ran, wanted, result)

    def _ran(self, wanted: Deferred[bool], result: bool | Failure) -> None:
        self._busy -= 1
        if not wanted.called:
            wanted.callback(result)
        self._next()

    def close(self) -> None:
        """Gives up what waits, and ends the threads; that takes as long as the checks that run."""
        for wanted in list(self._queue):
            wanted.cancel()
        self._executor.shutdown(wait=True, cancel_futures=True)
