"""What a probe learns without weights is what it learns with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from neuron.models.architecture import decoder_class, read_config
from neuron.models.attention_interface import PROBE_NAME
from neuron.models.probe import probe_known, probe_model
from neuron.models.reading import read_checkpoint
from neuron.models.weights import LoadOptions, load_weights
from tests.device.serving import decoder
from tests.device.zoo import save

# Plain attention, windows, sinks with experts, latents, short convolutions, a delta rule, a state space.
FAMILIES = ["llama", "mistral", "gpt_oss", "deepseek_v3", "lfm2", "qwen3_next", "bamba"]


def probed(path: Path, probe: Any) -> Any:
    checkpoint = read_checkpoint(path)
    config = read_config(checkpoint)
    options = LoadOptions(torch.float32, torch.device("cpu"), on_progress=lambda _: None)
    model = load_weights(checkpoint, config, decoder_class(checkpoint, config), options, attention=PROBE_NAME)
    return probe(checkpoint, model, config.get_text_config(decoder=True))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_known_model_tells_as_much_without_its_weights(family: str, tmp_path: Path):
    save(tmp_path, family)
    known, seen = probed(tmp_path, probe_known), probed(tmp_path, probe_model)
    assert known.attention.layers == seen.attention.layers
    assert known.attention.spans == seen.attention.spans
    assert {name: params.scale for name, params in known.attention.params.items()} == {
        name: params.scale for name, params in seen.attention.params.items()
    }
    assert (known.states and known.states.shapes) == (seen.states and seen.states.shapes)
    assert (known.vocab_size, known.first_position, known.prompt_rule) == (seen.vocab_size, 0, None)


def test_a_load_reads_no_weights_of_a_known_model(tmp_path: Path):
    def spoil(model: torch.nn.Module) -> None:
        with torch.no_grad():
            for weight in model.parameters():
                weight.fill_(float("nan"))

    assert decoder(save(tmp_path, edit=spoil)).layers
