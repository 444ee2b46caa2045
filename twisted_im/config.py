"""Every setting of the server, declared once, and how a file, the environment and flags become one configuration.

Strategy: `SETTINGS` is the only place where a setting is named. The flags of `twistd im`, the environment variables, the keys of the TOML
file, what `--check-config` prints, and docs/configuration.md with its example file are all made from it. A stronger source hides a weaker
one, setting by setting: default < file < environment < flag. A value is judged twice, by its kind: what can be seen in the value itself
(`read`), hidden or not, and what only this machine can tell (`faults`), for the values that hold. All mistakes are found
before anything is said, so that `--check-config` can list them; a start names the first.

Secrets are never values, since a command line and an environment are open to others: a setting that needs one takes the path of a file.

To add a setting: one `Setting(...)` in `SETTINGS`, and one line in `tap.makeService` that hands `options["its-name"]` to whom it concerns
(none for a field of `Limits`, which is found by its name). Then `python -m twisted_im configuration` writes the page and the example. The
kinds that there are: `Number`, `Switch`, `Text`, `Choice`, `File` (with `secret=True` for one that holds a secret), and `Several` of
another kind; a value with a meaning of its own gets a `Kind` of its own. A default of None is a setting that need not be set.
"""

from __future__ import annotations

import difflib
import json
import os
import platform
import re
import reprlib
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from twisted_im.client.destination import split_address
from twisted_im.core.connection import Limits
from twisted_im.edge.endpoints import DEFAULT_LISTEN, explained, local_unless_said, parts_of, private_keys, usable
from twisted_im.edge.peers import DEFAULT_PORT, usable_address, usable_port
from twisted_im.edge.redis import usable_redis, without_password
from twisted_im.server.authenticators import read_passwords
from twisted_im.server.tokens import ALGORITHMS
from twisted_im.service import DRAIN, capacity
from twisted_im.storage.memory import MemoryStore
from twisted_im.storage.sqlite import SqliteStore


class Engine(NamedTuple):
    """What a kind of store is made of."""

    make: Callable[..., Any]  #: takes the path of the store's file, and `retention` in seconds, if it has one
    file: str = ""  #: the name of that file in the data directory, unless a path is said; "" for a store without one


#: How messages find their receivers; `tap.makeService` knows what each is made of.
STRATEGIES = ("single", "broadcast", "routed")
CLUSTERED = ("broadcast", "routed")
#: Ways of the routed strategy.
VIA = ("mesh", "route-server")
#: The route table that each node keeps for itself.
MEMORY_TABLE = "memory"
STORES: dict[str, Engine] = {"memory": Engine(MemoryStore), "sqlite": Engine(SqliteStore, "messages.db")}

DEFAULT_STORE = "sqlite"
DEFAULT_AUTH = "file:twisted_im.passwords"
DEFAULT_DATA = "twisted_im.data"
DEFAULT_LINK_LISTEN = "tcp:0:interface=127.0.0.1"
#: The file of the cluster's secret in the data directory, unless another is named.
CLUSTER_SECRET = "cluster.secret"


# ---- kinds of values


def as_toml(value: Any) -> str:
    """A string, a number, a truth value, or a list of these, as TOML writes it."""
    if isinstance(value, list):
        return f"[{', '.join(map(as_toml, value))}]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return str(int(value)) if value == int(value) else repr(value)


class Kind:
    """What the values of a setting may be.

    Attributes:
        allowed: the end of a sentence that begins with the setting's name, such as "takes a whole number from 5 to 1800".
    """

    allowed: str

    def from_text(self, text: Any) -> Any:
        """What a flag or a variable says, as TOML would have it."""
        return text

    def read(self, value: Any) -> Any:
        """A value of TOML's that may be one of these.

        Raises:
            ValueError: it is not allowed; without words where `allowed` says it all.
        """
        raise NotImplementedError

    def faults(self, value: Any) -> Iterator[str]:
        """What this machine has against a value that has been read: what follows the setting's name in a line about it."""
        return iter(())

    def secrets(self, value: Any) -> Iterator[str]:
        """The paths of files whose content only their owner should see."""
        return iter(())

    def shown(self, value: Any) -> Any:
        """A value as others may see it."""
        return value

    def meant(self, value: Any) -> Any:
        """What a value amounts to: it is judged as it was written, and run as it is meant."""
        return value


