"""Disks: what is left of a store when its process dies, and what a disk does to a store before.

Strategy: a `SimDisk` holds either kind of store. `sqlite` is the real one, in real files: its threads are `SimPool`s, a killed process
lets go of its files as they are, and a commit that was under way then has happened, has not, or is a prefix of its bytes. `model` is the
plainest store there can be, a `MemoryStore` that outlives its processes, behind a queue with a commit in the middle: it knows nothing of
files, so what fails on both is no fault of either store, and it takes a fraction of the time. Several processes may use one disk.

A full disk, a slow one, an I/O error and a commit whose answer is lost are the disk's `trouble`, and meet both kinds alike.
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.python.failure import Failure
from zope.interface import classImplements

from twisted_im.errors import ImError, Status
from twisted_im.server.interfaces import IStore, StoreError
from twisted_im.sim.reactor import SimPool
from twisted_im.sim.world import GENESIS, Process, World
from twisted_im.storage.memory import MemoryStore
from twisted_im.storage.sqlite import SqliteStore
from twisted_im.storage.sqlite_check import findings

#: Seconds that a commit takes on average, on a disk without trouble.
SYNC = 0.003
#: What can be wrong with a disk → what it means for the next write.
TROUBLES = {
    "full": "of every other write nothing is kept, and it may be tried again",
    "slow": "a write takes a second or so",
    "error": "an I/O error, and nothing is on the disk",
    "lost": "an I/O error, but all is on the disk",
}
#: Seconds that a write takes on average, on a disk with this trouble.
_TAKES = {"slow": 1.0, "full": 0.2}
#: An fsync that failed, as SQLite names it.
_IOERR_FSYNC = sqlite3.SQLITE_IOERR | 4 << 8
#: In memory where there is such a place: these disks are not there to be waited for.
_FOLDERS = "/dev/shm"


class SimDisk:
    """What outlives the processes that write to it. Its files go when the world is closed.

    Give its stores to servers: `world.server(store=SimDisk(world).model)`, or `.sqlite`.

    Args:
        chance: for how long things take, and what a crash leaves; by default the world's, another stream for each disk.

    Attributes:
        trouble: what is wrong with it from now on: "full" (nothing is kept, and clients are told to try again), "slow" (a write takes a
            second or so), "error" (an I/O error, and nothing is kept), "lost" (an I/O error, but all is kept); empty if nothing is.
        image: what is on the disk of `model` stores.
    """

    def __init__(self, world: World, chance: Random | None = None) -> None:
        self.world = world
        self.trouble = ""
        self._chance = chance = chance or world.chance(f"disk {len(world.on_close)}")
        world.on_close.append(self.close)
        self.image = MemoryStore(horizon=7 * 24 * 3600, clock=lambda: GENESIS + world.now, random=chance.randbytes)
        self.tenants: dict[str, bytes] = {}  #: of `model` stores: node → the boot that has leased its name last
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._users: dict[SqliteStore, None] = {}

    def close(self) -> None:
        """The files are gone; processes must be before."""
        if self._folder is not None:
            self._folder.cleanup()

    @property
    def path(self) -> Path:
        """The file of `sqlite` stores."""
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="twisted_im-sim-", dir=_FOLDERS if os.path.isdir(_FOLDERS) else None)
            self.world.aliases[self._folder.name] = "disk"
        return Path(self._folder.name, "messages.db")

    def takes(self) -> float:
        """Seconds that a write takes now, on average."""
        return _TAKES.get(self.trouble, SYNC)

    def is_full(self) -> bool:
        """Whether a write finds no room now: somebody else makes room now and then, and takes it."""
        return self.trouble == "full" and self._chance.random() < 0.5

    def instead(self) -> tuple[Failure, bool] | None:
        """How a write ends now; see `SimPool`."""
        if self.is_full():
            return Failure(_sqlite_error("database or disk is full", sqlite3.SQLITE_FULL)), False
        if self.trouble in ("error", "lost"):
            return Failure(_sqlite_error("disk I/O error", _IOERR_FSYNC)), self.trouble == "lost"
        return None

    # ---- the real store

    def sqlite(self, process: Process, **options: Any) -> SqliteStore:
        """A `SqliteStore` on this disk, for one run of a process."""
        pools: dict[str, SimPool] = {}

        def threads(name: str) -> SimPool:
            writes = name.endswith("writer")
            pools["writer" if writes else "reader"] = pool = SimPool(
                process.reactor, self._chance, slow=self.takes, instead=self.instead if writes else lambda: None
            )
            return pool

        store = SqliteStore(self.path, clock=process.wall, reactor=process.reactor, threads=threads, **options)
        self._users[store] = None
        process.on_over.append(lambda killed: self._over(process, store, pools["writer"], killed))
        return store

    def _over(self, process: Process, store: SqliteStore, writer: SimPool, killed: bool) -> None:
        """The process of a store has ended."""
        if killed:
            self._crash(process, store, writer)
        else:
            del self._users[store]
            store.abandon()  # it is closed, unless its process could not

    def _crash(self, process: Process, store: SqliteStore, writer: SimPool) -> None:
        """The process of a store is no more. What it was writing happens whole, not at all, or in part."""
        del self._users[store]
        files = [self.path, Path(f"{self.path}-wal")]
        alone = not self._users
        call, torn = writer.under_way, False
        before = [_content(file) for file in files]
        if call is not None and self._chance.random() < 0.67:
            torn = alone and self._chance.random() < 0.5  # for whoever else has the file open, what is in part is not there
            try:
                call()
            except Exception as error:
                self.world.note("disk", process.name, text=f"the last commit failed: {error}")
            self.world.note(
                "disk", process.name, text="the last commit is in part on the disk" if torn else "the last commit is on the disk"
            )
        after = [_content(file) for file in files]
        if torn:
            after = [self._torn(*each) for each in zip(before, after, strict=True)]
        store.abandon()
        if alone:  # closing has tidied up, which a killed process does not
            for file, content in zip(files, after, strict=True):
                file.unlink(missing_ok=True)
                if content is not None:
                    file.write_bytes(content)
            Path(f"{self.path}-shm").unlink(missing_ok=True)

    def _torn(self, before: bytes | None, after: bytes | None) -> bytes | None:
        """A file of which only a first part of what was written has reached the disk."""
        old, new = before or b"", after or b""
        if old == new:
            return after
        low = next((at for at, pair in enumerate(zip(old, new, strict=False)) if pair[0] != pair[1]), min(len(old), len(new)))
        cut = self._chance.randint(low, len(new))
        return new[:cut] + old[cut:]

    # ---- what is on it

    def _asked(self, question: str) -> list[Any]:
        """The answer of the file, while a process has it open: who opens it alone would tidy it up."""
        if not self._users:
            return []
        with closing(sqlite3.connect(self.path)) as connection:
            return connection.execute(question).fetchall()

    def placed(self) -> dict[str, tuple[int, int]]:
        """Client id in hexadecimal → (conversation, seq), of every message that is on the disk; nothing while that cannot be known."""
        if self._folder is not None:
            found = self._asked("SELECT client_id, conversation, seq FROM messages")
            return {client_id.hex(): (conversation, seq) for client_id, conversation, seq in found}
        _, rows = _now(self.image.read_since(0, 1 << 40))
        return {row.client_id.hex(): (row.conversation, row.seq) for row in rows}

    def marks(self, devices: Sequence[tuple[bytes, bytes]]) -> dict[tuple[str, object, int], int]:
        """Everything that never goes back: (what, whose, conversation) → seq.

        Args:
            devices: user's key and device id of each.
        """
        found: dict[tuple[str, object, int], int] = {}
        if self._folder is not None:
            for device, conversation, seq in self._asked("SELECT device, conversation, seq FROM cursors"):
                found["cursor", device, conversation] = seq
            for user, conversation, delivered, read in self._asked("SELECT user, conversation, delivered, read FROM members"):
                found["delivered", user, conversation], found["read", user, conversation] = delivered, read
            for conversation, head in self._asked("SELECT id, head FROM conversations"):
                found["head", "", conversation] = head
            return found
        for user, device in devices:
            for each in _now(self.image.summary(user, device, 0, 0, 1000, False)).conversations:
                found["cursor", (user, device), each.conversation] = each.cursor
                found["delivered", user, each.conversation] = each.delivered
                found["read", user, each.conversation] = each.read
                found["head", "", each.conversation] = each.head
        return found

    def findings(self) -> list[str]:
        """What is wrong with the file, one line each; empty for a model, or while no process has the file open."""
        if self._folder is None or not self._users:
            return []
        with closing(sqlite3.connect(self.path, isolation_level=None)) as connection:
            return findings(connection, lambda what: None)

    # ---- the model

    def model(self, process: Process) -> ModelStore:
        """A `ModelStore` on this disk, for one run of a process."""
        store = ModelStore(self, process, self._chance)
        process.on_over.append(lambda killed: store.crash() if killed else None)
        return store


def _sqlite_error(text: str, code: int) -> sqlite3.Error:
    error = sqlite3.OperationalError(text)
    error.sqlite_errorcode = code
    return error


def _content(file: Path) -> bytes | None:
    return file.read_bytes() if file.exists() else None


_WRITES = (
    "append", "create_group", "change_members", "open_session", "use_token", "revoke_tokens", "remove_device", "accounts", "set_account",
    "lease",
)  # fmt: skip
_READS = ("read", "read_since", "position", "summary", "members", "devices", "ended_since", "account", "list_accounts", "leases")


class ModelStore:
    """A store that is a queue before a `MemoryStore`: what waits is lost with the process, what was committed is not."""

    def __init__(self, disk: SimDisk, process: Process, chance: Random) -> None:
        self._disk = disk
        self._reactor = process.reactor
        self._name = process.name
        self._chance = chance
        self._image = disk.image
        self.batch = self._image.batch
        self.horizon = self._image.horizon
        self._waiting: deque[tuple[str, tuple[Any, ...], Deferred[Any]]] = deque()
        self._under_way: list[tuple[str, tuple[Any, ...], Deferred[Any]]] = []
        self._tenant: tuple[str, bytes] | None = None
        self._broken: StoreError | None = None
        self._closed: Deferred[None] | None = None

    def open(self) -> None:
        """The disk is there."""

    def _write(self, verb: str, *arguments: Any) -> Deferred[Any]:
        if self._broken is not None or self._closed is not None:
            return fail(self._broken or ImError(Status.UNAVAILABLE, "the store is closed"))
        done: Deferred[Any] = Deferred()
        self._waiting.append((verb, arguments, done))
        if not self._under_way:
            self._begin()
        return done

    def _takes(self) -> float:
        """Most are fast, a few are not; see `SimPool`."""
        chance = self._chance.random
        return self._disk.takes() * (0.5 + chance() if chance() < 0.95 else 20 * chance())

    def _begin(self) -> None:
        self._under_way = list(self._waiting)
        self._waiting.clear()
        if self._under_way:
            self._reactor.soon(self._commit, after=self._takes())
        elif self._closed is not None and not self._closed.called:
            self._closed.callback(None)

    def _commit(self) -> None:
        """The moment in which all that is under way is on the disk, or is not."""
        trouble = self._disk.trouble
        results: list[Any] = []
        if self._disk.is_full():
            results = [ImError(Status.UNAVAILABLE, "the disk is full", retry_after=1000)] * len(self._under_way)
        elif trouble == "error" or not self._is_tenant():
            self._broken = StoreError("the disk failed" if trouble == "error" else f"another process has become the node of {self._name}")
        else:
            results = self._apply()
            if trouble == "lost":
                self._broken = StoreError("the disk failed")
        if self._broken is not None:
            results = [self._broken] * len(self._under_way)
        self._reactor.soon(self._answer, results, after=self._takes() * 0.1)

    def _is_tenant(self) -> bool:
        return self._tenant is None or self._disk.tenants.get(self._tenant[0]) == self._tenant[1]

    def _apply(self) -> list[Any]:
        results: list[Any] = []
        for verb, arguments, _ in self._under_way:
            if verb != "lease" and self._lease_has_ended():
                results.append(ImError(Status.UNAVAILABLE, "this node's lease has ended, and is to be renewed first", retry_after=1000))
                continue
            result = _now(getattr(self._image, verb)(*arguments))
            if verb == "lease" and not isinstance(result, Exception):
                self._leased(*arguments)
            results.append(result)
        return results

    def _lease_has_ended(self) -> bool:
        return self._tenant is not None and self._tenant[0] not in [lease.node for lease in _now(self._image.leases())]

    def _leased(self, node: str, boot: bytes, address: str, seconds: float, load: int = 0, clients: str = "") -> None:
        if seconds:
            self._tenant = node, boot
            self._disk.tenants[node] = boot
        elif self._tenant == (node, boot):
            self._tenant = None

    def _answer(self, results: list[Any]) -> None:
        answered, self._under_way = self._under_way, []
        if self._broken is not None:
            answered += self._waiting
            results = [self._broken] * len(answered)
            self._waiting.clear()
        for (_, _, done), result in zip(answered, results, strict=True):
            if isinstance(result, Exception):
                done.errback(result)
            else:
                done.callback(result)
        if not self._under_way:  # nor has one who was answered asked for more
            self._begin()

    def crash(self) -> None:
        """The process is no more; what was under way is on the disk, or is not."""
        if self._under_way and self._chance.random() < 0.5 and self._is_tenant() and not self._disk.trouble:
            self._apply()
            self._disk.world.note("disk", self._name, text="the last commit is on the disk")

    def _read(self, verb: str, *arguments: Any) -> Deferred[Any]:
        if self._broken is not None or self._closed is not None:
            return fail(self._broken or ImError(Status.UNAVAILABLE, "the store is closed"))
        done: Deferred[Any] = Deferred()

        def answer(result: Any) -> None:
            if isinstance(result, Exception):
                done.errback(result)
            else:
                done.callback(result)

        def look() -> None:
            result = _now(getattr(self._image, verb)(*arguments))
            self._reactor.soon(answer, result, after=self._takes() * 0.1)

        self._reactor.soon(look, after=self._takes() * 0.3)
        return done

    def close(self) -> Deferred[None]:
        """Finishes what is under way."""
        closed: Deferred[None] = Deferred()
        if self._closed is None:
            self._closed = closed
            if not self._under_way:
                closed.callback(None)
        else:
            closed.callback(None)
        return closed


def _verb(kind: Callable[..., Deferred[Any]], name: str) -> Callable[..., Deferred[Any]]:
    def ask(self: ModelStore, *arguments: Any, **named: Any) -> Deferred[Any]:
        return kind(self, name, *arguments, *named.values())

    ask.__name__ = name
    return ask


for _kind, _names in ((ModelStore._write, _WRITES), (ModelStore._read, _READS)):
    for _name in _names:
        setattr(ModelStore, _name, _verb(_kind, _name))
classImplements(ModelStore, IStore)  # type: ignore[misc]  # its verbs come from the loop above


def _now(done: Deferred[Any]) -> Any:
    """The result of a Deferred that has one: a value, or an exception."""
    found: list[Any] = []
    done.addBoth(found.append)
    return found[0].value if isinstance(found[0], Failure) else found[0]
