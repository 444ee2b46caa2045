"""Getting in, on real sockets: resume tokens, passwords in the store, and what stands against guessing.

Strategy: bare frames, so that each field is what the test says. Time is moved by hand where it matters; passwords are hashed by argon2id
at a cost that does not.

Logins that do not come to their end: refused for any reason, or left by their client in the middle. An authenticator, a store and a router
wait there where the test wants them to. What is left behind is not asked of the server's tables alone: no pump of a connection that
has ended may be alive anywhere in the process.
"""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, fail
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from zope.interface import implementer

from tests.running import Hand, Raw, Served, refusal, until
from tests.server.test_passwords import FAST
from twisted_im.core.connection import Limits
from twisted_im.errors import Disconnect, ImError, Status
from twisted_im.pump import FARTHEST, Pump
from twisted_im.routing.single import SingleRouter
from twisted_im.server.authenticators import PasswordFile, StoreAccounts, read_passwords, write_password
from twisted_im.server.guesses import PER_ACCOUNT, PER_ADDRESS
from twisted_im.server.interfaces import Credentials, IPasswords, StoreError
from twisted_im.server.passwords import PasswordChecks
from twisted_im.server.tenure import RENEWAL
from twisted_im.storage.memory import MemoryStore
from twisted_im.wire.schema import MAX_SECRET, Command, DevicesAction, LoginMethod

RESUME = LoginMethod.RESUME
DAY = 86400


class Noted(MemoryStore):
    """A store that notes the hashes which it gets, with a clock that the test sets back.

    Attributes:
        ago: days by which its clock is behind.
    """

    def __init__(self) -> None:
        self.ago = 0.0
        self.tokens: list[bytes] = []
        super().__init__(clock=lambda: time.time() - self.ago * DAY)

    def open_session(self, user: bytes, device: bytes, label: bytes, node: str, token: bytes = b"") -> Any:
        self.tokens.append(token)
        return super().open_session(user, device, label, node, token)


class Entering(Served):
    """A server, and ways in."""

    def authenticate(self, credentials: Credentials) -> bool:
        self.asked += 1
        return credentials.secret == b"right"

    async def begin(self, **arguments: Any) -> None:
        self.asked = 0
        self.store = Noted()
        await self.serve(**{"store": self.store, "authenticator": self.authenticate, **arguments})

    async def token(self, uid: str = "alice", device: bytes = b"alice's notebook", **how: Any) -> bytes:
        """The resume token of a login by password."""
        raw = await self.greeted()
        given: bytes = (await raw.login(uid, device=device, secret=b"right", **how)).resume
        return given

    async def resumed(self, token: bytes, uid: str = "alice", device: bytes = b"alice's notebook", **how: Any) -> Any:
        """What a login by a token gives: the response's values, or an error."""
        raw = await self.greeted()
        try:
            return await raw.login(uid, device=device, secret=token, method=RESUME, **how)
        except ImError as error:
            return error.code

    async def come_from(self, host: str) -> Raw:
        """A connection from another address of this machine, after its hello."""
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", self.port(), bindAddress=(host, 0))
        raw: Raw = await connectProtocol(endpoint, Raw())
        self.addCleanup(raw.close)
        await raw.hello()
        return raw