class Number(Kind):
    """A number within bounds; seconds may have parts."""

    def __init__(self, low: float, high: float, *, whole: bool = True) -> None:
        self._low, self._high, self._whole = low, high, whole
        self.allowed = f"takes a {'whole ' if whole else ''}number from {low} to {high}"

    def from_text(self, text: Any) -> Any:
        if re.fullmatch(r"\d{1,15}", text, re.ASCII):
            return int(text)
        return float(text) if re.fullmatch(r"\d{1,15}\.\d{1,15}", text, re.ASCII) else text

    def read(self, value: Any) -> Any:
        if type(value) not in ((int,) if self._whole else (int, float)) or not self._low <= value <= self._high:
            raise ValueError
        return value


class Connections(Number):
    """A number of connections that the process can have."""

    def faults(self, value: Any) -> Iterator[str]:
        if value > capacity():
            yield f": {value}, where the limit on open files leaves {capacity()}: raise it (ulimit -n, or LimitNOFILE= in the unit)"


class Switch(Kind):
    """On or off; its flag says on, and takes nothing."""

    allowed = "is true or false"

    def from_text(self, text: Any) -> Any:
        return {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}.get(str(text).lower(), text)

    def read(self, value: Any) -> Any:
        if type(value) is not bool:
            raise ValueError
        return value


class Text(Kind):
    """Some text; its length is in bytes."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.allowed = f"takes 1 to {most} bytes of text"

    def read(self, value: Any) -> Any:
        if not isinstance(value, str) or not 1 <= len(value.encode(errors="surrogateescape")) <= self._most:
            raise ValueError
        return value


class Choice(Kind):
    """One name of several."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = tuple(sorted(names))
        self.allowed = f"is one of {', '.join(self._names)}"

    def read(self, value: Any) -> Any:
        if value not in self._names:
            raise ValueError
        return value


def _path(value: Any) -> str:
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError
    return value


class File(Kind):
    """The path of a file that is read.

    Args:
        secret: its content is for its owner only.
    """

    def __init__(self, *, secret: bool = False) -> None:
        self._secret = secret
        self.allowed = f"takes the path of a file{' that holds the secret' if secret else ''}"

    def read(self, value: Any) -> Any:
        return _path(value)

    def faults(self, value: Any) -> Iterator[str]:
        try:
            Path(value).read_bytes()
        except OSError as error:  # a secret that stands where its file should is not repeated
            yield ": " + (f"its file cannot be read: {error.strerror}" if self._secret else explained(error))

    def secrets(self, value: Any) -> Iterator[str]:
        if self._secret:
            yield value


class TokenKeys(File):
    """The path of a file with keys of tokens: public ones, or a secret."""

    def secrets(self, value: Any) -> Iterator[str]:
        with suppress(OSError):
            data = Path(value).read_bytes().strip()
            if not data.startswith(b"{") and b"-----BEGIN" not in data:
                yield value


class Folder(Kind):
    """The path of a folder that is written to, and made if it is missing."""

    allowed = "takes the path of a folder"

    def read(self, value: Any) -> Any:
        return _path(value)

    def faults(self, value: Any) -> Iterator[str]:
        path = Path(value).absolute()
        there = next(folder for folder in (path, *path.parents) if os.path.lexists(folder))
        where = value if there == path else f"{value}: {there}"
        if not there.is_dir():
            yield f": {where}: Not a directory"
        elif not os.access(there, os.W_OK | os.X_OK):
            yield f": {where}: Permission denied"


class StoreName(Kind):
    """A store, and where its file is, if it has one and that is not in the data directory.

    Args:
        stores: name → what it is made of.
    """

    def __init__(self, stores: Mapping[str, Engine]) -> None:
        self._stores = stores
        self.allowed = f"is one of {', '.join(f'{name}:PATH, {name}' if engine.file else name for name, engine in stores.items())}"

    def read(self, value: Any) -> Any:
        name, colon, path = value.partition(":") if isinstance(value, str) else ("", "", "")
        if name not in self._stores or (colon and not self._stores[name].file):
            raise ValueError
        return f"{name}:{_path(path)}" if colon else name

    def faults(self, value: Any) -> Iterator[str]:
        _, _, path = value.partition(":")
        if path and Path(path).is_dir():
            yield f": {path}: Is a directory"
        elif path and not os.access(Path(path).absolute().parent, os.W_OK | os.X_OK):
            yield f": {path}: its folder is not there, or may not be written"


