"""The comparison with other people's servers: that each protocol is understood however it is cut, that losses would be noticed, that what
is measured is all of a server, and that a machine without the others is told how to get them.

Strategy: the protocols are tried without any server, by properties, since few machines have them; those servers that are there are
started and driven as the command does it, one for each protocol, the quickest to start.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from xml.sax.saxutils import escape

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.pages import BEGIN, END
from benchmarks.peers import BLOCK, OURS
from benchmarks.peers.known import KNOWN
from benchmarks.peers.loop import PROTOCOLS, Load, parser
from benchmarks.peers.mqtt import CONNACK, PUBACK, PUBLISH, SUBACK, MqttTalk, PacketReader, packet
from benchmarks.peers.nats import NatsTalk, OperationReader
from benchmarks.peers.process import Plan, free_port, started, tree, tree_cpu_seconds
from benchmarks.peers.talk import MIN_PAYLOAD, Talk, TalkError
from benchmarks.peers.wamp import FrameReader, WampTalk, coded, frame
from benchmarks.peers.xmpp import StreamReader, XmppTalk
from benchmarks.servers import ServerError, choose_cores, environment

ROOT = Path(__file__).parents[2]


def bench(*words: str) -> subprocess.CompletedProcess[str]:
    """Runs `python -m benchmarks peers`."""
    command = [sys.executable, "-m", "benchmarks", "peers", *words]
    return subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=300, check=False)


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    """The same bytes in pieces, cut where the numbers say."""
    at = sorted({cut % (len(data) + 1) for cut in cuts} | {0, len(data)})
    return [data[start:end] for start, end in pairwise(at)]


CUTS = st.lists(st.integers(0, 10_000), max_size=12)


@given(st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=400)), max_size=8), CUTS)
def test_mqtt_packets_survive_any_cut(packets: list[tuple[int, bytes]], cuts: list[int]) -> None:
    """If this fails, a run against an MQTT server ends with nonsense as soon as a packet comes in two segments."""
    reader = PacketReader()
    data = b"".join(packet(first, body) for first, body in packets)
    assert [found for piece in pieces(data, cuts) for found in reader.feed(piece)] == packets


@pytest.mark.parametrize("size", [0, 127, 128, 16_383, 16_384, 2_097_152])
def test_mqtt_lengths_are_those_of_the_standard(size: int) -> None:
    """If this fails, messages of some sizes cannot be sent to an MQTT server (table 2.4 of the standard has these bounds)."""
    coded = packet(PUBLISH, bytes(size))
    assert len(coded) - size == 2 + (size > 127) + (size > 16_383) + (size > 2_097_151)
    assert PacketReader().feed(coded) == [(PUBLISH, bytes(size))]
    with pytest.raises(TalkError, match="four bytes"):
        PacketReader().feed(b"\x30\xff\xff\xff\xff\x01")


LINES = st.sampled_from([b"PING", b"PONG", b"+OK", b"-ERR 'Slow Consumer'", b'INFO {"version":"2.9.10"}'])


@given(st.lists(st.one_of(LINES, st.binary(max_size=200)), max_size=8), CUTS)
def test_nats_operations_survive_any_cut(operations: list[bytes], cuts: list[int]) -> None:
    """If this fails, a run against NATS ends with nonsense when an operation comes in two segments, or a payload holds a line's end."""
    known = {b"PING", b"PONG", b"+OK", b"-ERR 'Slow Consumer'", b'INFO {"version":"2.9.10"}'}
    wanted = [(each, b"") if each in known else (b"MSG u000001 1 %d" % len(each), each) for each in operations]
    data = b"".join(line + b"\r\n" + (payload + b"\r\n" if line.startswith(b"MSG") else b"") for line, payload in wanted)
    reader = OperationReader()
    assert [found for piece in pieces(data, cuts) for found in reader.feed(piece)] == wanted


