from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.evictor import Resident, choose, displaceable
from tests.fleet.test_placement import residents


def one(model, mb=4000, *, idle_s=0.0, **rest):
    return Resident(model, {0: mb}, idle_s=idle_s, **rest)


OLD_SMALL = one("embedder", 40, idle_s=900)
OLD = one("old", 4000, idle_s=500)
NEW = one("new", 4000, idle_s=10)
NEW_CHEAP = one("new-cheap", 4000, idle_s=5, priority=50)
LARGE = one("large", 13_000, idle_s=100)


@pytest.mark.parametrize(
    ("strategy", "candidates", "deficit", "victims"),
    [
        ("lru", [OLD, NEW], 1, ["old"]),
        ("lru", [OLD, NEW], 4001, ["old", "new"]),
        ("lru", [OLD, NEW], 8001, None),
        ("lru", [OLD, NEW], 0, []),
        ("lru", [], 1, None),
        ("lru", [OLD, NEW_CHEAP], 1, ["old"]),
        ("priority", [OLD, NEW_CHEAP], 1, ["new-cheap"]),
        ("priority", [OLD, NEW], 1, ["old"]),
        # a 40 MiB embedder is not dropped beside the 13 GiB that are needed anyway
        ("lru", [OLD_SMALL, LARGE], 10_000, ["large"]),
        ("lru", [OLD_SMALL, OLD, LARGE], 4000, ["old"]),
        ("lru", [OLD_SMALL, OLD, LARGE], 4010, ["embedder", "old"]),
    ],
)
def test_the_cheapest_victims_are_chosen(strategy, candidates, deficit, victims):
    for order in (candidates, candidates[::-1]):
        chosen = choose(order, {0: deficit}, strategy)
        assert (chosen if chosen is None else [victim.model for victim in chosen]) == victims


@pytest.mark.parametrize(
    ("candidate", "priority", "may"),
    [
        (one("a"), 100, True),
        (one("a"), 99, False),
        (one("a", priority=1000), 1000, True),
        (one("a", pinned=True), 9999, False),
        (one("a", busy=True), 9999, False),
        (one("a", resident_s=59, min_residency_s=60), 9999, False),
        (one("a", resident_s=60, min_residency_s=60), 100, True),
    ],
)
def test_residents_that_may_be_displaced(candidate, priority, may):
    assert bool(displaceable([candidate], priority)) is may


@given(
    st.lists(residents, max_size=7, unique_by=lambda resident: resident.model),
    st.dictionaries(st.integers(0, 3), st.integers(0, 40_000), min_size=1),
    st.sampled_from(["lru", "priority"]),
)
def test_a_choice_is_enough_and_none_of_it_superfluous(candidates, deficits, strategy):
    def enough(victims):
        return all(
            sum(victim.memory_mb.get(index, 0) for victim in victims) >= deficit
            for index, deficit in deficits.items()
        )

    chosen = choose(candidates, deficits, strategy)
    if chosen is None:
        assert not enough(candidates)
        return
    assert enough(chosen)
    for victim in chosen:
        assert not enough([other for other in chosen if other is not victim])
