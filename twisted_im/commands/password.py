"""`python -m twisted_im password FILE USER`: sets a user's password in the file that `--auth=file:FILE` names."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from twisted_im.commands.asking import new_password
from twisted_im.errors import ImError
from twisted_im.server.authenticators import write_password
from twisted_im.server.names import checked_name
from twisted_im.wire.schema import MAX_TENANT, MAX_UID

EXAMPLES = """Examples:
  python -m twisted_im password twisted_im.passwords alice
  echo secret | python -m twisted_im password twisted_im.passwords bob --stdin
A running server notices the change by itself."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, help="the password file; it is made if there is none")
    parser.add_argument("uid", help="the user's name")
    parser.add_argument("--tenant", default="", help="the user's tenant; by default the default one")
    parser.add_argument("--stdin", action="store_true", help="read the password from standard input instead of asking for it twice")


def run(arguments: argparse.Namespace) -> int:
    try:
        checked_name(arguments.tenant.encode(), "tenant", most=MAX_TENANT, empty=True)
        checked_name(arguments.uid.encode(), "uid", most=MAX_UID)
        password = new_password(arguments.uid, stdin=arguments.stdin)
        new = write_password(arguments.file, arguments.tenant, arguments.uid, password)
    except EOFError:
        print("password: none was typed; nothing was changed", file=sys.stderr)
        return 1
    except (ImError, OSError, ValueError) as error:
        print(f"password: {error.reason if isinstance(error, ImError) else error}", file=sys.stderr)
        return 1
    print(f"{arguments.uid} {'can log in now' if new else 'has a new password'} ({arguments.file})")
    return 0
