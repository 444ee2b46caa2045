"""The store in a SQLite file: the contract of all stores, and what is its own — the file, other processes, the disk.

Strategy: each test has a file of its own, in a directory that is gone afterwards.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from tests.storage.contract import SharedStoreContract
from twisted_im.errors import ImError
from twisted_im.storage.sqlite import SqliteStore


class Pool:
    """Threads that are none: each call is made in a later turn of the reactor."""

    def __init__(self, name: str, notes: list[str]) -> None:
        self._name, self._notes = name, notes

    def start(self) -> None:
        self._notes.append(f"{self._name} starts")

    def stop(self) -> None:
        self._notes.append(f"{self._name} stops")

    def callInThreadWithCallback(self, on_result: Callable[[bool, Any], object], call: Callable[..., Any], *args: Any) -> None:
        def run() -> None:
            self._notes.append(f"{self._name} calls")
            try:
                result = True, call(*args)
            except Exception:
                result = False, Failure()
            on_result(*result)

        reactor.callLater(0, run)


class TestThreads(TestCase):
    """What the store asks of its threads."""

    async def test_threads_can_be_given(self) -> None:
        """If this fails, a run of a server in simulated threads cannot be repeated, and the fault that it has found is lost."""
        directory = tempfile.TemporaryDirectory(prefix="twisted_im-")
        self.addCleanup(directory.cleanup)
        running: Deferred[None] = Deferred()
        reactor.callWhenRunning(running.callback, None)
        await running
        notes: list[str] = []
        store = SqliteStore(Path(directory.name) / "m.db", threads=lambda name: Pool(name, notes))
        store.open()
        assert await store.accounts([b"\0ann"], True) == set()
        assert await store.accounts([b"\0ann"], False) == {b"\0ann"}
        with self.assertRaises(ImError):
            await store.read(b"\0ann", 1, 1, 1, 1, False)
        await store.close()
        writer, reader = "m.db writer", "m.db reader"
        begin, end = [f"{writer} starts", f"{reader} starts"], [f"{writer} stops", f"{reader} stops"]
        assert notes == [*begin, f"{writer} calls", f"{reader} calls", f"{reader} calls", *end]


class TestSqliteStore(SharedStoreContract, TestCase):
    """What every store must do."""

    machine_settings = {"max_examples": 25, "stateful_step_count": 40}

    def make_store(self) -> Any:
        directory = tempfile.TemporaryDirectory(prefix="twisted_im-")
        self.addCleanup(directory.cleanup)
        self.path = Path(directory.name) / "messages.db"
        return self.make_other()

    def make_other(self) -> Any:
        return SqliteStore(self.path, horizon=3600, clock=self.clock)
