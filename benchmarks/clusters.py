"""A cluster as an operator starts it, and what one message costs it.

Strategy: every node, the route server and Redis are processes of their own, so that the CPU of each is read apart. The load runs on one
core, all others of the machine are theirs, in turn; where there is only one, they share it, and then the CPU for a message tells more than
the rate, since a wait for one's turn costs none.

What passes between the processes is counted by themselves, from their start to their end, and divided by all messages of that time: the
figures stand in the event `stopped` of each log. Before the load begins, each node has said of every other that it is heard.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import cycle
from pathlib import Path
from typing import Any

from benchmarks.driving import Figures, drive, judge
from benchmarks.servers import Cores, Server, ServerError, pin, start
from twisted_im.config import MEMORY_TABLE
from twisted_im.faults.redis import MISSING, redis_program
from twisted_im.leash import leashed, leashed_twistd

#: Beside the product's own strategies: single servers that know nothing of each other.
PARALLEL = "parallel"

REDIS_TABLE = "redis"
TABLES = (MEMORY_TABLE, REDIS_TABLE)

REDIS_TRIES = 3  #: another process may take the port between the moment when it is found free and Redis's start
ASK_SECONDS = 5.0  #: for an answer of Redis
PARTS = ("node", "route_server", "redis")


@dataclass(frozen=True)
class Scheme:
    """A way to get messages to their receivers.

    Attributes:
        strategy: one of the product's, or `PARALLEL`.
        via: of the routed strategy, "mesh" or "route-server"; else empty.
        table: of a mesh, "memory" or "redis"; else empty.
    """

    strategy: str
    via: str = ""
    table: str = ""

    def __str__(self) -> str:
        words = [self.strategy, {"mesh": "mesh", "route-server": "star"}.get(self.via, ""), "Redis" if self.table == REDIS_TABLE else ""]
        return " ".join(word for word in words if word)

    @property
    def routed_by_server(self) -> bool:
        """Whether a route server stands in the middle."""
        return self.strategy == "broadcast" or self.via == "route-server"

    @property
    def alone(self) -> bool:
        """Whether each server has its own users, and nobody else's."""
        return self.strategy in ("single", PARALLEL)

    def words(self, number: int, route_server: str, redis: str) -> list[str]:
        """What an operator says to a node beyond what is the same in every scheme.

        Args:
            number: the node's, from 1.
            route_server: its address, if the scheme has one.
            redis: its URL, if the scheme has one.
        """
        if self.alone:
            return ["--strategy=single", f"--data=data-{number}"]
        words = [f"--strategy={self.strategy}", f"--name=node-{number}", "--data=data"]
        if self.via == "route-server":
            words.append("--via=route-server")
        if route_server:
            words.append(f"--route-server={route_server}")
        if redis:
            words.append(f"--table={redis}")
        return words


