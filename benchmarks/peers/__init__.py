"""`python -m benchmarks peers`: a message on other people's servers, beside one on ours that promises about as much.

Strategy: each server is set up as `benchmarks.peers.known` says, started afresh for each measurement on the core where ours runs, and
driven from the other core by a bare loop in Python over its own protocol (`benchmarks.peers.loop`), as ours is by `benchmarks.load_loop`:
the same users, windows and bytes. They take turns, ours first, so that all of them meet a shared machine's better and worse minutes; what
is shown are medians, and the ratio of the CPU for a message to ours. Peers that have a message in memory when they acknowledge it stand
beside our memory store, those that write it to a file beside SQLite.

What is not the same is said, not hidden: ours makes six packets of a message, the last of which tells the sender that it was delivered,
where most of these protocols make two to four, and tell the sender at most that the server has it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.driving import Figures, RunError, UnfitError, drive, judge, medians
from benchmarks.load import BUSY, MAX_PAYLOAD
from benchmarks.pages import page_with, put, table
from benchmarks.peers.known import KNOWN, MEMORY, SQLITE
from benchmarks.peers.process import free_port, started
from benchmarks.peers.talk import MIN_PAYLOAD
from benchmarks.servers import ServerError, choose_cores, node_command, running
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
)
from twisted_im import __version__

EXAMPLES = """
examples:
  python -m benchmarks peers --quick
      does it work? less than a minute, figures of no weight
  python -m benchmarks peers --seconds 3 --repeat 3 --json peers.json
      everything that is installed, about ten minutes
  python -m benchmarks peers --peers nats,mosquitto-qos0 --window 8
      two of them
  python -m benchmarks peers --seconds 3 --page docs/performance.md
      and write the table into the page, between its two marks

A peer that is not installed is named with the command that installs it. How each is set up: docs/peers.md.
"""

QUICK: dict[str, Any] = {"users": 40, "seconds": 0.5, "warmup": 0.2, "repeat": 1, "window": [8]}
FULL: dict[str, Any] = {"users": 1000, "seconds": 5.0, "warmup": 1.0, "repeat": 3, "window": [1, 8]}

OURS = "twisted_im"
STORES = (MEMORY, SQLITE)
PROMISE = {
    MEMORY: "at least once, shown once; in memory",
    SQLITE: "at least once, shown once; on disk and synced before it is accepted",
}

BLOCK = "peers"  #: of the page, which --page writes

HEADS = ["", "beside our", "window", "delivered/s", "CPU/msg", "× ours", "p50", "p99", "KiB/conn."]


@dataclass(frozen=True)
class Row:
    """One row: a peer, or ours where there is no name of one."""

    store: str
    window: int
    peer: str = ""

    @property
    def title(self) -> str:
        """For people."""
        return KNOWN[self.peer].title if self.peer else f"{OURS}, {self.store}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of this command."""
    add = parser.add_argument
    known = ", ".join(KNOWN)
    add("--peers", type=each(among(KNOWN)), default=list(KNOWN), metavar="NAME,…", help=f"which: {known} [default: all]")
    add("--users", type=whole(2), metavar="N", help=f"users, in pairs [default: {FULL['users']}]")
    add("--window", type=each(whole(1, 1000)), metavar="N,…", help="messages of each user under way [default: 1,8]")
    add("--payload", type=whole(MIN_PAYLOAD, MAX_PAYLOAD), default=100, metavar="BYTES", help="content of a message [default: 100]")
    add("--seconds", type=duration, metavar="S", help=f"how long each measurement lasts [default: {FULL['seconds']:g}]")
    add("--warmup", type=duration, metavar="S", help=f"load before it [default: {FULL['warmup']:g}]")
    add("--repeat", type=whole(1), metavar="N", help=f"how often; medians are shown [default: {FULL['repeat']}]")
    add("--data", type=folder, default=TEMPORARY, metavar="DIR", help=f"where servers have their files for a while [default: {TEMPORARY}]")
    add("--json", type=new_file, metavar="FILE", help="write all figures there too, one JSON object")
    add(
        "--page",
        type=page_with(BLOCK),
        nargs="?",
        const=Path(),
        metavar="FILE",
        help="the table as Markdown; with FILE, into it, between its marks",
    )
    add("--quick", action="store_true", help=f"{QUICK['users']} users, window 8, {QUICK['seconds']:g} s, once, unless said otherwise")


