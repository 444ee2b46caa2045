"""The processes of a run, as the one who runs it sees them: servers, route servers, a Redis, and processes full of clients.

Strategy: each writes its log beside the others', and what a log says is read as it comes: where a server listens, whom it does not hear,
what it calls a fault of its own. So the run waits for words and not for time.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from msgspec.json import decode
from twisted.internet.defer import Deferred
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

from twisted_im.faults.devices import Tally


class RunError(Exception):
    """A run did not come to its end; the text is for people."""


class Child(ProcessProtocol):
    """A process of the run, with a log of its own.

    Attributes:
        name: for messages, and of the log.
        ended: why, once it has ended.
        wanted: it is not to end by itself.
    """

    transport: Any

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.ended: Failure | None = None
        self.wanted = True
        self._rest = b""
        self._last = b"it wrote nothing"
        self._log = (folder / f"{name}.log").open("ab", buffering=0)
        self._waiting: list[Deferred[None]] = []

    # ---- what it says

    def outReceived(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self.heard(line)

    def heard(self, line: bytes) -> None:
        """One line of its output."""

    def errReceived(self, data: bytes) -> None:
        self.keep(data)

    def keep(self, data: bytes) -> None:
        """Puts text into its log."""
        self._last = data.strip().rpartition(b"\n")[2] or self._last
        self._log.write(data)

    def processEnded(self, reason: Failure) -> None:
        self.ended = reason
        self._log.close()
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            each.callback(None)

    # ---- what is done to it

    def signal(self, number: int) -> None:
        if self.ended is None:
            os.kill(self.transport.pid, number)

    def end(self) -> Deferred[None]:
        """Fires when it has ended; that is wanted now."""
        self.wanted = False
        wanted: Deferred[None] = Deferred()
        if self.ended is None:
            self._waiting.append(wanted)
        else:
            wanted.callback(None)
        return wanted

    @property
    def status(self) -> int | None:
        """With which it has ended; None for a signal, or if it has not."""
        code: int | None = getattr(self.ended.value, "exitCode", None) if self.ended is not None else None
        return code

    def check(self) -> None:
        """Raises a `RunError` if it has ended by itself."""
        if self.ended is not None and self.wanted:
            raise RunError(f"{self.name} has ended by itself: {self._last.decode('utf-8', 'replace')}")


class Server(Child):
    """twistd with a node or a route server; its log is JSON.

    Args:
        excused: it is to find out that it may not go on, and to say so.

    Attributes:
        port: where it listens for clients; 0 before it does.
        takes_links: whether it listens for links.
        links: how many have come up.
        doubts: whom it does not hear now.
        faults: lines in its log that tell of a fault of its own.
        complaints: the text of each.
    """

    port = links = faults = 0
    takes_links = excused = False

    def __init__(self, name: str, folder: Path) -> None:
        super().__init__(name, folder)
        self.doubts: set[str] = set()
        self.complaints: list[str] = []

    def heard(self, line: bytes) -> None:
        self.keep(line + b"\n")
        try:
            said = json.loads(line)
        except ValueError:
            return
        match said.get("event"):
            case "listening":
                self.port = int(str(said["address"]).rpartition(":")[2])
            case "links":
                self.takes_links = True
            case "link up":
                self.links += 1
            case "doubt":
                self.doubts.add(said["peer"])
            case "certain":
                self.doubts.discard(said["peer"])
        if said.get("level") in ("error", "critical"):
            self.complaints.append(str(said.get("text")))
            self.faults += not self.excused


class Clients(Child):
    """A process full of devices.

    Attributes:
        tally, told: what it has said last, and when.
    """

    tally: Tally | None = None
    told = 0.0

    def heard(self, line: bytes) -> None:
        self.tally, self.told = decode(line, type=Tally), time.monotonic()

    def say(self, line: bytes) -> None:
        if self.ended is None:
            self.transport.write(line + b"\n")

    def stands(self, word: str, since: float) -> bool:
        """Whether all its devices are online that are not away, as it said after it had heard a word, and after a moment."""
        tally = self.tally
        return tally is not None and tally.word == word and self.told > since and tally.online == tally.devices
