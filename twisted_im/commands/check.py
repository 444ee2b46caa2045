"""`python -m twisted_im check FILE`: whether a file of messages is whole."""

from __future__ import annotations

import argparse
from contextlib import closing
from pathlib import Path

from twisted_im.commands.keeping import described, one_line, watched
from twisted_im.server.interfaces import StoreError
from twisted_im.storage.sqlite_check import findings
from twisted_im.storage.sqlite_copy import contents
from twisted_im.storage.sqlite_file import Layouts, look

EXAMPLES = """Examples:
  python -m twisted_im check twisted_im.db
  python -m twisted_im check backups/twisted_im-20270110-033000.db
Each finding is one line. The status is 0 if there is none. A server may be using the file, which is only read."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, help="a file of messages, or a backup of one")


@one_line
def run(arguments: argparse.Namespace) -> int:
    file, stage = arguments.file, ""

    def tell(what: str) -> None:
        nonlocal stage
        stage = what

    with closing(look(file)) as connection:
        layouts = Layouts()
        version = layouts.of(connection, file)
        if not version:
            raise StoreError(f"{file} is empty")
        if version < layouts.newest:
            raise StoreError(f"{file} has layout {version}; upgrade it to {layouts.newest} first (python -m twisted_im upgrade)")
        found = watched(lambda: findings(connection, tell), connection, lambda: f"checking {stage}")
        for finding in found:
            print(finding)
        if not found:
            print(f"{file} is whole: {described(contents(connection))}")
    return 1 if found else 0
