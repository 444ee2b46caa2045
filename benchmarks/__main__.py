"""`python -m benchmarks COMMAND`: each command is a module of `benchmarks`."""

from __future__ import annotations

import argparse
import signal
import sys
from importlib import import_module
from types import FrameType
from typing import NoReturn

#: command → its one line in the help
COMMANDS = {
    "load": "what one message costs a node, under full load, beside what it costs a bare relay in C",
    "connections": "what an idle connection and a login cost a node, and how it bears everybody's coming back at once",
    "group": "what it costs to deliver a message to everybody in a large group",
    "schemes": "the schemes against each other: what a message costs, what it waits, and what a kill does",
    "peers": "what one message costs on other servers, beside what it costs on ours",
    "capacity": "how many messages a cluster of any size carries in each scheme, by a model that is checked against real ones",
    "budget": "what this server may cost, beside what it does cost",
    "all": "all of these in one run",
}

#: What `all` runs, in this order: name → the words for it; more that keep it short enough in full; and more for --quick. "{out}" is where
#: results go.
PARTS: dict[str, tuple[list[str], list[str], list[str]]] = {
    "schemes": (["schemes", "--out={out}/schemes"], ["--seconds=2"], ["--quick", "--no-kills", "--nodes=2"]),
    "capacity": (["capacity", "--check", "--repeat=1", "--out={out}/capacity"], [], ["--quick"]),
    "budget": (["budget", "--out={out}/budget"], [], ["--quick"]),
    "peers": (["peers", "--repeat=1", "--json={out}/peers.json"], ["--seconds=3"], ["--quick"]),
}


class Parser(argparse.ArgumentParser):
    """A mistake is one line; argparse would print the whole usage before it."""

    def error(self, message: str) -> NoReturn:
        """Ends the program with status 2."""
        self.exit(2, f"{self.prog}: {message} (see: {self.prog} --help)\n")


def main(words: list[str] | None = None) -> int:
    """Runs one command; gives its exit status."""
    parser = Parser(prog="python -m benchmarks", description="Measures twisted_im.")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, summary in COMMANDS.items():
        module = import_module(f"benchmarks.{name}")
        command = commands.add_parser(
            name,
            help=summary,
            description=f"Measures {summary}.",
            epilog=module.EXAMPLES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(command)
        command.set_defaults(run=module.run, parser=command, parts=PARTS)
    options, unknown = parser.parse_known_args(words)
    if unknown:  # told by the command, whose help has what it takes
        options.parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        status: int = options.run(options)
    except KeyboardInterrupt:
        print("stopped; nothing is left running", file=sys.stderr)
        return 130
    return status


def _interrupt(signum: int, frame: FrameType | None) -> NoReturn:
    """SIGTERM ends a run in the same order as Ctrl-C."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