@given(st.lists(st.tuples(st.integers(0, 2), st.binary(max_size=300)), max_size=8), CUTS)
def test_wamp_frames_survive_any_cut(frames: list[tuple[int, bytes]], cuts: list[int]) -> None:
    """If this fails, a run against Crossbar ends with nonsense as soon as a frame comes in two segments."""
    reader = FrameReader()
    data = b"\x7f\xf1\0\0" + b"".join(frame(body, kind) for kind, body in frames)
    assert [found for piece in pieces(data, cuts) for found in reader.feed(piece)] == frames


TEXTS = st.text(st.characters(min_codepoint=32, exclude_categories=("Cs", "Cc", "Cn")), max_size=40)


@given(st.lists(TEXTS, max_size=6), CUTS)
def test_xml_stanzas_survive_any_cut(texts: list[str], cuts: list[int]) -> None:
    """If this fails, a run against an XMPP server ends with nonsense as soon as a stanza comes in two segments."""
    head = "<?xml version='1.0'?><s:stream xmlns='jabber:client' xmlns:s='http://etherx.jabber.org/streams'>"
    data = (head + "".join(f"<message id='{i}'><body>{escape(text)}</body><x/></message>" for i, text in enumerate(texts))).encode()
    reader = StreamReader()
    found = [element for piece in pieces(data, cuts) for element in reader.feed(piece)]
    assert [element.attributes["id"] for element in found] == [str(i) for i in range(len(texts))]
    assert [element.inner["jabber:client body"] for element in found] == texts


def relayed(protocol: str, sent: bytes) -> bytes:
    """What a server makes of a user's messages for its partner, by the documents of each protocol; written independently of the talks."""
    if protocol == "nats":
        return sent.replace(b"PUB u000001 ", b"MSG u000001 1 ")
    if protocol == "wamp":
        wrapped = [json.loads(body) for _, body in FrameReader().feed(b"\x7f\xf1\0\0" + sent)]
        return b"".join(coded(36, 7, 9, options, args) for _, _, options, _, args in wrapped)
    if protocol == "xmpp":
        return sent.replace(b"<message ", b"<message xml:lang='en' from='u000000@localhost/load' ")
    return sent


def greeting(protocol: str) -> bytes:
    """What a server says before any message."""
    return {
        "nats": b'INFO {"max_payload":1048576}\r\nPONG\r\n',
        "wamp": b"\x7f\xf1\0\0" + coded(2, 1, {}) + coded(33, 1, 7),
        "mqtt-qos0": packet(CONNACK, b"\0\0") + packet(SUBACK, b"\0\1\0"),
        "mqtt-qos1": packet(CONNACK, b"\0\0") + packet(SUBACK, b"\0\1\1"),
        "xmpp": b"<stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' version='1.0'>",
    }[protocol]


@pytest.mark.parametrize("protocol", sorted(PROTOCOLS))
@given(st.integers(1, 200_000), st.integers(0, 20), st.integers(MIN_PAYLOAD, 300), CUTS)
def test_messages_arrive_as_their_numbers(protocol: str, first: int, count: int, payload: int, cuts: list[int]) -> None:
    """If this fails, the load cannot tell which messages a server has delivered, and takes losses for deliveries or the other way round."""
    writer, reader = PROTOCOLS[protocol](0, payload), PROTOCOLS[protocol](1, payload)
    out: list[bytes] = []
    assert reader.feed(greeting(protocol), out) == []
    data = relayed(protocol, writer.messages(first, count))
    out.clear()
    found = [number for piece in pieces(data, cuts) if piece for number in reader.feed(piece, out)]
    assert found == list(range(first, first + count))
    if protocol == "mqtt-qos1":  # each message has its own acknowledgement, and each of those counts once
        writer.feed(b"".join(out), [])
        assert (len(out), writer.acked) == (count, count)
        assert all(each[0] == PUBACK for each in out)
    if protocol == "xmpp":  # one answer for each question
        answers = b"".join(out)
        assert answers.count(b"<a ") >= 1
        assert answers.endswith(b" h='%d'/>" % count)


