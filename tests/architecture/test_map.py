"""ARCHITECTURE.md tells the truth: what it names is there, and its walks are short."""

from __future__ import annotations

import re

import pytest

from tests.architecture.tree import ROOT

MAP = (ROOT / "ARCHITECTURE.md").read_text()
WALKS = re.split(r"^### ", MAP.partition("## Three walks")[2].partition("\n## ")[0], flags=re.MULTILINE)[1:]
PATH = re.compile(r"`((?:[\w.]+/)+[\w.-]*)`")
MAX_MODULES = 25


def test_every_path_on_the_map_is_there():
    documents = ("ARCHITECTURE.md", "CONTRIBUTING.md", "RELEASING.md", "README.md")
    named = {
        (document, path) for document in documents for path in PATH.findall((ROOT / document).read_text())
    }
    missing = {(document, path) for document, path in named if not (ROOT / path).exists()}
    assert not missing


@pytest.mark.parametrize("walk", WALKS, ids=lambda walk: walk.partition("\n")[0])
def test_a_walk_takes_fewer_than_so_many_modules(walk):
    assert 3 <= len(set(re.findall(r"`((?:cortex_site|fleet)/[\w/]+\.py)`", walk))) < MAX_MODULES
