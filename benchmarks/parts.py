"""Runs other commands of `benchmarks` as part of one, each in a process of its own.

Strategy: a command that measures wants a process of its own: its collector, its affinity and its limits are not another's. So what is
used of it is what its users use, and what it has printed when it is interrupted is kept.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.driving import Figures
from benchmarks.servers import environment, unbroken

END_SECONDS = 60.0  #: for a command that is interrupted to end all that it has started


def run_part(words: Sequence[str], kept: Path) -> int:
    """Runs `python -m benchmarks WORDS`; gives its exit status. Its progress is seen, and its output goes into a file.

    An interrupt is handed on, and comes out of this when the command has ended.
    """
    process: subprocess.Popen[bytes] | None = None
    with kept.open("w", encoding="utf-8") as output:
        try:
            with unbroken():
                process = subprocess.Popen(
                    [sys.executable, "-m", "benchmarks", *words],
                    env=environment(),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    start_new_session=True,  # so that Ctrl-C reaches it once, from here
                )
            return process.wait()
        except KeyboardInterrupt:
            with unbroken():  # whoever is impatient has asked once already
                if process is not None:
                    _end(process)
            raise


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def objects(kept: Path) -> list[Figures]:
    """The JSON objects in such a file, one a line; empty if there is no such file."""
    if not kept.exists():
        return []
    return [json.loads(line) for line in kept.read_text(encoding="utf-8").splitlines() if line.startswith("{")]
