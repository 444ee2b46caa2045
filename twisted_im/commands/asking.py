"""Asking a person for a password, or reading it from where a script has put it."""

from __future__ import annotations

import getpass
import signal
import sys
from pathlib import Path

from twisted_im.wire.schema import MAX_SECRET


def hidden(prompt: str) -> str:
    """What a person types, unseen. Ctrl-C works, even while a reactor runs: its own answer to that would wait for the end of the line.

    Raises:
        KeyboardInterrupt: the person has had enough.
        EOFError: the input has ended.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return getpass.getpass(prompt)
    finally:
        signal.signal(signal.SIGINT, before)


def new_password(who: str, *, file: str | None = None, stdin: bool = False) -> str:
    """A password to be set: a file's first line, standard input's first line, or what a person types twice.

    Args:
        stdin: read it from standard input, even from a terminal.

    Raises:
        ValueError: it is empty or too long, or the two differ.
        OSError: the file cannot be read.
        EOFError: none was typed.
    """
    asks = not stdin and file is None
    try:
        if file is not None:
            password = (Path(file).read_text(encoding="utf-8").splitlines() or [""])[0]
        else:
            password = hidden(f"Password for {who}: ") if asks else sys.stdin.readline().rstrip("\r\n")
        size = len(password.encode("utf-8"))
    except UnicodeError:
        raise ValueError("a password is UTF-8; nothing was changed") from None
    if not 1 <= size <= MAX_SECRET:
        raise ValueError(f"a password has 1 to {MAX_SECRET} bytes; nothing was changed")
    if asks and hidden("Again: ") != password:
        raise ValueError("the two differ; nothing was changed")
    return password
