"""Ties a process to the one that started it: however that one ends, this one ends too.

Strategy: the kernel does it (Linux, prctl(2), PR_SET_PDEATHSIG), so it also holds for a process that is stopped, or has started no reactor
yet. A leashed process stands in a session of its own: a Ctrl-C in the terminal reaches only the program that then ends it in order.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def leashed_twistd(parent: int) -> list[str]:
    """A server as twistd starts it, leashed; twistd's own words follow.

    Args:
        parent: the process id of who starts it; 0 if there is no need to look whether that has ended before this began.
    """
    code = f"from twisted_im.leash import leash; leash({parent}); from twisted.scripts.twistd import run; run()"
    return [sys.executable, "-c", code]


def leashed(parent: int, words: list[str]) -> list[str]:
    """Any other program, leashed; its words follow `sys.executable`'s. A leash outlives exec (but for programs with rights of their own).

    Args:
        parent: as above.
        words: the program, with its whole path, and its arguments.
    """
    code = f"import os, sys; from twisted_im.leash import leash; leash({parent}); os.execv(sys.argv[1], sys.argv[1:])"
    return [sys.executable, "-c", code, *words]


def leash(parent: int = 0) -> None:
    """Has this process killed when its parent ends. To be called first thing; a parent that has ended already is noticed too.

    Args:
        parent: its process id; without it, one that has ended before this is called is not noticed.
    """
    parent = parent or os.getppid()
    os.setsid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)
