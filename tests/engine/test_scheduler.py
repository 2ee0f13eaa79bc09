from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from neuron.engine.request import uniform
from neuron.engine.scheduler import Event, Scheduler
from neuron.engine.scheduler_limits import SchedulerLimits
from neuron.pipe import Finished, Refused, Sampling, Submit, Tokens
from neuron.step import CacheShape, PromptImage, StepPlan
from tests.engine.fake_device import VOCAB, FakeDevice, continuation

SHAPE = CacheShape(num_pages=32, page_size=4, num_slots=8, context=100)


class Bench:
    """A scheduler on a fake device, and what each request received."""

    def __init__(self, shape: CacheShape = SHAPE, **limits: Any) -> None:
        self.scheduler = Scheduler(
            "m",
            shape,
            vocab_size=VOCAB,
            limits=SchedulerLimits(**{"max_running": 8, "step_tokens": 16} | limits),
            has_states=bool(shape.num_snapshots),
        )
        self.device = FakeDevice(shape)
        self.tokens: dict[int, list[int]] = defaultdict(list)
        self.ends: dict[int, Finished | Refused] = {}
        self.plans: list[StepPlan] = []
        self.now = 0.0
        self.seconds: Callable[[StepPlan], float] = lambda plan: 0.5

    def submit(self, number: int, prompt: list[int], max_tokens: int = 10, **options: Any) -> Refused | None:
        request = Submit(
            number, "m", prompt, max_tokens, **{"sampling": Sampling(), "stop_ids": []} | options
        )
        return self.scheduler.submit(request, self.now)

    def step(self) -> bool:
        plan = self.scheduler.plan()
        if plan is None:
            return False
        self.plans.append(plan)
        self.take(self.scheduler.apply(plan, self.device.run(plan), self.seconds(plan)))
        self.scheduler.check()
        return True

    def take(self, events: list[Event] | list[Refused]) -> None:
        for event in events:
            assert event.id not in self.ends
            if isinstance(event, Tokens):
                self.tokens[event.id] += event.tokens
            else:
                self.ends[event.id] = event

    def drain(self) -> None:
        while self.step():
            pass
        assert not self.scheduler.has_work


def prompt(seed: int, length: int) -> list[int]:
    return [(seed * 31 + i * 7) % VOCAB for i in range(length)]


def test_requests_of_all_lengths_get_their_texts():
    bench = Bench()
    for number, length in enumerate((1, 3, 4, 5, 17, 40)):
        assert bench.submit(number, prompt(number, length), 9) is None
    bench.drain()
    for number, length in enumerate((1, 3, 4, 5, 17, 40)):
        assert bench.tokens[number] == continuation(prompt(number, length), 9)
        assert bench.ends[number] == Finished(number, "length", length, 9, 0)


def test_a_step_never_runs_more_tokens_than_its_budget_and_streams_keep_flowing():
    bench = Bench(step_tokens=10)
    bench.submit(1, prompt(1, 4), 20)
    bench.step()
    bench.submit(2, prompt(2, 60), 3)
    before = len(bench.tokens[1])
    for _ in range(6):
        bench.step()
    assert len(bench.tokens[1]) == before + 6
    assert max(plan.num_tokens for plan in bench.plans) == 10


def test_a_long_prompt_stretches_steps_by_max_step_stretch_at_most():
    bench = Bench(CacheShape(600, 4, 8, 2400), step_tokens=1000, max_step_stretch=3.0)
    bench.seconds = lambda plan: 0.02 + 0.001 * plan.num_tokens
    bench.submit(1, prompt(1, 200), 300)
    for _ in range(20):
        bench.step()
    bench.submit(2, prompt(2, 2000), 3)
    while not bench.tokens[2]:
        bench.step()
    mixed = [plan for plan in bench.plans[20:] if plan.num_tokens > 1]
    gaps = [bench.seconds(plan) / 0.021 for plan in mixed]
    assert max(gaps) < 3.2
    assert gaps[-2] > 2.5
    assert len(mixed) < 70
    assert {plan.num_tokens % 16 for plan in mixed[:-1]} == {1}, "few sizes, that come again"