class Auth(Kind):
    """Who may log in."""

    allowed = "is file:PATH, store, anonymous or none"

    def read(self, value: Any) -> Any:
        method, _, path = value.partition(":") if isinstance(value, str) else ("", "", "")
        if value not in ("anonymous", "store", "none") and not (method == "file" and _path(path)):
            raise ValueError
        return value

    def faults(self, value: Any) -> Iterator[str]:
        for path in self.secrets(value):
            try:
                if Path(path).exists():
                    read_passwords(Path(path))
            except OSError as error:
                yield f": {explained(error)}"
            except ValueError as error:
                yield f": {path}: {error}"

    def secrets(self, value: Any) -> Iterator[str]:
        method, _, path = value.partition(":")
        if method == "file":
            yield path


class Endpoint(Kind):
    """Where to listen; without an interface, on this machine only."""

    allowed = "takes a Twisted endpoint"

    def read(self, value: Any) -> Any:
        if not isinstance(value, str):
            raise ValueError
        return value

    def faults(self, value: Any) -> Iterator[str]:
        try:
            usable(value)
        except ValueError as error:
            yield f"={value}: {error}"

    def secrets(self, value: Any) -> Iterator[str]:
        yield from private_keys(value)

    def meant(self, value: Any) -> Any:
        return local_unless_said(value)


class LinkEndpoint(Endpoint):
    """Where links are taken: with TLS, or on this machine."""

    allowed = "takes a Twisted endpoint: tls:, or on this machine tcp: or unix:"

    def faults(self, value: Any) -> Iterator[str]:
        try:
            usable_port(value)
        except ValueError as error:
            yield f"={value}: {error}"


class LinkAddress(Kind):
    """Where a link leads."""

    allowed = "takes tls:HOST:PORT, or on this machine tcp:127.0.0.1:PORT or unix:/PATH"

    def read(self, value: Any) -> Any:
        if not isinstance(value, str):
            raise ValueError
        return value

    def faults(self, value: Any) -> Iterator[str]:
        try:
            usable_address(value)
        except ValueError as error:
            yield f": {error}"


class ClientAddress(Kind):
    """Where clients come to."""

    allowed = "takes HOST:PORT, or tls:HOST:PORT for clients that come by TLS"

    def read(self, value: Any) -> Any:
        try:
            _, host, _ = split_address(value)
        except (TypeError, ValueError):
            raise ValueError from None
        if host in ("0.0.0.0", "::") or not value.isascii():
            raise ValueError
        return value


class ProcessCount(Number):
    """A number of processes behind one port."""

    def faults(self, value: Any) -> Iterator[str]:
        if value > 1 and platform.system() != "Linux":
            yield ": only Linux spreads connections over processes: run nodes at ports of their own instead"


class TableName(Kind):
    """Where the route table is."""

    allowed = "takes memory, or the URL of a Redis"

    def read(self, value: Any) -> Any:
        if not isinstance(value, str):
            raise ValueError
        return value

    def faults(self, value: Any) -> Iterator[str]:
        try:
            if value != MEMORY_TABLE:
                usable_redis(value)
        except (OSError, ValueError) as error:
            yield f": {explained(error)}"

    def shown(self, value: Any) -> Any:
        return without_password(value)


class Several(Kind):
    """One or more of another kind. In a variable they stand between spaces or commas; a flag is given several times.

    Args:
        item: the kind.
        such_as: an example of one.
    """

    def __init__(self, item: Kind, such_as: str) -> None:
        self._item = item
        self.allowed = f"takes a list, such as {as_toml([such_as])}"

    def from_text(self, text: Any) -> Any:
        items = re.split(r"[\s,]+", text.strip(" \t\n,")) if isinstance(text, str) else text
        return [self._item.from_text(item) for item in items]

    def read(self, value: Any) -> Any:
        if not isinstance(value, list) or not value:
            raise ValueError
        return [self._item.read(item) for item in value]

    def faults(self, value: Any) -> Iterator[str]:
        return chain.from_iterable(map(self._item.faults, value))

    def secrets(self, value: Any) -> Iterator[str]:
        return chain.from_iterable(map(self._item.secrets, value))

    def shown(self, value: Any) -> Any:
        return [self._item.shown(item) for item in value]

    def meant(self, value: Any) -> Any:
        return [self._item.meant(item) for item in value]


