"""Who is where, in Redis: a route table that several nodes share, on one server or on several by hash.

Strategy: Redis holds hints, and never the truth. Each node writes the entries of its own sessions and answers for them: it alone knows what
should be there, and while it cannot be sure that it is, it doubts, and reads the store (`twisted_im.server.doubt`). So whoever looks for a
user may take an empty answer at its word. Whoever gets no answer sends to all. What is there (`twisted_im.routing.table_redis_scripts`):

    a user's entries    boot, device, node → session   each is written only by the run of that boot
    a run's version     changes with each change of its entries, in one script
    a run's index       all its entries, to be removed when it is over
    the nodes           boot, name → a mark that moves with each refresh

All keys have a time to live, and each refresh touches a part of them.

**The version.** Every change names the version that it expects, and a refresh compares it every other second. Whatever loses entries (a
flush, a restart, a failover to a replica that has not got the last second) loses the version with them, or goes back to an older one: the
node sees it, doubts since the last answer that was right, and writes all anew. What loses single keys (eviction) is found by the part that
each refresh touches; a server for this should not evict.

**The marks** show who uses this very server. A node whose mark stands still for some seconds, though it lives, may be looking up elsewhere
(in an old master that a failover has left behind), and would not find what is here: it is doubted. Runs in `im:nodes` whose lease
has ended are removed with all their entries, by whoever sees it; if one lives after all, it finds its version gone.

**Time.** A question that is not answered within half a second ends the connection, and all that waits; until the next has been made and
the entries are right again, nothing is asked. Questions of one reactor turn travel together.

**Which server.** CRC-32 of the user, modulo the servers in the order of their names. A ring or rendezvous hash would move fewer users when
the list changes, and nothing is ever moved here: each node writes its entries when it starts, and nodes with different lists do not hear
each other (`place`).

    away ──connected──► filling ──all written──► sure          heard
      ▲                    ▲                      │
      │                    └──another version─────┤            doubted since the last right answer
      └──── no answer in time, an error, the end ─┘
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import Enum
from functools import partial
from hashlib import sha256
from itertools import islice
from typing import Any, NamedTuple
from zlib import crc32

from twisted.internet.defer import Deferred, DeferredList, inlineCallbacks
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from twisted_im.routing.link import words
from twisted_im.routing.table_redis_scripts import CHANGE, CLEAR, LOOK, NODES, REFRESHED, SCRIPTS, STRAY, run_keys
from twisted_im.server.interfaces import EVERYWHERE, IRouteTable, Look

log = Logger()

#: Seconds for an answer. No login waits for longer, and no frame.
ANSWER = 0.5
#: Seconds between two refreshes; a lease is looked at as often.
REFRESH = 2.0
#: Seconds between two attempts to connect, at most.
RETRY = 1.0
#: Seconds after which a mark that stands still is another's doubt: three refreshes have shown the same.
STILL = 3.25 * REFRESH
#: Seconds that an entry stays when nobody touches it; each is touched four times as often.
LIFE = 600
#: Rows in one script: a Redis does nothing else meanwhile, for some milliseconds.
ROWS = 500
#: Bytes of a boot id, and of a device.
_ID = 16

class RedisServer(NamedTuple):
    """One server of a table."""

    name: str  #: for people, and the same on all nodes: "redis-1:6379/0"
    endpoint: IStreamClientEndpoint
    username: str = ""
    password: str = ""
    database: int = 0


class Away(Exception):
    """A server cannot be asked now."""


class Standing(Enum):
    """What is known of this node's entries on one server."""

    AWAY = "it cannot be asked"
    FILLING = "not all are known to be there"
    SURE = "all are there"


def redis_protocol() -> Callable[[], Any]:
    """What makes the protocol of a connection.

    Raises:
        ValueError: the libraries for it are not installed.
    """
    try:
        # Not above: it imports the reactor, and so chooses one. Of its connections nothing is used, since they insist on that reactor.
        import hiredis  # noqa: F401  # txredisapi goes without it, and is slow then
        from txredisapi import HiredisProtocol
    except ImportError as error:
        raise ValueError(f"a route table in Redis wants {error.name or 'txredisapi'}: pip install 'twisted_im[redis]'") from None
    return lambda: HiredisProtocol(charset=None, convertNumbers=False)


