"""`python -m benchmarks load --nodes …`: the cost of one message in each scheme, on several nodes.

Strategy: as on one server, with the same load (`benchmarks.load_loop`). The nodes have one store, in SQLite; to compare like with like, so
has the single server, and each of the parallel ones has its own. A scheme, a number of nodes and a locality make a row, and each is
measured on fresh processes.

Locality is the share of the messages whose receiver is on the sender's own node. For a single server, and for parallel ones, it is 1:
the others would reach nobody.
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.clusters import PARALLEL, REDIS_TABLE, TABLES, Scheme, even, measure, redis_missing, running
from benchmarks.driving import Figures, RunError, UnfitError, medians
from benchmarks.servers import ServerError, choose_cores
from benchmarks.terminal import among, each, file_system, machine, print_table, raise_file_limit, say, say_where, share, whole
from twisted_im.config import CLUSTERED, MEMORY_TABLE, VIA

STRATEGIES = ("single", PARALLEL, *CLUSTERED)
MOST_NODES = 64
#: What these options mean is for several nodes alone.
OPTIONS = ("via", "table", "locality", "per_node")


@dataclass(frozen=True)
class Row:
    """What one row is about."""

    scheme: Scheme
    nodes: int
    locality: float
    window: int

    def __str__(self) -> str:
        return f"{self.scheme}, {self.nodes} node{'s' if self.nodes > 1 else ''}, locality {self.locality:g}, window {self.window}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options that are for several nodes."""
    several = parser.add_argument_group("several nodes")
    add = several.add_argument
    add("--nodes", type=each(whole(1, MOST_NODES)), metavar="N,…", help="how many; single has always one [default: 1]")
    add("--via", type=each(among(VIA)), metavar="NAME,…", help="of routed: mesh, route-server [default: mesh]")
    add("--table", type=each(among(TABLES)), metavar="NAME,…", help="of a routed mesh: memory, redis [default: memory]")
    add("--per-node", action="store_true", default=None, help="--users are those of each node, and not of all together")
    add("--locality", type=each(share), metavar="P,…", help="share of the messages whose receiver is on the sender's node [default: 0]")


def schemes(strategies: Sequence[str], vias: Sequence[str], tables: Sequence[str]) -> list[Scheme]:
    """The schemes that the options name, each once."""
    found: dict[Scheme, None] = {}
    for strategy, via, table in itertools.product(strategies, vias, tables):
        if strategy != "routed":
            found[Scheme(strategy)] = None
        elif via == "mesh":
            found[Scheme(strategy, via, table)] = None
        else:
            found[Scheme(strategy, via)] = None  # route servers have the table
    return list(found)


def rows_of(chosen: Sequence[Scheme], nodes: Sequence[int], localities: Sequence[float], windows: Sequence[int]) -> list[Row]:
    """What is to be measured, each once. A single server is one node, and on one node all is local."""
    found: dict[Row, None] = {}
    for window, count, scheme, locality in itertools.product(windows, nodes, chosen, localities):
        single = scheme.strategy == "single"
        home = scheme.alone or count == 1
        found[Row(scheme, 1 if single else count, 1.0 if home else locality, window)] = None
    return list(found)


def run(options: argparse.Namespace) -> int:
    """Measures all rows; gives the exit status."""
    parser: argparse.ArgumentParser = options.parser
    for name, unset in (("tls", "off"), ("half", False), ("profile", None)):
        if getattr(options, name) != unset:
            parser.error(f"--{name} is for one server alone: leave out --nodes, and strategies but single")
    if options.driver == "c":
        parser.error("--driver=c knows one server only: leave it out")
    chosen = schemes(options.strategy, options.via or ["mesh"], options.table or [MEMORY_TABLE])
    stores = options.store or ["sqlite"]
    if stores != ["sqlite"] and (len(stores) > 1 or not all(scheme.alone for scheme in chosen)):
        parser.error("--store: the nodes of a cluster share one store: say sqlite, or leave it out")
    if any(scheme.table == REDIS_TABLE for scheme in chosen) and (missing := redis_missing()):
        parser.error(f"--table=redis: {missing}")
    rows = rows_of(chosen, options.nodes or [1], options.locality or [0.0], options.window)
    if problem := raise_file_limit("--users", max(users_of(options, row) for row in rows), "users"):
        parser.error(problem)
    if stores == ["sqlite"]:
        say_where(options.data)
    bench = NodesBench(options, stores[0], rows)
    try:
        bench.measure()
    except UnfitError as error:
        parser.error(str(error))
    except (RunError, ServerError) as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1
    finally:  # an interrupt, or a fault, keeps what was measured until then
        found = bench.found()
        if options.json:
            for figures in found.values():
                print(json.dumps(figures))
        elif found:
            show(list(found.values()))
    faults = [f"{row}: {fault}" for row, figures in found.items() for fault in figures["faults"]]
    for fault in faults:
        print(f"WRONG: {fault}", file=sys.stderr)
    return 1 if faults else 0


def users_of(options: argparse.Namespace, row: Row) -> int:
    """All users of a row together."""
    return even(options.users * (row.nodes if options.per_node else 1), row.nodes)


