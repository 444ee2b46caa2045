"""Compact JSON logs: one object a line.

Strategy: an observer for `twisted.logger` that keeps what a person or a log collector looks for — time, level, where it comes from, the
sentence, and the fields that were given with it — and leaves Twisted's own bookkeeping out. A failure becomes one field with its
traceback, so that one event is always one line. What JSON or UTF-8 has no form for (NaN, half of a surrogate pair, as in the name of
a file that is no UTF-8) is written in words, so that every line can be read by whatever reads JSON.
"""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from typing import Any, TextIO

from twisted.logger import ILogObserver, LogEvent, formatEvent
from zope.interface import implementer

#: What Twisted adds to an event for itself.
_OWN = frozenset({"message", "time", "system", "isError", "format", "text", "factory", "failure", "reason"})


@implementer(ILogObserver)
class JsonLog:
    """Writes events to a file as JSON lines."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def __call__(self, event: LogEvent) -> None:
        self._file.write(json_line(event))
        self._file.flush()


def json_line(event: LogEvent) -> str:
    """One event as one line of JSON, its newline included."""
    level = event.get("log_level")
    line: dict[str, Any] = {
        "time": datetime.fromtimestamp(event.get("log_time", 0.0), UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "level": level.name if level is not None else "info",
        "from": event.get("log_namespace", "-"),
        "text": formatEvent(event),
    }
    for name, value in event.items():
        if not name.startswith("log_") and name not in _OWN and isinstance(value, str | int | float | bool):
            line[name] = value
    failure = event.get("log_failure")
    if failure is not None:
        line["failure"] = failure.getTraceback()
    written = {_in_words(name): _in_words(value) for name, value in line.items()}
    return json.dumps(written, ensure_ascii=False, separators=(",", ":")) + "\n"


def _in_words(value: Any) -> Any:
    """The value itself, if JSON has a form for it and that can be encoded."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
