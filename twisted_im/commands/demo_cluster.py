"""The demonstration of a cluster: where each message goes, which copies are wasted, and what happens when a node is killed.

Strategy: the figures of a message are differences of what the processes have counted, asked for by SIGUSR2 before and after it. A device
confirms a message when its program has taken it, so the receipts are held back until the copies of the message itself have been counted;
those of the receipts are counted by themselves. Before each message all nodes must hear each other. If that changes in the middle of
one (a machine that is very busy), its figures are shown, and not held against the scheme.

With broadcast, and with routes by a route server, there is one route server, a process of its own: so it can be seen, and does not die
with a node.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from twisted.internet.defer import DeferredList

from twisted_im.client.values import Life
from twisted_im.commands.demo_stage import PATIENCE, Actor, Play, Twistd, milliseconds, say, title
from twisted_im.config import SETTINGS, STORES
from twisted_im.edge.redis import without_password
from twisted_im.storage.sqlite import SqliteStore

#: Who is on the first node, on the second, and so on.
USERS = ("alice", "bob", "carol", "dave", "erin", "frank", "grace", "heidi")

#: What else there is: alice's neighbour on the first node, and somebody who is away.
NEIGHBOUR, AWAY = "amy", "zoe"

#: Events that tell of trouble between processes.
TROUBLE = ("doubt", "link down", "table away", "table lost")

Figures = dict[str, dict[str, Any]]


class Cost(NamedTuple):
    """What one message has cost, in copies that came to nodes, and what it should."""

    what: str
    copies: int
    theory: int
    wasted: int
    wasted_theory: int
    frames: int  #: on all links: with a route server, the one to it too
    hops: int  #: of the copies that were wanted
    bytes: int
    look_ups: int
    milliseconds: float | None  #: until it was shown everywhere
    disturbed: bool
    routed: int  #: nodes elsewhere that need it

    @property
    def as_told(self) -> bool:
        return self.disturbed or (self.copies, self.wasted) == (self.theory, self.wasted_theory)


class ClusterDemo(Play):
    """Several nodes on one store.

    Args:
        strategy: broadcast or routed.
        via: how routed nodes reach each other; None for the default.
        tables: URLs of Redis; empty for a table in memory.
        nodes: how many.
        messages: of each of three senders, while a node is killed.

    Attributes:
        costs: of the messages that were looked at one by one.
    """

    def __init__(
        self, reactor: Any, folder: Path, *, strategy: str, via: str | None, tables: Sequence[str], nodes: int, messages: int
    ) -> None:
        super().__init__(reactor, folder, messages=messages)
        self._strategy = strategy
        self._via = via
        self._tables = tables
        self._names = [f"im-{number}" for number in range(1, nodes + 1)]
        self._star = strategy == "broadcast" or via == "route-server"
        self._route: Twistd | None = None
        self._nodes: list[Twistd] = []
        self._began: dict[str, float] = {}  # node → when its present run did
        self.costs: list[Cost] = []
        self._receipts: Counter[str] = Counter()
        self._killed = ""

    @property
    def _processes(self) -> list[Twistd]:
        return [*([self._route] if self._route is not None else []), *self._nodes]

    async def play(self) -> int:
        """Plays all scenes; gives the status."""
        failed, kept = "", Counter[bytes]()
        try:
            group = await self._start()
            await self._log_in()
            await self._messages_one_by_one(group)
            self._table()
            await self._kill(group)
            kept = await self.kept()
        except ChildProcessError as error:
            failed = str(error)
        except TimeoutError as error:
            failed = f"not finished within {PATIENCE:.0f} s: {error}"
        await self.leave()
        await DeferredList([process.stop() for process in self._processes])
        if not failed:
            self._totals()
        return self.verdict(kept, failed)

    def verdict(self, kept: Counter[bytes], failed: str) -> int:
        """Judges copies as well as messages; gives the status."""
        wrong = [cost.what for cost in self.costs if not cost.as_told]
        status = self.judge(kept, failed or None)
        if wrong:
            say(f"\nBUT THE COPIES ARE NOT as {self._strategy} should have them: of {', '.join(wrong)}.")
        return 1 if wrong else status

    # ---- the processes

    async def _start(self) -> int:
        """Starts all, and waits until they hear each other; gives the group of all who are there."""
        everybody = [*USERS[: max(len(self._names), 3)], NEIGHBOUR]
        group = await self._make_group(everybody)
        options = ["im", "--auth=anonymous", "--data=data", f"--strategy={self._strategy}"]
        shown = [f"twistd -n {' '.join(options)}"]
        if self._via is not None:
            options.append(f"--via={self._via}")
            shown.append(f"--via={self._via}")
        if self._star:
            self._route = Twistd(
                self._reactor, self._folder, "route", ["im", "route", "--data=data", "--listen=tcp:{port}"], up=("links", "where")
            )
            await self._within(self._route.start())
            options.append(f"--route-server=tcp:{self._route.address}")
            shown.append(options[-1])
        shown += [f"--table={without_password(table)}" for table in self._tables]
        (variable,) = [setting.variable for setting in SETTINGS if setting.name == "table"]
        environment = {variable: " ".join(self._tables)} if self._tables else {}  # it may hold a password
        for name in self._names:
            words = [*options, f"--name={name}", "--listen=tcp:{port}"]
            self._nodes.append(Twistd(self._reactor, self._folder, name, words, environment=environment))
        for node in self._nodes:
            self._began[node.name] = time.time()
        began = time.perf_counter()
        await self._all([node.start() for node in self._nodes])
        how = {True: "by a route server", False: "to each other"}[self._star]
        say(f"{len(self._nodes)} nodes on one store, linked {how}. An operator starts them by")
        say("\n  " + (f"twistd -n im route --data=data --listen=tcp:{self._port}\n  " if self._star else "") + " ".join(shown))
        say(f"      --name=im-1 --listen=tcp:0        and so on, to {self._names[-1]}\n")
        await self._until(self._calm, "all nodes to hear each other")
        say(f"After {float(milliseconds(began)) / 1000:.1f} s all listen, and each hears the others.")
        return group

    @property
    def _port(self) -> str:
        return self._route.address.rpartition(":")[2] if self._route is not None else ""

    async def _make_group(self, users: Sequence[str]) -> int:
        """A group of all, made in the store before anybody uses it."""
        folder = self._folder / "data"
        folder.mkdir(mode=0o700)
        file = STORES["sqlite"].file
        assert file is not None
        store = SqliteStore(folder / file, reactor=self._reactor)
        store.open()
        try:
            group: int = await store.create_group(b"everybody", [b"\0" + user.encode() for user in users])
        finally:
            await store.close()  # its threads would keep this process alive
        self.groups[group] = frozenset(users)
        return group

    def _calm(self) -> bool:
        """Whether every node that runs hears the others."""
        running = [node for node in self._nodes if node.running]
        for node in running:
            since = self._began[node.name]
            away = node.of("table away", since)
            if away and not node.of("table back", away[-1]["at"]) and not self.costs:
                raise ChildProcessError(f"the route table's server {away[-1]['server']}: {away[-1]['why']}; start it, or correct --table")
            last = {each["peer"]: each["event"] for each in node.events if each["event"] in ("doubt", "certain") and each["at"] >= since}
            heard = {peer for peer, event in last.items() if event == "certain"}
            if len(heard) < len(last) or not heard >= {other.name for other in running if other is not node}:
                return False
        return True

    def _trouble(self) -> int:
        return sum(len(process.of(event)) for process in self._processes for event in TROUBLE)

    async def _counters(self) -> Figures:
        """What each process has counted so far."""
        running = [process for process in self._processes if process.running]
        told = await self._all([process.counters() for process in running])
        return {process.name: each for process, each in zip(running, told, strict=True)}

    async def _still(self) -> Figures:
        """The same, when no copies are under way: from one look to the next nothing has been sent or taken."""
        before = await self._counters()
        while True:
            await self._pause(0.05)
            after = await self._counters()
            if not any(total(before, after, counter) for counter in ("copies_sent", "copies_taken")):
                return after
            before = after

    async def _arrived(self, before: Figures, trouble: int) -> Figures:
        """The same, when as many copies have been taken as were sent since then; or when some were lost."""
        end = time.monotonic() + PATIENCE
        while True:
            after = await self._counters()
            if total(before, after, "copies_sent") == total(before, after, "copies_taken") or self._trouble() != trouble:
                return after
            if time.monotonic() > end:
                raise TimeoutError("copies to arrive")
            await self._pause(0.005)

    # ---- the users

    def _actor(self, user: str, label: str, home: int) -> Actor:
        """A device that goes to one node, and knows the others."""
        addresses = [node.address for node in self._nodes]
        actor = Actor(self, user, label, ",".join([addresses[home], *addresses[:home], *addresses[home + 1 :]]))
        self.actors.append(actor)
        return actor

    async def _log_in(self) -> None:
        last = len(self._nodes) - 1
        homes = [(user, "phone", min(home, last)) for home, user in enumerate(USERS[: max(last + 1, 3)])]
        for user, label, home in [*homes, ("carol", "desk", 0), (NEIGHBOUR, "phone", 0), (AWAY, "phone", 1)]:
            actor = self._actor(user, label, home)
            actor.client.startService()
            await self._within(actor.client.when_online())
        away = self._named(f"{AWAY}'s phone")
        where = away.node
        greeting = self._named("alice's phone").send(AWAY, "Are you there?")
        await self._until(lambda: greeting.client_id in away.shown_at, "a first message")
        await self._until(lambda: away.confirmed, "a first receipt")
        await away.client.stopService()
        there = [actor for actor in self.actors if actor is not away]
        say("\nEvery user is on a node of his own, and knows the addresses of all:\n")
        for node in self._nodes:
            say(f"  {node.name}: {', '.join(actor.name for actor in there if actor.node == node.name)}")
        say(f"\n{AWAY} was on {where} for a moment, and has gone. All others are members of the group “everybody”.")
        expected = sum(actor.node == where for actor in there)
        while (await self._counters())[where]["sessions"] != expected:
            await self._pause(0.01)

    def _named(self, name: str) -> Actor:
        (actor,) = [actor for actor in self.actors if actor.name == name]
        return actor

    # ---- one message after another

    async def _messages_one_by_one(self, group: int) -> None:
        title("1. Where each message goes")
        others = len(self._nodes) - 1
        if self._strategy == "broadcast":
            say(f"broadcast: whoever it is for, the route server copies it to all other nodes: N − 1 = {plural(others, 'copy', 'copies')}.")
        else:
            say("routed: one copy to each other node that has somebody whom it is for, and none to those that have not.")
        alice, bob, carol = (self._named(f"{user}'s phone") for user in USERS[:3])
        await self._message(alice, bob.user, "Hello, Bob!", "to a user on another node")
        await self._message(alice, NEIGHBOUR, "Hello, neighbour!", "to a user on the same node")
        await self._message(bob, carol.user, "Hello, Carol!", "to a user with devices on two nodes")
        await self._message(carol, group, "Hello, everybody!", "to the group")
        await self._message(alice, AWAY, "Call me!", "to somebody who is away")
        away = self._named(f"{AWAY}'s phone")
        began = time.perf_counter()
        away.client.startService()
        await self._settled()
        say(f"\n   {AWAY} logs in again: it is shown, {milliseconds(began)} ms later. No copy was needed: it is in the store.")

    async def _message(self, sender: Actor, to: str | int, text: str, what: str) -> None:
        """Sends one, and tells all that became of it."""
        await self._until(self._calm, "all nodes to hear each other")
        before, trouble = await self._still(), self._trouble()
        receivers = [actor for actor in self.actors if actor is not sender and actor.online and self._gets(actor, sender, to)]
        self._held = []
        began = time.perf_counter()
        sending = sender.send(to, text)
        await self._within(sending.accepted)
        await self._until(lambda: all(sending.client_id in each.shown_at for each in receivers), "a message to be shown")
        after = await self._arrived(before, trouble)
        held, self._held = self._held, None
        confirmed, told = [each.confirmed for each in receivers], len(sender.receipts)
        for each in held:
            each.callback(None)
        news = bool(receivers) and isinstance(to, str)
        await self._until(
            lambda: (
                (
                    all(each.confirmed > count for each, count in zip(receivers, confirmed, strict=True))
                    and (len(sender.receipts) > told or not news)
                )
                or self._trouble() != trouble
            ),
            "its receipts",
        )
        end = await self._arrived(after, trouble)
        times = {each: (each.shown_at[sending.client_id] - began) * 1000 for each in receivers}
        name = "everybody" if isinstance(to, int) else to
        cost = self._cost(f"{sender.user} → {name}", sender, times, before, after, disturbed=self._trouble() != trouble)
        self.costs.append(cost)
        for counter in ("copies_taken", "copies_wasted", "hops", "look_ups"):
            self._receipts[counter] += total(after, end, counter, self._names)
        for counter in ("copies_sent", "copy_bytes"):
            self._receipts[counter] += total(after, end, counter)
        say(f"\nMessage {len(self.costs)}: {sender.user} writes {what}: “{text}”\n")
        self._draw(sender, times, before, after)
        copies = plural(cost.copies, "copy", "copies").capitalize()
        useful = cost.copies - cost.wasted
        links = f" over {plural(cost.hops // useful, 'link', 'links')}{' each' if cost.copies > 1 else ''}" if useful else ""
        crossed = f"{links}, {cost.bytes} bytes" if cost.copies else ""
        looked = f" {plural(cost.look_ups, 'user', 'users').capitalize()} looked up in Redis." if self._tables else ""
        asked = f" ({cost.bytes} bytes to the route server, which has nobody to copy it to.)" if cost.frames and not cost.copies else ""
        say(f"\n   {copies}{crossed}; wasted: {cost.wasted}.{asked}{looked}")
        if news:
            count, wasted = (total(after, end, counter, self._names) for counter in ("copies_taken", "copies_wasted"))
            say(f"   The receipt, back to {sender.user}: {plural(count, 'copy', 'copies')}; wasted: {wasted}.")
        if cost.disturbed:
            say("   (Disturbed: two processes lost sight of each other meanwhile. These figures do not count.)")

    def _gets(self, actor: Actor, sender: Actor, to: str | int) -> bool:
        return actor.user in (self.groups[to] if isinstance(to, int) else (sender.user, to))

    def _cost(self, what: str, sender: Actor, times: dict[Actor, float], before: Figures, after: Figures, *, disturbed: bool) -> Cost:
        needed = len({actor.node for actor in times if actor.node != sender.node})
        theory = len(self._nodes) - 1 if self._strategy == "broadcast" else needed
        return Cost(
            what=what,
            copies=total(before, after, "copies_taken", self._names),
            theory=theory,
            wasted=total(before, after, "copies_wasted", self._names),
            wasted_theory=theory - needed,
            frames=total(before, after, "copies_sent"),
            hops=total(before, after, "hops", self._names),
            bytes=total(before, after, "copy_bytes"),
            look_ups=total(before, after, "look_ups"),
            milliseconds=max(times.values(), default=None),
            disturbed=disturbed,
            routed=needed,
        )

    def _draw(self, sender: Actor, times: dict[Actor, float], before: Figures, after: Figures) -> None:
        """A branch for each node that it came to."""
        rows: list[tuple[str, str]] = []
        for node in self._names:
            here = {actor: took for actor, took in times.items() if actor.node == node}
            shown = f"{', '.join(actor.name for actor in here)} after {max(here.values()):.2f} ms" if here else ""
            if node == sender.node:
                if shown:
                    rows.insert(0, ("here", shown))
                continue
            wasted = after[node]["copies_wasted"] - before[node]["copies_wasted"]
            if after[node]["copies_taken"] > before[node]["copies_taken"]:
                way = f"route server ─► {node}" if self._star else node
                rows.append((way, f"{'WASTED, nobody it is for is here' if wasted else ''}{shown}"))
            elif shown:
                rows.append((f"(store) ─► {node}", shown))
        trunk = f"   {sender.name} ─► {sender.node} ─"
        width = max((len(way) for way, _ in rows), default=0)
        for number, (way, text) in enumerate(rows):
            fork = "──" if len(rows) == 1 else "┬─" if number == 0 else "└─" if number == len(rows) - 1 else "├─"
            say(f"{trunk if number == 0 else ' ' * len(trunk)}{fork}► {way:<{width}}  {text}")
        if not rows:
            say(f"{trunk}─► (store)  kept until its receiver comes")

    def _table(self) -> None:
        title(f"2. What that was, and what {self._strategy} should cost")
        say("                      copies to nodes       of them wasted    links    frames     bytes      user   shown everywhere")
        say("  message             counted  theory      counted  theory     each  on links  on links  look-ups        after (ms)")

        def row(what: str, *cells: Any, end: str = "") -> None:
            shown = ["–" if cell is None else f"{cell:.2f}" if isinstance(cell, float) else str(cell) for cell in cells]
            sizes = (7, 8, 13, 8, 9, 10, 10, 10, 18)
            say(f"  {what:<20}" + "".join(f"{cell:>{size}}" for cell, size in zip(shown, sizes, strict=True)) + end)

        def each(hops: int, useful: int) -> int | None:
            return hops // useful if useful else None

        for c in self.costs:
            end = "  disturbed" if c.disturbed else "" if c.as_told else "  WRONG"
            row(
                c.what, c.copies, c.theory, c.wasted, c.wasted_theory, each(c.hops, c.copies - c.wasted), c.frames, c.bytes, c.look_ups,
                c.milliseconds, end=end,
            )  # fmt: skip
        copies, theory, wasted, wasted_theory, frames, hops, size, look_ups = (
            sum(getattr(cost, field) for cost in self.costs)
            for field in ("copies", "theory", "wasted", "wasted_theory", "frames", "hops", "bytes", "look_ups")
        )
        row(f"{len(self.costs)} messages", copies, theory, wasted, wasted_theory, each(hops, copies - wasted), frames, size, look_ups, None)
        r = self._receipts
        row(
            "and their receipts", r["copies_taken"], None, r["copies_wasted"], None,
            each(r["hops"], r["copies_taken"] - r["copies_wasted"]), r["copies_sent"], r["copy_bytes"], r["look_ups"], None,
        )  # fmt: skip
        everywhere = (len(self._nodes) - 1) * len(self.costs)
        needed = sum(cost.routed for cost in self.costs)
        count = len(self.costs)
        say(f"\n  By theory these {count} messages cost {everywhere} copies with broadcast, and {needed} with routed.")
        say("  A wasted copy is read, looked at and dropped by a node that has nobody for it. With broadcast each node reads")
        say("  what all others accept; with routed a message costs one copy for each node that needs it, however many there are.")

    # ---- a node is killed

    async def _kill(self, group: int) -> None:
        title("3. A node is killed while messages flow, and started again")
        victim = self._nodes[-1]
        others = self._nodes[:-1]
        self._killed = victim.name
        senders = [self._named(f"{user}'s phone") for user in USERS[:3]]
        pairs = list(zip(senders, [*senders[1:], senders[0]], strict=True))
        before = sum(len(actor.sent) for actor in self.actors)
        burst = []
        for number in range(self._messages):
            for sender, receiver in pairs:
                burst.append(sender.send(group if number % 10 == 9 else receiver.user, f"storm {number}"))
        on_it = [actor for actor in self.actors if actor.node == victim.name]
        await self._within(burst[len(burst) // 4].accepted)
        killed = time.time()
        await victim.kill()
        waiting = sum(len(actor.client.unsent()) for actor in senders)
        names = ", ".join(actor.name for actor in on_it)
        say(f"kill -9 {victim.name}, with {names} on it.")
        say(f"Of {len(burst)} messages (every tenth to the group) {waiting} are not yet accepted, as far as their senders know.\n")
        say("   seconds")
        await self._until(lambda: all(back(actor, killed) for actor in on_it), "its users to be back")
        story = [(back(actor, killed), actor.name, f"is back, on {actor.node}") for actor in on_it]
        await self._until(lambda: all(node.of("doubt", killed, peer=victim.name) for node in others), "the others to notice")
        await self._settled()
        sent = sum(len(actor.sent) for actor in self.actors) - before
        story.append((time.time(), "everybody", f"all {sent} messages are accepted, and shown by all whom they are for"))
        self._began[victim.name] = time.time()
        story.append((time.time(), victim.name, "is started again by the operator"))
        await self._within(victim.start())
        story.append((victim.of("listening", killed)[-1]["at"], victim.name, "listens"))
        await self._until(lambda: all(node.of("certain", killed, peer=victim.name) for node in others), "the others to hear it again")
        for process in self._processes:
            if process is not victim:
                noticed = process.of("link down", killed, peer=f"node {victim.name}")
                for event in ("doubt", "certain"):
                    noticed += process.of(event, killed, peer=victim.name)
                story += [(each["at"], "route server" if process is self._route else process.name, each["text"]) for each in noticed]
        for at, who, text in sorted(story):
            say(f"  {max(at - killed, 0.0):+8.3f}  {who:<14} {text}")
        say("\n  Users go to the next address that they know. What the node had accepted and not sent on is in the store: there the others")
        say("  look while they do not hear it. Had nobody started it again, they would have given it up when its lease had ended.")

    def _totals(self) -> None:
        title("What the processes have counted in all, as their logs say it at the end")
        say("                messages    copies                                          user     stale    seconds")
        say("  process       accepted      sent     taken    wasted    hops     bytes  look-ups   routes   in doubt")
        fields: list[tuple[str, int]] = [
            ("accepted", 10), ("copies_sent", 10), ("copies_taken", 10), ("copies_wasted", 10), ("hops", 8), ("copy_bytes", 10),
            ("look_ups", 10), ("stale_routes", 9),
        ]  # fmt: skip
        for process in self._processes:
            told = process.of("stopped")[-1]
            name = "route server" if process is self._route else process.name
            name += " *" if process.name == self._killed else ""
            say(f"  {name:<12}" + "".join(f"{told[field]:>{size}}" for field, size in fields) + f"{told['doubt_seconds']:>11.1f}")
        say("\n  * since it was started again: what it had counted before went with it.")


def total(before: Figures, after: Figures, counter: str, names: Sequence[str] | None = None) -> int:
    """By how much a counter has risen, of all processes or of some."""
    return sum(int(each[counter] - before[name][counter]) for name, each in after.items() if names is None or name in names)


def back(actor: Actor, since: float) -> float:
    """When a device came online after a moment; 0 if it has not."""
    return next((at for at, standing in actor.lives if at >= since and standing.life is Life.ONLINE), 0.0)


def plural(count: int, one: str, many: str) -> str:
    return f"{count or 'no'} {one if count == 1 else many}"
