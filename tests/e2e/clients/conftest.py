from __future__ import annotations

import pytest

from fleet.snapshot import NodeConfig, ProfileView
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
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "notes.txt").write_text("colour = red\n")
    return folder
