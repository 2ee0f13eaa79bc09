"""A part of what FAMILIES.md lists, held to it. `python -m bench.families` runs all of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers

from bench.families.catalogue import PICKED, Case, every_case, picked
from bench.families.check import check
from neuron import models

LISTED = Path(models.__path__[0], "FAMILIES.md").read_text()


def listed() -> dict[tuple[str, str], tuple[str, str]]:
    """Result and detail by kind and architecture."""
    rows: dict[tuple[str, str], tuple[str, str]] = {}
    for section in LISTED.split("\n## ")[1:]:
        kind, _, table = section.partition("\n")
        for line in table.splitlines():
            if line.startswith("| ") and not line.startswith(("| ---", "| architecture")):
                label, result, detail = (cell.strip() for cell in line.strip("|").split("|"))
                rows[kind.lower(), label] = result, detail
    return rows


@pytest.fixture(autouse=True)
def quiet_and_single() -> None:
    torch.set_num_threads(1)
    transformers.logging.set_verbosity(transformers.logging.CRITICAL)


@pytest.mark.filterwarnings("ignore")  # of transformers, for sizes that are not those of published models
@pytest.mark.parametrize("case", picked(PICKED), ids=lambda case: f"{case.kind}: {case.label}")
def test_an_architecture_does_what_the_list_says(case: Case):
    verdict = check(case)
    assert verdict.result in {"equal", "refused"}, verdict
    if f"transformers {transformers.__version__}:" in LISTED:
        assert listed()[case.kind, case.label] == (verdict.result, verdict.detail)


def test_the_list_has_every_architecture_and_none_that_differs_or_crashes():
    rows = listed()
    if f"transformers {transformers.__version__}:" in LISTED:
        assert {(case.kind, case.label) for case in every_case()} == rows.keys()
    bad = [label for (_, label), (result, _) in rows.items() if result in {"differs", "crashed", "timed out"}]
    assert bad == []
