"""The fused decoder agrees with transformers' own code, and takes no other shapes."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import pytest
import torch

from neuron.device.attention import use_backend
from neuron.models.attention_interface import AttentionProbe
from neuron.models.decoder import TransformersDecoder
from neuron.models.fused.decoder import FusedDecoder
from tests.device.serving import decoder, prompt, texts
from tests.device.zoo import save

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 128}
WINDOWS = {
    "use_sliding_window": True,
    "sliding_window": 8,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
}

SHAPES: list[tuple[str, dict[str, Any]]] = [
    ("llama", {}),
    ("llama", {"attention_bias": True, "mlp_bias": True}),
    ("llama", {"num_key_value_heads": 4, "tie_word_embeddings": True}),
    ("llama", {"num_key_value_heads": 1, "head_dim": 32}),
    ("llama", {"rope_parameters": LLAMA3}),
    ("llama", {"rope_parameters": YARN}),
    ("llama", {"hidden_act": "gelu"}),
    ("mistral", {}),
    ("mistral", {"sliding_window": None}),
    ("qwen2", {}),
    ("qwen2", WINDOWS),
    ("qwen3", {}),
    ("qwen3", WINDOWS | {"attention_bias": True}),
    ("deepseek_v2", {"rope_parameters": YARN}),
    ("deepseek_v2", {"q_lora_rank": 24, "topk_method": "group_limited_greedy"}),
    ("deepseek_v3", {}),
    ("deepseek_v3", {"q_lora_rank": None, "attention_bias": True, "rope_interleave": False}),
    ("glm4_moe_lite", {}),
    ("youtu", {}),
]
PROMPTS = {number: prompt(number, length) for number, length in enumerate((1, 5, 30, 61))}


@pytest.mark.parametrize(("family", "changes"), SHAPES)
def test_fused_greedy_texts_equal_those_of_transformers_decoder(
    family: str, changes: dict[str, Any], tmp_path: Path
):
    path = save(tmp_path, family=family, **changes)
    ours, general = decoder(path, "float32"), decoder(path, "float32", fused=False)
    assert isinstance(ours, FusedDecoder)
    assert isinstance(general, TransformersDecoder)
    assert ours.layers == general.layers
    assert (ours.vocab_size, ours.context, ours.num_embeddings) == (
        general.vocab_size,
        general.context,
        general.num_embeddings,
    )
    assert texts(ours, PROMPTS) == texts(general, PROMPTS)


@pytest.mark.parametrize("family", ["llama", "qwen3", "youtu"])
def test_fused_bfloat16_logits_are_close(family: str, tmp_path: Path):
    path = save(tmp_path, family=family)
    ours, general = (_logits(decoder(path, "bfloat16", fused=fused)) for fused in (True, False))
    exact = _logits(decoder(path, "float32", fused=False))
    error, usual = (ours - exact).abs().max(), (general - exact).abs().max()
    assert error < 2 * usual + 0.05


def _logits(loaded: Any) -> torch.Tensor:
    """The logits after each token of one prompt, without a cache."""
    tokens = torch.tensor(PROMPTS[2])
    places = torch.arange(len(tokens))
    with torch.inference_mode(), use_backend(AttentionProbe()):
        return loaded(tokens, places, places)


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("gemma2", {}),
        ("phi3", {}),
        ("olmo2", {}),
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}}),
    ],
)
def test_other_shapes_are_left_to_transformers(family: str, changes: dict[str, Any], tmp_path: Path):
    assert isinstance(decoder(save(tmp_path, family=family, **changes)), TransformersDecoder)


def linears() -> list[torch.nn.Linear]:
    """All of the process with a weight, those that other tests left behind included."""
    gc.collect()
    return [o for o in gc.get_objects() if type(o) is torch.nn.Linear and o.weight is not None]


def test_weights_are_not_held_twice(tmp_path: Path):
    before = linears()
    loaded = decoder(save(tmp_path, family="llama"), "float32")
    assert isinstance(loaded, FusedDecoder)
    others = {id(linear) for linear in before}
    assert [linear for linear in linears() if id(linear) not in others] == []
