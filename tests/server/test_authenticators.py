"""Who may log in: the password file, and its edges."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, inlineCallbacks, maybeDeferred
from twisted.trial.unittest import TestCase
from zope.interface.verify import verifyObject

from twisted_im.errors import ImError, Status
from twisted_im.server import authenticators
from twisted_im.server.authenticators import HASHER, Anybody, PasswordFile, read_passwords, write_password
from twisted_im.server.interfaces import Credentials, IAuthenticator
from twisted_im.wire.schema import LoginMethod


def who(uid: str, secret: bytes, *, tenant: str = "", method: int = LoginMethod.PASSWORD) -> Credentials:
    return Credentials(method, tenant, uid, secret, bytes(16), "127.0.0.1:1")


class TestPasswordFile(TestCase):
    def setUp(self) -> None:
        self.path = Path(self.mktemp())
        self.checks: list[Any] = []
        write_password(self.path, "", "alice", "correct horse")
        write_password(self.path, "acme", "alice", "battery staple")
        self.authenticator = PasswordFile(self.path, self.at_once, at_once=1, waiting=1)

    def at_once(self, check: Any, *args: Any) -> Deferred[Any]:
        self.checks.append(args)
        return maybeDeferred(check, *args)

    @inlineCallbacks
    def test_right_and_wrong(self) -> Any:
        """Somebody gets in with a wrong password, or cannot with the right one, or a tenant's password opens another's door."""
        self.assertTrue(verifyObject(IAuthenticator, self.authenticator))
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
        (stranger, _, _), (known, _, _) = self.checks
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

    def test_a_file_that_may_be_read_again_is_read(self) -> None:
        """If this fails, a file whose rights were wrong lets nobody in, although they were mended."""
        self.assertTrue(self.authenticator.knows("", "alice"))
        read = []

        def reading(path: Path) -> dict[str, str]:
            read.append(path)
            return read_passwords(path)

        self.patch(authenticators, "read_passwords", reading)
        self.assertTrue(self.authenticator.knows("", "alice"))
        self.assertEqual(read, [])
        self.path.chmod(0o640)
        for _ in range(2):
            self.assertTrue(self.authenticator.knows("", "alice"))
        self.assertEqual(read, [self.path])

    def test_other_methods(self) -> None:
        """A client with a token is told nothing that helps it."""
        with self.assertRaises(ImError) as caught:
            self.authenticator.authenticate(who("alice", b"", method=LoginMethod.ANONYMOUS))
        self.assertIs(caught.exception.code, Status.UNSUPPORTED)

    def test_a_crowd(self) -> None:
        """A crowd of logins fills the server's memory, and everybody waits for minutes."""
        running: list[Deferred[Any]] = []

        def later(check: Any, *args: Any) -> Deferred[Any]:
            running.append(Deferred())
            return running[-1]

        authenticator = PasswordFile(self.path, later, at_once=1, waiting=1)
        first = authenticator.authenticate(who("alice", b"x"))
        second = authenticator.authenticate(who("alice", b"x"))
        with self.assertRaises(ImError) as caught:
            authenticator.authenticate(who("alice", b"x"))
        self.assertIs(caught.exception.code, Status.BUSY)
        self.assertTrue(caught.exception.temporary)
        running[0].callback(True)
        self.assertTrue(self.successResultOf(first))  # type: ignore[arg-type]
        self.assertEqual(len(running), 2)
        running[1].callback(False)
        self.assertFalse(self.successResultOf(second))  # type: ignore[arg-type]

    def test_a_crowd_that_does_not_wait(self) -> None:
        """If this fails, somebody who logs in and hangs up, again and again, has passwords checked for nobody, and all others wait."""
        running: list[Deferred[Any]] = []

        def later(check: Any, *args: Any) -> Deferred[Any]:
            running.append(Deferred())
            return running[-1]

        authenticator = PasswordFile(self.path, later, at_once=1, waiting=1)
        for _ in range(3):
            gone: Any = authenticator.authenticate(who("alice", b"x"))
            gone.cancel()
            self.failureResultOf(gone, CancelledError)
        self.assertEqual(len(running), 1)
        waiting: Any = authenticator.authenticate(who("alice", b"correct horse"))
        self.assertEqual(len(running), 1, "the first check cannot be called back")
        running[0].errback(ZeroDivisionError())
        self.assertEqual(len(running), 2)
        running[1].callback(True)
        self.assertTrue(self.successResultOf(waiting))

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


class TestAnybody(TestCase):
    def test_anybody(self) -> None:
        """Anonymous login asks for a password."""
        self.assertTrue(verifyObject(IAuthenticator, Anybody()))
        self.assertTrue(Anybody().authenticate(who("whoever", b"", method=LoginMethod.ANONYMOUS)))
