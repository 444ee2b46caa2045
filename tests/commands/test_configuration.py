"""The page of all settings and the example file: up to date, and true to what a server takes."""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from tests.running import certificate
from tests.twistd import DEADLINE, ENVIRONMENT, TWISTD
from twisted_im.commands import configuration
from twisted_im.config import ROUTE_SETTINGS, SETTINGS

DOCS = Path(__file__).parent.parent.parent / "docs"


def run(*words: str) -> int:
    parser = argparse.ArgumentParser()
    configuration.add_arguments(parser)
    return configuration.run(parser.parse_args(words))


def test_nothing_is_stale(capsys: pytest.CaptureFixture[str]) -> None:
    """If this fails, operators read of settings that are not there, or of other bounds: run `python -m twisted_im configuration`."""
    status = run("--check", "--out", str(DOCS))
    assert (status, capsys.readouterr().out) == (0, "nothing is stale\n")


def test_what_is_stale_is_named_and_mended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """If this fails, the check passes whatever the files hold, or its message does not say what to do."""
    assert run("--out", str(tmp_path)) == 0
    (tmp_path / "twisted_im.toml").write_text("")
    capsys.readouterr()
    assert run("--check", "--out", str(tmp_path)) == 1
    said = capsys.readouterr().out
    assert f"stale: {tmp_path}/twisted_im.toml; run: python -m twisted_im configuration" in said
    assert "configuration.md" not in said


def test_every_setting_is_on_the_page() -> None:
    """If this fails, an operator finds an option of `--help` nowhere, or the page tells of one that no server takes."""
    page = (DOCS / "configuration.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([a-z.-]+)`<br>`(--[a-z-]+)`<br>`(TWISTED_IM_[A-Z_]+)` \|", page, re.MULTILINE)
    assert rows == [(setting.key, setting.flag, setting.variable) for setting in (*SETTINGS, *ROUTE_SETTINGS)]


def test_the_example_runs(tmp_path: Path) -> None:
    """If this fails, whoever starts from the example file gets an error, or settings that the file does not say."""
    (tmp_path / "im.pem").write_text(Path(certificate()).read_text())
    (tmp_path / "im.pem").chmod(0o600)
    (tmp_path / "issuer.pem").write_text("-----BEGIN PUBLIC KEY-----")
    shutil.copy(DOCS / "twisted_im.toml", tmp_path)
    words = [*TWISTD, "-n", "im", "--config=twisted_im.toml", "--check-config"]
    outcome = subprocess.run(words, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=DEADLINE, check=False)
    assert (outcome.returncode, outcome.stderr) == (0, "")
    example = tomllib.loads((DOCS / "twisted_im.toml").read_text(encoding="utf-8"))
    assert example.items() <= tomllib.loads(outcome.stdout).items()
    clustered = sum(setting.only is not None for setting in SETTINGS)
    assert outcome.stdout.count("# twisted_im.toml: ") == len(SETTINGS) - clustered == len(example) - 1 + len(example["limits"])
