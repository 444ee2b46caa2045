"""The page that compares the schemes: that its tables and pictures are those of the stored run, and that its commands can be typed.

Strategy: the stored run is real, so parts of it serve as other runs.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from benchmarks.__main__ import main
from benchmarks.pages import filled
from benchmarks.schemes_page import PAGE, RESULTS, STORED, as_text, blocks, condensed
from tests.pages import ROOT
from twisted_im.tap import Options

TEXT = (ROOT / PAGE).read_text(encoding="utf-8")
RUN = (ROOT / STORED / RESULTS).read_text(encoding="utf-8")


def test_page_is_of_the_stored_run() -> None:
    """If this fails, an architect reads figures that nobody has measured: python -m benchmarks schemes --page writes them anew."""
    run = json.loads(RUN)
    assert filled(TEXT, blocks(run)) == TEXT
    assert as_text(condensed(run)) == RUN
    assert not any(each["faults"] for each in run["rows"] + run["kills"])
    pictures = re.findall(r"^!\[.+\]\(schemes/(.+)\)$", TEXT, re.MULTILINE)
    assert sorted(pictures) == sorted(path.name for path in (ROOT / STORED).glob("*.svg"))
    for picture in pictures:
        assert run["date"] in (ROOT / STORED / picture).read_text(encoding="utf-8"), f"{picture} is of another run"


def test_every_command_on_the_page_is_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If this fails, somebody who tries a scheme out copies a line from the page, and is told that it is wrong."""
    monkeypatch.chdir(tmp_path)
    lines = [line.partition("#")[0] for block in re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL) for line in block.splitlines()]
    servers = [shlex.split(line) for line in lines if line.startswith("twistd")]
    assert len(servers) == 13
    for words in servers:
        Options({}).parseOptions(words[words.index("im") + 1 :])


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the page, and in `run` the results of a shorter run: broadcast and mesh, two nodes, one kill."""
    (tmp_path / PAGE).parent.mkdir()
    shutil.copy(ROOT / PAGE, tmp_path / PAGE)
    run: dict[str, Any] = json.loads(RUN)
    run["rows"] = [row for row in run["rows"] if row["scheme"] in ("broadcast", "routed mesh") and row["nodes"] in (2, 8)]
    run["kills"] = [kill for kill in run["kills"] if kill["scheme"] == "routed mesh"]
    run["date"] = "2001-02-03T04:05:06Z"
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / RESULTS).write_text(json.dumps(run))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def files(folder: Path) -> dict[str, bytes]:
    """All that stands in the documentation."""
    return {path.name: path.read_bytes() for path in (folder / "docs").rglob("*") if path.is_file()}


def test_another_run_gives_another_page(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """If this fails, whoever has measured on a machine of his own does not get his figures into the page, or finds them mixed
    with others; or a run in which messages were lost becomes a page that nobody is warned of."""
    if find_spec("matplotlib") is None:
        with pytest.raises(SystemExit):
            main(["schemes", "--page", "run"])
        assert "pip install matplotlib" in capsys.readouterr().err
        return
    assert main(["schemes", "--page", "run"]) == 0
    page = (checkout / PAGE).read_text(encoding="utf-8")
    assert "Measured 2001-02-03" in page
    assert "| **routed star** | – | – | – |" in page
    assert page.partition("<!--")[0] == TEXT.partition("<!--")[0]
    written = files(checkout)
    assert {"cost.svg", "recovery.svg", RESULTS} < written.keys()
    assert b"2001-02-03T04:05:06Z" in written["cost.svg"]
    assert main(["schemes", "--page"]) == 0
    assert files(checkout) == written, "the stored run does not give the page and the pictures that the run gave"
    results = checkout / "run" / RESULTS
    run = json.loads(results.read_text())
    run["kills"][0] |= {"lost": 1, "faults": ["1 of 100 messages were never shown"]}
    results.write_text(json.dumps(run))
    assert main(["schemes", "--page", "run"]) == 1
    assert "WRONG" in capsys.readouterr().err


@pytest.mark.parametrize("missing", ["page", "marks", "run", "kills"])
def test_what_is_missing_is_one_line(checkout: Path, missing: str, capsys: pytest.CaptureFixture[str]) -> None:
    """If this fails, whoever calls it in the wrong folder gets a traceback, or half a page."""
    if missing == "page":
        (checkout / PAGE).unlink()
    elif missing == "marks":
        (checkout / PAGE).write_text("a page")
    elif missing == "run":
        (checkout / "run" / RESULTS).write_text("{}")
    else:
        (checkout / "run" / RESULTS).write_text(json.dumps({**json.loads(RUN), "kills": []}))
    before = files(checkout)
    with pytest.raises(SystemExit) as ended:
        main(["schemes", "--page", "run"])
    told = capsys.readouterr().err
    assert ended.value.code == 2
    assert len(told.splitlines()) == 1
    assert "--page" in told
    assert files(checkout) == before
