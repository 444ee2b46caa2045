"""Which process is this node: a lease in the store, taken before anything is accepted, renewed while it lives, given back at its end.

Strategy: a node's name is its place, and the store's clock decides who has it. A second process of the same name is refused, or stands by:
it asks again and again, and takes over as soon as the first has given up, has died, or has not renewed in time. A process that finds
its place taken has been taken for dead (it was stopped, or its machine was): it ends, and the store refuses what it still writes.

Each renewal is a look at all nodes as well: who lives, and where. Whoever has to know who comes and goes is told of it.

A boot id tells two runs of one name apart. It also holds the machine and the process id, so that a process on the same machine need not
wait for the lease of one that was killed.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.logger import Logger
from twisted.python.failure import Failure

from twisted_im.errors import ImError, Status
from twisted_im.server.interfaces import Lease, Look, StoreError

log = Logger()

#: Seconds that a lease lasts, between its renewals, and between a standby's questions.
LEASE = 6.0
RENEWAL = 2.0
#: Seconds without an answer of the store after which the log says so.
SLOW = 4.0
QUESTION = 0.5

_BOOT = struct.Struct(">8sI4s")


def _machine() -> bytes:
    """What tells this run of this machine from others."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    text = boot.read_text(encoding="ascii") if boot.exists() else ""
    return sha256(f"{os.uname().nodename} {text}".encode()).digest()[:8]


def new_boot(random: Callable[[int], bytes] = os.urandom) -> bytes:
    """A boot id for this process: 16 bytes."""
    return _BOOT.pack(_machine(), os.getpid(), random(4))


def is_gone(boot: bytes) -> bool:
    """Whether the process of a boot id has certainly ended: it ran here, and is not there any more."""
    machine, process, _ = _BOOT.unpack(boot) if len(boot) == _BOOT.size else (b"", 0, b"")
    if machine != _machine() or process == os.getpid():
        return False
    try:
        state = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return Path("/proc/self").exists()
    except OSError:
        return False
    return state in "ZX"  # ended, and nobody has asked after it


