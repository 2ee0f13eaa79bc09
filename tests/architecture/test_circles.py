"""No module imports itself by way of others, not even for a type or inside a function."""

from __future__ import annotations

from tests.architecture.tree import circles, imports, modules


def test_no_imports_run_in_a_circle():
    graph = {name: imports(name) - {name} for name in modules()}
    assert not circles(graph)


def test_a_circle_is_found():
    graph = {"a": frozenset("b"), "b": frozenset("c"), "c": frozenset("a"), "d": frozenset("a")}
    assert circles(graph) == [["a", "b", "c"]]
