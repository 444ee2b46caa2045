"""`python -m twisted_im user`, as an operator types it: processes, a real file, and a terminal where a password is asked for."""

from __future__ import annotations

import io
import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from twisted_im.__main__ import main
from twisted_im.commands import stores
from twisted_im.storage.memory import MemoryStore

ROOT = Path(__file__).parent.parent.parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"}
DEADLINE = 60


def run(*words: str | Path, typed: str | bytes = "") -> tuple[int, str, str]:
    """The status of a command, and what it said on both channels."""
    data = typed.encode() if isinstance(typed, str) else typed
    command = [sys.executable, "-m", "twisted_im", *map(str, words)]
    done = subprocess.run(command, input=data, capture_output=True, env=ENVIRONMENT, timeout=DEADLINE, check=False)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def at_a_terminal(words: list[str | Path], typed: list[tuple[str, bytes]]) -> tuple[int, str]:
    """The same with a person: for each prompt, what is typed; gives the status, and the screen."""
    process, terminal = pty.fork()
    if not process:  # the child
        os.execve(sys.executable, [sys.executable, "-m", "twisted_im", *map(str, words)], ENVIRONMENT)
    screen, deadline = "", time.monotonic() + DEADLINE
    seen = 0
    try:
        while time.monotonic() < deadline:
            if not select.select([terminal], [], [], 1.0)[0]:
                continue
            try:
                data = os.read(terminal, 4096)
            except OSError:  # how Linux tells that the other side is gone
                data = b""
            if not data:
                _, status = os.waitpid(process, 0)
                return os.waitstatus_to_exitcode(status), screen
            screen += data.decode()
            if typed and typed[0][0] in screen[seen:]:
                seen = len(screen)
                os.write(terminal, typed.pop(0)[1])
    finally:
        os.close(terminal)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    raise AssertionError(f"it did not end: {screen}")


def test_the_life_of_a_user(tmp_path: Path) -> None:
    """If this fails, an operator cannot make a user, give one another password, see who there is, or keep one out."""
    store = f"--store=sqlite:{tmp_path / 'im.db'}"
    assert run("user", "add", "alice", store, typed="wonderland\n") == (0, "alice can log in now\n", "")
    password = tmp_path / "password"
    password.write_text("builder\nand a note\n")
    assert run("user", "add", "bob", "--tenant", "acme", store, "--password-file", password) == (0, "bob can log in now\n", "")
    status, listed, _ = run("user", "list", store)
    assert status == 0
    assert [line.split(None, 2)[1:] for line in listed.splitlines()] == [["password", "alice"], ["password", "bob  (tenant acme)"]]
    assert run("user", "passwd", "alice", store, typed="looking-glass\r\n") == (0, "alice has a new password\n", "")
    status, said, _ = run("user", "disable", "bob", "--tenant=acme", store)
    assert (status, said) == (0, "bob can log in no more; a session that is open goes on until its connection ends\n")
    assert "disabled" in run("user", "list", "--tenant=acme", store)[1]
    assert run("user", "list", "--tenant=", store)[1].count("\n") == 1
    assert run("user", "enable", "bob", "--tenant=acme", store) == (0, "bob can log in again\n", "")
    assert run("user", "list", "--tenant=acme", store)[1].split()[1] == "password"
    assert b"looking-glass" not in b"".join(path.read_bytes() for path in tmp_path.glob("im.db*"))


def test_it_is_asked_for_twice_and_unseen(tmp_path: Path) -> None:
    """If this fails, whoever looks over a shoulder, or scrolls back, reads the password; or a slip of the fingers locks a user out."""
    words: list[str | Path] = ["user", "add", "alice", f"--store=sqlite:{tmp_path / 'im.db'}"]
    status, screen = at_a_terminal([*words], [("Password for alice: ", b"secret\n"), ("Again: ", b"secrte\n")])
    assert (status, "the two differ; nothing was changed" in screen) == (1, True)
    status, screen = at_a_terminal([*words], [("Password for alice: ", b"\x03")])
    assert (status, "Traceback" in screen) == (130, False), screen
    status, screen = at_a_terminal([*words], [("Password for alice: ", b"\x04")])
    assert (status, "none was typed; nothing was changed" in screen) == (1, True), screen
    status, screen = at_a_terminal([*words], [("Password for alice: ", b"secret\n"), ("Again: ", b"secret\n")])
    assert (status, "alice can log in now" in screen, "secret" in screen) == (0, True, False), screen


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> MemoryStore:
    """A store of the test's own, `--store=kept:here`, with alice in it; commands run in this process, without a reactor."""
    store = MemoryStore()
    store.set_account(b"\0alice", "a hash", None)
    monkeypatch.setitem(stores.STORES, "kept", lambda where, create: store)
    monkeypatch.setattr(stores, "react", lambda main: main(None))
    return store


