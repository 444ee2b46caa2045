"""`python -m benchmarks schemes`: scheme against scheme, by one command, to choose by.

Strategy: each scheme, number of nodes and locality is a row of its own on fresh processes (`benchmarks.clusters`), first as fast as it
goes, which gives the cost of a message, then at one rate that is the same for all, which gives what it waits. Each node has as many
users as any other node of any row, so what differs between rows is the scheme and not how much a turn of the reactor has to do. Then
whatever can be killed in a scheme is killed under load (`benchmarks.recovery`).

What has been measured is written to `results.json` at once, so an interrupt loses only what was being measured. The pictures are drawn from
that file (`benchmarks.plots`), in the end or again later by `--draw`; and by `--page`, what it says is put into the documentation
(`benchmarks.schemes_page`).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.clusters import PARALLEL, REDIS_TABLE, Scheme, even, measure, redis_missing, running
from benchmarks.curves import ROUTED, crossing, from_nodes, localities_of
from benchmarks.driving import Figures, RunError, UnfitError
from benchmarks.load_nodes import MOST_NODES, Row, rows_of
from benchmarks.pages import PageError
from benchmarks.recovery import KILL_RATE, LATE, NODES, Kill, Times, kills, recover
from benchmarks.schemes_page import PAGE, RESULTS, STORED, write
from benchmarks.servers import ServerError, choose_cores
from benchmarks.terminal import (
    TEMPORARY,
    among,
    duration,
    each,
    file_system,
    folder,
    machine,
    make_folder,
    print_table,
    raise_file_limit,
    say,
    share,
    whole,
)

EXAMPLES = """
examples:
  python -m benchmarks schemes --quick
      does it work? figures of no weight
  python -m benchmarks schemes --out figures
      everything, in a quarter of an hour: a table, figures/results.json, and pictures
  python -m benchmarks schemes --out figures --resume
      goes on from there, after an interrupt
  python -m benchmarks schemes --schemes broadcast,mesh --nodes 2,4,8,16 --locality 0
      two of them, further up
  python -m benchmarks schemes --draw figures
      the pictures again, from figures/results.json
  python -m benchmarks schemes --page figures
      docs/schemes.md and its pictures, from figures/results.json; the run is kept beside them, and --page alone writes them from there

An interrupt (Ctrl-C) keeps what was measured until then. The pictures need matplotlib: pip install '.[bench]'
"""

#: What is compared, by the name on the command line.
SCHEMES = {
    "single": Scheme("single"),
    PARALLEL: Scheme(PARALLEL),
    "broadcast": Scheme("broadcast"),
    "star": Scheme("routed", "route-server"),
    "mesh": Scheme("routed", "mesh", "memory"),
    "redis": Scheme("routed", "mesh", REDIS_TABLE),
}

#: What an earlier run must have been given too, to be gone on with.
SETTINGS = ("users", "window", "rate", "payload", "seconds")
FULL: dict[str, Any] = {"nodes": [1, 2, 4, 8], "users": 100, "locality": [0.0, 0.5, 0.9], "seconds": 3.0, "warmup": 1.0}
QUICK: dict[str, Any] = {"nodes": [1, 2], "users": 10, "locality": [0.0], "seconds": 0.4, "warmup": 0.1}
#: Of the runs in which something is killed.
FULL_TIMES, QUICK_TIMES = Times(before=2.0, down=3.0, after=9.0), Times(before=1.0, down=0.5, after=3.0)
STORE = "sqlite"

#: What keeps a run from being carried on by the next row.
FAILURES = (RunError, ServerError)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of this command."""
    add = parser.add_argument
    add("--schemes", type=each(among(SCHEMES)), default=list(SCHEMES), metavar="NAME,…", help=f"[default: {','.join(SCHEMES)}]")
    add("--nodes", type=each(whole(1, MOST_NODES)), metavar="N,…", help="how many; single has always one [default: 1,2,4,8]")
    add("--users", type=whole(2), metavar="N", help=f"users of each node, an even number [default: {FULL['users']}]")
    add("--locality", type=each(share), metavar="P,…", help="share of the messages that stay on their node [default: 0,0.5,0.9]")
    add("--window", type=whole(1), default=8, metavar="N", help="messages of each user in flight [default: 8]")
    add("--rate", type=whole(1), default=500, metavar="N", help="messages/s of all users, for the latencies [default: 500]")
    add("--payload", type=whole(0, 1000), default=100, metavar="BYTES", help="content of a message [default: 100]")
    add("--seconds", type=duration, metavar="S", help=f"how long each measurement lasts [default: {FULL['seconds']:g}]")
    add("--no-kills", dest="kills", action="store_false", help="kill nothing")
    add("--data", type=folder, default=TEMPORARY, metavar="DIR", help=f"where stores have their files for a while [default: {TEMPORARY}]")
    add("--out", type=Path, default=Path("schemes"), metavar="DIR", help=f"where {RESULTS} and the pictures go [default: schemes]")
    add("--resume", action="store_true", help=f"go on from DIR/{RESULTS}: measure what it lacks, or has failed")
    add("--draw", type=folder, metavar="DIR", help=f"measure nothing: draw the pictures of DIR/{RESULTS} again")
    add(
        "--page",
        type=folder,
        nargs="?",
        const=STORED,
        metavar="DIR",
        help=f"measure nothing: write {PAGE} and what belongs to it, from DIR/{RESULTS} [default DIR: {STORED}]",
    )
    add("--quick", action="store_true", help="few nodes, users and seconds, and what is killed in a mesh and a star, unless said otherwise")
    add("--json", action="store_true", help=f"print what {RESULTS} holds, instead of a table")


