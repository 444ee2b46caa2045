"""The demonstration of servers side by side: each by itself is in order, and what is missing between them is what the schemes are for.

Strategy: everybody sends to everybody. Who has got what is read from what the devices have shown, and from each server's own answer to
"what do I have?", which tells more than any wait: what is not in a server's store will not come from there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twisted.internet.defer import DeferredList

from twisted_im.client.values import Accepted
from twisted_im.commands.demo_cluster import NEIGHBOUR, USERS
from twisted_im.commands.demo_stage import PATIENCE, Actor, Play, Twistd, say, title
from twisted_im.server.authenticators import write_password
from twisted_im.wire.schema import LoginMethod

#: Everybody's password.
SECRET = "not a secret"


class ParallelDemo(Play):
    """Several single servers, each with a store of its own.

    Args:
        nodes: how many.
        store: a kind in `STORES`.
    """

    def __init__(self, reactor: Any, folder: Path, *, nodes: int, store: str) -> None:
        super().__init__(reactor, folder, messages=0)
        options = ["im", "--auth=file:users", f"--store={store}"]
        self._servers = [
            Twistd(reactor, folder, name, [*options, f"--data={name}", f"--name={name}", "--listen=tcp:{port}"])
            for name in (f"im-{number}" for number in range(1, nodes + 1))
        ]
        self._options = " ".join(options)

    async def play(self) -> int:
        """Plays all; gives the status."""
        failed, good = "", False
        try:
            await self._start()
            good = await self._everybody_to_everybody()
            good = await self._where_it_is() and good
        except ChildProcessError as error:
            failed = str(error)
        except TimeoutError as error:
            failed = f"not finished within {PATIENCE:.0f} s: {error}"
        if failed:
            say(f"\nNot played to the end: {failed}.")
        elif good:
            say("\nAs expected: users of one server reach each other, and users of different servers do not. Nothing is lost, but nothing")
            say("arrives: a message stays where its sender is. To forward it is what --strategy=broadcast and --strategy=routed are for.")
        else:
            say("\nNOT AS EXPECTED: see above.")
        await self.leave()
        await DeferredList([server.stop() for server in self._servers])
        return 0 if good and not failed else 1

    async def _start(self) -> None:
        homes = [(user, server) for user, server in zip(USERS, self._servers, strict=False)]
        homes.append((NEIGHBOUR, self._servers[0]))
        for user, _ in homes:
            write_password(self._folder / "users", "", user, SECRET)
        await self._all([server.start() for server in self._servers])
        say(f"{len(self._servers)} single servers with the same users, each with a store of its own. An operator starts one by")
        say(f"\n  twistd -n {self._options} --data=im-1 --name=im-1 --listen=tcp:0\n")
        for user, server in homes:
            await self._comes(user, "phone", server)
        for server in self._servers:
            say(f"  {server.name}: {' and '.join(actor.user for actor in self._at(server.name))}")

    async def _comes(self, user: str, label: str, server: Twistd) -> Actor:
        """A device that knows one server."""
        actor = Actor(self, user, label, server.address, method=LoginMethod.PASSWORD, secret=SECRET)
        self.actors.append(actor)
        actor.client.startService()
        await self._within(actor.client.when_online())
        return actor

    def _at(self, name: str) -> list[Actor]:
        return [actor for actor in self.actors if actor.node == name]

    async def _everybody_to_everybody(self) -> bool:
        title("1. Everybody sends a message to everybody else")
        pairs = [(sender, receiver) for sender in self.actors for receiver in self.actors if sender is not receiver]
        sendings = {pair: pair[0].send(pair[1].user, f"Hello, {pair[1].user}, this is {pair[0].user}!") for pair in pairs}
        await self._until(lambda: not any(actor.client.unsent() for actor in self.actors), "messages to be accepted")
        near = [pair for pair in pairs if pair[0].node == pair[1].node]
        await self._until(lambda: all(sendings[s, r].client_id in r.shown_at for s, r in near), "messages within one server")
        there = {actor: set((await self.read(actor)).values()) for actor in self.actors}
        say("  from │ to" + "".join(f"{actor.user:>12}" for actor in self.actors))
        good = True
        for sender in self.actors:
            cells = ""
            for receiver in self.actors:
                if sender is receiver:
                    cells += f"{'·':>12}"
                    continue
                accepted = isinstance(sendings[sender, receiver].outcome, Accepted)
                number = sendings[sender, receiver].client_id
                arrived = number in receiver.shown_at or number in there[receiver]
                good = good and accepted and arrived == (sender.node == receiver.node)
                cells += f"{'shown' if arrived else 'accepted' if accepted else 'REFUSED':>12}"
            say(f"  {sender.user:<9}{cells}")
        far = len(pairs) - len(near)
        say(f"\n  All {len(pairs)} are accepted. {len(near)} were between users of one server, and shown. The other {far} are shown")
        say("  to nobody: the receivers are online, but on a server that does not have them.")
        return good

    async def _where_it_is(self) -> bool:
        """One of those who got nothing looks at the sender's server."""
        title("2. Where such a message is")
        sender, receiver = self._at(self._servers[0].name)[0], self._at(self._servers[1].name)[0]
        (sent,) = [sent.sending for sent in sender.sent if receiver.user in sent.users]
        visitor = await self._comes(receiver.user, "other phone", self._servers[0])
        await self._until(lambda: sent.client_id in visitor.shown_at, "a message that waits on another server")
        who, other = receiver.user, sender.user
        say(f"  {who} logs in a second time, on {visitor.node}: there is what {other} wrote to {who}. To miss nothing, {who} has to")
        say(f"  be on all {len(self._servers)} servers at once, and then has a conversation with {other} on each of them.")
        return visitor.node == sender.node