# ---- the declaration


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One setting.

    Attributes:
        name: its long flag without the dashes, and its key in the file.
        kind: what it takes.
        default: its value where nothing is said, as TOML has it; None for none.
        help: one line.
        example: a value for the example file, as TOML has it.
        section: its table in the file; "" for none.
        short: its short flag.
        only: a setting, and those of its values with which alone this one means anything.
    """

    name: str
    kind: Kind
    default: Any
    help: str
    example: Any
    section: str = ""
    short: str | None = None
    only: tuple[str, tuple[str, ...]] | None = None

    @property
    def flag(self) -> str:
        return f"--{self.name}"

    @property
    def variable(self) -> str:
        return PREFIX + self.name.upper().replace("-", "_")

    @property
    def key(self) -> str:
        """Its key in the file, section included."""
        return f"{self.section}.{self.name}" if self.section else self.name

    @property
    def default_text(self) -> str | None:
        """Its default as a flag would say it; None without one."""
        items = self.default if isinstance(self.default, list) else [self.default]
        return None if self.default is None else " ".join(item if isinstance(item, str) else as_toml(item) for item in items)

    @property
    def is_switch(self) -> bool:
        """Whether its flag takes no value."""
        return isinstance(self.kind, Switch)

    @property
    def many(self) -> bool:
        """Whether its values are lists."""
        return isinstance(self.kind, Several)


PREFIX = "TWISTED_IM_"


def _limit(name: str, kind: Kind, help: str, example: Any) -> Setting:
    """A field of `Limits`."""
    return Setting(name=name, section="limits", kind=kind, default=getattr(Limits, name.replace("-", "_")), help=help, example=example)


_SECONDS = Number(0.1, 3600, whole=False)
_U16 = 65535  # what the hello's fields hold

#: Where the file is: the one setting that is not in it.
CONFIG = Setting(
    name="config", kind=File(), default=None, help="A TOML file with settings; flags and the environment are stronger.",
    example="twisted_im.toml",
)  # fmt: skip

STORE_FOLDER = Setting(
    name="data", kind=Folder(), default=DEFAULT_DATA,
    help="The folder for what the server keeps; made, for its owner only, if missing.", example="im.data",
)  # fmt: skip
CLUSTER_SECRET_FILE = Setting(
    name="cluster-secret", kind=File(secret=True), default=None, only=("strategy", CLUSTERED),
    help=f"A file with what all of a cluster know, for links without TLS; else {CLUSTER_SECRET} in the data directory, made if missing.",
    example="all.secret",
)  # fmt: skip
MAX_BODY = _limit("max-body", Number(2048, 16 * 1024 * 1024), "The largest body of a frame, in bytes.", 32768)

SETTINGS: tuple[Setting, ...] = (
    Setting(
        name="listen", short="l", kind=Several(Endpoint(), DEFAULT_LISTEN), default=[DEFAULT_LISTEN],
        help="Where to listen, as Twisted endpoints.",
        example=[DEFAULT_LISTEN, "tls:im.pem:port=7778:interface=0.0.0.0"],
    ),
    Setting(
        name="auth", short="a", kind=Auth(), default=DEFAULT_AUTH,
        help="Who may log in: file:PATH for a password file, store for users in the store, anonymous for anybody, none.",
        example="file:users.passwords",
    ),
    Setting(
        name="strategy", short="s", kind=Choice(STRATEGIES), default="single",
        help=f"How messages find their receivers: {', '.join(STRATEGIES)}.", example="single",
    ),
    Setting(
        name="via", kind=Choice(VIA), default="mesh", only=("strategy", ("routed",)),
        help="How routed nodes reach each other: each the others (mesh), or all by route servers.", example="route-server",
    ),
    Setting(
        name="table", kind=Several(TableName(), "redis://redis-1:6379/0"), default=[MEMORY_TABLE], only=("strategy", ("routed",)),
        help="Where the nodes of a mesh keep who is where: each for itself (memory), or together, on one or more Redis, by their URLs.",
        example=["redis://redis-1:6379/0"],
    ),
    Setting(
        name="route-server", kind=Several(LinkAddress(), "tls:routes.example.org:7900"), default=None, only=("strategy", CLUSTERED),
        help="Addresses of route servers; without any, each node that needs one runs its own.", example=["tcp:127.0.0.1:7900"],
    ),
    Setting(
        name="link-listen", kind=LinkEndpoint(), default=DEFAULT_LINK_LISTEN, only=("strategy", CLUSTERED),
        help="Where this node takes the others' links, as a Twisted endpoint; port 0 is any free one.",
        example="tcp:7901:interface=127.0.0.1",
    ),
    CLUSTER_SECRET_FILE,
    Setting(
        name="link-certificate", kind=File(secret=True), default=None, only=("strategy", CLUSTERED),
        help="A PEM file with this node's key and certificate, for route servers at tls: addresses.", example="im-1.pem",
    ),
    Setting(
        name="link-authority", kind=File(), default=None, only=("strategy", CLUSTERED),
        help="A PEM file with the authority that their certificates must be signed by.", example="nodes.pem",
    ),
    Setting(
        name="store", kind=StoreName(STORES), default=DEFAULT_STORE,
        help="Where messages are kept: sqlite:PATH, sqlite (a file in the data directory), or memory (gone at the end).",
        example="sqlite:im.db",
    ),
    STORE_FOLDER,
    Setting(
        name="advertise", kind=Several(ClientAddress(), "im-1.example.org:7777"), default=None,
        help="Where clients reach this node, for other nodes to send theirs to, if --listen does not say; tls:HOST:PORT for TLS.",
        example=["tls:im-1.example.org:7778"],
    ),
    Setting(
        name="processes", kind=ProcessCount(1, 256), default=1,
        help="Nodes to run behind --listen, each a process, named NAME-1, NAME-2 and so on; they are kept up.", example=1,
    ),
    Setting(
        name="share-port", kind=Switch(), default=False,
        help="Let other processes of this user listen at the same TCP ports; connections are spread over them.", example=False,
    ),
    Setting(
        name="drain", kind=Number(0, 600), default=int(DRAIN),
        help="Seconds over which a node that stops sends its clients to other nodes, at most; 0: it does not.", example=20,
    ),
    Setting(name="name", kind=Text(64), default="node", help="This node's name: in its greeting and its logs.", example="im-1"),
    Setting(
        name="standby", kind=Switch(), default=False,
        help="Wait while another process of this name uses the store; take over when it ends.", example=False,
    ),
    Setting(
        name="retention", kind=Number(0, 36500), default=0,
        help="Days for which a sqlite store keeps messages, never less than a week; 0 for ever.", example=365,
    ),
    Setting(
        name="resume-life", kind=Number(0, 3650), default=30,
        help="Days that a device may be away and come back without its password; 0: never without.", example=7,
    ),
    Setting(
        name="token-keys", kind=TokenKeys(), default=None,
        help="A file with an issuer's keys (a secret, PEM or JWKS): tokens signed with them let users in, beside --auth.",
        example="issuer.pem",
    ),
    Setting(
        name="token-algorithms", kind=Several(Choice(ALGORITHMS), "ES256"), default=["ES256"],
        help="Algorithms by which tokens may be signed.", example=["RS256", "ES256"],
    ),
    Setting(
        name="token-audience", kind=Text(256), default="twisted_im",
        help="What a token's aud must name: this server, as its issuer calls it.", example="chat.example.org",
    ),
    Setting(
        name="token-issuer", kind=Text(256), default=None,
        help="What a token's iss must be; any, if nothing is said.", example="https://login.example.org",
    ),
    Setting(
        name="connections", section="limits", kind=Connections(0, 1_000_000), default=0,
        help="Connections taken at once; 0 for all that the limit on open files leaves.", example=500,
    ),
    _limit(
        "heartbeat", Number(Limits.min_heartbeat, Limits.max_heartbeat), "Seconds without a frame after which a client pings.", 240
    ),
    _limit("window", Number(2, _U16), "Notifies that a client may leave unacknowledged.", 32),
    _limit("requests", Number(1, _U16), "Messages and receipts that a client may have unanswered.", 128),
    MAX_BODY,
    _limit("write-budget", Number(4096, 1024**3), "Bytes of notifies that may wait for a slow reader.", 131072),
    _limit("handshake", _SECONDS, "Seconds from connecting to a hello.", 3),
    _limit("login", _SECONDS, "Seconds from connecting to a granted login.", 20),
    _limit("frame", _SECONDS, "Seconds from the first byte of a frame to its last.", 30),
    _limit("unacknowledged", _SECONDS, "Seconds that notifies may be out unacknowledged before a ping.", 7.5),
    _limit("ping", _SECONDS, "Seconds for a client to answer a ping.", 4),
    _limit("close", _SECONDS, "Seconds for the last bytes of a closed connection to leave.", 2),
)  # fmt: skip

#: Those of a route server of its own.
ROUTE_SETTINGS: tuple[Setting, ...] = (
    Setting(
        name="listen", short="l", kind=LinkEndpoint(), default=DEFAULT_PORT,
        help="Where nodes' links are taken, as a Twisted endpoint.",
        example="tls:routes-1.pem:port=7900:authority=nodes.pem:interface=0.0.0.0",
    ),
    Setting(name="name", kind=Text(64), default="route", help="This route server's name; each has its own.", example="routes-1"),
    STORE_FOLDER,
    replace(CLUSTER_SECRET_FILE, only=None),
    replace(MAX_BODY, help="The largest body of a client's frame, in bytes, as its nodes have it."),
)  # fmt: skip


# ---- the sources


class Found(NamedTuple):
    """A setting's value and where it comes from: "default", "im.toml: limits.window", "TWISTED_IM_WINDOW" or "--window"."""

    value: Any
    origin: str


