"""The tests of docs/testing-your-app.md, run as a team would run them; and what that team meets when it makes a mistake.

Strategy: the code blocks are taken from the page as they are, into files of their own, and pytest runs these away from the checkout's
settings. One block is broken on purpose, to see that the test on the page can fail.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from twisted.application.service import Service
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.endpoints import clientFromString, connectProtocol, serverFromString
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.threads import deferToThreadPool

import twisted_im.sim
from tests.pages import blocks, environment
from twisted_im.sim import Process, SimDisk, World

PUBLIC = ["Machine", "Process", "SimDisk", "Step", "World"]


def pytest_says(folder: Path, name: str, code: str, *words: str) -> tuple[int, str]:
    """Status and output of pytest in a folder with one file."""
    (folder / name).write_text(code, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *words, name]
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=300, check=False)
    return done.returncode, done.stdout + done.stderr


def test_the_orders_are_tested(tmp_path: Path) -> None:
    """If this fails, a team copies the first test of the page, and it is red before they have changed anything."""
    code, *_ = blocks("testing-your-app.md")
    assert len(code.splitlines()) < 40, "the page is not to begin with more"
    status, said = pytest_says(tmp_path, "test_orders.py", code)
    assert (status, "20 passed" in said) == (0, True), said


def test_a_faulty_bot_is_found(tmp_path: Path) -> None:
    """If this fails, the page's test is green for a bot that confirms twice, or never; or is red without a word why."""
    code, *_ = blocks("testing-your-app.md")
    sends = '        self.client.send(message.sender, f"{len(self.orders)}: {message.text}")\n'
    assert sends in code
    status, said = pytest_says(tmp_path, "test_twice.py", code.replace(sends, sends * 2))
    assert (status, "20 failed" in said) == (1, True), said
    status, said = pytest_says(tmp_path, "test_never.py", code.replace(sends, ""), "-x")
    assert status == 1
    assert "TimeoutError: not so after 60 simulated seconds (seed 0)" in said
    assert re.search(r"bot +◀── server +arrive", said), "the last steps are not shown"


def test_the_shop_is_tested(tmp_path: Path) -> None:
    """If this fails, a team with a server of its own finds no way into the simulator."""
    _, code, *_ = blocks("testing-your-app.md")
    status, said = pytest_says(tmp_path, "test_shop.py", code)
    assert (status, "1 passed" in said) == (0, True), said


def test_what_happened_can_be_read(tmp_path: Path) -> None:
    """If this fails, somebody whose test is red sees neither the steps of the run nor what the library logged."""
    orders, _, read, conftest = blocks("testing-your-app.md")
    done = subprocess.run([sys.executable, "-c", read], env=environment(), capture_output=True, text=True, timeout=120, check=True)
    assert re.search(r"^ +0\.000000  server +start$", done.stdout, re.MULTILINE), done.stdout
    assert re.search(r" alice +──▶ server +send +40 bytes", done.stdout), done.stdout
    (tmp_path / "conftest.py").write_text(conftest, encoding="utf-8")
    hasty = orders.replace("        world.result(bot.client.when_online())\n", "").replace("range(20)", "[0]")
    hasty = hasty.replace('alice.send("orders", "tea")', 'alice.send("nobody", "tea")')
    status, said = pytest_says(tmp_path, "test_hasty.py", hasty, "--log-level=info")
    assert status == 1
    assert "a message was refused: NO_SUCH" in said


def test_public_names() -> None:
    """If this fails, a name that teams import has vanished, or one appeared that nobody has promised."""
    assert sorted(twisted_im.sim.__all__) == PUBLIC
    for name in PUBLIC:
        assert getattr(twisted_im.sim, name).__name__ == name
        assert getattr(twisted_im.sim, name).__doc__


def test_base_install() -> None:
    """If this fails, testing one's own program needs more than `pip install twisted_im`, or what needs more does not say what."""
    script = """if True:
        import sys
        sys.modules["msgspec"] = sys.modules["pytest"] = sys.modules["hypothesis"] = None
        from twisted_im.sim import SimDisk, World
        with World() as world:
            world.server(store=SimDisk(world).sqlite)
            world.result(world.client("alice").when_online())
        for name in ("sim.run", "sim.devices", "oracle"):
            try:
                __import__(f"twisted_im.{name}")
            except ModuleNotFoundError as error:
                assert str(error) == "msgspec is not installed: pip install 'twisted_im[faults]'", error
            else:
                raise AssertionError(name)
    """
    subprocess.run([sys.executable, "-c", script], check=True, env=environment(), timeout=120)