class Redis:
    """A real redis-server on a free port of this machine.

    Raises:
        ServerError: it does not start.
    """

    def __init__(self, folder: Path) -> None:
        for attempt in range(REDIS_TRIES):
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                self.port = probe.getsockname()[1]
            own = folder / f"redis-{attempt}"
            own.mkdir()
            options = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
            command = leashed(os.getpid(), [redis_program(), *options])
            self.server = start("redis-server", command, None, own, own_session=False)
            try:
                self.server.until(lambda: any("eady to accept" in line for line in self.server.tail), "take connections")
                return
            except ServerError:
                self.server.stop()
                if attempt == REDIS_TRIES - 1:
                    raise

    @property
    def url(self) -> str:
        """As a node is given it."""
        return f"redis://127.0.0.1:{self.port}"

    def bytes(self) -> int:
        """What has passed between it and all its clients so far, both ways (INFO: total_net_…_bytes)."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=ASK_SECONDS) as line, line.makefile("rb") as answer:
            line.sendall(b"INFO stats\r\n")
            told = answer.read(int(answer.readline()[1:])).decode()
        found = dict(row.split(":", 1) for row in told.splitlines() if ":" in row)
        return int(found["total_net_input_bytes"]) + int(found["total_net_output_bytes"])


@dataclass
class Cluster:
    """Processes that run.

    Attributes:
        scheme: what they run.
        nodes: the nodes, in their order.
        route_server: the route server, if there is one.
        redis: the Redis, if there is one.
        words: the settings with which each node was started beyond those that are the same in every scheme.
    """

    scheme: Scheme
    nodes: list[Server]
    route_server: Server | None
    redis: Redis | None
    words: list[str]

    @property
    def processes(self) -> list[tuple[str, Server]]:
        """All of them, each with what it is: one of `PARTS`."""
        found = [("node", node) for node in self.nodes]
        found += [("route_server", self.route_server)] if self.route_server is not None else []
        found += [("redis", self.redis.server)] if self.redis is not None else []
        return found

    @property
    def doubts(self) -> int:
        """How often nodes have begun not to hear another."""
        return sum(len(node.of("doubt")) for node in self.nodes)

    def told(self) -> str:
        """The end of all logs."""
        return "\n".join(f"{server.name}:\n{server.told()}" for _, server in self.processes)

    def stopped(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Ends nodes and route server in good order; gives the counters of each node, and those of the route server.

        Raises:
            ServerError: one did not end in good order.
        """
        everybody = [server for part, server in self.processes if part != "redis"]
        for server in self.nodes:
            server.ask_to_stop()
        for server in everybody:
            server.stop()
            if not server.of("stopped"):
                raise ServerError(f"the {server.name} did not end in good order. The end of its log:\n{server.told()}")
        counters = [server.of("stopped")[-1] for server in everybody]
        return counters[: len(self.nodes)], counters[len(self.nodes) :]


@contextmanager
def running(scheme: Scheme, nodes: int, store: str, cores: Cores, folder: Path, more: Sequence[str] = ()) -> Iterator[Cluster]:
    """Starts a cluster, waits until every node hears every other, and stops it in the end.

    Args:
        scheme: what the nodes run.
        nodes: how many.
        store: for --store.
        cores: where they may run.
        folder: their working directory.
        more: options for each node after all others.

    Raises:
        ServerError: something did not start; the text is for people.
    """
    with ExitStack() as stack:

        def begin(name: str, words: Sequence[str]) -> Server:
            command = [*leashed_twistd(os.getpid()), "-n", "--pidfile=", "im", *words]
            server = start(name, command, None, folder, own_session=False)
            stack.callback(server.stop)
            return server

        redis = route_server = None
        if scheme.table == REDIS_TABLE:
            redis = Redis(folder)
            stack.callback(redis.server.stop)
        where = ""
        if scheme.routed_by_server:
            route_server = begin("route server", ["route", "--listen=tcp:0:interface=127.0.0.1", "--data=data"])
            route_server.until(lambda: route_server.of("links"), "take links")
            where = route_server.of("links")[0]["where"]
        servers: list[Server] = []
        words: list[str] = []
        for number in range(1, nodes + 1):
            words = scheme.words(number, where, redis.url if redis is not None else "")
            common = ["--auth=anonymous", f"--store={store}", "--listen=tcp:0:interface=127.0.0.1"]
            servers.append(begin(f"node {number}", [*common, *words, *more]))
            if number == 1:  # it makes the store's file and the secret
                servers[0].until(lambda: servers[0].port, "listen")
        for server in servers:
            server.until(lambda: server.port, "listen")  # noqa: B023  # it is waited for here
        if not scheme.alone:
            peers = {f"node-{number}" for number in range(1, nodes + 1)}
            for number, server in enumerate(servers, 1):
                others = peers - {f"node-{number}"}
                server.until(lambda: others <= heard(server), "hear all others")  # noqa: B023  # it is waited for here
        cluster = Cluster(scheme, servers, route_server, redis, words)
        for (_, server), core in zip(cluster.processes, cycle(cores.servers), strict=False):  # not before: all start sooner on all cores
            pin(server.pid, core)
        yield cluster
        for server in reversed(servers):  # together, and not one after the other
            server.ask_to_stop()


