"""Who gets a place on a node, and who is told to come back later."""

from __future__ import annotations

from twisted.internet.defer import gatherResults

from tests.running import Hand, Raw, Served, until
from twisted_im.errors import Disconnect


class Places(Served):
    """A node that is as full as it may be."""

    async def told_full(self, raw: Raw) -> None:
        """It must have been turned away, with the advice to come back."""
        assert await raw.disconnected() is Disconnect.FULL
        assert raw.got[-1].values.come_back == 1
        assert 2000 <= raw.got[-1].values.retry_after < 6000

    async def test_a_patient_crowd_and_sitters(self) -> None:
        """If this fails, strangers who connect and do nothing keep users out; or users who come all at once push each other out."""
        hand = Hand()
        await self.serve(hand=hand, most=200)  # so that 20 may be there who have not logged in
        inside = [await self.user(f"inside{n}") for n in range(30)]  # they have, and count no more
        sitters = [await (self.greeted if n % 2 else self.connect)() for n in range(20)]
        await inside[0].settle()
        assert all(raw.lost is None for raw in sitters)

        hand.advance(1.5)
        crowd = []
        for number, sitter in enumerate(sitters):
            crowd.append(await self.greeted())
            await self.told_full(sitter)
            assert all(raw.lost is None for raw in sitters[number + 1 :]), "who has sat longest goes first"
        hand.advance(0.9)
        late = [await self.connect() for _ in range(5)]
        for raw in late:
            await self.told_full(raw)
        assert all(raw.lost is None for raw in crowd), "they are about to log in"
        await gatherResults([raw.login(f"user{n}") for n, raw in enumerate(crowd)])
        crowd += [await self.user(f"late{n}") for n in range(25)]  # some come back, and others with them
        await gatherResults([raw.settle() for raw in (*inside, *crowd)])
        node = self.server.node
        assert (len(node.pumps), len(node.sessions), len(node.newcomers)) == (75, 75, 0)

    async def test_no_place_at_all(self) -> None:
        """If this fails, a server runs out of descriptors, and cannot even say so; or stays full when its users have gone."""
        await self.serve(most=3)
        users = [await self.user(f"user{n}") for n in range(3)]
        for _ in range(2):
            await self.told_full(await self.connect())
        await gatherResults([raw.settle() for raw in users])
        await users[0].close()
        await until(lambda: len(self.server.node.pumps) == 2, "it to be gone")
        await (await self.user("another")).send("user1", b"here I am")