def run(options: argparse.Namespace) -> int:
    """Measures and draws; gives the exit status."""
    parser: argparse.ArgumentParser = options.parser
    if options.draw is not None:
        return _show(_read("--draw", options.draw, parser), options.draw, as_json=options.json)
    if options.page is not None:
        return _write_page(_read("--page", options.page, parser), parser)
    for name, value in (QUICK if options.quick else FULL).items():
        if getattr(options, name, None) is None:
            setattr(options, name, value)
    if options.users % 2:
        parser.error(f"--users takes an even number, for users write in pairs: {options.users + 1}, say")
    chosen = [SCHEMES[name] for name in dict.fromkeys(options.schemes)]
    if SCHEMES["redis"] in chosen and (missing := redis_missing()):
        parser.error(f"{missing}; or leave redis out of --schemes")
    if problem := raise_file_limit("--users", options.users * max(options.nodes), "users"):
        parser.error(problem)
    make_folder(options.out, parser)
    try:
        interrupted = Comparison(options, chosen).measure()
    except UnfitError as error:
        parser.error(str(error).replace("choose a window", "choose a --window"))
    except ResumeError as error:
        parser.error(str(error))
    results = json.loads((options.out / RESULTS).read_text())
    status = _show(results, options.out, as_json=options.json)
    if interrupted:
        say(f"interrupted: {options.out / RESULTS} has the {len(results['rows'])} rows and {len(results['kills'])} kills until then")
        return 130
    return status


