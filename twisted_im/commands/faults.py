"""`python -m twisted_im faults`: servers and their clients as real processes, faults at random moments, and the oracle's word.

Strategy: everything is judged while the arguments are read, so a mistake is one line and nothing has started. `twisted_im.faults.run` has
the story; this file prints it, and sees to it that no process is left, however it ends.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from twisted.internet.defer import ensureDeferred
from twisted.python.failure import Failure

from twisted_im.commands.oracle import judge
from twisted_im.faults.children import RunError
from twisted_im.faults.harm import KINDS
from twisted_im.faults.recorder import PLANTED
from twisted_im.faults.redis import MISSING, redis_program
from twisted_im.faults.run import PROMISED, Outcome, Run
from twisted_im.faults.stage import Topology
from twisted_im.faults.timing import deliveries
from twisted_im.oracle import Report

EXAMPLES = f"""Kinds of faults:
{chr(10).join(f"  {name:<9}{kind.what}" for name, kind in KINDS.items())}
Faults that can be planted in the clients:
{chr(10).join(f"  {name:<9}{what}" for name, what in PLANTED.items())}
Examples:
  python -m twisted_im faults
      a minute of everything
  python -m twisted_im faults --kind kill --minutes 30 --every 30
  python -m twisted_im faults --store memory
      everything that such a server survives
  python -m twisted_im faults --strategy routed --table redis --minutes 10 --every 10
      three nodes, and a Redis of the run's own
  python -m twisted_im faults --strategy broadcast --kind drain
      a rolling restart: no application may notice it
  python -m twisted_im faults --plant repeat
      does the oracle find it?
The status is 0 if every promise was kept, else 1; the logs then stay, and can be judged again with: python -m twisted_im oracle"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--strategy", choices=("single", "broadcast", "routed"), default="single", help="as for twistd [default: single]")
    parser.add_argument("--via", choices=("mesh", "route-server"), help="as for twistd, for routed [default: mesh]")
    parser.add_argument("--table", choices=("memory", "redis"), default="memory", help="redis: one that is started [default: memory]")
    parser.add_argument("--nodes", type=_whole(2, 16), help="of a cluster [default: 3]")
    parser.add_argument("--kind", action="append", choices=KINDS, help="what is done; may be given several times [default: all there is]")
    parser.add_argument("--minutes", type=_number(0.05, 10_000), default=1.0, help="how long, or until each fault has come [default: 1]")
    parser.add_argument("--users", type=_whole(2, 1000), default=6, help="each with two devices, and a third one at the end [default: 6]")
    parser.add_argument("--rate", type=_number(0.01, 100), default=2.0, help="messages a second and device [default: 2]")
    parser.add_argument("--every", type=_number(0.1, 3600), default=4.0, help="seconds from fault to fault, on average [default: 4]")
    parser.add_argument("--guests", type=_whole(10, 10_000), default=100, help="who log in at once, in a crowd [default: 100]")
    parser.add_argument("--store", default="sqlite", help="as for twistd; sqlite alone is a new file beside the logs [default: sqlite]")
    parser.add_argument("--seed", type=int, help="of which fault comes when [default: a new one]")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where the logs go; by default nowhere, unless something was found")
    parser.add_argument("--plant", choices=PLANTED, default="", help="plant a fault in the clients, to see the oracle find it")


def run(arguments: argparse.Namespace) -> int:
    kept = arguments.out is not None
    try:
        topology = _topology(arguments)
        kinds = _kinds(arguments.kind, topology)
        folder = _folder(arguments.out)
    except OSError as error:
        return _complain(f"{error.filename}: {error.strerror}")
    except ValueError as error:
        return _complain(str(error))
    seed = random.SystemRandom().randrange(1_000_000) if arguments.seed is None else arguments.seed
    store = f"sqlite:{folder / 'store.db'}" if arguments.store == "sqlite" else _absolute(arguments.store)
    how = f"about every {arguments.every:g} s for {arguments.minutes:g} min"
    print(f"seed {seed}; {topology}; {', '.join(kinds)}, {how}; logs in {folder}", flush=True)
    status = 1
    try:
        fault_run, why = _play(
            folder,
            topology=replace(topology, store=store),
            kinds=kinds,
            seconds=arguments.minutes * 60,
            users=arguments.users,
            every=arguments.every,
            rate=arguments.rate,
            guests=arguments.guests,
            seed=seed,
            plant=arguments.plant,
        )
        if why:
            return _complain(why)
        logs = sorted(folder.glob("*.jsonl"))
        for kind, took in deliveries(logs, fault_run.outcome.windows).items():
            fault_run.outcome.took[f"{kind}: messages shown"] = took
        status = 0 if _tell(fault_run.outcome, *judge(logs)) else 1
    except KeyboardInterrupt:
        print("\nfaults: broken off, so nothing was judged", file=sys.stderr)
        raise
    finally:
        if status and not kept:
            print(f"the logs are in {folder}", file=sys.stderr)
        elif not kept:
            shutil.rmtree(folder)
    return status


