"""The servers that are compared with ours: what each must have installed, how it is set up, and what it then promises.

Strategy: the settings are what a server's own documents say for the promise, with its limits lifted, TLS off, and no log of single
messages; whatever is not named is left as it is shipped. They are texts here, and docs/peers.md shows the same texts (a test compares
them), so that whoever knows a server better can say what is unfair.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.peers.process import Plan, free_port

#: Where Debian puts servers; not on everybody's PATH.
SERVER_PATHS = "/usr/local/sbin:/usr/sbin:/sbin"

MEMORY, SQLITE = "memory", "sqlite"  #: our stores, beside which a peer stands

MOSQUITTO = """\
listener {port} 127.0.0.1
allow_anonymous true
user root
log_dest stderr
connection_messages false
set_tcp_nodelay true
max_inflight_messages 0
max_queued_messages 0
"""

MOSQUITTO_KEEPS = """\
persistence true
persistence_location {folder}/
"""

NATS = """\
listen: 127.0.0.1:{port}
"""

NATS_JETSTREAM = """\
server_name: benchmark
listen: 127.0.0.1:-1
jetstream {{ store_dir: "{folder}" }}
mqtt {{ listen: 127.0.0.1:{port}, max_ack_pending: 65535 }}
"""

EJABBERD = """\
hosts: [localhost]
loglevel: info
listen:
  - module: ejabberd_c2s
    ip: "127.0.0.1"
    port: {port}
    access: all
    shaper: none
    backlog: 1024
auth_method: internal
auth_password_format: plain
registration_timeout: infinity
modules:
  mod_register:
    ip_access: all
  mod_roster: {{}}
  mod_offline: {{}}
  mod_stream_mgmt:
    max_ack_queue: infinity
"""

EJABBERD_ARCHIVES = """\
  mod_mam:
    db_type: mnesia
    default: always
"""

PROSODY = """\
run_as_root = true
data_path = "{folder}"
log = {{ info = "*console" }}
interfaces = {{ "127.0.0.1" }}
c2s_ports = {{ {port} }}
modules_disabled = {{ "s2s" }}
modules_enabled = {{ "roster", "saslauth", "disco", "register_ibr", "smacks"{archive} }}
c2s_require_encryption = false
allow_unencrypted_plain_auth = true
authentication = "internal_plain"
allow_registration = true
storage = "internal"
archive_expires_after = "never"
VirtualHost "localhost"
"""

RABBITMQ = """\
listeners.tcp = none
mqtt.listeners.tcp.default = 127.0.0.1:{port}
mqtt.tcp_listen_options.nodelay = true
mqtt.allow_anonymous = true
mqtt.prefetch = 65535
log.console = true
log.console.level = info
"""

CROSSBAR = """\
{{
  "version": 2,
  "controller": {{}},
  "workers": [{{
    "type": "router",
    "realms": [{{
      "name": "load",
      "roles": [{{
        "name": "anonymous",
        "permissions": [{{"uri": "load.", "match": "prefix", "allow": {{"publish": true, "subscribe": true}}, "cache": true}}]
      }}]
    }}],
    "transports": [{{
      "type": "rawsocket",
      "endpoint": {{"type": "tcp", "interface": "127.0.0.1", "port": {port}, "backlog": 1024}},
      "serializers": ["json"],
      "auth": {{"anonymous": {{"type": "static", "role": "anonymous"}}}}
    }}]
  }}]
}}
"""

RABBITMQ_PLUGINS = "[rabbitmq_mqtt].\n"

#: RabbitMQ must have a name server, and would start one that stays: so it gets one of its own, which ends with it.
RABBITMQ_STARTS = """\
setpriv --pdeathsig KILL epmd -address 127.0.0.1 &
until epmd -names > names; do sleep 0.05; done
exec "$1"
"""


@dataclass(frozen=True)
class Product:
    """A server as it can be installed.

    Attributes:
        name: for people.
        programs: that must be there.
        install: the command that installs them, and where they are to be had.
        ready: a pattern for its log, which it matches when the server has begun; its group is the version.
        command: its command line, from its folder and the paths of the programs.
        environment: variables to be set, from its folder.
    """

    name: str
    programs: tuple[str, ...]
    install: str
    ready: str
    command: Callable[[Path, Mapping[str, str]], list[str]]
    environment: Callable[[Path], Mapping[str, str]] = field(default=lambda folder: {})


@dataclass(frozen=True)
class Known:
    """One row of the table: a server, as it is set up here.

    Attributes:
        product: what is installed.
        title: for people.
        promise: what becomes of a message, in a few words.
        packets: those that make one message, the protocol's own acknowledgements included.
        beside: the store of ours that promises about as much.
        protocol: of `benchmarks.peers.loop`.
        settings: file → text, with places for {port} and {folder}.
    """

    product: Product
    title: str
    promise: str
    packets: str
    beside: str
    protocol: str
    settings: Mapping[str, str]

    def missing(self) -> str:
        """What is not there, as one line that says how to get it; nothing if all is there."""
        wanted = [program for program in self.product.programs if find(program) is None]
        return f"{self.title}: {' and '.join(wanted)} not found; to install: {self.product.install}" if wanted else ""

    def plan(self, folder: Path, port: int) -> Plan:
        """How to start it in a folder, so that it listens on a port."""
        product = self.product
        paths = {program: path for program in product.programs if (path := find(program))}
        files = {name: text.format(folder=folder, port=port) for name, text in self.settings.items()}
        return Plan(product.command(folder, paths), files, product.environment(folder), product.ready)


def find(program: str) -> str | None:
    """The path of a program; of a library, whose path ends in a star's choice, the newest one."""
    if "/" in program:
        return max((str(path) for path in Path("/").glob(program.lstrip("/"))), default=None)
    return shutil.which(program, path=os.pathsep.join((os.environ.get("PATH", os.defpath), SERVER_PATHS)))


