"""XMPP as the load speaks it: accounts by XEP-0077, SASL PLAIN, chat messages, and the acknowledgements of XEP-0198 (RFC 6120, 6121).

Strategy: expat, which is written in C, reads the stream; no server is held to one spelling of XML. Both sides acknowledge: the load asks
after each bunch of messages, as clients do, and answers when the server asks. So a message that was on a broken connection would be sent
again, which is what at least once means here. Messages go to full addresses, which spares the server the choice among a user's devices.
"""

from __future__ import annotations

import base64
from typing import Any, NamedTuple
from xml.parsers import expat

from benchmarks.peers.talk import NUMBER_DIGITS, TalkError, letters, user_name

HOST = "localhost"
RESOURCE = "load"
PASSWORD = "open sesame"

CLIENT, SM, SASL, STREAMS = "jabber:client ", "urn:xmpp:sm:3 ", "urn:ietf:params:xml:ns:xmpp-sasl ", "http://etherx.jabber.org/streams "

#: What both sides count (XEP-0198, section 4).
STANZAS = {CLIENT + "message", CLIENT + "presence", CLIENT + "iq"}

_STREAM = (
    f"<?xml version='1.0'?><stream:stream to='{HOST}' version='1.0' xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'>"
).encode()
_BIND = f"<iq type='set' id='bind'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'><resource>{RESOURCE}</resource></bind></iq>".encode()
_PRESENT = b"<presence/><enable xmlns='urn:xmpp:sm:3'/>"
_ASK = b"<r xmlns='urn:xmpp:sm:3'/>"


class Element(NamedTuple):
    """One child of a stream.

    Attributes:
        tag: its namespace, a space, its name.
        attributes: of its own.
        inner: tag of a child → all text in it; of several with one tag, the last.
    """

    tag: str
    attributes: dict[str, str]
    inner: dict[str, str]


class StreamReader:
    """Cuts an XML stream into the children of its root."""

    __slots__ = ("_attributes", "_child", "_depth", "_found", "_inner", "_parser", "_tag", "_text")

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """A new stream begins (RFC 6120, section 4.3.3)."""
        parser = expat.ParserCreate(namespace_separator=" ")
        parser.buffer_text = True
        parser.StartElementHandler = self._on_start
        parser.EndElementHandler = self._on_end
        parser.CharacterDataHandler = self._on_text
        self._parser = parser
        self._depth = 0
        self._found: list[Element] = []
        self._tag = self._child = ""
        self._attributes: dict[str, str] = {}
        self._inner: dict[str, str] = {}
        self._text: list[str] = []

    def feed(self, data: bytes) -> list[Element]:
        """Takes bytes; gives each child that is complete.

        Raises:
            TalkError: it is no XML.
        """
        try:
            self._parser.Parse(data, False)
        except expat.ExpatError as error:
            raise TalkError(f"not XML: {error}: {data[:200]!r}") from error
        found, self._found = self._found, []
        return found

    def _on_start(self, tag: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        if self._depth == 2:
            self._tag, self._attributes, self._inner = tag, attributes, {}
        elif self._depth == 3:
            self._child, self._text = tag, []

    def _on_text(self, text: str) -> None:
        if self._depth >= 3:
            self._text.append(text)

    def _on_end(self, tag: str) -> None:
        self._depth -= 1
        if self._depth == 2:
            self._inner[self._child] = "".join(self._text)
        elif self._depth == 1:
            self._found.append(Element(self._tag, self._attributes, self._inner))
        elif self._depth == 0:
            raise TalkError("the server ends the stream")


class XmppTalk:
    """One user; see `Talk`.

    Args:
        index: its number; its partner has the same but for the last bit.
        payload: bytes of content in a message.
    """

    __slots__ = ("_content", "_heard", "_message", "_name", "_reader", "_registered", "acked", "live")

    def __init__(self, index: int, payload: int) -> None:
        self.live = False
        self.acked = 0
        self._name = user_name(index)
        self._reader = StreamReader()
        self._registered = False
        self._heard = 0  #: stanzas since both sides count
        self._content = letters(payload - NUMBER_DIGITS).decode()
        head = f"<message type='chat' to='{user_name(index ^ 1)}@{HOST}/{RESOURCE}' id='%d'><body>%0{NUMBER_DIGITS}d"
        self._message = head.encode() + f"{self._content}</body></message>".encode()

    def opening(self) -> bytes:
        """The head of the stream."""
        return _STREAM

    def feed(self, data: bytes, out: list[bytes]) -> list[int]:
        """See `Talk.feed`."""
        numbers: list[int] = []
        asked = False
        for element in self._reader.feed(data):
            tag, attributes, inner = element
            if tag == SM + "r":
                asked = True
            elif tag == SM + "a":
                self.acked = int(attributes["h"])
            else:
                if tag in STANZAS:
                    self._heard += 1
                if tag == CLIENT + "message" and attributes.get("type") == "chat":
                    body = inner[CLIENT + "body"]
                    if body[NUMBER_DIGITS:] != self._content:
                        raise TalkError(f"a message with another content than was sent: {body!r}")
                    numbers.append(int(body[:NUMBER_DIGITS]))
                else:
                    self._take_rare(element, out)
        if asked:
            out.append(b"<a xmlns='urn:xmpp:sm:3' h='%d'/>" % self._heard)
        return numbers

    def _take_rare(self, element: Element, out: list[bytes]) -> None:
        tag, attributes, inner = element
        if tag == STREAMS + "features":
            out.append(self._answer_features())
        elif tag == SASL + "success":
            self._reader.restart()
            out.append(_STREAM)
        elif tag == CLIENT + "iq" and attributes.get("type") == "result":
            if attributes.get("id") == "bind":
                out.append(_PRESENT)
            else:
                out.append(self._authenticate())
        elif tag == SM + "enabled":
            self.live = True
            self._heard = 0
        elif tag != CLIENT + "presence" and not (tag == CLIENT + "message" and attributes.get("type") != "error"):
            raise TalkError(f"the server says {tag.rpartition(' ')[2]}: {attributes} {inner}")

    def _answer_features(self) -> bytes:
        """The first stream is for registration and login, the second for the session."""
        if self._registered:
            return _BIND
        self._registered = True
        words: dict[str, Any] = {"name": self._name, "password": PASSWORD}
        return (
            (
                "<iq type='set' id='register'><query xmlns='jabber:iq:register'>"
                "<username>{name}</username><password>{password}</password></query></iq>"
            )
            .format_map(words)
            .encode()
        )

    def _authenticate(self) -> bytes:
        """RFC 4616: nothing, the name, and the password, with zero bytes between."""
        secret = base64.b64encode(f"\0{self._name}\0{PASSWORD}".encode()).decode()
        return f"<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>{secret}</auth>".encode()

    def messages(self, first: int, count: int) -> bytes:
        """See `Talk.messages`."""
        message = self._message
        return b"".join([message % (number, number) for number in range(first, first + count)]) + _ASK