class TestResume(Entering):
    """Resume tokens."""

    async def test_a_device_comes_back_without_its_password(self) -> None:
        """If this fails, everybody must type a password after each lost connection, or a server spends its day on hashing them."""
        await self.begin()
        first = await self.token()
        second = await self.resumed(first)
        third = await self.resumed(second.resume)
        assert [len(each) for each in (first, second.resume, third.resume)] == [32] * 3
        assert len({first, second.resume, third.resume}) == 3
        assert third.session > second.session
        assert self.asked == 1, "the authenticator has better things to do"
        assert self.store.tokens == [sha256(each).digest() for each in (first, second.resume, third.resume)], "hashed, all of them"
        assert (self.server.counters.logins, self.server.counters.resumed) == (3, 2)

    async def test_a_lost_answer_shuts_nobody_out(self) -> None:
        """If this fails, a connection that breaks at the wrong moment costs the password; or a token that was copied is good for ever."""
        await self.begin()
        first = await self.token()
        lost = await self.resumed(first)
        again = await self.resumed(first)
        assert len(again.resume) == 32
        assert await self.resumed(lost.resume) is Status.NOT_AUTHENTICATED, "a later one has taken its place"
        last = await self.resumed(again.resume)
        assert await self.resumed(first) is Status.NOT_AUTHENTICATED, "it has been replaced"
        assert len((await self.resumed(last.resume)).resume) == 32

    async def test_a_token_is_for_one_user_on_one_device(self) -> None:
        """If this fails, a token from one device, or of one user, opens the door for another; or some bytes do."""
        await self.begin()
        mine = await self.token()
        await self.token("bob")
        await self.token(device=b"alice's computer")
        for token, who in (
            (mine, {"uid": "bob"}),
            (mine, {"uid": "nobody"}),
            (mine, {"device": b"alice's computer"}),
            (mine, {"device": bytes(16)}),
            (mine, {"tenant": b"acme"}),
            (sha256(mine).digest(), {}),
            (mine[:-1], {}),
            (mine + b"\0", {}),
            (bytes(32), {}),
            (b"", {}),
            (b"right", {}),
            (bytes(MAX_SECRET), {}),
        ):
            assert await self.resumed(token, **who) is Status.NOT_AUTHENTICATED, (token, who)
        assert await self.resumed(bytes(MAX_SECRET + 1)) is Status.BAD_VALUE
        assert (await self.resumed(mine)).session
        raw = await self.greeted()
        wrong = await refusal(raw.login("alice", secret=bytes(32), method=RESUME))
        nobody = await refusal(raw.login("nobody", secret=bytes(32), method=RESUME))
        assert wrong.reason == nobody.reason, "nobody learns who has an account"

    async def test_what_ends_it(self) -> None:
        """If this fails, a thief who has a token keeps what he has, whatever is done about it."""
        await self.begin()
        for revoke in (
            lambda: self.store.revoke_tokens(b"\0alice"),
            lambda: self.store.set_account(b"\0alice", "another hash", None),
            lambda: self.store.remove_device(b"\0alice", b"alice's notebook"),
        ):
            token = await self.token()
            await revoke()
            assert await self.resumed(token) is Status.NOT_AUTHENTICATED
        token, other = await self.token(), await self.greeted()
        await other.login("alice", secret=b"right")
        await other.ask(Command.DEVICES, action=DevicesAction.REMOVE, device=b"alice's notebook")
        assert await self.resumed(token) is Status.NOT_AUTHENTICATED
        raw = await self.greeted()
        out = (await raw.login("alice", secret=b"right", device=b"alice's notebook")).resume
        await raw.ask(Command.LOGOUT)
        assert await self.resumed(out) is Status.NOT_AUTHENTICATED

    async def test_a_disabled_user(self) -> None:
        """If this fails, a user who was disabled gets in, or is told more than a stranger."""
        await self.begin()
        token = await self.token()
        await self.store.set_account(b"\0alice", None, True)
        assert await self.resumed(token) is Status.NOT_AUTHENTICATED
        raw = await self.greeted()
        disabled = await refusal(raw.login("alice", secret=b"right"))
        wrong = await refusal(raw.login("alice", secret=b"wrong"))
        assert (disabled.code, disabled.reason) == (wrong.code, wrong.reason) == (Status.NOT_AUTHENTICATED, disabled.reason)
        await self.store.set_account(b"\0alice", None, False)
        await raw.login("alice", secret=b"right")
        await raw.settle()
        assert await self.resumed(token) is Status.NOT_AUTHENTICATED, "what was stolen stays worthless"

    async def test_its_life(self) -> None:
        """If this fails, a device that was lost a year ago gets in; or one that was away for a week does not."""
        await self.begin(resume_life=7 * DAY)
        self.store.ago = 7.01
        old = await self.token()
        self.store.ago = 6.99
        young = await self.token(device=b"alice's computer")
        self.store.ago = 0.0
        assert await self.resumed(old) is Status.NOT_AUTHENTICATED
        newer = await self.resumed(young, device=b"alice's computer")
        assert len(newer.resume) == 32, "who comes back now and then never needs it again"

    async def test_without_them(self) -> None:
        """If this fails, an operator who wants a password at each login does not get what he wants."""
        await self.begin(resume_life=0)
        assert await self.token() == b""
        assert self.store.tokens == [b""]
        self.server.node.resume_life, self.store.ago = 60, -1
        before = await self.token()
        self.server.node.resume_life = 0
        for token in (b"", bytes(32), before):
            assert await self.resumed(token) is Status.NOT_AUTHENTICATED

    async def test_anonymous_and_by_chance(self) -> None:
        """If this fails, a device without a password gets no token; or tokens do not come from where a simulation says."""
        await self.begin(authenticator=lambda credentials: credentials.method == LoginMethod.ANONYMOUS)
        self.server.node.random = lambda size: b"4" * size
        raw = await self.greeted()
        assert (await raw.login("alice", device=b"alice's notebook", method=LoginMethod.ANONYMOUS)).resume == b"4" * 32
        assert (await self.resumed(b"4" * 32)).session

    async def test_a_password_in_a_file(self) -> None:
        """If this fails, a password that was changed in the file, or a user who was taken out of it, leaves doors open."""
        path = Path(self.mktemp())
        write_password(path, "", "alice", "right")
        write_password(path, "", "bob", "right")
        await self.begin(authenticator=PasswordFile(path, PasswordChecks(reactor)))
        alice, bob = await self.token(), await self.token("bob")
        alice = (await self.resumed(alice)).resume
        write_password(path, "", "alice", "new")
        assert await self.resumed(alice) is Status.NOT_AUTHENTICATED
        assert len((await self.resumed(bob, "bob")).resume) == 32
        bob = await self.token("bob", b"alice's computer")
        hashed = read_passwords(path)["bob"].encode()
        path.write_text("")
        for token in (bob, bob + hashed):
            assert await self.resumed(token, "bob", device=b"alice's computer") is Status.NOT_AUTHENTICATED, token

    async def test_a_login_while_the_password_changes(self) -> None:
        """If this fails, a thief who logs in at the very moment of the change gets a token that is good for ever."""
        checking: Deferred[bool] = Deferred()

        @implementer(IPasswords)
        class Slow:
            hashed = b"old"

            def authenticate(self, credentials: Credentials) -> Deferred[bool]:
                return checking

            def knows(self, tenant: str, uid: str) -> bool:
                return True

            def seal(self, tenant: str, uid: str) -> bytes:
                return self.hashed

            def close(self) -> None:
                pass

        slow = Slow()
        await self.begin(authenticator=slow)
        thief = await self.greeted()
        asked = thief.login("alice", device=b"alice's notebook", secret=b"old")
        await (await self.greeted()).settle()  # by now the server has his request
        slow.hashed = b"new"
        checking.callback(True)
        assert await self.resumed((await asked).resume) is Status.NOT_AUTHENTICATED