def _read(option: str, folder: Path, parser: argparse.ArgumentParser) -> Figures:
    """The results in a folder; anything else there ends the program."""
    try:
        results: Figures = json.loads((folder / RESULTS).read_text())
        if not results["rows"] and not results["kills"]:
            raise ValueError("nothing was measured")
    except (OSError, ValueError, KeyError, TypeError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        parser.error(f"{option}: {folder / RESULTS} is no result of this command ({why}); measure first, with --out {folder}")
    return results


def _write_page(results: Figures, parser: argparse.ArgumentParser) -> int:
    if importlib.util.find_spec("matplotlib") is None:
        parser.error("--page draws pictures: pip install matplotlib")
    try:
        for path in write(results, Path()):
            say(f"written: {path}")
    except OSError as error:
        parser.error(f"--page cannot write {error.filename}: {error.strerror}")
    except PageError as error:
        parser.error(f"--page takes {error}")
    return _tell_faults(results)


def _show(results: Figures, out: Path, *, as_json: bool) -> int:
    """Prints, draws, and says what was wrong; gives the exit status."""
    if as_json:
        print(json.dumps(results))
    else:
        show(results)
    if importlib.util.find_spec("matplotlib") is None:
        say(f"no pictures: pip install matplotlib, and then python -m benchmarks schemes --draw {out}")
    elif results["rows"] or results["kills"]:
        from benchmarks.plots import draw

        for path in draw(results, out):
            say(f"picture: {path}")
    return _tell_faults(results)


def _tell_faults(results: Figures) -> int:
    """Says what was wrong; gives the exit status."""
    faults = [f"{each['name']}: {fault}" for each in results["rows"] + results["kills"] for fault in each["faults"]]
    for fault in faults:
        print(f"WRONG: {fault}", file=sys.stderr)
    return 1 if faults else 0


class ResumeError(Exception):
    """An earlier run cannot be gone on with; the text is one line that says what to do."""


class Comparison:
    """One run of this command.

    Args:
        options: the options, complete.
        chosen: the schemes.
    """

    def __init__(self, options: argparse.Namespace, chosen: Sequence[Scheme]) -> None:
        self._options = options
        self._rows = rows_of(chosen, options.nodes, options.locality, [options.window])
        self._kills = kills(chosen) if options.kills else []
        if options.quick:
            few = (Kill(SCHEMES["mesh"], "node"), Kill(SCHEMES["star"], "route_server"))
            self._kills = [kill for kill in self._kills if kill in few]
        self._cores = choose_cores()
        self._results: Figures = {
            "python": platform.python_version(),
            "machine": machine(),
            "date": datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
            "load_average_before": round(os.getloadavg()[0], 1),
            "server_cores": len(self._cores.servers),
            "store": STORE,
            "file_system": file_system(options.data),
            **{name: getattr(options, name) for name in SETTINGS},
            "rows": [],
            "kills": [],
        }
        if options.resume:
            self._resume()

    def _resume(self) -> None:
        """Takes what an earlier run has measured.

        Raises:
            ResumeError: there is nothing, or it was measured otherwise.
        """
        path = self._options.out / RESULTS
        try:
            kept: Figures = json.loads(path.read_text())
            here = {name: self._results[name] for name in (*SETTINGS, "store", "file_system", "machine", "server_cores", "python")}
            for name, value in here.items():
                if kept[name] != value:
                    raise ResumeError(f"{path} is of a run with {name} {kept[name]}, not {value}: leave --resume out, or say the same")
            for kind in ("rows", "kills"):
                kept[kind] = [row for row in kept[kind] if not row.get("failed")]
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise ResumeError(f"{path} has no results ({error}): leave --resume out") from None
        self._results = kept

    def measure(self) -> bool:
        """Measures all, and writes each result as soon as it is there; True if somebody has interrupted that.

        Raises:
            UnfitError: the options ask for more than a server takes.
        """
        self._write()
        with _progress(len(self._rows) + len(self._kills)) as step:
            try:
                for row in self._rows:
                    step(str(row))
                    self._put("rows", self._described(row), self._row, row)
                for kill in self._kills:
                    step(f"killing: {kill}")
                    self._put("kills", _described_kill(kill), self._kill, kill)
                step("")
            except KeyboardInterrupt:
                return True
        return False

    def _described(self, row: Row) -> Figures:
        return {
            "name": str(row),
            "scheme": str(row.scheme),
            "nodes": row.nodes,
            "locality": row.locality,
            "by_server": row.scheme.routed_by_server,
            "by_redis": row.scheme.table == REDIS_TABLE,
        }

    def _put(self, kind: str, described: Figures, take: Callable[[Any, Path], Figures], what: object) -> None:
        """Measures something, unless it was, and writes it down; what fails is written down too, and the next goes on."""
        found = self._results[kind]
        if any(row["name"] == described["name"] for row in found):
            return
        try:
            with tempfile.TemporaryDirectory(prefix="twisted_im-benchmarks-", dir=self._options.data) as folder:
                figures = take(what, Path(folder))
        except FAILURES as error:
            say(f"{described['name']}: {error}")
            figures = {"faults": [str(error).partition("\n")[0]], "failed": True}
        found.append({**described, **figures})
        order = [str(row) for row in self._rows] + [_described_kill(kill)["name"] for kill in self._kills]
        found.sort(key=lambda row: order.index(row["name"]) if row["name"] in order else len(order))
        self._write()

    def _write(self) -> None:
        """Never half a file: whoever interrupts this has the older one."""
        path = self._options.out / RESULTS
        beside = path.with_suffix(".new")
        beside.write_text(json.dumps(self._results, indent=1) + "\n")
        beside.replace(path)

    def _row(self, row: Row, folder: Path) -> Figures:
        options = self._options
        values = {"users": even(options.users * row.nodes, row.nodes), "window": row.window, "payload": options.payload}
        values |= {"seconds": options.seconds, "warmup": options.warmup, "locality": row.locality}
        with running(row.scheme, row.nodes, STORE, self._cores, folder) as cluster:
            return measure(cluster, self._cores.load, paced=options.rate, **values)

    def _kill(self, kill: Kill, folder: Path) -> Figures:
        times = QUICK_TIMES if self._options.quick else FULL_TIMES
        return {**recover(kill, self._cores, folder, times), "down_s": times.down, "nodes": kill.nodes}


def _described_kill(kill: Kill) -> Figures:
    return {"name": f"{kill} is killed", "scheme": str(kill.scheme), "part": kill.part}


@contextmanager
def _progress(steps: int) -> Iterator[Callable[[str], None]]:
    """A bar on the terminal, or a line for each step where there is none; gives what is called at the begin of a step and at the end."""
    done = -1
    if importlib.util.find_spec("rich") is None or not sys.stderr.isatty():

        def told(text: str) -> None:
            nonlocal done
            done += 1
            if text:
                say(f"{done + 1}/{steps} {text}")

        yield told
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=steps)

        def moved(text: str) -> None:
            nonlocal done
            done += 1
            bar.update(task, completed=done, description=text)

        yield moved


