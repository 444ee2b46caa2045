"""Who breaks things: each kind of fault, what it does to a run, and how it is mended.

Strategy: a function for each kind gives what mends it. Faults may overlap and meet each other: a process that is dead already is not killed
again, and what one fault has mended is not broken by the end of another.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from twisted_im.sim.scenario import Fault

if TYPE_CHECKING:
    from twisted_im.sim.disk import SimDisk
    from twisted_im.sim.world import Process, World

Mend = Callable[[], object]

#: Seconds by which a wall clock jumps, at most; all of a run the same way, since a client may have the time of any server, as it was at its
#: last login. Client ids may be an hour ahead (`twisted_im.server.interfaces.AHEAD`), and a client's own clock is off by a moment too.
CLOCK_STEP = 3500.0


class Victim(Protocol):
    """What faults are done to.

    Attributes:
        servers: the nodes' processes.
        hosts: these, the route servers', and those of each Redis.
        devices: "user/device" → its process.
    """

    world: World
    disk: SimDisk
    servers: dict[str, Process]
    hosts: dict[str, Process]
    devices: dict[str, Process]

    def twin(self, device: str) -> Process:
        """A new process that logs in as a device that there is already."""


def _nothing() -> None:
    """There is nothing to be mended."""


def _kill(run: Victim, fault: Fault) -> Mend:
    run.hosts[fault.target].kill()
    return run.hosts[fault.target].start


def _power(run: Victim, fault: Fault) -> Mend:
    machine = run.hosts[fault.target].machine.name
    run.world.power_off(machine)
    return lambda: run.world.power_on(machine)


def _freeze(run: Victim, fault: Fault) -> Mend:
    run.hosts[fault.target].freeze()
    return run.hosts[fault.target].thaw


def _stop(run: Victim, fault: Fault) -> Mend:
    process = run.hosts[fault.target]
    process.stop()
    return process.start


def _app(run: Victim, fault: Fault) -> Mend:
    process = run.devices[fault.target]
    process.kill(power=fault.amount < 0.3)
    return process.start


def _doze(run: Victim, fault: Fault) -> Mend:
    run.devices[fault.target].freeze()
    return run.devices[fault.target].thaw


def _away(run: Victim, fault: Fault) -> Mend:
    run.devices[fault.target].stop()
    return run.devices[fault.target].start


def _twin(run: Victim, fault: Fault) -> Mend:
    return run.twin(fault.target).kill


def _cut(run: Victim, fault: Fault) -> Mend:
    for server in run.servers:
        run.world.cut(run.devices[fault.target].name, server)
    return _nothing


def _links(run: Victim, fault: Fault, *ways: tuple[bool, bool]) -> Mend:
    """Breaks directions between a device and all servers: (from the device?, from the servers?)."""
    device = run.devices[fault.target].host
    mends = []
    for server in run.servers.values():
        for up, down in ways:
            if up:
                mends.append(run.world.links.partition(device, server.host))
            if down:
                mends.append(run.world.links.partition(server.host, device))
    return lambda: [mend() for mend in mends]


def _part(run: Victim, fault: Fault) -> Mend:
    return _links(run, fault, (True, True))


def _deaf(run: Victim, fault: Fault) -> Mend:
    return _links(run, fault, (False, True))


def _mute(run: Victim, fault: Fault) -> Mend:
    return _links(run, fault, (True, False))


def _clog(run: Victim, fault: Fault) -> Mend:
    device = run.devices[fault.target].host
    factor = 10.0 ** (1 + 2 * fault.amount)
    mends = []
    for server in run.servers.values():
        mends += [run.world.links.clog(device, server.host, factor), run.world.links.clog(server.host, device, factor)]
    return lambda: [mend() for mend in mends]


def _refuse(run: Victim, fault: Fault) -> Mend:
    host, refusing = run.hosts[fault.target].host, run.world.links.refusing
    refusing[host] = refusing.get(host, 0) + 1

    def mend() -> None:
        refusing[host] -= 1
        if not refusing[host]:
            del refusing[host]

    return mend


def _slow(run: Victim, fault: Fault) -> Mend:
    host, slow = run.devices[fault.target].host, run.world.links.slow
    slow[host] = 0.05 + fault.amount, 64
    return lambda: slow.pop(host, None)


def _split(run: Victim, fault: Fault) -> Mend:
    one, _, other = fault.target.partition("+")
    return run.world.partition(one, other, one_way=fault.kind == "leak")


def _flush(run: Victim, fault: Fault) -> Mend:
    redis = run.hosts[fault.target]
    if redis.alive:
        redis.service.flush()
    return _nothing


def _fail_over(run: Victim, fault: Fault) -> Mend:
    redis = run.hosts[fault.target]
    if redis.alive:
        redis.service.fail_over(2.0 * fault.amount)
    return _nothing


def _late(run: Victim, fault: Fault) -> Mend:
    redis = run.hosts[fault.target].service
    if redis is None:
        return _nothing
    redis.delay = 2.0 * fault.amount**2  # mostly of those that are waited for

    def mend() -> None:
        redis.delay = 0.0

    return mend


def _deny(run: Victim, fault: Fault) -> Mend:
    redis = run.hosts[fault.target].service
    if redis is None:
        return _nothing
    redis.refusal = b"LOADING Redis is loading the dataset in memory"

    def mend() -> None:
        redis.refusal = b""

    return mend


def _lag(run: Victim, fault: Fault) -> Mend:
    one, _, other = fault.target.partition("+")
    return run.world.clog(one, other, 10.0 ** (1 + 2 * fault.amount))


def _trouble(trouble: str) -> Callable[[Victim, Fault], Mend]:
    def begin(run: Victim, fault: Fault) -> Mend:
        run.disk.trouble = trouble

        def mend() -> None:
            if run.disk.trouble == trouble:
                run.disk.trouble = ""

        return mend

    return begin


def _clock(run: Victim, fault: Fault) -> Mend:
    machine = run.hosts[fault.target].machine
    way = 1.0 if run.world.chance("clock").random() < 0.5 else -1.0
    step = way * fault.amount * CLOCK_STEP
    machine.ahead += step - machine.stepped  # in place of another one: together they could be more than ids may be off
    machine.stepped = step

    def mend() -> None:
        if machine.stepped == step:
            machine.ahead -= step
            machine.stepped = 0.0

    return mend


_KINDS: dict[str, Callable[[Any, Fault], Mend]] = {
    "kill": _kill,
    "power": _power,
    "freeze": _freeze,
    "stop": _stop,
    "app": _app,
    "doze": _doze,
    "away": _away,
    "twin": _twin,
    "cut": _cut,
    "part": _part,
    "deaf": _deaf,
    "mute": _mute,
    "clog": _clog,
    "refuse": _refuse,
    "slow": _slow,
    "full": _trouble("full"),
    "disk": _trouble("slow"),
    "error": _trouble("error"),
    "lost": _trouble("lost"),
    "clock": _clock,
    "split": _split,
    "leak": _split,
    "lag": _lag,
    "flush": _flush,
    "failover": _fail_over,
    "late": _late,
    "deny": _deny,
}


def begin(run: Victim, fault: Fault) -> Mend:
    """Breaks something; call what is given to mend it."""
    return _KINDS[fault.kind](run, fault)
