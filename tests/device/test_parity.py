from __future__ import annotations

from pathlib import Path

import pytest
import torch

from neuron.models.architecture import TESTED_FAMILIES
from neuron.pipe import Sampling
from tests.device.serving import Serving, decoder, prompt
from tests.device.zoo import FAMILIES, build, save

LENGTHS = (3, 21, 40, 70)  # one shorter than a page, one longer than a step
NEW = 24
PENALTY = 1.5  # for repetition: texts that say one thing again and again would compare little
PREFIXES = {"hrm_text"}  # whose prompts see themselves if a tokenizer says that they are prompts


def test_every_family_that_is_called_tested_has_a_parity_test():
    assert sorted(FAMILIES) == sorted(TESTED_FAMILIES)


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_texts_equal_those_of_generate(family: str, tmp_path: Path):
    reference = build(family)
    wanted = {}
    for length in LENGTHS:
        told = {"token_type_ids": torch.ones(1, length, dtype=torch.int64)} if family in PREFIXES else {}
        out = reference.generate(
            torch.tensor([prompt(length, length)]),
            attention_mask=torch.ones(1, length, dtype=torch.int64),
            **told,
            max_new_tokens=NEW,
            do_sample=False,
            eos_token_id=None,
            repetition_penalty=PENALTY,
        )
        wanted[length] = out[0, length:].tolist()
    serving = Serving(decoder(save(tmp_path / "model", family)))
    for length in LENGTHS:
        serving.submit(length, prompt(length, length), Sampling(repetition_penalty=PENALTY), max_tokens=NEW)
    assert serving.drain() == wanted
    assert (
        len({token for text in wanted.values() for token in text}) > 20
    )  # the texts could tell a difference


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma2", "gpt_oss", "minimax_m3_vl_text"])
def test_bfloat16_agrees_with_transformers(family: str, tmp_path: Path):
    """Rounding differs with the shape of a batch, so nearly all next tokens are equal, not all."""
    reference = build(family).to(torch.bfloat16)
    serving = Serving(decoder(save(tmp_path / "model", family), "bfloat16"))
    prompts = {seed: prompt(seed, 30) for seed in range(24)}
    for seed, tokens in prompts.items():
        serving.submit(seed, tokens, max_tokens=1)
    served = serving.drain()
    wanted = {s: [int(reference(torch.tensor([p])).logits[0, -1].argmax())] for s, p in prompts.items()}
    assert sum(served[seed] == wanted[seed] for seed in prompts) >= 20
