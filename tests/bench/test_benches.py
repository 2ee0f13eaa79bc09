"""Every benchmark runs: each in its smallest size, as a process, down to its last line."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from bench import command

ROOT = Path(command.__file__).parents[1]
BENCH = ROOT / "bench"
DEADLINE_S = 240.0  # only a hang takes so long
# Programs that benchmarks start.
PARTS = {"bench.gateway.load", "bench.gateway.mock", "bench.guided.walk", "bench.translate.adapter"}
KEY = re.compile(r"^    (\w+(?:, \w+)*) {2,}\S", re.MULTILINE)


def programs() -> set[str]:
    """The modules below bench/ that run when they are named to Python."""
    found = set()
    for path in BENCH.rglob("*.py"):
        if 'if __name__ == "__main__":' in path.read_text() and ".venvs" not in path.parts:
            parts = path.relative_to(ROOT).with_suffix("").parts
            found.add(".".join(parts[:-1] if parts[-1] == "__main__" else parts))
    return found


BENCHES = sorted(programs() - PARTS)


def documented(name: str) -> list[str]:
    """The keys that the docstring of the module `name` lists."""
    path = ROOT / Path(*name.split("."))
    path = path / "__main__.py" if path.is_dir() else path.with_suffix(".py")
    doc = ast.get_docstring(ast.parse(path.read_text()), clean=False) or ""
    return [key for names in KEY.findall(doc) for key in names.split(", ")]


def output(name: str, *options: str) -> list[str]:
    """What a benchmark prints to stdout, line by line."""
    command = [sys.executable, "-m", name, *options]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        out, err = process.communicate(timeout=DEADLINE_S)
    except subprocess.TimeoutExpired:
        for child in psutil.Process(process.pid).children(recursive=True):
            child.kill()
        process.kill()
        out, err = process.communicate()
        pytest.fail(f"{name} did not end within {DEADLINE_S:g} s\n{err[-3000:]}")
    assert process.returncode == 0, err[-3000:]
    return out.splitlines()


def test_the_programs_that_benchmarks_start_are_there():
    assert programs() > PARTS


@pytest.mark.parametrize("name", BENCHES)
def test_a_smoke_run_ends_in_the_documented_keys(name: str):
    *before, last = output(name, "--smoke", "--json")
    result: dict[str, Any] = json.loads(last)
    assert not before
    assert (f"bench.{result['bench']}", result["size"]) == (name, "smoke")
    assert sorted(result) == sorted(documented("bench.command") + documented(name))


def test_a_result_is_shown_as_a_table_and_kept_in_a_file(tmp_path: Path):
    shown = output("bench.translate", "--smoke", "--out", str(tmp_path / "kept" / "result.json"))
    kept = json.loads((tmp_path / "kept" / "result.json").read_text())
    assert {line.split()[0] for line in shown if not line.startswith(" ")} == set(kept)
    assert kept["missing"] == {"litellm": "not asked for"}
    assert kept["cpu_over_litellm"] is None