@pytest.mark.parametrize(
    ("words", "typed", "said"),
    [
        (["add", "alice"], b"x\n", "alice has an account already; a new password is set with: user passwd"),
        (["add", "bob"], b"\n", "a password has 1 to 768 bytes; nothing was changed"),
        (["add", "bob"], b"", "a password has 1 to 768 bytes; nothing was changed"),
        (["add", "bob"], b"x" * 769, "a password has 1 to 768 bytes; nothing was changed"),
        (["add", "bob"], "é".encode() * 385, "a password has 1 to 768 bytes; nothing was changed"),
        (["add", "bob"], b"\xff\n", "a password is UTF-8; nothing was changed"),
        (["add", ""], b"x\n", "an empty uid"),
        (["add", "u" * 65], b"x\n", "a uid of 65 bytes, where 64 are the most"),
        (["add", "a\nb"], b"x\n", "a uid that is not in NFC, or has control characters"),
        (["add", "a\udcffb"], b"x\n", "a uid that is not UTF-8"),
        (["add", "bob", "--tenant", "t" * 65], b"x\n", "a tenant of 65 bytes, where 64 are the most"),
        (["add", "bob", "--password-file", "/none"], b"", "/none: no such file or directory"),
        (["passwd", "bob"], b"x\n", "there is no user bob; see: user list"),
        (["disable", "alice", "--tenant", "acme"], b"", "there is no user alice in tenant acme; see: user list"),
        (["list", "--store=memory"], b"", "--store is sqlite:PATH or kept:PATH, as the server has it; not 'memory'"),
        (["list", "--store=sqlite:"], b"", "--store is sqlite:PATH or kept:PATH, as the server has it; not 'sqlite:'"),
        (["list", "--store=sqlite:/none/im.db"], b"", "/none/im.db does not exist; is that the file that the server has?"),
    ],
)
def test_mistakes_are_one_line(
    kept: MemoryStore,
    words: list[str],
    typed: bytes,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """If this fails, a mistake ends in a traceback, or makes a user who can never log in, or a store that nobody meant."""
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(typed), encoding="utf-8"))
    assert main(["user", words[0], "--store=kept:here", *words[1:]]) == 1
    assert tuple(capsys.readouterr()) == ("", f"user: {said}\n")
    assert kept.list_accounts(b"", 9).result == [kept.account(b"\0alice").result]
    assert kept.account(b"\0alice").result.password == "a hash"


def test_files_that_cannot_be_a_store(tmp_path: Path) -> None:
    """If this fails, a slip in a path overwrites a file, or ends in a traceback."""
    (tmp_path / "notes").write_text("buy milk\n" * 99)
    for where, why in (("none/im.db", "none is not a directory; make it first"), ("notes", "notes is not a database; choose another file")):
        status, out, err = run("user", "add", "bob", f"--store=sqlite:{tmp_path / where}", typed="x\n")
        assert (status, out, err.count("\n")) == (1, "", 1)
        assert err.startswith(f"user: {tmp_path}/{why}")
    assert (tmp_path / "notes").read_text() == "buy milk\n" * 99


def test_many_users(kept: MemoryStore, capsys: pytest.CaptureFixture[str]) -> None:
    """If this fails, users beyond the first page are never shown; or a name moves the cursor of a terminal."""
    names = [b"\0user%04d" % number for number in range(1200)] + ["\0\u202elive".encode()]
    kept.accounts(names, True)
    assert main(["user", "list", "--store=kept:here"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(names) + 1
    assert "no password" in lines[5]
    assert "\u202e" not in "".join(lines)
