"""Who may link, and which of two links is the right one, on real sockets and in a simulated world."""

from __future__ import annotations

import socket

import pytest
from twisted.internet import reactor

from tests.routing.linked import SECRET, Cluster, Linked, Program, Stranger, logged
from tests.running import until
from twisted_im.errors import Disconnect, ImError
from twisted_im.pump import Turn
from twisted_im.routing.handshake import Peer
from twisted_im.routing.linking import STRANGERS, Links
from twisted_im.wire.schema import Role

NODE = Role.PEER


class TestLinks(Linked):
    """Sides that look for each other."""

    async def test_what_is_refused_is_said_once_by_each_and_tried_until_it_is_mended(self) -> None:
        """If this fails, an operator's log fills with one fault, or does not tell it; or a cluster stays apart after it was mended."""
        one, two = self.side("im-1"), self.side("im-2", ahead=45.0)
        where = await self.listening(one)
        with logged() as lines:
            linker = self.leads(two, where, Peer(NODE, "im-1"))
            await until(lambda: one.turn.counters.disconnects > 2, "some attempts")
            assert len(lines) == 2, lines
            assert all("the clock of node im-2 is 45 s ahead of that of node im-1: set it right" in line for line in lines), lines
            assert one.told == two.told == []
            two.turn.wall = one.turn.wall
            await until(lambda: two.links.get(NODE, "im-1"), "the link")
            assert linker.link is two.to("im-1")
            await linker.stop()
            assert linker.link is None
            await until(lambda: one.of("down"), "the news")
        assert len(lines) == 2, lines
        assert two.told == [("up", "im-1"), ("down", "im-1")]

    async def test_nobody_there(self) -> None:
        """If this fails, a node that starts before its peers stays alone, or says each second that it is."""
        one, two = self.side("im-1"), self.side("im-2")
        where = await self.listening(one)
        await one.links.stop()
        tries: list[str] = []
        two.links.say = lambda key, text, say=two.links.say: (tries.append(text), say(key, text))  # type: ignore[method-assign, misc]
        with logged() as lines:
            self.leads(two, where, Peer(NODE, "im-1"))
            await until(lambda: len(tries) > 2, "some attempts")
        (line,) = lines
        assert f"no link to node im-1 at {where}" in line

    async def test_one_that_is_not_looked_for_any_more(self) -> None:
        """If this fails, the log complains of a node that has ended, and in the words of a library."""
        one = self.side("im-1")
        with logged() as lines, socket.socket() as full:
            full.bind(("127.0.0.1", 0))
            full.listen(0)
            where = f"tcp:127.0.0.1:{full.getsockname()[1]}"
            with socket.create_connection(full.getsockname()):  # nobody else gets in: an attempt waits
                linker = self.leads(one, where, Peer(Role.PEER, "im-2"))
                await linker.stop()
        assert lines == []

    async def test_somebody_else_there(self) -> None:
        """If this fails, what is for one node goes to another that has its address now, or a node takes a route server for a node."""
        one, two = self.side("im-1"), self.side("im-2")
        where = await self.listening(one)
        for expected, words in (
            (Peer(NODE, "im-3"), "there is node im-1, where node im-3 was looked for"),
            (Peer(NODE, "im-1", b"x" * 16), "there is another run of node im-1 than the one that was looked for"),
            (Peer(Role.ROUTE, ""), "there is node im-1, where a route server was looked for"),
            (Peer(NODE, ""), ""),
        ):
            with logged() as lines:
                linker = self.leads(two, where, expected)
                await until(lambda: lines or linker.link, "an answer")  # noqa: B023  # it is waited for here
                await linker.stop()
            assert [words in line for line in lines] == [True] * (2 if words else 0), lines
        await until(lambda: len(one.of("down")) == 1, "the news")

    async def test_one_that_looks_for_itself_or_has_anothers_name(self) -> None:
        """If this fails, a node forwards everything to itself; or two nodes take each other's messages."""
        one, namesake = self.side("im-1"), self.side("im-1", boot=b"another".ljust(16))
        where = await self.listening(one)
        for side, words in ((one, "node im-1 cannot link to itself"), (namesake, "two have the same name: node im-1")):
            with logged() as lines:
                linker = self.leads(side, where, Peer(NODE, ""))
                await until(lambda: lines, "an answer")
                await linker.stop()
            assert all(words in line for line in lines), lines
        assert one.told == namesake.told == []
        router = self.side("im-1", role=Role.ROUTE)
        self.leads(router, where, Peer(NODE, "im-1"))
        await until(lambda: one.links.get(Role.ROUTE, "im-1"), "the link of a route server that is called as its node")

    async def test_two_ways_to_one_node(self) -> None:
        """If this fails, two addresses of one node make two links that end each other again and again, or everything goes twice."""
        one, two = self.side("im-1"), self.side("im-2")
        where = await self.listening(one)
        self.leads(two, where, Peer(NODE, "im-1"))
        await until(lambda: two.links.get(NODE, "im-1"), "the first link")
        with logged() as lines:
            self.leads(two, where.replace("127.0.0.1", "localhost"), Peer(NODE, "im-1"))
            await until(lambda: one.turn.counters.disconnects + two.turn.counters.disconnects > 2, "some attempts")
        assert "node im-2 has a link with node im-1 already" in lines[0]
        assert two.told == [("up", "im-1")]
        assert one.told == [("up", "im-2")]

    async def test_a_newer_link_takes_the_place_of_an_older(self) -> None:
        """If this fails, a node that has come back waits for its old connection to die; or an older run shuts out the one that lives."""
        one = self.side("im-1")
        where = await self.listening(one)

        async def come(boot: bytes) -> Stranger:
            raw = await self.raw(where)
            await raw.linked("im-9", boot=boot.ljust(16))
            return raw

        first = await come(b"run 1")
        with logged() as lines:
            again = await come(b"run 1")
            assert await first.disconnected() is Disconnect.LINK_REFUSED
            newer = await come(b"run 2")
            assert await again.disconnected() is Disconnect.LINK_REFUSED
            with pytest.raises((ImError, AssertionError)):
                await come(b"run 1")
        assert one.told == [("up", "im-9"), ("down", "im-9")] * 2 + [("up", "im-9")]
        assert newer.lost is None
        assert one.to("im-9").peer.boot.startswith(b"run 2")
        for line, words in zip(lines, ("a newer link of node im-9", "a newer run of node im-9", "a newer run of node im-9"), strict=True):
            assert words in line

    async def test_those_who_only_sit_there_are_sent_away(self) -> None:
        """If this fails, somebody who opens connections and says nothing keeps the nodes of a cluster from each other."""
        one = self.side("im-1")
        where = await self.listening(one)
        sitting = [await self.raw(where) for _ in range(STRANGERS + 1)]
        assert await sitting[0].disconnected() is Disconnect.FULL
        await sitting[-1].linked("im-9")
        assert one.told == [("up", "im-9")]

    async def test_a_short_secret_is_refused(self) -> None:
        """If this fails, a secret that can be guessed guards a cluster."""
        with pytest.raises(ValueError, match="at least 16 bytes"):
            Links(Peer(NODE, "im-1"), None, Turn(reactor), secret=SECRET[:15])  # type: ignore[arg-type]  # nobody is told of anything


@pytest.mark.parametrize("seed", range(5))
def test_both_look_for_each_other_and_have_one_link(seed: int) -> None:
    """If this fails, two nodes that find each other at once end up with two links, or with none."""
    cluster = Cluster(seed, "a", "b")
    world = cluster.world
    for name, other in (("c", "d"), ("d", "c")):
        world.process(name, lambda process, name=name, other=other: Program(process, name, [other]))  # type: ignore[misc]  # bound
    world.run_for(20)
    c, d = cluster["c"], cluster["d"]
    assert c.to("d").up
    assert d.to("c").up
    before = len(c.told), len(d.told)
    for number in range(5):
        c.to("d").attach([], whole=True)
        world.run_for(number)
    assert (len(c.told), len(d.told)) == (before[0], before[1] + 5), "and keep it"
