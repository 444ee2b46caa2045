"""`python -m twisted_im restore BACKUP FILE`: puts a backup in the place of a file of messages."""

from __future__ import annotations

import argparse
from contextlib import closing
from pathlib import Path

from twisted_im.commands.keeping import described, megabytes, one_line, watched, written
from twisted_im.server.interfaces import StoreError
from twisted_im.storage.sqlite_check import integrity
from twisted_im.storage.sqlite_copy import contents, draft_of, fresh_of, restore, size
from twisted_im.storage.sqlite_file import Layouts, look

EXAMPLES = """Example, with the server stopped:
  python -m twisted_im restore backups/twisted_im-20270110-033000.db twisted_im.db
The file that was there is kept beside it. Clients see that the store has begun anew: they forget what they kept, and tell their users."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("backup", type=Path, help="what `backup` has written; it stays as it is")
    parser.add_argument("file", type=Path, help="the file that servers use; no server may be using it now")


@one_line
def run(arguments: argparse.Namespace) -> int:
    backup, file = arguments.backup, arguments.file
    if not file.parent.is_dir():
        raise StoreError(f"{file.parent} is not a directory; make it first")
    if file.exists() and not file.is_file():
        raise StoreError(f"{file} is not a file; name the one that servers use")
    if file.exists() and backup.exists() and backup.samefile(file):
        raise StoreError(f"{backup} and {file} are the same file")
    with closing(look(backup)) as connection:
        if not Layouts().of(connection, backup):
            raise StoreError(f"{backup} is empty; choose another backup")
        if watched(lambda: integrity(connection), connection, lambda: f"checking {backup}"):
            raise StoreError(f"{backup} is damaged; choose another backup (python -m twisted_im check says what is wrong)")
        whole, draft = megabytes(size(connection)), draft_of(fresh_of(file))
        kept = watched(lambda: restore(connection, file), connection, lambda: f"{megabytes(written(draft))} of about {whole}")
        print(f"{file}: {described(contents(connection))}")
    if kept is not None:
        print(f"What was there before is in {kept}")
    return 0
