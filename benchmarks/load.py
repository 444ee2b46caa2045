"""`python -m benchmarks load`: the cost of one message, all six packets, on a node, beside the C relay of `benchmarks/limit`.

Strategy: for each window, node and limit are measured in turn under the same load, as often as asked, and each time in a fresh
process; what is printed are the medians. The figure to trust on a machine that others use too is the server's CPU for a message,
and better still its ratio to the limit's. The load counts every message through; a run in which one was lost or came twice ends
with status 1, however fast it was.

The load is a program of its own, on another core. It is the C one if there is a compiler and TLS is off, for no Python can saturate
the C relay, and a relay that waits for its load costs more for each message; else the Python one. A run has one
driver for all its rows, so a ratio compares like with like.

What a message waits is another question than what it costs: a saturated server keeps as many waiting as the load's window lets it. So
`--rate` and `--half` pace the load, and the latency then counts from when a message was due, not from when the load came to send it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import load_nodes
from benchmarks.build import BuildError, build, compiler
from benchmarks.driving import Figures, RunError, UnfitError, drive, judge, medians
from benchmarks.servers import (
    Cores,
    Server,
    ServerError,
    choose_cores,
    make_certificate,
    node_command,
    on_core,
    profiled,
    running,
)
from benchmarks.terminal import (
    TEMPORARY,
    among,
    duration,
    each,
    file_system,
    folder,
    machine,
    new_file,
    print_table,
    raise_file_limit,
    say,
    say_where,
    whole,
    words,
)
from twisted_im.config import STORES
from twisted_im.wire.codec import codec
from twisted_im.wire.schema import DEFAULT_MAX_BODY, MAX_UID, Command, Kind

EXAMPLES = """
examples:
  python -m benchmarks load --quick
      does it work? a few seconds, figures of no weight
  python -m benchmarks load --store memory,sqlite
      the rows of the budget: what a message costs in memory, and on the disk before it is accepted
  python -m benchmarks load --store sqlite --window 8 --half
      and how long it is on its way when the server has half of what it can take
  python -m benchmarks load --tls=both --window 1
      what TLS adds
  python -m benchmarks load --strategy single,parallel,broadcast,routed --nodes 1,2,4
      what it costs to get messages from node to node, scheme by scheme
  python -m benchmarks load --strategy routed --via mesh,route-server --table memory,redis --nodes 4 --locality 0,0.9
      the ways of one scheme, when all messages leave their node and when few do
  python -m benchmarks load --json > figures.jsonl
      for programs: one object a line for each combination
  python -m benchmarks load --window 1 --repeat 1 --profile node.svg
      where the time goes (py-spy or perf must be there)

