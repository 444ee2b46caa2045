"""A cluster as an operator runs it: `twistd im --strategy=…` and `twistd im route`, and clients on its nodes.

Strategy: real processes on one SQLite file, killed as processes are, and the client library in this process. Each process writes its log to
a file of its own, which is read while it runs.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.client.party import Party
from tests.running import Authority
from tests.twistd import ENVIRONMENT, HELLO, TWISTD, Talk
from twisted_im.client.client import Client
from twisted_im.errors import Disconnect
from twisted_im.leash import leashed
from twisted_im.server.authenticators import write_password
from twisted_im.wire.codec import CODECS
from twisted_im.wire.schema import Command, Kind, LoginMethod

#: Seconds that anything may take, on a machine that has much to do.
PATIENCE = 60.0
#: Where `twistd` is found, as in a shell with the environment active.
PATHS = {**ENVIRONMENT, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"}

MESH = ["--strategy=routed"]
STAR = ["--strategy=routed", "--via=route-server"]
BROADCAST = ["--strategy=broadcast"]

#: twistd in a process whose clock is ahead, and one that speaks another version of the cluster protocol.
LATER = "import time; now = time.time; time.time = lambda: now() + 60; from twisted.scripts.twistd import run; run()"
OTHER = "from twisted_im.wire import schema; schema.LINK_VERSION += 1; from twisted.scripts.twistd import run; run()"


class Running:
    """One process, and what it logs."""

    def __init__(self, words: list[str], folder: Path, number: int) -> None:
        self._log = folder / f"{number}.log"
        with self._log.open("w") as log:
            self.process = subprocess.Popen(leashed(os.getpid(), words), cwd=folder, env=PATHS, stdout=log, stderr=subprocess.STDOUT)

    @property
    def text(self) -> str:
        """All that it has said so far."""
        return self._log.read_text(encoding="utf-8")

    @property
    def lines(self) -> list[dict[str, Any]]:
        """What it has logged so far."""
        whole = self.text.rpartition("\n")[0]
        return [json.loads(line) if line.startswith("{") else {"text": line} for line in whole.splitlines()]

    def of(self, event: str) -> list[dict[str, Any]]:
        """Its events of a kind."""
        return [line for line in self.lines if line.get("event") == event]

    @property
    def address(self) -> str:
        """Where its clients come in."""
        return str(self.of("listening")[0]["address"])

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


class Cluster(Party):
    """Processes in a folder of their own."""

    timeout = 180

    def setUp(self) -> None:
        super().setUp()
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir()
        self.running: list[Running] = []

    async def until(self, holds: Callable[[], object]) -> None:
        """Lets the reactor run until this holds; if that takes too long, what all processes have said is the reason."""
        end = time.monotonic() + PATIENCE
        while not holds():
            if time.monotonic() > end:
                raise AssertionError("waited in vain; they said\n" + "\n".join(running.text for running in self.running))
            await self.turn(0.01)

    def run_words(self, words: list[str]) -> Running:
        running = Running(words, self.folder, len(self.running))
        self.running.append(running)
        self.addCleanup(running.kill)
        return running

    async def event(self, running: Running, event: str, count: int = 1) -> dict[str, Any]:
        """An event of a process that is to come."""

        def come() -> bool:
            assert running.process.poll() is None or len(running.of(event)) >= count, running.lines
            return len(running.of(event)) >= count

        await self.until(come)
        return running.of(event)[count - 1]

    async def node(self, *options: str, name: str = "node", twistd: list[str] = TWISTD) -> Running:
        """A node that takes clients."""
        words = [*twistd, "-n", "--pidfile=", "im", "--auth=anonymous", f"--name={name}", "--listen=tcp:0", *options]
        running = self.run_words(words)
        await self.event(running, "join")
        return running

    async def route(self, *options: str, name: str = "route") -> tuple[Running, str]:
        """A route server of its own, and its address."""
        running = self.run_words([*TWISTD, "-n", "--pidfile=", "im", "route", f"--name={name}", *options])
        return running, str((await self.event(running, "links"))["where"])

    async def joined(self, running: Running) -> Running:
        """One more node, started by the very line that another one has printed."""
        command = (await self.event(running, "join"))["command"]
        one_more = self.run_words(["/bin/sh", "-c", f"exec {command.partition(' && ')[2]}"])
        assert command.startswith(f"cd {shlex.quote(str(self.folder))} && twistd -n ")
        await self.event(one_more, "join")
        return one_more

    async def somebody(self, uid: str, *nodes: Running) -> Client:
        """A client that knows these nodes, and is online at the first."""
        client = self.client(uid, at=",".join(node.address for node in nodes), method=LoginMethod.ANONYMOUS)
        await client.when_online()
        return client

    async def says(self, sender: Client, receiver: Client, text: str) -> None:
        """A message that is accepted, and shown once."""
        await sender.send(receiver.uid, text).accepted
        await self.until(lambda: text in self.texts(receiver))
        assert self.texts(receiver).count(text) == 1

    async def linked(self, *nodes: Running) -> None:
        """Lets all nodes have their links."""
        for node in nodes:
            await self.event(node, "link up")

    async def end(self, *runnings: Running) -> None:
        """Has processes end in good order."""
        for running in runnings:
            running.process.terminate()
        for running in runnings:
            await self.until(lambda: running.process.poll() is not None)  # noqa: B023  # it is waited for here
            assert running.process.returncode == 0
            assert running.of("stopped")
            assert not any("failure" in line or "Traceback" in line.get("text", "") for line in running.lines), running.lines


class TestStrategies(Cluster):
    """Two and three nodes by each strategy."""

    async def _three(self, options: list[str]) -> None:
        one = await self.node(*options)
        two = await self.joined(one)
        alice, bob = await self.somebody("alice", one), await self.somebody("bob", two)
        await self.linked(one, two)
        await self.says(alice, bob, "over there")
        three = await self.joined(two)
        carol = await self.somebody("carol", three)
        await self.linked(three)
        for sender, receiver in ((alice, carol), (carol, bob), (bob, alice)):
            await self.says(sender, receiver, f"to {receiver.uid!s}")
        assert [node.of("stopped") for node in (one, two, three)] == [[], [], []]
        await self.end(three, two, one)
        assert len({node.of("listening")[0]["node"] for node in (one, two, three)}) == 3
        copies = sum(node.of("stopped")[0]["copies_taken"] for node in (one, two, three))
        assert copies > 0, "they have not met in the store alone"
        assert sum(node.of("stopped")[0]["delivered"] for node in (one, two, three)) >= 4

    async def test_mesh(self) -> None:
        """If this fails, `twistd im --strategy=routed` and the line that it prints make no cluster."""
        await self._three(MESH)

    async def test_star(self) -> None:
        """If this fails, nodes with route servers of their own do not reach each other."""
        await self._three(STAR)

    async def test_broadcast(self) -> None:
        """If this fails, `twistd im --strategy=broadcast` and the line that it prints make no cluster."""
        await self._three(BROADCAST)


class TestParallel(Cluster):
    """Single servers side by side, with the same users and a store each."""

    async def test_users_of_different_servers_do_not_reach_each_other(self) -> None:
        """If this fails, servers that were not told of each other share messages; or a message is lost, and not only where nobody is."""
        for user in ("alice", "amy", "bob"):
            write_password(self.folder / "users", "", user, "secret")
        servers = []
        for name in ("im-1", "im-2"):
            words = ["im", "--auth=file:users", "--listen=tcp:0", f"--data={name}", f"--name={name}"]
            servers.append(self.run_words([*TWISTD, "-n", "--pidfile=", *words]))
            await self.event(servers[-1], "listening")
        one, two = servers

        async def online(uid: str, server: Running) -> Client:
            client = self.client(uid, at=server.address, secret="secret")
            await client.when_online()
            return client

        alice, amy, bob = await online("alice", one), await online("amy", one), await online("bob", two)
        await self.says(alice, amy, "to my neighbour")
        await alice.send("bob", "to another server").accepted
        assert await bob.conversations() == [], "it is not there, so it will not come"
        assert self.texts(bob) == []
        there = await online("bob", one)
        await self.until(lambda: self.texts(there) == ["to another server"])
        assert self.texts(bob) == []
        await self.end(two, one)
        assert [server.of("stopped")[0]["accepted"] for server in servers] == [2, 0]
        assert [server.of("stopped")[0]["copies_sent"] for server in servers] == [0, 0]


class TestFaults(Cluster):
    """Processes that are killed."""

    async def _killed(self, options: list[str]) -> None:
        nodes = [await self.node(*options, name=f"im-{number}") for number in (1, 2, 3)]
        one, two, three = nodes
        await self.linked(*nodes)
        alice = await self.somebody("alice", three, one, two)
        bob = await self.somebody("bob", two, one, three)
        carol = await self.somebody("carol", three, two, one)
        await self.says(alice, bob, "before")
        three.kill()
        sending = alice.send("bob", "meanwhile")
        await sending.accepted
        await self.until(lambda: "meanwhile" in self.texts(bob))
        await self.says(bob, carol, "are you back?")
        await self.says(carol, alice, "so I am")
        again = await self.node(*options, name="im-3")
        dave = await self.somebody("dave", again)
        await self.says(dave, bob, "a new run of an old node")
        await self.end(again, two, one)

    async def test_a_node_of_a_mesh_is_killed(self) -> None:
        """If this fails, the clients of a node that is lost stay away, or miss what the others send."""
        await self._killed(MESH)

    async def test_a_node_with_a_route_server_is_killed(self) -> None:
        """If this fails, the same, and a route server goes with its node."""
        await self._killed(STAR)

    async def test_a_node_of_a_broadcast_is_killed(self) -> None:
        """If this fails, the same, and a route server goes with its node."""
        await self._killed(BROADCAST)

    async def _alone(self, options: list[str]) -> None:
        """A route server of its own is killed, and comes again."""
        route, where = await self.route("--listen=tcp:0")
        nodes = [await self.node(*options, f"--route-server={where}", name=f"im-{number}") for number in (1, 2)]
        await self.linked(*nodes)
        alice, bob = await self.somebody("alice", nodes[0]), await self.somebody("bob", nodes[1])
        await self.says(alice, bob, "by the route server")
        route.process.send_signal(signal.SIGUSR2)
        told = await self.event(route, "counters")
        assert (told["node"], told["copies_sent"] > 0, told["copy_bytes"] > 0) == ("route", True, True)
        route.kill()
        for number in range(3):
            await self.says(alice, bob, f"by the store {number}")
        port = where.rpartition(":")[2]
        again, _ = await self.route(f"--listen=tcp:{port}")
        for node in nodes:
            await self.event(node, "link up", 2)
        await self.says(bob, alice, "by the new one")
        await self.end(*nodes, again)
        assert all(node.of("stopped")[0]["doubt_seconds"] > 0 for node in nodes)

    async def test_a_route_server_of_a_star_is_killed(self) -> None:
        """If this fails, nothing is accepted, or nothing crosses nodes, while there is no route server; or a new one is not found."""
        await self._alone(STAR)

    async def test_a_route_server_of_a_broadcast_is_killed(self) -> None:
        """If this fails, the same with the other scheme."""
        await self._alone(BROADCAST)


class TestMistakes(Cluster):
    """What an operator or a stranger does wrong: it is said once, in words, and nobody else is harmed."""

    def complaints(self, running: Running) -> list[str]:
        """What it has said of links that cannot be."""
        return [line["text"] for line in running.of("no link")]

    async def _refused(self, first: Running, second: Running, words: str, *, one_time: bool = True) -> None:
        """Both say why they do not link, once in several attempts, and messages cross all the same, if the two agree on what time it is."""
        await self.until(lambda: self.complaints(first) and self.complaints(second))
        alice, bob = await self.somebody("alice", first), await self.somebody("bob", second)
        if one_time:
            await self.says(alice, bob, "by the store")
            await self.says(bob, alice, "and back")
        for running in (first, second):
            assert [words in line for line in self.complaints(running)] == [True], self.complaints(running)
            assert not any("retry" in line["text"] for line in running.lines), "who tries again need not say so each time"
        assert not first.of("link up")
        await self.end(first, second)

    async def test_another_secret(self) -> None:
        """If this fails, a stranger's node gets in, or an operator is not told why two nodes are apart."""
        for name in ("one", "two"):
            (self.folder / f"{name}.secret").write_text(f"the secret of {name}, and of nobody else")
            (self.folder / f"{name}.secret").chmod(0o600)
        one = await self.node(*MESH, "--cluster-secret=one.secret", name="im-1")
        two = await self.node(*MESH, "--cluster-secret=two.secret", name="im-2")
        await self._refused(one, two, "does not know the secret of node im-")

    async def test_another_clock(self) -> None:
        """If this fails, a node whose clock is wrong links to others, or nobody is told which clock that is."""
        one = await self.node(*MESH, name="im-1")
        two = await self.node(*MESH, name="im-2", twistd=[sys.executable, "-c", LATER])
        await self._refused(one, two, "s behind that of node im-2: set it right", one_time=False)

    async def test_another_version(self) -> None:
        """If this fails, two versions that cannot link say nothing of that, or again and again."""
        one = await self.node(*MESH, name="im-1")
        two = await self.node(*MESH, name="im-2", twistd=[sys.executable, "-c", OTHER])
        await self._refused(one, two, "of the cluster protocol does not go with version")

    async def test_certificates(self) -> None:
        """If this fails, nodes cannot link over TLS, or one with the certificate of another gets in."""
        authority = Authority(self.folder)
        for name, file in (("im-1", "im-1"), ("im-2", "im-2"), ("im-4", "im-3"), ("route", "route")):
            authority.pair(self.folder / f"{file}.pem", name, node=True).chmod(0o600)
        over_tls = f"port=0:authority={authority.pem}"
        one, two, three = [await self.node(*MESH, f"--link-listen=tls:im-{n}.pem:{over_tls}", name=f"im-{n}") for n in (1, 2, 3)]
        await self.until(lambda: len(one.of("link up")) == len(two.of("link up")) == 1 and len(self.complaints(three)) == 2)
        assert all("the certificate shown is not for im-3" in line for line in self.complaints(one)), self.complaints(one)
        assert not (self.folder / "twisted_im.data" / "cluster.secret").exists(), "nobody has asked for one"
        alice, bob = await self.somebody("alice", one), await self.somebody("bob", two)
        await self.says(alice, bob, "under TLS")
        await self.end(one, two, three)
        route, where = await self.route(f"--listen=tls:route.pem:{over_tls}")
        options = [*STAR, f"--route-server={where}", f"--link-authority={authority.pem}"]
        four, five = [await self.node(*options, f"--link-certificate=im-{n}.pem", name=f"im-{n}") for n in (1, 2)]
        await self.linked(four, five)
        carol, dave = await self.somebody("carol", four), await self.somebody("dave", five)
        await self.says(carol, dave, "by a route server under TLS")
        route.process.send_signal(signal.SIGHUP)
        await self.event(route, "reloaded")
        await self.end(four, five, route)

    async def test_a_client_at_the_port_for_links(self) -> None:
        """If this fails, a client with a wrong port gets in past the login, or is not told what that port is."""
        one = await self.node(*MESH)
        where = one.of("links")[0]["where"].removeprefix("tcp:")
        with Talk(where) as talk:
            talk.ask(Command.HELLO, **HELLO)
            body = {"method": 3, "device": bytes(16), "tenant": b"", "uid": b"alice", "label": b"", "secret": b""}
            goodbye = CODECS[Kind.NOTIFY, Command.DISCONNECT].read(talk.ask(Command.LOGIN, **body)[3])
        assert goodbye.code == Disconnect.UNEXPECTED
        assert "this is a port for links between nodes; clients log in at another" in goodbye.reason.decode()
        await self.until(lambda: self.complaints(one))
        assert len(self.complaints(one)) == 1
        await self.end(one)

    async def test_one_name_twice(self) -> None:
        """If this fails, two nodes of one name run side by side, or the second one's operator is not told what to type."""
        one = await self.node(*MESH)
        two = self.run_words([*TWISTD, "-n", "--pidfile=", "im", "--auth=anonymous", *MESH, "--listen=tcp:0"])
        await self.until(lambda: two.process.poll() is not None)
        assert two.process.returncode == 1
        (line,) = [line["text"] for line in two.lines if line.get("level") in ("error", "critical")]
        assert "another process is the node 'node' on this store; stop it, say another --name, or wait for it with --standby" in line
        await self.end(one)


