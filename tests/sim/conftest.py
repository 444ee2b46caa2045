"""Has pytest explain the contract's failures as it does those of test modules."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("tests.sim.contract")
