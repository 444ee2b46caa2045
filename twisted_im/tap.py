"""`twistd im`: the options, and the service that they describe. With `twisted_im.config` the only place that knows every part.

Strategy: the flags come from the declaration in `twisted_im.config`, and everything is judged while they are parsed, so that a mistake is
one line and a status of 1 before anything has started; `makeService` then only calls constructors with keyword arguments.
"""

from __future__ import annotations

import atexit
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import chdir, suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

from twisted.application.service import IService, MultiService
from twisted.internet.task import LoopingCall
from twisted.logger import ILogObserver, Logger
from twisted.python import usage
from twisted.python.failure import Failure
from twisted.python.logfile import LogFile
from zope.interface import implementer

from twisted_im.config import (
    CONFIG,
    DEFAULT,
    MEMORY_TABLE,
    PREFIX,
    ROUTE_SETTINGS,
    SETTINGS,
    STORES,
    Found,
    Mistakes,
    Setting,
    as_file,
    configured,
    data_folder,
    flag_like,
    open_secrets,
    secret_file,
)
from twisted_im.core.connection import Limits
from twisted_im.edge.endpoints import DEFAULT_LISTEN, explained
from twisted_im.edge.peers import DEFAULT_PORT, LinkEnds, LinkFault
from twisted_im.edge.redis import redis_server
from twisted_im.edge.tcp import DAY
from twisted_im.joining import join
from twisted_im.jsonlog import JsonLog
from twisted_im.processes import Processes
from twisted_im.routing.broadcast import BroadcastRouter
from twisted_im.routing.link import link_limits
from twisted_im.routing.mesh import MeshRouter
from twisted_im.routing.route_server import RouteServer
from twisted_im.routing.single import SingleRouter
from twisted_im.routing.star import StarRouter
from twisted_im.routing.table_memory import MemoryTable
from twisted_im.routing.table_redis import RedisTable
from twisted_im.server.authenticators import Anybody, Methods, PasswordFile, StoreAccounts
from twisted_im.server.interfaces import StoreError
from twisted_im.server.passwords import PasswordChecks
from twisted_im.server.tokens import SignedTokens
from twisted_im.service import ImServer, stop
from twisted_im.wire.schema import LoginMethod

log = Logger()

EXAMPLES = f"""
Examples:
  twistd -n im --auth=anonymous
      try it: anybody may log in, from this machine only
  twistd -n im
      users come from the file twisted_im.passwords; make some with
      python -m twisted_im password twisted_im.passwords alice
  twistd im --listen=tls:im.pem:port=7778:interface=0.0.0.0
      in the background, with TLS, for everybody; to make a certificate, see
      python -m twisted_im certificate --help
  twistd -n im --listen={DEFAULT_LISTEN} --listen=unix:/run/im.sock
      two doors
  twistd -n im --strategy=routed
      the first node of a cluster: its log says how another one joins

Every option may also stand in a file (--config=im.toml: heartbeat = 60) or in
the environment (TWISTED_IM_HEARTBEAT=60); a flag is stronger than a variable,
and that than the file. --check-config shows what would run.

An endpoint without interface= listens on this machine only (127.0.0.1).
Logs are JSON, one object a line: to the terminal with -n, else to twistd.log.
Stop it with SIGTERM: it commits what it has read, and tells its clients to
come back. SIGHUP has it read its certificates again.
"""


ROUTE_EXAMPLES = f"""
Examples:
  twistd -n im route
      for nodes of this machine, at {DEFAULT_PORT}; each is
      started with --strategy=broadcast --route-server=tcp:127.0.0.1:7900
      (or routed and --via=route-server), and the same --data, where the
      cluster's secret is
  twistd -n im route --name=routes-1
         --listen=tls:routes-1.pem:port=7900:authority=nodes.pem
      with certificates instead of a secret; to make them, see
      python -m twisted_im certificate node --help

It keeps nothing. A cluster may have several, each with a name of its own.
"""


class StartError(SystemExit, Exception):
    """The service cannot start. Both bases matter: twistd in the background reports an `Exception` to the terminal that it left, and
    an interpreter that meets a `SystemExit` prints one line instead of a traceback.

    Args:
        why: one line that says what to do, short: twistd in the background shows a hundred characters of the class and of this.
    """

    __module__ = "builtins"  # so that few of these characters are spent on the name

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.code = f"twisted_im: {why}"


