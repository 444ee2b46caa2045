"""Runs the load, which is a program of its own, and judges what it has counted."""

from __future__ import annotations

import json
import statistics
import subprocess
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.servers import environment, on_core

#: The status of a load that the server's own bounds rule out.
UNFIT = 2

#: What one run of the load measured, under the names of its output.
Figures = dict[str, Any]


class RunError(Exception):
    """A measurement did not come to its end; the text is for people."""


class UnfitError(Exception):
    """The server cannot be loaded as the options say; the text is one line that says what to do."""


def drive(command: Sequence[str], core: int, told: Callable[[], str]) -> Figures:
    """One run of the load.

    Args:
        command: the load, with its options.
        core: where it runs.
        told: gives the end of the servers' logs, for people who must find out why it failed.

    Raises:
        RunError: it could not be brought to its end.
        UnfitError: the options ask for more than a server takes.
    """
    with on_core(core):
        outcome = subprocess.run(
            command,
            env=environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            start_new_session=True,
        )
    if outcome.returncode == UNFIT:
        raise UnfitError(outcome.stderr.strip().removeprefix("load: "))
    if outcome.returncode:
        why = outcome.stderr.strip() or f"the load ended with status {outcome.returncode}"
        raise RunError(f"{why}\nThe end of the log:\n{told()}")
    figures: Figures = json.loads(outcome.stdout)
    return figures


def judge(figures: Figures) -> list[str]:
    """What is wrong with a run, one line each: every message that was sent must have made its whole way, once."""
    counts = {name: figures[name] for name in ("sent", "accepted", "delivered", "receipted")}
    faults = []
    if len(set(counts.values())) != 1:
        faults.append("messages were lost: " + ", ".join(f"{count} {name}" for name, count in counts.items()))
    if figures["duplicates"]:
        faults.append(f"{figures['duplicates']} messages came twice or too late")
    if figures["errors"]:
        faults.append(f"{figures['errors']} frames did not fit, the first at {figures['first_error']}")
    if not figures["delivered_per_s"]:
        faults.append("nothing was delivered while it was measured: choose fewer users, or more seconds")
    return faults


def medians(runs: Sequence[Figures]) -> Figures:
    """The median of each figure over several runs; nothing if there were none."""
    names = [name for name, value in runs[0].items() if isinstance(value, int | float)] if runs else []
    return {name: round(statistics.median(figures[name] for figures in runs), 4) for name in names}
