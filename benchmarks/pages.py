"""What was measured, written into the documentation: blocks of a page, between marks that name them.

Strategy: a page is written by hand; what a run says stands between `<!-- NAME begin -->` and `<!-- NAME end -->`, and is written by the
command that has measured it. So no figure is copied by hand, and whoever changes a table makes the page anew from what is stored.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

BEGIN, END = "<!-- {} begin -->", "<!-- {} end -->"


class PageError(Exception):
    """The page is not there, or has not the marks; the text is one line that says what is needed."""


def filled(text: str, blocks: Mapping[str, str]) -> str:
    """A page with these blocks, by their names, between their marks.

    Raises:
        PageError: a mark is missing.
    """
    for name, block in blocks.items():
        begin, end = BEGIN.format(name), END.format(name)
        before, found, rest = text.partition(begin)
        _, closed, after = rest.partition(end)
        if not found or not closed:
            raise PageError(f"a page with the lines {begin} and {end}")
        text = f"{before}{begin}\n\n{block}\n\n{end}{after}"
    return text


def read(page: Path) -> str:
    """The text of a page.

    Raises:
        PageError: there is none.
    """
    try:
        return page.read_text(encoding="utf-8")
    except (OSError, ValueError):
        raise PageError("a page that exists; run it at the root of the checkout") from None


def put(page: Path, blocks: Mapping[str, str]) -> None:
    """Writes blocks into a page.

    Raises:
        PageError: there is no such page, or it has not the marks; nothing was written then.
    """
    page.write_text(filled(read(page), blocks), encoding="utf-8")


def page_with(*names: str) -> Callable[[str], Path]:
    """Reads the path of a page that has the marks of these blocks."""

    def take(text: str) -> Path:
        page = Path(text)
        try:
            filled(read(page), dict.fromkeys(names, ""))
        except PageError as error:
            raise argparse.ArgumentTypeError(f"takes {error}, not {text!r}") from None
        return page

    return take


def table(heads: Sequence[str], lines: Sequence[Sequence[object]], *, left: int | None = None) -> str:
    """A table in Markdown; with `left`, the columns after so many have figures, and stand to the right."""
    rule = ["---" if left is None or number < left else "---:" for number in range(len(heads))]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in (heads, rule, *lines))
