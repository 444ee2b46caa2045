"""The terminal chat: lines in, lines out, around a `Client`.

Strategy: a protocol for lines, so that it runs on a terminal, in a pipe and in a test alike. It only ever adds lines: nothing is drawn, and
what others have written cannot move the cursor, change the title or forge a line, because their control characters are taken out
(`harmless`).
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Coroutine
from datetime import datetime
from typing import Any

from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.logger import Logger
from twisted.protocols.basic import LineReceiver
from twisted.python.failure import Failure
from zope.interface import implementer

from twisted_im.client.client import Client
from twisted_im.client.sending import Sending
from twisted_im.client.values import LeftOut, Life, Message, Receipt, Standing
from twisted_im.errors import Disconnect, ImError, Status
from twisted_im.wire.schema import ContentType, ConversationKind, ReceiptType

log = Logger()
_DONE = Failure(ConnectionDone())

#: Invisible characters that text needs: the joiners of scripts and emoji.
_JOINERS = "\u200c\u200d"

HELP = """\
  /to NAME       talk to somebody; what you type goes there
  /history [N]   the last N messages of this conversation (20)
  /read          tell the other side that you have read everything up to here
  /devices       your devices
  /help          this
  /quit          leave; so does the end of the input
  A line that begins with // is sent with one slash."""


def harmless(text: str) -> str:
    """Text that a terminal can be given, whoever wrote it: line ends become spaces, and other control characters U+FFFD.

    Control characters include those that turn the writing direction, which could make one text look like another.
    """
    return "".join(
        " " if c in "\n\r\t\u2028\u2029" else "\ufffd" if unicodedata.category(c) in ("Cc", "Cf", "Cs") and c not in _JOINERS else c
        for c in text
    )


