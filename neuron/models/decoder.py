"""From a checkpoint to a decoder on the device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from neuron.device.model import ImageEmbeddings, VisionEncoder
from neuron.device.state_pool import StateName, StateShape
from neuron.models.architecture import (
    TESTED_VISION_FAMILIES,
    context_length,
    decoder_class,
    read_config,
)
from neuron.models.attention_interface import ATTENTION_NAME, INDEXED_NAME, PROBE_NAME, use_spans
from neuron.models.checkpoint import CONFIG, Checkpoint, ModelLoadError
from neuron.models.fused.decoder import FusedDecoder, fuse_decoder, insert_image_embeddings
from neuron.models.image_input import ImageProcessor
from neuron.models.indexer_interface import IndexedStates
from neuron.models.probe import Probe, check_continuation, probe_model
from neuron.models.state_interface import StatefulModule, cache_argument
from neuron.models.weights import LoadOptions, load_weights

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_STORED_DTYPES = {"F64": "float32", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


class TransformersDecoder:
    """A `neuron.device.model.DecoderModel` that runs transformers' own code."""

    is_capturable = False  # experts are chosen and masks made on the way

    def __init__(self, model: Any, probe: Probe, *, context: int) -> None:
        self._model = model
        self._spans = probe.attention.spans
        self.layers = probe.attention.layers
        self.states: Mapping[StateName, StateShape] = probe.states.shapes if probe.states else {}
        self._cache_argument = cache_argument(model) if probe.states or probe.has_indexers else None
        self.vocab_size = probe.vocab_size
        self.context = context  # tokens that the model was made for
        self.num_embeddings: int = model.get_input_embeddings().num_embeddings
        self.dtype: torch.dtype = model.dtype
        self.device: torch.device = model.device
        self.vision_encoder: VisionEncoder | None = None
        self.image_processor: ImageProcessor | None = None

    def __call__(
        self,
        tokens: Tensor,
        positions: Tensor,
        logits_indices: Tensor,
        image_embeddings: ImageEmbeddings = (),
    ) -> Tensor:
        inputs: dict[str, Any] = {"input_ids": tokens[None]}
        if image_embeddings:
            embedded = self._model.get_input_embeddings()(tokens)
            inputs = {"inputs_embeds": insert_image_embeddings(embedded, image_embeddings)[None]}
        if self._cache_argument:
            inputs[self._cache_argument] = IndexedStates()
        with use_spans(self._spans):
            out = self._model(
                **inputs, position_ids=positions[None], use_cache=False, logits_to_keep=logits_indices
            )
        logits: Tensor = out.logits[0]
        return logits.float()


AnyDecoder = TransformersDecoder | FusedDecoder


def model_dtype(checkpoint: Checkpoint, configured: str | None = None) -> torch.dtype:
    """Return the dtype to compute in: the configured one, else `config.json`'s, else the weights' own."""
    named = configured or checkpoint.config.get("dtype") or checkpoint.config.get("torch_dtype")
    name = str(named).removeprefix("torch.")
    if named in {None, "auto"}:
        name = _STORED_DTYPES[checkpoint.dtype]
    if name not in DTYPES:
        cause = f"dtype {named!r} is not one of {', '.join(DTYPES)}"
        raise ModelLoadError("model_unsupported", f"{checkpoint.path / CONFIG}: {cause}")
    return DTYPES[name]


def load_decoder(checkpoint: Checkpoint, options: LoadOptions, *, fused: bool = True) -> AnyDecoder:
    """Return the decoder of a checkpoint, loaded and probed. Raises ModelLoadError.

    Unless `fused`, transformers' own code runs the model, whatever its shape.
    """
    config = read_config(checkpoint)
    text_config = config.get_text_config(decoder=True)
    has_vision = options.images and config.model_type in TESTED_VISION_FAMILIES
    cls = decoder_class(checkpoint, config)
    attention = _attention(PROBE_NAME, has_vision=has_vision)
    model = load_weights(checkpoint, config, cls, options, attention=attention)
    probe = probe_model(checkpoint, model, text_config)
    name = INDEXED_NAME if probe.has_indexers else ATTENTION_NAME
    model.set_attn_implementation(_attention(name, has_vision=has_vision))
    context = context_length(text_config)
    vision = None
    if has_vision:
        # Imported here because it takes a second and needs an image library.
        from neuron.models.vision import load_vision  # noqa: PLC0415

        vision = load_vision(model, checkpoint.path)
    decoder: AnyDecoder | None = None
    if fused:
        decoder = fuse_decoder(model, text_config, probe, context=context)
    if decoder is None:
        decoder = TransformersDecoder(model, probe, context=context)
    if probe.states or probe.has_indexers:
        keeping = probe.states.modules if probe.states and not isinstance(decoder, FusedDecoder) else ()
        check_continuation(checkpoint, decoder, probe, [*map(StatefulModule, keeping)])
    if vision:
        decoder.image_processor, decoder.vision_encoder = vision
    return decoder


def _attention(name: str, *, has_vision: bool) -> str | dict[str, str]:
    """Return the attention of each part of a model: `name` for its text."""
    return {"": name, "text_config": name, "vision_config": "sdpa"} if has_vision else name
