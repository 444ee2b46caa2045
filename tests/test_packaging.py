"""What pip installs is the whole, and Twisted finds it.

Strategy: nothing is built here. The packages that setup.cfg declares are compared with the folders, and, where the project is installed
(as it is after the README's commands and under tox), what pip wrote is compared with the source. Twisted is asked in a process of
its own, inside the checkout and away from it: the folder `twisted/` in the checkout has the name of Twisted's own package.
"""

from __future__ import annotations

import configparser
import os
import re
import subprocess
import sys
from fnmatch import fnmatchcase
from importlib.metadata import Distribution, distributions
from pathlib import Path

import pytest

import twisted_im

ROOT = Path(__file__).parent.parent
PLUGIN = "twisted/plugins/twisted_im.py"


def shipped() -> set[str]:
    """The files of the source that belong to the package, as paths below the root."""
    found = {PLUGIN}
    for pattern in ("*.py", "*.sql", "py.typed"):
        found.update(path.relative_to(ROOT).as_posix() for path in (ROOT / "twisted_im").rglob(pattern))
    return found


def installed() -> Distribution | None:
    """The installed project; None if it runs from the checkout alone, or is installed as a link to it."""
    for found in distributions(name="twisted_im"):
        away = Path(str(found.locate_file(""))).resolve() != ROOT.resolve()  # a build leaves an egg-info in the checkout
        if away and '"editable": true' not in (found.read_text("direct_url.json") or ""):
            return found
    return None


def setup_cfg(section: str, option: str) -> list[str]:
    """The lines of one option."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    return config.get(section, option).split()


def environment() -> dict[str, str]:
    """This process's, with the checkout on the path if the project is not installed."""
    if installed():
        return dict(os.environ)
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}


@pytest.fixture(params=["checkout", "elsewhere"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Where people stand when they start a node."""
    return ROOT if request.param == "checkout" else tmp_path


def answer(where: Path, *call: str) -> str:
    """What Twisted prints to someone who stands in a folder; fails if it ends badly."""
    done = subprocess.run([sys.executable, *call], cwd=where, env=environment(), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def declared(name: str) -> bool:
    """Whether setup.cfg has a file of the source installed."""
    include, exclude = (setup_cfg("options.packages.find", option) for option in ("include", "exclude"))
    package = Path(name).parent.as_posix().replace("/", ".")
    found = any(fnmatchcase(package, pattern) for pattern in include) and not any(fnmatchcase(package, pattern) for pattern in exclude)
    data = setup_cfg("options.package_data", "*")
    return found and (name.endswith(".py") or any(fnmatchcase(Path(name).name, pattern) for pattern in data))


def test_declared_files_are_the_source() -> None:
    """If this fails, `pip install` leaves out a part of the server, its schema or its types, or `twistd im` is an unknown command."""
    assert setup_cfg("options", "packages") == ["find_namespace:"], "find: leaves out twisted/plugins, which has no __init__.py"
    assert [name for name in shipped() if not declared(name)] == [], "not installed"
    assert "twisted_im/py.typed" in shipped()


def test_version_is_the_declared_one() -> None:
    """If this fails, a bug report names a version that was never installed."""
    assert [twisted_im.__version__] == setup_cfg("metadata", "version")


def test_twisted_folders_stay_open() -> None:
    """If this fails, a start inside the checkout meets a package `twisted` that has one plugin and no Twisted."""
    assert [path.relative_to(ROOT).as_posix() for path in (ROOT / "twisted").rglob("*.py")] == [PLUGIN]


def test_installed_files_are_the_source() -> None:
    """If this fails, the installed server lacks files that the checkout has. (Where nothing is installed, the declaration above is all.)"""
    distribution = installed()
    there = {path.as_posix() for path in distribution.files or ()} if distribution is not None else set(filter(declared, shipped()))
    assert not shipped() - there, "missing; if they are new, install again"


def test_twisted_finds_the_plugin_once(where: Path) -> None:
    """If this fails, `twistd im` is an unknown command, or there twice, depending on the folder in which one stands."""
    listed = answer(where, "-m", "twisted", "--help")
    assert len(re.findall(r"^ +im +\S", listed, re.MULTILINE)) == 1, listed


def test_twist_explains_the_node(where: Path) -> None:
    """If this fails, `twist im --help` ends in a traceback."""
    assert "--listen" in answer(where, "-m", "twisted", "im", "--help")


def test_twistd_explains_the_node(where: Path) -> None:
    """If this fails, `twistd im --help`, the first thing that an operator types, ends in a traceback."""
    assert "--listen" in answer(where, "-c", "from twisted.scripts.twistd import run; run()", "im", "--help")
