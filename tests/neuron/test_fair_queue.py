from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuron.fair_queue import FairQueue

PRINCIPALS = st.sampled_from("abc")
STEPS = st.lists(st.one_of(PRINCIPALS, st.just("pop"), st.tuples(st.just("discard"), st.integers(0, 30))))


def test_principals_take_turns_and_keep_their_order():
    queue: FairQueue[str] = FairQueue(10)
    for item in ("a1", "a2", "a3", "b1", "c1", "b2"):
        assert queue.push(item[0], item) is None
    assert [queue.pop() for _ in range(6)] == ["a1", "b1", "c1", "a2", "b2", "a3"]
    with pytest.raises(IndexError):
        queue.pop()


def test_a_full_queue_drops_the_newest_of_who_has_most():
    queue: FairQueue[str] = FairQueue(3)
    for item in ("a1", "a2", "a3"):
        queue.push("a", item)
    assert queue.push("a", "a4") == "a4"
    assert queue.push("b", "b1") == "a3"
    assert queue.push("b", "b2") == "b2"  # both would have as many, so who came first stays
    assert queue.push("c", "c1") == "a2"
    assert [queue.pop() for _ in range(3)] == ["a1", "b1", "c1"]


@given(STEPS, st.integers(1, 5))
def test_it_is_bounded_and_loses_and_doubles_nothing(steps, limit):
    queue: FairQueue[tuple[str, int]] = FairQueue(limit)
    inside: list[tuple[str, int]] = []
    for number, step in enumerate(steps):
        match step:
            case "pop":
                if inside:
                    taken = queue.pop()
                    assert taken == next(item for item in inside if item[0] == taken[0])
                    inside.remove(taken)
            case ("discard", index):
                for item in inside[index : index + 1]:
                    queue.discard(item[0], item)
                    inside.remove(item)
                queue.discard("a", ("a", -1))  # it was never there
            case principal:
                item = (principal, number)
                inside.append(item)
                if dropped := queue.push(principal, item):
                    inside.remove(dropped)
        assert len(queue) == len(inside) <= limit
    assert sorted(queue.pop() for _ in range(len(queue))) == sorted(inside)
