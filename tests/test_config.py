"""Settings: the same from a flag, a variable and the file; the stronger place counts; a mistake is one line, and nothing has started.

Strategy: everything that holds for all settings is tried by a loop over the declaration or by hypothesis, on `Options` in this process.
What an operator sees is tried on a real `twistd -n im`: each kind of mistake, `--check-config`, and that settings reach the server.
"""

from __future__ import annotations

import os
import socket
import sqlite3
import stat
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from contextlib import chdir
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.running import certificate
from tests.storage.contract import ALICE, BOB, LAPTOP, message
from tests.twistd import DEADLINE, ENVIRONMENT, TWIST, TWISTD, Talk, address_in, started, wait_for
from twisted_im import config
from twisted_im.config import SETTINGS, Engine, File, Mistakes, Setting, StoreName, as_toml, configured, open_secrets
from twisted_im.core.connection import Limits
from twisted_im.errors import Disconnect
from twisted_im.storage.sqlite import SqliteStore
from twisted_im.tap import Options
from twisted_im.wire.codec import CODECS
from twisted_im.wire.framing import FrameReader
from twisted_im.wire.schema import Command, Kind

#: This process's, without any setting of ours.
CLEAN = {name: value for name, value in ENVIRONMENT.items() if not name.startswith(config.PREFIX)}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path) -> Iterator[Path]:
    """Where relative paths lead, with a key with its certificate."""
    (tmp_path / "im.pem").write_text(Path(certificate()).read_text())
    (tmp_path / "im.pem").chmod(0o600)
    with chdir(tmp_path):
        yield tmp_path


# ---- three places, one meaning


def as_text(value: Any) -> str:
    """A value as a flag or a variable has it."""
    return value if isinstance(value, str) else " ".join(value) if isinstance(value, list) else as_toml(value)


def as_flags(setting: Setting, value: Any) -> list[str]:
    if setting.is_switch:
        return [setting.flag] * value
    return [f"{setting.flag}={as_text(item)}" for item in (value if isinstance(value, list) else [value])]


def as_table(values: dict[str, Any]) -> str:
    """A file that says this."""
    lines = sorted((setting.section, f"{setting.name} = {as_toml(values[setting.name])}") for setting in SETTINGS if setting.name in values)
    return "\n".join([line for section, line in lines if not section] + ["[limits]"] + [line for section, line in lines if section])


def options(flags: list[str], environment: dict[str, str]) -> dict[str, Any]:
    """What `twistd im` makes of this, setting by setting."""
    parsed = Options(environment)
    parsed.parseOptions(flags)
    return {setting.name: parsed[setting.name] for setting in SETTINGS}


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_each_setting_from_each_place(setting: Setting) -> None:
    """A setting does nothing in the file or in the environment, or means something else there."""
    value = setting.example if not setting.is_switch else True
    for name in ("issuer.pem", "nodes.pem", "im-1.pem", "all.secret"):
        Path(name).touch(mode=0o600)
    beside = as_flags(BY_NAME["strategy"], "routed") if setting.only else []
    beside += BESIDE.get(setting.name, [])
    Path("im.toml").write_text(as_table({setting.name: value}))
    nothing = options(beside, {}) if setting.name not in BESIDE else {}
    by_flag = options([*beside, *as_flags(setting, value)], {})
    by_variable = options(beside, {setting.variable: as_text(value)})
    by_file = options([*beside, "--config=im.toml"], {})
    by_file_too = options(beside, {"TWISTED_IM_CONFIG": "im.toml"})
    assert by_flag == by_variable == by_file == by_file_too
    assert by_flag[setting.name] == setting.kind.meant(value)
    assert by_flag == {**(nothing or by_flag), setting.name: setting.kind.meant(value)}
    assert (by_flag != nothing) == (value != setting.default)


#: What some settings mean nothing without.
_CERTIFIED = ["--via=route-server", "--route-server=tls:127.0.0.1:7900"]
BESIDE = {
    "route-server": ["--via=route-server"],
    "link-certificate": [*_CERTIFIED, "--link-authority=nodes.pem"],
    "link-authority": [*_CERTIFIED, "--link-certificate=im.pem"],
}


