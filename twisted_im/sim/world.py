"""A world: machines, the processes on them, the network between them, and its time.

Strategy: a process is whatever Twisted service somebody makes for it, with the process's own reactor and clocks: a server, a client, a
program of one's own. Nothing in it knows that it is simulated. The world moves only while somebody runs it (`run_for`, `run_until`), and
everything that chance decides comes from its seed, one stream for each purpose, so that the same seed gives the same run.

    with World(seed=7) as world:
        world.server()
        alice, bob = world.client("alice"), world.client("bob", on_message=print)
        world.result(bob.when_online())
        alice.send("bob", "hello")
        world.cut("alice", "server")
        world.run_for(10)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random
from types import TracebackType
from typing import Any, Self

from twisted.internet.defer import maybeDeferred
from twisted.logger import LogEvent, LogLevel, formatEvent, globalLogPublisher
from twisted.python.failure import Failure

from twisted_im.client.client import Client
from twisted_im.routing.single import SingleRouter
from twisted_im.server.authenticators import Anybody
from twisted_im.service import ImServer
from twisted_im.sim.agenda import Agenda
from twisted_im.sim.links import Links
from twisted_im.sim.net import Network
from twisted_im.sim.reactor import SimReactor
from twisted_im.sim.timeline import lines
from twisted_im.sim.trace import Trace
from twisted_im.storage.memory import MemoryStore
from twisted_im.wire.schema import LoginMethod

#: Seconds since 1970 when every world begins, as far as its clocks are right.
GENESIS = 1_750_000_000.0
#: Where servers listen.
PORT = 7777
#: Steps that an error shows of a trace that was kept.
SHOWN = 20


class Machine:
    """What the processes of one machine share: clocks and power.

    Attributes:
        offset, rate: of its monotonic clock; see `SimReactor`.
        stepped: seconds of `ahead` that a fault of `nemesis` has added.
        ahead: seconds that its wall clock is ahead of the truth.
    """

    def __init__(self, world: World, name: str, chance: Random) -> None:
        self.name = name
        self.offset = chance.uniform(0.0, 1e6)
        self.rate = 1.0 + chance.uniform(-1e-4, 1e-4)  # quartz is better than 100 parts in a million
        self.ahead = chance.uniform(-0.5, 0.5)
        self.stepped = 0.0
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
        random: what chance the present run has.
        service: what runs; None if nothing does.
        runs: how many there were.
        on_over: called when a run is over, with whether it was killed; each run has its own.
    """

    def __init__(self, world: World, name: str, machine: Machine, program: Callable[[Process], Any], again: float | None) -> None:
        self.world = world
        self.name = name
        self.random = world.chance(name)
        self.machine = machine
        self.host = world.links.join(name)
        self.program = program
        self.again = again
        self.service: Any = None
        self.runs = 0
        self.on_over: list[Callable[[bool], object]] = []
        self.reactor: SimReactor = self._new_reactor()
        self.reactor.alive = False

    def __repr__(self) -> str:
        state = "is not there" if not self.alive else "is frozen" if self.reactor.frozen else "runs"
        return f"<process {self.name}, {state}, run {self.runs}>"

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

    def client_options(self) -> dict[str, Any]:
        """What a `Client` that runs in it is to be made with: `Client("server:7777", uid="bot", **process.client_options())`.

        Returns:
            `reactor`, `clock`, `wall` and `random`.
        """
        return {"reactor": self.reactor, "clock": self.clock, "wall": self.wall, "random": self.random}

    def server_options(self) -> dict[str, Any]:
        """What an `ImServer` that runs in it is to be made with, beside its store, router and authenticator.

        Returns:
            `reactor`, `clock`, `wall`, `random`, `boot`, `gone` and `most`.
        """
        boot = self.world.boot_of(self)
        return {
            "reactor": self.reactor,
            "clock": self.clock,
            "wall": self.wall,
            "random": self.random.randbytes,
            "boot": boot,
            "gone": lambda other: self.world.has_gone(other, self),
            "most": 10_000,
        }

    def start(self) -> None:
        """Starts the program, if it does not run.

        Raises:
            TypeError: the program did not give a service.
        """
        if self.alive or self.host in self.world.links.dark:
            return
        self.reactor = self._new_reactor()
        self.runs += 1
        self.random = self.world.chance(f"{self.name} {self.runs}")
        self.world.note("start", self.name)
        self.service = self.program(self)
        if not hasattr(self.service, "startService"):
            self.reactor.alive = False
            raise TypeError(f"the program of process {self.name!r} is to give a service, but gave {self.service!r}")
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
    """Machines, the processes on them, the network between them, and their time. At the end of a `with` block, it is closed.

    Args:
        seed: what chance is drawn from: the same seed, and the same calls, give the same run.
        keep_trace: hold on to every step, to be looked at.

    Attributes:
        processes: by name.
        machines: by name; a process that was given none has one of its own name.
        links: the network: `links.latencies` are (lowest, highest) of its links, in seconds.
        trace: what has happened; `trace.steps` is a list of `Step`, if they are kept.
        leaks: what programs have left behind when they stopped, one line each.
        errors: what programs have logged as errors, and what their reactors have; one line each.
        aliases: path of a file or folder, which differs in each run → what the trace calls it.
        on_close: called at the end.
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
        self.errors: list[str] = []
        self.aliases: dict[str, str] = {}
        self.on_close: list[Callable[[], object]] = []
        self._boots: dict[bytes, SimReactor] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Kills every process, and removes the files of all disks."""
        for process in self.processes.values():
            process.kill()
        while self.on_close:
            self.on_close.pop()()

    def chance(self, purpose: str) -> Random:
        """A stream of its own for each purpose, so that more of one does not change the others."""
        return Random(f"{self.seed} {purpose}")

    # ---- time

    @property
    def now(self) -> float:
        """Seconds since the world began."""
        return self.agenda.now

    def after(self, seconds: float, call: Callable[..., object], *arguments: Any) -> None:
        """Has something done from outside of all processes, so many seconds from now: `world.after(5, world.start, "server")`."""
        self.agenda.at(self.now + seconds, None, call, *arguments)

    def run_for(self, seconds: float) -> None:
        """Lets so much time pass."""
        until = self.now + seconds
        step = self.agenda.step
        with self._heard():
            while step(until):
                pass

    def run_until(self, condition: Callable[[], object], *, limit: float = 60.0) -> None:
        """Lets time pass until something is so.

        Args:
            condition: asked after everything that happens.
            limit: seconds of the world's.

        Raises:
            TimeoutError: it is not so by then. It says what the last errors were; its notes have the last steps of the trace, if they are
                kept.
        """
        until = self.now + limit
        with self._heard():
            while not condition():
                if not self.agenda.step(until):
                    raise self._in_vain(limit)

    def _in_vain(self, limit: float) -> TimeoutError:
        last = "".join(f"\n  {line}" for line in self.errors[-3:])
        text = f"not so after {limit:g} simulated seconds (seed {self.seed!r})"
        error = TimeoutError(f"{text}; the last errors:{last}" if last else text)
        for line in lines(self.trace.steps[-SHOWN:]):
            error.add_note(line)
        return error

    def result(self, deferred: Any, *, limit: float = 60.0) -> Any:
        """Lets time pass until a Deferred has fired.

        Args:
            deferred: may also be a coroutine that awaits some.
            limit: seconds of the world's.

        Returns:
            Its result.

        Raises:
            TimeoutError: it has not fired by then.
            Exception: whatever it failed with.
        """
        results: list[Any] = []

        def fired(result: Any) -> Any:
            results.append(result)
            return None if isinstance(result, Failure) else result

        maybeDeferred(lambda: deferred).addBoth(fired)
        self.run_until(lambda: results, limit=limit)
        if isinstance(results[0], Failure):
            results[0].raiseException()
        return results[0]

    @contextmanager
    def _heard(self) -> Iterator[None]:
        """Keeps what is logged as an error: nobody else may look, and whoever waits for what has failed waits in vain."""
        globalLogPublisher.addObserver(self._logged)  # type: ignore[arg-type]  # a function is one
        try:
            yield
        finally:
            globalLogPublisher.removeObserver(self._logged)  # type: ignore[arg-type]  # the same

    def _logged(self, event: LogEvent) -> None:
        if event["log_level"] >= LogLevel.error:
            failure = event.get("log_failure")
            problem = f"{failure.type.__name__}: {failure.getErrorMessage()}" if failure is not None else ""
            turn = self.agenda.turn
            self._failed(turn.name if turn is not None else "", ": ".join(filter(None, (formatEvent(event), problem))))

    def _failed(self, process: str, text: str) -> None:
        self.errors.append(f"{self.now:.3f} s, {process or 'nobody'}: {self.same(text)}")

    def note(self, kind: str, where: str, to: str = "", text: str = "") -> None:
        """Adds a step to the trace."""
        self.trace.note(self.now, kind, where, to, self.same(text))

    def same(self, text: str) -> str:
        """A text as it is in every run of this seed."""
        for path, name in self.aliases.items():
            text = text.replace(path, name)
        return text

    def timeline(self) -> str:
        """What has happened, for a terminal, one line for each step; empty if steps are not kept (`keep_trace`)."""
        return "\n".join(lines(self.trace.steps))

    # ---- who is there

    def _named(self, name: str) -> Process:
        """The process of a name, or a ValueError that says which there are."""
        try:
            return self.processes[name]
        except KeyError:
            raise ValueError(f"there is no process {name!r}; there are: {', '.join(self.processes) or 'none'}") from None

    def _machine(self, name: str) -> Machine:
        try:
            return self.machines[name]
        except KeyError:
            raise ValueError(f"there is no machine {name!r}; there are: {', '.join(self.machines) or 'none'}") from None

    def process(
        self, name: str, program: Callable[[Process], Any], *, machine: str = "", again: float | None = None, start: bool = True
    ) -> Process:
        """A new process.

        Args:
            name: how others call it; clients may connect to it by this name.
            program: takes the process and gives a service (`startService`, `stopService`); called again for each run.
            machine: where it runs; a machine of its own by default.
            again: see `Process`.
            start: begin at once.

        Returns:
            The process; its `service` is what the program gave for the present run.

        Raises:
            ValueError: there is one of that name.
            TypeError: the program did not give a service.
        """
        if name in self.processes:
            raise ValueError(f"there is a process {name!r} already; give each a name of its own (name=…)")
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
        router: Callable[[Process], Any] | None = None,
        machine: str = "",
        node: str = "",
        again: float | None = None,
        start: bool = True,
        **options: Any,
    ) -> Process:
        """A server that listens at `name:7777`, and lets everybody in unless it is given an authenticator.

        Args:
            store: makes its store for each run, such as `SimDisk(world).model`; by default a `MemoryStore`, which goes with the process.
            router: makes its router for each run; by default a `SingleRouter`.
            machine, again, start: see `process`.
            node: the node's name; the process's by default.
            options: for `ImServer`.

        Returns:
            The process; its `service` is the `ImServer`.

        Raises:
            ValueError: there is a process of that name.
        """

        def program(process: Process) -> ImServer:
            given: dict[str, Any] = {
                **process.server_options(),
                "router": router(process) if router is not None else SingleRouter(),
                "authenticator": Anybody(),
                "listen": [f"tcp:{PORT}"],
                **options,
            }
            server = ImServer(
                store=store(process) if store is not None else MemoryStore(clock=process.wall, random=process.random.randbytes),
                name=node or name,
                told_elsewhere=True,
                **given,
            )
            server.started.addErrback(lambda failure: self._not_started(process, failure))
            return server

        return self.process(name, program, machine=machine, again=again, start=start)

    def boot_of(self, process: Process) -> bytes:
        """A new boot id for the present run of a process; see `ImServer`."""
        boot = process.random.randbytes(16)
        self._boots[boot] = process.reactor
        return boot

    def has_gone(self, boot: bytes, asking: Process) -> bool:
        """Whether the run of a boot id is over, as far as another process of its machine can see."""
        reactor = self._boots.get(boot)
        return reactor is not None and not reactor.alive and self.processes[reactor.name].machine is asking.machine

    def _not_started(self, process: Process, failure: Failure) -> None:
        text = f"not started: {failure.getErrorMessage()}"
        self.note("log", process.name, text=text)
        self._failed(process.name, text)
        process.stop()

    def client(self, uid: str, *, at: str = "server", name: str = "", **options: Any) -> Client:
        """A client, in a process of its own, which begins at once.

        Args:
            uid: the user; also the process's name, if none is given.
            at: the servers' names, with commas between them; they must be there, but need not run.
            name: the process's, for a user's second client.
            options: for `Client`.

        Returns:
            The client. If its process is killed and started again, that runs a new one: `world.processes[name].service`.

        Raises:
            ValueError: there is a process of that name, or no server of one at `at`.
        """
        endpoint = ",".join(f"{self._named(each).name}:{PORT}" for each in at.split(","))

        def program(process: Process) -> Client:
            return Client(endpoint, uid=uid, **{"method": LoginMethod.ANONYMOUS, **process.client_options(), **options})

        client: Client = self.process(name or uid, program).service
        return client

    # ---- what can happen to them; each raises a ValueError for a name that there is not

    def start(self, name: str) -> None:
        """Starts a process, if it does not run."""
        self._named(name).start()

    def stop(self, name: str) -> None:
        """Asks a process to end in good order, as SIGTERM does."""
        self._named(name).stop()

    def kill(self, name: str) -> None:
        """Ends a process at once, as SIGKILL does; its kernel closes its connections."""
        self._named(name).kill()

    def freeze(self, name: str) -> None:
        """Stops a process, as SIGSTOP does: its connections stay, and it does nothing."""
        self._named(name).freeze()

    def thaw(self, name: str) -> None:
        """Lets a process that was frozen go on."""
        self._named(name).thaw()

    def power_off(self, machine: str) -> None:
        """All processes of a machine are gone, and nobody says so."""
        for process in self._machine(machine).processes:
            process.kill(power=True)
            self.links.dark[process.host] = None

    def power_on(self, machine: str) -> None:
        """The machine is back, and its processes begin again."""
        for process in self._machine(machine).processes:
            self.links.dark.pop(process.host, None)
            process.start()

    def cut(self, one: str, other: str) -> int:
        """Breaks all connections between two processes, as a router in between may; both are told, if the links carry it.

        Returns:
            How many there were.
        """
        here, there = self._named(one).host, self._named(other).host
        near = self.network.connections(here, there)
        for end in [*near, *self.network.connections(there, here)]:
            if self.links.carries(end.peer_host, end.host):
                end.was_reset()
        return len(near)

    def partition(self, one: str, other: str, *, one_way: bool = False) -> Callable[[], None]:
        """Nothing gets from one process to another, nor back, and nobody is told.

        Args:
            one_way: what the other sends gets there.

        Returns:
            What mends it. Partitions nest.
        """
        return self._both_ways(self.links.partition, one, other, one_way)

    def clog(self, one: str, other: str, factor: float, *, one_way: bool = False) -> Callable[[], None]:
        """Whatever goes from one process to another, and back, takes longer.

        Args:
            factor: how many times as long.
            one_way: what the other sends is as fast as before.

        Returns:
            What mends it.
        """
        return self._both_ways(lambda source, target: self.links.clog(source, target, factor), one, other, one_way)

    def _both_ways(self, harm: Callable[[str, str], Callable[[], None]], one: str, other: str, one_way: bool) -> Callable[[], None]:
        here, there = self._named(one).host, self._named(other).host
        mends = [harm(here, there)] + ([] if one_way else [harm(there, here)])

        def mend() -> None:
            for each in mends:
                each()

        return mend