def run(options: argparse.Namespace) -> int:
    """Measures ours and all peers that are there; gives the exit status."""
    parser: argparse.ArgumentParser = options.parser
    for name, value in (QUICK if options.quick else FULL).items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    if options.users % 2:
        parser.error(f"--users takes an even number, for users write in pairs: {options.users + 1}, say")
    if problem := raise_file_limit("--users", options.users, "users"):
        parser.error(problem)
    bench = Bench(options)
    for line in bench.missing:
        say(f"missing: {line}")
    say_where(options.data)
    try:
        bench.measure()
    except KeyboardInterrupt:
        bench.report()
        raise
    except UnfitError as error:
        parser.error(str(error))
    except (RunError, ServerError) as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1
    bench.report()
    return 1 if bench.faults else 0


class Bench:
    """One run of this command.

    Args:
        options: the options, complete.

    Attributes:
        missing: a line for each peer that is not installed.
        faults: a line for each peer that could not be measured, and each run that lost messages.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._cores = choose_cores()
        asked = list(dict.fromkeys(options.peers))
        self.missing = [line for name in asked if (line := KNOWN[name].missing())]
        there = [name for name in asked if not KNOWN[name].missing()]
        stores = [store for store in STORES if store in {KNOWN[name].beside for name in asked}]
        self._runs: dict[Row, list[Figures]] = {
            Row(store, window, name): []
            for window in dict.fromkeys(options.window)
            for store in stores
            for name in ("", *(name for name in there if KNOWN[name].beside == store))
        }
        self._versions: dict[str, str] = {"": __version__}
        self._others_load = os.getloadavg()[0]
        self.faults: list[str] = []

    def measure(self) -> None:
        """Measures all rows in turn, as often as asked.

        Raises:
            RunError: the load on ours could not be brought to its end.
            UnfitError: the options ask for more than ours takes.
            ServerError: ours did not start.
        """
        if not self._cores.apart:
            say("this machine lends only one core: load and server share it, so rates and latencies mean little")
        done, total, failed = 0, len(self._runs) * self._options.repeat, set[Row]()
        for _ in range(self._options.repeat):
            for row, runs in self._runs.items():
                done += 1
                if row in failed:
                    continue
                try:
                    with tempfile.TemporaryDirectory(prefix="twisted_im-peers-", dir=self._options.data, ignore_cleanup_errors=True) as own:
                        figures = self._measure_peer(row, Path(own)) if row.peer else self._measure_ours(row, Path(own))
                except (RunError, ServerError) as error:
                    if not row.peer:
                        raise
                    failed.add(row)
                    self.faults.append(f"{row.title}, window {row.window}: {error}")
                    say(f"{done}/{total} {row.title}, window {row.window}: left out from here: {str(error).splitlines()[0]}")
                    continue
                runs.append(figures)
                self.faults += [f"{row.title}, window {row.window}: {fault}" for fault in judge(figures)]
                say(
                    f"{done}/{total} {row.title}, window {row.window}: {figures['delivered_per_s']:,.0f}/s, "
                    f"{figures['cpu_us_per_message']:.2f} µs (load {figures['load_cpu_us_per_message']:.2f} µs)"
                )

    def _measure_ours(self, row: Row, own: Path) -> Figures:
        with running("node", node_command("single", row.store, None, []), self._cores.server, own) as server:
            return self._drive(["benchmarks.load_loop"], row, server.port, server.pid, server.told)

    def _measure_peer(self, row: Row, own: Path) -> Figures:
        known, port = KNOWN[row.peer], free_port()
        with started(known.title, known.plan(own, port), port, self._cores.server, own) as peer:
            self._versions[row.peer] = peer.version
            return self._drive(["benchmarks.peers.loop", f"--protocol={known.protocol}"], row, port, peer.pid, peer.told)

    def _drive(self, module: Sequence[str], row: Row, port: int, pid: int, told: Callable[[], str]) -> Figures:
        """One run of a load."""
        options = self._options
        values = {"port": port, "pid": pid, "users": options.users, "window": row.window, "payload": options.payload}
        values |= {"seconds": options.seconds, "warmup": options.warmup}
        return drive([sys.executable, "-m", *module, *(f"--{name}={value}" for name, value in values.items())], self._cores.load, told)

    def report(self) -> None:
        """Shows what has been measured so far, and writes it where it was asked for; then what went wrong."""
        self._show()
        for fault in self.faults:
            print(f"WRONG: {fault}", file=sys.stderr)

    def _show(self) -> None:
        rows = self.rows()
        if self._options.json is not None:
            self._options.json.write_text(
                json.dumps({**self._about(), "missing": self.missing, "faults": self.faults, "rows": rows}, indent=1) + "\n"
            )
        if not rows:
            say("nothing was measured")
            return
        if self._options.page is None:
            print_table(HEADS, [_line(row) for row in rows])
            print(self._caption(rows))
            for note in self._notes(rows):
                print(note)
            return
        text = "\n".join(self._markdown(rows))
        if self._options.page == Path():
            print(text)
        else:
            put(self._options.page, {BLOCK: text})
            say(f"the table stands in {self._options.page}")

    def rows(self) -> list[Figures]:
        """The medians of each row that was measured; store by store, window by window, ours first and the others by what they cost."""
        found = []
        for row, runs in self._runs.items():
            ours = self._runs[Row(row.store, row.window)]
            if not runs or not ours:
                continue
            own, beside = medians(runs), medians(ours)
            cpu, our_cpu = own["cpu_us_per_message"], beside["cpu_us_per_message"]
            found.append(
                {
                    "server": row.peer or OURS,
                    "title": row.title,
                    "version": self._versions[row.peer],
                    "promise": KNOWN[row.peer].promise if row.peer else PROMISE[row.store],
                    "packets": KNOWN[row.peer].packets if row.peer else "6",
                    "beside": row.store,
                    "window": row.window,
                    "delivered_per_s": own["delivered_per_s"],
                    "cpu_us_per_message": cpu,
                    "ratio_to_ours": round(cpu / our_cpu, 3) if our_cpu else None,
                    "speed_to_ours": round(own["delivered_per_s"] / beside["delivered_per_s"], 3) if beside["delivered_per_s"] else None,
                    **{name: own[name] for name in ("p50_ms", "p99_ms", "rss_kib_per_connection", "logins_per_s")},
                    **{name: own[name] for name in ("seconds", "load_cpu_us_per_message", "server_core_share", "load_core_share")},
                    "runs": len(runs),
                }
            )
        return sorted(found, key=lambda row: (row["beside"], row["window"], row["server"] != OURS, row["cpu_us_per_message"]))

    def _about(self) -> Figures:
        options = self._options
        return {
            "users": options.users,
            "payload": options.payload,
            "seconds": options.seconds,
            "repeat": options.repeat,
            "driver": "python",
            "cores_apart": self._cores.apart,
            "load_average_before": round(self._others_load, 1),
            "file_system": file_system(options.data),
            "python": platform.python_version(),
            "machine": machine(),
            "date": datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        }

    def _caption(self, rows: Sequence[Figures]) -> str:
        about, runs = self._about(), [row["runs"] for row in rows]
        times = str(min(runs)) if min(runs) == max(runs) else f"{min(runs)} to {max(runs)}"  # it was interrupted
        versions = {KNOWN[name].product.name: version for name, version in self._versions.items() if name}
        programs = [f"{OURS} {__version__} on Python {about['python']}", *(" ".join(pair) for pair in versions.items())]
        return (
            f"{about['users']} users, {about['payload']} bytes, medians of {times} × {about['seconds']:g} s; "
            f"{', '.join(programs)}; load in Python; {about['machine']}, {about['file_system']}; {about['date'][:10]}"
        )

    def _notes(self, rows: Sequence[Figures]) -> list[str]:
        """What a reader must know, of the run and of single rows."""
        busy = f"Others used this machine: its load average before the run was {self._others_load:.1f}."
        notes = [busy] if self._others_load > 1 else []
        notes += [f"Not measured, or not to be trusted: {fault.splitlines()[0]}." for fault in self.faults]
        return notes + [
            f"{row['title']}, window {row['window']}: the load was busier than the server; trust the CPU here, not the rate."
            for row in rows
            if row["load_core_share"] > BUSY and row["load_core_share"] > row["server_core_share"]
        ]

    def _markdown(self, rows: Sequence[Figures]) -> list[str]:
        cells = [_line(row) for row in rows]
        for row, line in zip(rows, cells, strict=True):
            if row["server"] == OURS:
                line[0] = f"**{line[0]}**"
        lines = [table(HEADS, cells, left=2), "", self._caption(rows) + ".", *(f"\n{note}" for note in self._notes(rows))]
        lines += [f"\nNot measured: {line.partition(':')[0]}." for line in self.missing]
        return lines


def _line(row: Figures) -> list[str]:
    ratio = row["ratio_to_ours"]
    return [
        row["title"],
        row["beside"] if row["server"] != OURS else "",
        str(row["window"]),
        f"{row['delivered_per_s']:,.0f}",
        f"{row['cpu_us_per_message']:.2f} µs",
        "–" if ratio is None else f"{ratio:.2f}",
        f"{row['p50_ms']:.2f} ms",
        f"{row['p99_ms']:.2f} ms",
        f"{row['rss_kib_per_connection']:.1f}",
    ]