_EJABBERD_CODE = "/usr/lib/*/ejabberd-*/ebin"
_RABBITMQ_SERVER = "/usr/lib/rabbitmq/bin/rabbitmq-server"  # the one on the PATH changes the user, and with that the folder


def _mosquitto(folder: Path, paths: Mapping[str, str]) -> list[str]:
    return [paths["mosquitto"], "-c", "mosquitto.conf"]


def _nats(folder: Path, paths: Mapping[str, str]) -> list[str]:
    return [paths["nats-server"], "-c", "nats.conf"]


def _prosody(folder: Path, paths: Mapping[str, str]) -> list[str]:
    return [paths["prosody"], "-F", "--config", str(folder / "prosody.cfg.lua")]


def _ejabberd(folder: Path, paths: Mapping[str, str]) -> list[str]:
    """As ejabberdctl does, without a name in a cluster."""
    code = paths[_EJABBERD_CODE]
    return [paths["erl"], "+K", "true", "-noinput", "-pa", code, "-mnesia", "dir", f'"{folder}/mnesia"', "-s", "ejabberd"]


def _in_ejabberd(folder: Path) -> Mapping[str, str]:
    code = find(_EJABBERD_CODE)
    return {
        "EJABBERD_CONFIG_PATH": str(folder / "ejabberd.yml"),
        "EJABBERD_LOG_PATH": str(folder / "ejabberd.log"),
        "ERL_LIBS": str(Path(code).parents[1]) if code else "",
        "ERL_CRASH_DUMP": str(folder / "crash"),
        "HOME": str(folder),
    }


def _crossbar(folder: Path, paths: Mapping[str, str]) -> list[str]:
    return [paths["crossbar"], "start", "--cbdir", str(folder), "--config", "config.json", "--loglevel", "info", "--color", "false"]


def _rabbitmq(folder: Path, paths: Mapping[str, str]) -> list[str]:
    return [paths["sh"], "starts.sh", paths[_RABBITMQ_SERVER]]


def _in_rabbitmq(folder: Path) -> Mapping[str, str]:
    return {
        "ERL_EPMD_PORT": str(free_port()),
        "HOME": str(folder),
        "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
        "RABBITMQ_CONF_ENV_FILE": str(folder / "none"),
        "RABBITMQ_DIST_PORT": str(free_port()),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
        "RABBITMQ_LOGS": "-",
        "RABBITMQ_LOG_BASE": str(folder),
        "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
        "RABBITMQ_NODENAME": f"benchmark{os.getpid()}@localhost",
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-start_epmd false",
        "RUNNING_UNDER_SYSTEMD": "1",
    }


_DEBIAN = "apt-get install {} (or {})"