def heard(server: Server) -> set[str]:
    """The peers that a node hears, as its log has it."""
    found: dict[str, bool] = {}
    for event in list(server.events):
        if event["event"] in ("doubt", "certain"):
            found[event["peer"]] = event["event"] == "certain" and not event["text"].endswith("gone")
    return {peer for peer, here in found.items() if here}


def load_command(cluster: Cluster, **options: object) -> list[str]:
    """The command line of the load on a cluster; for the options see `benchmarks.load_loop`."""
    ports = ",".join(str(node.port) for node in cluster.nodes)
    pids = ",".join(str(server.pid) for _, server in cluster.processes)
    values = {"port": ports, "pid": pids, **options}
    return [sys.executable, "-m", "benchmarks.load_loop", *(f"--{name.replace('_', '-')}={value}" for name, value in values.items())]


def measure(cluster: Cluster, core: int, **options: object) -> Figures:
    """Loads a cluster, ends it, and gives what each message has cost.

    Args:
        cluster: one that nobody has used yet.
        core: where the load runs.
        options: of the load.

    Returns:
        The figures of the load, and:

        `node_cpu_us_per_message`, `route_server_…`, `redis_…`: CPU while it was measured; that of all nodes together
        `copies_per_message`, `wasted_copies_per_message`: copies that nodes got from others, and those of them that were for nobody there
        `hops_per_message`: links that it crossed to its receiver
        `look_ups_per_message`: users looked for in Redis
        `bytes_per_message`: that passed between the processes, logins and heartbeats included
        `doubts`: how often a node did not hear another any more, and read the store instead
        `pushed_again`: messages that a node sent to a device once more; clients drop them
        `faults`: what is wrong, one line each

        A message makes two pushes, its own and its receipt's, and both take the same way. Copies, hops and look-ups are those of one push,
        as the theory counts them; CPU and bytes are of both.

    Raises:
        RunError: the load did not come to its end.
        UnfitError: the options ask for more than a server takes.
        ServerError: a process did not end in good order.
    """
    redis_before = cluster.redis.bytes() if cluster.redis is not None else 0
    doubts_before = cluster.doubts
    figures = drive(load_command(cluster, **options), core, cluster.told)
    doubts = cluster.doubts - doubts_before
    redis_bytes = cluster.redis.bytes() - redis_before if cluster.redis is not None else 0
    nodes, route_servers = cluster.stopped()
    pushes = max(figures["accepted"] + figures["receipts_told"], 1)

    def total(name: str) -> float:
        return sum(float(counters[name]) for counters in nodes)

    cpu = dict.fromkeys(PARTS, 0.0)
    for (part, _), each in zip(cluster.processes, figures.pop("cpu_us_of_each"), strict=True):
        cpu[part] += each
    between = sum(counters["link_bytes"] for counters in (*nodes, *route_servers)) + redis_bytes
    again = figures["duplicates"]
    faults = judge({**figures, "duplicates": 0})  # whoever reads a log by its numbers drops them
    if total("accepted") != figures["accepted"]:
        faults.append(f"the nodes have stored {total('accepted'):.0f} messages, and {figures['accepted']} were accepted")
    return {
        **figures,
        **{f"{part}_cpu_us_per_message": round(cpu[part], 3) for part in PARTS},
        "copies_per_message": round(total("copies_taken") / pushes, 4),
        "wasted_copies_per_message": round(total("copies_wasted") / pushes, 4),
        "hops_per_message": round(total("hops") / pushes, 4),
        "look_ups_per_message": round(total("look_ups") / pushes, 4),
        "bytes_per_message": round(between / max(figures["accepted"], 1), 1),
        "stale_routes": total("stale_routes"),
        "doubts": doubts,
        "pushed_again": again,
        "faults": faults,
    }


def redis_missing() -> str:
    """One line that says what to do if a table in Redis cannot be had; empty if it can."""
    if not redis_program():
        return MISSING
    if find_spec("txredisapi") is None:
        return "a table in Redis needs the packages txredisapi and hiredis: pip install 'twisted_im[redis]'"
    return ""


def even(users: int, nodes: int) -> int:
    """The number of users, or a few more, that gives each node as many pairs as any other."""
    unit = 2 * nodes
    return -(-users // unit) * unit
