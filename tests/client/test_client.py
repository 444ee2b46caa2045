"""The client against a real server on real sockets: what applications and people notice.

Strategy: connections are cut where it hurts, by the client's own `abort` or by the server's side; stores lose answers on demand. The rules
themselves are tried in tests/core/test_delivery.py; here it is their wiring.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.protocol import Factory, Protocol

from tests.client.party import Party
from tests.running import certificate
from twisted_im.client.client import Client
from twisted_im.client.state import FileState, Kept, MemoryState
from twisted_im.client.values import Accepted, LeftOut, Life, Message, Receipt, Standing
from twisted_im.core.connection import Connection, Limits
from twisted_im.errors import Disconnect, ImError, LocalProtocolError, Status
from twisted_im.storage.memory import MemoryStore
from twisted_im.wire.codec import CODECS, frame, notify
from twisted_im.wire.schema import Command, Kind, LoginMethod, ReceiptType, SignalType


class TestDelivery(Party):
    """Messages there and back, whatever happens to the connections."""

    async def test_messages_arrive_on_every_other_device(self) -> None:
        """If this fails, a person with two devices misses messages on one of them, or sees their own twice."""
        await self.serve()
        alice, bob, tablet = await self.online("alice", "bob", "alice")
        sending = alice.send("bob", "hello")
        self.assertEqual(sending.client_id, b"")
        accepted = await sending.accepted
        self.assertEqual((accepted.seq, sending.outcome), (1, accepted))
        bob.send("alice", {"n": 1})
        await self.until(lambda: len(self.shown[tablet]) == 2)
        self.assertEqual(self.texts(bob), ["hello"])
        self.assertEqual(self.texts(alice), ['{"n":1}'])
        self.assertEqual(self.texts(tablet), ["hello", '{"n":1}'])
        self.assertEqual(self.shown[tablet][1].json, {"n": 1})
        self.assertEqual(self.shown[bob][0].client_id, sending.client_id)

    async def test_nothing_is_lost_or_doubled_when_connections_break(self) -> None:
        """If this fails, a lost connection costs a message, or shows one twice, or in another order."""
        await self.serve(limits=Limits(requests=4, window=8))
        alice, bob = await self.online("alice", "bob")
        sendings = []
        for i in range(300):
            sendings.append(alice.send("bob", f"a{i}"))
            sendings.append(bob.send("alice", f"b{i}"))
            if i % 37 == 0:
                await self.turn(0.004)
                (alice if i % 2 else bob).abort()
            elif i % 5 == 0:
                await self.turn(0)
        await self.until(lambda: len(self.shown[alice]) >= 300 and len(self.shown[bob]) >= 300)
        for sending in sendings:
            await sending.accepted
        self.assertEqual(self.texts(bob), [f"a{i}" for i in range(300)])
        self.assertEqual(self.texts(alice), [f"b{i}" for i in range(300)])
        self.assertIn("waiting", self.lives(alice))
        self.assertEqual(self.server.counters.accepted, 600)

    async def test_a_lost_answer_is_found_again(self) -> None:
        """If this fails, a message whose answer was lost is stored twice, or its sender never learns that it was accepted."""

        class Losing(MemoryStore):
            lose = True

            def append(store, messages: Any, cursors: Any) -> Any:  # the test is self
                done = super().append(messages, cursors)
                if messages and store.lose:
                    store.lose = False
                    next(iter(s.pump for s in self.server.node.sessions if s.uid == b"alice")).abort()
                return done

        await self.serve(store=Losing())
        alice, bob = await self.online("alice", "bob")
        sendings = [alice.send("bob", text) for text in "abc"]
        for seq, sending in enumerate(sendings, 1):
            self.assertEqual((await sending.accepted).seq, seq)
        await self.until(lambda: len(self.shown[bob]) == 3)
        self.assertEqual(self.texts(bob), ["a", "b", "c"])

    async def test_a_busy_server_gets_everything_in_order_later(self) -> None:
        """If this fails, a server that was busy for a moment makes messages vanish or change places."""

        class Busy(MemoryStore):
            times = 2

            def append(store, messages: Any, cursors: Any) -> Any:  # the test is self
                if messages and store.times:
                    store.times -= 1
                    error = ImError(Status.BUSY, retry_after=30)
                    failed: Deferred[Any] = Deferred()
                    failed.errback(error)
                    return failed
                return super().append(messages, cursors)

        await self.serve(store=Busy())
        alice, bob = await self.online("alice", "bob")
        sendings = [alice.send("bob", f"{i}") for i in range(20)]
        for sending in sendings:
            await sending.accepted
        await self.until(lambda: len(self.shown[bob]) == 20)
        self.assertEqual(self.texts(bob), [f"{i}" for i in range(20)])
        waits = [s for s in self.told[alice]["state"] if s.life is Life.WAITING]
        self.assertEqual([s.error.code for s in waits], [Status.BUSY] * 2)
        self.assertTrue(all(s.retry_in >= 0.03 for s in waits), waits)

    async def test_offline_messages_come_at_login(self) -> None:
        """If this fails, what was sent while a device was away is never shown on it."""
        await self.serve()
        alice, bob = await self.online("alice", "bob", state=None)
        await bob.stopService()
        for i in range(700):  # more than one answer holds
            alice.send("bob", f"{i}")
        await self.until(lambda: not alice.unsent())
        bob.startService()
        await self.until(lambda: len(self.shown[bob]) == 700)
        self.assertEqual(self.texts(bob), [f"{i}" for i in range(700)])

    async def test_a_receipt_that_was_not_sent_is_sent_by_the_next_run(self) -> None:
        """If this fails, somebody whose program ended between showing a message and confirming it counts as never having got it."""
        await self.serve()
        state = MemoryState()
        bob, alice = await self.online("bob", "alice")
        await bob.stopService()
        sent = await alice.send("bob", "hello").accepted
        state.save(Kept(device=bob.device, account="/bob", cursors={sent.conversation: sent.seq}))
        again = self.client("bob", state=state)
        await again.when_online()
        await self.until(lambda: self.told[alice]["receipt"])
        self.assertEqual(self.told[alice]["receipt"], [Receipt(sent.conversation, sent.seq, ReceiptType.DELIVERED, "bob")])
        self.assertEqual(self.shown[again], [])

    async def test_refused_messages_are_told(self) -> None:
        """If this fails, an application waits for ever for a message that the server will never take."""
        await self.serve()
        (alice,) = await self.online("alice")
        for to, content, code in (("nobody", "x", Status.NO_SUCH), (77, "x", Status.NO_SUCH)):
            with self.assertRaises(ImError) as error:
                await alice.send(to, content).accepted
            self.assertEqual(error.exception.code, code)
        with self.assertRaises(LocalProtocolError) as local:
            alice.send("bob", bytes(16 * 2**20))
        self.assertEqual(local.exception.code, Status.TOO_LARGE)
        self.assertRaises(LocalProtocolError, alice.send, "", "x")
        self.assertRaises(LocalProtocolError, alice.send, "bob", "x", client_id=b"short")
        self.assertEqual(alice.unsent(), [])
        self.assertIs(alice.standing.life, Life.ONLINE)

    async def test_a_content_that_only_this_server_finds_too_large(self) -> None:
        """If this fails, one large message ends the connection again and again, and nothing after it is ever sent."""
        await self.serve(limits=Limits(max_body=4096))
        alice, _ = await self.online("alice", "bob")
        large, small = alice.send("bob", "x" * 5000), alice.send("bob", "y")
        with self.assertRaises(ImError) as error:
            await large.accepted
        self.assertEqual(error.exception.code, Status.TOO_LARGE)
        self.assertIsInstance(await small.accepted, Accepted)

    async def test_a_server_for_large_bodies(self) -> None:
        """If this fails, an operator who allows larger messages locks every client out."""
        await self.serve(limits=Limits(max_body=16 * 2**20))
        alice, bob = await self.online("alice", "bob")
        await alice.send("bob", "x" * 100_000).accepted
        await self.until(lambda: self.shown[bob])
        self.assertEqual(len(self.shown[bob][0].text), 100_000)

    async def test_away_for_longer_than_ids_are_known(self) -> None:
        """If this fails, a device that was away for long loses what was on its way, or sends twice what had arrived."""

        class Cutting(MemoryStore):
            cut = True

            def append(store, messages: Any, cursors: Any) -> Any:  # the test is self
                if not messages or not store.cut:
                    return super().append(messages, cursors)
                store.cut = False
                alice.abort()
                super().append(messages[:1], cursors)  # the first is stored, and its answer lost; the others are lost themselves
                failed: Deferred[Any] = Deferred()
                failed.errback(ImError(Status.BUSY))
                return failed

        store = Cutting(horizon=100_000)
        await self.serve(store=store)
        alice, bob = await self.online("alice", "bob")
        outbox, now = alice._sender.outbox, alice.server_time()
        make_id, outbox._make_id = outbox._make_id, iter([(now - 7_200_000 + i << 80).to_bytes(16, "big") for i in range(3)]).__next__
        sendings = [alice.send("bob", text) for text in "abc"]
        await self.until(lambda: not store.cut)
        store.horizon, outbox._make_id = 3600, make_id
        old = [sending.client_id for sending in sendings]
        sendings.append(alice.send("bob", "d"))
        self.assertEqual([(await sending.accepted).seq for sending in sendings], [1, 2, 3, 4])
        await self.until(lambda: len(self.shown[bob]) == 4)
        self.assertEqual(self.texts(bob), ["a", "b", "c", "d"])
        self.assertEqual([sending.client_id == was for sending, was in zip(sendings, old, strict=False)], [True, False, False])

    async def test_an_id_that_the_server_does_not_take(self) -> None:
        """If this fails, a message is lost because a clock was set while it waited; or an id from an earlier run is quietly replaced."""
        await self.serve()
        alice, bob = await self.online("alice", "bob")
        outbox, stale = alice._sender.outbox, (alice.server_time() + 7_200_000 << 80).to_bytes(16, "big")
        make_id, outbox._make_id = outbox._make_id, lambda: stale
        sending = alice.send("bob", "hello")
        await self.until(lambda: sending.client_id == stale)
        outbox._make_id = make_id
        self.assertEqual((await sending.accepted).seq, 1)
        self.assertNotEqual(sending.client_id, stale)
        with self.assertRaises(ImError) as error:
            await alice.send("bob", "from an earlier run", client_id=stale).accepted
        self.assertEqual(error.exception.code, Status.STALE_ID)
        await self.until(lambda: self.shown[bob])
        self.assertEqual(self.texts(bob), ["hello"])

    async def test_what_is_not_sent_is_told_and_can_be_dropped(self) -> None:
        """If this fails, a person does not learn that a message has not left, or cannot take it back."""
        await self.serve()
        (bob,) = await self.online("bob")
        address, self.server = self.server.addresses[0], self.server
        await bob.stopService()
        await self.server.stopService()
        alice = self.client("alice", at=address, patience=0.05)
        first, second = alice.send("bob", "first"), alice.send("bob", "second")
        await self.until(lambda: len(self.told[alice]["unsent"]) == 2)
        self.assertEqual(alice.unsent(), [first, second])
        self.assertTrue(first.drop())
        with self.assertRaises(LocalProtocolError):
            await first.accepted
        await self.serve(listen=f"tcp:{address.rpartition(':')[2]}:interface=127.0.0.1")
        await self.online("bob")
        self.assertEqual((await second.accepted).seq, 1)

    async def test_an_id_from_an_earlier_run_is_taken_once(self) -> None:
        """If this fails, an application that keeps its own queue sends a message twice after a crash."""
        await self.serve()
        alice, bob = await self.online("alice", "bob")
        first = alice.send("bob", "once")
        accepted = await first.accepted
        again = alice.send("bob", "once", client_id=first.client_id)
        self.assertEqual(await again.accepted, accepted)
        with self.assertRaises(ImError) as error:
            await alice.send("bob", "other", client_id=first.client_id).accepted
        self.assertEqual(error.exception.code, Status.CONFLICT)
        alice.send("bob", "end")
        await self.until(lambda: len(self.shown[bob]) >= 2)
        self.assertEqual(self.texts(bob), ["once", "end"])


class TestReading(Party):
    """How an application takes messages, and what the other side learns of it."""

    async def test_receipts(self) -> None:
        """If this fails, a sender does not see that a message has arrived or was read, or a person's second device does not."""
        await self.serve()
        alice, bob, tablet = await self.online("alice", "bob", "bob")
        alice.send("bob", "hello")
        await self.until(lambda: self.told[alice]["receipt"])
        self.assertEqual([(r.seq, r.type, r.user) for r in self.told[alice]["receipt"]], [(1, ReceiptType.DELIVERED, "bob")])
        bob.mark_read(1, 1)
        await self.until(lambda: len(self.told[alice]["receipt"]) == 2 and self.told[tablet]["receipt"])
        self.assertEqual(self.told[alice]["receipt"][1].type, ReceiptType.READ)
        self.assertEqual([(r.seq, r.type, r.user) for r in self.told[tablet]["receipt"]], [(1, ReceiptType.READ, "bob")])

    async def test_a_lost_receipt_notify_is_found_in_the_sync(self) -> None:
        """If this fails, a message stays 'accepted' for ever though it was read while its sender was away."""
        await self.serve()
        alice, bob = await self.online("alice", "bob")
        await alice.send("bob", "hello").accepted
        await self.until(lambda: self.told[alice]["receipt"])
        await alice.stopService()
        bob.mark_read(1, 1)
        await self.until(lambda: self.server.counters.receipts == 2)
        alice.startService()
        await self.until(lambda: len(self.told[alice]["receipt"]) == 2)
        self.assertEqual(self.told[alice]["receipt"][1].type, ReceiptType.READ)

    async def test_a_receipt_that_was_cut_off_is_sent_again(self) -> None:
        """If this fails, a sender never learns that a message has arrived, because the receiver's connection broke just then."""
        await self.serve()
        (alice,) = await self.online("alice")
        cut: list[Client] = []

        def trace(direction: str, seen: Any) -> None:
            if direction == "out" and seen[0] & 0xFFFF == Command.RECEIPT and not cut:
                cut.append(bob)
                bob.abort()

        (bob,) = await self.online("bob", on_frame=trace)
        alice.send("bob", "hello")
        await self.until(lambda: self.told[alice]["receipt"])
        self.assertEqual(cut, [bob])
        self.assertEqual(self.texts(bob), ["hello"])

    async def test_the_iterator(self) -> None:
        """If this fails, `async for` misses messages, shows them twice, or hangs when the client stops."""
        await self.serve()
        alice, bob = await self.online("alice", "bob", shows=False)
        got: list[str] = []

        async def read() -> str:
            async for message in bob.messages():
                got.append(message.text)
            return "ended"

        reading = ensureDeferred(read())
        for i in range(10):
            alice.send("bob", f"{i}")
        await self.until(lambda: len(got) == 10)
        self.assertEqual(got, [f"{i}" for i in range(10)])
        await bob.stopService()
        self.assertEqual(await reading, "ended")

    async def test_the_iterator_ends_though_its_loop_is_busy(self) -> None:
        """If this fails, a program hangs at its end because it was busy with a message when the client stopped, or cannot clean up."""
        await self.serve()
        alice, bob = await self.online("alice", "bob", shows=False)
        busy: list[Deferred[None]] = []

        async def read() -> str:
            try:
                async for _ in bob.messages():
                    busy.append(Deferred())
                    await busy[-1]
            finally:
                await bob.stopService()
            return "ended"

        for restart in (False, True):
            reading = ensureDeferred(read())
            await alice.send("bob", "hello").accepted
            await self.until(lambda: busy)
            await bob.stopService()
            busy.pop().callback(None)
            self.assertEqual(await reading, "ended")
            bob.startService()
            await bob.when_online()
            if restart:
                waiting = ensureDeferred(read())
                await self.turn()
                first, second = bob.stopService(), bob.stopService()
                self.assertEqual(await waiting, "ended")
                await first
                await second

    async def test_the_iterator_tells_a_busy_loop_why_it_ends(self) -> None:
        """If this fails, a program whose account is used elsewhere waits for ever, or loses what had come before."""
        await self.serve()
        alice, bob = await self.online("alice", "bob", shows=False)
        for text in "ab":
            await alice.send("bob", text).accepted
        messages = bob.messages()
        self.assertEqual((await anext(messages)).text, "a")
        await self.until(lambda: bob._reader._queue)
        (session,) = [s for s in self.server.node.sessions if s.uid == b"bob"]
        session.pump.disconnect(ImError(Disconnect.KICKED))
        await self.until(lambda: bob.standing.life is Life.ENDED)
        await self.turn()
        self.assertEqual((await anext(messages)).text, "b")
        for _ in range(2):
            with self.assertRaises(ImError) as error:
                await anext(messages)
            self.assertEqual(error.exception.code, Disconnect.KICKED)

    async def test_the_iterator_tells_why_it_ends(self) -> None:
        """If this fails, a program whose account is used elsewhere stops reading without a reason."""
        await self.serve()
        (bob,) = await self.online("bob", shows=False, device=b"d" * 16)

        async def read() -> None:
            async for _ in bob.messages():
                pass

        reading = ensureDeferred(read())
        await self.online("bob", device=b"d" * 16)
        with self.assertRaises(ImError) as error:
            await reading
        self.assertEqual(error.exception.code, Disconnect.TAKEN_OVER)

    async def test_on_message_may_take_its_time_and_may_fail(self) -> None:
        """If this fails, an application that works on each message for a while gets them interleaved, or one failure stops all."""
        await self.serve()
        began: list[str] = []
        gates: list[Deferred[None]] = []

        async def on_message(message: Message) -> None:
            began.append(message.text)
            gates.append(Deferred())
            await gates[-1]

        alice, bob = (await self.online("alice"))[0], (await self.online("bob", on_message=on_message))[0]
        for text in "abc":
            await alice.send("bob", text).accepted
        await self.until(lambda: began)
        self.assertEqual(self.told[alice]["receipt"], [], "not delivered before the application has ended with it")
        gates[0].errback(ValueError("the application's own"))
        await self.until(lambda: len(began) == 2)
        gates[1].callback(None)
        await self.until(lambda: len(began) == 3)
        gates[2].callback(None)
        await self.until(lambda: any(r.seq == 3 for r in self.told[alice]["receipt"]))
        self.assertEqual(began, ["a", "b", "c"])
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
        self.assertRaises(ValueError, bob.messages)

    async def test_a_slow_application_is_waited_for(self) -> None:
        """If this fails, a slow reader is thrown out, loses messages, or fills the memory of the server or its own."""
        await self.serve(limits=Limits(window=16, unacknowledged=0.05, ping=20.0))
        alice, bob = await self.online("alice", "bob", shows=False, queue=20)
        (theirs,) = [session.pump.connection for session in self.server.node.sessions if session.uid == b"bob"]
        answered, ponged = list[Connection](), Connection.ponged
        self.patch(Connection, "ponged", lambda connection: (answered.append(connection), ponged(connection)))
        for i in range(400):
            await alice.send("bob", f"{i}").accepted
        await self.until(lambda: theirs in answered or len(self.lives(bob)) > 2)  # the server asks whether it is still there
        self.assertEqual(self.lives(bob), ["connecting", "online"])
        self.assertLess(len(bob._reader._queue), 60)
        self.assertGreater(self.server.counters.behind, 0)
        messages = bob.messages()
        got = [(await anext(messages)).text for _ in range(400)]
        self.assertEqual(got, [f"{i}" for i in range(400)])
        self.assertEqual(self.lives(bob), ["connecting", "online"])

    async def test_too_far_behind(self) -> None:
        """If this fails, a device that was away for long shows old messages for minutes, or hides that it left some out."""
        await self.serve()
        alice, bob = await self.online("alice", "bob")
        await bob.stopService()
        for i in range(1, 51):
            alice.send("bob", f"{i}")
        await self.until(lambda: not alice.unsent())
        (late,) = await self.online("bob", catch_up=10)
        await self.until(lambda: len(self.shown[late]) == 10)
        self.assertEqual(self.texts(late), [f"{i}" for i in range(41, 51)])
        self.assertEqual(self.told[late]["left_out"], [LeftOut(1, 1, 40)])
        older = await late.history(1, last=40, limit=5)
        self.assertEqual([m.text for m in older.messages], ["36", "37", "38", "39", "40"])
        self.assertEqual((older.first, older.last, older.head), (36, 40, 50))

    async def test_frames_of_later_versions_are_let_pass(self) -> None:
        """If this fails, a server can never learn anything new without cutting its older clients off."""
        await self.serve(limits=Limits(window=4))
        alice, bob = await self.online("alice", "bob")
        session = self.server.node.sessions.get(b"\0bob", bob.device)
        assert session is not None
        for _ in range(10):
            self.push(frame(Kind.NOTIFY, 0x7777, b"?"), "bob")
            await self.until(lambda: session.connection.credit > 0)
        alice.send("bob", "still here")
        await self.until(lambda: self.shown[bob])
        self.assertEqual(self.lives(bob), ["connecting", "online"])


