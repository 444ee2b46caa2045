"""`python -m twisted_im user add|passwd|list|disable|enable`: the users whose passwords are in the store."""

from __future__ import annotations

import argparse
import sys
from datetime import datetime
from typing import Any

from twisted_im.client.terminal import harmless
from twisted_im.commands.asking import new_password
from twisted_im.commands.stores import run_on, user_of
from twisted_im.server.interfaces import Account
from twisted_im.server.passwords import HASHER

EXAMPLES = """Examples:
  python -m twisted_im user add alice --store sqlite:im.db
  python -m twisted_im user passwd alice --store sqlite:im.db < password.txt
  python -m twisted_im user list --store sqlite:im.db
  python -m twisted_im user disable alice --tenant acme --store sqlite:im.db
A running server notices at the next login; a session that is open goes on until its connection ends."""

ACTIONS = {
    "add": "make a user who can log in by password",
    "passwd": "set a user's password; devices need it to log in again",
    "list": "list the users",
    "disable": "let a user log in no more",
    "enable": "let a disabled user log in again",
}

#: Accounts that are read at once.
PAGE = 500


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    for name, summary in ACTIONS.items():
        action = actions.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
        if name != "list":
            action.add_argument("uid", metavar="NAME", help="the user's name")
        whose = "only this tenant's users" if name == "list" else "the user's tenant; by default the default one"
        action.add_argument("--tenant", default=None if name == "list" else "", metavar="T", help=whose)
        action.add_argument("--store", required=True, metavar="STORE", help="where the server keeps its messages, such as sqlite:im.db")
        if name in ("add", "passwd"):
            where = "a file whose first line is the password; by default you are asked, or standard input is read if it is no terminal"
            action.add_argument("--password-file", metavar="FILE", help=where)


def run(arguments: argparse.Namespace) -> int:
    async def act(store: Any) -> None:
        if arguments.action == "list":
            await _list(store, arguments.tenant)
        else:
            await _change(store, arguments)

    return run_on("user", arguments.store, act, create=arguments.action == "add")


async def _change(store: Any, arguments: argparse.Namespace) -> None:
    """Everything but a list."""
    action, uid = arguments.action, arguments.uid
    user = user_of(arguments.tenant, uid)
    known = await store.account(user)
    if action == "add" and known is not None:
        raise ValueError(f"{uid} has an account already; a new password is set with: user passwd")
    if action != "add" and known is None:
        raise ValueError(f"there is no user {uid}{f' in tenant {arguments.tenant}' if arguments.tenant else ''}; see: user list")
    if action in ("add", "passwd"):
        password = new_password(uid, file=arguments.password_file, stdin=not sys.stdin.isatty())
        await store.set_account(user, HASHER.hash(password), None)
    else:
        await store.set_account(user, None, action == "disable")
    print({
        "add": f"{uid} can log in now",
        "passwd": f"{uid} has a new password",
        "disable": f"{uid} can log in no more; a session that is open goes on until its connection ends",
        "enable": f"{uid} can log in again",
    }[action])  # fmt: skip


async def _list(store: Any, tenant: str | None) -> None:
    after = b""
    while page := await store.list_accounts(after, PAGE):
        for account in page:
            if tenant is None or account.user.startswith(tenant.encode() + b"\0"):
                print(_line(account))
        after = page[-1].user


def _line(account: Account) -> str:
    tenant, _, uid = (part.decode("utf-8", "replace") for part in account.user.partition(b"\0"))
    since = datetime.fromtimestamp(account.created / 1000).astimezone()
    state = "disabled" if account.disabled else "password" if account.password else "no password"
    return f"{since:%Y-%m-%d}  {state:<11}  {harmless(uid)}{f'  (tenant {harmless(tenant)})' if tenant else ''}"
