"""What a client gives to its application: plain values, immutable, with text where people read and bytes where programs do."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import Enum
from typing import Any

from twisted_im.errors import ImError
from twisted_im.wire.schema import ContentType, ConversationKind, ReceiptType, RowType, SignalType


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation.

    Attributes:
        seq: its place in the conversation: 1, 2, 3, …
        time: when the server accepted it, in milliseconds since 1970.
        sender: the user who sent it, from `device`.
        client_id: what identifies it for its sender.
        content_type: a `ContentType`; a number that this version does not know is left as it is.
        withdrawn: it expired, or may no longer be seen; the content is empty.
        life: seconds after `time` for which it may be seen; 0 for ever.
    """

    conversation: int
    seq: int
    time: int
    sender: str
    device: bytes
    client_id: bytes
    content_type: int
    content: bytes
    withdrawn: bool = False
    life: int = 0

    @property
    def expires(self) -> int | None:
        """When it is to be forgotten, in milliseconds since 1970; None for never."""
        return self.time + self.life * 1000 if self.life else None

    @property
    def text(self) -> str:
        """The content as text; what is no UTF-8 becomes U+FFFD."""
        return self.content.decode("utf-8", "replace")

    @property
    def json(self) -> Any:
        """The content read as JSON.

        Raises:
            ValueError: it is none.
        """
        return json.loads(self.content)

    @classmethod
    def of(cls, row: Any) -> Message:
        """From a row of the wire."""
        return cls(
            conversation=row.conversation,
            seq=row.seq,
            time=row.time,
            sender=row.sender.decode("utf-8", "replace"),
            device=row.device,
            client_id=row.client_id,
            content_type=row.content_type,
            content=row.content,
            withdrawn=row.row_type == RowType.TOMBSTONE,
            life=row.life,
        )


@dataclass(frozen=True, slots=True)
class Accepted:
    """The server has the message: it will not be lost. `time` is in milliseconds since 1970."""

    conversation: int
    seq: int
    time: int


@dataclass(frozen=True, slots=True)
class Receipt:
    """A user's devices have got, or the user has read, every message up to `seq`."""

    conversation: int
    seq: int
    type: ReceiptType
    user: str


@dataclass(frozen=True, slots=True)
class Signal:
    """Something that matters only now. `expires` is in milliseconds since 1970 by the server's clock."""

    conversation: int
    type: SignalType
    sender: str
    device: bytes
    content: bytes
    expires: int


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Messages `first` to `last` were passed over, since the device was away for very long. `Client.history` has them."""

    conversation: int
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Conversation:
    """One of the user's conversations, as the server sees it.

    Attributes:
        peer: the other member of a direct conversation, or the group's name.
        head, floor: the newest seq, and the highest that is gone.
        cursor: up to where this device has acknowledged delivery.
        delivered, read: the user's own marks, over all devices.
        peer_delivered, peer_read: the other member's.
    """

    id: int
    kind: ConversationKind
    peer: str
    head: int
    floor: int
    cursor: int
    delivered: int
    read: int
    peer_delivered: int
    peer_read: int


@dataclass(frozen=True, slots=True)
class Device:
    """One of the user's devices. `last_login` is in milliseconds since 1970."""

    id: bytes
    session: int
    online: bool
    last_login: int
    label: str


@dataclass(frozen=True, slots=True)
class History:
    """A range of a conversation: complete from `first` to `last`; rows up to `floor` are gone. Empty if `last` is below `first`."""

    first: int
    last: int
    head: int
    floor: int
    messages: tuple[Message, ...]


class Life(Enum):
    """Where a client is in its life."""

    STOPPED = "stopped"
    CONNECTING = "connecting"
    ONLINE = "online"
    WAITING = "waiting"
    ENDED = "ended"


#: What may follow what. A client that has ended was told not to come back: it needs a person, or a new start.
LIFE: dict[Life, frozenset[Life]] = {
    Life.STOPPED: frozenset({Life.CONNECTING}),
    Life.CONNECTING: frozenset({Life.ONLINE, Life.WAITING, Life.ENDED, Life.STOPPED}),
    Life.ONLINE: frozenset({Life.WAITING, Life.ENDED, Life.STOPPED}),
    Life.WAITING: frozenset({Life.CONNECTING, Life.STOPPED}),
    Life.ENDED: frozenset({Life.STOPPED}),
}


@dataclass(frozen=True, slots=True)
class Standing:
    """What a client tells of itself.

    Attributes:
        reason: why it is no longer online, for people; empty if there is nothing to say.
        error: what the server said, if it said something.
        retry_in: seconds until it tries again, when it is waiting.
    """

    life: Life
    reason: str = ""
    error: ImError | None = None
    retry_in: float = 0.0


def typed(content: str | bytes | dict[str, Any] | list[Any], content_type: int | None) -> tuple[int, bytes]:
    """A content's type and bytes: text for a `str`, binary for `bytes`, JSON for the rest, unless the type is said."""
    if isinstance(content, bytes):
        return content_type or ContentType.BINARY, content
    if isinstance(content, str):
        return content_type or ContentType.TEXT, content.encode("utf-8")
    return content_type or ContentType.JSON, json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
