"""The order of admission when not all can run: fair shares of principals, and priorities."""

from __future__ import annotations

from typing import Any

import pytest

from neuron.pipe import Finished, Refused
from tests.engine.fake_device import continuation
from tests.engine.test_scheduler import Bench, prompt


def flood(bench: Bench, principal: str, numbers: range, **options: Any) -> None:
    for number in numbers:
        assert bench.submit(number, prompt(number, 4), 4, principal=principal, **options) is None


def test_a_flood_of_one_principal_does_not_delay_another():
    bench = Bench(max_running=1)
    flood(bench, "loud", range(10))
    bench.step()
    flood(bench, "quiet", range(10, 12))
    bench.drain()
    assert list(bench.ends)[:5] == [0, 10, 1, 11, 2]


def test_long_answers_count_for_more_than_many_requests():
    bench = Bench(max_running=1, max_waiting=20)
    bench.submit(0, prompt(0, 4), 1, principal="other")
    for number in range(1, 4):
        bench.submit(number, prompt(number, 4), 30, principal="long")
    for number in range(11, 20):
        bench.submit(number, prompt(number, 4), 2, principal="short")
    bench.drain()
    ended = list(bench.ends)
    assert ended.index(15) < ended.index(2)  # 64 tokens' worth of one against 8 each of the others


def test_an_idle_principal_saves_nothing_up():
    bench = Bench(max_running=1, max_waiting=40)
    flood(bench, "busy", range(20))
    for _ in range(40):
        bench.step()
    flood(bench, "late", range(20, 30))
    done = len(bench.ends)
    for _ in range(60):
        bench.step()
    served = [number >= 20 for number in list(bench.ends)[done:]]
    assert abs(sum(served) - len(served) / 2) <= 1.5


def test_one_principals_requests_are_served_in_order():
    bench = Bench(max_running=1)
    flood(bench, "", range(6))
    bench.drain()
    assert list(bench.ends) == list(range(6))


def test_a_higher_priority_goes_first_and_preempts_a_lower_one():
    bench = Bench(max_running=1)
    bench.submit(1, prompt(1, 6), 30)
    for _ in range(5):
        bench.step()
    assert 0 < len(bench.tokens[1]) < 30
    bench.submit(2, prompt(2, 6), 3, priority=1)
    bench.drain()
    assert list(bench.ends) == [2, 1]
    assert bench.tokens[1] == continuation(prompt(1, 6), 30)  # the preemption changes nothing
    assert bench.tokens[2] == continuation(prompt(2, 6), 3)


def test_an_equal_priority_preempts_nobody():
    bench = Bench(max_running=1)
    bench.submit(1, prompt(1, 6), 30, priority=1)
    bench.step()
    bench.submit(2, prompt(2, 6), 3, priority=1)
    bench.drain()
    assert list(bench.ends) == [1, 2]


def test_the_newest_request_of_the_lowest_priority_is_preempted():
    bench = Bench(max_running=4)
    for number, priority in ((1, 0), (2, 1), (3, 0), (4, 1)):
        bench.submit(number, prompt(number, 28), 60, priority=priority)
    bench.drain()
    ended = [number for number, end in bench.ends.items() if isinstance(end, Finished)]
    assert set(ended[:2]) == {2, 4}
    assert ended[2:] == [1, 3]


@pytest.mark.parametrize(("principal", "priority"), [("quiet", 0), ("loud", 1)])
def test_a_full_queue_sheds_a_request_of_the_principal_that_crowds_it(principal: str, priority: int):
    bench = Bench(max_running=1, max_waiting=3)
    bench.submit(0, prompt(0, 4), 4, principal="loud")
    bench.step()
    flood(bench, "loud", range(1, 4))
    refused = bench.submit(9, prompt(9, 4), 4, principal=principal, priority=priority)
    assert isinstance(refused, Refused)
    assert (refused.id, refused.status, refused.code) == (3, 429, "queue_full")
    assert refused.retry_after_s is not None
    bench.drain()
    assert set(bench.ends) == {0, 1, 2, 9}


def test_a_full_queue_refuses_the_principal_that_crowds_it():
    bench = Bench(max_running=1, max_waiting=4)
    bench.submit(0, prompt(0, 4), 4, principal="a")
    bench.step()
    flood(bench, "a", range(1, 3))
    flood(bench, "b", range(3, 5))
    for principal, priority in (("a", 0), ("b", 0), ("b", -1)):
        refused = bench.submit(9, prompt(9, 4), 4, principal=principal, priority=priority)
        assert refused is not None
        assert refused.id == 9


def test_a_preempted_request_is_never_shed():
    bench = Bench(max_running=1, max_waiting=1)
    bench.submit(1, prompt(1, 6), 30)
    for _ in range(3):
        bench.step()
    bench.submit(2, prompt(2, 6), 3, priority=1)
    bench.step()
    refused = bench.submit(3, prompt(3, 6), 3, priority=1)
    assert refused is not None
    assert refused.id == 3
    bench.drain()
    assert bench.tokens[1] == continuation(prompt(1, 6), 30)
