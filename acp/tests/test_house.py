"""The rules of the code itself: sizes, imports, names, docstrings, lint, types."""

from __future__ import annotations

import ast
import builtins
import re
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import helexa_acp

PACKAGE = Path(helexa_acp.__file__).parent
PROJECT = Path(__file__).parent.parent
FILES = sorted(PACKAGE.rglob("*.py"))
ALLOWED = {"helexa_acp", "httpx", "httpx2", "anyio", "mcp", "mcp_types"}


def module_name(path):
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {module_name(path): path.read_text() for path in FILES}


def imported(source):
    """Yield what a module imports, in functions and under TYPE_CHECKING too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def circle(sources):
    """Return the modules of an import circle, each of which imports the next; empty if there is none."""
    graph = {module: sources.keys() & set(imported(source)) for module, source in sources.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1][::-1]
    return []


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_are_short_and_import_only_what_is_allowed(path):
    assert len(path.read_text().splitlines()) <= 400
    for name in imported(path.read_text()):
        top = name.partition(".")[0]
        assert top in ALLOWED or top in sys.stdlib_module_names, f"{path} imports {name}"


@pytest.mark.parametrize("package", ["provider", "rpc", "storage", "v1"])
def test_lower_layers_do_not_import_the_agent(package):
    for path in (PACKAGE / package).rglob("*.py"):
        names = set(imported(path.read_text()))
        assert not any(
            name.startswith(
                ("helexa_acp.agent", "helexa_acp.cli", "helexa_acp.conformance", "helexa_acp.tools")
            )
            for name in names
        )


def test_the_provider_does_not_import_the_protocol():
    for path in (PACKAGE / "provider").rglob("*.py"):
        assert not any(
            name.startswith(("helexa_acp.v1", "helexa_acp.rpc", "helexa_acp.storage"))
            for name in imported(path.read_text())
        )


def test_wires_do_no_io():
    io = {"asyncio", "httpx", "socket"} | {
        f"helexa_acp.provider.{name}" for name in ("attempt", "endpoints", "failover", "http", "scripted")
    }
    for module, source in SOURCES.items():
        if module.startswith("helexa_acp.provider.wires"):
            assert not io & set(imported(source)), module


def test_the_package_has_no_import_circle():
    found = circle(SOURCES)
    assert not found, "\n  imports ".join(found)


@pytest.mark.parametrize(
    "back",
    [
        "import p.a",
        "from p.a import x",
        "from p import a",
        "if TYPE_CHECKING:\n    from p.a import x",
        "def f():\n    from p.a import x",
    ],
)
def test_a_circle_is_found_however_the_import_is_written(back):
    assert sorted(circle({"p.a": "import p.b", "p.b": "import p.c", "p.c": back})[:-1]) == [
        "p.a",
        "p.b",
        "p.c",
    ]
    assert circle({"p.a": "import p.b", "p.b": "import os", "p": ""}) == []


def test_every_import_can_be_read_in_the_source():
    assert not [module for module, source in SOURCES.items() if "import_module(" in source]


def test_no_class_name_stands_for_two_things():
    classes = [
        node.name
        for source in SOURCES.values()
        for node in ast.parse(source).body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    ]
    assert len(set(classes)) == len(classes), sorted(name for name in classes if classes.count(name) > 1)


# Docstrings


def split_docstrings(source):
    """Return the docstrings of a module, and its code without them and without comments."""
    tree = ast.parse(source)
    docstrings = []
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
        ):
            docstrings.append(node.value.value)
            node.value = ast.Constant(None)
    return docstrings, ast.unparse(tree)


def defined_by(node):
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [node.name]
    if isinstance(node, ast.Assign | ast.AnnAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        return [target.id for target in targets if isinstance(target, ast.Name)]
    return []


def definitions(code_by_module):
    """Return the names that each module defines, and those that occur in each class."""
    found = {}
    for module, code in code_by_module.items():
        tree = ast.parse(code)
        found[module.partition(".")[2]] = {name for node in tree.body for name in defined_by(node)}
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                found[node.name] = set(re.findall(r"\w+", ast.unparse(node)))
    return found


def stale_names(sources):
    """Return the names in backticks that do not exist.

    A name is a word, or words joined by dots. If it begins with a module or a class of the package, or with a
    builtin, the rest must be defined there. Any other word must occur in the package's code, as a name or in a
    string: docstrings also name settings, tools and fields of JSON.
    """
    split = {module: split_docstrings(source) for module, source in sources.items()}
    words = {word for _, code in split.values() for word in re.findall(r"\w+", code)}
    defined = definitions({module: code for module, (_, code) in split.items()})

    def exists(name):
        head, _, rest = name.rpartition(".")
        if name in defined or (head in defined and rest in defined[head]):
            return True
        top, _, attribute = name.partition(".")
        if attribute and hasattr(builtins, top):
            return hasattr(getattr(builtins, top), attribute)
        return not (attribute and top in defined) and words.issuperset(name.split("."))

    return [
        f"{module}: `{name}`"
        for module, (docstrings, _) in split.items()
        for docstring in docstrings
        for name in re.findall(r"(?<!`)`([A-Za-z_][\w.]*)(?:\(\))?`(?!`)", docstring)
        if not exists(name)
    ]


def test_docstrings_name_what_exists():
    found = stale_names(SOURCES)
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("name", "stale"),
    [
        ("gone", True),
        ("gone()", True),
        ("Gone", True),
        ("A.gone", True),
        ("b.gone", True),
        ("c.gone", True),
        ("str.gone", True),
        *(
            (name, False)
            for name in ("A", "A.run", "b", "b.A", "field", "a field of b.A", "str.split", "-x", "--gone")
        ),
    ],
)
def test_a_stale_name_is_found(name, stale):
    sources = {
        "p": "",
        "p.b": f'class A:\n    """Is `{name}`."""\n    def run(self): "x"["field"]',
        "p.c": "x = 1",
    }
    assert bool(stale_names(sources)) is stale


def test_initialize_needs_nothing_heavy():
    code = "import sys, helexa_acp.cli.app, helexa_acp.serve; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"httpx", "mcp", "pydantic", "helexa_acp.agent.session", "helexa_acp.provider.types"} & set(
        loaded
    )


@pytest.mark.parametrize("command", [["ruff", "check", "."], ["ruff", "format", "--check", "."], ["mypy"]])
def test_lint_and_types_are_clean(command):
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=PROJECT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
