"""The six packets on real sockets: each lost once with its connection, and everything that delivery promises besides.

Strategy: the table in docs/delivery.md is the test. Each of its rows is played by the client library through a stretch of network that
takes exactly that packet out and cuts its connection; each cell is a phrase, and each phrase stands for a look at the sender, the server's
store, the receiver or the frames that have passed. A phrase that nobody has taught the tests fails. The rest is played by bare frames,
which see what the client library would mend.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, gatherResults

from tests.running import PLAIN, Proxy, Raw, Served, new_id, refusal, tls, until
from twisted_im.client import sending
from twisted_im.client.client import Client
from twisted_im.client.values import Accepted, Life, Message, Receipt, Standing
from twisted_im.core.connection import Limits
from twisted_im.errors import Disconnect, Status
from twisted_im.storage.memory import MemoryStore
from twisted_im.storage.sqlite import SqliteStore
from twisted_im.wire.schema import Command, DevicesAction, Direction, Kind, ReceiptType, SignalType, SyncScope

DELIVERED, READ = ReceiptType.DELIVERED, ReceiptType.READ
NEWEST = 2**64 - 1

#: packet → the direction in which its cut-off side sends or gets it, its kind, its command
PACKETS = {
    1: ("up", Kind.REQUEST, Command.MESSAGE),
    2: ("down", Kind.RESPONSE, Command.MESSAGE),
    3: ("down", Kind.NOTIFY, Command.MESSAGE),
    4: ("up", Kind.REQUEST, Command.RECEIPT),
    5: ("down", Kind.RESPONSE, Command.RECEIPT),
    6: ("down", Kind.NOTIFY, Command.RECEIPT),
}


def table() -> list[list[str]]:
    """The rows of the table of losses, as cells."""
    text = (Path(__file__).parent.parent / "docs" / "delivery.md").read_text("utf-8")
    lines = text.partition("\n## Any packet lost")[2].partition("\n## ")[0].splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    return [row for row in rows if row[0][:1].isdigit()]


def test_the_table_has_one_tested_row_for_each_packet() -> None:
    """If this fails, the documentation promises something about a lost packet that nobody has tried."""
    rows = table()
    assert [row[0] for row in rows] == [f"{n} {command.name.lower()} {kind.name.lower()}" for n, (_, kind, command) in PACKETS.items()]
    tests = [name for name in dir(EachPacketLost) if name.startswith("test_")]
    assert tests == [f"test_packet_{row[0][0]}" for row in rows]
    for row in rows:
        assert len(row) == 8
        for phrases, cell in zip(EachPacketLost.columns, row[1:], strict=True):
            assert cell in phrases, cell


class Person:
    """Somebody with the client library, on a stretch of network of their own: what the application has been told, in order.

    Attributes:
        lives, reasons: what the client has gone through since `start_noting`, and why it was away.
    """

    def __init__(self, case: Served, uid: str, **arguments: Any) -> None:
        self.uid = uid
        self.way = Proxy(case)
        self.shown: list[Message] = []
        self.receipts: list[Receipt] = []
        self.sent: list[sending.Sending] = []
        self._standings: list[Standing] = []
        self._from = 0
        self.client: Client = case.client(
            uid,
            port=self.way.port,
            on_message=self.shown.append,
            on_receipt=self.receipts.append,
            on_state=self._standings.append,
            **arguments,
        )
        self.client.startService()

    def start_noting(self) -> None:
        """From here on it counts what passes."""
        self._standings.clear()
        self._from = len(self.way.passed)

    @property
    def lives(self) -> list[Life]:
        return [standing.life for standing in self._standings]

    @property
    def reasons(self) -> list[str]:
        return [standing.reason for standing in self._standings if standing.life is Life.WAITING]

    def passed(self, *what: Any) -> list[Any]:
        """What frames of one kind have said that passed since then."""
        return self.way.values(*what, since=self._from)

    def send(self, to: str | int, text: str) -> None:
        self.sent.append(self.client.send(to, text))

    @property
    def accepted(self) -> list[int]:
        """The seqs of the messages that were accepted."""
        return [sent.outcome.seq for sent in self.sent if isinstance(sent.outcome, Accepted)]

    def told(self, kind: ReceiptType) -> int:
        """Up to which seq the other's receipts go."""
        return max((receipt.seq for receipt in self.receipts if receipt.type is kind and receipt.user != self.uid), default=0)


