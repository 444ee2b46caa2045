"""`twistd im` and `twist im`, as an operator types them.

Strategy: real processes with deadlines. Whatever is wrong must be one line that says what to do, and a status that is not 0: on stderr, in
the log, or both where twistd does so. What depends on one option alone is asked of `Options` without a process.
"""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from threading import Timer

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.running import Authority, certificate, new_id
from tests.twistd import DEADLINE, ENVIRONMENT, TWIST, TWISTD, Talk, address_in, event_in, lets_in, started, wait_for
from twisted_im.config import CONFIG, SETTINGS, STORES, STRATEGIES
from twisted_im.core.connection import Limits
from twisted_im.counters import Counters
from twisted_im.errors import Disconnect, Status
from twisted_im.pump import FRAMES_AT_ONCE, NEWCOMER_FRAMES_AT_ONCE
from twisted_im.server.authenticators import write_password
from twisted_im.service import RESERVED
from twisted_im.tap import Options, StartError
from twisted_im.wire.codec import CODECS, tag
from twisted_im.wire.schema import Command, Kind, LoginMethod

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("words", [[*TWISTD, "-n", "--pidfile="], TWIST], ids=["twistd", "twist"])
def test_foreground(words: list[str], tmp_path: Path) -> None:
    """The README's first command does not start a server, or Ctrl-C and SIGTERM do not end it properly."""
    with started([*words, "im", "--auth=anonymous", "--strategy=single", "--listen=tcp:0"], tmp_path) as process:
        assert process.stdout is not None
        assert lets_in(address_in(process.stdout))
        process.send_signal(signal.SIGTERM)
        rest, _ = process.communicate(timeout=DEADLINE)
        assert process.returncode == 0
        assert '"event":"stopped"' in rest.replace(": ", ":")
        assert "Traceback" not in rest


def test_users_in_the_store(tmp_path: Path) -> None:
    """Users that were made by the command cannot log in, or one who was disabled while the server runs still can."""
    store = f"--store=sqlite:{tmp_path / 'im.db'}"
    user = [sys.executable, "-m", "twisted_im", "user"]
    subprocess.run([*user, "add", "alice", store], input=b"secret\n", env=ENVIRONMENT, check=True, timeout=DEADLINE)
    with started([*TWISTD, "-n", "--pidfile=", "im", "--auth=store", store, "--listen=tcp:0"], tmp_path) as process:
        assert process.stdout is not None
        address = address_in(process.stdout)

        def login(uid: str, secret: bytes, method: LoginMethod = LoginMethod.PASSWORD) -> bytes | None:
            """The resume token; None if it is refused."""
            with Talk(address) as talk:
                status = talk.login(uid, secret, method)
                assert status in (Status.OK, Status.NOT_AUTHENTICATED)
                return None if status else CODECS[Kind.RESPONSE, Command.LOGIN].read(talk.answer[3]).resume

        assert login("alice", b"wrong") is login("bob", b"secret") is None
        token = login("alice", b"secret")
        assert token
        subprocess.run([*user, "passwd", "alice", store], input=b"other\n", env=ENVIRONMENT, check=True, timeout=DEADLINE)
        assert login("alice", token, LoginMethod.RESUME) is login("alice", b"secret") is None
        token = login("alice", b"other")
        assert token
        token = login("alice", token, LoginMethod.RESUME)
        assert token
        with Talk(address) as talk:
            assert talk.login("alice", b"other") == Status.OK
            subprocess.run([*user, "disable", "alice", store], env=ENVIRONMENT, check=True, timeout=DEADLINE)
            word, _, _, body = talk.hear()
            assert word == tag(Kind.NOTIFY, Command.DISCONNECT), "a session that was open goes on"
            assert CODECS[Kind.NOTIFY, Command.DISCONNECT].read(body).code == Disconnect.KICKED
        assert login("alice", token, LoginMethod.RESUME) is login("alice", b"other") is None
        process.send_signal(signal.SIGTERM)
        rest, _ = process.communicate(timeout=DEADLINE)
        assert (process.returncode, "Traceback" in rest) == (0, False), rest


