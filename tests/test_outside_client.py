"""Holds the specification to its word: a client that knows nothing but docs/protocol.md talks to a real server.

Strategy: the server is started as an operator starts it, in a process of its own, and is seen only through its sockets and its log. The
client is `outside_client.py`. What it takes from the vectors of docs/vectors.json, it reads and writes with its own code, and what the
page says of bad input is tried on the server. Every wait has a deadline, and the server is stopped in any case.
"""

from __future__ import annotations

import ipaddress
import json
import os
import queue
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests import outside_client as im
from tests.outside_client import Disconnected, Kept, OutsideClient, Refused
from twisted_im.leash import leashed

ROOT = Path(__file__).parent.parent
VECTORS = json.loads((ROOT / "docs" / "vectors.json").read_text(encoding="utf-8"))
PATIENCE = 60.0  # seconds for a process to start or to end
SHORT = 0.2  # seconds in which nothing should come


@contextmanager
def server(folder: Path, *options: str) -> Iterator[tuple[int, Callable[[], None]]]:
    """A server in a process of its own; gives its port, and what ends it early."""
    twistd = [sys.executable, "-c", "from twisted.scripts.twistd import run; run()"]
    command = leashed(os.getpid(), [*twistd, "-n", "--pidfile=", "im", "--auth=anonymous", *options])
    around = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])}
    lines: queue.Queue[str] = queue.Queue()
    with subprocess.Popen(command, cwd=folder, env=around, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:

        def read() -> None:
            for line in process.stdout or ():
                lines.put(line)
            lines.put("")

        reader = threading.Thread(target=read, daemon=True)
        stopped = threading.Event()

        def stop() -> None:
            if not stopped.is_set():  # a second signal would kill it
                stopped.set()
                process.terminate()

        try:
            reader.start()
            yield listening(lines), stop
        finally:
            stop()
            try:
                process.wait(PATIENCE)
            finally:
                process.kill()
                reader.join(PATIENCE)
    assert process.returncode == 0


def listening(lines: queue.Queue[str]) -> int:
    """The port, as soon as the log has it."""
    said = ""
    while line := lines.get(timeout=PATIENCE):
        said += line
        if line.startswith("{") and (event := json.loads(line)).get("event") == "listening":
            return int(event["address"].rpartition(":")[2])
    raise AssertionError(f"the server has ended: {said}")


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with server(tmp_path_factory.mktemp("server"), "--listen=tcp:0") as (found, _):
        yield found


@pytest.fixture
def enter(port: int) -> Iterator[Any]:
    """Connects, greets, and logs in if there is a name; what is still connected at the end is closed."""
    with ExitStack() as stack:

        def enter(uid: str = "", kept: Kept | None = None, **wishes: int) -> OutsideClient:
            client = stack.enter_context(closing(OutsideClient(im.connect("127.0.0.1", port))))
            client.hello(**wishes)
            if uid:
                client.login(uid, kept or Kept(), label=f"{uid}'s")
            return client

        yield enter


def refusal(ask: Any, *arguments: Any, **values: Any) -> int:
    """The status that something is refused with."""
    with pytest.raises(Refused) as caught:
        ask(*arguments, **values)
    return caught.value.status


def contents(client: OutsideClient) -> list[bytes]:
    """What a person has been shown."""
    return [row.content for row in client.kept.rows]


def silent(client: OutsideClient) -> bool:
    """Whether nothing more comes for a moment."""
    with pytest.raises(TimeoutError):
        client.receive(timeout=SHORT)
    return True


# ---- against a server


def test_two_users_exchange_messages_by_six_packets(enter: Any) -> None:
    """If this fails, a client in another language cannot do what messaging is for: write, be accepted, be received, see it delivered
    and read."""
    alice, bob = enter("alice"), enter("bob")
    accepted = alice.send("bob", b"Hello, Bob")  # 1, 2
    row = bob.receive(im.MESSAGE)  # 3
    assert (row.conversation, row.seq, row.time) == (accepted.conversation, accepted.seq, accepted.time)
    assert (row.sender, row.device, row.row_type, row.content_type) == (b"alice", alice.kept.device, 0, 1)

    bob.receipt(row.conversation, row.seq)  # 4, 5
    assert vars(alice.receive(im.RECEIPT)) == {"conversation": row.conversation, "seq": 1, "type": im.DELIVERED, "user": b"bob"}  # 6
    bob.receipt(row.conversation, row.seq, im.READ)
    assert vars(alice.receive(im.RECEIPT)) == {"conversation": row.conversation, "seq": 1, "type": im.READ, "user": b"bob"}

    answer = bob.send(row.conversation, "Café 🦀".encode())
    assert answer.seq == 2
    alice.receive(im.MESSAGE)
    assert contents(alice) == contents(bob) == [b"Hello, Bob", "Café 🦀".encode()]
    assert alice.count == alice.acknowledged == 3
    assert abs(alice.ping() - bob.ping()) < 60_000


def test_a_device_that_was_away_finds_what_it_missed(enter: Any) -> None:
    """If this fails, who closes the lid of a laptop misses messages, or sees them twice or in another order."""
    kept = Kept()
    carol, dave, erin = enter("carol", kept), enter("dave"), enter("erin")
    dave.send("carol", b"d1")
    carol.receive(im.MESSAGE)
    carol.catch_up()
    carol.logout()
    assert carol.end.code == 0

    for number in (2, 3, 4, 5, 6):
        dave.send("carol", b"d%d" % number)
    erin.send("carol", b"e1")
    again = enter("carol", kept)
    dave.send("carol", b"d7")  # before the sync: it is pushed, and stands in the sync too
    changed = again.catch_up(limit=1)  # pages of one conversation, histories of one row
    assert {row.peer: (row.kind, row.head, row.floor, row.cursor) for row in changed} == {b"dave": (1, 7, 0, 0), b"erin": (1, 1, 0, 0)}
    again.receive(im.MESSAGE)
    erin.send("carol", b"e2")
    again.receive(im.MESSAGE)
    assert [one for one in contents(again) if one[:1] == b"d"] == [b"d1", b"d2", b"d3", b"d4", b"d5", b"d6", b"d7"]
    assert [one for one in contents(again) if one[:1] == b"e"] == [b"e1", b"e2"]

    where = changed[0].conversation
    again.receipt(where, 7, im.READ)
    assert [(row.conversation, row.cursor, row.read) for row in again.catch_up() if row.head == 7] == [(where, 7, 7)]
    dave.catch_up()
    assert dave.kept.marks[where, b"carol", im.DELIVERED] == dave.kept.marks[where, b"carol", im.READ] == 7


def test_history_covers_what_it_says(enter: Any) -> None:
    """If this fails, a person who scrolls up finds holes, or a client asks for the same rows for ever."""
    frank = enter("frank")
    where = frank.send("frank", b"1").conversation  # to oneself
    for number in range(2, 8):
        frank.send(where, b"%d" % number)

    def ask(*arguments: int) -> tuple[int, int, int, list[int]]:
        answer = frank.history(where, *arguments)
        return answer.first, answer.last, answer.head, [row.seq for row in answer.messages]

    assert ask(1) == (1, 7, 7, [1, 2, 3, 4, 5, 6, 7])
    assert ask(2, 6, 3) == (2, 4, 7, [2, 3, 4])
    assert ask(2, 6, 3, 1) == (4, 6, 7, [4, 5, 6])
    assert ask(1, im.HIGHEST, 2, 1) == (6, 7, 7, [6, 7])
    first, last, *rest = ask(8)
    assert last < first
    assert rest == [7, []]
    assert refusal(frank.history, where, 0) == im.BAD_VALUE


def test_the_largest_message_comes_back_from_history(enter: Any) -> None:
    """If this fails, a message that was accepted can never be read again by who was away."""
    gina = enter("gina")
    largest = gina.max_body - 256
    where = gina.send("gina", bytes(largest), content_type=3).conversation
    assert refusal(gina.send, "gina", bytes(largest + 1)) == im.TOO_LARGE
    gina.send("gina", b"small")
    gina.kept = Kept(gina.kept.device)
    gina.fill(where, 2)
    assert [len(one) for one in contents(gina)] == [largest, 5]


def test_the_same_client_id_is_the_same_message(enter: Any) -> None:
    """If this fails, a message whose answer was lost arrives twice, or another one is lost in its place."""
    kept = Kept()
    henry, ida = enter("henry", kept), enter("ida")
    client_id = henry.next_id()
    first = henry.send("ida", b"once", client_id)
    henry.close()
    henry = enter("henry", kept)
    assert vars(henry.send("ida", b"once", client_id)) == vars(first)
    assert refusal(henry.send, "ida", b"another", client_id) == im.CONFLICT
    assert refusal(henry.send, first.conversation, b"once", client_id) == im.CONFLICT
    assert refusal(henry.send, "ida", b"old", im.new_id(1)) == im.STALE_ID
    assert ida.receive().content == b"once"
    assert silent(ida)
    assert contents(henry) == [b"once"]


def test_requests_in_flight_keep_their_order(enter: Any) -> None:
    """If this fails, messages that are typed fast come out of order."""
    jack, kate = enter("jack"), enter("kate")
    plain = {"content_type": 1, "life": 0, **im.place("kate")}
    asked = [jack.request(im.MESSAGE, client_id=jack.next_id(), content=b"%d" % number, **plain) for number in range(100)]
    assert [jack.answer(one).seq for one in asked] == list(range(1, 101))
    while len(contents(kate)) < 100:
        kate.receive()
    assert contents(kate) == [b"%d" % number for number in range(100)]


def test_a_device_that_reads_slowly_is_told_to_sync(enter: Any) -> None:
    """If this fails, a client that acknowledges as the page says is stuck, or loses messages, after a burst."""
    lena, mark = enter("lena", window=2), enter("mark")
    for number in range(5):
        mark.send("lena", b"%d" % number)  # lena reads nothing meanwhile
    lena.receive(im.SYNC)
    assert lena.count == 3
    assert contents(lena) == [b"0", b"1", b"2", b"3", b"4"]
    mark.send("lena", b"live again")
    assert lena.receive().content == b"live again"
    assert lena.count == lena.acknowledged == 4


def test_devices_signals_and_the_ways_out(enter: Any) -> None:
    """If this fails, a lost phone cannot be locked out, two devices throw each other out for ever, or nobody sees who types."""
    phone, tablet = Kept(), Kept()
    first, second, peer = enter("nora", phone), enter("nora", tablet), enter("oscar")
    where = peer.send("nora", b"hi").conversation
    for device in (first, second):
        assert device.receive(im.MESSAGE).content == b"hi"

    first.signal(where, kind=1, lifetime=60_000)
    typing = peer.receive(im.SIGNAL)
    assert (typing.conversation, typing.head, typing.type, typing.sender, typing.device) == (where, 1, 1, b"nora", phone.device)
    assert 0 < typing.expires - peer.ping() <= 60_000
    assert second.receive(im.SIGNAL).sender == b"nora"
    peer.signal("nora", kind=3, content=b"?")
    assert [(got.conversation, got.head, got.content) for got in (first.receive(), second.receive())] == [(0, 0, b"?")] * 2

    first.receipt(where, 1, im.READ)
    assert vars(second.receive()) == vars(peer.receive()) == {"conversation": where, "seq": 1, "type": im.READ, "user": b"nora"}
    assert {row.device: (row.online, row.label) for row in first.devices()} == dict.fromkeys((phone.device, tablet.device), (1, b"nora's"))

    first.kick(tablet.device)
    assert (second.ended().code, second.ended().come_back) == (im.KICKED, False)
    second = enter("nora", tablet)
    first.remove(tablet.device)
    assert second.ended().code == im.KICKED
    assert [row.device for row in first.devices()] == [phone.device]
    assert refusal(first.remove, tablet.device) == im.NO_SUCH

    third = enter("nora", phone)
    assert (first.ended().code, first.ended().come_back) == (im.TAKEN_OVER, False)
    third.logout()
    assert third.end.code == 0


def test_errors_leave_the_connection_and_faults_end_it(enter: Any) -> None:
    """If this fails, a client that is written after the page takes a small error for the end, or waits on a connection that is dead."""
    paula = enter("paula")
    assert refusal(paula.ask, 0x7F01, b"?") == im.UNKNOWN_COMMAND
    assert refusal(paula.send, "nobody of that name", b"?") == im.NO_SUCH
    assert refusal(paula.ask, im.MESSAGE, b"?") == im.BAD_BODY
    assert refusal(paula.signal, "paula", content=bytes(1025)) == im.TOO_LARGE
    assert paula.ping() > 0

    paula.tell(im.WINDOW, count=1)
    with pytest.raises(Disconnected) as caught:
        paula.receive()
    assert (caught.value.code, caught.value.come_back) == (im.ACK_ABOVE_SENT, False)

    hasty = enter()
    with pytest.raises(Disconnected) as caught:
        hasty.send("paula", b"?")
    assert caught.value.code == im.UNEXPECTED


@pytest.mark.parametrize("vector", [one for one in VECTORS["refused"] if one["name"] != "login-secret"], ids=lambda one: one["name"])
def test_refused_vectors_are_refused_as_they_say(vector: dict[str, Any], enter: Any, port: int) -> None:
    """If this fails, what an implementer tests bad input against is not what the server does. (A wrong password needs a server that
    takes passwords.)"""
    if vector["state"] == "start":
        client = OutsideClient(im.connect("127.0.0.1", port))
    else:
        client = enter(*(["alice", Kept(bytes.fromhex("a1" * 16))] if vector["state"] == "open" else []))
    data, answer = bytes.fromhex(vector["hex"]), vector["answer"]
    with closing(client):
        client.write(data)
        if "disconnect" in answer:
            assert client.ended().code == answer["disconnect"]
        elif "status" in answer:
            _, _, _, command, request_id, _, _ = im.HEADER.unpack_from(data)
            client.expect(request_id, command)
            assert refusal(client.answer, request_id) == answer["status"]
        else:
            assert silent(client)


def test_tls_and_a_server_that_goes_down(tmp_path: Path) -> None:
    """If this fails, clients cannot come in by TLS, or do not learn that they should come back after a restart."""
    pem = certificate(tmp_path)
    kept = Kept()
    with server(tmp_path, f"--listen=ssl:0:privateKey={pem}:certKey={pem}") as (port, stop):
        trust = ssl.create_default_context(cafile=str(pem))
        client = OutsideClient(im.connect("127.0.0.1", port, trust))
        client.hello()
        client.login("quinn", kept)
        client.send("quinn", b"to myself, in secret")
        with pytest.raises(ssl.SSLCertVerificationError):
            im.connect("127.0.0.1", port, ssl.create_default_context())
        stop()
        end = client.ended()
    assert (end.code, end.come_back) == (im.SHUTTING_DOWN, True)
    assert contents(client) == [b"to myself, in secret"]


def certificate(folder: Path) -> Path:
    """A PEM file with a key and its certificate, for 127.0.0.1."""
    x509 = pytest.importorskip("cryptography.x509")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now - timedelta(days=1), now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    path = folder / "localhost.pem"
    path.write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()) + made.public_bytes(pem),
    )
    return path


