"""`--processes` as an operator types it, and a rolling restart of real processes.

Strategy: the supervisor is started by twistd, and what it and its children say is followed in one file. Signals are real, and so are the
clients: they run in the test, send all the while, and the oracle judges what they have seen.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from twisted.internet import reactor
from twisted.internet.defer import maybeDeferred
from twisted.internet.error import ProcessTerminated
from twisted.internet.task import Clock, LoopingCall
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from tests.running import Eager, until
from tests.twistd import DEADLINE, ENVIRONMENT, HELLO, TWIST, TWISTD, Talk, started, wait_for
from twisted_im.client.values import Life, Standing
from twisted_im.faults.recorder import Recorder
from twisted_im.leash import leashed
from twisted_im.oracle import Accepted, Event, Healed, Oracle, Quiet, Refused
from twisted_im.processes import Processes
from twisted_im.sim.devices import MemoryJournal
from twisted_im.wire.codec import CODECS
from twisted_im.wire.schema import Command, Kind

COUNT = 3
#: Seconds that a node may take to stop (R20).
LONGEST = 60.0


class Running:
    """Processes that log to files of a folder; all are gone at the end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._stack = contextlib.ExitStack()
        self._stack.callback(self.reap)

    def start(self, words: list[str], log: str) -> subprocess.Popen[bytes]:
        file = self._stack.enter_context((self.folder / log).open("ab"))
        pipes = {"stdin": subprocess.DEVNULL, "stdout": file, "stderr": subprocess.STDOUT}
        process = subprocess.Popen(leashed(os.getpid(), words), cwd=self.folder, env=ENVIRONMENT, **pipes)
        self._stack.callback(process.wait, DEADLINE)
        self._stack.callback(process.kill)
        return process

    def said(self, event: str, log: str = "log", **fields: Any) -> list[dict[str, Any]]:
        """The lines so far that tell of an event."""
        if not (self.folder / log).exists():
            return []
        lines = (self.folder / log).read_text().split("\n")[:-1]
        told = [json.loads(line) for line in (line.lstrip("\x1e") for line in lines) if line.startswith("{")]
        return [line for line in told if line.get("event") == event and fields.items() <= line.items()]

    def reap(self) -> None:
        """Ends what runs in the background; children end with their parents."""
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            os.kill(int((self.folder / "pid").read_text()), signal.SIGKILL)

    def close(self) -> None:
        self._stack.close()


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    made = Running(tmp_path)
    yield made
    made.close()


def is_there(pid: int) -> bool:
    """Whether a process runs."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


def node_at(address: str) -> str:
    """Which node takes a new connection."""
    with Talk(address) as talk:
        name: bytes = CODECS[Kind.RESPONSE, Command.HELLO].read(talk.ask(Command.HELLO, **HELLO)[3]).node
        return name.decode()


RUNNERS = {
    "twistd": [*TWISTD, "-n", "--pidfile="],
    "twist": [*TWIST, "--log-format=json"],
    "in the background": [*TWISTD, "--logfile=log", "--pidfile=pid"],
}


@pytest.mark.parametrize("runner", [*RUNNERS])
def test_several_processes_behind_one_port(running: Running, runner: str) -> None:
    """If this fails, a machine's other processors do nothing for its users; or a node that crashed stays away until a person comes."""
    words = [*RUNNERS[runner], "im", "--auth=anonymous", "--processes=2", "--listen=tcp:0", "--name=im"]
    parent = running.start(words, "output" if runner == "in the background" else "log")
    wait_for(lambda: len(running.said("listening")) == 2, "both to listen")
    (address,) = {line["address"] for line in running.said("listening")}
    (said,) = running.said("processes")
    assert (said["nodes"], said["where"]) == ("im-1, im-2", address)
    seen: set[str] = set()
    wait_for(lambda: seen.add(node_at(address)) or seen == {"im-1", "im-2"}, "both to get connections")  # type: ignore[func-returns-value]
    for number, pause in enumerate((0.0, 1.0), 1):
        os.kill(running.said("process", node="im-1")[-1]["pid"], signal.SIGKILL)
        wait_for(lambda number=number: len(running.said("listening", node="im-1")) == number + 1, "it to be started again")  # type: ignore[misc]
        assert running.said("process ended", node="im-1")[-1]["pause"] == pause
    assert len(running.said("process", node="im-2")) == 1
    children = [running.said("process", node=node)[-1]["pid"] for node in ("im-1", "im-2")]
    leader = int((running.folder / "pid").read_text()) if runner == "in the background" else parent.pid
    os.kill(leader, signal.SIGUSR2)
    wait_for(lambda: {line["node"] for line in running.said("counters")} == {"im-1", "im-2"}, "what both have done so far")
    os.kill(leader, signal.SIGTERM)
    wait_for(lambda: not is_there(leader), "the end")
    assert parent.wait(DEADLINE) == 0
    assert not any(map(is_there, children))
    assert {line["node"] for line in running.said("stopped")} == {"im-1", "im-2"}
    assert not (running.folder / "pid").exists()