class TestState(Party):
    """What a device keeps from run to run."""

    def path(self) -> Path:
        return Path(self.mktemp())

    async def test_a_restart_goes_on_where_it_was(self) -> None:
        """If this fails, a restarted application shows old messages again, or misses those that came meanwhile."""
        await self.serve()
        path, seen = self.path(), []
        alice, bob = (await self.online("alice"))[0], (await self.online("bob", state=path))[0]
        for i in range(5):
            await alice.send("bob", f"{i}").accepted
        await self.until(lambda: len(self.shown[bob]) == 5)
        await bob.stopService()
        for i in range(5, 8):
            await alice.send("bob", f"{i}").accepted

        def trace(direction: str, frame: Any) -> None:
            if direction == "out" and frame[0] & 0xFFFF == Command.SYNC:
                seen.append(CODECS[Kind.REQUEST, Command.SYNC].read(frame[3]).since)

        (again,) = await self.online("bob", state=path, on_frame=trace)
        self.assertEqual(again.device, bob.device)
        await self.until(lambda: len(self.shown[again]) == 3)
        self.assertEqual(self.texts(again), ["5", "6", "7"])
        await self.until(lambda: any(r.seq == 8 for r in self.told[alice]["receipt"]))
        await self.until(lambda: FileState(path).load().position > seen[0])
        await again.stopService()
        (third,) = await self.online("bob", state=path, on_frame=trace)
        await alice.send("bob", "8").accepted
        await self.until(lambda: self.shown[third])
        self.assertEqual(self.texts(third), ["8"])
        self.assertGreater(seen[1], seen[0], "what is known is not listed again")

    async def test_a_crash_before_the_save_shows_again_and_loses_nothing(self) -> None:
        """If this fails, a crash at the wrong moment loses a message, because the server was told that it had been shown."""

        class Crashing(MemoryState):
            fails = True
            saves = 0

            def save(self, kept: Kept) -> None:
                self.saves += 1
                if self.fails:
                    raise OSError("no space left on device")
                super().save(kept)

        await self.serve()
        state = Crashing()
        alice, bob = (await self.online("alice"))[0], (await self.online("bob", state=state, device=b"b" * 16))[0]
        await alice.send("bob", "hello").accepted
        await self.until(lambda: self.shown[bob] and state.saves)
        await self.turn(0.05)
        self.assertEqual(self.told[alice]["receipt"], [], "no receipt without a save")
        bob.abort()
        await bob.stopService()
        (again,) = await self.online("bob", device=b"b" * 16)
        await self.until(lambda: self.shown[again])
        self.assertEqual(self.texts(again), ["hello"])
        self.assertLess(state.saves, 10, "a full disk is not written to without a pause")

    async def test_a_device_without_a_state_is_known_by_the_server(self) -> None:
        """If this fails, an application that keeps only its device id shows everything again at each start."""
        await self.serve()
        alice, bob = (await self.online("alice"))[0], (await self.online("bob", device=b"b" * 16))[0]
        await alice.send("bob", "one").accepted
        await self.until(lambda: self.told[alice]["receipt"])
        await bob.stopService()
        await alice.send("bob", "two").accepted
        (again,) = await self.online("bob", device=b"b" * 16)
        await self.until(lambda: self.shown[again])
        await alice.send("bob", "three").accepted
        await self.until(lambda: len(self.shown[again]) == 2)
        self.assertEqual(self.texts(again), ["two", "three"])

    async def test_another_store_is_told_aloud(self) -> None:
        """If this fails, a client shows nothing after its server's data was lost, or sends a message into a stranger's conversation."""
        await self.serve()
        port = self.server.addresses[0].rpartition(":")[2]
        alice, bob = await self.online("alice", "bob", state=None)
        for text in "abc":
            await alice.send("bob", text).accepted
        await self.until(lambda: len(self.shown[bob]) == 3)
        await self.server.stopService()
        by_id = alice.send(1, "where to?")
        by_name = alice.send("bob", "d")
        await self.serve(listen=f"tcp:{port}:interface=127.0.0.1")
        await self.until(lambda: self.told[alice]["reset"] and self.told[bob]["reset"])
        with self.assertRaises(ImError):
            await by_id.accepted
        try:
            await by_name.accepted
        except ImError as error:
            self.assertEqual(error.code, Status.NO_SUCH)  # alice was back before bob
            await alice.send("bob", "d").accepted
        await self.until(lambda: len(self.shown[bob]) == 4)
        self.assertEqual([(m.seq, m.text) for m in self.shown[bob]][3:], [(1, "d")])

    async def test_a_restored_backup_is_told_aloud(self) -> None:
        """If this fails, a device hides everything that is written after a backup was restored, until the old seqs are reached."""
        await self.serve()
        (alice,) = await self.online("alice")
        state = MemoryState()
        state.save(Kept(b"b" * 16, "/bob", self.server.node.store.epoch, position=0, cursors={1: 5}))
        (bob,) = await self.online("bob", state=state)
        for text in ("one", "two"):
            await alice.send("bob", text).accepted
        await self.turn(0.02)
        self.assertEqual(self.texts(bob), [], "they look like repeats")
        bob.abort()
        await self.until(lambda: self.told[bob]["reset"])
        await self.until(lambda: len(self.shown[bob]) == 2)
        self.assertEqual(self.texts(bob), ["one", "two"])
        self.assertEqual(self.told[alice]["reset"], [])

    async def test_a_restored_backup_is_seen_by_its_position(self) -> None:
        """If this fails, a device that has shown nothing of the lost part waits for changes after a position that comes much later."""
        await self.serve()
        (alice,) = await self.online("alice")
        await self.online("bob")
        await alice.send("bob", "one").accepted
        state = MemoryState()
        state.save(Kept(b"t" * 16, "/bob", self.server.node.store.epoch, position=1 << 40, cursors={}))
        (tablet,) = await self.online("bob", state=state)
        await self.until(lambda: self.shown[tablet])
        self.assertEqual(self.told[tablet]["reset"], ["the server's store was restored to an earlier time"])
        self.assertEqual(self.texts(tablet), ["one"])

    async def test_one_file_for_one_user(self) -> None:
        """If this fails, two users that share a file by mistake hide each other's messages."""
        await self.serve()
        path = self.path()
        (alice,) = await self.online("alice", state=path)
        await alice.stopService()
        with self.assertRaisesRegex(ValueError, "belongs to alice"):
            self.client("bob", state=path)
        with self.assertRaisesRegex(ValueError, "another device"):
            self.client("alice", state=path, device=b"x" * 16)