def test_pieces_of_a_prompt_become_smaller_where_each_of_its_tokens_takes_longer():
    def seconds(plan: StepPlan) -> float:
        prompts = [chunk for chunk in plan.chunks if len(chunk.tokens) > 1]
        tokens_s = sum(len(chunk.tokens) * (0.0003 + chunk.start * 7.5e-7) for chunk in prompts)
        return 0.01 + (0.006 + tokens_s if prompts else 0.0)

    bench = Bench(CacheShape(600, 4, 8, 2400), step_tokens=512)
    bench.seconds = seconds
    bench.submit(1, prompt(1, 64), 300)
    for _ in range(30):
        bench.step()
    bench.submit(2, prompt(2, 2000), 3)
    while not bench.tokens[2]:
        bench.step()
    pieces = [plan.num_tokens - 1 for plan in bench.plans[30:] if plan.num_tokens > 1]
    assert pieces == sorted(pieces, reverse=True)
    assert {*pieces} == {16, 8}
    assert max(map(seconds, bench.plans[30:])) < 0.04, "16 tokens would take 0.045 at the end"


def test_the_last_few_tokens_of_a_prompt_go_along():
    shape = CacheShape(num_pages=200, page_size=16, num_slots=16, context=200)
    for snapshots in (0, 16):
        bench = Bench(replace(shape, num_snapshots=snapshots), step_tokens=512, max_running=16)
        for number in range(16):
            bench.submit(number, prompt(number, 64))
        bench.step()
        bench.step()
        assert [plan.num_tokens for plan in bench.plans] == [512, 8 + 8 * 64]
        assert all(bench.tokens[number] for number in range(16))
    assert bench.scheduler.limits.max_step_tokens == 528
    bench = Bench(shape, step_tokens=64)
    bench.submit(1, prompt(1, 67))
    bench.submit(2, prompt(2, 60))
    bench.step()
    assert bench.plans[0].num_tokens == 64, "three are not few"


def test_a_running_prompt_goes_on_before_a_newer_one_is_admitted():
    bench = Bench(step_tokens=10)
    bench.submit(1, prompt(1, 25), 5)
    bench.submit(2, prompt(2, 2), 5)
    bench.step()
    assert [len(chunk.tokens) for chunk in bench.plans[0].chunks] == [10]
    assert len(bench.plans[0].joined) == 1


def test_a_stop_id_ends_the_answer_and_is_not_reported():
    text = continuation(prompt(1, 5), 8)
    bench = Bench()
    bench.submit(1, prompt(1, 5), 8, stop_ids=[text[3]])
    bench.drain()
    expected = continuation(prompt(1, 5), 8, frozenset({text[3]}))
    assert bench.tokens[1] == expected
    assert bench.ends[1] == Finished(1, "stop", 5, len(expected) + 1, 0, text[3])


def test_stop_ids_are_banned_until_min_tokens():
    bench = Bench()
    bench.submit(1, prompt(1, 5), 8, stop_ids=[VOCAB - 1], min_tokens=2)
    bench.drain()
    banned = [chunk.draw.banned for plan in bench.plans for chunk in plan.chunks if chunk.draw]
    assert banned[:3] == [(VOCAB - 1,), (VOCAB - 1,), ()]


def test_max_tokens_is_clipped_to_the_context():
    bench = Bench()
    bench.submit(1, prompt(1, 90), 1000)
    bench.drain()
    assert bench.ends[1] == Finished(1, "length", 90, 10, 0)


@pytest.mark.parametrize("length", [100, 101, 5000])
def test_a_prompt_past_the_context_is_refused_with_the_numbers(length: int):
    bench = Bench()
    refused = bench.submit(1, prompt(1, length))
    assert refused is not None
    assert (refused.status, refused.code) == (400, "context_length_exceeded")
    assert "maximum context length is 100 tokens" in refused.message
    assert f"your prompt has {length} tokens" in refused.message
    assert not bench.scheduler.has_work


