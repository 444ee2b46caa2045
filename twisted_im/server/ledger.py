"""Group commit: everything that arrived while the last transaction ran goes into the next one.

Strategy: handlers append to lists and return. At the end of the reactor turn the lists are given to the store in one call, unless a
call is under way; then its end takes them. What became of each goes to whoever registered for it, with the origins in the same
order, so there is no Deferred, closure or look-up for a single message.

A store that fails says whether nothing was kept (`ImError`, temporary) or that it is broken (anything else: `broken` is called, once, and
nothing is accepted any more). In the first case all origins get that answer, the senders' later messages as well, and the senders are
disconnected, to come back and send again in order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from twisted_im.counters import Counters
from twisted_im.errors import Disconnect, ImError
from twisted_im.pump import Pump
from twisted_im.server.interfaces import Append, Cursor, Moved, Stored
from twisted_im.server.sessions import Session

log = Logger()

Entry = TypeVar("Entry", contravariant=True)
Result = TypeVar("Result", contravariant=True)

#: Where an entry came from: the session and its request's id.
Origin = tuple[Session, int]


class Answer(Protocol[Entry, Result]):
    """Who gets what became of a commit."""

    def __call__(
        self, origins: Sequence[Origin], entries: Sequence[Entry], results: Sequence[Result | ImError], /
    ) -> Deferred[None] | None:
        """Entries and results are in the order of their origins. A Deferred holds the next commit back."""


class Ledger:
    """The entries that wait for the store.

    Args:
        store: an `IStore`.
        broken: gets the failure of a store that can no longer be trusted.
        unsure: gets the sessions whose entries are kept, but could not be answered, nor told to others.
        bound: messages that may wait for a store that is busy; above it the connections that bring more are not read until a commit
            has made room.

    Attributes:
        batch: messages that are worth a commit before the turn's end; the store says how many.
        messages, message_origins, cursors, cursor_origins: what waits; handlers append to them directly, always to both of a pair.
        on_messages, on_cursors: get (origins, entries, results) of a commit, in this order; a Deferred from one holds the next commit back.
    """

    def __init__(
        self,
        store: Any,
        counters: Counters,
        *,
        broken: Callable[[Failure], object],
        unsure: Callable[[set[Session]], object],
        bound: int = 20_000,
    ) -> None:
        self._store = store
        self._counters = counters
        self._bound = bound
        self.batch = store.batch
        self._busy = False
        self._stopped = False
        self._paused: list[Pump] = []
        self._waiting_now: list[Deferred[None]] = []
        self._waiting_next: list[Deferred[None]] = []
        self.messages: list[Append] = []
        self.message_origins: list[Origin] = []
        self.cursors: list[Cursor] = []
        self.cursor_origins: list[Origin] = []
        self.on_messages: Answer[Append, Stored] = lambda *_: None
        self.on_cursors: Answer[Cursor, Moved] = lambda *_: None
        self._broken = broken
        self._unsure = unsure

    def crowded(self, pump: Pump) -> None:
        """Called when `messages` has grown to `batch`: commits now if the store is free, and stops reading from this connection if
        too much waits for a store that is not. What the connection has brought already stays."""
        self.commit()
        if len(self.messages) >= self._bound:
            pump.suspend()
            self._paused.append(pump)

    def commit(self) -> None:
        """Gives what waits to the store, if the store is free."""
        if self._busy or self._stopped or not (self.messages or self.cursors):
            return
        self._busy = True
        messages, self.messages = self.messages, []
        message_origins, self.message_origins = self.message_origins, []
        cursors, self.cursors = self.cursors, []
        cursor_origins, self.cursor_origins = self.cursor_origins, []
        self._waiting_now, self._waiting_next = self._waiting_next, []

        def committed(results: tuple[list[Stored | ImError], list[Moved | ImError]]) -> Deferred[None] | None:
            self._counters.commits += 1
            first = self.on_messages(message_origins, messages, results[0]) if messages else None
            if first is None:
                return self.on_cursors(cursor_origins, cursors, results[1]) if cursors else None
            return first.addCallback(lambda _: self.on_cursors(cursor_origins, cursors, results[1]) if cursors else None)

        def failed(failure: Failure) -> None:
            error = failure.value
            if isinstance(error, ImError) and not isinstance(error.code, Disconnect):
                senders = {session for session, _ in message_origins}
                self._take_back(senders, message_origins, messages)
                self.on_messages(message_origins, messages, [error] * len(messages))
                self.on_cursors(cursor_origins, cursors, [error] * len(cursors))
                for session in sorted(senders, key=lambda session: session.number):
                    session.pump.disconnect(ImError(Disconnect.STORE_FAILED, retry_after=error.retry_after))
                return
            self._stopped = True
            self._waiting_now += self._waiting_next
            self._waiting_next = []
            self._broken(failure)

        def unsure(failure: Failure) -> None:
            log.failure("a commit could not be answered", failure)
            self._unsure({session for session, _ in (*message_origins, *cursor_origins)})

        done: Deferred[Any] = maybeDeferred(self._store.append, messages, cursors)
        done.addCallbacks(committed, failed)
        done.addErrback(unsure)
        done.addBoth(self._free)

    def _take_back(self, senders: set[Session], origins: list[Origin], entries: list[Append]) -> None:
        """Adds what waits from these senders to what has failed: accepted later, it would stand before what they send again."""
        waiting = list(zip(self.message_origins, self.messages, strict=True))
        self.message_origins = [origin for origin, _ in waiting if origin[0] not in senders]
        self.messages = [entry for origin, entry in waiting if origin[0] not in senders]
        origins += [origin for origin, _ in waiting if origin[0] in senders]
        entries += [entry for origin, entry in waiting if origin[0] in senders]

    def _free(self, _: object) -> None:
        self._busy = False
        answered, self._waiting_now = self._waiting_now, []  # before anything can commit again
        if not (self.messages or self.cursors):  # what the others waited for was taken back
            answered += self._waiting_next
            self._waiting_next = []
        paused, self._paused = self._paused, []
        for pump in paused:
            pump.resume()
        for waiting in answered:
            waiting.callback(None)
        self.commit()

    def answered(self) -> Deferred[None]:
        """Fires when all that waits now, or is under way, has its answer."""
        self.commit()
        done: Deferred[None] = Deferred()
        if self._stopped or not (self._busy or self.messages or self.cursors):
            done.callback(None)
        elif self.messages or self.cursors:
            self._waiting_next.append(done)
        else:
            self._waiting_now.append(done)
        return done
