"""`python -m twisted_im oracle LOG...`: judges the logs of a run; see `twisted_im.oracle` for what is written in them, and judged."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from itertools import count
from pathlib import Path

from twisted_im.oracle import Anchored, Oracle, Pulled, Report, Shown, read_event

EXAMPLES = """Example:
  python -m twisted_im faults --minutes 1 --out run; python -m twisted_im oracle run/*.jsonl
A line is one event of a client, or a fault; docs/faults.md has them all. What one device has shown stands in one log, in its order.
The status is 0 if every promise was kept, else 1."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("logs", metavar="LOG", nargs="+", type=Path, help="a file of events, one JSON object a line")


def run(arguments: argparse.Namespace) -> int:
    try:
        report, text = judge(arguments.logs)
    except OSError as error:
        print(f"oracle: {error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    except ValueError as error:
        print(f"oracle: {error}", file=sys.stderr)
        return 1
    print(text)
    return 0 if report.holds else 1


def judge(paths: Sequence[Path]) -> tuple[Report, str]:
    """Reads logs; gives the report, and its text, in which each event stands as it does in its log.

    Raises:
        ValueError: a line is no event, or a device shows messages in two logs; the message names file and line.
        OSError: a log cannot be read.
    """
    oracle, numbers = Oracle(), count()
    starts: list[int] = []
    home: dict[tuple[str, str], Path] = {}
    for path in paths:
        starts.append(next(numbers))
        with path.open("rb") as lines:
            for place, line in enumerate(lines, 1):
                try:
                    event = read_event(line)
                    if isinstance(event, Shown | Pulled | Anchored) and home.setdefault((event.user, event.device), path) != path:
                        raise ValueError(f"{event.user}/{event.device} shows messages in {home[event.user, event.device]} too")
                except ValueError as error:
                    raise ValueError(f"{path}:{place}: {error}") from None
                oracle.add(event, next(numbers))
    report = oracle.judge()
    texts = _lines(paths, starts, {number for violation in report.violations for number in violation.evidence})
    return report, report.text(texts.__getitem__)


def _lines(paths: Sequence[Path], starts: Sequence[int], numbers: Iterable[int]) -> dict[int, str]:
    """The events of these numbers, as text with file and line; a log's first line has the number after its start."""
    wanted, found = set(numbers), {}
    for path, start in zip(paths, starts, strict=True):
        with path.open("rb") as lines:
            for place, line in enumerate(lines, 1):
                if start + place in wanted:
                    wanted.discard(start + place)
                    found[start + place] = f"{path.name}:{place}  {line.decode().strip()}"
    return found