# ---- without a server


def as_json(shape: im.Shape, values: SimpleNamespace) -> dict[str, Any]:
    """Values as the vectors write them."""
    found: dict[str, Any] = {}
    for name, value in vars(values).items():
        kind = shape.fields.get(name, "rows")
        if kind == "rows":
            found[name] = [as_json(shape.rows[1], row) for row in value]
        else:
            found[name] = value.hex() if isinstance(value, bytes) else str(value) if kind == "Q" else value
    return found


def from_json(shape: im.Shape, body: dict[str, Any]) -> dict[str, Any]:
    """And back."""
    found: dict[str, Any] = {}
    for name, value in body.items():
        kind = shape.fields.get(name, "rows")
        if kind == "rows":
            found[name] = [SimpleNamespace(**from_json(shape.rows[1], row)) for row in value]
        else:
            found[name] = value if isinstance(value, int) else int(value) if kind == "Q" else bytes.fromhex(value)
    return found


@pytest.mark.parametrize("vector", VECTORS["frames"] + VECTORS["errors"], ids=lambda one: one["name"])
def test_vectors_are_read_and_written_from_the_page_alone(vector: dict[str, Any]) -> None:
    """If this fails, tables and vectors of the documentation contradict each other, and nobody knows which to follow."""
    data = bytes.fromhex(vector["hex"])
    size, version, kind, command, request_id, flags, status = im.HEADER.unpack_from(data)
    shape = im.ERROR if status else im.BODIES[kind, command]
    body = data[im.HEADER.size :]
    assert (size, version) == (len(body), 1)
    assert [kind, command, request_id, flags, status] == [vector[name] for name in ("kind", "command", "request_id", "flags", "status")]
    assert as_json(shape, shape.read(body)) == vector["body"]
    assert shape.write(**from_json(shape, vector["body"])) == body


