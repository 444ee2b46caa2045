"""A second process on the same store: refused, or standing by until the first has ended, in whichever way.

Strategy: real processes with one SQLite file, ended by signals, with the listening lines of their logs as the only clock.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail
from twisted.internet.task import Clock

from tests.routing.linked import logged
from tests.twistd import DEADLINE, ENVIRONMENT, TWISTD, Talk, address_in, started
from twisted_im.errors import ImError, Status
from twisted_im.server.tenure import LEASE, RENEWAL, Tenure, is_gone, new_boot
from twisted_im.storage.memory import MemoryStore
from twisted_im.wire.codec import CODECS, tag
from twisted_im.wire.schema import Command, Kind, LoginMethod

WORDS = [*TWISTD, "-n", "--pidfile=", "im", "--auth=anonymous", "--listen=tcp:0"]


class Servers:
    """Processes on one file; all are gone at the end."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder = folder
        self._stack = stack

    def start(self, *more: str) -> subprocess.Popen[str]:
        return self._stack.enter_context(started([*WORDS, *more], self._folder))


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Servers]:
    with ExitStack() as stack:
        yield Servers(tmp_path, stack)


def said(process: subprocess.Popen[str], event: str) -> None:
    """Waits for a line of its log."""
    assert process.stdout is not None
    assert any(line.startswith("{") and json.loads(line).get("event") == event for line in process.stdout), f"it never said {event}"


def sent(address: str, content: bytes) -> int:
    """Alice logs in and sends Bob a message: its status."""
    with Talk(address) as talk:
        assert talk.login("alice", b"", LoginMethod.ANONYMOUS) == Status.OK
        return send(talk, content)


def send(talk: Talk, content: bytes) -> int:
    client_id = int(time.time() * 1000).to_bytes(6, "big") + os.urandom(10)
    answer = talk.ask(Command.MESSAGE, client_id=client_id, conversation=0, content_type=1, life=0, target=b"bob", content=content)
    return answer[2] & 0xFFFF if answer[0] == tag(Kind.RESPONSE, Command.MESSAGE) else -1  # else it has said goodbye


def kept(address: str) -> list[bytes]:
    """What Bob finds."""
    with Talk(address) as talk:
        assert talk.login("bob", b"", LoginMethod.ANONYMOUS) == Status.OK
        answer = talk.ask(Command.HISTORY, conversation=1, first=1, last=100, limit=100, direction=0)
        rows: Any = CODECS[Kind.RESPONSE, Command.HISTORY].read(answer[3]).messages
        return [row.content for row in rows]


def test_one_name_one_process(servers: Servers) -> None:
    """Two processes by mistake use one store under one name, and the users of one do not reach those of the other."""
    first = servers.start()
    address = address_in(first.stdout)
    outcome = subprocess.run(
        WORDS, cwd=servers._folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=DEADLINE, check=False
    )
    assert outcome.returncode == 1
    assert "another process is the node 'node' on this store; stop it, say another --name, or wait for it with --standby" in outcome.stdout
    assert "Traceback" not in outcome.stdout + outcome.stderr
    with Talk(address) as talk:
        assert talk.login("bob", b"", LoginMethod.ANONYMOUS) == Status.OK
    assert sent(address, b"still there") == Status.OK


@pytest.mark.parametrize("ended_by", [signal.SIGKILL, signal.SIGTERM])
def test_a_standby_takes_over(servers: Servers, ended_by: signal.Signals) -> None:
    """When a server is killed, or is stopped for an update, its standby does not come, or has not all that was accepted."""
    first = servers.start()
    address = address_in(first.stdout)
    with Talk(address) as talk:
        assert talk.login("bob", b"", LoginMethod.ANONYMOUS) == Status.OK
    second = servers.start("--standby")
    said(second, "standing by")
    assert sent(address, b"before") == Status.OK
    first.send_signal(ended_by)
    address = address_in(second.stdout)
    assert kept(address) == [b"before"]
    assert sent(address, b"after") == Status.OK
    assert kept(address) == [b"before", b"after"]
    second.terminate()
    second.communicate(timeout=DEADLINE)
    assert second.returncode == 0