class TestLife(Party):
    """Coming, waiting, going."""

    async def test_a_wrong_password_ends_it(self) -> None:
        """If this fails, a client hammers the server with a wrong password, or waits without saying why."""
        await self.serve(authenticator=lambda credentials: credentials.secret == b"right")
        client = self.client("alice", secret="wrong")
        with self.assertRaises(ImError) as error:
            await client.when_online()
        self.assertEqual(error.exception.code, Status.NOT_AUTHENTICATED)
        await self.until(lambda: self.lives(client) == ["connecting", "ended"])
        with self.assertRaises(ImError):
            await client.when_online()
        (right,) = await self.online("alice", secret="right")
        self.assertIs(right.standing.life, Life.ONLINE)

    async def test_codes_that_say_do_not_come_back(self) -> None:
        """If this fails, two devices with one id take each other over for ever, or a device that was thrown out returns by itself."""
        await self.serve()
        (first,) = await self.online("alice", device=b"d" * 16)
        second, other = await self.online("alice", device=b"d" * 16), await self.online("alice")
        await self.until(lambda: first.standing.life is Life.ENDED)
        assert first.standing.error is not None
        self.assertEqual(first.standing.error.code, Disconnect.TAKEN_OVER)
        await other[0].kick(b"d" * 16)
        await self.until(lambda: second[0].standing.life is Life.ENDED)
        assert second[0].standing.error is not None
        self.assertEqual(second[0].standing.error.code, Disconnect.KICKED)
        await second[0].stopService()
        second[0].startService()
        await second[0].when_online()

    async def test_a_server_that_goes_is_given_time(self) -> None:
        """If this fails, a restarting server is overrun by its own clients."""
        await self.serve()
        alice, bob = await self.online("alice", "bob")
        await self.server.stopService()
        await self.until(lambda: alice.standing.life is Life.WAITING and bob.standing.life is Life.WAITING)
        self.assertGreaterEqual(alice.standing.retry_in, 1.0)
        assert alice.standing.error is not None
        self.assertEqual(alice.standing.error.code, Disconnect.SHUTTING_DOWN)

    async def test_somebody_who_does_not_want_to_wait(self) -> None:
        """If this fails, a person whose network is back looks at a clock for up to a minute."""
        await self.serve()
        (alice,) = await self.online("alice")
        address = self.server.addresses[0]
        await self.server.stopService()
        await self.until(lambda: alice.standing.life is Life.WAITING)
        self.assertGreaterEqual(alice.standing.retry_in, 1.0)
        await self.serve(listen=f"tcp:{address.rpartition(':')[2]}:interface=127.0.0.1")
        alice.hurry()
        self.assertIs(alice.standing.life, Life.CONNECTING)
        await alice.when_online()
        alice.hurry()  # of no use now, and no harm
        self.assertIs(alice.standing.life, Life.ONLINE)

    async def test_a_redirect_is_followed_and_forgotten_when_it_fails(self) -> None:
        """If this fails, a server cannot be emptied for maintenance, or a wrong redirect loses its clients."""
        home = await self.serve()
        away = await self.serve()
        (alice,) = await self.online("alice", at=home.addresses[0])
        (session,) = home.node.sessions
        session.pump.disconnect(
            ImError(Disconnect.SHUTTING_DOWN), last=notify(Command.REDIRECT, delay=1, address=away.addresses[0].encode())
        )
        await self.until(lambda: len(away.node.sessions) == 1 and alice.standing.life is Life.ONLINE)
        self.assertEqual(len(home.node.sessions), 0)
        await away.stopService()
        await self.until(lambda: len(home.node.sessions) == 1 and alice.standing.life is Life.ONLINE)

    async def test_a_callback_may_stop_the_client(self) -> None:
        """If this fails, a program that gives up after the first failure ends with a traceback instead."""
        await self.serve()
        address = self.server.addresses[0]
        await self.server.stopService()
        stopped: list[Any] = []

        def on_state(standing: Standing) -> None:
            if standing.life is Life.WAITING:
                stopped.append(alice.stopService())

        alice = self.client("alice", at=address, on_state=on_state)
        await self.until(lambda: stopped)
        await stopped[0]
        self.assertIs(alice.standing.life, Life.STOPPED)

    async def test_words_for_what_goes_wrong(self) -> None:
        """If this fails, a person sees a class name where a reason should be."""
        await self.serve()
        address = self.server.addresses[0]
        (alice,) = await self.online("alice")
        await alice.stopService()
        await self.server.stopService()
        alice = self.client("alice", at=address)
        await self.until(lambda: alice.standing.life is Life.WAITING)
        self.assertEqual(alice.standing.reason, "nobody listens there")
        with self.assertRaises(ImError) as error:
            await alice.conversations()
        self.assertEqual(error.exception.code, Status.UNAVAILABLE)

    async def test_a_server_that_says_nothing(self) -> None:
        """If this fails, a client waits for ever for a server that takes connections and never answers."""

        class Mute(Protocol):
            pass

        port = reactor.listenTCP(0, Factory.forProtocol(Mute), interface="127.0.0.1")  # type: ignore[attr-defined]
        self.addCleanup(port.stopListening)
        alice = self.client("alice", at=f"127.0.0.1:{port.getHost().port}", limits=Limits(handshake=0.1, close=0.1))
        await self.until(lambda: alice.standing.life is Life.WAITING)

    async def test_a_server_that_stops_answering(self) -> None:
        """If this fails, messages wait for ever behind a server that hangs."""

        class Hanging(MemoryStore):
            hangs = True

            def append(store, messages: Any, cursors: Any) -> Any:  # the test is self
                if store.hangs:
                    self.hung = Deferred()
                    return self.hung
                return super().append(messages, cursors)

        store = Hanging()
        await self.serve(store=store)
        await self.online("bob")
        (alice,) = await self.online("alice", answer=0.1)
        sending = alice.send("bob", "hello")
        await self.until(lambda: hasattr(self, "hung") and alice.standing.life is Life.WAITING)
        assert alice.standing.error is not None
        self.assertEqual(alice.standing.error.code, Disconnect.UNRESPONSIVE)
        store.hangs = False
        self.hung.errback(ImError(Status.UNAVAILABLE))
        self.assertIsInstance(await sending.accepted, Accepted)

    async def test_garbage_from_a_server(self) -> None:
        """If this fails, something that is no server of this kind makes a client raise, or spin."""

        class Web(Protocol):
            def dataReceived(self, data: bytes) -> None:
                assert self.transport is not None
                self.transport.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        port = reactor.listenTCP(0, Factory.forProtocol(Web), interface="127.0.0.1")  # type: ignore[attr-defined]
        self.addCleanup(port.stopListening)
        alice = self.client("alice", at=f"127.0.0.1:{port.getHost().port}")
        await self.until(lambda: alice.standing.life is Life.WAITING)
        assert alice.standing.error is not None
        self.assertIn(alice.standing.error.code, (Disconnect.MALFORMED, Disconnect.VERSION))

    async def test_callbacks_may_fail(self) -> None:
        """If this fails, a mistake in an application's callback takes its connection down."""
        await self.serve()

        def broken(_: object) -> None:
            raise ZeroDivisionError

        alice, bob = (await self.online("alice", on_receipt=broken))[0], (await self.online("bob", on_state=broken))[0]
        await alice.send("bob", "hello").accepted
        failed: list[Any] = []
        await self.until(lambda: failed.extend(self.flushLoggedErrors(ZeroDivisionError)) or (self.shown[bob] and len(failed) == 3))
        self.assertEqual(self.lives(alice), ["connecting", "online"])
        await bob.stopService()
        self.flushLoggedErrors(ZeroDivisionError)