class Tenure:
    """One process's hold of one name.

    Args:
        store: an `IStore`.
        reactor: an `IReactorTime`.
        name: the node's.
        boot: 16 bytes of this run's own; by default `new_boot()` when the name is asked for: a process that goes to the background then
            has its last process id.
        standby: wait while another process has the name, and do not fail.
        lost: called, once, when another process has taken the name, or the store is broken.
        renewed: called after each renewal, with what was seen.
        gone: whether the process of a boot id has certainly ended.
        load: gives the number of the node's connections, for others to see.
        clock: seconds, monotonic.

    Attributes:
        boot: as above; empty until it is made.
        address, clients: where other nodes and clients reach this one; they stand in the lease from the next renewal on, or at once by
            `announce` and `invite`.
        look: what was seen last.
    """

    def __init__(
        self,
        store: Any,
        reactor: Any,
        name: str,
        *,
        boot: bytes = b"",
        standby: bool,
        lost: Callable[[Failure], object],
        renewed: Callable[[Look], object] = lambda look: None,
        gone: Callable[[bytes], bool] = is_gone,
        load: Callable[[], int] = lambda: 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._reactor = reactor
        self._name = name
        self.boot = boot
        self._standby = standby
        self._lost = lost
        self._renewed = renewed
        self._gone = gone
        self._load = load
        self._clock = clock
        self._timer: Any = None
        self._waiting: Deferred[None] | None = None
        self._taking: Deferred[None] | None = None
        self._over = False
        self._held = False
        self._said = ""
        self.address = self.clients = ""
        self.look = Look(clock(), ())

    @inlineCallbacks
    def _ask(self) -> Any:
        """Takes or renews the lease, and looks."""
        asked = self._clock()
        slow = self._reactor.callLater(SLOW, self._is_slow)
        try:
            leases = yield self._store.lease(self._name, self.boot, self.address, LEASE, self._load(), self.clients)
        finally:
            if slow.active():
                slow.cancel()
            else:
                log.info("the store answers again, after {seconds:.0f} s", seconds=self._clock() - asked)
        self.look = Look(asked, leases)

    def _is_slow(self) -> None:
        log.warn("the store has not answered for {seconds:.0f} s; does another process hold it that is stopped?", seconds=SLOW)

    def announce(self, address: str) -> None:
        """Has the lease say where other nodes reach this one, now if the name is held, else when it is taken."""
        self.address = address
        self._soon()

    def invite(self, clients: str) -> None:
        """Has the lease say where clients reach this one, as soon."""
        self.clients = clients
        self._soon()

    @inlineCallbacks
    def withdraw(self) -> Any:
        """Has the lease say, when this has fired, that no client is to come here; and looks, if the store lets it."""
        self.clients = ""
        if self._held and not self._over:
            try:
                yield self._ask()
            except Exception as error:
                log.warn("others may go on to send clients here: {why}", why=str(error))

    def _soon(self) -> None:
        if self._timer is not None and self._held and not self._over:
            self._timer.reset(0.0)

    def take(self) -> Deferred[Any]:
        """Fires when the name is this process's; or when it was given back before that.

        Raises:
            StoreError: another process has it, and this one does not stand by.
        """
        self.boot = self.boot or new_boot()
        self._taking = Deferred()
        taken: Deferred[Any] = self._take()
        return taken.addBoth(self._taken)

    def _taken(self, result: Any) -> Any:
        taking, self._taking = self._taking, None
        if taking is not None:
            taking.callback(None)
        return result

    @inlineCallbacks
    def _take(self) -> Any:
        asked = False
        while not self._over:
            try:
                yield self._ask()
            except ImError as error:
                if error.code is not Status.NO_SUCH:
                    raise
            else:
                self._held = True
                if asked:
                    log.info("taking over as {name}", event="taking over", name=self._name)
                if not self._over:
                    self._timer = self._reactor.callLater(RENEWAL, self._renew)
                return
            held = [lease for lease in (yield self._store.leases()) if lease.node == self._name]
            if held and self._gone(held[0].boot):
                yield self._end(held[0])
                continue
            if not self._standby:
                raise StoreError(
                    f"another process is the node {self._name!r} on this store; stop it, say another --name, or wait for it with --standby"
                )
            if not asked:
                asked = True
                log.info("standing by: another process is {name}", event="standing by", name=self._name)
            if self._over:
                return  # released while the store was asked
            self._waiting = Deferred()
            self._timer = self._reactor.callLater(QUESTION, self._waiting.callback, None)
            yield self._waiting

    @inlineCallbacks
    def _end(self, lease: Lease) -> Any:
        """Ends the lease of a process that is dead; another may have done so already."""
        try:
            yield self._store.lease(lease.node, lease.boot, lease.address, 0.0)
        except ImError as error:
            if error.code is not Status.NO_SUCH:
                raise

    @inlineCallbacks
    def _renew(self) -> Any:
        self._timer = None
        before = self.look
        try:
            yield self._ask()
            self._said = ""
        except ImError as error:
            if error.code is Status.NO_SUCH:
                if not self._over:
                    self._over, self._held = True, False
                    self._lost(Failure(StoreError(f"another process has become the node {self._name!r}")))
                return
            if str(error) != self._said:  # once, and not at each attempt
                self._said = str(error)
                log.warn("the lease could not be renewed, and is tried again: {why}", why=self._said)
        except Exception:
            if not self._over:  # nobody else may be writing, and a node whose store is broken is of no use to anybody
                self._over = True
                self._lost(Failure())
            return
        if not self._over:
            self._timer = self._reactor.callLater(RENEWAL, self._renew)
            if self.look is not before:
                self._renewed(self.look)

    @inlineCallbacks
    def release(self) -> Any:
        """Gives the name back at once; a wait for it ends."""
        self._over = True
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        if self._waiting is not None and not self._waiting.called:
            self._waiting.callback(None)
        if self._taking is not None:  # the store may be about to say yes
            yield self._taking
        if self._held:
            self._held = False
            try:
                yield self._store.lease(self._name, self.boot, self.address, 0.0)
            except Exception as error:
                log.warn("the lease ends by itself in {seconds} s: {why}", seconds=LEASE, why=str(error))
