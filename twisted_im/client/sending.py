"""The sender's half on a live client: the outbox, what applications hold of it, and packets 1 and 2.

Strategy: the rules are the `Outbox`'s (`twisted_im.core.delivery`); this file gives them frames and tells the application. A message that
the server has not accepted stays here through any number of connections. There are two ways to learn that it was accepted: the response,
or meeting it in the log when the response was lost.

The server knows an id again only for so long (the horizon). When a login finds messages that left before that, they can only be met in the
log: nothing is sent until the reader has caught up; what has not been met then was never stored, and leaves under a new id, in its place.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from twisted_im.client.session import Ask, Session
from twisted_im.client.values import Accepted
from twisted_im.core.delivery import Entry, Outbox
from twisted_im.errors import ImError, LocalProtocolError, Status
from twisted_im.wire.schema import CONTENT_ROOM, MAX_UID, Command

log = Logger()


def uid_bytes(uid: str) -> bytes:
    """A user's name as it travels: UTF-8 in NFC.

    Raises:
        LocalProtocolError: BAD_VALUE if it is empty or too long.
    """
    name = unicodedata.normalize("NFC", uid).encode("utf-8")
    if not 0 < len(name) <= MAX_UID:
        raise LocalProtocolError(Status.BAD_VALUE, f"a user's name has 1 to {MAX_UID} bytes; {uid[:MAX_UID]!r} has {len(name)}")
    return name


class Sending:
    """A message on its way.

    Attributes:
        values: what packet 1 says, apart from the client id.
        given: the application has brought the client id along.
        stale: the server does not know the client id again.
        told: the application knows that this waits for long.
    """

    __slots__ = ("_drop", "_entry", "_outcome", "_waiting", "given", "stale", "told", "values")

    def __init__(self, values: dict[str, Any], drop: Callable[[Sending], bool], *, given: bool) -> None:
        self.values = values
        self.given = given
        self.stale = False
        self.told = False
        self._drop = drop
        self._entry: Entry[Sending] | None = None
        self._outcome: Accepted | ImError | None = None
        self._waiting: list[Deferred[Accepted]] = []

    @property
    def client_id(self) -> bytes:
        """The message's identity; empty until it first leaves."""
        return self._entry.client_id if self._entry is not None else b""

    @property
    def outcome(self) -> Accepted | ImError | None:
        """What became of it; None while it waits."""
        return self._outcome

    @property
    def accepted(self) -> Deferred[Accepted]:
        """A new Deferred at each look: it fires when the server has the message, and fails with an `ImError` when it is refused for good,
        or was dropped."""
        wanted: Deferred[Accepted] = Deferred(self._waiting.remove)
        if self._outcome is None:
            self._waiting.append(wanted)
        elif isinstance(self._outcome, ImError):
            wanted.errback(Failure(self._outcome))
        else:
            wanted.callback(self._outcome)
        return wanted

    def drop(self) -> bool:
        """Gives it up.

        Returns:
            whether it is certain that it was not sent. If not, it may be accepted all the same.
        """
        return self._drop(self)

    def entered(self, entry: Entry[Sending]) -> None:
        """It has its place in the outbox."""
        self._entry = entry

    def over(self, outcome: Accepted | ImError) -> None:
        """It was accepted, refused or dropped."""
        if self._outcome is None:
            self._outcome = outcome
            waiting, self._waiting = self._waiting, []
            for each in waiting:
                if isinstance(outcome, ImError):
                    each.errback(Failure(outcome))
                else:
                    each.callback(outcome)