class TestLogin(Party):
    """What a device shows at the door."""

    async def begin(self) -> None:
        """A server that counts how it was asked."""
        self.store, self.judged, self.asked = MemoryStore(), 0, 0
        self.frames: list[tuple[int, bytes]] = []

        def judge(credentials: Any) -> bool:
            self.judged += 1
            return bool(credentials.secret == b"wonderland")

        await self.serve(store=self.store, authenticator=judge)

    def secret(self) -> bytes | str | Deferred[bytes]:
        self.asked += 1
        return b"wonderland"

    def note(self, direction: str, passed: Any) -> None:
        """Keeps the logins that leave: method, secret."""
        if direction == "out" and passed[0] & 0xFFFF == Command.LOGIN:
            login = CODECS[Kind.REQUEST, Command.LOGIN].read(passed[3])
            self.frames.append((login.method, login.secret))

    async def test_the_password_is_needed_once(self) -> None:
        """If this fails, a person types a password after every tunnel; or it lies in a file; or others can read what lets the device in."""
        await self.begin()
        path = Path(self.mktemp())
        path.write_text("x")  # from something else, and open to all
        path.chmod(0o644)
        path.rename(path.with_name(path.name + ".next"))
        (alice,) = await self.online("alice", secret=self.secret, state=path, on_frame=self.note)
        for times in range(1, 4):
            alice.abort()
            await self.until(lambda times=times: self.lives(alice).count("online") == times + 1)
        await alice.stopService()
        self.assertEqual((self.asked, self.judged, self.server.counters.resumed), (1, 1, 3))
        self.assertEqual([method for method, _ in self.frames], [LoginMethod.PASSWORD] + [LoginMethod.RESUME] * 3)
        self.assertEqual(len({secret for _, secret in self.frames}), 4, "each token once")
        self.assertEqual(path.stat().st_mode & 0o777, 0o600)
        self.assertNotIn("wonderland", path.read_text())
        self.assertIn(FileState(path).load().resume.hex(), path.read_text())  # type: ignore[union-attr]

        (again,) = await self.online("alice", state=path)
        await again.stopService()
        self.assertEqual(self.judged, 1, "a new run needs none either")

    async def test_a_token_that_the_server_does_not_take(self) -> None:
        """If this fails, a device whose token was revoked stays outside, although its password is right."""
        await self.begin()
        asked: list[Deferred[str]] = []

        def ask() -> Deferred[str]:
            asked.append(Deferred())
            return asked[-1]

        state = MemoryState()
        alice = self.client("alice", secret=ask, state=state, on_frame=self.note)
        await self.until(lambda: asked)
        asked[0].callback("wonderland")
        await alice.when_online()
        await self.store.revoke_tokens(b"\0alice")
        alice.abort()
        await self.until(lambda: len(asked) == 2)
        connections = self.server.counters.connections
        asked[1].callback("wonderland")
        await alice.when_online()
        self.assertEqual([method for method, _ in self.frames], [LoginMethod.PASSWORD, LoginMethod.RESUME, LoginMethod.PASSWORD])
        self.assertEqual((connections, self.lives(alice).count("waiting")), (1, 1), "on the same connection")
        await self.store.revoke_tokens(b"\0alice")
        alice.abort()
        await self.until(lambda: len(asked) == 3)
        asked[2].callback("wrong by now")
        await self.until(lambda: alice.standing.life is Life.ENDED)
        self.assertEqual(alice.standing.error.code, Status.NOT_AUTHENTICATED)  # type: ignore[union-attr]
        await alice.stopService()
        self.assertEqual(state.load().resume, b"", "what is worthless is not shown again")  # type: ignore[union-attr]

    async def test_a_secret_that_cannot_be_had(self) -> None:
        """If this fails, an issuer that is down for a moment ends a client for good; or a person who gives up is asked for ever."""
        await self.begin()
        problems: list[Any] = [RuntimeError("the issuer is down"), Deferred(), "wonderland"]

        async def ask() -> Any:
            problem = problems.pop(0)
            if isinstance(problem, Exception):
                raise problem
            return await problem if isinstance(problem, Deferred) else problem

        never = problems[1]
        alice = self.client("alice", secret=ask)
        await self.until(lambda: len(problems) == 1)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        alice.abort()  # while the answer is awaited
        await alice.when_online()
        self.assertTrue(never.called, "nobody waits for it any more")
        self.assertEqual(self.told[alice]["state"][1].reason, "there is no secret now")
        for problem, code in ((ImError(Status.NOT_AUTHENTICATED, "no password was typed"), 4), ("x" * 769, Status.BAD_VALUE)):
            problems.append(problem)
            bob = self.client("bob", secret=ask)
            await self.until(lambda bob=bob: bob.standing.life is Life.ENDED)
            self.assertEqual(bob.standing.error.code, code)  # type: ignore[union-attr]
            await bob.stopService()

    async def test_a_stop_while_the_secret_is_awaited(self) -> None:
        """If this fails, a program that is closed at its password prompt hangs, or logs in after its end."""
        await self.begin()
        asked: Deferred[bytes] = Deferred()

        def ask() -> Deferred[bytes]:
            self.asked += 1
            return asked

        alice = self.client("alice", secret=ask)
        await self.until(lambda: self.asked)
        await alice.stopService()
        self.assertTrue(asked.called)
        self.assertEqual(self.judged, 0)

    async def test_a_logout_forgets_the_token(self) -> None:
        """If this fails, whoever opens the program after a logout is in without a password."""
        await self.begin()
        path = Path(self.mktemp())
        (alice,) = await self.online("alice", secret="wonderland", state=path)
        await alice.logout()
        await self.until(lambda: alice.standing.life is Life.ENDED)
        await alice.stopService()
        self.assertEqual(FileState(path).load().resume, b"")  # type: ignore[union-attr]

    async def test_a_server_without_tokens(self) -> None:
        """If this fails, a client cannot come back to a server whose operator wants passwords; or keeps a token that is worth nothing."""
        await self.begin()
        (alice,) = await self.online("alice", secret=self.secret, on_frame=self.note)
        self.server.node.resume_life = 0
        for times in range(2):
            alice.abort()
            await self.until(lambda times=times: self.lives(alice).count("online") == times + 2)
        methods = [method for method, _ in self.frames]
        self.assertEqual(methods, [LoginMethod.PASSWORD, LoginMethod.RESUME, LoginMethod.PASSWORD, LoginMethod.PASSWORD])


