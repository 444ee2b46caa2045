"""Reading: which conversations have changed, and what is in them.

Strategy: offline messages, history, roaming and recovery are this one operation, a range of a log after a cursor. A sync is also
what makes a session that was behind live again, and it does so before it reads: whatever is committed after that is pushed, and
whatever was committed before is in the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from twisted.internet.defer import inlineCallbacks

from twisted_im.errors import RemoteProtocolError, Status
from twisted_im.server.interfaces import Overview, Range, Row, Summary
from twisted_im.server.names import uid_of
from twisted_im.server.node import Node
from twisted_im.server.sessions import Session
from twisted_im.wire.codec import CODECS, response
from twisted_im.wire.framing import Frame
from twisted_im.wire.schema import MAX_ROWS, Command, ConversationKind, Direction, Kind, SyncScope

_SYNC = CODECS[Kind.REQUEST, Command.SYNC]
_SYNCED = CODECS[Kind.RESPONSE, Command.SYNC]
_HISTORY = CODECS[Kind.REQUEST, Command.HISTORY]
_READ = CODECS[Kind.RESPONSE, Command.HISTORY]
_MESSAGE = CODECS[Kind.NOTIFY, Command.MESSAGE]


def _fitting(rows: Iterable[Any], write: Callable[[Any], bytes], room: int) -> list[bytes]:
    """As many of the rows, written, as fit into a body; the others are not even written."""
    kept = []
    for row in rows:
        written = write(row)
        room -= len(written) + 4
        if room < 0:
            break
        kept.append(written)
    return kept


class History:
    """Sync and history, on behalf of one node."""

    def __init__(self, node: Node) -> None:
        self._node = node
        node.register(Kind.REQUEST, Command.SYNC, self.sync)
        node.register(Kind.REQUEST, Command.HISTORY, self.history)

    @inlineCallbacks
    def sync(self, session: Session, frame: Frame) -> Any:
        wanted = _SYNC.read(frame[3])
        if wanted.scope not in list(SyncScope):
            raise RemoteProtocolError(Status.BAD_VALUE, f"scope {wanted.scope} is not known")
        session.behind = False
        limit = min(wanted.limit or MAX_ROWS, MAX_ROWS)
        found: Summary = yield self._node.store.summary(
            session.user, session.device, wanted.since, wanted.after, limit, wanted.scope == SyncScope.BEHIND
        )
        rows = _fitting(found.conversations, _overview, session.connection.max_body - _SYNCED.fixed.size)
        more = found.more or len(rows) < len(found.conversations)
        session.pump.write(response(Command.SYNC, frame[1], position=found.position, more=int(more), conversations=rows))

    @inlineCallbacks
    def history(self, session: Session, frame: Frame) -> Any:
        wanted = _HISTORY.read(frame[3])
        if wanted.direction not in list(Direction):
            raise RemoteProtocolError(Status.BAD_VALUE, f"direction {wanted.direction} is not known")
        if not 1 <= wanted.first <= wanted.last:
            raise RemoteProtocolError(Status.BAD_VALUE, "a range starts at 1 or above, and does not end before it starts")
        backward = wanted.direction == Direction.BACKWARD
        found: Range = yield self._node.store.read(
            session.user, wanted.conversation, wanted.first, wanted.last, min(wanted.limit or MAX_ROWS, MAX_ROWS), backward
        )
        room = session.connection.max_body - _READ.fixed.size
        rows = _fitting(reversed(found.rows) if backward else found.rows, _written, room)
        first, last = found.first, found.last
        if len(rows) < len(found.rows) and backward:
            first = found.rows[-len(rows)].seq
        elif len(rows) < len(found.rows):
            last = found.rows[len(rows) - 1].seq
        session.pump.write(
            response(
                Command.HISTORY,
                frame[1],
                first=first,
                last=last,
                head=found.head,
                floor=found.floor,
                messages=rows[::-1] if backward else rows,
            )
        )


def _overview(row: Overview) -> bytes:
    """A row of a sync. The other member goes by uid; a group has a name."""
    assert _SYNCED.rows is not None
    values = row._asdict()
    if row.kind == ConversationKind.DIRECT:
        values["peer"] = uid_of(row.peer)
    return _SYNCED.rows.write(**values)


def _written(row: Row) -> bytes:
    """A row as the body of a message notify."""
    return _MESSAGE.write(
        conversation=row.conversation,
        seq=row.seq,
        time=row.time,
        device=row.device,
        client_id=row.client_id,
        row_type=row.row_type,
        content_type=row.content_type,
        life=row.life,
        sender=uid_of(row.sender),
        content=row.content,
    )
