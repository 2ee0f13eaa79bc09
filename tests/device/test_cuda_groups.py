"""A model that is split over two GPUs, whose parts NCCL adds up."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.device.ranks import group, links, part
from tests.device.serving import Serving, decoder, prompt

pytestmark = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="takes two GPUs")
DEVICES = [torch.device("cuda", index) for index in range(2)]


def served(serving: Serving) -> dict[int, list[int]]:
    for length in (3, 21, 70):
        serving.submit(length, prompt(length, length), max_tokens=12)
    return serving.drain()


def test_two_gpus_write_what_one_writes(llama: Path):
    parts = [part(llama, rank, 2, device=device) for rank, device in enumerate(DEVICES)]
    with links(2, DEVICES) as made:
        texts = served(group(parts, made))
    assert texts == served(Serving(decoder(llama, device="cuda:0")))
