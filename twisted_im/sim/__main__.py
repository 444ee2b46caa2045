"""`python -m twisted_im.sim`: many seeds on all cores, or one of them looked at closely.

Strategy: everything is judged while the arguments are read, so a mistake is one line and nothing has started. `campaign` and `shrink` do
the work; this file prints. Results go to stdout, and what is only for those who wait goes to stderr.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import os
import re
import signal
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

from twisted_im.sim.scenario import FAULTS, TOPOLOGIES, Scenario, draw

if TYPE_CHECKING:
    from collections.abc import Iterator

    from twisted_im.sim.campaign import Figures
    from twisted_im.sim.run import Outcome
    from twisted_im.sim.shrink import Part

PROGRAM = "python -m twisted_im.sim"

EXAMPLES = f"""Examples:
  {PROGRAM}
      seeds from 0 on, for a minute
  {PROGRAM} --seeds 0..9999 --json figures.json
      ten thousand runs
  {PROGRAM} --seeds 5000.. --minutes 30 --topology standby
  {PROGRAM} --seed 36 --trace | less
      what happens in one run, step by step; if it fails, the smallest part of it that still does
  {PROGRAM} --seed 36 --whole --svg run.svg --from 12 --to 15
The status is 0 if every promise was kept, else 1."""

#: Of each seed so many violations are printed, and so many characters of each.
SHOWN, WIDTH = 3, 200
#: Seconds between two lines on how far it is, where there is no terminal.
QUIET = 10.0

#: What it takes beyond the server's own: for the oracle, and for a route table in Redis.
PACKAGES = "msgspec", "txredisapi", "hiredis"

KINDS_OF_STORE = ("model", "sqlite")


class Parser(argparse.ArgumentParser):
    """A mistake is one line; argparse would print the whole usage before it."""

    def error(self, message: str) -> NoReturn:
        """Ends the program with status 2."""
        self.exit(2, f"{self.prog}: {message} (see: {self.prog} --help)\n")


def parser() -> Parser:
    """Everything that may stand on the command line."""
    found = Parser(
        prog=PROGRAM,
        description="Runs servers and clients in a simulated world, breaks it, and says whether every promise was kept.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    found.add_argument("--length", type=_number(0.2, 3600), help="seconds of load and faults in a run [default: drawn, from 20 to 60]")
    many = found.add_argument_group("many runs")
    many.add_argument("--seeds", type=_seeds, metavar="A..B", help="both are run; without B there is no end [default: 0..]")
    many.add_argument("--minutes", type=_number(0.01, 100_000), help="no seed is begun later [default: 1, if there is no end else]")
    many.add_argument("--jobs", type=_whole(1, 1024), help="runs at a time [default: one for each core]")
    many.add_argument("--topology", choices=TOPOLOGIES, default="", help="leave out all others")
    many.add_argument("--store", choices=KINDS_OF_STORE, default="", help="leave out all others")
    many.add_argument("--json", type=_file, metavar="FILE", help="the figures, for programs")
    one = found.add_argument_group("one run")
    one.add_argument("--seed", type=_whole(0), metavar="N", help="which; if it fails it is made smaller, and that is shown")
    one.add_argument("--whole", action="store_true", help="do not make it smaller")
    one.add_argument("--trace", action="store_true", help="print what happens, step by step")
    one.add_argument("--svg", type=_file, metavar="FILE", help="draw it")
    one.add_argument("--from", type=_number(0, 1e9), dest="first", metavar="S", help="of the drawing: the first second")
    one.add_argument("--to", type=_number(0, 1e9), dest="last", metavar="S", help="of the drawing: the last second")
    part = found.add_argument_group("a part of one run", "Numbers count from 0, such as 3,7,40-44; none is none of them.")
    part.add_argument("--faults", metavar="LIST", help="these alone; 3:1.5 lasts 1.5 seconds")
    part.add_argument("--sendings", metavar="LIST", help="these alone")
    part.add_argument("--devices", metavar="LIST", help="these alone, by name: user0/phone,user1/phone")
    part.add_argument("--groups", metavar="LIST", help="these alone")
    part.add_argument("--seconds", type=_number(0.01, 3600), metavar="S", help="end the load and the faults then")
    return found


#: Options that go with one run, or with many, and not with the other.
ONE = ("whole", "trace", "svg", "first", "last", "faults", "sendings", "devices", "groups", "seconds")
MANY = ("seeds", "minutes", "jobs", "topology", "store", "json")
SPELLED = {"first": "from", "last": "to"}


def main(words: Sequence[str] | None = None) -> int:
    """Runs the command; gives its exit status."""
    asked = parser()
    arguments = asked.parse_args(words)
    lonely = [name for name in (ONE if arguments.seed is None else MANY) if getattr(arguments, name) not in (None, False, "")]
    if lonely:
        spelled = f"--{SPELLED.get(lonely[0], lonely[0])}"
        asked.error(f"{spelled} needs --seed N" if arguments.seed is None else f"{spelled} does not go with --seed")
    if arguments.svg is None and (arguments.first is not None or arguments.last is not None):
        asked.error("--from and --to are about a drawing: --svg FILE")
    missing = [package for package in PACKAGES if importlib.util.find_spec(package) is None]
    if missing:
        return _complain(f"the package {missing[0]} is not installed: pip install 'twisted_im[faults]'")
    try:
        with _terminated():
            status = _many(arguments) if arguments.seed is None else _one(arguments, asked)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever reads has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except OSError as error:
        return _complain(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    return status


@contextmanager
def _terminated() -> Iterator[None]:
    """SIGTERM ends it in the same order as Ctrl-C."""

    def interrupt(signum: int, frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


# ---- many runs


def _many(arguments: argparse.Namespace) -> int:
    from twisted_im.sim.campaign import Campaign, cores

    seeds: Iterable[int] = arguments.seeds if arguments.seeds is not None else itertools.count()
    minutes = arguments.minutes if arguments.minutes is not None or isinstance(seeds, range) else 1.0
    seconds = minutes * 60 if minutes is not None else float("inf")
    with _progress(len(seeds) if isinstance(seeds, range) else None, seconds) as told:
        figures = Campaign(
            seeds,
            jobs=arguments.jobs or cores(),
            seconds=seconds,
            length=arguments.length,
            topology=arguments.topology,
            store=arguments.store,
            told=told,
        ).run()
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(figures.plain(), indent=1) + "\n", encoding="utf-8")
    print_figures(figures)
    print_violations(figures.violations, arguments.length)
    if figures.broken_off:
        print("broken off: these are the figures until then", file=sys.stderr)
        return 128 + signal.SIGINT
    if not figures.seeds:
        return _complain("no seed was run: there is none of that topology and store among them, or the time was too short")
    return 1 if figures.violations else 0


@contextmanager
def _progress(seeds: int | None, seconds: float) -> Iterator[Callable[[Figures], object]]:
    """How far it is, on stderr: a bar on a terminal, a line now and then elsewhere, or where rich is not installed."""

    def share(figures: Figures) -> float:
        """How much is done, from 0 to 1."""
        return max(figures.wall / seconds, (figures.seeds + figures.skipped) / seeds if seeds else 0.0)

    def line(figures: Figures) -> str:
        return f"{figures.seeds} seeds, {figures.simulated / 3600:.2f} hours, {len(figures.violations)} violated"

    if sys.stderr.isatty() and importlib.util.find_spec("rich") is not None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        columns = (BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("", total=1.0)
            yield lambda figures: bar.update(task, completed=share(figures), description=line(figures))
        return
    last = 0.0

    def told(figures: Figures) -> None:
        nonlocal last
        if figures.wall - last >= QUIET:
            last = figures.wall
            _say(f"{100 * share(figures):3.0f}%  {line(figures)}")

    yield told


def print_figures(figures: Figures) -> None:
    """As a table."""
    counts = figures.counts
    rows = [
        ("seeds", f"{figures.seeds:,}" + (f", {figures.first} to {figures.last}" if figures.seeds else "")),
        ("run twice and compared", f"{figures.twice:,}"),
        ("simulated", f"{figures.simulated / 3600:,.2f} hours"),
        ("in", f"{figures.wall:,.1f} s"),
        ("events a second", f"{figures.events / figures.wall:,.0f}"),
        ("times real time", f"{figures.simulated / figures.wall:,.0f}"),
        ("messages sent, accepted, shown", ", ".join(f"{counts[name]:,}" for name in ("sent", "accepted", "shown"))),
        ("faults", f"{figures.faults.total():,}"),
        *((f"  {kind}", f"{figures.faults[kind]:,}") for kind in FAULTS if figures.faults[kind]),
        ("seeds with violations", f"{len(figures.violations):,}"),
    ]
    if figures.skipped:
        rows.insert(1, ("left out", f"{figures.skipped:,}"))
    wide, right = max(len(name) for name, _ in rows), max(len(value) for _, value in rows)
    for name, value in rows:
        print(f"{name:<{wide}}  {value:>{right}}")


def print_violations(violations: dict[int, list[str]], length: float | None) -> None:
    """What was broken, and how to see it again."""
    for seed, lines in sorted(violations.items()):
        print(f"\nseed {seed}")
        _print_lines(lines)
        print(f"  replay: {replay(seed, length)}")


def replay(seed: int, length: float | None, words: Sequence[str] = ()) -> str:
    """The command that runs a scenario once more."""
    return " ".join([PROGRAM, f"--seed {seed}", *([] if length is None else [f"--length {length!r}"]), *words])


def _print_lines(violations: Sequence[str]) -> None:
    for violation in violations[:SHOWN]:
        line = " ".join(violation.split())
        print(f"  {line if len(line) <= WIDTH else line[: WIDTH - 1] + '…'}")
    if len(violations) > SHOWN:
        print(f"  … and {len(violations) - SHOWN} more")


# ---- one run


def _one(arguments: argparse.Namespace, asked: Parser) -> int:
    from twisted_im.sim.run import law, run, settle_in
    from twisted_im.sim.shrink import narrow, shrink, story, whole, words

    scenario = draw(arguments.seed, seconds=arguments.length)
    part = read_part(arguments, scenario, asked)
    settle_in()
    looked_at = arguments.trace or arguments.svg is not None
    outcome = run(narrow(scenario, part), keep_trace=looked_at)
    smaller = 0
    if outcome.violations and part == whole(scenario) and not arguments.whole:
        broken = law(outcome.violations[0])
        _say(f"seed {arguments.seed} fails: {outcome.violations[0][:WIDTH]}")
        _say(f"making it smaller, as long as {broken} is broken …")

        def fails(candidate: Scenario) -> bool:
            nonlocal smaller
            smaller += 1
            return any(law(violation) == broken for violation in run(candidate).violations)

        part = shrink(scenario, fails, told=_tell_shrinking)
        outcome = run(narrow(scenario, part), keep_trace=looked_at)
    _show(arguments, outcome)
    for line in story(scenario, part):
        print(line)
    print(
        f"digest {outcome.digest}; {outcome.simulated:.1f} simulated seconds, {outcome.events:,} events, "
        + ", ".join(f"{outcome.counts[name]:,} {name}" for name in ("sent", "accepted", "shown"))
    )
    if not outcome.violations:
        print("every promise was kept")
        return 0
    if smaller:
        print(f"smaller, after {smaller} runs; it fails still:")
    _print_lines(outcome.violations)
    print(f"  replay: {replay(arguments.seed, arguments.length, words(scenario, part))}")
    return 1


def _tell_shrinking(runs: int, part: Part) -> None:
    _say(f"{runs:4} runs: {len(part.faults)} faults, {len(part.sendings)} messages, {len(part.devices)} devices, {part.seconds:g} s")


def _show(arguments: argparse.Namespace, outcome: Outcome) -> None:
    """Its steps, as text and as a picture."""
    if arguments.trace:
        from twisted_im.sim.timeline import lines

        for line in lines(outcome.steps):
            print(line)
        print()
    if arguments.svg is not None:
        from twisted_im.sim.picture import diagram

        title = f"seed {arguments.seed}" + (f": {outcome.violations[0]}" if outcome.violations else "")
        arguments.svg.write_text(diagram(outcome.steps, title=title, first=arguments.first, last=arguments.last), encoding="utf-8")


def read_part(arguments: argparse.Namespace, scenario: Scenario, asked: Parser) -> Part:
    """What is left of a scenario, by the options."""
    from twisted_im.sim.shrink import read_faults, read_names, read_numbers, tidy, whole

    read: dict[str, Callable[[str], object]] = {
        "faults": lambda text: read_faults(text, scenario),
        "sendings": lambda text: read_numbers(text, len(scenario.sendings)),
        "devices": lambda text: read_names(text, scenario.devices),
        "groups": lambda text: read_numbers(text, len(scenario.groups)),
    }
    found: dict[str, Any] = {}
    for name, reader in read.items():
        text = getattr(arguments, name)
        try:
            if text is not None:
                found[name] = reader(text)
        except ValueError as error:
            asked.error(f"argument --{name}: {error}")
    if arguments.seconds is not None:
        found["seconds"] = min(arguments.seconds, scenario.seconds)
    return tidy(scenario, replace(whole(scenario), **found))


# ---- what may stand behind an option


def _seeds(text: str) -> Iterable[int]:
    match = re.fullmatch(r"(\d{1,18})(?:(\.\.)(\d{1,18})?)?", text, re.ASCII)
    if match is None or (match[3] and int(match[3]) < int(match[1])):
        raise argparse.ArgumentTypeError(f"takes seeds such as 0..999, or 1000.. without an end, not {text!r}")
    first = int(match[1])
    if match[2] and not match[3]:
        return itertools.count(first)
    return range(first, int(match[3] or first) + 1)


def _number(low: float, high: float) -> Callable[[str], float]:
    def number(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = low - 1
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"takes a number from {low:g} to {high:g}, not {text!r}")
        return value

    return number


def _whole(low: int, high: int | None = None) -> Callable[[str], int]:
    bounds = f"of at least {low}" if high is None else f"from {low} to {high}"

    def whole(text: str) -> int:
        if not re.fullmatch(r"\d{1,18}", text, re.ASCII) or int(text) < low or (high is not None and int(text) > high):
            raise argparse.ArgumentTypeError(f"takes a whole number {bounds}, not {text!r}")
        return int(text)

    return whole


def _file(text: str) -> Path:
    """A file that can be written when the run is over."""
    path = Path(text)
    if not text or path.is_dir() or not path.parent.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise argparse.ArgumentTypeError(f"takes a file that can be written, not {text!r}")
    return path


def _say(text: str) -> None:
    """To people who wait."""
    print(text, file=sys.stderr, flush=True)


def _complain(why: str) -> int:
    print(f"{PROGRAM}: {why}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