class TestStore(Entering):
    """Passwords in the store, whole."""

    async def test_accounts(self) -> None:
        """If this fails, users that were made in the store cannot log in; or others can; or threads outlive the server."""
        store = Noted()
        await store.set_account(b"\0alice", FAST.hash("right"), None)
        await self.begin(store=store, authenticator=StoreAccounts(store, PasswordChecks(reactor, hasher=FAST)))
        self.store = store
        token = await self.token()
        assert (await self.resumed(token)).session
        raw = await self.greeted()
        for uid, secret in (("alice", b"wrong"), ("bob", b"right"), ("alice", b"x" * MAX_SECRET)):
            assert (await refusal(raw.login(uid, secret=secret))).code is Status.NOT_AUTHENTICATED
        assert (await refusal(raw.login("alice", secret=b"x" * (MAX_SECRET + 1)))).code is Status.BAD_VALUE
        assert [account.user for account in await store.list_accounts(b"", 9)] == [b"\0alice"], "trying makes no accounts"
        assert any(thread.name.startswith("passwords") for thread in threading.enumerate())
        await self.server.stopService()
        assert not any(thread.name.startswith("passwords") for thread in threading.enumerate())


class TestGuessing(Entering):
    """Somebody tries passwords."""

    async def guess(self, host: str, uid: str, times: int) -> dict[Any, int]:
        """Wrong passwords from one address, one after the other; gives how often each answer came."""
        found: dict[Any, int] = {}
        raw = await self.come_from(host)
        for _ in range(times):
            if raw.lost is not None:
                raw = await self.come_from(host)
            asked = raw.login(uid, secret=b"wrong")
            code: Any
            try:
                await asked
                code = Status.OK
            except ImError as error:
                code = error.code
                assert code is not Status.BUSY or error.retry_after > 0
            except AssertionError:
                code = await raw.disconnected()
            found[code] = found.get(code, 0) + 1
        return found

    async def test_a_thousand_wrong_passwords(self) -> None:
        """If this fails, passwords can be guessed as fast as a server can hash them, or an attack shuts its victim out."""
        hand = Hand()
        await self.begin(hand=hand, limits=Limits(login=1e6, handshake=1e6))
        token = await self.token()
        self.asked = 0
        found = await self.guess("127.0.0.1", "alice", 1000)
        assert self.asked == PER_ADDRESS == found[Status.NOT_AUTHENTICATED] + found[Disconnect.LOGIN_FAILED]
        assert found[Status.BUSY] == 1000 - PER_ADDRESS == self.server.counters.held_back
        assert (await refusal((await self.greeted()).login("alice", secret=b"right"))).code is Status.BUSY, "nothing is looked at"
        assert (await refusal((await self.greeted()).login("bob", secret=b"right"))).code is Status.BUSY
        honest = await self.come_from("127.0.0.2")
        await honest.login("alice", secret=b"right")
        await honest.settle()
        assert (await self.resumed(token)).session, "her other device is not held back where the attack comes from"

        hand.advance(20.0)
        mallory = await self.come_from("127.0.0.1")
        await mallory.login("mallory", secret=b"right")
        found = await self.guess("127.0.0.1", "alice", 10)
        assert found == {Status.NOT_AUTHENTICATED: 1, Status.BUSY: 9}, "a login of his own gives him nothing back"

    async def test_from_many_addresses(self) -> None:
        """If this fails, many machines together guess without a limit, or a user whose account is being tried is thrown out."""
        hand = Hand()
        await self.begin(hand=hand, limits=Limits(login=1e6, handshake=1e6))
        token = await self.token()
        self.asked = 0
        for host in range(2, 8):
            await self.guess(f"127.0.0.{host}", "alice", PER_ADDRESS + 1)
        assert self.asked == PER_ACCOUNT
        assert (await refusal((await self.greeted()).login("alice", secret=b"right"))).code is Status.BUSY
        await (await self.greeted()).login("bob", secret=b"right")
        assert (await self.resumed(token)).session

    async def test_all_at_once(self) -> None:
        """If this fails, guesses that come at the same moment are not counted until they are answered, and so are free."""
        waiting: list[Deferred[bool]] = []

        def later(credentials: Credentials) -> Deferred[bool]:
            waiting.append(Deferred())
            return waiting[-1]

        hand = Hand()
        await self.begin(authenticator=later, hand=hand)
        await self.crowd(PER_ADDRESS + 15)
        await until(lambda: self.server.counters.held_back == 15, "those for whom there was nothing left")
        assert len(waiting) == PER_ADDRESS
        for number, check in enumerate(waiting[:20]):
            check.callback(number < 10)
        hand.advance(10.5)  # the others are given up, and have guessed all the same
        await until(lambda: all(check.called for check in waiting), "the server to forget them")
        await self.crowd(15)
        await until(lambda: self.server.counters.held_back == 20, "those for whom there was nothing left")
        assert len(waiting) == PER_ADDRESS + 10, "what was right has come back, and no more"
        for check in waiting[PER_ADDRESS:]:
            check.callback(False)

    async def crowd(self, size: int) -> None:
        """So many connections guess at the same moment."""
        self.guessing = [await self.greeted() for _ in range(size)]
        for raw in self.guessing:
            raw.login("alice", secret=b"x").addErrback(lambda _: None)

    async def test_wrong_resume_tokens(self) -> None:
        """If this fails, resume tokens can be tried without end on one connection; or somebody who tries them shuts users out."""
        await self.begin()
        for _ in range(30):
            raw = await self.greeted()
            for _ in range(4):
                assert (await refusal(raw.login("alice", secret=bytes(32), method=RESUME))).code is Status.NOT_AUTHENTICATED
            raw.login("alice", secret=bytes(32), method=RESUME).addErrback(lambda _: None)
            assert await raw.disconnected() is Disconnect.LOGIN_FAILED
        assert len(await self.token()) == 32