class Said(NamedTuple):
    """What a source says of a setting: the value as TOML has it, and as it was written."""

    setting: Setting
    origin: str
    value: Any
    written: Any


class Mistakes(ValueError):
    """What is wrong with a configuration.

    Attributes:
        lines: one for each mistake; never empty.
    """

    def __init__(self, lines: list[str]) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines


DEFAULT = "default"

#: What Kubernetes tells every container about a service that is called twisted-im: not settings of ours.
_KUBERNETES = re.compile(rf"{PREFIX}(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)")


def configured(
    flags: Mapping[str, str | int | list[str]], environment: Mapping[str, str], settings: Sequence[Setting] = SETTINGS
) -> dict[str, Found]:
    """One configuration from all sources.

    Args:
        flags: name → what was said, for the flags that were given; a list for one that may be given several times, 1 for a switch.
        environment: all variables, ours among them. An empty one says nothing.
        settings: the declaration.

    Returns:
        name → value and origin, for every setting; None for the value of one that has no default.

    Raises:
        Mistakes: what is wrong in any source, or cannot be used on this machine.
    """
    mistakes: list[str] = []
    found = {setting.name: Found(setting.default, DEFAULT) for setting in settings}
    for said in chain(_file(flags, environment, settings), _environment(environment, settings), _flags(flags, settings)):
        if isinstance(said, str):
            mistakes.append(said)
            continue
        try:
            found[said.setting.name] = Found(said.setting.kind.read(said.value), said.origin)
        except ValueError as error:
            words = f": {error}" if str(error) else f" {said.setting.kind.allowed}, not {_shown(said.written)}"
            mistakes.append(said.origin + words)
            found.pop(said.setting.name, None)  # nothing weaker is judged in its place
    if not mistakes and "processes" in found and found["processes"].value > 1 and found["strategy"].origin == DEFAULT:
        found["strategy"] = Found("routed", found["processes"].origin)  # nodes of one store that do not link are of no use
    for setting in settings:
        value, origin = found.get(setting.name, (None, ""))
        if value is not None and not (setting.name == "data" and data_folder(found) is None):
            where = setting.flag if origin == DEFAULT else origin
            mistakes += [where + fault for fault in setting.kind.faults(value)]
        if value is not None and not mistakes:
            found[setting.name] = Found(setting.kind.meant(value), origin)
    mistakes = mistakes or list(_unfit(found, settings))
    if mistakes:
        raise Mistakes(mistakes)
    return found


