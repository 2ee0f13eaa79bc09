"""Experts' products agree with one product after the other, and contradictions of a routing are refused."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from torch.nn.functional import linear

from ext import matmul
from neuron.models.checkpoint import CONFIG, WEIGHTS, ModelLoadError
from neuron.models.decoder import TransformersDecoder
from neuron.models.formats import floats
from neuron.models.formats.floats import FLOATS
from neuron.models.fused.decoder import FusedDecoder
from neuron.models.fused.router import RuledRouter, find_router
from neuron.models.grouped_linear import pack_experts
from neuron.models.matrix import Groups, Matrix, stack
from tests.device.serving import decoder, prompt, texts
from tests.device.zoo import save

EXPERTS = 5
CHOSEN = torch.tensor([0, 0, 2, 4, 4, 4])  # two experts have no rows


@pytest.mark.parametrize("way", ["as here", "one by one", "at once"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("has_bias", [False, True])
def test_rows_are_multiplied_by_their_experts_matrices(
    way: str, dtype: torch.dtype, has_bias: bool, monkeypatch: pytest.MonkeyPatch
):
    if way != "as here":
        monkeypatch.setattr(floats, "_uses_ext", lambda *_: False)
    monkeypatch.setattr(floats, "_uses_grouped_mm", lambda _: way == "at once")
    torch.manual_seed(0)
    weight = torch.randn(EXPERTS, 16, 8, dtype=dtype)
    bias = torch.randn(EXPERTS, 16, dtype=dtype) if has_bias else None
    x = torch.randn(len(CHOSEN), 8).to(floats.activation_dtype(weight.device, dtype))
    layer = pack_experts(Matrix(FLOATS, (weight,), bias, 8))
    if way != "as here":
        assert layer.is_capturable == (way == "at once")
    found = layer(x, Groups(CHOSEN, EXPERTS))
    wanted = [
        linear(row.double(), weight[expert].double(), None if bias is None else bias[expert].double())
        for row, expert in zip(x, CHOSEN.tolist(), strict=True)
    ]
    rough = 1e-5 if dtype is torch.float32 else 2e-2
    torch.testing.assert_close(found.double(), torch.stack(wanted), rtol=rough, atol=5 * rough)


def test_matrices_in_a_row_have_zeros_for_a_bias_that_one_lacks():
    with_bias = Matrix(FLOATS, (torch.ones(2, 3),), torch.ones(2), 3)
    without = Matrix(FLOATS, (torch.ones(1, 3),), None, 3)
    both = stack((with_bias, without))
    assert both.blocks[0].shape == (3, 3)
    assert both.bias is not None
    assert both.bias.tolist() == [1, 1, 0]
    assert stack((without, without)).bias is None


@pytest.mark.parametrize("family", ["qwen3_moe", "glm4_moe"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_texts_are_nearly_those_of_transformers_layers(family: str, dtype: str, tmp_path: Path):
    """Rounding differs, so nearly all texts begin alike, not all."""
    path = save(tmp_path, family)
    ours, general = (decoder(path, dtype, fused=fused) for fused in (True, False))
    assert isinstance(ours, FusedDecoder)
    assert isinstance(general, TransformersDecoder)
    prompts = {number: prompt(number, 12 + number) for number in range(24)}
    found, wanted = (texts(loaded, prompts, max_tokens=2) for loaded in (ours, general))
    assert sum(found[number] == wanted[number] for number in prompts) >= 16


def facts_of(family: str) -> Any:
    plain = {"activations": torch.float32, "dtype": torch.float32, "device": torch.device("cpu")}
    return SimpleNamespace(config=SimpleNamespace(model_type=family), **plain)


def router(config_class: str, **changes: Any) -> Any:
    """A module with transformers' router of a family, and nothing else."""
    sizes = {"hidden_size": 32, "num_experts_per_tok": 3, "n_routed_experts": 8, "num_experts": 8}
    config = getattr(transformers, config_class)(**sizes | {"n_group": 4, "topk_group": 2} | changes)
    name = config_class.removesuffix("Config")
    modeling = import_module(f"transformers.models.{config.model_type}.modeling_{config.model_type}")
    gate = getattr(modeling, f"{name}TopkRouter", None) or getattr(modeling, f"{name}TopKRouter")
    torch.manual_seed(0)
    gate = gate(config)
    for parameter in gate.parameters():
        torch.nn.init.normal_(parameter)
    return SimpleNamespace(gate=gate)


