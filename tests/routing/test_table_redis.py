"""The route table in Redis: on real servers, which are killed, stopped, flushed and slow."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from tests.redises import Redis
from tests.routing.clustered import SECRET, ClusteredContract, port, reach, until
from twisted_im.routing.mesh import MeshRouter
from twisted_im.routing.table_redis import RedisTable


class RedisContract(ClusteredContract):
    """Three nodes on real sockets, with a table on so many servers."""

    servers = 1

    def make_routers(self, count: int) -> list[MeshRouter]:
        if not hasattr(self, "redises"):
            self.redises = [Redis() for _ in range(self.servers)]
            for redis in self.redises:
                self.addCleanup(redis.close)  # type: ignore[attr-defined]  # it is a TestCase
        return [MeshRouter(port(), reach, table=self.table(), secret=SECRET) for _ in range(count)]

    def table(self) -> RedisTable:
        return RedisTable([redis.server() for redis in self.redises])

    def settle(self) -> Deferred[None]:
        found = Deferred.fromCoroutine(until(lambda: not any(router.waiting for router in self.routers)))
        return found.addCallback(lambda _: ClusteredContract.settle(self))

    def costs(self) -> tuple[int, int]:
        return 1, 0


class TestRedisTable(RedisContract, TestCase):
    """On one server."""


class TestRedisTables(RedisContract, TestCase):
    """On two, by hash."""

    servers = 2
