"""Virtual time: what is to happen happens in the order of its times, and what falls on one moment in an order of the seed's."""

from __future__ import annotations

from random import Random

from twisted_im.sim.agenda import Agenda


def order(seed: int) -> list[int]:
    """In which order ten calls of one moment are made."""
    agenda, told = Agenda(Random(seed)), list[int]()
    for number in range(10):
        agenda.at(1.0, None, told.append, number)
    while agenda.step(1.0):
        pass
    return told


def test_one_moment_has_the_order_of_its_seed() -> None:
    """If this fails, a run cannot be repeated, or faults that lie in an order are never found."""
    assert [order(seed) for seed in range(5)] == [order(seed) for seed in range(5)]
    assert len({tuple(order(seed)) for seed in range(20)}) == 20
    assert all(sorted(order(seed)) == list(range(10)) for seed in range(20))


def test_time_goes_forward_only() -> None:
    """If this fails, something in a world happens before what has caused it."""
    agenda, told = Agenda(Random(0)), list[tuple[str, float]]()

    def tell(what: str) -> None:
        told.append((what, agenda.now))

    agenda.at(2.0, None, lambda: agenda.at(1.0, None, tell, "asked for in the past"))
    agenda.at(3.0, None, tell, "later")
    cancelled = agenda.at(1.0, None, tell, "cancelled")
    cancelled.waits = False
    assert agenda.step(2.5)
    assert agenda.step(2.5)
    assert not agenda.step(2.5)
    assert (agenda.now, agenda.done) == (2.5, 2)
    assert agenda.step(3.0)
    assert told == [("asked for in the past", 2.0), ("later", 3.0)]
