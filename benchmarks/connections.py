"""`python -m benchmarks connections`: what connections cost that do nothing, what a login costs, and two storms of reconnects.

Strategy: for each row a fresh node on a core of its own, and a crowd (`benchmarks.crowd`) on another, which is this process. The crowd
logs in, a few at a time, which gives the cost of a login; stays, which gives the memory of a connection with its session; is cut off, and
comes back all at once; and comes back all at once again to a node that was stopped by SIGTERM and started anew. During both storms
another client asks the server all the time (`benchmarks.probe`), since what a storm must not do is to leave the others waiting.

A storm is the worst case: the first attempt is everybody's in the same moment, where clients would spread theirs. Under TLS it is a
thousand's at a time, for a handshake costs the crowd's one core as much as the server's, and who is slow with it is cut off.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import platform
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from benchmarks.crowd import Crowd, CrowdError, Who
from benchmarks.servers import (
    STOP_SECONDS,
    Cores,
    Server,
    ServerError,
    choose_cores,
    cpu_seconds,
    environment,
    make_certificate,
    node_command,
    on_core,
    rss_kib,
    running,
)
from benchmarks.terminal import (
    TEMPORARY,
    among,
    each,
    file_system,
    folder,
    machine,
    print_table,
    raise_file_limit,
    say,
    say_where,
    whole,
    words,
)
from twisted_im.config import STORES, STRATEGIES
from twisted_im.server.authenticators import write_password
from twisted_im.wire.schema import LoginMethod

EXAMPLES = """
examples:
  python -m benchmarks connections
      the rows of the budget: 10,000 connections, with either store
  python -m benchmarks connections --tls --store sqlite
      what TLS adds
  python -m benchmarks connections --count 100 --json
      for programs: one object a line for each row

The server runs on one core and the crowd on another; CPU and memory are the server's own, from /proc.
"""

LOGINS = 64  #: under way at once while logins are measured
TLS_STORM = 1000  #: under way at once in a storm under TLS: the crowd must be through with them in the 5 s that a server gives them
SETTLE = 0.3  #: seconds between the last login and the look at the memory
AUDIENCE = "benchmarks"  #: of the tokens
PASSWORD = "the same for all"
SHARES = ("p50", "p99", "max")  #: of the pings

#: What one row holds, under the names of its output.
Figures = dict[str, Any]


@dataclass(frozen=True)
class Method:
    """One way to log in.

    Attributes:
        code: of the wire.
        prepare: writes what the server needs for these users into a folder; gives the server's options, and each user's secret.
        most: connections of a row, where a login costs too much for more; None for as many as are asked for.
        resumes: this is the way in for the first login only; those that are measured are by resume token.
    """

    code: LoginMethod
    prepare: Callable[[Path, Sequence[str]], tuple[list[str], list[bytes]]]
    most: int | None = None
    resumes: bool = False


def _anybody(where: Path, uids: Sequence[str]) -> tuple[list[str], list[bytes]]:
    return ["--auth=anonymous"], [b""] * len(uids)


def _passwords(where: Path, uids: Sequence[str]) -> tuple[list[str], list[bytes]]:
    """All have the same password and the same hash: to make a hash for each would take as long as to check it."""
    path = where / "passwords"
    write_password(path, "", uids[0], PASSWORD)
    hashed = path.read_text().strip().partition(":")[2]
    path.write_text("".join(f"{uid}:{hashed}\n" for uid in uids))
    return [f"--auth=file:{path}"], [PASSWORD.encode()] * len(uids)


def _tokens(where: Path, uids: Sequence[str]) -> tuple[list[str], list[bytes]]:
    """Signed by the algorithm that a server takes by default."""
    key = ec.generate_private_key(ec.SECP256R1())
    path = where / "issuer.pem"
    path.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    claims = {"aud": AUDIENCE, "exp": int(time.time()) + 86400}
    options = ["--auth=none", f"--token-keys={path}", "--token-algorithms=ES256", f"--token-audience={AUDIENCE}"]
    return options, [jwt.encode({**claims, "sub": uid}, key, "ES256").encode() for uid in uids]


METHODS = {
    "anonymous": Method(LoginMethod.ANONYMOUS, _anybody),
    "token": Method(LoginMethod.TOKEN, _tokens),
    "resume": Method(LoginMethod.ANONYMOUS, _anybody, resumes=True),
    "password": Method(LoginMethod.PASSWORD, _passwords, most=200),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of this command."""
    add = parser.add_argument
    few = ", ".join(f"{name} {method.most} at most" for name, method in METHODS.items() if method.most)
    add("--count", type=whole(1), default=10_000, metavar="N", help=f"connections ({few}) [default: 10000]")
    add("--method", type=each(among(METHODS)), default=list(METHODS), metavar="NAME,…", help=f"ways in [default: {','.join(METHODS)}]")
    add("--strategy", type=each(among(STRATEGIES)), default=["single"], metavar="NAME,…", help="[default: single]")
    add("--store", type=each(among(STORES)), default=["memory", "sqlite"], metavar="NAME,…", help="[default: memory,sqlite]")
    add("--data", type=folder, default=TEMPORARY, metavar="DIR", help=f"where stores have their files for a while [default: {TEMPORARY}]")
    add("--tls", action="store_true", help="TLS between the crowd and the node")
    add("--node-args", type=words, default=[], metavar="WORDS", help="more options for the node: --node-args='--heartbeat 60'")
    add("--json", action="store_true", help="one JSON object a line for each row, instead of a table")


