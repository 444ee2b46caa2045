"""Runs somebody else's server: settings written to a folder, started on one core, awaited, and always ended.

Strategy: a server is ready when its log says so and its port answers. It may be several processes (a virtual machine and its helpers), so
CPU and memory are those of the whole tree below the one that was started. The kernel ends it if the benchmark is killed
(`twisted_im.leash`). In the end it is killed at once, not asked: what it has on disk is thrown away.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.servers import STOP_SECONDS, TAIL_LINES, ServerError, environment, on_core, rss_kib

LOG = "log"  #: the file, in the server's folder, to which it writes

PATIENCE = 60.0  #: seconds until a server must be ready; those on the Erlang machine take some on one busy core

_LEASHED = "import os, sys; from twisted_im.leash import leash; leash(int(sys.argv[1])); os.execvp(sys.argv[2], sys.argv[2:])"
_LOOK_AGAIN = 0.02  #: seconds between two attempts to reach a port
_TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Plan:
    """How a server is started.

    Attributes:
        command: its command line.
        files: name → text, written to its folder before; these are its settings.
        environment: variables to be set.
        ready: a pattern for its log, which it matches when the server has begun; its group is the version.
    """

    command: Sequence[str]
    files: Mapping[str, str]
    environment: Mapping[str, str]
    ready: str


@dataclass(frozen=True)
class Peer:
    """Somebody else's server, running.

    Attributes:
        pid: the process at the root of its tree.
        port: where it listens on 127.0.0.1.
        folder: where it has its settings, its data, and its log.
        version: as it says itself.
    """

    pid: int
    port: int
    folder: Path
    version: str = ""

    def log(self) -> str:
        """All that it has written so far."""
        return (self.folder / LOG).read_text(errors="replace")

    def told(self) -> str:
        """The end of its log, for messages."""
        return "\n".join(self.log().splitlines()[-TAIL_LINES:]) or "(it wrote nothing)"


@contextmanager
def started(name: str, plan: Plan, port: int, core: int, folder: Path) -> Iterator[Peer]:
    """Starts a server, waits until it has told its version and its port answers, and ends it with everything that it has started.

    Args:
        name: for messages.
        plan: how it is started.
        port: where it will listen.
        core: where to run it.
        folder: an empty folder of its own.

    Raises:
        ServerError: it ended, or did not listen in time; the text holds the end of its log.
    """
    for file, text in plan.files.items():
        (folder / file).write_text(text)
    with on_core(core), (folder / LOG).open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", _LEASHED, str(os.getpid()), *plan.command],
            cwd=folder,
            env={**environment(), **plan.environment},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    peer = Peer(process.pid, port, folder)
    try:
        yield replace(peer, version=_await_ready(name, plan, peer, process))
    finally:
        end(process)


def _await_ready(name: str, plan: Plan, peer: Peer, process: subprocess.Popen[bytes]) -> str:
    """Waits; gives the version."""
    deadline = time.monotonic() + PATIENCE
    while True:
        told = re.search(plan.ready, peer.log())
        if told and _answers(peer.port):
            return told.group(1)
        ended = process.poll()
        if ended is not None or time.monotonic() > deadline:
            fault = f"was not ready within {PATIENCE:g} s" if ended is None else f"ended with status {ended} before it was ready"
            raise ServerError(f"{name} {fault}. The end of its log:\n{peer.told()}")
        time.sleep(_LOOK_AGAIN)


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def end(process: subprocess.Popen[bytes]) -> None:
    """Kills a process and all below it, and waits until they are gone."""
    pids = tree(process.pid) if process.poll() is None else []
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    process.wait()
    deadline = time.monotonic() + STOP_SECONDS
    while any(_alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(_LOOK_AGAIN)


def free_port() -> int:
    """A port that nobody has at this moment: these servers cannot be asked to choose one and to tell."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def tree(root: int) -> list[int]:
    """A process and all its descendants.

    Raises:
        OSError: it is gone.
    """
    _stat(root)
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                children.setdefault(int(_stat(int(entry.name))[1]), []).append(int(entry.name))
            except OSError:  # it ended meanwhile
                continue
    found = [root]
    for pid in found:
        found += children.get(pid, [])
    return found


def tree_cpu_seconds(root: int) -> float:
    """The CPU of a whole tree so far, user and system, in seconds; of processes in it that have ended too, if they were waited for.

    Raises:
        OSError: it is gone.
    """
    ticks = 0
    for pid in tree(root):
        try:
            ticks += sum(map(int, _stat(pid)[11:15]))  # proc(5): utime, stime, cutime, cstime
        except OSError:
            if pid == root:
                raise
    return ticks / _TICK


def tree_rss_kib(root: int) -> float:
    """The resident memory of a whole tree, in KiB.

    Raises:
        OSError: it is gone.
    """
    total = 0.0
    for pid in tree(root):
        try:
            total += rss_kib(pid)
        except OSError:
            if pid == root:
                raise
    return total


def _stat(pid: int) -> list[str]:
    """proc(5), /proc/pid/stat: the fields from the third on, the state."""
    text = Path(f"/proc/{pid}/stat").read_text()
    return text[text.rindex(")") + 2 :].split()


def _alive(pid: int) -> bool:
    try:
        return _stat(pid)[0] != "Z"
    except OSError:
        return False
