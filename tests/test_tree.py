"""Holds the shape of the tests: whoever looks for a module's tests finds them at the same path, and each test says what it is for.

Strategy: only names and docstrings are read. A test module mirrors a module of the source, or it tells a story that crosses several;
stories are few, and stand in `STORIES` with their reason, so that nothing lands at the top for want of thought.
"""

from __future__ import annotations

import ast
from pathlib import Path

TESTS = Path(__file__).parent

#: test module → why it mirrors no module of the source
STORIES = {
    "test_bad_input.py": "what a server does with rubbish, on real sockets",
    "test_cluster.py": "every strategy as an operator starts it, and what befalls its processes",
    "test_determinism.py": "what a simulation of the whole server lives by",
    "test_embedding.py": "a page of the documentation, run",
    "test_exports.py": "the public names",
    "test_floors.py": "the imports of the whole house",
    "test_outside_client.py": "the specification, by a client that knows nothing else",
    "server/test_drain.py": "what users notice of nodes that come and go",
    "sim/test_planted.py": "mistakes in the shipped code, which the simulator finds",
    "sim/test_findings.py": "what the simulator has found, wherever it was",
    "test_six_packets.py": "what is promised of a message, whatever is lost",
    "test_packaging.py": "what pip installs, and what twistd then finds",
    "test_testing_your_app.py": "a page of the documentation, run, and the mistakes of its readers",
    "test_tree.py": "the tests themselves",
}


def strays(root: Path, stories: dict[str, str]) -> list[str]:
    """One line for each test module without a place, and for each story that is told no more.

    Args:
        root: the folder that holds `tests` and what they mirror.
        stories: paths below `tests` that need mirror nothing.
    """
    found = {path.relative_to(root / "tests") for path in (root / "tests").rglob("test_*.py")}
    faults = [
        f"tests/{path.as_posix()}: there is no {mirrored(path).as_posix()}; move it, or give its reason in STORIES"
        for path in sorted(found)
        if path.as_posix() not in stories and not exists(root / mirrored(path))
    ]
    return faults + [f"tests/{name}: stands in STORIES, but is gone" for name in stories if Path(name) not in found]


def mirrored(path: Path) -> Path:
    """The source of a test module: wire/test_codec.py → twisted_im/wire/codec.py, benchmarks/test_load.py → benchmarks/load.py."""
    source = path.with_name(path.name.removeprefix("test_"))
    return source if path.parts[0] == "benchmarks" else "twisted_im" / source


def exists(module: Path) -> bool:
    """Whether there is such a module, or a folder of that name."""
    return module.is_file() or (module.with_suffix("") / "__init__.py").is_file()


def silent(tests: Path) -> list[str]:
    """One line for each test without a docstring."""
    return [
        f"{path.relative_to(tests.parent).as_posix()}:{node.lineno}: {node.name} does not say what a user would notice if it failed"
        for path in sorted(tests.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_") and not ast.get_docstring(node)
    ]


def test_every_test_module_has_its_place() -> None:
    """If this fails, someone who mends a module looks for its tests where they are not."""
    faults = strays(TESTS.parent, STORIES)
    assert not faults, "\n".join(faults)


def test_every_test_says_what_it_is_for() -> None:
    """If this fails, a red test tells nobody what is broken for users."""
    faults = silent(TESTS)
    assert not faults, "\n".join(faults)


def test_faults_are_seen(tmp_path: Path) -> None:
    """If this fails, the two tests above pass whatever the tree looks like."""
    for name in ("twisted_im/wire/codec.py", "twisted_im/edge/__init__.py", "benchmarks/load.py"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    tests = tmp_path / "tests"
    for name in ("wire/test_codec.py", "wire/test_lost.py", "benchmarks/test_load.py", "test_edge.py", "test_story.py"):
        (tests / name).parent.mkdir(parents=True, exist_ok=True)
        (tests / name).touch()
    (tests / "wire" / "test_codec.py").write_text('def test_a():\n    """Told."""\n')
    (tests / "wire" / "test_lost.py").write_text("class T:\n    def test_b(self): ...\n")

    assert [fault.split(":")[0] for fault in strays(tmp_path, {"test_story.py": "", "test_gone.py": ""})] == [
        "tests/wire/test_lost.py",
        "tests/test_gone.py",
    ]
    assert [fault.split(" ")[:2] for fault in silent(tests)] == [["tests/wire/test_lost.py:2:", "test_b"]]
