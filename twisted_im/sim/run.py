"""One run of one scenario: a world is made, loaded, broken, mended, left to settle, and judged.

Strategy: the clients' journals go to the oracle, which judges what users see. What must be so inside, at every moment, is looked at every
second and whenever something breaks (`_Watch`): what never goes back, what never grows beyond its bound, and that whatever was accepted is
on the disk. At the end everything is stopped, and what is left over then is a fault as well: a timer, a session, a process that does not
end. So is every error that a program has logged, unless a disk was broken on purpose.
"""

from __future__ import annotations

import gc
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zlib import crc32

from twisted.internet.defer import Deferred
from twisted.logger import ILogObserver, LogLevel, globalLogBeginner, globalLogPublisher
from zope.interface import provider

from twisted_im.client.values import Life
from twisted_im.core.connection import Limits, State
from twisted_im.faults.recorder import device_id
from twisted_im.oracle import Accepted, Anchored, Event, Healed, Member, Oracle, Quiet, Sent, Shown
from twisted_im.oracle import Fault as Broken
from twisted_im.routing.table_redis_scripts import user_key as entries_key
from twisted_im.server.names import user_key
from twisted_im.sim.cluster import mesh, redis, route_server, star
from twisted_im.sim.devices import Device, MemoryJournal, noted
from twisted_im.sim.disk import SimDisk
from twisted_im.sim.nemesis import begin
from twisted_im.sim.prompt import Prompt
from twisted_im.sim.scenario import CLUSTERS, Fault, Scenario
from twisted_im.sim.trace import Step
from twisted_im.sim.world import Process, World
from twisted_im.wire.schema import Role

#: Seconds from the last fault until everything accepted is to be shown (the oracle's L0), and a little more.
SETTLE = 65.0
#: Seconds for which everything must have been shown and everybody online: what is shown twice is shown then.
LINGER = 3.0
#: Seconds in which every process must have ended when it was asked to.
STOP = 60.0
#: Seconds between two looks at what must always be so.
LOOK = 1.0
#: Seconds for which two nodes may have a session of one device: a look at the leases, one that fails, and the answer.
DOUBLED = 6.0
#: Seconds until a supervisor starts a server again, and a person a client.
SUPERVISED, PERSON = 2.0, 1.5
#: What may be logged as an error: a node that was taken for dead, and a device that was logged in elsewhere.
_WELL_SAID = ("another process has become the node", "the same device has logged in again")
#: law → what it says: what a run holds besides the oracle's laws
INVARIANTS = {
    "A1": "what was accepted is on the disk, where it was said to be",
    "B0": "what a server holds for others is bounded",
    "C0": "cursors, receipts and the heads of logs never go back",
    "E0": "no program logs an error that nobody has caused",
    "F0": "the store's file is whole",
    "K2": "a node that is heard knows of every session whose login was answered",
    "L1": "whoever is online shows what is accepted soon, while other things are broken",
    "O1": "the messages of a device stand in the order in which it has sent them",
    "K0": "in the end each node of a cluster hears every other",
    "K1": "in the end each node of a mesh, or its Redis, knows exactly the sessions that live elsewhere",
    "S0": "in the end a server serves, every device is online, and whatever is asked to end ends",
    "S1": "a server's sessions are the devices that are online",
    "S2": "a connection on which nothing comes ends after the time of its heartbeat and of a ping",
    "S3": "in the end one process serves as a node, and not two",
    "S4": "a device has one session in all of a cluster, but for a moment",
    "T0": "a program that has ended leaves no timer behind",
    "X0": "the simulator itself comes to the end of a run",
}
#: The servers' limits: a silent client is noticed soon, since the run is short.
LIMITS = Limits(heartbeat=5)


@dataclass
class Outcome:
    """What came of a run.

    Attributes:
        violations: one line for each promise that was broken; empty if all were kept.
        simulated: seconds of the world.
        events: calls that were made in it.
        faults: kind → how many were begun.
        counts: of the oracle; see `twisted_im.oracle.COUNTS`.
        digest: equal for equal runs.
        steps: what happened, if that was to be kept.
    """

    scenario: Scenario
    violations: list[str]
    simulated: float
    events: int
    faults: Counter[str]
    counts: dict[str, int]
    digest: str
    steps: list[Step] = field(default_factory=list)