class EachPacketLost(Served):
    """Alice sends “two” and “three” at once, after a first message that has gone all the way; one packet of “two” is lost."""

    alice: Person
    bob: Person
    cut: Person
    other: Person
    kind: ReceiptType
    then: dict[str, Any]  #: what there was to see just after the loss

    async def begin(self) -> None:
        """One message there, and its receipts back."""
        await self.serve()
        self.alice, self.bob = (Person(self, uid) for uid in ("alice", "bob"))
        await gatherResults([self.alice.client.when_online(), self.bob.client.when_online()])
        self.alice.send("bob", "one")
        await until(lambda: self.alice.told(DELIVERED) == 1, "the first message to be delivered")
        self.bob.client.mark_read(1, 1)
        await until(lambda: self.alice.told(READ) == 1, "the first message to be read")

    async def play(self, number: int, kind: ReceiptType = DELIVERED) -> None:
        """One row: the packet is lost, the cells are looked at, and in the end everything is as if it had not been."""
        await self.begin()
        who, sender, server, receiver, mends, *seen = table()[number - 1][1:]
        self.kind = kind
        self.cut, self.other = (self.alice, self.bob) if who == "Alice" else (self.bob, self.alice)
        for person in (self.alice, self.bob):
            person.start_noting()
        if kind is DELIVERED:
            self.cut.way.lose(*PACKETS[number])
        self.alice.send("bob", "two")
        self.alice.send("bob", "three")
        if kind is READ:
            await until(lambda: self.alice.told(DELIVERED) == 3, "both to be delivered")
            await until(lambda: self.bob.way.count(*PACKETS[5]) == self.bob.way.count(*PACKETS[4]), "the answers to Bob's receipts")
            self.cut.way.lose(*PACKETS[number])
            self.bob.client.mark_read(1, 3)
        await until(lambda: self.cut.way.lost and Life.WAITING in self.cut.lives, f"packet {number} to be lost, and that to be noticed")
        cells = [(sender, self.sender), (server, self.server_has), (receiver, self.receiver)]
        for cell, phrases in cells:
            await until(lambda cell=cell, phrases=phrases: phrases[cell](self), f"{cell!r} to be so")
        for cell, phrases in cells:
            assert phrases[cell](self), f"{cell!r} was so, and is no longer"
        self.then = {"accepted": self.alice.accepted, "told": self.told(), "shown": len(self.bob.shown)}

        self.cut.way.open()
        await until(lambda: self.mends[mends](self), mends)
        await until(lambda: self.alice.told(DELIVERED) == 3, "the message to be delivered")
        if kind is DELIVERED:
            self.bob.client.mark_read(1, 3)
        await until(lambda: self.alice.told(READ) == 3, "the message to be read")
        await gatherResults([person.client.history(1) for person in (self.alice, self.bob)])  # whatever was on its way has come

        assert self.mends[mends](self), f"{mends!r} was so, and is no longer"
        for cell, phrases in zip(seen, (self.alice_sees, self.bob_sees), strict=True):
            assert phrases[cell](self), cell
        assert self.cut.lives == [Life.WAITING, Life.CONNECTING, Life.ONLINE], "away once, and back"
        assert self.cut.reasons == ["the connection was lost"]
        assert self.other.lives == [], "the other one notices nothing"
        assert self.alice.accepted == [1, 2, 3]
        assert [(message.seq, message.text) for message in self.bob.shown] == [(1, "one"), (2, "two"), (3, "three")]
        assert self.alice.shown == []
        for told in (DELIVERED, READ):
            seqs = [receipt.seq for receipt in self.alice.receipts if receipt.type is told]
            assert seqs == sorted(set(seqs)), "a receipt is told once, and never goes back"
            assert seqs[-1] == 3
        assert [row.content for row in self.rows()] == [b"one", b"two", b"three"]
        assert self.store_marks() == (3, 3)
        assert self.server.counters.accepted == 3
        await gatherResults([person.client.stopService() for person in (self.alice, self.bob)])

    # ---- what there is to look at

    def rows(self) -> list[Any]:
        """What the store has of the conversation."""
        return list(self.successResultOf(self.server.node.store.read(b"\0alice", 1, 1, NEWEST, 1000, False)).rows)

    def store_marks(self) -> tuple[int, int]:
        """Bob's delivered and read marks in the store."""
        (seen,) = self.successResultOf(self.server.node.store.summary(b"\0bob", self.bob.client.device, 0, 0, 10, False)).conversations
        return seen.delivered, seen.read

    def mark(self) -> int:
        """The one that this test is about."""
        return self.store_marks()[self.kind is READ]

    def told(self) -> int:
        """What Alice has been told of it."""
        return self.alice.told(self.kind)

    def sends(self) -> list[bytes]:
        """The contents of the message requests that have passed."""
        return [values.content for values in self.alice.passed(*PACKETS[1])]

    def pushes(self) -> list[bytes]:
        """The contents of the notifies that have passed."""
        return [values.content for values in self.bob.passed(*PACKETS[3])]

    def said(self) -> list[int]:
        """The seqs of the receipts of this kind that Bob's device has got through."""
        return [values.seq for values in self.bob.passed(*PACKETS[4]) if values.type == self.kind and values.seq > 1]

    def heard(self) -> list[int]:
        """The seqs of the receipt notifies of this kind that have passed to Alice."""
        return [values.seq for values in self.alice.passed(*PACKETS[6]) if values.type == self.kind and values.seq > 1]

    # ---- the phrases of each column

    who: dict[str, Callable[[EachPacketLost], bool]] = {"Alice": lambda _: True, "Bob": lambda _: True}
    sender: dict[str, Callable[[EachPacketLost], bool]] = {
        "nothing yet": lambda t: t.alice.accepted == [1] and len(t.alice.client.unsent()) == 2 and t.told() == 1,
        "accepted": lambda t: t.alice.accepted == [1, 2, 3] and t.told() == 1,
        "delivered": lambda t: t.alice.accepted == [1, 2, 3] and t.told() == 3,
    }
    server_has: dict[str, Callable[[EachPacketLost], bool]] = {
        "nothing": lambda t: len(t.rows()) == 1 and t.mark() == 1,
        "the message": lambda t: len(t.rows()) == 3 and t.mark() == 1,
        "the message, delivered": lambda t: len(t.rows()) == 3 and t.mark() == 3,
    }
    receiver: dict[str, Callable[[EachPacketLost], bool]] = {
        "nothing": lambda t: len(t.bob.shown) == 1,
        "the message": lambda t: len(t.bob.shown) == 3,
    }
    mends: dict[str, Callable[[EachPacketLost], bool]] = {
        "Alice's device sends 1 again, with the same id": lambda t: (
            t.sends() == [b"two", b"three"]
            and t.cut.way.lost in t.cut.way.passed  # the same, byte for byte
            and t.pushes() == [b"two", b"three"]
        ),
        "Alice's device sends 1 again; the server gives the same 2, and no second 3": lambda t: (
            t.sends() == [b"two", b"three"] * 2
            and t.cut.way.lost in t.cut.way.passed  # the same, byte for byte
            and t.pushes() == [b"two", b"three"]
            and t.server.counters.duplicates == 2
        ),
        "nobody sends again; Bob's device asks the log for what it lacks": lambda t: (
            t.sends() == [b"two", b"three"]
            and t.pushes() == []
            and [m.content for answer in t.bob.passed("down", Kind.RESPONSE, Command.HISTORY) for m in answer.messages][:2]
            == [b"two", b"three"]
        ),
        "Bob's device sends 4 again": lambda t: t.pushes() == [b"two", b"three"] and t.said() == [3] and t.heard() == [3],
        "Bob's device sends 4 again; nothing moves, and nobody is told again": lambda t: t.said() == [3, 3] and t.heard() == [3],
        "nobody sends again; Alice's device finds it in its next sync": lambda t: (
            t.sends() == [b"two", b"three"]
            and t.said() == [3]
            and t.heard() == []
            and [
                row.peer_delivered if t.kind is DELIVERED else row.peer_read
                for page in t.alice.passed("down", Kind.RESPONSE, Command.SYNC)
                for row in page.conversations
            ]
            == [3]
        ),
    }
    alice_sees: dict[str, Callable[[EachPacketLost], bool]] = {
        "waiting, then accepted": lambda t: t.then["accepted"] == [1] and t.alice.accepted == [1, 2, 3],
        "accepted, later delivered": lambda t: (t.then["accepted"], t.then["told"]) == ([1, 2, 3], 1) and t.told() == 3,
        "delivered": lambda t: (t.then["accepted"], t.then["told"]) == ([1, 2, 3], 3),
    }
    bob_sees: dict[str, Callable[[EachPacketLost], bool]] = {
        "the message, later": lambda t: t.then["shown"] == 1 and len(t.bob.shown) == 3,
        "the message, once": lambda t: t.then["shown"] == len(t.bob.shown) == 3,
    }

    columns = (who, sender, server_has, receiver, mends, alice_sees, bob_sees)

    # ---- the rows

    async def test_packet_1(self) -> None:
        """If this fails, a message that never reached the server is forgotten, or is sent under a new id and can come twice."""
        await self.play(1)

    async def test_packet_2(self) -> None:
        """If this fails, a message whose answer was lost is stored or shown a second time, or stays "waiting" for ever."""
        await self.play(2)

    async def test_packet_3(self) -> None:
        """If this fails, a message that was accepted does not reach a device that was cut off just then."""
        await self.play(3)

    async def test_packet_4(self) -> None:
        """If this fails, a sender never learns that a message was delivered or read, or a receiver sees it again."""
        await self.play(4, DELIVERED)
        await self.play(4, READ)

    async def test_packet_5(self) -> None:
        """If this fails, a receipt that is told again moves something, or tells the sender twice."""
        await self.play(5, DELIVERED)
        await self.play(5, READ)

    async def test_packet_6(self) -> None:
        """If this fails, news of delivery that was lost on the way to the sender never comes."""
        await self.play(6, DELIVERED)
        await self.play(6, READ)