def test_an_early_end(tmp_path: Path) -> None:
    """A server that is told to stop while it starts goes on, or ends with a traceback."""
    with started([*TWISTD, "-n", "--pidfile=", "im", "--auth=anonymous", "--listen=tcp:0"], tmp_path) as process:
        assert process.stdout is not None
        address_in(process.stdout)
        process.send_signal(signal.SIGINT)  # within a moment of the line above, and so before the reactor runs, as a rule
        rest, _ = process.communicate(timeout=DEADLINE)
        assert process.returncode == 0
        assert '"event":"stopped"' in rest
        assert "Traceback" not in rest


def test_nobody_unless_said(tmp_path: Path) -> None:
    """A server that was started without a word about passwords lets anybody in; or does not notice that its first user was made."""
    with started([*TWISTD, "-n", "--pidfile=", "im", "--listen=tcp:0"], tmp_path) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        assert json.loads(first)["level"] == "warn"
        assert "python -m twisted_im password twisted_im.passwords" in first
        address = address_in(process.stdout)
        with Talk(address) as talk:
            assert talk.login("alice", b"", LoginMethod.ANONYMOUS) == Status.UNSUPPORTED
        with Talk(address) as talk:
            assert talk.login("alice", b"wonderland") == Status.NOT_AUTHENTICATED
        words = [sys.executable, "-m", "twisted_im", "password", "twisted_im.passwords", "alice", "--stdin"]
        subprocess.run(words, cwd=tmp_path, env=ENVIRONMENT, input=b"wonderland\n", capture_output=True, timeout=DEADLINE, check=True)
        with Talk(address) as talk:
            assert talk.login("alice", b"wonderland") == Status.OK
        with Talk(address) as wrong, Talk(address) as unknown:
            assert wrong.login("alice", b"looking-glass") == unknown.login("bob", b"wonderland") == Status.NOT_AUTHENTICATED
            assert wrong.answer == unknown.answer, "nobody learns who has an account"


@pytest.mark.parametrize("words", [[*TWISTD, "-n", "--pidfile="], [*TWIST, "--log-format=json"]], ids=["twistd", "twist"])
def test_hangup_reads_certificates_again(words: list[str], tmp_path: Path) -> None:
    """A renewed certificate waits for a restart, throws people out, or a bad one ends the server."""
    authority = Authority(tmp_path)
    pem = authority.pair(tmp_path / "im.pem", "127.0.0.1")
    with started([*words, "im", "--auth=anonymous", "--listen=tls:im.pem:port=0"], tmp_path) as process:
        assert process.stdout is not None
        address = address_in(process.stdout)
        with Talk(address, authority.pem) as early:
            assert early.login("alice", b"", LoginMethod.ANONYMOUS) == Status.OK
            authority.pair(pem, "127.0.0.1")
            process.send_signal(signal.SIGHUP)
            event_in(process.stdout, "reloaded")
            with Talk(address, authority.pem) as second:
                assert second.certificate() != early.certificate()
                pem.write_text("this is no certificate")
                process.send_signal(signal.SIGHUP)
                complaint = json.loads(event_in(process.stdout, "not_reloaded").lstrip("\x1e"))
                assert "im.pem: there is no certificate in it" in complaint["why"]
                with Talk(address, authority.pem) as third:
                    assert third.certificate() == second.certificate()
                    assert third.login("bob", b"", LoginMethod.ANONYMOUS) == Status.OK
                assert second.login("carol", b"", LoginMethod.ANONYMOUS) == Status.OK
            assert early.ask(Command.PING), "nobody was thrown out"
        process.send_signal(signal.SIGTERM)
        rest, _ = process.communicate(timeout=DEADLINE)
        assert process.returncode == 0
        assert "Traceback" not in rest


@pytest.mark.parametrize("words", [[*TWISTD, "-n", "--pidfile="], [*TWIST, "--log-format=json"]], ids=["twistd", "twist"])
def test_what_it_has_done_so_far(words: list[str], tmp_path: Path) -> None:
    """Whoever wants to know what a server does must stop it, or the question ends it."""
    with started([*words, "im", "--auth=anonymous", "--listen=tcp:0"], tmp_path) as process:
        assert process.stdout is not None
        address = address_in(process.stdout)
        for logins in (0, 1):
            process.send_signal(signal.SIGUSR2)
            told = json.loads(event_in(process.stdout, "counters").lstrip("\x1e"))
            assert (told["node"], told["logins"], "copies_wasted" in told) == ("node", logins, True)
            assert lets_in(address)


