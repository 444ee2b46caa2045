"""What a device keeps from one run to the next: who it is, how far it has shown each conversation, and the token that lets it in again.

Strategy: the client works on one `Kept` in memory and gives the whole of it to be saved, before a receipt tells the server that something
was shown. So a crash in between shows a message again rather than never: at least once to the screen, and once as long as the application
lives. A file is replaced, never written into, so it is whole after any crash; it is not forced to the disk, because after a power cut an
older file costs repeats and loses nothing.

An application that keeps messages of its own brings its own `State`, and can then save message and cursor in one transaction.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol


@dataclass(slots=True)
class Kept:
    """A device's memory.

    Attributes:
        device: its id, 16 bytes; chosen once.
        account: "tenant/uid", so that one user's cursors are not taken for another's.
        epoch: the store's life that the rest belongs to; empty before the first login.
        position: what the next sync gives as `since`.
        cursors: conversation → last seq shown.
        resume: lets this device in without its password, like a key: keep it as one. Empty if the server gave none.
    """

    device: bytes
    account: str
    epoch: bytes = b""
    position: int = 0
    cursors: dict[int, int] = field(default_factory=dict)
    resume: bytes = field(default=b"", repr=False)


class State(Protocol):
    """Where a device's memory is kept. `interval`: seconds between two saves, at least; receipts wait for their save."""

    interval: float

    def load(self) -> Kept | None:
        """What was saved last; None if nothing was."""

    def save(self, kept: Kept) -> None:
        """Keeps this in place of what was saved before. An `OSError` is logged, and the save tried again later."""


class MemoryState:
    """Kept as long as the object lives."""

    interval = 0.0

    def __init__(self) -> None:
        self._kept: Kept | None = None

    def load(self) -> Kept | None:
        return self._kept

    def save(self, kept: Kept) -> None:
        self._kept = kept


class FileState:
    """A small JSON file, which only its owner may read.

    Args:
        path: the file; its folder must exist.
        interval: seconds between two saves, at least.
    """

    def __init__(self, path: str | os.PathLike[str], *, interval: float = 0.05) -> None:
        self.interval = interval
        self._path = Path(path)
        self._next = self._path.with_name(self._path.name + ".next")

    def load(self) -> Kept | None:
        """What the file holds; None if there is none.

        Raises:
            ValueError: it is not a file of this kind.
        """
        try:
            found = json.loads(self._path.read_text("utf-8"))
        except FileNotFoundError:
            return None
        except ValueError:
            found = None
        try:
            kept = Kept(
                device=bytes.fromhex(found["device"]),
                account=str(found["account"]),
                epoch=bytes.fromhex(found["epoch"]),
                position=int(found["position"]),
                cursors={int(conversation): int(seq) for conversation, seq in found["cursors"].items()},
                resume=bytes.fromhex(found.get("resume", "")),  # files of earlier versions have none
            )
            if len(kept.device) != 16:
                raise ValueError(f"a device id has 16 bytes, not {len(kept.device)}")
        except (TypeError, LookupError, ValueError, AttributeError) as error:
            raise ValueError(f"{self._path} does not hold a client's state; delete it, or name another file") from error
        return kept

    def save(self, kept: Kept) -> None:
        data = {
            "device": kept.device.hex(),
            "account": kept.account,
            "epoch": kept.epoch.hex(),
            "position": kept.position,
            "cursors": {str(conversation): seq for conversation, seq in kept.cursors.items()},
            "resume": kept.resume.hex(),
        }
        with open(self._next, "w", encoding="utf-8", opener=_private) as file:
            file.write(json.dumps(data))
        os.replace(self._next, self._path)


def recalled(state: State, account: str, device: bytes | None, random: Callable[[int], bytes]) -> Kept:
    """What a device remembers, or the beginning of a memory.

    Raises:
        ValueError: it is another account's, or another device's.
    """
    if device is not None and len(device) != 16:
        raise ValueError(f"a device id has 16 bytes, not {len(device)}")
    kept = state.load()
    if kept is None:
        return Kept(device or random(16), account)
    if kept.account != account:
        raise ValueError(f"the state belongs to {kept.account.lstrip('/')}; use another file for each user")
    if device not in (None, kept.device):
        raise ValueError("the state belongs to another device; leave the device out, or use another file")
    return kept


def _private(path: str, flags: int) -> int:
    """Opens a file for its owner alone, even one that was left there for more."""
    descriptor = os.open(path, flags, 0o600)
    os.fchmod(descriptor, 0o600)
    return descriptor