def run(options: argparse.Namespace) -> int:
    """Measures all rows; gives the exit status."""
    if problem := raise_file_limit("--count", options.count, "connections"):
        options.parser.error(problem)
    if set(options.store) != {"memory"}:
        say_where(options.data)
    gc.disable()  # the crowd makes no cycles, and a collection over ten thousand members would stand in the figures
    rows = []
    try:
        with tempfile.TemporaryDirectory(prefix="twisted_im-benchmarks-", dir=options.data) as name:
            if options.tls:
                make_certificate(Path(name))
            for strategy, method, store in itertools.product(options.strategy, options.method, options.store):
                rows.append(Bench(options, Path(name), strategy, method, store).measure())
    except (CrowdError, ServerError) as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1
    finally:  # an interrupt, or a fault, keeps what was measured until then
        if options.json:
            for row in rows:
                print(json.dumps(row))
        elif rows:
            show(rows)
    return 0


class Bench:
    """One row.

    Args:
        options: the options.
        place: a folder for a while; it has the certificate, if there is TLS.
        strategy: for the node, as the next two.
        method: a name in `METHODS`.
        store: a name in `STORES`.
    """

    def __init__(self, options: argparse.Namespace, place: Path, strategy: str, method: str, store: str) -> None:
        self._options = options
        self._place = place
        self._certificate = place if options.tls else None
        self._strategy, self._store, self._method = strategy, store, method
        self._cores: Cores = choose_cores()
        self._how = METHODS[method]
        self.count: int = min(options.count, self._how.most or options.count)
        self._at_once = min(self.count, TLS_STORM) if options.tls else self.count

    def measure(self) -> Figures:
        """Runs it all.

        Raises:
            ServerError: a server did not start, or the probe broke.
            CrowdError: somebody could not log in.
        """
        context = None if self._certificate is None else ssl.create_default_context(cafile=str(self._certificate / "cert.pem"))
        with tempfile.TemporaryDirectory(dir=self._place, prefix="node-") as name, on_core(self._cores.load):
            own = Path(name)
            uids = [*(f"u{index}" for index in range(self.count)), "probe"]
            auth, secrets = self._how.prepare(own, uids)
            *users, prober = (Who(uid.encode(), self._how.code, secret) for uid, secret in zip(uids, secrets, strict=True))
            with self._node(own, auth, 0) as server:
                crowd = Crowd(server.port, users, context, resumes=self._how.resumes)
                try:
                    figures = self._log_in(server, crowd)
                    figures |= self._storm("cut", server, crowd, prober)
                    self._stop(server, crowd)
                    stopped = time.monotonic()
                except BaseException:
                    crowd.close()
                    raise
            try:
                with self._node(own, auth, server.port) as server:
                    figures["restart_s"] = round(time.monotonic() - stopped, 3)
                    figures |= self._storm("restart", server, crowd, prober)
                    self._stop(server, crowd)
            finally:
                crowd.close()
        return self._row(figures)

    def _node(self, own: Path, auth: Sequence[str], port: int) -> Any:
        command = node_command(self._strategy, self._store, self._certificate, self._options.node_args, auth=auth, port=port)
        return running("node", command, self._cores.server, own)

    def _log_in(self, server: Server, crowd: Crowd) -> Figures:
        memory = rss_kib(server.pid)
        if self._how.resumes:
            crowd.gather(LOGINS)
            crowd.cut()
            crowd.stay_for(SETTLE)
        cpu, own = cpu_seconds(server.pid), time.process_time()
        seconds = crowd.gather(LOGINS)
        cpu, own = cpu_seconds(server.pid) - cpu, time.process_time() - own
        crowd.stay_for(SETTLE)
        memory = rss_kib(server.pid) - memory
        tells = not self._how.most and not self._how.resumes  # of few, chance decides; and who comes twice leaves something behind
        found = {
            "rss_kib_per_connection": round(memory / self.count, 3) if tells else None,
            "logins_per_s": round(self.count / seconds, 1),
            "cpu_us_per_login": round(cpu / self.count * 1e6, 1),
            "server_core_share": round(cpu / seconds, 3),
            "load_core_share": round(own / seconds, 3),
        }
        say(f"{self}: {found['logins_per_s']:,.0f} logins/s, {found['cpu_us_per_login']:,.0f} µs each")
        return found

    def _storm(self, name: str, server: Server, crowd: Crowd, prober: Who) -> Figures:
        """All connections are lost, and everybody comes back at once."""
        with self._probing(server, prober) as probe:
            crowd.port, crowd.turned_away = server.port, 0
            crowd.cut()
            seconds = crowd.gather(self._at_once)
            crowd.stay_for(SETTLE)
        pings = probe.figures
        say(f"{self}: after the {name} all are back in {seconds:.2f} s; a ping takes {pings['max_ms']:.0f} ms at the most")
        return {
            f"{name}_back_s": round(seconds, 3),
            f"{name}_turned_away": crowd.turned_away,
            **{f"{name}_ping_{share}_ms": pings[f"{share}_ms"] for share in SHARES},
        }

    @staticmethod
    def _stop(server: Server, crowd: Crowd) -> None:
        """Asks the server to stop, and takes what it says to its clients: under TLS it waits for their goodbye."""
        server.process.terminate()
        give_up = time.monotonic() + STOP_SECONDS
        crowd.stay(lambda: server.process.poll() is not None or time.monotonic() > give_up)

    @contextmanager
    def _probing(self, server: Server, who: Who) -> Iterator[Probe]:
        command = [sys.executable, "-m", "benchmarks.probe", f"--port={server.port}", f"--uid={who.uid.decode()}"]
        command += [f"--method={who.method}", f"--secret={who.secret.hex()}"]
        if self._certificate is not None:
            command.append(f"--ca={self._certificate / 'cert.pem'}")
        with on_core(self._cores.load):
            pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
            process = subprocess.Popen(command, env=environment(), text=True, start_new_session=True, **pipes)
        probe = Probe()
        try:
            assert process.stdout is not None
            process.stdout.readline()  # "ready", or the end of it
            yield probe
            told, why = process.communicate(timeout=STOP_SECONDS)
            if process.returncode:
                raise ServerError(f"{why.strip()}\nThe end of the {server.name}'s log:\n{server.told()}")
            probe.figures = json.loads(told)
        finally:
            process.kill()
            process.wait()

    def _row(self, figures: Figures) -> Figures:
        return {
            "strategy": self._strategy,
            "store": self._store,
            "tls": self._options.tls,
            "method": self._method,
            "connections": self.count,
            "storm_at_once": self._at_once,
            **figures,
            "cores_apart": self._cores.apart,
            "file_system": None if self._store == "memory" else file_system(self._options.data),
            "python": platform.python_version(),
            "machine": machine(),
            "date": datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        }

    def __str__(self) -> str:
        return f"{self._strategy}, {self._store}{', TLS' if self._options.tls else ''}, {self._method}"


