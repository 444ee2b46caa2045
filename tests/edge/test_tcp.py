"""Ports as endpoint strings describe them, asked of the kernel: with which backlog they really listen."""

from __future__ import annotations

import os
import shutil
import socket
import struct
import tempfile
from pathlib import Path

from tests.running import Served, certificate
from twisted_im.edge.tcp import BACKLOG

#: What the kernel cuts a longer backlog to.
MOST = int(Path("/proc/sys/net/core/somaxconn").read_text())


def has_ipv6() -> bool:
    """Whether this machine can listen by IPv6."""
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


class Doors(Served):
    """Where a server listens."""

    def backlogs(self) -> list[int]:
        """Of each of the server's TCP ports: in what Linux tells of a socket that listens, it is the eighth number."""
        ports = [port.socket for port in self.server._ports._ports]
        return [struct.unpack_from("=8xIIIIII", s.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104))[5] for s in ports]

    async def test_a_backlog_of_ones_own(self) -> None:
        """If this fails, an endpoint string that Twisted takes is refused at the start; or what an operator says of a backlog is passed
        over, and where nothing is said the first crowd waits."""
        key = certificate()
        cases = [
            ("tcp:0:127.0.0.1:9", 9),
            ("tcp:0:127.0.0.1", BACKLOG),
            ("tcp:0:backlog=9:interface=127.0.0.1", 9),
            ("haproxy:tcp:0:127.0.0.1:9", 9),
            ("haproxy:tcp:0:127.0.0.1", BACKLOG),
            (f"ssl:0:{key}:{key}:127.0.0.1:9", 9),
            (f"ssl:0:{key}:{key}:127.0.0.1", BACKLOG),
        ]
        if has_ipv6():
            cases += [(r"tcp6:0:9:\:\:1", 9), (r"tcp6:0:interface=\:\:1", BACKLOG), (r"TCP6:0:9:interface=\:\:1", 9)]
        await self.serve(listen=tuple(description for description, _ in cases))
        assert self.backlogs() == [min(backlog, MOST) for _, backlog in cases]

        folder = tempfile.mkdtemp()  # trial's own folders have names too long for a socket
        self.addCleanup(shutil.rmtree, folder)
        await self.serve(listen=(f"unix:{folder}/one:600:9", f"unix:{folder}/other"))
        assert [os.stat(path).st_mode & 0o777 for path in self.server.addresses] == [0o600, 0o666]