class Slow:
    """What is asked first waits; what is asked later is answered at once.

    Args:
        cancelled: what the one that waits does when nobody wants its answer any more.

    Attributes:
        asked: those that wait.
    """

    def __init__(self, cancelled: Callable[[Deferred[Any]], object] | None) -> None:
        self._cancelled = cancelled
        self.asked: list[Deferred[Any]] = []

    def first(self, answer: Any) -> Any:
        if self.asked:
            return answer
        self.asked.append(Deferred(self._cancelled))
        return self.asked[0]


class SlowStore(MemoryStore):
    """Lets the first session in late."""

    def __init__(self, slow: Slow) -> None:
        super().__init__()
        self._slow = slow

    def open_session(self, user: bytes, device: bytes, label: bytes, node: str, token: bytes = b"") -> Any:
        opened = super().open_session(user, device, label, node, token)
        waiting = self._slow.first(None)
        return opened if waiting is None else waiting.addCallback(lambda _: opened)


class SlowRouter(SingleRouter):
    """Knows of the first session late."""

    def __init__(self, slow: Slow) -> None:
        super().__init__()
        self._slow = slow

    def attach(self, session: Any) -> Any:
        return self._slow.first(None)


def alive(node: object) -> list[Pump]:
    """A server's ends of connections that something in this process still holds."""
    gc.collect()
    return [each for each in gc.get_objects() if isinstance(each, Pump) and each.owner is node]


