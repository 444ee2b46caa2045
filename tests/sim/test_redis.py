"""The Redis of a simulated world: it does what a real one does, and nodes of a world get through whatever it does.

Strategy: hypothesis draws what several nodes may ask, and asks both, the model and a real Redis; answers and contents must be the same. The
stories are told of two nodes on one store, one seed each, and are over in simulated seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.endpoints import HostnameEndpoint, TCP4ServerEndpoint

from tests.redises import Redis
from twisted_im.client.client import Client
from twisted_im.client.values import Life
from twisted_im.cork import corked
from twisted_im.routing.mesh import MeshRouter
from twisted_im.routing.table_redis import RedisServer, RedisTable
from twisted_im.routing.table_redis_scripts import CHANGE, CLEAR, LOOK, NODES, REFRESHED, SCRIPTS, STRAY, run_keys
from twisted_im.sim.disk import SimDisk
from twisted_im.sim.redis import PORT, Keyspace, Refused, SimRedis, encoded
from twisted_im.sim.world import Process, World

# ---- the same as a real one

BOOTS = b"1" * 16, b"2" * 16
USERS = b"\0alice", b"\0\r\n"
DEVICES = (b"p" * 16,)

boots, users, devices = st.sampled_from(BOOTS), st.sampled_from(USERS), st.sampled_from(DEVICES)
versions = st.sampled_from([b"1", b"2"])
rows = st.lists(st.tuples(users, devices, st.sampled_from([b"5", b"7", b"-5", b"-7"])), max_size=4)
asked = st.one_of(
    st.tuples(st.just(CHANGE), boots, st.sampled_from([b"", b"", b"1", b"2"]), versions, rows),
    st.tuples(st.just(REFRESHED), boots, versions, versions, st.lists(st.tuples(users, devices), max_size=2)),
    st.tuples(st.just(CLEAR), boots),
    st.tuples(st.just(STRAY), boots, st.lists(users, max_size=3)),
    st.tuples(st.just(LOOK), st.lists(users, max_size=3)),
    st.tuples(st.just(b"FLUSHALL")),
)


def command(script: bytes, *given: Any) -> tuple[bytes, list[bytes], list[bytes]]:
    """A script, its keys and its arguments."""
    if script == LOOK:
        return script, [], given[0]
    if script == b"FLUSHALL":
        return script, [], []
    boot, *more = given
    name, keys = b"node" + boot[:1], [*run_keys(boot), NODES]
    if script == CHANGE:
        expected, version, changes = more
        return script, keys[:2], [expected, version, b"600", boot, name, *(part for row in changes for part in row)]
    if script == REFRESHED:
        version, mark, touched = more
        return script, keys, [version, b"600", boot, name, mark, *(part for row in touched for part in row)]
    if script == CLEAR:
        return script, keys, [boot, name, b"1000"]
    return script, [], [name, *more[0]]


def plain(answer: Any) -> Any:
    """Without the order of what has none."""
    if isinstance(answer, list) and len(answer) == 2 and isinstance(answer[1], list) and isinstance(answer[0], int):
        return answer[0], dict(zip(answer[1][::2], answer[1][1::2], strict=True))
    return [sorted(each) for each in answer] if isinstance(answer, list) else answer


@pytest.fixture(scope="module")
def real() -> Iterator[Redis]:
    redis = Redis()
    yield redis
    redis.close()


def contents(redis: Redis) -> dict[bytes, Any]:
    """All that a real one holds, as the model says it."""
    found: dict[bytes, Any] = {}
    for key in redis.ask("KEYS", "*"):
        kind = redis.ask("TYPE", key)
        if kind == b"hash":
            flat = redis.ask("HGETALL", key)
            found[key] = dict(zip(flat[::2], flat[1::2], strict=True))
        elif kind == b"set":
            found[key] = dict.fromkeys(redis.ask("SMEMBERS", key))
        else:
            found[key] = redis.ask("GET", key)
    return found


@given(st.lists(asked, max_size=12))
@settings(max_examples=300)
def test_it_does_what_a_real_one_does(real: Redis, commands: list[Any]) -> None:
    """If this fails, the simulator tries nodes with a Redis that there is not."""
    model = Keyspace(lambda: 0.0)
    real.ask("FLUSHALL")
    hashes = {script: real.ask("SCRIPT", "LOAD", script) for script in SCRIPTS}
    assert hashes == {script: model.ask(b"SCRIPT", b"LOAD", script) for script in SCRIPTS}
    for each in commands:
        script, keys, arguments = command(*each)
        whole = [b"EVALSHA", hashes[script], b"%d" % len(keys), *keys, *arguments] if script in hashes else [script]
        answer = plain(real.ask(*whole))
        assert plain(model.ask(*whole)) == answer
    assert model.contents() == contents(real)


def test_answers_and_errors(real: Redis) -> None:
    """If this fails, what a real Redis refuses is taken by the simulated one, or its answers cannot be read."""
    model = Keyspace(lambda: 0.0)
    for unknown in ([b"NONSENSE"], [b"EVALSHA", b"0" * 40, b"0"]):
        with pytest.raises(Refused) as refused:
            model.ask(*unknown)
        with pytest.raises(Exception, match=str(refused.value).split()[0]):
            real.ask(*unknown)
    assert model.ask(b"ping") == b"PONG"
    assert encoded([1, b"a\r\n", [b"", -1]]) == b"*2\r\n".replace(b"2", b"3") + b":1\r\n$3\r\na\r\n\r\n*2\r\n$0\r\n\r\n:-1\r\n"


def test_keys_end() -> None:
    """If this fails, a simulated table keeps the entries of the dead."""
    time = [0.0]
    model = Keyspace(lambda: time[0])
    loaded = model.ask(b"SCRIPT", b"LOAD", CHANGE)
    given = command(CHANGE, BOOTS[0], b"", b"1", [(USERS[0], DEVICES[0], b"5")])
    model.ask(b"EVALSHA", loaded, b"2", *given[1], *given[2])
    time[0] = 599.0
    assert len(model.contents()) == 3
    model.undo(1.0)
    assert len(model.contents()) == 3
    model.undo(600.0)
    assert model.contents() == {}
    model.ask(b"EVALSHA", loaded, b"2", *given[1], *given[2])
    time[0] += 600.0
    assert model.contents() == {}


# ---- nodes of a world


class Links:
    """Where a simulated node's links begin and end."""

    scheme = "tcp"
    secret = b"known to all of this cluster"

    def __init__(self, process: Process) -> None:
        self._reactor = corked(process.reactor)
        self._process = process

    @property
    def port(self) -> Any:
        return TCP4ServerEndpoint(self._reactor, 7900, interface=self._process.host)

    def reach(self, address: str) -> Any:
        _, host, port = address.split(":")
        return HostnameEndpoint(self._reactor, host, int(port), timeout=3.0)


