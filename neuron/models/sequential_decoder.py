from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from neuron.device.kv_cache import KVShape
from neuron.device.state_pool import StateName, StateShape
from neuron.models.adapters.bank import AdapterBank


class SequentialDecoder:
    """What `DecoderModel`s have in common that run transformers' own code, one sequence after another."""

    is_capturable = False
    runs_rows_alone = False
    adapters: AdapterBank | None = None  # their layers see no flat batch
    vision_encoder = None
    image_processor = None
    whole_images = False
    prompt_rule = None

    def __init__(
        self,
        model: Any,
        *,
        layers: Mapping[int, KVShape],
        states: Mapping[StateName, StateShape],
        vocab_size: int,
        context: int,
    ) -> None:
        self._model = model
        self.layers = layers
        self.states = states
        self.vocab_size = vocab_size
        self.context = context  # tokens that the model was made for
        self.num_embeddings: int = model.get_input_embeddings().num_embeddings
        self.dtype: torch.dtype = model.dtype
        self.device: torch.device = model.device
