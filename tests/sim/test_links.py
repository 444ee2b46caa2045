"""Links: how long they take, and how they are broken and mended."""

from __future__ import annotations

from random import Random

from twisted_im.sim.agenda import Agenda
from twisted_im.sim.links import Links
from twisted_im.sim.trace import Trace


def links(seed: int = 0) -> Links:
    """Links of a new world, with two hosts."""
    made = Links(Agenda(Random(seed)), Random(seed), Trace())
    assert [made.join("one"), made.join("two")] == ["10.0.0.1", "10.0.0.2"]
    return made


def test_latencies() -> None:
    """If this fails, a scenario's latencies are not what its runs have."""
    these = links()
    these.latencies = 0.01, 0.02
    there = [these.latency("10.0.0.1", "10.0.0.2") for _ in range(200)]
    back = [these.latency("10.0.0.2", "10.0.0.1") for _ in range(200)]
    assert all(0.01 <= each <= 0.02 * 11 for each in there + back)
    assert sorted(there)[100] != sorted(back)[100], "each direction has its own"
    assert max(there) > 1.5 * min(there), "a few are late"
    mend = these.clog("10.0.0.1", "10.0.0.2", 100.0)
    assert min(these.latency("10.0.0.1", "10.0.0.2") for _ in range(20)) >= 1.0
    mend()
    assert these.latency("10.0.0.1", "10.0.0.2") < 1.0


def test_breaks_nest() -> None:
    """If this fails, the end of one fault ends another that is still meant to go on."""
    these = links()
    first, second = these.partition("10.0.0.1", "10.0.0.2"), these.partition("10.0.0.1", "10.0.0.2")
    assert not these.carries("10.0.0.1", "10.0.0.2")
    assert these.carries("10.0.0.2", "10.0.0.1")
    first()
    assert not these.carries("10.0.0.1", "10.0.0.2")
    second()
    assert these.carries("10.0.0.1", "10.0.0.2")
    these.dark["10.0.0.2"] = None
    assert not these.carries("10.0.0.1", "10.0.0.2")
    assert not these.carries("10.0.0.2", "10.0.0.1")


def test_names() -> None:
    """If this fails, a trace names the wrong process."""
    these = links()
    assert (these.name_of("10.0.0.2"), these.name_of("10.9.9.9")) == ("two", "10.9.9.9")
    assert (these.address_of("two"), these.address_of("three")) == ("10.0.0.2", "")
    for number in range(300):
        these.join(str(number))
    assert these.name_of(these.address_of("299")) == "299"
