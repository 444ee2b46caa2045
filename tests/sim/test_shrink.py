"""Making a failing scenario smaller: how small it becomes, and whether the command line says the same scenario again."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from twisted_im.sim.__main__ import parser, read_part
from twisted_im.sim.scenario import Scenario, draw
from twisted_im.sim.shrink import Part, narrow, read_faults, read_numbers, shrink, spell, story, tidy, whole, words


def busy() -> Scenario:
    """The first scenario with enough of everything."""
    drawn = (draw(seed) for seed in range(1000))
    return next(each for each in drawn if len(lasting(each)) >= 6 and len(each.groups) == 2 and len(each.sendings) > 200)


def lasting(scenario: Scenario) -> list[int]:
    """The numbers of those faults that last for some seconds."""
    return [number for number, fault in enumerate(scenario.faults) if fault.seconds > 3.0]


def test_two_faults_and_a_message_are_left() -> None:
    """If this fails, whoever looks at a violation has to read hundreds of messages and a dozen faults that have nothing to do with it."""
    scenario = busy()
    long = lasting(scenario)
    first, second = (scenario.faults[number] for number in (long[0], long[-1]))
    message = scenario.sendings[150]
    asked = 0

    def fails(candidate: Scenario) -> bool:
        nonlocal asked
        asked += 1
        left = {(fault.at, fault.kind): fault.seconds for fault in candidate.faults}
        there = (second.at, second.kind) in left and any(sending.at == message.at for sending in candidate.sendings)
        return there and left.get((first.at, first.kind), 0.0) > 0.5

    assert fails(scenario)
    told: list[int] = []
    part = shrink(scenario, fails, told=lambda runs, part: told.append(runs))
    left = narrow(scenario, part)

    assert asked - 1 <= 300
    assert fails(left)
    assert [number for number, _ in part.faults] == [long[0], long[-1]]
    assert dict(part.faults)[long[0]] <= 1.01
    assert len(part.sendings) == 1
    assert part.groups == () or isinstance(scenario.sendings[part.sendings[0]].target, int)
    needed = {message.device, *(fault.target for fault in (first, second) if fault.target in scenario.devices)}
    assert needed <= set(part.devices)
    assert len(part.devices) <= len(needed) + 1
    assert part.seconds < max(first.at, second.at, message.at) + 3.0
    assert told == sorted(told)
    assert part == shrink(scenario, fails), "another search finds something else"


def test_the_number_of_runs_is_bounded() -> None:
    """If this fails, a violation that comes only now and then is shrunk for hours."""
    chance = random.Random(1)
    asked: list[Scenario] = []
    scenario = busy()
    shrink(scenario, lambda candidate: bool(asked.append(candidate)) or chance.random() < 0.1, most=40)
    assert len(asked) == 40
    assert shrink(scenario, lambda candidate: False) == whole(scenario)


@pytest.mark.parametrize("seed", range(30))
def test_words_say_the_part(seed: int) -> None:
    """If this fails, the command under a violation replays something else."""
    scenario = draw(seed)
    chance = random.Random(seed)
    full = whole(scenario)
    assert narrow(scenario, full) == scenario
    assert words(scenario, full) == []
    part = Part(
        faults=tuple((number, round(seconds / 2, 2) if chance.random() < 0.5 else seconds) for number, seconds in full.faults[::2]),
        sendings=tuple(number for number in full.sendings if chance.random() < 0.7),
        devices=tuple(chance.sample(full.devices, chance.randint(1, len(full.devices)))),
        groups=full.groups[: chance.randint(0, 2)],
        seconds=chance.choice((full.seconds, round(full.seconds / 3, 2))),
    )
    part = replace(part, devices=tuple(device for device in full.devices if device in part.devices))
    asked = parser()
    read = read_part(asked.parse_args(["--seed", str(seed), *words(scenario, part)]), scenario, asked)
    assert read == tidy(scenario, part)
    assert narrow(scenario, read) == narrow(scenario, part)


def test_a_part_is_a_scenario() -> None:
    """If this fails, what is left speaks of devices or groups that are not there, and the run ends in an error of its own."""
    scenario = busy()
    users = ("user0", "user1")
    devices = tuple(device for device in scenario.devices if device.startswith(users))
    left = narrow(scenario, replace(whole(scenario), devices=devices, seconds=10.0))
    assert left.users == users
    assert len(left.groups) == len(scenario.groups)
    assert all(set(members) <= set(users) and len(members) != 1 for members in left.groups)
    assert all(sending.device in devices and sending.at < 10.0 for sending in left.sendings)
    assert all(left.groups[sending.target] if isinstance(sending.target, int) else sending.target in users for sending in left.sendings)
    assert all(fault.target in ("", *scenario.servers, *devices) and fault.at < 10.0 for fault in left.faults)
    assert all(fault.at + fault.seconds <= 10.05 for fault in left.faults)
    told = story(scenario, replace(whole(scenario), devices=devices, seconds=10.0))
    assert sum(int(line.split()[2]) for line in told[1:] if " messages, from " in line) == len(left.sendings)


def test_lists_of_numbers() -> None:
    """If this fails, a list on the command line is taken for another, or a slip of the keys becomes a traceback."""
    assert spell((3, 7, 8, 9, 12)) == "3,7-9,12"
    assert read_numbers("3,7-9,12", 13) == (3, 7, 8, 9, 12)
    assert read_numbers(spell(()), 0) == ()
    for text in ("", "x", "3,", "-1", "4-", "3,13", "²"):
        with pytest.raises(ValueError, match="takes numbers"):
            read_numbers(text, 13)
    for text in ("0:x", "0:-1", "0:nan", "0:"):
        with pytest.raises(ValueError, match="takes seconds"):
            read_faults(text, busy())
