"""The source tree as a graph: its modules, what each imports, where imports run in circles."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("cortex_site", "fleet", "neuron", "ext", "acp/helexa_acp")


@cache
def modules() -> dict[str, Path]:
    """Every module of ours by its dotted name; a package is its `__init__`."""
    found = {}
    for package in PACKAGES:
        root = (ROOT / package).parent
        for path in (ROOT / package).rglob("*.py"):
            if "node_modules" in path.parts:
                continue
            parts = path.relative_to(root).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def parsed(name: str) -> ast.Module:
    return ast.parse(modules()[name].read_text())


@cache
def imports(name: str, *, at_import: bool = False) -> frozenset[str]:
    """The dotted names that a module imports, outside ones too.

    Imports in functions and under TYPE_CHECKING count, unless only those that run `at_import` are asked for.
    """
    found: set[str] = set()
    for node in _at_import(parsed(name)) if at_import else ast.walk(parsed(name)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {_target(node.module, alias.name) for alias in node.names}
    return frozenset(found)


def _target(module: str, name: str) -> str:
    """`from package import module` names the module, anything else the one it is taken from."""
    whole = f"{module}.{name}"
    return whole if whole in modules() or module not in modules() else module


def _at_import(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from _at_import(child)


def reached(name: str) -> dict[str, tuple[str, ...]]:
    """Every module of ours that comes along when `name` is imported, with the way to it."""
    found: dict[str, tuple[str, ...]] = {}
    todo = [(name, (name,))]
    while todo:
        at, way = todo.pop()
        for target in imports(at, at_import=True) & modules().keys():
            if target not in found:
                found[target] = (*way, target)
                todo.append((target, found[target]))
    return found


def circles(graph: Mapping[str, frozenset[str]]) -> list[list[str]]:
    """The groups of nodes that reach each other (Tarjan 1972), each sorted."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for target in graph[node] & graph.keys():
            if target not in index:
                visit(target)
                low[node] = min(low[node], low[target])
            elif target in stack:
                low[node] = min(low[node], index[target])
        if low[node] == index[node]:
            group = []
            while (last := stack.pop()) != node:
                group.append(last)
            if group or node in graph[node]:
                found.append(sorted([*group, node]))

    for node in graph:
        if node not in index:
            visit(node)
    return found
