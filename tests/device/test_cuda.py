"""`pytest -m gpu`: the same texts on a CUDA device."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from neuron.pipe import Sampling
from tests.device.serving import GREEDY, decoder, prompt, texts
from tests.device.zoo import FAMILIES, save

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.mark.parametrize("family", FAMILIES)
def test_texts_are_those_of_the_cpu(family: str, tmp_path: Path):
    path = save(tmp_path, family)
    prompts = {length: prompt(length, length) for length in (3, 21, 70)}
    for sampling in (GREEDY, Sampling(temperature=1.0, top_p=0.9, seed=3)):
        assert texts(decoder(path, device="cuda:0"), prompts, sampling) == texts(
            decoder(path), prompts, sampling
        )
