"""The wire, declared: every command, every field, every limit. The only place where a field is named.

Strategy: the declarations are construct's, so they can be read, parsed and built by construct itself, which the tests use as the
oracle. What runs is derived from them at import by `twisted_im.wire.codec`; the specification and the test vectors are written
from them by `python -m twisted_im protocol`.

A frame is a header and a body, big-endian:

     0       4    5     6         8            12      14       16
    +--------+----+-----+---------+------------+-------+--------+------------
    | length | v. | kind| command | request id | flags | status | body ...
    +--------+----+-----+---------+------------+-------+--------+------------
      u32      u8   u8    u16       u32          u16     u16      length bytes

A body is laid out in three parts, so that it can be read with one `struct.Struct` and slices:

    +----------------------+-------------------------+-----------------------+
    | fixed-size fields    | sized byte strings, in  | the rest: one byte    |
    | (sizes among them)   | the order of their sizes| string, or rows       |
    +----------------------+-------------------------+-----------------------+

A row is a u32 size and then a body of the same three parts, so that a reader can pass over it as a whole.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any

from construct import (
    Bytes,
    GreedyBytes,
    GreedyRange,
    Int8ub,
    Int16ub,
    Int32ub,
    Int64ub,
    Prefixed,
    Rebuild,
    Renamed,
    Struct,
    len_,
    this,
)

VERSION = 1
HEADER_SIZE = 16
MAX_U64 = 2**64 - 1


class Kind(IntEnum):
    """What a frame is. A response carries its request's id; a notify carries 0, so that one encoded notify serves every receiver."""

    REQUEST = 0
    RESPONSE = 1
    NOTIFY = 2


class Command(IntEnum):
    """The commands; the high byte is the family: 1 session, 2 user and presence, 3 contact, 4 message, 5 group, 6 link, 7 backend."""

    HELLO = 0x0101
    LOGIN = 0x0102
    LOGOUT = 0x0103
    PING = 0x0104
    WINDOW = 0x0105
    REDIRECT = 0x0106
    KICK = 0x0107
    DEVICES = 0x0108
    DISCONNECT = 0x0109
    MESSAGE = 0x0401
    RECEIPT = 0x0402
    SYNC = 0x0403
    HISTORY = 0x0404
    SIGNAL = 0x0405
    LINK = 0x0601
    PROOF = 0x0602
    ATTACH = 0x0603
    DETACH = 0x0604
    FORWARD = 0x0605
    NODES = 0x0606


class Role(IntEnum):
    """What a connection is for: clients never name one, nodes and route servers do when they link."""

    CLIENT = 0
    PEER = 1
    ROUTE = 2


class LoginMethod(IntEnum):
    """How a login proves who it is."""

    PASSWORD = 1
    TOKEN = 2
    ANONYMOUS = 3
    RESUME = 4


class ContentType(IntEnum):
    """What a message's content is. A reference is a URI of something kept elsewhere."""

    TEXT = 1
    JSON = 2
    BINARY = 3
    REFERENCE = 4


class RowType(IntEnum):
    """What one row of a log is. A tombstone keeps the seq of what may no longer be seen; its content is empty."""

    MESSAGE = 0
    TOMBSTONE = 1


class ReceiptType(IntEnum):
    """What a receipt says; read includes delivered."""

    DELIVERED = 1
    READ = 2


class ConversationKind(IntEnum):
    """A direct conversation has two members (or one, with oneself); a group any number; the system conversation one reader."""

    DIRECT = 1
    GROUP = 2
    SYSTEM = 3


class SyncScope(IntEnum):
    """Which conversations a sync lists."""

    CHANGED = 0
    BEHIND = 1


class Direction(IntEnum):
    """From which end of the asked range a history answer is filled when it cannot hold all of it."""

    FORWARD = 0
    BACKWARD = 1


class DevicesAction(IntEnum):
    LIST = 1
    REMOVE = 2