@implementer(IRouteTable)
class RedisTable:
    """The route table of one node.

    Args:
        servers: the same on all nodes, in any order.
        random: gives so many random bytes, for the pauses between attempts to connect.

    Raises:
        ValueError: there is none, or one twice, or the libraries are missing.
    """

    told = False

    def __init__(self, servers: Sequence[RedisServer], *, random: Callable[[int], bytes] = os.urandom) -> None:
        names = sorted(server.name for server in servers)
        if not names or len(dict.fromkeys(names)) < len(names):
            raise ValueError("a route table in Redis wants at least one server, and each once")
        build = redis_protocol()
        self.place = sha256("\n".join(names).encode()).digest()[:_ID].rstrip(b"\0")
        self.look = Look(0.0, ())
        self.up: Any = None
        self._shards = [_Shard(self, server, build, random) for server in sorted(servers, key=lambda server: server.name)]
        self._questions: list[tuple[Sequence[bytes], Deferred[dict[str, list[bytes]]]]] = []
        self._timer: Any = None
        self._started: Deferred[None] | None = None

    # ---- its life

    def start(self, up: Any) -> Deferred[None]:
        self.up = up
        up.watch(self._looked)
        up.turn.steps.append(self._send)
        begun = self._started = Deferred()
        self._timer = up.turn.reactor.callLater(ANSWER, self._waited)
        for shard in self._shards:
            shard.connect()
        return begun

    def _looked(self, look: Look) -> None:
        self.look = look

    def is_sure(self) -> None:
        """A server has all entries."""
        if self._started is not None and all(shard.standing is Standing.SURE for shard in self._shards):
            self._timer.reset(0)

    def _waited(self) -> None:
        """Whoever is not there by now is doubted."""
        started, self._started = self._started, None
        for shard in self._shards:
            shard.begin()
        self._timer = self.up.turn.reactor.callLater(REFRESH, self._refresh)
        if started is not None:
            started.callback(None)

    def _refresh(self) -> None:
        self._timer = self.up.turn.reactor.callLater(REFRESH, self._refresh)
        for shard in self._shards:
            shard.refresh()

    def stop(self) -> Deferred[Any] | None:
        if self.up is None:
            return None
        self._send()
        if self._send in self.up.turn.steps:
            self.up.turn.steps.remove(self._send)
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        ended = DeferredList([shard.stop() for shard in self._shards])
        started, self._started = self._started, None
        if started is not None:
            started.callback(None)
        return ended

    # ---- what is asked of it

    def _shard(self, user: bytes) -> _Shard:
        return self._shards[crc32(user) % len(self._shards)]

    def put(self, node: str, rows: Sequence[Any], *, whole: bool = False) -> Deferred[Any] | None:
        told = [self._shard(row.user).put(row.user, row.device, row.session) for row in rows]
        waits = [done for done in told if done is not None]
        return DeferredList(waits, consumeErrors=True) if waits else None  # who does not wait any more leaves them alone

    def remove(self, node: str, rows: Sequence[Any]) -> None:
        for row in rows:
            self._shard(row.user).remove(row.user, row.device, row.session)

    def forget(self, node: str) -> None:
        """What is here outlives links."""

    def stray(self, users: Sequence[bytes]) -> None:
        for user in users:
            self._shard(user).stray(user)

    def nodes_of(self, audience: Sequence[bytes]) -> Deferred[dict[str, list[bytes]]]:
        found: Deferred[dict[str, list[bytes]]] = Deferred()
        self._questions.append((audience, found))
        self.up.turn.book()
        return found

    def _send(self) -> None:
        """What this turn has for the servers, each one's together."""
        for shard in self._shards:
            shard.send()
        if not self._questions:
            return
        questions, self._questions = self._questions, []
        answers: dict[bytes, list[str] | None] = {}
        wanted: dict[_Shard, list[bytes]] = {}
        for audience, _ in questions:
            for user in audience:
                if user not in answers:
                    answers[user] = None
                    wanted.setdefault(self._shard(user), []).append(user)
        asked = [answer for shard, users in wanted.items() for answer in shard.nodes_of(users, answers)]
        DeferredList(asked).addCallback(lambda _: self._answer(questions, answers))

    @staticmethod
    def _answer(questions: Iterable[tuple[Sequence[bytes], Deferred[Any]]], answers: dict[bytes, list[str] | None]) -> None:
        for audience, done in questions:
            found: dict[str, list[bytes]] = {}
            for user in audience:
                nodes = answers[user]
                for node in (EVERYWHERE,) if nodes is None else nodes:
                    found.setdefault(node, []).append(user)
            done.callback(found)


