"""Holds the house in order: who may import whom.

Strategy: the imports are read from the source with `ast`, so nothing runs, and an import inside a function or under TYPE_CHECKING counts
like any other: a file that knows a higher floor only by its types knows it still. `FLOORS` is the plan of the house, and a file without
a floor is a fault, so that the plan cannot fall behind. The checker itself is tried on small houses with one fault each: a rule that
cannot fail holds nothing.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

#: file or folder below twisted_im/ → floor; a file imports only lower floors, and files of its own without going in a circle
FLOORS = {
    "errors": 0,
    "wire": 1,
    "core": 2,
    "cork": 3,
    "pump": 3,
    "counters": 3,
    "jsonlog": 3,
    "pem": 3,
    "server": 4,
    "routing": 5,
    "storage": 5,
    "edge": 6,
    "client": 6,
    "config": 7,
    "faults": 7,
    "oracle": 7,
    "joining": 7,
    "service": 7,
    "tap": 7,
    "commands": 7,
    "sim": 7,
    "__main__": 7,
    "__init__": 7,  # the public names; it may know all, and nobody inside imports it
}

#: Rooms in which the same input gives the same output: no Twisted, no clock, no chance, no operating system.
PURE = {"errors", "wire", "core", "oracle"}
IMPURE = {
    "twisted", "asyncio", "datetime", "multiprocessing", "os", "random", "secrets", "select", "selectors", "socket", "ssl", "subprocess",
    "threading", "time", "uuid",
}  # fmt: skip

#: Rooms that drive a reactor. All others see `twisted.internet` only as far as `HARMLESS`: callbacks, without anything that runs them.
DRIVERS = {"cork", "pump", "routing", "storage", "edge", "client", "service", "tap", "commands", "faults", "sim"}
HARMLESS = ("twisted.internet.defer",)

#: (from, to): no chain of imports leads there. The client is for people who do not run a server.
APART = [("client", "server"), ("client", "routing"), ("client", "storage"), ("client", "edge")]


def violations(house: Path) -> list[str]:
    """What breaks the rules in a tree of Python files.

    Args:
        house: the folder of the package `twisted_im`.

    Returns:
        One line for each fault, naming the file, the line and the import; empty if all is in order.
    """
    files = {module_name(house, path): path for path in sorted(house.rglob("*.py"))}
    faults: list[str] = []
    graph: dict[str, dict[str, str]] = {name: {} for name in files}
    for name, path in files.items():
        here = room(name)
        where = path.relative_to(house.parent).as_posix()
        if here not in FLOORS:
            faults.append(f"{where}: has no floor; give {here!r} one in FLOORS")
            continue
        for line, target, inside_function in imports(name, path, files):
            fault = judge_foreign(here, target, inside_function)
            if target == "twisted_im" or target.startswith("twisted_im."):
                graph[name].setdefault(target, f"{where}:{line}")
                fault = judge_own(name, target)
            if fault:
                faults.append(f"{where}:{line}: imports {target}: {fault}")
    return faults + circles(graph) + reached(graph)


def module_name(house: Path, path: Path) -> str:
    """The dotted name of a file; a package's is the one of its folder."""
    parts = path.relative_to(house.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room(name: str) -> str:
    """The entry of FLOORS that a module of the house falls under."""
    return name.split(".")[1] if "." in name else "__init__"


def imports(name: str, path: Path, files: dict[str, Path]) -> Iterator[tuple[int, str, bool]]:
    """Each import of a file: its line, the module meant by it, and whether it waits inside a function."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    lazy = {
        node
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for node in ast.walk(function)
    }
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name, node in lazy
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, base] if base else above)
            for alias in node.names:
                full = f"{base}.{alias.name}"
                own = base == "twisted_im" or base.startswith("twisted_im.")
                # Of our own, we know what is a module; of others, a name counts as one, which is as well for the rules here.
                yield node.lineno, base if own and full not in files else full, node in lazy


def judge_own(name: str, target: str) -> str:
    """Why one module of the house may not import another; empty if it may."""
    here, there = room(name), room(target)
    if there not in FLOORS:
        return "it has no floor"
    if there == "__init__":
        return "the public names are for those outside; import the module itself"
    if FLOORS[there] > FLOORS[here]:
        return f"{there} is on floor {FLOORS[there]}, above {here} on floor {FLOORS[here]}"
    return ""


def judge_foreign(here: str, target: str, inside_function: bool) -> str:
    """Why a room may not import a module from outside the house; empty if it may."""
    if here in PURE and target.split(".")[0] in IMPURE:
        return f"{here} is pure: time, chance and bytes are given to it as arguments"
    if not under(target, "twisted.internet") or any(under(target, harmless) for harmless in HARMLESS):
        return ""
    if here not in DRIVERS:
        return f"{here} does not drive a reactor; only {', '.join(sorted(DRIVERS))} may"
    if under(target, "twisted.internet.reactor") and not inside_function:
        return "at the top of a file this chooses the reactor for whoever imports it; import it where it is used"
    return ""


def under(target: str, module: str) -> bool:
    """Whether a dotted name is a module, or lies in it."""
    return target == module or target.startswith(f"{module}.")


def circles(graph: dict[str, dict[str, str]]) -> list[str]:
    """One line for each circle of imports that a walk through the graph meets."""
    faults: list[str] = []
    done: set[str] = set()

    def walk(name: str, trail: list[str]) -> None:
        if name in trail:
            ring = [*trail[trail.index(name) :], name]
            faults.append(f"{graph[ring[-2]][name]}: imports {name}: a circle, {' → '.join(ring)}")
        elif name in graph and name not in done:
            for target in graph[name]:
                walk(target, [*trail, name])
            done.add(name)

    for name in graph:
        walk(name, [])
    return faults


def reached(graph: dict[str, dict[str, str]]) -> list[str]:
    """One line for each room that another reaches, by however many steps, and must not."""
    faults: list[str] = []
    for here, there in APART:
        trails = [[name] for name in graph if room(name) == here]
        seen: set[str] = set()
        while trails:
            trail = trails.pop()
            for target, where in graph.get(trail[-1], {}).items():
                if room(target) == there:
                    faults.append(f"{where}: imports {target}: {here} must not reach {there}, {' → '.join([*trail, target])}")
                elif target not in seen:
                    seen.add(target)
                    trails.append([*trail, target])
    return faults


def build(folder: Path, files: dict[str, str]) -> Path:
    """Writes a small house and returns its folder."""
    house = folder / "twisted_im"
    for name, source in files.items():
        path = house / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source, encoding="utf-8")
    return house


#: what breaks a rule: the name of the case → (the files, what the message must name)
PLANTED = {
    "a higher floor": (
        {"core/delivery.py": "from twisted_im.server import node", "server/node.py": ""},
        ["twisted_im/core/delivery.py:1", "twisted_im.server.node", "floor 4"],
    ),
    "a higher floor, relative and lazy": (
        {"wire/codec.py": "def f():\n    from ..pump import Pump", "pump.py": "class Pump: ..."},
        ["twisted_im/wire/codec.py:2", "twisted_im.pump", "floor 3"],
    ),
    "a higher floor, for its types only": (
        {
            "pump.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import twisted_im.client.session",
            "client/session.py": "",
        },
        ["twisted_im/pump.py:3", "twisted_im.client.session", "floor 6"],
    ),
    "the public names": (
        {"__init__.py": "Node = 1", "tap.py": "from twisted_im import Node"},
        ["twisted_im/tap.py:1", "public names"],
    ),
    "a circle": (
        {"core/a.py": "from twisted_im.core import b", "core/b.py": "from .c import x", "core/c.py": "x = 1\nimport twisted_im.core.a"},
        ["twisted_im/core/c.py:2", "twisted_im.core.a → twisted_im.core.b → twisted_im.core.c → twisted_im.core.a"],
    ),
    "a file that imports itself": (
        {"core/a.py": "from twisted_im.core.a import x"},
        ["twisted_im/core/a.py:1", "circle"],
    ),
    "client to server": (
        {"client/library.py": "from twisted_im.server.node import Node", "server/node.py": "Node = 1"},
        ["twisted_im/client/library.py:1", "client must not reach server"],
    ),
    "client to server by a detour": (
        {
            "client/library.py": "from twisted_im.client import kept",
            "client/kept.py": "import twisted_im.routing.link",
            "routing/link.py": "import twisted_im.server.node",
            "server/node.py": "",
        },
        [
            "twisted_im/routing/link.py:1",
            "client must not reach server",
            "twisted_im.client.library → twisted_im.client.kept → twisted_im.routing.link → twisted_im.server.node",
        ],
    ),
    "a clock in a pure room": ({"core/pacing.py": "import time"}, ["twisted_im/core/pacing.py:1", "time", "pure"]),
    "chance in a pure room": ({"core/pacing.py": "from random import random"}, ["twisted_im/core/pacing.py:1", "random.random", "pure"]),
    "Twisted in a pure room": (
        {"wire/framing.py": "from twisted.python import failure"},
        ["twisted_im/wire/framing.py:1", "twisted.python.failure", "pure"],
    ),
    "threads in errors": ({"errors.py": "import threading"}, ["twisted_im/errors.py:1", "threading", "pure"]),
    "the reactor in the server": (
        {"server/node.py": "def f():\n    from twisted.internet import reactor"},
        ["twisted_im/server/node.py:2", "twisted.internet.reactor", "does not drive"],
    ),
    "all of twisted.internet in the server": (
        {"server/node.py": "import twisted.internet"},
        ["twisted_im/server/node.py:1", "does not drive"],
    ),
    "the reactor at the top of a file": (
        {"edge/tcp.py": "from twisted.internet import reactor"},
        ["twisted_im/edge/tcp.py:1", "chooses the reactor"],
    ),
    "a room without a floor": ({"cellar/wine.py": ""}, ["twisted_im/cellar/wine.py", "no floor"]),
}

#: what breaks none
SOUND = {
    "__init__.py": "from twisted_im.client.library import Client\nfrom twisted_im.tap import makeService",
    "errors.py": "from enum import IntEnum",
    "wire/__init__.py": '"""Words."""',
    "wire/schema.py": "import construct\nfrom twisted_im import errors",
    "wire/codec.py": "from . import schema\nfrom ..errors import ImError\nfrom twisted_im.wire.schema import Kind",
    "core/connection.py": "from twisted_im.wire.codec import read",
    "pump.py": "from twisted.internet.protocol import Protocol\nfrom twisted_im.core.connection import Connection",
    "server/node.py": "from twisted.internet.defer import Deferred\nfrom twisted.logger import Logger\nimport twisted.application",
    "client/library.py": "from twisted.application.internet import ClientService\nimport twisted_im.pump",
    "tap.py": "def makeService(o):\n    from twisted.internet import reactor\n    from twisted_im.server import node",
}


def test_house_is_in_order() -> None:
    """If this fails, a change in one room reaches users through another that should not know of it: the client through the server, say."""
    faults = violations(ROOT / "twisted_im")
    assert not faults, "the floors do not hold:\n" + "\n".join(faults)


def test_checker_reads_the_real_house() -> None:
    """If this fails, the checker looks at nothing, and an import that breaks the house reaches users unseen."""
    house = ROOT / "twisted_im"
    files = {module_name(house, path): path for path in house.rglob("*.py")}
    seen = {target for _, target, _ in imports("twisted_im.wire.codec", house / "wire" / "codec.py", files)}
    assert {"twisted_im.errors", "twisted_im.wire.schema"} <= seen


def test_checker_passes_a_sound_house(tmp_path: Path) -> None:
    """If this fails, the checker forbids what the plan allows, and people learn to go round it."""
    assert violations(build(tmp_path, SOUND)) == []


@pytest.mark.parametrize("case", PLANTED)
def test_checker_names_a_planted_fault(tmp_path: Path, case: str) -> None:
    """If this fails, a rule of the house can be broken without anyone being told, or told without the place."""
    files, named = PLANTED[case]
    faults = violations(build(tmp_path, files))
    assert any(all(word in fault for word in named) for fault in faults), faults
