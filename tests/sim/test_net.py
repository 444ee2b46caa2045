"""Ports, attempts to connect and connections in the simulation: what Twisted's are, and what only a simulated network can be made to do."""

from __future__ import annotations

import pytest
from twisted.internet.endpoints import HostnameEndpoint, connectProtocol
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost, DNSLookupError
from twisted.trial.unittest import TestCase

from tests.sim.contract import ConnectContract, End, OnTwisted, Simulated, Talk
from twisted_im.sim.links import RECEIVE_BUFFER, SEND_BUFFER
from twisted_im.sim.pipe import LONGEST_RESEND, SEGMENT

SEEDS = pytest.mark.parametrize("seed", range(4))


class TestOnTwisted(OnTwisted, ConnectContract, TestCase):
    """The contract as Twisted keeps it, on real sockets."""

    timeout = 180


class TestSimulated(Simulated, ConnectContract, TestCase):
    """The contract as the simulation keeps it."""


# ---- links that break


@SEEDS
def test_a_broken_link_holds_bytes_back(seed: int) -> None:
    """If this fails, a run with a broken link loses bytes of a connection, which no network does, and finds faults that are none."""
    talk = Talk(seed)
    mend = talk.world.partition("near", "far", one_way=True)
    talk.a.transport.write(bytes(5000))
    talk.b.transport.write(b"still heard")
    talk.world.run_for(100)
    assert (talk.a.got, talk.b.got) == (b"still heard", b"")
    assert talk.b.transport.pipe_out.taken == 0, "that it was heard, nobody could say"
    assert any(step.kind == "delay" for step in talk.world.trace.steps)
    mend()
    talk.world.run_for(LONGEST_RESEND + 5)
    assert talk.b.got == bytes(5000)
    assert talk.b.transport.pipe_out.taken == len("still heard")
    assert talk.a.transport.pipe_out.taken == 5000
    assert not talk.a.lost + talk.b.lost


@SEEDS
def test_a_reset_that_is_lost_leaves_half_a_connection(seed: int) -> None:
    """If this fails, no run meets a connection that only one side has, and what heartbeats are for is not tried."""
    talk = Talk(seed)
    mend = talk.world.partition("near", "far")
    talk.a.transport.abortConnection()
    talk.world.run_for(100)
    mend()
    talk.world.run_for(100)
    assert (talk.a.lost, talk.b.lost) == ([ConnectionAborted], [])
    mend = talk.world.partition("near", "far", one_way=True)
    talk.b.transport.write(b"are you there?")
    talk.world.run_for(60)
    assert not talk.b.lost, "nor does the answer get there"
    mend()
    talk.world.run_for(LONGEST_RESEND + 5)
    assert talk.b.lost == [ConnectionLost]


@SEEDS
def test_an_end_that_is_held_back_comes_later(seed: int) -> None:
    """If this fails, a connection that was closed behind a broken link stays half open though its kernel says so again."""
    talk = Talk(seed)
    mend = talk.world.partition("near", "far")
    talk.a.transport.write(b"bye")
    talk.a.transport.loseConnection()
    talk.world.run_for(100)
    assert (talk.a.lost, talk.b.lost) == ([ConnectionDone], [])
    mend()
    talk.world.run_for(LONGEST_RESEND + 5)
    assert (talk.b.got, talk.b.lost) == (b"bye", [ConnectionDone])


def test_a_cut_is_told_to_whom_it_reaches() -> None:
    """If this fails, a cut connection is told through a link that carries nothing."""
    talk = Talk()
    talk.world.cut("near", "far")
    talk.world.run_for(1)
    assert (talk.a.lost, talk.b.lost) == ([ConnectionLost], [ConnectionLost])
    talk = Talk()
    talk.world.partition("near", "far", one_way=True)
    talk.world.cut("near", "far")
    talk.world.run_for(1)
    assert (talk.a.lost, talk.b.lost) == ([ConnectionLost], [])


def test_a_connection_waits_for_a_broken_link() -> None:
    """If this fails, a client that connects while the network is away is refused, which no network does."""
    talk = Talk()
    mend = talk.world.partition("far", "near", one_way=True)
    late = talk.connect(seconds=10)
    assert late.notes[-1] == "startedConnecting"
    mend()
    talk.world.run_for(10)
    assert late.notes[-1] == "connectionMade"


# ---- machines and processes that go


@SEEDS
def test_a_machine_without_power_is_silent(seed: int) -> None:
    """If this fails, a crash of a machine looks like one of a process, and clients are told of it at once."""
    talk = Talk(seed)
    talk.world.power_off("far")
    talk.a.transport.write(b"are you there?")
    talk.world.run_for(60)
    assert not talk.a.lost
    assert not talk.b.lost, "nobody is there to be told"
    talk.world.power_on("far")
    talk.world.run_for(LONGEST_RESEND + 5)
    assert talk.a.lost == [ConnectionLost]
    assert "clientConnectionFailed ConnectionRefusedError" in talk.connect().notes, "nobody listens yet"