_MOSQUITTO = Product(
    "mosquitto",
    ("mosquitto",),
    _DEBIAN.format("mosquitto", "https://mosquitto.org/download"),
    r"mosquitto version (\S+)",
    _mosquitto,
)
_NATS = Product(
    "nats-server",
    ("nats-server",),
    _DEBIAN.format("nats-server", "https://github.com/nats-io/nats-server/releases"),
    r"Version:\s+(\S+)",
    _nats,
)
_EJABBERD = Product(
    "ejabberd",
    ("erl", _EJABBERD_CODE),
    _DEBIAN.format("ejabberd", "https://www.ejabberd.im"),
    r"ejabberd (\d\S*?)(?:-\d+)? is started",
    _ejabberd,
    _in_ejabberd,
)
_PROSODY = Product(
    "Prosody",
    ("prosody",),
    _DEBIAN.format("prosody", "https://prosody.im/download"),
    r"Prosody version (\S+)",
    _prosody,
)
_RABBITMQ = Product(
    "RabbitMQ",
    ("erl", "epmd", "setpriv", "sh", _RABBITMQ_SERVER),
    _DEBIAN.format("rabbitmq-server", "https://www.rabbitmq.com/docs/download"),
    r"Starting RabbitMQ (\S+)",
    _rabbitmq,
    _in_rabbitmq,
)
_CROSSBAR = Product(
    "Crossbar",
    ("crossbar",),
    "pip install crossbar, in an environment of its own that is on the PATH (or https://crossbar.io)",
    r"Crossbar\S* v(\d\S*)",
    _crossbar,
)

_XMPP_PACKETS = "2, and up to 4 that acknowledge"

#: the name for --peers → the server
KNOWN: dict[str, Known] = {
    "mosquitto-qos0": Known(
        product=_MOSQUITTO,
        title="mosquitto, QoS 0",
        promise="at most once",
        packets="2",
        beside=MEMORY,
        protocol="mqtt-qos0",
        settings={"mosquitto.conf": MOSQUITTO},
    ),
    "nats": Known(
        product=_NATS,
        title="nats-server, core",
        promise="at most once",
        packets="2",
        beside=MEMORY,
        protocol="nats",
        settings={"nats.conf": NATS},
    ),
    "crossbar": Known(
        product=_CROSSBAR,
        title="Crossbar (WAMP)",
        promise="at most once",
        packets="2",
        beside=MEMORY,
        protocol="wamp",
        settings={"config.json": CROSSBAR},
    ),
    "ejabberd": Known(
        product=_EJABBERD,
        title="ejabberd",
        promise="at least once; in memory until it is acknowledged",
        packets=_XMPP_PACKETS,
        beside=MEMORY,
        protocol="xmpp",
        settings={"ejabberd.yml": EJABBERD},
    ),
    "prosody": Known(
        product=_PROSODY,
        title="Prosody",
        promise="at least once; in memory until it is acknowledged",
        packets=_XMPP_PACKETS,
        beside=MEMORY,
        protocol="xmpp",
        settings={"prosody.cfg.lua": PROSODY.replace("{archive}", "")},
    ),
    "mosquitto-qos1": Known(
        product=_MOSQUITTO,
        title="mosquitto, QoS 1",
        promise="at least once; in memory, and in a file every 30 minutes and when it ends",
        packets="4",
        beside=MEMORY,
        protocol="mqtt-qos1",
        settings={"mosquitto.conf": MOSQUITTO + MOSQUITTO_KEEPS},
    ),
    "nats-jetstream": Known(
        product=_NATS,
        title="nats-server, JetStream (MQTT, QoS 1)",
        promise="at least once; in a file before it is acknowledged, synced every 2 minutes",
        packets="4",
        beside=SQLITE,
        protocol="mqtt-qos1",
        settings={"nats.conf": NATS_JETSTREAM},
    ),
    "rabbitmq": Known(
        product=_RABBITMQ,
        title="RabbitMQ (MQTT, QoS 1)",
        promise="at least once; in a durable queue, on disk unless it is taken at once",
        packets="4",
        beside=SQLITE,
        protocol="mqtt-qos1",
        settings={"rabbitmq.conf": RABBITMQ, "plugins": RABBITMQ_PLUGINS, "starts.sh": RABBITMQ_STARTS},
    ),
    "ejabberd-archive": Known(
        product=_EJABBERD,
        title="ejabberd, archive in Mnesia",
        promise="at least once; in both users' archives, not synced",
        packets=_XMPP_PACKETS,
        beside=SQLITE,
        protocol="xmpp",
        settings={"ejabberd.yml": EJABBERD + EJABBERD_ARCHIVES},
    ),
    "prosody-archive": Known(
        product=_PROSODY,
        title="Prosody, archive in files",
        promise="at least once; in both users' archives, not synced",
        packets=_XMPP_PACKETS,
        beside=SQLITE,
        protocol="xmpp",
        settings={"prosody.cfg.lua": PROSODY.replace("{archive}", ', "mam"')},
    ),
}
