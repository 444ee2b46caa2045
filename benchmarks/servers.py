"""Starts and stops what is measured: a node as an operator would start it, or the C relay; each in its own process, on a core for it.

Strategy: a context manager owns each process, so whatever ends a run — its end, a fault, Ctrl-C — also ends the process. A server is
ready when its log says that it listens; nothing sleeps and hopes. Children stand in a session of their own, so that a Ctrl-C in the
terminal reaches only the program that then stops them in order. `running` has it wait while one is being started (`unbroken`), for until
its owner knows of it nobody would end it.
"""

from __future__ import annotations

import datetime
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import twisted_im

READY_SECONDS = 60.0  #: until a server must listen; a cold start of Python and OpenSSL takes below two, on a machine that is not busy
STOP_SECONDS = 30.0  #: from SIGTERM until SIGKILL
TAIL_LINES = 15  #: of a server's log, shown when it fails

_TICK = os.sysconf("SC_CLK_TCK")
_PAGE_KIB = os.sysconf("SC_PAGESIZE") / 1024

_RELAY_LISTENS = re.compile(r"listening (\S+:\d+)$")


class ServerError(Exception):
    """A server did not start, or what it needs is not there."""


@dataclass(frozen=True)
class Cores:
    """Which core is whose.

    Attributes:
        server: the core of what is measured.
        load: the core of the load; the same one if the machine has no other.
        servers: all cores but the load's, for what is more than one process.
    """

    server: int
    load: int
    servers: tuple[int, ...]

    @property
    def apart(self) -> bool:
        """Whether the two are different cores, as a measurement needs."""
        return self.server != self.load


def choose_cores() -> Cores:
    """The first core that this process may use for the load (interrupts like it too), the last for the server."""
    usable = sorted(os.sched_getaffinity(0))
    return Cores(server=usable[-1], load=usable[0], servers=tuple(reversed(usable[1:] or usable)))


def cpu_seconds(pid: int) -> float:
    """A process's CPU so far, user and system, all its threads, in seconds.

    Raises:
        OSError: it is gone.
    """
    text = Path(f"/proc/{pid}/stat").read_text()
    fields = text[text.rindex(")") + 2 :].split()
    return (int(fields[11]) + int(fields[12])) / _TICK


def rss_kib(pid: int) -> float:
    """A process's resident memory, in KiB.

    Raises:
        OSError: it is gone.
    """
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_KIB


@contextmanager
def on_core(core: int) -> Iterator[None]:
    """Whatever is started inside runs on one core, with every thread that it will ever make."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def unbroken() -> Iterator[None]:
    """An interrupt that comes inside is raised when this ends.

    Only for what is short: the start of a process, between which and the `try` that ends it no interrupt may come, or its end.
    """
    came: list[int] = []
    now = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    before = {number: action for number, action in now.items() if action is not signal.SIG_IGN}
    try:
        for number in before:
            signal.signal(number, lambda number, _: came.append(number))
        yield
    finally:
        for number, action in before.items():
            signal.signal(number, action)
        if came:
            raise KeyboardInterrupt


@dataclass
class Server:
    """A running server.

    Attributes:
        name: for messages.
        process: its process.
        folder: its working directory.
        port: where it listens on 127.0.0.1.
        tail: the last lines of its log.
        events: what it has logged as events, oldest first.
    """

    name: str
    process: subprocess.Popen[str]
    folder: Path
    port: int = 0
    tail: deque[str] = field(default_factory=lambda: deque(maxlen=TAIL_LINES))
    events: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._ended = self._asked = False
        self._told = threading.Condition()
        self._reader = threading.Thread(target=self._read_log, name=f"log of {self.name}", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """The process whose CPU and memory are read."""
        return self.process.pid

    def told(self) -> str:
        """The tail of the log as one text."""
        return "\n".join(self.tail) or "(it wrote nothing)"

    def of(self, event: str) -> list[dict[str, Any]]:
        """Its events of a kind."""
        return [each for each in self.events if each["event"] == event]

    def until(self, holds: Callable[[], object], what: str, seconds: float = READY_SECONDS) -> None:
        """Waits until something holds that its log tells.

        Args:
            what: what it does then, for messages: "listen".

        Raises:
            ServerError: it ended, or did not do so in time; the text holds the tail of its log.
        """
        with self._told:
            in_time = self._told.wait_for(lambda: holds() or self._ended, seconds)
        if holds():
            return
        fault = f"did not {what} within {seconds:g} s"
        if in_time:
            fault = f"ended with status {self.process.wait(STOP_SECONDS)} before it did {what}"
        raise ServerError(f"the {self.name} {fault}. The end of its log:\n{self.told()}")

    def ask_to_stop(self) -> None:
        """Has it end in good order, and does not wait for that. To ask twice is to be impatient, so it is asked once."""
        if not self._asked and self.process.poll() is None:
            self._asked = True
            self.process.terminate()

    def kill(self) -> None:
        """Ends it at once, as SIGKILL does."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> None:
        """Ends it: asked first, and told after a while. Its log has been read to the end then."""
        self.ask_to_stop()
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
        self._reader.join(STOP_SECONDS)

    def _read_log(self) -> None:
        """Reads until the log ends, so that the server never waits for a full pipe."""
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                event = _event_in(line)
                with self._told:
                    self.tail.append(line.rstrip("\n"))
                    if event:
                        self.events.append(event)
                    self.port = self.port or _port_in(line, event)
                    self._told.notify_all()
        with self._told:
            self._ended = True
            self._told.notify_all()