def _unfit(found: Mapping[str, Found], settings: Sequence[Setting]) -> Iterator[str]:
    """What is wrong with values that are right by themselves, and do not go together."""
    said = {setting.name: found[setting.name].origin for setting in settings if found[setting.name].origin != DEFAULT}
    value = {name: each.value for name, each in found.items()}
    for setting in settings:
        if setting.only is not None and setting.name in said and value[setting.only[0]] not in setting.only[1]:
            name, values = setting.only
            yield f"{said[setting.name]} means something only with {' or '.join(f'--{name}={each}' for each in values)}"
    if value.get("processes", 1) > 1:
        if value["strategy"] == "single":
            yield f"{said['strategy']}: single is for one process: say --strategy=routed or broadcast with --processes, or leave it out"
        for each in value["listen"]:
            if each.lower().removeprefix("haproxy:").startswith("unix:"):
                yield f"{said['listen']}={each}: processes share TCP ports only: leave it out, or --processes"
        if "link-listen" in said and parts_of(value["link-listen"]).get("port") != "0":
            yield f"{said['link-listen']}: each process takes links at a port of its own: say port 0 there, or leave it out"
    if value.get("strategy") not in CLUSTERED:
        return
    if not STORES[value["store"].partition(":")[0]].file:
        yield f"{said['store']}: the nodes of a cluster share one store, and this one is a process's own: say --store=sqlite"
    servers, certificate = value["route-server"] or [], value["link-certificate"]
    over_tls = [address for address in servers if address.startswith("tls:")]
    if "table" in said and value["via"] == "route-server":
        yield f"{said['table']}: with --via=route-server the route servers have the table: leave one of the two out"
    if MEMORY_TABLE in value["table"] and len(value["table"]) > 1:
        yield f"{said['table']}: {MEMORY_TABLE} or URLs of Redis, and not both"
    if servers and value["strategy"] == "routed" and value["via"] == "mesh":
        yield f"{said['route-server']}: nodes of a mesh link to each other: say --via=route-server too, or leave it out"
    elif servers and "link-listen" in said:
        yield f"{said['link-listen']}: a node with --route-server takes no links: leave one of the two out"
    if over_tls and certificate is None:
        yield f"{said['route-server']}: {over_tls[0]}: to link there, this node wants --link-certificate and --link-authority"
    for one, other in (("link-certificate", "link-authority"), ("link-authority", "link-certificate")):
        if one in said and value[other] is None:
            yield f"{said[one]}: it goes with --{other}"
        elif one in said and not over_tls:
            yield f"{said[one]}: it is for --route-server=tls:…; for links that are taken here, say it in --link-listen=tls:…"
    interface = parts_of(value["link-listen"]).get("interface", "")
    if not servers and interface.replace("\\", "") in ("0.0.0.0", "::", "0::0"):
        yield f"{said['link-listen']}: the other nodes are told this address, and {interface} is none: name one of this machine's"


