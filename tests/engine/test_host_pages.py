"""Pages that leave the device for host memory, and return to requests that share them."""

from __future__ import annotations

from neuron.engine.host_pages import HostPages
from neuron.pipe import Finished
from neuron.step import CacheShape
from tests.engine.fake_device import continuation
from tests.engine.test_scheduler import Bench, prompt

# A page holds 4 tokens, so that one session of 40 takes 10 of 12 pages.
SHAPE = CacheShape(num_pages=12, page_size=4, num_slots=8, context=48, num_host_pages=20)


def bench_with(num_host_pages: int = 20) -> Bench:
    shape = CacheShape(12, 4, 8, 48, num_host_pages=num_host_pages)
    return Bench(shape, step_tokens=64)


def answer(bench: Bench, number: int, text: list[int]) -> int:
    """Run a request, and return how many of its tokens were cached."""
    assert bench.submit(number, text, 2) is None
    bench.drain()
    assert bench.tokens[number] == continuation(text, 2)
    end = bench.ends[number]
    assert isinstance(end, Finished)
    return end.cached_tokens


def test_a_session_that_left_the_device_comes_back_without_being_computed():
    bench = bench_with()
    session = prompt(1, 40)
    assert answer(bench, 1, session) == 0
    assert answer(bench, 2, prompt(2, 40)) == 0
    computed = sum(plan.num_tokens for plan in bench.plans)
    assert answer(bench, 3, session) == 36  # all but the last page, whose last token always runs
    assert sum(plan.num_tokens for plan in bench.plans) - computed < 8


def test_without_host_memory_it_is_computed_again():
    bench = bench_with(0)
    session = prompt(1, 40)
    for number, text in enumerate((session, prompt(2, 40))):
        answer(bench, number, text)
    assert answer(bench, 3, session) < 12


def test_sessions_take_turns_and_the_longest_unused_goes():
    bench = bench_with(20)
    texts = [prompt(seed, 40) for seed in range(4)]
    for number in range(12):
        answer(bench, number, texts[number % 2])
    assert answer(bench, 20, texts[0]) == 36
    for number in (2, 3):
        answer(bench, 30 + number, texts[number])
    assert answer(bench, 40, texts[1]) < 36


def test_what_returned_is_shared_on_the_device_again():
    bench = bench_with()
    session = prompt(1, 40)
    for number, text in enumerate((session, prompt(2, 40), session)):
        answer(bench, number, text)
    moved = sum(len(plan.returning) for plan in bench.plans)
    assert answer(bench, 5, session) == 36
    assert sum(len(plan.returning) for plan in bench.plans) == moved


def test_resetting_the_cache_forgets_host_memory_too():
    bench = bench_with()
    session = prompt(1, 40)
    for number, text in enumerate((session, prompt(2, 40))):
        answer(bench, number, text)
    bench.scheduler.reset_cache()
    assert answer(bench, 3, session) == 0


def test_what_was_leaving_in_a_step_that_failed_is_not_found():
    bench = bench_with()
    session = prompt(1, 40)
    answer(bench, 1, session)
    bench.submit(2, prompt(2, 40), 2)
    plan = bench.scheduler.plan()
    assert plan is not None
    assert plan.leaving
    bench.take(bench.scheduler.fail(plan, "broke"))
    left = 40 - 4 * len(plan.leaving)
    assert answer(bench, 3, session) <= left


def test_a_row_that_is_read_in_a_step_is_not_written_in_it():
    pages = HostPages(1)
    pages.put(0, b"a")
    pages.applied()
    pages.take(b"a", 7)
    pages.put(1, b"b")
    assert pages.moves() == ((), ((0, 7),))
    assert pages.applied() == [(7, b"a")]
    pages.put(1, b"b")
    assert b"a" not in pages
    pages.check()
