"""URLs of a route table: what they say, what is wrong with them, and a server behind TLS."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
from twisted.internet import reactor
from twisted.internet.defer import maybeDeferred
from twisted.internet.endpoints import UNIXClientEndpoint, connectProtocol, serverFromString
from twisted.internet.protocol import Factory, Protocol
from twisted.trial.unittest import TestCase

from tests.redises import Redis
from tests.routing.contract import ALICE, Up
from tests.running import certificate
from tests.twistd import DEADLINE, ENVIRONMENT, TWISTD, started
from twisted_im.edge.redis import redis_server, usable_redis, without_password
from twisted_im.routing import table_redis
from twisted_im.routing.table_redis import RedisTable
from twisted_im.routing.table_redis_scripts import NODES

#: twistd in a process that takes no Redis for away because the machine is busy.
PATIENT = [
    *TWISTD[:-1],
    f"from twisted_im.routing import table_redis; table_redis.ANSWER = 30.0; {TWISTD[-1]}",
]


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("redis://redis-1", ("redis-1:6379/0", "", "", 0)),
        ("redis://im:s%2Fcret@redis-1:7000/3", ("redis-1:7000/3", "im", "s/cret", 3)),
        ("redis://:secret@[::1]:7000/", ("[::1]:7000/0", "", "secret", 0)),
        ("rediss://REDIS-1:6380", ("redis-1:6380/0", "", "", 0)),
        ("unix:///run/redis.sock?db=2", ("unix:/run/redis.sock/2", "", "", 2)),
        ("unix://im:a@/run/redis.sock", ("unix:/run/redis.sock/0", "im", "a", 0)),
    ],
)
def test_urls(url: str, said: tuple[str, str, str, int]) -> None:
    """If this fails, a URL that other programs take leads to another server, database or user."""
    server = redis_server(reactor, url)
    assert (server.name, server.username, server.password, server.database) == said
    usable_redis(url)


@pytest.mark.parametrize(
    "url",
    ["", "redis-1:6379", "http://redis-1", "redis://", "redis://x:99999", "redis://x/one", "redis://x?db=1", "unix://run/x", "unix:///x?db=a",
     "redis://x?ca=y", "redis://x#1", "redis://[::1", "redis://im:secret@x:port"],
)  # fmt: skip
def test_what_is_no_url(url: str) -> None:
    """If this fails, a mistake on the command line is a traceback, or shows a password in a log."""
    with pytest.raises(ValueError, match="is no Redis: write redis://user:password@host:6379/0") as said:
        usable_redis(url)
    assert "secret" not in str(said.value)


def test_passwords_are_not_shown(tmp_path: Path) -> None:
    """If this fails, `--check-config` and the log tell passwords to whoever reads them; or an authority that is none is a traceback."""
    assert without_password("redis://im:se@cret@redis-1/0") == "redis://im:…@redis-1/0"
    assert without_password("redis://im@redis-1/0") == "redis://im@redis-1/0"
    with pytest.raises(FileNotFoundError):
        usable_redis(f"rediss://x?ca={tmp_path}/none.pem")
    (tmp_path / "none.pem").write_text("nothing")
    with pytest.raises(ValueError, match=r"none\.pem: it holds no certificate of an authority"):
        usable_redis(f"rediss://x?ca={tmp_path}/none.pem")


class Passed(Protocol):
    """One side of a connection that is passed on, to where an endpoint leads or from the other side."""

    def __init__(self, to: Any) -> None:
        self._to = to
        self._other: Any = None
        self._early = b""

    def connectionMade(self) -> None:
        if isinstance(self._to, Passed):
            self._other, self._to._other = self._to, self
            self.transport.write(self._to._early)
        else:
            connectProtocol(self._to, Passed(self))

    def dataReceived(self, data: bytes) -> None:
        if self._other is None:
            self._early += data
        else:
            self._other.transport.write(data)

    def connectionLost(self, reason: Any = None) -> None:
        if self._other is not None:
            self._other.transport.loseConnection()


class TestTls(TestCase):
    """A server behind TLS."""

    timeout = 180

    async def test_its_certificate_is_checked(self) -> None:
        """If this fails, `rediss://` does not work, or takes whoever answers for the server."""
        redis = Redis()
        self.addCleanup(redis.close)
        pem = certificate()
        ssl = serverFromString(reactor, f"ssl:0:interface=127.0.0.1:privateKey={pem}:certKey={pem}")
        port = await ssl.listen(Factory.forProtocol(lambda: Passed(UNIXClientEndpoint(reactor, str(redis.path)))))
        self.addCleanup(port.stopListening)
        doubts = []
        for query, patience in ((f"?ca={pem}", 30.0), ("", table_redis.ANSWER)):
            self.patch(table_redis, "ANSWER", patience)
            up = Up([])
            self.addCleanup(up.turn.stop)
            table = RedisTable([redis_server(reactor, f"rediss://localhost:{port.getHost().port}{query}")])
            await table.start(up)
            if not up.doubts:
                assert await table.nodes_of([ALICE]) == {}
            doubts.append(len(up.doubts))
            await maybeDeferred(table.stop)
        assert doubts == [0, 1]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--table=redis://im:secret@x/y"], "--table: 'redis://im:…@x/y' is no Redis: write redis://user:password@host:6379/0"),
        (["--table=rediss://x?ca=none.pem"], "--table: none.pem: No such file or directory"),
        (["--table=redis://x", "--table=memory"], "--table: memory or URLs of Redis, and not both"),
        (["--table=redis://x", "--table=redis://:pw@x:6379/0"], "--table: a route table in Redis wants at least one server, and each once"),
        (["--table=redis://x", "--via=route-server"], "--table: with --via=route-server the route servers have the table"),
        (["--table=redis://x", "--strategy=single"], "--table means something only with --strategy=routed"),
    ],
)
def test_a_mistake_is_one_line(flags: list[str], said: str, tmp_path: Path) -> None:
    """If this fails, who mistypes where the table is gets a traceback, or a node that looks for sessions elsewhere."""
    words = [*TWISTD, "-n", "--pidfile=", "im", "--listen=tcp:0", "--auth=anonymous", "--strategy=routed", *flags]
    outcome = subprocess.run(words, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=DEADLINE, check=False)
    assert (outcome.returncode, outcome.stderr.count("\n")) == (1, 1), outcome.stderr
    assert outcome.stderr.startswith(f"twisted_im: {said}")


def test_nodes_find_the_table(tmp_path: Path) -> None:
    """If this fails, `--table` is taken and not used, or shows its password."""
    redis = Redis("--requirepass", "s3cret")
    try:
        words = [*PATIENT, "-n", "--pidfile=", "im", "--listen=tcp:0", "--auth=anonymous", "--strategy=routed", "--store=sqlite"]
        words.append(f"--table=unix://:s3cret@{redis.path}")
        checked = subprocess.run(
            [*words, "--check-config"], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=DEADLINE, check=False
        )
        with started(words, tmp_path) as server:
            assert server.stdout is not None
            lines = [next(server.stdout)]
            while "another node joins" not in lines[-1]:
                lines.append(next(server.stdout))
            nodes = redis.ask("HKEYS", NODES, password="s3cret")
        assert [node[16:] for node in nodes] == [b"node"]
        assert "table" in checked.stdout
        assert "s3cret" not in checked.stdout + "".join(lines)
        assert "away" not in "".join(lines)
    finally:
        redis.close()
