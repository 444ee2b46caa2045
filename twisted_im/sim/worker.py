"""One process of a campaign: runs the seeds that it is told, one after another.

Strategy: a line in is one seed, a line out is what came of it, both in JSON; the first line out, an empty object, says that it is ready.
The process is leashed: it ends with the one that started it, however that one ends.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from twisted_im.sim.run import run, settle_in
from twisted_im.sim.scenario import draw

#: How it is started; see `twisted_im.leash`.
WORKER = [sys.executable, "-c", "from twisted_im.leash import leash; leash(); from twisted_im.sim.worker import work; work()"]


def work() -> None:
    """Until there is nothing more to read."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what anybody prints is no answer
    settle_in()
    print("{}", file=answers, flush=True)
    for line in sys.stdin:
        seed, length = json.loads(line)
        print(json.dumps(result(seed, length)), file=answers, flush=True)


def result(seed: int, length: float | None) -> dict[str, Any]:
    """What came of a seed, as plain data."""
    outcome = run(draw(seed, seconds=length))
    return {
        "seed": seed,
        "violations": outcome.violations,
        "simulated": outcome.simulated,
        "events": outcome.events,
        "faults": outcome.faults,
        "counts": outcome.counts,
        "digest": outcome.digest,
    }