class SignalType(IntEnum):
    """Signals are not stored and may be lost. CUSTOM leaves the meaning to the application."""

    TYPING = 1
    RINGING = 2
    CUSTOM = 3


# Limits of the format itself. What an operator may choose is in the configuration; these are in every implementation.
MAX_UID = 64  #: bytes of UTF-8, NFC, case-sensitive, without control characters
MAX_TENANT = 64  #: the same, and empty for the default tenant
MAX_LABEL = 64  #: a device's name for people
MAX_SECRET = 768  #: so that a login fits under the cap for strangers
MAX_AGENT = 64  #: what a client or node calls itself
MAX_REASON = 256
STRANGER_MAX_BODY = 1024  #: the largest body before login
DEFAULT_MAX_BODY = 64 * 1024  #: the largest body after login, unless the operator chooses another
MAX_ROWS = 1000  #: rows in one answer
CONTENT_ROOM = 256  #: a content is at most the largest body less this, so that it also fits into a row of a history answer


def sized(name: str, doc: str) -> tuple[Any, Any]:
    """A byte string whose size (u8) stands among the fixed fields and whose bytes stand after them."""
    size = f"{name}_size"
    return (
        size / Rebuild(Int8ub, len_(this[name])) * f"bytes of {name}",
        name / Bytes(this[size]) * doc,
    )


def body(*fields: Any) -> Struct:
    """A body: fixed fields, then sized strings, then the rest, whatever the order in which they are written here."""
    flat = [part for field in fields for part in (field if isinstance(field, tuple) else (field,))]
    fixed = [f for f in flat if not _is_tail(f) and not _is_sized(f)]
    return Struct(*fixed, *[f for f in flat if _is_sized(f)], *[f for f in flat if _is_tail(f)])


def rows(row: Struct) -> Any:
    """Any number of rows, each behind its size (u32)."""
    return GreedyRange(Prefixed(Int32ub, row))


def bare(field: Any) -> Any:
    """What a field is, without the name and the documentation that construct wraps around it."""
    while isinstance(field, Renamed):
        field = field.subcon
    return field


def _is_sized(field: Any) -> bool:
    return isinstance(bare(field), Bytes) and callable(bare(field).length)


def _is_tail(field: Any) -> bool:
    return bare(field) is GreedyBytes or isinstance(bare(field), GreedyRange)


Header = Struct(
    "length" / Int32ub * "bytes of the body",
    "version" / Int8ub * "protocol version: 1, in every frame and whatever a hello offers",
    "kind" / Int8ub * "0 request, 1 response, 2 notify",
    "command" / Int16ub * "what it is about; the high byte is the family",
    "request_id" / Int32ub * "chosen by the requester, repeated by the response; 0 on a notify, and ignored there",
    "flags" / Int16ub * "0; receivers ignore bits that they do not know",
    "status" / Int16ub * "0, or an error code on a response, whose body is then an error; ignored in other kinds",
)

Empty = Struct()

Error = body(
    "temporary" / Int8ub * "1 if the same request can succeed later, else 0",
    "retry_after" / Int32ub * "milliseconds to wait before that; 0 leaves it to the client's backoff",
    "reason" / GreedyBytes * "UTF-8, for people",
)

HelloRequest = body(
    "min_version" / Int8ub * "lowest protocol version that the client speaks",
    "max_version" / Int8ub * "highest",
    "features" / Int32ub * "bits of optional features wanted; none is defined in version 1",
    "max_body" / Int32ub * "largest body that the client takes, in bytes; 0 for any. Below the server's the connection is refused",
    "heartbeat" / Int16ub * "seconds without a frame after which the client will ping; 0 leaves it to the server",
    "window" / Int16ub * "notifies that the client takes unacknowledged; 0 leaves it to the server",
    "agent" / GreedyBytes * "UTF-8, not checked: the client's name and version, for people who look at the wire",
)
HelloResponse = body(
    "version" / Int8ub * "the version that both will speak",
    "features" / Int32ub * "those of the wanted features that the server grants",
    "max_body" / Int32ub * "largest body on this connection after login, in bytes, both ways",
    "heartbeat" / Int16ub * "seconds: the client sends a frame at least this often; silence for 1.5 times this ends the connection",
    "window" / Int16ub * "notifies that the server will send unacknowledged",
    "requests" / Int16ub * "requests that the client may have unanswered",
    "time" / Int64ub * "the server's clock: milliseconds since 1970, UTC",
    "node" / GreedyBytes * "UTF-8: the node's name",
)

