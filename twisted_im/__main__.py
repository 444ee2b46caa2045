"""`python -m twisted_im COMMAND`: what is not the server itself. Each command is a module of `twisted_im.commands`."""

from __future__ import annotations

import argparse
import sys
from importlib import import_module
from typing import NoReturn

#: command → its one line in the help
COMMANDS = {
    "backup": "copy a file of messages while a server uses it",
    "certificate": "make certificates for TLS, or show what is in one",
    "chat": "talk to somebody, line by line",
    "check": "look whether a file of messages is whole",
    "configuration": "write the page of all settings, and an example file",
    "demo": "watch a server, or a cluster, and its users for a few seconds, faults included",
    "device": "list or remove a user's devices, in the store",
    "faults": "run a server and its clients under faults, and have the oracle judge",
    "oracle": "judge the logs of a run: was anything lost, shown twice, or out of order?",
    "password": "set a user's password in a password file",
    "protocol": "write the protocol's specification and its test vectors",
    "restore": "put a backup in the place of a file of messages",
    "upgrade": "bring a file of messages up to this version",
    "user": "make, list, disable or enable users, or set their passwords, in the store",
}


class Parser(argparse.ArgumentParser):
    """A mistake is one line; argparse would print the whole usage before it."""

    def error(self, message: str) -> NoReturn:
        """Ends the program with status 2."""
        self.exit(2, f"{self.prog}: {message} (see: {self.prog} --help)\n")


def main(words: list[str] | None = None) -> int:
    """Runs one command; gives its exit status."""
    parser = Parser(
        prog="python -m twisted_im",
        description="An instant-messaging server. The server itself is started with: twistd -n im --help",
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    words = sys.argv[1:] if words is None else words
    for name, summary in COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
        if name in words[:1]:
            try:
                module = import_module(f"twisted_im.commands.{name}")
            except ModuleNotFoundError as error:  # of an extra
                if error.name is None or error.name.startswith("twisted_im"):
                    raise
                print(f"{name}: the package {error.name} is not installed: pip install {error.name}", file=sys.stderr)
                return 1
            command.formatter_class = argparse.RawDescriptionHelpFormatter
            command.epilog = getattr(module, "EXAMPLES", None)
            module.add_arguments(command)
            command.set_defaults(run=module.run)
    arguments = parser.parse_args(words)
    try:
        status: int = arguments.run(arguments)
    except KeyboardInterrupt:
        return 130
    return status


if __name__ == "__main__":
    sys.exit(main())
