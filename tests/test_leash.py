"""What is tied to a process ends with it, however that one ends: tried on a process that starts what tests start, and is then killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.twistd import ENVIRONMENT, TWISTD, wait_for

#: A test that was killed in the middle of its work: with a Redis that stands still, and a server.
CUT_SHORT = f"""
import os, subprocess, sys
from tests.redises import Redis
from twisted_im.leash import leashed
redis = Redis()
redis.freeze()
words = leashed(os.getpid(), [*{TWISTD!r}, "-n", "--pidfile=", "im", "--auth=anonymous", "--store=memory", "--listen=tcp:0"])
server = subprocess.Popen(words, stdout=subprocess.PIPE)
any(b'"listening"' in line for line in server.stdout)
print(redis._process.pid, server.pid, flush=True)
sys.stdin.read()
"""


def is_there(pid: str) -> bool:
    """Whether a process runs, or stands still."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_what_a_test_has_started_ends_with_it(how: signal.Signals) -> None:
    """If this fails, whoever breaks off the tests, or has them killed, finds servers running that nobody will ever end."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with (
        tempfile.TemporaryDirectory(prefix="twisted_im-") as folder,  # pytest's own may have too long a name for a socket
        subprocess.Popen(
            [sys.executable, "-c", CUT_SHORT], env={**ENVIRONMENT, "TMPDIR": folder}, cwd=folder, text=True, **pipes
        ) as cut_short,
    ):
        try:
            assert cut_short.stdout is not None
            started = cut_short.stdout.readline().split()
            assert [is_there(pid) for pid in started] == [True, True]
            os.kill(cut_short.pid, how)
            wait_for(lambda: not any(map(is_there, started)), "both to end")
        finally:
            cut_short.kill()
