from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fleet.servers import postgres


@pytest.fixture(scope="session")
def postgres_url(tmp_path_factory) -> Iterator[str]:
    with postgres(tmp_path_factory.mktemp("pg")) as url:
        yield url
