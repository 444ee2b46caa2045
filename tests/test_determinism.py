"""Holds what a simulation lives by: the code that is shipped does the same again, if it is given the same time, chance and events.

Strategy: the sources are read with `ast`, so nothing runs. Two things differ from one run of a process to the next, and neither shows in an
ordinary test: what is asked of the system (time, chance, the process's own number), and the order of a set, since strings and bytes have
other hashes in every process and objects lie at other addresses. So the first may only stand as the default value of an argument, and a set
may be looked into, measured and sorted, but not walked through; a dictionary whose values are None is a set with an order.

What is a set is found by annotations and by what is assigned: attributes and functions by their names, all rooms together; other names
within their function. The checker itself is tried on files with one fault each: a rule that cannot fail holds nothing.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

#: files and folders below twisted_im/ that a simulation runs, and the simulation itself
ROOMS = (
    "errors.py", "wire", "core", "cork.py", "pump.py", "counters.py", "server", "routing", "storage", "client", "edge/tcp.py", "service.py",
    "oracle.py", "faults/journal.py", "faults/recorder.py", "sim",
)  # fmt: skip

#: what gives something else in each run: a name, or a module with all that it has
ASKED = {
    "datetime.date.today", "datetime.datetime.now", "datetime.datetime.today", "datetime.datetime.utcnow", "os.getpid", "os.getrandom",
    "os.urandom", "random", "secrets", "time.clock_gettime", "time.gmtime", "time.localtime", "time.monotonic", "time.monotonic_ns",
    "time.perf_counter", "time.perf_counter_ns", "time.process_time", "time.time", "time.time_ns", "uuid",
}  # fmt: skip

#: (file below twisted_im/, name) → why it may stand there
EXCEPTIONS = {
    ("client/client.py", "random.SystemRandom"): "in place of an argument that was left out",
    ("faults/recorder.py", "random.SystemRandom"): "in place of an argument that was left out",
    ("server/passwords.py", "os.urandom"): "nobody's password: its hash is compared with, for the time that it takes",
    ("server/tenure.py", "os.getpid"): "what a node is not given as its `boot` and `gone`",
    ("sim/campaign.py", "time.monotonic"): "how long the runs of other processes take; none runs in this one",
    ("storage/sqlite_copy.py", "datetime.datetime.now"): "the name of a file that a command leaves behind; no server runs it",
    ("wire/codec.py", "id"): "a key, at import; nothing is ordered by it",
}

SETS = {"set", "frozenset", "Set", "AbstractSet", "FrozenSet", "MutableSet"}
#: Calls that give the same for each order of what they are given.
ORDERLESS = {"sorted", "len", "min", "max", "any", "all", "sum", "set", "frozenset"}
#: Calls that walk through what they are given; the second are methods, of whatever.
WALKERS = {
    "list", "tuple", "iter", "enumerate", "zip", "map", "filter", "next", "str", "repr", "deque", "chain", "gatherResults", "DeferredList",
}  # fmt: skip
WALKING_METHODS = {"join", "extend", "fromkeys", "from_iterable", "writelines", "executemany"}
COMBINING = (ast.Sub, ast.BitOr, ast.BitAnd, ast.BitXor)
COMBINING_METHODS = {"union", "intersection", "difference", "symmetric_difference", "copy"}

Function = ast.FunctionDef | ast.AsyncFunctionDef


def violations(house: Path, rooms: Iterable[str], exceptions: Mapping[tuple[str, str], str]) -> list[str]:
    """What may differ from one run to the next.

    Args:
        house: the folder of the package `twisted_im`.
        rooms: files and folders in it.
        exceptions: (file, name) that may stand.

    Returns:
        One line for each fault, naming the file, the line and the thing; and one for each exception that nobody needs.
    """
    paths = [path for room in rooms for path in ([house / room] if room.endswith(".py") else sorted((house / room).rglob("*.py")))]
    trees = {path.relative_to(house).as_posix(): ast.parse(path.read_text(encoding="utf-8")) for path in paths}
    faults: list[str] = []
    needed = set()
    for where, tree in trees.items():
        for line, name in asked(tree):
            if (where, name) in exceptions:
                needed.add((where, name))
            else:
                faults.append(f"{where}:{line}: {name} differs in each run; take it as an argument, with this as its default")
    attributes, functions = named_sets(trees.values())
    for where, tree in trees.items():
        walks = Walks(attributes, functions)
        walks.visit(tree)
        faults += [f"{where}:{line}: {what} goes through a set, in no order; sort it, or keep a dict" for line, what in walks.found]
    return faults + [f"{where}: {name} is an exception that nobody needs" for where, name in exceptions if (where, name) not in needed]


# ---- time and chance


def asked(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Each mention of what differs from run to run, but for default values: its line and its full name."""
    meant: dict[str, str] = {}
    allowed: set[ast.AST] = set()
    seeded: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                top = alias.name.partition(".")[0]
                meant.update({alias.asname: alias.name} if alias.asname else {top: top})
        elif isinstance(node, ast.ImportFrom):
            meant.update((alias.asname or alias.name, f"{node.module}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.arguments):
            allowed.update(default for default in (*node.defaults, *node.kw_defaults) if isinstance(default, ast.Name | ast.Attribute))
        elif isinstance(node, ast.Call) and not node.args:
            seeded.add(node.func)  # not seeded, that is
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node in allowed:
            allowed.add(node.value)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("id", "hash"):
            yield node.lineno, node.func.id
        elif isinstance(node, ast.Name | ast.Attribute) and node not in allowed:
            name = dotted(node, meant)
            if name == "random.Random" and node not in seeded:
                continue  # as a type, or with a seed
            if name in ASKED or name.rpartition(".")[0] in ASKED:
                yield node.lineno, name
                allowed.update(ast.walk(node))


def dotted(node: ast.expr, meant: Mapping[str, str]) -> str:
    """The full name of what was imported; empty for anything else."""
    if isinstance(node, ast.Attribute):
        above = dotted(node.value, meant)
        return f"{above}.{node.attr}" if above else ""
    return meant.get(node.id, "") if isinstance(node, ast.Name) else ""


# ---- sets


def annotated(annotation: ast.expr | None) -> bool:
    """Whether an annotation says: a set, perhaps, or a Deferred or awaitable of one."""
    if isinstance(annotation, ast.BinOp):
        return annotated(annotation.left) or annotated(annotation.right)
    if isinstance(annotation, ast.Subscript):
        waited = isinstance(annotation.value, ast.Name) and annotation.value.id in ("Deferred", "Awaitable", "Optional")
        return annotated(annotation.slice) if waited else annotated(annotation.value)
    return isinstance(annotation, ast.Name) and annotation.id in SETS


def named_sets(trees: Iterable[ast.Module]) -> tuple[set[str], set[str]]:
    """Names of attributes that are sets, and of functions that give one, in all files."""
    attributes, functions = set(), set()
    for tree in trees:
        for node in ast.walk(tree):
            if isinstance(node, Function) and annotated(node.returns):
                looked_up = any(isinstance(by, ast.Name) and by.id in ("property", "cached_property") for by in node.decorator_list)
                (attributes if looked_up else functions).add(node.name)
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Attribute) and annotated(node.annotation):
                attributes.add(node.target.attr)
            elif isinstance(node, ast.ClassDef):
                for each in node.body:
                    if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name) and annotated(each.annotation):
                        attributes.add(each.target.id)
            elif isinstance(node, ast.Assign) and Walks(set(), set()).is_set(node.value):
                attributes.update(target.attr for target in node.targets if isinstance(target, ast.Attribute))
    return attributes, functions


