"""Links, by what arrives and what is said when they break: on real sockets, and in a world where they break as the seed has it.

Strategy: two sides talk over TCP, a Unix socket and TLS; what a node would never send comes from a stranger who writes frames by hand. Time
that passes in silence passes in the simulator: partitions, stopped and killed processes, answers that are lost.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.routing.linked import Cluster, Linked, Side, logged, session, signal
from tests.running import Authority, until
from twisted_im.core.connection import State
from twisted_im.edge.peers import link_certificates
from twisted_im.errors import Disconnect, ImError
from twisted_im.routing.handshake import Peer
from twisted_im.routing.link import Reached, link_limits
from twisted_im.wire.codec import CODECS, HEADER, frame, tag
from twisted_im.wire.schema import Command, Kind, Role


class TestTalk(Linked):
    """What two ends say to each other."""

    async def _pair(self, description: str = "tcp:0", role: Role = Role.PEER, **more: Any) -> tuple[Side, Side]:
        """Two sides with a link: im-2 has connected to im-1."""
        one, two = self.side("im-1", role=role, **more), self.side("im-2", **more)
        where = await self.listening(one, description)
        self.leads(two, where, Peer(role, "im-1"), getattr(self, "own", None))
        await until(lambda: list(one.links) and list(two.links), "the link")
        return one, two

    async def _talk(self, one: Side, two: Side) -> None:
        """Everything that there is to say, both ways."""
        assert (one.told, two.told) == ([("up", "im-2")], [("up", "im-1")])
        for speaker, name, listener in ((two, "im-1", one), (one, "im-2", two)):
            link = speaker.to(name, listener.links.me.role)
            del listener.told[:]
            whole = link.attach([session(1), session(2)], whole=True)
            assert await link.attach([session(3)])
            assert whole.called
            link.detach([session(1)])
            link.forward([(signal(7), (b"\0bob", b"\0eve"), None)])
            link.forward([(signal(8), (b"\0bob",), None)])
            assert await link.attach([]), "nothing to be said is said"
            await until(lambda listener=listener: listener.of("forwarded"), "what was sent")
            me = speaker.links.me.name
            assert listener.told == [
                ("attached", me, [session(1), session(2)], True),
                ("attached", me, [session(3)], False),
                ("detached", me, [session(1)]),
                ("forwarded", me, [(signal(7), (b"\0bob", b"\0eve"), None), (signal(8), (b"\0bob",), None)]),
            ]

    async def test_over_tcp_to_a_route_server(self) -> None:
        """If this fails, a node's sessions are not known elsewhere, or what is for them goes astray; and nobody knows whom a route server
        reaches."""
        one, two = await self._pair(role=Role.ROUTE)
        await self._talk(one, two)
        rows = [Reached("im-2", bytes(16), True), Reached("im-3", b"\xff" * 16, False)]
        assert await one.to("im-2").nodes(rows)
        assert two.of("nodes") == [("im-1", rows)]
        with logged() as lines:
            await one.links.stop()
            await until(lambda: two.of("down"), "the news")
        assert one.of("down") == [("im-2",)]
        assert lines == [], "an orderly end is nothing to warn of"

    async def test_over_a_unix_socket(self) -> None:
        """If this fails, the nodes of one machine need a network to find each other."""
        path = Path("links")  # trial's folder
        await self._talk(*await self._pair(f"unix:{path.absolute()}"))

    async def test_over_tls(self) -> None:
        """If this fails, nodes on several machines cannot link, or by an older TLS."""
        folder = Path(self.mktemp())
        folder.mkdir()
        authority = Authority(folder)
        for name in ("im-1", "im-2"):
            authority.pair(folder / f"{name}.pem", name, node=True)
        self.own = link_certificates(folder / "im-2.pem", authority.pem)
        one, two = await self._pair(f"tls:{folder / 'im-1.pem'}:port=0:authority={authority.pem}", secret=b"")
        await self._talk(one, two)
        for link in (one.to("im-2"), two.to("im-1")):
            assert link._pump.transport.getHandle().get_protocol_version_name() == "TLSv1.3"

    async def test_a_turn_is_a_frame_and_a_flood_is_as_many_as_it_takes(self) -> None:
        """If this fails, each message costs a frame of its own on the way; or one to a large group cannot be sent at all."""
        one, two = await self._pair()
        link = two.to("im-1")
        before = two.turn.counters.frames_out
        for number in range(100):
            link.forward([(signal(number), (b"\0bob",), None)])
        await until(lambda: one.of("forwarded"), "them")
        assert [len(envelopes) for _, envelopes in one.of("forwarded")] == [100]
        assert two.turn.counters.frames_out - before <= 3, "the frame, and a heartbeat perhaps"

        del one.told[:]
        crowd = tuple(b"\0user-%d" % number for number in range(30_000))
        link.forward([(signal(1, 65_000), crowd, None), (signal(2), (b"\0bob",), None)])
        await until(lambda: one.of("forwarded") and one.of("forwarded")[-1][1][-1][0] == signal(2), "all of it")
        got = [envelope for _, envelopes in one.of("forwarded") for envelope in envelopes]
        assert {data for data, _, _ in got[:-1]} == {signal(1, 65_000)}
        assert tuple(user for _, users, _ in got[:-1] for user in users) == crowd
        assert link.up

    async def test_a_long_list_of_sessions(self) -> None:
        """If this fails, a node with many sessions can never link, or a session that went while the list was on its way stays in it."""
        one, two = await self._pair()
        link = two.to("im-1")
        many = [session(number, "user") for number in range(30_000)]
        whole = link.attach(many, whole=True)
        link.detach([many[-1]])
        again = link.attach([session(40_000)])
        assert (await whole, await again) == (True, True)
        told = [each for each in one.told if each[0] in ("attached", "detached")]
        assert [row for each in told[:-2] for row in each[2]] == many
        assert [each[3] for each in told[:-2]] == [True] + [False] * (len(told) - 3)
        assert len(told) > 5
        assert told[-2:] == [("detached", "im-2", [many[-1]]), ("attached", "im-2", [session(40_000)], False)]

    async def test_many_notifies_in_a_row_are_acknowledged(self) -> None:
        """If this fails, a link that is only busy is cut as soon as its window has been used once."""
        one, two = await self._pair()
        link = two.to("im-1")
        for number in range(3000):
            link.forward([(signal(number), (b"\0bob",), None)])
            two.turn.end()
            if number % 500 == 0:
                await until(lambda number=number: len(one.of("forwarded")) == number + 1, "those so far")
        await until(lambda: len(one.of("forwarded")) == 3000, "all")
        assert link.up

    async def test_much_at_once(self) -> None:
        """If this fails, a commit of many messages cuts the links to nodes that are well, which then read the store for all of them."""
        one, two = await self._pair()
        link, many = two.to("im-1"), 8000
        for number in range(many):
            link.forward([(signal(number, 1000), (b"\0bob",), None)])
        await until(lambda: not link.up or sum(len(envelopes) for _, envelopes in one.of("forwarded")) == many, "all of it")
        assert link.up

    async def test_nothing_comes_by_a_link_that_is_down(self) -> None:
        """If this fails, sessions that a node tells of in its last breath stay in the table: what is for them is sent there."""
        one = self.side("im-1")
        raw = await self.raw(await self.listening(one))
        await raw.linked("im-9")
        link = one.to("im-9")
        link.attach([session(1)], whole=True)
        link.detach([session(1)])
        link._pump.connection.credit = 0
        asked = await raw.first(lambda got: got.is_(Kind.REQUEST, Command.ATTACH), "the question")
        answer = frame(Kind.RESPONSE, Command.ATTACH, b"", asked.request_id)
        raw.write(answer + frame(Kind.REQUEST, Command.ATTACH, CODECS[Kind.REQUEST, Command.ATTACH].write(whole=1, sessions=[]), 99))
        await raw.ended()
        assert one.told == [("up", "im-9"), ("down", "im-9")]

    async def test_rubbish_ends_a_link_and_is_said_once(self) -> None:
        """If this fails, a node that has gone mad, or somebody who only pretends to be one, brings another down or goes unnoticed."""
        one = self.side("im-1")
        where = await self.listening(one)
        row = CODECS[Kind.NOTIFY, Command.FORWARD].rows
        assert row is not None
        attach = CODECS[Kind.REQUEST, Command.ATTACH].write(whole=1, sessions=[])

        def forward(envelope: bytes, users: int = 1) -> bytes:
            data = row.write(users=users, envelope=envelope)
            return frame(Kind.NOTIFY, Command.FORWARD, len(data).to_bytes(4, "big") + data)

        most = link_limits().max_body
        for what, data, code in (
            ("garbage", b"GET / HTTP/1.1\r\n\r\n", Disconnect.MALFORMED),
            ("too long", HEADER.pack(most + 1, tag(Kind.NOTIFY, Command.FORWARD), 0, 0), Disconnect.TOO_LARGE),
            ("rows run over", frame(Kind.NOTIFY, Command.FORWARD, b"\0\0\1\0"), Disconnect.MALFORMED),
            ("an audience runs over", forward(b"\0\5\0bob" + signal(1), users=40), Disconnect.MALFORMED),
            ("an audience of half a user", forward(b"\xff\xff\0bob" + signal(1)), Disconnect.MALFORMED),
            ("two tenants", forward(b"\0\4\0bob\0\10acme\0eve" + signal(1), users=2), Disconnect.MALFORMED),
            ("no notify", forward(b"\0\4\0bob" + frame(Kind.REQUEST, Command.PING)), Disconnect.MALFORMED),
            ("half a notify", forward(b"\0\4\0bob" + signal(1)[:-1]), Disconnect.MALFORMED),
            ("nothing at all", forward(b"", users=0), Disconnect.MALFORMED),
            ("sessions run over", frame(Kind.REQUEST, Command.ATTACH, attach + b"\0\0\1\0", 1), Disconnect.MALFORMED),
            ("half a session", frame(Kind.NOTIFY, Command.DETACH, b"\0\0\0\1?"), Disconnect.MALFORMED),
            ("a node that routes", frame(Kind.REQUEST, Command.NODES, b"", 1), Disconnect.UNEXPECTED),
            ("a client's command", frame(Kind.REQUEST, Command.SYNC, bytes(19), 1), Disconnect.UNEXPECTED),
            ("an unknown one", frame(Kind.NOTIFY, 0x7F01), Disconnect.UNEXPECTED),
            ("LINK again", frame(Kind.REQUEST, Command.LINK, b"", 1), Disconnect.UNEXPECTED),
            ("an answer to nothing", frame(Kind.RESPONSE, Command.ATTACH, b"", 99), Disconnect.UNEXPECTED),
            ("a count too high", frame(Kind.NOTIFY, Command.WINDOW, b"\xff" * 8), Disconnect.ACK_ABOVE_SENT),
        ):
            del one.told[:]
            raw = await self.raw(where)
            await raw.linked("im-9")
            with logged() as lines:
                raw.write(data)
                assert await raw.disconnected() is code, what
            assert one.told == [("up", "im-9"), ("down", "im-9")], what
            assert len(lines) == 1, (what, lines)
            assert code.name in lines[0], lines

        for what, data, code in (
            ("garbage", b"GET / HTTP/1.1\r\n\r\n", Disconnect.MALFORMED),
            ("too long for a stranger", HEADER.pack(1025, tag(Kind.REQUEST, Command.LINK), 1, 0), Disconnect.TOO_LARGE),
            ("a client", frame(Kind.REQUEST, Command.LOGIN, bytes(30), 2), Disconnect.UNEXPECTED),
            ("sessions of a stranger", frame(Kind.REQUEST, Command.ATTACH, attach, 2), Disconnect.UNEXPECTED),
            ("a proof of nothing", frame(Kind.REQUEST, Command.PROOF, bytes(32), 2), Disconnect.UNEXPECTED),
            ("half a LINK", frame(Kind.REQUEST, Command.LINK, b"\0\1\1", 2), Disconnect.MALFORMED),
        ):
            with logged() as lines:
                for _ in range(3):
                    raw = await self.raw(where)
                    if what != "garbage":
                        await raw.hello()
                    raw.write(data)
                    assert await raw.disconnected() is code, what
            assert len(lines) == 1, (what, lines)
        assert self.flushLoggedErrors() == []

    async def test_who_may_not_link_is_told_why(self) -> None:
        """If this fails, a stranger gets into the cluster, or an operator cannot see why a node does not."""
        one = self.side("im-1")
        where = await self.listening(one)
        now = one.turn.wall()
        for how, words in (
            ({"secret": b"a guess"}, "does not know the secret"),
            ({"version": 2}, "version 2 of the cluster protocol"),
            ({"time": int(now * 1000) + 40_000}, "s ahead of that of node im-1"),
            ({"time": int(now * 1000) - 40_000}, "s behind that of node im-1"),
            ({"name": b"im-1"}, "two have the same name"),
            ({"name": b"im-1", "boot": one.links.me.boot}, "cannot link to itself"),
            ({"name": b"x" * 65}, "a node's name has 1 to 64 bytes"),
            ({"role": 0}, "role 0 is none of"),
        ):
            raw = await self.raw(where)
            with logged() as lines, pytest.raises((ImError, AssertionError)):
                await raw.linked("im-9", **how)
            last = await raw.ended()
            assert last is not None
            assert words in last.values.reason.decode(), (how, last)
            assert len(lines) == 1, lines
            assert words in lines[0], lines
        assert one.told == []

    async def test_a_proof_cannot_be_sent_back(self) -> None:
        """If this fails, somebody who does not know the secret gets in with the answer of the node itself."""
        one = self.side("im-1")
        raw = await self.raw(await self.listening(one))
        await raw.hello()
        theirs = await raw.ask(Command.LINK, **raw.who("im-9"))
        raw.write(raw.request(Command.PROOF, proof=theirs.proof)[1])
        assert await raw.disconnected() is Disconnect.LINK_REFUSED
        assert one.told == []


# ---- in a simulated world


SEEDS = range(5)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("one_way", [False, True])
def test_a_partition_is_noticed_and_mended(seed: int, one_way: bool) -> None:
    """If this fails, a node goes on to push into a broken network without a doubt, or is not back when the network is."""
    cluster = Cluster(seed, "a", "b", "c")
    world = cluster.world
    world.run_for(5)
    broken = {name: cluster.now(name) for name in "ab"}
    links = {"a": cluster["a"].to("b"), "b": cluster["b"].to("a")}
    mend = world.partition("a", "b", one_way=one_way)
    world.run_for(4.5)
    for name, link in links.items():
        assert not link.up
        assert broken[name] - 2.5 < link.heard <= broken[name], "it heard the other until shortly before, and claims no more"
    assert all(cluster[one].to("c").up and cluster["c"].to(one).up for one in "ab"), "others notice nothing"
    mend()
    world.run_until(lambda: cluster["a"].links.get(Role.PEER, "b") and cluster["b"].links.get(Role.PEER, "a"), limit=6)
    assert [what for what, *_ in cluster["a"].told if what in ("up", "down")].count("down") == 1


@pytest.mark.parametrize("seed", SEEDS)
def test_a_node_that_was_stopped_does_not_claim_to_have_heard(seed: int) -> None:
    """If this fails, what others pushed while a node was stopped (SIGSTOP) is lost to it: it reads bytes that lay there for long, takes
    them for news, and looks into the store too late."""
    cluster = Cluster(seed, "a", "b")
    world = cluster.world
    world.run_for(3)
    a, b = cluster["a"], cluster["b"]
    links = {"a": a.to("b"), "b": b.to("a")}
    stopped = {name: cluster.now(name) for name in "ab"}
    world.processes["b"].freeze()
    for number in range(20):
        links["a"].forward([(signal(number), (b"\0bob",), None)])  # b reads some of these when it goes on
        world.run_for(0.1)
    world.run_for(5)
    assert not links["a"].up
    world.processes["b"].thaw()
    world.run_until(lambda: not links["b"].up, limit=5)
    for name, link in links.items():
        assert link.heard <= stopped[name]
    world.run_until(lambda: a.links.get(Role.PEER, "b") and b.links.get(Role.PEER, "a"), limit=6)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("what", ["window", "bytes"])
def test_a_full_link_is_cut_and_others_do_not_wait(seed: int, what: str) -> None:
    """If this fails, one stopped node stalls its peers or makes them grow; or messages are left out without anybody knowing."""
    limits = replace(link_limits(), write_budget=2**20)
    cluster = Cluster(seed, "a", "b", "c", limits=limits)
    world, a = cluster.world, cluster["a"]
    to_b, to_c = a.to("b"), a.to("c")
    world.processes["b"].freeze()
    turns, size = (3000, 0) if what == "window" else (50, 60_000)
    for number in range(turns):
        for link in (to_b, to_c):
            link.forward([(signal(number, size), (b"\0bob",), None)])
        world.run_for(2.5 / turns)
        if not to_b.up:
            break
    assert not to_b.up
    assert number > 15, "it takes some"
    assert sum(map(len, to_b._pump.out)) <= limits.write_budget + 1024
    assert to_c.up
    world.run_until(lambda: len(cluster["c"].of("forwarded")) == number + 1, limit=5)
    assert a.of("down") == [("b",)]


@pytest.mark.parametrize("seed", SEEDS)
def test_an_answer_that_does_not_come_cuts_the_link(seed: int) -> None:
    """If this fails, a login waits for a node that cannot answer, for as long as that takes."""
    cluster = Cluster(seed, "a", "b")
    world, link = cluster.world, cluster["a"].to("b")
    answers: list[bool] = []
    world.partition("b", "a", one_way=True)
    link.attach([session(1)], whole=True).addCallback(answers.append)
    link.attach([session(2)]).addCallback(answers.append)
    world.run_for(0.9)
    assert (answers, link.up) == ([], True)
    world.run_for(0.3)
    assert (answers, link.up) == ([False, False], False)
    assert cluster["b"].of("attached") == [("a", [session(1)], True)], "it was only the answer that was lost"
    link.attach([session(3)]).addCallback(answers.append)
    assert answers[2:] == [False], "at once, when there is no link"
    link.forward([(signal(1), (b"\0bob",), None)])
    link.detach([session(1)])


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("power", [False, True])
def test_a_node_that_was_killed_comes_back_as_another(seed: int, power: bool) -> None:
    """If this fails, a node that has crashed is not linked to again, or its last run is taken for the one that lives."""
    cluster = Cluster(seed, "a", "b")
    world, a = cluster.world, cluster["a"]
    before = a.to("b").peer
    (world.power_off if power else world.kill)("b")
    world.run_for(0.5)
    if power:
        world.power_on("b")
    else:
        world.processes["b"].start()
    world.run_until(lambda: (link := a.links.get(Role.PEER, "b")) and link.peer.boot != before.boot, limit=8)
    assert [each[:2] for each in a.told if each[0] in ("up", "down")] == [("up", "b"), ("down", "b"), ("up", "b")]
    world.run_for(5)
    assert a.to("b").up


def test_the_same_seed_gives_the_same_links() -> None:
    """If this fails, a fault of the cluster that a simulation has found cannot be looked at again."""

    def run() -> Any:
        cluster = Cluster(1, "a", "b", "c")
        cluster.world.run_for(2)
        cluster.world.kill("c")
        cluster.world.run_for(3)
        return cluster.world.trace.digest, cluster["a"].told

    assert run() == run()


def test_a_stop_leaves_nothing_behind() -> None:
    """If this fails, a node that is to end does not, or leaves others waiting for it until it counts as dead."""
    cluster = Cluster(3, "a", "b", "c")
    world = cluster.world
    told = cluster["a"].told
    world.processes["b"].stop()
    world.run_until(lambda: not world.processes["b"].alive, limit=3)
    world.run_until(lambda: ("down", "b") in told, limit=0.5)
    world.processes["a"].stop()
    world.processes["c"].stop()
    world.run_for(5)
    assert world.leaks == []
    assert not any(process.alive for process in world.processes.values())


def test_states_are_those_of_every_connection() -> None:
    """If this fails, what the specification says of a link's life is not how it goes."""
    cluster = Cluster(4, "a", "b")
    connection = cluster["a"].to("b")._pump.connection
    assert (connection.state, connection.role, connection.heartbeat) == (State.OPEN, Role.PEER, 1)
