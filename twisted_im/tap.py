"""`twistd im`: the options, and the service that they describe. The only place that knows every part.

Strategy: everything is judged while the options are parsed, so that a mistake is one line and a status of 1 before anything has
started; `makeService` then only calls constructors with keyword arguments.
"""

from __future__ import annotations

import errno
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.application.service import IService, MultiService
from twisted.internet.error import CannotListenError
from twisted.logger import ILogObserver, Logger
from twisted.python import usage
from twisted.python.failure import Failure
from twisted.python.logfile import LogFile
from zope.interface import implementer

from twisted_im.core.connection import Limits
from twisted_im.cork import corked
from twisted_im.edge.tls import endpoint_from
from twisted_im.jsonlog import JsonLog
from twisted_im.pem import CertificateError
from twisted_im.routing.single import SingleRouter
from twisted_im.server.authenticators import Anybody, PasswordFile, StoreAccounts, read_passwords
from twisted_im.server.interfaces import StoreError
from twisted_im.server.passwords import PasswordChecks
from twisted_im.service import ImServer
from twisted_im.storage.memory import MemoryStore
from twisted_im.storage.sqlite import SqliteStore

log = Logger()

STRATEGIES: dict[str, Callable[[], Any]] = {"single": SingleRouter}

DEFAULT_FILE = "twisted_im.db"
#: kind of store → what makes it of the path after the colon
STORES: dict[str, Callable[[str], Any]] = {"sqlite": lambda path: SqliteStore(path or DEFAULT_FILE), "memory": lambda path: MemoryStore()}


def _store(where: str) -> str:
    kind, colon, _ = where.partition(":")
    if kind not in STORES or (kind == "memory" and colon):
        raise ValueError(f"--store is one of memory, sqlite:PATH, not {where!r}")
    return where


DEFAULT_LISTEN = "tcp:7777:interface=127.0.0.1"
DEFAULT_AUTH = "file:twisted_im.passwords"


def _choice(what: str, choices: dict[str, Any]) -> Callable[[str], str]:
    def choose(value: str) -> str:
        if value not in choices:
            raise ValueError(f"{what} is one of {', '.join(sorted(choices))}, not {value!r}")
        return value

    return choose


def _whole(what: str, low: int, high: int) -> Callable[[Any], int]:
    def number(value: Any) -> int:
        value = str(value)
        if not value.isascii() or not value.isdigit() or not low <= int(value) <= high:
            raise ValueError(f"{what} takes a whole number from {low} to {high}, not {value!r}")
        return int(value)

    return number


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

An endpoint without interface= listens on this machine only (127.0.0.1).
Logs are JSON, one object a line: to the terminal with -n, else to twistd.log.
Stop it with SIGTERM: it commits what it has read, and tells its clients to
come back. SIGHUP has it read its certificates again.
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


