"""No configuration, whatever it says, ends the worker: it loads, or the load fails with a cause."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from neuron.models.checkpoint import CONFIG
from neuron.pipe import Load, Loaded, LoadFailed
from neuron.worker.loop import DeviceLoop
from neuron.worker.model_pool import ModelPool, WorkerSettings
from tests.device.test_embedding import describe
from tests.device.test_loop import FakeChannel
from tests.device.zoo import save

# What neuron itself reads of config.json; transformers reads more.
KEYS = (
    "architectures", "dtype", "head_dim", "hidden_act", "hidden_size", "intermediate_size",
    "is_encoder_decoder", "layer_types", "max_position_embeddings", "model_type", "num_attention_heads",
    "num_hidden_layers",
    "num_key_value_heads", "original_max_position_embeddings", "quantization_config", "rms_norm_eps",
    "rope_parameters", "sliding_window", "text_config", "tie_word_embeddings", "torch_dtype", "vocab_size",
)  # fmt: skip
INNER_KEYS = [*KEYS, "rope_type", "quant_method", "__float__"]
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 1 << 40)
    | st.floats()
    | st.sampled_from(["", "llama", "bert", "float16", "longrope", "sliding_attention"])
    | st.just({"__float__": "Infinity"}),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(INNER_KEYS), inner, max_size=3)
    ),
    max_leaves=5,
)


def load(path: Path) -> Loaded | LoadFailed:
    channel = FakeChannel([Load("m", str(path))], *[()] * 2)
    pool = ModelPool(torch.device("cpu"), WorkerSettings(kv_mb=1))
    DeviceLoop(pool, channel, clock=lambda: channel.now).run()  # type: ignore[arg-type]
    (answer,) = [message for message in channel.sent if isinstance(message, (Loaded, LoadFailed))]
    return answer


def edited(source: Path, target: Path, **changes: Any) -> Path:
    shutil.copytree(source, target, dirs_exist_ok=True)
    file = target / CONFIG
    file.write_text(json.dumps(json.loads((source / CONFIG).read_text()) | changes))
    return target


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(changes=st.dictionaries(st.sampled_from(KEYS), JSON, min_size=1, max_size=2))
def test_any_configuration_loads_or_fails(changes: dict[str, Any], llama: Path, tmp_path: Path):
    answer = load(edited(llama, tmp_path / "model", **changes))
    assert isinstance(answer, Loaded) or (answer.code and str(tmp_path) in answer.message)


@pytest.fixture(scope="session")
def deepseek(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("deepseek") / "model", "deepseek_v3")


def test_no_quantization_is_none(llama: Path, tmp_path: Path):
    assert isinstance(load(edited(llama, tmp_path, quantization_config=None)), Loaded)


@pytest.mark.parametrize(
    ("changes", "code", "message"),
    [
        ({"text_config": "llama"}, "model_broken", "text_config is not a JSON object"),
        ({"model_type": ["llama"]}, "model_broken", "model_type is not a name"),
        (
            {"quantization_config": "awq"},
            "model_broken",
            "quantization_config is 'awq', but must",
        ),
        (
            {"text_config": {"quantization_config": {"quant_method": "awq"}}},
            "model_unsupported",
            r"text_config.quantization_config.bits is None, which does not run; 4 would",
        ),
        (
            {"num_hidden_layers": 10**9},
            "model_broken",
            "num_hidden_layers is 1000000000, but the weights are 30 tensors",
        ),
        ({"hidden_act": "nope"}, "model_broken", r"KeyError: 'nope'; correct what config.json says"),
        ({"dtype": {"a": 1}}, "model_unsupported", r"config.json: dtype {'a': 1} is not one of"),
        ({"max_position_embeddings": -5}, "model_broken", "max_position_embeddings is -5, but must be"),
    ],
    ids=[
        "text_config",
        "model_type",
        "quantization",
        "nested quantization",
        "layers",
        "activation",
        "dtype",
        "positions",
    ],
)
def test_what_a_configuration_says_wrongly_is_named(
    changes: dict[str, Any], code: str, message: str, llama: Path, tmp_path: Path
):
    answer = load(edited(llama, tmp_path, **changes))
    assert isinstance(answer, LoadFailed)
    assert answer.code == code
    assert re.search(message, answer.message)


@pytest.mark.parametrize(
    ("changes", "tensor", "cure"),
    [
        ({"kv_lora_rank": 24}, "kv_a_layernorm.weight", "kv_lora_rank is 24, but the weights have 32"),
        ({"qk_rope_head_dim": 16}, "kv_a_proj_with_mqa.weight", "qk_rope_head_dim is 16, but"),
        ({"num_attention_heads": 8}, "kv_b_proj.weight", "num_attention_heads is 8, but the weights have 4"),
        ({"v_head_dim": 16}, "kv_b_proj.weight", "v_head_dim is 16, but the weights have 12"),
        ({"q_lora_rank": 16}, "q_a_layernorm.weight", "q_lora_rank is 16, but the weights have 24"),
        ({"q_lora_rank": None}, "q_proj.weight", "correct what config.json says .* by .*q_lora_rank"),
    ],
)
def test_sizes_of_latents_that_contradict_the_weights_are_named(
    changes: dict[str, Any], tensor: str, cure: str, deepseek: Path, tmp_path: Path
):
    answer = load(edited(deepseek, tmp_path / "model", **changes))
    assert isinstance(answer, LoadFailed)
    assert answer.code == "model_broken"
    assert re.search(rf"{tmp_path}.*{tensor}.*; .*{cure}", answer.message)


@pytest.mark.parametrize(
    ("family", "key", "wrong", "right"),
    [
        ("qwen3_next", "linear_num_value_heads", 8, 4),
        ("qwen3_next", "linear_key_head_dim", 0, 16),
        ("qwen3_5_text", "linear_conv_kernel_dim", 3, 4),
        ("lfm2", "conv_L_cache", 4, 3),
        ("bamba", "mamba_d_state", 16, 8),
        ("mamba2", "state_size", 16, 8),
    ],
)
def test_sizes_of_states_that_contradict_the_weights_are_named(
    family: str, key: str, wrong: int, right: int, tmp_path: Path
):
    answer = load(edited(save(tmp_path / "model", family), tmp_path / "edited", **{key: wrong}))
    assert isinstance(answer, LoadFailed)
    assert answer.code == "model_broken"
    assert answer.message.endswith(f"{key} is {wrong}, but the weights have {right}; correct it")


def test_a_layer_that_keeps_a_state_where_another_is_expected_is_named(tmp_path: Path):
    types = ["full_attention", "full_attention", "linear_attention"]
    answer = load(edited(save(tmp_path / "model", "qwen3_5_text"), tmp_path / "edited", layer_types=types))
    assert isinstance(answer, LoadFailed)
    assert answer.code == "model_broken"
    assert re.search("lacks model.layers.0.self_attn.* by layer_types", answer.message)


def test_an_embedding_model_with_a_text_part_loads_or_is_refused_by_name(tmp_path: Path):
    text = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
    text |= {"num_key_value_heads": 2, "head_dim": 16, "vocab_size": 64}
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}
    vision = {"depth": 1, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "out_hidden_size": 32}
    vision |= {"deepstack_visual_indexes": [0]}
    sees = transformers.Qwen3VLConfig(text_config=text | {"rope_parameters": rope}, vision_config=vision)
    transformers.Qwen3VLModel(sees).save_pretrained(tmp_path / "qwen3_vl")
    answer = load(describe(tmp_path / "qwen3_vl", "last"))
    assert isinstance(answer, Loaded), answer
    assert answer.dimensions == 32
    vision = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    clip = transformers.CLIPConfig(text_config=text, vision_config=vision)
    transformers.CLIPModel(clip).save_pretrained(tmp_path / "clip")
    answer = load(describe(tmp_path / "clip", "mean"))
    assert isinstance(answer, LoadFailed)
    assert "clip makes no hidden states of text alone" in answer.message
