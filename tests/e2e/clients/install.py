"""Clients of other people, installed once beside the tests, in environments that hold nothing of ours."""

from __future__ import annotations

import os
import shutil
import subprocess
import venv
from functools import cache
from pathlib import Path
from typing import NoReturn

import pytest

HERE = Path(__file__).parent
PYTHON = HERE / ".python"
MODULES = HERE / "node_modules"
INSTALL_S = 600


@cache
def npm_client(name: str) -> Path:
    """The command of a package of package.json."""
    command = MODULES / ".bin" / name
    wanted = (HERE / "package.json").read_text()
    if _has(MODULES, wanted) and command.exists():
        return command
    npm = shutil.which("npm")
    if npm is None:
        _cannot("npm is not installed here")
    _install([npm, "install", "--no-audit", "--no-fund", "--no-package-lock"], MODULES, wanted)
    if not command.exists():
        _cannot(f"npm installed no {name}")
    return command


@cache
def python() -> Path:
    """The interpreter of an environment with requirements.txt."""
    wanted = (HERE / "requirements.txt").read_text()
    interpreter = PYTHON / "bin" / "python"
    if not _has(PYTHON, wanted):
        venv.create(PYTHON, with_pip=True, clear=True)
        pip = [str(interpreter), "-m", "pip", "install", "-q", "--no-compile", "--disable-pip-version-check"]
        _install([*pip, "-r", "requirements.txt"], PYTHON, wanted)
    return interpreter


def _has(folder: Path, wanted: str) -> bool:
    done = folder / ".installed"
    return done.is_file() and done.read_text() == wanted


def _install(command: list[str], folder: Path, wanted: str) -> None:
    told = subprocess.run(command, cwd=HERE, capture_output=True, text=True, check=False, timeout=INSTALL_S)
    if told.returncode:
        _cannot(told.stderr[-2000:])
    (folder / ".installed").write_text(wanted)


def _cannot(reason: str) -> NoReturn:
    """CI must have every client; elsewhere the tests say what they lack."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"a client could not be installed: {reason}", pytrace=False)
    pytest.skip(f"a client could not be installed: {reason}")
