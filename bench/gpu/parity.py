"""Whether the engine says on this device what transformers says, in every way in which it can attend.

Prompts of several lengths are answered greedily; transformers then reads prompt and answer in one go, and
says how probable each token of the answer was. A wrong page, position or mask moves that by far more than
rounding does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import torch

from bench.engine.serving import prompt
from bench.gpu.case import Case, WrongError
from bench.gpu.lab import Lab, Sides, Way, make_sides
from neuron.device.model_runner import ModelRunner
from neuron.engine.scheduler import Scheduler
from neuron.engine.scheduler_limits import SchedulerLimits
from neuron.pipe import Sampling, Submit, Tokens
from neuron.step import CacheShape

LENGTHS = (1, 7, 40, 130, 300)  # shorter than a page, and longer than several
NEW = 24
# Of log-probabilities, in natural units.
TOLERANCE = {torch.float32: 0.003, torch.bfloat16: 0.1}
# Larger than a fresh model's weights: else all tokens are about equally probable whatever is attended to.
SPREAD = 0.1


def cases(_: str, lab: Lab) -> Iterator[Case]:
    lengths = LENGTHS[:3] if lab.is_smoke else LENGTHS
    for dtype in TOLERANCE:
        shape = "least" if lab.is_smoke else "0.6B"
        sides = make_sides(shape, dtype, lab.device, num_hidden_layers=2, initializer_range=SPREAD)
        for way in lab.ways(sides.decoder):
            name = f"{str(dtype).removeprefix('torch.')}, difference to transformers"
            yield Case(name, "nats", way.name, partial(difference, sides, way, lengths))


def difference(sides: Sides, way: Way, lengths: Sequence[int] = LENGTHS) -> float:
    """The mean difference of a token's log-probability, of the answer where it is largest.

    Raises `WrongError` where it is more than rounding.
    """
    shape = CacheShape(num_pages=160, page_size=way.page_size, num_slots=8, context=384)
    if way.page_size > 16:
        shape = CacheShape(num_pages=24, page_size=way.page_size, num_slots=8, context=512)
    runner = ModelRunner(sides.decoder, sides.decoder.layers, shape, kernel=way.kernel, capture=way.capture)
    vocab_size = sides.decoder.vocab_size
    prompts = [prompt(length, length, vocab_size) for length in lengths]
    answered = answers(runner, prompts, vocab_size)
    largest = 0.0
    for tokens, (answer, logprobs) in zip(prompts, answered, strict=True):
        wanted = reference(sides, tokens, answer)
        largest = max(largest, (torch.tensor(logprobs) - wanted).abs().mean().item())
    allowed = TOLERANCE[sides.decoder.dtype]
    if not largest <= allowed:
        raise WrongError(largest, f"more than {allowed}")
    return largest


def answers(
    runner: ModelRunner, prompts: list[list[int]], vocab_size: int
) -> list[tuple[list[int], list[float]]]:
    """The tokens that the engine answers each prompt with, all at once, and their log-probabilities."""
    scheduler = Scheduler(
        "m", runner.shape, vocab_size=vocab_size, limits=SchedulerLimits(max_running=8, step_tokens=64)
    )
    for number, tokens in enumerate(prompts):
        request = Submit(number, "m", tokens, NEW, Sampling(top_logprobs=0), [])
        assert scheduler.submit(request, 0.0) is None
    found: list[tuple[list[int], list[float]]] = [([], []) for _ in prompts]
    while (plan := scheduler.plan()) is not None:
        for event in scheduler.apply(plan, runner.run(plan), 0.01):
            if isinstance(event, Tokens):
                found[event.id][0].extend(event.tokens)
                found[event.id][1].extend(logprob.chosen for logprob in event.logprobs)
    return found


def reference(sides: Sides, tokens: list[int], answer: list[int]) -> torch.Tensor:
    """The log-probabilities that transformers gives to `answer` after `tokens`."""
    ids = torch.tensor([tokens + answer], device=sides.decoder.device)
    logits = sides.model(ids, use_cache=False).logits[0, len(tokens) - 1 : -1].float()
    chosen = torch.tensor(answer, device=logits.device)[:, None]
    return logits.log_softmax(-1).gather(1, chosen)[:, 0].cpu()