def test_a_standby_that_is_not_needed(servers: Servers) -> None:
    """A standby that is stopped hangs, or takes the server with it."""
    first = servers.start()
    address = address_in(first.stdout)
    second = servers.start("--standby")
    said(second, "standing by")
    second.terminate()
    second.communicate(timeout=DEADLINE)
    assert second.returncode == 0
    with Talk(address) as talk:
        assert talk.login("alice", b"", LoginMethod.ANONYMOUS) == Status.OK


def test_who_was_taken_for_dead_can_do_nothing(servers: Servers) -> None:
    """A server that was frozen, and whose standby has taken over, goes on accepting messages that nobody on the new one is shown."""
    first = servers.start()
    address = address_in(first.stdout)
    with Talk(address) as talk:
        assert talk.login("bob", b"", LoginMethod.ANONYMOUS) == Status.OK
    second = servers.start("--standby")
    said(second, "standing by")
    with Talk(address) as alice:
        assert alice.login("alice", b"", LoginMethod.ANONYMOUS) == Status.OK
        first.send_signal(signal.SIGSTOP)
        began = time.monotonic()
        address = address_in(second.stdout)
        assert time.monotonic() - began < 2 * LEASE + 20, "the machine may be busy"
        assert sent(address, b"new") == Status.OK
        first.send_signal(signal.SIGCONT)
        try:
            status = send(alice, b"old")
        except (OSError, AssertionError):
            status = -1  # it has ended, or hung up
        assert status != Status.OK
        first.communicate(timeout=DEADLINE)
        assert first.returncode == 1
    assert kept(address) == [b"new"]


def test_whose_boot_it_was() -> None:
    """A server that was killed must wait for its own lease to end before it may start again; or one that lives is taken for dead."""
    child = subprocess.Popen(["true"])
    child.wait(timeout=DEADLINE)
    machine, chance = new_boot()[:8], bytes(4)
    assert is_gone(machine + child.pid.to_bytes(4, "big") + chance)
    assert not is_gone(new_boot())
    assert not is_gone(machine + os.getppid().to_bytes(4, "big") + chance)
    assert not is_gone(bytes(8) + child.pid.to_bytes(4, "big") + chance), "on another machine"
    assert not is_gone(b"made by another program")


def test_a_store_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process is frozen in the middle of a commit: this one can do nothing, and its log says nothing."""
    clock, store, answer = Clock(), MemoryStore(), Deferred()
    tenure = Tenure(store, clock, "im", standby=False, lost=lambda failure: None, clock=clock.seconds)
    tenure.take()
    with monkeypatch.context() as away, logged() as lines:
        away.setattr(store, "lease", lambda *_: answer)
        clock.pump([RENEWAL] + [1.0] * 60)
        assert [line for line in lines if "has not answered" in line] == lines[:1] == lines
        answer.callback(())
    assert tenure.look.leases == ()
    clock.pump([RENEWAL] * 3)
    tenure.release()
    assert clock.getDelayedCalls() == []


def test_a_store_that_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """The log of a server whose store is away for a minute has a line for each attempt, and what was seen before counts as news."""
    clock, store, looks = Clock(), MemoryStore(), []
    tenure = Tenure(store, clock, "im", standby=False, lost=lambda failure: None, renewed=looks.append, clock=clock.seconds)
    tenure.take()
    clock.pump([RENEWAL] * 3)
    assert len(looks) == 3
    with monkeypatch.context() as away, logged() as lines:
        away.setattr(store, "lease", lambda *_: fail(ImError(Status.UNAVAILABLE, "it is away")))
        clock.pump([RENEWAL] * 3)
    assert len(lines) == 1, lines
    assert "it is away" in lines[0]
    assert len(looks) == 3
    clock.pump([RENEWAL] * 2)
    assert len(looks) == 5
    tenure.release()
    assert clock.getDelayedCalls() == []