def run(scenario: Scenario, *, keep_trace: bool = False) -> Outcome:
    """Runs a scenario from its beginning to its judgement."""
    return _Run(scenario, keep_trace).execute()


def settle_in() -> None:
    """For a process that does nothing but runs: what they log goes nowhere else, and what was imported by now is never looked through."""
    globalLogBeginner.beginLoggingTo([], redirectStandardIO=False, discardBuffer=True)
    gc.collect()
    gc.freeze()


def law(violation: str) -> str:
    """The letters of the law that a violation breaks."""
    return violation.partition(":")[0]


class _Run:
    """A run that goes on.

    Attributes:
        servers, hosts, devices: processes, by name; see `nemesis.Victim`.
        events: what the oracle is to judge.
    """

    def __init__(self, scenario: Scenario, keep_trace: bool) -> None:
        self.scenario = scenario
        self.world = World(scenario.seed, keep_trace=keep_trace)
        self.world.links.latencies, self.world.links.buffers = scenario.latencies, scenario.buffers
        self.disk = SimDisk(self.world, self.world.chance("disk"))
        self.servers: dict[str, Process] = {}
        self.hosts: dict[str, Process] = {}
        self.devices: dict[str, Process] = {}
        self.events: list[Event] = []
        self.accepted: dict[str, tuple[int, int]] = {}
        self.violations: list[str] = []
        self._faults: Counter[str] = Counter()
        self._mends: list[Callable[[], object]] = []
        self._expected: Counter[str] = Counter()
        self._senders: dict[str, tuple[str, str | int]] = {}
        self._groups: list[int] = []
        self._twins = 0
        self._healed = False
        self.prompt = Prompt()
        self._watch = _Watch(self)

    # ---- from beginning to end

    def execute(self) -> Outcome:
        """Everything."""
        with _no_collections(), self._errors():
            try:
                self._begin()
                self._load()
                self._settle()
                self._watch.at_rest()
                self._stop()
            except _GaveUp as given_up:
                self.violations.append(str(given_up))
            except Exception as error:
                place = traceback.extract_tb(error.__traceback__)[-1]
                self.violations.append(f"X0: {type(error).__name__}: {error}, in {place.name} of {Path(place.filename).name}")
            finally:
                for process in self.world.processes.values():
                    process.kill()
                self.disk.close()
            gc.collect()  # a failure that nobody has looked at is logged when it is thrown away
        self.violations += self._in_order()
        world = self.world
        oracle = Oracle()
        for number, event in enumerate(self.events):
            oracle.add(event, number)
        report = oracle.judge()
        broken = [f"{violation.law}: {violation.text}" for violation in report.violations]
        return Outcome(
            self.scenario,
            broken + self.violations,
            world.now,
            world.agenda.done,
            self._faults,
            report.counts,
            world.trace.digest,
            world.trace.steps,
        )

    def _begin(self) -> None:
        """Servers, accounts, groups and devices."""
        scenario, world = self.scenario, self.world
        make = self.disk.sqlite if scenario.store == "sqlite" else self.disk.model
        machine = "rack" if scenario.store == "sqlite" else ""  # a file is for the processes of one machine
        for name in scenario.route_servers:
            self.hosts[name] = route_server(world, name, again=SUPERVISED, window=scenario.link_window)
        for name in scenario.redises:
            self.hosts[name] = redis(world, name, again=SUPERVISED)
        for name in scenario.servers:
            self.servers[name] = self.hosts[name] = world.server(
                name,
                store=make,
                router=self._router(),
                machine=machine,
                node=name if scenario.topology in CLUSTERS else "node",
                standby=scenario.topology == "standby",
                again=SUPERVISED,
                limits=LIMITS,
            )
        node = self.servers[scenario.servers[0]].service.node
        self._until(lambda: self.serving() is not None, "no server has started")
        serving = self.serving()
        node = serving.service.node if serving is not None else node
        self._wait(node.store.accounts([user_key(b"", user.encode()) for user in scenario.users], True))
        for number, members in enumerate(scenario.groups):
            if not members:  # of a scenario that was made smaller; the others keep their numbers
                self._groups.append(0)
                continue
            group = self._wait(node.store.create_group(f"group{number}".encode(), [user_key(b"", user.encode()) for user in members]))
            self._groups.append(group)
            for user in members:
                self.events.append(Member(time=world.now, user=user, conversation=group, seq=1, joined=True))
        for name in scenario.devices:
            journal = MemoryJournal(lambda event, name=name: self._told(name, event))  # type: ignore[misc]  # a lambda's default
            self.devices[name] = world.process(name, self._device(name, journal))

    def _router(self) -> Callable[[Process], Any] | None:
        """What makes the nodes' routers."""
        scenario = self.scenario
        if scenario.topology in ("mesh", "mesh-redis"):
            return mesh(scenario.redises, window=scenario.link_window)
        if scenario.topology not in CLUSTERS:
            return None
        return star(scenario.route_servers, broadcast=scenario.topology == "broadcast", window=scenario.link_window)

    def _device(self, name: str, journal: MemoryJournal) -> Callable[[Process], Device]:
        scenario = self.scenario
        first = crc32(name.encode()) % len(scenario.servers) if scenario.topology in CLUSTERS else 0
        at = scenario.servers[first:] + scenario.servers[:first]  # so that all nodes have some

        def program(process: Process) -> Device:
            process.on_over.append(
                lambda killed: journal.state.crash(self.world.chance(f"{name} {process.runs} crash")) if killed else None
            )
            return Device(process, name, at, journal, back=PERSON, catch_up=scenario.catch_up, taking=scenario.taking)

        return program

    def twin(self, device: str) -> Process:
        """A process that logs in as a device that there is already. No message counts as shown there: the other would never see it."""
        self._twins += 1
        user, _, name = device.partition("/")
        process = f"{device} again {self._twins}"
        at = ",".join(reversed(self.servers) if self.scenario.topology in CLUSTERS else self.servers)
        self.world.client(user, at=at, name=process, device=device_id(user, name), on_message=lambda message: Deferred())
        return self.world.processes[process]

    def _load(self) -> None:
        """Everybody sends, and things break."""
        world = self.world
        for sending in self.scenario.sendings:
            world.after(sending.at, self._send, sending.device, sending.target)
        for fault in self.scenario.faults:
            world.after(fault.at, self._break, fault)
        until = world.now + self.scenario.seconds
        while world.now < until:
            world.run_for(min(LOOK, until - world.now))
            self._watch.look()

    def _send(self, device: str, target: str | int) -> None:
        process = self.devices[device]
        if process.alive and isinstance(process.service, Device):
            process.reactor.soon(process.service.recorder.send, self._groups[target] if isinstance(target, int) else target)

    def _break(self, fault: Fault) -> None:
        if self._healed:
            return
        self._faults[fault.kind] += 1
        if not fault.target or fault.target in self.devices:
            self.prompt.excuse(fault.target, self.world.now + fault.seconds)
        self.world.note("fault", fault.target, text=str(fault))
        self.events.append(Broken(time=self.world.now, kind=fault.kind))
        mend = begin(self, fault)
        self._mends.append(mend)
        self._watch.look()

        def mended() -> None:
            if mend in self._mends:
                self._mends.remove(mend)
                self.world.note("heal", fault.target, text=str(fault))
                mend()

        if fault.seconds:
            self.world.after(fault.seconds, mended)

    def _settle(self) -> None:
        """Everything is mended, and has time to come to rest."""
        world = self.world
        self._healed = True
        mends, self._mends = self._mends, []
        for mend in mends:
            mend()
        for process in self.devices.values():  # one that was asked to end while it was stopped does so when it goes on
            process.again = PERSON
        for process in (*self.hosts.values(), *self.devices.values()):
            process.thaw()
            process.start()
            if isinstance(process.service, Device):  # whoever waits for the network is told that it is back
                process.reactor.soon(process.service.recorder.client.hurry)
        world.note("heal", "", text="everything")
        self.events.append(Healed(time=world.now))
        until, calm = world.now + SETTLE, 0.0
        while world.now < until and calm < LINGER:  # a server whose store broke last may notice when everybody is online
            world.run_for(LOOK)
            self._watch.look()
            calm = calm + LOOK if self._settled() else 0.0
        self.events.append(Quiet(time=world.now))

    def _settled(self) -> bool:
        """Everybody is online, as the server sees it too, and has shown what there is."""
        for name, process in self.devices.items():
            device = process.service
            if not isinstance(device, Device) or not device.recorder.online or device.recorder.unanswered:
                return False
            if device.recorder.covered < self._expected[name]:
                return False
        serving = list(filter(_serves, self.servers.values()))  # one may not know yet that another has its place
        # nor a device that its server has lost its power
        nodes = len(self.servers) if self.scenario.topology in CLUSTERS else 1
        here = sum(len(process.service.node.sessions) for process in serving)
        whole = len(serving) == nodes and here == len(self.devices)
        return whole and not any(process.service.node.doubts.open for process in serving) and not self.misplaced(serving)

    def misplaced(self, serving: list[Process]) -> str:
        """What is wrong with the table in Redis: the first such place; empty if nothing is, or there is none."""
        redises = self.scenario.redises
        wanted: dict[tuple[str, bytes], dict[bytes, bytes]] = {}
        for node in [process.service.node for process in serving]:
            for session in node.sessions:
                place = redises[crc32(session.user) % len(redises)] if redises else ""
                entries = wanted.setdefault((place, entries_key(session.user)), {})
                entries[node.boot + session.device + node.name.encode()] = b"%d" % session.number
        found: dict[tuple[str, bytes], dict[bytes, bytes]] = {}
        for name in redises:
            service = self.hosts[name].service
            for key, entries in service.keys.contents().items() if service is not None else ():
                if key.startswith(entries_key(b"")):
                    found[name, key] = entries
        wrong = [place for place in (*wanted, *found) if wanted.get(place) != found.get(place)] if redises else []
        return f"{wrong[0][1]!r} in {wrong[0][0]}" if wrong else ""

    def _stop(self) -> None:
        """Everything ends in good order, and leaves nothing behind."""
        for process in self.world.processes.values():
            process.again = None
        for some in (self.devices, self.hosts):
            for process in some.values():
                process.stop()
            self._until(lambda: not any(process.alive for process in some.values()), "a process does not end", STOP)  # noqa: B023
        self.violations += [f"T0: {leak}" for leak in dict.fromkeys(self.world.leaks)]

    # ---- what it is told

    def _told(self, name: str, event: Event) -> None:
        """An event of a device's journal."""
        self.events.append(event)
        noted(self.world, name, event)
        if isinstance(event, Sent):
            self._senders[event.client_id] = name, event.target
        elif isinstance(event, Accepted):
            self.accepted[event.client_id] = event.conversation, event.seq
            sender, target = self._senders[event.client_id]
            if isinstance(target, int):
                users = self.scenario.groups[self._groups.index(target)]
            else:
                users = (sender.partition("/")[0], target)
            for device in self.scenario.devices:
                if device != sender and device.partition("/")[0] in users:
                    self._expected[device] += 1
                    self.prompt.accepted(device, event.conversation, event.seq, event.time)
        elif isinstance(event, Shown):
            self.prompt.shown(name, event.conversation, event.seq)
        elif isinstance(event, Anchored):
            self.prompt.shown(name, event.conversation, event.seq - 1)

    def _in_order(self) -> Iterator[str]:
        """One line for each message that stands before one which the same device has sent earlier."""
        last: dict[tuple[str, int], int] = {}
        for client_id, (device, _) in self._senders.items():
            conversation, seq = self.accepted.get(client_id, (0, 0))
            if seq < last.get((device, conversation), 0):
                yield f"O1: {device} has sent {client_id} after what is seq {last[device, conversation]} of {conversation}, but it is {seq}"
            elif seq:
                last[device, conversation] = seq

    def serving(self) -> Process | None:
        """The server that serves."""
        for process in self.servers.values():
            if _serves(process):
                return process
        return None

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Whatever programs log as an error is a violation, unless a disk has failed on purpose, which they may well say."""
        expected = {"error", "lost"} & {fault.kind for fault in self.scenario.faults}

        @provider(ILogObserver)
        def observe(event: dict[str, Any]) -> None:
            if event["log_level"] < LogLevel.error:
                return
            failure = event.get("log_failure")
            text = f"{event.get('log_format') or ''}".format_map(_Known(event)).strip()
            if failure is not None:
                text = f"{text or 'unhandled'}: {failure.type.__name__}: {failure.getErrorMessage()}"
            text = self.world.same(text)
            if not (expected and "disk" in text) and not any(words in text for words in _WELL_SAID):
                self.violations.append(f"E0: somebody has logged an error: {text}")
            self.world.note("log", "", text=text)

        globalLogPublisher.addObserver(observe)
        try:
            yield
        finally:
            globalLogPublisher.removeObserver(observe)

    def _until(self, condition: Callable[[], bool], what: str, limit: float = 60.0) -> None:
        try:
            self.world.run_until(condition, limit=limit)
        except TimeoutError:
            raise _GaveUp(f"S0: {what} within {limit:.0f} s") from None

    def _wait(self, done: Deferred[Any]) -> Any:
        found: list[Any] = []
        done.addCallback(found.append)
        self._until(lambda: bool(found), "the store has not answered")
        return found[0]


@contextmanager
def _no_collections() -> Iterator[None]:
    """Garbage is collected before and after, never within: when that would be depends on what the process has done before, and a failure
    that nobody has looked at is logged when it is thrown away."""
    gc.collect()
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


def _serves(process: Process) -> bool:
    return bool(process.alive and process.service is not None and process.service.addresses)


class _GaveUp(Exception):
    """A run cannot go on."""


class _Known(dict[str, Any]):
    """Fills a log's format as far as it can."""

    def __missing__(self, key: str) -> str:
        return f"{{{key}}}"