LoginRequest = body(
    "method" / Int8ub * "1 password, 2 token, 3 anonymous, 4 resume; others get UNSUPPORTED",
    "device" / Bytes(16) * "the device's id: random, chosen once by the device and kept",
    sized("tenant", "the tenant; empty for the default one"),
    sized("uid", "the user: UTF-8, NFC, at most 64 bytes, case-sensitive"),
    sized("label", "UTF-8, not checked: what people call this device"),
    "secret" / GreedyBytes * "the password, the token, or the resume token of the last login",
)
LoginResponse = body(
    "session" / Int64ub * "the session's number: a later login of the same device has a higher one",
    "epoch" / Bytes(16) * "the store's life: with another epoch, cursors and seqs kept from before mean nothing",
    "horizon" / Int32ub * "seconds for which a repeated client id is recognised; ids with older times are refused",
    "resume" / GreedyBytes * "the secret of the next login with method 4; empty where the server gives none",
)

PingResponse = body("time" / Int64ub * "the clock of the side that answers: milliseconds since 1970, UTC")

WindowNotify = body("count" / Int64ub * "notifies received on this connection so far, this command's own not counted")

RedirectNotify = body(
    "delay" / Int32ub * "milliseconds to wait before going there",
    "address" / GreedyBytes * "ASCII: host:port to log in at; empty for the address used last",
)

KickRequest = body("device" / Bytes(16) * "the device of one's own whose session is to end")

DevicesRequest = body(
    "action" / Int8ub * "1 list, 2 remove: end its session and forget its cursors",
    "device" / Bytes(16) * "the device to remove; zeros for a list",
)
DeviceRow = body(
    "device" / Bytes(16) * "its id",
    "session" / Int64ub * "the number of its newest session",
    "online" / Int8ub * "1 if that session is live",
    "last_login" / Int64ub * "milliseconds since 1970",
    "label" / GreedyBytes * "its name for people, as its login gave it: not always UTF-8",
)
DevicesResponse = body("devices" / rows(DeviceRow) * "the user's devices, none on a removal")

DisconnectNotify = body(
    "code" / Int16ub * "why; see the table of disconnect codes",
    "come_back" / Int8ub * "1 if the client should reconnect by itself, else 0; 0 from a client",
    "retry_after" / Int32ub * "milliseconds to wait first; 0 leaves it to the client's backoff; 0 from a client",
    "reason" / GreedyBytes * "UTF-8, for people",
)

MessageRequest = body(
    "client_id" / Bytes(16) * "UUIDv7 by the server's time: the message's identity for this user; a repeat carries the same",
    "conversation" / Int64ub * "where to, or 0 to address a user",
    "content_type" / Int8ub * "1 text, 2 JSON, 3 binary, 4 reference",
    "life" / Int32ub * "seconds for which it may be seen after it was accepted; 0 for ever",
    sized("target", "the user to send to; empty if a conversation is named"),
    "content" / GreedyBytes * "the content, opaque to the server",
)
MessageResponse = body(
    "conversation" / Int64ub * "the conversation, to be used from now on",
    "seq" / Int64ub * "the message's place in it: 1, 2, 3, … without gaps",
    "time" / Int64ub * "when it was accepted: milliseconds since 1970",
)
MessageNotify = body(
    "conversation" / Int64ub * "the conversation",
    "seq" / Int64ub * "the row's place in it",
    "time" / Int64ub * "when it was accepted: milliseconds since 1970",
    "device" / Bytes(16) * "the device that sent it",
    "client_id" / Bytes(16) * "the id that the sender gave it",
    "row_type" / Int8ub * "0 message, 1 tombstone",
    "content_type" / Int8ub * "1 text, 2 JSON, 3 binary, 4 reference",
    "life" / Int32ub * "seconds after its time for which it may be seen; 0 for ever",
    sized("sender", "the user who sent it, set by the server"),
    "content" / GreedyBytes * "the content",
)