class TestRest(Party):
    """Devices, conversations, signals, logout."""

    async def test_devices(self) -> None:
        """If this fails, a person cannot see or remove a lost phone."""
        await self.serve()
        phone, desk = (await self.online("alice", label="phone"))[0], (await self.online("alice", label="desk"))[0]
        found = {device.label: device for device in await desk.devices()}
        self.assertEqual(found["phone"].id, phone.device)
        self.assertTrue(found["phone"].online)
        await desk.remove_device(phone.device)
        await self.until(lambda: phone.standing.life is Life.ENDED)
        self.assertEqual([device.label for device in await desk.devices()], ["desk"])
        with self.assertRaises(ImError) as error:
            await desk.remove_device(phone.device)
        self.assertEqual(error.exception.code, Status.NO_SUCH)

    async def test_conversations(self) -> None:
        """If this fails, an application cannot list what there is to open."""
        await self.serve()
        alice, bob, _ = await self.online("alice", "bob", "carol")
        await alice.send("bob", "one").accepted
        await bob.send("alice", "two").accepted
        await alice.send("carol", "three").accepted
        await self.until(lambda: len(self.told[alice]["receipt"]) == 2 and self.shown[alice])
        found = await alice.conversations()
        self.assertEqual([(c.peer, c.head, c.peer_delivered) for c in found], [("bob", 2, 1), ("carol", 1, 1)])

    async def test_signals(self) -> None:
        """If this fails, nobody sees that the other one is typing, or sees it after the message has come."""
        await self.serve()
        alice, bob = await self.online("alice", "bob")
        await alice.send("bob", "hello").accepted
        await self.until(lambda: self.shown[bob])
        await alice.signal(1, SignalType.TYPING, lifetime=60)
        await self.until(lambda: self.told[bob]["signal"])
        signal = self.told[bob]["signal"][0]
        self.assertEqual((signal.sender, signal.conversation, signal.type), ("alice", 1, SignalType.TYPING))
        now = bob.server_time()
        for content, expires, head in ((b"expired", now - 1000, 1), (b"overtaken", now + 60_000, 0), (b"good", now + 60_000, 1)):
            about = {"conversation": 1, "head": head, "expires": expires, "type": SignalType.CUSTOM}
            self.push(notify(Command.SIGNAL, **about, device=alice.device, sender=b"alice", content=content), "bob")
        await self.until(lambda: len(self.told[bob]["signal"]) > 1)
        self.assertEqual([s.content for s in self.told[bob]["signal"][1:]], [b"good"])

    async def test_logout(self) -> None:
        """If this fails, a client that has logged out comes back by itself."""
        await self.serve()
        (alice,) = await self.online("alice")
        await alice.logout()
        await self.until(lambda: alice.standing.life is Life.ENDED)
        self.assertEqual(len(self.server.node.sessions), 0)
        await self.turn(0.1)
        self.assertEqual(self.lives(alice), ["connecting", "online", "ended"])

    async def test_a_stop_leaves_nothing_behind(self) -> None:
        """If this fails, a program that stops its client does not end, or loses the last receipt."""
        await self.serve()
        alice, bob = await self.online("alice", "bob")
        await alice.send("bob", "last words").accepted
        await self.until(lambda: self.shown[bob])
        await bob.stopService()
        self.assertEqual(bob.standing.life, Life.STOPPED)
        await self.until(lambda: self.told[alice]["receipt"])
        waiting = bob.when_online()
        bob.startService()
        await waiting

    async def test_arguments_that_cannot_be(self) -> None:
        """If this fails, a slip in a program shows up as a connection that never comes."""
        for options in (
            {"endpoint": "nowhere"},
            {"endpoint": "host:99999"},
            {"endpoint": "host:1", "device": b"short"},
            {"endpoint": "host:1", "secret": "x" * 2000},
            {"endpoint": "host:1", "label": "x" * 100},
            {"endpoint": "host:1", "uid": ""},
            {"endpoint": "tls:host:1", "trust": __file__},
            {"endpoint": "tls:host:1", "certificate": __file__},
            {"endpoint": "host:1", "trust": certificate()},
            {"endpoint": "unix:/run/im.sock", "certificate": certificate()},
        ):
            with self.assertRaises((ValueError, LocalProtocolError)):
                Client(**{"uid": "alice", **options})


