"""Adapters over a model that is split over ranks, each of which adds its part."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from neuron.engine.request import LoadedAdapter
from neuron.models.adapters.lora_file import read_adapter
from neuron.models.checkpoint import ModelLoadError
from neuron.models.tensor_parallel.adapters import split_adapter
from neuron.models.tensor_parallel.rank import RankDecoder
from tests.device.lora import ALL, merge, save_adapter
from tests.device.ranks import group, links, part
from tests.device.serving import prompt
from tests.device.zoo import build, save

NEW = 12
PROMPTS = {number: prompt(number, 20 + 3 * number) for number in range(3)}
# Which linear modules change, and over how many ranks.
KINDS = {
    "llama": (ALL, 4),  # ranks share heads of keys
    "qwen2": (ALL, 2),  # biases
    "qwen3_5_text": (rf"{ALL}|.*linear_attn\.(out_proj|in_proj_.*)", 2),  # outputs in sections
    "qwen3_moe": (r".*self_attn\.(q_proj|k_proj|v_proj|o_proj)", 2),
    "phi3": (r".*(qkv_proj|o_proj|gate_up_proj|down_proj)", 2),  # transformers' own layers
    "olmoe": (r".*self_attn\.(q_proj|o_proj)", 2),  # whole on every rank
}


def generated(model: Any, tokens: list[int]) -> list[int]:
    out = model.generate(
        torch.tensor([tokens]), max_new_tokens=NEW, do_sample=False, eos_token_id=None, pad_token_id=0
    )
    text: list[int] = out[0, len(tokens) :].tolist()
    return text


def load_adapter(decoder: RankDecoder, path: Path, number: int) -> None:
    assert decoder.adapters
    decoder.adapters.add(split_adapter(read_adapter(path), decoder.part), number)


@pytest.mark.parametrize("family", KINDS)
def test_texts_of_a_group_are_those_of_merged_models(family: str, tmp_path: Path):
    pattern, ranks = KINDS[family]
    plain = build(family)
    paths = {n: save_adapter(tmp_path / f"{n}", plain, n, rank=3 + n, pattern=pattern) for n in (1, 2)}
    wanted = {n: generated(merge(build(family), path, 2.0), PROMPTS[n]) for n, path in paths.items()}
    wanted[0] = generated(plain, PROMPTS[0])
    model = save(tmp_path / "model", family)
    parts = [part(model, rank, ranks) for rank in range(ranks)]
    for decoder in parts:
        for number, path in paths.items():
            load_adapter(decoder, path, number)
    with links(ranks) as made:
        serving = group(parts, made)
        for number, tokens in PROMPTS.items():
            adapter = LoadedAdapter(number, bytes([number])) if number else None
            serving.submit(number, tokens, max_tokens=NEW, adapter=adapter)
        assert serving.drain() == wanted
    assert len({tuple(text) for text in wanted.values()}) == 3


def test_an_adapter_for_another_model_fits_no_part(tmp_path: Path):
    path = save_adapter(tmp_path / "a", build("llama", hidden_size=32))
    with pytest.raises(ModelLoadError, match="as a matrix of"):
        load_adapter(part(save(tmp_path / "model", "llama"), 1, 2), path, 0)
