"""`python -m twisted_im device list|remove`: a user's devices, as the store knows them."""

from __future__ import annotations

import argparse
from datetime import datetime
from typing import Any

from twisted_im.client.terminal import harmless
from twisted_im.commands.stores import run_on, user_of

EXAMPLES = """Examples:
  python -m twisted_im device list alice --store sqlite:im.db
  python -m twisted_im device remove alice 3f2a90c1 --store sqlite:im.db
A removed device needs its password to log in again, and is then a new one; a session that is open goes on until its connection ends."""

ACTIONS = {"list": "list a user's devices", "remove": "forget a device, and the token that lets it in"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    for name, summary in ACTIONS.items():
        action = actions.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
        action.add_argument("uid", metavar="NAME", help="the user's name")
        if name == "remove":
            action.add_argument("device", metavar="DEVICE", help="the device's id, or so much of its beginning that it is the only one")
        action.add_argument("--tenant", default="", metavar="T", help="the user's tenant; by default the default one")
        action.add_argument("--store", required=True, metavar="STORE", help="where the server keeps its messages, such as sqlite:im.db")


def run(arguments: argparse.Namespace) -> int:
    async def act(store: Any) -> None:
        user = user_of(arguments.tenant, arguments.uid)
        if await store.account(user) is None:
            raise ValueError(f"there is no user {arguments.uid}; see: user list")
        devices = await store.devices(user)
        if arguments.action == "list":
            for device in devices:
                last = datetime.fromtimestamp(device.last_login / 1000).astimezone()
                label = harmless(device.label.decode("utf-8", "replace")) or "(no name)"
                print(f"{device.device.hex()}  last login {last:%Y-%m-%d %H:%M}  {label}")
            return
        meant = [device.device for device in devices if arguments.device and device.device.hex().startswith(arguments.device.lower())]
        if len(meant) != 1:
            raise ValueError(f"{arguments.uid} has {len(meant) or 'no'} devices {arguments.device}…; see: device list {arguments.uid}")
        await store.remove_device(user, meant[0])
        print(f"{meant[0].hex()} is removed; a session that is open goes on until its connection ends")

    return run_on("device", arguments.store, act)