def _play(folder: Path, **how: Any) -> tuple[Run, str]:
    """Plays it; gives why it did not come to its end, or nothing.

    Raises:
        KeyboardInterrupt: somebody broke it off.
    """
    from twisted.internet import reactor

    reactor_: Any = reactor
    fault_run = Run(reactor_, folder, say=_say, **how)
    done: list[str] = []

    def ended(result: Failure | None) -> None:
        if isinstance(result, Failure):
            if not result.check(RunError, TimeoutError):
                result.printTraceback()
            done.append(str(result.value) or type(result.value).__name__)
        else:
            done.append("")
        if reactor_.running:
            reactor_.stop()

    reactor_.addSystemEventTrigger("before", "shutdown", fault_run.close)
    reactor_.callWhenRunning(lambda: ensureDeferred(fault_run.play()).addBoth(ended))
    reactor_.run()
    if not done:
        raise KeyboardInterrupt
    return fault_run, done[0]


def _tell(outcome: Outcome, report: Report, text: str) -> bool:
    """Prints what became of it; gives whether it was good."""
    print(f"\n{text}\n")
    if outcome.took:
        print("Longest:")
    for name, seconds in sorted(outcome.took.items()):
        promised = f"   promised: {PROMISED[name]:g} s{', SO IT IS LATE' if name in outcome.late else ''}" if name in PROMISED else ""
        print(f"  {name:<42}{max(seconds):>7.1f} s  of {len(seconds):<6,}{promised}".rstrip())
    for each in outcome.wrong:
        print(f"Wrong: {each}.")
    if outcome.unsettled:
        print(f"Not settled: {outcome.unsettled}.")
    if outcome.server_faults:
        print(f"The servers' logs tell of {outcome.server_faults} faults of their own: *.log, level error or critical.")
    return report.holds and outcome.good


def _topology(arguments: argparse.Namespace) -> Topology:
    """Which servers there are to be.

    Raises:
        ValueError: there are none like that, or a program for them is missing.
    """
    strategy, store = arguments.strategy, arguments.store
    if strategy != "routed" and (arguments.via or arguments.table != "memory"):
        raise ValueError(f"--via and --table are for --strategy=routed, not for {strategy}")
    if arguments.via == "route-server" and arguments.table == "redis":
        raise ValueError("--table=redis is for a mesh: leave out --via=route-server")
    if strategy == "single":
        if arguments.nodes:
            raise ValueError("--nodes: a single server is one: say --strategy=broadcast or routed")
        return Topology(store=store)
    if store == "memory":
        raise ValueError("--store: the nodes of a cluster share one store, and memory is a process's own: leave it out")
    if arguments.table == "redis" and not redis_program():
        raise ValueError(MISSING)
    return Topology(strategy, arguments.via or "mesh", arguments.table, arguments.nodes or 3, store)


def _kinds(wanted: list[str] | None, topology: Topology) -> list[str]:
    """The kinds of faults: those that were asked for, or all that this cluster can have.

    Raises:
        ValueError: it cannot have one that was asked for.
    """
    lacking = [kind for kind in wanted or () if not KINDS[kind].needs(topology)]
    if lacking:
        raise ValueError(f"--kind {lacking[0]} {KINDS[lacking[0]].lack}")
    return list(dict.fromkeys(wanted or [name for name, kind in KINDS.items() if kind.needs(topology)]))


def _folder(wanted: Path | None) -> Path:
    """An empty folder.

    Raises:
        ValueError: it is not empty.
        OSError: it cannot be made.
    """
    if wanted is None:
        return Path(tempfile.mkdtemp(prefix="twisted_im-faults-"))
    wanted.mkdir(parents=True, exist_ok=True)
    if any(wanted.iterdir()):
        raise ValueError(f"--out={wanted} is not empty; name another folder")
    return wanted.resolve()


def _absolute(store: str) -> str:
    """The same store for a server that works in another folder."""
    kind, colon, path = store.partition(":")
    return f"{kind}:{Path(path).resolve()}" if kind == "sqlite" and colon else store


def _number(low: float, high: float) -> Callable[[str], float]:
    def number(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = low - 1
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"takes a number from {low:g} to {high:g}, not {text!r}")
        return value

    return number


def _whole(low: int, high: int) -> Callable[[str], int]:
    def whole(text: str) -> int:
        if not text.isascii() or not text.isdigit() or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"takes a whole number from {low} to {high}, not {text!r}")
        return int(text)

    return whole


def _say(line: str) -> None:
    print(line, flush=True)


def _complain(why: str) -> int:
    print(f"faults: {why}", file=sys.stderr)
    return 1
