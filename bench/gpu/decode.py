"""Decode steps: tokens a second in every way, beside transformers, and their share of the device's best."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from functools import partial

import torch

from bench.engine.measures import bandwidth, multiply
from bench.engine.serving import prompt, timed
from bench.gpu.case import Case, LeftOutError, WrongError
from bench.gpu.lab import Counted, Lab, Sides, Way, num_bytes
from neuron.device.model_runner import ModelRunner

PROMPT = 128  # tokens


def cases(part: str, lab: Lab) -> Iterator[Case]:
    if lab.is_smoke and part == "decode-large":
        return  # the same again
    shape = "least" if lab.is_smoke else "4B" if part == "decode-large" else "0.6B"
    sides: list[Sides] = []

    def make() -> float:
        lab.require(2.5 * num_bytes(shape, lab.dtype))
        return timed(lambda: sides.append(lab.sides(shape)))

    yield Case(f"{shape}, making the weights", "s", "", make)
    if not sides:
        return
    best: dict[int, float] = {}  # tokens a second of the best way
    for way in [*lab.ways(sides[0].decoder), *lab.coded_ways(sides[0].decoder)]:
        yield from _cases_of(lab, sides[0], way, best)
    for requests in lab.batches:
        yield Case(f"{requests} at once", "tokens/s", "generate", partial(theirs, lab, sides[0], requests))
    for requests in lab.batches:
        if requests in best:
            step_s = requests / best[requests]
            share = partial(products, lab, sides[0], requests, step_s)
            yield Case(f"{requests} at once, products over step", "", "best", share)
    if 1 in best:
        share = partial(bandwidth_share, lab, sides[0], 1 / best[1])
        yield Case("1 at once, share of bandwidth", "", "best", share)


def _cases_of(lab: Lab, sides: Sides, way: Way, best: dict[int, float]) -> Iterator[Case]:
    runners: list[ModelRunner] = []
    capture = None if way.capture is None else Counted(way.capture)

    def start() -> float:
        seconds = timed(lambda: runners.append(lab.runner(sides.decoder, way._replace(capture=capture))))
        if capture is not None and not capture.count:
            raise WrongError(seconds, "decode steps cannot be captured")
        return seconds

    yield Case("cache" if capture is None else "cache and graphs", "s", way.name, start)
    for requests in lab.batches if runners else ():

        def measure(requests: int = requests) -> float:
            speed = ours(lab, runners[0], requests)
            best[requests] = max(speed, best.get(requests, 0.0))
            return speed

        yield Case(f"{requests} at once", "tokens/s", way.name, measure)
    runners.clear()
    lab.give_back()


def ours(lab: Lab, runner: ModelRunner, requests: int) -> float:
    """Tokens a second of decode steps, sampling and scheduling included."""
    steps = 4 if lab.is_smoke else 100
    engine = lab.engine(runner)
    numbers = [engine.submit(prompt(seed, PROMPT), steps + 64) for seed in range(requests)]
    while not all(len(engine.token_times[number]) > 4 for number in numbers):
        if not engine.step():
            raise LeftOutError("the cache is too small for so many")
    return requests / statistics.median(timed(engine.step) for _ in range(steps))


def theirs(lab: Lab, sides: Sides, requests: int) -> float:
    """Tokens a second of `generate`, its prefill subtracted."""
    new = 3 if lab.is_smoke else 33
    device = lab.device
    ids = torch.tensor([prompt(seed, PROMPT) for seed in range(requests)], device=device)

    def generate(count: int) -> None:
        sides.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=count,
            do_sample=False,
            eos_token_id=None,
        )

    generate(2)
    short, long = (timed(partial(generate, count)) for count in (1, new))
    return requests * (new - 1) / max(long - short, 1e-9)


def products(lab: Lab, sides: Sides, requests: int, step_s: float) -> float:
    """The time of a step's matrix products alone, captured where the device captures, over the step's."""
    decoder = sides.decoder
    like = torch.empty(0, dtype=decoder.activations, device=lab.device)
    pairs = [(layer, torch.randn(requests, layer.in_features).to(like)) for layer in decoder.linears]
    run: Callable[[], object] = partial(multiply, pairs)
    if lab.is_cuda:
        run = lab.capture()(lambda: multiply(pairs))
    run()
    return min(timed(run) for _ in range(10)) / step_s


def bandwidth_share(lab: Lab, sides: Sides, step_s: float) -> float:
    """The weights' bytes over the step's time, over the bytes a second that the memory gives."""
    block = 4 << 30 if lab.is_cuda else 64 << 20
    lab.require(block)
    return sides.step_bytes / step_s / bandwidth(lab.device, block)
