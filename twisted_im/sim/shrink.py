"""Makes a scenario that fails smaller, until a person can follow it.

Strategy: a `Part` says what is left of a drawn scenario, by number and by name, so it fits on a command line, and whoever reads that draws
the same scenario again and cuts it down in the same way. What is left out changes nothing else of the scenario; that the run then takes
another course is the reason to try each step.

The steps are delta debugging (Zeller, Hildebrandt: "Simplifying and Isolating Failure-Inducing Input", 2002): leave out halves, then
smaller and smaller pieces, for as long as it still fails. Faults first, then how long they last, sendings, devices, groups and the length
of the run; and all that again, for what one step leaves may let another go further.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import TypeVar

from twisted_im.sim.scenario import Fault, Scenario, Sending

T = TypeVar("T")

#: Runs that a shrinking may take.
MOST = 300
#: Seconds below which neither a fault nor a run is made shorter.
SHORTEST = 0.2


@dataclass(frozen=True)
class Part:
    """What is left of a scenario.

    Attributes:
        faults: (number, seconds that it lasts) of each; numbers count from 0, in the order of the scenario, here and below.
        sendings: numbers.
        devices: names.
        groups: numbers.
        seconds: of load and faults.
    """

    faults: tuple[tuple[int, float], ...]
    sendings: tuple[int, ...]
    devices: tuple[str, ...]
    groups: tuple[int, ...]
    seconds: float


def whole(scenario: Scenario) -> Part:
    """All of it."""
    return Part(
        faults=tuple((number, fault.seconds) for number, fault in enumerate(scenario.faults)),
        sendings=tuple(range(len(scenario.sendings))),
        devices=scenario.devices,
        groups=tuple(range(len(scenario.groups))),
        seconds=scenario.seconds,
    )


def narrow(scenario: Scenario, part: Part) -> Scenario:
    """The scenario that consists of a part of another; groups that are left out keep their numbers, without members."""
    part = tidy(scenario, part)
    faults = [replace(scenario.faults[number], seconds=seconds) for number, seconds in part.faults]
    return replace(
        scenario,
        devices=part.devices,
        groups=tuple(_members(scenario, part, number) for number in range(len(scenario.groups))),
        seconds=part.seconds,
        sendings=tuple(scenario.sendings[number] for number in part.sendings),
        faults=tuple(replace(fault, seconds=min(fault.seconds, max(part.seconds - fault.at, 0.05))) for fault in faults),
    )


def tidy(scenario: Scenario, part: Part) -> Part:
    """The same part, without what cannot happen in it: what comes too late, or is about a device that is left out."""
    users = {device.partition("/")[0] for device in part.devices}
    groups = tuple(number for number in part.groups if _members(scenario, part, number))
    sendings = []
    for number in part.sendings:
        sending = scenario.sendings[number]
        known = sending.target in (groups if isinstance(sending.target, int) else users)
        member = not isinstance(sending.target, int) or sending.device.partition("/")[0] in scenario.groups[sending.target]
        if sending.at < part.seconds and sending.device in part.devices and known and member:
            sendings.append(number)
    faults = []
    for number, seconds in part.faults:
        fault = scenario.faults[number]
        if fault.at < part.seconds and set(fault.target.split("+")) <= {"", *scenario.hosts, *part.devices}:
            faults.append((number, seconds))
    return replace(part, faults=tuple(faults), sendings=tuple(sendings), groups=groups)


def _members(scenario: Scenario, part: Part, group: int) -> tuple[str, ...]:
    """Who is left in a group; nobody if it is left out, or has nobody to write to."""
    users = {device.partition("/")[0] for device in part.devices}
    members = tuple(user for user in scenario.groups[group] if user in users)
    return members if group in part.groups and len(members) > 1 else ()


def _nobody(runs: int, part: Part) -> None:
    """Is told."""


def shrink(
    scenario: Scenario, fails: Callable[[Scenario], bool], *, most: int = MOST, told: Callable[[int, Part], object] = _nobody
) -> Part:
    """The smallest part that was found to fail still. The same for the same arguments.

    Args:
        scenario: it fails.
        fails: whether another does, in the same way.
        most: how often that may be asked.
        told: called with the number of runs and what is left, whenever that has become less.
    """
    return _Shrinking(scenario, fails, most, told).go()


class _Shrinking:
    """A search that goes on; `part` is the smallest that fails, so far."""

    def __init__(self, scenario: Scenario, fails: Callable[[Scenario], bool], most: int, told: Callable[[int, Part], object]) -> None:
        self.part = whole(scenario)
        self._scenario = scenario
        self._fails = fails
        self._left = self._most = most
        self._told = told
        self._known = {self.part: True}

    def go(self) -> Part:
        before = None
        while before != self.part and self._left:
            before = self.part
            self._fewer("faults", 0)
            self._shorter_faults()
            self._fewer("sendings", 0)
            self._fewer("devices", 1)
            self._fewer("groups", 0)
            self._shorter_run()
        return self.part

    def _try(self, **smaller: object) -> bool:
        """Whether it fails with less; then that is what is left."""
        part = tidy(self._scenario, replace(self.part, **smaller))  # type: ignore[arg-type]
        if part not in self._known:
            if not self._left:
                return False
            self._left -= 1
            self._known[part] = self._fails(narrow(self._scenario, part))
        if self._known[part] and part != self.part:
            self.part = part
            self._told(self._most - self._left, part)
        return self._known[part]

    def _fewer(self, name: str, least: int) -> None:
        """Leaves out as many of one kind as it can."""
        if len(getattr(self.part, name)) > least == 0 and self._try(**{name: ()}):
            return
        pieces = 2
        while len(items := getattr(self.part, name)) > least:
            size = ceil(len(items) / pieces)
            for start in range(0, len(items), size):
                rest = (*items[:start], *items[start + size :])
                if len(rest) >= least and self._try(**{name: rest}):
                    pieces = max(pieces - 1, 2)
                    break
            else:
                if size == 1:
                    return
                pieces = min(2 * pieces, len(items))

    def _shorter_faults(self) -> None:
        for number in [number for number, _ in self.part.faults]:
            while (seconds := dict(self.part.faults).get(number, 0.0)) > SHORTEST:
                less = round(seconds / 2, 2)
                if not self._try(faults=tuple((each, less if each == number else length) for each, length in self.part.faults)):
                    break

    def _shorter_run(self) -> None:
        """First to what still happens, then by halves and by quarters."""
        ends = [self._scenario.faults[number].at + seconds for number, seconds in self.part.faults]
        ends += [self._scenario.sendings[number].at for number in self.part.sendings]
        needed = round(max(ends, default=0.0) + SHORTEST, 2)
        if needed < self.part.seconds:
            self._try(seconds=needed)
        while self.part.seconds > SHORTEST:
            if not any(self._try(seconds=round(self.part.seconds * share, 2)) for share in (0.5, 0.75, 0.9)):
                return


# ---- on a command line


def words(scenario: Scenario, part: Part) -> list[str]:
    """The options that say which part it is; none for all of it."""
    full, part = whole(scenario), tidy(scenario, part)
    found = []
    if part.devices != full.devices:
        found += ["--devices", ",".join(part.devices)]
    if part.groups != full.groups:
        found += ["--groups", spell(part.groups)]
    if part.seconds != full.seconds:
        found += ["--seconds", f"{part.seconds!r}"]
    if part.faults != full.faults:
        lasting = dict(full.faults)
        each = [f"{number}" if seconds == lasting[number] else f"{number}:{seconds!r}" for number, seconds in part.faults]
        found += ["--faults", ",".join(each) or NONE]
    if part.sendings != full.sendings:
        found += ["--sendings", spell(part.sendings)]
    return found


#: Stands for no faults, sendings or groups at all.
NONE = "none"


def spell(numbers: Sequence[int]) -> str:
    """Rising numbers as "3,7,40-44"; `NONE` if there are none."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][-1] == number - 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs) or NONE


