"""What is going to be tried: who there is, what they do, and what is broken meanwhile. Drawn from a seed, before anything runs.

Strategy: a scenario is plain data, so it can be printed, compared, and made smaller: a fault that is left out changes no other one. Every
fault says how long it lasts, and none outlasts the run.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from twisted_im.routing.link import LINK_WINDOW
from twisted_im.sim.links import RECEIVE_BUFFER, SEND_BUFFER

#: How the servers stand to each other.
TOPOLOGIES = {
    "one": "one node",
    "standby": "two processes of one node on one store: one serves, the other waits for its end",
    "broadcast": "a cluster: route servers copy everything to every node",
    "star": "a cluster: route servers have the route table",
    "mesh": "a cluster: nodes have the route table, and send to each other",
    "mesh-redis": "a cluster: a Redis or two have the route table, and nodes send to each other",
}
#: Topologies of several nodes.
CLUSTERS = ("broadcast", "star", "mesh", "mesh-redis")

#: kind of a fault → what it does, and the seconds that it may last
FAULTS: dict[str, tuple[str, float, float]] = {
    "kill": ("a server process is killed, and started again", 0.5, 10.0),
    "power": ("a server's machine loses its power, and comes back", 2.0, 15.0),
    "freeze": ("a server process is stopped for a while (SIGSTOP)", 0.5, 20.0),
    "stop": ("a server process is asked to end (SIGTERM), and started again", 0.5, 5.0),
    "app": ("a device's process is killed, and started again", 0.2, 8.0),
    "doze": ("a device's process is stopped for a while", 1.0, 20.0),
    "away": ("a device goes offline in good order, and comes back", 0.2, 10.0),
    "twin": ("another process logs in as the same device", 0.5, 10.0),
    "cut": ("the connections of a device are broken", 0.0, 0.0),
    "part": ("nothing gets through between a device and the servers", 0.5, 15.0),
    "deaf": ("nothing gets from the servers to a device", 0.5, 15.0),
    "mute": ("nothing gets from a device to the servers", 0.5, 15.0),
    "clog": ("the network between a device and the servers is slow", 2.0, 15.0),
    "refuse": ("a server's machine refuses connections", 0.5, 8.0),
    "slow": ("a device reads a few bytes at a time", 2.0, 15.0),
    "full": ("the disk is full", 0.2, 6.0),
    "disk": ("the disk is slow", 1.0, 8.0),
    "error": ("the disk fails, and what was being written is not kept", 0.1, 3.0),
    "lost": ("the disk fails after it has kept what was being written", 0.1, 3.0),
    "clock": ("the wall clock of a server's machine jumps by up to an hour", 1.0, 20.0),
    "split": ("nothing gets through between two servers of a cluster", 0.5, 20.0),
    "leak": ("nothing gets from one server of a cluster to another, but all that it sends back", 0.5, 20.0),
    "lag": ("the network between two servers of a cluster is slow", 2.0, 15.0),
    "flush": ("a Redis is emptied", 0.0, 0.0),
    "failover": ("a replica takes the place of a Redis, and has not got its last moments", 0.0, 0.0),
    "late": ("a Redis takes its time for each answer, up to two seconds", 0.5, 15.0),
    "deny": ("a Redis answers each question with an error", 0.5, 8.0),
}
#: Kinds that are done to a server's process or its machine, to two of them, and to a Redis, which is a server too.
_TO_A_SERVER = ("kill", "power", "freeze", "stop", "refuse", "clock")
_TO_TWO = ("split", "leak", "lag")
_TO_A_REDIS = ("flush", "failover", "late", "deny")


@dataclass(frozen=True)
class Fault:
    """One thing that is broken.

    Attributes:
        at: seconds from the beginning of the load.
        kind: a key of `FAULTS`.
        target: a process, or two with a + between them; empty where there is nothing to choose.
        seconds: until it is mended.
        amount: how much; what that means is the kind's own.
    """

    at: float
    kind: str
    target: str
    seconds: float
    amount: float

    def __str__(self) -> str:
        return f"{self.kind} {self.target}".rstrip() + (f" for {self.seconds:.1f} s" if self.seconds else "")


@dataclass(frozen=True)
class Sending:
    """One message: `target` is a user, or a group by its number (from 0)."""

    at: float
    device: str
    target: str | int


@dataclass(frozen=True)
class Scenario:
    """One run.

    Attributes:
        topology: a key of `TOPOLOGIES`.
        servers: the processes of nodes.
        route_servers: those of route servers; in a cluster that wants some and has none, each node runs one.
        redises: those of the Redis servers that have the route table.
        store: "model" or "sqlite".
        devices: "user/device" of each.
        groups: the users of each.
        seconds: of load and faults.
        catch_up: see `Client`; a device far behind then passes over what it reads later.
        latencies: (lowest, highest) of the network's links, in seconds.
        buffers: see `Links`; small ones are full at once when somebody does not read.
        taking: seconds that an application takes for a message, on average; 0 if it shows it at once.
        link_window: see `Limits`: what is in flight between two servers before one cuts their link.
    """

    seed: int
    topology: str
    servers: tuple[str, ...]
    route_servers: tuple[str, ...]
    redises: tuple[str, ...]
    store: str
    devices: tuple[str, ...]
    groups: tuple[tuple[str, ...], ...]
    seconds: float
    catch_up: int | None
    latencies: tuple[float, float]
    buffers: tuple[int, int]
    taking: float
    link_window: int
    sendings: tuple[Sending, ...]
    faults: tuple[Fault, ...]

    @property
    def hosts(self) -> tuple[str, ...]:
        """All processes but the devices'."""
        return (*self.servers, *self.route_servers, *self.redises)

    @property
    def users(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(device.partition("/")[0] for device in self.devices))

    def __str__(self) -> str:
        groups = f", {len(self.groups)} groups" if self.groups else ""
        return (
            f"seed {self.seed}: {self._nodes()}, {self.store} store, {len(self.users)} users,"
            f" {len(self.devices)} devices{groups}, {len(self.sendings)} messages and {len(self.faults)} faults in {self.seconds:.0f} s"
        )

    def _nodes(self) -> str:
        if self.topology not in CLUSTERS:
            return TOPOLOGIES[self.topology].partition(":")[0]
        route_servers = f", {len(self.route_servers)} route servers" if self.route_servers else ""
        redises = f", {len(self.redises)} Redis" if self.redises else ""
        return f"{len(self.servers)} nodes ({self.topology}{route_servers}{redises})"


