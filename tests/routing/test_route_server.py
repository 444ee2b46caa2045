"""What a route server tells its nodes of each other: by strangers who link to it by hand, and answer when the story wants it."""

from __future__ import annotations

from tests.routing.linked import SECRET, Linked, Stranger
from twisted_im.edge.peers import LinkEnds
from twisted_im.routing.route_server import RouteServer
from twisted_im.wire.codec import frame
from twisted_im.wire.schema import Command, Kind


class TestRouteServer(Linked):
    """One route server."""

    async def begin(self) -> str:
        """Where it takes links."""
        server = RouteServer(LinkEnds("tcp:0", secret=SECRET), name="routes")
        self.addCleanup(server.stop)
        where: str = await server.start()
        return where

    async def told(self, raw: Stranger, rows: dict[str, bool], *, note: bool = True) -> list[int]:
        """Waits until a node is told that these are there, and whether they are heard; with `note` it takes in what it is told on the way.
        Gives the questions that it has not answered."""
        questions: list[int] = []
        while True:
            asked = await raw.first(lambda got: got.is_(Kind.REQUEST, Command.NODES), f"{rows}")
            questions.append(asked.request_id)
            if note:
                self.note(raw, questions.pop())
            if {row.name.decode(): bool(row.heard) for row in asked.values.nodes} == rows:
                return questions

    def note(self, raw: Stranger, question: int) -> None:
        """A node has taken something in."""
        raw.write(frame(Kind.RESPONSE, Command.NODES, b"", question))

    async def test_only_who_has_noted_this_way_is_heard(self) -> None:
        """If this fails, a node whose link was lost for a moment relies on another that does not send to it again yet: a message between
        the two is shown by nobody until the next one comes."""
        where = await self.begin()
        one, two = await self.raw(where), await self.raw(where)
        await one.linked("im-1")
        await two.linked("im-2")
        await self.told(two, {"im-1": False}, note=False)
        await self.told(one, {"im-2": False})
        await self.told(two, {"im-1": True}, note=False)

        await two.close()
        late = await self.told(one, {}, note=False)
        again = await self.raw(where)
        await again.linked("im-2")
        late += await self.told(one, {"im-2": False}, note=False)
        asked = await again.first(lambda got: got.is_(Kind.REQUEST, Command.NODES), "who is there")
        assert [row.heard for row in asked.values.nodes] == [0], "im-1 has not noted that im-2 is back"
        for question in late:
            self.note(one, question)
        await self.told(again, {"im-1": True}, note=False)
