"""Who may log in: the users of a file, of the store, of several methods at once; and their edges."""

from __future__ import annotations

import os
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

from twisted.internet.defer import inlineCallbacks
from twisted.trial.unittest import TestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from tests.running import refusal
from tests.server.test_passwords import FAST
from twisted_im.errors import ImError, Status
from twisted_im.server.authenticators import Anybody, Methods, PasswordFile, StoreAccounts, read_passwords, write_password
from twisted_im.server.interfaces import Credentials, IAuthenticator, IPasswords
from twisted_im.server.passwords import HASHER, PasswordChecks
from twisted_im.storage.memory import MemoryStore
from twisted_im.wire.schema import LoginMethod


def who(uid: str, secret: bytes, *, tenant: str = "", method: int = LoginMethod.PASSWORD) -> Credentials:
    return Credentials(method, tenant, uid, secret, bytes(16), "127.0.0.1:1")


class AtOnce(Executor):
    """Runs everything where it is asked for.

    Attributes:
        hashes: what passwords were compared with.
    """

    def __init__(self) -> None:
        self.hashes: list[str] = []

    def submit(self, call: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.hashes.append(args[1])
        call(*args, **kwargs)
        return Future()


class Here:
    """A reactor whose thread this is."""

    @staticmethod
    def callFromThread(call: Any, *args: Any) -> None:
        call(*args)


class TestPasswordFile(TestCase):
    def setUp(self) -> None:
        self.path = Path(self.mktemp())
        write_password(self.path, "", "alice", "correct horse")
        write_password(self.path, "acme", "alice", "battery staple")
        self.at_once = AtOnce()
        self.authenticator = PasswordFile(self.path, PasswordChecks(Here, executor=self.at_once))

    @inlineCallbacks
    def test_right_and_wrong(self) -> Any:
        """Somebody gets in with a wrong password, or cannot with the right one, or a tenant's password opens another's door."""
        self.assertTrue(verifyObject(IPasswords, self.authenticator))
        for uid, secret, tenant, welcome in (
            ("alice", b"correct horse", "", True),
            ("alice", b"correct horse ", "", False),
            ("alice", b"battery staple", "", False),
            ("alice", b"battery staple", "acme", True),
            ("bob", b"correct horse", "", False),
            ("alice", b"\xff\xfe", "", False),
        ):
            self.assertIs((yield self.authenticator.authenticate(who(uid, secret, tenant=tenant))), welcome, (uid, secret, tenant))
        self.assertTrue(self.authenticator.knows("", "alice"))
        self.assertFalse(self.authenticator.knows("", "bob"))

    @inlineCallbacks
    def test_strangers_cost_the_same(self) -> Any:
        """By the time that an answer takes, anybody can find out who has an account."""
        yield self.authenticator.authenticate(who("nobody", b"x"))
        yield self.authenticator.authenticate(who("alice", b"x"))
        stranger, known = self.at_once.hashes
        self.assertNotEqual(stranger, known)
        self.assertEqual(stranger.split("$")[:4], known.split("$")[:4])  # the same work: argon2id with the same costs

    @inlineCallbacks
    def test_changes_are_noticed(self) -> Any:
        """A new user cannot log in before the server is restarted, or an unreadable file throws everybody out."""
        write_password(self.path, "", "bob", "builder")
        self.assertTrue((yield self.authenticator.authenticate(who("bob", b"builder"))))
        self.path.write_text("this is no password file\n")
        self.assertTrue((yield self.authenticator.authenticate(who("bob", b"builder"))))
        self.path.unlink()
        self.assertFalse((yield self.authenticator.authenticate(who("bob", b"builder"))))

    @inlineCallbacks
    def test_changes_with_the_same_time_and_size_are_noticed(self) -> Any:
        """If this fails, somebody who was locked out still gets in, since the file was restored from a copy, or written twice at once."""
        self.assertTrue((yield self.authenticator.authenticate(who("alice", b"correct horse"))))
        old, text = self.path.stat(), self.path.read_text()
        self.path.write_text(text.replace("alice", "alien"))
        os.utime(self.path, ns=(old.st_atime_ns, old.st_mtime_ns))
        self.assertFalse((yield self.authenticator.authenticate(who("alice", b"correct horse"))))
        copy = self.path.with_name("copy")
        copy.write_text(text)
        os.utime(copy, ns=(old.st_atime_ns, old.st_mtime_ns))
        copy.replace(self.path)
        self.assertTrue((yield self.authenticator.authenticate(who("alice", b"correct horse"))))

    def test_the_seal(self) -> None:
        """A password is changed because somebody else knew it, and what they have got by it still lets them in."""
        seals = [self.authenticator.seal("", "alice"), self.authenticator.seal("acme", "alice"), self.authenticator.seal("", "nobody")]
        write_password(self.path, "", "alice", "correct horse")  # the same one again, and still a change
        seals.append(self.authenticator.seal("", "alice"))
        self.path.unlink()
        self.assertEqual(len({*seals}), 4)
        self.assertEqual(self.authenticator.seal("", "alice"), self.authenticator.seal("", "nobody"))

    def test_other_methods(self) -> None:
        """A client with a token is told nothing that helps it."""
        with self.assertRaises(ImError) as caught:
            self.authenticator.authenticate(who("alice", b"", method=LoginMethod.ANONYMOUS))
        self.assertIs(caught.exception.code, Status.UNSUPPORTED)

    def test_the_file(self) -> None:
        """Others on the machine can read the hashes, or a broken line is passed over in silence."""
        self.assertEqual(os.stat(self.path).st_mode & 0o777, 0o600)
        self.assertEqual(set(read_passwords(self.path)), {"alice", "acme/alice"})
        self.path.write_text("# who may come in\n\nalice:$argon2id$x\nbob\n")
        with self.assertRaisesRegex(ValueError, "line 4 is not user:hash"):
            read_passwords(self.path)

    def test_what_people_have_written_into_the_file_stays(self) -> None:
        """If this fails, a password that is set by the command takes comments, or the order of the lines, with it."""
        for end in ("\n", ""):
            lines = ["# ours", "", "zoe:$argon2id$z", "alice:$argon2id$a", "  ", "# theirs: bob:x", "acme/alice:$argon2id$c" + end]
            self.path.write_text("\n".join(lines))
            self.assertFalse(write_password(self.path, "", "alice", "new"))
            self.assertTrue(write_password(self.path, "", "bob", "new"))
            written = self.path.read_text().split("\n")
            for place, user in ((3, "alice"), (7, "bob")):
                name, _, hashed = written.pop(place).rpartition(":")
                self.assertEqual(name, user)
                self.assertTrue(HASHER.verify(hashed, "new"))
                written.insert(place, name)
            lines = [line.strip("\n") for line in lines]
            self.assertEqual(written, [*lines[:3], "alice", *lines[4:], "bob", ""])
        self.path.write_text("")
        self.assertTrue(write_password(self.path, "", "alice", "new"))
        self.assertEqual(self.path.read_text().count("\n"), 1)

    def test_a_user_who_stands_there_twice(self) -> None:
        """If this fails, an old password comes to life again when one of two lines is taken out of the file."""
        self.path.write_text("alice:$argon2id$a\nalice:$argon2id$b\n")
        self.assertFalse(write_password(self.path, "", "alice", "new"))
        self.assertNotIn("$a\n", self.path.read_text())
        self.assertNotIn("$b\n", self.path.read_text())

    @inlineCallbacks
    def test_names_that_look_like_others(self) -> Any:
        """A user of one tenant gets in as a user of another, or cannot log in for the sake of a sign in the name."""
        for uid in ("acme/bob", "#1", "line\u2028break"):
            write_password(self.path, "", uid, "mine")
            self.assertTrue((yield self.authenticator.authenticate(who(uid, b"mine"))), uid)
        self.assertFalse((yield self.authenticator.authenticate(who("bob", b"mine", tenant="acme"))))
        self.assertFalse((yield self.authenticator.authenticate(who("alice", b"battery staple", tenant="acme/"))))
        with self.assertRaisesRegex(ValueError, "no slash"):
            write_password(self.path, "a/b", "c", "x")


class TestStoreAccounts(TestCase):
    """Passwords in the store."""

    def setUp(self) -> None:
        self.store, self.at_once = MemoryStore(), AtOnce()
        self.authenticator = StoreAccounts(self.store, PasswordChecks(Here, executor=self.at_once, hasher=FAST))
        self.store.set_account(b"\0alice", FAST.hash("correct horse"), None)
        self.store.set_account(b"acme\0alice", FAST.hash("battery staple"), None)
        self.store.set_account(b"\0mallory", FAST.hash("correct horse"), True)
        self.store.accounts([b"\0bob"], True)

    async def test_right_and_wrong(self) -> None:
        """Somebody gets in with a wrong password, or without one, or although disabled; or cannot with the right one."""
        self.assertTrue(verifyObject(IPasswords, self.authenticator))
        for uid, secret, tenant, welcome in (
            ("alice", b"correct horse", "", True),
            ("alice", b"battery staple", "", False),
            ("alice", b"battery staple", "acme", True),
            ("mallory", b"correct horse", "", False),
            ("bob", b"", "", False),
            ("nobody", b"correct horse", "", False),
        ):
            self.assertIs(await self.authenticator.authenticate(who(uid, secret, tenant=tenant)), welcome, (uid, secret, tenant))
        self.assertEqual(len(self.at_once.hashes), 6, "each costs one check")
        self.assertEqual(len({tuple(hashed.split("$")[:4]) for hashed in self.at_once.hashes}), 1, "of the same cost")
        await self.store.set_account(b"\0mallory", None, False)
        await self.store.set_account(b"\0alice", FAST.hash("new"), None)
        self.assertTrue(await self.authenticator.authenticate(who("mallory", b"correct horse")))
        self.assertFalse(await self.authenticator.authenticate(who("alice", b"correct horse")))
        self.assertTrue(await self.authenticator.authenticate(who("alice", b"new")))
        refused = await refusal(self.authenticator.authenticate(who("alice", b"new", method=LoginMethod.TOKEN)))
        self.assertIs(refused.code, Status.UNSUPPORTED)

    async def test_who_is_known_and_the_seal(self) -> None:
        """A message to a user who has never logged in is refused; or a password that was changed leaves doors open."""
        for uid, known in (("alice", True), ("bob", True), ("mallory", True), ("nobody", False)):
            self.assertIs(await self.authenticator.knows("", uid), known)
        before = await self.authenticator.seal("", "alice")
        await self.store.set_account(b"\0alice", FAST.hash("correct horse"), None)
        self.assertNotEqual(await self.authenticator.seal("", "alice"), before)
        self.assertEqual([await self.authenticator.seal("", uid) for uid in ("bob", "nobody")], [b"", b""])


class TestMethods(TestCase):
    """Several ways to log in."""

    async def test_the_method_chooses(self) -> None:
        """A server that takes passwords and tokens takes one for the other, or one of them not at all; or leaves threads behind."""
        closed: list[str] = []

        @implementer(IPasswords)
        class Kept:
            def authenticate(self, credentials: Credentials) -> bool:
                return credentials.secret == b"password"

            def knows(self, tenant: str, uid: str) -> bool:
                return uid == "kept"

            def seal(self, tenant: str, uid: str) -> bytes:
                return b"sealed"

            async def close(self) -> None:
                closed.append("kept")

        async def token(credentials: Credentials) -> bool:
            return credentials.secret == b"token"

        methods = Methods({LoginMethod.PASSWORD: Kept(), LoginMethod.TOKEN: token})
        self.assertTrue(verifyObject(IPasswords, methods))
        for method, secret, welcome in (
            (LoginMethod.PASSWORD, b"password", True),
            (LoginMethod.PASSWORD, b"token", False),
            (LoginMethod.TOKEN, b"token", True),
            (LoginMethod.TOKEN, b"password", False),
        ):
            self.assertIs(await methods.authenticate(who("x", secret, method=method)), welcome)
        with self.assertRaises(ImError) as caught:
            methods.authenticate(who("x", b"", method=LoginMethod.ANONYMOUS))
        self.assertEqual((caught.exception.code, caught.exception.reason), (Status.UNSUPPORTED, "this server takes passwords and tokens"))
        self.assertEqual([await methods.knows("", uid) for uid in ("kept", "x")], [True, False])
        self.assertEqual(await methods.seal("", "x"), b"sealed")
        await methods.close()
        self.assertEqual(closed, ["kept"])


class TestAnybody(TestCase):
    def test_anybody(self) -> None:
        """Anonymous login asks for a password."""
        self.assertTrue(verifyObject(IAuthenticator, Anybody()))
        self.assertTrue(Anybody().authenticate(who("whoever", b"", method=LoginMethod.ANONYMOUS)))
