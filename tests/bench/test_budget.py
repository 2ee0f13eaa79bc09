"""A budget shortens what it has no time for and says so."""

from __future__ import annotations

from bench.budget import Budget


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_rounds_end_when_another_one_as_long_as_the_longest_would_not_fit():
    clock = Clock()
    budget = Budget(10.0, clock=clock)
    for number in budget.rounds(5, "streams"):
        clock.now += (1.0, 4.0, 1.0)[number]
    assert budget.left == 4.0
    assert budget.shortened == ["streams: 3 of 5 rounds"]


def test_time_is_kept_for_what_comes_after():
    clock = Clock()
    budget = Budget(10.0, clock=clock)
    for _ in budget.rounds(5, "streams", reserve_s=6.0):
        clock.now += 2.0
    assert budget.left == 8.0


def test_the_first_round_always_runs_and_the_last_leaves_no_note():
    clock = Clock()
    spent = Budget(0.0, clock=clock)
    assert list(spent.rounds(1, "streams")) == [0]
    assert spent.shortened == []
    assert list(Budget(clock=clock).rounds(3, "streams")) == [0, 1, 2]


def test_what_does_not_fit_is_left_out_by_name():
    budget = Budget(10.0, clock=Clock())
    assert budget.allows("short", 9.0)
    assert not budget.allows("long", 11.0)
    assert budget.shortened == ["long: left out"]


def test_a_slice_ends_with_its_whole_and_shares_its_notes():
    clock = Clock()
    whole = Budget(10.0, clock=clock)
    clock.now += 7.0
    assert whole.slice(2.0).left == 2.0
    assert whole.slice(5.0).left == 3.0
    assert whole.share(0.1).left == 1.0
    assert not whole.slice(5.0).allows("late", 4.0)
    assert whole.shortened == ["late: left out"]
    assert Budget(clock=clock).share(0.1).left == float("inf")
