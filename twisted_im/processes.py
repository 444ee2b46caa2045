"""Several nodes behind one port of one machine, each a process, kept up by one that does nothing else.

Strategy: the children are `twistd im` as an operator could start it, with this one's settings and a name of their own each: NAME-1, NAME-2
and so on, always the same ones. They share the port by SO_REUSEPORT (Linux): the kernel spreads connections over those that listen, and
whoever stops leaves that row first, so that the clients it sends away reach another one at the same address. This process holds the port
without listening, so that it is still theirs while all of them start. It opens no client's connection, no store and no link.

    twistd im --processes=3 ──┬── node-1 ──┐                 what they log comes by pipes, and is logged here under their names
                              ├── node-2 ──┼── :7777         who ends is started again: at once, and later and later if that is of no use
                              └── node-3 ──┘                 all end with their parent, however that ends (`leash`)
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import CannotListenError, ProcessExitedAlready
from twisted.internet.protocol import ProcessProtocol
from twisted.logger import Logger, LogLevel
from twisted.python.failure import Failure

from twisted_im.edge.endpoints import parts_of
from twisted_im.leash import leashed_twistd

log = Logger()

#: Seconds after which a process that ends has not ended again and again; and the longest pause before it is started once more.
STEADY, LONGEST_PAUSE = 30.0, 30.0


class ChildError(Exception):
    """A process did not start: the message is what it said last."""


class _Child(ProcessProtocol):
    """One process; what it says is logged under its name."""

    transport: Any

    def __init__(self, owner: Processes, name: str) -> None:
        self._owner = owner
        self._rests = {1: b"", 2: b""}
        self.name = name
        self.began = 0.0
        self.listens = False
        self.last = ""

    def childDataReceived(self, childFD: int, data: bytes) -> None:  # noqa: N802, N803  # the interface's names
        *lines, self._rests[childFD] = (self._rests[childFD] + data).split(b"\n")
        for line in lines:
            self._said(line.decode("utf-8", "replace"))

    def _said(self, line: str) -> None:
        try:
            said = json.loads(line)
            level = LogLevel.levelWithName(said.pop("level"))
            source, text = said.pop("from"), said.pop("text")
        except Exception:  # it is no line of a log: a traceback, or a last word
            if line.strip():
                self.last = line.removeprefix("twisted_im: ")
                log.warn("{text}", text=line, node=self.name)
            return
        del said["time"]
        trace = said.pop("failure", "")
        if level in (LogLevel.error, LogLevel.critical):
            self.last = text.removeprefix("not started: ")
        if said.get("event") == "listening":
            self.listens = True
            self._owner.has_come(self)
        Logger(source).emit(level, "{text}", text=f"{text}\n{trace}" if trace else text, **{**said, "node": self.name})

    def signal(self, number: signal.Signals) -> None:
        with suppress(ProcessExitedAlready):
            self.transport.signalProcess(number)

    def processEnded(self, reason: Failure) -> None:
        self._owner.has_ended(self, reason)


class Processes(Service):
    """Keeps processes up.

    Args:
        names: of the nodes.
        words: the options of `twistd im` for one of them, by its name and where it is to listen.
        listen: endpoint strings of TCP ports, TLS or not; port 0 becomes one that is free.
        before: twistd's own options.
        environment: of the children.

    Attributes:
        started: fires when all listen; fails if one cannot start the first time.
    """

    def __init__(
        self,
        names: Sequence[str],
        words: Callable[[str, Sequence[str]], Sequence[str]],
        listen: Sequence[str],
        *,
        reactor: Any,
        before: Sequence[str] = (),
        environment: dict[str, str],
    ) -> None:
        self._names = names
        self._words = words
        self._listen = listen
        self._reactor = reactor
        self._before = before
        self._environment = environment
        self._held: list[socket.socket] = []
        self._children: dict[str, _Child] = {}
        self._waiting: dict[str, Any] = {}  # names that are started again later → when
        self._again: dict[str, int] = dict.fromkeys(names, 0)
        self._stopping: Deferred[None] | None = None
        self.started: Deferred[None] = Deferred()

    def startService(self) -> None:
        super().startService()
        try:
            self._listen = [self._hold(description) for description in self._listen]
        except CannotListenError:
            self._release()
            self.started.errback(Failure())
            return
        where = ", ".join(f"{held.getsockname()[0]}:{held.getsockname()[1]}" for held in self._held)
        nodes = ", ".join(self._names)
        log.info("runs {count} nodes at {where}: {nodes}", event="processes", count=len(self._names), where=where, nodes=nodes)
        self._reactor.callWhenRunning(self._start_all)

    def _hold(self, description: str) -> str:
        """Reserves a port; gives the endpoint string with its number."""
        kind, _, rest = description.rpartition("haproxy:")[2].partition(":")
        parts = parts_of(f"{kind}:{rest}")
        host, number = parts.get("interface", "").replace("\\", ""), int(parts["port"])
        family = socket.AF_INET6 if ":" in host or (kind == "tcp6" and not host) else socket.AF_INET
        probe = socket.socket(family)  # without sharing: it finds out whether somebody else has the port
        held = socket.socket(family)
        try:
            for each in (probe, held):
                each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            probe.bind((host, number))
            number = probe.getsockname()[1]
            probe.close()
            held.bind((host, number))
        except OSError as error:
            held.close()
            raise CannotListenError(host, number, error) from None
        finally:
            probe.close()
        self._held.append(held)
        return re.sub(rf"(?<=[:=]){parts['port']}(?=:|\Z)", str(number), description, count=1)

    def _release(self) -> None:
        for held in self._held:
            held.close()
        self._held.clear()

    def _start_all(self) -> None:
        for name in self._names:
            if self._stopping is None:
                self._start(name)

    def _start(self, name: str) -> None:
        self._waiting.pop(name, None)
        child = self._children[name] = _Child(self, name)
        child.began = self._reactor.seconds()
        words = [*leashed_twistd(os.getpid()), *self._before, "-n", "--pidfile=", "im", *self._words(name, self._listen)]
        self._reactor.spawnProcess(child, sys.executable, words, env=self._environment)
        log.info("{node} is process {pid}", event="process", node=name, pid=child.transport.pid)

    def has_come(self, child: _Child) -> None:
        """A process listens."""
        if not self.started.called and all(name in self._children and self._children[name].listens for name in self._names):
            self.started.callback(None)

    def has_ended(self, child: _Child, reason: Failure) -> None:
        """A process is no more."""
        del self._children[child.name]
        why = _in_words(reason)
        if self._stopping is not None:
            log.info("{node} has ended: {why}", event="process ended", node=child.name, why=why)
            self._look_for_end()
        elif not self.started.called and not child.listens:
            self.started.errback(Failure(ChildError(child.last or f"{child.name} has ended: {why}")))
        else:
            lived = self._reactor.seconds() - child.began
            again = self._again[child.name] = 0 if lived >= STEADY else self._again[child.name] + 1
            pause = min(2.0 ** min(again - 2, 10), LONGEST_PAUSE) if again > 1 else 0.0  # a power without a bound overflows one day
            log.warn(
                "{node} has ended: {why}; it is started again in {pause:g} s",
                event="process ended", node=child.name, why=why, pause=pause,
            )  # fmt: skip
            self._waiting[child.name] = self._reactor.callLater(pause, self._start, child.name)

    def reload(self) -> None:
        """Has each read its certificates again."""
        self._signal(signal.SIGHUP)

    def tell_counters(self) -> None:
        """Has each log what it has done so far."""
        self._signal(signal.SIGUSR2)

    def _signal(self, number: signal.Signals) -> None:
        """Sends a signal to those that know what it means by now."""
        for child in self._children.values():
            if child.listens:
                child.signal(number)

    def stopService(self) -> Deferred[None]:
        """Asks all to end in good order, and waits."""
        super().stopService()
        if self._stopping is not None:
            return succeed(None)
        self._stopping = Deferred()
        for waiting in self._waiting.values():
            waiting.cancel()
        for child in self._children.values():
            child.signal(signal.SIGTERM)
        stopped = self._stopping
        self._look_for_end()
        return stopped

    def _look_for_end(self) -> None:
        if self._stopping is not None and not self._children and not self._stopping.called:
            self._release()
            self._stopping.callback(None)


def _in_words(reason: Failure) -> str:
    """How a process has ended."""
    status, signal = getattr(reason.value, "exitCode", None), getattr(reason.value, "signal", None)
    return f"signal {signal}" if signal is not None else f"status {status}"