class Cluster:
    """Two nodes on one disk, and a table on two Redis; Alice is on the first node, Bob on the second."""

    def __init__(self, seed: str) -> None:
        self.world = World(seed)
        disk = SimDisk(self.world, self.world.chance("disk"))
        self.redises = [self.world.process(name, SimRedis) for name in ("redis1", "redis2")]
        self.nodes = [self.world.server(name, store=disk.model, machine="rack", router=self._router) for name in ("first", "second")]
        self.shown: dict[str, list[str]] = {}
        self.alice = self.client("alice", "first")
        self.client("bob", "second")
        self.world.run_until(lambda: not self.doubts())
        self.sent = 0

    def _router(self, process: Process) -> MeshRouter:
        servers = [RedisServer(name, HostnameEndpoint(process.reactor, name, PORT, timeout=3.0)) for name in ("redis1", "redis2")]
        random = process.random.randbytes
        return MeshRouter(Links(process), table=RedisTable(servers, random=random), random=random, chance=process.random.random)

    def doubts(self) -> list[str]:
        return [peer for process in self.nodes for peer in process.service.node.doubts.open]

    def client(self, uid: str, at: str, *, name: str = "", **options: Any) -> Client:
        shown = self.shown[name or uid] = []
        client = self.world.client(uid, at=at, name=name, on_message=lambda message: shown.append(message.text), **options)
        self.world.run_until(lambda: client.standing.life is Life.ONLINE, limit=5)
        return client

    def talk(self, count: int) -> None:
        """Alice says something to everybody, twice a second; the last is shown to all in time, though nothing follows it."""
        for _ in range(count):
            text = str(self.sent)
            self.sent += 1
            for uid in dict.fromkeys(name.partition("'")[0] for name in self.shown if name != "alice"):
                self.alice.send(uid, text)
            self.world.run_for(0.5)
        self.world.run_until(lambda: all(shown[-1:] == [text] for name, shown in self.shown.items() if name != "alice"), limit=10)

    def close(self) -> None:
        for process in self.world.processes.values():
            process.kill()
        self.world.close()


def killed(cluster: Cluster, redis: Process) -> Callable[[], object]:
    redis.kill()
    return redis.start


def stopped(cluster: Cluster, redis: Process) -> Callable[[], object]:
    redis.freeze()
    return redis.thaw


def flushed(cluster: Cluster, redis: Process) -> Callable[[], object]:
    redis.service.flush()
    return lambda: None


def failed_over(cluster: Cluster, redis: Process) -> Callable[[], object]:
    redis.service.fail_over()
    return lambda: None


def slow(cluster: Cluster, redis: Process) -> Callable[[], object]:
    redis.service.delay = 0.7
    return lambda: setattr(redis.service, "delay", 0.0)


def away_from_one(cluster: Cluster, redis: Process) -> Callable[[], object]:
    links, one = cluster.world.links, cluster.nodes[cluster.world.chance("which").randrange(2)]
    mends = [links.partition(one.host, redis.host), links.partition(redis.host, one.host)]
    return lambda: [mend() for mend in mends]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("fault", [killed, stopped, flushed, failed_over, slow, away_from_one])
def test_nodes_get_through(fault: Any, seed: int) -> None:
    """If this fails, users notice what happens to Redis: messages are lost, come late or twice, or nodes read their store for ever."""
    cluster = Cluster(f"{fault.__name__} {seed}")
    world = cluster.world
    chance = world.chance("story")
    try:
        cluster.talk(3)
        cluster.client("carol", "second")
        world.run_for(chance.uniform(0.0, 0.6))
        mends = [fault(cluster, redis) for redis in cluster.redises if chance.random() < 0.7] or [fault(cluster, cluster.redises[0])]
        world.run_for(chance.choice((0.0, chance.uniform(0.0, 3.0))))
        cluster.talk(1)
        cluster.client("bob", "second", name="bob's laptop", device=b"l" * 16)
        cluster.client("dave", "second")
        cluster.talk(1)
        world.run_for(chance.uniform(0.0, 8.0))
        cluster.talk(2)
        for mend in mends:
            mend()
        cluster.client("erin", "second")
        cluster.talk(1)
        world.run_until(lambda: not cluster.doubts(), limit=15)
        cluster.talk(1)
        for name, shown in cluster.shown.items():
            assert name == "alice" or shown == [str(number) for number in range(cluster.sent - len(shown), cluster.sent)], name
        assert world.errors == []
        for process in cluster.nodes:
            process.stop()
        world.run_for(10)
        assert world.leaks == []
    finally:
        cluster.close()
