"""The terminal chat, as the person at it sees it: lines typed, lines shown, against a real server."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.testing import StringTransport

from tests.client.party import Party
from twisted_im.client.client import Client
from twisted_im.client.terminal import Terminal, harmless, readable
from twisted_im.client.values import Life, Message
from twisted_im.wire.schema import ContentType


@given(st.text())
def test_nothing_that_others_write_controls_the_terminal(text: str) -> None:
    """If this fails, a message can clear somebody's screen, forge a line, or make the terminal type a command."""
    shown = harmless(text)
    assert not [c for c in shown if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp")]
    assert not set(shown) & set("\x1b\x9b\x07\n\r\u202e\u2066\u200e\ufeff")


def test_what_people_write_stays_as_it_is() -> None:
    """If this fails, scripts and emoji are mangled."""
    for text in ("Grüße, 世界!", "👩\u200d🚀 क्\u200dष", "a  b"):
        assert harmless(text) == text


def test_every_kind_of_message_has_a_line() -> None:
    """If this fails, a picture or a withdrawn message fills the screen with noise."""

    def of(kind: int, content: bytes, withdrawn: bool = False) -> str:
        return readable(Message(1, 1, 0, "bob", b"", b"", kind, content, withdrawn))

    assert of(ContentType.TEXT, b"two\nlines \x1b[2J") == "two lines \ufffd[2J"
    assert of(ContentType.BINARY, b"\x00\x01") == "(2 bytes)"
    assert of(ContentType.JSON, b'{"a":1}') == '{"a":1}'
    assert of(ContentType.TEXT, b"", withdrawn=True) == "(withdrawn)"
    assert of(ContentType.TEXT, b"\xff") == "\ufffd"


class Person:
    """Somebody at a terminal."""

    def __init__(self, party: Party, uid: str, to: str = "", **options: Any) -> None:
        self.terminal = Terminal(to)
        self.transport = StringTransport()
        self.terminal.makeConnection(self.transport)
        self.client: Client = party.client(uid, **self.terminal.callbacks(), **options)
        self.terminal.use(self.client)

    def type(self, line: str) -> None:
        self.terminal.dataReceived(line.encode() + b"\n")

    @property
    def screen(self) -> str:
        return self.transport.value().decode()

    def sees(self, text: str) -> bool:
        return text in self.screen


class TestTerminal(Party):
    """Conversations of people."""

    async def people(self) -> tuple[Person, Person]:
        await self.serve()
        alice, bob = Person(self, "alice", to="bob"), Person(self, "bob", label="bob's \x1b[31mterminal")
        await self.until(lambda: alice.sees("Online as alice") and bob.sees("Online as bob"))
        return alice, bob

    async def test_a_talk(self) -> None:
        """If this fails, two people cannot talk, or do not see how far their messages have come."""
        alice, bob = await self.people()
        alice.type("hello \x1b[2Jbob")
        await self.until(lambda: alice.sees("  ✓ 1\n") and alice.sees("  ✓✓ 1 delivered (bob)\n"))
        self.assertTrue(bob.sees("You are talking to alice now.\n"))
        self.assertTrue(bob.sees(" alice: hello \ufffd[2Jbob\n"))
        bob.type("/read")
        await self.until(lambda: alice.sees("  ✓✓ 1 read (bob)\n"))
        bob.type("//quit is sent")
        await self.until(lambda: alice.sees(" bob: /quit is sent\n"))
        alice.type("one")
        alice.type("two")
        await self.until(lambda: alice.sees("4 delivered (bob)\n"))
        self.assertEqual(alice.screen.count("  ✓ "), 3)

    async def test_commands(self) -> None:
        """If this fails, a command does nothing and does not say why."""
        alice, bob = await self.people()
        for line, said in (
            ("/to", "Whom? /to NAME\n"),
            ("hi", "To whom? Say /to NAME first.\n"),
            ("/history", "With whom? Say /to NAME first.\n"),
            ("/history x", "How many? /history 20\n"),
            ("/nonsense", "There is no /nonsense. /help says what there is.\n"),
            ("/help", "/devices       your devices\n"),
            ("/to carol", "You are talking to carol.\n"),
            ("/history", "You and carol have not talked yet.\n"),
            ("hi", "! Not sent to carol: no such user"),
            ("x" * 70_000, "! Not sent to carol: the content is larger than the server takes"),
        ):
            bob.type(line)
            await self.until(lambda said=said: bob.sees(said))
        alice.type("hello")
        await self.until(lambda: bob.sees("alice: hello\n"))
        bob.type("/devices")
        await self.until(lambda: bob.sees("bob's \ufffd[31mterminal, this one\n"))
        bob.type("/to alice")
        bob.type("/history 5")
        await self.until(lambda: bob.screen.count("alice: hello\n") == 2)
        self.assertNotIn("\x1b", bob.screen)

    async def test_a_lost_connection_is_shown(self) -> None:
        """If this fails, a person types into nothing and does not know."""
        alice, _ = await self.people()
        alice.client.abort()
        await self.until(lambda: alice.sees("! Offline: the connection was lost. Trying again in 0.0 s.\n"))
        await self.until(lambda: alice.sees("Back online.\n"))
        await self.server.stopService()
        await self.until(lambda: alice.sees("! Offline: the server is going down, or being replaced. Trying again in 1.0 s.\n"))
        alice.type("/devices")
        await self.until(lambda: alice.sees("! there is no connection now\n"))

    async def test_a_login_that_cannot_be_ends_it(self) -> None:
        """If this fails, a wrong password or address leaves a person before an empty screen."""
        await self.serve(authenticator=lambda credentials: False)
        alice = Person(self, "alice")
        self.assertEqual(await alice.terminal.done, 1)
        self.assertTrue(alice.screen.endswith(": check the name and the password\n"), alice.screen)
        address = self.server.addresses[0]
        tls = Person(self, "alice", at=f"tls:{address}")
        self.assertEqual(await tls.terminal.done, 1)
        self.assertEqual(tls.screen, "! the server does not speak TLS there: leave --tls out\n")
        await self.server.stopService()
        nobody = Person(self, "alice", at=address)
        self.assertEqual(await nobody.terminal.done, 1)
        self.assertEqual(nobody.screen, "! nobody listens there: is the address right, and the server running?\n")

    async def test_two_with_one_device(self) -> None:
        """If this fails, a second terminal with the same state throws the first out without a word."""
        await self.serve()
        first = Person(self, "alice", device=b"d" * 16)
        await first.client.when_online()
        second = Person(self, "alice", device=b"d" * 16)
        self.assertEqual(await first.terminal.done, 1)
        self.assertTrue(first.screen.endswith("use --new-device to have two at once\n"), first.screen)
        self.assertIs(second.client.standing.life, Life.ONLINE)

    async def test_the_end_of_the_input_waits_for_what_was_typed(self) -> None:
        """If this fails, a message in a pipe is lost, because the program ends before it is accepted."""
        await self.serve()
        await self.online("bob")
        robot = Person(self, "robot", to="bob")
        robot.type("the backup is done")
        robot.terminal.readConnectionLost()
        self.assertEqual(await robot.terminal.done, 0)
        self.assertTrue(robot.sees("  ✓ 1\n"))
        failing = Person(self, "robot", to="nobody")
        failing.type("is anybody there?")
        failing.terminal.readConnectionLost()
        self.assertEqual(await failing.terminal.done, 1)

    async def test_quit_twice_does_not_wait(self) -> None:
        """If this fails, a person whose server has gone cannot leave."""
        alice, _ = await self.people()
        await self.server.stopService()
        await self.until(lambda: alice.client.standing.life is Life.WAITING)
        alice.type("never mind")
        alice.type("/quit")
        await self.until(lambda: alice.sees("Waiting for 1 to be sent; /quit again gives up.\n"))
        self.assertFalse(alice.terminal.done.called)
        alice.type("/quit")
        self.assertEqual(await alice.terminal.done, 1)

    async def test_old_and_unsent_messages_are_told(self) -> None:
        """If this fails, a person believes that they have seen everything, or that everything was sent."""
        await self.serve()
        alice, _ = await self.online("alice", "bob")
        for i in range(12):
            await alice.send("bob", f"{i}").accepted
        bob = Person(self, "bob", catch_up=2, patience=0.02, state=Path(self.mktemp()))
        await self.until(lambda: bob.sees("… 10 older messages of a conversation are not shown; /history has them\n"))
        await self.until(lambda: bob.sees("alice: 11\n"))
        await self.server.stopService()
        await self.until(lambda: bob.client.standing.life is Life.WAITING)
        bob.type("hello?")
        await self.until(lambda: bob.sees("! Not sent yet: hello?\n"))
