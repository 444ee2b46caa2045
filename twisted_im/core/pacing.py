"""When to try again, how often, and when to give up: pure, with `now` and randomness as arguments.

Strategy: no timer for each connection. Whoever has a deadline says when; `Deadlines` keeps them in coarse slots, and the one who owns
the only timer asks what is due. A deadline that has moved on is found when its old slot comes, and is put back.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T")
K = TypeVar("K", bound=Hashable)


def full_jitter(random: Callable[[], float], *, base: float = 1.0, cap: float = 60.0) -> Callable[[int], float]:
    """A retry policy: the n-th wait is uniform in (0, min(cap, base · 2ⁿ)) seconds.

    Full jitter spreads a crowd of clients that lost the same server at the same moment over the whole interval
    (M. Brooker, "Exponential Backoff And Jitter", AWS, 2015).

    Args:
        random: gives a float in [0, 1).
        base: seconds; the first wait's upper bound is this.
        cap: seconds.
    """

    def wait(failures: int) -> float:
        return random() * min(cap, base * 2.0 ** min(failures, 32))

    return wait


class Deadlines(Generic[T]):
    """Who is to be looked at when, in slots of `grain` seconds.

    Args:
        grain: seconds; nobody is looked at early, and nobody later than this after the deadline.
    """

    __slots__ = ("_slots", "grain")

    def __init__(self, grain: float) -> None:
        self.grain = grain
        self._slots: dict[int, list[T]] = {}

    def put(self, item: T, when: float) -> None:
        """Has `due` give the item back once `when` has passed. To put it twice gives it back twice."""
        self._slots.setdefault(int(when / self.grain) + 1, []).append(item)

    def due(self, now: float) -> list[T]:
        """Everything whose time has come, oldest first; it is forgotten here."""
        current = int(now / self.grain)
        return [item for slot in sorted(s for s in self._slots if s <= current) for item in self._slots.pop(slot)]

    def next(self) -> float | None:
        """When `due` will next have something, or None if nothing was put."""
        return min(self._slots) * self.grain if self._slots else None


class Buckets(Generic[K]):
    """Token buckets by key, in a table that does not grow beyond its bound.

    A bucket is one number, the time at which it will be full again: GCRA, the form of the token bucket that ATM networks use (ITU-T I.371).
    A full bucket says as much as none, so a table that is full forgets those first that were used longest ago.

    Args:
        burst: tokens in a full bucket.
        every: seconds until one token has come back.
        most: buckets kept.
    """

    __slots__ = ("_every", "_full_at", "_most", "_span")

    def __init__(self, *, burst: int, every: float, most: int = 10_000) -> None:
        self._every = every
        self._span = burst * every
        self._most = most
        self._full_at: dict[K, float] = {}  # in the order of their last use

    def wait(self, key: K, now: float) -> float:
        """Seconds until there is a token; 0 if there is one."""
        return max(self._full_at.get(key, now) + self._every - self._span - now, 0.0)

    def take(self, key: K, now: float) -> None:
        """Takes a token, whether there is one or not: ask `wait` first."""
        full_at = self._full_at
        full_at[key] = max(full_at.pop(key, now), now) + self._every
        if len(full_at) > self._most:
            del full_at[next(iter(full_at))]

    def give_back(self, key: K) -> None:
        """A token that was taken counts as not taken."""
        if key in self._full_at:
            self._full_at[key] -= self._every

    def __len__(self) -> int:
        return len(self._full_at)
