"""Asks helexa-tiny everything that it was taught, in the dtypes in which it is served.

The answers are fed in, and each token is compared with the model's first choice. If all agree, greedy
decoding gives exactly these tokens. The margin is the smallest lead, in logits, of a right token over the
runner-up: it is what another kernel's or batch's rounding may use up.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from neuron.models.tiny import Handbook
from neuron.models.tiny.examples import Encoded, encode, exam

BATCH_TOKENS = 8192
SAFE_MARGIN = 1.0  # logits; bfloat16 rounds them by some 0.1


@dataclass(frozen=True, slots=True)
class Score:
    """The result of an exam. `weak` has the questions with a wrong answer or less than a safe margin."""

    exact: int
    asked: int
    margin: float
    weak: frozenset[str]

    def __str__(self) -> str:
        return f"{self.exact}/{self.asked} exact, margin {self.margin:.2f}"


def batches(examples: list[Encoded], budget: int) -> Iterator[list[Encoded]]:
    """Yield batches of examples of similar length, of at most `budget` tokens with padding."""
    batch: list[Encoded] = []
    for example in sorted(examples, key=lambda example: len(example.ids)):
        if batch and len(example.ids) * (len(batch) + 1) > budget:
            yield batch
            batch = []
        batch.append(example)
    if batch:
        yield batch


def collate(batch: list[Encoded], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids and learned, both (batch, longest), padded on the right."""
    longest = max(len(example.ids) for example in batch)
    ids = [example.ids + [pad] * (longest - len(example.ids)) for example in batch]
    learned = [example.learned + [False] * (longest - len(example.ids)) for example in batch]
    return torch.tensor(ids), torch.tensor(learned)


@torch.inference_mode()
def leads(model: Any, ids: torch.Tensor, learned: torch.Tensor) -> torch.Tensor:
    """Return a learned token's smallest lead over all others, (batch,); negative where it is not first."""
    logits: torch.Tensor = model(input_ids=ids, use_cache=False).logits[:, :-1].float()
    wanted = ids[:, 1:, None]
    right = logits.gather(-1, wanted)
    others = logits.scatter(-1, wanted, -torch.inf).amax(-1, keepdim=True)
    lead = (right - others)[..., 0].masked_fill(~learned[:, 1:], torch.inf)
    return torch.amin(lead, -1)


def score(model: Any, examples: list[Encoded], pad: int) -> Score:
    found = [
        (example.question, lead)
        for batch in batches(examples, BATCH_TOKENS)
        for example, lead in zip(batch, leads(model, *collate(batch, pad)).tolist(), strict=True)
    ]
    return Score(
        exact=sum(lead > 0 for _, lead in found),
        asked=len(found),
        margin=min(lead for _, lead in found),
        weak=frozenset(question for question, lead in found if lead < SAFE_MARGIN),
    )


def verify(directory: Path, handbook: Handbook) -> bool:
    """Print a line per dtype and surrounding, and return whether every answer is exact."""
    tokenizer = AutoTokenizer.from_pretrained(directory)
    exact = True
    for dtype in (torch.bfloat16, torch.float32):
        model = AutoModelForCausalLM.from_pretrained(directory, dtype=dtype).eval()
        for name, cases in exam(handbook).items():
            examples = [encode(tokenizer, case) for case in cases]
            result = score(model, examples, tokenizer.pad_token_id)
            exact &= result.exact == result.asked
            print(f"{str(dtype).removeprefix('torch.')}, {name}: {result}", flush=True)  # noqa: T201 - a script
    return exact
