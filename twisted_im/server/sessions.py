"""The sessions of one node: who is here, on which devices.

Strategy: a session is small and has slots; `Sessions.push` is on the hot path and touches nothing but lists and integers. A session that
cannot take more is *behind*: it is told once, gets nothing more, and reads the log when it asks for it. Nothing depends on a push.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from twisted_im.core.connection import Connection
from twisted_im.pump import Pump
from twisted_im.server.interfaces import Envelope
from twisted_im.server.names import user_key
from twisted_im.wire.codec import notify
from twisted_im.wire.schema import Command

_BEHIND = notify(Command.SYNC)


class Session:
    """One device of one user, logged in.

    Attributes:
        user: the user's key; `uid` is the part of it that other users see.
        number: the fence: a later login of the device has a higher one.
        asked: when its login was asked for, in seconds.
        unanswered: requests under way in the ledger; `requests` may be.
        behind: pushes are left out until the device syncs.
    """

    __slots__ = (
        "asked", "behind", "connection", "device", "label", "number", "prefix", "pump",
        "requests", "tenant", "uid", "unanswered", "user",
    )  # fmt: skip

    def __init__(self, pump: Pump, tenant: bytes, uid: bytes, device: bytes, label: bytes, number: int) -> None:
        self.pump = pump
        self.connection: Connection = pump.connection
        self.tenant = tenant
        self.uid = uid
        self.user = user_key(tenant, uid)
        self.prefix = user_key(tenant, b"")
        self.device = device
        self.label = label
        self.number = number
        self.asked = 0.0
        self.requests = pump.connection.requests
        self.unanswered = 0
        self.behind = False

    def fall_behind(self) -> None:
        """Tells the device to read the log; it counts as one notify, over the window if need be."""
        if self.behind:
            return
        self.behind = True
        self.connection.credit -= 1
        self.pump.counters.behind += 1
        self.pump.write(_BEHIND)


class Sessions:
    """All sessions of a node, by user and by device."""

    def __init__(self) -> None:
        self.by_user: dict[bytes, tuple[Session, ...]] = {}
        self._by_device: dict[tuple[bytes, bytes], Session] = {}

    def push(self, envelopes: Sequence[Envelope], dirty: list[Pump]) -> int:
        """Has each frame leave at this turn's end, for every session of its audience that has room for it in its window and budget; the
        others fall behind. The inner loop of every delivery, so nothing is called in it.

        Args:
            dirty: where pumps with something to write are noted: `Turn.dirty`.

        Returns:
            how many sessions took a frame.
        """
        reached = 0
        sessions_of = self.by_user.get
        nobody: tuple[Session, ...] = ()
        for frame, audience, origin in envelopes:
            size = len(frame)
            for user in audience:
                for session in sessions_of(user, nobody):
                    if session is origin or session.behind:
                        continue
                    connection, pump = session.connection, session.pump
                    room = pump.room - size
                    if room < 0 or connection.credit <= 0:
                        session.fall_behind()
                        continue
                    connection.credit -= 1
                    pump.room = room
                    out = pump.out
                    if not out:
                        dirty.append(pump)
                    out.append(frame)
                    reached += 1
        return reached

    def add(self, session: Session) -> Session | None:
        """Takes a session in.

        Returns:
            the session of the same device that it replaces. If that has the higher number the new one is refused: it is itself returned.
        """
        key = session.user, session.device
        older = self._by_device.get(key)
        if older is not None:
            if older.number > session.number:
                return session
            self.remove(older)
        self._by_device[key] = session
        self.by_user[session.user] = (*self.by_user.get(session.user, ()), session)
        return older

    def remove(self, session: Session) -> bool:
        """Lets a session go, and only that one; True if it was here."""
        key = session.user, session.device
        if self._by_device.get(key) is not session:
            return False
        del self._by_device[key]
        others = tuple(other for other in self.by_user.pop(session.user) if other is not session)
        if others:
            self.by_user[session.user] = others
        return True

    def get(self, user: bytes, device: bytes) -> Session | None:
        """The session of one device."""
        return self._by_device.get((user, device))

    def of(self, user: bytes) -> tuple[Session, ...]:
        """The sessions of one user."""
        return self.by_user.get(user, ())

    def __iter__(self) -> Iterator[Session]:
        return iter(list(self._by_device.values()))

    def __len__(self) -> int:
        return len(self._by_device)
