"""Worlds: equal for equal seeds, clocks that run apart, and programs whose errors are not lost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from twisted.application.service import Service

from twisted_im.sim.world import GENESIS, Process, World


class Quiet(Service):
    """A program that does nothing."""


class Broken(Service):
    """A program that cannot start."""

    def startService(self) -> None:
        raise ValueError("no such colour")


def idle(process: Process) -> Quiet:
    """Makes one."""
    return Quiet()


def digest(seed: int) -> str:
    """Of a small conversation."""
    world, got = World(seed), list[Any]()
    world.server()
    alice = world.client("alice")
    world.client("bob", on_message=got.append)
    world.run_for(2)
    alice.send("bob", "hello")
    world.cut("bob", "server")
    world.run_until(lambda: got)
    assert got[0].text == "hello"
    assert not world.errors
    return world.trace.digest


def test_a_seed_is_a_run() -> None:
    """If this fails, a fault that was found once cannot be found again; or all runs are one."""
    assert [digest(seed) for seed in range(3)] == [digest(seed) for seed in range(3)]
    assert len({digest(seed) for seed in range(5)}) == 5


def test_each_purpose_has_its_chance() -> None:
    """If this fails, a run with one more device is another run altogether, and nothing can be left out of a scenario to make it smaller."""
    one, other = World(1), World(1)
    for _ in range(100):
        other.chance("network").random()
        other.links.chance.random()
    other.process("more", idle)
    assert one.chance("disk").random() == other.chance("disk").random() != one.chance("order").random()
    machines = [world.process("same", idle).machine for world in (one, other)]
    assert machines[0].offset == machines[1].offset
    assert World(2).chance("disk").random() != World(1).chance("disk").random()


def test_clocks_run_apart() -> None:
    """If this fails, no run finds what a slow clock, or one that begins anywhere, does to a lease or a heartbeat."""
    world = World(3)
    slow, fast = world.process("slow", idle), world.process("fast", idle)
    for process, rate in ((slow, 0.5), (fast, 2.0)):
        process.kill()
        process.machine.rate = rate
        process.start()
    told: list[tuple[str, float]] = []
    begun = {process.name: process.clock() for process in (slow, fast)}
    for process in (slow, fast):
        process.reactor.callLater(10, lambda name=process.name: told.append((name, world.now)))
    world.run_for(30)
    assert [(name, round(at, 6)) for name, at in told] == [("fast", 5.0), ("slow", 20.0)]
    assert slow.clock() - begun["slow"] == pytest.approx(15.0)
    assert fast.clock() - begun["fast"] == pytest.approx(60.0)
    assert begun["slow"] != begun["fast"]
    assert slow.wall() == pytest.approx(GENESIS + 30, abs=1)
    slow.machine.ahead += 3600
    assert slow.wall() - fast.wall() == pytest.approx(3600, abs=2)


def test_what_a_stopped_process_misses_comes_late_and_in_order() -> None:
    """If this fails, a process that was stopped for a while meets its timers in an order that no process does."""
    for seed in range(10):
        world = World(seed)
        process, told = world.process("sleeper", idle), list[tuple[int, float]]()

        def tell(number: int, told: list[tuple[int, float]] = told, world: World = world) -> None:
            told.append((number, world.now))

        for number in range(1, 6):
            process.reactor.callLater(number, tell, number)
        gone = process.reactor.callLater(2.5, told.append, (0, 0.0))
        world.run_for(1.5)
        process.freeze()
        gone.cancel()
        world.run_for(3.0)
        assert repr(process) == "<process sleeper, is frozen, run 1>"
        assert [number for number, _ in told] == [1]
        process.thaw()
        world.run_for(10)
        assert [number for number, _ in told] == [1, 2, 3, 4, 5]
        assert all(4.5 <= at < 4.6 for number, at in told if number in (2, 3, 4))
        process.freeze()
        process.kill()
        process.thaw()
        world.run_for(1)
        assert repr(process.reactor) == "<reactor of sleeper, ended, 0 timers>"


def test_an_error_is_not_lost() -> None:
    """If this fails, a test whose program could not start waits until its limit, and says nothing."""
    world = World()
    world.process("painter", lambda process: Broken())
    with pytest.raises(TimeoutError) as raised:
        world.run_until(lambda: False, limit=5)
    assert str(raised.value).startswith("not so after 5 simulated seconds (seed 0); the last errors:\n")
    assert len(world.errors) == 1
    assert "painter" in world.errors[0]
    assert "ValueError: no such colour" in str(raised.value)
    with pytest.raises(TimeoutError, match=r"^not so after 1 simulated seconds \(seed 0\)$"):
        World().run_until(lambda: False, limit=1)


def test_a_server_that_does_not_start_says_why() -> None:
    """If this fails, a test of one's own server waits until its limit, and says nothing."""
    world = World()
    world.server("one", listen=["tcp:7777", "tcp:7777"])
    with pytest.raises(TimeoutError, match=r"one: not started: .*7777"):
        world.run_until(lambda: False, limit=5)