def test_a_closed_terminal_ends_the_server(tmp_path: Path) -> None:
    """A server in a terminal that was closed goes on unseen, and the next start finds its port taken."""
    process, terminal = pty.fork()
    if not process:
        os.chdir(tmp_path)
        os.execve(sys.executable, [*TWISTD, "-n", "--pidfile=", "--logfile=im.log", "im", "--listen=tcp:0"], ENVIRONMENT)
    try:
        log = tmp_path / "im.log"
        wait_for(lambda: log.exists() and '"event":"listening"' in log.read_text(), "its start")
        os.kill(process, signal.SIGHUP)
        wait_for(lambda: '"event":"reloaded"' in log.read_text(), "the terminal that is there to be seen")
    finally:
        os.close(terminal)
        watch = Timer(DEADLINE, os.kill, (process, signal.SIGKILL))
        watch.start()
        _, status = os.waitpid(process, 0)
        watch.cancel()
    assert os.waitstatus_to_exitcode(status) == 0
    assert '"event":"stopped"' in log.read_text()


def test_background(tmp_path: Path) -> None:
    """A server in the background cannot be started, found by its pid file, or stopped."""
    log, pid_file = tmp_path / "im.log", tmp_path / "im.pid"
    words = [*TWISTD, f"--pidfile={pid_file}", f"--logfile={log}", "im", "--strategy=single", "--auth=anonymous", "--listen=tcp:0"]
    outcome = subprocess.run(words, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=DEADLINE, check=False)
    assert (outcome.returncode, outcome.stdout) == (0, "")
    pid = int(pid_file.read_text())
    try:
        address = address_in(log.read_text().splitlines())
        assert lets_in(address)
        os.kill(pid, signal.SIGUSR1)
        wait_for(lambda: (tmp_path / "im.log.1").exists(), "a new log file")
        assert lets_in(address), "whoever turns the log over does not end the server"
        second = [*TWISTD, "-n", "--pidfile=", "im", "--auth=anonymous", "--listen=tcp:0"]
        outcome = subprocess.run(second, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=DEADLINE, check=False)
        assert (outcome.returncode, "another process is the node 'node'" in outcome.stdout) == (1, True), "nobody takes its name from it"
        assert lets_in(address)
        os.kill(pid, signal.SIGTERM)
        wait_for(lambda: not pid_file.exists(), "its end")
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    lines = [json.loads(line) for path in (tmp_path / "im.log.1", log) for line in path.read_text().splitlines()]
    assert [line["event"] for line in lines if "event" in line] == ["listening", "stopping", "stopped"]
    assert not any("failure" in line for line in lines)


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--strategy=broadcats", "--strategy is one of broadcast, routed, single"),
        ("--store=tape", "--store is one of memory, sqlite:PATH"),
        ("--heartbeat=often", "--heartbeat takes a whole number from 5 to 1800"),
        ("--window=0", "--window takes a whole number"),
        ("--max-body=9", "--max-body takes a whole number"),
        ("--colour=red", "option --colour not recognized"),
        ("--listen=tcp:door", "not an endpoint that can be used"),
        ("--listen=carrier-pigeon:7", "not an endpoint that can be used"),
        ("--listen=ssl:0:privateKey=/nowhere.pem:certKey=/nowhere.pem", "/nowhere.pem"),
        ("--listen=tls:/nowhere.pem:port=0", "--listen=tls:/nowhere.pem:port=0: /nowhere.pem: No such file or directory"),
        ("--listen=tls:im.pem", "tls: wants a port"),
        ("--listen=tls:im.pem:port=0:color=red", "tls: does not take 'color', but path, port,"),
        ("--listen=tls:im.pem:port=0:interface=", "an empty interface is every one"),
        ("--listen=ssl:0:sslmethod=SSLv23_METHOD", "ssl: does not take 'sslmethod'"),
        ("--listen=haproxy:tls:/nowhere.pem:port=0", "/nowhere.pem: No such file or directory"),
        ("--auth=everybody", "--auth is file:PATH, store, anonymous or none"),
        ("--auth=file:.", "--auth: .: Is a directory"),
        ("--auth=file:", "--auth is file:PATH, store, anonymous or none"),
        ("--name=", "--name takes 1 to 64 bytes"),
        ("--name=" + "ü" * 33, "--name takes 1 to 64 bytes"),
        ("--name=\udcff" + "x" * 64, "--name takes 1 to 64 bytes"),
        ("--heartbeat=4", "from 5 to 1800, not '4'"),
        ("--heartbeat", "option --heartbeat requires argument"),
        ("--listen=tcp:7777:", "an empty interface is every one"),
        ("--listen=tcp:7777:interface=", "an empty interface is every one"),
        ("--listen=", "not an endpoint that can be used"),
        ("now", "everything is an option"),
    ],
)
def test_mistakes(option: str, said: str) -> None:
    """A mistake on the command line is answered by a traceback, by a screenful of help, or by nothing."""
    with pytest.raises(StartError) as caught:
        Options().parseOptions([option])
    line = str(caught.value.code)
    assert said in line
    assert "\n" not in line
    assert line.startswith("twisted_im: ")
    assert line.endswith("(see: twistd im --help)")