class AnyPacketsLost(Served):
    """A bad network: whatever passes may be the last."""

    async def test_a_conversation_in_bad_weather(self) -> None:
        """If this fails, people on trains lose messages, get them twice, or in different orders."""
        for seed in range(4):
            await self.converse(seed)

    async def converse(self, seed: int) -> None:
        """Two people, three devices, eighty messages."""
        await self.serve()
        alice, bob, tablet = (Person(self, uid) for uid in ("alice", "bob", "bob"))
        everybody = (alice, bob, tablet)
        await gatherResults([person.client.when_online() for person in everybody])  # so that the server has met them
        chance = random.Random(seed)
        for person in everybody:
            person.way.weather(chance, 0.1)
        for number in range(40):
            alice.send("bob", f"to bob {number}")
            bob.send("alice", f"to alice {number}")
            await until(lambda: sum(len(person.client.unsent()) for person in everybody) < 12, "the weather to clear")
        await until(lambda: not alice.client.unsent() and not bob.client.unsent(), "everything to be accepted")
        assert sum(person.way.losses for person in everybody) > 15, "no weather at all"
        for person in everybody:
            person.way.weather(chance, 0.0)

        log = (await self.server.node.store.read(b"\0bob", 1, 1, NEWEST, 1000, False)).rows
        texts = [row.content.decode() for row in log]
        for sender, receiver in (("alice", "bob"), ("bob", "alice")):
            assert [text for text in texts if text.startswith(f"to {receiver}")] == [f"to {receiver} {n}" for n in range(40)], sender
        for person in everybody:
            expected = [row.content.decode() for row in log if row.device != person.client.device]
            await until(lambda person=person, expected=expected: len(person.shown) >= len(expected), "everything to be shown")
            assert [message.text for message in person.shown] == expected
            assert person.accepted == [row.seq for row in log if row.device == person.client.device]
        for person, other in ((alice, "bob"), (bob, "alice")):
            last = max(row.seq for row in log if row.sender.decode() != f"\0{other}")
            await until(lambda person=person, last=last: person.told(DELIVERED) >= last, "the last receipt")
            seqs = [receipt.seq for receipt in person.receipts if receipt.type is DELIVERED and receipt.user != person.uid]
            assert seqs == sorted(set(seqs))
        await gatherResults([person.client.stopService() for person in everybody])