def test_every_limit_is_a_setting() -> None:
    """A deadline or a budget can only be changed in the source."""
    protocol = {"min_heartbeat", "max_heartbeat", "stranger_max_body"}  # what an operator may choose is between these
    assert {field.name.replace("_", "-") for field in fields(Limits) if field.name not in protocol} < {
        setting.name for setting in SETTINGS if setting.section == "limits"
    }


WORDS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=16)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "listen": st.lists(st.sampled_from(["tcp:7777", "tcp6:0", "unix:im.sock:mode=660", "tcp:1:interface=0.0.0.0"]), min_size=1, max_size=3),
    "auth": st.sampled_from(["anonymous", "file:users", "file:a b:c"]),
    "data": st.sampled_from(["here", "there/and there"]),
    "name": WORDS,
    "store": st.sampled_from(["memory", "sqlite", "sqlite:im.db", "sqlite:a b"]),
    "standby": st.just(True),
    "connections": st.integers(0, 100),
    "heartbeat": st.integers(5, 1800),
    "unacknowledged": st.floats(0.1, 3600).map(lambda seconds: round(seconds, 6)),
    "max-body": st.integers(2048, 16 * 1024 * 1024),
}
BY_NAME = {setting.name: setting for setting in SETTINGS}
SOME = st.fixed_dictionaries({}, optional=VALUES)


