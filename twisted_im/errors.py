"""Every way that this protocol can fail, with its code and what to do about it.

Strategy: one exception, `ImError`, carries what the wire says of an error: a code, a reason for people, and whether trying again
can help. Its two children say whose mistake it was (the split that h11 made popular): `LocalProtocolError` for the caller's,
`RemoteProtocolError` for the peer's. Both tables below are the only list of codes; the documentation is generated from them.

`Status` travels in a response's header and leaves the connection alive. `Disconnect` travels in the last frame of a connection.
"""

from __future__ import annotations

from enum import IntEnum


class Status(IntEnum):
    """The status of a response; anything but OK comes with an `Error` body. See `STATUS_HELP`."""

    OK = 0
    BAD_BODY = 1
    BAD_VALUE = 2
    UNKNOWN_COMMAND = 3
    NOT_AUTHENTICATED = 4
    NO_SUCH = 5
    CONFLICT = 6
    STALE_ID = 7
    TOO_LARGE = 8
    UNSUPPORTED = 9
    BUSY = 10
    UNAVAILABLE = 11


#: status → (can the same request succeed later?, meaning, what a client does)
STATUS_HELP: dict[Status, tuple[bool, str, str]] = {
    Status.OK: (False, "done", "go on"),
    Status.BAD_BODY: (False, "the body does not have the shape that its command declares", "mend the client"),
    Status.BAD_VALUE: (False, "a field holds a value that is not allowed there", "mend the client, or ask the user"),
    Status.UNKNOWN_COMMAND: (False, "the server does not know this command", "do without it"),
    Status.NOT_AUTHENTICATED: (False, "no such user, or the wrong secret", "ask the user for another secret"),
    Status.NO_SUCH: (False, "no such user, conversation or device, or none that you may see", "drop the request"),
    Status.CONFLICT: (False, "this client id was used for another message; for a receipt: the device has a newer session",
                      "mend the client: one id, one message; one session, one connection"),
    Status.STALE_ID: (False, "this client id's time is outside the window in which repeats are known",
                      "look whether the message is in the history; if not, send it under a new id"),
    Status.TOO_LARGE: (False, "the content is larger than the server takes", "make it smaller"),
    Status.UNSUPPORTED: (False, "a version, login method or content type that this server does not offer", "choose another"),
    Status.BUSY: (True, "the server is at its bound and has kept nothing of this request",
                  "reconnect after the delay, and resend in order"),
    Status.UNAVAILABLE: (True, "the store cannot be reached; nothing was kept", "reconnect after the delay, and resend in order"),
}


class Disconnect(IntEnum):
    """Why a connection ends. See `DISCONNECT_HELP`."""

    NORMAL = 1
    MALFORMED = 2
    VERSION = 3
    TOO_LARGE = 4
    UNEXPECTED = 5
    WINDOW_EXCEEDED = 6
    ACK_ABOVE_SENT = 7
    HANDSHAKE_TIMEOUT = 8
    LOGIN_TIMEOUT = 9
    FRAME_TIMEOUT = 10
    HEARTBEAT_TIMEOUT = 11
    UNRESPONSIVE = 12
    LOGIN_FAILED = 13
    TAKEN_OVER = 14
    KICKED = 15
    FULL = 16
    SHUTTING_DOWN = 17
    STORE_FAILED = 18
    INTERNAL = 19
    LINK_REFUSED = 20


#: code → (should the client come back by itself?, meaning)
DISCONNECT_HELP: dict[Disconnect, tuple[bool, str]] = {
    Disconnect.NORMAL: (False, "the client closes, and nothing is wrong"),
    Disconnect.MALFORMED: (False, "bytes that are no frame, or a frame of a shape that ends the connection"),
    Disconnect.VERSION: (False, "no protocol version in common"),
    Disconnect.TOO_LARGE: (False, "a body longer than the agreed cap (before login: than the cap for strangers)"),
    Disconnect.UNEXPECTED: (False, "a frame that may not come in this state, such as a request before login"),
    Disconnect.WINDOW_EXCEEDED: (False, "more requests in flight than the server's window"),
    Disconnect.ACK_ABOVE_SENT: (False, "a window count above the number of notifies sent"),
    Disconnect.HANDSHAKE_TIMEOUT: (True, "no hello in time"),
    Disconnect.LOGIN_TIMEOUT: (True, "no successful login in time"),
    Disconnect.FRAME_TIMEOUT: (True, "a frame was begun and not ended in time"),
    Disconnect.HEARTBEAT_TIMEOUT: (True, "nothing heard for a heartbeat and its grace"),
    Disconnect.UNRESPONSIVE: (True, "notifies were not acknowledged, and a ping was not answered"),
    Disconnect.LOGIN_FAILED: (False, "too many failed logins on this connection"),
    Disconnect.TAKEN_OVER: (False, "the same device has logged in again, elsewhere or here"),
    Disconnect.KICKED: (False, "another device of the user ended this session or removed this device"),
    Disconnect.FULL: (True, "the server holds as many connections as it can"),
    Disconnect.SHUTTING_DOWN: (True, "the server is going down, or being replaced"),
    Disconnect.STORE_FAILED: (True, "the store failed; what was not accepted is to be sent again"),
    Disconnect.INTERNAL: (True, "the server met a fault of its own; its log has it"),
    Disconnect.LINK_REFUSED: (False, "between nodes only: this one may not link here, or not any more; the reason says why"),
}


class ImError(Exception):
    """Something that this protocol has a code for.

    Args:
        code: a `Status` (the connection lives) or a `Disconnect` (it ends).
        reason: one sentence for people; never holds secrets or message bodies.
        retry_after: milliseconds after which trying again is sensible; 0 leaves it to the other side's backoff.
    """

    def __init__(self, code: Status | Disconnect, reason: str = "", retry_after: int = 0) -> None:
        super().__init__(code, reason)
        self.code = code
        self.retry_after = retry_after
        self.reason = reason or (STATUS_HELP[code][1] if isinstance(code, Status) else DISCONNECT_HELP[code][1])

    @property
    def temporary(self) -> bool:
        """Whether the same thing, tried again later, can succeed."""
        return STATUS_HELP[self.code][0] if isinstance(self.code, Status) else DISCONNECT_HELP[self.code][0]

    def __str__(self) -> str:
        return f"{self.code.name}: {self.reason}"


class LocalProtocolError(ImError):
    """The caller asked for something that the protocol does not allow here; nothing was sent."""


class RemoteProtocolError(ImError):
    """The peer broke the protocol, or refused what was asked."""
