"""The file of a device: whole after a crash, and clear about what is wrong with it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from twisted_im.client.state import FileState, Kept


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])  # each example replaces the file
@given(
    st.builds(
        Kept,
        device=st.binary(min_size=16, max_size=16),
        account=st.text(max_size=20).filter(lambda t: t.isprintable()),
        epoch=st.binary(min_size=16, max_size=16),
        position=st.integers(0, 2**64 - 1),
        cursors=st.dictionaries(st.integers(1, 2**64 - 1), st.integers(0, 2**64 - 1), max_size=5),
        resume=st.binary(max_size=40),
    )
)
def test_what_is_saved_is_loaded(tmp_path: Path, kept: Kept) -> None:
    """If this fails, a restarted device forgets who it is, or how far it has shown."""
    FileState(tmp_path / "state.json").save(kept)
    assert FileState(tmp_path / "state.json").load() == kept


def test_a_file_from_before_there_were_tokens(tmp_path: Path) -> None:
    """If this fails, a new version of a program forgets what the device has shown."""
    path = tmp_path / "state.json"
    path.write_text('{"device": "%s", "account": "/alice", "epoch": "", "position": 7, "cursors": {"1": 2}}' % ("64" * 16))
    assert FileState(path).load() == Kept(b"d" * 16, "/alice", position=7, cursors={1: 2})


def test_others_cannot_read_it(tmp_path: Path) -> None:
    """If this fails, another user of the machine logs in with what stands in the file; or a log has it."""
    path = tmp_path / "state.json"
    path.write_text("{}")
    path.chmod(0o666)
    (tmp_path / "state.json.next").write_text("left there by a crash")
    FileState(path).save(Kept(b"d" * 16, "/alice", resume=b"secret"))
    assert path.stat().st_mode & 0o777 == 0o600
    assert "secret" not in repr(FileState(path).load())
    assert repr(b"secret".hex()) not in repr(FileState(path).load())


def test_there_is_nothing_at_first(tmp_path: Path) -> None:
    """If this fails, a new device cannot start."""
    assert FileState(tmp_path / "state.json").load() is None


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", '{"device": "00"}', "\x00\xff", '{"device":"","account":"","epoch":"","position":0,"cursors":{}}'],
)
def test_another_file_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    """If this fails, somebody who names the wrong file gets a traceback, or has it overwritten."""
    path = tmp_path / "state.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match="does not hold a client's state; delete it, or name another file"):
        FileState(path).load()


def test_a_save_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If this fails, a full disk costs a device everything that it knew."""
    state = FileState(tmp_path / "state.json")
    kept = Kept(b"d" * 16, "/alice", cursors={1: 1})
    state.save(kept)

    def full(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="no space"):
        state.save(Kept(b"d" * 16, "/alice", cursors={1: 2}))
    assert state.load() == kept
