"""Prompts whose KV depends on where they end: they run as one chunk, and share pages with their like only."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from neuron.engine.scheduler import Scheduler
from neuron.engine.scheduler_limits import SchedulerLimits
from neuron.pipe import Finished, Refused, Sampling, Submit
from neuron.step import CacheShape, PromptRule, StepPlan
from tests.engine.fake_device import VOCAB, FakeDevice, continuation
from tests.engine.test_scheduler import prompt

SHAPE = CacheShape(num_pages=32, page_size=4, num_slots=8, context=100)
TIGHT = CacheShape(num_pages=26, page_size=4, num_slots=8, context=100)


class Served:
    """Requests of a model with a rule, run to their end."""

    def __init__(self, rule: PromptRule, shape: CacheShape = SHAPE) -> None:
        limits = SchedulerLimits(max_running=8, step_tokens=16)
        self.scheduler = Scheduler("m", shape, vocab_size=VOCAB, limits=limits, prompt_rule=rule)
        self.device = FakeDevice(shape)
        self.plans: list[StepPlan] = []
        self.ends: dict[int, Finished] = {}
        self.texts: dict[int, list[int]] = {}

    def submit(self, number: int, tokens: list[int], max_tokens: int = 10) -> Refused | None:
        self.texts[number] = []
        return self.scheduler.submit(Submit(number, "m", tokens, max_tokens, Sampling(), []), 0.0)

    def drain(self) -> None:
        while plan := self.scheduler.plan():
            self.plans.append(plan)
            for event in self.scheduler.apply(plan, self.device.run(plan), 0.5):
                if isinstance(event, Finished):
                    self.ends[event.id] = event
                else:
                    self.texts[event.id] += event.tokens  # type: ignore[union-attr]
            self.scheduler.check()

    def prompt_chunks(self, length: int) -> list[Sequence[int]]:
        """The chunks that hold a part of a prompt of `length` tokens."""
        return [chunk.tokens for plan in self.plans for chunk in plan.chunks if chunk.start < length]


def test_a_whole_prompt_runs_as_one_chunk_however_long():
    served = Served(PromptRule.WHOLE)
    served.submit(0, prompt(0, 60))
    served.drain()
    assert served.prompt_chunks(60) == [tuple(prompt(0, 60))]
    assert served.texts[0] == continuation(prompt(0, 60), 10)


def test_beside_streams_whole_prompts_run_one_after_another():
    served = Served(PromptRule.WHOLE)
    for number in range(3):
        served.submit(number, prompt(number, 25))
    served.drain()
    assert [len(plan.chunks[-1].tokens) for plan in served.plans[:3]] == [25, 25, 25]
    assert served.texts == {number: continuation(prompt(number, 25), 10) for number in range(3)}


def test_a_kept_prompt_is_cut_as_any_other():
    served = Served(PromptRule.KEPT)
    served.submit(0, prompt(0, 40))
    served.drain()
    assert [len(tokens) for tokens in served.prompt_chunks(40)] == [16, 16, 8]


@pytest.mark.parametrize("rule", PromptRule)
def test_only_the_same_prompt_shares_pages(rule: PromptRule):
    served = Served(rule)
    tokens = prompt(0, 30)
    for number, again in enumerate((tokens, tokens, [*tokens, 1, 2], tokens[:20])):
        served.submit(number, again)
        served.drain()
    assert [served.ends[number].cached_tokens for number in range(4)] == [0, 28, 0, 0]


@pytest.mark.parametrize("rule", PromptRule)
def test_a_preempted_request_reads_its_prompt_as_a_whole_again(rule: PromptRule):
    served = Served(rule, TIGHT)
    prompts = {number: prompt(number, 21) for number in range(4)}
    for number, tokens in prompts.items():
        served.submit(number, tokens, 40)
    served.drain()
    assert sum(len(plan.joined) for plan in served.plans) > len(prompts)
    assert served.texts == {number: continuation(tokens, 40) for number, tokens in prompts.items()}
    if rule is PromptRule.WHOLE:
        ends = {chunk.end for plan in served.plans for chunk in plan.chunks if chunk.start < 21}
        assert min(ends) >= 21


def test_a_prompt_that_sees_itself_has_no_logprobs():
    scheduler = Served(PromptRule.WHOLE).scheduler
    refused = scheduler.submit(Submit(0, "m", prompt(0, 5), 1, Sampling(), [], score_prompt=True), 0.0)
    assert refused is not None
    assert (refused.status, refused.field) == (400, "echo")