def secret_file(found: Mapping[str, Found]) -> str | None:
    """The file with the cluster's secret; None if no link of this process wants one."""
    if "strategy" in found and found["strategy"].value not in CLUSTERED:
        return None
    taken = [found["listen" if "strategy" not in found else "link-listen"].value]
    servers = found["route-server"].value or [] if "route-server" in found else []
    if all(each.lower().startswith("tls:") for each in servers or taken):
        return None
    named: str | None = found["cluster-secret"].value
    return named or str(Path(found["data"].value, CLUSTER_SECRET))


def data_folder(found: Mapping[str, Found]) -> str | None:
    """The data directory, if it is to be there: something is kept in it, or somebody has named it."""
    if "data" not in found:
        return None
    wanted = found["data"].origin != DEFAULT
    if "store" in found:
        name, _, path = found["store"].value.partition(":")
        wanted = wanted or bool(STORES[name].file and not path)
    if not wanted and all(name in found for name in ("listen", "cluster-secret")):
        wanted = found["cluster-secret"].value is None and secret_file(found) is not None
    folder: str = found["data"].value
    return folder if wanted else None


def open_secrets(found: Mapping[str, Found], settings: Sequence[Setting] = SETTINGS) -> list[str]:
    """One warning for each file that holds a secret and is open to others than its owner."""
    paths = [
        path for setting in settings if (value := found[setting.name].value) is not None for path in setting.kind.secrets(value)
    ]
    if "cluster-secret" in found and (shared := secret_file(found)) is not None:
        paths.append(shared)
    return [
        f"{path} holds a secret, and others than its owner may read or write it: chmod go= {path}"
        for path in dict.fromkeys(paths)
        if os.path.exists(path) and os.stat(path).st_mode & 0o077
    ]


