"""Many seeds in many processes: the suite's own two hundred, and what a campaign does when a run goes wrong."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from twisted_im.sim import campaign
from twisted_im.sim.__main__ import replay
from twisted_im.sim.campaign import Campaign, Figures
from twisted_im.sim.scenario import FAULTS, TOPOLOGIES, draw

#: Answers as a worker does, and misbehaves for some seeds. `hash` of a text depends on PYTHONHASHSEED.
BAD = """
import json, sys, time
print("{}", flush=True)
for line in sys.stdin:
    seed, length = json.loads(line)
    if seed == 2:
        sys.exit("out of memory")
    if seed == 3:
        time.sleep(1000)
    print(json.dumps({"seed": seed, "violations": ["L0: lost"] if seed == 1 else [], "simulated": 10.0, "events": 100,
        "faults": {"kill": 2}, "counts": {"sent": 3}, "digest": str(hash("x")) if seed == 4 else "same"}), flush=True)
"""


def test_two_hundred_seeds() -> None:
    """If this fails, some server has broken a promise that it gave its users, and the last line says how to watch it."""
    length = 5.0
    figures = Campaign(range(1300, 1500), jobs=2, length=length).run()  # of these every kind of fault is tried some times
    assert not figures.violations, "\n".join(
        line for seed, lines in sorted(figures.violations.items()) for line in (*lines[:3], replay(seed, length))
    )
    assert figures.seeds == 200
    assert figures.twice == 2
    assert figures.counts["shown"] > figures.counts["accepted"] > 4_500
    assert set(figures.faults) == set(FAULTS), "too few runs: some faults were never tried"
    assert figures.simulated > 200 * length


def test_another_process_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """If this fails, the seed of a violation shows something else on the next machine, and nobody can mend what was found."""
    found: dict[tuple[str, str], list[int]] = {(topology, store): [] for topology in TOPOLOGIES for store in ("model", "sqlite")}
    for seed in range(100):
        scenario = draw(seed)
        found[scenario.topology, scenario.store].append(seed)
    seeds = [seed for some in found.values() for seed in some[:2]]
    monkeypatch.setattr(campaign, "TWICE", 1)
    figures = Campaign(seeds, jobs=2, length=8.0).run()
    assert figures.violations == {}
    assert figures.twice == figures.seeds == len(seeds) == 2 * len(found)


def test_runs_that_go_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """If this fails, one run that crashes or hangs is the end of a night's work, or a run that came out otherwise goes unseen."""
    monkeypatch.setattr(campaign, "WORKER", [sys.executable, "-c", BAD])
    monkeypatch.setattr(campaign, "PATIENCE", 8.0)
    monkeypatch.setattr(campaign, "TWICE", 4)
    figures = Campaign(range(8), jobs=2).run()
    assert set(figures.violations) == {1, 2, 3, 4}
    assert figures.violations[1] == ["L0: lost"]
    assert figures.violations[2] == ["X0: the process that ran it has ended: out of memory"]
    assert figures.violations[3] == ["X0: it has not ended within 8 s"]
    assert figures.violations[4][0].startswith("D1: ")
    assert figures.seeds == 8
    assert figures.twice == 2
    assert (figures.events, figures.faults, figures.counts["sent"]) == (600, {"kill": 12}, 18)

    monkeypatch.setattr(campaign, "WORKER", [sys.executable, "-c", "import sys; sys.exit('no such module')"])
    with pytest.raises(ChildProcessError, match="no such module"):
        Campaign([0], jobs=1).run()


@pytest.mark.parametrize("jobs", [1, 3])
def test_never_more_at_a_time_than_was_said(jobs: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If this fails, a campaign in the background takes the whole machine."""
    counting = f"""
import json, os, sys, time
from pathlib import Path
print("{{}}", flush=True)
for line in sys.stdin:
    mine = Path({str(tmp_path)!r}, str(os.getpid()))
    mine.touch()
    most = len([each for each in os.listdir({str(tmp_path)!r})])
    time.sleep(0.02)
    mine.unlink()
    print(json.dumps({{"seed": json.loads(line)[0], "violations": [], "simulated": 1, "events": 1, "faults": {{}}, "digest": "same",
        "counts": {{"most": most}}}}), flush=True)
"""
    monkeypatch.setattr(campaign, "WORKER", [sys.executable, "-c", counting])
    monkeypatch.setattr(campaign, "TWICE", 2)
    most: list[int] = []

    class Seen(Figures):
        def add(self, result: dict[str, object]) -> None:
            counts = result["counts"]
            assert isinstance(counts, dict)
            most.append(counts["most"])
            super().add(result)

    monkeypatch.setattr(campaign, "Figures", Seen)
    figures = Campaign(range(20), jobs=jobs).run()
    assert figures.seeds == 20
    assert figures.twice == 10
    assert max(most) <= jobs
    assert figures.violations == {}


def test_filters_and_time() -> None:
    """If this fails, somebody who looks at one topology is shown another, or waits for longer than was asked."""
    figures = Campaign(range(30), jobs=2, length=0.5, topology="standby", store="sqlite").run()
    wanted = [seed for seed in range(30) if (draw(seed).topology, draw(seed).store) == ("standby", "sqlite")]
    assert wanted
    assert figures.seeds == len(wanted)
    assert figures.skipped == 30 - len(wanted)
    assert (figures.first, figures.last) == (wanted[0], wanted[-1])
    assert Campaign(range(30), jobs=2, seconds=0.0).run().seeds == 0
