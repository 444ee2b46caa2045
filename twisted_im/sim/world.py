"""A world: machines, the processes on them, the network between them, and its time.

Strategy: a process is whatever Twisted service somebody makes for it, with the process's own reactor and clocks: a server, a client, a
program of one's own. Nothing in it knows that it is simulated. The world moves only while somebody runs it (`run_for`, `run_until`), and
everything that chance decides comes from its seed, one stream for each purpose, so that the same seed gives the same run.

    world = World(seed=7)
    server = world.server()
    alice, bob = world.client("alice"), world.client("bob", on_message=print)
    alice.send("bob", "hello")
    world.cut("alice", "server")
    world.run_for(10)
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from twisted.internet.defer import maybeDeferred
from twisted.python.failure import Failure

from twisted_im.client.client import Client
from twisted_im.routing.single import SingleRouter
from twisted_im.server.authenticators import Anybody
from twisted_im.service import ImServer
from twisted_im.sim.agenda import Agenda
from twisted_im.sim.links import Links
from twisted_im.sim.net import Network
from twisted_im.sim.reactor import SimReactor
from twisted_im.sim.trace import Trace
from twisted_im.storage.memory import MemoryStore
from twisted_im.wire.schema import LoginMethod

#: Seconds since 1970 when every world begins, as far as its clocks are right.
GENESIS = 1_750_000_000.0
#: Where servers listen.
PORT = 7777


class Machine:
    """What the processes of one machine share: clocks and power.

    Attributes:
        offset, rate: of its monotonic clock; see `SimReactor`.
        ahead: seconds that its wall clock is ahead of the truth.
    """

    def __init__(self, world: World, name: str, chance: Random) -> None:
        self.name = name
        self.offset = chance.uniform(0.0, 1e6)
        self.rate = 1.0 + chance.uniform(-1e-4, 1e-4)  # quartz is better than 100 parts in a million
        self.ahead = chance.uniform(-0.5, 0.5)
        self.processes: list[Process] = []
        self._agenda = world.agenda

    def wall(self) -> float:
        """Seconds since 1970, by this machine's clock."""
        return GENESIS + self._agenda.now + self.ahead


class Process:
    """A place for one program, which may run in it several times.

    Args:
        program: makes the service that runs; called again for each run.
        again: seconds after which it is started again when it ends by its own will; None for never.

    Attributes:
        name, host: how others call it, and its address.
        reactor: of the present run.
        service: what runs; None if nothing does.
        runs: how many there were.
        on_over: called when a run is over, with whether it was killed; each run has its own.
    """

    def __init__(self, world: World, name: str, machine: Machine, program: Callable[[Process], Any], again: float | None) -> None:
        self.world = world
        self.name = name
        self.machine = machine
        self.host = world.links.join(name)
        self.program = program
        self.again = again
        self.service: Any = None
        self.runs = 0
        self.on_over: list[Callable[[bool], object]] = []
        self.reactor: SimReactor = self._new_reactor()
        self.reactor.alive = False

    def _new_reactor(self) -> SimReactor:
        machine, world = self.machine, self.world
        reactor = SimReactor(
            world.agenda, world.network, self.name, self.host, offset=machine.offset, rate=machine.rate, ended=lambda: self._ends(reactor)
        )
        return reactor

    @property
    def alive(self) -> bool:
        """Something runs in it, be it stopped for the moment."""
        return self.reactor.alive

    @property
    def wall(self) -> Callable[[], float]:
        """Its wall clock."""
        return self.machine.wall

    @property
    def clock(self) -> Callable[[], float]:
        """Its monotonic clock."""
        return self.reactor.seconds

    def start(self) -> None:
        """Starts the program, if it does not run."""
        if self.alive or self.host in self.world.links.dark:
            return
        self.reactor = self._new_reactor()
        self.runs += 1
        self.world.note("start", self.name)
        self.service = self.program(self)
        self.reactor.soon(self.service.startService)

    def stop(self) -> None:
        """Asks it to end in good order, as SIGTERM does."""
        if self.alive:
            self.reactor.soon(self._ends, self.reactor)

    def _ends(self, reactor: SimReactor) -> None:
        service, self.service = self.service, None
        if service is not None:
            maybeDeferred(service.stopService).addBoth(lambda _: reactor.soon(self._ended, reactor))

    def _ended(self, reactor: SimReactor) -> None:
        """The program has stopped; timers that are left for later are somebody's mistake."""
        if not reactor.alive:
            return
        self.world.note("stop", self.name)
        for timer in [timer for timer in reactor.timers if timer.getTime() > reactor.seconds()]:
            self.world.leaks.append(f"{self.name} left a timer: {timer!r}")
        self._over(reactor, killed=False, silently=False)
        if self.again is not None:
            self.world.after(self.again, self._supervise)

    def _supervise(self) -> None:
        if self.again is not None:  # still
            self.start()

    def kill(self, *, power: bool = False) -> None:
        """Ends it at once, as SIGKILL does; or as its machine does that loses its power, which nobody is told of."""
        if not self.alive:
            return
        self.world.note("kill", self.name, text="power" if power else "")
        self._over(self.reactor, killed=True, silently=power)

    def _over(self, reactor: SimReactor, *, killed: bool, silently: bool) -> None:
        reactor.kill()
        self.service = None
        self.world.network.close_all(reactor, silently=silently)
        over, self.on_over = self.on_over, []
        for each in over:
            each(killed)

    def freeze(self) -> None:
        """Stops it, as SIGSTOP does."""
        if self.alive and not self.reactor.frozen:
            self.world.note("freeze", self.name)
            self.reactor.freeze()

    def thaw(self) -> None:
        """Lets it go on."""
        if self.alive and self.reactor.frozen:
            self.world.note("thaw", self.name)
            self.reactor.thaw()