class Configured(usage.Options):
    """What an operator may say: in flags, in the environment, and in a file. After `parseOptions` each setting is there by its name.

    Attributes:
        settings: those that there are.
        command: what is typed for this.
        examples: the end of the help.
        folder: the folder that the server will run in, which relative paths are seen from.
        found: each setting's value, and where it comes from.
        data: the path of the data directory, if it is to be there.
        secret: the path of the cluster's secret, if one is wanted.
        warnings: what can be run, but should not be.

    Args:
        environment: the environment's variables.
    """

    settings: Sequence[Setting]
    command: str
    examples: str

    synopsis = "[options]"
    parent: Any = None
    compData = usage.Completions()

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        super().__init__()
        self._environment = environment
        self.update(dict.fromkeys(each.name for each in (CONFIG, *self.settings)))  # so that a flag that was given is known from a default
        self.folder = Path()
        self.found: Mapping[str, Found] = {}
        self.data: str | None = None
        self.secret: str | None = None
        self.warnings: list[str] = []

    def getUsage(self, width: int | None = None) -> str:
        usage: str = super().getUsage(width)
        return usage + self.examples

    def parseOptions(self, options: Any = None) -> None:
        """A mistake is one line; twistd would print the whole help and the line after it."""
        try:
            super().parseOptions(options)
        except usage.UsageError as error:
            unknown = re.fullmatch(r"option (\S+) not recognized", str(error))
            near = flag_like(unknown[1], self.settings) if unknown else ""
            word = re.fullmatch(r"Unknown command: (.*)", str(error), re.DOTALL)
            what = f"unexpected {word[1]!r}: everything is an option, but for route" if word else error
            raise StartError(f"{what}{near} (see: {self.command} --help)") from None

    def parseArgs(self, *words: str) -> None:
        if words:
            raise usage.UsageError(f"unexpected {words[0]!r}: everything is an option; see --help")

    @property
    def runner(self) -> Mapping[str, Any] | None:
        """What runs this: twistd's options; None under `twist`, and where nothing does."""
        above = self.parent
        while isinstance(above, Configured):
            above = above.parent
        return above if isinstance(above, dict) else None

    def postOptions(self) -> None:
        given = {name: said for name, said in self.items() if said is not None}
        try:
            with chdir((self.runner or {}).get("rundir") or "."):
                self.folder = Path.cwd()
                self.found = found = configured(given, self._environment, self.settings)
                self.warnings = open_secrets(found, self.settings)
        except OSError as error:
            raise usage.UsageError(f"--rundir: {explained(error)}") from None
        except Mistakes as mistakes:
            if self["check-config"]:
                raise SystemExit("\n".join(f"twisted_im: {line}" for line in mistakes.lines)) from None
            raise usage.UsageError(mistakes.lines[0]) from None
        if self["check-config"]:
            sys.stdout.write(as_file(found, self.settings).encode(errors="backslashreplace").decode())
            sys.stderr.writelines(f"twisted_im: warning: {warning}\n" for warning in self.warnings)
            raise SystemExit(0)
        self.update({name: value for name, (value, _) in found.items()})
        self.data = data_folder(found)
        self.secret = secret_file(found)


def _flags(settings: Sequence[Setting]) -> list[list[Any]]:
    """What takes no value."""
    check = ["check-config", None, "Say what would run, setting by setting, or all that is wrong; start nothing."]
    return [check, *([each.name, each.short, each.help] for each in settings if each.is_switch)]


def _parameters(settings: Sequence[Setting]) -> list[list[Any]]:
    """What takes one."""
    return [[each.name, each.short, each.default_text, each.help] for each in (CONFIG, *settings) if not each.is_switch and not each.many]


class RouteOptions(Configured):
    """What the operator of a route server may say."""

    settings = ROUTE_SETTINGS
    command = "twistd im route"
    examples = ROUTE_EXAMPLES
    optFlags = _flags(ROUTE_SETTINGS)
    optParameters = _parameters(ROUTE_SETTINGS)


