"""What the commands that write documentation share: they write what has changed, or say what is stale, and their tables look alike."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, default=Path("docs"), metavar="FOLDER", help="where the files go [default: %(default)s]")
    parser.add_argument("--check", action="store_true", help="write nothing; say what is stale, with a status of 1")


def run(command: str, files: Mapping[str, Callable[[], str]], arguments: argparse.Namespace) -> int:
    """Writes or checks files.

    Args:
        command: whose they are, for messages.
        files: name → what makes its content.
        arguments: as `add_arguments` has them.

    Returns:
        the exit status.
    """
    try:
        stale = [name for name, made in files.items() if not _is(arguments.out / name, made())]
        if not arguments.check:
            for name in stale:
                (arguments.out / name).write_text(files[name](), encoding="utf-8")
    except OSError as error:
        print(f"{command}: {error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    names = ", ".join(str(arguments.out / name) for name in stale)
    if arguments.check:
        print(f"stale: {names}; run: python -m twisted_im {command} --out {arguments.out}" if stale else "nothing is stale")
        return int(bool(stale))
    print(f"written: {names}" if stale else "nothing has changed")
    return 0


def _is(path: Path, wanted: str) -> bool:
    return path.exists() and path.read_text(encoding="utf-8") == wanted


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)
