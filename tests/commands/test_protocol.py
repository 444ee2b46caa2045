"""The specification and its vectors: up to date, true to the declarations, and true to a running node.

Strategy: the files in docs/ are read as an outsider has them. Every vector is decoded and encoded again by construct and by the codec; all
that should be refused is sent to a real node over a real socket, in the state that the vector names, and the answer is compared.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

import pytest
from construct import Bytes, FormatField, GreedyRange, Rebuild, Struct, Terminated
from twisted.internet import reactor
from twisted.internet.defer import Deferred, DeferredQueue, inlineCallbacks
from twisted.internet.endpoints import clientFromString, connectProtocol
from twisted.internet.protocol import Protocol
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from twisted_im.commands import protocol
from twisted_im.core.connection import State
from twisted_im.errors import DISCONNECT_HELP, Disconnect, Status
from twisted_im.routing.single import SingleRouter
from twisted_im.server.interfaces import Credentials
from twisted_im.service import ImServer
from twisted_im.storage.memory import MemoryStore
from twisted_im.wire import schema
from twisted_im.wire.codec import CODECS, ERROR, request, tag
from twisted_im.wire.framing import Frame, FrameReader
from twisted_im.wire.schema import FRAMES, HEADER_SIZE, Command, Header, Kind, bare

DOCS = Path(__file__).parent.parent.parent / "docs"
VECTORS = json.loads((DOCS / "vectors.json").read_text(encoding="utf-8"))
IN_ORDER = {vector["name"]: vector for vector in VECTORS["frames"] + VECTORS["links"] + VECTORS["errors"]}


def run(*words: str) -> int:
    parser = argparse.ArgumentParser()
    protocol.add_arguments(parser)
    return protocol.run(parser.parse_args(words))


# ---- the files


def test_nothing_is_stale(capsys: pytest.CaptureFixture[str]) -> None:
    """If this fails, people write clients from a specification of something else: run `python -m twisted_im protocol`."""
    status = run("--check", "--out", str(DOCS))
    assert (status, capsys.readouterr().out) == (0, "nothing is stale\n")


def test_what_is_stale_is_named_and_mended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """If this fails, the check passes whatever the files hold, or its message does not say what to do."""
    assert run("--check", "--out", str(tmp_path)) == 1
    assert run("--out", str(tmp_path)) == 0
    (tmp_path / "vectors.json").write_text("{}")
    capsys.readouterr()
    assert run("--check", "--out", str(tmp_path)) == 1
    said = capsys.readouterr().out
    assert said.count("\n") == 1
    assert "vectors.json" in said
    assert "protocol.md" not in said
    assert run("--out", str(tmp_path)) == 0
    assert run("--check", "--out", str(tmp_path)) == 0
    assert run("--out", str(tmp_path / "missing")) == 1
    assert "missing" in capsys.readouterr().err


def test_page_names_only_what_there_is() -> None:
    """If this fails, the specification tells of a command or a code that no server has, or leaves one out."""
    page = (DOCS / "protocol.md").read_text(encoding="utf-8")
    enums = [value for value in vars(schema).values() if isinstance(value, type(Kind))] + [Status, Disconnect]
    known = {member.name for enum in enums for member in enum} | {name for name in vars(schema) if name.isupper()}
    named = set(re.findall(r"`([A-Z][A-Z_]+)`", page))
    assert named <= known
    assert {member.name for enum in (Status, Disconnect) for member in enum} <= named
    assert all(f"### {command.name} 0x{command:04x}\n" in page for command in Command)
    assert not re.search(r"\$[A-Za-z_]", page)


def test_annotated_bytes_are_the_vectors() -> None:
    """If this fails, the example that everybody types in first does not work."""
    page = (DOCS / "protocol.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```text\n(?:C → S|S → C)(.*?)```", page, re.DOTALL)
    line = re.compile(r"^  [0-9a-f]{4}  ((?:[0-9a-f]{2}(?: (?=[0-9a-f]))?)+)", re.MULTILINE)
    shown = {"".join(line.findall(block)).replace(" ", "") for block in blocks}
    assert {name for name, vector in IN_ORDER.items() if vector["hex"] in shown} >= {"login-request", "login-response", "message-notify"}
    assert len(shown) == len(blocks) > 8
    assert shown <= {vector["hex"] for vector in IN_ORDER.values()}


# ---- the vectors that are in order


def values(declaration: Any, plain: dict[str, Any]) -> dict[str, Any]:
    """A body's values, as the page says that JSON has them."""
    found: dict[str, Any] = {}
    for field in declaration.subcons:
        con = bare(field)
        if isinstance(con, Rebuild):
            continue
        value = plain[field.name]
        if isinstance(con, GreedyRange):
            found[field.name] = [values(con.subcon.subcon, row) for row in value]
        elif isinstance(con, FormatField):
            assert isinstance(value, str if con.length == 8 else int)
            found[field.name] = int(value)
        else:
            assert con is schema.GreedyBytes or isinstance(con, Bytes)
            found[field.name] = bytes.fromhex(value)
    assert set(found) == set(plain)
    return found


