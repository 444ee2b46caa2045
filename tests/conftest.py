"""Settings for all tests.

Strategy: the machine may be slow and shared, so hypothesis judges no example by the clock; a test that hangs is ended by trial's own limit.
"""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("patient", deadline=None)
settings.load_profile("patient")