class Options(Configured):
    """What the operator of a node may say."""

    settings = SETTINGS
    command = "twistd im"
    examples = EXAMPLES
    optFlags = _flags(SETTINGS)
    optParameters = _parameters(SETTINGS)
    subCommands = [["route", None, RouteOptions, "Run a route server, and no node; see: twistd im route --help"]]

    def postOptions(self) -> None:
        if self.subCommand is None:
            super().postOptions()
        elif given := [name for name, said in self.items() if said]:
            raise usage.UsageError(f"--{given[0]}: a route server's options come after the word {self.subCommand}")


def _given_again(setting: Setting) -> Callable[[Options, str], None]:
    """The method of a flag that may be given several times."""

    def said(self: Options, item: str) -> None:
        self[setting.name] = [*(self[setting.name] or ()), item]

    default = f" [default: {setting.default_text}]" if setting.default_text else ""
    said.__doc__ = f"{setting.help.removesuffix('.')}; may be given several times.{default}"
    return said


for _each in SETTINGS:
    if _each.many:
        _said = _given_again(_each)
        for _name in filter(None, (_each.name, _each.short)):
            setattr(Options, f"opt_{_name.replace('-', '_')}", _said)


@implementer(IService)
class ImService(MultiService):
    """A node or a route server as twistd runs it: with logs as JSON, a failure to start said in one line, and a status of 1 when it went
    wrong later.

    Args:
        parent_options: twistd's own options, which say where logs go; None under `twist`, which has options of its own for that.
        data: the data directory; made if it is missing, by the user and in the folder that twistd has changed to. None if there is none.
        link_listen: the option that says where links are taken.

    Attributes:
        ends: where its links begin and end; None if it has none.
    """

    def __init__(self, parent_options: Any = None, data: str | None = None, *, link_listen: str = "--link-listen") -> None:
        super().__init__()
        self.ends: LinkEnds | None = None
        self._data = data
        self._link_listen = link_listen
        self._parent_options = parent_options
        self._why = ""
        self._up = False
        self._failed = False

    def setServiceParent(self, parent: Any) -> None:
        super().setServiceParent(parent)
        options = self._parent_options
        if hasattr(parent, "setComponent") and options is not None and not options.get("logger") and not options.get("syslog"):
            try:
                parent.setComponent(ILogObserver, JsonLog(_log_file(options)))
            except OSError as error:
                raise StartError(f"{explained(error)}; say another --logfile") from None

    def reload(self) -> None:
        """Reads all certificates again."""
        if self.ends is not None:
            self.ends.reload()
        for each in self:
            if isinstance(each, ImServer | Processes):
                each.reload()

    def tell_counters(self) -> None:
        """Logs all counters."""
        for each in self:
            if isinstance(each, ImServer | RouteServer | Processes):
                each.tell_counters()

    def startService(self) -> None:
        atexit.register(self._leave)
        _heed_signals()
        _heed_hangup(self.reload)
        _heed(signal.SIGUSR2, self.tell_counters)
        if self._data is not None:
            try:
                Path(self._data).mkdir(mode=0o700, parents=True, exist_ok=True)
            except OSError as error:
                raise StartError(f"--data: {explained(error)}") from None
        super().startService()
        for each in self:
            each.started.addErrback(self._not_started)
        if self._why:
            raise StartError(self._why)
        if self.ends is not None and self.ends.certificates is not None:
            watch = LoopingCall(self.ends.certificates.watch)
            watch.clock = _reactor()
            watch.start(DAY)
        self._up = True
        _quiet_collector()

    def _not_started(self, failure: Failure) -> None:
        self._why = explained(failure.value)
        if isinstance(failure.value, LinkFault):
            self._why = self._why.replace("--listen", self._link_listen)
        elif isinstance(failure.value, StoreError):
            self._why = self._why if "--" in self._why else f"--store: {self._why}"
        if isinstance(failure.value, OSError | OverflowError):  # a path that is not there, a port above all ports
            self._why += "; change --listen"
        if self._up:  # it failed later than in `startService`, where an exception would have done
            log.critical("not started: {why}", why=self._why)
            self.fail()

    def fail(self, *_: object) -> None:
        """Stops everything in good order, and has the process end with a status of 1: something has gone wrong, and the log says what."""
        self._failed = True
        stop(_reactor())

    def _leave(self) -> None:
        """The last thing that the process does. Neither twistd nor twist asks a service for a status: what is raised while the reactor runs
        is printed and forgotten, and who leaves at the reactor's end leaves the pid file behind."""
        if self._failed:
            for stream in (sys.stdout, sys.stderr):
                with suppress(OSError, ValueError):  # whoever read it may be gone
                    stream.flush()
            os._exit(1)


