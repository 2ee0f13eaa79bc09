"""Snapshots of states that leave the device for host memory, from where requests begin with them."""

from __future__ import annotations

from neuron.engine.snapshots import Snapshots
from neuron.pipe import Finished
from neuron.step import CacheShape
from tests.engine.fake_device import continuation
from tests.engine.test_scheduler import Bench, prompt

SHAPE = CacheShape(12, 4, 8, 48, num_snapshots=2, num_host_pages=20, num_host_snapshots=4)


def answer(bench: Bench, number: int, text: list[int]) -> int:
    """Run a request, and return how many of its tokens were cached."""
    assert bench.submit(number, text, 2) is None
    bench.drain()
    assert bench.tokens[number] == continuation(text, 2)
    end = bench.ends[number]
    assert isinstance(end, Finished)
    return end.cached_tokens


def test_a_session_with_states_comes_back_without_being_computed():
    bench = Bench(SHAPE, step_tokens=64)
    session = prompt(1, 40)
    for number in range(3):
        assert answer(bench, number, prompt(number + 1, 40)) == 0
    assert answer(bench, 5, session) == 36
    plan = next(plan for plan in bench.plans if plan.returning)
    assert plan.joined[0].snapshot in range(2, 6)


def test_without_host_memory_for_states_pages_do_not_help():
    bench = Bench(CacheShape(12, 4, 8, 48, 2, 20), step_tokens=64)
    for number in range(3):
        answer(bench, number, prompt(number + 1, 40))
    assert answer(bench, 5, prompt(1, 40)) == 0


def test_the_least_recently_used_makes_room_unless_a_request_begins_with_it():
    snapshots = Snapshots(1, 2)
    for name in (b"a", b"b", b"c"):
        row = snapshots.take()
        assert row == 0
        snapshots.applied()
        snapshots.add(name, row)
    count, row = snapshots.find([b"a"])
    assert (count, row in {1, 2}) == (1, True)
    snapshots.begin_with(row)
    assert snapshots.take() == 0  # c leaves, in place of b
    assert snapshots.leaving()[0][1] != row
    assert snapshots.contains(b"a")
    assert not snapshots.contains(b"b")


def test_what_was_leaving_in_a_step_that_failed_is_not_found():
    snapshots = Snapshots(1, 2)
    snapshots.add(b"a", snapshots.take() or 0)
    assert snapshots.take() == 0
    assert snapshots.leaving() == ((0, 1),)
    snapshots.failed()
    snapshots.release(0)
    assert not snapshots.contains(b"a")
    snapshots.check()