The server runs on one core and the load on another; CPU is the server's own user and system time, from /proc.
"""

#: What --quick changes, unless it is said.
QUICK: dict[str, Any] = {"users": 40, "seconds": 0.5, "warmup": 0.2, "repeat": 1}
FULL: dict[str, Any] = {"users": 1000, "seconds": 5.0, "warmup": 1.0, "repeat": 3}

MAX_PAYLOAD = DEFAULT_MAX_BODY - codec(Kind.NOTIFY, Command.MESSAGE).fixed.size - MAX_UID

#: What can be measured: the product's strategies, and single servers beside each other.
ALL = load_nodes.STRATEGIES

#: Above this share of its core a program counts as busy: a load may then be what limits the rate, and a server waits for nobody.
BUSY = 0.9

#: Below this share of the rate at which it is paced, a server is behind.
KEPT = 0.95


@dataclass(frozen=True)
class Combination:
    """One row: what is measured, and how hard it is loaded."""

    strategy: str
    store: str
    tls: bool
    window: int
    half: bool = False  #: paced at half of what the same without this has just reached

    def __str__(self) -> str:
        return f"{self.strategy}, {self.store}{', TLS' if self.tls else ''}, window {self.window}{', half' if self.half else ''}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of this command."""
    add = parser.add_argument
    add("--users", type=whole(2), metavar="N", help=f"users, in pairs [default: {FULL['users']}]")
    add("--window", type=each(whole(1)), default=[1, 8], metavar="N,…", help="messages of each user in flight [default: 1,8]")
    add("--payload", type=whole(0, MAX_PAYLOAD), default=100, metavar="BYTES", help="content of a message [default: 100]")
    add("--seconds", type=duration, metavar="S", help=f"how long each measurement lasts [default: {FULL['seconds']:g}]")
    add("--warmup", type=duration, metavar="S", help=f"load before it [default: {FULL['warmup']:g}]")
    add("--repeat", type=whole(1), metavar="N", help=f"how often; medians are shown [default: {FULL['repeat']}]")
    add("--strategy", type=each(among(ALL)), default=["single"], metavar="NAME,…", help=f"{', '.join(ALL)} [default: single]")
    add("--store", type=each(among(STORES)), metavar="NAME,…", help="memory, sqlite [default: memory; with --nodes, sqlite]")
    add("--data", type=folder, default=TEMPORARY, metavar="DIR", help=f"where stores have their files for a while [default: {TEMPORARY}]")
    pace = parser.add_mutually_exclusive_group()
    pace.add_argument("--rate", type=whole(1), metavar="N", help="messages/s of all users, for latencies [default: as fast as it goes]")
    pace.add_argument("--half", action="store_true", help="each row again, at half the rate that it has reached")
    add("--tls", nargs="?", choices=("off", "on", "both"), const="on", default="off", help="TLS between load and node [default: off]")
    add("--driver", choices=("auto", "c", "python"), default="auto", help="which load drives [default: c, if it can]")
    add("--no-limit", dest="limit", action="store_false", help="leave the C relay out; ratios are null then")
    load_nodes.add_arguments(parser)
    add("--node-args", type=words, default=[], metavar="WORDS", help="more options for the node: --node-args='--window 32'")
    add("--profile", type=new_file, metavar="FILE", help="record where the node spends its time; the row's name is added to FILE's")
    add("--quick", action="store_true", help=f"{QUICK['users']} users, {QUICK['seconds']:g} s, once, unless said otherwise")
    add("--json", action="store_true", help="one JSON object a line for each combination, instead of a table")


def run(options: argparse.Namespace) -> int:
    """Measures all combinations; gives the exit status."""
    parser: argparse.ArgumentParser = options.parser
    for name, value in (QUICK if options.quick else FULL).items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    if options.users % 2:
        parser.error(f"--users takes an even number, for users write in pairs: {options.users + 1}, say")
    if problem := raise_file_limit("--users", options.users, "users"):
        parser.error(problem)
    if options.nodes is not None or options.strategy != ["single"]:
        return load_nodes.run(options)
    for name in load_nodes.OPTIONS:
        if getattr(options, name) is not None:
            parser.error(f"--{name.replace('_', '-')} is for several nodes: say --nodes too")
    options.store = options.store or ["memory"]
    transports = {"off": [False], "on": [True], "both": [False, True]}[options.tls]
    if options.driver == "c" and (True in transports or compiler() is None):
        parser.error("--driver=c needs a C compiler, and cannot speak TLS; leave it out, or take --driver=python")
    full = [Combination(*values) for values in itertools.product(options.strategy, options.store, transports, options.window)]
    combinations = [row for each in full for row in ([each, replace(each, half=True)] if options.half else [each])]
    if set(options.store) != {"memory"}:
        say_where(options.data)
    bench = Bench(options, combinations)
    try:
        bench.measure()
    except UnfitError as error:
        parser.error(str(error))
    except (RunError, ServerError, BuildError) as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1
    finally:  # an interrupt, or a fault, keeps what was measured until then
        rows = bench.rows()
        if options.json:
            for row in rows:
                print(json.dumps(row))
        elif rows:
            bench.show(rows)
    faults = [f"{_name(row)}, window {row['window']}: {fault}" for row in rows for fault in row["faults"]]
    for fault in faults + bench.limit_faults:
        print(f"WRONG: {fault}", file=sys.stderr)
    return 1 if faults or bench.limit_faults else 0


