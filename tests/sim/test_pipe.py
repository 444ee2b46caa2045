"""One direction of a connection: order, bounds and acknowledgements, whatever the link does."""

from __future__ import annotations

from random import Random

import pytest

from twisted_im.sim.agenda import Agenda
from twisted_im.sim.links import RECEIVE_BUFFER, SEND_BUFFER, Links
from twisted_im.sim.pipe import SEGMENT, Pipe
from twisted_im.sim.trace import Trace


class Side:
    """A kernel at one end."""

    def __init__(self, name: str, host: str) -> None:
        self.name, self.host = name, host
        self.gone = self.closed = False
        self.told: list[str] = []

    def readable(self) -> None:
        self.told.append("readable")

    def writable(self) -> None:
        self.told.append("writable")

    def was_reset(self) -> None:
        self.told.append("reset")


def pipe(seed: int) -> tuple[Pipe, Links]:
    """A pipe between two hosts."""
    links = Links(Agenda(Random(seed)), Random(seed), Trace())
    made = Pipe(links)
    made.sender, made.receiver = Side("one", links.join("one")), Side("two", links.join("two"))
    return made, links


def run(links: Links, seconds: float) -> None:
    """Lets time pass."""
    until = links.agenda.now + seconds
    while links.agenda.step(until):
        pass


@pytest.mark.parametrize("seed", range(20))
def test_any_writing_and_reading_over_any_link(seed: int) -> None:
    """If this fails, the simulated network loses, doubles or reorders bytes, holds more than a kernel does, or gets stuck."""
    made, links = pipe(seed)
    chance = Random(seed)
    data = Random(seed).randbytes(400_000)
    sent, got, mends = 0, bytearray(), []
    while len(got) < len(data):
        what = chance.random()
        if what < 0.4:
            sent += made.write(data[sent : sent + chance.randint(0, 50_000)])
        elif what < 0.7:
            got += made.read(chance.choice([1, 1000, 65_536]))
        elif what < 0.75:
            ends = [made.sender.host, made.receiver.host]
            chance.shuffle(ends)
            mends.append(links.partition(*ends))
        elif mends:
            mends.pop()()
        run(links, chance.random() * 0.3)
        assert len(made.inbox) < RECEIVE_BUFFER + SEGMENT
        assert 0 <= made.taken <= sent
        assert sent - made.taken <= SEND_BUFFER
    assert got == data
    for mend in mends:
        mend()
    made.end()
    assert not made.ended
    run(links, 100)
    assert made.ended
    assert made.taken == len(data)


def test_the_end_comes_after_the_last_byte() -> None:
    """If this fails, a reader is told that a stream has ended while bytes of it are on their way."""
    made, links = pipe(1)
    made.write(bytes(20_000))
    made.end()
    while not made.ended:
        assert links.agenda.step(10)
    assert len(made.inbox) == 20_000


def test_nobody_is_there() -> None:
    """If this fails, bytes for a process that has gone are taken."""
    made, links = pipe(1)
    made.receiver.closed = True
    made.write(b"hello")
    run(links, 5)
    assert set(made.sender.told) == {"reset"}
    made.die()
    assert made.write(b"hello") == 0
    run(links, 5)
    assert (made.taken, made.inbox) == (0, b"")