@pytest.mark.parametrize(
    ("talk", "said"),
    [
        (MqttTalk(1, 100, 1), packet(CONNACK, b"\0\5")),
        (MqttTalk(1, 100, 1), packet(SUBACK, b"\0\1\x80")),
        (MqttTalk(1, 100, 0), MqttTalk(0, 99, 0).messages(1, 1)),
        (NatsTalk(1, 100), b"-ERR 'Authorization Violation'\r\n"),
        (NatsTalk(1, 20), b"MSG u000001 1 20\r\n" + bytes(20) + b"\r\n"),
        (WampTalk(1, 100), b"\x7f\x10\0\0"),
        (WampTalk(1, 100), b"\x7f\xf1\0\0" + coded(3, {}, "wamp.error.no_such_realm")),
        (XmppTalk(1, 100), b"<s xmlns='jabber:client'><iq type='error' id='register'/>"),
        (XmppTalk(1, 100), b"<s></s>"),
        (XmppTalk(1, 100), b"HTTP/1.1 400 Bad Request\r\n"),
    ],
)
def test_refusals_end_a_run(talk: Talk, said: bytes) -> None:
    """If this fails, a server that refuses logins or changes contents is waited for, or gets good figures."""
    with pytest.raises(TalkError):
        talk.feed(said, [])


def test_losses_and_doubles_are_counted() -> None:
    """If this fails, a server that loses, doubles or swaps messages gets good figures."""
    load = Load(parser().parse_args(["--protocol=nats", "--port=1", "--pid=1", "--users=2", "--window=4"]))
    user = load.users[1]
    load.take(user, [1, 2, 2])
    assert (load.delivered, load.duplicates, load.faults) == (2, 1, 0)
    load.take(user, [4])
    assert (load.delivered, load.faults, load.first_fault) == (3, 1, "user 1: message 4, where 3 was expected")
    load.take(user, [3])
    assert (load.delivered, load.duplicates) == (3, 2)
    load.close()


def test_whole_server_is_measured_and_ended(tmp_path: Path) -> None:
    """If this fails, a server of several processes looks cheaper than it is, or some of them go on after the benchmark."""
    burn = "import os; os.fork() or [None for _ in iter(int, 1)]; print('toy 1.5', flush=True)"
    serve = f"{burn}; import socket, sys; s = socket.create_server(('127.0.0.1', int(sys.argv[1]))); [s.accept() for _ in iter(int, 1)]"
    port = free_port()
    plan = Plan([sys.executable, "-c", serve, str(port)], {"settings": "none"}, {}, r"toy (\S+)")
    with started("toy", plan, port, choose_cores().server, tmp_path) as peer:
        pids = tree(peer.pid)
        assert (len(pids), peer.version, (tmp_path / "settings").read_text()) == (2, "1.5", "none")
        before = tree_cpu_seconds(peer.pid)
        deadline = time.monotonic() + 30
        while tree_cpu_seconds(peer.pid) < before + 0.1:  # the child burns, the parent waits
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert not any(Path(f"/proc/{pid}/exe").exists() for pid in pids)
    plan = Plan([sys.executable, "-c", "print('alas'); raise SystemExit(3)"], {}, {}, r"toy (\S+)")
    with pytest.raises(ServerError, match=r"ended with status 3(.|\n)*alas"), started("toy", plan, port, choose_cores().server, tmp_path):
        pytest.fail("it was taken for a server")


def quickest() -> list[str]:
    """The peers that start within a second, one for each protocol, as far as they are installed."""
    return [name for name in ("nats", "prosody", "mosquitto-qos1") if not KNOWN[name].missing()]


