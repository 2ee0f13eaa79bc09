"""Tests of what is shipped. Each needs tools of the extra `release`, and is skipped without them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BESIDE = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"


def tool(name: str) -> str:
    """The path of a program, from this environment or from PATH; the test is skipped without it."""
    path = shutil.which(name, path=BESIDE)
    if path is None:
        pytest.skip(f"{name} is not installed: `make release` has it")
    return path


def run(*command: str | Path, **options) -> str:
    """What a program printed, which has to end well; beside it are the programs of this environment."""
    environment = {"PATH": BESIDE} | options.pop("env", {})
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("CORTEX_", "PYTHONPATH"))
    }
    ended = subprocess.run(
        list(map(str, command)),
        env=kept | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
        **options,
    )
    assert ended.returncode == 0, f"{command}:\n{ended.stdout}\n{ended.stderr}"
    return ended.stdout


@pytest.fixture(scope="session")
def wheel(tmp_path_factory) -> Path:
    """A wheel of this tree. Compiled modules are left out: they would take minutes, and are tests/ext's."""
    uv = tool("uv")
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in listed.stdout.split("\0"):
        if name and not name.startswith(("acp/", "bench/", "tests/")) and (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, source / name)
    pinned = ("--build-constraints", ROOT / "constraints.txt")
    run(
        uv,
        "build",
        "--quiet",
        "--wheel",
        *pinned,
        "--out-dir",
        folder,
        source,
        env={"CORTEX_PURE_PYTHON": "1"},
    )
    (made,) = folder.glob("*.whl")
    return made