def test_names_that_there_are_not() -> None:
    """If this fails, a name mistyped in a test gives a bare KeyError, or a test that passes without having tried anything."""
    with World() as world:
        world.server()
        world.client("alice")
        wrong = "there is no process 'sever'; there are: server, alice"
        for verb in (world.kill, world.start, world.stop, world.freeze, world.thaw):
            with pytest.raises(ValueError, match=wrong):
                verb("sever")
        for two in (world.cut, world.partition, lambda one, other: world.clog(one, other, 10)):
            with pytest.raises(ValueError, match=wrong):
                two("alice", "sever")
        with pytest.raises(ValueError, match=wrong):
            world.client("bob", at="server,sever")
        with pytest.raises(ValueError, match="there is no machine 'sever'; there are: server, alice"):
            world.power_off("sever")
        with pytest.raises(ValueError, match=r"there is a process 'alice' already; .*\(name="):
            world.client("alice")
        world.client("alice", name="alice-2")
        with pytest.raises(TypeError, match="'nothing' is to give a service, but gave None"):
            world.process("nothing", lambda process: None)


def test_a_file_of_a_disk_goes_with_the_world() -> None:
    """If this fails, each test run leaves files behind."""
    with World() as world:
        disk = SimDisk(world)
        world.server(store=disk.sqlite)
        world.run_for(1)
        assert disk.path.exists()
    assert not disk.path.exists()
    assert not world.processes["server"].alive


def test_result() -> None:
    """If this fails, a test sees neither the answer to what it asks a client, nor the error."""

    async def talk(client: twisted_im.Client) -> int:
        await client.when_online()
        return len(await client.conversations())

    with World() as world:
        world.server()
        alice = world.client("alice")
        assert world.result(talk(alice)) == 0
        assert world.result(succeed(7)) == 7
        fired = succeed(8)
        assert [world.result(fired), world.result(fired)] == [8, 8]
        with pytest.raises(KeyError, match="gone"):
            world.result(fail(KeyError("gone")))
        with pytest.raises(TimeoutError):
            world.result(Deferred(), limit=1.0)


def test_trouble() -> None:
    """If this fails, a connection that a test cuts, clogs or parts is as good as before."""
    with World(seed=1) as world:
        world.server()
        alice = world.client("alice")
        assert world.cut("alice", "server") == 0
        world.result(alice.when_online())

        def takes() -> float:
            before = world.now
            world.result(alice.conversations(), limit=600)
            return world.now - before

        usual = takes()
        mend = world.clog("alice", "server", 100.0)
        assert takes() > 20 * usual
        mend()
        assert takes() < 20 * usual
        mend = world.partition("alice", "server")
        asked = alice.send("alice", "milk").accepted
        world.run_for(20)
        assert not asked.called
        mend()
        assert world.result(asked).seq == 1
        assert world.cut("alice", "server") == 1


class Doorman(Service):
    """A program with a protocol of its own, a timer and a thread."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.rung: list[str] = []

    def startService(self) -> None:
        super().startService()
        rung, reactor = self.rung, self.process.reactor

        class Door(Protocol):
            def dataReceived(self, data: bytes) -> None:
                deferToThreadPool(reactor, reactor.getThreadPool(), data.decode).addCallback(rung.append)

        serverFromString(reactor, "tcp:8080").listen(Factory.forProtocol(Door))


def test_a_protocol_of_ones_own() -> None:
    """If this fails, a bot that also speaks a protocol of its own cannot be tested, or is not told which transport is missing."""
    with World() as world:
        door = world.process("door", Doorman).service
        guest = world.process("guest", lambda process: Service())
        world.run_for(0.1)
        ring = world.result(connectProtocol(clientFromString(guest.reactor, "tcp:door:8080"), Protocol()))
        ring.transport.write(b"it is me")
        world.run_until(lambda: door.rung == ["it is me"])
        with pytest.raises(AttributeError, match="listenUNIX is not simulated"):
            serverFromString(guest.reactor, "unix:door").listen(Factory())
