"""Settings for all tests.

Strategy: the machine may be slow and shared, so hypothesis judges no example by the clock; a test that hangs is ended by trial's own limit.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings
from twisted.trial.unittest import SynchronousTestCase

settings.register_profile("patient", deadline=None)
settings.load_profile("patient")


@pytest.fixture(autouse=True)
def _temporary(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trial makes its temporary files in the working directory, and leaves them there; pytest has a better place."""

    def mktemp(case: SynchronousTestCase) -> str:
        folder: Path = tmp_path_factory.mktemp("trial")
        return str(folder / "temporary")

    monkeypatch.setattr(SynchronousTestCase, "mktemp", mktemp)
