"""Getting in and out: hello, login, logout, ping, window, kick, devices.

Strategy: before a session exists, a connection has its own small command table, so the hot path needs no check of states. A login is
*attach, then read*: the session is in the table and with the router before its client is told, so that whatever is committed
from then on is pushed, and whatever was committed before is found by the client's sync.

A device that logs in again takes its earlier session over: the store's higher number decides, and the older one is told why.

Each login gives the device a resume token, and the next login may bring that instead of a password. The store keeps its hash, made over
the token and the user's *seal* (`IPasswords.seal`), so that a new password makes it worthless wherever the passwords are kept. The seal is
taken before the password is checked: a login that was under way when the password changed gets a token of the old one.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, inlineCallbacks, succeed

from twisted_im.core.connection import Event, State
from twisted_im.errors import Disconnect, ImError, RemoteProtocolError, Status
from twisted_im.pump import Pump
from twisted_im.server.interfaces import Credentials, Ended, IPasswords, StoreError
from twisted_im.server.names import answer, checked_name, user_key
from twisted_im.server.node import Node
from twisted_im.server.sessions import Session
from twisted_im.wire.codec import CODECS, response, tag
from twisted_im.wire.framing import Frame
from twisted_im.wire.schema import MAX_AGENT, MAX_LABEL, MAX_SECRET, MAX_TENANT, MAX_UID, Command, DevicesAction, Kind, LoginMethod

_HELLO = CODECS[Kind.REQUEST, Command.HELLO]
_LOGIN = CODECS[Kind.REQUEST, Command.LOGIN]
_LOGOUT = CODECS[Kind.REQUEST, Command.LOGOUT]
_PONG = CODECS[Kind.RESPONSE, Command.PING]
_WINDOW = CODECS[Kind.NOTIFY, Command.WINDOW]
_KICK = CODECS[Kind.REQUEST, Command.KICK]
_DEVICES = CODECS[Kind.REQUEST, Command.DEVICES]
_DEVICES_LISTED = CODECS[Kind.RESPONSE, Command.DEVICES]
_FAREWELL = CODECS[Kind.NOTIFY, Command.DISCONNECT]

#: Wrong secrets on one connection before it is ended; guessing then costs a new handshake.
MAX_REFUSALS = 5

#: Bytes of a resume token: 256 bits are not guessed.
RESUME_SIZE = 32


class Access:
    """The session family's commands, on behalf of one node."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._refusals: dict[Pump, int] = {}
        self._under_way: dict[Pump, Deferred[None]] = {}
        hello, login, ping = (tag(Kind.REQUEST, c) for c in (Command.HELLO, Command.LOGIN, Command.PING))
        end = tag(Kind.NOTIFY, Command.DISCONNECT)
        node.strangers[State.START] = {hello: self.hello, end: self.farewell}
        node.strangers[State.GREETED] = {login: self.login, ping: self._stranger_ping, end: self.farewell}
        node.on_lost.append(self.lost)
        node.on_renewed.append(self.look_for_ended)
        self._ended_mark = 0
        self._ended: dict[tuple[bytes, bytes], tuple[Ended, float]] = {}  # by user and device: what was seen lately, and when
        node.register(Kind.REQUEST, Command.LOGOUT, self.logout)
        node.register(Kind.REQUEST, Command.PING, self._ping)
        node.register(Kind.RESPONSE, Command.PING, self._pong)
        node.register(Kind.NOTIFY, Command.WINDOW, self.window)
        node.register(Kind.NOTIFY, Command.DISCONNECT, self._session_farewell)
        node.register(Kind.REQUEST, Command.KICK, self.kick)
        node.register(Kind.REQUEST, Command.DEVICES, self.devices)

    # ---- before login

    def hello(self, pump: Pump, frame: Frame) -> None:
        hello = _HELLO.read(frame[3])
        if len(hello.agent) > MAX_AGENT:
            raise RemoteProtocolError(Disconnect.MALFORMED, f"an agent of {len(hello.agent)} bytes, where {MAX_AGENT} are the most")
        agreed = pump.connection.greet(hello, pump.turn.now())
        pump.commands = self._node.strangers[State.GREETED]
        now = int(pump.turn.wall() * 1000)
        pump.write(response(Command.HELLO, frame[1], **agreed, time=now, node=self._node.name.encode()))

    def login(self, pump: Pump, frame: Frame) -> Deferred[None]:
        try:
            wanted, credentials = self._asked(pump, frame)
        except ImError:
            self._node.counters.refused += 1
            raise
        pump.connection.advance(Event.LOGIN, pump.turn.now())
        done: Deferred[None] = self._login(pump, frame[1], credentials, wanted)
        self._under_way[pump] = done
        done.addErrback(self._refused, pump)
        done.addBoth(self._over, pump)
        return done

    def _asked(self, pump: Pump, frame: Frame) -> tuple[Any, Credentials]:
        """What a login wants, if it is one."""
        wanted = _LOGIN.read(frame[3])
        tenant = checked_name(wanted.tenant, "tenant", most=MAX_TENANT, empty=True)
        uid = checked_name(wanted.uid, "uid", most=MAX_UID)
        if len(wanted.label) > MAX_LABEL or len(wanted.secret) > MAX_SECRET:
            raise RemoteProtocolError(Status.BAD_VALUE, "a label or secret that is too long")
        if wanted.method not in list(LoginMethod):
            raise RemoteProtocolError(Status.UNSUPPORTED, f"login method {wanted.method} is not known")
        return wanted, Credentials(wanted.method, tenant, uid, wanted.secret, wanted.device, pump.peer)

    def _over(self, result: Any, pump: Pump) -> Any:
        self._under_way.pop(pump, None)
        return result

    @inlineCallbacks
    def _login(self, pump: Pump, request_id: int, credentials: Credentials, wanted: Any) -> Any:
        node = self._node
        asked = pump.turn.now()
        user = node.one_key(user_key(wanted.tenant, wanted.uid))
        seal = yield self._seal(credentials)
        judge = self._resumes if credentials.method == LoginMethod.RESUME else self._proves
        if not (yield judge(user, credentials, seal)):
            raise ImError(Status.NOT_AUTHENTICATED)
        live = node.sessions.get(user, wanted.device)
        if pump.connection.state is not State.LOGIN:
            return  # it went away meanwhile, and a number for it would shut out the session that the device has by now
        if live is not None and live.asked > asked:
            raise ImError(Disconnect.TAKEN_OVER)  # its check took longer than that of a later login
        token = node.random(RESUME_SIZE) if node.resume_life else b""
        opened = yield node.store.open_session(user, wanted.device, wanted.label, node.name, _hashed(token, seal))
        if pump.connection.state is not State.LOGIN:
            return  # it went away meanwhile
        ended = self._ended_already(user, wanted.device, opened.number)
        if ended is not None:
            raise ImError(ended)
        user = node.known.setdefault(user, user)
        session = Session(pump, wanted.tenant, wanted.uid, wanted.device, wanted.label, opened.number)
        session.user = user
        session.asked = asked
        older = node.sessions.add(session)
        if older is session:
            raise ImError(Disconnect.TAKEN_OVER)
        if older is not None:
            node.router.detach(older)
            self.end(older, ImError(Disconnect.TAKEN_OVER))
        session.behind = True  # nothing overtakes the login's answer; the client's sync finds what was left out
        try:
            attached = node.router.attach(session)
            if attached is not None:
                yield attached
        except Exception:
            self._leave(session)
            raise
        if pump.connection.state is not State.LOGIN:
            self._leave(session)  # it went away meanwhile, and nobody would let this session go any more
            return
        session.behind = False
        pump.context = session
        pump.commands = node.commands
        node.newcomers.pop(pump, None)
        self._refusals.pop(pump, None)
        pump.welcome()
        node.counters.logins += 1
        node.counters.resumed += credentials.method == LoginMethod.RESUME
        node.counters.sessions = len(node.sessions)
        pump.write(
            response(Command.LOGIN, request_id, session=opened.number, epoch=opened.epoch, horizon=opened.horizon, resume=token)
        )

    def _seal(self, credentials: Credentials) -> Deferred[bytes]:
        """What the user's resume tokens are bound to, beside the user and the device."""
        authenticator = self._node.authenticator
        if not self._node.resume_life or not IPasswords.providedBy(authenticator):
            return succeed(b"")
        return answer(authenticator.seal, credentials.tenant, credentials.uid)

    def _resumes(self, user: bytes, credentials: Credentials, seal: bytes) -> Deferred[bool]:
        """Whether the secret is a resume token of this device."""
        node = self._node
        if not node.resume_life or len(credentials.secret) != RESUME_SIZE:
            return succeed(False)
        oldest = int((node.turn.wall() - node.resume_life) * 1000)
        found: Deferred[bool] = node.store.use_token(user, credentials.device, _hashed(credentials.secret, seal), oldest)
        return found

    @inlineCallbacks
    def _proves(self, user: bytes, credentials: Credentials, seal: bytes) -> Any:
        """Whether the authenticator takes the secret; it is not asked if too many were wrong before."""
        node = self._node
        try:
            node.guesses.begin(user, credentials.address, node.turn.now())
        except ImError:
            node.counters.held_back += 1
            raise
        try:
            right = yield answer(node.authenticator.authenticate, credentials)
        except CancelledError:
            raise  # nobody will know whether it was right, so it counts as wrong
        except Exception as error:
            if not isinstance(error, ImError) or error.code is not Status.NOT_AUTHENTICATED:
                node.guesses.was_none(user, credentials.address)
            raise
        if right:
            node.guesses.was_none(user, credentials.address)
        return right

    def _refused(self, failure: Any, pump: Pump) -> Any:
        if pump.connection.state is State.CLOSED:
            return None  # nobody was refused: it was cancelled, and this is how whoever was asked puts that
        self._node.counters.refused += 1
        if failure.check(StoreError):
            raise ImError(Disconnect.STORE_FAILED)  # the node has said why, or is about to
        if pump.connection.state is State.LOGIN:
            pump.connection.advance(Event.REFUSED, pump.turn.now())
            if failure.check(ImError) and failure.value.code is Status.NOT_AUTHENTICATED:
                self._refusals[pump] = self._refusals.get(pump, 0) + 1
                if self._refusals[pump] >= MAX_REFUSALS:
                    raise ImError(Disconnect.LOGIN_FAILED)
        return failure

    def lost(self, pump: Pump) -> None:
        """A connection is gone."""
        self._refusals.pop(pump, None)
        under_way = self._under_way.pop(pump, None)
        if under_way is not None:
            under_way.cancel()  # nobody waits for that answer: a crowd that has gone must not keep the next one waiting
        session = pump.context
        if isinstance(session, Session) and self._node.sessions.remove(session):
            self._node.router.detach(session)
            self._node.counters.sessions = len(self._node.sessions)

    # ---- once open

    def end(self, session: Session, error: ImError, *, last: bytes | None = None) -> None:
        """Ends a session and its connection; nothing more is pushed to it."""
        self._leave(session)
        session.pump.disconnect(error, last=last)

    def _leave(self, session: Session) -> None:
        session.behind = True
        if self._node.sessions.remove(session):
            self._node.router.detach(session)
            self._node.counters.sessions = len(self._node.sessions)

    @inlineCallbacks
    def look_for_ended(self, look: object = None) -> Any:
        """Ends the sessions that may not go on, as the store has it: the account was changed, or the device removed, or it has logged in on
        another node."""
        self._ended_mark, found = yield self._node.store.ended_since(self._ended_mark)
        now = self._node.turn.now()
        forgotten = now - self._node.limits.login
        self._ended = {key: known for key, known in self._ended.items() if known[1] > forgotten}
        for ended in found:
            self._ended[ended.user, ended.device] = ended, now
            for session in self._node.sessions.of(ended.user):
                if session.number <= ended.number and ended.device in (b"", session.device):
                    self.end(session, ImError(ended.code))

    def _ended_already(self, user: bytes, device: bytes, number: int) -> Disconnect | None:
        """Why a session has ended that the store has only just told of: its end may have been seen before."""
        for key in ((user, device), (user, b"")):
            ended, _ = self._ended.get(key, (None, 0.0))
            if ended is not None and number <= ended.number:
                return ended.code
        return None

    def logout(self, session: Session, frame: Frame) -> Deferred[None]:
        _LOGOUT.read(frame[3])
        answered = self._node.ledger.answered()  # what came before it has its answer first
        answered.addCallback(lambda _: self._node.store.revoke_tokens(session.user, session.device))
        return answered.addCallback(lambda _: self.end(session, ImError(Disconnect.NORMAL), last=response(Command.LOGOUT, frame[1])))

    def window(self, session: Session, frame: Frame) -> None:
        session.connection.acknowledge(_WINDOW.read(frame[3]).count, session.pump.turn.now())

    def kick(self, session: Session, frame: Frame) -> None:
        device = _KICK.read(frame[3]).device
        self._kick(session, device)
        session.pump.write(response(Command.KICK, frame[1]))

    def devices(self, session: Session, frame: Frame) -> Deferred[None]:
        wanted = _DEVICES.read(frame[3])
        if wanted.action == DevicesAction.LIST:
            return self._list_devices(session, frame[1])
        if wanted.action == DevicesAction.REMOVE:
            return self._remove_device(session, frame[1], wanted.device)
        raise RemoteProtocolError(Status.BAD_VALUE, f"action {wanted.action} is not known")

    @inlineCallbacks
    def _list_devices(self, session: Session, request_id: int) -> Any:
        found = yield self._node.store.devices(session.user)
        rows = []
        room = session.connection.max_body - _DEVICES_LISTED.fixed.size
        for device in sorted(found, key=lambda device: -device.last_login):
            room -= 4 + _DEVICES_LISTED.rows.fixed.size + len(device.label)  # type: ignore[union-attr]  # it has rows
            if room < 0:
                break  # the oldest are left out of an answer that could not be taken
            live = self._node.sessions.get(session.user, device.device)
            rows.append(
                {
                    "device": device.device,
                    "session": device.session,
                    "online": int(live is not None),
                    "last_login": device.last_login,
                    "label": device.label,
                }
            )
        session.pump.write(response(Command.DEVICES, request_id, devices=rows))

    @inlineCallbacks
    def _remove_device(self, session: Session, request_id: int, device: bytes) -> Any:
        if device == session.device:
            raise ImError(Status.BAD_VALUE, "a device cannot remove itself: log out, and remove it from another one")
        if not (yield self._node.store.remove_device(session.user, device)):
            raise ImError(Status.NO_SUCH, "no such device")
        self._kick(session, device)
        session.pump.write(response(Command.DEVICES, request_id, devices=()))

    def _kick(self, session: Session, device: bytes) -> None:
        other = self._node.sessions.get(session.user, device)
        if other is not None and other is not session:
            self.end(other, ImError(Disconnect.KICKED))

    def _session_farewell(self, session: Session, frame: Frame) -> None:
        self.farewell(session.pump, frame)
        self._leave(session)

    def farewell(self, pump: Pump, frame: Frame) -> None:
        """The client says why it goes."""
        _FAREWELL.read(frame[3])
        pump.hang_up()

    def _stranger_ping(self, pump: Pump, frame: Frame) -> None:
        pump.answer_ping(frame)

    def _ping(self, session: Session, frame: Frame) -> None:
        session.pump.answer_ping(frame)

    def _pong(self, session: Session, frame: Frame) -> None:
        _PONG.read(frame[3])
        session.pump.connection.ponged()


def _hashed(token: bytes, seal: bytes) -> bytes:
    """What the store keeps of a resume token; nothing of none."""
    return sha256(token + seal).digest() if token else b""
