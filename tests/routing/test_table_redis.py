"""The route table in Redis: on real servers, which are killed, stopped, flushed and slow.

Strategy: the contract of routers first, on one server and on two. Then a table alone, as one node has it, for what hangs on a single entry.
And at last two whole servers on one store, with clients that talk while Redis is away: to them nothing may happen.
"""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.trial.unittest import TestCase
from zope.interface.verify import verifyObject

from tests.redises import Redis
from tests.routing.clustered import ClusteredContract, ends
from tests.routing.contract import ALICE, BOB, Up, push
from tests.routing.linked import logged
from tests.running import Served, until
from twisted_im.client.client import Client
from twisted_im.client.values import Life
from twisted_im.routing import table_redis
from twisted_im.routing.link import Attachment
from twisted_im.routing.mesh import MeshRouter
from twisted_im.routing.table_memory import MemoryTable
from twisted_im.routing.table_redis import ANSWER, RedisTable
from twisted_im.routing.table_redis_scripts import NODES, SCRIPTS, user_key
from twisted_im.server.interfaces import EVERYWHERE, IRouteTable
from twisted_im.storage.sqlite import SqliteStore

#: Seconds of grace for a machine that does other things too. Whoever waits for a Redis that stands still would wait for longer.
GRACE = 20.0
#: Seconds for an answer of a Redis that is well, where the machine is not to make it look as if it were not.
LATEST = 30.0


def notices(case: Any, *tables: Any) -> None:
    """From now on these tables wait for a Redis no longer than elsewhere: what is done to it next is what is tested."""
    case.patch(table_redis, "ANSWER", ANSWER)
    for shard in (shard for table in tables for shard in table._shards):
        if shard._late is not None:
            shard._late.reset(0)  # it was to look when `LATEST` is over


class RedisContract(ClusteredContract):
    """Three nodes on real sockets, with a table on so many servers."""

    servers = 1
    look_ups = 4

    def make_routers(self, count: int) -> list[MeshRouter]:
        self.patch(table_redis, "ANSWER", LATEST)  # type: ignore[attr-defined]  # it is a TestCase
        if not hasattr(self, "redises"):
            self.redises = [Redis() for _ in range(self.servers)]
            for redis in self.redises:
                self.addCleanup(redis.close)  # type: ignore[attr-defined]  # it is a TestCase
        return [MeshRouter(ends(), table=self.table()) for _ in range(count)]

    def table(self) -> RedisTable:
        return RedisTable([redis.server() for redis in self.redises])

    def settle(self) -> Deferred[None]:
        found = Deferred.fromCoroutine(until(lambda: not any(router.waiting for router in self.routers), "the table's answers"))
        return found.addCallback(lambda _: ClusteredContract.settle(self))

    def costs(self) -> tuple[int, int]:
        return 1, 0

    async def test_without_the_table_everybody_gets_everything(self) -> None:
        """If this fails, messages wait for a Redis that does not come back, or overtake those that do."""
        alice, bob = await self.comes(ALICE, node=0), await self.comes(BOB, node=2)
        for number in range(10):
            self.routers[0].route([(push(number), (ALICE, BOB), None)])
        notices(self, *(router._table for router in self.routers))
        for redis in self.redises:
            redis.freeze()
        begun = time.monotonic()
        for number in range(10, 20):
            self.routers[0].route([(push(number), (ALICE, BOB), None)])
        carol = self.comes(b"\0carol", node=1)
        await carol
        assert time.monotonic() - begun < ANSWER + GRACE, "a login waits for it"
        await until(lambda: len(bob.got) == 20, "what was sent when it was just stopped")
        assert time.monotonic() - begun < ANSWER + GRACE
        self.routers[0].route([(push(20), (ALICE, BOB), None)])
        self.ups[0].turn.end()
        assert not self.routers[0].waiting, "it was asked again"
        await until(lambda: len(bob.got) == 21, "what is sent while it is known to be away")
        assert alice.got == bob.got == [push(number) for number in range(21)]
        await until(lambda: all(len(up.doubts) >= len(self.redises) for up in self.ups), "everybody to doubt")
        for redis in self.redises:
            redis.thaw()
        await until(lambda: all(f"redis {redis.server().name}" in up.hears for redis in self.redises for up in self.ups), "it is back")


