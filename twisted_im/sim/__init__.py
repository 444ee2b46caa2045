"""A whole installation in one process, under virtual time: servers, stores and clients as they are shipped, and everything between them
drawn from a seed.

The names in `__all__` are the public ones; everything else may change. docs/testing-your-app.md shows them at work.
"""

from __future__ import annotations

from twisted_im.sim.disk import SimDisk
from twisted_im.sim.trace import Step
from twisted_im.sim.world import Machine, Process, World

__all__ = ["Machine", "Process", "SimDisk", "Step", "World"]
