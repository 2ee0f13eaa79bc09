"""The packages that a bare machine lacks, as wheels in a folder.

A bare machine has Python, torch, transformers and pytest, and what these bring. `collect` downloads the rest
where there is an index; `install` puts what is missing into a folder of its own where there is none.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
NEEDS = ("msgspec", "llguidance")  # names of the packages and of their modules
BROUGHT = ("torch", "transformers", "pytest")
PYTHON = "3.12"
MAX_BYTES = 64 << 20
PIP_S = 300.0
# Of x86-64 Linux, the C libraries from the oldest to that of 2024.
_PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in range(5, 40)]


class WheelError(Exception):
    """A package cannot be had; the message says which."""


def pinned(name: str) -> str:
    """The requirement of a package, with the version that the project pins."""
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line.startswith(f"{name}=="):
            return line.strip()
    raise WheelError(f"constraints.txt does not name {name}")


def collect(folder: Path) -> list[Path]:
    """Download the wheels for Python 3.12 into `folder` and return them."""
    folder.mkdir(parents=True, exist_ok=True)
    target = ["--only-binary=:all:", "--implementation=cp", f"--python-version={PYTHON}"]
    target += [f"--platform={platform}" for platform in _PLATFORMS]
    _pip(["download", "--no-deps", *target, f"--dest={folder}", *map(pinned, NEEDS)])
    wheels = [wheel for name in NEEDS for wheel in folder.glob(f"{name}-*.whl")]
    total = sum(wheel.stat().st_size for wheel in wheels)
    if total > MAX_BYTES:
        raise WheelError(f"the wheels have {total >> 20} MiB, more than {MAX_BYTES >> 20}")
    return wheels


def missing() -> list[str]:
    """The packages that this Python does not have."""
    return [name for name in (*BROUGHT, *NEEDS) if importlib.util.find_spec(name) is None]


def install(folder: Path | None, site: Path) -> None:
    """Install what is missing from the wheels in `folder` into `site`.

    Raises `WheelError`, naming every package that is neither here nor in `folder`.
    """
    wanted = missing()
    absent = [name for name in wanted if folder is None or not list(folder.glob(f"{name}-*.whl"))]
    if absent:
        where = "and no --wheels DIR was given" if folder is None else f"and {folder} has no wheel of it"
        advice = f"`python -m bench.gpu collect DIR` downloads {', '.join(NEEDS)} where there is an index"
        raise WheelError(f"missing: {', '.join(absent)}, {where}; {advice}")
    if wanted:
        _pip(["install", "--no-index", "--no-deps", f"--find-links={folder}", f"--target={site}", *wanted])


def _pip(arguments: list[str]) -> None:
    command = [sys.executable, "-m", "pip", *arguments, "--quiet", "--disable-pip-version-check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PIP_S)
    if done.returncode:
        raise WheelError(done.stderr.strip().splitlines()[-1])