def test_nobody_is_left_behind(running: Running) -> None:
    """If this fails, nodes go on behind the back of whoever has ended what supervises them, and hold their names and the port."""
    parent = running.start([*RUNNERS["twistd"], "im", "--auth=anonymous", "--processes=2", "--listen=tcp:0"], "log")
    wait_for(lambda: len(running.said("listening")) == 2, "both to listen")
    children = [line["pid"] for line in running.said("process")]
    assert all(map(is_there, children))
    parent.kill()
    wait_for(lambda: not any(map(is_there, children)), "the children to end")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--strategy=single"], "--strategy: single is for one process: say --strategy=routed or broadcast with --processes, or leave"),
        (["--store=memory"], "--store: the nodes of a cluster share one store, and this one is a process's own: say --store=sqlite"),
        (["--listen=unix:im.sock"], "--listen=unix:im.sock: processes share TCP ports only: leave it out, or --processes"),
        (["--link-listen=tcp:7901"], "--link-listen: each process takes links at a port of its own: say port 0 there, or leave it out"),
        (["--advertise=0.0.0.0:7777"], "--advertise takes a list, such as"),
        (["--store=sqlite:rubbish"], "rubbish"),
        (["--listen=tcp:{busy}"], "Address already in use"),
    ],
)
def test_mistakes(words: list[str], said: str, tmp_path: Path) -> None:
    """If this fails, a mistake is a traceback, or processes that are started again and again for nothing."""
    (tmp_path / "rubbish").write_bytes(b"no database" * 1000)
    with socket.create_server(("127.0.0.1", 0)) as busy:
        words = [word.format(busy=busy.getsockname()[1]) for word in words]
        if not any(word.startswith("--listen") for word in words):
            words.append("--listen=tcp:0")
        with started([*RUNNERS["twistd"], "im", "--auth=anonymous", "--processes=2", *words], tmp_path) as process:
            output, _ = process.communicate(timeout=DEADLINE)
    assert process.returncode == 1
    assert said in output
    assert "Traceback" not in output


