"""Times that are measured in a run: which showings count, and what is too late."""

from __future__ import annotations

from pathlib import Path

from msgspec.json import encode

from twisted_im.faults.run import Outcome
from twisted_im.faults.timing import Window, deliveries
from twisted_im.oracle import Accepted, Event, Shown, Started


def shown(client_id: str, time: float) -> Event:
    return Shown(time=time, user="bob", device="phone", conversation=1, seq=1, client_id=client_id, sender="ann")


def test_what_counts(tmp_path: Path) -> None:
    """If this fails, a Redis that makes everybody wait is called quick, or a device that was away makes it look slow."""
    ann = [Accepted(time=time, client_id=f"at {time:g}", conversation=1, seq=1) for time in (9, 11, 12, 14, 18, 19.5)]
    bob: list[Event] = [
        Started(time=0, user="bob", device="phone"),
        shown("at 9", 11),  # accepted before it
        shown("at 11", 10.9),  # the sender was told later than the receiver
        shown("at 12", 15),
        Started(time=20, user="bob", device="phone"),
        shown("at 14", 20.5),  # it was away
        shown("at 18", 31),  # something else came in between
        shown("at 19.5", 29),
    ]
    for name, events in (("ann", ann), ("bob", bob)):
        (tmp_path / name).write_bytes(b"".join(encode(event) + b"\n" for event in events))
    took = deliveries(sorted(tmp_path.iterdir()), [Window("redis", 10, 20, 30), Window("route", 40, 50, 60)])
    assert took == {"redis": [0, 3, 0.5, 9]}


def test_what_is_late() -> None:
    """If this fails, a promise of time is broken and the run is called good."""
    outcome = Outcome()
    for name, seconds in (("redis: messages shown", 10.0), ("a crowd is in", 1000.0)):
        outcome.add(name, seconds)
    assert outcome.good
    outcome.add("redis: messages shown", 10.1)
    assert outcome.late == ["redis: messages shown"]
    assert not outcome.good
