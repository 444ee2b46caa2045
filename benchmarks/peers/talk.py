"""What the load asks of a protocol, and nothing else: how one user opens, writes, and understands what comes.

Strategy: the load counts, and a talk translates. It knows neither sockets nor clocks, so the tests feed it bytes cut at any place. All that
can be computed before the first message is; what is left for each message is one `struct` or one format. Each message has a number (1, 2,
3, … for each sender) at the head of its content; the rest of the content is the same in all, and is compared.
"""

from __future__ import annotations

from typing import Protocol

NUMBER_DIGITS = 10  #: of a message's number where a protocol wants text
MIN_PAYLOAD = 16  #: room for the number


class TalkError(Exception):
    """The server refused something, or said what nobody understands; one line for people."""


class Talk(Protocol):
    """One user's side of a conversation with a server.

    Attributes:
        live: whether the server has taken the login, and will deliver what the partner writes.
        acked: how many of the user's own messages the server has acknowledged; where a protocol has no acknowledgements, all that left.
    """

    live: bool
    acked: int

    def opening(self) -> bytes:
        """What is sent when the connection is there."""

    def feed(self, data: bytes, out: list[bytes]) -> list[int]:
        """Takes bytes as they came.

        Args:
            data: some bytes, cut anywhere.
            out: what has to be sent now is appended here.

        Returns:
            The numbers of the partner's messages that are now complete, in their order.

        Raises:
            TalkError: the server did not play its part.
        """

    def messages(self, first: int, count: int) -> bytes:
        """So many messages to the partner, numbered from `first` on."""


def user_name(index: int) -> str:
    """A user's name: of the same width for all, so that all messages of a protocol are of one size."""
    return f"u{index:06d}"


def letters(size: int) -> bytes:
    """Content of so many bytes; printable, so that every protocol carries it as it is."""
    return bytes(b"abcdefghijklmnopqrstuvwxyz"[i % 26] for i in range(size))