@pytest.mark.parametrize(
    ("key", "cert", "said"),
    [
        ("garbage", "garbage", "garbage: there is no certificate in it"),
        ("empty", "good", "empty: there is no private key in it"),
        ("good", "garbage", "garbage: there is no certificate in it"),
        ("good", "missing", "missing: No such file or directory"),
        ("missing", "good", "missing: No such file or directory"),
        ("good", ".", "it is a folder, and a key by itself goes with one file"),
        (".", "good", "Is a directory"),
        ("other", "good", "other: the key does not match the certificate in"),
        ("broken", "good", "broken: the key cannot be read"),
    ],
)
def test_bad_certificates(key: str, cert: str, said: str, tmp_path: Path) -> None:
    """A certificate that does not fit its key is noticed by the first client, or a bad one is answered by OpenSSL's own words alone."""
    good = Path(certificate()).read_text()
    ends = "-----END PRIVATE KEY-----\n"
    (tmp_path / "good").write_text(good)
    (tmp_path / "garbage").write_bytes(b"\0\xff this is no key \n" * 9)
    (tmp_path / "empty").touch()
    (tmp_path / "broken").write_text(good[:60] + "\n" + ends)
    (tmp_path / "other").write_bytes(
        ec.generate_private_key(ec.SECP256R1()).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    (tmp_path / "cert-only").write_text(good[good.index(ends) + len(ends) :])
    where = {"key": tmp_path / key, "cert": tmp_path / ("cert-only" if cert == "good" else cert)}
    for endpoint in ("ssl:0:privateKey={key}:certKey={cert}", "tls:{cert}:key={key}:port=0", "tls:{cert}:0:key={key}"):
        with pytest.raises(StartError) as caught:
            Options().parseOptions([f"--listen={endpoint.format(**where)}"])
        line = str(caught.value.code)
        assert said in line
        assert "\n" not in line


def test_bad_password_file(tmp_path: Path) -> None:
    """A password file with a slip in it lets nobody in, and nobody knows why."""
    path = tmp_path / "passwords"
    write_password(path, "", "alice", "x")
    Options().parseOptions([f"--auth=file:{path}"])
    with path.open("a") as file:
        file.write("bob\n")
    with pytest.raises(StartError, match=r"passwords: line 2 is not user:hash"):
        Options().parseOptions([f"--auth=file:{path}"])
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(StartError, match=r"passwords: 'utf-8' codec can't decode"):
        Options().parseOptions([f"--auth=file:{path}"])


@pytest.mark.parametrize(
    "words", [[*TWISTD, "-n", "--pidfile="], [*TWISTD, "--pidfile=im.pid"], TWIST], ids=["twistd -n", "twistd", "twist"]
)
@pytest.mark.parametrize("mistake", ["option", "port", "socket", "path", "number", "certificate"])
def test_mistakes_end_the_process(words: list[str], mistake: str, tmp_path: Path) -> None:
    """A server that cannot start leaves status 0, a traceback, more lines than one can read, or no hint of what to do behind."""
    (tmp_path / "key.pem").write_text("this is no key")
    with socket.socket() as taken, socket.socket(socket.AF_UNIX) as unix:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        unix.bind(str(tmp_path / "im.sock"))
        (tmp_path / "im.sock.lock").symlink_to(str(os.getpid()))  # as another server of Twisted's does
        port = taken.getsockname()[1]
        option, said = {
            "option": ("--strategy=none", "--strategy is one of broadcast, routed, single, not 'none'"),
            "port": (f"--listen=tcp:{port}", f"127.0.0.1:{port}: Address already in use; stop what uses it, or change --listen"),
            "socket": ("--listen=unix:im.sock", "im.sock: Address already in use; stop what uses it, or change --listen"),
            "path": ("--listen=unix:/nowhere/s", "/nowhere/s.lock: No such file or directory; change --listen"),
            "number": ("--listen=tcp:65536", "port must be 0-65535.; change --listen"),
            "certificate": ("--listen=ssl:0:privateKey=key.pem:certKey=key.pem", "key.pem: there is no certificate in it (PEM)"),
        }[mistake]
        words = [*words, "im", "--auth=anonymous", option]
        outcome = subprocess.run(words, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=DEADLINE, check=False)
    everything = outcome.stdout + outcome.stderr
    assert outcome.returncode != 0
    assert said in everything
    assert "Traceback" not in everything
    assert "Usage:" not in everything
    assert sum("twisted_im: " in line or said in line for line in everything.splitlines()) == 1, "it is said once"
    if '"level":' in outcome.stdout and "-n" in words:
        last = json.loads(outcome.stdout.splitlines()[-1])
        assert (last["level"], last["text"][:12], last["text"][-len(said) :]) == ("error", "twisted_im: ", said)
    wait_for(lambda: not (tmp_path / "im.pid").exists(), "the end of the process")


def test_a_log_that_cannot_be_written(tmp_path: Path) -> None:
    """A server that cannot write its log says so in a traceback, or runs without one."""
    words = [*TWISTD, "-n", "--pidfile=", f"--logfile={tmp_path}/none/im.log", "im", "--auth=anonymous", "--listen=tcp:0"]
    outcome = subprocess.run(words, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=DEADLINE, check=False)
    assert outcome.returncode == 1
    assert outcome.stderr == f"twisted_im: {tmp_path}/none/im.log: No such file or directory; say another --logfile\n"


#: A store that breaks at its first commit: at once, or when the server is told to stop meanwhile. It cannot be closed either.
BREAKING = """
import runpy, sys
from twisted.internet.defer import Deferred
from twisted_im import ImServer, MemoryStore, SingleRouter, config

class Breaking(MemoryStore):
    def append(self, messages, cursors):
        from twisted.internet import reactor
        done, error = Deferred(), OSError(5, "Input/output error")
        if LATE:
            reactor.addSystemEventTrigger("before", "shutdown", done.errback, error)
            print("the commit waits", flush=True)
        else:
            done.errback(error)
        return done

    def close(self):
        raise OSError(9, "Bad file descriptor")

config.STORES["memory"] = config.Engine(Breaking)
"""

#: What runs a server with that store.
RUNNERS = {
    "twistd": "from twisted.scripts.twistd import run; run()",
    "twist": "runpy.run_module('twisted', run_name='__main__')",
    "a program": """
from twisted.internet import reactor
server = ImServer(store=Breaking(), router=SingleRouter(), authenticator=lambda _: True, listen=["tcp:0:interface=127.0.0.1"])
server.startService()
reactor.addSystemEventTrigger("before", "shutdown", server.stopService)
print('"address":"%s"' % server.addresses[0], flush=True)
reactor.run()
print("the program goes on")
sys.exit(7)
""",
}


@pytest.mark.parametrize("late", [False, True], ids=["at once", "at the end"])
@pytest.mark.parametrize(("runner", "status"), [("twistd", 1), ("twist", 1), ("a program", 7)])
def test_a_broken_store(runner: str, status: int, late: bool, tmp_path: Path) -> None:
    """If this fails, a server whose disk is full looks as if it had been told to stop, and nobody starts it again, or sees why it went; or
    it takes the program that it is a part of with it."""
    (tmp_path / "breaking.py").write_text(f"LATE = {late}\n{BREAKING}\n{RUNNERS[runner]}")
    words = {"twistd": ["-n", "--pidfile=im.pid", "im"], "twist": ["im"], "a program": []}[runner]
    options = ["--auth=anonymous", "--listen=tcp:0", "--store=memory"] if words else []
    with started([sys.executable, "breaking.py", *words, *options], tmp_path) as process:
        assert process.stdout is not None
        with Talk(address_in(process.stdout)) as talk:
            assert talk.login("alice", b"", LoginMethod.ANONYMOUS) == Status.OK
            talk.send(Command.MESSAGE, client_id=new_id(), conversation=0, content_type=1, life=0, target=b"alice", content=b"hello")
            if late:
                assert any("the commit waits" in line for line in process.stdout)
                process.send_signal(signal.SIGTERM)
            word, _, _, body = talk.hear()
            assert word == tag(Kind.NOTIFY, Command.DISCONNECT)
            assert CODECS[Kind.NOTIFY, Command.DISCONNECT].read(body).code == Disconnect.STORE_FAILED
            rest, _ = process.communicate(timeout=DEADLINE)
    assert process.returncode == status
    assert not (tmp_path / "im.pid").exists()
    if runner == "a program":
        assert rest.endswith("the program goes on\n")
        return
    what, why = "the store is broken; nothing more is accepted: ", "OSError: [Errno 5] Input/output error"
    assert [why in line for line in rest.splitlines() if what in line] == [True]
    assert "Bad file descriptor" not in rest, "one thing went wrong, and that is said once"
    assert "Unhandled" not in rest
    assert '"event":"stopped"' in rest.replace(": ", ":")
    if runner == "twistd":
        lines = [json.loads(line) for line in rest.splitlines()]
        assert [line["text"] for line in lines if line["level"] not in ("info", "debug")] == [what + why]


def test_help() -> None:
    """`--help` leaves an option out, has no examples, promises what there is not, or runs over the edge of the terminal."""
    text = Options().getUsage()
    for setting in (CONFIG, *SETTINGS):
        assert setting.flag + (" " if setting.is_switch else "=") in text
    assert "--check-config " in text
    assert f"receivers: {', '.join(STRATEGIES)}. [default:" in " ".join(text.split())
    assert all(kind in text.partition("are kept:")[2].partition("[default")[0] for kind in STORES)
    assert "twistd -n im --auth=anonymous" in text
    examples = re.findall(r"^  twistd.* im(.*)$", text, re.MULTILINE)
    assert len(examples) >= 4
    for example in examples:
        Options().parseOptions(re.sub(r"im\.pem", certificate(), example).split())
    assert [line for line in text.splitlines() if len(line) > 85] == []


def operations_page() -> str:
    return (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")


def test_operations_page_has_every_counter() -> None:
    """An operator meets a figure in the log that no page explains."""
    page = operations_page()
    rows = "\n".join(re.findall(r"^\| `.*$", page[page.index("## Counters") : page.index("## Limits")], re.MULTILINE))
    named = {name for cell in re.findall(r"^\| (.*?) \|", rows, re.MULTILINE) for name in re.findall(r"`(\w+)`", cell)}
    assert named == set(Counters().snapshot())


def test_operations_page_has_the_limits() -> None:
    """The operators' page promises other limits than the server keeps to."""
    page, limits = operations_page(), Limits()
    for row in (
        f"| hello | {limits.handshake:g} s after connecting |",
        f"| login | {limits.login:g} s after connecting |",
        f"| one frame, from its first byte to its last | {limits.frame:g} s |",
        f"| notifies unacknowledged | {limits.unacknowledged:g} s, then a ping; {limits.ping:g} s for its answer |",
        f"| last bytes of a closed connection | {limits.close:g} s |",
        f"cut off after {limits.close:g} seconds",
        f"| a body before login, after it | {limits.stranger_max_body // 1024} KiB, `--max-body` |",
        f"| messages and receipts unanswered | {limits.requests} |",
        f"| frames of one connection in one reactor turn | {FRAMES_AT_ONCE}; {NEWCOMER_FRAMES_AT_ONCE} before login |",
        f"| bytes waiting for a slow reader | {limits.write_budget // 1024} KiB |",
        f"| connections | the limit on open files, less {RESERVED} |",
    ):
        assert row in page, row


def test_operations_page_has_every_event() -> None:
    """A script waits for an event whose name has changed."""
    said = set()
    for path in (ROOT / "twisted_im").rglob("*.py"):
        said |= set(re.findall(r'\bevent="([\w ]+)"', path.read_text(encoding="utf-8")))
    page = operations_page()
    assert said
    assert [event for event in sorted(said) if f"`{event}`" not in page] == []
