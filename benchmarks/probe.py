"""One client that pings a server all the time: how long the server leaves its clients waiting, seen from outside.

Strategy: a process of its own, so that what else is measured does not stand in its way. A ping goes out every `INTERVAL`; while one is
unanswered no other is sent, but those that would have been are counted with what they would have waited ("coordinated omission",
G. Tene). The percentiles are then those of a client that asks at any moment, and a stall weighs as long as it lasts. Where the probe
shares its core with a load, a few milliseconds are the scheduler's.

    python -m benchmarks.probe --port 7777 --uid probe

It says "ready" when it is logged in, measures until its standard input ends, and then prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import select
import socket
import ssl
import statistics
import sys
import time
from typing import Any

from benchmarks.crowd import HELLO, Who
from twisted_im.wire.codec import ERROR, codec, request
from twisted_im.wire.framing import Frame, FrameReader
from twisted_im.wire.schema import DEFAULT_MAX_BODY, Command, Kind, LoginMethod

INTERVAL = 0.002  #: seconds between pings
PATIENCE = 60.0  #: seconds for the login, and for a ping
AGAIN = 0.05  #: seconds until the next attempt, if the server is full


class ProbeError(Exception):
    """The probe cannot measure; the text is one line for people."""


class Talk:
    """One blocking connection."""

    def __init__(self, port: int, ca: str | None) -> None:
        self._sock: socket.socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if ca is not None:
            self._sock = ssl.create_default_context(cafile=ca).wrap_socket(self._sock, server_hostname="localhost")
        self._reader = FrameReader(DEFAULT_MAX_BODY)

    def ask(self, data: bytes) -> Frame:
        """Sends a request; gives its response. Notifies are passed over.

        Raises:
            OSError: the connection is lost.
        """
        self._sock.sendall(data)
        while True:
            data = self._sock.recv(65536)
            if not data:
                raise ConnectionResetError("the server has closed the connection")
            for frame in self._reader.feed(data):
                if frame[0] >> 16 & 0xFF == Kind.RESPONSE:
                    return frame
                if frame[0] & 0xFFFF == Command.DISCONNECT:
                    raise ConnectionResetError(codec(Kind.NOTIFY, Command.DISCONNECT).read(frame[3]).reason.decode())

    def close(self) -> None:
        self._sock.close()


def log_in(port: int, ca: str | None, who: Who) -> Talk:
    """A connection that is logged in; a server that is full is asked again.

    Raises:
        ProbeError: it is refused for good, or for too long.
    """
    give_up = time.monotonic() + PATIENCE
    while True:
        try:
            talk = Talk(port, ca)
            talk.ask(HELLO)
            answer = talk.ask(who.login(0))
            if not answer[2] & 0xFFFF:
                return talk
            refused = ERROR.read(answer[3])
            why, temporary = refused.reason.decode("utf-8", "replace"), bool(refused.temporary)
            talk.close()
        except OSError as error:
            why, temporary = str(error), True
        if not temporary or time.monotonic() > give_up:
            raise ProbeError(f"it cannot log in: {why}")
        time.sleep(AGAIN)


def waits(began: float, ended: float) -> list[float]:
    """The waits that one ping stands for: its own, and those of the pings that would have gone out meanwhile. All in seconds."""
    return [ended - began - later * INTERVAL for later in range(int((ended - began) / INTERVAL) + 1)]


def measure(talk: Talk) -> dict[str, float]:
    """Pings until standard input ends.

    Raises:
        ProbeError: the connection is lost.
    """
    found: list[float] = []
    pings = 0
    ping = request(Command.PING, 5)
    while not select.select([sys.stdin], [], [], 0 if not pings else INTERVAL)[0]:
        began = time.monotonic()
        try:
            talk.ask(ping)
        except OSError as error:
            raise ProbeError(f"the connection broke: {error}") from error
        found += waits(began, time.monotonic())
        pings += 1
    shares: list[Any] = statistics.quantiles(found or [0.0, 0.0], n=100, method="inclusive") if len(found) != 1 else found * 99
    return {
        "pings": pings,
        "p50_ms": round(shares[49] * 1000, 3),
        "p99_ms": round(shares[98] * 1000, 3),
        "max_ms": round(max(found, default=0.0) * 1000, 3),
    }


def main() -> int:
    """Runs the probe."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.probe", description="Pings one server until standard input ends.")
    parser.add_argument("--port", type=int, required=True, help="the server's port on 127.0.0.1")
    parser.add_argument("--uid", default="probe", help="the user to log in as")
    parser.add_argument("--method", type=int, default=int(LoginMethod.ANONYMOUS), help="how it logs in")
    parser.add_argument("--secret", default="", help="in hex")
    parser.add_argument("--ca", help="use TLS; the file with the certificate to trust, which must name localhost")
    options = parser.parse_args()
    try:
        who = Who(options.uid.encode(), options.method, bytes.fromhex(options.secret))
        talk = log_in(options.port, options.ca, who)
        print("ready", flush=True)
        print(json.dumps(measure(talk)))
    except ProbeError as error:
        print(f"probe: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
