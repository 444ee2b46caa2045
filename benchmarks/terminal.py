"""What the commands share towards whoever runs them: options that explain themselves, tables, the machine's name, and its bounds."""

from __future__ import annotations

import argparse
import importlib.util
import platform
import resource
import shlex
import sys
import tempfile
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

#: Where files go unless another place is named.
TEMPORARY = Path(tempfile.gettempdir()).resolve()

SPARE_FILES = 100  #: descriptors that a server needs besides its connections


def whole(low: int, high: int | None = None) -> Callable[[str], int]:
    """Reads a whole number within bounds."""
    bounds = f"of at least {low}" if high is None else f"from {low} to {high}"

    def read(text: str) -> int:
        if not text.isascii() or not text.isdigit() or int(text) < low or (high is not None and int(text) > high):
            raise argparse.ArgumentTypeError(f"takes a whole number {bounds}, not {text!r}")
        return int(text)

    return read


def duration(text: str) -> float:
    """Reads seconds."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.05 <= seconds <= 3600:
        raise argparse.ArgumentTypeError(f"takes seconds, from 0.05 to 3600, not {text!r}")
    return seconds


def share(text: str) -> float:
    """Reads a share of the whole."""
    try:
        part = float(text)
    except ValueError:
        part = -1.0
    if not 0 <= part <= 1:
        raise argparse.ArgumentTypeError(f"takes a share from 0 to 1, not {text!r}")
    return part


def folder(text: str) -> Path:
    """Reads the path of a folder that is there."""
    if not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"takes a folder that exists, not {text!r}")
    return Path(text).resolve()


def new_file(text: str) -> Path:
    """Reads the path of a file that can be written."""
    path = Path(text)
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise argparse.ArgumentTypeError(f"takes the path of a file in a folder that exists, not {text!r}")
    return path


def words(text: str) -> list[str]:
    """Reads words as a shell does."""
    try:
        return shlex.split(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"takes words, quoted as for a shell, not {text!r}: {error}") from None


def make_folder(path: Path, parser: argparse.ArgumentParser) -> None:
    """Makes the folder that --out names; ends the program if that cannot be."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path).close()
    except OSError as error:
        parser.error(f"--out takes a folder that can be written to, not '{path}': {error.strerror}")


def among(known: Collection[str]) -> Callable[[str], str]:
    """Reads one of several names."""

    def read(text: str) -> str:
        if text not in known:
            raise argparse.ArgumentTypeError(f"takes {', '.join(sorted(known))}, not {text!r}")
        return text

    return read


def each(read: Callable[[str], Any]) -> Callable[[str], list[Any]]:
    """Reads the same with commas between."""

    def read_each(text: str) -> list[Any]:
        return [read(part) for part in text.split(",")]

    return read_each


def raise_file_limit(option: str, wanted: int, what: str) -> str:
    """Lets this process and its children open as many files as there are connections; gives one line that says what to do if they may not.

    Args:
        option: what asks for the connections.
        wanted: how many.
        what: they are called so.
    """
    needed = wanted + SPARE_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < needed:
        if hard != resource.RLIM_INFINITY and hard < needed:
            return f"{option} needs {needed} open files, and {hard} are allowed: at most {hard - SPARE_FILES} {what}, or raise ulimit -n"
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return ""


def machine() -> str:
    """The processor's name and the number of cores."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{models[0] if models else platform.machine()}, {len(models) or 1} cores"


def file_system(path: Path) -> str:
    """The kind of file system that a path lies on, such as "ext4"; "unknown" where the system does not say.

    See proc(5): a line of mountinfo has the mount point as its fifth field, and the kind behind a lone hyphen.
    """
    try:
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return "unknown"
    found, deepest = "unknown", -1
    for line in lines:
        place, _, source = line.partition(" - ")
        mount = Path(place.split()[4].encode().decode("unicode_escape"))  # a space in it is written \040
        if path.is_relative_to(mount) and len(mount.parts) >= deepest:
            found, deepest = source.split()[0], len(mount.parts)
    return found


#: File systems in memory, where an fsync has nothing to wait for.
IN_MEMORY = {"tmpfs", "ramfs"}


def say_where(data: Path) -> None:
    """Says on which file system the stores' files are, and aloud if that makes them faster than any disk."""
    kind = file_system(data)
    say(f"files of stores are in {data}, on {kind}")
    if kind in IN_MEMORY:
        say(f"{kind} IS MEMORY: an fsync costs nothing there, and figures of a store on disk mean nothing; choose a disk with --data DIR")


def say(text: str) -> None:
    """To people who wait: not among the figures."""
    print(text, file=sys.stderr, flush=True)


def print_table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> None:
    """With rich if it is installed, else in plain columns."""
    if importlib.util.find_spec("rich") is not None:
        from rich.console import Console
        from rich.measure import Measurement
        from rich.table import Table

        table = Table(*heads)
        for column in table.columns[1:]:
            column.justify = "right"
            column.no_wrap = True
        for line in lines:
            table.add_row(*line)
        console = Console()
        if console.is_terminal:  # figures that are cut are worse than lines that are broken
            needed = Measurement.get(console, console.options.update_width(1000), table).maximum
            console = Console(width=max(console.width, needed))
        else:
            console = Console(width=160)
        console.print(table)
        return
    widths = [max(len(line[i]) for line in (heads, *lines)) for i in range(len(heads))]
    for line in (heads, *lines):
        print(line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)), sep="  ")