def test_every_shape_has_a_vector() -> None:
    """If this fails, a body of the protocol can be got wrong without any vector that shows it."""
    assert {(one["kind"], one["command"]) for one in VECTORS["frames"]} == set(im.BODIES)


@pytest.fixture
def scripted() -> Iterator[tuple[OutsideClient, socket.socket]]:
    """A client that is logged in at the other end of a pair of sockets, where a test writes what a server might."""
    ours, theirs = socket.socketpair()
    with closing(theirs), closing(OutsideClient(ours)) as client:
        theirs.settimeout(PATIENCE)
        theirs.sendall(found("frames", "hello-response"))
        client.hello()
        theirs.sendall(found("frames", "login-response"))
        client.login("alice", Kept())
        theirs.recv(65536)
        yield client, theirs


def found(part: str, name: str) -> bytes:
    """A vector's bytes."""
    return next(bytes.fromhex(one["hex"]) for one in VECTORS[part] if one["name"] == name)


def test_what_a_server_may_begin_is_answered(scripted: tuple[OutsideClient, socket.socket]) -> None:
    """If this fails, a client that is written after the page is thrown out as unresponsive, or by a server that is newer."""
    client, server = scripted
    server.sendall(im.frame(im.REQUEST, im.PING, 77, b"") + im.frame(im.REQUEST, 0x7F01, 78, b"?") + im.frame(im.NOTIFY, 0x7F02, 0, b"?"))
    assert silent(client)
    data = server.recv(65536)
    heads = []
    while data:
        size, _, *head = im.HEADER.unpack_from(data)
        heads.append(tuple(head[:3] + head[4:]))
        data = data[im.HEADER.size + size :]
    assert heads == [
        (im.RESPONSE, im.PING, 77, 0),
        (im.RESPONSE, 0x7F01, 78, im.UNKNOWN_COMMAND),
        (im.NOTIFY, im.WINDOW, 0, 0),  # the notify is unknown, and counts
    ]
    server.sendall(found("refused", "response-to-nothing"))
    with pytest.raises(Disconnected) as caught:
        client.receive()
    assert caught.value.code == im.UNEXPECTED


def test_rows_that_are_gone_are_not_waited_for(scripted: tuple[OutsideClient, socket.socket]) -> None:
    """If this fails, a client hangs at the first message that a server no longer has."""
    client, server = scripted
    plain = {"row_type": 0, "content_type": 1, "life": 0, "sender": b"bob"}
    row = {"conversation": 12, "time": 1, "device": bytes(16), "client_id": bytes(16), **plain}
    rows = [SimpleNamespace(**row, seq=seq, content=b"%d" % seq) for seq in (5, 8)]
    answer = im.BODIES[im.RESPONSE, im.HISTORY].write(first=1, last=7, head=8, floor=3, messages=rows[:1])
    server.sendall(im.frame(im.NOTIFY, im.MESSAGE, 0, im.ROW.write(**vars(rows[1]))) + im.frame(im.RESPONSE, im.HISTORY, 3, answer))
    client.expect(3, im.HISTORY)
    client.receive()
    assert contents(client) == [b"5", b"8"]
    assert client.kept.shown == {12: 8}
