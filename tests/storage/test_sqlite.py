"""The store in a SQLite file: the contract of all stores, and what is its own — the file, other processes, the disk.

Strategy: each test has a file of its own, in a directory that is gone afterwards.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from twisted.trial.unittest import TestCase

from tests.storage.contract import StoreContract
from twisted_im.storage.sqlite import SqliteStore


class TestSqliteStore(StoreContract, TestCase):
    """What every store must do."""

    machine_settings = {"max_examples": 25, "stateful_step_count": 40}

    def make_store(self) -> Any:
        directory = tempfile.TemporaryDirectory(prefix="twisted_im-")
        self.addCleanup(directory.cleanup)
        return SqliteStore(Path(directory.name) / "messages.db", horizon=3600, clock=self.clock)
