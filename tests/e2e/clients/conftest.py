from __future__ import annotations

import pytest

from fleet.snapshot import NodeConfig, ProfileView
from tests.fleet.conftest import (  # noqa: F401 - the admin's, for its pages in a browser
    client_for,
    database_url,
    db,
    fleet,
    folder,
    migrated,
    redis_server,
    staff,
)
from tests.gateway.conftest import make_house

CONTEXT = 200_000  # what a coding agent says before its user does is longer than small models take


@pytest.fixture
async def house():
    async with make_house() as built:
        node = NodeConfig(built.node.name, built.node.url)
        built.control.change(nodes={node.name: node}, profiles={"m": ProfileView("m", context=CONTEXT)})
        yield built


@pytest.fixture
def project(tmp_path):
    made = tmp_path / "project"
    made.mkdir()
    (made / "notes.txt").write_text("colour = red\n")
    return made
