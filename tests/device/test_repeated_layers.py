"""Of layers that are alike transformers builds one, and the decoder has all of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers.models.llama.modeling_llama import LlamaDecoderLayer
from transformers.models.mixtral.modeling_mixtral import MixtralDecoderLayer
from transformers.models.qwen3.modeling_qwen3 import Qwen3DecoderLayer

from neuron.models.checkpoint import WEIGHTS, ModelLoadError
from tests.device.serving import decoder, prompt, texts
from tests.device.test_loading import edit_weights
from tests.device.zoo import save

WINDOWS = {
    "num_hidden_layers": 6,
    "use_sliding_window": True,
    "sliding_window": 8,
    "layer_types": ["full_attention", *["sliding_attention", "full_attention"] * 2, "sliding_attention"],
}
PROMPTS = {number: prompt(number, length) for number, length in enumerate((1, 5, 30))}


def built(monkeypatch: pytest.MonkeyPatch, layer_class: Any) -> list[int]:
    """The numbers of the layers of a class that are built from now on."""
    numbers: list[int] = []
    build = layer_class.__init__

    def note(self: Any, config: Any, layer_idx: int) -> None:
        numbers.append(layer_idx)
        build(self, config, layer_idx)

    monkeypatch.setattr(layer_class, "__init__", note)
    return numbers


@pytest.mark.parametrize(
    ("family", "layer_class", "changes", "count"),
    [
        ("llama", LlamaDecoderLayer, {"num_hidden_layers": 6}, 1),
        ("llama", LlamaDecoderLayer, {"num_hidden_layers": 1}, 1),
        ("qwen3", Qwen3DecoderLayer, WINDOWS | {"attention_bias": True}, 2),
    ],
)
def test_one_layer_of_each_kind_is_built_and_all_are_run(
    family: str,
    layer_class: Any,
    changes: dict[str, Any],
    count: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    path = save(tmp_path, family=family, **changes)
    general = decoder(path, "float32", fused=False)
    numbers = built(monkeypatch, layer_class)
    ours = decoder(path, "float32")
    assert numbers == [*range(count)]
    assert ours.layers == general.layers
    assert texts(ours, PROMPTS) == texts(general, PROMPTS)


def test_layers_with_experts_are_all_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = save(tmp_path, family="mixtral")
    numbers = built(monkeypatch, MixtralDecoderLayer)
    decoder(path)
    assert numbers == [0, 1, 2]


def test_what_is_wrong_with_a_repeated_layer_is_told_as_of_any(tmp_path: Path):
    save(tmp_path, num_hidden_layers=6)
    edit_weights(tmp_path / WEIGHTS, lambda tensors: tensors.pop("model.layers.4.mlp.up_proj.weight"))
    with pytest.raises(ModelLoadError, match=r"lacks model\.layers\.4\.mlp\.up_proj\.weight"):
        decoder(tmp_path)


def test_a_layer_beyond_the_configured_ones_is_refused(tmp_path: Path):
    save(tmp_path, num_hidden_layers=6)
    name = "model.layers.6.mlp.up_proj.weight"
    edit_weights(
        tmp_path / WEIGHTS, lambda tensors: tensors.update({name: tensors[name.replace("6", "5")].clone()})
    )
    with pytest.raises(ModelLoadError, match="num_hidden_layers is 6, but the weights have 7"):
        decoder(tmp_path)