class AnyPacketsLostOnDisk(AnyPacketsLost):
    """The same, with a store that answers later, and in another thread."""

    def make_store(self) -> SqliteStore:
        folder = Path(self.mktemp())
        folder.mkdir(parents=True)
        return SqliteStore(folder / "messages.db")


class Sending(Served):
    """Packets 1 to 3, by bare frames."""

    async def test_the_same_id_again(self) -> None:
        """If this fails, a message that is sent again after a lost answer is there twice, or two messages under one id become one."""
        await self.serve()
        alice, bob = await self.user("alice"), await self.user("bob")
        values = alice.message_values("bob", b"hello")
        first = await alice.ask(Command.MESSAGE, **values)
        again = await alice.ask(Command.MESSAGE, **values)
        tablet = await self.user("alice")  # the key is the sender's, not the device's: a restored phone may send again
        elsewhere = await tablet.ask(Command.MESSAGE, **values)
        assert first == again == elsewhere
        for change in ({"content": b"other"}, {"target": b"alice"}, {"content_type": 2}, {"conversation": 1, "target": b""}):
            assert (await refusal(alice.ask(Command.MESSAGE, **{**values, **change}))).code is Status.CONFLICT
        same_id = await bob.send("alice", b"my own", values["client_id"])
        assert same_id.seq == first.seq + 1, "somebody else may have made the same id"
        assert [row.content for row in await bob.everything(1)] == [b"hello", b"my own"]
        assert [row.content for row in bob.messages()] == [b"hello"]
        counters = self.server.counters
        assert (counters.accepted, counters.duplicates, counters.errors) == (2, 2, 4)

    async def test_a_hundred_at_once_on_two_connections(self) -> None:
        """If this fails, an impatient client makes a message appear more than once."""
        await self.serve()
        phone, tablet, bob = await self.user("alice"), await self.user("alice"), await self.user("bob")
        values = phone.message_values("bob", b"once")
        answers = []
        for raw in (phone, tablet):
            requests = [raw.request(Command.MESSAGE, **values) for _ in range(50)]
            raw.write(b"".join(data for _, data in requests))
            answers += [raw.answer(request_id) for request_id, _ in requests]
        assert len(set(await gatherResults(answers))) == 1
        await gatherResults([raw.settle() for raw in (phone, tablet, bob)])
        assert [row.content for row in await bob.everything(1)] == [b"once"]
        assert len(bob.messages()) == 1
        assert len(phone.messages()) + len(tablet.messages()) == 1, "the device that was later is told like any other"
        assert (self.server.counters.accepted, self.server.counters.duplicates) == (1, 99)

    async def test_who_gets_it(self) -> None:
        """If this fails, one of somebody's devices stays silent, or the sending one shows its own message twice."""
        await self.serve(listen=(PLAIN, tls()))
        phone, tablet = await self.user("alice"), await self.user("alice", index=1, tls=True)
        others = [await self.user("bob", index=index, tls=bool(index)) for index in (0, 1)]
        stranger = await self.user("carol")
        answer = await phone.send("bob", b"hello")
        assert (answer.conversation, answer.seq) == (1, 1)
        for raw in (tablet, *others):
            row = await raw.told(Command.MESSAGE)
            assert (row.conversation, row.seq, row.time, row.device, row.sender) == (*answer, phone.device, b"alice")
        await others[0].send(1, b"back")
        assert [(await raw.told(Command.MESSAGE)).content for raw in (phone, tablet, others[1])] == [b"back"] * 3
        await gatherResults([raw.settle() for raw in (phone, tablet, *others, stranger)])
        assert not any(raw.got for raw in (phone, tablet, *others, stranger)), "nobody got anything else"

    async def test_a_message_to_oneself(self) -> None:
        """If this fails, notes to oneself do not reach one's other devices, or come back to the one that wrote them."""
        await self.serve()
        phone, tablet = await self.user("alice"), await self.user("alice")
        answer = await phone.send("alice", b"milk")
        assert (await tablet.told(Command.MESSAGE)).content == b"milk"
        await tablet.read(answer.conversation, 1)
        assert tuple(await phone.told(Command.RECEIPT)) == (1, 1, READ, b"alice")
        await gatherResults([raw.settle() for raw in (phone, tablet)])
        assert not phone.got
        assert not tablet.got
        (row,) = (await phone.sync()).conversations
        assert (row.peer, row.head, row.read) == (b"alice", 1, 1)

    async def test_order_of_one_connection(self) -> None:
        """If this fails, sentences that were written one after the other arrive mixed up."""
        await self.serve(limits=Limits(window=1000))
        alice, bob = await self.user("alice"), await self.user("bob")
        for _ in range(3):
            requests = [alice.request(Command.MESSAGE, **alice.message_values("bob", b"%d" % n)) for n in range(64)]
            alice.write(b"".join(data for _, data in requests))
            seqs = [answer.seq for answer in await gatherResults([alice.answer(request_id) for request_id, _ in requests])]
            assert seqs == list(range(seqs[0], seqs[0] + 64))
        await bob.settle()
        rows = bob.messages()
        assert [row.seq for row in rows] == list(range(1, 193))
        assert [int(row.content) for row in rows] == list(range(64)) * 3

    async def test_tenants_do_not_meet(self) -> None:
        """If this fails, two customers of one server see each other's users or messages."""
        await self.serve()
        red = [await self.user(uid, tenant=b"red") for uid in ("alice", "bob")]
        blue = [await self.user(uid, tenant=b"blue") for uid in ("alice", "bob")]
        plain = await self.user("alice")
        assert (await red[0].send("bob", b"red")).conversation == 1
        assert (await blue[0].send("bob", b"blue")).conversation == 2
        assert [(await raw.told(Command.MESSAGE)).content for raw in (red[1], blue[1])] == [b"red", b"blue"]
        for asked in (
            plain.send("bob", b"x"),
            plain.send(1, b"x"),
            blue[0].send(1, b"x"),
            blue[0].history(1, 1, 1),
            blue[0].read(1, 1),
            blue[0].ask(Command.SIGNAL, conversation=1, type=1, lifetime=1000, target=b"", content=b""),
            plain.ask(Command.SIGNAL, conversation=0, type=1, lifetime=1000, target=b"bob", content=b""),
        ):
            assert (await refusal(asked)).code is Status.NO_SUCH
        assert [row.conversation for row in (await blue[1].sync()).conversations] == [2]
        await gatherResults([raw.settle() for raw in (*red, *blue, plain)])
        assert not any(raw.got for raw in (*red, *blue, plain))


