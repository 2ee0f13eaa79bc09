"""docs/errors.md has an entry for every code that the product can answer with, and for no other."""

from __future__ import annotations

import re

from tests.architecture.tree import ROOT
from tests.docs.error_codes import found

ENTRY = re.compile(r"^\| `(\w+)` \|", re.MULTILINE)


def test_every_code_has_its_entry():
    entries = ENTRY.findall((ROOT / "docs/errors.md").read_text())
    assert len(entries) == len(set(entries))
    codes = found()
    missing = {code: sorted(homes) for code, homes in codes.items() if code not in entries}
    assert not missing
    assert set(entries) <= codes.keys()


def test_codes_are_found_in_each_place_that_has_them():
    codes = found()
    for code, home in {
        "model_not_allowed": "fleet.gateway.limits.keys",  # ApiError(403, CODE, …)
        "no_capacity": "fleet.services.operations.choosing",  # a table's value, chosen with `get`
        "method_not_allowed": "fleet.gateway.app",  # a table of statuses
        "queue_timeout": "neuron.engine.scheduler",  # Refused(id, status, CODE, …)
        "batch_expired": "fleet.services.batch_runs",  # {"code": CODE}
    }.items():
        assert home in codes[code]
