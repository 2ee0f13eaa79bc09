"""What it takes to draw the tokens of a step, by the rules that requests may have."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

from bench.engine.serving import timed
from bench.gpu.case import Case
from bench.gpu.lab import LEAST, REAL, Lab
from neuron.device.sampler import Sampler
from neuron.pipe import Sampling
from neuron.step import Draw, Joined

RULES = {
    "greedy": Sampling(),
    "temperature": Sampling(temperature=1.0),
    "top_p": Sampling(temperature=1.0, top_p=0.9),
    "top_k": Sampling(temperature=1.0, top_k=50),
    "penalties": Sampling(repetition_penalty=1.1, presence_penalty=0.1),
    "logprobs": Sampling(top_logprobs=5),
}


def cases(_: str, lab: Lab) -> Iterator[Case]:
    rows = max(lab.batches)
    vocab = (LEAST if lab.is_smoke else REAL)["vocab_size"]
    half = b"\x55" * -(-vocab // 8)  # every other token
    measure = partial(sampling_ms, lab, rows, vocab)
    for name, rules in RULES.items():
        yield Case(f"{name}, {rows} rows", "ms", "", partial(measure, rules, Draw(0.5)))
    guided = Draw(0.5, allowed=half)
    yield Case(f"guided, {rows} rows", "ms", "", partial(measure, RULES["greedy"], guided))


def sampling_ms(lab: Lab, rows: int, vocab: int, rules: Sampling, draw: Draw) -> float:
    """The least of ten draws, for fresh logits each."""
    sampler = Sampler(rows, vocab, lab.device)
    for slot in range(rows):
        sampler.join(Joined(slot, rules, (1, 2, 3), (), ()))
    logits = torch.randn(rows, vocab, device=lab.device)

    def once() -> float:
        fresh = logits.clone()
        lab.synchronize()
        return timed(lambda: sampler.sample(fresh, range(rows), [draw] * rows))

    once()
    return 1e3 * min(once() for _ in range(2 if lab.is_smoke else 10))
