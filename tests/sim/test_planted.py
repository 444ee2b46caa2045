"""The simulator finds bugs: each of those in `tests.sim.planted` is put into the shipped code, and found.

Strategy: the seed that has found a bug when the page was written is tried first, so a test mostly is one run with the bug, and one without.
A change that moves what the seeds mean costs time, and no test: then the others are tried, from 0 on.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.sim import planted
from tests.sim.planted import BUGS, SEEDS, Bug, Edit

PAGE = Path(__file__).parent.parent.parent / "docs" / "simulator_planted.md"
KNOWN = planted.on_page(PAGE.read_text("utf-8"))


@pytest.mark.parametrize("name", BUGS)
def test_a_planted_bug_is_found(name: str) -> None:
    """If this fails, the simulator is blind to a mistake that users would feel, and all its quiet seeds mean less than they seem to."""
    found = planted.search(name, SEEDS, max(KNOWN.get(name, 0), 0))
    assert found.laws, f"not found in {SEEDS} seeds"


def test_nothing_stays_planted() -> None:
    """If this fails, a bug outlives its test, and whatever runs later in the same process is judged for it."""
    owners = {(edit.owner, edit.function) for bug in BUGS.values() for edit in bug.edits}
    before = {place: vars(place[0])[place[1]] for place in owners}
    for bug in BUGS.values():
        with planted.planted(bug):
            assert all(vars(edit.owner)[edit.function] is not before[edit.owner, edit.function] for edit in bug.edits)
    assert before == {place: vars(place[0])[place[1]] for place in owners}


def test_a_bug_whose_place_has_changed_is_refused() -> None:
    """If this fails, a bug quietly changes nothing once the code around it is written anew."""
    edit = BUGS["a gap is not pulled"].edits[0]
    stale = Bug("", "", (edit, Edit(edit.owner, "_take", {"words that stand nowhere": ""})))
    original = vars(edit.owner)[edit.function]
    with pytest.raises(LookupError, match="words that stand nowhere"), planted.planted(stale):
        pass
    assert vars(edit.owner)[edit.function] is original


def test_the_page_names_the_bugs() -> None:
    """If this fails, the page tells readers of other bugs than those that are tried: run `python -m tests.sim.planted --page`."""
    assert list(KNOWN) == list(BUGS)
    for bug in BUGS.values():
        assert f"| {bug.mistake} | {bug.seen} |" in PAGE.read_text("utf-8")