class Sender:
    """Gets messages accepted.

    Args:
        make_id: gives a client id by the server's time.
        accepted: told of the place of each message of this device.
        unsent: told once of each message that has waited for longer than `patience`.
    """

    def __init__(
        self,
        make_id: Callable[[], bytes],
        *,
        accepted: Callable[[int, int], object],
        unsent: Callable[[Sending], object],
        clock: Callable[[], float],
        patience: float,
    ) -> None:
        self.outbox: Outbox[Sending] = Outbox(make_id, patience=patience)
        self._accepted = accepted
        self._unsent = unsent
        self._clock = clock
        self._session: Session | None = None
        self._looking = False

    def send(self, to: str | int, content_type: int, content: bytes, *, life: int, client_id: bytes, most: int) -> Sending:
        """Queues one message.

        Raises:
            LocalProtocolError: it cannot be sent as it is, or the queue is full.
        """
        if len(content) > most - CONTENT_ROOM:
            raise LocalProtocolError(Status.TOO_LARGE, f"a content of {len(content)} bytes, where {most - CONTENT_ROOM} are the most")
        if client_id and len(client_id) != 16:
            raise LocalProtocolError(Status.BAD_VALUE, f"a client id has 16 bytes, not {len(client_id)}")
        if isinstance(to, int) and not 0 < to < 1 << 64:
            raise LocalProtocolError(Status.BAD_VALUE, f"{to} is no conversation's id")
        if not 0 <= life < 1 << 32:
            raise LocalProtocolError(Status.BAD_VALUE, f"a life is a number of seconds from 0 to {(1 << 32) - 1}, not {life}")
        where = {"conversation": to, "target": b""} if isinstance(to, int) else {"conversation": 0, "target": uid_bytes(to)}
        body = {**where, "content_type": content_type, "life": life, "content": content}
        sending = Sending(body, self._drop, given=bool(client_id))
        sending.entered(self.outbox.add(sending, self._clock(), client_id=client_id))
        return sending

    def connected(self, session: Session, oldest: int) -> None:
        """A session is live.

        Args:
            oldest: milliseconds since 1970; client ids from before are not to be sent again.
        """
        self._session = session
        self.outbox.connected(session.requests)
        for entry in self.outbox:
            if entry.client_id and not entry.item.given and int.from_bytes(entry.client_id[:6], "big") < oldest:
                entry.item.stale = True
        self._looking = any(entry.item.stale for entry in self.outbox)

    @property
    def unsure(self) -> bool:
        """Whether a message waits that has left before, so that it may be in the log."""
        return any(entry.client_id for entry in self.outbox)

    def looked_up(self, skipped: set[int]) -> None:
        """The log has been read to its end, and what was met there is over: what is stale still was never stored, and gets a new id.

        Args:
            skipped: conversations of which not everything was read. What may be there fails: only the application can look.
        """
        if not self._looking:
            return
        self._looking = False
        for entry in self.outbox:
            item = entry.item
            if item.stale and (item.values["conversation"] in skipped or (skipped and not item.values["conversation"])):
                self._refused(entry.client_id, LocalProtocolError(Status.STALE_ID))
        entries = list(self.outbox)
        for entry in entries:
            self.outbox.drop(entry)
        for entry in entries:
            item = entry.item
            item.entered(self.outbox.add(item, entry.queued, client_id=b"" if item.stale else entry.client_id))
            item.stale = False

    def disconnected(self) -> None:
        """It is gone."""
        self._session = None
        self._looking = False
        self.outbox.disconnected()

    def next(self) -> Ask | None:
        """Packet 1 of the next message."""
        while self._session is not None and not self._looking and (entry := self.outbox.take()) is not None:
            values = entry.item.values
            if len(values["content"]) <= self._session.max_body - CONTENT_ROOM:
                return Command.MESSAGE, {**values, "client_id": entry.client_id}, partial(self._answered, self._session, entry.client_id)
            self._refused(entry.client_id, LocalProtocolError(Status.TOO_LARGE))
        return None

    def _answered(self, session: Session, client_id: bytes, values: Any) -> None:
        """Packet 2."""
        if session is not self._session:
            return  # its connection is gone, and the message will be sent again
        if not isinstance(values, ImError):
            self._end(client_id, Accepted(values.conversation, values.seq, values.time))
        elif values.code is Status.STALE_ID and self._found_stale(client_id):
            self.outbox.refused(client_id, temporary=True)
            session.give_up(values)  # the next login reads the log before it sends
        elif values.temporary:
            self.outbox.refused(client_id, temporary=True)
            session.give_up(values)
        else:
            self._refused(client_id, values)

    def _found_stale(self, client_id: bytes) -> bool:
        """The server does not know an id that was thought to be young enough.

        Returns:
            whether the log can say what became of it; that of an earlier run may have been passed long ago.
        """
        for entry in self.outbox:
            if entry.client_id == client_id and not entry.item.given:
                entry.item.stale = True
                return True
        return False

    def met(self, row: Any) -> None:
        """A message of this device was met in the log."""
        self._end(row.client_id, Accepted(row.conversation, row.seq, row.time), told=False)

    def _end(self, client_id: bytes, accepted: Accepted, *, told: bool = True) -> None:
        entry = self.outbox.accepted(client_id)
        if entry is not None:
            entry.item.over(accepted)
        if told:
            self._accepted(accepted.conversation, accepted.seq)

    def _refused(self, client_id: bytes, error: ImError) -> None:
        entry = self.outbox.refused(client_id, temporary=False)
        if entry is not None:
            log.info("a message was refused: {reason}", reason=str(error))  # its sender may not be waiting for the outcome
            entry.item.over(error)

    def _drop(self, sending: Sending) -> bool:
        entry = sending._entry
        assert entry is not None
        unsent = self.outbox.drop(entry)
        sending.over(LocalProtocolError(Status.NO_SUCH, "dropped before it was accepted"))
        return unsent

    def reset(self) -> None:
        """Conversations have new ids: what is addressed by an old one cannot be sent."""
        for entry in self.outbox:
            if entry.item.values["conversation"]:
                self.outbox.drop(entry)
                why = "the server's store began afresh, and this conversation's id means nothing now"
                entry.item.over(LocalProtocolError(Status.NO_SUCH, why))

    def look(self) -> None:
        """Tells of messages that have waited for long. A connection that does not answer is the session's to see."""
        for entry in self.outbox.unsent(self._clock()):
            if not entry.item.told:
                entry.item.told = True
                self._unsent(entry.item)

    def deadline(self) -> float | None:
        """When `look` next has something to do."""
        return self.outbox.deadline()
