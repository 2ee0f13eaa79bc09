from __future__ import annotations

import os
from pathlib import Path

import pytest
from acp_testing import clients


@pytest.fixture(scope="session", autouse=True)
def npm_clients() -> None:
    clients.npm_install()


@pytest.fixture
def live_env(tmp_path: Path) -> dict[str, str]:
    """The environment of an agent whose one endpoint is the live one."""
    base_url = os.environ.get("HELEXA_ACP_TEST_BASE_URL")
    assert base_url, "set HELEXA_ACP_TEST_BASE_URL to the endpoint to test against"
    env = {"HOME": str(tmp_path), "PATH": os.environ["PATH"], "HELEXA_ACP_BASE_URL": base_url}
    env["HELEXA_ACP_TOOLS"] = "read,write,edit,list,search,shell,fetch,plan"  # few, as for any small model
    for name in ("MODEL", "API_KEY"):
        if value := os.environ.get(f"HELEXA_ACP_TEST_{name}"):
            env[f"HELEXA_ACP_{name}"] = value
    return env


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "project"
    path.mkdir()
    return path