@pytest.mark.parametrize(
    ("tokens", "options", "field"),
    [
        ([], {}, ""),
        ([1], {"max_tokens": -1}, ""),
        ([1, VOCAB], {}, "tokens"),
        ([-1], {}, "tokens"),
        ([1], {"stop_ids": [VOCAB]}, "stop_ids"),
        ([1], {"sampling": Sampling(logit_bias=((VOCAB, 1.0),))}, "logit_bias"),
    ],
)
def test_an_invalid_request_is_refused(tokens: list[int], options: dict[str, Any], field: str):
    refused = Bench().submit(1, tokens, **options)
    assert refused is not None
    assert (refused.status, refused.code, refused.field) == (400, "invalid_request", field)


@pytest.mark.parametrize("length", [1, 25])
def test_a_request_for_no_tokens_computes_its_prompt(length: int):
    bench = Bench(step_tokens=10)
    bench.submit(1, prompt(1, length), 0)
    bench.submit(2, prompt(1, length), 2)
    bench.drain()
    assert bench.ends[1] == Finished(1, "length", length, 0, 0)
    assert 1 not in bench.tokens
    assert len(bench.tokens[2]) == 2


def test_a_full_queue_refuses_and_says_when_to_retry():
    bench = Bench(max_running=2, max_waiting=2)
    for number in range(2):
        bench.submit(number, prompt(number, 4), 4)
    bench.step()
    for number in range(2, 4):
        assert bench.submit(number, prompt(number, 4), 4) is None
    refused = bench.submit(4, prompt(4, 4), 4)
    assert refused is not None
    assert (refused.status, refused.code, refused.retry_after_s) == (429, "queue_full", 1)
    bench.drain()
    per_request_s = len(bench.plans) * 0.5 / 4
    for number in range(5, 7):
        bench.submit(number, prompt(number, 4), 4)
    refused = bench.submit(7, prompt(7, 4), 4)
    assert refused is not None
    assert refused.retry_after_s == pytest.approx(3 * per_request_s, abs=1.5)
    status = bench.scheduler.status()
    assert (status.rejected, status.timed_out) == (2, 0)


def test_a_request_that_waited_too_long_is_refused():
    bench = Bench(max_running=1, max_wait_s=5)
    bench.submit(1, prompt(1, 4), 40)
    bench.step()
    bench.submit(2, prompt(2, 4))
    bench.take(bench.scheduler.expire(now=4.0))
    assert not bench.ends
    bench.take(bench.scheduler.expire(now=6.0))
    status = bench.scheduler.status()
    assert (status.rejected, status.timed_out) == (1, 1)
    assert (bench.ends[2].status, bench.ends[2].code) == (503, "queue_timeout")  # type: ignore[union-attr]
    bench.drain()
    assert isinstance(bench.ends[1], Finished)


def test_a_second_turn_finds_the_first_in_the_cache():
    bench = Bench()
    first = prompt(1, 18)
    bench.submit(1, first, 6)
    bench.drain()
    second = [*first, *bench.tokens[1], *prompt(2, 5)]
    bench.submit(2, second, 6)
    bench.drain()
    # 18 + 6 tokens, the last one sampled but never run: 5 full pages of 4.
    assert bench.ends[2].cached_tokens == 20  # type: ignore[union-attr]
    assert bench.tokens[2] == continuation(second, 6)


def test_a_prompt_that_is_all_cached_still_runs_its_last_token():
    bench = Bench()
    for number in (1, 2):
        bench.submit(number, prompt(1, 16), 3)
        bench.drain()
    assert bench.ends[2].cached_tokens == 12  # type: ignore[union-attr]
    assert bench.tokens[2] == bench.tokens[1]