class _Watch:
    """What must be so at every moment."""

    def __init__(self, run: _Run) -> None:
        self._run = run
        self._marks: dict[tuple[str, object, int], int] = {}
        self._devices: list[tuple[bytes, bytes]] = []
        self._said: dict[str, None] = {}
        self._silent: dict[Any, float] = {}
        self._doubled: dict[Any, float] = {}

    def _say(self, text: str) -> None:
        if text not in self._said:
            self._said[text] = None
            self._run.violations.append(text)

    def look(self) -> None:
        """Looks at the disk and at every server."""
        self._look_at_disk()
        self._look_for_silence()
        for process in self._run.servers.values():
            if process.alive and process.service is not None:
                self._look_at_node(process.name, process.service.node)
        self._look_at_devices()

    def _look_at_devices(self) -> None:
        """Whether they have one session each, and are shown what there is for them."""
        run, now = self._run, self._run.world.now
        runs = [process for process in run.servers.values() if _serves(process) and not process.reactor.frozen]
        at: dict[tuple[bytes, bytes], list[Any]] = {}
        for node in [process.service.node for process in runs]:
            for session in node.sessions:
                at.setdefault((session.user, session.device), []).append(session)
        doubled, self._doubled = self._doubled, {}
        for sessions in [sessions for sessions in at.values() if len(sessions) > 1 and not run.disk.trouble]:
            older = min(sessions, key=lambda session: session.number)
            since = self._doubled[older] = doubled.get(older, now)
            if now - since > DOUBLED:
                self._say(f"S4: {older.user!r} has a session of one device on each of {len(sessions)} nodes")
        if run.scenario.topology == "mesh":
            self._look_at_links([process.service.node for process in runs])
        if run.scenario.taking:
            return  # who is late may be the application
        sound = [
            name
            for name, process in run.devices.items()
            if isinstance(process.service, Device)
            and process.service.recorder.online
            and (user_key(b"", name.partition("/")[0].encode()), process.service.recorder.client.device) in at
        ]
        for late in run.prompt.look(now, sound):
            self._say(f"L1: {late}")

    def _look_at_disk(self) -> None:
        run = self._run
        if not self._devices:
            self._devices = [
                (user_key(b"", name.partition("/")[0].encode()), process.service.recorder.client.device)
                for name, process in run.devices.items()
                if isinstance(process.service, Device)
            ]
        marks = run.disk.marks(self._devices)
        for key, seq in self._marks.items():
            if marks and marks.get(key, 0) < seq:
                self._say(f"C0: {key[0]} of {key[1]!r} in conversation {key[2]} went back from {seq} to {marks.get(key, 0)}")
        self._marks.update(marks)
        if marks:
            placed = run.disk.placed()
            for client_id, place in run.accepted.items():
                if placed.get(client_id) != place:
                    self._say(f"A1: {client_id} was accepted as {place}, but the disk has it as {placed.get(client_id)}")

    def _look_at_node(self, name: str, node: Any) -> None:
        for pump in node.pumps:
            size = sum(map(len, pump.out))
            bound = pump.budget + pump.connection.max_body + 64 * 1024
            if pump.connection.state is State.OPEN and size > bound:
                self._say(f"B0: {name} holds {size} bytes for one connection, where {bound} are the most")
            session = pump.context
            if pump.connection.state is State.OPEN and node.sessions.get(session.user, session.device) is not session:
                self._say(f"S1: {name} has an open connection of a session that it does not know")
        for session in node.sessions:
            if session.pump not in node.pumps:
                self._say(f"S1: {name} has a session whose connection is gone")
        if len(node.ledger.messages) > 30_000:
            self._say(f"B0: {name} holds {len(node.ledger.messages)} messages for its store")

    def _look_at_links(self, nodes: list[Any]) -> None:
        """Whether those whom a node hears know who is there. Both are to have the same link: its end may be on its way to one of them."""
        for here in nodes:
            for there in [there for there in nodes if there is not here]:
                link = here.router._heard.get(there.name)
                back = there.router._links.get(Role.PEER, here.name) if there.router._links is not None else None
                if link is None or back is None or link._pump.transport.getHost() != back._pump.transport.getPeer():
                    continue
                for session in here.sessions:
                    known = here.name in there.router._table.nodes_of((session.user,))
                    if not known and session.pump.connection.state is State.OPEN:
                        self._say(f"K2: {here.name} hears {there.name}, which does not know of {session.user!r} there")

    def _look_for_silence(self) -> None:
        """Connections that say nothing for longer than they may; a process that was stopped has a moment to find them."""
        now = self._run.world.now
        silent, self._silent = self._silent, {}
        runs = [process for process in self._run.servers.values() if _serves(process) and not process.reactor.frozen]
        for name, pump in [(process.name, pump) for process in runs for pump in process.service.node.pumps]:
            connection = pump.connection
            waits = pump.clogged or pump._held is not None  # nothing is read from it
            allowed = connection.heartbeat * 1.5 + 1.0 + (LIMITS.ping if connection._pinged else 0.0)  # its answer has time of its own
            if connection.state is State.OPEN and not waits and pump.turn.now() - connection.heard > allowed:
                since = self._silent[pump] = silent.get(pump, now)
                if now - since >= LOOK:
                    self._say(f"S2: {name} has an open connection on which nothing came for longer than the heartbeat allows")

    def _look_at_cluster(self, serving: list[Process]) -> None:
        """Whether everybody serves, hears everybody, and knows where everybody is."""
        missing = [name for name, process in self._run.servers.items() if process not in serving]
        if missing:
            self._say("S0: in the end these do not serve: " + ", ".join(missing))
        for process in serving:
            for peer in process.service.node.doubts.open:
                self._say(f"K0: {process.name} does not hear {peer} in the end")
        misplaced = self._run.misplaced(serving)
        if misplaced:
            self._say(f"K1: the table has not what there is in the end: {misplaced}")
        if self._run.scenario.topology == "mesh":
            for process in serving:
                elsewhere = sum(len(other.service.node.sessions) for other in serving if other is not process)
                count = process.service.node.router.elsewhere
                if count != elsewhere:
                    self._say(f"K1: {process.name} knows of {count} sessions elsewhere in the end, not of {elsewhere}")

    def at_rest(self) -> None:
        """Looks once more, when everything has come to rest: those who are online are those that the server knows."""
        run = self._run
        self.look()
        online = {
            name
            for name, process in run.devices.items()
            if isinstance(process.service, Device) and process.service.recorder.client.standing.life is Life.ONLINE
        }
        if len(online) < len(run.devices):
            self._say(f"S0: not online in the end: {', '.join(sorted(set(run.devices) - online))}")
        serving = list(filter(_serves, run.servers.values()))
        if run.scenario.topology in CLUSTERS:
            self._look_at_cluster(serving)
        elif len(serving) > 1:
            self._say("S3: two processes serve as one node in the end")
        if not serving:
            self._say("S0: no server serves in the end")
        here = sum(len(process.service.node.sessions) for process in serving)
        if here != len(online):
            self._say(f"S1: {here} sessions in the end, but {len(online)} devices are online")
        for finding in run.disk.findings():
            self._say(f"F0: {finding}")