def draw(seed: int, *, seconds: float | None = None) -> Scenario:
    """The scenario of a seed.

    Args:
        seconds: of load and faults; by default drawn too.
    """
    chance = Random(f"{seed} scenario")
    topology = chance.choice(tuple(TOPOLOGIES))
    store = chance.choice(("model", "model", "sqlite"))
    users = [f"user{number}" for number in range(chance.randint(2, 5))]
    devices = [f"{user}/{name}" for user in users for name in ("phone", "laptop", "tablet")[: chance.choice((1, 1, 2, 3))]]
    groups = tuple(
        tuple(chance.sample(users, chance.randint(2, len(users)))) for _ in range(chance.choice((0, 1, 1, 2)) if len(users) > 2 else 0)
    )
    if seconds is None:
        seconds = chance.uniform(20.0, 60.0)
    low = chance.choice((0.0001, 0.001, 0.02))
    usual = SEND_BUFFER, RECEIVE_BUFFER
    scenario = Scenario(
        seed=seed,
        topology=topology,
        servers=_servers(topology, chance),
        route_servers=tuple(f"route{number}" for number in range(chance.choice((0, 1, 2)) if topology in ("broadcast", "star") else 0)),
        redises=tuple(f"redis{number}" for number in range(chance.choice((1, 2)) if topology == "mesh-redis" else 0)),
        store=store,
        devices=tuple(devices),
        groups=groups,
        seconds=seconds,
        catch_up=chance.choice((None, None, 3, 20)),
        latencies=(low, low * chance.choice((1.0, 10.0))),
        buffers=chance.choice((usual, usual, (2 * 1024, 4 * 1024))),
        taking=chance.choice((0.0, 0.0, 0.03, 0.06)),
        link_window=chance.choice((LINK_WINDOW, LINK_WINDOW, 16)),
        sendings=tuple(_sendings(chance, users, devices, groups, seconds)),
        faults=(),
    )
    return _with_faults(scenario, chance)


