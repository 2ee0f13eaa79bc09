from __future__ import annotations

import pytest
from acp_testing import clients


@pytest.fixture(scope="session", autouse=True)
def npm_clients() -> None:
    clients.npm_install()