@implementer(IHalfCloseableProtocol)
class Terminal(LineReceiver):
    """One person at one client.

    Args:
        to: whom to talk to first; empty for nobody yet.

    Attributes:
        done: fires with the exit status when the person, the input or the server has ended it.
        closed: fires when the last line has been written.
    """

    delimiter = b"\n"
    MAX_LENGTH = 1 << 20

    def __init__(self, to: str = "") -> None:
        self.done: Deferred[int] = Deferred()
        self.closed: Deferred[None] = Deferred()
        self._client: Client | None = None
        self._to = to
        self._was_online = False
        self._leaving = False
        self._failed = False
        self._names: dict[int, str] = {}  # conversation → the other member, or the group's name
        self._shown: dict[int, int] = {}  # conversation → the last seq on the screen
        self._mine: dict[int, dict[int, ReceiptType | None]] = {}  # conversation → seq → what its sender was told last
        self._commands: dict[str, Callable[[str], Any]] = {
            "to": self._go_to,
            "history": self._history,
            "read": self._read,
            "devices": self._devices,
            "help": lambda _: self.say(HELP),
            "quit": self._quit,
        }

    def callbacks(self) -> dict[str, Any]:
        """What the client is to be made with."""
        return {
            "on_message": self._message,
            "on_receipt": self._receipt,
            "on_state": self._state,
            "on_unsent": self._unsent,
            "on_reset": lambda why: self.say(f"! {why}; older conversations are gone"),
            "on_left_out": self._left_out,
        }

    def use(self, client: Client) -> None:
        """The client is made; it may be started now."""
        self._client = client

    @property
    def client(self) -> Client:
        assert self._client is not None, "`use` comes first"
        return self._client

    def say(self, line: str) -> None:
        """Shows a line."""
        if self.transport is not None:
            self.transport.write(line.encode("utf-8", "replace") + b"\n")

    # ---- the person

    def connectionMade(self) -> None:
        if self._to:
            self.say(f"You are talking to {harmless(self._to)}.")

    def lineReceived(self, line: bytes) -> None:
        text = line.decode("utf-8", "replace").rstrip("\r")
        if text.startswith("/") and not text.startswith("//"):
            word, _, rest = text[1:].partition(" ")
            command = self._commands.get(word)
            if command is None:
                self.say(f"There is no /{harmless(word)}. /help says what there is.")
            else:
                self._do(command(rest.strip()))
        elif text.strip():
            self._send(text[1:] if text.startswith("//") else text)

    def lineLengthExceeded(self, line: bytes) -> None:  # Twisted's name
        self.say(f"! A line of more than {self.MAX_LENGTH} bytes; it was not sent, and this ends here.")
        self._end(1)

    def readConnectionLost(self) -> None:  # Twisted's name
        """The input has ended: what was typed still leaves."""
        self._leave()

    def writeConnectionLost(self) -> None:  # Twisted's name
        """Nobody reads what is said here."""
        self._end(1)

    def connectionLost(self, reason: Failure = _DONE) -> None:
        self._end(1)
        if not self.closed.called:
            self.closed.callback(None)

    def close(self) -> None:
        """Writes what is left to write, and closes; `closed` tells when."""
        if self.transport is not None:
            self.transport.loseConnection()

    def _do(self, result: Any) -> None:
        """Sees a command that takes time to its end."""
        if isinstance(result, Coroutine):

            def failed(failure: Failure) -> None:
                if isinstance(failure.value, ImError):
                    self.say(f"! {harmless(failure.value.reason)}")
                else:
                    log.failure("a command of the terminal failed", failure)
                    self.say("! That went wrong; it is a fault of this program.")

            ensureDeferred(result).addErrback(failed)

    def _send(self, text: str) -> None:
        if not self._to:
            self._failed = True
            self.say("To whom? Say /to NAME first.")
            return
        try:
            sending = self.client.send(self._to, text)
        except ImError as error:
            self._failed = True
            self.say(f"! Not sent: {error.reason}")
            return
        self._do(self._follow(sending, self._to))

    async def _follow(self, sending: Sending, to: str) -> None:
        try:
            accepted = await sending.accepted
        except ImError as error:
            self._failed = True
            hint = " (has that name logged in here before?)" if error.code is Status.NO_SUCH else ""
            self.say(f"! Not sent to {harmless(to)}: {harmless(error.reason)}{hint}")
            return
        self._names.setdefault(accepted.conversation, to)
        self._mine.setdefault(accepted.conversation, {})[accepted.seq] = None
        self.say(f"  ✓ {accepted.seq}")

    def _go_to(self, name: str) -> None:
        if not name:
            self.say("Whom? /to NAME")
            return
        self._to = name
        self.say(f"You are talking to {harmless(name)}.")

    async def _conversation(self) -> int | None:
        """The id of the present conversation; None, said aloud, if there is none."""
        if not self._to:
            self.say("With whom? Say /to NAME first.")
            return None
        for conversation in await self.client.conversations():
            if conversation.kind is not ConversationKind.SYSTEM:
                self._names[conversation.id] = conversation.peer
        found = next((number for number, name in self._names.items() if name == self._to), None)
        if found is None:
            self.say(f"You and {harmless(self._to)} have not talked yet.")
        return found

    async def _history(self, count: str) -> None:
        limit = int(count) if count.isdecimal() and 0 < int(count) <= 1000 else 0 if count else 20
        if not limit:
            self.say("How many? /history 20")
            return
        conversation = await self._conversation()
        if conversation is not None:
            found = await self.client.history(conversation, limit=limit)
            for message in found.messages:
                self._show(message)
            if not found.messages:
                self.say("There is nothing to show.")

    async def _read(self, _: str) -> None:
        conversation = await self._conversation()
        if conversation is not None:
            seq = self._shown.get(conversation, 0)
            if seq:
                self.client.mark_read(conversation, seq)
            self.say(f"Read up to {seq}." if seq else "Nothing has come in since you are here.")

    async def _devices(self, _: str) -> None:
        for device in await self.client.devices():
            here = ", this one" if device.id == self.client.device else ""
            since = datetime.fromtimestamp(device.last_login / 1000).astimezone()
            state = "online" if device.online else "away"
            self.say(f"  {device.id.hex()[:8]}  {state:<6}  since {since:%Y-%m-%d %H:%M}  {harmless(device.label) or '(no name)'}{here}")

    # ---- the client

    def _message(self, message: Message) -> None:
        if message.sender != self.client.uid:
            self._names.setdefault(message.conversation, message.sender)
            if not self._to:
                self._to = message.sender
                self.say(f"You are talking to {harmless(message.sender)} now.")
        self._shown[message.conversation] = message.seq
        self._show(message)

    def _show(self, message: Message) -> None:
        when = datetime.fromtimestamp(message.time / 1000).astimezone()
        mine = message.sender == self.client.uid
        who = f"{message.sender} → {self._names.get(message.conversation, '?')}" if mine else message.sender
        self.say(f"{when:%H:%M} {harmless(who)}: {readable(message)}")

    def _receipt(self, receipt: Receipt) -> None:
        if receipt.user == self.client.uid:
            return
        news = [
            seq
            for seq, told in self._mine.get(receipt.conversation, {}).items()
            if seq <= receipt.seq and (told is None or told < receipt.type)
        ]
        for seq in news:
            self._mine[receipt.conversation][seq] = receipt.type
        if news:
            word = "read" if receipt.type is ReceiptType.READ else "delivered"
            which = str(news[0]) if len(news) == 1 else f"{news[0]} to {news[-1]}"
            self.say(f"  ✓✓ {which} {word} ({harmless(receipt.user)})")

    def _left_out(self, left_out: LeftOut) -> None:
        name = self._names.get(left_out.conversation, "a conversation")
        self.say(f"  … {left_out.last - left_out.first + 1} older messages of {harmless(name)} are not shown; /history has them")

    def _unsent(self, sending: Sending) -> None:
        self.say(f"! Not sent yet: {harmless(sending.values['content'].decode('utf-8', 'replace'))[:60]}")

    def _state(self, standing: Standing) -> None:
        if standing.life is Life.ONLINE:
            self.say("Back online." if self._was_online else f"Online as {harmless(self.client.uid)}. /help says what you can do.")
            self._was_online = True
        elif standing.life is Life.WAITING:
            temporary = standing.error is not None and standing.error.temporary
            if self._was_online or temporary:
                self.say(f"! Offline: {harmless(standing.reason)}. Trying again in {standing.retry_in:.1f} s.")
            else:
                self._fail(standing)
        elif standing.life is Life.ENDED:
            self._fail(standing)

    def _fail(self, standing: Standing) -> None:
        """It cannot go on without a person."""
        self.say(f"! {harmless(standing.reason)}{advice(standing)}")
        self._end(1)

    # ---- the end

    def _quit(self, _: str) -> None:
        """Leaves; a second time, without waiting."""
        if self._leaving:
            self._end(1)
        self._leave()

    def _leave(self) -> None:
        """Waits until everything is sent, and ends."""
        if not self._leaving:
            self._leaving = True
            self._do(self._drain())

    async def _drain(self) -> None:
        waiting = self.client.unsent() if self._client is not None else []
        if waiting and self._was_online:
            self.say(f"Waiting for {len(waiting)} to be sent; /quit again gives up.")
        for sending in waiting:
            try:
                await sending.accepted
            except ImError:
                self._failed = True
        self._end(int(self._failed))

    def _end(self, status: int) -> None:
        if not self.done.called:
            self._leaving = True
            self.done.callback(status)


