"""Whether sends and arrivals are brought together as TCP would have it."""

from __future__ import annotations

from tests.sim.sample import story
from twisted_im.sim.flights import Wire
from twisted_im.sim.trace import Step


def test_bytes_keep_their_order_however_they_are_cut() -> None:
    """If this fails, an arrow ends where other bytes were read, and whoever looks for a fault looks at the wrong message."""
    steps = [
        Step(1.0, "send", "a", "b", "100 bytes: request LOGIN"),
        Step(1.2, "send", "a", "b", "50 bytes: request MESSAGE"),
        Step(1.3, "arrive", "b", "a", "60 bytes"),
        Step(1.4, "arrive", "b", "a", "90 bytes"),
        Step(1.5, "arrive", "b", "a", "1 byte"),  # which nobody sent
    ]
    wire = Wire(steps)
    assert [(flight.sends, flight.ends) for flight in wire.flights] == [([0], [[2], [3]]), ([1], [[3]])]
    assert not any(flight.lost or flight.late for flight in wire.flights)
    assert wire.part == {0, 1, 2, 3}


def test_what_died_with_a_connection_is_not_found_in_the_next() -> None:
    """If this fails, a lost packet is shown as one that came late, and the packet that did arrive as lost."""
    heartbeat = "14 bytes: PING"
    steps = [
        Step(1.0, "send", "a", "b", heartbeat),
        Step(2.0, "reset", "a", "b", "no answer"),
        Step(3.0, "connect", "a", "b", ""),
        Step(3.1, "accept", "b", "a", ""),
        Step(3.2, "send", "a", "b", heartbeat),
        Step(3.3, "arrive", "b", "a", heartbeat),
        Step(4.0, "send", "a", "b", "9 bytes: BYE"),
        Step(4.1, "kill", "b", "", ""),
        Step(4.2, "start", "b", "", ""),
        Step(4.3, "arrive", "b", "a", "9 bytes: BYE"),  # cannot be: the process that it was for is dead
    ]
    wire = Wire(steps)
    assert [(flight.sends, flight.ends, flight.lost) for flight in wire.flights] == [([0], [], True), ([4], [[5]], False), ([6], [], True)]
    assert wire.answers == {2: 3}


def test_last_bytes_of_an_old_connection_may_come_after_the_next_is_open() -> None:
    """If this fails, the duplicate that a slow network made is shown as the message that was sent again, and the fault cannot be seen."""
    steps = [
        Step(1.0, "send", "a", "b", "58 bytes: request MESSAGE"),
        Step(2.0, "connect", "a", "b", ""),
        Step(2.1, "send", "a", "b", "71 bytes: HELLO"),
        Step(2.2, "arrive", "b", "a", "58 bytes: request MESSAGE"),
        Step(2.3, "arrive", "b", "a", "71 bytes: HELLO"),
    ]
    assert [(flight.sends, flight.ends) for flight in Wire(steps).flights] == [([0], [[3]]), ([2], [[4]])]


def test_what_shares_its_fate_is_one_and_nothing_else_is() -> None:
    """If this fails, a picture of a bulk of bytes is thousands of arrows; or a lost segment hides among those that were read."""
    steps = [Step(1.0, "send", "a", "b", "1448 bytes") for _ in range(6)]
    steps += [Step(1.1, "arrive", "b", "a", "1448 bytes") for _ in range(2)]
    steps += [Step(1.2, "disk", "b", "", "commit")]
    steps += [Step(1.3, "arrive", "b", "a", "1448 bytes") for _ in range(2)]
    wire = Wire(steps)
    assert [(flight.sends, flight.ends, flight.lost) for flight in wire.flights] == [
        ([0, 1], [[6, 7]], False),
        ([2, 3], [[9, 10]], False),
        ([4, 5], [], True),
    ]
    assert [list(flight.edges()) for flight in wire.flights] == [[0, 6, 7], [2, 9, 10], [4]]


def test_story_is_understood() -> None:
    """If this fails, the one message that the network held back, or the one that died with the server, is shown as any other."""
    steps = story()
    flights = Wire(steps).flights
    (late,) = [flight for flight in flights if flight.late]
    assert (steps[late.sends[0]].time, steps[late.ends[0][0]].time) == (5.0, 12.4)
    (lost,) = [flight for flight in flights if flight.lost]
    assert (steps[lost.sends[0]].time, lost.ends) == (20.0, [])
