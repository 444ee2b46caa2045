"""Whether messages are shown soon, by those who could, while other things are broken.

Strategy: in the end everything is mended and comes to be known, so what a cluster loses on its way is found by nobody if the next message
of the conversation brings it to light. So each message has a clock for each device that it is for. It runs while the device is *sound*: it
is online, its server has its session and is not stopped, and neither it nor the disk has been broken for a while. Whatever is wrong
between servers is no excuse: those who do not hear each other read the store.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

#: Seconds in which a message is to be shown: silence is noticed after 3, the end of a lease after 8, and a Redis that is not the
#: others' after 9; each with a question that is not answered at first.
PROMPT = 10.0
#: Seconds for which a device, or a disk, is not judged after it was broken: a half-open connection lasts so long.
RECOVERY = 12.0


class Prompt:
    """The clocks of one run. All times are the world's, in seconds."""

    def __init__(self) -> None:
        self._waiting: dict[str, dict[tuple[int, int], float]] = defaultdict(dict)  # device → (conversation, seq) → accepted
        self._shown: dict[tuple[str, int], int] = defaultdict(int)  # device, conversation → last seq
        self._sound: dict[str, float] = {}  # device → since when
        self._excused: dict[str, float] = {}  # device, or "" for all → until when

    def accepted(self, device: str, conversation: int, seq: int, now: float) -> None:
        """A message is for a device."""
        if seq > self._shown[device, conversation]:
            self._waiting[device][conversation, seq] = now

    def shown(self, device: str, conversation: int, seq: int) -> None:
        """A device has shown everything of a conversation up to a seq, or passes over it."""
        self._shown[device, conversation] = seq
        waiting = self._waiting[device]
        for place in [place for place in waiting if place[0] == conversation and place[1] <= seq]:
            del waiting[place]

    def excuse(self, device: str, until: float) -> None:
        """Something is wrong with a device; or, without a name, with what all need."""
        self._excused[device] = max(until + RECOVERY, self._excused.get(device, 0.0))

    def look(self, now: float, sound: Iterable[str]) -> Iterator[str]:
        """Gives what is late, one line for each device.

        Args:
            sound: devices that are online at a server that serves, and their server has their session.
        """
        excused = self._excused
        before = self._sound
        self._sound = {
            device: before.get(device, now) for device in sound if now >= excused.get(device, 0.0) and now >= excused.get("", 0.0)
        }
        for device, since in self._sound.items():
            for (conversation, seq), accepted in self._waiting[device].items():
                if now - max(accepted, since) > PROMPT:
                    yield f"{device} has not shown {conversation}:{seq} {PROMPT:g} s after it was accepted"
                    break