class TestRedisTable(RedisContract, TestCase):
    """On one server."""

    async def test_other_tables(self) -> None:
        """If this fails, two nodes with different settings look for each other's sessions where they are not, and miss messages."""
        strange = MeshRouter(ends())
        up = Up(self.ups)
        self.ups.append(up)
        self.addCleanup(up.turn.stop)
        await maybeDeferred(strange.start, up)
        self.addCleanup(strange.stop)
        here = self.routers[0]._links
        await until(lambda: any(link.peer.name == up.name for link in here), "the link")
        for _ in range(50):
            await self.route((push(1), (ALICE,), None))
        assert up.hears == {}
        assert all(up.name not in other.hears for other in self.ups)


class TestRedisTables(RedisContract, TestCase):
    """On two, by hash."""

    servers = 2


class TestEntries(TestCase):
    """One node's table, and what is in Redis. It is refreshed ten times as often as elsewhere."""

    timeout = 180

    def setUp(self) -> None:
        self.patch(table_redis, "ANSWER", LATEST)
        self.patch(table_redis, "REFRESH", table_redis.REFRESH / 10)
        self.redis = Redis()
        self.addCleanup(self.redis.close)
        self.ups: list[Up] = []

    async def table(self, *urls: str) -> tuple[RedisTable, Up]:
        """A node's, which has started."""
        up = Up(self.ups)
        self.ups.append(up)
        table = RedisTable([self.redis.server(url) for url in urls or ("",)])
        self.addCleanup(up.turn.stop)
        self.addCleanup(table.stop)
        await table.start(up)
        return table, up

    async def comes(self, table: RedisTable, user: bytes, number: int) -> Attachment:
        row = Attachment(user, b"d" * 16, number)
        await maybeDeferred(table.put, "", [row])
        return row

    def entries(self, user: bytes) -> list[bytes]:
        """The session numbers that stand there."""
        return sorted(self.redis.ask("HVALS", user_key(user)))

    async def test_interfaces(self) -> None:
        """If this fails, a node meets a table without a method that it calls."""
        verifyObject(IRouteTable, MemoryTable())
        verifyObject(IRouteTable, RedisTable([self.redis.server()]))

    async def test_a_stale_removal_leaves_the_newer_login(self) -> None:
        """If this fails, a device that comes back quickly is not found any more, once its old connection is noticed to be gone."""
        table, _ = await self.table()
        old = await self.comes(table, ALICE, 5)
        await self.comes(table, ALICE, 7)
        table.remove("", [old])
        await self.comes(table, BOB, 8)
        assert self.entries(ALICE) == [b"7"]
        other, _ = await self.table()
        assert await other.nodes_of([ALICE, BOB, b"\0nobody"]) == {"node0": [ALICE, BOB]}
        table.remove("", [Attachment(ALICE, b"d" * 16, 7)])
        await until(lambda: self.entries(ALICE) == [], "its end")

    async def test_stale_entries_go(self) -> None:
        """If this fails, an entry that nobody has removed draws a copy of each message for ever; or one that is right is removed."""
        table, up = await self.table()
        other, _ = await self.table()
        await self.comes(table, BOB, 1)
        await self.comes(other, ALICE, 2)
        self.redis.ask("HSET", user_key(ALICE), b"b" * 16 + b"d" * 16 + b"node0", b"99")
        assert self.entries(ALICE) == [b"2", b"99"]
        table.stray([ALICE])
        await until(lambda: self.entries(ALICE) == [b"2"], "its removal")
        await until(lambda: up.counters.stale_routes, "it is counted")
        assert up.counters.stale_routes == 1
        assert up.doubts == []

    async def test_a_node_that_has_ended(self) -> None:
        """If this fails, the sessions of a node that was killed are looked for there until somebody cleans up by hand."""
        table, up = await self.table()
        gone, gone_up = await self.table()
        await self.comes(table, ALICE, 1)
        for number in range(1200):
            row = Attachment(b"\0user%d" % number, b"d" * 16, number)
            done = gone.put("", [row])
        await maybeDeferred(lambda: done)
        assert len(self.redis.ask("KEYS", "im:u:*")) == 1201
        for shard in gone._shards:  # it was killed: nothing of it comes any more
            shard._stopped = True
            shard._lose("killed")
        gone._timer.cancel()
        self.ups.remove(gone_up)

        def looked() -> bool:
            up.look()
            return len(self.redis.ask("KEYS", "im:u:*")) == 1 and len(self.redis.ask("HKEYS", NODES)) == 1

        await until(looked, "its entries to go")
        assert self.entries(ALICE) == [b"1"]
        assert up.doubts == []

    async def test_lost_entries_are_noticed_and_written_anew(self) -> None:
        """If this fails, whoever is online is not found after a flush, a failover or an eviction, and gets nothing until he comes again."""
        table, up = await self.table()
        shard = table._shards[0]
        (boot, name) = up.boot, b"node0"
        known = len(up.doubts)
        for lose in (
            lambda: self.redis.ask("FLUSHALL"),
            lambda: (self.redis.ask("DECR", b"im:v:" + boot), self.redis.ask("DEL", user_key(BOB))),  # a replica without the last change
            lambda: self.redis.ask("DEL", user_key(ALICE)),
            lambda: self.redis.ask("HDEL", user_key(ALICE), boot + b"d" * 16 + name),
        ):
            await self.comes(table, ALICE, 1)
            await self.comes(table, BOB, 2)
            before = time.monotonic()
            lose()
            await until(lambda: len(up.doubts) > known, "doubt")  # noqa: B023  # it is awaited here
            called, since = up.doubts[-1]
            assert called.startswith("redis ")
            assert since <= before
            await until(lambda: called in up.hears, "certainty")  # noqa: B023  # the same
            assert self.entries(ALICE) == [b"1"]
            assert self.entries(BOB) == [b"2"]
            known = len(up.doubts)
        assert shard.standing.name == "SURE"

    async def test_a_change_meets_the_loss_first(self) -> None:
        """If this fails, a device that logs in just after a flush is in a table that has lost all others, and nobody notices for long."""
        table, up = await self.table()
        await self.comes(table, ALICE, 1)
        self.redis.ask("FLUSHALL")
        await self.comes(table, BOB, 2)
        assert len(up.doubts) == 1
        await until(lambda: self.entries(ALICE) == [b"1"] and self.entries(BOB) == [b"2"], "both to be there")

    async def test_what_changes_meanwhile(self) -> None:
        """If this fails, who has logged in while Redis could not be reached, and it has lost nothing, is not found when it is back."""
        table, up = await self.table()
        alice, _ = await self.comes(table, ALICE, 1), await self.comes(table, BOB, 2)
        notices(self, table)
        self.redis.freeze()
        await until(lambda: up.doubts, "doubt")
        table.remove("", [alice])
        done = table.put("", [Attachment(b"\0carol", b"d" * 16, 3)])
        up.turn.end()
        assert done is None or done.called, "it waits, though nobody can answer"
        self.redis.thaw()
        await until(lambda: f"redis {self.redis.server().name}" in up.hears, "certainty")
        assert [self.entries(user) for user in (ALICE, BOB, b"\0carol")] == [[], [b"2"], [b"3"]]
        assert up.counters.table_away_seconds > 0

    async def test_a_login_that_is_given_up(self) -> None:
        """If this fails, clients that give up while they log in fill the log with errors, or take the logins of others with them."""
        table, up = await self.table()
        given_up, waits = (table.put("", [Attachment(user, b"d" * 16, 1)]) for user in (ALICE, BOB))
        given_up.cancel()
        await waits
        assert up.doubts == []
        assert self.entries(ALICE) == self.entries(BOB) == [b"1"]

    async def test_nothing_is_kept_for_ever(self) -> None:
        """If this fails, what a cluster that is no more has left in Redis stays there."""
        table, _ = await self.table()
        await self.comes(table, ALICE, 1)
        keys = self.redis.ask("KEYS", "*")
        assert len(keys) == 4
        assert all(0 < self.redis.ask("TTL", key) <= 600 for key in keys)
        assert all(key.startswith(b"im:") for key in keys)
        await table.stop()
        assert self.redis.ask("KEYS", "*") == []

    async def test_who_uses_another_server_is_doubted(self) -> None:
        """If this fails, a node that a failover has left on the old master looks for sessions there, and they miss what it sends."""
        self.patch(table_redis, "STILL", table_redis.STILL / 10)
        other = Redis()
        self.addCleanup(other.close)
        _, up = await self.table()
        before = time.monotonic()
        left = Up(self.ups)
        self.ups.append(left)
        self.addCleanup(left.turn.stop)
        behind = RedisTable([other.server()])  # as if it were the same, by its name
        self.addCleanup(behind.stop)
        await behind.start(left)
        up.look()
        await until(lambda: up.doubts, "doubt")
        (called, since) = up.doubts[0]
        assert called.startswith("node1 by redis ")
        assert since <= before + 1
        self.ups.remove(left)
        up.look()
        await until(lambda: called in up.hears, "its end")

    async def test_passwords_users_and_rights(self) -> None:
        """If this fails, the table cannot be on a Redis that lets nobody in without a password, or needs more rights than its page says."""
        page = (Path(__file__).parents[2] / "docs" / "operations.md").read_text(encoding="utf-8")
        (rights,) = re.findall("^ACL SETUSER im on >PASSWORD (.*)$", page, re.MULTILINE)
        self.redis.ask("ACL", "SETUSER", "im", "on", ">s/cret", *rights.split())
        self.redis.ask("ACL", "SETUSER", "default", "off")
        table, up = await self.table(f"unix://im:s%2Fcret@{self.redis.path}?db=1")
        await self.comes(table, ALICE, 1)
        assert await table.nodes_of([ALICE]) == {}
        assert up.doubts == []
        notices(self, table)
        begun = time.monotonic()
        wrong, other = await self.table(f"unix://im:wrong@{self.redis.path}")
        assert time.monotonic() - begun < ANSWER + GRACE
        assert len(other.doubts) == 1
        assert await wrong.nodes_of([ALICE]) == {EVERYWHERE: [ALICE]}

    async def test_one_that_takes_no_writes(self) -> None:
        """If this fails, an operator whose master has become a replica finds a log full of one line, or none; or nothing of it is mended by
        itself when it is a master again."""
        with logged() as lines:
            table, up = await self.table()
            self.redis.ask("REPLICAOF", "127.0.0.1", "1")
            await self.comes(table, ALICE, 1)
            loaded = self.redis.asked("script")
            await until(lambda: self.redis.asked("script") >= loaded + 3 * len(SCRIPTS), "three attempts")
            self.redis.ask("REPLICAOF", "NO", "ONE")
            await until(lambda: f"redis {self.redis.server().name}" in up.hears, "certainty")
        assert self.entries(ALICE) == [b"1"]
        assert len(lines) == 1, lines
        assert re.search(r"is away: READONLY You can't write against a read only replica\. Until", lines[0]), lines

    async def test_missing_libraries_and_wrong_lists(self) -> None:
        """If this fails, an operator without the libraries sees a traceback in place of a line that says what to install."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(__import__("sys").modules, "txredisapi", None)
            with pytest.raises(ValueError, match=r"wants txredisapi: pip install 'twisted_im\[redis\]'"):
                RedisTable([self.redis.server()])
        with pytest.raises(ValueError, match="at least one server, and each once"):
            RedisTable([self.redis.server()] * 2)


class TestFaults(Served):
    """Two nodes on one store, with the table in a Redis that fails. Alice is on the first, Bob on the second."""

    async def begin(self) -> None:
        self.redis = Redis()
        self.addCleanup(self.redis.close)
        path = self.mktemp()
        self.nodes = []
        for name in ("one", "two"):
            router = MeshRouter(ends(), table=RedisTable([self.redis.server()]))
            self.nodes.append(await self.serve(store=SqliteStore(path), router=router, name=name))
        self.shown: dict[str, list[str]] = {}
        self.sent = 0
        self.alice = await self.comes("alice", 0)
        await self.comes("bob", 1)
        await until(lambda: not any(server.node.doubts.open for server in self.nodes), "certainty")
        await self.gets_across(2.0)

    async def comes(self, uid: str, node: int, device: bytes = b"") -> Client:
        """A device that logs in."""
        shown = self.shown[uid + device.decode()] = []
        more: dict[str, Any] = {"device": device.ljust(16, b".")} if device else {}
        client = self.client(
            uid, port=int(self.nodes[node].addresses[0].rpartition(":")[2]), on_message=lambda message: shown.append(message.text), **more
        )
        begun = time.monotonic()
        client.startService()
        await until(lambda: client.standing.life is Life.ONLINE, f"{uid} to be online")
        assert time.monotonic() - begun < ANSWER + GRACE
        return client

    async def gets_across(self, within: float, *who: str) -> None:
        """Whoever is named, and Bob, is shown what Alice sends now."""
        self.sent += 1
        text = f"number {self.sent}"
        begun = time.monotonic()
        await self.alice.send("bob", text).accepted
        assert time.monotonic() - begun < ANSWER + GRACE, "a send waits for Redis"
        for name in ("bob", *who):
            await until(lambda: text in self.shown[name], f"{text} on {name}")  # noqa: B023  # it is awaited here
        assert time.monotonic() - begun < within + GRACE
        assert [len(texts) for texts in self.shown.values()] == [len(dict.fromkeys(texts)) for texts in self.shown.values()]

    async def rebuilt(self) -> None:
        """The table is right again, and nobody reads the store."""
        begun = time.monotonic()
        await until(lambda: not any(server.node.doubts.open for server in self.nodes), "certainty")
        assert time.monotonic() - begun < 15 + GRACE
        found = await self.nodes[0].node.router._table.nodes_of([b"\0bob"])
        assert found == {"two": [b"\0bob"]}
        await self.gets_across(2.0)

    async def test_killed_and_started_empty(self) -> None:
        """If this fails, users notice that Redis was killed: a send or a login fails or waits, or a message comes late or not at all."""
        await self.begin()
        self.redis.kill()
        await self.gets_across(10.0)
        await self.comes("bob", 0, b"tablet")
        await self.comes("bob", 1, b"laptop")
        await self.gets_across(10.0, "bobtablet", "boblaptop")
        self.redis.start()
        await self.rebuilt()
        await self.gets_across(2.0, "bobtablet", "boblaptop")

    async def test_stopped(self) -> None:
        """If this fails, users notice that Redis hangs."""
        await self.begin()
        self.redis.freeze()
        await self.gets_across(10.0)
        await self.comes("bob", 1, b"laptop")
        await self.gets_across(10.0, "boblaptop")
        self.redis.thaw()
        await self.rebuilt()
        await self.gets_across(2.0, "boblaptop")

    async def test_flushed(self) -> None:
        """If this fails, somebody who empties Redis cuts off whoever is online, though messages are accepted."""
        await self.begin()
        self.redis.ask("FLUSHALL")
        await self.gets_across(10.0)
        await self.comes("bob", 1, b"laptop")
        await self.gets_across(10.0, "boblaptop")
        await self.rebuilt()

    async def test_slow(self) -> None:
        """If this fails, a Redis that answers slowly makes every message and every login slow."""
        await self.begin()
        self.redis.slow(0.8)
        await self.gets_across(10.0)
        await self.comes("bob", 1, b"laptop")
        await self.gets_across(10.0, "boblaptop")
        self.redis.slow(0.0)
        await self.rebuilt()