ReceiptRequest = body(
    "conversation" / Int64ub * "the conversation",
    "seq" / Int64ub * "every row up to this one",
    "type" / Int8ub * "1 delivered, 2 read",
)
ReceiptNotify = body(
    "conversation" / Int64ub * "the conversation",
    "seq" / Int64ub * "every row up to this one",
    "type" / Int8ub * "1 delivered, 2 read",
    "user" / GreedyBytes * "whose receipt it is",
)

SyncRequest = body(
    "since" / Int64ub * "the position of an earlier sync's end; 0 for everything",
    "after" / Int64ub * "the last conversation of the page before; 0 for the first page",
    "limit" / Int16ub * "rows wanted, at most 1000; 0 for as many as the server gives",
    "scope" / Int8ub * "0 conversations changed since then, 1 only those in which this device is behind",
)
SyncRow = body(
    "conversation" / Int64ub * "the conversation",
    "kind" / Int8ub * "1 direct, 2 group, 3 system",
    "head" / Int64ub * "the newest seq, one's own rows included",
    "floor" / Int64ub * "rows up to this seq are gone",
    "cursor" / Int64ub * "up to where this device has acknowledged delivery",
    "delivered" / Int64ub * "the user's furthest delivered seq, over all devices",
    "read" / Int64ub * "the user's read seq",
    "peer_delivered" / Int64ub * "in a direct conversation, the other member's delivered seq; with oneself, one's own",
    "peer_read" / Int64ub * "in a direct conversation, the other member's read seq; with oneself, one's own",
    "peer" / GreedyBytes * "the other member's uid (with oneself, one's own), or the group's name",
)
SyncResponse = body(
    "position" / Int64ub * "what to give as `since` when this sync has been read to its end: the first page's counts",
    "more" / Int8ub * "1 if there is another page",
    "conversations" / rows(SyncRow) * "by rising conversation id",
)

HistoryRequest = body(
    "conversation" / Int64ub * "the conversation",
    "first" / Int64ub * "lowest seq wanted",
    "last" / Int64ub * "highest seq wanted; may be above the head",
    "limit" / Int16ub * "rows wanted, at most 1000; 0 for as many as the server gives",
    "direction" / Int8ub * "0 fill from the first up, 1 fill from the last down",
)
HistoryResponse = body(
    "first" / Int64ub * "the answer covers the rows from this seq",
    "last" / Int64ub * "to this one, with nothing left out; anything below `first` if it covers nothing",
    "head" / Int64ub * "the newest seq",
    "floor" / Int64ub * "rows up to this seq are gone: asked-for seqs at or below it will never come",
    "messages" / rows(MessageNotify) * "by rising seq, each the body of a message notify",
)

SignalRequest = body(
    "conversation" / Int64ub * "where to, or 0 to address a user",
    "type" / Int8ub * "1 typing, 2 ringing, 3 custom",
    "lifetime" / Int32ub * "milliseconds for which it means something; more than the server allows is cut to that",
    sized("target", "the user to signal; empty if a conversation is named"),
    "content" / GreedyBytes * "opaque, short",
)
SignalNotify = body(
    "conversation" / Int64ub * "the conversation; 0 on a signal that addressed a user",
    "head" / Int64ub * "its newest seq when the signal passed, or 0: a higher one makes the signal old",
    "expires" / Int64ub * "milliseconds since 1970 by the server's clock",
    "type" / Int8ub * "1 typing, 2 ringing, 3 custom",
    "device" / Bytes(16) * "the device that sent it",
    sized("sender", "the user who sent it"),
    "content" / GreedyBytes * "opaque",
)