def readable(message: Message) -> str:
    """A message in one line."""
    if message.withdrawn:
        return "(withdrawn)"
    if message.content_type == ContentType.BINARY:
        return f"({len(message.content)} bytes)"
    return harmless(message.text)


def advice(standing: Standing) -> str:
    """What a person can do about it; empty if the reason says it all."""
    error, reason = standing.error, standing.reason
    if error is None:
        if "not trusted" in reason:
            return ": give its certificate, or its issuer's, with --ca FILE"
        if "certificate of this client" in reason:
            return ": give yours with --certificate FILE"
        if "not speak TLS" in reason:
            return ": leave --tls out"
        if "does it speak" in reason:
            return " If it is a TLS port, add --tls."
        return ": is the address right, and the server running?"
    return {
        Status.NOT_AUTHENTICATED: ": check the name and the password",
        Status.UNSUPPORTED: ": it takes another kind of login; see --anonymous and --password-file",
        Disconnect.TAKEN_OVER: ": this device is used elsewhere; use --new-device to have two at once",
        Disconnect.KICKED: ": log in again if you want to",
        Disconnect.MALFORMED: ": what answers there is no server of this kind; if it is a TLS port, add --tls",
        Disconnect.VERSION: ": what answers there is no server of this kind; if it is a TLS port, add --tls",
    }.get(error.code, "")
