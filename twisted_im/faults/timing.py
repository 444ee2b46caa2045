"""How long messages took, while something was broken that nobody should notice.

Strategy: read from the logs when all is over. A message counts that was accepted during such a fault; a device's time for it begins when it
was accepted, or when the device came, if that was later. What was delayed by another fault that came in between is left out: whether it
came at all is the oracle's business.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from twisted_im.oracle import Accepted, Shown, Started, read_event


class Window(NamedTuple):
    """When something was broken, in seconds by the logs' clock.

    Attributes:
        until: when the next fault began that anybody may notice.
    """

    kind: str
    begin: float
    end: float
    until: float


def deliveries(logs: Iterable[Path], windows: Sequence[Window]) -> dict[str, list[float]]:
    """Kind of fault → seconds of each showing."""
    accepted: dict[str, tuple[float, Window]] = {}
    shown: list[tuple[str, float, float]] = []
    for log in logs:
        came = 0.0
        for line in log.read_bytes().splitlines():
            match read_event(line):
                case Started(time=time):
                    came = time
                case Accepted(time=time, client_id=client_id):
                    window = next((each for each in windows if each.begin <= time <= each.end), None)
                    if window is not None:
                        accepted[client_id] = time, window
                case Shown(time=time, client_id=client_id):
                    shown.append((client_id, came, time))
    took: dict[str, list[float]] = {}
    for client_id, came, time in shown:
        if client_id in accepted:
            at, window = accepted[client_id]
            if time <= window.until:
                took.setdefault(window.kind, []).append(max(0.0, time - max(at, came)))
    return took
