"""Whether a person at a terminal can read what happened."""

from __future__ import annotations

import re
import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from tests.sim.sample import ANY_STEPS, story
from twisted_im.sim.timeline import WIDTH, columns, lines, plain, shorten
from twisted_im.sim.trace import Step


@given(ANY_STEPS)
def test_every_step_is_told_and_nothing_harms_a_terminal(steps: list[Step]) -> None:
    """If this fails, a step is missing in the time line, or a message's text moves the cursor of whoever reads of it."""
    told = 0
    for line in lines(steps):
        assert columns(line) <= WIDTH
        assert all(unicodedata.category(c)[0] != "C" and c.isprintable() for c in line), line
        if "… " in line and "more" in line:
            told += sum(int(number) for number in re.findall(r"([0-9]+) more ", line))
        elif not line.startswith("            ~"):
            told += 1
    assert told == len(steps)


@given(st.text(), st.integers(1, 30))
def test_a_shortened_text_fits(text: str, width: int) -> None:
    """If this fails, long or wide texts push the columns out of line."""
    short = shorten(plain(text), width)
    assert columns(short) <= width
    assert short == plain(text) or (short.endswith("…") and plain(text).startswith(short[:-1]))


def test_story_can_be_read() -> None:
    """If this fails, a reader cannot tell who did what to whom, how long nothing happened, or where the trouble began."""
    told = list(lines(story()))
    assert "     0.500000  alice ──▶ node   send      58 bytes: request MESSAGE" in told
    assert "     0.512000  node  ◀── alice  arrive    58 bytes: request MESSAGE" in told
    assert "    20.005000  node             KILL      power loss, unsynced pages gone" in told
    assert "            ~  7.2 s ~" in told
    (fault,) = [line for line in told if "FAULT" in line]
    assert fault.startswith("     4.000000  ━━━ FAULT cut: alice – node  ━━━")
    assert len(fault) == WIDTH
    (heal,) = [line for line in told if "HEAL" in line]
    assert heal.startswith("    12.200000  ─── HEAL cut: alice – node  ───")


def test_bulk_is_one_line() -> None:
    """If this fails, a long read buries everything else under its segments; or frames that are named are folded away with them."""
    steps = [Step(1.0, "send", "node", "bob", "9 bytes: notify READ")]
    for number in range(15):
        steps.append(Step(1.1 + number / 1000, "send", "node", "bob", "1448 bytes"))
        steps.append(Step(1.1 + number / 1000, "arrive", "bob", "node", "1448 bytes"))
    steps.append(Step(1.2, "send", "node", "bob", "9 bytes: notify READ"))
    steps.append(Step(1.3, "send", "bob", "node", "1448 bytes"))
    steps.append(Step(9.3, "send", "bob", "node", "1448 bytes"))
    steps += [Step(9.4, "disk", "node", "", text) for text in ("commit", "commit", "commit", "commit failed")]
    assert list(lines(steps)) == [
        "     1.000000  node ──▶ bob   send      9 bytes: notify READ",
        "     1.100000  node ──▶ bob   send      1448 bytes",
        "     1.100000  bob  ◀── node  arrive    1448 bytes",
        "     1.114000  bob      node  …         … 14 more segments sent, 20272 bytes; 14 more segments arrived, 20272 bytes",
        "     1.200000  node ──▶ bob   send      9 bytes: notify READ",
        "     1.300000  bob  ──▶ node  send      1448 bytes",
        "            ~  8.0 s ~",
        "     9.300000  bob  ──▶ node  send      1448 bytes",
        "     9.400000  node           disk      commit",
        "     9.400000  node           …         … 2 more disk",
        "     9.400000  node           disk      commit failed",
    ]