class Walks(ast.NodeVisitor):
    """Finds each walk through a set.

    Attributes:
        found: the line and the kind of each.
    """

    def __init__(self, attributes: set[str], functions: set[str]) -> None:
        self.found: list[tuple[int, str]] = []
        self._attributes, self._functions = attributes, functions
        self._scopes: list[set[str]] = []
        self._free: set[ast.AST] = set()  # walks of which no order is left

    def is_set(self, node: ast.expr) -> bool:
        match node:
            case ast.Set() | ast.SetComp():
                return True
            case ast.Name(id=name):
                return any(name in scope for scope in self._scopes)
            case ast.Attribute(attr=name):
                return name in self._attributes
            case ast.Call(func=ast.Name(id=name)):
                return name in ("set", "frozenset") or name in self._functions
            case ast.Call(func=ast.Attribute(value=value, attr=name)):
                return name in self._functions or (name in COMBINING_METHODS and self.is_set(value))
            case ast.BinOp(left=left, op=op, right=right):
                return isinstance(op, COMBINING) and any(self.is_set(side) or self._is_view(side) for side in (left, right))
            case ast.IfExp(body=one, orelse=other):
                return self.is_set(one) or self.is_set(other)
            case ast.BoolOp(values=values):
                return any(map(self.is_set, values))
            case ast.NamedExpr(value=value) | ast.Await(value=value) | ast.Yield(value=ast.expr() as value):
                return self.is_set(value)
        return False

    @staticmethod
    def _is_view(node: ast.expr) -> bool:
        """A dictionary's keys are in order, but what is combined of them is a set."""
        return isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ("keys", "items")

    def _walk(self, node: ast.AST, through: ast.expr, what: str) -> None:
        if node not in self._free and self.is_set(through):
            self.found.append((through.lineno, what))

    # ---- where names are known

    def visit_Module(self, node: ast.Module) -> None:
        self._within(node, node.body, [])

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._function(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self._function(node)

    def _function(self, node: Function) -> None:
        self._within(node, node.body, [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs])

    def _within(self, node: ast.AST, body: list[ast.stmt], arguments: list[ast.arg]) -> None:
        """Goes through a function, or a file, after all names in it that are ever a set are known."""
        scope = {argument.arg for argument in arguments if annotated(argument.annotation)}
        self._scopes.append(scope)
        inner: list[ast.AST] = list(body)
        while inner:
            each = inner.pop(0)
            if isinstance(each, Function | ast.ClassDef | ast.Lambda):
                continue
            if isinstance(each, ast.Assign | ast.NamedExpr) and self.is_set(each.value):
                targets = each.targets if isinstance(each, ast.Assign) else [each.target]
                scope.update(target.id for target in targets if isinstance(target, ast.Name))
            elif isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name) and annotated(each.annotation):
                scope.add(each.target.id)
            inner[:0] = ast.iter_child_nodes(each)
        self.generic_visit(node)
        self._scopes.pop()

    # ---- walks

    def visit_For(self, node: ast.For) -> None:
        self._walk(node, node.iter, "a loop")
        self.generic_visit(node)

    def visit_SetComp(self, node: ast.SetComp) -> None:
        self._free.update(node.generators)
        self.generic_visit(node)

    def visit_Set(self, node: ast.Set) -> None:
        self._free.update(node.elts)
        self.generic_visit(node)

    def visit_comprehension(self, node: ast.comprehension) -> None:
        self._walk(node, node.iter, "a comprehension")
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        name = node.func.id if isinstance(node.func, ast.Name) else node.func.attr if isinstance(node.func, ast.Attribute) else ""
        if isinstance(node.func, ast.Name) and name in ORDERLESS:
            for argument in node.args:
                self._free.add(argument)
                if isinstance(argument, ast.GeneratorExp | ast.ListComp):
                    self._free.update(argument.generators)
        elif name in (WALKERS if isinstance(node.func, ast.Name) else WALKING_METHODS):
            for argument in node.args:
                self._walk(node, argument, f"{name}()")
        elif isinstance(node.func, ast.Attribute) and name == "pop" and not node.args:
            self._walk(node, node.func.value, "pop()")
        self.generic_visit(node)

    def visit_Starred(self, node: ast.Starred) -> None:
        self._walk(node, node.value, "a star")
        self.generic_visit(node)

    def visit_YieldFrom(self, node: ast.YieldFrom) -> None:
        self._walk(node, node.value, "yield from")
        self.generic_visit(node)

    def visit_FormattedValue(self, node: ast.FormattedValue) -> None:
        self._walk(node, node.value, "a text")
        self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        if isinstance(node.op, ast.Add):
            self._walk(node, node.value, "+=")
        self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        if any(isinstance(target, ast.Tuple | ast.List) and len(target.elts) > 1 for target in node.targets):
            self._walk(node, node.value, "taking apart")
        self.generic_visit(node)


