"""A Redis of a simulated world: as much of it as a route table asks for.

Strategy: `Keyspace` is the model: hashes, sets and strings with their times to live, and the table's scripts written in Python, so no Lua
runs here. The same tests hold it to a real Redis. `SimRedis` is the program around it, which speaks the protocol (RESP 2) on the world's
network. Killed, it comes back empty; stopped, it hangs, both as any process of a world. What only a Redis can do is done by whoever runs
the world: `flush`, `fail_over` to a replica that has not got the last second, a `delay` of each answer, and a `refusal` of everything.

    world.process("redis", SimRedis)
    RedisServer("redis:6379/0", HostnameEndpoint(process.reactor, "redis", 6379))
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from hashlib import sha1
from typing import TYPE_CHECKING, Any

from hiredis import ProtocolError, Reader
from twisted.application.service import Service
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.protocol import Factory, Protocol
from twisted.python.failure import Failure

from twisted_im.routing.table_redis_scripts import CHANGE, CLEAR, LOOK, REFRESHED, STRAY, run_keys, user_key

if TYPE_CHECKING:
    from twisted_im.sim.world import Process

PORT = 6379
#: Seconds of changes that are remembered, to be undone.
REMEMBERED = 5.0


class Refused(Exception):
    """An error that a command is answered with."""


class Keyspace:
    """The keys of one Redis.

    Args:
        clock: seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._values: dict[bytes, Any] = {}
        self._ends: dict[bytes, float] = {}
        self._undo: deque[tuple[float, bytes, Any, float | None]] = deque()
        self._scripts: dict[bytes, Callable[..., Any]] = {}

    # ---- keys

    def _get(self, key: bytes, empty: Any) -> Any:
        """A key's value, or what stands for none."""
        if self._ends.get(key, self._clock() + 1) <= self._clock():
            self._put(key, None)
        return self._values.get(key, empty)

    def _put(self, key: bytes, value: Any, *, life: float | None = None) -> None:
        """Changes a key; an empty value is none."""
        now = self._clock()
        while self._undo and self._undo[0][0] < now - REMEMBERED:
            self._undo.popleft()
        self._undo.append((now, key, self._values.get(key), self._ends.get(key)))
        if not value:
            self._values.pop(key, None)
            self._ends.pop(key, None)
            return
        self._values[key] = value
        if life is not None:
            self._ends[key] = now + life

    def _expire(self, key: bytes, life: bytes) -> None:
        value = self._get(key, None)
        if value is not None:
            self._put(key, value, life=float(life))

    def undo(self, seconds: float) -> None:
        """Forgets what was done in the last seconds."""
        while self._undo and self._undo[-1][0] > self._clock() - seconds:
            _, key, value, end = self._undo.pop()
            for table, old in ((self._values, value), (self._ends, end)):
                if old is None:
                    table.pop(key, None)
                else:
                    table[key] = old

    def contents(self) -> dict[bytes, Any]:
        """All keys; sets are dictionaries of None."""
        return {key: value for key in sorted(self._values) if (value := self._get(key, None)) is not None}

    # ---- commands

    def ask(self, *command: bytes) -> Any:
        """One command, and its answer.

        Raises:
            Refused: the answer is an error.
        """
        name, arguments = command[0].upper(), command[1:]
        if name == b"PING":
            return b"PONG"
        if name == b"FLUSHALL":
            for key in list(self._values):
                self._put(key, None)
            return b"OK"
        if name == b"SCRIPT" and arguments[0].upper() == b"LOAD":
            return self._load(arguments[1])
        if name == b"EVALSHA":
            script = self._scripts.get(arguments[0])
            if script is None:
                raise Refused("NOSCRIPT No matching script. Please use EVAL.")
            count = int(arguments[1])
            return script(arguments[2 : 2 + count], arguments[2 + count :])
        raise Refused(f"ERR unknown command '{command[0].decode('ascii', 'replace')}'")

    def _load(self, script: bytes) -> bytes:
        known = {CHANGE: self._change, REFRESHED: self._refreshed, CLEAR: self._clear, STRAY: self._stray, LOOK: self._look}
        if script not in known:
            raise Refused("ERR only the route table's scripts are simulated")
        digest = sha1(script, usedforsecurity=False).hexdigest().encode()
        self._scripts[digest] = known[script]
        return digest

    # ---- the table's scripts

    def _change(self, keys: Sequence[bytes], arguments: Sequence[bytes]) -> int:
        expected, version, life, boot, name, *rows = arguments
        if expected and self._get(keys[0], None) != expected:
            return 0
        self._put(keys[0], version, life=float(life))
        for user, device, session in zip(rows[::3], rows[1::3], rows[2::3], strict=True):
            key, field = user_key(user), boot + device + name
            fields, index = dict(self._get(key, {})), dict(self._get(keys[1], {}))
            if not session.startswith(b"-"):
                fields[field], index[device + user] = session, None
                self._put(key, fields, life=float(life))
                self._put(keys[1], index)
            elif fields.get(field) == session[1:]:
                del fields[field]
                index.pop(device + user, None)
                self._put(key, fields)
                self._put(keys[1], index)
        self._expire(keys[1], life)
        return 1

    def _refreshed(self, keys: Sequence[bytes], arguments: Sequence[bytes]) -> list[Any]:
        version, life, boot, name, mark, *rows = arguments
        whole = int(self._get(keys[0], None) == version)
        self._put(keys[2], {**self._get(keys[2], {}), boot + name: mark}, life=float(life))
        if whole:
            self._expire(keys[0], life)
            self._expire(keys[1], life)
            for user, device in zip(rows[::2], rows[1::2], strict=True):
                if boot + device + name in self._get(user_key(user), {}):
                    self._expire(user_key(user), life)
                else:
                    whole = -1
        return [whole, [part for pair in self._get(keys[2], {}).items() for part in pair]]

    def _clear(self, keys: Sequence[bytes], arguments: Sequence[bytes]) -> int:
        boot, name, count = arguments
        self._put(keys[0], None)
        index = dict(self._get(keys[1], {}))
        rows = list(index)[: int(count)]
        for row in rows:
            del index[row]
            self._drop(user_key(row[16:]), boot + row[:16] + name)
        self._put(keys[1], index)
        if not rows:
            self._drop(keys[2], boot + name)
        return len(rows)

    def _stray(self, keys: Sequence[bytes], arguments: Sequence[bytes]) -> int:
        name, *users = arguments
        gone = 0
        for user in users:
            for field in list(self._get(user_key(user), {})):
                if field[32:] == name:
                    self._drop(user_key(user), field)
                    self._drop(run_keys(field[:16])[1], field[16:32] + user)
                    gone += 1
        return gone

    def _look(self, keys: Sequence[bytes], arguments: Sequence[bytes]) -> list[list[bytes]]:
        return [list(self._get(user_key(user), {})) for user in arguments]

    def _drop(self, key: bytes, field: bytes) -> None:
        fields = dict(self._get(key, {}))
        if field in fields:
            del fields[field]
            self._put(key, fields)