def read_numbers(text: str, count: int) -> tuple[int, ...]:
    """The opposite of `spell`.

    Raises:
        ValueError: it says something else, or there are not so many.
    """
    found: set[int] = set()
    for each in text.split(",") if text != NONE else []:
        low, dash, high = each.partition("-")
        found.update(range(_number(low, count), _number(high if dash else low, count) + 1))
    return tuple(sorted(found))


def read_faults(text: str, scenario: Scenario) -> tuple[tuple[int, float], ...]:
    """Faults by their numbers, each with its own seconds if they are said.

    Raises:
        ValueError: it says something else, or there are not so many.
    """
    found: dict[int, float] = {}
    for each in text.split(",") if text != NONE else []:
        number, colon, seconds = each.partition(":")
        if colon:
            found[_number(number, len(scenario.faults))] = _seconds(seconds)
        else:
            found.update((one, scenario.faults[one].seconds) for one in read_numbers(each, len(scenario.faults)))
    return tuple(sorted(found.items()))


def read_names(text: str, known: Sequence[str]) -> tuple[str, ...]:
    """Names with commas between them, in the order of those that are known.

    Raises:
        ValueError: one is not.
    """
    found = text.split(",")
    for name in found:
        if name not in known:
            raise ValueError(f"takes some of {','.join(known)}, not {name!r}")
    return tuple(name for name in known if name in found)


def _number(text: str, count: int) -> int:
    if not text.isascii() or not text.isdigit():
        raise ValueError(f"takes numbers such as 3,7,40-44, or {NONE}, not {text!r}")
    if int(text) >= count:
        raise ValueError(f"takes numbers below {count} for this seed, not {text}" if count else f"takes {NONE} only for this seed")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0.0 <= seconds <= 3600.0:
        raise ValueError(f"takes seconds after the colon, such as 3:1.5, not {text!r}")
    return seconds


def story(scenario: Scenario, part: Part) -> list[str]:
    """What is left, in the order in which it happens: a line for each fault, and for the sendings between two faults."""
    left = narrow(scenario, part)
    lines = [str(left)]
    happens: list[Fault | Sending] = sorted([*left.faults, *left.sendings], key=lambda each: each.at)
    devices: dict[str, int] = {}
    first = 0.0

    def sent() -> list[str]:
        if not devices:
            return []
        told = ", ".join(f"{device} {count}" for device, count in devices.items())
        return [f"{first:9.3f} s  {sum(devices.values())} messages, from {told}"]

    for each in happens:
        if isinstance(each, Sending):
            if not devices:
                first = each.at
            devices[each.device] = devices.get(each.device, 0) + 1
        else:
            lines += [*sent(), f"{each.at:9.3f} s  {each}"]
            devices = {}
    return [*lines, *sent()]
