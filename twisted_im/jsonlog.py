"""Compact JSON logs: one object a line.

Strategy: an observer for `twisted.logger` that keeps what a person or a log collector looks for — time, level, where it comes from, the
sentence, and the fields that were given with it — and leaves Twisted's own bookkeeping out. A failure becomes one field with its
traceback, so that one event is always one line.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any, TextIO

from twisted.logger import ILogObserver, LogEvent, formatEvent
from zope.interface import implementer

#: What Twisted adds to an event for itself.
_OWN = frozenset({"message", "time", "system", "isError", "format", "text", "why", "factory", "failure", "reason"})


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
    return json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n"
