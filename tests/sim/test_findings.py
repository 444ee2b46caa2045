"""What the simulator has found in shipped code, one story each, told directly so that it stays told whatever seeds come to mean."""

from __future__ import annotations

from typing import Any

from twisted_im.client.values import Life
from twisted_im.sim.cluster import mesh, redis
from twisted_im.sim.disk import SimDisk
from twisted_im.sim.world import Process, World


def online(client: Any) -> bool:
    """Whether a client has logged in."""
    return client.standing.life is Life.ONLINE


def test_a_goodbye_is_said() -> None:
    """If this fails, the server hears nothing of a client that leaves in good order, and takes it for one whose network has failed."""
    for seed in range(10):
        world = World(seed, keep_trace=True)
        world.server()
        alice = world.client("alice")
        world.run_until(lambda alice=alice: online(alice))
        world.processes["alice"].stop()
        world.run_for(1.0)
        assert any(step.kind == "arrive" and step.where == "server" and "DISCONNECT" in step.text for step in world.trace.steps)


def test_a_broken_store_ends_a_node_to_which_nobody_can_log_in() -> None:
    """If this fails, a server whose disk has failed refuses every login for ever, and no supervisor starts it again. (Seed 36.)"""
    world = World()
    disk = SimDisk(world, world.chance("disk"))
    server = world.server(store=disk.model, again=2.0)
    world.run_for(1.0)
    disk.trouble = "error"
    alice = world.client("alice")
    world.run_for(0.5)
    disk.trouble = ""
    world.run_until(lambda: online(alice), limit=15.0)
    assert server.runs == 2


def test_a_node_that_is_stopped_while_it_asks_for_its_name() -> None:
    """If this fails, a server that is stopped at the wrong moment keeps its process or its name for a while. (Seeds 372, 554, 901.)"""
    for moment in range(60):
        world = World(moment)
        disk = SimDisk(world, world.chance("disk"))
        first = world.server("first", store=disk.model, node="node", machine="rack", standby=True)
        world.run_for(0.5)
        second = world.server("second", store=disk.model, node="node", machine="rack", standby=True)
        world.run_for(1.0)
        first.stop()
        world.run_for(0.001 * moment)
        second.stop()
        world.run_until(lambda first=first, second=second: not (first.alive or second.alive))
        assert not world.leaks
        held: list[Any] = []
        disk.image.leases().addCallback(held.append)
        assert held == [[]]


def test_a_server_that_hangs_is_left_for_its_standby() -> None:
    """If this fails, clients of a server that hangs try it again and again, since its kernel takes connections all the same. (Seed 585.)"""
    world = World()
    disk = SimDisk(world, world.chance("disk"))

    def serve(name: str) -> Process:
        return world.server(name, store=disk.model, node="node", standby=True)

    first = serve("first")
    world.run_for(1.0)
    serve("second")
    alice = world.client("alice", at="first,second", answer=5.0)
    world.run_until(lambda: online(alice))
    first.freeze()
    world.run_until(lambda: alice.standing.life is not Life.ONLINE, limit=400.0)
    world.run_until(lambda: online(alice), limit=60.0)
    assert first.reactor.frozen


def test_order_holds_when_a_receiver_cannot_be_looked_up() -> None:
    """If this fails, a message that is put off by a store in a bad moment stands behind the next one. (Seed 2, with --length 2.)"""
    for seed in range(30):
        shown: list[str] = []
        world = World(seed)
        disk = SimDisk(world, world.chance("disk"))
        world.server(store=disk.model)
        world.client("bob", on_message=lambda message, shown=shown: shown.append(message.text))
        alice = world.client("alice")
        world.run_until(lambda alice=alice: online(alice))
        world.run_for(1.0)
        world.kill("server")
        world.start("server")  # a new run does not know who exists
        world.run_until(lambda alice=alice: not online(alice))
        world.run_until(lambda alice=alice: online(alice))
        disk.trouble = "full"
        for number in range(4):
            alice.send("bob", str(number))
        world.run_for(1.0)
        disk.trouble = ""
        world.run_until(lambda shown=shown: len(shown) == 4)
        assert shown == ["0", "1", "2", "3"]


def test_a_client_that_is_stopped_while_it_connects_tries_no_other_server() -> None:
    """If this fails, a client that is stopped while its server says nothing goes on to the next one, and ends long after. (Seed 30413.)"""
    for seed in range(10):
        world = World(seed)
        world.server("first")
        world.server("second")
        alice = world.client("alice", at="first,second")
        mends = [world.partition("alice", name) for name in ("first", "second")]
        world.run_for(0.1 + 0.3 * seed)
        world.stop("alice")
        world.run_until(lambda world=world: not world.processes["alice"].alive, limit=0.5)
        for mend in mends:
            mend()
        world.run_for(10.0)
        assert not online(alice)
        assert not world.leaks
        world.close()


def test_nothing_stays_in_redis_of_a_node_that_ends_while_it_writes_its_entries() -> None:
    """If this fails, entries of a run that is over stay in the route table, since nobody knows that it was there. (Seed 64.)"""
    for seed in range(10):
        world = World(seed)
        world.links.latencies = 0.01, 0.03
        disk = SimDisk(world, world.chance("disk"))
        table = redis(world, "redis")
        first, _ = [world.server(name, store=disk.model, machine="rack", router=mesh(["redis"])) for name in ("first", "second")]
        alice = world.client("alice", at="first")
        world.run_until(lambda alice=alice: online(alice))
        world.run_for(5.0)
        boot = first.service.node.boot

        def entries(table: Process = table, boot: bytes = boot) -> list[bytes]:
            held = table.service.keys.contents()
            return [field for key, fields in held.items() if key.startswith(b"im:u:") for field in fields if field.startswith(boot)]

        assert entries()
        table.service.flush()
        world.run_until(entries)
        first.kill()
        world.run_for(20.0)
        assert not entries()
        world.close()


def test_a_node_that_comes_back_is_doubted_though_it_links_at_once() -> None:
    """If this fails, what a node accepts in its first moments after a long pause is not shown on others before the next message: they hear
    it before they see its lease. (Seed 658.)"""
    for moment in range(12):
        shown: list[str] = []
        world = World(moment)
        disk = SimDisk(world, world.chance("disk"))
        first, second = [world.server(name, store=disk.model, machine="rack", router=mesh()) for name in ("first", "second")]
        bob = world.client("bob", at="second", on_message=lambda message, shown=shown: shown.append(message.text))
        alice = world.client("alice", at="first", answer=30.0)
        world.run_until(lambda both=(alice, bob): all(map(online, both)))
        alice.send("bob", "before")
        world.run_until(lambda shown=shown: shown)
        world.run_for(1.0)
        first.freeze()
        world.run_for(5.0)
        assert second.service.node.doubts.open
        world.run_until(lambda second=second: not second.service.node.doubts.open, limit=20.0)
        first.thaw()
        world.run_for(0.1 * moment)
        alice.send("bob", "after")
        world.run_until(lambda shown=shown: shown[-1] == "after", limit=10.0)
        world.close()