def test_an_error_of_a_callback_is_not_lost() -> None:
    """If this fails, a test whose own code has failed waits until its limit, and says nothing."""

    def broken(message: object) -> None:
        raise ValueError("cannot show it")

    world = World()
    world.server()
    alice = world.client("alice")
    world.client("bob", on_message=broken)
    world.run_for(2)
    alice.send("bob", "hello")
    with pytest.raises(TimeoutError, match=r"bob: .*ValueError: cannot show it"):
        world.run_until(lambda: False, limit=10)


def test_a_process_lives_again() -> None:
    """If this fails, a supervisor starts nothing again, or starts what was killed."""
    world, ran = World(), list[int]()

    def program(process: Process) -> Quiet:
        ran.append(process.runs)
        process.reactor.callLater(3, process.reactor.stop)
        process.on_over.append(lambda killed: ran.append(-int(killed)))
        return Quiet()

    process = world.process("server", program, again=2.0)
    world.run_for(11)
    assert ran == [1, 0, 2, 0, 3]
    process.kill()
    world.run_for(10)
    assert ran == [1, 0, 2, 0, 3, -1]
    assert not process.alive
    with pytest.raises(ValueError, match=r"'server'"):
        world.process("server", program)


def test_a_timer_that_is_left_is_seen() -> None:
    """If this fails, a program that leaves something running when it stops is not found."""

    def later(what: str) -> None:
        """Never comes."""

    def program(process: Process) -> Quiet:
        process.reactor.callLater(100, later, "with an argument")
        return Quiet()

    world = World()
    process = world.process("forgetful", program)
    process.stop()
    world.run_for(1)
    assert not process.alive
    assert len(world.leaks) == 1
    assert world.leaks[0].startswith("forgetful left a timer: <test_a_timer_that_is_left_is_seen.<locals>.later in 100.000 s>")


def test_power_comes_back() -> None:
    """If this fails, a machine that was switched on again stays empty, or one without power runs."""
    world = World()
    first, second = world.process("first", idle, machine="rack"), world.process("second", idle, machine="rack")
    world.power_off("rack")
    first.start()
    assert (first.alive, second.alive) == (False, False)
    world.power_on("rack")
    assert (first.runs, second.runs) == (2, 2)
    assert first.machine is second.machine


def test_what_a_timer_says() -> None:
    """If this fails, who looks at a world's timers sees addresses of objects."""
    world = World()
    reactor = world.process("one", idle).reactor
    calls: list[Callable[[], object]] = [reactor.callLater(2, print, "x"), reactor.callLater(2, Quiet().stopService)]
    assert [repr(call) for call in calls] == ["<print in 2.000 s>", "<Service.stopService in 2.000 s>"]
    calls[0].cancel()  # type: ignore[attr-defined]  # they are timers
    world.run_for(3)
    assert [repr(call) for call in calls] == ["<print, cancelled>", "<Service.stopService, called>"]
