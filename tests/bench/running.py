"""Benchmarks as processes, and what their docstrings promise."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest

from bench import command

ROOT = Path(command.__file__).parents[1]
DEADLINE_S = 240.0  # only a hang takes so long
KEY = re.compile(r"^    (\w+(?:, \w+)*) {2,}\S", re.MULTILINE)


def documented(name: str) -> list[str]:
    """The keys that the docstring of the module `name` lists."""
    path = ROOT / Path(*name.split("."))
    path = path / "__main__.py" if path.is_dir() else path.with_suffix(".py")
    doc = ast.get_docstring(ast.parse(path.read_text()), clean=False) or ""
    return [key for names in KEY.findall(doc) for key in names.split(", ")]


def output(arguments: Sequence[str], cwd: Path = ROOT, env: dict[str, str] | None = None) -> list[str]:
    """What Python prints to stdout with these arguments, line by line."""
    process = subprocess.Popen(
        [sys.executable, *arguments],
        cwd=cwd,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        out, err = process.communicate(timeout=DEADLINE_S)
    except subprocess.TimeoutExpired:
        for child in psutil.Process(process.pid).children(recursive=True):
            child.kill()
        process.kill()
        out, err = process.communicate()
        pytest.fail(f"{arguments} did not end within {DEADLINE_S:g} s\n{err[-3000:]}")
    assert process.returncode == 0, out[-3000:] + err[-3000:]
    return out.splitlines()
