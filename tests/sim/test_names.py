"""The names of frames in a stream, for traces."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from twisted_im.errors import ImError, Status
from twisted_im.sim.names import Names
from twisted_im.wire.codec import notify, refusal, request
from twisted_im.wire.schema import Command

STREAM = request(Command.PING, 1) + notify(Command.SYNC) * 2 + refusal(Command.MESSAGE, 7, ImError(Status.BUSY)) + request(Command.PING, 2)


@given(st.lists(st.integers(1, len(STREAM) - 1)))
def test_frames_are_named_once_however_the_stream_is_cut(cuts: list[int]) -> None:
    """If this fails, a trace shows frames twice, or hides them, and whoever reads it looks for a fault that is not there."""
    edges = [0, *sorted(cuts), len(STREAM)]
    names = Names()
    found = [names.of(STREAM[start:end]) for start, end in pairwise(edges)]
    words = [name for each in found if each for name in each.split(", ")]
    counts: dict[str, int] = {}
    for word in words:
        number, _, rest = word.partition(" ") if word[0].isdigit() else ("1", "", word)
        counts[rest] = counts.get(rest, 0) + int(number)
    assert counts == {"request PING": 2, "notify SYNC": 2, "response MESSAGE refused": 1}


@given(st.binary(min_size=16))
def test_other_protocols_are_left_alone(data: bytes) -> None:
    """If this fails, a trace of somebody's own program on the simulator ends in a traceback, or is full of nonsense."""
    names = Names()
    assert isinstance(names.of(data), str)
    assert Names().of(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" * 3) == ""
