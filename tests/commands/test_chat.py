"""The chat command from outside: a process with pipes, as a person or a script starts it."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessDone
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

from tests.client.party import Party
from twisted_im.commands import chat
from twisted_im.commands.demo_single import throwaway_certificate
from twisted_im.storage.memory import MemoryStore
from twisted_im.wire.schema import LoginMethod

ROOT = Path(__file__).parent.parent.parent


class Run(ProcessProtocol):
    """One process and what it said."""

    def __init__(self, typed: str) -> None:
        self.out, self.err = b"", b""
        self.ended: Deferred[int] = Deferred()
        self._typed = typed

    def connectionMade(self) -> None:
        assert self.transport is not None
        self.transport.write(self._typed.encode())
        self.transport.closeStdin()

    def outReceived(self, data: bytes) -> None:  # Twisted's name
        self.out += data

    def errReceived(self, data: bytes) -> None:  # Twisted's name
        self.err += data

    def processEnded(self, reason: Failure) -> None:  # Twisted's name
        self.ended.callback(0 if reason.check(ProcessDone) else reason.value.exitCode)  # type: ignore[union-attr]


class TestChat(Party):
    """`python -m twisted_im chat`, whole."""

    async def chat(self, *words: str, typed: str = "") -> tuple[int, str, str]:
        """Runs it; gives the status and what it said on both channels."""
        run = Run(typed)
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "XDG_STATE_HOME": self.state, "PYTHONIOENCODING": "utf-8"}
        reactor.spawnProcess(  # type: ignore[attr-defined]
            run, sys.executable, [sys.executable, "-m", "twisted_im", "chat", *words], env=environment
        )
        status = await run.ended
        return status, run.out.decode(), run.err.decode()

    def setUp(self) -> None:
        super().setUp()
        self.state = str(Path(self.mktemp()).absolute())

    async def test_a_line_in_a_pipe_over_tls(self) -> None:
        """If this fails, a script cannot tell somebody something, or does not learn whether it arrived."""
        folder = Path(self.mktemp())
        folder.mkdir()
        pem = throwaway_certificate(folder)
        await self.serve(
            listen=f"ssl:0:privateKey={pem}:certKey={pem}:interface=127.0.0.1",
            authenticator=lambda credentials: credentials.uid == "bob" or credentials.secret == b"right",
        )
        address = self.server.addresses[0]
        (bob,) = await self.online("bob", at=f"tls:{address}", trust=pem)
        password = folder / "password"
        password.write_text("right\n")
        words = [f"robot@{address}", "--ca", str(pem), "--password-file", str(password), "--to", "bob"]
        status, out, err = await self.chat(*words, typed="the backup is done\n")
        self.assertEqual((status, err), (0, ""))
        self.assertIn("Online as robot.", out)
        self.assertIn("  ✓ 1\n", out)
        await self.until(lambda: self.shown[bob])
        self.assertEqual(self.texts(bob), ["the backup is done"])
        self.assertTrue(list(Path(self.state).rglob("robot@*.json")), "it is the same device next time")
        password.write_text("wrong\n")
        status, out, err = await self.chat(*words, "--new-device", typed="again\n")
        self.assertEqual((status, err), (1, ""))
        self.assertTrue(out.endswith(": check the name and the password\n"), out)

    async def test_a_password_is_needed_once(self) -> None:
        """If this fails, a script needs its password in a file for ever, or a person types it each time."""
        store = MemoryStore()
        await self.serve(store=store, authenticator=lambda credentials: (credentials.method, credentials.secret) == (2, b"a.b.c"))
        (bob,) = await self.online("bob", secret="a.b.c", method=LoginMethod.TOKEN)
        address = self.server.addresses[0]
        token = Path(self.mktemp())
        token.write_text("a.b.c\n")
        words = [f"robot@{address}", "--to", "bob"]
        self.assertEqual((await self.chat(*words, "--token-file", str(token), typed="one\n"))[0], 0)
        self.assertEqual((await self.chat(*words, typed="two\n"))[0], 0)
        await self.until(lambda: len(self.shown[bob]) == 2)
        self.assertEqual(self.texts(bob), ["one", "two"])
        await store.revoke_tokens(b"\0robot")
        status, out, err = await self.chat(*words, typed="three\n")
        self.assertEqual((status, err), (1, ""))
        self.assertIn("! the server wants the password again, and nobody is there to type it", out)
        status, _, err = await self.chat(*words, typed="three\n")
        self.assertEqual(status, 1)
        self.assertIn("there is nobody to ask for a password", err)

    async def test_mistakes_are_one_line(self) -> None:
        """If this fails, a slip on the command line ends in a traceback, or in silence."""
        for words, said in (
            (["alice", "--anonymous"], "chat: 'alice' is not NAME@HOST:PORT, such as alice@127.0.0.1:7777\n"),
            (["alice@127.0.0.1:7777"], "chat: there is nobody to ask for a password: give --password-file FILE, or --anonymous\n"),
            (["alice@127.0.0.1:7777", "--anonymous", "--ca", "/none"], "chat: /none: no such file or directory\n"),
            (["alice@127.0.0.1:7777", "--anonymous", "--ca", __file__], f"chat: {__file__}: there is no certificate in it (PEM)\n"),
            (["alice@127.0.0.1:7777", "--token-file", "/none"], "chat: /none: no such file or directory\n"),
        ):
            status, out, err = await self.chat(*words)
            self.assertEqual((status, out, err), (1, "", said))
        await self.serve()
        address = self.server.addresses[0]
        await self.server.stopService()
        status, out, err = await self.chat(f"alice@{address}", "--anonymous", "--to", "bob", typed="x\n")
        self.assertEqual((status, err), (1, ""))
        self.assertTrue(out.endswith("! nobody listens there: is the address right, and the server running?\n"), out)


def options(*words: str) -> dict[str, Any]:
    """What the command line makes of itself."""
    parser = argparse.ArgumentParser()
    chat.add_arguments(parser)
    return chat.client_options(parser.parse_args([*words, "--new-device"]))


def test_addresses_of_all_kinds() -> None:
    """If this fails, a usual way to write who and where is not understood, or TLS is left out unnoticed."""
    assert options("alice@im.example.org:7777")["endpoint"] == "tcp:im.example.org:7777"
    assert options("alice@[::1]:7777", "--tls")["endpoint"] == "tls:[::1]:7777"
    assert options("alice@tls:host:7777")["endpoint"] == "tls:host:7777"
    assert options("alice@host:7777", "--ca", "x.pem")["endpoint"] == "tls:host:7777"
    assert options("alice@host:7777", "--certificate", "x.pem")["endpoint"] == "tls:host:7777"
    assert options("alice@example.org@host:7777")["uid"] == "alice@example.org"
