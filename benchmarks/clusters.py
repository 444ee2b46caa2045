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
from contextlib import contextmanager
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
ASK_SECONDS = 30.0  #: for an answer of Redis
PARTS = ("node", "route_server", "redis")

#: What processes count of their own work, besides messages and copies.
STEPS = ("turns", "writes", "commits")

#: Figures of a load that are counts.
SUMS = ("sent", "accepted", "delivered", "receipted", "receipts_told", "duplicates", "errors")


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

    Attributes:
        port: where it listens on 127.0.0.1.
        server: its process.
        settings: how many were given to it.
    """

    def __init__(self, folder: Path) -> None:
        for attempt in range(1, REDIS_TRIES + 1):
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                self.port = probe.getsockname()[1]
            options = {"port": str(self.port), "bind": "127.0.0.1", "save": "", "appendonly": "no"}
            self.settings = len(options)
            words = [word for name, value in options.items() for word in (f"--{name}", value)]
            self._command = leashed(os.getpid(), [redis_program(), *words])
            self._folder = folder
            try:
                self.start()
                return
            except ServerError:
                self.server.stop()
                if attempt == REDIS_TRIES:
                    raise

    def start(self) -> None:
        """Starts it, empty."""
        self.server = start("redis-server", self._command, None, self._folder, own_session=False)
        self.server.until(lambda: any("eady to accept" in line for line in list(self.server.tail)), "take connections")

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


class Cluster:
    """The processes of a scheme.

    Args:
        scheme: what they run.
        nodes: how many.
        store: for --store.
        cores: where they may run.
        folder: their working directory.
        more: options for each node after all others.

    Attributes:
        nodes: the nodes, in their order.
        route_server: the route server, if there is one.
        redis: the Redis, if there is one.
        settings: how many settings an operator has given, to all processes together.
    """

    def __init__(self, scheme: Scheme, nodes: int, store: str, cores: Cores, folder: Path, more: Sequence[str] = ()) -> None:
        self.scheme = scheme
        self.nodes: list[Server] = []
        self.route_server: Server | None = None
        self.redis: Redis | None = None
        self.settings = 0
        self._count = nodes
        self._store = store
        self._cores = cores
        self._folder = folder
        self._more = more
        self._words: dict[str, Sequence[str]] = {}  # of each process, by its name
        self._all: list[Server] = []

    def start(self) -> None:
        """Starts all, and waits until every node hears every other.

        Raises:
            ServerError: something did not start; the text is for people.
        """
        scheme = self.scheme
        where = redis = ""
        if scheme.table == REDIS_TABLE:
            self.redis = Redis(self._folder)
            self._all.append(self.redis.server)
            self.settings += self.redis.settings
            redis = self.redis.url
        if scheme.routed_by_server:
            self.route_server = server = self._begin("route server", ["route", "--listen=tcp:0:interface=127.0.0.1", "--data=data"])
            server.until(lambda: server.of("links"), "take links")
            where = server.of("links")[0]["where"]
            self._again_at(server, where.rpartition(":")[2])
        for number in range(1, self._count + 1):
            words = [
                "--auth=anonymous",
                f"--store={self._store}",
                "--listen=tcp:0:interface=127.0.0.1",
                *scheme.words(number, where, redis),
            ]
            self.nodes.append(self._begin(f"node {number}", [*words, *self._more]))
            if number == 1:  # it makes the store's file and the secret
                self._listens(self.nodes[0])
        names = {f"node-{number}" for number in range(1, self._count + 1)}
        for number, node in enumerate(self.nodes, 1):
            self._listens(node)
            if not scheme.alone:
                self._hears(node, names - {f"node-{number}"})
        self._pin()  # not before: all start sooner on all cores

    def _begin(self, name: str, words: Sequence[str]) -> Server:
        if name not in self._words:
            self._words[name] = words
            self.settings += len(words)
        command = [*leashed_twistd(os.getpid()), "-n", "--pidfile=", "im", *words]
        server = start(name, command, None, self._folder, own_session=False)
        self._all.append(server)
        return server

    def _again_at(self, server: Server, port: object) -> None:
        """Has a process that is started again listen at the same port."""
        self._words[server.name] = [word.replace("--listen=tcp:0:", f"--listen=tcp:{port}:") for word in self._words[server.name]]

    def _listens(self, node: Server) -> None:
        node.until(lambda: node.port, "listen")
        self._again_at(node, node.port)

    @staticmethod
    def _hears(node: Server, others: set[str]) -> None:
        node.until(lambda: others <= heard(node), "hear all others")

    def _pin(self) -> None:
        for (_, server), core in zip(self.processes, cycle(self._cores.servers), strict=False):
            pin(server.pid, core)

    @property
    def processes(self) -> list[tuple[str, Server]]:
        """All that are meant to run, each with what it is: one of `PARTS`."""
        found = [("node", node) for node in self.nodes]
        found += [("route_server", self.route_server)] if self.route_server is not None else []
        found += [("redis", self.redis.server)] if self.redis is not None else []
        return found

    def kill(self, part: str) -> None:
        """Ends the last process that is such a part, as SIGKILL does."""
        [server for each, server in self.processes if each == part][-1].kill()

    def again(self, part: str) -> None:
        """Starts what was killed once more, at the same place, as a supervisor does.

        Raises:
            ServerError: it does not start.
        """
        if part == "node":
            node = self.nodes[-1] = self._begin(self.nodes[-1].name, self._words[self.nodes[-1].name])
            node.until(lambda: node.port, "listen")
        elif part == "route_server" and self.route_server is not None:
            route_server = self.route_server = self._begin(self.route_server.name, self._words[self.route_server.name])
            route_server.until(lambda: route_server.of("links"), "take links")
        elif self.redis is not None:
            self.redis.start()
            self._all.append(self.redis.server)
        self._pin()

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

    def end(self) -> None:
        """Ends what still runs."""
        for server in self._all:
            server.ask_to_stop()  # together, and not one after the other
        for server in self._all:
            server.stop()


@contextmanager
def running(scheme: Scheme, nodes: int, store: str, cores: Cores, folder: Path, more: Sequence[str] = ()) -> Iterator[Cluster]:
    """Starts a cluster, and ends it; for the arguments see `Cluster`.

    Raises:
        ServerError: something did not start; the text is for people.
    """
    cluster = Cluster(scheme, nodes, store, cores, folder, more)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.end()


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


def measure(cluster: Cluster, core: int, *, paced: int = 0, **options: object) -> Figures:
    """Loads a cluster, ends it, and gives what each message has cost.

    Args:
        cluster: one that nobody has used yet.
        core: where the load runs.
        paced: messages a second, for latencies; they are then those of a second load at this rate. 0 for one load alone.
        options: of the load.

    Returns:
        The figures of the load, and:

        `node_cpu_us_per_message`, `route_server_…`, `redis_…`: CPU while it was measured; that of all nodes together
        `copies_per_message`, `wasted_copies_per_message`: copies that nodes got from others, and those of them that were for nobody there
        `hops_per_message`: links that it crossed to its receiver
        `look_ups_per_message`: users looked for in Redis
        `bytes_per_message`: that passed between the processes, logins and heartbeats included
        `settings`: given by the operator to all processes
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
    if paced:
        calm = drive(load_command(cluster, **options, rate=paced), core, cluster.told)
        figures |= {name: calm[name] for name in ("p50_ms", "p99_ms", "p999_ms", "histogram_ms")}
        figures |= {name: figures[name] + calm[name] for name in SUMS}
        figures["first_error"] = figures["first_error"] or calm["first_error"]
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
        **{f"node_{name}_per_message": round(total(name) / max(figures["accepted"], 1), 4) for name in STEPS},
        **{
            f"route_server_{name}_per_message": round(sum(counters[name] for counters in route_servers) / max(figures["accepted"], 1), 4)
            for name in STEPS
        },
        "bytes_per_message": round(between / max(figures["accepted"], 1), 1),
        "settings": cluster.settings,
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
