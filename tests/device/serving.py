"""Scheduler, runner and a loaded model as the worker puts them together, driven to the end in one call."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from neuron.device.cuda_graphs import Capture
from neuron.device.model_runner import ModelRunner
from neuron.device.page_pool import Coding
from neuron.device.varlen import Kernel
from neuron.engine.drafter import DraftSource
from neuron.engine.request import LoadedAdapter
from neuron.engine.scheduler import Scheduler
from neuron.engine.scheduler_limits import SchedulerLimits
from neuron.models.decoder import AnyDecoder, load_decoder, model_dtype
from neuron.models.reading import read_checkpoint
from neuron.models.weights import LoadOptions
from neuron.pipe import (
    Finished,
    Logprob,
    Refused,
    Sampling,
    Scored,
    Submit,
    Tokens,
)
from neuron.step import CacheShape, PromptImage
from tests.device.zoo import VOCAB

GREEDY = Sampling()
SHAPE = CacheShape(num_pages=200, page_size=8, num_slots=32, context=256)


def decoder(
    path: Path, dtype: str | None = None, device: str = "cpu", *, fused: bool = True, **more: Any
) -> AnyDecoder:
    checkpoint = read_checkpoint(path)
    options = LoadOptions(
        model_dtype(checkpoint, dtype), torch.device(device), on_progress=lambda _: None, **more
    )
    return load_decoder(checkpoint, options, fused=fused)


def prompt(seed: int, length: int) -> list[int]:
    return torch.randint(3, VOCAB, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


class Serving:
    def __init__(
        self,
        loaded: AnyDecoder,
        shape: CacheShape = SHAPE,
        *,
        vocab: int = VOCAB,
        kernel: Kernel | None = None,
        capture: Capture | None = None,
        coding: Coding | None = None,
        drafts: DraftSource | None = None,
        **limits: Any,
    ) -> None:
        self.loaded = loaded
        bounds = SchedulerLimits(**{"max_running": shape.num_slots, "step_tokens": 48} | limits)
        self.scheduler = Scheduler(
            "m",
            shape,
            vocab_size=vocab,
            limits=bounds,
            has_states=bool(loaded.states),
            prompt_rule=loaded.prompt_rule,
            whole_images=loaded.whole_images,
            drafts=drafts,
        )
        self.runner = ModelRunner(
            loaded,
            loaded.layers,
            shape,
            kernel=kernel,
            capture=capture,
            states=loaded.states,
            coding=coding,
            drafts=drafts is not None,
        )
        self.tokens: dict[int, list[int]] = {}
        self.ends: dict[int, Finished | Refused] = {}
        self.num_joined = 0
        self.num_steps = 0
        self.num_scored = 0  # in the last step
        self.scores: dict[int, list[Logprob]] = defaultdict(list)

    def submit(
        self,
        number: int,
        tokens: list[int],
        sampling: Sampling = GREEDY,
        *,
        max_tokens: int = 24,
        images: Sequence[PromptImage] = (),
        adapter: LoadedAdapter | None = None,
        **options: Any,
    ) -> None:
        request = Submit(number, "m", tokens, max_tokens, sampling, **{"stop_ids": []} | options)
        self.tokens[number] = []
        assert self.scheduler.submit(request, 0.0, images=images, adapter=adapter) is None

    def step(self) -> None:
        plan = self.scheduler.plan()
        assert plan is not None
        self.num_joined += len(plan.joined)
        self.num_steps += 1
        self.num_scored = sum(len(chunk.scored) for chunk in plan.chunks)
        for event in self.scheduler.apply(plan, self.runner.run(plan), 0.1):
            if isinstance(event, Tokens):
                self.tokens[event.id] += event.tokens
            elif isinstance(event, Scored):
                self.scores[event.id] += event.logprobs
            else:
                self.ends[event.id] = event

    def drain(self) -> dict[int, list[int]]:
        while self.scheduler.has_work:
            self.step()
        self.scheduler.check()
        return self.tokens


def texts(
    loaded: AnyDecoder,
    prompts: Mapping[int, list[int]],
    sampling: Sampling = GREEDY,
    *,
    max_tokens: int = 24,
    **options: Any,
) -> dict[int, list[int]]:
    """The answers to all of `prompts`, served at once."""
    serving = Serving(loaded, **options)
    for number, tokens in prompts.items():
        serving.submit(number, tokens, sampling, max_tokens=max_tokens)
    return serving.drain()


def alone(loaded: AnyDecoder, tokens: list[int], max_tokens: int = 24) -> list[int]:
    """The answer to a prompt that is served by itself."""
    return texts(loaded, {0: tokens}, max_tokens=max_tokens)[0]


def check_preemption(loaded: AnyDecoder, tight: CacheShape) -> None:
    """Requests that `tight` has no room for at once get the answers that each gets by itself."""
    prompts = {seed: prompt(seed, 20) for seed in range(5)}
    serving = Serving(loaded, tight)
    for number, tokens in prompts.items():
        serving.submit(number, tokens, max_tokens=40)
    crowded = serving.drain()
    assert serving.num_joined > len(prompts)
    assert crowded == {number: alone(loaded, tokens, 40) for number, tokens in prompts.items()}


def check_small_chunks(loaded: AnyDecoder) -> None:
    """Prompts of any length that are read a few tokens at a time get the same answers."""
    prompts = {length: prompt(length, length) for length in (1, 2, 5, 30)}
    expected = {length: alone(loaded, tokens) for length, tokens in prompts.items()}
    shape = CacheShape(num_pages=200, page_size=8, num_slots=4, context=256)
    assert texts(loaded, prompts, shape=shape, step_tokens=5) == expected
