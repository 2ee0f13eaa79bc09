"""How several workers divide the tests of this folder: `pytest -n 3 tests/e2e`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

FOLDER = Path(__file__).parent
# The longest first, so that no worker is left with one at the end.
ORDER = (
    "test_chaos",
    "test_clients",
    "test_javascript_clients",
    "test_http_clients",
    "test_playground_page",
    "test_admin_pages",
    "test_acp",
    "test_answers",
    "test_cancel",
    "test_lifecycle",
    "test_operator",
    "test_readme",
    "test_sdks",
    "test_command",
    "test_ha",
    "test_serve",
    "test_stop",
)
# Tests that share what they started, and therefore a worker. The others go wherever there is time.
TOGETHER = {
    **dict.fromkeys(
        (
            "test_acp",
            "test_answers",
            "test_cancel",
            "test_lifecycle",
            "test_operator",
            "test_readme",
            "test_sdks",
        ),
        "stack",
    ),
    **dict.fromkeys(
        (
            "test_clients",
            "test_http_clients",
            "test_javascript_clients",
            "test_other_clients",
            "test_playground_page",
            "test_admin_pages",
        ),
        "clients",
    ),
    "test_ha": "ha",
    "test_serve": "serve",
}


class Scheduling(LoadScopeScheduling):
    def _split_scope(self, nodeid: str) -> str:
        """The tests of one scope run in one worker."""
        return TOGETHER.get(Path(nodeid.partition("::")[0]).stem, nodeid)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Scheduling:
    config.option.loadscopereorder = False  # the order is ours
    return Scheduling(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    ours = [index for index, item in enumerate(items) if FOLDER in item.path.parents]
    for index, item in zip(ours, sorted((items[index] for index in ours), key=_place), strict=True):
        items[index] = item


def _place(item: pytest.Item) -> int:
    return ORDER.index(item.path.stem) if item.path.stem in ORDER else len(ORDER)