class TestDocs(Party):
    """What docs/client.md shows."""

    async def test_the_example_runs(self) -> None:
        """If this fails, the first program that somebody writes with the library does not work."""
        text = (Path(__file__).parent.parent.parent / "docs" / "client.md").read_text("utf-8")
        example: dict[str, Any] = {"__name__": "example"}
        exec(text.partition("```python\n")[2].partition("```")[0], example)
        await self.serve()
        (bob,) = await self.online("bob")
        example["Client"] = lambda *args, **options: Client(*args, **{**options, "state": self.mktemp()})
        running = ensureDeferred(example["main"](reactor, self.server.addresses[0]))
        await self.until(lambda: self.shown[bob])
        bob.send("alice", "It is late.")
        await running
        self.assertEqual(self.texts(bob), ["Is the white rabbit with you?"])


class BusyOnce(MemoryStore):
    """Answers its first batch with "busy", after a while."""

    def __init__(self) -> None:
        super().__init__()
        self.refused: Deferred[None] = Deferred()
        self.asked: Deferred[None] = Deferred()

    def append(self, messages: Any, cursors: Any) -> Any:
        if not messages or self.asked.called:
            return super().append(messages, cursors)
        self.asked.callback(None)
        return self.refused


class TestBusy(Party):
    async def test_order_holds_when_a_batch_is_refused_for_now(self) -> None:
        """What was sent after a message that the server was too busy for is shown before it."""
        store = BusyOnce()
        await self.serve(store=store)
        alice, bob = await self.online("alice", "bob")
        alice.send("bob", "0")
        await store.asked
        for number in range(1, 10):  # these reach the server while it is still busy with the first
            alice.send("bob", str(number))
        await self.until(lambda: len(self.server.node.ledger.messages) == 9)
        store.refused.errback(ImError(Status.BUSY, retry_after=30))
        await self.until(lambda: len(self.shown[bob]) == 10)
        self.assertEqual(self.texts(bob), [str(number) for number in range(10)])
        self.assertEqual(self.server.counters.accepted, 10)
