"""`check`: what it says, and where it works."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from tests.storage.writer import child, filled, finish, run, writing
from twisted_im.__main__ import main


def test_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """If this fails, a whole file is called damaged, or looking at it changes it."""
    path = filled(tmp_path / "messages.db")
    before = path.read_bytes()
    assert main(["check", str(path)]) == 0
    out = f"{path} is whole: 3 messages in 1 conversation, the newest of 2027-01-15 08:00:00 UTC\n"
    assert capsys.readouterr() == (out, "")
    assert path.read_bytes() == before


def test_findings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """If this fails, a damaged file passes for whole in a script."""
    path = filled(tmp_path / "messages.db", 5)
    run(path, "DELETE FROM messages WHERE seq = 3; UPDATE cursors SET seq = 6")
    assert main(["check", str(path)]) == 1
    out, err = capsys.readouterr()
    assert (out.count("\n"), err) == (3, "")
    assert "conversation 1: rows 3 to 3 are missing\n" in out


def test_while_a_server_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """If this fails, what a server is just writing is called damage."""
    path = tmp_path / "messages.db"
    with writing(path) as process:
        assert [main(["check", str(path)]) for _ in range(10)] == [0] * 10
        finish(process)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "does not exist"), (b"", "is empty"), (b"buy milk\n" * 100, "is not a database")],
    ids=["absent", "empty", "text"],
)
def test_mistakes(content: bytes | None, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """If this fails, a mistake is answered by a traceback."""
    path = tmp_path / "messages.db"
    if content is not None:
        path.write_bytes(content)
    assert main(["check", str(path)]) == 1
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("mode", ["DELETE", "WAL"])
def test_read_only(mode: str) -> None:
    """If this fails, a backup on a medium that cannot be written, or somebody else's, cannot be looked at."""
    script = """if True:
        import os, sys
        from twisted_im.__main__ import main
        from twisted_im.commands import check
        if os.geteuid() == 0:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
        assert not os.access(sys.argv[1], os.W_OK)
        sys.exit(main(["check", sys.argv[1]]))
    """
    with tempfile.TemporaryDirectory(prefix="twisted_im-") as folder:
        path = filled(Path(folder) / "messages.db")
        run(path, f"PRAGMA journal_mode = {mode}")
        path.chmod(0o444)
        os.chmod(folder, 0o555)
        try:
            with child("-c", script, str(path)) as process:
                assert finish(process) == [f"{path} is whole: 3 messages in 1 conversation, the newest of 2027-01-15 08:00:00 UTC"]
        finally:
            os.chmod(folder, 0o755)
