from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest
from acp_testing import clients
from acp_testing.process import AgentProcess
from hypothesis import settings

settings.register_profile("no-deadline", deadline=None)  # other tests run at the same time
settings.load_profile("no-deadline")


@pytest.fixture(scope="session", autouse=True)
def npm_clients() -> None:
    clients.npm_install()


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keep the tests away from the user's own configuration and sessions."""
    for name in list(os.environ):
        if name.startswith(("HELEXA_ACP_", "XDG_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


@pytest.fixture
def project(tmp_path: Path) -> Path:
    path = tmp_path / "project"
    path.mkdir()
    return path


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """The environment of an agent with a home of its own; `script` configures it."""
    home = tmp_path / "home"
    (home / ".config" / "helexa-acp").mkdir(parents=True)
    return {"HOME": str(home), "PATH": os.environ["PATH"], "PYTHONWARNINGS": "error"}


@pytest.fixture
def script(tmp_path: Path, env: dict[str, str]):
    """Write a script, and a configuration whose one endpoint answers from it."""

    def write(text: str, extra: str = "") -> dict[str, str]:
        path = tmp_path / "script.toml"
        path.write_text(text)
        config = Path(env["HOME"]) / ".config" / "helexa-acp" / "config.toml"
        config.write_text(
            f'[[endpoints]]\nname = "script"\nwire_api = "scripted"\nscript = {json.dumps(str(path))}\n'
            f'default_model = "m"\ncontext_window = 100000\n{extra}'
        )
        return env

    return write


@pytest.fixture
def start(env: dict[str, str]):
    return lambda **kwargs: AgentProcess(env, **kwargs)


@pytest.fixture
def dead_port() -> int:
    """A port on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