class Devices(Served):
    """Several devices of one user, and several logins of one device."""

    async def test_takeover(self) -> None:
        """If this fails, a phone that comes back is shut out by its own dead connection, or two programs share one device's messages."""
        await self.serve()
        alice, older = await self.user("alice"), await self.user("bob")
        await alice.send("bob", b"one")
        await older.settle()
        requests = [alice.request(Command.MESSAGE, **alice.message_values("bob", b"%d" % n)) for n in range(60)]
        newer = await self.greeted()
        alice.write(b"".join(data for _, data in requests))
        granted = await newer.login("bob", device=older.device)
        assert granted.session > older.login_values.session
        assert await older.disconnected() is Disconnect.TAKEN_OVER
        assert not older.got[-1].values.come_back
        await gatherResults([alice.answer(request_id) for request_id, _ in requests])
        head = (await newer.sync()).conversations[0].head
        assert head == 61
        pushed = [row.seq for row in older.messages()]
        assert pushed == list(range(1, len(pushed) + 1))
        await newer.settle()
        assert [row.seq for row in newer.messages()] == list(range(len(pushed) + 1, 62)), "each went to whoever was the session then"
        assert len(self.server.node.sessions) == 2
        await newer.delivered(1, 61)

    async def test_logins_of_one_device_again_and_again(self) -> None:
        """If this fails, a device that flutters between two networks ends with no session, or with two."""
        await self.serve()
        alice, device = await self.user("alice"), new_id()
        raws = [await self.greeted() for _ in range(20)]
        asked = [raw.login("bob", device=device) for raw in raws]  # all at once
        await gatherResults(asked)
        *older, newest = sorted(raws, key=lambda raw: raw.login_values.session)
        for raw in older:
            assert await raw.disconnected() is Disconnect.TAKEN_OVER
        await alice.send("bob", b"to the last one")
        assert (await newest.told(Command.MESSAGE)).content == b"to the last one"
        assert (newest.lost, len(self.server.node.sessions)) == (None, 2)

    async def test_a_login_that_takes_too_long(self) -> None:
        """If this fails, a password check that ends late, for a connection that was given up, shuts out the device's live session: it is
        logged out for good, or its receipts are refused."""
        checks: list[Deferred[bool]] = []

        def authenticate(credentials: Any) -> Any:
            if credentials.secret != b"slow":
                return True
            checks.append(Deferred())
            return checks[-1]

        await self.serve(authenticator=authenticate)
        alice, bob = await self.user("alice"), await self.user("bob")
        for number, noticed in enumerate((True, False), 1):
            late = await self.greeted()
            late.login("bob", device=bob.device, secret=b"slow").addErrback(lambda _: None)
            await until(lambda number=number: len(checks) == number, "the check to begin")
            if noticed:
                ours = f":{late.transport.getHost().port}"
                next(pump for pump in self.server.node.pumps if pump.peer.endswith(ours)).abort()
                await late.ended()
            else:  # the device gives up and comes again, and the server finds that out too late
                await late.close()
                bob = await self.user("bob", device=bob.device)
            checks[-1].callback(True)
            await alice.send("bob", b"hello")
            await bob.delivered(1, number)
            assert tuple(await alice.told(Command.RECEIPT)) == (1, number, DELIVERED, b"bob")
            await bob.settle()
            assert [got.command for got in bob.got] == [Command.MESSAGE]
            bob.got.clear()

    async def test_list_kick_and_remove(self) -> None:
        """If this fails, a lost phone cannot be shut out, or keeps its place after it was."""
        await self.serve()
        phone, tablet = await self.user("bob", label=b"phone"), await self.user("bob", label="Täblet".encode())
        alice = await self.user("alice")
        await alice.send("bob", b"one")
        await tablet.delivered(1, 1)

        async def listed() -> dict[bytes, tuple[int, bytes, int]]:
            rows = (await phone.ask(Command.DEVICES, action=DevicesAction.LIST, device=bytes(16))).devices
            return {row.device: (row.online, row.label, row.session) for row in rows}

        numbers = phone.login_values.session, tablet.login_values.session
        assert await listed() == {phone.device: (1, b"phone", numbers[0]), tablet.device: (1, "Täblet".encode(), numbers[1])}
        await phone.ask(Command.KICK, device=new_id())  # a device that does not exist
        await phone.ask(Command.KICK, device=phone.device)
        await phone.ask(Command.KICK, device=tablet.device)
        assert await tablet.disconnected() is Disconnect.KICKED
        assert (await listed())[tablet.device] == (0, "Täblet".encode(), numbers[1])

        tablet = await self.user("bob", device=tablet.device)
        assert (await tablet.sync()).conversations[0].cursor == 1, "kicked is not forgotten"
        assert (await refusal(phone.ask(Command.DEVICES, action=DevicesAction.REMOVE, device=phone.device))).code is Status.BAD_VALUE
        assert (await phone.ask(Command.DEVICES, action=DevicesAction.REMOVE, device=tablet.device)).devices == ()
        assert await tablet.disconnected() is Disconnect.KICKED
        assert (await refusal(phone.ask(Command.DEVICES, action=DevicesAction.REMOVE, device=tablet.device))).code is Status.NO_SUCH
        assert set(await listed()) == {phone.device}
        again = await self.user("bob", device=tablet.device)
        assert again.login_values.session > tablet.login_values.session
        assert (await again.sync()).conversations[0].cursor == 0
        stranger = await self.user("carol")
        await stranger.ask(Command.KICK, device=phone.device)
        assert (await refusal(stranger.ask(Command.DEVICES, action=DevicesAction.REMOVE, device=phone.device))).code is Status.NO_SUCH
        await phone.settle()

    async def test_redirect(self) -> None:
        """If this fails, people whose server is emptied for a repair do not find the other one, or miss what was sent meanwhile."""
        first = await self.serve()
        bob = Person(self, "bob")
        await bob.client.when_online()
        raw, greeted = await self.user("carol"), await self.greeted()
        second = await self.serve(store=first.node.store, name="second")
        alice = await self.user("alice")
        stopped = first.stopService()
        for here in (raw, greeted):
            last = await here.first(lambda got: got.kind is Kind.NOTIFY, "a last frame")
            await here.close()
            assert last.is_(Kind.NOTIFY, Command.REDIRECT)
            assert last.values == (0, second.addresses[0].encode())
        await stopped
        await alice.send("bob", b"over here")
        await until(lambda: [message.text for message in bob.shown] == ["over here"], "the message")
        assert len(second.node.sessions) == 2
        assert len(first.node.sessions) == 0

    async def test_logout(self) -> None:
        """If this fails, somebody who has logged out still counts as being there, or is told that something went wrong."""
        await self.serve()
        phone, alice = await self.user("bob"), await self.user("alice")
        await phone.ask(Command.LOGOUT)
        assert await phone.ended() is None, "the response was the last frame"
        await alice.send("bob", b"hello")
        assert len(self.server.node.sessions) == 1