class Probe:
    """What the probe has found: there when it has ended."""

    figures: dict[str, float]


def show(rows: Sequence[Figures]) -> None:
    """Prints the rows for people."""
    heads = ["", "conn.", "KiB/conn.", "logins/s", "CPU/login", "cut: back", "ping p50/p99/max", "restart", "back", "ping p50/p99/max"]
    lines = []
    for row in rows:
        pings = [" / ".join(f"{row[f'{storm}_ping_{share}_ms']:.0f}" for share in SHARES) + " ms" for storm in ("cut", "restart")]
        line = [f"{row['strategy']}, {row['store']}{', TLS' if row['tls'] else ''}, {row['method']}", f"{row['connections']:,}"]
        line.append("–" if row["rss_kib_per_connection"] is None else f"{row['rss_kib_per_connection']:.1f}")
        line += [f"{row['logins_per_s']:,.0f}", f"{row['cpu_us_per_login']:,.0f} µs"]
        line += [f"{row['cut_back_s']:.2f} s", pings[0], f"{row['restart_s']:.2f} s", f"{row['restart_back_s']:.2f} s", pings[1]]
        lines.append(line)
    print_table(heads, lines)
    first = rows[0]
    disk = next((f"; stores on {row['file_system']}" for row in rows if row["file_system"]), "")
    print(f"Crowd in Python; Python {first['python']}; {first['machine']}{disk}")
    for row in rows:
        if row["load_core_share"] > row["server_core_share"]:
            print(f"{row['store']}, {row['method']}: the crowd was busier than the server; trust the CPU of a login, not the rate.")