class _Peer:
    """Another node that lives, as one server shows it.

    Attributes:
        mark: the last one seen; None if there was none yet.
        moved: a time at which it surely used this server.
        doubted: it is a doubt.
    """

    def __init__(self, moved: float) -> None:
        self.mark: bytes | None = None
        self.moved = moved
        self.doubted = False


class _Shard:
    """One server, and this node's entries there.

    Attributes:
        standing: what is known of them.
    """

    def __init__(self, table: RedisTable, server: RedisServer, build: Callable[[], Any], random: Callable[[int], bytes]) -> None:
        self._table = table
        self._server = server
        self._build = build
        self._random = random
        self.standing = Standing.AWAY
        self._protocol: Any = None
        self._attempt: Any = None
        self._timer: Any = None
        self._over: Any = None
        self._stopped = self._begun = self._doubted = False
        self._said = ""
        self._hashes: dict[bytes, bytes] = {}
        self._flying: deque[tuple[float, Deferred[Any]]] = deque()
        self._late: Any = None
        self._mine: dict[tuple[bytes, bytes], int] = {}
        self._next: Iterator[tuple[bytes, bytes]] = iter(())  # of these, the ones that this round still has to touch
        self._touched = self._cycle = 0.0  # since when all were touched or written; when this round began
        self._version = 0
        self._open = False  # changes are sent
        self._changes: list[tuple[bytes, bytes, bytes]] = []
        self._waits: list[Deferred[None]] = []
        self._strays: dict[bytes, None] = {}
        self._right = 0.0  # when all entries were there for the last time, as far as is known
        self._mark = 0
        self._refreshed = 0.0
        self._peers: dict[bytes, _Peer] = {}
        self._ended: dict[bytes, float] = {}  # runs in the table without a lease → since when they are seen
        self._clearing: dict[bytes, None] = {}
        self._counted = 0.0

    def __repr__(self) -> str:
        return f"<redis {self._server.name}, {self.standing.value}, {len(self._mine)} entries>"

    @property
    def _up(self) -> Any:
        return self._table.up

    @property
    def _boot(self) -> bytes:
        boot: bytes = self._up.boot
        return boot

    @property
    def _name(self) -> bytes:
        return bytes(self._up.name.encode("utf-8"))

    # ---- the connection

    def connect(self) -> None:
        """Comes once; after that the connection is made again whenever it is lost."""
        self._timer = None
        self._count()
        factory = Factory.forProtocol(self._build)
        factory.noisy = False
        self._attempt = self._server.endpoint.connect(factory)
        self._attempt.addCallbacks(self._connected, self._failed)

    def _failed(self, failure: Failure) -> None:
        self._attempt = None
        if not self._stopped:
            self._say(f"it cannot be reached: {words(failure)}")
            self._again()

    def _again(self) -> None:
        if not self._stopped and self._timer is None:
            pause = RETRY * (0.25 + 0.75 * int.from_bytes(self._random(4), "big") / 2**32)
            self._timer = self._up.turn.reactor.callLater(pause, self.connect)

    def _connected(self, protocol: Any) -> None:
        self._attempt = None
        self._protocol = protocol
        self._over = protocol.whenDisconnected()
        self._over.addCallback(self._gone, protocol)
        greeted: Deferred[Any] = self._greet()
        greeted.addErrback(self._unless_away)

    def _gone(self, result: Any, protocol: Any) -> Any:
        if self._protocol is protocol:
            self._lose("the connection was lost")
        return result

    @inlineCallbacks
    def _greet(self) -> Any:
        server = self._server
        if server.password:
            yield self._ask(b"AUTH", *([server.username.encode()] if server.username else []), server.password.encode())
        if server.database:
            yield self._ask(b"SELECT", b"%d" % server.database)
        for script in SCRIPTS:
            self._hashes[script] = yield self._ask(b"SCRIPT", b"LOAD", script)
        self.standing = Standing.FILLING  # from here on, others can be looked for
        self._refreshed = self._now()
        self._peers.clear()
        asked = self._now()
        if (yield self._ask_refresh(())) > 0:
            self._is_right(asked)
        else:
            yield self._fill()

    def _unless_away(self, failure: Failure) -> None:
        if not failure.check(Away):
            log.failure("the route table's server {server}", failure=failure, server=self._server.name)
            self._lose("an error here")

    def _ask(self, *command: bytes) -> Deferred[Any]:
        """One command; the answer, or `Away`."""
        done: Deferred[Any] = Deferred()
        protocol = self._protocol
        if protocol is None:
            done.errback(Away())
            return done
        self._flying.append((self._now(), done))
        self._watch()
        protocol.execute_command(*command).addCallbacks(self._answered, self._refused, callbackArgs=(protocol,), errbackArgs=(protocol,))
        return done

    def _script(self, script: bytes, keys: Sequence[bytes], *arguments: bytes) -> Deferred[Any]:
        if self._protocol is None:
            return self._ask()
        return self._ask(b"EVALSHA", self._hashes[script], b"%d" % len(keys), *keys, *arguments)

    def _answered(self, answer: Any, protocol: Any) -> None:
        if self._protocol is protocol:
            _, done = self._flying.popleft()
            done.callback(answer)

    def _refused(self, failure: Failure, protocol: Any) -> None:
        if self._protocol is protocol:
            self._lose(failure.getErrorMessage())

    def _watch(self) -> None:
        if self._late is None and self._flying:
            left = self._flying[0][0] + ANSWER - self._now()
            self._late = self._up.turn.reactor.callLater(max(left, 0.001), self._too_late)

    def _too_late(self) -> None:
        self._late = None
        if self._flying and self._now() >= self._flying[0][0] + ANSWER:
            self._lose(f"it did not answer within {ANSWER:g} s")
        else:
            self._watch()

    def _lose(self, why: str) -> None:
        """The connection is of no use any more. What waits for it waits no longer."""
        protocol, self._protocol = self._protocol, None
        if protocol is None:
            return
        self._count()
        if self.standing is Standing.SURE:
            self._doubt(self._right)
        self.standing = Standing.AWAY
        self._open = False
        self._changes.clear()
        self._strays.clear()
        self._ended.clear()
        self._clearing.clear()
        for member in list(self._peers):
            self._forget_peer(member)
        if self._late is not None:
            self._late.cancel()
            self._late = None
        flying, self._flying = self._flying, deque()
        if not self._stopped:
            self._say(why)
        protocol.transport.abortConnection()
        for _, done in flying:
            done.errback(Away())
        waits, self._waits = self._waits, []
        for wait in waits:
            wait.callback(None)
        self._again()

    def _say(self, why: str) -> None:
        """Logs that it is away; once, until there is something else to say."""
        why = why.partition(" script: ")[0].rstrip(".")
        if why != self._said:
            self._said = why
            text = "the route table's server {server} is away: {why}. Until it is back, frames go to all nodes, and the store is read"
            log.warn(text, event="table away", server=self._server.name, why=why)

    def stop(self) -> Deferred[Any]:
        """Removes this run from the table as far as that is quick, and ends the connection."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._attempt is not None:
            self._attempt.cancel()
        self._count()
        protocol, over = self._protocol, self._over
        ended: Deferred[Any] = Deferred()
        if protocol is None:
            ended.callback(None)
            return ended
        over.addCallback(ended.callback)
        if self.standing is Standing.SURE:
            cleared = self._clear(self._boot, self._name)
            cleared.addErrback(lambda failure: failure.trap(Away))
            cleared.addCallback(lambda _: self._lose("this node ends"))
        else:
            self._lose("this node ends")
        return ended

    # ---- doubt

    def _now(self) -> float:
        now: float = self._up.turn.now()
        return now

    def _count(self) -> None:
        now = self._now()
        if self.standing is Standing.AWAY and self._counted:
            self._up.counters.table_away_seconds += now - self._counted
        self._counted = now

    def begin(self) -> None:
        """The node is about to take sessions."""
        self._begun = True
        if self.standing is not Standing.SURE:
            self._doubt(self._now())

    @property
    def _called(self) -> str:
        return f"redis {self._server.name}"

    def _doubt(self, since: float) -> None:
        if self._begun and not self._doubted and not self._stopped:
            self._doubted = True
            self._up.doubt(self._called, since, leased=False)

    def _is_right(self, asked: float) -> None:
        """All entries were there after this moment."""
        self._right = asked
        if self.standing is not Standing.SURE:
            self.standing = Standing.SURE
            self._open = True
            if self._said:
                log.info("the route table's server {server} is back", event="table back", server=self._server.name)
                self._said = ""
            if self._doubted:
                self._doubted = False
                self._up.heard(self._called)
            self._table.is_sure()

    def _is_wrong(self) -> None:
        """Some are not."""
        if self.standing is Standing.SURE:
            self._doubt(self._right)
            name = self._server.name
            log.warn("the route table's server {server} has lost entries: they are written anew", event="table lost", server=name)
            self.standing = Standing.FILLING
            filled: Deferred[Any] = self._fill()
            filled.addErrback(self._unless_away)

    # ---- this node's entries

    @inlineCallbacks
    def _fill(self) -> Any:
        """Writes all entries anew, until that has come to its end."""
        protocol = self._protocol
        while self.standing is not Standing.SURE:
            self._open = False
            self._changes.clear()
            yield self._clear(self._boot, self._name)
            if self._protocol is not protocol:
                raise Away
            asked = self._now()
            # Among the nodes before the first entry is there: should this run end now, others know that it has left some.
            begun = DeferredList([self._change((), expected=b""), self._ask_refresh(())], fireOnOneErrback=True, consumeErrors=True)
            self._open = True
            whole = all(done > 0 for _, done in (yield begun.addErrback(_first)))
            keys = iter(list(self._mine))
            while whole and (part := list(islice(keys, ROWS))):
                asked = self._now()
                rows = [(user, device, b"%d" % self._mine[user, device]) for user, device in part if (user, device) in self._mine]
                whole = yield self._change(rows)
            if whole:
                asked = self._now()
                whole = (yield self._ask_refresh(())) > 0
            if whole:
                self._touched = self._cycle = asked
                self._is_right(asked)

    def _change(self, rows: Iterable[tuple[bytes, bytes, bytes]], *, expected: bytes | None = None) -> Deferred[Any]:
        if expected is None:
            expected = b"%d" % self._version
        self._version += 1
        given = [argument for row in rows for argument in row]
        return self._script(CHANGE, run_keys(self._boot), expected, b"%d" % self._version, b"%d" % LIFE, self._boot, self._name, *given)

    def put(self, user: bytes, device: bytes, session: int) -> Deferred[None] | None:
        """A session has come."""
        self._mine[user, device] = session
        if not self._note(user, device, b"%d" % session):
            return None
        done: Deferred[None] = Deferred()
        self._waits.append(done)
        return done

    def remove(self, user: bytes, device: bytes, session: int) -> None:
        """One has gone."""
        if self._mine.get((user, device)) == session:
            del self._mine[user, device]
            self._note(user, device, b"-%d" % session)

    def _note(self, user: bytes, device: bytes, session: bytes) -> bool:
        """Has a change sent at the end of this turn, if it can be."""
        if not self._open:
            self._version += 1  # what is there now is not all
            return False
        self._changes.append((user, device, session))
        self._up.turn.book()
        return True

    def stray(self, user: bytes) -> None:
        """Somebody was looked for here, and is not."""
        if self._open:
            self._strays[user] = None
            self._up.turn.book()

    def send(self) -> None:
        """Sends what has been collected. Strays first: one of them may have come since."""
        strays, self._strays = list(self._strays), {}
        for begin in range(0, len(strays), ROWS):
            gone = self._script(STRAY, (), self._name, *strays[begin : begin + ROWS])
            gone.addCallbacks(self._stray_gone, self._unless_away)
        changes, self._changes = self._changes, []
        waits, self._waits = self._waits, []
        asked = self._now()
        for begin in range(0, len(changes), ROWS):
            changed = self._change(changes[begin : begin + ROWS])
            last = waits if begin + ROWS >= len(changes) else []
            changed.addCallbacks(self._changed, self._unless_away, callbackArgs=(asked,))
            changed.addCallback(partial(_fire, last))

    def _stray_gone(self, count: int) -> None:
        self._up.counters.stale_routes += count

    def _changed(self, whole: int, asked: float) -> None:
        if not whole:
            self._is_wrong()
        elif self.standing is Standing.SURE:
            self._right = asked

    # ---- refreshing

    def refresh(self) -> None:
        """Every other second: is all there, and who else is."""
        self._count()
        if self.standing is not Standing.SURE:
            return
        self.send()
        part = max(-(-len(self._mine) * REFRESH * 4 // LIFE), 1)
        rows = [key for key in islice(self._next, int(part)) if key in self._mine]
        if not rows:
            self._next = iter(list(self._mine))
            self._touched, self._cycle = self._cycle, self._now()
        refreshed: Deferred[Any] = self._refresh(rows)
        refreshed.addErrback(self._unless_away)

    @inlineCallbacks
    def _refresh(self, rows: Sequence[tuple[bytes, bytes]]) -> Any:
        asked, touched = self._now(), self._touched  # of this moment: another round may begin before the answer comes
        parts = [self._ask_refresh(rows[begin : begin + ROWS]) for begin in range(0, max(len(rows), 1), ROWS)]
        wholes = yield DeferredList(parts, fireOnOneErrback=True, consumeErrors=True).addErrback(_first)
        if any(whole < 0 for _, whole in wholes):
            self._right = min(self._right, touched)  # who knows since when
        if not all(whole > 0 for _, whole in wholes):
            self._is_wrong()
        elif self.standing is Standing.SURE:
            self._right = asked

    @inlineCallbacks
    def _ask_refresh(self, rows: Sequence[tuple[bytes, bytes]]) -> Any:
        asked = self._now()
        self._mark += 1
        given = [argument for row in rows for argument in row]
        whole, nodes = yield self._script(
            REFRESHED, (*run_keys(self._boot), NODES),
            b"%d" % self._version, b"%d" % LIFE, self._boot, self._name, b"%d" % self._mark, *given,
        )  # fmt: skip
        self._see(dict(zip(nodes[::2], nodes[1::2], strict=True)), asked)
        return whole

    def _see(self, marks: dict[bytes, bytes], asked: float) -> None:
        """Judges the others by their marks."""
        look = self._table.look
        live = {lease.boot + lease.node.encode("utf-8"): None for lease in look.leases if lease.boot != self._boot}
        for member in [member for member in self._peers if member not in live]:
            self._forget_peer(member)
        for member in live:
            peer = self._peers.get(member)
            if peer is None:
                peer = self._peers[member] = _Peer(self._refreshed)
            mark = marks.get(member)
            if mark is not None and mark != peer.mark:
                peer.mark, peer.moved = mark, self._refreshed
                if peer.doubted:
                    peer.doubted = False
                    self._up.heard(self._peer_called(member))
            elif asked - peer.moved > STILL and not peer.doubted and self._begun:
                peer.doubted = True
                self._up.doubt(self._peer_called(member), peer.moved, leased=False)
        self._refreshed = asked
        strange = [member for member in marks if member not in live and member[:_ID] != self._boot]
        self._ended = {member: self._ended.get(member, asked) for member in strange}
        for member, since in self._ended.items():
            if look.asked > since and member not in self._clearing:  # it had a lease before it came here, and has none since
                self._clearing[member] = None
                cleared: Deferred[Any] = self._clear(member[:_ID], member[_ID:])
                cleared.addErrback(self._unless_away)
                cleared.addCallback(partial(self._cleared, member))

    def _cleared(self, member: bytes, result: object) -> None:
        self._clearing.pop(member, None)

    def _peer_called(self, member: bytes) -> str:
        return f"{member[_ID:].decode('utf-8', 'replace')} by {self._called}"

    def _forget_peer(self, member: bytes) -> None:
        if self._peers.pop(member).doubted:
            self._up.heard(self._peer_called(member))

    @inlineCallbacks
    def _clear(self, boot: bytes, name: bytes) -> Any:
        """Removes all entries of a run."""
        while (yield self._script(CLEAR, (*run_keys(boot), NODES), boot, name, b"%d" % ROWS)):
            pass

    # ---- looking for users

    def nodes_of(self, users: Sequence[bytes], answers: dict[bytes, list[str] | None]) -> list[Deferred[Any]]:
        """Puts the nodes of these users among the answers, as far as that can be said: all but this one. Fires when that is done."""
        if self.standing is Standing.AWAY:
            return []
        asked = []
        for begin in range(0, len(users), ROWS):
            part = users[begin : begin + ROWS]
            self._up.counters.look_ups += len(part)
            found = self._script(LOOK, (), *part)
            found.addCallbacks(self._found, self._unless_away, callbackArgs=(part, answers))
            asked.append(found)
        return asked

    def _found(self, rows: Sequence[Sequence[bytes]], users: Sequence[bytes], answers: dict[bytes, list[str] | None]) -> None:
        mine = self._name
        for user, fields in zip(users, rows, strict=True):
            names = dict.fromkeys(field[2 * _ID :] for field in fields)
            answers[user] = [name.decode("utf-8", "replace") for name in names if name != mine]


def _first(failure: Failure) -> Failure:
    """What it was that failed, of several."""
    inner: Failure = failure.value.subFailure  # type: ignore[union-attr]  # it is a FirstError
    return inner


def _fire(waiting: Sequence[Deferred[None]], result: object) -> None:
    for done in waiting:
        done.callback(None)