class Receipts(Served):
    """Packets 4 to 6, by bare frames."""

    async def test_receipts_are_states(self) -> None:
        """If this fails, "read" turns back into "delivered", is told to the wrong people, or one's own devices disagree."""
        await self.serve()
        phone, tablet = await self.user("alice"), await self.user("alice")
        bob, watch = await self.user("bob"), await self.user("bob")
        everybody = (phone, tablet, bob, watch)
        for text in (b"one", b"two", b"three"):
            await phone.send("bob", text)
        await gatherResults([raw.settle() for raw in everybody])
        for raw in everybody:
            raw.messages()

        async def told(asked: Any) -> list[list[tuple[int, int]]]:
            """What phone, tablet, bob and watch hear of a receipt: (seq, type)."""
            await asked
            await gatherResults([raw.settle() for raw in everybody])
            found = [raw.receipts() for raw in everybody]
            assert {(conversation, user) for heard in found for conversation, _, _, user in heard} <= {(1, b"bob")}
            return [[(seq, kind) for _, seq, kind, _ in heard] for heard in found]

        def both(*heard: tuple[int, int]) -> list[list[tuple[int, int]]]:
            return [list(heard), list(heard), [], []]

        assert await told(bob.delivered(1, 2)) == both((2, DELIVERED))
        assert await told(bob.delivered(1, 2)) == both(), "again"
        assert await told(bob.delivered(1, 1)) == both(), "back"
        assert await told(watch.delivered(1, 1)) == both(), "another device, and less than the user's mark"
        assert await told(watch.delivered(1, 3)) == both((3, DELIVERED))
        assert await told(watch.read(1, 2)) == [[(2, READ)], [(2, READ)], [(2, READ)], []]
        assert await told(bob.read(1, 1)) == both(), "back"
        assert await told(bob.read(1, 3)) == [[(3, READ)], [(3, READ)], [], [(3, READ)]]
        (mine,) = (await phone.sync()).conversations
        assert (mine.cursor, mine.delivered, mine.read, mine.peer_delivered, mine.peer_read) == (0, 0, 0, 3, 3)
        (theirs,) = (await bob.sync()).conversations
        assert (theirs.cursor, theirs.delivered, theirs.read, theirs.peer_delivered, theirs.peer_read) == (3, 3, 3, 0, 0)

    async def test_read_includes_delivered(self) -> None:
        """If this fails, a message is "read" and not delivered."""
        await self.serve()
        alice, bob = await self.user("alice"), await self.user("bob")
        await alice.send("bob", b"one")
        await bob.read(1, 1)
        assert tuple(await alice.told(Command.RECEIPT)) == (1, 1, READ, b"bob")
        (row,) = (await alice.sync()).conversations
        assert (row.peer_delivered, row.peer_read) == (1, 1)
        await alice.settle()
        assert not alice.got