@pytest.mark.parametrize("name", IN_ORDER)
def test_vector_reads_and_writes_alike(name: str) -> None:
    """If this fails, somebody who tests a client by the vectors mends what was right."""
    vector = IN_ORDER[name]
    data = bytes.fromhex(vector["hex"])
    key = Kind(vector["kind"]), Command(vector["command"])
    declaration, codec = (schema.Error, ERROR) if vector["status"] else (FRAMES[key][0], CODECS[key])
    wanted = values(declaration, vector["body"])
    body = data[HEADER_SIZE:]

    header = {name: vector[name] for name in ("kind", "command", "request_id", "flags", "status")}
    assert Header.build({"length": len(body), "version": 1, **header}) == data[:HEADER_SIZE]
    assert declaration.build(wanted) == codec.write(**wanted) == body
    parsed = Struct(*declaration.subcons, Terminated).parse(body)
    read = codec.read(body)._asdict()
    for field, value in wanted.items():
        if isinstance(value, list):
            assert [row._asdict() for row in read[field]] == value
            assert [{key: row[key] for key in one} for row, one in zip(parsed[field], value, strict=True)] == value
        else:
            assert read[field] == parsed[field] == value
    word = header["flags"] << 16 | header["status"]
    assert FrameReader(schema.DEFAULT_MAX_BODY).feed(data) == [(tag(*key), header["request_id"], word, body)]


def test_every_frame_and_every_error_has_a_vector() -> None:
    """If this fails, part of the protocol can only be tried against a server."""
    assert {(v["kind"], v["command"]) for v in VECTORS["frames"] + VECTORS["links"]} == set(FRAMES)
    assert {v["command"] for v in VECTORS["links"]} == set(schema.LINKS) & set(Command), "clients need none of these"
    assert not {v["command"] for v in VECTORS["frames"]} & set(schema.LINKS)
    assert {v["status"] for v in VECTORS["errors"]} == set(Status) - {Status.OK}
    assert len(IN_ORDER) == len(VECTORS["frames"]) + len(VECTORS["links"]) + len(VECTORS["errors"])
    rows = [row for v in VECTORS["frames"] for field in v["body"].values() if isinstance(field, list) for row in [len(field)]]
    assert {0, 2} <= set(rows)


# ---- the others, at a node


class Client(Protocol):
    """A plain client: the frames that come, and the end."""

    def __init__(self) -> None:
        self.reader = FrameReader(schema.DEFAULT_MAX_BODY)
        self.frames: DeferredQueue[Frame | None] = DeferredQueue()
        self.gone: Deferred[None] = Deferred()

    def dataReceived(self, data: bytes) -> None:
        for frame in self.reader.feed(data):
            self.frames.put(frame)

    def connectionLost(self, reason: Failure = None) -> None:  # type: ignore[assignment]  # Twisted's own default
        self.frames.put(None)
        self.gone.callback(None)

    @inlineCallbacks
    def ask(self, data: bytes) -> Any:
        self.transport.write(data)
        return (yield self.frames.get())


class RefusedVectors(TestCase):
    """What is not in order gets the answer that the vectors promise."""

    timeout = 180

    @inlineCallbacks
    def setUp(self) -> Any:
        def authenticate(credentials: Credentials) -> bool:
            return credentials.secret == b"correct horse"

        self.server = ImServer(
            store=MemoryStore(), router=SingleRouter(), authenticator=authenticate, listen=["tcp:0:interface=127.0.0.1"], reactor=reactor
        )
        self.server.startService()
        self.addCleanup(self.server.stopService)
        yield self.server.started

    @inlineCallbacks
    def connected(self, state: State) -> Any:
        endpoint = clientFromString(reactor, f"tcp:{self.server.addresses[0]}")
        client = yield connectProtocol(endpoint, Client())
        for name in {State.START: (), State.GREETED: ("hello",), State.OPEN: ("hello", "login")}[state]:
            answer = yield client.ask(bytes.fromhex(IN_ORDER[f"{name}-request"]["hex"]))
            self.assertEqual(answer[2], Status.OK)
        return client

    @inlineCallbacks
    def test_each(self) -> Any:
        """If this fails, a server answers bad input otherwise than the specification says, and clients cannot tell what they did wrong."""
        wrong = []
        for vector in VECTORS["refused"]:
            watched = yield self.connected(State.GREETED)
            client = yield self.connected(State(vector["state"]))
            try:
                yield self.judged(vector, client)
                alive = yield watched.ask(request(Command.PING, 1))
                self.assertEqual(alive[0], tag(Kind.RESPONSE, Command.PING), "another connection noticed")
            except self.failureException as error:
                wrong.append(f"{vector['name']}: {error}")
            for each in (client, watched):
                each.transport.loseConnection()
                yield each.gone
        self.assertEqual(wrong, [])
        self.assertEqual(self.flushLoggedErrors(), [])

    @inlineCallbacks
    def judged(self, vector: dict[str, Any], client: Client) -> Any:
        data, promised = bytes.fromhex(vector["hex"]), vector["answer"]
        if vector["name"] == "half-a-header":  # nothing comes, until the other half has come
            client.transport.write(data)
            answer = yield client.ask(bytes(HEADER_SIZE - len(data)))
            self.assertEqual(answer[2], Status.BAD_BODY)
        elif "nothing" in promised:
            answer = yield client.ask(data + request(Command.PING, 3))
            self.assertEqual(answer[:2], (tag(Kind.RESPONSE, Command.PING), 3))
        elif "status" in promised:
            answer = yield client.ask(data)
            asked = Header.parse(data)
            self.assertEqual(answer[:3], (tag(Kind.RESPONSE, asked.command), asked.request_id, promised["status"]))
            ERROR.read(answer[3])
            alive = IN_ORDER["hello-request" if vector["state"] == "start" else "ping-request"]
            again = yield client.ask(bytes.fromhex(alive["hex"]))
            self.assertEqual(again[2], Status.OK, "the connection lives")
        else:
            answer = yield client.ask(data)
            self.assertEqual(answer[0], tag(Kind.NOTIFY, Command.DISCONNECT))
            said = CODECS[Kind.NOTIFY, Command.DISCONNECT].read(answer[3])
            self.assertEqual((said.code, said.come_back), (promised["disconnect"], DISCONNECT_HELP[said.code][0]))
            end = yield client.frames.get()
            self.assertIsNone(end, "it was the last frame")