def test_preemption_takes_the_newest_and_changes_no_text():
    shape = CacheShape(num_pages=10, page_size=4, num_slots=4, context=40)
    bench = Bench(shape, max_running=4)
    for number in range(4):
        bench.submit(number, prompt(number, 6), 20)
    ended: list[int] = []
    while bench.step():
        ended += [number for number in bench.ends if number not in ended]
    assert sum(len(plan.joined) for plan in bench.plans) > 4  # some joined again
    assert ended == [0, 1, 2, 3]
    for number in range(4):
        assert bench.tokens[number] == continuation(prompt(number, 6), 20)
        assert bench.ends[number].cached_tokens == 0  # type: ignore[union-attr]


@pytest.mark.parametrize("steps", [0, 1, 2, 5], ids=["waiting", "prefill", "prefill 2", "decode"])
def test_cancel_frees_slot_and_pages_in_every_phase(steps: int):
    bench = Bench(step_tokens=10, max_running=2)
    bench.submit(1, prompt(1, 24), 50)
    for _ in range(steps):
        bench.step()
    finished = bench.scheduler.cancel(1)
    assert finished == Finished(1, "cancelled", 24, len(bench.tokens[1]), 0)
    assert bench.scheduler.pages.num_available == SHAPE.num_pages
    assert bench.scheduler.cancel(1) is None
    assert bench.scheduler.plan() is None


def test_a_failed_step_ends_who_joined_in_it_though_nothing_of_them_ran():
    bench = Bench()
    for number in (1, 2):
        shown = Submit(number, "m", prompt(number, 8), 2, Sampling(), [])
        bench.scheduler.submit(shown, 0.0, images=[PromptImage((1, 2), bytes([number]))])
    plan = bench.scheduler.plan()
    assert plan is not None
    assert (len(plan.joined), plan.chunks) == (2, ())
    bench.take(bench.scheduler.fail(plan, "broke"))
    assert bench.ends.keys() == {1, 2}


def test_a_failed_step_ends_its_own_requests_only():
    bench = Bench(max_running=1)
    bench.submit(1, prompt(1, 4), 5)
    bench.submit(2, prompt(2, 4), 5)
    bench.step()
    plan = bench.scheduler.plan()
    assert plan is not None
    bench.take(bench.scheduler.fail(plan, "broke"))
    assert bench.ends == {1: Refused(1, 500, "engine_error", "broke")}
    bench.drain()
    assert bench.tokens[2] == continuation(prompt(2, 4), 5)


def test_end_all_refuses_every_request():
    bench = Bench(max_running=1)
    for number in range(3):
        bench.submit(number, prompt(number, 4), 5)
    bench.step()
    bench.take(bench.scheduler.end_all("model_unloaded", "gone", 5))
    assert {(end.code, end.retry_after_s) for end in bench.ends.values()} == {("model_unloaded", 5)}  # type: ignore[union-attr]
    assert len(bench.ends) == 3
    assert not bench.scheduler.has_work


def test_status_counts_requests_pages_and_throughput():
    bench = Bench(max_running=1)
    for number in range(3):
        bench.submit(number, prompt(number, 9), 5)
    for _ in range(3):
        bench.step()
    status = bench.scheduler.status()
    assert (status.running, status.waiting, status.max_running) == (1, 2, 1)
    assert (status.kv_pages_total, status.kv_pages_free) == (32, 29)
    assert status.tok_s_prefill == 18.0
    assert status.tok_s_decode == 2.0


def test_limits_that_cannot_work_are_refused():
    with pytest.raises(ValueError, match="step_tokens"):
        SchedulerLimits(max_running=16, step_tokens=16)


def test_uniform_is_uniform_and_depends_on_seed_and_index_alone():
    numbers = [uniform(seed, index) for seed in range(40) for index in range(50)]
    assert all(0 <= number < 1 for number in numbers)
    assert len(set(numbers)) == len(numbers)
    tenths = [sum(i / 10 <= number < (i + 1) / 10 for number in numbers) for i in range(10)]
    assert min(tenths) > 150
    assert uniform(3, 4) == uniform(3, 4)
    assert uniform(-1, 0) != uniform(1, 0)
