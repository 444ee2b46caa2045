"""`twistd im` and `twist im`, as an operator types them.

Strategy: real processes with deadlines. Whatever is wrong must be one line that says what to do, and a status that is not 0.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Timer
from typing import Any

import pytest

from twisted_im.tap import Options, StartError, local_unless_said

ROOT = Path(__file__).parent.parent
TWISTD = [sys.executable, "-c", "from twisted.scripts.twistd import run; run()"]
TWIST = [sys.executable, "-m", "twisted"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)}
DEADLINE = 20


@contextmanager
def started(words: list[str], folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that is gone at the end, whatever happens."""
    process = subprocess.Popen(words, cwd=folder, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
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


def greets(address: str) -> bool:
    """Whether something there answers a hello."""
    host, port = address.split(":")
    with socket.create_connection((host, int(port)), timeout=DEADLINE) as connection:
        connection.sendall(bytes.fromhex("00000010 01 00 0101 00000001 0000 0000 01 01") + bytes(12) + b"ab")
        return connection.recv(16)[5:8] == b"\x01\x01\x01"


@pytest.mark.parametrize("words", [[*TWISTD, "-n", "--pidfile="], TWIST], ids=["twistd", "twist"])
def test_foreground(words: list[str], tmp_path: Path) -> None:
    """The README's first command does not start a server, or Ctrl-C and SIGTERM do not end it properly."""
    with started([*words, "im", "--auth=anonymous", "--strategy=single", "--listen=tcp:0"], tmp_path) as process:
        assert process.stdout is not None
        assert greets(address_in(process.stdout))
        process.send_signal(signal.SIGTERM)
        rest, _ = process.communicate(timeout=DEADLINE)
        assert process.returncode == 0
        assert '"event":"stopped"' in rest.replace(": ", ":")
        assert "Traceback" not in rest


def test_background(tmp_path: Path) -> None:
    """A server in the background cannot be started, found by its pid file, or stopped."""
    log, pid_file = tmp_path / "im.log", tmp_path / "im.pid"
    words = [*TWISTD, f"--pidfile={pid_file}", f"--logfile={log}", "im", "--strategy=single", "--auth=anonymous", "--listen=tcp:0"]
    outcome = subprocess.run(words, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=DEADLINE, check=False)
    assert (outcome.returncode, outcome.stdout) == (0, "")
    pid = int(pid_file.read_text())
    try:
        assert greets(address_in(log.read_text().splitlines()))
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + DEADLINE
        while pid_file.exists():
            assert time.monotonic() < deadline, "it does not stop"
            os.sched_yield()
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["event"] for line in lines if "event" in line] == ["listening", "stopping", "stopped"]
    assert not any("failure" in line for line in lines)


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--strategy=broadcats", "--strategy is one of single"),
        ("--store=tape", "--store is one of memory"),
        ("--heartbeat=often", "--heartbeat takes a whole number from 5 to 1800"),
        ("--window=0", "--window takes a whole number"),
        ("--max-body=9", "--max-body takes a whole number"),
        ("--colour=red", "option --colour not recognized"),
        ("--listen=tcp:door", "not an endpoint that can be used"),
        ("--listen=carrier-pigeon:7", "not an endpoint that can be used"),
        ("--listen=ssl:0:privateKey=/nowhere.pem:certKey=/nowhere.pem", "/nowhere.pem"),
        ("--auth=everybody", "--auth is file:PATH or anonymous"),
        ("--auth=file:.", "--auth"),
        ("--name=", "--name takes 1 to 64 bytes"),
        ("now", "everything is an option"),
    ],
)
def test_mistakes(option: str, said: str) -> None:
    """A mistake on the command line is answered by a traceback, by a screenful of help, or by nothing."""
    with pytest.raises(StartError) as caught:
        Options().parseOptions([option])
    line = str(caught.value.code)
    assert said in line
    assert "\n" not in line


@pytest.mark.parametrize(
    "words", [[*TWISTD, "-n", "--pidfile="], [*TWISTD, "--pidfile=im.pid"], TWIST], ids=["twistd -n", "twistd", "twist"]
)
@pytest.mark.parametrize("mistake", ["option", "port", "certificate"])
def test_mistakes_end_the_process(words: list[str], mistake: str, tmp_path: Path) -> None:
    """A server that cannot start leaves status 0, a traceback, or no hint behind."""
    (tmp_path / "key.pem").write_text("this is no key")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        option, said = {
            "option": ("--strategy=none", "--strategy is one of"),
            "port": (f"--listen=tcp:{taken.getsockname()[1]}", "Address already in use"),
            "certificate": ("--listen=ssl:0:privateKey=key.pem:certKey=key.pem", "key.pem"),
        }[mistake]
        words = [*words, "im", "--auth=anonymous", option]
        outcome = subprocess.run(words, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=DEADLINE, check=False)
    everything = outcome.stdout + outcome.stderr
    assert outcome.returncode != 0
    assert said in everything
    assert "Traceback" not in everything
    assert "Usage:" not in everything


def test_help() -> None:
    """`--help` leaves an option out, has no examples, or promises what there is not."""
    text = Options().getUsage()
    for option in ("strategy", "store", "auth", "name", "listen", "heartbeat", "window", "max-body"):
        assert f"--{option}=" in text
    assert "twistd -n im --auth=anonymous" in text
    assert "broadcast" not in text
    assert "sqlite" not in text


def test_operations_page_has_every_option() -> None:
    """The operators' page says nothing of an option, or has another default."""
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    options = Options()
    for name, _, default, *_ in Options.optParameters:
        assert re.search(rf"\| `--{name}` \| `?{re.escape(str(default))}`? \|", page), name
    assert "`--listen`" in page
    assert options["listen"] == []


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        ("tcp:7777", "tcp:7777:interface=127.0.0.1"),
        ("ssl:7778:privateKey=k.pem", "ssl:7778:privateKey=k.pem:interface=127.0.0.1"),
        ("tcp:7777:interface=0.0.0.0", "tcp:7777:interface=0.0.0.0"),
        ("tcp:7777:0.0.0.0", "tcp:7777:0.0.0.0"),
        ("unix:/run/im.sock", "unix:/run/im.sock"),
    ],
)
def test_local_unless_said(asked: str, meant: str) -> None:
    """A server on somebody's laptop is open to the whole network without having been asked to be."""
    assert local_unless_said(asked) == meant
