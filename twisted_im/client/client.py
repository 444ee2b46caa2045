"""A client: one device of one user, kept connected, as a Twisted service.

Strategy: this file is the life and the public face; sending, reading and the single connection have files of their own. `ClientService`
keeps the connection up; it asks this client how long to wait, and so the server's hints, the redirects and the backoff meet in one place.
One step at the end of each reactor turn moves everything (`_step`), and one timer wakes it when nothing comes in.

    async def main(reactor):
        client = Client("tls:im.example.org:7778", uid="alice", secret="…", state="alice.json")
        client.startService()
        sending = client.send("bob", "hello")
        await sending.accepted
        async for message in client.messages():
            print(message.sender, message.text)
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from random import Random, SystemRandom
from typing import Any, TypeVar

from twisted.application.internet import ClientService
from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, ensureDeferred, fail, succeed
from twisted.internet.error import ConnectingCancelledError
from twisted.internet.interfaces import IProtocolFactory, IStreamClientEndpoint
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from twisted_im.client.destination import Destination, explain
from twisted_im.client.reading import Listener, Reader
from twisted_im.client.sending import Sender, Sending, uid_bytes
from twisted_im.client.session import Answered, AskSecret, Credentials, Lost, Session, Trace
from twisted_im.client.state import FileState, MemoryState, State, recalled
from twisted_im.client.values import (
    LIFE,
    Conversation,
    Device,
    History,
    LeftOut,
    Life,
    Message,
    Receipt,
    Signal,
    Standing,
    typed,
)
from twisted_im.core.connection import Limits
from twisted_im.core.delivery import ClientIds
from twisted_im.core.pacing import full_jitter
from twisted_im.errors import Disconnect, ImError, LocalProtocolError, Status
from twisted_im.pump import Pump, Turn
from twisted_im.wire.schema import (
    MAX_LABEL,
    MAX_SECRET,
    MAX_TENANT,
    MAX_U64,
    Command,
    ConversationKind,
    DevicesAction,
    Direction,
    LoginMethod,
    SignalType,
    SyncScope,
)

log = Logger()
T = TypeVar("T")

#: A phone's network may take its time; the server has the stricter limits. It is also the server that says how large a body may be: the
#: bound here is the largest that any server can be given, so that none locks this client out.
LIMITS = Limits(handshake=15.0, login=30.0, max_body=16 * 2**20)


#: Seconds before the server forgets a client id from when on the id is not sent again: what waits in the queue must not meet that moment.
STALE_SOON = 60.0


class Client(Service):
    """One device of one user.

    Args:
        endpoint: "host:port", "tls:host:port", another client endpoint string of Twisted, or an endpoint.
        uid: the user.
        secret: the password or token; or a function that gives it, a Deferred of it or an awaitable, and is called whenever a login needs
            it. That is at the first one, and when the server does not take the resume token that each login leaves in `state`.
        tenant: empty for the default one.
        method: how the secret proves who it is.
        device: 16 bytes; by default the one that `state` has, or a new one.
        label: what people call this device.
        state: a path for a small file, or a `State`; None keeps everything in memory, and a new run is then a new device.
        trust: a PEM file with the certificates to trust under TLS; by default the system's authorities.
        certificate: a PEM file with a key and its certificate, for servers that ask for one.
        reactor: by default the global one.
        clock: seconds, monotonic.
        wall: seconds since 1970; the server's clock counts as soon as it is known.
        random: for ids and for the spread of reconnects.
        catch_up: a conversation that is further behind than so many messages goes on at its newest ones; None for no bound.
        queue: messages that may wait for the application before the server is asked to wait.
        limits: what is asked of the connection.
        answer: seconds; a request unanswered for so long ends the connection.
        patience: seconds until `on_unsent` is told of a message that is still not accepted.
        agent: what this program calls itself in the server's log.
        on_message: gets each `Message`, once and in order within its conversation. It may give a Deferred or a coroutine, and the next
            message waits for that. A failure is logged, and the message counts as shown. Without it, use `messages`.
        on_receipt: gets each `Receipt` that is news.
        on_signal: gets each `Signal` that still means something.
        on_state: gets a `Standing` whenever the client's life moves on.
        on_unsent: gets a `Sending` that has waited for `patience`; it stays queued.
        on_reset: gets a reason: the server's store began afresh, so conversation ids and seqs from before mean nothing.
        on_left_out: gets a `LeftOut` when messages were passed over (see `catch_up`).
        on_frame: sees every frame: "in" or "out", and (tag, request id, flags and status, body).

    Raises:
        ValueError: an argument cannot be understood; the message says what to do.
        OSError: the file of `trust`, `certificate` or `state` cannot be read.

    Attributes:
        standing: the last `Standing`.
    """

    def __init__(
        self,
        endpoint: str | IStreamClientEndpoint,
        *,
        uid: str,
        secret: bytes | str | AskSecret = b"",
        tenant: str = "",
        method: LoginMethod = LoginMethod.PASSWORD,
        device: bytes | None = None,
        label: str = "",
        state: str | os.PathLike[str] | State | None = None,
        trust: str | os.PathLike[str] | None = None,
        certificate: str | os.PathLike[str] | None = None,
        reactor: Any = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        random: Random | None = None,
        catch_up: int | None = 1000,
        queue: int = 1000,
        limits: Limits = LIMITS,
        answer: float = 30.0,
        patience: float = 120.0,
        agent: str = "twisted_im",
        on_message: Callable[[Message], Any] | None = None,
        on_receipt: Callable[[Receipt], object] | None = None,
        on_signal: Callable[[Signal], object] | None = None,
        on_state: Callable[[Standing], object] | None = None,
        on_unsent: Callable[[Sending], object] | None = None,
        on_reset: Callable[[str], object] | None = None,
        on_left_out: Callable[[LeftOut], object] | None = None,
        on_frame: Trace | None = None,
    ) -> None:
        if reactor is None:
            from twisted.internet import reactor as default  # installs the reactor: not before somebody wants a client

            reactor = default
        random = random or SystemRandom()
        self.standing = Standing(Life.STOPPED)
        self._reactor = reactor
        self._clock = clock
        self._limits = limits
        self._answer = answer
        self._agent = agent.encode("utf-8")
        self._on_signal, self._on_state, self._on_unsent, self._on_reset = on_signal, on_state, on_unsent, on_reset
        self._on_frame = on_frame
        self._turn = Turn(reactor, clock=clock, wall=wall)
        self._turn.steps.append(self._step)
        self._timer: Any = None
        self._news: deque[Standing] = deque()
        self._telling: Any = None
        self._wall_ahead = wall() - clock()  # until a server says better
        self._waiting: list[Deferred[None]] = []
        self._stopping: list[Deferred[None]] | None = None  # while a stop is under way: those who wait for its end
        self._session: Session | None = None
        self._failures = 0
        self._jitter = full_jitter(random.random)
        self._hint = 0.0
        self._moved: list[tuple[Command, dict[str, Any], Answered]] | None = None

        memory = FileState(state) if isinstance(state, str | os.PathLike) else state if state is not None else MemoryState()
        kept = recalled(memory, f"{tenant}/{uid}", device, random.randbytes)
        self._kept = kept
        self._credentials = Credentials(
            method, _bounded(tenant, "tenant", MAX_TENANT), uid_bytes(uid), kept.device, _bounded(label, "label", MAX_LABEL),
            secret if callable(secret) else _bounded(secret, "secret", MAX_SECRET),
        )  # fmt: skip
        self._destination = Destination(
            endpoint, reactor, trust=trust, certificate=certificate, connecting=self._connecting, failed=self._connect_failed
        )
        ids = ClientIds(random.getrandbits)
        self._sender = Sender(
            lambda: ids.make(self.server_time()),
            accepted=lambda conversation, seq: self._reader.accepted(conversation, seq),
            unsent=lambda sending: self._tell(self._on_unsent, sending),
            clock=clock,
            patience=patience,
        )
        listener = Listener()
        listener.show = None if on_message is None else self._shower(on_message)
        listener.receipt = lambda receipt: self._tell(on_receipt, receipt)
        listener.left_out = lambda left_out: self._tell(on_left_out, left_out)
        listener.reset = self._reset
        listener.mine = self._sender.met
        listener.caught_up = self._caught_up
        self._reader = Reader(
            kept, memory, listener, book=self._turn.book, clock=clock, uid=self.uid, catch_up=catch_up, bound=queue
        )
        self._connector = self._make_connector()

    # ---- the service

    def startService(self) -> None:
        """Connects, and stays connected until it is stopped or told not to come back."""
        super().startService()
        if self._stopping is None:  # otherwise the end of the stop sees to it
            self._start()

    def _start(self) -> None:
        self._reader.open()
        self._become(Standing(Life.CONNECTING))
        self._connector.startService()

    def stopService(self) -> Deferred[None]:
        """Saves, says goodbye, and closes; messages that were not accepted stay queued in this object. It may be called again before it
        has ended: all callers wait for the same end."""
        super().stopService()
        wanted: Deferred[None] = Deferred(lambda _: None)
        if self._stopping is not None:
            self._stopping.append(wanted)
            return wanted
        self._stopping = [wanted]
        self._turn.end()
        self._reader.finish()
        self._turn.end()
        if self._session is not None:
            self._session.leave()
        self._become(Standing(Life.STOPPED))
        # Not within `ClientService`'s own step: whoever is told of the end may call this client again.
        self._connector.stopService().addCallback(lambda _: self._reactor.callLater(0, self._stopped))
        return wanted

    def _stopped(self) -> None:
        self._turn.stop()
        self._arm(None)
        self._has_not_moved()
        if self._telling is not None:
            self._telling.cancel()
        self._tell_news()
        self._connector = self._make_connector()
        self._release(Failure(CancelledError("the client was stopped")))
        stopping, self._stopping = self._stopping or [], None
        if self.running:  # started again meanwhile
            self._start()
        for each in stopping:
            if not each.called:
                each.callback(None)

    def _make_connector(self) -> ClientService:
        return ClientService(self._destination, _Factory(self), retryPolicy=self._wait, clock=self._reactor)

    def _become(self, standing: Standing) -> None:
        """Moves the life on, as far as the table has it, and tells."""
        if standing.life is self.standing.life or standing.life not in LIFE[self.standing.life]:
            return
        self.standing = standing
        log.debug("{user} is {life}: {reason}", user=self.uid, life=standing.life.value, reason=standing.reason)
        self._news.append(standing)
        if self._telling is None:
            self._telling = self._reactor.callLater(0, self._tell_news)

    def _tell_news(self) -> None:
        """Tells where the life has moved to: not at once, since this may be in the middle of `ClientService`'s own step, and what is told
        may stop it."""
        self._telling = None
        while self._news:
            self._tell(self._on_state, self._news.popleft())

    # ---- connecting

    def _connecting(self) -> None:
        self._become(Standing(Life.CONNECTING))

    def _connect_failed(self, failure: Failure) -> None:
        if not failure.check(CancelledError, ConnectingCancelledError):
            self._why = explain(failure), None
            self._has_not_moved()

    def hurry(self) -> None:
        """Connects at once, if this client waits to try again: the network is back, or somebody has asked for it."""
        if self.standing.life is Life.WAITING and self._stopping is None:
            self._failures, self._hint = 0, 0.0
            self._connector.stopService()
            self._connector = self._make_connector()
            self._connector.startService()

    #: Why the last attempt or connection ended: words, and the server's error if there was one.
    _why: tuple[str, ImError | None] = ("", None)

    def _wait(self, _: int) -> float:
        """Seconds until the next attempt. `ClientService` counts a connection as a success; here only a login is one."""
        delay = self._hint if self._moved is not None and not self._failures else max(self._jitter(self._failures), self._hint)
        self._failures += 1
        self._hint = 0.0
        self._become(Standing(Life.WAITING, *self._why, retry_in=delay))
        return delay

    def new_session(self) -> Session:
        """The owner of a new connection; for the connector."""
        sources = [self._reader.next_receipt, self._reader.next_pull, self._sender.next]
        credentials = replace(self._credentials, resume=self._kept.resume)
        self._session = Session(self, credentials, sources, agent=self._agent, answer=self._answer, trace=self._on_frame)
        return self._session

    @property
    def pump_for(self) -> tuple[Turn, Limits]:
        """What a new pump needs; for the connector."""
        return self._turn, self._limits

    # ---- what sessions tell

    def session_open(self, session: Session, login: Any) -> None:
        """The login was granted."""
        self._failures = 0
        self._wall_ahead = session.server_ahead
        lifetime = login.horizon - min(STALE_SOON, login.horizon / 10)
        self._sender.connected(session, self.server_time() - int(lifetime * 1000))
        self._reader.keep_token(login.resume)
        self._reader.connected(session, login.epoch, unsure=self._sender.unsure)
        self._become(Standing(Life.ONLINE))
        moved, self._moved = self._moved or [], None
        for asked in moved:
            session.ask(*asked)
        self._release(None)

    def session_notified(self, session: Session, command: int, values: Any) -> None:
        """A notify about messages."""
        if command == Command.MESSAGE:
            self._reader.message(values)
        elif command == Command.RECEIPT:
            self._reader.receipted(values)
        elif command == Command.SYNC:
            self._reader.behind()
        elif command == Command.SIGNAL:
            self._signalled(values)

    def session_lost(self, session: Session, reason: Failure) -> None:
        """The connection is gone: wait and come back, or end if the server said so."""
        if session is not self._session:
            return
        self._session = None
        self._sender.disconnected()
        self._reader.disconnected()
        if session.resume_refused and not session.welcomed:
            self._reader.keep_token(b"")
        error = session.end or session.fault
        self._why = (error.reason if error is not None else self._lost_words(session, reason)), error
        self._hint = session.retry_after
        if session.redirect is not None:
            self._why = self._why[0], None
            self._destination.redirect(session.redirect)
            if self._moved is None:
                self._moved = []
        else:
            self._has_not_moved()
            if not session.welcomed:
                self._destination.go_on()
        if session.end is not None and not session.come_back:
            self._become(Standing(Life.ENDED, *self._why))
            self._connector.stopService()
            self._reactor.callLater(0, self._ended)

    def _has_not_moved(self) -> None:
        """The way to another server, if it was sent to one, has come to nothing: what was asked gets no answer."""
        moved, self._moved = self._moved or [], None
        for _, _, answered in moved:
            answered(_no_connection())

    def _ended(self) -> None:
        """Tells those who wait, once `ClientService` has ended its step; a stop that came first has told them already, or will."""
        if self.standing.life is Life.ENDED:
            self._release(Failure(self.standing.error or ImError(Disconnect.NORMAL)))

    @staticmethod
    def _lost_words(session: Session, reason: Failure) -> str:
        words = explain(reason)
        if not session.greeted and words == "the connection was lost":
            return "the server closed the connection before it answered; does it speak this protocol, and is TLS right?"
        return words

    def _release(self, failure: Failure | None) -> None:
        """Ends the wait of `when_online`; and, when there is nothing more to come, of those who wait for messages."""
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            if failure is None:
                each.callback(None)
            else:
                each.errback(failure)
        if failure is not None:
            self._reader.close(failure)

    # ---- the end of each turn

    def _step(self) -> None:
        session = self._session
        self._sender.look()
        if session is not None:
            session.full = self._reader.full
            session.look()
        self._reader.step()
        if session is not None and session.open:
            session.full = self._reader.full
            session.fill()
            session.acknowledge()
        deadlines = [self._sender.deadline(), self._reader.deadline(), None if session is None else session.deadline()]
        self._arm(min((when for when in deadlines if when is not None), default=None))

    def _arm(self, when: float | None) -> None:
        """Has a turn end at about this time, if nothing ends one before."""
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None
        if when is not None and (self.running or self._session is not None):
            self._timer = self._reactor.callLater(max(when - self._clock(), 0.001), self._turn.book)

    # ---- sending

    def send(
        self,
        to: str | int,
        content: str | bytes | dict[str, Any] | list[Any],
        content_type: int | None = None,
        *,
        life: int = 0,
        client_id: bytes = b"",
    ) -> Sending:
        """Sends a message, now or as soon as there is a connection.

        Args:
            to: a user, or a conversation's id.
            content: text, bytes, or something for JSON.
            content_type: what it is, where the kind of `content` does not say so.
            life: seconds for which it may be seen after it was accepted; 0 for ever. After that only its place in the conversation is left.
            client_id: that of a message which an earlier run of the application has sent without learning what became of it; the
                server then takes it once. By default a new one is made.

        Raises:
            LocalProtocolError: it is too large, is addressed to nobody, or the queue is full.
        """
        kind, data = typed(content, content_type)
        sending = self._sender.send(to, kind, data, life=life, client_id=client_id, most=self._limits.max_body)
        self._turn.book()
        return sending

    def unsent(self) -> list[Sending]:
        """The messages that are not yet accepted, in order."""
        return [entry.item for entry in self._sender.outbox]

    # ---- reading

    def messages(self) -> AsyncIterator[Message]:
        """The messages as they come, for `async for`; each counts as shown when it is taken.

        The iteration ends when the client is stopped, and raises an `ImError` when it is told not to come back. Several of them share
        the messages.

        Raises:
            ValueError: there is an `on_message`, which gets them all.
        """
        if self._reader.shows:
            raise ValueError("the messages go to on_message; leave it out to iterate over them")
        return _Messages(self._reader)

    def mark_read(self, conversation: int, seq: int) -> None:
        """The person has read everything in a conversation up to `seq`; it may be called from within `on_message`."""
        self._reader.mark_read(conversation, seq)

    async def _conversations(self) -> list[Conversation]:
        found: list[Conversation] = []
        after, more = 0, True
        while more:
            page = await self._ask(Command.SYNC, since=0, after=after, limit=0, scope=SyncScope.CHANGED)
            found += [
                Conversation(
                    id=row.conversation,
                    kind=ConversationKind(row.kind),
                    peer=row.peer.decode("utf-8", "replace"),
                    head=row.head,
                    floor=row.floor,
                    cursor=row.cursor,
                    delivered=row.delivered,
                    read=row.read,
                    peer_delivered=row.peer_delivered,
                    peer_read=row.peer_read,
                )
                for row in page.conversations
            ]
            more = bool(page.more and page.conversations)
            after = found[-1].id if found else 0
        return found

    def conversations(self) -> Deferred[list[Conversation]]:
        """All conversations of the user. Fails with an `ImError`, as all that follow do, when there is no connection."""
        return ensureDeferred(self._conversations())

    def history(self, conversation: int, first: int = 1, last: int = MAX_U64, *, limit: int = 50, newest: bool = True) -> Deferred[History]:
        """A range of a conversation, or the part of it that fits into one answer.

        Args:
            first, last: the lowest and highest seq wanted.
            limit: messages at most.
            newest: fill the answer from the end of the range; False: from its beginning.
        """
        direction = Direction.BACKWARD if newest else Direction.FORWARD
        asked = self._ask(Command.HISTORY, conversation=conversation, first=first, last=last, limit=min(limit, 65535), direction=direction)
        return asked.addCallback(
            lambda values: History(values.first, values.last, values.head, values.floor, tuple(map(Message.of, values.messages)))
        )

    # ---- the rest

    def signal(self, to: str | int, type: SignalType = SignalType.TYPING, content: bytes = b"", *, lifetime: float = 5.0) -> Deferred[None]:
        """Tells something that matters only now, and may be lost.

        Args:
            to: a user, or a conversation's id.
            lifetime: seconds for which it means something.
        """
        where = {"conversation": to, "target": b""} if isinstance(to, int) else {"conversation": 0, "target": uid_bytes(to)}
        return self._ask(Command.SIGNAL, **where, type=type, lifetime=int(lifetime * 1000), content=content).addCallback(_nothing)

    def devices(self) -> Deferred[list[Device]]:
        """The user's devices."""
        asked = self._ask(Command.DEVICES, action=DevicesAction.LIST, device=bytes(16))
        return asked.addCallback(
            lambda values: [
                Device(row.device, row.session, bool(row.online), row.last_login, row.label.decode("utf-8", "replace"))
                for row in values.devices
            ]
        )

    def remove_device(self, device: bytes) -> Deferred[None]:
        """Ends another device's session, and has the server forget the device."""
        return self._ask(Command.DEVICES, action=DevicesAction.REMOVE, device=device).addCallback(_nothing)

    def kick(self, device: bytes) -> Deferred[None]:
        """Ends another device's session; it will not come back by itself."""
        return self._ask(Command.KICK, device=device).addCallback(_nothing)

    def logout(self) -> Deferred[None]:
        """Ends the session for good: this client is then `ENDED`, and needs its secret to log in again."""

        def confirmed(_: object) -> None:
            self._reader.keep_token(b"")
            if self._session is not None:
                self._session.logged_out()

        return self._ask(Command.LOGOUT).addCallback(confirmed)

    def when_online(self) -> Deferred[None]:
        """Fires when there is a session; at once if there is. Fails with an `ImError` if the server says not to come back, and with
        `CancelledError` if the client is stopped."""
        if self.standing.life is Life.ONLINE:
            return succeed(None)
        if self.standing.life is Life.ENDED:
            return fail(self.standing.error or ImError(Disconnect.NORMAL))
        waiting: Deferred[None] = Deferred(self._waiting.remove)
        self._waiting.append(waiting)
        return waiting

    def abort(self) -> None:
        """Cuts the connection without a word, as a lost network does; the client comes back by itself. For tests and demonstrations."""
        if self._session is not None:
            self._session.abort()

    @property
    def uid(self) -> str:
        """The user."""
        return self._credentials.uid.decode("utf-8")

    @property
    def device(self) -> bytes:
        """This device's id."""
        return self._credentials.device

    @property
    def duplicates(self) -> int:
        """Messages that came more than once and were shown once."""
        return self._reader.inbox.duplicates

    def server_time(self) -> int:
        """The server's clock, as far as it is known here: milliseconds since 1970."""
        return int((self._clock() + self._wall_ahead) * 1000)

    # ---- within

    def _ask(self, command: Command, **values: Any) -> Deferred[Any]:
        """One request; the Deferred has the values of its response."""
        session = self._session
        if self._moved is None and (session is None or not (session.open or session.redirect is not None)):
            return fail(_no_connection())
        wanted: Deferred[Any] = Deferred(lambda _: None)  # a cancelled one takes its answer and shows it to nobody

        def answered(values: Any) -> None:
            if wanted.called:
                return
            if isinstance(values, Lost) and self._moved is not None:
                self._moved.append(asked)  # the server that it was asked of has not taken it
            elif isinstance(values, ImError):
                wanted.errback(Failure(values))
            else:
                wanted.callback(values)

        asked = command, values, answered
        if self._moved is not None:
            self._moved.append(asked)
        elif session is not None:
            session.ask(*asked)
        return wanted

    def _signalled(self, values: Any) -> None:
        """Signals that have expired, or that a message has overtaken, are dropped."""
        try:
            kind = SignalType(values.type)
        except ValueError:
            return  # of a later version
        if values.expires > self.server_time() and self._reader.inbox.head(values.conversation) <= values.head:
            sender = values.sender.decode("utf-8", "replace")
            self._tell(self._on_signal, Signal(values.conversation, kind, sender, values.device, values.content, values.expires))

    def _caught_up(self, skipped: set[int]) -> None:
        self._sender.looked_up(skipped)
        self._turn.book()  # messages may have waited for this

    def _reset(self, why: str) -> None:
        log.warn("{user}: {why}; cursors and conversation ids from before mean nothing", user=self.uid, why=why)
        self._sender.reset()
        self._tell(self._on_reset, why)

    @staticmethod
    def _shower(on_message: Callable[[Message], Any]) -> Callable[[Message], Deferred[Any] | None]:
        """The application's `on_message`, its failures caught."""

        def show(message: Message) -> Deferred[Any] | None:
            try:
                result = on_message(message)
                if isinstance(result, Deferred) or hasattr(result, "__await__"):
                    waiting: Deferred[Any] = result if isinstance(result, Deferred) else ensureDeferred(result)
                    return waiting.addErrback(lambda failure: log.failure("on_message failed", failure))
            except Exception:
                log.failure("on_message failed")
            return None

        return show

    @staticmethod
    def _tell(told: Callable[[T], object] | None, value: T) -> None:
        """Calls the application; what it raises is logged, and stops nothing."""
        if told is not None:
            try:
                told(value)
            except Exception:
                log.failure("a callback of the application failed")


@implementer(IProtocolFactory)
class _Factory:
    """Makes a pump for each connection."""

    noisy = False

    def __init__(self, client: Client) -> None:
        self._client = client

    def buildProtocol(self, address: object) -> Pump:
        turn, limits = self._client.pump_for
        return Pump(self._client.new_session(), turn, limits, accepting=False)

    def doStart(self) -> None:
        """Twisted calls this when an attempt begins."""

    def doStop(self) -> None:
        """Twisted calls this when a connection has gone."""


class _Messages(AsyncIterator[Message]):
    """See `Client.messages`."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    async def __anext__(self) -> Message:
        taken = self._reader.take()
        try:
            return await taken
        except CancelledError:
            raise StopAsyncIteration from None


def _no_connection() -> LocalProtocolError:
    return LocalProtocolError(Status.UNAVAILABLE, "there is no connection now")


def _nothing(_: object) -> None:
    """For answers that have nothing to tell."""


def _bounded(text: str | bytes, what: str, most: int) -> bytes:
    data = text.encode("utf-8") if isinstance(text, str) else text
    if len(data) > most:
        raise ValueError(f"a {what} has at most {most} bytes; this one has {len(data)}")
    return data
