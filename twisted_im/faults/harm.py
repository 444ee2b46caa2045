"""What is done to a run: each fault is a coroutine that does harm, makes it good again, and says what was not as it should be.

Strategy: a fault ends when all is whole again but for what the servers and clients have to do themselves; how long they take is the
run's business. What comes and how long it lasts is drawn from the run's chance.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from random import Random
from signal import SIGCONT, SIGSTOP
from typing import Any, NamedTuple

from twisted_im.faults.children import Server
from twisted_im.faults.probes import repeats, twins
from twisted_im.faults.stage import END, START, Node, Stage, Topology

#: Seconds that a killed server is away, at most: whoever supervises it starts it again at once.
DOWN = 2.0

#: Seconds after which another process has the name of one that stands still: a lease lasts six.
OVER = 15.0


class Harm:
    """Who does it.

    Args:
        chance: for what happens.
        every: seconds from fault to fault, on average; most last about as long.
        guests: how many log in at once.
        word: gives what clients are told to do now.
        broke: told what was broken, and how.
        took: told how long something took: its name, and seconds.
        wrong: told in words what was not as it should be.
    """

    def __init__(
        self,
        stage: Stage,
        chance: Random,
        *,
        every: float,
        guests: int,
        word: Callable[[], str],
        broke: Callable[[str, str], object],
        took: Callable[[str, float], object],
        wrong: Callable[[str], object],
    ) -> None:
        self._stage = stage
        self._chance = chance
        self._every = every
        self._guests = guests
        self._word = word
        self._broke = broke
        self._took = took
        self._wrong = wrong

    def _node(self) -> Node:
        return self._chance.choice(self._stage.nodes)

    def _seconds(self, low: float, high: float) -> float:
        """How long something lasts, in shares of `every`."""
        return self._chance.uniform(low, high) * self._every

    @property
    def _addresses(self) -> list[str]:
        """Where the nodes are, without the network in between."""
        return [f"127.0.0.1:{node.process.port}" for node in self._stage.nodes]

    # ---- nodes

    async def kill_node(self) -> None:
        node, seconds = self._node(), min(DOWN, self._seconds(0, 0.5))
        self._broke("server killed", f"{node.name}, back after {seconds:.1f} s")
        await self._stage.kill(node.process)
        await self._stage.pause(seconds)
        await self._stage.start_node(node)

    async def stop_node(self) -> None:
        node, seconds = self._node(), self._seconds(0.1, 1.2)
        self._broke("server stopped", f"{node.name}, for {seconds:.1f} s")
        await self._stage.still(node.process, seconds)

    async def replace_node(self) -> None:
        """It stands still until another process has its name, and wakes."""
        node = self._node()
        old = node.process
        old.excused = True
        second = self._stage.spawn_node(node, "--standby")
        self._broke("server replaced", f"{node.name} stands still, and finds another in its place")
        gone = old.end()
        while not second.port:
            old.signal(SIGSTOP)
            try:
                with suppress(TimeoutError):  # who stands still in the middle of a commit keeps everybody from writing, the next one too
                    await self._stage.until(lambda: second.port, OVER, f"a second {node.name} to listen")
            finally:
                old.signal(SIGCONT)
            await self._stage.pause(self._chance.random() if not second.port else 0)
        await self._stage.takes_over(node, second)
        began = time.monotonic()
        await self._stage.until(lambda: gone.called, END, f"the {node.name} that was replaced to end")
        self._took("a replaced node ends", time.monotonic() - began)
        self._judge_end(old, 1, "another process has become the node")

    async def drain_node(self) -> None:
        node = self._node()
        self._broke("server drained", f"{node.name}: SIGTERM")
        began = time.monotonic()
        await self._stage.stop(node.process)
        self._took("a node is drained", time.monotonic() - began)
        self._judge_end(node.process, 0, "")
        await self._stage.start_node(node)

    async def same_name(self) -> None:
        node = self._node()
        self._broke("name taken twice", f"a second {node.name}")
        second = self._stage.spawn_node(node)
        second.excused = True
        gone = second.end()
        await self._stage.until(lambda: gone.called, START, f"a second {node.name} to give up")
        self._judge_end(second, 1, "another process is the node")

    def _judge_end(self, server: Server, status: int, words: str) -> None:
        """Whether it has ended as it should."""
        said = "; ".join(server.complaints)
        if server.status != status or words not in said:
            self._wrong(f"{server.name} was to end with status {status} and {words!r}, not with {server.status} and {said!r}")

    # ---- clients and their network

    async def stop_clients(self) -> None:
        """A phone that is put to sleep."""
        name, seconds = self._chance.choice(sorted(self._stage.clients)), self._seconds(0, 0.5)
        self._broke("clients stopped", f"{name}, for {seconds:.1f} s")
        await self._stage.still(self._stage.clients[name], seconds)

    async def kill_clients(self) -> None:
        """A phone whose battery goes flat."""
        name, seconds = self._chance.choice(sorted(self._stage.clients)), self._seconds(0, 0.5)
        self._broke("clients killed", f"{name}, back after {seconds:.1f} s")
        await self._stage.kill(self._stage.clients[name])
        await self._stage.pause(seconds)
        self._stage.start_clients(name, self._stage.crews[name], self._word())

    async def harm_network(self) -> None:
        networks = [node.network for node in self._stage.nodes]
        network = self._chance.choice([network for network in networks if network.lanes] or networks)
        way, count = network.harm(self._seconds(0.1, 0.5))
        self._broke(f"connections {way}", f"{count} of {len(network.lanes)}")

    # ---- what nodes find each other by

    async def kill_route(self) -> None:
        seconds = self._seconds(0.5, 1.5)
        self._broke("route server killed", f"back after {seconds:.1f} s")
        await self._stage.kill(self._route)
        await self._stage.pause(seconds)
        await self._stage.start_route()

    async def stop_route(self) -> None:
        seconds = self._seconds(0.5, 1.5)
        self._broke("route server stopped", f"for {seconds:.1f} s")
        await self._stage.still(self._route, seconds)

    @property
    def _route(self) -> Server:
        assert self._stage.route is not None
        return self._stage.route

    @property
    def _redis(self) -> Any:
        assert self._stage.redis is not None
        return self._stage.redis

    async def kill_redis(self) -> None:
        seconds = self._seconds(0.5, 1.5)
        self._broke("redis killed", f"back after {seconds:.1f} s, empty")
        await self._stage.kill(self._redis)
        await self._stage.pause(seconds)
        await self._stage.start_redis()

    async def forget_redis(self) -> None:
        """As a failover to a replica that has not got the last writes."""
        seconds = self._seconds(0.3, 1.0)
        self._broke("redis lost its last", f"{seconds:.1f} s")
        self._stage.tell_redis("SAVE")
        await self._stage.pause(seconds)
        await self._stage.kill(self._redis)
        await self._stage.start_redis(dump=True)

    async def stop_redis(self) -> None:
        seconds = self._seconds(0.5, 1.5)
        self._broke("redis stopped", f"for {seconds:.1f} s")
        await self._stage.still(self._redis, seconds)

    async def slow_redis(self) -> None:
        """Each of its answers takes up to so long."""
        end, pause = time.monotonic() + self._seconds(0.5, 1.5), self._chance.uniform(0.1, 0.8)
        self._broke("redis slow", f"{pause:.1f} s for an answer")
        while time.monotonic() < end:
            await self._stage.still(self._redis, pause)
            await self._stage.pause(0.05)

    async def flush_redis(self) -> None:
        self._broke("redis flushed", "everything")
        self._stage.tell_redis("FLUSHALL")

    async def refuse_redis(self) -> None:
        """It has no memory left for anything."""
        seconds = self._seconds(0.5, 1.5)
        self._broke("redis refuses", f"all writes, for {seconds:.1f} s")
        self._stage.tell_redis("CONFIG SET maxmemory 1")
        await self._stage.pause(seconds)
        self._stage.tell_redis("CONFIG SET maxmemory 0")

    # ---- clients with a task

    async def log_in_twice(self) -> None:
        rounds = self._chance.randint(3, 8)
        self._broke("one device on two nodes", f"{rounds} times")
        longest, wrong = await twins(self._stage.reactor, self._addresses, self._stage.until, rounds=rounds)
        self._took("of two sessions of a device one is left", longest)
        for each in wrong:
            self._wrong(each)

    async def send_again(self) -> None:
        self._broke("one id many times", "from devices on all nodes")
        for each in await repeats(self._stage.reactor, self._addresses, self._stage.until):
            self._wrong(each)

    async def crowd(self) -> None:
        """Many log in while what they are found by, or else a node, is killed and comes back."""
        self._broke("a crowd logs in", f"{self._guests} guests")
        began = time.monotonic()
        guests = self._stage.start_clients("guests", [], self._word(), guests=self._guests)
        few = lambda: guests.tally is not None and guests.tally.online >= self._guests // 10  # noqa: E731
        try:
            await self._stage.until(few, START, "the first guests")
            topology = self._stage.topology
            await (self.kill_route if topology.routes else self.kill_redis if topology.table == "redis" else self.kill_node)()
            await self._stage.until(lambda: guests.stands(self._word(), began), START, "all guests to be in")
            self._took("a crowd is in", time.monotonic() - began)
        except TimeoutError as error:
            self._wrong(str(error))
        del self._stage.clients["guests"], self._stage.crews["guests"]
        await self._stage.stop(guests)


class Kind(NamedTuple):
    """Faults that are asked for by one word."""

    what: str  #: for the help
    faults: tuple[Callable[[Harm], Awaitable[None]], ...]
    needs: Callable[[Topology], bool] = lambda topology: True
    lack: str = ""  #: what to do if that is not there
    quiet: bool = False  #: no application notices anything


def _kept(topology: Topology) -> bool:
    return topology.store != "memory"


def _several(topology: Topology) -> bool:
    return topology.nodes > 1


_KEPT = "needs a store that outlives the server: --store sqlite, or another kind"
_SEVERAL = "needs several nodes: --strategy=broadcast or routed"

#: kind → its faults; R2 and the like are the requirements that it is for
KINDS = {
    "kill": Kind("SIGKILL a node, and start it again", (Harm.kill_node,), _kept, _KEPT),  # R2
    "stop": Kind("stop a node for some seconds (SIGSTOP, SIGCONT)", (Harm.stop_node,)),  # R9
    "replace": Kind("stop a node until another process has its name, and have it go on", (Harm.replace_node,), _kept, _KEPT),  # R9
    "clients": Kind("kill a process full of clients and start it again, or stop it", (Harm.kill_clients, Harm.stop_clients)),
    "network": Kind("cut, delay and reset connections, or let them swallow everything (a pulled cable)", (Harm.harm_network,)),
    "route": Kind(
        "SIGKILL the route server and start it again, or stop it", (Harm.kill_route, Harm.stop_route),  # R3
        lambda topology: topology.routes, "needs a route server: --strategy=broadcast, or routed and --via=route-server", quiet=True,
    ),
    "redis": Kind(
        "Redis is killed, stopped, slow, empty, refuses everything, or has lost its last seconds",  # R4
        (Harm.kill_redis, Harm.stop_redis, Harm.slow_redis, Harm.flush_redis, Harm.refuse_redis, Harm.forget_redis),
        lambda topology: topology.table == "redis", "needs a table there: --strategy=routed --table=redis", quiet=True,
    ),
    "drain": Kind("SIGTERM a node, and start it again", (Harm.drain_node,), _several, _SEVERAL, quiet=True),  # R20
    "twins": Kind("one device logs in on two nodes at once, and again", (Harm.log_in_twice,), _several, _SEVERAL, quiet=True),  # R11
    "repeat": Kind("one client id is sent 1,000 times, on all nodes at once", (Harm.send_again,), _several, _SEVERAL, quiet=True),  # R19
    "name": Kind("a second node with the name of another", (Harm.same_name,), _kept, _KEPT, quiet=True),
    "crowd": Kind("many log in while the route server, Redis or else a node is killed", (Harm.crowd,), _several, _SEVERAL),
}  # fmt: skip
