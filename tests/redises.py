"""A Redis of one's own: a real one, in a temporary folder, on a Unix socket.

Strategy: the program is found as a run under faults finds it (`twisted_im.faults.redis`), and ends with the tests, however they end.
It is a process of its own, to be killed and stopped as an operator's would be.
"""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import SkipTest

from twisted.internet import reactor

from tests.twistd import DEADLINE, ENVIRONMENT
from twisted_im.edge.redis import redis_server
from twisted_im.faults.redis import MISSING, SOCKET, redis_program, redis_words
from twisted_im.routing.table_redis import RedisServer


class Redis:
    """One server, which runs when this returns.

    Args:
        options: more of its configuration: "--requirepass", "secret".

    Raises:
        SkipTest: there is no such program here.

    Attributes:
        path: of its socket.
    """

    def __init__(self, *options: str) -> None:
        if not redis_program():
            raise SkipTest(MISSING)
        self._folder = tempfile.TemporaryDirectory(prefix="twisted_im-redis-")
        self.path = Path(self._folder.name) / SOCKET
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None
        self._slowly: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Starts it, empty."""
        self._process = subprocess.Popen(
            redis_words(*self._options),
            cwd=self._folder.name, env=ENVIRONMENT, stdout=(Path(self._folder.name) / "log").open("ab"), stderr=subprocess.STDOUT,
        )  # fmt: skip
        end = time.monotonic() + DEADLINE
        while True:
            with socket.socket(socket.AF_UNIX) as probe:
                try:
                    probe.connect(str(self.path))
                    return
                except OSError:
                    if time.monotonic() > end or self._process.poll() is not None:
                        raise AssertionError((Path(self._folder.name) / "log").read_text()) from None
            time.sleep(0.01)

    def kill(self) -> None:
        """As SIGKILL does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
            self.path.unlink(missing_ok=True)

    def freeze(self) -> None:
        """As SIGSTOP does."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)

    def slow(self, seconds: float) -> None:
        """It stops for so long again and again, and goes on for a moment in between; 0 ends that."""
        if self._slowly is not None:
            self._slowly.kill()
            self._slowly.wait()
            self._slowly = None
            self.thaw()
        if seconds and self._process is not None:
            pid = self._process.pid
            loop = f"while kill -STOP {pid} && sleep {seconds} && kill -CONT {pid}; do sleep 0.02; done"
            self._slowly = subprocess.Popen(["sh", "-c", loop])

    def close(self) -> None:
        """Ends it, and leaves nothing."""
        self.slow(0.0)
        self.kill()
        self._folder.cleanup()

    def ask(self, *command: bytes | str, password: str = "") -> Any:
        """A command by hand, and its answer."""
        from hiredis import Reader

        reader = Reader()
        with socket.socket(socket.AF_UNIX) as line:
            line.settimeout(DEADLINE)
            line.connect(str(self.path))
            for each in ([("AUTH", password)] if password else []) + [command]:
                parts = [part.encode() if isinstance(part, str) else part for part in each]
                line.sendall(b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts))
                while (answer := reader.gets()) is False:
                    reader.feed(line.recv(65536))
        if isinstance(answer, Exception):
            raise answer
        return answer

    def asked(self, command: str) -> int:
        """How often it was asked for that, as it counts it itself."""
        said: bytes = self.ask("INFO", "commandstats")
        return sum(int(count) for count in re.findall(rb"cmdstat_%s\S*?:calls=(\d+)" % command.encode(), said))

    @property
    def url(self) -> str:
        return f"unix://{self.path}"

    def server(self, url: str = "") -> RedisServer:
        """What a table is given."""
        return redis_server(reactor, url or self.url)
