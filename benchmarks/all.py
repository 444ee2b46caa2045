"""`python -m benchmarks all`: every part after the other, with all results in one folder.

Strategy: the parts are commands of their own, in processes of their own (`benchmarks.parts`), and stand in `benchmarks.__main__.PARTS`.
What a part has written stays, whatever becomes of the next. A node's load and its connections are measured as the rows of the budget.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.driving import Figures
from benchmarks.parts import run_part
from benchmarks.terminal import TEMPORARY, folder, make_folder, print_table, say

EXAMPLES = """
examples:
  python -m benchmarks all --quick
      does everything work? less than two minutes
  python -m benchmarks all --out figures
      everything, in less than half an hour on two cores

Each part writes into the folder; figures/NAME.txt is what it would have printed, figures/all.json says how each has ended.
"""

#: See `benchmarks.__main__.PARTS`.
Part = tuple[Sequence[str], Sequence[str], Sequence[str]]
ENDED = {0: "done", 130: "interrupted"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of this command."""
    add = parser.add_argument
    add("--quick", action="store_true", help="the short form of each: does it work? figures of no weight")
    add("--data", type=folder, default=TEMPORARY, metavar="DIR", help=f"where stores have their files for a while [default: {TEMPORARY}]")
    add("--out", type=Path, default=Path("benchmarks-out"), metavar="DIR", help="where results go [default: benchmarks-out]")
    add("--json", action="store_true", help="print what all.json holds, instead of a table")


def words_of(part: Part, options: argparse.Namespace) -> list[str]:
    """A part's command line; "{out}" is its folder."""
    words, full, quick = part
    return [word.replace("{out}", str(options.out)) for word in [*words, *(quick if options.quick else full), f"--data={options.data}"]]


def run(options: argparse.Namespace) -> int:
    """Runs all parts; gives the exit status: 1 if one has failed."""
    make_folder(options.out, options.parser)
    parts: Mapping[str, Part] = options.parts
    found: list[Figures] = []
    began = time.monotonic()
    try:
        for number, (name, part) in enumerate(parts.items(), 1):
            say(f"part {number} of {len(parts)}: {name}")
            here = time.monotonic()
            status = 130
            try:
                status = run_part(words_of(part, options), options.out / f"{name}.txt")
            finally:
                took = round(time.monotonic() - here, 1)
                found.append({"part": name, "status": status, "seconds": took})
                (options.out / "all.json").write_text(json.dumps({"quick": options.quick, "parts": found}, indent=1) + "\n")
    finally:
        _show(found, options, time.monotonic() - began)
    return 1 if any(each["status"] for each in found) else 0


def _show(found: Sequence[Figures], options: argparse.Namespace, seconds: float) -> None:
    if options.json:
        print(json.dumps({"quick": options.quick, "parts": found}))
    else:
        ended = {part["part"]: ENDED.get(part["status"], f"failed, status {part['status']}") for part in found}
        print_table(["", "", "took"], [[part["part"], ended[part["part"]], f"{part['seconds']:,.0f} s"] for part in found])
        print(f"{seconds:,.0f} s in all; results are in {options.out}")