@pytest.mark.skipif(matmul.load() is None, reason="ext.matmul is not built")
@pytest.mark.parametrize(
    ("family", "config_class", "changes"),
    [
        ("mistral4", "Mistral4Config", {}),
        ("mistral4", "Mistral4Config", {"norm_topk_prob": False, "routed_scaling_factor": 2.5}),
        ("deepseek_v2", "DeepseekV2Config", {"topk_method": "group_limited_greedy"}),
        ("deepseek_v2", "DeepseekV2Config", {"topk_method": "greedy", "routed_scaling_factor": 16.0}),
        ("lfm2_moe", "Lfm2MoeConfig", {"use_expert_bias": False}),
        ("lfm2_moe", "Lfm2MoeConfig", {"use_expert_bias": False, "norm_topk_prob": False}),
        ("qwen3_moe", "Qwen3MoeConfig", {"norm_topk_prob": False}),
        ("deepseek_v3", "DeepseekV3Config", {"norm_topk_prob": False}),
    ],
)
def test_a_familys_rule_chooses_as_its_router_does(family: str, config_class: str, changes: dict[str, Any]):
    module = router(config_class, **changes)
    x = torch.randn(50, 32)
    _, weights, experts = module.gate(x)
    ours = find_router(module, facts_of(family))
    assert isinstance(ours, RuledRouter)
    found_weights, found = ours(x)
    spread = torch.zeros(50, 8)
    torch.testing.assert_close(
        spread.scatter(1, found, found_weights), spread.scatter(1, experts, weights), rtol=1e-4, atol=1e-6
    )


@pytest.mark.skipif(matmul.load() is None, reason="ext.matmul is not built")
def test_a_router_that_chooses_otherwise_than_its_rule_is_kept(caplog: pytest.LogCaptureFixture):
    module = router("DeepseekV3Config")
    ours = find_router(module, facts_of("qwen3_moe"))
    assert not isinstance(ours, RuledRouter)
    assert "the rule of its family gives others" in caplog.text
    x = torch.randn(5, 32)
    assert torch.equal(ours(x)[1], module.gate(x)[2])


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        ("qwen3_moe", {"num_experts_per_tok": 5}, "num_experts_per_tok is 5, but must be from 1 to 4"),
        ("mixtral", {"num_experts_per_tok": 0}, "num_experts_per_tok is 0, but must be from 1 to 4"),
        ("gpt_oss", {"num_experts_per_tok": -1}, "num_experts_per_tok is -1, but must be from 1 to 4"),
        ("glm4_moe", {"n_group": 3}, "n_group is 3, which does not divide n_routed_experts, 8"),
        ("glm4_moe", {"n_group": 0}, "n_group is 0, which does not divide n_routed_experts, 8"),
        ("glm4_moe", {"topk_group": 5}, "topk_group is 5, but must be from 1 to 4, as n_group is 4"),
    ],
)
def test_a_routing_that_cannot_be_is_refused(
    family: str, changes: dict[str, Any], message: str, tmp_path: Path
):
    file = save(tmp_path, family) / CONFIG
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    with pytest.raises(ModelLoadError, match="correct it") as caught:
        decoder(tmp_path)
    assert caught.value.code == "model_broken"
    assert f"{file}: {message}" in caught.value.message


@pytest.mark.parametrize(
    ("family", "changes", "tensor"),
    [
        ("mixtral", {"num_local_experts": 6}, "model.layers.0.mlp.experts.down_proj"),
        ("gpt_oss", {"num_local_experts": 3}, "model.layers.0.mlp.experts.down_proj"),
        ("glm4_moe", {"n_routed_experts": 4}, "model.layers.1.mlp.experts.down_proj"),
        ("glm4_moe", {"n_shared_experts": 2}, "model.layers.1.mlp.shared_experts.down_proj.weight"),
        ("qwen3_moe", {"num_attention_heads": 8}, "model.layers.0.self_attn.o_proj.weight"),
        ("qwen3_moe", {"num_key_value_heads": 1}, "model.layers.0.self_attn.k_proj.weight"),
    ],
)
def test_counts_that_contradict_the_weights_are_refused(
    family: str, changes: dict[str, Any], tensor: str, tmp_path: Path
):
    file = save(tmp_path, family) / CONFIG
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    with pytest.raises(ModelLoadError) as caught:
        decoder(tmp_path)
    assert caught.value.code == "model_broken"
    assert f"{tmp_path / WEIGHTS}: {tensor} has shape" in caught.value.message
    ((key, value),) = changes.items()
    assert f"; {file}: {key} is {value}, but the weights have" in caught.value.message
