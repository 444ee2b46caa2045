"""`python -m twisted_im device`, as an operator types it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.commands.test_user import run
from twisted_im.__main__ import main
from twisted_im.commands import stores
from twisted_im.storage.memory import MemoryStore

PHONE, TABLET, LAPTOP = b"\xa1" * 16, b"\xa1\xa2" * 8, b"\xb0" * 16


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> MemoryStore:
    """A store of the test's own, `--store=kept:here`; alice has three devices. Commands run in this process, without a reactor."""
    store = MemoryStore()
    for device, label in ((PHONE, b"phone\x1b[2J"), (TABLET, b""), (LAPTOP, b"\xff")):
        store.open_session(b"acme\0alice", device, label, "node", device * 2)
    monkeypatch.setitem(stores.STORES, "kept", lambda where, create: store)
    monkeypatch.setattr(stores, "react", lambda main: main(None))
    return store


def test_list_and_remove(kept: MemoryStore, capsys: pytest.CaptureFixture[str]) -> None:
    """If this fails, a phone that was lost cannot be shut out, or another one is."""
    whose = ["--tenant=acme", "--store=kept:here"]
    assert main(["device", "list", "alice", *whose]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [PHONE.hex(), TABLET.hex(), LAPTOP.hex()]
    assert ["phone\ufffd[2J" in lines[0], "(no name)" in lines[1], "\ufffd" in lines[2]] == [True] * 3
    assert "\x1b" not in lines[0]
    assert main(["device", "remove", "alice", "A1A2", *whose]) == 0
    assert capsys.readouterr().out.startswith(f"{TABLET.hex()} is removed")
    assert [device.device for device in kept.devices(b"acme\0alice").result] == [PHONE, LAPTOP]
    assert kept.use_token(b"acme\0alice", PHONE, PHONE * 2, 0).result
    assert not kept.use_token(b"acme\0alice", TABLET, TABLET * 2, 0).result


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["list", "bob"], "there is no user bob; see: user list"),
        (["list", "alice", "--tenant="], "there is no user alice; see: user list"),
        (["list", "a\nb"], "a uid that is not in NFC, or has control characters"),
        (["remove", "alice", "a1"], "alice has 2 devices a1…; see: device list alice"),
        (["remove", "alice", "c0"], "alice has no devices c0…; see: device list alice"),
        (["remove", "alice", ""], "alice has no devices …; see: device list alice"),
        (["list", "alice", "--store=nowhere"], "--store is sqlite:PATH or kept:PATH, as the server has it; not 'nowhere'"),
    ],
)
def test_mistakes_are_one_line(kept: MemoryStore, words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """If this fails, a mistake ends in a traceback, or removes a device that nobody meant."""
    assert main(["device", words[0], "--store=kept:here", "--tenant=acme", *words[1:]]) == 1
    assert tuple(capsys.readouterr()) == ("", f"device: {said}\n")
    assert len(kept.devices(b"acme\0alice").result) == 3


def test_a_real_file(tmp_path: Path) -> None:
    """If this fails, the command does not work outside its tests."""
    store = f"--store=sqlite:{tmp_path / 'im.db'}"
    assert run("device", "list", "alice", store)[0] == 1
    assert run("user", "add", "alice", store, typed="wonderland\n")[0] == 0
    assert run("device", "list", "alice", store) == (0, "", "")
