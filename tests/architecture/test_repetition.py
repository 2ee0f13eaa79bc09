"""Nothing is written twice: no two rooms share a run of more than ten equal lines."""

from __future__ import annotations

import ast
import re
from collections import defaultdict

from tests.architecture.tree import modules, parsed

MAX_RUN = 10
_THIN = re.compile(r"[\W_]*|@\w+")  # punctuation, a bare decorator


def lines_of(module: str) -> list[tuple[int, str]]:
    """The lines that say something, stripped, with their numbers: no comments, no imports."""
    imported = {
        number
        for node in ast.walk(parsed(module))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for number in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    lines = enumerate(modules()[module].read_text().splitlines(), 1)
    stripped = [(number, line.split("  # ")[0].strip()) for number, line in lines if number not in imported]
    return [(number, line) for number, line in stripped if line[:1] != "#" and not _THIN.fullmatch(line)]


def runs(texts: dict[str, list[tuple[int, str]]]) -> dict[tuple[str, ...], list[str]]:
    """Every run of `MAX_RUN` + 1 lines that stands in two rooms, with its places."""
    found = defaultdict(list)
    for module, lines in texts.items():
        for start in range(len(lines) - MAX_RUN):
            window = lines[start : start + MAX_RUN + 1]
            found[tuple(line for _, line in window)].append((module, window[0][0]))
    return {
        run: [f"{module}:{number}" for module, number in places]
        for run, places in found.items()
        if len({module.rpartition(".")[0] for module, _ in places}) > 1
    }


def test_no_two_rooms_share_a_run_of_lines():
    assert not runs({module: lines_of(module) for module in modules()})


def test_a_run_in_two_rooms_is_found():
    lines = [(number, f"value_{number} = {number}") for number in range(MAX_RUN + 1)]
    assert len(runs({"a.b": lines, "c.d": lines})) == 1
    assert not runs({"a.b": lines, "a.c": lines})
