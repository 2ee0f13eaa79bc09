"""Layers with indexers attend to a few positions of a sequence; their keys live and go with its pages."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from neuron.device.kv_cache import bytes_per_token
from neuron.models.decoder import AnyDecoder
from neuron.models.memory_estimate import estimate_memory
from neuron.models.reading import read_checkpoint
from neuron.pipe import Finished, LoadFailed
from neuron.step import CacheShape
from tests.device.serving import Serving, alone, check_small_chunks, decoder, prompt, texts
from tests.device.test_bad_configurations import edited, load
from tests.device.zoo import save

# Choices of tokens, shared by layers; of blocks, by each key head; of entries that stand for several tokens;
# of pooled keys that are rotated by the positions of the whole sequence.
KINDS = ("glm_moe_dsa", "minimax_m3_vl_text", "deepseek_v4", "qwen4_exp_text")
TIGHT = CacheShape(num_pages=20, page_size=8, num_slots=8, context=128, num_snapshots=6)


@pytest.fixture(scope="module", params=KINDS)
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AnyDecoder:
    return decoder(save(tmp_path_factory.mktemp("model"), request.param))


def test_a_preemption_does_not_change_a_text(loaded: AnyDecoder):
    prompts = {seed: prompt(seed, 20) for seed in range(5)}
    serving = Serving(loaded, TIGHT)
    for number, tokens in prompts.items():
        serving.submit(number, tokens, max_tokens=40)
    crowded = serving.drain()
    assert serving.num_joined > len(prompts)
    assert crowded == texts(loaded, prompts, max_tokens=40)


def test_small_chunks_come_to_the_same_text(loaded: AnyDecoder):
    check_small_chunks(loaded)


def test_a_prefix_that_was_read_before_is_not_read_again(loaded: AnyDecoder):
    serving = Serving(loaded, TIGHT)
    first = prompt(1, 50)
    serving.submit(0, first)
    turn = [*first, *serving.drain()[0], *prompt(2, 9)]
    serving.submit(1, turn)
    assert serving.drain()[1] == alone(loaded, turn)
    (_, end) = serving.ends.values()
    assert isinstance(end, Finished)
    assert end.cached_tokens == 72


@pytest.mark.parametrize(
    ("family", "all_of_it"),
    [
        ("glm_moe_dsa", {"index_topk": 128}),
        ("minimax_m3_vl_text", {"index_topk_blocks": 64}),
        ("deepseek_v4", {"index_topk": 128}),
        ("qwen4_exp_text", {"indexer_budget": 128}),
    ],
)
def test_what_is_not_chosen_is_not_seen(family: str, all_of_it: dict[str, Any], tmp_path: Path):
    few, all_ = save(tmp_path / "few", family), save(tmp_path / "all", family, **all_of_it)
    prompts = {seed: prompt(seed, 40) for seed in range(4)}
    assert texts(decoder(few), prompts) != texts(decoder(all_), prompts)


@pytest.mark.parametrize("family", ["deepseek_v32", "minimax_m3_vl_text", "deepseek_v4"])
def test_bfloat16_runs(family: str, tmp_path: Path):
    loaded = decoder(save(tmp_path, family), "bfloat16")
    assert len(alone(loaded, prompt(0, 40))) == 24


def test_index_keys_are_counted(tmp_path: Path):
    path = save(tmp_path, "glm_moe_dsa")  # of three layers, two choose for themselves
    shapes = decoder(path).layers
    assert [shapes[layer].index_dim for layer in range(3)] == [16, 0, 16]
    without = {layer: replace(shape, index_dim=0) for layer, shape in shapes.items()}
    taken = [bytes_per_token(layers, torch.float32) for layers in (shapes, without)]
    assert taken[0] - taken[1] == 2 * 16 * 4
    estimates = [
        estimate_memory(
            read_checkpoint(edited(path, tmp_path / str(dim), index_head_dim=dim)),
            torch.float32, context=100, step_tokens=1, rows=1,
        ).cache
        for dim in (16, 48)
    ]  # fmt: skip
    assert estimates[1] - estimates[0] == 100 * 2 * 32 * 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"index_topk": 0}, "config.json: index_topk is 0, but layers with an indexer need 1 or more"),
        (
            {"index_head_dim": 32},
            r"model.safetensors: .*indexer.* has shape .* index_head_dim",
        ),
        (
            {"index_n_heads": 4},
            r"model.safetensors: .*indexer.* has shape .* index_n_heads",
        ),
        (
            {"indexer_types": ["full"] * 3},
            r"lacks .*layers.1.*indexer.*; correct .* indexer_types",
        ),
        ({"indexer_types": ["full"]}, "config.json: indexer_types names 1 of 3 layers; it must name all"),
        ({"indexer_types": ["shared"] * 3}, r"config.json: indexer_types\[0\] is shared, .* must be full"),
        ({"layer_types": ["full_attention"] * 3}, "its layer_types name no layer with an indexer"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_an_index_that_contradicts_the_weights_is_named(
    changes: dict[str, Any], message: str, tmp_path: Path
):
    answer = load(edited(save(tmp_path / "m", "glm_moe_dsa"), tmp_path / "edited", **changes))
    assert isinstance(answer, LoadFailed)
    assert re.search(message, answer.message), answer.message