def test_a_killed_process_is_closed_by_its_kernel() -> None:
    """If this fails, a run in which processes are killed is gentler, or rougher, than kill -9."""
    talk = Talk()
    talk.far.kill()
    talk.world.run_for(1)
    assert talk.a.lost == [ConnectionDone]
    assert not talk.b.lost, "nobody is there to be told"
    assert "clientConnectionFailed ConnectionRefusedError" in talk.connect().notes
    talk = Talk()
    talk.far.freeze()
    talk.a.transport.write(b"for nobody")
    late = talk.connect()
    assert late.notes[-1] == "connectionMade", "its kernel has taken it"
    talk.far.kill()
    talk.world.run_for(1)
    assert talk.a.lost == [ConnectionLost], "what nobody has read makes the end a reset"
    assert late.ends[0].lost == [ConnectionLost], "who was never met is reset"


@SEEDS
def test_a_frozen_process_has_a_kernel(seed: int) -> None:
    """If this fails, a process that is stopped takes bytes without end, or none, and what a slow client does to a server is not tried."""
    talk = Talk(seed)
    talk.far.freeze()
    data = bytes(range(250)) * 1000
    sent = 0
    while sent < len(data):
        try:
            sent += talk.a.transport.getHandle().send(data[sent:])
        except BlockingIOError:
            before = sent
            talk.world.run_for(5)
            try:
                sent += talk.a.transport.getHandle().send(data[sent:])
            except BlockingIOError:
                break
            assert sent > before
    assert 0 <= sent - SEND_BUFFER - RECEIVE_BUFFER < SEGMENT
    assert talk.a.transport.pipe_out.taken == sent - SEND_BUFFER
    assert not talk.b.got
    talk.far.thaw()
    talk.world.run_for(10)
    assert talk.b.got == data[:sent]
    assert talk.a.transport.pipe_out.taken == sent


def test_a_frozen_process_takes_only_so_many_connections() -> None:
    """If this fails, clients of a server that stands still are all taken, which no kernel does."""
    talk = Talk(backlog=2)
    talk.far.freeze()
    late = [talk.connect() for _ in range(3)]
    assert [each.notes[-1] for each in late] == ["connectionMade", "connectionMade", "startedConnecting"]
    talk.far.thaw()
    talk.world.run_for(20)
    assert [each.notes[-1] for each in late] == ["connectionMade"] * 3
    assert len(talk.there.ends) == 4


def test_who_comes_while_a_port_closes_is_turned_away() -> None:
    """If this fails, a client that comes in the moment in which a server stops is left waiting."""
    talk = Talk()
    talk.far.freeze()
    late = talk.connect()
    talk.listening.stopListening()
    talk.far.thaw()
    talk.world.run_for(5)
    assert "clientConnectionLost ConnectionLost" in late.notes
    assert len(talk.there.ends) == 1
    assert talk.there.notes[-1] == "stopFactory"


# ---- what else is wrong with it


def test_a_host_can_refuse() -> None:
    """If this fails, a fault that a scenario names does nothing."""
    talk = Talk()
    talk.world.links.refusing[talk.far.host] = 1
    assert "clientConnectionFailed ConnectionRefusedError" in talk.connect().notes
    del talk.world.links.refusing[talk.far.host]
    assert talk.connect().notes[-1] == "connectionMade"


def test_a_slow_reader_reads_slowly() -> None:
    """If this fails, a fault that a scenario names does nothing."""
    talk = Talk()
    talk.world.links.slow[talk.far.host] = 0.1, 64
    talk.a.transport.write(bytes(6400))
    talk.world.run_for(5)
    assert 1000 < len(talk.b.got) <= 3200
    talk.world.run_for(10)
    assert len(talk.b.got) == 6400


def test_processes_know_each_other_by_name() -> None:
    """If this fails, a client in a world does not find its server, or finds one that is not there."""
    talk = Talk()
    found: list[object] = []
    for name in ("far", "nowhere"):
        endpoint = HostnameEndpoint(talk.near.reactor, name, 7777)
        connectProtocol(endpoint, End([])).addBoth(found.append)
    assert not found, "never at once"
    talk.world.run_for(5)
    assert sorted(type(getattr(each, "value", each)).__name__ for each in found) == [DNSLookupError.__name__, "End"]


def test_what_people_see_of_it() -> None:
    """If this fails, who looks at a world in a debugger sees addresses of objects."""
    talk = Talk()
    late = talk.connect()
    assert repr(talk.a.transport) == "<near to far:7777, open, 0 bytes wait>"
    assert repr(talk.listening) == "<far listens at 7777, 0 wait>"
    assert repr(late.ends[0].transport._connector) == "<near to far:7777, connected>"
    talk.a.transport.abortConnection()
    talk.world.run_for(1)
    assert repr(talk.a.transport) == "<near to far:7777, gone, 0 bytes wait>"
