"""The stage of a run: which servers there are, how each process is started, and how all of them end.

Strategy: every process is started as an operator would: `twistd im`, `twistd im route`, `redis-server`. Clients know all nodes, each by a
stretch of network that can be harmed, and nodes send them to each other by the same ways. Nothing is waited for by sleeping: processes say
how they stand. Whatever ends the run, `close` ends every process; those that outlive even that, because this process was killed, are ended
by the kernel (`leash`).

    clients-1 ┐    ┌─ network ── node-1 ┐
    clients-2 ├────┼─ network ── node-2 ├── links, or a route server, or links and a Redis; one store
    clients-3 ┘    └─ network ── node-3 ┘
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from signal import SIGCONT, SIGKILL, SIGSTOP, SIGTERM
from typing import Any

from msgspec.json import encode
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.task import deferLater

from twisted_im.faults.children import Child, Clients, RunError, Server
from twisted_im.faults.devices import Orders
from twisted_im.faults.network import Network
from twisted_im.faults.redis import DUMP, SOCKET, redis_words, tell_redis
from twisted_im.leash import leashed_twistd

#: Seconds for processes to start and log in; for processes to end.
START, END = 60.0, 60.0


@dataclass(frozen=True)
class Topology:
    """Which servers there are.

    Attributes:
        strategy, via: as for twistd.
        table: "memory" or "redis".
        nodes: how many.
        store: for twistd's --store.
    """

    strategy: str = "single"
    via: str = "mesh"
    table: str = "memory"
    nodes: int = 1
    store: str = "memory"

    @property
    def routes(self) -> bool:
        """Whether there is a route server."""
        return self.strategy == "broadcast" or self.via == "route-server"

    @property
    def links(self) -> int:
        """Links that each node has."""
        return 0 if self.strategy == "single" else 1 if self.routes else self.nodes - 1

    def words(self) -> list[str]:
        """What each node is told of the others. Sockets have no long paths, so each is reached by the folder that all processes work in."""
        words = [f"--strategy={self.strategy}"]
        words += [f"--via={self.via}"] if self.strategy == "routed" else []
        words += [f"--route-server=unix:{_HERE}/{ROUTES}"] if self.routes else []
        words += [f"--table=unix://{_HERE}/{SOCKET}"] if self.table == "redis" else []
        return words

    def __str__(self) -> str:
        if self.strategy == "single":
            return "a single server"
        ways = "" if self.strategy == "broadcast" else f" by {self.via.replace('-', ' ')}"
        return f"{self.nodes} nodes, {self.strategy}{ways}{', table in Redis' if self.table == 'redis' else ''}"


#: The socket of the route server; and the folder of whoever opens it.
ROUTES = "routes.sock"
_HERE = "/proc/self/cwd"


class Node:
    """A node's place: its name, and the network in front of it, whatever process has them."""

    process: Server

    def __init__(self, name: str, network: Network) -> None:
        self.name = name
        self.network = network