class Bench:
    """One run of this command.

    Args:
        options: the options, complete.
        combinations: the rows to measure.
    """

    def __init__(self, options: argparse.Namespace, combinations: Sequence[Combination]) -> None:
        self._options = options
        self._combinations = combinations
        self._cores: Cores = choose_cores()
        self.driver: str = options.driver
        if self.driver == "auto":
            self.driver = "python" if any(c.tls for c in combinations) or compiler() is None else "c"
        self._with_limit: bool = options.limit and compiler() is not None
        self._limits: dict[int, list[Figures]] = {window: [] for window in options.window}
        self._nodes: dict[Combination, list[Figures]] = {combination: [] for combination in combinations}
        self.limit_faults: list[str] = []

    def measure(self) -> None:
        """Runs everything.

        Raises:
            RunError: the load could not be brought to its end.
            UnfitError: the options ask for more than a server takes.
            ServerError: a server did not start.
            BuildError: the compiler refused a source.
        """
        if not self._cores.apart:
            say("this machine lends only one core: load and server share it, so rates and latencies mean little")
        if self._options.limit and not self._with_limit:
            say("no C compiler: there is no limit to compare with (on Debian: apt-get install gcc)")
        with tempfile.TemporaryDirectory(prefix="twisted_im-benchmarks-", dir=self._options.data) as name:
            folder = Path(name)
            if any(combination.tls for combination in self._combinations):
                make_certificate(folder)
            for turn in range(1, self._options.repeat + 1):
                for window in dict.fromkeys(self._options.window):
                    if self._with_limit:
                        self._limits[window].append(self._measure_limit(turn, window, folder))
                    for combination in self._combinations:
                        if combination.window == window:
                            self._nodes[combination].append(self._measure_node(turn, combination, folder))
        for window, runs in self._limits.items():
            self.limit_faults += [f"the limit, window {window}: {fault}" for figures in runs for fault in judge(figures)]

    def rows(self) -> list[Figures]:
        """One row for each combination that was measured."""
        return [self._row(combination, runs) for combination, runs in self._nodes.items() if runs]

    def _measure_limit(self, turn: int, window: int, folder: Path) -> Figures:
        with running("relay", [str(build("relay"))], self._cores.server, folder) as server:
            figures = self._drive(server, window, self._options.rate, None)
        self._progress(turn, f"limit, window {window}", figures)
        return figures

    def _measure_node(self, turn: int, combination: Combination, folder: Path) -> Figures:
        certificate = folder if combination.tls else None
        rate = self._options.rate
        if combination.half:
            rate = max(1, int(self._nodes[replace(combination, half=False)][-1]["delivered_per_s"] / 2))
        command = node_command(combination.strategy, combination.store, certificate, self._options.node_args)
        with (
            tempfile.TemporaryDirectory(dir=folder, prefix="node-") as own,
            running("node", command, self._cores.server, Path(own)) as server,
            self._profile(server, combination),
        ):
            figures = self._drive(server, combination.window, rate, certificate and certificate / "cert.pem")
        self._progress(turn, str(combination), figures)
        return figures

    @contextmanager
    def _profile(self, server: Server, combination: Combination) -> Iterator[None]:
        wanted: Path | None = self._options.profile
        if wanted is None:
            yield
            return
        words = [wanted.stem, combination.strategy, combination.store, *(["tls"] if combination.tls else []), f"w{combination.window}"]
        words += ["half"] if combination.half else []
        output = wanted.absolute().with_name("-".join(words) + wanted.suffix)
        with on_core(self._cores.load) if self._cores.apart else nullcontext(), profiled(server.pid, output):
            yield
        if output.exists():
            say(f"profile: {output}")

    def _drive(self, server: Server, window: int, rate: int | None, authority: Path | None) -> Figures:
        """One run of the load against a server: as fast as it goes unless there is a rate; `authority` is the certificate to trust."""
        options = self._options
        command = [str(build("load"))] if self.driver == "c" else [sys.executable, "-m", "benchmarks.load_loop"]
        values: dict[str, object] = {"port": server.port, "pid": server.pid, "users": options.users, "window": window}
        values |= {"payload": options.payload, "seconds": options.seconds, "warmup": options.warmup}
        values |= {"rate": rate} if rate else {}
        command += [f"--{name}={value}" for name, value in values.items()]
        if authority is not None:
            command.append(f"--ca={authority}")
        figures = drive(command, self._cores.load, server.told)
        return {**figures, "rate": rate or 0}

    def _progress(self, turn: int, what: str, figures: Figures) -> None:
        say(
            f"{turn}/{self._options.repeat} {what}: {figures['delivered_per_s']:,.0f}/s, {figures['cpu_us_per_message']:.2f} µs "
            f"(load {figures['load_cpu_us_per_message']:.2f} µs)"
        )

    def _row(self, combination: Combination, runs: list[Figures]) -> Figures:
        own, limit = medians(runs), medians([] if combination.half else self._limits[combination.window])
        cpu, limit_cpu = own["cpu_us_per_message"], limit.get("cpu_us_per_message")
        return {
            "strategy": combination.strategy,
            "store": combination.store,
            "tls": combination.tls,
            "users": self._options.users,
            "window": combination.window,
            "payload": self._options.payload,
            "rate": own["rate"] or None,
            "delivered_per_s": own["delivered_per_s"],
            "cpu_us_per_message": cpu,
            "ratio_to_limit": round(cpu / limit_cpu, 3) if limit_cpu else None,
            "limit_cpu_us_per_message": limit_cpu,
            "limit_delivered_per_s": limit.get("delivered_per_s"),
            "limit_core_share": limit.get("server_core_share"),
            "p50_ms": own["p50_ms"],
            "p99_ms": own["p99_ms"],
            "p999_ms": own["p999_ms"],
            "rss_kib_per_connection": own["rss_kib_per_connection"],
            "logins_per_s": own["logins_per_s"],
            "receipts_per_message": round(sum(f["receipts_told"] for f in runs) / max(1, sum(f["delivered"] for f in runs)), 4),
            "load_cpu_us_per_message": own["load_cpu_us_per_message"],
            "server_core_share": own["server_core_share"],
            "load_core_share": own["load_core_share"],
            "driver": self.driver,
            "seconds": self._options.seconds,
            "repeat": self._options.repeat,
            "faults": [fault for figures in runs for fault in judge(figures)],
            "cores_apart": self._cores.apart,
            "file_system": None if combination.store == "memory" else file_system(self._options.data),
            "python": platform.python_version(),
            "machine": machine(),
            "date": datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        }

    def show(self, rows: Sequence[Figures]) -> None:
        """Prints the rows for people, the limit's among them."""
        lines, seen = [], set()
        for row in sorted(rows, key=lambda row: row["window"]):
            if self._with_limit and row["window"] not in seen:
                seen.add(row["window"])
                lines.append(_line("limit (C, no store)", row["window"], medians(self._limits[row["window"]]), 1.0))
            lines.append(_line(_name(row), row["window"], row, row["ratio_to_limit"]))
        heads = ["", "window", "delivered/s", "CPU/msg", "× limit", "p50", "p99", "KiB/conn.", "logins/s"]
        print_table(heads, lines)
        first = rows[0]
        disk = next((f"; stores on {row['file_system']}" for row in rows if row["file_system"]), "")
        print(
            f"{first['users']} users, {first['payload']} bytes, medians of {first['repeat']} × {first['seconds']:g} s; "
            f"load in {'C' if self.driver == 'c' else 'Python'}; Python {first['python']}; {first['machine']}{disk}"
        )
        for row in rows:
            if row["rate"] and row["delivered_per_s"] < KEPT * row["rate"]:
                print(f"{_name(row)}, window {row['window']}: it did not keep up with this rate, and latencies grow without end.")
            if not row["rate"] and row["load_core_share"] > BUSY and row["load_core_share"] > row["server_core_share"]:
                print(f"{_name(row)}, window {row['window']}: the load was busier than the server; trust the CPU here, not the rate.")
        for window, runs in self._limits.items():
            if runs and not self._options.rate and medians(runs)["server_core_share"] < BUSY:
                print(f"limit, window {window}: it waited for the load or for its core, which costs it more a message; the ratio flatters.")


def _name(row: Figures) -> str:
    return f"{row['strategy']}, {row['store']}{', TLS' if row['tls'] else ''}" + (f", paced at {row['rate']:,.0f}/s" if row["rate"] else "")


def _line(name: str, window: int, figures: Figures, ratio: float | None) -> list[str]:
    return [
        name,
        str(window),
        f"{figures['delivered_per_s']:,.0f}",
        f"{figures['cpu_us_per_message']:.2f} µs",
        "–" if ratio is None else f"{ratio:.2f}",
        f"{figures['p50_ms']:.2f} ms",
        f"{figures['p99_ms']:.2f} ms",
        f"{figures['rss_kib_per_connection']:.1f}",
        f"{figures['logins_per_s']:,.0f}",
    ]
