"""`twistd im` as a process of its own, and a bare client to see what it does.

Strategy: real processes with deadlines, in a folder of their own; none outlives its test, nor a pytest that is killed (but for those
that twistd puts into the background).
"""

from __future__ import annotations

import os
import re
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Timer
from typing import Any

from twisted_im.errors import Status
from twisted_im.leash import leashed
from twisted_im.wire.codec import request
from twisted_im.wire.framing import Frame, FrameReader
from twisted_im.wire.schema import Command, LoginMethod

ROOT = Path(__file__).parent.parent
TWISTD = [sys.executable, "-c", "from twisted.scripts.twistd import run; run()"]
TWIST = [sys.executable, "-m", "twisted"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)}
DEADLINE = 60  #: seconds for one process: it only ends what hangs, on a machine however busy
HELLO = {"min_version": 1, "max_version": 1, "features": 0, "max_body": 0, "heartbeat": 0, "window": 0, "agent": b""}


@contextmanager
def started(words: list[str], folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that is gone at the end, whatever happens."""
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    process: subprocess.Popen[str] = subprocess.Popen(leashed(os.getpid(), words), cwd=folder, env=ENVIRONMENT, **pipes)
    watch = Timer(DEADLINE, process.kill)  # so that whoever waits for a line that never comes meets the end of the output
    watch.start()
    try:
        yield process
    finally:
        watch.cancel()
        process.kill()
        process.communicate(timeout=DEADLINE)


def address_in(lines: Any) -> str:
    """The address of the first line that says where the server listens."""
    for line in lines:
        said = re.search(r'"address": ?"(127\.0\.0\.1:\d+)"', line)
        if said:
            return said.group(1)
    raise AssertionError("it never said where it listens")


def wait_for(condition: Callable[[], bool], what: str) -> None:
    """Lets other processes run until this holds."""
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        os.sched_yield()


class Talk:
    """A connection that sends a request and waits for its answer."""

    def __init__(self, address: str, trust: Path | None = None) -> None:
        host, port = address.split(":")
        self._socket = socket.create_connection((host, int(port)), timeout=DEADLINE)
        if trust is not None:
            self._socket = ssl.create_default_context(cafile=trust).wrap_socket(self._socket, server_hostname=host)
        self._reader = FrameReader(65536)

    def ask(self, command: Command, **values: Any) -> Frame:
        self.send(command, **values)
        return self.hear()

    def send(self, command: Command, **values: Any) -> None:
        self._socket.sendall(request(command, 1, **values))

    def hear(self) -> Frame:
        while not (frames := self._reader.feed(data := self._socket.recv(65536))):
            assert data, "it hung up"
        return frames[0]

    def login(self, uid: str, secret: bytes, method: LoginMethod = LoginMethod.PASSWORD) -> int:
        """The status of a login, hello included."""
        self.ask(Command.HELLO, **HELLO)
        self.answer = self.ask(Command.LOGIN, method=method, device=bytes(16), tenant=b"", uid=uid.encode(), label=b"", secret=secret)
        return self.answer[2] & 0xFFFF

    def certificate(self) -> bytes:
        """What the server has shown."""
        shown: bytes = self._socket.getpeercert(True)  # type: ignore[attr-defined]
        return shown

    def __enter__(self) -> Talk:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()


def lets_in(address: str) -> bool:
    """Whether anybody may log in there."""
    with Talk(address) as talk:
        return talk.login("alice", b"", LoginMethod.ANONYMOUS) == Status.OK


def event_in(lines: Any, name: str) -> str:
    """The next line of a log that tells of an event."""
    for line in lines:
        if f'"event":"{name}"' in line.replace(": ", ":"):
            return str(line)
    raise AssertionError(f"it never said {name!r}")
