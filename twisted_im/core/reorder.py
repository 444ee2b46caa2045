"""Order among the pushes of several nodes: what came too early is held for a moment.

Strategy: within a conversation seqs are dense, so a push whose predecessor has not come yet is known by its number. It waits for that one,
and is let go when it comes, or after 50 ms: then the predecessor was lost or is late, and each device sees the gap and reads the log for
itself. Nothing depends on this; it spares every device of a busy group a read whenever two of its members write on two nodes at once.

What is behind, or is seen for the first time in a while, goes through at once: a device drops what it has shown already.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

T = TypeVar("T")

#: Seconds that a push is held, at most: nobody notices, and two links of one machine room differ by less.
PATIENCE = 0.05
#: Conversations that are remembered; the one that was quiet for longest is forgotten first.
REMEMBERED = 100_000


class Reorder(Generic[T]):
    """The pushes of one node on their way to its sessions.

    Args:
        patience: seconds that a push is held, at most.
        remembered: conversations.
    """

    def __init__(self, *, patience: float = PATIENCE, remembered: int = REMEMBERED) -> None:
        self._patience = patience
        self._remembered = remembered
        self._last: OrderedDict[int, int] = OrderedDict()
        self._held: dict[int, dict[int, tuple[float, T]]] = {}

    def __len__(self) -> int:
        """How many are held."""
        return sum(map(len, self._held.values()))

    def put(self, conversation: int, seq: int, push: T, now: float) -> list[T]:
        """Takes a push, and gives all that may go now, in order."""
        last = self._last.get(conversation)
        if last is None or seq <= last:
            if last is None:
                self._move(conversation, seq)
            return [push]
        if seq > last + 1:
            self._held.setdefault(conversation, {}).setdefault(seq, (now + self._patience, push))
            return []
        self._move(conversation, seq)
        return [push, *self._follow(conversation)]

    def _move(self, conversation: int, seq: int) -> None:
        self._last[conversation] = seq
        self._last.move_to_end(conversation)
        while len(self._last) > self._remembered:
            oldest = next(iter(self._last))
            if oldest in self._held:
                break  # it is about to move
            del self._last[oldest]

    def _follow(self, conversation: int) -> list[T]:
        """What was held for the seq that has just gone."""
        held = self._held.get(conversation)
        if held is None:
            return []
        found = []
        seq = self._last[conversation] + 1
        while seq in held:
            found.append(held.pop(seq)[1])
            seq += 1
        self._last[conversation] = seq - 1
        if not held:
            del self._held[conversation]
        return found

    def deadline(self) -> float | None:
        """When `due` has something to give; None if nothing is held."""
        return min((moment for held in self._held.values() for moment, _ in held.values()), default=None)

    def due(self, now: float) -> list[T]:
        """What has been held for long enough, in order, with what follows it."""
        found = []
        for conversation in list(self._held):
            while conversation in self._held:
                held = self._held[conversation]
                late = [seq for seq, (moment, _) in held.items() if moment <= now]
                if not late:
                    break
                first = min(held)  # all before the one that waits no longer go with it
                found.append(held.pop(first)[1])
                if not held:
                    del self._held[conversation]
                self._move(conversation, first)
                found += self._follow(conversation)
        return found