class Reading(Served):
    """Sync, history, and what they mend."""

    async def test_logins_while_messages_come(self) -> None:
        """If this fails, a message that was sent in the moment of a login never reaches that device."""
        await self.serve(limits=Limits(window=10_000))
        alice = await self.user("alice")
        going, sent = True, 0
        bobs: list[Raw] = [await self.user("bob")]

        def send(_: object = None) -> None:
            nonlocal sent
            if going:
                sent += 1
                alice.send("bob", b"%d" % sent).addCallback(send)

        for _ in range(20):
            send()
        cursors = []
        for _ in range(25):
            raw = await self.greeted()
            await raw.login("bob")
            bobs.append(raw)
            page = await raw.sync()
            cursors.append(page.conversations[0].head)
        going = False
        await until(lambda: self.server.counters.accepted == sent, "the last messages")
        assert cursors[-1] - cursors[0] > 25, "nothing was sent meanwhile"
        for raw, head in zip(bobs[1:], cursors, strict=True):
            await raw.settle()
            pushed = [row.seq for row in raw.messages()]
            assert pushed == list(range(pushed[0], sent + 1)), "nothing is left out after the login"
            assert head >= pushed[0] - 1, "and nothing lies between"

    async def test_behind_and_live_again(self) -> None:
        """If this fails, a device that was slow misses messages, is flooded, or never gets anything at once again."""
        await self.serve(limits=Limits(window=4))
        alice, bob, watch = await self.user("alice"), await self.user("bob"), await self.user("bob")
        for n in range(1, 11):
            await alice.send("bob", b"%d" % n)
            await watch.told(Command.MESSAGE)
            watch.acknowledge()
        await alice.ask(Command.SIGNAL, conversation=1, type=SignalType.TYPING, lifetime=1000, target=b"", content=b"")
        await watch.read(1, 10)  # neither the signal nor this receipt reaches who is behind
        await bob.settle()
        assert [(got.command, got.values[1:2]) for got in bob.got] == [
            *((Command.MESSAGE, (seq,)) for seq in range(1, 5)),
            (Command.SYNC, ()),
        ], "four, and once that it is behind"
        bob.got.clear()
        assert self.server.counters.behind == 1

        bob.acknowledge()  # five: the last one was over the window
        await bob.settle()
        await alice.send("bob", b"11")
        await bob.settle()
        assert not bob.got, "room alone does not make it live: it has to read first"
        page = await bob.sync()
        assert [(row.head, row.cursor, row.read) for row in page.conversations] == [(11, 0, 10)]
        await alice.send("bob", b"12")
        assert (await bob.told(Command.MESSAGE)).seq == 12
        assert [row.seq for row in (await bob.history(1, 5, 11)).messages] == list(range(5, 12))

        for n in range(13, 17):
            await alice.send("bob", b"%d" % n)
        await bob.settle()
        assert [got.command for got in bob.got] == [Command.MESSAGE] * 3 + [Command.SYNC]
        bob.got.clear()
        await bob.sync()  # without an acknowledgement there is no room
        await alice.send("bob", b"17")
        await bob.settle()
        assert [got.command for got in bob.got] == [Command.SYNC]

    async def test_ranges(self) -> None:
        """If this fails, scrolling back skips messages, repeats them, or waits for ever at the beginning or the end of a conversation."""
        await self.serve(store=MemoryStore(keep=20))
        alice = await self.user("alice")
        bob = await self.user("bob")
        for n in range(1, 46):
            await alice.send("bob", b"%d" % n)
        (row,) = (await bob.sync()).conversations
        head, floor = row.head, row.floor
        assert (head, floor) == (45, 20)
        up, down = Direction.FORWARD, Direction.BACKWARD
        for asked, covered, seqs in (
            ((21, 45, 0, up), (21, 45), range(21, 46)),
            ((21, 45, 0, down), (21, 45), range(21, 46)),
            ((30, 40, 3, up), (30, 32), range(30, 33)),
            ((30, 40, 3, down), (38, 40), range(38, 41)),
            ((45, 45, 1, up), (45, 45), range(45, 46)),
            ((1, 22, 0, up), (1, 22), range(21, 23)),  # what is gone is covered too
            ((1, 20, 0, down), (1, 20), ()),
            ((44, NEWEST, 0, up), (44, 45), range(44, 46)),
            ((1, NEWEST, 2, down), (44, 45), range(44, 46)),
            ((46, 99, 0, up), (46, 45), ()),  # nothing there yet
            ((46, 99, 5, down), (46, 45), ()),
            ((NEWEST, NEWEST, 1, down), (NEWEST, 45), ()),
        ):
            answer = await bob.history(1, *asked[:2], limit=asked[2], direction=asked[3])
            assert (answer.first, answer.last) == covered, asked
            assert [(row.seq, row.content) for row in answer.messages] == [(seq, b"%d" % seq) for seq in seqs], asked
            assert (answer.head, answer.floor) == (head, floor)
            assert all((row.sender, row.device, row.row_type) == (b"alice", alice.device, 0) for row in answer.messages)
        for first, last in ((0, 5), (6, 5)):
            assert (await refusal(bob.history(1, first, last))).code is Status.BAD_VALUE
        assert (await refusal(bob.history(1, 1, 5, direction=2))).code is Status.BAD_VALUE

    async def test_ranges_of_large_messages(self) -> None:
        """If this fails, a conversation with large messages cannot be read, since its history does not fit into a frame."""
        await self.serve()
        alice, bob = await self.user("alice"), await self.user("bob")
        largest = 64 * 1024 - 256
        sizes = [largest, 20_000, 20_000, 20_000, 20_000, largest, 1]
        for number, size in enumerate(sizes):
            await alice.send("bob", bytes([number]) * size)
        for direction in Direction:
            first, last, rows = 1, len(sizes), []
            while first <= last:
                answer = await bob.history(1, first, last, direction=direction)
                assert answer.messages, "an answer holds at least one row"
                assert [row.seq for row in answer.messages] == list(range(answer.first, answer.last + 1))
                if direction is Direction.FORWARD:
                    assert answer.first == first
                    first, rows = answer.last + 1, rows + list(answer.messages)
                else:
                    assert answer.last == last
                    last, rows = answer.first - 1, list(answer.messages) + rows
            assert [row.content for row in rows] == [bytes([number]) * size for number, size in enumerate(sizes)]

    async def test_sync_by_pages_and_since(self) -> None:
        """If this fails, a device with many conversations misses some of them, or reads all of them again at every login."""
        await self.serve()
        alice = await self.user("alice")
        friends = [await self.user(f"friend{n}") for n in range(5)]
        for n in range(5):
            await alice.send(f"friend{n}", b"hello")

        async def pages(limit: int, **how: Any) -> tuple[int, list[int]]:
            """The first page's position and all conversations; every page but the last is full."""
            after, found, positions = 0, [], []
            while True:
                page = await alice.sync(after=after, limit=limit, **how)
                positions.append(page.position)
                found += [row.conversation for row in page.conversations]
                if not page.more:
                    return positions[0], found
                assert len(page.conversations) == limit
                after = found[-1]

        for limit in (1, 2, 5, 0):
            position, found = await pages(limit)
            assert found == [1, 2, 3, 4, 5]
        assert await pages(2, since=position) == (position, [])
        await friends[3].send("alice", b"hello")  # a row
        await friends[1].delivered(2, 1)  # a receipt
        await alice.delivered(4, 2)  # one of one's own
        later, found = await pages(1, since=position)
        assert found == [2, 4]
        assert later > position
        assert (await pages(0, scope=SyncScope.BEHIND))[1] == [1, 2, 3, 5], "the others are known up to their heads"
        assert (await pages(0, scope=SyncScope.BEHIND, since=position))[1] == [2]
        assert (await refusal(alice.sync(scope=2))).code is Status.BAD_VALUE

    async def test_the_epoch_is_the_stores(self) -> None:
        """If this fails, a client does not notice that the server has lost its memory, and waits for seqs that will never come; or it
        begins anew at every login."""
        await self.serve()
        first = self.server
        alice, bob = await self.user("alice"), await self.user("bob")
        await self.serve()
        again = await self.user("alice")
        epochs = [raw.login_values.epoch for raw in (alice, bob, again)]
        assert epochs[0] == epochs[1] != epochs[2]
        assert first.node.store.epoch == epochs[0]
        assert alice.login_values.horizon == 3600

    async def test_signals(self) -> None:
        """If this fails, "is typing" shows for ever, in the wrong conversation, or to strangers; or ringing is stored like a message."""
        await self.serve()
        phone, tablet = await self.user("alice"), await self.user("alice")
        bob, carol = await self.user("bob"), await self.user("carol")
        everybody = (phone, tablet, bob, carol)
        await phone.send("bob", b"one")
        await gatherResults([raw.settle() for raw in everybody])
        for raw in everybody:
            raw.messages()
        hello = await phone.ask(Command.PING)

        def signal(**how: Any) -> Any:
            plain = {"conversation": 0, "type": SignalType.TYPING, "lifetime": 5000, "target": b"", "content": b""}
            return phone.ask(Command.SIGNAL, **{**plain, **how})

        await signal(conversation=1, content=b"...")
        for raw in (tablet, bob):
            got = await raw.told(Command.SIGNAL)
            assert (got.conversation, got.head, got.type, got.device, got.sender, got.content) == (1, 1, 1, phone.device, b"alice", b"...")
            assert 0 <= got.expires - hello.time - 5000 < 20_000
        await signal(target=b"bob", type=SignalType.RINGING, lifetime=2**32 - 1)
        got = await bob.told(Command.SIGNAL)
        assert (got.conversation, got.head, got.type) == (0, 0, 2)
        assert got.expires - hello.time < 6 * 60 * 1000, "nothing rings for ever"
        for how, code in (
            ({"conversation": 1, "target": b"bob"}, Status.BAD_VALUE),
            ({}, Status.BAD_VALUE),
            ({"conversation": 1, "type": 9}, Status.BAD_VALUE),
            ({"conversation": 1, "content": bytes(1025)}, Status.TOO_LARGE),
            ({"conversation": 2}, Status.NO_SUCH),
            ({"target": b"nobody"}, Status.NO_SUCH),
        ):
            assert (await refusal(signal(**how))).code is code, how
        await gatherResults([raw.settle() for raw in everybody])
        assert not any(raw.got for raw in everybody)
        assert [row.content for row in await bob.everything(1)] == [b"one"]
