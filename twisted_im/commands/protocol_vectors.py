"""The examples behind docs/vectors.json: one small story told in frames, the edges of each shape, and bytes that are refused.

Strategy: an example is written once, as the values of a body; its bytes come from the codec, and the specification's annotated hex is drawn
from the same bytes. What is refused is written by hand together with the answer it gets, since an answer that was computed would prove
nothing; the tests put it to a real node.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from twisted_im.core.connection import State
from twisted_im.errors import Disconnect, ImError, Status
from twisted_im.wire.codec import CODECS, HEADER, frame, refusal, tag
from twisted_im.wire.schema import (
    DEFAULT_MAX_BODY,
    MAX_LABEL,
    MAX_SECRET,
    MAX_TENANT,
    MAX_U64,
    MAX_UID,
    PROOF_SIZE,
    STRANGER_MAX_BODY,
    Command,
    ContentType,
    ConversationKind,
    DevicesAction,
    Direction,
    Kind,
    LoginMethod,
    ReceiptType,
    Role,
    RowType,
    SignalType,
    SyncScope,
)

REQUEST, RESPONSE, NOTIFY = Kind.REQUEST, Kind.RESPONSE, Kind.NOTIFY

#: 2026-01-01 00:00:00 UTC, in milliseconds. Real ids are random; these are made so that an eye finds them in hex.
TIME = 1_767_225_600_000
ALICES_PHONE, ALICES_TABLET, BOBS_PHONE = b"\xa1" * 16, b"\xa2" * 16, b"\xb0" * 16
EPOCH = b"\xe0" * 16
TOKEN = bytes(range(0x40, 0x60))
CLIENT_ID = TIME.to_bytes(6, "big") + bytes.fromhex("7c0f9ee1f00d12345678")
CONVERSATION = 12


class Example(NamedTuple):
    """One frame that is in order."""

    name: str
    about: str
    kind: Kind
    command: Command
    request_id: int
    values: dict[str, Any]
    flags: int = 0

    @property
    def frame(self) -> bytes:
        """The whole frame."""
        body = CODECS[self.kind, self.command].write(**self.values)
        return HEADER.pack(len(body), tag(self.kind, self.command), self.request_id, self.flags << 16) + body


class Refused(NamedTuple):
    """Bytes that are not in order, and what becomes of them."""

    name: str
    about: str
    state: State  #: of the connection that they come to
    data: bytes
    answer: Status | Disconnect | str  #: a string: what happens where nothing is answered at once


HELLO = {"min_version": 1, "max_version": 1, "features": 0, "max_body": 0, "heartbeat": 0, "window": 0, "agent": b"example 1.0"}
LOGIN = {
    "method": LoginMethod.PASSWORD, "device": ALICES_PHONE, "tenant": b"", "uid": b"alice", "label": b"phone", "secret": b"correct horse",
}  # fmt: skip
MESSAGE = {
    "client_id": CLIENT_ID, "conversation": 0, "content_type": ContentType.TEXT, "life": 0, "target": b"bob", "content": b"Hello, Bob",
}  # fmt: skip
ROW = {
    "conversation": CONVERSATION, "seq": 1, "time": TIME + 2000, "device": ALICES_PHONE, "client_id": CLIENT_ID,
    "row_type": RowType.MESSAGE, "content_type": ContentType.TEXT, "life": 0, "sender": b"alice", "content": b"Hello, Bob",
}  # fmt: skip
TOMBSTONE = ROW | {"seq": 2, "row_type": RowType.TOMBSTONE, "content": b""}
SYNC_ROW = {
    "conversation": CONVERSATION, "kind": ConversationKind.DIRECT, "head": 2, "floor": 0, "cursor": 1, "delivered": 1, "read": 0,
    "peer_delivered": 2, "peer_read": 2, "peer": b"alice",
}  # fmt: skip
SIGNAL = {"conversation": CONVERSATION, "type": SignalType.TYPING, "lifetime": 5000, "target": b"", "content": b""}
ACCEPTED = {"conversation": CONVERSATION, "seq": 1, "time": TIME + 2000}
DELIVERED = {"conversation": CONVERSATION, "seq": 1, "type": ReceiptType.DELIVERED}
HISTORY = {"conversation": CONVERSATION, "first": 1, "last": 2, "limit": 0, "direction": Direction.FORWARD}
SYNC = {"since": 0, "after": 0, "limit": 0, "scope": SyncScope.CHANGED}

#: Alice's phone logs in and writes to Bob, whose phone shows it; each frame from the phone of the one who sends or gets it.
STORY = [
    Example("hello-request", "Alice's phone greets, without wishes", REQUEST, Command.HELLO, 1, HELLO),
    Example(
        "hello-response", "the server's terms", RESPONSE, Command.HELLO, 1,
        {"version": 1, "features": 0, "max_body": 65536, "heartbeat": 300, "window": 64, "requests": 64, "time": TIME, "node": b"node"},
    ),
    Example("login-request", "alice, of the default tenant, by password", REQUEST, Command.LOGIN, 2, LOGIN),
    Example("login-response", "she is in", RESPONSE, Command.LOGIN, 2, {"session": 7, "epoch": EPOCH, "horizon": 3600, "resume": TOKEN}),
    Example("sync-request", "what is there?", REQUEST, Command.SYNC, 3, SYNC),
    Example("sync-response-empty", "nothing yet", RESPONSE, Command.SYNC, 3, {"position": 40, "more": 0, "conversations": []}),
    Example("message-request", "packet 1: Alice writes to Bob", REQUEST, Command.MESSAGE, 4, MESSAGE),
    Example("message-response", "packet 2: accepted, as the first row of conversation 12", RESPONSE, Command.MESSAGE, 4, ACCEPTED),
    Example("message-notify", "packet 3: what Bob's phone gets", NOTIFY, Command.MESSAGE, 0, ROW),
    Example("receipt-request", "packet 4: Bob's phone has it", REQUEST, Command.RECEIPT, 9, DELIVERED),
    Example("receipt-response", "packet 5: so noted", RESPONSE, Command.RECEIPT, 9, {}),
    Example("receipt-notify", "packet 6: what Alice's phone gets", NOTIFY, Command.RECEIPT, 0, DELIVERED | {"user": b"bob"}),
    Example("window-notify", "Alice's phone has got one notify so far", NOTIFY, Command.WINDOW, 0, {"count": 1}),
]  # fmt: skip

#: Every other frame, and the edges of shapes.
OTHERS = [
    Example("ping-request", "are you there?", REQUEST, Command.PING, 5, {}),
    Example("ping-response", "yes, and this is the time", RESPONSE, Command.PING, 5, {"time": TIME + 9000}),
    Example("ping-request-flags", "all flags set: they are ignored", REQUEST, Command.PING, 2**32 - 1, {}, flags=0xFFFF),
    Example("logout-request", "goodbye", REQUEST, Command.LOGOUT, 6, {}),
    Example("logout-response", "and the connection ends", RESPONSE, Command.LOGOUT, 6, {}),
    Example("redirect-notify", "come back at another address in two seconds", NOTIFY, Command.REDIRECT, 0,
            {"delay": 2000, "address": b"im2.example.org:7778"}),
    Example("redirect-notify-same", "come back at the same address, at once", NOTIFY, Command.REDIRECT, 0, {"delay": 0, "address": b""}),
    Example("kick-request", "end the tablet's session", REQUEST, Command.KICK, 7, {"device": ALICES_TABLET}),
    Example("kick-response", "done", RESPONSE, Command.KICK, 7, {}),
    Example("devices-request-list", "which devices have I?", REQUEST, Command.DEVICES, 8,
            {"action": DevicesAction.LIST, "device": bytes(16)}),
    Example("devices-response", "two rows, one with an empty label", RESPONSE, Command.DEVICES, 8, {"devices": [
        {"device": ALICES_PHONE, "session": 7, "online": 1, "last_login": TIME, "label": b"phone"},
        {"device": ALICES_TABLET, "session": 3, "online": 0, "last_login": TIME - 86_400_000, "label": b""},
    ]}),
    Example("devices-request-remove", "forget the tablet", REQUEST, Command.DEVICES, 9,
            {"action": DevicesAction.REMOVE, "device": ALICES_TABLET}),
    Example("devices-response-empty", "forgotten: no rows", RESPONSE, Command.DEVICES, 9, {"devices": []}),
    Example("disconnect-notify", "the server goes down for a while", NOTIFY, Command.DISCONNECT, 0,
            {"code": Disconnect.SHUTTING_DOWN, "come_back": 1, "retry_after": 1000, "reason": b"the server is going down"}),
    Example("sync-notify", "you are behind", NOTIFY, Command.SYNC, 0, {}),
    Example("sync-request-behind", "the second page of what this device has not got", REQUEST, Command.SYNC, 10,
            {"since": 41, "after": CONVERSATION, "limit": 100, "scope": SyncScope.BEHIND}),
    Example("sync-response", "a direct conversation and a group, and there is more", RESPONSE, Command.SYNC, 10,
            {"position": 44, "more": 1, "conversations": [
                SYNC_ROW,
                SYNC_ROW | {"conversation": 13, "kind": ConversationKind.GROUP, "head": 900, "floor": 500, "peer_delivered": 0,
                            "peer_read": 0, "peer": "Café".encode()},
            ]}),
    Example("history-request", "rows 1 and 2", REQUEST, Command.HISTORY, 11, HISTORY),
    Example("history-response", "a message and a tombstone", RESPONSE, Command.HISTORY, 11,
            {"first": 1, "last": 2, "head": 2, "floor": 0, "messages": [ROW, TOMBSTONE]}),
    Example("history-request-backward", "the newest twenty, for a person who scrolls up", REQUEST, Command.HISTORY, 12,
            {"conversation": CONVERSATION, "first": 1, "last": MAX_U64, "limit": 20, "direction": Direction.BACKWARD}),
    Example("history-response-empty", "it covers nothing: there is no row 3 yet", RESPONSE, Command.HISTORY, 12,
            {"first": 3, "last": 2, "head": 2, "floor": 0, "messages": []}),
    Example("history-response-gone", "it covers rows 1 to 100, and all of them are gone", RESPONSE, Command.HISTORY, 12,
            {"first": 1, "last": 100, "head": 900, "floor": 500, "messages": []}),
    Example("receipt-request-read", "read up to row 2", REQUEST, Command.RECEIPT, 13,
            {"conversation": CONVERSATION, "seq": 2, "type": ReceiptType.READ}),
    Example("signal-request", "typing, for the next five seconds", REQUEST, Command.SIGNAL, 14, SIGNAL),
    Example("signal-request-user", "ringing, to a user", REQUEST, Command.SIGNAL, 15,
            {"conversation": 0, "type": SignalType.RINGING, "lifetime": 30_000, "target": b"bob", "content": b"\x00\x01"}),
    Example("signal-response", "passed on", RESPONSE, Command.SIGNAL, 14, {}),
    Example("signal-notify", "somebody is typing", NOTIFY, Command.SIGNAL, 0,
            {"conversation": CONVERSATION, "head": 2, "expires": TIME + 14_000, "type": SignalType.TYPING, "device": BOBS_PHONE,
             "sender": b"bob", "content": b""}),
    Example("message-request-conversation", "to a conversation, as JSON", REQUEST, Command.MESSAGE, 16,
            MESSAGE | {"conversation": CONVERSATION, "target": b"", "content_type": ContentType.JSON, "content": b'{"a":1}'}),
    Example("message-request-empty", "no content at all is a content", REQUEST, Command.MESSAGE, 17, MESSAGE | {"content": b""}),
    Example("message-notify-utf8", "the longest uid, of two-byte letters, and a content of four-byte ones", NOTIFY, Command.MESSAGE, 0,
            ROW | {"sender": "é".encode() * (MAX_UID // 2), "content": "🦀🦀".encode()}),
    Example("message-response-highest", "the highest numbers there are", RESPONSE, Command.MESSAGE, 2**32 - 1,
            {"conversation": MAX_U64, "seq": MAX_U64, "time": MAX_U64}),
    Example("login-request-longest", "every string as long as it may be", REQUEST, Command.LOGIN, 18,
            {"method": LoginMethod.TOKEN, "device": b"\xff" * 16, "tenant": b"t" * MAX_TENANT, "uid": b"u" * MAX_UID,
             "label": b"l" * MAX_LABEL, "secret": b"s" * MAX_SECRET}),
    Example("login-request-anonymous", "no tenant, no label, no secret", REQUEST, Command.LOGIN, 19,
            {"method": LoginMethod.ANONYMOUS, "device": BOBS_PHONE, "tenant": b"", "uid": b"b", "label": b"", "secret": b""}),
    Example("login-request-resume", "the next time, without a password", REQUEST, Command.LOGIN, 20,
            LOGIN | {"method": LoginMethod.RESUME, "secret": TOKEN}),
    Example("login-response-no-resume", "from a server that gives no resume tokens", RESPONSE, Command.LOGIN, 20,
            {"session": 8, "epoch": EPOCH, "horizon": 3600, "resume": b""}),
    Example("hello-request-wishes", "a client with wishes and no name", REQUEST, Command.HELLO, 0,
            {"min_version": 1, "max_version": 3, "features": 0, "max_body": 1_048_576, "heartbeat": 60, "window": 8, "agent": b""}),
]  # fmt: skip

IN_ORDER = STORY + OTHERS

BOOT = b"\xb1" * 16
WHO = {"version": 1, "role": Role.PEER, "boot": BOOT, "time": TIME, "nonce": b"\x0a" * 16, "name": b"im-1"}
ATTACHED = {"device": BOBS_PHONE, "session": 7, "user": b"\0bob"}

#: Clients never send these, and never get them. The proofs are made up; real ones are of the secret.
BETWEEN_NODES = [
    Example("link-request", "a node that has connected", REQUEST, Command.LINK, 2, WHO),
    Example("link-response", "a route server, which proves itself", RESPONSE, Command.LINK, 2,
            WHO | {"role": Role.ROUTE, "name": b"route-1", "nonce": b"\x0b" * 16, "proof": b"\x0c" * PROOF_SIZE}),
    Example("proof-request", "so does the node", REQUEST, Command.PROOF, 3, {"proof": b"\x0d" * PROOF_SIZE}),
    Example("proof-response", "the link is up", RESPONSE, Command.PROOF, 3, {}),
    Example("attach-request", "all that are there: one session", REQUEST, Command.ATTACH, 4, {"whole": 1, "sessions": [ATTACHED]}),
    Example("attach-response", "so noted", RESPONSE, Command.ATTACH, 4, {}),
    Example("detach-notify", "it has gone", NOTIFY, Command.DETACH, 0, {"sessions": [ATTACHED]}),
    Example("forward-notify", "a message notify for two users", NOTIFY, Command.FORWARD, 0, {"envelopes": [
        {"users": 2, "envelope": b"\0\4\0bob\0\6\0carol" + next(e.frame for e in STORY if e.name == "message-notify")},
    ]}),
    Example("nodes-request", "two nodes, one of them silent for a while", REQUEST, Command.NODES, 5, {"nodes": [
        {"boot": BOOT, "heard": 1, "name": b"im-1"}, {"boot": b"\xb2" * 16, "heard": 0, "name": b"im-2"},
    ]}),
    Example("nodes-response", "so noted", RESPONSE, Command.NODES, 5, {}),
]  # fmt: skip


def errors() -> list[tuple[str, Status, bytes]]:
    """(name, status, frame) of an error response for each status."""
    waits = {Status.BUSY: 1000, Status.UNAVAILABLE: 2000}
    found = []
    for status in set(Status) - {Status.OK}:
        error = ImError(status, retry_after=waits.get(status, 0))
        found.append((f"error-{status.name.lower().replace('_', '-')}", status, refusal(Command.MESSAGE, 20, error)))
    return sorted(found, key=lambda each: each[1])


def _request(command: Command, base: dict[str, Any], **changes: Any) -> bytes:
    return frame(REQUEST, command, CODECS[REQUEST, command].write(**base | changes), 21)


def _cut(command: Command, base: dict[str, Any], size: int) -> bytes:
    """A request with a body that ends early, or, with zeros, late."""
    body = CODECS[REQUEST, command].write(**base)
    return frame(REQUEST, command, body[:size] + bytes(max(size - len(body), 0)), 21)


_START, _GREETED, _OPEN = State.START, State.GREETED, State.OPEN
_IGNORED = "passed over"

REFUSED = [
    # judged by the header alone
    Refused("garbage", "another protocol", _START, b"GET / HTTP/1.1\r\n\r\n", Disconnect.MALFORMED),
    Refused("kind-3", "a kind that does not exist", _START, HEADER.pack(0, tag(REQUEST, Command.HELLO) | 3 << 16, 1, 0),
            Disconnect.MALFORMED),
    Refused("length-highest", "a length of 2³²−1: judged before anything is kept", _START,
            HEADER.pack(2**32 - 1, tag(REQUEST, Command.HELLO), 1, 0), Disconnect.TOO_LARGE),
    Refused("length-before-login", "one byte over the cap for strangers", _GREETED,
            HEADER.pack(STRANGER_MAX_BODY + 1, tag(REQUEST, Command.LOGIN), 1, 0), Disconnect.TOO_LARGE),
    Refused("length-after-login", "one byte over the agreed cap", _OPEN,
            HEADER.pack(DEFAULT_MAX_BODY + 1, tag(REQUEST, Command.MESSAGE), 1, 0), Disconnect.TOO_LARGE),
    Refused("version-2", "a header of another version", _START, HEADER.pack(0, tag(REQUEST, Command.HELLO, version=2), 1, 0),
            Disconnect.VERSION),
    Refused("half-a-header", "eight bytes, and then silence", _START, HEADER.pack(0, tag(REQUEST, Command.HELLO), 1, 0)[:8],
            "waits for the rest until its deadline"),
    # judged by the state
    Refused("request-before-hello", "a message to begin with", _START, _request(Command.MESSAGE, MESSAGE), Disconnect.UNEXPECTED),
    Refused("request-before-login", "a message by a stranger", _GREETED, _request(Command.MESSAGE, MESSAGE), Disconnect.UNEXPECTED),
    Refused("hello-twice", "a second hello", _GREETED, _request(Command.HELLO, HELLO), Disconnect.UNEXPECTED),
    Refused("unknown-before-login", "an unknown command by a stranger", _GREETED, frame(REQUEST, 0x7F01, b"?", 21), Disconnect.UNEXPECTED),
    Refused("link-before-login", "a node that has taken a client's port for one of its own", _GREETED,
            frame(REQUEST, Command.LINK, CODECS[REQUEST, Command.LINK].write(**WHO), 21), Disconnect.UNEXPECTED),
    Refused("link-by-a-client", "a command of nodes on a client's connection", _OPEN,
            frame(REQUEST, Command.LINK, CODECS[REQUEST, Command.LINK].write(**WHO), 21), Status.UNKNOWN_COMMAND),
    Refused("unknown-request", "an unknown command", _OPEN, frame(REQUEST, 0x7F01, b"?", 21), Status.UNKNOWN_COMMAND),
    Refused("login-twice", "a login on an open connection: no command there", _OPEN, _request(Command.LOGIN, LOGIN),
            Status.UNKNOWN_COMMAND),
    Refused("unknown-notify", "an unknown notify", _OPEN, frame(NOTIFY, 0x7F01, b"?"), _IGNORED),
    Refused("response-to-nothing", "an answer that nobody waits for", _OPEN, frame(RESPONSE, Command.MESSAGE, bytes(24), 99),
            Disconnect.UNEXPECTED),
    # judged by the body's shape
    Refused("hello-short", "a hello that ends in its fixed fields", _START, _cut(Command.HELLO, HELLO, 13), Status.BAD_BODY),
    Refused("login-sizes", "a login whose uid runs over the end", _GREETED, _cut(Command.LOGIN, LOGIN, 24), Status.BAD_BODY),
    Refused("message-target", "a message whose target runs over the end", _OPEN, _cut(Command.MESSAGE, MESSAGE, 28), Status.BAD_BODY),
    Refused("receipt-long", "a receipt with a byte too many", _OPEN, _cut(Command.RECEIPT, DELIVERED, 18), Status.BAD_BODY),
    Refused("ping-body", "a ping with a body", _OPEN, frame(REQUEST, Command.PING, b"\0", 21), Status.BAD_BODY),
    Refused("window-short", "a notify of another shape: there is no request to answer", _OPEN, frame(NOTIFY, Command.WINDOW, bytes(7)),
            Disconnect.MALFORMED),
    # judged by what the fields hold
    Refused("hello-versions", "a client of versions 2 to 9", _START, _request(Command.HELLO, HELLO, min_version=2, max_version=9),
            Disconnect.VERSION),
    Refused("hello-small", "a client that takes less than the server may send", _START, _request(Command.HELLO, HELLO, max_body=1024),
            Disconnect.TOO_LARGE),
    Refused("login-utf8", "a uid that is not UTF-8", _GREETED, _request(Command.LOGIN, LOGIN, uid=b"al\xffice"), Status.BAD_VALUE),
    Refused("login-nfc", "a uid that is not in NFC: e and U+0301", _GREETED, _request(Command.LOGIN, LOGIN, uid="rene\u0301".encode()),
            Status.BAD_VALUE),
    Refused("login-control", "a uid with a control character", _GREETED, _request(Command.LOGIN, LOGIN, uid=b"al\0ice"), Status.BAD_VALUE),
    Refused("login-empty", "an empty uid", _GREETED, _request(Command.LOGIN, LOGIN, uid=b""), Status.BAD_VALUE),
    Refused("login-uid-long", "a uid of 65 bytes", _GREETED, _request(Command.LOGIN, LOGIN, uid=b"u" * (MAX_UID + 1)), Status.BAD_VALUE),
    Refused("login-label-long", "a label of 255 bytes", _GREETED, _request(Command.LOGIN, LOGIN, label=b"l" * 255), Status.BAD_VALUE),
    Refused("login-method", "a method that does not exist", _GREETED, _request(Command.LOGIN, LOGIN, method=9), Status.UNSUPPORTED),
    Refused("login-secret", "a wrong password", _GREETED, _request(Command.LOGIN, LOGIN, secret=b"incorrect horse"),
            Status.NOT_AUTHENTICATED),
    Refused("login-resume", "a resume token that the server has not given", _GREETED,
            _request(Command.LOGIN, LOGIN, method=LoginMethod.RESUME, secret=TOKEN), Status.NOT_AUTHENTICATED),
    Refused("window-above", "a count above what was sent", _OPEN, frame(NOTIFY, Command.WINDOW, b"\xff" * 8), Disconnect.ACK_ABOVE_SENT),
    Refused("message-old-id", "a client id from 1970", _OPEN, _request(Command.MESSAGE, MESSAGE, client_id=bytes(6) + CLIENT_ID[6:],
            target=b"alice"),
            Status.STALE_ID),
    Refused("message-type", "a content type that does not exist", _OPEN, _request(Command.MESSAGE, MESSAGE, content_type=9,
            target=b"alice"),
            Status.UNSUPPORTED),
    Refused("message-two-targets", "to a user and to a conversation", _OPEN, _request(Command.MESSAGE, MESSAGE, conversation=1),
            Status.BAD_VALUE),
    Refused("message-no-target", "to neither", _OPEN, _request(Command.MESSAGE, MESSAGE, target=b""), Status.BAD_VALUE),
    Refused("message-nobody", "to a user who does not exist", _OPEN, _request(Command.MESSAGE, MESSAGE, target=b"nobody"), Status.NO_SUCH),
    Refused("receipt-type", "a receipt type that does not exist", _OPEN, _request(Command.RECEIPT, DELIVERED, type=3), Status.BAD_VALUE),
    Refused("receipt-stranger", "a receipt in a conversation that is not one's own", _OPEN,
            _request(Command.RECEIPT, DELIVERED, conversation=2**40), Status.NO_SUCH),
    Refused("sync-scope", "a scope that does not exist", _OPEN, _request(Command.SYNC, SYNC, scope=9), Status.BAD_VALUE),
    Refused("history-zero", "a range from 0", _OPEN, _request(Command.HISTORY, HISTORY, first=0), Status.BAD_VALUE),
    Refused("history-backwards", "a range that ends before it starts", _OPEN, _request(Command.HISTORY, HISTORY, first=3),
            Status.BAD_VALUE),
    Refused("history-direction", "a direction that does not exist", _OPEN, _request(Command.HISTORY, HISTORY, direction=9),
            Status.BAD_VALUE),
    Refused("history-stranger", "a conversation that is not one's own", _OPEN, _request(Command.HISTORY, HISTORY, conversation=2**40),
            Status.NO_SUCH),
    Refused("signal-type", "a signal type that does not exist", _OPEN, _request(Command.SIGNAL, SIGNAL, type=9), Status.BAD_VALUE),
    Refused("devices-action", "an action that does not exist", _OPEN,
            _request(Command.DEVICES, {"action": 9, "device": bytes(16)}), Status.BAD_VALUE),
    Refused("devices-remove-self", "a device that removes itself", _OPEN,
            _request(Command.DEVICES, {"action": DevicesAction.REMOVE, "device": ALICES_PHONE}), Status.BAD_VALUE),
    Refused("devices-remove-none", "a device that does not exist", _OPEN,
            _request(Command.DEVICES, {"action": DevicesAction.REMOVE, "device": b"\x99" * 16}), Status.NO_SUCH),
]  # fmt: skip