def test_short_run_gives_every_figure(tmp_path: Path) -> None:
    """If this fails, an architect who compares gets no figures, or some of servers that lose messages. Ours is always measured; others are
    where they are installed."""
    page, figures = tmp_path / "page.md", tmp_path / "figures.json"
    page.write_text(f"before\n\n{BEGIN.format(BLOCK)}\nold\n{END.format(BLOCK)}\n\nafter\n")
    peers = quickest() or ["nats", "mosquitto-qos1"]
    outcome = bench("--quick", "--seconds=0.1", "--warmup=0.1", f"--peers={','.join(peers)}", "--json", str(figures), "--page", str(page))
    assert outcome.returncode == 0, outcome.stderr
    told = json.loads(figures.read_text())
    rows = told["rows"]
    stores = {KNOWN[name].beside for name in peers}
    assert sorted(row["server"] for row in rows) == sorted([OURS] * len(stores) + quickest())
    for row in rows:
        assert all(row[name] for name in ("version", "promise", "packets", "delivered_per_s", "speed_to_ours", "p50_ms"))
        assert row["cpu_us_per_message"] >= 0  # a starved server may not have used up a clock tick
        assert row.keys() >= {"ratio_to_ours", "p99_ms", "rss_kib_per_connection", "load_core_share", "runs"}
    assert all(row["speed_to_ours"] == 1 for row in rows if row["server"] == OURS)
    text = page.read_text()
    assert text.startswith(f"before\n\n{BEGIN.format(BLOCK)}\n\n| ")
    assert text.endswith(f"{END.format(BLOCK)}\n\nafter\n")
    assert "old" not in text
    assert all(row["title"] in text for row in rows)
    assert told["machine"] in text


def test_missing_peer_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """If this fails, somebody without the other servers gets a traceback, or cannot find out how to install them."""
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr("benchmarks.peers.known.SERVER_PATHS", "/nowhere")
    for name, known in KNOWN.items():
        line = known.missing()
        if name.startswith(("mosquitto", "nats", "prosody")):
            program = known.product.programs[0]
            assert line.startswith(f"{known.title}: {program} not found; to install: apt-get install ")
        assert "\n" not in line


def test_interrupted_run_shows_what_it_has(tmp_path: Path) -> None:
    """If this fails, Ctrl-C throws away all that was measured, or leaves servers behind."""
    command = [sys.executable, "-m", "benchmarks", "peers", "--quick", "--seconds=0.2", "--repeat=1000", "--peers=nats"]
    command += ["--data", str(tmp_path)]
    with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert process.stdout is not None
        for line in process.stderr:
            if line.startswith("1/"):
                break
        children = tree(process.pid)[1:]
        process.send_signal(signal.SIGINT)
        table, rest = process.stdout.read(), process.stderr.read()
        assert process.wait(30) == 130
    assert f"{OURS}, memory" in table
    assert "nothing is left running" in rest
    assert not any(Path(f"/proc/{pid}/exe").exists() for pid in children)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "advice"),
    [
        (["--peers", "pigeons"], "takes crossbar"),
        (["--payload", "3"], "from 16 to"),
        (["--window", "8,none"], "from 1 to 1000, not 'none'"),
        (["--json", "/nowhere/figures.json"], "a folder that exists"),
        (["--page", "README.md"], "a page with the lines"),
    ],
)
def test_wrong_option_is_one_line(words: list[str], advice: str) -> None:
    """If this fails, who mistypes an option gets a page of usage or a traceback instead of a line that says what to do."""
    outcome = bench("--quick", *words)
    assert outcome.returncode == 2
    assert len(outcome.stderr.splitlines()) == 1
    assert advice in outcome.stderr


def test_page_shows_the_settings_that_are_used() -> None:
    """If this fails, the documents say that servers were set up otherwise than they are, and nobody can judge whether it is fair."""
    page = (ROOT / "docs" / "peers.md").read_text(encoding="utf-8")
    for name, known in KNOWN.items():
        for file, text in known.settings.items():
            shown = text.format(folder="FOLDER", port="PORT")
            assert shown in page, f"{name}: {file}"
        assert known.title in page
        assert known.promise in page
    put = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    assert put.count(BEGIN.format(BLOCK)) == put.count(END.format(BLOCK)) == 1
