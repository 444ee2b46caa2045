"""`python -m twisted_im backup FILE TARGET`: a copy of a file of messages, made while a server uses it."""

from __future__ import annotations

import argparse
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from twisted_im.commands.keeping import described, megabytes, one_line, watched, written
from twisted_im.server.interfaces import StoreError
from twisted_im.storage.sqlite_copy import contents, copy_to, draft_of, size
from twisted_im.storage.sqlite_file import Layouts, look

EXAMPLES = """Examples:
  python -m twisted_im backup twisted_im.db backups/
  python -m twisted_im backup twisted_im.db latest.db --force
In a folder, the copy is named after the file and the time (UTC). It is whole or not there at all, and can be checked and restored."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, help="the file of messages; a server may be using it")
    parser.add_argument("target", type=Path, help="the copy; or a folder for it")
    parser.add_argument("--force", action="store_true", help="replace the target if it exists")


@one_line
def run(arguments: argparse.Namespace) -> int:
    file, target = arguments.file, arguments.target
    with closing(look(file)) as connection:
        if not Layouts().of(connection, file):
            raise StoreError(f"{file} is empty; there is nothing to copy")
        if target.is_dir():
            target = target / f"{file.stem}-{datetime.now(UTC):%Y%m%d-%H%M%S}{file.suffix}"
        if target.exists() and target.samefile(file):
            raise StoreError(f"{target} is the file itself; name another target")
        if target.exists() and not arguments.force:
            raise StoreError(f"{target} exists; name another target, or replace it with --force")
        whole = megabytes(size(connection))
        watched(lambda: copy_to(connection, target), connection, lambda: f"{megabytes(written(draft_of(target)))} of about {whole}")
    with closing(look(target)) as copy:
        print(f"{target}: {described(contents(copy))}; {megabytes(written(target))}")
    return 0
