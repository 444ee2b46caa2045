"""A process with some devices of a run: `python -m twisted_im.faults.devices`, started by `twisted_im.faults.run` and nobody else.

Strategy: its first line of input is its `Orders`; after that a line is one word of `WORDS`, and the end of the input is the end of the
process. A few times a second it writes a `Tally` to its output, with the last word that it has heard, so that whoever reads it knows what
it answers. The devices send at random moments and go away now and then, some in good order and some with their connection cut.
"""

from __future__ import annotations

import sys
from pathlib import Path
from random import Random
from typing import Any

from msgspec import Struct
from msgspec.json import decode, encode
from twisted.internet import stdio
from twisted.internet.task import LoopingCall
from twisted.logger import FilteringLogObserver, LogLevel, LogLevelFilterPredicate, globalLogBeginner, textFileLogObserver
from twisted.protocols.basic import LineReceiver

from twisted_im.client.client import Client
from twisted_im.client.values import Life
from twisted_im.faults.journal import FileJournal
from twisted_im.faults.recorder import LIMITS, Recorder
from twisted_im.leash import leash
from twisted_im.wire.schema import LoginMethod

#: Seconds between two tallies.
TALLY_EVERY = 0.2

#: Seconds that a device stays, and then is away, on average.
STAY, AWAY = 6.0, 1.5

#: wait: be online, send nothing; go: send, come and go; settle: come back all of you, and send nothing more
WORDS = ("wait", "go", "settle")


class Orders(Struct):
    """What a process is to be.

    Attributes:
        folder: for its devices' logs.
        endpoints: where the servers are; each device knows all, and they begin with different ones.
        devices: (user, name) of each.
        guests: how many come besides that only log in, each a user of its own, and write nothing down.
        users: everybody, to write to.
        rate: messages a second and device.
        seed: of its random moments.
        catch_up: see `Client`.
        plant: see `recorder.PLANTED`.
        word: the first of `WORDS`.
    """

    folder: str
    endpoints: list[str]
    devices: list[tuple[str, str]]
    guests: int
    users: list[str]
    rate: float
    seed: str
    catch_up: int
    plant: str
    word: str


class Tally(Struct):
    """How a process stands: `devices` are not away, guests among them; see `Recorder` for the counts."""

    word: str
    devices: int
    online: int
    sent: int
    accepted: int
    unanswered: int
    shown: int
    covered: int
    errors: int
    ended: list[str]


#: What of a tally is counted.
COUNTED = ("sent", "accepted", "unanswered", "shown", "covered", "errors")


class Devices(LineReceiver):
    """The process's devices and its ear."""

    delimiter = b"\n"

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._orders: Orders | None = None
        self._recorders: list[Recorder] = []
        self._guests: list[Client] = []
        self._word = ""

    def lineReceived(self, line: bytes) -> None:
        if self._orders is None:
            self._orders = orders = decode(line, type=Orders)
            self._chance = Random(orders.seed)
            folder = Path(orders.folder)
            self._recorders = [
                Recorder(FileJournal(folder, user, name), user, name, self._endpoint(at), plant=orders.plant, catch_up=orders.catch_up)
                for at, (user, name) in enumerate(orders.devices)
            ]
            self._guests = [
                Client(self._endpoint(at), uid=f"guest{at}", method=LoginMethod.ANONYMOUS, limits=LIMITS) for at in range(orders.guests)
            ]
            for guest in self._guests:
                guest.startService()
            for recorder in self._recorders:
                recorder.come()
                self._later(1 / orders.rate, self._send, recorder)
                self._later(STAY, self._leave, recorder)
            LoopingCall(self._tell).start(TALLY_EVERY)
            self._hear(orders.word)
        else:
            self._hear(line.decode())

    def connectionLost(self, reason: object = None) -> None:
        if self._reactor.running:
            self._reactor.stop()

    def _endpoint(self, number: int) -> str:
        """All servers' addresses, for a device."""
        assert self._orders is not None
        every = self._orders.endpoints
        return ",".join(every[(number + at) % len(every)] for at in range(len(every)))

    def _hear(self, word: str) -> None:
        self._word = word
        if word == "settle":
            for recorder in self._recorders:
                if not recorder.client.running:
                    recorder.come()

    def _later(self, mean: float, call: Any, recorder: Recorder) -> None:
        """At a random moment, without memory."""
        self._reactor.callLater(self._chance.expovariate(1 / mean), call, recorder)

    def _send(self, recorder: Recorder) -> None:
        assert self._orders is not None
        if self._word == "go":
            recorder.send(self._chance.choice([user for user in self._orders.users if user != recorder.user]))
        self._later(1 / self._orders.rate, self._send, recorder)

    def _leave(self, recorder: Recorder) -> None:
        """Away for a while; half of the devices say goodbye before."""
        if self._word == "go":
            if self._chance.random() < 0.5:
                recorder.client.abort()
            recorder.client.stopService()
        self._later(AWAY, self._return, recorder)

    def _return(self, recorder: Recorder) -> None:
        if not recorder.client.running:
            recorder.come()
        self._later(STAY, self._leave, recorder)

    def _tell(self) -> None:
        every, guests = self._recorders, self._guests
        counts = {name: sum(getattr(each, name) for each in every) for name in COUNTED}
        ended = [each.ended for each in every if each.ended]
        here = sum(bool(each.client.running) for each in every) + len(guests)
        online = sum(each.online for each in every) + sum(guest.standing.life is Life.ONLINE for guest in guests)
        tally = Tally(self._word, here, online, **counts, ended=ended)
        self.sendLine(encode(tally))


def main() -> None:
    leash()
    from twisted.internet import reactor as chosen

    reactor: Any = chosen
    observer = textFileLogObserver(sys.stderr)
    globalLogBeginner.beginLoggingTo([FilteringLogObserver(observer, [LogLevelFilterPredicate(LogLevel.info)])], redirectStandardIO=False)
    stdio.StandardIO(Devices(reactor), reactor=reactor)
    reactor.run()


if __name__ == "__main__":
    main()