class Rolling(TestCase):
    """Nodes are stopped one after another, while clients in this process send to each other."""

    timeout = 180

    def setUp(self) -> None:
        self.running = Running(Path(self.mktemp()).absolute())
        self.running.folder.mkdir(parents=True)
        self.addCleanup(self.running.close)
        self.events: list[Event] = []
        self.errors: list[str] = []
        self.devices: list[Recorder] = []

    def come(self, user: str, device: str, address: str) -> None:
        """A device, which begins at once."""
        journal = MemoryJournal(self.events.append)
        recorder = Recorder(journal, user, device, address, random=Eager(), moved=self._moved, reactor=reactor)
        self.devices.append(recorder)
        recorder.come()
        self.addCleanup(lambda: maybeDeferred(recorder.client.stopService))

    def _moved(self, standing: Standing) -> None:
        if standing.error is not None or standing.life is Life.ENDED:
            self.errors.append(f"{standing.life.value}: {standing.reason}")

    def act(self) -> None:
        """Everybody sends, and asks for something."""
        for recorder in self.devices:
            recorder.send("bob" if recorder.user == "alice" else "alice")
            recorder.client.conversations().addErrback(self._failed)

    def _failed(self, failure: Failure) -> None:
        self.errors.append(failure.getErrorMessage())

    async def roll(self, addresses: list[str], restart: Callable[[int], Any]) -> None:
        """The story: everybody comes, each node is restarted, and the oracle judges."""
        for number in range(6):
            self.come(("alice", "bob")[number % 2], f"device{number}", addresses[number % len(addresses)])
        await until(lambda: all(recorder.online for recorder in self.devices), "everybody")
        acting = LoopingCall(self.act)
        acting.start(0.1)
        self.addCleanup(lambda: acting.stop() if acting.running else None)
        for number in range(COUNT):
            before = sum(recorder.accepted for recorder in self.devices)
            await restart(number)
            await until(lambda before=before: sum(recorder.accepted for recorder in self.devices) > before + 20, "some more")  # type: ignore[misc]
        acting.stop()
        self.events.append(Healed(time=time.monotonic()))
        await until(lambda: not any(recorder.unanswered for recorder in self.devices), "all to be accepted")
        due = sum(isinstance(event, Accepted) for event in self.events) * (len(self.devices) - 1)
        await until(lambda: sum(recorder.covered for recorder in self.devices) >= due, "all to be shown")
        self.events.append(Quiet(time=time.monotonic()))
        oracle = Oracle()
        for number, event in enumerate(self.events):
            oracle.add(event, number)
        assert oracle.judge().violations == []
        assert not [event for event in self.events if isinstance(event, Refused)]
        assert self.errors == []

    async def test_processes(self) -> None:
        """If this fails, a new version on a machine with several processes costs people errors or messages."""
        self.running.start([*RUNNERS["twistd"], "im", "--auth=anonymous", f"--processes={COUNT}", "--listen=tcp:0"], "log")
        await until(lambda: len(self.running.said("link up")) == COUNT * (COUNT - 1), "all to be linked")
        address = self.running.said("listening")[0]["address"]

        async def restart(number: int) -> None:
            name = f"node-{number + 1}"
            began = time.monotonic()
            os.kill(self.running.said("process", node=name)[-1]["pid"], signal.SIGTERM)
            await until(lambda: self.running.said("process ended", node=name), "its end")
            assert time.monotonic() - began < LONGEST
            await until(lambda: len(self.running.said("listening", node=name)) == 2, "its return")

        await self.roll([address], restart)

    async def test_nodes_at_ports_of_their_own(self) -> None:
        """If this fails, a new version on one machine after another costs people errors or messages."""
        nodes: list[subprocess.Popen[bytes]] = []
        addresses: list[str] = []

        async def start(number: int) -> subprocess.Popen[bytes]:
            log = f"{number}.log"
            before = len(self.running.said("listening", log))
            listen = addresses[number].rpartition(":")[2] if addresses[number:] else "0"
            words = [*RUNNERS["twistd"], "im", "--auth=anonymous", "--strategy=routed", f"--name=n{number}", f"--listen=tcp:{listen}"]
            node = self.running.start(words, log)
            await until(lambda: len(self.running.said("listening", log)) > before, "a node")
            return node

        for number in range(COUNT):
            nodes.append(await start(number))
            addresses.append(self.running.said("listening", f"{number}.log")[0]["address"])

        async def restart(number: int) -> None:
            began = time.monotonic()
            nodes[number].terminate()
            await until(lambda: nodes[number].poll() is not None, "its end")
            assert time.monotonic() - began < LONGEST
            assert nodes[number].returncode == 0
            nodes[number] = await start(number)

        await self.roll(addresses, restart)


def test_one_that_ends_again_and_again_for_days() -> None:
    """If this fails, a node that could not run for a night, since the disk was full, stays away until a person comes."""

    class Hours(Clock):
        """A reactor whose processes listen, and end at once."""

        begun = 0

        def spawnProcess(self, child: Any, *_: Any, **__: Any) -> None:  # noqa: N802  # the interface's name
            self.begun += 1
            child.transport = SimpleNamespace(pid=1)
            child.childDataReceived(1, b'{"level": "info", "from": "test", "text": "here", "time": "", "event": "listening"}\n')
            self.callLater(1.0, child.processEnded, Failure(ProcessTerminated(1)))

        def callWhenRunning(self, call: Callable[[], object]) -> None:  # noqa: N802  # the interface's name
            call()

    hours = Hours()
    processes = Processes(["im-1"], lambda *_: [], ["tcp:0"], reactor=hours, environment={})
    processes.startService()
    hours.pump([1.0] * 40_000)
    assert hours.begun > 1200
    (waiting,) = hours.getDelayedCalls()
    assert waiting.getTime() - hours.seconds() <= 30.0
