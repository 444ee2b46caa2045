"""`python -m twisted_im demo`: real processes and real clients for a few seconds, with faults, and a summary that is checked.

Strategy: this file is the command line. What is played stands beside it, a file for each: one server (`demo_single`), the schemes of a
cluster (`demo_cluster`), and servers side by side that know nothing of each other (`demo_parallel`). What is said of a cluster is judged as
`twistd im` judges it.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

from twisted.internet.defer import ensureDeferred
from twisted.internet.task import react

from twisted_im.commands.demo_cluster import USERS, ClusterDemo
from twisted_im.commands.demo_parallel import ParallelDemo
from twisted_im.commands.demo_single import Demo
from twisted_im.config import MEMORY_TABLE, SETTINGS, STORES, STRATEGIES, VIA, Mistakes, configured

#: The scheme that needs no code: servers that have nothing to do with each other.
PARALLEL = "parallel"

#: Nodes of a cluster: one with a user each, and no more than there are users.
FEWEST, DEFAULT_NODES, MOST = 2, 3, len(USERS)

EXAMPLES = """Examples:
  python -m twisted_im demo --quick
      one server: six packets, lost connections, and a server that is killed
  python -m twisted_im demo --store=memory
      without a disk; then the server is not killed, since its messages would go with it
  python -m twisted_im demo --strategy=broadcast
  python -m twisted_im demo --strategy=routed --nodes=4
  python -m twisted_im demo --strategy=routed --via=route-server
  python -m twisted_im demo --strategy=routed --table=redis://127.0.0.1:6379/9
      a cluster: where each message goes, which copies are wasted, and a node that is killed;
      a Redis database that nobody else uses
  python -m twisted_im demo --strategy=parallel
      servers side by side, whose users do not reach each other
The status is 0 if every message was accepted, is kept, and was shown once and in order on every device, and as many copies were made as the
scheme says; else 1. Of parallel servers it is 0 if users of one server reach each other, and nobody else."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    several = f"{FEWEST} to {MOST}"
    parser.add_argument("--quick", action="store_true", help="fewer messages")
    parser.add_argument("--store", choices=sorted(STORES), default="sqlite", help="where messages are kept, for a while [default: sqlite]")
    parser.add_argument(
        "--strategy", choices=[*STRATEGIES, PARALLEL], default="single",
        help="how a message finds its receiver; parallel: not at all, if that is on another server [default: single]",
    )  # fmt: skip
    parser.add_argument("--nodes", type=int, help=f"how many servers, {several} [default: {DEFAULT_NODES}, if it is not one alone]")
    parser.add_argument("--via", choices=VIA, help="how routed nodes reach each other [default: mesh]")
    parser.add_argument("--table", action="append", help="the route table of a mesh: a Redis; may be given several times [default: memory]")


def mistake(arguments: argparse.Namespace) -> str:
    """What cannot be played, in one line; empty if all can."""
    strategy, nodes = arguments.strategy, arguments.nodes
    if nodes is not None and strategy == "single":
        return "--nodes: a single server is one node: say --strategy=broadcast, routed or parallel too, or leave it out"
    if nodes is not None and not FEWEST <= nodes <= MOST:
        return f"--nodes takes {FEWEST} to {MOST}, not {nodes}"
    said = {"strategy": "single" if strategy == PARALLEL else strategy, "store": arguments.store, "data": tempfile.gettempdir()}
    said.update({name: value for name in ("via", "table") if (value := getattr(arguments, name))})
    try:
        configured(said, {}, SETTINGS)
    except Mistakes as mistakes:
        return mistakes.lines[0]
    return ""


def run(arguments: argparse.Namespace) -> int:
    wrong = mistake(arguments)
    if wrong:
        print(f"python -m twisted_im demo: {wrong}", file=sys.stderr)
        return 2
    status = 1

    async def main(reactor: Any) -> None:
        nonlocal status
        with tempfile.TemporaryDirectory(prefix="twisted_im-demo-") as folder:
            status = await play(arguments, reactor, Path(folder)).play()

    try:
        react(lambda reactor: ensureDeferred(main(reactor)))
    except SystemExit as end:
        return status if not end.code else 1
    return status


def play(arguments: argparse.Namespace, reactor: Any, folder: Path) -> Demo | ClusterDemo | ParallelDemo:
    """What is to be seen."""
    nodes = arguments.nodes or DEFAULT_NODES
    if arguments.strategy == "single":
        return Demo(reactor, folder, store=arguments.store, messages=40 if arguments.quick else 400)
    if arguments.strategy == PARALLEL:
        return ParallelDemo(reactor, folder, nodes=nodes, store=arguments.store)
    tables = [] if arguments.table in (None, [MEMORY_TABLE]) else arguments.table
    messages = 300 if arguments.quick else 900
    return ClusterDemo(reactor, folder, strategy=arguments.strategy, via=arguments.via, tables=tables, nodes=nodes, messages=messages)
