"""A whole server as one Twisted service: what `twistd im` runs, and what a program of one's own embeds.

Strategy: this puts a node and its ports together and gives them a life; nothing is decided here.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, inlineCallbacks, maybeDeferred
from twisted.internet.error import ReactorNotRunning
from twisted.logger import Logger
from twisted.python.failure import Failure

from twisted_im.core.connection import Limits
from twisted_im.counters import Counters
from twisted_im.edge.tcp import Ports
from twisted_im.server.elsewhere import reachable
from twisted_im.server.features import FEATURES
from twisted_im.server.guesses import Guesses
from twisted_im.server.node import RESUME_LIFE, Node
from twisted_im.server.tenure import is_gone

log = Logger()

#: Seconds over which a node that stops sends its clients to others, at most.
DRAIN = 30.0

#: Descriptors that are not clients' connections: ports, logs, the reactor's own, a store's.
RESERVED = 64


def capacity() -> int:
    """Connections that the process's limit on open files leaves room for."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1_000_000 if soft == resource.RLIM_INFINITY else max(soft - RESERVED, 1)


def stop(reactor: Any) -> None:
    """Stops the reactor, unless it does so already."""
    with suppress(ReactorNotRunning):
        reactor.stop()


class ImServer(Service):
    """An instant-messaging server.

    Args:
        store: an `IStore`, such as `MemoryStore()`; it is closed when the service stops.
        router: an `IRouter`, such as `SingleRouter()`.
        authenticator: an `IAuthenticator`, or a callable that takes `Credentials` and gives a bool, a Deferred or an awaitable of one.
        drain: seconds over which a server that stops sends its clients to the other nodes of its store, at most; 0 for not at all.
        advertise: where clients reach this node, for the others to send theirs there: "host:port", or "tls:host:port" for those who come by
            TLS; by default where it listens, unless that is every address of the machine.
        listen: endpoint strings, such as "tcp:7777:interface=127.0.0.1" or "tls:im.pem:port=7778" (see `twisted_im.edge.tls`).
        share_port: other processes of the same user may listen at the same TCP ports; the kernel spreads connections over them.
        name: this node's name, unique in its cluster.
        features: callables that take the `Node` and register their commands; by default all that twisted_im has.
        limits: deadlines, windows and sizes.
        reactor: for tests and simulations; by default the global one.
        most: connections taken at once; by default what the process's limit on open files leaves.
        clock: seconds, monotonic.
        wall: seconds since 1970.
        guesses: how often wrong secrets may be tried; by default as `Guesses()` has it.
        resume_life: seconds for which a resume token that is not used stays good; 0 for no such tokens.
        told_elsewhere: whoever runs this says itself why it did not start.
        broken: called with a failure when the store can no longer be trusted, or another process has become this node; by default the
            reactor is stopped.
        standby: wait while another process of this name uses the store, and take over when it ends.
        random: gives so many random bytes, for resume tokens.
        boot: 16 bytes of this run's own; by default `new_boot()` at its start.
        gone: whether the process of a boot id has certainly ended.

    Attributes:
        started: fires when every endpoint listens, or fails with the reason why one does not.
        node: the node, with its sessions and counters.
    """

    def __init__(
        self,
        *,
        store: Any,
        router: Any,
        authenticator: Any,
        listen: Sequence[str] = ("tcp:7777:interface=127.0.0.1",),
        advertise: Sequence[str] = (),
        share_port: bool = False,
        drain: float = DRAIN,
        name: str = "node",
        features: Sequence[Callable[[Node], object]] = FEATURES,
        limits: Limits | None = None,
        reactor: Any = None,
        most: int | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        guesses: Guesses | None = None,
        resume_life: float = RESUME_LIFE,
        told_elsewhere: bool = False,
        broken: Callable[[Failure], object] | None = None,
        standby: bool = False,
        random: Callable[[int], bytes] = os.urandom,
        boot: bytes = b"",
        gone: Callable[[bytes], bool] = is_gone,
    ) -> None:
        if reactor is None:
            from twisted.internet import reactor  # installs it: not before somebody wants a server
        self.node = Node(
            store=store,
            router=router,
            authenticator=authenticator,
            features=features,
            reactor=reactor,
            name=name,
            limits=limits,
            most=capacity() if most is None else most,
            clock=clock,
            wall=wall,
            guesses=guesses,
            resume_life=resume_life,
            broken=broken if broken is not None else lambda failure: stop(reactor),
            standby=standby,
            random=random,
            boot=boot,
            gone=gone,
        )
        self.started: Deferred[None] = Deferred()
        self._told = told_elsewhere
        self._ports = Ports(self.node, tuple(listen), reactor, shared=share_port)
        self._advertise = tuple(advertise)
        self._drain = drain

    @property
    def addresses(self) -> list[str]:
        """Where it listens, as "host:port" or a path, once started; where it did, once stopped."""
        return self._ports.addresses

    @property
    def counters(self) -> Counters:
        """What it has done."""
        return self.node.counters

    def startService(self) -> None:
        super().startService()
        opening = self.node.start()
        opening.addCallback(lambda _: self._ports.open() if self.running else None)
        opening.addCallbacks(self._has_started, self._not_started)

    def _has_started(self, _: object) -> None:
        if self.running:
            self.node.tenure.invite(self._clients)
        self.started.callback(None)

    @property
    def _clients(self) -> str:
        """Where clients reach it, as its lease has it."""
        return " ".join(self._advertise) or reachable(self._ports.doors)

    def reload(self) -> list[str]:
        """Reads the certificates of all TLS ports again; those who are connected notice nothing.

        Returns:
            One line for each file that cannot be used; the certificate that it gave before stays in use. The log has them too.
        """
        return self._ports.reload()

    def tell_counters(self) -> None:
        """Logs what it has done so far."""
        log.info("so far", event="counters", node=self.node.name, **self.counters.snapshot())

    def _not_started(self, failure: Failure) -> None:
        if not self._told:
            log.critical("not started: {why}", why=failure.getErrorMessage())
        closed = maybeDeferred(self.node.stop)  # the store may be open, and its threads would keep the process alive
        closed.addErrback(lambda worse: log.failure("closing after that failed", worse))
        closed.addCallback(lambda _: self.started.errback(failure))

    @inlineCallbacks
    def stopService(self) -> Any:
        """Sends its clients to other nodes of the store, if there are any; then stops listening, commits what was read, tells all who are
        left to come back later, and closes the store."""
        yield maybeDeferred(super().stopService)
        if self._drain:
            yield self.node.withdraw()
            if self.node.elsewhere.shares(self._clients):
                yield self._ports.close()  # who comes now reaches another one; else it is told where to go
            yield self.node.drain(self._drain)
        yield self._ports.close()
        yield self.node.stop()
        log.info("stopped", event="stopped", node=self.node.name, **self.counters.snapshot())
