"""`python -m twisted_im upgrade FILE`: brings a file of messages up to this version, as a server does when it starts."""

from __future__ import annotations

import argparse
from contextlib import closing
from pathlib import Path

from twisted_im.commands.keeping import one_line
from twisted_im.storage.sqlite_file import Database, Layouts, look

EXAMPLES = """Examples:
  python -m twisted_im upgrade twisted_im.db --dry-run
  python -m twisted_im upgrade twisted_im.db
The file is copied first. A server does the same when it starts; here it can be done, and waited for, before."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, help="the file of messages; no server may be using it")
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, and do nothing")


@one_line
def run(arguments: argparse.Namespace) -> int:
    file = arguments.file
    with closing(look(file)) as connection:
        layouts = Layouts()
        version = layouts.of(connection, file)
    steps = layouts.after(version)
    backup = layouts.backup_of(file, version)
    if not steps:
        print(f"{file} has layout {version}, the newest; there is nothing to do")
    elif arguments.dry_run:
        print(f"{file} has layout {version}; the steps to {layouts.newest} would be: {', '.join(step.name for step in steps)}")
        print(f"It would be copied to {backup} first" if version else "It is empty and would not be copied first")
    else:
        Database(file).close()
        print(f"{file} has layout {layouts.newest} now; " + (f"what it was before is in {backup}" if version else "it was empty before"))
    return 0
