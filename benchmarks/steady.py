"""A steady load by the real client library, which lives through faults: `python -m benchmarks.steady`, started by `benchmarks.recovery`.

Strategy: in pairs across nodes one user writes to the other by a timetable, whatever happens. (If both wrote, each would notice by the
number of its own message that it has missed one, and would read it: that is how clients are, and it hides what the servers do.) A client
that loses its node goes to the next one, sends again what was not accepted, and reads what it missed. When each message was due, and when
it was shown, are written to the output at the end; so is what was never accepted, never shown, or shown twice.

    in      a line when it shall stop sending
    out     one line of JSON when the sending begins, one at the end
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from typing import Any

from twisted.internet import reactor as global_reactor
from twisted.internet import stdio
from twisted.internet.defer import gatherResults
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.task import LoopingCall
from twisted.protocols.basic import LineReceiver
from zope.interface import implementer

from benchmarks.load_loop import seats
from twisted_im.client.client import Client
from twisted_im.client.values import Message
from twisted_im.leash import leash
from twisted_im.wire.schema import LoginMethod

reactor: Any = global_reactor  # it has no static type
TICK = 0.005  #: seconds between two looks at the timetable


@implementer(IHalfCloseableProtocol)
class Steady(LineReceiver):
    """The load.

    Args:
        nodes: "host:port" of each.
        users: how many, spread evenly over the nodes.
        rate: messages a second of all users.
        patience: seconds after the last message was due in which all must have been shown.
    """

    delimiter = b"\n"
    transport: Any  #: both halves of standard input and output

    def __init__(self, nodes: list[str], users: int, rate: float, patience: float) -> None:
        self._rate = rate
        self._patience = patience
        self._clients = [self._client(index, nodes[seat:] + nodes[:seat]) for index, seat in enumerate(seats(users, len(nodes)))]
        self._due: list[float] = []
        self._shown: dict[int, float] = {}
        self._accepted = self._twice = 0
        self._strange = 0
        self._began = self._end = 0.0
        self._sender = LoopingCall(self._send)
        self._watcher = LoopingCall(self._watch)

    def _client(self, index: int, at: list[str]) -> Client:
        return Client(",".join(at), uid=f"u{index}", method=LoginMethod.ANONYMOUS, on_message=self._shower(index))

    def _shower(self, index: int) -> Callable[[Message], None]:
        def show(message: Message) -> None:
            number = int(message.text)
            self._strange += self._sender_of(number) != index - 1
            self._twice += number in self._shown
            self._shown.setdefault(number, time.monotonic())

        return show

    def start(self) -> None:
        """Has all come online, and then begins."""
        for client in self._clients:
            client.startService()
        gatherResults([client.when_online() for client in self._clients]).addCallbacks(lambda _: self._begin(), self._failed)

    def _failed(self, failure: Any) -> None:
        print(f"the load cannot begin: {failure.getErrorMessage()}", file=sys.stderr)
        reactor.stop()

    def _begin(self) -> None:
        self._began = time.monotonic()
        self._tell({"began": self._began})
        self._sender.start(TICK)

    def _send(self) -> None:
        while (due := self._began + len(self._due) / self._rate) <= time.monotonic():
            number = len(self._due)
            self._due.append(due)
            index = self._sender_of(number)
            self._clients[index].send(f"u{index + 1}", str(number)).accepted.addCallbacks(self._taken, lambda _: None)

    def _sender_of(self, number: int) -> int:
        return number * 2 % len(self._clients)

    def _taken(self, _: object) -> None:
        self._accepted += 1

    def lineReceived(self, line: bytes) -> None:
        """It is time to stop sending."""
        self._sender.stop()
        self._end = time.monotonic() + self._patience
        self._watcher.start(TICK)

    def _watch(self) -> None:
        if time.monotonic() < self._end and not len(self._shown) == self._accepted == len(self._due):
            return
        self._watcher.stop()
        rows = [(round(due, 4), round(self._shown[number], 4) if number in self._shown else None) for number, due in enumerate(self._due)]
        told = {"messages": rows, "accepted": self._accepted, "twice": self._twice, "strange": self._strange}
        self._tell(told)
        self.transport.loseConnection()  # when all of it has been read

    def _tell(self, what: dict[str, Any]) -> None:
        """A line of the output. (A `print` of more than a pipe takes would fail: Twisted has it never wait.)"""
        self.sendLine(json.dumps(what).encode())

    def readConnectionLost(self) -> None:
        """No line will come any more. If none has come, whoever started this has gone."""
        if not self._end:
            self.transport.loseConnection()

    def writeConnectionLost(self) -> None:
        """Nobody listens."""
        self.connectionLost()

    def connectionLost(self, reason: object = None) -> None:
        """All is told, or nobody wants to know."""
        if reactor.running:
            reactor.stop()


def main() -> int:
    """Runs the load."""
    made = argparse.ArgumentParser(prog="python -m benchmarks.steady", description="A steady load that lives through faults.")
    made.add_argument("--nodes", required=True, help="host:port of each, with commas between")
    made.add_argument("--users", type=int, default=24, help="an even number")
    made.add_argument("--rate", type=float, default=200.0, help="messages a second of all users")
    made.add_argument("--patience", type=float, default=30.0, help="seconds for the last to be shown")
    options = made.parse_args()
    leash()
    steady = Steady(options.nodes.split(","), options.users, options.rate, options.patience)
    stdio.StandardIO(steady)
    reactor.callWhenRunning(steady.start)
    reactor.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