class Stage:
    """The processes of one run.

    Args:
        folder: for all logs, and for everybody to work in.
        orders: what all clients are told, but for who they are.
        look: called again and again while something is waited for.

    Attributes:
        nodes: their places.
        route: the route server; None without one.
        redis: the same.
        clients, crews: name of a process → the process; its devices.
        children: all processes that there ever were.
    """

    def __init__(self, reactor: Any, folder: Path, topology: Topology, chance: Random, orders: Orders, look: Callable[[], object]) -> None:
        self.reactor = reactor
        self.folder = folder
        self.topology = topology
        self._orders = orders
        self._look = look
        names = ["server"] if topology.strategy == "single" else [f"node-{number}" for number in range(1, topology.nodes + 1)]
        self.nodes = [Node(name, Network(reactor, chance)) for name in names]
        self.route: Server | None = None
        self.redis: Child | None = None
        self.clients: dict[str, Clients] = {}
        self.crews: dict[str, list[tuple[str, str]]] = {}
        self.children: list[Child] = []

    # ---- servers

    async def start(self) -> None:
        """Starts all servers, and lets them find each other."""
        if self.topology.table == "redis":
            await self.start_redis()
        if self.topology.routes:
            await self.start_route()
        for node in self.nodes:
            node.process = self.spawn_node(node)
        for node in self.nodes:
            await self.takes_over(node, node.process)
        await self.until(self.certain, START, "the nodes to find each other")

    async def start_node(self, node: Node) -> None:
        """Starts a node, and waits until it takes clients."""
        await self.takes_over(node, self.spawn_node(node))

    async def takes_over(self, node: Node, process: Server) -> None:
        """Waits until a process takes clients: it is the node from now on."""
        node.process = process
        await self.until(lambda: process.port, START, f"{node.name} to listen")
        node.network.target = node.process.port

    def spawn_node(self, node: Node, *more: str) -> Server:
        """A process with a node's name."""
        words = ["--listen=tcp:0:interface=127.0.0.1", "--auth=anonymous", f"--name={node.name}", f"--store={self.topology.store}"]
        if self.topology.strategy != "single":
            words += [*self.topology.words(), f"--advertise=127.0.0.1:{node.network.port}"]
        return self._twistd(node.name, *words, *more)

    async def start_route(self) -> None:
        self.route = route = self._twistd("route", "route", f"--listen=unix:{ROUTES}")
        await self.until(lambda: route.takes_links, START, "the route server to take links")

    async def start_redis(self, *, dump: bool = False) -> None:
        """Starts a Redis: with what it has kept, or empty."""
        for file in [SOCKET] if dump else [SOCKET, DUMP]:
            (self.folder / file).unlink(missing_ok=True)
        self.redis = Child("redis", self.folder)
        self._spawn(self.redis, redis_words())
        await self.until(lambda: self._redis_says("PING") == "+PONG", START, "Redis to answer")

    def _redis_says(self, command: str) -> str:
        try:
            return tell_redis(self.folder, command)
        except OSError:
            return ""

    def tell_redis(self, *commands: str) -> None:
        """Tells Redis something that it has to do."""
        for command in commands:
            answer = self._redis_says(command)
            if answer != "+OK":
                raise RunError(f"redis does not {command}: {answer}")

    def _twistd(self, name: str, *words: str) -> Server:
        server = Server(name, self.folder)
        self._spawn(server, [*leashed_twistd(os.getpid()), "-n", "--pidfile=", "im", *words])
        return server

    def certain(self) -> bool:
        """Whether all nodes hear each other."""
        links = self.topology.links
        return all(node.process.port and not node.process.doubts and node.process.links >= links for node in self.nodes)

    # ---- clients

    def start_clients(self, name: str, devices: list[tuple[str, str]], word: str, *, catch_up: int = 1000, guests: int = 0) -> Clients:
        """Starts a process with devices; see `Orders`."""
        before = self.clients.get(name)
        self.clients[name] = process = Clients(name, self.folder)
        process.tally = before.tally if before is not None else None  # counts go on; `told` says that it is not news
        self.crews[name] = devices
        self._spawn(process, [sys.executable, "-m", "twisted_im.faults.devices"])
        self._orders.folder, self._orders.devices, self._orders.guests = str(self.folder), devices, guests
        self._orders.endpoints = [f"127.0.0.1:{node.network.port}" for node in self.nodes]
        self._orders.seed = f"{self._orders.seed.partition('/')[0]}/{name}/{len(self.children)}"
        self._orders.catch_up, self._orders.word = catch_up, word
        process.say(encode(self._orders))
        return process

    def online(self, word: str, since: float) -> bool:
        """Whether all clients are there that have not gone away, as they said after a word and after a moment."""
        return all(process.stands(word, since) for process in self.clients.values())

    # ---- processes

    def _spawn(self, child: Child, words: list[str]) -> None:
        self.children.append(child)
        root = str(Path(__file__).parents[2])
        older = os.environ.get("PYTHONPATH")
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(dict.fromkeys([root, *([older] if older else [])]))}
        self.reactor.spawnProcess(child, words[0], words, env=environment, path=str(self.folder))

    async def kill(self, child: Child) -> None:
        """SIGKILL, and its end."""
        gone = child.end()
        child.signal(SIGKILL)
        await gone

    async def still(self, child: Child, seconds: float) -> None:
        """Has a process do nothing for a while."""
        child.signal(SIGSTOP)
        try:
            await self.pause(seconds)
        finally:
            child.signal(SIGCONT)

    async def stop(self, *children: Child) -> None:
        """Ends processes in good order."""
        gone = DeferredList([child.end() for child in children])
        for child in children:
            child.signal(SIGTERM)
        await self.until(lambda: gone.called, END, f"{', '.join(child.name for child in children)} to end")

    async def stop_all(self) -> None:
        """Ends every process in good order, clients first."""
        alive = [child for child in self.children if child.ended is None]
        await self.stop(*(child for child in alive if isinstance(child, Clients)))
        await self.stop(*(child for child in alive if not isinstance(child, Clients)))

    def close(self) -> Deferred[Any]:
        """Ends whatever is left, at once; fires when it has ended."""
        for node in self.nodes:
            node.network.close()
        alive = [child for child in self.children if child.ended is None]
        gone = [child.end() for child in alive]
        for child in alive:
            child.signal(SIGKILL)
        return DeferredList(gone)

    # ---- waiting

    async def until(self, holds: Callable[[], object], seconds: float, what: str, progress: Callable[[], object] = lambda: None) -> None:
        """Waits for something; the seconds begin again whenever there is progress.

        Raises:
            TimeoutError: it did not come.
        """
        end, before = time.monotonic() + seconds, progress()
        while not holds():
            if (now := progress()) != before:
                end, before = time.monotonic() + seconds, now
            if time.monotonic() > end:
                raise TimeoutError(f"waited {seconds:.0f} s for {what}")
            await self.pause(0.02)

    async def pause(self, seconds: float) -> None:
        """Lets everything go on for a while."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            await deferLater(self.reactor, min(left, 0.1), lambda: None)
            for child in self.children:
                child.check()
            self._look()