class Logins(Served):
    """What becomes of them."""

    async def test_a_login_when_the_store_takes_nothing_any_more(self) -> None:
        """If this fails, the log of a node that was taken for dead has a traceback for everybody who came just then."""
        store = MemoryStore()
        await self.serve(store=store)
        store.open_session = lambda *_: fail(StoreError("another process has become the node 'im'"))  # type: ignore[method-assign]
        raw = await self.greeted()
        raw.login("alice").addErrback(lambda _: None)
        assert await raw.disconnected() is Disconnect.STORE_FAILED
        assert not self.flushLoggedErrors(), "the node says it, once"

    async def test_a_client_that_goes_while_its_login_is_under_way(self) -> None:
        """If this fails, a crowd that gave up waiting for a slow check of passwords fills the memory, the log, or the places of others; or
        a user seems to be online who is not."""
        cancelled: dict[str, Callable[[Deferred[Any]], object] | None] = {
            "nothing is done about it": None,
            "it says so in its own words": lambda waiting: waiting.errback(ConnectionAbortedError("the request was cancelled")),
            "the answer comes nevertheless": lambda waiting: waiting.callback(True),
        }
        for how, canceller in cancelled.items():
            for where in ("authenticator", "coroutine", "store", "router"):
                slow = Slow(canceller)

                async def coroutine(credentials: Credentials, slow: Slow = slow) -> bool:
                    answer = slow.first(True)
                    return bool(await answer if isinstance(answer, Deferred) else answer)

                parts: dict[str, dict[str, Any]] = {
                    "authenticator": {"authenticator": lambda credentials, slow=slow: slow.first(True)},
                    "coroutine": {"authenticator": coroutine},
                    "store": {"store": SlowStore(slow)},
                    "router": {"router": SlowRouter(slow)},
                }
                hand = Hand()
                server = await self.serve(hand=hand, **parts[where])
                node, counters = server.node, server.counters
                raw = await self.greeted()
                raw.login("alice", device=bytes(16)).addErrback(lambda _: None)
                await until(lambda slow=slow: slow.asked, "it to wait")
                await raw.close()
                hand.advance(10.5)  # nothing is read from it meanwhile, so its end is met at the deadline of a login
                await until(lambda node=node: not node.pumps, "the end")
                assert slow.asked[0].called, "it is told that nobody waits any more"
                if canceller is None:
                    slow.asked[0].callback(True)  # too late
                hand.advance(FARTHEST)  # until then the list of deadlines may hold it
                await until(lambda node=node: not alive(node), f"{where}, {how}: all of it to be gone")
                assert (list(node.sessions), node.newcomers, counters.connections, counters.sessions) == ([], {}, 0, 0), (where, how)
                assert (counters.logins, counters.refused, counters.errors) == (0, 0, 0), (where, how)
                assert self.flushLoggedErrors() == [], (where, how)
                again = await self.user("alice", device=bytes(16))
                await again.send("alice", b"here again")
                assert (counters.logins, counters.sessions, len(node.sessions)) == (1, 1, 1), (where, how)
                await again.close()
                await server.stopService()

    async def test_a_login_that_was_overtaken_on_another_node(self) -> None:
        """If this fails, a device whose login took long, and which has logged in on another node meanwhile, stays online on both."""
        slow, hand = Slow(None), Hand()
        store = SlowStore(slow)
        server = await self.serve(hand=hand, store=store)
        raw = await self.greeted()
        raw.login("alice", device=bytes(16)).addErrback(lambda _: None)
        await until(lambda: slow.asked, "the store to wait")
        await store.open_session(b"\0alice", bytes(16), b"", "another node")
        hand.advance(RENEWAL)
        slow.asked[0].callback(None)
        assert await raw.disconnected() is Disconnect.TAKEN_OVER
        assert list(server.node.sessions) == []

    async def test_every_refused_login_is_counted(self) -> None:
        """If this fails, an operator looks for clients that cannot log in, and the figure says that there are none."""

        def authenticate(credentials: Credentials) -> bool:
            if credentials.secret == b"busy":
                raise ImError(Status.BUSY, retry_after=1)
            if credentials.secret == b"fault":
                raise ZeroDivisionError
            return credentials.secret == b"right"

        store = MemoryStore()
        server = await self.serve(authenticator=authenticate, store=store)
        raw = await self.greeted()
        for count, (how, code) in enumerate(
            (
                ({"uid": ""}, Status.BAD_VALUE),
                ({"uid": b"\xff"}, Status.BAD_VALUE),
                ({"uid": "a", "tenant": b"x" * 65}, Status.BAD_VALUE),
                ({"uid": "a", "label": b"x" * 65}, Status.BAD_VALUE),
                ({"uid": "a", "secret": b"x" * 769}, Status.BAD_VALUE),
                ({"uid": "a", "method": 9}, Status.UNSUPPORTED),
                ({"uid": "a", "secret": b"wrong"}, Status.NOT_AUTHENTICATED),
                ({"uid": "a", "secret": b"busy"}, Status.BUSY),
            ),
            1,
        ):
            assert (await refusal(raw.login(**how))).code is code, how  # type: ignore[arg-type]
            assert server.counters.refused == count, how
        assert (await refusal(raw.ask_body(Command.LOGIN, b"no login"))).code is Status.BAD_BODY
        assert server.counters.refused == 9
        assert server.counters.errors == 9, "each was answered"
        raw.login("a", secret=b"fault").addErrback(lambda _: None)
        assert await raw.disconnected() is Disconnect.INTERNAL
        assert len(self.flushLoggedErrors(ZeroDivisionError)) == 1
        assert server.counters.refused == 10

        def away(*_: object) -> Any:
            raise ImError(Status.UNAVAILABLE)

        store.open_session = away  # type: ignore[method-assign]
        raw = await self.greeted()
        assert (await refusal(raw.login("a", secret=b"right"))).code is Status.UNAVAILABLE
        assert (server.counters.refused, server.counters.logins) == (11, 0)
