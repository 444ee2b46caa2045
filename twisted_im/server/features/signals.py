"""Signals: typing, ringing and the like. They are not stored, may be lost, and say by when they have lost their meaning."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import inlineCallbacks

from twisted_im.errors import ImError, RemoteProtocolError, Status
from twisted_im.server.interfaces import Members
from twisted_im.server.names import checked_name
from twisted_im.server.node import Node
from twisted_im.server.sessions import Session
from twisted_im.wire.codec import CODECS, notify, response
from twisted_im.wire.framing import Frame
from twisted_im.wire.schema import MAX_UID, Command, Kind, SignalType

_SIGNAL = CODECS[Kind.REQUEST, Command.SIGNAL]

#: The largest content of a signal, in bytes: it is a hint, not a message.
MAX_CONTENT = 1024
#: The longest that a signal can mean something, in milliseconds.
MAX_LIFETIME = 5 * 60 * 1000


class Signals:
    """The signal command, on behalf of one node."""

    def __init__(self, node: Node) -> None:
        self._node = node
        node.register(Kind.REQUEST, Command.SIGNAL, self.signal)

    @inlineCallbacks
    def signal(self, session: Session, frame: Frame) -> Any:
        wanted = _SIGNAL.read(frame[3])
        if wanted.type not in list(SignalType):
            raise RemoteProtocolError(Status.BAD_VALUE, f"signal type {wanted.type} is not known")
        if bool(wanted.conversation) == bool(wanted.target):
            raise RemoteProtocolError(Status.BAD_VALUE, "a signal goes to a conversation or to a user")
        if len(wanted.content) > MAX_CONTENT:
            raise RemoteProtocolError(Status.TOO_LARGE, f"a signal of {len(wanted.content)} bytes, where {MAX_CONTENT} are the most")
        store, head = self._node.store, 0
        audience: tuple[bytes, ...]
        if wanted.conversation:
            members: dict[int, Members] = yield store.members([wanted.conversation])
            if wanted.conversation not in members or session.user not in members[wanted.conversation].users:
                raise ImError(Status.NO_SUCH, "no such conversation")
            head = (yield store.read(session.user, wanted.conversation, 1, 1, 1, False)).head
            audience = members[wanted.conversation].users
        else:
            checked_name(wanted.target, "uid", most=MAX_UID)
            user = session.prefix + wanted.target
            if not (yield self._node.exists(user)):
                raise ImError(Status.NO_SUCH, "no such user")
            audience = (user,)
        passed = notify(
            Command.SIGNAL,
            conversation=wanted.conversation,
            head=head,
            expires=int(self._node.turn.wall() * 1000) + min(wanted.lifetime, MAX_LIFETIME),
            type=wanted.type,
            device=session.device,
            sender=session.uid,
            content=wanted.content,
        )
        self._node.counters.signals += 1
        self._node.router.route([(passed, audience, session)])
        session.pump.write(response(Command.SIGNAL, frame[1]))
