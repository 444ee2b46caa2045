"""Where a device of a run writes down what it does, and keeps what the client library wants kept.

Strategy: the journal is all that is left of a device when its process is killed, so it is what a new run of the process begins with. Here
it is two files; whoever plays such a process brings a `Journal` of another kind.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

try:
    from msgspec.json import encode
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("msgspec is not installed: pip install 'twisted_im[faults]'", name=error.name) from None

from twisted_im.client.state import FileState, State
from twisted_im.oracle import Event, read_event


class Journal(Protocol):
    """What outlives a device's process."""

    @property
    def state(self) -> State:
        """For the client library; it may fall behind the events, or be lost."""

    def past(self) -> Iterable[Event]:
        """The events of earlier runs of the process, in order."""

    def append(self, event: Event) -> None:
        """Keeps an event, before anything else happens."""

    def close(self) -> None:
        """Nothing more is appended."""


class FileJournal:
    """Events as JSON lines, in the system's hands as soon as they are appended; the power does not fail in these runs.

    Args:
        folder: for both files, `user-name.jsonl` and `user-name.state`.
        name: the device's, unique among its user's.

    Raises:
        OSError: the log cannot be opened.
    """

    def __init__(self, folder: Path, user: str, name: str) -> None:
        path = folder / f"{user}-{name}.jsonl"
        self.state = FileState(path.with_suffix(".state"))
        self._log = path.open("a+b", buffering=0)
        self._log.truncate(self._read().rfind(b"\n") + 1)  # a line that a killed process was writing has not happened

    def _read(self) -> bytes:
        self._log.seek(0)
        return self._log.read()

    def past(self) -> Iterator[Event]:
        return map(read_event, self._read().splitlines())

    def append(self, event: Event) -> None:
        self._log.write(encode(event) + b"\n")

    def close(self) -> None:
        self._log.close()