def _file(flags: Mapping[str, Any], environment: Mapping[str, str], settings: Sequence[Setting]) -> Iterator[Said | str]:
    path, origin = flags.get(CONFIG.name), CONFIG.flag
    if path is None:
        path, origin = environment.get(CONFIG.variable) or None, CONFIG.variable
    if path is None:
        return
    try:
        tables = tomllib.loads(Path(CONFIG.kind.read(path)).read_text(encoding="utf-8"))
    except OSError as error:
        yield f"{origin}: {explained(error)}"
    except ValueError as error:  # what is no TOML, and what is no UTF-8
        yield f"{path}: {error}" if str(error) else f"{origin} {CONFIG.kind.allowed}, not {_shown(path)}"
    else:
        sections = {setting.section for setting in settings if setting.section}
        inner = {key: tables.pop(key) for key in sections & tables.keys()}
        for section, table in (("", tables), *sorted(inner.items())):
            if not isinstance(table, dict):
                yield f"{path}: {section} is a section: write [{section}], and its settings below"
                continue
            yield from _table(str(path), section, table, settings)


def _table(path: str, section: str, table: dict[str, Any], settings: Sequence[Setting]) -> Iterator[Said | str]:
    known = {setting.name: setting for setting in settings if setting.section == section}
    sections = {setting.section: f"[{setting.section}]" for setting in settings if setting.section}
    for key, value in table.items():
        if key in known:
            yield Said(known[key], f"{path}: {known[key].key}", value, value)
        elif isinstance(value, dict) and not section:
            yield f"{path}: there is no section [{key}]{_near(key, sections.values(), sections)}"
        else:
            where = f"{section}.{key}" if section else key
            near = _near(key, known, {setting.name: setting.key for setting in settings})
            yield f"{path}: there is no setting {where}{near}"


def _environment(environment: Mapping[str, str], settings: Sequence[Setting]) -> Iterator[Said | str]:
    known = {setting.variable: setting for setting in settings}
    for name, text in sorted(environment.items()):
        if not name.startswith(PREFIX) or not text or name == CONFIG.variable:
            continue
        if name in known:
            yield Said(known[name], name, known[name].kind.from_text(text), text)
        elif not _KUBERNETES.fullmatch(name):
            meant = {variable.removeprefix(PREFIX): variable for variable in (CONFIG.variable, *known)}
            yield f"{name}: there is no such setting{_near(name.removeprefix(PREFIX), meant.values(), meant)}"


def _flags(flags: Mapping[str, Any], settings: Sequence[Setting]) -> Iterator[Said | str]:
    for setting in settings:
        if setting.name in flags:
            text = flags[setting.name]
            yield Said(setting, setting.flag, setting.kind.from_text(text), text)


def flag_like(flag: str, settings: Sequence[Setting] = SETTINGS) -> str:
    """The end of a line about a flag that there is not."""
    flags = {setting.name: setting.flag for setting in (CONFIG, *settings)}
    return _near(flag.lstrip("-"), flags.values(), flags)


def _near(word: str, known: Iterable[str], meant: Mapping[str, str]) -> str:
    """The end of a line about a name that there is not: the name that was meant, or those that there are.

    Args:
        known: those that there are.
        meant: those that may have been meant, and how each is written.
    """
    close = difflib.get_close_matches(word, meant, 1)
    return f"; did you mean {meant[close[0]]}?" if close else f"; there are {', '.join(known)}"


def _shown(value: Any) -> str:
    short = reprlib.Repr()
    short.maxstring = short.maxother = 80
    return short.repr(value)


# ---- as a file


def as_file(found: Mapping[str, Found], settings: Sequence[Setting] = SETTINGS) -> str:
    """A configuration as a TOML file that says it again, with the origin of each value beside it."""
    lines = []
    section = ""
    for setting in settings:
        if setting.section != section:
            section = setting.section
            lines += ["", f"[{section}]"]
        value, origin = found[setting.name]
        said = f"# {setting.name} is not set" if value is None else f"{setting.name} = {as_toml(setting.kind.shown(value))}"
        lines.append(f"{said:<38}  # {origin}")
    return "\n".join(lines) + "\n"