# Links: what nodes and route servers say to each other. A client's port knows none of it.

LINK_VERSION = 1  #: of what follows; all of a cluster speak the same
MAX_NODE = 64  #: bytes of UTF-8 in a node's name
PROOF_SIZE = 32  #: bytes of an HMAC-SHA256
LINKS = range(Command.LINK, Command.LINK + 0xFF)  #: the family

LinkRequest = body(
    "version" / Int16ub * "of the cluster protocol: 1",
    "role" / Int8ub * "1 node, 2 route server",
    "boot" / Bytes(16) * "tells this run of the node from others",
    "time" / Int64ub * "its clock: milliseconds since 1970, UTC",
    "nonce" / Bytes(16) * "random, never used again",
    "name" / GreedyBytes * "UTF-8: the node's name, at most 64 bytes",
)
LinkResponse = body(
    "version" / Int16ub * "of the cluster protocol: 1",
    "role" / Int8ub * "1 node, 2 route server",
    "boot" / Bytes(16) * "tells this run of the node from others",
    "time" / Int64ub * "its clock: milliseconds since 1970, UTC",
    "nonce" / Bytes(16) * "random, never used again",
    sized("proof", "32 bytes: that it knows the secret"),
    "name" / GreedyBytes * "UTF-8: the node's name, at most 64 bytes",
)
ProofRequest = body("proof" / GreedyBytes * "32 bytes: that this side knows the secret, too")

AttachmentRow = body(
    "device" / Bytes(16) * "the session's device",
    "session" / Int64ub * "its number",
    "user" / GreedyBytes * "its user: the tenant, a zero, the uid",
)
AttachRequest = body(
    "whole" / Int8ub * "1 if these, and what follows, take the place of all that was said before; else 0",
    "sessions" / rows(AttachmentRow) * "who is on the node that says so",
)
DetachNotify = body("sessions" / rows(AttachmentRow) * "who is there no more: these sessions, and no others of their devices")
ForwardRow = body(
    "users" / Int16ub * "how many users it is for, all of one tenant",
    "envelope" / GreedyBytes * "so many users, each behind its size (u16); then one notify as clients get it, header included",
)
ForwardNotify = body("envelopes" / rows(ForwardRow) * "notifies for sessions elsewhere, in their order")
NodeRow = body(
    "boot" / Bytes(16) * "of its run",
    "heard" / Int8ub * "1 if what it sends comes to the receiver by this route server: it has acknowledged that it reaches it",
    "name" / GreedyBytes * "UTF-8: the node's name",
)
NodesRequest = body("nodes" / rows(NodeRow) * "all other nodes that the route server reaches: they can be sent to by it")

