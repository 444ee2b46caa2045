"""What happened in a world, step by step.

Strategy: whatever happens is noted at one place as a `Step`. All steps go into a digest, so that two runs can be compared without keeping
either; they are kept only if somebody is going to look at them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import NamedTuple


class Step(NamedTuple):
    """One thing that happened.

    Attributes:
        time: seconds since the world began, by its own clock.
        kind: what, in one word: a key of `KINDS`.
        where: the process that it happened in.
        to: the other process that it is about; empty if there is none.
        text: the rest, for people.
    """

    time: float
    kind: str
    where: str
    to: str
    text: str


#: kind of a step → what it says of `where` and `to`
KINDS = {
    "start": "a process begins",
    "stop": "a process ends in good order",
    "kill": "a process is killed, or its machine loses power",
    "freeze": "a process is stopped for a while (SIGSTOP)",
    "thaw": "it goes on",
    "connect": "where asks to for a connection",
    "accept": "where takes a connection of to",
    "refuse": "where refuses a connection of to",
    "close": "where has ended its stream to to",
    "reset": "where has broken its connection with to",
    "send": "where gives bytes for to to its kernel",
    "arrive": "where reads bytes from to",
    "delay": "the network holds bytes from where to to back, or loses them until they are sent again",
    "disk": "the store of where has done something",
    "fault": "something is broken on purpose",
    "heal": "it is mended",
    "sent": "a device sends a message",
    "accepted": "a device is told that its message was accepted",
    "refused": "a device is told that its message never will be",
    "shown": "a device shows a message",
    "life": "a device goes online, or away",
    "log": "a process says something",
}


class Trace:
    """The steps of one run.

    Args:
        keep: hold on to the steps, and not only to their digest.

    Attributes:
        steps: those kept.
        count: how many there were.
    """

    def __init__(self, *, keep: bool = False) -> None:
        self.steps: list[Step] = []
        self.count = 0
        self._keep = keep
        self._hash = hashlib.blake2b(digest_size=8)

    def note(self, time: float, kind: str, where: str, to: str = "", text: str = "", more: Callable[[], str] | None = None) -> None:
        """Adds a step. `more` is asked for more text if somebody is going to look."""
        self.count += 1
        self._hash.update(f"{time!r} {kind} {where} {to} {text}\n".encode())
        if self._keep:
            added = more() if more is not None else ""
            self.steps.append(Step(time, kind, where, to, f"{text}: {added}" if added else text))

    @property
    def digest(self) -> str:
        """Equal for equal runs: 16 hexadecimal digits."""
        return self._hash.hexdigest()
