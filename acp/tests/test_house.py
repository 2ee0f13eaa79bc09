"""The house itself: sizes, imports, lint, types."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import helexa_acp

PACKAGE = Path(helexa_acp.__file__).parent
PROJECT = Path(__file__).parent.parent
FILES = sorted(PACKAGE.rglob("*.py"))
ALLOWED = {"helexa_acp", "httpx", "httpx2", "mcp"}


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            yield node.module or ""


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_each_file_is_short_and_imports_nothing_of_others(path):
    assert len(path.read_text().splitlines()) <= 400
    for name in imported(path):
        top = name.partition(".")[0]
        assert top in ALLOWED or top in sys.stdlib_module_names, f"{path} imports {name}"


@pytest.mark.parametrize("package", ["provider", "rpc", "storage", "v1"])
def test_lower_layers_know_no_agent(package):
    for path in (PACKAGE / package).rglob("*.py"):
        names = set(imported(path))
        assert not any(
            name.startswith(
                ("helexa_acp.agent", "helexa_acp.cli", "helexa_acp.conformance", "helexa_acp.tools")
            )
            for name in names
        )


def test_the_provider_seam_knows_no_protocol():
    for path in (PACKAGE / "provider").rglob("*.py"):
        assert not any(
            name.startswith(("helexa_acp.v1", "helexa_acp.rpc", "helexa_acp.storage"))
            for name in imported(path)
        )


def test_initialize_needs_nothing_heavy():
    code = "import sys, helexa_acp.cli.app, helexa_acp.serve; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"httpx", "mcp", "pydantic", "helexa_acp.agent.session", "helexa_acp.provider.types"} & set(
        loaded
    )


@pytest.mark.parametrize("command", [["ruff", "check", "."], ["ruff", "format", "--check", "."], ["mypy"]])
def test_lint_and_types(command):
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=PROJECT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