def route_words(*options: str) -> list[str]:
    return [*TWISTD, "-n", "--pidfile=", "im", "route", *options]


class TestRouteServer(Cluster):
    """`twistd im route` by itself."""

    def outcome(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(words, cwd=self.folder, env=PATHS, capture_output=True, text=True, timeout=120, check=False)

    async def test_a_port_that_is_taken(self) -> None:
        """If this fails, a route server that cannot listen leaves a traceback, or a status of 0."""
        _, where = await self.route("--listen=tcp:0")
        done = self.outcome(*route_words(f"--listen=tcp:{where.rpartition(':')[2]}"))
        assert done.returncode == 1
        last = json.loads(done.stdout.splitlines()[-1])
        assert re.search(r"im: 127\.0\.0\.1:\d+: Address already in use; stop what uses it, or change --listen$", last["text"]), last
        assert "Traceback" not in done.stdout + done.stderr
        node = self.outcome(*TWISTD, "-n", "--pidfile=", "im", *MESH, "--listen=tcp:0", f"--link-listen=tcp:{where.rpartition(':')[2]}")
        assert node.returncode == 1
        assert "stop what uses it, or change --link-listen" in node.stdout

    def test_mistakes(self) -> None:
        """If this fails, a mistake on a route server's command line gets no line that says what to do."""
        (self.folder / "short").write_text("too short")
        for options, words in (
            (["--listn=tcp:0"], "option --listn not recognized; did you mean --listen? (see: twistd im route --help)"),
            (["--listen=tcp:0:interface=0.0.0.0"], "a secret is for links on one machine, and others could reach that port"),
            (["--listen=haproxy:tcp:0"], "links are taken at tls:, or on this machine at tcp: or unix:"),
            (["--strategy=routed"], "option --strategy not recognized; "),
            (["--cluster-secret=none"], "--cluster-secret: its file cannot be read: No such file or directory"),
            (["--listen=tcp:0", "--cluster-secret=short"], "short: a cluster's secret has at least 16 bytes; this one has 9"),
            (["now"], "unexpected 'now': everything is an option"),
        ):
            done = self.outcome(*route_words(*options))
            assert (done.returncode, words in done.stdout + done.stderr, "Traceback" in done.stdout) == (1, True, False), (options, done)
        done = self.outcome(*TWISTD, "-n", "im", "--name=x", "route")
        assert (done.returncode, "--name: a route server's options come after the word route" in done.stderr) == (1, True), done

    async def test_a_file_and_twist(self) -> None:
        """If this fails, a route server takes no file, `--check-config` starts it, or `twist im route` is none."""
        (self.folder / "route.toml").write_text('listen = "tcp:0"\nname = "routes-1"\ndata = "kept"\n')
        done = self.outcome(*route_words("--config=route.toml", "--check-config"))
        assert done.returncode == 0, done
        assert 'name = "routes-1"' in done.stdout
        assert not (self.folder / "kept").exists()
        words = [sys.executable, "-m", "twisted", "--log-format=json", "im", "route", "--config=route.toml"]
        process = self.run_words(words)
        await self.until(lambda: '"me": "route server routes-1", "where": "tcp:127.0.0.1:' in process.text)
        assert len((self.folder / "kept" / "cluster.secret").read_text().strip()) == 64
        assert (self.folder / "kept" / "cluster.secret").stat().st_mode & 0o777 == 0o600
        process.process.terminate()
        await self.until(lambda: process.process.poll() is not None)
        assert process.process.returncode == 0
