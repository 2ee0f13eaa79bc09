"""Prompts: tokens a second beside transformers and a plain matrix product, and the time to a first token."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

from bench.engine.measures import first_tokens_s
from bench.engine.serving import prompt, timed
from bench.gpu.case import Case
from bench.gpu.lab import STAND_IN, Lab, Sides, Way
from neuron.device.model_runner import ModelRunner


def cases(_: str, lab: Lab) -> Iterator[Case]:
    sides = lab.sides("least" if lab.is_smoke else "0.6B")
    speeds: list[float] = []

    def measure(runner: ModelRunner, step_tokens: int) -> float:
        speeds.append(ours(lab, runner, step_tokens))
        return speeds[-1]

    for way in _ways(lab, sides):
        runner = lab.runner(sides.decoder, way)
        for step_tokens in (512, 4096):
            yield Case(f"steps of {step_tokens}", "tokens/s", way.name, partial(measure, runner, step_tokens))
        yield from _first_tokens(lab, runner, way.name)
        del runner
        lab.give_back()
    yield Case("8 prompts at once", "tokens/s", "transformers", partial(theirs, lab, sides))
    yield Case("a plain product", "TFLOP/s", "torch", partial(product_flops, lab, 1e12))
    if speeds:
        yield Case("share of a plain product", "", "best", lambda: share(lab, sides, max(speeds)))


def _ways(lab: Lab, sides: Sides) -> list[Way]:
    """Those that differ for prompts; the stand-in is for decoding."""
    return [way for way in lab.ways(sides.decoder) if way.capture is None and way.name != STAND_IN]


def _prompts(lab: Lab) -> list[list[int]]:
    return [prompt(seed, 64 if lab.is_smoke else 1024) for seed in range(8)]


def ours(lab: Lab, runner: ModelRunner, step_tokens: int) -> float:
    """Tokens a second of prompts that nothing is cached of, at best of three times."""
    prompts = _prompts(lab)
    times = []
    for _ in range(3):
        engine = lab.engine(runner, step_tokens=step_tokens)
        for tokens in prompts:
            engine.submit(tokens, 1)
        times.append(timed(engine.drain))
    return sum(map(len, prompts)) / min(times)


def theirs(lab: Lab, sides: Sides) -> float:
    ids = torch.tensor(_prompts(lab), device=lab.device)
    forward = partial(sides.model, ids, logits_to_keep=1)
    return ids.numel() / min(timed(forward) for _ in range(3))


def product_flops(lab: Lab, unit: float = 1.0) -> float:
    """Operations a second of a large square matrix product."""
    side = 256 if lab.is_smoke else 8192 if lab.is_cuda else 1024
    left, right = (torch.randn(side, side, dtype=lab.dtype, device=lab.device) for _ in range(2))
    seconds = min(timed(lambda: left @ right) for _ in range(10))
    return 2 * side**3 / seconds / unit


def share(lab: Lab, sides: Sides, tokens_per_s: float) -> float:
    """Operations of the layers' weights alone, over those of a plain product."""
    weights = sum(weight.numel() for weight in sides.model.get_decoder().layers.parameters())
    return 2 * weights * tokens_per_s / product_flops(lab)


def _first_tokens(lab: Lab, runner: ModelRunner, way: str) -> Iterator[Case]:
    prefix = 200 if lab.is_smoke else 2000
    times: list[tuple[float, float]] = []

    def cold() -> float:
        times.extend(first_tokens_s(lab.engine(runner), prefix, seed) for seed in range(3))
        return 1e3 * min(first for first, _ in times)

    yield Case(f"first token after {prefix}", "ms", way, cold)
    if times:
        yield Case("the same, prefix cached", "ms", way, lambda: 1e3 * min(warm for _, warm in times))