class World:
    """Everything.

    Args:
        seed: what chance is drawn from.
        keep_trace: hold on to every step, to be looked at.

    Attributes:
        processes: by name.
        trace: what has happened.
        leaks: what programs have left behind when they stopped.
        folder: where the files of this world are, if it has any. It has another name in each run, so it must not get into the trace.
    """

    def __init__(self, seed: int | str = 0, *, keep_trace: bool = False) -> None:
        self.seed = seed
        self.trace = Trace(keep=keep_trace)
        self.agenda = Agenda(self.chance("order"))
        self.links = Links(self.agenda, self.chance("network"), self.trace)
        self.network = Network(self.links)
        self.machines: dict[str, Machine] = {}
        self.processes: dict[str, Process] = {}
        self.leaks: list[str] = []
        self.folder = ""
        self._boots: dict[bytes, SimReactor] = {}

    def chance(self, purpose: str) -> Random:
        """A stream of its own for each purpose, so that more of one does not change the others."""
        return Random(f"{self.seed} {purpose}")

    # ---- time

    @property
    def now(self) -> float:
        """Seconds since the world began."""
        return self.agenda.now

    def after(self, seconds: float, call: Callable[..., object], *arguments: Any) -> None:
        """Has something done from outside of all processes, so many seconds from now."""
        self.agenda.at(self.now + seconds, None, call, *arguments)

    def run_for(self, seconds: float) -> None:
        """Lets so much time pass."""
        until = self.now + seconds
        step = self.agenda.step
        while step(until):
            pass

    def run_until(self, condition: Callable[[], object], *, limit: float = 60.0) -> None:
        """Lets time pass until something is so.

        Raises:
            TimeoutError: it is not so after `limit` seconds of the world's.
        """
        until = self.now + limit
        while not condition():
            if not self.agenda.step(until):
                raise TimeoutError(f"not so after {limit:g} simulated seconds")

    def note(self, kind: str, where: str, to: str = "", text: str = "") -> None:
        """Adds a step to the trace."""
        self.trace.note(self.now, kind, where, to, self.told(text))

    def told(self, text: str) -> str:
        """A text that is the same in each run."""
        return text.replace(self.folder, "…") if self.folder else text

    # ---- who is there

    def process(
        self, name: str, program: Callable[[Process], Any], *, machine: str = "", again: float | None = None, start: bool = True
    ) -> Process:
        """A new process.

        Args:
            name: how others call it; clients may connect to it by this name.
            program: takes the process and gives a service (`startService`, `stopService`).
            machine: where it runs; a machine of its own by default.
            again: see `Process`.
            start: begin at once.

        Raises:
            ValueError: there is one of that name.
        """
        if name in self.processes:
            raise ValueError(f"there is a process {name!r} already")
        on = self.machines.get(machine or name)
        if on is None:
            on = self.machines[machine or name] = Machine(self, machine or name, self.chance(f"machine {machine or name}"))
        process = self.processes[name] = Process(self, name, on, program, again)
        on.processes.append(process)
        if start:
            process.start()
        return process

    def server(
        self,
        name: str = "server",
        *,
        store: Callable[[Process], Any] | None = None,
        machine: str = "",
        node: str = "",
        again: float | None = None,
        **options: Any,
    ) -> Process:
        """A server that listens at `name:7777`, and lets everybody in unless it is given an authenticator.

        Args:
            store: makes its store; by default a `MemoryStore`, which is gone when the process is.
            machine, again: see `process`.
            node: the node's name; the process's by default.
            options: for `ImServer`.
        """

        def program(process: Process) -> ImServer:
            chance = self.chance(f"{name} {process.runs}")
            boot = chance.randbytes(16)
            self._boots[boot] = process.reactor
            given: dict[str, Any] = {
                "router": SingleRouter(),
                "authenticator": Anybody(),
                "listen": [f"tcp:{PORT}"],
                **options,
            }
            server = ImServer(
                store=store(process) if store is not None else MemoryStore(clock=process.wall, random=chance.randbytes),
                name=node or name,
                reactor=process.reactor,
                clock=process.clock,
                wall=process.wall,
                random=chance.randbytes,
                boot=boot,
                gone=lambda boot: self._has_gone(boot, process),
                most=given.pop("most", 10_000),
                told_elsewhere=True,
                **given,
            )
            server.started.addErrback(lambda failure: self._not_started(process, failure))
            return server

        return self.process(name, program, machine=machine, again=again)

    def _has_gone(self, boot: bytes, asking: Process) -> bool:
        """Whether the run of a boot id is over, as far as another process of its machine can see."""
        reactor = self._boots.get(boot)
        return reactor is not None and not reactor.alive and self.processes[reactor.name].machine is asking.machine

    def _not_started(self, process: Process, failure: Failure) -> None:
        self.note("log", process.name, text=f"not started: {failure.getErrorMessage()}")
        process.stop()

    def client(self, uid: str, *, at: str = "server", name: str = "", **options: Any) -> Client:
        """A client, in a process of its own, which begins at once.

        Args:
            uid: the user; also the process's name, if none is given.
            at: the servers' names, with commas between them.
            options: for `Client`.
        """
        made: list[Client] = []

        def program(process: Process) -> Client:
            made.append(
                Client(
                    ",".join(f"{each}:{PORT}" for each in at.split(",")),
                    uid=uid,
                    reactor=process.reactor,
                    clock=process.clock,
                    wall=process.wall,
                    random=self.chance(f"{process.name} {process.runs}"),
                    **{"method": LoginMethod.ANONYMOUS, **options},
                )
            )
            return made[-1]

        self.process(name or uid, program)
        return made[0]

    # ---- what can happen to them

    def kill(self, name: str) -> None:
        """See `Process.kill`."""
        self.processes[name].kill()

    def power_off(self, machine: str) -> None:
        """All processes of a machine are gone, and nobody says so."""
        for process in self.machines[machine].processes:
            process.kill(power=True)
            self.links.dark[process.host] = None

    def power_on(self, machine: str) -> None:
        """The machine is back, and its processes begin again."""
        for process in self.machines[machine].processes:
            self.links.dark.pop(process.host, None)
            process.start()

    def cut(self, one: str, other: str) -> None:
        """Breaks all connections between two processes, as a router in between may; both are told, if the links carry it."""
        here, there = self.processes[one].host, self.processes[other].host
        for end in [*self.network.connections(here, there), *self.network.connections(there, here)]:
            end.was_reset()

    def partition(self, one: str, other: str, *, one_way: bool = False) -> Callable[[], None]:
        """Nothing gets from one process to another, nor back; call what is given to mend it.

        Args:
            one_way: what the other sends gets there.
        """
        here, there = self.processes[one].host, self.processes[other].host
        mends = [self.links.partition(here, there)] + ([] if one_way else [self.links.partition(there, here)])

        def mend() -> None:
            for each in mends:
                each()

        return mend