def _servers(topology: str, chance: Random) -> tuple[str, ...]:
    if topology in CLUSTERS:
        return tuple(f"node{number}" for number in range(chance.choice((2, 2, 3, 4))))
    return ("server",) if topology == "one" else ("first", "second")


def _sendings(chance: Random, users: list[str], devices: list[str], groups: tuple[tuple[str, ...], ...], seconds: float) -> list[Sending]:
    """Each device sends at its own pace; some in bursts. Where little is said, nothing follows what was lost, and brings it to light."""
    paces = chance.choice(((0.1, 0.3, 1.0, 3.0), (0.03, 0.1)))
    found = []
    for device in devices:
        user = device.partition("/")[0]
        targets: list[str | int] = [other for other in users if other != user]
        targets += [number for number, members in enumerate(groups) if user in members]
        pace = chance.choice(paces)
        at = chance.expovariate(pace)
        while at < seconds:
            target = chance.choice(targets)
            found.append(Sending(at, device, target))
            for _ in range(0 if chance.random() < 0.9 else chance.randint(1, 11)):
                at += chance.expovariate(50.0)
                found.append(Sending(at, device, target))
            at += chance.expovariate(pace)
    return sorted((sending for sending in found if sending.at < seconds), key=lambda sending: sending.at)


def _with_faults(scenario: Scenario, chance: Random) -> Scenario:
    """A few kinds of faults, several times each: what breaks things is one kind on top of another."""
    out = (() if scenario.topology in CLUSTERS else _TO_TWO) + (() if scenario.redises else _TO_A_REDIS)
    possible = [kind for kind in sorted(FAULTS) if kind not in out]
    kinds = chance.sample(possible, chance.randint(1, 6))
    for often, there in ((_TO_TWO, scenario.topology in CLUSTERS), (_TO_A_REDIS, scenario.redises)):
        if there and chance.random() < 0.5:
            kinds.append(chance.choice(often))  # what makes these servers a cluster is to be broken in most of the runs
    faults = []
    for _ in range(chance.randint(1, max(3, int(scenario.seconds / 3)))):
        kind = chance.choice(kinds)
        _, low, high = FAULTS[kind]
        at = chance.uniform(0.0, scenario.seconds)
        seconds = min(chance.uniform(low, high), max(scenario.seconds - at, 0.05))
        faults.append(Fault(at, kind, _target(kind, scenario, chance), seconds if high else 0.0, chance.random()))
    return Scenario(**{**vars(scenario), "faults": tuple(sorted(faults, key=lambda fault: fault.at))})


def _target(kind: str, scenario: Scenario, chance: Random) -> str:
    if kind in _TO_A_SERVER:
        return chance.choice(scenario.hosts)
    if kind in _TO_A_REDIS:
        return chance.choice(scenario.redises)
    if kind in _TO_TWO:
        node = chance.choice(scenario.servers)  # the others have nothing to say to each other
        two = [node, chance.choice([name for name in scenario.hosts if name != node])]
        chance.shuffle(two)
        return "+".join(two)
    if kind in ("full", "disk", "error", "lost"):
        return ""
    return chance.choice(scenario.devices)
