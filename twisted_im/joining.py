"""The line by which another node joins a cluster.

Strategy: what was said to this node is said to the next one as well, in the same folder, but for what each node has of its own: its name,
its ports, its pid file, and certificates in whose files the name stands. So they share what nodes share: the store, the secret, the users.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import socket
import sys
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from twisted_im.config import CONFIG, DEFAULT
from twisted_im.edge.endpoints import parts_of

#: What each node has of its own, or what is this one's alone.
_OWN = ("name", "listen", "advertise", "processes", "share-port", "link-listen", "link-certificate", "standby")


def join(options: Any, server: Any) -> str:
    """The command that starts another node beside this one.

    Args:
        options: an `Options`, of this node.
        server: its `ImServer`, started.
    """
    own = options["name"]
    name = another_name(own, [lease.node for lease in server.node.tenure.look.leases])
    listen = [another_port(description) for description in options["listen"]]
    words: list[str] = []
    found = options.found
    for setting in options.settings:
        value, origin = found[setting.name]
        if origin == DEFAULT or (setting.name in _OWN and setting.name not in ("link-listen", "link-certificate")):
            continue
        if setting.name in _OWN:
            words.append(f"{setting.flag}={another_port(value).replace(own, name)}")
        elif origin == setting.flag or origin == setting.variable:
            shown = setting.kind.shown(value)  # this is logged
            items = shown if isinstance(shown, list) else [shown]
            words += [setting.flag] if value is True else [f"{setting.flag}={item}" for item in items if item is not False]
    words += [f"--name={name}", *(f"--listen={each.removesuffix(':interface=127.0.0.1')}" for each in listen)]
    path = options[CONFIG.name] or os.environ.get(CONFIG.variable)
    if path:
        words.insert(0, f"--{CONFIG.name}={path}")
    return shlex.join(["cd", str(options.folder)]) + " && " + shlex.join([_twistd(), "-n", f"--pidfile={name}.pid", "im", *words])


def _twistd() -> str:
    """What runs this, if that is twistd."""
    here = sys.argv[0]
    return here if os.path.basename(here).startswith("twistd") and here != shutil.which("twistd") else "twistd"


def another_name(name: str, taken: Iterable[str]) -> str:
    """A name for the next node: the number at the end of this one's, and one more."""
    stem, number = re.fullmatch(r"(.*?)(\d*)", name, re.DOTALL).groups()  # type: ignore[union-attr]  # it matches anything
    taken = {name, *taken}
    stem, count = (stem, int(number)) if number else (f"{name}-", 1)
    while f"{stem}{count}" in taken or (not number and count < 2) or count <= int(number or 0):
        count += 1
    return f"{stem}{count}"


def another_port(description: str) -> str:
    """The endpoint string with the next port that is free on this machine, or with another path. Port 0 is any free one already."""
    if description.partition(":")[0] == "unix":
        path = parts_of(description)["address"]
        return description.replace(path, f"{path}-2", 1)
    port = parts_of(description.removeprefix("haproxy:")).get("port", "0")
    if not port.isdecimal() or port == "0":
        return description
    return re.sub(rf"(?<=[:=]){port}(?=:|\Z)", str(_free_after(int(port))), description, count=1)


def _free_after(port: int) -> int:
    for number in range(port + 1, 65536):
        with suppress(OSError), socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", number))
            return number
    return 0