def _log_file(options: Any) -> Any:
    """Where twistd would log to; as with twistd, SIGUSR1 begins a new file."""
    name = options.get("logfile")
    if name == "-" or (options.get("nodaemon") and not name):
        return sys.stdout
    file = LogFile.fromFullPath(name or "twistd.log")
    _heed(signal.SIGUSR1, file.rotate)
    return file


def _heed(number: int, call: Callable[[], object]) -> None:
    """Has a signal do something, unless the operator's reactor or plugin has a use for it."""
    if signal.getsignal(number) == signal.SIG_DFL:
        signal.signal(number, lambda *_: _reactor().callFromThread(call))


def _reactor() -> Any:
    """The reactor that twistd has chosen: not before it has done so."""
    from twisted.internet import reactor

    return reactor


def _heed_signals() -> None:
    """Has SIGTERM and SIGINT stop the node in good order, with a status of 0; a second one ends the process at once.

    The reactor's own answer to them would end the process by the same signal after everything is done, which looks like a crash to whoever
    watches it. It comes with the reactor's start, so ours is set before that, for a signal that is early, and after.
    """
    reactor = _reactor()
    heeded = False

    def ask(number: int, _: object) -> None:
        nonlocal heeded
        heeded = True
        for each in (signal.SIGTERM, signal.SIGINT):
            signal.signal(each, signal.SIG_DFL)
        reactor.callFromThread(log.info, "stopping: {signal}", event="stopping", signal=signal.Signals(number).name)
        reactor.callFromThread(stop, reactor)

    def heed() -> None:
        if not heeded:
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, ask)

    heed()
    reactor.callWhenRunning(heed)


def _heed_hangup(reload: Callable[[], object]) -> None:
    """Has SIGHUP read certificates again; but a server in a terminal still ends when that is closed, unless nohup says otherwise."""
    reactor = _reactor()
    in_terminal = signal.getsignal(signal.SIGHUP) == signal.SIG_DFL and os.isatty(0)

    def hangup(*_: object) -> None:
        try:
            if in_terminal:
                os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
        except OSError:  # it is no longer there
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            reactor.callFromThread(reload)

    signal.signal(signal.SIGHUP, hangup)


def _quiet_collector() -> None:
    """Takes everything that lives as long as the process out of the garbage collector's sight, and has it look less often: a full
    collection over a million rows stalls the reactor, and rows hold no cycles."""
    import gc

    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


def _with_tokens(options: Options, other: Any) -> Any:
    """An authenticator that takes an issuer's tokens, and leaves all else to another, if there is one."""
    try:
        tokens = SignedTokens(
            options.folder / options["token-keys"],
            algorithms=options["token-algorithms"],
            audience=options["token-audience"],
            issuer=options["token-issuer"] or "",
        )
    except ValueError as error:
        raise StartError(f"--token-keys: {options['token-keys']}: {error}") from None
    beside = {} if other is None else dict.fromkeys((LoginMethod.PASSWORD, LoginMethod.ANONYMOUS), other)
    return Methods({LoginMethod.TOKEN: tokens, **beside})


def _ends(options: Configured, listen: str | None, **more: Any) -> LinkEnds:
    """Where links begin and end."""
    try:
        return LinkEnds(listen, secret=b"" if options.secret is None else Path(options.secret), reactor=_reactor(), **more)
    except (OSError, ValueError) as error:  # it has changed since it was looked at
        raise StartError(explained(error)) from None


def _router(options: Options, service: ImService) -> Any:
    """What gets messages to their receivers."""
    if options["strategy"] == "single":
        return SingleRouter()
    servers = options["route-server"] or ()
    files = {"certificate": options["link-certificate"], "authority": options["link-authority"]}
    service.ends = ends = _ends(options, None if servers else options["link-listen"], **files)
    limits = link_limits(options["max-body"])
    if options["strategy"] == "broadcast":
        return BroadcastRouter(ends, servers, limits=limits)
    return MeshRouter(ends, table=_table(options), limits=limits) if options["via"] == "mesh" else StarRouter(ends, servers, limits=limits)


