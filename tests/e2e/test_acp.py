"""helexa-acp with cortex as its endpoint and helexa-tiny as its model: its own live tests, run against us."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.conftest import TINY, clean_environment

pytestmark = pytest.mark.e2e

ACP = Path(__file__).parents[2] / "acp"


def test_the_agents_live_tests_pass_through_the_gateway(stack):
    env = clean_environment() | {
        "HELEXA_ACP_TEST_BASE_URL": f"{stack.api}/v1",
        "HELEXA_ACP_TEST_MODEL": TINY,
    }
    told = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "tests_live"],
        cwd=ACP,
        env=env,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert told.returncode == 0, told.stdout[-4000:]
    assert "skipped" not in told.stdout