class NodesBench:
    """One run.

    Args:
        options: the options of `load`, complete.
        store: for --store.
        rows: what is measured.
    """

    def __init__(self, options: argparse.Namespace, store: str, rows: Sequence[Row]) -> None:
        self._options = options
        self._store = store
        self._cores = choose_cores()
        self._runs: dict[Row, list[Figures]] = {row: [] for row in rows}

    def measure(self) -> None:
        """Measures each row as often as asked.

        Raises:
            RunError: a load did not come to its end.
            UnfitError: the options ask for more than a server takes.
            ServerError: a process did not start, or did not end in good order.
        """
        needed = max(row.nodes for row in self._runs) + 1
        if len(self._cores.servers) < needed or not self._cores.apart:
            count = len(self._cores.servers)
            say(f"{count} core{'s are' if count > 1 else ' is'} for the servers, which share: trust the CPU for a message, not the rate")
        for turn in range(1, self._options.repeat + 1):
            for row, runs in self._runs.items():
                figures = self._once(row)
                runs.append(figures)
                say(f"{turn}/{self._options.repeat} {row}: {figures['delivered_per_s']:,.0f}/s, {figures['cpu_us_per_message']:.1f} µs")

    def found(self) -> dict[Row, Figures]:
        """The medians of each row that was measured."""
        return {row: self._figures(row, runs) for row, runs in self._runs.items() if runs}

    def _once(self, row: Row) -> Figures:
        options = self._options
        values: dict[str, Any] = {"users": users_of(options, row), "window": row.window, "payload": options.payload}
        values |= {"seconds": options.seconds, "warmup": options.warmup, "locality": row.locality}
        values |= {"rate": options.rate} if options.rate else {}
        with (
            tempfile.TemporaryDirectory(prefix="twisted_im-benchmarks-", dir=options.data) as folder,
            running(row.scheme, row.nodes, self._store, self._cores, Path(folder), options.node_args) as cluster,
        ):
            return measure(cluster, self._cores.load, **values)

    def _figures(self, row: Row, runs: Sequence[Figures]) -> Figures:
        options = self._options
        own = medians(runs)
        unwanted = ("rss_kib_per_connection", "sent", "accepted", "delivered", "receipted", "receipts_told", "duplicates", "errors")
        return {
            "scheme": str(row.scheme),
            "strategy": row.scheme.strategy,
            "via": row.scheme.via or None,
            "table": row.scheme.table or None,
            "nodes": row.nodes,
            "locality": row.locality,
            **{name: value for name, value in own.items() if name not in unwanted},
            "users": users_of(options, row),
            "rate": options.rate,
            "store": self._store,
            "seconds": options.seconds,
            "repeat": options.repeat,
            "faults": [fault for figures in runs for fault in figures["faults"]],
            "cores": len(self._cores.servers) + self._cores.apart,
            "file_system": file_system(options.data) if self._store == "sqlite" else None,
            "python": platform.python_version(),
            "machine": machine(),
            "date": datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        }


def show(rows: Sequence[Figures]) -> None:
    """Prints the rows for people."""
    heads = ["", "nodes", "local", "window", "delivered/s", "p50", "p99", "CPU: nodes", "route s.", "Redis"]
    heads += ["copies", "wasted", "hops", "look-ups", "bytes"]
    lines = [
        [
            row["scheme"],
            str(row["nodes"]),
            f"{row['locality']:g}",
            str(round(row["window"])),
            f"{row['delivered_per_s']:,.0f}",
            f"{row['p50_ms']:.1f} ms",
            f"{row['p99_ms']:.1f} ms",
            f"{row['node_cpu_us_per_message']:.1f} µs",
            f"{row['route_server_cpu_us_per_message']:.1f} µs" if Scheme(row["strategy"], row["via"] or "").routed_by_server else "–",
            f"{row['redis_cpu_us_per_message']:.1f} µs" if row["table"] == REDIS_TABLE else "–",
            f"{row['copies_per_message']:.2f}",
            f"{row['wasted_copies_per_message']:.2f}",
            f"{row['hops_per_message']:.2f}",
            f"{row['look_ups_per_message']:.2f}",
            f"{row['bytes_per_message']:,.0f}",
        ]
        for row in sorted(rows, key=lambda row: (row["window"], row["nodes"], row["locality"]))
    ]
    print_table(heads, lines)
    first = rows[0]
    users = " to ".join(str(number) for number in sorted({row["users"] for row in (first, rows[-1])}))
    print(
        f"{users} users or a few more, {first['payload']:.0f} bytes, medians of {first['repeat']} × {first['seconds']:g} s; "
        f"{first['store']}{' on ' + first['file_system'] if first['file_system'] else ''}; Python {first['python']}; {first['machine']}"
    )
    print(
        "A message makes two pushes, its own and its receipt's: copies, wasted, hops and look-ups are for each; CPU and bytes for both. "
        "Parallel servers carry local messages only: the others would reach nobody."
    )
    for row in rows:
        if row["pushed_again"]:
            print(f"{row['scheme']}, {row['nodes']} nodes: {row['pushed_again']:.0f} messages were pushed twice, and shown once.")
        if row["doubts"]:
            print(f"{row['scheme']}, {row['nodes']} nodes: {row['doubts']:.0f} times a node did not hear another, and read the store.")
