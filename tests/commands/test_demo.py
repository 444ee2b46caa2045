"""The demonstration: it runs, and its judge can say no."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.redises import Redis
from twisted_im.__main__ import main
from twisted_im.client.values import Accepted, Message
from twisted_im.commands.demo_cluster import ClusterDemo, Cost
from twisted_im.commands.demo_stage import Play, Sent

ROOT = Path(__file__).parent.parent.parent
DEMO = [sys.executable, "-m", "twisted_im", "demo", "--quick"]

#: A table in Redis, where the options name one.
REDIS = "--table=REDIS"

#: name → options; what each of the five messages costs in copies; those that are wasted; links that each copy crosses.
CLUSTERS = {
    "broadcast": (["--strategy=broadcast"], [2, 2, 2, 2, 2], [1, 2, 0, 0, 2], 2),
    "mesh": (["--strategy=routed", "--nodes=2"], [1, 0, 1, 1, 0], [0] * 5, 1),
    "star": (["--strategy=routed", "--via=route-server"], [1, 0, 2, 2, 0], [0] * 5, 2),
    "redis": (["--strategy=routed", REDIS], [1, 0, 2, 2, 0], [0] * 5, 1),
}


class Playing:
    """Demonstrations that run at the same time: most of their time they wait.

    Args:
        folder: for what they say.
    """

    def __init__(self, folder: Path, redis: Redis) -> None:
        self._folder = folder
        self._plays = {}
        others = {"sqlite": ["--store=sqlite"], "memory": ["--store=memory"], "parallel": ["--strategy=parallel"]}
        for name, options in {**{name: play[0] for name, play in CLUSTERS.items()}, **others}.items():
            words = [*DEMO, *(f"--table={redis.url}" if word == REDIS else word for word in options)]
            with (folder / f"{name}.out").open("w") as out, (folder / f"{name}.err").open("w") as err:
                self._plays[name] = subprocess.Popen(words, cwd=ROOT, stdout=out, stderr=err)

    def outcome(self, name: str) -> str:
        """What one has said in the end."""
        status = self._plays[name].wait(timeout=300)
        told, complaints = [(self._folder / f"{name}.{end}").read_text(encoding="utf-8") for end in ("out", "err")]
        assert (status, complaints) == (0, ""), told + complaints
        return told

    def close(self) -> None:
        for play in self._plays.values():
            play.kill()
            play.wait()


@pytest.fixture(scope="module")
def playing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Playing]:
    redis = Redis()
    plays = Playing(tmp_path_factory.mktemp("plays"), redis)
    yield plays
    plays.close()
    redis.close()


@pytest.mark.parametrize("store", ["sqlite", "memory"])
def test_the_demo_holds(playing: Playing, store: str) -> None:
    """If this fails, the first thing that a newcomer starts does not work; with SQLite, perhaps since a killed server loses messages."""
    told = playing.outcome(store)
    packets = ["1 message request", "2 message response", "3 message notify", "4 receipt request", "5 receipt response", "6 receipt notify"]
    for packet in packets:
        assert re.search(rf"^ +\d+\.\d\d +{packet} .*→", told, re.MULTILINE), packet
    assert len(re.findall(r"^  (?:alice|bob)'s \w+ +\d+ +\d+ +(\d+) +\1 +0 +yes$", told, re.MULTILINE)) == 4, told
    assert ("kill -9: the node is gone" in told) is (store == "sqlite")
    sent = sum(int(count) for count in re.findall(r"^  (?:alice|bob)'s \w+ +(\d+)", told, re.MULTILINE))
    assert f"The store has {sent} messages, read back from the first: each that was sent, once." in told
    assert "Everything holds: sent = accepted = kept = shown on each device, none twice, in order." in told


@pytest.mark.parametrize("name", CLUSTERS)
def test_a_cluster_costs_what_it_should_and_holds(playing: Playing, name: str) -> None:
    """If this fails, whoever wants to understand a scheme is shown nothing or the wrong figures; or a scheme makes copies that it should
    not, or loses messages with a node that is killed."""
    options, copies, wasted, links = CLUSTERS[name]
    told = playing.outcome(name)
    rows = re.findall(r"^  (\w+ → \w+) +(\d+) +\d+ +(\d+) +\d+ +(\d+|–) +\d+ +\d+ +(\d+) +[\d.–]+(  disturbed)?$", told, re.MULTILINE)
    assert [row[0] for row in rows] == ["alice → bob", "alice → amy", "bob → carol", "carol → everybody", "alice → zoe"], told
    if not any(row[-1] for row in rows):  # a machine that stood still in between is not the scheme's fault
        assert [int(row[1]) for row in rows] == copies, told
        assert [int(row[2]) for row in rows] == wasted, told
        assert {row[3] for row in rows} - {"–"} == {str(links)}, told
        assert all((row[4] != "0") is (REDIS in options) for row in rows), told
        assert told.count("WASTED") == sum(wasted), told
    assert re.search(r"─► im-\d +bob's phone after \d+\.\d\d ms$", told, re.MULTILINE), told
    victim = "im-2" if "--nodes=2" in options else "im-3"
    story = told[told.index(f"kill -9 {victim}") :]
    for said in (rf"im-1 +{victim} is not heard", r"carol's phone +is back, on im-\d", rf"im-1 +{victim} is heard"):
        assert re.search(rf"^ +\+\d+\.\d\d\d  {said}", story, re.MULTILINE), story
    assert len(re.findall(r"^  im-\d[ *]{2}", story, re.MULTILINE)) == int(victim[-1]), "what each has counted"
    assert "Everything holds: sent = accepted = kept = shown on each device, none twice, in order." in story


def test_parallel_servers_are_apart(playing: Playing) -> None:
    """If this fails, nobody is shown why servers are to be linked at all."""
    told = playing.outcome("parallel")
    cells = [line.split()[1:] for line in told.splitlines() if re.match(r"  \w+ +(·|shown|accepted) ", line)]
    assert Counter(cell for row in cells for cell in row) == {"·": 4, "shown": 2, "accepted": 10}, told
    assert "As expected: users of one server reach each other, and users of different servers do not." in told


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--nodes=3"], "--nodes: a single server is one node: say --strategy=broadcast, routed or parallel too, or leave it out"),
        (["--strategy=routed", "--nodes=1"], "--nodes takes 2 to 8, not 1"),
        (["--strategy=routed", "--nodes=many"], "--nodes: invalid int value: 'many' (see: python -m twisted_im demo --help)"),
        (["--strategy=broadcast", "--via=mesh"], "--via means something only with --strategy=routed"),
        (["--strategy=parallel", "--table=redis://127.0.0.1"], "--table means something only with --strategy=routed"),
        (["--strategy=routed", "--store=memory"], "--store: the nodes of a cluster share one store, and this one is a process's own: say"),
        (["--strategy=routed", "--table=http://redis"], "--table: 'http://redis' is no Redis: write redis://"),
        (["--strategy=rooted"], "--strategy: invalid choice: 'rooted'"),
    ],
)
def test_mistakes(options: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """If this fails, a mistake on the command line starts something, or is not told in one line."""
    try:
        status = main(["demo", *options])
    except SystemExit as end:
        assert isinstance(end.code, int)
        status = end.code
    told = capsys.readouterr()
    assert (status, told.out, told.err.count("\n")) == (2, "", 1)
    assert said in told.err


def test_a_table_that_is_not_there(tmp_path: Path) -> None:
    """If this fails, whoever has not started Redis waits for a minute, or is not told what is missing."""
    words = [*DEMO, "--strategy=routed", "--nodes=2", f"--table=unix://{tmp_path}/redis.sock"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, encoding="utf-8", timeout=300)
    assert (done.returncode, done.stderr) == (1, ""), done.stderr
    assert re.search(r"^Not played: the route table's server .*; start it, or correct --table\.$", done.stdout, re.MULTILINE), done.stdout


@pytest.mark.parametrize(("options", "line", "count"), [([], "Two users", 1), (["--strategy=broadcast"], "zoe was on", 4)])
def test_an_early_end_leaves_nothing_running(options: list[str], line: str, count: int) -> None:
    """If this fails, whoever stops the demonstration by Ctrl-C has servers left in the background."""
    with subprocess.Popen([*DEMO, *options], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8") as demo:
        assert demo.stdout is not None
        assert any(each.startswith(line) for each in demo.stdout)
        nodes = [Path("/proc", pid) for pid in Path(f"/proc/{demo.pid}/task/{demo.pid}/children").read_text().split()]
        assert len(nodes) == count
        assert all(node.exists() for node in nodes)
        demo.send_signal(signal.SIGINT)
        _, told = demo.communicate(timeout=120)
    assert not any(node.exists() for node in nodes)
    assert demo.returncode != 0
    assert "Traceback" not in told


def sending(number: int, *, accepted: bool = True) -> Any:
    return SimpleNamespace(client_id=bytes([number]), outcome=Accepted(1, number, 0) if accepted else None)


def message(number: int) -> Message:
    return Message(1, number, 0, "alice", b"", bytes([number]), 1, b"")


@pytest.mark.parametrize(
    ("shown", "accepted", "kept", "good"),
    [
        ([1, 2, 3], True, [1, 2, 3], True),
        ([1, 3], True, [1, 2, 3], False),
        ([1, 2, 2, 3], True, [1, 2, 3], False),
        ([1, 3, 2], True, [1, 2, 3], False),
        ([1, 2, 3, 9], True, [1, 2, 3], False),
        ([1, 2], False, [1, 2], False),
        ([1, 2, 3], True, [1, 2], False),
        ([1, 2, 3], True, [1, 2, 3, 3], False),
    ],
)
def test_the_judge_sees_what_is_wrong(
    shown: list[int], accepted: bool, kept: list[int], good: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """If this fails, the demonstration claims what it has not checked."""
    demo = Play(None, Path(), messages=0)
    client = SimpleNamespace(duplicates=0)
    both = frozenset({"alice", "bob"})
    sent = [Sent(sending(1), both), Sent(sending(2), both), Sent(sending(3, accepted=accepted), both)]
    sent.append(Sent(sending(4), frozenset({"alice", "carol"})))
    demo.actors = [  # type: ignore[assignment]  # stand-ins
        SimpleNamespace(name="sender", user="alice", sent=sent, shown=[], client=client),
        SimpleNamespace(name="receiver", user="bob", sent=[], shown=[message(n) for n in shown], client=client),
    ]
    found = Counter(bytes([number]) for number in [*kept, 4])
    assert demo.judge(found, None) == (0 if good else 1)
    assert ("IT DOES NOT HOLD" in capsys.readouterr().out) is not good
    assert demo.judge(found, "something") == 1


@pytest.mark.parametrize(
    ("copies", "wasted", "disturbed", "status"), [(2, 1, False, 0), (3, 1, False, 1), (2, 0, False, 1), (1, 1, False, 1), (3, 1, True, 0)]
)
def test_copies_are_judged(copies: int, wasted: int, disturbed: bool, status: int) -> None:
    """If this fails, a scheme that makes too many copies, or too few, is shown as if it did what it should."""
    demo = ClusterDemo(None, Path(), strategy="broadcast", via=None, tables=[], nodes=3, messages=0)
    demo.costs.append(Cost("alice → bob", copies, 2, wasted, 1, 3, 4, 300, 0, 1.0, disturbed, 1))
    assert demo.verdict(Counter(), "") == status