def show(results: Figures) -> None:
    """Prints what was measured, for people."""
    heads = ["", "nodes", "local", "delivered/s", "µs: nodes", "route s.", "Redis", "ms: p50", "p99", "p99.9"]
    heads += ["copies", "wasted", "hops", "bytes", "settings"]
    lines = [
        [
            row["scheme"],
            str(row["nodes"]),
            f"{row['locality']:g}",
            f"{row['delivered_per_s']:,.0f}",
            f"{row['node_cpu_us_per_message']:.1f}",
            f"{row['route_server_cpu_us_per_message']:.1f}" if row["by_server"] else "–",
            f"{row['redis_cpu_us_per_message']:.1f}" if row["by_redis"] else "–",
            *(f"{row[name]:.1f}" for name in ("p50_ms", "p99_ms", "p999_ms")),
            f"{row['copies_per_message']:.2f}",
            f"{row['wasted_copies_per_message']:.2f}",
            f"{row['hops_per_message']:.2f}",
            f"{row['bytes_per_message']:,.0f}",
            str(row["settings"]),
        ]
        for row in sorted(results["rows"], key=lambda row: (row["nodes"], row["locality"]))
        if not row.get("failed")
    ]
    if lines:
        print_table(heads, lines)
        cores = f"{results['server_cores']} core{'s' if results['server_cores'] > 1 else ''} for all servers"
        print(
            f"{results['users']} users a node, window {results['window']}, {results['payload']} bytes, {results['seconds']:g} s; latencies "
            f"at {results['rate']:,} messages/s in all; {results['store']} on {results['file_system']}; {cores}; "
            f"Python {results['python']}; {results['machine']}; {results['date']}"
        )
        print(
            "A message makes two pushes, its own and its receipt's: copies, wasted and hops are for each; CPU (µs) and bytes for both. "
            "Settings are those that an operator gives to all processes together."
        )
    rows = [row for row in results["rows"] if not row.get("failed")]
    for other in ROUTED:
        found = {locality: crossing(rows, other, locality) for locality in localities_of(rows)}
        told = [f"{from_nodes(at)} ({locality:.0%} local)" for locality, at in found.items() if at is not None]
        if told:
            print(f"Broadcast costs more CPU than {other} {', '.join(told)}.")
    fell = [
        [
            kill["name"],
            f"{kill['recovery_s']:.1f} s",
            f"{kill['late']:,} of {kill['sent']:,}",
            f"{kill['latest_ms']:,.0f} ms",
            str(kill["lost"]),
        ]
        for kill in results["kills"]
        if not kill.get("failed")
    ]
    if fell:
        print_table(["", "all well after", "late messages", "the latest", "lost"], fell)
        down = next(kill["down_s"] for kill in results["kills"] if not kill.get("failed"))
        print(
            f"{NODES} nodes, {KILL_RATE} messages/s. What was killed is started again after {down:g} s. "
            f"Late is what was shown more than {1000 * LATE:g} ms after it was due."
        )