# ---- the tests

#: what breaks a rule: the source of pump.py → the line of the fault, and what the message must name
PLANTED = {
    "a clock": ("import time\ndef f():\n    return time.time()", 3, "time.time"),
    "a clock by its own name": ("from time import monotonic as now\nx = now()", 2, "time.monotonic"),
    "a clock that is handed on": ("import time\ndef f(x):\n    x.clock = time.monotonic", 3, "time.monotonic"),
    "a clock that is read once, for a default": ("import time\ndef f(now=time.time()): ...", 2, "time.time"),
    "the day": ("from datetime import UTC, datetime\nx = datetime.now(UTC)", 2, "datetime.datetime.now"),
    "bytes": ("import os\nclass A:\n    def f(self):\n        self.epoch = os.urandom(16)", 4, "os.urandom"),
    "chance": ("import random\nx = [random.random()]", 2, "random.random"),
    "chance without a seed": ("from random import Random\nx = Random()", 2, "random.Random"),
    "secrets": ("from secrets import token_bytes\nx = token_bytes(1)", 2, "secrets.token_bytes"),
    "a uuid": ("import uuid\nx = uuid.uuid4()", 2, "uuid.uuid4"),
    "an address": ("x = sorted([], key=lambda a: id(a))", 1, "id"),
    "a loop": ("class A:\n    a: set[int]\n    def f(self):\n        for x in self.a: ...", 4, "a loop"),
    "a loop in another's set": (
        "class A:\n    def __init__(self):\n        self.a: set[int] = set()\ndef f(b):\n    for x in b.a: ...", 5, "a loop"
    ),
    "a set without an annotation": ("class A:\n    def f(self):\n        self.a = set()\n        for x in self.a: ...", 4, "a loop"),
    "a loop through a difference": ("def f(a: tuple[int, ...], b):\n    for x in set(a) - b: ...", 2, "a loop"),
    "a loop through common keys": ("def f(a, b):\n    for x in a.keys() & b: ...", 2, "a loop"),
    "a name within a function": ("def f(a):\n    b = {x for x in a}\n    return [x for x in b]", 3, "a comprehension"),
    "an argument of the function around": ("def f(a: frozenset[int] | None):\n    def g():\n        return list(a)", 3, "list()"),
    "what a function gives": ("def g() -> set[int]: ...\ndef f():\n    return tuple(g())", 3, "tuple()"),
    "what a Deferred gives": (
        "def g() -> Deferred[set[int]]: ...\nasync def f():\n    a = await g()\n    return {x: 1 for x in a}", 4, "a comprehension"
    ),
    "a property": (
        "class A:\n    @property\n    def a(self) -> set[int]: ...\ndef f(a):\n    for x in a.a: ...", 5, "a loop"
    ),
    "a star": ("a = {1, 2}\nb = [*a]", 2, "a star"),
    "a text": ("a = {1, 2}\nb = ', '.join(a)", 2, "join()"),
    "a text of the whole": ("a = {1, 2}\nb = f'{a}'", 2, "a text"),
    "the first that comes": ("def f(a: set[int]):\n    return next(iter(a))", 2, "iter()"),
    "any that comes": ("def f(a: set[int]):\n    return a.pop()", 2, "pop()"),
    "a list that grows": ("def f(a: set[int], b: list[int]):\n    b += a", 2, "+="),
    "taken apart": ("def f(a: set[int]):\n    b, c = a", 2, "taking apart"),
    "an exception that nobody needs": ("", 0, "EXCEPTION"),
}  # fmt: skip

