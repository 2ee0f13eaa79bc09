"""A scheduler and a runner driven as the worker drives them, and how their times are taken."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial

import torch

from bench.budget import Budget
from neuron.device.guessing import GuessingRunner
from neuron.device.model_runner import ModelRunner
from neuron.engine.drafter import DraftSource
from neuron.engine.request import GrammarMatcher, LoadedAdapter
from neuron.engine.scheduler import Scheduler
from neuron.engine.scheduler_limits import SchedulerLimits
from neuron.pipe import Sampling, Submit, Tokens
from neuron.step import PromptImage

MOST_NEW = 900  # tokens of a request that runs until it is not needed any more
PROMPT_VOCAB = 1500  # of prompts: about helexa-tiny's, the smallest vocabulary that is measured
GREEDY = Sampling()


def prompt(seed: int, length: int, vocab: int = PROMPT_VOCAB) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, vocab, (length,), generator=generator).tolist()


class Engine:
    """A scheduler and its runner, with the time of every step and of every token."""

    def __init__(
        self,
        runner: ModelRunner | GuessingRunner,
        *,
        vocab_size: int,
        limits: SchedulerLimits | None = None,
        has_states: bool = False,
        drafts: DraftSource | None = None,
    ) -> None:
        self._runner = runner
        self._scheduler = Scheduler(
            "m",
            runner.shape,
            vocab_size=vocab_size,
            limits=limits or SchedulerLimits(),
            has_states=has_states,
            drafts=drafts,
        )
        self._number = 0
        self.tokens: dict[int, list[int]] = {}
        self.token_times: dict[int, list[float]] = {}
        self.step_s: list[float] = []
        self.run_s: list[float] = []

    def submit(
        self,
        tokens: list[int],
        max_tokens: int,
        matcher: GrammarMatcher | None = None,
        images: Sequence[PromptImage] = (),
        adapter: LoadedAdapter | None = None,
    ) -> int:
        """Queue a greedy request and return its number."""
        self._number += 1
        self.tokens[self._number] = []
        self.token_times[self._number] = []
        request = Submit(self._number, "m", tokens, max_tokens, GREEDY, [])
        assert self._scheduler.submit(request, 0.0, matcher, images, adapter) is None
        return self._number

    def step(self) -> bool:
        """Run one step; False when there was none to run."""
        started = time.perf_counter()
        plan = self._scheduler.plan()
        if plan is None:
            return False
        before = time.perf_counter()
        result = self._runner.run(plan)
        after = time.perf_counter()
        events = self._scheduler.apply(plan, result, after - before)
        now = time.perf_counter()
        for event in events:
            if isinstance(event, Tokens):
                self.tokens[event.id] += event.tokens
                self.token_times[event.id].append(now)
        self.run_s.append(after - before)
        self.step_s.append(now - started)
        return True

    def drain(self) -> None:
        while self.step():
            pass


def serve(engine: Engine, prompts: Sequence[list[int]], new: int) -> None:
    """Run all of `prompts` at once until each has `new` tokens."""
    for tokens in prompts:
        engine.submit(tokens, new)
    engine.drain()


def timed(work: Callable[[], object]) -> float:
    """The seconds that `work` takes, the device's part included."""
    started = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def alternate(budget: Budget, what: str, repeats: int, *sides: Callable[[], object]) -> list[float]:
    """The best time of each side, the sides taking turns.

    The first turn warms up and counts only where the budget has no time for another.
    """
    turns = [[timed(side) for side in sides] for _ in budget.rounds(1 + repeats, what)]
    return [min(times) for times in zip(*(turns[1:] or turns), strict=True)]


class Requests:
    """Requests that the engine runs together; `chosen` is the last token of each."""

    def __init__(self, runner: ModelRunner, vocab_size: int) -> None:
        self._new_engine = partial(Engine, runner, vocab_size=vocab_size)
        self._engine = self._new_engine()

    @property
    def chosen(self) -> list[int]:
        return [tokens[-1] for tokens in self._engine.tokens.values()]

    def start(self, prompts: Sequence[list[int]]) -> float:
        """Run new prompts, and return the seconds until each has its first token."""
        self._engine = engine = self._new_engine()
        for tokens in prompts:
            engine.submit(tokens, MOST_NEW)
        started = time.perf_counter()
        while not all(engine.tokens.values()):
            engine.step()
        return time.perf_counter() - started

    def steps(self, count: int) -> float:
        """Return the seconds that so many decode steps of all requests take."""
        return timed(lambda: [self._engine.step() for _ in range(count)])
