"""Nodes of one store that do not hear each other: what one accepts reaches the devices of the other, whatever happens between.

Strategy: two servers in a simulated world, on one disk, with the model of a store and with the real one; and a router that links nothing.
So whatever arrives on the other side has been read from the store. What hangs on the exact moment of a commit is told of `Doubts` alone,
on a store in memory with a clock that is moved by hand.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail
from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent
from zope.interface import implementer
from zope.interface.verify import verifyObject

from tests.routing.linked import logged
from tests.storage.contract import ALICE, BOB, message
from twisted_im.client.client import Client
from twisted_im.client.values import Life
from twisted_im.counters import Counters
from twisted_im.errors import Disconnect, ImError, Status
from twisted_im.pump import Turn
from twisted_im.routing.single import SingleRouter
from twisted_im.server.doubt import BACKLOG, PAGE, POLL, SAMPLES, Doubts
from twisted_im.server.interfaces import LONGEST_TRANSACTION, IRouter, IRouterUp, Lease, Look, Row
from twisted_im.server.names import user_key
from twisted_im.server.tenure import LEASE, RENEWAL
from twisted_im.sim.disk import SimDisk
from twisted_im.sim.world import Process, World
from twisted_im.storage.memory import MemoryStore
from twisted_im.wire.codec import tag
from twisted_im.wire.schema import Command, Kind

#: Seconds in which a message must have got across.
SOON = 2.0


@implementer(IRouter)
class Deaf(SingleRouter):
    """Would link nodes, and hears none; but for what a test says through `up`."""

    links = True
    up: Any

    def start(self, up: Any) -> None:
        super().start(up)
        self.up = up


class Pair:
    """Two nodes on one disk, `first` and `second`, and whoever is there.

    Attributes:
        shown: what each client has got, as texts, by its process's name.
    """

    def __init__(self, seed: str, store: str) -> None:
        self.world = World(seed)
        self.disk = SimDisk(self.world, self.world.chance("disk"))
        self.nodes: dict[str, Process] = {}
        self.shown: dict[str, list[str]] = {}
        self.routers: dict[str, Deaf] = {}
        make = self.disk.sqlite if store == "sqlite" else self.disk.model
        for name in ("first", "second"):
            self.routers[name] = Deaf()
            self.nodes[name] = self.world.server(name, store=make, machine="rack", router=lambda process, name=name: self.routers[name])
        self.world.run_until(lambda: all(self.node(name).doubts.open for name in self.nodes))  # they have seen each other

    def close(self) -> None:
        for process in self.world.processes.values():
            process.kill()
        self.disk.close()

    def node(self, name: str) -> Any:
        """The node that runs in a process."""
        return self.nodes[name].service.node

    def client(self, uid: str, at: str, *, name: str = "", **options: Any) -> Client:
        """A client that is online."""
        shown = self.shown[name or uid] = []
        client = self.world.client(uid, at=at, name=name, on_message=lambda message: shown.append(message.text), **options)
        self.world.run_until(lambda: client.standing.life is Life.ONLINE)
        return client

    def send(self, client: Client, to: str | int, text: str) -> float:
        """Sends, and waits until it is accepted; gives the moment."""
        accepted: list[Any] = []
        client.send(to, text).accepted.addCallback(accepted.append)
        self.world.run_until(lambda: accepted)
        return self.world.now

    def is_shown(self, who: str, *texts: str, within: float = SOON) -> None:
        """Waits until a client has got exactly this, in this order."""
        self.world.run_until(lambda: self.shown[who] == list(texts), limit=within)

    def hear(self) -> None:
        """The two hear each other, and nothing is read any more."""
        for name, peer in (("first", "second"), ("second", "first")):
            self.routers[name].up.heard(peer)
        self.world.run_until(lambda: not any(self.node(name).doubts.open for name in self.nodes))


@pytest.fixture(params=["model", "sqlite"])
def pair(request: pytest.FixtureRequest) -> Any:
    made = Pair(request.node.name, request.param)
    yield made
    made.close()


def test_what_one_accepts_the_other_shows(pair: Pair) -> None:
    """If this fails, users of two nodes that have lost each other do not reach each other, or get things twice, or out of order."""
    alice, bob = pair.client("alice", "first"), pair.client("bob", "second")
    pair.client("bob", "second", name="bob's tablet", device=b"t" * 16)
    for number in range(5):
        pair.send(alice, "bob", str(number))
        pair.is_shown("bob", *map(str, range(number + 1)))
    pair.send(bob, "alice", "and back")
    pair.is_shown("alice", "and back")
    pair.is_shown("bob's tablet", "0", "1", "2", "3", "4", "and back")
    pair.world.run_for(10)
    assert pair.shown == {"alice": ["and back"], "bob": list("01234"), "bob's tablet": [*"01234", "and back"]}
    assert 10 < pair.node("second").counters.doubt_seconds < pair.world.now
    assert pair.node("second").counters.behind == 0


def test_members_are_those_of_now(pair: Pair) -> None:
    """If this fails, somebody who was removed from a group on one node goes on reading it on another, or a new member misses something."""
    alice, bob, carol = (pair.client(uid, at) for uid, at in (("alice", "first"), ("bob", "second"), ("carol", "second")))
    keys = [user_key(b"", uid) for uid in (b"alice", b"bob", b"carol")]
    made: list[int] = []
    store = pair.node("first").store
    store.create_group(b"g", keys[:2]).addCallback(made.append)
    pair.world.run_until(lambda: made)
    pair.send(bob, made[0], "second knows this group")
    pair.is_shown("alice", "second knows this group")
    pair.send(alice, made[0], "for two")
    pair.is_shown("bob", "for two")
    store.change_members(made[0], keys[2:], keys[1:2]).addCallback(lambda _: made.append(0))
    pair.world.run_until(lambda: made[1:])
    pair.send(alice, made[0], "without bob")
    pair.world.run_until(lambda: "without bob" in pair.shown["carol"], limit=SOON)
    pair.world.run_for(SOON)
    assert pair.shown["bob"] == ["for two"]
    assert carol.standing.life is Life.ONLINE


def test_frames_are_those_of_a_push(pair: Pair) -> None:
    """If this fails, a message that was read from the store looks different from one that was pushed: another time, sender or type."""
    got: dict[str, list[Any]] = {"near": [], "far": []}

    def note(where: str, direction: str, frame: Any) -> None:
        if direction == "in" and frame[0] == tag(Kind.NOTIFY, Command.MESSAGE):
            got[where].append(frame)

    alice = pair.client("älice", "first")
    pair.client("bob", "first", name="near", device=b"n" * 16, on_frame=partial(note, "near"))
    pair.client("bob", "second", name="far", device=b"f" * 16, on_frame=partial(note, "far"))
    pair.world.run_for(1.0)  # they have read the log: what comes now is pushed
    pair.send(alice, "bob", "größe")
    pair.is_shown("far", "größe")
    assert len(got["near"]) == 1
    assert [tuple(frame) for frame in got["near"]] == [tuple(frame) for frame in got["far"]]


def test_a_peer_that_loses_its_link_accepts_one_more_and_dies(pair: Pair) -> None:
    """If this fails, the last message that a node has accepted before it died is not shown to who is online elsewhere."""
    alice = pair.client("alice", "first")
    pair.client("bob", "second")
    pair.hear()
    pair.world.run_for(1.0)  # he has read the log: what comes now is pushed
    pair.send(alice, "bob", "lost with the link, which nobody has noticed")
    since = pair.node("second").turn.now() - 1.0
    pair.world.run_for(2.0)
    assert pair.shown["bob"] == []
    pair.routers["second"].up.doubt("first", since)
    pair.is_shown("bob", "lost with the link, which nobody has noticed")
    alice.send("bob", "one more")
    placed = len(pair.disk.placed())
    pair.world.run_until(lambda: len(pair.disk.placed()) > placed)
    pair.world.kill("first")
    pair.is_shown("bob", "lost with the link, which nobody has noticed", "one more")
    pair.world.run_until(lambda: not pair.node("second").doubts.open, limit=LEASE + RENEWAL + LONGEST_TRANSACTION + 1.0)
    counted = pair.node("second").counters.doubt_seconds
    pair.world.run_for(5.0)
    assert pair.node("second").counters.doubt_seconds == counted, "a dead peer is read for ever"


@pytest.mark.parametrize("frozen", [7.5, 30.0])
def test_a_peer_that_comes_back_after_a_pause(pair: Pair, frozen: float) -> None:
    """If this fails, a node that was stopped accepts messages when it comes back that nobody on the others is shown."""
    alice = pair.client("alice", "first")
    pair.client("bob", "second")
    pair.send(alice, "bob", "before")
    pair.is_shown("bob", "before")
    first, store = pair.nodes["first"], pair.node("second").store
    live: list[str] = []

    def look() -> None:
        store.leases().addCallback(lambda leases: live.__setitem__(slice(None), [lease.node for lease in leases]))

    first.freeze()
    alice.send("bob", "meanwhile")
    pair.world.run_for(frozen)
    assert list(pair.node("second").doubts.open) == (["first"] if frozen < 10 else [])
    look()
    pair.world.run_until(lambda: live)
    assert live == ["second"]
    assert len(pair.disk.placed()) == 1
    first.thaw()
    pair.world.run_until(lambda: len(pair.disk.placed()) == 2)
    look()
    pair.world.run_until(lambda: live == ["first", "second"], limit=0.1)
    pair.is_shown("bob", "before", "meanwhile", within=RENEWAL + 0.5)
    pair.world.run_for(5.0)
    assert pair.shown["bob"] == ["before", "meanwhile"]


def test_one_device_on_two_nodes(pair: Pair) -> None:
    """If this fails, a device has two sessions at once, is not told why the older has ended, or loses messages on its way."""
    friend = pair.client("friend", "first")
    device = b"d" * 16
    clients = []
    for number in range(8):
        clients.append(pair.client("alice", ("first", "second")[number % 2], name=f"alice {number}", device=device))
        pair.world.run_for((0.0, 0.3, 1.0, 3.0)[number % 4])
    pair.world.run_until(lambda: sum(client.standing.life is Life.ONLINE for client in clients) == 1, limit=RENEWAL + 0.2)
    assert [client.standing.life for client in clients] == [Life.ENDED] * 7 + [Life.ONLINE]
    assert [client.standing.error and client.standing.error.code for client in clients[:7]] == [Disconnect.TAKEN_OVER] * 7
    sessions = [session.number for name in pair.nodes for session in pair.node(name).sessions if session.device == device]
    assert len(sessions) == 1
    pair.send(friend, "alice", "which one?")
    pair.is_shown("alice 7", "which one?")


def test_nodes_see_each_other(pair: Pair) -> None:
    """If this fails, a node does not learn where another is to be reached, how busy it is, or that it has gone."""
    seen: list[Look] = []
    for name in pair.nodes:
        verifyObject(IRouterUp, pair.node(name))
    pair.routers["second"].up.watch(seen.append)
    assert [lease.node for lease in seen[0].leases] == ["first", "second"]
    pair.client("alice", "first")
    pair.client("bob", "first")
    pair.routers["first"].up.announce("rack:9999")
    pair.world.run_until(lambda: [lease[2] for lease in seen[-1].leases if lease.node == "first"] == ["rack:9999"], limit=RENEWAL + 0.2)
    assert [(lease.boot, lease.load) for lease in seen[-1].leases] == [(pair.node("first").boot, 2), (pair.node("second").boot, 0)]
    pair.nodes["first"].stop()
    pair.world.run_until(lambda: [lease.node for lease in seen[-1].leases] == ["second"], limit=RENEWAL + 1.0)


# ---- one node's doubts, by hand


class Alone:
    """The doubts of the node "me", whose sessions are a list of rows.

    Attributes:
        rows: what was pushed, as contents.
        behind: how often everybody was told to read for himself.
    """

    def __init__(self) -> None:
        self.clock = Clock()
        self.clock.advance(1000.0)
        self.store = MemoryStore(clock=self.clock.seconds)
        self.store.accounts([ALICE, BOB], True)
        self.counters = Counters()
        self.rows: list[bytes] = []
        self.behind = 0
        turn = Turn(self.clock, clock=self.clock.seconds, counters=self.counters)
        self.doubts = Doubts(self.store, turn, self.counters, name="me", links=True, fall_behind=self._fall_behind)
        self.doubts.push = self._push
        self.live: list[str] = []

    def _fall_behind(self) -> None:
        self.behind += 1

    def _push(self, rows: Sequence[Row]) -> None:
        assert len(rows) <= PAGE
        self.rows += [row.content for row in rows]

    def seen(self) -> Look:
        """What it sees of those in `live`."""
        return Look(self.clock.seconds(), [Lease(name, b"", "", 0.0, 0) for name in sorted([*self.live, "me"])])

    def begins(self, *live: str) -> None:
        self.live = list(live)
        self.doubts.start(self.seen())

    def passes(self, seconds: float) -> None:
        """Time passes, with a look every other second."""
        for _ in range(round(seconds / 0.25)):
            self.clock.advance(0.25)
            if self.clock.seconds() % RENEWAL == 0:
                self.doubts.look(self.seen())

    def accepts(self, *contents: bytes) -> None:
        """The store gets messages, in a commit."""
        self.store.append([message(ALICE, BOB, content) for content in contents], ())


@pytest.fixture
def alone() -> Alone:
    return Alone()


def test_one_last_read(alone: Alone) -> None:
    """If this fails, what a node has written just before its lease ended is not shown, if its transaction took long."""
    alone.accepts(b"before anybody was here")
    alone.begins("peer")
    alone.passes(4)
    alone.live = []
    alone.passes(2 + LONGEST_TRANSACTION - 0.25)
    assert alone.doubts.open
    alone.accepts(b"the last one")
    alone.passes(1.0)
    assert (alone.rows, list(alone.doubts.open)) == ([b"the last one"], [])
    alone.passes(20)
    assert alone.clock.getDelayedCalls() == []


def test_hearing_again_reads_once_more(alone: Alone) -> None:
    """If this fails, what a peer has accepted just before it was heard again is lost."""
    alone.begins("peer")
    alone.passes(3)
    assert alone.doubts.open == {"peer": math.inf}
    alone.doubts.heard("peer")
    alone.accepts(b"committed, and not pushed")
    alone.clock.advance(0)
    assert (alone.rows, list(alone.doubts.open)) == ([b"committed, and not pushed"], [])
    alone.passes(20)
    alone.accepts(b"pushed")
    alone.passes(20)
    assert alone.rows == [b"committed, and not pushed"]
    alone.live = []
    alone.passes(10)
    alone.live = ["peer"]
    alone.passes(3)
    assert not alone.doubts.open, "it is heard still"


def test_an_interval_begins_early_enough(alone: Alone) -> None:
    """If this fails, what was under way when a link broke is lost; or each broken link costs a reading of everything."""
    alone.begins("peer")
    alone.doubts.heard("peer")
    alone.passes(10)
    alone.accepts(b"long ago")
    alone.passes(11)
    alone.accepts(b"just before")
    alone.passes(1.5)
    since = alone.clock.seconds()
    alone.accepts(b"just after")
    alone.passes(3)
    assert alone.rows == []
    alone.doubts.doubt("peer", since)
    alone.passes(POLL)
    assert alone.rows == [b"just before", b"just after"]
    alone.doubts.heard("peer")
    alone.passes(POLL)
    alone.doubts.doubt("peer", since - 10)
    alone.doubts.doubt("other", since)
    alone.passes(POLL)
    assert alone.rows[2:] == [b"long ago", b"just before", b"just after"]
    assert alone.behind == 0


def test_an_earlier_interval_during_a_poll(alone: Alone) -> None:
    """If this fails, two links that break at about the same time cost what came over the first."""
    alone.begins("one", "two")
    alone.doubts.heard("one")
    alone.doubts.heard("two")
    alone.passes(10)
    early = alone.clock.seconds()
    alone.accepts(b"early")
    alone.passes(10)
    alone.accepts(b"late")
    pushed: list[Deferred[None]] = []

    def slowly(rows: Sequence[Row]) -> Deferred[None]:
        alone._push(rows)
        pushed.append(Deferred())
        return pushed[-1]

    alone.doubts.push = slowly
    alone.doubts.doubt("two", alone.clock.seconds())
    alone.clock.advance(0)
    alone.doubts.doubt("one", early)
    alone.doubts.heard("two")
    alone.doubts.push = alone._push
    pushed[0].callback(None)
    alone.passes(POLL)
    assert alone.rows == [b"late", b"early", b"late"]
    assert list(alone.doubts.open) == ["one"]


def test_a_newcomer_is_read_from_before_it_came(alone: Alone, monkeypatch: pytest.MonkeyPatch) -> None:
    """If this fails, what a new node accepts before the others have seen it is not shown there, if the store was slow at that moment."""
    alone.begins()
    alone.passes(10)
    whole, late = alone.store.position, Deferred[int]()
    with monkeypatch.context() as patch:
        patch.setattr(alone.store, "position", lambda: late)
        alone.doubts.look(alone.seen())
    alone.clock.advance(1)
    alone.accepts(b"its first")
    whole().addCallback(late.callback)
    alone.clock.advance(9)
    alone.live = ["new"]
    alone.doubts.look(alone.seen())
    alone.clock.advance(0)
    assert alone.rows == [b"its first"]


def test_a_peer_that_renews_late(alone: Alone) -> None:
    """If this fails, a node whose lease has lapsed for a moment is not listened to any more, though it lives."""
    alone.begins("peer")
    alone.passes(4)
    alone.live = []
    alone.passes(RENEWAL)
    alone.live = ["peer"]
    alone.passes(20)
    alone.accepts(b"still there")
    alone.passes(POLL)
    assert alone.rows == [b"still there"]


def test_a_backlog_is_not_pushed(alone: Alone) -> None:
    """If this fails, a node that comes back to a busy cluster reads for minutes, or every reading costs everybody a sync."""
    alone.begins("peer")
    alone.passes(2)
    for _ in range(BACKLOG // 100 + 5):
        alone.accepts(*[b"many"] * 100)
    alone.passes(POLL)
    assert alone.behind == 1
    assert BACKLOG <= len(alone.rows) <= BACKLOG + PAGE
    count = len(alone.rows)
    for _ in range(20):
        alone.accepts(*[b"steady"] * 100)
        alone.passes(POLL)
    assert (alone.behind, len(alone.rows) - count) == (1, 2000), "none is skipped, and nobody told again"


def test_no_sample_is_old_enough(alone: Alone) -> None:
    """If this fails, what came over a link that broke long ago, and nobody has noticed, is lost."""
    alone.begins("peer")
    alone.doubts.heard("peer")
    alone.passes(10)
    since = alone.clock.seconds()
    alone.accepts(b"long ago")
    alone.passes((SAMPLES + 5) * RENEWAL)
    alone.doubts.doubt("peer", since)
    alone.clock.advance(0)
    assert (alone.behind, alone.rows) == (1, [])
    alone.accepts(b"now")
    alone.passes(POLL)
    assert alone.rows == [b"now"]


def test_a_store_that_fails_for_a_while(alone: Alone, monkeypatch: pytest.MonkeyPatch) -> None:
    """If this fails, a store that was away for a moment costs what was accepted before, or a node is never certain again; or the log has a
    line for each attempt meanwhile."""
    alone.begins("peer")
    alone.passes(2)
    whole: Callable[..., Any] = alone.store.read_since
    monkeypatch.setattr(alone.store, "read_since", lambda *_: fail(ImError(Status.UNAVAILABLE)))
    alone.accepts(b"1")
    with logged() as lines:
        alone.passes(2)
        alone.doubts.heard("peer")
        alone.passes(2)
    assert len(lines) == 1, lines
    assert alone.doubts.open == {"peer": math.inf}
    monkeypatch.setattr(alone.store, "read_since", whole)
    alone.passes(2)
    assert (alone.rows, list(alone.doubts.open)) == ([b"1"], [])


def test_it_stops(alone: Alone) -> None:
    """If this fails, a node that is stopped goes on reading a store that is closed."""
    alone.begins("peer")
    alone.passes(1)
    alone.doubts.stop()
    alone.doubts.doubt("another", 0.0)
    alone.passes(5)
    assert alone.clock.getDelayedCalls() == []


def test_something_without_a_lease(alone: Alone) -> None:
    """If this fails, a route table that was away is read for until the node is restarted; or it is said to be gone when it is back."""
    alone.begins()
    alone.passes(2)
    alone.doubts.doubt("redis", alone.clock.seconds(), leased=False)
    alone.accepts(b"1")
    alone.passes(2 * LONGEST_TRANSACTION)
    assert (alone.rows, list(alone.doubts.open)) == ([b"1"], ["redis"])
    with capturedLogs() as events:
        alone.doubts.heard("redis")
        alone.passes(1)
    assert [formatEvent(event) for event in events] == ["redis is heard"]
    assert not alone.doubts.open