#: what breaks none
SOUND = '''
import os
import time
from random import Random

class A:
    a: set[int]
    b: dict[int, None]

    def f(self, clock=time.time, *, random=os.urandom, of: Random = None):
        self.now, self.random, self.seeded = clock(), random(16), Random(7)
        for x in sorted(self.a): ...
        for x in sorted(x + 1 for x in self.a): ...
        for x in self.b: ...
        return len(self.a), min(self.a), any(x for x in self.a), {x + 1 for x in self.a}, {*self.a, 3}, 3 in self.a, self.a - {4}

    def g(self, a):
        self.a.update(x for x in a)
        (one,) = self.a
        return [x for x in a if x not in self.a]

def h(a: list[int]):
    return list(a), time.sleep
'''


def plant(folder: Path, source: str) -> Path:
    """Writes a house of one file and returns its folder."""
    (folder / "pump.py").write_text(source, encoding="utf-8")
    return folder


def test_the_same_again() -> None:
    """If this fails, a fault that a simulation has found for a user cannot be played again, and so not be understood."""
    faults = violations(ROOT / "twisted_im", ROOMS, EXCEPTIONS)
    assert not faults, "\n".join(faults)


def test_checker_passes_what_is_sound(tmp_path: Path) -> None:
    """If this fails, the checker forbids what is harmless, and people learn to go round it."""
    assert violations(plant(tmp_path, SOUND), ["pump.py"], {}) == []


@pytest.mark.parametrize("case", PLANTED)
def test_checker_names_a_planted_fault(tmp_path: Path, case: str) -> None:
    """If this fails, something that differs in each run can come into a server without anyone being told, or told without the place."""
    source, line, named = PLANTED[case]
    faults = violations(plant(tmp_path, source), ["pump.py"], {("pump.py", "EXCEPTION"): ""} if not source else {})
    assert len(faults) == 1, faults
    assert faults[0].startswith(f"pump.py:{line}: {named} " if line else f"pump.py: {named} "), faults