class Options(usage.Options):
    """What an operator may say."""

    synopsis = "[options]"

    optParameters = [
        ["strategy", "s", "single", f"How messages find their receivers: {', '.join(STRATEGIES)}.", _choice("--strategy", STRATEGIES)],
        ["store", None, f"sqlite:{DEFAULT_FILE}", "Where messages are kept: sqlite:PATH, or memory (gone at the end).", _store],
        ["auth", "a", DEFAULT_AUTH, "Who may log in: file:PATH for a password file, store for users in the store, or anonymous."],
        ["name", None, "node", "This node's name: in its greeting and its logs."],
        ["heartbeat", None, Limits.heartbeat, "Seconds without a frame after which a client pings.", _whole("--heartbeat", 5, 1800)],
        ["window", None, Limits.window, "Notifies that a client may leave unacknowledged.", _whole("--window", 2, 65535)],
        ["max-body", None, Limits.max_body, "The largest body of a frame, in bytes.", _whole("--max-body", 2048, 16 * 1024 * 1024)],
    ]  # fmt: skip

    optFlags = [["standby", None, "Wait while another process of this name uses the store; take over when it ends."]]

    compData = usage.Completions()

    parent: Any = None

    def __init__(self) -> None:
        super().__init__()
        self["listen"] = []

    def opt_listen(self, description: str) -> None:
        """Where to listen, as a Twisted endpoint; may be given several times. [default: tcp:7777:interface=127.0.0.1]"""
        self["listen"].append(description)

    opt_l = opt_listen

    def getUsage(self, width: int | None = None) -> str:
        usage: str = super().getUsage(width)
        return usage + EXAMPLES

    def parseOptions(self, options: Any = None) -> None:
        """A mistake is one line; twistd would print the whole help and the line after it."""
        try:
            super().parseOptions(options)
        except usage.UsageError as error:
            why = str(error).removeprefix("Parameter type enforcement failed: ")
            raise StartError(f"{why} (see: twistd im --help)") from None

    def parseArgs(self, *words: str) -> None:
        if words:
            raise usage.UsageError(f"unexpected {words[0]!r}: everything is an option; see --help")

    def postOptions(self) -> None:
        for said in self["listen"]:
            _check_endpoint(said)
        self["listen"] = [local_unless_said(said) for said in self["listen"] or [DEFAULT_LISTEN]]
        method, _, path = self["auth"].partition(":")
        if method == "file" and path:
            try:
                if Path(path).exists():
                    read_passwords(Path(path))
            except OSError as error:
                raise usage.UsageError(f"--auth: {explained(error)}") from None
            except ValueError as error:
                raise usage.UsageError(f"--auth: {path}: {error}") from None
        elif self["auth"] not in ("anonymous", "store"):
            raise usage.UsageError(f"--auth is file:PATH, store or anonymous, not {self['auth']!r}")
        if not 1 <= len(os.fsencode(self["name"])) <= 64:
            raise usage.UsageError("--name takes 1 to 64 bytes")


#: What listens on every address of the machine unless it is told better: kind → (its parts before the interface, this machine alone)
_OPEN_TO_ALL = {"tcp": (2, "127.0.0.1"), "tls": (3, "127.0.0.1"), "ssl": (4, "127.0.0.1"), "tcp6": (2, r"\:\:1")}


def local_unless_said(description: str) -> str:
    """The endpoint string, with this machine's own address if it names no interface.

    Raises:
        ValueError: it names an empty one, which would be all of them.
    """
    kind, _, rest = description.partition(":")
    if kind == "haproxy":
        return f"{kind}:{local_unless_said(rest)}"
    if kind not in _OPEN_TO_ALL:
        return description
    before, own = _OPEN_TO_ALL[kind]
    parts = re.split(r"(?<!\\):", description)
    said = [part.removeprefix("interface=") for part in parts if part.startswith("interface=")]
    said += [part for part in parts if not re.search(r"(?<!\\)=", part)][before : before + 1]
    if "" in said:
        raise ValueError("an empty interface is every one: say interface=0.0.0.0, or leave it out for this machine only")
    return description if said else f"{description}:interface={own}"


def explained(error: BaseException | None) -> str:
    """What stands in the way of a start, in words, and what can be done."""
    if isinstance(error, CannotListenError):
        where = f"{error.interface}:{error.port}" if isinstance(error.port, int) else os.fsdecode(error.port)
        number = getattr(error.socketError, "errno", None)  # a locked Unix socket has words instead
        busy = number == errno.EADDRINUSE or not isinstance(error.socketError, OSError)
        why = os.strerror(errno.EADDRINUSE) if busy else error.socketError.strerror
        return f"{where}: {why}; {'stop what uses it, or ' if busy else ''}change --listen"
    if isinstance(error, OSError) and error.filename is not None:
        return f"{os.fsdecode(error.filename2 or error.filename)}: {error.strerror}"
    return str(error) or type(error).__name__


def _check_endpoint(description: str) -> None:
    """Raises a `UsageError` for what would be a traceback later."""
    try:
        endpoint_from(corked(_reactor()), local_unless_said(description))
    except (OSError, CertificateError) as error:
        raise usage.UsageError(f"--listen={description}: {explained(error)}") from None
    except Exception as error:  # endpoint parsers raise whatever their parts raise
        examples = f"{DEFAULT_LISTEN} or tls:im.pem:port=7778"
        why = f"not an endpoint that can be used ({explained(error)}); for example {examples}"
        raise usage.UsageError(f"--listen={description}: {why}") from None