class _Line(Protocol):
    """A client's connection."""

    def __init__(self, redis: SimRedis) -> None:
        self._redis = redis
        self._reader = Reader()
        self.answers: deque[bytes] = deque()

    def connectionMade(self) -> None:
        self._redis.lines[self] = None

    def dataReceived(self, data: bytes) -> None:
        self._reader.feed(data)
        try:
            while (command := self._reader.gets()) is not False:
                self._redis.take(self, command)
        except ProtocolError:
            self.transport.abortConnection()  # type: ignore[union-attr]  # it is connected

    def connectionLost(self, reason: Failure | None = None) -> None:
        self._redis.lines.pop(self, None)


class SimRedis(Service):
    """The program of a process.

    Attributes:
        keys: what it holds.
        lines: its clients.
        delay: seconds that each answer takes.
        refusal: the error that is the answer to everything; empty for none.
    """

    def __init__(self, process: Process) -> None:
        self._process = process
        self._port: Any = None
        self.keys = Keyspace(process.clock)
        self.lines: dict[_Line, None] = {}
        self.delay = 0.0
        self.refusal = b""
        self._pending: list[Any] = []

    def startService(self) -> None:
        super().startService()
        factory = Factory.forProtocol(lambda: _Line(self))
        factory.noisy = False
        self._port = self._process.reactor.listenTCP(PORT, factory)

    def stopService(self) -> Deferred[Any]:
        maybeDeferred(super().stopService)
        self._drop()
        for timer in self._pending:
            timer.cancel()
        return maybeDeferred(self._port.stopListening)

    def _drop(self) -> None:
        for line in list(self.lines):
            line.transport.abortConnection()  # type: ignore[union-attr]  # it is connected

    def take(self, line: _Line, command: list[bytes]) -> None:
        """A command has come: it is done now, and answered when it is time."""
        try:
            if self.refusal:
                raise Refused(self.refusal.decode())
            answer = encoded(self.keys.ask(*command))
        except Refused as error:
            answer = b"-%s\r\n" % str(error).encode()
        line.answers.append(answer)
        self._pending.append(self._process.reactor.callLater(self.delay, self._answer, line))

    def _answer(self, line: _Line) -> None:
        self._pending = [timer for timer in self._pending if timer.active()]
        answer = line.answers.popleft()  # in the order of the questions, whatever comes first of what falls on one moment
        if line in self.lines:
            line.transport.write(answer)  # type: ignore[union-attr]  # the same

    # ---- what may happen to it

    def flush(self) -> None:
        """Somebody empties it."""
        self.keys.ask(b"FLUSHALL")

    def fail_over(self, lost: float = 1.0) -> None:
        """A replica takes its place, which has not got the last seconds; clients connect again."""
        self.keys.undo(lost)
        self._drop()


def encoded(answer: Any) -> bytes:
    """An answer as its bytes (RESP 2)."""
    if isinstance(answer, int):
        return b":%d\r\n" % answer
    if isinstance(answer, bytes):
        return b"$%d\r\n%s\r\n" % (len(answer), answer)
    return b"*%d\r\n" % len(answer) + b"".join(map(encoded, answer))