def pin(pid: int, core: int) -> None:
    """Has a process that runs already stay on one core, with all its threads.

    Raises:
        OSError: it is gone.
    """
    for thread in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(thread.name), {core})


def start(name: str, command: Sequence[str], core: int | None, folder: Path, *, own_session: bool = True) -> Server:
    """Starts a server, and does not wait for it.

    Args:
        name: for messages.
        command: what to run.
        core: where to run it; None for wherever there is room.
        folder: its working directory.
        own_session: puts it into a session of its own; a command that does so itself is left to it.
    """
    with nullcontext() if core is None else on_core(core):
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=own_session,
        )
    return Server(name, process, folder)


@contextmanager
def running(name: str, command: Sequence[str], core: int, folder: Path) -> Iterator[Server]:
    """Starts a server, waits until it listens, and stops it in the end; for the arguments see `start`.

    Raises:
        ServerError: it ended, or did not listen in time; the text holds the tail of its log.
    """
    server: Server | None = None
    try:
        with unbroken():
            server = start(name, command, core, folder)
        server.until(lambda: server.port, "listen")
        yield server
    finally:
        if server is not None:
            server.stop()


def _event_in(line: str) -> dict[str, Any]:
    """What a line of a log tells as an event; empty if it tells of none."""
    line = line.lstrip("\x1e")  # RFC 7464's mark, which twist puts before each object
    if not line.startswith("{"):
        return {}
    try:
        told = json.loads(line)
    except ValueError:
        return {}
    return told if isinstance(told, dict) and "event" in told else {}


def _port_in(line: str, event: dict[str, Any]) -> int:
    """The port that a line of a log names, if it says that the server listens; else 0."""
    found = _RELAY_LISTENS.match(line)
    address = found.group(1) if found else str(event.get("address", "")) if event.get("event") == "listening" else ""
    port = address.rpartition(":")[2]
    return int(port) if port.isdigit() else 0


def environment() -> dict[str, str]:
    """The environment of the children: this one, with the package that was imported here in front."""
    root = str(Path(twisted_im.__file__).parents[1])
    benchmarks = str(Path(__file__).parents[1])
    older = os.environ.get("PYTHONPATH")
    paths = dict.fromkeys([root, benchmarks, *([older] if older else [])])
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def node_command(
    strategy: str, store: str, certificate: Path | None, more: Sequence[str], *, auth: Sequence[str] = ("--auth=anonymous",), port: int = 0
) -> list[str]:
    """The command line of a node on the loopback.

    Args:
        strategy: for --strategy.
        store: for --store.
        certificate: the folder of `make_certificate`, for TLS; None for plain TCP.
        more: options after these.
        auth: the options that say who may log in.
        port: where it listens; 0 for a free one.
    """
    endpoint = f"tcp:{port}:interface=127.0.0.1"
    if certificate is not None:
        endpoint = f"ssl:{port}:privateKey={certificate}/key.pem:certKey={certificate}/cert.pem:interface=127.0.0.1"
    return [
        *(sys.executable, "-m", "twisted", "im", f"--strategy={strategy}", f"--store={store}", f"--listen={endpoint}"),
        *("--data=data", *auth, *more),  # in its working directory, whatever the environment says
    ]


def make_certificate(folder: Path) -> None:
    """Writes key.pem and cert.pem for localhost, good for a day, signed by nobody else.

    Raises:
        ServerError: the package `cryptography` is not installed.
    """
    try:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.x509.oid import NameOID
    except ImportError as error:
        raise ServerError("--tls makes a certificate with the package cryptography: pip install cryptography") from error
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "key.pem").write_bytes(secret)
    (folder / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))


@contextmanager
def profiled(pid: int, output: Path) -> Iterator[None]:
    """Records where a process spends its time, with py-spy or else perf, while the body runs.

    Raises:
        ServerError: neither of them is installed.
    """
    if py_spy := shutil.which("py-spy"):
        command = [py_spy, "record", "--nonblocking", "-p", str(pid), "-o", str(output)]
    elif perf := shutil.which("perf"):
        command = [perf, "record", "-q", "-g", "-p", str(pid), "-o", str(output)]
    else:
        raise ServerError("--profile needs py-spy or perf: pip install py-spy")
    recorder = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        yield
    finally:
        if recorder.poll() is None:
            recorder.send_signal(signal.SIGINT)
        try:
            _, told = recorder.communicate(timeout=STOP_SECONDS)
        except subprocess.TimeoutExpired:
            recorder.kill()
            _, told = recorder.communicate()
        if not output.exists():
            print(f"no profile was written: {told.strip()}", file=sys.stderr)