@example(in_file={"name": '"\\\x7f'}, in_environment={}, in_flags={})  # what TOML wants escaped
@given(in_file=SOME, in_environment=SOME, in_flags=SOME)
def test_the_stronger_place_counts(in_file: dict[str, Any], in_environment: dict[str, Any], in_flags: dict[str, Any]) -> None:
    """A server runs with a value that a flag or a variable was to change, or says of a value that it comes from where it does not."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "im.toml")
        file.write_text(as_table(in_file), encoding="utf-8")
        environment = {BY_NAME[name].variable: as_text(value) for name, value in in_environment.items()}
        flags = [f"--config={file}", *(flag for name, value in in_flags.items() for flag in as_flags(BY_NAME[name], value))]
        given_flags = {name: value if isinstance(value, list) else as_text(value) for name, value in in_flags.items()}
        found = configured({"config": str(file), **given_flags}, environment)
        meant = options(flags, environment)
    for name, setting in BY_NAME.items():
        default = (setting.default, "default")
        value, origin = next(
            (
                (said[name], where)
                for said, where in (
                    (in_flags, setting.flag),
                    (in_environment, setting.variable),
                    (in_file, f"{file}: {setting.key}"),
                )
                if name in said
            ),
            default,
        )
        assert found[name] == (None if value is None else setting.kind.meant(value), origin)
        assert meant[name] == (None if value is None else setting.kind.meant(value))
    said_again = tomllib.loads(config.as_file(found))
    set_to = {name: value for name, value in meant.items() if value is not None}
    assert said_again | said_again.pop("limits") == set_to, "what --check-config prints is a file that says the same"


def test_variables_of_others() -> None:
    """A server in Kubernetes, behind a service of its own name, does not start, because of variables that nobody has set."""
    cluster = {"PORT": "tcp://10.0.0.1:7777", "PORT_7777_TCP": "x", "PORT_7777_TCP_ADDR": "x", "SERVICE_HOST": "x", "SERVICE_PORT_IM": "x"}
    assert options([], {f"TWISTED_IM_{name}": value for name, value in cluster.items()}) == options([], {})
    assert options([], {"TWISTED_IM_NAME": "", "TWISTED_IM_CONFIG": ""}) == options([], {}), "an empty variable says nothing"


# ---- mistakes


#: what is wrong → (the file, the environment, the flags, the line)
MISTAKES: dict[str, tuple[str, dict[str, str], list[str], str]] = {
    "key": ("hartbeat = 60", {}, [], "im.toml: there is no setting hartbeat; did you mean limits.heartbeat?"),
    "underscore": ("[limits]\nmax_body = 9", {}, [], "im.toml: there is no setting limits.max_body; did you mean limits.max-body?"),
    "key in another section": ("[limits]\nname = 'x'", {}, [], "im.toml: there is no setting limits.name; did you mean name?"),
    "key like none": ("colour = 'red'", {}, [], "im.toml: there is no setting colour; there are listen, auth, strategy, via, route-"),
    "section": ("[limit]\nwindow = 9", {}, [], "im.toml: there is no section [limit]; did you mean [limits]?"),
    "section as a key": ("limits = 9", {}, [], "im.toml: limits is a section: write [limits], and its settings below"),
    "type": ("[limits]\nwindow = '64'", {}, [], "im.toml: limits.window takes a whole number from 2 to 65535, not '64'"),
    "truth": ("[limits]\nclose = true", {}, [], "im.toml: limits.close takes a number from 0.1 to 3600, not True"),
    "list": ("listen = 'tcp:0'", {}, [], "im.toml: listen takes a list, such as [\"tcp:7777:interface=127.0.0.1\"], not 'tcp:0'"),
    "hidden": ("name = 5", {"TWISTED_IM_NAME": "im"}, ["--name=im"], "im.toml: name takes 1 to 64 bytes of text, not 5"),
    "syntax": ("name = im", {}, [], "im.toml: Invalid value (at line 1, column 8)"),
    "encoding": ("name = '\udcff'", {}, [], "im.toml: 'utf-8' codec can't decode byte 0xff"),
    "no file": ("", {"TWISTED_IM_CONFIG": "none.toml"}, [], "TWISTED_IM_CONFIG: none.toml: No such file or directory"),
    "empty path": ("", {}, ["--config="], "--config takes the path of a file, not ''"),
    "variable": ("", {"TWISTED_IM_LISTN": "tcp:0"}, [], "TWISTED_IM_LISTN: there is no such setting; did you mean TWISTED_IM_LISTEN?"),
    "variable like none": ("", {"TWISTED_IM_UID": "1"}, [], "TWISTED_IM_UID: there is no such setting; there are TWISTED_IM_CONFIG, "),
    "range": ("", {"TWISTED_IM_HANDSHAKE": "0"}, [], "TWISTED_IM_HANDSHAKE takes a number from 0.1 to 3600, not '0'"),
    "endpoint": ("", {"TWISTED_IM_LISTEN": "tcp:0,tcp:door"}, [], "TWISTED_IM_LISTEN=tcp:door: not an endpoint that can be used"),
    "flag": ("", {}, ["--windw=9"], "option --windw not recognized; did you mean --window?"),
    "a store without a file": ("", {}, ["--store=memory:here"], "--store is one of memory, sqlite:PATH, sqlite, not 'memory:here'"),
    "switch": ("", {"TWISTED_IM_STANDBY": "maybe"}, [], "TWISTED_IM_STANDBY is true or false, not 'maybe'"),
    "the store's folder": ("store = 'sqlite:none/im.db'", {}, [], "im.toml: store: none/im.db: its folder is not there, or may not be "),
    "descriptors": ("", {}, ["--connections=1000000"], "--connections: 1000000, where the limit on open files leaves "),
    "data is a file": ("", {}, ["--data=im.pem"], "--data: im.pem: Not a directory"),
    "data below a file": ("data = 'im.pem/data'", {}, [], "im.toml: data: im.pem/data: "),
    "for a cluster": ("", {"TWISTED_IM_VIA": "mesh"}, [], "TWISTED_IM_VIA means something only with --strategy=routed"),
    "for a cluster, listen": (
        "link-listen = 'tcp:0'", {}, [], "im.toml: link-listen means something only with --strategy=broadcast or --strategy=routed"
    ),
    "memory": ("", {}, ["--strategy=routed", "--store=memory"], "--store: the nodes of a cluster share one store, and this one is"),
    "mesh": (
        "", {}, ["--strategy=routed", "--route-server=[::1]:7900"],
        "--route-server: nodes of a mesh link to each other: say --via=route-server too, or leave it out",
    ),
    "both": (
        "", {}, ["--strategy=broadcast", "--route-server=127.0.0.1:7900", "--link-listen=tcp:0"],
        "--link-listen: a node with --route-server takes no links: leave one of the two out",
    ),
    "uncertified": (
        "", {}, ["--strategy=broadcast", "--route-server=tls:im.example.org:7900"],
        "--route-server: tls:im.example.org:7900: to link there, this node wants --link-certificate and --link-authority",
    ),
    "half certified": ("", {}, ["--strategy=routed", "--link-authority=im.pem"], "--link-authority: it goes with --link-certificate"),
    "certified for nothing": (
        "", {}, ["--strategy=routed", "--link-certificate=im.pem", "--link-authority=im.pem"],
        "--link-certificate: it is for --route-server=tls:",
    ),
    "an address for all": (
        "", {}, ["--strategy=routed", "--link-listen=tls:im.pem:port=0:authority=im.pem:interface=0.0.0.0"],
        "--link-listen: the other nodes are told this address, and 0.0.0.0 is none: name one of this machine's",
    ),
    "a secret on a network": (
        "", {}, ["--strategy=routed", "--link-listen=tcp:0:interface=0.0.0.0"],
        "--link-listen=tcp:0:interface=0.0.0.0: a secret is for links on one machine",
    ),
    "a link endpoint": ("", {}, ["--strategy=routed", "--link-listen=tcp:door"], "--link-listen=tcp:door: not an endpoint that can be"),
    "an address": ("", {}, ["--strategy=broadcast", "--route-server=here"], "--route-server: 'here' is no address of a node: write tls:"),
    "no secret": ("", {}, ["--strategy=routed", "--cluster-secret=none"], "--cluster-secret: its file cannot be read: No such file"),
    "rundir": ("", {}, [], "--rundir: none: No such file or directory"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line(mistake: str) -> None:
    """Who mistypes a setting gets a traceback, a line without the place or the remedy, or a server that runs with something else."""
    text, environment, flags, said = MISTAKES[mistake]
    Path("im.toml").write_bytes(text.encode(errors="surrogateescape"))
    more = ["--rundir=none"] if mistake == "rundir" else []
    words = [*TWISTD, "-n", "--pidfile=", *more, "im", "--listen=tcp:0", *(["--config=im.toml"] if text else []), *flags]
    if "LISTEN" in str(environment):
        words.remove("--listen=tcp:0")
    limited = f"ulimit -n 256; exec {sys.executable} \"$@\""  # a limit that the test knows
    outcome = subprocess.run(
        ["sh", "-c", limited, *words], env=CLEAN | environment, capture_output=True, text=True, timeout=DEADLINE, check=False
    )
    assert (outcome.returncode, outcome.stdout) == (1, "")
    assert outcome.stderr.startswith(f"twisted_im: {said}")
    assert outcome.stderr.endswith(" (see: twistd im --help)\n")
    assert outcome.stderr.count("\n") == 1
    assert not {path.name for path in Path().iterdir()} - {"im.toml", "im.pem"}, "nothing has started"


# ---- --check-config


def checked(words: list[str], flags: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    words = [*words, "im", *flags, "--check-config"]
    return subprocess.run(words, env=CLEAN | environment, capture_output=True, text=True, timeout=DEADLINE, check=False)


@pytest.mark.parametrize("words", [[*TWISTD, "-n"], TWISTD, TWIST], ids=["twistd -n", "twistd", "twist"])
def test_check_says_what_would_run(words: list[str]) -> None:
    """An operator cannot see which of three places a value comes from, or a look starts something."""
    Path("im.toml").write_text('data = "ü"\n[limits]\nwindow = 9\nclose = 2.5\nping = 1')
    Path("im.pem").chmod(0o640)
    environment = {"TWISTED_IM_LISTEN": "tcp:0 tls:im.pem:7778", "TWISTED_IM_WINDOW": "8", "TWISTED_IM_CONFIG": "im.toml"}
    outcome = checked(words, ["--ping=3", "--auth=anonymous"], environment)
    assert outcome.returncode == 0
    listen = '["tcp:0:interface=127.0.0.1", "tls:im.pem:7778:interface=127.0.0.1"]'
    lines = [" ".join(line.split()) for line in outcome.stdout.splitlines()]
    assert lines == [
        f"listen = {listen} # TWISTED_IM_LISTEN",
        'auth = "anonymous" # --auth',
        'strategy = "single" # default',
        'via = "mesh" # default',
        "# route-server is not set # default",
        'link-listen = "tcp:0:interface=127.0.0.1" # default',
        "# cluster-secret is not set # default",
        "# link-certificate is not set # default",
        "# link-authority is not set # default",
        'store = "sqlite" # default',
        'data = "ü" # im.toml: data',
        "# advertise is not set # default",
        "processes = 1 # default",
        "share-port = false # default",
        "drain = 30 # default",
        'name = "node" # default',
        "standby = false # default",
        "retention = 0 # default",
        "resume-life = 30 # default",
        "# token-keys is not set # default",
        'token-algorithms = ["ES256"] # default',
        'token-audience = "twisted_im" # default',
        "# token-issuer is not set # default",
        "",
        "[limits]",
        "connections = 0 # default",
        "heartbeat = 300 # default",
        "window = 8 # TWISTED_IM_WINDOW",
        "requests = 64 # default",
        "max-body = 65536 # default",
        "write-budget = 262144 # default",
        "handshake = 5 # default",
        "login = 10 # default",
        "frame = 15 # default",
        "unacknowledged = 10 # default",
        "ping = 3 # --ping",
        "close = 2.5 # im.toml: limits.close",
    ]
    warning = "im.pem holds a secret, and others than its owner may read or write it: chmod go= im.pem"
    assert outcome.stderr == f"twisted_im: warning: {warning}\n"
    assert {path.name for path in Path().iterdir()} == {"im.toml", "im.pem"}, "nothing has been made"


def test_check_says_all_that_is_wrong() -> None:
    """An operator mends one mistake after the other, with a start between them."""
    Path("im.toml").write_text('hartbeat = 9\nauth = "file:users"\n[limits]\nwindow = 1\nrequests = 0\nconnections = 1000000')
    Path("users").write_text("nobody")
    flags = ["--config=im.toml", "--listen=pigeon:7", "--window=9", "--data=users", "--connections=all"]
    outcome = checked([*TWISTD, "-n"], flags, {"TWISTED_IM_CLOSE": "no"})
    assert (outcome.returncode, outcome.stdout) == (1, "")
    assert [line.removeprefix("twisted_im: ")[:48] for line in outcome.stderr.splitlines()] == [
        "im.toml: there is no setting hartbeat; did you m",
        "im.toml: limits.window takes a whole number from",
        "im.toml: limits.requests takes a whole number fr",
        "TWISTED_IM_CLOSE takes a number from 0.1 to 3600",
        "--connections takes a whole number from 0 to 100",  # and nothing of the file's, which would not count
        "--listen=pigeon:7: not an endpoint that can be u",
        "im.toml: auth: users: line 1 is not user:hash",
        "--data: users: Not a directory",
    ]


# ---- secrets


def test_secrets_are_in_files_only() -> None:
    """A secret that somebody typed where its file belongs is repeated on a terminal or in a log; or nobody says that others may read it."""
    secret = Setting(name="token-secret-file", kind=File(secret=True), default=None, help="", example="token.secret")
    declared = (*SETTINGS, secret)
    with pytest.raises(Mistakes) as caught:
        configured({"token-secret-file": "hunter2"}, {}, declared)
    assert caught.value.lines == ["--token-secret-file: its file cannot be read: No such file or directory"]
    Path("token.secret").write_text("hunter2")
    Path("token.secret").chmod(0o644)
    found = configured({}, {"TWISTED_IM_TOKEN_SECRET_FILE": "token.secret"}, declared)
    shown = config.as_file(found, declared)
    assert 'token-secret-file = "token.secret"' in shown
    assert "hunter2" not in shown
    assert [warning.split()[0] for warning in open_secrets(found, declared)] == ["token.secret"]
    Path("token.secret").chmod(0o400)
    assert open_secrets(found, declared) == []
    assert "# token-secret-file is not set" in config.as_file(configured({}, {}, declared), declared)


# ---- what the server makes of it


def test_settings_reach_the_server(folder: Path) -> None:
    """A setting is taken, printed, and then has no effect; or the data directory is not made, or is open to others."""
    Path("im.toml").write_text(
        'auth = "anonymous"\ndata = "kept/here"\n[limits]\nconnections = 1\nwindow = 7\nrequests = 6\nheartbeat = 50\nmax-body = 5000'
    )
    words = [*TWISTD, "-n", "--pidfile=", "im", "--config=im.toml", "--listen=tls:im.pem:0", "--listen=tcp:0"]
    Path("im.pem").chmod(0o644)
    with started(words, folder) as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if sum('"event":"listening"' in each for each in lines) == 2:
                break
        with Talk(address_in(lines[-1:])) as talk:
            hello = talk.ask(Command.HELLO, min_version=1, max_version=1, features=0, max_body=0, heartbeat=0, window=0, agent=b"")
            values = CODECS[Kind.RESPONSE, Command.HELLO].read(hello[3])
            assert (values.max_body, values.heartbeat, values.window, values.requests) == (5000, 50, 7, 6)
            assert told(address_in(lines[-1:])) == Disconnect.FULL, "a second one is too many"
    with started([*TWISTD, "-n", "--pidfile=", "im", "--auth=anonymous", "--listen=tcp:0", "--handshake=0.2"], folder) as process:
        assert process.stdout is not None
        assert told(address_in(process.stdout)) == Disconnect.HANDSHAKE_TIMEOUT
    assert any("im.pem holds a secret" in line for line in lines)
    assert stat.S_IMODE(Path("kept/here").stat().st_mode) == 0o700


def told(address: str) -> Disconnect:
    """The code that somebody who says nothing is told at the end."""
    host, port = address.split(":")
    reader = FrameReader(65536)
    with socket.create_connection((host, int(port)), timeout=DEADLINE) as silent:
        while not (frames := reader.feed(data := silent.recv(65536))):
            assert data, "it hung up without a word"
    return Disconnect(CODECS[Kind.NOTIFY, Command.DISCONNECT].read(frames[0][3]).code)


@pytest.mark.parametrize(
    ("flags", "file"),
    [
        ([], "run/twisted_im.data/messages.db"),
        (["--store=sqlite", "--data=kept"], "run/kept/messages.db"),
        (["--store=sqlite:im.db"], "run/im.db"),
        (["--store=memory"], None),
    ],
)
def test_where_the_store_is(flags: list[str], file: str | None, folder: Path) -> None:
    """A store's file is not where the operator said, or not below twistd's --rundir; or a folder is made that nobody needs."""
    Path("run").mkdir()
    with started([*TWISTD, "-n", "--pidfile=", "--rundir=run", "im", "--auth=anonymous", "--listen=tcp:0", *flags], folder) as process:
        assert process.stdout is not None
        address_in(process.stdout)
    assert [path.as_posix() for path in Path("run").rglob("*.db")] == ([file] if file else [])
    folders = [path.name for path in Path("run").iterdir() if path.is_dir()]
    assert folders == (file.split("/")[1:-1] if file else [])


def test_retention(folder: Path) -> None:
    """An operator says for how many days messages are kept, and they are kept for ever."""
    month = SqliteStore("old.db", clock=lambda: time.time() - 30 * 24 * 3600)
    month.open()
    for user in (ALICE, BOB):
        month.open_session(user, LAPTOP, b"", "node")
    month.append([message(ALICE, BOB)], [])  # at once, since no reactor runs
    month.close()
    count = partial(sqlite3.connect("old.db", isolation_level=None).execute, "SELECT count(*) FROM messages")
    assert count().fetchone() == (1,)
    words = [*TWISTD, "-n", "--pidfile=", "im", "--auth=anonymous", "--listen=tcp:0", "--store=sqlite:old.db", "--retention=29"]
    with started(words, folder):
        wait_for(lambda: count().fetchone() == (0,), "the old message to go")


def test_the_table_says_what_a_store_takes() -> None:
    """`--store=sqlite:` or a folder as its file is found out by the first message."""
    kind = StoreName({"memory": Engine(object), "disk": Engine(object, "messages.db")})
    assert kind.allowed == "is one of memory, disk:PATH, disk"
    assert [kind.read(said) for said in ("memory", "disk", "disk:a:b")] == ["memory", "disk", "disk:a:b"]
    for wrong in ("", "memory:", "disk:", "tape", 5, ["disk"]):
        with pytest.raises(ValueError, match=r"^$"):
            kind.read(wrong)
    os.mkdir("there")
    assert list(kind.faults("disk:there")) == [": there: Is a directory"]
    assert list(kind.faults("disk:none/im.db")) == [": none/im.db: its folder is not there, or may not be written"]
    assert list(kind.faults("disk:there/im.db")) == []
