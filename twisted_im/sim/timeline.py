"""A trace as lines of text, for a terminal.

Strategy: one line for each step, in columns: when, who, which way, what. Two things are not told step by step. A bulk of segments, or of
writes to a disk, is told by its first and by the sum of the others; and a pause is one line that says how long nothing happened. Names and
texts come from the programs under test, so whatever could move a cursor, turn the direction of writing or break a line is replaced.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence

from twisted_im.sim.trace import Step

#: No line is wider than this, in columns of a terminal.
WIDTH = 140

#: A name is given no more columns than this.
NAME = 18

#: Seconds without a step that are worth a line of their own.
PAUSE = 1.0

#: kind → how it points from `where` to `to`
ARROWS = {
    "connect": "··▶",
    "accept": "◀··",
    "refuse": "×··",
    "close": "──┤",
    "reset": "──×",
    "send": "──▶",
    "arrive": "◀──",
    "delay": "─ ─",
}


def lines(steps: Sequence[Step]) -> Iterator[str]:
    """The time line of a trace, without line ends.

    Args:
        steps: in the order in which they happened.
    """
    width = min(NAME, max((columns(plain(name)) for step in steps for name in (step.where, step.to)), default=0))
    told: set[str] = set()
    folded: list[Step] = []
    for before, step in zip([None, *steps], steps, strict=False):
        pause = step.time - before.time if before else 0.0
        same = before is not None and flow(before) == flow(step) and pause < PAUSE
        if flow(step) and same and step.kind in told:
            folded.append(step)
            continue
        yield from _summary(folded, width)
        folded.clear()
        if not same:
            told.clear()
        told.add(step.kind)
        if pause >= PAUSE:
            yield f"{'~':>13}  {duration(pause)} ~"
        yield _line(step, width)
    yield from _summary(folded, width)


def _line(step: Step, width: int) -> str:
    """One step; what is broken on purpose, and mended, goes through all columns."""
    if step.kind in ("fault", "heal"):
        bar = "━" if step.kind == "fault" else "─"
        about = " ".join(plain(name) for name in (step.where, step.to) if name not in step.text)
        text = f"{bar * 3} {step.kind.upper()} {about + ' ' if about else ''}{plain(step.text)} "
        text = f"{moment(step.time):>13}  {shorten(text, WIDTH - 24)} "
        return text + bar * (WIDTH - columns(text))
    kind = step.kind.upper() if step.kind == "kill" else step.kind
    return _row(step, width, ARROWS.get(step.kind, ""), f"{plain(kind):<8}  {plain(step.text)}")


def _row(step: Step, width: int, arrow: str, what: str) -> str:
    """The columns of a line."""
    names = [pad(shorten(plain(name), width), width) for name in (step.where, step.to)]
    return shorten(f"{moment(step.time):>13}  {names[0]} {arrow:<3} {names[1]}  {what}", WIDTH).rstrip()


def _summary(folded: list[Step], width: int) -> Iterator[str]:
    """What stands for the steps of one flow that are not told one by one; a single one needs no less room folded."""
    if len(folded) == 1:
        yield _line(folded[0], width)
    elif folded:
        last = folded[-1]
        parts = []
        for kind in dict.fromkeys(step.kind for step in folded):
            of_kind = [step for step in folded if step.kind == kind]
            name = {"send": "more segments sent", "arrive": "more segments arrived"}.get(kind, f"more {kind}")
            bulk = sum(size(step.text) for step in of_kind)
            parts.append(f"{len(of_kind)} {name}" + (f", {bulk} bytes" if kind in ("send", "arrive") else ""))
        yield _row(last, width, "", f"…         … {'; '.join(parts)}")


def flow(step: Step) -> tuple[str, ...]:
    """Which bulk a step may be part of: the same frames in one direction, or the same at a disk; empty if of none."""
    if step.kind == "send":
        return (step.where, step.to, frames(step.text))
    if step.kind == "arrive":
        return (step.to, step.where, frames(step.text))
    return (step.where, step.text) if step.kind == "disk" else ()


def size(text: str) -> int:
    """How many bytes a send or an arrival says it is; 1 if it does not say, so that it still is something."""
    found = re.match(r"([0-9]{1,12}) bytes?\b", text)
    return int(found[1]) if found else 1


def frames(text: str) -> str:
    """What a send or an arrival says of its bytes, without their number."""
    return plain(re.sub(r"^[0-9]{1,12} bytes?\b:?", "", text)).strip()


def moment(time: float) -> str:
    """A time in seconds, to the microsecond."""
    return f"{time:.6f}" if abs(time) < 1e6 else f"{time:.6g}"


def duration(seconds: float) -> str:
    """How long, for people."""
    return f"{seconds:.1f} s" if seconds < 1e6 else f"{seconds:.3g} s"


def plain(text: str) -> str:
    """A text that may stand on one line of a terminal, and in XML: control characters and their like are replaced."""
    return " ".join("".join(" " if c.isspace() else "\ufffd" if unicodedata.category(c)[0] == "C" else c for c in text).split())


def columns(text: str) -> int:
    """How wide a text is on a terminal (UAX #11: wide characters take two columns; combining ones take none)."""
    if text.isascii():
        return len(text)
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 0 if unicodedata.category(c) in ("Mn", "Me") else 1 for c in text)


def shorten(text: str, width: int) -> str:
    """A text of at most `width` columns; an ellipsis stands for what is missing."""
    if columns(text) <= width:
        return text
    kept = 0
    room = width - 1
    for character in text:
        room -= columns(character)
        if room < 0:
            break
        kept += 1
    return f"{text[:kept]}…"


def pad(text: str, width: int) -> str:
    """A text of at least `width` columns."""
    return text + " " * (width - columns(text))
