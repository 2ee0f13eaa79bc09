"""A configuration that contradicts its weights is refused with file, key and cure."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from neuron.models.checkpoint import CONFIG, ModelLoadError
from tests.device.serving import decoder
from tests.device.zoo import save

_ATTENTION = ("hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim", "vocab_size")
_EXPERTS = ("num_local_experts", "moe_intermediate_size", "num_hidden_layers")

# Of families of each kind: the sizes of their heads, experts and states.
SIZES = {
    "llama": (*_ATTENTION, "intermediate_size", "num_hidden_layers"),
    "qwen3_moe": (*_ATTENTION, *_EXPERTS),
    "gpt_oss": ("num_local_experts", "intermediate_size", "num_attention_heads"),
    "deepseek_v3": ("kv_lora_rank", "qk_nope_head_dim", "v_head_dim", "n_routed_experts"),
    "deepseek_v32": ("index_n_heads", "index_head_dim"),
    "mamba": ("hidden_size", "state_size", "conv_kernel", "num_hidden_layers"),
    "falcon_h1": ("mamba_d_state", "mamba_n_groups", "mamba_d_conv", "num_key_value_heads"),
    "qwen3_next": (
        "linear_num_value_heads",
        "linear_key_head_dim",
        "linear_num_key_heads",
        "linear_conv_kernel_dim",
        "num_experts",
        "shared_expert_intermediate_size",
    ),
    "lfm2": ("conv_L_cache", "hidden_size"),
    "recurrent_gemma": ("lru_width", "conv1d_width"),
    "diffllama": ("num_key_value_heads", "head_dim"),
}
CASES = [(family, key) for family, keys in SIZES.items() for key in keys]


def refusal(path: Path, key: str, value: int) -> ModelLoadError:
    file = path / CONFIG
    file.write_text(json.dumps(json.loads(file.read_text()) | {key: value}))
    with pytest.raises(ModelLoadError) as raised:
        decoder(path)
    return raised.value


@pytest.mark.parametrize(("family", "key"), CASES, ids=[f"{family} {key}" for family, key in CASES])
def test_a_size_that_contradicts_the_weights_is_named(family: str, key: str, tmp_path: Path):
    save(tmp_path, family)
    right = json.loads((tmp_path / CONFIG).read_text())[key]
    message = refusal(tmp_path, key, 2 * right).message
    assert f"{tmp_path / CONFIG}: {key} is {2 * right}, but the weights have {right}" in message
    assert "correct it" in message or "allow_unexpected_tensors" in message


def test_a_size_of_the_text_part_is_named_with_its_place(tmp_path: Path):
    text = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
    text |= {"num_key_value_heads": 2, "head_dim": 16, "vocab_size": 64, "model_type": "llama"}
    vision = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision |= {"image_size": 28, "patch_size": 14, "model_type": "clip_vision_model"}
    config = transformers.LlavaConfig(text_config=text, vision_config=vision, image_token_index=60)
    transformers.LlavaForConditionalGeneration(config).save_pretrained(tmp_path)
    text = json.loads((tmp_path / CONFIG).read_text())["text_config"] | {"intermediate_size": 64}
    file = tmp_path / CONFIG
    file.write_text(json.dumps(json.loads(file.read_text()) | {"text_config": text}))
    with pytest.raises(
        ModelLoadError, match=r"text_config\.intermediate_size is 64, but the weights have 48"
    ):
        decoder(tmp_path)


@pytest.mark.parametrize("key", ["num_key_value_heads", "head_dim", "vocab_size"])
def test_a_size_of_nothing_is_named(key: str, tmp_path: Path):
    save(tmp_path)
    assert f"{tmp_path / CONFIG}: {key} is 0; correct it" in refusal(tmp_path, key, 0).message


def test_a_configuration_of_many_numbers_is_refused_as_soon_as_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    save(tmp_path)
    file = tmp_path / CONFIG
    numbers = {f"number_{index}": 1 for index in range(2000)}
    file.write_text(json.dumps(numbers | json.loads(file.read_text())))
    builds: list[object] = []
    init = transformers.LlamaForCausalLM.__init__

    def counted(self: object, config: object) -> None:
        builds.append(config)
        init(self, config)

    monkeypatch.setattr(transformers.LlamaForCausalLM, "__init__", counted)
    assert "has shape" in refusal(tmp_path, "intermediate_size", 128).message
    assert len(builds) < 300


def test_two_sizes_at_once_name_the_tensor_alone(tmp_path: Path):
    save(tmp_path)
    refusal(tmp_path, "vocab_size", 256)
    message = refusal(tmp_path, "intermediate_size", 128).message
    assert "has shape" in message
    assert "but the weights have" not in message


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(family=st.sampled_from(["llama", "qwen3_moe", "falcon_h1"]), data=st.data())
def test_whatever_a_size_says_the_load_fails_or_the_model_is_whole(
    family: str, data: st.DataObject, tmp_path: Path
):
    if not (tmp_path / family).exists():
        save(tmp_path / family, family)
    original = (tmp_path / family / CONFIG).read_text()
    config = json.loads(original)
    numbers = sorted(k for k, v in config.items() if isinstance(v, int) and not isinstance(v, bool))
    key, value = data.draw(st.sampled_from(numbers)), data.draw(st.integers(-2, 300))
    (tmp_path / family / CONFIG).write_text(json.dumps(config | {key: value}))
    try:
        decoder(tmp_path / family)
    except ModelLoadError as error:
        assert str(tmp_path) in error.message  # noqa: PT017 - it may load as well
    finally:
        (tmp_path / family / CONFIG).write_text(original)