def _table(options: Options) -> Any:
    """Where the nodes of a mesh keep who is where."""
    if options["table"] == [MEMORY_TABLE]:
        return MemoryTable()
    try:
        return RedisTable([redis_server(_reactor(), url) for url in options["table"]])
    except (OSError, ValueError) as error:  # one is named twice, or something has changed since it was looked at
        raise StartError(f"--table: {explained(error)}") from None


def _route_service(options: RouteOptions) -> ImService:
    """A route server, and no node."""
    service = ImService(options.runner, options.data, link_listen="--listen")
    service.ends = _ends(options, options["listen"])
    RouteServer(service.ends, name=options["name"], limits=link_limits(options["max-body"])).setServiceParent(service)
    return service


def _processes(options: Options) -> Processes:
    """Several nodes as children of this process: what was said to this one in any way, each is told by flags."""
    said: list[str] = []
    secrets: dict[str, str] = {}
    for setting in options.settings:
        value, origin = options.found[setting.name]
        if origin != DEFAULT and value is not False and setting.name not in ("processes", "name", "listen", "share-port"):
            items = value if isinstance(value, list) else [value]
            if setting.name == "table":  # it may hold a password, and a command line is for all to see
                secrets[setting.variable] = " ".join(items)
            else:
                said += [setting.flag] if value is True else [f"{setting.flag}={item}" for item in items]

    def words(name: str, listen: Sequence[str]) -> list[str]:
        return [*said, f"--name={name}", *(f"--listen={each}" for each in listen), "--share-port"]

    reactor = (options.runner or {}).get("reactor")
    return Processes(
        [f"{options['name']}-{number}" for number in range(1, options["processes"] + 1)],
        words,
        options["listen"],
        reactor=_reactor(),
        before=[f"--reactor={reactor}"] if isinstance(reactor, str) else [],
        environment={**{name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}, **secrets},
    )


def makeService(options: Options) -> ImService:
    """The service that these options describe."""
    if not _reactor().getDelayedCalls():
        _reactor().seconds = time.monotonic  # Twisted's timers follow the system's clock, and would stop while that is set back
    chosen = getattr(options, "subOptions", None) or options
    for warning in chosen.warnings:
        log.warn("{warning}", warning=warning)
    if isinstance(chosen, RouteOptions):
        return _route_service(chosen)
    if options["processes"] > 1:
        service = ImService(options.runner, options.data)
        _processes(options).setServiceParent(service)
        return service
    kind, _, path = options["store"].partition(":")
    engine = STORES[kind]
    file = path or Path(options["data"], engine.file)
    store = engine.make(file, retention=options["retention"] * 24 * 3600) if engine.file else engine.make()
    method, _, path = options["auth"].partition(":")
    authenticator: Any = None
    if method == "store":
        authenticator = StoreAccounts(store, PasswordChecks(_reactor()))
    elif method == "file":
        authenticator = PasswordFile(path, PasswordChecks(_reactor()))
        if not (options.folder / path).exists():
            log.warn("{path} does not exist yet, so nobody can log in: python -m twisted_im password {path} NAME", path=path)
    elif method == "anonymous":
        authenticator = Anybody()
        log.warn("anybody may log in under any name (--auth=anonymous)")
    if options["token-keys"]:
        authenticator = _with_tokens(options, authenticator)
    elif authenticator is None:
        raise StartError("--auth=none lets nobody in; say --token-keys as well")
    service = ImService(options.runner, options.data)
    server = ImServer(
        store=store,
        router=_router(options, service),
        authenticator=authenticator,
        listen=options["listen"],
        advertise=options["advertise"] or (),
        share_port=options["share-port"],
        drain=options["drain"],
        name=options["name"],
        limits=Limits(**{field.name: options[key] for field in fields(Limits) if (key := field.name.replace("_", "-")) in options}),
        most=options["connections"] or None,
        standby=options["standby"],
        resume_life=options["resume-life"] * 24 * 3600,
        told_elsewhere=True,
        broken=service.fail,
    )
    server.setServiceParent(service)
    if service.ends is not None and not options["share-port"]:
        server.started.addCallback(lambda _: log.info("another node joins by: {command}", event="join", command=join(options, server)))
    return service