#: (kind, command) → (body, who may send it: "client", "server", "both", or "node" on a link; the sentence of the specification)
FRAMES: dict[tuple[Kind, Command], tuple[Struct, str, str]] = {
    (Kind.REQUEST, Command.HELLO): (HelloRequest, "client", "The first frame of a connection."),
    (Kind.RESPONSE, Command.HELLO): (HelloResponse, "server", "What both sides will keep to."),
    (Kind.REQUEST, Command.LOGIN): (LoginRequest, "client", "Logs one device of one user in."),
    (Kind.RESPONSE, Command.LOGIN): (LoginResponse, "server", "The session is live: notifies may follow at once."),
    (Kind.REQUEST, Command.LOGOUT): (Empty, "client", "Ends the session. The connection is closed after the response."),
    (Kind.RESPONSE, Command.LOGOUT): (Empty, "server", "The session has ended."),
    (Kind.REQUEST, Command.PING): (Empty, "both", "Asks whether the other side is there. May also come before login."),
    (Kind.RESPONSE, Command.PING): (PingResponse, "both", "It is. A client answers with its own clock."),
    (Kind.NOTIFY, Command.WINDOW): (WindowNotify, "client", "Acknowledges notifies, so that the server may send more."),
    (Kind.NOTIFY, Command.REDIRECT): (RedirectNotify, "server", "Go to another address; the connection is closed after this."),
    (Kind.REQUEST, Command.KICK): (KickRequest, "client", "Ends the session of another device of one's own."),
    (Kind.RESPONSE, Command.KICK): (Empty, "server", "It has ended, or there was none."),
    (Kind.REQUEST, Command.DEVICES): (DevicesRequest, "client", "Lists or removes one's own devices."),
    (Kind.RESPONSE, Command.DEVICES): (DevicesResponse, "server", "The devices."),
    (Kind.NOTIFY, Command.DISCONNECT): (DisconnectNotify, "both", "The last frame of a connection: why it ends."),
    (Kind.REQUEST, Command.MESSAGE): (MessageRequest, "client", "Packet 1 of 6: a message."),
    (Kind.RESPONSE, Command.MESSAGE): (MessageResponse, "server", "Packet 2 of 6: accepted; the store has it."),
    (Kind.NOTIFY, Command.MESSAGE): (MessageNotify, "server", "Packet 3 of 6: the message, to all the members' devices but its own."),
    (Kind.REQUEST, Command.RECEIPT): (ReceiptRequest, "client", "Packet 4 of 6: delivered to this device, or read by this user."),
    (Kind.RESPONSE, Command.RECEIPT): (Empty, "server", "Packet 5 of 6: the receipt is kept."),
    (Kind.NOTIFY, Command.RECEIPT): (ReceiptNotify, "server", "Packet 6 of 6: to the sender's devices; a read to the reader's too."),
    (Kind.REQUEST, Command.SYNC): (SyncRequest, "client", "Which conversations have changed? A session that was behind is live again."),
    (Kind.RESPONSE, Command.SYNC): (SyncResponse, "server", "One page of conversations."),
    (Kind.NOTIFY, Command.SYNC): (Empty, "server", "You are behind: notifies have been left out. Read on, and sync."),
    (Kind.REQUEST, Command.HISTORY): (HistoryRequest, "client", "Asks for a range of a conversation."),
    (Kind.RESPONSE, Command.HISTORY): (HistoryResponse, "server", "The range, or the part of it that fits."),
    (Kind.REQUEST, Command.SIGNAL): (SignalRequest, "client", "Something that matters only now, such as typing."),
    (Kind.RESPONSE, Command.SIGNAL): (Empty, "server", "It was passed on to whoever is there."),
    (Kind.NOTIFY, Command.SIGNAL): (SignalNotify, "server", "A signal. Drop it when it has expired."),
    (Kind.REQUEST, Command.LINK): (LinkRequest, "node", "Stands where a client has LOGIN: the side that connected says who it is."),
    (Kind.RESPONSE, Command.LINK): (LinkResponse, "node", "So does the other, and proves it."),
    (Kind.REQUEST, Command.PROOF): (ProofRequest, "node", "The side that connected proves it, too."),
    (Kind.RESPONSE, Command.PROOF): (Empty, "node", "The link is up."),
    (Kind.REQUEST, Command.ATTACH): (AttachRequest, "node", "Sessions that have come."),
    (Kind.RESPONSE, Command.ATTACH): (Empty, "node", "From now on what is for them is sent here."),
    (Kind.NOTIFY, Command.DETACH): (DetachNotify, "node", "Sessions that have gone."),
    (Kind.NOTIFY, Command.FORWARD): (ForwardNotify, "node", "Notifies for sessions elsewhere: those of one turn, or as many as fit."),
    (Kind.REQUEST, Command.NODES): (NodesRequest, "node", "Whom a route server reaches."),
    (Kind.RESPONSE, Command.NODES): (Empty, "node", "So noted."),
}