@implementer(IService)
class ImService(MultiService):
    """The node as twistd runs it: with logs as JSON, and a failure to start said in one line.

    Args:
        parent_options: twistd's own options, which say where logs go; None under `twist`, which has options of its own for that.
    """

    def __init__(self, parent_options: Any = None) -> None:
        super().__init__()
        self._parent_options = parent_options
        self._why = ""
        self._up = False

    def setServiceParent(self, parent: Any) -> None:
        super().setServiceParent(parent)
        options = self._parent_options
        if hasattr(parent, "setComponent") and options is not None and not options.get("logger") and not options.get("syslog"):
            try:
                parent.setComponent(ILogObserver, JsonLog(_log_file(options)))
            except OSError as error:
                raise StartError(f"{explained(error)}; say another --logfile") from None

    def startService(self) -> None:
        _heed_signals()
        _heed_hangup(lambda: [node.reload() for node in self])
        super().startService()
        for node in self:
            node.started.addErrback(self._not_started)
        if self._why:
            raise StartError(self._why)
        self._up = True
        _quiet_collector()

    def _not_started(self, failure: Failure) -> None:
        self._why = explained(failure.value)
        if isinstance(failure.value, StoreError):
            self._why = self._why if "--" in self._why else f"--store: {self._why}"
        if isinstance(failure.value, OSError | OverflowError):  # a path that is not there, a port above all ports
            self._why += "; change --listen"
        if self._up:  # it failed later than in `startService`, where an exception would have done
            log.critical("not started: {why}", why=self._why)
            _reactor().stop()


def _log_file(options: Any) -> Any:
    """Where twistd would log to; as with twistd, SIGUSR1 begins a new file."""
    name = options.get("logfile")
    if name == "-" or (options.get("nodaemon") and not name):
        return sys.stdout
    file = LogFile.fromFullPath(name or "twistd.log")
    if signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL:  # else the operator's reactor or plugin has a use for it

        def rotate(*_: object) -> None:
            _reactor().callFromThread(file.rotate)

        signal.signal(signal.SIGUSR1, rotate)
    return file


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

    def stop(number: int, _: object) -> None:
        nonlocal heeded
        heeded = True
        for each in (signal.SIGTERM, signal.SIGINT):
            signal.signal(each, signal.SIG_DFL)
        reactor.callFromThread(log.info, "stopping: {signal}", event="stopping", signal=signal.Signals(number).name)
        reactor.callFromThread(reactor.stop)

    def heed() -> None:
        if not heeded:
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, stop)

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


def makeService(options: Options) -> ImService:
    """The service that these options describe."""
    if not _reactor().getDelayedCalls():
        _reactor().seconds = time.monotonic  # Twisted's timers follow the system's clock, and would stop while that is set back
    limits = Limits(heartbeat=options["heartbeat"], window=options["window"], max_body=options["max-body"])
    kind, _, path = options["store"].partition(":")
    store = STORES[kind](path)
    method, _, path = options["auth"].partition(":")
    if method == "store":
        authenticator: Any = StoreAccounts(store, PasswordChecks(_reactor()))
    elif method == "file":
        authenticator = PasswordFile(path, PasswordChecks(_reactor()))
        if not Path(path).exists():
            log.warn("{path} does not exist yet, so nobody can log in: python -m twisted_im password {path} NAME", path=path)
    else:
        authenticator = Anybody()
        log.warn("anybody may log in under any name (--auth=anonymous)")
    service = ImService(options.parent if isinstance(options.parent, dict) else None)
    server = ImServer(
        store=store,
        router=STRATEGIES[options["strategy"]](),
        authenticator=authenticator,
        listen=options["listen"],
        name=options["name"],
        limits=limits,
        standby=bool(options["standby"]),
        told_elsewhere=True,
    )
    server.setServiceParent(service)
    return service
